"""The conductor: looks beside the step loop how a challenger does, and carries a rollout on by the rules."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import structlog

from otel_aiops.desk.live import Live
from otel_aiops.desk.versions import Versions
from otel_aiops.detect.serving import Action
from otel_aiops.errors import AiopsError
from otel_aiops.lifecycle.comparison import Comparison, compare
from otel_aiops.lifecycle.judge import Judgement, judge

if TYPE_CHECKING:
    from otel_aiops.app import Service

log = structlog.get_logger("otel_aiops")

STOP_S = 2.0
ITSELF = "otel-aiops"  # who gives the orders


class Conductor:
    """One thread. Without `lifecycle.rollout.automatic` it only says what the rules advise."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rollouts", daemon=True)
        self.advice: Judgement | None = None  # the newest; None while one version runs alone

    def start(self) -> None:
        """Begin to look, now and then."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        if self._thread.ident:
            self._thread.join(STOP_S)

    def look(self) -> Judgement | None:
        """What the rules say now; carried out where that is wanted. Raises: Overloaded, BadInput, StateError."""
        config = self._service.config.lifecycle.rollout
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

    def _run(self) -> None:
        while not self._stopping.wait(self._service.config.lifecycle.rollout.interval):
            try:
                self.look()
            except AiopsError as error:
                log.warning("a rollout could not be looked after", error=str(error))
            except Exception:  # what serves goes on
                log.exception("a rollout could not be looked after")
