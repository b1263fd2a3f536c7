"""The API's backend for incidents and model versions: one door for what is seen and what is decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from otel_aiops.desk.decisions import Decisions, Kind
from otel_aiops.desk.feedback import Feedback
from otel_aiops.desk.incidents import IncidentViews
from otel_aiops.desk.live import Live
from otel_aiops.desk.precursors import PrecursorViews
from otel_aiops.desk.responses import Responses
from otel_aiops.desk.retraining import Retraining
from otel_aiops.desk.scoring import ScoreViews
from otel_aiops.desk.surroundings import Surroundings
from otel_aiops.desk.versions import Versions

if TYPE_CHECKING:
    from otel_aiops.app import Service


class Desk:
    """Every method may be called from any thread; those that ask for something raise BadInput naming the key."""

    def __init__(self, service: Service, alone: Callable[[], AbstractContextManager[None]]) -> None:
        live = Live(service)
        self._incidents = IncidentViews(service, live)
        self._decisions = Decisions(service, live)
        self._precursors = PrecursorViews(service)
        self._surroundings = Surroundings(service, live, alone)
        self._versions = Versions(service, live)
        self._retraining = Retraining(service)
        self._feedback = Feedback(service, live)
        self._scores = ScoreViews(service)
        self._responses = Responses(service, live)
        self._inbound = service.inbound

    def incidents(self, asked: Mapping[str, str], *, limit: int, offset: int) -> dict[str, Any]:
        return self._incidents.incidents(asked, limit=limit, offset=offset)

    def incident(self, name: str) -> dict[str, Any] | None:
        return self._incidents.incident(name)

    def timeline(self, name: str, *, limit: int) -> dict[str, Any] | None:
        return self._incidents.timeline(name, limit=limit)

    def report(self, name: str) -> str | None:
        return self._incidents.report(name)

    def mark(self, name: str, asked: Any) -> dict[str, Any] | None:
        """The incident as it is then."""
        return self._incidents.incident(name) if self._decisions.mark(name, asked) else None

    def silence_incident(self, name: str, asked: Any) -> dict[str, Any] | None:
        """The silence that was made."""
        return self._decisions.silence_incident(name, asked)

    def known_alerts(self, *, limit: int, offset: int) -> dict[str, Any]:
        return self._incidents.known_alerts(limit=limit, offset=offset)

    def rules(self, kind: Kind) -> dict[str, Any]:
        return self._decisions.rules(kind)

    def set_rule(self, kind: Kind, asked: Any) -> dict[str, Any]:
        return self._decisions.set(kind, asked)

    def end_rule(self, kind: Kind, name: str, asked: Mapping[str, str]) -> dict[str, Any] | None:
        return {"ended": name} if self._decisions.end(kind, name, asked) else None

    def predictions(self, *, limit: int, offset: int = 0) -> dict[str, Any]:
        return self._incidents.predictions(limit=limit, offset=offset)

    def precursors(self, *, limit: int, offset: int = 0) -> dict[str, Any]:
        return self._precursors.precursors(limit=limit, offset=offset)

    def graph(self) -> dict[str, Any]:
        return self._surroundings.graph()

    def deployments(self, asked: Mapping[str, str], *, limit: int, offset: int = 0) -> dict[str, Any]:
        return self._surroundings.deployments(asked, limit=limit, offset=offset)

    def advice(self, *, limit: int, offset: int = 0) -> dict[str, Any]:
        return self._surroundings.advice(limit=limit, offset=offset)

    def models(self) -> dict[str, Any]:
        return self._versions.models()

    def model(self, name: str) -> dict[str, Any] | None:
        return self._versions.model(name)

    def health(self) -> dict[str, Any]:
        return self._versions.health()

    def rollout(self) -> dict[str, Any]:
        return self._versions.rollout()

    def roll(self, asked: Any) -> dict[str, Any]:
        return self._versions.roll(asked)

    def report_page(self, name: str) -> str | None:
        return self._versions.report_page(name)

    def save_model(self, asked: Any) -> dict[str, Any]:
        return self._versions.save(asked)

    def runs(self, *, limit: int, offset: int = 0) -> dict[str, Any]:
        return self._retraining.runs(limit=limit, offset=offset)

    def order_run(self, asked: Any) -> dict[str, Any]:
        return self._retraining.order(asked)

    def rollouts(self, *, limit: int, offset: int = 0) -> dict[str, Any]:
        return self._versions.history(limit=limit, offset=offset)

    def judge_incident(self, name: str, asked: Any) -> dict[str, Any] | None:
        return self._feedback.judge(name, asked)

    def feedback_queue(self, *, limit: int) -> dict[str, Any]:
        return self._feedback.queue(limit=limit)

    def audit(self, asked: Mapping[str, str], *, limit: int, offset: int = 0) -> dict[str, Any]:
        return self._feedback.audit(asked, limit=limit, offset=offset)

    def score(self, asked: Any) -> dict[str, Any] | None:
        return self._scores.score(asked)

    def playbooks(self) -> dict[str, Any]:
        return self._responses.playbooks()

    def test_playbooks(self, asked: Any) -> dict[str, Any] | None:
        return self._responses.test(asked)

    def responses(self, asked: Mapping[str, str], *, limit: int, offset: int = 0) -> dict[str, Any]:
        return self._responses.responses(asked, limit=limit, offset=offset)

    def chain(self, *, limit: int) -> dict[str, Any]:
        return self._responses.chain(limit=limit)

    def response(self, name: str) -> dict[str, Any] | None:
        return self._responses.response(name)

    def vote(self, name: str, asked: Any, *, agrees: bool) -> dict[str, Any] | None:
        return self._responses.vote(name, asked, agrees=agrees)

    def stop_responses(self, asked: Any, *, stops: bool) -> dict[str, Any]:
        return self._responses.stop(asked, stops=stops)

    def notify(self, tree: Any) -> dict[str, Any]:
        return self._inbound.notify(tree)
