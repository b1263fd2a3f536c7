"""Rhythm: a short memory of each series at one time scale after the other, in which its period is looked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect import periods
from otel_aiops.detect.compiled import compiled
from otel_aiops.detect.memory import HOURS, indices
from otel_aiops.detect.seasonal import DAY, EPOCH_HOUR, HOUR_NS, WEEK_WEIGHT, Clock
from otel_aiops.otlp.points import F64, I32, I64, Bool
from otel_aiops.series.columns import Columns

SECOND_NS = 1_000_000_000
CELLS = 224  # of the memory: 3.5 cycles of 64 cells
WIDTHS_S = (1, 2, 5, 10, 15, 20, 30, 60, 120, 180, 300, 600, 900, 1200, 1800, 3600, 7200, 10_800, 21_600)
NEAR = 0.95  # of the interval: a cell may be so much narrower
LONGEST_S = 56 * 86_400  # a memory that spans as much begins anew, with the finest cells
FEWER = 16_384.0  # units; a mean that is farther off makes the unit larger
FIRST_UNITS = 4  # the first deviation is 2^3 to 2^4 units
LARGEST = 1e30  # units; what is farther off counts as this

SIFTED = 250  # memories at most that are looked at in one step: about 3 ms
SEARCHED = 8  # of these, what is promising is searched for periods: about 0.5 ms each
FULL, PROMISING = 1, 2  # why a memory takes no more points
WAITING, DUE = 1, 2  # some points need what is rare first, some memories are full

# None of 250 series of noise and 250 random walks had a period in five octaves.
CONFIG = periods.PeriodsConfig(least_gain=0.08, significance=3.0)
WEEKLY_S = (43_200.0, 86_400.0, 604_800.0)  # what the hours of the week show as well, by local time
SAME = 0.02  # periods nearer than this ratio are one
BIGGER = 1.2  # times as large must a season be that replaces another
EXACT = 0.002  # a period is made more exact when it is farther off
SEEN_CELLS = (8.0, 56.0)  # a period of so many cells would be found if it were there
CYCLES = 1_024  # that are told apart by the clock, so that its hours are exact in float32
CYCLE_WEIGHT = 0.1  # of the newest cycle in the profile, up to a day
LEAST_CELLS = 3
OUTER = 0.02  # share of values at each end that counts as the value there


class Rhythm(NamedTuple):
    """What was found of one series: the strongest period, the share of the variance that it explains, and whether its
    season is remembered by the phase of this period, and not by hours of the week.
    """

    period_s: float
    strength: float
    own_clock: bool


@dataclass(frozen=True, slots=True)
class Begun:
    """Series whose seasonal profile begins anew: `slots` (R,), and the profile cell by cell in the series' unit, (R,
    168), NaN where nothing is known.
    """

    slots: I32
    values: F64


class _Cells(NamedTuple):
    """The columns of `Rhythms` that a point changes."""

    cells: NDArray[np.uint16]  # the bits of float16, which kernels do not know
    first: I64
    centre: F64
    unit: F64
    mean: NDArray[np.float32]
    width_s: I32
    points: NDArray[np.uint16]
    at: NDArray[np.uint8]
    due: NDArray[np.uint8]


class Rhythms(Columns):
    """For each slot the means of 224 stretches of time of equal width, and the period that was found in them.

    When all are there the period is looked for; then neighbours are joined, and the width is twice as much. So each
    series is searched once in every octave, the cost grows with the logarithm of its life, and the memory does not
    grow. Cells are stretches of the time since the epoch, so joined cells are those that would have been there.
    While a full memory waits for its turn it takes no points.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "cells": (np.float16, (CELLS,), np.nan),  # in units from the centre
                "first": (np.int64, (), 0),  # number of the first cell, since the epoch
                "centre": (np.float64, (), 0),
                "unit": (np.float64, (), 0),  # a power of two; 0 before the value changed
                "mean": (np.float32, (), 0),  # of the current cell
                "width_s": (np.int32, (), 0),  # 0 before the begin
                "period_s": (np.float32, (), 0),  # the strongest so far
                "size": (np.float32, (), 0),  # standard deviation of its season, 0 when it was not found again
                "strength": (np.float16, (), 0),
                "points": (np.uint16, (), 0),  # in the current cell
                "at": (np.uint8, (), 0),  # the current cell
                "due": (np.uint8, (), 0),  # FULL, PROMISING, or 0
                "parts": (np.uint8, (), 0),  # cells of the profile of the period; 0 for hours of the week
            }
        )

    # -- the clock ----------------------------------------------------------------------------------------------------

    def clock(self, slots: I32, time_ns: I64, wall_ns: I64) -> Clock:
        """The clock of the profile for K series: local time, or for those with a period of their own its phase.

        Slots are -1 for series without this memory.
        """
        if not self.rows:
            return Clock(wall_ns)
        own = indices((slots >= 0) & (self.of["parts"][slots] > 0))
        if not len(own):
            return Clock(wall_ns)
        parts = self.of["parts"][slots[own]].astype(np.int64)
        period_ns = _period_ns(self.of["period_s"][slots[own]])
        cycle, rest = np.divmod(time_ns[own], period_ns)
        clock_ns, cells = wall_ns.copy(), np.full(len(slots), HOURS)
        clock_ns[own] = (cycle % CYCLES) * parts * HOUR_NS + (rest / period_ns * parts * HOUR_NS).astype(np.int64)
        back, weight = np.full(len(slots), DAY), np.full(len(slots), WEEK_WEIGHT)
        cells[own], back[own] = parts, 1
        weight[own] = np.where(period_ns <= DAY * HOUR_NS, CYCLE_WEIGHT, 2 * CYCLE_WEIGHT)
        return Clock(clock_ns, cells, back, weight)

    def rhythm(self, slot: int) -> Rhythm | None:
        """What was found of one series; None for nothing, or nothing that is still there."""
        of = self.of
        if not of["size"][slot] > 0:
            return None
        return Rhythm(float(of["period_s"][slot]), float(of["strength"][slot]), bool(of["parts"][slot]))

    # -- the memory ---------------------------------------------------------------------------------------------------

    def begin(self, slots: I32) -> None:
        """Empty the memory of some slots; the period that was found stays."""
        self.of["width_s"][slots] = 0

    def learn(self, slots: I32, time_ns: I64, value: F64, interval_s: F64) -> Begun | None:
        """Take in one value each of K series; `interval_s` is their usual distance, 0 while it is not known.

        Slots are -1 for series without this memory. Returns the series whose period is another one now.
        """
        of, waits = self.of, np.empty(len(slots), np.bool_)
        cells = _Cells(of["cells"].view(np.uint16), *[of[name] for name in _Cells._fields[1:]])
        found = _learn(cells, slots, time_ns, value, interval_s, waits)
        if found & WAITING:
            k = indices(waits)
            some, time_ns, value, usual_s = slots[k], time_ns[k], value[k], interval_s[k]
            self._prepare(some, time_ns, value, usual_s)
            found |= _learn(cells, some, time_ns, value, usual_s, waits[k])
        if not found & DUE:
            return None
        due = indices((slots >= 0) & (of["due"][slots] > 0))
        return self._search(slots[due], interval_s[due])

    def _prepare(self, slots: I32, time_ns: I64, value: F64, interval_s: F64) -> None:
        """Let memories begin, have a unit, or a larger one, so that they can take a point."""
        of = self.of
        new = of["width_s"][slots] == 0
        if new.any():
            self._begin(slots[new], time_ns[new], value[new], interval_s[new])
        unset = (of["unit"][slots] == 0) & (value != of["centre"][slots])
        if unset.any():  # no longer constant
            self._set_units(slots[unset], value[unset])
        far = np.abs(of["mean"][slots]) > FEWER
        if far.any():
            self._grow(slots[far])

    def _begin(self, slots: I32, time_ns: I64, value: F64, interval_s: F64) -> None:
        """Begin with cells of about one point; the longest intervals have no memory."""
        widths = np.array([*WIDTHS_S, 0], np.int64)
        width = widths[np.searchsorted(widths[:-1], NEAR * interval_s)]
        k = width > 0
        slots, time_ns, value, width = slots[k], time_ns[k], value[k], width[k]
        of = self.of
        of["width_s"][slots], of["first"][slots] = width, time_ns // (width * SECOND_NS)
        of["centre"][slots], of["cells"][slots] = value, np.nan
        for name in ("unit", "mean", "points", "at", "due"):
            of[name][slots] = 0

    def _set_units(self, slots: I32, value: F64) -> None:
        """Choose the units of series that are no longer constant."""
        of = self.of
        exponent = np.frexp(value - of["centre"][slots])[1]
        of["unit"][slots] = np.ldexp(1.0, np.maximum(exponent - FIRST_UNITS, -1_000))

    def _grow(self, slots: I32) -> None:
        """Make units larger, so that the means of the current cells are few of them."""
        of = self.of
        growth = np.ldexp(1.0, np.frexp(of["mean"][slots] / FEWER)[1])
        of["unit"][slots] *= growth
        of["mean"][slots] /= growth
        of["cells"][slots] = of["cells"][slots] / growth[:, None]

    def _join(self, slots: I32) -> None:
        """Join neighbouring cells, in place; a memory that spans long enough begins anew with the next point."""
        of = self.of
        over = of["width_s"][slots].astype(np.int64) * CELLS >= LONGEST_S
        self.begin(slots[over])
        of["due"][slots] = 0
        slots = slots[~over]
        odd = (of["first"][slots] & 1).astype(np.int64)
        padded = np.full((len(slots), CELLS + 2), np.nan)
        for begin in (0, 1):
            padded[odd == begin, begin : begin + CELLS] = of["cells"][slots[odd == begin]]
        one, other = padded[:, ::2], padded[:, 1::2]
        joined = np.where(np.isnan(one), other, np.where(np.isnan(other), one, (one + other) / 2))
        of["cells"][slots] = np.nan
        of["cells"][slots, : joined.shape[1]] = joined
        of["first"][slots] >>= 1
        of["width_s"][slots] *= 2
        at = (of["at"][slots] + odd) >> 1
        of["at"][slots] = at
        of["mean"][slots] = joined[np.arange(len(slots)), at]

    # -- the search ---------------------------------------------------------------------------------------------------

    def _search(self, slots: I32, interval_s: F64) -> Begun | None:
        """Look for periods in some of the full memories, the finest first, and join the cells of those looked at."""
        of = self.of
        order = np.lexsort((slots, of["width_s"][slots]))
        slots, interval_s = slots[order], interval_s[order]
        full = slots[of["due"][slots] == FULL][:SIFTED]
        if len(full):
            promising = periods.promising(of["cells"][full].astype(np.float64), config=CONFIG)
            of["due"][full[promising]] = PROMISING
            missed = full[~promising]
            self._doubt(missed)
            self._join(missed)
        chosen = indices(of["due"][slots] == PROMISING)[:SEARCHED]
        begun: dict[int, F64] = {}
        for slot, usual_s in zip(slots[chosen].tolist(), interval_s[chosen].tolist(), strict=True):
            values = self._searched(slot, usual_s)
            if values is not None:
                begun[slot] = values
        self._join(slots[chosen])
        return Begun(np.array([*begun], np.int32), np.stack([*begun.values()])) if begun else None

    def _searched(self, slot: int, interval_s: float) -> F64 | None:
        """Take the period that one memory shows; returns the new profile (168,) where it begins anew."""
        of = self.of
        x, width_s = of["cells"][slot].astype(np.float64), float(of["width_s"][slot])
        found = periods.find(x[None], width_s, config=CONFIG)[0]
        held_s, size = float(of["period_s"][slot]), float(of["size"][slot])
        if not found:
            self._doubt(np.array([slot], np.int32))
            return None
        best, cells = found[0], held_s / width_s
        gone = SEEN_CELLS[0] <= cells <= SEEN_CELLS[1] and not any(_kin(one.period_s, held_s) for one in found)
        size = 0.0 if gone else size
        season = season_of(x, int(of["first"][slot]), width_s, best.period_s)
        now = min(float(np.std(season.shape)) * float(of["unit"][slot]), LARGEST)
        again = _same(best.period_s, held_s)
        if not again and now <= BIGGER * size:
            return None
        of["size"][slot] = max(now, size) if again else now
        of["strength"][slot] = best.strength
        if again and (width_s * SEEN_CELLS[0] > held_s or abs(best.period_s - held_s) <= EXACT * held_s):
            return None
        before = int(of["parts"][slot])
        parts = max(LEAST_CELLS, int(min(HOURS, best.period_s / max(interval_s, 1e-3) + 1e-6)))
        parts = 0 if best.period_s in WEEKLY_S else parts
        of["period_s"][slot], of["parts"][slot] = best.period_s, parts
        if not parts:
            return np.full(HOURS, np.nan) if before else None
        return season.profile(parts) * float(of["unit"][slot]) + float(of["centre"][slot])

    def _doubt(self, slots: I32) -> None:
        """Nothing was found: a period that would have shown is no longer there, and any other one may replace it."""
        of = self.of
        cells = of["period_s"][slots] / of["width_s"][slots]
        of["size"][slots[(cells >= SEEN_CELLS[0]) & (cells <= SEEN_CELLS[1])]] = 0.0


@compiled
def _learn(of: _Cells, slots: I32, time_ns: I64, value: F64, interval_s: F64, waits: Bool) -> int:
    """Take in K points, but those that wait for something rare: WAITING and DUE tell what is left to do."""
    left = 0
    for k in range(len(slots)):
        s = slots[k]
        waits[k] = False
        if s < 0:
            continue
        width_ns, unit = np.int64(of.width_s[s]) * SECOND_NS, of.unit[s]
        if width_ns == 0:
            waits[k] = 0 < NEAR * interval_s[k] <= WIDTHS_S[-1]
        elif unit == 0 and value[k] != of.centre[s]:
            waits[k] = True
        elif of.due[s] == 0:
            begin_ns = (of.first[s] + of.at[s]) * width_ns
            past_ns = time_ns[k] - begin_ns
            if past_ns >= width_ns and abs(of.mean[s]) > FEWER:
                waits[k] = True
            elif past_ns >= 0:
                away = (value[k] - of.centre[s]) / (unit if unit > 0 else 1.0)
                _add(of, s, min(max(away, -LARGEST), LARGEST), past_ns // width_ns if past_ns >= width_ns else 0)
        left |= WAITING if waits[k] else 0
        left |= DUE if of.due[s] > 0 else 0
    return left


@compiled
def _add(of: _Cells, s: int, away: float, ahead: Any) -> None:
    """Put a value in the current cell, or in one `ahead` after that is done."""
    if ahead == 0:
        points: Any = min(np.int64(of.points[s]) + 1, 65_535)
        mean = np.float64(of.mean[s])
        of.mean[s], of.points[s] = mean + (away - mean) / points, points
        return
    of.cells[s, of.at[s]] = _half(of.mean[s])
    cell = of.at[s] + ahead
    if cell < CELLS:
        of.mean[s], of.points[s], of.at[s] = away, 1, cell
    else:
        of.due[s] = FULL


@compiled
def _half(value: Any) -> Any:
    """The bits of the nearest float16 to a float32 of at most `FEWER`; of two equally near ones that with even bits."""
    bits: Any = np.int64(np.float32(value).view(np.int32))
    sign, size = (bits >> 16) & 0x8000, bits & 0x7FFFFFFF
    if size < 113 << 23:  # too small for an exponent of its own
        return sign | np.int64(np.rint(abs(np.float64(value)) * 2.0**24))
    return sign | ((size - (112 << 23) + 0x0FFF + ((size >> 13) & 1)) >> 13)


class Season(NamedTuple):
    """A season in units: its `shape` around zero by bins of the phase, and the level that it is around at present."""

    shape: F64
    level: float

    def profile(self, parts: int) -> F64:
        """The first `parts` of 168 cells, each at the place where the clock looks for it; NaN for the others."""
        bins = (np.arange(len(self.shape)) + 0.5) / len(self.shape)
        values = np.interp((np.arange(parts) + 0.5) / parts, bins, self.shape, period=1.0)
        profile = np.full(HOURS, np.nan)
        profile[(np.arange(parts) + EPOCH_HOUR) % parts] = self.level + values
        return profile


def season_of(x: F64, first: int, width_s: float, period_s: float) -> Season:
    """The season of a period in cells (T,) of `width_s` from number `first` since the epoch; NaN is absent.

    It is what is left of the mean of one period around each cell, so that a trend is not taken for a season.
    """
    x = np.clip(x, *np.nanquantile(x, [OUTER, 1 - OUTER]))
    known = np.isfinite(x)
    size = max(1, round(period_s / width_s))
    sums, counts = (np.convolve(part, np.ones(size), "valid") for part in (np.nan_to_num(x), known.astype(np.float64)))
    mean = sums / np.maximum(counts, 1)
    inner = slice((size - 1) // 2, (size - 1) // 2 + len(mean))
    period_ns = int(_period_ns(np.float32(period_s)))
    middle_ns = ((first + np.arange(len(x)) + 0.5) * (width_s * 1e9)).astype(np.int64)
    phase = (middle_ns % period_ns)[inner] / period_ns
    bins = max(1, int(period_s / width_s + 1e-6))
    used = known[inner] & (counts > 0)
    place = np.minimum((phase * bins).astype(np.int64), bins - 1)[used]
    seen = np.bincount(place, minlength=bins)
    total = np.bincount(place, weights=(x[inner] - mean)[used], minlength=bins)
    some = indices(seen)
    shape = np.interp(np.arange(bins), some, total[some] / seen[some], period=bins)
    return Season(shape - shape.mean(), float(mean[-1]))


def _same(period_s: float, other_s: float) -> bool:
    return abs(period_s - other_s) <= SAME * other_s


def _kin(period_s: float, other_s: float) -> bool:
    """Whether it is another period or a multiple of it, which wide cells show in its place."""
    times = period_s / other_s
    return times >= 1 - SAME and abs(times - round(times)) <= SAME * times


def _period_ns(period_s: Any) -> NDArray[np.int64]:
    """Periods in nanoseconds, as exact as they are kept."""
    return np.rint(np.asarray(period_s, np.float64) * 1e9).astype(np.int64)
