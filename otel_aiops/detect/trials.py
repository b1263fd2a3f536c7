"""Trials of periods: whether a level with a seasonal profile predicts later values of a series better than without."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from otel_aiops.detect.compiled import compiled
from otel_aiops.otlp.points import F64

TREND_SHARE = 4  # the trend is a mean over this part of the history
SLOTS = 168  # of a profile, at most
HORIZON = 4  # both models predict such a part of a period ahead, or a level that is quick would do for a season
LEARNED = 2  # cycles before the first prediction
CYCLES = 60  # the newest are used
CYCLE_WEIGHT = 0.1  # of the newest cycle, when there are many
LEVEL_WEIGHTS = (1.0, 0.3, 0.1, 0.03)  # of the newest slot; each model has the best of them
PARTS = 4  # of a cycle, in which the differences of errors are averaged before they are compared
FEW_PARTS = 4.0  # with so many, twice the significance is asked for


class Room(NamedTuple):
    """What trials of series of T values write to, made once for many of them."""

    season: F64  # (T,) the last result: what the period adds to each value
    binned: F64  # the mean of each slot of the profile, cycle after cycle; as the following
    seasons: F64
    flat: F64
    known: F64
    level: F64
    errors: F64
    plain: F64
    seasonal: F64
    profile: F64
    seen: F64
    trends: F64  # (2, T)
    sums: F64  # (2, T + 1)


def room_for(points: int) -> Room:
    """Room for trials of series of so many values."""
    arrays: dict[str, F64] = {name: np.empty(points + SLOTS) for name in Room._fields}
    arrays |= {"season": np.empty(points), "trends": np.empty((2, points)), "sums": np.empty((2, points + 1))}
    return Room(**arrays)


@compiled
def trend_of(x: F64, trend: F64, sums: F64) -> None:
    """Put in `trend` the mean over a quarter of the history around each value; `sums` is room (2, T + 1)."""
    points = len(x)
    half, total, counts = max(1, points // TREND_SHARE // 2), sums[0], sums[1]
    total[0] = counts[0] = 0.0
    for i in range(points):
        known = not np.isnan(x[i])
        total[i + 1] = total[i] + (x[i] if known else 0.0)
        counts[i + 1] = counts[i] + (1.0 if known else 0.0)
    for i in range(points):
        start, end = max(i - half, 0), min(i + half + 1, points)
        trend[i] = (total[end] - total[start]) / max(counts[end] - counts[start], 1.0)


@compiled
def try_period(x: F64, lag: float, room: Room, result: F64) -> None:
    """Predict a series (T,) by level and by level with a profile of a period of `lag` values, and compare.

    Puts in `result` (3,) the share of the error that the profile takes away, by how many standard errors that is above
    0, and the share of the variance around the trend that it explains; and the season in the room.
    """
    points = len(x)
    slots: Any = min(np.int64(lag), np.int64(SLOTS))
    first: Any = max(points - np.int64(CYCLES * lag), np.int64(0))
    ratio = slots / lag
    size = (_slot(points - 1 - first, ratio) // slots + 1) * slots
    binned, seasons, flat = room.binned[:size], room.seasons[:size], room.flat[:size]
    _bin(x[first:], ratio, binned)
    _learn_seasons(binned, slots, seasons, room)
    for j in range(size):
        flat[j] = binned[j] - seasons[j]
    _predict(binned, slots, room, room.plain[:size])
    _predict(flat, slots, room, room.seasonal[:size])
    _compare(room.plain[:size], room.seasonal[:size], slots, room.known, result)
    judged = points
    for i in range(points - 1, -1, -1):
        slot = _slot(i - first, ratio)
        room.season[i] = seasons[slot] if slot >= slots else room.profile[slot % slots]
        judged = i if slot >= LEARNED * slots else judged
    result[2] = _strength(x[judged:], room.season[judged:], room)


@compiled
def _slot(i: int, ratio: float) -> Any:
    return np.int64(np.floor(i * ratio + 1e-9))


@compiled
def _bin(x: F64, ratio: float, binned: F64) -> None:
    """The mean of each slot, NaN where it has no value."""
    for j in range(len(binned)):
        binned[j] = np.nan
    total, count, slot = 0.0, 0, 0
    for i in range(len(x) + 1):
        now = _slot(i, ratio) if i < len(x) else -1
        if now != slot:
            if count > 0:
                binned[slot] = total / count
            total, count, slot = 0.0, 0, now
        if i < len(x) and not np.isnan(x[i]):
            total += x[i]
            count += 1


@compiled
def _mean(cycle: F64) -> Any:
    """The mean of a cycle, NaN when it has less than half of its slots."""
    total, count = 0.0, 0
    for j in range(len(cycle)):
        if not np.isnan(cycle[j]):
            total += cycle[j]
            count += 1
    return total / max(count, 1) if 2 * count >= len(cycle) else np.nan


@compiled
def _learn_seasons(binned: F64, slots: int, seasons: F64, room: Room) -> None:
    """For each cycle the profile of the cycles before it, and the last profile in the room.

    The shape of a cycle is what is left without its mean, and without the slope between the means of two cycles: else
    a plain trend would look like a saw tooth.
    """
    profile, seen = room.profile, room.seen
    for j in range(slots):
        profile[j] = seen[j] = 0.0
    mean, later = _mean(binned[:slots]), _mean(binned[slots : 2 * slots])
    slope = later - mean
    for begin in range(0, len(binned), slots):
        if begin > 0:
            later = _mean(binned[begin : begin + slots])
            slope, mean = later - mean, later
        if np.isnan(slope):
            slope = 0.0
        for j in range(slots):
            seasons[begin + j] = profile[j]
            shape = binned[begin + j] - mean - slope * ((j + 0.5) / slots - 0.5)
            if not np.isnan(shape):
                seen[j] += 1.0
                profile[j] += max(1.0 / seen[j], CYCLE_WEIGHT) * (shape - profile[j])


@compiled
def _predict(flat: F64, slots: int, room: Room, best: F64) -> None:
    """Absolute errors of the best level, a horizon ahead, in the cycles that are judged."""
    begin, ahead = LEARNED * slots, max(1, slots // HORIZON)
    known, levels, errors, least = room.known, room.level, room.errors, np.inf
    _fill(flat, known)
    for weight in LEVEL_WEIGHTS:
        level, total = known[0], 0.0
        for j in range(len(flat)):
            level = weight * known[j] + (1.0 - weight) * level
            levels[j] = level
        for j in range(begin, len(flat)):
            errors[j] = abs(flat[j] - levels[j - ahead])
            total += 0.0 if np.isnan(errors[j]) else errors[j]
        if total < least:
            least = total
            for j in range(begin, len(flat)):
                best[j] = errors[j]


@compiled
def _fill(x: F64, filled: F64) -> None:
    """Fill gaps with the value before them, or the first one after."""
    last = 0.0
    for j in range(len(x) - 1, -1, -1):
        last = last if np.isnan(x[j]) else x[j]
    for j in range(len(x)):
        last = last if np.isnan(x[j]) else x[j]
        filled[j] = last


@compiled
def _compare(plain: F64, seasonal: F64, slots: int, means: F64, result: F64) -> None:
    """The share of the mean absolute error that the season takes away, by how many standard errors it is above 0."""
    before, after, parts, centre, length = 0.0, 0.0, 0, 0.0, slots // PARTS
    for begin in range(LEARNED * slots, len(plain), slots):
        for j in range(begin, begin + slots):
            if not np.isnan(plain[j]):
                before += plain[j]
                after += seasonal[j]
        for part in range(PARTS):
            total, count = 0.0, 0
            for j in range(begin + part * length, begin + (part + 1) * length):
                if not np.isnan(plain[j]):
                    total += plain[j] - seasonal[j]
                    count += 1
            if 2 * count >= length:
                means[parts] = total / count
                centre += means[parts]
                parts += 1
    result[0] = 1.0 - after / before if before > 0 else 0.0
    result[1] = 0.0
    if parts > 2:
        centre /= parts
        variance = 0.0
        for part in range(parts):
            variance += (means[part] - centre) ** 2
        error = np.sqrt(variance / (parts - 1) / parts) * (1.0 + FEW_PARTS / parts)
        result[1] = centre / max(error, 1e-12)


@compiled
def _strength(x: F64, season: F64, room: Room) -> Any:
    """The share of the variance around the trend that a season explains; at each point, so comparable."""
    trend, slow = room.trends[0][: len(x)], room.trends[1][: len(x)]
    trend_of(x, trend, room.sums)
    trend_of(season, slow, room.sums)
    whole, left = 0.0, 0.0
    for i in range(len(x)):
        if not np.isnan(x[i]):
            off = x[i] - trend[i]
            whole += off * off
            left += (off - (season[i] - slow[i])) ** 2
    return min(max(1.0 - left / whole, 0.0), 1.0) if whole > 0 else 1.0
