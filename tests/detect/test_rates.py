"""Rates counts at every threshold what a slow machine at each threshold would raise."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect.rates import LEVELS, Rates

SECOND = 10**9
DAY_S = 86_400.0


def rates(hold_s: float = 300.0, group_s: float = 0.0) -> Rates:
    made = Rates(np.array([hold_s]), np.array([group_s]))
    made.reserve(64)
    return made


def feed(
    made: Rates, time_s: float, alerts: dict[int, float], group: int | None = None, *, still: bool = False
) -> None:
    rows = np.array(list(alerts), np.int32)
    groups = rows.astype(np.int64) if group is None else np.full(len(rows), group)
    times = np.full(len(rows), int(time_s * SECOND))
    zeros = np.zeros(len(rows), np.int64)
    made.count(rows, zeros, groups, times, np.array(list(alerts.values())), np.full(len(rows), still))


def counted(made: Rates, level: float) -> float:
    return float(made.state(0)["counts"][0, np.searchsorted(LEVELS, level)])


def test_a_spike_counts_at_all_thresholds_up_to_its_score() -> None:
    made = rates()
    feed(made, 1000, {0: 3.0})
    counts = made.state(0)["counts"][0]
    assert np.array_equal(counts, (LEVELS <= 3.0).astype(float))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([0.0, 5.0, 9.0]), min_size=1, max_size=30))
def test_of_spikes_every_one_after_the_hold_counts(scores: list[float]) -> None:
    made, expected, up = rates(hold_s=30.0), 0, False
    for k, score in enumerate(scores):
        feed(made, 1000 + 60 * k, {0: score})
        expected += score > 0 and not up
        up = score > 0
    assert counted(made, 1.0) == expected


def test_what_goes_on_is_one_alert() -> None:
    made = rates()
    feed(made, 1000, {0: 3.0})
    for k in range(100):
        feed(made, 1060 + 60 * k, {0: 0.0}, still=True)
    feed(made, 8000, {0: 2.9})
    assert counted(made, 1.0) == 1
    assert made.busy(np.array([0, 1], np.int32)).tolist() == [True, False]


def test_after_a_peak_the_thresholds_that_it_stays_above_are_not_raised_again() -> None:
    made = rates(hold_s=30.0)
    for k, score in enumerate((10.0, 3.0, 3.0, 10.0)):
        feed(made, 1000 + 60 * k, {0: score})
    assert counted(made, 1.0) == 1
    assert counted(made, 8.0) == 2


def test_series_of_one_service_within_minutes_are_one_alert() -> None:
    made = rates(group_s=600.0)
    feed(made, 10_000, {0: 3.0, 1: 3.0}, group=7)
    feed(made, 10_300, {2: 3.0, 3: 9.0}, group=7)
    assert counted(made, 1.0) == 1
    assert counted(made, 8.0) == 1  # the first at this threshold
    feed(made, 10_700, {4: 3.0}, group=7)
    feed(made, 10_700, {5: 3.0}, group=8)
    assert counted(made, 1.0) == 3


def test_rates_begin_with_the_prior_and_go_to_what_is_counted() -> None:
    made, series = rates(), np.array([10])
    assert made.a_week(series)[0, np.searchsorted(LEVELS, 1.0)] < 11
    before = made.threshold(series, np.array([2.0]))[0]
    for day in range(100):
        feed(made, day * DAY_S + 1000, {day % 10: 5.0})
        feed(made, day * DAY_S + 4000, {day % 10: 0.0})
        made.advance(DAY_S, series)
    rate = made.a_week(series)[0]
    assert 6 < rate[np.searchsorted(LEVELS, 4.5)] < 8
    assert rate[np.searchsorted(LEVELS, 6.0)] < 0.5
    assert (np.diff(rate) <= 0).all()
    assert 4 < made.threshold(series, np.array([2.0]))[0] < 6 < before


def test_a_fleet_that_doubles_doubles_its_rate() -> None:
    made = rates()
    made.advance(1e7, np.array([10]))
    for k in range(50):
        feed(made, 1000 * k + 1000, {k: 200.0})
    one, two = (made.a_week(np.array([size]))[0] for size in (10, 20))
    np.testing.assert_allclose(two, 2 * one, rtol=0.1)
