"""How alike calls of a slot are: equals a sum over slots, finds what was put in, makes a rank test keep its level."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.errors import StateError
from otel_aiops.incidents.alike import CHANCE, LEAST_CALLS, MOST_PHI, MOST_SHARED, Alike, mean_ranks
from otel_aiops.incidents.shifts import Times
from otel_aiops.signals.tally import Tally

DECAY = 0.5 ** (5 / 1800)


def made() -> Tally:
    return Tally(slot_s=5, kept_slots=9, half_life_s=1800, most_cells=5000)


def count(tally: Tally, slot: int, contexts: list[int], bins: list[int]) -> None:
    none = np.zeros((len(bins), 2), np.uint64)
    tally.add(np.full(len(bins), slot), np.array(contexts, np.int64), np.array(bins, np.int64), none)


def lived(
    shared: float, *, slots: int = 400, calls: int = 12, phi: float = 0.0
) -> tuple[Tally, Alike, np.random.Generator]:
    """A tally of one context whose calls share so much of their variance within a slot, and what was learned."""
    random, tally, alike, level = np.random.default_rng(1), made(), Alike(DECAY), 0.0
    for slot in range(slots):
        level = phi * level + np.sqrt(1 - phi**2) * random.normal()
        count(tally, slot, [3] * calls, drawn(random, shared, calls, level))
        alike.learn(tally, slot)
        tally.learn(slot)
    return tally, alike, random


def drawn(random: np.random.Generator, shared: float, calls: int, level: float | None = None) -> list[int]:
    level = random.normal() if level is None else level
    times = 100 + 6 * (np.sqrt(shared) * level + np.sqrt(1 - shared) * random.normal(size=calls))
    return [int(one) for one in np.clip(times.round(), 0, 199)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 9)), min_size=1, max_size=30), max_size=8))
def test_equals_a_sum_over_slots(slots: list[list[tuple[int, int]]]) -> None:
    tally, alike = made(), Alike(DECAY)
    usual: dict[int, dict[int, float]] = {1: {}, 2: {}}
    excess, calls, product, pairs = ({1: 0.0, 2: 0.0} for _ in range(4))
    newest: dict[int, tuple[int, float, int]] = {}
    for slot, came in enumerate(slots):
        count(tally, slot, [context for context, _ in came], [value for _, value in came])
        alike.learn(tally, slot)
        tally.learn(slot)
        for context in sorted({context for context, _ in came}):
            values, known = [value for of, value in came if of == context], usual[context]
            total = sum(known.values())
            if total >= LEAST_CALLS:
                rank = {
                    value: (sum(n for other, n in known.items() if other < value) + known.get(value, 0.0) / 2) / total
                    for value in {*known, *values}
                }
                variance = sum(n * (rank[value] - 0.5) ** 2 for value, n in known.items()) / total
                off = (np.mean([rank[value] for value in values]) - 0.5) / max(variance, 1e-3) ** 0.5
                most = (CHANCE / len(values) + MOST_SHARED) ** 0.5
                off = max(-most, min(most, off))
                excess[context] = excess[context] * DECAY + len(values) * off**2 - 1
                calls[context] = calls[context] * DECAY + len(values)
                before, off_before, calls_before = newest.get(context, (-9, 0.0, 0))
                both = min(calls_before, len(values)) if before == slot - 1 else 0
                product[context] = product[context] * DECAY + both * off * off_before
                pairs[context] = pairs[context] * DECAY + both
                newest[context] = slot, off, len(values)
            for value in {*known, *values}:
                known[value] = known.get(value, 0.0) * DECAY + values.count(value)
    rho, phi = alike.correlations(np.array([1, 2, 99]))
    expected = [max(excess[context], 0) / max(calls[context], 1) for context in (1, 2)]
    assert rho.tolist() == pytest.approx([*expected, 0.0], abs=1e-9)
    after = [max(product[context], 0) / max(pairs[context], 1) for context in (1, 2)]
    shown = [min(b / max(a, 1e-9), MOST_PHI) for a, b in zip(expected, after, strict=True)]
    assert phi[:2].tolist() == pytest.approx(shown, abs=1e-6)


@pytest.mark.parametrize("shared", [0.0, 0.1, 0.3])
def test_finds_what_calls_of_a_slot_share(shared: float) -> None:
    tally, alike, _ = lived(shared, slots=1500)
    assert alike.correlations(tally.contexts)[0][0] == pytest.approx(shared, abs=0.02 + 0.25 * shared)


@pytest.mark.parametrize("phi", [0.0, 0.8])
def test_finds_what_slots_share_with_the_next(phi: float) -> None:
    tally, alike, _ = lived(0.3, slots=1500, phi=phi)
    assert alike.correlations(tally.contexts)[1][0] == pytest.approx(phi, abs=0.15)


def test_the_effect_is_the_variance_of_a_sum_of_correlated_slots() -> None:
    tally, alike, _ = lived(0.3, phi=0.6)
    count(tally, 402, [3] * 7, [100] * 7)
    (rho,), (phi,) = alike.correlations(tally.contexts)
    calls = np.array([12, 12, 12, 0, 0, 7])
    apart = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    expected = 1 + rho * (np.outer(calls, calls) * phi**apart).sum() / calls.sum()
    assert alike.effect(tally, 397, 402).tolist() == pytest.approx([expected])
    assert alike.effect(tally, 900, 905).tolist() == [1.0]


def test_a_rank_test_of_alike_calls_keeps_its_level() -> None:
    tally, alike, random = lived(0.3)
    naive, fair = [], []
    for k in range(300):
        slot = 400 + k * 20
        for of in range(3):
            count(tally, slot + of, [3] * 12, drawn(random, 0.3, 12))
        naive.append(float(Times(tally, slot, slot + 2).shifts().z[0]))
        fair.append(float(Times(tally, slot, slot + 2, alike=alike).shifts().z[0]))
    assert np.std(naive) > 1.7
    assert np.std(fair) == pytest.approx(1.0, abs=0.2)


def test_what_is_blocked_or_hardly_known_teaches_nothing() -> None:
    tally, alike, _ = lived(0.0)
    before = alike.state()
    count(tally, 400, [3] * 12, [150] * 12)
    count(tally, 400, [4] * 12, [150] * 12)
    alike.learn(tally, 400, np.array([True, False]))
    after = alike.state()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_fault_that_was_learned_does_not_hide_the_next_for_long() -> None:
    tally, alike, _ = lived(0.0)
    for slot in range(400, 406):
        count(tally, slot, [3] * 12, [150] * 12)
        alike.learn(tally, slot)
        tally.learn(slot)
    assert alike.correlations(tally.contexts)[0][0] < 0.05


def test_contexts_that_the_tally_forgot_are_forgotten() -> None:
    alike = Alike(DECAY)
    for number in range(0, 4000, 400):
        tally = made()
        keys = [*range(number, number + 400)] * 25
        count(tally, 0, keys, [5] * len(keys))
        tally.learn(0)
        count(tally, 1, keys, [5] * len(keys))
        alike.learn(tally, 1)
    assert len(alike.state()["contexts"]) <= 1800


class TestState:
    def test_goes_on_bit_for_bit(self) -> None:
        tally, alike, _ = lived(0.2)
        again = Alike(DECAY)
        again.restore(alike.state())
        assert np.array_equal(again.correlations(tally.contexts), alike.correlations(tally.contexts))
        assert all(np.array_equal(again.state()[name], array) for name, array in alike.state().items())

    def test_one_from_before_there_was_any_knows_nothing(self) -> None:
        _, alike, _ = lived(0.2, slots=30)
        alike.restore({})
        assert alike.correlations(np.array([3]))[0].tolist() == [0.0]

    @pytest.mark.parametrize("name", ["contexts", "excess", "calls"])
    def test_one_that_does_not_fit(self, name: str) -> None:
        good = Alike(DECAY).state()
        for bad in ({key: good[key] for key in good if key != name}, {**good, name: np.zeros(3)}):
            with pytest.raises(StateError):
                Alike(DECAY).restore(bad)


def test_ranks_of_nothing() -> None:
    ranks, variance = mean_ranks(made())
    assert not len(ranks) and not len(variance)
