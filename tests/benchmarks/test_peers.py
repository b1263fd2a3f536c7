"""Peers: no score depends on later rows, imitations do what their documents say, libraries are used as they mean it."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from benchmarks.detection import imitations, libraries
from benchmarks.detection.peers import PEERS
from benchmarks.detection.run import missing
from benchmarks.detection.series import Series, filled, nanoseconds, ranked

MINUTE_NS = 60_000_000_000


def series(value: np.ndarray, step_ns: int = 15 * MINUTE_NS) -> Series:
    return Series("a", np.arange(len(value), dtype=np.int64) * step_ns, np.asarray(value, float))


def daily(rows: int, noise: float = 0.2) -> np.ndarray:
    random = np.random.default_rng(3)
    return 10 + 3 * np.sin(np.arange(rows) / 96 * 2 * np.pi) + noise * random.normal(size=rows)


@pytest.mark.parametrize("name", PEERS)
def test_a_score_depends_on_the_rows_up_to_it(name: str) -> None:
    if package := missing(name):
        pytest.skip(f"{package} is not installed")
    value = daily(500)
    value[300:304] = np.nan
    whole, size = PEERS[name].score(series(value))
    part, _ = PEERS[name].score(series(value[:420]))
    assert len(whole) == 500 and np.isfinite(whole).all() and (whole >= 0).all()
    # Sums over windows of other lengths may round differently.
    np.testing.assert_allclose(part, whole[:420], rtol=1e-9, atol=1e-9)
    assert size > 0 or PEERS[name].kind == "sanity row"


@pytest.mark.parametrize("name", sorted(set(PEERS) - {"constant", "random"}))
def test_a_large_spike_is_stranger_than_most(name: str) -> None:
    if package := missing(name):
        pytest.skip(f"{package} is not installed")
    value = daily(450)
    value[400] = 60
    score, _ = PEERS[name].score(series(value))
    assert score[400:403].max() > np.quantile(score[250:400], 0.99)


@pytest.mark.parametrize("name", PEERS)
def test_a_constant_series_has_no_strange_row(name: str) -> None:
    if package := missing(name):
        pytest.skip(f"{package} is not installed")
    score, _ = PEERS[name].score(series(np.full(400, 7.0)))
    assert np.isfinite(score).all()
    if name not in ("random", "hst", "iforest"):  # these rank rows that are equal by their own luck or masses
        assert np.ptp(score[300:]) < 0.01


def test_robust_by_a_slow_twin() -> None:
    value = daily(700)
    score, _ = imitations.robust(series(value))
    for k in (20, 150, 299, 300, 301, 650):
        past = value[max(0, k - 300) : k]
        deviation = 1.4826 * np.median(np.abs(past - np.median(past)))
        expected = abs(value[k] - np.median(past)) / max(deviation, 0.25 * past.std())
        assert score[k] == pytest.approx(expected, rel=1e-6)
    assert (score[:20] == 0).all()


def test_netdata_needs_all_models_to_agree() -> None:
    random = np.random.default_rng(0)
    value = random.normal(size=2000)
    value[300] = 50.0  # models that were trained on it never call such a point strange again
    value[900], value[1900] = 50.0, 50.0
    score, size = imitations.netdata(series(value))
    assert score[300] > 1 and score[900] <= 1.1
    assert score[1300:1899].max() < 1.5
    assert size < 20_000
    # 18 models, one each 60 rows: 1,200 rows after the first spike none of them knows it.
    later = random.normal(size=3000)
    later[[300, 2800]] = 50.0
    score, _ = imitations.netdata(series(later))
    assert score[2800] > 1


def test_grafana_by_hand() -> None:
    # 1 and 3 in turn: an hour has mean 2 and spread 1, which is not over half of the mean, so the margin counts.
    value = np.tile([1.0, 3.0], 60)
    score, _ = imitations.grafana(series(value, 5 * MINUTE_NS))
    assert score[50] == pytest.approx(1.0)
    value[100] = 8.0
    hour = value[89:101]
    score, _ = imitations.grafana(series(value, 5 * MINUTE_NS))
    # With the spike the spread of its hour is over half of the mean, and the only such one: the band has two of it.
    expected = (8 - hour.mean()) / max(2 * hour.std(), 0.5 * hour.mean())
    assert score[100] == pytest.approx(expected)
    assert (score[:12] == 0).all()


def test_grafana_forgives_what_was_there_a_day_before() -> None:
    value = np.full(900, 10.0)
    value[280:301] = value[568:589] = 20.0
    score, _ = imitations.grafana(series(value, 5 * MINUTE_NS))
    assert score[280] > 1 > score[568] > 0


def test_holt_winters_goes_on_as_statsmodels_would() -> None:
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    value = daily(100)[::4].repeat(8) + np.arange(200) * 0.01 + np.tile([0.0, 1.0, 3.0, 1.0], 50)
    options = {"trend": "add", "damped_trend": True, "seasonal": "add", "seasonal_periods": 4}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = ExponentialSmoothing(value, initialization_method="heuristic", **options).fit()
    weights = {name: fit.params[name] for name in libraries._WEIGHTS}
    seasons = list(fit.params["initial_seasons"][:4])
    forecast, state = libraries._recursion(
        value, weights, fit.params["initial_level"], fit.params["initial_trend"], seasons
    )
    np.testing.assert_allclose(forecast, fit.fittedvalues, rtol=1e-8)
    assert state[0] == pytest.approx(fit.level[-1])
    assert len(state) == 2 + 4


def test_holt_winters_knows_the_season_after_two_days() -> None:
    value = daily(480, noise=0.01)
    value[450] = value[450 - 48]  # at the wrong time of the day
    score, _ = libraries.holt_winters(series(value))
    assert score[450] > 10 * np.median(score[250:450])


def test_what_objects_hold_is_counted_once() -> None:
    array = np.zeros(1000)
    assert 8_000 <= libraries.deep_bytes([array, array, {"same": array}]) < 9_000
    assert libraries.deep_bytes(np) == 0


def test_absent_values_are_those_before() -> None:
    np.testing.assert_array_equal(filled(np.array([np.nan, 1.0, np.nan, 2.0])), [1, 1, 1, 2])
    np.testing.assert_array_equal(filled(np.array([np.nan, np.inf])), [0, 0])
    np.testing.assert_array_equal(ranked(np.array([np.nan, -1.0, 0.5])), [0, 0, 0.5])
    assert math.isfinite(ranked(np.array([np.inf]))[0])


def test_times() -> None:
    assert nanoseconds("1970-01-02 00:00:00.5") == 86_400_500_000_000
    assert nanoseconds("1970-01-01T01:00:00+01:00") == nanoseconds("1970-01-01T00:00:00Z") == 0
    assert series(np.zeros(3)).day == 96 and series(np.zeros(1)).step_s == 1.0
