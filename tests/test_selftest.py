"""The self-test as it is run: on files, on the recorded history, on made-up series; and what the default promises."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from otel_aiops.batch.selftest import from_files, from_history, self_test, specimens
from otel_aiops.config import Config, parse
from otel_aiops.detect.detector import Scores
from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.faults import Copies
from otel_aiops.detect.report import Limits, Played, judge
from otel_aiops.detect.selftest import play
from otel_aiops.detect.specimens import clean
from otel_aiops.errors import BadInput
from otel_aiops.otlp.points import F64
from otel_aiops.series.align import AlignConfig
from otel_aiops.series.batch import Batch
from otel_aiops.series.recent import on_grid, recorded
from otel_aiops.series.rows import Columns
from otel_aiops.series.segments import Segments

START_NS = 1_760_313_600_000_000_000
SMALL = parse("selftest: {max_series: 4, max_points: 240, tested: 0.5}").config

# At least so much of a lasting shift of 5 spreads stays over the threshold in its half hour.
PROMISED = {"noise": 0.8, "trend": 0.8, "daily": 0.6, "counter": 0.8}


def test_what_the_default_configuration_promises() -> None:
    """After two and a half days, a point every two minutes; all kinds of series are scored at once."""
    interval_s, begin = 120.0, 1800
    copies = {}
    for kind in PROMISED:
        values = clean(kind, 8, 2160, seed=1, interval_s=interval_s, start_ns=START_NS)
        whole = Copies.of(values, begin, interval_s=interval_s, seed=1)
        copies[kind] = Copies(values, {name: whole.faulty[name] for name in ("spike", "shift_up")})
    rows = np.concatenate([copy.rows() for copy in copies.values()])
    played = play(Engine(EngineConfig()), rows, interval_s=interval_s, start_ns=START_NS, align=AlignConfig())
    parts = zip(np.split(played.score, len(copies)), np.split(played.probability, len(copies)), strict=True)
    reports = {
        kind: judge(Played(score, likely), copies[kind], begin, interval_s=interval_s, limits=Limits())
        for kind, (score, likely) in zip(copies, parts, strict=True)
    }
    held = {kind: report.held for kind, report in reports.items()}
    assert all(held[kind] >= least for kind, least in PROMISED.items()), held
    alarms = {kind: report.false_alarms for kind, report in reports.items()}
    assert all(number <= 2 for number in alarms.values()), alarms
    found = {kind: report.faults["spike"].recall for kind, report in reports.items()}
    assert all(share >= 0.8 for share in found.values()), found


def written(path: Path, values: F64) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["timestamp", "series", "value"])
        for (row, step), value in np.ndenumerate(values):
            if np.isfinite(value):
                writer.writerow([START_NS // 10**9 + 30 * step, f"s{row}", value])
    return path


def recording(folder: Path, values: F64) -> Path:
    """A data directory with these series, a point every 30 s."""
    series, points = values.shape
    columns = Columns(
        code=np.repeat(np.arange(series, dtype=np.int32), points),
        time_ns=np.tile(START_NS + 30_000_000_000 * np.arange(points), series),
        value=values.ravel(),
        score=np.zeros(values.size, np.float32),
        texts=[f"series {k}" for k in range(series)],
        fingerprints=np.arange(series, dtype=np.uint64),
    )
    segments = Segments(folder / "segments")
    segments.open(0)
    segments.write(1, 5, columns)
    return folder


class TestGrid:
    def test_each_series_has_its_own_phase_and_the_newest_point_of_a_step_counts(self) -> None:
        time_s = np.array([0, 60, 120, 181, 29, 89, 149, 205, 209])
        code = np.array([7, 7, 7, 7, 3, 3, 3, 3, 3])
        found = on_grid(code, (time_s * 1e9).astype(np.int64), np.arange(9.0), points=10)
        assert found is not None and found.interval_s == 60.0 and found.start_ns == 0
        np.testing.assert_array_equal(found.values, [[4, 5, 6, 8], [0, 1, 2, 3]])

    def test_the_newest_steps_are_kept_and_what_is_missing_is_absent(self) -> None:
        time_ns = np.array([0, 10, 20, 40, 50, 60], np.int64) * 10**9
        found = on_grid(np.zeros(6, np.int64), time_ns, np.arange(6.0), points=4)
        assert found is not None and found.start_ns == 30 * 10**9
        np.testing.assert_array_equal(found.values, [[np.nan, 3, 4, 5]])

    def test_single_points_have_no_interval(self) -> None:
        assert on_grid(np.array([0, 1]), np.array([0, 10]), np.ones(2), points=5) is None


class TestSources:
    def test_the_history(self, tmp_path: Path) -> None:
        values = clean("noise", 6, 300, seed=1)
        found = recorded(recording(tmp_path, values) / "segments", series=4, points=240, seed=1)
        assert found is not None and found.values.shape == (4, 240) and found.interval_s == 30.0
        assert found.start_ns == START_NS + 60 * 30_000_000_000
        for row in found.values:
            assert any((row == value[60:]).all() for value in values)
        assert from_history(tmp_path, SMALL, 1) is not None
        assert from_history(tmp_path, Config(), 1) is None  # which wants more points
        assert from_history(tmp_path / "empty", Config(), 1) is None

    def test_files(self, tmp_path: Path) -> None:
        values = clean("noise", 3, 300, seed=1)
        found = from_files([written(tmp_path / "some.csv", values)], SMALL)
        np.testing.assert_array_equal(found.values, values[:, 60:])
        with pytest.raises(BadInput, match=r"one.csv: expected series with several points each, got none"):
            from_files([written(tmp_path / "one.csv", values[:, :1])], SMALL)

    def test_specimens_are_one_of_each_kind_in_turn(self) -> None:
        found = specimens(6, 200, 1)
        np.testing.assert_array_equal(found.values[0], clean("noise", 2, 200, seed=1, start_ns=found.start_ns)[0])
        np.testing.assert_array_equal(found.values[5], clean("trend", 2, 200, seed=1, start_ns=found.start_ns)[1])

    @pytest.mark.parametrize("source", ["files", "history", "specimens"])
    def test_the_best_source_is_taken(self, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("otel_aiops.batch.selftest.engine_variants", lambda config: ())
        monkeypatch.setattr("otel_aiops.batch.selftest.Engine", Quick)
        values = clean("noise", 4, 240, seed=1)
        if source != "specimens":
            recording(tmp_path, values)
        paths = [written(tmp_path / "some.csv", values)] if source == "files" else []
        outcome = self_test(SMALL, paths, directory=tmp_path, seed=3)
        assert outcome.source == source and outcome.report.series == 4
        told = json.loads(json.dumps(outcome.plain_values(), allow_nan=False))
        assert told["source"] == source and told["seed"] == 3 and told["faults"]["missing"]["recall"] == 1.0
        assert (
            told["problems"] == list(outcome.report.verdict())
            and "problem: " + told["problems"][0] in outcome.verdict()
        )
        assert {row[0] for row in outcome.table()} == set(outcome.report.faults)


class Quick(Engine):
    """Says of no point that it is strange, in little time."""

    def score(self, batch: Batch) -> Scores:
        nothing = np.zeros(len(batch.rows))
        return replace(self.silent_scores(nothing, nothing + 1), probability=nothing)

    def learn(self, batch: Batch, scores: Scores) -> None: ...
