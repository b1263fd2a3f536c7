"""Which of many strange series in a minute are believed, and when all of them together are one signal."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect.discovery import WINDOW_NS, Discovery

MINUTE = 1_700_000_040_000_000_000 // WINDOW_NS


def judge(found: Discovery, probability: np.ndarray, q: float = 0.1, minute: int = 0) -> tuple[np.ndarray, tuple]:
    owner = np.zeros(len(probability), np.int64)
    crowds = found.add(owner, probability, event_ns=(MINUTE + minute) * WINDOW_NS)
    return found.believed(owner, probability, np.array([q])), crowds


def benjamini_hochberg(p: np.ndarray, q: float) -> np.ndarray:
    """The slow twin, one rank after the other."""
    largest = 0.0
    for k, value in enumerate(sorted(p), 1):
        if value <= q * k / len(p):
            largest = value
    return p <= largest


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.sampled_from([0.05, 0.2, 0.5]))
def test_on_the_edges_of_cells_it_is_benjamini_hochberg(cells: list[int], q: float) -> None:
    # In the middle of cells, which the test rounds up to their edges.
    p = 10.0 ** (-(np.array(cells) + 0.5) / 4)
    believed, _ = judge(Discovery(1), 1 - p, q)
    edges = 10.0 ** (-np.array(cells) / 4)
    assert np.array_equal(believed, benjamini_hochberg(edges, q))


def test_one_of_ten_is_believed_where_one_of_many_is_not() -> None:
    few, many = np.full(10, 0.5), np.full(100_000, 0.5)
    few[3] = many[3] = 0.9995
    assert judge(Discovery(1), few)[0].tolist() == [k == 3 for k in range(10)]
    assert not judge(Discovery(1), many)[0].any()
    many[:2_000] = 0.9995  # they vouch for each other
    assert judge(Discovery(1), many)[0].sum() == 2_000


def test_bodies_of_one_minute_and_the_minute_before_count_together() -> None:
    found = Discovery(1)
    judge(found, np.full(50_000, 0.5))
    assert not judge(found, np.array([0.9999]))[0].any()
    assert not judge(found, np.array([0.9999]), minute=1)[0].any()
    assert judge(found, np.array([0.9999]), minute=2)[0].all()


def test_points_without_probability_and_objectives_without_control_are_believed() -> None:
    assert judge(Discovery(1), np.array([np.nan, 0.1]))[0].tolist() == [True, False]
    assert judge(Discovery(1), np.array([np.nan, 0.1]), q=1.0)[0].all()


def test_a_crowd_is_told_once_and_noise_is_not() -> None:
    found, rng = Discovery(2), np.random.default_rng(0)
    told = [crowd for k in range(300) for crowd in judge(found, rng.random(200), minute=k)[1]]
    assert told == []
    judge(found, np.where(np.arange(200) < 100, 0.97, 0.5), minute=300)
    (crowd,) = judge(found, rng.random(200), minute=301)[1]
    assert (crowd.objective, crowd.points, crowd.strange) == (0, 200, 100)
    assert crowd.time_ns == (MINUTE + 300) * WINDOW_NS
    assert crowd.score > 1
    assert 0.01 < crowd.usual < 0.1
    assert judge(found, rng.random(200), minute=302)[1] == ()


def test_a_series_alone_is_no_crowd() -> None:
    found = Discovery(1)
    for k in range(50):
        assert judge(found, np.full(3, 0.5), minute=k)[1] == ()
    judge(found, np.full(3, 0.999), minute=50)
    assert judge(found, np.full(3, 0.5), minute=51)[1] == ()
