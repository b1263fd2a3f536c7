"""The API: health, metrics, series, anomalies and incidents over HTTP, described by OpenAPI."""

from __future__ import annotations

import re
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.schemas import SchemaGenerator

from otel_aiops import __version__
from otel_aiops.errors import BadInput, ConfigError, Overloaded, StateError, TooLarge, Unauthorized
from otel_aiops.server import feedback_api, incident_api, lifecycle_api, response_api, webhook_api
from otel_aiops.server.asking import integer, posted, posted_json, required
from otel_aiops.server.auth import user_of
from otel_aiops.server.feedback_api import FeedbackBackend
from otel_aiops.server.incident_api import IncidentBackend
from otel_aiops.server.lifecycle_api import LifecycleBackend
from otel_aiops.server.response_api import ResponseBackend
from otel_aiops.server.shield import Shield
from otel_aiops.server.web import Pages, wants_page
from otel_aiops.server.webhook_api import Doorkeeper, WebhookBackend, WebhooksConfig

Handler = Callable[[Request, Exception], Response]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPEN_PATHS = frozenset({"/", "/-/healthy", "/-/ready"})  # orchestrators ask these without credentials


class Backend(Protocol):
    """What the API shows and does; every method may be called from any thread."""

    def not_ready(self) -> str | None:
        """Why the service cannot take telemetry now, or None when it can."""

    def status(self) -> dict[str, Any]: ...

    def metrics(self) -> bytes: ...

    def anomalies(self, *, limit: int) -> dict[str, Any]: ...

    def alerts(self, *, limit: int) -> dict[str, Any]: ...

    def budgets(self) -> dict[str, Any]: ...

    def objectives(self) -> dict[str, Any]: ...

    def verdicts(self, *, limit: int) -> dict[str, Any]: ...

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
    authenticate: Callable[[str | None], None] | None,
    max_body_bytes: int,
    *,
    closing: threading.Event | None = None,
    webhooks: WebhooksConfig | None = None,
) -> Starlette:
    """The ASGI application. `authenticate` takes the Authorization header and raises Unauthorized.

    `closing` is set when the server is to end, and then what would answer without end does.
    """
    routes = _Routes(backend, max_body_bytes)
    pages = Pages(backend, desk, closing or threading.Event())
    middleware = [Middleware(Shield)]
    middleware += [Middleware(_Guard, authenticate=authenticate)] if authenticate else []

    def first(request: Request) -> Awaitable[Response]:
        return pages.overview(request) if wants_page(request) else routes.ready(request)

    def problem(status: int) -> Handler:
        return _for_people(pages, status, _problem(status))

    return Starlette(
        routes=[
            Route("/", _described(first, routes.ready)),
            *pages.routes(),
            Route("/-/healthy", routes.healthy),
            Route("/-/ready", routes.ready),
            Route("/metrics", routes.metrics),
            Route("/api/v1/status", routes.status),
            Route("/api/v1/anomalies", routes.anomalies),
            Route("/api/v1/alerts", routes.alerts),
            Route("/api/v1/budgets", routes.budgets),
            Route("/api/v1/objectives", routes.objectives),
            Route("/api/v1/objectives/{name}", routes.objective),
            Route("/api/v1/verdicts", routes.verdicts, methods=["GET"]),
            Route("/api/v1/verdicts", routes.judge, methods=["POST"]),
            *incident_api.routes(desk, max_body_bytes),
            *lifecycle_api.routes(desk, max_body_bytes),
            *feedback_api.routes(desk, max_body_bytes),
            *response_api.routes(desk, max_body_bytes),
            *webhook_api.routes(desk, Doorkeeper(webhooks or WebhooksConfig(), authenticate), max_body_bytes),
            Route("/api/v1/services", routes.services),
            Route("/api/v1/quality", routes.quality),
            Route("/api/v1/series", routes.series),
            Route("/api/v1/series/{fingerprint}", routes.explain),
            Route("/api/v1/explain", routes.why),
            Route("/api/v1/forecast", routes.forecast),
            Route("/api/v1/backfill", routes.backfill, methods=["POST"]),
            Route("/api/v1/selftest", routes.selftest),
            Route("/api/v1/datasets", routes.datasets),
            Route("/api/v1/datasets/{id}", routes.dataset),
            Route("/api/v1/openapi.json", routes.openapi, include_in_schema=False),
        ],
        middleware=middleware,
        exception_handlers={
            BadInput: problem(400),
            ConfigError: problem(400),  # of a value in a query
            StateError: problem(409),  # what is kept is not what was written
            TooLarge: problem(413),
            Overloaded: _for_people(pages, 503, _overloaded),
            404: _for_people(pages, 404, _not_found),
            405: problem(405),
        },
    )


class _Routes:
    def __init__(self, backend: Backend, max_body_bytes: int) -> None:
        self._backend = backend
        self._max_body_bytes = max_body_bytes

    async def healthy(self, request: Request) -> Response:
        """
        summary: The process is up.
        responses: {200: {description: up}}
        """
        return PlainTextResponse("otel-aiops is healthy\n")

    async def ready(self, request: Request) -> Response:
        """
        summary: The service takes telemetry.
        responses: {200: {description: ready}, 503: {description: not ready and why}}
        """
        why = self._backend.not_ready()
        if why:
            return PlainTextResponse(f"otel-aiops is not ready: {why}\n", 503, {"Retry-After": "1"})
        return PlainTextResponse("otel-aiops is ready\n")

    async def metrics(self, request: Request) -> Response:
        """
        summary: Scores and own telemetry in Prometheus text format; scrape it with honor_labels.
        responses: {200: {description: Prometheus text format 0.0.4}}
        """
        return Response(await run_in_threadpool(self._backend.metrics), media_type=METRICS_TYPE)

    async def status(self, request: Request) -> Response:
        """
        summary: What is received, known and scored, and where state is kept.
        responses: {200: {description: a JSON object}}
        """
        return JSONResponse(await run_in_threadpool(self._backend.status))

    async def anomalies(self, request: Request) -> Response:
        """
        summary: The series that are over their threshold now, the strangest first, each with its reason.
        parameters: [{in: query, name: limit, schema: {type: integer, default: 100}}]
        responses: {200: {description: "an object with a list `anomalies`"}}
        """
        limit = integer(request, "limit", 100, 10_000)
        return JSONResponse(await run_in_threadpool(lambda: self._backend.anomalies(limit=limit)))

    async def alerts(self, request: Request) -> Response:
        """
        summary: The series that have an alert under their budget, the highest first, with threshold and reason.
        parameters: [{in: query, name: limit, schema: {type: integer, default: 100}}]
        responses: {200: {description: "an object with a list `alerts`"}}
        """
        limit = integer(request, "limit", 100, 10_000)
        return JSONResponse(await run_in_threadpool(lambda: self._backend.alerts(limit=limit)))

    async def budgets(self, request: Request) -> Response:
        """
        summary: Every alert budget, the alerts that are wanted a week beside those that were and those to come.
        responses: {200: {description: "an object with a list `budgets`, the default one last"}}
        """
        return JSONResponse(await run_in_threadpool(self._backend.budgets))

    async def objectives(self, request: Request) -> Response:
        """
        summary: Every objective with its hash, its series in scope, and its alerts of the last week against its budget.
        responses: {200: {description: "an object with a list `objectives`"}}
        """
        return JSONResponse(await run_in_threadpool(self._backend.objectives))

    async def objective(self, request: Request) -> Response:
        """
        summary: One objective by its name.
        responses: {200: {description: a JSON object}, 404: {description: no such objective}}
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
        parameters: [{in: query, name: limit, schema: {type: integer, default: 100}}]
        responses: {200: {description: "an object with a list `verdicts`, the newest first"}}
        """
        limit = integer(request, "limit", 100, 10_000)
        return JSONResponse(await run_in_threadpool(lambda: self._backend.verdicts(limit=limit)))

    async def judge(self, request: Request) -> Response:
        """
        summary: Say what an alert was (real, false, duplicate, expected), or that one was missed; thresholds follow.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                required: [series, time, verdict]
                properties:
                  series: {type: string, description: 'fingerprint, or name{key="value"}'}
                  time: {description: ISO 8601 or unix seconds}
                  verdict: {type: string, enum: [true_alert, false_alert, missed, duplicate, expected, real, "false"]}
                  of: {type: string, description: "of a duplicate, the id of the incident that it is a part of"}
                  ratio: {type: number, description: alert score in thresholds, where nothing is known of the time}
                  by: {type: string}
                  note: {type: string}
        responses: {200: {description: what was learned}, 400: {description: what was expected}}
        """
        tree = await posted_json(request, self._max_body_bytes, "a verdict, or a list of them,")
        return JSONResponse(await run_in_threadpool(lambda: self._backend.judge(tree)))

    async def services(self, request: Request) -> Response:
        """
        summary: The services whose series were looked at together, the strangest first, with what contributed and why.
        responses: {200: {description: "an object with a list `services`"}}
        """
        return JSONResponse(await run_in_threadpool(self._backend.services))

    async def series(self, request: Request) -> Response:
        """
        summary: The scored series, a page at a time.
        parameters:
          - {in: query, name: after, schema: {type: integer, default: -1}, description: "`next` of the page before"}
          - {in: query, name: limit, schema: {type: integer, default: 1000}}
          - {in: query, name: format, schema: {type: string, enum: [labels, source], default: labels}}
          - {in: query, name: search, schema: {type: string}, description: "words of the name, service or labels"}
          - {in: query, name: service, schema: {type: string}, description: only this one's}
        responses: {200: {description: "an object with a list `series` and `next`, null on the last page"}}
        """
        after = integer(request, "after", -1, 2**31)
        limit = integer(request, "limit", 1000, 10_000)
        form = request.query_params.get("format", "labels")
        if form not in ("labels", "source"):
            raise BadInput(f"format: expected labels or source, got {form!r}")
        words, service = (request.query_params.get(name, "") for name in ("search", "service"))
        if (words or service) and form == "source":
            raise BadInput("format: expected labels with `search` or `service`, got 'source'")
        if words or service:
            found = await run_in_threadpool(lambda: self._backend.search(words, service, after=after, limit=limit))
            return JSONResponse(found)
        page = await run_in_threadpool(lambda: self._backend.series(after=after, limit=limit, source=form == "source"))
        return JSONResponse(page)

    async def quality(self, request: Request) -> Response:
        """
        summary: What the stream of every service is like since the start, gaps to two senders, and who fills the table.
        responses: {200: {description: "an object with a list `services`, and `series`: the table of series"}}
        """
        return JSONResponse(await run_in_threadpool(self._backend.quality))

    async def explain(self, request: Request) -> Response:
        """
        summary: One series by its fingerprint, with its last score, band and reason, its alerts and verdicts.
        responses: {200: {description: a JSON object}, 404: {description: no such series}}
        """
        text = request.path_params["fingerprint"]
        try:
            fingerprint = int(text, 16)
        except ValueError:
            raise BadInput(f"fingerprint: expected 16 hexadecimal digits, got {text!r}") from None
        found = await run_in_threadpool(lambda: self._backend.explain(fingerprint))
        if found is None:
            return JSONResponse({"error": f"no series has the fingerprint {text}"}, 404)
        return JSONResponse(found)

    async def why(self, request: Request) -> Response:
        """
        summary: Why a series had its score at a time, with the points around it and similar moments.
        parameters:
          - {in: query, name: series, required: true, schema: {type: string}, description: "fingerprint, or a name"}
          - {in: query, name: time, schema: {type: string, default: now}, description: "ISO 8601, now or -2h"}
        responses: {200: {description: a JSON object}, 400: {description: not exactly one series, or no point then}}
        """
        series, time = required(request, "series"), request.query_params.get("time", "now")
        return JSONResponse(await run_in_threadpool(lambda: self._backend.why(series, time)))

    async def forecast(self, request: Request) -> Response:
        """
        summary: What is to come of a series, with interval, method and skill, and when it reaches a limit.
        parameters:
          - {in: query, name: series, required: true, schema: {type: string}, description: "fingerprint, or a name"}
          - {in: query, name: horizon, schema: {type: string, default: 1d}}
          - {in: query, name: step, schema: {type: string}, description: "as 5m; without it, by the horizon"}
          - {in: query, name: limit, schema: {type: number}}
          - {in: query, name: direction, schema: {type: string, enum: [above, below], default: above}}
        responses: {200: {description: a JSON object}, 400: {description: not exactly one series, or too few points}}
        """
        series, asked = required(request, "series"), dict(request.query_params)
        return JSONResponse(await run_in_threadpool(lambda: self._backend.forecast(series, asked)))

    async def backfill(self, request: Request) -> Response:
        """
        summary: Learn series anew from their past; the body is an OTLP metrics request with all their history.
        requestBody: {content: {application/x-protobuf: {schema: {type: string, format: binary}}}}
        responses: {200: {description: how many points were learned}, 400: {description: not a metrics request}}
        """
        body = await posted(request, self._max_body_bytes)
        compression = request.headers.get("content-encoding", "identity")
        return JSONResponse(await run_in_threadpool(lambda: self._backend.backfill(body, compression)))

    async def selftest(self, request: Request) -> Response:
        """
        summary: The newest self-test, what it found of each fault that it put in, and what is wrong in plain words.
        responses: {200: {description: a JSON object}, 404: {description: no test has ended yet}}
        """
        report = await run_in_threadpool(self._backend.selftest)
        if report is None:
            return JSONResponse({"error": "no self-test has ended yet"}, 404)
        return JSONResponse(report)

    async def datasets(self, request: Request) -> Response:
        """
        summary: The datasets that models may learn from, the newest first, and what the quality gate says of each.
        responses: {200: {description: "an object with a list `datasets`, and `damaged`: those that cannot be read"}}
        """
        return JSONResponse(await run_in_threadpool(self._backend.datasets))

    async def dataset(self, request: Request) -> Response:
        """
        summary: One dataset by its id, the whole manifest with segments, labels, exclusions and profile.
        responses: {200: {description: a JSON object}, 404: {description: no such dataset}}
        """
        name = request.path_params["id"]
        found = await run_in_threadpool(lambda: self._backend.dataset(name))
        if found is None:
            return JSONResponse({"error": f"no dataset has the id {name}"}, 404)
        return JSONResponse(found)

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(described(request.app.routes))


def described(routes: list[BaseRoute]) -> dict[str, Any]:
    """The OpenAPI document of these routes; what stands in a path in braces is a text."""
    generator = SchemaGenerator({"openapi": "3.1.0", "info": {"title": "otel-aiops", "version": __version__}})
    found: dict[str, Any] = generator.get_schema(routes=routes)
    for path, operations in found["paths"].items():
        if names := re.findall(r"{(\w+)}", path):
            text = {"type": "string"}
            operations["parameters"] = [
                {"in": "path", "name": name, "required": True, "schema": text} for name in names
            ]
    return found


class _Guard(BaseHTTPMiddleware):
    """Ask for credentials everywhere but at the health checks; webhooks ask by themselves."""

    def __init__(self, app: Any, authenticate: Callable[[str | None], None]) -> None:
        super().__init__(app)
        self._authenticate = authenticate

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        path = request.url.path
        if (path not in OPEN_PATHS and not path.startswith(webhook_api.PREFIX)) or (
            path == "/" and wants_page(request)
        ):
            authorization = request.headers.get("authorization")
            try:
                await run_in_threadpool(self._authenticate, authorization)
            except Unauthorized as error:
                return JSONResponse({"error": str(error)}, 401, {"WWW-Authenticate": 'Basic realm="otel-aiops"'})
            request.state.user = user_of(authorization)
        return await call_next(request)


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


def _overloaded(request: Request, error: Exception) -> Response:
    wait_s = getattr(error, "retry_after_s", 1.0)
    return JSONResponse({"error": str(error)}, 503, {"Retry-After": str(max(1, round(wait_s)))})


def _not_found(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"nothing is at {request.url.path}; see /api/v1/openapi.json"}, 404)
