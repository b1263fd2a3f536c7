"""The commands as a user types them: what they print, and their exit codes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import requests
from typer.testing import CliRunner

from otel_aiops.chronicle import IncidentFiles
from otel_aiops.cli import app
from otel_aiops.cli.terminal import print_table
from tests.feed import Feed
from tests.servers import Aiops, wait_for


def cli(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "otel_aiops", *map(str, arguments)],
        env={**os.environ, "COLUMNS": "120", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def series(path: Path, spike_at: int = 300) -> Path:
    """A CSV of one series with a spike."""
    random = np.random.default_rng(1)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["timestamp", "value"])
        for k in range(400):
            writer.writerow([1_760_000_000 + 60 * k, 500.0 if k == spike_at else 50 + random.normal()])
    return path


def test_help_and_version() -> None:
    assert "serve" in cli("--help").stdout
    assert cli("--version").stdout.startswith("otel-aiops 0.")
    assert cli().returncode == 2


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("series: {max_series: 10}", 0, "ok"),
        ("series: {max_serie: 10}", 1, "error: series.max_serie: is not a known key; known here: "),
        ("emit: {hold: never}", 1, "error: emit.hold: expected a valid number"),
        ("storage: {directory: '${env:NOWHERE_AT_ALL}/x'}", 0, "warning: storage.directory: environment variable"),
    ],
)
def test_check(tmp_path: Path, text: str, code: int, said: str) -> None:
    path = tmp_path / "otel-aiops.yaml"
    path.write_text(text)
    done = cli("check", path)
    assert done.returncode == code
    assert said in done.stdout + done.stderr


def test_check_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = cli("check", tmp_path / "none.yaml")
    assert done.returncode == 1 and "cannot read" in done.stderr


def test_score_writes_the_same_rows(tmp_path: Path) -> None:
    output = tmp_path / "scored.parquet"
    done = cli("score", series(tmp_path / "in.csv"), "-o", output)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(output).to_pydict()
    assert len(table["anomaly_score"]) == 400
    assert {"alert_score", "alert", "expected", "lower", "upper", "probability", "channel", "reason"} <= set(table)
    assert int(np.nanargmax(table["anomaly_score"])) == 300
    assert table["alert"][300] == 1 and "far above the usual" in table["reason"][300]


def test_replay_says_what_it_would_have_flagged(tmp_path: Path) -> None:
    done = cli("replay", series(tmp_path / "in.csv"))
    assert done.returncode == 0, done.stderr
    assert "500 is far above the usual" in done.stdout


@pytest.mark.parametrize("command", ["replay", "score"])
def test_a_file_that_is_no_series_is_named(tmp_path: Path, command: str) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("time,what\n1,2\n")
    output = ["-o", str(tmp_path / "out.csv")] if command == "score" else []
    done = cli(command, bad, *output)
    assert done.returncode == 3
    assert "bad.csv" in done.stderr and "timestamp" in done.stderr and "Traceback" not in done.stderr


def test_plan_says_what_it_costs() -> None:
    done = cli("plan", "--series", "10000", "--interval", "15s", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert any("series" in key for key in found)
    assert cli("plan").returncode == 2
    assert cli("plan", "--series", "10", "--interval", "soon").returncode == 3


def test_preview_counts_alerts_and_what_policies_change(tmp_path: Path) -> None:
    rules = tmp_path / "otel-aiops.yaml"
    rules.write_text("policies: [{name: quiet, match: {name: in}, min_dev_from_expected: 1000}]")
    recording = series(tmp_path / "in.csv")
    done = cli("preview", recording, "--config", rules, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["series"], found["anomalies"], found["alerts"]) == (1, 0, 0)
    assert found["anomalies_without_policies"] >= 1
    assert json.loads(cli("preview", recording, "--json").stdout)["alerts"] >= 1
    assert found["lines"][0]["policies"] == ["quiet"] and found["lines"][0]["metric"] == "in"
    assert found["days"] == pytest.approx(399 / 1440, abs=0.01)
    table = cli("preview", recording, "--config", rules, "--days", "0.05").stdout  # the spike is before
    assert "anomalies" in table and "quiet" in table and "0.1 days" in table
    assert cli("preview", recording, "--days", "0").returncode == 2


def test_import_writes_yaml_and_notes(tmp_path: Path) -> None:
    source, output = tmp_path / "vm.yaml", tmp_path / "otel-aiops.yaml"
    source.write_text("reader: {queries: {q: {expr: up, data_range: [0, 1]}}}")
    done = cli("import", "vmanomaly", source, "-o", output)
    assert done.returncode == 0, done.stderr
    assert cli("check", output).returncode == 0
    source.write_text("reader: {queries: {q: {expr: up}}}\nnonsense: 1")
    done = cli("import", "vmanomaly", source)
    assert done.returncode == 1
    assert "policies:" in done.stdout and "lost: nonsense: has no counterpart" in done.stderr


def test_import_of_recording_rules(tmp_path: Path) -> None:
    source = tmp_path / "rules.yaml"
    rule = "{record: r, expr: 'sum(rate(x[5m]))', labels: {anomaly_name: x, anomaly_type: requests}}"
    source.write_text(f"groups: [{{name: a, rules: [{rule}]}}]")
    done = cli("import", "promql", source)
    assert done.returncode == 0, done.stderr
    assert "anomaly_name: x" in done.stdout and "note: groups.0.rules.0: send r here" in done.stderr
    for bad in ("groups: 1", "- 1", "{"):
        source.write_text(bad)
        done = cli("import", "promql", source)
        assert done.returncode == 2 and f"error: {source}: " in done.stderr
    assert cli("import", "promql", tmp_path / "none").returncode == 2


def test_score_follows_policies(tmp_path: Path) -> None:
    rules, output = tmp_path / "otel-aiops.yaml", tmp_path / "out.parquet"
    end = "skip_result: [{start: 1970-01-01, end: 2025-10-09T10:00:00Z}]"
    rules.write_text(f"policies: [{{match: {{name: in}}, min_dev_from_expected: 1000, {end}}}]")
    done = cli("score", series(tmp_path / "in.csv"), "-o", output, "--config", rules)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(output).to_pydict()
    assert table["anomaly_score"][300] == 0 and "min_dev_from_expected" in table["reason"][300]
    assert np.isnan(table["anomaly_score"][0]) and table["channel"][0] == "skipped"
    assert "a policy skips the result" in done.stdout


def test_backfill_without_a_server_says_so() -> None:
    done = cli("backfill", "http://127.0.0.1:1", "--server", "http://127.0.0.1:1")
    assert done.returncode == 3 and "Traceback" not in done.stderr and "127.0.0.1:1" in done.stderr


def test_serve_with_a_wrong_configuration_ends_with_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "otel-aiops.yaml"
    path.write_text("api: {endpoint: nowhere}")
    done = cli("serve", "--config", path, "--data-dir", tmp_path / "data")
    assert done.returncode == 3
    assert done.stderr.startswith("otel-aiops: api.endpoint: expected host:port")


def test_serve_writes_incidents_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[IncidentFiles] = []

    def run(config: Path | None, data_dir: Path | None, told: IncidentFiles) -> int:
        asked.append(told)
        return 0

    monkeypatch.setattr("otel_aiops.app.serve", run)
    incidents, predictions = tmp_path / "incidents.jsonl", tmp_path / "predictions.jsonl"
    options = ["--incidents-out", str(incidents), "--predictions-out", str(predictions)]
    assert CliRunner().invoke(app, ["serve", *options]).exit_code == 0
    assert asked == [IncidentFiles(incidents, predictions)]


def test_serve_reads_its_configuration_again(tmp_path: Path) -> None:
    with Aiops(tmp_path, "series: {max_series: 100}\n") as aiops:
        text = aiops.config.read_text()
        aiops.config.write_text(text.replace("max_series: 100", "max_series: many"))
        aiops.server.signal(signal.SIGHUP)
        wait_for(lambda: aiops.metric("otel_aiops_config_reload_success") == 0, "the bad configuration to be refused")
        assert aiops.status()["series_limit"] == 100
        assert "series.max_series: expected a valid integer" in aiops.server.tail()
        aiops.config.write_text(text.replace("max_series: 100", "max_series: 200"))
        aiops.server.signal(signal.SIGHUP)
        wait_for(lambda: aiops.status()["series_limit"] == 200, "the good configuration to be taken")
        assert aiops.metric("otel_aiops_config_reload_success") == 1


def test_serve_drains_and_snapshots_on_sigterm(tmp_path: Path) -> None:
    aiops = Aiops(tmp_path)
    with aiops:
        body = Feed().gauge("cpu", 1_760_000_000, 1.0).body()
        headers = {"Content-Type": "application/x-protobuf"}
        answer = requests.post(f"http://127.0.0.1:{aiops.http}/v1/metrics", data=body, headers=headers, timeout=10)
        assert answer.status_code == 200
        assert aiops.stop() == 0
    assert list((aiops.data / "snapshots").iterdir())
    assert "message=stopped" in aiops.server.tail()


def test_selftest_says_what_is_found(tmp_path: Path) -> None:
    config = tmp_path / "otel-aiops.yaml"
    config.write_text("selftest: {max_series: 3, max_points: 120, tested: 0.5, limits: {least_held: 0.1}}")
    path = series(tmp_path / "some.csv", spike_at=-1)
    done = cli("selftest", path, "--config", config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 series of the files, a point every 60 s" in done.stdout and "no problems found" in done.stdout
    row = next(line.split() for line in done.stdout.splitlines() if line.strip().startswith("spike"))
    assert row[:4] == ["spike", "1", "100", "%"]


def test_selftest_fails_when_it_finds_problems(tmp_path: Path) -> None:
    config = tmp_path / "otel-aiops.yaml"
    config.write_text("selftest: {max_points: 120, tested: 0.5}")
    path = series(tmp_path / "some.csv")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:40]))
    done = cli("selftest", path, "--config", config, "--json")
    assert done.returncode == 1 and done.stderr == ""
    report = json.loads(done.stdout)
    assert report["problems"] == ["nothing was tested: no series has 60 points before the first fault"]


def test_alerts_budgets_and_verdicts_are_told_by_commands(tmp_path: Path) -> None:
    with Aiops(tmp_path, "detection: {warmup_points: 5}\nbudget: 2/week\n") as aiops:
        feed = Feed("cart")
        for k in range(31):
            feed.gauge("cpu", 1_760_000_000 + k, 500 if k == 30 else 50 + k % 3, pod="a")
        headers = {"Content-Type": "application/x-protobuf"}
        requests.post(f"http://127.0.0.1:{aiops.http}/v1/metrics", data=feed.body(), headers=headers, timeout=10)
        wait_for(lambda: aiops.metric("otel_aiops_alert_active") == 1, "the alert")
        table = cli("alerts", "--url", aiops.url).stdout
        assert "default" in table and "500 is far above" in table and "1 alert\n" in table
        row = next(line.split() for line in cli("budget", "--url", aiops.url).stdout.splitlines() if "default" in line)
        assert row[:3] == ["default", "2.00", "1"] and row[-1] == "1"
        done = cli("verdict", "cpu", "now", "false_alert", "--note", "a test", "--url", aiops.url)
        assert done.returncode == 0 and "learned: false_alert at" in done.stdout and "from its alert" in done.stdout
        done = cli("verdict", "cpu", "-2d", "missed", "--ratio", "0.8", "--by", "ann", "--url", aiops.url, "--json")
        assert json.loads(done.stdout)["verdicts"][0]["source"] == "given"
        assert cli("verdict", "disk", "now", "missed", "--url", aiops.url).returncode == 3


def test_names_with_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("series", "points"), [('load{disk="[red]"}', "3")])
    assert 'load{disk="[red]"}' in capsys.readouterr().out
