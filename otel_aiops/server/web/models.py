"""Pages of model versions: which are there, which run and how they do, reports, and changing what runs."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from otel_aiops.errors import BadInput
from otel_aiops.server.web.site import Site

HISTORY, RUNS, QUEUE, VERDICTS = 20, 5, 12, 50


class Asked(Protocol):
    """What is asked of the backend."""

    def verdicts(self, *, limit: int) -> dict[str, Any]: ...


class Desk(Protocol):
    """What is asked of the desk, and done."""

    def models(self) -> dict[str, Any]: ...

    def model(self, name: str) -> dict[str, Any] | None: ...

    def health(self) -> dict[str, Any]: ...

    def rollout(self) -> dict[str, Any]: ...

    def rollouts(self, *, limit: int) -> dict[str, Any]: ...

    def runs(self, *, limit: int) -> dict[str, Any]: ...

    def roll(self, asked: Any) -> dict[str, Any]: ...

    def save_model(self, asked: Any) -> dict[str, Any]: ...

    def order_run(self, asked: Any) -> dict[str, Any]: ...

    def feedback_queue(self, *, limit: int) -> dict[str, Any]: ...


class Models:
    """Versions, and the feedback that makes the next one better."""

    def __init__(self, site: Site, backend: Asked, desk: Desk) -> None:
        self._site = site
        self._backend = backend
        self._desk = desk

    def routes(self) -> list[Route]:
        """Their addresses."""
        return [
            Route("/models", self.list),
            Route("/models/roll", self.roll, methods=["POST"]),
            Route("/models/save", self.save, methods=["POST"]),
            Route("/models/run", self.run, methods=["POST"]),
            Route("/models/{id}", self.one),
            Route("/feedback", self.feedback),
        ]

    async def list(self, request: Request) -> Response:
        """All versions, who runs, and how it does."""
        values = await self._site.ask(self._values)
        return self._site.page(request, "models.html", "models", **values)

    def _values(self) -> dict[str, Any]:
        desk = self._desk
        return {
            "models": desk.models()["models"],
            "rollout": desk.rollout(),
            "health": desk.health(),
            "history": desk.rollouts(limit=HISTORY)["rollouts"],
            "runs": desk.runs(limit=RUNS),
        }

    async def one(self, request: Request) -> Response:
        """One version."""
        name = request.path_params["id"]
        found = await self._site.ask(lambda: self._desk.model(name))
        if found is None:
            return self._site.problem(request, 404, f"No model version has the id {name[:100]}.")
        rollout = await self._site.ask(self._desk.rollout)
        return self._site.page(request, "model.html", "models", one=found, rollout=rollout)

    async def roll(self, request: Request) -> Response:
        """Let a version run beside the champion, promote it, stop it, or roll back."""
        fields = await self._site.form(request)
        asked: dict[str, Any] = {key: fields[key] for key in ("action", "version", "who", "why") if fields.get(key)}
        if fields.get("share"):
            try:
                asked["share"] = float(fields["share"]) / 100
            except ValueError:
                raise BadInput(f"share: expected a number in percent, got {fields['share'][:100]!r}") from None
        await self._site.ask(lambda: self._desk.roll(asked))
        return self._site.done(request, fields, "/models", asked["action"])

    async def save(self, request: Request) -> Response:
        """Register what serves as it is."""
        fields = await self._site.form(request)
        asked = {"who": fields["who"], "why": fields.get("why", "")}
        made = await self._site.ask(lambda: self._desk.save_model(asked))
        return self._site.done(request, fields, f"/models/{quote(made['id'], safe='')}", "save")

    async def run(self, request: Request) -> Response:
        """Have a new version made and judged."""
        fields = await self._site.form(request)
        await self._site.ask(lambda: self._desk.order_run({"who": fields["who"], "why": fields.get("why", "")}))
        return self._site.done(request, fields, "/models", "run")

    async def feedback(self, request: Request) -> Response:
        """Which cases to label next, and what was said."""
        queue = await self._site.ask(lambda: self._desk.feedback_queue(limit=QUEUE))
        verdicts = await self._site.ask(lambda: self._backend.verdicts(limit=VERDICTS))
        return self._site.page(request, "feedback.html", "feedback", queue=queue, verdicts=verdicts)
