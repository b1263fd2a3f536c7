"""The gate of a pull request: what a change would do, in Markdown; and the file for GitHub that runs it."""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from otel_aiops.cli import app
from otel_aiops.detect.engine import EngineConfig
from otel_aiops.detect.serving import Action, Rollout
from otel_aiops.errors import BadInput
from otel_aiops.incidents.journal import Journal, JournalConfig
from otel_aiops.lifecycle import change as module
from otel_aiops.lifecycle.change import Change, Setup, differing, judge_change, of_archive, of_file
from otel_aiops.lifecycle.evaluate import EvaluationConfig
from otel_aiops.lifecycle.gate import GateConfig, gate
from otel_aiops.lifecycle.objective import CostConfig, Objective
from otel_aiops.lifecycle.version import ForecastConfig, ForestConfig, Lineage, Models, Settings
from otel_aiops.pipeline import PipelineConfig
from tests.lifecycle.circles import recorded
from tests.lifecycle.held import START_NS, data, labels_of, points, truth
from tests.lifecycle.test_evaluate import learned

RUNNER = CliRunner()
PLAIN = EngineConfig(novelty_memory=0, seasons="off", warmup_points=20)
BASE = Setup(PipelineConfig(detection=PLAIN, budget="4/day"))
DEAF = Setup(PipelineConfig(detection=replace(PLAIN, threshold=200.0), budget="4/day"))
FEW = EvaluationConfig(most_points=10_000)


@pytest.fixture(scope="module")
def deaf() -> Change:
    """A change after which nothing is an anomaly any more."""
    return judge_change(BASE, DEAF, data(), limits=FEW)


def test_a_change_that_misses_what_was_found_is_refused(deaf: Change) -> None:
    assert not deaf.passed and list(deaf.keys) == ["detection.threshold"]
    assert deaf.report is not None and deaf.verdict is not None
    text = deaf.markdown()
    lines = text.splitlines()
    assert lines[0].startswith("### ❌") and lines[2] == deaf.sentence()
    assert "missing 2 of 2 known events, 1 of them found before" in deaf.sentence() and deaf.sentence().endswith(
        "the gate says **no**."
    )
    assert f"instead of {len(deaf.report.sides[1].alerts)} in 1.8 days" in deaf.sentence()
    assert "| | before | after |" in lines and "| alerts | " in text and "| cost of mistakes a week |" in text
    assert "| ❌ | finds as many faults as the champion |" in text
    new, gone = deaf.alerts()
    assert not new and len(gone) == len(deaf.report.sides[1].alerts) > 0
    assert f"**Alerts that would be gone: {len(gone)}**" in text and "(a known event)" in text
    (lost,) = deaf.newly_missed()
    assert lost.name == "INC-2" and "**Events that would be missed: 1**" in text and "INC-2" in text
    assert "1 settings differ" in text and "| `detection.threshold` | `6.0` | `200.0` |" in text
    assert "seasonal-naive" in text
    tree = json.loads(json.dumps(deaf.to_json()))
    assert tree["passed"] is False and tree["sentence"] == deaf.sentence() and len(tree["gone_alerts"]) == len(gone)


def test_a_change_for_the_better_passes(deaf: Change) -> None:
    """The same two, the other way round, by the same report."""
    assert deaf.report is not None
    mine, base, naive = deaf.report.sides
    report = replace(
        deaf.report, sides=(replace(base, role="candidate"), replace(mine, role="champion"), *deaf.report.sides[2:])
    )
    assert naive.role == "baseline"
    better = replace(deaf, report=report, verdict=gate(report, GateConfig(most_us_per_point=1e9), CostConfig()))
    new, gone = better.alerts()
    assert new and not gone and not better.newly_missed()
    if better.passed:
        assert better.markdown().startswith("### ✅") and "says yes" in better.sentence()


def test_nothing_changed() -> None:
    found = judge_change(BASE, BASE, data(incidents=()))
    assert found.passed and not found.alerts()[0] and not found.newly_missed()
    assert found.markdown() == (
        "### ✅ Detection of otel-aiops\n\n"
        "Nothing that decides scores or alerts was changed, so there is nothing to judge.\n"
    )


def test_a_change_of_budget_or_objective_is_judged_under_each_of_both(
    monkeypatch: pytest.MonkeyPatch, deaf: Change
) -> None:
    seen: list[tuple[str, Any, Any]] = []

    def evaluated(candidate: Any, _: Any, config: PipelineConfig, *, objective: Any = None, **__: Any) -> Any:
        seen.append((candidate.name, config.budget, objective))
        assert deaf.report is not None
        return replace(deaf.report, sides=(deaf.report.sides[0], deaf.report.sides[2]), budget=len(seen))

    monkeypatch.setattr(module, "evaluate", evaluated)
    cheap = Objective(name="a", budget="1/week", cost=CostConfig(miss=5.0, false_alert=1.0))
    dear = replace(cheap, cost=CostConfig(miss=1.0, false_alert=50.0))
    found = judge_change(Setup(BASE.pipeline, cheap), Setup(replace(BASE.pipeline, budget="9/day"), dear), data())
    assert seen == [("after", "9/day", dear), ("before", "4/day", cheap)]
    assert found.cost == cheap.cost, "a change does not make its own way"
    assert found.report is not None and found.report.budget == 2
    assert [one.role for one in found.report.sides] == ["candidate", "champion", "baseline"]
    assert sorted(found.keys) == ["budget", "objective.cost.false_alert", "objective.cost.miss"]


def test_a_change_is_judged_with_the_families_beside_both_engines() -> None:
    """Two engines that find nothing differ in nothing but their settings; what forecasts find is told of both."""
    held = data(series=4)
    few, less = (replace(PLAIN, threshold=threshold) for threshold in (1e4, 2e4))
    for families, caught in (((), [False, False]), ((ForecastConfig(),), [True, True])):
        before, after = (Setup(PipelineConfig(detection=one, budget="4/day"), None, families) for one in (few, less))
        found = judge_change(before, after, held, limits=FEW)
        assert found.report is not None and list(found.keys) == ["detection.threshold"]
        for side in found.report.sides[:2]:
            assert [one.caught for one in side.events] == caught, side.role
        told = "_before is judged with its forecast trained on the points before the hold-out._"
        assert (told in found.markdown()) == bool(families)
        moved = replace(after, pipeline=replace(after.pipeline, budget="9/day"))
        apart = judge_change(before, moved, held, limits=FEW)
        assert (told in apart.markdown()) == bool(families), "also where both are judged apart"


def test_what_differs() -> None:
    assert differing(BASE, BASE) == {}
    assert differing(BASE, DEAF) == {"detection.threshold": [6.0, 200.0]}
    one = Setup(BASE.pipeline, Objective(name="a"))
    assert differing(BASE, one)["objective.name"] == [None, "a"]


def test_names_that_come_with_telemetry_are_no_markdown(deaf: Change) -> None:
    assert deaf.report is not None
    mine, base, naive = deaf.report.sides
    evil = replace(base.alerts[0], series="a`|<script>\nx", true=0.0, called_false=True)
    report = replace(deaf.report, sides=(mine, replace(base, alerts=(evil,) * 12), naive), notes=("a note",))
    text = replace(deaf, report=report).markdown()
    assert "<script>" not in text and "a'\\|&lt;script> x" in text and "(called false)" in text
    assert "… and 2 more" in text and "_a note._" in text
    many = {f"k{n}": [n, n + 1] for n in range(50)}
    assert "… and 10 more" in replace(deaf, keys=many).markdown()


def test_points_of_files(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    of = points(2.0, 3)
    texts = [labels_of(k).to_json() for k in range(3)]
    columns = {"timestamp": of.time_ns, "value": of.value, "series": [texts[k] for k in of.code]}
    path = tmp_path / "export.parquet"
    parquet.write_table(pa.table(columns), path)
    held = of_file(path, truth(((1.8, 0),)))
    assert held.recording.texts == tuple(texts) and held.recording.labels[0].service == "s0"
    np.testing.assert_array_equal(held.recording.points.value, of.value)
    assert held.recording.since_ns > START_NS + 1.4 * 86_400e9 and len(held.truth) == 1
    csv = tmp_path / "plain.csv"
    csv.write_text("timestamp,value\n" + "".join(f"{1_700_000_000 + 60 * k},{k % 7}\n" for k in range(300)))
    assert of_file(csv).recording.labels[0].name == "plain"
    few = of_file(path, config=EvaluationConfig(most_points=200))
    assert (len(few.recording.texts), few.drawn_of) == (1, 3)
    scope = Objective(name="s", match={"service": "s1"})
    assert of_file(path, match=scope).recording.texts == (texts[1],)
    with pytest.raises(BadInput, match="expected recorded points in scope, got none"):
        of_file(path, match=replace(scope, match={"service": "none"}))
    with pytest.raises(BadInput, match=r"none\.csv"):
        of_file(tmp_path / "none.csv")


def test_points_of_a_data_directory(tmp_path: Path) -> None:
    held = of_archive(recorded(tmp_path), days=0.5)
    assert len(held.recording.texts) == 6
    assert held.recording.points.time_ns[-1] - held.recording.points.time_ns[0] <= 43_200e9
    (tmp_path / "empty/segments").mkdir(parents=True)
    with pytest.raises(BadInput, match="expected recorded points, got none"):
        of_archive(tmp_path / "empty")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: Change) -> None:
    for folder, budget in (("before", "2/week"), ("after", "1/day")):
        (tmp_path / folder / "objectives").mkdir(parents=True)
        (tmp_path / folder / "objectives/a.yaml").write_text(f"name: a\nbudget: {budget}\n")
        (tmp_path / folder / "c.yaml").write_text("lifecycle: {objectives: objectives}\n")
    rows = "".join(f"{1_700_000_000 + 60 * k},{k % 7}\n" for k in range(300))
    (tmp_path / "t.csv").write_text("timestamp,value\n" + rows)
    asked: list[Any] = []

    def judged(before: Setup, after: Setup, held: Any, **_: Any) -> Change:
        asked.append((before, after, held))
        return deaf

    monkeypatch.setattr(module, "judge_change", judged)
    monkeypatch.setattr("otel_aiops.cli.circle.prepare", lambda: None)
    both = ["--base", tmp_path / "before/c.yaml", "--config", tmp_path / "after/c.yaml"]
    common = ["lifecycle", "gate", *map(str, both)]
    result = RUNNER.invoke(app, [*common, "--data", str(tmp_path / "t.csv"), "--objective", "a"])
    assert result.exit_code == 1 and result.output.startswith("### ❌"), result.output
    before, after, _ = asked[0]
    assert (before.objective.budget, after.objective.budget) == ("2/week", "1/day"), "each beside its own file"
    told = RUNNER.invoke(app, [*common, "--data", str(tmp_path / "t.csv"), "--json"])
    assert json.loads(told.stdout)["passed"] is False
    recorded(tmp_path)
    assert RUNNER.invoke(app, [*common, "-d", str(tmp_path)]).exit_code == 1
    assert len(asked[-1][2].recording.texts) == 6 and asked[-1][0].families == asked[-1][1].families == ()
    named = ["--family", "forest", "--family", "forecast"]
    assert RUNNER.invoke(app, [*common, "-d", str(tmp_path), *named]).exit_code == 1
    assert asked[-1][0].families == asked[-1][1].families == (ForecastConfig(), ForestConfig())
    serve_with(tmp_path, Settings(EngineConfig(), (ForestConfig(trees=7),)))
    assert RUNNER.invoke(app, [*common, "-d", str(tmp_path)]).exit_code == 1
    assert asked[-1][0].families == asked[-1][1].families == (ForestConfig(trees=7),), "those of what serves"
    assert RUNNER.invoke(app, [*common, "-d", str(tmp_path), "--family", "none"]).exit_code == 1
    assert asked[-1][0].families == ()
    for wrong in (
        [],
        ["--data", "none.csv"],
        ["--data", str(tmp_path / "t.csv"), "--objective", "x"],
        ["--data", str(tmp_path / "t.csv"), "-d", str(tmp_path)],
        ["-d", str(tmp_path), "--dataset", "f" * 16],
        ["-d", str(tmp_path), "--family", "tree"],
    ):
        assert RUNNER.invoke(app, [*common, *wrong]).exit_code == 2, wrong
    assert RUNNER.invoke(app, ["lifecycle", "gate", "--base", "none.yaml", "-c", "none.yaml", "-d", "."]).exit_code == 2


def serve_with(directory: Path, settings: Settings) -> None:
    """Have a version of these settings as champion in a data directory."""
    bundle = learned(data(days=2.0, since=1.5, incidents=()), 2**62, settings.detection).bundle
    assert bundle is not None
    version = Models(directory / "lifecycle/models").write(settings, bundle, Lineage())
    with closing(Journal(JournalConfig(), directory)) as journal:
        journal.open()
        for action in (Action.SHADOW, Action.PROMOTE):
            journal.rolled(Rollout(action=action, version=version.id, champion="", time_ns=1, who="ana"))


WORKFLOW = Path(__file__).parents[2] / "examples/github/model-gate.yml"


def commands() -> dict[str, set[str]]:
    """The options of every command by its name."""
    found: dict[str, set[str]] = {}

    def walk(group: Any, prefix: str) -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                walk(command, f"{prefix}{name} ")
            else:
                found[prefix + name] = {option for one in command.params for option in one.opts}

    walk(get_command(app), "")
    return found


def test_the_workflow_for_github() -> None:
    tree = yaml.safe_load(WORKFLOW.read_text())
    assert tree["name"] == "model gate" and "pull_request" in tree[True], "YAML 1.1 reads `on` as true"
    steps = tree["jobs"]["gate"]["steps"]
    for step in steps:
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+\.\d+\.\d+", step["uses"]), "pinned by version"
    known = commands()
    called = [
        line.strip()
        for step in steps
        for line in step.get("run", "").splitlines()
        if line.strip().startswith("otel-aiops ")
    ]
    assert len(called) == 2
    for line in called:
        words = line.removeprefix("otel-aiops ")
        name = max((one for one in known if words.startswith(f"{one} ")), key=len)
        used = set(re.findall(r"(?<!\S)--[a-z-]+", line))
        assert used <= known[name], (name, used - known[name])
    assert any("lifecycle gate" in line for line in called)
    texts = "".join(step.get("run", "") for step in steps)
    assert set(re.findall(r"\$([A-Z]+)\b", texts)) <= {*tree["env"], "RUNNER"} and tree["permissions"]
