"""What is remembered of the excursions of a series, and how large and how far its jobs usually are."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.jobtimes import NONE, Table
from otel_aiops.otlp.points import F64, I32, I64, Bool

JOBS = 3  # of a series
RECENT = 9  # excursions that are not yet explained
NO_JOB = 255
JUST_BORN = 3  # occurrences of a job that nothing was known of before
WEIGHT = 0.3  # of the newest occurrence, for size and mark
MOST_VALUE = 3e38  # of float32

COLUMNS: dict[str, tuple[Any, tuple[int, ...], Any]] = {
    "recent": (np.uint32, (RECENT,), 0),  # local seconds, newest first; an odd number is an excursion upwards
    "newest": (np.uint32, (), 0),  # second of the newest point over the threshold
    "interval_s": (np.float32, (), 0),
    "current": (np.uint8, (), NO_JOB),  # the job that the current excursion is
    "peak": (np.float16, (), 0),  # of the current excursion
    "wake": (np.uint32, (), 0),  # second from which on a point below the threshold may matter to a job
    "kind": (np.uint8, (JOBS,), NONE),
    "last": (np.uint32, (JOBS,), 0),  # when it began last: a second of UTC for EVERY, else of the local clock
    "period_s": (np.uint32, (JOBS,), 0),  # of EVERY
    "lasts_s": (np.uint16, (JOBS,), 0),
    "count": (np.uint8, (JOBS,), 0),
    "misses": (np.uint8, (JOBS,), 0),
    "up": (np.bool_, (JOBS,), 0),
    "size": (np.float16, (JOBS,), 0),
    "mark": (np.float32, (JOBS,), np.nan),  # the value that says that it has come, halfway from what is usual
}
WIDE = ("recent", "newest", "last", "period_s", "lasts_s", "wake")


@dataclass(frozen=True, slots=True)
class Seen:
    """K points that are over the threshold, at most one a row; all (K,).

    `up` says whether the value is above what was `usual`, `size` how far (any unit, such as the score), `interval_s`
    the time since the point before (NaN when not known). Points that are `quiet` are not over the threshold: they only
    tell that a job has come.
    """

    rows: I32
    time_ns: I64
    interval_s: F64
    up: Bool
    size: F64
    value: F64
    usual: F64
    quiet: Bool

    def at(self, k: NDArray[np.intp]) -> Seen:
        """Some of the points."""
        return Seen(*(getattr(self, field.name)[k] for field in fields(self)))


def usual_size(table: Table) -> F64:
    """How large the next occurrence of each job would usually be, (K, JOBS), with the current one taken in."""
    weight = np.where(table["count"] <= JUST_BORN, 1.0, WEIGHT)
    size = table["size"].astype(np.float64)
    now = table["current"][:, None] == np.arange(JOBS)
    usual: F64 = size + np.where(now, weight * (table["peak"].astype(np.float64)[:, None] - size), 0.0)
    return usual


def learn_marks(table: Table, seen: Seen, began: Bool) -> None:
    """Learn in place how far the jobs go that the points belong to; `began` are the first points of an occurrence.

    The mark of a job is halfway from what was usual to its farthest value; a job that is smaller now moves it at once.
    """
    halfway = np.clip(seen.value / 2 + seen.usual / 2, -MOST_VALUE, MOST_VALUE)
    k = np.flatnonzero((table["current"] != NO_JOB) & ~seen.quiet & np.isfinite(halfway))
    j, halfway = table["current"][k], halfway[k]
    mark, sign = table["mark"][k, j].astype(np.float64), np.where(table["up"][k, j], 1.0, -1.0)
    weight = np.where(table["count"][k, j] <= JUST_BORN, 1.0, WEIGHT)
    with np.errstate(invalid="ignore"):
        farther = sign * (halfway - mark) > 0
        short = began[k] & ~(sign * (np.clip(seen.value[k], -MOST_VALUE, MOST_VALUE) - mark) >= 0)
    moved = np.where(farther, mark + weight * (halfway - mark), mark)
    table["mark"][k, j] = np.where(short, halfway, moved)
