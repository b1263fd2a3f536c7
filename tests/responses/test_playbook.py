"""Playbooks: what they take, how they are told apart, and that every mistake is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from otel_aiops.errors import ConfigError
from otel_aiops.incidents.incident import Severity
from otel_aiops.labels import Labels
from otel_aiops.responses.playbook import Playbook, check_playbooks, load_playbooks, read_playbook
from otel_aiops.responses.values import argument, values_of
from otel_aiops.settings import ConfigErrors
from tests.responses.makers import COMMAND, NOTIFY, incident, playbook, prediction

FILE = """
name: heal-cart
on: opened
dry_run: false
match: {types: [errors], severity: warning, services: ["~ca.*"], probability: 0.6, labels: {k8s.namespace.name: shop}}
steps:
  - do: {kind: notify, use: ops, text: "{title}: {summary}"}
  - do: {kind: command, use: restart}
    guard: {cooldown: 10m, approvals: 1, windows: [{days: [mon], from: "08:00", to: "18:00"}]}
    verify: {by: score, within: 5m}
    undo: {kind: command, use: restart}
    escalate: [{do: {kind: notify, use: ops}}]
"""


def written(tmp_path: Path, text: str, name: str = "a.yaml") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path


def test_a_file_is_read(tmp_path: Path) -> None:
    (one,) = load_playbooks(written(tmp_path, FILE))
    assert one.on == "opened" and one.steps[1].guard.cooldown == 600 and one.steps[1].verify is not None
    assert read_playbook(one.plain_values()) == one
    assert one.steps[0].goes_on and not one.steps[1].goes_on


def test_playbooks_are_dry_unless_they_say_otherwise() -> None:
    assert Playbook(name="a", steps=playbook().steps).dry_run


def test_the_version_is_that_of_the_content(tmp_path: Path) -> None:
    (one,) = load_playbooks(written(tmp_path, FILE))
    (same,) = load_playbooks(written(tmp_path, f"description: again\n{FILE.replace('10m', '600s')}"))
    (other,) = load_playbooks(written(tmp_path, FILE.replace("10m", "11m")))
    assert one.version == same.version != other.version and len(one.version) == 16


def test_an_empty_folder_is_no_mistake(tmp_path: Path) -> None:
    assert load_playbooks(tmp_path) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("name: heal-cart", "name: heal cart"), "a.yaml: name: expected 1 to 100 letters, digits, dots"),
        (
            ("on: opened", "on: closed"),
            "a.yaml: on: expected 'opened', 'notified', 'updated', 'resolved', 'predicted' or 'alert', got 'closed'",
        ),
        (
            ("severity: warning", "severity: bad"),
            "a.yaml: match.severity: expected 'info', 'warning' or 'critical', got 'bad'",
        ),
        (("~ca.*", "~ca("), "a.yaml: match.services: is not a regular expression"),
        (("probability: 0.6", "probability: 6"), "a.yaml: match.probability: must be in [0, 1], got 6.0"),
        (("{title}: ", "{titel}: "), "a.yaml: steps.0.do.text: {titel} is not a known value; known here: id, title"),
        (("cooldown: 10m", "cooldwn: 10m"), "a.yaml: steps.1.guard.cooldwn: is not a known key"),
        (("approvals: 1", "approvals: 7"), "a.yaml: steps.1.guard.approvals: must be 0, 1 or 2, got 7"),
        (("verify: {by: score, within: 5m}", ""), "a.yaml: steps.1.undo: expected `verify` beside it"),
        (("by: score", "by: promql"), "a.yaml: steps.1.verify.query: expected a query with `by: promql`"),
        (
            ("use: restart}\n    guard", "use: restart, replicas: 3}\n    guard"),
            "steps.1.do.replicas: expected replicas or add with kind scale",
        ),
    ],
)
def test_every_mistake_is_named(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_playbooks(written(tmp_path, FILE.replace(*change)))
    assert said in str(error.value)


def test_two_of_a_name(tmp_path: Path) -> None:
    written(tmp_path, FILE, "b.yaml")
    with pytest.raises(ConfigErrors, match=r"expected a name of its own, got 'heal-cart', which .*a.yaml has"):
        load_playbooks(written(tmp_path, FILE))


def test_what_is_used_must_be_configured() -> None:
    one = playbook(steps=[{"do": NOTIFY}, {"do": COMMAND, "verify": {"by": "promql", "query": "up"}}])
    check_playbooks([one], {"notify": ["ops"], "command": ["restart"]}, promql=True)
    with pytest.raises(ConfigErrors) as error:
        check_playbooks([one], {"notify": ["dev"]}, promql=False)
    assert [str(part) for part in error.value.errors] == [
        "playbooks.heal.steps.0.do.use: expected one of dev, got 'ops'",
        "playbooks.heal.steps.1.do.use: expected one of none that is configured, got 'restart'",
        "playbooks.heal.steps.1.verify.by: expected responses.prometheus to be configured, it is not",
    ]


@pytest.mark.parametrize(
    ("match", "taken"),
    [
        ({}, True),
        ({"types": ["errors", "latency"]}, True),
        ({"types": ["silence"]}, False),
        ({"severity": "warning"}, True),
        ({"severity": "critical"}, False),
        ({"services": ["cart"]}, True),
        ({"services": ["car"]}, False),
        ({"services": ["~c.*"]}, True),
        ({"suspects": ["~pay|cart"]}, True),
        ({"suspects": ["pay"]}, False),
        ({"probability": 0.8}, True),
        ({"probability": 0.81}, False),
        ({"labels": {"zone": "a"}}, True),
        ({"labels": {"zone": "b"}}, False),
        ({"services": ["cart"], "severity": "critical"}, False),
    ],
)
def test_match(match: dict[str, Any], taken: bool) -> None:
    labels = [Labels("load", attributes=(("zone", "a"),))]
    assert playbook(match=match).match.takes(incident(severity=Severity.WARNING), labels) is taken


def test_the_probability_of_a_prediction_is_that_it_happens() -> None:
    wanted = playbook(match={"probability": 0.85}).match
    assert wanted.takes(prediction(probability=0.9)) and not wanted.takes(prediction(probability=0.8))


@pytest.mark.parametrize(
    "hostile", ["-rf", "--all", "a b", "$(id)", "a;b", "../etc", "/etc", "a\nb", "", "a..b", "`id`", "x" * 300]
)
def test_no_hostile_value_becomes_an_argument(hostile: str) -> None:
    with pytest.raises(ValueError, match="expected 1 to 253 letters"):
        argument("service", values_of(incident(service=hostile)))


@pytest.mark.parametrize("name", ["cart", "shop.cart-v2", "host:8080", "10.0.0.1"])
def test_usual_names_do(name: str) -> None:
    assert argument("service", values_of(incident(service=name))) == name
