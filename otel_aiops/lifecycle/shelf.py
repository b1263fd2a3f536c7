"""The shelf: the files of datasets on the disk, each whole under its name or not there at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from otel_aiops.errors import BadInput, Overloaded, StateError
from otel_aiops.lifecycle.manifest import Manifest
from otel_aiops.lifecycle.tables import SeriesTable, read_table, write_table
from otel_aiops.series.disk import TEMPORARY, make_directory, remove_temporary, storage_errors, sync_directory

ID = re.compile(r"[0-9a-f]{16}")
Texts = list[str]
Manifests = list[Manifest]


class Shelf:
    """Manifests, segments and tables of series below a directory; see `Datasets` for what they are."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = directory / "segments"
        self.tables = directory / "series"

    def prepare(self) -> None:
        """Make the directories, and delete what killed builds left. Raises: StorageError."""
        with storage_errors(f"preparing {self.directory}"):
            for directory in (self.directory, self.files, self.tables):
                make_directory(directory)
        self.sweep()

    def path(self, name: str) -> Path:
        """The manifest of a dataset."""
        return self.directory / f"{name}.json"

    def segment(self, sha256: str) -> Path:
        """A segment by its content."""
        return self.files / f"{sha256}.parquet"

    def table(self, manifest: Manifest) -> SeriesTable:
        """The table of series of a dataset. Raises: StateError."""
        return read_table(self.tables / f"{manifest.series_sha256}.parquet")

    def list(self) -> Manifests:
        """All datasets, the newest first; those whose manifest cannot be read are left out, and `damaged` has them."""
        found = []
        for name in self.ids():
            with suppress(StateError):
                found.append(self.load(name))
        return sorted(found, key=lambda one: (-one.made_ns, one.id))

    def damaged(self) -> dict[str, str]:
        """Manifests that cannot be read, with the reason."""
        found = {}
        for name in self.ids():
            try:
                self.load(name)
            except StateError as error:
                found[name] = str(error)
        return found

    def load(self, name: str) -> Manifest:
        """A dataset by id. Raises: BadInput if there is none, StateError if its manifest was changed."""
        if not ID.fullmatch(name):
            raise BadInput(f"dataset: expected an id of 16 hexadecimal digits, got {name!r}")
        path = self.path(name)
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

    def ids(self) -> Texts:
        """Of all manifests, readable or not."""
        return sorted(path.stem for path in self.directory.glob("*.json") if ID.fullmatch(path.stem))

    # -- writing ------------------------------------------------------------------------------------------------------

    def temporary(self, directory: Path) -> Path:
        """A name that nobody else has, which `sweep` deletes after a crash."""
        return directory / f"{secrets.token_hex(8)}{TEMPORARY}"

    def adopt(self, temporary: Path) -> tuple[str, int]:
        """Give a segment its name; (SHA-256, bytes). Who comes first with the same content wins; damage is replaced."""
        sha256, size = sha256_of(temporary), temporary.stat().st_size
        path = self.segment(sha256)
        if path.exists() and (path.samefile(temporary) or sha256_of(path) == sha256):
            return sha256, size
        path.unlink(missing_ok=True)  # or a rename to another link of the same file would do nothing
        temporary.replace(path)
        return sha256, size

    def keep(self, table: SeriesTable) -> None:
        """Write a table of series, and have the segments and it on the disk for good. Raises: StorageError."""
        with storage_errors(f"writing to {self.tables}"):
            path = self.tables / f"{table.sha256}.parquet"
            with suppress(StateError):
                read_table(path)
                sync_directory(self.files)
                return
            temporary = self.temporary(self.tables)
            write_table(table, temporary)
            temporary.replace(path)
            sync_directory(self.tables)
            sync_directory(self.files)

    def put(self, made: Manifest) -> Manifest:
        """Write a manifest, unless the same content is there; a new reason to force it is noted."""
        path = self.path(made.id)
        with storage_errors(f"writing {path}"):
            temporary = self.temporary(self.directory)
            try:
                _write(temporary, made)
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    with suppress(StateError):
                        found = self.load(made.id)
                        if found.forced or not made.forced:
                            return found
                        made = replace(found, forced=made.forced)
                        _write(temporary, made)
                    temporary.replace(path)
                sync_directory(self.directory)
                return made
            finally:
                temporary.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Delete a manifest, and the segments that no other has. Raises: BadInput, StorageError."""
        path = self.path(name)
        if not ID.fullmatch(name) or not path.exists():
            raise BadInput(f"no dataset has the id {name}")
        with storage_errors(f"deleting dataset {name}"):
            path.unlink(missing_ok=True)
            sync_directory(self.directory)
        self.sweep()

    def sweep(self) -> None:
        """Delete what no manifest names, unless somebody is building. Nothing goes when a manifest cannot be read."""
        try:
            with self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
                if self.damaged():
                    return
                manifests = self.list()
                named = {f"{piece.sha256}.parquet" for one in manifests for piece in one.pieces}
                named |= {f"{one.series_sha256}.parquet" for one in manifests}
                with storage_errors(f"deleting from {self.directory}"):
                    remove_temporary(self.directory)
                    for path in (*self.files.glob("*.parquet"), *self.tables.glob("*.parquet")):
                        if path.name not in named:
                            path.unlink(missing_ok=True)
        except Overloaded:
            return

    @contextmanager
    def building(self) -> Iterator[None]:
        """While it lasts, nobody deletes segments that no manifest names yet; what is left of a failure goes."""
        try:
            with self._locked(fcntl.LOCK_SH):
                yield
        except BaseException:
            with suppress(Exception):
                self.sweep()
            raise

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Hold the lock: shared by those who build, alone for who deletes. Raises: Overloaded when it cannot be had."""
        with storage_errors(f"locking {self.directory}"):
            descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, how)
            except BlockingIOError:
                raise Overloaded(f"{self.directory} is in use") from None
            yield
        finally:
            os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Of the bytes of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where that is not possible. Raises: FileNotFoundError, OSError."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        with source.open("rb") as original, target.open("xb") as copy:
            shutil.copyfileobj(original, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())


def _write(path: Path, manifest: Manifest) -> None:
    with path.open("wb") as file:
        file.write(json.dumps(manifest.to_json(), indent=1, sort_keys=True).encode())
        file.flush()
        os.fsync(file.fileno())
