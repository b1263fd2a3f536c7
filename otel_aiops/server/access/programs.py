"""Programs: tokens that the configuration gives to what asks by itself, such as Prometheus."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from otel_aiops.errors import BadInput, ConfigError
from otel_aiops.server.access.roles import Identity, Role
from otel_aiops.server.access.tokens import check_name, check_path
from otel_aiops.server.files import FileWatch

LEAST: Final = 16  # characters of a token: fewer can be guessed
LOOK_S: Final = 1.0  # how soon a file that was replaced is seen
MODE: Final = 0o640  # of a file that is made: the program reads it by its group

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramConfig:
    """What one program may ask, and how it shows who it is."""

    role: Role = Role.VIEWER  # what it may
    paths: tuple[str, ...] = ("/metrics",)  # all that it may ask; none is everything of its role
    token: str = field(default="", repr=False)  # as ${env:SCRAPE_TOKEN}
    token_file: str = ""  # a file with it, read again when it changes; made with a drawn one where there is none

    def __post_init__(self) -> None:
        if bool(self.token) == bool(self.token_file):
            raise ConfigError("token", "expected one of token and token_file")
        if self.token and len(self.token) < LEAST:
            raise ConfigError("token", f"expected at least {LEAST} characters, got {len(self.token)}")
        try:
            for path in self.paths:
                check_path(path)
        except BadInput as error:
            raise ConfigError("", str(error)) from error


class Programs:
    """Tells them by their tokens; any thread may ask.

    A file that cannot be used later leaves the token that it had, and is logged. Raises: ConfigError under `path`.
    """

    def __init__(
        self, config: Mapping[str, ProgramConfig], path: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._path = path
        self._watch = FileWatch([one.token_file for one in config.values()], interval_s=LOOK_S, clock=clock)
        for name, one in config.items():
            if one.token_file and not Path(one.token_file).exists():
                _make(Path(one.token_file), f"{path}.{name}.token_file")
        self._known = {name: self._digest(name) for name in config}

    def find(self, text: str) -> Identity | None:
        """Who shows a token; takes as long whichever it is."""
        if self._watch.changed():
            self._reload()
        shown, found = _sha256(text), None
        for name, digest in self._known.items():
            if hmac.compare_digest(digest, shown):
                one = self._config[name]
                found = Identity(name=name, role=one.role, how="program", paths=one.paths)
        return found

    def _reload(self) -> None:
        for name in self._known:
            try:
                self._known = {**self._known, name: self._digest(name)}
            except ConfigError as error:
                self._watch.again()
                _log.warning("the token of a program cannot be used, the old one stays", error=str(error))

    def _digest(self, name: str) -> bytes:
        one, path = self._config[name], f"{self._path}.{name}"
        try:
            check_name(name)
        except BadInput as error:
            raise ConfigError(path, str(error)) from error
        return _sha256(one.token or _read(Path(one.token_file), f"{path}.token_file"))


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _read(file: Path, path: str) -> str:
    try:
        text = file.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise ConfigError(path, f"cannot read {file}: {error.strerror}") from error
    if len(text) < LEAST or not text.isprintable() or " " in text:
        raise ConfigError(path, f"expected a token of at least {LEAST} characters in {file}, got {len(text)}")
    return text


def _make(file: Path, path: str) -> None:
    """Under another name first: who waits for it reads all of it. Raises: ConfigError."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        with os.fdopen(descriptor, "w") as out:
            os.fchmod(descriptor, MODE)
            out.write(secrets.token_urlsafe(32) + "\n")
        draft.replace(file)
    except OSError as error:
        raise ConfigError(path, f"cannot make {file}: {error.strerror}") from error
    _log.info("made a token for a program", file=str(file))
