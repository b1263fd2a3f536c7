"""Watching files that operators replace."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from otel_aiops.server.files import FileWatch


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_to_watch(clock: Clock) -> None:
    watch = FileWatch(["", ""], interval_s=0.0, clock=clock)
    assert not watch.changed()


def test_a_change_is_told_once_and_not_before_its_time(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "a"
    file.write_text("1")
    watch = FileWatch([str(file), ""], interval_s=10.0, clock=clock)
    file.write_text("12")
    clock.now_s = 9.9
    assert not watch.changed()
    clock.now_s = 10.0
    assert watch.changed()
    clock.now_s = 20.0
    assert not watch.changed()


def test_every_kind_of_change_is_seen(tmp_path: Path, clock: Clock) -> None:
    file, other = tmp_path / "a", tmp_path / "b"
    file.write_text("1")
    os.utime(file, ns=(5, 5))
    watch = FileWatch([str(file)], interval_s=0.0, clock=clock)

    file.write_text("2")  # same size
    os.utime(file, ns=(6, 6))
    assert watch.changed()

    other.write_text("3")  # same size, same time, another file: as when a symbolic link of Kubernetes is turned
    os.utime(other, ns=(6, 6))
    other.rename(file)
    assert watch.changed()

    file.unlink()
    assert watch.changed()
    assert not watch.changed()
    file.write_text("4")
    assert watch.changed()


def test_a_link_is_followed(tmp_path: Path, clock: Clock) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cert").write_text(name)
    (tmp_path / "data").symlink_to("old")
    watch = FileWatch([str(tmp_path / "data" / "cert")], interval_s=0.0, clock=clock)
    (tmp_path / "data.new").symlink_to("new")
    (tmp_path / "data.new").rename(tmp_path / "data")
    assert watch.changed()


def test_again_tells_the_same_once_more(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "a"
    file.write_text("1")
    watch = FileWatch([str(file)], interval_s=1.0, clock=clock)
    watch.again()
    assert not watch.changed(), "but not sooner"
    clock.now_s = 1.0
    assert watch.changed()
    clock.now_s = 2.0
    assert not watch.changed()


def test_one_of_many_threads_is_told(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "a"
    watch = FileWatch([str(file)], interval_s=0.0, clock=clock)
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            file.write_text("x" * number)
            assert sum(pool.map(lambda _: watch.changed(), range(16))) == 1
