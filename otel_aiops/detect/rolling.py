"""The rolling-origin backtest: how well each way would have continued a history, from times within it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from otel_aiops.detect.extrapolate import CHEAP, fitted
from otel_aiops.otlp.points import F64, I64, Bool

LEAST_STEPS = 12  # nothing is tried on a shorter history
ORIGINS = 48  # times in the newer half of the history from which a forecast is tried
SHORT_GAP = 3  # steps that keep the value before them; a longer gap takes the values of the period before
LARGEST = 1e100  # a larger value is no measurement, and would overflow
KNOTS = 24  # steps of the horizon at which a quantile is read; straight between them
POOL = 0.125  # a quantile is of the errors of this share of the horizon to both sides
STUDENT = (0.93, 0.86)  # the 95 % quantile of Student's t over the normal one: 1 + a / f + b / f^2 (Fisher and Cornish)
LEAST_FREEDOM, FEW_ORIGINS = 2.0, 6.0
DOUBT = 0.5  # a way must be better by so much more, divided by the freedom of its errors: few may be luck
HOPELESS = 1.05  # a fit that is so much worse on the first few origins is not tried on the others
FEW = 3


class Plan(NamedTuple):
    """What is tried: a horizon of `reach` steps from each of `origins`, given the `window` steps before it."""

    period: int
    reach: int
    window: int
    origins: I64


class History(NamedTuple):
    """S histories on a grid of T steps, ready to be continued."""

    past: F64  # (S, T) without NaN
    newest: F64  # (S,) NaN where nothing was ever seen
    plan: Plan
    truth: F64  # (S, O, reach): what came after each origin; NaN where nothing came or nothing was known before


class Tried(NamedTuple):
    """The best way so far of S series: its place in `CHEAP`, its errors, and the baseline's."""

    best: I64  # (S,)
    cost: F64  # (S,) mean absolute error
    naive: F64  # (S,) the same of the baseline
    error: F64  # (S, O, reach): what came minus what was expected, NaN where nothing came


def gridded(value: F64, time_ns: I64, step_s: float, most: int) -> tuple[F64, int]:
    """(the mean of each of the newest steps, NaN for none; the time at which the first begins)."""
    step_ns = max(1, round(step_s * 1e9))
    usable: Bool = np.isfinite(value) & (np.abs(value) < LARGEST)
    if not usable.any():
        return np.full(1, np.nan), int(time_ns.max(initial=0)) // step_ns * step_ns
    step, used = time_ns[usable] // step_ns, value[usable]
    first = max(int(step.min()), int(step.max()) - most + 1)
    kept = step >= first
    count = np.bincount(step[kept] - first)
    total = np.bincount(step[kept] - first, used[kept])
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), first * step_ns


def history_of(grid: F64, period: int, horizon: int) -> History:
    """Fill (S, T) and plan what is tried on it; a season needs three periods."""
    steps, seen = grid.shape[1], np.isfinite(grid)
    period = period if steps >= 3 * period else 1
    past = _filled(grid, seen, period)
    known: Bool = np.asarray(seen.any(axis=1))
    first = max(steps // 2, min(2 * period, steps - LEAST_STEPS // 2), 1)
    reach = min(horizon, max(1, (steps - first) // 2))
    origins = np.unique(np.linspace(first, steps - reach, ORIGINS).astype(np.int64))
    plan = Plan(period, reach, first, origins if steps >= LEAST_STEPS else origins[:0])
    truth = grid[:, plan.origins[:, None] + np.arange(reach)]
    # what was seen first also fills what was before it, which must not be tried as if it had been known
    learned = np.argmax(seen, axis=1) + period
    truth[(plan.origins < learned[:, None]) | ~known[:, None]] = np.nan
    return History(past, np.where(known, past[:, -1], np.nan), plan, truth)


def _filled(grid: F64, seen: Bool, period: int) -> F64:
    """The histories (S, T) without NaN: gaps filled from what came before, the beginning from what came first."""
    at = np.arange(grid.shape[1])
    before = np.maximum.accumulate(np.where(seen, at, -1), axis=1)
    carried = np.take_along_axis(grid, np.maximum(before, 0), axis=1)
    filled = np.where((at - before <= SHORT_GAP) | (period == 1), carried, np.nan)
    for start in range(period, grid.shape[1], period):
        part = filled[:, start : start + period]
        np.copyto(part, filled[:, start - period : start][:, : part.shape[1]], where=np.isnan(part))
    filled = np.where(np.isnan(filled), carried, filled)
    first = np.take_along_axis(grid, np.argmax(seen, axis=1)[:, None], axis=1)
    filled = np.where(np.isnan(filled), first, filled)
    return np.where(np.isnan(filled), 0.0, filled)


def backtest(history: History, gain: float) -> Tried:
    """Try every cheap way from every origin; each sees only the window before it."""
    past, _, plan, truth = history
    windows = np.lib.stride_tricks.sliding_window_view(past, plan.window, axis=1)[:, plan.origins - plan.window]
    best = np.zeros(len(past), np.int64)
    for number, way in enumerate(CHEAP.values()):
        error = truth - way(windows.reshape(-1, plan.window), plan.period, plan.reach).reshape(truth.shape)
        new = mean_abs(error)
        if number == 0:
            naive, cost, kept = new, new.copy(), error
        needed = gain + DOUBT / freedom(error, np.arange(plan.reach)[None, :])[:, 0]
        better = (new < cost) & (new < (1 - needed) * naive)
        best[better], cost[better], kept[better] = number, new[better], error[better]
    return Tried(best, cost, naive, kept)


def mean_abs(error: F64) -> F64:
    """The mean absolute error (S,) of (S, O, H); NaN where nothing was compared."""
    known = np.isfinite(error)
    with np.errstate(invalid="ignore"):
        mean: F64 = np.where(known, np.abs(error), 0.0).sum(axis=(1, 2)) / known.sum(axis=(1, 2))
    return mean


def spread(error: F64) -> F64:
    """The errors (S, O, H) as wide as future ones will be, where forecasts from near origins err alike.

    Where these count as few, errors are widened as Student's t is wider than the normal distribution, and those from
    every second origin change sign, since so few say nothing about which side is likely.
    """
    knots, near = _knots(error.shape[2])
    free = freedom(error, near)
    wider = 1 + STUDENT[0] / free + STUDENT[1] / free**2
    sign = np.where(np.arange(error.shape[1]) % 2, -1.0, 1.0)
    few = free[:, -1, None] < FEW_ORIGINS
    return error * np.where(few, sign, 1.0)[:, :, None] * _between(knots, wider, error.shape[2])[:, None, :]


def completed(error: F64) -> F64:
    """Whole errors (S, O, H): after an origin with none those of another, for a step with none 0; NaN if all are."""
    known = np.isfinite(error).any(axis=2)
    count = known.sum(axis=1, keepdims=True)
    place = np.arange(error.shape[1]) % np.maximum(count, 1)
    origin = np.take_along_axis(np.argsort(~known, axis=1, kind="stable"), place, axis=1)
    whole = np.take_along_axis(error, origin[:, :, None], axis=1)
    return np.where(np.isnan(whole) & (count > 0)[:, :, None], 0.0, whole)


def freedom(error: F64, steps: I64) -> F64:
    """As how many independent forecasts those (S, O, H) count, (S, K): long ones from near origins err alike.

    n (1 - r) / (1 + r) of n origins, with r the correlation of neighbours over the steps (K, N) ahead.
    Source: Bayley and Hammersley (1946), The "effective" number of independent observations, for lag-one correlation.
    """
    known = np.where(np.isnan(error), 0.0, error)
    both, own = (known[:, 1:] * known[:, :-1]).sum(axis=1), (known**2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        alike = np.nan_to_num(np.clip(both[:, steps].sum(axis=2) / own[:, steps].sum(axis=2), 0.0, 1.0))
    free: F64 = np.maximum(error.shape[1] * (1 - alike) / (1 + alike), LEAST_FREEDOM)
    return free


def quantiles(error: F64, coverage: float) -> tuple[F64, F64]:
    """The errors (S, H) around the middle share of those (S, O, H) at about the same step; NaN for none.

    With n origins the k-th smallest is taken, k = (n + 1) * (1 - coverage) / 2, which holds for few origins too.
    """
    series, origins, reach = error.shape
    if origins == 0:
        return np.full((series, reach), np.nan), np.full((series, reach), np.nan)
    knots, near = _knots(reach)
    pooled = error[:, :, near].transpose(0, 2, 1, 3)
    ordered = np.sort(pooled.reshape(series, len(knots), origins * near.shape[1]), axis=2)
    known = np.isfinite(ordered).sum(axis=2)
    tail = max(0.0, (origins + 1) * (1 - coverage) / 2 - 1) / origins
    place = (tail * np.maximum(known - 1, 0)).astype(np.int64)
    ends = place, np.maximum(known - 1, 0) - place
    low, high = (np.take_along_axis(ordered, end[:, :, None], axis=2)[:, :, 0] for end in ends)
    return _between(knots, low, reach), _between(knots, high, reach)


def _knots(reach: int) -> tuple[I64, I64]:
    """(the steps at which errors are looked at (K,), the steps around each of them (K, N))."""
    knots = np.unique(np.linspace(0, reach - 1, KNOTS).astype(np.int64))
    side = int(POOL * reach)
    return knots, np.clip(knots[:, None] + np.arange(-side, side + 1), 0, reach - 1)


def _between(knots: I64, value: F64, steps: int) -> F64:
    """Values (S, K) at knots, straight between them: (S, steps)."""
    at = np.arange(steps)
    right = np.clip(np.searchsorted(knots, at), 1, max(len(knots) - 1, 1))
    if len(knots) == 1:
        return np.repeat(value, steps, axis=1)
    share = (at - knots[right - 1]) / (knots[right] - knots[right - 1])
    line: F64 = value[:, right - 1] * (1 - share) + value[:, right] * share
    return line


def try_fit(name: str, history: History, rival: F64, origins: I64, *, late: Callable[[], bool]) -> F64 | str:
    """The errors (O, reach) of a statsmodels fit on the first series from some of the origins, or why there are none.

    `rival` are the errors of what it must beat, from the same origins; nothing is said of a fit that clearly does not.
    """
    plan, errors = history.plan, np.full(rival.shape, np.nan)
    for count, place in enumerate(origins):
        if late():
            return f"{name} was stopped: no time left"
        found = fitted(name, history.past[0, : plan.origins[place]], plan.period, plan.reach)
        if isinstance(found, str):
            return found
        errors[count] = history.truth[0, place] - found
        cost, least = (mean_abs(part[None, : count + 1])[0] for part in (errors, rival))
        if count + 1 == FEW and cost > HOPELESS * least:
            return ""
    return errors
