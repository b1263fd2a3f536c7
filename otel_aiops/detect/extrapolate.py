"""Ways to continue a series: what each expects of the next steps, for many histories at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module

import numpy as np

from otel_aiops.otlp.points import F64, Bool

# past (R, W) without NaN, steps in a period (1: no season), steps ahead -> (R, H)
Way = Callable[[F64, int, int], F64]

PERIODS = 7  # newest periods that a profile is the median of
SMOOTH = 48  # a profile is smoothed over a period's 48th part to both sides, half an hour of a day
LEVEL_STEPS = 24  # steps of a level where there is no season
RECENT = 8  # the recent level is of a period's 8th part
FALL = 0.5  # a step down by more than this share of the whole range is a fall, not a trend
FIT_PERIODS, FIT_LEAST, FIT_MOST = 8, 512, 2_304  # newest steps that a statsmodels fit sees
BASELINE = "seasonal_naive"


def seasonal_naive(past: F64, period: int, horizon: int) -> F64:
    """The newest period again; the newest value where there is no season."""
    return past[:, past.shape[1] - period + np.arange(horizon) % period]


def last(past: F64, period: int, horizon: int) -> F64:
    """The newest value."""
    return np.repeat(past[:, -1:], horizon, axis=1)


def level(past: F64, period: int, horizon: int) -> F64:
    """The median of the newest period: best where nothing repeats and values scatter."""
    steps = period if period > 1 else LEVEL_STEPS
    return np.repeat(np.median(past[:, -steps:], axis=1, keepdims=True), horizon, axis=1)


def recent(past: F64, period: int, horizon: int) -> F64:
    """The median of the newest eighth of a period: best after the level moved."""
    steps = max(3, (period if period > 1 else LEVEL_STEPS) // RECENT)
    return np.repeat(np.median(past[:, -steps:], axis=1, keepdims=True), horizon, axis=1)


def drift(past: F64, period: int, horizon: int) -> F64:
    """The newest value and the mean rise of all steps, falls such as a log rotation left out."""
    rise = _unwrapped(past)
    slope = (rise[:, -1] - rise[:, 0]) / max(1, rise.shape[1] - 1)
    ahead: F64 = past[:, -1:] + slope[:, None] * np.arange(1, horizon + 1)
    return ahead


def trend(past: F64, period: int, horizon: int) -> F64:
    """The newest level and the straight line through the newest steps, falls left out."""
    rise = _unwrapped(past[:, -max(2 * horizon, 2 * period, LEVEL_STEPS) :])
    slope = _slope(rise)
    steps = max(1, rise.shape[1] // LEVEL_STEPS)
    middle: F64 = rise[:, -steps:].mean(axis=1) + slope * (steps - 1) / 2
    now = past[:, -1] - rise[:, -1] + middle
    ahead: F64 = now[:, None] + slope[:, None] * np.arange(1, horizon + 1)
    return ahead


def profile(past: F64, period: int, horizon: int) -> F64:
    """The median of the newest periods at each phase, and what is left of the newest deviation from it.

    A deviation fades with the autocorrelation of past deviations, so that a level shift stays and a spike does not.
    """
    known = min(past.shape[1] // period, PERIODS) if period > 1 else 1
    steps = known * period if period > 1 else min(past.shape[1], max(4 * horizon, LEVEL_STEPS))
    newest = past[:, past.shape[1] - steps :]
    usual = _profile(newest, period)
    deviation = newest - np.tile(usual, steps // usual.shape[1])
    now = np.median(deviation[:, -max(1, period // SMOOTH) :], axis=1)
    return usual[:, np.arange(horizon) % usual.shape[1]] + now[:, None] * _persistence(deviation, horizon)


def shape(past: F64, period: int, horizon: int) -> F64:
    """The median shape of the newest periods, at the level of the newest one; the level alone without a season."""
    if period == 1:
        return level(past, period, horizon)
    known = min(past.shape[1] // period, PERIODS)
    periods = past[:, past.shape[1] - known * period :].reshape(len(past), known, period)
    levels = np.median(periods, axis=2)
    usual: F64 = np.median(periods - levels[:, :, None], axis=1) + levels[:, -1:]
    return usual[:, np.arange(horizon) % period]


def blend(past: F64, period: int, horizon: int) -> F64:
    """Halfway between the level and the profile."""
    return (level(past, period, horizon) + profile(past, period, horizon)) / 2


def trending_profile(past: F64, period: int, horizon: int) -> F64:
    """The profile around the straight line of the newest periods."""
    steps = min(past.shape[1] // period, PERIODS) * period if period > 1 else past.shape[1]
    newest = past[:, past.shape[1] - steps :]
    rise = _unwrapped(newest)
    line = _slope(rise)[:, None] * np.arange(steps + horizon)
    fallen = newest[:, -1:] - rise[:, -1:]
    return profile(rise - line[:, :steps], period, horizon) + line[:, steps:] + fallen


def sawtooth(past: F64, period: int, horizon: int) -> F64:
    """Rising as it did between falls, and falling where it used to; a straight line before the second fall."""
    step = np.diff(past, axis=1)
    falls = _falls(past, step)
    count = falls.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        top = np.where(falls, past[:, :-1], 0.0).sum(axis=1) / count
        floor = np.where(falls, past[:, 1:], 0.0).sum(axis=1) / count
        slope = np.where(falls, 0.0, step).sum(axis=1) / (step.shape[1] - count)
        height = top - floor + slope  # one step more than seen: it falls instead of taking the next step
        risen = (past[:, -1] - floor)[:, None] + slope[:, None] * np.arange(1, horizon + 1)
        teeth = floor[:, None] + np.mod(risen, height[:, None])
    usable = (count >= 2) & (slope > 0) & (height > 0) & np.isfinite(teeth).all(axis=1)
    return np.where(usable[:, None], teeth, trend(past, period, horizon))


CHEAP: Mapping[str, Way] = {
    BASELINE: seasonal_naive,
    "last": last,
    "level": level,
    "recent": recent,
    "drift": drift,
    "trend": trend,
    "profile": profile,
    "shape": shape,
    "blend": blend,
    "trending_profile": trending_profile,
    "sawtooth": sawtooth,
}


def autoreg(past: F64, period: int, horizon: int) -> F64:
    """Autoregression on the newest three steps and the same phase of earlier periods, by least squares; R is 1."""
    from statsmodels.tsa.ar_model import AutoReg

    lags = [1, 2, 3] + ([period, 2 * period] if period > 3 else [])
    return _bounded(past, np.asarray(AutoReg(_fitted(past, period), lags=lags, trend="c").fit().forecast(horizon)))


def theta(past: F64, period: int, horizon: int) -> F64:
    """The Theta method on the seasonally adjusted series; R is 1.

    Source: Assimakopoulos and Nikolopoulos (2000), The theta model; as in statsmodels.
    """
    from statsmodels.tsa.forecasting.theta import ThetaModel

    season = {"period": period, "method": "additive", "use_test": False} if period > 1 else {"deseasonalize": False}
    return _bounded(past, np.asarray(ThetaModel(_fitted(past, period), **season).fit().forecast(horizon)))


FITS: Mapping[str, Way] = {"autoreg": autoreg, "theta": theta}
HOMES = {"autoreg": "statsmodels.tsa.ar_model", "theta": "statsmodels.tsa.forecasting.theta"}


def load(names: Iterable[str]) -> None:
    """Import what the named fits need, which takes seconds the first time."""
    for name in names:
        import_module(HOMES[name])


def fitted(name: str, past: F64, period: int, horizon: int) -> F64 | str:
    """The forecast (H,) of one history (W,) by a statsmodels fit, or why there is none; no warning escapes.

    Bounded: a fit sees at most `FIT_MOST` steps or three periods, and is by least squares or of one parameter.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            found = FITS[name](past[None, :], period, horizon)[0]
        except (ValueError, ArithmeticError, LookupError, RuntimeError, TypeError) as error:
            return f"{name} failed: {error}"
    return found if np.isfinite(found).all() else f"{name} failed: not finite"


def _fitted(past: F64, period: int) -> F64:
    """The newest steps of one history that a fit sees."""
    steps = max(3 * period, min(FIT_MOST, max(FIT_PERIODS * period, FIT_LEAST)))
    return past[0, -steps:]


def _bounded(past: F64, found: F64) -> F64:
    """A forecast of one history that stays within three times its range: an unstable fit grows without end."""
    low, high = past.min(), past.max()
    return np.clip(found, low - (high - low), high + (high - low))[None, :]


def _falls(past: F64, step: F64) -> Bool:
    """Whether each step of (R, W - 1) is a fall."""
    span = past.max(axis=1, keepdims=True) - past.min(axis=1, keepdims=True)
    fallen: Bool = (step < -FALL * span) & (span > 0)
    return fallen


def _unwrapped(past: F64) -> F64:
    """The histories as if falls had been steps like the others: (R, W), from the first value on."""
    step = np.diff(past, axis=1)
    falls = _falls(past, step)
    usual = np.where(falls, 0.0, step).sum(axis=1) / np.maximum((~falls).sum(axis=1), 1)
    rise = np.where(falls, usual[:, None], step)
    return np.concatenate((past[:, :1], past[:, :1] + np.cumsum(rise, axis=1)), axis=1)


def _slope(value: F64) -> F64:
    """The slope (R,) a step of the least-squares line through (R, W); 0 for one step."""
    at = np.arange(value.shape[1]) - (value.shape[1] - 1) / 2
    slope: F64 = (value - value.mean(axis=1, keepdims=True)) @ at / max(float(at @ at), 1.0)
    return slope


def _profile(newest: F64, period: int) -> F64:
    """The smoothed median (R, M) of whole periods (R, k·M) at each phase; the median of all (R, 1) without a season."""
    if period == 1:
        return np.median(newest, axis=1, keepdims=True)
    usual: F64 = np.median(newest.reshape(len(newest), -1, period), axis=1)
    width = period // SMOOTH
    if width == 0:
        return usual
    around = np.concatenate((usual[:, -width - 1 :], usual, usual[:, :width]), axis=1)
    total = np.cumsum(around, axis=1)
    return (total[:, 2 * width + 1 :] - total[:, :period]) / (2 * width + 1)


def _persistence(deviation: F64, horizon: int) -> F64:
    """Autocorrelation (R, H) of deviations (R, W) at the next steps, within 0 to 1 and never rising."""
    steps = deviation.shape[1]
    reach = min(horizon, steps - 1)
    share = np.zeros((len(deviation), horizon))
    spectrum = np.fft.rfft(deviation, 2 * steps, axis=1)
    power = np.fft.irfft(np.abs(spectrum) ** 2, 2 * steps, axis=1)[:, : reach + 1] / (steps - np.arange(reach + 1))
    varies = power[:, 0] > 0
    share[varies, :reach] = power[varies, 1:] / power[varies, :1]
    return np.minimum.accumulate(np.clip(share, 0.0, 1.0), axis=1)
