"""Commands of feedback: the alerts worth asking about."""

from __future__ import annotations

from typing import Annotated

import typer

from otel_aiops.cli.terminal import JsonOption, TokenOption, UrlOption, ask, counted, moment, print_texts, say, show

feedback = typer.Typer(help="What a running service would like to be told.", no_args_is_help=True)


@feedback.command("queue")
def queue(
    limit: Annotated[int, typer.Option(help="How many to propose at most.", min=1, max=100)] = 5,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Propose the few alerts of which a verdict would teach most, and how to give it."""
    found = ask(url, token, "feedback/queue", {"limit": str(limit)})
    if as_json:
        show(found)
        return
    rows = [
        (f"{one['worth']:.2f}", one["series"], moment(one["since"]), "; ".join(one["reasons"]))
        for one in found["queue"]
    ]
    print_texts(("worth", "series", "since", "because"), rows)
    for one in found["queue"]:
        at = f"{one['since']:.0f}"
        say(f"otel-aiops verdict {one['fingerprint']} {at} VERDICT")
    if found["queue"]:
        say("VERDICT: real, false, expected, or duplicate with --of and the id of the other incident")
    say(f"{len(found['queue'])} of {counted(found['alerts'], 'alert')}")
