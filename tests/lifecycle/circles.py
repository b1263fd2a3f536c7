"""A circle in miniature: a recorded day that is quick to go round, with an evaluation that takes no time.

Run as a module it goes round in many processes that are killed, one at each durable step; see `test_run_killed`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from otel_aiops.detect.engine import EngineConfig, prepare
from otel_aiops.lifecycle import run as module
from otel_aiops.lifecycle.circle import Circle, begun, planned
from otel_aiops.lifecycle.dataset import DatasetConfig
from otel_aiops.lifecycle.evaluate import Candidate
from otel_aiops.lifecycle.profile import QualityLimits
from otel_aiops.lifecycle.registry import RegistryConfig
from otel_aiops.lifecycle.report import BASELINE, CANDIDATE, Cost, FaultTrial, Report, Side
from otel_aiops.lifecycle.run import go
from otel_aiops.lifecycle.runs import Run, Runs
from otel_aiops.lifecycle.version import Models
from otel_aiops.pipeline import PipelineConfig
from tests.lifecycle.recording import HOURS, MINUTE_NS, NOW_NS, SERIES, START_NS, columns, record

WEEK_NS = 7 * 86_400_000_000_000
EVERY_NS = 30 * MINUTE_NS


def recorded(directory: Path) -> Path:
    """Thirty hours of six series."""
    steps = HOURS * 3_600_000_000_000 // EVERY_NS
    values = np.random.default_rng(0).normal(100, 2, (steps, len(SERIES)))
    time_ns = START_NS + np.repeat(np.arange(steps), len(SERIES)) * EVERY_NS
    record(directory, columns(SERIES, np.tile(np.arange(len(SERIES)), steps), time_ns, values.ravel()))
    return directory


def circle(directory: Path, **more: Any) -> Circle:
    """A circle without a registry."""
    detection = EngineConfig(novelty_memory=0, seasons="off")
    off = RegistryConfig(enabled=False)
    few = DatasetConfig(limits=QualityLimits(min_rows=100))
    values: dict[str, Any] = {
        "datasets": few,
        "pipeline": PipelineConfig(detection=detection),
        "registry": off,
        "who": "ana",
    }
    return Circle(directory=directory, **{**values, **more})


def judged(candidate: Candidate, *_: Any, found: float = 1.0, **__: Any) -> Report:
    """A report that says that a version finds this share of the faults, and the baseline none."""

    def side(role: str, share: float) -> Side:
        trials = tuple(FaultTrial(kind="spike", series=f"s{k}", found=k < 20 * share, delay_s=60.0) for k in range(20))
        cost = Cost(cpu_s=0.1, points=1_000, bytes_per_series=500)
        return Side(
            role=role,
            name=role,
            begun="history",
            weeks=1.0,
            points=1_000,
            over=0,
            threshold=1.0,
            trials=trials,
            cost=cost,
        )

    sides = (side(CANDIDATE, found), side(BASELINE, 0.0))
    return Report(version=candidate.name, window=(0, WEEK_NS), series=6, drawn_of=6, sides=sides)


def around(made: Circle, *, resume: bool | None = None, now_ns: int = NOW_NS, **more: Any) -> Run:
    """One way through."""
    runs = Runs(made.directory)
    with runs.alone(made.who):
        one = begun(runs, planned(made, now_ns), made, resume=resume, now_ns=now_ns)
        return go(made, one, runs, **more)


def left(directory: Path) -> dict[str, Any]:
    """What stands on the disk of runs and versions."""
    lifecycle = directory / "lifecycle"
    return {
        "versions": Models(lifecycle / "models").list(),
        "models": sorted(path.name for path in (lifecycle / "models").glob("*")),
        "runs": sorted(path.name for path in (lifecycle / "runs").glob("*") if path.name != "lock"),
        "temporary": sorted(str(path) for path in lifecycle.rglob("*.tmp")),
        "datasets": sorted(path.name for path in (lifecycle / "datasets").glob("*.json")),
    }


# -- processes that are killed ----------------------------------------------------------------------------------------


def at_rename(number: int) -> Callable[[], None]:
    """Have this process killed just before its rename of this number, or just after for the next odd one.

    Everything that becomes durable does so by a rename, so these are the boundaries of all steps and what is within.
    """
    count = [0]

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def rename(self: Path, target: Any) -> Any:
            if count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1
            found = real(self, target)
            if count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1
            return found

        return rename

    Path.replace = wrapped(Path.replace)  # type: ignore[method-assign]
    Path.rename = wrapped(Path.rename)  # type: ignore[method-assign]
    return lambda: print(count[0])


def alone(work: Callable[[], Any]) -> int:
    """Run in a process of its own; its exit code, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(source: Path, work: Path, every: int) -> None:
    """Go round with a kill at each boundary, go on, and tell what is left."""
    module.evaluate = judged  # type: ignore[assignment]
    os.fsync = lambda descriptor: None  # what a process wrote survives its end without it
    prepare(lambda text: None)
    found, number = [], 0
    while True:
        directory = work / str(number)
        shutil.copytree(source, directory)

        def killed(directory: Path = directory, number: int = number) -> None:
            at_rename(number)
            around(circle(directory))

        code = alone(killed)
        after = left(directory)
        again = alone(lambda directory=directory: around(circle(directory)))  # type: ignore[misc]
        found.append({"number": number, "killed": code, "after": after, "again": again, "left": left(directory)})
        shutil.rmtree(directory)
        if code == 0:
            break
        number += every
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
