"""Tokens: what opens, for how long, and that nothing of a secret is kept."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import pytest

from otel_aiops.errors import BadInput, StateError
from otel_aiops.server.access.roles import Role
from otel_aiops.server.access.tokens import MOST, TokenFile, Tokens

S = 1_000_000_000


class Clock:
    """Time that passes when told: monotonic seconds, and nanoseconds of the wall."""

    def __init__(self) -> None:
        self.s = 1_000.0

    def __call__(self) -> float:
        return self.s

    def ns(self) -> int:
        return 1_760_000_000 * S + round(self.s * S)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path, clock: Clock) -> TokenFile:
    return TokenFile(tmp_path, clock_ns=clock.ns)


@pytest.fixture
def tokens(tmp_path: Path, clock: Clock) -> Tokens:
    return Tokens(tmp_path, clock=clock, clock_ns=clock.ns)


def made(file: TokenFile, name: str = "ana", role: Role = Role.OPERATOR, lasts_s: float = 0.0) -> tuple[str, str]:
    token, text = file.create(name=name, role=role, who="root", lasts_s=lasts_s)
    return token.id, text


def why(tokens: Tokens, text: str) -> str:
    token, reason = tokens.find(text)
    return token.name if token else reason


def test_one_that_was_made_opens_within_a_second_and_what_opens_is_nowhere(
    file: TokenFile, tokens: Tokens, clock: Clock, tmp_path: Path
) -> None:
    identifier, text = made(file)
    clock.s += 1.1
    assert why(tokens, text) == "ana"
    secret = text.rsplit("_", 1)[1]
    assert len(text) >= 43 + len("oat_12345678_")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
            assert secret not in path.read_text()
        else:
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    assert secret not in repr(file.read()[identifier])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1],
        lambda text: text + "A",
        lambda text: text.swapcase(),
        lambda text: text.replace("oat_", ""),
        lambda text: text[:13],
        lambda text: "oat_" + text[4:],  # another one below
        lambda text: "",
        lambda text: "oat_ü_ü",
    ],
    ids=["shorter", "longer", "case", "prefix", "id", "whole", "empty", "letters"],
)
def test_only_the_whole_text_opens(file: TokenFile, tokens: Tokens, clock: Clock, change: object) -> None:
    _, text = made(file)
    clock.s += 2
    shown = change(text)  # type: ignore[operator]
    assert why(tokens, shown) == ("ana" if shown == text else "unknown")


def test_the_secret_of_one_does_not_open_another(file: TokenFile, tokens: Tokens, clock: Clock) -> None:
    (first, one), (_, other) = made(file), made(file, "ben")
    clock.s += 2
    assert why(tokens, f"oat_{first}_{other.split('_', 2)[2]}") == "unknown" and why(tokens, one) == "ana"


def test_it_expires(file: TokenFile, tokens: Tokens, clock: Clock) -> None:
    identifier, text = made(file, lasts_s=60)
    clock.s += 59
    assert why(tokens, text) == "ana" and tokens.holds(identifier)
    clock.s += 2
    assert why(tokens, text) == "expired" and tokens.holds(identifier) is None


def test_rotation_lets_both_open_for_a_while(file: TokenFile, tokens: Tokens, clock: Clock) -> None:
    identifier, old = made(file)
    token, new = file.rotate(identifier, who="root", overlap_s=600)
    clock.s += 2
    assert token.id == identifier and why(tokens, old) == why(tokens, new) == "ana"
    _, newer = file.rotate("ana", who="root", overlap_s=3600)
    clock.s += 600
    assert why(tokens, old) == "unknown", "a later rotation does not make the oldest last longer"
    assert why(tokens, new) == why(tokens, newer) == "ana"
    _, newest = file.rotate("ana", who="root", overlap_s=0)
    clock.s += 2
    assert [why(tokens, one) for one in (old, new, newer, newest)] == ["unknown", "unknown", "unknown", "ana"]


def test_a_revoked_one_opens_no_more_and_stays_listed(file: TokenFile, tokens: Tokens, clock: Clock) -> None:
    identifier, text = made(file)
    file.revoke("ana", who="root")
    clock.s += 2
    assert why(tokens, text) == "revoked" and tokens.holds(identifier) is None
    (shown,) = tokens.shown()
    assert shown["state"] == "revoked" and [one["what"] for one in shown["events"]] == ["made", "revoked"]
    with pytest.raises(BadInput, match="expected a token that holds"):
        file.rotate(identifier, who="root", overlap_s=0)
    clock.s += 366 * 86_400
    made(file, "ben")
    assert identifier not in file.read(), "after a year it is forgotten"


def test_the_last_use_is_known_after_a_restart(file: TokenFile, tokens: Tokens, clock: Clock, tmp_path: Path) -> None:
    identifier, text = made(file)
    assert tokens.shown()[0]["last_used"] is None
    clock.s += 5
    tokens.find(text)
    tokens.flush()
    again = Tokens(tmp_path, clock=clock, clock_ns=clock.ns)
    assert again.shown()[0]["last_used"] == clock.ns() / S
    assert list(json.loads(file.uses_path.read_text())) == [identifier]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"tokens": [{"id": 1}]}', '{"tokens": 1}'])
def test_a_file_that_cannot_be_read(
    file: TokenFile, tokens: Tokens, clock: Clock, content: str, tmp_path: Path
) -> None:
    _, text = made(file)
    clock.s += 2
    assert why(tokens, text) == "ana"
    file.path.write_text(content)
    clock.s += 2
    assert why(tokens, text) == "ana", "what was known stays"
    with pytest.raises(StateError, match=r"tokens\.json"):
        Tokens(tmp_path)
    with pytest.raises(StateError):
        made(file)
    assert file.path.read_text() == content, "nothing is written over what is not understood"


def test_many_at_a_time_lose_nothing(tmp_path: Path) -> None:
    def work(name: str) -> None:
        for _ in range(5):
            made(TokenFile(tmp_path), name)

    threads = [threading.Thread(target=work, args=(f"n{k}",)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(TokenFile(tmp_path).read()) == 30


@pytest.mark.parametrize("name", ["", "  ", "a" * 101, "a\x00b", "a\x1b[31m"])
def test_names_that_are_none(file: TokenFile, name: str) -> None:
    with pytest.raises(BadInput, match="name: expected 1 to 100 printable characters"):
        made(file, name)


@pytest.mark.parametrize("path", ["metrics", "", "/a\nb", "/" + "a" * 200, "/ü"])
def test_paths_that_are_none(file: TokenFile, path: str) -> None:
    with pytest.raises(BadInput, match="paths: expected paths such as /metrics"):
        file.create(name="scraper", role=Role.VIEWER, who="root", paths=(path,))


def test_a_name_that_several_have_is_not_enough(file: TokenFile) -> None:
    first, _ = made(file)
    made(file)
    with pytest.raises(BadInput, match="'ana', which 2 tokens have"):
        file.revoke("ana", who="root")
    assert file.revoke(first, who="root").id == first
    file.revoke("ana", who="root")
    with pytest.raises(BadInput, match="'ana', which no tokens have"):
        file.revoke("ana", who="root")
    assert MOST >= 100
