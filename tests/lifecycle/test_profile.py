"""The profile of points against a slow twin, and the reasons of the quality gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_aiops.lifecycle.profile import OTHERS, Measures, Profile, Profiler, QualityLimits, quality_gate

S = 1_000_000_000
DAY_NS = 86_400 * S


def none_excluded(code: Any, first_ns: Any, last_ns: Any) -> Any:
    return np.zeros(len(code))


def measured(parts: list[list[tuple[int, int, float]]], services: list[str]) -> tuple[Measures, Any, Any]:
    profiler = Profiler()
    for part in parts:
        rows = sorted(part, key=lambda one: one[0])  # by series, in the order in which they come
        profiler.take(
            np.array([one[0] for one in rows], np.int64),
            np.array([one[1] * S for one in rows], np.int64),
            np.array([one[2] for one in rows], np.float64),
            intervals=True,
        )
    return profiler.done(services, none_excluded)


points = st.tuples(
    st.integers(0, 3), st.integers(1, 400), st.one_of(st.integers(-3, 3).map(float), st.just(float("nan")))
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(points, max_size=30), min_size=1, max_size=4))
def test_counts_equal_the_slow_way(parts: list[list[tuple[int, int, float]]]) -> None:
    every, _, table = measured(parts, ["a", "a", "b", "b"])
    rows = [one for part in parts for one in sorted(part, key=lambda one: one[0])]
    last: dict[int, int] = {}
    duplicates = backward = 0
    for series, at, _ in rows:
        if series in last:
            duplicates += at == last[series]
            backward += at < last[series]
        last[series] = at if backward == 0 else max(at, last.get(series, 0))
    assert every.rows == len(rows)
    assert every.series == len({one[0] for one in rows})
    if not backward:
        assert every.duplicate_ratio == pytest.approx(duplicates / max(1, len(rows)), abs=1e-6)
    assert (every.out_of_order_ratio > 0) == (backward > 0)
    non_finite = sum(one[2] != one[2] for one in rows)
    assert every.non_finite_ratio == pytest.approx(non_finite / max(1, len(rows)), abs=1e-6)
    assert table["rows"].sum() == len(rows)


def test_missing_points_are_counted_by_the_interval_of_each_series() -> None:
    often = [(0, 10 + k * 10, float(k % 7)) for k in range(300) if not 100 <= k < 160]
    seldom = [(1, 10 + k * 100, float(k % 5)) for k in range(30)]
    every, services, table = measured([often, seldom], ["often", "seldom"])
    assert table["interval_s"].tolist() == [10, 100]
    assert table["missing_ratio"].tolist() == pytest.approx([60 / 300, 0], abs=1e-6)
    assert every.missing_ratio == pytest.approx(60 / 330, abs=1e-6)
    assert dict(services)["seldom"].interval_s == 100


def test_excluded_time_is_not_missing() -> None:
    profiler = Profiler()
    at = np.array([k * 10 for k in range(1, 301) if not 100 <= k < 160], np.int64) * S
    profiler.take(np.zeros(len(at), np.int64), at, np.arange(len(at)) % 3 * 1.0, intervals=True)
    every, _, _ = profiler.done(["a"], lambda code, first, last: np.array([600.0]))
    assert every.missing_ratio == 0


def test_constant_series_and_counters_sent_as_gauges() -> None:
    constant = [(0, 10 * k, 5.0) for k in range(1, 100)]
    counter = [(1, 10 * k, float(k % 60)) for k in range(1, 200)]  # begins anew three times
    noise = [(2, 10 * k, float((k * 7919) % 13)) for k in range(1, 200)]
    every, services, _ = measured([constant + counter + noise], ["c", "n", "n"])
    assert every.constant_ratio == pytest.approx(1 / 3, abs=1e-6)
    assert (every.counter_ratio, every.resets) == (pytest.approx(1 / 3, abs=1e-6), 3)
    assert dict(services)["c"].counter_ratio == 0


def test_points_of_a_series_go_on_in_the_next_part() -> None:
    every, _, table = measured([[(0, 10, 1.0), (0, 20, 1.0)], [(0, 20, 1.0), (0, 30, 2.0)]], ["a"])
    assert every.duplicate_ratio == 0.25 and every.constant_ratio == 0
    assert (table["first_ns"][0], table["last_ns"][0]) == (10 * S, 30 * S)


def test_many_services_are_one_line_beyond_a_bound() -> None:
    series = [(k, 10 + at, 1.0) for k in range(300) for at in range(2)]
    every, services, _ = measured([series], [f"s{k % 250:03}" for k in range(300)])
    named = dict(services)
    assert len(named) == 201 and named[OTHERS].series == 50 and every.series == 300
    assert sum(one.rows for one in named.values()) == every.rows
    assert "s000" in named  # those with two series come first


def test_nothing_measures_as_nothing() -> None:
    every, services, table = measured([[]], [])
    assert every == Measures() and services == () and len(table["code"]) == 0


GOOD = Profile(
    all=Measures(rows=10_000, series=5, oldest_ns=0, newest_ns=3 * DAY_NS),
    services=(("a", Measures(missing_ratio=0.9)), ("b", Measures(missing_ratio=0.1))),
    hours=72,
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rows": 5}, "expected at least 1000 points, got 5"),
        ({"newest_ns": DAY_NS // 2}, "expected points of at least 1 days, got 0.50"),
        ({"missing_ratio": 0.5}, "50.0% of the points that should have come are missing, expected at most 20.0%"),
        ({"duplicate_ratio": 0.02}, "2.0% of the points are duplicates"),
        ({"out_of_order_ratio": 0.5}, "out of order"),
        ({"non_finite_ratio": 0.5}, "are no numbers"),
        ({"constant_ratio": 0.95}, "95.0% of the series never change"),
        ({"counter_ratio": 0.5}, "are counters sent as gauges"),
    ],
)
def test_the_gate_says_why(change: dict[str, Any], reason: str) -> None:
    assert quality_gate(GOOD, QualityLimits()).passed
    verdict = quality_gate(replace(GOOD, all=replace(GOOD.all, **change)), QualityLimits())
    assert not verdict.passed and len(verdict.reasons) == 1 and reason in verdict.reasons[0]
    assert dict(verdict.limits)["max_missing"] == 0.2


def test_the_gate_names_the_worst_services_and_hours() -> None:
    bad = replace(GOOD, all=replace(GOOD.all, missing_ratio=0.5), hours_empty=36, hours_lost=10, rows_excluded=20_000)
    reasons = quality_gate(bad, QualityLimits()).reasons
    assert "(most: a 90.0%, b 10.0%)" in reasons[0]
    assert [one.split(" ", 1)[1].split(",")[0] for one in reasons[1:]] == [
        "of the hours have no data",
        "of the hours have a damaged segment",
        "of the selected points are excluded",
    ]
    assert Profile.from_json(bad.to_json()) == bad
