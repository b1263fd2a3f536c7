"""Spread: how much a series varies, as the standard deviation of its newest values."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.compiled import compiled
from otel_aiops.otlp.points import F64, I32
from otel_aiops.series.columns import Columns

U8 = NDArray[np.uint8]

BLOCKS, BLOCK = 4, 12  # the newest 37 to 48 values, block by block
BEGINNING = 100  # values in which the spread that is no longer small is found
LEAST = 1e-3  # of that spread: smaller changes do not count
LEAST_OF_FIRST = 1e-9  # of the first value, when the beginning has no spread
WRAP = 2**29 // (BLOCK * BLOCKS) * (BLOCK * BLOCKS)  # values that are taken from the count before it is too large


class _Blocks(NamedTuple):
    """The columns of `Spread`."""

    count: I32  # type: ignore[assignment]  # no tuple's method is used
    first: F64
    size: U8
    mean: F64
    square: F64
    beginning: F64


class Spread(Columns):
    """Mean and sum of squares of the newest blocks, put together without cancellation.

    Source: Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "count": (np.int32, (), 0),
                "first": (np.float64, (), 0),
                "size": (np.uint8, (BLOCKS,), 0),
                "mean": (np.float64, (BLOCKS,), 0),
                "square": (np.float64, (BLOCKS,), 0),  # sum of squared deviations from the block's mean
                "beginning": (np.float64, (), 0),
            }
        )

    def look(self, slots: I32, value: F64) -> F64:
        """Logarithm of the standard deviation with K new values; nothing changes."""
        deviation = np.empty(len(slots))
        _look(_Blocks(**self.of), slots, value, deviation)
        return np.log(deviation, out=deviation)

    def learn(self, slots: I32, value: F64) -> None:
        """Take in K values."""
        _learn(_Blocks(**self.of), slots, value)


@compiled
def _look(of: _Blocks, slots: I32, value: F64, deviation: F64) -> None:
    for k in range(len(slots)):
        s, x = slots[k], value[k]
        found = _deviation(of.size[s], of.mean[s], of.square[s], of.count[s], x)
        beginning = max(of.beginning[s], found) if of.count[s] < BEGINNING else of.beginning[s]
        first = x if of.count[s] == 0 else of.first[s]
        deviation[k] = found + (LEAST * beginning + LEAST_OF_FIRST * (abs(first) + LEAST_OF_FIRST))


@compiled
def _learn(of: _Blocks, slots: I32, value: F64) -> None:
    for k in range(len(slots)):
        s, x = slots[k], value[k]
        size, mean, square, count = of.size[s], of.mean[s], of.square[s], np.int64(of.count[s])
        if count == 0:
            of.first[s] = x
        if count < BEGINNING:
            of.beginning[s] = max(of.beginning[s], _deviation(size, mean, square, count, x))
        newest = count // BLOCK % BLOCKS
        size[newest], mean[newest], square[newest] = _block(size, mean, square, newest, count, x)
        of.count[s] = count + 1 if count < 2**30 else count + 1 - WRAP


@compiled
def _deviation(size: U8, mean: F64, square: F64, count: Any, x: float) -> Any:
    """Standard deviation of the values in the blocks and x."""
    total = centre = squares = 0.0
    for block in range(BLOCKS):
        n, own, _ = _block(size, mean, square, block, count, x)
        total += n
        centre += n * own
    centre /= total
    for block in range(BLOCKS):
        n, own, within = _block(size, mean, square, block, count, x)
        squares += within + n * (own - centre) ** 2
    return np.sqrt(max(squares / total, 0.0))


@compiled
def _block(size: U8, mean: F64, square: F64, block: Any, count: Any, x: float) -> tuple[Any, float, float]:
    """(size, mean, sum of squares) of a block, with x if it is the newest one."""
    n, own, within = np.int64(size[block]), mean[block], square[block]
    if block != count // BLOCK % BLOCKS:
        return n, own, within
    if count % BLOCK == 0:  # it begins
        n, own, within = np.int64(0), 0.0, 0.0
    off = x - own
    own += off / (n + 1)
    return n + 1, own, within + off * (x - own)
