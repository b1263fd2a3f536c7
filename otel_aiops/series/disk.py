"""The settings of the store and the file operations that make data durable, whole and private."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from otel_aiops.errors import ConfigError, StorageError

MIB = 1 << 20
DAY_S = 86_400.0
RETRY_DISK_S = 5.0  # a full disk is rarely emptied sooner; senders back off from there
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
TEMPORARY = ".tmp"

SYNC_POLICIES = ("commit", "interval", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """What the store may use of the disk and of memory, and when it waits for the disk.

    `sync` is "commit" (a body is acknowledged when it is on the disk, one fdatasync for all that wait),
    "interval" (acknowledged when the kernel has it, on the disk every `sync_interval`: survives a killed
    process, may lose the last interval with the power) or "off" (the kernel decides). Below `min_free_bytes`
    new bodies are refused, so that snapshots and the journal still find room. `log_keep_*` count only what no
    recovery needs any more; over `snapshot_*` a snapshot is due.
    """

    directory: str = "otel-aiops-data"  # where everything is kept, relative to where the process was started
    sync: Literal["commit", "interval", "off"] = "commit"  # what an acknowledgement means; see Durability
    sync_interval: float = 0.1  # with `sync: interval`, how often the log is put on the disk
    min_free_bytes: int = 256 * MIB  # with less space left new bodies are refused, and taken again when there is more
    log_file_bytes: int = 64 * MIB  # a file of the log is closed at this size
    log_file_age: float = 3600.0  # or at this age
    log_keep: float = DAY_S  # how long the log is kept beyond what a recovery needs
    log_keep_bytes: int = 4096 * MIB  # and at most so much of it
    queue_bodies: int = 4096  # accepted bodies that may wait to be scored; over it senders are told to retry
    queue_bytes: int = 256 * MIB  # the same bound in decoded bytes
    snapshot_log_bytes: int = 512 * MIB  # a snapshot is due after so much log, which bounds the time of a restart
    snapshot_rows_bytes: int = 128 * MIB  # or when so many scored points wait for it in memory
    segments_keep: float = 30 * DAY_S  # how long scored points are kept as Parquet
    segments_keep_bytes: int = 20480 * MIB  # and at most so much of it

    def __post_init__(self) -> None:
        if self.sync not in SYNC_POLICIES:
            raise ConfigError("sync", f"must be one of {', '.join(SYNC_POLICIES)}, got {self.sync!r}")
        if self.min_free_bytes < 0:
            raise ConfigError("min_free_bytes", f"must be >= 0, got {self.min_free_bytes}")
        for name in self.__slots__:
            value = getattr(self, name)
            if name not in ("directory", "sync", "min_free_bytes") and not value > 0:
                raise ConfigError(name, f"must be > 0, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    """How far back a score can be made again bit for bit, which needs the log since a snapshot before it.

    It costs the log of that time, within `storage.log_keep_bytes`, and `keep / every` more snapshots.
    """

    keep: float = DAY_S  # how far back a score can be made again bit for bit; 0 keeps nothing for it
    every: float = 21_600.0  # one snapshot in so long is kept; an audit replays at most so much log

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        if not self.keep >= 0:
            raise ConfigError("keep", f"must be >= 0 s, got {self.keep}")
        if not self.every > 0:
            raise ConfigError("every", f"must be > 0 s, got {self.every}")

    @property
    def reach(self) -> float:
        """For how long the log and its snapshots stay, in s: a snapshot must stand before what is asked for."""
        return self.keep + self.every if self.keep else 0.0


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError that says what was being done."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{doing}: {error.strerror or error}", retry_after_s=RETRY_DISK_S) from error


def make_directory(path: Path) -> None:
    """Make a directory and its parents, private and durable; one that exists keeps its mode."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make what was created, renamed or deleted in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears under its name complete and durable, or not at all. Raises OSError.

    What was written can be read back and changed until then.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
        sync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def remove_temporary(directory: Path) -> None:
    """Remove what a crash left of files that were never complete."""
    for path in directory.rglob("*" + TEMPORARY):
        path.unlink(missing_ok=True)


def free_bytes(path: Path) -> int:
    """Bytes that an ordinary user may still write to the file system of `path`. Raises OSError."""
    facts = os.statvfs(path)
    return facts.f_bavail * facts.f_frsize


class DirectoryLock:
    """Keeps a second process out of a data directory, for as long as this one lives."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock; ConfigError with the holder's pid when another process has it. Raises OSError."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            message = f"{self._path.parent} is in use by process {holder}, every process needs one of its own"
            raise ConfigError("storage.directory", message) from error
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        with suppress(OSError):  # a full disk does not keep the owner out
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
