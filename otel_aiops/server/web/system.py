"""The page of the data that comes and of the service itself, plainly."""

from __future__ import annotations

from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from otel_aiops.server.web.overview import warnings
from otel_aiops.server.web.site import Site


class Asked(Protocol):
    """What is asked of the backend."""

    def not_ready(self) -> str | None: ...

    def status(self) -> dict[str, Any]: ...

    def quality(self) -> dict[str, Any]: ...

    def selftest(self) -> dict[str, Any] | None: ...


class System:
    """One page."""

    def __init__(self, site: Site, backend: Asked) -> None:
        self._site = site
        self._backend = backend

    def routes(self) -> list[Route]:
        """Its address."""
        return [Route("/system", self.show)]

    async def show(self, request: Request) -> Response:
        """What comes, how good it is, and how the service does."""
        values = await self._site.ask(self._values)
        return self._site.page(request, "system.html", "system", **values)

    def _values(self) -> dict[str, Any]:
        quality = self._backend.quality()
        return {
            "not_ready": self._backend.not_ready(),
            "status": self._backend.status(),
            "quality": quality,
            "warnings": warnings(quality),
            "selftest": self._backend.selftest(),
        }
