"""Recurring jobs: three regular excursions of a series tell of a fourth, and when it does not come, that is noticed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.calendar import EPOCH_WEEKDAY, Calendar
from otel_aiops.detect.zones import SECOND_NS
from otel_aiops.errors import ConfigError, StateError
from otel_aiops.otlp.points import F64, I32, I64, Bool
from otel_aiops.series.columns import Columns, checked

DAY = 86_400
# Kinds of jobs. DAYS was seen on work days only so far; the first weekend decides whether it is DAILY or WORKDAYS.
NONE, DAILY, DAYS, WORKDAYS, WEEKLY, EVERY = range(6)
WEEK = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
NAMES = ("", "every day", "every day", "every work day", "every week", "every")
JOBS = 3  # of a series
RECENT = 9  # excursions that are not yet explained
NO_JOB = 255

GAP_S = 120.0  # excursions nearer than this, or than GAP_POINTS, are one
GAP_POINTS = 2.5
LEAST_POINTS = 4.0  # between two occurrences of a job
LONGEST_PERIOD_S = 13 * 3600.0  # what is rarer is learned by its time of day
PERIOD_TOLERANCE = 0.02  # of a period, for a known job and for four regular excursions
STRICT = 0.57  # of that tolerance, for three: the same point when points are far apart
POINT_TOLERANCE = 0.75  # of the time between points, for a time of day
PERIOD_POINTS = 1.05  # the same for a period: one point earlier or later
# The share of random excursions that would fit by chance; over it, there is more evidence wanted.
CHANCE_OF_DAY = 0.1
CHANCE_OF_THREE = 0.08
CHANCE_OF_FOUR = 0.15
MISSES = 2  # in a row end a job
SIZE_WEIGHT = 0.3  # of the newest
SIZES = 3.0  # times the usual size that is still the job
LONGEST_PART = 0.25  # of its period that an occurrence may last
LATEST = 2**32 - 2
MOST_SIZE = 60_000.0  # of float16

COLUMNS: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "recent": (np.uint32, (RECENT,), 0),  # local seconds, newest first; an odd number is an excursion upwards
    "newest": (np.uint32, (), 0),  # second of the newest point over the threshold
    "interval_s": (np.float32, (), 0),
    "current": (np.uint8, (), NO_JOB),  # the job that the current excursion is
    "kind": (np.uint8, (JOBS,), NONE),
    "last": (np.uint32, (JOBS,), 0),  # when it began last: a second of UTC for EVERY, else of the local clock
    "period_s": (np.uint32, (JOBS,), 0),  # of EVERY
    "lasts_s": (np.uint16, (JOBS,), 0),
    "count": (np.uint8, (JOBS,), 0),
    "misses": (np.uint8, (JOBS,), 0),
    "up": (np.bool_, (JOBS,), 0),
    "size": (np.float16, (JOBS,), 0),
}
Table = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class JobsConfig:
    """How punctual a recurring job must be."""

    tolerance: float = 300.0  # how far from its usual time of day a job may begin
    shortest_period: float = 600.0  # what recurs faster is a season, not a job
    missed_after: int = 4  # occurrences before the absence of the next one is worth a word

    def __post_init__(self) -> None:
        if not 1 <= self.tolerance <= 7200:
            raise ConfigError("tolerance", f"must be in 1 s .. 2 h, got {self.tolerance}")
        if not 60 <= self.shortest_period <= LONGEST_PERIOD_S:
            raise ConfigError("shortest_period", f"must be in 1 min .. 13 h, got {self.shortest_period}")
        if not 3 <= self.missed_after <= 100:
            raise ConfigError("missed_after", f"must be in 3 .. 100, got {self.missed_after}")


class Jobs:
    """Recurring excursions of many series, in at most 96 bytes each.

    An excursion that no job explains is remembered. When three of them stand at the same local time of three days
    (running days, or work days), at the same time of three weeks, or directly after one another at equal distances,
    they are a job. It keeps its time of day when the clocks change; what recurs within 13 hours keeps its distance.
    """

    def __init__(self, config: JobsConfig, calendar: Calendar) -> None:
        self.config = config
        self._calendar = calendar
        self._columns = Columns(COLUMNS)
        self._size = 0

    @property
    def bytes_per_series(self) -> int:
        """What is remembered of one series."""
        return sum(array.itemsize * math.prod(array.shape[1:]) for array in self._columns.of.values())

    def observe(self, rows: I32, time_ns: I64, *, up: Bool, size: F64, interval_s: F64) -> None:
        """Take in K points that are over the threshold, at most one a row; those after one another are one excursion.

        Shape: all (K,). `up` says whether the value is above what was expected, `size` how far (any unit, such as the
        score), `interval_s` the time since the point before (NaN when not known).
        """
        if not len(rows):
            return
        self._reserve(rows)
        table = self._read(rows)
        utc, local = self._seconds(rows, time_ns)
        known = interval_s > 0
        table["interval_s"][known] = interval_s[known]
        gap_s = np.maximum(GAP_S, GAP_POINTS * table["interval_s"])
        goes_on = (table["newest"] > 0) & (np.abs(utc - table["newest"]) <= gap_s)
        table["newest"] = utc
        size = np.where(np.isfinite(size), np.clip(size, 0.0, MOST_SIZE), MOST_SIZE)
        table["current"][~goes_on] = NO_JOB
        self._lengthen(table, utc, local)
        fits = ~goes_on[:, None] & self._fits(table, utc, local) & (table["up"] == up[:, None])
        self._recur(table, fits, utc, local, size)
        new = np.flatnonzero(~goes_on & ~fits.any(axis=1))
        if len(new):
            part = {name: column[new] for name, column in table.items()}
            self._begin(part, utc[new], local[new], up[new], size[new])
            for name, column in part.items():
                table[name][new] = column
        self._write(rows, table)

    def expected(self, rows: I32, time_ns: I64, *, up: Bool | None = None, size: F64 | None = None) -> Bool:
        """Whether an excursion of K rows at K times would be a known job, (K,).

        With `up` only one of that direction, with `size` only one that is at most three times as large as usual.
        """
        found = np.zeros(len(rows), np.bool_)
        some = self._with_jobs(rows)
        if not len(some):
            return found
        table = self._read(rows[some])
        utc, local = self._seconds(rows[some], time_ns[some])
        fits = self._fits(table, utc, local) | self._during(table, utc, local)
        if up is not None:
            fits &= table["up"] == up[some, None]
        if size is not None:
            with np.errstate(invalid="ignore"):
                fits &= size[some, None] <= SIZES * table["size"]
        found[some] = fits.any(axis=1)
        return found

    def missed(self, rows: I32, time_ns: I64, interval_s: F64 | None = None) -> Bool:
        """Whether a job of K rows that have a point now should have begun and did not, (K,); said once a time.

        Call it with every batch: it also ends jobs that do not come any more. Nothing is said when the row had no
        points at that time (`interval_s` is the time since its last one), or when the clocks have just changed.
        """
        found = np.zeros(len(rows), np.bool_)
        some = self._with_jobs(rows)
        if not len(some):
            return found
        table = self._read(rows[some])
        utc, local = self._seconds(rows[some], time_ns[some])
        late_s = _clock(table, utc, local) - _due(table) - self._tolerance_s(table)
        early = late_s < -2 * _gap_s(table)  # from a clock that was wrong
        late = (table["kind"] != NONE) & (late_s > 0)
        if not (late | early).any():
            return found
        table["kind"][early] = NONE
        weekend = late & (table["kind"] == DAYS) & (_weekday(_due(table)) >= 5)
        table["kind"][weekend] = WORKDAYS
        late &= ~weekend
        unseen = late_s > np.minimum(_gap_s(table), DAY)
        if interval_s is not None:
            silence_s = np.maximum(self._tolerance_s(table), GAP_POINTS * table["interval_s"][:, None])
            unseen |= interval_s[some, None] > silence_s
        before = self._seconds(rows[some], time_ns[some] - (DAY + 3600) * SECOND_NS)
        moved = (local - utc) != (before[1] - before[0])
        unseen |= moved[:, None] & (table["kind"] != EVERY)
        counted = late & ~unseen
        found[some] = (counted & (table["count"] >= self.config.missed_after)).any(axis=1)
        steps = np.where(table["kind"] == WORKDAYS, 1, 1 + np.maximum(late_s, 0) // _gap_s(table))
        table["last"] = np.where(late, table["last"] + steps.astype(np.int64) * _gap_s(table), table["last"])
        table["misses"] = table["misses"] + counted
        table["kind"][table["misses"] >= MISSES] = NONE
        self._write(rows[some], table)
        return found

    def note(self, row: int) -> str:
        """The jobs of a series in words, empty when there are none.

        >>> Jobs(JobsConfig(), Calendar()).note(3)
        ''
        """
        if row >= self._size:
            return ""
        table = {name: column[0] for name, column in self._read(np.array([row], np.int32)).items()}
        words = []
        for j in np.flatnonzero(table["kind"] != NONE):
            kind, last = int(table["kind"][j]), int(table["last"][j])
            if kind == EVERY:
                words.append(f"every {table['period_s'][j] / 60:.0f} min")
                continue
            day = f" on {WEEK[(last // DAY + EPOCH_WEEKDAY) % 7]}" * (kind == WEEKLY)
            words.append(f"{NAMES[kind]}{day} at {last % DAY // 3600:02}:{last % 3600 // 60:02}")
        return ", ".join(words)

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series start anew."""
        self._columns.clear(rows[rows < self._size])

    def state(self) -> Table:
        """Copies of everything learned."""
        return self._columns.state(self._size)

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over a state. Raises: StateError."""
        checked(arrays, self._columns.saved())
        if (arrays["kind"] > EVERY).any() or ((arrays["current"] >= JOBS) & (arrays["current"] != NO_JOB)).any():
            raise StateError(f"expected kinds of jobs up to {EVERY} and {JOBS} jobs a series, got others")
        self._size = len(arrays["newest"])
        self._columns.restore(arrays, self._size)

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _reserve(self, rows: I32) -> None:
        self._size = max(self._size, int(rows.max()) + 1)
        self._columns.reserve(self._size)

    def _with_jobs(self, rows: I32) -> I64:
        """Which of K rows have any job: most have none, and cost nothing."""
        known = np.flatnonzero(rows < self._size)
        return known[self._columns.of["kind"][rows[known]].any(axis=1)]

    def _read(self, rows: I32) -> Table:
        """All columns of K rows; whole numbers as int64, so that differences have signs."""
        table = {name: column[rows] for name, column in self._columns.of.items()}
        wide = ("recent", "newest", "last", "period_s", "lasts_s")
        return {name: column.astype(np.int64) if name in wide else column for name, column in table.items()}

    def _write(self, rows: I32, table: Table) -> None:
        for name, column in self._columns.of.items():
            column[rows] = table[name]

    def _seconds(self, rows: I32, time_ns: I64) -> tuple[I64, I64]:
        """(seconds of UTC, seconds of the local clock) of K points."""
        local = self._calendar.local_ns(rows, time_ns)
        return _second(time_ns), _second(local)

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def _tolerance_s(self, table: Table) -> F64:
        """How far from its time each job may begin, (K, JOBS)."""
        of_day = np.maximum(self.config.tolerance, POINT_TOLERANCE * table["interval_s"])[:, None]
        return np.where(table["kind"] == EVERY, _period_tolerance_s(table["period_s"], table["interval_s"]), of_day)

    def _fits(self, table: Table, utc: I64, local: I64) -> Bool:
        """Whether K times are in the next occurrence of each job, (K, JOBS)."""
        return self._within(table, _clock(table, utc, local) - _due(table))

    def _during(self, table: Table, utc: I64, local: I64) -> Bool:
        """Whether K times are in the last occurrence of each job, (K, JOBS)."""
        return self._within(table, _clock(table, utc, local) - table["last"])

    def _within(self, table: Table, since_s: I64) -> Bool:
        early, late = -self._tolerance_s(table), table["lasts_s"] + self._tolerance_s(table)
        found: Bool = (table["kind"] != NONE) & (since_s >= early) & (since_s <= late)
        return found

    def _lengthen(self, table: Table, utc: I64, local: I64) -> None:
        """Learn in place how long the current excursions last that are jobs."""
        k = np.flatnonzero(table["current"] != NO_JOB)
        j = table["current"][k]
        since_s = (_clock(table, utc, local) - table["last"])[k, j]
        longest_s = np.minimum(LONGEST_PART * _gap_s(table)[k, j], np.iinfo(np.uint16).max)
        table["lasts_s"][k, j] = np.clip(since_s, table["lasts_s"][k, j], longest_s)

    def _recur(self, table: Table, fits: Bool, utc: I64, local: I64, size: F64) -> None:
        """Learn in place that the first job that fits, of each row that has one, has come again."""
        k = np.flatnonzero(fits.any(axis=1))
        j = np.argmax(fits[k], axis=1)
        due, tolerance_s = _due(table)[k, j], self._tolerance_s(table)[k, j]
        off_s = np.clip(_clock(table, utc, local)[k, j] - due, -tolerance_s, tolerance_s).astype(np.int64)
        every = table["kind"][k, j] == EVERY
        weekend = (table["kind"][k, j] == DAYS) & (_weekday(due) >= 5)
        table["kind"][k, j] = np.where(weekend, DAILY, table["kind"][k, j])
        table["last"][k, j] = due + off_s // 2
        table["period_s"][k, j] += np.where(every, off_s // 8, 0)
        table["count"][k, j] = np.minimum(table["count"][k, j].astype(np.int64) + 1, 255)
        table["misses"][k, j] = 0
        usual = table["size"][k, j].astype(np.float64)
        table["size"][k, j] = usual + SIZE_WEIGHT * (size[k] - usual)
        table["current"][k] = j

    def _begin(self, table: Table, utc: I64, local: I64, up: Bool, size: F64) -> None:
        """Make jobs of excursions that complete one, in place, and remember the others."""
        during = self._during(table, utc, local).any(axis=1)  # a job that pauses for a moment is no news
        table["recent"][table["recent"] > (local + DAY)[:, None]] = 0  # from a clock that was wrong
        alike = (table["recent"] > 0) & ((table["recent"] & 1) == up[:, None])
        past = table["recent"] & ~np.int64(1)
        period_s = _period_s(past, alike, local, table["interval_s"], self.config.shortest_period)
        kind, used = self._day_kind(past, alike, local, table["interval_s"])
        regular = period_s > 0
        kind = np.where(regular, EVERY, kind)
        born = np.flatnonzero((kind != NONE) & ~during)
        slot = np.argmin(np.where(table["kind"] == NONE, -1, table["count"].astype(np.int64)), axis=1)[born]
        values: Table = {
            "kind": kind,
            "last": np.where(regular, utc, local),
            "period_s": period_s,
            "lasts_s": np.zeros(len(utc), np.int64),
            "count": np.full(len(utc), 3),
            "misses": np.zeros(len(utc), np.int64),
            "up": up,
            "size": size,
        }
        for name, value in values.items():
            table[name][born, slot] = value[born]
        table["current"][born] = slot
        explained = np.where(regular[:, None], np.arange(RECENT) < 3, used)
        explained[(kind == NONE) | during] = False
        recent = np.where(explained, 0, table["recent"])
        push = (kind == NONE) & ~during
        mark = np.where(push, (local & ~np.int64(1)) | up, 0)
        # Newest first; what is empty goes to the end, the oldest falls off.
        table["recent"] = -np.sort(-np.column_stack([mark, recent]), axis=1)[:, :RECENT]

    def _day_kind(self, past: I64, alike: Bool, local: I64, interval_s: NDArray[Any]) -> tuple[I64, Bool]:
        """(the kind of job by time of day that K excursions complete, which of the recent ones it is made of)."""
        tolerance_s = np.maximum(self.config.tolerance, POINT_TOLERANCE * interval_s)
        since_s = local[:, None] - past
        days = (since_s + DAY // 2) // DAY
        same = alike & (np.abs(since_s - days * DAY) <= tolerance_s[:, None]) & (days > 0)

        def seen(ago: int) -> Bool:
            found: Bool = (same & (days == ago)).any(axis=1)
            return found

        weekday = _weekday(local)
        running = seen(1) & seen(2)
        monday, tuesday = seen(3) & seen(4) & (weekday == 0), seen(1) & seen(4) & (weekday == 1)
        some_weekend = (weekday >= 5) | (weekday <= 1)  # one of the three running days is Saturday or Sunday
        kind = np.where(seen(7) & seen(14), WEEKLY, NONE)
        kind = np.where(monday | tuesday, WORKDAYS, kind)
        kind = np.where(running, np.where(some_weekend, DAILY, DAYS), kind)
        # How many random excursions would stand in the tolerance, at the rate of those that do not fit.
        span_s = np.maximum(np.where(alike, since_s, 0).max(axis=1), 1)
        chance = -np.expm1(-2 * tolerance_s * (alike & ~same).sum(axis=1) / span_s)
        return np.where(chance <= CHANCE_OF_DAY, kind, NONE), same


def _period_s(past: I64, alike: Bool, local: I64, interval_s: NDArray[Any], shortest_s: float) -> I64:
    """The period of K excursions that stand at equal distances from the ones before them, 0 where they do not."""
    chain = np.column_stack([local, past[:, :3]])
    first, second, third = (chain[:, i] - chain[:, i + 1] for i in range(3))
    tolerance_s = _period_tolerance_s(first[:, None], interval_s)[:, 0]
    allowed = (first >= np.maximum(shortest_s, LEAST_POINTS * interval_s)) & (first <= LONGEST_PERIOD_S)
    chance = 2 * tolerance_s / np.maximum(first, 1)
    off_s = np.where(alike[:, :2].all(axis=1), np.abs(first - second), np.inf)
    three = (off_s <= STRICT * tolerance_s) & (STRICT * chance <= CHANCE_OF_THREE)
    four = (off_s <= tolerance_s) & alike[:, 2] & (np.abs(second - third) <= tolerance_s) & (chance <= CHANCE_OF_FOUR)
    found = allowed & (three | four)
    return np.where(found, (chain[:, 0] - chain[:, 2]) // 2, 0)


def _period_tolerance_s(period_s: I64, interval_s: NDArray[Any]) -> F64:
    tolerance_s: F64 = np.maximum(PERIOD_TOLERANCE * period_s, PERIOD_POINTS * interval_s[:, None].astype(np.float64))
    return tolerance_s


def _clock(table: Table, utc: I64, local: I64) -> I64:
    """The time of K rows on the clock of each job, (K, JOBS)."""
    return np.where(table["kind"] == EVERY, utc[:, None], local[:, None])


def _due(table: Table) -> I64:
    """When each job begins next, on its own clock, (K, JOBS)."""
    due: I64 = table["last"] + _gap_s(table)
    return due


def _gap_s(table: Table) -> I64:
    """From its last occurrence to the next, (K, JOBS); never 0."""
    kind = table["kind"]
    weekday = _weekday(table["last"])
    to_workday = np.where(weekday < 4, 1, 7 - weekday)
    days = np.where(kind == WEEKLY, 7, np.where(kind == WORKDAYS, to_workday, 1))
    return np.where(kind == EVERY, np.maximum(table["period_s"], 1), days * DAY)


def _weekday(second: I64) -> I64:
    """0 for Monday."""
    return (second // DAY + EPOCH_WEEKDAY) % 7


def _second(time_ns: I64) -> I64:
    return np.clip(time_ns // SECOND_NS, 0, LATEST)
