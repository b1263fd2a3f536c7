"""Reach: when series reach their limits, told only where a line has predicted each series better than naive ways."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.extrapolate import FALL
from otel_aiops.incidents.resolutions import BINS, LEVELS, WIDTHS_S, Windows
from otel_aiops.otlp.points import F64, I64, Bool

# (level, newest bins) that a line is tried on
SPANS = tuple((level, bins) for level in range(LEVELS) for bins in (BINS, BINS // 2) if bins == BINS or level < 3)
LEAST = 14  # bins with values
LEAST_LEARNED = 6  # of them before the first forecast of the walk
ORIGINS = (0.5, 0.6, 0.7, 0.8, 0.9)  # shares of the values that earlier forecasts knew
AHEAD = 0.1  # share of the values that each was for
SURE = 4.5  # standard errors of the slope from 0: many series are looked at many times
GATE = 0.5  # of that is enough for a look
SKILL = 0.3  # share of the error of the last value that a line must save
NO_WORSE = 1.2  # times the error of drift that a line may have
FAR = 6.0  # no line is continued for longer than so many times the span it was seen for
FALL_NOISE = 6.0  # a fall is larger than so many usual steps
ALIKE = 0.7  # of the rise, for an earlier rise to be like it
NEAR = 0.15  # of what is left, by which an earlier rise may have begun lower
BACK = 0.5  # of the rise: what fell by so much has not reached the limit
THERE = 0.02  # of the limit: so near is reached
ENVELOPE = 0.3  # of the slope, that the lowest values must have too
UNEXPLAINED = 0.5  # of the slope is its standard error where a line explains nothing
TAIL = 1.2816  # standard deviations to the 10 % and 90 % quantiles
MOST_R = 0.95


@dataclass(frozen=True, slots=True)
class Reached:
    """What is expected of R series that run upwards to their limits; all (R,).

    `probability` that the limit is reached in time, 0 where nothing says so; else NaN stands nowhere. `lead_s` is the
    expected time until then, between `earliest_s` and `latest_s` with 80 %. `slope` is a second, seen for `span_s`;
    `skill` is the share of the error of the last value that the line saves. `hits` and `misses` are how often a like
    rise has reached the limit and fallen back before.
    """

    probability: F64
    lead_s: F64
    earliest_s: F64
    latest_s: F64
    now: F64
    slope: F64
    span_s: F64
    skill: F64
    hits: F64
    misses: F64

    @classmethod
    def none(cls, rows: int) -> Reached:
        """Nothing is expected."""
        return cls(*(np.zeros(rows) for _ in fields(cls)))


@dataclass(frozen=True, slots=True)
class _Past:
    """Values (R, n) moved to the left, NaN behind the `count` (R,) that there are; `at_s` their times."""

    at_s: F64
    value: F64
    low: F64
    within: F64  # from the lowest to the highest value of each bin
    count: I64

    def of(self, rows: Bool) -> _Past:
        return _Past(self.at_s[rows], self.value[rows], self.low[rows], self.within[rows], self.count[rows])


def reached(windows: Windows, limit: F64, margin: F64, horizon_s: F64) -> Reached:
    """When R series reach their limits from below, by the level and span at which that is likeliest.

    Shape: limit, margin (so near is reached), horizon_s (R,).
    Source: Theil-Sen slope: Sen (1968), Estimates of the regression coefficient based on Kendall's tau; its standard
            error from the residuals, with fewer effective values where they are autocorrelated.
    """
    found = Reached.none(len(limit))
    possible = _possible(windows, limit)
    for level, bins in SPANS:
        some = np.flatnonzero(possible[:, level])
        if not len(some):
            continue
        past = _past(windows, some, level, bins)
        promising = _promising(past, limit[some], horizon_s[some])
        rows = some[promising]
        if len(rows):
            lines = _lines(past.of(promising), limit[rows], horizon_s[rows])
            _keep(found, rows, lines, _record(windows, level, rows, lines, limit, margin))
    return found


def theil_sen(at_s: F64, value: F64) -> tuple[F64, F64]:
    """(slope, value at time 0) (R,) of the median slope of all pairs of R series (R, n); NaN is absent."""
    i, j = np.triu_indices(value.shape[1], 1)
    slopes = (value[:, j] - value[:, i]) / (at_s[:, j] - at_s[:, i])
    slope = _median(slopes)
    return slope, _median(value - slope[:, None] * at_s)


def _median(value: F64) -> F64:
    """The median of each row without its NaN; NaN of none."""
    ordered = np.sort(value, axis=1)
    count = np.isfinite(ordered).sum(axis=1)
    row = np.arange(len(value))
    middle: F64 = (ordered[row, np.maximum(count - 1, 0) // 2] + ordered[row, np.minimum(count // 2, count - 1)]) / 2
    return np.where(count > 0, middle, np.nan)


def _possible(windows: Windows, limit: F64) -> Bool:
    """Where (R, L) there are enough values, and twice the steepest line through their range would reach the limit."""
    known = np.isfinite(windows.mean)
    top = np.where(known, windows.mean, -np.inf).max(axis=2)
    bottom = np.where(known, windows.mean, np.inf).min(axis=2)
    enough = known.sum(axis=2) >= LEAST
    with np.errstate(invalid="ignore"):
        possible: Bool = enough & (top > bottom) & (top + 2 * FAR * (top - bottom) >= limit[:, None])
    return possible


def _high(value: F64) -> F64:
    """The 90 % quantile of each row (R, n) without its NaN; NaN of none."""
    count = np.isfinite(value).sum(axis=1)
    found: F64 = np.sort(value, axis=1)[np.arange(len(value)), np.maximum((0.9 * count).astype(np.int64), 0)]
    return found


def _past(windows: Windows, rows: NDArray[np.intp], level: int, bins: int) -> _Past:
    """The newest bins of one level since the last fall, of some rows."""
    value, low = windows.mean[rows, level, -bins:], windows.low[rows, level, -bins:]
    within = windows.high[rows, level, -bins:] - low
    order = np.argsort(np.isnan(value), axis=1, kind="stable")
    value, low, within = (np.take_along_axis(x, order, axis=1) for x in (value, low, within))
    at_s = windows.at_s[level, -bins:][order]
    step = np.diff(value, axis=1)
    with np.errstate(invalid="ignore"):
        span = np.fmax.reduce(value, axis=1) - np.fmin.reduce(value, axis=1)
        least = np.maximum(FALL * span, FALL_NOISE * _median(np.abs(step)))
        fallen = step < -least[:, None]
    first = np.where(fallen.any(axis=1), bins - 1 - np.argmax(fallen[:, ::-1], axis=1), 0)
    take = np.minimum(np.arange(bins) + first[:, None], bins - 1)
    inside = np.arange(bins) + first[:, None] < bins
    value, low, within = (np.where(inside, np.take_along_axis(x, take, axis=1), np.nan) for x in (value, low, within))
    return _Past(np.take_along_axis(at_s, take, axis=1), value, low, within, np.isfinite(value).sum(axis=1))


def _promising(past: _Past, limit: F64, horizon_s: F64) -> Bool:
    """Which may reach their limit at all, by least squares: Theil-Sen is dear, and most series go nowhere."""
    enough = (past.count >= LEAST) & np.isfinite(limit)
    at_s = np.where(np.isfinite(past.value), past.at_s, np.nan)
    slope, now = _least_squares(at_s, past.value)
    span_s = _span(past)
    error = _slope_error(at_s, past, slope, now, span_s)
    ahead_s = np.minimum(horizon_s, FAR * span_s)
    seen = slope * span_s > _high(past.within)  # teeth shorter than a bin beat with it, and look like slow rises
    return enough & seen & (slope > GATE * SURE * error) & (now + 2 * slope * ahead_s >= limit)


def _span(past: _Past) -> F64:
    """Seconds from the first to the last value."""
    last = np.take_along_axis(past.at_s, np.maximum(past.count - 1, 0)[:, None], axis=1)[:, 0]
    return last - past.at_s[:, 0]


def _lines(past: _Past, limit: F64, horizon_s: F64) -> Reached:
    """What lines through R promising pasts say, without what became of earlier rises."""
    absent = ~np.isfinite(past.value)
    at_s = np.where(absent, np.nan, past.at_s)
    slope, now = theil_sen(at_s, past.value)
    skill, allowed = _walked(at_s, past.value, past.count)
    span_s = _span(past)
    error = _slope_error(at_s, past, slope, now, span_s)
    allowed &= (slope > SURE * error) & (_least_squares(at_s, past.low)[0] >= ENVELOPE * slope) & (now < limit)
    error = np.hypot(error, UNEXPLAINED * slope * (1 - skill))
    left = np.maximum(limit - now, 0.0)
    need = left / np.minimum(horizon_s, FAR * span_s)
    with np.errstate(invalid="ignore", divide="ignore"):
        probability = np.where(allowed, _normal((slope - need) / np.maximum(error, 1e-12 * np.abs(slope))), 0.0)
        lead_s, soonest_s = left / slope, left / (slope + TAIL * error)
        latest_s = left / np.maximum(slope - TAIL * error, slope / 4)
    zero = np.zeros(len(slope))
    return Reached(np.nan_to_num(probability), lead_s, soonest_s, latest_s, now, slope, span_s, skill, zero, zero)


def _slope_error(at_s: F64, past: _Past, slope: F64, now: F64, span_s: F64) -> F64:
    """The standard error of each slope, by robust residuals and how many of them are independent."""
    residual = past.value - now[:, None] - slope[:, None] * at_s
    scatter = 1.4826 * _median(np.abs(residual))
    known = np.nan_to_num(residual)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (known[:, 1:] * known[:, :-1]).sum(axis=1) / (known**2).sum(axis=1)
    r = np.clip(np.nan_to_num(r), 0.0, MOST_R)
    effective = past.count * (1 - r) / (1 + r)
    error: F64 = scatter * np.sqrt(12 / np.maximum(effective, 1.0)) / np.maximum(span_s, 1e-9)
    return error


def _least_squares(at_s: F64, value: F64) -> tuple[F64, F64]:
    """(slope, value at time 0) (R,) of the least-squares lines through (R, n); NaN is absent."""
    known = np.isfinite(value) & np.isfinite(at_s)
    count = np.maximum(known.sum(axis=1), 1)
    x, y = np.where(known, at_s, 0.0), np.where(known, value, 0.0)
    at, level = x.sum(axis=1) / count, y.sum(axis=1) / count
    x = np.where(known, x - at[:, None], 0.0)
    y = np.where(known, y - level[:, None], 0.0)
    slope: F64 = (x * y).sum(axis=1) / np.maximum((x * x).sum(axis=1), 1e-9)
    return slope, level - slope * at


def _walked(at_s: F64, value: F64, count: I64) -> tuple[F64, Bool]:
    """(skill against the last value, whether a line was better than that and no worse than drift) (R,).

    The line is fitted anew at each origin, on what came before it, by least squares: falls are cut off already.
    """
    place = np.arange(value.shape[1])
    ahead = np.maximum((AHEAD * count).astype(np.int64), 1)
    errors, walks = np.zeros((3, len(value))), np.zeros(len(value))
    for share in ORIGINS:
        known = (share * count).astype(np.int64)
        before = place < known[:, None]
        after = (place >= known[:, None]) & (place < (known + ahead)[:, None])
        tried = known >= LEAST_LEARNED
        then, truth = (_median(np.where(after, some, np.nan)) for some in (at_s, value))
        slope, start = _least_squares(at_s, np.where(before, value, np.nan))
        last, last_s = (_median(np.where(before & (place >= (known - 3)[:, None]), x, np.nan)) for x in (value, at_s))
        first, first_s = (_median(np.where(place < 3, some, np.nan)) for some in (value, at_s))
        with np.errstate(invalid="ignore", divide="ignore"):
            drift = last + (last - first) / (last_s - first_s) * (then - last_s)
        for k, forecast in enumerate((start + slope * then, last, drift)):
            errors[k] += np.where(tried, np.nan_to_num(np.abs(truth - forecast)), 0.0)
        walks += tried
    line, naive, drifted = errors
    with np.errstate(invalid="ignore", divide="ignore"):
        skill = np.nan_to_num(1 - line / naive, nan=0.0, posinf=0.0, neginf=0.0)
    tiny = 1e-9 * naive
    return np.clip(skill, 0.0, 1.0), (walks >= 2) & (skill >= SKILL) & (line <= NO_WORSE * drifted + tiny)


def _record(
    windows: Windows, level: int, rows: NDArray[np.intp], lines: Reached, limit: F64, margin: F64
) -> tuple[F64, F64]:
    """(how often a like rise reached the limit before, how often it fell back) (R,), at the level that knows most."""
    hits, misses = np.zeros(len(lines.now)), np.zeros(len(lines.now))
    for wider in range(level, LEVELS):
        bins = np.clip(np.round(lines.span_s / WIDTHS_S[wider]).astype(np.int64), 1, BINS // 2)
        hit, missed = rises(
            windows.mean[rows, wider],
            windows.high[rows, wider],
            bins,
            rise=ALIKE * lines.slope * lines.span_s,
            from_least=lines.now - NEAR * (limit[rows] - lines.now),
            there=(limit - margin)[rows],
        )
        more = hit + missed > hits + misses
        hits, misses = np.where(more, hit, hits), np.where(more, missed, misses)
    return hits, misses


def rises(mean: F64, high: F64, bins: I64, *, rise: F64, from_least: F64, there: F64) -> tuple[F64, F64]:
    """(how many rises got there, how many fell back by half) (R,) in the past (R, B).

    A rise is a run of bins that are `rise` (R,) above the one `bins` (R,) before, and at least `from_least` (R,). One
    that has neither got there nor fallen back is still going on, and does not count.
    """
    place = np.arange(mean.shape[1])
    before = np.take_along_axis(mean, np.maximum(place - bins[:, None], 0), axis=1)
    with np.errstate(invalid="ignore"):
        risen = (mean - before >= rise[:, None]) & (mean >= from_least[:, None]) & (place >= bins[:, None])
    begins = risen & ~np.concatenate((np.zeros((len(mean), 1), bool), risen[:, :-1]), axis=1)
    lowest = _behind(np.where(np.isnan(mean), np.inf, mean), np.minimum)
    highest = _behind(np.where(np.isnan(high), -np.inf, high), np.maximum)
    got = begins & (highest >= there[:, None])
    with np.errstate(invalid="ignore"):
        fell = begins & ~got & (lowest < mean - (BACK / ALIKE * rise)[:, None])
    return got.sum(axis=1).astype(np.float64), fell.sum(axis=1).astype(np.float64)


def _behind(value: F64, extreme: np.ufunc) -> F64:
    """The lowest or highest of each bin (R, B) and all after it."""
    found: F64 = extreme.accumulate(value[:, ::-1], axis=1)[:, ::-1]
    return found


def _keep(found: Reached, rows: NDArray[np.intp], lines: Reached, record: tuple[F64, F64]) -> None:
    """Put the lines that are likelier than what was found so far into it, in place."""
    hits, misses = record
    probability = lines.probability * (hits + 1) / (hits + misses + 1)
    better = probability > found.probability[rows]
    for name in ("lead_s", "earliest_s", "latest_s", "now", "slope", "span_s", "skill"):
        getattr(found, name)[rows[better]] = getattr(lines, name)[better]
    found.probability[rows[better]] = probability[better]
    found.hits[rows[better]], found.misses[rows[better]] = hits[better], misses[better]


def _normal(z: F64) -> F64:
    """The normal distribution function; of few, and scipy.special would take seconds to import in the step loop."""
    return np.array([(1 + math.erf(one / math.sqrt(2))) / 2 for one in z.tolist()])
