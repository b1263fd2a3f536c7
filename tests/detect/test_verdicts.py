"""Verdicts move thresholds the right way, by bounded amounts, and less where others say otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect.verdicts import FALSE_ALERT, MISSED, MOST_SHIFT, TRUE_ALERT, Verdicts
from otel_aiops.errors import StateError


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def learn(verdicts: Verdicts, *said: tuple[int, float, int]) -> None:
    row, ratio, kind = zip(*said, strict=True)
    verdicts.learn(rows(*row), np.array(ratio), np.array(kind))


def made(groups: tuple[int, ...] = (0, 0, 0, 1)) -> Verdicts:
    verdicts = Verdicts()
    verdicts.assign(rows(*range(len(groups))), rows(*groups))
    return verdicts


def test_nothing_moves_without_verdicts() -> None:
    assert Verdicts().shift(rows(3, 5)).tolist() == [0, 0]
    verdicts = made()
    verdicts.learn(rows(), np.empty(0), np.empty(0, np.int64))
    assert verdicts.shift(rows(0, 1, 2, 3, 9)).tolist() == [0] * 5
    assert len(verdicts) == 0


def test_false_alerts_raise_and_missed_anomalies_lower_the_threshold() -> None:
    verdicts = made((0, 1))
    learn(verdicts, (0, 1.5, FALSE_ALERT), (0, 1.4, FALSE_ALERT), (1, 0.6, MISSED), (1, 0.7, TRUE_ALERT))
    up, down = verdicts.shift(rows(0, 1))
    assert up > 0.1
    assert down < -0.1


def test_more_verdicts_move_further_and_never_too_far() -> None:
    verdicts, moved = made((0,)), [0.0]
    for _ in range(40):
        learn(verdicts, (0, 2.0, FALSE_ALERT))
        moved.append(float(verdicts.shift(rows(0))[0]))
    assert all(np.diff(moved) > 0)
    assert np.log(2) < moved[-1] <= MOST_SHIFT


def test_a_true_alert_far_above_the_threshold_says_little() -> None:
    verdicts = made((0,))
    learn(verdicts, (0, 50.0, TRUE_ALERT))
    assert abs(verdicts.shift(rows(0))[0]) < 0.01


def test_series_without_verdicts_follow_their_group_a_little() -> None:
    verdicts = made((0, 0, 0, 1))
    learn(verdicts, *[(0, 1.6, FALSE_ALERT)] * 6, *[(1, 1.6, FALSE_ALERT)] * 6)
    own, _, other, foreign = verdicts.shift(rows(0, 1, 2, 3))
    assert 0.1 < other < own
    assert foreign == 0


def test_one_series_moves_the_others_of_its_group_half_as_far() -> None:
    verdicts = made()
    learn(verdicts, *[(0, 1.6, FALSE_ALERT)] * 3)
    own, other = verdicts.shift(rows(0, 1))
    assert 0 < other == pytest.approx(own / 2)


def test_a_group_that_agrees_moves_a_series_further_than_it_moves_alone() -> None:
    alone, together = made(), made()
    learn(alone, (0, 1.6, FALSE_ALERT))
    learn(together, (0, 1.6, FALSE_ALERT), *[(1, 1.6, FALSE_ALERT)] * 9)
    assert together.shift(rows(0))[0] > alone.shift(rows(0))[0] + 0.05


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.floats(allow_nan=True, allow_infinity=True), st.integers(0, 2)),
        min_size=1,
        max_size=30,
    )
)
def test_any_verdicts_give_bounded_shifts_in_any_order(said: list[tuple[int, float, int]]) -> None:
    forth, back = made(), made()
    learn(forth, *said)
    learn(back, *reversed(said))
    shift = forth.shift(rows(0, 1, 2, 3))
    assert (np.abs(shift) <= MOST_SHIFT).all()
    np.testing.assert_allclose(shift, back.shift(rows(0, 1, 2, 3)), atol=1e-9)


def test_forgotten_rows_start_anew_and_their_place_is_used_again() -> None:
    verdicts = made()
    learn(verdicts, *[(0, 1.6, FALSE_ALERT)] * 6)
    assert verdicts.shift(rows(1))[0] > 0.05
    verdicts.forget(rows(0, 77))
    np.testing.assert_allclose(verdicts.shift(rows(0, 1)), 0, atol=1e-12)
    assert len(verdicts) == 0
    learn(verdicts, (7, 0.6, MISSED))
    assert len(verdicts) == 1
    assert len(verdicts.state()["slots/row"]) == 1
    assert verdicts.shift(rows(7))[0] < 0


def test_restored_verdicts_go_on_with_the_same_bits() -> None:
    one, other = made(), made((0, 1, 2, 3, 4, 5))
    learn(one, (0, 1.6, FALSE_ALERT), (1, 0.5, MISSED), (3, 2.0, FALSE_ALERT))
    one.forget(rows(1))
    learn(other, (5, 3.0, FALSE_ALERT))
    other.restore(one.state())
    for verdicts in (one, other):
        learn(verdicts, (0, 1.2, TRUE_ALERT), (2, 1.3, FALSE_ALERT))
    state, same = one.state(), other.state()
    assert state.keys() == same.keys()
    assert all(np.array_equal(state[name], same[name]) for name in state)
    with pytest.raises(StateError):
        other.restore({**state, "groups": np.zeros((2, 2))})
