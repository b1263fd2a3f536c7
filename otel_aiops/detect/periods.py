"""The search for seasonal periods: which ones a series has, kept only when they lower the error on later data."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from otel_aiops.detect import trials
from otel_aiops.detect.compiled import compiled
from otel_aiops.detect.memory import indices
from otel_aiops.detect.trends import clean, detrend, scale_of, take_away, trend_of
from otel_aiops.errors import ConfigError
from otel_aiops.otlp.points import F64, I64, Bool

DAY = 86_400.0
# What people and their machines live by; a period that is found within its own error of one of these is that one.
NATURAL_MINUTES = (1, 5, 10, 15, 20, 30, 60, 90, 120, 180, 240, 360, 480, 720, 1440, 7 * 1440)
ALWAYS_TRIED_S = (DAY, 7 * DAY)
SNAP_RATIO = 0.01

LEAST_VALUES = 24  # of a series
LEAST_SHARE = 0.5  # of the grid must have values
LEAST_POINTS = 4  # of a period
MOST_PEAKS = 64  # that are looked at
PEAKS = 3  # candidates from the autocorrelation, and as many from the spectrum
REFINE_STEPS = 121
MOST_MULTIPLES = 16  # of a lag that are looked at
KNOWN = 0.7  # of the lags, the shortest, have an autocorrelation that is worth looking at
SAME = 0.02  # candidates nearer than this ratio are one
ALMOST = 0.6  # a first peak at least so high, in those of the highest, may be the period of which that is a multiple
CHUNK_CELLS = 2**20  # of series that are looked at together, so that memory is bounded

HINT = 0.4  # by which an autocorrelation is higher at some lag than at half of it
HINT_CLIP = 4.0  # standard deviations

MULTIPLE = 0.1  # cycles that a multiple may be off
EQUAL = 0.08  # strengths nearer than this are equal, and then the shortest period is the one


@dataclass(frozen=True, slots=True)
class Period:
    """One period of a series.

    `strength` is the share of the variance around the trend that the profile explains, `gain` the share of the mean
    absolute error that it takes away, beyond the periods before it; both on data later than what the profile learned.
    """

    period_s: float
    strength: float
    gain: float


@dataclass(frozen=True, slots=True)
class PeriodsConfig:
    """When a period is worth having."""

    least_gain: float = 0.05  # share of the error that it must take away
    significance: float = 3.0  # standard errors by which its gain must be above zero
    cycles: float = 3.5  # of it that the history must hold
    most: int = 2  # periods of one series

    def __post_init__(self) -> None:
        for name, low, high in (("least_gain", 0, 0.9), ("significance", 0, 20), ("cycles", 3, 100), ("most", 1, 4)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(name, f"must be in {low} .. {high}, got {getattr(self, name)}")


def find(values: F64, interval_s: float, *, config: PeriodsConfig | None = None) -> list[tuple[Period, ...]]:
    """The periods of S series on a regular grid; an empty tuple for a series without.

    Shape:  values (S, T), NaN where there is no value.
    Unit:   seconds.
    Raises: ValueError for another shape, or an interval that is not above 0.

    Candidates are peaks of the autocorrelation and of the periodogram of the series without outliers and trend, besides
    a day and a week. A candidate is kept when a profile learned from earlier cycles, added to a level, predicts later
    values with a mean absolute error that is smaller by `least_gain` than that of the level alone, both a quarter of
    the period ahead and each with its best memory. Of equals the shortest is taken; the next is looked for in what it
    leaves over. Memory is bounded by working on about a million values at a time, cost by 60 cycles of 168 slots.

    >>> day = np.sin(np.arange(480) * 2 * np.pi / 24) + np.random.default_rng(0).normal(0, 0.3, (1, 480))
    >>> [period.period_s for period in find(day, 3600.0)[0]]
    [86400.0]
    """
    if values.ndim != 2:
        raise ValueError(f"expected values of shape (S, T), got {values.shape}")
    if not interval_s > 0:
        raise ValueError(f"expected an interval > 0 s, got {interval_s}")
    config = config or PeriodsConfig()
    step = max(1, CHUNK_CELLS // max(values.shape[1], 1))
    found: list[tuple[Period, ...]] = []
    for first in range(0, len(values), step):
        found += _chunk(values[first : first + step], interval_s, config)
    return found


def promising(values: F64, *, config: PeriodsConfig | None = None) -> Bool:
    """Of which of S series (S, T) a search may find something: a cheap look at the autocorrelation.

    It is higher at a period than at half of it; noise reaches as much by chance in one of thirty series.
    """
    config = config or PeriodsConfig()
    present = np.isfinite(values)
    enough = present.sum(axis=1) >= max(LEAST_VALUES, LEAST_SHARE * values.shape[1])
    hints = np.zeros(len(values), np.bool_)
    x = np.ascontiguousarray(np.where(present, values, np.nan)[enough])
    longest = max(LEAST_POINTS, int(values.shape[1] / config.cycles))
    found = np.zeros(len(x), np.bool_)
    if len(x):
        _promise(x, longest, found, np.zeros((3, x.shape[1] + longest)), np.empty((2, x.shape[1] + 1)))
    hints[enough] = found
    return hints


def _chunk(values: F64, interval_s: float, config: PeriodsConfig) -> list[tuple[Period, ...]]:
    kept: list[tuple[Period, ...]] = [() for _ in values]
    present = np.isfinite(values)
    active = indices(present.sum(axis=1) >= max(LEAST_VALUES, LEAST_SHARE * values.shape[1]))
    rest = np.ascontiguousarray(np.where(present, np.clip(values, -1e150, 1e150), np.nan)[active])
    varies = np.zeros(len(rest), np.bool_)
    if len(rest):
        clean(rest, varies, np.empty((2, rest.shape[1])), np.empty((2, rest.shape[1] + 1)))
    active, rest = active[varies], rest[varies]
    for _ in range(config.most if len(rest) else 0):
        best = _best(rest, interval_s, config)
        for s, period in zip(active, best.period, strict=True):
            if period is not None:
                kept[s] = (*kept[s], period)
        some = np.array([period is not None for period in best.period], np.bool_)
        if not some.any():
            break
        active, rest = active[some], rest[some] - best.season[some]
    return kept


# -- a cheap look -----------------------------------------------------------------------------------------------------


@compiled
def _promise(x: F64, longest: int, found: Bool, room: F64, sums: F64) -> None:
    """For each of K series (K, T), changed in place, whether its autocorrelation is much higher at a lag of up to
    `longest` than at half of it. The room (3, T + longest) is zero.
    """
    points = x.shape[1]
    rest, present, trend = room[0], room[1], room[2][:points]
    for k in range(len(x)):
        one = x[k]
        _from_mean(one)
        size = scale_of(one)
        if size > 0:
            trend_of(one, trend, sums)
            take_away(one, trend)
            limit = HINT_CLIP * _power(one)
            for i in range(points):
                one[i] = min(max(one[i], -limit), limit) if not np.isnan(one[i]) else np.nan
            trend_of(one, trend, sums)
            take_away(one, trend)
            for i in range(points):
                present[i] = 0.0 if np.isnan(one[i]) else 1.0
                rest[i] = 0.0 if np.isnan(one[i]) else one[i]
            found[k] = _hint(rest, present, points, sums) >= HINT


@compiled
def _from_mean(x: F64) -> None:
    total, count = 0.0, 0
    for i in range(len(x)):
        if not np.isnan(x[i]):
            total += x[i]
            count += 1
    for i in range(len(x)):
        x[i] -= total / count


@compiled
def _power(x: F64) -> Any:
    """The root of the mean square."""
    total, count = 0.0, 0
    for i in range(len(x)):
        if not np.isnan(x[i]):
            total += x[i] * x[i]
            count += 1
    return np.sqrt(total / count)


@compiled
def _correlate(x: F64, points: int, sums: F64) -> None:
    for lag in range(len(sums)):
        sums[lag] = 0.0
    for i in range(points):
        for lag in range(len(sums)):
            sums[lag] += x[i] * x[i + lag]


@compiled
def _hint(rest: F64, present: F64, points: int, sums: F64) -> Any:
    """By how much an autocorrelation is higher at any lag than at half of it; `rest` is followed by zeros."""
    lags = len(rest) - points + 1
    covariance, pairs = sums[0][:lags], sums[1][:lags]
    _correlate(rest, points, covariance)
    _correlate(present, points, pairs)
    for lag in range(lags):
        covariance[lag] /= max(pairs[lag], 1.0)
    most = -np.inf
    for lag in range(LEAST_POINTS, lags):
        most = max(most, covariance[lag] - covariance[lag // 2])
    return most / max(covariance[0], 1e-300)


# -- candidates -------------------------------------------------------------------------------------------------------


def _spectra(x: F64) -> tuple[F64, F64]:
    """(autocorrelation (K, T), power (K, n)) of series without trend; gaps count as nothing known."""
    points = x.shape[1]
    n = _quick_length(2 * points)
    rest = np.empty_like(x)
    detrend(x, rest, np.empty(points), np.empty((2, points + 1)))
    power = np.abs(np.fft.rfft(rest, n)) ** 2
    pairs = np.tile(np.arange(points, 0, -1.0), (len(x), 1))
    gaps = np.flatnonzero(np.isnan(x).any(axis=1))
    if len(gaps):
        present = np.isfinite(x[gaps]).astype(np.float64)
        pairs[gaps] = np.round(np.fft.irfft(np.abs(np.fft.rfft(present, n)) ** 2, n)[:, :points])
    covariance = np.fft.irfft(power, n)[:, :points] / np.maximum(pairs, 1)
    return covariance / np.maximum(covariance[:, :1], 1e-300), power


def _quick_length(least: int) -> int:
    """The next even length without prime factors above 5, of which a transform is quick."""
    length = least + least % 2
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 2


def _candidates(x: F64, interval_s: float, config: PeriodsConfig) -> list[list[float]]:
    """The periods to try for each of K series, in points of the grid."""
    correlation, power = _spectra(x)
    longest = x.shape[1] / config.cycles
    n = 2 * (power.shape[1] - 1)
    frequency = np.arange(power.shape[1]) / n
    # A random walk has all its power at the lowest frequencies; by frequency, every octave counts alike.
    power = np.where((frequency * longest >= 1) & (frequency * LEAST_POINTS <= 1), power * frequency, 0.0)
    always = [period_s / interval_s for period_s in ALWAYS_TRIED_S]
    natural = 60.0 * np.array(NATURAL_MINUTES) / interval_s
    room, found = np.empty((2, REFINE_STEPS)), []
    for one, spectrum in zip(correlation, power, strict=True):
        rough = [*_lags(one[: int(longest) + 2]), *(n / i for i in _highest(spectrum) if i > 0)]
        exact = [_snapped(_refined(one, lag, room), natural) for lag in rough if LEAST_POINTS <= lag <= longest]
        found.append(_apart([lag for lag in [*always, *exact] if LEAST_POINTS <= lag <= longest], one))
    return found


def _apart(lags: list[float], correlation: F64) -> list[float]:
    """Lags in order, of those that are almost the same the one at whose multiples the autocorrelation is highest.

    A side lobe of the spectrum is made more exact towards the true period, and may end just before it.
    """
    found: list[float] = []
    for lag in sorted(lags):
        if found and lag <= found[-1] * (1 + SAME):
            found[-1] = max(found[-1], lag, key=lambda one: _fit(correlation, one))
        else:
            found.append(lag)
    return found


def _fit(correlation: F64, lag: float) -> float:
    """The mean of an autocorrelation at the multiples of a lag."""
    times = max(1, min(MOST_MULTIPLES, int(KNOWN * len(correlation) / lag)))
    places = np.rint(lag * np.arange(1, times + 1)).astype(np.int64)
    return float(correlation[places].mean())


def _highest(y: F64, most: int = PEAKS) -> list[int]:
    """Where the highest local maxima are, the highest first, none within a tenth of another."""
    chosen = np.empty(most, np.int64)
    found: list[int] = chosen[: _choose(y, chosen)].tolist()
    return found


@compiled
def _choose(y: F64, chosen: I64) -> int:
    """Put in `chosen` where the highest local maxima are; returns how many."""
    count, height, last = 0, np.inf, 0
    for _ in range(MOST_PEAKS):
        best = 0
        for i in range(1, len(y) - 1):
            # The next in order: of equals the first comes first.
            if (y[i] < height or (y[i] == height and i > last)) and (best == 0 or y[i] > y[best]):
                best = i if y[i] > y[i - 1] and y[i] >= y[i + 1] else best
        if best == 0:
            break
        height, last, other = y[best], best, True
        for c in range(count):
            other = other and abs(best - chosen[c]) > 0.1 * chosen[c]
        if other:
            chosen[count] = best
            count += 1
        if count == len(chosen):
            break
    return count


def _lags(correlation: F64) -> list[float]:
    """Lags of the highest peaks of an autocorrelation, and of the first that is almost as high."""
    peaks = [peak for peak in _highest(correlation, 4 * PEAKS) if correlation[peak] > 0]
    if not peaks:
        return []
    first = min(peak for peak in peaks if correlation[peak] >= ALMOST * correlation[peaks[0]])
    return [float(peak) for peak in dict.fromkeys([first, *peaks[:PEAKS]])]


def _refined(correlation: F64, lag: float, room: F64) -> float:
    """A lag made more exact: the one at whose multiples the autocorrelation is highest, first at few, then at many."""
    for most, width in ((4, 0.06 * lag + 1), (MOST_MULTIPLES, 0.015 * lag + 0.5)):
        times = max(1, min(most, int(KNOWN * len(correlation) / lag)))
        count = _highest_near(correlation, lag, width, times, room)
        lag = float(np.add.reduce(room[1, :count])) / count
    return lag


@compiled
def _highest_near(correlation: F64, lag: float, width: float, times: int, room: F64) -> int:
    """Put the lags of a grid where the sum over their multiples is highest in `room[1]`; returns how many."""
    height, highest = room[0], room[1]
    last, most, count = len(height) - 1, -np.inf, 0
    for g in range(last + 1):
        near, height[g] = lag + (g * (2 * width / last) - width), 0.0
        for multiple in range(1, times + 1):
            place: Any = np.int64(np.rint(multiple * near))
            height[g] += correlation[min(max(place, 1), len(correlation) - 1)]
        most = max(most, height[g])
    for g in range(last + 1):
        if height[g] >= most - 1e-9:
            highest[count] = lag + (g * (2 * width / last) - width)
            count += 1
    return count


def _snapped(lag: float, natural: F64) -> float:
    """A period that people use, when it is as good as this."""
    nearest = float(natural[np.abs(natural - lag).argmin()])
    return nearest if abs(nearest - lag) <= SNAP_RATIO * nearest else lag


# -- choice -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Best:
    """The period of each of K series, or None; and its season (K, T)."""

    period: list[Period | None]
    season: F64


def _best(x: F64, interval_s: float, config: PeriodsConfig) -> _Best:
    """The best of the candidates of each series that pass."""
    best = _Best([None] * len(x), np.zeros_like(x))
    room, result = trials.room_for(x.shape[1]), np.empty(3)
    for s, lags in enumerate(_candidates(x, interval_s, config)):
        passed: list[tuple[Period, F64]] = []
        for lag in lags:
            season = np.empty(x.shape[1])
            trials.try_period(x[s], lag, season, result, room)
            gain, significance, strength = result.tolist()
            if gain >= config.least_gain and significance >= config.significance:
                passed.append((Period(lag * interval_s, strength, gain), season))
        if passed:
            i = _chosen([period for period, _ in passed])
            best.period[s], best.season[s] = passed[i]
    return best


def _chosen(periods: list[Period]) -> int:
    """Which of some periods, the shortest first: the shortest of the strongest.

    A common multiple of two others would explain both, and take long to learn; each for itself is better. A week may
    stand for its days.
    """
    lengths = [period.period_s for period in periods]

    def common(i: int) -> bool:
        parts = [a for a in lengths[:i] if _multiple(lengths[i], a)]
        return lengths[i] != 7 * DAY and any(not _multiple(b, a) for a, b in combinations(parts, 2))

    plain = [i for i in range(len(periods)) if not common(i)]
    most = max(periods[i].strength for i in plain)
    return next(i for i in plain if periods[i].strength >= most - EQUAL)


def _multiple(long: float, short: float) -> bool:
    times = long / short
    return abs(times - round(times)) <= MULTIPLE
