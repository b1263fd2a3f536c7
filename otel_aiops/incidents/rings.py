"""Rings: the newest values of many series with their times, in bounded memory, and robust statistics over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import F64, I32, I64, Bool
from otel_aiops.series.columns import Arrays, Columns, Expected

F32 = NDArray[np.float32]
NORMAL_MAD = 1.4826  # a median absolute deviation to the standard deviation of a normal distribution
NORMAL_P95 = 1.645
AT_ONCE = 256  # rows


class Rings:
    """Cells of S slots: a cell holds the mean of what came within `spacing_s`, and the newest of the times.

    A slot has `length` cells, the newest replaces the oldest. An excluded cell is not part of what is usual.
    """

    def __init__(self, length: int, spacing_s: float) -> None:
        self.length = length
        self._spacing_ns = round(spacing_s * 1e9)
        spec: dict[str, tuple[Any, tuple[int, ...], Any]] = {
            "value": (np.float32, (length,), np.nan),
            "time_ns": (np.int64, (length,), 0),
            "excluded": (np.bool_, (length,), False),
            "begun_ns": (np.int64, (), 0),  # first time in the newest cell, 0 before the first value
            "newest": (np.int32, (), 0),  # the cell that was written last
            "merged": (np.int32, (), 0),  # values in it
        }
        self._columns = Columns(spec)

    def reserve(self, slots: int) -> None:
        """See that there are at least so many slots."""
        self._columns.reserve(slots)

    def clear(self, slots: I32) -> None:
        """Make slots empty."""
        self._columns.clear(slots)

    def push(self, slots: I32, time_ns: I64, value: F64) -> Bool:
        """Take one value for each of K slots (unique), finite; True where it begins a cell, (K,)."""
        of = self._columns.of
        begun, cell = of["begun_ns"][slots], of["newest"][slots]
        fresh: Bool = (begun == 0) | (time_ns - begun >= self._spacing_ns)
        cell = np.where(fresh & (begun != 0), (cell + 1) % self.length, cell).astype(np.int32)
        merged = np.where(fresh, 1, of["merged"][slots] + 1)
        before = np.where(fresh, 0.0, of["value"][slots, cell])
        of["value"][slots, cell] = before + (value - before) / merged
        of["time_ns"][slots, cell] = time_ns
        of["excluded"][slots, cell] &= ~fresh
        of["begun_ns"][slots] = np.where(fresh, time_ns, begun)
        of["newest"][slots] = cell
        of["merged"][slots] = merged
        return fresh

    def last(self, slots: I32) -> tuple[I64, F64]:
        """(times, values) of the newest cells, 0 and NaN where there is none, (K,)."""
        of = self._columns.of
        cell = of["newest"][slots]
        return of["time_ns"][slots, cell], of["value"][slots, cell].astype(np.float64)

    def cells(self, slots: I32) -> tuple[I64, F32, Bool]:
        """(times, values, excluded) of K slots, (K, L), the oldest first; a time of 0 is no cell."""
        of = self._columns.of
        order = (of["newest"][slots][:, None] + 1 + np.arange(self.length)) % self.length
        rows = slots[:, None]
        return of["time_ns"][rows, order], of["value"][rows, order], of["excluded"][rows, order]

    def exclude(self, start_ns: int, end_ns: int) -> None:
        """What came from `start_ns` to `end_ns` is not part of what is usual."""
        time_ns = self._columns.of["time_ns"]
        self._columns.of["excluded"] |= (time_ns >= start_ns) & (time_ns <= end_ns)

    def mark(self, slots: I32, excluded: bool) -> None:
        """Whether the newest cells of slots are excluded."""
        self._columns.of["excluded"][slots, self._columns.of["newest"][slots]] = excluded

    def admit(self, slots: I32, since_ns: I64) -> None:
        """What came since then is part of what is usual after all, (K,) each."""
        of = self._columns.of
        of["excluded"][slots] &= of["time_ns"][slots] < since_ns[:, None]

    def state(self, slots: int) -> Arrays:
        """Copies of the first slots."""
        return self._columns.state(slots)

    def restore(self, arrays: Mapping[str, NDArray[Any]], slots: int) -> None:
        """Take over what `state` gave."""
        self._columns.restore(arrays, slots)

    def saved(self) -> Expected:
        """What `checked` should expect of the state."""
        return self._columns.saved()


def usual(values: NDArray[Any], wanted: Bool) -> tuple[F64, F64, I64]:
    """(level, spread, count) of the wanted values of K rows: median; the larger of the two robust deviations upwards.

    Shape: (K, L) each; results (K,). The spread is the larger of 1.4826 MAD and (p95 - median) / 1.645; NaN without
    values.
    """
    if len(values) > AT_ONCE:  # so that what is sorted stays in the cache of the processor
        parts = [usual(values[k : k + AT_ONCE], wanted[k : k + AT_ONCE]) for k in range(0, len(values), AT_ONCE)]
        levels, spreads, counts = zip(*parts, strict=True)
        return np.concatenate(levels), np.concatenate(spreads), np.concatenate(counts)
    kept = np.where(wanted, values, np.nan).astype(np.float64)
    kept.sort(axis=1)  # NaN goes to the end
    count: I64 = np.isfinite(kept).sum(axis=1)
    level = quantile(kept, count, 0.5)
    above = (quantile(kept, count, 0.95) - level) / NORMAL_P95
    away = np.abs(kept - level[:, None])
    away.sort(axis=1)
    return level, np.maximum(NORMAL_MAD * quantile(away, count, 0.5), above), count


def quantile(ordered: F64, count: I64, q: float) -> F64:
    """The quantile of the first `count` values of each row, linear between two; NaN where there are none."""
    rows = np.arange(len(ordered))
    at = np.maximum(count - 1, 0) * q
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    found: F64 = ordered[rows, low] + (at - low) * (ordered[rows, high] - ordered[rows, low])
    return found
