"""The store as a whole: recovery after crashes between any two steps, retention, the lock, and its counters."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from otel_aiops.errors import ConfigError, StateError, StorageError
from otel_aiops.series import history as history_module
from otel_aiops.series import records
from otel_aiops.series.disk import StorageConfig
from otel_aiops.series.history import Deleted, History, Recovery
from otel_aiops.series.log import Log
from otel_aiops.series.records import Received, RecordKind
from otel_aiops.series.rows import BYTES_A_ROW, Recorded
from otel_aiops.series.segments import HOUR_NS, Segments
from otel_aiops.series.snapshot import Snapshots

HOUR_0 = 1_777_816_800_000_000_000
END_NS = HOUR_0 + 100 * HOUR_NS
S = 1_000_000_000


def config(**changes: Any) -> StorageConfig:
    return StorageConfig(**({"min_free_bytes": 0, "log_file_bytes": 300} | changes))


def points(sequence: int) -> Recorded:
    """Two points of a step: one in this hour, one in another that depends on the sequence."""
    return Recorded(
        rows=np.array([sequence % 3, 7], np.int32),
        fingerprint=np.array([sequence % 3, 7], np.uint64),
        time_ns=np.array([HOUR_0 + sequence, HOUR_0 + sequence % 3 * HOUR_NS + sequence]),
        value=np.array([sequence, -sequence], float),
        score=np.array([0.5, np.nan]),
    )


def describe(rows: Any) -> list[str]:
    return [f"up{{row={row}}}" for row in rows.tolist()]


class Loop:
    """A step loop as small as can be: its state depends on every body and on their order."""

    def __init__(self, directory: Path, settings: StorageConfig | None = None) -> None:
        self.history = History(settings or config(), directory)
        self.state = 0
        self.sequence = 0

    def start(self) -> Recovery:
        recovery = self.history.open()
        self.sequence = recovery.sequence
        if recovery.arrays is not None:
            self.state = int(recovery.arrays["loop/state"][0])
        for record in self.history.replay():
            self.step(record.sequence, int(record.received.body))
        return recovery

    def step(self, sequence: int, number: int) -> None:
        assert sequence == self.sequence + 1
        self.state = hash((self.state, number))
        self.sequence = sequence
        self.history.record(sequence, points(sequence), describe)

    def send(self, number: int) -> None:
        body = str(number).encode()
        self.history.append(Received(RecordKind.METRICS, number, body), item=number)
        entry = self.history.take(0)
        assert entry is not None
        self.step(entry.sequence, int(str(entry.item)))

    def snapshot(self) -> str:
        return self.history.snapshot(self.sequence, {"loop/state": np.array([self.state])})


@contextmanager
def started(directory: Path, settings: StorageConfig | None = None) -> Iterator[Loop]:
    loop = Loop(directory, settings)
    loop.start()
    try:
        yield loop
    finally:
        loop.history.close()


def state_after(count: int) -> int:
    state = 0
    for number in range(1, count + 1):
        state = hash((state, number))
    return state


def values(history: History | Segments) -> list[float]:
    return sorted(history.read(0, END_NS)["value"].to_pylist())


def expected_values(count: int) -> list[float]:
    return sorted([*range(1, count + 1), *(-n for n in range(1, count + 1))])


# --- the way of a body and of a state ------------------------------------------------------------------------------


def test_a_restart_continues_from_the_snapshot_and_the_log(tmp_path: Path) -> None:
    with started(tmp_path) as loop:
        assert loop.start
        for number in range(1, 8):
            loop.send(number)
        loop.snapshot()
        for number in range(8, 11):
            loop.send(number)
    with started(tmp_path) as loop:
        assert (loop.sequence, loop.state) == (10, state_after(10))
        assert loop.history.stats()["replayed"] == 3
        assert values(loop.history) == expected_values(7)
        digest = loop.snapshot()
        assert values(loop.history) == expected_values(10)
        assert loop.snapshot() == digest, "the same state twice is the same"
    recovered = Loop(tmp_path).start()
    assert (recovered.sequence, recovered.last, recovered.notes) == (10, 10, ())


def test_a_first_start_has_nothing(tmp_path: Path) -> None:
    history = History(config(), tmp_path / "new" / "data")
    assert history.open() == Recovery(0, None, 0)
    assert list(history.replay()) == []
    assert history.take(0) is None
    assert history.read(0, END_NS).num_rows == 0
    history.close()
    history.close()
    assert (tmp_path / "new" / "data").stat().st_mode & 0o777 == 0o700


def test_a_step_loop_that_waits_can_be_woken(tmp_path: Path) -> None:
    with started(tmp_path) as loop:
        waiter = threading.Thread(target=loop.history.take, args=(60,))
        waiter.start()
        loop.history.wake()
        waiter.join(20)
        assert not waiter.is_alive()


def test_nothing_is_kept_of_a_step_without_points(tmp_path: Path) -> None:
    def never(_: Any) -> list[str]:
        raise AssertionError("asked for the text of no series")

    with started(tmp_path) as loop:
        loop.history.record(1, Recorded(*(a[:0] for a in (points(1).rows, *[points(1).fingerprint] * 4))), never)
        assert loop.history.stats()["rows_waiting_bytes"] == 0
        loop.snapshot()
        assert values(loop.history) == []


def test_what_is_read_is_what_was_recorded(tmp_path: Path) -> None:
    with started(tmp_path) as loop:
        loop.send(1)
        loop.snapshot()
        table = loop.history.read(HOUR_0, END_NS, "up{row=1}")
    assert table.drop_columns("timestamp").to_pylist() == [
        {"series": "up{row=1}", "fingerprint": 1, "value": 1.0, "score": 0.5}
    ]
    assert table["timestamp"].cast(pa.int64()).to_pylist() == [HOUR_0 + 1]


def test_a_snapshot_in_another_thread_takes_only_what_belongs_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, real = threading.Event(), Segments.write

    def slow(self: Segments, *args: Any) -> int:
        assert go_on.wait(20)
        return real(self, *args)

    monkeypatch.setattr(Segments, "write", slow)
    with started(tmp_path) as loop:
        for number in range(1, 5):
            loop.send(number)
        saver = threading.Thread(target=loop.snapshot)
        saver.start()
        for number in range(5, 9):
            loop.send(number)  # appends do not wait for the snapshot
        assert saver.is_alive()
        go_on.set()
        saver.join(20)
        assert values(loop.history) == expected_values(4)
        loop.snapshot()
        assert values(loop.history) == expected_values(8)


def test_a_snapshot_is_wanted_when_much_waits(tmp_path: Path) -> None:
    with started(tmp_path, config(snapshot_rows_bytes=4 * BYTES_A_ROW)) as loop:
        loop.send(1)
        assert not loop.history.wants_snapshot
        loop.send(2)
        assert loop.history.wants_snapshot
        loop.snapshot()
        assert not loop.history.wants_snapshot
    with started(tmp_path, config(snapshot_log_bytes=100)) as loop:
        for number in range(3):
            assert not loop.history.wants_snapshot
            loop.send(number)
        assert loop.history.wants_snapshot
        loop.snapshot()
        assert not loop.history.wants_snapshot


def test_points_are_dropped_and_counted_when_no_snapshot_comes(tmp_path: Path) -> None:
    with started(tmp_path, config(snapshot_rows_bytes=2 * BYTES_A_ROW)) as loop:
        for number in range(1, 7):
            loop.send(number)
        assert loop.history.stats()["rows_dropped"] == 4
        loop.snapshot()
        assert values(loop.history) == expected_values(4)


def test_the_counters(tmp_path: Path) -> None:
    with started(tmp_path) as loop:
        loop.send(1)
        before = loop.history.stats()
        assert (before["appended"], before["last_sequence"], before["rows_waiting_bytes"]) == (1, 1, 2 * BYTES_A_ROW)
        assert before["syncs"] >= 1
        loop.snapshot()
        loop.history.append(Received(RecordKind.TICK, 2))
        after = loop.history.stats()
        assert (after["rows"], after["snapshots"], after["rows_waiting_bytes"]) == (2, 1, 0)
        assert after["snapshot_duration_s"] > 0
        assert (after["queue_bodies"], after["queue_bytes"]) == (1, 0)
        assert set(after) >= {"refused_full", "refused_disk", "torn", "corrupt", "missing", "snapshots_refused"}


def test_a_later_version_of_the_log_leaves_the_directory_unlocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        later.setattr(records, "VERSION", 2)
        with started(tmp_path) as loop:
            loop.send(1)
    with pytest.raises(StateError, match="got version 2"):
        History(config(), tmp_path).open()
    monkeypatch.setattr(records, "VERSION", 2)
    with started(tmp_path) as loop:
        assert loop.sequence == 1


# --- crashes between any two steps ---------------------------------------------------------------------------------


class Crash(BaseException):
    """The process is gone; from then on it does nothing any more."""


class Machine:
    """Lets a given number of changes to the disk happen, then crashes at each."""

    def __init__(self, patch: pytest.MonkeyPatch, changes: int) -> None:
        self.left = changes
        for owner, name in [(os, "fsync"), (os, "fdatasync"), (os, "writev"), (os, "ftruncate"), (os, "open")]:
            patch.setattr(owner, name, self.counted(getattr(owner, name)))
        for name in ("replace", "unlink", "mkdir", "rmdir", "rename"):
            patch.setattr(Path, name, self.counted(getattr(Path, name)))

    def counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return real(*args, **kwargs)  # the log has its own tests
            self.left -= 1
            if self.left < 0:
                raise Crash
            return real(*args, **kwargs)

        return change


def a_day_of_work(loop: Loop, numbers: Iterator[int]) -> None:
    loop.start()
    for _ in range(2):
        for _ in range(3):
            loop.send(next(numbers))
        loop.snapshot()
        loop.history.compact(HOUR_0 + HOUR_NS)
    loop.send(next(numbers))
    loop.history.enforce(END_NS)


def test_a_crash_between_any_two_steps_doubles_and_loses_nothing(tmp_path: Path) -> None:
    settings = config(log_keep=1e-9, segments_keep=1e9)
    crashes = 0
    for allowed in range(1000):
        directory = tmp_path / str(allowed)
        sent = iter(range(1, 100))
        with started(directory, settings) as loop:
            for _ in range(2):
                loop.send(next(sent))
                loop.snapshot()
        loop = Loop(directory, settings)
        with pytest.MonkeyPatch.context() as patch:
            Machine(patch, allowed)
            try:
                a_day_of_work(loop, sent)
                finished = True
            except Crash:
                finished = False
                crashes += 1
        loop.history.close()
        with started(directory, settings) as loop:
            count = next(sent) - 1
            assert loop.sequence in (count, count - 1), "the last may have been logged and not answered"
            assert loop.state == state_after(loop.sequence)
            loop.snapshot()
            loop.history.compact(HOUR_0 + HOUR_NS)
            assert values(loop.history) == expected_values(loop.sequence), allowed
            assert not loop.history.notes()
            assert not list(directory.rglob("*.tmp"))
        if finished:
            break
    assert finished
    assert crashes > 40


CHILD = """
import os, struct, sys, threading, time
from pathlib import Path
from tests.series.test_history import END_NS, HOUR_0, HOUR_NS, Loop, config

loop = Loop(Path(sys.argv[1]), config(log_file_bytes=5000, log_keep=1e-9, sync="interval"))
loop.start()
sender = saver = None
while True:
    loop.send(loop.sequence + 1)
    os.write(1, struct.pack("<Q", loop.sequence))
    if loop.sequence % 20 == 0 and (saver is None or not saver.is_alive()):
        sequence, arrays = loop.sequence, {"loop/state": __import__("numpy").array([loop.state])}

        def save(sequence=sequence, arrays=arrays):
            loop.history.snapshot(sequence, arrays)
            loop.history.compact(HOUR_0 + 2 * HOUR_NS)
            loop.history.enforce(HOUR_0)

        saver = threading.Thread(target=save)
        saver.start()
"""


def test_killed_at_random_moments_the_state_is_as_if_it_never_had_been(tmp_path: Path) -> None:
    rng = random.Random(3)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}  # noqa: PTH109 (the same for the child)
    sequence = 0
    for _ in range(8):
        command = [sys.executable, "-c", CHILD, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
            assert child.stdout is not None
            data = child.stdout.read(8)
            time.sleep(rng.uniform(0, 0.2))
            child.kill()
            data += child.stdout.read()
        acknowledged = struct.unpack_from("<Q", data, (len(data) // 8 - 1) * 8)[0]
        with started(tmp_path) as loop:
            assert loop.sequence >= acknowledged > sequence
            assert loop.state == state_after(loop.sequence)
            sequence = loop.sequence
    with started(tmp_path) as loop:
        loop.snapshot()
        assert values(loop.history) == expected_values(sequence)
        assert not loop.history.notes()
        first = loop.history.stats()
    assert sequence > 50
    assert first["missing"] == first["corrupt"] == 0


# --- damage and failure --------------------------------------------------------------------------------------------


def test_a_damaged_snapshot_falls_back_to_the_older_one_without_doubling(tmp_path: Path) -> None:
    with started(tmp_path) as loop:
        for number in range(1, 10):
            loop.send(number)
            if number % 3 == 0:
                loop.snapshot()
        loop.history.compact(HOUR_0 + HOUR_NS)
        loop.history.enforce(END_NS)
    path = tmp_path / "snapshots" / f"{9:020d}.snapshot"
    path.write_bytes(path.read_bytes()[:50])
    with started(tmp_path) as loop:
        assert loop.history.stats()["replayed"] == 3
        assert loop.history.stats()["rows_known"] == 6
        assert loop.state == state_after(9)
        assert len(loop.history.notes()) == 1
        loop.send(10)
        loop.snapshot()
        assert values(loop.history) == expected_values(10)


def test_without_any_snapshot_what_the_log_cannot_bring_again_stays(tmp_path: Path) -> None:
    with started(tmp_path, config(log_keep=1e-9)) as loop:
        for number in range(1, 13):
            loop.send(number)
            if number % 4 == 0:
                loop.snapshot()
        deleted = loop.history.enforce(HOUR_0)
        assert deleted.log_files > 0
    for path in (tmp_path / "snapshots").iterdir():
        path.unlink()
    history = History(config(), tmp_path)
    assert history.open().arrays is None
    for record in history.replay():
        history.record(record.sequence, points(record.sequence), describe)
    assert history.stats()["missing"] == 0
    history.snapshot(12, {})
    assert values(history) == expected_values(12)
    history.close()


def test_without_any_log_all_points_and_the_sequence_stay(tmp_path: Path) -> None:
    with started(tmp_path) as loop:
        for number in range(1, 4):
            loop.send(number)
        loop.snapshot()
    for path in (tmp_path / "wal").iterdir():
        path.unlink()
    for path in (tmp_path / "snapshots").iterdir():
        path.unlink()
    history = History(config(), tmp_path)
    assert history.open().last == 3
    assert values(history) == expected_values(3)
    assert history.append(Received(RecordKind.TICK, 1)) == 4
    history.close()


def test_a_snapshot_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("no space")

    with started(tmp_path) as loop:
        for owner, name in [(Segments, "write"), (Snapshots, "save")]:
            for number in range(loop.sequence + 1, loop.sequence + 4):
                loop.send(number)
            with monkeypatch.context() as full:
                full.setattr(owner, name, refuse)
                with pytest.raises(StorageError):
                    loop.snapshot()
        loop.send(7)
        loop.snapshot()
        assert values(loop.history) == expected_values(7)
    with started(tmp_path) as loop:
        assert loop.history.stats()["replayed"] == 0
        assert loop.state == state_after(7)


def test_points_of_a_snapshot_that_failed_are_not_doubled_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("no space")

    with started(tmp_path) as loop:
        loop.send(1)
        monkeypatch.setattr(Snapshots, "save", refuse)
        with pytest.raises(StorageError):
            loop.snapshot()
        loop.history.compact(HOUR_0 + HOUR_NS)
    monkeypatch.undo()
    with started(tmp_path) as loop:
        loop.send(2)
        loop.snapshot()
        assert values(loop.history) == expected_values(2)


# --- retention -----------------------------------------------------------------------------------------------------


def test_retention_keeps_what_recovery_needs(tmp_path: Path) -> None:
    settings = config(log_keep=1e-9, log_file_bytes=1, segments_keep=1e9)
    with started(tmp_path, settings) as loop:
        for number in range(1, 9):
            loop.send(number)
            if number == 3:
                loop.snapshot()
        assert loop.history.enforce(END_NS) == Deleted(), "with one snapshot there is nothing to fall back to"
        loop.snapshot()
        deleted = loop.history.enforce(END_NS)
        assert deleted.log_files == 3
        assert loop.history.stats()["deleted_log_bytes"] == deleted.log_bytes > 0
        assert loop.history.enforce(END_NS) == Deleted()
    (tmp_path / "snapshots" / f"{8:020d}.snapshot").unlink()
    with started(tmp_path, settings) as loop:
        assert loop.state == state_after(8)


def test_segments_are_deleted_by_age(tmp_path: Path) -> None:
    with started(tmp_path, config(segments_keep=3600)) as loop:
        for number in range(1, 4):
            loop.send(number)
        loop.snapshot()
        assert loop.history.compact(END_NS) == 3
        deleted = loop.history.enforce(HOUR_0 + 3 * HOUR_NS)
        assert deleted.segment_files == 2
        stats = loop.history.stats()
        assert (stats["deleted_segment_files"], stats["merged_hours"]) == (2, 3)
        assert values(loop.history) == [-2]


# --- one process at a time -----------------------------------------------------------------------------------------


def test_a_second_process_is_told_who_has_the_directory(tmp_path: Path) -> None:
    with started(tmp_path):
        with pytest.raises(ConfigError, match=rf"is in use by process {os.getpid()}\b") as caught:
            History(config(), tmp_path).open()
        assert caught.value.path == "storage.directory"
    with started(tmp_path):
        pass
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="opening"):
        History(config(), tmp_path / "file" / "data").open()


def test_the_log_thread_ends_with_the_store(tmp_path: Path) -> None:
    before = threading.active_count()
    with started(tmp_path) as loop:
        assert isinstance(loop.history._log, Log)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    assert history_module.ROWS_LIMIT > 1
