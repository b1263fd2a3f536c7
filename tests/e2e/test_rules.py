"""Recording rules of a version on a real Prometheus, beside what the service's detection says of the same values."""

from __future__ import annotations

import math
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from otel_aiops.detect.detector import LEVEL
from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.serving import Trained
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.rules import RECORD, SEASONAL, rules
from otel_aiops.series.batch import Batch
from tests.servers import Prometheus, require
from tests.tools.prometheus import promtool

QUEUES = ("calm", "loud", "season")
RULED = QUEUES[:2]
STEP_S, LEARNED_S, SCORED_S, AGO_S = 600, 15 * 86_400, 2 * 86_400, 4 * 3600
SAMPLE_S, EVERY = 60, "5m"
TOLERANCE = 1e-9  # both calculate with float64, in another order
CONFIG = EngineConfig(seasons="week", novelty_memory=0)


def usual(queue: int, time_s: float, rng: np.random.Generator) -> float:
    wave = math.sin(2 * math.pi * time_s / 86_400) if queue == 2 else 0.0
    return (100, -2e6, 100)[queue] + 40 * wave + (1, 1e3, 1)[queue] * float(rng.normal())


def labels_of(name: str) -> Labels:
    return Labels("queue.depth", resource=(("service.name", "shop"),), attributes=(("queue", name),))


def taught(until_s: int) -> Trained:
    engine, rng = Engine(CONFIG), np.random.default_rng(0)
    rows = np.arange(len(QUEUES), dtype=np.int32)
    for time_s in range(until_s - LEARNED_S, until_s, STEP_S):
        value = np.array([usual(k, time_s, rng) for k in range(len(QUEUES))])
        batch = Batch(rows, np.full(len(rows), time_s * 10**9), value, np.full(len(rows), float(STEP_S)))
        engine.learn(batch, engine.score(batch))
    return Trained(CONFIG, tuple(labels_of(name).to_json() for name in QUEUES), engine.state())


def samples(first_s: int, end_s: int) -> dict[int, list[float]]:
    """Noise, and now and then something far off."""
    rng = np.random.default_rng(1)
    odd = rng.normal(0, 30, 10_000) * (rng.random(10_000) < 0.2)
    return {
        time_s: [
            usual(k, time_s, rng) + (1, 1e3, 1)[k] * float(odd[(time_s // SAMPLE_S + k) % 10_000])
            for k in range(len(QUEUES))
        ]
        for time_s in range(first_s, end_s, SAMPLE_S)
    }


def tool(*arguments: str) -> None:
    done = subprocess.run(
        [str(require(promtool)), *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_rules_say_what_the_service_says(tmp_path: Path) -> None:
    end_s = int(time.time()) // 3600 * 3600 - AGO_S
    first_s = end_s - SCORED_S
    trained = taught(first_s)
    found = rules("v1", trained, every=EVERY)
    assert (found.series, found.refused) == (len(RULED), {SEASONAL: 1})
    path, data = tmp_path / "rules.yaml", tmp_path / "data.om"
    path.write_text(found.text)
    tool("check", "rules", str(path))
    values = samples(first_s, end_s)
    lines = [
        f'queue_depth{{job="shop",queue="{name}"}} {of[k]!r} {time_s}'
        for k, name in enumerate(QUEUES)
        for time_s, of in values.items()
    ]
    data.write_text("# TYPE queue_depth gauge\n" + "\n".join(lines) + "\n# EOF\n")
    tool("tsdb", "create-blocks-from", "openmetrics", str(data), str(tmp_path / "tsdb"))
    with Prometheus(tmp_path) as prometheus:
        times = [f"--start={first_s + 600}", f"--end={end_s - 600}", f"--output-dir={tmp_path / 'tsdb'}"]
        tool("tsdb", "create-blocks-from", "rules", *times, f"--url={prometheus.url}", str(path))
    with Prometheus(tmp_path) as prometheus:
        answer = prometheus.query(f"{RECORD}[10d]")
    assert {one["metric"]["queue"] for one in answer} == set(RULED)

    engine, compared = Engine(CONFIG), dict.fromkeys(RULED, 0)
    engine.restore(trained.engine)
    for one in answer:
        name = one["metric"]["queue"]
        assert one["metric"]["anomaly_metric_name"] == "queue.depth" and one["metric"]["anomaly_model"] == "v1"
        row = QUEUES.index(name)
        for at_s, text in one["values"]:
            value = values[int(at_s) // SAMPLE_S * SAMPLE_S][row]  # the newest one at that time
            batch = Batch(
                np.array([row], np.int32), np.array([round(at_s * 1e3) * 10**6]), np.array([value]), np.full(1, 60.0)
            )
            told = engine.score(batch)  # and nothing is learned
            assert float(text) <= told.score[0] * (1 + TOLERANCE) + TOLERANCE
            if told.channel[0] == LEVEL:
                assert float(text) == pytest.approx(told.score[0], rel=TOLERANCE, abs=TOLERANCE)
                compared[name] += 1
    assert min(compared.values()) > 100, compared  # elsewhere the short means are stranger
    assert max(float(text) for one in answer for _, text in one["values"]) > 1
