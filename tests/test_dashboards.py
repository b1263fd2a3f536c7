"""Dashboards and alert rules speak of metrics that the service emits, and the rules fire when they should."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from otel_aiops.otlp.prometheus import label_name
from otel_aiops.otlp.semconv import METRICS
from tests import reference
from tests.servers import require
from tests.tools.prometheus import promtool

GRAFANA = Path(__file__).parent.parent / "grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
RULES = sorted((GRAFANA / "alerts").glob("*.rules.yaml"))
COMMON = {"instance", "job", "__name__"}

EMITTED = {one.prometheus: {label_name(key) for key in one.attributes} for one in METRICS.values()}


def queries(dashboard: Any) -> Iterator[str]:
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for variable in dashboard["templating"]["list"]:
        yield variable.get("definition", "")


def checked(expression: str) -> int:
    """How many of our metrics an expression names; each is emitted, with the labels that are asked for."""
    found = re.findall(r"(otel_aiops_\w+)(?:\{([^}]*)\})?", expression)
    for name, matchers in found:
        assert name in EMITTED, f"{name} is not emitted"
        asked = set(re.findall(r"(\w+)\s*[=!]~?", matchers))
        assert asked <= EMITTED[name] | COMMON, f"{name} has no labels {asked - EMITTED[name] - COMMON}"
    return len(found)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.name)
def test_dashboards_ask_for_what_is_emitted(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    assert sum(map(checked, queries(dashboard))) > 8
    labels = {label for names in EMITTED.values() for label in names} | COMMON
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.name)
def test_dashboards_can_be_provisioned(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    assert dashboard["id"] is None and dashboard["uid"] == f"otel-aiops-{path.stem}"
    assert dashboard["schemaVersion"] == 42
    assert "__inputs" not in dashboard  # a file that is provisioned is asked nothing
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
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


@pytest.mark.parametrize("path", RULES, ids=lambda p: p.name)
def test_rules_ask_for_what_is_emitted_and_say_what_to_do(path: Path) -> None:
    rules = [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert checked(rule["expr"]) or "up{job=" in rule["expr"], rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info", "{{ $labels.severity }}")
        assert all(rule["annotations"][key] for key in ("summary", "description", "runbook"))
        runbook = rule["annotations"]["runbook"]
        checked(" ".join(re.findall(r"otel_aiops_\w+", runbook)))
        for command in re.findall(r"`otel-aiops ([a-z ]+)`", runbook):
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
    panels = json.loads((GRAFANA / "dashboards/models.json").read_text())["panels"]
    plots = [panel for panel in panels if panel["type"] in ("timeseries", "bargauge")]
    assert any(asks(target["expr"], *shown) for panel in plots for target in panel["targets"])
    (group,) = yaml.safe_load((GRAFANA / "alerts/models.rules.yaml").read_text())["groups"]
    (rule,) = [rule for rule in group["rules"] if rule["alert"] == alert]
    assert asks(rule["expr"], *ruled)
    cases = (GRAFANA / "alerts/models.test.yaml").read_text()
    assert f'alertname="{alert}"' in cases and ruled[0] in cases, "promtool sees it fire"


def test_each_metric_of_the_model_is_shown_or_ruled() -> None:
    files = [*DASHBOARDS, *RULES]
    named = set(re.findall(r"otel_aiops_\w+", "".join(path.read_text() for path in files)))
    assert {one for one in EMITTED if one.startswith("otel_aiops_model_")} <= named


@pytest.mark.parametrize("path", RULES, ids=lambda p: p.name)
def test_rules_are_those_of_prometheus_and_fire(path: Path) -> None:
    tool = str(require(promtool))
    for arguments in (["check", "rules", path.name], ["test", "rules", path.name.replace(".rules", ".test")]):
        done = subprocess.run([tool, *arguments], cwd=path.parent, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
