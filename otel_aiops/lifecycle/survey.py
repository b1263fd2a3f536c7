"""The survey: what recorded series are like, before anything is learned of them: interval, gaps, age, seasons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from otel_aiops.detect.periods import find, promising
from otel_aiops.otlp.points import F64, I64, Bool
from otel_aiops.series.archive import Points

LEAST_POINTS = 100  # a series with fewer is too sparse to be judged
GAP_INTERVALS = 3.0  # a longer time without points is a gap
STOPPED_INTERVALS = 10.0  # a series whose newest point is so far behind the others' has stopped
SEASON_SERIES = 200  # that are searched for periods
SEASON_STEPS = 2048  # of the grid in which they are looked for
SHOWN_PERIODS = 5


@dataclass(frozen=True, slots=True)
class Season:
    """A period, and the share of the series searched that have it."""

    period_s: float
    share: float


@dataclass(frozen=True, slots=True)
class Survey:
    """What S series are like. Shares are of all their points or of all their time.

    `sparse` have fewer than 100 points, `young` less time than is needed, `constant` only one value, `stopped` nothing
    new; `usable` are those that are not sparse. Resets and late points are seen where points arrive, and a history does
    not say of them.
    """

    series: int
    points: int
    span_s: float
    interval_s: float  # the median over the series; NaN without any
    gaps: float
    duplicates: float
    absent: float
    usable: int
    sparse: int
    young: int
    constant: int
    stopped: int
    seasons: tuple[Season, ...] = ()
    searched: int = 0


@dataclass(frozen=True, slots=True)
class Each:
    """What each of S series is like, (S,); a time is NaN where a series has too few points for one."""

    points: I64
    first_ns: I64
    last_ns: I64
    interval_s: F64
    gap_s: F64
    duplicates: I64
    absent: I64
    constant: Bool

    @property
    def usable(self) -> Bool:
        """Which have enough points."""
        return np.asarray(self.points >= LEAST_POINTS)


def survey(points: Points, *, least_history_s: float) -> tuple[Survey, Each]:
    """Look at every series, and search some for seasons."""
    each = _each(points)
    present = each.points > 0
    span_s = np.where(present, (each.last_ns - each.first_ns) / 1e9, 0.0)
    total_s = float(span_s.sum())
    newest_ns = int(each.last_ns.max(initial=0))
    behind_s = (newest_ns - each.last_ns) / 1e9
    seasons, searched = _seasons(points, each)
    known = each.interval_s[np.isfinite(each.interval_s)]
    found = Survey(
        series=points.series,
        points=len(points),
        span_s=(newest_ns - int(points.time_ns[0])) / 1e9 if len(points) else 0.0,
        interval_s=float(np.median(known)) if len(known) else float("nan"),
        gaps=float(each.gap_s.sum()) / total_s if total_s else 0.0,
        duplicates=int(each.duplicates.sum()) / max(1, len(points)),
        absent=int(each.absent.sum()) / max(1, len(points)),
        usable=int(each.usable.sum()),
        sparse=int((~each.usable).sum()),
        young=int((span_s < least_history_s).sum()),
        constant=int((each.constant & present).sum()),
        stopped=int((present & (behind_s > STOPPED_INTERVALS * each.interval_s)).sum()),
        seasons=seasons,
        searched=searched,
    )
    return found, each


def _each(points: Points) -> Each:
    """Interval, gaps and the rest of every series."""
    order = np.argsort(points.code, kind="stable")  # by series, then time
    code, time_ns, value = points.code[order], points.time_ns[order], points.value[order]
    size = points.series
    count = np.bincount(code, minlength=size)
    ends = np.cumsum(count)
    first_ns, last_ns = np.zeros(size, np.int64), np.zeros(size, np.int64)
    has = count > 0
    first_ns[has], last_ns[has] = time_ns[(ends - count)[has]], time_ns[ends[has] - 1]
    gap_s, of = np.diff(time_ns) / 1e9, code[1:]
    same = code[1:] == code[:-1]
    interval_s = _medians(gap_s[same & (gap_s > 0)], of[same & (gap_s > 0)], size)
    with np.errstate(invalid="ignore"):
        long = same & (gap_s > GAP_INTERVALS * interval_s[of])
    finite = np.isfinite(value)
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(low, code[finite], value[finite])
    np.maximum.at(high, code[finite], value[finite])
    return Each(
        points=count,
        first_ns=first_ns,
        last_ns=last_ns,
        interval_s=interval_s,
        gap_s=np.bincount(of[long], gap_s[long] - interval_s[of[long]], minlength=size).astype(np.float64),
        duplicates=np.bincount(of[same & (gap_s == 0)], minlength=size),
        absent=np.bincount(code[~finite], minlength=size),
        constant=low >= high,
    )


def _medians(values: F64, code: I64 | np.ndarray[tuple[int, ...], np.dtype[np.int32]], size: int) -> F64:
    """The lower median of the values of each of some groups, (size,); NaN for a group without any."""
    order = np.lexsort((values, code))
    found = np.full(size, np.nan)
    groups, begin, count = np.unique(code[order], return_index=True, return_counts=True)
    found[groups] = values[order][begin + (count - 1) // 2]
    return found


def _seasons(points: Points, each: Each) -> tuple[tuple[Season, ...], int]:
    """(the periods that most series have, how many series were searched), as the engine searches: `periods.find`."""
    usable = np.flatnonzero(each.usable)
    chosen = usable[np.linspace(0, len(usable) - 1, min(len(usable), SEASON_SERIES)).astype(int)]
    if not len(chosen):
        return (), 0
    values, width_s = _grid(points.of(chosen.tolist()), float(np.quantile(each.interval_s[chosen], 0.9)))
    hopeful = values[promising(values)]
    periods = sorted(one.period_s for found in find(hopeful, width_s) for one in found) if len(hopeful) else []
    groups = list(_alike(periods))
    groups.sort(key=lambda group: (-len(group), group[0]))
    shown = (Season(float(np.median(group)), len(group) / len(chosen)) for group in groups[:SHOWN_PERIODS])
    return tuple(shown), len(chosen)


def _grid(points: Points, interval_s: float) -> tuple[F64, float]:
    """(mean values in steps of equal width (S, T), the width in seconds); NaN where nothing came."""
    begin_ns, end_ns = int(points.time_ns[0]), int(points.time_ns[-1])
    width_ns = max(round(interval_s * 1e9), -(-(end_ns - begin_ns + 1) // SEASON_STEPS), 1)
    steps = (end_ns - begin_ns) // width_ns + 1
    finite = np.isfinite(points.value)
    cell = points.code[finite].astype(np.int64) * steps + (points.time_ns[finite] - begin_ns) // width_ns
    count = np.bincount(cell, minlength=points.series * steps)
    total = np.bincount(cell, points.value[finite], minlength=points.series * steps)
    values = np.full(len(count), np.nan)
    np.divide(total, count, out=values, where=count > 0)
    return values.reshape(points.series, steps), width_ns / 1e9


def _alike(periods: list[float]) -> Iterator[list[float]]:
    """Sorted periods in groups whose neighbours are within 3 % of each other."""
    group: list[float] = []
    for period in periods:
        if group and period > 1.03 * group[-1]:
            yield group
            group = []
        group.append(period)
    if group:
        yield group
