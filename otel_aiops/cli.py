"""The command line; each command imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from otel_aiops import __version__
from otel_aiops.errors import AiopsError

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


def _load(path: Path | None):  # type: ignore[no-untyped-def]  # Config is imported when it is needed
    from otel_aiops.config import Config, load

    return load(path).config if path else Config()


def _progress(what: str):  # type: ignore[no-untyped-def]  # a callback (done, total, text)
    def show(done: float, total: float, text: str = "") -> None:
        if sys.stderr.isatty():
            share = f"{100 * done / total:3.0f} %" if total else ""
            typer.echo(f"\r{what} {share} {text:<60.60}", err=True, nl=False)

    return show


def _finish_progress() -> None:
    if sys.stderr.isatty():
        typer.echo("", err=True)
