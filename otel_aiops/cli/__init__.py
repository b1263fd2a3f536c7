"""The command line: which commands there are; each imports what it needs when it runs, so `--help` answers at once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from otel_aiops import __version__
from otel_aiops.cli.audit import audit
from otel_aiops.cli.circle import lifecycle
from otel_aiops.cli.datasets import dataset
from otel_aiops.cli.evaluation import backtest, evaluate, gate
from otel_aiops.cli.export import export
from otel_aiops.cli.feedback import feedback
from otel_aiops.cli.imports import promql, vmanomaly
from otel_aiops.cli.incidents import advice, graph, incidents, predictions
from otel_aiops.cli.objectives import objectives
from otel_aiops.cli.recorded import plan, preview, replay, score, selftest
from otel_aiops.cli.responses import playbooks, responses
from otel_aiops.cli.series import explain, forecast
from otel_aiops.cli.service import alerts, backfill, budget, check, serve, verdict
from otel_aiops.cli.terminal import FAULT, say
from otel_aiops.cli.tokens import token
from otel_aiops.cli.training import train, tune
from otel_aiops.cli.versions import models, rollback, rollout
from otel_aiops.errors import AiopsError

app = typer.Typer(
    name="otel-aiops",
    help="Anomaly scores for the telemetry that your OpenTelemetry Collector already has.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
importing = typer.Typer(help="Convert the configuration of another detector: YAML for otel-aiops, and notes about it.")
app.add_typer(importing, name="import")

TAKES_TIMES_AGO = {"help_option_names": ["--help"], "ignore_unknown_options": True}  # or -2h would be an option

for command in (serve, check, replay, backfill, preview, score, selftest, plan):
    app.command()(command)
app.add_typer(objectives, name="objectives")
app.command(context_settings=TAKES_TIMES_AGO)(explain)
app.command()(alerts)
app.command()(budget)
app.command(context_settings=TAKES_TIMES_AGO)(verdict)
app.command()(forecast)
app.add_typer(incidents, name="incidents")
app.add_typer(dataset, name="dataset")
app.command()(train)
app.command()(tune)
app.command()(evaluate)
app.command()(gate)
app.command()(backtest)
app.add_typer(lifecycle, name="lifecycle")
app.command()(export)
app.command()(predictions)
app.command()(advice)
app.command()(graph)
app.add_typer(models, name="models")
app.add_typer(rollout, name="rollout")
app.command()(rollback)
app.add_typer(feedback, name="feedback")
app.add_typer(playbooks, name="playbooks")
app.add_typer(responses, name="responses")
app.add_typer(audit, name="audit")
app.add_typer(token, name="token")
importing.command()(vmanomaly)
importing.command()(promql)


def main() -> None:
    """Run, and turn the project's own errors into one line and an exit code."""
    try:
        app()
    except AiopsError as error:
        say(f"otel-aiops: {error}", err=True)
        sys.exit(FAULT)
    except KeyboardInterrupt:
        sys.exit(130)


def _version(wanted: bool) -> None:  # as typer calls it
    if wanted:
        say(f"otel-aiops {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Anomaly scores for the telemetry that your OpenTelemetry Collector already has."""
