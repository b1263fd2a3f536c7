"""Tracking: trials and trainings as runs of MLflow, told by a process of its own, so that nobody waits for a server."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from otel_aiops import __version__
from otel_aiops.errors import AiopsError
from otel_aiops.lifecycle.objective import Objective
from otel_aiops.lifecycle.registry import Registry, RegistryConfig, flat
from otel_aiops.lifecycle.search import Trial
from otel_aiops.lifecycle.version import ModelVersion, Settings

COMMAND = [sys.executable, "-m", "otel_aiops.lifecycle.tracking"]
SAID_BYTES = 8_000  # of what the process said last
FAILED = 1  # exit code

Figures = Mapping[str, float]


class Tracking:
    """Tells MLflow what is tried while it is tried. A context: at its end it waits until all is told, at most
    `timeout` of the configuration; then it is given up, and `tell` hears why, in one line. Nothing else ever waits,
    and nothing is raised.
    """

    def __init__(self, directory: Path, config: RegistryConfig, tell: Callable[[str], None]) -> None:
        """`directory` is the data directory of a service."""
        self.place = Registry(directory, config).place
        self._config, self._tell = config, tell
        self._about = {"directory": str(directory), "config": asdict(config)}
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed at the end of the context
        self._child: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._write, name="tracking", daemon=True)
        self._runs = 0

    def __enter__(self) -> Tracking:
        if not self._config.enabled:
            return self
        try:
            self._child = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                text=True,
                start_new_session=True,  # who interrupts the work may still have told why it ended
            )
        except OSError as error:
            self._tell(f"not tracked in MLflow: {error}")
            return self
        self._thread.start()
        self._send(self._about)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        with self._said:
            if self._child is None:
                return
            self._send({"end": "FAILED" if kind else "FINISHED"})
            self._lines.put(None)
            try:
                self._child.wait(self._config.timeout)
            except subprocess.TimeoutExpired:
                self._kill()
                self._tell(
                    f"not all is tracked in MLflow: {self.place} did not answer within {self._config.timeout:g} s"
                )
            else:
                if self._child.returncode:
                    self._tell(f"not all is tracked in MLflow: {self._last_words()}")
            self._thread.join(1.0)

    def run(self, name: str, settings: Mapping[str, Any], *, below: Run | None = None) -> Run:
        """Begin a run."""
        self._runs += 1
        run = Run(self, self._runs)
        parent = below.number if below else None
        self._send({"run": run.number, "name": name, "parent": parent, "settings": _plain(settings)})
        return run

    def send(self, message: Mapping[str, Any]) -> None:
        """Have the process told; for runs."""
        self._send(message)

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._child is not None:
            self._lines.put(json.dumps(message) + "\n")

    def _write(self) -> None:
        """Hand lines to the process, which may read none of them."""
        assert self._child is not None and self._child.stdin is not None
        with suppress(OSError), self._child.stdin as pipe:  # it has ended: why is said at the end
            while (line := self._lines.get()) is not None:
                pipe.write(line)
                pipe.flush()

    def _kill(self) -> None:
        assert self._child is not None
        with suppress(OSError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()

    def _last_words(self) -> str:
        self._said.seek(max(0, os.fstat(self._said.fileno()).st_size - SAID_BYTES))
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else f"its process ended with {self._child and self._child.returncode}"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of MLflow."""

    tracking: Tracking
    number: int

    def log(self, figures: Figures, *, step: int = 0, settings: Mapping[str, Any] | None = None) -> None:
        """Numbers at a step, and parameters; NaN is left out."""
        known = {name: float(value) for name, value in figures.items() if value == value}
        self.tracking.send({"log": self.number, "step": step, "figures": known, "settings": _plain(settings or {})})

    def close(self) -> None:
        """It is finished; a run that is not says FAILED when the context ends with an error."""
        self.tracking.send({"close": self.number})


# -- what is tracked --------------------------------------------------------------------------------------------------


class Trials:
    """A search as a run, and every trial as one below it: parameters, the figures of each fold, and their mean."""

    def __init__(self, tracking: Tracking, dataset: str, objective: Objective | None, asked: Mapping[str, Any]) -> None:
        self.run = tracking.run(f"tune {dataset}", {**_about(dataset, objective), **asked})

    def trial(self, one: Trial) -> None:
        """Keep a trial that is judged."""
        run = self.run.tracking.run(f"trial {one.number}", one.settings.to_json(), below=self.run)
        for step, figures in enumerate(one.folds):
            run.log({f"fold.{name}": value for name, value in figures.items()}, step=step)
        run.log({**one.figures, "folds": len(one.folds)})
        run.close()

    def done(self, best: Trial) -> None:
        """Keep what was chosen."""
        self.run.log({f"best.{name}": value for name, value in best.figures.items()}, settings={"best": best.number})
        self.run.close()


class Training:
    """One training as a run, perhaps below that of the search that found its settings."""

    def __init__(
        self,
        tracking: Tracking,
        dataset: str,
        settings: Settings,
        objective: Objective | None,
        *,
        parent: str = "",
        below: Run | None = None,
    ) -> None:
        about = {**_about(dataset, objective), "parent": parent}
        self._began_s = time.monotonic()
        self._run = tracking.run(f"train {dataset}", {**about, **settings.to_json()}, below=below)

    def done(self, version: ModelVersion) -> None:
        """Keep what it became."""
        figures = {"series": version.signature.series, "duration_s": time.monotonic() - self._began_s}
        about = {"version": version.id, "digest": version.digest, "config": version.lineage.config}
        self._run.log(figures, settings=about)
        self._run.close()


def _about(dataset: str, objective: Objective | None) -> dict[str, Any]:
    """What trials and trainings are told apart by; ids are hashes of content."""
    known = {"objective": objective.name, "objective_hash": objective.id} if objective else {}
    return {"dataset": dataset, "code": __version__, **known}


def _plain(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in flat(settings).items()}


# -- the process ------------------------------------------------------------------------------------------------------


def told(lines: TextIO) -> None:
    """Tell MLflow what comes in, line by line; without a last word, the runs that are open were killed.

    Raises: AiopsError.
    """
    about = json.loads(lines.readline())
    registry = Registry(Path(about["directory"]), RegistryConfig(**about["config"]))
    runs: dict[int, str] = {}
    closed: set[int] = set()
    end = "KILLED"
    for line in lines:
        message = json.loads(line)
        if "run" in message:
            runs[message["run"]] = registry.begin(message["name"], runs.get(message["parent"]))
            registry.log(runs[message["run"]], message["settings"], {})
        elif "log" in message:
            registry.log(runs[message["log"]], message["settings"], message["figures"], message["step"])
        elif "close" in message:
            registry.finish(runs[message["close"]], "FINISHED")
            closed.add(message["close"])
        else:
            end = message["end"]
    for number, run in runs.items():
        if number not in closed:
            registry.finish(run, end)


def main() -> int:
    """What is on the standard input, told to MLflow."""
    try:
        told(sys.stdin)
    except AiopsError as error:
        print(str(error), file=sys.stderr)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
