"""Commands about datasets: choose what models learn from, look at it, check it, delete it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    print_texts,
    say,
)

if TYPE_CHECKING:
    from otel_aiops.config import Config
    from otel_aiops.lifecycle.assemble import Wanted
    from otel_aiops.lifecycle.dataset import Datasets
    from otel_aiops.lifecycle.manifest import Manifest
    from otel_aiops.lifecycle.truth import Exclusion, Label

dataset = typer.Typer(help="Datasets: the recorded points that models learn from, under a hash.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The id of a dataset, as `list` shows it.")]
TIMES = {"help_option_names": ["--help"]}


@dataset.command("build")
def build(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    match: Annotated[
        list[str] | None, typer.Option(help='Series as name{key="value", key=~"expression"}; again for more; all.')
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="A file, or the name of one of the configuration: its series, label sources, exclusions."),
    ] = None,
    window: Annotated[str, typer.Option(help="How far back from the end, as 14d or 36h.")] = "14d",
    start: Annotated[str | None, typer.Option(help="ISO 8601 in UTC, instead of --window.")] = None,
    end: Annotated[str | None, typer.Option(help="ISO 8601 in UTC; the newest complete hour without it.")] = None,
    labels: Annotated[list[Path] | None, typer.Option(help="Labels as JSON lines or CSV; again for more.")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="START/END in ISO 8601, or START/END/SELECTOR, or a file; again for more.")
    ] = None,
    load_test: Annotated[
        list[str] | None, typer.Option(help="The same of load tests; what they hit is left out.")
    ] = None,
    with_incidents: Annotated[
        bool, typer.Option("--with-incidents", help="Do not leave out confirmed incidents.")
    ] = False,
    alertmanager: Annotated[str | None, typer.Option(help="Base URL: alerts are labels, silences exclusions.")] = None,
    prometheus: Annotated[str | None, typer.Option(help="Base URL: alerts that fired are weak labels.")] = None,
    token: Annotated[str | None, typer.Option(help="Bearer token for both.", envvar="PROMETHEUS_TOKEN")] = None,
    parent: Annotated[list[str] | None, typer.Option(help="A dataset that this one comes from.")] = None,
    who: Annotated[str, typer.Option(help="Who makes it.", envvar="USER")] = "",
    why: Annotated[str, typer.Option(help="What it is for.")] = "",
    force: Annotated[str, typer.Option(help="Why to learn from it although the quality gate says no.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Make a dataset of recorded points; exit code 1 when it is not good enough to learn from.

    The service may be running. Equal content gets the same id. Labels and exclusions come from the journal (verdicts,
    incidents, maintenance, silences), the configuration and what is given here.
    """
    from otel_aiops.lifecycle.assemble import assemble

    settings = load_config(config)
    directory = data_dir or Path(settings.storage.directory)
    wanted = _wanted(match, window, start, end, labels, exclude, load_test, with_incidents)
    if objective:
        if match:
            raise typer.BadParameter("expected --match or --objective, got both")
        wanted = replace(wanted, objective=find_objective(objective, settings))
    with _around(settings, alertmanager, prometheus, token) as around, bar("dataset") as progress:
        made, notes = assemble(
            directory,
            wanted,
            config=settings.datasets,
            around=around,
            now_ns=time.time_ns(),
            who=who,
            why=why,
            parents=tuple(parent or ()),
            force=force,
            progress=progress,
        )
    for note in notes:
        say(f"note: {note}", err=True)
    _show(made, as_json)
    if not made.trainable:
        raise typer.Exit(NO)


@dataset.command("list")
def list_datasets(config: ConfigOption = None, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """List datasets, the newest first."""
    datasets = _datasets(config, data_dir)
    found, damaged = datasets.list(), datasets.damaged()
    if as_json:
        say(json.dumps({"datasets": [one.summary() for one in found], "damaged": damaged}))
        return
    print_texts(
        ("id", "from", "to", "series", "points", "MiB", "good", "made", "by", "why"),
        [
            (
                *(one.id, _time(one.window.start_ns), _time(one.window.end_ns), one.series, one.rows),
                *(f"{one.bytes / 2**20:.1f}", _good(one), _time(one.made_ns), one.who, one.why),
            )
            for one in found
        ],
    )
    for name, why in damaged.items():
        say(f"{name}: {why}", err=True)


@dataset.command("show")
def show(
    name: IdArgument, config: ConfigOption = None, data_dir: DataDirOption = None, as_json: JsonOption = False
) -> None:
    """Show what a dataset consists of, what its points are like by service, and what the quality gate says."""
    _show(_datasets(config, data_dir).load(name), as_json)


@dataset.command("verify")
def verify(
    name: IdArgument, config: ConfigOption = None, data_dir: DataDirOption = None, as_json: JsonOption = False
) -> None:
    """Read every byte of a dataset again and say what was changed or is missing; exit code 1 when anything is."""
    problems = _datasets(config, data_dir).verify(name)
    if as_json:
        say(json.dumps({"id": name, "problems": problems}))
    else:
        say("\n".join(problems) or f"{name}: every byte is as it was")
    if problems:
        raise typer.Exit(NO)


@dataset.command("delete")
def delete(name: IdArgument, config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Delete a dataset, unless a model version cites it."""
    from otel_aiops.errors import BadInput
    from otel_aiops.lifecycle.dataset import cited

    settings = load_config(config)
    datasets = _datasets(config, data_dir)
    by = cited(data_dir or Path(settings.storage.directory))
    if name in by:
        say(f"dataset {name} stays: the model versions {', '.join(by[name])} cite it", err=True)
        raise typer.Exit(NO)
    try:
        datasets.delete(name, cited=by)
    except BadInput as error:
        say(str(error), err=True)
        raise typer.Exit(NO) from None
    say(f"{name}: deleted")


def _datasets(config: Path | None, data_dir: Path | None) -> Datasets:
    from otel_aiops.lifecycle.dataset import Datasets

    return Datasets.of(data_dir or Path(load_config(config).storage.directory))


def _wanted(
    match: list[str] | None,
    window: str,
    start: str | None,
    end: str | None,
    labels: list[Path] | None,
    exclude: list[str] | None,
    load_test: list[str] | None,
    with_incidents: bool,
) -> Wanted:
    from otel_aiops.config import duration
    from otel_aiops.lifecycle.assemble import Wanted
    from otel_aiops.lifecycle.truth import time_ns
    from otel_aiops.series.wanted import Wanted as Series

    left_out = [one for text in exclude or () for one in _exclusions(text, "given")]
    left_out += [one for text in load_test or () for one in _exclusions(text, "load test")]
    return Wanted(
        selectors=tuple(Series(text).match for text in match or ()),
        start_ns=time_ns({"--start": start}, "--start") if start else None,
        end_ns=time_ns({"--end": end}, "--end") if end else None,
        window_s=duration(window),
        labels=labels_of(labels),
        exclusions=tuple(left_out),
        with_incidents=with_incidents,
    )


def _exclusions(text: str, source: str) -> list[Exclusion]:
    """START/END, START/END/SELECTOR, or the exclusions of a file. Raises: BadInput."""
    from otel_aiops.lifecycle.truth import exclusion_of, read_exclusions
    from otel_aiops.series.wanted import Wanted as Series

    parts = text.split("/", 2)
    if len(parts) < 2 or Path(text).is_file():
        return read_exclusions(Path(text))
    match = Series(parts[2]).match if len(parts) == 3 else {}
    return [exclusion_of({"start": parts[0], "end": parts[1], "match": match, "source": source})]


class _around:
    """What there is besides the recorded points, with connections that are closed in the end."""

    def __init__(self, settings: Config, alertmanager: str | None, prometheus: str | None, token: str | None) -> None:
        from otel_aiops.batch.client import Api

        named = {"Alertmanager": alertmanager, "Prometheus": prometheus}
        self._settings = settings
        self._apis = {name: Api(name, url, token) if url else None for name, url in named.items()}

    def __enter__(self) -> Any:
        from otel_aiops.lifecycle.assemble import Around

        gets = {name.lower(): api.get if api else None for name, api in self._apis.items()}
        maintenance = tuple(one.window() for one in self._settings.incidents.grouping.maintenance)
        return Around(journal=self._settings.journal, maintenance=maintenance, **gets)

    def __exit__(self, *_: object) -> None:
        for api in self._apis.values():
            if api:
                api.close()


def _show(made: Manifest, as_json: bool) -> None:
    if as_json:
        say(json.dumps(made.to_json() | {"trainable": made.trainable}))
        return
    of = made.profile
    say(f"dataset {made.id}, {_time(made.window.start_ns)} to {_time(made.window.end_ns)}")
    say(f"made by {made.who or 'nobody named'} at {_time(made.made_ns)}{': ' + made.why if made.why else ''}")
    say(
        f"{made.rows} points of {made.series} series in {len(made.pieces)} segments, {made.bytes / 2**20:.1f} MiB;"
        f" {_counted('label', made.labels)}; {_counted('exclusion', made.exclusions)}, of {of.rows_excluded} points"
    )
    if of.hours_empty or made.lost:
        say(f"of {of.hours} hours {of.hours_empty} have no data, {len(made.lost)} a damaged segment")
    shown = ("missing", "duplicate", "non_finite", "constant", "counter")
    print_texts(
        ("service", "series", "points", "interval", *(name.replace("_", " ") for name in shown)),
        [
            (name, m.series, m.rows, f"{m.interval_s:g} s", *(f"{getattr(m, f'{one}_ratio'):.2%}" for one in shown))
            for name, m in (*of.services, ("all", of.all))
        ],
    )
    for rule in made.governance:
        say(f"governance: {json.dumps(dict(rule), sort_keys=True)}")
    say("good enough to learn from" if made.gate.passed else "not good enough to learn from:")
    for reason in made.gate.reasons:
        say(f"  {reason}")
    if made.forced:
        say(f"used all the same, {made.forced}")


def _counted(what: str, many: Sequence[Label] | Sequence[Exclusion]) -> str:
    """How many there are, and of which sources: 3 labels (2 verdict, 1 file)."""
    sources = ", ".join(f"{count} {name}" for name, count in Counter(one.source for one in many).most_common())
    return f"{len(many)} {what}{'s' * (len(many) != 1)}{f' ({sources})' if many else ''}"


def _good(made: Manifest) -> str:
    return "yes" if made.gate.passed else "forced" if made.forced else "no"


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M")
