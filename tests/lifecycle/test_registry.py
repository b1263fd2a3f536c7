"""Versions, lineage and who serves stand in MLflow; a registry that is down, hangs or is locked stops nobody."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from otel_aiops.cli import app
from otel_aiops.errors import BadInput, ConfigError, Overloaded, StateError
from otel_aiops.lifecycle.registry import Job, Registry, RegistryConfig, tell
from otel_aiops.lifecycle.version import Bundle, Lineage, Models, ModelVersion, Settings
from tests.lifecycle.test_gate import GOOD, report
from tests.test_serving import PLAIN, Line

pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow's own code


@pytest.fixture(autouse=True)
def no_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    trained = Line().run(5).trained()
    return Bundle(trained.labels, trained.engine)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> tuple[Path, list[ModelVersion]]:
    """A data directory with two versions; its database is made once, since that takes seconds."""
    directory = tmp_path_factory.mktemp("data")
    models = Models(directory / "lifecycle" / "models")
    first = models.write(Settings(PLAIN), bundle, Lineage(dataset="d" * 16, objective="o", who="ana"))
    second = models.write(Settings(replace(PLAIN, threshold=4.0)), bundle, Lineage(parent=first.id))
    return directory, [first, second]


def test_versions_with_lineage_and_aliases(shared: tuple[Path, list[ModelVersion]]) -> None:
    directory, (first, second) = shared
    registry = Registry(directory)
    assert not registry.exists
    one = registry.register(first, team="shop")
    assert registry.exists and one.number == "1" and one.tags["lineage.dataset"] == "d" * 16
    assert registry.register(first).number == "1", "the same again is the same version"
    told = replace(report(GOOD), version=second.id)
    assert registry.register(second, told).number == "2"
    registry.set_aliases({"champion": first.id, "challenger": second.id, "shadow": second.id})
    found = {one.id: one for one in Registry(directory).versions()}
    assert found[first.id].aliases == ("champion",) and found[second.id].aliases == ("challenger", "shadow")
    assert found[first.id].tags["team"] == "shop" and found[second.id].tags["lineage.parent"] == first.id
    registry.set_aliases({"champion": second.id, "previous": first.id})
    found = {one.id: one for one in registry.versions()}
    assert found[second.id].aliases == ("champion",) and found[first.id].aliases == ("previous",)
    with pytest.raises(BadInput, match="expected one of champion"):
        registry.set_aliases({"king": first.id})
    done = CliRunner().invoke(app, ["models", "register", second.id, "-d", str(directory)], env={"COLUMNS": "300"})
    assert f"{second.id}: version 2 of otel-aiops" in done.output
    _figures(registry)
    _changed(registry, first)
    _trials(registry)


def test_a_challenger_is_told_and_the_others_stay(shared: tuple[Path, list[ModelVersion]]) -> None:
    """In the process of its own, two at a time."""
    directory, (first, second) = shared
    config = RegistryConfig(timeout=120.0)
    tell(Job(str(directory), config, {"champion": first.id}))
    with ThreadPoolExecutor(2) as pool:
        many = [pool.submit(tell, Job(str(directory), config, challenger=second.id)) for _ in range(2)]
        for one in many:
            aliases = {found.id: found.aliases for found in one.result()}
    assert aliases == {first.id: ("champion",), second.id: ("challenger",)}


def _figures(registry: Registry) -> None:
    with registry._client() as client:
        run = client.get_run(client.get_model_version("otel-aiops", "2").run_id)
        source = client.get_model_version("otel-aiops", "2").source
    assert run.data.metrics["candidate.fault_recall"] == 1.0 and run.data.params["detection.threshold"] == "4.0"
    assert source.startswith("file:///") and "/lifecycle/models/" in source


def _changed(registry: Registry, first: ModelVersion) -> None:
    registry.check(first)
    with pytest.raises(StateError, match="it was changed"):
        registry.check(replace(first, digest="0" * 64))
    with pytest.raises(StateError, match="it was changed"):
        registry.register(replace(first, digest="0" * 64))
    with pytest.raises(StateError, match="not in the registry"):
        registry.check(replace(first, id="f" * 16))


def _trials(registry: Registry) -> None:
    parent = registry.begin("search")
    run = registry.begin("trial 0", parent)
    registry.log(run, {f"p{k}": k for k in range(130)}, {"loss": 2.5, "recall": float("nan")})
    registry.finish(run, "FINISHED")
    with registry._client() as client:
        (found,) = client.search_runs([registry._experiment(client)], "attributes.run_name = 'trial 0'")
    assert found.data.metrics == {"loss": 2.5} and found.data.params["p129"] == "129"
    assert found.data.tags["mlflow.parentRunId"] == parent and found.info.status == "FINISHED"


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_never_answers_is_given_up_in_time(silent: str, tmp_path: Path) -> None:
    began_s = time.monotonic()
    with pytest.raises(Overloaded, match="no answer within 1 s"):
        tell(Job(str(tmp_path), RegistryConfig(uri=silent, timeout=1.0)))
    assert time.monotonic() - began_s < 5
    with pytest.raises(Overloaded, match="no answer"):
        tell(Job(str(tmp_path), RegistryConfig(uri=silent)), stopped=lambda: True)
    assert time.monotonic() - began_s < 5, "who stops does not wait"


ANSWERS: dict[str, dict[str, object]] = {
    "registered-models/get": {"registered_model": {"name": "otel-aiops", "aliases": []}},
    "model-versions/search": {},
    "experiments/get-by-name": {
        "experiment": {"experiment_id": "1", "name": "otel-aiops", "artifact_location": "s3:/a"}
    },
    "runs/create": {"run": {"info": {"run_id": "r", "experiment_id": "1", "status": "RUNNING"}, "data": {}}},
    "runs/get": {"run": {"info": {"run_id": "r", "experiment_id": "1", "status": "RUNNING"}, "data": {}}},
    "runs/log-batch": {},
    "runs/update": {"run_info": {"run_id": "r", "experiment_id": "1", "status": "FINISHED"}},
    "model-versions/create": {"model_version": {"name": "otel-aiops", "version": "7"}},
}


@pytest.fixture
def remote() -> Iterator[tuple[str, dict[str, Any]]]:
    """A tracking server as far as its address and answers go; what it was told by path."""
    told: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            path = self.path.split("?")[0].partition("/mlflow/")[2]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            told[path] = json.loads(body) if body else None
            data = json.dumps(ANSWERS.get(path, {})).encode()
            self.send_response(200 if path in ANSWERS else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", told
        server.shutdown()
        thread.join()


def test_a_server_is_told_a_name_and_no_path(
    shared: tuple[Path, list[ModelVersion]], remote: tuple[str, dict[str, Any]]
) -> None:
    directory, (first, _) = shared
    url, told = remote
    assert Registry(directory, RegistryConfig(uri=url)).register(first).number == "7"
    made = told["model-versions/create"]
    assert made["source"] == f"otel-aiops:/{first.id}"
    assert {"key": "otel_aiops.digest", "value": first.digest} in made["tags"]


def test_a_server_that_is_down_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Overloaded, match=f"registry http://127.0.0.1:{port}"):
        Registry(tmp_path, RegistryConfig(uri=f"http://127.0.0.1:{port}")).versions()


def test_a_locked_database_is_given_up_in_time(shared: tuple[Path, list[ModelVersion]]) -> None:
    directory, (first, _) = shared
    Registry(directory).register(first)
    with sqlite3.connect(directory / "lifecycle" / "mlflow.db") as holder:
        holder.execute("BEGIN EXCLUSIVE")
        began_s = time.monotonic()
        with pytest.raises(Overloaded):
            tell(Job(str(directory), RegistryConfig(timeout=2.0), {"champion": first.id}))
        assert time.monotonic() - began_s < 8
        holder.rollback()


@pytest.mark.parametrize("bad", [{"name": ""}, {"name": "a/b"}, {"timeout": 0.0}, {"retry": -1.0}])
def test_settings_that_make_no_sense_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        RegistryConfig(**bad)  # type: ignore[arg-type]
