"""Rules of Grafana's own alerting are those of Prometheus, in the form that Grafana reads."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.alerting import Rule

from otel_aiops.dashboards.rules import provisioned
from tests.servers import require
from tests.test_alert_rules import CHECK_S, RULES, rules_of
from tests.tools.prometheus import promtool

ROOT = Path(__file__).parent.parent
PROVISIONING = ROOT / "grafana" / "provisioning"
FILE = PROVISIONING / "alerting" / "rules.yaml"
GROUPS: list[dict[str, Any]] = yaml.safe_load(FILE.read_text())["groups"]
MADE: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]

# What Grafana reads of a rule in a file (pkg/services/provisioning/alerting/rules_types.go); it is silent about others.
READ = {"uid", "title", "condition", "data", "noDataState", "execErrState", "for", "keepFiringFor", "isPaused"}
READ |= {"missing_series_evals_to_resolve", "annotations", "labels"}
OF_API = {"keepFiringFor": "keep_firing_for", "missing_series_evals_to_resolve": "missingSeriesEvalsToResolve"}


def test_the_file_is_committed_as_the_code_makes_it() -> None:
    assert FILE.read_text() == provisioned(RULES), "run `make dashboards`"


def test_each_rule_of_prometheus_is_there() -> None:
    """With the same expression, waits, labels and texts."""
    sources = {rule["alert"]: rule for path in RULES for rule in rules_of(path)}
    assert [rule["title"] for rule in MADE] == list(sources)
    for rule in MADE:
        source, (query, _) = sources[rule["title"]], rule["data"]
        assert query["model"]["expr"] == source["expr"]
        assert rule["for"] == source.get("for", "0s")
        assert rule["keepFiringFor"] == source.get("keep_firing_for", "0s")
        assert {key: as_in_prometheus(text) for key, text in rule["labels"].items()} == source["labels"]
        assert {key: as_in_prometheus(text) for key, text in rule["annotations"].items()} == source["annotations"]


def as_in_prometheus(text: str) -> str:
    return re.sub(r"\.Labels\b", "$labels", text).replace(".Values.query.Value", "$value")


def test_they_can_be_provisioned() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "otel-aiops.yaml").read_text())["datasources"]
    for key in ("uid", "title"):
        assert len({rule[key] for rule in MADE}) == len(MADE)
    assert len({group["name"] for group in GROUPS}) == len(GROUPS)
    for group in GROUPS:
        assert set(group) == {"orgId", "name", "folder", "interval", "rules"}
        assert (group["orgId"], group["folder"], group["interval"]) == (1, "otel-aiops", "1m")
    for rule in MADE:
        assert set(rule) == READ
        assert re.fullmatch(r"otel-aiops-\w+", rule["uid"]) and len(rule["uid"]) <= 40
        assert rule["isPaused"] is False and rule["noDataState"] == "OK" and rule["execErrState"] == "Error"
        query, fires = rule["data"]
        assert query["datasourceUid"] == query["model"]["datasource"]["uid"] == source["uid"]
        assert query["model"]["instant"] and not query["model"]["range"]
        assert query["relativeTimeRange"]["from"] > query["relativeTimeRange"]["to"] == 0
        assert fires["datasourceUid"] == "__expr__" and fires["model"]["type"] == "math"
        assert rule["condition"] == fires["refId"] == fires["model"]["refId"]
        assert set(re.findall(r"\$(\w+)", fires["model"]["expression"])) == {query["refId"]} == {"query"}


def test_nothing_is_lost_on_the_way_through_the_schema() -> None:
    """The API's model of a rule has all keys, under its own names, and those of the group with it."""
    for group in GROUPS:
        of = {"folderUID": group["folder"], "orgID": group["orgId"], "ruleGroup": group["name"]}
        for rule in group["rules"]:
            tree = {OF_API.get(key, key): value for key, value in rule.items()} | of
            assert json.loads(JSONEncoder().encode(Rule.from_json(tree))) == tree


def test_no_text_has_a_variable_of_the_environment() -> None:
    """Grafana puts variables of its environment where a `$` is, outside of queries."""
    for rule in MADE:
        for text in (*rule["labels"].values(), *rule["annotations"].values()):
            assert "$" not in text
            within = re.findall(r"\{\{ (?:with|range)\b.*?\}\}(.*?)\{\{ end \}\}", text)
            assert not any(".Labels" in inner or ".Values" in inner for inner in within), "there `.` is another"


def test_what_grafana_has_no_name_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.rules.yaml"
    rule = {"alert": "A", "expr": "up", "labels": {}, "annotations": {"summary": "{{ $externalURL }}"}}
    path.write_text(yaml.safe_dump({"groups": [{"name": "some", "rules": [rule]}]}))
    with pytest.raises(ValueError, match=r"expected no other variables than \$labels and \$value"):
        provisioned([path])


@pytest.mark.parametrize("name", ["service", "models"])
@pytest.mark.timeout(2 * CHECK_S)
def test_they_fire_and_say_the_same(tmp_path: Path, name: str) -> None:
    """Templates of Grafana are expanded by Prometheus' code: the unit tests that know the texts see no difference."""
    (source,) = (path for path in RULES if path.name == f"{name}.rules.yaml")
    tests = source.with_name(f"{name}.test.yaml")
    assert "exp_annotations" in tests.read_text()
    (group,) = (one for one in GROUPS if one["name"] == yaml.safe_load(source.read_text())["groups"][0]["name"])
    rules = [in_prometheus(rule) for rule in group["rules"]]
    (tmp_path / source.name).write_text(yaml.safe_dump({"groups": [{"name": group["name"], "rules": rules}]}))
    shutil.copy(tests, tmp_path)
    command = [str(require(promtool)), "test", "rules", tests.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=CHECK_S)
    assert done.returncode == 0, done.stdout + done.stderr


def in_prometheus(rule: dict[str, Any]) -> dict[str, Any]:
    """Only the value has another name there."""
    texts = {
        kind: {key: text.replace(".Values.query.Value", ".Value") for key, text in rule[kind].items()}
        for kind in ("labels", "annotations")
    }
    waits = {"for": rule["for"], "keep_firing_for": rule["keepFiringFor"]}
    return {"alert": rule["title"], "expr": rule["data"][0]["model"]["expr"], **waits, **texts}
