"""Trials of periods: whether a level with a seasonal profile predicts later values of a series better than without."""

from __future__ import annotations

from typing import Any

import numpy as np

from otel_aiops.detect.compiled import compiled
from otel_aiops.detect.trends import trend_of
from otel_aiops.otlp.points import F64

SLOTS = 168  # of a profile, at most
HORIZON = 4  # both models predict such a part of a period ahead, or a level that is quick would do for a season
LEARNED = 2  # cycles before the first prediction
CYCLES = 60  # the newest are used
CYCLE_WEIGHT = 0.1  # of the newest cycle, when there are many
LEVEL_WEIGHTS = (1.0, 0.3, 0.1, 0.03)  # of the newest slot; each model has the best of them
PARTS = 4  # of a cycle, in which the differences of errors are averaged before they are compared
FEW_PARTS = 4.0  # with so many, twice the significance is asked for


ROOM = 9  # arrays that a trial writes to


def room_for(points: int) -> F64:
    """Room for trials of series of so many values."""
    return np.empty((ROOM, points + SLOTS))


@compiled
def try_period(x: F64, lag: float, season: F64, result: F64, room: F64) -> None:
    """Predict a series (T,) by level and by level with a profile of a period of `lag` values, and compare.

    Puts in `result` (3,) the share of the error that the profile takes away, by how many standard errors that is above
    0, and the share of the variance around the trend that it explains; in `season` (T,) what it adds to each value.
    """
    points = len(x)
    slots: Any = min(np.int64(lag), np.int64(SLOTS))
    first: Any = max(points - np.int64(CYCLES * lag), np.int64(0))
    ratio = slots / lag
    size = (_slot(points - 1 - first, ratio) // slots + 1) * slots
    binned, seasons, plain, seasonal = room[0][:size], room[1][:size], room[2][:size], room[3][:size]
    profile = room[4][:slots]
    _bin(x[first:], ratio, binned)
    _learn_seasons(binned, seasons, profile, room[5])
    _predict(binned, slots, plain, room[5:])
    flat = room[8][:size]
    for j in range(size):
        flat[j] = binned[j] - seasons[j]
    _predict(flat, slots, seasonal, room[5:])
    _compare(plain, seasonal, slots, room[5], result)
    judged = points
    for i in range(points - 1, -1, -1):
        slot = _slot(i - first, ratio)
        season[i] = seasons[slot] if slot >= slots else profile[slot % slots]
        judged = i if slot >= LEARNED * slots else judged
    result[2] = _strength(x[judged:], season[judged:], room)


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
def _learn_seasons(binned: F64, seasons: F64, profile: F64, seen: F64) -> None:
    """For each cycle the profile of the cycles before it, and the last profile.

    The shape of a cycle is what is left without its mean, and without the slope between the means of two cycles: else
    a plain trend would look like a saw tooth.
    """
    slots = len(profile)
    before = 2 * _mean(binned[:slots]) - _mean(binned[slots : 2 * slots])  # the first slope is that after it
    for j in range(slots):
        profile[j] = seen[j] = 0.0
    for begin in range(0, len(binned), slots):
        mean = _mean(binned[begin : begin + slots])
        slope = mean - before if not np.isnan(mean - before) else 0.0
        before = mean
        for j in range(slots):
            seasons[begin + j] = profile[j]
            shape = binned[begin + j] - mean - slope * ((j + 0.5) / slots - 0.5)
            if not np.isnan(shape):
                seen[j] += 1.0
                profile[j] += max(1.0 / seen[j], CYCLE_WEIGHT) * (shape - profile[j])


@compiled
def _predict(flat: F64, slots: int, errors: F64, room: F64) -> None:
    """Absolute errors of the best level, a horizon ahead, in the cycles that are judged."""
    known, levels = room[0], room[1]
    _fill(flat, known)
    best, least = 0.0, np.inf
    for weight in LEVEL_WEIGHTS:
        total = _level_errors(flat, slots, weight, known, levels, errors)
        if total < least:
            best, least = weight, total
    _level_errors(flat, slots, best, known, levels, errors)


@compiled
def _level_errors(flat: F64, slots: int, weight: float, known: F64, levels: F64, errors: F64) -> Any:
    """The same of the level with one weight of the newest slot; returns their sum."""
    begin, ahead = LEARNED * slots, max(1, slots // HORIZON)
    level, total = known[0], 0.0
    for j in range(len(flat)):
        level = weight * known[j] + (1.0 - weight) * level
        levels[j] = level
    for j in range(begin, len(flat)):
        errors[j] = abs(flat[j] - levels[j - ahead])
        total += 0.0 if np.isnan(errors[j]) else errors[j]
    return total


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
def _strength(x: F64, season: F64, room: F64) -> Any:
    """The share of the variance around the trend that a season explains; at each point, so comparable."""
    trend, slow, sums = room[0][: len(x)], room[1][: len(x)], room[2:4]
    trend_of(x, trend, sums)
    trend_of(season, slow, sums)
    whole, left = 0.0, 0.0
    for i in range(len(x)):
        if not np.isnan(x[i]):
            off = x[i] - trend[i]
            whole += off * off
            left += (off - (season[i] - slow[i])) ** 2
    return min(max(1.0 - left / whole, 0.0), 1.0) if whole > 0 else 1.0
