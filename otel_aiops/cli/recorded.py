"""Commands over recorded telemetry: what would be flagged, what it costs, how good the detection is."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otel_aiops.cli.terminal import NO, ConfigOption, DataDirOption, bar, load_config, prepare, print_table, say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_aiops.batch import Preview
    from otel_aiops.config import Config
    from otel_aiops.lifecycle.apart import Apart

PathsArgument = Annotated[list[Path], typer.Argument(help="Files or folders: OTLP bodies, or CSV or Parquet series.")]
SELFTEST_COLUMNS = ("fault", "series", "found", "chance", "covered", "delay", "plain", "found")


def replay(
    paths: PathsArgument,
    config: ConfigOption = None,
    top: Annotated[int, typer.Option(help="How many anomalous series to list.", min=0)] = 10,
) -> None:
    """Run recorded telemetry through the pipeline, in event time, and say what it would have flagged."""
    from otel_aiops.batch import replay as run
    from otel_aiops.pipeline import Pipeline

    prepare()
    with bar("replay") as progress:
        summary = run(paths, Pipeline(load_config(config).pipeline()), progress=progress)
    say(summary.text(top=top))


def preview(
    paths: PathsArgument,
    config: ConfigOption = None,
    days: Annotated[float | None, typer.Option(help="Count the last days only; the rest is learned from.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say how many alerts recorded telemetry would have had under a configuration, and what its policies change."""
    from otel_aiops.batch import preview as run

    if days is not None and not days > 0:
        raise typer.BadParameter(f"expected a number of days > 0, got {days}", param_hint="--days")
    prepare()
    with bar("preview") as progress:
        found = run(paths, load_config(config).pipeline(), days=days, progress=progress)
    if as_json:
        say(found.json())
    else:
        _print_preview(found)


def _print_preview(found: Preview) -> None:
    """A preview as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"Alerts of {found.series} series in {found.days:.1f} days")
    for name in ("metric", "policies"):
        table.add_column(name, overflow="fold")
    for name in ("series", "anomalies without policies", "anomalies", "alerts"):
        table.add_column(name, justify="right")
    for line in found.lines:
        numbers = (line.series, line.anomalies_without_policies, line.anomalies, line.alerts)
        table.add_row(escape(line.metric), escape(", ".join(line.policies) or "-"), *map(str, numbers))
    table.add_section()
    total = (found.series, found.anomalies_without_policies, found.anomalies, found.alerts)
    table.add_row("all", "", *map(str, total))
    Console().print(table)


def score(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="CSV or Parquet with timestamp, value and optionally series.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Parquet or CSV, by its ending.")],
    model: Annotated[
        str | None, typer.Option(help="Score with this version, or with the `champion`, instead of beginning anew.")
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Score a file of series: the same rows in the same order, with score, band, probability and reason.

    With --model the series go on from what a version of the data directory has learned of them; they are called by
    their labels, as in the recorded history, or as they are shown. The champion is that of the newest snapshot.
    """
    from otel_aiops.batch import score_file

    loaded = load_config(config)
    made = _scorer(model, loaded, data_dir) if model else None
    prepare()
    with bar("score") as progress:
        summary = score_file(source, output, loaded.pipeline(), made=made, progress=progress)
    say(summary.text())


def _scorer(model: str, config: Config, data_dir: Path | None) -> Callable[[Sequence[str]], Apart]:
    """Makes a copy of a version for series by their names."""
    from otel_aiops.lifecycle import scoring

    pipeline = config.pipeline()
    version = scoring.load(data_dir or Path(config.storage.directory), model, pipeline)
    return lambda names: scoring.apart(version, scoring.named(version, names), scoring.rules_of(pipeline))


def selftest(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files or folders, as for replay; default: the recorded history.")
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    seed: Annotated[int, typer.Option(help="Chooses series and where the faults are; equal seeds, equal reports.")] = 0,
) -> None:
    """Put faults in copies of series and say which of them the detection finds; exit code 1 when it finds problems.

    The series are those of files, else those that the data directory has recorded, else made-up ones.
    """
    from otel_aiops.batch import self_test as run

    loaded = load_config(config)
    directory = data_dir or Path(loaded.storage.directory)
    prepare()
    with bar("selftest") as progress:
        outcome = run(loaded, paths or (), directory=directory, seed=seed, progress=progress)
    if as_json:
        say(json.dumps(outcome.plain_values()))
    else:
        print_table(SELFTEST_COLUMNS, outcome.table())
        say("\n".join(outcome.verdict()))
    if outcome.report.verdict():
        raise typer.Exit(NO)


class Format(StrEnum):
    """Shapes of output."""

    text = "text"
    json = "json"


def plan(
    paths: Annotated[list[Path] | None, typer.Argument(help="Recorded telemetry to plan from, as for replay.")] = None,
    series: Annotated[int | None, typer.Option(help="Plan for so many series.", min=1)] = None,
    interval: Annotated[str, typer.Option(help="Seconds between points of a series, as 15s.")] = "15s",
    prometheus: Annotated[str | None, typer.Option(help="Count the series of this Prometheus-compatible API.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", "-d", help="Plan for what a service has recorded here.")
    ] = None,
    objectives: Annotated[
        Path | None,
        typer.Option(help="Objectives to look into with --data-dir; default: those of the configuration."),
    ] = None,
    config: ConfigOption = None,
    output: Annotated[Format, typer.Option("--format", help="text or json.")] = Format.text,
) -> None:
    """Say what it will cost before it is enabled: series, memory, CPU, disk, output series.

    With --data-dir it also says of every objective, from the recorded history, which series are in scope, what their
    data is like, how many alerts are to be expected, how many faults are found, and whether it is feasible; exit code
    1 when that is not shown of all of them.
    """
    from otel_aiops.config import duration
    from otel_aiops.lifecycle.objective import load_objectives
    from otel_aiops.plan import measure

    given = [bool(paths), series is not None, prometheus is not None, data_dir is not None]
    if sum(given) != 1:
        raise typer.BadParameter("expected one of: recorded PATHS, --series N, --prometheus URL, --data-dir DIR")
    if objectives is not None and data_dir is None:
        raise typer.BadParameter("expected --data-dir too, the history to look into", param_hint="--objectives")
    settings = load_config(config)
    wanted = load_objectives(objectives) if objectives else settings.objectives
    prepare()
    with bar("plan") as progress:
        result = measure(
            settings,
            paths=paths or [],
            series=series,
            prometheus=prometheus,
            interval_s=duration(interval),
            recorded=data_dir,
            objectives=wanted,
            progress=progress,
        )
    say(result.json() if output is Format.json else result.text())
    if not result.feasible:
        raise typer.Exit(NO)
