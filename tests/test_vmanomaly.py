"""Imports: files as the documentation of vmanomaly and promql-anomaly-detection has them, and what is lost is told."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.batch import promql
from otel_aiops.batch.promql_anomaly import from_promql_rules
from otel_aiops.batch.vmanomaly import Imported, import_vmanomaly
from otel_aiops.config import parse
from otel_aiops.detect.policy import PolicyConfig
from otel_aiops.errors import BadInput, ConfigError

SHOP = """
settings:
  n_workers: 2
  anomaly_score_outside_data_range: 3.0
  restore_state: true
schedulers:
  every_minute:
    class: periodic
    infer_every: "1m"
    fit_every: "90d"
    fit_window: "2d"
    start_from: "00:00"
    tz: Europe/Madrid
models:
  spikes:
    class: zscore_online
    z_threshold: 3.2
    decay: 0.995
    queries: [share_of_5xx, checkout_latency]
    detection_direction: above_expected
    min_dev_from_expected: [0, 0.004]
    clip_predictions: true
    provide_series: [anomaly_score, y]
  weekly:
    class: prophet
    queries: [orders, checkout_latency]
    scale: [1.4, 0.8]
    detection_direction: below_expected
    anomaly_score_outside_data_range: 1.5
    min_rel_dev_from_expected: 15
    tz_aware: true
    args:
      interval_width: 0.99
      country_holidays: ES
reader:
  class: vm
  datasource_url: "http://metrics:8428/"
  sampling_period: "1m"
  tz: Europe/Madrid
  data_range: [0, inf]
  queries:
    share_of_5xx:
      expr: sum(rate(http_requests_total{code=~"5.."}[5m])) / sum(rate(http_requests_total[5m]))
      data_range: [0, 0.03]
      step: 30s
    checkout_latency:
      expr: 'histogram_quantile(0.95, sum by (le) (rate(checkout_seconds_bucket{job="shop", env!="test"}[5m])))'
      min_rel_dev_from_expected: [0, 25]
      tz: America/Bogota
    orders: 'sum(rate(orders_placed_total{job="shop"}[5m])) > 0'
writer:
  class: vm
  datasource_url: "http://metrics:8428"
  metric_format:
    __name__: "$VAR"
    for: "$QUERY_KEY"
monitoring:
  pull: {addr: "0.0.0.0", port: 8490}
  push: {url: "http://metrics:8428", push_frequency: 15m}
"""


def config(imported: Imported) -> dict[str, Any]:
    """The configuration, seen to be one that we read."""
    tree: dict[str, Any] = yaml.safe_load(imported.config_yaml)
    policies = tree["policies"]
    for policy in policies:
        PolicyConfig(**policy)
    rest = {key: value for key, value in tree.items() if key != "policies"}
    parse(yaml.safe_dump(rest))
    return tree


def policies(text: str) -> dict[str, dict[str, Any]]:
    return {policy["name"]: policy for policy in config(import_vmanomaly(text))["policies"]}


def one(query: str, **sections: str) -> str:
    """A file with the query q, and other sections."""
    return "\n".join([f"reader: {{queries: {{q: {query}}}}}", *(f"{key}: {value}" for key, value in sections.items())])


def test_a_whole_file_becomes_a_configuration() -> None:
    tree = config(import_vmanomaly(SHOP))
    assert tree["api"] == {"endpoint": ":8490", "access": {}}
    assert tree["exporters"] == {"otlp": {"endpoint": "http://metrics:8428/opentelemetry", "protocol": "http"}}
    assert tree["emit"] == {"series": "all", "compat": "vmanomaly", "expected": True}
    share, latency, orders = tree["policies"]
    assert share == {
        "name": "share_of_5xx",
        "match": {"name": "share_of_5xx"},  # a quotient of two metrics is no series of ours
        "data_range": [0.0, 0.03],
        "detection_direction": "above_expected",
        "min_dev_from_expected": [0.0, 0.004],
        "clip_predictions": True,
        "anomaly_score_outside_data_range": 3.0,
        "tz": "Europe/Madrid",
    }
    assert latency == {
        "name": "checkout_latency",
        "match": {"name": "checkout_seconds", "service": "shop", "env": "~(?!(?:test)$).*", "stat": "p95"},
        "data_range": [0.0, math.inf],
        "detection_direction": "above_expected",
        "min_dev_from_expected": [0.0, 0.004],
        "min_rel_dev_from_expected": [0.0, 0.25],
        "scale": [1.4, 0.8],
        "clip_predictions": True,
        "anomaly_score_outside_data_range": 1.5,
        "tz": "America/Bogota",
    }
    assert orders == {
        "name": "orders",
        "match": {"name": "orders_placed_total", "service": "shop"},
        "data_range": [0.0, math.inf],
        "detection_direction": "below_expected",
        "min_rel_dev_from_expected": 0.15,
        "scale": [1.4, 0.8],
        "anomaly_score_outside_data_range": 1.5,
        "tz": "Europe/Madrid",
    }


def test_every_key_is_taken_or_noted() -> None:
    notes = import_vmanomaly(SHOP).notes
    assert sorted(note.split(": ")[0] for note in notes) == sorted(
        [
            "settings.n_workers",
            "settings.restore_state",
            *(f"schedulers.every_minute.{key}" for key in ("class", "infer_every", "fit_every", "fit_window")),
            *(f"schedulers.every_minute.{key}" for key in ("start_from", "tz")),
            *(f"models.spikes.{key}" for key in ("class", "z_threshold", "decay")),
            *(f"models.weekly.{key}" for key in ("class", "tz_aware", "args", "detection_direction")),
            *(f"reader.{key}" for key in ("class", "datasource_url", "sampling_period")),
            "reader.queries.share_of_5xx.step",
            "reader.queries.share_of_5xx.expr",
            "reader.queries.checkout_latency.expr",
            "reader.queries.orders.expr",
            "writer.metric_format",
            "monitoring.pull",
            "monitoring.push",
        ]
    )
    told = dict(note.split(": ", 1) for note in notes)
    assert told["models.weekly.detection_direction"].startswith(
        "models.spikes.detection_direction holds for the query checkout_latency"
    )
    assert "record it as a metric named share_of_5xx" in told["reader.queries.share_of_5xx.expr"]
    assert "data_range and min_dev_from_expected" in told["reader.queries.checkout_latency.expr"]
    assert told["schedulers.every_minute.tz"] == "has no counterpart and is not taken over"
    assert "backfill" in told["reader.datasource_url"] and "--window" in told["schedulers.every_minute.fit_window"]


def test_keys_that_nobody_knows_are_noted_one_by_one() -> None:
    text = one("{expr: up, min_dev_from_expected: 1, colour: red}", licence="{file: /x}", extra="[1]")
    assert import_vmanomaly(text).notes == [
        "reader.queries.q.colour: has no counterpart and is not taken over",
        "licence.file: has no counterpart and is not taken over",
        "extra: has no counterpart and is not taken over",
    ]


def test_old_forms_are_read_as_vmanomaly_reads_them() -> None:
    old = one("avg(queue_depth)", model="{class: zscore, min_dev_from_expected: 4}", scheduler="{infer_every: 1m}")
    imported = import_vmanomaly(old)
    (policy,) = config(imported)["policies"]
    assert policy == {"name": "q", "match": {"name": "queue_depth"}, "min_dev_from_expected": 4.0}
    assert any(note.startswith("models.default_model.class") for note in imported.notes)
    assert any(note.startswith("schedulers.default_scheduler.infer_every") for note in imported.notes)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("data_range: ['-inf', 'inf']", {}),
        ("data_range: [-.inf, 7]", {"data_range": [-math.inf, 7.0]}),
        ("detection_direction: both, min_dev_from_expected: 0, min_rel_dev_from_expected: [0, 0]", {}),
        ("min_dev_from_expected: [3]", {"min_dev_from_expected": 3.0}),
        ("min_rel_dev_from_expected: [10, 40]", {"min_rel_dev_from_expected": [0.1, 0.4]}),
        ("tz: UTC", {}),
        ("tz: Asia/Tokyo", {"tz": "Asia/Tokyo"}),
    ],
)
def test_values_mean_the_same(keys: str, expected: dict[str, Any]) -> None:
    found = policies(one(f"{{expr: up, {keys}}}"))
    assert {k: v for k, v in found.get("q", {}).items() if k not in ("name", "match")} == expected


def test_a_query_that_sets_nothing_needs_no_policy() -> None:
    imported = import_vmanomaly(one("{expr: up}", models="{m: {scale: [1, 1], clip_predictions: false}}"))
    assert config(imported)["policies"] == []
    assert imported.notes == ["reader.queries.q: its series are scored like all others and need no policy"]


def test_what_would_change_its_meaning_is_told() -> None:
    text = one(
        "{expr: up, data_range: [0, 1], min_rel_dev_from_expected: 0.5}",
        settings="{anomaly_score_outside_data_range: 0}",
    )
    imported = import_vmanomaly(text)
    (policy,) = config(imported)["policies"]
    assert policy["min_rel_dev_from_expected"] == 0.005
    assert "anomaly_score_outside_data_range" not in policy
    assert [note.split(": ")[0] for note in imported.notes] == [
        "reader.queries.q.min_rel_dev_from_expected",
        "settings.anomaly_score_outside_data_range",
    ]


def test_variables_of_the_environment_stay_variables() -> None:
    text = one("{expr: up}", writer="\n  datasource_url: %{VM_URL}\n  password: %{VM_PASSWORD}")
    imported = import_vmanomaly(text)
    assert yaml.safe_load(imported.config_yaml)["exporters"]["otlp"]["endpoint"] == "${env:VM_URL}/opentelemetry"
    assert any(note.startswith("writer.password: set `exporters.otlp.headers`") for note in imported.notes)
    assert "VM_PASSWORD" not in imported.config_yaml


@pytest.mark.parametrize(
    "writer", ['{datasource_url: "http://me:secret@vm:8428"}', '{datasource_url: "http://vm:8480", tenant_id: "0:1"}']
)
def test_a_writer_that_needs_more_than_a_url_is_left_to_the_operator(writer: str) -> None:
    imported = import_vmanomaly(one("{expr: up}", writer=writer))
    assert "exporters" not in config(imported)
    assert any(note.startswith("writer.datasource_url: ") for note in imported.notes)
    assert "secret" not in "".join(imported.notes)


def test_metrics_of_the_service_itself_are_listened_for_where_they_were() -> None:
    assert config(import_vmanomaly(one("up", monitoring="{pull: {addr: 127.0.0.1}}")))["api"] == {
        "endpoint": "127.0.0.1:8080"
    }


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("a: [", "", "not valid YAML"),
        ("- a", "", "expected a mapping of keys, got ['a']"),
        ("reader: {queries: [up]}", "reader.queries", "expected a mapping of keys, got ['up']"),
        ("reader: {queries: {q: 5}}", "reader.queries.q", "expected a mapping of keys, got 5"),
        ("reader: {queries: {q: {step: 1m, tz: Asia/Tokyo}}}", "reader.queries.q.expr", "expected an expression"),
        (one("up", models="[zscore]"), "models", "expected a mapping of keys"),
        (one("up", models="{m: zscore}"), "models.m", "expected a mapping of keys, got 'zscore'"),
        (one("up", models="{m: {queries: [p]}}"), "models.m.queries", "expected names of ['q'], got 'p'"),
        (one("{expr: up, data_range: [5, 1]}"), "reader.queries.q.data_range", "expected [low, high], got [5.0, 1.0]"),
        (one("{expr: up, data_range: [0, big]}"), "reader.queries.q.data_range", "expected a number, got 'big'"),
        (one("{expr: up, tz: Madrid}"), "reader.queries.q.tz", "expected a time zone"),
        (one("up", models="{m: {scale: [0, 1]}}"), "models.m.scale", "must be > 0, got [0.0, 1.0]"),
        (one("up", models="{m: {min_dev_from_expected: true}}"), "models.m.min_dev_from_expected", "expected a number"),
        (one("up", models="{m: {detection_direction: up}}"), "models.m.detection_direction", "expected both, above"),
        (
            one("up", models="{m: {min_rel_dev_from_expected: 5000}}"),
            "models.m.min_rel_dev_from_expected",
            "must be >= 0 and <= 10",
        ),
        (one("up", monitoring="{pull: {port: http}}"), "monitoring.pull.port", "expected a port, got 'http'"),
    ],
)
def test_what_is_wrong_is_named(text: str, path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        import_vmanomaly(text)
    assert caught.value.path == path
    assert message in caught.value.message


# -- expressions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "shape", "matches"),
    [
        ("up", "series", [{"name": "up"}]),
        ("rate(node_cpu_seconds_total[5m])", "series", [{"name": "node_cpu_seconds_total"}]),
        ('avg(rate(x_total{mode="idle"}[5m])) by (cpu, mode)', "aggregate", [{"name": "x_total", "mode": "idle"}]),
        ("sum without (pod) (x) > 0", "aggregate", [{"name": "x"}]),
        ("max(x) by (host) unless on (host) max(x)", "aggregate", [{"name": "x"}]),
        ("x offset 1w", "series", [{"name": "x"}]),
        ("x @ end()", "computed", [{"name": "x"}]),
        ("100 * x", "computed", [{"name": "x"}]),
        ("x == bool 1", "computed", [{"name": "x"}]),
        ("rand() + 1.5e3", "computed", []),
        ("a / on(job) group_left(team) b", "computed", [{"name": "a"}, {"name": "b"}]),
        ("increase(x_total[1h30m])", "computed", [{"name": "x_total"}]),
        ('{__name__="x", instance="h:1"}', "series", [{"name": "x", "service.instance.id": "h:1"}]),
        ("{env=`a\"b`, path='c\\'d'}", "series", [{"env": 'a"b', "path": "c'd"}]),
        ('x{a=~"b|c", d!~"e|f",}', "series", [{"name": "x", "a": "~b|c", "d": "~(?!(?:e|f)$).*"}]),
        ('x{a="~b"}', "series", [{"name": "x", "a": "~\\~b"}]),
        ('x{"http.route"="/"} # why', "series", [{"name": "x", "http.route": "/"}]),
        ('histogram_quantile(0.999, rate(d_bucket{le!="x"}[5m]))', "series", [{"name": "d", "stat": "p99.9"}]),
        ('histogram_quantile(0.5, {a="b"})', "series", [{"a": "b", "stat": "p50"}]),
        ("job:x:sum > 0 and job:x:sum < 10", "series", [{"name": "job:x:sum"}]),
    ],
)
def test_an_expression_names_its_series(expression: str, shape: str, matches: list[dict[str, str]]) -> None:
    reading = promql.read(expression)
    assert (reading.shape, [dict(match) for match in reading.matches]) == (shape, matches)


@pytest.mark.parametrize("expression", ["x{a=1}", 'x{a="b" or c="d"}', "WITH (f = x) f", 'x{a="b"', "x ; y"])
def test_an_expression_that_cannot_be_read_is_said_so(expression: str) -> None:
    with pytest.raises(BadInput):
        promql.read(expression)
    imported = import_vmanomaly(
        yaml.safe_dump({"reader": {"queries": {"q": {"expr": expression, "tz": "Asia/Tokyo"}}}})
    )
    assert config(imported)["policies"][0]["match"] == {"name": "q"}
    assert any("cannot be read" in note for note in imported.notes)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ax1.{}[]()\"'`~=!<>,:+-*/ \n\\#@_", max_size=40) | st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        reading = promql.read(text)
    except BadInput:
        return
    assert reading.shape == "computed" or len(reading.matches) == 1


# -- promql-anomaly-detection -----------------------------------------------------------------------------------------

RULES = """
groups:
  - name: Marked
    rules:
      - record: anomaly:request:rate5m
        expr: sum(rate(shop_requests_total{kind="server"}[5m])) by (job)
        labels: {anomaly_name: shop_requests, anomaly_type: requests}
      - record: anomaly:request:p95
        expr: histogram_quantile(0.95, sum by (job, le) (rate(shop_seconds_bucket[5m])))
        labels: {anomaly_name: shop_latency, anomaly_type: latency, anomaly_strategy: robust}
      - record: anomaly:request:p95
        expr: histogram_quantile(0.95, sum by (job, le) (rate(shop_seconds_bucket[5m])))
        labels: {anomaly_name: shop_latency, anomaly_type: latency, anomaly_strategy: adaptive}
      - record: job:up:sum
        expr: sum by (job) (up)
"""
CONSTANTS = """
  - name: Constants
    rules:
      - {record: "anomaly:adaptive:sparse_threshold", expr: 3/60}
      - {record: "anomaly:robust:margin_multiplier", expr: 0.4}
      - {record: "anomaly:adaptive:avg_1h", expr: "avg_over_time(anomaly:adaptive:select[1h])"}
      - {alert: AnomalyDetected, for: 5m, expr: "anomaly:level > anomaly:upper_band"}
"""


def test_marked_rules_become_policies_with_the_margins_of_the_framework() -> None:
    tree = config(from_promql_rules(RULES))
    assert tree["emit"] == {"compat": "promql_anomaly"}
    requests, latency = tree["policies"]
    assert requests == {
        "name": "shop_requests",
        "match": {"anomaly_name": "shop_requests"},
        "min_rel_dev_from_expected": 0.5,
        "min_volume": 0.083333,
    }
    assert latency == {
        "name": "shop_latency",
        "match": {"anomaly_name": "shop_latency"},
        "min_rel_dev_from_expected": 0.5,
    }


def test_constants_of_the_framework_hold_where_the_text_has_them() -> None:
    requests, latency = config(from_promql_rules(RULES + CONSTANTS))["policies"]
    assert requests["min_volume"] == 0.05
    assert latency["min_rel_dev_from_expected"] == 0.4


def test_every_rule_is_a_policy_or_noted() -> None:
    notes = from_promql_rules(RULES + CONSTANTS + "interval: 1m").notes
    assert notes == [
        "interval: has no counterpart and is not taken over",
        "groups.0.rules.0: send anomaly:request:rate5m here with its labels, for the policy matches anomaly_name "
        "shop_requests, or match the metric that it is made of (shop_requests_total)",
        "groups.0.rules.1: send anomaly:request:p95 here with its labels, for the policy matches anomaly_name "
        "shop_latency, or match the metric that it is made of (shop_seconds)",
        "groups.0.rules.2: shop_latency has a policy already; there is one strategy here, not several",
        "groups.0.rules.3: job:up:sum has no label anomaly_name and is not taken over",
        "groups.1.rules.0: anomaly:adaptive:sparse_threshold holds in the policies of its strategy",
        "groups.1.rules.1: anomaly:robust:margin_multiplier holds in the policies of its strategy",
        "groups.1.rules.2: anomaly:adaptive:avg_1h is not needed: bands are learned here",
        "groups.1.rules.3: the alert AnomalyDetected is not taken over: alert on the emitted score instead",
    ]


def test_a_rule_whose_expression_cannot_be_read_still_has_its_policy() -> None:
    text = "groups: [{rules: [{record: a, expr: 'x{', labels: {anomaly_name: n}}]}]"
    imported = from_promql_rules(text)
    assert [policy["name"] for policy in config(imported)["policies"]] == ["n"]
    assert imported.notes == ["groups.0.rules.0: send a here with its labels, for the policy matches anomaly_name n"]


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("rules: []", "groups", "expected a list of rule groups, got None"),
        ("groups: [{name: a}]", "groups.0.rules", "expected a list of rules, got None"),
        ("groups: [5]", "groups.0.rules", "expected a list of rules, got None"),
        ("groups: [{rules: [{expr: x}]}]", "groups.0.rules.0", "expected a rule with record or alert"),
        ("groups: [{rules: [{record: x, labels: [a]}]}]", "groups.0.rules.0.labels", "expected labels, got ['a']"),
    ],
)
def test_rules_that_are_none_are_named(text: str, path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_promql_rules(text)
    assert caught.value.path == path
    assert message in caught.value.message
