"""The durable store: received bodies, learned state and scored points of one data directory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from otel_aiops.series.disk import (
    AuditConfig,
    DirectoryLock,
    StorageConfig,
    make_directory,
    remove_temporary,
    storage_errors,
)
from otel_aiops.series.inbox import Entry, Inbox
from otel_aiops.series.log import Log
from otel_aiops.series.records import LogFile, Received, Record, trim_log
from otel_aiops.series.rows import F32, F64, I64, Buffer, Describe, Recorded
from otel_aiops.series.segments import Segments
from otel_aiops.series.snapshot import KEPT, Arrays, Snapshots

if TYPE_CHECKING:
    import pyarrow as pa

COUNTS = (
    *("rows", "rows_known", "rows_dropped", "segment_bytes", "snapshots", "merged_hours"),
    *("deleted_log_files", "deleted_log_bytes", "deleted_segment_files", "deleted_segment_bytes"),
)
ROWS_LIMIT = 4  # times `snapshot_rows_bytes`: beyond that points are dropped, because no snapshot succeeds


@dataclass(frozen=True, slots=True)
class Recovery:
    """Where a start begins: `arrays` are the state after `sequence` (None and 0 without a snapshot).

    The log is to be replayed from there to `last`. `notes` tell the operator what was found damaged.
    """

    sequence: int
    arrays: Arrays | None
    last: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Deleted:
    """What retention removed."""

    log_files: int = 0
    log_bytes: int = 0
    segment_files: int = 0
    segment_bytes: int = 0


class History:
    """Owner of a data directory: ``wal/``, ``snapshots/``, ``segments/`` and the lock.

    Any thread may `append`; one step loop takes, records and says when to snapshot; `snapshot`, `compact` and
    `enforce` may run in a thread beside it and never hold up an append. The points of sequences up to a
    snapshot are on the disk before the snapshot is, so that a replay from it doubles none and misses none.
    """

    def __init__(
        self,
        config: StorageConfig,
        directory: Path,
        *,
        audit: AuditConfig | None = None,
        create: Callable[[Path, int, int], LogFile] = LogFile,
    ) -> None:
        self._config = config
        self._audit = audit or AuditConfig(keep=0)
        self._directory = directory
        self._lock = DirectoryLock(directory)
        self._inbox = Inbox(bodies=config.queue_bodies, weight=config.queue_bytes)
        self._log = Log(directory / "wal", config, self._inbox, create=create)
        self._snapshots = Snapshots(directory / "snapshots", keep_s=self._audit.reach, every_s=self._audit.every)
        self._segments = Segments(directory / "segments")
        self._buffer = Buffer()
        self._files = threading.Lock()  # one thread at a time changes snapshots and segments
        self._recovered = 0
        self._through = 0  # the sequence up to which points are on the disk
        self._log_bytes_at_snapshot = 0
        self._counts = dict.fromkeys(COUNTS, 0)
        self._snapshot_duration_s = float("nan")

    def open(self) -> Recovery:
        """Take the directory over and bring it in order after whatever happened.

        Raises ConfigError when another process has it, StorageError when the disk does not answer, StateError
        when a later version wrote the log.
        """
        try:
            with storage_errors(f"opening {self._directory}"):
                make_directory(self._directory)
                self._lock.acquire()
            return self._recover()
        except BaseException:
            self._lock.release()
            raise

    def replay(self, after: int | None = None) -> Iterator[Record]:
        """What the log held at the start after a sequence, by default after the recovered snapshot."""
        return self._log.replay(self._recovered if after is None else after)

    def append(self, received: Received, *, item: object = None, weight: int | None = None) -> int:
        """Log a body and queue its item for the step loop, in the order of the sequences; see `Log.append`."""
        return self._log.append(received, item=item, weight=weight)

    def take(self, timeout_s: float) -> Entry | None:
        """The next durable record for the step loop; None when none comes in time."""
        return self._inbox.take(timeout_s)

    def wake(self) -> None:
        """Let `take` return at once, because something else waits for the step loop."""
        self._inbox.wake()

    def record(self, sequence: int, recorded: Recorded, describe: Describe) -> None:
        """Keep the scored points of a step until the next snapshot puts them down.

        Sequences must not decrease. `describe` gives the canonical texts of some rows; it is called here and
        now, for series that were not seen lately. What an earlier run put down already is left out.
        """
        if sequence <= self._through:
            self._counts["rows_known"] += len(recorded)
        elif self._buffer.bytes >= ROWS_LIMIT * self._config.snapshot_rows_bytes:
            self._counts["rows_dropped"] += len(recorded)
        elif len(recorded):
            self._buffer.add(sequence, recorded, describe)

    @property
    def wants_snapshot(self) -> bool:
        """Whether so much waits that memory or the time of a restart asks for a snapshot."""
        log_bytes = self._log_bytes() - self._log_bytes_at_snapshot
        return self._buffer.bytes >= self._config.snapshot_rows_bytes or log_bytes >= self._config.snapshot_log_bytes

    def snapshot(self, sequence: int, arrays: Mapping[str, NDArray[Any]]) -> str:
        """Make the state after `sequence` durable, with all points up to it; returns the digest of the state.

        The arrays must not change any more. Raises StorageError; then the one before still counts and nothing
        that waits is lost.
        """
        with self._files:
            start_s, log_bytes = time.monotonic(), self._log_bytes()
            if sequence > self._through:
                columns = self._buffer.through(sequence)
                self._counts["segment_bytes"] += self._segments.write(self._through + 1, sequence, columns)
                self._counts["rows"] += len(columns)
                self._through = sequence
                self._buffer.drop(sequence)
            digest = self._snapshots.save(sequence, arrays)
            self._log_bytes_at_snapshot = log_bytes
            self._snapshot_duration_s = time.monotonic() - start_s
            self._counts["snapshots"] += 1
            return digest

    def compact(self, watermark_ns: int) -> int:
        """Merge the segments of hours that ended by the watermark; returns how many. Raises StorageError."""
        with self._files:
            merged = self._segments.compact(watermark_ns, through=self._through)
            self._counts["merged_hours"] += merged
            return merged

    def enforce(self, now_ns: int) -> Deleted:
        """Delete what is older or more than is kept, and never what a recovery needs. Raises StorageError."""
        config = self._config
        with self._files, storage_errors(f"deleting from {self._directory}"):
            kept = self._snapshots.sequences()
            log = (0, 0)
            if len(kept) >= KEPT:
                log = trim_log(
                    self._directory / "wal",
                    covered=kept[-KEPT],
                    now_ns=now_ns,
                    keep_s=max(config.log_keep, self._audit.reach),
                    keep_bytes=config.log_keep_bytes,
                )
                self._snapshots.drop_before((self._log.first or 1) - 1)
            segments = self._segments.enforce(
                now_ns, keep_s=config.segments_keep, keep_bytes=config.segments_keep_bytes
            )
        deleted = Deleted(*log, *segments)
        for name in Deleted.__slots__:
            self._counts[f"deleted_{name}"] += getattr(deleted, name)
        return deleted

    def read(self, start_ns: int, end_ns: int, series: str | Sequence[str] | None = None) -> pa.Table:
        """Points that are on the disk; see `Segments.read`."""
        return self._segments.read(start_ns, end_ns, series)

    def points(self, series: str, start_ns: int, end_ns: int) -> tuple[I64, F64, F32]:
        """(time_ns, value, score) of one series, those that wait for the next snapshot included, in no order.

        From any thread. A point may stand twice when a snapshot is made meanwhile. Raises as `read`.
        """
        import numpy as np
        import pyarrow as pa

        waiting: tuple[NDArray[Any], ...] = self._buffer.of(series)  # before the disk, so that none is missed
        table = self._segments.read(start_ns, end_ns, series)
        recorded = table["timestamp"].cast(pa.int64()).to_numpy(), table["value"].to_numpy(), table["score"].to_numpy()
        mine = (waiting[0] >= start_ns) & (waiting[0] < end_ns)
        time_ns, value, score = (np.append(recorded[k], waiting[k][mine]) for k in range(3))
        return time_ns, value, score

    def many(self, series: Sequence[str], start_ns: int, end_ns: int) -> dict[str, tuple[I64, F64]]:
        """(time_ns, value) of many series, in the order of time, in one pass over the disk.

        What waits for the next snapshot is not among them. From any thread. Raises as `read`.
        """
        import numpy as np
        import pyarrow as pa

        table = self._segments.read(start_ns, end_ns, series).combine_chunks()
        if not len(table):
            return {}
        names = table["series"].combine_chunks()
        time_ns, value = table["timestamp"].cast(pa.int64()).to_numpy(), table["value"].to_numpy()
        code = names.indices.to_numpy()
        order = np.lexsort((time_ns, code))
        ends = np.searchsorted(code[order], np.arange(len(names.dictionary) + 1))
        parts = {name: order[ends[k] : ends[k + 1]] for k, name in enumerate(names.dictionary.to_pylist())}
        return {name: (time_ns[part], value[part]) for name, part in parts.items() if len(part)}

    def notes(self) -> list[str]:
        """What was found damaged so far, in plain words."""
        return [*self._snapshots.refused, *map(str, self._log.damages), *self._segments.damages]

    def stats(self) -> dict[str, float]:
        """Counts since the start, and how full things are."""
        return {
            **self._log.counts,
            **self._counts,
            "snapshots_refused": len(self._snapshots.refused),
            "segments_damaged": len(self._segments.damages),
            "snapshot_duration_s": self._snapshot_duration_s,
            "last_sequence": self._log.last,
            "rows_waiting_bytes": self._buffer.bytes,
            "queue_bodies": self._inbox.bodies,
            "queue_bytes": self._inbox.weight,
        }

    def close(self) -> None:
        """Finish waiting appends and let the directory go; safe to call twice. Snapshot before, if wanted."""
        self._log.close()
        self._lock.release()

    def _recover(self) -> Recovery:
        self._snapshots.open()
        remove_temporary(self._directory / "snapshots")
        found = self._snapshots.load_newest()
        self._recovered, arrays = found or (0, None)
        # Points that the log can bring no more stay, even when all snapshots are gone.
        logged = self._log.first
        ended = self._segments.last() if logged is None else logged - 1
        self._through = self._segments.open(max(self._recovered, self._snapshots.newest_ever(), ended))
        self._log.open(floor=max(self._recovered, self._through))
        return Recovery(self._recovered, arrays, self._log.last, tuple(self.notes()))

    def _log_bytes(self) -> int:
        return self._log.counts["appended_bytes"] + self._log.counts["replayed_bytes"]
