"""Tally: counts in cells equal those of plain dictionaries, whatever comes in which order."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.errors import StateError
from otel_aiops.signals.tally import Keys, Tally

KEPT = 6
HALF = 10.0
Cell = tuple[int, int]


def made(most: int = 1000) -> Tally:
    return Tally(slot_s=5.0, kept_slots=KEPT, half_life_s=HALF, most_cells=most)


def count(tally: Tally, *came: tuple[int, int, int], example: int = 0) -> None:
    """Count (slot, context, outcome) each."""
    slots, contexts, outcomes = np.array(came, np.int64).reshape(-1, 3).T
    examples = np.tile(np.array([0, example], np.uint64), (len(slots), 1))
    tally.add(slots, contexts, outcomes, examples)


def by_cell(tally: Tally, counts: Any) -> dict[Cell, float]:
    contexts = tally.contexts[tally.context_number]
    cells = zip(contexts.tolist(), tally.outcome.tolist(), counts.tolist(), strict=True)
    return {(context, outcome): value for context, outcome, value in cells if value}


class Naive:
    """The same with dictionaries."""

    def __init__(self) -> None:
        self.slots: dict[int, Counter[Cell]] = {}
        self.usual: dict[Cell, float] = {}
        self.active: Counter[int] = Counter()
        self.learned = -1
        self.late = 0

    def add(self, came: list[tuple[int, int, int]]) -> None:
        first = max(self.learned, max(self.slots, default=-1) - KEPT)
        for slot, context, outcome in came:
            if slot > first:
                self.slots.setdefault(slot, Counter())[context, outcome] += 1
            else:
                self.late += 1
        newest = max(self.slots, default=-1)
        self.slots = {slot: counts for slot, counts in self.slots.items() if slot > newest - KEPT}

    def learn(self, last: int, blocked: set[int]) -> None:
        for slot in sorted(self.slots):
            if self.learned < slot <= last:
                there = {context for context, _ in self.slots[slot]} - blocked
                self.usual = {c: v * (0.5 ** (5 / HALF) if c[0] in there else 1) for c, v in self.usual.items()}
                for cell, number in self.slots[slot].items():
                    if cell[0] in there:
                        self.usual[cell] = self.usual.get(cell, 0.0) + number
                self.active.update(there)
        self.learned = max(self.learned, last)

    def window(self, first: int, last: int) -> dict[Cell, float]:
        found: Counter[Cell] = Counter()
        for slot, counts in self.slots.items():
            if first <= slot <= last:
                found.update(counts)
        return dict(found)


CAME = st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 3), st.integers(-1, 4)), max_size=12)
STEPS = st.lists(st.tuples(st.integers(0, 3), CAME, st.integers(0, 5), st.sets(st.integers(-2, 3))), max_size=12)


@settings(max_examples=120, deadline=None)
@given(STEPS, st.integers(0, 12))
def test_equals_dictionaries_also_after_a_restart(steps: list[Any], cut: int) -> None:
    tally, naive, now = made(), Naive(), 3
    for k, (ahead, came, back, blocked) in enumerate(steps):
        now += ahead
        came = [(now - ago, context, outcome) for ago, context, outcome in came]
        count(tally, *came)
        naive.add(came)
        assert by_cell(tally, tally.window(now - 2, now)) == naive.window(now - 2, now)
        tally.learn(now - back, np.isin(tally.contexts, list(blocked)) if blocked else None)
        naive.learn(now - back, blocked)
        if k == cut:
            state = tally.state()
            tally = made()
            tally.restore(state)
            assert all(state[name].tobytes() == array.tobytes() for name, array in tally.state().items())
    assert by_cell(tally, tally.usual) == pytest.approx(naive.usual)
    assert by_cell(tally, tally.window(-1, 1000)) == naive.window(-1, 1000)
    seconds = dict(zip(tally.contexts.tolist(), tally.experience_s.tolist(), strict=True))
    assert {key: s for key, s in seconds.items() if s} == {key: 5.0 * n for key, n in naive.active.items()}
    sums = dict(zip(tally.contexts.tolist(), tally.per_context(tally.usual).tolist(), strict=True))
    for context in sums:
        assert sums[context] == pytest.approx(sum(v for (c, _), v in naive.usual.items() if c == context))
    assert tally.late == naive.late and tally.refused == 0


class TestLearning:
    def test_nothing_is_usual_before_it_is_learned(self) -> None:
        tally = made()
        count(tally, (1, 7, 1), (1, 7, 1))
        assert not tally.usual.any()
        tally.learn(1)
        assert by_cell(tally, tally.usual) == {(7, 1): 2.0}

    def test_it_forgets_only_while_there_is_something_to_learn(self) -> None:
        tally = made()
        count(tally, (1, 7, 1), (1, 8, 1))
        tally.learn(1)
        for slot in (50, 51):
            count(tally, (slot, 7, 2))
            tally.learn(slot)
        tally.learn(500)
        assert by_cell(tally, tally.usual) == pytest.approx({(7, 1): 0.5, (7, 2): 1 + 0.5**0.5, (8, 1): 1.0})

    def test_what_is_blocked_is_passed_over_for_good(self) -> None:
        tally = made()
        count(tally, (1, 7, 1), (1, 8, 1))
        tally.learn(1, tally.contexts == 7)
        tally.learn(2)
        assert by_cell(tally, tally.usual) == {(8, 1): 1.0}
        assert by_cell(tally, tally.window(1, 1)) == {(7, 1): 1.0, (8, 1): 1.0}, "it stays in the window"

    def test_what_comes_too_late_is_left_out_and_counted(self) -> None:
        tally = made()
        count(tally, (10, 7, 1))
        tally.learn(9)
        count(tally, (9, 7, 1), (10, 7, 1), (-5, 7, 1))
        assert by_cell(tally, tally.window(-10, 10)) == {(7, 1): 2.0} and tally.late == 2
        assert tally.newest == 10 and tally.slot_of(52_000_000_000) == 10

    def test_the_last_example_is_kept(self) -> None:
        tally = made()
        count(tally, (1, 7, 1), (1, 7, 2), example=5)
        count(tally, (2, 7, 1), example=6)
        assert dict(zip(tally.outcome.tolist(), tally.example[:, 1].tolist(), strict=True)) == {1: 6, 2: 5}


class TestRoom:
    def full(self) -> Tally:
        """A hundred cells; the higher the outcome, the more usual; some of the rarest are in slots that are kept."""
        tally = made(100)
        for outcome in range(100):
            count(tally, *[(1, outcome // 10, outcome)] * (outcome + 1), example=outcome)
        tally.learn(1)
        count(tally, (20, 0, 3), (20, 0, 4))
        return tally

    def test_the_rarest_make_room_but_not_those_of_late(self) -> None:
        tally = self.full()
        before = by_cell(tally, tally.usual)
        count(tally, *((20, 55, outcome) for outcome in (500, 501)))
        found = by_cell(tally, tally.window(20, 20))
        assert found == {(0, 3): 1, (0, 4): 1, (55, 500): 1, (55, 501): 1}
        assert len(tally) == 92 and tally.refused == 0
        after = by_cell(tally, tally.usual)
        assert set(before) - set(after) == {(0, k) for k in (0, 1, 2, 5, 6, 7, 8, 9)} | {(1, 10), (1, 11)}
        assert all(after[cell] == before[cell] for cell in after)
        examples = dict(zip(tally.outcome.tolist(), tally.example[:, 1].tolist(), strict=True))
        assert all(examples[outcome] == outcome for outcome in range(12, 100))

    def test_contexts_without_cells_are_forgotten_with_them(self) -> None:
        tally = self.full()
        for outcome in range(40, 100):  # everything else becomes rarer than that
            count(tally, (21, outcome // 10, outcome))
        count(tally, *((22, 70, 1000 + k) for k in range(10)))
        count(tally, *((22, 71, 2000 + k) for k in range(20)))
        assert len(tally) <= 100 and 1 not in tally.contexts and {0, 4, 70, 71} <= set(tally.contexts.tolist())
        assert len(tally.experience_s) == len(tally.contexts)

    def test_over_the_limit_in_use_it_only_counts(self) -> None:
        tally = made(100)
        count(tally, *((1, 1, outcome) for outcome in range(5_000)))
        assert len(tally) == 100 and tally.refused == 4_900
        assert tally.window(1, 1).sum() == 100

    def test_equal_calls_give_equal_bits_also_where_cells_are_forgotten(self) -> None:
        random = np.random.default_rng(0)
        tally, second = made(60), made(60)
        for slot in range(40):
            came = np.stack([np.full(30, slot), random.integers(0, 9, 30), random.zipf(1.5, 30) % 100], 1).tolist()
            for one in (tally, second)[: 1 if slot < 20 else 2]:
                count(one, *came, example=slot)
                one.learn(slot - 2)
            if slot == 19:
                second.restore(tally.state())
            assert len(tally) <= 60
        assert {k: v.tobytes() for k, v in tally.state().items()} == {k: v.tobytes() for k, v in second.state().items()}

    def test_fifty_thousand_outcomes_are_bounded_and_quick(self) -> None:
        tally = made(1_000)
        for slot in range(50):
            every = np.arange(1_000) + 1_000 * slot
            count(tally, *((slot, int(k) % 7, int(k)) for k in every))
            tally.learn(slot)
        assert len(tally) <= 1_000 and tally.refused > 0 and len(tally.contexts) <= 7


class TestState:
    def test_a_state_that_does_not_fit(self) -> None:
        tally = made()
        count(tally, (1, 7, 1), (2, 8, 1))
        good = tally.state()
        for bad in (
            {"pairs": good["pairs"] + (9 << 32)},
            {"pairs": good["pairs"] + 9},
            {"pairs": -good["pairs"] - 1},
            {"slot_cells": good["slot_cells"] + 5},
            {"slot_size": np.array([1, 2])},
            {"slot_size": np.array([3, -1])},
            {"usual": good["usual"][:1]},
            {"clock": np.zeros(2, np.int64)},
        ):
            with pytest.raises(StateError):
                made().restore({**good, **bad})

    def test_a_state_is_a_copy(self) -> None:
        tally = made()
        count(tally, (1, 7, 1))
        state = tally.state()
        tally.learn(1)
        count(tally, (2, 7, 1))
        assert state["usual"].tolist() == [0.0] and state["slot_counts"].tolist() == [1.0]
        other = made()
        other.restore(state)
        other.learn(1)
        assert state["usual"].tolist() == [0.0]

    def test_an_empty_one(self) -> None:
        tally = made()
        tally.restore(made().state())
        tally.learn(5)
        tally.add(*np.empty((3, 0), np.int64), np.empty((0, 2), np.uint64))
        assert len(tally) == 0 and tally.newest == -1 and not len(tally.window(0, 9))


@given(st.lists(st.lists(st.integers(-5, 20)), max_size=6))
def test_keys_are_numbered_in_the_order_in_which_they_came(batches: list[list[int]]) -> None:
    keys, known = Keys(), []
    for batch in batches:
        keys.add(np.array(batch, np.int64))
        known += sorted({key for key in batch if key not in known})
    assert keys.by_number.tolist() == known and len(keys) == len(known)
    asked = np.arange(-6, 22)
    assert keys.find(asked).tolist() == [known.index(key) if key in known else -1 for key in asked.tolist()]


def test_slots_are_given_in_order_and_unlearned_until_they_are_learned() -> None:
    tally = made()
    count(tally, (3, 1, 1), (1, 1, 1), (2, 1, 2), (5, 2, 1))
    assert [slot.number for slot in tally.slots(2, 5)] == [2, 3, 5]
    assert sum(slot.counts.sum() for slot in tally.slots(1, 3)) == tally.window(1, 3).sum() == 3
    assert [slot.number for slot in tally.unlearned(3)] == [1, 2, 3]
    tally.learn(2)
    assert [slot.number for slot in tally.unlearned(9)] == [3, 5]
