"""Authentication: is a request's Authorization header one of those that the operator gave out?"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import bcrypt
import structlog

from otel_aiops.errors import ConfigError, Unauthorized
from otel_aiops.server.files import FileWatch

LOOK_S: Final = 1.0  # how often files of tokens and passwords are looked at
REMEMBERED: Final = 1024  # answers of bcrypt that are kept, right and wrong ones apart
BCRYPT_USES_BYTES: Final = 72  # of a password; the rest never mattered
# The salt ends in two bits; bcrypt refuses other ends only when it is asked about a password.
BCRYPT: Final = re.compile(rb"\$2[aby]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
SHA1: Final = b"{SHA}"
TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BearerConfig:
    """Tokens that senders may show."""

    scheme: str = "Bearer"  # the word before the token in the Authorization header
    token: str = field(default="", repr=False)  # one token
    tokens: tuple[str, ...] = field(default=(), repr=False)  # several tokens, each as good as another
    filename: str = ""  # a file with a token on every line, read again when it changes

    def __post_init__(self) -> None:
        if not TOKEN.fullmatch(self.scheme):
            raise ConfigError("scheme", f"must be one word, got {self.scheme!r}")
        if sum(map(bool, (self.token, self.tokens, self.filename))) != 1:
            raise ConfigError("token", "give one of token, tokens and filename")
        if not all(token.strip() for token in self.tokens):
            raise ConfigError("tokens", "must not hold an empty token")


@dataclass(frozen=True, slots=True)
class HtpasswdConfig:
    """Users with hashed passwords, as the program htpasswd writes them: bcrypt (-B) or {SHA} (-s)."""

    file: str = ""  # a file of such lines, read again when it changes
    inline: str = field(default="", repr=False)  # the lines themselves; they win over the file

    def __post_init__(self) -> None:
        if not (self.file or self.inline):
            raise ConfigError("file", "give file, inline or both")


@dataclass(frozen=True, slots=True)
class BasicConfig:
    """Users and passwords that senders may show."""

    htpasswd: HtpasswdConfig | None = None
    username: str = ""  # one user, with its password in the clear
    password: str = field(default="", repr=False)  # the password of `username`

    def __post_init__(self) -> None:
        if bool(self.username) != bool(self.password):
            raise ConfigError("username", "username and password need each other")
        if ":" in self.username:
            raise ConfigError("username", f"must not hold a colon, got {self.username!r}")
        if not (self.htpasswd or self.username):
            raise ConfigError("htpasswd", "give htpasswd or username and password")


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """Who may send; with both kinds given, either opens the door."""

    bearertokenauth: BearerConfig | None = None
    basicauth: BasicConfig | None = None

    def __post_init__(self) -> None:
        if not (self.bearertokenauth or self.basicauth):
            raise ConfigError("bearertokenauth", "give bearertokenauth, basicauth or both")


class Authenticator:
    """Checks Authorization headers; any thread may ask.

    Raises: ConfigError under the key path `path` when its files cannot be used at the start. Files that become
    unusable later leave the old tokens and users in place and are logged.
    """

    def __init__(self, config: AuthConfig, *, path: str = "auth", clock: Callable[[], float] = time.monotonic) -> None:
        bearer, basic = config.bearertokenauth, config.basicauth
        self._bearer = _Bearer(bearer, f"{path}.bearertokenauth", clock) if bearer else None
        self._basic = _Basic(basic, f"{path}.basicauth", clock) if basic else None

    @property
    def challenge(self) -> str:
        """The value of WWW-Authenticate."""
        schemes = [kind.scheme for kind in (self._bearer, self._basic) if kind]
        return ", ".join(f'{scheme} realm="otel-aiops"' for scheme in schemes)

    @property
    def slow(self) -> bool:
        """Whether a check may take long, as bcrypt is made to: then keep it off an event loop."""
        return self._basic is not None

    def check(self, authorization: str | None) -> None:
        """Return when the header is good. Raises Unauthorized."""
        if not authorization:
            raise Unauthorized(f"expected an Authorization header ({self.challenge}), got none")
        scheme, _, credentials = authorization.strip().partition(" ")
        for kind in (self._bearer, self._basic):
            if kind and scheme.lower() == kind.scheme.lower():
                if kind.accepts(credentials.strip()):
                    return
                raise Unauthorized(f"the {kind.scheme} credentials are wrong")
        raise Unauthorized(f"expected an Authorization header with {self.challenge}, got another scheme")


class _Bearer:
    def __init__(self, config: BearerConfig, path: str, clock: Callable[[], float]) -> None:
        self.scheme = config.scheme
        self._file = config.filename
        self._path = path
        self._watch = FileWatch([config.filename], interval_s=LOOK_S, clock=clock)
        self._digests = self._read() if config.filename else _digests((config.token, *config.tokens))

    def accepts(self, token: str) -> bool:
        if self._watch.changed():
            try:
                self._digests = self._read()
            except ConfigError as error:
                self._watch.again()
                _log.warning("tokens changed but cannot be used, the old ones stay", error=str(error))
        digest = hashlib.sha256(token.encode()).digest()
        found = False
        for known in self._digests:  # all of them, so that the time taken tells nothing
            found |= hmac.compare_digest(digest, known)
        return found

    def _read(self) -> tuple[bytes, ...]:
        tokens = _read(f"{self._path}.filename", self._file).decode("utf-8", "replace").split()
        if not tokens:
            raise ConfigError(f"{self._path}.filename", f"{self._file} holds no token")
        return _digests(tuple(tokens))


def _digests(tokens: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(hashlib.sha256(token.strip().encode()).digest() for token in tokens if token.strip())


class _Basic:
    scheme = "Basic"

    def __init__(self, config: BasicConfig, path: str, clock: Callable[[], float]) -> None:
        self._config = config
        self._path = path
        self._watch = FileWatch([config.htpasswd.file if config.htpasswd else ""], interval_s=LOOK_S, clock=clock)
        self._users = self._read()
        self._answers = _Answers()

    def accepts(self, credentials: str) -> bool:
        if self._watch.changed():
            try:
                self._users = self._read()
            except ConfigError as error:
                self._watch.again()
                _log.warning("users changed but cannot be used, the old ones stay", error=str(error))
        try:
            user, colon, password = base64.b64decode(credentials, validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return False
        return bool(colon) and self._right(user, password)

    def _right(self, user: bytes, password: bytes) -> bool:
        config = self._config
        if config.username and hmac.compare_digest(user, config.username.encode()):
            return hmac.compare_digest(password, config.password.encode())
        known = self._users.get(user)
        if known is not None and known.startswith(SHA1):
            return hmac.compare_digest(base64.b64encode(hashlib.sha1(password).digest()), known[len(SHA1) :])
        other = next((hashed for hashed in self._users.values() if not hashed.startswith(SHA1)), None)
        if other is None:
            return False
        # An unknown user costs as much time as a known one.
        return self._answers.bcrypt(password, known or other) and known is not None

    def _read(self) -> Mapping[bytes, bytes]:
        htpasswd = self._config.htpasswd
        if htpasswd is None:
            return {}
        users: dict[bytes, bytes] = {}
        if htpasswd.file:
            key = f"{self._path}.htpasswd.file"
            users |= _parse(_read(key, htpasswd.file), key)
        return users | _parse(htpasswd.inline.encode(), f"{self._path}.htpasswd.inline")


class _Answers:
    """What bcrypt said before: right answers and wrong ones apart, so that guessing evicts nobody who knows."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._kept: dict[bool, OrderedDict[bytes, None]] = {True: OrderedDict(), False: OrderedDict()}

    def bcrypt(self, password: bytes, hashed: bytes) -> bool:
        name = hmac.digest(self._key, hashed + b"\0" + password, "sha256")
        with self._lock:
            for answer, kept in self._kept.items():
                if name in kept:
                    kept.move_to_end(name)
                    return answer
        answer = bcrypt.checkpw(password[:BCRYPT_USES_BYTES], hashed)
        with self._lock:
            kept = self._kept[answer]
            kept[name] = None
            if len(kept) > REMEMBERED:
                kept.popitem(last=False)
        return answer


def user_of(authorization: str | None) -> str:
    """Who shows a header of basic authentication; "" of others, whose tokens name nobody.

    >>> user_of("Basic YW5hOnNlY3JldA=="), user_of("Bearer abc")
    ('ana', '')
    """
    scheme, _, credentials = (authorization or "").strip().partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[0].decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return ""


def _parse(lines: bytes, key: str) -> dict[bytes, bytes]:
    users = {}
    for number, line in enumerate(lines.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(b"#"):
            continue
        user, colon, hashed = line.partition(b":")
        if not (user and colon and (hashed.startswith(SHA1) or BCRYPT.fullmatch(hashed))):
            message = f"line {number}: expected user:hash with a bcrypt ($2y$) or {{SHA}} hash"
            raise ConfigError(key, message)
        users[user] = hashed
    return users


def _read(key: str, file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(key, f"cannot read {file}: {error.strerror}") from error
