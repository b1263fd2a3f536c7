"""Which end of slow calls is slow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.incidents.edges import Edge, solve

CALLS = [("shop", "cart"), ("shop", "pay"), ("pay", "bank"), ("cart", "store"), ("shop", "store")]


def edges(**slow: float) -> list[Edge]:
    """All calls, shifted by what their ends add."""
    shifts = [(a, b, slow.get(a, 0.0) + slow.get(b, 0.0)) for a, b in CALLS]
    return [Edge(a, b, y, 50, y / 5, min(y, 8.0)) for a, b, y in shifts]


@pytest.mark.parametrize("name", ["shop", "cart", "pay", "bank", "store"])
def test_one_slow_end_explains_all_its_calls(name: str) -> None:
    found = solve(edges(**{name: 50.0}))
    assert max(found, key=found.__getitem__) == name


def test_a_slow_caller_is_found_as_the_caller_of_many() -> None:
    found = solve(edges(shop=40.0))
    assert all(found["shop"] > found.get(callee, 0.0) for callee in ("cart", "pay", "store"))


def test_two_slow_ends_are_both_found() -> None:
    found = solve(edges(bank=50.0, store=30.0))
    assert sorted(found, key=lambda name: -found[name])[:2] == ["bank", "store"]


def test_nothing_slow_means_nobody() -> None:
    assert solve([]) == {}
    assert solve(edges()) == {}
    assert solve([Edge("a", "b", np.nan, 5, np.nan, np.nan)]) == {}
    assert solve([Edge("a", "b", 50, 0, 1, 9)]) == {}
    assert solve([Edge("a", "a", 50, 10, 1, 9)]) == {}


def test_equal_edges_count_as_one_weighted_by_count() -> None:
    one = solve([Edge("a", "b", 20, 40, 4, 8), *edges()])
    two = solve([Edge("a", "b", 10, 30, 2, 8), Edge("a", "b", 50, 10, 10, 8), *edges()])
    assert two == pytest.approx(one)


def naive(found: list[Edge]) -> dict[str, float]:
    """Delays by coordinate descent: each end in turn takes the best value given the others."""
    names = sorted({end for edge in found for end in (edge.caller, edge.callee)})
    x = dict.fromkeys(names, 0.0)
    weight = {edge: min(edge.count, 200.0) for edge in found}
    few = (0.3 * float(np.median([np.sqrt(w) for w in weight.values()]))) ** 2
    for _ in range(3000):
        for name in names:
            mine = [edge for edge in found if name in (edge.caller, edge.callee)]
            other = sum(x.values()) - x[name]
            rest = [(weight[e], e.shift - x[e.caller] - x[e.callee] + x[name]) for e in mine]
            best = (sum(w * y for w, y in rest) - few * other) / (sum(w for w, _ in rest) + few)
            x[name] = max(best, 0.0)
    strengths = {}
    for name in names:
        shifted = [e for e in found if name in (e.caller, e.callee) and e.shift > 0]
        if x[name] > 1e-9 and shifted:
            certain = min(8.0, max(e.z for e in shifted))
            effect = max(min(x[name] / e.shift, 1.0) * max(e.effect, 0.0) for e in shifted)
            strengths[name] = certain * float(np.log1p(effect))
    return strengths


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 300)), min_size=5, max_size=5))
def test_equals_the_slow_twin(shifts: list[tuple[int, int]]) -> None:
    found = [Edge(a, b, float(y), float(n), y / 4, y / 3) for (a, b), (y, n) in zip(CALLS, shifts, strict=True)]
    fast, slow = solve(found), naive(found)
    for name in set(fast) | set(slow):
        assert fast.get(name, 0.0) == pytest.approx(slow.get(name, 0.0), abs=0.02)
