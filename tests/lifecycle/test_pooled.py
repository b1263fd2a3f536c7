"""Pooled models: alike series share what one of them is like, so that a new pod is scored from its first point."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.prototypes import Prototypes, compact, keys_of
from otel_aiops.detect.serving import Action, Rollout, Trained
from otel_aiops.errors import StateError
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.pooled import clusters, prototypes
from otel_aiops.lifecycle.version import Bundle, Lineage, Models, Settings
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.memo import Memo
from otel_aiops.pipeline import Pipeline, PipelineConfig, Step
from otel_aiops.series.batch import Batch
from tests.feed import Feed, ns

START_S, MINUTES = 1_777_816_800, 60
CONFIG = EngineConfig(seasons="week")
LEVELS = {"cart": 100.0, "pay": 5000.0}


def labels_of(service: str, **attributes: str) -> Labels:
    pairs = tuple(sorted(attributes.items()))
    return Labels("load", resource=(("service.name", service),), scope_name="app", attributes=pairs)


PODS = [labels_of(service, pod=f"p{k}") for service in LEVELS for k in range(4)]
ROUTES = [labels_of("web", route=f"r{k}") for k in range(4)]  # nobody's instances, and of all sizes
SERIES = (*PODS, *ROUTES)


def learned(series: tuple[Labels, ...] = SERIES) -> Engine:
    """One hour of all series; the routes differ in level, the pods of a service do not."""
    engine, rng = Engine(CONFIG), np.random.default_rng(2)
    level = np.array([LEVELS.get(one.service, 0.0) or 10.0 ** (k + 1) for k, one in enumerate(series)])
    rows = np.arange(len(series), dtype=np.int32)
    for minute in range(MINUTES):
        time_ns = np.full(len(rows), ns(START_S + 60 * minute))
        value = level * (1 + 0.02 * rng.normal(size=len(rows)))
        batch = Batch(rows, time_ns, value, np.full(len(rows), 60.0 if minute else np.nan))
        engine.learn(batch, engine.score(batch))
    return engine


def trained(found: Engine) -> Trained:
    names = [one.to_json() for one in SERIES]
    state = found.state()
    return Trained(CONFIG, tuple(names), state, {}, prototypes(names, state, CONFIG.warmup_points))


def feed(pipeline: Pipeline, minute: int, service: str, value: float, **attributes: str) -> Step:
    body = Feed(service).gauge("load", START_S + 60 * minute, value, **attributes).request.SerializeToString()
    return pipeline.metrics(decode_metrics(body, Memo()).points, now_ns=ns(START_S + 60 * minute))


def first_score(step: Step) -> float:
    return float(step.scored[0].scores.score[0])


@pytest.fixture(scope="module")
def engine() -> Engine:
    return learned()


@pytest.fixture
def pipeline(engine: Engine) -> Pipeline:
    """One that knows nobody live, with a trained champion."""
    found = Pipeline(PipelineConfig())
    for action in (Action.SHADOW, Action.PROMOTE):
        found.roll(Rollout(action=action, version="v", time_ns=1), lambda _: trained(engine))
    return found


def test_a_new_pod_is_scored_from_its_first_point(pipeline: Pipeline) -> None:
    usual = first_score(feed(pipeline, 70, "pay", 5010.0, pod="p9"))
    assert usual < 1
    assert "learned of a series like it that was trained" in pipeline.note(0)
    assert first_score(feed(pipeline, 71, "cart", 5000.0, pod="p8")) > 1, "it is as cart's pods are"
    assert np.isnan(first_score(feed(pipeline, 72, "web", 10.0, route="r9"))), "routes say nothing of another"
    assert np.isnan(first_score(feed(pipeline, 73, "mail", 10.0, pod="p1")))


def test_it_survives_a_restart(pipeline: Pipeline) -> None:
    feed(pipeline, 70, "pay", 5010.0, pod="p9")
    after = Pipeline(PipelineConfig())
    after.restore(pipeline.state())
    both = [first_score(feed(one, 71, "cart", 101.0, pod="p7")) for one in (pipeline, after)]
    assert both[0] == both[1] and both[0] < 1
    a, b = pipeline.state(), after.state()
    assert set(a) == set(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_without_prototypes_a_new_pod_waits(engine: Engine) -> None:
    alone = Pipeline(PipelineConfig())
    for action in (Action.SHADOW, Action.PROMOTE):
        alone.roll(Rollout(action=action, version="v", time_ns=1), lambda _: replace(trained(engine), prototypes={}))
    assert np.isnan(first_score(feed(alone, 70, "pay", 5010.0, pod="p9")))


def test_series_that_are_there_when_a_version_begins_are_not_left_out(engine: Engine) -> None:
    pipeline = Pipeline(PipelineConfig())
    feed(pipeline, 70, "pay", 5010.0, pod="p9")
    pipeline.roll(Rollout(action=Action.CANARY, version="v", share=1.0, time_ns=1), lambda _: trained(engine))
    assert first_score(feed(pipeline, 71, "pay", 5020.0, pod="p9")) < 1


def test_a_prototype_is_typical_of_its_key(engine: Engine) -> None:
    names = [one.to_json() for one in SERIES]
    found = prototypes(names, engine.state(), CONFIG.warmup_points)
    assert (np.diff(found["key"].astype(object)) > 0).all()
    keys = keys_of(SERIES)
    at = dict(zip(found["key"].tolist(), found["row"].tolist(), strict=True))
    for k, one in enumerate(SERIES):
        kin, metric = keys[k].tolist()
        if one in PODS:
            assert SERIES[at[kin]].service == SERIES[at[metric]].service == one.service
        else:
            assert kin == 0 and metric not in at
    again = prototypes(names, engine.state(), CONFIG.warmup_points)
    assert all(found[name].tobytes() == again[name].tobytes() for name in found)
    assert not len(prototypes(names, engine.state(), 10_000)["key"]), "none of them is warm"


def test_clusters_tell_kinds_apart() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 0.1, (30, 3)), rng.normal(5, 0.1, (30, 3))])
    found, apart = clusters(x, seed=0)
    assert not set(found[:30].tolist()) & set(found[30:].tolist()) and (apart >= 0).all()
    few, _ = clusters(x[:5], seed=0)
    assert not few.any()


def test_what_does_not_fit_is_refused(engine: Engine, tmp_path: Path) -> None:
    of, models = trained(engine), Models(tmp_path)
    for wrong in (
        {"key": of.prototypes["key"][::-1], "row": of.prototypes["row"]},
        {"key": of.prototypes["key"], "row": of.prototypes["row"] + 1000},
        {"key": of.prototypes["key"]},
    ):
        with pytest.raises(StateError):
            models.write(Settings(CONFIG), Bundle(of.labels, of.engine, {}, wrong), Lineage())
    version = models.write(Settings(CONFIG), Bundle(of.labels, of.engine, {}, of.prototypes), Lineage())
    _, bundle = models.load(version.id)
    assert bundle.prototypes["key"].tobytes() == of.prototypes["key"].tobytes()


def test_a_compact_state_has_the_same_rows(engine: Engine) -> None:
    arrays = dict(engine.state())
    arrays["novelty/slot"] = np.where(np.arange(len(SERIES)) % 2, arrays["novelty/slot"], -1).astype(np.int32)
    small = compact(arrays)
    assert len(small["novelty/level/level"]) == len(SERIES) // 2
    Engine(CONFIG).restore(small)
    kept = small["novelty/slot"][1::2]
    assert np.array_equal(
        small["novelty/level/level"][kept], arrays["novelty/level/level"][arrays["novelty/slot"][1::2]]
    )
    assert Prototypes.restored(CONFIG, {}) is None and Prototypes.among(CONFIG, {}, arrays) is None
