"""Recurring jobs: learned from three occurrences, at the local time, missed when absent, and rarely seen in chance."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect.calendar import Calendar, CalendarConfig
from otel_aiops.detect.jobs import Jobs, JobsConfig
from otel_aiops.detect.jobtable import Seen
from otel_aiops.errors import ConfigError, StateError
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import I32, I64

MINUTE, HOUR, DAY = 60, 3600, 86_400
MONDAY = 1_767_571_200  # 2026-01-05 00:00 UTC
ROW = np.zeros(1, np.int32)
CONFIG = JobsConfig()


def ns(second: float) -> I64:
    return np.array([int(second * 1e9)], np.int64)


def seen(rows: I32, time_ns: I64, *, size: float = 2.0, interval_s: float = 60.0, up: bool = True) -> Seen:
    """Points that are 9 where 1 is usual."""
    ones = np.ones(len(rows))
    flags = np.full(len(rows), up)
    return Seen(rows, time_ns, interval_s * ones, flags, size * ones, 9 * ones, ones, np.zeros(len(rows), np.bool_))


class One:
    """The jobs of one series, second by second."""

    def __init__(self, calendar: Calendar | None = None, config: JobsConfig = CONFIG, interval_s: float = 60.0) -> None:
        self.jobs = Jobs(config, calendar or Calendar())
        self.interval_s = np.array([interval_s])

    def see(self, *seconds: float, up: bool = True, size: float = 2.0) -> None:
        for second in seconds:
            self.jobs.observe(seen(ROW, ns(second), size=size, interval_s=float(self.interval_s[0]), up=up))

    def expects(self, second: float) -> bool:
        return bool(self.jobs.expected(ROW, ns(second)).some[0])

    def misses(self, second: float) -> bool:
        return bool(self.jobs.missed(ROW, ns(second), self.interval_s).some[0])

    def lives(self, start: float, end: float) -> list[float]:
        """The moments of a quiet time, one every other minute, at which a job is missed."""
        return [second for second in np.arange(start, end, 2 * MINUTE).tolist() if self.misses(second)]


def berlin(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp()


@pytest.fixture(scope="module")
def in_berlin() -> Calendar:
    calendar = Calendar([CalendarConfig(tz="Europe/Berlin")])
    calendar.assign(int(ROW[0]), Labels("backup"))
    return calendar


class TestTimesOfDay:
    def test_three_days_tell_of_the_fourth(self) -> None:
        one = One()
        six = MONDAY + 6 * HOUR
        for day in range(3):
            assert not one.expects(six + day * DAY)
            one.see(six + day * DAY)
        assert one.expects(six + 3 * DAY)
        assert one.expects(six + 3 * DAY + 4 * MINUTE)
        assert not one.expects(six + 3 * DAY + 6 * MINUTE)
        assert not one.expects(six + 3 * DAY - 6 * MINUTE)
        assert one.jobs.note(0) == "every day at 06:00"

    def test_a_few_minutes_and_other_excursions_do_not_hide_it(self) -> None:
        one = One()
        for day, late in enumerate((0, 3, 1)):
            one.see(MONDAY + day * DAY + 6 * HOUR + late * MINUTE, MONDAY + day * DAY + (9 + 2.3 * day) * HOUR)
        assert one.expects(MONDAY + 3 * DAY + 6 * HOUR)
        assert not one.expects(MONDAY + 3 * DAY + 9 * HOUR)

    def test_work_days_are_told_from_every_day_by_the_weekend(self) -> None:
        one = One()
        nine = MONDAY + 9 * HOUR
        one.see(*(nine + day * DAY for day in range(5)))
        assert one.expects(nine + 5 * DAY)  # nobody knows yet
        assert one.lives(nine + 5 * DAY, nine + 7 * DAY) == []
        assert one.jobs.note(0) == "every work day at 09:00"
        assert one.expects(nine + 7 * DAY)
        one.see(*(nine + day * DAY for day in range(7, 12)))
        assert not one.expects(nine + 12 * DAY)
        assert one.lives(nine + 11.5 * DAY, nine + 14 * DAY) == []

    def test_every_day_goes_on_at_the_weekend(self) -> None:
        one = One()
        one.see(*(MONDAY + day * DAY for day in range(7)))
        assert one.lives(MONDAY + 7 * DAY - HOUR, MONDAY + 8 * DAY - HOUR) == [MONDAY + 7 * DAY + 6 * MINUTE]

    @pytest.mark.parametrize("first", [3, 4])  # Thursday, Friday, Monday; and Friday, Monday, Tuesday
    def test_work_days_learned_over_a_weekend(self, first: int) -> None:
        one = One()
        days = [day for day in range(first, 10) if day % 7 < 5]
        one.see(*(MONDAY + day * DAY for day in days[:3]))
        assert one.jobs.note(0) == "every work day at 00:00"
        assert one.expects(MONDAY + days[3] * DAY)

    def test_three_days_with_a_saturday_are_every_day(self) -> None:
        one = One()
        one.see(*(MONDAY + day * DAY for day in (4, 5, 6)))
        assert one.expects(MONDAY + 7 * DAY)
        assert one.lives(MONDAY + 7 * DAY, MONDAY + 9 * DAY) == []  # three are too few to complain about the fourth

    def test_every_week(self) -> None:
        one = One()
        one.see(*(MONDAY + 2 * DAY + week * 7 * DAY for week in range(3)))
        assert one.jobs.note(0) == "every week on Wed at 00:00"
        assert one.expects(MONDAY + 23 * DAY) and not one.expects(MONDAY + 22 * DAY)

    def test_hourly_points(self) -> None:
        one = One(interval_s=3600)
        one.see(*(MONDAY + day * DAY + 6 * HOUR for day in range(4)))
        assert one.expects(MONDAY + 4 * DAY + 6 * HOUR)
        assert not one.expects(MONDAY + 4 * DAY + 7 * HOUR)
        assert one.lives(MONDAY + 4 * DAY + 5 * HOUR, MONDAY + 4 * DAY + 8 * HOUR) == [
            MONDAY + 4 * DAY + 6.75 * HOUR + 60
        ]

    def test_two_jobs_in_one_series(self) -> None:
        one = One()
        for day in range(3):
            one.see(MONDAY + day * DAY + 2 * HOUR, MONDAY + day * DAY + 21 * HOUR)
        assert one.jobs.note(0) == "every day at 02:00, every day at 21:00"


class TestClocks:
    def test_a_job_keeps_its_local_time_when_the_clocks_change(self, in_berlin: Calendar) -> None:
        one = One(in_berlin)
        one.see(*(berlin(f"2026-03-{day} 06:00") for day in (26, 27, 28)))
        assert one.expects(berlin("2026-03-29 06:00"))
        assert not one.expects(berlin("2026-03-29 07:00"))  # which is 06:00 as it was the day before

    def test_a_job_in_the_missing_hour_is_not_missed(self, in_berlin: Calendar) -> None:
        one = One(in_berlin)
        one.see(*(berlin(f"2026-03-{day} 02:30") for day in range(22, 29)))
        assert one.lives(berlin("2026-03-28 12:00"), berlin("2026-03-29 23:00")) == []
        one.see(berlin("2026-03-30 02:30"))
        assert one.lives(berlin("2026-03-30 12:00"), berlin("2026-03-31 12:00")) == [berlin("2026-03-31 02:36")]

    def test_a_job_in_the_doubled_hour_is_expected_both_times(self, in_berlin: Calendar) -> None:
        one = One(in_berlin)
        one.see(*(berlin(f"2026-10-{day} 02:30") for day in (22, 23, 24)))
        first = berlin("2026-10-25 02:30")
        assert one.expects(first)
        one.see(first)
        assert one.expects(first + HOUR) and not one.expects(first + HOUR / 2)

    def test_a_job_by_distance_ignores_the_clocks(self, in_berlin: Calendar) -> None:
        one = One(in_berlin)
        start = berlin("2026-03-28 12:00")
        one.see(*(start + i * 90 * MINUTE for i in range(24)))
        assert start + 24 * 90 * MINUTE > berlin("2026-03-29 12:00")
        assert one.expects(start + 24 * 90 * MINUTE)
        assert one.jobs.note(0) == "every 90 min"


class TestPeriods:
    @pytest.mark.parametrize("minutes", [30, 90, 360, 720])
    def test_three_at_equal_distances_tell_of_the_fourth(self, minutes: int) -> None:
        one = One()
        one.see(MONDAY, MONDAY + minutes * MINUTE)
        assert not one.expects(MONDAY + 2 * minutes * MINUTE)
        one.see(MONDAY + 2 * minutes * MINUTE)
        assert one.expects(MONDAY + 3 * minutes * MINUTE)
        assert not one.expects(MONDAY + 2.5 * minutes * MINUTE)

    def test_a_period_of_few_points_takes_one_more(self) -> None:
        one = One()
        one.see(*(MONDAY + i * 15 * MINUTE for i in range(3)))
        assert one.expects(MONDAY + 45 * MINUTE)
        jittery = One()
        jittery.see(MONDAY, MONDAY + 16 * MINUTE, MONDAY + 31 * MINUTE)
        assert not jittery.expects(MONDAY + 47 * MINUTE)
        jittery.see(MONDAY + 47 * MINUTE)
        assert jittery.expects(MONDAY + 62 * MINUTE)

    def test_what_is_faster_than_the_shortest_period_is_no_job(self) -> None:
        one = One(interval_s=15)
        one.see(*(MONDAY + i * 9 * MINUTE for i in range(8)))
        assert not one.expects(MONDAY + 72 * MINUTE)

    def test_a_period_that_drifts_is_followed(self) -> None:
        one = One()
        times = np.cumsum([HOUR] * 3 + [HOUR + 30] * 40) + MONDAY
        one.see(*times)
        assert one.jobs.note(0) in ("every 60 min", "every 61 min")
        assert one.expects(times[-1] + HOUR + 30)

    def test_points_of_one_long_excursion_are_no_job(self) -> None:
        one = One(interval_s=3600)
        one.see(*(MONDAY + i * HOUR for i in range(60)))
        assert not one.expects(MONDAY + 60 * HOUR)


class TestOccurrences:
    def test_a_job_that_lasts_is_expected_while_it_lasts(self) -> None:
        one = One()
        for day in range(4):
            one.see(*(MONDAY + day * DAY + minute * MINUTE for minute in range(40)))
        start = MONDAY + 4 * DAY
        assert one.expects(start + 35 * MINUTE)
        assert not one.expects(start + 50 * MINUTE)
        one.see(start)
        assert one.expects(start + 35 * MINUTE)

    def test_an_endless_excursion_does_not_make_the_job_endless(self) -> None:
        one = One()
        one.see(MONDAY, MONDAY + DAY, MONDAY + 2 * DAY)
        one.see(*(MONDAY + 3 * DAY + minute * MINUTE for minute in range(24 * 60)))
        assert not one.expects(MONDAY + 4 * DAY + 7 * HOUR)

    def test_a_job_that_pauses_for_a_moment_is_not_two(self) -> None:
        one = One()
        for day in range(5):
            one.see(*(MONDAY + day * DAY + minute * MINUTE for minute in (0, 1, 2, 3, 7, 8)))
        assert one.jobs.note(0) == "every day at 00:00"

    def test_direction_and_size_count(self) -> None:
        one = One()
        one.see(MONDAY, MONDAY + DAY, MONDAY + 2 * DAY, up=False, size=2.0)

        def like(up: bool, size: float, day: int = 3) -> bool:
            moment = ns(MONDAY + day * DAY)
            return bool(one.jobs.expected(ROW, moment, up=np.array([up]), size=np.array([size])).some[0])

        assert like(False, 5.9)
        assert not like(True, 2.0) and not like(False, 6.1) and not like(False, np.nan)
        one.see(MONDAY + 3 * DAY, up=False, size=12.0)
        assert like(False, 14.0, day=4) and not like(False, 16.0, day=4)

    def test_opposite_directions_are_not_one_job(self) -> None:
        one = One()
        one.see(MONDAY, MONDAY + 2 * DAY)
        one.see(MONDAY + DAY, up=False)
        assert not one.expects(MONDAY + 3 * DAY)


class TestMissed:
    def test_it_is_said_once_and_two_in_a_row_end_the_job(self) -> None:
        one = One()
        one.see(*(MONDAY + 5 * DAY + i * HOUR for i in range(10)))
        due = MONDAY + 5 * DAY + 10 * HOUR
        missed = one.lives(due - 30 * MINUTE, due + 5 * HOUR)
        assert missed == [due + 2 * MINUTE, due + HOUR + 2 * MINUTE]
        assert not one.expects(due + 2 * HOUR)

    def test_one_that_comes_again_is_a_job_as_before(self) -> None:
        one = One()
        one.see(*(MONDAY + i * HOUR for i in range(5)))
        for i in range(5, 15, 2):
            assert len(one.lives(MONDAY + i * HOUR - 20 * MINUTE, MONDAY + i * HOUR + 20 * MINUTE)) == 1
            one.see(MONDAY + (i + 1) * HOUR)
        assert one.expects(MONDAY + 15 * HOUR)

    def test_after_a_silence_nothing_is_said(self) -> None:
        one = One()
        one.see(*(MONDAY + i * HOUR for i in range(8)))
        moment = ns(MONDAY + 20.5 * HOUR)
        assert not one.jobs.missed(ROW, moment, np.array([12.5 * HOUR])).some[0]
        assert one.expects(MONDAY + 21 * HOUR)
        assert not one.jobs.missed(ROW, ns(MONDAY + 70.5 * HOUR)).some[0]  # even without the interval
        assert one.expects(MONDAY + 71 * HOUR)

    def test_rows_without_jobs_miss_nothing(self) -> None:
        jobs = Jobs(CONFIG, Calendar())
        rows = np.array([5, 900_000], np.int32)
        assert not jobs.missed(rows, np.zeros(2, np.int64)).some.any()
        assert not jobs.expected(rows, np.zeros(2, np.int64)).some.any()
        assert jobs.note(5) == ""


class TestChance:
    @pytest.mark.parametrize("per_day", [0.5, 3, 10, 40])
    def test_random_excursions_are_hardly_ever_expected(self, per_day: float) -> None:
        series, occurrences = 400, 60
        rng = np.random.default_rng(int(per_day * 10))
        jobs, rows = Jobs(CONFIG, Calendar()), np.arange(series, dtype=np.int32)
        points = np.maximum(1, np.round(rng.exponential(DAY / per_day / 60, (series, occurrences))))
        times = ((MONDAY + np.cumsum(points, axis=1) * 60) * 1e9).astype(np.int64)
        marked = missed = 0
        for i in range(occurrences):
            missed += int(jobs.missed(rows, times[:, i]).some.sum())
            marked += int(jobs.expected(rows, times[:, i]).some.sum())
            jobs.observe(seen(rows, times[:, i]))
        assert marked < 0.01 * series * occurrences
        assert missed < 0.01 * series * occurrences


class TestState:
    def test_at_most_128_bytes_a_series(self) -> None:
        one = One()
        one.see(MONDAY)
        assert one.jobs.bytes_per_series <= 128

    @settings(max_examples=12, deadline=None)
    @given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 2)), min_size=4, max_size=20), st.integers(1, 3))
    def test_restored_jobs_go_on_bit_for_bit_and_rows_do_not_mix(self, steps: list[tuple[int, int]], cut: int) -> None:
        whole, alone = Jobs(CONFIG, Calendar()), [Jobs(CONFIG, Calendar()) for _ in range(3)]
        second = MONDAY
        for i, (half_hours, row) in enumerate(steps):
            second += half_hours * 30 * MINUTE
            for jobs, at in ((whole, row), (alone[row], 0)):
                which = np.array([at], np.int32)
                jobs.missed(which, ns(second))
                jobs.observe(seen(which, ns(second), size=float(half_hours)))
            if i == cut:
                saved = whole.state()
                whole = Jobs(CONFIG, Calendar())
                whole.restore(saved)
        for row, jobs in enumerate(alone):
            state, of_all = jobs.state(), whole.state()
            for name in set(state) - {"row"}:
                assert state[name].tobytes() == of_all[name][of_all["row"] == row].tobytes()

    def test_a_row_is_forgotten(self) -> None:
        one = One()
        one.see(MONDAY, MONDAY + DAY, MONDAY + 2 * DAY)
        one.jobs.forget(np.array([0, 7], np.int32))
        assert not one.expects(MONDAY + 3 * DAY)

    def test_state_that_does_not_fit_is_refused(self) -> None:
        one = One()
        one.see(MONDAY)
        state = one.jobs.state()
        for name, value in (("kind", 6), ("current", 3)):
            wrong = {**state, name: np.full_like(state[name], value)}
            with pytest.raises(StateError, match="expected kinds of jobs up to 5"):
                Jobs(CONFIG, Calendar()).restore(wrong)
        del state["kind"]
        with pytest.raises(StateError, match="expected arrays"):
            Jobs(CONFIG, Calendar()).restore(state)


class TestBadInput:
    def test_times_and_sizes_without_sense_do_no_lasting_harm(self) -> None:
        one = One()
        info = np.iinfo(np.int64)
        for time in (info.min, -1, 0, info.max, 4 * 10**18):
            for size in (np.nan, np.inf, -1.0, 1e308):
                moment = np.array([time], np.int64)
                one.jobs.observe(seen(ROW, moment, size=size, interval_s=np.nan))
                one.jobs.expected(ROW, moment)
                one.jobs.missed(ROW, moment, np.array([np.nan]))
        one.see(MONDAY, MONDAY + DAY, MONDAY + 2 * DAY)
        assert one.expects(MONDAY + 3 * DAY)

    def test_a_job_from_a_wrong_clock_goes_away(self) -> None:
        one = One()
        one.see(*(MONDAY + (4000 + day) * DAY for day in range(3)))
        assert one.jobs.note(0) != ""
        assert not one.misses(MONDAY)
        assert one.jobs.note(0) == ""

    def test_no_rows(self) -> None:
        jobs = Jobs(CONFIG, Calendar())
        none = np.empty(0)
        rows, times = none.astype(np.int32), none.astype(np.int64)
        jobs.observe(seen(rows, times))
        assert len(jobs.expected(rows, times).some) == len(jobs.missed(rows, times).some) == 0


@pytest.mark.parametrize(("key", "value"), [("tolerance", 0), ("shortest_period", 10), ("missed_after", 2)])
def test_settings_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        JobsConfig(**{key: value})  # type: ignore[arg-type]


class TestFamiliar:
    """A job that is not over the threshold any more, as the engine has got used to it."""

    def test_it_arrives_when_the_value_goes_half_the_way(self) -> None:
        one = One()
        one.see(MONDAY, MONDAY + DAY, MONDAY + 2 * DAY)
        at = ns(MONDAY + 3 * DAY)
        assert one.jobs.arrived(ROW, at, np.array([5.0])).some[0]  # halfway from 1 to 9
        assert not one.jobs.arrived(ROW, at, np.array([4.9])).some[0]
        assert not one.jobs.arrived(ROW, ns(MONDAY + 3 * DAY + HOUR), np.array([9.0])).some[0]

    def test_one_that_arrives_quietly_is_neither_missed_nor_smaller(self) -> None:
        one = One()
        one.see(MONDAY, MONDAY + DAY, MONDAY + 2 * DAY, size=4.0)
        for day in range(3, 8):
            quiet = replace(seen(ROW, ns(MONDAY + day * DAY), size=0.1), quiet=np.ones(1, np.bool_))
            one.jobs.observe(quiet)
            assert one.lives(MONDAY + day * DAY, MONDAY + (day + 0.9) * DAY) == []
        size = np.array([11.9])
        assert one.jobs.expected(ROW, ns(MONDAY + 8 * DAY), size=size).some[0]

    def test_points_are_only_looked_at_when_a_job_may_begin(self, in_berlin: Calendar) -> None:
        for calendar, ahead in ((Calendar(), 0.0), (in_berlin, 1.1 * HOUR)):
            one = One(calendar)
            assert len(one.jobs.awake(ROW, ns(MONDAY))) == 0
            one.see(MONDAY, MONDAY + DAY, MONDAY + 2 * DAY)
            due = MONDAY + 3 * DAY
            assert len(one.jobs.awake(ROW, ns(due - 6 * MINUTE - ahead))) == 0
            assert len(one.jobs.awake(ROW, ns(due - 5 * MINUTE))) == 1


class TestSlots:
    def test_a_crowd_waits_until_others_had_no_excursion_for_long(self) -> None:
        jobs = Jobs(JobsConfig(max_series=2), Calendar())
        first, crowd = np.array([0, 1], np.int32), np.array([2, 3], np.int32)
        jobs.observe(seen(first, np.repeat(ns(MONDAY), 2)))
        jobs.observe(seen(crowd, np.repeat(ns(MONDAY + DAY), 2)))
        assert len(jobs) == 2 and jobs.waited == 2
        jobs.observe(seen(first[:1], ns(MONDAY + 10 * DAY)))
        jobs.observe(seen(crowd, np.repeat(ns(MONDAY + 16 * DAY), 2)))
        assert jobs.waited == 3 and jobs.state()["row"].tolist() == [0, 2]

    def test_a_gap_does_not_make_jobs_less_punctual(self) -> None:
        one = One()
        one.see(MONDAY, MONDAY + DAY, MONDAY + 2 * DAY)
        one.jobs.observe(seen(ROW, ns(MONDAY + 2.5 * DAY), interval_s=12.0 * HOUR))
        assert not one.expects(MONDAY + 3 * DAY + HOUR)

    def test_a_late_job_is_not_missed_twice(self) -> None:
        one = One()
        one.see(*(MONDAY + day * DAY for day in range(7)))
        for day in range(7, 11):
            one.lives(MONDAY + day * DAY, MONDAY + day * DAY + 7 * MINUTE)
            one.see(*(MONDAY + day * DAY + minute * MINUTE for minute in (7, 8, 9)))
        assert one.jobs.note(0).startswith("every day at 00:0")
