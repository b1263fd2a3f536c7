"""Inbound: alerts of others, from a webhook to the evidence of incidents; playbooks ask for them by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import structlog

from otel_aiops.completion import Completion
from otel_aiops.errand import Errand
from otel_aiops.incidents.cut import Cut, cut_of
from otel_aiops.incidents.known import KnownAlert, Told, read
from otel_aiops.incidents.others import EVIDENCE

if TYPE_CHECKING:
    from otel_aiops.app import Service

log = structlog.get_logger("otel_aiops")

LOOK_S = 0.5
MOST_WAITING = 10_000  # alerts that are written down and not looked at; more are refused, and told again later
RECEIVED = "otel_aiops.alertmanager.received"


class Inbound:
    """What is told is in the journal before it is answered: the rest is done by errands, again after a crash."""

    def __init__(self, service: Service) -> None:
        self._service = service
        failure = "alerts of others could not be looked at; it is tried again"
        self._errand = Errand("webhooks", self.look, every_s=lambda: LOOK_S, failure=failure)
        self._completion = Completion(service, self._learn, self._count)

    def start(self) -> None:
        """Begin to look at what is told, and to ask for what is not."""
        self._errand.start()
        self._completion.errand.start()

    def stop(self) -> None:
        """Safe to call twice, and before the start."""
        self._completion.errand.stop()
        self._errand.stop()

    def notify(self, tree: Any) -> dict[str, Any]:
        """Write a notification down. Any thread. Raises: BadInput, Overloaded, StorageError."""
        told = read(tree)
        cut = self._cut(told)
        counts = {**self._know(told.alerts, cut), "unreadable": told.unreadable}
        for outcome, number in counts.items():
            self._count(told.sender, outcome, number)
        if cut is None:
            self._count(told.sender, "lost", told.truncated)
        return {**counts, "truncated": told.truncated}

    def look(self) -> None:
        """Hand over what is new. Raises: StorageError, Overloaded."""
        others = self._service.chronicle.journal.others
        while waiting := others.waiting(EVIDENCE):
            event_ns = self._service.pipeline.event_ns
            findings = [one.finding(event_ns) for one in waiting if one.service]
            if findings:
                self._service.ingest.know(findings)
            others.seen(EVIDENCE, waiting)

    def _cut(self, told: Told) -> Cut | None:
        """What is left out and can be asked for: of the configured servers, never at an address that is told."""
        if not told.truncated:
            return None
        if told.sender == "alertmanager" and self._service.config.alertmanager.to:
            return cut_of(told, self._service.clock_ns())
        why = "there is no alertmanager.to to ask" if told.sender == "alertmanager" else "Grafana cannot be asked"
        log.warning("a notification leaves alerts out", alerts=told.truncated, group=told.group, why=why)
        return None

    def _know(self, alerts: Sequence[KnownAlert], cut: Cut | None = None) -> dict[str, Any]:
        """Write alerts down, and what their notification left out; how many were what."""
        theirs = [one for one in alerts if not one.ours]
        others, now_ns = self._service.chronicle.journal.others, self._service.clock_ns()
        if notices := sorted({one.notice_of for one in alerts if one.notice_of}):
            self._service.responder.ledger.notice(notices, now_ns)
        new = others.know(theirs, now_ns, most=MOST_WAITING, cut=cut)[0] if theirs or cut else 0
        self._service.chronicle.changes["alerts"] += new
        return {"taken": new, "repeated": len(theirs) - new, "ours": len(alerts) - len(theirs)}

    def _learn(self, alerts: Sequence[KnownAlert], sender: str) -> None:
        """Write down what nobody told: only what is new counts, since it is asked for more than once."""
        self._count(sender, "taken", self._know(alerts)["taken"])

    def _count(self, sender: str, outcome: str, number: int) -> None:
        if number:
            self._service.telemetry.add(RECEIVED, number, sender=sender, outcome=outcome)
