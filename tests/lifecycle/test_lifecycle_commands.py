"""The commands of the whole circle: plan, run, how to go on, and what runs did."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from otel_aiops.cli import app
from otel_aiops.cli import circle as commands
from otel_aiops.errors import StorageError
from otel_aiops.lifecycle import run as module
from otel_aiops.lifecycle.runs import Runs
from otel_aiops.lifecycle.version import Models
from tests.lifecycle.circles import judged, left, recorded

RUNNER = CliRunner()
CONFIG = """
detection: {novelty_memory: 0, seasons: 'off'}
objectives: [{name: carts, match: {service: cart}, budget: 2/week}]
datasets: {limits: {min_rows: 100}}
lifecycle: {registry: {enabled: false}}
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "evaluate", judged)
    monkeypatch.setattr(commands, "prepare", lambda: None)
    (tmp_path / "config.yaml").write_text(CONFIG)
    return recorded(tmp_path)


def run(data: Path, *arguments: object, code: int = 0, name: str = "run") -> Any:
    common = ["lifecycle", name, "-d", data, "-c", data / "config.yaml"]
    more = ["--processes", 1] if name == "run" else []
    result = RUNNER.invoke(app, [*map(str, (*common, *more, *arguments))], env={"COLUMNS": "220", "USER": "ann"})
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_a_plan_and_then_a_run(data: Path) -> None:
    text = run(data, "--plan", "--objective", "carts", "--why", "first").output
    assert "the 3 series of objective carts, under its budget of 2/week" in text and "7 register" in text
    tree = json.loads(run(data, "--plan", "--objective", "carts", "--json").stdout)
    assert tree["in_scope"] == 3 and left(data)["runs"] == []
    done = run(data, "--objective", "carts", "--why", "first")
    assert "1 dataset   2026-05-03" in done.stderr and "alerts in 7 held-out days" in done.stdout
    (version,) = Models(data / "lifecycle/models").list()
    assert f"otel-aiops rollout shadow {version}" in done.stdout
    again = run(data, "--objective", "carts", "--why", "first")
    assert "this was done before" in again.stderr
    tree = json.loads(run(data, "--objective", "carts", "--json").stdout)
    assert tree["summary"]["version"] == version and tree["summary"]["state"] == "registered"
    assert tree["id"] == json.loads(run(data, "--plan", "--objective", "carts", "--json").stdout)["id"]
    assert "no run goes on" in run(data, name="status").stdout
    assert json.loads(run(data, "--json", name="status").stdout)["newest"]["who"] == "ann"
    listed = run(data, name="list").stdout
    assert "carts" in listed and version in listed and "first" in listed
    assert json.loads(run(data, "--json", name="list").stdout)["runs"][0]["duration"] > 0
    shown = run(data, tree["id"], name="show").stdout
    assert "dataset" in shown and "those of the configuration" in shown
    assert len(json.loads(run(data, tree["id"], "--json", name="show").stdout)["steps"]) == 8


def test_a_gate_that_says_no(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "evaluate", partial(judged, found=0.1))
    result = run(data, code=1)
    assert "the gate says no" in result.stdout and Models(data / "lifecycle/models").list() == []


def test_data_that_is_not_good_enough(data: Path) -> None:
    (data / "config.yaml").write_text(CONFIG.replace("min_rows: 100", "min_rows: 100000"))
    result = run(data, code=1)
    assert "the data is not good enough" in result.stdout


def test_wrong_usage(data: Path, tmp_path: Path) -> None:
    assert "but there is none" in run(data, "--resume", code=2).stderr
    assert "labels.csv: expected a file" in run(data, "--labels", tmp_path / "labels.csv", code=2).stderr
    assert "one of carts, got x" in run(data, "--objective", "x", code=2).stderr
    assert "settings: expected one of" in run(data, "--settings", "x", code=2).stderr
    assert "expected a duration" in run(data, "--window", "x", code=2).stderr
    assert "16 hexadecimal digits" in run(data, "--against", "x", code=2).stderr
    empty = tmp_path / "empty"
    result = RUNNER.invoke(app, ["lifecycle", "run", "-d", str(empty)])
    assert result.exit_code == 2 and "expected recorded points" in result.stderr


def test_a_fault_says_how_to_go_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module._Work.do_train

    def full(self: Any) -> Any:
        raise StorageError("writing: No space left on device")

    monkeypatch.setattr(module._Work, "do_train", full)
    result = run(data, "--json", code=3)
    (one,) = Runs(data).list()
    assert f"make room on the disk, then the same command goes on with run {one.id}" in result.stderr
    assert json.loads(result.stdout)["summary"]["state"] == "failed"
    assert "failed at train" in run(data, name="status").stdout
    monkeypatch.setattr(module._Work, "do_train", real)
    result = run(data, "--resume")
    assert f"going on with run {one.id}; done: dataset, quality, settings" in result.stderr


def test_two_at_once(data: Path) -> None:
    with Runs(data).alone("ben"):
        result = RUNNER.invoke(app, ["lifecycle", "run", "-d", str(data), "-c", str(data / "config.yaml")])
        assert "of ben" in str(result.exception)
        assert "a run goes on: process" in run(data, name="status").stdout


class Told:
    """A service that is asked who serves."""

    def __init__(self, **now: Any) -> None:
        self.now = {"champion": "", "other": None, "role": "", **now}
        self.posted: list[Any] = []

    def ask(self, *_: Any) -> Any:
        return self.now

    def post(self, _url: str, _token: str | None, what: str, asked: Any) -> None:
        self.posted.append((what, asked))


def test_a_service_is_told(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    monkeypatch.setattr(commands, "ask", told.ask)
    monkeypatch.setattr(commands, "post", told.post)
    done = run(data, "--url", "http://x", "--why", "try")
    (version,) = Models(data / "lifecycle/models").list()
    assert f"{version} runs as shadow" in done.stdout
    assert told.posted == [("rollout", {"action": "shadow", "version": version, "who": "ann", "why": "try"})]
    told.now = {"champion": version, "other": "c", "role": "canary"}
    again = run(data, "--url", "http://x")
    assert "does not run yet, because c is a canary" in again.stdout and len(told.posted) == 1
    assert len(Models(data / "lifecycle/models").list()) == 2
