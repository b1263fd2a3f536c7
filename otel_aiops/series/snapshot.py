"""Snapshots: named arrays in one file that is either whole and as written, or refused."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from otel_aiops.errors import StateError
from otel_aiops.series.disk import MIB, make_directory, storage_errors, sync_directory, whole_file

Arrays = dict[str, NDArray[Any]]

# A file: magic, the arrays (each at a multiple of ALIGNMENT), the index (JSON), its hash, its length, magic.
# The index names every array with type, shape, offset and the hashes of its chunks, so the hash of the index
# covers everything. Hashing in chunks lets two cores share it.
MAGIC = b"AIOPSNAP"
VERSION = 1
ALIGNMENT = 64
CHUNK_BYTES = 4 * MIB
DIGEST_BYTES = 32
TAIL_BYTES = DIGEST_BYTES + 8 + len(MAGIC)
NUMBER_KINDS = "biuf"  # of numpy dtypes
HASH_THREADS = 2
KEPT = 2  # the newest, and one to fall back to


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Learned state after a sequence of the log. Equal arrays have equal digests, sequence apart."""

    sequence: int
    arrays: Arrays
    digest: str


def save(path: Path, sequence: int, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Write a snapshot, durable when this returns; returns its digest. Raises StorageError.

    StateError when an array is not of plain numbers.
    """
    with (
        storage_errors(f"writing the snapshot {path}"),
        ThreadPoolExecutor(HASH_THREADS) as pool,
        whole_file(path) as file,
    ):
        offset = file.write(MAGIC)
        listed = []
        for name in sorted(arrays):
            array = _plain(name, arrays[name])
            offset += file.write(bytes(-offset % ALIGNMENT))
            chunks = [pool.submit(_digest, chunk) for chunk in _chunks(array)]
            entry = {"name": name, "dtype": array.dtype.str, "shape": array.shape, "offset": offset}
            offset += file.write(_view(array))
            listed.append({**entry, "chunks": [chunk.result().hex() for chunk in chunks]})
        index = json.dumps({"version": VERSION, "sequence": sequence, "arrays": listed}).encode()
        file.write(index + _digest(index) + len(index).to_bytes(8, "little") + MAGIC)
    return _content_digest(listed)


def load(path: Path) -> Snapshot:
    """Read a snapshot back; StateError tells why one is refused, StorageError when it cannot be opened or read.

    A bad spot of the disk (EIO) is damage like any other and a StateError.
    """
    with storage_errors(f"reading the snapshot {path}"), path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            index, end = _read_index(file, size)
            with ThreadPoolExecutor(HASH_THREADS) as pool:
                arrays = {e["name"]: _read_array(file, e, end, pool) for e in index["arrays"]}
            return Snapshot(int(index["sequence"]), arrays, _content_digest(index["arrays"]))
        except (KeyError, TypeError, ValueError, EOFError) as error:
            raise StateError(f"{path} is not a snapshot of otel-aiops: {error!r}") from error
        except StateError as error:
            raise StateError(f"{path}: {error}") from error
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise StateError(f"{path}: the disk cannot read it, {error.strerror}") from error


def peek(path: Path, name: str) -> NDArray[Any]:
    """One array of a snapshot, checked as all of them are; nothing else is read. Raises: as `load`."""
    with storage_errors(f"reading the snapshot {path}"), path.open("rb", buffering=0) as file:
        try:
            index, end = _read_index(file, os.fstat(file.fileno()).st_size)
            with ThreadPoolExecutor(1) as pool:
                return _read_array(file, next(one for one in index["arrays"] if one["name"] == name), end, pool)
        except (KeyError, TypeError, ValueError, EOFError, StopIteration) as error:
            raise StateError(f"{path} is not a snapshot of otel-aiops: {error!r}") from error
        except StateError as error:
            raise StateError(f"{path}: {error}") from error


class Snapshots:
    """A directory of snapshots, named by the sequence they follow: the newest two, and older ones for audits.

    Of the older ones, those of the last `keep_s` seconds stay, one in `every_s`.
    """

    def __init__(self, directory: Path, *, keep_s: float = 0.0, every_s: float = 0.0) -> None:
        self._directory = directory
        self._keep_s, self._every_s = keep_s, every_s
        self.refused: list[str] = []  # why snapshots were not loaded

    def open(self) -> None:
        """Make the directory. Raises StorageError."""
        with storage_errors(f"opening the snapshots in {self._directory}"):
            make_directory(self._directory)

    def sequences(self) -> list[int]:
        """The sequences that have a snapshot, oldest first."""
        return sorted(int(p.stem) for p in self._directory.glob("*.snapshot") if p.stem.isdigit())

    def newest_ever(self) -> int:
        """The newest sequence that ever had a durable snapshot here, refused ones included; 0 when none."""
        return max((int(p.stem) for p in self._directory.iterdir() if p.stem.isdigit()), default=0)

    def save(self, sequence: int, arrays: Mapping[str, NDArray[Any]]) -> str:
        """Write a snapshot and drop those that are not kept any more; returns its digest. Raises StorageError."""
        digest = save(self.path(sequence), sequence, arrays)
        with suppress(OSError):  # the next one tries again
            self._drop_old()
        return digest

    def load_newest(self) -> tuple[int, Arrays] | None:
        """The newest snapshot that is whole. A refused one is set aside as `.refused`, the reason in `refused`."""
        for sequence in reversed(self.sequences()):
            path = self.path(sequence)
            try:
                return sequence, self.read(sequence)
            except StateError as error:
                self.refused.append(str(error))
                with storage_errors(f"setting {path} aside"):
                    path.replace(path.with_suffix(".refused"))
                    sync_directory(self._directory)
        return None

    def read(self, sequence: int) -> Arrays:
        """The snapshot of a sequence; nothing is set aside. Raises: StateError, StorageError."""
        path = self.path(sequence)
        found = load(path)
        if found.sequence != sequence:
            raise StateError(f"{path}: its name says {sequence}, its content {found.sequence}")
        return found.arrays

    def drop_before(self, sequence: int) -> None:
        """Drop those that nothing can be replayed from, because the log begins later. Raises OSError."""
        for found in self.sequences()[:-KEPT]:
            if found < sequence:
                self.path(found).unlink(missing_ok=True)

    def path(self, sequence: int) -> Path:
        """The file of a snapshot."""
        return self._directory / f"{sequence:020d}.snapshot"

    def _drop_old(self) -> None:
        known = self.sequences()
        kept = set(known[-KEPT:]) | self._for_audits(known[:-KEPT])
        for path in self._directory.iterdir():
            if path.stem.isdigit() and int(path.stem) < known[-KEPT:][0] and int(path.stem) not in kept:
                path.unlink(missing_ok=True)

    def _for_audits(self, sequences: list[int]) -> set[int]:
        """Of some snapshots, the oldest first, those that audits begin from."""
        kept: set[int] = set()
        last_s = float("-inf")
        oldest_s = time.time() - self._keep_s
        for sequence in sequences if self._keep_s else ():
            made_s = self.path(sequence).stat().st_mtime
            if made_s >= oldest_s and made_s - last_s >= self._every_s:
                kept.add(sequence)
                last_s = made_s
        return kept


def _plain(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in NUMBER_KINDS:
        raise StateError(f"{name}: expected an array of booleans, integers or floats, got {array.dtype}")
    return np.asarray(array, order="C")


def _view(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _chunks(array: NDArray[Any]) -> Iterator[memoryview]:
    view = _view(array)
    for start in range(0, len(view), CHUNK_BYTES):
        yield view[start : start + CHUNK_BYTES]


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def _content_digest(listed: list[dict[str, Any]]) -> str:
    content = [(e["name"], e["dtype"], list(e["shape"]), e["chunks"]) for e in listed]
    return _digest(json.dumps(content).encode()).hex()


def _read(file: BinaryIO, offset: int, size: int) -> bytearray:
    data = bytearray(size)
    _read_into(file, offset, memoryview(data))
    return data


def _read_into(file: BinaryIO, offset: int, view: memoryview) -> None:
    file.seek(offset)
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]  # of unbuffered files
        if not count:
            raise EOFError("the file is cut short")
        view = view[count:]


def _read_index(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The index and the offset where it starts."""
    if size < len(MAGIC) + TAIL_BYTES or _read(file, 0, len(MAGIC)) != MAGIC:
        raise StateError("not a snapshot of otel-aiops, the first bytes differ")
    tail = bytes(_read(file, size - TAIL_BYTES, TAIL_BYTES))
    digest, length = tail[:DIGEST_BYTES], int.from_bytes(tail[DIGEST_BYTES:-8], "little")
    start = size - TAIL_BYTES - length
    if tail[-8:] != MAGIC or start < len(MAGIC):
        raise StateError("the snapshot is cut short, its last bytes are missing")
    data = bytes(_read(file, start, length))
    if _digest(data) != digest:
        raise StateError("the snapshot is damaged, the hash of its index differs")
    index: dict[str, Any] = json.loads(data)
    if index["version"] != VERSION:
        raise StateError(f"expected a snapshot of version {VERSION}, got version {index['version']}")
    return index, start


def _read_array(file: BinaryIO, entry: dict[str, Any], end: int, pool: ThreadPoolExecutor) -> NDArray[Any]:
    name, dtype, shape, offset = entry["name"], np.dtype(entry["dtype"]), entry["shape"], entry["offset"]
    size = math.prod(shape) * dtype.itemsize
    if dtype.kind not in NUMBER_KINDS or min([offset, *shape]) < 0 or offset + size > end:
        raise StateError(f"{name}: {dtype} of shape {shape} at byte {offset} does not fit into the file")
    array = np.empty(shape, dtype)
    digests = []
    for start, chunk in zip(range(0, size, CHUNK_BYTES), _chunks(array), strict=True):
        _read_into(file, offset + start, chunk)
        digests.append(pool.submit(_digest, chunk))
    if [digest.result().hex() for digest in digests] != entry["chunks"]:
        raise StateError(f"{name}: the snapshot is damaged, the hash of the array differs")
    return array
