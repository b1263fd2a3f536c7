"""Commands that make model versions of datasets: train, and search settings first."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otel_aiops.cli.terminal import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    bar,
    find_objective,
    load_config,
    prepare,
    print_texts,
    say,
)

if TYPE_CHECKING:
    from otel_aiops.config import Config
    from otel_aiops.lifecycle.objective import Objective
    from otel_aiops.lifecycle.tracking import Run, Tracking
    from otel_aiops.lifecycle.tune import Tuned
    from otel_aiops.lifecycle.version import ModelVersion, Settings

SHOWN = 10  # trials

DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help="The id of a dataset.")]
ObjectiveOption = Annotated[
    str | None, typer.Option(help="A file, or the name of one of the configuration: its series, budget and costs.")
]
ProcessesOption = Annotated[int, typer.Option(help="Processes at once; 0 is one for each core.", min=0)]
TrainWho = Annotated[str, typer.Option(help="Who trains it.", envvar="USER")]
TrainWhy = Annotated[str, typer.Option(help="What it is for.")]
ParentOption = Annotated[str, typer.Option(help="The version that it is to replace.")]


def train(
    dataset: DatasetArgument,
    objective: ObjectiveOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    processes: ProcessesOption = 0,
    family: Annotated[
        list[str] | None,
        typer.Option(help="Beside the engine: forest, forecast; again for both; those of the configuration without."),
    ] = None,
    parent: ParentOption = "",
    who: TrainWho = "",
    why: TrainWhy = "",
    as_json: JsonOption = False,
) -> None:
    """Train a model version on a dataset, with the detection of the configuration, and register it.

    The same dataset and configuration give the same version. A training that was killed goes on where it was.
    """
    from otel_aiops.lifecycle.version import Settings, families_of

    known = load_config(config)
    wanted = find_objective(objective, known)
    settings = Settings(known.detection, families_of(family or known.lifecycle.families))
    with _tracking(known, data_dir) as tracking:
        version = _trained(dataset, settings, known, data_dir, wanted, processes, (parent, who, why), tracking)
    say(json.dumps(version.to_json()) if as_json else f"{version.id}: {version.signature.series} series")


def tune(
    dataset: DatasetArgument,
    objective: ObjectiveOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    trials: Annotated[int, typer.Option(help="Settings to try; the first are those of --config.", min=1)] = 24,
    folds: Annotated[int, typer.Option(help="Folds in time.", min=3)] = 3,
    held_out: Annotated[float, typer.Option(help="Newest share of the window that nothing looks at.")] = 0.2,
    max_series: Annotated[int, typer.Option(help="Series to look at, those with labels first.", min=1)] = 40,
    search: Annotated[str, typer.Option(help="racing, or optuna, which is to be installed.")] = "racing",
    seed: Annotated[int, typer.Option(help="Of chance.")] = 0,
    train: Annotated[bool, typer.Option("--train", help="Train the best settings at once.")] = False,
    processes: ProcessesOption = 0,
    parent: ParentOption = "",
    who: TrainWho = "",
    why: TrainWhy = "",
    as_json: JsonOption = False,
) -> None:
    """Search the settings that find most under the alert budget, in folds of time, and print them.

    The cost is that of a miss times the share of labelled events and injected faults that are missed, and that of a
    false alert times the false alerts as a share of the budget.
    """
    from otel_aiops.lifecycle import tune as tuning
    from otel_aiops.lifecycle import workers
    from otel_aiops.lifecycle.dataset import Datasets
    from otel_aiops.lifecycle.search import TuneConfig
    from otel_aiops.lifecycle.tracking import Trials
    from otel_aiops.lifecycle.version import Settings, families_of

    known = load_config(config)
    wanted = find_objective(objective, known)
    asked: Any = {"trials": trials, "folds": folds, "held_out": held_out, "max_series": max_series, "search": search}
    how = TuneConfig(**asked, seed=seed)
    told = (parent, who, why)
    prepare()
    with _tracking(known, data_dir) as tracking:
        trials_kept = Trials(tracking, dataset, wanted, {**asdict(how), "who": who, "why": why})
        with bar("tuning") as progress:
            tuned = tuning.tune(
                Datasets.of(data_dir or Path(known.storage.directory)),
                dataset,
                Settings(known.detection, families_of(known.lifecycle.families)),
                known.pipeline(),
                objective=wanted,
                tuning=how,
                processes=processes or workers.processes(),
                tracker=trials_kept,
                progress=progress,
            )
        best, run = tuned.best.settings, trials_kept.run
        more: Any = {"seed": seed, "below": run}
        version = _trained(dataset, best, known, data_dir, wanted, processes, told, tracking, **more) if train else None
    _show(tuned, version, as_json)


def _trained(
    dataset: str,
    settings: Settings,
    known: Config,
    data_dir: Path | None,
    objective: Objective | None,
    processes: int,
    told: tuple[str, str, str],
    tracking: Tracking,
    *,
    seed: int = 0,
    below: Run | None = None,
) -> ModelVersion:
    from otel_aiops.lifecycle import workers
    from otel_aiops.lifecycle.dataset import FOLDER, Datasets
    from otel_aiops.lifecycle.tracking import Training
    from otel_aiops.lifecycle.train import Wanted, train
    from otel_aiops.lifecycle.version import Lineage, Models

    directory = data_dir or Path(known.storage.directory)
    parent, who, why = told
    prepare()
    training = Training(tracking, dataset, settings, objective, parent=parent, below=below)
    with bar("training") as progress:
        version = train(
            Datasets.of(directory),
            Models(directory / FOLDER / "models"),
            Wanted(dataset=dataset),
            settings,
            known.pipeline(),
            objective=objective,
            lineage=Lineage(parent=parent, seed=seed, who=who, why=why),
            processes=processes or workers.processes(),
            progress=progress,
        )
    training.done(version)
    return version


def _tracking(known: Config, data_dir: Path | None) -> Tracking:
    """What is tried is kept in MLflow, while it answers."""
    from otel_aiops.lifecycle.tracking import Tracking

    directory = data_dir or Path(known.storage.directory)
    return Tracking(directory, known.lifecycle.registry, lambda text: say(f"note: {text}", err=True))


def _show(tuned: Tuned, version: ModelVersion | None, as_json: bool) -> None:
    if as_json:
        say(json.dumps(tuned.plain_values() | {"version": version.id if version else None}))
        return
    rows = []
    for one in tuned.trials[:SHOWN]:
        of, figures = one.settings.detection, one.figures
        shown = (f"{figures[name]:.3g}" for name in ("cost", "recall", "false_alerts_a_week"))
        rows.append((one.number, len(one.folds), *shown, *(getattr(of, name) for name in _NAMES)))
    print_texts(
        ("trial", "folds", "cost", "recall", "false a week", *(name.replace("_", " ") for name in _NAMES)), rows
    )
    say(f"{len(tuned.trials)} trials on {tuned.series} series; trial {tuned.best.number} is the best")
    for name in _NAMES:
        say(f"  {name}: {getattr(tuned.best.settings.detection, name)}")
    say(f"  families: {', '.join(tuned.best.settings.to_json().get('families', {})) or 'none'}")
    if version:
        say(f"{version.id}: {version.signature.series} series")


_NAMES = ("threshold", "warmup_points", "memory_points", "adapt_after", "seasons", "preset", "sensitivity")
