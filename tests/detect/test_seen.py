"""The grid of visited cells: equal to its slow twin, for many series as for one, bounded, and forgetful in time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect.seen import LIFE, SPARE, WARM, Seen
from otel_aiops.otlp.points import F64
from tests.detect.made_series import Piece, pieces, values_of
from tests.detect.naive_novelty import NaiveSeen, slots_at

CELLS = 256


def fresh(rows: int, cells: int = CELLS) -> Seen:
    seen = Seen(cells)
    seen.reserve(rows)
    return seen


def step(seen: Seen, slot: int, value: float, memory: float = 4_000.0) -> float:
    """Novelty of one value, which is learned then."""
    slots = slots_at(slot)
    look = seen.look(slots, np.array([value]))
    seen.learn(slots, look, np.array([memory]))
    return float(look.novelty[0])


def visited(seen: Seen, slot: int) -> dict[int, int]:
    """Cell → life of one slot, and a check of the bits and the ends beside it."""
    of = seen.of
    life = of["life"][slot]
    low, high = int(of["low"][slot]), int(of["high"][slot])
    bits = np.unpackbits(of["live"][slot].view(np.uint8), bitorder="little")
    assert (bits == (life > 0)).all()
    cells = {low + (place - low) % len(life): int(life[place]) for place in np.flatnonzero(life).tolist()}
    assert (min(cells), max(cells)) == (low, high)
    assert high - low < len(life) - SPARE
    return cells


@settings(max_examples=20, deadline=None)
@given(pieces, st.sampled_from([1.0, 700.0, 4_000.0]), st.sampled_from([64, 256, 512]))
def test_equals_its_slow_twin(made: list[Piece], memory: float, cells: int) -> None:
    seen, twin, slots = fresh(3, cells), NaiveSeen(cells), slots_at(2)
    for value in values_of(made).tolist():
        look = seen.look(slots, np.array([value]))
        assert look.distance[0] == twin.distance(value)
        assert look.novelty[0] == twin.novelty(value)
        moved = seen.learn(slots, look, np.array([memory]))
        cell = twin.learn(value, memory)
        assert (moved.cell[0], moved.steps[0], moved.trimmed[0]) == (cell, twin.merged, twin.trimmed)
        assert (moved.low[0], moved.high[0]) == (twin.low, twin.high)
        assert visited(seen, 2) == twin.life
        assert seen.of["exponent"][2] == twin.exponent
    assert not seen.of["life"][[0, 1]].any()


@settings(max_examples=12, deadline=None)
@given(st.lists(pieces, min_size=2, max_size=5), st.booleans())
def test_many_series_at_once_equal_one_at_a_time(made: list[list[Piece]], apart: bool) -> None:
    values = [values_of(each) for each in made]
    together, alone = fresh(64), fresh(64)
    numbers = np.arange(len(values)) * (7 if apart else 1)
    for i in range(max(map(len, values))):
        some = [k for k in range(len(values)) if i < len(values[k])]
        slots, value = slots_at(*numbers[some]), np.array([values[k][i] for k in some])
        look = together.look(slots, value)
        together.learn(slots, look, np.full(len(some), 700.0))
        assert look.novelty.tolist() == [step(alone, int(numbers[k]), values[k][i], 700.0) for k in some]
    for name, array in together.of.items():
        assert (array == alone.of[name]).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_nearest_visited_cell_is_found_wherever_it_is(seed: int) -> None:
    """Visited cells with gaps of all sizes, over all places of the ring."""
    rng = np.random.default_rng(seed)
    seen, twin = fresh(1, 512), NaiveSeen(512)
    centres = rng.integers(0, 480, 6) + rng.integers(-2000, 2000)
    for value in [1024.0, 1024.0 + 480, *np.repeat(1024.0 + centres - centres.min(), 6)]:
        value = float(value)
        step(seen, 0, value)
        twin.learn(value, 4_000.0)
    probe = np.arange(900.0, 1700.0, 0.25)
    many = fresh(1, 512)
    many.of = {name: np.repeat(array[:1], len(probe), axis=0) for name, array in seen.of.items()}
    look = many.look(slots_at(*range(len(probe))), probe)
    assert look.distance.tolist() == [twin.distance(value) for value in probe.tolist()]


@given(pieces)
@settings(max_examples=20, deadline=None)
def test_what_was_just_seen_is_not_new(made: list[Piece]) -> None:
    seen = fresh(1)
    for value in values_of(made).tolist():
        reach = seen.look(slots_at(0), np.array([value]))
        step(seen, 0, value)
        if reach.novelty[0] < 10:  # what is farther than the grid grows at once is counted to its end
            assert seen.look(slots_at(0), np.array([value])).distance[0] == 0


def test_what_is_forgotten_is_new_again() -> None:
    seen, memory = fresh(1), 400.0
    values = [10.0, 20.0, 15.0, *([10.0, 20.0] * 20)]
    for value in values:
        step(seen, 0, value, memory)
    age = len(values) - 3  # values since the one that is not met again
    while seen.look(slots_at(0), np.array([15.0])).novelty[0] == 0:
        step(seen, 0, 10.0 + 10 * (age % 2), memory)
        age += 1
    assert abs(age - memory) <= 2 * memory / LIFE
    assert seen.look(slots_at(0), np.array([15.0])).novelty[0] == pytest.approx(0.5, abs=0.01)


def test_the_range_shrinks_when_an_end_is_forgotten() -> None:
    seen = fresh(1)
    for value in (1.0, 2.0, 100.0, *([1.0, 2.0] * 300)):
        step(seen, 0, value, 200.0)
    assert len(visited(seen, 0)) == 2
    assert seen.look(slots_at(0), np.array([100.0])).novelty[0] == 10
    assert seen.look(slots_at(0), np.array([100.0])).cell[0] > seen.of["high"][0]


def test_one_value_widens_the_grid_by_ten_ranges_at_most() -> None:
    seen = fresh(1)
    for i in range(40):
        step(seen, 0, 100.0 + i % 4)
    assert step(seen, 0, 1e12) == 10
    low, high = (math_value(seen, end) for end in ("low", "high"))
    assert (low, high) == pytest.approx((100.0, 133.0), abs=0.5)


def math_value(seen: Seen, end: str) -> float:
    return float(np.ldexp(float(seen.of[end][0]), int(seen.of["exponent"][0])))


def test_nothing_is_new_before_enough_is_known() -> None:
    seen = fresh(1)
    novelty = [step(seen, 0, 2.0**i) for i in range(WARM + 1)]
    assert novelty[:WARM] == [0.0] * WARM
    assert novelty[WARM] > 0.9


@pytest.mark.parametrize("first", [5e-324, 1e-310, 0.0, -1e-200, 1e150])
@pytest.mark.parametrize("then", [1.0, -1e150, 1e150, 5e-324])
def test_extremes_after_each_other_end_in_a_grid_that_holds_both(first: float, then: float) -> None:
    seen = fresh(1)
    for value in [first, then] * 30:
        assert 0 <= step(seen, 0, value) <= 10
    assert seen.look(slots_at(0), np.array([first, then])[[0]]).novelty[0] == 0
    assert 1 <= len(visited(seen, 0)) <= 3


def test_the_count_stops_at_what_fits() -> None:
    seen = fresh(1)
    step(seen, 0, 1.0)
    seen.of["count"][0] = 65_535
    step(seen, 0, 1.0)
    assert seen.of["count"][0] == 65_535


def test_the_youngest_part_gives_a_joined_cell_its_life() -> None:
    values: F64 = np.concatenate([np.arange(1024.0, 1024 + 200), [1024.0 + 480]])
    seen, twin = fresh(1), NaiveSeen(CELLS)
    for value in values.tolist():
        step(seen, 0, value, 1.0)
        twin.learn(value, 1.0)
    assert visited(seen, 0) == twin.life
    assert len(set(twin.life.values())) > 50
