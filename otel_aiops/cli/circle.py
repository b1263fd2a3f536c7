"""Commands about the whole circle: a run of it with its plan, what runs did, and the gate of a change."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import chdir, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otel_aiops.cli.datasets import _around
from otel_aiops.cli.terminal import (
    FAULT,
    NO,
    USAGE,
    ConfigOption,
    DataDirOption,
    JsonOption,
    TokenOption,
    ask,
    bar,
    find_objective,
    labels_of,
    load_config,
    moment,
    post,
    prepare,
    print_texts,
    say,
    show,
    span,
)
from otel_aiops.cli.training import ProcessesOption

if TYPE_CHECKING:
    from otel_aiops.config import Config
    from otel_aiops.lifecycle.circle import Circle, Plan
    from otel_aiops.lifecycle.run import Order
    from otel_aiops.lifecycle.runs import Run, Runs
    from otel_aiops.lifecycle.version import Family

lifecycle = typer.Typer(
    help="The whole circle as one run: dataset, training, evaluation, gate, registry, order of a shadow.",
    no_args_is_help=True,
)

SHOWN = 20  # runs

ObjectiveOption = Annotated[
    str | None, typer.Option(help="A file, or the name of one of the configuration: what versions are judged by.")
]
LabelsOption = Annotated[list[Path] | None, typer.Option(help="Labels as JSON lines or CSV; again for more.")]
ServiceOption = Annotated[
    str | None, typer.Option(help="A running otel-aiops: names the champion, and lets the new version run as shadow.")
]


@lifecycle.command("run")
def run(
    objective: ObjectiveOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be done, and do nothing.")] = False,
    resume: Annotated[
        bool | None, typer.Option("--resume/--new", help="Go on with the unfinished run, or begin one; as it fits.")
    ] = None,
    settings: Annotated[str, typer.Option(help="Settings: config, champion or tuned.")] = "config",
    window: Annotated[str, typer.Option(help="How far back from the newest complete hour, as 14d or 36h.")] = "14d",
    labels: LabelsOption = None,
    trials: Annotated[int, typer.Option(help="With tuned: settings to try.", min=1)] = 24,
    against: Annotated[
        str, typer.Option(help="The champion; that of the service, or of the journal, without it.")
    ] = "",
    url: ServiceOption = None,
    token: TokenOption = None,
    alertmanager: Annotated[str | None, typer.Option(help="Base URL: alerts are labels, silences exclusions.")] = None,
    prometheus: Annotated[str | None, typer.Option(help="Base URL: alerts that fired are weak labels.")] = None,
    processes: ProcessesOption = 0,
    who: Annotated[str, typer.Option(help="Who wants it.", envvar="USER")] = "",
    why: Annotated[str, typer.Option(help="What it is for.")] = "",
    origin: Annotated[str, typer.Option(hidden=True)] = "",
    attended: Annotated[bool, typer.Option("--attended", hidden=True)] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a version of what is recorded, judge it, and register it as challenger if the gate says yes.

    Prints its plan first. A run that was killed, or failed, goes on where it was when the same command comes again.
    Exit code 0: registered; 1: the data, or the version, was not good enough; 2: wrong usage; 3: a fault.
    """
    from otel_aiops.errors import AiopsError, BadInput, ConfigError
    from otel_aiops.lifecycle import circle as of
    from otel_aiops.lifecycle.run import go
    from otel_aiops.lifecycle.runs import Runs

    if attended:
        threading.Thread(target=_end_with_standard_input, daemon=True).start()
    known = load_config(config)
    directory = data_dir or Path(known.storage.directory)
    with _around(known, alertmanager, prometheus, token) as around:
        try:
            champion = _champion(known, directory, against, url, token)
            made = _circle(known, directory, around, objective, settings, window, labels, trials, processes, champion)
            made = of.named(made, who=who, why=why, origin=origin)
            wanted = of.planned(made, time.time_ns())
        except (BadInput, ConfigError) as error:
            say(f"otel-aiops: {error}", err=True)
            raise typer.Exit(USAGE) from None
        if plan:
            say(json.dumps({"id": wanted.id, **wanted.to_json()}) if as_json else "\n".join(wanted.lines(made)))
            return
        runs = Runs(directory)
        with runs.alone(who):
            try:
                one = of.begun(runs, wanted, made, resume=resume, now_ns=time.time_ns())
            except BadInput as error:
                say(f"otel-aiops: {error}", err=True)
                raise typer.Exit(USAGE) from None
            _announce(one, wanted, made)
            prepare()
            try:
                with bar("run") as progress:
                    told = lambda step, share, text: progress(share, 1.0, f"{step}: {text}")  # noqa: E731
                    done = go(made, one, runs, order=_order(url, token, who), tell=told)
            except AiopsError as error:
                _failed(runs, one, error, as_json)
    _result(done, as_json)


@lifecycle.command("status")
def status(config: ConfigOption = None, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Say whether a run goes on, at which step, and what came of the newest one."""
    runs = _runs(config, data_dir)
    found, holder = runs.list(), runs.holder()
    if as_json:
        show({"holder": holder, "newest": found[0].summary() if found else None})
        return
    say(f"a run goes on: {holder}" if holder else "no run goes on")
    if found:
        say(_line(found[0], running=bool(holder)))


@lifecycle.command("list")
def list_runs(config: ConfigOption = None, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """List runs, the newest first."""
    runs = _runs(config, data_dir)
    found, holder = runs.list(), runs.holder()
    if as_json:
        show({"holder": holder, "runs": [one.summary() for one in found]})
        return
    rows = []
    for of, one in ((of, of.summary()) for of in found[:SHOWN]):
        at = f" at {one['step']}" if one["step"] and one["state"] != "registered" else ""
        state = f"{_state(of, bool(holder))}{at}"
        rows.append((one["id"], moment(one["began"]), one["objective"] or "all", state, one["why"], one["result"]))
    columns = ("run", "began", "objective", "state", "why", "result")
    print_texts(columns, rows)


@lifecycle.command("show")
def show_run(
    name: Annotated[str, typer.Argument(metavar="RUN", help="The id of a run.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run: each step with what it took and gave, when, and what went wrong."""
    runs = _runs(config, data_dir)
    one = runs.load(name)
    if as_json:
        show(one.to_json() | {"summary": one.summary()})
        return
    say(_line(one, running=bool(runs.holder())))
    rows = []
    for step in one.steps:
        took = span((step.ended_ns - step.began_ns) / 1e9) if step.ended_ns else ""
        gave = ", ".join(f"{key} {value}" for key, value in step.outputs.items() if isinstance(value, str))
        rows.append((step.name, step.state, moment(step.began_ns / 1e9), took, gave, step.error or step.words))
    print_texts(("step", "state", "began", "took", "gave", "result"), rows)


def _circle(
    known: Config,
    directory: Path,
    around: Any,
    objective: str | None,
    settings: str,
    window: str,
    labels: list[Path] | None,
    trials: int,
    processes: int,
    champion: str,
) -> Circle:
    from otel_aiops.config import duration
    from otel_aiops.lifecycle import workers
    from otel_aiops.lifecycle.circle import Circle
    from otel_aiops.lifecycle.search import TuneConfig

    return Circle(
        directory=directory,
        pipeline=known.pipeline(),
        datasets=known.datasets,
        evaluation=known.lifecycle.evaluation,
        gate=known.lifecycle.gate,
        registry=known.lifecycle.registry,
        around=around,
        objective=find_objective(objective, known),
        settings=settings,  # type: ignore[arg-type]  # checked there
        families=known.lifecycle.families,
        tuning=TuneConfig(trials=trials),
        labels=tuple(labels or ()),
        window_s=duration(window),
        champion=champion,
        processes=processes or workers.processes(),
    )


def _champion(known: Config, directory: Path, against: str, url: str | None, token: str | None) -> str:
    """The version that the new one is to replace; "" where none serves."""
    from otel_aiops.lifecycle.circle import champion_in

    if against:
        return against
    if url:
        return str(ask(url, token, "rollout", {})["champion"])
    return champion_in(directory, known.journal)


def _order(url: str | None, token: str | None, who: str) -> Order | None:
    """How a service is told to let a version run as shadow."""
    from otel_aiops.lifecycle.run import standing

    if url is None:
        return None

    def order(version: str, why: str) -> tuple[str, bool]:
        now = ask(url, token, "rollout", {})
        found = standing(now["champion"], now["other"] or "", now["role"], version)
        if found is None:
            asked = {"action": "shadow", "version": version, "who": who or "a run", "why": why}
            post(url, token, "rollout", asked)
            found = f"{version} runs as shadow; the rollout's rules carry it on", True
        return found

    return order


def _announce(one: Run, wanted: Plan, made: Circle) -> None:
    """Say what will be done, on standard error."""
    from otel_aiops.lifecycle.circle import Plan

    for line in Plan.from_json(one.plan).lines(made):
        say(line, err=True)
    done = [step.name for step in one.steps if step.ended]
    if not one.unfinished:
        say(f"this was done before, at {moment(one.began_ns / 1e9)}; --new does it again", err=True)
    elif one.attempts:
        say(f"going on with run {one.id}; done: {', '.join(done) or 'nothing yet'}", err=True)


def _failed(runs: Runs, one: Run, error: Exception, as_json: bool) -> None:
    """Say what went wrong, and how to go on; ends with exit code 3."""
    from otel_aiops.errors import AiopsError, StorageError

    say(f"otel-aiops: {error}", err=True)
    room = "make room on the disk, then " if isinstance(error, StorageError) else ""
    say(f"nothing was registered by halves; {room}the same command goes on with run {one.id}", err=True)
    if as_json:
        with suppress(AiopsError):
            one = runs.load(one.id)
        show(one.to_json() | {"summary": one.summary() | {"state": "failed", "result": str(error)}})
    raise typer.Exit(FAULT)


def _result(done: Run, as_json: bool) -> None:
    """Say what came of a run, in plain words; ends with exit code 1 when something said no."""
    from otel_aiops.lifecycle.runs import REFUSED

    if as_json:
        show(done.to_json() | {"summary": done.summary()})
    else:
        for name in ("evaluate", "gate", "quality") if done.state == REFUSED else ("evaluate", "register", "rollout"):
            step = done.step(name)
            if step is not None and (done.state != REFUSED or name == "evaluate" or step.state == REFUSED):
                say(step.words)
    if done.state == REFUSED:
        raise typer.Exit(NO)


def _runs(config: Path | None, data_dir: Path | None) -> Runs:
    from otel_aiops.lifecycle.runs import Runs

    return Runs(data_dir or Path(load_config(config).storage.directory))


def _state(one: Run, running: bool) -> str:
    """A run that nobody works at was interrupted."""
    return "interrupted" if one.state == "running" and not running else one.state


def _line(one: Run, *, running: bool) -> str:
    told = one.summary()
    step = f" at {told['step']}" if one.unfinished and told["step"] else ""
    about = f" by {one.who}" if one.who else ""
    return f"run {one.id} of {told['objective'] or 'all series'}{about}: {_state(one, running)}{step}; {told['result']}"


def _end_with_standard_input() -> None:
    """End at once when nobody holds the other end any more, as after a service was killed."""
    while os.read(sys.stdin.fileno(), 4_096):
        pass
    os._exit(FAULT)


@lifecycle.command("gate")
def gate_change(
    base: Annotated[Path, typer.Option(help="The configuration as it is, before the change.")],
    config: Annotated[Path, typer.Option("--config", "-c", help="The configuration as it would be.")],
    data: Annotated[
        Path | None, typer.Option(help="Recorded points: CSV or Parquet with timestamp, value and series.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", "-d", help="Or the data directory of a service, or a copy of it.")
    ] = None,
    dataset: Annotated[str, typer.Option(help="With --data-dir: a dataset of it.")] = "",
    objective: Annotated[str, typer.Option(help="The name of an objective, in both; all series without.")] = "",
    days: Annotated[float, typer.Option(help="With --data-dir: how many of the newest recorded days.")] = 30.0,
    labels: LabelsOption = None,
    family: Annotated[
        list[str] | None,
        typer.Option(help="Beside both engines: forest, forecast or none; the champion's of --data-dir without it."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a change of configuration would do, as Markdown for a pull request; exit code 1 when it may not hold.

    Both configurations run over the same recorded points, and the gate compares them by the rules and costs of --base.
    Families score beside both engines, trained on the points before those that both are judged by.
    Relative paths in a configuration are looked for beside it.
    """
    from otel_aiops.errors import BadInput, ConfigError
    from otel_aiops.lifecycle import workers
    from otel_aiops.lifecycle.cases import Cases
    from otel_aiops.lifecycle.change import judge_change

    if (data is None) == (data_dir is None):
        raise typer.BadParameter("expected one of: --data FILE, --data-dir DIR")
    try:
        was, now = _beside(base), _beside(config)
        families = _families(family, was, data_dir)
        before, after = (_setup(one, objective, families, path) for one, path in ((was, base), (now, config)))
        held = _held_out(was, before, data, data_dir, dataset, days, labels)
    except (BadInput, ConfigError) as error:
        say(f"otel-aiops: {error}", err=True)
        raise typer.Exit(USAGE) from None
    prepare()
    limits = was.lifecycle.evaluation
    with bar("gate") as progress:
        cases = Cases.of(data_dir) if data_dir else None
        found = judge_change(
            before,
            after,
            held,
            rules=was.lifecycle.gate,
            limits=limits,
            cases=cases,
            processes=workers.processes(),
            progress=progress,
        )
    say(json.dumps(found.to_json()) if as_json else found.markdown())
    if not found.passed:
        raise typer.Exit(NO)


def _beside(path: Path) -> Config:
    """A configuration whose objectives are where it is, so that two checkouts do not mix."""
    from otel_aiops.errors import ConfigError

    if not path.is_file():
        raise ConfigError("", f"cannot read {path}: there is no such file")
    with chdir(path.parent):
        return load_config(Path(path.name))


def _families(named: list[str] | None, known: Config, data_dir: Path | None) -> tuple[Family, ...]:
    """Those that are named; else those of the version that serves. Raises: BadInput."""
    from otel_aiops.lifecycle.circle import champion_in
    from otel_aiops.lifecycle.version import Models, families_of

    if named:
        return () if named == ["none"] else families_of(named)
    champion = champion_in(data_dir, known.journal) if data_dir else ""
    if not data_dir or not champion:
        return ()
    return Models(data_dir / "lifecycle" / "models").version(champion).settings.families


def _setup(known: Config, objective: str, families: tuple[Family, ...], path: Path) -> Any:
    from otel_aiops.errors import BadInput
    from otel_aiops.lifecycle.change import Setup

    named = {one.name: one for one in known.objectives}
    if objective and objective not in named:
        raise BadInput(f"{path}: expected an objective of the name {objective}, got {', '.join(named) or 'none'}")
    return Setup(known.pipeline(), named.get(objective), families)


def _held_out(
    known: Config,
    before: Any,
    data: Path | None,
    data_dir: Path | None,
    dataset: str,
    days: float,
    labels: list[Path] | None,
) -> Any:
    """The points that both run over."""
    from otel_aiops.cli.evaluation import _journal
    from otel_aiops.lifecycle.change import of_archive, of_file
    from otel_aiops.lifecycle.dataset import Datasets
    from otel_aiops.lifecycle.evaluate import held_out

    shared: dict[str, Any] = {"match": before.objective, "config": known.lifecycle.evaluation}
    given = labels_of(labels)
    if data is not None:
        return of_file(data, given, **shared)
    assert data_dir is not None
    if dataset:
        return held_out(Datasets.of(data_dir), dataset, truth=given, **shared)
    return of_archive(data_dir, (*_journal(known, data_dir), *given), days=days, **shared)
