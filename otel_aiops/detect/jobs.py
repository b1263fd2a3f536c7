"""Recurring jobs: three regular excursions of a series tell of a fourth, and when it does not come, that is noticed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.calendar import Calendar
from otel_aiops.detect.jobtable import COLUMNS, JOBS, NO_JOB, RECENT, WIDE, Seen, learn_marks, usual_size
from otel_aiops.detect.jobtimes import (
    DAILY,
    DAY,
    DAYS,
    EVERY,
    LATEST,
    NONE,
    WORKDAYS,
    Table,
    Told,
    clock,
    due,
    gap_s,
    second_of,
    weekday,
    when,
)
from otel_aiops.detect.memory import indices
from otel_aiops.detect.regular import LONGEST_PERIOD_S, day_kind, period_of, period_tolerance_s
from otel_aiops.detect.slots import Slots
from otel_aiops.detect.zones import SECOND_NS
from otel_aiops.errors import ConfigError, StateError
from otel_aiops.otlp.points import F64, I32, I64, Bool
from otel_aiops.series.columns import Columns, checked

GAP_S = 120.0  # excursions nearer than this, or than GAP_POINTS, are one
GAP_POINTS = 2.5
POINT_TOLERANCE = 0.75  # of the time between points, for a time of day
MISSES = 2  # in a row end a job
SIZES = 3.0  # times the usual size that is still the job
LONGEST_PART = 0.25  # of its period that an occurrence may last
MOST_SIZE = 60_000.0  # of float16
MOVES_S = 3_700  # how much a clock may be moved before a job is due
IDLE_S = 15 * DAY  # without an excursion for so long, what is remembered tells of no job any more

NO_SLOTS = np.empty(0, np.intp)


@dataclass(frozen=True, slots=True)
class JobsConfig:
    """What recurs punctually is expected: three alike excursions tell of a fourth, and when it does not come."""

    enabled: bool = True  # excursions that are a known job are no anomalies, and its absence is one
    tolerance: float = 300.0  # how far from its usual time of day a job may begin
    shortest_period: float = 600.0  # what recurs faster is a season, not a job
    missed_after: int = 4  # occurrences before the absence of the next one is an anomaly
    max_series: int = 50_000  # series whose excursions are remembered, 115 bytes each once they have one

    def __post_init__(self) -> None:
        if not 1 <= self.tolerance <= 7200:
            raise ConfigError("tolerance", f"must be in 1 s .. 2 h, got {self.tolerance}")
        if not 60 <= self.shortest_period <= LONGEST_PERIOD_S:
            raise ConfigError("shortest_period", f"must be in 1 min .. 13 h, got {self.shortest_period}")
        if not 3 <= self.missed_after <= 100:
            raise ConfigError("missed_after", f"must be in 3 .. 100, got {self.missed_after}")
        if not 0 <= self.max_series < 2**31 - 1:
            raise ConfigError("max_series", f"must be >= 0, got {self.max_series}")


class Jobs:
    """Recurring excursions of many series; those that ever had one take a slot of at most 120 bytes, others 4 bytes.

    An excursion that no job explains is remembered. When three of them stand at the same local time of three days
    (running days, or work days), at the same time of three weeks, or directly after one another at equal distances,
    they are a job. It keeps its time of day when the clocks change; what recurs within 13 hours keeps its distance.
    When all slots are taken, a new series waits until one of the others had no excursion for 15 days.
    """

    def __init__(self, config: JobsConfig, calendar: Calendar) -> None:
        self.config = config
        self._calendar = calendar
        self._columns = Columns(COLUMNS)
        self._slots = Slots(config.max_series)

    def __len__(self) -> int:
        """How many series have a slot."""
        return len(self._slots)

    @property
    def bytes_per_series(self) -> int:
        """What is remembered of one series that had an excursion."""
        return self._columns.bytes_per_row + 4  # and whose slot it is

    @property
    def waited(self) -> int:
        """How many excursions were not remembered, as there was no slot."""
        return self._slots.waited

    def awake(self, rows: I32, time_ns: I64) -> NDArray[np.intp]:
        """Which of K points may matter to a job even if they are not over the threshold."""
        k = self._slots.marked(rows)
        if not len(k):
            return k
        wake = self._columns.of["wake"][self._slots.of(rows[k])]
        return k[second_of(time_ns[k]) >= wake]

    def observe(self, seen: Seen) -> None:
        """Take in points that are over the threshold; those after one another are one excursion."""
        slots, k = self._taken(seen.rows, seen.time_ns)
        if not len(k):
            return
        seen = seen.at(k)
        table = self._read(slots)
        utc, local = self._seconds(seen.rows, seen.time_ns)
        before_s = table["interval_s"]
        most_s = np.where(before_s > 0, 2 * before_s, np.inf)  # the first point after a gap says little
        table["interval_s"] = np.where(seen.interval_s > 0, np.minimum(seen.interval_s, most_s), before_s)
        near_s = np.maximum(GAP_S, GAP_POINTS * table["interval_s"])
        goes_on = (table["newest"] > 0) & (np.abs(utc - table["newest"]) <= near_s)
        table["newest"] = utc
        size = np.where(np.isfinite(seen.size), np.clip(seen.size, 0.0, MOST_SIZE), MOST_SIZE)
        table["size"][~goes_on] = usual_size(table)[~goes_on]
        table["peak"] = np.where(goes_on, np.maximum(table["peak"], size), size)
        table["current"][~goes_on] = NO_JOB
        self._lengthen(table, utc, local)
        unknown = table["current"] == NO_JOB
        # A job may also begin while something else goes on.
        fits = self._fits(table, utc, local) & (table["up"] == seen.up[:, None])
        fits &= unknown[:, None]
        self._recur(table, fits, utc, local, np.where(seen.quiet, np.nan, size))
        new = indices(~goes_on & ~fits.any(axis=1))
        if len(new):
            part = {name: column[new] for name, column in table.items()}
            self._begin(part, utc[new], local[new], seen.up[new], size[new])
            for name, column in part.items():
                table[name][new] = column
        learn_marks(table, seen, unknown)
        self._write(slots, table, utc, local)

    def arrived(self, rows: I32, time_ns: I64, value: F64) -> Told:
        """Which job has come with K points, although they need not be over the threshold.

        What comes again and again is less strange every time. The job has come when the value is beyond the middle
        between what was usual and what the job was like when it was learned.
        """
        k, table = self._with_jobs(rows)
        if not len(k):
            return Told.nothing(len(rows))
        utc, local = self._seconds(rows[k], time_ns[k])
        beyond = np.where(table["up"], value[k, None] >= table["mark"], value[k, None] <= table["mark"])
        return Told.of(table, self._fits(table, utc, local) & beyond).spread(k, len(rows))

    def expected(self, rows: I32, time_ns: I64, *, up: Bool | None = None, size: F64 | None = None) -> Told:
        """Which job an excursion of K rows at K times would be.

        With `up` only one of that direction, with `size` only one that is at most three times as large as usual.
        """
        k, table = self._with_jobs(rows)
        if not len(k):
            return Told.nothing(len(rows))
        utc, local = self._seconds(rows[k], time_ns[k])
        next_one, this_one = self._fits(table, utc, local), self._during(table, utc, local)
        if up is not None:
            next_one &= table["up"] == up[k, None]
            this_one &= (table["up"] == up[k, None]) | (table["current"][:, None] == np.arange(JOBS))
        if size is not None:
            with np.errstate(invalid="ignore"):
                next_one &= size[k, None] <= SIZES * usual_size(table)
                this_one &= size[k, None] <= SIZES * table["size"]
        return Told.of(table, next_one | this_one).spread(k, len(rows))

    def missed(self, rows: I32, time_ns: I64, interval_s: F64 | None = None) -> Told:
        """Which job of K rows that have a point now should have begun and did not; said once a time.

        Call it with every batch: it also ends jobs that do not come any more. Nothing is said when the row had no
        points at that time (`interval_s` is the time since its last one), or when the clocks have just changed.
        """
        k, table = self._with_jobs(rows)
        if not len(k):
            return Told.nothing(len(rows))
        utc, local = self._seconds(rows[k], time_ns[k])
        late_s = clock(table, utc, local) - due(table) - self._tolerance_s(table)
        early = late_s < -2 * gap_s(table)  # from a clock that was wrong
        late = (table["kind"] != NONE) & (late_s > 0)
        if not (late | early).any():
            return Told.nothing(len(rows))
        table["kind"][early] = NONE
        weekend = late & (table["kind"] == DAYS) & (weekday(due(table)) >= 5)
        table["kind"][weekend] = WORKDAYS
        late &= ~weekend
        counted = late & ~self._unseen(table, late_s, (rows[k], time_ns[k], local - utc), interval_s, k)
        found = Told.of(table, counted & (table["count"] >= self.config.missed_after))
        steps = np.where(table["kind"] == WORKDAYS, 1, 1 + np.maximum(late_s, 0) // gap_s(table))
        table["last"] = np.where(late, table["last"] + steps.astype(np.int64) * gap_s(table), table["last"])
        table["misses"] = table["misses"] + counted
        table["kind"][table["misses"] >= MISSES] = NONE
        self._write(self._slots.of(rows[k]), table, utc, local)
        return found.spread(k, len(rows))

    def _unseen(
        self, table: Table, late_s: F64, at: tuple[I32, I64, I64], interval_s: F64 | None, k: NDArray[np.intp]
    ) -> Bool:
        """Whether nobody can know if the jobs of K rows came; `at` is (rows, times, what local clocks are ahead)."""
        rows, time_ns, ahead_s = at
        unseen: Bool = late_s > np.minimum(gap_s(table), DAY)
        if interval_s is not None:
            silence_s = np.maximum(self._tolerance_s(table), GAP_POINTS * table["interval_s"][:, None])
            unseen |= interval_s[k, None] > silence_s
        before = self._seconds(rows, time_ns - (DAY + 3600) * SECOND_NS)
        moved = ahead_s != before[1] - before[0]
        unseen |= moved[:, None] & (table["kind"] != EVERY)
        return unseen

    def note(self, row: int) -> str:
        """The jobs of a series in words, empty when there are none.

        >>> Jobs(JobsConfig(), Calendar()).note(3)
        ''
        """
        k, table = self._with_jobs(np.array([row], np.int32))
        kinds = table["kind"][0].tolist() if len(k) else []
        words = (when(kind, *(int(table[name][0, j]) for name in ("last", "period_s"))) for j, kind in enumerate(kinds))
        return ", ".join(one for kind, one in zip(kinds, words, strict=True) if kind != NONE)

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series start anew."""
        self._columns.clear(self._slots.forget(rows))

    def state(self) -> Table:
        """Copies of everything learned."""
        return {**self._columns.state(self._slots.used), **self._slots.state()}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over a state; one without any arrays, as from before there were jobs, is empty. Raises: StateError."""
        self._columns, self._slots = Columns(COLUMNS), Slots(self.config.max_series)
        if not arrays:
            return
        row = {name: array for name, array in arrays.items() if name == "row"}
        rest = {name: array for name, array in arrays.items() if name != "row"}
        checked(rest, self._columns.saved())
        if (rest["kind"] > EVERY).any() or ((rest["current"] >= JOBS) & (rest["current"] != NO_JOB)).any():
            raise StateError(f"expected kinds of jobs up to {EVERY} and {JOBS} jobs a series, got others")
        self._slots.restore(row, (rest["kind"] != NONE).any(axis=1))
        if self._slots.used != len(rest["newest"]):
            raise StateError(f"expected a row for each of {len(rest['newest'])} slots, got {self._slots.used}")
        self._columns.restore(rest, self._slots.used)

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _taken(self, rows: I32, time_ns: I64) -> tuple[I32, NDArray[np.intp]]:
        """(slots, which of K rows they are of); rows that had none get one where there is one."""
        slots = self._slots.of(rows)
        wanted = int((slots < 0).sum())
        if wanted:
            scarce = self._slots.used + wanted > self.config.max_series
            slots, fresh = self._slots.take(rows, self._idle(slots, time_ns) if scarce else NO_SLOTS)
            self._columns.reserve(self._slots.used)
            self._columns.clear(fresh)
        k = indices(slots >= 0)
        return slots[k], k

    def _idle(self, slots: I32, time_ns: I64) -> NDArray[np.intp]:
        """The slots that may be given away, idle for longest first, but none of these."""
        newest = self._columns.of["newest"][: self._slots.used].astype(np.int64)
        idle = np.setdiff1d(indices(newest < second_of(time_ns).max() - IDLE_S), slots)
        return idle[np.argsort(newest[idle], kind="stable")]

    def _with_jobs(self, rows: I32) -> tuple[NDArray[np.intp], Table]:
        """(which of K rows have any job, what is known of those): most have none, and cost nothing."""
        k = self._slots.marked(rows)
        return k, self._read(self._slots.of(rows[k])) if len(k) else {}

    def _read(self, slots: I32) -> Table:
        """All columns of K slots; whole numbers as int64, so that differences have signs."""
        table = {name: column[slots] for name, column in self._columns.of.items()}
        return {name: column.astype(np.int64) if name in WIDE else column for name, column in table.items()}

    def _write(self, slots: I32, table: Table, utc: I64, local: I64) -> None:
        ahead_s = due(table) - self._tolerance_s(table) - clock(table, utc, local)
        ahead_s = ahead_s - MOVES_S * bool(self._calendar) * (table["kind"] != EVERY)
        first_s = np.where(table["kind"] == NONE, DAY, ahead_s).min(axis=1)
        table["wake"] = np.clip(utc + np.clip(first_s, 0, DAY), 0, LATEST).astype(np.int64)
        for name, column in self._columns.of.items():
            column[slots] = table[name]
        self._slots.mark(slots, (table["kind"] != NONE).any(axis=1))

    def _seconds(self, rows: I32, time_ns: I64) -> tuple[I64, I64]:
        """(seconds of UTC, seconds of the local clock) of K points."""
        local = self._calendar.local_ns(rows, time_ns)
        return second_of(time_ns), second_of(local)

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def _tolerance_s(self, table: Table) -> F64:
        """How far from its time each job may begin, (K, JOBS)."""
        of_day_s = self._of_day_s(table)[:, None]
        return np.where(table["kind"] == EVERY, period_tolerance_s(table["period_s"], table["interval_s"]), of_day_s)

    def _of_day_s(self, table: Table) -> F64:
        """How far from its time of day a job may begin, (K,)."""
        tolerance_s: F64 = np.maximum(self.config.tolerance, POINT_TOLERANCE * table["interval_s"].astype(np.float64))
        return tolerance_s

    def _fits(self, table: Table, utc: I64, local: I64) -> Bool:
        """Whether K times are in the next occurrence of each job, (K, JOBS)."""
        return self._within(table, clock(table, utc, local) - due(table))

    def _during(self, table: Table, utc: I64, local: I64) -> Bool:
        """Whether K times are in the last occurrence of each job, (K, JOBS)."""
        return self._within(table, clock(table, utc, local) - table["last"])

    def _within(self, table: Table, since_s: I64) -> Bool:
        tolerance_s = self._tolerance_s(table)
        found: Bool = (table["kind"] != NONE) & (since_s >= -tolerance_s) & (since_s <= table["lasts_s"] + tolerance_s)
        return found

    def _lengthen(self, table: Table, utc: I64, local: I64) -> None:
        """Learn in place how long the current excursions last that are jobs."""
        k = indices(table["current"] != NO_JOB)
        if not len(k):
            return
        j = table["current"][k]
        since_s = (clock(table, utc, local) - table["last"])[k, j]
        longest_s = np.minimum(LONGEST_PART * gap_s(table)[k, j], np.iinfo(np.uint16).max)
        table["lasts_s"][k, j] = np.clip(since_s, table["lasts_s"][k, j], longest_s)

    def _recur(self, table: Table, fits: Bool, utc: I64, local: I64, size: F64) -> None:
        """Learn in place that the first job that fits, of each row that has one, has come again; NaN is no size."""
        k = indices(np.asarray(fits.any(axis=1)))
        if not len(k):
            return
        j = np.argmax(fits[k], axis=1)
        next_s, tolerance_s = due(table)[k, j], self._tolerance_s(table)[k, j]
        off_s = np.clip(clock(table, utc, local)[k, j] - next_s, -tolerance_s, tolerance_s).astype(np.int64)
        every = table["kind"][k, j] == EVERY
        weekend = (table["kind"][k, j] == DAYS) & (weekday(next_s) >= 5)
        table["kind"][k, j] = np.where(weekend, DAILY, table["kind"][k, j])
        table["last"][k, j] = next_s + off_s // 2
        table["period_s"][k, j] += np.where(every, off_s // 8, 0)
        table["count"][k, j] = np.minimum(table["count"][k, j].astype(np.int64) + 1, 255)
        table["misses"][k, j] = 0
        table["peak"][k] = np.where(np.isnan(size[k]), table["size"][k, j], size[k])
        table["current"][k] = j

    def _begin(self, table: Table, utc: I64, local: I64, up: Bool, size: F64) -> None:
        """Make jobs of excursions that complete one, in place, and remember the others."""
        known = self._during(table, utc, local)
        table["misses"][known] = 0  # it was late
        during = known.any(axis=1)  # a job that pauses for a moment is no news
        table["recent"][table["recent"] > (local + DAY)[:, None]] = 0  # from a clock that was wrong
        alike = (table["recent"] > 0) & ((table["recent"] & 1) == up[:, None])
        past = table["recent"] & ~np.int64(1)
        period_s = period_of(past, alike, local, table["interval_s"], self.config.shortest_period)
        kind, used = day_kind(past, alike, local, self._of_day_s(table))
        regular = period_s > 0
        kind = np.where(regular, EVERY, kind)
        born = indices((kind != NONE) & ~during)
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
            "mark": np.full(len(utc), np.nan),
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
