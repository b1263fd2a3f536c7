"""Tokens: made and shown once, kept as hashes in a file of the data directory that commands and the service share."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import structlog

from otel_aiops.errors import BadInput, StateError
from otel_aiops.series.disk import FILE_MODE, make_directory, storage_errors, whole_file
from otel_aiops.server.access.roles import Identity, Role
from otel_aiops.server.files import FileWatch

FOLDER, FILE, USES = "access", "tokens.json", "token-uses.json"
PREFIX: Final = "oat_"  # so that scanners of secrets know one when they see it
SECRET_BYTES: Final = 32
MOST_S: Final = 10 * 366 * 86_400.0  # that one may open for
MOST: Final = 1_000  # tokens that are not revoked
LONGEST_NAME: Final = 100
LONGEST_PATH: Final = 200
KEPT_NS: Final = 365 * 86_400_000_000_000  # how long one that is revoked or expired stays listed
LOOK_S: Final = 1.0  # how soon the service sees what a command wrote
USES_S: Final = 60.0  # how often the service writes down who was last here
S: Final = 1_000_000_000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What was done with a token, and by whom."""

    time_ns: int
    what: str  # made, rotated or revoked
    who: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """The hash of what opens. 256 random bits cannot be guessed from a fast hash, so there is no slow one, and no salt:
    those are for passwords, which people choose.
    """

    sha256: str
    until_ns: int = 0  # 0 is as long as the token


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One of them. `name` is who decides when it is shown; `paths` are all that it opens, none is everything."""

    id: str
    name: str
    role: Role
    paths: tuple[str, ...] = ()
    expires_ns: int = 0  # 0 is never
    revoked_ns: int = 0  # 0 is not
    secrets: tuple[Secret, ...] = field(default=(), repr=False)
    events: tuple[Event, ...] = ()

    def state(self, now_ns: int) -> str:
        """What it is now: active, expired or revoked."""
        if self.revoked_ns:
            return "revoked"
        return "expired" if 0 < self.expires_ns <= now_ns else "active"

    def opens(self, digest: str, now_ns: int) -> bool:
        """Whether a hash is that of a secret which still holds; takes as long whichever it is."""
        found = False
        for one in self.secrets:
            holds = not one.until_ns or now_ns < one.until_ns
            found |= hmac.compare_digest(one.sha256, digest) and holds
        return found

    def shown(self, now_ns: int, used_ns: int) -> dict[str, Any]:
        """For people: nothing of its secrets but until when the one before still holds."""
        old = max((one.until_ns for one in self.secrets if one.until_ns > now_ns), default=0)
        return {
            "id": self.id,
            "name": self.name,
            "role": str(self.role),
            "paths": list(self.paths),
            "state": self.state(now_ns),
            "expires": self.expires_ns / S or None,
            "last_used": used_ns / S or None,
            "old_until": old / S or None,
            "events": [{"time": one.time_ns / S, "what": one.what, "who": one.who} for one in self.events],
        }

    def identity(self) -> Identity:
        """Who shows it."""
        return Identity(name=self.name, role=self.role, how="token", paths=self.paths)


class TokenFile:
    """What is written of tokens: changed whole, under a lock, readable for its owner only; any process may."""

    def __init__(self, directory: Path, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._folder = directory / FOLDER
        self.path = self._folder / FILE
        self.uses_path = self._folder / USES
        self._clock_ns = clock_ns

    def create(
        self, *, name: str, role: Role, who: str, paths: Sequence[str] = (), lasts_s: float = 0.0
    ) -> tuple[Token, str]:
        """A new one, and the text that opens, which is nowhere else. Raises: BadInput, StorageError, StateError."""
        name, paths, now_ns = check_name(name), tuple(map(check_path, paths)), self._clock_ns()
        identifier = secrets.token_hex(4)
        text, secret = _drawn(identifier)
        made = Token(
            id=identifier,
            name=name,
            role=role,
            paths=paths,
            expires_ns=now_ns + round(lasts_s * S) if lasts_s else 0,
            secrets=(secret,),
            events=(Event(time_ns=now_ns, what="made", who=who),),
        )
        with self._changing() as tokens:
            if sum(not one.revoked_ns for one in tokens.values()) >= MOST:
                raise BadInput(f"name: expected at most {MOST} tokens; revoke those that nobody uses")
            tokens[made.id] = made
        return made, text

    def rotate(self, name: str, *, who: str, overlap_s: float) -> tuple[Token, str]:
        """A new secret for the same token; the old one opens for so long still. Raises as `create`."""
        now_ns = self._clock_ns()
        with self._changing() as tokens:
            one = _find(tokens, name)
            if one.state(now_ns) != "active":
                raise BadInput(f"id: expected a token that holds, {one.id} is {one.state(now_ns)}")
            text, secret = _drawn(one.id)
            end_ns = now_ns + round(overlap_s * S)
            kept = (replace(old, until_ns=min(old.until_ns or end_ns, end_ns)) for old in one.secrets)
            still = tuple(old for old in kept if old.until_ns > now_ns)
            done = (*one.events, Event(time_ns=now_ns, what="rotated", who=who))
            tokens[one.id] = replace(one, secrets=(*still, secret), events=done)
            return tokens[one.id], text

    def revoke(self, name: str, *, who: str) -> Token:
        """It opens no more. Raises as `create`."""
        now_ns = self._clock_ns()
        with self._changing() as tokens:
            one = _find(tokens, name)
            if not one.revoked_ns:
                done = (*one.events, Event(time_ns=now_ns, what="revoked", who=who))
                tokens[one.id] = replace(one, revoked_ns=now_ns, secrets=(), events=done)
            return tokens[one.id]

    def read(self) -> dict[str, Token]:
        """All of them by id. Raises: StateError."""
        try:
            tree = json.loads(self.path.read_bytes())
            return {one["id"]: _token(one) for one in tree["tokens"]}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StateError(f"{self.path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise StateError(f"{self.path}: expected tokens as `otel-aiops token` writes them: {error!r}") from error

    def uses(self) -> dict[str, int]:
        """When each was last shown, in ns, as far as it is known."""
        try:
            return {str(key): int(value) for key, value in json.loads(self.uses_path.read_bytes()).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def write_uses(self, uses: dict[str, int]) -> None:
        """Only the service does. Raises: StorageError."""
        self._write(self.uses_path, uses)

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Token]]:
        """All tokens, to be changed in place and written when the block ends; one process at a time."""
        with storage_errors(f"writing {self.path}"):
            make_directory(self._folder)
            _like_its_folder(self._folder)
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            _like_its_folder(self._folder / "lock")
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens, now_ns = self.read(), self._clock_ns()
            yield tokens
            kept = [one for one in tokens.values() if now_ns - _ended_ns(one) < KEPT_NS]
            self._write(self.path, {"tokens": [asdict(one) for one in kept]})
        finally:
            os.close(lock)

    def _write(self, path: Path, tree: Any) -> None:
        with storage_errors(f"writing {path}"):
            make_directory(path.parent)
            with whole_file(path) as file:
                os.fchmod(file.fileno(), FILE_MODE)
                file.write(json.dumps(tree, indent=1).encode() + b"\n")
            _like_its_folder(path)


class Tokens:
    """What the service knows of the file, and who was last here; any thread may ask.

    A file that cannot be read later leaves what is known in place, and is logged. Raises: StateError at the start.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.file = TokenFile(directory, clock_ns=clock_ns)
        self._clock, self._clock_ns = clock, clock_ns
        self._watch = FileWatch([str(self.file.path)], interval_s=LOOK_S, clock=clock)
        self._lock = threading.Lock()
        self._known = self.file.read()
        self._uses = self.file.uses()
        self._written_s = clock() - USES_S

    def find(self, text: str) -> tuple[Token | None, str]:
        """(the token that a text opens, or None; why not, in one word)."""
        self._renew()
        now_ns = self._clock_ns()
        one = self._known.get(text.removeprefix(PREFIX).partition("_")[0])
        if one is None:
            return None, "unknown"
        if not one.opens(_digest(text), now_ns):
            return None, "revoked" if one.revoked_ns else "unknown"
        if one.state(now_ns) != "active":
            return None, one.state(now_ns)
        self._used(one.id, now_ns)
        return one, ""

    def holds(self, name: str) -> Token | None:
        """The token of an id while it is active: what has begun with it goes on."""
        self._renew()
        one = self._known.get(name)
        return one if one is not None and one.state(self._clock_ns()) == "active" else None

    def shown(self) -> list[dict[str, Any]]:
        """All of them for people, the newest first."""
        self.reload()
        now_ns = self._clock_ns()
        return listing(self._known, self._uses, now_ns)

    def reload(self) -> None:
        """Look at once, after a change of our own."""
        try:
            self._known = self.file.read()
        except StateError as error:
            self._watch.again()
            _log.warning("tokens changed but cannot be read, the old ones stay", error=str(error))

    def flush(self) -> None:
        """Write down who was last here."""
        with self._lock:
            uses = {key: value for key, value in self._uses.items() if key in self._known}
        try:
            if uses:
                self.file.write_uses(uses)
        except Exception as error:  # a full disk keeps nobody out
            _log.warning("when tokens were used could not be written", error=str(error))

    def _renew(self) -> None:
        if self._watch.changed():
            self.reload()

    def _used(self, name: str, now_ns: int) -> None:
        with self._lock:
            self._uses[name] = now_ns
            due = self._clock() - self._written_s >= USES_S
            if due:
                self._written_s = self._clock()
        if due:
            self.flush()


def listing(tokens: dict[str, Token], uses: dict[str, int], now_ns: int) -> list[dict[str, Any]]:
    """Tokens for people, the newest first."""
    found = sorted(tokens.values(), key=lambda one: -one.events[0].time_ns)
    return [one.shown(now_ns, uses.get(one.id, 0)) for one in found]


def check_name(name: str) -> str:
    """The name of a person or a program. Raises: BadInput."""
    name = " ".join(name.split())
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise BadInput(f"name: expected 1 to {LONGEST_NAME} printable characters, got {name[:LONGEST_NAME]!r}")
    return name


def check_path(path: str) -> str:
    """An address below which a token opens. Raises: BadInput."""
    if not path.startswith("/") or len(path) > LONGEST_PATH or not path.isascii() or not path.isprintable():
        raise BadInput(f"paths: expected paths such as /metrics, got {path[:LONGEST_PATH]!r}")
    return path


def _drawn(identifier: str) -> tuple[str, Secret]:
    text = f"{PREFIX}{identifier}_{secrets.token_urlsafe(SECRET_BYTES)}"
    return text, Secret(sha256=_digest(text))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _find(tokens: dict[str, Token], name: str) -> Token:
    """By id, or by a name that only one has which is not revoked."""
    if name in tokens:
        return tokens[name]
    named = [one for one in tokens.values() if one.name == name and not one.revoked_ns]
    if len(named) == 1:
        return named[0]
    got = f"{name[:LONGEST_NAME]!r}, which {len(named) or 'no'} tokens have"
    raise BadInput(f"id: expected the id of a token, or a name that one has, got {got}")


def _ended_ns(one: Token) -> int:
    ends = [end for end in (one.revoked_ns, one.expires_ns) if end]
    return min(ends) if ends else 2**63


def _token(tree: dict[str, Any]) -> Token:
    inner = {
        "role": Role(tree["role"]),
        "paths": tuple(tree["paths"]),
        "secrets": tuple(Secret(**one) for one in tree["secrets"]),
        "events": tuple(Event(**one) for one in tree["events"]),
    }
    return Token(**{**tree, **inner})


def _like_its_folder(path: Path) -> None:
    """Root writes for the service: what it makes belongs to whom the folder around it belongs to."""
    if os.geteuid() == 0:
        facts = path.parent.stat()
        os.chown(path, facts.st_uid, facts.st_gid)
