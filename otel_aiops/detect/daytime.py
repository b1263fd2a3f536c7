"""Daytime: which values a series has had at this time of the day, as one bit for each half hour and coarse cell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.memory import indices, place_of
from otel_aiops.detect.seen import WARM, Look, Moved
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.series.columns import Columns

SLOTS = 48  # half hours of a day
SLOT_NS = 86_400_000_000_000 // SLOTS
COARSE = 64  # cells, one bit each
AROUND = 2  # half hours on each side that count as the same time of the day
PENDING = AROUND + 1  # newest half hours, which are not compared with yet: no day is its own past
MOST = 1e3  # ranges; what is farther is as new
KNOWN_AFTER_NS = 2 * 86_400_000_000_000

U64 = NDArray[np.uint64]


class Daytime(Columns):
    """For each slot 48 words of 64 bits, on the grid of a `Seen` whose cells are joined to at most 64."""

    def __init__(self, cells: int) -> None:
        self._joined = cells // COARSE
        self._bits = np.arange(COARSE, dtype=np.uint64)
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
        of = self.of
        since_ns = of["since_ns"][slots]
        known = indices((since_ns > 0) & (time_ns - since_ns > KNOWN_AFTER_NS) & (seen.count >= WARM))
        novelty = np.zeros(len(slots))
        if not len(known):
            return novelty
        half_hour = time_ns[known] // SLOT_NS
        row = slots[known].astype(np.int64) * SLOTS
        flat = of["bits"].reshape(-1)
        word = flat[row + half_hour % SLOTS]
        for away in (*range(-AROUND, 0), *range(1, AROUND + 1)):
            word |= flat[row + (half_hour + away) % SLOTS]
        cell = np.floor_divide(seen.cell[known], self._joined)
        low, high = (np.floor_divide(end[known], self._joined).astype(np.int64) for end in (seen.low, seen.high))
        inside = (cell >= low) & (cell <= high)
        at = np.where(inside, cell, 0).astype(np.int64) & (COARSE - 1)
        hit = inside & (word >> at.astype(np.uint64) & np.uint64(1)).astype(bool)
        far = indices(~hit & (word != 0))
        if len(far):
            places = low[far, None] + ((self._bits.astype(np.int64) - low[far, None]) & (COARSE - 1))
            live = (word[far, None] >> self._bits & np.uint64(1)).astype(bool)
            distance = np.where(live, np.abs(places - cell[far, None]), np.inf).min(axis=1)
            span = np.maximum(seen.high[known[far]] - seen.low[known[far]], 1.0)
            novelty[known[far]] = np.minimum(distance * self._joined / span, MOST)
        return novelty

    def learn(self, slots: I32, time_ns: I64, seen: Look, moved: Moved, ends: tuple[I64, I64], cell: I64) -> None:
        """Take in the cells of K values, after the grid has moved and has these ends."""
        of = self.of
        if len(moved.merged):
            self._merge(slots[moved.merged], seen.low[moved.merged].astype(np.int64), moved.steps)
        if len(moved.trimmed):
            self._trim(slots[moved.trimmed], ends[0][moved.trimmed], ends[1][moved.trimmed])
        place = place_of(slots)
        since_ns = of["since_ns"][place]
        of["since_ns"][place] = np.where(since_ns == 0, time_ns, since_ns)
        half_hour = time_ns // SLOT_NS
        current = (half_hour % PENDING).astype(np.int64)
        at = slots.astype(np.int64) * PENDING + current
        fresh = indices(of["half_hour"].reshape(-1)[at] != half_hour)
        if len(fresh):
            self._commit(slots[fresh], half_hour[fresh])
            of["half_hour"].reshape(-1)[at[fresh]] = half_hour[fresh]
        bit = (cell // self._joined) & (COARSE - 1)
        of["pending"].reshape(-1)[at] |= np.uint64(1) << bit.astype(np.uint64)

    def _commit(self, slots: I32, half_hour: I64) -> None:
        """Move what is pending since more than two half hours into the bits."""
        of = self.of
        for k in range(PENDING):
            then = of["half_hour"][slots, k].astype(np.int64)
            old = indices((then >= 0) & (np.abs(half_hour - then) > AROUND))
            if len(old):
                chosen = slots[old]
                of["bits"][chosen, then[old] % SLOTS] |= of["pending"][chosen, k]
                of["pending"][chosen, k] = 0
                of["half_hour"][chosen, k] = -1

    def _merge(self, slots: I32, low: I64, steps: I64) -> None:
        """Join cells as the grid did; `low` was its lowest cell before."""
        first = (low // self._joined)[:, None]
        cell = first + ((self._bits.astype(np.int64) - first) & (COARSE - 1))
        target = (cell >> np.minimum(steps, 62)[:, None]) & (COARSE - 1)
        for name in ("bits", "pending"):
            words = self.of[name][slots]
            if not words.any():  # as in the first hours, when grids move most
                continue
            joined = np.zeros_like(words)
            for k in range(COARSE):
                bit = words >> np.uint64(k) & np.uint64(1)
                joined |= bit << target[:, k, None].astype(np.uint64)
            self.of[name][slots] = joined

    def _trim(self, slots: I32, low: I64, high: I64) -> None:
        """Forget what lies outside the ends of the grid."""
        first = (low // self._joined)[:, None]
        cell = first + ((self._bits.astype(np.int64) - first) & (COARSE - 1))
        kept = np.where(cell <= (high // self._joined)[:, None], np.uint64(1) << self._bits, np.uint64(0))
        mask = np.bitwise_or.reduce(kept, axis=1)[:, None]
        for name in ("bits", "pending"):
            self.of[name][slots] &= mask
