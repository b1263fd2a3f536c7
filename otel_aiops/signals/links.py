"""Links: which series of metrics tell of which edge of the service graph, and what they told last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.series.columns import Arrays, Columns, checked
from otel_aiops.signals.edge_metrics import Role

FRESH_NS = 300_000_000_000  # a value says nothing of now when it is older

COLUMNS: dict[str, tuple[Any, tuple[int, ...], Any]] = {
    "row": (np.int64, (), -1),  # of the series, -1 when it is gone
    "key": (np.int64, (), 0),  # of the edge
    "role": (np.uint8, (), 0),
    "value": (np.float64, (), 0),
    "time_ns": (np.int64, (), 0),
}


class Links:
    """Edges by the rows of their series. A look-up of many rows of which none is an edge costs next to nothing."""

    def __init__(self) -> None:
        self._columns = Columns(COLUMNS)
        self._size = 0
        self._of_row: I32 = np.empty(0, np.int32)  # -1 for series that tell of no edge

    def add(self, row: int, key: int, role: Role) -> None:
        """Remember that a series tells of an edge."""
        if row >= len(self._of_row):
            longer = np.full(max(row + 1, 2 * len(self._of_row)), -1, np.int32)
            longer[: len(self._of_row)] = self._of_row
            self._of_row = longer
        at = int(self._of_row[row])
        if at < 0:
            holes = np.flatnonzero(self._columns.of["row"][: self._size] < 0)
            at = int(holes[0]) if len(holes) else self._size
        self._size = max(self._size, at + 1)
        self._columns.reserve(self._size)
        for name, value in (("row", row), ("key", key), ("role", role), ("value", 0.0), ("time_ns", 0)):
            self._columns.of[name][at] = value
        self._of_row[row] = at

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series."""
        rows = rows[rows < len(self._of_row)]
        link = self._of_row[rows]
        self._columns.clear(link[link >= 0])
        self._of_row[rows] = -1

    def take(self, rows: I32, value: F64, time_ns: I64) -> tuple[I64, I64]:
        """Take in K values of series; (key, time) of those that show that an edge was called."""
        link = self._linked(rows)
        some = np.flatnonzero(link >= 0)
        link, of = link[some], self._columns.of
        newer = time_ns[some] >= of["time_ns"][link]
        link, some = link[newer], some[newer]
        of["time_ns"][link], of["value"][link] = time_ns[some], value[some]
        called = value[some] > 0
        keys: I64 = of["key"][link[called]]
        return keys, time_ns[some[called]]

    def told(self, role: Role, slots: Mapping[int, int], event_ns: int) -> F64:
        """What fresh values say of each edge, by its slot; NaN where they say nothing. Series of one edge add up."""
        of = {name: array[: self._size] for name, array in self._columns.of.items()}
        fresh = (of["row"] >= 0) & (of["role"] == role) & (of["time_ns"] >= event_ns - FRESH_NS)
        at = np.array([slots.get(key, -1) for key in of["key"][fresh].tolist()], np.int64)
        value, at = of["value"][fresh][at >= 0], at[at >= 0]
        sums = np.bincount(at, value, len(slots))
        return np.where(np.bincount(at, minlength=len(slots)) > 0, sums, np.nan)

    def _linked(self, rows: I32) -> I32:
        """The link of each row, -1 of those without."""
        if not len(rows) or int(rows.max()) < len(self._of_row):
            return self._of_row[rows]
        link = np.full(len(rows), -1, np.int32)
        inside = rows < len(self._of_row)
        link[inside] = self._of_row[rows[inside]]
        return link

    def state(self) -> Arrays:
        """All links."""
        return self._columns.state(self._size)

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        checked(arrays, self._columns.saved())
        rows = arrays["row"]
        self._size = len(rows)
        self._columns = Columns(COLUMNS)
        self._columns.restore(arrays, self._size)
        self._of_row = np.full(int(rows.max(initial=-1)) + 1, -1, np.int32)
        used = np.flatnonzero(rows >= 0)
        self._of_row[rows[used]] = used
