"""The search for seasonal periods: which ones a series has, kept only when they lower the error on later data."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

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
CLIP = 6.0  # scales from the trend; what is farther off counts as this
TREND_SHARE = 4  # the trend is a mean over this part of the history
PEAKS = 3  # candidates from the autocorrelation, and as many from the spectrum
REFINE_STEPS = 121
SAME = 0.02  # candidates nearer than this ratio are one
ALMOST = 0.6  # a first peak at least so high, in those of the highest, may be the period of which that is a multiple
CHUNK_CELLS = 2**20  # of series that are looked at together, so that memory is bounded

HINT = 0.4  # by which an autocorrelation is higher at some lag than at half of it
HINT_CLIP = 4.0  # standard deviations

SLOTS = 168  # of a profile, at most
HORIZON = 4  # both models predict such a part of a period ahead, or a level that is quick would do for a season
LEARNED = 2  # cycles before the first prediction
CYCLES = 60  # the newest are used
CYCLE_WEIGHT = 0.1  # of the newest cycle, when there are many
LEVEL_WEIGHTS = (1.0, 0.3, 0.1, 0.03)  # of the newest slot; each model has the best of them
PARTS = 4  # of a cycle, in which the differences of errors are averaged before they are compared
FEW_PARTS = 4.0  # with so many, twice the significance is asked for
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


class _Trial(NamedTuple):
    """What a candidate does for K series."""

    gain: F64  # (K,)
    significance: F64  # (K,) standard errors
    strength: F64  # (K,)
    season: F64  # (K, T)


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
    x = values[enough]
    x = x - np.nanmean(x, axis=1, keepdims=True) if len(x) else x
    size = np.nanmax(np.abs(x), axis=1, keepdims=True, initial=0.0)
    x = x / np.where(size > 0, size, 1.0)
    rest = x - _trend(x)
    limit = HINT_CLIP * np.sqrt(np.nanmean(rest**2, axis=1, keepdims=True)) if len(x) else 1.0
    correlation, _ = _spectra(np.clip(rest, -limit, limit))
    lag = np.arange(LEAST_POINTS, max(LEAST_POINTS, int(values.shape[1] / config.cycles)) + 1)
    most = (correlation[:, lag] - correlation[:, lag // 2]).max(axis=1)
    hints[enough] = (most >= HINT) & (size[:, 0] > 0)
    return hints


def _chunk(values: F64, interval_s: float, config: PeriodsConfig) -> list[tuple[Period, ...]]:
    kept: list[tuple[Period, ...]] = [() for _ in values]
    present = np.isfinite(values)
    active = np.flatnonzero(present.sum(axis=1) >= max(LEAST_VALUES, LEAST_SHARE * values.shape[1]))
    rest, varies = _clean(values[active])
    active, rest = active[varies], rest[varies]
    for _ in range(config.most):
        best = _best(rest, interval_s, config)
        for s, period in zip(active, best.period, strict=True):
            if period is not None:
                kept[s] = (*kept[s], period)
        some = np.array([period is not None for period in best.period], np.bool_)
        active, rest = active[some], rest[some] - best.season[some]
    return kept


# -- candidates -------------------------------------------------------------------------------------------------------


def _clean(values: F64) -> tuple[F64, Bool]:
    """(series in their own scale without outliers, which of them vary at all); all have values."""
    x = np.where(np.isfinite(values), np.clip(values, -1e150, 1e150), np.nan)
    x -= np.nanmedian(x, axis=1, keepdims=True) if len(x) else 0.0
    size = np.nanmax(np.abs(x), axis=1, keepdims=True, initial=0.0)
    varies = size[:, 0] > 0
    x /= np.where(size > 0, size, 1.0)
    x = np.clip(x, *_limits(x))
    trend = _trend(x)
    rest = x - trend
    x = trend + np.clip(rest, *_limits(rest))
    spread = np.nanmean(np.abs(x - trend), axis=1, keepdims=True) if len(x) else np.ones((0, 1))
    return x / np.where(spread > 0, spread, 1.0), varies & (spread[:, 0] > 1e-12)


def _limits(x: F64) -> tuple[F64, F64]:
    """Where outliers begin: scales from the median, by the larger one of two quantiles, else by the mean."""
    if not len(x):
        return np.zeros((0, 1)), np.zeros((0, 1))
    centre = np.nanmedian(x, axis=1, keepdims=True)
    off = np.abs(x - centre)
    half, most = np.nanquantile(off, [0.5, 0.9], axis=1, keepdims=True)
    scale = np.maximum(half * 1.4826, most / 1.645)
    scale = np.where(scale > 0, scale, 1.25 * CLIP * np.nanmean(off, axis=1, keepdims=True))
    return centre - CLIP * scale, centre + CLIP * scale


def _trend(x: F64) -> F64:
    """The mean over a quarter of the history around each point."""
    half = max(1, x.shape[1] // TREND_SHARE // 2)
    sums = np.cumsum(np.pad(np.nan_to_num(x), ((0, 0), (1, 0))), axis=1)
    counts = np.cumsum(np.pad(np.isfinite(x), ((0, 0), (1, 0))), axis=1)
    end = np.minimum(np.arange(x.shape[1]) + half + 1, x.shape[1])
    start = np.maximum(np.arange(x.shape[1]) - half, 0)
    trend: F64 = (sums[:, end] - sums[:, start]) / np.maximum(counts[:, end] - counts[:, start], 1)
    return trend


def _spectra(x: F64) -> tuple[F64, F64]:
    """(autocorrelation (K, T), power (K, n)) of series without trend; gaps count as nothing known."""
    from scipy import fft

    present = np.isfinite(x).astype(np.float64)
    rest = np.nan_to_num(x - _trend(x))
    n = fft.next_fast_len(2 * x.shape[1], real=True)
    power = np.abs(fft.rfft(rest, n, axis=1)) ** 2
    pairs = np.round(fft.irfft(np.abs(fft.rfft(present, n, axis=1)) ** 2, n, axis=1)[:, : x.shape[1]])
    covariance = fft.irfft(power, n, axis=1)[:, : x.shape[1]] / np.maximum(pairs, 1)
    return covariance / np.maximum(covariance[:, :1], 1e-300), power


def _candidates(x: F64, interval_s: float, config: PeriodsConfig) -> list[list[float]]:
    """The periods to try for each of K series, in points of the grid."""
    correlation, power = _spectra(x)
    longest = x.shape[1] / config.cycles
    n = 2 * (power.shape[1] - 1)
    frequency = np.arange(power.shape[1]) / n
    # A random walk has all its power at the lowest frequencies; by frequency, every octave counts alike.
    power = np.where((frequency * longest >= 1) & (frequency * LEAST_POINTS <= 1), power * frequency, 0.0)
    always = [period_s / interval_s for period_s in ALWAYS_TRIED_S]
    found = []
    for one, spectrum in zip(correlation, power, strict=True):
        rough = [*_lags(one[: int(longest) + 2]), *(n / i for i in _highest(spectrum) if i > 0)]
        exact = [_snapped(_refined(one, lag), interval_s) for lag in rough if LEAST_POINTS <= lag <= longest]
        exact = [lag for lag in [*always, *exact] if LEAST_POINTS <= lag <= longest]
        exact.sort()
        found.append([lag for i, lag in enumerate(exact) if i == 0 or lag > exact[i - 1] * (1 + SAME)])
    return found


def _highest(y: F64, most: int = PEAKS) -> list[int]:
    """Where the highest local maxima are, the highest first, none within a tenth of another."""
    peaks = 1 + np.flatnonzero((y[1:-1] > y[:-2]) & (y[1:-1] >= y[2:]))
    peaks = peaks[np.argsort(-y[peaks], kind="stable")][:64]
    chosen: list[int] = []
    for peak in peaks.tolist():
        if all(abs(peak - other) > 0.1 * other for other in chosen):
            chosen.append(peak)
        if len(chosen) == most:
            break
    return chosen


def _lags(correlation: F64) -> list[float]:
    """Lags of the highest peaks of an autocorrelation, and of the first that is almost as high."""
    peaks = [peak for peak in _highest(correlation, 4 * PEAKS) if correlation[peak] > 0]
    if not peaks:
        return []
    first = min(peak for peak in peaks if correlation[peak] >= ALMOST * correlation[peaks[0]])
    return [float(peak) for peak in dict.fromkeys([first, *peaks[:PEAKS]])]


def _refined(correlation: F64, lag: float) -> float:
    """A lag made more exact: the one at whose multiples the autocorrelation is highest, first at few, then at many."""
    for most, width in ((4, 0.06 * lag + 1), (16, 0.015 * lag + 0.5)):
        times = np.arange(1, 1 + max(1, min(most, int(0.7 * len(correlation) / lag))))
        grid = lag + np.linspace(-width, width, REFINE_STEPS)
        place = np.rint(np.multiply.outer(times, grid)).astype(np.int64)
        height = correlation[np.clip(place, 1, len(correlation) - 1)].sum(axis=0)
        lag = float(grid[height >= height.max() - 1e-9].mean())
    return lag


def _snapped(lag: float, interval_s: float) -> float:
    """A period that people use, when it is as good as this."""
    nearest = min((60.0 * minutes / interval_s for minutes in NATURAL_MINUTES), key=lambda other: abs(other - lag))
    return nearest if abs(nearest - lag) <= SNAP_RATIO * nearest else lag


# -- trials -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Best:
    """The period of each of K series, or None; and its season (K, T)."""

    period: list[Period | None]
    season: F64


def _best(x: F64, interval_s: float, config: PeriodsConfig) -> _Best:
    """The best of the candidates of each series that pass."""
    groups: dict[float, list[int]] = {}
    for s, lags in enumerate(_candidates(x, interval_s, config) if len(x) else []):
        for lag in lags:
            groups.setdefault(lag, []).append(s)
    passed: list[list[tuple[Period, F64]]] = [[] for _ in x]
    for lag in sorted(groups):
        rows = np.array(groups[lag])
        trial = _trial(x[rows], lag)
        for k in np.flatnonzero((trial.gain >= config.least_gain) & (trial.significance >= config.significance)):
            period = Period(lag * interval_s, float(trial.strength[k]), float(trial.gain[k]))
            passed[rows[k]].append((period, trial.season[k]))
    best = _Best([None] * len(x), np.zeros_like(x))
    for s, some in enumerate(passed):
        if some:
            i = _chosen([period for period, _ in some])
            best.period[s], best.season[s] = some[i]
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


def _trial(x: F64, lag: float) -> _Trial:
    """Predict K series by level and by level with a profile, and compare."""
    slots = min(SLOTS, int(lag))
    first = max(0, x.shape[1] - int(CYCLES * lag))
    slot = np.floor((np.arange(first, x.shape[1]) - first) * (slots / lag) + 1e-9).astype(np.int64)
    cycles = int(slot[-1]) // slots + 1
    binned = _binned(x[:, first:], slot, cycles * slots).reshape(len(x), cycles, slots)
    seasons, profile = _seasons(binned)
    plain = _errors(binned, np.zeros_like(binned))
    seasonal = _errors(binned, seasons)
    gain, significance = _compared(plain, seasonal)
    phase = np.floor((np.arange(x.shape[1]) - first) * (slots / lag) + 1e-9).astype(np.int64) % slots
    season = profile[:, phase]
    season[:, first:] = np.where((slot >= slots)[None], seasons.reshape(len(x), -1)[:, slot], season[:, first:])
    judged = slice(first + int(np.searchsorted(slot, LEARNED * slots)), None)
    return _Trial(gain, significance, _strength(x[:, judged], season[:, judged]), season)


def _strength(x: F64, season: F64) -> F64:
    """The share of the variance around the trend that a season explains, (K,); at each point, so comparable."""
    whole = x - _trend(x)
    left = whole - (season - _trend(season))
    squares = np.nansum(whole**2, axis=1)
    strength: F64 = np.clip(1 - np.nansum(left**2, axis=1) / np.where(squares > 0, squares, np.inf), 0.0, 1.0)
    return strength


def _binned(x: F64, slot: I64, size: int) -> F64:
    """The mean of each slot, NaN where it has no value; (K, size)."""
    starts = np.searchsorted(slot, np.arange(slot[-1] + 1))
    sums = np.add.reduceat(np.nan_to_num(x), starts, axis=1)
    counts = np.add.reduceat(np.isfinite(x).astype(np.float64), starts, axis=1)
    binned = np.full((len(x), size), np.nan)
    binned[:, : len(starts)] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return binned


def _mean(binned: F64) -> F64:
    """The mean of each cycle, NaN when it has less than half of its slots; (K, C, 1)."""
    count = np.isfinite(binned).sum(axis=2, keepdims=True)
    mean = np.nansum(binned, axis=2, keepdims=True) / np.maximum(count, 1)
    return np.where(2 * count >= binned.shape[2], mean, np.nan)


def _seasons(binned: F64) -> tuple[F64, F64]:
    """(for each cycle the profile of the cycles before it (K, C, slots), the last profile (K, slots)).

    The shape of a cycle is what is left without its mean, and without the slope between the means of two cycles: else
    a plain trend would look like a saw tooth.
    """
    mean = _mean(binned)
    slope = np.diff(mean, axis=1, prepend=np.nan)
    slope[:, 0] = slope[:, 1] if slope.shape[1] > 1 else 0.0
    ramp = (np.arange(binned.shape[2]) + 0.5) / binned.shape[2] - 0.5
    shape = binned - mean - np.nan_to_num(slope) * ramp
    profile = np.zeros((len(binned), binned.shape[2]))
    seen = np.zeros_like(profile)
    seasons = np.zeros_like(binned)
    for cycle in range(binned.shape[1]):
        seasons[:, cycle] = profile
        known = np.isfinite(shape[:, cycle])
        seen += known
        weight = np.maximum(1 / np.maximum(seen, 1), CYCLE_WEIGHT)
        profile = profile + np.where(known, weight * (shape[:, cycle] - profile), 0.0)
    return seasons, profile


def _errors(binned: F64, seasons: F64) -> F64:
    """Absolute errors of the best level plus season, a horizon ahead, in the cycles that are judged (K, C, slots)."""
    from scipy.signal import lfilter

    k, cycles, slots = binned.shape
    ahead = max(1, slots // HORIZON)
    flat = (binned - seasons).reshape(k, -1)
    known = _filled(flat)
    best = np.full((k, (cycles - LEARNED) * slots), np.nan)
    least = np.full(k, np.inf)
    for weight in LEVEL_WEIGHTS:
        level, _ = lfilter([weight], [1.0, weight - 1.0], known, axis=1, zi=(1 - weight) * known[:, :1])
        error = np.abs(flat[:, LEARNED * slots :] - level[:, LEARNED * slots - ahead : -ahead])
        mean = np.nansum(error, axis=1)
        better = mean < least
        best[better], least[better] = error[better], mean[better]
    return best.reshape(k, cycles - LEARNED, slots)


def _filled(x: F64) -> F64:
    """Gaps filled with the value before them, or the first one after."""
    present = np.isfinite(x)
    i = np.maximum.accumulate(np.where(present, np.arange(x.shape[1]), -1), axis=1)
    i = np.where(i < 0, np.argmax(present, axis=1)[:, None], i)
    return np.nan_to_num(np.take_along_axis(x, i, axis=1))


def _compared(plain: F64, seasonal: F64) -> tuple[F64, F64]:
    """(share of the mean absolute error that the season takes away, by how many standard errors it is above 0)."""
    total = np.nansum(plain, axis=(1, 2))
    gain = np.where(total > 0, 1 - np.nansum(seasonal, axis=(1, 2)) / np.where(total > 0, total, 1.0), 0.0)
    k, cycles, slots = plain.shape
    part = slots // PARTS
    less = (plain - seasonal)[:, :, : part * PARTS].reshape(k, cycles * PARTS, part)
    count = np.isfinite(less).sum(axis=2)
    known = 2 * count >= part
    mean = np.where(known, np.nansum(less, axis=2) / np.maximum(count, 1), 0.0)
    parts = np.maximum(known.sum(axis=1), 1)
    centre = mean.sum(axis=1) / parts
    variance = np.where(known, (mean - centre[:, None]) ** 2, 0.0).sum(axis=1) / np.maximum(parts - 1, 1)
    error = np.sqrt(variance / parts) * (1 + FEW_PARTS / parts)
    return gain, np.where(parts > 2, centre / np.maximum(error, 1e-12), 0.0)
