"""Daytime: which values a series has had at this time of the day, as one bit for each half hour and coarse cell."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from otel_aiops.detect.compiled import compiled
from otel_aiops.detect.seen import U64, Look, Moved, highest, lowest
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.series.columns import Columns

SLOTS = 48  # half hours of a day
SLOT_NS = 86_400_000_000_000 // SLOTS
COARSE = 64  # cells, one bit each
AROUND = 2  # half hours on each side that count as the same time of the day
PENDING = AROUND + 1  # newest half hours, which are not compared with yet: no day is its own past
MOST = 1e3  # ranges; what is farther is as new
KNOWN_AFTER_NS = 2 * 86_400_000_000_000


class _Day(NamedTuple):
    """The columns of `Daytime`."""

    bits: U64
    pending: U64
    half_hour: I32
    since_ns: I64


class Daytime(Columns):
    """For each slot 48 words of 64 bits, on the grid of a `Seen` whose cells are joined to at most 64.

    As there, coarse cell c stands at place c modulo 64.
    """

    def __init__(self, cells: int) -> None:
        self._joined = cells // COARSE
        super().__init__(
            {
                "bits": (np.uint64, (SLOTS,), 0),
                "pending": (np.uint64, (PENDING,), 0),
                "half_hour": (np.int32, (PENDING,), -1),  # since the epoch, of what is pending
                "since_ns": (np.int64, (), 0),
            }
        )

    def look(self, slots: I32, time_ns: I64, seen: Look) -> F64:
        """Distance from K values to the nearest one had at this time of the day, in ranges; 0 in the first days."""
        distance = np.empty(len(slots))
        _look(_Day(**self.of), slots, time_ns, seen, self._joined, distance)
        return distance

    def learn(self, slots: I32, time_ns: I64, seen: Look, moved: Moved) -> None:
        """Take in the cells of K values, after the grid was `moved` since it was `seen`."""
        _learn(_Day(**self.of), slots, time_ns, seen, moved, self._joined)


@compiled
def _look(day: _Day, slots: I32, time_ns: I64, seen: Look, joined: int, distance: F64) -> None:
    for k in range(len(slots)):
        s, word = slots[k], np.uint64(0)
        if seen.warm[k] and day.since_ns[s] > 0 and time_ns[k] - day.since_ns[s] > KNOWN_AFTER_NS:
            for away in range(-AROUND, AROUND + 1):
                word |= day.bits[s, (time_ns[k] // SLOT_NS + away) % SLOTS]
        distance[k] = 0.0
        if word != 0:
            cells = _distance(word, np.floor(seen.cell[k] / joined), np.int64(np.floor(seen.low[k] / joined)))
            distance[k] = min(cells * joined / max(seen.high[k] - seen.low[k], 1.0), MOST)


@compiled
def _distance(word: Any, cell: float, low: Any) -> float:
    """Coarse cells to the nearest one whose bit is set; `low` is the lowest of all."""
    at, turn, least = cell - low, np.uint64(low & (COARSE - 1)), np.inf
    # Turned so that the lowest cell is bit 0; two shifts, as one by 64 is not defined.
    word = word >> turn | word << (np.uint64(COARSE - 1) - turn) << np.uint64(1)
    below = (np.uint64(2) << np.uint64(min(max(at, 0.0), COARSE - 1))) - np.uint64(1)
    if word & below != 0:
        least = abs(at - highest(word & below))
    if word & ~below != 0:
        least = min(least, lowest(word & ~below) - at)
    return least


@compiled
def _cell(bit: Any, low: Any) -> Any:
    """The coarse cell that a bit stands for."""
    return low + ((bit - low) & (COARSE - 1))


@compiled
def _learn(day: _Day, slots: I32, time_ns: I64, seen: Look, moved: Moved, joined: int) -> None:
    for k in range(len(slots)):
        s = slots[k]
        if moved.steps[k] > 0:
            low, steps = np.int64(np.floor(seen.low[k] / joined)), min(moved.steps[k], 62)
            _merge(day.bits[s], low, steps)
            _merge(day.pending[s], low, steps)
        if moved.trimmed[k]:
            kept = _between(moved.low[k] // joined, moved.high[k] // joined)
            for then in range(SLOTS):
                day.bits[s, then] &= kept
            for p in range(PENDING):
                day.pending[s, p] &= kept
        if day.since_ns[s] == 0:
            day.since_ns[s] = time_ns[k]
        half_hour = time_ns[k] // SLOT_NS
        p = half_hour % PENDING
        if day.half_hour[s, p] != half_hour:
            _commit(day, s, half_hour)
            day.half_hour[s, p] = half_hour
        day.pending[s, p] |= np.uint64(1) << np.uint64(moved.cell[k] // joined & (COARSE - 1))


@compiled
def _merge(words: U64, low: Any, steps: Any) -> None:
    """Join cells as the grid did, 2^steps at a time; `low` was the lowest of all before."""
    for i in range(len(words)):
        word, words[i] = words[i], 0
        for bit in range(COARSE):
            if word >> np.uint64(bit) & np.uint64(1):
                words[i] |= np.uint64(1) << np.uint64(_cell(bit, low) >> steps & (COARSE - 1))


@compiled
def _between(low: Any, high: Any) -> Any:
    """The bits of the cells from the lowest to the highest one."""
    bits = np.uint64(0)
    for cell in range(low, high + 1):
        bits |= np.uint64(1) << np.uint64(cell & (COARSE - 1))
    return bits


@compiled
def _commit(day: _Day, s: int, half_hour: Any) -> None:
    """Move what is pending since more than two half hours into the bits."""
    for p in range(PENDING):
        then = np.int64(day.half_hour[s, p])
        if then >= 0 and abs(half_hour - then) > AROUND:
            day.bits[s, then % SLOTS] |= day.pending[s, p]
            day.pending[s, p], day.half_hour[s, p] = 0, -1
