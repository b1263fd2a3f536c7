"""The part of the API that is about responses, described by OpenAPI as the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from otel_aiops.server.asking import in_own_name, page, posted_json


class ResponseBackend(Protocol):
    """What the API shows and does; any thread. None where there is no such thing, BadInput that names the key."""

    def playbooks(self) -> dict[str, Any]: ...

    def test_playbooks(self, asked: Any) -> dict[str, Any] | None: ...

    def responses(self, asked: Mapping[str, str], *, limit: int, offset: int = 0) -> dict[str, Any]: ...

    def chain(self, *, limit: int) -> dict[str, Any]: ...

    def response(self, name: str) -> dict[str, Any] | None: ...

    def vote(self, name: str, asked: Any, *, agrees: bool) -> dict[str, Any] | None: ...

    def stop_responses(self, asked: Any, *, stops: bool) -> dict[str, Any]: ...


def routes(backend: ResponseBackend, max_body_bytes: int) -> list[Route]:
    """All of them, in the order of the documents."""
    of = _Routes(backend, max_body_bytes)
    return [
        Route("/api/v1/playbooks", of.playbooks, methods=["GET"]),
        Route("/api/v1/playbooks/test", of.test, methods=["POST"]),
        Route("/api/v1/responses", of.responses, methods=["GET"]),
        Route("/api/v1/responses/audit", of.audit, methods=["GET"]),
        Route("/api/v1/responses/stop", of.stop, methods=["POST"]),
        Route("/api/v1/responses/resume", of.resume, methods=["POST"]),
        Route("/api/v1/responses/{id}", of.response, methods=["GET"]),
        Route("/api/v1/responses/{id}/approve", of.approve, methods=["POST"]),
        Route("/api/v1/responses/{id}/refuse", of.refuse, methods=["POST"]),
    ]


class _Routes:
    def __init__(self, backend: ResponseBackend, max_body_bytes: int) -> None:
        self._backend = backend
        self._max_body_bytes = max_body_bytes

    async def playbooks(self, request: Request) -> Response:
        """
        summary: The playbooks with their steps and guards, whether responses are enabled, and who has stopped them.
        parameters: [limit, offset]
        responses: {200: {description: a page of them, returns: Playbooks}}
        """
        wanted = page(request)
        return JSONResponse(wanted.cut(await run_in_threadpool(self._backend.playbooks), "playbooks"))

    async def test(self, request: Request) -> Response:
        """
        summary: What playbooks would do about an incident now, step by step with every guard; nothing is done.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                required: [incident]
                properties:
                  incident: {type: string, description: id of an incident or prediction}
                  playbook: {type: string, description: only this one}
        responses:
          200: {description: what they would do, returns: PlaybookTest}
          404: {description: no such incident}
        """
        tree = await posted_json(request, self._max_body_bytes, "an incident")
        found = await run_in_threadpool(lambda: self._backend.test_playbooks(tree))
        if found is None:
            return JSONResponse({"error": f"no incident has the id {str(tree.get('incident'))[:100]}"}, 404)
        return JSONResponse(found)

    async def responses(self, request: Request) -> Response:
        """
        summary: Runs of playbooks, the newest first, with what each step did, waits for or was refused by.
        parameters:
          - {name: state, schema: {type: string}, description: "waiting, active, done … ; more by comma"}
          - {name: incident, schema: {type: string}}
          - {name: playbook, schema: {type: string}}
          - limit
          - offset
        responses:
          200: {description: a page of them, returns: Responses}
        """
        asked, wanted = dict(request.query_params), page(request)
        find = partial(self._backend.responses, asked, limit=wanted.limit, offset=wanted.offset)
        return JSONResponse(wanted.of(await run_in_threadpool(find)))

    async def audit(self, request: Request) -> Response:
        """
        summary: Whether the chain of the audit of responses holds, as of the last look at it, and its newest lines.
        parameters: [limit]
        responses: {200: {description: its state, returns: Chain}}
        """
        wanted = page(request)
        return JSONResponse(await run_in_threadpool(partial(self._backend.chain, limit=wanted.limit)))

    async def response(self, request: Request) -> Response:
        """
        summary: One run of a playbook with its steps, guards, approvals and timeline.
        responses: {200: {description: the run, returns: Response}, 404: {description: no such response}}
        """
        return await self._one(request, self._backend.response)

    async def approve(self, request: Request) -> Response:
        """
        summary: Approve the step that a response waits with.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                required: [who]
                properties: {who: {$ref: '#/components/schemas/Who'}, why: {$ref: '#/components/schemas/Why'}}
        responses:
          200: {description: the response as it is then, returns: ResponseInShort}
          400: {description: "it does not wait, or the person may not or has said something already"}
          404: {description: no such response}
        """
        tree = in_own_name(request, await posted_json(request, self._max_body_bytes, "who approves it"))
        return await self._one(request, lambda name: self._backend.vote(name, tree, agrees=True))

    async def refuse(self, request: Request) -> Response:
        """
        summary: Refuse the step that a response waits with.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                required: [who]
                properties: {who: {$ref: '#/components/schemas/Who'}, why: {$ref: '#/components/schemas/Why'}}
        responses:
          200: {description: the response as it is then, returns: ResponseInShort}
          400: {description: "it does not wait, or the person may not or has said something already"}
          404: {description: no such response}
        """
        tree = in_own_name(request, await posted_json(request, self._max_body_bytes, "who refuses it"))
        return await self._one(request, lambda name: self._backend.vote(name, tree, agrees=False))

    async def stop(self, request: Request) -> Response:
        """
        summary: Stop all responses, those that wait too, until they are resumed.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                required: [who]
                properties: {who: {$ref: '#/components/schemas/Who'}, why: {$ref: '#/components/schemas/Why'}}
        responses: {200: {description: who has stopped them, returns: Stopped}}
        """
        return await self._stop(request, stops=True)

    async def resume(self, request: Request) -> Response:
        """
        summary: Let responses go on; what was refused meanwhile stays so.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                required: [who]
                properties: {who: {$ref: '#/components/schemas/Who'}, why: {$ref: '#/components/schemas/Why'}}
        responses: {200: {description: who has stopped them, returns: Stopped}}
        """
        return await self._stop(request, stops=False)

    async def _stop(self, request: Request, *, stops: bool) -> Response:
        tree = in_own_name(request, await posted_json(request, self._max_body_bytes, "who wants it"))
        return JSONResponse(await run_in_threadpool(partial(self._backend.stop_responses, tree, stops=stops)))

    async def _one(self, request: Request, get: Callable[[str], dict[str, Any] | None]) -> Response:
        name = request.path_params["id"]
        found = await run_in_threadpool(partial(get, name))
        if found is None:
            return JSONResponse({"error": f"no response has the id {name[:100]}"}, 404)
        return JSONResponse(found)
