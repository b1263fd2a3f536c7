"""Clean series: each kind is what its name says, and a seed gives equal bits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from otel_aiops.detect.specimens import KINDS, clean
from otel_aiops.errors import ConfigError

DAY, WEEK = 1440, 7 * 1440
MONDAY_NS = 1_760_313_600_000_000_000  # 2025-10-13


def made(kind: str, steps: int = 2 * DAY, series: int = 6) -> NDArray[np.float64]:
    return clean(kind, series, steps, seed=1, start_ns=MONDAY_NS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_equal_bits_and_another_one_others(kind: str) -> None:
    assert made(kind).shape == (6, 2 * DAY)
    assert made(kind).tobytes() == made(kind).tobytes()
    assert made(kind).tobytes() != clean(kind, 6, 2 * DAY, seed=2, start_ns=MONDAY_NS).tobytes()


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected one of daily, .*, got 'odd'"):
        clean("odd", 1, 1, seed=0)


def alike(values: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """Correlation of each series with itself some steps before."""
    return np.array([np.corrcoef(row[steps:], row[:-steps])[0, 1] for row in values])


def test_days_are_alike_and_half_days_are_not() -> None:
    assert (alike(made("daily"), DAY) > 0.9).all() and (alike(made("daily"), DAY // 2) < 0).all()


def test_weekends_are_lower() -> None:
    weekly = made("weekly", 2 * WEEK)
    assert (weekly[:, 5 * DAY : WEEK].mean(axis=1) < 0.9 * weekly[:, : 5 * DAY].mean(axis=1)).all()
    assert (alike(weekly, WEEK) > 0.9).all()


def test_a_trend_goes_one_way() -> None:
    days = made("trend", 5 * DAY).reshape(6, 5, DAY).mean(axis=2)
    assert (np.abs(np.sign(np.diff(days, axis=1)).sum(axis=1)) == 4).all()


def test_noise_is_around_a_level() -> None:
    noise = made("noise")
    share = noise.std(axis=1) / noise.mean(axis=1)
    assert ((share > 0.005) & (share < 0.06)).all()
    assert (np.abs(alike(noise, 1)) < 0.1).all()


def test_counts_are_few() -> None:
    counts = made("counts")
    assert (counts == np.round(counts)).all() and counts.min() == 0
    assert np.allclose(counts.mean(axis=1), np.geomspace(0.5, 5.0, 6), rtol=0.1)


def test_two_levels() -> None:
    bimodal = made("bimodal")
    middle = (bimodal.min(axis=1) + bimodal.max(axis=1))[:, None] / 2
    upper = (bimodal > middle).mean(axis=1)
    assert ((upper > 0.2) & (upper < 0.8)).all()
    between = np.abs(bimodal - middle) < 0.2 * np.ptp(bimodal, axis=1)[:, None] / 2
    assert between.mean() < 0.02


def test_saturated_and_constant_and_sparse() -> None:
    full = made("saturated")
    assert full.max() == 100 and 0.7 < (full == 100).mean() < 0.8
    assert (np.ptp(made("constant"), axis=1) == 0).all()
    assert np.isfinite(made("sparse")).mean() == pytest.approx(1 / 15, rel=0.1)


def test_rates_of_a_counter_keep_their_mean_through_restarts() -> None:
    rates = made("counter", 5 * DAY)
    assert (rates >= 0).all()
    assert np.allclose(rates.mean(axis=1), np.median(rates, axis=1), rtol=0.02)


def test_autoregressive_and_heavy_tails() -> None:
    assert np.allclose(alike(made("autoregressive", 5 * DAY), 1), 0.9, atol=0.03)
    heavy = made("heavy", 5 * DAY)
    assert (heavy > 0).all()
    assert ((heavy.max(axis=1) - np.median(heavy, axis=1)) > 1.5 * (np.median(heavy, axis=1) - heavy.min(axis=1))).all()
