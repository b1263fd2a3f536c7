"""Pairs: which values of a series have followed on which, as a small book of prototypes, and how it was of late."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.memory import indices, place_of
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.series.columns import Columns

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
AT_ONCE = 256  # series whose prototypes are compared together: what fits in the processor's cache
FARTHEST = 1e18  # from the first value; squares of more do not fit float32


@dataclass(frozen=True, slots=True)
class PairLook:
    """What K values look like beside what the series did before, all (K,); 0 before enough is known."""

    surprise: F64  # distance of (value, value before) to the nearest prototype, in scales
    deviation: F64  # from the median of the newest values, in robust standard deviations
    nearest: NDArray[np.intp]
    apart: F64
    scale: F64


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
        of, place = self.of, place_of(slots)
        least = 1e-9 * (np.abs(of["mean"][place] + of["centre"][place]) + 1e-9)
        # Nothing keeps the quantiles from crossing each other when values do not vary any more.
        scale = np.abs(of["high"][place] - of["low"][place]) + least
        x = self._from_centre(place, value)
        nearest, apart = self._nearest(place, x)
        ready = of["count"][place] >= WARM
        surprise = np.where(ready, np.minimum(apart / scale, MOST), 0.0)
        deviation = np.where(ready, np.abs(x - of["median"][place]) / (of["spread"][place] + least), 0.0)
        return PairLook(surprise, deviation, nearest, apart, scale)

    def _nearest(self, place: I32 | slice, x: F64) -> tuple[NDArray[np.intp], F64]:
        """(nearest prototype, distance to it as the root mean square of both parts) of K values."""
        now, before = self.of["now"][place], self.of["before"][place]
        last = self.of["last"][place].astype(np.float32)[:, None]
        value = x.astype(np.float32)[:, None]
        nearest = np.empty(len(x), np.intp)
        square = np.empty(len(x), np.float32)
        room = np.empty((2, min(len(x), AT_ONCE), PROTOTYPES), np.float32)
        for first in range(0, len(x), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            distance, other = room[:, : len(value[some])]
            np.subtract(now[some], value[some], out=distance)
            distance *= distance
            np.subtract(before[some], last[some], out=other)
            other *= other
            distance += other
            nearest[some] = found = distance.argmin(axis=1)
            square[some] = distance[np.arange(len(found)), found]
        return nearest, np.sqrt(square.astype(np.float64) / 2)

    def learn(self, slots: I32, value: F64, look: PairLook) -> None:
        """Take in K values."""
        of, place = self.of, place_of(slots)
        new = of["count"][place] == 0
        of["centre"][place] = np.where(new, value, of["centre"][place])
        x = self._from_centre(place, value)
        count = of["count"][place].astype(np.int64)
        followed = indices(~new)
        if len(followed):
            self._stand(slots[followed], x[followed], look, followed)
        self._spread(place, x, count)
        of["ring"].reshape(-1)[slots.astype(np.int64) * RING + count % RING] = x
        of["last"][place] = x
        count = np.minimum(count + 1, 2**31 - 1 - RING)
        of["count"][place] = count
        due = indices((count % REFRESH == 0) | (count <= FRESH))
        for first in range(0, len(due), AT_ONCE):
            some = due[first : first + AT_ONCE]
            self._refresh(slots[some], count[some])

    def _from_centre(self, place: I32 | slice, value: F64) -> F64:
        return np.minimum(np.maximum(value - self.of["centre"][place], -FARTHEST), FARTHEST)

    def _stand(self, slots: I32, x: F64, look: PairLook, which: NDArray[np.intp]) -> None:
        """Let a near prototype stand for the pair, or put the pair in the place of the oldest one."""
        of = self.of
        clock = of["clock"][slots].astype(np.int64) + 1
        full = indices(clock > STAMPS)
        if len(full):
            stamps = of["stamp"][slots[full]].astype(np.int64)
            of["stamp"][slots[full]] = np.where(stamps > 0, np.maximum(stamps - STAMPS // 2, 1), 0)
            clock[full] -= STAMPS // 2
        of["clock"][slots] = clock
        nearest = look.nearest[which]
        other = indices(look.apart[which] > SAME * look.scale[which])
        at = slots.astype(np.int64) * PROTOTYPES
        if len(other):
            nearest[other] = self._oldest(slots[other])
            goal = at[other] + nearest[other]
            of["now"].reshape(-1)[goal] = x[other]
            of["before"].reshape(-1)[goal] = of["last"][slots[other]]
        of["stamp"].reshape(-1)[at + nearest] = clock

    def _oldest(self, slots: I32) -> NDArray[np.intp]:
        """The prototypes that were not met for longest."""
        stamp, oldest = self.of["stamp"], np.empty(len(slots), np.intp)
        for first in range(0, len(slots), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            oldest[some] = stamp[place_of(slots[some])].argmin(axis=1)
        return oldest

    def _spread(self, place: I32 | slice, x: F64, count: I64) -> None:
        """Mean, variance, and the quantiles near both ends.

        Source: Robbins and Monro, A Stochastic Approximation Method, 1951.
        """
        of = self.of
        weight = np.maximum(1.0 / (count + 1), 1 / LONGEST)
        off = x - of["mean"][place]
        of["mean"][place] += weight * off
        of["power"][place] = power = (1 - weight) * (of["power"][place] + weight * off * off)
        step = np.where(count > QUICK, STEP, QUICK_STEP) * np.sqrt(power)
        high, low = of["high"][place], of["low"][place]
        of["high"][place] = high + step * np.where(x > high, HIGH, HIGH - 1)
        of["low"][place] = low + step * np.where(x > low, 1 - HIGH, -HIGH)

    def _refresh(self, slots: I32, count: I64) -> None:
        """Look at the median and the spread of the newest values again."""
        of = self.of
        size = np.minimum(count, RING)
        ring = of["ring"][slots]
        if (size < RING).any():
            missing = np.arange(RING) >= size[:, None]
            mean = np.where(missing, 0, ring).sum(axis=1) / size
            square = (np.where(missing, 0, ring - mean[:, None].astype(np.float32)) ** 2).sum(axis=1)
            ring[missing] = np.inf
        else:
            square = ring.var(axis=1) * RING
        middle = size // 2
        every = np.arange(len(slots))
        median = np.sort(ring, axis=1)[every, middle]
        off = np.abs(ring - median[:, None])
        mad = np.sort(off, axis=1)[every, middle]
        deviation = np.sqrt(square / size)
        of["median"][slots] = median
        of["spread"][slots] = np.maximum(MAD * mad, LEAST_SPREAD * deviation)
