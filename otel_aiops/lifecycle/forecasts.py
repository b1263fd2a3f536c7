"""Holt-Winters forecasts: fitted by statsmodels in processes, kept where they beat the engine on newer points."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.forest import series_key
from otel_aiops.detect.smoothing import DAY_NS, PARAMETERS, SLOTS, TRAINED, smooth
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.stretch import Stretch
from otel_aiops.lifecycle.version import ForecastConfig
from otel_aiops.lifecycle.workers import Told, work
from otel_aiops.otlp.points import F64, I64
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import Arrays

PART_SERIES = 250
LEAST_SLOTS = 6  # of a day, or a series comes too seldom
LEAST_DAYS, MOST_DAYS = 3, 28
LEAST_PRESENT = 0.6  # of the slots
INNER = 0.75  # of the time is fitted, the rest says whether a forecast is better, and how wrong it usually is
RARE, MARGIN = 0.999, 1.2  # times that quantile of its errors is the threshold, at least
NORMAL = 1.4826  # times the median of the absolute errors of a normal one is their deviation
TRIED = ((0.1, 0.01, 0.1, 0.98), (0.3, 0.01, 0.1, 0.98), (0.6, 0.05, 0.1, 0.9), (0.9, 0.05, 0.3, 0.9))  # before a fit
TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Part:
    """Some series of as many slots a day, and how many of them may be fitted."""

    stretch: Stretch
    names: tuple[str, ...]
    slots: int
    start_ns: int
    end_ns: int
    most: int
    config: ForecastConfig
    detection: EngineConfig


def train_forecasts(
    stretch: Stretch,
    names: Sequence[str],
    config: ForecastConfig,
    detection: EngineConfig,
    *,
    start_ns: int,
    end_ns: int,
    processes: int,
    told: Told | None = None,
) -> Arrays:
    """Forecasts of the series where they beat the engine, as `Smoothing` takes them; nothing where there is none."""
    interval_s = stretch.intervals()
    alike: dict[int, list[str]] = defaultdict(list)
    for name in sorted(names):
        if interval_s[name] > 0:
            alike[min(SLOTS, int(DAY_NS / 1e9 / interval_s[name]))].append(name)
    groups = [(slots, mine) for slots, mine in sorted(alike.items()) if slots >= LEAST_SLOTS]
    total = sum(len(mine) for _, mine in groups)
    since_ns = max(start_ns, end_ns - MOST_DAYS * DAY_NS)
    parts = []
    for slots, mine in groups:
        for k in range(0, len(mine), PART_SERIES):
            some = tuple(mine[k : k + PART_SERIES])
            most = -(-config.most_series * len(some) // total)
            parts.append(Part(stretch.only(some), some, slots, since_ns, end_ns, most, config, detection))
    found = [one for one in work(train_part, parts, count=processes, told=told) if one]
    if not found:
        return {}
    return {name: np.concatenate([one[name] for one in found]) for name in TRAINED}


def train_part(part: Part, told: Told) -> Arrays:
    """The forecasts of a part; nothing where the engine is as good."""
    grid, first = means(part)
    cut = int(INNER * len(grid))
    known = np.isfinite(grid)
    rows = np.flatnonzero((known.mean(axis=0) >= LEAST_PRESENT) & known[cut:].any(axis=0) & known[:cut].any(axis=0))
    if len(grid) < LEAST_DAYS * part.slots or not len(rows):
        return {}
    usual = _engine_errors(part, grid[:, rows], first)
    told(0.3)
    fits = []
    for done, j in enumerate(_promising(part, grid[:, rows], first, usual)):
        y = grid[:, rows[j]]
        if (fit := _fitted(part, y, first, cut, usual[cut:, j])) is not None:
            fits.append((part.names[rows[j]], fit))
        told(0.3 + 0.7 * done / part.most)
    return _arrays(part, fits, first + len(grid) - 1)


def means(part: Part) -> tuple[F64, int]:
    """Means by slot and series (T, S), NaN where there is no point; the number of the first slot since the epoch."""
    width_ns = DAY_NS // part.slots
    first = -(-part.start_ns // width_ns)
    count = part.end_ns // width_ns - first  # whole ones
    total, points = np.zeros((max(count, 0), len(part.names))), np.zeros((max(count, 0), len(part.names)))
    for chunk in part.stretch.chunks(part.names, part.start_ns, part.end_ns):
        column = np.repeat(np.arange(len(part.names)), np.diff(chunk.ends, prepend=0))
        slot = chunk.time_ns // width_ns - first
        kept = (slot >= 0) & (slot < count) & np.isfinite(chunk.value)
        place = slot[kept] * len(part.names) + column[kept]
        total += np.bincount(place, chunk.value[kept], total.size).reshape(total.shape)
        points += np.bincount(place, minlength=total.size).reshape(total.shape)
    return np.where(points > 0, total / np.maximum(points, 1), np.nan), first


def _engine_errors(part: Part, grid: F64, first: int) -> F64:
    """Errors of what the engine expects of the same means, (T, S); NaN where it does not know."""
    engine, width_ns = Engine(replace(part.detection, novelty_memory=0)), DAY_NS // part.slots
    found, newest = np.full(grid.shape, np.nan), np.full(grid.shape[1], -1)
    for t, y in enumerate(grid):
        rows = np.flatnonzero(np.isfinite(y)).astype(np.int32)
        gap = np.where(newest[rows] >= 0, (t - newest[rows]) * width_ns / 1e9, np.nan)
        batch = Batch(rows, np.full(len(rows), (first + t) * width_ns), y[rows], gap)
        scores = engine.score(batch)
        engine.learn(batch, scores)
        found[t, rows], newest[rows] = y[rows] - scores.expected, t
    return found


def _promising(part: Part, grid: F64, first: int, usual: F64) -> list[int]:
    """The series of which the most is to be expected, from a few settings on the newest part of what will be fitted."""
    cut = int(INNER * len(grid))
    inner = slice(int(INNER * cut), cut)
    gain = np.full(grid.shape[1], -np.inf)
    for j in range(grid.shape[1]):
        tried = [grid[:cut, j] - _run(grid[:cut, j], part.slots, first, np.array(one))[0] for one in TRIED]
        both = [np.isfinite(error[inner]) & np.isfinite(usual[inner, j]) for error in tried]
        if both[0].any():
            ours = min(np.abs(error[inner][use]).mean() for error, use in zip(tried, both, strict=True))
            gain[j] = 1 - ours / (np.abs(usual[inner, j][both[0]]).mean() + TINY)
    order = np.argsort(-gain, kind="stable")[: part.most]
    return [int(j) for j in order if gain[j] > 0]


def _fitted(part: Part, y: F64, first: int, cut: int, usual: F64) -> tuple[F64, float, F64, F64] | None:
    """(parameters, limit, level and trend, season) of a series, or None where the engine is as good on newer means."""
    parameters = fit(y[:cut], part.slots)
    if parameters is None:
        return None
    error = (y - _run(y, part.slots, first, parameters)[0])[cut:]
    both = np.isfinite(error) & np.isfinite(usual)
    if not both.any() or np.abs(error[both]).mean() > (1 - part.config.gain) * np.abs(usual[both]).mean():
        return None
    size = np.abs(error[np.isfinite(error)])
    limit = max(part.config.spreads * NORMAL * float(np.median(size)), MARGIN * float(np.quantile(size, RARE)))
    if not limit > 0:
        return None
    _, end, season = _run(y, part.slots, first, parameters, most=limit)
    return parameters, limit, end, season


def fit(y: F64, slots: int) -> F64 | None:
    """alpha, beta, gamma, phi of a history (T,), None where there is no fit; no warning escapes."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    level, season = _begun(y, slots)
    known = np.flatnonzero(np.isfinite(y))
    scale = float(np.std(y[known]))
    if not scale > 0 or len(y) < 2 * slots:
        return None
    whole = (np.interp(np.arange(len(y)), known, y[known]) - level) / scale
    start = {"initial_level": 0.0, "initial_trend": 0.0, "initial_seasonal": season / scale}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # that a fit has not converged: it is judged by its errors
        try:
            model = ExponentialSmoothing(
                whole, trend="add", damped_trend=True, seasonal="add", seasonal_periods=slots,
                initialization_method="known", **start,
            )  # fmt: skip
            found = model.fit(use_brute=False).params
        except (ValueError, np.linalg.LinAlgError, FloatingPointError):
            return None
    names = ("smoothing_level", "smoothing_trend", "smoothing_seasonal", "damping_trend")
    parameters = np.clip(np.array([found[name] for name in names], np.float64), 0.0, 1.0)
    return parameters if np.isfinite(parameters).all() else None


def _begun(y: F64, slots: int) -> tuple[float, F64]:
    """(level, season by slot from the first one) of the first two days."""
    known = np.flatnonzero(np.isfinite(y))
    days = np.interp(np.arange(min(len(y), 2 * slots)), known, y[known])
    level = float(days.mean())
    season = np.array([days[k::slots].mean() if k < len(days) else level for k in range(slots)]) - level
    return level, season


def _run(y: F64, slots: int, first: int, parameters: F64, most: float = np.inf) -> tuple[F64, F64, F64]:
    """(forecasts (T,), level and trend in the end, season by slot of the day) of a history."""
    level, season = _begun(y, slots)
    season = np.roll(season, first % slots)
    expected, end = np.empty(len(y)), np.empty(2)
    smooth(np.ascontiguousarray(y), season, first, np.array([level, 0.0]), parameters, float(most), expected, end)
    return expected, end, season


def _arrays(part: Part, fits: Sequence[tuple[str, tuple[F64, float, F64, F64]]], newest: int) -> Arrays:
    """What was fitted, one behind the other."""
    if not fits:
        return {}
    size = len(fits)
    parameters = np.stack([of[0] for _, of in fits])
    season: F64 = np.zeros((size, SLOTS))
    season[:, : part.slots] = np.stack([of[3] for _, of in fits])
    slot: I64 = np.full(size, newest, np.int64)
    arrays: Arrays = {
        "key": np.array([series_key(Labels.from_json(name)) for name, _ in fits], np.uint64),
        "slots": np.full(size, part.slots, np.int64),
        "limit": np.array([of[1] for _, of in fits]),
        **{name: np.ascontiguousarray(parameters[:, k]) for k, name in enumerate(PARAMETERS)},
        "level": np.array([of[2][0] for _, of in fits]),
        "trend": np.array([of[2][1] for _, of in fits]),
        "season": season,
        "slot": slot,
    }
    return {name: arrays[name] for name in TRAINED}
