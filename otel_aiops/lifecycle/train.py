"""Training: a version learns all series of a dataset, in parts that processes share and that outlive a crash."""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops import __version__
from otel_aiops.detect.budget import Budget, BudgetConfig
from otel_aiops.detect.engine import united
from otel_aiops.detect.scorer import Scorer
from otel_aiops.detect.serving import owned
from otel_aiops.errors import BadInput, ConfigError, Overloaded, StateError, StorageError
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.families import train_families
from otel_aiops.lifecycle.manifest import digest
from otel_aiops.lifecycle.objective import Objective
from otel_aiops.lifecycle.pooled import prototypes
from otel_aiops.lifecycle.reading import Chunk
from otel_aiops.lifecycle.stretch import Stored
from otel_aiops.lifecycle.version import Bundle, Lineage, Models, ModelVersion, Settings, read_arrays
from otel_aiops.lifecycle.workers import Told, work
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import Arrays
from otel_aiops.series.disk import DirectoryLock, make_directory, storage_errors, whole_file

PART_SERIES = 5_000  # that one engine learns: enough for wide batches, few enough that processes end together
LEAST_PARTS, WORTH_A_PART = 2, 500  # so that two processes share also fewer series, if it is worth it
WINDOW_ROWS = 2_000_000  # points in memory at once, in each process
TICK_NS = 60_000_000_000  # points of so long a time are one batch, where each series has one
STAGED = ".training-"
ABANDONED_S = 7 * 86_400.0

Show = Callable[[float, float, str], None]  # (done, total, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be learned: series and stretch of a dataset, none of both for all of it."""

    dataset: str
    series: tuple[str, ...] | None = None  # canonical texts
    start_ns: int = 0
    end_ns: int | None = None
    part_series: int = PART_SERIES


def train(
    datasets: Datasets,
    models: Models,
    wanted: Wanted,
    settings: Settings,
    config: PipelineConfig,
    *,
    objective: Objective | None = None,
    lineage: Lineage | None = None,
    processes: int = 1,
    progress: Show | None = None,
) -> ModelVersion:
    """Learn a version from a dataset and register it.

    `config` has the policies, calendars and budgets that hold; its detection counts for nothing, that of the settings
    does. The budget of an objective that is not among them goes before theirs. The same dataset, settings and rules
    give the same bytes, whatever the number of processes. What a killed training had finished is not done again.
    Raises: BadInput when the gate of the dataset says no or there is nothing to learn, StateError when a segment is
    damaged, StorageError, and Overloaded when somebody trains the same now, or a process was killed.
    """
    datasets.trainable(wanted.dataset)
    config = ruled(config, settings, objective)
    rules = digest(plain(asdict(config)))[:16]
    staged = (
        models.directory / f"{STAGED}{digest([plain(asdict(wanted)), settings.to_json(), rules, __version__])[:16]}"
    )
    with _staging(staged):
        bundle, until_ns = learn(datasets, wanted, settings, config, staged=staged, processes=processes, told=progress)
        known = replace(lineage or Lineage(), dataset=wanted.dataset, code=__version__, config=rules, until_ns=until_ns)
        known = replace(known, objective=objective.id) if objective else known
        version = models.write(settings, bundle, known)
        shutil.rmtree(staged, ignore_errors=True)
    return version


def ruled(config: PipelineConfig, settings: Settings, objective: Objective | None = None) -> PipelineConfig:
    """The rules under which settings are trained: their detection, and the budget of the objective among the others."""
    budgets = config.budgets
    if objective and objective.name not in [one.name for one in budgets]:
        budgets = (objective.alert_budget(), *budgets)
    return replace(config, detection=settings.detection, budgets=budgets)


def learn(
    datasets: Datasets,
    wanted: Wanted,
    settings: Settings,
    config: PipelineConfig,
    *,
    staged: Path,
    processes: int = 1,
    told: Show | None = None,
) -> tuple[Bundle, int]:
    """(what is learned of the wanted series, the newest time of their points); parts are kept in `staged`."""
    table = datasets.series(wanted.dataset)
    names = sorted(table.names if wanted.series is None else set(wanted.series))
    if unknown := set(names) - set(table.names):
        raise BadInput(f"dataset {wanted.dataset} has no series {min(unknown)}")
    parts = _parts(names, wanted.part_series)
    if not parts:
        raise BadInput(f"dataset {wanted.dataset}: expected series to learn from, got none")
    tasks = [
        Part(datasets.directory, wanted, tuple(names[k] for k in rows), _share(config, len(rows), len(names)), path)
        for rows, path in ((rows, staged / f"part-{k}.npz") for k, rows in enumerate(parts))
    ]
    points = int(table.rows.sum())
    tell: Told | None = None
    if told is not None:
        tell = lambda share: told(share, 1.0, f"{round(share * points)} points")  # noqa: E731
    digests = work(learn_part, tasks, count=processes, told=tell)
    found = [(read_arrays(task.path), np.array(rows, np.int32)) for task, rows in zip(tasks, parts, strict=True)]
    for task, sha256 in zip(tasks, digests, strict=True):
        if _sha256(task.path) != sha256:
            raise StateError(f"{task.path}: it was changed since it was written")
    bundle, until_ns = _bundle(names, found, config)
    window = datasets.load(wanted.dataset).window
    start_ns, end_ns = max(window.start_ns, wanted.start_ns), min(window.end_ns, wanted.end_ns or window.end_ns)
    span: Any = {"start_ns": start_ns, "end_ns": end_ns, "processes": processes}
    beside: Any = train_families(Stored(datasets.directory, wanted.dataset), names, settings, **span)
    return replace(bundle, **beside), until_ns


# -- one part -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """Some series, sorted, that one engine learns, and the file that they become."""

    directory: Path  # of the datasets
    wanted: Wanted
    names: tuple[str, ...]
    config: PipelineConfig
    path: Path


def learn_part(part: Part, told: Told) -> str:
    """Learn a part, unless it was finished before; the SHA-256 of its file."""
    try:
        read_arrays(part.path)
        return _sha256(part.path)
    except (OSError, StateError):  # none yet, or a damaged one
        pass
    learner = Learner(part.names, part.config)
    datasets, of = Datasets(part.directory), part.wanted
    window = datasets.load(of.dataset).window
    first_ns, last_ns = max(window.start_ns, of.start_ns), min(window.end_ns, of.end_ns or window.end_ns)
    chunks = datasets.windows(of.dataset, part.names, start_ns=first_ns, end_ns=last_ns, rows=WINDOW_ROWS)
    for chunk in chunks:
        for newest_ns in learner.take(chunk):
            told((newest_ns - first_ns) / (last_ns - first_ns))
    with storage_errors(f"writing {part.path}"), whole_file(part.path) as file:
        np.savez(file, **learner.state())  # type: ignore[arg-type]  # a mapping of names
    return _sha256(part.path)


class Learner:
    """Scores and then learns the points of many series in the order of time, as the service does with live ones.

    What peers say and the alerts of series that fall silent are left out.
    """

    def __init__(self, names: Sequence[str], config: PipelineConfig) -> None:
        labels = [Labels.from_json(name) for name in names]
        self.scorer = Scorer(config.detection, config.policies, config.calendar, config.jobs)
        for row, one in enumerate(labels):
            self.scorer.assign(row, one)
        self.budget = budget_of(config)
        self.budget.assign(np.arange(len(labels), dtype=np.int32), labels)
        self.newest_ns = np.zeros(len(labels), np.int64)
        self._event_ns = 0

    def take(self, chunk: Chunk) -> Iterator[int]:
        """Take the points of the next stretch of time; gives the event time after every batch."""
        points = np.diff(chunk.ends, prepend=0)
        rows = np.repeat(np.arange(len(points), dtype=np.int32), points)
        interval_s = self._intervals(rows, chunk.time_ns, points)
        good = np.isfinite(chunk.value)
        if not good.all():
            rows, interval_s = rows[good], interval_s[good]
        time_ns, value = (chunk.time_ns, chunk.value) if good.all() else (chunk.time_ns[good], chunk.value[good])
        for k in batches(rows, time_ns):
            scored = self.scorer.score(Batch(rows[k], time_ns[k], value[k], interval_s[k]))
            self._event_ns = max(self._event_ns, int(scored.batch.time_ns.max()))
            self.budget.update(scored.batch, scored.scores, event_ns=self._event_ns)
            yield self._event_ns

    def state(self) -> Arrays:
        """What was learned: the engine's state, what is known of the budget, and how far it went."""
        series = np.array([one.series for one in self.budget.reports()], np.int64)
        parts = {"engine": self.scorer.engine.state(), "budget": self.budget.learned()}
        parts["told"] = {"newest_ns": self.newest_ns, "series": series}
        return {f"{part}/{name}": array for part, of in parts.items() for name, array in of.items()}

    def _intervals(self, rows: I32, time_ns: I64, points: I64) -> F64:
        """Seconds since the point before of the same series, NaN for the first."""
        before_ns = np.empty_like(time_ns)
        before_ns[1:] = time_ns[:-1]
        ends = np.cumsum(points)
        some = np.flatnonzero(points)
        before_ns[ends[some] - points[some]] = self.newest_ns[some]
        self.newest_ns[some] = time_ns[ends[some] - 1]
        return np.where(before_ns > 0, (time_ns - before_ns) / 1e9, np.nan)


def batches(rows: I32, time_ns: I64) -> Iterator[NDArray[np.intp]]:
    """N points, those of a series together and in the order of time, as batches in the order of time.

    A batch has points of one minute, of each series the first that no batch before has: so series of any intervals go
    through together, and each in its own order.
    """
    if not len(rows):
        return
    tick = time_ns // TICK_NS - int(time_ns.min()) // TICK_NS
    fresh = np.flatnonzero(np.append(True, (np.diff(rows) != 0) | (np.diff(tick) != 0)))
    counts = np.diff(np.append(fresh, len(rows)))
    rank = np.arange(len(rows)) - np.repeat(fresh, counts)
    number = tick * int(counts.max()) + rank
    number = number.astype(np.uint16) if int(number.max()) < 1 << 16 else number  # numpy counts these
    order = np.argsort(number, kind="stable")
    edges = np.flatnonzero(np.diff(number[order])) + 1
    yield from np.split(order, edges)


def budget_of(config: PipelineConfig) -> Budget:
    """The alert budgets of a configuration, before anything is known."""
    return Budget(config.budgets, default=BudgetConfig(budget=config.budget))


# -- parts and the whole ------------------------------------------------------------------------------------------


def _parts(names: Sequence[str], most: int) -> list[list[int]]:
    """The numbers of sorted series in parts of about equal size; those of a service stay together where they can.

    Which parts there are is a matter of the series alone, so that nothing depends on the number of processes.
    """
    if not names:
        return []
    order = sorted(range(len(names)), key=lambda k: (Labels.from_json(names[k]).service, names[k]))
    count = max(-(-len(names) // most), min(LEAST_PARTS, len(names) // WORTH_A_PART), 1)
    edges = [len(names) * k // count for k in range(count + 1)]
    return [sorted(order[low:high]) for low, high in pairwise(edges)]


def _share(config: PipelineConfig, part: int, whole: int) -> PipelineConfig:
    """The rules for a part: its share of the memory of values."""
    bytes_ = config.detection.novelty_memory * part // whole
    return replace(config, detection=replace(config.detection, novelty_memory=bytes_))


def _bundle(names: Sequence[str], parts: Sequence[tuple[Arrays, I32]], config: PipelineConfig) -> tuple[Bundle, int]:
    """One bundle of all parts, and the newest time in it."""
    engine = united([(owned(arrays, "engine"), rows) for arrays, rows in parts], len(names))
    told = [owned(arrays, "told") for arrays, _ in parts]
    until_ns = max(int(one["newest_ns"].max()) for one in told)
    if not until_ns:
        raise BadInput("expected points to learn from, got none in this stretch of time")
    budget = budget_of(config)
    budget.pool([owned(arrays, "budget") for arrays, _ in parts], np.sum([one["series"] for one in told], axis=0))
    typical = prototypes(names, engine, config.detection.warmup_points)
    return Bundle(tuple(names), engine, budget.learned(), typical), until_ns


@contextmanager
def _staging(path: Path) -> Iterator[None]:
    """A folder for what is finished, for one training at a time. Raises: Overloaded, StorageError."""
    lock = DirectoryLock(path)
    _sweep(path)
    with storage_errors(f"training in {path}"):
        make_directory(path)
        try:
            lock.acquire()
        except ConfigError as error:
            raise Overloaded(f"the same is being trained now: {error}") from error
    try:
        yield
    finally:
        lock.release()


def _sweep(path: Path) -> None:
    """Delete what trainings left that nobody went on with for long."""
    for other in path.parent.glob(f"{STAGED}*"):
        with suppress(OSError, ConfigError):  # one that somebody works in stays
            if other != path and time.time() - other.stat().st_mtime > ABANDONED_S:
                lock = DirectoryLock(other)
                lock.acquire()
                shutil.rmtree(other, ignore_errors=True)
                lock.release()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"{path}: {error}") from error


def plain(tree: Any) -> Any:
    """A tree of values as canonical JSON can say it."""
    if isinstance(tree, dict):
        return {str(key): plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple | set | frozenset):
        return [plain(value) for value in tree]
    exact = isinstance(tree, bool | int | str | None) or (isinstance(tree, float) and math.isfinite(tree))
    return tree if exact else str(tree)
