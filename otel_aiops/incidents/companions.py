"""Companions: which rows run towards which limits, and which other rows hold these limits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.errors import StateError
from otel_aiops.incidents.targets import PredictRule, Target, limit_keys, target_of
from otel_aiops.labels import Labels, Selector
from otel_aiops.otlp.points import F64, I32, Bool
from otel_aiops.series.columns import Arrays, checked, joined

WAITING = 4  # times as many series as are watched may wait for their limit, or be limits


@dataclass(frozen=True, slots=True)
class Watched:
    """A series that is watched or waits; `series` is its fingerprint as 16 hexadecimal digits."""

    labels: Labels
    target: Target
    series: str


class Companions:
    """Numbers (slots) of the series whose limit is known; the others wait for theirs. All are bounded.

    Changes of what belongs together are rare, so that they are worked out one by one; `slots` and `are_limits`, which
    every batch asks, are one lookup.
    """

    def __init__(self, most: int, rules: Sequence[tuple[Selector, PredictRule]]) -> None:
        self._most = most
        self._rules = rules
        self._series: dict[int, Watched] = {}  # by row
        self._slot: dict[int, int] = {}  # by row
        self._rows: list[int] = []  # by slot, -1 where it is free
        self._free: list[int] = []
        self._limit_keys: dict[int, tuple[str, ...]] = {}  # by row of a limit
        self._limits: dict[int, Labels] = {}
        self._limit_of: dict[str, int] = {}  # key → row of the limit
        self._waiting: dict[str, dict[int, None]] = {}  # key → rows that look for it
        self._value: dict[int, float] = {}  # by row of a limit
        self._slot_at: I32 = np.empty(0, np.int32)
        self._is_limit: Bool = np.empty(0, bool)
        self.refused = 0

    @property
    def size(self) -> int:
        """Slots that were ever used."""
        return len(self._rows)

    @property
    def watched(self) -> int:
        """Slots in use."""
        return len(self._slot)

    def at(self, slot: int) -> Watched:
        """What a slot watches."""
        return self._series[self._rows[slot]]

    def limit(self, slot: int) -> float:
        """The newest limit by a companion, NaN where none has come yet."""
        row = self._rows[slot]
        known = any(key in self._limit_of for key in self._series[row].target.keys)
        return self._value.get(self._first(row), np.nan) if known else np.nan

    def slots(self, rows: I32) -> I32:
        """The slot of each row (K,), -1 for what is not watched."""
        known = rows < len(self._slot_at)
        found: I32 = np.where(known, self._slot_at[np.where(known, rows, 0)] if len(self._slot_at) else -1, -1)
        return found

    def are_limits(self, rows: I32) -> Bool:
        """Which rows (K,) hold limits of others."""
        known = rows < len(self._is_limit)
        found: Bool = known & (self._is_limit[np.where(known, rows, 0)] if len(self._is_limit) else False)
        return found

    def assign(self, row: int, labels: Labels, series: str) -> list[tuple[int, Target]]:
        """Look at a new series; what is watched since now, as (slot, target). The same series again changes nothing."""
        if self._known(row, labels):
            return []
        if row in self._series or row in self._limits:
            self.forget([row])
        target = target_of(labels, self._rules)
        keys = limit_keys(labels) if target is None else ()
        if keys:
            return self._hold(row, labels, keys)
        if target is None:
            return []
        if len(self._series) >= WAITING * self._most:
            self.refused += 1
            return []
        self._series[row] = Watched(labels, target, series)
        for key in target.keys:
            self._waiting.setdefault(key, {})[row] = None
        limited = np.isfinite(target.limit) or any(key in self._limit_of for key in target.keys)
        return self._watch([row] if limited else [])

    def learn(self, rows: I32, value: F64) -> list[tuple[int, float]]:
        """The slots whose limits have changed with these values (K,) of limits, and the new limits."""
        changed = {row: x for row, x in zip(rows.tolist(), value.tolist(), strict=True) if self._value.get(row) != x}
        self._value.update(changed)
        return [
            (self._slot[other], x)
            for row, x in changed.items()
            for key in self._limit_keys[row]
            if self._limit_of[key] == row
            for other in self._waiting.get(key, ())
            if other in self._slot and self._first(other) == row
        ]

    def forget(self, rows: Iterable[int]) -> list[tuple[int, Watched]]:
        """Forget rows; the slots that are free now, with what they watched."""
        freed = []
        for row in rows:
            self._unhold(row)
            series = self._series.pop(row, None)
            if series is None:
                continue
            for key in series.target.keys:
                self._waiting[key].pop(row)
                if not self._waiting[key]:
                    del self._waiting[key]
            slot = self._slot.pop(row, -1)
            if slot >= 0:
                self._rows[slot] = self._slot_at[row] = -1
                self._free.append(slot)
                freed.append((slot, series))
        return freed

    def state(self) -> Arrays:
        """What is known, as arrays."""
        table = [
            [[row, of.labels.to_json(), self._slot.get(row, -1), of.series] for row, of in self._series.items()],
            [[row, labels.to_json(), self._value.get(row)] for row, labels in self._limits.items()],
            [self.size, self._free, self.refused],
        ]
        text = json.dumps(table).encode()  # ASCII, so that no text can fail
        return {"table": np.frombuffer(text, np.uint8).copy()}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state; targets follow from the labels and the rules as they are now. Raises: StateError."""
        checked(arrays, {"table": (np.uint8, ("B",))})
        try:
            series, limits, (size, free, refused) = json.loads(arrays["table"].tobytes())
            for row, line, value in limits:
                labels = Labels.from_json(line)
                self._hold(row, labels, limit_keys(labels))
                if value is not None:
                    self._value[row] = float(value)
            self._rows, self._free, self.refused = [-1] * size, list(free), int(refused)
            for row, line, slot, *name in series:  # older states have no names
                self._take_over(row, Labels.from_json(line), slot, str(*name))
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise StateError(f"expected the table of watched series, got {error}") from error

    def _take_over(self, row: int, labels: Labels, slot: int, series: str) -> None:
        """One series of a saved state; what the rules no longer want becomes free."""
        target = target_of(labels, self._rules)
        if target is not None:
            self._series[row] = Watched(labels, target, series)
            for key in target.keys:
                self._waiting.setdefault(key, {})[row] = None
        if slot < 0:
            return
        if target is None:
            self._free.append(slot)
        else:
            self._mark(row, slot)

    def _known(self, row: int, labels: Labels) -> bool:
        """Whether a row has been assigned these labels already."""
        series = self._series.get(row)
        old = series.labels if series else self._limits.get(row)
        return old is not None and (old == labels or old.to_json() == labels.to_json())

    def _first(self, row: int) -> int:
        """The limit that counts for a row: of the most exact key."""
        keys = self._series[row].target.keys
        return next(self._limit_of[key] for key in keys if key in self._limit_of)

    def _hold(self, row: int, labels: Labels, keys: tuple[str, ...]) -> list[tuple[int, Target]]:
        """Take a row as a limit; the first that came for a key stays."""
        if len(self._limits) >= WAITING * self._most:
            self.refused += 1
            return []
        self._limits[row], self._limit_keys[row] = labels, keys
        self._is_limit = _grown(self._is_limit, row, False)
        self._is_limit[row] = True
        for key in keys:
            self._limit_of.setdefault(key, row)
        return self._watch([other for key in keys for other in self._waiting.get(key, ())])

    def _unhold(self, row: int) -> None:
        """Forget a limit; the series that had it keep its last value."""
        if self._limits.pop(row, None) is None:
            return
        self._is_limit[row] = False
        self._value.pop(row, None)
        for key in self._limit_keys.pop(row):
            if self._limit_of[key] == row:
                del self._limit_of[key]
                other = next((k for k, keys in self._limit_keys.items() if key in keys), None)
                if other is not None:
                    self._limit_of[key] = other

    def _watch(self, rows: Iterable[int]) -> list[tuple[int, Target]]:
        """Give rows slots, as far as there is room."""
        begun = []
        for row in rows:
            if row in self._slot:
                continue
            if not self._free and len(self._rows) >= self._most:
                self.refused += 1
                continue
            if not self._free:
                self._rows.append(-1)
            slot = self._free.pop() if self._free else len(self._rows) - 1
            self._mark(row, slot)
            begun.append((slot, self._series[row].target))
        return begun

    def _mark(self, row: int, slot: int) -> None:
        """A row is watched in a slot."""
        self._rows[slot] = row
        self._slot[row] = slot
        self._slot_at = _grown(self._slot_at, row, -1)
        self._slot_at[row] = slot


def _grown(array: NDArray[Any], row: int, empty: int | bool) -> NDArray[Any]:
    """The array with room for a row."""
    if row < len(array):
        return array
    more = np.full(max(row + 1, 2 * len(array), 1_024) - len(array), empty, array.dtype)
    return joined((array, more), array.dtype)
