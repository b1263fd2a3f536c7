"""Steps that run a command of the configuration: no shell, own user, folder and environment, bounded in every way.

Each is run by a process of its own (`child.py`), which claims it by a file before it begins. A service that was killed
finds by that file whether its command was begun: if not it claims it itself and begins anew, if so it waits for the
outcome that the child writes. Only where the child was killed as well is it unknown.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otel_aiops.errors import ConfigError
from otel_aiops.responses import child
from otel_aiops.responses.order import Ended, Lost, Order, Outcome, Refused, target_of
from otel_aiops.responses.values import places, whole, wrong_places
from otel_aiops.settings import ConfigErrors

POLL_S = 0.02
MOST_POLL_S = 0.5
NEVER = b"never"  # in a claim of the service itself
KEPT = 1_000  # newest files of claims and outcomes
PATH = "/usr/local/bin:/usr/bin:/bin"
SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "fish", "csh", "tcsh", "busybox", "env", "xargs", "eval"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandConfig:
    """A command that steps may use; there are no others."""

    name: str  # by which steps use it
    argv: tuple[str, ...] = ()  # program by its absolute path, and arguments; {service} and so on as whole arguments
    user: str = ""  # that it runs as, which only root can; that of the service
    group: str = ""  # that it runs as, beside `user`; that of the service
    cwd: str = "/"  # folder in which it runs
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # all that it has besides a plain PATH
    timeout: float = 60.0  # s after which it is ended, and what it started
    output: int = 64 << 10  # bytes of what it says that are kept, the last ones

    def __post_init__(self) -> None:
        errors = list(self._errors())
        if errors:
            raise ConfigErrors(errors)

    def filled(self, values: Mapping[str, str]) -> list[str]:
        """The arguments for an incident. Raises: Refused."""
        try:
            return [whole(one, values) for one in self.argv]
        except ValueError as error:
            raise Refused(f"command {self.name}: {error}") from error

    def _errors(self) -> Iterator[ConfigError]:
        if not self.argv or not self.argv[0].startswith("/"):
            got = self.argv[0] if self.argv else "none"
            yield ConfigError("argv", f"expected a program by its absolute path, got {got!r}")
        for number, one in enumerate(self.argv):
            for why in wrong_places(one):
                yield ConfigError(f"argv.{number}", why)
        program = Path(self.argv[0]).name if self.argv else ""
        if program in SHELLS and any(map(places, self.argv)):
            yield ConfigError("argv", f"expected no values of incidents for a shell, got them for {program}")
        if not self.cwd.startswith("/"):
            yield ConfigError("cwd", f"expected an absolute path, got {self.cwd!r}")
        if self.group and not self.user:
            yield ConfigError("group", "expected `user` beside it")
        if not 0 < self.timeout <= 3_600:
            yield ConfigError("timeout", f"must be in (0, 3600] s, got {self.timeout}")
        if not 0 < self.output <= 1 << 20:
            yield ConfigError("output", f"must be 1 B to 1 MiB, got {self.output}")


class Command:
    """Has children run commands; `folder` is where claims and outcomes are."""

    def __init__(self, commands: tuple[CommandConfig, ...], folder: Path) -> None:
        self._commands = {one.name: one for one in commands}
        self._folder = folder
        self._left: list[subprocess.Popen[bytes]] = []  # children that go on when the service stops

    def plan(self, order: Order) -> str:
        config = target_of(self._commands, order)
        user = f" as {config.user}" if config.user else ""
        return f"run {json.dumps(config.filled(order.values))}{user}, for at most {config.timeout:g} s"

    def replicas(self, order: Order) -> None:
        return None

    def run(self, order: Order) -> Outcome | None:
        config = target_of(self._commands, order)
        argv = config.filled(order.values)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._tidy()
        told = {
            "folder": str(self._folder),
            "name": _name(order),
            "argv": argv,
            "user": config.user,
            "group": config.group,
            "cwd": config.cwd,
            "env": {"PATH": PATH, **config.env},
            "timeout": config.timeout,
            "most": config.output,
        }
        process = _start()
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(told).encode())
        with suppress(BrokenPipeError):
            process.stdin.close()
        wait_s = POLL_S
        while process.poll() is None:
            if order.stopping():
                self._left.append(process)
                return None  # the child goes on; its outcome is found after the start
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, MOST_POLL_S)
        return self._outcome(order) or Outcome(ended=Ended.UNKNOWN, text="what ran it ended without an outcome")

    def lost(self, order: Order) -> Outcome | Lost:
        found = self._outcome(order)
        if found is not None:
            return found
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / f"{_name(order)}.claim"
        own = child.claim(path, NEVER)
        if own >= 0:  # a child that is still to begin finds it claimed
            os.close(own)
        if path.read_bytes() == NEVER:
            return Lost.NEVER
        if _locked(path):
            return Lost.RUNNING
        return self._outcome(order) or Lost.UNKNOWN  # it may have ended between the two looks

    def _outcome(self, order: Order) -> Outcome | None:
        try:
            tree: dict[str, Any] = json.loads((self._folder / f"{_name(order)}.result").read_bytes())
        except (OSError, ValueError):
            return None
        config = self._commands.get(order.action.use)
        if tree["error"]:
            return Outcome(ended=Ended.FAILED, text=f"it could not be run: {tree['error']}")
        if tree["late"]:
            limit = f" of {config.timeout:g} s" if config else ""
            return Outcome(ended=Ended.FAILED, text=f"it was ended after its time{limit}", output=tree["output"])
        ended = Ended.DONE if tree["code"] == 0 else Ended.FAILED
        return Outcome(ended=ended, text=f"it ended with exit code {tree['code']}", output=tree["output"])

    def _tidy(self) -> None:
        """Forget the oldest outcomes: the journal has them. Children make and remove files meanwhile."""
        found: list[tuple[int, str]] = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    found.append((entry.stat().st_mtime_ns, entry.path))
        for _, path in sorted(found)[: -2 * KEPT]:
            with suppress(OSError):
                Path(path).unlink()


def _name(order: Order) -> str:
    return f"{order.id}.{order.attempt}"


def _start() -> subprocess.Popen[bytes]:
    """A child of a session of its own, which the end of this process does not end."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", child.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )


def _locked(path: Path) -> bool:
    """Whether the one that made the file is alive."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
