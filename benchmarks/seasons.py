"""Seasons: how much of the error of what is expected goes away with seasons of any period, and with weekly ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.table import Row, show
from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.otlp.points import F64
from otel_aiops.series.batch import Batch

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
COPIES = 4  # series of each kind, with other phases and shapes
STEPS = 4_000
START_NS = 1_735_689_600_000_000_000  # 2025-01-01
SEED = 3
FLOOR = float(np.sqrt(2 / np.pi))  # mean absolute error that the noise alone makes


@dataclass(frozen=True, slots=True)
class Kind:
    """Series with a season of amplitude 3 in noise of 1; a period of 0 is a random walk without any."""

    name: str
    period_s: float
    interval_s: float


KINDS = (
    Kind("30 minutes, a point a minute", 30 * MINUTE, MINUTE),
    Kind("90 minutes, a point a minute", 90 * MINUTE, MINUTE),
    Kind("90 minutes, a point in 5 minutes", 90 * MINUTE, 5 * MINUTE),
    Kind("6 hours, a point in 5 minutes", 6 * HOUR, 5 * MINUTE),
    Kind("8 hours, a point in 5 minutes", 8 * HOUR, 5 * MINUTE),
    Kind("a day, a point in 5 minutes", DAY, 5 * MINUTE),
    Kind("a week, a point an hour", 7 * DAY, HOUR),
    Kind("none: a random walk", 0.0, 5 * MINUTE),
)


def made() -> tuple[F64, NDArray[np.int64]]:
    """(values, times in ns) of all series, (R, STEPS) each."""
    random = np.random.default_rng(SEED)
    values, times = [], []
    for kind in KINDS:
        for _ in range(COPIES):
            at_s = np.arange(STEPS) * kind.interval_s
            noise = random.normal(size=STEPS)
            if kind.period_s:
                turn = 2 * np.pi * (at_s / kind.period_s + random.random())
                shape = 3 * np.sin(turn) + random.normal() * np.sin(2 * turn + random.random())
                values.append(100 + shape + noise)
            else:
                values.append(100 + np.cumsum(0.3 * noise))
            times.append(START_NS + (at_s * 1e9).astype(np.int64))
    return np.array(values), np.array(times)


def errors(values: F64, times: NDArray[np.int64], seasons: Literal["auto", "week", "off"]) -> F64:
    """Mean absolute error of what is expected in the last quarter, by kind."""
    engine, rows = Engine(EngineConfig(seasons=seasons)), np.arange(len(values), dtype=np.int32)
    expected = np.full(values.shape, np.nan)
    interval_s = np.diff(times[:, :2], axis=1)[:, 0] / 1e9
    for step in range(STEPS):
        batch = Batch(rows, times[:, step].copy(), values[:, step].copy(), interval_s)
        scores = engine.score(batch)
        engine.learn(batch, scores)
        expected[:, step] = scores.expected
    last = slice(3 * STEPS // 4, None)
    return np.abs(values - expected)[:, last].mean(axis=1).reshape(len(KINDS), COPIES).mean(axis=1)


def run() -> Iterator[Row]:
    """The mean absolute error beside that of weekly seasons alone; the noise has 0.8."""
    values, times = made()
    found = errors(values, times, "auto")
    weekly = errors(values, times, "week")
    unit = f"error, of which noise {FLOOR:.2f}"
    for kind, ours, peer in zip(KINDS, found.tolist(), weekly.tolist(), strict=True):
        yield Row(f"season of {kind.name}", ours, peer, unit, "weekly seasons", better="less")


def main() -> None:
    """Print them."""
    show(run())


if __name__ == "__main__":
    main()
