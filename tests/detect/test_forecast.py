"""Forecasts: the best way so far, intervals that hold what they say, and when a limit is reached."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from otel_aiops.detect import extrapolate, rolling
from otel_aiops.detect.exhaustion import exhaustion, exhaustion_many
from otel_aiops.detect.forecast import Forecast, ForecastConfig, forecast, forecast_many
from otel_aiops.errors import BadInput, ConfigError
from otel_aiops.otlp.points import F64, I64

HOUR_S, DAY_S = 3600.0, 86_400.0
START_NS = 1_700_006_400_000_000_000  # the beginning of an hour
CHEAP = ForecastConfig(fits=())
FITS = ForecastConfig(most_s=60.0)  # the fits by default
BOTH = ForecastConfig(fits=("autoreg", "theta"), most_s=60.0)


def hours(count: int) -> I64:
    return START_NS + np.arange(count) * int(HOUR_S * 1e9)


def daily(count: int, seed: int = 0, noise: float = 0.1) -> F64:
    at = np.arange(count)
    return 10 + np.sin(at / 24 * 2 * np.pi) + np.random.default_rng(seed).normal(0, noise, count)


def hourly(value: F64, horizon: int = 24, period_s: float | None = DAY_S, config: ForecastConfig = CHEAP) -> Forecast:
    return forecast(
        value, hours(len(value)), horizon_s=horizon * HOUR_S, step_s=HOUR_S, period_s=period_s, config=config
    )


# --- what is expected ---


def test_a_season_is_continued_and_beats_its_repetition() -> None:
    found = hourly(daily(24 * 14))
    truth = daily(24 * 15, noise=0.0)[-24:]
    assert found.method in ("profile", "shape")
    assert 0.1 < found.skill < 0.5
    assert np.abs(found.expected - truth).max() < 0.15
    assert found.time_ns[0] == START_NS + 24 * 14 * HOUR_S * 1e9
    assert set(np.diff(found.time_ns)) == {int(HOUR_S * 1e9)}


def test_where_nothing_beats_seasonal_naive_it_is_used() -> None:
    walk = np.random.default_rng(2).normal(0, 1, 336).cumsum()
    found = hourly(walk, period_s=None)
    assert (found.method, found.skill) == ("seasonal_naive", 0.0)
    np.testing.assert_array_equal(found.expected, np.full(24, walk[-1]))
    exact = np.tile(np.random.default_rng(3).normal(0, 1, 24), 7)
    found = hourly(exact, config=FITS)
    assert (found.method, found.skill) == ("seasonal_naive", 0.0)
    np.testing.assert_array_equal(found.expected, exact[:24])


@pytest.mark.parametrize("name", ["autoreg", "theta"])
def test_a_statsmodels_fit_is_used_where_it_wins(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cheap = {"seasonal_naive": extrapolate.seasonal_naive}
    monkeypatch.setattr(rolling, "CHEAP", cheap)
    monkeypatch.setattr("otel_aiops.detect.forecast.CHEAP", cheap)
    value = daily(24 * 14, noise=0.5)
    naive = hourly(value)
    found = hourly(value, config=ForecastConfig(fits=(name,), most_s=60.0))
    truth = daily(24 * 15, noise=0.0)[-24:]
    assert (naive.method, found.method) == ("seasonal_naive", name)
    assert found.skill > 0.1
    assert np.abs(found.expected - truth).mean() < np.abs(naive.expected - truth).mean()
    assert (found.lower <= found.expected).all() and (found.expected <= found.upper).all()


def swings(seed: int) -> F64:
    """Swings of about twenty steps that come and go, which no profile of a day can know."""
    rng, value = np.random.default_rng(seed), np.zeros(500)
    for at in range(2, 500):
        value[at] = 1.88 * value[at - 1] - 0.98 * value[at - 2] + rng.normal()
    return value


def test_autoregression_wins_on_what_is_autoregressive() -> None:
    found = hourly(swings(5), horizon=12, period_s=None, config=FITS)
    assert found.method == "autoreg" and found.skill > 0.3


def test_a_failing_fit_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(past: F64, period: int, horizon: int) -> F64:
        raise np.linalg.LinAlgError("singular")

    def endless(past: F64, period: int, horizon: int) -> F64:
        return np.full((1, horizon), np.nan)

    monkeypatch.setattr(extrapolate, "FITS", {"autoreg": broken, "theta": endless})
    found, cheap = hourly(daily(240), config=BOTH), hourly(daily(240))
    assert found.notes == ("autoreg failed: singular", "theta failed: not finite")
    assert found.method == cheap.method
    np.testing.assert_array_equal(found.lower, cheap.lower)


def test_a_fit_that_fails_on_the_whole_history_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    at, value = np.arange(432), daily(432)

    def knows(past: F64, period: int, horizon: int) -> F64:
        if past.shape[1] == 240:
            raise ValueError("no more")
        return value[None, past.shape[1] + at[:horizon]]

    monkeypatch.setattr(extrapolate, "FITS", {"autoreg": knows})
    found = hourly(value[:240], config=ForecastConfig(fits=("autoreg",)))
    assert found.notes == ("autoreg failed: no more",)
    assert found.method != "autoreg"


def test_time_is_bounded() -> None:
    ticks = itertools.count()
    found = forecast(
        daily(240),
        hours(240),
        horizon_s=DAY_S,
        step_s=HOUR_S,
        period_s=DAY_S,
        config=ForecastConfig(fits=("autoreg", "theta"), most_s=2.5),
        clock=lambda: float(next(ticks)),
    )
    assert found.notes == ("autoreg was stopped: no time left", "theta was stopped: no time left")
    assert np.isfinite(found.expected).all()


def test_only_the_newest_steps_are_used() -> None:
    value = daily(600)
    value[:100] = 1e6
    config = ForecastConfig(fits=(), most_steps=400)
    np.testing.assert_array_equal(hourly(value, config=config).lower, hourly(value[200:]).lower)


# --- irregular history ---


def test_points_at_any_times_in_any_order_are_means_of_steps() -> None:
    rng = np.random.default_rng(4)
    value = daily(24 * 10)
    times = np.concatenate([hours(240) + rng.integers(0, int(HOUR_S * 1e9), 240) for _ in range(2)])
    points = np.concatenate([value - 1, value + 1])
    order = rng.permutation(len(points))
    found = forecast(
        points[order], times[order], horizon_s=DAY_S, step_s=HOUR_S, period_s=DAY_S, config=ForecastConfig(fits=())
    )
    # the two points of a step are one above and one below its mean
    np.testing.assert_allclose(found.expected, hourly(value).expected)


def test_gaps_are_filled_from_before_and_not_tried() -> None:
    value = daily(24 * 14, noise=0.0)
    whole = hourly(value)
    holes = value.copy()
    holes[100:102] = np.nan  # keeps the value before
    holes[200:290] = np.nan  # takes the days before
    holes[10] = np.inf
    found = hourly(holes)
    np.testing.assert_allclose(found.expected, whole.expected, atol=0.05)
    assert np.isfinite(found.upper).all()


def test_filling_takes_nothing_from_later() -> None:
    rng = np.random.default_rng(6)
    grid = rng.normal(size=(3, 96))
    grid[rng.random((3, 96)) < 0.4] = np.nan
    grid[:, 0] = 1.0
    for steps in (30, 50, 95):
        some, whole = (rolling.history_of(part, 8, 4).past for part in (grid[:, :steps], grid))
        np.testing.assert_array_equal(some, whole[:, :steps])


def test_an_origin_of_the_backtest_sees_nothing_later() -> None:
    value = daily(240)[None, :]
    other = value.copy()
    other[0, 200:] = np.random.default_rng(8).normal(0, 100, 40)
    first, second = (rolling.history_of(part, 24, 24) for part in (value, other))
    early = first.plan.origins + first.plan.reach <= 200
    errors = [rolling.backtest(part, 1.0).error[0, early] for part in (first, second)]  # no way gains all
    np.testing.assert_array_equal(*errors)
    assert early.any() and not early.all()


def test_what_began_late_is_tried_only_from_what_it_knew() -> None:
    grid = daily(240)[None, :].copy()
    grid[0, :170] = np.nan
    history = rolling.history_of(grid, 24, 24)
    assert np.isnan(history.truth[0, history.plan.origins < 194]).all()
    assert np.isfinite(history.truth[0, history.plan.origins >= 194]).all()


# --- intervals ---


@pytest.mark.parametrize("kind", ["season", "noise", "skewed", "walk", "trend"])
def test_nine_of_ten_future_values_are_in_the_interval(kind: str) -> None:
    rng, size = np.random.default_rng(11), (80, 24 * 15)
    at = np.arange(size[1])
    noise = rng.normal(0, 1, size)
    value = {
        "season": 5 * np.sin(at / 24 * 2 * np.pi) + noise,
        "noise": noise,
        "skewed": rng.gamma(1.0, 1.0, size),
        "walk": noise.cumsum(axis=1),
        "trend": 0.3 * at + noise,
    }[kind]
    past, future = value[:, :-24], value[:, -24:]
    found = forecast_many(past, hours(past.shape[1]), horizon_s=DAY_S, period_s=DAY_S)
    held = (future >= found.lower) & (future <= found.upper)
    assert 0.85 <= held.mean() <= 0.95
    assert min(held[:, :4].mean(), held[:, -4:].mean()) >= 0.80


def test_the_interval_of_a_fit_holds_too() -> None:
    held = []
    for seed in range(10):
        value = swings(seed)
        found = hourly(value[:-12], 12, period_s=None, config=ForecastConfig(fits=("autoreg",), most_s=60.0))
        assert found.method == "autoreg"
        held.append((value[-12:] >= found.lower) & (value[-12:] <= found.upper))
    assert 0.85 <= np.mean(held) <= 0.98


def test_a_wider_coverage_is_a_wider_interval() -> None:
    value = daily(24 * 14)
    wide, narrow = (hourly(value, config=ForecastConfig(fits=(), coverage=share)) for share in (0.9, 0.5))
    assert (wide.upper - wide.lower > narrow.upper - narrow.lower).all()


def test_beyond_what_could_be_tried_errors_grow() -> None:
    walk = np.random.default_rng(12).normal(0, 1, 100).cumsum()
    found = hourly(walk, horizon=200, period_s=None)
    width = found.upper - found.lower
    assert width[199] == pytest.approx(8 * width[24], rel=1e-9)
    assert found.paths.shape[1] == 200


def test_a_ratio_stays_within_its_bounds() -> None:
    rng = np.random.default_rng(13)
    value = np.clip(0.5 + 0.002 * np.arange(240) + rng.normal(0, 0.05, 240), 0, 1)
    config = ForecastConfig(bounds=(0.0, 1.0))
    for found in (hourly(value, horizon=96, config=config), hourly(value[:9], config=config)):
        for part in (found.expected, found.lower, found.upper, found.paths):
            assert not ((part < 0) | (part > 1)).any()
    assert hourly(value, horizon=96).upper.max() > 1


def test_forecasts_that_err_alike_count_as_few() -> None:
    rng = np.random.default_rng(16)
    apart = rng.normal(0, 1, (1, 48, 10))
    alike = np.repeat(rng.normal(0, 1, (1, 4, 10)), 12, axis=1)
    steps = np.arange(10)[None, :]
    assert 30 < rolling.freedom(apart, steps)[0, 0] <= 48
    assert 2 <= rolling.freedom(alike, steps)[0, 0] < 8
    assert np.abs(rolling.spread(alike)).sum() > 1.1 * np.abs(alike).sum()
    assert np.abs(rolling.spread(apart)).sum() < 1.05 * np.abs(apart).sum()


def test_luck_on_a_walk_is_not_taken_for_a_trend() -> None:
    walks = np.random.default_rng(17).normal(0, 1, (60, 336)).cumsum(axis=1)
    found = forecast_many(walks, hours(336), horizon_s=2 * DAY_S)
    assert np.mean([name == "seasonal_naive" for name in found.method]) > 0.6


# --- bad input ---


@pytest.mark.parametrize("count", [0, 1, 2, 11])
def test_a_short_history_has_no_interval(count: int) -> None:
    found = hourly(np.arange(count, dtype=np.float64), config=FITS)
    assert (found.method, found.paths.shape) == ("seasonal_naive", (0, 24))
    assert math.isnan(found.skill) and np.isnan(found.lower).all() and np.isnan(found.upper).all()
    assert (found.expected == count - 1).all() if count else np.isnan(found.expected).all()


def test_nothing_but_absent_values() -> None:
    found = hourly(np.full(100, np.nan), config=FITS)
    assert np.isnan(found.expected).all() and np.isnan(found.upper).all() and math.isnan(found.last)


def test_a_year_of_gap_is_no_year_of_memory() -> None:
    value, times = daily(240), hours(240)
    times[120:] += int(365 * DAY_S * 1e9)
    found = forecast(value, times, horizon_s=DAY_S, step_s=1.0, config=CHEAP)
    assert np.isfinite(found.expected).all() and len(found.expected) == 86_400 and len(found.paths) <= 48


@settings(max_examples=30, deadline=None)
@given(
    arrays(np.float64, st.integers(0, 80), elements=st.floats(allow_nan=True, allow_infinity=True)),
    st.sampled_from([None, 4 * HOUR_S, DAY_S]),
)
def test_no_input_raises_or_warns(value: F64, period_s: float | None) -> None:
    found = hourly(value, horizon=6, period_s=period_s)
    usable = np.abs(value) < rolling.LARGEST
    assert np.isfinite(found.expected).all() == usable.any()
    ends = np.isnan(found.lower) | (found.lower <= found.expected) & (found.expected <= found.upper)
    assert ends.all()
    exhaustion(found, 1.0)


@pytest.mark.parametrize("scale", [1e99, 1e-300, 5e-324])
def test_fits_take_odd_values_calmly(scale: float) -> None:
    found = hourly(np.random.default_rng(14).normal(0, 1, 120).round(1) * scale, config=BOTH)
    assert np.isfinite(found.expected).all()


def test_equal_input_gives_equal_bits() -> None:
    value = daily(24 * 8)
    first, second = (hourly(value, config=FITS) for _ in range(2))
    for one, two in zip((first.expected, first.paths), (second.expected, second.paths), strict=True):
        assert one.tobytes() == two.tobytes()


def test_wrong_arguments_are_named() -> None:
    value, times = daily(48), hours(48)
    with pytest.raises(BadInput, match=r"one shape.*\(48,\) and \(47,\)"):
        forecast(value, times[1:], horizon_s=1, step_s=1)
    with pytest.raises(ConfigError, match="horizon_s: must be > 0 s, got 0"):
        forecast(value, times, horizon_s=0, step_s=1)
    with pytest.raises(ConfigError, match="period_s: must be > 0 s, got nan"):
        forecast(value, times, horizon_s=1, step_s=1, period_s=math.nan)
    with pytest.raises(BadInput, match="equally spaced"):
        forecast_many(value[None, :], np.append(times[:-1], times[-1] + 1), horizon_s=DAY_S)
    for wrong in ({"coverage": 1.0}, {"bounds": (1.0, 0.0)}, {"fits": ("prophet",)}, {"most_steps": 3}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ForecastConfig(**wrong)  # type: ignore[arg-type]


# --- many at once ---


def test_many_at_once_equal_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(15)
    value = np.stack([daily(192, 1), rng.normal(0, 1, 192).cumsum(), rng.normal(0, 1, 192), np.full(192, np.nan)])
    value[0, 50:60] = np.nan
    value[2, :60] = np.nan
    monkeypatch.setattr("otel_aiops.detect.forecast.BLOCK", 2 * 48 * 192)  # two series in a block
    many = forecast_many(value, hours(192), horizon_s=DAY_S, period_s=DAY_S)
    assert many.expected.shape == (4, 24) and many.paths.shape == (4, 48, 24)
    for row in (0, 1):  # one by one, the history begins with the first value
        one, of_many = hourly(value[row]), many.one(row)
        assert (one.method, one.last, one.last_ns) == (of_many.method, of_many.last, of_many.last_ns)
        assert one.skill == pytest.approx(of_many.skill)
        np.testing.assert_allclose(one.upper, of_many.upper)
        np.testing.assert_array_equal(one.time_ns, of_many.time_ns)
    assert np.isfinite(many.expected[2]).all() and np.isnan(many.expected[3]).all()


def test_no_series_at_all() -> None:
    many = forecast_many(np.empty((0, 48)), hours(48), horizon_s=DAY_S)
    assert many.expected.shape == (0, 24) and many.method == ()


# --- the ways ---


@pytest.mark.parametrize("name", sorted(extrapolate.CHEAP))
@pytest.mark.parametrize("period", [1, 24])
def test_a_way_forecasts_each_history_by_itself(name: str, period: int) -> None:
    past = np.stack([daily(120, seed) * (seed + 1) for seed in range(3)])
    way = extrapolate.CHEAP[name]
    together = way(past, period, 30)
    assert together.shape == (3, 30)
    np.testing.assert_allclose(together, np.concatenate([way(row[None, :], period, 30) for row in past]))
    moved = way(past * 3.0 + 100.0, period, 30)
    np.testing.assert_allclose(moved, together * 3.0 + 100.0, rtol=1e-9)


def test_a_fine_profile_is_smoothed_around_the_clock() -> None:
    day = np.random.default_rng(18).normal(0, 1, 96)
    around = [np.mean([day[(at + near) % 96] for near in range(-2, 3)]) for at in range(96)]
    past = np.tile(day, 5)[None, :]
    np.testing.assert_allclose(extrapolate._profile(past, 96)[0], around)
    assert np.abs(extrapolate.profile(past, 96, 96)[0] - around).max() < np.abs(day - around).max()


def test_falls_do_not_bend_the_trend() -> None:
    filling = np.concatenate([np.arange(150.0), np.arange(90.0)])[None, :]  # the log is rotated once
    expected = 89.0 + np.arange(1, 25)
    for way in (extrapolate.drift, extrapolate.trend, extrapolate.sawtooth):
        np.testing.assert_allclose(way(filling, 1, 24)[0], expected, atol=1e-9)


def test_a_spike_is_forgotten_and_a_shift_is_not() -> None:
    spike, shift = daily(240, noise=0.01), daily(240, noise=0.01)
    spike[-1] += 5
    shift[-60:] += 5
    usual = daily(264, noise=0.0)[-24:]
    assert np.abs(extrapolate.profile(spike[None], 24, 24)[0] - usual)[3:].max() < 1.0
    assert np.abs(extrapolate.shape(shift[None], 24, 24)[0] - usual - 5).max() < 0.5
    assert np.abs(extrapolate.recent(shift[None], 24, 24)[0] - 15).max() < 1.5


# --- exhaustion ---


def filling(count: int, per_hour: float, noise: float = 0.002) -> F64:
    return 0.3 + per_hour * np.arange(count) + np.random.default_rng(21).normal(0, noise, count)


def test_a_filling_disk_has_a_time() -> None:
    value = filling(336, 0.0015)
    found = exhaustion(hourly(value, 48, config=ForecastConfig(fits=(), bounds=(0, 1))), 0.85)
    true_s = (0.85 - 0.3 - 0.0015 * 335) / 0.0015 * HOUR_S
    assert found.probability == 1.0
    assert found.earliest_s < found.time_s < found.latest_s
    assert found.time_s == pytest.approx(true_s, abs=4 * HOUR_S)
    assert found.earliest_s <= true_s <= found.latest_s + 2 * HOUR_S
    assert "probability 1.00 within 2.0 d" in found.reason and found.reason.startswith("in about")


def test_times_of_exhaustion_hold_what_happens() -> None:
    """Of many filling disks, about nine in ten are full between the earliest and the latest time."""
    rng = np.random.default_rng(22)
    step = rng.normal(1.0, 4.0, (60, 336 + 48))
    value = step.cumsum(axis=1)
    found = forecast_many(value[:, :336], hours(336), horizon_s=48 * HOUR_S)
    limit = value[:, 335] + 25.0
    reached = exhaustion_many(found, limit)
    ahead = value[:, 336:] >= limit[:, None]
    truly_s = np.where(ahead.any(axis=1), (np.argmax(ahead, axis=1) + 1) * HOUR_S, np.inf)
    held = (truly_s >= np.nan_to_num(reached.earliest_s, nan=np.inf) - HOUR_S) & (
        truly_s <= np.nan_to_num(reached.latest_s, nan=np.inf)
    )
    assert 0.8 <= held.mean() <= 1.0
    assert np.mean(reached.probability) == pytest.approx(np.isfinite(truly_s).mean(), abs=0.2)


def test_what_is_not_within_the_horizon_says_so() -> None:
    found = exhaustion(hourly(filling(336, 0.0005), 48), 0.99)
    assert math.isnan(found.time_s) and math.isnan(found.earliest_s) and found.probability == 0.0
    assert found.reason == "not within 2.0 d (probability 0.00)"


def test_a_rotated_log_does_not_fill_the_disk() -> None:
    value = (np.arange(336) * 0.01) % 0.7 + np.random.default_rng(23).normal(0, 0.002, 336)
    found = hourly(value, 96, period_s=None)
    assert found.method == "sawtooth"
    assert exhaustion(found, 0.9).probability < 0.05
    within = exhaustion(found, 0.6)
    assert within.probability > 0.95
    assert within.time_s == pytest.approx((0.6 - value[-1]) / 0.01 * HOUR_S, abs=2 * HOUR_S)


def test_free_memory_runs_out_downwards() -> None:
    value = 5 - 0.02 * np.arange(200) + np.random.default_rng(24).normal(0, 0.05, 200)
    found = exhaustion(hourly(value, 48, period_s=None), 0.5, "below")
    assert found.time_s == pytest.approx(25.5 * HOUR_S, abs=6 * HOUR_S)
    assert math.isnan(exhaustion(hourly(value, 48, period_s=None), 8.0, "above").time_s)


def test_a_limit_that_is_passed_already() -> None:
    found = exhaustion(hourly(daily(240)), 5.0)
    assert (found.time_s, found.probability, found.latest_s) == (0.0, 1.0, 0.0)


def test_a_full_ratio_is_at_its_limit() -> None:
    config = ForecastConfig(fits=(), bounds=(0.0, 1.0))
    found = exhaustion(hourly(np.minimum(filling(500, 0.00135, 0.0001), 1.0), 72, config=config), 1.0)
    assert 0 < found.time_s < 48 * HOUR_S


def test_a_limit_some_futures_reach_later_than_the_horizon() -> None:
    walk = np.random.default_rng(26).normal(0, 1, 400).cumsum()
    found = exhaustion(hourly(walk, 48, period_s=None), walk[-1] + 3.0)
    assert 0.5 <= found.probability < 0.9
    assert found.earliest_s < found.time_s and math.isnan(found.latest_s)
    assert "to later" in found.reason


def test_a_history_too_short_for_a_probability() -> None:
    found = exhaustion(hourly(np.arange(5.0)), 4.5)
    assert math.isnan(found.probability) and math.isnan(found.earliest_s)
    assert found.reason == "too little history to say"
    assert "probability unknown" in exhaustion(hourly(np.arange(5.0)), 4.0).reason


def test_a_series_that_has_just_begun_has_no_probability() -> None:
    value = np.stack([filling(100, 0.0), np.full(100, np.nan)])
    value[1, -3:] = 1.0
    many = forecast_many(value, hours(100), horizon_s=DAY_S)
    assert np.isnan(many.paths[1]).all() and np.isnan(many.lower[1]).all() and (many.expected[1] == 1.0).all()
    assert math.isnan(exhaustion(many.one(1), 0.5 + 1.0).probability)


def test_an_origin_after_which_nothing_came_takes_the_errors_of_another() -> None:
    error = np.array([[[1.0, np.nan], [np.nan, np.nan], [3.0, 4.0]], np.full((3, 2), np.nan)])
    np.testing.assert_array_equal(rolling.completed(error)[0], [[1.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    assert np.isnan(rolling.completed(error)[1]).all()


def test_exhaustion_of_many_and_its_arguments() -> None:
    value = np.stack([filling(336, 0.0015), filling(336, 0.0), np.full(336, np.nan)])
    many = forecast_many(value, hours(336), horizon_s=2 * DAY_S)
    found = exhaustion_many(many, np.array([0.84, 0.84, 0.84]))
    one = exhaustion(many.one(0), 0.84)
    assert found.one(0) == one and one.probability == 1.0
    assert found.probability[1] == 0.0 and math.isnan(found.probability[2])
    assert math.isnan(exhaustion(many.one(0), math.nan).probability)
    with pytest.raises(BadInput, match="one limit for each of 3 series"):
        exhaustion_many(many, np.ones(2))
    with pytest.raises(ConfigError, match="direction: must be above or below, got up"):
        exhaustion(many.one(0), 1.0, "up")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="coverage"):
        exhaustion(many.one(0), 1.0, coverage=0.0)
