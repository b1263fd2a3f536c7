"""Buckets of cumulative histograms: what was counted since the last point, and percentiles of it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from otel_aiops.errors import StateError
from otel_aiops.otlp.points import F64, I32, I64, Bool
from otel_aiops.series.columns import Arrays, Columns, Expected, joined, pack, unpack

NONE = -1
COLUMNS = {"layout": (np.int32, (), NONE), "slot": (np.int32, (), NONE)}
SAVED: Expected = {
    "layout_bytes": (np.uint8, ("layout bytes",)),
    "layout_ends": (np.int64, ("layouts",)),
    "slots": (np.int64, ("layouts",)),
    "counts": (np.float64, ("cells",)),
    "free": (np.int32, ("free", 2)),
}


class Buckets:
    """The newest bucket counts of cumulative histograms, by first row of the series; equal layouts lie together."""

    def __init__(self) -> None:
        self._columns = Columns(COLUMNS)
        self._numbers: dict[bytes, int] = {}  # layout → number of its pool
        self._pools: list[_Pool] = []

    def increase(self, layout: bytes, heads: I32, counts: F64, reset: Bool) -> F64:
        """What was counted since the last point, and remember the counts. Cells that cannot be told are NaN.

        Shape: heads, reset (K,), counts (K, B) of the layout; returns (K, B).
        """
        self._columns.reserve(int(heads.max()) + 1 if len(heads) else 0)
        number = self._numbers.setdefault(layout, len(self._numbers))
        if number == len(self._pools):
            self._pools.append(_Pool(layout))
        pool = self._pools[number]
        known = self._columns.of["layout"][heads] == number
        self._place(heads[~known], number, pool)
        slots = self._columns.of["slot"][heads]
        before = pool.counts[slots]
        before[~known] = np.nan
        before[reset] = 0.0
        pool.counts[slots] = counts
        change = counts - before
        change[(change < 0).any(axis=1)] = np.nan  # a reset that the count did not show
        return change

    def forget(self, heads: I32) -> None:
        """Drop the counts of series."""
        heads = heads[heads < self._columns.rows]
        layouts = self._columns.of["layout"][heads]
        for number in np.unique(layouts[layouts >= 0]).tolist():
            self._pools[number].release(self._columns.of["slot"][heads[layouts == number]])
        self._columns.clear(heads)

    def _place(self, heads: I32, number: int, pool: _Pool) -> None:
        if len(heads):
            self.forget(heads)  # of another layout, perhaps
            self._columns.of["layout"][heads] = number
            self._columns.of["slot"][heads] = pool.claim(len(heads))

    def state(self, rows: int) -> Arrays:
        """All counts."""
        self._columns.reserve(rows)
        layouts, ends = pack([pool.layout for pool in self._pools])
        free = [(number, slot) for number, pool in enumerate(self._pools) for slot in pool.free]
        return {
            **self._columns.state(rows),
            "layout_bytes": layouts,
            "layout_ends": ends,
            "slots": np.array([pool.used for pool in self._pools], np.int64),
            "counts": joined([pool.counts[: pool.used].ravel() for pool in self._pools], np.float64),
            "free": np.array(free, np.int32).reshape(-1, 2),
        }

    def saved(self) -> Expected:
        """What `checked` should expect of the state."""
        return {**self._columns.saved(), **SAVED}

    def restore(self, arrays: Arrays, rows: int) -> None:
        """Take over a state whose shapes were checked. Raises: StateError."""
        self.__init__()  # type: ignore[misc]
        self._columns.restore(arrays, rows)
        layouts = unpack(arrays["layout_bytes"], arrays["layout_ends"])
        self._pools = [_Pool(layout) for layout in layouts]
        self._numbers = {layout: number for number, layout in enumerate(layouts)}
        slots = arrays["slots"].tolist()
        ends = np.cumsum([0, *(used * pool.cells for used, pool in zip(slots, self._pools, strict=True))]).tolist()
        if ends[-1] != len(arrays["counts"]):
            raise StateError(f"buckets: expected {ends[-1]} cells, got {len(arrays['counts'])}")
        for pool, used, (a, b) in zip(self._pools, slots, pairwise(ends), strict=True):
            pool.counts, pool.used = arrays["counts"][a:b].reshape(used, pool.cells).copy(), used
        for number, slot in arrays["free"].tolist():
            self._pools[number].free.append(slot)


class _Pool:
    """Counts of all series with one layout."""

    def __init__(self, layout: bytes) -> None:
        self.layout = layout
        self.cells = len(layout) // 8 + 1
        self.counts: F64 = np.empty((0, self.cells))
        self.used = 0
        self.free: list[int] = []

    def claim(self, count: int) -> list[int]:
        """Slots for so many series."""
        slots = [self.free.pop() for _ in range(min(count, len(self.free)))]
        more = count - len(slots)
        if self.used + more > len(self.counts):
            grown = np.zeros((max(self.used + more, 2 * len(self.counts)), self.cells))
            grown[: self.used] = self.counts[: self.used]
            self.counts = grown
        slots += range(self.used, self.used + more)
        self.used += more
        return slots

    def release(self, slots: I32) -> None:
        """Give slots back."""
        self.free.extend(slots.tolist())


def percentiles(counts: F64, bounds: F64, at: tuple[float, ...]) -> F64:
    """Values below which the shares `at` of what was counted lie, linear inside a bucket.

    Shape: counts (K, B), bounds (B - 1,), returns (K, Q); NaN where nothing was counted. What lies in the open last
    bucket counts as its lower bound; the first bucket begins at zero, or at its bound when that is below.
    Source: Prometheus, histogram_quantile.

    >>> percentiles(np.array([[2.0, 2.0, 0.0]]), np.array([1.0, 3.0]), (0.5, 0.75))
    array([[1., 2.]])
    """
    found = np.full((len(counts), len(at)), np.nan)
    if not len(bounds) or not len(counts):
        return found
    edges = np.concatenate(([min(0.0, bounds[0])], bounds, bounds[-1:]))
    below = np.cumsum(counts, axis=1)
    total = below[:, -1]
    some = np.flatnonzero(total > 0)
    for q, share in enumerate(at):
        target = share * total[some]
        bucket = (below[some] < target[:, None]).sum(axis=1)
        bucket = np.minimum(bucket, counts.shape[1] - 1)  # rounding may leave the sum below the total's share
        inside = counts[some, bucket]
        before = below[some, bucket] - inside
        with np.errstate(invalid="ignore", divide="ignore"):
            part = np.where(inside > 0, (target - before) / inside, 0.0)
        found[some, q] = edges[bucket] + (edges[bucket + 1] - edges[bucket]) * np.clip(part, 0.0, 1.0)
    return found


def gather(cells: F64, offset: I64, points: I64, width: int) -> F64:
    """The cells of K points with equally many, (K, width)."""
    found: F64 = cells[offset[points][:, None] + np.arange(width)]
    return found
