"""Resolutions: the recent past of each series at several resolutions, in memory that does not grow with time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import F64, I64
from otel_aiops.series.columns import Arrays, Columns, checked

WIDTHS_S = (15, 60, 300, 1_800, 10_800)  # of the bins: 64 of them are 16 min, 64 min, 5.3 h, 32 h and 8 days
LEVELS, BINS = len(WIDTHS_S), 64
_WIDTHS_NS = np.array(WIDTHS_S, np.int64) * 1_000_000_000
_BEFORE = -(2**31)  # number of a bin that was never filled
_SPEC = {
    "number": (np.int32, (LEVELS, BINS), _BEFORE),
    "count": (np.int32, (LEVELS, BINS), 0),
    "mean": (np.float64, (LEVELS, BINS), 0),
    "low": (np.float64, (LEVELS, BINS), 0),
    "high": (np.float64, (LEVELS, BINS), 0),
}


@dataclass(frozen=True, slots=True)
class Windows:
    """The newest whole bins of R series, oldest first; NaN where nothing came.

    Shape: at_s (L, B), the middle of each bin in seconds before now, so negative; mean, low, high (R, L, B).
    """

    at_s: F64
    mean: F64
    low: F64
    high: F64


class Resolutions:
    """Bins of S series: a bin overwrites the one that is a whole ring older. About 10 KB a series."""

    def __init__(self, most: int) -> None:
        self._columns = Columns(_SPEC, most)

    def reserve(self, slots: int) -> None:
        """See that there is room for so many series."""
        self._columns.reserve(slots)

    def add(self, slots: NDArray[np.intp], time_ns: I64, value: F64) -> None:
        """Put one finite value (K,) into each of K series (unique); what is older than its ring is left out."""
        number = time_ns[:, None] // _WIDTHS_NS
        at = (slots[:, None], np.arange(LEVELS), number % BINS)
        of = self._columns.of
        old = of["number"][at]
        same = number == old
        into = number >= old
        at = tuple(np.broadcast_to(axis, into.shape)[into] for axis in at)
        x, same = np.broadcast_to(value[:, None], into.shape)[into], same[into]
        count = np.where(same, of["count"][at], 0) + 1
        mean = np.where(same, of["mean"][at], x)
        of["number"][at], of["count"][at] = number[into], count
        of["mean"][at] = mean + (x - mean) / count
        of["low"][at] = np.where(same, np.minimum(of["low"][at], x), x)
        of["high"][at] = np.where(same, np.maximum(of["high"][at], x), x)

    def windows(self, slots: NDArray[np.intp], event_ns: int) -> Windows:
        """The bins of R series that are over at a time."""
        number = (event_ns // _WIDTHS_NS)[:, None] - np.arange(BINS, 0, -1)
        at = (slots[:, None, None], np.arange(LEVELS)[None, :, None], (number % BINS)[None])
        of = self._columns.of
        known = of["number"][at] == number
        mean, low, high = (np.where(known, of[name][at], np.nan) for name in ("mean", "low", "high"))
        at_s = np.asarray(((number + 0.5) * _WIDTHS_NS[:, None] - event_ns) / 1e9, np.float64)
        return Windows(at_s, mean, low, high)

    def clear(self, slots: NDArray[np.intp]) -> None:
        """Forget series."""
        self._columns.clear(slots)

    def state(self, slots: int) -> Arrays:
        """Copies of what the first series have."""
        return self._columns.state(slots)

    def restore(self, arrays: Arrays, slots: int) -> None:
        """Take over a state. Raises: StateError."""
        expected = {name: (dtype, (slots, *shape)) for name, (dtype, shape, _) in _SPEC.items()}
        checked(arrays, expected)
        self._columns.restore(arrays, slots)
