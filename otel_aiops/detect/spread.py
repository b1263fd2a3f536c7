"""Spread: how much a series varies, as the standard deviation of its newest values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.memory import place_of
from otel_aiops.otlp.points import F64, I32
from otel_aiops.series.columns import Columns

BLOCKS, BLOCK = 4, 12  # the newest 37 to 48 values, block by block
BEGINNING = 100  # values in which the spread that is no longer small is found
LEAST = 1e-3  # of that spread: smaller changes do not count
LEAST_OF_FIRST = 1e-9  # of the first value, when the beginning has no spread


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

    def step(self, slots: I32, value: F64) -> tuple[F64, dict[str, NDArray[Any]]]:
        """(logarithm of the standard deviation with K new values, what `learn` must write); nothing changes."""
        place = place_of(slots)
        new = {name: array[place].copy() for name, array in self.of.items()}
        every = np.arange(len(slots))
        count = new["count"]
        block = count // BLOCK % BLOCKS
        begins = count % BLOCK == 0
        for name in ("size", "mean", "square"):
            new[name][every[begins], block[begins]] = 0
        new["first"] = np.where(count == 0, value, new["first"])
        new["size"][every, block] += 1
        size = new["size"].astype(np.float64)
        before = new["mean"][every, block]
        off = value - before
        new["mean"][every, block] = after = before + off / size[every, block]
        new["square"][every, block] += off * (value - after)
        total = _added(size)
        mean = _added(size * new["mean"]) / total
        variance = _added(new["square"] + size * (new["mean"] - mean[:, None]) ** 2) / total
        deviation = np.sqrt(np.maximum(variance, 0.0))
        new["beginning"] = np.where(count < BEGINNING, np.maximum(new["beginning"], deviation), new["beginning"])
        new["count"] = np.where(count < 2**30, count + 1, count + 1 - 2**29 // (BLOCK * BLOCKS) * (BLOCK * BLOCKS))
        least = LEAST * new["beginning"] + LEAST_OF_FIRST * (np.abs(new["first"]) + LEAST_OF_FIRST)
        return np.log(deviation + least), new

    def learn(self, slots: I32, new: Mapping[str, NDArray[Any]]) -> None:
        """Write what `step` made of K values."""
        place = place_of(slots)
        for name, array in self.of.items():
            array[place] = new[name]


def _added(blocks: F64) -> F64:
    """Sums (K,) over the few blocks (K, BLOCKS); faster than a sum along an axis so short."""
    total: F64 = blocks[:, 0] + blocks[:, 1]
    for k in range(2, BLOCKS):
        total += blocks[:, k]
    return total
