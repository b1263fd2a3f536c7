"""Forecasts with intervals: of every way to continue a series, the one that did best on that series so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from otel_aiops.detect.extrapolate import CHEAP, FITS, fitted, load, seasonal_naive
from otel_aiops.detect.rolling import (
    LARGEST,
    LEAST_STEPS,
    ORIGINS,
    History,
    Tried,
    backtest,
    completed,
    gridded,
    history_of,
    mean_abs,
    quantiles,
    spread,
    try_fit,
)
from otel_aiops.errors import BadInput, ConfigError
from otel_aiops.otlp.points import F64, I64

FIT_GAIN = 0.1  # share of the error of the best cheap way by which a fit, tried on fewer origins, must be better
FIT_ORIGINS = 12  # origins of the backtest from which a statsmodels fit is tried
BLOCK = 4_000_000  # numbers of histories that are tried at once


@dataclass(frozen=True, slots=True)
class ForecastConfig:
    """What every forecast has in common."""

    coverage: float = 0.9  # share of future values that an interval is to hold
    bounds: tuple[float, float] = (-np.inf, np.inf)  # what the series cannot leave: (0, 1) for a ratio
    fits: tuple[str, ...] = ("autoreg",)  # statsmodels candidates of `forecast`, also "theta"; () for none
    gain: float = 0.02  # share of the baseline's error by which a candidate must be better
    most_steps: int = 10_000  # newest steps of the history that are used
    most_s: float = 5.0  # no statsmodels fit begins later than this after the first

    def __post_init__(self) -> None:
        if not 0 < self.coverage < 1:
            raise ConfigError("coverage", f"must be in (0, 1), got {self.coverage}")
        if not self.bounds[0] < self.bounds[1]:
            raise ConfigError("bounds", f"must be (low, high) with low < high, got {self.bounds}")
        if unknown := set(self.fits) - set(FITS):
            raise ConfigError("fits", f"must be some of {sorted(FITS)}, got {sorted(unknown)}")
        if not self.most_steps >= LEAST_STEPS:
            raise ConfigError("most_steps", f"must be >= {LEAST_STEPS}, got {self.most_steps}")


DEFAULT = ForecastConfig()


@dataclass(frozen=True, slots=True)
class Forecast:
    """The next H steps of one series.

    Shape: time_ns, expected, lower, upper (H,); paths (P, H): possible futures, which are `expected` and the errors of
           P earlier forecasts; P is 0 where the history is too short to try any, and NaN stands where nothing came.
    Unit:  values in the unit of the series, each the mean of the step that begins at its time; skill is the share of
           seasonal-naive's error that is saved, NaN where it could not be measured.
    """

    time_ns: I64
    expected: F64
    lower: F64
    upper: F64
    method: str
    skill: float
    paths: F64
    last: float  # newest value
    last_ns: int  # when its step began
    notes: tuple[str, ...] = ()  # candidates that failed, and why


@dataclass(frozen=True, slots=True)
class Forecasts:
    """The next H steps of S series; as `Forecast`, with a first axis of S."""

    time_ns: I64
    expected: F64
    lower: F64
    upper: F64
    method: tuple[str, ...]
    skill: F64
    paths: F64
    last: F64
    last_ns: int

    def one(self, row: int) -> Forecast:
        """The forecast of one series."""
        return Forecast(
            time_ns=self.time_ns,
            expected=self.expected[row],
            lower=self.lower[row],
            upper=self.upper[row],
            method=self.method[row],
            skill=float(self.skill[row]),
            paths=self.paths[row],
            last=float(self.last[row]),
            last_ns=self.last_ns,
        )


def forecast(
    value: F64,
    time_ns: I64,
    *,
    horizon_s: float,
    step_s: float,
    period_s: float | None = None,
    config: ForecastConfig = DEFAULT,
    clock: Callable[[], float] = time.monotonic,
) -> Forecast:
    """Forecast one series from points at any times.

    Shape:  value, time_ns (T,), in any order; NaN and infinite values are absent. The mean of a step is one value.
    Unit:   seconds; `period_s` is the season (a day, say), None for none.
    Raises: BadInput if the shapes differ; ConfigError if a span is not positive.
    Source: intervals from the errors of a rolling-origin backtest: Stankeviciute et al. (2021), Conformal time-series
            forecasting, section 4; here signed, and pooled with those of neighbouring steps.
    """
    if value.ndim != 1 or value.shape != time_ns.shape:
        raise BadInput(f"expected value and time_ns of one shape (T,), got {value.shape} and {time_ns.shape}")
    horizon, period = _steps(horizon_s, step_s, period_s)
    grid, first_ns = gridded(value, time_ns, step_s, config.most_steps)
    time_of = first_ns + np.arange(len(grid) - 1, len(grid) + horizon) * round(step_s * 1e9)
    history = history_of(grid[None, :], period, horizon)
    tried = backtest(history, config.gain)
    found = _continued(history, tried, time_of, config).one(0)
    if not config.fits or not tried.cost[0] > 0:  # NaN where nothing could be tried
        return found
    return _refitted(found, history, tried, config, clock)


def forecast_many(
    value: F64,
    time_ns: I64,
    *,
    horizon_s: float,
    period_s: float | None = None,
    config: ForecastConfig = DEFAULT,
) -> Forecasts:
    """Forecast S series on one regular grid, without statsmodels: some milliseconds each.

    Shape:  value (S, T), NaN absent; time_ns (T,), equally spaced. The result's paths are (S, P, H), P at most 48.
    Raises: BadInput if the shapes or the spacing do not fit; ConfigError if a span is not positive.
    """
    spacing = np.diff(time_ns)
    if value.ndim != 2 or time_ns.shape != value.shape[1:] or len(spacing) == 0 or (spacing != spacing[0]).any():
        raise BadInput(f"expected value (S, T) and T >= 2 equally spaced times, got {value.shape}, {time_ns.shape}")
    horizon, period = _steps(horizon_s, float(spacing[0]) / 1e9, period_s)
    grid = np.where(np.abs(value) < LARGEST, value, np.nan)[:, -config.most_steps :]
    time_of = time_ns[-1] + np.arange(horizon + 1) * spacing[0]
    rows = max(1, BLOCK // (ORIGINS * grid.shape[1]))
    blocks = []
    for start in range(0, max(len(grid), 1), rows):
        history = history_of(grid[start : start + rows], period, horizon)
        blocks.append(_continued(history, backtest(history, config.gain), time_of, config))
    return _joined(blocks)


def _joined(blocks: list[Forecasts]) -> Forecasts:
    """The forecasts of all blocks as one."""
    return Forecasts(
        time_ns=blocks[0].time_ns,
        expected=np.concatenate([block.expected for block in blocks]),
        lower=np.concatenate([block.lower for block in blocks]),
        upper=np.concatenate([block.upper for block in blocks]),
        method=tuple(name for block in blocks for name in block.method),
        skill=np.concatenate([block.skill for block in blocks]),
        paths=np.concatenate([block.paths for block in blocks]),
        last=np.concatenate([block.last for block in blocks]),
        last_ns=blocks[0].last_ns,
    )


def _steps(horizon_s: float, step_s: float, period_s: float | None) -> tuple[int, int]:
    """(steps ahead, steps in a period)."""
    for name, span in (("horizon_s", horizon_s), ("step_s", step_s), ("period_s", period_s)):
        if span is not None and not 0 < span < np.inf:
            raise ConfigError(name, f"must be > 0 s, got {span}")
    return max(1, round(horizon_s / step_s)), max(1, round((period_s or step_s) / step_s))


def _continued(history: History, tried: Tried, time_of: I64, config: ForecastConfig) -> Forecasts:
    """Continue each history by its best way, with the interval of that way's errors; times from the newest step on."""
    horizon = len(time_of) - 1
    expected = np.empty((len(history.past), horizon))
    ways = list(CHEAP.items())
    for number in np.unique(tried.best):
        rows = tried.best == number
        expected[rows] = ways[number][1](history.past[rows], history.plan.period, horizon)
    expected[np.isnan(history.newest)] = np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        skill = np.where(tried.naive == 0, 0.0, 1 - tried.cost / tried.naive)
    names = tuple(ways[number][0] for number in tried.best)
    expected, lower, upper, paths = _bands(expected, tried.error, config)
    return Forecasts(time_of[1:], expected, lower, upper, names, skill, paths, history.newest, int(time_of[0]))


def _bands(expected: F64, error: F64, config: ForecastConfig) -> tuple[F64, F64, F64, F64]:
    """(expected, lower, upper (S, H), paths (S, O, H)), within bounds; beyond what was tried, errors grow evenly."""
    horizon, reach = expected.shape[1], error.shape[2]
    at = np.minimum(np.arange(horizon), reach - 1)
    growth = np.maximum(np.arange(1, horizon + 1) / reach, 1.0)
    error = spread(error)
    below, above = quantiles(error, config.coverage)
    lower = expected + np.minimum(below, 0.0)[:, at] * growth
    upper = expected + np.maximum(above, 0.0)[:, at] * growth
    paths = expected[:, None, :] + completed(error)[:, :, at] * growth
    low, high = config.bounds
    return np.clip(expected, low, high), np.clip(lower, low, high), np.clip(upper, low, high), np.clip(paths, low, high)


def _refitted(
    found: Forecast, history: History, tried: Tried, config: ForecastConfig, clock: Callable[[], float]
) -> Forecast:
    """The forecast of the best statsmodels fit, where that beats what was found from the same origins."""
    load(config.fits)
    plan, end_s = history.plan, clock() + config.most_s
    some = np.unique(np.linspace(0, len(plan.origins) - 1, FIT_ORIGINS).astype(np.int64))
    best, errors, notes = "", tried.error[0, some], list[str]()
    least = (1 - FIT_GAIN) * mean_abs(errors[None])[0]
    for name in config.fits:
        new = try_fit(name, history, errors, some, late=lambda: clock() > end_s)
        if isinstance(new, str):
            notes.append(new)
        elif (cost := mean_abs(new[None])[0]) < least:
            best, errors, least = name, new, cost
    expected = fitted(best, history.past[0], plan.period, len(found.time_ns)) if best else ""
    if isinstance(expected, str):
        return replace(found, notes=tuple(note for note in (*notes, expected) if note))
    naive = [seasonal_naive(history.past[:1, :origin], plan.period, plan.reach)[0] for origin in plan.origins[some]]
    skill = 1 - float(least / mean_abs((history.truth[0, some] - naive)[None])[0])
    middle, lower, upper, paths = (band[0] for band in _bands(expected[None], errors[None], config))
    kept = tuple(note for note in notes if note)
    return replace(found, expected=middle, lower=lower, upper=upper, method=best, skill=skill, paths=paths, notes=kept)
