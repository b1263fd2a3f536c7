"""Cells: sums by window of time and cell, kept only where there are any; the memory of windows that are still open."""

from __future__ import annotations

import numpy as np

from otel_aiops.errors import StateError
from otel_aiops.otlp.points import F64, I64
from otel_aiops.series.columns import Arrays, checked

PER_OCTAVE = 16  # buckets of durations in a factor of two: a bucket is 4.4 % wide
SHORTEST_NS = 1_000.0  # what is shorter shares one bucket
BUCKETS = 31 * PER_OCTAVE + 1  # up to 36 minutes
LEAST_MERGED = 4_096


class Cells:
    """Sums of amounts by (window, cell). Cells are int64 >= 0; amounts must be such that sums of them are exact."""

    def __init__(self) -> None:
        self._open: dict[int, list[tuple[I64, F64]]] = {}
        self._loose: dict[int, int] = {}  # cells of a window since it was merged

    def add(self, window: I64, cell: I64, amount: F64) -> None:
        """Add N amounts, (N,) each."""
        if not len(window):
            return
        first, last = int(window.min()), int(window.max())
        if first == last:
            self._put(first, *_summed(cell, amount))
            return
        for number in range(first, last + 1) if last - first < len(window) else np.unique(window).tolist():
            here = window == number
            if here.any():
                self._put(number, *_summed(cell[here], amount[here]))

    def windows(self) -> list[int]:
        """The windows that hold something, in order."""
        return sorted(self._open)

    def take(self, window: int) -> tuple[I64, F64]:
        """(distinct cells, ascending, sums) of a window, which is then forgotten."""
        self._loose.pop(window, None)
        return _merged(self._open.pop(window, []))

    def _put(self, window: int, cell: I64, amount: F64) -> None:
        parts = self._open.setdefault(window, [])
        parts.append((cell, amount))
        loose = self._loose.get(window, 0) + len(cell)
        if loose > max(LEAST_MERGED, len(parts[0][0])):  # so that each cell is merged a few times only
            self._open[window], loose = [_merged(parts)], 0
        self._loose[window] = loose

    def state(self) -> Arrays:
        """All sums."""
        windows = self.windows()
        merged = [_merged(self._open[window]) for window in windows]
        return {
            "window": np.array(windows, np.int64),
            "ends": np.cumsum([len(cell) for cell, _ in merged], dtype=np.int64),
            "cell": np.concatenate([np.empty(0, np.int64), *(cell for cell, _ in merged)]),
            "amount": np.concatenate([np.empty(0), *(amount for _, amount in merged)]),
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        expected = {"window": (np.int64, ("W",)), "ends": (np.int64, ("W",))}
        checked(arrays, {**expected, "cell": (np.int64, ("C",)), "amount": (np.float64, ("C",))})
        ends = [0, *arrays["ends"].tolist()]
        if ends != sorted(ends) or ends[-1] != len(arrays["cell"]):
            raise StateError(f"expected {len(arrays['cell'])} cells, got windows that end at {ends[-1]}")
        self._open, self._loose = {}, {}
        for k, window in enumerate(arrays["window"].tolist()):
            a, b = ends[k], ends[k + 1]
            self._open[window] = [(arrays["cell"][a:b].copy(), arrays["amount"][a:b].copy())]


def _merged(parts: list[tuple[I64, F64]]) -> tuple[I64, F64]:
    if not parts:
        return np.empty(0, np.int64), np.empty(0)
    if len(parts) == 1:
        return parts[0]
    return _summed(np.concatenate([cell for cell, _ in parts]), np.concatenate([amount for _, amount in parts]))


def _summed(cell: I64, amount: F64) -> tuple[I64, F64]:
    """(distinct cells, ascending, sums)."""
    distinct, which = np.unique(cell, return_inverse=True)
    return distinct, np.bincount(which, amount, len(distinct)).astype(np.float64)


def bucket_of(duration_ns: F64) -> I64:
    """The bucket of each duration, (N,): 0 is all up to a microsecond, then 16 in a factor of two."""
    octaves = np.log2(np.maximum(duration_ns, SHORTEST_NS) / SHORTEST_NS)
    found: I64 = np.minimum(np.ceil(octaves * PER_OCTAVE), BUCKETS - 1).astype(np.int64)
    return found


def quantiles(group: I64, bucket: I64, amount: F64, groups: int, wanted: tuple[float, ...]) -> F64:
    """Durations in seconds at quantiles of each group, (groups, Q); NaN of a group without any.

    `group`, `bucket` and `amount` are (C,), sorted by group, then bucket. Inside a bucket the logarithm is linear.
    """
    found = np.full((groups, len(wanted)), np.nan)
    if not len(group):
        return found
    reached = np.cumsum(amount)
    total = np.bincount(group, amount, groups)
    there = np.flatnonzero(total > 0)
    before = (np.cumsum(total) - total)[there]
    last = np.searchsorted(group, there, "right") - 1
    for k, quantile in enumerate(wanted):
        target = before + quantile * total[there]
        at = np.minimum(np.searchsorted(reached, target, "left"), last)
        part = 1.0 - (reached[at] - target) / amount[at]
        found[there, k] = SHORTEST_NS / 1e9 * 2.0 ** ((bucket[at] - 1 + np.clip(part, 0.0, 1.0)) / PER_OCTAVE)
    return found
