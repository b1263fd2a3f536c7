"""Series of a group that are a little unusual together are found, named, forgotten and kept; one alone is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect.detector import Scores
from otel_aiops.detect.joint import CAUSES, SERIES, GroupScores, Joint, JointConfig
from otel_aiops.errors import ConfigError, StateError
from otel_aiops.otlp.points import F64
from otel_aiops.series.batch import Batch

STEP_S = 10.0
BEGIN = 1_700_000_000


def tick(joint: Joint, i: int, score: F64, above: float = 1.0, rows: list[int] | None = None) -> GroupScores:
    """Scores of rows at step i, and the step of the groups after it."""
    found = said(joint, i, score, above, rows)
    assert found is not None
    return found


def said(joint: Joint, i: int, score: F64, above: float = 1.0, rows: list[int] | None = None) -> GroupScores | None:
    """The same where there may be nothing to say."""
    count = len(score)
    at = int((BEGIN + i * STEP_S) * 1e9)
    ids = np.arange(count, dtype=np.int32) if rows is None else np.array(rows, np.int32)
    zero = np.zeros(count)
    batch = Batch(ids, np.full(count, at, np.int64), np.full(count, above), np.full(count, STEP_S))
    joint.update(batch, Scores(score, zero, zero, zero - 1, zero + 1, zero.astype(np.uint8), zero, zero))
    return joint.step(at)


def grouped(*sizes: int, adapt_after: float = 7200.0) -> Joint:
    joint = Joint(JointConfig(interval=STEP_S, adapt_after=adapt_after))
    of = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    joint.assign(np.arange(len(of), dtype=np.int32), of)
    return joint


def quiet(count: int, seed: int) -> F64:
    return np.random.default_rng(seed).exponential(0.08, count)


def learned(*sizes: int, steps: int = 120, adapt_after: float = 7200.0) -> Joint:
    joint = grouped(*sizes, adapt_after=adapt_after)
    for i in range(steps):
        tick(joint, i, quiet(sum(sizes), i))
    return joint


def test_many_small_deviations_are_one_anomaly() -> None:
    joint = learned(12, 12)
    score = quiet(24, 999)
    score[:12] = 0.7  # none of them is over its own threshold
    groups = tick(joint, 120, score)
    assert groups.group.tolist() == [0, 1]
    assert groups.score[0] > 1 > groups.score[1]
    assert groups.probability[0] > 0.999
    assert groups.unusual.tolist() == [12, 0]


def test_one_large_deviation_is_the_business_of_its_own_score() -> None:
    joint = learned(20)
    score = quiet(20, 999)
    score[3] = 100.0
    groups = tick(joint, 120, score)
    assert groups.score[0] < 1
    assert groups.rows[0, 0] == 3
    assert groups.share[0, 0] > 0.4


def test_quiet_groups_stay_quiet() -> None:
    joint, flagged = grouped(3, 8, 40), 0
    for i in range(600):
        flagged += int((tick(joint, i, quiet(51, i)).score >= 1).sum())
    assert flagged == 0


def test_a_group_is_scored_from_its_first_step() -> None:
    groups = tick(grouped(6), 0, np.full(6, 2.0))
    assert groups.score[0] > 1
    assert np.isnan(groups.probability[0]) and np.isnan(groups.usual[0])


def test_causes_are_ordered_and_in_their_own_usual() -> None:
    joint = grouped(8)
    for i in range(400):
        score = quiet(8, i)
        score[0] = 0.9  # always like this
        tick(joint, i, score)
    score = np.array([0.9, 1.8, 1.2, 0.8, 0.05, 0.05, 0.05, 0.05])
    groups = tick(joint, 400, score, above=-1.0)
    assert groups.rows[0, :3].tolist() == [1, 2, 3]
    assert (np.diff(groups.share[0]) <= 0).all()
    assert groups.share[0].sum() <= 1 + 1e-12
    text = joint.reason(groups, 0, lambda row: f"series{row}")
    assert text.startswith("4 of 8 series are unusual at the same time: together ")
    assert "mostly series1 below what was expected, 1.8 times its threshold (" in text


def test_a_reason_without_causes_and_sides() -> None:
    joint = grouped(3)
    zero = tick(joint, 0, np.zeros(3), above=0.0)
    assert joint.reason(zero, 0, str) == "0 of 3 series are unusual at the same time: together 0.00 (threshold 0.74)"
    odd = tick(grouped(3), 0, np.full(3, 1.5), above=0.0)
    assert "mostly 0 1.5 times its threshold (33%)" in joint.reason(odd, 0, str)


def test_only_the_strangest_series_of_a_large_group_count() -> None:
    joint = learned(400)
    score = quiet(400, 999)
    score[:30] = 1.5
    assert tick(joint, 120, score).score[0] > 1
    assert SERIES == 32


@pytest.mark.parametrize("rows", [1, 2])
def test_too_few_series_say_nothing_together(rows: int) -> None:
    assert said(grouped(rows), 0, np.full(rows, 5.0)) is None


def test_series_without_a_score_or_a_group_are_passed_over() -> None:
    joint = grouped(5)
    assert tick(joint, 0, np.array([5.0, 5.0, 5.0, np.nan, np.nan])).series.tolist() == [3]
    assert said(joint, 1, np.array([5.0, 5.0, np.nan, np.nan, np.nan])) is None
    assert said(joint, 2, np.full(4, 5.0), rows=[70, 71, 72, 73]) is None
    assert said(joint, 3, np.empty(0)) is None


def test_series_that_stopped_do_not_count() -> None:
    joint = grouped(6)
    for i in range(10):
        tick(joint, i, quiet(6, i))
    for i in range(10, 15):
        groups = tick(joint, i, quiet(4, i), rows=[0, 1, 2, 3])
    assert groups.series.tolist() == [4]


def test_an_interval_closes_once() -> None:
    joint = grouped(4)
    assert len(tick(joint, 0, quiet(4, 0)).group) == 1
    assert joint.step(int((BEGIN + 1) * 1e9)) is None
    assert joint.step(int((BEGIN + STEP_S) * 1e9)) is None  # nothing new came
    assert said(joint, -5, quiet(4, 1)) is None


def test_a_lasting_anomaly_is_not_learned_until_it_is_the_new_normal() -> None:
    joint = learned(10, adapt_after=600.0)
    raised = [float(tick(joint, 120 + i, np.full(10, 0.8)).score[0]) for i in range(90)]
    assert min(raised[:59]) > 1
    assert max(raised[62:]) < 1


def test_what_is_flagged_is_not_learned() -> None:
    joint = learned(10)
    before = tick(joint, 120, quiet(10, 120)).usual
    for i in range(121, 171):
        groups = tick(joint, i, np.full(10, 0.8))
    assert abs(groups.usual - before) < 0.005


def test_a_group_that_is_always_noisy_has_a_higher_threshold() -> None:
    joint, flagged = grouped(6), 0
    for i in range(400):
        groups = tick(joint, i, np.random.default_rng(i).exponential(0.5, 6))
        flagged += int(groups.score[0] >= 1) if i >= 100 else 0
    assert flagged <= 3
    assert groups.threshold[0] > 1.0


def test_forgotten_rows_leave_their_group_and_an_empty_group_begins_anew() -> None:
    joint = learned(5, 5)
    joint.forget(np.arange(3, dtype=np.int32))
    assert tick(joint, 120, quiet(10, 120)).group.tolist() == [1]
    joint.forget(np.array([3, 4, 5_000], np.int32))
    joint.assign(np.arange(5, dtype=np.int32), np.zeros(5, np.int32))
    groups = tick(joint, 121, quiet(10, 121))
    assert groups.group.tolist() == [0, 1]
    assert np.isnan(groups.usual[0]) and np.isfinite(groups.usual[1])


def test_a_row_that_moves_begins_anew_and_one_that_stays_does_not() -> None:
    joint = learned(6, 6)
    joint.assign(np.arange(6, dtype=np.int32), np.array([0, 0, 0, 1, 1, 1], np.int32))
    groups = tick(joint, 120, quiet(12, 120))
    assert groups.series.tolist() == [3, 9]
    assert np.isfinite(groups.usual).all()
    joint.assign(np.empty(0, np.int32), np.empty(0, np.int32))


def test_causes_of_small_groups_are_padded() -> None:
    groups = tick(grouped(3), 0, np.array([2.0, 0.5, 0.1]))
    assert groups.rows[0].tolist() == [0, 1, 2, -1, -1]
    assert groups.rows.shape == groups.share.shape == groups.row_score.shape == (1, CAUSES)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2**31)), min_size=1, max_size=12), st.integers(0, 11))
def test_equal_input_gives_equal_bits_and_a_restored_one_goes_on(plan: list[tuple[int, int]], cut: int) -> None:
    one, two = grouped(4, 6), grouped(4, 6)
    for i, (skip, seed) in enumerate(plan):
        if i == cut:
            saved = two.state()
            two = Joint(JointConfig(interval=STEP_S))
            two.restore(saved)
        score = np.random.default_rng(seed).exponential(0.5, 10)
        a, b = (tick(joint, i * 9 + skip, score) for joint in (one, two))
        for name in ("group", "score", "rows", "share", "probability"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    left, right = one.state(), two.state()
    assert left.keys() == right.keys()
    assert all(left[name].tobytes() == right[name].tobytes() for name in left)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1e308, np.inf, -np.inf, np.nan, 1e-310, -5.0, 0.3]), min_size=5, max_size=5))
def test_nothing_poisons_it(values: list[float]) -> None:
    joint = learned(5, steps=40)
    for i in range(3):
        found = said(joint, 40 + i, np.array(values), above=values[0])
        assert found is None or (np.isfinite(found.score).all() and (found.score >= 0).all())
    for i in range(60):
        groups = tick(joint, 50 + i, quiet(5, i))
    assert groups.score[0] < 1


def test_times_that_are_nonsense_do_no_harm() -> None:
    joint = grouped(4)
    rows, zero = np.arange(4, dtype=np.int32), np.zeros(4)
    scores = Scores(zero + 0.1, zero, zero, zero, zero, zero.astype(np.uint8), zero, zero)
    extreme = np.array([np.iinfo(np.int64).max, np.iinfo(np.int64).min, 0, 1], np.int64)
    joint.update(Batch(rows, extreme, zero, np.array([np.inf, np.nan, 1e300, -1.0])), scores)
    assert joint.step(BEGIN * 10**9) is None
    assert tick(joint, 1, quiet(4, 1)).series.tolist() == [4]


def test_state_that_does_not_fit_is_refused() -> None:
    joint = learned(4, steps=3)
    state = joint.state()
    with pytest.raises(StateError, match="expected arrays"):
        Joint(JointConfig()).restore({k: v for k, v in state.items() if k != "interval"})
    with pytest.raises(StateError, match="row_value"):
        Joint(JointConfig()).restore({**state, "row_value": state["row_value"].astype(np.float32)})
    wrong = state["row_group"].copy()
    wrong[0] = 7
    with pytest.raises(StateError, match=r"row_group: expected -1 \.\. 0"):
        Joint(JointConfig()).restore({**state, "row_group": wrong})


def test_restoring_replaces_everything() -> None:
    joint, empty = learned(4, 4, steps=30), Joint(JointConfig(interval=STEP_S)).state()
    joint.restore(empty)
    assert said(joint, 40, np.full(8, 5.0)) is None


@pytest.mark.parametrize(("key", "value"), [("interval", 0.5), ("interval", float("nan")), ("adapt_after", 0.0)])
def test_settings_out_of_range_are_named(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        JointConfig(**{key: value})
