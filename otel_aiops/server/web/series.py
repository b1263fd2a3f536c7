"""Pages of series: search, one of them with band, score, reason and forecast, and what people say of its alerts."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from otel_aiops.errors import AiopsError, BadInput
from otel_aiops.server.asking import integer
from otel_aiops.server.web.plot import outlook, plot
from otel_aiops.server.web.site import Site, back

PAGE = 50
STRANGEST = 10
FURTHEST = 2**31
NARROW, USUAL, WIDE = 280, 860, 1600
FINGERPRINT = re.compile(r"[0-9a-f]{16}")
HORIZON = "1d"
HORIZONS = {"6h": "6 hours", "1d": "1 day", "3d": "3 days", "7d": "7 days", "30d": "30 days"}
AHEAD = ("horizon", "limit", "direction")


class Asked(Protocol):
    """What is asked of the backend, and done."""

    def anomalies(self, *, limit: int) -> dict[str, Any]: ...

    def search(self, words: str, service: str, *, after: int, limit: int) -> dict[str, Any]: ...

    def explain(self, fingerprint: int) -> dict[str, Any] | None: ...

    def why(self, series: str, time: str) -> dict[str, Any]: ...

    def forecast(self, series: str, asked: dict[str, str]) -> dict[str, Any]: ...

    def judge(self, tree: Any) -> dict[str, Any]: ...


class SeriesPages:
    """The explorer and one."""

    def __init__(self, site: Site, backend: Asked) -> None:
        self._site = site
        self._backend = backend

    def routes(self) -> list[Route]:
        """Their addresses."""
        return [
            Route("/series", self.list),
            Route("/series/{fingerprint}", self.one),
            Route("/series/{fingerprint}/plot", self.plot),
            Route("/series/{fingerprint}/forecast", self.forecast),
            Route("/series/{fingerprint}/verdict", self.judge, methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        """Those that are searched for; without a search, the strangest first."""
        words, service = (request.query_params.get(name, "") for name in ("search", "service"))
        after = integer(request, "after", -1, FURTHEST)
        found = await self._site.ask(lambda: self._backend.search(words, service, after=after, limit=PAGE))
        strange = await self._site.ask(lambda: self._backend.anomalies(limit=STRANGEST))
        return self._site.page(
            request,
            "series.html",
            "series",
            words=words,
            service=service,
            found=found,
            strange=strange if not (words or service) and after < 0 else {"total": 0, "anomalies": []},
            after=after,
        )

    async def one(self, request: Request) -> Response:
        """One series; its plots are fetched when the page is there."""
        name = _fingerprint(request)
        found = await self._site.ask(lambda: self._backend.explain(int(name, 16)))
        if found is None:
            return self._site.problem(request, 404, f"No series has the fingerprint {name}.")
        query = request.query_params
        ahead = {key: query[key] for key in AHEAD if query.get(key)}
        return self._site.page(
            request,
            "one_series.html",
            "series",
            one=found,
            at=query.get("at", "now"),
            ahead=ahead,
            horizon=ahead.get("horizon", HORIZON),
            horizons=HORIZONS,
            forecast=f"/series/{name}/forecast?{urlencode(ahead)}",
        )

    async def plot(self, request: Request) -> Response:
        """The picture of a moment, and why it was so: a part of other pages."""
        name, at = _fingerprint(request), _time(request.query_params.get("at", "now"))
        return await self._part(
            lambda: self._backend.why(name, at),
            lambda told: plot(told, width=_width(request)),
        )

    async def forecast(self, request: Request) -> Response:
        """The picture of what is to come, and when that reaches a limit: a part of other pages."""
        name, query = _fingerprint(request), request.query_params
        asked = {"horizon": HORIZON} | {key: query[key] for key in AHEAD if query.get(key)}
        if asked["horizon"] not in HORIZONS:
            raise BadInput(f"horizon: expected one of {', '.join(HORIZONS)}, got {asked['horizon'][:100]!r}")
        return await self._part(
            lambda: self._backend.forecast(name, asked),
            lambda told: outlook(told, width=_width(request)),
            "outlook.html",
        )

    async def judge(self, request: Request) -> Response:
        """Say what an alert was."""
        name, fields = _fingerprint(request), await self._site.form(request)
        verdict = {
            "series": name,
            "time": _number(fields.get("time", "")),
            "verdict": fields.get("verdict", ""),
            "by": fields["who"],
            "note": fields.get("why", ""),
        }
        await self._site.ask(lambda: self._backend.judge(verdict))
        return self._site.done(request, fields, back(fields, f"/series/{name}"), "verdict")

    async def _part(self, ask: Any, draw: Any, template: str = "plot.html") -> Response:
        """A picture with its words, or in its place why there is none."""
        try:
            told = await self._site.ask(ask)
        except AiopsError as error:
            return self._site.part("no_plot.html", message=str(error))
        return self._site.part(template, picture=draw(told), told=told)


def _fingerprint(request: Request) -> str:
    name = str(request.path_params["fingerprint"])
    if not FINGERPRINT.fullmatch(name):
        raise BadInput(f"fingerprint: expected 16 hexadecimal digits, got {name[:100]!r}")
    return name


def _width(request: Request) -> int:
    return min(max(integer(request, "width", USUAL, 1 << 20), NARROW), WIDE)


def _time(text: str) -> str:
    """Unix seconds as ISO 8601; what else the backend reads stays."""
    try:
        return datetime.fromtimestamp(float(text), UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return text[:100]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
