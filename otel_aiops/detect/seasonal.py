"""The seasonal profile: what a series usually is at this hour of the week."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.compiled import compiled
from otel_aiops.detect.memory import HOURS, MOST_COUNTED, Known, State, indices, place_of
from otel_aiops.otlp.points import F64, I32, I64

HOUR_NS = 3_600_000_000_000
EPOCH_HOUR = 72  # 1970-01-01 was a Thursday; weeks begin on Monday
WEEK_WEIGHT = 0.4  # of the newest week
DAY = 24
SEEN_ZERO = np.float16(6e-8)  # the smallest number above zero, which itself says "not seen"
LARGEST = 60_000.0  # of float16
WIDEST = 10_000.0  # units from the centre; for what is farther the unit grows


class Clock(NamedTuple):
    """What the profiles of K series go by. The time is such that a cell of a profile lasts an hour; by default it is
    local time, and the cells are the hours of the week.
    """

    time_ns: I64
    cells: I64 | int = HOURS  # of the profile
    back: I64 | int = DAY  # cells to the one that stands in for one that was not seen
    weight: F64 | float = WEEK_WEIGHT  # of the newest cycle

    def at(self, k: NDArray[Any]) -> Clock:
        """That of some of the series."""
        if isinstance(self.cells, int):  # then all are the defaults
            return Clock(self.time_ns[k])
        return Clock(*(np.asarray(part)[k] for part in self))


class Stretch(NamedTuple):
    """The profile between the middles of two hours, of K series, in units from the centre; NaN where none was seen."""

    between: F64  # hour since the epoch in whose middle it begins
    early: F64  # the profile there
    late: F64  # and an hour later


def stretch(profile: NDArray[np.float16], known: Known, rows: I32, clock: Clock) -> Stretch:
    """The stretch of the profile at K times; the one that is kept where a series has not come to the next one.

    An hour that was not seen last week is taken from the day before; with another clock, from the cell before. What
    belongs to the current hour is not in the profile yet, so nothing predicts itself.
    """
    place = place_of(rows)
    found = Stretch(*[column[place].astype(np.float64) for column in (known.between, known.early, known.late)])
    between = np.floor((clock.time_ns - HOUR_NS // 2) / HOUR_NS + EPOCH_HOUR)
    moved = indices(between != found.between)
    if len(moved):
        hour, some, rows = between[moved].astype(np.int64), clock.at(moved), rows[moved]
        a, b = _at(profile, rows, hour, some), _at(profile, rows, hour + 1, some)
        found.between[moved] = between[moved]
        found.early[moved] = np.where(np.isnan(a), b, a)
        found.late[moved] = np.where(np.isnan(b), a, b)
    return found


def keep(known: Known, rows: I32, found: Stretch) -> None:
    """Keep the stretches of K series."""
    place = place_of(rows)
    known.between[place], known.early[place], known.late[place] = found


@compiled
def predicted(known: Known, r: int, found: Stretch, k: int, time_ns: int) -> Any:
    """The profile at a time, linear between the middles of hours; NaN where no comparable hour was seen."""
    share = (time_ns - HOUR_NS // 2) / HOUR_NS + EPOCH_HOUR - found.between[k]
    return known.centre[r] + known.unit[r] * (found.early[k] + share * (found.late[k] - found.early[k]))


def _at(profile: NDArray[np.float16], rows: I32, hour: I64, clock: Clock) -> F64:
    """The profile at K hours, or a day earlier; NaN where neither was seen."""
    flat, first = profile.reshape(-1), rows.astype(np.int64) * HOURS
    found: F64 = flat[first + hour % clock.cells].astype(np.float64)
    unseen = indices(found == 0)
    if len(unseen):
        some = clock.at(unseen)
        found[unseen] = flat[first[unseen] + (hour[unseen] - some.back) % some.cells]
        found[found == 0] = np.nan
    return found


def begin(profile: NDArray[np.float16], rows: I32, state: State, values: F64) -> None:
    """Begin the profiles of R series anew, in place, with values (R, 168) by cell; NaN is not seen.

    They must prove themselves like any other.
    """
    known = np.isfinite(values).any(axis=1)
    with np.errstate(invalid="ignore"):
        off = values - state["level"][:, None]
    size = np.nanmax(np.abs(off), axis=1, initial=0.0)
    scale = np.maximum(np.maximum(state["level_error"], 1e-3 * np.abs(state["level"])), size / WIDEST)
    state["centre"] = state["level"].copy()
    state["unit"] = np.where(known, np.where(scale > 0, scale, 1.0), 0.0)
    cell = (off / np.where(known, state["unit"], 1.0)[:, None]).astype(np.float16)
    cell = np.where(cell == 0, SEEN_ZERO, cell)
    profile[rows] = np.where(np.isfinite(values), cell, 0)
    for name in ("season_points", "season_error", "offset", "hour_points", "hour_mean"):
        state[name][:] = 0.0
    # No hour: what is looked up next is looked up anew.
    state["between"][:] = state["hour"][:] = -1.0


def finish(profile: NDArray[np.float16], known: Known, rows: I32, clock: Clock) -> None:
    """Move the hours of K series that are over into their profiles."""
    place = place_of(rows)
    over = (clock.time_ns // HOUR_NS != known.hour[place]) & (known.hour_points[place] > 0)
    done = indices(over)
    if len(done):
        rows = rows[done]
        growth = _finish(profile, known, rows, clock.at(done))
        known.unit[rows] *= growth
        known.early[rows] /= growth
        known.late[rows] /= growth


@compiled
def learn(known: Known, r: int, time_ns: int, value: float, normal: bool, warm: bool) -> None:
    """Add a value to its hour, after the one before was finished."""
    hour = time_ns // HOUR_NS
    if hour != known.hour[r]:
        known.hour[r], known.hour_points[r] = hour, 0
    if warm and known.unit[r] == 0:
        scale = max(np.float64(known.level_error[r]), 1e-3 * abs(known.level[r]))
        known.centre[r], known.unit[r] = known.level[r], scale if scale > 0 else 1.0
    if normal and known.unit[r] > 0:
        known.hour_points[r] = points = min(np.int64(known.hour_points[r]) + 1, MOST_COUNTED)
        known.hour_mean[r] += (value - known.hour_mean[r]) / points


def _finish(profile: NDArray[np.float16], known: Known, rows: I32, clock: Clock) -> F64:
    """Move the mean of a finished hour into the profile; returns by how much its unit grew so that all fits, (K,)."""
    hour = (known.hour[rows].astype(np.int64) + EPOCH_HOUR) % clock.cells
    now = (known.hour_mean[rows].astype(np.float64) - known.centre[rows]) / known.unit[rows]
    # A power of two, so that what is there loses no digits.
    growth = np.ldexp(1.0, np.maximum(np.frexp(np.abs(now) / WIDEST)[1], 0))
    grown = indices(growth > 1)
    if len(grown):
        shrunk = (profile[rows[grown]] / growth[grown, None]).astype(np.float16)
        profile[rows[grown]] = np.where((shrunk == 0) & (profile[rows[grown]] != 0), SEEN_ZERO, shrunk)
        now[grown] /= growth[grown]
    before = profile[rows, hour].astype(np.float64)
    mixed = np.where(before == 0, now, before + clock.weight * (now - before))
    cell = np.clip(mixed, -LARGEST, LARGEST).astype(np.float16)
    profile[rows, hour] = np.where(cell == 0, SEEN_ZERO, cell)
    return growth
