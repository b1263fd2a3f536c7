"""The write-ahead log: what it acknowledged is read back, in order, after any crash."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from otel_aiops.errors import Overloaded, StorageError
from otel_aiops.series.disk import (
    RETRY_DISK_S,
    StorageConfig,
    free_bytes,
    make_directory,
    storage_errors,
    sync_directory,
)
from otel_aiops.series.inbox import Entry, Inbox
from otel_aiops.series.records import (
    FILE_HEADER,
    Damage,
    LogFile,
    Received,
    Record,
    file_header,
    log_files,
    log_path,
    opened_ns,
    read_file,
    read_log,
    record_header,
)

NS = 1_000_000_000
COUNTS = (
    *("appended", "appended_bytes", "commits", "syncs", "sync_failures", "refused_full", "refused_disk"),
    *("replayed", "replayed_bytes", "torn", "torn_bytes", "corrupt", "missing"),
)


class _Ticket:
    """One append that waits for its commit."""

    __slots__ = ("_done", "error", "item", "received", "sequence", "weight")

    def __init__(self, received: Received, item: object, weight: int) -> None:
        self.received = received
        self.item = item
        self.weight = weight
        self.sequence = 0
        self.error = ""
        self._done = threading.Lock()
        self._done.acquire()

    def wait(self) -> None:
        self._done.acquire()

    def finish(self) -> None:
        self._done.release()


class Log:
    """Append-only files of received bodies, with one commit for all that wait.

    One thread of its own writes: it takes everything that waits, gives out sequences, writes, waits for the
    disk once, puts the entries on the inbox in order, and lets the appenders go. While it waits for the disk,
    the next group gathers. A sequence is given away only when its record is written as the policy asks, so a
    failed group leaves no gap and its numbers are used again.
    """

    def __init__(
        self,
        directory: Path,
        config: StorageConfig,
        inbox: Inbox,
        *,
        create: Callable[[Path, int, int], LogFile] = LogFile,
    ) -> None:
        self._directory = directory
        self._config = config
        self._inbox = inbox
        self._create = create
        self._work = threading.Condition()
        self._waiting: list[_Ticket] = []
        self._closing = True  # until open
        self._thread: threading.Thread | None = None
        self._file: LogFile | None = None
        self._synced_s = 0.0
        self._dirty = False
        self._last = 0
        self._last_ns = 0
        self._opened_through = 0
        self.damages: list[Damage] = []
        self.counts = dict.fromkeys(COUNTS, 0)

    @property
    def last(self) -> int:
        """The newest sequence that is written as the policy asks; 0 when there is none."""
        return self._last

    @property
    def first(self) -> int | None:
        """The oldest sequence that may still be read; None when there are no files."""
        files = log_files(self._directory)
        return files[0][0] if files else None

    def open(self, *, floor: int = 0) -> None:
        """Find the end of the log, cut off what a crash left half written, and start to accept appends.

        New sequences are larger than every one in the log and than `floor`. Raises StorageError when the disk
        refuses and StateError when a later version wrote the log.
        """
        with storage_errors(f"opening the log in {self._directory}"):
            make_directory(self._directory)
            self._find_end()
        self._last = max(self._last, floor)
        self._opened_through = self._last
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def append(self, received: Received, *, item: object = None, weight: int | None = None) -> int:
        """Write a body to the log and return its sequence once it is durable by the policy; from any thread.

        By then `Entry(sequence, received_ns, kind, item)` is on the inbox. `weight` is what the item counts in
        the queue's bytes, the body's size unless given. Raises Overloaded when the queue is full or the log is
        closed, and StorageError when the disk refuses; then nothing was logged and nothing is on the inbox.
        """
        ticket = _Ticket(received, item, len(received.body) if weight is None else weight)
        with self._work:
            if self._closing:
                raise Overloaded("the log is closed")
            try:
                self._inbox.reserve(ticket.weight)
            except Overloaded:
                self.counts["refused_full"] += 1
                raise
            self._waiting.append(ticket)
            self._work.notify()
        ticket.wait()
        if ticket.error:
            raise StorageError(ticket.error, retry_after_s=RETRY_DISK_S)
        return ticket.sequence

    def replay(self, after: int) -> Iterator[Record]:
        """What the log held when it was opened, after `after`; `damages` and `counts` tell what is missing."""
        damages: list[Damage] = []
        expected = max(after + 1, self.first or 0)
        for record in read_log(self._directory, after=after, through=self._opened_through, damages=damages):
            self.counts["missing"] += record.sequence - expected
            self.counts["replayed"] += 1
            self.counts["replayed_bytes"] += len(record.received.body)
            expected = record.sequence + 1
            yield record
        self.counts["missing"] += max(0, self._opened_through + 1 - expected)
        self.counts["corrupt"] += len(damages)
        self.damages.extend(damages)

    def close(self) -> None:
        """Finish what waits, make it durable, refuse the rest; safe to call twice."""
        with self._work:
            self._closing = True
            self._work.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._inbox.close()

    def _find_end(self) -> None:
        """Set `_last` and `_last_ns` from the newest whole record, clearing away what follows it."""
        for first, path in reversed(log_files(self._directory)):
            self._last = max(self._last, first - 1)
            readable = opened_ns(path) is not None
            if readable and self._scan(path):
                return
            if readable or path.stat().st_size < FILE_HEADER.size:
                path.unlink()  # a crash came before its first record
            else:
                self.damages.append(Damage(path, 0, "the header of the file is damaged; set aside"))
                self.counts["corrupt"] += 1
                path.rename(path.with_suffix(".damaged"))
            sync_directory(self._directory)

    def _scan(self, path: Path) -> bool:
        """Cut a torn end off the newest file; False when no whole record is left in it."""
        whole, torn = False, None
        for found in read_file(path):
            if isinstance(found, Record):
                whole = True
                self._last = max(self._last, found.sequence)
                self._last_ns = max(self._last_ns, found.received.received_ns)
            else:
                whole = whole or bool(found.sequence)  # only a later version can read it, but it is whole
                self._last = max(self._last, found.sequence)
                torn = found if found.torn else torn
        if torn is not None:
            self.counts["torn"] += 1
            self.counts["torn_bytes"] += path.stat().st_size - torn.offset
            self.damages.append(torn)
            with path.open("r+b") as file:
                file.truncate(torn.offset)
                os.fsync(file.fileno())
        return whole

    def _run(self) -> None:
        while True:
            group, closing = self._next_group()
            if group:
                self._commit(group)
            self._sync_when_due(closing)
            if closing and not group:
                break
        if self._file is not None:
            with suppress(OSError):  # what was promised is on the disk already
                self._file.close()
            self._file = None

    def _next_group(self) -> tuple[list[_Ticket], bool]:
        due_s = None
        if self._dirty and self._config.sync == "interval":
            due_s = max(0.0, self._synced_s + self._config.sync_interval - time.monotonic())
        with self._work:
            self._work.wait_for(lambda: self._waiting or self._closing, due_s)
            group, self._waiting = self._waiting, []
            return group, self._closing

    def _commit(self, group: list[_Ticket]) -> None:
        try:
            entries = self._write(group)
        except Exception as error:  # whatever it is, the appenders must not wait for ever
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self.counts["refused_disk"] += len(group)
            for ticket in group:
                ticket.error = f"the log in {self._directory} cannot be written: {reason}"
                self._inbox.release(ticket.weight)
        else:
            self.counts["commits"] += 1
            self._inbox.put(entries)
        for ticket in group:
            ticket.finish()

    def _write(self, group: list[_Ticket]) -> list[tuple[Entry, int]]:
        """Write a group as the policy asks, all of it or nothing."""
        free = free_bytes(self._directory)
        if free < self._config.min_free_bytes:
            raise StorageError(f"{free} bytes are free, {self._config.min_free_bytes} must stay free")
        file = self._writable(max(self._last_ns, group[0].received.received_ns))
        entries, buffers = self._frame(group, file.salt)
        before = file.size
        try:
            file.write(buffers)
        except BaseException:
            self._undo(file, before)
            raise
        self._dirty = True
        if self._config.sync == "commit":
            self._sync(file, keep=before)
        self.counts["appended"] += len(group)
        self.counts["appended_bytes"] += file.size - before
        self._last, self._last_ns = entries[-1][0].sequence, entries[-1][0].received_ns
        for ticket, (entry, _) in zip(group, entries, strict=True):
            ticket.sequence = entry.sequence
        return entries

    def _frame(self, group: list[_Ticket], salt: int) -> tuple[list[tuple[Entry, int]], list[bytes]]:
        entries: list[tuple[Entry, int]] = []
        buffers: list[bytes] = []
        last_ns = self._last_ns
        for sequence, ticket in enumerate(group, self._last + 1):
            received = ticket.received
            last_ns = max(last_ns, received.received_ns)
            buffers += record_header(sequence, last_ns, received, salt), received.body
            entries.append((Entry(sequence, last_ns, received.kind, ticket.item), ticket.weight))
        return entries, buffers

    def _writable(self, now_ns: int) -> LogFile:
        """The file to append to, a new one when the current is large or old enough."""
        file = self._file
        if file is not None:
            old = now_ns - file.opened_ns >= self._config.log_file_age * NS
            if not old and file.size < self._config.log_file_bytes:
                return file
            if self._dirty and self._config.sync == "interval":
                self._sync(file, keep=file.size)
            self._file = None  # whatever closing says
            file.close()
        self._file = self._new_file(self._last + 1, now_ns)
        return self._file

    def _new_file(self, first: int, now_ns: int) -> LogFile:
        path = log_path(self._directory, first)
        path.unlink(missing_ok=True)  # abandoned before anything in it was acknowledged
        file = self._create(path, first, now_ns)
        try:
            file.write([file_header(first, now_ns, file.salt)])
            if self._config.sync != "off":
                sync_directory(self._directory)
        except BaseException:
            file.close()
            path.unlink(missing_ok=True)
            raise
        return file

    def _sync(self, file: LogFile, *, keep: int) -> None:
        """Wait for the disk; if that fails, nobody knows what it holds since the last time: leave the file."""
        try:
            file.sync()
        except BaseException:
            self.counts["sync_failures"] += 1
            self._abandon(file, keep)
            raise
        self.counts["syncs"] += 1
        self._dirty = False
        self._synced_s = time.monotonic()

    def _sync_when_due(self, closing: bool) -> None:
        if self._file is None or not self._dirty or self._config.sync != "interval":
            return
        if closing or time.monotonic() - self._synced_s >= self._config.sync_interval:
            with suppress(OSError):  # counted, and the next append gets a new file
                self._sync(self._file, keep=self._file.size)

    def _undo(self, file: LogFile, size: int) -> None:
        """Take back what a failed write left behind."""
        try:
            file.cut(size)
        except OSError:
            self._abandon(file, size)

    def _abandon(self, file: LogFile, keep: int) -> None:
        """Never write to a file again; the next one hides what was not acknowledged, if it cannot be cut."""
        self._file = None
        self._dirty = False
        with suppress(OSError):
            file.cut(keep)
        with suppress(OSError):
            file.close()
        if keep <= FILE_HEADER.size:
            with suppress(OSError):
                file.path.unlink()
