"""Scores for files and replay: the same rows, nothing from the future, and the same engine as live."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_aiops.batch import replay, score_file
from otel_aiops.batch.progress import Progress
from otel_aiops.detect.budget import BudgetConfig
from otel_aiops.errors import BadInput
from otel_aiops.labels import Labels
from otel_aiops.otlp.encode import encode_series, series_of
from otel_aiops.pipeline import Pipeline, PipelineConfig
from otel_aiops.series.files import bodies

T0 = 1_700_000_000
CONFIG = PipelineConfig()
ADDED = ["anomaly_score", "alert_score", "alert", "expected", "lower", "upper", "probability", "channel", "reason"]


def series(n: int, *, seed: int = 0, spike_at: int | None = None) -> list[float]:
    values = np.random.default_rng(seed).normal(10, 1, n)
    if spike_at is not None:
        values[spike_at] += 40
    return [float(v) for v in values]


def write(path: Path, rows: list[tuple[Any, ...]], header: str = "timestamp,value,series") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return path


def table(n: int, names: str = "ab", **options: Any) -> list[tuple[Any, ...]]:
    columns = {name: series(n, seed=ord(name), **options) for name in names}
    return [(T0 + 60 * k, columns[name][k], name) for k in range(n) for name in names]


def scored(path: Path, output: str = "out.csv") -> list[dict[str, Any]]:
    out = path.with_name(output)
    score_file(path, out, CONFIG)
    if output.endswith(".csv"):
        with out.open(newline="") as file:
            return list(csv.DictReader(file))
    rows: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return rows


def column(rows: list[dict[str, Any]], name: str) -> list[float]:
    return [float(row[name]) for row in rows]


# -- score --------------------------------------------------------------------------------------------------------


def test_the_same_rows_come_in_the_same_order_with_scores_behind(tmp_path: Path) -> None:
    rows = [(t, f"{v:.3f}", name, 'a "note", quoted' if name == "a" else "") for t, v, name in table(40)]
    path = write(tmp_path / "in.csv", rows, "timestamp,value,series,extra note")
    found = scored(path)
    assert list(found[0]) == ["timestamp", "value", "series", "extra note", *ADDED]
    assert [tuple(row[k] for k in ("timestamp", "value", "series", "extra note")) for row in found] == [
        tuple(map(str, row)) for row in rows
    ]


def test_a_spike_is_an_alert_with_band_and_reason(tmp_path: Path) -> None:
    found = scored(write(tmp_path / "in.csv", table(200, "a", spike_at=150)))
    spike = found[150]
    assert float(spike["anomaly_score"]) > 1 and spike["alert"] == "1"
    assert float(spike["alert_score"]) > 1
    assert float(spike["lower"]) < float(spike["expected"]) < float(spike["upper"]) < float(spike["value"])
    assert 0.99 < float(spike["probability"]) <= 1
    assert spike["channel"] == "level" and "far above" in spike["reason"]
    assert float(found[151]["alert_score"]) == 0
    calm = [row for row in found if float(row["anomaly_score"]) < 1]
    assert len(calm) > 195 and not any(row["reason"] for row in calm)
    assert all(float(row["alert_score"]) >= 0.5 for row in found if row["alert"] == "1")


def test_warming_up_is_a_score_of_zero_that_says_so(tmp_path: Path) -> None:
    found = scored(write(tmp_path / "in.csv", table(30, "a")))
    warm = CONFIG.detection.warmup_points
    assert [row["channel"] == "warmup" for row in found] == [k < warm for k in range(30)]
    assert column(found[:warm], "anomaly_score") == [0.0] * warm
    assert all(math.isnan(x) for x in column(found[:warm], "expected"))


def test_rows_that_cannot_be_scored_say_why(tmp_path: Path) -> None:
    values = series(40)
    rows: list[tuple[Any, ...]] = [(T0 + 60 * k, v) for k, v in enumerate(values)]
    odd: list[tuple[Any, ...]] = [
        (T0 + 60 * 39, 1.0),
        (T0 + 5, 1.0),
        ("", 1.0),
        (T0 + 60 * 40, ""),
        (T0 + 60 * 41, "inf"),
    ]
    found = scored(write(tmp_path / "in.csv", [*rows, *odd, (T0 + 60 * 42, 10.0)], "timestamp,value"))
    assert [row["reason"] for row in found[40:45]] == [
        "Not scored: the row has the timestamp of one before it of its series.",
        "Not scored: the row is older than one before it of its series.",
        "Not scored: the row has no timestamp.",
        "Not scored: the row has no finite value.",
        "Not scored: the row has no finite value.",
    ]
    assert all(math.isnan(float(row["anomaly_score"])) and row["channel"] == "skipped" for row in found[40:45])
    assert {row["alert"] for row in found[40:45]} == {"0"} and {row["alert_score"] for row in found[40:45]} == {"0"}
    assert 0 <= float(found[45]["anomaly_score"]) < 1


def test_the_summary_counts(tmp_path: Path) -> None:
    rows = [*table(100, "ab", spike_at=60), ("", 1.0, "a"), (T0, 1.0, "a")]
    summary = score_file(write(tmp_path / "in.csv", rows), tmp_path / "out.csv", CONFIG)
    assert (summary.rows, summary.series, summary.warming) == (202, 2, 40)
    assert summary.alerting >= 2 and summary.alerting_series == 2
    assert sum(summary.skipped.values()) == 2
    text = summary.text()
    assert "202 rows of 2 series" in text and "no timestamp" in text and "older" in text


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_row_depends_on_nothing_behind_it(tmp_path: Path, data: st.DataObject) -> None:
    n = data.draw(st.integers(30, 120))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    times = T0 + 60 * np.arange(n) + rng.integers(-90, 90, n)
    names = rng.choice(["a", "b", "c"], n)
    values = rng.normal(5, 1, n) + np.where(rng.random(n) < 0.05, 30, 0)
    rows = [(int(t), float(v), str(name)) for t, v, name in zip(times, values, names, strict=True)]
    kept = data.draw(st.integers(1, n))
    whole = scored(write(tmp_path / "whole.csv", rows), "a.csv")
    part = scored(write(tmp_path / "part.csv", rows[:kept]), "b.csv")
    assert whole[:kept] == part
    alone = [row for row in rows if row[2] == "a"]
    if alone:
        own = scored(write(tmp_path / "own.csv", alone), "c.csv")
        # The budget, and with it what begins an alert, is that of all series.
        assert [{**row, "alert": ""} for row in whole if row["series"] == "a"] == [{**row, "alert": ""} for row in own]


def test_all_series_of_a_file_share_its_budget(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(10, 1, (400, 12)) + np.where(rng.random((400, 12)) < 0.03, 10 * rng.pareto(1.0, (400, 12)), 0)
    rows = [(T0 + 3600 * t, float(values[t, k]), f"s{k}") for t in range(400) for k in range(12)]
    path, output = write(tmp_path / "in.csv", rows), tmp_path / "out.parquet"
    alerts = {}
    for budget in (2, 5000):
        config = PipelineConfig(budgets=(BudgetConfig(name="all", budget=budget, group=0),))
        assert score_file(path, output, config).alerting == sum(pq.read_table(output)["alert"].to_pylist())
        alerts[budget] = sum(pq.read_table(output)["alert"].to_pylist())
    assert 1 <= alerts[2] <= 15 and alerts[5000] > 3 * alerts[2]


def test_series_that_stand_one_behind_the_other_are_judged_as_if_each_were_alone(tmp_path: Path) -> None:
    slow = [(T0 + 10 * (t - T0), value, name) for t, value, name in table(300, "ab", spike_at=250)]  # two days
    blocks = [[row for row in slow if row[2] == name] for name in "ab"]
    both = scored(write(tmp_path / "both.csv", [*blocks[0], *blocks[1]]))
    alone = [scored(write(tmp_path / "one.csv", block)) for block in blocks]
    assert [row["alert"] for row in both] == [row["alert"] for rows in alone for row in rows]
    assert both[250]["alert"] == both[550]["alert"] == "1"


def test_a_file_gets_the_scores_that_live_points_get(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", table(150, "abc", spike_at=100))
    pipeline = Pipeline(CONFIG)
    live: list[tuple[float, str, float, int]] = []
    for body in bodies([path]):
        step = pipeline.metrics(body.points, now_ns=body.now_ns)
        assert step.silent is None
        for one in step.scored:
            for k in range(len(one.batch.rows)):
                reason = pipeline.engine.reason(one.batch, one.scores, k) if one.scores.score[k] >= 1 else ""
                assert one.alerted is not None
                score, alert = float(np.nan_to_num(one.scores.score[k])), float(one.scores.alert[k])
                live.append((score, reason, alert, int(one.alerted.opened[k])))
    found = scored(path)
    assert [(float(r["anomaly_score"]), r["reason"], float(r["alert_score"]), int(r["alert"])) for r in found] == live
    assert any(alert >= 1 and opened for _, _, alert, opened in live)


def test_no_rows_are_no_rows(tmp_path: Path) -> None:
    for name, header in (("in.csv", "timestamp,value"), ("in2.csv", "timestamp,value,series")):
        path = write(tmp_path / name, [], header)
        assert scored(path) == []
        assert (tmp_path / "out.csv").read_text().strip() == f"{header},{','.join(ADDED)}"
        assert "0 rows of" in score_file(path, tmp_path / "out.parquet", CONFIG).text()


def test_parquet_keeps_its_types_and_csv_gets_some(tmp_path: Path) -> None:
    rows = table(30, "a")
    times = pa.array([t * 1000 for t, _, _ in rows], pa.timestamp("ms", "UTC"))
    values = pa.array([v for _, v, _ in rows], pa.float32())
    tags = pa.array([["x"]] * 30)
    pq.write_table(
        pa.table({"tags": tags, "timestamp": times, "value": values, "alert": [7] * 30}), tmp_path / "in.parquet"
    )
    score_file(tmp_path / "in.parquet", tmp_path / "out.parquet", CONFIG)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names == ["tags", "timestamp", "value", "alert", *[name for name in ADDED if name != "alert"]]
    assert found.schema.field("timestamp").type == times.type and found["value"].combine_chunks().equals(values)
    assert found["alert"].to_pylist() == [0] * 30
    assert scored(tmp_path / "in.parquet")[0]["tags"] == "['x']"
    score_file(write(tmp_path / "in.csv", [*rows, ("", "", "a")]), tmp_path / "out.parquet", CONFIG)
    typed = pq.read_table(tmp_path / "out.parquet")
    assert typed["timestamp"].cast(pa.timestamp("s", "UTC")).cast(pa.int64()).to_pylist() == [t for t, _, _ in rows] + [
        None
    ]
    assert typed.schema.field("value").type == pa.float64()


def test_an_output_that_cannot_be(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", table(5))
    with pytest.raises(BadInput, match=r"ends in \.csv, .*got 'out.txt'"):
        score_file(path, tmp_path / "out.txt", CONFIG)
    with pytest.raises(BadInput, match="cannot be written"):
        score_file(path, tmp_path / "nowhere" / "out.csv", CONFIG)
    assert not list(tmp_path.glob("*.tmp"))


def test_an_error_leaves_the_old_output(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("old")
    path = write(tmp_path / "in.csv", [(T0, "x")], "timestamp,value")
    with pytest.raises(BadInput, match="row 1"):
        score_file(path, tmp_path / "out.csv", CONFIG)
    assert (tmp_path / "out.csv").read_text() == "old"


# -- replay -------------------------------------------------------------------------------------------------------


def test_replay_tells_what_it_would_have_flagged(tmp_path: Path) -> None:
    quiet, loud = table(120, "a"), table(120, "b", spike_at=100)
    write(tmp_path / "a.csv", quiet)
    write(tmp_path / "b.csv", loud)
    summary = replay([tmp_path], Pipeline(CONFIG))
    assert (summary.files, summary.points, summary.scored, summary.series) == (2, 240, 240, 2)
    assert summary.bodies == 240 and summary.warm_ratio == 1.0
    assert (summary.first_ns, summary.last_ns) == (T0 * 10**9, (T0 + 119 * 60) * 10**9)
    (found,) = summary.found
    assert found.series.startswith("b{") and found.since_ns == (T0 + 6000) * 10**9 and "far above" in found.reason
    text = summary.text(top=5)
    assert "240" in text and "2023-11-14 23:53:20 UTC" in text and found.reason in text and "more" not in text
    assert "and 1 series more" not in text and "far above" not in summary.text(top=0)


def test_replay_lists_the_strongest_first_and_says_how_many_more(tmp_path: Path) -> None:
    rows = [(t, v + (30 * (1 + ord(name) - 97) if t == T0 + 6000 else 0), name) for t, v, name in table(110, "abc")]
    summary = replay([write(tmp_path / "in.csv", rows)], Pipeline(CONFIG))
    peaks = [one.peak for one in summary.found]
    assert peaks == sorted(peaks, reverse=True) and len(peaks) == 3 and summary.anomalous == 3
    assert summary.text(top=1).endswith("and 2 series more; --top shows more of them")


def test_a_series_that_stops_while_another_goes_on_is_told(tmp_path: Path) -> None:
    rows = [row for row in table(200, "ab") if not (row[2] == "a" and row[0] > T0 + 60 * 100)]
    summary = replay([write(tmp_path / "in.csv", rows)], Pipeline(CONFIG))
    stopped = [one for one in summary.found if one.series.startswith("a{")]
    assert len(stopped) == 1 and stopped[0].reason.startswith("No point for")


def test_a_file_in_which_series_stand_one_behind_the_other_is_the_same(tmp_path: Path) -> None:
    rows = table(100, "ab", spike_at=80)
    mixed = replay([write(tmp_path / "in.csv", rows)], Pipeline(CONFIG))
    apart = replay([write(tmp_path / "in.csv", sorted(rows, key=lambda row: row[2]))], Pipeline(CONFIG))
    assert apart == mixed


def test_replay_is_the_same_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", table(80, "abc", spike_at=60))
    first, second = Pipeline(CONFIG), Pipeline(CONFIG)
    assert replay([path], first) == replay([path], second)
    a, b = first.state(), second.state()
    assert a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


def test_replay_of_requests_counts_what_is_left_out(tmp_path: Path) -> None:
    one = [series_of(Labels("cpu", resource=(("service.name", "shop"),)))]
    for number, times in enumerate([[T0, T0 + 1], [T0 + 1, T0 + 2], [T0 - 5]]):
        time_ns = np.array(times, np.int64) * 10**9
        index = np.zeros(len(times), np.int64)
        (request,) = encode_series(one, index, time_ns, np.ones(len(times)))
        (tmp_path / f"{number}.bin").write_bytes(request.body)
    (tmp_path / "9.jsonl").write_text(
        '{"resourceLogs": []}\n{"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "x", "gauge": '
        '{"dataPoints": [{"asDouble": 1}]}}]}]}]}\n'
    )
    summary = replay([tmp_path], Pipeline(CONFIG))
    assert (summary.points, summary.scored, summary.bodies) == (5, 4, 5)
    assert summary.skipped == {"at the same time as one before": 1, "not valid": 1}
    assert "1 at the same time as one before" in summary.text()


def test_replay_of_nothing(tmp_path: Path) -> None:
    summary = replay([write(tmp_path / "in.csv", [])], Pipeline(CONFIG))
    assert summary.points == 0 and summary.warm_ratio == 0
    assert "anomalies  0 in 0 series" in summary.text()


def test_only_the_strongest_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("otel_aiops.batch.recordings.KEPT", 2)
    names = "abcdef"
    rows = [(t, v + (15 * 2 ** (ord(name) - 97) if t == T0 + 6000 else 0), name) for t, v, name in table(110, names)]
    summary = replay([write(tmp_path / "in.csv", rows)], Pipeline(CONFIG))
    assert summary.anomalous == 6 and 2 <= len(summary.found) <= 4
    assert {one.series[0] for one in summary.found[:2]} == {"e", "f"}


# -- progress -----------------------------------------------------------------------------------------------------


def test_progress_is_told_at_times_and_reaches_the_end(tmp_path: Path) -> None:
    told: list[tuple[float, float, str]] = []
    path = write(tmp_path / "in.csv", table(30))
    replay([path], Pipeline(CONFIG), progress=lambda *what: told.append(what))
    score_file(path, tmp_path / "out.csv", CONFIG, progress=lambda *what: told.append(what))
    assert len(told) >= 2 and all(0 <= done <= total for done, total, _ in told)


def test_progress_is_not_told_too_often() -> None:
    told: list[str] = []
    now = [0.0]
    progress = Progress(lambda done, total, text: told.append(text), clock=lambda: now[0])
    for k in range(100):
        now[0] = 5 + k / 100
        progress(k, 100, lambda k=k: str(k))  # type: ignore[misc]
    assert 4 <= len(told) <= 6 and told[0] == "0"
