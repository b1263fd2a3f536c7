"""Work in processes: results in order, errors as they were meant, and nobody left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from otel_aiops.errors import AiopsError, BadInput, ConfigError, Overloaded, StateError
from otel_aiops.lifecycle import workers
from otel_aiops.lifecycle.workers import Told, processes, work
from otel_aiops.series.segments import DamagedFile


def double(task: int, told: Told) -> int:
    told(0.5)
    return 2 * task


def dies(task: int, told: Told) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def fails(task: Exception, told: Told) -> int:
    raise task


def test_results_come_in_order_wherever_they_are_made() -> None:
    told: list[float] = []
    assert work(double, [1, 2, 3], count=1, told=told.append) == [2, 4, 6]
    assert told == pytest.approx([0.5 / 3, 1.5 / 3, 2.5 / 3]) and work(double, [], count=2) == []
    assert work(double, [3, 1, 2], count=2, told=told.append) == [6, 2, 4] and told[-1] == 1.0
    assert processes() >= 1


def test_a_process_that_is_killed_is_told() -> None:
    with pytest.raises(Overloaded, match="was killed"):
        work(dies, [1, 2], count=2)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(DamagedFile(Path("x"), "torn"), StateError), (BadInput("no"), BadInput), (ConfigError("a.b", "no"), AiopsError)],
)
def test_errors_come_back_as_ones_that_survive_the_way(
    error: Exception, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = [0.0]
    monkeypatch.setattr(multiprocessing.current_process(), "shares", shares, raising=False)
    with pytest.raises(kind, match=str(error)[-4:]) as found:
        workers._run(fails, error, 0)
    assert type(found.value) is kind
    assert workers._run(double, 4, 0) == 8 and shares == [1.0]


def test_a_process_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    reader, writer = os.pipe()
    os.close(writer)  # as when the parent is gone
    workers._end_with(reader)
    os.close(reader)
    assert codes == [1]


def waits(task: str, told: Told) -> None:
    Path(task).write_text(str(os.getpid()))
    time.sleep(60)


def test_nobody_is_left_when_the_parent_is_killed(tmp_path: Path) -> None:
    program = "import sys\nfrom tests.lifecycle import test_workers as t\nt.work(t.waits, sys.argv[1:], count=2)\n"
    files = [tmp_path / name for name in "ab"]
    parent = subprocess.Popen([sys.executable, "-c", program, *map(str, files)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not all(file.exists() and file.read_text() for file in files) and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    left = {int(file.read_text()) for file in files}
    while left and time.monotonic() < deadline:
        left = {one for one in left if running(one)}
        time.sleep(0.05)
    assert not left


def running(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
