"""Commands of the audit: who changed what, and why somebody was paged, made again from the log."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otel_aiops.cli.terminal import (
    NO,
    ConfigOption,
    JsonOption,
    TokenOption,
    UrlOption,
    ask,
    counted,
    load_config,
    moment,
    prepare,
    print_texts,
    say,
    show,
)

if TYPE_CHECKING:
    from otel_aiops.config import Config
    from otel_aiops.responses.ledger import Ledger

audit = typer.Typer(help="Who changed what, and why somebody was paged.", invoke_without_command=True)

DataOption = Annotated[Path | None, typer.Option("--data-dir", "-d", help="The data directory of a service.")]


@audit.callback()
def trail(
    context: typer.Context,
    since: Annotated[str, typer.Option(help="ISO 8601, or 7d for so long ago.")] = "",
    kind: Annotated[
        str, typer.Option(help="config, verdict, decision, dataset, version, rollout, response …; more by comma.")
    ] = "",
    who: Annotated[str, typer.Option(help="Only what they did; a part of the name.")] = "",
    limit: Annotated[int, typer.Option(help="How many to list at most.", min=1, max=10_000)] = 50,
    config: ConfigOption = None,
    data_dir: DataOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List who changed what, when, on which data and with which code, the newest first.

    Reads a data directory, also while its service runs; with --url it asks a running service.
    """
    if context.invoked_subcommand is not None:
        return
    asked = {"since": since, "kind": kind, "who": who, "limit": str(limit)}
    found = ask(url, token, "audit", asked) if url else _trail(config, data_dir, asked)
    if as_json:
        show(found)
        return
    rows = [
        (moment(one["time"]), one["kind"], one["who"], one["what"], one["why"], one["data"], one["code"])
        for one in found["entries"]
    ]
    print_texts(("time", "kind", "who", "what", "why", "data", "code"), rows)
    say(counted(found["total"], "change"))
    for problem in found["problems"]:
        say(f"note: {problem}", err=True)


@audit.command("why")
def why(
    incident: Annotated[str, typer.Option(help="The id of an incident.")] = "",
    series: Annotated[str, typer.Option(help='A fingerprint, or a name or name{key="value"} that is one series.')] = "",
    at: Annotated[str, typer.Option(help="With --series: ISO 8601 in UTC, or unix seconds.")] = "",
    config: ConfigOption = None,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the score of a past point again, bit for bit, with the version and configuration of that time.

    Replays the log from a snapshot before it; the service may be running. Exit code 1 when it does not come out equal,
    or what is needed is gone: then it says what.
    """
    from otel_aiops.audit.replay import Past
    from otel_aiops.audit.why import journal_of, lines, why_incident, why_series
    from otel_aiops.batch.times import moment_ns
    from otel_aiops.errors import BadInput

    if bool(incident) == bool(series) or bool(series) != bool(at):
        raise typer.BadParameter("expected --incident ID, or --series SERIES with --at TIME")
    settings = load_config(config)
    directory = data_dir or Path(settings.storage.directory)
    journal = journal_of(settings, directory)
    prepare()
    try:
        with Past.opened(directory, settings.pipeline()) as past:
            if series:
                found = why_series(directory, journal, series, moment_ns(at, time.time_ns()), settings, past)
            elif journal is None:
                raise BadInput(f"{directory}: expected a journal of incidents, there is none")
            else:
                found = why_incident(directory, journal, incident, settings, past)
    finally:
        if journal is not None:
            journal.close()
    say(json.dumps(found.to_json()) if as_json else "\n".join(lines(found)))
    if not found.equal:
        raise typer.Exit(NO)


@audit.command("verify")
def verify(
    head: Annotated[
        str, typer.Option(help="The hash of a line that was noted elsewhere; it must still be there.")
    ] = "",
    config: ConfigOption = None,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the chain of the audit of responses: each line holds the hash of all before.

    Names the first line that was changed, left out or put in; exit code 1 then. Lines that were cut off at the end show
    only by a --head that was noted before.
    """
    from dataclasses import asdict

    from otel_aiops.responses.audit import verify as verified

    settings = load_config(config)
    directory = data_dir or Path(settings.storage.directory)
    ledger = _ledger(settings, directory)
    if ledger is None:
        say(f"{directory}: there is no audit of responses")
        return
    try:
        found = verified(ledger.lines(), head)
    finally:
        ledger.close()
    if as_json:
        show(asdict(found))
    elif found.broken:
        say(f"line {found.broken} is broken: {found.why}; the {found.lines} lines before it hold")
    elif not found.known:
        say(f"{found.lines} lines hold, but none of them has the hash {head}: some are missing at the end")
    else:
        say(f"{found.lines} lines hold, the head is {found.head}")
    if found.broken or not found.known:
        raise typer.Exit(NO)


def _ledger(settings: Config, directory: Path) -> Ledger | None:
    """The ledger of a data directory, to read; None where there is none."""
    from otel_aiops.incidents.journal import FILE
    from otel_aiops.responses.ledger import Ledger

    if not settings.journal.url and not (directory / FILE).exists():
        return None
    ledger = Ledger(settings.journal, directory)
    if ledger.attach():
        return ledger
    ledger.close()
    return None


def _trail(config: Path | None, data_dir: Path | None, asked: dict[str, str]) -> Any:
    from otel_aiops.audit.entries import since_of, trail
    from otel_aiops.audit.why import journal_of

    settings = load_config(config)
    directory = data_dir or Path(settings.storage.directory)
    journal, ledger = journal_of(settings, directory), _ledger(settings, directory)
    try:
        return trail(
            directory,
            journal,
            since_ns=since_of(asked["since"], time.time_ns()),
            kinds=[one.strip() for one in asked["kind"].split(",") if one.strip()],
            who=asked["who"],
            limit=int(asked["limit"]),
            registrations=lambda: _registered(settings, directory),
            ledger=ledger,
        ).to_json()
    finally:
        if ledger is not None:
            ledger.close()
        if journal is not None:
            journal.close()


def _registered(settings: Any, directory: Path) -> list[dict[str, str]]:
    """What the registry knows, where it is in the data directory."""
    from otel_aiops.errors import AiopsError, StateError
    from otel_aiops.lifecycle.registry import Registry

    registry = Registry(directory, settings.lifecycle.registry)
    if not registry.exists:
        return []
    try:
        return [
            {**one.tags, "id": one.id, "number": one.number, "time_ns": str(one.made_ns)} for one in registry.versions()
        ]
    except AiopsError as error:
        raise StateError(str(error)) from error
