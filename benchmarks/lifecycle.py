"""What the lifecycle gains on labelled series: settings that were tuned beside the defaults, and verdicts of operators.

Everything is learned before the split of each file and judged behind it; see `LIFECYCLE.md`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.halves import MOST_HISTORY_NS, SPLIT_NS, Group, Marks, gained, groups, joined, marks, run
from otel_aiops.detect.budget import BudgetConfig
from otel_aiops.detect.engine import EngineConfig, prepare
from otel_aiops.detect.smoothing import Smoothing
from otel_aiops.errors import BadInput
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.forecasts import train_forecasts
from otel_aiops.lifecycle.manifest import Window
from otel_aiops.lifecycle.objective import Objective
from otel_aiops.lifecycle.search import TuneConfig
from otel_aiops.lifecycle.stretch import Stored
from otel_aiops.lifecycle.tune import Tuned, tune
from otel_aiops.lifecycle.version import ForecastConfig, Settings
from otel_aiops.lifecycle.workers import processes
from otel_aiops.otlp.points import I64
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.segments import HOUR_NS

HELD_OUT = 0.2  # of the window of the dataset, behind the split
FIGURES = ("cost", "precision", "recall", "f1", "false a week", "delay s")
COMPARED = FIGURES[:-1]


def searched(group: Group, budget: float, tuning: TuneConfig, count: int) -> tuple[Tuned, Smoothing | None]:
    """What `lifecycle.tune` makes of a group before the split, from the defaults on; and forecasts, if wanted."""
    start_ns = max(SPLIT_NS - MOST_HISTORY_NS, min(int(one.time_ns[0]) for one in group.files))
    start_ns -= start_ns % HOUR_NS
    seen_ns = SPLIT_NS - start_ns
    window = Window(start_ns, start_ns + -(-round(seen_ns / (1 - HELD_OUT)) // HOUR_NS) * HOUR_NS)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        group.record(directory)
        datasets = Datasets.of(directory)
        made = datasets.build(window, labels=group.truth(), now_ns=window.end_ns + HOUR_NS, force="a benchmark")
        objective = Objective(name="all", budget=budget)
        settings, config = Settings(), PipelineConfig()
        tuned = tune(datasets, made.id, settings, config, objective=objective, tuning=tuning, processes=count)
        best, arrays = tuned.best.settings, {}
        for family in best.families:
            if isinstance(family, ForecastConfig):
                spans: Any = {"start_ns": start_ns, "end_ns": SPLIT_NS, "processes": count}
                arrays = train_forecasts(
                    Stored(datasets.directory, made.id), group.texts, family, best.detection, **spans
                )
        return tuned, Smoothing(arrays) if arrays else None


def compare(title: str, before: Sequence[Marks], after: Sequence[Marks], clusters: I64) -> None:
    """Print figures of all files and what was gained, with its interval."""
    one, other = joined(before), joined(after)
    known = one.figures, other.figures
    print(f"\n{title}: {len(clusters)} files, {one.events.sum():.0f} events, {one.weeks.sum():.0f} weeks of series")
    print(f"{'':14}{'before':>10}{'after':>10}{'gain':>10}   90 % interval")
    for name in FIGURES:
        line = f"{name:14}{known[0][name]:10.3f}{known[1][name]:10.3f}"
        if name in COMPARED:
            gain, low, high = gained(one, other, clusters, name)
            line += f"{gain:+10.3f}   {low:+.3f} .. {high:+.3f}"
        print(line, flush=True)


def folders(some: Sequence[Group]) -> I64:
    """The number of the folder of each file: those of a folder of the cloud corpus share incidents."""
    names = [
        one.name.split("/")[0] if group.name.startswith("cloud") else one.name for group in some for one in group.files
    ]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def main(arguments: Sequence[str]) -> int:
    """Print what tuning and verdicts gain."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks lifecycle", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder with nab, cloud_monitoring or both")
    parser.add_argument("--groups", nargs="*", default=[], help="only those whose name has one of these in it")
    parser.add_argument("--parts", nargs="*", default=["tuning", "verdicts"], choices=["tuning", "verdicts"])
    parser.add_argument("--budget", type=float, default=1.0, help="alerts for each file and week")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=processes())
    asked = parser.parse_args(arguments)
    try:
        some = [one for one in groups(asked.data) if not asked.groups or any(name in one.name for name in asked.groups)]
    except BadInput as error:
        print(error)
        return 2
    prepare(print)
    defaults = [_marks(group, asked.budget, EngineConfig()) for group in some]
    parts: dict[str, Callable[[], None]] = {
        "tuning": lambda: _tuning(some, defaults, asked),
        "verdicts": lambda: _verdicts(some, defaults, asked),
    }
    for name in asked.parts:
        parts[name]()
    return 0


def _tuning(some: Sequence[Group], defaults: Sequence[Marks], asked: argparse.Namespace) -> None:
    after = []
    for group, before in zip(some, defaults, strict=True):
        began_s = time.perf_counter()
        tuning = TuneConfig(trials=asked.trials, held_out=HELD_OUT, max_series=100, seed=asked.seed)
        tuned, smoothing = searched(group, asked.budget * len(group.files), tuning, asked.processes)
        best = tuned.best.settings
        print(f"\n{group.name}: trial {tuned.best.number} of {asked.trials}, {time.perf_counter() - began_s:.0f} s")
        print(f"  {best}", flush=True)
        after.append(_marks(group, asked.budget, best.detection, smoothing=smoothing))
        for name, one in (("defaults", before), ("tuned", after[-1])):
            print(f"  {name:9}" + "".join(f" {key} {value:.3f}" for key, value in one.figures.items()), flush=True)
    compare("tuned settings beside the defaults", defaults, after, folders(some))


def _verdicts(some: Sequence[Group], defaults: Sequence[Marks], asked: argparse.Namespace) -> None:
    after = [_marks(group, asked.budget, EngineConfig(), answers=True) for group in some]
    compare("verdicts on all alerts before the split, beside none", defaults, after, folders(some))


def _marks(group: Group, budget: float, detection: EngineConfig, **how: Any) -> Marks:
    whole = BudgetConfig(name="all", budget=budget * len(group.files))
    return marks(group, run(group, detection, whole, **how), budget)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
