"""The API: health, metrics, series, anomalies and incidents over HTTP, described by OpenAPI."""

from __future__ import annotations

import re
import threading
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from otel_aiops.errors import BadInput, ConfigError, Overloaded, StateError, TooLarge, WrongType
from otel_aiops.server import feedback_api, incident_api, lifecycle_api, response_api, token_api, webhook_api
from otel_aiops.server.access import Access, Gate
from otel_aiops.server.access.roles import NEEDS, PROBE, Needs
from otel_aiops.server.asking import FURTHEST, in_own_name, integer, page, posted, posted_json, required
from otel_aiops.server.feedback_api import FeedbackBackend
from otel_aiops.server.incident_api import IncidentBackend
from otel_aiops.server.lifecycle_api import LifecycleBackend
from otel_aiops.server.openapi import allowed, described, strict
from otel_aiops.server.response_api import ResponseBackend
from otel_aiops.server.shield import Shield
from otel_aiops.server.web import Pages, wants_page
from otel_aiops.server.webhook_api import Doorkeeper, WebhookBackend, WebhooksConfig

Handler = Callable[[Request, Exception], Response]

FINGERPRINT = re.compile("[0-9a-fA-F]{16}")
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Orchestrators ask these without credentials.
OPEN_PATHS = frozenset({"/", *(one.split()[1] for one in NEEDS[PROBE].split(","))})


class Backend(Protocol):
    """What the API shows and does; every method may be called from any thread."""

    def not_ready(self) -> str | None:
        """Why the service cannot take telemetry now, or None when it can."""

    def status(self) -> dict[str, Any]: ...

    def metrics(self) -> bytes: ...

    def anomalies(self, *, limit: int, offset: int = 0) -> dict[str, Any]: ...

    def alerts(self, *, limit: int, offset: int = 0) -> dict[str, Any]: ...

    def budgets(self) -> dict[str, Any]: ...

    def objectives(self) -> dict[str, Any]: ...

    def verdicts(self, *, limit: int, offset: int = 0) -> dict[str, Any]: ...

    def judge(self, tree: Any) -> dict[str, Any]:
        """Take in one verdict or a list of them."""

    def services(self) -> dict[str, Any]: ...

    def series(self, *, after: int, limit: int, source: bool) -> dict[str, Any]: ...

    def search(self, words: str, service: str, *, after: int, limit: int) -> dict[str, Any]:
        """The same, of those with all words in their name, service or labels, of all services or of one."""

    def quality(self) -> dict[str, Any]: ...

    def pulse(self) -> dict[str, int]:
        """Numbers that are others when something has changed, by what; cheap, and from any thread at any time."""

    def explain(self, fingerprint: int) -> dict[str, Any] | None: ...

    def why(self, series: str, time: str) -> dict[str, Any]: ...

    def forecast(self, series: str, asked: dict[str, str]) -> dict[str, Any]: ...

    def backfill(self, body: bytes, compression: str) -> dict[str, Any]: ...

    def selftest(self) -> dict[str, Any] | None: ...

    def datasets(self) -> dict[str, Any]: ...

    def dataset(self, name: str) -> dict[str, Any] | None: ...


class Desk(IncidentBackend, LifecycleBackend, FeedbackBackend, ResponseBackend, WebhookBackend, Protocol):
    """All that is looked after at the desk."""


def build(
    backend: Backend,
    desk: Desk,
    access: Access | None,
    max_body_bytes: int,
    *,
    closing: threading.Event | None = None,
    webhooks: WebhooksConfig | None = None,
    hosts: Collection[str] | None = None,
) -> Starlette:
    """The ASGI application; without `access` nobody must sign in. `hosts` are all that it answers to, None is any.

    `closing` is set when the server is to end, and then what would answer without end does.
    """
    routes = _Routes(backend, max_body_bytes)
    access = access or Access(None, None, Path())
    pages = Pages(backend, desk, closing or threading.Event(), access)
    webhook_keeper = Doorkeeper(webhooks or WebhooksConfig(), guarded=not access.open)

    def first(request: Request) -> Awaitable[Response]:
        return pages.overview(request) if wants_page(request) else routes.ready(request)

    def problem(status: int) -> Handler:
        return _for_people(pages, status, _problem(status))

    known: list[BaseRoute] = [
        Route("/", _described(first, routes.ready)),
        *pages.routes(),
        *strict(_api(routes, desk, webhook_keeper, access, max_body_bytes)),
    ]
    pages.site.needs = needs = Needs(known)
    return Starlette(
        routes=known,
        middleware=[
            Middleware(Shield, hosts=hosts, refused=access.refused),
            Middleware(Gate, access=access, needs=needs, tell=pages.site.problem),
        ],
        exception_handlers={
            BadInput: problem(400),
            ConfigError: problem(400),  # of a value in a query
            StateError: problem(409),  # what is kept is not what was written
            TooLarge: problem(413),
            WrongType: problem(415),
            Overloaded: _for_people(pages, 503, _overloaded),
            404: _for_people(pages, 404, _not_found),
            HTTPException: _for_people(pages, 405, _refused),
        },
    )


def _api(of: _Routes, desk: Desk, doorkeeper: Doorkeeper, access: Access, max_body_bytes: int) -> list[Route]:
    """What programs ask, in the order of the documents."""
    return [
        Route("/-/healthy", of.healthy),
        Route("/-/ready", of.ready),
        Route("/metrics", of.metrics),
        Route("/api/v1/status", of.status),
        Route("/api/v1/anomalies", of.anomalies),
        Route("/api/v1/alerts", of.alerts),
        Route("/api/v1/budgets", of.budgets),
        Route("/api/v1/objectives", of.objectives),
        Route("/api/v1/objectives/{name}", of.objective),
        Route("/api/v1/verdicts", of.verdicts, methods=["GET"]),
        Route("/api/v1/verdicts", of.judge, methods=["POST"]),
        *incident_api.routes(desk, max_body_bytes),
        *lifecycle_api.routes(desk, max_body_bytes),
        *feedback_api.routes(desk, max_body_bytes),
        *response_api.routes(desk, max_body_bytes),
        *webhook_api.routes(desk, doorkeeper, max_body_bytes),
        *token_api.routes(access, max_body_bytes),
        Route("/api/v1/services", of.services),
        Route("/api/v1/quality", of.quality),
        Route("/api/v1/series", of.series),
        Route("/api/v1/series/{fingerprint}", of.explain),
        Route("/api/v1/explain", of.why),
        Route("/api/v1/forecast", of.forecast),
        Route("/api/v1/backfill", of.backfill, methods=["POST"]),
        Route("/api/v1/selftest", of.selftest),
        Route("/api/v1/datasets", of.datasets),
        Route("/api/v1/datasets/{id}", of.dataset),
        Route("/api/v1/openapi.json", of.openapi, include_in_schema=False),
    ]


class _Routes:
    def __init__(self, backend: Backend, max_body_bytes: int) -> None:
        self._backend = backend
        self._max_body_bytes = max_body_bytes
        self._document: bytes | memoryview | None = None

    async def healthy(self, request: Request) -> Response:
        """
        summary: The process is up.
        responses: {200: {description: up, text: text/plain}}
        """
        return PlainTextResponse("otel-aiops is healthy\n")

    async def ready(self, request: Request) -> Response:
        """
        summary: The service takes telemetry.
        responses:
          200: {description: ready, text: text/plain}
          503: {description: not ready and why, text: text/plain}
        """
        why = self._backend.not_ready()
        if why:
            return PlainTextResponse(f"otel-aiops is not ready: {why}\n", 503, {"Retry-After": "1"})
        return PlainTextResponse("otel-aiops is ready\n")

    async def metrics(self, request: Request) -> Response:
        """
        summary: Scores and own telemetry in Prometheus text format; scrape it with honor_labels.
        responses: {200: {description: Prometheus text format 0.0.4, text: text/plain}}
        """
        return Response(await run_in_threadpool(self._backend.metrics), media_type=METRICS_TYPE)

    async def status(self, request: Request) -> Response:
        """
        summary: What is received, known and scored, and where state is kept.
        responses: {200: {description: what it does and has done since the start, returns: Status}}
        """
        return JSONResponse(await run_in_threadpool(self._backend.status))

    async def anomalies(self, request: Request) -> Response:
        """
        summary: The series that are over their threshold now, the strangest first, each with its reason.
        parameters: [limit, offset]
        responses: {200: {description: a page of them, returns: Anomalies}}
        """
        return await _paged(request, self._backend.anomalies)

    async def alerts(self, request: Request) -> Response:
        """
        summary: The series that have an alert under their budget, the highest first, with threshold and reason.
        parameters: [limit, offset]
        responses: {200: {description: a page of them, returns: Alerts}}
        """
        return await _paged(request, self._backend.alerts)

    async def budgets(self, request: Request) -> Response:
        """
        summary: Every alert budget, the alerts that are wanted a week beside those that were and those to come.
        parameters: [limit, offset]
        responses: {200: {description: "a page of them, the default one last", returns: Budgets}}
        """
        return await _cut(request, "budgets", self._backend.budgets)

    async def objectives(self, request: Request) -> Response:
        """
        summary: Every objective with its hash, its series in scope, and its alerts of the last week against its budget.
        parameters: [limit, offset]
        responses: {200: {description: a page of them, returns: Objectives}}
        """
        return await _cut(request, "objectives", self._backend.objectives)

    async def objective(self, request: Request) -> Response:
        """
        summary: One objective by its name.
        responses: {200: {description: the objective, returns: Objective}, 404: {description: no such objective}}
        """
        name = request.path_params["name"]
        found = (await run_in_threadpool(self._backend.objectives))["objectives"]
        named = [one for one in found if one["name"] == name]
        if not named:
            there = ", ".join(one["name"] for one in found) or "none"
            return JSONResponse({"error": f"no objective is called {name}; there are {there}"}, 404)
        return JSONResponse(named[0])

    async def verdicts(self, request: Request) -> Response:
        """
        summary: The newest verdicts of operators, and what they have moved.
        parameters: [limit, offset]
        responses: {200: {description: "a page of them, the newest first", returns: Verdicts}}
        """
        return await _paged(request, self._backend.verdicts)

    async def judge(self, request: Request) -> Response:
        """
        summary: Say what an alert was (real, false, duplicate, expected), or that one was missed; thresholds follow.
        requestBody:
          content:
            application/json:
              schema:
                anyOf:
                  - {$ref: '#/components/schemas/VerdictAsked'}
                  - {type: array, minItems: 1, maxItems: 1000, items: {$ref: '#/components/schemas/VerdictAsked'}}
        responses: {200: {description: what was learned, returns: Learned}}
        """
        asked = await posted_json(request, self._max_body_bytes, "a verdict, or a list of them,")
        tree = in_own_name(request, asked, "by")
        return JSONResponse(await run_in_threadpool(lambda: self._backend.judge(tree)))

    async def services(self, request: Request) -> Response:
        """
        summary: The services whose series were looked at together, the strangest first, with what contributed and why.
        parameters: [limit, offset]
        responses: {200: {description: a page of them, returns: Services}}
        """
        return await _cut(request, "services", self._backend.services)

    async def series(self, request: Request) -> Response:
        """
        summary: The scored series, a page at a time.
        parameters:
          - {name: limit, schema: {type: integer, minimum: 1, maximum: 10000, default: 1000}}
          - offset
          - {name: format, schema: {type: string, enum: [labels, source], default: labels}}
          - {name: search, schema: {type: string}, description: "words of the name, service or labels"}
          - {name: service, schema: {type: string}, description: only this one's}
        responses: {200: {description: a page of them, returns: AllSeries}}
        """
        after = integer(request, "offset", 0, FURTHEST) - 1  # the row before the first one that is wanted
        limit = integer(request, "limit", 1000, 10_000, least=1)
        form = request.query_params.get("format", "labels")
        if form not in ("labels", "source"):
            raise BadInput(f"format: expected labels or source, got {form!r}")
        words, service = (request.query_params.get(name, "") for name in ("search", "service"))
        if (words or service) and form == "source":
            raise BadInput("format: expected labels with `search` or `service`, got 'source'")
        if words or service:
            look = partial(self._backend.search, words, service, after=after, limit=limit)
        else:
            look = partial(self._backend.series, after=after, limit=limit, source=form == "source")
        found = await run_in_threadpool(look)
        following = None if found["next"] is None else found["next"] + 1
        return JSONResponse({"total": None, **found, "next": following})

    async def quality(self, request: Request) -> Response:
        """
        summary: What the stream of every service is like since the start, gaps to two senders, and who fills the table.
        parameters: [limit, offset]
        responses: {200: {description: "a page of services, and `series`: the table of series", returns: Quality}}
        """
        return await _cut(request, "services", self._backend.quality)

    async def explain(self, request: Request) -> Response:
        """
        summary: One series by its fingerprint, with its last score, band and reason, its alerts and verdicts.
        responses: {200: {description: the series, returns: OneSeries}, 404: {description: no such series}}
        """
        text = request.path_params["fingerprint"]
        if not FINGERPRINT.fullmatch(text):
            raise BadInput(f"fingerprint: expected 16 hexadecimal digits, got {text[:100]!r}")
        fingerprint = int(text, 16)
        found = await run_in_threadpool(lambda: self._backend.explain(fingerprint))
        if found is None:
            return JSONResponse({"error": f"no series has the fingerprint {text}"}, 404)
        return JSONResponse(found)

    async def why(self, request: Request) -> Response:
        """
        summary: Why a series had its score at a time, with the points around it and similar moments.
        parameters:
          - {name: series, required: true, schema: {type: string, minLength: 1}, description: "fingerprint, or a name"}
          - {name: time, schema: {type: string, default: now}, description: "ISO 8601, now or -2h"}
        responses:
          200: {description: why, returns: Explanation}
          400: {description: "not exactly one series, or no point then"}
        """
        series, time = required(request, "series"), request.query_params.get("time", "now")
        return JSONResponse(await run_in_threadpool(lambda: self._backend.why(series, time)))

    async def forecast(self, request: Request) -> Response:
        """
        summary: What is to come of a series, with interval, method and skill, and when it reaches a limit.
        parameters:
          - {name: series, required: true, schema: {type: string, minLength: 1}, description: "fingerprint, or a name"}
          - {name: horizon, schema: {type: string, default: 1d}}
          - {name: step, schema: {type: string}, description: "as 5m; without it, by the horizon"}
          - {name: limit, schema: {type: number}, description: say when this value is reached}
          - {name: direction, schema: {type: string, enum: [above, below], default: above}}
        responses:
          200: {description: what is to come, returns: Forecast}
          400: {description: "not exactly one series, or too few points"}
        """
        series, asked = required(request, "series"), dict(request.query_params)
        return JSONResponse(await run_in_threadpool(lambda: self._backend.forecast(series, asked)))

    async def backfill(self, request: Request) -> Response:
        """
        summary: Learn series anew from their past; the body is an OTLP metrics request with all their history.
        requestBody: {required: false, content: {application/x-protobuf: {schema: {type: string, format: binary}}}}
        responses: {200: {description: how many points were learned, returns: Backfilled}}
        """
        body = await posted(request, self._max_body_bytes)
        compression = request.headers.get("content-encoding", "identity")
        return JSONResponse(await run_in_threadpool(lambda: self._backend.backfill(body, compression)))

    async def selftest(self, request: Request) -> Response:
        """
        summary: The newest self-test, what it found of each fault that it put in, and what is wrong in plain words.
        responses: {200: {description: the report, returns: SelfTest}, 404: {description: no test has ended yet}}
        """
        report = await run_in_threadpool(self._backend.selftest)
        if report is None:
            return JSONResponse({"error": "no self-test has ended yet"}, 404)
        return JSONResponse(report)

    async def datasets(self, request: Request) -> Response:
        """
        summary: The datasets that models may learn from, the newest first, and what the quality gate says of each.
        parameters: [limit, offset]
        responses: {200: {description: "a page of them, and `damaged`: those that cannot be read", returns: Datasets}}
        """
        return await _cut(request, "datasets", self._backend.datasets)

    async def dataset(self, request: Request) -> Response:
        """
        summary: One dataset by its id, the whole manifest with segments, labels, exclusions and profile.
        responses: {200: {description: the dataset, returns: Dataset}, 404: {description: no such dataset}}
        """
        name = request.path_params["id"]
        found = await run_in_threadpool(lambda: self._backend.dataset(name))
        if found is None:
            return JSONResponse({"error": f"no dataset has the id {name}"}, 404)
        return JSONResponse(found)

    async def openapi(self, request: Request) -> Response:
        if self._document is None:  # it takes a moment, and is always the same
            self._document = JSONResponse(await run_in_threadpool(described, request.app.routes)).body
        return Response(self._document, media_type="application/json")


async def _paged(request: Request, find: Callable[..., dict[str, Any]]) -> Response:
    """A page of a list of which the backend makes no more."""
    wanted = page(request)
    found = await run_in_threadpool(partial(find, limit=wanted.limit, offset=wanted.offset))
    return JSONResponse(wanted.of(found))


async def _cut(request: Request, key: str, find: Callable[[], dict[str, Any]]) -> Response:
    """A page of a short list."""
    wanted = page(request)
    return JSONResponse(wanted.cut(await run_in_threadpool(find), key))


def _for_people(pages: Pages, status: int, plain: Handler) -> Handler:
    """What went wrong: as a page where a browser asked for one, else as programs read it."""

    def answer(request: Request, error: Exception) -> Response:
        if not wants_page(request) or request.url.path.startswith("/api/"):
            return plain(request, error)
        message = "There is nothing here." if status == 404 else str(getattr(error, "detail", error))
        return pages.site.problem(request, status, message)

    return answer


def _described(asked: Callable[[Request], Awaitable[Response]], as_by: Any) -> Callable[..., Awaitable[Response]]:
    """An endpoint that is described as another one."""

    async def endpoint(request: Request) -> Response:
        return await asked(request)

    endpoint.__doc__ = as_by.__doc__
    return endpoint


def _problem(status: int) -> Handler:
    def answer(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(getattr(error, "detail", error))}, status)

    return answer


def _refused(request: Request, error: Exception) -> Response:
    status, headers = getattr(error, "status_code", 500), dict(getattr(error, "headers", None) or {})
    if status == 405:
        headers["Allow"] = allowed(request.app.routes, request.url.path)
    return JSONResponse({"error": str(getattr(error, "detail", error))}, status, headers)


def _overloaded(request: Request, error: Exception) -> Response:
    wait_s = getattr(error, "retry_after_s", 1.0)
    return JSONResponse({"error": str(error)}, 503, {"Retry-After": str(max(1, round(wait_s)))})


def _not_found(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"nothing is at {request.url.path}; see /api/v1/openapi.json"}, 404)
