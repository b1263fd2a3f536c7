"""Silences of Alertmanager: read now and then, and told to the step loop as decisions, so that incidents know them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from otel_aiops.desk.live import Live
from otel_aiops.errand import Errand
from otel_aiops.incidents.suppress import Action, Decision, Silence
from otel_aiops.responses.alertmanager import ALIKE, DIRECT, silences_of
from otel_aiops.responses.http import Unreachable, joined, send

if TYPE_CHECKING:
    from otel_aiops.app import Service

log = structlog.get_logger("otel_aiops")

PATH = "api/v2/silences"
ANSWER_BYTES = 16 << 20
IDLE_S = 10.0  # between two looks whether there is an Alertmanager to ask
ITSELF = "otel-aiops"


class Silences:
    """What a silence covers follows from its matchers in the step loop, so no incident opens before it is covered.

    While no Alertmanager answers, silences hold until they end.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._live = service, Live(service)
        failure = "silences of Alertmanager could not be taken over; it is tried again"
        self.errand = Errand("silences", self.look, every_s=self._every_s, failure=failure, first_s=0.5)

    def look(self) -> None:
        """Take over what has changed. Raises: Overloaded, StorageError."""
        config = self._service.config.alertmanager
        wanted = self._read() if config.to and config.silences else {}
        if wanted is None:
            return
        had = {
            rule.name: rule
            for rule in self._live.rules()
            if isinstance(rule, Silence) and rule.name.startswith((DIRECT, ALIKE))
        }
        for name in had.keys() - wanted.keys():
            self._decide(Decision(action=Action.UNSILENCE, who=ITSELF, time_ns=self._now_ns, name=name))
        now_ns = self._live.now_ns()
        for name, one in wanted.items():
            if had.get(name) != one and one.until_ns > now_ns:
                at_ns = self._now_ns
                self._decide(Decision(action=Action.SILENCE, silence=one, who=one.who, why=one.why, time_ns=at_ns))
        self._service.telemetry.set("otel_aiops.alertmanager.silences", len(wanted))

    @property
    def _now_ns(self) -> int:
        return self._service.pipeline.event_ns

    def _every_s(self) -> float:
        return self._service.config.alertmanager.silences or IDLE_S

    def _read(self) -> dict[str, Silence] | None:
        """The silences of the first Alertmanager that answers: all of a cluster have the same. None where none does."""
        config = self._service.config.alertmanager
        for server in config.to:
            try:
                url = joined(server.url, PATH)
                tree = send("GET", server, url, most_bytes=ANSWER_BYTES, stopping=lambda: self.errand.stopping).tree()
            except Unreachable as error:
                log.debug("Alertmanager was not asked for its silences", error=str(error))
                continue
            if isinstance(tree, list):
                return {one.name: one for one in silences_of(config, tree)}
        return None

    def _decide(self, decision: Decision) -> None:
        self._live.decide(decision)
        what = decision.silence.name if decision.silence else decision.name
        log.info("silence of Alertmanager", action=str(decision.action), name=what, who=decision.who, why=decision.why)
