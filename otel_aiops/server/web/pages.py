"""Pages: all routes of the page, and when somebody wants a page and not a plain answer."""

from __future__ import annotations

import threading
from typing import Final, Protocol

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from otel_aiops.server.access import Access
from otel_aiops.server.asking import wants_page as wants_page
from otel_aiops.server.web import (
    incidents,
    models,
    objectives,
    overview,
    responses,
    runbooks,
    series,
    silences,
    system,
)
from otel_aiops.server.web.pulse import Pulse
from otel_aiops.server.web.render import HERE
from otel_aiops.server.web.signing import Signing
from otel_aiops.server.web.site import Site

STATIC: Final = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}


class Shown(overview.Asked, series.Asked, objectives.Asked, models.Asked, system.Asked, Protocol):
    """All that pages ask of the backend."""

    def pulse(self) -> dict[str, int]: ...


class Decided(overview.Desk, incidents.Desk, models.Desk, responses.Desk, silences.Desk, Protocol):
    """All that pages ask of the desk, or have it do."""


class Pages:
    """The page; `closing` is set when the server ends."""

    def __init__(self, backend: Shown, desk: Decided, closing: threading.Event, access: Access) -> None:
        self.site = Site(signs_in=access.signs_in)
        self.pulse = Pulse(lambda: backend.pulse(), closing)
        self._overview = overview.Overview(self.site, backend, desk)
        self._others = (
            incidents.Incidents(self.site, desk),
            series.SeriesPages(self.site, backend),
            objectives.Objectives(self.site, backend),
            models.Models(self.site, backend, desk),
            responses.ResponsePages(self.site, desk),
            silences.Silences(self.site, desk),
            system.System(self.site, backend),
            runbooks.Runbooks(self.site),
            Signing(self.site, access),
        )

    async def overview(self, request: Request) -> Response:
        """The first page."""
        return await self._overview.show(request)

    def routes(self) -> list[Route]:
        """All but the first page, whose address programs ask too."""
        found = [Route("/live", self.pulse.stream), Route("/static/{name}", self._static)]
        found += [route for pages in self._others for route in pages.routes()]
        for route in found:
            route.include_in_schema = False  # the API is what is described
        return found

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            return self.site.problem(request, 404, "There is no such file.")
        return FileResponse(HERE / "static" / name, media_type=STATIC[name], headers={"Cache-Control": "no-cache"})
