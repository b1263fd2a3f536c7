"""Pages of objectives: what each team wants, which version of it holds, and how its alert budget is kept."""

from __future__ import annotations

from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from otel_aiops.server.web.site import Site


class Asked(Protocol):
    """What is asked of the backend."""

    def objectives(self) -> dict[str, Any]: ...

    def budgets(self) -> dict[str, Any]: ...

    def alerts(self, *, limit: int) -> dict[str, Any]: ...


class Objectives:
    """The list and one."""

    def __init__(self, site: Site, backend: Asked) -> None:
        self._site = site
        self._backend = backend

    def routes(self) -> list[Route]:
        """Their addresses."""
        return [Route("/objectives", self.list), Route("/objectives/{name}", self.one)]

    async def list(self, request: Request) -> Response:
        """All of them, and budgets without an objective."""
        found = (await self._site.ask(self._backend.objectives))["objectives"]
        budgets = (await self._site.ask(self._backend.budgets))["budgets"]
        named = {one["name"] for one in found}
        rest = [one for one in budgets if one["name"] not in named]
        return self._site.page(request, "objectives.html", "objectives", objectives=found, budgets=rest)

    async def one(self, request: Request) -> Response:
        """One of them with everything that it says, and its alerts now."""
        name = request.path_params["name"]
        found = (await self._site.ask(self._backend.objectives))["objectives"]
        named = next((one for one in found if one["name"] == name), None)
        if named is None:
            return self._site.problem(request, 404, f"No objective is called {name[:100]}.")
        alerts = (await self._site.ask(lambda: self._backend.alerts(limit=1_000)))["alerts"]
        own = [one for one in alerts if one["objective"] == name]
        return self._site.page(request, "objective.html", "objectives", one=named, alerts=own)
