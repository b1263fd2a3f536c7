"""More often than usual: the test of two shares equals its formula, one outcome at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.incidents.departures import LEAST, Departures, departures
from otel_aiops.signals.tally import Tally

Counts = dict[int, dict[int, int]]  # context → outcome → times
COUNTS = st.dictionaries(st.integers(0, 2), st.dictionaries(st.integers(0, 3), st.integers(1, 60)), max_size=3)


def made(usual: Counts, now: Counts) -> Tally:
    tally = Tally(slot_s=5, kept_slots=9, half_life_s=1800, most_cells=1000)
    for slot, of in ((1, usual), (2, now)):
        pairs = [(c, o) for c, outcomes in of.items() for o, times in outcomes.items() for _ in range(times)]
        contexts, outcomes = np.array(pairs, np.int64).reshape(-1, 2).T
        examples = np.zeros((len(contexts), 2), np.uint64)
        tally.add(np.full(len(contexts), slot, np.int64), contexts, outcomes, examples)
        if slot == 1:
            tally.learn(1)
    return tally


def found_in(usual: Counts, now: Counts, **more: float) -> Departures:
    tally = made(usual, now)
    return departures(tally, 2, 2, **more)  # type: ignore[arg-type]


def g(c0: float, c1: float, n0: float, n1: float) -> float:
    """Dunning's log likelihood ratio of two binomial shares, halved as there: log L of each alone less of both."""

    def likelihood(k: float, n: float, p: float) -> float:
        return (k * math.log(p) if k else 0.0) + ((n - k) * math.log(1 - p) if n > k else 0.0)

    both = (c0 + c1) / (n0 + n1)
    alone = likelihood(c0, n0, c0 / n0) + likelihood(c1, n1, c1 / n1)
    return alone - likelihood(c0, n0, both) - likelihood(c1, n1, both)


def naive(usual: Counts, now: Counts) -> dict[tuple[int, int], float]:
    strengths = {}
    for context, outcomes in now.items():
        n0, n1 = sum(usual.get(context, {}).values()), sum(outcomes.values())
        for outcome, c1 in outcomes.items():
            c0 = usual.get(context, {}).get(outcome, 0)
            few = 2 if c0 == 0 and c1 >= 0.2 * n1 else 3
            if n0 < 5 or c1 < few:
                continue
            p0, p1 = (c0 + 0.5) / (n0 + 1), c1 / n1
            in_time = (c1 * math.log(c1 / c0) - c1 + c0 if c0 else math.inf) if c1 > c0 else 0.0
            strength = min(g(c0, c1, n0, n1), in_time) * min(1, max(0, (p1 - p0) / 0.1)) if p1 > p0 else 0.0
            if strength > 3:
                gone = (1 - p0) / (1 - p1 + 2 / n1)
                strength *= min(1, max(0, math.log(max(p1 / p0, gone)) / math.log(100)))
            if strength > 3:
                strengths[context, outcome] = strength
    return strengths


@settings(max_examples=150, deadline=None)
@given(COUNTS, COUNTS)
def test_equals_the_formula(usual: Counts, now: Counts) -> None:
    found = found_in(usual, now)
    pairs = zip(found.context.tolist(), found.outcome.tolist(), strict=True)
    assert dict(zip(pairs, found.strength.tolist(), strict=True)) == pytest.approx(naive(usual, now))
    assert (np.diff(found.strength) <= 0).all(), "the strongest first"
    for k in range(len(found)):
        context, outcome = int(found.context[k]), int(found.outcome[k])
        assert found.usual[k] == usual[context].get(outcome, 0) and found.now[k] == now[context][outcome]
        assert found.usual_all[k] == sum(usual[context].values()) and found.now_all[k] == sum(now[context].values())


def test_what_is_new_is_stronger_than_what_only_grows() -> None:
    (new,) = found_in({1: {0: 100}}, {1: {0: 10, 7: 10}}).strength
    (more,) = found_in({1: {0: 80, 7: 20}}, {1: {0: 10, 7: 10}}).strength.tolist() or [0.0]
    assert new > 5 * more


def test_what_comes_less_often_or_once_or_in_an_unknown_context_is_nothing() -> None:
    assert 1 not in found_in({1: {0: 50, 1: 50}}, {1: {0: 30, 1: 1}}).outcome
    assert not len(found_in({1: {0: 100}}, {1: {0: 10, 7: 1}}))
    assert not len(found_in({2: {0: 100}}, {1: {7: 50}}))
    assert not len(found_in({1: {0: 20}}, {1: {7: 20}}, least_usual=30))


def test_only_so_many_are_told() -> None:
    found = found_in({1: {0: 100}}, {1: dict.fromkeys(range(5, 15), 20)}, most=4)
    assert len(found) == 4


def test_an_empty_memory() -> None:
    assert not len(found_in({}, {}))


def test_two_of_many_are_chance_and_two_of_a_few_are_not() -> None:
    rare, never = {1: {0: 400, 7: 1}}, {1: {0: 400}}
    assert not len(found_in(rare, {1: {0: 4, 7: 2}}))
    assert not len(found_in(never, {1: {0: 16, 7: 2}}))
    assert found_in(never, {1: {0: 4, 7: 2}}).strength[0] > LEAST
    assert found_in(never, {1: {0: 16, 7: 3}}).strength[0] > LEAST
    assert found_in(rare, {1: {0: 16, 7: 6}}).strength[0] > LEAST


def test_a_sampler_that_keeps_what_is_rare_makes_nothing_more_frequent() -> None:
    usual = {1: {0: 900, 7: 60}}
    assert not len(found_in(usual, {1: {0: 90, 7: 60}})), "as many as always, of the rest one in ten"
    assert found_in(usual, {1: {0: 90, 7: 120}}).strength[0] > 10, "and twice as many"
