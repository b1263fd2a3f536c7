"""The rehearsal: recorded series once more through the detection under one budget, as they were and with faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from otel_aiops.detect.alerting import Alerting
from otel_aiops.detect.budget import BudgetConfig
from otel_aiops.detect.faults import RAMP_S, Copies
from otel_aiops.detect.rates import WEEK_S
from otel_aiops.detect.scorer import Scored, Scorer
from otel_aiops.detect.selftest import LARGEST, gauges
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64, I32, I64, Bool
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.align import Align
from otel_aiops.series.archive import Points
from otel_aiops.series.batch import Batch
from otel_aiops.series.recent import on_grid

MOST_STEPS = 50_000  # in which a history is scored; points that are nearer come together
COUNTED = 0.5  # of the time, the newer part, in which alerts count; the rest is learned from
FAULT_SERIES = 20
FAULT_POINTS = 2_880  # the newest of each series; faults begin in the last quarter of them
FAULT_SHARE = 0.25
LEAST_KNOWN = 60  # points before the first fault
RAMP = "ramp"

Told = Callable[[float], None]  # the share that is done


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


class Detection:
    """Aligns, scores and learns as the pipeline does, for rows of known labels; what peers say is left out."""

    def __init__(self, config: PipelineConfig, labels: Sequence[Labels]) -> None:
        self._align = Align(config.align)
        self._scorer = Scorer(config.detection, config.policies, config.calendar, config.jobs)
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
    told: Told | None = None,
) -> Alerts:
    """Score a history, learn from it, and count the alerts of its newer half under a budget for all of its series."""
    if not len(points):
        return Alerts(0, 0.0, float("nan"))
    detection = Detection(config, labels)
    owns_all = replace(budget, match={})
    alerting = Alerting((owns_all,), config.budget, lambda rows: rows.astype(np.uint64) + np.uint64(1))
    alerting.assign(np.arange(points.series, dtype=np.int32), labels)
    first_ns, last_ns = int(points.time_ns[0]), int(points.time_ns[-1])
    since_ns = last_ns - round(COUNTED * (last_ns - first_ns))
    count = 0
    for begin, end in _moments(points.time_ns, interval_s):
        now_ns = int(points.time_ns[end - 1])
        some = points.code[begin:end], points.time_ns[begin:end], points.value[begin:end]
        for scored in detection.step(*some, now_ns=now_ns):
            alerted = alerting.judge(scored.batch, scored.scores, event_ns=now_ns)
            count += int((alerted.counted & (scored.batch.time_ns >= since_ns)).sum())
        alerting.end(detection.gone)
        if told is not None:
            told(end / len(points))
    return Alerts(count, (last_ns - since_ns) / 1e9, alerting.budget.reports()[0].threshold)


def try_faults(
    points: Points,
    labels: Sequence[Labels],
    config: PipelineConfig,
    budget: BudgetConfig,
    *,
    threshold: float,
    kinds: Sequence[str],
    seed: int,
    told: Told | None = None,
) -> Faults:
    """Put faults of some kinds in copies of some series, and see which of them are alerts at a threshold."""
    chosen = _chosen(points, seed)
    recent = on_grid(*_of(points, chosen), points=FAULT_POINTS) if len(chosen) else None
    if recent is None:
        return Faults(0, 0, 0, float("nan"), float("nan"))
    begin = int(recent.values.shape[1] * (1 - FAULT_SHARE))
    with np.errstate(invalid="ignore"):
        clean = np.where(np.abs(recent.values) <= LARGEST, recent.values, np.nan)
    known = np.isfinite(clean[:, :begin]).sum(axis=1) >= LEAST_KNOWN
    clean, chosen = clean[known], chosen[known]
    copies = Copies.of(clean, begin, interval_s=recent.interval_s, seed=seed)
    copies = Copies(clean, {kind: copies.faulty[kind] for kind in kinds if kind in copies.faulty})
    if not copies.faulty:
        return Faults(len(clean), 0, 0, float("nan"), float("nan"))
    rows = copies.rows()
    detection = Detection(config, [labels[code] for code in np.tile(chosen, 1 + len(copies.faulty)).tolist()])
    alone = budget.false_discoveries / points.series if budget.false_discoveries < 1 else 1.0
    over = np.zeros(rows.shape, bool)
    for step in range(rows.shape[1]):
        now_ns = recent.start_ns + round(step * recent.interval_s * 1e9)
        present = np.flatnonzero(np.isfinite(rows[:, step])).astype(np.int32)
        times = np.full(len(present), now_ns)
        for scored in detection.step(present, times, rows[present, step], now_ns=now_ns):
            over[scored.batch.rows, step] |= _alerts(scored, threshold, budget, alone)
        if told is not None:
            told((step + 1) / rows.shape[1])
    return _judged(copies, over.reshape(-1, *clean.shape), recent.interval_s)


def _alerts(scored: Scored, threshold: float, budget: BudgetConfig, alone: float) -> Bool:
    """Which points alert: over the threshold, and believed although no other series is strange at that time.

    `alone` is the largest p-value at which one series of all is believed (Benjamini and Hochberg 1995, rank 1).
    """
    scores = scored.scores
    with np.errstate(invalid="ignore"):
        believed = np.isnan(scores.probability) | (1 - scores.probability <= alone) | (scores.alert >= budget.ceiling)
        return np.asarray((scores.alert >= threshold) & believed)


def _judged(copies: Copies, over: Bool, interval_s: float) -> Faults:
    """Which faults have an alert in their time; `over` (1 + F, S, T), the clean copies first."""
    delays: list[float] = []
    leads: list[float] = []
    by_kind: list[tuple[str, int, int]] = []
    for number, (kind, injected) in enumerate(copies.faulty.items(), start=1):
        truth = injected.truth.copy()
        truth[:, 1:] |= injected.truth[:, :-1]  # the point after a fault may be the one that shows it
        tried = injected.truth.any(axis=1) & ~(truth & over[0]).any(axis=1)
        seen = truth & over[number]
        found = tried & seen.any(axis=1)
        delay_s = (seen.argmax(axis=1) - injected.truth.argmax(axis=1))[found] * interval_s
        delays += delay_s.tolist()
        if kind == RAMP and interval_s <= RAMP_S / 4:
            leads += (RAMP_S - delay_s).tolist()
        by_kind.append((kind, int(tried.sum()), int(found.sum())))
    return Faults(
        series=len(copies.clean),
        tried=sum(tried for _, tried, _ in by_kind),
        found=sum(found for _, _, found in by_kind),
        delay_s=float(np.median(delays)) if delays else float("nan"),
        lead_s=float(np.median(leads)) if leads else float("nan"),
        by_kind=tuple(by_kind),
    )


def _moments(time_ns: I64, interval_s: float) -> Iterator[tuple[int, int]]:
    """Where stretches of sorted times begin and end that are taken in at once, as a Collector sends them."""
    span_ns = int(time_ns[-1] - time_ns[0])
    usual_ns = round(interval_s * 1e9) if interval_s == interval_s else 1
    width_ns = max(usual_ns, span_ns // MOST_STEPS, 1)
    number = (time_ns - time_ns[0]) // width_ns
    edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(time_ns)]
    yield from pairwise(edges)


def _chosen(points: Points, seed: int) -> I64:
    """Some series that have points, by number."""
    count = np.bincount(points.code, minlength=points.series)
    usable = np.flatnonzero(count >= LEAST_KNOWN)
    if len(usable) > FAULT_SERIES:
        usable = np.sort(np.random.default_rng(seed).choice(usable, FAULT_SERIES, replace=False))
    return usable


def _of(points: Points, codes: I64) -> tuple[I64, I64, F64]:
    some = points.of(codes.tolist())
    return some.code.astype(np.int64), some.time_ns, some.value
