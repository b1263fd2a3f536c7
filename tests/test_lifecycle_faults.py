"""What goes wrong beside a running service: trainers fail with a reason, and the champion serves on as it was."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from otel_aiops.lifecycle.train import STAGED
from otel_aiops.lifecycle.version import Models
from tests.lifecycle.test_tune import made
from tests.servers import wait_for
from tests.test_app import running
from tests.test_rollout import Shop

SMALL_BYTES = 8_000  # less than a part of a training needs
CONFIG = "detection: {seasons: 'off', novelty_memory: 0}\nlifecycle: {registry: {enabled: false}}\n"
HOLDS = (  # a trainer that has learned everything and never writes it
    "import sys, time\n"
    "from pathlib import Path\n"
    "from otel_aiops.cli import main\n"
    "from otel_aiops.lifecycle.version import Models\n"
    "there = sys.argv.pop(1)\n"
    "Models.write = lambda *_: (Path(there).touch(), time.sleep(300))\n"
    "main()\n"
)


class Rig:
    """A service with a champion of its own, and a dataset in its data directory."""

    def __init__(self, shop: Shop, dataset: str, folder: Path) -> None:
        self.shop, self.dataset = shop, dataset
        self.data = shop.up.service.directory
        self.config = folder / "training.yaml"
        self.config.write_text(CONFIG)
        self.models = Models(self.data / "lifecycle/models")
        self.champion = shop.challenger()
        for action in ("shadow", "promote"):
            assert shop.roll(action, version=self.champion).status_code == 200
        shop.roll("stop")
        self.versions = set(self.models.list())

    def command(self, *arguments: str) -> list[str]:
        common = ["--data-dir", str(self.data), "--config", str(self.config)]
        return [*arguments, self.dataset, *common, "--processes", "1"]

    def train(self, prepared: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "otel_aiops", *self.command("train")]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, preexec_fn=prepared)

    @contextmanager
    def serves_on(self) -> Iterator[None]:
        """The champion is the same before and after, and scores; what failed left no version."""
        yield
        scored = self.shop.up.service.telemetry.value("otel_aiops.points.scored")
        self.shop.feed(2)
        status = self.shop.up.get("/api/v1/rollout")
        assert status["champion"] == self.champion, status
        assert self.shop.up.service.telemetry.value("otel_aiops.points.scored") > scored
        assert set(self.models.list()) == self.versions


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    recorded, folder = tmp_path_factory.mktemp("recorded"), tmp_path_factory.mktemp("service")
    dataset = made(recorded)
    with running(folder, "lifecycle: {registry: {enabled: false}}\n") as up:
        shutil.copytree(recorded / "lifecycle", up.service.directory / "lifecycle", dirs_exist_ok=True)
        shop = Shop(up)
        shop.feed(40)
        yield Rig(shop, dataset, folder)


def test_a_damaged_segment_is_named(rig: Rig) -> None:
    segment = next((rig.data / "lifecycle/datasets/segments").glob("*.parquet"))
    good = segment.read_bytes()
    segment.unlink()
    segment.write_bytes(good[: len(good) // 2])
    try:
        with rig.serves_on():
            done = rig.train()
            assert done.returncode == 3 and segment.name in done.stderr, done.stderr
    finally:
        segment.write_bytes(good)


def test_a_label_file_that_is_missing_is_named(rig: Rig, tmp_path: Path) -> None:
    with rig.serves_on():
        command = [sys.executable, "-m", "otel_aiops", "dataset", "build", "-d", str(rig.data), "--labels", "gone.csv"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)
        assert done.returncode == 2 and "gone.csv: expected a file" in done.stderr, done.stderr
        assert done.stderr.endswith("got No such file or directory\n")


@pytest.mark.slow
def test_two_trainers_at_once_then_one_that_is_killed_then_one_on_a_full_disk(rig: Rig, tmp_path: Path) -> None:
    there = tmp_path / "there"
    first = subprocess.Popen([sys.executable, "-c", HOLDS, str(there), *rig.command("train")])
    try:
        wait_for(there.exists, "the first trainer")
        with rig.serves_on():
            second = rig.train()
            assert second.returncode == 3 and "the same is being trained now" in second.stderr, second.stderr
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    (staged,) = rig.models.directory.glob(f"{STAGED}*")
    shutil.rmtree(staged)  # all of it is to be written again
    with rig.serves_on():
        full = rig.train(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_BYTES, SMALL_BYTES)))
        assert full.returncode == 3 and full.stderr.startswith("otel-aiops: "), full.stderr
        assert os.strerror(27) in full.stderr and str(staged) in full.stderr, full.stderr
    good = rig.train()
    assert good.returncode == 0, good.stderr
    (new,) = set(rig.models.list()) - rig.versions
    assert new in good.stdout and not list(rig.models.directory.glob(f"{STAGED}*"))
    rig.versions.add(new)
    assert rig.shop.roll("shadow", version=new).status_code == 200, "it is whole"
    rig.shop.roll("stop")


def test_a_clock_that_goes_back_moves_no_rollout(rig: Rig) -> None:
    shop = rig.shop
    strict = shop.challenger(4.0)
    rig.versions = set(rig.models.list())
    shop.roll("canary", version=strict, share=0.5)
    telemetry, right_s = shop.up.service.telemetry, shop.now_s
    late = telemetry.value("otel_aiops.points.late")
    shop.now_s -= 7200.0
    shop.feed(5)
    assert telemetry.value("otel_aiops.points.late") == late + 5 * 20, "they are counted, and not learned"
    status = shop.up.get("/api/v1/rollout")
    assert (status["champion"], status["other"]) == (rig.champion, strict), status
    assert telemetry.value("otel_aiops.step.failures") == 0
    assert telemetry.value("otel_aiops.rollout.failures", action="canary") == 0
    shop.now_s = right_s
    with rig.serves_on():
        shop.roll("stop")
