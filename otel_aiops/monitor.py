"""The monitor: looks beside the step loop how the model that serves does, and says it as a value and as metrics."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from otel_aiops.desk.live import NO_TELEMETRY_NS
from otel_aiops.detect.budget import BudgetReport
from otel_aiops.detect.lessons import Verdict
from otel_aiops.errand import Errand
from otel_aiops.errors import AiopsError, BadInput, StateError
from otel_aiops.lifecycle.behaviour import Counts, Tally, broken_promise, promises, rates
from otel_aiops.lifecycle.comparison import known_calibration_error
from otel_aiops.lifecycle.drift import DAY, LEAST_DAYS, Compared, Reference, compare, reference_of
from otel_aiops.lifecycle.health import Health, MonitoringConfig, budgeted, self_test
from otel_aiops.lifecycle.past import Past, Sampling, complete_hour
from otel_aiops.lifecycle.performance import estimated, judged, worse
from otel_aiops.pipeline import Step
from otel_aiops.series.disk import make_directory, whole_file
from otel_aiops.series.segments import HOUR_NS

if TYPE_CHECKING:
    from otel_aiops.app import Service

log = structlog.get_logger("otel_aiops")

FIRST_S = 120.0  # after the start
REST_S = 0.02  # between two hours of history that are read
SAVED = "monitoring.json"
MOST_GROUPS = 100  # metrics of services that are shown, those that drifted most
PREFIX = "otel_aiops.model."


@dataclass(frozen=True, slots=True)
class _Live:
    """What the step loop knows."""

    event_ns: int
    version: str
    counts: Counts
    saved: dict[str, Any]
    budgets: list[BudgetReport]
    calibration_error: float


class Monitor:
    """`health` is replaced as a whole by every look; any thread may read it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.health = Health()
        self._tally = Tally()
        self._past = Past(service.directory)
        self._learned: tuple[tuple[Any, ...], Reference] | None = None  # and of what it is
        self._warned: tuple[str, ...] = ()
        failure = "how the model does could not be looked at"
        self.errand = Errand(
            "monitor", self._due, every_s=lambda: self._config.interval, first_s=FIRST_S, failure=failure
        )

    @property
    def _config(self) -> MonitoringConfig:
        return self._service.config.lifecycle.monitoring

    def open(self) -> None:
        """Take over what was counted before; called before the first step."""
        path = self._service.directory / "lifecycle" / SAVED
        try:
            if path.exists():
                self._tally.restore(json.loads(path.read_bytes()))
                if self._tally.sequence > self._service.history.stats()["last_sequence"]:
                    raise StateError("they are of a later time than what the service has recorded")
        except (OSError, ValueError, StateError) as error:
            self._tally = Tally()
            log.warning("how often the model scored and alerted before is not known any more", why=str(error))

    def follow(self, sequence: int, step: Step) -> None:
        """Count what was served; in the step loop."""
        self._tally.take(sequence, step.scored, step.event_ns)

    def look(self) -> Health:
        """How the model does now. Raises: Overloaded, StorageError."""
        config = self._config
        live = self._service.ask(self._look)
        self._save(live.saved)
        notes: list[str] = []
        compared, reference = self._compared(live, config, notes)
        if damaged := self._past.damaged:
            notes.append(f"{len(damaged)} recorded hours are left out: {next(iter(damaged.values()))}")
        now_hour = live.event_ns // HOUR_NS
        kept = promises(live.counts, now_hour)
        report = self_test(self._service.checkup.latest)
        now, before = self._judged(live.event_ns, config, notes)
        concept = [
            broken_promise(live.counts, now_hour, times=config.calibration, looks=config.looks),
            worse(now, before),
        ]
        found = estimated(live.counts, now_hour, kept, report.recall if report else {})
        own = rates(live.counts, now_hour, window=config.window_hours)
        notes += _unknown(kept, own, found, report, now)
        health = Health(
            time_ns=live.event_ns,
            version=live.version,
            reference=reference,
            drifts=(*compared.drifts, *(one for one in concept if one is not None)),
            groups=compared.groups[:MOST_GROUPS],
            unmatched=compared.unmatched,
            rates=own,
            promises=kept,
            calibration_error=live.calibration_error,
            budgets=budgeted(live.budgets),
            selftest=report,
            judged=now,
            judged_before=before,
            estimated=found,
            config=config,
            notes=tuple(notes),
        )
        self.health = health
        self._tell(health)
        return health

    def _due(self) -> None:
        if self._config.enabled:
            self.look()

    def _look(self) -> _Live:
        pipeline = self._service.pipeline
        champion = pipeline.serving.champion
        return _Live(
            pipeline.event_ns,
            champion.name,
            self._tally.counts(),
            self._tally.to_json(),
            pipeline.alerting.budget.reports(),
            known_calibration_error(champion),
        )

    def _save(self, saved: Mapping[str, Any]) -> None:
        path = self._service.directory / "lifecycle" / SAVED
        try:
            make_directory(path.parent)
            with whole_file(path) as file:
                file.write(json.dumps(saved, separators=(",", ":")).encode())
        except OSError as error:
            log.warning("how often the model scored and alerted could not be saved", why=str(error))

    # -- the input ----------------------------------------------------------------------------------------------------

    def _compared(self, live: _Live, config: MonitoringConfig, notes: list[str]) -> tuple[Compared, str]:
        """Live hours beside what was learned from, and what that is; a note where it cannot be said."""
        sampling = Sampling(config.series, config.groups)
        end = complete_hour(live.event_ns)
        newest = range(end - config.window_hours - config.looks + 1, end)
        try:
            reference = self._reference(live.version, end, sampling, config, notes)
            if reference.days < LEAST_DAYS:
                notes.append(
                    f"the input is not compared: expected at least {LEAST_DAYS} days of {reference.source}, "
                    f"got {reference.days:.1f}"
                )
                return Compared(), reference.source
            now = self._past.hours(newest, sampling, stopping=self._rest)
            self._past.keep(newest)
            if not len(now.hours) or now.hours[-1] < end - config.window_hours:
                notes.append(f"the input is not compared: nothing came in the last {config.window_hours} whole hours")
                return Compared(), reference.source
            compared = compare(reference, now, config.limits)
        except AiopsError as error:
            notes.append(f"the input is not compared: {error}")
            return Compared(), ""
        if compared.unmatched:
            notes.append(f"{compared.unmatched} series are in no reference: their metric is new")
        return compared, reference.source

    def _reference(
        self, version: str, end: int, sampling: Sampling, config: MonitoringConfig, notes: list[str]
    ) -> Reference:
        """What the champion learned from, else some weeks of history."""
        hours = round(config.reference / 3_600)
        try:
            dataset = self._service.models.version(version).lineage.dataset if version else ""
            if dataset:
                key = (dataset, sampling, hours, config.window_hours)
                if self._learned is None or self._learned[0] != key:
                    found = self._past.dataset(dataset, sampling, last_hours=hours)
                    source = f"the dataset {dataset}"
                    self._learned = key, reference_of(found, source, window=config.window_hours)
                return self._learned[1]
        except (BadInput, StateError) as error:  # deleted or changed: the history is better than nothing
            notes.append(f"what the champion learned from cannot be read, so it is compared with the history: {error}")
        last = (end - round(config.gap / 3_600)) // DAY * DAY  # made anew once a day
        known = ("", last, sampling, hours, config.window_hours)
        if self._learned is None or self._learned[0] != known:
            past = self._past.hours(range(last - hours, last), sampling, stopping=self._rest)
            source = f"the history until {config.gap / 86_400:g} days ago"
            reference = reference_of(past, source, window=config.window_hours)
            if reference.days < LEAST_DAYS:
                return reference
            self._learned = known, reference
        return self._learned[1]

    def _rest(self) -> bool:
        """Let scoring have the machine for a moment; whether to stop."""
        time.sleep(REST_S)
        return self.errand.stopping

    # -- verdicts -----------------------------------------------------------------------------------------------------

    def _judged(self, event_ns: int, config: MonitoringConfig, notes: list[str]) -> Any:
        """(verdicts on the last weeks, those on as much before)."""
        long_ns = round(config.verdicts * 1e9)
        verdicts: list[Verdict] = []
        try:
            told = self._service.chronicle.journal.verdicts(from_ns=event_ns - 2 * long_ns)
            verdicts = [one for _, one in told]
        except AiopsError as error:
            notes.append(f"verdicts cannot be read: {error}")
        middle_ns = event_ns - long_ns
        return judged(verdicts, middle_ns, 1 << 62), judged(verdicts, middle_ns - long_ns, middle_ns)

    # -- telling ------------------------------------------------------------------------------------------------------

    def _tell(self, health: Health) -> None:
        for name, values in gauges(health).items():
            self._service.telemetry.replace_all(PREFIX + name, values)
        if health.problems != self._warned:
            self._warned = health.problems
            if health.problems:
                log.warning("the model does not do as it should", problems="; ".join(health.problems))
            else:
                log.info("the model does as it should again")


Gauge = dict[tuple[str, ...], float]


def gauges(health: Health) -> dict[str, Gauge]:
    """What is known, by metric and the values of its attributes."""
    drifts, of, found = health.drifts, health.judged, health.estimated
    named = {(one.service, one.metric): one for one in health.groups}
    kinds = ("input", "concept")
    plain: dict[str, dict[tuple[str, ...], float]] = {
        "drift.effect": {key: one.effect for key, one in named.items()},
        "drift.share": {key: one.share for key, one in named.items()},
        "drift.looks": {key: float(one.looks) for key, one in named.items()},
        "drifts": {(kind,): float(sum(one.kind == kind for one in drifts)) for kind in kinds},
        "drifts.persistent": {(kind,): float(sum(one.kind == kind for one in health.persistent)) for kind in kinds},
        "rate": {(one.name,): one.now for one in health.rates},
        "rate.usual": {(one.name,): one.usual for one in health.rates},
        "rate.deviation": {(one.name,): one.deviation for one in health.rates},
        "rate.unusual": {(one.name,): float(one.unusual) for one in health.rates},
        "promise.kept": {(f"{one.level:g}",): one.times for one in health.promises},
        "budget.used": {(one.name,): one.used / one.promised for one in health.budgets},
        "fault.recall": {(name,): value for name, value in health.selftest.recall.items()} if health.selftest else {},
        "precision": {} if of is None else {("estimate",): of.precision, ("low",): of.low, ("high",): of.high},
        "verdicts": {} if of is None else {("true",): of.true, ("false",): of.false, ("missed",): of.missed},
        "expected.precision": {(): found.precision} if found else {},
        "expected.recall": {(): found.recall} if found else {},
        "expected.false_alerts": {(): found.false_alerts} if found else {},
        "expected.missed": {(): found.missed} if found else {},
        "problems": {(): float(len(health.problems))},
        "looked": {(): health.time_ns / 1e9} if health.time_ns > NO_TELEMETRY_NS else {},
    }
    return {name: {key: value for key, value in of.items() if math.isfinite(value)} for name, of in plain.items()}


def _unknown(kept: Any, own: Any, found: Any, report: Any, now: Any) -> list[str]:
    """What is not known yet."""
    missing = {
        "the self-test has not ended yet": report is None,
        "too few points in the last day to judge the probabilities": not kept,
        "too short a past to say what rate of scores and alerts is usual": not own,
        "less than a day was counted, so that performance is not estimated": found is None,
        "no verdicts, so that no precision is known": not (now.true + now.false),
    }
    return [text for text, holds in missing.items() if holds]
