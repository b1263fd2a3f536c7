"""The past made again: from a snapshot through the log, under the configurations and versions of that time."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from otel_aiops.audit.configurations import FOLDER, Configurations, Configured
from otel_aiops.detect.serving import Rollout, Trained
from otel_aiops.errors import AiopsError, BadInput, StateError, StorageError
from otel_aiops.ingest import Body, Ingest, advance
from otel_aiops.lifecycle.version import Models
from otel_aiops.pipeline import Pipeline, PipelineConfig, Step
from otel_aiops.series.disk import StorageConfig, make_directory, storage_errors
from otel_aiops.series.history import History
from otel_aiops.series.records import BODY_LIMIT_BYTES, Damage, Record, log_files, read_log
from otel_aiops.series.snapshot import Snapshots, load, peek

WORK = ".why-"
ABANDONED_S = 86_400.0
END = 2**62  # a sequence that no log reaches


class Missing(StateError):
    """What is needed to make a moment again is not there any more, or was changed; the message names it."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A step of the past. `pipeline` is as it was right after it, until the next one is asked for."""

    record: Record
    step: Step
    pipeline: Pipeline
    held: Configured


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a replay begins: after a sequence, with the state of a snapshot, or with nothing at the log's beginning."""

    sequence: int
    notes: tuple[str, ...] = ()


class Past:
    """The log, the snapshots and the configurations of a data directory; read beside the service that writes them.

    `fallback` is the configuration for times of which none is journalled. Use within `opened`.
    """

    def __init__(self, directory: Path, work: Path, fallback: PipelineConfig) -> None:
        self._snapshots = Snapshots(work / "snapshots")
        self._wal = work / "wal"
        self._configurations = Configurations(directory)
        self._models = Models(directory / "lifecycle" / "models")
        self._fallback = fallback
        never = History(StorageConfig(), directory)  # only its name is needed: nothing is opened or appended
        self._ingest = Ingest(never, limit_bytes=BODY_LIMIT_BYTES, clock_ns=time.time_ns)
        self.replayed = 0  # records so far
        self.begun = 0  # the record after which the replay began
        self.notes: tuple[str, ...] = ()

    @classmethod
    @contextmanager
    def opened(cls, directory: Path, fallback: PipelineConfig) -> Iterator[Past]:
        """With links to the files of now, so that retention takes none away meanwhile; where that cannot be, in place.

        Raises: BadInput where the directory is none of a service.
        """
        if not (directory / "wal").is_dir():
            raise BadInput(f"{directory}: expected a data directory of otel-aiops, there is no folder wal in it")
        try:
            work = _linked(directory)
        except (OSError, StorageError):  # nothing may be written there
            yield cls(directory, directory, fallback)
            return
        try:
            yield cls(directory, work, fallback)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def beginning(self, *, sequence: int = END, before_ns: int = 2**63 - 1) -> Beginning:
        """The newest place to begin before a record, and before the event clock came to a time. Raises: Missing."""
        notes: list[str] = []
        logged = self._first()
        for found in reversed(self._snapshots.sequences()):
            if found >= sequence or (logged is not None and found + 1 < logged):
                continue
            try:
                if int(peek(self._snapshots.path(found), "pipeline/clock")[0]) < before_ns:
                    return Beginning(found, tuple(notes))
            except StateError as error:
                notes.append(str(error))
        if logged == 1:
            return Beginning(0, tuple(notes))
        damaged = f"; damaged: {'; '.join(notes)}" if notes else ""
        kept = "the log is gone" if logged is None else f"the log begins with record {logged}"
        raise Missing(f"no snapshot from before then is kept, and {kept}{damaged}; audit.keep says how far both reach")

    def moments(self, begin: Beginning, *, through: int = END, line: int = 0) -> Iterator[Moment]:
        """The steps after a beginning, in order, each done anew; a record that failed then fails again.

        Configurations are those up to a line of their journal, 0 for all: a restart after a crash may have repeated
        records under another one. Raises: Missing when records, a version or a configuration are not as they were.
        """
        lines = [one for one in self._configurations.list() if not line or one.line <= line]
        self.begun, self.notes = begin.sequence, begin.notes
        held = active(lines, begin.sequence)
        pipeline = self._restored(begin.sequence, self._config(held))
        damages: list[Damage] = []
        expected = begin.sequence + 1
        for record in read_log(self._wal, after=begin.sequence, through=through, damages=damages):
            if record.sequence != expected:
                raise Missing(_gone(expected, record.sequence - 1, damages))
            expected += 1
            now = active(lines, record.sequence - 1)
            if now != held:
                if now.swapped:
                    pipeline = self._swapped(pipeline, self._config(now))
                held = now
            self.replayed += 1
            step = self._step(pipeline, record)
            if step is not None:
                yield Moment(record, step, pipeline, held)
        if expected <= through < END:
            raise Missing(_gone(expected, through, damages))
        if damages and damages[-1].torn and through == END:
            raise Missing(f"the log ends after record {expected - 1}: {damages[-1]}")

    def _step(self, pipeline: Pipeline, record: Record) -> Step | None:
        """One record; None for one that changed nothing then either."""
        received = record.received
        try:
            body = self._ingest.decode(received)
        except BadInput:  # the service leaves it out too
            return None
        try:
            return advance(pipeline, received.kind, body, received.received_ns, self._trained)
        except Missing:
            raise
        except BadInput:
            return None
        except AiopsError as error:
            if isinstance(body, Body) and body.rollout is not None:
                raise Missing(_unrolled(body.rollout, error)) from error
            return None
        except Exception:  # as in the step loop, which goes on with the next one
            return None

    def _trained(self, name: str) -> Trained:
        if name not in self._models.list():
            raise Missing(f"model version {name}, which began to run then, is not kept any more")
        try:
            return self._models.trained(name)
        except (StateError, StorageError) as error:
            raise Missing(f"model version {name}, which began to run then: {error}") from error

    def _config(self, held: Configured) -> PipelineConfig:
        if not held.id:
            return self._fallback
        try:
            return self._configurations.pipeline(held.id)
        except StateError as error:
            raise Missing(str(error)) from error

    def _restored(self, sequence: int, config: PipelineConfig) -> Pipeline:
        pipeline = Pipeline(config)
        if sequence:
            try:
                pipeline.restore(load(self._snapshots.path(sequence)).arrays)
            except StateError as error:
                raise Missing(str(error)) from error
        return pipeline

    def _swapped(self, old: Pipeline, config: PipelineConfig) -> Pipeline:
        """As the service does it when it starts, or reads its configuration again."""
        pipeline = Pipeline(config)
        pipeline.restore(old.state())
        return pipeline

    def _first(self) -> int | None:
        files = log_files(self._wal)
        return files[0][0] if files else None


def active(lines: Sequence[Configured], sequence: int) -> Configured:
    """The configuration that held for the record after a sequence; an empty one where none is journalled.

    >>> lines = [Configured(line=1, sequence=0), Configured(line=2, sequence=95), Configured(line=3, sequence=90)]
    >>> [active(lines, k).line for k in (0, 89, 90, 97)]  # started again at 90, so what was read at 95 did not hold
    [1, 1, 3, 3]
    """
    return next((one for one in reversed(lines) if one.sequence <= sequence), Configured())


def _linked(directory: Path) -> Path:
    """A folder with hard links to all snapshots and log files. Raises: OSError."""
    folder = directory / FOLDER
    with storage_errors(f"making {folder}"):
        make_directory(folder)
    for old in folder.glob(f"{WORK}*"):
        if time.time() - old.stat().st_mtime > ABANDONED_S:
            shutil.rmtree(old, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=WORK, dir=folder))
    try:
        for name, pattern in (("wal", "*.log"), ("snapshots", "*.snapshot")):
            (work / name).mkdir()
            for path in sorted((directory / name).glob(pattern)):
                try:
                    os.link(path, work / name / path.name)
                except FileNotFoundError:  # deleted meanwhile
                    continue
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return work


def _gone(first: int, last: int, damages: Sequence[Damage]) -> str:
    """Which records of the log are not as they were written, and where that was seen."""
    which = f"record {first}" if first == last else f"records {first} to {last}"
    where = "; ".join(f"{one.path.name} at byte {one.offset}: {one.reason}" for one in damages[-3:])
    return f"{which} of the log cannot be read{f': {where}' if where else ', the log has none'}"


def _unrolled(order: Rollout, error: AiopsError) -> str:
    return f"the order {order.action} {order.version} could not be carried out again: {error}"
