"""Trials: the compiled ones equal array operations, with gaps, trends, and histories longer than is used."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect import periods
from otel_aiops.detect.trends import quantile, trend_of
from otel_aiops.detect.trials import room_for, try_period
from tests.detect.naive_trial import naive_trend, naive_trial


@settings(max_examples=40, deadline=None)
@given(st.integers(30, 700), st.floats(0.0, 1.0), st.floats(0.0, 0.6), st.floats(0.1, 3.0), st.integers(0, 2**31))
def test_equal_array_operations(points: int, share: float, gaps: float, noise: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lag = 4.0 + share * (points / 3.5 - 4.0)
    every = np.arange(points)
    x = 3 * np.sin(2 * np.pi * every / lag) + noise * rng.standard_normal(points) + rng.normal() * every / 30
    x[rng.random(points) < gaps] = np.nan
    season, result = np.empty(points), np.empty(3)
    try_period(x, lag, season, result, room_for(points))
    gain, significance, strength, expected = naive_trial(x, lag)
    assert result == pytest.approx([gain, significance, strength], rel=1e-7, abs=1e-9)
    assert season == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("points", [1, 7, 300])
def test_trend_is_the_mean_around_each_value(points: int) -> None:
    x = np.random.default_rng(points).normal(50, 1, points)
    x[points // 3 : points // 2] = np.nan
    trend = np.empty(points)
    trend_of(x, trend, np.empty((2, points + 1)))
    assert trend == pytest.approx(naive_trend(x), rel=1e-12)


def test_nothing_but_gaps_gains_nothing() -> None:
    result, season = np.empty(3), np.empty(60)
    try_period(np.full(60, np.nan), 10.0, season, result, room_for(60))
    assert result[:2].tolist() == [0.0, 0.0] and not season.any()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, -3.5, 7.25, 1e9, 1e-9]), min_size=1, max_size=60), st.floats(0.0, 1.0))
def test_quantiles(values: list[float], share: float) -> None:
    x = np.array(values)
    assert quantile(x.copy(), share) == pytest.approx(np.quantile(x, share), rel=1e-9, abs=1e-9)


def test_highest_peaks_are_the_highest_and_apart() -> None:
    y = np.zeros(100)
    y[[10, 20, 21, 50, 52, 80, 99]] = 3, 5, 4, 9, 8, 5, 20
    assert periods._highest(y, 5) == [50, 20, 80, 10]  # of equals the first; 52 is within a tenth of 50, 99 is an end
    assert periods._highest(y, 2) == [50, 20]
    assert periods._highest(np.zeros(5)) == []


@pytest.mark.parametrize(("least", "length"), [(1, 2), (448, 450), (14, 16), (22, 24), (60, 60)])
def test_quick_lengths(least: int, length: int) -> None:
    assert periods._quick_length(least) == length
