"""A version outside of the service: the scorer that needs only numpy, and rules of Prometheus."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from otel_aiops.cli import app
from otel_aiops.detect import pairs, seen
from otel_aiops.detect.detector import FORECAST, Scores
from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.forest import series_key
from otel_aiops.detect.serving import Trained
from otel_aiops.detect.smoothing import Smoothing
from otel_aiops.errors import BadInput
from otel_aiops.labels import Labels
from otel_aiops.lifecycle import swift
from otel_aiops.lifecycle.bundler import bundle
from otel_aiops.lifecycle.export import export
from otel_aiops.lifecycle.rules import COLD, QUICK, STAT, refusals, rules
from otel_aiops.lifecycle.version import Bundle, ForestConfig, Lineage, Models, Settings
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.batch import Batch
from tests.lifecycle import test_pooled as pooled
from tests.lifecycle.test_saved import level, tree

T0_NS, MINUTE_NS = 1_777_816_800_000_000_000, 60_000_000_000
ROWS = 7


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The bundled scorer as a module."""
    path = tmp_path_factory.mktemp("scorer") / "alone_for_tests.py"
    path.write_text(bundle())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_it_is_one_readable_module_of_the_services_own_sources() -> None:
    text = bundle()
    assert text == bundle(), "the same sources give the same bytes"
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]  # type: ignore[union-attr]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy"}
    assert "@compiled" not in text and "# Below the threshold the square ranks small deviations" in text
    assert max(map(len, text.splitlines())) < 150


def strange(seed: int, steps: int) -> np.ndarray:
    """Series of all kinds, some with values that hurt."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps)
    found = np.stack(
        [
            rng.normal(100, 3, steps),
            np.sin(t / 20) * 5 + rng.normal(0, 0.1, steps),
            np.cumsum(rng.normal(size=steps)),
            (rng.random(steps) < 0.03).astype(float),
            np.full(steps, 7.0),
            np.round(rng.lognormal(3, 2, steps)),
            rng.normal(0, 1, steps) * 10.0 ** rng.integers(-12, 12, steps),
        ]
    )
    found[0, steps // 2 : steps // 2 + 30] += 40
    found[4, steps * 2 // 3] = 1e18
    found[5, 0] = found[5, steps // 3] = 0.0
    return found


@pytest.mark.parametrize(
    "config", [{}, {"preset": "novelty", "seasons": "week"}, {"novelty_memory": 0, "threshold": 3.0}]
)
def test_it_scores_and_learns_the_same_bits(alone: ModuleType, config: dict[str, Any]) -> None:
    ours, theirs = Engine(EngineConfig(**config)), alone.Engine(alone.EngineConfig(**config))
    rows, values = np.arange(ROWS, dtype=np.int32), strange(3, 160)
    for k in range(values.shape[1]):
        time_ns = np.full(ROWS, T0_NS + k * 17 * MINUTE_NS)
        interval_s = np.full(ROWS, 17 * 60.0 if k else np.nan)
        a, b = Batch(rows, time_ns, values[:, k], interval_s), alone.Batch(rows, time_ns, values[:, k], interval_s)
        told = ours.score(a)
        with np.errstate(all="ignore"):
            also = theirs.score(b)
            theirs.learn(b, also)
        ours.learn(a, told)
        for name in ("score", "probability", "expected", "lower", "upper", "alert", "channel"):
            assert getattr(told, name).tobytes() == getattr(also, name).tobytes(), (name, k)
    before, after = ours.state(), theirs.state()
    assert {name for name in before if before[name].tobytes() != after[name].tobytes()} == set()


def test_its_forecasts_are_the_same_bits(alone: ModuleType) -> None:
    labels, rng = Labels("load"), np.random.default_rng(4)
    arrays = level(series_key(labels), 100.0, 5.0, T0_NS // (15 * MINUTE_NS) - 1)
    ours, theirs = Smoothing(arrays), alone.Smoothing(arrays)
    row = np.zeros(1, np.int32)
    ours.assign(row, [labels])
    theirs.assign(row, [alone.Labels("load")])
    numbers = [np.full(1, 0.3) for _ in range(5)]
    own = *numbers, np.zeros(1, np.uint8), np.zeros(1), np.zeros(1)
    minute, told = 0, 0
    for _ in range(400):
        minute += int(rng.choice([1, 7, 40, 6_000], p=[0.3, 0.3, 0.395, 0.005]))
        at = row, np.array([T0_NS + minute * MINUTE_NS]), rng.normal(100, 8, 1), np.full(1, 60.0)
        a = ours.combined(Batch(*at), Scores(*own))
        b = theirs.combined(alone.Batch(*at), alone.Scores(*own))
        assert (a.score[0], a.alert[0], a.channel[0]) == (b.score[0], b.alert[0], b.channel[0])
        told += a.channel[0] == FORECAST
        assert ours.reason(0, "s") == theirs.reason(0, "s")
    before, after = ours.learned(), theirs.learned()
    assert told > 20 and all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_loops_over_arrays_are_the_kernels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        life = (rng.integers(0, 4, 512) * rng.integers(0, 2, 512)).astype(np.uint8)
        live, also = np.zeros(8, np.uint64), np.zeros(8, np.uint64)
        fast, slow, room = life.copy(), life.copy(), np.zeros(512, np.uint8)
        low, steps = int(rng.integers(-(2**40), 2**40)), int(rng.integers(1, 9))
        seen._merge(slow, live, low, steps, room)
        swift.seen_merge(swift.Wide(fast), also, low, steps, np.zeros(512, np.uint8))
        assert (fast == slow).all() and (live == also).all()
        assert seen._fade(slow) == swift.seen_fade(swift.Wide(fast)) and (fast == slow).all()
        word = np.uint64(rng.integers(0, 2**63))
        assert seen.highest(word) == swift.seen_highest(word)
        ring = rng.normal(size=100).astype(np.float32)
        assert pairs._at_place(ring.copy(), 50) == swift.pairs_at_place(ring.copy(), 50)
        now, before = rng.normal(size=(2, 96)).astype(np.float32)
        of = np.float32(0.3), np.float32(-0.2)
        got = swift.pairs_nearest(swift.Wide(now), before, *of, np.empty(96, np.float32))
        assert got == pairs._nearest(now, before, *of, np.empty(96, np.float32))
    assert seen.highest(np.uint64(0)) == swift.seen_highest(np.uint64(0)) == -1
    assert [swift.log(0.0), swift.log10(0.0), swift.log1p(-1.0)] == [-np.inf] * 3
    assert np.isnan([swift.log(-1.0), swift.log10(-1.0), swift.log1p(-2.0)]).all()
    with np.errstate(over="ignore"):
        assert swift.exp(1e4) == swift.expm1(1e4) == np.inf


# -- a version ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Models, str]:
    """A version with prototypes and a forest."""
    of = pooled.trained(pooled.learned())
    forest = tree(1, 4)
    forest["key"] = np.array([series_key(one) for one in pooled.PODS[:4]], np.uint64)
    models = Models(tmp_path_factory.mktemp("data") / "lifecycle" / "models")
    bundle = Bundle(of.labels, of.engine, {}, of.prototypes, forest)
    return models, models.write(Settings(of.detection, (ForestConfig(),)), bundle, Lineage()).id


def run(alone: ModuleType, model: Path, *lines: str, save: Path | None = None) -> list[dict[str, Any]]:
    sink, more = io.StringIO(), ["--save", str(save)] if save else []
    assert alone.main([str(model), *more], io.StringIO("\n".join(lines) + "\n"), sink) == 0
    return [json.loads(line) for line in sink.getvalue().splitlines()]


def line(labels: Labels, minute: int, value: object) -> str:
    text = labels.to_json().replace('"', '""')
    return f'2026-05-03T{14 + minute // 60}:{minute % 60:02}:00Z,"{text}",{value}'


HEAD = "timestamp,series,value"


def test_new_series_and_services_are_scored_too(alone: ModuleType, saved: tuple[Models, str], tmp_path: Path) -> None:
    models, name = saved
    found = export(models, name, tmp_path / "edge.npz", PipelineConfig())
    assert found.series == 12 and found.detectors[-1] == "forest" and "the alert budget" in found.without
    again = export(models, name, tmp_path / "again.npz", PipelineConfig())
    assert found.model.read_bytes() == again.model.read_bytes()
    pod, nobody = pooled.labels_of("pay", pod="p9"), pooled.labels_of("mail", pod="p1")
    new, unknown = run(alone, found.model, HEAD, line(pod, 70, 5010.0), line(nobody, 70, 1.0))
    assert new["score"] < 1 and unknown["score"] is None and unknown["channel"] == "none"
    cart = pooled.PODS[:4]
    minutes = [line(one, minute, 100.0 if minute != 72 else 160.0) for minute in range(71, 74) for one in cart]
    kept = tmp_path / "kept.npz"
    told = run(alone, found.model, HEAD, *minutes[:8], save=kept)
    told += run(alone, kept, HEAD, *minutes[8:], line(cart[0], 73, 100.0), line(cart[0], 74, ""))
    (forest,) = [one for one in told if one.get("channel") == "forest"]
    assert forest["timestamp"] == 1_777_816_800 + 73 * 60 and "told from all that were trained" in forest["reason"]
    assert [one.get("skipped") for one in told[-2:]] == ["no number, or not newer than the one before"] * 2


def test_points_of_one_series_alone(alone: ModuleType, saved: tuple[Models, str], tmp_path: Path) -> None:
    export(*saved, tmp_path / "edge.npz", PipelineConfig())
    found = run(alone, tmp_path / "edge.npz", "timestamp,value", "1777816800,1", "1777816830.5,2")
    assert [(one["series"], one["timestamp"]) for one in found] == [("value", 1777816800), ("value", 1777816830.5)]


def test_a_file_of_another_form_is_refused(alone: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, version=np.frombuffer(b'{"form": 99}', np.uint8))
    with pytest.raises(alone.StateError, match="expected a scorer's file of form 1, got 99"):
        alone.main([str(path)], io.StringIO(), io.StringIO())


def test_a_wrong_name_is_refused(saved: tuple[Models, str], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"expected a name that ends in \.npz"):
        export(*saved, tmp_path / "edge.bin", PipelineConfig())
    with pytest.raises(BadInput, match="model version: expected one of"):
        export(saved[0], "feedfeedfeedfeed", tmp_path / "edge.npz", PipelineConfig())


def test_the_command(saved: tuple[Models, str], tmp_path: Path) -> None:
    directory, name = saved[0].directory.parent.parent, saved[1]
    done = CliRunner().invoke(app, ["export", name, "--rules", str(tmp_path / "r.yaml"), "-d", str(directory)])
    assert done.exit_code == 0 and "rules for 12 series" in done.output, done.output
    assert CliRunner().invoke(app, ["export", name]).exit_code == 2


# -- rules --------------------------------------------------------------------------------------------------------


def taught(values: np.ndarray, **config: Any) -> dict[str, np.ndarray]:
    engine, rows = Engine(EngineConfig(**config)), np.arange(len(values), dtype=np.int32)
    for k in range(values.shape[1]):
        time_ns = np.full(len(values), T0_NS + k * MINUTE_NS)
        batch = Batch(rows, time_ns, values[:, k], np.full(len(values), 60.0 if k else np.nan))
        engine.learn(batch, engine.score(batch))
    return engine.state()


def test_only_what_can_be_written_has_a_rule() -> None:
    steps = 200
    noise = np.random.default_rng(0).normal(0, 1, (4, steps))
    values = np.stack([100 + noise[0], noise[1], np.full(steps, 3.0), np.arange(steps) * 5.0 + noise[3] * 0.01])
    labels = [Labels("a b", unit="s"), Labels("a", stat="rate"), Labels("flat"), Labels("ramp")]
    trained = Trained(EngineConfig(), tuple(one.to_json() for one in labels), taught(values))
    found = rules("v1", trained, every="30s")
    assert found.series == 1 and found.refused == {STAT: 1, COLD: 1, QUICK: 1}
    assert (
        "abs(a_b_seconds{} - " in found.text and "interval: 30s" in found.text and 'anomaly_model: "v1"' in found.text
    )
    assert refusals(found)[0].startswith("1 series have no rule: ")
    nothing = rules("v1", Trained(EngineConfig(), (labels[2].to_json(),), taught(values[2:3])))
    assert nothing.text.endswith("groups: []\n")
