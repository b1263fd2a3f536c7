"""Commands of responses: playbooks and what they would do; runs, approvals, and the stop of everything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from otel_aiops.cli.terminal import (
    NO,
    ConfigOption,
    JsonOption,
    LimitOption,
    TokenOption,
    UrlOption,
    WhoOption,
    WhyOption,
    ask,
    moment,
    post,
    print_texts,
    say,
    show,
)

playbooks = typer.Typer(help="Playbooks: what is done about which incidents, under which guards.", no_args_is_help=True)
responses = typer.Typer(help="What playbooks did, and what waits for approval.", no_args_is_help=True)

MaybePath = Annotated[Path | None, typer.Argument(help="A YAML file, or a folder of them; default: a running service.")]
CheckPath = Annotated[Path | None, typer.Argument(help="A YAML file, or a folder; default: those of --config.")]
IdArgument = Annotated[str, typer.Argument(metavar="RESPONSE", help="The id of a response, as `list` shows it.")]
MARKS = {"allowed": "would be done", "dry_run": "dry run", "waits": "would wait", "refused": "would be refused"}


@playbooks.command("list")
def list_playbooks(
    path: MaybePath = None, url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """List playbooks with what they match and do, of files or of a running service."""
    found = {"playbooks": _of_files(path)} if path is not None else ask(url, token, "playbooks", {})
    if as_json:
        show(found)
        return
    rows = [
        (
            one["name"],
            one["version"],
            one["on"],
            "dry run" if one["dry_run"] else "real",
            _matching(one["match"]),
            ", ".join(f"{step['do']['kind']} {step['do']['use']}" for step in one["steps"]),
        )
        for one in found["playbooks"]
    ]
    print_texts(("name", "version", "on", "does", "match", "steps"), rows)
    if path is None:
        _tell_switches(found)


@playbooks.command("check")
def check_playbooks(path: CheckPath = None, config: ConfigOption = None) -> None:
    """Check files of playbooks: every error names the file, the key, what was expected and what came.

    With --config also that everything that steps use is configured.
    """
    from otel_aiops.config import load
    from otel_aiops.responses.playbook import check_playbooks, load_playbooks

    settings = load(config).config if config is not None else None
    if path is None and settings is None:
        raise typer.BadParameter("expected a path, or --config")
    found = load_playbooks(path) if path is not None else ()
    if settings is not None:
        found = found or settings.playbooks
        check_playbooks(found, settings.responses.known(), promql=settings.responses.prometheus is not None)
    for one in found:
        say(f"{one.name}: ok, {one.version}")
    if not found:
        say("there are no playbooks")


@playbooks.command("test")
def test_playbooks(
    incident: Annotated[str, typer.Argument(help="The id of an incident or prediction.")],
    playbook: Annotated[str, typer.Option(help="Only this one.")] = "",
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what playbooks would do about an incident now, step by step with every guard; nothing is done.

    Exit code 1 when none of them matches it.
    """
    found = post(url, token, "playbooks/test", {"incident": incident, "playbook": playbook})
    if as_json:
        show(found)
    else:
        say(f"{found['incident']}: {found['title']}")
        for one in found["playbooks"]:
            _print_tested(one)
    if not any(one["matches"] for one in found["playbooks"]):
        raise typer.Exit(NO)


@responses.command("list")
def list_responses(
    state: Annotated[str, typer.Option(help="waiting, active, done, refused, failed …; more by comma.")] = "",
    incident: Annotated[str, typer.Option(help="Only those about this incident.")] = "",
    playbook: Annotated[str, typer.Option(help="Only those of this playbook.")] = "",
    limit: LimitOption = 50,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List runs of playbooks, the newest first."""
    asked = {"state": state, "incident": incident, "playbook": playbook, "limit": str(limit)}
    found = ask(url, token, "responses", {key: value for key, value in asked.items() if value})
    if as_json:
        show(found)
        return
    rows = [
        (one["id"], moment(one["began"]), one["playbook"], one["state"], one["incident"], one["title"], _last(one))
        for one in found["responses"]
    ]
    print_texts(("id", "began", "playbook", "state", "incident", "title", "last"), rows)
    say(f"{found['total']} responses")


@responses.command("show")
def show_response(
    response: IdArgument, url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """Show a run with its steps, guards, approvals and timeline."""
    found = ask(url, token, f"responses/{response}", {})
    if as_json:
        show(found)
        return
    say(f"{found['id']}: {found['playbook']} ({found['version']}), {found['state']}")
    say(f"incident {found['incident']}, {found['severity']}: {found['title']}")
    for one in found["steps"]:
        _print_step(one)
    rows = [(moment(one["time"]), one["what"], one["who"], one["why"]) for one in found["timeline"]]
    print_texts(("time", "what", "who", "why"), rows)


@responses.command()
def approve(
    response: IdArgument, who: WhoOption, why: WhyOption = "", url: UrlOption = None, token: TokenOption = None
) -> None:
    """Approve the step that a response waits with."""
    _said(post(url, token, f"responses/{response}/approve", {"who": who, "why": why}))


@responses.command()
def refuse(
    response: IdArgument, who: WhoOption, why: WhyOption = "", url: UrlOption = None, token: TokenOption = None
) -> None:
    """Refuse the step that a response waits with."""
    _said(post(url, token, f"responses/{response}/refuse", {"who": who, "why": why}))


@responses.command()
def stop(who: WhoOption, why: WhyOption = "", url: UrlOption = None, token: TokenOption = None) -> None:
    """Stop all responses at once, those that wait too, until they are resumed."""
    found = post(url, token, "responses/stop", {"who": who, "why": why})
    say(f"all responses are stopped: {found['stopped']}")


@responses.command()
def resume(who: WhoOption, why: WhyOption = "", url: UrlOption = None, token: TokenOption = None) -> None:
    """Let responses go on; what was refused meanwhile stays so."""
    found = post(url, token, "responses/resume", {"who": who, "why": why})
    if found["stopped"]:
        say(f"responses are still stopped: {found['stopped']}", err=True)
        raise typer.Exit(NO)
    say("responses go on")


def _of_files(path: Path) -> list[dict[str, Any]]:
    from otel_aiops.responses.playbook import load_playbooks

    return [{**one.plain_values(), "version": one.version} for one in load_playbooks(path)]


def _matching(match: dict[str, Any]) -> str:
    said = []
    for key, value in match.items():
        if value and not (key == "severity" and value == "info"):
            shown = ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else value
            said.append(f"{key} {', '.join(map(str, shown)) if isinstance(shown, list) else shown}")
    return "; ".join(said) or "all"


def _tell_switches(found: dict[str, Any]) -> None:
    if not found["enabled"]:
        say("responses are not enabled (responses.enabled): everything is a dry run")
    if found["stopped"]:
        say(f"all responses are stopped: {found['stopped']}")


def _print_tested(one: dict[str, Any]) -> None:
    if not one["matches"]:
        say(f"\n{one['name']}: does not match")
        for why in one["why_not"]:
            say(f"  {why}")
        return
    say(f"\n{one['name']} (on {one['on']}, {one['version']}): matches")
    for step in one["steps"]:
        say(f"  {step['step']}. {step['action']}: {MARKS[step['verdict']]}")
        if step["plan"]:
            say(f"     {step['plan']}")
        for check in step["checks"]:
            say(f"     {'+' if check['holds'] else '-'} {check['name']}: {check['text']}")


def _print_step(one: dict[str, Any]) -> None:
    say(f"\n{one['step']}. {one['role']} {one['action']}: {one['state']}")
    lines = [
        ("plan", one["plan"]),
        ("result", one["result"]),
        ("helped", one["verified_why"] or ("not known yet" if one["verified"] else "")),
    ]
    lines += [
        (f"{'approved' if vote['agrees'] else 'refused'} by", f"{vote['who']} {vote['why']}")
        for vote in one["approvals"]
    ]
    if one["expires"]:
        missing = one["approvals_needed"] - sum(vote["agrees"] for vote in one["approvals"])
        lines.append(("waits for", f"{missing} more to approve it, until {moment(one['expires'])}"))
    for name, text in lines:
        if text:
            say(f"   {name}: {text}")
    for line in one["output"].splitlines()[-10:]:
        say(f"   | {line}")


def _last(one: dict[str, Any]) -> str:
    """Where its last step stands."""
    if not one["steps"]:
        return ""
    step = one["steps"][-1]
    return f"{step['role']} {step['action']} {step['verified'] or step['state']}"


def _said(found: dict[str, Any]) -> None:
    for one in found["steps"]:
        if one["state"] == "waiting":
            agreed = sum(vote["agrees"] for vote in one["approvals"])
            refused = next((vote["who"] for vote in one["approvals"] if not vote["agrees"]), "")
            rest = f"refused by {refused}" if refused else f"{agreed} of {one['approvals_needed']} approvals"
            say(f"{found['id']}: {one['action']}: {rest}")
