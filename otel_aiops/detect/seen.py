"""Seen: which values a series has had, on a grid that grows with its range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.memory import indices, place_of
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.series.columns import Columns

WARM = 20  # values before a distance says anything
LIFE = 200  # shares of the memory's time that a visited cell stays
FINEST = 45  # the first cell is 2^-45 of the first value
FINEST_OF_ZERO = -90  # the same as an exponent, when the first value is zero
LEAST_EXPONENT = -500  # so that the number of a cell is finite for values up to 1e150
MOST = 10.0  # ranges; what is farther is as new
GROWTH = 10.0  # ranges by which one value widens the grid at most
SPARE = 16  # cells that are never used, so that coarser cells fit as well
WORD = 64  # bits


@dataclass(frozen=True, slots=True)
class Look:
    """Where K values lie on their grids, all (K,): cell, distance to the nearest cell that was visited, in cells."""

    cell: F64
    low: F64
    high: F64
    exponent: I64
    count: I64
    distance: F64

    def at(self, k: NDArray[np.intp]) -> Look:
        """Those of the points k."""
        return Look(self.cell[k], self.low[k], self.high[k], self.exponent[k], self.count[k], self.distance[k])

    @property
    def novelty(self) -> F64:
        """The distance in ranges of the values so far; 0 before enough is known."""
        ranges = np.minimum(self.distance / np.maximum(self.high - self.low, 1.0), MOST)
        return np.where(self.count >= WARM, ranges, 0.0)


@dataclass(frozen=True, slots=True)
class Moved:
    """How grids changed: `merged` (M,) had 2^`steps` cells joined into one, `trimmed` (T,) forgot cells at an end."""

    merged: NDArray[np.intp]
    steps: I64
    trimmed: NDArray[np.intp]


class Seen(Columns):
    """For each slot a ring of cells of equal width, a power of two, with the life that is left to each visited one.

    A value of cell c stands at place c modulo `cells`; the visited cells lie between `low` and `high`, which are never
    farther apart than the ring is long. When a value does not fit, cells are joined two by two.
    """

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self._places = np.arange(cells, dtype=np.int16)
        self._words = np.arange(cells // WORD)
        super().__init__(
            {
                "life": (np.uint8, (cells,), 0),
                "live": (np.uint64, (cells // WORD,), 0),  # one bit a cell: whether it has life
                "exponent": (np.int16, (), 0),
                "low": (np.int64, (), 0),
                "high": (np.int64, (), 0),
                "count": (np.uint16, (), 0),  # values so far, up to 65,535
                "due": (np.int32, (), 0),  # values until all cells have one life less
            }
        )

    def look(self, slots: I32, value: F64) -> Look:
        """Where K values lie; nothing changes."""
        of, place = self.of, place_of(slots)
        low, high = of["low"][place].astype(np.float64), of["high"][place].astype(np.float64)
        count, exponent = of["count"][place].astype(np.int64), of["exponent"][place].astype(np.int64)
        new = indices(count == 0)
        if len(new):
            finest = np.maximum(np.frexp(value[new])[1] - FINEST, LEAST_EXPONENT)
            exponent[new] = np.where(value[new] == 0, FINEST_OF_ZERO, finest)
        cell = np.floor(value * _power(-exponent))
        low[new] = high[new] = cell[new]
        distance = np.maximum(np.maximum(low - cell, cell - high), 0.0)
        inside = indices((distance == 0) & (count >= WARM))
        if len(inside):
            at = cell[inside].astype(np.int64) & (self.cells - 1)
            word = of["live"].reshape(-1)[slots[inside].astype(np.int64) * len(self._words) + at // WORD]
            missed = inside[word >> (at % WORD).astype(np.uint64) & np.uint64(1) == 0]
            if len(missed):
                distance[missed] = self._nearest(slots[missed], cell[missed])
        return Look(cell, low, high, exponent, count, distance)

    def _nearest(self, slots: I32, cell: F64) -> I64:
        """Cells to the nearest visited one, for values whose own cell was not visited but both ends around it were."""
        at = cell.astype(np.int64) & (self.cells - 1)
        ahead, behind = self._around(slots.astype(np.int64) * len(self._words), at)
        far = indices((ahead > WORD // 2) & (behind > WORD // 2))
        if len(far):
            live = self.of["live"][slots[far]]
            ahead[far], behind[far] = _ahead(live, at[far], self._words), _behind(live, at[far], self._words)
        nearest: I64 = np.minimum(ahead, behind)
        return nearest

    def _around(self, first: I64, at: I64) -> tuple[I64, I64]:
        """Steps to the next set bits forward and backward among 64 places around `at`; over 32 if none is there."""
        live, begin = self.of["live"].reshape(-1), at - WORD // 2 & (self.cells - 1)
        word, bit = begin // WORD, (begin % WORD).astype(np.uint64)
        following = live[first + (word + 1) % len(self._words)]
        # Two shifts, as one by 64 is not defined.
        window = live[first + word] >> bit | following << (np.uint64(WORD - 1) - bit) << np.uint64(1)
        half = np.uint64(WORD // 2)
        return _lowest(window >> half), WORD // 2 + 1 - _length(window << half >> half)

    def learn(self, slots: I32, look: Look, memory: F64) -> Moved:
        """Visit the cells of K values; after `memory` values (K,) without a visit a cell is forgotten."""
        of, cell = self.of, look.cell
        merged, steps = np.empty(0, np.intp), np.empty(0, np.int64)
        unseen = indices((look.distance > 0) | (look.count < WARM))  # the others change no end and set no new bit
        if len(unseen):
            cell = cell.copy()
            cell[unseen], wide, steps = self._widen(slots[unseen], look.at(unseen))
            merged = unseen[wide]
        of["count"][place_of(slots)] = np.minimum(look.count + 1, 65_535)
        at = cell.astype(np.int64) & (self.cells - 1)
        first = slots.astype(np.int64)
        of["life"].reshape(-1)[first * self.cells + at] = LIFE
        word = first[unseen] * len(self._words) + at[unseen] // WORD
        of["live"].reshape(-1)[word] |= np.uint64(1) << (at[unseen] % WORD).astype(np.uint64)
        return Moved(merged, steps, self._age(slots, memory))

    def _widen(self, slots: I32, look: Look) -> tuple[F64, NDArray[np.intp], I64]:
        """Let grids reach M values; returns their cells (M,), which grids had cells joined, how often two by two."""
        of = self.of
        span = look.high - look.low
        limited = (look.count >= WARM) & (span > 0)
        reach = np.where(limited, GROWTH * span, np.inf)
        cell = np.minimum(np.maximum(look.cell, look.low - reach), look.high + reach)
        low, high = np.minimum(look.low, cell), np.maximum(look.high, cell)
        merged = indices(high - low >= self.cells - SPARE)
        steps = np.empty(0, np.int64)
        exponent = look.exponent
        if len(merged):
            steps = _steps(low[merged], high[merged], self.cells - SPARE)
            self._merge(slots[merged], look.low[merged].astype(np.int64), steps)
            shift = -steps
            low[merged], high[merged] = (np.floor(np.ldexp(end[merged], shift)) for end in (low, high))
            cell[merged] = np.floor(np.ldexp(cell[merged], shift))
            exponent = exponent.copy()
            exponent[merged] += steps
        of["exponent"][slots], of["low"][slots], of["high"][slots] = exponent, low, high
        return cell, merged, steps

    def _merge(self, slots: I32, low: I64, steps: I64) -> None:
        """Join cells, 2^steps at a time; a joined cell lives as long as the youngest of its parts."""
        life = self.of["life"]
        before = life[slots]
        row, at = np.nonzero(before)
        cell = low[row] + ((at - low[row]) & (self.cells - 1))
        after = np.zeros_like(before)
        target = row * self.cells + ((cell >> np.minimum(steps[row], 62)) & (self.cells - 1))
        np.maximum.at(after.reshape(-1), target, before[row, at])
        life[slots] = after
        self.of["live"][slots] = _packed(after)

    def _age(self, slots: I32, memory: F64) -> NDArray[np.intp]:
        """Take a life from the cells of those series whose time it is; returns which ones lost cells at an end."""
        of, place = self.of, place_of(slots)
        due = of["due"][place] - 1
        new = of["count"][place] == 1
        share = np.maximum(1, memory / LIFE).astype(np.int32)
        due = np.where(new, share, due)
        old = indices(due <= 0)
        of["due"][place] = np.where(due <= 0, share, due)
        if not len(old):
            return old
        chosen = slots[old]
        life = of["life"][chosen]
        life -= life > 0
        of["life"][chosen] = life
        of["live"][chosen] = _packed(life)
        low = of["low"][chosen]
        cell = low[:, None] + ((self._places - low[:, None]) & (self.cells - 1))
        live = life > 0
        first = np.where(live, cell, np.iinfo(np.int64).max).min(axis=1)
        last = np.where(live, cell, np.iinfo(np.int64).min).max(axis=1)
        trimmed: NDArray[np.bool_] = (first != low) | (last != of["high"][chosen])
        of["low"][chosen], of["high"][chosen] = first, last
        ended: NDArray[np.intp] = old[trimmed]
        return ended

    def cells_of(self, slots: I32, value: F64) -> I64:
        """The cells that K values fell into when they were learned just now."""
        place = place_of(slots)
        cell = np.floor(value * _power(-self.of["exponent"][place].astype(np.int64)))
        clipped: I64 = np.minimum(np.maximum(cell, self.of["low"][place]), self.of["high"][place]).astype(np.int64)
        return clipped

    def ends(self, slots: I32) -> tuple[I64, I64]:
        """(lowest, highest) visited cells of K slots."""
        low: I64 = self.of["low"][slots]
        high: I64 = self.of["high"][slots]
        return low, high


def _power(exponent: I64) -> F64:
    """2^exponent for exponents in -1022 .. 1023: the same as `ldexp` in a tenth of its time."""
    return ((exponent + 1023) << 52).view(np.float64)


def _steps(low: F64, high: F64, most: int) -> I64:
    """How often cells must be joined two by two until fewer than `most` lie between (K,) lows and highs."""
    steps: I64 = np.maximum(np.frexp((high - low) / most)[1] - 1, 1).astype(np.int64)
    while True:
        wide = np.floor(np.ldexp(high, -steps)) - np.floor(np.ldexp(low, -steps)) >= most
        if not wide.any():
            return steps
        steps += wide


def _packed(life: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """One bit for each cell that has life, (K, cells) → (K, words)."""
    packed: NDArray[np.uint64] = np.packbits(life > 0, axis=1, bitorder="little").view(np.uint64)
    return packed


def _ahead(live: NDArray[np.uint64], at: I64, words: I64) -> I64:
    """Steps from place `at` (M,) of each ring (M, words) forward to the next set bit; its own bit is not set."""
    word, bit = at // WORD, at % WORD
    own = live[np.arange(len(at)), word] >> bit.astype(np.uint64)
    away, following = _next_word(live, (words - word[:, None]) % len(words))
    return np.where(own != 0, _lowest(own), away * WORD - bit + _lowest(following))


def _behind(live: NDArray[np.uint64], at: I64, words: I64) -> I64:
    """The same backward."""
    word, bit = at // WORD, at % WORD
    own = live[np.arange(len(at)), word] << (WORD - 1 - bit).astype(np.uint64)
    away, following = _next_word(live, (word[:, None] - words) % len(words))
    return np.where(own != 0, WORD - _length(own), away * WORD + bit + 1 - _length(following))


def _next_word(live: NDArray[np.uint64], order: I64) -> tuple[I64, NDArray[np.uint64]]:
    """(how many words away, which) of the nearest word with a bit; the own word comes last, as it comes round again."""
    last = order.shape[1]
    order = np.where(order == 0, last, order)
    order[live == 0] = 2 * last
    best = order.argmin(axis=1)
    every = np.arange(len(order))
    return order[every, best], live[every, best]


def _lowest(word: NDArray[np.uint64]) -> I64:
    """Number of the lowest set bit; 64 when there is none."""
    return np.bitwise_count((word & (~word + np.uint64(1))) - np.uint64(1)).astype(np.int64)


def _length(word: NDArray[np.uint64]) -> I64:
    """Number of the highest set bit plus one; 0 when there is none."""
    for shift in (1, 2, 4, 8, 16, 32):
        word = word | word >> np.uint64(shift)
    return np.bitwise_count(word).astype(np.int64)
