"""The overview: what is wrong now, and whether what watches over it is well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from otel_aiops.server.web.site import Site

NOW, PAST = "open,acknowledged", "resolved,merged"
SHOWN = 6  # of each list
GRAVE = ("two_senders", "unit_change", "temporality_change", "type_change")  # problems that senders should mend
MANY = 0.01  # share of the points from which other problems are told


class Asked(Protocol):
    """What is asked of the backend."""

    def not_ready(self) -> str | None: ...

    def status(self) -> dict[str, Any]: ...

    def anomalies(self, *, limit: int) -> dict[str, Any]: ...

    def budgets(self) -> dict[str, Any]: ...

    def services(self) -> dict[str, Any]: ...

    def quality(self) -> dict[str, Any]: ...


class Desk(Protocol):
    """What is asked of the desk."""

    def incidents(self, asked: Mapping[str, str], *, limit: int, offset: int) -> dict[str, Any]: ...

    def rollout(self) -> dict[str, Any]: ...

    def health(self) -> dict[str, Any]: ...

    def playbooks(self) -> dict[str, Any]: ...


class Overview:
    """One page."""

    def __init__(self, site: Site, backend: Asked, desk: Desk) -> None:
        self._site = site
        self._backend = backend
        self._desk = desk

    async def show(self, request: Request) -> Response:
        """All lists are short; each leads to the page that has the rest."""
        values = await self._site.ask(self._values)
        return self._site.page(request, "overview.html", "overview", **values)

    def _values(self) -> dict[str, Any]:
        backend, desk = self._backend, self._desk
        now = desk.incidents({"state": NOW}, limit=SHOWN, offset=0)
        return {
            "not_ready": backend.not_ready(),
            "status": backend.status(),
            "now": now,
            "predicted": desk.incidents({"state": "predicted"}, limit=SHOWN, offset=0),
            "past": desk.incidents({"state": PAST}, limit=SHOWN, offset=0),
            "budgets": backend.budgets()["budgets"],
            "services": backend.services()["services"][:SHOWN],
            "anomalies": backend.anomalies(limit=SHOWN),
            "rollout": desk.rollout(),
            "health": desk.health(),
            "playbooks": desk.playbooks(),
            "warnings": warnings(backend.quality()),
        }


def warnings(quality: Mapping[str, Any]) -> list[str]:
    """What is wrong with the stream, in plain words, the worst first."""
    found: list[tuple[float, str]] = []
    for one in quality["services"]:
        for problem, number in one["problems"].items():
            share = number / (one["points"] + number) if number else 0.0
            if share and (problem in GRAVE or share >= MANY):
                times = f"{number:,} times, {100 * share:.2g} % of its points"
                found.append((share, f"{one['service'] or 'unknown service'}: {problem.replace('_', ' ')} {times}"))
    table = quality["series"]
    if table["refused"]:
        worst = f"; {table['metric']} has most" if table["metric"] else ""
        found.append((2.0, f"{table['refused']:,} series were refused, the table is full{worst}"))
    return [text for _, text in sorted(found, reverse=True)]
