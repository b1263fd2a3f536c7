"""The whole circle of the model lifecycle on a running service, as its operators see it: from objective to audit."""

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
STEP_S, STEPS_A_DAY, SERIES = 300, 288, 6
CONFIG = """
detection: {warmup_points: 20}
service: {snapshot_interval: 500ms, tick_interval: 200ms}
storage: {min_free_bytes: 0, segments_keep: 36500d}
objectives:
- {name: orders, match: {service: orders}, budget: 2/day, incidents: [rate, series], data: {least_history: 2d}}
lifecycle:
  rollout:
    {automatic: true, interval: 0.2, shadow: 1h, canary: 1h, probation: 1h, share: 0.5, least_points: 50,
     calibration: 0.4}
  monitoring: {interval: 1s, window: 6h, looks: 84, reference: 2d, gap: 1d}
  retrain: {enabled: true, reasons: [drift], min_interval: 60s, objective: orders, window: 4d}
  gate: {recall_margin: 0.2, confidence: 0.8}  # of few days and series
  registry: {enabled: false}
"""
DEAF = ("{warmup_points: 20}", "{warmup_points: 20, threshold: 100, sensitivity: 0.1, novelty_memory: 0}")


class World:
    """Queues of a shop, which send far faster than the clock goes; `moved` once their level and shape have changed."""

    def __init__(self, aiops: Aiops) -> None:
        self.aiops = aiops
        self.step = 0
        self.moved = False
        self._random = np.random.default_rng(3)
        self._slow = np.zeros(SERIES)

    @property
    def now_s(self) -> int:
        return START_S + self.step * STEP_S

    def steps(self, count: int, **odd: float) -> None:
        """Send so much of their life in one request; `odd` are values that are not as they should be."""
        feed = Feed("orders")
        for _ in range(count):
            wave = np.sin(2 * np.pi * self.step / STEPS_A_DAY)
            self._slow = 0.9 * self._slow + self._random.normal(0, 3, SERIES)
            noise = self._slow + self._random.normal(0, 2, SERIES)
            depth = 260 + 1.5 * noise if self.moved else 100 + 5 * wave + noise
            for k in range(SERIES):
                feed.gauge("queue.depth", self.now_s, odd.get(f"q{k}", float(depth[k])), queue=f"q{k}")
            self.step += 1
        url = f"http://127.0.0.1:{self.aiops.http}/v1/metrics"
        sent = requests.post(url, feed.body(), headers={"Content-Type": "application/x-protobuf"}, timeout=60)
        assert sent.status_code == 200, sent.text

    def days(self, count: float) -> None:
        """To the end of an hour, with all of it on the disk afterwards."""
        whole = STEPS_A_DAY // 24
        left = round(count * STEPS_A_DAY) + (-self.step - round(count * STEPS_A_DAY)) % whole
        while left:
            self.steps(min(left, 6 * whole))
            left -= min(left, 6 * whole)
        wait_for(self._on_disk, "all to be scored, and on the disk")

    def _on_disk(self) -> bool:
        log = self.aiops.status()["log"]
        return not log["queue_bodies"] and not log["rows_waiting_bytes"]

    def until(self, check: Callable[[], Any], what: str, **odd: float) -> Any:
        """Let time go by until something holds."""

        def on() -> Any:
            self.steps(1, **odd)
            return check()

        return wait_for(on, what, every_s=0.1)

    # -- what operators see -------------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        answer = requests.get(f"{self.aiops.url}/api/v1/{path}", timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def serves(self, champion: str) -> bool:
        """Whether a version serves alone."""
        found = self.get("rollout")
        return (found["champion"], found["other"]) == (champion, None)

    def orders(self, version: str) -> list[tuple[str, str]]:
        """(action, who) of what was done with a version, the oldest first."""
        done = self.get("rollout/history")["rollouts"]
        return [(one["action"], one["who"]) for one in reversed(done) if one["version"] == version]

    def metric(self, line: str) -> float:
        text = requests.get(f"{self.aiops.url}/metrics", timeout=30).text
        return next((float(one.rsplit(" ", 1)[1]) for one in text.splitlines() if one.startswith(line)), 0.0)

    def files(self, config: Path | None = None) -> list[str]:
        return ["--config", str(config or self.aiops.config), "--data-dir", str(self.aiops.data)]

    def service(self) -> list[str]:
        return ["--url", self.aiops.url]


def cli(*words: str, code: int = 0) -> str:
    """What a command prints, given as an operator gives it."""
    command, env = [sys.executable, "-m", "otel_aiops", *words], {**os.environ, "USER": "ana", "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, env=env)
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout


def step(run: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in run["steps"] if one["name"] == name)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Aiops(tmp_path, CONFIG) as aiops:
        yield World(aiops)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_circle(world: World, tmp_path: Path) -> None:
    first = from_objective_to_champion(world)
    second = drift_makes_a_new_champion(world, first)
    deaf = tmp_path / "deaf.yaml"
    deaf.write_text(world.aiops.config.read_text().replace(*DEAF))
    refused = a_bad_one_is_stopped_at_the_gate(world, second, deaf)
    bad = one_that_slips_through_is_rolled_back(world, second, deaf)
    the_champion_is_back_in_seconds(world, second, bad)
    the_audit_has_it_all(world, first, second, refused, bad)


def from_objective_to_champion(world: World) -> str:
    """Dataset, training, evaluation, gate, registry and shadow by one command; canary and champion by the rules."""
    assert "orders" in cli("objectives", "list", *world.service())
    world.days(4)
    wanted = ["--objective", "orders", *world.files(), *world.service()]
    run = json.loads(cli("lifecycle", "run", *wanted, "--why", "the first", "--json"))
    assert [one["name"] for one in run["steps"]] == [
        *("dataset", "quality", "settings", "train", "evaluate", "gate", "register", "rollout")
    ]
    assert run["state"] == "registered" and step(run, "gate")["outputs"]["verdict"]["passed"]
    version = str(run["version"])
    assert step(run, "rollout")["outputs"]["ordered"] and world.get("rollout")["other"] == version
    world.until(lambda: world.serves(version), "the rules to carry it on")
    itself = "otel-aiops"
    assert world.orders(version) == [("shadow", "ana"), ("canary", itself), ("promote", itself)]
    assert world.metric(f'otel_aiops_model_info{{role="champion",version="{version}"}}') == 1
    cli("models", "health", *world.service())
    return version


def drift_makes_a_new_champion(world: World, first: str) -> str:
    """Level and shape change for good: the monitor says so, and the service retrains for that reason by itself."""
    world.moved = True
    world.days(4.1)

    def drifted() -> bool:
        """By a look at all of it: one before may see high scores, and no drift yet."""
        health = world.get("models/health")
        seen = any("queue.depth of orders" in one for one in health["problems"])
        return seen and (health["time"] or 0) >= world.now_s - STEP_S

    wait_for(drifted, "the monitor to see the drift")
    assert "queue.depth of orders" in cli("models", "health", *world.service(), code=1)
    assert world.metric('otel_aiops_model_drifts_persistent{kind="input"}') == 1

    def retrained() -> Any:
        runs = world.get("lifecycle/runs")["runs"]
        return [one for one in runs if one["origin"] == "service" and one["state"] not in ("running", "interrupted")]

    (run,) = wait_for(retrained, "the service to retrain", timeout_s=240)
    assert run["state"] == "registered", run
    assert run["why"].startswith("drift that persists: ") and run["who"] == "otel-aiops"
    version = str(run["version"])
    world.until(lambda: world.serves(version), "the rules to carry the new one on")
    assert world.orders(version) == [(action, "otel-aiops") for action in ("shadow", "canary", "promote")]
    assert world.metric('otel_aiops_lifecycle_runs_total{outcome="registered",reason="drift"}') == 1
    lineage = world.get(f"models/{version}")["lineage"]
    assert lineage["parent"] == first and lineage["dataset"] != world.get(f"models/{first}")["lineage"]["dataset"]
    over = 'otel_aiops_model_drifts_persistent{kind="input"}'
    wait_for(lambda: not world.metric(over), "the drift to be over")
    return version


def a_bad_one_is_stopped_at_the_gate(world: World, champion: str, deaf: Path) -> str:
    """Exit code 1, and why; nothing of it is registered or runs."""
    world.days(0)
    wanted = ["--objective", "orders", "--window", "4d", *world.files(deaf), *world.service()]
    run = json.loads(cli("lifecycle", "run", *wanted, "--json", code=1))
    assert run["state"] == "refused" and run["steps"][-1]["name"] == "gate"
    assert "the gate says no" in run["summary"]["result"] and "finds faults: " in run["summary"]["result"]
    refused = str(step(run, "train")["outputs"]["version"])
    assert refused not in [one["id"] for one in world.get("models")["models"]] and world.serves(champion)
    return str(run["id"])


def one_that_slips_through_is_rolled_back(world: World, champion: str, deaf: Path) -> str:
    """Trained and ordered by hand, past the gate. It misses what the champion raises and somebody calls true."""
    dataset = json.loads(cli("dataset", "list", *world.files(), "--json"))["datasets"][0]["id"]
    bad = str(json.loads(cli("train", dataset, *world.files(deaf), "--json"))["id"])
    cli("rollout", "canary", bad, "--share", "0.5", "--why", "in spite of the gate", *world.service())

    began_s = world.now_s

    def alert() -> Any:
        found = world.get("alerts")["alerts"]
        return next((one for one in found if 'queue="q2"' in one["series"] and one["since"] >= began_s), None)

    found = world.until(alert, "the champion to raise an alert", q2=420.0)
    given = {"series": found["fingerprint"], "time": found["since"], "verdict": "true_alert", "by": "ben"}
    answer = requests.post(f"{world.aiops.url}/api/v1/verdicts", json=given, timeout=30)
    assert answer.status_code == 200, answer.text
    wait_for(lambda: world.serves(champion), "the rules to roll it back")
    assert world.now_s - began_s < 3_600, "within its first hour as canary"
    last = world.get("rollout/history")["rollouts"][0]
    assert (last["action"], last["who"]) == ("rollback", "otel-aiops") and "it missed 1" in last["why"]
    sides = last["evidence"]["champion"], last["evidence"]["other"]
    assert [one["version"] for one in sides] == [champion, bad] and [one["missed"] for one in sides] == [0, 1]
    return bad


def the_champion_is_back_in_seconds(world: World, champion: str, bad: str) -> None:
    for action in ("shadow", "promote"):
        cli("rollout", action, bad, "--why", "by mistake", *world.service())
    assert world.get("rollout")["champion"] == bad
    began_s = time.monotonic()
    asked = {"action": "rollback", "who": "ana", "why": "it is deaf"}
    answer = requests.post(f"{world.aiops.url}/api/v1/rollout", json=asked, timeout=30)
    assert answer.status_code == 200 and world.serves(champion), answer.text
    assert time.monotonic() - began_s < 5
    before = world.metric("otel_aiops_points_scored_total")
    world.until(lambda: world.metric("otel_aiops_points_scored_total") > before, "the champion to score on")


def the_audit_has_it_all(world: World, first: str, second: str, refused: str, bad: str) -> None:
    """In the order in which it happened, whatever the time of the telemetry was."""
    told = json.loads(cli("audit", *world.files(), "--limit", "1000", "--json"))
    assert told["problems"] == []
    entries = [(one["kind"], one["what"].split(",")[0], one["who"]) for one in reversed(told["entries"])]
    itself, half = "otel-aiops", "50% of the series"
    wanted = [
        ("version", f"made {first}", "ana"),
        ("rollout", f"shadow {first}", "ana"),
        ("rollout", f"canary {first}", itself),
        ("rollout", f"promote {first}", itself),
        ("version", f"made {second}", itself),
        ("rollout", f"shadow {second}", itself),
        ("rollout", f"canary {second}", itself),
        ("rollout", f"promote {second}", itself),
        ("rollout", "stop", itself),
        ("run", f"run {refused} refused", "ana"),
        ("version", f"made {bad}", "ana"),
        ("rollout", f"canary {bad}", "ana"),
        ("verdict", "", "ben"),
        ("rollout", "rollback", itself),
        ("rollout", f"shadow {bad}", "ana"),
        ("rollout", f"promote {bad}", "ana"),
        ("rollout", "rollback", "ana"),
    ]
    rest = iter(entries)
    for kind, what, who in wanted:
        assert any((one[0], one[2]) == (kind, who) and one[1].startswith(what) for one in rest), (kind, what, entries)
    assert any(f"canary {second}, {half}" == one["what"] for one in told["entries"])
