"""The files of the write-ahead log: how bodies are framed in them and read back after any damage."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from itertools import pairwise
from pathlib import Path

from otel_aiops.errors import StateError, TooLarge
from otel_aiops.series.disk import FILE_MODE

# File:   magic, version, reserved, salt, first sequence, opened_ns, crc of these.
# Record: magic, crc of the header after it, crc of the body, length, sequence, received_ns, kind,
#         compression, format, reserved; then the body. Checksums start from the salt of the file, so that
#         nothing inside a body that somebody sends can pass for a record when the reader looks for one.
FILE_HEADER = struct.Struct("<8sHHIQqI")
FILE_MAGIC = b"AIOPSWAL"
VERSION = 1
RECORD_HEADER = struct.Struct("<4sIIIQqBBBB")
RECORD_MAGIC = b"\xa1\x0bRc"
CHECKED_FROM = 8  # the header's checksum covers what follows it
BODY_LIMIT_BYTES = 1 << 30
VECTORS_LIMIT = 1024  # IOV_MAX of Linux


class RecordKind(IntEnum):
    """What a record of the log holds. A TICK lets time pass when nothing comes; its body is empty.

    A LESSON is what operators teach, a DECISION what they decide about incidents, PRECURSORS are models that were
    learned from the history of incidents, a ROLLOUT says which versions are to run, ALERTS are what others alert
    about; all as JSON.
    """

    METRICS = 1
    TRACES = 2
    LOGS = 3
    TICK = 4
    BACKFILL = 5
    LESSON = 6
    DECISION = 7
    PRECURSORS = 8
    ROLLOUT = 9
    ALERTS = 10


class Compression(StrEnum):
    """How a body is compressed, in the words of Content-Encoding."""

    IDENTITY = "identity"
    GZIP = "gzip"
    DEFLATE = "deflate"
    ZSTD = "zstd"


class Format(StrEnum):
    """How a body is encoded under its compression."""

    PROTOBUF = "protobuf"
    JSON = "json"


COMPRESSIONS = tuple(Compression)  # the index is the code in the file: append only
FORMATS = tuple(Format)


@dataclass(frozen=True, slots=True)
class Received:
    """A body as it came, and when."""

    kind: RecordKind
    received_ns: int
    body: bytes = b""
    compression: Compression = Compression.IDENTITY
    format: Format = Format.PROTOBUF

    def __post_init__(self) -> None:
        if len(self.body) > BODY_LIMIT_BYTES:
            raise TooLarge(f"a body must be at most {BODY_LIMIT_BYTES} bytes, got {len(self.body)}")


@dataclass(frozen=True, slots=True)
class Record:
    """A body in the log. Sequences start at 1; `received.received_ns` never decreases along the log."""

    sequence: int
    received: Received


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a log file that are not what was written; `torn` when nothing whole follows them.

    `sequence` is the record's when that is still known, else 0.
    """

    path: Path
    offset: int
    reason: str
    torn: bool = False
    sequence: int = 0

    def __str__(self) -> str:
        return f"{self.path} at byte {self.offset}: {self.reason}"


def log_path(directory: Path, first: int) -> Path:
    """The file whose first record is `first`."""
    return directory / f"{first:020d}.log"


def log_files(directory: Path) -> list[tuple[int, Path]]:
    """First sequence and path of every log file, in order."""
    return sorted((int(p.stem), p) for p in directory.glob("*.log") if p.stem.isdigit())


def file_header(first: int, opened_ns: int, salt: int) -> bytes:
    fields = FILE_HEADER.pack(FILE_MAGIC, VERSION, 0, salt, first, opened_ns, 0)[:-4]
    return fields + zlib.crc32(fields).to_bytes(4, "little")


def record_header(sequence: int, received_ns: int, received: Received, salt: int) -> bytes:
    body = received.body
    kinds = received.kind, COMPRESSIONS.index(received.compression), FORMATS.index(received.format), 0
    checksum = zlib.crc32(body, salt)
    fields = RECORD_HEADER.pack(RECORD_MAGIC, 0, checksum, len(body), sequence, received_ns, *kinds)
    checked = fields[CHECKED_FROM:]
    return RECORD_MAGIC + zlib.crc32(checked, salt).to_bytes(4, "little") + checked


class LogFile:
    """A log file that is being written; knows how much of it is written and how much is durable."""

    def __init__(self, path: Path, first: int, opened_ns: int) -> None:
        """Create the file. Raises OSError, also when it exists."""
        self.path = path
        self.first = first
        self.opened_ns = opened_ns
        self.salt = int.from_bytes(os.urandom(4), "little")
        self.size = 0
        self.durable = 0
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)

    def write(self, buffers: Sequence[bytes]) -> None:
        """Append all of `buffers`. Raises OSError; then any part of them may be in the file."""
        views = [memoryview(b) for b in buffers if b]
        done = 0
        while done < len(views):
            written = os.writev(self._descriptor, views[done : done + VECTORS_LIMIT])
            self.size += written
            while done < len(views) and written >= len(views[done]):
                written -= len(views[done])
                done += 1
            if written:
                views[done] = views[done][written:]

    def sync(self) -> None:
        """Wait until all that is written is durable. Raises OSError; then only `durable` bytes are."""
        os.fdatasync(self._descriptor)
        self.durable = self.size

    def cut(self, size: int) -> None:
        """Forget what follows `size`. Raises OSError."""
        os.ftruncate(self._descriptor, size)
        os.lseek(self._descriptor, size, os.SEEK_SET)
        self.size = size
        self.durable = min(self.durable, size)

    def close(self) -> None:
        os.close(self._descriptor)


def opened_ns(path: Path) -> int | None:
    """When the first record of a file was received; None when its header is damaged.

    Raises OSError, and StateError when a later version wrote the file.
    """
    with path.open("rb") as file:
        header = _file_header(file.read(FILE_HEADER.size))
    if header is not None and header[2] != VERSION:
        raise StateError(f"{path}: expected a log of version {VERSION}, got version {header[2]}")
    return None if header is None else header[1]


def read_file(path: Path) -> Iterator[Record | Damage]:
    """The records of a file, and its damages in between; after damage comes the next record that is whole.

    Raises OSError when the file cannot be read.
    """
    data = path.read_bytes()
    header = _file_header(data)
    if header is None or header[2] != VERSION:
        yield Damage(path, 0, "the header of the file is damaged or of a later version")
        return
    salt, offset = header[0], FILE_HEADER.size
    while offset < len(data):
        end = _end(data, offset, salt)
        if isinstance(end, str):
            resume = _resume(data, offset + 1, salt)
            yield Damage(path, offset, end, torn=resume == len(data))
            offset = resume
            continue
        yield _record(path, data, offset, end)
        offset = end


def read_log(directory: Path, *, after: int, through: int, damages: list[Damage] | None = None) -> Iterator[Record]:
    """Records with after < sequence <= through, in order; damages are appended to `damages`.

    A file ends where the next one begins: what an abandoned file holds beyond that was never acknowledged.
    """
    damages = [] if damages is None else damages
    files = log_files(directory)
    ends = [*(first - 1 for first, _ in files[1:]), through]
    for (first, path), end in zip(files, ends, strict=False):
        end = min(end, through)
        if end <= after or first > through:
            continue
        try:
            yield from _read_until(path, after, end, damages)
        except OSError as error:
            damages.append(Damage(path, 0, f"cannot be read: {error.strerror}"))


def trim_log(directory: Path, *, covered: int, now_ns: int, keep_s: float, keep_bytes: int) -> tuple[int, int]:
    """Delete the oldest files that hold nothing after `covered`, by age and by total size; files and bytes.

    The newest file always stays. Raises OSError.
    """
    files = log_files(directory)
    old = [(path, following) for (first, path), (then, following) in pairwise(files) if then - 1 <= covered]
    total = sum(path.stat().st_size for path, _ in old)
    deleted = deleted_bytes = 0
    for path, following in old:
        ended_ns = opened_ns(following) or 0
        if now_ns - ended_ns < keep_s * 1e9 and total - deleted_bytes <= keep_bytes:
            break
        deleted += 1
        deleted_bytes += path.stat().st_size
        path.unlink()
    for path in directory.glob("*.damaged"):
        if files and path.stem < files[deleted][1].stem:
            path.unlink()
    return deleted, deleted_bytes


def _read_until(path: Path, after: int, end: int, damages: list[Damage]) -> Iterator[Record]:
    for found in read_file(path):
        if isinstance(found, Damage):
            damages.append(found)
            continue
        if after < found.sequence <= end:
            yield found
        if found.sequence >= end:
            return


def _file_header(data: bytes) -> tuple[int, int, int] | None:
    """Salt, opened_ns and version."""
    if len(data) < FILE_HEADER.size:
        return None
    magic, version, _, salt, _, opened, checksum = FILE_HEADER.unpack_from(data)
    if magic != FILE_MAGIC or checksum != zlib.crc32(data[: FILE_HEADER.size - 4]):
        return None
    return salt, opened, version


def _end(data: bytes, offset: int, salt: int) -> int | str:
    """Where the record at `offset` ends, or why there is none."""
    start = offset + RECORD_HEADER.size
    if start > len(data):
        return "cut off inside a record header"
    magic, checksum, body_checksum, length, sequence, *_ = RECORD_HEADER.unpack_from(data, offset)
    if magic != RECORD_MAGIC or checksum != zlib.crc32(data[offset + CHECKED_FROM : start], salt):
        return "a record header was expected, its checksum does not fit"
    if start + length > len(data):
        return f"cut off inside a body of {length} bytes"
    if body_checksum != zlib.crc32(memoryview(data)[start : start + length], salt):
        return f"the checksum of record {sequence} does not fit its body"
    return start + int(length)


def _record(path: Path, data: bytes, offset: int, end: int) -> Record | Damage:
    """The record from `offset` to `end`; damage when a later version wrote it."""
    *_, sequence, received_ns, kind, compression, form, _ = RECORD_HEADER.unpack_from(data, offset)
    body = data[offset + RECORD_HEADER.size : end]
    try:
        received = Received(RecordKind(kind), received_ns, body, COMPRESSIONS[compression], FORMATS[form])
    except (ValueError, IndexError):
        reason = f"record {sequence} is of a kind or encoding that only later versions know"
        return Damage(path, offset, reason, sequence=sequence)
    return Record(sequence, received)


def _resume(data: bytes, offset: int, salt: int) -> int:
    """Where the next whole record starts; the end of the data when there is none."""
    while (offset := data.find(RECORD_MAGIC, offset)) >= 0:
        if isinstance(_end(data, offset, salt), int):
            return offset
        offset += 1
    return len(data)
