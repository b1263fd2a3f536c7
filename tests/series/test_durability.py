"""The store against real trouble: killed processes, full and damaged disks, two owners, clocks that go back."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from otel_aiops.errors import ConfigError, StateError, StorageError
from otel_aiops.series.history import History
from otel_aiops.series.records import Received, RecordKind, log_files
from otel_aiops.series.segments import HOUR_NS
from tests.series import appender
from tests.series.test_history import END_NS, HOUR_0, Loop, S, config, expected_values, started, state_after, values

ROOT = Path(__file__).parent.parent.parent
KILLS = 50


@contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another Python process, killed at the end at the latest."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, *arguments], cwd=ROOT, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


# --- killed under load ---------------------------------------------------------------------------------------------


Deed = tuple[bytes, int, int, int]


def killed_under_load(starter: subprocess.Popen[bytes], order: str, after_s: float) -> list[Deed]:
    """What a process that appends says it did until it was killed, some time after its first acknowledgement."""
    assert starter.stdin is not None
    assert starter.stdout is not None
    starter.stdin.write(f"{order}\n".encode())
    starter.stdin.flush()
    deeds: list[Deed] = []
    pid, timer = 0, None
    while not deeds or deeds[-1][0] != appender.GONE:
        data = starter.stdout.read(appender.MESSAGE.size)
        assert data, "the starter ended"
        deeds.append(appender.MESSAGE.unpack(data))
        deed, sequence, *_ = deeds[-1]
        pid = sequence if deed == appender.STARTED else pid
        if timer is None and pid and deed == appender.ACKNOWLEDGED:
            timer = threading.Timer(after_s, os.kill, (pid, signal.SIGKILL))
            timer.start()
    assert timer is not None, "it ended before it was killed"
    assert deeds[-1][1] == signal.SIGKILL, "it ended by itself"
    timer.join()
    return [deed for deed in deeds if deed[0] in (appender.ACKNOWLEDGED, appender.TAKEN)]


def reopened(directory: Path, after: int) -> dict[int, bytes]:
    """Sequences and bodies that a new process finds after `after`, in the order of the log."""
    history = History(appender.settings("commit"), directory)
    recovery = history.open()
    found = [(record.sequence, record.received.body) for record in history.replay(after)]
    stats = history.stats()
    history.close()
    assert [sequence for sequence, _ in found] == list(range(after + 1, recovery.last + 1)), "in order, without gaps"
    assert stats["missing"] == stats["corrupt"] == 0
    return dict(found)


def test_nothing_acknowledged_is_lost_when_the_process_is_killed_fifty_times(tmp_path: Path) -> None:
    rng = random.Random(1)
    logged: dict[int, bytes] = {}
    acknowledged = 0
    with child("-m", "tests.series.appender") as starter:
        for seed in range(KILLS):
            sync = ("commit", "commit", "interval", "off")[seed % 4]
            deeds = killed_under_load(starter, f"{tmp_path} {sync} {seed}", rng.uniform(0, 0.08))
            found = reopened(tmp_path, len(logged))
            names = {sequence: appender.NAME.unpack_from(content) for sequence, content in found.items()}
            assert all(content == appender.body(*names[sequence]) for sequence, content in found.items())
            assert all(names[sequence] == tuple(name) for _, sequence, *name in deeds)
            taken = [sequence for deed, sequence, *_ in deeds if deed == appender.TAKEN]
            assert taken == list(range(len(logged) + 1, len(logged) + 1 + len(taken))), "in the order of the log"
            acknowledged += sum(deed == appender.ACKNOWLEDGED for deed, *_ in deeds)
            logged |= found
    assert acknowledged > 4 * KILLS, "there was load"
    assert len(log_files(tmp_path / "wal")) >= KILLS
    assert reopened(tmp_path, 0) == logged


HALF_A_SNAPSHOT = """
import sys, time
from pathlib import Path
import numpy as np
from tests.series.test_history import Loop

class Stuck(dict):
    def __getitem__(self, name):
        if name == "z":
            print("half", flush=True)
            time.sleep(600)
        return super().__getitem__(name)

loop = Loop(Path(sys.argv[1]))
loop.start()
for number in range(1, 6):
    loop.send(number)
    if number == 3:
        loop.snapshot()
loop.history.snapshot(loop.sequence, Stuck(loop=np.array([9]), much=np.ones(1_000_000), z=np.zeros(1)))
"""


def test_a_snapshot_half_written_leaves_the_one_before(tmp_path: Path) -> None:
    with child("-c", HALF_A_SNAPSHOT, str(tmp_path)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
    halves = list((tmp_path / "snapshots").glob("*.tmp"))
    assert len(halves) == 1
    assert halves[0].stat().st_size > 1_000_000
    loop = Loop(tmp_path)
    recovery = loop.start()
    assert (recovery.sequence, recovery.last, recovery.notes) == (3, 5, ())
    assert loop.state == state_after(5)
    assert not list(tmp_path.rglob("*.tmp"))
    loop.snapshot()
    assert values(loop.history) == expected_values(5)
    loop.history.close()


# --- two owners ----------------------------------------------------------------------------------------------------

OWNER = """
import sys, time
from pathlib import Path
from tests.series.test_history import Loop

Loop(Path(sys.argv[1])).start()
print("mine", flush=True)
time.sleep(600)
"""


def test_a_second_process_is_kept_out_until_the_first_is_gone(tmp_path: Path) -> None:
    with child("-c", OWNER, str(tmp_path)) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"mine\n"
        for _ in range(2):
            with pytest.raises(ConfigError, match=rf"in use by process {owner.pid}, every process needs one of its"):
                History(config(), tmp_path).open()
    with started(tmp_path) as loop:
        loop.send(1)


def test_a_disk_without_locks_is_not_taken_for_a_second_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match="No locks available"):
        History(config(), tmp_path).open()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- a full disk ---------------------------------------------------------------------------------------------------


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def test_a_full_disk_refuses_everything_tears_nothing_and_recovers(tiny_disk: Path) -> None:
    directory = tiny_disk / "data"
    with started(directory, config(log_file_bytes=20_000)) as loop:
        for number in range(1, 4):
            loop.send(number)
        loop.snapshot()
        loop.send(4)
        filler = fill(tiny_disk)
        for _ in range(3):
            with pytest.raises(StorageError, match="No space left"):
                loop.history.append(Received(RecordKind.METRICS, 1, bytes(5000)))
            with pytest.raises(StorageError, match="No space left"):
                loop.snapshot()
            with pytest.raises(StorageError, match="No space left"):
                loop.history.compact(END_NS)
        assert not list(directory.rglob("*.tmp"))
        assert values(loop.history) == expected_values(3)
        filler.unlink()
        loop.send(5)
        loop.snapshot()
        assert loop.history.compact(END_NS) == 3
        assert values(loop.history) == expected_values(5)
        assert loop.history.stats()["refused_disk"] == 3
    with started(directory) as loop:
        assert (loop.sequence, loop.state, loop.history.notes()) == (5, state_after(5), [])


def test_a_start_on_a_full_disk_finds_everything_and_goes_on_when_there_is_space(tiny_disk: Path) -> None:
    directory = tiny_disk / "data"
    with started(directory) as loop:
        for number in range(1, 4):
            loop.send(number)
    newest = log_files(directory / "wal")[-1][1]
    os.truncate(newest, newest.stat().st_size - 1)
    (directory / "lock").unlink()
    (directory / "lock").touch()
    filler = fill(tiny_disk)
    with started(directory) as loop:
        assert loop.state == state_after(2)
        assert len(loop.history.notes()) == 1
        with pytest.raises(StorageError, match="No space left"):
            loop.history.append(Received(RecordKind.METRICS, 1, bytes(5000)))
        filler.unlink()
        loop.send(3)
        assert loop.state == state_after(3)


def send_large(loop: Loop) -> None:
    loop.history.append(Received(RecordKind.METRICS, loop.sequence, b"7".zfill(4000)))
    entry = loop.history.take(0)
    assert entry is not None
    loop.step(entry.sequence, 7)


def test_bodies_are_refused_early_enough_that_a_snapshot_finds_room_and_makes_some(tiny_disk: Path) -> None:
    settings = config(min_free_bytes=500_000, log_file_bytes=50_000, log_keep=1e-9)
    with started(tiny_disk / "data", settings) as loop:
        with pytest.raises(StorageError, match="500000 must stay free"):
            while True:
                send_large(loop)
                if loop.sequence == 60:
                    loop.snapshot()
        assert loop.sequence > 60
        loop.snapshot()
        assert loop.history.enforce(END_NS).log_bytes > 100_000
        send_large(loop)


# --- a damaged disk ------------------------------------------------------------------------------------------------


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_a_flipped_bit_in_every_kind_of_file_is_found_noted_and_survived(tmp_path: Path) -> None:
    with started(tmp_path) as loop:
        for number in range(1, 10):
            loop.send(number)
            if number in (3, 6):
                loop.snapshot()
    snapshot = tmp_path / "snapshots" / f"{6:020d}.snapshot"
    segment = sorted((tmp_path / "segments").rglob("*.parquet"))[0]
    log = next(path for first, path in log_files(tmp_path / "wal") if first <= 4)
    with_4 = next(path for first, path in reversed(log_files(tmp_path / "wal")) if first <= 4)
    flip(snapshot, 70)
    flip(segment, 30)
    flip(with_4, len(with_4.read_bytes()) - 1)
    history = History(config(), tmp_path)
    recovery = history.open()
    assert recovery.sequence == 3
    assert [str(snapshot) in note for note in recovery.notes] == [True]
    found = [record.sequence for record in history.replay()]
    assert len(found) == 5, "one record is lost, the others are not"
    with pytest.raises(StateError, match=str(segment)):
        history.read(0, END_NS)
    history.compact(END_NS)
    assert log.exists()
    told = [[str(path) in note for note in history.notes()] for path in (snapshot, with_4, segment)]
    assert told == [[True, False, False], [False, True, False], [False, False, True]]
    stats = history.stats()
    assert (stats["corrupt"], stats["missing"], stats["snapshots_refused"], stats["segments_damaged"]) == (1, 1, 1, 1)
    left = values(history)
    assert set(left) < set(expected_values(6))
    assert len(left) > 6
    assert history.append(Received(RecordKind.METRICS, 1, b"10")) == 10
    history.close()


# --- retention and clocks ------------------------------------------------------------------------------------------


def many_files(loop: Loop, times_ns: list[int]) -> None:
    """A body for each time, all but the last no longer needed for any recovery."""
    for number, received_ns in enumerate(times_ns, 1):
        loop.history.append(Received(RecordKind.METRICS, received_ns, b"7" * 100))
        entry = loop.history.take(0)
        assert entry is not None
        loop.step(entry.sequence, 7)
        if number >= len(times_ns) - 1:
            loop.snapshot()


def first_sequences(directory: Path) -> list[int]:
    return [first for first, _ in log_files(directory / "wal")]


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"log_keep": 3.0, "log_keep_bytes": 1 << 30}, [7, 8, 9, 10, 11]),  # file 6 ended at 6 s, now it is 9 s
        ({"log_keep": 1e6, "log_keep_bytes": 450}, [9, 10, 11]),
        ({"log_keep": 1e6, "log_keep_bytes": 1 << 30}, [*range(1, 12)]),
    ],
)
def test_the_log_is_kept_by_age_and_by_size(tmp_path: Path, changes: dict[str, float], left: list[int]) -> None:
    with started(tmp_path, config(log_file_bytes=1, **changes)) as loop:
        many_files(loop, [*(n * S for n in range(10)), 9 * S])
        size = log_files(tmp_path / "wal")[0][1].stat().st_size
        assert 150 < size < 200
        deleted = loop.history.enforce(9 * S)
        assert first_sequences(tmp_path) == left
        assert deleted.log_bytes == (11 - len(left)) * size


def test_segments_are_kept_by_size(tmp_path: Path) -> None:
    with started(tmp_path, config(segments_keep_bytes=1)) as loop:
        loop.send(1)
        loop.snapshot()
        assert loop.history.enforce(HOUR_0).segment_files == 2
        assert values(loop.history) == []
        loop.send(2)
        loop.snapshot()
        assert values(loop.history) == [-2, 2]


def test_a_clock_that_goes_back_breaks_neither_the_log_nor_its_retention(tmp_path: Path) -> None:
    settings = config(log_file_age=10.0, log_file_bytes=1000, log_keep=5.0)
    with started(tmp_path, settings) as loop:
        many_files(loop, [100 * S, 111 * S, *[50 * S] * 12, 0, 122 * S, 123 * S, 123 * S])
        assert first_sequences(tmp_path) == [1, 2, 10, 16], "by age, and by size while the clock is behind"
        assert loop.history.enforce(0).log_files == 0, "nothing is old for a clock that is behind"
    with started(tmp_path, settings) as loop:
        loop.history.append(Received(RecordKind.METRICS, 60 * S, b"7"))
        assert [r.received.received_ns // S for r in loop.history.replay(0)] == [100, *[111] * 14, 122, 123, 123]
        assert loop.history.enforce(121 * S).log_files == 2
        assert loop.history.enforce(200 * S).log_files == 1
    with started(tmp_path, settings) as loop:
        assert [r.received.received_ns // S for r in loop.history.replay(17)] == [123, 123]


def test_event_times_that_go_back_are_written_merged_and_kept_by_their_own_hour(tmp_path: Path) -> None:
    with started(tmp_path, config(segments_keep=2 * 3600.0)) as loop:
        for number in (1, 2, 3):  # their second points are 1, 2 and 0 hours ahead
            loop.send(number)
            loop.snapshot()
            loop.history.compact(HOUR_0 + (3 - number) * HOUR_NS)
        assert values(loop.history) == expected_values(3)
        assert loop.history.compact(HOUR_0 - HOUR_NS) == 0
        assert loop.history.compact(END_NS) == 2, "the hour that was merged early is whole already"
        assert loop.history.enforce(0).segment_files == 0
        assert loop.history.enforce(HOUR_0 + 3 * HOUR_NS).segment_files == 1
        assert values(loop.history) == [-2, -1]
