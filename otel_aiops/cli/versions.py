"""Commands for model versions: which are there, which run, and changing that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

import typer

from otel_aiops.cli.terminal import (
    NO,
    ConfigOption,
    DataDirOption,
    JsonOption,
    LimitOption,
    TokenOption,
    UrlOption,
    WhoOption,
    WhyOption,
    ask,
    counted,
    load_config,
    moment,
    post,
    print_texts,
    say,
    show,
    span,
)

models = typer.Typer(help="Model versions of a running service: list them and look at one.", no_args_is_help=True)
rollout = typer.Typer(help="Which version serves, and what runs beside it: shadow, canary, promote, roll back.")

MOST_DRIFTS = 20  # that are listed

IdArgument = Annotated[str, typer.Argument(metavar="VERSION", help="The id of a model version.")]


@models.command("list")
def list_models(url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False) -> None:
    """List the model versions with their role, and what is wrong with those that were changed."""
    found = ask(url, token, "models", {})
    if as_json:
        show(found)
        return
    rows = [
        (
            *(one["id"], one["role"], ", ".join(one.get("aliases") or ()), one.get("series", ""), _until(one)),
            one.get("problem") or one["lineage"]["why"],
        )
        for one in found["models"]
    ]
    print_texts(("version", "role", "registry", "series", "learned until", "why"), rows)
    say(counted(found["total"], "version"))


@models.command("show")
def show_model(name: IdArgument, url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False) -> None:
    """Show a version: settings, where it comes from, and its report."""
    found = ask(url, token, f"models/{quote(name, safe='')}", {})
    if as_json:
        show(found)
        return
    told = {"version": found["id"], "role": found["role"] or "none", "series": found["series"]} | found["lineage"]
    settings = {f"settings.{key}": value for key, value in found["settings"]["detection"].items()}
    for key, value in {**told, "learned until": _until(found), **settings, "digest": found["digest"]}.items():
        if value not in ("", None):
            say(f"{key:26} {value}")
    for key, value in _reported(found):
        say(f"{key:26} {value}")


def _reported(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What the report of a version says, where it has one."""
    from otel_aiops.lifecycle.report import Report
    from otel_aiops.lifecycle.run import sentence

    if not found["report"]:
        yield "report", f"none yet; otel-aiops evaluate {found['id']} makes it"
        return
    report = Report.from_json(found["report"])
    yield "report", sentence(report)
    yield "report as a page", f"/api/v1/models/{found['id']}/report"


@models.command("health")
def health(url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False) -> None:
    """Say how the model that serves does: drift, its rates, calibration, budgets, verdicts; exit 1 when not well."""
    found = ask(url, token, "models/health", {})
    if as_json:
        show(found)
    else:
        _tell_health(found)
    if found["problems"]:
        raise typer.Exit(NO)


def _tell_health(found: dict[str, Any]) -> None:
    at = moment(found["time"]) if found["time"] else "never"
    say(f"version {found['version'] or 'none, what the service has learned'}, looked at {at}")
    say(f"the input is compared with {found['reference'] or 'nothing'}\n")
    print_texts(("what", "now", "expected"), list(_figures(found)))
    drifted = [one for one in found["groups"] if one["looks"]]
    if drifted:
        say("")
        rows = [
            (
                one["service"],
                one["metric"],
                one["what"],
                f"{one['effect']:.2g}",
                f"{one['share']:.0%}",
                str(one["looks"]),
            )
            for one in drifted[:MOST_DRIFTS]
        ]
        print_texts(("service", "metric", "drift of", "spreads", "of series", "looks"), rows)
    for note in found["notes"]:
        say(f"not known: {note}")
    for problem in found["problems"]:
        say(f"problem: {problem}")
    if not found["problems"]:
        say("nothing is wrong")


def _figures(found: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(what, how it is now, what is promised or usual)."""
    lasting = sum(one["persistent"] for one in found["drifts"])
    yield "metrics of services that drifted", str(sum(one["looks"] > 0 for one in found["groups"])), "0"
    yield "drifts that last", str(lasting), "0"
    for one in found["rates"]:
        word = "share of points over the threshold" if one["name"] == "scores" else "alerts of series in a day"
        yield word, _number(one["now"]), _number(one["usual"])
    for one in found["promises"]:
        yield f"normal points at {one['level']:g} or more", f"{one['observed']:.3%}", f"{one['promised']:.1%}"
    if found["calibration_error"] is not None:
        yield "probabilities off by at most", f"{found['calibration_error']:.1%}", ""
    for one in found["budgets"]:
        yield f"alerts of {one['name']} in a week", str(one["used"]), f"{one['promised']:.4g}"
    for fault, recall in (found["selftest"] or {"recall": {}})["recall"].items():
        yield f"self-test, {fault} found", f"{recall:.0%}", ""
    if found["verdicts"] and found["verdicts"]["precision"] is not None:
        of = found["verdicts"]
        yield "precision by verdicts", f"{of['precision']:.0%} ({of['low']:.0%} to {of['high']:.0%})", ""
    for key, word in (("precision", "precision"), ("recall", "recall")):
        if found["estimated"] and found["estimated"][key] is not None:
            yield f"{word} without labels, estimated", f"{found['estimated'][key]:.0%}", ""
    if found["estimated"]:
        yield "false alerts a week, estimated", f"{found['estimated']['false_alerts']:.2g}", ""


@models.command("save")
def save(
    who: WhoOption = "",
    why: WhyOption = "",
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register what serves, as it is now, as a version."""
    found = post(url, token, "models", {"who": who, "why": why})
    if as_json:
        show(found)
    else:
        say(f"{found['id']}: {found['series']} series")


@models.command("register")
def register(
    name: IdArgument, config: ConfigOption = None, data_dir: DataDirOption = None, as_json: JsonOption = False
) -> None:
    """Put a version of a data directory into the registry, with its lineage and report; the service may be running."""
    from dataclasses import asdict
    from pathlib import Path

    from otel_aiops.lifecycle.registry import Registry
    from otel_aiops.lifecycle.report import saved
    from otel_aiops.lifecycle.version import Models

    settings = load_config(config)
    directory = data_dir or Path(settings.storage.directory)
    folder = Models(directory / "lifecycle" / "models")
    version, _ = folder.load(name)
    registry = Registry(directory, settings.lifecycle.registry)
    found = registry.register(version, saved(folder.folder(name)))
    if as_json:
        show(asdict(found))
    else:
        say(f"{name}: version {found.number} of {settings.lifecycle.registry.name} in {registry.place}")


@rollout.command("show")
def show_rollout(url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False) -> None:
    """Show who serves, what runs beside it, and how both do on the same points."""
    _tell(ask(url, token, "rollout", {}), as_json)


@rollout.command("shadow")
def shadow(
    name: IdArgument,
    who: WhoOption = "",
    why: WhyOption = "",
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a version score beside the champion; nobody sees its scores and alerts but the comparison."""
    _roll({"action": "shadow", "version": name, "who": who, "why": why}, url, token, as_json)


@rollout.command("canary")
def canary(
    name: IdArgument,
    share: Annotated[float, typer.Option(help="Of the series, in 0 to 1; always the same ones.", min=0, max=1)] = 0.1,
    who: WhoOption = "",
    why: WhyOption = "",
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a version serve a share of the series."""
    _roll({"action": "canary", "version": name, "share": share, "who": who, "why": why}, url, token, as_json)


@rollout.command("promote")
def promote(
    name: IdArgument,
    who: WhoOption = "",
    why: WhyOption = "",
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the version beside the champion the champion; the former one goes on beside it."""
    _roll({"action": "promote", "version": name, "who": who, "why": why}, url, token, as_json)


@rollout.command("stop")
def stop(
    who: WhoOption = "",
    why: WhyOption = "",
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """End the version beside the champion."""
    _roll({"action": "stop", "who": who, "why": why}, url, token, as_json)


@rollout.command("history")
def history(
    limit: LimitOption = 20, url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """List what was done with versions: when, by whom and why; with --json also the evidence of the time."""
    found = ask(url, token, "rollout/history", {"limit": str(limit)})
    if as_json:
        show(found)
        return
    rows = [(moment(one["time"]), one["action"], one["version"], one["who"], one["why"]) for one in found["rollouts"]]
    print_texts(("time", "action", "version", "who", "why"), rows)


def rollback(
    who: WhoOption = "",
    why: WhyOption = "",
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go back: a challenger ends, or else the champion before this one serves again."""
    _roll({"action": "rollback", "who": who, "why": why}, url, token, as_json)


def _roll(asked: dict[str, Any], url: str | None, token: str | None, as_json: bool) -> None:
    _tell(post(url, token, "rollout", asked), as_json)


def _tell(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show(found)
        return
    say(f"champion: {found['champion'] or 'what the service has learned, without a version yet'}")
    if found["other"] is None:
        say("nothing runs beside it" + (f"; before it was {found['previous']}" if found["previous"] else ""))
        return
    share = f", which serves {found['share']:.1%} of the series" if found["share"] else ""
    say(f"beside it: {found['other']} as {found['role']}{share}")
    compared = found["comparison"]
    rows = [
        (word, *(_number(compared[side][key]) for side in ("champion", "other")))
        for word, key in (
            ("points scored", "points"),
            ("share over the threshold", "over_ratio"),
            ("alerts", "alerts"),
            ("alerts a week", "a_week"),
            ("error of the probabilities", "calibration_error"),
            ("alerts said to be false", "false_alerts"),
            ("missed, as was said", "missed"),
        )
    ]
    print_texts((f"in {span(86_400 * compared['days'])}", "champion", found["role"]), rows)
    say(f"{compared['alerts_of_both']} alerts of the champion were also alerts of the other one")
    for reason in (found["advice"] or {"reasons": ()})["reasons"]:
        say(f"advice: {found['advice']['action'] or 'wait'}, because {reason}")
    for side, word in (("only_champion", "only the champion"), ("only_other", f"only the {found['role']}")):
        for one in compared[side]:
            say(f"{word}: {moment(one['since'])} {one['series']}, {one['peak']:.1f} thresholds")


def _until(one: dict[str, Any]) -> str:
    return moment(one["until"]) if one.get("until") else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
