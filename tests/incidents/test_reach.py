"""When limits are reached: rings, slopes and earlier rises against slow obvious twins."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.errors import StateError
from otel_aiops.incidents.reach import reached, rises, theil_sen
from otel_aiops.incidents.reliability import Reliability
from otel_aiops.incidents.resolutions import BINS, LEVELS, WIDTHS_S, Resolutions
from otel_aiops.otlp.points import F64

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
@given(st.lists(st.one_of(st.just(np.nan), st.floats(-1e3, 1e3)), min_size=2, max_size=14))
def test_the_slope_is_the_median_of_the_slopes_of_all_pairs(values: list[float]) -> None:
    at_s = np.arange(len(values)) * 15.0
    known = [(x, y) for x, y in zip(at_s.tolist(), values, strict=True) if y == y]
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(known, 2)]
    slope, start = theil_sen(at_s[None], np.array([values]))
    if not slopes:
        assert np.isnan(slope[0])
        return
    assert slope[0] == pytest.approx(np.median(slopes))
    assert start[0] == pytest.approx(np.median([y - slope[0] * x for x, y in known]), abs=1e-6)


def slow_rises(mean: F64, high: F64, bins: int, rise: float, least: float, there: float) -> tuple[int, int]:
    """The same, one bin after the other."""
    hits = misses = 0
    going = False
    for k in range(len(mean)):
        risen = k >= bins and mean[k] - mean[k - bins] >= rise and mean[k] >= least
        if risen and not going:
            if np.nanmax(high[k:]) >= there:
                hits += 1
            elif np.nanmin(mean[k:]) < mean[k] - 0.5 / 0.7 * rise:
                misses += 1
        going = risen
    return hits, misses


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.just(np.nan), st.integers(0, 9)), min_size=12, max_size=12),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 5),
    st.integers(5, 9),
)
def test_earlier_rises_are_counted_as_one_would(x: list[float], bins: int, rise: int, least: int, there: int) -> None:
    mean = np.array(x, np.float64)
    got = rises(
        mean[None],
        mean[None],
        np.array([bins]),
        rise=np.array([float(rise)]),
        from_least=np.array([float(least)]),
        there=np.array([float(there)]),
    )
    assert (got[0][0], got[1][0]) == slow_rises(mean, mean, bins, rise, least, there)


def test_a_line_reaches_its_limit_where_it_does_and_noise_does_not() -> None:
    rings = Resolutions(3)
    rings.reserve(3)
    random = np.random.default_rng(2)
    for minute in range(70):
        value = np.array([0.4 + 0.003 * minute, 0.4 + random.normal(0, 0.01), 0.4 - 0.003 * minute])
        rings.add(np.arange(3), np.full(3, minute * 60 * SECOND_NS), value)
    windows = rings.windows(np.arange(3), 70 * 60 * SECOND_NS)
    full = np.full(3, 1.0)
    found = reached(windows, full, np.full(3, 0.02), np.full(3, 43_200.0))
    assert found.probability[0] > 0.99 and found.probability[1:].tolist() == [0, 0]
    assert found.lead_s[0] == pytest.approx((0.6 / 0.003 - 70) * 60, rel=0.02)
    absent = reached(windows, np.full(3, np.nan), full, full)
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
