"""The part of the API that is about who somebody is, and the tokens that admins give."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from otel_aiops.errors import BadInput
from otel_aiops.server.access import Access, Identity, Role
from otel_aiops.server.access.tokens import MOST_S, Token
from otel_aiops.server.asking import page, posted_json

OVERLAP_S = 3_600.0
PRIVATE = {"Cache-Control": "no-store"}


def routes(access: Access, max_body_bytes: int) -> list[Route]:
    """All of them, in the order of the documents."""
    of = _Routes(access, max_body_bytes)
    return [
        Route("/api/v1/me", of.me),
        Route("/api/v1/tokens", of.tokens, methods=["GET"]),
        Route("/api/v1/tokens", of.create, methods=["POST"]),
        Route("/api/v1/tokens/{id}/rotate", of.rotate, methods=["POST"]),
        Route("/api/v1/tokens/{id}", of.revoke, methods=["DELETE"]),
    ]


class _Routes:
    def __init__(self, access: Access, max_body_bytes: int) -> None:
        self._access = access
        self._max_body_bytes = max_body_bytes

    async def me(self, request: Request) -> Response:
        """
        summary: Who asks, as which role, and how that is known.
        responses: {200: {description: who asks, returns: Me}}
        """
        who: Identity = request.state.identity
        told = {"name": who.name or None, "role": who.role, "how": who.how or None, "paths": list(who.paths)}
        return JSONResponse(told, headers=PRIVATE)

    async def tokens(self, request: Request) -> Response:
        """
        summary: The tokens with role, paths, expiry and last use; never what opens.
        parameters: [limit, offset]
        responses: {200: {description: the newest first, returns: Tokens}}
        """
        wanted = page(request)
        found = await run_in_threadpool(self._access.tokens.shown)
        return JSONResponse(wanted.cut({"tokens": found}, "tokens"), headers=PRIVATE)

    async def create(self, request: Request) -> Response:
        """
        summary: Make a token; what opens is in the answer and nowhere else.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                required: [name, role]
                properties:
                  name: {type: string, description: who decides when it is shown}
                  role: {$ref: '#/components/schemas/Role'}
                  paths:
                    type: array
                    maxItems: 20
                    items: {type: string}
                    description: "all that it opens, as /metrics"
                  lasts_s: {$ref: '#/components/schemas/TokenSeconds'}
        responses: {201: {description: "the token with its secret as `token`", returns: TokenMade}}
        """
        tree = _known(await posted_json(request, self._max_body_bytes, "a token"), "name role paths lasts_s")
        name, role, paths = tree.get("name"), tree.get("role"), tree.get("paths", [])
        if not isinstance(name, str):
            raise BadInput("name: expected who decides when it is shown, got none")
        if role not in [str(one) for one in Role]:
            raise BadInput(f"role: expected one of {', '.join(Role)}, got {str(role)[:100]!r}")
        if not isinstance(paths, list) or not all(isinstance(one, str) for one in paths) or len(paths) > 20:
            raise BadInput(f"paths: expected a list of at most 20 paths, got {str(paths)[:100]!r}")
        lasts_s = _seconds(tree, "lasts_s", 0.0)
        file, who = self._access.tokens.file, _who(request)
        return await self._made(
            lambda: file.create(name=name, role=Role(role), who=who, paths=paths, lasts_s=lasts_s), 201
        )

    async def rotate(self, request: Request) -> Response:
        """
        summary: Give a token a new secret; the one before opens for a while still.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                properties: {overlap_s: {$ref: '#/components/schemas/TokenSeconds'}}
        responses: {200: {description: "the token with its new secret as `token`", returns: TokenMade}}
        """
        tree = _known(await posted_json(request, self._max_body_bytes, "an object"), "overlap_s")
        overlap_s, name, who = _seconds(tree, "overlap_s", OVERLAP_S), request.path_params["id"], _who(request)
        return await self._made(lambda: self._access.tokens.file.rotate(name, who=who, overlap_s=overlap_s), 200)

    async def revoke(self, request: Request) -> Response:
        """
        summary: Revoke a token; it opens no more, and sessions that began with it end.
        responses: {200: {description: the token, returns: Token}}
        """
        name, who = request.path_params["id"], _who(request)

        def revoke() -> dict[str, Any]:
            done = self._access.tokens.file.revoke(name, who=who)
            self._access.tokens.reload()
            return done.shown(time.time_ns(), 0)

        return JSONResponse(await run_in_threadpool(revoke), headers=PRIVATE)

    async def _made(self, make: Callable[[], tuple[Token, str]], status: int) -> Response:
        def made() -> dict[str, Any]:
            token, text = make()
            self._access.tokens.reload()
            return {**token.shown(time.time_ns(), 0), "token": text}

        return JSONResponse(await run_in_threadpool(made), status, PRIVATE)


def _who(request: Request) -> str:
    who: Identity = request.state.identity
    return who.name or "the API, without signing in"


def _known(tree: Any, keys: str) -> dict[str, Any]:
    known = keys.split()
    if not isinstance(tree, dict):
        raise BadInput(f"expected an object with {', '.join(known)}, got {str(tree)[:100]!r}")
    if unknown := sorted(set(tree) - set(known)):
        raise BadInput(f"{unknown[0][:100]}: is not a known key; known here: {', '.join(known)}")
    return tree


def _seconds(tree: dict[str, Any], key: str, default: float) -> float:
    value = tree.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_S:
        raise BadInput(f"{key}: expected 0 to {MOST_S:.0f} seconds, got {str(value)[:100]!r}")
    return float(value)
