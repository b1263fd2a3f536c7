"""The commands about tokens, on a data directory and over the API."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from otel_aiops.audit.entries import trail
from otel_aiops.cli import app
from otel_aiops.server.access import AccessConfig, Role
from otel_aiops.server.access.tokens import Tokens
from tests.server.test_access import Door, open_door


def run(*arguments: str, code: int = 0) -> str:
    """What a command prints on standard output."""
    done = CliRunner().invoke(app, ["token", *arguments], env={"USER": "root", "COLUMNS": "200"})
    assert done.exit_code == code, done.output
    return done.stdout.strip()


def test_life_of_one_in_a_data_directory(tmp_path: Path) -> None:
    where = ("--data-dir", str(tmp_path))
    text = run("create", "ana@example.com", "--role", "approver", "--path", "/api", *where)
    token, _ = Tokens(tmp_path).find(text)
    assert token and (token.name, token.role, token.paths) == ("ana@example.com", Role.APPROVER, ("/api",))
    days = (token.expires_ns - token.events[0].time_ns) / 86_400e9
    assert days == pytest.approx(90)
    new = run("rotate", "ana@example.com", "--overlap", "1h", *where)
    assert Tokens(tmp_path).find(text)[0] and Tokens(tmp_path).find(new)[0]
    (shown,) = json.loads(run("list", "--json", *where))["tokens"]
    assert shown["state"] == "active" and shown["role"] == "approver" and new not in str(shown)
    assert token.id in run("list", *where)
    assert run("revoke", token.id, *where) == f"{token.id} of ana@example.com is revoked"
    assert Tokens(tmp_path).find(new)[0] is None
    entries = trail(tmp_path, None, kinds=("access",)).entries
    assert [one.what.split(":")[0] for one in entries] == [
        f"token {token.id} {w}" for w in ("revoked", "rotated", "made")
    ]
    assert {one.who for one in entries} == {"root"}


def test_over_the_api(tmp_path: Path) -> None:
    with open_door(tmp_path / "data", AccessConfig()) as door:
        file = tmp_path / "token"
        file.write_text(door.tokens[Role.ADMIN] + "\n")
        where = ("--url", door.base, "--token", f"@{file}")
        text = run("create", "ci", "--role", "viewer", "--expires", "never", *where)
        assert door.ask("GET", "/api/v1/me", text).json()["name"] == "ci"
        new = run("rotate", "ci", "--overlap", "0", *where)
        assert _status(door, text) == 401 and _status(door, new) == 200
        (one,) = (one for one in json.loads(run("list", "--json", *where))["tokens"] if one["name"] == "ci")
        assert one["expires"] is None and one["events"][0]["who"] == "admin-1"
        run("revoke", one["id"], *where)
        assert _status(door, new) == 401


def _status(door: Door, text: str) -> int:
    return door.status("GET", "/api/v1/me", text)
