"""The scope of objectives: what history says of their series, alerts and recall, against naive counts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from otel_aiops import plan as planning
from otel_aiops.cli import app
from otel_aiops.detect.budget import BudgetConfig
from otel_aiops.detect.joint import JointConfig
from otel_aiops.detect.peers import PeersConfig
from otel_aiops.errors import BadInput, StateError
from otel_aiops.incidents.incident import Channel
from otel_aiops.labels import Labels
from otel_aiops.lifecycle import scope as scoping
from otel_aiops.lifecycle.objective import DataConfig, Objective, TargetConfig
from otel_aiops.lifecycle.rehearse import NO_FAULTS, Alerts, Faults, rehearse
from otel_aiops.lifecycle.scope import FAULTS_OF, fault_kinds, poisson_interval, scope, share_interval, span
from otel_aiops.lifecycle.survey import survey
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.memo import Memo
from otel_aiops.otlp.points import F64
from otel_aiops.pipeline import Pipeline, PipelineConfig
from otel_aiops.series.archive import Archive, Points
from otel_aiops.series.disk import StorageConfig
from otel_aiops.series.history import History
from otel_aiops.series.rows import Columns, Recorded
from otel_aiops.series.segments import Segments
from tests.feed import Feed

START_S = 1_760_313_600
STEP_S = 60
ALONE = PipelineConfig(joint=JointConfig(enabled=False), peers=PeersConfig(enabled=False))
run = CliRunner().invoke


def noise(series: int, points: int, seed: int = 0) -> F64:
    return 50 + np.random.default_rng(seed).normal(0, 1, (series, points))


def labels_of(k: int) -> Labels:
    return Labels("cpu", "%", resource=(("service.name", "cart"),), attributes=(("pod", f"p{k}"),))


def recorded(folder: Path, values: F64, step_s: float = STEP_S) -> Path:
    """A data directory with series cpu{pod="p0"}, cpu{pod="p1"} and so on; NaN is absent."""
    row, step = np.nonzero(np.isfinite(values))
    columns = Columns(
        code=row.astype(np.int32),
        time_ns=START_S * 10**9 + np.round(step * step_s * 1e9).astype(np.int64),
        value=values[row, step],
        score=np.zeros(len(row), np.float32),
        texts=[labels_of(k).to_json() for k in range(len(values))],
        fingerprints=np.arange(len(values), dtype=np.uint64),
    )
    segments = Segments(folder / "segments")
    segments.open(0)
    segments.write(1, 5, columns)
    return folder


def served(folder: Path, values: F64, config: PipelineConfig) -> list[int]:
    """Record as the service does: through pipeline and history; returns the times of the alerts that were paid for."""
    pipeline, history = Pipeline(config), History(StorageConfig(min_free_bytes=0), folder)
    history.open()
    memo, alerts = Memo(), []
    for step in range(values.shape[1]):
        feed = Feed("cart")
        for row in np.flatnonzero(np.isfinite(values[:, step])).tolist():
            feed.gauge("cpu", START_S + STEP_S * step, float(values[row, step]), unit="%", pod=f"p{row}")
        now_ns = (START_S + STEP_S * step) * 10**9
        done = pipeline.metrics(decode_metrics(feed.body(), memo).points, now_ns=now_ns)
        for scored in done.batches():
            assert scored.alerted is not None
            alerts += scored.batch.time_ns[scored.alerted.counted].tolist()
        for scored in done.scored:
            rows = scored.batch.rows
            kept = Recorded(
                rows, pipeline.table.fingerprint(rows), scored.batch.time_ns, scored.batch.value, scored.scores.score
            )
            history.record(step + 1, kept, lambda rows: [pipeline.table.labels(r).to_json() for r in rows.tolist()])
    history.snapshot(values.shape[1], {})
    history.close()
    return alerts


class TestAlerts:
    def test_are_those_that_the_service_had_under_the_same_budget(self, tmp_path: Path) -> None:
        values = noise(3, 900)
        for at in (300, 500, 600, 700, 850):
            values[at % 3, at : at + 20] += 40
        values[1, 780:820] = np.nan
        objective = Objective(name="cpu", match={"name": "cpu"}, budget="20/day", data=DataConfig(least_history=3600))
        alerts = served(tmp_path, values, replace(ALONE, budgets=(objective.alert_budget(),)))
        since_ns = (START_S + STEP_S * 899) * 10**9 - round(STEP_S * 899 * 0.5 * 1e9)
        naive = sum(at_ns >= since_ns for at_ns in alerts)
        assert 2 <= naive < len(alerts)
        found = scope(objective, Archive(tmp_path), ALONE)
        assert found.alerts is not None and found.alerts.count == naive
        assert found.alerts.a_week == pytest.approx(naive * 7 * 86_400 / (STEP_S * 899 / 2))
        assert found.alerts_low < found.alerts.a_week < found.alerts_high
        assert found.data is not None and found.data.points == np.isfinite(values).sum() and found.series == 3
        assert found.faults is not None and found.faults.tried > 10
        assert found == scope(objective, Archive(tmp_path), ALONE), "equal histories give equal answers"

    def test_copies_with_faults_pay_nothing(self, tmp_path: Path) -> None:
        archive = Archive(recorded(tmp_path, noise(3, 700)))
        points, labels = archive.points(archive.series()), [labels_of(k) for k in range(3)]
        budget = BudgetConfig(name="x", budget="5/day")
        alone, none = rehearse(points, labels, ALONE, budget, interval_s=60.0)
        beside, faults = rehearse(points, labels, ALONE, budget, interval_s=60.0, kinds=("spike", "missing"))
        assert beside == alone and none == NO_FAULTS
        kinds = {kind: (tried, found) for kind, tried, found in faults.by_kind}
        assert kinds["missing"] == (3, 3) and kinds["spike"][0] == 3
        assert faults.found == sum(found for _, found in kinds.values()) and faults.delay_s >= 0

    def test_of_nothing_there_are_none(self) -> None:
        empty = Points(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0), 0)
        alerts, faults = rehearse(empty, [], ALONE, BudgetConfig(), interval_s=float("nan"))
        assert alerts.count == 0 and math.isnan(alerts.a_week) and faults == NO_FAULTS


class TestVerdict:
    @pytest.fixture(autouse=True)
    def _made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alerts, self.faults = Alerts(2, 7 * 86_400.0, 1.0), Faults(5, 100, 85, 60.0, 600.0, (("ramp", 100, 85),))
        monkeypatch.setattr(scoping, "rehearse", lambda *args, **options: (self.alerts, self.faults))

    def found(self, folder: Path, objective: Objective) -> scoping.Scope:
        return scope(objective, Archive(folder), ALONE)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return recorded(tmp_path, noise(3, 200))

    def wanted(self, *, recall: float = 0.8, lead_time: float = 0.0, **data: float) -> Objective:
        needs = DataConfig(**({"least_history": 3600.0} | data))  # type: ignore[arg-type]
        return Objective(name="x", budget="2/week", target=TargetConfig(recall, lead_time), data=needs)

    def test_yes(self, folder: Path) -> None:
        found = self.found(folder, self.wanted(lead_time=300))
        assert found.feasible == "yes"
        assert found.reasons == ("85% of injected faults are found with 2.0 alerts a week of a budget of 2",)
        assert found.recall == 0.85 and found.least_precision == pytest.approx(1 / 11)

    def test_too_few_faults_found(self, folder: Path) -> None:
        self.faults = replace(self.faults, found=61)
        found = self.found(folder, self.wanted())
        assert found.feasible == "no"
        assert found.reasons == ("at 2 alerts a week 61% of injected faults are found, the target is 80%",)

    def test_near_the_target_nothing_is_certain(self, folder: Path) -> None:
        self.faults = replace(self.faults, found=78)
        found = self.found(folder, self.wanted())
        assert found.feasible == "not known" and "too near the target of 80% to say" in found.reasons[0]

    def test_too_many_alerts(self, folder: Path) -> None:
        self.alerts = Alerts(20, 7 * 86_400.0, 1.0)
        found = self.found(folder, self.wanted())
        assert found.feasible == "no"
        assert found.reasons == ("the budget is 2 alerts a week, the history would have had 20.0",)

    def test_too_late(self, folder: Path) -> None:
        found = self.found(folder, self.wanted(lead_time=900))
        assert found.reasons == ("the lead time is 10 min, the target is 15 min",) and found.feasible == "no"
        self.faults = replace(self.faults, lead_s=float("nan"))
        found = self.found(folder, self.wanted(lead_time=900))
        assert found.feasible == "not known" and "no ramp was found" in found.reasons[0]

    def test_too_little_history(self, folder: Path) -> None:
        self.faults = replace(self.faults, found=10)
        found = self.found(folder, self.wanted(least_history=14 * 86_400))
        assert found.feasible == "not known"
        assert found.reasons == ("needs 14 d of history, has 3.3 h",), "and its numbers prove nothing"

    def test_too_few_series_and_faults(self, folder: Path) -> None:
        self.faults = replace(self.faults, tried=5, found=5)
        found = self.found(folder, self.wanted(least_series=4))
        assert found.feasible == "not known" and len(found.reasons) == 2
        assert found.reasons[0] == "needs 4 series with enough points, has 3 of 3"

    def test_gaps(self, tmp_path: Path) -> None:
        values = noise(2, 200)
        values[:, 50:150] = np.nan
        found = self.found(recorded(tmp_path, values), self.wanted())
        assert found.reasons == ("needs gaps in at most 20% of the time, has 50%",)

    def test_of_many_series_some_are_drawn(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scoping, "MOST_POINTS", 200)
        monkeypatch.setattr(scoping, "LEAST_DRAWN", 1)
        found = self.found(folder, self.wanted())
        assert (found.series, found.drawn) == (3, 1) and found.data is not None and found.data.series == 1
        assert found.alerts is not None and found.alerts.count == 6, "a third of the series had 2"
        assert "3 in scope, of which 1 were looked at" in found.text()


class TestEmptyScope:
    def test_names_the_selector_and_what_is_near(self, tmp_path: Path) -> None:
        archive = Archive(recorded(tmp_path, noise(2, 20)))
        found = scope(Objective(name="x", match={"name": "cpus", "service": "cart", "zone": "a"}), archive, ALONE)
        assert found.feasible == "no" and found.series == 0
        assert found.reasons == ("no series of 2 that are recorded is in scope",)
        assert found.near == (
            "name: cpus matches none; near are cpu (2 series)",
            "service: cart alone matches 2 series",
            "zone: a matches none; there are no series with this key",
        )
        assert all(line in found.text() for line in found.near)

    def test_a_directory_that_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="there is no folder segments"):
            Archive(tmp_path)

    def test_nothing_recorded_yet(self, tmp_path: Path) -> None:
        (tmp_path / "segments").mkdir()
        archive = Archive(tmp_path)
        assert archive.points_of_a_series() == archive.points_per_s() == 0 and len(archive.points([])) == 0
        assert scope(Objective(name="x"), archive, ALONE).feasible == "no"


class TestPlan:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fixed = planning.Measured(100 << 20, 1000.0, 700.0, 250_000.0, 16.0, 12.0)
        monkeypatch.setattr(planning, "_measure", lambda config, base_bytes: fixed)

    def objectives(self, folder: Path, recall: float) -> str:
        folder.mkdir()
        data = "{least_history: 1h}"
        (folder / "a.yaml").write_text(
            f"name: cpu\nmatch: {{name: cpu}}\nincidents: [silence]\nbudget: 50/day\ntarget: {{recall: {recall}}}\n"
            f"data: {data}\n"
        )
        return str(folder)

    def test_tells_every_objective_and_ends_with_0(self, tmp_path: Path) -> None:
        history = str(recorded(tmp_path / "data", noise(12, 400)))
        wanted = self.objectives(tmp_path / "o", 0.5)
        done = run(app, ["plan", "--objectives", wanted, "--data-dir", history])
        assert done.exit_code == 0, done.output
        for words in (
            "12 scored, of 12 streams recorded in",
            "objective   cpu (",
            "feasible    yes",
            "missing 10 of 10",
        ):
            assert words in done.stdout, done.stdout
        (told,) = json.loads(run(app, ["plan", "--objectives", wanted, "-d", history, "--format", "json"]).stdout)[
            "objectives"
        ]
        assert told["feasible"] == "yes" and told["recall"] == 1.0 and told["memory_bytes"] == 12_000
        assert told["points_per_s"] == pytest.approx(0.2) and told["faults"]["lead_s"] is None

    def test_ends_with_1_when_one_is_not_feasible(self, tmp_path: Path) -> None:
        history = str(recorded(tmp_path / "data", noise(2, 100)))
        config = tmp_path / "c.yaml"
        config.write_text("objectives: [{name: disk, match: {name: disk}}]")
        done = run(app, ["plan", "--data-dir", history, "--config", str(config)])
        assert done.exit_code == 1 and "name: disk matches none" in done.stdout

    def test_without_objectives_it_is_the_plan_of_the_history(self, tmp_path: Path) -> None:
        done = run(app, ["plan", "--data-dir", str(recorded(tmp_path, noise(2, 240)))])
        assert done.exit_code == 0 and "objective " not in done.stdout and "0.0/s" in done.stdout

    def test_objectives_need_a_history(self) -> None:
        assert run(app, ["plan", "--series", "5", "--objectives", "objectives"]).exit_code == 2
        assert run(app, ["plan", "--series", "5", "--data-dir", "x"]).exit_code == 2


class TestArchive:
    def test_what_lies_before_a_long_hole_is_no_history(self, tmp_path: Path) -> None:
        values = np.full((2, 40 * 24 + 6), np.nan)
        values[0, 0] = 1  # of a clock that was wrong
        values[:, -6:] = 2
        archive = Archive(recorded(tmp_path, values, step_s=3600))
        points = archive.points(archive.series())
        assert len(points) == 12 and points.time_ns[0] == (START_S + 40 * 86_400) * 10**9
        assert points.of([1]).series == 1 and len(points.of([1])) == 6

    def test_a_damaged_file_is_a_fault_that_is_named(self, tmp_path: Path) -> None:
        (file,) = (recorded(tmp_path, noise(2, 10)) / "segments").rglob("*.parquet")
        file.write_bytes(file.read_bytes()[:-30] + b"x" * 30)
        with pytest.raises(StateError, match=file.name):
            scope(Objective(name="x"), Archive(tmp_path), ALONE)

    def test_labels_that_cannot_be_read_are_a_fault(self, tmp_path: Path) -> None:
        one, score = np.ones(1), np.ones(1, np.float32)
        columns = Columns(np.zeros(1, np.int32), one.astype(np.int64), one, score, ["no json"], one.astype(np.uint64))
        segments = Segments(tmp_path / "segments")
        segments.open(0)
        segments.write(1, 1, columns)
        with pytest.raises(StateError, match="expected labels as JSON, got 'no json'"):
            Archive(tmp_path).labels()


def test_incident_types_are_faults() -> None:
    assert set(FAULTS_OF) == set(Channel)
    assert fault_kinds(Objective(name="x", incidents=(Channel.SILENCE,))) == ("missing",)
    assert fault_kinds(Objective(name="x", incidents=(Channel.SILENCE, Channel.RATE))) == (
        "shift_up",
        "shift_down",
        "ramp",
        "missing",
    )
    assert fault_kinds(Objective(name="x")) == fault_kinds(Objective(name="x", incidents=(Channel.SERIES,)))


@pytest.mark.parametrize("count", [0, 1, 7, 200])
def test_intervals_are_exact(count: int) -> None:
    low, high = poisson_interval(count)
    assert high == pytest.approx(stats.chi2.ppf(0.95, 2 * count + 2) / 2)
    assert low == pytest.approx(stats.chi2.ppf(0.05, 2 * count) / 2 if count else 0)
    found = stats.binomtest(count, 200).proportion_ci(0.9, method="exact")
    assert share_interval(count, 200) == pytest.approx((found.low, found.high))


def test_times_are_for_people() -> None:
    assert [span(t) for t in (45, 90, 5400, 3.2 * 86_400, 14 * 86_400, 0)] == [
        "45 s", "1.5 min", "1.5 h", "3.2 d", "14 d", "0 s",
    ]  # fmt: skip


class TestSurvey:
    def naive(self, points: Points) -> tuple[float, float, float, list[float]]:
        """(gaps, duplicates, absent, intervals), one series after the other."""
        gap = total = duplicates = absent = 0.0
        intervals = []
        for code in range(points.series):
            mine = points.code == code
            times = (points.time_ns[mine] / 1e9).tolist()
            steps = [b - a for a, b in pairwise(times)]
            usual = sorted(step for step in steps if step > 0)
            interval = usual[(len(usual) - 1) // 2] if usual else math.nan
            intervals.append(interval)
            gap += sum(step - interval for step in steps if step > 3 * interval)
            duplicates += steps.count(0)
            absent += int((~np.isfinite(points.value[mine])).sum())
            total += times[-1] - times[0] if times else 0
        return gap / total, duplicates / len(points), absent / len(points), intervals

    @pytest.mark.parametrize("seed", range(5))
    def test_is_as_a_naive_one_says(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        n = 400
        code = random.integers(0, 5, n).astype(np.int32)
        time_ns = np.sort(random.choice([1, 2, 3, 60], n).cumsum()) * 10**9
        time_ns = np.sort(np.append(time_ns[:-20], time_ns[:20]))
        value = np.where(random.random(n) < 0.1, np.nan, random.normal(size=n))
        points = Points(code, time_ns, value, 6)  # the last one has no points
        found, each = survey(points, least_history_s=10)
        gaps, duplicates, absent, intervals = self.naive(points)
        assert (found.gaps, found.duplicates, found.absent) == pytest.approx((gaps, duplicates, absent))
        np.testing.assert_allclose(each.interval_s, intervals)
        assert found.series == 6 and found.young == 1 and found.usable == (each.points >= 100).sum()

    def test_counts_series_that_are_young_constant_or_stopped(self) -> None:
        time_s = np.arange(0, 72_000, 60)
        rows = [(0, time_s), (1, time_s[-200:]), (2, time_s[:600])]
        code = np.concatenate([np.full(len(t), k) for k, t in rows]).astype(np.int32)
        times = np.concatenate([t for _, t in rows])
        order = np.argsort(times, kind="stable")
        value = np.where(code == 2, 7.0, np.arange(len(code)) % 11)
        points = Points(code[order], times[order] * 10**9, value[order], 3)
        found, _ = survey(points, least_history_s=30_000)
        assert (found.young, found.constant, found.stopped, found.sparse) == (1, 1, 1, 0)

    def test_finds_the_seasons_of_series(self) -> None:
        hours = np.arange(24 * 20)
        random = np.random.default_rng(0)
        daily = 10 * np.sin(2 * np.pi * hours / 24) + random.normal(0, 1, (3, len(hours)))
        values = np.concatenate([daily, random.normal(0, 1, (1, len(hours)))])
        code = np.tile(np.arange(4, dtype=np.int32), len(hours))
        points = Points(code, np.repeat(hours, 4) * 3_600 * 10**9, values.T.ravel(), 4)
        found, _ = survey(points, least_history_s=1)
        assert found.searched == 4 and found.seasons[0].share == 0.75
        assert found.seasons[0].period_s == pytest.approx(86_400, rel=0.01)
