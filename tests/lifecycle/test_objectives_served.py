"""Objectives as people see them: commands on files and on a running service, and the API."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import requests
from typer.testing import CliRunner

from otel_aiops.cli import app
from tests.lifecycle.test_objective import FULL, SHIPPED, written
from tests.test_app import running, spike

run = CliRunner().invoke


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")


def test_files_are_checked(tmp_path: Path) -> None:
    right = run(app, ["objectives", "check", str(SHIPPED)])
    assert right.exit_code == 0 and "checkout-latency: ok, " in right.stdout
    wrong = run(app, ["objectives", "check", str(written(tmp_path, a=FULL | {"budget": "x", "foo": 1}))])
    assert wrong.exit_code == 1
    assert wrong.stderr.count(f"error: {tmp_path / 'a.yaml'}: ") == 2


def test_files_are_listed_and_shown(tmp_path: Path) -> None:
    folder = str(written(tmp_path, a=FULL, b={"name": "b"}))
    table = run(app, ["objectives", "list", folder]).stdout
    for word in ("pay", "checkout", "2/week", "90%", "50 : 2", "name=~http.*, service=pay", "all series"):
        assert word in table, table
    assert "last week" not in table
    listed = json.loads(run(app, ["objectives", "list", folder, "--json"]).stdout)["objectives"]
    assert [one["name"] for one in listed] == ["pay", "b"]
    assert json.loads(run(app, ["objectives", "show", "pay", folder, "--json"]).stdout) == listed[0]
    shown = run(app, ["objectives", "show", "pay", folder]).stdout
    assert f"pay ({listed[0]['id']})" in shown and "14 d of history, 2 series, gaps of at most 10%" in shown
    missing = run(app, ["objectives", "show", "x", folder])
    assert missing.exit_code == 1 and "there are pay, b" in missing.stderr
    assert run(app, ["objectives", "list", folder, "--url", "http://localhost:1"]).exit_code == 2


def test_a_service_tells_series_and_alerts_of_each(tmp_path: Path) -> None:
    folder = written(tmp_path / "o", shop={"name": "shop", "team": "cart", "match": {"service": "cart"}, "budget": 2})
    with running(tmp_path / "data", f"lifecycle: {{objectives: {folder}}}") as up:
        spike(up, time.time())
        (one,) = up.get("/api/v1/objectives")["objectives"]
        assert (one["name"], one["team"], one["budget_per_week"]) == ("shop", "cart", 2.0)
        assert (one["series"], one["actual"]) == (1, 1) and one["threshold"] > 0
        assert up.get("/api/v1/objectives/shop") == one
        url = f"http://127.0.0.1:{up.ports['api']}"
        missing = requests.get(f"{url}/api/v1/objectives/x", timeout=30)
        assert missing.status_code == 404 and "there are shop" in missing.json()["error"]
        assert "/api/v1/objectives/{name}" in up.get("/api/v1/openapi.json")["paths"]
        assert up.get("/api/v1/alerts")["alerts"][0]["objective"] == "shop"
        table = run(app, ["objectives", "list", "--url", url]).stdout
        assert "1 of 2" in table and "service=cart" in table
        assert "1 in the last week" in run(app, ["objectives", "show", "shop", "--url", url]).stdout
        (folder / "shop.yaml").write_text("name: other\nbudget: 1/day\n")
        up.service.reload(up.config(f"lifecycle: {{objectives: {folder}}}"))
        assert up.get("/api/v1/objectives")["objectives"][0]["name"] == "other"
        assert [one["name"] for one in up.get("/api/v1/budgets")["budgets"]] == ["other", "default"]
