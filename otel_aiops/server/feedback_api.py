"""The part of the API that is about feedback and the audit, described by OpenAPI as the others."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from otel_aiops.server.asking import in_own_name, page, posted_json

MOST_PROPOSED = 100


class FeedbackBackend(Protocol):
    """What the API shows and does; any thread. None where there is no such thing, BadInput that names the key."""

    def judge_incident(self, name: str, asked: Any) -> dict[str, Any] | None: ...

    def feedback_queue(self, *, limit: int) -> dict[str, Any]: ...

    def audit(self, asked: Mapping[str, str], *, limit: int, offset: int = 0) -> dict[str, Any]: ...


def routes(backend: FeedbackBackend, max_body_bytes: int) -> list[Route]:
    """All of them, in the order of the documents."""
    of = _Routes(backend, max_body_bytes)
    return [
        Route("/api/v1/incidents/{id}/verdict", of.judge, methods=["POST"]),
        Route("/api/v1/feedback/queue", of.queue),
        Route("/api/v1/audit", of.audit),
    ]


class _Routes:
    def __init__(self, backend: FeedbackBackend, max_body_bytes: int) -> None:
        self._backend = backend
        self._max_body_bytes = max_body_bytes

    async def judge(self, request: Request) -> Response:
        """
        summary: Say what an incident was (real, false, duplicate, expected); thresholds, labels and cases follow.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                required: [verdict, who]
                properties:
                  verdict: {type: string, enum: [real, "false", duplicate, expected]}
                  of: {type: string, description: "of a duplicate, the incident that it is a part of"}
                  who: {$ref: '#/components/schemas/Who'}
                  why: {$ref: '#/components/schemas/Why'}
        responses:
          200: {description: what was learned, returns: Judged}
          404: {description: no such incident}
        """
        name = request.path_params["id"]
        tree = in_own_name(request, await posted_json(request, self._max_body_bytes, "a verdict"))
        found = await run_in_threadpool(lambda: self._backend.judge_incident(name, tree))
        if found is None:
            return JSONResponse({"error": f"no incident has the id {name[:100]}"}, 404)
        return JSONResponse(found)

    async def queue(self, request: Request) -> Response:
        """
        summary: The few alerts of which a verdict would teach most, the best first, each with its reasons.
        parameters:
          - {name: limit, schema: {type: integer, minimum: 0, maximum: 100, default: 5}}
          - offset
        responses: {200: {description: a page of them, returns: Queue}}
        """
        wanted = page(request, limit=5, most=MOST_PROPOSED)
        found = await run_in_threadpool(lambda: self._backend.feedback_queue(limit=MOST_PROPOSED))
        return JSONResponse(wanted.cut(found, "queue"))

    async def audit(self, request: Request) -> Response:
        """
        summary: Who changed what, when, on which data and with which code, the newest first.
        parameters:
          - {name: since, schema: {type: string}, description: "ISO 8601, or 7d for so long ago"}
          - {name: kind, schema: {type: string}, description: "config, verdict, decision …; more by comma"}
          - {name: who, schema: {type: string}}
          - limit
          - offset
        responses: {200: {description: a page of them, returns: Audit}}
        """
        asked, wanted = dict(request.query_params), page(request)
        find = partial(self._backend.audit, asked, limit=wanted.limit, offset=wanted.offset)
        return JSONResponse(wanted.of(await run_in_threadpool(find)))
