"""Moments: how unusual a value is, the same time before, and windows that looked alike."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from otel_aiops.detect.moments import interval_s, same_time, similar, unusual
from otel_aiops.errors import BadInput

MINUTE = 60_000_000_000
DAY = 1440


def minutes(n: int) -> np.ndarray:
    return np.arange(1, n + 1, dtype=np.int64) * MINUTE


class TestUnusual:
    def test_the_highest_so_far(self) -> None:
        found = unusual(np.array([10.0, 20.0, 15.0] * 10), minutes(30), 25.0, 31 * MINUTE)
        assert found is not None and found.side == 1 and found.last_ns == 0
        assert found.since_s == 1800 and found.nearest == 0.5 and found.share == 0

    def test_the_lowest_since_some_time(self) -> None:
        value = np.full(100, 50.0) + np.arange(100) % 3
        value[10] = 1.0
        found = unusual(value, minutes(100), 20.0, 101 * MINUTE)
        assert found is not None and found.side == -1 and found.since_s == 90 * 60
        assert found.last_ns == 11 * MINUTE and found.nearest == pytest.approx(30 / 51)

    def test_what_was_seen_just_now_is_not_unusual(self) -> None:
        found = unusual(np.array([1.0, 2.0, 3.0] * 10), minutes(30), 2.5, 31 * MINUTE)
        assert found is not None and found.side == 0 and found.since_s == 60
        assert found.share == pytest.approx(1 / 3)

    def test_constant_and_absent(self) -> None:
        same = unusual(np.full(9, 5.0), minutes(9), 5.0, 10 * MINUTE)
        other = unusual(np.full(9, 5.0), minutes(9), 6.0, 10 * MINUTE)
        assert same is not None and same.nearest == 0
        assert other is not None and np.isnan(other.nearest) and other.side == 1
        assert unusual(np.full(9, np.nan), minutes(9), 5.0, 10 * MINUTE) is None
        assert unusual(np.ones(9), minutes(9), np.nan, 10 * MINUTE) is None


class TestSameTime:
    def test_a_day_before(self) -> None:
        value = np.arange(2.0 * DAY)
        found = same_time(value, minutes(2 * DAY), 2000.0, 2 * DAY * MINUTE, days=1)
        assert found is not None and found.value == DAY - 1 and found.change == pytest.approx(2000 / (DAY - 1) - 1)

    def test_none_without_a_point_then(self) -> None:
        assert same_time(np.ones(100), minutes(100), 1.0, 100 * MINUTE, days=1) is None
        assert same_time(np.ones(1), minutes(1), 1.0, MINUTE, days=1) is None

    def test_of_nothing_the_change_is_not_known(self) -> None:
        found = same_time(np.zeros(DAY + 1), minutes(DAY + 1), 5.0, (DAY + 1) * MINUTE, days=1)
        assert found is not None and np.isnan(found.change)


class TestSimilar:
    def shapes(self, *, scale: float = 1.0) -> np.ndarray:
        value = np.random.default_rng(1).normal(50, 1, 3000)
        for at, size in ((400, 1.0), (1500, 3.0), (2900, scale)):
            value[at : at + 60] += 40 * size * np.sin(np.linspace(0, np.pi, 60))
        return value

    def test_finds_the_same_shape_whatever_its_size(self) -> None:
        found = similar(self.shapes(scale=2.0), minutes(3000), 2960 * MINUTE)
        assert [abs(one.time_ns // MINUTE - at) <= 3 for one, at in zip(found, (1560, 460), strict=False)] == [True] * 2
        assert found[0].distance < found[1].distance < 0.3 and all(one.distance > 0.3 for one in found[2:])
        assert len(found[0].shape) == len(found[0].after) == 60

    def test_nothing_of_later_points_counts(self) -> None:
        value = self.shapes()
        changed = value.copy()
        changed[2970:] = 1e9
        one, other = (similar(v, minutes(3000), 2960 * MINUTE) for v in (value, changed))
        assert [s.time_ns for s in one] == [s.time_ns for s in other]

    def test_gaps_are_left_out(self) -> None:
        value = self.shapes()
        value[1500:1560] = np.nan
        found = similar(value, minutes(3000), 2960 * MINUTE)
        assert abs(found[0].time_ns // MINUTE - 460) <= 3
        assert all(not 1540 <= one.time_ns // MINUTE <= 1590 for one in found)
        assert similar(np.where(np.arange(3000) > 2900, np.nan, value), minutes(3000), 2960 * MINUTE) == ()

    def test_too_little_is_nothing(self) -> None:
        assert similar(np.ones(1), minutes(1), MINUTE) == ()
        assert similar(np.ones(70), minutes(70), 70 * MINUTE) == ()
        with pytest.raises(BadInput, match=r"expected value and time_ns \(T,\)"):
            similar(np.ones(3), minutes(2), MINUTE)

    @settings(max_examples=40, deadline=None)
    @given(arrays(np.float64, 400, elements=st.floats(allow_nan=True, allow_infinity=True)))
    def test_any_numbers(self, value: np.ndarray) -> None:
        found = similar(value, minutes(400), 400 * MINUTE)
        assert all(0 <= one.distance < 1 for one in found)
        ends = sorted(one.time_ns for one in found)
        assert all(b - a > 29 * MINUTE for a, b in pairwise(ends))


def test_interval() -> None:
    assert interval_s(minutes(5)) == 60 and np.isnan(interval_s(minutes(1)))
