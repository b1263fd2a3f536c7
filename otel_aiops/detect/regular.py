"""Which excursions stand regularly: at one time of day, of the week, or at equal distances, and not by chance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.jobtimes import DAILY, DAY, DAYS, NONE, WEEKLY, WORKDAYS, weekday
from otel_aiops.otlp.points import F64, I64, Bool

LEAST_POINTS = 4.0  # between two occurrences of a job
LONGEST_PERIOD_S = 13 * 3600.0  # what is rarer is learned by its time of day
PERIOD_TOLERANCE = 0.02  # of a period, for a known job and for four regular excursions
STRICT = 0.57  # of that tolerance, for three: the same point when points are far apart
PERIOD_POINTS = 1.05  # the same for a period: one point earlier or later
# The share of random excursions that would fit by chance; over it, there is more evidence wanted.
CHANCE_OF_DAY = 0.1
CHANCE_OF_THREE = 0.08
CHANCE_OF_FOUR = 0.15


def day_kind(past: I64, alike: Bool, local: I64, tolerance_s: F64) -> tuple[I64, Bool]:
    """(the kind of job by time of day that K excursions complete, which of the recent ones it is made of)."""
    since_s = local[:, None] - past
    days = (since_s + DAY // 2) // DAY
    same = alike & (np.abs(since_s - days * DAY) <= tolerance_s[:, None]) & (days > 0)

    def seen(ago: int) -> Bool:
        found: Bool = (same & (days == ago)).any(axis=1)
        return found

    day = weekday(local)
    running = seen(1) & seen(2)
    monday, tuesday = seen(3) & seen(4) & (day == 0), seen(1) & seen(4) & (day == 1)
    some_weekend = (day >= 5) | (day <= 1)  # one of the three running days is Saturday or Sunday
    kind = np.where(seen(7) & seen(14), WEEKLY, NONE)
    kind = np.where(monday | tuesday, WORKDAYS, kind)
    kind = np.where(running, np.where(some_weekend, DAILY, DAYS), kind)
    # How many random excursions would stand in the tolerance, at the rate of those that do not fit.
    span_s = np.maximum(np.where(alike, since_s, 0).max(axis=1), 1)
    chance = -np.expm1(-2 * tolerance_s * (alike & ~same).sum(axis=1) / span_s)
    return np.where(chance <= CHANCE_OF_DAY, kind, NONE), same


def period_of(past: I64, alike: Bool, local: I64, interval_s: NDArray[Any], shortest_s: float) -> I64:
    """The period of K excursions that stand at equal distances from the ones before them, 0 where they do not."""
    chain = np.column_stack([local, past[:, :3]])
    first, second, third = (chain[:, i] - chain[:, i + 1] for i in range(3))
    tolerance_s = period_tolerance_s(first[:, None], interval_s)[:, 0]
    allowed = (first >= np.maximum(shortest_s, LEAST_POINTS * interval_s)) & (first <= LONGEST_PERIOD_S)
    chance = 2 * tolerance_s / np.maximum(first, 1)
    off_s = np.where(alike[:, :2].all(axis=1), np.abs(first - second), np.inf)
    three = (off_s <= STRICT * tolerance_s) & (STRICT * chance <= CHANCE_OF_THREE)
    four = (off_s <= tolerance_s) & alike[:, 2] & (np.abs(second - third) <= tolerance_s) & (chance <= CHANCE_OF_FOUR)
    found = allowed & (three | four)
    return np.where(found, (chain[:, 0] - chain[:, 2]) // 2, 0)


def period_tolerance_s(period_s: I64, interval_s: NDArray[Any]) -> F64:
    """How far from its time an excursion may begin that keeps its distance, as (K, any) with `interval_s` (K,)."""
    tolerance_s: F64 = np.maximum(PERIOD_TOLERANCE * period_s, PERIOD_POINTS * interval_s[:, None].astype(np.float64))
    return tolerance_s
