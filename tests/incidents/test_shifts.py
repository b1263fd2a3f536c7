"""Slower than usual: the rank test equals that of SciPy, quantiles those of a sorted list, tails a sum over calls."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, mannwhitneyu, poisson

from otel_aiops.incidents.behaviour import BINS, GROWTH, SHORTEST_NS
from otel_aiops.incidents.shifts import FAR, FEWER, LEAST_BEYOND, TAIL, UPPER, Shifts, Times
from otel_aiops.signals.tally import Tally

VALUES = st.lists(st.integers(0, 12), min_size=8, max_size=40)


def made(usual: dict[int, list[int]], now: dict[int, list[int]]) -> tuple[Tally, Shifts]:
    """What was usual and what is now, as bins by context."""
    tally = Tally(slot_s=5, kept_slots=9, half_life_s=1800, most_cells=1000)
    for slot, of in ((1, usual), (2, now)):
        pairs = np.array([(context, value) for context, values in of.items() for value in values], np.int64)
        contexts, outcomes = pairs.reshape(-1, 2).T
        examples = np.stack([contexts, outcomes], 1).astype(np.uint64)
        tally.add(np.full(len(contexts), slot, np.int64), contexts, outcomes, examples)
        if slot == 1:
            tally.learn(1)
    return tally, Times(tally, 2, 2).shifts()


def quantile_ms(bins: list[int], q: float) -> float:
    """By going along the sorted values, each bin a stretch of its values."""
    ordered, wanted = sorted(bins), q * len(bins)
    at = next(k for k in range(BINS) if sum(one <= k for one in ordered) >= wanted)
    share = (wanted - sum(one < at for one in ordered)) / sum(one == at for one in ordered)
    return SHORTEST_NS / 1e6 * math.exp((at + share) * GROWTH)


@settings(max_examples=80, deadline=None)
@given(VALUES, VALUES.filter(lambda values: len(values) >= 3))
def test_equals_scipy_and_a_sorted_list(before: list[int], after: list[int]) -> None:
    assume(len(after) >= FEWER * len(before))
    _, found = made({5: before}, {5: after})
    assert found.context.tolist() == [5] and found.count.tolist() == [len(after)]
    if len({*before, *after}) > 1:
        # the z of SciPy by way of its p: exact as long as that is not 0
        p = mannwhitneyu(after, before, alternative="greater", use_continuity=False, method="asymptotic").pvalue
        tail = 0.5 * math.erfc(float(found.z[0]) / math.sqrt(2))
        ties = np.unique([*before, *after], return_counts=True)[1]
        if 1 - (ties**3 - ties).sum() / (ties.sum() ** 3 - ties.sum()) > 1e-3:
            assert tail == pytest.approx(float(p), rel=1e-6, abs=1e-12)
    else:
        assert abs(found.z[0]) < 1e-6
    middle, now = quantile_ms(before, 0.5), quantile_ms(after, 0.5)
    assert (found.before[0], found.after[0]) == (pytest.approx(middle), pytest.approx(now))
    spread = (quantile_ms(before, 0.75) - quantile_ms(before, 0.25)) / 1.35 + 0.1 * middle + 0.2
    assert found.effect[0] == pytest.approx((now - middle) / spread)


def test_slower_is_above_zero_and_quicker_below() -> None:
    random = np.random.default_rng(0)
    usual, slow, quick = (random.normal(centre, 3, 60).round().astype(int).tolist() for centre in (90, 96, 84))
    _, found = made({1: usual, 2: usual}, {1: slow, 2: quick})
    assert found.z[0] > 5 and found.z[1] < -5 and found.effect[0] > 0 > found.effect[1]


def test_contexts_are_told_apart_and_rare_ones_left_out() -> None:
    usual = {1: [20] * 30, 2: [20] * 7, 3: [20] * 30, 4: [20] * 30}
    tally, found = made(usual, {1: [25] * 3, 2: [25] * 9, 3: [25] * 2, 9: [25] * 9})
    assert found.context.tolist() == [1] and len(found) == 1
    assert not len(Times(tally, 2, 2, least_usual=31).shifts())
    assert not len(Times(tally, 3, 4).shifts()) and not len(Times(tally, 3, 4).tails())


def test_the_example_is_one_of_the_slowest() -> None:
    tally, found = made({1: [20] * 10, 2: [30] * 10}, {1: [22, 40, 21], 2: [3, 4, 5]})
    assert tally.example[found.cell].tolist() == [[1, 40], [2, 5]]


def test_shortest_and_longest_bins_and_an_empty_memory() -> None:
    _, found = made({1: [0] * 20, 2: [BINS - 1] * 20}, {1: [BINS - 1] * 5, 2: [0] * 5})
    assert np.isfinite(np.stack([found.z, found.effect, found.before, found.after])).all()
    empty = Tally(slot_s=5, kept_slots=9, half_life_s=1800, most_cells=1000)
    assert not len(Times(empty, 0, 1).shifts()) and not len(Times(empty, 0, 1).tails())


def in_slots(usual: list[int], *now: list[int]) -> Times:
    """What was usual of one thing, and what came in slots after that, as bins."""
    tally = Tally(slot_s=5, kept_slots=9, half_life_s=1800, most_cells=1000)
    for slot, bins in enumerate((usual, *now), 1):
        none = np.zeros((len(bins), 2), np.uint64)
        tally.add(np.full(len(bins), slot), np.full(len(bins), 7), np.array(bins, np.int64), none)
        if slot == 1:
            tally.learn(1)
    return Times(tally, 2, 1 + len(now))


def loaded(now: list[int]) -> Times:
    """After slots of 60 calls that take ten bins for the most, and one in 20 that takes far longer."""
    random, tally = np.random.default_rng(1), Tally(slot_s=5, kept_slots=9, half_life_s=1800, most_cells=1000)
    for slot in range(1, 61):
        bins = np.where(random.random(60) < 0.05, 120, random.integers(90, 100, 60)) if slot < 60 else np.array(now)
        none = np.zeros((len(bins), 2), np.uint64)
        tally.add(np.full(len(bins), slot), np.full(len(bins), 7), bins, none)
        tally.learn(min(slot, 59))
    return Times(tally, 60, 60)


def strongest(times: Times) -> float:
    return max(float((found.z * (found.effect > 0)).max()) for found in (times.shifts(), times.shifts(UPPER)))


def test_a_sampler_that_keeps_what_is_slow_makes_nothing_slower() -> None:
    quick, slow = [92, 95, 97] * 3, [120] * 4
    assert strongest(loaded(quick + slow)) < 3, "as many slow ones as always, of quick ones one in six"
    assert strongest(loaded(quick * 4 + slow * 6)) > 4, "more slow ones, and as many calls as always"


def test_what_everyone_waits_for_is_slower_though_fewer_calls_come() -> None:
    assert strongest(loaded([118] * 15)) > 4, "a quarter of the calls, all of them as slow as few ever are"


def ratio(c0: int, n0: int, c1: int, n1: int) -> float:
    """Of the likelihoods of two binomial samples, with a share each and with one for both, by SciPy's distribution."""
    apart = binom.logpmf(c0, n0, c0 / n0) + binom.logpmf(c1, n1, c1 / n1)
    return float(apart - binom.logpmf(c0, n0, (c0 + c1) / (n0 + n1)) - binom.logpmf(c1, n1, (c0 + c1) / (n0 + n1)))


def more_in_time(expected: int, seen: int) -> float:
    """Of the likelihoods of a count with a mean of its own and with the expected one, 0 where it is not more."""
    return float(poisson.logpmf(seen, seen) - poisson.logpmf(seen, expected)) if seen > expected else 0.0


@settings(max_examples=80, deadline=None)
@example([60] * 49 + [67], [60, 60, 67, 67, 67, 60], 1.0)  # a larger share, and hardly more in the same time
@given(
    st.lists(st.integers(60, 120), min_size=20, max_size=60),
    st.lists(st.integers(60, 170), min_size=6, max_size=40),
    st.sampled_from([1.0, 3.0, FAR]),
)
def test_tails_equal_a_sum_over_calls(usual: list[int], now: list[int], times: float) -> None:
    half = len(now) // 2
    found = in_slots(usual, now[:half], now[half:]).tails(times)
    most, middle = quantile_ms(usual, TAIL), quantile_ms(usual, 0.5)
    spread = (quantile_ms(usual, 0.75) - quantile_ms(usual, 0.25)) / 1.35 + 0.1 * middle + 0.2

    def is_beyond(value: int) -> bool:
        return SHORTEST_NS / 1e6 * math.exp(value * GROWTH) >= times * most + spread

    beyond, usually = [value for value in now if is_beyond(value)], sum(map(is_beyond, usual))
    grown = len(beyond) / len(now) - (usually + 0.5) / (len(usual) + 1)
    often = len(beyond) >= LEAST_BEYOND and any(map(is_beyond, now[:half])) and any(map(is_beyond, now[half:]))
    if not often or grown <= 0:
        assert found.z.tolist() == [0.0]
        return
    assert found.share[0] == pytest.approx(len(beyond) / len(now)) and found.before[0] == pytest.approx(most)
    assert found.after[0] == pytest.approx(quantile_ms(beyond, 0.5))
    assert found.effect[0] == pytest.approx(grown * (quantile_ms(beyond, 0.5) - most) / spread)
    # What is usual is known of one slot, and these are two.
    likelier = ratio(usually, len(usual), len(beyond), len(now)), more_in_time(2 * usually, len(beyond))
    assert found.z[0] == pytest.approx(math.sqrt(2 * min(likelier)))


def test_one_of_eight_that_is_slow_is_in_the_tail_and_moves_no_quantile() -> None:
    slots = [[90, 91, 92, 93, 94, 95, 96, 140]] * 6
    times = in_slots([90, 91, 92, 93, 94, 95, 96, 97] * 40, *slots)
    (middle,), (upper,), tail = times.shifts().z, times.shifts(0.8).effect, times.tails()
    assert middle < 2 and upper < 0.5
    assert tail.z[0] > 5 and tail.effect[0] > 3 and tail.share[0] == 1 / 8


def test_a_few_calls_that_take_very_much_longer_are_enough() -> None:
    """As behind a pool of connections that leaks: one call in 24 waits a second."""
    far = in_slots([90, 91, 92, 93, 94, 95, 96, 97] * 200, *[[90, 92, 94] * 8, [*[90, 92, 94] * 7, 91, 93, 170]] * 4)
    near, (most,) = far.tails(), far.tails(FAR).before
    assert SHORTEST_NS / 1e6 * math.exp(170 * GROWTH) > 10 * most
    assert far.tails(FAR).z[0] == near.z[0] > 4 and far.tails(FAR).effect[0] > 1
    slower = in_slots([90, 91, 92, 93, 94, 95, 96, 97] * 200, *[[90, 92, 94] * 8, [*[90, 92, 94] * 7, 91, 93, 110]] * 4)
    assert slower.tails().z[0] > 4 and slower.tails(FAR).z[0] == 0


def test_one_hitch_is_not_a_change() -> None:
    usual = [90, 91, 92, 93, 94] * 60
    assert in_slots(usual, [140] * 8, *[[90, 92, 94] * 4] * 5).tails().z[0] == 0
    assert in_slots(usual, [140] * 4, [140] * 4, *[[90, 92, 94] * 4] * 4).tails().z[0] > 3


def test_what_is_often_slow_is_so_now_too() -> None:
    usual = ([90] * 9 + [140]) * 30
    assert in_slots(usual, usual[:40], usual[:40]).tails().z[0] == 0
