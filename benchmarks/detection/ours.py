"""Our own scores, by the shipped batch scorer, and what the engine costs for many series at once."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from benchmarks.detection.series import Scores, Series, filled
from otel_aiops.batch.score import score_file
from otel_aiops.config import load, parse
from otel_aiops.detect.engine import Engine
from otel_aiops.otlp.points import F64
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.batch import Batch

SCORE, ALERT = "anomaly_score", "alert_score"
COST_ROWS = 8192  # series at once
COST_WARM, COST_STEPS = 64, 32  # points of each before the clock starts, and while it runs


@dataclass(frozen=True, slots=True)
class Scored:
    """The untouched score, and the score after the alert logic."""

    score: Scores
    alert: Scores


def configured(preset: str | None = None, path: Path | None = None) -> PipelineConfig:
    """The defaults, those of a preset, or what a configuration file says.

    Raises: ConfigError, also when there is no such preset.
    """
    if path is not None:
        return load(path).config.pipeline()
    return parse(f"detection: {{preset: {preset}}}" if preset else "").config.pipeline()


def score_corpus(corpus: Sequence[Series], config: PipelineConfig) -> Scored:
    """Score all series together, as `otel-aiops score` does: one batch for each row number over all of them."""
    names = pa.array([one.name for one in corpus])
    lengths = [len(one.value) for one in corpus]
    table = pa.table(
        {
            "timestamp": pa.array(np.concatenate([one.time_ns for one in corpus]), pa.timestamp("ns", "UTC")),
            "value": np.concatenate([one.value for one in corpus]),
            "series": names.take(pa.array(np.repeat(np.arange(len(corpus)), lengths))),
        }
    )
    with tempfile.TemporaryDirectory(prefix="otel-aiops-bench-") as folder:
        source, output = Path(folder, "in.parquet"), Path(folder, "out.parquet")
        parquet.write_table(table, source)
        score_file(source, output, config)
        scored = parquet.read_table(output, columns=[SCORE, ALERT])
    ends = np.cumsum(lengths)[:-1]
    split = {name: np.split(scored[name].to_numpy(), ends) for name in (SCORE, ALERT)}
    by_name = {name: dict(zip(names.to_pylist(), parts, strict=True)) for name, parts in split.items()}
    return Scored(by_name[SCORE], by_name[ALERT])


def cost(corpus: Sequence[Series], config: PipelineConfig) -> tuple[float, float]:
    """(CPU microseconds a point, bytes of state a series) of score and learn, with thousands of series at once.

    The rows are stretches of the series of the corpus, so that all that makes real data slow is in them.
    """
    engine, values = Engine(config.detection), _stretches(corpus)
    rows = np.arange(COST_ROWS, dtype=np.int32)
    began = 0.0
    for step, value in enumerate(values):
        if step == COST_WARM:
            began = time.process_time()
        times = np.full(COST_ROWS, (1_700_000_000 + 300 * step) * 10**9, np.int64)
        batch = Batch(rows, times, value, np.full(COST_ROWS, 300.0 if step else np.nan))
        engine.learn(batch, engine.score(batch))
    took = time.process_time() - began
    size = sum(array.nbytes for array in engine.state().values())
    return took / (COST_STEPS * COST_ROWS) * 1e6, size / COST_ROWS


def _stretches(corpus: Sequence[Series]) -> F64:
    """Values of (points, COST_ROWS) from random places of the series."""
    random, points = np.random.default_rng(0), COST_WARM + COST_STEPS
    long_enough = [filled(one.value) for one in corpus if len(one.value) >= points]
    rows = []
    for k in range(COST_ROWS):
        value = long_enough[k % len(long_enough)]
        begin = int(random.integers(len(value) - points + 1))
        rows.append(value[begin : begin + points])
    return np.ascontiguousarray(np.array(rows).T)
