"""Change: how far series in a window are from what they were before, in usual spreads and in the bad direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otel_aiops.errors import ConfigError
from otel_aiops.incidents.rings import F32, quantile, usual
from otel_aiops.otlp.points import F64, I64, Bool

WORST_TWO_OF = 3  # cells in the window from which on one alone does not decide


@dataclass(frozen=True, slots=True)
class ChangeConfig:
    """What a window is compared with."""

    before: float = 900.0  # the time just before the window
    cells_before: int = 3  # and how many cells of it count
    least_history: int = 10  # cells before the window that make a history

    def __post_init__(self) -> None:
        if not self.before > 0 or self.cells_before < 1 or self.least_history < 1:
            raise ConfigError("before", f"expected positive numbers, got {self}")


@dataclass(frozen=True, slots=True)
class Change:
    """K series: z in usual spreads (NaN: nothing can be said), values before and after, cells in the window, (K,)."""

    z: F64
    before: F64
    after: F64
    count: I64


def changes(
    cells: tuple[I64, F32, Bool],
    window_ns: tuple[int, int],
    *,
    sign: F64,
    floor: Callable[[F64], F64],
    config: ChangeConfig,
) -> Change:
    """Compare K series of `Rings.cells`, (K, L) each, in a window with before it; nothing is learned from the window.

    `sign` (K,) is -1 where low values are bad; `floor` gives the least spreads at usual levels, (K,) to (K,). The
    reference is the worse of the median of the history and the best of the cells just before the window, so that what
    was bad already before does not count, excluded or not. Without a history these cells alone are the reference and
    the floor is the spread. The value in the window is its worst, or the mean of its worst two of three or more cells.
    """
    time_ns, raw, excluded = cells
    value = raw * sign[:, None]
    start_ns, end_ns = window_ns
    before = (time_ns > 0) & (time_ns < start_ns)
    level, spread, count = usual(value, before & ~excluded)
    known = count >= config.least_history
    just_before = _best_before(time_ns, value, before, start_ns, config)
    with np.errstate(invalid="ignore"):
        reference = np.fmax(np.where(known, level, np.nan), just_before)
        least = floor(np.where(known, level, just_before) * sign)
        wide = np.maximum(np.where(known, spread, 0.0), least)
        inside = (time_ns >= start_ns) & (time_ns <= end_ns)
        after = _worst(value, inside)
        z = np.where(wide > 0, (after - reference) / np.where(wide > 0, wide, 1.0), np.nan)
    return Change(z, reference * sign, after * sign, inside.sum(axis=1))


def correlation(ours: tuple[I64, F32], theirs: tuple[I64, F32], window_ns: tuple[int, int]) -> float:
    """Pearson's correlation of two series in a window, each of our cells beside their nearest.

    Shape: (L,) each. It takes four pairs that vary: 1 while they have fewer cells, as nothing can be held against
    anyone yet, and 0 where it is we who do not show anything. A pair is at most half their usual interval apart.
    """
    (t, x), (u, y) = ((a[k], b[k]) for a, b in (ours, theirs) for k in [(a >= window_ns[0]) & (a <= window_ns[1])])
    if len(u) < 4:
        return 1.0
    right = np.clip(np.searchsorted(u, t), 1, len(u) - 1)
    nearest = np.where(t - u[right - 1] <= u[right] - t, right - 1, right)
    close = np.abs(u[nearest] - t) <= np.median(np.diff(u)) / 2
    a, b = x[close].astype(np.float64), y[nearest[close]].astype(np.float64)
    if len(a) < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _best_before(time_ns: I64, value: NDArray[np.floating], kept: Bool, start_ns: int, config: ChangeConfig) -> F64:
    """The best of the newest cells just before the window, NaN without any, (K,)."""
    recent = kept & (time_ns >= start_ns - round(config.before * 1e9))
    newer = np.cumsum(recent[:, ::-1], axis=1)[:, ::-1]  # how many are not older
    recent &= newer <= config.cells_before
    best = np.where(recent, value, np.inf).min(axis=1, initial=np.inf)
    return np.where(np.isinf(best), np.nan, best)


def _worst(value: NDArray[np.floating], inside: Bool) -> F64:
    kept = np.where(inside, -value, np.nan).astype(np.float64)
    kept.sort(axis=1)  # the worst first, NaN last
    count = np.isfinite(kept).sum(axis=1)
    two = (quantile(kept, count, 0.0) + kept[:, 1]) / 2
    return -np.where(count >= WORST_TWO_OF, two, kept[:, 0])
