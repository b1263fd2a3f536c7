"""Who may send: tokens and passwords, in files that change, and what guessing costs."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from otel_aiops.errors import ConfigError, Unauthorized
from otel_aiops.server import auth
from otel_aiops.server.auth import AuthConfig, Authenticator, BasicConfig, BearerConfig, HtpasswdConfig

BCRYPT_LINE = "ada:" + bcrypt.hashpw(b"lovelace", bcrypt.gensalt(4)).decode()
SHA_LINE = "alan:{SHA}" + base64.b64encode(bytes.fromhex("a94a8fe5ccb19ba61c4c0873d391e987982fbbd3")).decode()  # test


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def bearer(**settings: Any) -> AuthConfig:
    return AuthConfig(bearertokenauth=BearerConfig(**settings))


def basic(**settings: Any) -> AuthConfig:
    return AuthConfig(basicauth=BasicConfig(**settings))


def htpasswd(*lines: str) -> AuthConfig:
    return basic(htpasswd=HtpasswdConfig(inline="\n".join(lines)))


def login(user: str | bytes, password: str | bytes) -> str:
    parts = [part.encode() if isinstance(part, str) else part for part in (user, password)]
    return "Basic " + base64.b64encode(b":".join(parts)).decode()


def good(authenticator: Authenticator, header: str | None) -> bool:
    try:
        authenticator.check(header)
    except Unauthorized:
        return False
    return True


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Bearer s3cret", True),
        ("bearer s3cret", True),  # the scheme has no case
        ("  Bearer   s3cret ", True),
        ("Bearer S3cret", False),
        ("Bearer s3cre", False),
        ("Bearer s3cret2", False),
        ("Bearer", False),
        ("Bearer ", False),
        ("s3cret", False),
        ("Basic s3cret", False),
        ("", False),
        (None, False),
        ("Bearer s3crét", False),
    ],
)
def test_one_token(header: str | None, expected: bool) -> None:
    assert good(Authenticator(bearer(token="s3cret")), header) is expected


def test_several_tokens_and_another_scheme() -> None:
    authenticator = Authenticator(bearer(scheme="Api-Key", tokens=("old", "new")))
    assert good(authenticator, "Api-Key old")
    assert good(authenticator, "api-key new")
    assert not good(authenticator, "Bearer new")
    assert authenticator.challenge == 'Api-Key realm="otel-aiops"'
    assert not authenticator.slow


@given(st.text(min_size=1).filter(str.strip), st.text())
def test_a_token_opens_only_as_it_is(token: str, shown: str) -> None:
    try:
        authenticator = Authenticator(bearer(token=token))
    except UnicodeEncodeError:
        return
    assert good(authenticator, f"Bearer {shown}") == (shown.strip() == token.strip())


def test_what_is_missing_is_told_and_what_is_right_is_not() -> None:
    authenticator = Authenticator(
        AuthConfig(bearertokenauth=BearerConfig(token="s3cret"), basicauth=BasicConfig(username="u", password="p4ss"))
    )
    told = []
    for header in (None, "Bearer wrong", login("u", "wrong"), "Digest x"):
        with pytest.raises(Unauthorized) as caught:
            authenticator.check(header)
        told.append(str(caught.value))
    assert "got none" in told[0]
    assert 'Bearer realm="otel-aiops", Basic realm="otel-aiops"' in told[0]
    assert told[1:3] == ["the Bearer credentials are wrong", "the Basic credentials are wrong"]
    assert "got another scheme" in told[3]
    assert not any(secret in message for message in told for secret in ("s3cret", "p4ss"))


def test_secrets_are_not_shown() -> None:
    shown = repr([bearer(token="s3cret"), bearer(tokens=("s3cret",)), basic(username="u", password="s3cret")])
    shown += repr(htpasswd("u:s3cret"))
    assert "s3cret" not in shown


def test_either_kind_opens() -> None:
    authenticator = Authenticator(
        AuthConfig(bearertokenauth=BearerConfig(token="t"), basicauth=BasicConfig(username="u", password="p"))
    )
    assert good(authenticator, "Bearer t")
    assert good(authenticator, login("u", "p"))
    assert authenticator.slow


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (login("otel", "pass:word"), True),
        (login("otel", "pass"), False),
        (login("otel", ""), False),
        (login("Otel", "pass:word"), False),
        ("Basic " + base64.b64encode(b"otel").decode(), False),
        ("Basic ***", False),
        ("Basic é", False),
        ("Basic " + login("otel", "pass:word")[6:].replace("=", ""), False),
    ],
)
def test_one_user(header: str, expected: bool) -> None:
    assert good(Authenticator(basic(username="otel", password="pass:word")), header) is expected


def test_htpasswd() -> None:
    authenticator = Authenticator(htpasswd("# people", "", f"  {BCRYPT_LINE}", SHA_LINE))
    assert good(authenticator, login("ada", "lovelace"))
    assert good(authenticator, login("alan", "test"))
    for user, password in (("ada", "test"), ("alan", "lovelace"), ("grace", "lovelace"), ("", "")):
        assert not good(authenticator, login(user, password)), user
    assert not good(Authenticator(htpasswd(SHA_LINE)), login("ada", "lovelace"))


def test_passwords_of_any_bytes_and_lengths() -> None:
    secrets = {"nul": b"a\0b", "bytes": bytes(range(128, 200)), "long": b"x" * 72}
    lines = [f"{user}:{bcrypt.hashpw(secret, bcrypt.gensalt(4)).decode()}" for user, secret in secrets.items()]
    authenticator = Authenticator(htpasswd(*lines))
    for user, secret in secrets.items():
        assert good(authenticator, login(user, secret)), user
        assert not good(authenticator, login(user, secret[:-1])), user
    assert good(authenticator, login("long", b"x" * 100)), "bcrypt never saw more than 72 bytes"


@pytest.mark.parametrize("variant", ["2a", "2b", "2y"])
def test_every_bcrypt(variant: str) -> None:
    line = BCRYPT_LINE.replace("$2b$", f"${variant}$")
    assert good(Authenticator(htpasswd(line)), login("ada", "lovelace"))


def test_the_inline_lines_win_over_the_file_and_the_user_over_both(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(f"{SHA_LINE}\n{BCRYPT_LINE}\n")
    ada = "ada:" + bcrypt.hashpw(b"inline", bcrypt.gensalt(4)).decode()
    settings = HtpasswdConfig(file=str(file), inline=ada)
    authenticator = Authenticator(basic(htpasswd=settings, username="alan", password="plain"))
    assert good(authenticator, login("ada", "inline"))
    assert not good(authenticator, login("ada", "lovelace"))
    assert good(authenticator, login("alan", "plain"))
    assert not good(authenticator, login("alan", "test"))


@pytest.mark.parametrize(
    "line",
    [
        "ada",
        ":hash",
        "ada:plain",
        "ada:$apr1$salt$hash",
        BCRYPT_LINE.replace("$04$", "$03$"),
        BCRYPT_LINE.replace("$04$", "$32$"),
        BCRYPT_LINE[:-1],
        BCRYPT_LINE + "x",
        "ada:$2b$04$" + "C" * 53,  # looks like a hash, but no salt ends so
    ],
    ids=["name", "nobody", "plain", "apr1", "few rounds", "many rounds", "short", "long", "salt"],
)
def test_lines_that_are_no_users_are_refused_by_number(line: str) -> None:
    with pytest.raises(ConfigError, match=r"auth.basicauth.htpasswd.inline: line 2: expected user:hash") as caught:
        Authenticator(htpasswd(SHA_LINE, line))
    assert "CCCC" not in str(caught.value) and "plain" not in str(caught.value)


@given(st.text("./ABCXYZabcxyz0189", min_size=53, max_size=53))
def test_no_line_that_is_taken_fails_later(random: str) -> None:
    try:
        authenticator = Authenticator(htpasswd(f"ada:$2b$04${random}"))
    except ConfigError:
        return
    assert not good(authenticator, login("ada", "x"))


def test_guessing_takes_as_long_for_users_that_do_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    real = bcrypt.checkpw

    def check(password: bytes, hashed: bytes) -> bool:
        asked.append(password)
        return real(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", check)
    authenticator = Authenticator(htpasswd(BCRYPT_LINE))
    assert not good(authenticator, login("ada", "wrong 1"))
    assert not good(authenticator, login("eve", "wrong 2"))
    assert not good(authenticator, login("eve", "lovelace")), "the password of somebody else"
    assert asked == [b"wrong 1", b"wrong 2", b"lovelace"]


def test_bcrypt_is_asked_once_and_guessing_makes_nobody_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def check(password: bytes, hashed: bytes) -> bool:
        asked.append(password)
        return password == b"lovelace"

    monkeypatch.setattr(bcrypt, "checkpw", check)
    monkeypatch.setattr(auth, "REMEMBERED", 3)
    authenticator = Authenticator(htpasswd(BCRYPT_LINE))
    for number in range(5):
        assert good(authenticator, login("ada", "lovelace"))
        assert not good(authenticator, login("ada", f"guess {number}"))
        assert not good(authenticator, login("ada", "always wrong"))
    assert asked.count(b"lovelace") == 1
    assert asked.count(b"always wrong") == 1, "the ones used last are kept"
    assert not good(authenticator, login("ada", "guess 0"))
    assert asked.count(b"guess 0") == 2, "memory is bounded"


def test_a_new_hash_forgets_the_old_answer(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "users"
    file.write_text(BCRYPT_LINE)
    authenticator = Authenticator(basic(htpasswd=HtpasswdConfig(file=str(file))), clock=clock)
    assert good(authenticator, login("ada", "lovelace"))
    file.write_text("ada:" + bcrypt.hashpw(b"byron", bcrypt.gensalt(4)).decode() + "\n")
    assert good(authenticator, login("ada", "lovelace")), "files are looked at once a second"
    clock.now_s = 1.0
    assert not good(authenticator, login("ada", "lovelace"))
    assert good(authenticator, login("ada", "byron"))


def test_tokens_are_read_again_when_they_change(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "tokens"
    file.write_text("one\n\n two \n")
    authenticator = Authenticator(bearer(filename=str(file)), clock=clock)
    assert [good(authenticator, f"Bearer {token}") for token in ("one", "two", "three")] == [True, True, False]
    file.write_text("two\nthree")
    clock.now_s += 1
    assert [good(authenticator, f"Bearer {token}") for token in ("one", "two", "three")] == [False, True, True]


@pytest.mark.parametrize("kind", ["tokens", "users"])
@pytest.mark.parametrize("spoiled", ["", "gone"], ids=["empty", "gone"])
def test_files_that_become_unusable_change_nothing(tmp_path: Path, kind: str, spoiled: str) -> None:
    clock, file = Clock(), tmp_path / kind
    file.write_text("s3cret" if kind == "tokens" else SHA_LINE)
    by_kind = {"tokens": bearer(filename=str(file)), "users": basic(htpasswd=HtpasswdConfig(file=str(file)))}
    header = "Bearer s3cret" if kind == "tokens" else login("alan", "test")
    authenticator = Authenticator(by_kind[kind], clock=clock)
    file.unlink() if spoiled == "gone" else file.write_text("" if kind == "tokens" else "no colon")
    clock.now_s += 1
    with capture_logs() as logs:
        assert good(authenticator, header)
    assert [(line["log_level"], line["event"]) for line in logs] == [
        ("warning", f"{kind} changed but cannot be used, the old ones stay")
    ]
    file.write_text("another" if kind == "tokens" else BCRYPT_LINE)
    clock.now_s += 1
    assert not good(authenticator, header), "and when they are usable again, they count"


def test_a_file_that_stays_spoiled_is_tried_again_without_a_change(tmp_path: Path) -> None:
    """It may have been read while it was being written."""
    clock, file = Clock(), tmp_path / "tokens"
    file.write_text("old")
    authenticator = Authenticator(bearer(filename=str(file)), clock=clock)
    file.write_text(" ")
    with capture_logs() as logs:
        for _ in range(2):
            clock.now_s += 1
            assert good(authenticator, "Bearer old")
    assert len(logs) == 2


@pytest.mark.parametrize(
    ("config", "path"),
    [
        (bearer(filename="/nowhere/tokens"), "a.b.bearertokenauth.filename"),
        (basic(htpasswd=HtpasswdConfig(file="/nowhere/users")), "a.b.basicauth.htpasswd.file"),
    ],
)
def test_files_must_be_there_at_the_start(config: AuthConfig, path: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot read /nowhere/.*: No such file or directory") as caught:
        Authenticator(config, path="a.b")
    assert caught.value.path == path


def test_a_file_of_tokens_must_hold_one(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("\n")
    with pytest.raises(ConfigError, match="holds no token"):
        Authenticator(bearer(filename=str(file)))


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: BearerConfig(scheme="two words", token="t"), "scheme"),
        (lambda: BearerConfig(), "token"),
        (lambda: BearerConfig(token="a", filename="b"), "token"),
        (lambda: BearerConfig(tokens=("a", " ")), "tokens"),
        (lambda: HtpasswdConfig(), "file"),
        (lambda: BasicConfig(), "htpasswd"),
        (lambda: BasicConfig(username="u"), "username"),
        (lambda: BasicConfig(password="p"), "username"),
        (lambda: BasicConfig(username="a:b", password="p"), "username"),
        (lambda: AuthConfig(), "bearertokenauth"),
    ],
)
def test_settings_are_checked(make: Any, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.path == path


def test_many_threads_may_ask_while_files_change(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(f"{BCRYPT_LINE}\n{SHA_LINE}")

    def ticks() -> Iterator[float]:
        now_s = 0.0
        while True:
            now_s += 1.0
            yield now_s

    clock = ticks()
    authenticator = Authenticator(basic(htpasswd=HtpasswdConfig(file=str(file))), clock=lambda: next(clock))

    def ask(number: int) -> bool:
        if number % 10 == 0:
            fresh = file.with_suffix(f".{number}")
            fresh.write_text(f"# {time.monotonic_ns()}\n{BCRYPT_LINE}\n{SHA_LINE}")
            fresh.rename(file)
        right = good(authenticator, login("ada", "lovelace")) and good(authenticator, login("alan", "test"))
        return right and not good(authenticator, login("ada", f"wrong {number % 7}"))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(200)))
