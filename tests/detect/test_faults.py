"""Faults: what is put in is as large and as long as it says, where it says, and keeps to the nature of its series."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from otel_aiops.detect.faults import DAY_S, FAULTS, HOUR_S, Copies, Injected, inject, local_mean, onsets, spans
from otel_aiops.detect.specimens import KINDS, clean

F64 = NDArray[np.float64]
STEPS, BEGIN = 4 * 1440, 3 * 1440
LONG = {"season_shift", "season_flat"}


def put(name: str, values: F64, at: int | None = None, interval_s: float = 60.0, seed: int = 3) -> Injected:
    fault = FAULTS[name]
    random = np.random.default_rng(seed)
    onset = onsets(fault, values, values.shape[1] * 3 // 4, random, interval_s=interval_s)
    if at is not None:
        onset = np.full(len(values), at)
    return inject(fault, values, onset, interval_s=interval_s)


def noise(series: int = 6, steps: int = 2000, level: float = 100.0, spread: float = 2.0) -> F64:
    return level + spread * np.random.default_rng(5).standard_normal((series, steps))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAULTS)
def test_only_the_faulty_points_change(name: str, kind: str) -> None:
    values = clean(kind, 3, STEPS, seed=2, start_ns=1_760_140_800_000_000_000)
    before = values.copy()
    onset = onsets(FAULTS[name], values, BEGIN, np.random.default_rng(1), interval_s=60.0)
    span = spans(FAULTS[name], values, onset, interval_s=60.0)
    found = inject(FAULTS[name], values, onset, interval_s=60.0)
    np.testing.assert_array_equal(values, before)
    np.testing.assert_array_equal(found.values[~span], values[~span])
    assert not (found.truth & ~span).any()
    quiet = ~found.truth.any(axis=1)
    np.testing.assert_array_equal(found.values[quiet], values[quiet])
    if name == "missing":
        assert np.isnan(found.values[found.truth]).all() and found.truth.any(axis=1).all()
    else:
        assert np.isfinite(found.values[found.truth]).all()
        present = np.isfinite(values)
        assert (found.values[present & np.isfinite(found.values)] >= values[present].min() - 1e6).all()
        if (values[present] >= 0).all():
            assert (found.values[np.isfinite(found.values)] >= 0).all()


class TestSizes:
    """In noise with a spread of 2 around 100, an hour at a point a minute."""

    def test_a_shift_is_five_spreads_for_half_an_hour(self) -> None:
        for name, size in (("shift_up", 10.0), ("shift_down", -10.0)):
            found = put(name, noise())
            change = (found.values - noise())[found.truth]
            assert (found.truth.sum(axis=1) == 30).all()
            assert np.allclose(change, size, rtol=0.1)

    def test_a_spike_is_one_point(self) -> None:
        found = put("spike", noise())
        assert (found.truth.sum(axis=1) == 1).all()
        assert np.allclose((found.values - noise())[found.truth], 20.0, rtol=0.1)

    def test_a_ramp_rises_for_half_an_hour_and_stays(self) -> None:
        found = put("ramp", noise(), at=1500)
        change = found.values - noise()
        assert (np.diff(change[:, 1499:1530], axis=1) > 0).all()
        assert np.allclose(change[:, 1529:1560], change[:, 1529:1530])
        assert np.allclose(change[:, 1529], 20.0, rtol=0.1)
        np.testing.assert_array_equal(change[:, 1560:], 0.0)

    @pytest.mark.parametrize(("name", "ratio"), [("variance_up", 5.0), ("variance_down", 0.2)])
    def test_the_spread_changes_and_the_level_does_not(self, name: str, ratio: float) -> None:
        found = put(name, noise(40), at=1500)
        faulty, steps = found.values[:, 1500:1560], slice(1500, 1560)
        assert np.std(faulty) == pytest.approx(ratio * np.std(noise(40)[:, steps]), rel=0.25)
        assert np.mean(faulty) == pytest.approx(100.0, abs=0.5)

    def test_a_flat_line_is_the_last_value(self) -> None:
        found = put("flat", noise(), at=1500)
        np.testing.assert_array_equal(found.values[:, 1500:1620], np.repeat(noise()[:, 1499:1500], 120, axis=1))

    def test_a_stuck_counter_counts_nothing(self) -> None:
        assert (put("stuck", noise(), at=1500).values[:, 1500:1560] == 0).all()

    def test_size_and_duration_can_be_set(self) -> None:
        fault = replace(FAULTS["shift_up"], size=8.0, duration_s=10 * 60.0)
        assert inject(fault, noise(), np.full(6, 1500), interval_s=10.0).truth.sum(axis=1).tolist() == [60] * 6
        few = inject(fault, noise(), np.full(6, 1500), interval_s=600.0)
        assert few.truth.sum(axis=1).tolist() == [12] * 6  # never fewer points

    @settings(max_examples=25, deadline=None)
    @given(st.floats(1e-6, 1e9), st.sampled_from(["spike", "shift_up", "ramp", "variance_up", "flat", "missing"]))
    def test_the_unit_of_a_series_does_not_matter(self, unit: float, name: str) -> None:
        one, other = put(name, noise()), put(name, unit * noise())
        np.testing.assert_array_equal(one.truth, other.truth)
        np.testing.assert_allclose(other.values, unit * one.values, rtol=1e-9)


class TestNature:
    """What a series cannot be, its faulty copy is not."""

    def test_counts_stay_whole_and_never_negative(self) -> None:
        counts = clean("counts", 8, STEPS, seed=1)
        for name in FAULTS:
            found = put(name, counts).values
            found = found[np.isfinite(found)]
            assert (found == np.round(found)).all() and (found >= 0).all()

    def test_a_dip_below_nothing_is_no_fault(self) -> None:
        counts = clean("counts", 8, STEPS, seed=1)
        for name in ("dip", "shift_down"):
            assert not put(name, counts).truth.any()

    def test_what_is_at_its_limit_cannot_go_up(self) -> None:
        full = clean("saturated", 4, STEPS, seed=1)
        for name in ("spike", "shift_up", "ramp", "variance_up"):
            assert not put(name, full).truth.any()
        assert put("shift_down", full).truth.any(axis=1).all()

    def test_a_constant_has_levels_but_no_noise(self) -> None:
        constant = clean("constant", 4, STEPS, seed=1)
        for name in ("variance_up", "variance_down", "flat", "season_shift", "season_flat"):
            assert not put(name, constant).truth.any()
        for name in ("spike", "shift_up", "shift_down", "stuck", "missing"):
            assert put(name, constant).truth.any(axis=1).all()
        zero = np.zeros((2, 400))
        assert (put("spike", zero).values.max(axis=1) == 10.0).all() and not put("stuck", zero).truth.any()

    def test_rare_events_have_a_spread(self) -> None:
        rare = np.zeros((1, 1000))
        rare[0, ::40] = 1.0
        found = put("spike", rare)
        assert found.truth.sum() == 1 and 1 <= found.values[found.truth][0] <= 2

    def test_only_a_season_can_be_wrong(self) -> None:
        for kind in ("noise", "trend", "autoregressive", "bimodal", "counts", "heavy"):
            for name in LONG:
                assert not put(name, clean(kind, 6, STEPS, seed=4)).truth.any(), (kind, name)

    def test_a_season_is_shifted_by_six_hours(self) -> None:
        daily = clean("daily", 4, STEPS, seed=1)
        found = put("season_shift", daily, at=5000)
        np.testing.assert_array_equal(found.values[:, 5000:5360], daily[:, 4640:5000])
        assert found.truth.any(axis=1).all() and not found.truth[:, 5360:].any()

    def test_a_flat_day_has_noise_but_no_season(self) -> None:
        daily = clean("daily", 4, STEPS, seed=1)
        found = put("season_flat", daily, at=BEGIN)
        day = found.values[:, BEGIN:]
        assert (np.std(day, axis=1) < 0.3 * np.std(daily[:, BEGIN:], axis=1)).all()
        assert np.allclose(day.mean(axis=1), daily[:, BEGIN - 1440 : BEGIN].mean(axis=1), rtol=0.02)
        assert 0.7 < found.truth[:, BEGIN:].mean() < 1.0  # where the season crosses its mean nothing is wrong

    def test_too_little_past_shows_no_season(self) -> None:
        daily = clean("daily", 3, 1440, seed=1)
        assert not put("season_shift", daily, at=1000).truth.any()


class TestPlain:
    """Outside all that was before: nobody can say that the series is just like that."""

    def test_in_noise_levels_are_plain_and_shapes_are_not(self) -> None:
        for name in ("spike", "dip", "shift_up", "shift_down", "stuck", "missing"):
            assert put(name, noise()).plain.all(), name
        for name in ("variance_down", "flat"):
            assert not put(name, noise()).plain.any(), name

    def test_what_was_there_before_is_not_plain(self) -> None:
        values = noise()
        values[:3, 20] = 1000.0
        assert put("shift_up", values).plain.tolist() == [False] * 3 + [True] * 3

    def test_no_fault_is_not_plain(self) -> None:
        assert not inject(FAULTS["missing"], noise(2, 500), np.full(2, 500), interval_s=60.0).plain.any()


class TestSparse:
    def test_a_spike_waits_for_a_point(self) -> None:
        sparse = clean("sparse", 4, STEPS, seed=1)
        found = put("spike", sparse, at=5000)
        first = [int(np.flatnonzero(np.isfinite(row[5000:]))[0]) + 5000 for row in sparse]
        assert np.argwhere(found.truth)[:, 1].tolist() == first

    def test_a_lasting_fault_has_some_points(self) -> None:
        found = put("shift_up", clean("sparse", 8, STEPS, seed=1))
        assert (found.truth.sum(axis=1) >= 3).all()

    def test_a_series_without_points_has_no_fault(self) -> None:
        for name in FAULTS:
            assert not put(name, np.full((2, 300), np.nan)).truth.any()


class TestOnsets:
    @settings(max_examples=50, deadline=None)
    @given(st.sampled_from(sorted(FAULTS)), st.integers(100, 2000), st.integers(0, 2**32 - 1))
    def test_a_fault_ends_with_the_series_at_the_latest(self, name: str, steps: int, seed: int) -> None:
        values = noise(3, steps)
        begin = steps // 2
        onset = onsets(FAULTS[name], values, begin, np.random.default_rng(seed), interval_s=60.0)
        length = max(round(FAULTS[name].duration_s / 60), 12) if FAULTS[name].duration_s else 1
        fits = begin + length <= steps
        assert ((onset >= begin) & (onset + length <= steps)).all() if fits else (onset == steps).all()

    def test_no_onset_is_no_fault(self) -> None:
        for fault in FAULTS.values():
            found = inject(fault, noise(2, 500), np.full(2, 500), interval_s=60.0)
            assert not found.truth.any()
            np.testing.assert_array_equal(found.values, noise(2, 500))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=40),
    st.sampled_from([60.0, 600.0, 900.0, HOUR_S, DAY_S]),
)
def test_local_mean_equals_the_slow_one(numbers: list[float | None], interval_s: float) -> None:
    values = np.array([[np.nan if number is None else number for number in numbers]])
    half = max(5, round(HOUR_S / interval_s)) // 2
    found = local_mean(values, interval_s)[0]
    for i in range(len(numbers)):
        near = [number for number in numbers[max(i - half, 0) : i + half + 1] if number is not None]
        if near:
            assert found[i] == pytest.approx(sum(near) / len(near), abs=1e-6)
        else:
            assert np.isnan(found[i])


class TestCopies:
    def test_every_fault_that_shows_has_a_copy(self) -> None:
        copies = Copies.of(noise(), 1500, interval_s=60.0, seed=1)
        assert set(copies.faulty) == set(FAULTS) - LONG
        assert copies.rows().shape == (6 * (1 + len(copies.faulty)), 2000)
        np.testing.assert_array_equal(copies.rows()[:6], noise())

    def test_the_seed_decides(self) -> None:
        one, same, other = (Copies.of(noise(), 1500, interval_s=60.0, seed=seed).rows() for seed in (1, 1, 2))
        assert one.tobytes() == same.tobytes() != other.tobytes()
