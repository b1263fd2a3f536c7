"""What values are usual at this time of the day: equal to its slow twin, and no day is its own past."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect.daytime import Daytime
from otel_aiops.detect.seen import Seen
from tests.detect.made_series import Piece, pieces, values_of
from tests.detect.naive_novelty import DAY_NS, HALF_HOUR_NS, NaiveDaytime, NaiveSeen, slots_at

BEGIN_NS = 19_700 * DAY_NS
STEPS = st.sampled_from([600, 1_800, 3_600, 7_200, 40_000, 90_000, 400_000, 31_536_000, -5_400, -200_000])


class Both:
    """A grid and the times of day on it, for a few slots."""

    def __init__(self, slots: int) -> None:
        self.seen, self.daytime = Seen(512), Daytime(512)
        self.seen.reserve(slots)
        self.daytime.reserve(slots)

    def look(self, slots: list[int], time_ns: int, values: list[float]) -> list[float]:
        at, value = slots_at(*slots), np.array(values)
        found = self.daytime.look(at, np.full(len(at), time_ns), self.seen.look(at, value))
        return [float(x) for x in found]

    def step(self, slots: list[int], time_ns: int, values: list[float], memory: float = 4_000.0) -> list[float]:
        at, value, time = slots_at(*slots), np.array(values), np.full(len(slots), time_ns)
        look = self.seen.look(at, value)
        distance = self.daytime.look(at, time, look)
        moved = self.seen.learn(at, look, np.full(len(at), memory))
        self.daytime.learn(at, time, look, moved)
        return [float(x) for x in distance]


@settings(max_examples=8, deadline=None)
@given(pieces, st.lists(STEPS, min_size=1, max_size=8), st.sampled_from([300.0, 4_000.0]))
def test_equals_its_slow_twin(made: list[Piece], steps: list[int], memory: float) -> None:
    both, seen, daytime, time_ns = Both(3), NaiveSeen(512), NaiveDaytime(), BEGIN_NS
    for i, value in enumerate(values_of(made).tolist()):
        time_ns += steps[i % len(steps)] * 1_000_000_000
        assert both.step([1], time_ns, [value], memory) == [daytime.look(time_ns, value, seen)]
        daytime.learn(time_ns, seen, seen.learn(value, memory))


@settings(max_examples=8, deadline=None)
@given(st.lists(pieces, min_size=2, max_size=4), STEPS, st.booleans())
def test_many_series_at_once_equal_one_at_a_time(made: list[list[Piece]], seconds: int, apart: bool) -> None:
    values = [values_of(each).tolist() for each in made]
    together, alone = Both(40), Both(40)
    for i in range(max(map(len, values))):
        some = [k for k in range(len(values)) if i < len(values[k])]
        numbers = [k * 9 if apart else k for k in some]
        time_ns, row = BEGIN_NS + i * seconds * 10**9, [values[k][i] for k in some]
        expected = [alone.step([n], time_ns, [value])[0] for n, value in zip(numbers, row, strict=True)]
        assert together.step(numbers, time_ns, row) == expected
    for name, array in together.daytime.of.items():
        assert (array == alone.daytime.of[name]).all()


def learned(days: int) -> Both:
    """Low at night, high by day, both with a little noise, every ten minutes."""
    both, rng = Both(1), np.random.default_rng(3)
    for i in range(days * 144):
        time_ns = BEGIN_NS + i * 600 * 10**9
        both.step([0], time_ns, [usual(time_ns) + float(rng.normal())])
    return both


def usual(time_ns: int) -> float:
    return 100.0 if time_ns % DAY_NS < DAY_NS // 2 else 200.0


def test_a_value_of_the_day_is_new_at_night() -> None:
    both = learned(4)
    time_ns = BEGIN_NS + 4 * DAY_NS + 6 * HALF_HOUR_NS
    assert both.look([0], time_ns, [100.0]) == [0.0]
    assert both.look([0], time_ns, [200.0])[0] > 0.8
    assert both.look([0], time_ns + DAY_NS // 2, [200.0]) == [0.0]
    assert both.look([0], time_ns + DAY_NS // 2, [100.0])[0] > 0.8


def test_two_half_hours_on_each_side_count_as_the_same_time() -> None:
    both = learned(4)
    noon_ns = BEGIN_NS + 4 * DAY_NS + DAY_NS // 2
    assert both.look([0], noon_ns - 3 * HALF_HOUR_NS, [200.0])[0] > 0.8
    assert both.look([0], noon_ns - 2 * HALF_HOUR_NS, [200.0]) == [0.0]
    assert both.look([0], noon_ns + 2 * HALF_HOUR_NS - 1, [100.0]) == [0.0]
    assert both.look([0], noon_ns + 2 * HALF_HOUR_NS, [100.0])[0] > 0.4


def test_no_day_is_its_own_past() -> None:
    both = learned(4)
    begin_ns = BEGIN_NS + 4 * DAY_NS + 4 * HALF_HOUR_NS
    strange = [both.step([0], begin_ns + i * 60 * 10**9, [200.0])[0] for i in range(400)]
    assert min(strange) > 0.8
    tomorrow = both.look([0], begin_ns + DAY_NS, [200.0])
    assert tomorrow == [0.0]


def test_nothing_is_said_in_the_first_two_days() -> None:
    both = Both(1)
    for i in range(96):
        assert both.step([0], BEGIN_NS + i * HALF_HOUR_NS, [float(i % 7)]) == [0.0]
    assert both.look([0], BEGIN_NS + 2 * DAY_NS, [100.0]) == [0.0]
    assert both.look([0], BEGIN_NS + 2 * DAY_NS + 1, [100.0])[0] > 1


def test_what_is_far_away_is_capped() -> None:
    both = learned(3)
    assert both.look([0], BEGIN_NS + 3 * DAY_NS, [1e150]) == [1e3]
