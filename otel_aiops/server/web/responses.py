"""Pages of responses: what is done, waits for people or was done, what playbooks say, and the switch that stops all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from otel_aiops.errors import BadInput
from otel_aiops.responses.runs import UNFINISHED, RunState
from otel_aiops.server.asking import integer
from otel_aiops.server.web.site import Site, back

PAGE, LIVE, LINES = 50, 100, 20
FURTHEST = 200_000  # pages
VOTES: Final = {"approve": True, "refuse": False}
SWITCHES: Final = {"stop": True, "resume": False}


class Desk(Protocol):
    """What is asked of the desk, and done."""

    def playbooks(self) -> dict[str, Any]: ...

    def test_playbooks(self, asked: Any) -> dict[str, Any] | None: ...

    def responses(self, asked: Mapping[str, str], *, limit: int, offset: int = 0) -> dict[str, Any]: ...

    def response(self, name: str) -> dict[str, Any] | None: ...

    def chain(self, *, limit: int) -> dict[str, Any]: ...

    def vote(self, name: str, asked: Any, *, agrees: bool) -> dict[str, Any] | None: ...

    def stop_responses(self, asked: Any, *, stops: bool) -> dict[str, Any]: ...


class ResponsePages:
    """The list, one of them, and what playbooks would do about an incident."""

    def __init__(self, site: Site, desk: Desk) -> None:
        self._site = site
        self._desk = desk

    def routes(self) -> list[Route]:
        """Their addresses."""
        return [
            Route("/responses", self.list),
            Route("/responses/switch", self.switch, methods=["POST"]),
            Route("/responses/{id}", self.one),
            Route("/responses/{id}/vote", self.vote, methods=["POST"]),
            Route("/incidents/{id}/playbooks", self.test),
        ]

    async def list(self, request: Request) -> Response:
        """What goes on and waits, the playbooks, a page of what was, and whether the audit holds."""
        query = request.query_params
        number = integer(request, "page", 1, FURTHEST, least=1)
        kept = {key: query[key] for key in ("state", "playbook") if query.get(key)}
        values = await self._site.ask(lambda: self._values(kept, number))
        return self._site.page(
            request,
            "responses.html",
            "responses",
            states=[one for one in RunState if one not in UNFINISHED],
            state=query.get("state", ""),
            playbook=query.get("playbook", ""),
            number=number,
            last=max(1, -(-values["past"]["total"] // PAGE)),
            link=lambda n: "?" + urlencode({**kept, "page": n}) + "#history",
            **values,
        )

    def _values(self, kept: Mapping[str, str], number: int) -> dict[str, Any]:
        desk = self._desk
        ended = ",".join(one for one in RunState if one not in UNFINISHED)
        return {
            "playbooks": desk.playbooks(),
            "waiting": desk.responses({"state": RunState.WAITING}, limit=LIVE),
            "running": desk.responses({"state": RunState.ACTIVE}, limit=LIVE),
            "past": desk.responses({"state": ended, **kept}, limit=PAGE, offset=PAGE * (number - 1)),
            "chain": desk.chain(limit=LINES),
        }

    async def one(self, request: Request) -> Response:
        """One of them with everything that was done and said."""
        name = request.path_params["id"]
        found = await self._site.ask(lambda: self._desk.response(name))
        if found is None:
            return self._missing(request, name)
        return self._site.page(request, "response.html", "responses", one=found)

    async def vote(self, request: Request) -> Response:
        """Approve or refuse what waits."""
        name, fields = request.path_params["id"], await self._site.form(request)
        agrees = _chosen(fields, VOTES)
        found = await self._site.ask(lambda: self._desk.vote(name, _person(fields), agrees=agrees))
        if found is None:
            return self._missing(request, name)
        return self._site.done(request, fields, back(fields, f"/responses/{quote(name, safe='')}"), fields["action"])

    async def switch(self, request: Request) -> Response:
        """Stop all responses, or let them go on."""
        fields = await self._site.form(request)
        stops = _chosen(fields, SWITCHES)
        await self._site.ask(lambda: self._desk.stop_responses(_person(fields), stops=stops))
        return self._site.done(request, fields, "/responses", "halt" if stops else "resume")

    async def test(self, request: Request) -> Response:
        """What playbooks would do about an incident now; nothing is done."""
        name = request.path_params["id"]
        found = await self._site.ask(lambda: self._desk.test_playbooks({"incident": name}))
        if found is None:
            message = f"No incident that is not long over has the id {name[:100]}."
            return self._site.problem(request, 404, message)
        return self._site.page(request, "playbooks.html", "incidents", one=found)

    def _missing(self, request: Request, name: str) -> Response:
        return self._site.problem(request, 404, f"No response has the id {name[:100]}.")


def _chosen(fields: Mapping[str, str], words: Mapping[str, bool]) -> bool:
    action = fields.get("action", "")
    if action not in words:
        raise BadInput(f"action: expected one of {', '.join(words)}, got {action[:100]!r}")
    return words[action]


def _person(fields: Mapping[str, str]) -> dict[str, str]:
    return {"who": fields["who"], "why": fields.get("why", "")}
