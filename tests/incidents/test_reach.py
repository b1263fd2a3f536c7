"""When limits are reached: rings, slopes and earlier rises against slow obvious twins."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.errors import StateError
from otel_aiops.incidents.reach import Before, Goal, before, continued, lagged, reached
from otel_aiops.incidents.reliability import Reliability
from otel_aiops.incidents.resolutions import BINS, LEVELS, WIDTHS_S, Resolutions, Windows

SECOND_NS = 1_000_000_000


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20_000), st.floats(-1e6, 1e6)), max_size=60), st.integers(0, 40_000))
def test_rings_keep_the_mean_and_the_ends_of_every_bin(points: list[tuple[int, float]], end_s: int) -> None:
    points = sorted(points)
    rings = Resolutions(4)
    rings.reserve(4)
    for at_s, value in points:
        rings.add(np.array([2]), np.array([at_s * SECOND_NS]), np.array([value]))
    windows = rings.windows(np.array([2, 3]), end_s * SECOND_NS)
    newest = max((at_s for at_s, _ in points), default=0)
    for level, width in enumerate(WIDTHS_S):
        for place in range(BINS):
            number = end_s // width - BINS + place
            # a bin that was overwritten by one a ring later is gone
            lost = newest // width >= number + BINS and any(a // width % BINS == number % BINS for a, _ in points)
            inside = [value for at_s, value in points if at_s // width == number and number >= 0]
            if lost and any(a // width > number and a // width % BINS == number % BINS for a, _ in points):
                continue
            expected = np.mean(inside) if inside else np.nan
            np.testing.assert_allclose(windows.mean[0, level, place], expected, rtol=1e-9, atol=1e-6)
            assert not inside or (windows.low[0, level, place], windows.high[0, level, place]) == (
                min(inside),
                max(inside),
            )
    assert np.isnan(windows.mean[1]).all()


def test_rings_leave_out_what_is_late_and_refuse_states_of_others() -> None:
    rings = Resolutions(2)
    rings.reserve(1)
    for at_s in (100_000, 100_000 - 15 * BINS):
        rings.add(np.array([0]), np.array([at_s * SECOND_NS]), np.array([float(at_s)]))
    assert np.nanmax(rings.windows(np.array([0]), 100_020 * SECOND_NS).mean[0, 0]) == 100_000
    with pytest.raises(StateError):
        Resolutions(2).restore(rings.state(1), 2)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.just(np.nan), st.floats(-1e3, 1e3)), min_size=16, max_size=16))
def test_the_rise_is_the_median_of_what_is_half_a_span_apart(values: list[float]) -> None:
    pairs = [b - a for a, b in zip(values[:8], values[8:], strict=True) if a == a and b == b]
    rise, error = lagged(np.array([values, values]))
    if len(pairs) < 5:
        assert np.isnan(rise).all() and np.isnan(error).all()
        return
    middle = float(np.median(pairs))
    scatter = float(np.median([abs(pair - middle) for pair in pairs]))
    assert rise.tolist() == pytest.approx([middle, middle])
    assert error[0] == pytest.approx(1.4826 * 1.2533 * scatter / max(len(pairs) / 4, 1) ** 0.5)


def slow_before(windows: Windows, there: float, start_s: float) -> tuple[float, float, float]:
    """The same, one bin after the other."""
    high, low, age_s = -np.inf, np.inf, 0.0
    for level, width in enumerate(WIDTHS_S):
        hits = [k for k in range(BINS) if windows.high[0, level, k] >= there]
        for k in range(hits[-1] + 1 if hits else 0, BINS):
            end_s = windows.at_s[level, k] + width / 2
            if np.isnan(windows.high[0, level, k]):
                continue
            age_s = max(age_s, width - end_s)
            if end_s <= start_s + 1e-6:
                high, low = max(high, windows.high[0, level, k]), min(low, windows.low[0, level, k])
    return (high, low, max(age_s + start_s, 0.0)) if np.isfinite(high) else (np.nan, np.nan, 0.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0.0, 30_000.0), st.floats(0.5, 1.1))
def test_what_was_before_is_as_one_would_look_it_up(seed: int, gaps: int, ago_s: float, there: float) -> None:
    random = np.random.default_rng(seed)
    rings = Resolutions(1)
    rings.reserve(1)
    for minute in np.flatnonzero(random.integers(0, 12, 700) < gaps).tolist():
        rings.add(np.array([0]), np.array([minute * 60 * SECOND_NS]), random.random(1))
    windows = rings.windows(np.array([0]), 700 * 60 * SECOND_NS)
    got = before(windows, np.array([there]), np.array([-ago_s]))
    expected = slow_before(windows, there, -ago_s)
    np.testing.assert_allclose((got.high[0], got.low[0], got.lasted_s[0]), expected)


def test_how_far_a_line_goes_on_depends_on_what_was_before() -> None:
    high, low = np.array([0.4, 0.4, 0.7, 0.4, 0.4, np.nan]), np.array([0.35, 0.35, 0.3, 0.2, 0.35, np.nan])
    lasted_s = np.array([3_600.0, 600.0, 3_600.0, 3_600.0, 1e6, 0.0])
    span_s = np.array([1_200.0, 1_200.0, 1_200.0, 1_200.0, 2 * 86_400.0, 1_200.0])
    goal = Goal(*(np.full(6, x) for x in (1.0, 0.02, 43_200.0, 10.0, 0.5)))
    got = continued(np.full(6, 0.5) - high, np.full(6, 0.48), span_s, Before(high, low, lasted_s), goal)
    # new, but for not longer than a part of a day; too little is known; as high before; as wide before; days; no before
    assert got.tolist() == [7_200.0, 240.0, 0.0, 240.0, 43_200.0, 240.0]


def test_a_line_reaches_its_limit_where_it_does_and_noise_does_not() -> None:
    rings = Resolutions(3)
    rings.reserve(3)
    random = np.random.default_rng(2)
    for minute in range(200):
        rise = 0.003 * max(minute - 100, 0)
        value = np.array([0.4 + rise, 0.4 + random.normal(0, 0.01), 0.4 - rise])
        rings.add(np.arange(3), np.full(3, minute * 60 * SECOND_NS), value)
    windows = rings.windows(np.arange(3), 200 * 60 * SECOND_NS)
    goal = Goal(np.full(3, 1.0), np.full(3, 0.02), np.full(3, 43_200.0), np.full(3, 10.0), np.array([0.7, 0.4, 0.1]))
    found = reached(windows, goal)
    assert found.probability[0] > 0.99 and found.probability[1:].tolist() == [0, 0]
    assert found.lead_s[0] == pytest.approx((0.58 / 0.003 - 100) * 60, rel=0.02)
    assert found.earliest_s[0] <= found.lead_s[0] <= found.latest_s[0] and found.skill[0] > 0.9
    fell = reached(windows, dataclasses.replace(goal, newest=np.full(3, 0.4)))
    assert fell.probability.tolist() == [0, 0, 0]
    absent = reached(windows, dataclasses.replace(goal, limit=np.full(3, np.nan)))
    assert absent.probability.tolist() == [0, 0, 0] and len(windows.at_s) == LEVELS


def test_reliability_counts_by_probability_and_moves_probabilities_towards_what_happened() -> None:
    reliability = Reliability()
    assert np.isnan(reliability.brier) and reliability.calibrated(0.95) == 0.95
    for k in range(20):
        reliability.add(0.95, lead_s=float(k) if k < 4 else None)
    reliability.add(1.0, lead_s=60.0)
    diagram = reliability.diagram()
    assert diagram.count.tolist() == [0] * 9 + [21] and diagram.happened[9] == pytest.approx(5 / 21)
    assert reliability.calibrated(0.95) < 0.6
    assert (reliability.hits, reliability.misses, reliability.lead_s[-1]) == (5, 16, 60.0)
    again = Reliability()
    again.restore(reliability.state())
    assert again.brier == reliability.brier > 0.25
    with pytest.raises(StateError):
        again.restore({})
