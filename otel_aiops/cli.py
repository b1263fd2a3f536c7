"""The command line; each command imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otel_aiops import __version__
from otel_aiops.errors import AiopsError

if TYPE_CHECKING:
    from otel_aiops.batch import Preview
    from otel_aiops.batch.vmanomaly import Imported

app = typer.Typer(
    name="otel-aiops",
    help="Anomaly scores for the telemetry that your OpenTelemetry Collector already has.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NO = 1  # the answer is no: a check found errors
USAGE = 2  # wrong usage
FAULT = 3  # something failed

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML configuration; without one every default holds.")
]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", "-d", help="Where state is kept; overrides storage.directory.")
]


def main() -> None:
    """Run, and turn the project's own errors into one line and an exit code."""
    try:
        app()
    except AiopsError as error:
        typer.echo(f"otel-aiops: {error}", err=True)
        sys.exit(FAULT)
    except KeyboardInterrupt:
        sys.exit(130)


def _version(wanted: bool) -> None:  # as typer calls it
    if wanted:
        typer.echo(f"otel-aiops {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Anomaly scores for the telemetry that your OpenTelemetry Collector already has."""


@app.command()
def serve(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Receive OTLP, score every series on arrival, send the scores back.

    OTLP on localhost:4317 (gRPC) and :4318 (HTTP), API and /metrics on localhost:9464 unless configured. SIGTERM
    drains and snapshots; SIGHUP reads the configuration again and keeps the old one when the new one is wrong.
    """
    from otel_aiops.app import serve as run

    raise typer.Exit(run(config, data_dir))


@app.command()
def check(config: Annotated[Path, typer.Argument(help="The YAML configuration to check.")]) -> None:
    """Check a configuration: every error names the key, what was expected and what came."""
    from otel_aiops.config import load
    from otel_aiops.errors import ConfigError

    try:
        loaded = load(config)
    except ConfigError as error:
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        raise typer.Exit(NO) from None
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{config}: ok")


@app.command()
def replay(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders: OTLP bodies, or CSV or Parquet series.")],
    config: ConfigOption = None,
    top: Annotated[int, typer.Option(help="How many anomalous series to list.", min=0)] = 10,
) -> None:
    """Run recorded telemetry through the pipeline, in event time, and say what it would have flagged."""
    from otel_aiops.batch import replay as run
    from otel_aiops.pipeline import Pipeline

    summary = run(paths, Pipeline(_load(config).pipeline()), progress=_progress("replay"))
    _finish_progress()
    typer.echo(summary.text(top=top))


@app.command()
def backfill(
    prometheus: Annotated[str, typer.Argument(help="Base URL of a Prometheus-compatible API.")],
    server: Annotated[
        str, typer.Option(help="Base URL of the running otel-aiops that is to learn.")
    ] = "http://localhost:9464",
    window: Annotated[str, typer.Option(help="How far to look back, as 14d or 36h.")] = "14d",
    step: Annotated[
        str | None, typer.Option(help="Resolution to read, as 1m; default: each series' own interval.")
    ] = None,
    token: Annotated[str | None, typer.Option(help="Bearer token for Prometheus.", envvar="PROMETHEUS_TOKEN")] = None,
    server_token: Annotated[
        str | None, typer.Option(help="Bearer token for otel-aiops.", envvar="OTEL_AIOPS_TOKEN")
    ] = None,
) -> None:
    """Teach the series that a running service knows their past from Prometheus, so that they are warm at once."""
    from otel_aiops.batch import Backfill
    from otel_aiops.config import duration

    job = Backfill(
        prometheus=prometheus,
        server=server,
        window_s=duration(window),
        step_s=duration(step) if step else None,
        prometheus_token=token,
        server_token=server_token,
    )
    result = job.run(progress=_progress("backfill"))
    _finish_progress()
    typer.echo(result.text())
    if not result.learned:
        raise typer.Exit(NO)


importing = typer.Typer(help="Convert the configuration of another detector: YAML for otel-aiops, and notes about it.")
app.add_typer(importing, name="import")

SourceArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The file to convert.")]
YamlOption = Annotated[Path | None, typer.Option("--output", "-o", help="Where to write; default: standard output.")]


@importing.command()
def vmanomaly(source: SourceArgument, output: YamlOption = None) -> None:
    """Convert a configuration of vmanomaly: its queries become policies."""
    from otel_aiops.batch.vmanomaly import import_vmanomaly

    _convert(import_vmanomaly, source, output)


@importing.command()
def promql(source: SourceArgument, output: YamlOption = None) -> None:
    """Convert recording rules for promql-anomaly-detection: series that they mark get policies."""
    from otel_aiops.batch.promql_anomaly import from_promql_rules

    _convert(from_promql_rules, source, output)


def _convert(convert: Callable[[str], Imported], source: Path, output: Path | None) -> None:
    """Write what a file means here; exit code 1 when some of it means nothing here, 2 for a file that is none."""
    from otel_aiops.errors import ConfigError

    try:
        found = convert(source.read_text(encoding="utf-8"))
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        typer.echo(f"error: {source}: {error}", err=True)
        raise typer.Exit(USAGE) from None
    if output:
        output.write_text(found.config_yaml, encoding="utf-8")
    else:
        typer.echo(found.config_yaml, nl=False)
    for note in found.notes:
        typer.echo(f"{'lost' if note in found.lost else 'note'}: {note}", err=True)
    if found.lost:
        raise typer.Exit(NO)


@app.command()
def preview(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders: OTLP bodies, or CSV or Parquet series.")],
    config: ConfigOption = None,
    days: Annotated[float | None, typer.Option(help="Count the last days only; the rest is learned from.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say how many alerts recorded telemetry would have had under a configuration, and what its policies change."""
    from otel_aiops.batch import preview as run

    if days is not None and not days > 0:
        raise typer.BadParameter(f"expected a number of days > 0, got {days}", param_hint="--days")
    found = run(paths, _load(config).pipeline(), days=days, progress=_progress("preview"))
    _finish_progress()
    if as_json:
        typer.echo(found.json())
    else:
        _show_preview(found)


def _show_preview(found: Preview) -> None:
    """A preview as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Alerts of {found.series} series in {found.days:.1f} days")
    for name in ("metric", "policies"):
        table.add_column(name, overflow="fold")
    for name in ("series", "anomalies without policies", "anomalies", "alerts"):
        table.add_column(name, justify="right")
    for line in found.lines:
        numbers = (line.series, line.anomalies_without_policies, line.anomalies, line.alerts)
        table.add_row(line.metric, ", ".join(line.policies) or "-", *map(str, numbers))
    table.add_section()
    total = (found.series, found.anomalies_without_policies, found.anomalies, found.alerts)
    table.add_row("all", "", *map(str, total))
    Console().print(table)


class Format(StrEnum):
    """Shapes of output."""

    text = "text"
    json = "json"


@app.command()
def score(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="CSV or Parquet with timestamp, value and optionally series.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Parquet or CSV, by its ending.")],
    config: ConfigOption = None,
) -> None:
    """Score a file of series: the same rows in the same order, with score, band, probability and reason."""
    from otel_aiops.batch import score_file

    summary = score_file(source, output, _load(config).pipeline(), progress=_progress("score"))
    _finish_progress()
    typer.echo(summary.text())


@app.command()
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
    import json

    from otel_aiops.batch import self_test as run

    loaded = _load(config)
    directory = data_dir or Path(loaded.storage.directory)
    with _bar("selftest") as progress:
        outcome = run(loaded, paths or (), directory=directory, seed=seed, progress=progress)
    if as_json:
        typer.echo(json.dumps(outcome.plain_values()))
    else:
        _print_table(SELFTEST_COLUMNS, outcome.table())
        typer.echo("\n".join(outcome.verdict()))
    if outcome.report.verdict():
        raise typer.Exit(NO)


SELFTEST_COLUMNS = ("fault", "series", "found", "chance", "covered", "delay", "plain", "found")


@app.command()
def plan(
    paths: Annotated[list[Path] | None, typer.Argument(help="Recorded telemetry to plan from, as for replay.")] = None,
    series: Annotated[int | None, typer.Option(help="Plan for so many series.", min=1)] = None,
    interval: Annotated[str, typer.Option(help="Seconds between points of a series, as 15s.")] = "15s",
    prometheus: Annotated[str | None, typer.Option(help="Count the series of this Prometheus-compatible API.")] = None,
    config: ConfigOption = None,
    output: Annotated[Format, typer.Option("--format", help="text or json.")] = Format.text,
) -> None:
    """Say what it will cost before it is enabled: series, memory, CPU, disk, output series."""
    from otel_aiops.config import duration
    from otel_aiops.plan import measure

    given = [bool(paths), series is not None, prometheus is not None]
    if sum(given) != 1:
        raise typer.BadParameter("expected one of: recorded PATHS, --series N, --prometheus URL")
    result = measure(
        _load(config), paths=paths or [], series=series, prometheus=prometheus, interval_s=duration(interval)
    )
    typer.echo(result.json() if output is Format.json else result.text())


SeriesArgument = Annotated[str, typer.Argument(help='A name, or name{key="value"}, that is exactly one series.')]
FilesArgument = Annotated[list[Path] | None, typer.Argument(help="Recorded telemetry, as for replay.")]
# Without -d, or -2d could not be a time.
RecordedOption = Annotated[Path | None, typer.Option("--data-dir", help="The data directory of a service.")]
UrlOption = Annotated[str | None, typer.Option(help="A running otel-aiops; without files, --data-dir: localhost:9464.")]
TokenOption = Annotated[str | None, typer.Option(help="Bearer token for otel-aiops.", envvar="OTEL_AIOPS_TOKEN")]
PlotOption = Annotated[Path | None, typer.Option("--output", "-o", help="Also draw it: a PNG of 1200 x 800.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(context_settings={"help_option_names": ["--help"], "ignore_unknown_options": True})
def explain(
    series: SeriesArgument,
    time: Annotated[str, typer.Argument(help="ISO 8601 in UTC, now (the newest point), or -2h before that.")],
    files: FilesArgument = None,
    data_dir: RecordedOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    output: PlotOption = None,
    as_json: JsonOption = False,
    config: Annotated[Path | None, typer.Option("--config", help="YAML configuration, for `detection`.")] = None,
) -> None:
    """Say why a series had its score at a time: band, how unusual, a day and a week before, similar moments."""
    from otel_aiops.batch.explain import Explanation
    from otel_aiops.batch.explain import explain as run

    source = _source(files, data_dir, url)
    if source is None:
        tree = _ask(url, token, "explain", {"series": series, "time": time})
        found = Explanation.from_json(tree)
    else:
        from otel_aiops.batch.times import moment_ns

        track = source(series)
        newest_ns = int(track.time_ns[-1])
        settings, at_ns = _load(config), moment_ns(time, newest_ns)
        found = run(track, at_ns, settings.detection, jobs=settings.jobs, progress=_progress("explain"))
        _finish_progress()
    _show(found.to_json() if as_json else found.text())
    if output:
        from otel_aiops.batch.plot import plot_explanation

        plot_explanation(found, output)


@app.command()
def alerts(
    limit: Annotated[int, typer.Option(help="How many to list at most.", min=1)] = 20,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the series that have an alert under their budget now, the highest first, each with its reason."""
    found = _ask(url, token, "alerts", {"limit": str(limit)})
    if as_json:
        _show(found)
        return
    _print_table(
        ("series", "objective", "since", "ratio", "peak", "threshold"),
        [
            (one["series"], one["objective"], _time(one["since"]), *_numbers(one, "ratio", "peak", "threshold"))
            for one in found["alerts"]
        ],
    )
    for one in found["alerts"]:
        typer.echo(f"{one['series']}: {one['reason'] or 'no point has come since the restart'}")
    typer.echo(f"{found['total']} alerts")


@app.command()
def budget(url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False) -> None:
    """Show every alert budget: alerts a week that are wanted, that were, and that are to come, and the threshold."""
    found = _ask(url, token, "budgets", {})
    if as_json:
        _show(found)
        return
    _print_table(
        ("objective", "wanted a week", "last week", "to come", "threshold", "series"),
        [
            (one["name"], *_numbers(one, "budget", "actual", "projected", "threshold", "series"))
            for one in found["budgets"]
        ],
    )


class VerdictKind(StrEnum):
    """What somebody says of an alert, or of a time without one."""

    true_alert = "true_alert"
    false_alert = "false_alert"
    missed = "missed"


@app.command(context_settings={"help_option_names": ["--help"], "ignore_unknown_options": True})
def verdict(
    series: Annotated[str, typer.Argument(help='A fingerprint, or a name or name{key="value"} that is one series.')],
    time: Annotated[str, typer.Argument(help="ISO 8601 in UTC, now (the newest point), or -2h before that.")],
    said: Annotated[VerdictKind, typer.Argument(metavar="VERDICT", help="true_alert, false_alert or missed.")],
    ratio: Annotated[
        float | None, typer.Option(help="Alert score then, in thresholds; where the service does not know it.")
    ] = None,
    by: Annotated[str, typer.Option(help="Who says so.", envvar="USER")] = "",
    note: Annotated[str, typer.Option(help="Why.")] = "",
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell a running service what an alert was, or that one was missed; the threshold of the series follows."""
    import json

    from otel_aiops.batch.client import Api

    asked = {"series": series, "time": time, "verdict": said.value, "ratio": ratio, "by": by, "note": note}
    body = json.dumps({key: value for key, value in asked.items() if value is not None}).encode()
    api = Api("otel-aiops", url or "http://localhost:9464", token)
    try:
        found = api.post("/api/v1/verdicts", body, {"Content-Type": "application/json"})
    finally:
        api.close()
    if as_json:
        _show(found)
        return
    for one in found["verdicts"]:
        from_where = {"alert": "its alert", "history": "its recorded score", "given": "what was given"}[one["source"]]
        typer.echo(f"learned: {one['verdict']} at {one['ratio']:.2f} thresholds, from {from_where}")


def _numbers(tree: dict[str, float], *names: str) -> tuple[str, ...]:
    """Numbers of a table: whole ones as they are, others with two digits."""
    return tuple(f"{tree[name]:.2f}" if isinstance(tree[name], float) else str(tree[name]) for name in names)


def _time(unix_s: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


class Direction(StrEnum):
    """On which side of a limit it is reached."""

    above = "above"
    below = "below"


@app.command()
def forecast(
    series: SeriesArgument,
    files: FilesArgument = None,
    horizon: Annotated[str, typer.Option(help="How far ahead, as 1d or 6h.")] = "1d",
    step: Annotated[str | None, typer.Option(help="Between forecast values, as 5m; default: by the horizon.")] = None,
    limit: Annotated[float | None, typer.Option(help="Say when this value is reached.")] = None,
    direction: Annotated[Direction, typer.Option(help="Reached from below (above) or above (below).")] = (
        Direction.above
    ),
    data_dir: RecordedOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    output: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is to come of a series, with interval, method and skill, and when it reaches a limit."""
    from otel_aiops.batch.outlook import Outlook, outlook
    from otel_aiops.config import duration

    source = _source(files, data_dir, url)
    if source is None:
        asked = {"series": series, "horizon": horizon, "step": step, "limit": limit, "direction": direction.value}
        given = {key: str(value) for key, value in asked.items() if value is not None}
        found = Outlook.from_json(_ask(url, token, "forecast", given))
    else:
        found = outlook(
            source(series),
            horizon_s=duration(horizon),
            step_s=duration(step) if step else None,
            limit=limit,
            direction=direction.value,
        )
    _show(found.to_json() if as_json else found.text())
    if output:
        from otel_aiops.batch.plot import plot_forecast

        plot_forecast(found, output)


def _source(files: list[Path] | None, data_dir: Path | None, url: str | None):  # type: ignore[no-untyped-def]
    """Where to read a series from: a function of what is wanted, or None for a running service."""
    if (bool(files) + (data_dir is not None) + (url is not None)) > 1:
        raise typer.BadParameter("expected one of: FILES, --data-dir DIR, --url URL")
    from otel_aiops.batch.tracks import from_directory, from_files
    from otel_aiops.series.wanted import Wanted

    if data_dir is not None:
        return lambda wanted: from_directory(data_dir, Wanted(wanted))
    return (lambda wanted: from_files(files, Wanted(wanted))) if files else None


def _ask(url: str | None, token: str | None, what: str, parameters: dict[str, str]):  # type: ignore[no-untyped-def]
    from otel_aiops.batch.client import Api

    api = Api("otel-aiops", url or "http://localhost:9464", token)
    try:
        return api.get(f"/api/v1/{what}", parameters)
    finally:
        api.close()


def _show(found: object) -> None:
    import json

    typer.echo(found if isinstance(found, str) else json.dumps(found))


def _load(path: Path | None):  # type: ignore[no-untyped-def]  # Config is imported when it is needed
    from otel_aiops.config import Config, load

    return load(path).config if path else Config()


@contextmanager
def _bar(what: str) -> Iterator[Callable[[float, float, str], None]]:
    """A bar on standard error with the time that is left; nothing where nobody sees it."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what)
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=f"{what} {text}")


def _print_table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _progress(what: str):  # type: ignore[no-untyped-def]  # a callback (done, total, text)
    def show(done: float, total: float, text: str = "") -> None:
        if sys.stderr.isatty():
            share = f"{100 * done / total:3.0f} %" if total else ""
            typer.echo(f"\r{what} {share} {text:<60.60}", err=True, nl=False)

    return show


def _finish_progress() -> None:
    if sys.stderr.isatty():
        typer.echo("", err=True)
