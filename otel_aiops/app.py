"""The running service: builds the parts, runs the step loop, reloads by swap. The only place with effects."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import structlog

from otel_aiops import __version__
from otel_aiops.allocator import keep_memory
from otel_aiops.audit.configurations import Configurations, Configured
from otel_aiops.audit.notes import noted
from otel_aiops.checkup import Checkup
from otel_aiops.chronicle import Chronicle, IncidentFiles
from otel_aiops.conductor import Conductor
from otel_aiops.config import Config, load
from otel_aiops.detect.engine import prepare
from otel_aiops.detect.lessons import Lesson
from otel_aiops.detect.serving import Rollout
from otel_aiops.errors import AiopsError, BadInput, ConfigError, Overloaded, StateError
from otel_aiops.inbound import Inbound
from otel_aiops.incidents.suppress import Decision
from otel_aiops.ingest import SIGNALS, Body, Ingest, advance
from otel_aiops.lifecycle import governed
from otel_aiops.lifecycle.version import Models
from otel_aiops.monitor import Monitor
from otel_aiops.notifier import Notifier
from otel_aiops.otlp.governance import Governance
from otel_aiops.parts import Parts
from otel_aiops.pipeline import Pipeline, Step
from otel_aiops.registrar import Registrar
from otel_aiops.responder import Responder
from otel_aiops.retrainer import Retrainer
from otel_aiops.series.cardinality import Cardinality
from otel_aiops.series.history import History
from otel_aiops.series.inbox import Entry
from otel_aiops.series.records import RecordKind
from otel_aiops.series.rows import Recorded
from otel_aiops.server.telemetry import Telemetry
from otel_aiops.silences import Silences
from otel_aiops.trainer import Trainer
from otel_aiops.watch import Watch

log = structlog.get_logger("otel_aiops")

T = TypeVar("T")

LOOP_WAIT_S = 0.2  # how long the step loop sleeps at most; questions and ticks wait no longer
ASK_TIMEOUT_S = 30.0
COMPACT_DELAY_NS = 600_000_000_000  # an hour's segments are merged ten minutes after it ended


class Service:
    """One data directory, one pipeline, and the thread that alone changes what is learned.

    Receivers append to the log and wait; the log hands bodies to `_loop` in order. Everything else asks the loop.
    """

    def __init__(
        self,
        config: Config,
        directory: Path,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        told: IncidentFiles | None = None,
    ) -> None:
        self.config = config
        self.directory = directory
        self.clock_ns = clock_ns
        self.telemetry = Telemetry()
        self.history = History(config.storage, directory, audit=config.audit)
        self.ingest = Ingest(self.history, limit_bytes=config.body_limit_bytes(), clock_ns=clock_ns)
        self.ingest.paused = "starting"
        self.ingest.governance = Governance(config.governance)
        self.pipeline = Pipeline(config.pipeline())
        self.models = Models(directory / "lifecycle" / "models")
        self.chronicle = Chronicle(config.journal, directory, told or IncidentFiles())
        self.watch = Watch(self.pipeline.engine.channels, lambda scored, k: self.pipeline.reason(scored, k))
        self.checkup = Checkup(directory, self.telemetry, config)
        self.trainer = Trainer(self)
        self.conductor = Conductor(self)
        self.monitor = Monitor(self)
        self.registrar = Registrar(self)
        self.retrainer = Retrainer(self, drifts=lambda: [one.text for one in self.monitor.health.persistent])
        self.responder = Responder(self)
        self.notifier = Notifier(self)
        self.inbound = Inbound(self)
        self.silences = Silences(self)
        self._configs = Configurations(directory)
        self.configured = Configured()  # the line of the journal that holds
        self.sequence = 0  # of the last body that was taken in
        self.started_ns = 0
        self._questions: deque[Callable[[], None]] = deque()
        self._parts: Parts | None = None
        self._thread: threading.Thread | None = None
        self._snapshotting: threading.Thread | None = None
        self._stopping = threading.Event()
        self._snapshot_due_s = 0.0
        self._ticked_s = 0.0

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Recover what was learned, then open the doors. Raises ConfigError, StorageError, StateError."""
        self.started_ns = self.clock_ns()
        prepare(lambda text: log.info(text))
        recovery = self.history.open()
        try:
            self.chronicle.open()
            self.responder.open()
            governed.note(self.directory, self.config.governance, self.started_ns)
            self._configured("start", recovery.sequence, swapped=True)
            self.monitor.open()
            for note in recovery.notes:
                log.warning("damaged data was found and left out", what=note)
            if self._recover(recovery.arrays, recovery.sequence):
                # Saved at once, so that a service that keeps being killed does not replay ever more.
                self._snapshot(self.sequence, self.pipeline.state())
            self._parts = Parts(self, self.config)
            self._parts.bind()
            self._thread = threading.Thread(target=self._loop, name="steps", daemon=True)
            self._thread.start()
            self._parts.start()
            self.checkup.start()
            self.trainer.errand.start()
            self.conductor.errand.start()
            self.monitor.errand.start()
            self.registrar.start()
            self.retrainer.errand.start()
            self.responder.start()
            self.notifier.start()
            self.inbound.start()
            self.silences.errand.start()
        except BaseException:
            self.stop()
            raise
        self.ingest.paused = None
        _note_reload(self, works=True)
        log.info("ready", version=__version__, data_dir=str(self.directory), **self._parts.endpoints())

    def stop(self) -> None:
        """Take nothing more, finish what was accepted, snapshot, close. Safe to call twice."""
        if self._stopping.is_set():
            return
        self.ingest.paused = "shutting down"
        self.responder.stop()
        self.notifier.stop()
        self.inbound.stop()
        self.silences.errand.stop()
        self.checkup.stop()
        self.trainer.errand.stop()
        self.conductor.errand.stop()
        self.monitor.errand.stop()
        self.registrar.stop()
        self.retrainer.errand.stop()
        if self._parts:
            self._parts.stop_receiving(self.config.service.shutdown_timeout)
        self._stopping.set()
        if self._thread and self._thread.ident:
            self._thread.join(self.config.service.shutdown_timeout)
        if self._snapshotting:
            self._snapshotting.join()
        if self._thread and self._thread.ident and not self._thread.is_alive():
            self._snapshot(self.sequence, self.pipeline.state())
        if self._parts:
            self._parts.stop()
        self.history.close()
        self.responder.close()
        self.chronicle.close()
        log.info("stopped", sequence=self.sequence)

    def reload(self, config: Config) -> None:
        """Build everything that changed from a new configuration, then swap. ConfigError leaves all as it was."""
        if config.storage != self.config.storage:
            raise ConfigError("storage", "cannot change while the service runs; restart it")
        if config.audit != self.config.audit:
            raise ConfigError("audit", "cannot change while the service runs; restart it")
        if config.journal != self.config.journal:
            raise ConfigError("journal", "cannot change while the service runs; restart it")
        old, parts = self.config, self._parts
        assert parts is not None
        if config.pipeline() != old.pipeline():
            self.ask(lambda: self._swap_pipeline(config))
        try:
            parts.reload(config)
        except AiopsError:
            if config.pipeline() != old.pipeline():
                self.ask(lambda: self._swap_pipeline(old))
            raise
        if config.governance != old.governance:
            self.ingest.governance = Governance(config.governance)
            governed.note(self.directory, config.governance, self.clock_ns())
        if config.pipeline() == old.pipeline() and config != old:
            self._configured("reload", self.sequence, swapped=False, config=config)
        self.config = config
        self.checkup.reload(config)
        self.responder.reload(config)
        self.notifier.reload(config)

    def _configured(self, how: str, sequence: int, *, swapped: bool, config: Config | None = None) -> None:
        """Write down which configuration holds after a sequence. Raises: StorageError, StateError."""
        now_ns = self.clock_ns()
        self.configured = self._configs.note(
            config or self.config, how=how, sequence=sequence, swapped=swapped, time_ns=now_ns
        )

    def _swap_pipeline(self, config: Config) -> None:
        pipeline = Pipeline(config.pipeline())
        pipeline.restore(self.pipeline.state())
        self._configured("reload", self.sequence, swapped=True, config=config)
        self.pipeline = pipeline
        if self._parts:
            self._parts.renew_emitter()
        self._snapshot_due_s = 0.0  # a recovery must not replay what was learned under the old configuration

    def exposition(self) -> bytes:
        """Scores and own telemetry, in Prometheus text format."""
        parts = self._parts
        scores = self.ask(lambda: parts.exposition(self.pipeline.event_ns)) if parts else b""
        return scores + self.telemetry.render()

    def warn_of(self, found: Cardinality) -> None:
        """Say in the log who fills the series table."""
        log.warning(
            "the series table is full, new series are refused",
            limit=found.limit,
            refused=found.refused,
            worst_metric=found.metric,
            its_series=found.metric_series,
            worst_attribute=found.attribute,
            its_values=found.values,
        )

    # -- questions from other threads -------------------------------------------------------------------------------

    def ask(self, question: Callable[[], T]) -> T:
        """Run a function between two steps, where it may read all state; from any thread but the loop's."""
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)

        self._questions.append(run)
        self.history.wake()
        if self._stopping.is_set() or not (self._thread and self._thread.is_alive()):
            raise Overloaded("the service is starting or shutting down")
        try:
            return answer.result(ASK_TIMEOUT_S)
        except FutureTimeout:
            raise Overloaded("the step loop is busy; ask again later") from None

    # -- recovery ---------------------------------------------------------------------------------------------------

    def _recover(self, arrays: dict[str, Any] | None, sequence: int) -> bool:
        """From the newest snapshot through the log to where the last run stood, bit for bit; whether that was ahead."""
        if arrays is not None:
            self.pipeline.restore(arrays)
            self.registrar.roles()
        self.sequence = sequence
        for record in self.history.replay():
            try:
                body = self.ingest.decode(record.received)
            except BadInput as error:  # accepted by another version, or under another limit
                log.error("a body of the log cannot be read any more", sequence=record.sequence, error=str(error))
                continue
            self._take_in(Entry(record.sequence, record.received.received_ns, record.received.kind, body))
        return self.sequence > sequence

    # -- the step loop ----------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        """Take bodies in the order of the log until the service stops and none is left."""
        self._snapshot_due_s = time.monotonic() + self.config.service.snapshot_interval
        self._ticked_s = time.monotonic()
        while True:
            entry = self.history.take(0.0 if self._questions else LOOP_WAIT_S)
            while self._questions:
                self._questions.popleft()()
            if entry is not None:
                step = self._take_in(entry)
                if step is not None:
                    self._tell_safely(entry, step)
            elif self._stopping.is_set():
                return
            self._look_after_safely(idle=entry is None)

    def _take_in(self, entry: Entry) -> Step | None:
        """One step of the learned state, the same when a body comes and when it is read back after a crash."""
        self.sequence = entry.sequence
        try:
            step = self._advance(entry)
            self._record(entry, step)
            self.watch.follow(step)
            self.chronicle.raised(noted(self.pipeline, step, entry.sequence, self.configured, self.clock_ns()))
            self.monitor.follow(entry.sequence, step)
            self.chronicle.write(step.incidents, step.event_ns)
        except Exception:  # one body must not stop the service; it stays in the log for a closer look
            self.telemetry.add("otel_aiops.step.failures")
            log.exception("a body could not be scored", sequence=entry.sequence, kind=entry.kind.name)
            return None
        return step

    def _advance(self, entry: Entry) -> Step:
        """What a body does to the learned state, and to the journal where people told it."""
        body = entry.item
        if isinstance(body, Body) and body.lesson is not None:
            self._judged(body.lesson)
        elif isinstance(body, Body) and body.decision is not None:
            return self._decide(entry, body.decision)
        elif isinstance(body, Body) and body.rollout is not None:
            return self._roll(entry, body.rollout)
        return self._step(entry)

    def _step(self, entry: Entry) -> Step:
        return advance(self.pipeline, entry.kind, entry.item, entry.received_ns, self.models.trained)

    def _judged(self, lesson: Lesson) -> None:
        """Keep what operators teach in the journal, with the texts of the series."""
        table = self.pipeline.table
        rows = [table.find(one.series) for one in lesson.verdicts]
        texts = ["" if row is None else table.labels(row).to_json() for row in rows]
        self.chronicle.judged(list(zip(texts, lesson.verdicts, strict=True)))

    def _decide(self, entry: Entry, decision: Decision) -> Step:
        """Do what an operator wants; what has become impossible since it was asked changes nothing."""
        try:
            step = self._step(entry)
        except BadInput as error:
            log.warning("a decision could not be carried out", action=decision.action, who=decision.who, why=str(error))
            return Step(event_ns=self.pipeline.event_ns)
        self.chronicle.decided(decision)
        return step

    def _roll(self, entry: Entry, order: Rollout) -> Step:
        """Change which versions run; what cannot be done leaves the champion as it is, and the user is told."""
        try:
            step = self._step(entry)
        except AiopsError as error:
            self.telemetry.add("otel_aiops.rollout.failures", action=order.action)
            log.error(
                "a rollout failed, the champion stays", action=order.action, version=order.version, why=str(error)
            )
            return Step(event_ns=self.pipeline.event_ns)
        self.chronicle.rolled(order)
        self.registrar.roles()
        log.info("rollout", action=order.action, version=order.version, who=order.who, why=order.why)
        return step

    def _record(self, entry: Entry, step: Step) -> None:
        """Keep the scored points for the Parquet segments."""
        table = self.pipeline.table
        for scored in step.scored:
            batch = scored.batch
            recorded = Recorded(
                rows=batch.rows,
                fingerprint=table.fingerprint(batch.rows),
                time_ns=batch.time_ns,
                value=batch.value,
                score=scored.scores.score,
            )
            self.history.record(entry.sequence, recorded, self._describe)

    def _describe(self, rows: np.ndarray[Any, Any]) -> list[str]:
        return [self.pipeline.table.labels(row).to_json() for row in rows.tolist()]

    def _tell_safely(self, entry: Entry, step: Step) -> None:
        """What is learned is learned: a fault in telling of it must not stop the loop."""
        try:
            self._tell(entry, step)
        except Exception:
            self.telemetry.add("otel_aiops.step.failures")
            log.exception("what a body did could not be told", sequence=entry.sequence, kind=entry.kind.name)

    def _tell(self, entry: Entry, step: Step) -> None:
        """Let the world know: anomalies, scores out, counters."""
        if self._parts:
            self._parts.emit(step)
        if entry.kind in SIGNALS:
            self.telemetry.record("otel_aiops.score.latency", max(0, self.clock_ns() - entry.received_ns) / 1e9)
        for name, count in step.counts.items():
            if name in COUNTERS and count:
                self.telemetry.add(COUNTERS[name], count)
            elif name in UNUSABLE and count:
                self.telemetry.add("otel_aiops.points.rejected", count, reason=UNUSABLE[name])
        if isinstance(entry.item, Body):
            name = REJECTED.get(entry.kind, "otel_aiops.points.rejected")
            for reason, count in entry.item.rejected.items():
                self.telemetry.add(name, count, reason=reason)
            for reason, count in entry.item.mended.items():
                self.telemetry.add("otel_aiops.signals.mended", count, reason=reason)

    # -- what happens beside the bodies -------------------------------------------------------------------------------

    def _look_after_safely(self, *, idle: bool) -> None:
        """A fault in what is done now and then must not stop the loop either."""
        try:
            self._look_after(idle=idle)
        except Exception:
            self.telemetry.add("otel_aiops.step.failures")
            log.exception("what is done beside the bodies failed; it is tried again")

    def _look_after(self, *, idle: bool) -> None:
        now_s = time.monotonic()
        if not idle:
            self._ticked_s = now_s
        elif now_s - self._ticked_s >= self.config.service.tick_interval and not self.ingest.paused:
            self._ticked_s = now_s
            threading.Thread(target=self._tick, name="tick", daemon=True).start()
        busy = self._snapshotting is not None and self._snapshotting.is_alive()
        if not busy and (now_s >= self._snapshot_due_s or self.history.wants_snapshot):
            self._snapshot_due_s = now_s + self.config.service.snapshot_interval
            arguments = (self.sequence, self.pipeline.state())
            self._snapshotting = threading.Thread(target=self._snapshot, args=arguments, name="snapshot")
            self._snapshotting.start()
        if self._parts:
            self._parts.look_after(self.pipeline.event_ns)

    def _tick(self) -> None:
        """Log the passing of time; not in the loop, because appending waits for the disk."""
        try:
            self.ingest.tick()
        except AiopsError as error:
            log.warning("the passing of time could not be logged", error=str(error))

    def _snapshot(self, sequence: int, arrays: dict[str, Any]) -> None:
        start_s = time.monotonic()
        try:
            self.history.snapshot(sequence, arrays)
            self.telemetry.record("otel_aiops.snapshot.duration", time.monotonic() - start_s)
            self.history.compact(self.pipeline.event_ns - COMPACT_DELAY_NS)
            self.history.enforce(self.clock_ns())
        except AiopsError as error:
            self.telemetry.add("otel_aiops.snapshot.failures")
            log.error("a snapshot failed; the one before still counts", error=str(error))


COUNTERS = {
    "scored": "otel_aiops.points.scored",
    "spans": "otel_aiops.spans.read",
    "records": "otel_aiops.log_records.read",
    "late": "otel_aiops.points.late",
    "duplicate": "otel_aiops.points.duplicate",
    "future": "otel_aiops.points.future",
    "absent": "otel_aiops.points.absent",
    "reset": "otel_aiops.points.reset",
    "gap": "otel_aiops.points.gap",
    "stale": "otel_aiops.points.stale",
    "own": "otel_aiops.points.own",
    "backfilled": "otel_aiops.points.backfilled",
    "verdicts": "otel_aiops.verdicts.learned",
    "created": "otel_aiops.series.created",
    "refused": "otel_aiops.series.refused",
    "reclaimed": "otel_aiops.series.reclaimed",
}

REJECTED = {
    RecordKind.TRACES: "otel_aiops.spans.rejected",
    RecordKind.LOGS: "otel_aiops.log_records.rejected",
}

UNUSABLE = {
    "bad_attributes": "attributes cannot be read",
    "oversized": "labels are over the limit",
    "ignored": "the name is in series.ignore_names",
    "unknown_end": "the end of a series that was never seen",
}


def serve(config_path: Path | None, data_dir: Path | None, told: IncidentFiles | None = None) -> int:
    """`otel-aiops serve`: run until SIGTERM or SIGINT; returns the exit code."""
    from otel_aiops.server.logs import configure_logging

    keep_memory()
    config = load(config_path).config if config_path else Config()
    configure_logging(config.telemetry.logs)
    service = Service(config, data_dir or Path(config.storage.directory), told=told)
    stop, reload = threading.Event(), threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        (reload if number == signal.SIGHUP else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    service.start()
    try:
        while not stop.wait(LOOP_WAIT_S):
            if reload.is_set():
                reload.clear()
                _reload(service, config_path)
    finally:
        service.stop()
    return 0


def _reload(service: Service, path: Path | None) -> None:
    """Read the file again; a wrong one changes nothing."""
    try:
        loaded = load(path) if path else None
        service.reload(loaded.config if loaded else Config())
    except (AiopsError, StateError) as error:
        _note_reload(service, works=False)
        log.error("the configuration was not reloaded, the old one stays", error=str(error))
        return
    _note_reload(service, works=True)
    log.info("the configuration was reloaded", path=str(path))


def _note_reload(service: Service, *, works: bool) -> None:
    service.telemetry.set("otel_aiops.config.reload.success", int(works))
    if works:
        service.telemetry.set("otel_aiops.config.reload.timestamp", service.clock_ns() / 1e9)
