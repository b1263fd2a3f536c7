"""Questions about incidents to the step loop, and waiting for what it was told."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from otel_aiops.errors import Overloaded
from otel_aiops.incidents.incident import Incident
from otel_aiops.incidents.suppress import Decision, Maintenance, Silence

if TYPE_CHECKING:
    from otel_aiops.app import Service

NO_TELEMETRY_NS = 31_536_000_000_000_000  # an event clock in 1970 has seen none: the time of day counts
PATIENCE_S = 20.0
PAUSE_S = 0.01
MOMENT_S = 2.0


class Live:
    """What the pipeline knows now."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def now_ns(self) -> int:
        """The event time by which people ask."""
        event_ns = self._service.pipeline.event_ns
        return event_ns if event_ns > NO_TELEMETRY_NS else self._service.clock_ns()

    def standing(self) -> tuple[Incident, ...]:
        """Incidents that are open or acknowledged, and predictions that stand."""

        def answer() -> tuple[Incident, ...]:
            incidents = self._service.pipeline.analysis.incidents
            return (*incidents.open(), *incidents.predicted())

        return self._service.ask(answer)

    def find(self, name: str) -> Incident | None:
        """An incident or prediction that is not long over."""
        return self._service.ask(lambda: self._service.pipeline.analysis.incidents.find(name))

    def rules(self) -> tuple[Silence | Maintenance, ...]:
        """Silences and maintenance windows that hold or will."""
        return self._service.ask(lambda: self._service.pipeline.analysis.incidents.rules())

    def decide(self, decision: Decision) -> None:
        """Have a decision carried out. Raises: Overloaded when it is logged, but not done in time."""
        self.await_step(self._service.ingest.decide(decision))

    def await_step(self, sequence: int) -> None:
        """Wait until a body of the log is taken in. Raises: Overloaded when that takes too long."""
        if not self._done(sequence, PATIENCE_S):
            raise Overloaded("it is logged, but others wait before it; look again later")

    def give_time(self, sequence: int) -> None:
        """Wait a moment until a body of the log is taken in, so that who looks next sees it; it is done anyway."""
        self._done(sequence, MOMENT_S)

    def _done(self, sequence: int, patience_s: float) -> bool:
        deadline_s = time.monotonic() + patience_s
        while self._service.ask(lambda: self._service.sequence) < sequence:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(PAUSE_S)
        return True
