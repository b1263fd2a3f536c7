"""Prototypes of pairs and what was usual of late: equal to their slow twin; what was not met for longest goes first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect.pairs import PROTOTYPES, STAMPS, Pairs
from otel_aiops.otlp.points import F64
from tests.detect.made_series import Piece, pieces, values_of
from tests.detect.naive_novelty import NaivePairs, slots_at


def fresh(rows: int) -> Pairs:
    pairs = Pairs()
    pairs.reserve(rows)
    return pairs


def step(pairs: Pairs, slots: list[int], values: list[float]) -> list[tuple[float, float]]:
    """(surprise, deviation) of values, which are learned then."""
    at, value = slots_at(*slots), np.array(values)
    look = pairs.look(at, value)
    pairs.learn(at, value, look)
    return list(zip(look.surprise.tolist(), look.deviation.tolist(), strict=True))


def surprise(pairs: Pairs, value: float) -> float:
    return float(pairs.look(slots_at(0), np.array([value])).surprise[0])


@settings(max_examples=15, deadline=None)
@given(pieces)
def test_equals_its_slow_twin(made: list[Piece]) -> None:
    pairs, twin = fresh(3), NaivePairs()
    for value in values_of(made).tolist():
        expected, (found, deviation) = twin.surprise(value), step(pairs, [1], [value])[0]
        assert found == expected
        of = {name: array[1] for name, array in pairs.of.items()}
        # The fast one adds up in float32.
        rough = 1e-5 * twin.spread + 2e-7 * max(map(abs, twin.values[-128:]), default=0.0) + twin.least()
        assert abs(deviation * (twin.spread + twin.least()) - twin.deviation(value) * (twin.spread + twin.least())) <= (
            deviation * rough
        )
        twin.learn(value)
        of = {name: array[1] for name, array in pairs.of.items()}
        known = [(p.now, p.before) for p in twin.prototypes]
        assert list(zip(of["now"], of["before"], strict=True))[: len(known)] == known
        assert of["stamp"][: len(known)].tolist() == [p.met for p in twin.prototypes]
        assert of["median"] == twin.median
        assert (of["mean"], of["power"], of["high"], of["low"]) == (twin.mean, twin.power, twin.high, twin.low)


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


def test_many_chunks_of_series_equal_one_at_a_time() -> None:
    rng, rows = np.random.default_rng(5), 700
    together, alone = fresh(rows), fresh(rows)
    for _ in range(60):
        values = np.round(rng.normal(size=rows), 1) * 10
        found = step(together, list(range(rows)), values.tolist())
        for k in (0, 255, 256, 511, 512, 699):
            assert step(alone, [k], [float(values[k])]) == [found[k]]


def test_what_repeats_is_no_surprise_and_what_is_rare_stays_one() -> None:
    pairs = fresh(1)
    for i in range(400):
        step(pairs, [0], [[1.0, 5.0, 2.0, 8.0][i % 4]])
    assert surprise(pairs, 1.0) < 0.02
    assert surprise(pairs, 5.0) > 0.3  # a usual value, that never followed on this one


def test_the_prototype_not_met_for_longest_goes_first() -> None:
    pairs = fresh(1)
    values = [0.0]
    followed: set[tuple[float, float]] = set()
    for _ in range(99):  # no pair comes twice
        new = max(x for x in range(10) if (float(x), values[-1]) not in followed)
        followed.add((float(new), values[-1]))
        values.append(float(new))
    for value in values:
        step(pairs, [0], [value])
    known = set(zip(pairs.of["now"][0].tolist(), pairs.of["before"][0].tolist(), strict=True))
    assert known == set(list(zip(values[1:], values, strict=False))[-PROTOTYPES:])


def test_stamps_are_halved_in_good_order() -> None:
    pairs, twin = fresh(1), NaivePairs()
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.integers(0, 30, 200) * 10.0, rng.integers(0, 30, 250) * 10.0])
    for i, value in enumerate(values.tolist()):
        assert step(pairs, [0], [value])[0][0] == twin.surprise(value)
        twin.learn(value)
        if i == 199:
            used = pairs.of["stamp"][0] > 0
            pairs.of["stamp"][0][used] += STAMPS - 250
            pairs.of["clock"][0] += STAMPS - 250
    assert 0 < int(pairs.of["clock"][0]) < STAMPS * 0.6
    assert int(pairs.of["stamp"][0].min()) >= 1


@pytest.mark.parametrize("level", [0.0, 1e9])
def test_the_deviation_is_robust(level: float) -> None:
    values: F64 = level + np.random.default_rng(4).normal(size=400)
    values[390] += 1e5
    pairs = fresh(1)
    for value in values[:390].tolist():
        step(pairs, [0], [value])
    found = [step(pairs, [0], [value])[0][1] for value in values[390:].tolist()]
    assert found[0] > 5e4
    assert max(found[1:6]) < 5


def test_quantiles_that_have_crossed_are_a_scale_as_well() -> None:
    pairs = fresh(1)
    for i in range(50):
        step(pairs, [0], [float(i % 3)])
    high, low = pairs.of["high"][0], pairs.of["low"][0]
    expected = surprise(pairs, 40.0)
    pairs.of["high"][0], pairs.of["low"][0] = low, high
    assert surprise(pairs, 40.0) == expected > 1


def test_nothing_is_said_of_the_first_values_and_the_last_are_bounded() -> None:
    pairs = fresh(1)
    assert [step(pairs, [0], [10.0**i])[0] for i in range(20)] == [(0.0, 0.0)] * 20
    assert 0 <= surprise(pairs, 1e150) <= 1e3
    assert surprise(pairs, -1e150) <= 1e3


def test_the_count_stops_at_what_fits() -> None:
    pairs = fresh(1)
    step(pairs, [0], [1.0])
    pairs.of["count"][0] = 2**31 - 1 - 128
    step(pairs, [0], [2.0])
    assert pairs.of["count"][0] == 2**31 - 1 - 128
