"""Prometheus' alert rules as a file of Grafana's provisioning, for who alerts with Grafana and not with Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from grafana_foundation_sdk.builders import alerting, expr, prometheus
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.alerting import RelativeTimeRange

SOURCE: Final = "otel-aiops-prometheus"  # the data source of provisioning/datasources
FOLDER: Final = "otel-aiops"  # where the dashboards are, too
INTERVAL: Final = "1m"
LOOK_BACK_S: Final = 600
LONGEST_UID: Final = 40
WIDTH: Final = 10_000  # no line is broken
# The query is instant: each series that it gives fires, whatever its value, as in Prometheus. Grafana's own import of
# Prometheus' rules asks in the same way.
QUERY, FIRES = "query", "fires"
ANY_VALUE: Final = f"is_number(${QUERY}) || is_nan(${QUERY}) || is_inf(${QUERY})"
KEYS: Final = {"keep_firing_for": "keepFiringFor", "missingSeriesEvalsToResolve": "missing_series_evals_to_resolve"}
OF_GROUP: Final = ("folderUID", "orgID", "ruleGroup")
HEAD: Final = """\
# Rules of Grafana's own alerting, made by `make dashboards` out of grafana/alerts: the same alerts as there.
# Use these or those in Prometheus, not both, or everything is told twice; grafana/README.md says more.
"""


def provisioned(sources: Iterable[Path]) -> str:
    """The file, from files of Prometheus' rules."""
    groups = [_group(group) for path in sources for group in yaml.safe_load(path.read_text("utf-8"))["groups"]]
    tree = {"apiVersion": 1, "groups": groups}
    return HEAD + yaml.dump(tree, Dumper=_Blocks, sort_keys=False, allow_unicode=True, width=WIDTH)


class _Blocks(yaml.SafeDumper):
    """Writes texts of more than one line as they are."""

    def represent_scalar(self, tag: str, value: Any, style: str | None = None) -> yaml.ScalarNode:
        return super().represent_scalar(tag, value, "|" if isinstance(value, str) and "\n" in value else style)


def _group(group: Mapping[str, Any]) -> dict[str, Any]:
    rules = [dict(_rule(rule)) for rule in group["rules"]]
    return {"orgId": 1, "name": group["name"], "folder": FOLDER, "interval": INTERVAL, "rules": rules}


def _rule(rule: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """A rule by the keys of a file, which are not all those of the API."""
    uid = f"otel-aiops-{rule['alert']}"[:LONGEST_UID]
    built = alerting.Rule(rule["alert"]).uid(uid).condition(FIRES)
    built = built.queries([_query(rule["expr"]), _fires()])
    built = built.for_val(rule.get("for", "0s")).keep_firing_for(rule.get("keep_firing_for", "0s"))
    built = built.no_data_state("OK").exec_err_state("Error").missing_series_evals_to_resolve(1).is_paused(False)
    built = built.labels(_texts(rule["labels"])).annotations(_texts(rule["annotations"]))
    tree: dict[str, Any] = json.loads(JSONEncoder().encode(built.build()))
    for key in ("uid", "title", *(key for key in tree if key not in ("uid", "title", *OF_GROUP))):
        yield KEYS.get(key, key), tree[key]


def _query(expression: str) -> alerting.Query:
    source = common.DataSourceRef(type_val="prometheus", uid=SOURCE)
    asked = prometheus.Dataquery().expr(expression).instant().ref_id(QUERY).datasource(source)
    back = RelativeTimeRange(from_val=LOOK_BACK_S, to=0)
    return alerting.Query(QUERY).datasource_uid(SOURCE).relative_time_range(back).model(asked)


def _fires() -> alerting.Query:
    source = common.DataSourceRef(type_val="__expr__", uid="__expr__")
    asked = expr.TypeMath().expression(ANY_VALUE).ref_id(FIRES).datasource(source)
    none = RelativeTimeRange(from_val=0, to=0)
    return alerting.Query(FIRES).datasource_uid("__expr__").relative_time_range(none).model(asked)


def _texts(texts: Mapping[str, str]) -> dict[str, str]:
    return {key: _text(text) for key, text in texts.items()}


def _text(text: str) -> str:
    """A template for Grafana: a `$` in a provisioned file is a variable of its environment, and its `$value` a text.

    Raises: ValueError if a variable of Prometheus is left that Grafana has no other name for.
    """
    found = re.sub(r"\$labels\b", ".Labels", text)
    found = re.sub(r"\$value\b", f".Values.{QUERY}.Value", found)
    if "$" in found:
        raise ValueError(f"expected no other variables than $labels and $value, got {text!r}")
    return found
