"""Datasets: chosen points of the history under a hash of their content, kept as long as somebody needs them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from otel_aiops.errors import BadInput, ConfigError, StateError, StorageError
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.manifest import Manifest, Piece, Window, matches_of
from otel_aiops.lifecycle.profile import Profile, QualityLimits, quality_gate
from otel_aiops.lifecycle.reading import CHUNK_ROWS, Chunk, Cuts, Files, runs
from otel_aiops.lifecycle.shelf import ID, Manifests, Shelf, Texts, link, sha256_of
from otel_aiops.lifecycle.tables import SeriesTable
from otel_aiops.lifecycle.taking import Plan, Taking, complete, complete_hours, nothing
from otel_aiops.lifecycle.truth import Exclusion, Label, clipped, selector, within
from otel_aiops.series.disk import storage_errors
from otel_aiops.series.segments import ATTEMPTS, HOUR_NS, DamagedFile, Segments

MOST_LABELS = 100_000
FOLDER = "lifecycle"
Show = Callable[[float, float, str], None]


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
        self.directory = directory
        self._shelf = Shelf(directory)
        self._segments = segments

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
        self._shelf.prepare()
        matches = matches_of(selectors)
        plan = Plan(
            chosen,
            matches,
            clipped(exclusions, chosen.start_ns, chosen.end_ns),
            within(labels, chosen.start_ns, chosen.end_ns),
            limits or QualityLimits(),
        )
        with self._shelf.building():
            made = self._gather(plan, progress)
            made = replace(made, governance=tuple(governance), parents=tuple(parents))
            made = replace(made, who=who, why=why, made_ns=now_ns)
            made = made.force(who, force) if force and not made.gate.passed else made
            return self._shelf.put(made)

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
        temporary = self._shelf.temporary(self._shelf.files)
        try:
            with storage_errors(f"taking segments into {self._shelf.files}"):
                if not self._adopt(hour, temporary):
                    taking.empty += 1
                    return
                rows, selected = taking.measure(temporary, intervals=measured)
                if not selected:
                    taking.empty += 1
                if rows:
                    sha256, size = self._shelf.adopt(temporary)
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
                    link(parts[0].path, target)
                else:
                    self._segments.merge_into(parts, target)
                return True
            except FileNotFoundError:  # merged or deleted meanwhile
                target.unlink(missing_ok=True)
        raise StorageError(f"segments of the hour {hour} vanish while they are taken")

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
        self._shelf.keep(table)
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

    # -- what there is ------------------------------------------------------------------------------------------------

    def list(self) -> Manifests:
        """All datasets, the newest first; those whose manifest cannot be read are left out, and `damaged` has them."""
        return self._shelf.list()

    def damaged(self) -> dict[str, str]:
        """Manifests that cannot be read, with the reason."""
        return self._shelf.damaged()

    def load(self, name: str) -> Manifest:
        """A dataset by id. Raises: BadInput if there is none, StateError if its manifest was changed."""
        return self._shelf.load(name)

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
            path = self._shelf.segment(piece.sha256)
            try:
                if path.stat().st_size != piece.bytes or sha256_of(path) != piece.sha256:
                    problems.append(f"{path}: the segment of hour {piece.hour} was changed")
            except FileNotFoundError:
                problems.append(f"{path}: the segment of hour {piece.hour} is missing")
            except OSError as error:
                problems.append(f"{path}: the segment of hour {piece.hour} cannot be read: {error}")
        try:
            self._shelf.table(found)
        except StateError as error:
            problems.append(str(error))
        return problems

    # -- reading ------------------------------------------------------------------------------------------------------

    def series(self, name: str) -> SeriesTable:
        """The series of a dataset, by name, with what each is like. Raises: as `load`."""
        return self._shelf.table(self.load(name))

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

        At most about `rows` points are in memory at once (20 bytes each, 70 while they are put in order), however
        many there are; more of them mean fewer passes over the files. Points that are excluded are not among them,
        but those that only exclusions from the sources `included` leave out: confirmed incidents, for who is judged by
        them.
        Raises: as `load`, and StateError naming a segment that is missing or damaged.
        """
        found = self.load(name)
        table = self._shelf.table(found)
        wanted = range(len(table)) if series is None else [k for k, one in enumerate(table.names) if one in series]
        start = max(found.window.start_ns, start_ns if start_ns is not None else 0)
        end = min(found.window.end_ns, end_ns if end_ns is not None else found.window.end_ns)
        paths = [
            self._shelf.segment(piece.sha256)
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

    def windows(
        self, name: str, series: Sequence[str], *, start_ns: int = 0, end_ns: int | None = None, rows: int = CHUNK_ROWS
    ) -> Iterator[Chunk]:
        """The points of some series, sorted, one stretch of time after the other, each of about `rows` points.

        Series k of every chunk is `series[k]`; the memory that this takes is that of `read`. Raises: as `read`.
        """
        found = self.load(name)
        table = self._shelf.table(found)
        place = {text: k for k, text in enumerate(table.names)}
        share = float(table.rows[[place[text] for text in series]].sum()) / max(1, found.rows)
        start, end = max(found.window.start_ns, start_ns), min(found.window.end_ns, end_ns or found.window.end_ns)
        wanted = [
            piece
            for piece in sorted(found.pieces, key=lambda one: one.hour)
            if piece.hour * HOUR_NS < end and (piece.hour + 1) * HOUR_NS > start
        ]
        cuts = Cuts(found.exclusions)
        for text in series:
            cuts.add(Labels.from_json(text))
        for low, high in runs(np.array([piece.rows * share for piece in wanted]), rows):
            paths = [self._shelf.segment(piece.sha256) for piece in wanted[low:high]]
            try:
                yield Files(paths, start, end).chunk(series, cuts, 0, score=False)
            except FileNotFoundError as error:
                raise StateError(f"dataset {name}: the segment {error.filename} is missing") from error

    # -- keeping and deleting -----------------------------------------------------------------------------------------

    def delete(self, name: str, *, cited: Mapping[str, Collection[str]] | Collection[str] = ()) -> None:
        """Delete a dataset and the segments that no other has. Raises: BadInput when a live model version cites it."""
        if name in cited:
            by = f" ({', '.join(sorted(cited[name]))})" if isinstance(cited, Mapping) else ""
            raise BadInput(f"dataset {name} stays: a live model version cites it{by}")
        self._shelf.remove(name)

    def prune(self, keep: int, *, cited: Collection[str] = ()) -> Texts:
        """Delete all but the newest `keep` and those that are cited; returns the ids that are gone."""
        gone = [one.id for one in self.list()[keep:] if one.id not in cited]
        for name in gone:
            self.delete(name)
        self._shelf.sweep()
        return gone


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
