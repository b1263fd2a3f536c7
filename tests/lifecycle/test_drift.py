"""Drift: found where values are others at the same time of day, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from otel_aiops.labels import Labels
from otel_aiops.lifecycle.drift import Compared, DriftLimits, compare, reference_of
from otel_aiops.lifecycle.sketch import QUANTILES, Sketches, joined, sketched
from otel_aiops.otlp.points import F64, I64
from otel_aiops.series.segments import HOUR_NS

FIRST = 493_848  # an hour; a Sunday, 2026-05-03T00:00:00Z
STEP_NS = 5 * 60_000_000_000
LIMITS = DriftLimits()


def name(pod: int, service: str = "cart", metric: str = "load") -> str:
    resource = (("service.instance.id", f"i{pod}"), ("service.name", service))
    return Labels(metric, resource=resource, attributes=(("shard", f"{pod}"),)).to_json()


def wave(hours: I64, *, pods: int = 3, level: float = 100.0, seed: int = 0, **odd: Any) -> Sketches:
    """A day's wave of 20 with noise of 5, each pod with a level of its own that wanders from day to day."""
    first_ns, last_ns = int(hours[0]) * HOUR_NS, (int(hours[-1]) + 1) * HOUR_NS
    time_ns = np.arange(first_ns, last_ns, STEP_NS)
    rng = np.random.default_rng([seed, int(hours[0])])
    shift_h = odd.get("later_h", 0.0)
    day = (time_ns / HOUR_NS - shift_h) / 24
    weekend = np.where(np.isin((day.astype(int) + 4) % 7, (5, 6)), odd.get("weekend", 0.0), 0.0)
    parts = []
    for pod in range(pods):
        wander = rng.normal(0, 1, len(time_ns) // 288 + 2)[np.arange(len(time_ns)) // 288]
        noise = rng.normal(0, 5, len(time_ns)) * odd.get("scale", 1.0)
        parts.append(level + 10 * (pod + odd.get("pod", 0)) + weekend + 20 * np.sin(2 * np.pi * day) + wander + noise)
    moved = odd.get("moved", pods)
    value = np.concatenate([part + odd.get("by", 0.0) * (k < moved) for k, part in enumerate(parts)])
    code = np.repeat(np.arange(pods), len(time_ns))
    return sketched([name(k + odd.get("pod", 0)) for k in range(pods)], hours, code, np.tile(time_ns, pods), value)


def judged(reference_days: int = 7, later_days: int = 7, *, live_hours: int = 30, **odd: Any) -> Compared:
    before = np.arange(FIRST, FIRST + 24 * reference_days)
    now = np.arange(before[-1] + 1 + 24 * later_days, before[-1] + 1 + 24 * later_days + live_hours)
    usual = {key: odd[key] for key in ("weekend",) if key in odd}
    pods = odd.get("before", odd.get("pods", 3))
    reference = reference_of(wave(before, pods=pods, **usual), "a test", window=6)
    return compare(reference, wave(now, **{"seed": 1, **odd}), LIMITS)


@pytest.mark.parametrize(
    ("odd", "what"),
    [({"by": 15.0}, "level"), ({"by": -15.0}, "level"), ({"scale": 4.0}, "spread"), ({"later_h": 12.0}, "shape")],
    ids=["up", "down", "wider", "night for day"],
)
def test_what_changed_is_found_with_a_large_effect(odd: dict[str, Any], what: str) -> None:
    (found,) = judged(**odd).drifts
    assert found.kind == "input" and (found.service, found.metric) == ("cart", "load")
    assert found.effect > 1 and found.share == 1 and found.series == 3
    assert found.persistent and found.looks >= LIMITS.looks
    assert "load of cart" in found.text and f"in {found.looks} looks in a row" in found.text
    if what != "shape":  # twelve hours later it is at times the level
        assert found.what == what


@pytest.mark.parametrize("days", [2, 7, 14, 21])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_stable_seasons_are_no_drift(days: int, seed: int) -> None:
    for start in range(0, 168, 31):  # whatever the time of the week
        found = judged(days, live_hours=30 + start, seed=seed)
        assert not found.drifts and found.groups[0].effect < LIMITS.effect


def test_a_weekend_is_no_drift() -> None:
    for later_days in range(7):
        assert not judged(7, later_days, weekend=-30.0).drifts
        assert not judged(21, later_days, weekend=-30.0).drifts


def test_many_points_do_not_make_a_tiny_shift_a_drift() -> None:
    before, now = np.arange(FIRST, FIRST + 168), np.arange(FIRST + 400, FIRST + 430)
    rng = np.random.default_rng(0)

    def dense(hours: I64, by: float) -> Sketches:
        time_ns = np.arange(int(hours[0]) * HOUR_NS, (int(hours[-1]) + 1) * HOUR_NS, HOUR_NS // 3_600)
        return sketched([name(0)], hours, np.zeros(len(time_ns), np.int64), time_ns, rng.normal(by, 1, len(time_ns)))

    reference = reference_of(dense(before, 0.0), "a test", window=6)
    (one,) = compare(reference, dense(now, 0.05), LIMITS).groups  # significant: 108,000 points
    assert not one.looks and one.effect < 0.1
    assert compare(reference, dense(now, 1.5), LIMITS).drifts


def test_what_has_just_begun_is_not_persistent() -> None:
    before = np.arange(FIRST, FIRST + 168)
    now = np.arange(FIRST + 336, FIRST + 366)
    usual, odd = wave(now, seed=1), wave(now, seed=1, by=40.0)
    values = usual.values.copy()
    values[:, -5:] = odd.values[:, -5:]
    reference = reference_of(wave(before), "a test", window=6)
    (found,) = compare(reference, Sketches(usual.names, now, values), LIMITS).drifts
    assert 1 <= found.looks <= 5 and not found.persistent
    assert found.since_ns == (int(now[-found.looks]) - 5) * HOUR_NS
    values[:, -1:] = usual.values[:, -1:] - 35  # back again, so that the newest window is as before
    values[:, -6:] = usual.values[:, -6:]
    assert not compare(reference, Sketches(usual.names, now, values), LIMITS).drifts


def test_one_of_many_series_is_no_drift_of_their_group() -> None:
    (one,) = judged(pods=8, moved=1, by=50.0).groups
    assert one.share == pytest.approx(1 / 8) and not one.looks
    (one,) = judged(pods=8, moved=4, by=50.0).groups
    assert one.looks and one.share == 0.5


def test_new_pods_are_compared_with_their_deployment() -> None:
    found = judged(pods=2, pod=2, before=3)  # one that was there and a new one
    assert not found.unmatched and found.groups[0].series == 2 and not found.drifts
    assert judged(pods=2, pod=5, before=3, by=200.0).drifts
    before, now = np.arange(FIRST, FIRST + 168), np.arange(FIRST + 336, FIRST + 366)
    strange = Sketches((name(0, "pay"),), now, wave(now, pods=1).values)
    alone = compare(reference_of(wave(before), "a test", window=6), strange, LIMITS)
    assert (alone.unmatched, alone.groups) == (1, ())


@pytest.mark.parametrize("level", [0.0, 7.0])
def test_series_that_never_change(level: float) -> None:
    before, now = np.arange(FIRST, FIRST + 72), np.arange(FIRST + 100, FIRST + 130)

    def constant(hours: I64, value: float) -> Sketches:
        return Sketches((name(0),), hours, np.full((1, len(hours), len(QUANTILES)), value, np.float32))

    reference = reference_of(constant(before, level), "a test", window=6)
    assert not compare(reference, constant(now, level), LIMITS).drifts
    assert compare(reference, constant(now, level + 5), LIMITS).drifts[0].effect > 1


def test_a_day_is_no_reference() -> None:
    short = reference_of(wave(np.arange(FIRST, FIRST + 20)), "a test", window=6)
    assert not short.names
    found = compare(short, wave(np.arange(FIRST + 100, FIRST + 130)), LIMITS)
    assert found.unmatched == 3 and not found.groups
    empty = Sketches((), np.empty(0, np.int64), np.empty((0, 0, len(QUANTILES)), np.float32))
    assert reference_of(empty, "a test", window=6).days == 0 and compare(short, empty, LIMITS).groups == ()


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e6, 1e6) | st.just(np.nan)))
def test_sketches_are_the_quantiles_of_an_hour(value: F64) -> None:
    hours = np.array([5, 7])
    time_ns = 5 * HOUR_NS + np.arange(len(value)) * 2 * HOUR_NS  # hours 5, 7 and others
    found = sketched(["a", "b"], hours, np.zeros(len(value), np.int64), time_ns, value)
    for k, hour in enumerate(hours):
        mine = value[(time_ns // HOUR_NS == hour) & np.isfinite(value)]
        expected = np.quantile(mine, QUANTILES) if len(mine) else np.full(len(QUANTILES), np.nan)
        np.testing.assert_allclose(found.values[0, k], expected, rtol=1e-5, atol=1e-2)
    assert np.isnan(found.values[1]).all()


def test_hours_of_different_series_are_joined_by_name() -> None:
    parts = {h: sketched([n], np.array([h]), np.zeros(1, np.int64), np.array([h * HOUR_NS]), np.array([float(h)]))
             for h, n in ((9, "b"), (3, "a"), (4, "b"))}  # fmt: skip
    whole = joined(parts)
    assert whole.names == ("a", "b") and whole.hours.tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert whole.values[1, [1, 6], 0].tolist() == [4.0, 9.0] and np.isnan(whole.values[:, 2:6]).all()
    assert np.isnan(whole.values[0, 1:]).all() and not len(joined({}).hours)
