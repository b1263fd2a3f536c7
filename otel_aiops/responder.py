"""The responder: does beside the step loop what playbooks say about incidents, and knows the service around it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from otel_aiops.config import Config
from otel_aiops.desk.live import Live
from otel_aiops.errand import Errand
from otel_aiops.errors import AiopsError
from otel_aiops.incidents.incident import Incident
from otel_aiops.incidents.known import KnownAlert
from otel_aiops.incidents.others import PLAYBOOKS
from otel_aiops.incidents.suppress import Maintenance, Silence, ruled
from otel_aiops.labels import Labels
from otel_aiops.responses.audit import verify
from otel_aiops.responses.engine import Engine, Settings
from otel_aiops.responses.kinds import responders
from otel_aiops.responses.ledger import Ledger
from otel_aiops.responses.playbook import Kind
from otel_aiops.responses.runs import Execution, Run
from otel_aiops.responses.verify import does_not_hold

if TYPE_CHECKING:
    from otel_aiops.app import Service

log = structlog.get_logger("otel_aiops")

FOLDER, STOP = "responses", "stop"
COUNT_S = 5.0  # between two looks at what waits
VERIFY_S, FIRST_S = 3_600.0, 2.0  # between two looks at the chain of the audit, and before the first
FORGET_S = 86_400.0
BAD = frozenset({"failed", "unknown", "not_recovered"})
OUTCOMES = ("asked", "done", "failed", "unknown", "refused", "dry_run", "recovered", "not_recovered")
S = 1_000_000_000
PREFIX = "otel_aiops.response."


class Responder:
    """An errand beside the step loop. Replays and backtests have none: they never respond."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.ledger = Ledger(service.config.journal, service.directory)
        failure = "incidents could not be responded to; it is tried again"
        self.errand = Errand("responses", self.look, every_s=lambda: service.config.responses.interval, failure=failure)
        failure = "the audit of responses could not be verified; it is tried again"
        self._auditing = Errand("audit", self.verify, every_s=lambda: VERIFY_S, failure=failure, first_s=FIRST_S)
        self.engine = Engine(
            self.ledger,
            self,
            self._settings(service.config),
            workers=service.config.responses.workers,
            told=self._told,
            stopping=lambda: self.errand.stopping,
        )
        self._count_due_s = 0.0
        self._forget_due_s = 0.0
        self._live = Live(service)
        self._told_of: Sequence[KnownAlert] = ()

    def open(self) -> None:
        """Open the ledger beside the open journal. Raises: StorageError."""
        self.ledger.open()

    def start(self) -> None:
        """Begin to respond."""
        self._begin_counting(self._service.config)
        self.errand.start()
        self._auditing.start()

    def stop(self) -> None:
        """Begin nothing more. What is being done goes on by itself, or is found after the next start."""
        self.errand.stop()
        self._auditing.stop()
        self.engine.close()

    def close(self) -> None:
        """Let go of the ledger. May be called twice."""
        self.ledger.close()

    def reload(self, config: Config) -> None:
        """Go on with other playbooks and targets."""
        self._begin_counting(config)
        self.engine.renew(self._settings(config))

    def verify(self) -> None:
        """See whether the chain of the audit holds, and say so. Raises: StorageError."""
        found = verify(self.ledger.lines())
        self._service.telemetry.set(PREFIX + "audit.lines", found.lines)
        self._service.telemetry.set(PREFIX + "audit.broken", float(bool(found.broken)))
        if found.broken:
            log.error("the audit of responses was changed", line=found.broken, why=found.why)

    def look(self) -> None:
        """Begin and carry on what is due. Raises: StorageError, Overloaded."""
        now_s = time.monotonic()
        try:
            self.engine.tick()
        finally:
            if now_s >= self._count_due_s:
                self._count_due_s = now_s + COUNT_S
                self._count()
        if now_s >= self._forget_due_s:
            self._forget_due_s = now_s + FORGET_S
            self.ledger.forget(self.now_ns())

    # -- the world of the engine ----------------------------------------------------------------------------------

    def now_ns(self) -> int:
        return self._service.clock_ns()

    def event_ns(self) -> int:
        return self._service.pipeline.event_ns

    def incident(self, name: str) -> Incident | None:
        journal = self._service.chronicle.journal
        found = journal.get(name)
        if found is None and (told := journal.others.told(incident=name)):
            found = _shown(told[-1], self._live.rules(), self._live.now_ns())  # its end comes last
        return found

    def alerts(self) -> Sequence[Incident]:
        self._told_of = self._service.chronicle.journal.others.waiting(PLAYBOOKS)
        rules, now_ns = self._live.rules() if self._told_of else (), self._live.now_ns()
        return [_shown(one, rules, now_ns) for one in self._told_of]

    def seen(self, alerts: Sequence[Incident]) -> None:
        self._service.chronicle.journal.others.seen(PLAYBOOKS, self._told_of)

    def labels(self, incident: Incident) -> Sequence[Labels]:
        table = self._service.pipeline.table
        if told := self._service.chronicle.journal.others.told(incident=incident.id, limit=1):
            service = (("service.name", told[0].service),) if told[0].service else ()
            return [Labels(name=told[0].name, resource=service, attributes=told[0].labels)]

        def answer() -> list[Labels]:
            rows = [table.find(int(series, 16)) for series in _series(incident)]
            return [table.labels(row) for row in rows if row is not None]

        return self._service.ask(answer)

    def scores(self, incident: Incident) -> Mapping[str, float]:
        service = self._service

        def answer() -> dict[str, float]:
            found = {}
            for series in _series(incident):
                row = service.pipeline.table.find(int(series, 16))
                latest = service.watch.latest(row) if row is not None else None
                if latest is not None and latest["score"] is not None:
                    found[series] = float(latest["score"])
            return found

        return service.ask(answer)

    def unwanted(self, incident: Incident, kind: Kind) -> str:
        objectives = self._service.config.objectives
        if not objectives:
            return ""
        channels = {one.evidence.channel for one in incident.findings}
        services = [Labels("", resource=(("service.name", one),)) for one in incident.services]
        for labels in (*self.labels(incident), *services):
            owner = next((one for one in objectives if one.matches(labels)), None)
            if owner and owner.asks_for(channels) and kind not in owner.responses:
                allowed = " and ".join(sorted(owner.responses)) or "nothing"
                return f"the objective {owner.name} allows {allowed}, not {kind}"
        return ""

    def model_problem(self) -> str:
        if self._service.pipeline.serving.role == "canary":
            return "a canary serves"
        drifts = self._service.monitor.health.persistent
        return drifts[0].text if drifts else ""

    # -- telling --------------------------------------------------------------------------------------------------

    def _settings(self, config: Config) -> Settings:
        of, folder = config.responses, self._service.directory / FOLDER
        prometheus = {} if of.prometheus is None else {"holds": partial(does_not_hold, of.prometheus)}
        return Settings(
            playbooks=config.playbooks,
            responders=responders(of, folder),
            enabled=of.enabled,
            late_s=of.late,
            tell=of.tell,
            stop_file=Path(of.stop_file) if of.stop_file else folder / STOP,
            **prometheus,
        )

    def _begin_counting(self, config: Config) -> None:
        """Have counters of all that may happen: one that came into being with its first event would hide it."""
        self._service.telemetry.set(PREFIX + "enabled", float(config.responses.enabled))
        kinds = {(playbook.name, action.kind) for playbook in config.playbooks for _, action in playbook.actions()}
        for playbook, kind in sorted(kinds):
            for outcome in OUTCOMES:
                self._service.telemetry.add(PREFIX + "runs", 0, playbook=playbook, kind=kind, outcome=outcome)

    def _told(self, run: Run, one: Execution, what: str) -> None:
        self._count_due_s = 0.0
        kind, playbook, telemetry = one.action.kind, run.playbook.name, self._service.telemetry
        telemetry.add(PREFIX + "runs", playbook=playbook, kind=kind, outcome=what)
        if what == "done":
            telemetry.record(PREFIX + "delay", max(0.0, (one.ended_ns - one.made_ns) / S))
        if what == "recovered":
            telemetry.record(PREFIX + "recovery", max(0.0, (self.now_ns() - one.ended_ns) / S))
        (log.warning if what in BAD else log.info)(
            "response",
            playbook=playbook,
            incident=run.incident.id,
            run=run.id,
            step=one.step + 1,
            role=one.role,
            action=f"{kind} {one.action.use}",
            outcome=what,
            why=one.seen_text or one.text,
        )

    def _count(self) -> None:
        telemetry = self._service.telemetry
        try:
            waiting = self.ledger.asked()
            longest_ns = self.now_ns() - waiting[0].asked_ns if waiting else 0
            telemetry.set(PREFIX + "waiting", len(waiting))
            telemetry.set(PREFIX + "waiting.longest", max(0.0, longest_ns / S))
            telemetry.set(PREFIX + "active", self.engine.running)
            telemetry.set(PREFIX + "stopped", float(bool(self.engine.stopped())))
        except AiopsError as error:
            log.warning("what waits for approval could not be counted", error=str(error))


def _series(incident: Incident) -> list[str]:
    """Fingerprints of the series that show it."""
    return sorted({one.evidence.series for one in incident.findings if one.evidence.series})


def _shown(alert: KnownAlert, rules: Sequence[Silence | Maintenance], event_ns: int) -> Incident:
    """An alert of others, with what silences it here."""
    one = alert.as_incident()
    silences = [rule for rule in rules if isinstance(rule, Silence) and not rule.matchers]
    windows = [rule for rule in rules if isinstance(rule, Maintenance)]
    return replace(one, suppressed_by=ruled(one, silences, windows, event_ns))
