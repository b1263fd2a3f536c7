"""Times of recurring jobs: their kinds, when each is due next on its own clock, and what to say of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.calendar import EPOCH_WEEKDAY
from otel_aiops.detect.zones import SECOND_NS
from otel_aiops.otlp.points import I64, Bool

DAY = 86_400
# Kinds of jobs. DAYS was seen on work days only so far; the first weekend decides whether it is DAILY or WORKDAYS.
NONE, DAILY, DAYS, WORKDAYS, WEEKLY, EVERY = range(6)
WEEK = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
NAMES = ("", "every day", "every day", "every work day", "every week", "every")
LATEST = 2**32 - 2
FIELDS = ("job", "kind", "last", "period_s", "count")

Table = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Told:
    """Which job each of K points belongs to, as it was known before these points; all (K,).

    `job` numbers the jobs of a row, -1 is none and then the others mean nothing. `last` is a second of UTC for jobs
    that keep their distance, else of the local clock.
    """

    job: I64
    kind: I64
    last: I64
    period_s: I64
    count: I64

    @classmethod
    def nothing(cls, points: int) -> Told:
        """No point belongs to any job."""
        return cls(np.full(points, -1, np.int64), *(np.zeros(points, np.int64) for _ in FIELDS[1:]))

    @classmethod
    def of(cls, table: Table, which: Bool) -> Told:
        """The first job of each row for which `which` (K, JOBS) is true."""
        k = np.arange(len(which))
        j = np.argmax(which, axis=1)
        fields = (table[name][k, j].astype(np.int64) for name in FIELDS[1:])
        return cls(np.where(which.any(axis=1), j, -1), *fields)

    @property
    def some(self) -> Bool:
        """Which points belong to a job."""
        found: Bool = self.job >= 0
        return found

    def updated(self, k: NDArray[np.intp], other: Told) -> Told:
        """The same with what another one says of the points k."""
        for name in FIELDS:
            getattr(self, name)[k] = getattr(other, name)[k]
        return self

    def spread(self, k: NDArray[np.intp], points: int) -> Told:
        """The same of a batch of so many points, of which these are the points k."""
        whole = Told.nothing(points)
        for name in FIELDS:
            getattr(whole, name)[k] = getattr(self, name)
        return whole

    def words(self, k: int) -> str:
        """The job of point k, how often it was seen and when it came last."""
        kind, last = int(self.kind[k]), int(self.last[k])
        at = datetime.fromtimestamp(last, UTC)
        name = when(kind, last, int(self.period_s[k]))
        return f"the job that runs {name} (seen {self.count[k]} times, last {at:%Y-%m-%d %H:%M})"


def when(kind: int, last: int, period_s: int) -> str:
    """When a job runs, in words; times of day are those of the local clock.

    >>> when(WEEKLY, 6 * 3600, 0), when(EVERY, 0, 5400)
    ('every week on Thu at 06:00', 'every 90 min')
    """
    if kind == EVERY:
        return f"every {period_s / 60:.0f} min"
    day = f" on {WEEK[(last // DAY + EPOCH_WEEKDAY) % 7]}" * (kind == WEEKLY)
    return f"{NAMES[kind]}{day} at {last % DAY // 3600:02}:{last % 3600 // 60:02}"


def clock(table: Table, utc: I64, local: I64) -> I64:
    """The time of K rows on the clock of each job, (K, JOBS)."""
    return np.where(table["kind"] == EVERY, utc[:, None], local[:, None])


def due(table: Table) -> I64:
    """When each job begins next, on its own clock, (K, JOBS)."""
    found: I64 = table["last"] + gap_s(table)
    return found


def gap_s(table: Table) -> I64:
    """From its last occurrence to the next, (K, JOBS); never 0."""
    kind = table["kind"]
    day = weekday(table["last"])
    to_workday = np.where(day < 4, 1, 7 - day)
    days = np.where(kind == WEEKLY, 7, np.where(kind == WORKDAYS, to_workday, 1))
    return np.where(kind == EVERY, np.maximum(table["period_s"], 1), days * DAY)


def weekday(second: I64) -> I64:
    """0 for Monday."""
    return (second // DAY + EPOCH_WEEKDAY) % 7


def second_of(time_ns: I64) -> I64:
    """Whole seconds, within what 32 bits hold."""
    return np.clip(time_ns // SECOND_NS, 0, LATEST)
