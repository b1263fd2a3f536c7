"""The engine on made-up series: what must be noticed is, what is normal is not, equal input gives equal bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from otel_aiops.detect.detector import Scores
from otel_aiops.detect.engine import CHANNELS, Engine, EngineConfig
from otel_aiops.errors import ConfigError, StateError
from otel_aiops.series.batch import Batch
from tests import naive

START_S = 1_760_000_400  # a Thursday, on the hour
F64 = NDArray[np.float64]


@dataclass
class Run:
    """What an engine said of K series with N points each."""

    engine: Engine
    score: F64
    probability: F64
    expected: F64
    channel: NDArray[np.intp]
    warmup_s: F64
    reasons: dict[tuple[int, int], str]

    def first_alert(self, k: int, after: int) -> int | None:
        found = np.flatnonzero(self.score[k, after:] >= 1)
        return int(found[0]) if len(found) else None


def run(values: F64, *, step_s: float = 60.0, config: EngineConfig | None = None, engine: Engine | None = None) -> Run:
    values = np.atleast_2d(values)
    count, length = values.shape
    engine = engine or Engine(config or EngineConfig())
    rows = np.arange(count, dtype=np.int32)
    shape = (count, length)
    found = Run(
        engine, np.empty(shape), np.empty(shape), np.empty(shape), np.empty(shape, np.intp), np.empty(shape), {}
    )
    for i in range(length):
        time_ns = np.full(count, int((START_S + i * step_s) * 1e9), np.int64)
        batch = Batch(rows, time_ns, values[:, i].copy(), np.full(count, step_s if i else np.nan))
        scores = engine.score(batch)
        engine.learn(batch, scores)
        found.score[:, i], found.probability[:, i] = scores.score, scores.probability
        found.expected[:, i], found.channel[:, i] = scores.expected, scores.channel
        found.warmup_s[:, i] = scores.warmup_s
        for k in np.flatnonzero(scores.score >= 1).tolist():
            found.reasons[k, i] = engine.reason(batch, scores, k, "ms")
    return found


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(length: int, level: float = 100.0, spread: float = 2.0, seed: int = 7) -> F64:
    return level + spread * rng(seed).standard_normal(length)


def daily(length: int, seed: int = 7) -> F64:
    minute = np.arange(length)
    return 100 + 40 * np.sin(2 * np.pi * minute / 1440) + 2 * rng(seed).standard_normal(length)


class TestWarmUp:
    def test_says_how_long_it_takes(self) -> None:
        found = run(noise(40))
        assert np.isnan(found.score[0, :20]).all() and np.isfinite(found.score[0, 20:]).all()
        assert np.isnan(found.warmup_s[0, 0])  # one point says nothing about the interval
        assert found.warmup_s[0, 5] == pytest.approx(15 * 60)
        assert (found.warmup_s[0, 20:] == 0).all()

    def test_note_tells_the_points_that_are_missing(self) -> None:
        engine = run(noise(5)).engine
        assert engine.note(0) == "Still learning what is normal: 15 more points are needed, time left about 15 min."
        assert engine.note(3).startswith("Still learning what is normal: 20 more points")

    def test_a_series_with_a_point_a_week_cannot_tell_when(self) -> None:
        assert np.isnan(run(noise(5), step_s=7 * 86_400).warmup_s[0, 4])


class TestNoise:
    @pytest.mark.parametrize("kind", ["normal", "laplace", "poisson", "autoregressive", "daily", "counter of rare"])
    def test_is_not_anomalous(self, kind: str) -> None:
        length, generator = 3000, rng(11)
        values = {
            "normal": generator.normal(10, 1, (5, length)),
            "laplace": generator.laplace(10, 1, (5, length)),
            "poisson": generator.poisson(5, (5, length)).astype(float),
            "autoregressive": np.array([_autoregressive(length, seed) for seed in range(5)]),
            "daily": np.array([daily(length, seed) for seed in range(5)]),
            "counter of rare": generator.poisson(0.05, (5, length)).astype(float),
        }[kind]
        found = run(values)
        # Heavy tails have about one excursion a day, and the way back from it.
        most = {"laplace": 2.5e-3, "counter of rare": 1e-3}.get(kind, 5e-4)
        assert (found.score[:, 1500:] >= 1).mean() < most

    @pytest.mark.parametrize("kind", ["normal", "laplace", "exponential"])
    def test_probability_is_calibrated(self, kind: str) -> None:
        generator = rng(3)
        values = getattr(generator, kind)(size=(40, 3000)) + (5 if kind != "exponential" else 0)
        probability = run(values).probability[:, 1000:]
        assert (probability >= 0.5).mean() == pytest.approx(0.5, abs=0.05)
        assert (probability >= 0.9).mean() == pytest.approx(0.1, abs=0.02)
        assert (probability >= 0.99).mean() == pytest.approx(0.01, abs=0.007)

    def test_spikes_that_were_always_there_are_normal(self) -> None:
        values = rng().normal(0.1, 0.01, 3000)
        values[::97] = 5.0
        found = run(values)
        assert (found.score[0, 100:600] >= 1).any()
        assert not (found.score[0, 2000:] >= 1).any()


class TestNoticed:
    @pytest.mark.parametrize(
        ("name", "within", "channels"),
        [
            ("spike", 1, {"level", "novelty"}),
            ("shift", 8, {"level", "shift", "novelty"}),
            ("small shift", 25, {"shift", "novelty"}),
            ("ramp", 120, {"level", "shift", "novelty"}),
            ("variance", 20, {"level", "variance", "novelty"}),
            ("calm", 120, {"variance"}),
            ("flat", 40, {"flat"}),
            ("drop to zero", 1, {"level", "novelty"}),
        ],
    )
    def test_change(self, name: str, within: int, channels: set[str]) -> None:
        values, at = noise(2600), 2000
        rest = np.arange(600)
        values[at:] = {
            "spike": np.where(rest == 0, 130, values[at:]),
            "shift": values[at:] + 16,
            "small shift": values[at:] + 6,
            "ramp": values[at:] + 2 * rest / 30,
            "variance": 100 + 4 * (values[at:] - 100),
            "calm": 100 + 0.1 * (values[at:] - 100),
            "flat": np.full(600, values[at]),
            "drop to zero": np.zeros(600),
        }[name]
        found = run(values)
        assert not (found.score[0, 1000:at] >= 1).any()
        first = found.first_alert(0, at)
        assert first is not None and first < within
        assert CHANNELS[found.channel[0, at + first]] in channels

    def test_a_constant_that_changes(self) -> None:
        values = np.concatenate([np.full(500, 3.0), np.full(30, 4.0)])
        found = run(values)
        assert (found.score[0, 20:500] == 0).all()
        assert found.score[0, 500] > 1
        assert found.reasons[0, 500] == "4 ms after it had always been 3 ms."

    def test_longer_constants_are_stranger_when_they_change(self) -> None:
        scores = [run(np.append(np.full(n, 3.0), 4.0)).score[0, -1] for n in (50, 500, 5000)]
        assert scores == sorted(scores) and scores[0] < scores[2]

    def test_what_is_usual_at_noon_is_strange_at_midnight(self) -> None:
        values = daily(7 * 1440)
        at = 6 * 1440 + 1080  # the lowest of the day
        values[at : at + 5] = 135  # a usual value at the highest
        found = run(values)
        assert found.score[0, at] > 1
        assert CHANNELS[found.channel[0, at]] == "season"
        assert "that is usual on" in found.reasons[0, at]
        assert found.expected[0, at] == pytest.approx(60, abs=8)

    def test_weekdays_are_told_from_weekends(self) -> None:
        hour = np.arange(24 * 7 * 5)
        weekend = ((START_S // 3600 + hour + 72) // 24 % 7) >= 5
        values = np.where(weekend, 20.0, 100.0) + rng().standard_normal(len(hour))
        found = run(values, step_s=3600)
        last_week = slice(24 * 7 * 4, None)
        error = np.abs(found.expected[0] - values)[last_week]
        assert np.median(error) < 3
        assert (error > 30).mean() < 0.05

    def test_stopped_is_scored_by_its_limit(self) -> None:
        scores = Engine(EngineConfig()).silent_scores(np.array([75.0, 300.0]), np.array([75.0, 75.0]))
        assert scores.score.tolist() == [1.0, 4.0]
        assert CHANNELS[scores.channel[0]] == "stopped"


class TestLearning:
    def test_an_anomaly_is_not_learned(self) -> None:
        values = noise(2060)
        values[2000:2050] = 200
        found = run(values)
        assert (found.score[0, 2000:2050] >= 1).all()
        assert found.expected[0, 2051] == pytest.approx(100, abs=1)

    def test_what_lasts_becomes_the_new_normal_and_says_so(self) -> None:
        values = noise(2300)
        values[2000:] += 50
        found = run(values, config=EngineConfig(adapt_after=3600))
        over = np.flatnonzero(found.score[0, 2000:] >= 1)
        assert over[-1] == 60
        assert found.reasons[0, 2060].endswith("; this has lasted so long that it is the new normal from now on.")
        assert found.expected[0, 2100] == pytest.approx(150, abs=3)
        assert "this became its normal" in found.engine.note(0)

    def test_forgotten_rows_start_anew(self) -> None:
        found = run(np.array([noise(100), noise(100, seed=8)]))
        found.engine.forget(np.array([1], np.int32))
        after = run(np.array([[100.0], [100.0]]), engine=found.engine)
        assert np.isfinite(after.score[0, 0]) and np.isnan(after.score[1, 0])

    def test_no_point_influences_its_own_score(self) -> None:
        values = daily(3000)
        whole, part = run(values), run(values[:2500])
        assert np.array_equal(whole.score[:, :2500], part.score, equal_nan=True)
        assert np.array_equal(whole.expected[:, :2500], part.expected, equal_nan=True)


class TestState:
    def test_restored_engine_goes_on_bit_for_bit(self) -> None:
        values = np.array([daily(1500, seed) for seed in range(3)])
        whole = run(values)
        first = run(values[:, :900]).engine
        second = Engine(EngineConfig())
        second.restore(first.state())
        for i in range(900, 1500):
            time_ns = np.full(3, int((START_S + i * 60) * 1e9), np.int64)
            batch = Batch(np.arange(3, dtype=np.int32), time_ns, values[:, i].copy(), np.full(3, 60.0))
            scores = second.score(batch)
            second.learn(batch, scores)
            assert np.array_equal(scores.score, whole.score[:, i], equal_nan=True)
        mine, other = second.state(), whole.engine.state()
        assert mine.keys() == other.keys()
        assert all(mine[name].tobytes() == other[name].tobytes() for name in mine)

    def test_state_that_does_not_fit_is_refused(self) -> None:
        state = run(noise(30)).engine.state()
        del state["deviation/level"]
        with pytest.raises(StateError, match="expected arrays"):
            Engine(EngineConfig()).restore(state)

    def test_at_most_512_bytes_a_series(self) -> None:
        assert run(noise(3)).engine.bytes_per_series <= 512

    def test_rows_apart_and_rows_side_by_side_are_the_same(self) -> None:
        values = np.array([noise(60, seed=seed) for seed in range(4)])
        near, far = Engine(EngineConfig()), Engine(EngineConfig())
        apart = np.array([9, 2, 40, 7], np.int32)
        for i in range(60):
            time_ns = np.full(4, int((START_S + i * 60) * 1e9), np.int64)
            interval = np.full(4, 60.0 if i else np.nan)
            scores = []
            for engine, rows in ((near, np.arange(4, dtype=np.int32)), (far, apart)):
                batch = Batch(rows, time_ns, values[:, i].copy(), interval)
                scores.append(engine.score(batch))
                engine.learn(batch, scores[-1])
            assert np.array_equal(scores[0].score, scores[1].score, equal_nan=True)


def test_level_and_scale_are_those_of_the_slow_twin() -> None:
    """The vectorised level equals a plain loop over one series; the twin knows nothing of arrays."""
    values = noise(600)
    values[300] = 160
    factors: list[float] = []

    class Spied(Engine):
        def learn(self, batch: Batch, scores: Scores, **kept: Any) -> None:
            assert self._last is not None
            factors.append(float(self._last.look.factor[0]))
            super().learn(batch, scores, **kept)

    found = run(values, engine=Spied(EngineConfig()))
    flagged = (found.score[0] >= 1).tolist()
    expected = naive.levels(values.tolist(), memory=300, threshold=6.0, flagged=flagged, factors=factors)
    assert found.engine.state()["deviation/level"][0] == pytest.approx(expected[0], rel=1e-6)
    assert found.engine.state()["deviation/level_error"][0] == pytest.approx(expected[1], rel=1e-5)


def test_sensitivity_moves_alerts_and_nothing_else() -> None:
    values = np.random.default_rng(3).normal(100.0, 3.0, (300, 4))
    values[250] += 60
    plain, twice = Engine(EngineConfig()), Engine(EngineConfig(sensitivity=2.0))
    rows = np.arange(4, dtype=np.int32)
    for step, value in enumerate(values):
        batch = Batch(rows, np.full(4, step * 60_000_000_000), value, np.full(4, 60.0))
        one, other = plain.score(batch), twice.score(batch)
        plain.learn(batch, one, alert=np.where(one.alert > 9, 0.5, one.alert))
        twice.learn(batch, other, alert=np.where(other.alert > 18, 1.0, other.alert))
        assert other.alert.tolist() == (2 * one.alert).tolist()
        assert other.score.tobytes() == one.score.tobytes()
    states = plain.state(), twice.state()
    assert all(array.tobytes() == states[1][name].tobytes() for name, array in states[0].items())


@pytest.mark.parametrize(
    ("key", "value"),
    [("threshold", 0), ("warmup_points", 1), ("memory_points", 1), ("adapt_after", -1), ("sensitivity", 0)],
)
def test_settings_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        EngineConfig(**{key: value})  # type: ignore[arg-type]


def _autoregressive(length: int, seed: int) -> F64:
    steps = rng(seed).standard_normal(length)
    values = np.zeros(length)
    for i in range(1, length):
        values[i] = 0.95 * values[i - 1] + steps[i]
    return values
