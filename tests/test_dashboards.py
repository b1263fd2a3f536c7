"""Dashboards are those of the code, ask for what is emitted, and are whole by Grafana's schema."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from otel_aiops.dashboards import BOARDS
from otel_aiops.dashboards.grafana import rendered
from tests.promql import COMMON, EMITTED, OF_SERIES, checked, substituted
from tests.servers import require
from tests.tools.prometheus import promtool

DIRECTORY = Path(__file__).parent.parent / "grafana" / "dashboards"
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
