"""The part of the API that is about incidents, described by OpenAPI as the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from otel_aiops.server.asking import in_own_name, page, posted_json

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

    def predictions(self, *, limit: int, offset: int = 0) -> dict[str, Any]: ...

    def precursors(self, *, limit: int, offset: int = 0) -> dict[str, Any]: ...

    def graph(self) -> dict[str, Any]: ...

    def deployments(self, asked: Mapping[str, str], *, limit: int, offset: int = 0) -> dict[str, Any]: ...

    def advice(self, *, limit: int, offset: int = 0) -> dict[str, Any]: ...


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
          - {name: state, schema: {type: string}, description: "one or more, as open,acknowledged; all"}
          - {name: severity, schema: {type: string}, description: "info, warning, critical, or some of them"}
          - {name: service, schema: {type: string}, description: that shows something itself}
          - {name: channel, schema: {type: string}, description: "of a finding, as latency"}
          - {name: suspect, schema: {type: string}, description: the first one's service}
          - {name: from, schema: {type: string}, description: "start, as ISO 8601, -2h or unix seconds"}
          - {name: until, schema: {type: string}, description: "start before"}
          - {name: predicted, schema: {type: boolean, default: false}, description: predictions too}
          - limit
          - offset
        responses:
          200: {description: a page of them, returns: Incidents}
        """
        return await _paged(request, partial(self._backend.incidents, dict(request.query_params)))

    async def incident(self, request: Request) -> Response:
        """
        summary: One incident with its suspects, findings, timeline, similar incidents, decisions and verdicts.
        responses: {200: {description: the incident, returns: Incident}, 404: {description: no such incident}}
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
                  who: {$ref: '#/components/schemas/Who'}
                  why: {$ref: '#/components/schemas/Why'}
        responses:
          200: {description: the incident as it is then, returns: Incident}
          404: {description: no such incident}
        """
        tree = in_own_name(request, await posted_json(request, self._max_body_bytes, "an action"))
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
                  for: {$ref: '#/components/schemas/Span'}
                  scope: {type: string, enum: [incident, services], default: incident}
                  who: {$ref: '#/components/schemas/Who'}
                  why: {$ref: '#/components/schemas/Why'}
        responses:
          200: {description: "the silence, and `where` it is kept", returns: SilenceMade}
          404: {description: no such incident}
        """
        tree = in_own_name(request, await posted_json(request, self._max_body_bytes, "a silence"))
        return await self._one(request, lambda name: self._backend.silence_incident(name, tree))

    async def known_alerts(self, request: Request) -> Response:
        """
        summary: Alerts that Alertmanager and Grafana told of, the latest first, each as it is now.
        parameters: [limit, offset]
        responses: {200: {description: a page of them, returns: KnownAlerts}}
        """
        wanted = page(request)
        find = partial(self._backend.known_alerts, limit=wanted.limit, offset=wanted.offset)
        return JSONResponse(wanted.of(await run_in_threadpool(find)))

    async def timeline(self, request: Request) -> Response:
        """
        summary: How an incident became what it is, revision by revision, with its suspects as they were ranked then.
        parameters: [limit]
        responses:
          200: {description: "its timeline, and its last revisions", returns: Timeline}
          404: {description: no such incident}
        """
        limit = page(request).limit
        return await self._one(request, lambda name: self._backend.timeline(name, limit=limit))

    async def report(self, request: Request) -> Response:
        """
        summary: An incident as a post-mortem in Markdown, with what people must add asked for.
        responses: {200: {description: the report, text: text/markdown}, 404: {description: no such incident}}
        """
        name = request.path_params["id"]
        found = await run_in_threadpool(lambda: self._backend.report(name))
        return _no("incident", name) if found is None else Response(found, media_type=MARKDOWN)

    async def silences(self, request: Request) -> Response:
        """
        summary: The silences that hold or will.
        parameters: [limit, offset]
        responses: {200: {description: a page of them, returns: Silences}}
        """
        return await self._rules(request, "silences")

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
                  name: {$ref: '#/components/schemas/RuleName'}
                  until: {$ref: '#/components/schemas/Moment'}
                  for: {$ref: '#/components/schemas/Span'}
                  from: {$ref: '#/components/schemas/Moment'}
                  services: {$ref: '#/components/schemas/ServiceNames'}
                  channels: {$ref: '#/components/schemas/Channels'}
                  severities: {$ref: '#/components/schemas/Severities'}
                  who: {$ref: '#/components/schemas/Who'}
                  why: {$ref: '#/components/schemas/Why'}
        responses: {200: {description: the silence, returns: Silence}}
        """
        tree = in_own_name(request, await posted_json(request, self._max_body_bytes, "a silence"))
        return JSONResponse(await run_in_threadpool(lambda: self._backend.set_rule("silences", tree)))

    async def unsilence(self, request: Request) -> Response:
        """
        summary: End a silence.
        parameters:
          - {name: who, required: true, schema: {$ref: '#/components/schemas/Who'}}
          - {name: why, schema: {$ref: '#/components/schemas/Why'}}
        responses: {200: {description: ended, returns: Ended}, 404: {description: no such silence}}
        """
        return await self._end(request, "silences", "silence")

    async def windows(self, request: Request) -> Response:
        """
        summary: The maintenance windows that hold or will, also those of the configuration.
        parameters: [limit, offset]
        responses: {200: {description: a page of them, returns: MaintenanceWindows}}
        """
        return await self._rules(request, "maintenance")

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
                  name: {$ref: '#/components/schemas/RuleName'}
                  start: {$ref: '#/components/schemas/Moment'}
                  end: {$ref: '#/components/schemas/Moment'}
                  for: {$ref: '#/components/schemas/Span'}
                  every: {$ref: '#/components/schemas/Span'}
                  services: {$ref: '#/components/schemas/ServiceNames'}
                  who: {$ref: '#/components/schemas/Who'}
                  why: {$ref: '#/components/schemas/Why'}
        responses: {200: {description: the window, returns: MaintenanceWindow}}
        """
        tree = in_own_name(request, await posted_json(request, self._max_body_bytes, "a maintenance window"))
        return JSONResponse(await run_in_threadpool(lambda: self._backend.set_rule("maintenance", tree)))

    async def end_window(self, request: Request) -> Response:
        """
        summary: End a maintenance window.
        parameters:
          - {name: who, required: true, schema: {$ref: '#/components/schemas/Who'}}
          - {name: why, schema: {$ref: '#/components/schemas/Why'}}
        responses: {200: {description: ended, returns: Ended}, 404: {description: no such window}}
        """
        return await self._end(request, "maintenance", "maintenance window")

    async def predictions(self, request: Request) -> Response:
        """
        summary: Predicted incidents that stand and that are decided, how often such came true, and how early.
        parameters: [limit, offset]
        responses: {200: {description: "those that stand, a page of those that are decided", returns: Predictions}}
        """
        return await _paged(request, self._backend.predictions)

    async def precursors(self, request: Request) -> Response:
        """
        summary: Types of incidents, whether there are enough to foresee them, how well, and what comes before them.
        parameters: [limit, offset]
        responses: {200: {description: a page of them, returns: Precursors}}
        """
        return await _paged(request, self._backend.precursors)

    async def graph(self, request: Request) -> Response:
        """
        summary: The service graph, with calls a second and the share of them that failed.
        responses: {200: {description: all of it, returns: ServiceGraph}}
        """
        return JSONResponse(await run_in_threadpool(self._backend.graph))

    async def deployments(self, request: Request) -> Response:
        """
        summary: What was seen to be deployed, scaled or switched by a flag, the latest first.
        parameters:
          - {name: service, schema: {type: string}}
          - {name: from, schema: {type: string}, description: "ISO 8601, -2h or unix seconds"}
          - limit
          - offset
        responses: {200: {description: a page of them, returns: Deployments}}
        """
        return await _paged(request, partial(self._backend.deployments, dict(request.query_params)))

    async def advice(self, request: Request) -> Response:
        """
        summary: Containers that ask for too much or have too little, by a week or more of use, and shortages to come.
        parameters: [limit, offset]
        responses: {200: {description: "a page of it, and what is `foreseen`", returns: Advice}}
        """
        return await _paged(request, self._backend.advice)

    async def _one(self, request: Request, find: Callable[[str], dict[str, Any] | None]) -> Response:
        name = request.path_params["id"]
        found = await run_in_threadpool(find, name)
        return _no("incident", name) if found is None else JSONResponse(found)

    async def _rules(self, request: Request, kind: Rules) -> Response:
        wanted = page(request)
        return JSONResponse(wanted.cut(await run_in_threadpool(self._backend.rules, kind), kind))

    async def _end(self, request: Request, kind: Rules, word: str) -> Response:
        name, asked = request.path_params["name"], in_own_name(request, dict(request.query_params))
        found = await run_in_threadpool(lambda: self._backend.end_rule(kind, name, asked))
        return _no(word, name) if found is None else JSONResponse(found)


async def _paged(request: Request, find: Callable[..., dict[str, Any]]) -> Response:
    wanted = page(request)
    found = await run_in_threadpool(partial(find, limit=wanted.limit, offset=wanted.offset))
    return JSONResponse(wanted.of(found))


def _no(what: str, name: str) -> Response:
    return JSONResponse({"error": f"there is no {what} {name[:200]!r}"}, 404)
