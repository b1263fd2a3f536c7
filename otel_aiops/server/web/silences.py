"""The page of silences and maintenance windows: which hold, who made them and why, and making and ending them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from otel_aiops.errors import BadInput
from otel_aiops.server.web.site import Site

Rules = Literal["silences", "maintenance"]
KINDS: Final[Mapping[str, Rules]] = {"silence": "silences", "maintenance": "maintenance"}


class Desk(Protocol):
    """What is asked of the desk, and done."""

    def rules(self, kind: Rules) -> dict[str, Any]: ...

    def set_rule(self, kind: Rules, asked: Any) -> dict[str, Any]: ...

    def end_rule(self, kind: Rules, name: str, asked: Mapping[str, str]) -> dict[str, Any] | None: ...


class Silences:
    """One page."""

    def __init__(self, site: Site, desk: Desk) -> None:
        self._site = site
        self._desk = desk

    def routes(self) -> list[Route]:
        """Its addresses."""
        return [
            Route("/silences", self.list, methods=["GET"]),
            Route("/silences", self.begin, methods=["POST"]),
            Route("/silences/end", self.end, methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        """All that hold or will."""
        silences = await self._site.ask(lambda: self._desk.rules("silences"))
        windows = await self._site.ask(lambda: self._desk.rules("maintenance"))
        return self._site.page(
            request, "silences.html", "silences", silences=silences["silences"], windows=windows["maintenance"]
        )

    async def begin(self, request: Request) -> Response:
        """Silence services, or announce work on them."""
        fields = await self._site.form(request)
        kind = _kind(fields)
        asked = {key: fields[key] for key in ("services", "for", "who", "why") if fields.get(key)}
        await self._site.ask(lambda: self._desk.set_rule(kind, asked))
        return self._site.done(request, fields, "/silences", "silence" if kind == "silences" else "maintenance")

    async def end(self, request: Request) -> Response:
        """End one of them."""
        fields = await self._site.form(request)
        kind, name = _kind(fields), fields.get("name", "")
        asked = {"who": fields["who"], "why": fields.get("why", "")}
        if await self._site.ask(lambda: self._desk.end_rule(kind, name, asked)) is None:
            return self._site.problem(request, 404, f"Nothing of the name {name[:100]} holds.")
        return self._site.done(request, fields, "/silences", "unsilence")


def _kind(fields: Mapping[str, str]) -> Rules:
    kind = fields.get("kind", "")
    if kind not in KINDS:
        raise BadInput(f"kind: expected one of {', '.join(KINDS)}, got {kind[:100]!r}")
    return KINDS[kind]
