"""Slots: bounded, given away when idle, marked at once, and the same after a restore."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect.slots import Slots
from otel_aiops.errors import StateError
from otel_aiops.otlp.points import I32

NONE_IDLE = np.empty(0, np.int64)


def rows(*numbers: int) -> I32:
    return np.array(numbers, np.int32)


def test_rows_keep_their_slots_and_others_have_none() -> None:
    slots = Slots(10)
    taken, fresh = slots.take(rows(7, 900, 3), NONE_IDLE)
    assert taken.tolist() == fresh.tolist() == [0, 1, 2]
    assert slots.take(rows(3, 7), NONE_IDLE)[0].tolist() == [2, 0]
    assert slots.of(rows(3, 4, 5_000_000)).tolist() == [2, -1, -1] and len(slots) == 3


def test_when_all_are_taken_idle_ones_give_way_in_order_and_the_rest_waits() -> None:
    slots = Slots(3)
    slots.take(rows(0, 1, 2), NONE_IDLE)
    slots.mark(rows(0, 1, 2), np.ones(3, np.bool_))
    taken, fresh = slots.take(rows(5, 1, 6, 8), np.array([2, 0]))
    assert taken.tolist() == [2, 1, 0, -1] and fresh.tolist() == [2, 0]
    assert slots.waited == 1 and len(slots) == 3
    assert slots.of(rows(0, 1, 2)).tolist() == [-1, 1, -1]
    assert slots.marked(rows(0, 1, 2, 5, 6)).tolist() == [1]


def test_the_slot_of_a_forgotten_row_is_the_next_one() -> None:
    slots = Slots(3)
    slots.take(rows(4, 5), NONE_IDLE)
    assert slots.forget(rows(4, 9)).tolist() == [0] and len(slots) == 1
    assert slots.take(rows(6, 7), NONE_IDLE)[0].tolist() == [0, 2]


def test_a_restored_state_may_have_more_than_there_may_be_now() -> None:
    slots, fewer = Slots(5), Slots(2)
    slots.take(rows(0, 1, 2, 3), NONE_IDLE)
    fewer.restore(slots.state(), np.zeros(4, np.bool_))
    assert fewer.of(rows(3)).tolist() == [3]
    assert fewer.take(rows(9), NONE_IDLE)[0].tolist() == [-1]


@pytest.mark.parametrize("wrong", [[1, 1], [-2, 3]])
def test_a_state_that_does_not_fit_is_refused(wrong: list[int]) -> None:
    with pytest.raises(StateError, match="each row in one slot"):
        Slots(5).restore({"row": rows(*wrong)}, np.zeros(2, np.bool_))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "forget", "mark", "restore"]), st.sets(st.integers(0, 12), min_size=1)),
        max_size=25,
    )
)
def test_it_does_what_a_dictionary_does(steps: list[tuple[str, set[int]]]) -> None:
    slots, known, marked = Slots(6), dict[int, int](), set[int]()
    for what, some in steps:
        these = rows(*sorted(some))
        if what == "take":
            taken, _ = slots.take(these, NONE_IDLE)
            known |= {row: slot for row, slot in zip(these.tolist(), taken.tolist(), strict=True) if slot >= 0}
        elif what == "forget":
            slots.forget(these)
            known = {row: slot for row, slot in known.items() if row not in some}
            marked -= some
        elif what == "mark":
            held = rows(*(row for row in sorted(some) if row in known))
            slots.mark(slots.of(held), held % 2 == 0)
            marked = (marked - some) | {row for row in held.tolist() if row % 2 == 0}
        else:
            state = slots.state()
            flags = np.isin(state["row"], [*marked])
            slots = Slots(6)
            slots.restore(state, flags)
        everyone = np.arange(14, dtype=np.int32)
        assert slots.of(everyone).tolist() == [known.get(row, -1) for row in range(14)]
        assert set(slots.marked(everyone).tolist()) == marked
        assert set(slots.marked(everyone[::-1]).tolist()) == {13 - row for row in marked}
        assert len(slots) == len(known) <= 6 and len(set(known.values())) == len(known)
