"""Slots: numbered places for the few of many rows that need one, at most so many; a row without one costs 4 bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.memory import indices, place_of
from otel_aiops.errors import StateError
from otel_aiops.otlp.points import I32, I64, Bool
from otel_aiops.series.columns import Columns, checked

NOBODY = -1


class Slots:
    """Who has which slot. A slot can be marked, and whether any of many rows has a marked one is known at once.

    When all are taken, the slots that were idle for long enough are given away, those idle for longest first; while
    there are none, new rows wait. So a crowd of new rows never takes the slots of those that are just being learned.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._of_row = Columns({"slot": (np.int32, (), 0)})  # 1 + its slot, negative when that is marked
        self._owner = Columns({"row": (np.int32, (), NOBODY)})
        self._marked = 0
        self.used = 0  # slots that were ever given away
        self.waited = 0  # times that a row asked and there was none

    def __len__(self) -> int:
        """How many rows have a slot."""
        return int((self._rows() != NOBODY).sum())

    def of(self, rows: I32) -> I32:
        """The slots of K rows, -1 for none; (K,)."""
        known = self._of_row.of["slot"]
        inside = rows < len(known)
        slots: I32 = np.abs(known[np.where(inside, rows, 0)]) - 1 if len(known) else np.full(len(rows), -1, np.int32)
        return np.where(inside, slots, np.int32(-1))

    def marked(self, rows: I32) -> NDArray[np.intp]:
        """Which of K rows have a slot that is marked."""
        if not self._marked or not len(rows):
            return np.empty(0, np.intp)
        known, place = self._of_row.of["slot"], place_of(rows)
        end = place.stop if isinstance(place, slice) else int(rows.max()) + 1
        if end <= len(known):
            return indices(known[place] < 0)
        inside = indices(rows < len(known))
        return inside[known[rows[inside]] < 0]

    def mark(self, slots: I32, flag: Bool) -> None:
        """Mark K slots (unique, taken), or take the mark away."""
        rows, known = self._rows()[slots], self._of_row.of["slot"]
        self._marked += int(flag.sum()) - int((known[rows] < 0).sum())
        known[rows] = np.where(flag, -1 - slots, 1 + slots)

    def take(self, rows: I32, idle: I64) -> tuple[I32, I32]:
        """(the slots of K rows (unique), which of them are new to their rows); -1 where a row has to wait.

        `idle` are the slots that may be given away, in this order.
        """
        slots = self.of(rows)
        new = indices(slots < 0)
        if not len(new):
            return slots, slots[:0]
        free = indices(self._rows() == NOBODY)
        fresh = np.arange(self.used, max(self.used, self._most))
        given = np.concatenate([free, fresh])[: len(new)].astype(np.int32)
        given = np.concatenate([given, idle[: len(new) - len(given)].astype(np.int32)])
        self.waited += len(new) - len(given)
        self._free(given[given < self.used])
        taken, rows = new[: len(given)], rows[new[: len(given)]]
        if len(given):
            self.used = max(self.used, int(given.max()) + 1)
            self._owner.reserve(self.used)
            self._of_row.reserve(int(rows.max()) + 1)
        self._owner.of["row"][given] = rows
        self._of_row.of["slot"][rows] = 1 + given
        slots[taken] = given
        return slots, given

    def forget(self, rows: I32) -> I32:
        """Take the slots of rows away; which ones they were."""
        slots = self.of(rows)
        slots = slots[slots >= 0]
        self._free(slots)
        return slots

    def state(self) -> dict[str, NDArray[Any]]:
        """Who has which slot."""
        return self._owner.state(self.used)

    def restore(self, arrays: Mapping[str, NDArray[Any]], marked: Bool) -> None:
        """Take over a state, and which slots are marked. Raises: StateError."""
        checked(arrays, self._owner.saved())
        rows = arrays["row"]
        owned = indices(rows != NOBODY)
        if (rows < NOBODY).any() or len(np.unique(rows[owned])) != len(owned):
            raise StateError("expected each row in one slot at most, got rows in several, or below 0")
        self._owner = Columns({"row": (np.int32, (), NOBODY)})
        self._of_row = Columns({"slot": (np.int32, (), 0)})
        self.used, self._marked = len(rows), 0
        self._owner.restore(arrays, self.used)
        self._of_row.reserve(int(rows.max(initial=NOBODY)) + 1)
        self._of_row.of["slot"][rows[owned]] = 1 + owned
        self.mark(owned.astype(np.int32), marked[owned])

    def _rows(self) -> I32:
        rows: I32 = self._owner.of["row"][: self.used]
        return rows

    def _free(self, slots: I32) -> None:
        rows = self._rows()[slots]
        rows = rows[rows != NOBODY]
        known = self._of_row.of["slot"]
        self._marked -= int((known[rows] < 0).sum())
        known[rows] = 0
        self._owner.of["row"][slots] = NOBODY
