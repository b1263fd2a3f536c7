"""Seen: which values a series has had, on a grid that grows with its range."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.compiled import compiled
from otel_aiops.otlp.points import F64, I32, I64, Bool
from otel_aiops.series.columns import Columns

U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]

WARM = 20  # values before a distance says anything
LIFE = 200  # shares of the memory's time that a visited cell stays
FINEST = 45  # the first cell is 2^-45 of the first value
FINEST_OF_ZERO = -90  # the same as an exponent, when the first value is zero
LEAST_EXPONENT = -500  # so that the number of a cell is finite for values up to 1e150
MOST = 10.0  # ranges; what is farther is as new
GROWTH = 10.0  # ranges by which one value widens the grid at most
SPARE = 16  # cells that are never used, so that coarser cells fit as well
WORD = 64  # bits
COUNTED = 65_535  # values


class Look(NamedTuple):
    """Where K values lie on their grids, all (K,)."""

    cell: F64
    low: F64
    high: F64
    exponent: I64
    warm: Bool  # whether a distance says anything
    distance: F64  # to the nearest cell that was visited, in cells
    novelty: F64  # the same in ranges of the values so far; 0 before enough is known


class Moved(NamedTuple):
    """What learning K values did to their grids, all (K,)."""

    cell: I64  # that the value was counted to
    low: I64  # the lowest and the highest visited cell
    high: I64
    steps: I64  # 2^`steps` cells were joined into one
    trimmed: Bool  # cells at an end were forgotten


class _Grid(NamedTuple):
    """The columns of `Seen`."""

    life: U8
    live: U64
    exponent: NDArray[np.int16]
    low: I64
    high: I64
    count: NDArray[np.uint16]  # type: ignore[assignment]  # no tuple's method is used
    due: I32


class Seen(Columns):
    """For each slot a ring of cells of equal width, a power of two, with the life that is left to each visited one.

    A value of cell c stands at place c modulo `cells`; the visited cells lie between `low` and `high`, which are never
    farther apart than the ring is long. When a value does not fit, cells are joined two by two.
    """

    def __init__(self, cells: int) -> None:
        self.cells = cells
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
        k = len(value)
        exponent, warm = np.empty(k, np.int64), np.empty(k, np.bool_)
        look = Look(np.empty(k), np.empty(k), np.empty(k), exponent, warm, np.empty(k), np.empty(k))
        _look(_Grid(**self.of), slots, value, look)
        return look

    def learn(self, slots: I32, look: Look, memory: F64) -> Moved:
        """Visit the cells of K values; after `memory` values (K,) without a visit a cell is forgotten."""
        k = len(memory)
        cell, low, high, steps = (np.empty(k, np.int64) for _ in range(4))
        moved = Moved(cell, low, high, steps, np.empty(k, np.bool_))
        _learn(_Grid(**self.of), slots, look, memory, moved, np.empty(self.cells, np.uint8))
        return moved


@compiled
def _look(grid: _Grid, slots: I32, value: F64, look: Look) -> None:
    for k in range(len(slots)):
        s, new = slots[k], grid.count[slots[k]] == 0
        exponent = _finest(value[k]) if new else np.int64(grid.exponent[s])
        cell = np.floor(value[k] * _power(-exponent))
        low, high = (cell, cell) if new else (np.float64(grid.low[s]), np.float64(grid.high[s]))
        distance, warm = max(low - cell, cell - high, 0.0), grid.count[s] >= WARM
        if warm and distance == 0:
            distance = _nearest(grid.live[s], np.int64(cell))
        look.cell[k], look.low[k], look.high[k], look.exponent[k] = cell, low, high, exponent
        look.warm[k], look.distance[k] = warm, distance
        look.novelty[k] = min(distance / max(high - low, 1.0), MOST) if warm else 0.0


@compiled
def _finest(value: float) -> Any:
    """Exponent of the cells that a grid begins with."""
    return max(np.int64(math.frexp(value)[1] - FINEST), LEAST_EXPONENT) if value != 0 else FINEST_OF_ZERO


@compiled
def _power(exponent: Any) -> Any:
    """2^exponent for exponents in -1022 .. 1023: the same as `ldexp` in a tenth of its time."""
    return np.int64((exponent + 1023) << 52).view(np.float64)


@compiled
def _learn(grid: _Grid, slots: I32, look: Look, memory: F64, moved: Moved, room: U8) -> None:
    for k in range(len(slots)):
        s, cell, steps = slots[k], look.cell[k], 0
        if look.distance[k] > 0 or not look.warm[k]:  # the others change no end
            cell, steps = _widen(grid, s, look, k, room)
        count: Any = np.int64(grid.count[s]) + 1
        grid.count[s] = min(count, COUNTED)
        number = np.int64(cell)
        at = number & (grid.life.shape[1] - 1)
        grid.life[s, at] = LIFE
        grid.live[s, at // WORD] |= np.uint64(1) << np.uint64(at % WORD)
        share: Any = max(np.int64(memory[k] / LIFE), np.int64(1))
        due = np.int64(grid.due[s]) - 1 if count > 1 else share
        # Not called each time: what is handed over would wait for the cells above to come from memory.
        moved.trimmed[k] = due <= 0 and _age(grid, s)
        grid.due[s] = due if due > 0 else share
        moved.cell[k], moved.steps[k], moved.low[k], moved.high[k] = number, steps, grid.low[s], grid.high[s]


@compiled
def _widen(grid: _Grid, s: int, look: Look, k: int, room: U8) -> tuple[float, int]:
    """Let a grid reach a value; returns its cell, and how often cells had to be joined two by two for it."""
    cell, low, high, steps = look.cell[k], look.low[k], look.high[k], 0
    if look.warm[k] and high > low:
        reach = GROWTH * (high - low)
        cell = min(max(cell, low - reach), high + reach)
    low, high = min(low, cell), max(high, cell)
    while high - low >= grid.life.shape[1] - SPARE:
        low, high, cell = np.floor(low / 2), np.floor(high / 2), np.floor(cell / 2)
        steps += 1
    if steps > 0:
        _merge(grid.life[s], grid.live[s], np.int64(look.low[k]), min(steps, 62), room)
    grid.exponent[s], grid.low[s], grid.high[s] = look.exponent[k] + steps, np.int64(low), np.int64(high)
    return cell, steps


@compiled
def _merge(life: U8, live: U64, low: Any, steps: int, joined: U8) -> None:
    """Join cells, 2^steps at a time; a joined cell lives as long as the youngest of its parts."""
    last = len(life) - 1
    for at in range(len(life)):
        joined[at] = 0
    for at in range(len(life)):
        if life[at] > 0:
            place = (low + ((at - low) & last) >> steps) & last
            joined[place] = max(joined[place], life[at])
    for at in range(len(life)):
        life[at] = joined[at]
    _pack(life, live)


@compiled
def _age(grid: _Grid, s: int) -> bool:
    """Take a life from the cells; returns whether cells at an end died."""
    life, live = grid.life[s], grid.live[s]
    if not _fade(life):
        return False
    _pack(life, live)
    low, high = _ahead(live, grid.low[s]), _behind(live, grid.high[s])
    grid.low[s] += low
    grid.high[s] -= high
    return bool(low > 0 or high > 0)


@compiled
def _fade(life: U8) -> bool:
    """Take a life from the cells that have one; returns whether some died."""
    died = np.uint8(0)
    for at in range(len(life)):
        died = np.uint8(died | np.uint8(life[at] == 1))
        life[at] = np.uint8(life[at] - np.uint8(life[at] > 0))
    return bool(died != 0)


@compiled
def _pack(life: U8, live: U64) -> None:
    """Keep one bit for each cell that has life."""
    for word in range(len(live)):
        bits = np.uint64(0)
        for bit in range(WORD):
            bits |= np.uint64(life[word * WORD + bit] > 0) << np.uint64(bit)
        live[word] = bits


@compiled
def _nearest(live: U64, cell: Any) -> Any:
    """Cells to the nearest visited one."""
    return np.float64(min(_ahead(live, cell), _behind(live, cell)))


@compiled
def _ahead(live: U64, cell: Any) -> Any:
    """Cells forward to the next visited one, 0 for one that was itself."""
    last = len(live) - 1
    word, bit = cell // WORD, cell % WORD
    bits, away = live[word & last] >> np.uint64(bit), np.int64(0)
    while bits == 0:
        away += WORD
        bits = live[(word + away // WORD) & last]
    return lowest(bits) + (away - bit if away > 0 else 0)


@compiled
def _behind(live: U64, cell: Any) -> Any:
    """The same backward."""
    last = len(live) - 1
    word, bit = cell // WORD, WORD - 1 - cell % WORD
    bits, away = live[word & last] << np.uint64(bit), np.int64(0)
    while bits == 0:
        away += WORD
        bits = live[(word - away // WORD) & last]
    return WORD - 1 - highest(bits) + (away - bit if away > 0 else 0)


@compiled
def lowest(word: Any) -> Any:
    """Number of the lowest set bit, for kernels."""
    return highest(word & (~word + np.uint64(1)))


@compiled
def highest(word: Any) -> Any:
    """Number of the highest set bit, for kernels; one instruction of the processor."""
    number = np.int64(-1)
    while word != 0:
        word >>= np.uint64(1)
        number += 1
    return number
