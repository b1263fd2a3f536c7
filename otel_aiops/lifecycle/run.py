"""The whole circle as one run: dataset, quality, settings, training, evaluation, gate, registry, order of a shadow.

Each step is content-addressed and journalled before and after, so that a run that was killed is gone on with and gives
the same; a version is in a folder of the run alone until the gate has passed it, and then moves as a whole.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from otel_aiops.errors import AiopsError, BadInput, Overloaded, StateError, StorageError
from otel_aiops.lifecycle import registry
from otel_aiops.lifecycle.assemble import Wanted, assemble
from otel_aiops.lifecycle.cases import Cases
from otel_aiops.lifecycle.circle import Circle, Plan, freeze, sha256_of
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.evaluate import Candidate, evaluate, held_out, since
from otel_aiops.lifecycle.gate import gate
from otel_aiops.lifecycle.page import save
from otel_aiops.lifecycle.registry import Job
from otel_aiops.lifecycle.report import PAGE, REPORT, Report, saved
from otel_aiops.lifecycle.runs import (
    DONE,
    FAILED,
    FOLDER,
    MODELS,
    REFUSED,
    REGISTERED,
    RUNNING,
    SKIPPED,
    TRIALS,
    Run,
    Runs,
    Step,
)
from otel_aiops.lifecycle.tracking import Tracking, Trials
from otel_aiops.lifecycle.train import Wanted as ToLearn
from otel_aiops.lifecycle.train import train
from otel_aiops.lifecycle.tried import Tried
from otel_aiops.lifecycle.truth import read_labels
from otel_aiops.lifecycle.tune import Tuned, tune
from otel_aiops.lifecycle.version import Lineage, Models, Settings
from otel_aiops.series.disk import make_directory, storage_errors, sync_directory

STEPS = ("dataset", "quality", "settings", "train", "evaluate", "gate", "register", "rollout")

OF_TRIALS = ("number", "folds", "cost", "recall", "false_alerts_a_week")  # in the journal

Tell = Callable[[str, float, str], None]  # (step, share that is done, text)
Order = Callable[[str, str], tuple[str, bool]]  # (version, why) → (what came of it in words, whether it was ordered)


def go(
    circle: Circle,
    run: Run,
    runs: Runs,
    *,
    order: Order | None = None,
    tell: Tell | None = None,
    clock_ns: Callable[[], int] = time.time_ns,
) -> Run:
    """Do the steps that are not done yet; the run as it stands then. Who has the lock calls this.

    A gate that says no ends it as refused. Raises: AiopsError of a step that failed; the journal says so, and the same
    run can be gone on with.
    """
    work = _Work(circle, run, runs, order, tell or (lambda step, share, text: None))
    if not run.unfinished:
        return run
    run = replace(work.checked(), state=RUNNING, attempts=run.attempts + 1)
    for name in STEPS:
        if (before := run.step(name)) is not None and before.ended:
            continue
        step = Step(name=name, began_ns=clock_ns(), inputs=work.inputs(run, name))
        run = work.run = runs.write(run.having(step))
        try:
            with storage_errors(f"step {name}"):
                done = getattr(work, f"do_{name}")()
        except AiopsError as error:
            step = replace(step, state=FAILED, ended_ns=clock_ns(), error=str(error))
            with suppress(StorageError):  # a full disk: it stands there as running, which says the same
                runs.write(replace(run.having(step), state=FAILED, ended_ns=clock_ns()))
            raise
        outputs = {"outputs": done.outputs, "words": done.words, "state": done.state}
        run = work.run = run.having(replace(step, ended_ns=clock_ns(), **outputs))
        if done.state == REFUSED:
            work.keep_report()
            run = replace(run, state=REFUSED, ended_ns=clock_ns())
        if name == "register":
            run = replace(run, version=str(done.outputs["version"]))
        if name == STEPS[-1]:
            run = replace(run, state=REGISTERED, ended_ns=clock_ns())
        work.run = runs.write(run)
        if run.state == REFUSED:
            break
    runs.sweep()
    return run


@dataclass(frozen=True, slots=True)
class _Done:
    outputs: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""
    state: str = DONE


class _Work:
    """The steps of one run; each reads what those before it have written down."""

    def __init__(self, circle: Circle, run: Run, runs: Runs, order: Order | None, tell: Tell) -> None:
        self.circle, self.run, self.order, self.tell = circle, run, order, tell
        self.plan = Plan.from_json(run.plan)
        self.runs = runs
        self.datasets = Datasets.of(circle.directory)
        self.models = Models(circle.directory / FOLDER / "models")
        self.staged = Models(runs.staging(run.id) / MODELS)

    def checked(self) -> Run:
        """The run without the steps whose outputs are gone."""
        for name, there in (
            ("dataset", self._has_dataset),
            ("train", self._has_version),
            ("evaluate", self._has_report),
        ):
            if (step := self.run.step(name)) is not None and step.ended and not there():
                self.run = self.run.until(name)
        return self.run

    def inputs(self, run: Run, name: str) -> dict[str, Any]:
        """What the steps before gave that this one takes."""
        found: dict[str, Any] = {}
        for step in run.steps:
            if step.name == name:
                break
            found |= {key: step.outputs[key] for key in ("dataset", "version") if key in step.outputs}
        return found

    # -- the steps ----------------------------------------------------------------------------------------------------

    def do_dataset(self) -> _Done:
        circle, plan = self.circle, self.plan
        labels = tuple(label for path in circle.labels for label in read_labels(path))
        wanted = Wanted(start_ns=plan.start_ns, end_ns=plan.end_ns, labels=labels)
        made, notes = assemble(
            circle.directory,
            wanted,
            config=circle.datasets,
            around=circle.around,
            now_ns=self.run.began_ns,
            who=circle.who,
            why=circle.why,
            progress=self._bar("dataset"),
        )
        lost, plural = len(made.lost), "s" if len(made.labels) != 1 else ""
        left_out = f"; {lost} hour{'s'[: lost != 1]} left out, whose segments are damaged" if lost else ""
        words = f"{made.rows} points of {made.series} series, {len(made.labels)} label{plural}{left_out}"
        return _Done({"dataset": made.id, "notes": list(notes)}, words)

    def do_quality(self) -> _Done:
        found = self.datasets.load(self._of("dataset", "dataset"))
        if found.trainable:
            return _Done({}, "good enough to learn from")
        reasons = "; ".join(found.gate.reasons)
        return _Done({"reasons": list(found.gate.reasons)}, f"the data is not good enough: {reasons}", REFUSED)

    def do_settings(self) -> _Done:
        circle = self.circle
        own = circle.configured
        if circle.settings == "champion" and circle.champion:
            own = self.models.version(circle.champion).settings
            return _Done({"settings": own.to_json()}, f"those of {circle.champion}")
        if circle.settings != "tuned":
            return _Done({"settings": own.to_json()}, "those of the configuration")
        tuned, notes = self._tuned(own)
        words = "; ".join((f"trial {tuned.best.number} of {len(tuned.trials)}", *notes))
        trials = [{name: one.get(name) for name in OF_TRIALS} for one in tuned.plain_values()["trials"]]
        return _Done({"settings": tuned.best.settings.to_json(), "trials": trials}, words)

    def do_train(self) -> _Done:
        circle, dataset = self.circle, self._of("dataset", "dataset")
        about = Lineage(parent=circle.champion, seed=circle.tuning.seed, who=circle.who, why=circle.why)
        with storage_errors(f"making {self.staged.directory}"):
            make_directory(self.staged.directory)
        version = train(
            self.datasets,
            self.staged,
            ToLearn(dataset=dataset),
            Settings.from_json(self._of("settings", "settings")),
            circle.pipeline,
            objective=circle.objective,
            lineage=about,
            processes=circle.processes,
            progress=self._bar("train"),
        )
        words = f"version {version.id} knows {version.signature.series} series"
        return _Done({"version": version.id, "sha256": version.digest}, words)

    def do_evaluate(self) -> _Done:
        circle, name = self.circle, self._of("train", "version")
        models, dataset = self._home(name), self._of("dataset", "dataset")
        candidate, cases = Candidate.of(models, name), Cases.of(circle.directory)
        champion = self._champion(candidate)
        lessons = freeze(circle.directory, circle.around.journal, cases)
        since_ns = since(self.datasets.load(dataset), candidate.lineage, circle.evaluation)
        data = held_out(self.datasets, dataset, since_ns=since_ns, match=circle.objective, config=circle.evaluation)
        report = evaluate(
            candidate,
            data,
            circle.pipeline,
            champion=champion,
            cases=cases,
            objective=circle.objective,
            limits=circle.evaluation,
            lessons=lessons,
            processes=circle.processes,
            progress=self._bar("evaluate"),
        )
        save(report, models.folder(name))
        return _Done({"report": sha256_of(models.folder(name) / REPORT)}, sentence(report))

    def do_gate(self) -> _Done:
        circle, name = self.circle, self._of("train", "version")
        report = saved(self._home(name).folder(name))
        if report is None:
            raise StateError(f"expected the report of version {name}, there is none")
        verdict = gate(report, circle.gate, circle.objective.cost if circle.objective else None)
        if verdict.passed:
            return _Done({"verdict": verdict.to_json()}, "every rule of the gate is kept")
        return _Done({"verdict": verdict.to_json()}, f"the gate says no: {'; '.join(verdict.reasons)}", REFUSED)

    def do_register(self) -> _Done:
        name = self._of("train", "version")
        self._move(name)
        if not self.circle.registry.enabled:
            return _Done({"version": name, "registry": False}, f"{name} is a version; the registry is off")
        try:
            registry.tell(Job(str(self.circle.directory), self.circle.registry, challenger=name))
        except Overloaded as error:  # it is not needed to go on: the service tells it who serves, too
            words = f"{name} is a version, but the registry could not be told ({error});"
            words += f" tell it with: otel-aiops models register {name}"
            return _Done({"version": name, "registry": False}, words)
        return _Done({"version": name, "registry": True}, f"{name} is registered as challenger")

    def do_rollout(self) -> _Done:
        name = self._of("train", "version")
        if self.order is None:
            return _Done(
                {"ordered": False}, f"no service was named; run it with: otel-aiops rollout shadow {name}", SKIPPED
            )
        words, ordered = self.order(name, self.circle.why or "a run of the lifecycle")
        return _Done({"ordered": ordered}, words, DONE if ordered else SKIPPED)

    def _tuned(self, begin: Settings) -> tuple[Tuned, list[str]]:
        """What a search found, and what is to be said of its tracking. Each judgement is kept beside the journal."""
        circle, dataset, notes = self.circle, self._of("dataset", "dataset"), list[str]()
        about = {**asdict(circle.tuning), "run": self.run.id, "who": circle.who, "why": circle.why}
        with Tracking(circle.directory, circle.registry, notes.append) as tracking:
            found = tune(
                self.datasets,
                dataset,
                begin,
                circle.pipeline,
                objective=circle.objective,
                tuning=circle.tuning,
                processes=circle.processes,
                tracker=Trials(tracking, dataset, circle.objective, about),
                tried=Tried(self.runs.staging(self.run.id) / TRIALS),
                progress=self._bar("settings"),
            )
        return found, notes

    # -- what they share ----------------------------------------------------------------------------------------------

    def keep_report(self) -> None:
        """Of a version that was refused, the report stays beside the journal."""
        if (step := self.run.step("train")) is None or not step.outputs:
            return
        folder = self.staged.folder(str(step.outputs["version"]))
        for name in (REPORT, PAGE):
            with suppress(OSError):
                (folder / name).replace(self.runs.staging(self.run.id) / name)

    def _move(self, name: str) -> None:
        """Give a version that passed its place; one that is there already, and whole, stays. Raises: StorageError."""
        here, there = self.staged.folder(name), self.models.folder(name)
        with storage_errors(f"registering version {name}"):
            make_directory(self.models.directory)
            if _whole(self.models, name):
                if (report := saved(here)) is not None:
                    save(report, there)
                return
            shutil.rmtree(there, ignore_errors=True)  # what a killed training left: no version
            self.staged.load(name)
            here.rename(there)
            sync_directory(self.models.directory)

    def _champion(self, candidate: Candidate) -> Candidate | None:
        """What it is compared with: the version that serves; without one the configuration, if it differs."""
        if self.circle.champion:
            return Candidate.of(self.models, self.circle.champion)
        own = self.circle.configured
        return None if own == candidate.settings else Candidate("the configuration", own)

    def _home(self, name: str) -> Models:
        """Where a version is: in the run, or registered."""
        return self.staged if _whole(self.staged, name) else self.models

    def _of(self, step: str, key: str) -> Any:
        found = self.run.step(step)
        if found is None or key not in found.outputs:
            raise StateError(f"run {self.run.id}: expected the step {step} to have given a {key}, got none")
        return found.outputs[key]

    def _has_dataset(self) -> bool:
        with suppress(BadInput, StateError):
            self.datasets.load(self._of("dataset", "dataset"))
            return True
        return False

    def _has_version(self) -> bool:
        name = self._of("train", "version")
        return _whole(self._home(name), name)

    def _has_report(self) -> bool:
        with suppress(BadInput, StateError):
            name = self._of("train", "version")
            return saved(self._home(name).folder(name)) is not None
        return False

    def _bar(self, step: str) -> Callable[[float, float, str], None]:
        return lambda done, total, text: self.tell(step, done / total if total else 1.0, text)


def standing(champion: str, other: str, role: str, version: str) -> tuple[str, bool] | None:
    """(why a version is not to be ordered as shadow now, whether it runs already); None when it can be.

    A canary, and a champion that is new, are not disturbed; a shadow gives way to a newer version.
    """
    if version == champion:
        return f"{version} is the champion already", True
    if version == other:
        return f"{version} runs as {role} already", True
    if role in ("canary", "former"):
        told = "is a canary" if role == "canary" else "was the champion until lately, and runs beside the new one"
        later = f"when that has ended: otel-aiops rollout shadow {version}"
        return f"{version} does not run yet, because {other} {told}; let it run {later}", False
    return None


def sentence(report: Report) -> str:
    """What a report says, in one sentence."""
    mine, champion = report.candidate, report.side("champion")
    known = len(mine.events)
    told = f"; {report.feedback.sentence()}" if report.feedback and report.feedback.verdicts else ""
    missed = sum(not one.caught for one in mine.events)
    instead = f" instead of {len(champion.alerts)}" if champion else ""
    events = f"missing {missed or 'none'} of {known} known incident{'s' if known != 1 else ''}"
    events = events if known else "with no incident known"
    days, count = 7 * report.weeks, len(mine.alerts)
    held_out = f"{days:.3g} held-out day{'s' if f'{days:.3g}' != '1' else ''}"
    return (
        f"{count} alert{'s' if count != 1 else ''}{instead} in {held_out}, {events}, and"
        f" {mine.fault_recall:.0%} of {len(mine.trials)} injected faults found{told}"
    )


def _whole(models: Models, name: str) -> bool:
    """Whether a version is there as it was written."""
    try:
        models.load(name)
    except (BadInput, StateError, StorageError):
        return False
    return True
