"""Pairs: which values of a series have followed on which, as a small book of prototypes, and how it was of late."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.compiled import compiled
from otel_aiops.otlp.points import F64, I32
from otel_aiops.series.columns import Columns

F32 = NDArray[np.float32]

PROTOTYPES = 96
SAME = 0.02  # scales between a pair and the prototype that stands for it
WARM = 20  # values before a distance says anything
LONGEST = 2_000.0  # values that mean and spread remember
QUICK = 100  # values during which the quantiles move faster
STEP, QUICK_STEP = 0.05, 0.3  # of a quantile, in standard deviations
HIGH = 0.99  # the scale lies between this quantile and its opposite
RING = 128  # newest values
REFRESH = 16  # values between two looks at the ring's median
FRESH = 64  # values during which it is looked at each time
MAD = 1.4826  # standard deviation in median absolute deviations, of a normal distribution
LEAST_SPREAD = 0.25  # of the standard deviation, when most values are equal
STAMPS = 65_535
MOST = 1e3  # scales; what is farther is as strange
FARTHEST = 1e18  # from the first value; squares of more do not fit float32


class PairLook(NamedTuple):
    """What K values look like beside what the series did before, all (K,); 0 before enough is known."""

    surprise: F64  # distance of (value, value before) to the nearest prototype, in scales
    deviation: F64  # from the median of the newest values, in robust standard deviations
    nearest: NDArray[np.intp]
    apart: F64
    scale: F64


class _Book(NamedTuple):
    """The columns of `Pairs`."""

    now: F32
    before: F32
    stamp: NDArray[np.uint16]
    clock: NDArray[np.uint16]
    count: NDArray[np.int32]  # type: ignore[assignment]  # no tuple's method is used
    centre: F64
    last: F64
    mean: F64
    power: F64
    high: F64
    low: F64
    ring: F32
    median: F32
    spread: F32


class Pairs(Columns):
    """A prototype is a pair (value, value before) that stands for all pairs near it; the one not met for longest goes.

    So what is rare stays strange when it comes again, and what repeats does not. Values are kept as float32 from the
    first value of the series, so that large levels do not cost precision.
    Source: the idea of a bounded book of prototypes with forgetting is that of adaptive resonance (Carpenter,
    Grossberg and Rosen, Fuzzy ART, 1991); median and MAD as in Hampel, The Influence Curve, 1974.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "now": (np.float32, (PROTOTYPES,), np.inf),  # infinitely far from everything until it is used
                "before": (np.float32, (PROTOTYPES,), np.inf),
                "stamp": (np.uint16, (PROTOTYPES,), 0),
                "clock": (np.uint16, (), 0),
                "count": (np.int32, (), 0),
                "centre": (np.float64, (), 0),  # the first value; the following are relative to it
                "last": (np.float64, (), 0),
                "mean": (np.float64, (), 0),
                "power": (np.float64, (), 0),  # variance
                "high": (np.float64, (), 0),
                "low": (np.float64, (), 0),
                "ring": (np.float32, (RING,), 0),
                "median": (np.float32, (), 0),
                "spread": (np.float32, (), 0),
            }
        )

    def look(self, slots: I32, value: F64) -> PairLook:
        """What K values look like; nothing changes."""
        k = len(value)
        look = PairLook(np.empty(k), np.empty(k), np.empty(k, np.intp), np.empty(k), np.empty(k))
        _look(_Book(**self.of), slots, value, look, np.empty(PROTOTYPES, np.float32))
        return look

    def learn(self, slots: I32, value: F64, look: PairLook) -> None:
        """Take in K values."""
        _learn(_Book(**self.of), slots, value, look, np.empty(RING, np.float32))


@compiled
def _look(book: _Book, slots: I32, value: F64, look: PairLook, room: F32) -> None:
    for k in range(len(slots)):
        s = slots[k]
        least = 1e-9 * (abs(book.mean[s] + book.centre[s]) + 1e-9)
        # Nothing keeps the quantiles from crossing each other when values do not vary any more.
        scale = abs(book.high[s] - book.low[s]) + least
        x = min(max(value[k] - book.centre[s], -FARTHEST), FARTHEST)
        nearest, apart = _nearest(book.now[s], book.before[s], np.float32(x), np.float32(book.last[s]), room)
        ready = book.count[s] >= WARM
        look.surprise[k] = min(apart / scale, MOST) if ready else 0.0
        look.deviation[k] = abs(x - book.median[s]) / (book.spread[s] + least) if ready else 0.0
        look.nearest[k], look.apart[k], look.scale[k] = nearest, apart, scale


@compiled
def _nearest(now: F32, before: F32, x: np.float32, last: np.float32, square: F32) -> tuple[int, float]:
    """(nearest prototype, distance to it as the root mean square of both parts) of a value and the one before it."""
    for p in range(PROTOTYPES):
        off, off_before = now[p] - x, before[p] - last
        square[p] = off * off + off_before * off_before
    # The bits of numbers that are not negative are in their order, and a loop over integers takes many at once.
    nearest = _first_least(square.view(np.int32))
    return nearest, np.sqrt(np.float64(square[nearest]) / 2)


@compiled
def _first_least(values: NDArray[Any]) -> int:
    """Where the least of some integers is, the first among equals."""
    least = values[0]
    for i in range(len(values)):
        least = min(least, values[i])
    for i in range(len(values)):
        if values[i] == least:
            return i
    return 0


@compiled
def _learn(book: _Book, slots: I32, value: F64, look: PairLook, room: F32) -> None:
    for k in range(len(slots)):
        s = slots[k]
        count: Any = np.int64(book.count[s])
        if count == 0:
            book.centre[s] = value[k]
        x = min(max(value[k] - book.centre[s], -FARTHEST), FARTHEST)
        if count > 0:
            _stand(book, s, x, look.nearest[k], look.apart[k] > SAME * look.scale[k])
        _vary(book, s, x, count)
        book.ring[s, count % RING] = x
        book.last[s] = x
        count = min(count + 1, 2**31 - 1 - RING)
        book.count[s] = count
        if count % REFRESH == 0 or count <= FRESH:
            book.median[s], book.spread[s] = _middle(book.ring[s], room[: min(count, RING)])


@compiled
def _stand(book: _Book, s: int, x: float, nearest: int, other: bool) -> None:
    """Let a near prototype stand for the pair, or put the pair in the place of the one that was not met for longest."""
    stamp, clock = book.stamp[s], np.int64(book.clock[s]) + 1
    if clock > STAMPS:
        clock -= STAMPS // 2
        for p in range(PROTOTYPES):
            if stamp[p] > 0:
                stamp[p] = max(np.int64(stamp[p]) - STAMPS // 2, 1)
    book.clock[s] = clock
    if other:
        nearest = _first_least(stamp)
        book.now[s, nearest], book.before[s, nearest] = x, book.last[s]
    stamp[nearest] = clock


@compiled
def _vary(book: _Book, s: int, x: float, count: int) -> None:
    """Mean, variance, and the quantiles near both ends.

    Source: Robbins and Monro, A Stochastic Approximation Method, 1951.
    """
    weight = max(1.0 / (count + 1), 1 / LONGEST)
    off = x - book.mean[s]
    book.mean[s] += weight * off
    book.power[s] = power = (1 - weight) * (book.power[s] + weight * off * off)
    step = (STEP if count > QUICK else QUICK_STEP) * np.sqrt(power)
    book.high[s] += step * (HIGH if x > book.high[s] else HIGH - 1)
    book.low[s] += step * (1 - HIGH if x > book.low[s] else -HIGH)


@compiled
def _middle(ring: F32, newest: F32) -> tuple[Any, Any]:
    """(median, robust spread) of the newest values; `newest` is room for as many."""
    size, mean, square = len(newest), 0.0, 0.0
    for i in range(size):
        newest[i] = ring[i]
        mean += ring[i]
    mean /= size
    for i in range(size):
        square += (ring[i] - mean) ** 2
    median = _at_place(newest, size // 2)
    for i in range(size):
        newest[i] = abs(ring[i] - median)
    mad = _at_place(newest, size // 2)
    return median, max(MAD * mad, LEAST_SPREAD * np.sqrt(square / size))


@compiled
def _at_place(values: F32, place: int) -> Any:
    """The value that is at a place when all are in order; they are overwritten.

    Found by halving the range of their bits and counting, which takes many values at once and has no branch.
    """
    bits = values.view(np.int32)
    for i in range(len(bits)):  # into the order of the numbers
        bits[i] ^= (bits[i] >> np.int32(31)) & np.int32(0x7FFFFFFF)
    low: Any = np.int64(-(2**31))
    high: Any = np.int64(2**31 - 1)
    while low < high:
        middle, count = (low + high) >> 1, np.int32(0)
        for i in range(len(bits)):
            count = np.int32(count + np.int32(bits[i] <= np.int32(middle)))
        if count == place + 1:
            low = high = _last_up_to(bits, np.int32(middle))
        elif count > place:
            high = middle
        else:
            low = middle + 1
    bits[0] = low ^ ((low >> 31) & 0x7FFFFFFF)
    return values[0]


@compiled
def _last_up_to(values: NDArray[np.int32], most: Any) -> Any:
    """The greatest of the values that are not above one."""
    lowest = np.int32(-(2**31))
    greatest = lowest
    for i in range(len(values)):
        value = values[i] if values[i] <= most else lowest
        greatest = value if value > greatest else greatest
    return greatest
