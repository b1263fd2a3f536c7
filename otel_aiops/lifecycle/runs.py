"""The journal of runs of the circle: what each step took and gave, and the lock that lets one run at a time."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from otel_aiops.errors import BadInput, Overloaded, StateError, StorageError
from otel_aiops.series.disk import FILE_MODE, TEMPORARY, make_directory, storage_errors, whole_file

FORMAT = 1
FOLDER = "lifecycle"
ID = re.compile(r"[0-9a-f]{16}")
LOCK = "lock"
MODELS, TRIALS = "models", "trials"  # what a run stages: its version, and what its search for settings has judged
RUNNING, REGISTERED, REFUSED, FAILED, ABANDONED = "running", "registered", "refused", "failed", "abandoned"
UNFINISHED = (RUNNING, FAILED)  # a run that can be gone on with; a killed one is for ever "running"
DONE, SKIPPED = "done", "skipped"
MOST_KEPT = 200  # journals; of more the oldest are deleted
FORGOTTEN_NS = 7 * 86_400_000_000_000  # what an unfinished run so much older than the newest had staged is deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a run. `words` say what came of it, `error` what went wrong."""

    name: str
    state: str = RUNNING  # running, done, skipped, refused, failed
    began_ns: int = 0
    ended_ns: int = 0
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether it is not done again."""
        return self.state in (DONE, SKIPPED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One way through the circle. `plan` is all that decides what it does, and `id` the hash of that."""

    id: str
    plan: Mapping[str, Any]
    state: str = RUNNING
    steps: tuple[Step, ...] = ()
    version: str = ""  # once it is registered
    who: str = ""
    why: str = ""
    origin: str = ""  # who started it: a person at a command, or a service by itself
    began_ns: int = 0
    ended_ns: int = 0
    attempts: int = 0  # times that it was begun or gone on with

    @property
    def unfinished(self) -> bool:
        """Whether it can be gone on with."""
        return self.state in UNFINISHED

    @property
    def duration_s(self) -> float:
        """The time that its steps took, without that between a crash and the next attempt."""
        return sum(max(0, one.ended_ns - one.began_ns) for one in self.steps) / 1e9

    @property
    def words(self) -> str:
        """What came of it, or where it stands."""
        return next((one.error or one.words for one in reversed(self.steps) if one.error or one.words), "")

    def step(self, name: str) -> Step | None:
        """A step by name; None where it has not begun."""
        return next((one for one in self.steps if one.name == name), None)

    def having(self, step: Step) -> Run:
        """With this step in the place of the one of its name, or as the last."""
        others = [step if one.name == step.name else one for one in self.steps]
        return replace(self, steps=tuple(others if self.step(step.name) else [*others, step]))

    def until(self, name: str) -> Run:
        """Without this step and what came after it."""
        names = [one.name for one in self.steps]
        return replace(self, steps=self.steps[: names.index(name)]) if name in names else self

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, tree: Any) -> Run:
        """What `to_json` gave. Raises: StateError."""
        if not isinstance(tree, dict) or tree.get("format") != FORMAT:
            raise StateError(
                f"run: expected format {FORMAT}, got {tree.get('format') if isinstance(tree, dict) else tree}"
            )
        try:
            values = {name: tree[name] for name in cls.__dataclass_fields__}
            return cls(**{**values, "steps": tuple(Step(**one) for one in tree["steps"])})
        except (KeyError, TypeError) as error:
            raise StateError(f"run: expected a journal of a run, got {error!r}") from error

    def summary(self) -> dict[str, Any]:
        """What a list shows, times in unix seconds."""
        last = self.steps[-1] if self.steps else None
        return {
            "id": self.id,
            "state": self.state,
            "objective": self.plan.get("objective", ""),
            "step": last.name if last else "",
            "version": self.version,
            "began": self.began_ns / 1e9,
            "ended": self.ended_ns / 1e9 or None,
            "duration": self.duration_s,
            "attempts": self.attempts,
            "who": self.who,
            "why": self.why,
            "origin": self.origin,
            "result": self.words,
        }


class Runs:
    """The runs of a data directory: ``runs/<id>.json``, and ``runs/<id>/`` for what is not registered yet."""

    def __init__(self, data_directory: Path) -> None:
        self.directory = data_directory / FOLDER / "runs"

    def path(self, name: str) -> Path:
        """The journal of a run."""
        return self.directory / f"{name}.json"

    def staging(self, name: str) -> Path:
        """Where a run keeps what nobody else is to see yet."""
        return self.directory / name

    def load(self, name: str) -> Run:
        """A run by id. Raises: BadInput where there is none, StateError of a damaged journal."""
        if not ID.fullmatch(name):
            raise BadInput(f"run: expected 16 hexadecimal digits, got {name[:100]!r}")
        path = self.path(name)
        try:
            tree = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise BadInput(f"no run has the id {name}") from None
        except OSError as error:
            raise StorageError(f"{path}: {error}") from error
        except ValueError as error:
            raise StateError(f"{path}: expected JSON, got {error}") from error
        return Run.from_json(tree)

    def list(self) -> list[Run]:
        """All runs, the newest first; journals that cannot be read are left out."""
        found = []
        for path in self.directory.glob("*.json"):
            with suppress(BadInput, StateError):
                found.append(self.load(path.stem))
        return sorted(found, key=lambda one: (-one.began_ns, one.id))

    def write(self, run: Run) -> Run:
        """Put a journal down, durable when this returns. Raises: StorageError."""
        with storage_errors(f"writing the journal of run {run.id}"):
            make_directory(self.directory)
            with whole_file(self.path(run.id)) as file:
                file.write(json.dumps(run.to_json(), indent=1, sort_keys=True).encode())
        return run

    @contextmanager
    def alone(self, who: str) -> Iterator[None]:
        """Keep every other run of this data directory out; the lock ends with this process, however that ends.

        Raises: Overloaded that says who has it, StorageError.
        """
        with storage_errors(f"locking {self.directory}"):
            make_directory(self.directory)
            descriptor = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Overloaded(f"a run goes on already: {_holder(descriptor)}; one runs at a time") from None
            told = {"pid": os.getpid(), "who": who, "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")}
            with suppress(OSError):  # a full disk does not keep the owner out
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(told).encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def holder(self) -> str:
        """Who runs now, in words; nothing where nobody does."""
        try:
            descriptor = os.open(self.directory / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(descriptor)
        finally:
            os.close(descriptor)
        return ""

    def sweep(self) -> None:
        """Delete what runs left that ended or that nobody goes on with, and the oldest journals; who has the lock."""
        known = self.list()
        for one in known[MOST_KEPT:]:
            if not one.unfinished:
                self.path(one.id).unlink(missing_ok=True)
        needed = {one.id for one in known if one.unfinished and known[0].began_ns - one.began_ns < FORGOTTEN_NS}
        reports = {one.id for one in known[:MOST_KEPT] if one.state == REFUSED}
        for path in self.directory.glob("*"):
            if path.is_dir() and path.name not in needed | reports:
                shutil.rmtree(path, ignore_errors=True)
        for name in reports - needed:
            for part in (MODELS, TRIALS):
                shutil.rmtree(self.staging(name) / part, ignore_errors=True)
        for path in self.directory.glob(f"*{TEMPORARY}"):
            path.unlink(missing_ok=True)


def _holder(descriptor: int) -> str:
    """Who wrote himself into a lock."""
    try:
        told = json.loads(os.pread(descriptor, 4_096, 0))
        return f"process {told['pid']}{' of ' + told['who'] if told['who'] else ''}, since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "process unknown"
