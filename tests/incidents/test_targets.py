"""What is worth predicting is found by names, and its limit by what both series have in common."""

from __future__ import annotations

import pytest

from otel_aiops.incidents.targets import PredictRule, limit_keys, target_of
from otel_aiops.labels import Labels, Selector

POD = (("k8s.container.name", "c"), ("k8s.pod.uid", "p"), ("service.instance.id", "i"), ("service.name", "s"))


@pytest.mark.parametrize(
    ("name", "unit", "attributes", "what", "limit"),
    [
        ("system.filesystem.utilization", "1", {}, "disk", 1.0),
        ("disk.used_percent", "", {}, "disk", 100.0),
        ("system.filesystem.usage", "By", {"state": "free"}, "disk", 0.0),
        ("node_filesystem_avail_bytes", "", {}, "disk", 0.0),
        ("k8s.pod.memory_limit_utilization", "1", {}, "memory", 1.0),
        ("system.memory.utilization", "1", {"state": "used"}, "memory", 1.0),
        ("system.linux.memory.available", "By", {}, "memory", 0.0),
        ("slo.error_budget.remaining", "1", {}, "error budget", 0.0),
        ("tlscheck.time_left", "s", {}, "certificate", 0.0),
        ("probe_ssl_earliest_cert_expiry", "", {}, "certificate", 0.0),
    ],
)
def test_limits_are_known_by_name_and_unit(
    name: str, unit: str, attributes: dict[str, str], what: str, limit: float
) -> None:
    target = target_of(Labels(name, unit=unit, attributes=tuple(attributes.items())))
    assert target is not None and (target.what, target.limit) == (what, limit)
    assert target.direction == ("below" if limit == 0 else "above")


@pytest.mark.parametrize(
    "name",
    [
        "k8s.pod.cpu.limit_utilization",
        "http.server.request.duration",
        "system.disk.io",
        "k8s.pod.memory_request_utilization",
        "db.client.connection.wait_time",
        "certificate.count",
        "error_budget.burn",
    ],
)
def test_what_cannot_run_out_is_no_target(name: str) -> None:
    assert target_of(Labels(name)) is None


@pytest.mark.parametrize(("metric", "state"), [("system.memory.usage", "cached"), ("system.memory.usage", "free")])
def test_free_and_cached_memory_are_no_signs(metric: str, state: str) -> None:
    assert target_of(Labels(metric, attributes=(("state", state),))) is None


@pytest.mark.parametrize(
    ("usage", "limit"),
    [
        ("db.client.connection.count", "db.client.connection.max"),
        ("process_open_fds", "process_max_fds"),
        ("otelcol_exporter_queue_size", "otelcol_exporter_queue_capacity"),
        ("container.memory.usage", "k8s.container.memory_limit"),
        ("container_memory_working_set_bytes", "container_spec_memory_limit_bytes"),
        ("jvm.memory.used", "jvm.memory.limit"),
        ("process.memory.usage", "k8s.container.memory_limit"),
    ],
)
def test_usage_and_limit_find_each_other(usage: str, limit: str) -> None:
    target = target_of(Labels(usage, resource=POD))
    assert target is not None and set(target.keys) & set(limit_keys(Labels(limit, resource=POD)))
    assert limit_keys(Labels(usage, resource=POD)) == () and limit_keys(Labels("cpu.limit")) == ()
    other = Labels(limit, resource=(("service.name", "t"), ("service.instance.id", "j")))
    assert not set(target.keys) & set(limit_keys(other))


def test_units_of_what_ends_by_the_clock() -> None:
    for name, unit, size in (("cert.expiry", "d", 86_400), ("cert_expiry_hours", "", 3_600), ("cert.expiry", "", 1)):
        target = target_of(Labels(name, unit=unit))
        assert target is not None and target.clock_s == size


def test_rules_come_first_and_keep_what_they_do_not_say() -> None:
    disk = Labels("system.filesystem.utilization")
    rules = [(Selector(rule.match), rule) for rule in (PredictRule({"name": disk.name}, horizon=600), PredictRule())]
    ruled, other = target_of(disk, rules), target_of(Labels("x"), rules)
    assert ruled is not None and (ruled.limit, ruled.horizon_s) == (1.0, 600)
    assert other is not None and other.limit != other.limit and other.what == "x"
    below = [(Selector({}), PredictRule(direction="below"))]
    assert target_of(Labels("x"), below).limit == 0.0  # type: ignore[union-attr]
