"""Commands about incidents of a running service: look at them, decide about them, and what surrounds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from otel_aiops.cli.terminal import (
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
    service,
    show,
    span,
)

incidents = typer.Typer(help="Incidents of a running service: look at them, decide about them.", no_args_is_help=True)
silences = typer.Typer(help="Silences: incidents that do not page for a time.", no_args_is_help=True)
maintenance = typer.Typer(help="Maintenance windows: work that is announced.", no_args_is_help=True)
incidents.add_typer(silences, name="silence")
incidents.add_typer(maintenance, name="maintenance")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The id of an incident, as `list` shows it.")]
NameArgument = Annotated[str, typer.Argument(help="Its name, as `list` shows it.")]
ServicesOption = Annotated[
    list[str] | None, typer.Option("--service", help="Only of this one, may have * and ?; again for more.")
]
ForOption = Annotated[str, typer.Option("--for", help="How long, as 90m or 2h.")]


@incidents.command("list")
def list_incidents(
    state: Annotated[str, typer.Option(help="One or more, as open,acknowledged; all without it.")] = "",
    severity: Annotated[str, typer.Option(help="info, warning, critical, or some of them.")] = "",
    of: Annotated[str, typer.Option("--service", help="Only those of a service that shows something.")] = "",
    suspect: Annotated[str, typer.Option(help="Only those whose likeliest cause is this service.")] = "",
    since: Annotated[str, typer.Option("--from", help="Started since: ISO 8601, or 2h ago as -2h.")] = "",
    until: Annotated[str, typer.Option(help="Started before.")] = "",
    predicted: Annotated[bool, typer.Option("--predicted", help="Predictions too.")] = False,
    limit: LimitOption = 20,
    offset: Annotated[int, typer.Option(help="How many to pass over.", min=0)] = 0,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List incidents, the latest first."""
    wanted = {"state": state, "severity": severity, "service": of, "suspect": suspect, "from": since, "until": until}
    wanted |= {"predicted": "true" if predicted else "", "limit": str(limit), "offset": str(offset)}
    found = ask(url, token, "incidents", {key: value for key, value in wanted.items() if value})
    if as_json:
        show(found)
        return
    print_texts(
        ("id", "state", "severity", "start", "lasted", "what", "likeliest cause"),
        [
            (one["id"], one["state"], one["severity"], moment(one["start"]), _lasted(one), one["title"], _cause(one))
            for one in found["incidents"]
        ],
    )
    say(f"{found['total']} incidents")


@incidents.command("show")
def show_incident(
    name: IdArgument, url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """Show an incident: what is wrong, since when, who is suspected and why, and incidents like it."""
    one = ask(url, token, f"incidents/{quote(name, safe='')}", {})
    if as_json:
        show(one)
        return
    say(f"{one['title']}\n{one['summary']}\n")
    say(f"{one['state']}, {one['severity']}, since {moment(one['start'])}, {_lasted(one)}")
    for key, words in (("services", "shown by"), ("blast_radius", "reaches")):
        say(f"{words}: {', '.join(one[key]) or 'nobody'}")
    if one["suppressed_by"]:
        say(f"suppressed by {one['suppressed_by']}")
    _print_suspects(one["suspects"])
    _print_findings(one["findings"])
    if one["similar_incidents"]:
        rows = [
            (like["id"], moment(like["start"]), like["title"], like["suspect"]) for like in one["similar_incidents"]
        ]
        print_texts(("similar incident", "start", "what", "cause then"), rows)
    for decision in one["decisions"]:
        why = f": {decision['why']}" if decision["why"] else ""
        say(f"{moment(decision['time'])} {decision['action']} by {decision['who']}{why}")


@incidents.command("timeline")
def show_timeline(
    name: IdArgument,
    limit: Annotated[int, typer.Option(help="How many of the last revisions.", min=1, max=1_000)] = 50,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how an incident became what it is, and how its suspects were ranked over time."""
    found = ask(url, token, f"incidents/{quote(name, safe='')}/timeline", {"limit": str(limit)})
    if as_json:
        show(found)
        return
    print_texts(
        ("time", "what", "details"), [(moment(line["time"]), line["kind"], line["text"]) for line in found["timeline"]]
    )
    print_texts(
        ("time", "revision", "state", "severity", "suspects"),
        [
            (moment(one["time"]), one["revision"], one["state"], one["severity"], _ranking(one["suspects"]))
            for one in found["revisions"]
        ],
    )


@incidents.command("export")
def export(
    name: IdArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write; default: stdout.")] = None,
    url: UrlOption = None,
    token: TokenOption = None,
) -> None:
    """Write an incident as a post-mortem in Markdown, with what people must add asked for."""
    with service(url, token) as api:
        text = api.text(f"/api/v1/incidents/{quote(name, safe='')}/report")
    if output:
        output.write_text(text, encoding="utf-8")
    else:
        say(text, nl=False)


@incidents.command("ack")
def acknowledge(
    name: IdArgument,
    who: WhoOption = "",
    why: WhyOption = "",
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Acknowledge an incident: somebody looks after it."""
    _mark(name, {"action": "acknowledge", "who": who, "why": why}, url, token, as_json)


@incidents.command("resolve")
def resolve(
    name: IdArgument,
    who: WhoOption = "",
    why: WhyOption = "",
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Resolve an incident; what comes back opens it again."""
    _mark(name, {"action": "resolve", "who": who, "why": why}, url, token, as_json)


@incidents.command("reopen")
def reopen(
    name: IdArgument,
    who: WhoOption = "",
    why: WhyOption = "",
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Open an incident again that was resolved too early."""
    _mark(name, {"action": "reopen", "who": who, "why": why}, url, token, as_json)


@incidents.command("verdict")
def judge(
    name: IdArgument,
    said: Annotated[str, typer.Argument(metavar="VERDICT", help="real, false, duplicate or expected.")],
    of: Annotated[str, typer.Option(help="Of a duplicate: the id of the incident that it is a part of.")] = "",
    who: WhoOption = "",
    why: WhyOption = "",
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what an incident was: thresholds, labels for training, and frozen cases follow."""
    asked = {"verdict": said, "of": of, "who": who, "why": why}
    found = post(url, token, f"incidents/{quote(name, safe='')}/verdict", asked)
    if as_json:
        show(found)
    else:
        say(f"{found['incident']}: {found['verdict']}, said of {found['series']} series")


@incidents.command("precursors")
def precursors(
    limit: LimitOption = 20, url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """Say which types of incidents are foreseen by what comes before them, how well, and which are not yet."""
    found = ask(url, token, "precursors", {"limit": str(limit)})
    if as_json:
        show(found)
        return
    rows = [(one["type"], one["incidents"], *_learned(one), _before(one)) for one in found["types"]]
    print_texts(("type", "incidents", "Brier", "base rate's", "lead", "what comes before"), rows)
    if found["problem"]:
        say(found["problem"])
    if not found["enabled"]:
        say("incidents.precursors.enabled is false")
    elif not found["types"]:
        learned = "no incidents yet" if found["trained_at"] else "nothing was learned yet"
        say(f"{learned}; {found['needed']} of a type are needed")


@silences.command("list")
def list_silences(url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False) -> None:
    """List the silences that hold or will."""
    _list_rules("silences", ("name", "from", "until", "active", "services", "who", "why"), url, token, as_json)


@silences.command("add")
def add_silence(
    lasts: ForOption,
    services: ServicesOption = None,
    channel: Annotated[list[str] | None, typer.Option(help="Only findings of this kind; again for more.")] = None,
    severity: Annotated[list[str] | None, typer.Option(help="Only so severe ones; again for more.")] = None,
    name: Annotated[str, typer.Option(help="A name; one of the same name is replaced.")] = "",
    who: WhoOption = "",
    why: WhyOption = "",
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Silence incidents for a time; they are still found and kept."""
    asked = {"for": lasts, "services": services or [], "channels": channel or [], "severities": severity or []}
    _add_rule("silences", {**asked, "name": name, "who": who, "why": why}, url, token, as_json)


@silences.command("incident")
def silence_incident(
    name: Annotated[str, typer.Argument(help="Id of an incident or prediction.")],
    lasts: ForOption,
    scope: Annotated[str, typer.Option(help="incident, or services: everything of its services.")] = "incident",
    who: WhoOption = "",
    why: WhyOption = "",
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Silence an incident for a time, in Alertmanager where one is configured, else here."""
    asked = {"for": lasts, "scope": scope, "who": who, "why": why}
    _add_rule(f"incidents/{quote(name, safe='')}/silence", asked, url, token, as_json)


@silences.command("end")
def end_silence(
    name: NameArgument, who: WhoOption = "", why: WhyOption = "", url: UrlOption = None, token: TokenOption = None
) -> None:
    """End a silence."""
    _end_rule("silences", name, {"who": who, "why": why}, url, token)


@maintenance.command("list")
def list_maintenance(url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False) -> None:
    """List the maintenance windows that hold or will, also those of the configuration."""
    columns = ("name", "start", "end", "every", "active", "services", "who", "why")
    _list_rules("maintenance", columns, url, token, as_json)


@maintenance.command("add")
def add_maintenance(
    lasts: ForOption,
    start: Annotated[str, typer.Option(help="ISO 8601; now without it.")] = "",
    every: Annotated[str, typer.Option(help="Again after so long, as 7d; once without it.")] = "",
    services: ServicesOption = None,
    name: Annotated[str, typer.Option(help="A name; one of the same name is replaced.")] = "",
    who: WhoOption = "",
    why: WhyOption = "",
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Announce work on services; their incidents do not page meanwhile."""
    asked = {"for": lasts, "start": start, "every": every, "services": services or []}
    _add_rule("maintenance", {**asked, "name": name, "who": who, "why": why}, url, token, as_json)


@maintenance.command("end")
def end_maintenance(
    name: NameArgument, who: WhoOption = "", why: WhyOption = "", url: UrlOption = None, token: TokenOption = None
) -> None:
    """End a maintenance window."""
    _end_rule("maintenance", name, {"who": who, "why": why}, url, token)


def predictions(
    limit: LimitOption = 20, url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """List what is predicted, the soonest first, and how often such predictions came true."""
    found = ask(url, token, "predictions", {"limit": str(limit)})
    if as_json:
        show(found)
        return
    rows = [_predicted(one) for one in found["standing"]]
    print_texts(("id", "what", "probability", "in", "between", "said at"), rows)
    say(f"{found['total_standing']} stand")
    for what, record in found["records"].items():
        median = f", median time before: {span(record['lead_s']['p50'])}" if record["lead_s"]["count"] else ""
        say(f"{what}: {record['hits']} came true, {record['misses']} did not{median}")
    rows = [
        (what, f"{one['predicted']:.2f}", f"{one['happened']:.2f}", one["count"])
        for what, record in found["records"].items()
        for one in record["reliability"]
        if one["count"]
    ]
    if rows:
        print_texts(("what", "predicted", "happened", "decided"), rows)


def advice(
    limit: LimitOption = 20, url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """Say which containers ask for too much or have too little, by a week or more of use, and what will run short."""
    found = ask(url, token, "advice", {"limit": str(limit)})
    if as_json:
        show(found)
        return
    for line in [*(one["text"] for one in found["advice"]), *found["foreseen"]]:
        say(line)
    say(f"{found['total']} pieces of advice from {found['series']} series")


def graph(url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False) -> None:
    """Show who calls whom, how often, and the share of calls that fail."""
    found = ask(url, token, "service-graph", {})
    if as_json:
        show(found)
        return
    rows = [
        (
            one["caller"],
            one["callee"],
            one["kind"],
            "" if one["calls_s"] is None else f"{one['calls_s']:.2f}",
            "" if one["error_ratio"] is None else f"{100 * one['error_ratio']:.1f} %",
        )
        for one in found["edges"]
    ]
    print_texts(("caller", "callee", "kind", "calls/s", "errors"), rows)
    say(f"{len(found['nodes'])} nodes, {len(found['edges'])} edges")


def _mark(name: str, asked: Mapping[str, str], url: str | None, token: str | None, as_json: bool) -> None:
    found = post(url, token, f"incidents/{quote(name, safe='')}", asked)
    if as_json:
        show(found)
    else:
        say(f"{found['id']} is {found['state']}: {found['title']}")


def _list_rules(kind: str, columns: tuple[str, ...], url: str | None, token: str | None, as_json: bool) -> None:
    found = ask(url, token, kind, {})
    if as_json:
        show(found)
    else:
        print_texts(columns, [tuple(_cell(key, one[key]) for key in columns) for one in found[kind]])


def _add_rule(kind: str, asked: Mapping[str, Any], url: str | None, token: str | None, as_json: bool) -> None:
    made = post(url, token, kind, asked)
    if as_json:
        show(made)
    else:
        say(f"{made['name']} holds until {moment(made.get('until') or made.get('end'))}")


def _end_rule(kind: str, name: str, asked: dict[str, str], url: str | None, token: str | None) -> None:
    with service(url, token) as api:
        api.delete(f"/api/v1/{kind}/{quote(name, safe='')}", {key: value for key, value in asked.items() if value})
    say(f"{name} is over")


def _cell(key: str, value: Any) -> str:
    if key in ("from", "until", "start", "end"):
        return moment(value) if value else ""
    if key == "every":
        return span(value) if value else ""
    if key == "services":
        return ", ".join(value) or "all"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _print_suspects(suspects: list[dict[str, Any]]) -> None:
    if not suspects:
        say("No candidate for the cause: no service has evidence enough.")
        return
    rows = [
        (str(rank), one["service"], _place(one), f"{one['confidence']:.0%}", one["reason"])
        for rank, one in enumerate(suspects, 1)
    ]
    print_texts(("", "suspect", "where", "probability", "why"), rows)


def _print_findings(findings: list[dict[str, Any]]) -> None:
    rows = [
        (one["service"], one["channel"], one["evidence"]["text"] or one["evidence"]["what"], moment(one["start"]))
        for one in findings
    ]
    print_texts(("service", "channel", "what was found", "since"), rows)


def _predicted(one: dict[str, Any]) -> tuple[str, ...]:
    said = one["prediction"]
    between = f"{span(said['earliest_s'])} to {span(said['latest_s'])}"
    return one["id"], one["title"], f"{said['probability']:.0%}", span(said["lead_s"]), between, moment(one["start"])


def _learned(one: dict[str, Any]) -> tuple[str, str, str]:
    if not one["model"]:
        return "", "", ""
    return f"{one['brier']:.3f}", f"{one['base_brier']:.3f}", span(one["lead_s"]["p50"])


def _before(one: dict[str, Any]) -> str:
    return ", ".join(sign["sign"] for sign in one["before"][:3]) if one["model"] else one["reason"]


def _place(suspect: dict[str, Any]) -> str:
    return next((suspect[key] for key in ("resource", "operation", "edge", "deployment") if suspect[key]), "")


def _ranking(suspects: list[dict[str, Any]]) -> str:
    return ", ".join(f"{one['service']} {one['confidence']:.0%}" for one in suspects[:3])


def _cause(one: dict[str, Any]) -> str:
    return _ranking(one["suspects"][:1])


def _lasted(one: dict[str, Any]) -> str:
    return span(one["end"] - one["start"]) if one["end"] else "lasts"
