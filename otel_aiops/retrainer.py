"""The retrainer: sees when a new version is due, and has the circle go round in a process of low priority."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from otel_aiops.config import Config
from otel_aiops.desk.live import Live
from otel_aiops.desk.versions import Versions
from otel_aiops.errand import Errand
from otel_aiops.errors import Overloaded
from otel_aiops.lifecycle.circle import Circle
from otel_aiops.lifecycle.dataset import complete_ns
from otel_aiops.lifecycle.needs import KINDS, Need, RetrainConfig, Seen, needs
from otel_aiops.lifecycle.run import standing
from otel_aiops.lifecycle.runs import DONE, FAILED, REFUSED, REGISTERED, RUNNING, Run, Runs
from otel_aiops.series.segments import Segments

if TYPE_CHECKING:
    from otel_aiops.app import Service

log = structlog.get_logger("otel_aiops")

ITSELF = "otel-aiops"  # who wants it
ORIGIN = "service"
POLL_S = 0.2  # between two looks at the child
ASKED_S = 1.0  # between two looks whether somebody wants a run
LOOK_S = 60.0  # at most, between two looks whether one is due
NICE = 15  # how far the child steps back behind everything else on the machine
MOST_ATTEMPTS = 5  # to go on with the same run; one that always ends the process is given up
SECTIONS = (
    *("series", "align", "detection", "joint", "peers", "jobs", "incidents", "journal", "policies", "calendar"),
    *("budget", "budgets", "objectives", "lifecycle", "datasets", "governance"),
)  # of the configuration, that a run needs; none has a password but the URL of the journal
PREFIX = "otel_aiops.lifecycle."
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


@dataclass(frozen=True, slots=True)
class Wish:
    """A run that somebody, or the service itself, wants."""

    who: str
    why: str
    need: str  # kind of the first need, or "asked"
    settings: str
    objective: str


class Retrainer:
    """An errand beside the step loop. The child ends with the service, however that ends, and is gone on with later.

    `drifts` says which drift persists, in words; `command` is how the child is started.
    """

    def __init__(
        self,
        service: Service,
        *,
        drifts: Callable[[], Sequence[str]] = lambda: (),
        command: Sequence[str] = (sys.executable, "-m", "otel_aiops", "lifecycle", "run"),
        look_s: float = LOOK_S,
    ) -> None:
        self.drifts = drifts
        self.needs: tuple[Need, ...] = ()  # when it was last looked
        self.problem = ""  # why the newest run failed
        self.runs = Runs(service.directory)
        self._service, self._command, self._look_s = service, tuple(command), look_s
        self._lock = threading.Lock()
        self._wish: Wish | None = None  # of somebody who asked
        self._busy = False
        self._ran_here = False
        self._free_s = time.monotonic()  # when the newest run ended
        self._due_s = time.monotonic() + self._every_s
        failure = "a new version could not be made"
        self.errand = Errand("retraining", self.look, every_s=lambda: ASKED_S, failure=failure)

    @property
    def _config(self) -> RetrainConfig:
        return self._service.config.lifecycle.retrain

    @property
    def _every_s(self) -> float:
        """Who lets runs follow each other faster wants them looked for faster."""
        return min(self._look_s, self._config.min_interval)

    # -- asked by others ----------------------------------------------------------------------------------------------

    def ask(self, *, who: str, why: str, objective: str = "", settings: str = "") -> None:
        """Have a run begin in a moment. Raises: Overloaded when one goes on."""
        with self._lock:
            if self._busy or self._wish is not None or (holder := self.runs.holder()):
                going = holder if not (self._busy or self._wish) else "of this service"
                raise Overloaded(f"a run goes on already: {going}; one runs at a time", retry_after_s=60.0)
            config = self._config
            self._wish = Wish(who, why, "asked", settings or config.settings, objective or config.objective)

    @property
    def busy(self) -> bool:
        """Whether a run of this service goes on, or begins in a moment."""
        with self._lock:
            return self._busy or self._wish is not None

    # -- the errand ---------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Begin what was asked for, what was interrupted, or what is due. Raises: AiopsError."""
        with self._lock:
            wish, self._wish = self._wish, None
            self._busy = wish is not None
        try:
            if wish is not None:
                self._make(wish)
            elif time.monotonic() >= self._due_s:
                self._due_s = time.monotonic() + self._every_s
                self._look()
        finally:
            with self._lock:
                self._busy = False

    def _look(self) -> None:
        """What is due by itself."""
        every = self.runs.list()
        mine = [one for one in every if one.origin == ORIGIN]
        if mine and mine[0].state == REGISTERED:
            self._roll(mine[0])
        config = self._config
        if not config.enabled:
            self.needs = ()
            self._tell_needs()
            return
        if mine and mine[0].state == RUNNING and not self.runs.holder():
            self._go_on(mine[0])
            return
        self.needs = needs(config, self._seen(every))
        self._tell_needs()
        if self.needs:
            changed = any(one.kind == "config" for one in self.needs)
            settings = "config" if changed and config.settings == "champion" else config.settings
            why = "; ".join(one.text for one in self.needs)
            self._make(Wish(ITSELF, why, self.needs[0].kind, settings, config.objective))

    def _go_on(self, run: Run) -> None:
        """With a run that was interrupted; one that has been so too often is given up."""
        if run.attempts >= MOST_ATTEMPTS:
            log.error("a run is given up, it was begun too often", run=run.id, attempts=run.attempts)
            self.runs.write(replace(run, state=FAILED, ended_ns=self._service.clock_ns()))
            return
        plan = run.plan
        self._make(Wish(run.who, run.why, "resumed", str(plan["settings"]), str(plan["objective"])))

    def _seen(self, every: Sequence[Run]) -> Seen:
        config, service = self._config, self._service
        last = next((one for one in every if one.plan.get("objective", "") == config.objective), None)
        known = len(service.chronicle.journal.verdicts())
        before = last.plan if last else {}
        return Seen(
            now_ns=service.clock_ns(),
            last_ns=last.began_ns if last else 0,
            since_ns=complete_ns(Segments(service.directory / "segments"), service.clock_ns())[0],
            waited_s=time.monotonic() - self._free_s,
            ran_here=self._ran_here,
            verdicts=max(0, known - int(before.get("verdicts", 0))),
            changed=changed(before.get("config", {}), inputs(service.config, service.directory)) if last else (),
            drifts=tuple(self.drifts()),
        )

    # -- one run ------------------------------------------------------------------------------------------------------

    def _make(self, wish: Wish) -> None:
        """Have a child go round; what comes of it is told by log, metrics and the journal of the run."""
        telemetry, began_s = self._service.telemetry, time.monotonic()
        telemetry.set(PREFIX + "run.active", 1)
        log.info("a run begins", who=wish.who, why=wish.why)
        try:
            with tempfile.TemporaryDirectory(prefix="otel-aiops-") as folder:
                told, words = self._child(wish, Path(folder))
        finally:
            self._free_s, self._ran_here = time.monotonic(), True
            telemetry.set(PREFIX + "run.active", 0)
        if self.errand.stopping:
            return
        outcome = str(told["state"]) if told else FAILED
        self.problem = words if outcome == FAILED else ""
        telemetry.add(PREFIX + "runs", outcome=outcome, reason=wish.need)
        telemetry.set(PREFIX + "run.duration", time.monotonic() - began_s)
        if outcome == REGISTERED:
            telemetry.set(PREFIX + "run.last_success", self._service.clock_ns() / 1e9)
            log.info("a version was registered", version=told["version"], result=words)
            self._roll(self.runs.load(told["id"]))
        elif outcome == REFUSED:
            log.warning("the new version is not good enough, the champion stays", run=told["id"], why=words)
        else:
            log.error("a run failed, the champion stays", why=words)

    def _child(self, wish: Wish, folder: Path) -> tuple[dict[str, Any], str]:
        """(the run as its journal tells it, what came of it in words); nothing of a run that did not begin."""
        settings = folder / "run.yaml"  # JSON, which is YAML
        settings.touch(mode=0o600)
        settings.write_text(written(self._service.config))
        said, complaint = folder / "said", folder / "complaint"  # files, so that a full pipe never holds it up
        with said.open("wb") as out, complaint.open("wb") as err:
            child = subprocess.Popen(
                [*self._command, *self._arguments(wish, settings)],
                stdin=subprocess.PIPE,  # which ends with this process, and the child with it
                stdout=out,
                stderr=err,
                start_new_session=True,
                env={**os.environ, **ONE_THREAD},
            )
            code = self._await(child)
        try:
            tree = dict(json.loads(said.read_bytes()))
            return dict(tree["summary"]), str(tree["summary"]["result"])
        except (ValueError, KeyError, TypeError):
            last = complaint.read_text(errors="replace").strip().rsplit("\n", 1)[-1]
            return {}, last[:500] if last else f"it ended with {code}"

    def _await(self, child: subprocess.Popen[bytes]) -> int:
        """Its exit code; it is killed when the service stops, or it takes too long."""
        until_s = time.monotonic() + self._config.timeout
        with child:
            with suppress(ProcessLookupError, PermissionError):
                os.setpriority(os.PRIO_PROCESS, child.pid, max(NICE, os.nice(0)))
            while True:
                try:
                    return child.wait(POLL_S)
                except subprocess.TimeoutExpired:
                    if self.errand.stopping or time.monotonic() > until_s:
                        with suppress(ProcessLookupError):
                            os.killpg(child.pid, signal.SIGKILL)
                        return child.wait()

    def _arguments(self, wish: Wish, settings: Path) -> list[str]:
        service, config = self._service, self._config
        champion = service.ask(lambda: service.pipeline.serving.champion.name)
        told = {
            "--config": settings,
            "--data-dir": service.directory,
            "--settings": wish.settings,
            "--window": f"{config.window:g}",
            "--processes": config.processes,
            "--who": wish.who,
            "--why": wish.why,
            "--origin": ORIGIN,
        }
        told |= {"--objective": wish.objective} if wish.objective else {}
        told |= {"--against": champion} if champion else {}
        arguments = [str(part) for pair in told.items() for part in pair]
        return [*arguments, *(part for path in config.labels for part in ("--labels", path)), "--attended", "--json"]

    def _roll(self, run: Run) -> None:
        """Let a registered version run as shadow, unless it does, or another is not to be disturbed."""
        step = run.step("rollout")
        if step is None or step.outputs.get("ordered"):
            return
        service = self._service
        serving = service.ask(
            lambda: (
                service.pipeline.serving.champion.name,
                service.pipeline.serving.other.name if service.pipeline.serving.other else "",
                service.pipeline.serving.role,
            )
        )
        found = standing(*serving, run.version)
        if found is None:
            why = run.why[:1_000] or f"run {run.id}"
            order = {"action": "shadow", "version": run.version, "who": run.who or ITSELF, "why": why}
            Versions(service, Live(service)).roll(order)
            found = f"{run.version} runs as shadow; the rules of the rollout carry it on", True
        words, ordered = found
        if words != step.words:
            log.info("a rollout of a new version", version=run.version, result=words)
            step = replace(step, words=words, outputs={"ordered": ordered}, state=DONE if ordered else step.state)
            self.runs.write(run.having(step))

    def _tell_needs(self) -> None:
        due = {one.kind for one in self.needs}
        self._service.telemetry.replace_all(PREFIX + "run.due", {(kind,): float(kind in due) for kind in KINDS})


def inputs(config: Config, directory: Path) -> dict[str, str]:
    """The hash of every part of a configuration that decides what a run gives, as its plan has it."""
    of = config.lifecycle
    shared: dict[str, Any] = {"datasets": config.datasets, "evaluation": of.evaluation, "gate": of.gate}
    shared["families"] = of.families
    return Circle(directory=directory, pipeline=config.pipeline(), **shared).inputs()


def changed(before: dict[str, str], now: dict[str, str]) -> tuple[str, ...]:
    """Parts of a configuration that are others than in a plan; how it was searched for settings is none."""
    return tuple(name for name in sorted(now) if name != "tuning" and before.get(name) != now[name])


def written(config: Config) -> str:
    """A configuration as a file that gives the same: objectives of other files stand in it."""
    tree = {name: _plain(getattr(config, name)) for name in SECTIONS}
    tree["lifecycle"]["objectives"] = ""
    return json.dumps(tree, default=str)


def _plain(value: Any) -> Any:
    """As YAML has it; a dollar sign is no variable."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain({name: getattr(value, name) for name in value.__dataclass_fields__})
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    return value.replace("$", "$$") if isinstance(value, str) else value
