"""Commands around the service: run it, check its configuration, teach it, and what it says of alerts."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from otel_aiops.cli.terminal import (
    NO,
    ConfigOption,
    DataDirOption,
    JsonOption,
    TokenOption,
    UrlOption,
    ask,
    bar,
    counted,
    moment,
    print_table,
    say,
    service,
    show,
)
from otel_aiops.errors import ConfigError


def serve(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    incidents_out: Annotated[
        Path | None, typer.Option(help="Append every change of an incident to this file, as a line of JSON.")
    ] = None,
    predictions_out: Annotated[
        Path | None, typer.Option(help="The same for predicted incidents, with what becomes of them.")
    ] = None,
) -> None:
    """Receive OTLP, score every series on arrival, send the scores back.

    OTLP on localhost:4317 (gRPC) and :4318 (HTTP), a page for browsers, the API and /metrics on http://localhost:9464
    unless configured. SIGTERM drains and snapshots; SIGHUP reads the configuration again and keeps the old one when the
    new one is wrong.
    """
    from otel_aiops.app import serve as run
    from otel_aiops.chronicle import IncidentFiles

    raise typer.Exit(run(config, data_dir, IncidentFiles(incidents_out, predictions_out)))


def check(config: Annotated[Path, typer.Argument(help="The YAML configuration to check.")]) -> None:
    """Check a configuration: every error names the key, what was expected and what came."""
    from otel_aiops.config import load

    try:
        loaded = load(config)
    except ConfigError as error:
        for line in str(error).splitlines():
            say(f"error: {line}", err=True)
        raise typer.Exit(NO) from None
    for warning in loaded.warnings:
        say(f"warning: {warning}", err=True)
    say(f"{config}: ok")


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
    with bar("backfill") as progress:
        result = job.run(progress=progress)
    say(result.text())
    if not result.learned:
        raise typer.Exit(NO)


def alerts(
    limit: Annotated[int, typer.Option(help="How many to list at most.", min=1)] = 20,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the series that have an alert under their budget now, the highest first, each with its reason."""
    found = ask(url, token, "alerts", {"limit": str(limit)})
    if as_json:
        show(found)
        return
    print_table(
        ("series", "objective", "since", "ratio", "peak", "threshold"),
        [
            (one["series"], one["objective"], moment(one["since"]), *_numbers(one, "ratio", "peak", "threshold"))
            for one in found["alerts"]
        ],
    )
    for one in found["alerts"]:
        say(f"{one['series']}: {one['reason'] or 'no point has come since the restart'}")
    say(counted(found["total"], "alert"))


def budget(url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False) -> None:
    """Show every alert budget: alerts a week that are wanted, that were, and that are to come, and the threshold."""
    found = ask(url, token, "budgets", {})
    if as_json:
        show(found)
        return
    print_table(
        ("objective", "wanted a week", "last week", "to come", "threshold", "series"),
        [
            (one["name"], *_numbers(one, "budget", "actual", "projected", "threshold", "series"))
            for one in found["budgets"]
        ],
    )


class VerdictKind(StrEnum):
    """What somebody says of an alert, or of a time without one."""

    real = "real"
    false = "false"
    duplicate = "duplicate"
    expected = "expected"
    missed = "missed"
    true_alert = "true_alert"
    false_alert = "false_alert"


def verdict(
    series: Annotated[str, typer.Argument(help='A fingerprint, or a name or name{key="value"} that is one series.')],
    time: Annotated[str, typer.Argument(help="ISO 8601 in UTC, now (the newest point), or -2h before that.")],
    said: Annotated[VerdictKind, typer.Argument(metavar="VERDICT", help="real, false, duplicate, expected or missed.")],
    ratio: Annotated[
        float | None, typer.Option(help="Alert score then, in thresholds; where the service does not know it.")
    ] = None,
    by: Annotated[str, typer.Option(help="Who says so.", envvar="USER")] = "",
    note: Annotated[str, typer.Option(help="Why.")] = "",
    of: Annotated[str, typer.Option(help="Of a duplicate: the id of the incident that it is a part of.")] = "",
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell a running service what an alert was, or that one was missed; the threshold of the series follows."""
    asked = {
        "series": series,
        "time": time,
        "verdict": said.value,
        "ratio": ratio,
        "by": by,
        "note": note,
        "of": of or None,
    }
    body = json.dumps({key: value for key, value in asked.items() if value is not None}).encode()
    with service(url, token) as api:
        found = api.post("/api/v1/verdicts", body, {"Content-Type": "application/json"})
    if as_json:
        show(found)
        return
    for one in found["verdicts"]:
        from_where = {"alert": "its alert", "history": "its recorded score", "given": "what was given"}[one["source"]]
        say(f"learned: {one['verdict']} at {one['ratio']:.2f} thresholds, from {from_where}")


def _numbers(tree: dict[str, float], *names: str) -> tuple[str, ...]:
    """Numbers of a table: whole ones as they are, others with two digits."""
    return tuple(f"{tree[name]:.2f}" if isinstance(tree[name], float) else str(tree[name]) for name in names)
