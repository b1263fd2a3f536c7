"""Local time with both clock changes of a year, special days by rule, and rows that live by different clocks."""

from __future__ import annotations

import sys
import types
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from otel_aiops.detect.calendar import UNLIKE_ANY, Calendar, CalendarConfig, SpecialDays, days_of, easter
from otel_aiops.detect.zones import DAY_NS, EPOCH, SECOND_NS, Zone
from otel_aiops.errors import ConfigError
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import I32, I64

HOUR_NS = 3600 * SECOND_NS
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",  # half an hour
    "Asia/Kathmandu",  # three quarters of an hour
    "Australia/Lord_Howe",  # daylight saving of half an hour, southern hemisphere
    "America/Sao_Paulo",  # gave up daylight saving in 2019
    "Europe/Moscow",  # changed its offset in 2011 and 2014
    "Africa/Casablanca",  # another time in Ramadan
    "Pacific/Apia",  # left out 30 December 2011
)
BY_NAME = {name: Zone(name) for name in ZONES}


def at(text: str) -> int:
    return int(datetime.fromisoformat(text + "+00:00").timestamp()) * SECOND_NS


def times(*texts: str) -> I64:
    return np.array([at(text) for text in texts], np.int64)


def shown(local_ns: I64) -> list[str]:
    return [(datetime(1970, 1, 1) + timedelta(seconds=int(t) // SECOND_NS)).isoformat(" ") for t in local_ns]


def rows(n: int) -> I32:
    return np.arange(n, dtype=np.int32)


def dates(rule: str | date, year: int) -> list[str]:
    days = [EPOCH + timedelta(days=int(day)) for day in days_of(rule)]
    return [day.isoformat() for day in days if day.year == year]


class TestZone:
    def test_the_missing_hour_of_spring(self) -> None:
        utc = times("2025-03-30T00:59:59", "2025-03-30T01:00:00", "2025-03-30T01:30:00")
        assert shown(BY_NAME["Europe/Berlin"].local_ns(utc)) == [
            "2025-03-30 01:59:59",
            "2025-03-30 03:00:00",
            "2025-03-30 03:30:00",
        ]

    def test_the_doubled_hour_of_autumn(self) -> None:
        utc = times("2025-10-26T00:30:00", "2025-10-26T01:30:00", "2025-10-26T02:00:00")
        assert shown(BY_NAME["Europe/Berlin"].local_ns(utc)) == [
            "2025-10-26 02:30:00",
            "2025-10-26 02:30:00",
            "2025-10-26 03:00:00",
        ]

    def test_the_southern_hemisphere_with_half_an_hour(self) -> None:
        summer, winter = BY_NAME["Australia/Lord_Howe"].local_ns(times("2025-01-01T00:00:00", "2025-07-01T00:00:00"))
        assert shown(np.array([summer, winter])) == ["2025-01-01 11:00:00", "2025-07-01 10:30:00"]

    def test_a_zone_that_changed_its_rules(self) -> None:
        local = BY_NAME["America/Sao_Paulo"].local_ns(times("2018-12-15T12:00:00", "2019-12-15T12:00:00"))
        assert shown(local) == ["2018-12-15 10:00:00", "2019-12-15 09:00:00"]

    @settings(max_examples=40)
    @given(st.sampled_from(ZONES), st.lists(st.integers(0, 4_102_444_799), min_size=1, max_size=20))
    def test_is_what_the_standard_library_says(self, name: str, seconds: list[int]) -> None:
        local = BY_NAME[name].local_ns(np.array(seconds, np.int64) * SECOND_NS)
        for second, found in zip(seconds, local, strict=True):
            wall = datetime.fromtimestamp(second, ZoneInfo(name)).replace(tzinfo=None)
            assert datetime(1970, 1, 1) + timedelta(seconds=int(found) // SECOND_NS) == wall

    def test_the_second_of_every_change_is_exact(self) -> None:
        for zone in BY_NAME.values():
            edges = zone.start_s[1:]
            for second in np.concatenate([edges - 1, edges]).tolist():
                offset = datetime.fromtimestamp(second, ZoneInfo(zone.name)).utcoffset()
                local = zone.local_ns(np.array([second * SECOND_NS]))
                assert timedelta(seconds=int(local[0]) // SECOND_NS - second) == offset

    def test_times_at_the_ends_of_int64_do_not_wrap(self) -> None:
        info = np.iinfo(np.int64)
        early, late = Zone("Asia/Tokyo").local_ns(np.array([info.min, info.max]))
        assert early < -9e18 and late > 9e18

    @pytest.mark.parametrize("name", ["Mars/Olympus", "../etc/passwd", "", "Europe", "a\0b"])
    def test_unknown_zones_are_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match="expected a time zone"):
            Zone(name)


class TestRules:
    @pytest.mark.parametrize(
        ("rule", "expected"),
        [
            ("12-25", ["2026-12-25"]),
            ("12-25 -1", ["2026-12-24"]),
            ("02-29", []),
            ("easter", ["2026-04-05"]),
            ("easter+1", ["2026-04-06"]),
            ("Easter - 2", ["2026-04-03"]),
            ("4th thu nov", ["2026-11-26"]),
            ("4th Thursday November +1", ["2026-11-27"]),
            ("last mon may", ["2026-05-25"]),
            ("last thu dec", ["2026-12-31"]),
            ("5th sun jan", []),
            ("5th sat jan", ["2026-01-31"]),
            ("2026-05-04", ["2026-05-04"]),
            (date(2026, 5, 4), ["2026-05-04"]),
            ("2026-05-04..2026-05-06", ["2026-05-04", "2026-05-05", "2026-05-06"]),
            ("12-30..01-02", ["2026-01-01", "2026-01-02", "2026-12-30", "2026-12-31"]),
            ("easter-2 .. easter+1", ["2026-04-03", "2026-04-04", "2026-04-05", "2026-04-06"]),
            ("01-01-1", ["2026-12-31"]),
        ],
    )
    def test_days_of_2026(self, rule: str | date, expected: list[str]) -> None:
        assert dates(rule, 2026) == expected

    def test_a_leap_day_is_one_in_leap_years(self) -> None:
        assert dates("02-29", 2028) == ["2028-02-29"]
        assert len(days_of("02-29")) == sum(1 for y in range(1970, 2100) if y % 4 == 0)

    @pytest.mark.parametrize("rule", ["2026-01-02..", "..", "12-24..2026-01-02", "de", "12-25 +1 +1"])
    def test_ranges_that_are_none_are_refused(self, rule: str) -> None:
        with pytest.raises(ConfigError, match="expected a"):
            days_of(rule)

    def test_a_range_backwards_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="expected a range that ends after it starts"):
            days_of("2026-05-04..2026-05-01")

    @pytest.mark.parametrize(
        "rule",
        ["", "13-01", "02-30", "2026-02-30", "6th mon may", "1st foo may", "1st mon foo", "easter+", "christmas"],
    )
    def test_what_is_not_understood_is_refused(self, rule: str) -> None:
        with pytest.raises(ConfigError, match="expected a"):
            days_of(rule)

    @given(st.integers(1900, 2199))
    def test_easter_is_the_sunday_after_the_paschal_moon(self, year: int) -> None:
        day = easter(year)
        assert day.weekday() == 6
        assert date(year, 3, 22) <= day <= date(year, 4, 25)

    def test_known_easters(self) -> None:
        known = ["1981-04-19", "2000-04-23", "2008-03-23", "2011-04-24", "2025-04-20", "2038-04-25"]
        assert [easter(int(text[:4])).isoformat() for text in known] == known


class TestCountries:
    def test_without_the_package_the_error_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "holidays", None)
        with pytest.raises(ConfigError, match=r"holidays\.1: 'DE' needs the package holidays \(pip install"):
            CalendarConfig(holidays=("12-25", "DE"))

    def test_with_the_package_its_days_are_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def country_holidays(country: str, subdiv: str | None, years: range) -> dict[date, str]:
            if country == "XX":
                raise NotImplementedError
            assert (country, subdiv) == ("US", "CA") and 2026 in years
            return {date(2026, 7, 4): "Independence Day", date(2026, 3, 31): "Cesar Chavez Day"}

        monkeypatch.setitem(sys.modules, "holidays", types.SimpleNamespace(country_holidays=country_holidays))
        assert dates("US-CA", 2026) == ["2026-03-31", "2026-07-04"]
        with pytest.raises(ConfigError, match="that the package holidays knows, got 'XX'"):
            days_of("XX")


class TestConfig:
    def test_comes_from_yaml_with_dates_and_texts(self) -> None:
        tree = {
            "match": {"service.name": "~shop-.*"},
            "tz": "Europe/Berlin",
            "holidays": [date(2026, 5, 4), "12-25"],
            "special": [{"days": ["4th thu nov +1"], "like": "none"}],
        }
        config = TypeAdapter(CalendarConfig).validate_python(tree)
        assert config.holidays == (date(2026, 5, 4), "12-25")
        assert config.special == (SpecialDays(days=("4th thu nov +1",)),)

    @pytest.mark.parametrize(
        ("settings", "path"),
        [
            ({"tz": "Berlin"}, "tz"),
            ({"match": {"name": "~("}}, "match.name"),
            ({"like": "funday"}, "like"),
            ({"holidays": ("12-25", "soon")}, "holidays.1"),
        ],
    )
    def test_wrong_settings_name_their_key(self, settings: dict[str, str], path: str) -> None:
        with pytest.raises(ConfigError) as caught:
            CalendarConfig(**settings)  # type: ignore[arg-type]
        assert caught.value.path == path

    def test_wrong_special_days_name_their_key(self) -> None:
        with pytest.raises(ConfigError, match=r"^days\.0: expected"):
            SpecialDays(days=("soon",))
        with pytest.raises(ConfigError, match=r"^like: expected a weekday or none"):
            SpecialDays(days=("12-25",), like="weekend")

    def test_too_many_groups_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="at most 254 groups, got 255"):
            Calendar([CalendarConfig()] * 255)


def shop(country: str) -> Labels:
    return Labels(name="orders", resource=(("service.name", f"shop-{country}"),), attributes=(("code", 200),))


@pytest.fixture(scope="module")
def calendar() -> Calendar:
    """Rows 0 .. 2: a shop in Germany, one in India, something else."""
    found = Calendar(
        [
            CalendarConfig(
                match={"service.name": "~shop-de.*", "code": "~2.."},
                tz="Europe/Berlin",
                holidays=("12-25..12-26", "easter+1"),
                special=(SpecialDays(days=("4th thu nov +1",)), SpecialDays(days=("12-26",), like="saturday")),
            ),
            CalendarConfig(match={"name": "orders"}, tz="Asia/Kolkata", holidays=("01-26",), like="none"),
        ]
    )
    for row, labels in enumerate([shop("de"), shop("in"), Labels(name="cpu")]):
        found.assign(row, labels)
    return found


class TestCalendar:
    def test_each_row_has_its_clock(self, calendar: Calendar) -> None:
        noon = np.full(3, at("2026-07-01T12:00:00"))
        local = ["2026-07-01 14:00:00", "2026-07-01 17:30:00", "2026-07-01 12:00:00"]
        assert shown(calendar.local_ns(rows(3), noon)) == local
        back = np.array([2, 1, 0, 900], np.int32)
        assert shown(calendar.local_ns(back, np.full(4, noon[0]))) == [local[2], local[1], local[0], local[2]]

    def test_both_changes_of_a_year_within_one_batch(self, calendar: Calendar) -> None:
        utc = times("2026-03-29T00:59:00", "2026-03-29T01:01:00", "2026-10-25T00:30:00", "2026-10-25T01:30:00")
        local = calendar.local_ns(np.zeros(4, np.int32), utc)
        assert local.tolist() == BY_NAME["Europe/Berlin"].local_ns(utc).tolist()
        hours = (local // HOUR_NS + 72) % 168 - 6 * 24  # of Sunday
        assert hours.tolist() == [1, 3, 2, 2]

    @settings(max_examples=30)
    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4_102_444_799)), max_size=30))
    def test_many_rows_are_like_one_at_a_time(self, points: list[tuple[int, int]]) -> None:
        zones = [BY_NAME["Europe/Berlin"], BY_NAME["Asia/Kolkata"], BY_NAME["UTC"]]
        which = np.array([row for row, _ in points], np.int32)
        utc = np.array([second for _, second in points], np.int64) * SECOND_NS
        expected = [int(zones[row].local_ns(utc[i : i + 1])[0]) for i, row in enumerate(which)]
        assert PLACED.local_ns(which, utc).tolist() == expected

    def test_kinds_of_days_are_those_of_the_local_date(self, calendar: Calendar) -> None:
        utc = times("2026-12-24T22:59:59", "2026-12-24T23:00:00", "2026-12-25T23:00:00", "2026-12-26T23:00:00")
        assert calendar.day_kind(np.zeros(4, np.int32), utc).tolist() == [0, 7, 6, 0]
        republic = np.full(3, at("2026-01-25T19:00:00"))  # 26 January in India
        assert calendar.day_kind(rows(3), republic).tolist() == [0, UNLIKE_ANY, 0]

    def test_a_holiday_takes_the_profile_of_sunday(self, calendar: Calendar) -> None:
        row = np.zeros(4, np.int32)
        utc = times("2026-12-25T12:00:00", "2026-12-26T12:00:00", "2026-11-27T12:00:00", "2026-11-28T12:00:00")
        assert shown(calendar.profile_ns(row, utc)) == [
            "2026-12-27 13:00:00",  # a Friday as the Sunday of its week
            "2026-12-26 13:00:00",  # a Saturday as Saturday
            "2026-11-27 13:00:00",  # like no other: as it is
            "2026-11-28 13:00:00",
        ]
        easter_monday = calendar.profile_ns(row[:1], times("2026-04-06T12:00:00"))
        assert (easter_monday // DAY_NS + 3) % 7 == 6

    def test_rows_are_assigned_and_forgotten(self) -> None:
        calendar = Calendar([CalendarConfig(tz="Asia/Tokyo")])
        assert calendar.local_ns(rows(1), np.zeros(1, np.int64)).tolist() == [0]
        calendar.assign(0, shop("de"))
        calendar.assign(1, shop("in"))
        assert calendar.local_ns(rows(3), np.zeros(3, np.int64)).tolist() == [9 * HOUR_NS, 9 * HOUR_NS, 0]
        calendar.forget(np.array([1, 5000], np.int32))
        assert calendar.local_ns(rows(3), np.zeros(3, np.int64)).tolist() == [9 * HOUR_NS, 0, 0]

    def test_before_any_row_is_assigned_everything_is_utc(self) -> None:
        calendar = Calendar([CalendarConfig(tz="Asia/Tokyo", holidays=("01-01",))])
        assert calendar.local_ns(rows(1), np.zeros(1, np.int64)).tolist() == [0]
        assert calendar.day_kind(rows(1), np.zeros(1, np.int64)).tolist() == [0]

    def test_without_groups_it_costs_nothing_and_is_utc(self) -> None:
        calendar = Calendar()
        utc = times("2026-12-25T12:00:00")
        calendar.assign(0, shop("de"))
        assert not calendar
        assert calendar.local_ns(rows(1), utc).tolist() == utc.tolist()
        assert calendar.profile_ns(rows(1), utc).tolist() == utc.tolist()
        assert calendar.day_kind(rows(1), utc).tolist() == [0]

    def test_no_rows_and_times_far_away_are_taken_calmly(self, calendar: Calendar) -> None:
        assert len(calendar.local_ns(rows(0), np.empty(0, np.int64))) == 0
        assert len(calendar.profile_ns(rows(0), np.empty(0, np.int64))) == 0
        info = np.iinfo(np.int64)
        utc = np.array([info.min, -1, info.max], np.int64)
        assert calendar.day_kind(np.zeros(3, np.int32), utc).tolist() == [0, 0, 0]
        assert calendar.profile_ns(np.zeros(3, np.int32), utc)[1] == HOUR_NS - 1


PLACED = Calendar(
    [
        CalendarConfig(match={"service.name": "shop-de"}, tz="Europe/Berlin"),
        CalendarConfig(match={"service.name": "shop-in"}, tz="Asia/Kolkata"),
    ]
)
PLACED.assign(0, shop("de"))
PLACED.assign(1, shop("in"))
