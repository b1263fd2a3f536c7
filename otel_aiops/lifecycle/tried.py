"""What a search has judged so far, on the disk, so that one that was killed does not judge it again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from otel_aiops import __version__
from otel_aiops.lifecycle.fold import Judged
from otel_aiops.series.disk import make_directory, storage_errors, whole_file

DIGITS = 32


@dataclass(frozen=True, slots=True)
class Tried:
    """A folder of judgements, each in a file that is there whole or not at all; any process may write one.

    A judgement is known by the hash of all that decides it, so one of other data or settings is never taken for it.
    """

    directory: Path

    def read(self, of: object) -> Judged | None:
        """A judgement; None where there is none, or a damaged one."""
        try:
            return Judged.from_json(json.loads(self._path(of).read_bytes()))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, of: object, judged: Judged) -> None:
        """Keep a judgement, durable when this returns. Raises: StorageError."""
        with storage_errors(f"writing a trial to {self.directory}"):
            make_directory(self.directory)
            with whole_file(self._path(of)) as file:
                file.write(json.dumps(judged.to_json()).encode())  # NaN as such: nobody else reads this

    def _path(self, of: object) -> Path:
        name = hashlib.sha256(repr((__version__, of)).encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]
        return self.directory / f"{name}.json"
