"""The standard deviation of the newest values: equal to its slow twin, and exact beside large levels."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect.spread import Spread
from otel_aiops.otlp.points import F64
from tests.detect.made_series import Piece, pieces, values_of
from tests.detect.naive_novelty import NaiveSpread, slots_at


def fresh(rows: int) -> Spread:
    spread = Spread()
    spread.reserve(rows)
    return spread


def step(spread: Spread, slots: list[int], values: list[float]) -> list[float]:
    logarithm = spread.look(slots_at(*slots), np.array(values))
    spread.learn(slots_at(*slots), np.array(values))
    return [float(x) for x in logarithm]


@settings(max_examples=15, deadline=None)
@given(pieces)
def test_equals_its_slow_twin(made: list[Piece]) -> None:
    spread, twin = fresh(3), NaiveSpread()
    for value in values_of(made).tolist():
        assert step(spread, [1], [value]) == [twin.look(value)]
        twin.learn(value)


@settings(max_examples=8, deadline=None)
@given(st.lists(pieces, min_size=2, max_size=4), st.booleans())
def test_many_series_at_once_equal_one_at_a_time(made: list[list[Piece]], apart: bool) -> None:
    values = [values_of(each).tolist() for each in made]
    together, alone = fresh(40), fresh(40)
    for i in range(max(map(len, values))):
        some = [k for k in range(len(values)) if i < len(values[k])]
        numbers, row = [k * 9 if apart else k for k in some], [values[k][i] for k in some]
        expected = [step(alone, [n], [value])[0] for n, value in zip(numbers, row, strict=True)]
        assert step(together, numbers, row) == expected
    for name, array in together.of.items():
        assert (array == alone.of[name]).all()


@pytest.mark.parametrize("level", [0.0, 1e6, -1e9])
def test_is_the_deviation_of_the_newest_37_to_48_values(level: float) -> None:
    values: F64 = level + np.random.default_rng(2).normal(size=300) * np.repeat([1.0, 5.0, 0.2], 100)
    spread, found = fresh(1), [0.0]
    for value in values.tolist():
        found += step(spread, [0], [value])
    for count in range(150, 300):
        newest = values[max(0, (count - 1) // 12 - 3) * 12 : count].tolist()
        assert 37 <= len(newest) <= 48
        least = 1e-3 * float(spread.of["beginning"][0]) + 1e-9 * (abs(values[0]) + 1e-9)
        assert math.exp(found[count]) - least == pytest.approx(statistics.pstdev(newest), rel=1e-6)


def test_a_look_changes_nothing() -> None:
    spread = fresh(2)
    step(spread, [0, 1], [1.0, 2.0])
    before = spread.state(2)
    spread.look(slots_at(0, 1), np.array([5.0, -5.0]))
    assert all((array == before[name]).all() for name, array in spread.state(2).items())


def test_what_is_small_beside_the_beginning_does_not_count() -> None:
    spread = fresh(1)
    early = [step(spread, [0], [float(i % 2)])[0] for i in range(100)]
    late = [step(spread, [0], [0.5 + 1e-9 * (i % 2)])[0] for i in range(100)]
    assert max(early) == pytest.approx(math.log(0.5), abs=0.02)
    assert late[-1] == pytest.approx(math.log(0.5e-3), abs=0.01)


def test_the_count_wraps_between_blocks() -> None:
    spread, other = fresh(1), fresh(1)
    for i in range(48):
        step(spread, [0], [float(i)])
        step(other, [0], [float(i)])
    jump = 2**30 // 48 * 48
    spread.of["count"][0] += jump
    other.of["count"][0] += 480
    for i in range(200):
        assert step(spread, [0], [i**1.5]) == step(other, [0], [i**1.5])
    assert spread.of["count"][0] < 2**30
