"""The seasonal profile: what a series usually is at this hour of the week."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.memory import HOURS, State, indices
from otel_aiops.otlp.points import F64, I32, I64, Bool

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


def predict(profile: NDArray[np.float16], rows: I32, state: State, clock: Clock) -> F64:
    """The profile at K times, linear between the middles of hours; NaN where no comparable hour was seen.

    An hour that was not seen last week is taken from the day before; with another clock, from the cell before. The two
    hours around a time are looked up when the time first comes between them, and kept in `state`: what belongs to the
    current hour is not in the profile yet, so nothing predicts itself.
    """
    position = (clock.time_ns - HOUR_NS // 2) / HOUR_NS + EPOCH_HOUR
    between = np.floor(position)
    moved = indices(between != state["between"])
    if len(moved):
        hour, some = between[moved].astype(np.int64), clock.at(moved)
        a, b = _at(profile, rows[moved], hour, some), _at(profile, rows[moved], hour + 1, some)
        state["between"][moved] = between[moved]
        state["early"][moved] = np.where(np.isnan(a), b, a)
        state["late"][moved] = np.where(np.isnan(b), a, b)
    share = position - between
    return state["centre"] + state["unit"] * (state["early"] + share * (state["late"] - state["early"]))


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


def learn(
    profile: NDArray[np.float16], rows: I32, state: State, clock: Clock, value: F64, *, normal: Bool, warm: Bool
) -> None:
    """Add K values to their hours, and finished hours to the profile, in place."""
    hour = clock.time_ns // HOUR_NS
    done = (hour != state["hour"]) & (state["hour_points"] > 0)
    if done.any():
        growth = _finish(
            profile,
            rows[done],
            {name: state[name][done] for name in ("hour", "hour_mean", "centre", "unit")},
            clock.at(indices(done)),
        )
        state["unit"][done] *= growth
        for name in ("early", "late"):
            state[name][done] /= growth
    state["hour_points"][hour != state["hour"]] = 0
    state["hour"][:] = hour
    unset = warm & (state["unit"] == 0)
    state["centre"][unset] = state["level"][unset]
    scale = np.maximum(state["level_error"], 1e-3 * np.abs(state["level"]))
    state["unit"][unset] = np.where(scale > 0, scale, 1.0)[unset]
    used = normal & (state["unit"] > 0)
    state["hour_points"] += used
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.where(used, (value - state["hour_mean"]) / state["hour_points"], 0.0)
    state["hour_mean"] += step


def _finish(profile: NDArray[np.float16], rows: I32, state: State, clock: Clock) -> F64:
    """Move the mean of a finished hour into the profile; returns by how much its unit grew so that all fits, (K,)."""
    hour = (state["hour"].astype(np.int64) + EPOCH_HOUR) % clock.cells
    now = (state["hour_mean"] - state["centre"]) / state["unit"]
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
