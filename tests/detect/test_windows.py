"""Windows of time: every hour of a year against a slow twin, both clock changes, and what cannot be read."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect.windows import DAYS, Window, WindowConfig, covers, window
from otel_aiops.detect.zones import Zone
from otel_aiops.errors import ConfigError
from otel_aiops.otlp.points import I64

S_NS = 1_000_000_000
BERLIN = "Europe/Berlin"


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * S_NS


def times(*texts: str) -> I64:
    return np.array([at(text) for text in texts], np.int64)


def naive(time_ns: int, tz: str, days: tuple[str, ...], start: str, end: str) -> bool:
    """The same by the calendar of the standard library, one time at a time."""
    local = datetime.fromtimestamp(time_ns // S_NS, ZoneInfo(tz))
    clock = f"{local:%H:%M:%S}"
    today, yesterday = DAYS[local.weekday()] in days, DAYS[(local.weekday() - 1) % 7] in days
    if end > start:
        return today and start <= clock < end
    return (today and clock >= start) or (yesterday and clock < end)


ZONES = st.sampled_from(
    ["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca"]
)
CLOCKS = st.integers(0, 24 * 60 - 1).map(lambda m: f"{m // 60:02d}:{m % 60:02d}")


@settings(max_examples=150, deadline=None)
@given(
    zone=ZONES,
    days=st.sets(st.sampled_from(DAYS), min_size=1).map(lambda found: tuple(sorted(found))),
    start=CLOCKS,
    end=CLOCKS,
    seconds=st.lists(st.integers(0, 4_000_000_000), min_size=1, max_size=12),
)
def test_a_weekly_window_is_what_the_calendar_says(
    zone: str, days: tuple[str, ...], start: str, end: str, seconds: list[int]
) -> None:
    found = window({"days": days, "from": start, "to": end, "tz": zone})
    time_ns = np.array(seconds, np.int64) * S_NS
    expected = [naive(t, zone, days, start + ":00", end + ":00") for t in time_ns.tolist()]
    assert found.contains(time_ns).tolist() == expected


def test_every_quarter_of_an_hour_of_a_year() -> None:
    """All of 2026 at once and point by point, which learn the years of the zone in different ways."""
    start = at("2025-12-31T00:00:00+00:00")
    time_ns = start + np.arange(0, 367 * 96, dtype=np.int64) * 900 * S_NS
    sundays: WindowConfig = {"days": ("sun",), "from": "01:00", "to": "03:00", "tz": BERLIN}
    together = window(sundays).contains(time_ns)
    alone = window(sundays)
    assert together.tolist() == [naive(t, BERLIN, ("sun",), "01:00:00", "03:00:00") for t in time_ns.tolist()]
    assert together[::37].tolist() == [bool(alone.contains(time_ns[i : i + 1])[0]) for i in range(0, len(time_ns), 37)]


def test_spring_takes_an_hour_out_of_the_window_and_autumn_gives_one() -> None:
    nightly = window({"from": "01:00", "to": "03:00", "tz": BERLIN})

    def minutes(day: str) -> int:
        midnight = at(f"{day}T00:00:00+00:00") - 12 * 3600 * S_NS
        return int(nightly.contains(midnight + np.arange(24 * 60, dtype=np.int64) * 60 * S_NS).sum())

    assert minutes("2026-03-28") == 120
    assert minutes("2026-03-29") == 60  # 02:00 to 03:00 does not exist
    assert minutes("2026-10-25") == 180  # and here it comes twice
    inside = times("2026-03-29T01:59:59+01:00", "2026-03-29T03:00:00+02:00", "2026-10-25T02:30:00+01:00")
    assert nightly.contains(inside).tolist() == [True, False, True]


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_starts() -> None:
    friday_night = window({"days": "Friday", "from": "22:00", "to": "06:00"})
    inside = times(
        "2026-11-20T21:59:59Z", "2026-11-20T22:00:00Z", "2026-11-21T05:59:59Z", "2026-11-21T06:00:00Z",
        "2026-11-20T05:00:00Z", "2026-11-21T22:00:00Z",
    )  # fmt: skip
    assert friday_night.contains(inside).tolist() == [False, True, True, False, False, False]


def test_instants_start_and_end_exactly() -> None:
    config: WindowConfig = {"start": "2026-12-24T18:00:00+01:00", "end": "2026-12-25T00:00:00Z"}
    inside = times("2026-12-24T16:59:59Z", "2026-12-24T17:00:00Z", "2026-12-24T23:59:59Z", "2026-12-25T00:00:00Z")
    assert window(config).contains(inside).tolist() == [False, True, True, False]
    assert window({"start": "2026-12-24T17:00:00Z"}).contains(inside).tolist() == [False, True, True, True]
    assert window({"end": "2026-12-24T17:00:00Z"}).contains(inside).tolist() == [True, False, False, False]


@pytest.mark.parametrize("start", ["2026-07-01T00:00:00", "2026-07-01", datetime(2026, 7, 1), date(2026, 7, 1)])
def test_an_instant_without_an_offset_is_local(start: str | datetime | date) -> None:
    config: WindowConfig = {"start": start, "tz": "America/New_York"}
    assert window(config).start_ns == at("2026-07-01T00:00:00-04:00")
    assert window({"start": start}, tz="Asia/Tokyo").start_ns == at("2026-07-01T00:00:00+09:00")


def test_instants_limit_days_and_times() -> None:
    in_july = window({"start": "2026-07-01", "end": "2026-08-01", "from": "09:00", "to": "10:00"})
    inside = times("2026-06-30T09:30:00Z", "2026-07-01T09:30:00Z", "2026-07-01T10:30:00Z", "2026-08-01T09:30:00Z")
    assert in_july.contains(inside).tolist() == [False, True, False, False]


def test_what_yaml_makes_of_times_and_days_is_understood() -> None:
    read = window({"from": 630, "to": 39_600, "days": ["sat"]})  # type: ignore[dict-item]  # 10:30, 11:00:00
    assert (read.from_s, read.to_s, read.days) == (10 * 3600 + 1800, 11 * 3600, (5,))
    assert window({"from": "00:00", "to": 1440}).to_s == 86_400
    assert window({"days": ("Tues", "wednesday", "thu")}).days == (1, 2, 3)


def test_any_of_several_windows_counts() -> None:
    both = [window({"days": "sat"}), window({"from": "12:00", "to": "13:00"})]
    inside = times("2026-11-20T11:00:00Z", "2026-11-20T12:00:00Z", "2026-11-21T01:00:00Z")
    assert covers(both, inside).tolist() == [False, True, True]
    assert covers([], inside).tolist() == [False, False, False]


def test_odd_times_are_no_trouble() -> None:
    odd = np.array([-(2**63), -1, 0, 2**62, 2**63 - 1], np.int64)
    for one in (window({"days": "sat", "tz": BERLIN}), Window(Zone("UTC"))):
        assert one.contains(odd).shape == (5,)
        assert one.contains(odd[:0]).shape == (0,)


def test_a_zone_gives_the_offsets_of_the_standard_library() -> None:
    zone, theirs = Zone("Australia/Lord_Howe"), ZoneInfo("Australia/Lord_Howe")  # changes by half an hour
    first = datetime(2019, 1, 1, tzinfo=UTC)
    moments = [first + timedelta(hours=7 * i) for i in range(3_000)]
    time_ns = np.array([int(m.timestamp()) for m in moments], np.int64) * S_NS
    offset = (zone.local_ns(time_ns) - time_ns) // S_NS
    expected = [m.astimezone(theirs).utcoffset() for m in moments]
    assert offset.tolist() == [e.total_seconds() for e in expected if e is not None]
    assert zone.local_ns(time_ns[::-1]).tolist() == zone.local_ns(time_ns)[::-1].tolist()


@pytest.mark.parametrize(
    ("config", "path", "message"),
    [
        ({}, "", "expected start, end, days, from or to"),
        ({"tz": "UTC"}, "", "expected start, end, days, from or to"),
        ({"form": "01:00"}, "form", "is not a known key; known here: days, end, from, start, to, tz"),
        ({"days": "sat", "tz": "Europe/Bonn"}, "tz", "expected a time zone such as Europe/Berlin, got 'Europe/Bonn'"),
        ({"days": "sat", "tz": "../UTC"}, "tz", "expected a time zone"),
        ({"days": "sat", "tz": "Europe"}, "tz", "expected a time zone"),
        ({"days": ("sat", "holiday")}, "days", "expected mon, tue, wed, thu, fri, sat, sun, got 'holiday'"),
        ({"days": ()}, "days", "expected days such as [sat, sun], got ()"),
        ({"days": 6}, "days", "expected days such as [sat, sun], got 6"),
        ({"from": "25:00"}, "from", "expected a time of day such as \"01:00\", got '25:00'"),
        ({"from": "24:00"}, "from", "expected a time of day"),
        ({"from": 6}, "from", "expected a time of day"),
        ({"to": "noon"}, "to", "expected a time of day"),
        ({"start": "tomorrow"}, "start", "expected an instant such as 2026-12-24T18:00:00Z, got 'tomorrow'"),
        ({"start": "1850-01-01"}, "start", "expected an instant in 1970 to 2261"),
        ({"end": 5}, "end", "expected an instant in 1970 to 2261"),
        ({"start": "2026-01-02", "end": "2026-01-01"}, "end", "must be after start, got 2026-01-01 after 2026-01-02"),
    ],
)
def test_what_is_wrong_is_named(config: WindowConfig, path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        window(config)
    assert caught.value.path == path
    assert message in caught.value.message
