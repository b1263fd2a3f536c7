"""Moments of one series: how unusual a value is, what it was a day and a week before, and when it looked alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otel_aiops.errors import BadInput
from otel_aiops.otlp.points import F64, I64

DAY_S = 86_400.0
WINDOW_S = 3600.0  # what is compared when moments are looked for that were alike
LEAST_BINS, MOST_BINS = 8, 60  # of a window
MOST_STEPS = 50_000  # of the history that is searched for them
LEAST_FULL = 0.8  # share of the bins of a window that must have a value
SAME_TIME_INTERVALS = 1.5  # how far from the same time a point may be
BLOCK = 4_000_000  # numbers that are compared at once
FLAT = 1e-9  # a standard deviation below this share of the size of the values is none
UNLIKE = 1.0  # from this distance on nothing is alike; that of two shapes of chance is 1.41


@dataclass(frozen=True, slots=True)
class Unusual:
    """Where a value stands among all before it.

    `side` is 1 for the highest, -1 for the lowest, else 0; `since_s` is how far back that holds: until a value was as
    extreme (at `last_ns`), or the whole past when none was (`last_ns` is 0). `nearest` is the distance to the nearest
    of the values compared, in ranges (largest minus smallest) of all before it, NaN when they were all one value and
    this is another. `share` is the share of values at least as far on that side of the median.
    """

    side: int
    since_s: float
    last_ns: int
    nearest: float
    share: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The value at the same time some days before; `change` is now over then minus one, NaN when then was 0."""

    days: int
    time_ns: int
    value: float
    change: float


@dataclass(frozen=True, slots=True)
class Similar:
    """A window that looked alike; it ended at `time_ns`.

    `distance` is between the two windows after each is brought to mean 0 and standard deviation 1, a bin: 0 is the
    same shape, 1.41 are two that have nothing to do with each other, 2 is upside down. `shape` and `after` (W,) are
    the values of the window and of the time after it, as long; NaN where none came.
    """

    time_ns: int
    distance: float
    step_s: float
    shape: F64
    after: F64


def unusual(value: F64, time_ns: I64, now: float, now_ns: int) -> Unusual | None:
    """How unusual `now` is among the earlier values (T,), in order of time; None without any.

    >>> hour = 3_600_000_000_000
    >>> found = unusual(np.array([1.0, 5.0, 2.0]), np.arange(3) * hour, 4.0, 3 * hour)
    >>> found.side, found.since_s, found.nearest
    (1, 7200.0, 0.25)
    """
    good = np.isfinite(value) & (time_ns < now_ns)
    value, time_ns = value[good], time_ns[good]
    if not len(value) or not np.isfinite(now):
        return None
    above = now >= np.median(value)
    extreme = value >= now if above else value <= now
    at = np.flatnonzero(extreme)
    last_ns = int(time_ns[at[-1]]) if len(at) else 0
    since = value[at[-1] + 1 :] if len(at) else value
    side = (1 if above else -1) if len(since) > len(value) // 10 or not len(at) else 0
    span = float(value.max() - value.min())
    nearest = float(np.abs((since if side else value) - now).min()) if len(value) else np.nan
    return Unusual(
        side=side,
        since_s=(now_ns - (last_ns or int(time_ns[0]))) / 1e9,
        last_ns=last_ns,
        nearest=nearest / span if span > 0 else (0.0 if nearest == 0 else np.nan),
        share=float(extreme.mean()),
    )


def interval_s(time_ns: I64) -> float:
    """The usual time between points, NaN for fewer than two."""
    return float(np.median(np.diff(time_ns))) / 1e9 if len(time_ns) > 1 else float("nan")


def same_time(value: F64, time_ns: I64, now: float, now_ns: int, *, days: int) -> Comparison | None:
    """The point at the same time some days before; None when there is none near enough."""
    then_ns = now_ns - round(days * DAY_S) * 1_000_000_000
    usual_s = interval_s(time_ns)
    if np.isnan(usual_s):
        return None
    k = int(np.abs(time_ns - then_ns).argmin())
    if abs(int(time_ns[k]) - then_ns) > SAME_TIME_INTERVALS * usual_s * 1e9 or not np.isfinite(value[k]):
        return None
    then = float(value[k])
    return Comparison(days, int(time_ns[k]), then, (now - then) / abs(then) if then else float("nan"))


def similar(value: F64, time_ns: I64, at_ns: int, *, window_s: float = WINDOW_S, most: int = 5) -> tuple[Similar, ...]:
    """The windows before the one that ends at `at_ns` that look most like it, the most alike first.

    Shape:  value, time_ns (T,), in order of time; NaN is absent.
    Raises: BadInput if the shapes differ or the window is not positive.
    Source: z-normalised Euclidean distance: Yeh et al. (2016), Matrix profile I, section 2; here by brute force, a
            block at a time, with trivial matches left out within half a window.
    """
    if value.ndim != 1 or value.shape != time_ns.shape or not window_s > 0:
        raise BadInput(f"expected value and time_ns (T,) and a window > 0 s, got {value.shape}, {time_ns.shape}")
    usual_s = interval_s(time_ns)
    if not usual_s > 0:
        return ()
    step_s = max(usual_s, window_s / MOST_BINS)
    bins = max(LEAST_BINS, round(window_s / step_s))
    grid, first_ns = _gridded(value, time_ns, at_ns, step_s, bins)
    filled, full = _filled(grid, bins)
    last = len(filled) - 2 * bins  # where the window that ends at the moment begins; as much comes after it
    if last < 2 * bins or full[last] < LEAST_FULL:
        return ()
    distance = _distances(filled, last, bins)
    distance[(full < LEAST_FULL)[: len(distance)]] = np.inf
    found = []
    for start in _smallest(distance, most, bins // 2):
        ends_ns = first_ns + round((start + bins) * step_s * 1e9)
        shape, after = grid[start : start + bins], grid[start + bins : start + 2 * bins]
        found.append(Similar(ends_ns, float(distance[start]), step_s, shape, after))
    return tuple(found)


def _gridded(value: F64, time_ns: I64, at_ns: int, step_s: float, bins: int) -> tuple[F64, int]:
    """(means by step, begin of the first): the last window ends at the moment, and one window comes after it."""
    step_ns = round(step_s * 1e9)
    steps = min(MOST_STEPS, int((at_ns - int(time_ns[0])) // step_ns) + 1)
    first_ns = at_ns + 1 - steps * step_ns
    bin_of = (time_ns - first_ns) // step_ns
    good = np.isfinite(value) & (bin_of >= 0) & (bin_of < steps)
    bin_of = bin_of[good]
    count = np.bincount(bin_of, minlength=steps + bins)
    with np.errstate(invalid="ignore", over="ignore"):
        grid: F64 = np.bincount(bin_of, weights=value[good], minlength=steps + bins) / count
    return grid, first_ns


def _filled(grid: F64, bins: int) -> tuple[F64, F64]:
    """(the grid with straight lines over what is absent, how full the window is that begins at each step)."""
    there = np.isfinite(grid)
    at = np.arange(len(grid))
    filled = np.interp(at, at[there], grid[there]) if there.any() else np.zeros(len(grid))
    total = np.concatenate([[0], np.cumsum(there)])
    return filled, (total[bins:] - total[:-bins]) / bins


def _distances(filled: F64, last: int, bins: int) -> F64:
    """From the window at `last` to each that ends before it begins."""
    windows = np.lib.stride_tricks.sliding_window_view(filled, bins)[: last - bins + 1]
    wanted = _shape(filled[None, last : last + bins])[0]
    rows = max(1, BLOCK // bins)
    blocks = [
        np.sqrt(np.square(_shape(windows[k : k + rows]) - wanted).mean(axis=1)) for k in range(0, len(windows), rows)
    ]
    return np.concatenate(blocks)


def _shape(windows: F64) -> F64:
    """Windows (N, W) brought to mean 0 and standard deviation 1; flat ones are 0."""
    size = np.maximum(np.abs(windows).max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    windows = windows / size  # so that squares of the largest numbers are finite
    middle = windows - windows.mean(axis=1, keepdims=True)
    scale = middle.std(axis=1, keepdims=True)
    shaped: F64 = np.where(scale > FLAT, middle / np.where(scale > FLAT, scale, 1.0), 0.0)
    return shaped


def _smallest(distance: F64, most: int, apart: int) -> list[int]:
    """Places of the smallest distances, none within `apart` of another."""
    distance, found = distance.copy(), list[int]()
    while len(found) < most and len(distance):
        k = int(distance.argmin())
        if not distance[k] < UNLIKE:
            break
        found.append(k)
        distance[max(0, k - apart) : k + apart + 1] = np.inf
    return found
