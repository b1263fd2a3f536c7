"""What is tried stands in MLflow, and a server that is down or never answers costs a bounded time and one line."""

from __future__ import annotations

import io
import json
import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from otel_aiops.cli import app
from otel_aiops.detect.engine import EngineConfig
from otel_aiops.lifecycle import tracking as module
from otel_aiops.lifecycle.objective import Objective
from otel_aiops.lifecycle.registry import Registry, RegistryConfig
from otel_aiops.lifecycle.search import Trial
from otel_aiops.lifecycle.tracking import Tracking, Trials, told
from otel_aiops.lifecycle.version import Models, Settings
from tests.lifecycle.test_registry import remote as remote
from tests.lifecycle.test_registry import silent as silent
from tests.lifecycle.test_training_commands import data as data
from tests.lifecycle.test_tune import made

pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow's own code

OBJECTIVE = Objective(name="carts")
FOLDS = ({"cost": 2.0, "recall": 0.5}, {"cost": 1.0, "recall": 1.0})
TRIAL = Trial(3, Settings(EngineConfig(threshold=5.0)), FOLDS, {"cost": 1.5, "recall": 0.75})


@pytest.fixture(autouse=True)
def no_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def registry_of(data: Path, settings: str) -> None:
    config = data / "config.yaml"
    config.write_text(config.read_text().replace("registry: {enabled: false}", f"registry: {{{settings}}}"))


def tune(data: Path, dataset: str, *more: str) -> Any:
    arguments = ["tune", dataset, "--data-dir", str(data), "--config", str(data / "config.yaml"), "--processes", "1"]
    few = ["--trials", "2", "--max-series", "1", "--objective", "carts", "--train", "--who", "ann"]
    return CliRunner().invoke(app, [*arguments, *few, *more], env={"COLUMNS": "200"})


@pytest.mark.slow
def test_every_trial_and_training_is_a_run(data: Path) -> None:
    dataset = made(data)
    registry_of(data, "timeout: 120")
    done = tune(data, dataset, "--json")
    assert done.exit_code == 0 and "tracked" not in done.stderr, done.output
    version = json.loads(done.stdout)["version"]
    registry = Registry(data)
    assert registry.uri == f"sqlite:///{data}/lifecycle/mlflow.db"
    with registry._client() as client:
        runs = {one.info.run_name: one for one in client.search_runs([registry._experiment(client)])}
        costs = client.get_metric_history(runs["trial 0"].info.run_id, "fold.cost")
    parent, child, training = runs[f"tune {dataset}"], runs["trial 0"], runs[f"train {dataset}"]
    assert parent.data.params["dataset"] == dataset and len(parent.data.params["objective_hash"]) == 16
    assert parent.data.params["folds"] == "3" and parent.data.params["who"] == "ann" and "best" in parent.data.params
    assert child.data.params["detection.threshold"] == "6.0" and child.data.metrics["cost"] >= 0
    assert [one.step for one in costs] == list(range(int(child.data.metrics["folds"])))
    assert {one.data.tags["mlflow.parentRunId"] for one in (child, training, runs["trial 1"])} == {parent.info.run_id}
    assert training.data.params["version"] == version and training.data.metrics["series"] == 6
    assert {one.info.status for one in runs.values()} == {"FINISHED"}


def test_a_server_that_never_answers_costs_a_bounded_time(silent: str, tmp_path: Path) -> None:
    heard: list[str] = []
    began_s = time.monotonic()
    with Tracking(tmp_path, RegistryConfig(uri=silent, timeout=1.0), heard.append) as tracking:
        trials = Trials(tracking, "d", OBJECTIVE, {})
        for _ in range(5_000):  # more than a pipe holds
            trials.trial(TRIAL)
        trials.done(TRIAL)
        assert time.monotonic() - began_s < 3, "the work itself does not wait"
    assert time.monotonic() - began_s < 6
    assert len(heard) == 1 and heard[0].startswith("not all is tracked in MLflow: ") and silent in heard[0]


def test_a_process_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMAND", [sys.executable, "-c", "import time; time.sleep(600)"])
    heard: list[str] = []
    began_s = time.monotonic()
    with Tracking(tmp_path, RegistryConfig(uri="http://slow", timeout=0.5), heard.append) as tracking:
        Trials(tracking, "d", None, {})
        child = tracking._child
    assert time.monotonic() - began_s < 5 and child is not None and child.poll() is not None
    assert heard == ["not all is tracked in MLflow: http://slow did not answer within 0.5 s"]


@pytest.mark.slow
def test_a_server_that_is_down_is_told_in_one_line(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    registry_of(data, f"uri: 'http://127.0.0.1:{port}'")
    done = tune(data, made(data), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["version"] and Models(data / "lifecycle/models").version(told["version"])
    notes = [line for line in done.stderr.splitlines() if "MLflow" in line]
    assert len(notes) == 1 and f"registry http://127.0.0.1:{port}" in notes[0]


def test_who_wants_no_registry_has_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMAND", ["/nowhere"])
    heard: list[str] = []
    with Tracking(tmp_path, RegistryConfig(enabled=False), heard.append) as tracking:
        Trials(tracking, "d", None, {}).trial(TRIAL)
    assert heard == [] and not any(tmp_path.iterdir())
    with Tracking(tmp_path, RegistryConfig(), heard.append) as tracking:
        Trials(tracking, "d", None, {}).trial(TRIAL)
    assert len(heard) == 1 and "/nowhere" in heard[0]


@pytest.mark.parametrize(("last", "status"), [("", "KILLED"), ('{"end": "FAILED"}\n', "FAILED")])
def test_what_was_not_finished_says_so(
    last: str, status: str, remote: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    url, asked = remote
    about = {"directory": str(tmp_path), "config": asdict(RegistryConfig(uri=url))}
    begun = {"run": 1, "name": "tune d", "parent": None, "settings": {"dataset": "d"}}
    told(io.StringIO(f"{json.dumps(about)}\n{json.dumps(begun)}\n{last}"))
    assert asked["runs/update"]["status"] == status and asked["runs/log-batch"]["params"] == [
        {"key": "dataset", "value": "d"}
    ]
