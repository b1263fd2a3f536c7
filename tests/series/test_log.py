"""The write-ahead log under crashes, damage, full disks and many threads."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.errors import ConfigError, Overloaded, StateError, StorageError, TooLarge
from otel_aiops.series import records
from otel_aiops.series.disk import StorageConfig
from otel_aiops.series.inbox import Entry, Inbox
from otel_aiops.series.log import Log
from otel_aiops.series.records import (
    Compression,
    Damage,
    Format,
    LogFile,
    Received,
    Record,
    RecordKind,
    log_files,
    read_file,
    read_log,
    trim_log,
)

DEADLINE_S = 20.0
SMALL = StorageConfig(sync="off", min_free_bytes=0, log_file_bytes=300)


def config(**changes: object) -> StorageConfig:
    return StorageConfig(**({"min_free_bytes": 0} | changes))  # type: ignore[arg-type]


@contextmanager
def opened(
    directory: Path,
    settings: StorageConfig | None = None,
    inbox: Inbox | None = None,
    create: Callable[[Path, int, int], LogFile] = LogFile,
) -> Iterator[Log]:
    log = Log(directory, settings or config(), inbox or roomy(), create=create)
    log.open()
    try:
        yield log
    finally:
        log.close()


def roomy() -> Inbox:
    return Inbox(bodies=1_000_000, weight=1 << 40)


def body(text: str | bytes, received_ns: int = 1) -> Received:
    return Received(RecordKind.METRICS, received_ns, text.encode() if isinstance(text, str) else text)


def bodies(found: Iterator[Record]) -> list[bytes]:
    return [record.received.body for record in found]


def drained(inbox: Inbox) -> list[Entry]:
    entries = []
    while entry := inbox.take(0):
        entries.append(entry)
    return entries


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def together(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


# --- what is written comes back ------------------------------------------------------------------------------------


def test_every_kind_and_encoding_comes_back_as_it_was(tmp_path: Path) -> None:
    sent = [
        Received(kind, 10 * n, bytes([kind]) * n, compression, form)
        for n, (kind, compression, form) in enumerate(
            (k, c, f) for k in RecordKind for c in Compression for f in Format
        )
    ]
    with opened(tmp_path) as log:
        assert [log.append(received) for received in sent] == list(range(1, len(sent) + 1))
    with opened(tmp_path) as log:
        assert [r.received for r in log.replay(0)] == sent
        assert [r.sequence for r in log.replay(30)] == list(range(31, len(sent) + 1))
        assert log.last == len(sent)
        assert not log.damages


def test_items_reach_the_inbox_in_the_order_of_the_log_and_only_what_is_logged(tmp_path: Path) -> None:
    inbox = roomy()
    with opened(tmp_path, inbox=inbox) as log:
        acknowledged: dict[int, tuple[int, int]] = {}

        def work(thread: int) -> None:
            for n in range(25):
                item = (thread, n)
                received = Received(RecordKind.LOGS, 1000 - n, repr(item).encode())
                acknowledged[log.append(received, item=item)] = item

        together(8, work)
        entries = drained(inbox)
        assert [e.sequence for e in entries] == list(range(1, 201))
        assert {e.sequence: e.item for e in entries} == acknowledged
        assert all(e.kind is RecordKind.LOGS for e in entries)
    logged = list(read_log(tmp_path, after=0, through=200))
    assert [repr(e.item).encode() for e in entries] == [r.received.body for r in logged]
    times = [r.received.received_ns for r in logged]
    assert times == sorted(times) == [e.received_ns for e in entries]


def test_time_does_not_go_back_over_a_restart(tmp_path: Path) -> None:
    for received_ns in (500, 20):
        with opened(tmp_path) as log:
            log.append(body("a", received_ns))
    assert [r.received.received_ns for r in read_log(tmp_path, after=0, through=9)] == [500, 500]


def test_files_rotate_by_size_and_by_age(tmp_path: Path) -> None:
    with opened(tmp_path, config(log_file_bytes=1000)) as log:
        for _ in range(4):
            log.append(body(b"x" * 600))
    assert [first for first, _ in log_files(tmp_path)] == [1, 3]
    with opened(tmp_path, config(log_file_age=60)) as log:
        for seconds in (1, 60, 61, 62):
            log.append(body("y", seconds * 1_000_000_000))
    assert [first for first, _ in log_files(tmp_path)] == [1, 3, 5, 7]
    assert len(list(read_log(tmp_path, after=0, through=8))) == 8


def test_files_are_private(tmp_path: Path) -> None:
    with opened(tmp_path / "deep" / "wal") as log:
        log.append(body("a"))
    assert (tmp_path / "deep").stat().st_mode & 0o777 == 0o700
    assert log_files(tmp_path / "deep" / "wal")[0][1].stat().st_mode & 0o777 == 0o600


def test_a_body_larger_than_any_record_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "BODY_LIMIT_BYTES", 10)
    with pytest.raises(TooLarge, match="at most 10 bytes, got 11"):
        body("x" * 11)


def test_a_closed_log_refuses(tmp_path: Path) -> None:
    log = Log(tmp_path, config(), roomy())
    with pytest.raises(Overloaded, match="closed"):
        log.append(body("too early"))
    log.open()
    log.append(body("in time"))
    log.close()
    log.close()
    with pytest.raises(Overloaded, match="closed"):
        log.append(body("too late"))


def test_new_sequences_are_above_the_floor(tmp_path: Path) -> None:
    log = Log(tmp_path, config(), roomy())
    log.open(floor=41)
    assert log.append(body("a")) == 42
    log.close()


@pytest.mark.parametrize(
    ("changes", "path"),
    [({"sync": "often"}, "sync"), ({"min_free_bytes": -1}, "min_free_bytes"), ({"queue_bytes": 0}, "queue_bytes")],
)
def test_settings_are_checked(changes: dict[str, object], path: str) -> None:
    with pytest.raises(ConfigError, match="got") as caught:
        config(**changes)
    assert caught.value.path == path


# --- the inbox -----------------------------------------------------------------------------------------------------


def test_a_full_inbox_refuses_before_anything_is_written(tmp_path: Path) -> None:
    inbox = Inbox(bodies=10, weight=100)
    with opened(tmp_path, inbox=inbox) as log:
        log.append(body("a"), weight=60)
        with pytest.raises(Overloaded, match="1 bodies of 60 bytes"):
            log.append(body("b"), weight=60)
        assert inbox.take(0) is not None
        assert inbox.take(0) is None
        assert log.append(body("c"), weight=1000) == 2, "an empty queue takes what would never fit"
        assert log.counts["refused_full"] == 1
        assert (inbox.bodies, inbox.weight) == (1, 1000)
    assert bodies(read_log(tmp_path, after=0, through=9)) == [b"a", b"c"]


def test_the_inbox_is_bounded_by_bodies_too() -> None:
    inbox = Inbox(bodies=2, weight=100)
    inbox.reserve(0)
    inbox.reserve(0)
    with pytest.raises(Overloaded):
        inbox.reserve(0)
    inbox.release(0)
    inbox.reserve(0)


def test_take_waits_for_an_entry_and_ends_when_closed() -> None:
    inbox = roomy()
    taken: list[Entry | None] = []
    taker = threading.Thread(target=lambda: taken.extend([inbox.take(DEADLINE_S), inbox.take(DEADLINE_S)]))
    taker.start()
    entry = Entry(1, 2, RecordKind.TICK, None)
    inbox.reserve(5)
    inbox.put([(entry, 5)])
    until(lambda: len(taken) == 0 and inbox.bodies == 0)
    inbox.close()
    taker.join(DEADLINE_S)
    assert taken == [entry, None]
    assert inbox.weight == 0


def test_take_returns_at_once_when_woken_before_or_meanwhile() -> None:
    inbox = roomy()
    inbox.wake()
    assert inbox.take(DEADLINE_S) is None
    began_s = time.monotonic()
    assert inbox.take(0.01) is None, "once woken is enough"
    assert time.monotonic() - began_s >= 0.01
    taken: list[Entry | None] = []
    taker = threading.Thread(target=lambda: taken.append(inbox.take(DEADLINE_S)))
    taker.start()
    inbox.wake()
    taker.join(DEADLINE_S / 2)
    assert taken == [None]


# --- group commit and policies -------------------------------------------------------------------------------------


class SlowFile(LogFile):
    def sync(self) -> None:
        time.sleep(0.01)
        super().sync()


def test_appends_at_the_same_time_share_a_sync(tmp_path: Path) -> None:
    with opened(tmp_path, create=SlowFile) as log:
        together(16, lambda i: [log.append(body(f"{i}")) for _ in range(5)] and None)
        assert log.counts["appended"] == 80
        assert log.counts["syncs"] == log.counts["commits"] <= 40


class Watched(LogFile):
    """Notes what is durable when."""

    durable_bytes = 0

    def sync(self) -> None:
        super().sync()
        Watched.durable_bytes = self.size


def test_under_commit_nothing_is_acknowledged_or_handed_on_before_it_is_durable(tmp_path: Path) -> None:
    class Inspected(Inbox):
        def put(self, entries) -> None:  # type: ignore[no-untyped-def]
            assert Watched.durable_bytes == log_files(tmp_path)[-1][1].stat().st_size
            super().put(entries)

    with opened(tmp_path, inbox=Inspected(bodies=9, weight=99), create=Watched) as log:
        for _ in range(3):
            log.append(body("a"))
            assert Watched.durable_bytes == log_files(tmp_path)[-1][1].stat().st_size
        assert log.counts["refused_disk"] == 0


def test_interval_acknowledges_first_and_syncs_soon_after(tmp_path: Path) -> None:
    with opened(tmp_path, config(sync="interval", sync_interval=0.01)) as log:
        log.append(body("a"))
        until(lambda: log.counts["syncs"] == 1)
        for _ in range(200):
            log.append(body("b"))
        assert log.counts["syncs"] < log.counts["appended"]
    assert log.counts["sync_failures"] == 0


def test_interval_syncs_what_is_left_when_it_rotates_and_when_it_closes(tmp_path: Path) -> None:
    with opened(tmp_path, config(sync="interval", sync_interval=1000, log_file_bytes=200), create=Watched) as log:
        log._synced_s = time.monotonic()  # the first interval has just begun
        log.append(body(b"x" * 300))
        assert log.counts["syncs"] == 0
        log.append(body(b"y"))
        assert log.counts["syncs"] == 1
    assert log.counts["syncs"] == 2


def test_off_never_syncs(tmp_path: Path) -> None:
    with opened(tmp_path, config(sync="off", log_file_bytes=100)) as log:
        for _ in range(10):
            log.append(body(b"x" * 60))
    assert log.counts["syncs"] == 0


# --- crashes at any byte, damage at any byte -----------------------------------------------------------------------

some_bodies = st.lists(st.binary(max_size=120), min_size=1, max_size=12)


@contextmanager
def written(contents: list[bytes]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with opened(directory, SMALL) as log:
            for content in contents:
                log.append(body(content))
        yield directory


def crash_after(directory: Path, size: int) -> None:
    """Leave only the first bytes of the log, as if the process had been killed there."""
    for _, path in log_files(directory):
        kept = min(size, path.stat().st_size)
        size -= kept
        if kept or size:
            os.truncate(path, kept)
        else:
            path.unlink()


@settings(max_examples=80, deadline=None)
@given(contents=some_bodies, more=some_bodies, where=st.floats(0, 1))
def test_a_crash_at_any_byte_leaves_a_prefix_that_can_be_continued(
    contents: list[bytes], more: list[bytes], where: float
) -> None:
    with written(contents) as directory:
        total = sum(path.stat().st_size for _, path in log_files(directory))
        crash_after(directory, int(where * total))
        with opened(directory, SMALL) as log:
            left = bodies(log.replay(0))
            assert left == contents[: len(left)]
            assert log.counts["corrupt"] == 0
            if where == 1:
                assert left == contents
            for n, content in enumerate(more, len(left) + 1):
                assert log.append(body(content)) == n
            assert bodies(log.replay(0)) == left, "replay ends where the log was opened"
        with opened(directory, SMALL) as log:
            assert bodies(log.replay(0)) == left + more
            assert log.counts["missing"] == log.counts["torn"] == 0


@settings(max_examples=80, deadline=None)
@given(contents=some_bodies, where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_damaged_byte_costs_at_most_its_record_or_with_the_header_its_file(
    contents: list[bytes], where: float, flip: int
) -> None:
    with written(contents) as directory:
        files = log_files(directory)
        path = files[int(where * len(files))][1]
        data = bytearray(path.read_bytes())
        at = int(where * len(files) % 1 * len(data))
        data[at] ^= flip
        path.write_bytes(data)
        in_file = sum(1 for found in read_file(path) if isinstance(found, Record))
        with opened(directory, SMALL) as log:
            found = list(log.replay(0))
            assert len(log.damages) == 1
            assert str(path) in str(log.damages[0])
            assert log.append(body("next")) > max((r.sequence for r in found), default=0)
        sequences = [r.sequence for r in found]
        assert sequences == sorted(set(sequences))
        assert all(r.received.body == contents[r.sequence - 1] for r in found)
        if at >= records.FILE_HEADER.size:
            assert len(found) == len(contents) - 1
        else:
            assert in_file == 0


def test_damage_in_the_middle_of_the_newest_file_does_not_cost_what_follows(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        for text in ("first", "second", "third"):
            log.append(body(text))
    path = log_files(tmp_path)[-1][1]
    path.write_bytes(path.read_bytes().replace(b"second", b"sEcond"))
    with opened(tmp_path) as log:
        assert bodies(log.replay(0)) == [b"first", b"third"]
        assert (log.counts["corrupt"], log.counts["missing"], log.counts["torn"]) == (1, 1, 0)
        assert "record 2" in str(log.damages[0])
        assert log.append(body("fourth")) == 4


def test_a_torn_tail_is_counted_and_cut(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        log.append(body("whole"))
        log.append(body("torn off"))
    path = log_files(tmp_path)[-1][1]
    os.truncate(path, path.stat().st_size - 3)
    with opened(tmp_path) as log:
        assert (log.counts["torn"], log.last) == (1, 1)
        assert log.counts["torn_bytes"] == records.RECORD_HEADER.size + len(b"torn off") - 3
        assert log.damages[0].torn
    assert not any(isinstance(found, Damage) for found in read_file(path))


def test_bytes_inside_a_body_never_pass_for_a_record(tmp_path: Path) -> None:
    with opened(tmp_path / "theirs") as log:
        log.append(body("forged"))
    forged = log_files(tmp_path / "theirs")[0][1].read_bytes()[records.FILE_HEADER.size :]
    with opened(tmp_path / "ours") as log:
        log.append(body("true"))
        log.append(body(b"--" + forged + forged + b"--"))
    path = log_files(tmp_path / "ours")[0][1]
    os.truncate(path, path.stat().st_size - 1)
    with opened(tmp_path / "ours") as log:
        assert bodies(log.replay(0)) == [b"true"]
        assert log.counts["torn"] == 1


def test_a_damaged_header_of_the_newest_file_sets_it_aside(tmp_path: Path) -> None:
    with opened(tmp_path, config(log_file_bytes=10)) as log:
        log.append(body("a", 77))
        log.append(body("b", 78))
    path = log_files(tmp_path)[-1][1]
    path.write_bytes(b"X" + path.read_bytes()[1:])
    with opened(tmp_path) as log:
        assert path.with_suffix(".damaged").exists()
        assert "header" in str(log.damages[0])
        assert log.append(body("c", 1)) == 2
    assert [r.received for r in read_log(tmp_path, after=0, through=9)] == [body("a", 77), body("c", 77)]


def test_a_log_of_a_later_version_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(records, "VERSION", 2)
        with opened(tmp_path) as log:
            log.append(body("a"))
    before = log_files(tmp_path)[0][1].read_bytes()
    with pytest.raises(StateError, match="expected a log of version 1, got version 2"):
        Log(tmp_path, config(), roomy()).open()
    assert log_files(tmp_path)[0][1].read_bytes() == before
    assert [type(found) for found in read_file(log_files(tmp_path)[0][1])] == [Damage]


def test_a_record_of_a_kind_that_is_not_known_is_skipped_but_not_cut(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        log.append(body("a"))
    path = log_files(tmp_path)[0][1]
    salt = struct.unpack_from("<8sHHI", path.read_bytes())[3]
    header = records.record_header(2, 5, body("new"), salt)
    checked = header[8:-4] + b"\xc8" + header[-3:]
    with path.open("ab") as file:
        file.write(header[:4] + zlib.crc32(checked, salt).to_bytes(4, "little") + checked + b"new")
    size = path.stat().st_size
    with opened(tmp_path) as log:
        assert bodies(log.replay(0)) == [b"a"]
        assert "later versions" in str(log.damages[0])
        assert log.append(body("b")) == 3, "its sequence stays its own"
    assert path.stat().st_size == size


def test_a_file_with_nothing_but_records_of_a_later_version_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as log:
        log.append(Received(RecordKind.BACKFILL, 1, b"new"))
    path = log_files(tmp_path)[0][1]
    before = path.read_bytes()
    with monkeypatch.context() as earlier:
        earlier.setattr(records, "RecordKind", lambda kind: RecordKind(min(kind, 4) if kind < 5 else 99))
        with opened(tmp_path) as log:
            assert log.append(body("b")) == 2
            assert bodies(log.replay(0)) == []
    assert path.read_bytes() == before
    with opened(tmp_path) as log:
        assert bodies(log.replay(0)) == [b"new", b"b"]


def test_a_file_that_cannot_be_read_is_reported_and_the_next_one_is_read(tmp_path: Path) -> None:
    with opened(tmp_path, SMALL) as log:
        for n in range(12):
            log.append(body(f"{n}" * 40))
    files = log_files(tmp_path)
    files[0][1].unlink()
    files[0][1].mkdir()  # reading it fails with EISDIR, as a bad sector would with EIO
    damages: list[Damage] = []
    found = list(read_log(tmp_path, after=0, through=12, damages=damages))
    assert [r.sequence for r in found] == list(range(files[1][0], 13))
    assert "cannot be read" in str(damages[0])


# --- a disk that refuses -------------------------------------------------------------------------------------------


class Refusing(LogFile):
    """Fails on demand; as a disk does, after having taken a part."""

    failing: str = ""

    def write(self, buffers) -> None:  # type: ignore[no-untyped-def]
        if Refusing.failing == "write" and self.size:
            super().write([b"".join(buffers)[:50]])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if Refusing.failing == "bug":
            raise ZeroDivisionError("not a matter of the disk")
        super().write(buffers)

    def sync(self) -> None:
        if Refusing.failing.startswith("sync"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync()

    def cut(self, size: int) -> None:
        if Refusing.failing.endswith("cut"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().cut(size)


@pytest.fixture
def disk() -> Iterator[type[Refusing]]:
    yield Refusing
    Refusing.failing = ""


@pytest.mark.parametrize("failing", ["write", "sync", "sync and cut", "bug"])
@pytest.mark.parametrize("before", [0, 2])
def test_a_disk_that_fails_refuses_and_recovers_by_itself(
    tmp_path: Path, disk: type[Refusing], failing: str, before: int
) -> None:
    inbox = roomy()
    with opened(tmp_path, inbox=inbox, create=Refusing) as log:
        for n in range(before):
            log.append(body(f"good {n}"))
        disk.failing = failing
        for _ in range(3):
            with pytest.raises(StorageError, match="cannot be written") as caught:
                log.append(body("refused " * 20))
            assert caught.value.retry_after_s > 1
        disk.failing = ""
        assert log.append(body("good again")) == before + 1
        assert log.counts["refused_disk"] == 3
        assert log.counts["sync_failures"] == (3 if "sync" in failing else 0)
    assert [e.sequence for e in drained(inbox)] == list(range(1, before + 2))
    assert inbox.weight == 0
    expected = [f"good {n}".encode() for n in range(before)] + [b"good again"]
    with opened(tmp_path) as log:
        assert bodies(log.replay(0)) == expected
        assert log.counts["corrupt"] == log.counts["missing"] == 0


def test_a_write_that_fails_and_cannot_be_undone_leaves_the_file(tmp_path: Path, disk: type[Refusing]) -> None:
    class Stuck(Refusing):
        def write(self, buffers) -> None:  # type: ignore[no-untyped-def]
            if Refusing.failing and self.size:
                LogFile.write(self, buffers)
                raise OSError(errno.EIO, "")
            LogFile.write(self, buffers)

    with opened(tmp_path, create=Stuck) as log:
        log.append(body("a"))
        disk.failing = "cut"
        with pytest.raises(StorageError):
            log.append(body("never acknowledged"))
        disk.failing = ""
        assert log.append(body("b")) == 2
    assert len(log_files(tmp_path)) == 2
    with opened(tmp_path) as log:
        assert bodies(log.replay(0)) == [b"a", b"b"]


def test_a_failed_sync_at_an_interval_is_counted_and_the_log_goes_on(tmp_path: Path, disk: type[Refusing]) -> None:
    with opened(tmp_path, config(sync="interval", sync_interval=0.01), create=Refusing) as log:
        disk.failing = "sync"
        log.append(body("a"))
        until(lambda: log.counts["sync_failures"] == 1)
        disk.failing = ""
        log.append(body("b"))
    assert bodies(read_log(tmp_path, after=0, through=9)) == [b"a", b"b"]


def test_a_file_that_cannot_be_closed_stops_nothing(tmp_path: Path) -> None:
    class Unclosed(LogFile):
        def close(self) -> None:
            super().close()
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with opened(tmp_path, config(log_file_bytes=1), create=Unclosed) as log:
        log.append(body("a"))
        with pytest.raises(StorageError, match="Input/output"):
            log.append(body("refused"))
        log.append(body("b"))
    assert bodies(read_log(tmp_path, after=0, through=9)) == [b"a", b"b"]


def test_below_the_free_bytes_that_must_stay_appends_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path, config(min_free_bytes=1 << 60)) as log:
        with pytest.raises(StorageError, match="must stay free"):
            log.append(body("a"))
        assert log_files(tmp_path) == []


def test_a_full_file_system_refuses_and_recovers_when_space_returns(tiny_disk: Path) -> None:
    filler = tiny_disk / "filler"
    filler.write_bytes(bytes(600_000))
    inbox = roomy()
    sent = []
    with opened(tiny_disk / "wal", inbox=inbox) as log:
        with suppress(StorageError):
            while True:
                log.append(body(f"{len(sent)}".encode() * 10_000))
                sent.append(f"{len(sent)}".encode() * 10_000)
        with pytest.raises(StorageError, match="No space left"):
            log.append(body(bytes(200_000)))
        assert [e.sequence for e in drained(inbox)] == list(range(1, len(sent) + 1))
        filler.unlink()
        for _ in range(5):
            log.append(body(b"after" * 1000))
            sent.append(b"after" * 1000)
    assert len(sent) > 8
    with opened(tiny_disk / "wal") as log:
        assert bodies(log.replay(0)) == sent
        assert not log.damages


LIMITED = """
import resource, sys
from pathlib import Path
from otel_aiops.errors import StorageError
from otel_aiops.series.disk import StorageConfig
from otel_aiops.series.inbox import Inbox
from otel_aiops.series.log import Log
from otel_aiops.series.records import Received, RecordKind

log = Log(Path(sys.argv[1]), StorageConfig(min_free_bytes=0), Inbox(bodies=99, weight=1 << 30))
log.open()
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 20_000))
for n in range(12):
    try:
        log.append(Received(RecordKind.METRICS, 1, b"%d" % n + bytes(1500)))
        print("ok", n)
    except StorageError:
        print("refused", n)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
log.append(Received(RecordKind.METRICS, 1, b"at last"))
log.close()
"""


def test_a_write_that_the_kernel_takes_only_a_part_of_is_undone(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], check=True, capture_output=True, text=True)
    taken = [line.split()[1] for line in ran.stdout.splitlines() if line.startswith("ok")]
    assert 3 < len(taken) < 12
    found = bodies(read_log(tmp_path, after=0, through=99))
    assert [b.rstrip(b"\0").decode() for b in found] == [*taken, "at last"]
    assert not any(isinstance(f, Damage) for _, path in log_files(tmp_path) for f in read_file(path))


# --- retention -----------------------------------------------------------------------------------------------------


@pytest.fixture
def five_files(tmp_path: Path) -> Path:
    """Sequences 1 to 5, a file each, a second apart."""
    with opened(tmp_path, config(sync="off", log_file_bytes=1)) as log:
        for n in range(5):
            log.append(body(b"x" * 64, n * 1_000_000_000))
    (tmp_path / f"{2:020d}.damaged").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("covered", "keep_s", "keep_files", "left"),
    [
        (5, 0, 9, [5]),  # the newest file always stays
        (3, 0, 9, [4, 5]),
        (0, 0, 0, [1, 2, 3, 4, 5]),
        (5, 100, 9, [1, 2, 3, 4, 5]),
        (5, 100, 2, [3, 4, 5]),
        (5, 2, 9, [3, 4, 5]),  # at 4 s, file 2 ended at 2 s
    ],
)
def test_trim_deletes_only_what_is_covered(
    five_files: Path, covered: int, keep_s: float, keep_files: int, left: list[int]
) -> None:
    size = log_files(five_files)[0][1].stat().st_size
    gone = trim_log(five_files, covered=covered, now_ns=4_000_000_000, keep_s=keep_s, keep_bytes=keep_files * size)
    assert [first for first, _ in log_files(five_files)] == left
    assert gone == (5 - len(left), (5 - len(left)) * size)
    assert (five_files / f"{2:020d}.damaged").exists() == (left[0] <= 2)


def test_trim_of_nothing(tmp_path: Path) -> None:
    (tmp_path / f"{1:020d}.damaged").touch()
    assert trim_log(tmp_path, covered=9, now_ns=0, keep_s=0, keep_bytes=0) == (0, 0)
