"""The isolation forest: numpy scores as scikit-learn does, and speaks where a service as a whole is strange."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest

from otel_aiops.detect.detector import FOREST, LEVEL, Scores
from otel_aiops.detect.engine import EngineConfig
from otel_aiops.detect.forest import Forests, anomaly, path_length
from otel_aiops.detect.serving import Action, Rollout, Trained
from otel_aiops.errors import ConfigError, StateError
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.families import _trees, train_forests
from otel_aiops.lifecycle.manifest import Window
from otel_aiops.lifecycle.stretch import AtHand, Stored
from otel_aiops.lifecycle.train import Wanted, train
from otel_aiops.lifecycle.version import ForestConfig, Models, Settings
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.memo import Memo
from otel_aiops.pipeline import Pipeline, PipelineConfig
from otel_aiops.series.archive import Points
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import Arrays
from otel_aiops.series.segments import HOUR_NS
from tests.feed import Feed
from tests.lifecycle.recording import MINUTE_NS, NOW_NS, START_NS, columns, record

HOURS = 5
CONFIG = ForestConfig(trees=20, samples=64)
PLAIN = EngineConfig(seasons="off", novelty_memory=0)
CART = [
    Labels("load", resource=(("service.name", "cart"),), scope_name="app", attributes=(("shard", f"s{k}"),))
    for k in range(4)
]
PAY = [replace(one, resource=(("service.name", "pay"),)) for one in CART[:2]]  # too few for a forest


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Datasets, str]:
    directory = tmp_path_factory.mktemp("data")
    steps, series = HOURS * 60, [one.to_json() for one in (*CART, *PAY)]
    value = 100 + np.random.default_rng(0).normal(0, 5, (steps, len(series)))
    time_ns = START_NS + np.repeat(np.arange(steps), len(series)) * MINUTE_NS
    record(directory, columns(series, np.tile(np.arange(len(series)), steps), time_ns, value.ravel()))
    datasets = Datasets.of(directory)
    window = Window(START_NS, START_NS + HOURS * HOUR_NS)
    return datasets, datasets.build(window, now_ns=NOW_NS, force="a test").id


@pytest.fixture(scope="module")
def arrays(dataset: tuple[Datasets, str]) -> Arrays:
    return forests_of(dataset)


def forests_of(dataset: tuple[Datasets, str], config: ForestConfig = CONFIG) -> Arrays:
    datasets, name = dataset
    names = datasets.series(name).names
    return train_forests(Stored(datasets.directory, name), names, config, start_ns=START_NS, end_ns=NOW_NS, processes=1)


def test_points_at_hand_give_the_same_forest_as_a_dataset(dataset: tuple[Datasets, str], arrays: Arrays) -> None:
    datasets, name = dataset
    texts, found = tuple(datasets.series(name).names), []
    for chunk in datasets.read(name):
        found += [
            (time_ns, texts.index(text), value)
            for text, *of in chunk.series()
            for time_ns, value in zip(*of, strict=True)
        ]
    time_ns, code, value = (np.array(column) for column in zip(*sorted(found), strict=True))
    stretch = AtHand(Points(code.astype(np.int32), time_ns, value, len(texts)), texts)
    assert stretch.intervals() == dict.fromkeys(texts, 60.0) == Stored(datasets.directory, name).intervals()
    for processes in (1, 2):
        again = train_forests(stretch, texts, CONFIG, start_ns=START_NS, end_ns=NOW_NS, processes=processes)
        assert {key: array.tobytes() for key, array in again.items()} == {k: a.tobytes() for k, a in arrays.items()}
    alone = AtHand(stretch.points.of([0]), texts[:1])
    assert train_forests(alone, texts[:1], CONFIG, start_ns=START_NS, end_ns=NOW_NS, processes=1) == {}
    one_point = Points(np.zeros(1, np.int32), np.array([START_NS]), np.zeros(1), 1)
    assert AtHand(one_point, texts[:1]).intervals() == {texts[0]: 0.0}


@pytest.mark.parametrize(("rows", "samples"), [(40, 64), (500, 64), (500, 8)])
def test_numpy_scores_as_scikit_learn_does(rows: int, samples: int) -> None:
    z = np.random.default_rng(1).normal(size=(rows, 5)).astype(np.float32)
    z[:, 4] = 0.0  # one that never changes
    config = ForestConfig(trees=30, samples=samples, seed=3)
    found = {name: array[None] if array.ndim == 2 else array for name, array in _trees(z, config).items()}
    sklearn = IsolationForest(n_estimators=30, max_samples=min(samples, rows), random_state=3).fit(z)
    new = np.random.default_rng(2).normal(0, 3, (50, 5)).astype(np.float32)
    ours = np.concatenate([anomaly(found, np.zeros(1, np.intp), row[None]) for row in new])
    assert ours == pytest.approx(-sklearn.score_samples(new), abs=1e-9)
    assert path_length(np.array([0, 1, 2, 3])).tolist() == pytest.approx([0, 0, 1, 1.2073924], abs=1e-6)


def batch(minute: float, value: list[float], rows: list[int] | None = None) -> Batch:
    rows = rows or list(range(len(value)))
    time_ns = np.full(len(rows), START_NS + round(minute * MINUTE_NS))
    return Batch(np.array(rows, np.int32), time_ns, np.array(value), np.full(len(rows), 60.0))


def own(size: int, score: float = 0.3) -> Scores:
    parts = [np.full(size, score) for _ in range(5)]
    return Scores(*parts, np.full(size, LEVEL, np.uint8), np.zeros(size), np.zeros(size))


def assigned(arrays: Arrays) -> Forests:
    forests = Forests(arrays)
    forests.assign(np.arange(6, dtype=np.int32), [*CART, *PAY])
    return forests


def test_a_strange_moment_is_told_when_it_is_over(arrays: Arrays) -> None:
    forests = assigned(arrays)
    assert len(arrays["usual"]) == 1 and len(arrays["key"]) == 4, "two series are no service for a forest"
    usual, strange = [100.0] * 6, [160.0, 130.0, 70.0, 140.0, 100.0, 100.0]
    assert forests.combined(batch(0, usual), own(6)).score.max() == pytest.approx(0.3)
    assert forests.combined(batch(1, strange), own(6)).score.max() == pytest.approx(0.3)
    state = forests.state()
    found = forests.combined(batch(2, usual), own(6))
    assert np.flatnonzero(found.score >= 1).tolist() == [0] == np.flatnonzero(found.channel == FOREST).tolist()
    assert found.alert[0] > 0 and np.isnan(found.probability[0])
    assert "4 trained series of its service" in forests.reason(0, "ms") and "160 ms, usually 99." in forests.reason(
        0, "ms"
    )
    assert forests.combined(batch(3, usual), own(6)).score.max() == pytest.approx(0.3)
    after = Forests.restored(state)
    assert after is not None and Forests.restored({}) is None
    assert after.combined(batch(2, usual), own(6)).score.tolist() == found.score.tolist()


def test_it_is_silent_where_it_knows_too_little(arrays: Arrays) -> None:
    forests = assigned(arrays)
    strange = [160.0, 130.0, 70.0, 140.0]
    forests.combined(batch(0, strange[:1], [0]), own(1))  # one of four
    assert forests.combined(batch(1, strange), own(4)).score.max() == pytest.approx(0.3)
    assert forests.combined(batch(2, [100.0], [3]), own(1, 99.0)).channel.tolist() == [LEVEL], "its own score is higher"
    forests.combined(batch(3, strange), own(4))
    cold = forests.combined(batch(4, [100.0] * 4), own(4, np.nan))
    assert np.isnan(cold.score).all(), "no point gets a score that had none"
    forests.forget(np.array([0, 1, 2, 3, 900], np.int32))
    assert forests.combined(batch(5, [100.0] * 4), own(4)).score.max() == pytest.approx(0.3)
    nobody = Forests(arrays)
    assert nobody.combined(batch(0, [1.0]), own(1)).score.tolist() == [0.3]


def test_training_is_deterministic_and_needs_enough(dataset: tuple[Datasets, str], arrays: Arrays) -> None:
    again = forests_of(dataset)
    assert all(arrays[name].tobytes() == again[name].tobytes() for name in arrays)
    assert forests_of(dataset, replace(CONFIG, least_series=5)) == {}
    assert forests_of(dataset, replace(CONFIG, most_moments=100)) == {}, "of each third moment there are too few"
    with pytest.raises(ConfigError, match="must be in 8"):
        ForestConfig(samples=2)


@pytest.mark.parametrize("name", ["left", "limit", "feature", "service", "key"])
def test_arrays_that_are_no_forest_are_refused(arrays: Arrays, name: str) -> None:
    wrong = {**arrays, name: np.zeros_like(arrays[name])}
    wrong = {**wrong, "feature": arrays["feature"] + 9} if name == "feature" else wrong
    wrong = {**wrong, "service": arrays["service"] + 1} if name == "service" else wrong
    wrong = {**wrong, "key": arrays["key"][1:]} if name == "key" else wrong
    with pytest.raises(StateError):
        Forests(wrong)


def test_a_version_with_a_forest_serves(dataset: tuple[Datasets, str], tmp_path: Path) -> None:
    datasets, name = dataset
    settings = Settings(PLAIN, (CONFIG,))
    models = Models(tmp_path)
    version, bundle = models.load(train(datasets, models, Wanted(dataset=name), settings, PipelineConfig()).id)
    assert version.settings == settings and bundle.forest
    trained = Trained(PLAIN, bundle.labels, bundle.engine, bundle.budget, bundle.prototypes, bundle.forest)
    pipeline = Pipeline(PipelineConfig(detection=PLAIN))

    def feed(of: Pipeline, minute: int, value: float) -> tuple[list[float], list[str]]:
        body, time_s = Feed("cart"), START_NS / 1e9 + 60 * minute
        for k in range(4):
            body.gauge("load", time_s, value + (-1) ** k * k, shard=f"s{k}")
        points = decode_metrics(body.request.SerializeToString(), Memo()).points
        step = of.metrics(points, now_ns=START_NS + minute * MINUTE_NS)
        scored = step.scored[0]
        said = [of.reason(scored, k) for k in np.flatnonzero(scored.scores.channel == FOREST).tolist()]
        return scored.scores.score.tolist(), said

    feed(pipeline, 400, 100.0)
    pipeline.roll(Rollout(action=Action.SHADOW, version=version.id, time_ns=1), lambda _: trained)
    pipeline.roll(Rollout(action=Action.PROMOTE, version=version.id, time_ns=1), lambda _: trained)
    for minute in range(401, 405):
        assert feed(pipeline, minute, 100.0)[1] == []
    feed(pipeline, 405, 160.0)
    after = Pipeline(PipelineConfig(detection=PLAIN))
    after.restore(pipeline.state())
    found, same = feed(pipeline, 406, 100.0), feed(after, 406, 100.0)
    assert found == same and len(found[1]) == 1 and "told from all that were trained" in found[1][0]
