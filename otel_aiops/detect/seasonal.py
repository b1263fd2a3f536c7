"""The seasonal profile: what a series usually is at this hour of the week."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.memory import HOURS, State
from otel_aiops.otlp.points import F64, I32, I64, Bool

HOUR_NS = 3_600_000_000_000
EPOCH_HOUR = 72  # 1970-01-01 was a Thursday; weeks begin on Monday
WEEK_WEIGHT = 0.4  # of the newest week
DAY = 24
SEEN_ZERO = np.float16(6e-8)  # the smallest number above zero, which itself says "not seen"
LARGEST = 60_000.0  # of float16
WIDEST = 10_000.0  # units from the centre; for what is farther the unit grows


def predict(profile: NDArray[np.float16], rows: I32, state: State, time_ns: I64) -> F64:
    """The profile at K times, linear between the middles of hours; NaN where no comparable hour was seen.

    An hour that was not seen last week is taken from the day before. The two hours around a time are looked up when the
    time first comes between them, and kept in `state`: what belongs to the current hour is not in the profile yet, so
    nothing predicts itself.
    """
    position = (time_ns - HOUR_NS // 2) / HOUR_NS + EPOCH_HOUR
    between = np.floor(position)
    moved = np.flatnonzero(between != state["between"])
    if len(moved):
        early = between[moved].astype(np.int64) % HOURS
        a = _at(profile, rows[moved], early)
        b = _at(profile, rows[moved], (early + 1) % HOURS)
        state["between"][moved] = between[moved]
        state["early"][moved] = np.where(np.isnan(a), b, a)
        state["late"][moved] = np.where(np.isnan(b), a, b)
    share = position - between
    return state["centre"] + state["unit"] * (state["early"] + share * (state["late"] - state["early"]))


def _at(profile: NDArray[np.float16], rows: I32, hour: I64) -> F64:
    """The profile at K hours of the week, or a day earlier; NaN where neither was seen."""
    flat, cell = profile.reshape(-1), rows.astype(np.int64) * HOURS + hour
    found: F64 = flat[cell].astype(np.float64)
    unseen = np.flatnonzero(found == 0)
    if len(unseen):
        found[unseen] = flat[cell[unseen] - hour[unseen] + (hour[unseen] - DAY) % HOURS]
        found[found == 0] = np.nan
    return found


def learn(
    profile: NDArray[np.float16], rows: I32, state: State, time_ns: I64, value: F64, *, normal: Bool, warm: Bool
) -> None:
    """Add K values to their hours, and finished hours to the profile, in place."""
    hour = time_ns // HOUR_NS
    done = (hour != state["hour"]) & (state["hour_points"] > 0)
    if done.any():
        growth = _finish(
            profile, rows[done], {name: state[name][done] for name in ("hour", "hour_mean", "centre", "unit")}
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


def _finish(profile: NDArray[np.float16], rows: I32, state: State) -> F64:
    """Move the mean of a finished hour into the profile; returns by how much its unit grew so that all fits, (K,)."""
    hour = (state["hour"].astype(np.int64) + EPOCH_HOUR) % HOURS
    now = (state["hour_mean"] - state["centre"]) / state["unit"]
    # A power of two, so that what is there loses no digits.
    growth = np.ldexp(1.0, np.maximum(np.frexp(np.abs(now) / WIDEST)[1], 0))
    grown = np.flatnonzero(growth > 1)
    if len(grown):
        shrunk = (profile[rows[grown]] / growth[grown, None]).astype(np.float16)
        profile[rows[grown]] = np.where((shrunk == 0) & (profile[rows[grown]] != 0), SEEN_ZERO, shrunk)
        now[grown] /= growth[grown]
    before = profile[rows, hour].astype(np.float64)
    mixed = np.where(before == 0, now, before + WEEK_WEIGHT * (now - before))
    cell = np.clip(mixed, -LARGEST, LARGEST).astype(np.float16)
    profile[rows, hour] = np.where(cell == 0, SEEN_ZERO, cell)
    return growth
