"""The table from a small corpus on disk: our scores come from the shipped scorer, and every line is there."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from benchmarks.detection import ours, run
from benchmarks.detection.__main__ import main
from benchmarks.detection.series import Series
from otel_aiops.detect.engine import Engine
from otel_aiops.errors import BadInput, ConfigError
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.batch import Batch

START = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = 240


@pytest.fixture(autouse=True)
def small_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "COST_ROWS", 32)


def values(seed: int, spike: int) -> np.ndarray:
    value = np.random.default_rng(seed).normal(10, 1, ROWS)
    value[spike : spike + 2] = 40
    return value


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four series of each corpus with one spike each, which is labelled."""
    (tmp_path / "nab" / "labels").mkdir(parents=True)
    (tmp_path / "nab" / "data" / "made").mkdir(parents=True)
    (tmp_path / "cloud_monitoring" / "made").mkdir(parents=True)
    windows = {}
    for k in range(4):
        times = [START + timedelta(hours=hour) for hour in range(ROWS)]
        name, spike = f"made/{k}.csv", 100 + 20 * k
        value = values(k, spike)
        lines = [f"{time:%Y-%m-%d %H:%M:%S},{one}" for time, one in zip(times, value, strict=True)]
        (tmp_path / "nab" / "data" / name).write_text("timestamp,value\n" + "\n".join(lines) + "\n")
        windows[name] = [[f"{times[spike - 5]:%Y-%m-%d %H:%M:%S}.000000", f"{times[spike + 9]:%Y-%m-%d %H:%M:%S}.0"]]
        labels = [int(spike <= row < spike + 2) for row in range(ROWS)]
        lines = [f"{line},{label}" for line, label in zip(lines, labels, strict=True)]
        (tmp_path / "cloud_monitoring" / name).write_text("TimeStamp,Value,Label\n" + "\n".join(lines) + "\n")
    (tmp_path / "nab" / "labels" / "combined_windows.json").write_text(json.dumps(windows))
    return tmp_path


def test_ours_are_the_scores_of_the_engine() -> None:
    corpus = [
        Series(str(k), np.arange(rows, dtype=np.int64) * 300 * 10**9, values(k, 100)[:rows])
        for k, rows in enumerate((240, 150, 1))
    ]
    corpus[0].value[50] = np.nan
    scored = ours.score_corpus(corpus, PipelineConfig())
    assert [len(score) for score in scored.score.values()] == [240, 150, 1]
    assert np.isnan(scored.score["0"][50])
    engine, expected = Engine(PipelineConfig().detection), []
    for k, value in enumerate(corpus[1].value):
        interval_s = np.array([300.0 if k else np.nan])
        batch = Batch(np.zeros(1, np.int32), corpus[1].time_ns[k : k + 1], np.array([value]), interval_s)
        scores = engine.score(batch)
        engine.learn(batch, scores)
        expected.append(float(np.nan_to_num(scores.score[0])))
    assert scored.score["1"].tolist() == expected


def test_the_whole_table(data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = []
    for threshold in (4, 8):
        files.append(tmp_path / f"{threshold}.yaml")
        files[-1].write_text(f"detection: {{threshold: {threshold}}}\n")
    names = ["otel-aiops", "robust", "constant", "random"]
    arguments = ["--data", str(data), "--detectors", *names, "--configurations", *map(str, files)]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "NAB: 4 series; cloud monitoring: 4 series; 1920 rows"
    cells = {tuple(cell.strip() for cell in line.split("|")[1:3]): line.split("|")[3:-1] for line in lines[3:8]}
    assert list(cells) == [
        ("otel-aiops", "NAB by alert_score"),
        ("otel-aiops", "NAB by anomaly_score"),
        ("robust z, last 300", "re-implementation"),
        ("constant", "sanity row"),
        ("random", "sanity row"),
    ]
    assert all(len(row) == len(run.COLUMNS) for row in cells.values())
    by_name = {key[0]: dict(zip(run.COLUMNS, map(float, row_of(row)), strict=True)) for key, row in cells.items()}
    assert by_name["otel-aiops"]["F1*"] == by_name["otel-aiops"]["R@wk"] == 1.0
    assert by_name["otel-aiops"]["NAB std"] > 80 and by_name["robust z, last 300"]["NAB std"] > 80
    assert by_name["constant"]["NAB std"] == by_name["constant"]["R@wk"] == 0.0
    assert by_name["random"]["F1*"] < 0.9
    assert sum(line.startswith("configuration ") for line in lines) == 2
    assert any("parameters (of 2) and threshold from the other half" in line for line in lines)
    assert f"tried with these labels in view: {run.tried(run.TRIED.read_text())} " in lines[-2]


def row_of(cells: list[str]) -> list[str]:
    return [cell.strip().replace(",", "") for cell in cells]


def test_one_corpus_is_enough(data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for other, empty in (("nab", 5), ("cloud_monitoring", 6)):
        (data / other).rename(data / "away")
        assert main(["--data", str(data), "--detectors", "constant"]) == 0
        (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| constant")]
        assert sum(not cell.strip() for cell in row.split("|")[1:-1]) == empty
        (data / "away").rename(data / other)


def test_wrong_calls_are_said(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(data / "nab")]) == 2
    assert "expected a folder nab or cloud_monitoring" in capsys.readouterr().err
    assert main(["--data", str(data), "--preset", "nonesuch"]) == 2
    assert "preset" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["--data", str(data), "--detectors", "nonesuch"])
    with pytest.raises(ConfigError):
        ours.configured(path=data / "none.yaml")
    with pytest.raises(BadInput):
        run.load(data / "nab")


def test_a_peer_that_is_not_installed_is_named(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.detection.run.importlib.util.find_spec", lambda name: None)
    assert main(["--data", str(data), "--detectors", "hst"]) == 0
    out = capsys.readouterr().out
    assert "hst: river is not installed" in out and "| river" not in out


def test_what_was_tried_is_counted() -> None:
    text = "| round | corpus | configurations |\n|---|---|--:|\n| a | NAB | 7,000 |\n| b, 3 of them | both | 12 |\n"
    assert run.tried(text) == 7012
    assert run.tried(run.TRIED.read_text()) > 0
