"""Commands about objectives: whether their files are right, and what is wanted, of files or of a running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from otel_aiops.cli.terminal import NO, JsonOption, TokenOption, UrlOption, ask, print_texts, say, show
from otel_aiops.errors import ConfigError

objectives = typer.Typer(
    help="Objectives: which incidents of which series teams want to hear of, and how many alerts they bear.",
    no_args_is_help=True,
)

COLUMNS = ("name", "team", "hash", "budget", "recall", "miss : false alert")

PathArgument = Annotated[Path, typer.Argument(help="A YAML file, or a folder of them.")]
MaybePath = Annotated[Path | None, typer.Argument(help="A YAML file, or a folder of them; default: a running service.")]


@objectives.command()
def check(path: PathArgument) -> None:
    """Check files of objectives: every error names the file, the key, what was expected and what came."""
    for one in _of_files(path):
        say(f"{one['name']}: ok, {one['id']}")


@objectives.command("list")
def list_objectives(
    path: MaybePath = None, url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """List objectives: team, hash, budget, target, costs and selectors; of a service also its series and alerts."""
    found = _found(path, url, token)
    if as_json:
        show({"objectives": found})
        return
    if path is not None:  # files know nothing of series
        print_texts((*COLUMNS, "selector"), [(*_row(one), _selector(one["match"])) for one in found])
        return
    kept = [(_number(one, "series"), f"{_number(one, 'actual')} of {one['budget_per_week']:g}") for one in found]
    rows = [(*_row(one), *more, _selector(one["match"])) for one, more in zip(found, kept, strict=True)]
    print_texts((*COLUMNS, "series", "last week", "selector"), rows)


@objectives.command("show")
def show_objective(
    name: Annotated[str, typer.Argument(help="Its name, as `list` shows it.")],
    path: MaybePath = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show an objective with everything that it says."""
    found = {one["name"]: one for one in _found(path, url, token)}
    if name not in found:
        say(f"no objective is called {name}; there are {', '.join(found) or 'none'}", err=True)
        raise typer.Exit(NO)
    if as_json:
        show(found[name])
        return
    for key, value in _lines(found[name]):
        say(f"{key:<14}{value}")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    """What files and services know of an objective."""
    costs = f"{one['cost']['miss']:g} : {one['cost']['false_alert']:g}"
    return one["name"], one["team"] or "-", one["id"], str(one["budget"]), f"{one['target']['recall']:.0%}", costs


def _lines(one: dict[str, Any]) -> list[tuple[str, str]]:
    """An objective for people."""
    target, cost, data = one["target"], one["cost"], one["data"]
    days = data["least_history"] / 86_400
    lines = [
        ("name", f"{one['name']} ({one['id']})"),
        ("description", one["description"] or "-"),
        ("team", one["team"] or "-"),
        ("selector", _selector(one["match"])),
        ("incidents", ", ".join(one["incidents"]) or "all types"),
        ("cost", f"a miss {cost['miss']:g}, a false alert {cost['false_alert']:g}"),
        ("target", f"recall {target['recall']:.0%}, lead time {target['lead_time']:g} s"),
        ("budget", f"{one['budget']}, which is {one['budget_per_week']:g} alerts a week"),
        ("responses", ", ".join(one["responses"]) or "none"),
        ("needs", f"{days:g} d of history, {data['least_series']} series, gaps of at most {data['most_gaps']:.0%}"),
    ]
    if one.get("actual") is not None:
        lines.append(("series", f"{one['series']} seen in the last day"))
        lines.append(("alerts", f"{one['actual']} in the last week, {one['projected']:.2f} a week to come"))
    return lines


def _found(path: Path | None, url: str | None, token: str | None) -> list[dict[str, Any]]:
    """Objectives of files, or those of a running service."""
    if path is not None and url is not None:
        raise typer.BadParameter("expected one of: PATH, --url URL")
    if path is not None:
        return _of_files(path)
    found: list[dict[str, Any]] = ask(url, token, "objectives", {})["objectives"]
    return found


def _of_files(path: Path) -> list[dict[str, Any]]:
    """Objectives of files; every error on standard error, and exit code 1."""
    from otel_aiops.lifecycle.objective import load_objectives

    try:
        return [one.plain_values() for one in load_objectives(path)]
    except ConfigError as error:
        for line in str(error).splitlines():
            say(f"error: {line}", err=True)
        raise typer.Exit(NO) from None


def _selector(match: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in match.items()) or "all series"


def _number(one: dict[str, Any], key: str) -> str:
    return "-" if one.get(key) is None else str(one[key])
