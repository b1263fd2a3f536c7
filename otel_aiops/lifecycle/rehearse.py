"""The rehearsal: recorded series once more through the detection under one budget, as they were and with faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.alerting import Alerting
from otel_aiops.detect.budget import BudgetConfig
from otel_aiops.detect.detector import Scores
from otel_aiops.detect.faults import RAMP_S, Copies
from otel_aiops.detect.rates import WEEK_S
from otel_aiops.detect.scorer import Scored, Scorer
from otel_aiops.detect.selftest import LARGEST, gauges
from otel_aiops.detect.serving import Model
from otel_aiops.detect.smoothing import Smoothing
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.scoring import rules_of
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.align import Align
from otel_aiops.series.archive import Points
from otel_aiops.series.batch import Batch
from otel_aiops.series.recent import Recent, on_grid

MOST_STEPS = 50_000  # in which a history is scored; points that are nearer come together
COUNTED = 0.5  # of the time, the newer part, in which alerts count; the rest is learned from
FAULT_SERIES, LEAST_SERIES = 20, 4  # that are copied, of those with enough points
FAULT_POINTS = 2_000_000  # of all copies; of more, fewer series are copied
FAULT_SHARE = 0.25  # of the steps, the newest, in which faults begin
LEAST_KNOWN = 60  # points before the first fault
RAMP = "ramp"

Told = Callable[[float], None]  # the share that is done
Heard = Callable[[Batch, Scores], None]


@dataclass(frozen=True, slots=True)
class Alerts:
    """What a budget made of a history: alerts that were paid for in its newer part, and the threshold in the end."""

    count: int
    counted_s: float
    threshold: float

    @property
    def a_week(self) -> float:
        """Alerts a week; NaN where no time was counted."""
        return self.count * WEEK_S / self.counted_s if self.counted_s > 0 else float("nan")


@dataclass(frozen=True, slots=True)
class Faults:
    """How faults that were put in were alerted at a threshold: `found` of `tried`, each a fault in a series.

    Places at which the series alerts without the fault are left out. `delay_s` is the median time to the alert,
    `lead_s` the median time from the alert for a ramp to its full size; both NaN where there is none.
    """

    series: int
    tried: int
    found: int
    delay_s: float
    lead_s: float
    by_kind: tuple[tuple[str, int, int], ...] = ()  # kind, tried, found
    by_series: tuple[tuple[int, int, int], ...] = ()  # number of the series, tried, found


NO_FAULTS = Faults(0, 0, 0, float("nan"), float("nan"))


class Scoring(Protocol):
    """What scores batches and learns from them, as `Scorer` does."""

    def assign(self, row: int, labels: Labels) -> None: ...

    def score(self, batch: Batch) -> Scored: ...

    def silent(self, batch: Batch, limit_s: F64) -> Scored: ...


class Whole:
    """A version as it serves, its families beside its engine, for `Detection`; they know their series already."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def assign(self, row: int, labels: Labels) -> None:
        """A row is given to a series."""
        self.model.scorer.assign(row, labels)

    def score(self, batch: Batch) -> Scored:
        """Score K points, then learn from them."""
        return self.model.score(batch)

    def silent(self, batch: Batch, limit_s: F64) -> Scored:
        """Score K streams that have stopped."""
        return self.model.scorer.silent(batch, limit_s)


class Forecasting(Whole):
    """The engine, which begins to learn, with forecasts beside it that begin with their series."""

    def __init__(self, config: PipelineConfig, smoothing: Smoothing) -> None:
        super().__init__(Model("", config.detection, rules_of(config), _fingerprint))
        self.model.smoothing = smoothing

    def assign(self, row: int, labels: Labels) -> None:
        """A row is given to a series."""
        super().assign(row, labels)
        self.model.welcome(np.array([row], np.int32), [labels])


class Detection:
    """Aligns, scores and learns as the pipeline does, for rows of known labels; what peers say is left out.

    Without a `scorer` one of the configuration begins to learn.
    """

    def __init__(self, config: PipelineConfig, labels: Sequence[Labels], scorer: Scoring | None = None) -> None:
        self._align = Align(config.align)
        self._scorer = scorer or Scorer(config.detection, config.policies, config.calendar, config.jobs)
        for row, one in enumerate(labels):
            self._scorer.assign(row, one)
        self.gone: I32 = np.empty(0, np.int32)  # rows whose silence became normal in the last step

    def step(self, rows: I32, time_ns: I64, value: F64, *, now_ns: int) -> Iterator[Scored]:
        """Score the points of one moment, then what has fallen silent by then."""
        for batch in self._align.step(*gauges(rows, time_ns, value), now_ns=now_ns).batches:
            yield self._scorer.score(batch)
        silence = self._align.silence(now_ns)
        self.gone = silence.gone
        if len(silence.rows):
            count = len(silence.rows)
            silent = Batch(silence.rows, np.full(count, now_ns), np.full(count, np.nan), silence.silence_s)
            yield self._scorer.silent(silent, silence.limit_s)


def rehearse(
    points: Points,
    labels: Sequence[Labels],
    config: PipelineConfig,
    budget: BudgetConfig,
    *,
    interval_s: float,
    kinds: Sequence[str] = (),
    seed: int = 0,
    told: Told | None = None,
    heard: Heard | None = None,
    threshold: Callable[[], float] | None = None,
    scorer: Scoring | None = None,
) -> tuple[Alerts, Faults]:
    """Score a history, learn from it, and count the alerts of its newer half under a budget for all of its series.

    Beside them go copies of some series that have a fault of one of some kinds in their last quarter. They pay nothing
    of the budget, and are judged by a `threshold` that is asked for in the end; without one by that of the budget.
    `heard` gets the points of the series and their scores. Without a `scorer` one of the configuration begins to learn.
    """
    if not len(points):
        return Alerts(0, 0.0, float("nan")), NO_FAULTS
    tried = _tried(points, kinds, seed)
    detection = Detection(config, [*labels, *([labels[code] for code in tried.origins] if tried else [])], scorer)
    alerting = Alerting((replace(budget, match={}),), config.budget, _fingerprint)
    alerting.assign(np.arange(points.series, dtype=np.int32), labels)
    first_ns, last_ns = int(points.time_ns[0]), int(points.time_ns[-1])
    since_ns = last_ns - round(COUNTED * (last_ns - first_ns))
    every = tried.beside(points) if tried else points
    alone = budget.false_discoveries / points.series if budget.false_discoveries < 1 else 1.0
    count = 0
    for begin, end in moments(every.time_ns, interval_s):
        now_ns = int(every.time_ns[end - 1])
        some = every.code[begin:end], every.time_ns[begin:end], every.value[begin:end]
        for scored in detection.step(*some, now_ns=now_ns):
            if tried:
                tried.note(scored, worth_of(scored.scores, alone, budget.ceiling))
            batch, scores = _first_rows(scored, points.series)
            alerted = alerting.judge(batch, scores, event_ns=now_ns)
            if heard is not None:
                heard(batch, scores)
            count += int((alerted.counted & (batch.time_ns >= since_ns)).sum())
        alerting.end(detection.gone[detection.gone < points.series])
        if told is not None:
            told(end / len(every))
    in_the_end = alerting.budget.reports()[0].threshold
    limit = threshold() if threshold else in_the_end
    faults = tried.judged(limit) if tried else NO_FAULTS
    return Alerts(count, (last_ns - since_ns) / 1e9, in_the_end), faults


class Trial(NamedTuple):
    """A fault of a kind in series k: whether it has an alert in its time, and after how long; NaN where it has none."""

    kind: str
    series: int
    found: bool
    delay_s: float


class Tried:
    """Copies of K of S series with F faults: as rows behind those of the series, and what their points were worth."""

    def __init__(self, points: Points, codes: I64, recent: Recent, copies: Copies, begin: int) -> None:
        self._recent, self._copies, self._begin, self._series = recent, copies, begin, points.series
        faults, (known, steps) = len(copies.faulty), copies.clean.shape
        self.origins: list[int] = np.tile(codes, faults).tolist()  # of each copy, the number of its series
        self._worth = np.zeros((1 + faults, known, steps - begin), np.float32)  # the clean series first
        self._place = np.full(points.series + faults * known, -1, np.int64)  # by row, where it stands in that
        self._place[codes] = np.arange(known)
        self._place[points.series :] = known + np.arange(faults * known)

    def beside(self, points: Points) -> Points:
        """The points of the series with those of the copies, in the order of time."""
        values = np.concatenate([copy.values for copy in self._copies.faulty.values()])
        row, step = np.nonzero(np.isfinite(values))
        time_ns = self._recent.start_ns + np.round(step * self._recent.interval_s * 1e9).astype(np.int64)
        code = np.append(points.code, (points.series + row).astype(np.int32))
        every_ns = np.append(points.time_ns, time_ns)
        order = np.lexsort((code, every_ns))
        value = np.append(points.value, values[row, step])
        return Points(code[order], every_ns[order], value[order], len(self._place))

    def note(self, scored: Scored, worth: F64) -> None:
        """Keep what points were worth from where faults may begin."""
        of = self._recent
        step = np.round((scored.batch.time_ns - of.start_ns) / (of.interval_s * 1e9)).astype(np.int64) - self._begin
        place = self._place[scored.batch.rows]
        kept = np.flatnonzero((place >= 0) & (step >= 0) & (step < self._worth.shape[2]))
        flat = self._worth.reshape(-1, self._worth.shape[2])
        np.maximum.at(flat, (place[kept], step[kept]), np.nan_to_num(worth[kept]).astype(np.float32))

    def each(self, threshold: float | F64) -> list[Trial]:
        """What became of every fault at a threshold, or at one by series (K,)."""
        limit = np.broadcast_to(np.asarray(threshold, np.float64), (self._worth.shape[1],))[:, None]
        over, interval_s = self._worth >= limit, self._recent.interval_s
        found = []
        for number, (kind, injected) in enumerate(self._copies.faulty.items(), start=1):
            truth = injected.truth[:, self._begin :]
            near = truth.copy()
            near[:, 1:] |= truth[:, :-1]  # the point after a fault may be the one that shows it
            tried = truth.any(axis=1) & ~(near & over[0]).any(axis=1)
            seen = near & over[number]
            delay_s = (seen.argmax(axis=1) - truth.argmax(axis=1)) * interval_s
            for k in np.flatnonzero(tried).tolist():
                hit = bool(seen[k].any())
                found.append(Trial(kind, k, hit, float(delay_s[k]) if hit else float("nan")))
        return found

    def judged(self, threshold: float) -> Faults:
        """Which faults have an alert in their time."""
        trials, interval_s = self.each(threshold), self._recent.interval_s
        delays = [one.delay_s for one in trials if one.found]
        leads = [RAMP_S - one.delay_s for one in trials if one.found and one.kind == RAMP and interval_s <= RAMP_S / 4]
        by_kind = []
        for kind in self._copies.faulty:
            mine = [one.found for one in trials if one.kind == kind]
            by_kind.append((kind, len(mine), sum(mine)))
        by_series = []
        for place, code in enumerate(self.origins[: self._worth.shape[1]]):
            mine = [one.found for one in trials if one.series == place]
            by_series.append((code, len(mine), sum(mine)))
        return Faults(
            series=self._worth.shape[1],
            tried=len(trials),
            found=sum(one.found for one in trials),
            delay_s=float(np.median(delays)) if delays else float("nan"),
            lead_s=float(np.median(leads)) if leads else float("nan"),
            by_kind=tuple(by_kind),
            by_series=tuple(by_series),
        )


def _tried(points: Points, kinds: Sequence[str], seed: int) -> Tried | None:
    """Copies with faults of some series, drawn by chance; None where no series has enough points."""
    count = np.bincount(points.code, minlength=points.series)
    usable = np.flatnonzero(count >= LEAST_KNOWN)
    most = int(np.clip(FAULT_POINTS / max(1.0, len(kinds) * float(count.max(initial=0))), LEAST_SERIES, FAULT_SERIES))
    if len(usable) > most:
        usable = np.sort(np.random.default_rng(seed).choice(usable, most, replace=False))
    some = points.of(usable.tolist())
    recent = on_grid(some.code.astype(np.int64), some.time_ns, some.value, points=MOST_STEPS) if len(some) else None
    if recent is None or not kinds:
        return None
    begin = int(recent.values.shape[1] * (1 - FAULT_SHARE))
    with np.errstate(invalid="ignore"):
        clean = np.where(np.abs(recent.values) <= LARGEST, recent.values, np.nan)
    known = np.isfinite(clean[:, :begin]).sum(axis=1) >= LEAST_KNOWN
    copies = Copies.of(clean[known], begin, interval_s=recent.interval_s, seed=seed)
    copies = Copies(copies.clean, {kind: copies.faulty[kind] for kind in kinds if kind in copies.faulty})
    return Tried(points, usable[known], recent, copies, begin) if copies.faulty else None


def worth_of(scores: Scores, alone: float | F64, ceiling: float | F64) -> F64:
    """The alert scores of points, 0 where they would not be believed if no other series were strange at that time.

    `alone` is the largest p-value at which one series of all is believed (Benjamini and Hochberg 1995, rank 1).
    """
    with np.errstate(invalid="ignore"):
        believed = np.isnan(scores.probability) | (1 - scores.probability <= alone) | (scores.alert >= ceiling)
    return np.where(believed, scores.alert, 0.0)


def _first_rows(scored: Scored, rows: int) -> tuple[Batch, Scores]:
    """The points of the first rows."""
    mine = scored.batch.rows < rows
    if mine.all():
        return scored.batch, scored.scores
    k = np.flatnonzero(mine)
    return scored.batch.at(k), scored.scores.at(k)


def _fingerprint(rows: I32) -> NDArray[np.uint64]:
    return rows.astype(np.uint64) + np.uint64(1)


def moments(time_ns: I64, interval_s: float) -> Iterator[tuple[int, int]]:
    """Where stretches of sorted times begin and end that are taken in at once, as a Collector sends them."""
    span_ns = int(time_ns[-1] - time_ns[0])
    usual_ns = round(interval_s * 1e9) if interval_s == interval_s else 1
    width_ns = max(usual_ns, span_ns // MOST_STEPS, 1)
    number = (time_ns - time_ns[0]) // width_ns
    edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(time_ns)]
    yield from pairwise(edges)
