"""Seasonal periods: found through noise, trend, outliers and gaps; hardly ever seen in noise; always with a gain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.signal import lfilter

from otel_aiops.detect.periods import Period, PeriodsConfig, find
from otel_aiops.errors import ConfigError
from otel_aiops.otlp.points import F64

HOUR, DAY = 3600.0, 86_400.0
WEEK = 7 * DAY
SERIES = 10
Shape = Callable[[F64], F64]


def sine(phase: F64) -> F64:
    wave: F64 = np.sqrt(2) * np.sin(2 * np.pi * phase)
    return wave


def saw(phase: F64) -> F64:
    return 3.4 * (phase % 1)


def square(phase: F64) -> F64:
    return np.where(phase % 1 < 1 / 3, 2.0, 0.0)


def spikes(phase: F64) -> F64:
    return np.where(phase % 1 < 1 / 24, 6.0, 0.0)


def work_days(phase: F64) -> F64:
    """The phase of a week."""
    day = (phase * 7) % 7
    return np.where(day < 5, 1.5 + 1.4 * np.sin(2 * np.pi * day), 0.0)


def series(shape: Shape, period_s: float, *, points: int, interval_s: float, noise: float = 1.0, seed: int = 0) -> F64:
    """(SERIES, points) that begin at any phase."""
    rng = np.random.default_rng(seed)
    phase = np.arange(points) * interval_s / period_s + rng.random((SERIES, 1))
    return shape(phase) + noise * rng.standard_normal((SERIES, points))


def share_with(values: F64, interval_s: float, period_s: float) -> float:
    """Of how many series that period is the first."""
    found = find(values, interval_s)
    right = [bool(periods) and abs(periods[0].period_s - period_s) <= 0.02 * period_s for periods in found]
    return float(np.mean(right))


class TestRecall:
    @pytest.mark.parametrize(
        ("shape", "period_s", "points", "interval_s"),
        [
            (sine, DAY, 14 * 24, HOUR),
            (square, DAY, 7 * 288, 300.0),
            (spikes, 90 * 60.0, 1440, 60.0),
            (saw, 6 * HOUR, 7 * 96, 900.0),
            (square, 47 * 60.0, 1440, 60.0),
            (sine, 8 * DAY, 8 * 7 * 24, HOUR),
            (sine, 100 * 60.0, 1440, 60.0),
        ],
    )
    def test_at_noise_as_large_as_the_season(
        self, shape: Shape, period_s: float, points: int, interval_s: float
    ) -> None:
        values = series(shape, period_s, points=points, interval_s=interval_s)
        assert share_with(values, interval_s, period_s) >= 0.8

    @pytest.mark.parametrize("noise", [0.0, 0.01, 0.1])
    @pytest.mark.parametrize("days", [13, 14, 15, 16, 20])
    def test_a_clean_day_is_no_two_days(self, days: int, noise: float) -> None:
        values = series(sine, DAY, points=days * 24, interval_s=HOUR, noise=noise)
        assert share_with(values, HOUR, DAY) == 1.0

    def test_almost_a_day_is_no_day(self) -> None:
        for period_s in (23.6 * HOUR, 24.4 * HOUR):
            values = series(sine, period_s, points=20 * 24, interval_s=HOUR, noise=0.1)
            found = [periods[0].period_s for periods in find(values, HOUR)]
            assert np.abs(np.array(found) - period_s).max() < 0.01 * period_s

    def test_a_week_of_work_days(self) -> None:
        values = series(work_days, WEEK, points=5 * 168, interval_s=HOUR, noise=0.4)
        assert share_with(values, HOUR, WEEK) >= 0.9

    def test_what_the_first_period_leaves_over_has_a_second(self) -> None:
        values = series(sine, DAY, points=1920, interval_s=900.0, noise=0.4)
        values += series(sine, 6.5 * HOUR, points=1920, interval_s=900.0, noise=0.0, seed=1)
        for periods in find(values, 900.0):
            assert sorted(round(period.period_s / HOUR, 1) for period in periods) == [6.5, 24.0]
        assert {len(periods) for periods in find(values[:3], 900.0, config=PeriodsConfig(most=1))} == {1}


class TestRobust:
    @pytest.fixture
    def values(self) -> F64:
        return series(sine, DAY, points=35 * 24, interval_s=HOUR, noise=0.7)

    def test_outliers(self, values: F64) -> None:
        values[np.random.default_rng(5).random(values.shape) < 0.02] = 1e6
        assert share_with(values, HOUR, DAY) >= 0.9

    def test_trend(self, values: F64) -> None:
        assert share_with(values + np.linspace(0, 60, values.shape[1]), HOUR, DAY) >= 0.9

    def test_a_wandering_level(self, values: F64) -> None:
        steps = 0.2 * np.random.default_rng(5).standard_normal(values.shape)
        assert share_with(values + np.cumsum(steps, axis=1), HOUR, DAY) >= 0.9

    def test_gaps(self, values: F64) -> None:
        values[np.random.default_rng(5).random(values.shape) < 0.3] = np.nan
        values[:, 300:420] = np.nan
        assert share_with(values, HOUR, DAY) >= 0.9

    def test_scale_and_origin_do_not_matter(self, values: F64) -> None:
        expected = [[period.period_s for period in periods] for periods in find(values, HOUR)]
        for scaled in (values * 1e-9, values * 1e9 - 3e9, -values):
            assert [[period.period_s for period in periods] for periods in find(scaled, HOUR)] == expected

    def test_counts(self) -> None:
        rate = np.exp(0.8 * sine(np.arange(28 * 24) / 24))
        values = np.random.default_rng(5).poisson(rate, (SERIES, 28 * 24)).astype(float)
        assert share_with(values, HOUR, DAY) >= 0.9


class TestFalseDiscovery:
    @pytest.mark.parametrize(("points", "interval_s"), [(504, HOUR), (1500, 60.0)])
    def test_noise_of_every_kind_has_no_period(self, points: int, interval_s: float) -> None:
        rng = np.random.default_rng(points)
        noise = rng.standard_normal((20, points))
        kinds = [
            noise,
            np.cumsum(noise, axis=1),
            *(lfilter([1.0], [1.0, -phi], rng.standard_normal((20, points)), axis=1) for phi in (0.5, 0.9, 0.99)),
            rng.standard_t(2, (20, points)),
            rng.poisson(0.3, (20, points)).astype(float),
            noise + np.linspace(0, 50, points),
            rng.standard_normal((20, points)) + 6 * np.cumsum(rng.random((20, points)) < 3 / points, axis=1),
        ]
        found = [bool(periods) for kind in kinds for periods in find(kind, interval_s)]
        assert np.mean(found) < 0.02


class TestGain:
    def test_it_is_what_a_profile_takes_away_from_the_error(self) -> None:
        clear = find(series(square, DAY, points=672, interval_s=HOUR, noise=0.1), HOUR)
        noisy = find(series(square, DAY, points=672, interval_s=HOUR, noise=0.8), HOUR)
        for good, fair in zip(clear, noisy, strict=True):
            assert good[0].gain > 0.7 and good[0].strength > 0.95
            assert 0.1 < fair[0].gain < 0.7 and 0.3 < fair[0].strength < 0.8

    def test_less_than_the_least_gain_is_not_kept(self) -> None:
        values = series(sine, DAY, points=672, interval_s=HOUR)
        assert all(find(values, HOUR))
        assert not any(find(values, HOUR, config=PeriodsConfig(least_gain=0.6)))

    def test_a_season_that_ended_is_not_kept(self) -> None:
        values = series(sine, DAY, points=1344, interval_s=HOUR, noise=0.5)
        values[:, 200:] = np.random.default_rng(2).standard_normal((SERIES, 1144))
        assert not any(find(values, HOUR))

    def test_too_few_cycles_say_nothing(self) -> None:
        values = series(square, DAY, points=3 * 24, interval_s=HOUR, noise=0.1)
        assert not any(find(values, HOUR))


class TestInput:
    def test_series_without_anything_to_find(self) -> None:
        values = np.full((7, 400), np.nan)
        values[1] = 5.0
        values[2, :10] = np.arange(10)
        values[3] = np.inf
        values[4] = np.where(np.arange(400) == 7, 1e308, -1e308)
        values[5] = 5e-324
        values[6] = np.where(np.arange(400) % 2, 1e308, np.nan)
        assert find(values, HOUR) == [()] * 7

    @pytest.mark.parametrize("shape", [(0, 500), (3, 0), (2, 1), (2, 30)])
    def test_little_or_nothing(self, shape: tuple[int, int]) -> None:
        assert find(np.random.default_rng(0).standard_normal(shape), HOUR) == [()] * shape[0]

    def test_series_do_not_disturb_each_other(self) -> None:
        values = series(saw, 8 * HOUR, points=500, interval_s=HOUR)
        values[3] = np.nan
        values[5, 100:200] = np.nan
        together = find(values, HOUR)
        assert together[3] == ()
        for s in (0, 5):
            alone: tuple[Period, ...] = find(values[s : s + 1], HOUR)[0]
            assert [p.period_s for p in alone] == [p.period_s for p in together[s]]
            assert [p.gain for p in alone] == pytest.approx([p.gain for p in together[s]])

    def test_the_values_stay_as_they_are(self) -> None:
        values = series(sine, DAY, points=336, interval_s=HOUR)
        before = values.copy()
        find(values, HOUR)
        assert np.array_equal(values, before)

    def test_what_is_no_grid_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"expected values of shape \(S, T\), got \(5,\)"):
            find(np.zeros(5), HOUR)
        with pytest.raises(ValueError, match="expected an interval > 0 s, got 0"):
            find(np.zeros((1, 5)), 0.0)


@pytest.mark.parametrize(("key", "value"), [("least_gain", -0.1), ("significance", 30), ("cycles", 2), ("most", 0)])
def test_settings_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        PeriodsConfig(**{key: value})  # type: ignore[arg-type]
