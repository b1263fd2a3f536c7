"""The registry is told who serves, and nothing that serves waits for it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from typer.testing import CliRunner

from otel_aiops import registrar
from otel_aiops.cli import app
from otel_aiops.errors import Overloaded
from otel_aiops.lifecycle.registry import DIGEST, Job, Registered
from otel_aiops.lifecycle.report import PAGE
from tests.servers import wait_for
from tests.test_app import running
from tests.test_rollout import Shop


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(registrar, "SETTLE_S", 0.02)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """What the registry was told; it takes everything."""
    jobs: list[Job] = []

    def tell(job: Job, stopped: object) -> list[Registered]:
        jobs.append(job)
        return [Registered(one, "1", "d", (alias,), {DIGEST: "d"}) for alias, one in job.roles.items()]

    monkeypatch.setattr(registrar, "tell", tell)
    return jobs


def test_every_change_of_who_serves_is_told(tmp_path: Path, told: list[Job]) -> None:
    def roles() -> dict[str, str]:
        return dict(told[-1].roles) if told else {}

    with running(tmp_path) as up:
        shop = Shop(up)
        shop.feed(30)
        strict = shop.challenger()
        champion = shop.roll("shadow", version=strict).json()["champion"]
        wait_for(
            lambda: roles() == {"champion": champion, "shadow": strict, "challenger": strict}, "the registry to be told"
        )
        shop.roll("canary", version=strict, share=0.5)
        wait_for(lambda: roles() == {"champion": champion, "challenger": strict}, "the registry to be told")
        shop.roll("promote", version=strict)
        wait_for(lambda: roles() == {"champion": strict, "previous": champion}, "the registry to be told")
        models = {one["id"]: one for one in up.get("/api/v1/models")["models"]}
        assert models[strict]["aliases"] == ["champion"] and models[strict]["registered"] == "1"
        shown = CliRunner().invoke(
            app, ["models", "list", "--url", f"http://127.0.0.1:{up.ports['api']}"], env={"COLUMNS": "200"}
        )
        assert "registry" in shown.output and "previous" in shown.output
        _report(up.service.models.folder(strict), f"http://127.0.0.1:{up.ports['api']}/api/v1/models/{strict}/report")
        shop.roll("rollback")
        wait_for(lambda: roles() == {"champion": champion}, "the registry to be told")
        count = len(told)
    with running(tmp_path) as again:
        wait_for(lambda: len(told) > count, "the registry to be told")
        assert roles() == {"champion": champion}, "told again after a start"
        assert again.service.telemetry.value(registrar.FAILURES) == 0


def _report(folder: Path, url: str) -> None:
    assert requests.get(url, timeout=10).status_code == 404
    (folder / PAGE).write_text("<!doctype html>what was found")
    answer = requests.get(url, timeout=10)
    assert answer.text.endswith("what was found") and answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_what_the_registry_has_otherwise_is_not_served(tmp_path: Path, told: list[Job]) -> None:
    with running(tmp_path) as up:
        shop = Shop(up)
        shop.feed(30)
        strict = shop.challenger()
        up.service.registrar._known = {strict: Registered(strict, "1", "0" * 64)}
        answer = shop.roll("shadow", version=strict)
        assert answer.status_code == 409 and "another digest" in answer.json()["error"]
        assert up.get("/api/v1/rollout")["other"] is None and not told


def test_a_failure_is_counted_and_told_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[Job]) -> None:
    good, broken = registrar.tell, [Overloaded("down"), ValueError("odd")]

    def tell(job: Job, stopped: object) -> list[Registered]:
        if broken:
            raise broken.pop()
        return good(job, lambda: False)

    monkeypatch.setattr(registrar, "tell", tell)
    with running(tmp_path, "lifecycle: {registry: {retry: 50ms}}\n") as up:
        shop = Shop(up)
        shop.feed(30)
        shop.roll("shadow", version=shop.challenger())
        wait_for(lambda: bool(told), "the registry to be told")
        assert up.service.telemetry.value(registrar.FAILURES) == 2


def test_one_that_is_off_is_told_nothing(tmp_path: Path, told: list[Job]) -> None:
    with running(tmp_path, "lifecycle: {registry: {enabled: false}}\n") as up:
        shop = Shop(up)
        shop.feed(30)
        shop.roll("shadow", version=shop.challenger())
        time.sleep(0.2)
    assert not told


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_never_answers_stops_nothing(tmp_path: Path, silent: str) -> None:
    more = f"lifecycle: {{registry: {{uri: '{silent}', timeout: 500ms, retry: 60s}}}}\n"
    with running(tmp_path, more) as up:
        shop = Shop(up)
        shop.feed(30)
        strict = shop.challenger()
        assert shop.roll("shadow", version=strict).json()["role"] == "shadow"
        began_s = time.monotonic()
        shop.feed(3)
        assert shop.roll("promote", version=strict).json()["champion"] == strict
        assert time.monotonic() - began_s < 10
        wait_for(lambda: up.service.telemetry.value(registrar.FAILURES) == 1, "the registry to be told")
        shop.feed(1)
        assert up.service.telemetry.value("otel_aiops.step.failures") == 0
