"""Datasets: chosen points of the history under a hash of their content, kept as long as somebody needs them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from otel_aiops.errors import BadInput, ConfigError, Overloaded, StateError, StorageError
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.manifest import Manifest, Piece, Window, matches_of
from otel_aiops.lifecycle.profile import Profile, QualityLimits, quality_gate
from otel_aiops.lifecycle.reading import CHUNK_ROWS, Chunk, Cuts, Files, runs
from otel_aiops.lifecycle.tables import SeriesTable, read_table, write_table
from otel_aiops.lifecycle.taking import Plan, Taking, complete, complete_hours, nothing
from otel_aiops.lifecycle.truth import Exclusion, Label, clipped, selector, within
from otel_aiops.series.disk import TEMPORARY, make_directory, remove_temporary, storage_errors, sync_directory
from otel_aiops.series.segments import ATTEMPTS, HOUR_NS, DamagedFile, Part, Segments

MOST_LABELS = 100_000
ID = re.compile(r"[0-9a-f]{16}")
FOLDER = "lifecycle"
Show = Callable[[float, float, str], None]
Texts = list[str]
Manifests = list[Manifest]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTestRule:
    """How load tests show: while series that match have points, points of these services are left out."""

    match: dict[str, str]  # labels of the series that a load test brings; one with a leading ~ is an expression
    services: tuple[str, ...] = ()  # that it hits, which may have * and ?; none is all

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        try:
            selector(self.match)
        except BadInput as error:
            raise ConfigError("match", str(error).removeprefix("match: ")) from error
        if not self.match:
            raise ConfigError("match", "expected labels, got none, which would match everything")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    """What datasets must be like, and what is never learned from."""

    limits: QualityLimits = field(default_factory=QualityLimits)
    load_tests: tuple[LoadTestRule, ...] = ()  # how load tests are known
    keep: int = 50  # datasets that are kept beside those that models cite, the newest ones

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ConfigError("keep", f"must be >= 1, got {self.keep}")


class Datasets:
    """The datasets below a directory, made of the segments of a history.

    ``<id>.json`` are manifests, ``segments/<sha256>.parquet`` hard links of segments of the history (copies where it is
    on another file system), ``series/<sha256>.parquet`` what each series is like. A link keeps the bytes when the
    history deletes or merges its own; nothing stands twice on the disk. Only hours that are complete are taken: those
    that ended 15 minutes before `now_ns`. One that is not merged yet is merged here, into the same bytes as the
    history will. Any number of processes may build at once, also while a service writes the history.
    """

    def __init__(self, directory: Path, segments: Segments | None = None) -> None:
        self._directory = directory
        self._segments = segments
        self._files = directory / "segments"
        self._tables = directory / "series"

    @classmethod
    def of(cls, data_directory: Path) -> Datasets:
        """Those of the data directory of a service, which may be running."""
        return cls(data_directory / FOLDER / "datasets", Segments(data_directory / "segments"))

    # -- making -------------------------------------------------------------------------------------------------------

    def build(
        self,
        window: Window,
        selectors: Sequence[Mapping[str, Any]] = (),
        labels: Sequence[Label] = (),
        exclusions: Sequence[Exclusion] = (),
        *,
        now_ns: int,
        who: str = "",
        why: str = "",
        parents: Sequence[str] = (),
        governance: Sequence[Mapping[str, Any]] = (),
        limits: QualityLimits | None = None,
        force: str = "",
        progress: Show | None = None,
    ) -> Manifest:
        """Make a dataset, or find the one that has the same content.

        `force` is why to train although the gate says no. Raises: BadInput when nothing can be chosen, StorageError
        when the disk refuses; then there is nothing of it in the list.
        """
        if len(labels) > MOST_LABELS:
            raise BadInput(f"expected at most {MOST_LABELS} labels, got {len(labels)}")
        for parent in parents:
            self.load(parent)
        chosen = complete(window, now_ns)
        with storage_errors(f"preparing {self._directory}"):
            for directory in (self._directory, self._files, self._tables):
                make_directory(directory)
        self._sweep()
        matches = matches_of(selectors)
        plan = Plan(
            chosen,
            matches,
            clipped(exclusions, chosen.start_ns, chosen.end_ns),
            within(labels, chosen.start_ns, chosen.end_ns),
            limits or QualityLimits(),
        )
        try:
            with self._holding(fcntl.LOCK_SH):
                made = self._gather(plan, progress)
                made = replace(made, governance=tuple(governance), parents=tuple(parents))
                made = replace(made, who=who, why=why, made_ns=now_ns)
                made = made.force(who, force) if force and not made.gate.passed else made
                return self._put(made)
        except BaseException:
            with suppress(Exception):
                self._sweep()
            raise

    def _gather(self, plan: Plan, progress: Show | None) -> Manifest:
        """Take all hours, and leave out those that turn out to be damaged."""
        lost: dict[int, str] = {}
        while True:
            taking = Taking(plan)
            hour = -1
            try:
                hours = plan.hours()
                for k, hour in enumerate(hours):
                    if hour not in lost:
                        self._take(taking, hour, measured=plan.measured(hour))
                    if progress:
                        progress(k + 1, len(hours), f"{taking.rows} points")
                return self._made(plan, taking, lost)
            except DamagedFile as error:
                lost[hour] = str(error).rsplit(": ", 1)[-1][:200]

    def _take(self, taking: Taking, hour: int, *, measured: bool) -> None:
        """Adopt the segment of an hour, if it has points that are wanted. Raises: DamagedFile."""
        temporary = self._files / f"{secrets.token_hex(8)}{TEMPORARY}"
        try:
            with storage_errors(f"taking segments into {self._files}"):
                if not self._adopt(hour, temporary):
                    taking.empty += 1
                    return
                rows, selected = taking.measure(temporary, intervals=measured)
                if not selected:
                    taking.empty += 1
                if rows:
                    sha256, size = _hash(temporary), temporary.stat().st_size
                    self._name(temporary, self._files / f"{sha256}.parquet")
                    taking.pieces.append(Piece(hour, sha256, size, rows))
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _adopt(self, hour: int, target: Path) -> bool:
        """Link the segment of an hour, or merge those that are not merged yet. Raises: OSError, DamagedFile."""
        if self._segments is None:
            raise BadInput("expected the history of a service to take segments from, got none")
        for _ in range(ATTEMPTS):
            parts = self._segments.hour(hour)
            if not parts:
                return False
            try:
                if len(parts) == 1 and parts[0].sorted:
                    _link(parts[0], target)
                else:
                    self._segments.merge_into(parts, target)
                return True
            except FileNotFoundError:  # merged or deleted meanwhile
                target.unlink(missing_ok=True)
        raise StorageError(f"segments of the hour {hour} vanish while they are taken")

    def _name(self, temporary: Path, path: Path) -> None:
        """Give a whole file its name; whoever comes first with the same content wins. A damaged one is replaced."""
        if path.exists() and (path.samefile(temporary) or _hash(path) == path.stem):
            return
        path.unlink(missing_ok=True)  # or a rename to another link of the same file would do nothing
        temporary.replace(path)

    def _made(self, plan: Plan, taking: Taking, lost: Mapping[int, str]) -> Manifest:
        """The manifest of what was taken, without who and why."""
        if not taking.rows:
            raise BadInput(nothing(plan, taking, lost))
        all_, services, table = taking.done()
        profile = Profile(
            all=all_,
            services=services,
            hours=len(plan.hours()),
            hours_empty=taking.empty,
            hours_lost=len(lost),
            rows_excluded=taking.excluded,
            labels=len(plan.labels),
        )
        with storage_errors(f"writing to {self._tables}"):
            path = self._tables / f"{table.sha256}.parquet"
            if not path.exists():
                temporary = self._tables / f"{secrets.token_hex(8)}{TEMPORARY}"
                write_table(table, temporary)
                temporary.replace(path)
            sync_directory(self._tables)
            sync_directory(self._files)
        return Manifest(
            window=plan.window,
            matches=plan.matches,
            labels=table.resolved(plan.labels),
            exclusions=plan.exclusions,
            pieces=tuple(taking.pieces),
            lost=tuple(sorted(lost.items())),
            schema=taking.schema,
            rows=taking.rows,
            series=len(table),
            series_sha256=table.sha256,
            profile=profile,
            gate=quality_gate(profile, plan.limits),
        )

    def _put(self, made: Manifest) -> Manifest:
        """Write a manifest, unless the same content is there; a new reason to force it is noted."""
        path = self._path(made.id)
        with storage_errors(f"writing {path}"):
            temporary = self._directory / f"{secrets.token_hex(8)}{TEMPORARY}"
            try:
                with temporary.open("xb") as file:
                    file.write(json.dumps(made.to_json(), indent=1, sort_keys=True).encode())
                    file.flush()
                    os.fsync(file.fileno())
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    with suppress(StateError):
                        found = self.load(made.id)
                        if found.forced or not made.forced:
                            return found
                        made = replace(found, forced=made.forced)
                        temporary.write_bytes(json.dumps(made.to_json(), indent=1, sort_keys=True).encode())
                    temporary.replace(path)
                sync_directory(self._directory)
                return made
            finally:
                temporary.unlink(missing_ok=True)

    # -- what there is ------------------------------------------------------------------------------------------------

    def list(self) -> Manifests:
        """All datasets, the newest first; those whose manifest cannot be read are left out, and `damaged` has them."""
        found = []
        for name in self._ids():
            with suppress(StateError):
                found.append(self.load(name))
        return sorted(found, key=lambda one: (-one.made_ns, one.id))

    def damaged(self) -> dict[str, str]:
        """Manifests that cannot be read, with the reason."""
        found = {}
        for name in self._ids():
            try:
                self.load(name)
            except StateError as error:
                found[name] = str(error)
        return found

    def load(self, name: str) -> Manifest:
        """A dataset by id. Raises: BadInput if there is none, StateError if its manifest was changed."""
        if not ID.fullmatch(name):
            raise BadInput(f"dataset: expected an id of 16 hexadecimal digits, got {name!r}")
        path = self._path(name)
        try:
            tree = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise BadInput(f"no dataset has the id {name}") from None
        except (OSError, ValueError) as error:
            raise StateError(f"{path} cannot be read: {error}") from error
        found = Manifest.from_json(tree)
        if found.id != name:
            raise StateError(f"{path} is the manifest of dataset {found.id}, expected that of {name}")
        return found

    def trainable(self, name: str) -> Manifest:
        """A dataset that models may learn from. Raises: BadInput with the reasons of the gate, and as `load`."""
        found = self.load(name)
        if not found.trainable:
            raise BadInput(f"dataset {name} is not good enough to learn from: {'; '.join(found.gate.reasons)}")
        return found

    def verify(self, name: str) -> Texts:
        """What is wrong with a dataset, in plain words; nothing when every byte is as it was. Raises: BadInput."""
        try:
            found = self.load(name)
        except StateError as error:
            return [str(error)]
        problems = []
        for piece in found.pieces:
            path = self._files / f"{piece.sha256}.parquet"
            try:
                if path.stat().st_size != piece.bytes or _hash(path) != piece.sha256:
                    problems.append(f"{path}: the segment of hour {piece.hour} was changed")
            except FileNotFoundError:
                problems.append(f"{path}: the segment of hour {piece.hour} is missing")
            except OSError as error:
                problems.append(f"{path}: the segment of hour {piece.hour} cannot be read: {error}")
        try:
            self._table(found)
        except StateError as error:
            problems.append(str(error))
        return problems

    # -- reading ------------------------------------------------------------------------------------------------------

    def series(self, name: str) -> SeriesTable:
        """The series of a dataset, by name, with what each is like. Raises: as `load`."""
        return self._table(self.load(name))

    def read(
        self,
        name: str,
        *,
        series: Collection[str] | None = None,
        start_ns: int | None = None,
        end_ns: int | None = None,
        rows: int = CHUNK_ROWS,
        score: bool = False,
        included: Collection[str] = (),
    ) -> Iterator[Chunk]:
        """The points of a dataset, or of some of its series or of a part of its window, by whole series by name.

        At most about `rows` points are in memory at once (20 bytes each, 80 while they are put in order), however
        many there are; more of them mean fewer passes over the files. Points that are excluded are not among them,
        but those that only exclusions from the sources `included` leave out: confirmed incidents, for who is judged by
        them.
        Raises: as `load`, and StateError naming a segment that is missing or damaged.
        """
        found = self.load(name)
        table = self._table(found)
        wanted = range(len(table)) if series is None else [k for k, one in enumerate(table.names) if one in series]
        start = max(found.window.start_ns, start_ns if start_ns is not None else 0)
        end = min(found.window.end_ns, end_ns if end_ns is not None else found.window.end_ns)
        paths = [
            self._files / f"{piece.sha256}.parquet"
            for piece in sorted(found.pieces, key=lambda one: one.hour)
            if piece.hour * HOUR_NS < end and (piece.hour + 1) * HOUR_NS > start
        ]
        files = Files(paths, start, end)
        cuts = Cuts([one for one in found.exclusions if one.source not in included])
        names = [table.names[k] for k in wanted]
        for text in names:
            cuts.add(Labels.from_json(text))
        for low, high in runs(table.rows[list(wanted)], rows):
            try:
                yield files.chunk(names[low:high], cuts, low, score=score)
            except FileNotFoundError as error:
                raise StateError(f"dataset {name}: the segment {error.filename} is missing") from error

    # -- keeping and deleting -----------------------------------------------------------------------------------------

    def delete(self, name: str, *, cited: Mapping[str, Collection[str]] | Collection[str] = ()) -> None:
        """Delete a dataset and the segments that no other has. Raises: BadInput when a live model version cites it."""
        if name in cited:
            by = f" ({', '.join(sorted(cited[name]))})" if isinstance(cited, Mapping) else ""
            raise BadInput(f"dataset {name} stays: a live model version cites it{by}")
        path = self._path(name)
        if not ID.fullmatch(name) or not path.exists():
            raise BadInput(f"no dataset has the id {name}")
        with storage_errors(f"deleting dataset {name}"):
            path.unlink(missing_ok=True)
            sync_directory(self._directory)
        self._sweep()

    def prune(self, keep: int, *, cited: Collection[str] = ()) -> Texts:
        """Delete all but the newest `keep` and those that are cited; returns the ids that are gone."""
        gone = [one.id for one in self.list()[keep:] if one.id not in cited]
        for name in gone:
            self.delete(name)
        self._sweep()
        return gone

    def _sweep(self) -> None:
        """Delete what no manifest names, unless somebody is building. Nothing goes when a manifest cannot be read."""
        try:
            with self._holding(fcntl.LOCK_EX | fcntl.LOCK_NB):
                if self.damaged():
                    return
                manifests = self.list()
                named = {f"{piece.sha256}.parquet" for one in manifests for piece in one.pieces}
                named |= {f"{one.series_sha256}.parquet" for one in manifests}
                with storage_errors(f"deleting from {self._directory}"):
                    remove_temporary(self._directory)
                    for path in (*self._files.glob("*.parquet"), *self._tables.glob("*.parquet")):
                        if path.name not in named:
                            path.unlink(missing_ok=True)
        except Overloaded:
            return

    @contextmanager
    def _holding(self, how: int) -> Iterator[None]:
        """Hold the lock: shared by those who build, alone for who deletes. Raises: Overloaded when it cannot be had."""
        with storage_errors(f"locking {self._directory}"):
            descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, how)
            except BlockingIOError:
                raise Overloaded(f"{self._directory} is in use") from None
            yield
        finally:
            os.close(descriptor)

    def _table(self, manifest: Manifest) -> SeriesTable:
        return read_table(self._tables / f"{manifest.series_sha256}.parquet")

    def _ids(self) -> Texts:
        return sorted(path.stem for path in self._directory.glob("*.json") if ID.fullmatch(path.stem))

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"


def cited(data_directory: Path) -> dict[str, list[str]]:
    """The datasets that the model versions of a data directory cite, with these versions.

    Every text of a `model.json` that is an id counts. Raises: StateError when one cannot be read.
    """
    found: dict[str, list[str]] = {}
    for path in sorted((data_directory / FOLDER / "models").glob("*/model.json")):
        try:
            tree = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StateError(f"{path} cannot be read, so nobody knows which datasets it cites: {error}") from error
        for name in set(_texts(tree)):
            if ID.fullmatch(name):
                found.setdefault(name, []).append(path.parent.name)
    return found


def complete_ns(segments: Segments, now_ns: int) -> tuple[int, int]:
    """The beginning of the oldest and the end of the newest complete hour of a history; zeros when there is none."""
    last = complete_hours(now_ns)
    hours = [part.hour for part in segments.parts() if part.hour < last]
    return (min(hours) * HOUR_NS, (max(hours) + 1) * HOUR_NS) if hours else (0, 0)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link(part: Part, target: Path) -> None:
    """A second name for a file, or a copy where that is not possible. Raises: FileNotFoundError, OSError."""
    try:
        os.link(part.path, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        with part.path.open("rb") as source, target.open("xb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())


def _texts(tree: Any) -> Iterator[str]:
    """All texts in plain values."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _texts(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _texts(value)
