"""Commands that judge model versions: evaluate one on held-out points, the gate, and the backtest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otel_aiops.cli.terminal import (
    NO,
    ConfigOption,
    DataDirOption,
    JsonOption,
    bar,
    find_objective,
    labels_of,
    load_config,
    prepare,
    print_table,
    say,
)

if TYPE_CHECKING:
    from otel_aiops.config import Config
    from otel_aiops.lifecycle.backtest import Backtest
    from otel_aiops.lifecycle.objective import Objective
    from otel_aiops.lifecycle.report import Report
    from otel_aiops.lifecycle.truth import Label

VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="The id of a model version.")]
DatasetOption = Annotated[str, typer.Option(help="A dataset; that of the version without it, or the newest.")]
AgainstOption = Annotated[str, typer.Option(help="The champion; without it the version that this one replaces.")]
ObjectiveOption = Annotated[
    str | None, typer.Option(help="A file, or the name of one of the configuration; all series without.")
]
LabelsOption = Annotated[list[Path] | None, typer.Option(help="Labels as JSON lines or CSV; again for more.")]

SHOWN = (  # (in words, figures, how they are shown)
    ("alerts", ("alerts",), "{:.0f}"),
    (
        "false a week (95 % interval)",
        ("false_a_week", "false_a_week_low", "false_a_week_high"),
        "{:.1f} ({:.1f} to {:.1f})",
    ),
    ("precision", ("precision",), "{:.0%}"),
    ("recall of labelled events", ("recall",), "{:.0%}"),
    ("time of events covered", ("covered",), "{:.0%}"),
    ("median delay", ("delay_s",), "{:.0f} s"),
    ("injected faults found", ("fault_recall",), "{:.0%}"),
    ("calibration error", ("calibration_error",), "{:.3f}"),
    ("frozen cases wrong", ("cases_wrong", "cases"), "{:.0f} of {:.0f}"),
    ("CPU time a point", ("us_per_point",), "{:.0f} µs"),
    ("memory a series", ("bytes_per_series",), "{:.0f} B"),
)


def evaluate(
    version: VersionArgument,
    dataset: DatasetOption = "",
    against: AgainstOption = "",
    objective: ObjectiveOption = None,
    labels: LabelsOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a version on points that it has not learned from, beside the champion and a seasonal-naive baseline.

    The report stands beside the version as report.json and report.html. Labels are those of the dataset; verdicts of
    the journal become frozen cases.
    """
    settings = load_config(config)
    directory = data_dir or Path(settings.storage.directory)
    wanted = find_objective(objective, settings)
    report = _evaluated(settings, directory, version, dataset, against, wanted, labels)
    if as_json:
        say(json.dumps(report.to_json()))
        return
    columns = [side.figures() for side in report.sides]
    rows = [(words, *(_text(shown, [one[name] for name in names]) for one in columns)) for words, names, shown in SHOWN]
    print_table(("", *(f"{side.role} {side.name}" for side in report.sides)), rows)
    if report.feedback is not None:
        say(f"what verdicts changed: {report.feedback.sentence()}")
    for note in report.notes:
        say(f"note: {note}", err=True)
    say(str(directory / "lifecycle" / "models" / version / "report.html"))


def gate(
    version: VersionArgument,
    against: AgainstOption = "",
    dataset: DatasetOption = "",
    objective: ObjectiveOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether a version may serve, as Markdown; exit code 1 when it may not.

    Uses the report of the version, or evaluates it when there is none, or it is against another champion or dataset.
    """
    from otel_aiops.lifecycle.gate import gate as decide
    from otel_aiops.lifecycle.report import saved
    from otel_aiops.lifecycle.version import Models

    settings = load_config(config)
    directory = data_dir or Path(settings.storage.directory)
    models = Models(directory / "lifecycle" / "models")
    models.version(version)
    wanted = find_objective(objective, settings)
    report = saved(models.folder(version))
    champion = report.side("champion") if report else None
    other = against and (champion is None or champion.name != against)
    if (
        report is None
        or other
        or (dataset and dataset != report.dataset)
        or (wanted and wanted.name != report.objective)
    ):
        report = _evaluated(settings, directory, version, dataset, against, wanted, None)
    wanted = wanted or _judging(settings, report.objective)
    verdict = decide(report, settings.lifecycle.gate, wanted.cost if wanted else None)
    say(json.dumps(verdict.to_json()) if as_json else verdict.markdown())
    if not verdict.passed:
        raise typer.Exit(NO)


def backtest(
    version: Annotated[str, typer.Argument(metavar="[VERSION]", help="The id of a model version.")] = "",
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The configuration to try.")] = None,
    present: Annotated[Path | None, typer.Option(help="The configuration in use; defaults without it.")] = None,
    against: Annotated[
        str, typer.Option(help="The version to compare with; without it the one that serves, if any does.")
    ] = "",
    days: Annotated[float, typer.Option(help="How many of the newest recorded days.")] = 30.0,
    labels: LabelsOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how many alerts recorded days would have had with a version, or a configuration, and what it would miss.

    Nothing is saved, and the service may be running. Incidents are those of the journal, and of files of labels. A
    configuration that changes nothing of the detection is tried with the version that serves.
    """
    from otel_aiops.lifecycle.backtest import Setup
    from otel_aiops.lifecycle.backtest import backtest as run
    from otel_aiops.lifecycle.circle import champion_in
    from otel_aiops.lifecycle.evaluate import Candidate
    from otel_aiops.lifecycle.version import Models
    from otel_aiops.series.archive import Archive

    if not days > 0:
        raise typer.BadParameter(f"expected a number of days > 0, got {days}", param_hint="--days")
    if not version and config is None:
        raise typer.BadParameter("expected a VERSION, or --config FILE")
    used = load_config(present)
    tried = load_config(config) if config else used
    directory = data_dir or Path(used.storage.directory)
    models, serving = Models(directory / "lifecycle" / "models"), against or champion_in(directory, used.journal)
    champion = Candidate.of(models, serving) if serving else None
    kept = champion if tried.detection == used.detection else None
    candidate = Candidate.of(models, version) if version else kept
    name = f"version {version}" if version else "this configuration"
    named = f"version {against}" if against else f"version {serving}, which serves,"
    archive, truth = Archive(directory), (*_journal(used, directory), *labels_of(labels))
    prepare()
    with bar("backtest") as progress:
        found = run(
            archive,
            Setup(name, tried.pipeline(), candidate),
            Setup(named if serving else "the configuration in use", used.pipeline(), champion),
            truth,
            days=days,
            limits=used.lifecycle.evaluation,
            progress=progress,
        )
    if as_json:
        say(json.dumps(found.to_json()))
    else:
        _tell(found)


def _tell(found: Backtest) -> None:
    from datetime import UTC, datetime

    from otel_aiops.lifecycle.page import series_text

    say(found.sentence())
    for one in found.after.missed:
        began = datetime.fromtimestamp(one.start_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M")
        where = ", ".join((*one.services, *map(series_text, one.series))) or "all"
        also = "" if one in found.newly_missed else f" (missed by {found.before.name} too)"
        say(f"  missed: {one.name}, {began} UTC, {where}{also}")
    if found.drawn_of > found.series:
        say(f"  of {found.drawn_of} series {found.series} were drawn")


def _evaluated(
    settings: Config,
    directory: Path,
    version: str,
    dataset: str,
    against: str,
    objective: Objective | None,
    labels: list[Path] | None,
) -> Report:
    """Evaluate a version and keep its report."""
    from otel_aiops.errors import BadInput
    from otel_aiops.lifecycle import workers
    from otel_aiops.lifecycle.cases import Cases
    from otel_aiops.lifecycle.circle import freeze
    from otel_aiops.lifecycle.dataset import Datasets
    from otel_aiops.lifecycle.evaluate import Candidate, held_out, since
    from otel_aiops.lifecycle.evaluate import evaluate as run
    from otel_aiops.lifecycle.page import save
    from otel_aiops.lifecycle.version import Models

    models, datasets, cases = Models(directory / "lifecycle" / "models"), Datasets.of(directory), Cases.of(directory)
    candidate = Candidate.of(models, version)
    name = dataset or candidate.lineage.dataset or next((one.id for one in datasets.list()), "")
    if not name:
        raise BadInput("expected a dataset; make one with: otel-aiops dataset build")
    parent = against or candidate.lineage.parent
    champion = Candidate.of(models, parent) if parent and (against or parent in models.list()) else None
    limits = settings.lifecycle.evaluation
    prepare()
    lessons = freeze(directory, settings.journal, cases)
    since_ns = since(datasets.load(name), candidate.lineage, limits)
    data = held_out(datasets, name, since_ns=since_ns, truth=labels_of(labels), match=objective, config=limits)
    with bar("evaluate") as progress:
        report = run(
            candidate,
            data,
            settings.pipeline(),
            champion=champion,
            cases=cases,
            objective=objective,
            limits=limits,
            lessons=lessons,
            processes=workers.processes(),
            progress=progress,
        )
    save(report, models.folder(version))
    return report


def _judging(settings: Config, name: str) -> Objective | None:
    """The objective that a report is by. Raises: BadInput when it was of a file that is not named."""
    from otel_aiops.errors import BadInput

    if name and name not in {one.name for one in settings.objectives}:
        raise BadInput(f"the report is by the objective {name}, which the configuration does not have; name its file")
    return find_objective(name or None, settings)


def _journal(settings: Config, directory: Path) -> tuple[Label, ...]:
    """Incidents as labels; verdicts are of alerts, which are what is tried here."""
    from otel_aiops.lifecycle.circle import opened_journal
    from otel_aiops.lifecycle.sources import of_journal

    with opened_journal(directory, settings.journal) as journal:
        found = of_journal(journal, 0, 2**62).labels if journal else ()
    return tuple(one for one in found if one.source == "incident")


def _text(shown: str, values: Sequence[float]) -> str:
    return shown.format(*values) if all(value == value for value in values) else "-"
