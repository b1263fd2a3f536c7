"""Commands about tokens: who may ask a service over its API and on its page, and as which role."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from otel_aiops.cli.terminal import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    TokenOption,
    ask,
    load_config,
    moment,
    post,
    print_texts,
    say,
    service,
    show,
)

if TYPE_CHECKING:
    from otel_aiops.server.access.tokens import Token, TokenFile

token = typer.Typer(
    help="Tokens: who may ask a service over its API and on its page, as viewer, operator, approver or admin.",
    no_args_is_help=True,
)


class RoleName(StrEnum):
    """As `otel_aiops.server.access.roles` has them, which is slow to import."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"


TokenUrl = Annotated[str | None, typer.Option("--url", help="A running otel-aiops; without it, the data directory.")]
NameArgument = Annotated[str, typer.Argument(metavar="TOKEN", help="The id of a token, or a name only one has.")]
MakerOption = Annotated[str, typer.Option("--who", help="Who does it; over --url, whoever signed in.", envvar="USER")]


@token.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Who decides when it is shown: a person, or a program.")],
    role: Annotated[RoleName, typer.Option(help="What it may do; each may do what those before it may.")],
    paths: Annotated[
        list[str] | None, typer.Option("--path", help="All that it opens, as /metrics; may be repeated.")
    ] = None,
    expires: Annotated[str, typer.Option(help="For how long it opens, as 90d; never: without end.")] = "90d",
    who: MakerOption = "",
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    url: TokenUrl = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and print it, this once: only its hash is kept. A service of the data directory takes it at once."""
    from otel_aiops.config import duration

    lasts_s = 0.0 if expires == "never" else duration(expires)
    if url:
        asked = {"name": name, "role": role.value, "paths": list(paths or ())} | (
            {"lasts_s": lasts_s} if lasts_s else {}
        )
        made = post(url, token, "tokens", asked)
    else:
        from otel_aiops.server.access.roles import Role

        made = _made(
            lambda file: file.create(name=name, role=Role(role), who=who, paths=paths or (), lasts_s=lasts_s),
            config,
            data_dir,
        )
    _print(made, as_json)


@token.command("list")
def list_tokens(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    url: TokenUrl = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List tokens with role, paths, expiry and last use."""
    found = ask(url, token, "tokens", {})["tokens"] if url else _listed(config, data_dir)
    if as_json:
        show({"tokens": found})
        return
    rows = [
        (
            one["id"],
            one["name"],
            one["role"],
            one["state"],
            moment(one["expires"]) if one["expires"] else "never",
            moment(one["last_used"]) if one["last_used"] else "never",
            ", ".join(one["paths"]) or "everything",
        )
        for one in found
    ]
    print_texts(("id", "name", "role", "state", "expires", "last used", "opens"), rows)


@token.command("rotate")
def rotate(
    name: NameArgument,
    overlap: Annotated[str, typer.Option(help="For how long the old secret opens too, as 1h; 0 is not.")] = "1h",
    who: MakerOption = "",
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    url: TokenUrl = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a token a new secret and print it; who still shows the old one has time to change it."""
    from otel_aiops.config import duration

    overlap_s = duration(overlap)
    if url:
        made = post(url, token, f"tokens/{quote(name, safe='')}/rotate", {"overlap_s": overlap_s})
    else:
        made = _made(lambda file: file.rotate(name, who=who, overlap_s=overlap_s), config, data_dir)
    _print(made, as_json)


@token.command("revoke")
def revoke(
    name: NameArgument,
    who: MakerOption = "",
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    url: TokenUrl = None,
    token: TokenOption = None,
) -> None:
    """Revoke a token: within a second it opens no more, and who signed in with it is signed out."""
    if url:
        with service(url, token) as api:
            done = api.delete(f"/api/v1/tokens/{quote(name, safe='')}", {})
        say(f"{done['id']} of {done['name']} is revoked")
    else:
        gone = _file(config, data_dir).revoke(name, who=who)
        say(f"{gone.id} of {gone.name} is revoked")


def _made(make: Callable[[TokenFile], tuple[Token, str]], config: Path | None, data_dir: Path | None) -> dict[str, Any]:
    import time

    made, text = make(_file(config, data_dir))
    return {**made.shown(time.time_ns(), 0), "token": text}


def _listed(config: Path | None, data_dir: Path | None) -> list[dict[str, Any]]:
    import time

    from otel_aiops.server.access.tokens import listing

    file = _file(config, data_dir)
    return listing(file.read(), file.uses(), time.time_ns())


def _file(config: Path | None, data_dir: Path | None) -> TokenFile:
    """That of the data directory, as `serve` finds it."""
    from otel_aiops.server.access.tokens import TokenFile

    return TokenFile(data_dir or Path(load_config(config).storage.directory))


def _print(made: dict[str, Any], as_json: bool) -> None:
    """The secret alone on standard output, so that it can be written where it is needed."""
    if as_json:
        show(made)
        return
    until = f"until {moment(made['expires'])}" if made["expires"] else "without end"
    opens = ", ".join(made["paths"]) or "everything"
    say(f"{made['id']}: {made['role']} {made['name']}, {until}, for {opens}; this is shown once:", err=True)
    say(made["token"])
