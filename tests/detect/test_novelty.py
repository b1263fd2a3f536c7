"""The novelty memory as a whole: equal to its slow twin, row by row, bounded, kept, and calm at extremes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect.novelty import KINDS, Novelty, NoveltyTier
from otel_aiops.errors import StateError
from otel_aiops.otlp.points import F64, I32
from tests.detect.made_series import Piece, pieces, values_of
from tests.detect.naive_novelty import DAY_NS, NaiveSeries, slots_at

BEGIN_NS = 19_700 * DAY_NS
ROOM = 1 << 20  # bytes; some hundred series


def step(tier: NoveltyTier, rows: I32, time_ns: int, value: F64, interval_s: float = 60.0) -> Novelty:
    """One value each of some rows, which are learned then."""
    time = np.full(len(rows), time_ns, np.int64)
    novelty = tier.look(rows, time, value)
    tier.learn(np.full(len(rows), interval_s))
    return novelty


def run(tier: NoveltyTier, rows: I32, values: F64, seconds: float = 60.0, begin: int = 0) -> F64:
    """(strange, novel, kind) of values (N, K) one step after the other, (N, 3, K)."""
    found = []
    for i, value in enumerate(values, begin):
        novelty = step(tier, rows, BEGIN_NS + int(i * seconds * 1e9), value, seconds)
        found.append([novelty.strange, novelty.novel, novelty.kind])
    return np.array(found)


def same_state(one: NoveltyTier, other: NoveltyTier) -> bool:
    first, second = one.state(), other.state()
    return first.keys() == second.keys() and all(first[name].tobytes() == second[name].tobytes() for name in first)


def usual(steps: int, rows: int, seed: int) -> F64:
    """Walks, noise, few values, and a wave."""
    rng, every = np.random.default_rng(seed), np.arange(steps)[:, None]
    noise = rng.normal(size=(steps, rows))
    made = [noise.cumsum(axis=0), 50 + noise, np.round(noise) * 3, np.sin(every / 20) * 9 + 0.1 * noise]
    return np.stack([made[k % 4][:, k] for k in range(rows)], axis=1)


@settings(max_examples=6, deadline=None)
@given(pieces, st.sampled_from([60.0, 1_200.0, 7_200.0]))
def test_equals_its_slow_twin(made: list[Piece], seconds: float) -> None:
    values, twin = values_of(made), NaiveSeries()
    found = run(NoveltyTier(ROOM), slots_at(1), values[:, None], seconds)[:, :, 0]
    for i, value in enumerate(values.tolist()):
        time_ns = BEGIN_NS + int(i * seconds * 1e9)
        _, novel, kind = twin.look(time_ns, value)
        assert found[i, 1] == pytest.approx(novel, rel=1e-12)
        assert KINDS[int(found[i, 2])] == kind
        twin.learn(time_ns, value, seconds)


@pytest.mark.parametrize("seconds", [1_800.0])
def test_strange_equals_its_slow_twin(seconds: float) -> None:
    values = usual(180, 4, 1)
    found = run(NoveltyTier(ROOM), slots_at(0, 1, 2, 3), values, seconds)
    for k in range(4):
        twin = NaiveSeries()
        for i, value in enumerate(values[:, k].tolist()):
            time_ns = BEGIN_NS + int(i * seconds * 1e9)
            assert found[i, 0, k] == pytest.approx(twin.look(time_ns, value)[0], rel=1e-4)
            twin.learn(time_ns, value, seconds)


def test_rows_apart_and_alone_equal_rows_side_by_side() -> None:
    values = usual(70, 4, 2)
    together = run(NoveltyTier(ROOM), np.arange(4, dtype=np.int32), values)
    apart = NoveltyTier(ROOM)
    rows = slots_at(40, 3, 90, 0)
    assert (run(apart, rows, values) == together).all()
    for k in range(4):
        assert (run(NoveltyTier(ROOM), slots_at(5), values[:, [k]])[:, :, 0] == together[:, :, k]).all()


def test_any_order_of_rows_gives_the_same() -> None:
    values, rng = usual(70, 40, 3), np.random.default_rng(3)
    ordered, shuffled = NoveltyTier(ROOM), NoveltyTier(ROOM)
    rows = np.arange(40, dtype=np.int32)
    step(ordered, rows, BEGIN_NS, values[0])
    step(shuffled, rows, BEGIN_NS, values[0])
    for i in range(1, 70):
        some = rng.permutation(40)[: rng.integers(1, 41)].astype(np.int32)
        one = step(shuffled, some, BEGIN_NS + i, values[i][some])
        two = step(ordered, np.sort(some), BEGIN_NS + i, values[i][np.sort(some)])
        assert (one.novel[np.argsort(some)] == two.novel).all()
    assert same_state(ordered, shuffled)


def test_a_prefix_of_the_data_gives_a_prefix_of_the_scores() -> None:
    values = usual(100, 4, 4)
    later = values.copy()
    later[60:] = 1e9
    rows = slots_at(0, 1, 2, 3)
    assert (run(NoveltyTier(ROOM), rows, values)[:60] == run(NoveltyTier(ROOM), rows, later)[:60]).all()


def test_a_restored_state_goes_on_bit_for_bit() -> None:
    values, rows = usual(160, 5, 5), slots_at(2, 3, 4, 9, 8)
    tier, used = NoveltyTier(ROOM), NoveltyTier(ROOM)
    run(tier, rows, values[:80])
    tier.forget(slots_at(3, 9))
    run(used, np.arange(20, dtype=np.int32), usual(30, 20, 6))  # what it had learned is gone
    used.restore(tier.state())
    assert same_state(tier, used)
    for other in (slots_at(2, 3, 4, 9, 8), slots_at(15, 16, 17, 18, 19)):
        one, two = (run(each, other, values[80:], begin=80) for each in (tier, used))
        assert one.tobytes() == two.tobytes()
    assert same_state(tier, used)
    assert len(tier) == len(used) == 10


def test_a_state_that_does_not_fit_is_refused() -> None:
    tier = NoveltyTier(ROOM)
    run(tier, slots_at(0, 1), usual(5, 2, 7))
    state = tier.state()
    for name in ("slot", "pairs/now", "level/level"):
        with pytest.raises(StateError, match=name):
            NoveltyTier(ROOM).restore({**state, name: np.zeros(state[name].shape, np.int16)})
        with pytest.raises(StateError):
            NoveltyTier(ROOM).restore({key: array for key, array in state.items() if key != name})


def test_slots_are_bounded_by_memory_and_given_back() -> None:
    size = NoveltyTier(0).bytes_per_series
    tier = NoveltyTier(3 * size + 1)
    assert tier.most == 3 and len(tier) == 0
    rows, values = np.arange(5, dtype=np.int32), usual(40, 5, 8)
    found = run(tier, rows, values)
    assert np.isnan(found[:, :2, 3:]).all() and not np.isnan(found[:, :2, :3]).any()
    assert (found[:, :2, :3] == run(NoveltyTier(ROOM), rows[:3], values[:, :3])[:, :2]).all()
    assert len(tier) == 3 and tier.story(4) is None and tier.story(999) is None
    tier.forget(slots_at(1, 1, 4, 500))
    assert len(tier) == 2 and tier.story(1) is None
    again = run(tier, slots_at(0, 4, 3), values[:, [0, 4, 3]])
    assert len(tier) == 3
    assert (again[:, :, 1] == run(NoveltyTier(ROOM), slots_at(4), values[:, [4]])[:, :, 0]).all()  # anew
    assert np.isnan(again[:, :2, 2]).all()


def test_a_state_of_more_slots_than_there_is_memory_for_gives_no_new_ones() -> None:
    tier, values = NoveltyTier(ROOM), usual(3, 9, 9)
    run(tier, np.arange(5, dtype=np.int32), values[:, :5])
    small = NoveltyTier(2 * tier.bytes_per_series)
    small.restore(tier.state())
    found = run(small, np.arange(9, dtype=np.int32), values)
    assert len(small) == 5
    assert np.isnan(found[:, :2, 5:]).all() and not np.isnan(found[:, :2, :5]).any()


def test_no_memory_and_no_rows_are_no_error() -> None:
    tier = NoveltyTier(0)
    assert np.isnan(run(tier, slots_at(0, 1), usual(3, 2, 1))[:, :2]).all()
    assert len(step(NoveltyTier(ROOM), slots_at(), BEGIN_NS, np.empty(0)).novel) == 0


@pytest.mark.parametrize("extreme", [np.inf, -1e308, 5e-324])
@pytest.mark.parametrize("first", [0, 60])
def test_extremes_give_no_warning_and_no_nan(extreme: float, first: int) -> None:
    tier, values = NoveltyTier(ROOM), usual(110, 4, 10)
    values[first] = extreme
    values[first + 5 :: 50] = -extreme
    values[first + 6 :: 50] = 5e-324
    found = run(tier, slots_at(0, 1, 2, 3), values, 1_800.0)
    assert np.isfinite(found).all() and (found >= 0).all()
    assert (found[:, :2] <= 100).all()


def test_ordinary_values_are_scored_after_an_extreme_one() -> None:
    tier, rng = NoveltyTier(ROOM), np.random.default_rng(11)
    values = 50 + rng.normal(size=(700, 1))
    values[100], values[101], values[102] = np.inf, -1e308, 5e-324
    found = run(tier, slots_at(0), values)
    assert found[100, 1, 0] == 100
    assert found[500:, 1, 0].max() < 5
    assert step(tier, slots_at(0), BEGIN_NS + DAY_NS * 2, np.array([1_000.0])).novel[0] > 10


def test_a_year_of_gap_and_time_going_back_are_borne() -> None:
    tier, rows, values = NoveltyTier(ROOM), slots_at(0, 1, 2, 3), usual(300, 4, 12)
    times = np.arange(300) * 1_800 * 10**9 + BEGIN_NS
    times[150:] += 365 * DAY_NS
    times[220:] -= 400 * DAY_NS
    for time_ns, value in zip(times.tolist(), values, strict=True):
        novelty = step(tier, rows, time_ns, value)
        assert np.isfinite(novelty.novel).all() and np.isfinite(novelty.strange).all()
    assert step(tier, rows, int(times[-1]) + 1, values[-1] + 500).novel.min() > 10


def test_a_look_changes_nothing_and_is_not_needed_twice() -> None:
    tier, values, rows = NoveltyTier(ROOM), usual(60, 4, 13), slots_at(0, 1, 2, 3)
    run(tier, rows, values)
    before = tier.state()
    tier.look(rows, np.full(4, BEGIN_NS), values[0] + 100)
    assert all(array.tobytes() == before[name].tobytes() for name, array in tier.state().items())
    tier.forget(slots_at(2))
    tier.learn(np.full(4, 60.0))  # what was looked at is gone
    assert all(
        array[:2].tobytes() == before[name][:2].tobytes() for name, array in tier.state().items() if name != "free"
    )


def test_an_unknown_interval_is_a_memory_of_points() -> None:
    one, two, values = NoveltyTier(ROOM), NoveltyTier(ROOM), usual(60, 2, 14)
    for i, value in enumerate(values):
        step(one, slots_at(0, 1), BEGIN_NS + i, value, 0.0)
        step(two, slots_at(0, 1), BEGIN_NS + i, value, 14 * 86_400 / 4_000)
    assert (one.state()["value/due"] == two.state()["value/due"]).all()
    step(one, slots_at(5), BEGIN_NS, values[0, :1], 1.0)
    assert one.state()["value/due"][2] == 14 * 86_400 // 200


def test_the_story_tells_the_way_in_which_a_point_was_new() -> None:
    tier, rng = NoveltyTier(ROOM), np.random.default_rng(15)
    run(tier, slots_at(4, 5), 50 + rng.normal(size=(400, 2)))
    end_ns = BEGIN_NS + 400 * 60 * 10**9
    novelty = step(tier, slots_at(4, 5), end_ns, np.array([90.0, 20.0]))
    above, below = tier.story(4), tier.story(5)
    assert above is not None and below is not None
    assert (above.kind, above.side, below.side) == ("value", 1, -1)
    assert above.nearest == pytest.approx(float(novelty.novel[0]) * 0.0082, rel=0.5) or above.nearest > 0.5
    assert above.since_s == 400 * 60
    assert above.deviation > 10


def test_what_is_reached_once_a_day_is_usual_then() -> None:
    """A series with a spike every twelve hours: the first ones are strange, those of later days are not."""
    tier, rng = NoveltyTier(ROOM), np.random.default_rng(16)
    values = rng.normal(size=(540, 1))
    values[9::18] = 30 * (1 + rng.uniform(size=(30, 1)))
    strange = run(tier, slots_at(0), values, 2_400.0)[9::18, 0, 0]
    assert strange[1:6].mean() > 1
    assert strange[-8:].mean() < 0.7 * strange[1:6].mean()


@settings(max_examples=5, deadline=None)
@given(pieces)
def test_scores_lie_between_zero_and_a_hundred(made: list[Piece]) -> None:
    found = run(NoveltyTier(ROOM), slots_at(0), values_of(made)[:, None], 1_800.0)
    assert np.isfinite(found).all() and (found >= 0).all() and (found[:, :2] <= 100).all()
