"""The conductor: looks beside the step loop how a challenger does, and carries a rollout on by the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_aiops.desk.live import Live
from otel_aiops.desk.versions import Versions
from otel_aiops.detect.serving import Action
from otel_aiops.errand import Errand
from otel_aiops.lifecycle.comparison import Comparison, compare
from otel_aiops.lifecycle.judge import Judgement, RolloutConfig, judge

if TYPE_CHECKING:
    from otel_aiops.app import Service

ITSELF = "otel-aiops"  # who gives the orders


class Conductor:
    """Without `lifecycle.rollout.automatic` it only says what the rules advise."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.advice: Judgement | None = None  # the newest; None while one version runs alone
        failure = "a rollout could not be looked after"
        self.errand = Errand("rollouts", self.look, every_s=lambda: self._config.interval, failure=failure)

    @property
    def _config(self) -> RolloutConfig:
        return self._service.config.lifecycle.rollout

    def look(self) -> Judgement | None:
        """What the rules say now; carried out where that is wanted. Raises: Overloaded, BadInput, StateError."""
        config = self._config
        found, role, version, budget = self._service.ask(self._compared)
        self.advice = None if found is None else judge(found, role, budget, config)
        if self.advice is None or self.advice.action is None or not config.automatic:
            return self.advice
        order = {"action": str(self.advice.action), "who": ITSELF, "why": "; ".join(self.advice.reasons)[:2_000]}
        if self.advice.action in (Action.CANARY, Action.PROMOTE):
            order["version"] = version
        share = {"share": config.share} if self.advice.action == Action.CANARY else {}
        Versions(self._service, Live(self._service)).roll({**order, **share})
        return self.advice

    def _compared(self) -> tuple[Comparison | None, str, str, float]:
        """(how both do, role and id of the other one, alerts a week that are wanted); in the step loop."""
        pipeline = self._service.pipeline
        serving = pipeline.serving
        budget = sum(one.budget for one in pipeline.alerting.budget.reports() if one.series)
        return compare(serving, pipeline.event_ns), serving.role, serving.other.name if serving.other else "", budget
