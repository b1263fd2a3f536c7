"""Objectives: what is checked and said of each file, what the hash covers, and that their budgets are kept."""

from __future__ import annotations

import random
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from otel_aiops.config import ConfigErrors, parse
from otel_aiops.errors import ConfigError
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.objective import CostConfig, DataConfig, Objective, Response, TargetConfig, load_objectives
from otel_aiops.pipeline import Pipeline
from otel_aiops.responses.playbook import KINDS
from otel_aiops.settings import Schema

SHIPPED = Path(__file__).parent.parent.parent / "objectives"
FULL = {
    "name": "pay",
    "description": "slow payments",
    "team": "checkout",
    "match": {"name": "~http.*", "service": "pay", "code": 200},
    "incidents": ["latency", "errors"],
    "cost": {"miss": 50, "false_alert": 2},
    "target": {"recall": 0.9, "lead_time": "5m"},
    "budget": "2/week",
    "responses": ["notify", "scale"],
    "data": {"least_history": "14d", "least_series": 2, "most_gaps": 0.1},
}


def written(folder: Path, **files: object) -> Path:
    folder.mkdir(exist_ok=True)
    for name, tree in files.items():
        (folder / f"{name}.yaml").write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return folder


def told(path: Path) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        load_objectives(path)
    return str(caught.value).splitlines()


class TestFiles:
    def test_every_key_is_read(self, tmp_path: Path) -> None:
        (one,) = load_objectives(written(tmp_path, pay=FULL))
        assert one.cost == CostConfig(50, 2) and one.target == TargetConfig(0.9, 300)
        assert one.data == DataConfig(14 * 86_400, 2, 0.1) and one.alerts_a_week == 2
        assert one.matches(Labels("http.x", resource=(("service.name", "pay"),), attributes=(("code", 200),)))
        assert not one.matches(Labels("http.x", resource=(("service.name", "pay"),)))

    def test_a_file_and_its_folder_are_the_same(self, tmp_path: Path) -> None:
        written(tmp_path, b=FULL | {"name": "b"}, a=FULL | {"name": "z"})
        assert [one.name for one in load_objectives(tmp_path)] == ["z", "b"]  # by name of the file
        assert load_objectives(tmp_path / "b.yaml") == load_objectives(tmp_path)[1:]

    def test_those_that_are_shipped_are_right(self) -> None:
        found = load_objectives(SHIPPED)
        assert [one.name for one in found] == ["checkout-latency", "host-saturation"]
        paying = Labels("http.server.request.duration", stat="p95", resource=(("service.name", "cart"),))
        assert [one.matches(paying) for one in found] == [True, False]
        assert [one.matches(Labels("system.cpu.utilization")) for one in found] == [False, True]

    def test_everything_that_is_wrong_is_told_at_once(self, tmp_path: Path) -> None:
        wrong = {
            "name": "a b",
            "match": {"name": "~("},
            "budget": "3/fortnight",
            "cost": {"miss": -1, "false_alert": "x"},
            "target": {"recall": 80, "lead_tim": "3m"},
            "incidents": ["latency", "slow"],
            "responses": ["shout"],
            "data": {"least_history": "long", "most_gaps": 2},
            "foo": 1,
        }
        lines = told(written(tmp_path, a=wrong, b="a: [", c="- 1", d={"name": "x"}, e={"name": "x"}))
        a = f"{tmp_path / 'a.yaml'}: "
        expected = {
            a + "name: expected 1 to 100 letters, digits, dots, hyphens and underscores, the first a letter or digit, "
            "got 'a b'",
            a + "match.name: is not a regular expression: missing ), unterminated subpattern at position 0, got '~('",
            a + "budget: expected a number a week or one like 2/week, of hour, day, week, month, got '3/fortnight'",
            a + "cost.miss: must be > 0, got -1.0",
            a + "cost.false_alert: expected a valid number, unable to parse string as a number, got 'x'",
            a + "target.recall: must be in (0, 1], got 80.0",
            a + "target.lead_tim: is not a known key; known here: lead_time, recall",
            a + "data.most_gaps: must be in [0, 1], got 2.0",
            f"{tmp_path / 'c.yaml'}: expected a mapping of keys, got [1]",
            f"{tmp_path / 'e.yaml'}: name: expected a name of its own, got 'x', which {tmp_path / 'd.yaml'} has",
        }
        assert expected <= set(lines)
        begins = (
            "incidents.1: expected 'deployment', ",
            "responses.0: expected 'notify', ",
            "foo: is not a known key; known here: budget, ",
            "data.least_history: expected a valid number",
        )
        assert all(any(line.startswith(a + begin) for line in lines) for begin in begins)
        assert sum(line.startswith(f"{tmp_path / 'b.yaml'}: not valid YAML: ") for line in lines) == 1
        assert len(lines) == len(expected) + len(begins) + 1

    @pytest.mark.parametrize("value", ["", "default", "a/b", "x" * 101, "ä"])
    def test_names_can_stand_in_addresses(self, value: str) -> None:
        with pytest.raises(ConfigErrors, match="name: expected"):
            Objective(name=value)

    @pytest.mark.parametrize(
        "wrong",
        [{"target": {"lead_time": "2d"}}, {"data": {"least_series": 0}}, {"data": {"least_history": 0}}],
    )
    def test_limits(self, tmp_path: Path, wrong: dict[str, object]) -> None:
        (line,) = told(written(tmp_path, a=FULL | wrong))
        assert "must be" in line

    def test_what_is_not_there_is_named(self, tmp_path: Path) -> None:
        expected = "expected a file, or a folder with files that end in .yaml or .yml, got nothing there"
        assert told(tmp_path / "no") == [f"{tmp_path / 'no'}: {expected}"]
        assert told(written(tmp_path / "empty"))[0].endswith("got none")

    def test_a_file_that_is_no_text_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
        assert "cannot read" in told(tmp_path)[0]


class TestHash:
    @given(st.randoms(use_true_random=False))
    def test_is_of_what_is_meant_and_not_of_how_it_is_written(self, chance: random.Random) -> None:
        keys = list(FULL)
        chance.shuffle(keys)
        shuffled = {key: FULL[key] for key in keys}
        other = shuffled | {
            "description": "other words",
            "budget": chance.choice([2, "2/week", 2.0]),
            "incidents": chance.choice([["latency", "errors"], ["errors", "latency"], ["errors", "latency", "errors"]]),
            "target": {"lead_time": chance.choice([300, "5m", "300s"]), "recall": 0.9},
            "match": {"code": "200", "service": "pay", "name": "~http.*"},
        }
        schema = Schema(Objective)
        assert schema.read(FULL).id == schema.read(other).id
        assert len(schema.read(FULL).id) == 16

    def test_changes_with_everything_else(self) -> None:
        base = Objective(name="a")
        others = [
            Objective(name="b"),
            Objective(name="a", team="t"),
            Objective(name="a", match={"name": "x"}),
            Objective(name="a", budget=2),
            Objective(name="a", cost=CostConfig(miss=11)),
            Objective(name="a", target=TargetConfig(recall=0.5)),
            Objective(name="a", data=DataConfig(least_series=2)),
            Objective(name="a", responses=("scale",)),
        ]
        assert len({base.id, *(one.id for one in others)}) == len(others) + 1


def test_responses_are_the_kinds_of_steps_of_playbooks() -> None:
    assert get_args(Response) == KINDS


class TestConfiguration:
    def test_each_objective_has_its_budget_behind_the_others(self, tmp_path: Path) -> None:
        folder = written(tmp_path / "o", pay=FULL)
        text = f"lifecycle: {{objectives: {folder}}}\nbudgets: [{{name: first, match: {{team: x}}}}]\n"
        config = parse(text).config
        assert [(one.name, one.budget) for one in config.pipeline().budgets] == [("first", "1/day"), ("pay", "2/week")]
        reports = Pipeline(config.pipeline()).alerting.budget.reports()
        assert [(one.name, one.budget) for one in reports] == [("first", 7.0), ("pay", 2.0), ("default", 7.0)]

    def test_objectives_may_stand_in_the_configuration(self) -> None:
        config = parse("objectives: [{name: pay, budget: 3/week}]").config
        assert config.pipeline().budgets[0].name == "pay"
        with pytest.raises(ConfigError, match=r"objectives.0.budget: expected a number a week"):
            parse("objectives: [{name: pay, budget: lots}]")

    def test_names_are_not_used_twice(self, tmp_path: Path) -> None:
        folder = written(tmp_path / "o", pay=FULL)
        with pytest.raises(ConfigError, match="objectives: expected a name of its own, got 'pay', which a budget has"):
            parse(f"lifecycle: {{objectives: {folder}}}\nbudgets: [{{name: pay}}]\n")
        with pytest.raises(ConfigError, match="'pay', which another objective has"):
            parse(f"lifecycle: {{objectives: {folder}}}\nobjectives: [{{name: pay}}]\n")

    def test_a_wrong_file_is_an_error_of_the_configuration(self, tmp_path: Path) -> None:
        folder = written(tmp_path / "o", pay=FULL | {"budget": "lots"})
        with pytest.raises(ConfigErrors, match=r"pay.yaml: budget: expected a number a week"):
            parse(f"lifecycle: {{objectives: {folder}}}")


def test_how_precise_alerts_must_be_follows_from_the_costs() -> None:
    assert CostConfig(miss=3, false_alert=1).least_precision == 0.25
