"""The service makes new versions by itself: in a child that it can lose, and that never outlives it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from otel_aiops.config import parse
from otel_aiops.lifecycle.runs import Run, Runs, Step
from otel_aiops.retrainer import Retrainer, changed, inputs, written
from tests.incident_feed import call
from tests.servers import wait_for
from tests.test_app import Running, running
from tests.test_rollout import Shop

RICH = """
detection: {seasons: week, threshold: 5, novelty_memory: 1MiB}
budget: 4/day
budgets: [{name: shop, match: {service: cart}, budget: 2/week}]
objectives: [{name: pay, match: {service: '~pay.*$'}, budget: 1/week, incidents: [latency]}]
policies:
  - {match: {name: load}, min_dev_from_expected: [1, 2], skip_result: [{days: [sat], from: "10:00", to: "12:00"}]}
calendar: [{match: {service: cart}, tz: Europe/Berlin, holidays: ["2026-12-25"]}]
lifecycle: {retrain: {enabled: true, schedule: 1d, reasons: [schedule, drift]}, gate: {margin: 0.2}}
datasets: {limits: {min_rows: 5}}
"""


def test_a_configuration_reaches_the_child_as_it_is(tmp_path: Path) -> None:
    config = parse(RICH.replace("$'", "$$'")).config
    found = parse(written(config)).config
    assert found.pipeline() == config.pipeline() and found.objectives == config.objectives
    assert found.lifecycle == config.lifecycle and found.datasets == config.datasets
    assert inputs(found, tmp_path) == inputs(config, tmp_path)
    assert inputs(parse("budget: 5/day").config, tmp_path)["budget"] != inputs(config, tmp_path)["budget"]
    default, forests = (inputs(parse(text).config, tmp_path) for text in ("", "lifecycle: {families: [forest]}"))
    assert changed(default, forests) == ("families",)


CHILD = """
import json, os, sys, threading, time
from pathlib import Path
told = dict(zip(sys.argv[2::2], sys.argv[3::2]))
Path(sys.argv[1], "child").write_text(json.dumps({"pid": os.getpid(), "nice": os.nice(0), "argv": sys.argv[2:]}))
def end():
    while os.read(0, 4096): pass
    os._exit(3)
threading.Thread(target=end, daemon=True).start()
if mode == "slow": time.sleep(60)
if mode == "broken": sys.exit("otel-aiops: no room")
path = Path(sys.argv[1], "answer")
print(path.read_text())
"""


def retrainer(up: Running, mode: str, **more: Any) -> Retrainer:
    """With a child that only says what it was asked."""
    code = f"mode = {mode!r}\n{CHILD}"
    up.service.retrainer.errand.stop()
    found = Retrainer(up.service, command=(sys.executable, "-c", code, str(up.service.directory)), look_s=0.0, **more)
    up.service.retrainer = found
    return found


def answer(up: Running, state: str, version: str = "", **more: Any) -> Run:
    """A run that the child says it has made."""
    steps = (Step(name="rollout", state="skipped", outputs={"ordered": False}, words="not yet"),)
    plan: dict[str, Any] = {"objective": "", "settings": "config", "verdicts": 0}
    plan["config"] = inputs(up.service.config, up.service.directory)
    known: dict[str, Any] = {"began_ns": time.time_ns(), "origin": "service", "version": version, "steps": steps}
    run = Runs(up.service.directory).write(Run(id="a" * 16, plan=plan, state=state, **{**known, **more}))
    tree = run.to_json() | {"summary": run.summary()}
    (up.service.directory / "answer").write_text(json.dumps(tree))
    return run


def child(up: Running) -> dict[str, Any]:
    path = up.service.directory / "child"
    wait_for(lambda: path.exists() and path.read_text().endswith("}"), "the child to begin")
    return dict(json.loads(path.read_text()))


ON = "lifecycle: {retrain: {enabled: true, min_interval: 1ms, schedule: 1ms, settings: champion}}\n"


def test_what_is_due_is_made_and_runs_as_shadow(tmp_path: Path) -> None:
    with running(tmp_path, ON) as up:
        shop = Shop(up)
        shop.feed(5)
        version = shop.challenger()
        of = retrainer(up, "quick", drifts=lambda: ["latency of cart moved"])
        run = answer(up, "registered", version, why="drift", who="otel-aiops", began_ns=1)
        of.look()
        asked = child(up)
        assert asked["nice"] >= 15 or os.nice(0) > 0
        told = dict(zip(asked["argv"][::2], asked["argv"][1::2], strict=False))
        assert told["--data-dir"] == str(tmp_path) and told["--settings"] == "champion"
        assert told["--origin"] == "service" and told["--why"].endswith("latency of cart moved")
        assert asked["argv"][-2:] == ["--attended", "--json"]
        assert up.get("/api/v1/rollout")["other"] == version
        step = Runs(tmp_path).load(run.id).step("rollout")
        assert step is not None and step.state == "done" and step.outputs["ordered"]
        found = up.get("/api/v1/lifecycle/runs")
        assert found["total"] == 1 and found["automatic"] and found["runs"][0]["version"] == version
        assert [one["kind"] for one in found["due"]] == ["schedule", "drift"]
        assert up.metric("otel_aiops_lifecycle_runs_total") == 1
        assert up.metric("otel_aiops_lifecycle_run_last_success_seconds") > 1e9
        done = up.get("/api/v1/rollout/history")["rollouts"]
        of.look()
        assert up.get("/api/v1/rollout/history")["rollouts"] == done, "it is ordered once"


def test_a_canary_is_not_disturbed_and_the_order_comes_when_it_has_ended(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        shop = Shop(up)
        shop.feed(5)
        first, second = shop.challenger(threshold=3.0), shop.challenger(threshold=4.0)
        assert shop.roll("canary", version=first, share=0.5).status_code == 200
        of = retrainer(up, "quick")
        run = answer(up, "registered", second)
        of.look()
        words = Runs(tmp_path).load(run.id).words
        assert f"because {first} is a canary" in words and up.get("/api/v1/rollout")["other"] == first
        shop.roll("stop")
        of.look()
        assert up.get("/api/v1/rollout")["other"] == second


def test_somebody_asks_and_one_runs_at_a_time(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        of = retrainer(up, "quick")
        answer(up, "refused")
        path = "lifecycle/runs"
        asked = call(up, "POST", path, {"who": "ana", "why": "new shop", "settings": "tuned"})
        assert asked.status_code == 202 and of.busy
        again = call(up, "POST", path, {"who": "ben"})
        assert again.status_code == 503 and "one runs at a time" in again.text
        of.look()
        told = child(up)["argv"]
        assert told[told.index("--who") + 1] == "ana" and told[told.index("--settings") + 1] == "tuned"
        assert not of.busy and up.metric("otel_aiops_lifecycle_runs_total") == 1
        with Runs(tmp_path).alone("eve"):
            other = call(up, "POST", path, {"who": "ben"})
            assert other.status_code == 503 and "of eve" in other.text
        for wrong in ({}, {"who": "a", "objective": "x"}, {"who": "a", "settings": "x"}, {"who": "a", "x": 1}):
            assert call(up, "POST", path, wrong).status_code == 400


def test_a_child_that_fails_is_told_and_the_service_goes_on(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        of = retrainer(up, "broken")
        of.ask(who="ana", why="")
        of.look()
        assert up.service.telemetry.value("otel_aiops.lifecycle.runs", outcome="failed", reason="asked") == 1
        assert up.service.telemetry.value("otel_aiops.lifecycle.run.active") == 0
        assert up.get("/api/v1/lifecycle/runs")["problem"] == "otel-aiops: no room"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_child_ends_with_the_service(tmp_path: Path) -> None:
    with running(tmp_path, ON) as up:
        of = retrainer(up, "slow")
        of.ask(who="ana", why="")
        of.errand.start()
        pid = child(up)["pid"]
        assert alive(pid) and up.service.telemetry.value("otel_aiops.lifecycle.run.active") == 1
    wait_for(lambda: not alive(pid), "the child to end")


def test_a_child_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with running(tmp_path, "lifecycle: {retrain: {timeout: 300ms}}\n") as up:
        of = retrainer(up, "slow")
        of.ask(who="ana", why="")
        of.look()
        assert up.service.telemetry.value("otel_aiops.lifecycle.runs", outcome="failed", reason="asked") == 1


@contextmanager
def interrupted(tmp_path: Path, attempts: int) -> Iterator[tuple[Running, Retrainer]]:
    with running(tmp_path, "lifecycle: {retrain: {enabled: true}}\n") as up:
        of = retrainer(up, "quick")
        answer(up, "running", attempts=attempts, who="ana", why="the old reason")
        yield up, of


def test_what_was_interrupted_is_gone_on_with(tmp_path: Path) -> None:
    with interrupted(tmp_path, 1) as (up, of):
        assert up.get("/api/v1/lifecycle/runs")["runs"][0]["state"] == "interrupted"
        of.look()
        told = child(up)["argv"]
        assert told[told.index("--why") + 1] == "the old reason" and told[told.index("--settings") + 1] == "config"


def test_what_always_ends_its_process_is_given_up(tmp_path: Path) -> None:
    with interrupted(tmp_path, 5) as (_, of):
        of.look()
        (run,) = Runs(tmp_path).list()
        assert run.state == "failed" and not (tmp_path / "child").exists()


def test_the_real_command_ends_when_its_service_is_gone(tmp_path: Path) -> None:
    """Nobody holds its standard input any more, as after `kill -9` of the service."""
    (tmp_path / "segments").mkdir()
    code = "import time; from otel_aiops.lifecycle import circle; circle.planned = lambda *_: time.sleep(60)\n"
    code += "from otel_aiops.cli import main; main()"
    command = [sys.executable, "-c", code, "lifecycle", "run", "-d", str(tmp_path), "--attended"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as one:
        assert one.stdin is not None
        with pytest.raises(subprocess.TimeoutExpired):
            one.wait(1.0)
        one.stdin.close()
        assert one.wait(30) == 3
