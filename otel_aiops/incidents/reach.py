"""Reach: when series reach their limits, told only where a line has predicted each series better than naive ways."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from otel_aiops.incidents.resolutions import LEVELS, WIDTHS_S, Windows
from otel_aiops.otlp.points import F64, I64

POINTS = 16  # that every span is looked at by
SPANS = (16, 32, 48)  # newest bins of a level that a line is tried on; half of each of the widest are whole days
LEAST_S = 600  # a rise lasts so long
LEAST_PAIRS = 5  # of points half a span apart, that there must be
SURE = 4.5  # standard errors of the slope from 0: many series are looked at many times
SKILL = 0.5  # share of the error of the last value that a line must save
ORIGINS = (8, 10, 12)  # points that earlier forecasts knew
NEXT = 3  # points that each was for
FALLEN = 0.5  # of the rise, that the newest value is lower: it is over
STILL = 0.6  # of the slope, that the newest half must have
ENVELOPE = 0.3  # of the slope, that the lowest values must have
UNEXPLAINED = 0.5  # of the slope is its standard error where a line explains nothing
KNOWN = 0.2  # times its span so far, a rise is continued that is like what the series does anyhow
LEAVES = 0.1  # of the way from the highest value before to the limit, that even such a rise has left behind
DAY_S = 86_400.0
PART_S = 7_200.0  # a line within a day may be a part of what every day is like, and is continued for no longer
SOON_S = 300.0  # what is this near is no prediction any more
THERE = 0.02  # of the limit: so near is reached
TAIL = 1.2816  # standard deviations to the 10 % and 90 % quantiles
MOST_ROWS = 256  # that are worked on together, so that they stay in the processor's cache
_NAMES = ("lead_s", "earliest_s", "latest_s", "now", "slope", "span_s", "skill")


@dataclass(frozen=True, slots=True)
class Goal:
    """Where R series run to, from below; all (R,), limit NaN where there is none.

    So near as `margin` is reached. A line is continued for at most `horizon_s`, and `ahead` times its span so far.
    `newest` is the newest value, which no whole bin has yet.
    """

    limit: F64
    margin: F64
    horizon_s: F64
    ahead: F64
    newest: F64

    def of(self, rows: NDArray[np.intp] | slice) -> Goal:
        """That of some series."""
        return Goal(self.limit[rows], self.margin[rows], self.horizon_s[rows], self.ahead[rows], self.newest[rows])


@dataclass(frozen=True, slots=True)
class Reached:
    """What is expected of R series that run upwards to their limits; all (R,).

    `probability` that the limit is reached in time, 0 where nothing says so. `lead_s` is the expected time until then,
    between `earliest_s` and `latest_s` with 80 %. `slope` is a second, seen for `span_s`; `skill` is the share of the
    error of the last value that the line saves. NaN stands nowhere.
    """

    probability: F64
    lead_s: F64
    earliest_s: F64
    latest_s: F64
    now: F64
    slope: F64
    span_s: F64
    skill: F64

    @classmethod
    def none(cls, rows: int) -> Reached:
        """Nothing is expected."""
        return cls(*(np.zeros(rows) for _ in fields(cls)))


@dataclass(frozen=True, slots=True)
class Before:
    """What P series did before their rises, (P,): highest and lowest value, and for how long; NaN, NaN, 0 for none.

    What was before the limit was last reached counts as not known.
    """

    high: F64
    low: F64
    lasted_s: F64


@dataclass(frozen=True, slots=True)
class _Tracks:
    """The newest past of R series over C spans, each as 16 points (R, C, 16); at_s (C, 16), span_s (C,)."""

    at_s: F64
    mean: F64
    low: F64
    high: F64
    span_s: F64


def reached(windows: Windows, goal: Goal) -> Reached:
    """When R series reach their limits, by the level and span at which that is likeliest."""
    found = Reached.none(len(goal.limit))
    for first in range(0, len(goal.limit), MOST_ROWS):
        some = slice(first, first + MOST_ROWS)
        part = Windows(windows.at_s, windows.mean[some], windows.low[some], windows.high[some])
        tracks = _tracks(part)
        row, span, rise, error = _rises(tracks, goal.of(some))
        if len(row):
            _keep(found, first + row, _lines(part, tracks, goal.of(first + row), (row, span), rise, error))
    return found


def lagged(value: F64) -> tuple[F64, F64]:
    """(median, standard error) (...) of the rise over half of n bins (..., n); NaN where too few are known.

    Source: Theil (1950), A rank-invariant method of linear and polynomial regression analysis, the incomplete method:
            only the pairs of one distance, which have no value in common. Their scatter counts as if a quarter of them
            were independent.
    """
    half = value.shape[-1] // 2
    rise = np.sort(value[..., half:] - value[..., :half], axis=-1)
    count = np.isfinite(rise).sum(axis=-1)
    middle = _middle(rise, count)
    scatter = _middle(np.sort(np.abs(rise - middle[..., None]), axis=-1), count)
    enough = count >= LEAST_PAIRS
    error = 1.4826 * 1.2533 * scatter / np.sqrt(np.maximum(count / 4, 1.0))
    return np.where(enough, middle, np.nan), np.where(enough, error, np.nan)


def before(windows: Windows, there: F64, start_s: F64) -> Before:
    """What R series did before their rises began (R,), by the bins of all levels that were over by then."""
    width_s = np.array(WIDTHS_S, np.float64)[:, None]
    with np.errstate(invalid="ignore"):
        hit = windows.high >= there[:, None, None]
    known = np.isfinite(windows.high)
    if hit.any():
        known &= ~np.logical_or.accumulate(hit[:, :, ::-1], axis=2)[:, :, ::-1]
    own = known & (windows.at_s + width_s / 2 <= start_s[:, None, None] + 1e-6)
    highest = np.where(own, windows.high, -np.inf).max(axis=(1, 2))
    lowest = np.where(own, windows.low, np.inf).min(axis=(1, 2))
    age_s = np.where(known, width_s / 2 - windows.at_s, 0.0).max(axis=(1, 2))
    some = np.isfinite(highest)
    lasted_s = np.where(some, np.maximum(age_s + start_s, 0.0), 0.0)
    return Before(np.where(some, highest, np.nan), np.where(some, lowest, np.nan), lasted_s)


def continued(rise: F64, left: F64, span_s: F64, past: Before, goal: Goal) -> F64:
    """For how many seconds (P,) a line may be continued, at which `left` is left to the limit; 0 for not at all.

    `rise` is from the highest value before to now. A rise that leaves what was before by as much as that ranged, and
    was watched as long before as it lasts, is something new. All others may be what the series does anyhow, such as
    teeth of a saw or caches that fill: they are believed when they have most of their way behind them.
    """
    with np.errstate(invalid="ignore"):
        new = (rise >= past.high - past.low) & (past.lasted_s >= span_s)
        leaves = (past.lasted_s == 0) | (rise >= LEAVES * (rise + left))
    may_s = np.minimum(goal.horizon_s, np.where(new, goal.ahead, KNOWN) * span_s)
    may_s = np.minimum(may_s, np.where(span_s < 2 * DAY_S, PART_S, np.inf))
    return np.where(leaves, may_s, 0.0)


def _middle(ordered: F64, count: I64) -> F64:
    """The median of the first of sorted values (..., n)."""
    n = ordered.shape[-1]
    middle: F64
    if count.size and count.min() == n:
        middle = (ordered[..., (n - 1) // 2] + ordered[..., n // 2]) / 2
        return middle
    flat, last = ordered.reshape(-1, n), np.maximum(count.reshape(-1) - 1, 0)
    row = np.arange(len(flat))
    middle = (flat[row, last // 2] + flat[row, (last + 1) // 2]) / 2
    return middle.reshape(count.shape)


def _tracks(windows: Windows) -> _Tracks:
    """The spans of all levels that are long enough, the shortest first."""
    width_s = np.array(WIDTHS_S, np.float64)
    at_s, mean, low, high = list[F64](), list[F64](), list[F64](), list[F64]()
    for bins in SPANS:
        parts = (POINTS, bins // POINTS)
        at_s.append(windows.at_s[:, -bins:].reshape(LEVELS, *parts).mean(axis=-1))
        mean.append(_mean(windows.mean[:, :, -bins:].reshape(-1, LEVELS, *parts)))
        low.append(np.fmin.reduce(windows.low[:, :, -bins:].reshape(-1, LEVELS, *parts), axis=-1))
        high.append(np.fmax.reduce(windows.high[:, :, -bins:].reshape(-1, LEVELS, *parts), axis=-1))
    span_s = np.concatenate([bins * width_s for bins in SPANS])
    long = np.flatnonzero(span_s >= LEAST_S)
    means, lows, highs = (np.concatenate(x, axis=1)[:, long] for x in (mean, low, high))
    return _Tracks(np.concatenate(at_s)[long], means, lows, highs, span_s[long])


def _mean(value: F64) -> F64:
    """Means (...) of (..., n) without its NaN; NaN of none."""
    known = np.isfinite(value)
    with np.errstate(invalid="ignore"):
        mean: F64 = np.where(known, value, 0.0).sum(axis=-1) / known.sum(axis=-1)
    return mean


def _rises(tracks: _Tracks, goal: Goal) -> tuple[NDArray[np.intp], NDArray[np.intp], F64, F64]:
    """(row, span, slope, its error) (P,) where series rise for certain, and far enough if all else allows it."""
    rise, error = lagged(tracks.mean)
    ahead = np.maximum(goal.ahead, KNOWN)[:, None] * 2
    ahead = np.minimum(ahead, goal.horizon_s[:, None] / (tracks.span_s / 2))
    ahead = np.minimum(ahead, np.where(tracks.span_s < 2 * DAY_S, PART_S, np.inf) / (tracks.span_s / 2))
    top = np.fmax.reduce(tracks.mean[:, :, -POINTS // 4 :], axis=2)
    with np.errstate(invalid="ignore"):
        sure = (rise > SURE * error) & (rise > 0)
        near = top + (rise + error) * ahead >= (goal.limit - goal.margin)[:, None]
    row, span = np.nonzero(sure & near)
    lag_s = tracks.span_s[span] / 2
    return row, span, rise[row, span] / lag_s, error[row, span] / lag_s


def _lines(
    windows: Windows,
    tracks: _Tracks,
    goal: Goal,
    at: tuple[NDArray[np.intp], NDArray[np.intp]],
    slope: F64,
    error: F64,
) -> Reached:
    """What the lines of P rises say; those that may be continued are few, and are looked at more closely."""
    row, span = at
    value, at_s, span_s = tracks.mean[at], tracks.at_s[span], tracks.span_s[span]
    level = value - slope[:, None] * at_s
    line = _median(level)
    spread = TAIL * 1.4826 * _median(np.abs(level - line[:, None]))
    seen = np.fmax(goal.newest, np.fmax.reduce(tracks.high[at][:, -2:], axis=1))
    now = np.fmin(line, seen)  # a rise that has slowed down is lower than its line
    there = goal.limit - goal.margin
    part = Windows(windows.at_s, windows.mean[row], windows.low[row], windows.high[row])
    start_s = at_s[:, 0] - span_s / POINTS / 2
    past = before(part, there, start_s)
    left = np.maximum(there - now, 0.0)
    may_s = continued(now - past.high, left, span_s, past, goal)
    skill = np.zeros(len(row))
    fallen = now - goal.newest > FALLEN * slope * span_s
    some = np.flatnonzero(~fallen & (may_s > 0) & (left <= (slope + error) * may_s))
    one = (row[some], span[some])
    pace = _pace(value[some], tracks.low[one], tracks.high[one], slope[some] * span_s[some])
    steady = np.zeros(len(row))
    steady[some] = np.minimum(pace, 1.0)
    some = some[pace >= STILL]
    skill[some] = _walked(at_s[some], value[some])
    error = np.hypot(error, UNEXPLAINED * slope * (1 - skill))
    chance = _normal((steady * slope - left / np.maximum(may_s, 1.0)) / np.maximum(error, 1e-12 * slope))
    soonest_s = np.maximum(left - spread, 0.0) / (slope + TAIL * error)
    latest_s = (left + spread) / np.maximum(slope - TAIL * error, slope / 4)
    probability = np.where(skill >= SKILL, chance, 0.0)
    return Reached(probability, left / slope, soonest_s, latest_s, now, slope, span_s, skill)


def _pace(value: F64, low: F64, high: F64, risen: F64) -> F64:
    """The newest slope (P,) as a share of that of rises (P, 16) by so much; 0 of teeth, and of what is in a point."""
    last = _median(value[:, -4:]) - _median(value[:, -8:-4])
    lows = _median(low[:, -5:]) - _median(low[:, :5])
    with np.errstate(invalid="ignore"):
        rises = (lows >= ENVELOPE * risen * 2 / 3) & (risen > _median(high - low))
        return np.where(rises & np.isfinite(last), last / (risen / 4), 0.0)


def _walked(at_s: F64, value: F64) -> F64:
    """The share (P,) of the error of the last values that lines save, each fitted on what came before it alone."""
    ours, naive = np.zeros(len(value)), np.zeros(len(value))
    for known in ORIGINS:
        then = slice(known, known + NEXT)
        slope, start = _least_squares(at_s[:, :known], value[:, :known])
        truth, last = _mean(value[:, then]), _mean(value[:, known - 2 : known])
        error, other = np.abs(truth - start - slope * at_s[:, then].mean(axis=1)), np.abs(truth - last)
        good = np.isfinite(error) & np.isfinite(other)
        ours, naive = ours + np.where(good, error, 0.0), naive + np.where(good, other, 0.0)
    return np.clip(1 - ours / np.maximum(naive, 1e-300), 0.0, 1.0)


def _least_squares(at_s: F64, value: F64) -> tuple[F64, F64]:
    """(slope, value at time 0) (P,) of the least-squares lines through (P, n); NaN is absent."""
    known = np.isfinite(value)
    count = np.maximum(known.sum(axis=1), 1)
    x, y = np.where(known, at_s, 0.0), np.where(known, value, 0.0)
    at, level = x.sum(axis=1) / count, y.sum(axis=1) / count
    x = np.where(known, x - at[:, None], 0.0)
    y = np.where(known, y - level[:, None], 0.0)
    slope: F64 = (x * y).sum(axis=1) / np.maximum((x * x).sum(axis=1), 1e-9)
    return slope, level - slope * at


def _median(value: F64) -> F64:
    """The median of each row without its NaN; NaN of none."""
    return _middle(np.sort(value, axis=-1), np.isfinite(value).sum(axis=-1))


def _keep(found: Reached, rows: NDArray[np.intp], lines: Reached) -> None:
    """Put the lines that are likelier than what was found so far into it, in place; a row may come more than once."""
    order = np.argsort(lines.probability, kind="stable")
    order = order[lines.probability[order] > found.probability[rows[order]]]  # the likeliest is put last
    for name in ("probability", *_NAMES):
        getattr(found, name)[rows[order]] = getattr(lines, name)[order]


def _normal(z: F64) -> F64:
    """The normal distribution function; of few, and scipy.special would take seconds to import in the step loop."""
    return np.array([(1 + math.erf(one / math.sqrt(2))) / 2 for one in z.tolist()])
