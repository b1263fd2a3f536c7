"""The commands about datasets, and the API over the same files."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from typer.testing import CliRunner

from otel_aiops.cli import app
from otel_aiops.detect.lessons import Verdict
from otel_aiops.incidents.incident import Channel, Evidence, Finding
from otel_aiops.incidents.journal import Journal, JournalConfig
from otel_aiops.series.segments import HOUR_NS
from otel_aiops.server.api import build
from otel_aiops.server.http_server import HttpServer
from otel_aiops.views import Views
from tests.lifecycle.recording import SERIES, START_NS, fingerprint, record, regular
from tests.lifecycle.test_truth import incident

RUNNER = CliRunner()


def run(*arguments: object, code: int = 0) -> str:
    result = RUNNER.invoke(app, ["dataset", *map(str, arguments)], env={"COLUMNS": "200", "USER": "ann"})
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.fixture
def data(tmp_path: Path) -> Path:
    assert time.time_ns() > START_NS + 40 * HOUR_NS
    record(tmp_path, regular())
    return tmp_path


def test_the_whole_life_of_a_dataset(data: Path) -> None:
    (data / "labels.jsonl").write_text(
        '{"start": "2026-05-03T14:00:00Z", "end": "2026-05-03T14:10:00Z", "service": "pay"}'
    )
    journal = Journal(JournalConfig(), data)
    journal.open()
    verdict = Verdict(series=fingerprint(SERIES[0]), time_ns=START_NS + HOUR_NS, kind="true_alert", ratio=1.5)
    journal.judged(verdict, SERIES[0])
    journal.close()
    (data / "config.yaml").write_text(
        "incidents: {grouping: {maintenance: [{name: move, start: '2026-05-03T15:00:00Z', end: '2026-05-03T15:30:00Z',"
        " services: [pay]}]}}\ndatasets: {load_tests: [{match: {test.id: '~.+'}}]}\n"
    )
    made = json.loads(
        run(
            *("build", "-d", data, "-c", data / "config.yaml", "--labels", data / "labels.jsonl", "--json"),
            *("--match", '{service="cart"}', "--match", 'load{service="pay"}', "--why", "a test"),
            *("--exclude", "2026-05-03T16:00:00Z/2026-05-03T16:10:00Z"),
            *("--load-test", '2026-05-03T17:00:00Z/2026-05-03T17:10:00Z/{service="cart"}'),
        )
    )
    assert made["trainable"] and made["about"]["who"] == "ann"
    content = made["content"]
    assert content["window"] == [START_NS, START_NS + 30 * HOUR_NS]
    assert [one["source"] for one in content["exclusions"]] == ["maintenance", "given", "load test"]
    assert sorted(one["source"] for one in content["labels"]) == ["file", "verdict"]
    assert content["profile"]["rows_excluded"] == 3 * 30 + 6 * 10 + 3 * 10
    name = made["id"]
    assert name in run("list", "-d", data) and "good enough to learn from" in run("show", name, "-d", data)
    shown = run("show", name, "-d", data)
    assert "2 labels (1 verdict, 1 file)" in shown or "2 labels (1 file, 1 verdict)" in shown
    assert "3 exclusions (" in shown and "1 maintenance" in shown and ", of 180 points" in shown
    listed = json.loads(run("list", "-d", data, "--json"))
    assert listed["datasets"][0]["why"] == "a test" and listed["damaged"] == {}
    assert "every byte is as it was" in run("verify", name, "-d", data)
    segment = next((data / "lifecycle/datasets/segments").iterdir())
    segment.unlink()
    assert "is missing" in run("verify", name, "-d", data, code=1)
    assert json.loads(run("verify", name, "-d", data, "--json", code=1))["problems"]
    models = data / "lifecycle/models/v1"
    models.mkdir(parents=True)
    (models / "model.json").write_text(json.dumps({"dataset": name}))
    assert "model versions v1 cite it" in run("delete", name, "-d", data, code=1)
    (models / "model.json").unlink()
    assert "deleted" in run("delete", name, "-d", data)
    assert "no dataset" in run("delete", name, "-d", data, code=1)


def test_an_objective_says_what_is_taken(data: Path) -> None:
    line = '{"start": "2026-05-03T14:00:00Z", "end": "2026-05-03T14:10:00Z", "service": "cart"}'
    (data / "labels.jsonl").write_text(line)
    maintenance = "{name: move, start: '2026-05-03T15:00:00Z', end: '2026-05-03T15:30:00Z', services: [cart]}"
    (data / "carts.yaml").write_text("name: carts\nmatch: {service: cart}\nincidents: [latency]\n")
    (data / "config.yaml").write_text(
        f"incidents: {{grouping: {{maintenance: [{maintenance}]}}}}\nlifecycle: {{objectives: '{data}/carts.yaml'}}\n"
    )
    journal = Journal(JournalConfig(), data)
    journal.open()
    shown = {"slow": Channel.LATENCY, "failing": Channel.ERRORS}
    incidents = [
        replace(incident(name, 0, 0, "cart"), start_ns=START_NS, end_ns=START_NS + HOUR_NS, findings=(found(channel),))
        for name, channel in shown.items()
    ]
    journal.append(incidents, START_NS)
    journal.close()
    common = ("build", "-d", data, "-c", data / "config.yaml", "--labels", data / "labels.jsonl", "--json")
    content = json.loads(run(*common, "--objective", "carts"))["content"]
    assert content["match"] == [{"service": "cart"}]
    assert sorted((one["source"], one.get("note", "")) for one in content["labels"]) == [
        ("file", ""),
        ("incident", "slow"),
    ]
    assert [one["source"] for one in content["exclusions"]] == ["maintenance"]
    few = data / "few.yaml"
    few.write_text("name: few\nmatch: {service: cart}\ndata: {labels: [file], leave_out: [load_test]}\n")
    content = json.loads(run(*common, "--objective", few))["content"]
    assert [one["source"] for one in content["labels"]] == ["file"] and not content["exclusions"]
    result = RUNNER.invoke(app, ["dataset", *map(str, common), "--objective", "carts", "--match", "load"])
    assert result.exit_code == 2 and "got both" in result.output
    result = RUNNER.invoke(app, ["dataset", *map(str, common), "--objective", "webs"])
    assert "expected a file or one of carts, got webs" in str(result.exception)


def found(channel: Channel) -> Finding:
    evidence = Evidence(channel=channel, service="cart", what="x", before=0.0, after=1.0)
    about = {"key": f"{channel}|cart", "service": "cart", "channel": channel, "evidence": evidence}
    return Finding(**about, start_ns=START_NS, last_ns=START_NS)  # type: ignore[arg-type]


def test_bad_data_gives_exit_code_1_and_reasons(data: Path) -> None:
    window = ("--start", "2026-05-03T14:00:00Z", "--end", "2026-05-03T16:00:00Z")
    out = run("build", "-d", data, *window, code=1)
    assert "not good enough to learn from:" in out and "expected points of at least 1 days, got 0.08" in out
    out = run("build", "-d", data, *window, "--force", "only a bench")
    assert "used all the same, ann: only a bench" in out
    assert "forced" in run("list", "-d", data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "nowhere.jsonl"], "nowhere.jsonl: expected a file"),
        (["--exclude", "nowhere.csv"], "nowhere.csv: expected a file"),
        (["--exclude", "soon/later"], "start: expected ISO 8601"),
        (["--match", "{bad"], "series: expected a name"),
        (["--start", "soon"], "--start: expected ISO 8601"),
        (["--window", "much"], "expected a duration"),
        (["--match", "nothing"], "got none"),
        (["--alertmanager", "example"], "expected a URL"),
    ],
)
def test_wrong_usage_is_told(data: Path, arguments: list[str], message: str) -> None:
    result = RUNNER.invoke(app, ["dataset", "build", "-d", str(data), *arguments])
    assert result.exit_code != 0 and message in str(result.exception) + result.output


def test_an_empty_directory_has_nothing_to_offer(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["dataset", "build", "-d", str(tmp_path)])
    assert "expected recorded points of at least one complete hour" in str(result.exception)
    assert json.loads(run("list", "-d", tmp_path, "--json")) == {"datasets": [], "damaged": {}}


def test_a_damaged_manifest_is_listed_as_such(data: Path) -> None:
    name = json.loads(run("build", "-d", data, "--json"))["id"]
    (data / f"lifecycle/datasets/{name}.json").write_text("{")
    assert "cannot be read" in run("list", "-d", data)


def test_the_api_shows_datasets(data: Path) -> None:
    class Service:
        directory = data

    views: Any = Views(Service())  # type: ignore[arg-type]
    server = HttpServer(build(views, views, None, 1_000), "127.0.0.1:0", None, path="api")
    server.bind()
    server.start()
    url = f"http://127.0.0.1:{server.port}/api/v1/datasets"
    try:
        assert requests.get(url, timeout=10).json()["datasets"] == []
        name = json.loads(run("build", "-d", data, "--json", "--end", "2026-05-04T18:00:00Z"))["id"]
        assert requests.get(url, timeout=10).json()["datasets"][0]["id"] == name
        found = requests.get(f"{url}/{name}", timeout=10).json()
        assert found["id"] == name and found["content"]["rows"] == 28 * 360
        assert requests.get(f"{url}/0123456789abcdef", timeout=10).status_code == 404
        (data / f"lifecycle/datasets/{name}.json").write_text("{")
        broken = requests.get(f"{url}/{name}", timeout=10)
        assert broken.status_code == 409 and "cannot be read" in broken.json()["error"]
    finally:
        server.stop(1.0)
