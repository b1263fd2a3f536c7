"""The alert budget on labelled series: alerts of every week against the budget, and what they are worth.

`python -m benchmarks.budget DATA`, where DATA holds nab, cloud_monitoring, or both. All series are one fleet: each
begins a whole number of weeks later than it did, so that about as many of them report at any time.
`python -m benchmarks budget` needs no data and measures what the budget costs.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.detection.cloud import EARLY, LATE
from benchmarks.detection.run import Corpora, load
from benchmarks.detection.series import Series
from benchmarks.table import Row, best_s, show
from otel_aiops.detect.budget import Budget, BudgetConfig, BudgetReport, per_week
from otel_aiops.detect.detector import Scores
from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64, I64, Bool
from otel_aiops.series.batch import Batch

BEGIN_NS = 1_700_438_400 * 10**9  # a Monday
WEEK_NS, MINUTE_NS = 7 * 86_400 * 10**9, 60 * 10**9
WEEKS = 26
BUDGETS = ("2/week", "1/day")


@dataclass(frozen=True, slots=True)
class Judge:
    """The events of a series as (first, last) row in which an alert finds them, and the rows that count (N,)."""

    events: tuple[tuple[int, int], ...]
    counts: Bool


@dataclass(frozen=True, slots=True)
class Fleet:
    """P points of all series in the order of fleet time, all (P,): series, row of it, time, and scores."""

    series: Sequence[Series]
    judges: Sequence[Judge]
    of: I64
    row: I64
    time_ns: I64
    score: F64
    alert: F64
    probability: F64
    ends: I64  # of each minute, (M,)

    def batches(self) -> Iterator[tuple[slice, Batch, Scores]]:
        """One batch a minute."""
        absent = np.full(len(self.of), np.nan)
        channel = np.zeros(len(self.of), np.uint8)
        rows = self.of.astype(np.int32)
        begin = 0
        for end in self.ends.tolist():
            at = slice(begin, end)
            empty = absent[at]
            scores = Scores(
                self.score[at], self.probability[at], empty, empty, empty, channel[at], empty, self.alert[at]
            )
            yield at, Batch(rows[at], self.time_ns[at], empty, empty), scores
            begin = end


def fleet(corpora: Corpora) -> Fleet:
    """Score all series with the engine at its defaults, and put them one beside the other in time."""
    series = corpora.series
    judges = [Judge(file.windows, np.arange(len(file.series.value)) >= file.probation) for file in corpora.nab]
    for one in corpora.cloud:
        events = zip((one.first - EARLY).tolist(), (one.last + LATE).tolist(), strict=True)
        judges.append(Judge(tuple(events), one.counts))
    scored = _scored(series)
    lanes = np.zeros(max(1, round(sum(_weeks(one) for one in series) / WEEKS)), np.int64)
    parts = []
    for k in sorted(range(len(series)), key=lambda k: (-_weeks(series[k]), series[k].name)):
        lane = int(lanes.argmin())
        weeks = int(lanes[lane]) - (int(series[k].time_ns[0]) - BEGIN_NS) // WEEK_NS
        lanes[lane] += _weeks(series[k])
        known = np.flatnonzero(~np.isnan(scored[k][1]))
        of = np.full(len(known), k, np.int64)
        parts.append((of, known, series[k].time_ns[known] + weeks * WEEK_NS, *(part[known] for part in scored[k])))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.lexsort((columns[1], columns[0], columns[2] // MINUTE_NS))
    of, row, time_ns, score, alert, probability = (column[order] for column in columns)
    # A series with two points in one minute takes part in two batches.
    again = (np.diff(of, prepend=-1) == 0) & (np.diff(time_ns // MINUTE_NS, prepend=-1) == 0)
    begins = np.flatnonzero((np.diff(time_ns // MINUTE_NS, prepend=-1) != 0) | again)
    return Fleet(series, judges, of, row, time_ns, score, alert, probability, np.append(begins[1:], len(of)))


def _weeks(one: Series) -> int:
    return 1 + int(one.time_ns[-1] - one.time_ns[0]) // WEEK_NS


def _scored(series: Sequence[Series]) -> list[tuple[F64, F64, F64]]:
    """(score, alert, probability) of every row, NaN where there is none; one batch for each row number."""
    size = max(len(one.value) for one in series)
    time_ns, value = np.zeros((size, len(series)), np.int64), np.full((size, len(series)), np.nan)
    for k, one in enumerate(series):
        time_ns[: len(one.value), k], value[: len(one.value), k] = one.time_ns, one.value
    found = np.full((3, size, len(series)), np.nan)
    last_ns, engine = np.zeros(len(series), np.int64), Engine(EngineConfig())
    for i in range(size):
        rows = np.flatnonzero(np.isfinite(value[i]) & (time_ns[i] > last_ns))
        if len(rows):
            passed_s = np.where(last_ns[rows] > 0, (time_ns[i, rows] - last_ns[rows]) / 1e9, np.nan)
            batch = Batch(rows.astype(np.int32), time_ns[i, rows], value[i, rows], passed_s)
            scores = engine.score(batch)
            engine.learn(batch, scores)
            found[:, i, rows] = scores.score, scores.alert, scores.probability
            last_ns[rows] = time_ns[i, rows]
    return [(*found[:, : len(one.value), k],) for k, one in enumerate(series)]


def play(points: Fleet, config: BudgetConfig) -> tuple[Bool, BudgetReport]:
    """(which points open an alert, what the budget says at the end)."""
    budget = Budget(default=config)
    rows = np.arange(len(points.series), dtype=np.int32)
    budget.assign(rows, [Labels(one.name, resource=(("service.name", one.name),)) for one in points.series])
    opened = np.zeros(len(points.of), bool)
    for at, batch, scores in points.batches():
        opened[at] = budget.update(batch, scores, event_ns=int(batch.time_ns.max())).counted
    return opened, budget.reports()[-1]


def own_quantiles(points: Fleet, weekly: float) -> Bool:
    """Alerts of thresholds that every series has for itself: the quantile of its past that leaves it its share."""
    opened = np.zeros(len(points.of), bool)
    active = sum(_weeks(one) for one in points.series) / WEEKS
    for k, one in enumerate(points.series):
        which = np.flatnonzero(points.of == k)
        above = weekly / active / (WEEK_NS / 1e9 / one.step_s)  # share of its points
        past: list[float] = []
        was = False
        for at, value in zip(which.tolist(), np.nan_to_num(points.alert[which]).tolist(), strict=True):
            # Among so many past points at most this many may be higher; in the first day there are no alerts.
            now = len(past) >= one.day and value > 0.25 and len(past) - bisect_left(past, value) <= above * len(past)
            opened[at], was = now and not was, now
            insort(past, value)
    return opened


def worth(points: Fleet, opened: Bool) -> tuple[int, float, float]:
    """(alerts that count, share of them that are in events, share of the events with an alert)."""
    alerts = right = found = events = 0
    for k, judge in enumerate(points.judges):
        at = points.row[opened & (points.of == k)]
        at = at[judge.counts[at]]
        inside = np.zeros(len(at), bool)
        for first, last in judge.events:
            hit = (at >= first) & (at <= last)
            inside |= hit
            found += bool(hit.any())
        events += len(judge.events)
        alerts += len(at)
        right += int(inside.sum())
    return alerts, right / max(1, alerts), found / max(1, events)


def line(points: Fleet, title: str, opened: Bool, weekly: float) -> str:
    """One line of the table."""
    week = (points.time_ns[opened] - BEGIN_NS) // WEEK_NS
    counts = np.bincount(np.minimum(week, WEEKS - 1), minlength=WEEKS)
    alerts, precision, recall = worth(points, opened)
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    each = " ".join(str(count) for count in counts.tolist())
    over = float((counts > 2 * weekly).mean())
    figures = (
        f"{counts.mean():6.2f} {counts.mean() / weekly:6.2f} {over:5.2f} {alerts:6} {precision:6.3f} {recall:6.3f}"
    )
    return f"{title:34} {figures} {f1:6.3f}  {each}"


def fixed(points: Fleet, alerts: int) -> float:
    """The one threshold that would have given so many alerts, known afterwards."""
    alert = np.nan_to_num(points.alert)
    return float(np.clip(np.sort(alert)[::-1][min(alerts, len(alert) - 1)], 0.25, 100.0))


def table(points: Fleet) -> Iterator[str]:
    """Every budget beside thresholds that are not chosen for it."""
    yield f"{'':34} {'a week':>6} {'ratio':>6} {'>2x':>5} {'judged':>6} {'prec.':>6} {'recall':>6} {'F1':>6}  each week"
    once, _ = play(points, BudgetConfig(floor=1.0, ceiling=1.0))
    for text in BUDGETS:
        weekly = per_week(text)
        opened, report = play(points, BudgetConfig(budget=text))
        yield line(points, f"budget {text}, now at {report.threshold:.2f}", opened, weekly)
        yield line(points, "fixed threshold 1", once, weekly)
        threshold = fixed(points, int(opened.sum()))
        after, _ = play(points, BudgetConfig(floor=threshold, ceiling=threshold))
        yield line(points, f"fixed in hindsight, {threshold:.2f}", after, weekly)
        yield line(points, "quantile of each series", own_quantiles(points, weekly), weekly)


def run() -> Iterator[Row]:
    """What the budget costs, without data."""
    for series in (1_000, 100_000):
        budget, rng = Budget(), np.random.default_rng(0)
        rows = np.arange(series, dtype=np.int32)
        budget.assign(rows, [Labels("m", resource=(("service.name", f"s{k // 20}"),)) for k in range(series)])
        absent, step = np.full(series, np.nan), iter(range(1, 10**6))
        alert = np.where(rng.random(series) < 0.01, rng.pareto(0.7, series), 0.0)
        scores = Scores(alert, rng.random(series), absent, absent, absent, np.zeros(series, np.uint8), absent, alert)

        def one(
            budget: Budget = budget, rows: np.ndarray = rows, scores: Scores = scores, step: Iterator[int] = step
        ) -> None:
            now_ns = BEGIN_NS + next(step) * 10**10
            absent = np.full(len(rows), np.nan)
            budget.update(Batch(rows, np.full(len(rows), now_ns), absent, absent), scores, event_ns=now_ns)

        yield Row(f"alert budget of {series:,} series", best_s(one) / series * 1e9, 0, "ns/point", "-", "less")


if __name__ == "__main__":
    for data in sys.argv[1:]:
        for text in table(fleet(load(Path(data)))):
            print(text, flush=True)
    if len(sys.argv) == 1:
        show(run())
