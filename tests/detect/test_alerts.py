"""What is worth waking somebody for: equal to its slow twin; held after an alert, tired by many, never deaf."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect.alerts import Alerts, alarming
from tests.detect.naive_novelty import NaiveAlerts, slots_at

SCORES = st.lists(st.sampled_from([0.0, 0.0, 0.3, 1.0, 1.5, 4.0, 90.0]), min_size=1, max_size=60)


def fresh(rows: int) -> Alerts:
    alerts = Alerts()
    alerts.reserve(rows)
    return alerts


def step(alerts: Alerts, rows: list[int], scores: list[float], points: float) -> list[float]:
    alert = alerts.look(slots_at(*rows), np.array(scores), np.full(len(rows), points))
    alerts.learn(slots_at(*rows), alert)
    return [float(x) for x in alert]


@settings(max_examples=20, deadline=None)
@given(SCORES, st.integers(0, 400), st.sampled_from([20.0, 1_000.0, 1e5]))
def test_equals_its_slow_twin(scores: list[float], quiet: int, points: float) -> None:
    alerts, twin = fresh(3), NaiveAlerts()
    for score in [*scores, *[0.0] * quiet, *scores]:
        expected = twin.look(score, points)
        assert step(alerts, [1], [score], points) == [pytest.approx(expected, rel=1e-12)]
        twin.learn(expected)


@settings(max_examples=15, deadline=None)
@given(SCORES, SCORES, st.booleans())
def test_many_series_at_once_equal_one_at_a_time(one: list[float], other: list[float], apart: bool) -> None:
    together, alone = fresh(20), fresh(20)
    rows = [3, 17] if apart else [3, 4]
    for pair in zip(one, other, strict=False):
        expected = [step(alone, [row], [score], 500.0)[0] for row, score in zip(rows, pair, strict=True)]
        assert step(together, rows, list(pair), 500.0) == expected


def test_after_an_alert_only_what_is_worse_is_one() -> None:
    alerts = fresh(1)
    assert step(alerts, [0], [2.0], 1_000.0) == [2.0]
    assert step(alerts, [0], [2.0], 1_000.0) == [0.0]
    assert step(alerts, [0], [9.0], 1_000.0)[0] > 2


@pytest.mark.parametrize(("points", "hold"), [(0.0, 30), (1_000.0, 60), (1e6, 400)])
def test_the_hold_grows_with_what_is_known(points: float, hold: int) -> None:
    alerts = fresh(1)
    step(alerts, [0], [2.0], points)
    held = [step(alerts, [0], [1.9], points)[0] for _ in range(hold + 5)]
    assert held[:hold] == [0.0] * hold
    assert held[hold] > 1


def test_each_alert_raises_the_bar_for_a_while() -> None:
    alerts = fresh(1)
    raised = []
    for _ in range(5):
        raised += step(alerts, [0], [50.0], 0.0)
        for _ in range(40):
            step(alerts, [0], [0.0], 0.0)
    assert raised == sorted(raised, reverse=True)
    assert raised[1] == pytest.approx(50 / 1.5, rel=0.01)  # one alert adds at most 2
    alerts.learn(slots_at(0), np.zeros(1))
    for _ in range(9_000):
        alerts.learn(slots_at(0), np.zeros(1))
    assert step(alerts, [0], [50.0], 0.0)[0] > 44


def test_a_long_silence_is_counted_up_to_its_end() -> None:
    alerts = fresh(1)
    step(alerts, [0], [2.0], 0.0)
    alerts.of["age"][0] = 9_990
    for _ in range(30):
        alerts.learn(slots_at(0), np.zeros(1))
    assert alerts.of["age"][0] == 10_001


def test_an_alarm_takes_what_is_strange_and_novel() -> None:
    nan = np.nan
    cases = [  # score, deviation, strange, novel, points
        (7.0, 5.0, nan, nan, 1_000.0),
        (3.0, 0.0, 2.0**20, 1.0, 1_000.0),
        (3.0, 0.0, 16.0, 0.0, 1_000.0),
        (3.0, 3.0, 0.1, 0.1, 1_000.0),
        (3.0, 0.0, 16.0, 1.0, 50.0),
    ]
    assert [alarming(*case) for case in cases] == pytest.approx([3.5, 8.0, 0.0, 1.5, 1.5])  # 2^(20 * 0.15); too young
    alone = [alarming(score, 0.0, *rest) for score, _, *rest in cases]
    assert alone == pytest.approx([3.5, 8.0, 0.0, 0.1, 1.5])
