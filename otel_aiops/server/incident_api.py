"""The part of the API that is about incidents, described by OpenAPI as the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from otel_aiops.errors import BadInput
from otel_aiops.server.asking import integer, posted_json

PAGE, MOST = 100, 1_000
FURTHEST = 10_000_000
MARKDOWN = "text/markdown; charset=utf-8"

Rules = Literal["silences", "maintenance"]


class IncidentBackend(Protocol):
    """What the API shows and does; any thread. None where there is no such thing, BadInput that names the key."""

    def incidents(self, asked: Mapping[str, str], *, limit: int, offset: int) -> dict[str, Any]: ...

    def incident(self, name: str) -> dict[str, Any] | None: ...

    def timeline(self, name: str, *, limit: int) -> dict[str, Any] | None: ...

    def report(self, name: str) -> str | None: ...

    def mark(self, name: str, asked: Any) -> dict[str, Any] | None: ...

    def silence_incident(self, name: str, asked: Any) -> dict[str, Any] | None: ...

    def known_alerts(self, *, limit: int, offset: int) -> dict[str, Any]: ...

    def rules(self, kind: Rules) -> dict[str, Any]: ...

    def set_rule(self, kind: Rules, asked: Any) -> dict[str, Any]: ...

    def end_rule(self, kind: Rules, name: str, asked: Mapping[str, str]) -> dict[str, Any] | None: ...

    def predictions(self, *, limit: int) -> dict[str, Any]: ...

    def precursors(self, *, limit: int) -> dict[str, Any]: ...

    def graph(self) -> dict[str, Any]: ...

    def deployments(self, asked: Mapping[str, str], *, limit: int) -> dict[str, Any]: ...

    def advice(self, *, limit: int) -> dict[str, Any]: ...


def routes(backend: IncidentBackend, max_body_bytes: int) -> list[Route]:
    """All of them, in the order of the documents."""
    of = _Routes(backend, max_body_bytes)
    return [
        Route("/api/v1/incidents", of.incidents),
        Route("/api/v1/incidents/{id}", of.incident, methods=["GET"]),
        Route("/api/v1/incidents/{id}", of.mark, methods=["POST"]),
        Route("/api/v1/incidents/{id}/silence", of.silence_incident, methods=["POST"]),
        Route("/api/v1/incidents/{id}/timeline", of.timeline),
        Route("/api/v1/incidents/{id}/report", of.report),
        Route("/api/v1/silences", of.silences, methods=["GET"]),
        Route("/api/v1/silences", of.silence, methods=["POST"]),
        Route("/api/v1/silences/{name}", of.unsilence, methods=["DELETE"]),
        Route("/api/v1/maintenance", of.windows, methods=["GET"]),
        Route("/api/v1/maintenance", of.window, methods=["POST"]),
        Route("/api/v1/maintenance/{name}", of.end_window, methods=["DELETE"]),
        Route("/api/v1/predictions", of.predictions),
        Route("/api/v1/known-alerts", of.known_alerts),
        Route("/api/v1/precursors", of.precursors),
        Route("/api/v1/service-graph", of.graph),
        Route("/api/v1/deployments", of.deployments),
        Route("/api/v1/advice", of.advice),
    ]


class _Routes:
    def __init__(self, backend: IncidentBackend, max_body_bytes: int) -> None:
        self._backend = backend
        self._max_body_bytes = max_body_bytes

    async def incidents(self, request: Request) -> Response:
        """
        summary: Incidents, the latest first, without findings and timelines.
        parameters:
          - {in: query, name: state, schema: {type: string}, description: "one or more, as open,acknowledged; all"}
          - {in: query, name: severity, schema: {type: string}, description: "info, warning, critical, or some of them"}
          - {in: query, name: service, schema: {type: string}, description: that shows something itself}
          - {in: query, name: channel, schema: {type: string}, description: "of a finding, as latency"}
          - {in: query, name: suspect, schema: {type: string}, description: the first one's service}
          - {in: query, name: from, schema: {type: string}, description: "start, as ISO 8601, -2h or unix seconds"}
          - {in: query, name: until, schema: {type: string}, description: "start before"}
          - {in: query, name: predicted, schema: {type: boolean, default: false}, description: predictions too}
          - {in: query, name: limit, schema: {type: integer, default: 100}}
          - {in: query, name: offset, schema: {type: integer, default: 0}}
        responses:
          200: {description: "an object with `total` and a list `incidents`"}
          400: {description: what was expected}
        """
        asked = _asked(request, "state severity service channel suspect from until predicted limit offset")
        page = {"limit": _limit(request), "offset": integer(request, "offset", 0, FURTHEST, least=0)}
        return JSONResponse(await run_in_threadpool(partial(self._backend.incidents, asked, **page)))

    async def incident(self, request: Request) -> Response:
        """
        summary: One incident with its suspects, findings, timeline, similar incidents, decisions and verdicts.
        responses: {200: {description: a JSON object}, 404: {description: no such incident}}
        """
        return await self._one(request, self._backend.incident)

    async def mark(self, request: Request) -> Response:
        """
        summary: Acknowledge, resolve or reopen an incident.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                required: [action, who]
                properties:
                  action: {type: string, enum: [acknowledge, resolve, reopen]}
                  who: {type: string}
                  why: {type: string}
        responses:
          200: {description: the incident as it is then}
          400: {description: what was expected}
          404: {description: no such incident}
        """
        tree = await posted_json(request, self._max_body_bytes, "an action")
        return await self._one(request, lambda name: self._backend.mark(name, tree))

    async def silence_incident(self, request: Request) -> Response:
        """
        summary: Silence an incident or its services for a time, in Alertmanager where there is one, else only here.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                required: [for, who]
                properties:
                  for: {description: "how long, as 2h or seconds"}
                  scope: {type: string, enum: [incident, services], default: incident}
                  who: {type: string}
                  why: {type: string}
        responses:
          200: {description: "the silence, and `where` it is kept"}
          400: {description: what was expected}
          404: {description: no such incident}
          503: {description: Alertmanager does not answer}
        """
        tree = await posted_json(request, self._max_body_bytes, "a silence")
        return await self._one(request, lambda name: self._backend.silence_incident(name, tree))

    async def known_alerts(self, request: Request) -> Response:
        """
        summary: Alerts that Alertmanager and Grafana told of, the latest first, each as it is now.
        parameters:
          - {in: query, name: limit, schema: {type: integer, default: 100}}
          - {in: query, name: offset, schema: {type: integer, default: 0}}
        responses:
          200: {description: "an object with `total` and a list `alerts`"}
          400: {description: what was expected}
        """
        _asked(request, "limit offset")
        page = {"limit": _limit(request), "offset": integer(request, "offset", 0, FURTHEST, least=0)}
        return JSONResponse(await run_in_threadpool(partial(self._backend.known_alerts, **page)))

    async def timeline(self, request: Request) -> Response:
        """
        summary: How an incident became what it is, revision by revision, with its suspects as they were ranked then.
        parameters: [{in: query, name: limit, schema: {type: integer, default: 100}, description: last revisions}]
        responses:
          200: {description: "an object with `timeline` and `revisions`"}
          404: {description: no such incident}
        """
        limit = _limit(request)
        return await self._one(request, lambda name: self._backend.timeline(name, limit=limit))

    async def report(self, request: Request) -> Response:
        """
        summary: An incident as a post-mortem in Markdown, with what people must add asked for.
        responses: {200: {description: text/markdown}, 404: {description: no such incident}}
        """
        name = request.path_params["id"]
        found = await run_in_threadpool(lambda: self._backend.report(name))
        return _no("incident", name) if found is None else Response(found, media_type=MARKDOWN)

    async def silences(self, request: Request) -> Response:
        """
        summary: The silences that hold or will.
        responses: {200: {description: "an object with a list `silences`"}}
        """
        return JSONResponse(await run_in_threadpool(lambda: self._backend.rules("silences")))

    async def silence(self, request: Request) -> Response:
        """
        summary: Silence incidents for a time; they are still found, and say who silenced them.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                required: [who]
                properties:
                  name: {type: string, description: one of the same name is replaced}
                  until: {description: "ISO 8601 or unix seconds; or `for`"}
                  for: {description: "how long, as 2h or seconds"}
                  from: {description: ISO 8601 or unix seconds}
                  services: {type: array, items: {type: string}, description: "names may have * and ?; none is all"}
                  channels: {type: array, items: {type: string}}
                  severities: {type: array, items: {type: string}}
                  who: {type: string}
                  why: {type: string}
        responses: {200: {description: the silence}, 400: {description: what was expected}}
        """
        tree = await posted_json(request, self._max_body_bytes, "a silence")
        return JSONResponse(await run_in_threadpool(lambda: self._backend.set_rule("silences", tree)))

    async def unsilence(self, request: Request) -> Response:
        """
        summary: End a silence.
        parameters:
          - {in: query, name: who, required: true, schema: {type: string}}
          - {in: query, name: why, schema: {type: string}}
        responses: {200: {description: ended}, 404: {description: no such silence}}
        """
        return await self._end(request, "silences", "silence")

    async def windows(self, request: Request) -> Response:
        """
        summary: The maintenance windows that hold or will, also those of the configuration.
        responses: {200: {description: "an object with a list `maintenance`"}}
        """
        return JSONResponse(await run_in_threadpool(lambda: self._backend.rules("maintenance")))

    async def window(self, request: Request) -> Response:
        """
        summary: Announce work on services, once or again and again; their incidents do not page meanwhile.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                required: [who]
                properties:
                  name: {type: string, description: one of the same name is replaced}
                  start: {description: "ISO 8601 or unix seconds; default now"}
                  end: {description: "ISO 8601 or unix seconds; or `for`"}
                  for: {description: "how long, as 2h or seconds"}
                  every: {description: "again after so long, as 7d; without it, once"}
                  services: {type: array, items: {type: string}, description: "names may have * and ?; none is all"}
                  who: {type: string}
                  why: {type: string}
        responses: {200: {description: the window}, 400: {description: what was expected}}
        """
        tree = await posted_json(request, self._max_body_bytes, "a maintenance window")
        return JSONResponse(await run_in_threadpool(lambda: self._backend.set_rule("maintenance", tree)))

    async def end_window(self, request: Request) -> Response:
        """
        summary: End a maintenance window.
        parameters:
          - {in: query, name: who, required: true, schema: {type: string}}
          - {in: query, name: why, schema: {type: string}}
        responses: {200: {description: ended}, 404: {description: no such window}}
        """
        return await self._end(request, "maintenance", "maintenance window")

    async def predictions(self, request: Request) -> Response:
        """
        summary: Predicted incidents that stand and that are decided, how often such came true, and how early.
        parameters: [{in: query, name: limit, schema: {type: integer, default: 100}}]
        responses: {200: {description: "with `standing`, `decided`, `reliability`, `lead_s`, and `records` by kind"}}
        """
        limit = _limit(request)
        return JSONResponse(await run_in_threadpool(lambda: self._backend.predictions(limit=limit)))

    async def precursors(self, request: Request) -> Response:
        """
        summary: Types of incidents, whether there are enough to foresee them, how well, and what comes before them.
        parameters: [{in: query, name: limit, schema: {type: integer, default: 100}}]
        responses: {200: {description: "an object with a list `types`"}}
        """
        limit = _limit(request)
        return JSONResponse(await run_in_threadpool(lambda: self._backend.precursors(limit=limit)))

    async def graph(self, request: Request) -> Response:
        """
        summary: The service graph, with calls a second and the share of them that failed.
        responses: {200: {description: "an object with lists `nodes` and `edges`"}}
        """
        return JSONResponse(await run_in_threadpool(self._backend.graph))

    async def deployments(self, request: Request) -> Response:
        """
        summary: What was seen to be deployed, scaled or switched by a flag, the latest first.
        parameters:
          - {in: query, name: service, schema: {type: string}}
          - {in: query, name: from, schema: {type: string}, description: "ISO 8601, -2h or unix seconds"}
          - {in: query, name: limit, schema: {type: integer, default: 100}}
        responses: {200: {description: "an object with a list `deployments`"}, 400: {description: what was expected}}
        """
        asked, limit = _asked(request, "service from limit"), _limit(request)
        return JSONResponse(await run_in_threadpool(lambda: self._backend.deployments(asked, limit=limit)))

    async def advice(self, request: Request) -> Response:
        """
        summary: Containers that ask for too much or have too little, by a week or more of use, and shortages to come.
        parameters: [{in: query, name: limit, schema: {type: integer, default: 100}}]
        responses: {200: {description: "an object with lists `advice` and `foreseen`"}}
        """
        limit = _limit(request)
        return JSONResponse(await run_in_threadpool(lambda: self._backend.advice(limit=limit)))

    async def _one(self, request: Request, find: Callable[[str], dict[str, Any] | None]) -> Response:
        name = request.path_params["id"]
        found = await run_in_threadpool(find, name)
        return _no("incident", name) if found is None else JSONResponse(found)

    async def _end(self, request: Request, kind: Rules, word: str) -> Response:
        name, asked = request.path_params["name"], dict(request.query_params)
        found = await run_in_threadpool(lambda: self._backend.end_rule(kind, name, asked))
        return _no(word, name) if found is None else JSONResponse(found)


def _asked(request: Request, known: str) -> dict[str, str]:
    """The query. Raises: BadInput for a key that nothing is asked by, which is a typing error."""
    for key in request.query_params:
        if key not in known.split():
            raise BadInput(f"{key[:100]}: is not a known key; known here: {', '.join(known.split())}")
    return dict(request.query_params)


def _limit(request: Request) -> int:
    return integer(request, "limit", PAGE, MOST, least=0)


def _no(what: str, name: str) -> Response:
    return JSONResponse({"error": f"there is no {what} {name[:200]!r}"}, 404)
