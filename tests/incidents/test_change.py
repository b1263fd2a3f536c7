"""Rings and what changes in them, beside slow twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from otel_aiops.errors import ConfigError
from otel_aiops.incidents.change import Change, ChangeConfig, changes, correlation
from otel_aiops.incidents.rings import Rings, usual

S = 10**9
SLOT = np.array([0], np.int32)


class NaiveRing:
    """One slot of Rings as lists."""

    def __init__(self, length: int, spacing_ns: int) -> None:
        self.length, self.spacing_ns = length, spacing_ns
        self.cells: list[list[tuple[int, float]]] = []

    def push(self, time_ns: int, value: float) -> None:
        if self.cells and time_ns - self.cells[-1][0][0] < self.spacing_ns:
            self.cells[-1].append((time_ns, value))
        else:
            self.cells = [*self.cells, [(time_ns, value)]][-self.length :]

    def values(self) -> list[tuple[int, float]]:
        return [(cell[-1][0], float(np.mean([v for _, v in cell]))) for cell in self.cells]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.floats(-1e3, 1e3)), min_size=1, max_size=60))
def test_rings_equal_the_slow_twin(points: list[tuple[int, float]]) -> None:
    rings, naive, time_ns = Rings(8, 10.0), NaiveRing(8, 10 * S), S
    rings.reserve(1)
    for gap_s, value in points:
        time_ns += gap_s * S
        rings.push(SLOT, np.array([time_ns]), np.array([value]))
        naive.push(time_ns, value)
    times, values, excluded = (part[0] for part in rings.cells(SLOT))
    kept = times > 0
    assert times[kept].tolist() == [t for t, _ in naive.values()]
    assert values[kept] == pytest.approx([v for _, v in naive.values()], rel=1e-3, abs=1e-2)
    assert not excluded.any()


def test_excluded_cells_are_marked_until_they_are_overwritten() -> None:
    rings = Rings(4, 1.0)
    rings.reserve(1)
    for k in range(1, 5):
        rings.push(SLOT, np.array([k * S]), np.array([float(k)]))
    rings.exclude(2 * S, 3 * S)
    assert rings.cells(SLOT)[2][0].tolist() == [False, True, True, False]
    for k in range(5, 9):
        rings.push(SLOT, np.array([k * S]), np.array([float(k)]))
    assert not rings.cells(SLOT)[2].any()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100) | st.just(float("nan")), min_size=12, max_size=12))
def test_usual_equals_numpy(values: list[float]) -> None:
    row = np.array(values)
    level, spread, count = usual(row[None], np.isfinite(row)[None])
    known = row[np.isfinite(row)]
    assert count[0] == len(known)
    if not len(known):
        assert np.isnan(level[0]) and np.isnan(spread[0])
        return
    median = np.median(known)
    away = 1.4826 * np.median(np.abs(known - median))
    assert level[0] == pytest.approx(median, abs=1e-9)
    assert spread[0] == pytest.approx(max(away, (np.percentile(known, 95) - median) / 1.645), abs=1e-9)


def test_usual_of_many_rows_is_that_of_each() -> None:
    values = np.random.default_rng(2).normal(size=(600, 30))
    wanted = values > -1
    together = usual(values, wanted)
    for k in (0, 255, 256, 599):
        alone = usual(values[k : k + 1], wanted[k : k + 1])
        assert [part[k] for part in together] == [part[0] for part in alone]


def one(
    values: list[float], *, window: tuple[int, int], sign: float = 1.0, floor: float = 0.1, step_s: int = 60
) -> Change:
    """The change of one series with a value every minute from 1 minute on; NaN is a gap."""
    cells = np.array([values], np.float32)
    times = np.arange(1, len(values) + 1)[None] * step_s * S
    times = np.where(np.isfinite(cells), times, 0)
    return changes(
        (times, cells, np.zeros(cells.shape, np.bool_)),
        (window[0] * step_s * S, window[1] * step_s * S),
        sign=np.array([sign]),
        floor=lambda level: np.full(1, floor) + 0 * np.nan_to_num(level),
        config=ChangeConfig(),
    )


QUIET = [1.0, 1.1, 0.9, 1.0, 1.2] * 6  # 30 minutes


def test_a_rise_counts_in_usual_spreads_and_a_fall_does_not() -> None:
    up = one([*QUIET, 5.0, 5.0], window=(31, 32))
    assert up.z[0] > 20 and up.before[0] == pytest.approx(1.0, abs=0.2) and up.after[0] == 5 and up.count[0] == 2
    assert one([*QUIET, 0.0, 0.0], window=(31, 32)).z[0] < 0
    down = one([*QUIET, 0.0, 0.0], window=(31, 32), sign=-1.0)
    assert down.z[0] > 5 and down.after[0] == 0


def test_the_floor_keeps_idle_series_small() -> None:
    assert one([0.0] * 30 + [0.01], window=(31, 31), floor=0.02).z[0] == pytest.approx(0.5)
    assert np.isnan(one([0.0] * 30 + [0.01], window=(31, 31), floor=0.0).z[0])


def test_what_was_bad_just_before_the_window_is_not_news() -> None:
    drifted = one([*QUIET, 5.0, 5.0, 5.0, 5.0, 5.0], window=(34, 35))
    assert drifted.z[0] == pytest.approx(0.0, abs=0.1)


def test_one_of_many_cells_does_not_decide_alone() -> None:
    spike = one([*QUIET, 9.0, 1.0, 1.0], window=(31, 33))
    lasting = one([*QUIET, 9.0, 9.0, 1.0], window=(31, 33))
    assert spike.after[0] == pytest.approx(5.0) and lasting.after[0] == pytest.approx(9.0)


def test_gaps_and_missing_parts_say_nothing() -> None:
    gap = [float("nan")]
    assert np.isnan(one([*QUIET, *gap], window=(31, 31)).z[0])
    assert np.isnan(one(gap * 30 + [5.0], window=(31, 31)).z[0])
    short = one(gap * 28 + [1.0, 1.0, 5.0], window=(31, 31), floor=0.5)
    assert short.z[0] == pytest.approx(8.0)  # no history: against the cells just before, in floors


def test_nothing_is_learned_from_the_window_or_later() -> None:
    alone = one([*QUIET, 5.0], window=(31, 31)).z[0]
    assert one([*QUIET, 5.0, 700.0, 800.0], window=(31, 31)).z[0] == alone


def test_correlation_pairs_nearest_cells() -> None:
    time = np.arange(1, 9) * 60 * S
    x = np.array([1, 1, 1, 1, 5, 6, 7, 5], np.float32)
    late: NDArray[np.int64] = time + 20 * S
    everything = (0, 10**12)
    assert correlation((time, x), (late, 2 * x), everything) == pytest.approx(1.0)
    assert correlation((time, x), (late, -x), everything) == pytest.approx(-1.0)
    assert correlation((time, np.ones(8, np.float32)), (late, x), everything) == 0.0
    assert correlation((time[:2], x[:2]), (late, x), everything) == 0.0
    assert correlation((time, x), (late[:2], x[:2]), everything) == 1.0
    assert correlation((time, x), (late + 10**15, x), (0, 2 * 10**15)) == 0.0


def test_bad_settings() -> None:
    with pytest.raises(ConfigError):
        ChangeConfig(before=0)
