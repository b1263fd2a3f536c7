"""Bad input: what no series should ever send leaves no warning, no NaN or infinity, and no detector that is broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.scorer import Scorer
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.pipeline import Pipeline, PipelineConfig
from otel_aiops.series.batch import Batch
from tests.feed import Feed, ns

DAY_S, YEAR_S = 86_400, 365 * 86_400
START_S = 1_760_000_000
BEFORE, BAD, AFTER = 300, 12, 400  # points
KINDS: dict[str, Callable[[int], float]] = {
    "nothing": lambda k: 100.0,
    "infinite": lambda k: np.inf,
    "minus infinite": lambda k: -np.inf,
    "both infinities": lambda k: np.inf if k % 2 else -np.inf,
    "largest": lambda k: 1.7e308 if k % 2 else -1.7e308,
    "huge": lambda k: 1e300,
    "denormal": lambda k: 5e-324,
    "negative": lambda k: -1e9,
    "zero": lambda k: 0.0,
    "in another unit": lambda k: 100_000.0 + k,
    "huge once": lambda k: 1e308 if k == 0 else 100.0,
}
ROWS = np.arange(len(KINDS), dtype=np.int32)


def values(step: int, random: np.random.Generator) -> list[float]:
    """One value of every series; bad ones from BEFORE on."""
    usual = random.normal(100.0, 1.0, len(KINDS))
    if BEFORE <= step < BEFORE + BAD:
        return [bad(step - BEFORE) for bad in KINDS.values()]
    return usual.tolist()


class Alone:
    """A detector without pipeline."""

    def __init__(self, detector: Engine | Scorer) -> None:
        self.detector = detector

    def __call__(self, at_s: int, value: list[float]) -> dict[str, Any]:
        batch = Batch(ROWS, np.full(len(ROWS), ns(at_s)), np.array(value), np.full(len(ROWS), 60.0))
        if isinstance(self.detector, Scorer):
            scores = self.detector.score(batch).scores
        else:
            scores = self.detector.score(batch)
            self.detector.learn(batch, scores)
        return {name: getattr(scores, name) for name in ("score", "alert", "probability", "expected")}


class Road:
    """The whole data path: alignment, groups, peers, jobs and budget too; what it leaves out is NaN here."""

    def __init__(self) -> None:
        self.pipeline = Pipeline(PipelineConfig())

    def __call__(self, at_s: int, value: list[float]) -> dict[str, Any]:
        feed = Feed("cart")
        for kind, one in zip(KINDS, value, strict=True):
            feed.gauge("cpu", at_s, one, kind=kind)
        step = self.pipeline.metrics(decode_metrics(feed.body()).points, now_ns=ns(at_s))
        found = {name: np.full(len(ROWS), np.nan) for name in ("score", "alert", "probability", "expected")}
        for scored in step.scored:
            for name, column in found.items():
                column[scored.batch.rows] = getattr(scored.scores, name)
        return found


MAKE: dict[str, Callable[[], Any]] = {
    "engine": lambda: Alone(Engine(EngineConfig())),
    "preset novelty": lambda: Alone(Engine(EngineConfig(preset="novelty"))),
    "level and season": lambda: Alone(Engine(EngineConfig(novelty_memory=0))),
    "scorer": lambda: Alone(Scorer(EngineConfig())),
    "pipeline": Road,
}


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("gap_s", [0, YEAR_S])
def test_ordinary_scoring_goes_on(name: str, gap_s: int) -> None:
    step_of, random = MAKE[name](), np.random.default_rng(7)
    over = np.zeros(len(ROWS))
    for step in range(BEFORE + BAD + AFTER):
        at_s = START_S + 60 * step + (gap_s if step >= BEFORE + BAD else 0)
        found = step_of(at_s, values(step, random))
        for column in found.values():
            assert not np.isinf(column).any()
        if step >= BEFORE + BAD + AFTER - 100:
            assert not any(np.isnan(column).any() for column in found.values())
            over += found["score"] >= 1
            near = np.abs(found["expected"] - 100.0)
            assert (near < 10.0).all(), dict(zip(KINDS, near.round(1), strict=True))
    assert (over <= 5).all(), dict(zip(KINDS, over, strict=True))
    at_s += 60
    spike = step_of(at_s, [160.0] * len(ROWS))["score"]
    noticed = spike >= 1
    if name != "preset novelty":  # which asks whether a value is new, and 1e300 was
        assert noticed.all(), dict(zip(KINDS, spike.round(2), strict=True))
    assert noticed[0]


def test_points_from_the_future_and_the_past_leave_the_clock_alone() -> None:
    """A sender whose clock is a year ahead, or behind, spoils neither its own series nor those of others."""
    road, random = Road(), np.random.default_rng(3)
    for step in range(BEFORE):
        road(START_S + 60 * step, values(step, random))
    at_s = START_S + 60 * BEFORE
    for wrong_s in (YEAR_S, -YEAR_S, 3 * DAY_S):
        feed = Feed("cart").gauge("cpu", at_s + wrong_s, 100.0, kind="nothing")
        road.pipeline.metrics(decode_metrics(feed.body()).points, now_ns=ns(at_s))
        assert road.pipeline.event_ns <= ns(at_s)
    for step in range(BEFORE + BAD, BEFORE + BAD + 100):
        found = road(START_S + 60 * step, values(step, random))
    assert (found["score"] < 1).all()
    assert (road(START_S + 60 * (step + 1), [160.0] * len(ROWS))["score"] >= 1).all()
