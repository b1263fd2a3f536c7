"""The whole circle of the model lifecycle on a running service: as its operators see it, from objective to audit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from tests.feed import Feed
from tests.servers import Aiops, wait_for

START_S = 1_759_968_000  # 2025-10-09T00:00:00Z
HOUR_S, STEP_S = 3_600, 120
SERIES = 4  # of each metric
CONFIG = """
detection: {warmup_points: 20}
service: {snapshot_interval: 500ms, tick_interval: 200ms}
storage: {min_free_bytes: 0, segments_keep: 36500d}
objectives:
- {name: orders, match: {service: orders}, budget: 2/day, incidents: [rate, series], data: {least_history: 2d}}
lifecycle:
  rollout: {automatic: true, interval: 0.2, shadow: 1h, canary: 1h, probation: 1h, share: 0.5, least_points: 50}
  monitoring: {interval: 1s, window: 6h, looks: 36, reference: 2d, gap: 1d}
  retrain: {enabled: true, reasons: [drift], min_interval: 20s, objective: orders, window: 2d}
"""


class World:
    """What the shop does, an hour after the other; `moved` once it does so for good in another way."""

    def __init__(self, aiops: Aiops) -> None:
        self.aiops = aiops
        self.step = 0
        self.moved = False
        self._random = np.random.default_rng(3)

    @property
    def now_s(self) -> int:
        return START_S + self.step * STEP_S

    def minutes(self, count: float, **odd: float) -> None:
        """Send so much of its life in one request; `odd` are values of queues that are not as they should be."""
        orders, pay = Feed("orders"), Feed("pay")
        for _ in range(round(count * 60 / STEP_S)):
            wave = np.sin(2 * np.pi * (self.now_s % 86_400) / 86_400)
            depth = 100 + 30 * wave + self._random.normal(0, 3, SERIES)
            if self.moved:
                depth = 260 + 15 * wave + self._random.normal(0, 8, SERIES)
            cpu = 0.4 + 0.1 * wave + self._random.normal(0, 0.01, SERIES)
            for k in range(SERIES):
                orders.gauge("queue.depth", self.now_s, odd.get(f"q{k}", float(depth[k])), queue=f"q{k}")
                pay.gauge("cpu.load", self.now_s, float(cpu[k]), pod=f"p{k}")
            self.step += 1
        for feed in (orders, pay):
            url = f"http://127.0.0.1:{self.aiops.http}/v1/metrics"
            sent = requests.post(url, feed.body(), headers={"Content-Type": "application/x-protobuf"}, timeout=60)
            assert sent.status_code == 200, sent.text

    def hours(self, count: int) -> None:
        """Whole hours, which are on the disk afterwards."""
        for _ in range(count):
            self.minutes(60)
        wait_for(self._on_disk, "all to be scored, and on the disk")

    def _on_disk(self) -> bool:
        log = self.aiops.status()["log"]
        return not log["queue_bodies"] and not log["rows_waiting_bytes"]

    def until(self, check: Callable[[], Any], what: str, **odd: float) -> Any:
        """Let time go by until something holds."""

        def on() -> Any:
            self.minutes(10, **odd)
            return check()

        return wait_for(on, what, every_s=0.25)


def get(aiops: Aiops, path: str) -> Any:
    answer = requests.get(f"{aiops.url}/api/v1/{path}", timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def cli(*words: str, code: int = 0) -> str:
    """A command as an operator gives it; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "otel_aiops", *words],
        capture_output=True, text=True, check=False, timeout=200, env={**os.environ, "USER": "ana", "COLUMNS": "200"},
    )  # fmt: skip
    print(" ".join(words[:2]), done.returncode, done.stdout, done.stderr)
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Aiops(tmp_path, CONFIG) as aiops:
        yield World(aiops)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_circle(world: World, tmp_path: Path) -> None:
    aiops = world.aiops
    T = time.monotonic()
    def lap(what): print(f"=== {time.monotonic()-T:.1f} {what}", flush=True)
    here = ["--config", str(aiops.config), "--data-dir", str(aiops.data)]
    world.hours(96)
    lap("fed")
    said = json.loads(cli("lifecycle", "run", "--objective", "orders", *here, "--url", aiops.url, "--json"))
    lap("run")
    print(get(aiops, "rollout"))
    first = said["version"]

    def alone(version: str) -> Callable[[], bool]:
        def check() -> bool:
            found = get(aiops, "rollout")
            return (found["champion"], found["other"]) == (version, None)
        return check

    world.until(alone(first), "champion")
    lap("champion")
    world.moved = True
    world.hours(50)
    lap("drift")
    print(wait_for(lambda: get(aiops, "models/health")["problems"], "drift"))
    lap("drift seen")
    print(wait_for(lambda: [r for r in get(aiops, "lifecycle/runs")["runs"] if r["origin"] == "service" and r["state"] in ("registered", "refused", "failed")], "retrained"))
    lap("retrained")
    print(aiops.server.tail())
