"""Import of recording rules for promql-anomaly-detection: series that they mark get a policy with its margins."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from otel_aiops.batch import promql
from otel_aiops.batch.vmanomaly import NO_COUNTERPART, Imported, read_yaml, write_yaml
from otel_aiops.detect.policy import PolicyConfig
from otel_aiops.errors import BadInput, ConfigError

MARGIN, SPARSE = 0.5, 5 / 60  # the framework's margin_multiplier and sparse_threshold, where the text sets none


def from_promql_rules(text: str) -> Imported:
    """Convert recording rules that mark series for promql-anomaly-detection with the label `anomaly_name`.

    A deviation within the framework's margin band does not count, nor do requests that it would call sparse. Where
    the text has the framework's own constants, they hold. Raises: ConfigError with the key path.
    """
    tree = read_yaml(text)
    groups = tree.get("groups")
    if not isinstance(groups, list):
        raise ConfigError("groups", f"expected a list of rule groups, got {groups!r}")
    rules = [*_recorded(groups)]
    constants = {rule["record"]: value for _, rule in rules if (value := _constant(rule)) is not None}
    policies: dict[str, dict[str, Any]] = {}
    notes: list[str] = [f"{key}: {NO_COUNTERPART}" for key in tree if key != "groups"]
    for path, rule in rules:
        name = (rule.get("labels") or {}).get("anomaly_name")
        if not name:
            notes.append(f"{path}: {_why_not(rule)}")
        elif str(name) in policies:
            notes.append(f"{path}: {name} has a policy already; there is one strategy here, not several")
        else:
            policies[str(name)] = _rule_policy(str(name), rule["labels"], constants)
            notes.append(f"{path}: {_how_to_send(rule, str(name))}")
    return Imported(write_yaml({"emit": {"compat": "promql_anomaly"}, "policies": [*policies.values()]}), notes)


def _recorded(groups: Sequence[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path, rule) of every rule."""
    for i, group in enumerate(groups):
        rules = group.get("rules") if isinstance(group, dict) else None
        if not isinstance(rules, list):
            raise ConfigError(f"groups.{i}.rules", f"expected a list of rules, got {rules!r}")
        for j, rule in enumerate(rules):
            path = f"groups.{i}.rules.{j}"
            if not isinstance(rule, dict) or not ("record" in rule or "alert" in rule):
                raise ConfigError(path, f"expected a rule with record or alert, got {rule!r}")
            if not isinstance(rule.get("labels") or {}, dict):
                raise ConfigError(f"{path}.labels", f"expected labels, got {rule['labels']!r}")
            yield path, rule


def _constant(rule: Mapping[str, Any]) -> float | None:
    """The number that a rule records, None if it records none."""
    text = str(rule.get("expr", "")).strip()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:\s*/\s*(\d+(?:\.\d+)?))?", text) if "record" in rule else None
    return float(match[1]) / float(match[2] or 1) if match and float(match[2] or 1) else None


def _rule_policy(name: str, labels: Mapping[str, Any], constants: Mapping[str, float]) -> dict[str, Any]:
    strategy = str(labels.get("anomaly_strategy") or "adaptive")
    policy: dict[str, Any] = {"name": name, "match": {"anomaly_name": name}}
    policy["min_rel_dev_from_expected"] = constants.get(f"anomaly:{strategy}:margin_multiplier", MARGIN)
    if labels.get("anomaly_type") == "requests":
        policy["min_volume"] = round(constants.get(f"anomaly:{strategy}:sparse_threshold", SPARSE), 6)
    PolicyConfig(**policy)
    return policy


def _why_not(rule: Mapping[str, Any]) -> str:
    if "alert" in rule:
        return f"the alert {rule['alert']} is not taken over: alert on the emitted score instead"
    if str(rule["record"]).endswith((":margin_multiplier", ":sparse_threshold")):
        return f"{rule['record']} holds in the policies of its strategy"
    if str(rule["record"]).startswith("anomaly:"):
        return f"{rule['record']} is not needed: bands are learned here"
    return f"{rule['record']} has no label anomaly_name and is not taken over"


def _how_to_send(rule: Mapping[str, Any], name: str) -> str:
    """What the operator must do that the policy finds its series."""
    try:
        metrics = sorted({match.get("name", "") for match in promql.read(str(rule.get("expr", ""))).matches} - {""})
    except BadInput:
        metrics = []
    instead = f", or match the metric that it is made of ({', '.join(metrics)})" if metrics else ""
    return f"send {rule['record']} here with its labels, for the policy matches anomaly_name {name}{instead}"
