"""The play: one detector over recorded points as the service would have run it, score first, learn after."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.alerting import Alerting
from otel_aiops.detect.budget import BudgetConfig
from otel_aiops.detect.detector import CHANNELS
from otel_aiops.detect.engine import EngineConfig, copied
from otel_aiops.detect.faults import Copies
from otel_aiops.detect.forest import Forests
from otel_aiops.detect.lessons import Verdict
from otel_aiops.detect.scorer import Scored
from otel_aiops.detect.selftest import LARGEST
from otel_aiops.detect.serving import BINS, Model, Present, owned
from otel_aiops.detect.smoothing import Smoothing
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.events import Opened
from otel_aiops.lifecycle.naive import SeasonalNaive
from otel_aiops.lifecycle.rehearse import (
    LEAST_KNOWN,
    MOST_STEPS,
    Detection,
    Scoring,
    Trial,
    Tried,
    Whole,
    moments,
    worth_of,
)
from otel_aiops.lifecycle.scoring import rules_of
from otel_aiops.lifecycle.version import Bundle
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.archive import Points
from otel_aiops.series.columns import Arrays
from otel_aiops.series.recent import on_grid

DAY_NS = 86_400_000_000_000
SIX_KINDS = ("spike", "shift_up", "ramp", "variance_up", "flat", "missing")
FAULT_SERIES = 20
SETTLED = 20  # points of a copy before its fault, so that it is known how often it comes

Told = Callable[[float], None]  # the share that is done


@dataclass(frozen=True, slots=True)
class Recording:
    """Points of series with these labels; row i is the series with texts[i]. What begins before `since_ns` is only
    learned from, and faults are put in from `faults_ns` on.
    """

    points: Points
    texts: tuple[str, ...]
    labels: tuple[Labels, ...]
    since_ns: int
    until_ns: int
    interval_s: float
    faults_ns: int

    def after(self, time_ns: int) -> Points:
        """The points from a time on."""
        first = int(np.searchsorted(self.points.time_ns, time_ns))
        of = self.points
        return Points(of.code[first:], of.time_ns[first:], of.value[first:], of.series)


@dataclass(frozen=True, slots=True)
class Beginning:
    """With what a detector begins: nothing, or what a version has learned from the points before `until_ns`.

    A version begins as where it serves: with its families, and for series that it has never seen with what is typical
    of them. It learns from the points between that and the hold-out too, so that nobody has missed any; 0 is that it is
    not known. Without a version `beside` are families that were trained on what is before the hold-out, by their part
    of a bundle; they join where that begins.
    """

    detection: EngineConfig | None  # None is the seasonal-naive baseline
    bundle: Bundle | None = None
    until_ns: int = 0
    beside: Mapping[str, Arrays] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Played:
    """What a detector made of the points from `since_ns` on. `thresholds` (S,) are those of the end, in alert scores;
    `probability` counts points by their probability in BINS equal bins.
    """

    opened: tuple[Opened, ...]
    thresholds: F64
    probability: F64
    points: int
    played: int  # points in all, also those that were only learned from
    over: int
    cpu_s: float
    bytes_per_series: int
    trials: tuple[Trial, ...] = ()
    tried_series: tuple[str, ...] = ()


def play(
    recording: Recording,
    beginning: Beginning,
    config: PipelineConfig,
    *,
    kinds: Sequence[str] = SIX_KINDS,
    seed: int = 0,
    told: Told | None = None,
    lessons: Sequence[tuple[str, Verdict]] = (),
) -> Played:
    """Run a detector over a recording under the budgets of `config`, then over copies of series with faults.

    `lessons` are verdicts, with the texts of their series, that have moved its thresholds before it begins.
    Raises: StateError when a bundle does not fit its settings.
    """
    detector = _Detector(recording, beginning, config)
    alerting = detector.alerting
    place = {text: row for row, text in enumerate(recording.texts)}
    alerting.learn([one for _, one in lessons], [place.get(text) for text, _ in lessons])
    points = recording.points
    if beginning.bundle is not None:
        points = recording.after(beginning.until_ns or recording.since_ns)
    count = _Count(recording)
    state: Arrays = {}
    began_s = time.process_time()
    for begin, end in moments(points.time_ns, recording.interval_s) if len(points) else ():
        now_ns = int(points.time_ns[end - 1])
        if now_ns >= recording.since_ns:
            detector.join()
        if kinds and not state and now_ns >= recording.faults_ns:
            state = detector.state()
        some = points.code[begin:end], points.time_ns[begin:end], points.value[begin:end]
        for scored in detector.detection.step(*some, now_ns=now_ns):
            alerted = alerting.judge(scored.batch, scored.scores, event_ns=now_ns)
            count.take(replace(scored, alerted=alerted))
        alerting.end(detector.detection.gone)
        count.end(detector.detection.gone)
        if told is not None:
            told(end / len(points))
    cpu_s = time.process_time() - began_s
    rows = range(len(recording.labels))
    thresholds = np.array([alerting.budget.objective(row)[1] * np.exp(alerting.shift(row)) for row in rows])
    configs = {one.name: one for one in alerting.budget.configs}
    owners = [configs[alerting.budget.objective(row)[0]] for row in rows]
    trials, tried = _trials(recording, detector, config, state, thresholds, owners, kinds, seed)
    return Played(
        opened=tuple(count.done()),
        thresholds=thresholds,
        probability=count.probability,
        points=count.points,
        played=len(points),
        over=count.over,
        cpu_s=cpu_s,
        bytes_per_series=detector.bytes_per_series,
        trials=trials,
        tried_series=tried,
    )


class _Detector:
    """A detection with its thresholds: that of a version as it serves, of settings alone, or the baseline."""

    def __init__(self, recording: Recording, beginning: Beginning, config: PipelineConfig) -> None:
        self._beginning, self._config = beginning, config
        self._series = len(recording.labels)
        rows = np.arange(self._series, dtype=np.int32)
        self.scorer = self.make()
        if isinstance(self.scorer, Whole):
            model = self.scorer.model
            model.assign(rows, recording.labels)
            if beginning.bundle is not None:
                trained = beginning.bundle.trained(model.detection)
                model.take(trained, Present(rows, recording.labels, self._series))
            self.alerting = model.alerting
        else:
            self.alerting = Alerting(config.budgets, config.budget, _fingerprint)
            self.alerting.assign(rows, recording.labels)
        self.detection = Detection(config, recording.labels, self.scorer)
        self._labels, self._waiting = recording.labels, dict(beginning.beside)

    def join(self) -> None:
        """Let the families beside it score from now on."""
        if self._waiting and isinstance(self.scorer, Whole):
            forest, forecast = (self._waiting.get(part) for part in ("forest", "forecast"))
            self.scorer.model.forests = Forests(forest) if forest else None
            self.scorer.model.smoothing = Smoothing(forecast) if forecast else None
            self.scorer.model.welcome(np.arange(self._series, dtype=np.int32), self._labels)
        self._waiting = {}

    def make(self) -> Whole | SeasonalNaive:
        """One that knows nothing."""
        if self._beginning.detection is None:
            return SeasonalNaive()
        return Whole(Model("", self._beginning.detection, rules_of(self._config), _fingerprint))

    @property
    def bytes_per_series(self) -> int:
        """What is remembered of a series; of families their share."""
        if isinstance(self.scorer, SeasonalNaive):
            return self.scorer.bytes_per_series
        engine, families = self.scorer.model.scorer.engine, self.scorer.model.families
        memory = engine.novelty_bytes_per_series if engine.config.novelty_memory else 0
        known = max(self._series, len(self._beginning.bundle.labels) if self._beginning.bundle else 0, 1)
        beside = sum(array.nbytes for family in families for array in family.learned().values()) // known
        return engine.bytes_per_series + memory + beside

    def state(self) -> Arrays:
        """What it has learned so far."""
        return self.scorer.state() if isinstance(self.scorer, SeasonalNaive) else self.scorer.model.state()

    def beside(self, state: Arrays, rows: I32, times: int) -> Scoring:
        """Another one, with what was learned of some rows so many times, one behind the other."""
        other = self.make()
        if isinstance(other, SeasonalNaive):
            other.restore({name: np.concatenate([array[rows]] * times) for name, array in state.items()})
            return other
        other.model.scorer.engine.restore(copied(owned(state, "engine"), rows, times))
        other.model.forests = Forests.restored(Forests.copied(owned(state, "forest"), rows, times))
        other.model.smoothing = Smoothing.restored(Smoothing.copied(owned(state, "forecast"), rows, times))
        return other


class _Count:
    """What is counted of a play from `since_ns` on."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._open: dict[int, Opened] = {}
        self._opened: list[Opened] = []
        self._is_open = np.zeros(len(recording.texts), bool)
        self.probability = np.zeros(BINS)
        self.points = self.over = 0

    def take(self, scored: Scored) -> None:
        """The points of a batch."""
        batch, alerted = scored.batch, scored.alerted
        assert alerted is not None
        ended = self._is_open[batch.rows] & ~alerted.active
        if ended.any():
            self.end(batch.rows[ended])
        if alerted.active.any():
            for k in np.flatnonzero(alerted.active).tolist():
                self._follow(scored, k)
        late = batch.time_ns >= self._recording.since_ns
        with np.errstate(invalid="ignore"):
            self.over += int((late & (scored.scores.score >= 1)).sum())
        known = scored.scores.probability[late & ~np.isnan(scored.scores.probability)]
        self.points += int(late.sum())
        self.probability += np.bincount(np.minimum((known * BINS).astype(np.int64), BINS - 1), minlength=BINS)

    def _follow(self, scored: Scored, k: int) -> None:
        batch, alerted = scored.batch, scored.alerted
        assert alerted is not None
        row, now_ns, ratio = int(batch.rows[k]), int(batch.time_ns[k]), float(alerted.ratio[k])
        if alerted.opened[k]:
            self.end(np.array([row], np.int32))
            text, labels = self._recording.texts[row], self._recording.labels[row]
            channel = CHANNELS[int(scored.scores.channel[k])]
            paid = bool(alerted.counted[k])
            self._open[row] = Opened(text, labels.service, now_ns, now_ns, ratio, channel, paid)
            self._is_open[row] = True
        elif row in self._open:
            before = self._open[row]
            self._open[row] = replace(before, end_ns=now_ns, peak=max(before.peak, ratio))

    def end(self, rows: I32) -> None:
        """Alerts of rows end."""
        for row in rows.tolist():
            if (one := self._open.pop(row, None)) is not None and one.start_ns >= self._recording.since_ns:
                self._opened.append(one)
        self._is_open[rows] = False

    def done(self) -> list[Opened]:
        """All alerts, also those that go on."""
        self.end(np.array(sorted(self._open), np.int32))
        return sorted(self._opened, key=lambda one: (one.start_ns, one.series))


# -- faults -----------------------------------------------------------------------------------------------------------


def _trials(
    recording: Recording,
    detector: _Detector,
    config: PipelineConfig,
    state: Arrays,
    thresholds: F64,
    owners: Sequence[BudgetConfig],
    kinds: Sequence[str],
    seed: int,
) -> tuple[tuple[Trial, ...], tuple[str, ...]]:
    """(what became of faults in copies of some series, these series): the same faults for every detector."""
    drawn = _drawn(recording, kinds, seed) if state and kinds else None
    if drawn is None:
        return (), ()
    rows, tried, every = drawn
    times = 1 + len(tried.origins) // len(rows)
    labels = [recording.labels[row] for row in rows.tolist()] * times
    other = Detection(config, labels, detector.beside(state, rows, times))
    shares = np.array([_alone(owners[row], len(owners)) for row in rows.tolist()])
    ceilings = np.array([owners[row].ceiling for row in rows.tolist()])
    for begin, end in moments(every.time_ns, recording.interval_s):
        now_ns = int(every.time_ns[end - 1])
        some = every.code[begin:end], every.time_ns[begin:end], every.value[begin:end]
        for scored in other.step(*some, now_ns=now_ns):
            place = scored.batch.rows % len(rows)
            tried.note(scored, worth_of(scored.scores, shares[place], ceilings[place]))
    return tuple(tried.each(thresholds[rows])), tuple(recording.texts[row] for row in rows.tolist())


def _drawn(recording: Recording, kinds: Sequence[str], seed: int) -> tuple[I32, Tried, Points] | None:
    """(rows, their copies with faults, points of both); None where no series has enough points."""
    near = recording.after(recording.faults_ns - DAY_NS)
    late = recording.after(recording.faults_ns)
    before = np.bincount(near.code, minlength=near.series) - np.bincount(late.code, minlength=near.series)
    usable = np.flatnonzero((np.bincount(late.code, minlength=near.series) >= LEAST_KNOWN) & (before >= LEAST_KNOWN))
    if len(usable) > FAULT_SERIES:
        usable = np.sort(np.random.default_rng(seed).choice(usable, FAULT_SERIES, replace=False))
    some = near.of(usable.tolist())
    recent = on_grid(some.code.astype(np.int64), some.time_ns, some.value, points=MOST_STEPS) if len(some) else None
    if recent is None:
        return None
    step = round((recording.faults_ns - recent.start_ns) / (recent.interval_s * 1e9))
    begin = max(step, 0) + SETTLED
    with np.errstate(invalid="ignore"):
        clean = np.where(np.abs(recent.values) <= LARGEST, recent.values, np.nan)
    if begin >= clean.shape[1]:
        return None
    copies = Copies.of(clean, begin, interval_s=recent.interval_s, seed=seed)
    copies = Copies(copies.clean, {kind: copies.faulty[kind] for kind in kinds if kind in copies.faulty})
    if not copies.faulty:
        return None
    codes = np.arange(len(usable), dtype=np.int64)
    tried = Tried(some, codes, recent, copies, begin)
    both = tried.beside(some)
    kept = both.time_ns >= recording.faults_ns
    return usable.astype(np.int32), tried, Points(both.code[kept], both.time_ns[kept], both.value[kept], both.series)


def _alone(owner: BudgetConfig, series: int) -> float:
    """The p-value at which a series is believed when no other is strange."""
    return owner.false_discoveries / series if owner.false_discoveries < 1 else 1.0


def watch(
    values: F64, time_ns: I64, labels: Labels, beginning: Beginning, config: PipelineConfig, text: str
) -> tuple[I64, F64]:
    """(times, alert scores) of one series over which a detector runs alone."""
    series = Points(np.zeros(len(values), np.int32), time_ns, values, 1)
    alone = Recording(series, (text,), (labels,), int(time_ns[0]), int(time_ns[-1]), float("nan"), 2**62)
    detection = _Detector(alone, beginning, config).detection
    times, worth = [], []
    for k in range(len(values)):
        some = series.code[k : k + 1], time_ns[k : k + 1], values[k : k + 1]
        for scored in detection.step(*some, now_ns=int(time_ns[k])):
            times += scored.batch.time_ns.tolist()
            worth += np.nan_to_num(scored.scores.alert).tolist()
    return np.array(times, np.int64), np.array(worth)


def _fingerprint(rows: I32) -> NDArray[np.uint64]:
    return rows.astype(np.uint64) + np.uint64(1)
