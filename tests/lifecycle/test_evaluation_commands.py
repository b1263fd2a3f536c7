"""The commands that judge versions, over a recorded data directory with a journal."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from otel_aiops.cli import app
from otel_aiops.detect.engine import EngineConfig
from otel_aiops.detect.lessons import Verdict
from otel_aiops.detect.serving import Action, Rollout
from otel_aiops.errors import BadInput
from otel_aiops.incidents.incident import Incident, Severity, State
from otel_aiops.incidents.journal import Journal, JournalConfig
from otel_aiops.lifecycle.backtest import Backtest, Outcome, Setup, backtest
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.evaluate import Candidate
from otel_aiops.lifecycle.events import Alert, Event, poisson_interval
from otel_aiops.lifecycle.manifest import Window
from otel_aiops.lifecycle.report import PAGE
from otel_aiops.lifecycle.version import Bundle, Lineage, Models, Settings
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.archive import Archive
from tests.lifecycle.recording import HOURS, MINUTE_NS, NOW_NS, SERIES, START_NS, columns, record
from tests.test_serving import Line

RUNNER = CliRunner()
S = 1_000_000_000
BROKEN_H = 25.0  # when something is wrong, after the start
EVERY_NS = 5 * MINUTE_NS
PLAIN = EngineConfig(novelty_memory=0, seasons="week")
QUIET = "detection: {novelty_memory: 0, seasons: week}\nbudget: 4/day\n"


def run(*arguments: object, code: int = 0) -> str:
    result = RUNNER.invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty hours of six series, of which one goes wrong for an hour; an incident and a verdict say so."""
    directory = tmp_path_factory.mktemp("data")
    steps = HOURS * 12
    values = np.random.default_rng(0).normal(100, 2, (steps, len(SERIES)))
    first = round(BROKEN_H * 12)
    values[first : first + 12, 0] += 60
    time_ns = START_NS + np.repeat(np.arange(steps), len(SERIES)) * EVERY_NS
    record(directory, columns(SERIES, np.tile(np.arange(len(SERIES)), steps), time_ns, values.ravel()))
    began_ns = START_NS + round(BROKEN_H * 3600) * S
    journal = Journal(JournalConfig(), directory)
    journal.open()
    journal.append([incident(began_ns)], began_ns)
    journal.judged(Verdict(series=1, time_ns=began_ns, kind="true_alert", ratio=2.0, by="ana"), SERIES[0])
    journal.close()
    return directory


def incident(began_ns: int) -> Incident:
    return Incident(
        id="INC-1",
        revision=1,
        state=State.RESOLVED,
        severity=Severity.WARNING,
        start_ns=began_ns,
        detected_ns=began_ns,
        end_ns=began_ns + 3600 * S,
        services=("cart",),
    )


@pytest.fixture(scope="module")
def versions(data: Path) -> tuple[str, str]:
    """A version whose settings are those of the service, and one that replaces it."""
    models = Models(data / "lifecycle" / "models")
    trained = Line().run(5).trained()
    bundle = Bundle(trained.labels, trained.engine)
    late = 2**62  # of elsewhere, so that both learn from the history
    first = models.write(Settings(PLAIN), bundle, Lineage(until_ns=late))
    wide = replace(PLAIN, threshold=8.0)
    return first.id, models.write(Settings(wide), bundle, Lineage(parent=first.id, until_ns=late)).id


@pytest.fixture(scope="module")
def dataset(data: Path) -> str:
    window = Window(START_NS, START_NS + HOURS * 3600 * S)
    return Datasets.of(data).build(window, now_ns=NOW_NS).id


def test_evaluate_and_gate(data: Path, versions: tuple[str, str], dataset: str) -> None:
    first, second = versions
    config = data / "config.yaml"
    config.write_text(QUIET)
    labels = data / "labels.jsonl"
    labels.write_text(
        json.dumps({"start": START_NS / S + BROKEN_H * 3600, "end": START_NS / S + 26 * 3600, "service": "cart"})
    )
    shown = run("evaluate", second, "-d", data, "-c", config, "--labels", labels)
    assert "seasonal-naive" in shown and f"champion {first}" in shown and PAGE in shown
    assert (data / "lifecycle" / "models" / second / PAGE).exists()
    tree = json.loads((data / "lifecycle" / "models" / second / "report.json").read_text())
    of = tree["sides"][0]["figures"]
    low, high = poisson_interval(tree["sides"][0]["figures"]["alerts"] - 1, 0.25 * HOURS / 168)
    assert f"{of['false_a_week']:.1f} ({low:.1f} to {high:.1f})" in shown, "all alerts but the one of the incident"
    assert tree["dataset"] == dataset and tree["sides"][0]["events"][0]["caught"]
    assert tree["sides"][0]["cases"][0]["kind"] == "true_alert", "a verdict of the journal has become a case"
    result = RUNNER.invoke(app, ["gate", second, "-d", str(data), "-c", str(config)])
    verdict = json.loads(RUNNER.invoke(app, ["gate", second, "-d", str(data), "-c", str(config), "--json"]).output)
    assert result.exit_code == (0 if verdict["passed"] else 1) and "| rule |" in result.output
    config.write_text(QUIET + "lifecycle: {gate: {least_fault_recall: 1.0}}\n")
    assert "finds faults" in run("gate", second, "-d", data, "-c", config, code=1)


def test_an_objective_may_be_a_file(data: Path, versions: tuple[str, str], dataset: str, tmp_path: Path) -> None:
    config, carts = data / "config.yaml", tmp_path / "carts.yaml"
    config.write_text(QUIET)
    carts.write_text("name: carts\nmatch: {service: cart}\n")
    common = (versions[0], "-d", data, "-c", config, "--dataset", dataset)
    told = json.loads(run("evaluate", *common, "--objective", carts, "--json"))
    assert (told["objective"], told["series"], told["budget"]) == ("carts", 3, 1)
    result = RUNNER.invoke(app, ["gate", *map(str, common)])
    assert isinstance(result.exception, BadInput) and "by the objective carts" in str(result.exception)
    assert "| rule |" in RUNNER.invoke(app, ["gate", *map(str, common), "--objective", str(carts)]).output
    run("evaluate", *common)


def test_what_cannot_be_judged_is_said(data: Path, versions: tuple[str, str], tmp_path: Path) -> None:
    first, _ = versions
    for arguments in (
        ["evaluate", first, "--dataset", "f" * 16],
        ["gate", "f" * 16],
        ["evaluate", first, "--against", "no"],
    ):
        result = RUNNER.invoke(app, [*arguments, "-d", str(data)])
        assert isinstance(result.exception, BadInput)
    result = RUNNER.invoke(app, ["evaluate", first, "-d", str(data), "--objective", "x"])
    assert isinstance(result.exception, BadInput) and "a file or one of none, got x" in str(result.exception)
    assert RUNNER.invoke(app, ["backtest", "-d", str(data)]).exit_code == 2
    assert RUNNER.invoke(app, ["backtest", first, "--days", "0", "-d", str(data)]).exit_code == 2
    assert isinstance(RUNNER.invoke(app, ["backtest", first, "-d", str(tmp_path)]).exception, BadInput)


def test_a_backtest_answers_before_anything_is_saved(data: Path, versions: tuple[str, str]) -> None:
    config, present = data / "try.yaml", data / "present.yaml"
    config.write_text("detection: {novelty_memory: 0, threshold: 200}\nbudget: 4/day\n")
    present.write_text(QUIET)
    before = sorted(path for path in data.rglob("*") if path.suffix != ".yaml")
    shown = run("backtest", "-c", config, "--present", present, "-d", data, "--days", "0.5")
    assert "With this configuration you would have had" in shown and "in the last 0.5 days" in shown
    assert "missing 1 of 1 incident" in shown and "missed: INC-1" in shown
    assert sorted(path for path in data.rglob("*") if path.suffix != ".yaml") == before
    found = json.loads(run("backtest", versions[0], "--present", present, "-d", data, "--json"))
    assert found["days"] == pytest.approx(1.0, rel=0.01), "a fifth of thirty hours is learned from"
    assert found["newly_missed"] == [] and found["after"]["name"] == f"version {versions[0]}"
    assert len(found["after"]["alerts"]) == len(found["before"]["alerts"]) >= 1, "its settings are those in use"


def test_a_backtest_is_beside_the_version_that_serves(data: Path, versions: tuple[str, str], tmp_path: Path) -> None:
    first, second = versions
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    journal = Journal(JournalConfig(), copy)
    journal.open()
    for k, action in enumerate((Action.SHADOW, Action.PROMOTE)):
        journal.rolled(Rollout(action=action, version=second, champion="", time_ns=START_NS + k, who="ana"))
    journal.close()
    present, other, deaf = (tmp_path / f"{name}.yaml" for name in ("present", "other", "deaf"))
    present.write_text(QUIET)
    other.write_text(QUIET + "policies: [{match: {name: load}, min_dev_from_expected: 1000}]\n")
    deaf.write_text("detection: {novelty_memory: 0, threshold: 200}\nbudget: 4/day\n")

    def tried(*arguments: object) -> Any:
        return json.loads(run("backtest", *arguments, "--present", present, "-d", copy, "--days", "0.5", "--json"))

    found = tried(first)
    assert found["before"]["name"] == f"version {second}, which serves,"
    assert found["before"] | {"name": ""} == tried(second)["after"] | {"name": ""}
    assert tried(second, "--against", first)["before"]["name"] == f"version {first}"
    assert found["before"]["alerts"] == tried("-c", present)["after"]["alerts"] != found["after"]["alerts"]
    assert not tried("-c", other)["after"]["alerts"], "the same version under other rules"
    assert "missed: INC-1" in (told := run("backtest", "-c", deaf, "--present", present, "-d", copy, "--days", "0.5"))
    assert "missed by" not in told, "only the version that serves tells of it"


def outcome(alerts: int, missed: tuple[Event, ...]) -> Outcome:
    one = Alert(start_ns=1, end_ns=2, series="s", service="a", peak=1.0, channel="level")
    return Outcome(name="version x", begun="history", alerts=(one,) * alerts, missed=missed)


def test_the_sentence() -> None:
    events = tuple(Event(start_ns=k, end_ns=k + 1, name=f"I{k}", source="incident", confidence=1.0) for k in range(3))
    day = 86_400 * S
    shared = {"start_ns": 0, "end_ns": 30 * day, "series": 5, "drawn_of": 5}
    found = Backtest(**shared, events=events, before=outcome(37, ()), after=outcome(4, ()))
    words = "With version x you would have had 4 alerts instead of 37 in the last 30 days, missing none of 3 incidents."
    assert found.sentence() == words
    worse = replace(found, after=outcome(1, events[:1]))
    assert "1 alert instead of 37" in worse.sentence() and "missing 1 of 3" in worse.sentence()
    assert worse.newly_missed == events[:1]
    assert "no incident is known" in replace(found, events=()).sentence()


def test_a_backtest_of_a_version_that_had_learned_before_begins_with_that(data: Path) -> None:
    archive = Archive(data)
    trained = Line().run(5).trained()
    bundle = Bundle(trained.labels, trained.engine)
    known = Candidate("v", Settings(PLAIN), bundle, Lineage(until_ns=START_NS))
    config = PipelineConfig(detection=PLAIN)
    found = backtest(archive, Setup("v", config, known), Setup("now", config), (), days=0.2)
    assert (found.after.begun, found.before.begun) == ("bundle", "history")
    (data / "none" / "segments").mkdir(parents=True)
    with pytest.raises(BadInput, match="expected recorded points"):
        backtest(Archive(data / "none"), Setup("v", config), Setup("now", config), ())
