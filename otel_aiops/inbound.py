"""Inbound: alerts of others, from a webhook to the evidence of incidents; playbooks ask for them by themselves."""

from __future__ import annotations

import json
import re
from collections import deque
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import structlog

from otel_aiops.errand import Errand
from otel_aiops.incidents.journal import EVIDENCE
from otel_aiops.incidents.known import KnownAlert, Told, alert_of, read
from otel_aiops.responses.alertmanager import PATH
from otel_aiops.responses.http import Unreachable, joined, send

if TYPE_CHECKING:
    from otel_aiops.app import Service

log = structlog.get_logger("otel_aiops")

LOOK_S = 0.5
MOST_WAITING = 10_000  # alerts that are written down and not looked at; more are refused, and told again later
MOST_CUT = 100  # notifications that left alerts out and are not completed yet
ATTEMPTS = 120  # to complete one
ANSWER_BYTES = 16 << 20
RECEIVED = "otel_aiops.alertmanager.received"


class Inbound:
    """What is told is in the journal before it is answered: the rest is done by an errand, again after a crash."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._cut: deque[tuple[Told, int]] = deque(maxlen=MOST_CUT)
        failure = "alerts of others could not be looked at; it is tried again"
        self.errand = Errand("webhooks", self.look, every_s=lambda: LOOK_S, failure=failure)

    def notify(self, tree: Any) -> dict[str, Any]:
        """Write a notification down. Any thread. Raises: BadInput, Overloaded, StorageError."""
        told = read(tree)
        counts = self._know(told.alerts, told.sender)
        if told.truncated:
            self._cut.append((told, ATTEMPTS))
        self._count(told.sender, "unreadable", told.unreadable)
        return {**counts, "unreadable": told.unreadable, "truncated": told.truncated}

    def look(self) -> None:
        """Complete what was cut, and hand over what is new. Raises: StorageError, Overloaded."""
        for _ in range(len(self._cut)):
            told, left = self._cut.popleft()
            if not self._complete(told) and left > 1 and not self.errand.stopping:
                self._cut.append((told, left - 1))
        journal = self._service.chronicle.journal
        while waiting := journal.waiting(EVIDENCE):
            event_ns = self._service.pipeline.event_ns
            findings = [one.finding(event_ns) for one in waiting if one.service]
            if findings:
                self._service.ingest.know(findings)
            journal.seen(EVIDENCE, waiting)

    def _know(self, alerts: tuple[KnownAlert, ...], sender: str) -> dict[str, Any]:
        others = [one for one in alerts if not one.ours]
        journal, now_ns = self._service.chronicle.journal, self._service.clock_ns()
        if notices := sorted({one.notice_of for one in alerts if one.notice_of}):
            self._service.responder.ledger.notice(notices, now_ns)
        new = journal.know(others, now_ns, most=MOST_WAITING)[0] if others else 0
        self._service.chronicle.changes["alerts"] += new
        counts = {"taken": new, "repeated": len(others) - new, "ours": len(alerts) - len(others)}
        for outcome, number in counts.items():
            self._count(sender, outcome, number)
        return counts

    def _count(self, sender: str, outcome: str, number: int) -> None:
        if number:
            self._service.telemetry.add(RECEIVED, number, sender=sender, outcome=outcome)

    def _complete(self, told: Told) -> bool:
        """Ask the configured Alertmanagers, never an address of the notification, for what it left out."""
        servers = self._service.config.alertmanager.to
        if told.sender != "alertmanager" or not servers:
            why = "there is no alertmanager.to to ask" if told.sender == "alertmanager" else "Grafana cannot be asked"
            log.warning("a notification leaves alerts out", alerts=told.truncated, group=told.group, why=why)
            self._count(told.sender, "lost", told.truncated)
            return True
        asked = [("active", "true"), ("silenced", "false"), ("inhibited", "false")]
        asked += [("receiver", re.escape(told.receiver))] if told.receiver else []
        asked += [("filter", f"{name}={json.dumps(value, ensure_ascii=False)}") for name, value in told.group_labels]
        for server in servers:
            try:
                url = f"{joined(server.url, PATH)}?{urlencode(asked)}"
                found = send("GET", server, url, most_bytes=ANSWER_BYTES, stopping=lambda: self.errand.stopping).tree()
            except Unreachable as error:
                log.warning("a notification could not be completed; it is tried again", error=str(error))
                continue
            if isinstance(found, list):
                alerts = [alert_of(one, told.sender, told.group) for one in found]
                self._know(tuple(one for one in alerts if one is not None), told.sender)
                return True
        return False
