"""Pages of incidents: the list, one of them with its evidence, alerts of others, and what people decide and say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from otel_aiops.errors import BadInput
from otel_aiops.server.asking import integer
from otel_aiops.server.web.graph import graph
from otel_aiops.server.web.site import Site

PAGE = 50
FURTHEST = 200_000  # pages
VIEWS = {
    "now": "open,acknowledged",
    "predicted": "predicted",
    "past": "resolved,merged,expired",
    "all": "",
}
ALERTS, PREDICTED = "alerts", "predicted"
NAMES = {"now": "Now", "predicted": "Predicted", "past": "Past", "all": "All", ALERTS: "Alerts of others"}
SEVERITIES = ("critical", "warning", "info")
MOST_PLOTS = 6
MOST_STANDING = 100  # predictions
RESPONSES = 20  # of one incident; the page of responses has all


class Desk(Protocol):
    """What is asked of the desk, and done."""

    def incidents(self, asked: Mapping[str, str], *, limit: int, offset: int) -> dict[str, Any]: ...

    def incident(self, name: str) -> dict[str, Any] | None: ...

    def predictions(self, *, limit: int, offset: int) -> dict[str, Any]: ...

    def mark(self, name: str, asked: Any) -> dict[str, Any] | None: ...

    def judge_incident(self, name: str, asked: Any) -> dict[str, Any] | None: ...

    def silence_incident(self, name: str, asked: Any) -> dict[str, Any] | None: ...

    def known_alerts(self, *, limit: int, offset: int) -> dict[str, Any]: ...

    def responses(self, asked: Mapping[str, str], *, limit: int, offset: int = 0) -> dict[str, Any]: ...

    def graph(self) -> dict[str, Any]: ...


class Incidents:
    """The list and one."""

    def __init__(self, site: Site, desk: Desk) -> None:
        self._site = site
        self._desk = desk

    def routes(self) -> list[Route]:
        """Their addresses."""
        return [
            Route("/incidents", self.list),
            Route("/incidents/{id}", self.one),
            Route("/incidents/{id}/mark", self.mark, methods=["POST"]),
            Route("/incidents/{id}/silence", self.silence, methods=["POST"]),
            Route("/incidents/{id}/verdict", self.judge, methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        """A page of those that are wanted."""
        query = request.query_params
        view = query.get("view", "now")
        if view not in NAMES:
            raise BadInput(f"view: expected one of {', '.join(NAMES)}, got {view[:100]!r}")
        number = integer(request, "page", 1, FURTHEST, least=1)
        kept = {key: query[key] for key in ("severity", "service") if query.get(key)}
        if view == ALERTS:
            return await self._alerts(request, kept, number)
        if view == PREDICTED:
            return await self._predicted(request, kept, number)
        asked = kept | ({"state": VIEWS[view]} if VIEWS[view] else {})
        found = await self._site.ask(lambda: self._desk.incidents(asked, limit=PAGE, offset=PAGE * (number - 1)))
        return await self._listed(request, "incidents.html", view, kept, number, found["total"], found=found)

    async def _predicted(self, request: Request, kept: Mapping[str, str], number: int) -> Response:
        """Predictions that stand, and a page of those of which it is known whether they came true."""
        standing = {**kept, "state": VIEWS[PREDICTED]}
        past = await self._site.ask(lambda: self._desk.predictions(limit=PAGE, offset=PAGE * (number - 1)))
        found = await self._site.ask(lambda: self._desk.incidents(standing, limit=MOST_STANDING, offset=0))
        template, total = "predictions.html", past["total"]
        return await self._listed(request, template, PREDICTED, kept, number, total, found=found, past=past)

    async def _alerts(self, request: Request, kept: Mapping[str, str], number: int) -> Response:
        """A page of the alerts of others."""
        found = await self._site.ask(lambda: self._desk.known_alerts(limit=PAGE, offset=PAGE * (number - 1)))
        return await self._listed(request, "alerts.html", ALERTS, kept, number, found["total"], found=found)

    async def _listed(
        self, request: Request, template: str, view: str, kept: Mapping[str, str], number: int, total: int, **more: Any
    ) -> Response:
        """One page of a list, below the names of all lists."""
        return self._site.page(
            request,
            template,
            "incidents",
            view=view,
            views=await self._site.ask(lambda: self._views(kept)),
            severities=SEVERITIES,
            severity=kept.get("severity", ""),
            service=kept.get("service", ""),
            number=number,
            last=max(1, -(-total // PAGE)),
            link=lambda n: "?" + urlencode({"view": view, **kept, "page": n}),
            **more,
        )

    def _views(self, kept: Mapping[str, str]) -> Sequence[tuple[str, str, str, int]]:
        """(name, title, address, how many) of each list."""
        counts = {name: self._count(kept, state) for name, state in VIEWS.items()}
        counts[ALERTS] = self._desk.known_alerts(limit=0, offset=0)["total"]
        return [(name, NAMES[name], "?" + urlencode({"view": name, **kept}), counts[name]) for name in NAMES]

    def _count(self, kept: Mapping[str, str], state: str) -> int:
        asked = {**kept, **({"state": state} if state else {})}
        return int(self._desk.incidents(asked, limit=0, offset=0)["total"])

    async def one(self, request: Request) -> Response:
        """One incident."""
        name = request.path_params["id"]
        found = await self._site.ask(lambda: self._desk.incident(name))
        if found is None:
            return self._site.problem(request, 404, f"No incident has the id {name[:100]}.")
        responses = await self._site.ask(lambda: self._desk.responses({"incident": name}, limit=RESPONSES))
        if "alert" in found:
            return self._site.page(request, "alert.html", "incidents", one=found, responses=responses)
        suspects = [suspect["service"] for suspect in found["suspects"]]
        calls = await self._site.ask(self._desk.graph)
        return self._site.page(
            request,
            "incident.html",
            "incidents",
            one=found,
            responses=responses,
            plots=plots(found),
            picture=graph(calls, suspects, found["services"]),
        )

    async def mark(self, request: Request) -> Response:
        """Acknowledge, resolve, reopen."""
        name, fields = request.path_params["id"], await self._site.form(request)
        asked = {"action": fields.get("action", ""), "who": fields["who"], "why": fields.get("why", "")}
        found = await self._site.ask(lambda: self._desk.mark(name, asked))
        return self._after(request, name, fields, asked["action"], found)

    async def silence(self, request: Request) -> Response:
        """Have it, or its services, page nobody for a time."""
        name, fields = request.path_params["id"], await self._site.form(request)
        asked = {key: fields.get(key, "") for key in ("scope", "for", "who", "why")}
        found = await self._site.ask(lambda: self._desk.silence_incident(name, asked))
        return self._after(request, name, fields, "silence", found)

    async def judge(self, request: Request) -> Response:
        """Say what it was."""
        name, fields = request.path_params["id"], await self._site.form(request)
        asked = {"verdict": fields.get("verdict", ""), "who": fields["who"], "why": fields.get("why", "")}
        asked |= {"of": fields["of"]} if fields.get("of") and asked["verdict"] == "duplicate" else {}
        found = await self._site.ask(lambda: self._desk.judge_incident(name, asked))
        return self._after(request, name, fields, "verdict", found)

    def _after(self, request: Request, name: str, fields: Mapping[str, str], what: str, found: Any) -> Response:
        if found is None:
            return self._site.problem(request, 404, f"No incident has the id {name[:100]}.")
        return self._site.done(request, fields, f"/incidents/{quote(name, safe='')}", what)


def plots(incident: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Series that show something, each once, the first suspect's first: what to draw, and of when."""
    until = incident["end"]
    found: dict[str, dict[str, Any]] = {}
    last = {one["evidence"]["series"]: one["last"] for one in incident["findings"]}
    for evidence in _evidence(incident):
        series = evidence["series"]
        if series and series not in found:
            at = last.get(series) or until or incident["detected_at"] or incident["start"]
            found[series] = {"series": series, "at": at, "service": evidence["service"], "text": evidence["text"]}
    return list(found.values())[:MOST_PLOTS]


def _evidence(incident: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    for suspect in incident["suspects"]:
        yield from suspect["evidence"]
    for finding in incident["findings"]:
        yield finding["evidence"]
