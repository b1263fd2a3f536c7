"""A version that is saved while it serves: it answers as the service would have, also of series that are to come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from otel_aiops.detect.engine import Engine
from otel_aiops.detect.prototypes import KEYS
from otel_aiops.detect.serving import Action, Rollout, Trained
from otel_aiops.detect.smoothing import PENDING, SLOTS, TRAINED
from otel_aiops.errors import StateError
from otel_aiops.lifecycle.version import Bundle, ForecastConfig, ForestConfig, Lineage, Models, Settings
from otel_aiops.pipeline import Pipeline, PipelineConfig
from otel_aiops.series.columns import Arrays
from tests.lifecycle import test_pooled as pooled

PODS, LIMIT = 4, 0.6


def tree(services: int, series: int) -> Arrays:
    """Forests of one tree each, which asks whether the first series is far above its centre."""
    keys = [f"{k}" for k in range(services * series)]
    of: Arrays = {
        "key": np.arange(len(keys), dtype=np.uint64),
        "service": np.repeat(np.arange(services), series).astype(np.int32),
        "centre": np.full(len(keys), 100.0),
        "scale": np.ones(len(keys)),
        "usual": np.full(services, 0.4),
        "limit": np.full(services, LIMIT),
        "interval_s": np.full(services, 60.0),
        "samples": np.full(services, 64, np.int32),
        "left": np.full((services, 1, 3), -1, np.int16),
        "right": np.full((services, 1, 3), -1, np.int16),
        "feature": np.zeros((services, 1, 3), np.int16),
        "threshold": np.full((services, 1, 3), 10.0),
        "count": np.tile(np.array([64, 63, 1], np.int16), (services, 1, 1)),
    }
    of["left"][:, 0, 0], of["right"][:, 0, 0] = 1, 2
    return of


def level(key: int, of: float, limit: float, slot: int) -> Arrays:
    """A forecast of one series without a season, in quarters of an hour."""
    numbers = {"alpha": 0.2, "beta": 0.1, "gamma": 0.1, "phi": 0.9, "level": of, "trend": 0.0, "limit": limit}
    whole: Arrays = {"key": np.array([key], np.uint64), "slots": np.array([96]), "slot": np.array([slot])}
    whole |= {"season": np.zeros((1, SLOTS)), **{name: np.array([value]) for name, value in numbers.items()}}
    return {name: whole[name] for name in TRAINED}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return pooled.learned()


@pytest.fixture
def serving(engine: Engine) -> Pipeline:
    """A champion with prototypes, a forest and a forecast, which has served for a while: intervals are under way."""
    from otel_aiops.detect.forest import series_key

    of = pooled.trained(engine)
    forest = tree(1, PODS)
    pods = [one for one in pooled.PODS if one.service == "cart"]
    forest["key"] = np.array([series_key(one) for one in pods], np.uint64)
    found = Pipeline(PipelineConfig())
    forecast = level(series_key(pods[0]), 90.0, 1.0, pooled.START_S // 900 + 3)
    known = Trained(of.detection, of.labels, of.engine, {}, of.prototypes, forest, forecast)
    start(found, known)
    for minute in range(61, 64):
        step(found, minute, 100.0)
    step(found, 64, 150.0)
    return found


def start(pipeline: Pipeline, trained: Trained, name: str = "v") -> None:
    for action in (Action.SHADOW, Action.PROMOTE):
        pipeline.roll(Rollout(action=action, version=name, time_ns=1), lambda _: trained)


def step(pipeline: Pipeline, minute: int, value: float) -> list[float]:
    """The scores of a minute of the pods of cart."""
    found = []
    for k in range(PODS):
        done = pooled.feed(pipeline, minute, "cart", value + k / 10, pod=f"p{k}")
        found += [float(one) for scored in done.scored for one in scored.scores.score]
    return found


def kept(pipeline: Pipeline) -> Trained:
    rows = pipeline.table.live()
    return pipeline.serving.champion.trained(rows, [one.to_json() for one in pipeline.table.labels_of(rows)])


def test_it_goes_on_as_the_service_does(serving: Pipeline, tmp_path: Path) -> None:
    of = kept(serving)
    models = Models(tmp_path)
    families = ForecastConfig(), ForestConfig()
    version = models.write(Settings(of.detection, families), Bundle.saved(of), Lineage())
    other = Pipeline(PipelineConfig())
    other.restore(serving.state())
    start(other, models.trained(version.id), version.id)
    own = step(serving, 65, 100.0), step(serving, 66, 100.0)
    assert (step(other, 65, 100.0), step(other, 66, 100.0)) == own
    assert max(own[0]) > 1, "the forest tells of the minute before"
    quarter = step(serving, 75, 100.0)
    assert step(other, 75, 100.0) == quarter
    assert quarter[0] == pytest.approx((5 * 100 + 150) / 6 - 90), "the mean has the points from before it was saved"
    both = [pooled.first_score(pooled.feed(one, 70, "pay", 5010.0, pod="p9")) for one in (serving, other)]
    assert both[0] == both[1] < 1, "a new pod has a score at once"
    assert np.isnan(pooled.first_score(pooled.feed(serving, 71, "mail", 10.0, pod="p1")))


def test_a_series_that_is_not_warm_keeps_what_it_began_with(serving: Pipeline) -> None:
    pooled.feed(serving, 65, "pay", 5010.0, pod="p9")
    other = Pipeline(PipelineConfig())
    pooled.feed(other, 65, "pay", 5010.0, pod="p9")  # it is not known here, and the version knows it
    start(other, kept(serving))
    both = [pooled.first_score(pooled.feed(one, 66, "pay", 5020.0, pod="p9")) for one in (serving, other)]
    assert both[0] == both[1] < 1
    assert "a series like it that was trained" in other.note(0)


@pytest.mark.parametrize("part", ["prototypes", "forest", "forecast"])
def test_what_was_changed_is_refused(serving: Pipeline, tmp_path: Path, part: str) -> None:
    of = kept(serving)
    parts = {"prototypes": of.prototypes, "forest": of.forest, "forecast": of.forecast}
    assert set(KEYS) < set(of.prototypes) and {"value", "slot"} < set(of.forest) and set(PENDING) < set(of.forecast)
    name = {"prototypes": "key", "forest": "slot", "forecast": "count"}[part]
    parts[part] = {key: array for key, array in parts[part].items() if key != name}
    with pytest.raises(StateError):
        Models(tmp_path).write(Settings(of.detection), Bundle(of.labels, of.engine, of.budget, **parts), Lineage())
