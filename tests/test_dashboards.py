"""Dashboards are those of the code, ask for what is emitted, and are whole by Grafana's schema."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.alerting import ContactPoint
from grafana_foundation_sdk.models.dashboard import Dashboard

from otel_aiops.dashboards import BOARDS
from otel_aiops.dashboards.grafana import rendered
from tests.promql import COMMON, EMITTED, OF_SERIES, checked, substituted
from tests.servers import require
from tests.tools.javascript import grafana_schema
from tests.tools.prometheus import promtool

PROVISIONING = Path(__file__).parent.parent / "grafana" / "provisioning"
DIRECTORY = Path(__file__).parent.parent / "grafana" / "dashboards"
ALERTS = DIRECTORY.parent / "alerts"
DASHBOARDS = sorted(DIRECTORY.glob("*.json"))
each = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)


def queries(dashboard: Any) -> Iterator[str]:
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for variable in dashboard["templating"]["list"]:
        yield variable.get("definition", "")


def test_each_is_committed_as_the_code_makes_it() -> None:
    assert {path.stem for path in DASHBOARDS} == {board.name for board in BOARDS}
    for board in BOARDS:
        assert (DIRECTORY / f"{board.name}.json").read_text() == rendered(board), "run `make dashboards`"


@each
def test_nothing_is_lost_on_the_way_through_the_schema(path: Path) -> None:
    """A key that Grafana's schema does not have would be dropped."""
    tree = json.loads(path.read_text())
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(tree))) == tree
    assert json.loads(JSONEncoder().encode(Dashboard.from_json({**tree, "titel": "x"}))) == tree


def test_they_have_the_types_of_grafana(tmp_path: Path) -> None:
    """By the compiler and the schema that Grafana publishes for TypeScript; a wrong one is found, too."""
    home = require(grafana_schema)
    (tmp_path / "node_modules").symlink_to(home / "node_modules")
    shutil.copy(home / "plain.d.ts", tmp_path)
    for path in DASHBOARDS:
        (tmp_path / f"{path.stem}.ts").write_text(typed(json.loads(path.read_text())))
    assert compiled(tmp_path, *(path.stem for path in DASHBOARDS)) == ""
    tree = json.loads(DASHBOARDS[0].read_text())
    tree["panels"][0]["gridPos"]["w"], tree["refresh"] = "4", 10
    (tmp_path / "wrong.ts").write_text(typed(tree))
    said = compiled(tmp_path, "wrong")
    assert said.count("error TS2322") == 2 and said.count("error") == 2, said


def typed(tree: Any) -> str:
    """A program that is right if the tree is a dashboard."""
    for variable in tree["templating"]["list"]:
        for key in ("auto", "auto_count", "auto_min", "definition"):  # written by builder and Grafana, not in the types
            variable.pop(key, None)
    return f'import type {{ Board }} from "./plain.js";\nexport const board: Board = {json.dumps(tree, indent=1)};\n'


def compiled(folder: Path, *names: str) -> str:
    """What the compiler has to say."""
    options = ["--strict", "--noEmit", "--skipLibCheck", "--module", "nodenext", "--moduleResolution", "nodenext"]
    command = ["node", "node_modules/typescript/bin/tsc", *options, *(f"{name}.ts" for name in names)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


@each
def test_dashboards_ask_for_what_is_emitted(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    assert sum(map(checked, queries(dashboard))) > 10
    labels = {label for names in EMITTED.values() for label in names} | COMMON
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert named <= labels | ({"service"} if OF_SERIES.search(target["expr"]) else set())


@each
def test_dashboards_can_be_provisioned(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    assert dashboard.get("id") is None and dashboard["uid"] == f"otel-aiops-{path.stem}"
    assert dashboard["schemaVersion"] == 42
    assert "__inputs" not in dashboard  # a file that is provisioned is asked nothing
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    used = {name for text in queries(dashboard) for name in re.findall(r"\$(\w+)", text) if not name.startswith("__")}
    assert used - {"1"} <= set(variables)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids) and 0 not in ids
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, f"{panel['title']} lies on another"
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}" and panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"] and panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
            assert all(one["refId"] and one["datasource"] == panel["datasource"] for one in panel["targets"])
            assert len({one["refId"] for one in panel["targets"]}) == len(panel["targets"])


def test_every_expression_is_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{path.stem}:{number}", "expr": substituted(target["expr"])}
        for path in DASHBOARDS
        for panel in json.loads(path.read_text())["panels"]
        for number, target in enumerate(panel.get("targets", ()))
    ]
    groups = [{"name": f"g{number}", "rules": [rule]} for number, rule in enumerate(rules)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    command = [str(require(promtool)), "check", "rules", "--lint=none", str(tmp_path / "rules.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and f"{len(rules)} rules found" in done.stdout, done.stdout + done.stderr


def test_commands_in_texts_are_those_that_there_are() -> None:
    from tests import reference

    for board in BOARDS:
        for command in re.findall(r"`otel-aiops ([a-z][a-z ]*[a-z])(?: ID)?`", str(board)):
            assert f"| `otel-aiops {command} " in reference.commands(), f"there is no command {command}"


# What is watched of a model: (metric, matcher) of its panel, and the rule with (metric, matcher) that pages for it.
RATE, DRIFTS = "otel_aiops_model_rate", "otel_aiops_model_drifts_persistent"
OFF, EXPECTED = "otel_aiops_model_calibration_error_ratio", "otel_aiops_model_expected_false_alerts"
WATCHED: dict[str, tuple[tuple[str, str], str, tuple[str, str]]] = {
    "score rate": ((RATE, 'what="scores"'), "OtelAiopsScoreRateUnusual", (f"{RATE}_unusual", 'what="scores"')),
    "alert rate": ((RATE, 'what="alerts"'), "OtelAiopsAlertRateUnusual", (f"{RATE}_unusual", 'what="alerts"')),
    "input drift": (("otel_aiops_model_drift_effect", ""), "OtelAiopsInputDrift", (DRIFTS, 'kind="input"')),
    "concept drift": ((DRIFTS, ""), "OtelAiopsConceptDrift", (DRIFTS, 'kind="concept"')),
    "performance by verdicts": (
        ("otel_aiops_model_precision_ratio", ""),
        "OtelAiopsPrecisionLow",
        ("otel_aiops_model_precision_ratio", 'bound="high"'),
    ),
    "performance without labels": ((EXPECTED, ""), "OtelAiopsFalseAlertsExpected", (EXPECTED, "")),
    "calibration error": ((OFF, ""), "OtelAiopsCalibrationOff", (OFF, 'role="champion"')),
    "promise of rare probabilities": (
        ("otel_aiops_model_promise_kept", ""),
        "OtelAiopsPromiseBroken",
        ("otel_aiops_model_promise_kept", ""),
    ),
    "budget used of that promised": (
        ("otel_aiops_model_budget_used_ratio", ""),
        "OtelAiopsBudgetOverspent",
        ("otel_aiops_model_budget_used_ratio", ""),
    ),
    "self-test by kind of fault": (
        ("otel_aiops_model_fault_recall_ratio", ""),
        "OtelAiopsFaultsMissed",
        ("otel_aiops_selftest_plain_recall", "fault=~"),
    ),
}


def asks(expression: str, metric: str, matcher: str) -> bool:
    """Whether an expression names a metric, with a matcher."""
    return any(matcher in found for found in re.findall(rf"\b{metric}\b(?:\{{([^}}]*)\}})?", expression))


@pytest.mark.parametrize("what", WATCHED)
def test_all_that_is_watched_of_a_model_is_emitted_shown_and_ruled(what: str) -> None:
    shown, alert, ruled = WATCHED[what]
    assert shown[0] in EMITTED and ruled[0] in EMITTED
    panels = json.loads((DIRECTORY / "models.json").read_text())["panels"]
    plots = [panel for panel in panels if panel["type"] in ("timeseries", "bargauge")]
    assert any(asks(target["expr"], *shown) for panel in plots for target in panel["targets"])
    (group,) = yaml.safe_load((ALERTS / "models.rules.yaml").read_text())["groups"]
    (rule,) = [rule for rule in group["rules"] if rule["alert"] == alert]
    assert asks(rule["expr"], *ruled)
    cases = (ALERTS / "models.test.yaml").read_text()
    assert f'alertname="{alert}"' in cases and ruled[0] in cases, "promtool sees it fire"


def test_each_metric_of_the_model_is_shown_or_ruled() -> None:
    files = [*DASHBOARDS, *ALERTS.glob("*.rules.yaml")]
    named = set(re.findall(r"otel_aiops_\w+", "".join(path.read_text() for path in files)))
    assert {one for one in EMITTED if one.startswith("otel_aiops_model_")} <= named


def test_provisioning_says_nothing_of_policies_and_no_secret() -> None:
    """A provisioned notification policy would replace the whole tree of the organisation."""
    files = {path.relative_to(PROVISIONING): yaml.safe_load(path.read_text()) for path in PROVISIONING.rglob("*.yaml")}
    contact, rules = files[Path("alerting/otel-aiops.yaml")], files[Path("alerting/rules.yaml")]
    assert {path.parent.name for path in files} == {"alerting", "dashboards", "datasources"} and len(files) == 4
    assert all(one["apiVersion"] == 1 for one in files.values())
    assert set(contact) == {"apiVersion", "contactPoints"} and set(rules) == {"apiVersion", "groups"}
    (receiver,) = contact["contactPoints"][0]["receivers"]
    settings = receiver["settings"]
    assert receiver["type"] == "webhook" and settings["authorization_scheme"] == "Bearer"
    assert settings["url"].startswith("$") and settings["authorization_credentials"].startswith("$")
    (source,) = files[Path("datasources/otel-aiops.yaml")]["datasources"]
    assert source["type"] == "prometheus" and source["uid"] and source["url"].startswith("$")
    (provider,) = files[Path("dashboards/otel-aiops.yaml")]["providers"]
    assert provider["type"] == "file" and provider["options"]["path"]


def test_provisioning_is_known_to_the_schema() -> None:
    """The contact point goes through the model of Grafana's alerting without a loss."""
    tree = yaml.safe_load((PROVISIONING / "alerting" / "otel-aiops.yaml").read_text())["contactPoints"][0]
    (receiver,) = tree["receivers"]
    point = {"name": tree["name"], **receiver}
    assert json.loads(JSONEncoder().encode(ContactPoint.from_json(point))) == point
