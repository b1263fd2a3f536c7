"""Which rules of governance held when: a line in a file of the data directory for every change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from otel_aiops.errors import StateError
from otel_aiops.otlp.governance import GovernanceConfig
from otel_aiops.series.disk import make_directory, storage_errors, whole_file

FILE = Path("lifecycle") / "governance.jsonl"


def note(data_directory: Path, config: GovernanceConfig, now_ns: int) -> None:
    """Write that rules hold from now on, if they did not before. Raises: StorageError, StateError."""
    path = data_directory / FILE
    known = _all(path)
    if (known[-1]["rules"] if known else GovernanceConfig().rules()) == config.rules():
        return
    with storage_errors(f"writing {path}"):
        make_directory(path.parent)
        with whole_file(path) as file:
            for one in (*known, {"from_ns": now_ns, "rules": config.rules()}):
                file.write(json.dumps(one, sort_keys=True).encode() + b"\n")


def held(data_directory: Path, start_ns: int, end_ns: int) -> tuple[dict[str, Any], ...]:
    """The rules that held in a stretch of time by the receiver's clock, each with `from_ns`; none where none ever did.

    Raises: StateError.
    """
    known = _all(data_directory / FILE)
    before = [one for one in known if one["from_ns"] <= start_ns][-1:]
    return tuple(before + [one for one in known if start_ns < one["from_ns"] < end_ns])


def _all(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            tree = json.loads(line)
            found.append({"from_ns": int(tree["from_ns"]), "rules": dict(tree["rules"])})
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(f"{path}, line {number}: expected rules of governance, got {line[:100]!r}") from error
    return found
