"""The notifier: has every Alertmanager know, beside the step loop, which incidents and predictions there are."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from otel_aiops.config import Config
from otel_aiops.errand import Errand
from otel_aiops.incidents.incident import Incident, Severity
from otel_aiops.incidents.journal import STANDING, Head
from otel_aiops.responses.alertmanager import (
    PATH,
    RESOLVED_S,
    Alert,
    AlertmanagersConfig,
    Story,
    Told,
    alerts_of,
    body_of,
)
from otel_aiops.responses.http import HttpConfig, Unreachable, joined, send, shown

if TYPE_CHECKING:
    from otel_aiops.app import Service

log = structlog.get_logger("otel_aiops")

S = 1_000_000_000
LOOK_S = 1.0  # between two looks at what is new
FRESH_S = 0.5  # what one has read serves the others for so long
AT_ONCE = 100  # alerts in a request
NAMED = 10  # incidents in a line of the log
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
BAD = frozenset({400, 413, 422})  # answers that say that something in the request is wrong
PREFIX = "otel_aiops.alertmanager."


class Notifier:
    """One errand for each Alertmanager, so that none waits for another. Replays and backtests have none."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lines: list[_Line] = []

    def start(self) -> None:
        """Begin to post."""
        self._renew(self._service.config.alertmanager)

    def stop(self) -> None:
        """Post no more: alerts outlive a restart. Safe to call twice, and before the start."""
        for line in self._lines:
            line.stop()
        self._lines = []

    def reload(self, config: Config) -> None:
        """Go on with other Alertmanagers."""
        if not self._lines or config.alertmanager != self._lines[0].alerts.config:
            self.stop()
            self._renew(config.alertmanager)

    def _renew(self, config: AlertmanagersConfig) -> None:
        alerts = Alerts(self._service, config)
        self._lines = [_Line(self._service, alerts, one) for one in config.to]
        for line in self._lines:
            line.errand.start()


class Alerts:
    """The alerts that the journal asks for now. Any thread may ask."""

    def __init__(self, service: Service, config: AlertmanagersConfig) -> None:
        self.config = config
        self._service = service
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[Story, Incident | None]] = {}
        self._now: list[Alert] = []
        self._read_s = float("-inf")

    def now(self) -> Sequence[Alert]:
        """All of them, also those that ended not long ago. Raises: StorageError."""
        with self._lock:
            if time.monotonic() - self._read_s >= FRESH_S:
                self._now = list(self._read())
                self._read_s = time.monotonic()
            return self._now

    def _read(self) -> Iterator[Alert]:
        service, config = self._service, self.config
        event_ns = service.pipeline.event_ns
        since_ns = event_ns - round(RESOLVED_S * S) if event_ns else 2**63 - 1
        heads = service.chronicle.journal.standing(since_ns=since_ns)
        chosen = [*_worst(heads, config, standing=True), *_worst(heads, config, standing=False)]
        service.telemetry.set(PREFIX + "left_out", sum(one.state in STANDING for one in heads) - _standing(chosen))
        self._seen = {one.incident: self._told_of(one) for one in chosen}
        for story, incident in self._seen.values():
            if incident is not None:
                yield from alerts_of(config, incident, story, event_ns)

    def _told_of(self, head: Head) -> tuple[Story, Incident | None]:
        """The story of an incident and its last revision, read only where there is a later one."""
        story, incident = self._seen.get(head.incident, (Story(), None))
        if incident is not None and incident.revision == head.revision:
            return story, incident
        journal = self._service.chronicle.journal
        return story.after(journal.history(head.incident, after=story.revision)), journal.get(head.incident)


class _Line:
    """The way to one Alertmanager."""

    def __init__(self, service: Service, alerts: Alerts, to: HttpConfig) -> None:
        self.alerts = alerts
        self._service, self._to = service, replace(to, attempts=1)  # it is tried again here, with what holds by then
        self._told = Told(alerts.config.resend)
        self._name = shown(to.url)
        self._stopping = threading.Event()
        self._away = False
        failure = "incidents could not be posted to Alertmanager; it is tried again"
        self.errand = Errand("alertmanager", self.look, every_s=lambda: LOOK_S, failure=failure)
        for name in ("sent", "failures", "refused", "missed"):
            service.telemetry.add(PREFIX + name, 0, alertmanager=self._name)

    def stop(self) -> None:
        """End, also while it waits."""
        self._stopping.set()
        self.errand.stop()

    def look(self) -> None:
        """Post what is due, again and again until it was taken. Raises: StorageError."""
        import tenacity

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Unreachable),
            wait=tenacity.wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
            stop=tenacity.stop_when_event_set(self._stopping),
            sleep=self._pause,
            before_sleep=lambda state: self._failed(state.outcome.exception() if state.outcome else None),
        )
        try:
            retrying(self._post)
        except tenacity.RetryError:
            return  # the service ends

    def _pause(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def _post(self) -> None:
        """What is due now. Raises: Unreachable, StorageError."""
        telemetry = self._service.telemetry
        due = self._told.due(self.alerts.now(), time.monotonic(), self._service.clock_ns())
        if missed := [dict(one.labels)["incident_id"] for one in self._told.missed]:
            telemetry.add(PREFIX + "missed", len(missed), alertmanager=self._name)
            said = "incidents began and ended while Alertmanager was away; nobody is told"
            log.warning(said, alertmanager=self._name, count=len(missed), incidents=missed[:NAMED])
        for first in range(0, len(due), AT_ONCE):
            self._send(due[first : first + AT_ONCE])
        telemetry.set(PREFIX + "firing", self._told.firing(), alertmanager=self._name)
        if due and self._away:
            self._away = False
            log.info("Alertmanager takes alerts again", alertmanager=self._name, alerts=len(due))

    def _send(self, alerts: Sequence[Alert]) -> None:
        """Post some; what is called bad is found by halves, so that it keeps no other one back."""
        body = body_of(alerts, self._service.clock_ns(), self.alerts.config.resend)
        telemetry, headers = self._service.telemetry, {"Content-Type": "application/json"}
        try:
            send("POST", self._to, joined(self._to.url, PATH), body=body, headers=headers)
        except Unreachable as error:
            if error.status not in BAD:
                raise
            if len(alerts) > 1:
                half = len(alerts) // 2
                self._send(alerts[:half])
                self._send(alerts[half:])
                return
            telemetry.add(PREFIX + "refused", alertmanager=self._name)
            log.error("Alertmanager refused an alert", alert=dict(alerts[0].labels), error=str(error))
        else:
            telemetry.add(PREFIX + "sent", len(alerts), alertmanager=self._name)
        self._told.took(alerts, time.monotonic())

    def _failed(self, error: BaseException | None) -> None:
        self._told.forgot()
        self._service.telemetry.add(PREFIX + "failures", alertmanager=self._name)
        if not self._away:
            self._away = True
            log.warning("Alertmanager takes no alerts; it is tried again", error=str(error))


def _worst(heads: Sequence[Head], config: AlertmanagersConfig, *, standing: bool) -> list[Head]:
    """Those that stand or those that do not, at most so many: the worst first, of equal ones the latest."""
    ranks = {one: rank for rank, one in enumerate(Severity)}
    found = [one for one in heads if (one.state in STANDING) == standing]
    return sorted(found, key=lambda one: -ranks[one.severity])[: config.max_alerts]


def _standing(heads: Sequence[Head]) -> int:
    return sum(one.state in STANDING for one in heads)
