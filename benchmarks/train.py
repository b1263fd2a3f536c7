"""Training: how many points a second are learned, beside a loop over series, and how long a large fleet takes."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from otel_aiops.detect.engine import prepare
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.manifest import Window
from otel_aiops.lifecycle.reading import Chunk
from otel_aiops.lifecycle.train import PART_SERIES, WINDOW_ROWS, Learner, Wanted, train
from otel_aiops.lifecycle.version import Models, Settings
from otel_aiops.lifecycle.workers import processes
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.rows import Columns
from otel_aiops.series.segments import HOUR_NS, Segments

START_NS = 1_777_816_800_000_000_000
FLEET_SERIES, FLEET_POINTS = 20_000, 14 * 1440  # what the projection is for
SERVICE_SERIES = 40
SEED = 7
LOOPED = 20  # series that the loop over series learns


def record(directory: Path, series: int, hours: int, interval_s: float) -> None:
    """A history of services whose series have noise, level and a season of a day."""
    texts = [
        Labels(
            f"metric{k % SERVICE_SERIES}",
            resource=(("service.name", f"service{k // SERVICE_SERIES}"),),
            attributes=(("pod", f"p{k}"),),
        ).to_json()
        for k in range(series)
    ]
    rng = np.random.default_rng(SEED)
    fingerprints = rng.integers(0, 1 << 63, series).astype(np.uint64)
    level, season = rng.lognormal(3, 1, series), rng.random(series) * (rng.random(series) < 0.5)
    segments = Segments(directory / "segments")
    segments.open(0)
    steps = round(3600 / interval_s)
    for hour in range(hours):
        time_ns = START_NS + hour * HOUR_NS + np.arange(steps) * round(interval_s * 1e9)
        wave = np.sin(2 * np.pi * (hour + np.arange(steps) / steps) / 24)[:, None]
        value = level * (1 + season * wave + 0.1 * rng.normal(size=(steps, series)))
        code = np.tile(np.arange(series, dtype=np.int32), steps)
        score = np.full(series * steps, 0.5, np.float32)
        segments.write(
            hour + 1, hour + 1, Columns(code, np.repeat(time_ns, series), value.ravel(), score, texts, fingerprints)
        )
    segments.compact(START_NS + (hours + 2) * HOUR_NS, through=hours)


def cpu_s() -> float:
    """Seconds of a core that this process and those that it waited for have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def steady(datasets: Datasets, name: str, start_ns: int, end_ns: int) -> float:
    """Points that are learned with each second of a core once a process has begun: in the newer half of a dataset."""
    names, middle_ns = sorted(datasets.series(name).names)[:PART_SERIES], (start_ns + end_ns) // 2
    learner, points, began_s = Learner(names, PipelineConfig()), 0, 0.0
    for first_ns, last_ns in ((start_ns, middle_ns), (middle_ns, end_ns)):
        points, began_s = 0, time.process_time()
        for chunk in datasets.windows(name, names, start_ns=first_ns, end_ns=last_ns, rows=WINDOW_ROWS):
            points += len(chunk.time_ns)
            for _ in learner.take(chunk):
                pass
    return points / (time.process_time() - began_s)


def looped(datasets: Datasets, name: str, start_ns: int, end_ns: int) -> float:
    """The same of a loop that learns one series after the other, point by point, with the same code."""
    names, points, used_s = sorted(datasets.series(name).names)[:LOOPED], 0, 0.0
    for chunk in datasets.windows(name, names, start_ns=start_ns, end_ns=end_ns, rows=WINDOW_ROWS):
        for text, time_ns, value in chunk.series():
            learner, began_s = Learner([text], PipelineConfig()), time.process_time()
            for _ in learner.take(Chunk((text,), np.array([len(value)]), time_ns, value)):
                points += 1
            used_s += time.process_time() - began_s
    return points / used_s


def main(arguments: Sequence[str]) -> int:
    """Print rate, memory and what the fleet takes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks train", description=__doc__)
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--hours", type=int, default=4)
    parser.add_argument("--interval", type=float, default=60.0, help="seconds")
    parser.add_argument("--processes", type=int, default=processes())
    asked = parser.parse_args(arguments)
    prepare(print)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        record(directory, asked.series, asked.hours, asked.interval)
        datasets = Datasets.of(directory)
        window = Window(START_NS, START_NS + asked.hours * HOUR_NS)
        made = datasets.build(window, now_ns=window.end_ns + HOUR_NS, force="a benchmark")
        begin, before_s = time.perf_counter(), cpu_s()
        models = Models(directory / "models")
        version = train(
            datasets, models, Wanted(dataset=made.id), Settings(), PipelineConfig(), processes=asked.processes
        )
        took_s, used_s = time.perf_counter() - begin, cpu_s() - before_s
        size = sum(path.stat().st_size for path in models.folder(version.id).iterdir())
        window_ns = window.start_ns, window.end_ns
        together, alone = steady(datasets, made.id, *window_ns), looped(datasets, made.id, *window_ns)
    peak_kib = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    rate = made.rows / took_s
    fleet = FLEET_SERIES * FLEET_POINTS
    free_min = fleet / together / asked.processes / 60
    print(f"{made.rows:,} points of {asked.series:,} series in {took_s:.1f} s, {asked.processes} processes")
    print(f"{rate:,.0f} points a second, all included; {made.rows / used_s:,.0f} for each second of a core")
    print(f"{peak_kib / 1024:,.0f} MiB in the largest process, {size / asked.series:,.0f} bytes a series in the bundle")
    print(
        f"{together:,.0f} points for each second of a core once a process has begun; {alone:,.0f} where a loop learns"
    )
    print(f"one series after the other with the same code: {together / alone:,.0f} times as many")
    print(f"{FLEET_SERIES:,} series with {FLEET_POINTS:,} points each, {fleet:,} points, would take {free_min:.1f} min")
    print(f"where {asked.processes} cores have nothing else to do, by that; {fleet / rate / 60:.1f} min by this run")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
