"""The journal of configurations: which held after which record of the log, and what each changed."""

from __future__ import annotations

import dataclasses
import getpass
import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_aiops import __version__
from otel_aiops.errors import ConfigError, StateError
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.disk import make_directory, storage_errors, whole_file
from otel_aiops.settings import Schema

if TYPE_CHECKING:
    from otel_aiops.config import Config

FOLDER, FILE = "audit", "configurations.jsonl"
MOST_LINES = 10_000
HIDDEN = "(hidden)"
SECRET = re.compile(
    r"token|password|secret|header|htpasswd|credential|auth|salt|_pem|key$|ur[li]$|\burls\.|\benv\.", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """A line: from the record after `sequence` on this configuration held, under this code.

    `swapped` says that the pipeline was built anew then; `changed` are [before, after] by key, secrets hidden.
    """

    line: int = 0
    time_ns: int = 0
    sequence: int = 0
    how: str = ""  # start or reload
    who: str = ""  # the user that the service runs as
    code: str = ""
    machine: str = ""
    id: str = ""
    swapped: bool = True
    changed: Mapping[str, Any] = field(default_factory=dict)


class Configurations:
    """Those of a data directory: `audit/configurations.jsonl`, and each content once as `audit/configurations/<id>`."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FOLDER / FILE
        self._contents = directory / FOLDER / "configurations"

    def note(self, config: Config, *, how: str, sequence: int, swapped: bool, time_ns: int) -> Configured:
        """Write that a configuration holds after a sequence. Raises: StorageError, StateError."""
        content = {"pipeline": _tree(config.pipeline()), "settings": _hidden(_flat(_tree(config)))}
        data = canonical(content)
        name = hashlib.sha256(data).hexdigest()[:16]
        known = self.list()
        before = self._content(known[-1].id)["settings"] if known else {}
        after = content["settings"]
        keys = sorted(key for key in {*before, *after} if before.get(key) != after.get(key)) if known else []
        found = Configured(
            line=known[-1].line + 1 if known else 1,
            time_ns=time_ns,
            sequence=sequence,
            how=how,
            who=_user(),
            code=__version__,
            machine=f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}",
            id=name,
            swapped=swapped,
            changed={key: [before.get(key), after.get(key)] for key in keys},
        )
        with storage_errors(f"writing {self._path}"):
            make_directory(self._contents)
            path = self._contents / f"{name}.json"
            if not path.exists():
                with whole_file(path) as file:
                    file.write(data)
            with whole_file(self._path) as file:
                for one in (*known, found)[-MOST_LINES:]:
                    file.write(canonical(dataclasses.asdict(one)) + b"\n")
        return found

    def list(self) -> list[Configured]:
        """All lines, the first first. Raises: StateError when one cannot be read."""
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for number, line in enumerate(lines, 1):
            try:
                found.append(Configured(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise StateError(
                    f"{self._path}, line {number}: expected a configuration, got {line[:100]!r}"
                ) from error
        return found

    def pipeline(self, name: str) -> PipelineConfig:
        """What decided scores under a configuration. Raises: StateError when it is gone, or was changed."""
        tree = self._content(name)["pipeline"]
        try:
            found = Schema(PipelineConfig).read(tree)
        except ConfigError as error:
            raise StateError(f"configuration {name}: this version of otel-aiops cannot read it: {error}") from error
        if canonical(_tree(found)) != canonical(tree):
            raise StateError(f"configuration {name}: this version of otel-aiops has other settings")
        return found

    def _content(self, name: str) -> dict[str, Any]:
        path = self._contents / f"{name}.json"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StateError(f"{path} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest()[:16] != name:
            raise StateError(f"{path}: its hash is not its name: it was changed")
        content: dict[str, Any] = json.loads(data)
        return content


def canonical(tree: Any) -> bytes:
    """JSON of which there is only one."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), default=lambda value: value.isoformat()).encode()


def _tree(config: Any) -> Any:
    return json.loads(canonical(dataclasses.asdict(config)))


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if inner is None or not tree:
        return {path: tree}
    found: dict[str, Any] = {}
    for key, value in inner:
        found |= _flat(value, f"{path}.{key}" if path else str(key))
    return found


def _hidden(flat: dict[str, Any]) -> dict[str, Any]:
    """Without what may be a secret."""
    return {key: HIDDEN if value and SECRET.search(key) else value for key, value in flat.items()}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for the user
        return ""
