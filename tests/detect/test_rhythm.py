"""Rhythm: the memory equals its slow twin, periods are found and kept only where they help, and noise has none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect import periods
from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.novelty import NoveltyTier
from otel_aiops.detect.rhythm import CELLS, FULL, SEARCHED, Rhythms, _half, season_of
from otel_aiops.otlp.points import F64
from otel_aiops.series.batch import Batch
from tests.detect.naive_rhythm import NaiveRhythm

BEGIN_NS = 1_760_000_400 * 10**9
MINUTE = 60.0


def feed(rhythms: Rhythms, values: F64, interval_s: float = MINUTE, begin: int = 0) -> int:
    """Learn values (N, K) of slots 0 .. K-1; returns how often a profile began anew."""
    count, slots = 0, np.arange(values.shape[1], dtype=np.int32)
    for i, row in enumerate(values, begin):
        time_ns = np.full(len(slots), BEGIN_NS + round(i * interval_s * 1e9), np.int64)
        begun = rhythms.learn(slots, time_ns, row, np.full(len(slots), interval_s))
        count += 0 if begun is None else len(begun.slots)
    return count


def rhythms_of(count: int) -> Rhythms:
    rhythms = Rhythms()
    rhythms.reserve(count)
    return rhythms


def wave(period_s: float, steps: int, *, count: int = 1, interval_s: float = MINUTE, noise: float = 0.5) -> F64:
    rng = np.random.default_rng(3)
    phase = np.arange(steps)[:, None] * interval_s / period_s + rng.random(count)
    return 50 + 3 * np.sin(2 * np.pi * phase) + noise * rng.standard_normal((steps, count))


def batch_of(values: F64, i: int, interval_s: float) -> Batch:
    count = len(values)
    time_ns = np.full(count, BEGIN_NS + round(i * interval_s * 1e9), np.int64)
    return Batch(np.arange(count, dtype=np.int32), time_ns, values, np.full(count, interval_s if i else np.nan))


def run(engine: Engine, values: F64, interval_s: float = MINUTE, begin: int = 0) -> tuple[F64, F64]:
    """(scores, expected) of values (N, K), (N, K) each."""
    found = []
    for i, row in enumerate(values, begin):
        batch = batch_of(row.copy(), i, interval_s)
        scores = engine.score(batch)
        engine.learn(batch, scores)
        found.append((scores.score, scores.expected))
    return np.array([score for score, _ in found]), np.array([expected for _, expected in found])


class TestMemory:
    @settings(max_examples=8, deadline=None)
    @given(
        st.lists(st.floats(1.0, 2_000.0), min_size=1, max_size=8),
        st.sampled_from([0.5, 7.0, 60.0, 4_000.0, 30_000.0]),
        st.integers(0, 2**31),
    )
    def test_equals_its_slow_twin(self, gaps: list[float], interval_s: float, seed: int) -> None:
        rng, rhythms, twin = np.random.default_rng(seed), rhythms_of(1), NaiveRhythm()
        slot, time_ns = np.zeros(1, np.int32), BEGIN_NS
        of = rhythms.of
        for i in range(900):
            gap = gaps[i % len(gaps)] if i % 97 == 0 else rng.choice([0.3, 1.0, 1.0, 1.0, 2.2, -0.4])
            time_ns += round(gap * interval_s * 1e9)
            value = float(5 + rng.normal() * (100 if i % 50 == 0 else 1))
            rhythms.learn(slot, np.array([time_ns]), np.array([value]), np.array([interval_s]))
            joined = twin.learn(time_ns, value, interval_s)
            assert of["width_s"][0] == twin.width_s
            if joined and twin.width_s:
                cells = of["cells"][0].astype(np.float64) * of["unit"][0] + of["centre"][0]
                known = {int(of["first"][0]) + k: v for k, v in enumerate(cells.tolist()) if not np.isnan(v)}
                assert known == pytest.approx(twin.cells, rel=0.01, abs=0.3)  # of values that are 100 off
                assert of["first"][0] + of["at"][0] == twin.current

    def test_a_long_life_begins_anew(self) -> None:
        rhythms = rhythms_of(1)
        widths = []
        for i in range(500):
            feed(rhythms, np.random.default_rng(i).normal(size=(1, 1)), 6 * 3600.0, begin=i)
            widths.append(int(rhythms.of["width_s"][0]))
        assert set(widths) == {0, 6 * 3600} and widths[-1] > 0
        feed(rhythms_of(1), np.ones((3, 1)), 86_400.0)  # too seldom: no memory at all

    @pytest.mark.parametrize("extreme", [1e150, -1e150, 5e-324, 0.0])
    def test_extremes_give_no_warning(self, extreme: float) -> None:
        rhythms, values = rhythms_of(2), wave(1_800.0, 700, count=2)
        values[5], values[40:60:3], values[400] = extreme, -extreme, extreme
        feed(rhythms, values)
        assert not np.isinf(rhythms.of["cells"]).any()

    def test_far_values_make_the_unit_larger_and_keep_what_is_there(self) -> None:
        rhythms, values = rhythms_of(1), np.ones((CELLS, 1))
        values[1], values[10:] = 1.0001, 1e6
        feed(rhythms, values)
        cells = rhythms.of["cells"][0] * rhythms.of["unit"][0] + rhythms.of["centre"][0]
        assert cells[20] == pytest.approx(1e6, rel=1e-3)
        assert cells[3] == pytest.approx(1.0, abs=0.1)

    def test_cells_are_the_nearest_half_precision_numbers(self) -> None:
        rng = np.random.default_rng(2)
        far = rng.normal(size=2_000) * 10.0 ** rng.integers(-12, 4, 2_000)
        between = (np.arange(0x7400, dtype=np.uint16).view(np.float16).astype(np.float64)[::7] * (1 + 2.0**-11)).clip(
            max=16_384
        )
        values = np.concatenate([far[np.abs(far) <= 16_384], between, [0.0, -0.0, 2**-25, 1.5 * 2**-24]]).astype(
            np.float32
        )
        bits = np.array([_half(value) for value in values], np.uint16)
        assert bits.tobytes() == values.astype(np.float16).tobytes()

    def test_few_are_searched_in_a_step_and_all_in_the_end(self) -> None:
        count = SEARCHED + 3
        rhythms, values = rhythms_of(count), wave(1_800.0, CELLS + 1, count=count)
        assert feed(rhythms, values) == SEARCHED
        assert (rhythms.of["due"][:count] > 0).sum() == count - SEARCHED
        assert feed(rhythms, wave(1_800.0, 3, count=count), begin=CELLS + 1) == count - SEARCHED
        assert (rhythms.of["due"][:count] == 0).all() and (rhythms.of["width_s"][:count] == 120).all()
        assert rhythms.of["due"].max() < FULL

    def test_fits_the_limit_of_the_tier(self) -> None:
        assert NoveltyTier(0).bytes_per_series <= 4_096


class TestPeriods:
    @pytest.mark.parametrize(
        ("period_s", "interval_s", "steps"),
        [(1_800.0, 60.0, 450), (5_400.0, 300.0, 400)],
    )
    def test_takes_errors_away(self, period_s: float, interval_s: float, steps: int) -> None:
        values = wave(period_s, steps, interval_s=interval_s)
        found, week = Engine(EngineConfig()), Engine(EngineConfig(seasons="week"))
        late = slice(steps * 3 // 4, None)
        error = np.abs(values - run(found, values, interval_s)[1])[late].mean()
        without = np.abs(values - run(week, values, interval_s)[1])[late].mean()
        assert error < 0.7 * without
        rhythm = found._novelty.rhythm(0)
        assert rhythm is not None and rhythm.own_clock
        assert rhythm.period_s == pytest.approx(period_s, rel=0.02)
        assert "% of its variance" in found.note(0) and "cycle" not in week.note(0)

    def test_long_periods_are_found(self) -> None:
        rhythms = rhythms_of(1)
        feed(rhythms, wave(864_000.0, 4 * CELLS + 4, interval_s=3_600.0), 3_600.0)
        assert rhythms.of["period_s"][0] == pytest.approx(864_000, rel=0.02)

    def test_a_day_keeps_the_hours_of_the_week(self) -> None:
        engine, values = Engine(EngineConfig()), wave(86_400.0, 480, interval_s=1_200.0)
        run(engine, values, 1_200.0)
        rhythm = engine._novelty.rhythm(0)
        assert rhythm is not None and rhythm.period_s == 86_400 and not rhythm.own_clock
        assert "24 hours" in engine.note(0)

    def test_another_rhythm_takes_its_place(self) -> None:
        rhythms = rhythms_of(1)
        feed(rhythms, wave(1_800.0, CELLS + 1))
        assert rhythms.of["parts"][0] == 30
        feed(rhythms, wave(86_400.0, 3_800, interval_s=120.0) * 5 - 200, 120.0, begin=CELLS + 1)
        assert rhythms.of["period_s"][0] == 86_400 and rhythms.of["parts"][0] == 0

    def test_a_rhythm_that_ended_is_doubted(self) -> None:
        rhythms = rhythms_of(1)
        feed(rhythms, wave(5_400.0, 2 * CELLS + 2))
        found = rhythms.rhythm(0)
        assert found is not None and found.period_s == pytest.approx(5_400, rel=0.02)
        rhythms.begin(np.zeros(1, np.int32))
        feed(rhythms, 50 + np.random.default_rng(1).normal(size=(2 * CELLS + 2, 1)), begin=2_000)
        assert rhythms.rhythm(0) is None
        assert rhythms.of["parts"][0] > 0  # its profile is still there, and the level beats it

    @pytest.mark.parametrize("kind", ["white", "walk", "constant"])
    def test_noise_has_none(self, kind: str) -> None:
        rng = np.random.default_rng(5)
        values = rng.normal(size=(900, 20))
        values = {"white": values, "walk": values.cumsum(axis=0), "constant": np.full((900, 20), 7.0)}[kind]
        rhythms = rhythms_of(20)
        feed(rhythms, values)
        assert (rhythms.of["period_s"][:20] > 0).sum() == 0

    def test_season_of_a_gappy_trend_is_the_season(self) -> None:
        every = np.arange(CELLS)
        x = 0.1 * every + 4 * np.sin(2 * np.pi * every / 32)
        x[5:9] = x[100:104] = np.nan
        season = season_of(x, 0, 60.0, 32 * 60.0)
        assert season.shape == pytest.approx(4 * np.sin(2 * np.pi * np.arange(32) / 32), abs=0.4)
        assert season.level == pytest.approx(0.1 * (CELLS - 16), abs=0.5)

    def test_promising_lets_pass_what_is_found_and_little_else(self) -> None:
        rng = np.random.default_rng(6)
        noise, seasons = rng.normal(size=(300, CELLS)), wave(1_800.0, CELLS, count=50, noise=2.0).T
        assert periods.promising(noise).mean() < 0.1
        assert periods.promising(seasons).mean() > 0.9
        gaps = np.full((1, CELLS), np.nan)
        assert not periods.promising(gaps).any() and not periods.promising(np.ones((2, CELLS))).any()


class TestEngine:
    def test_a_prefix_of_the_data_gives_a_prefix_of_the_scores(self) -> None:
        values = wave(1_800.0, 420, count=3)
        later = values.copy()
        later[330:] = 70 + later[330:] ** 2
        one, two = Engine(EngineConfig()), Engine(EngineConfig())
        assert run(one, values)[0][:330].tobytes() == run(two, later)[0][:330].tobytes()
        assert one._novelty.rhythm(0) is not None

    def test_a_restored_state_goes_on_bit_for_bit(self) -> None:
        values = wave(1_800.0, 520, count=3)
        one, two = Engine(EngineConfig()), Engine(EngineConfig())
        run(one, values[:300])
        assert one._novelty.own_clock(np.arange(3, dtype=np.int32)).tolist() == [30, 30, 30]
        two.restore(one.state())
        first, second = (run(engine, values[300:], begin=300) for engine in (one, two))
        assert first[0].tobytes() == second[0].tobytes() and first[1].tobytes() == second[1].tobytes()
        week = Engine(EngineConfig(seasons="week"))
        week.restore(one.state())
        assert not week._novelty.own_clock(np.arange(3, dtype=np.int32)).any()
        run(week, values[:5], begin=520)

    def test_forgotten_rows_and_heirs(self) -> None:
        engine, values, row = Engine(EngineConfig()), wave(1_800.0, 300), np.zeros(1, np.int32)
        run(engine, values)
        engine.inherit(row + 1, row)
        assert engine._novelty.own_clock(row + 1).tolist() == [30]
        assert engine._novelty._rhythms.of["width_s"][1] == 0  # its own memory begins anew
        engine.forget(row)
        assert engine._novelty.rhythm(0) is None and engine._novelty.rhythm(1) is not None
        assert not engine._novelty.own_clock(row).any()

    def test_an_heir_without_a_slot_begins_with_hours_of_the_week(self) -> None:
        size = NoveltyTier(0).bytes_per_series
        engine, row = Engine(EngineConfig(novelty_memory=size)), np.zeros(1, np.int32)
        run(engine, wave(1_800.0, 300))
        engine.inherit(row + 1, row)
        assert engine._deviation.memory.profile[0].any() and not engine._deviation.memory.profile[1].any()

    def test_the_reason_names_the_cycle(self) -> None:
        engine, values = Engine(EngineConfig()), wave(5_400.0, 520, noise=0.3)
        run(engine, values)
        low = int(np.argmin(values[-90:, 0]))
        batch = batch_of(np.array([values[:, 0].max()]), 520 + low, MINUTE)
        scores = engine.score(batch)
        assert scores.score[0] >= 1
        assert "at this point of its 90-minute cycle" in engine.reason(batch, scores, 0)

    def test_off_has_no_season(self) -> None:
        values = wave(86_400.0, 100, interval_s=1_200.0)
        engine = Engine(EngineConfig(seasons="off"))
        run(engine, values, 1_200.0)
        assert not engine._deviation.memory.profile.any() and engine.note(0) == "Within its band."
