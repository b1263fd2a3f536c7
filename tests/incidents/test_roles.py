"""What metric series say about a service, by general conventions only."""

from __future__ import annotations

import pytest

from otel_aiops.incidents.roles import CALLING_WEIGHT, HOST_WEIGHT, Meaning, Role, meaning
from otel_aiops.labels import Attributes, Labels

CART: Attributes = (("k8s.pod.name", "cart-1"), ("service.name", "cart"))


def role(name: str, unit: str = "", kind: str = "gauge", stat: str = "", **attributes: str) -> Role | None:
    found = of(name, unit, kind, stat, **attributes)
    return found.role if found else None


def of(name: str, unit: str = "", kind: str = "gauge", stat: str = "", **attributes: str) -> Meaning | None:
    pairs = tuple(sorted((key.replace("__", "."), value) for key, value in attributes.items()))
    return meaning(Labels(name, unit, kind, stat, CART, attributes=pairs))


@pytest.mark.parametrize(
    ("name", "unit", "kind", "stat"),
    [
        ("k8s.pod.cpu.limit_utilization", "", "gauge", ""),
        ("process.cpu.utilization", "1", "gauge", ""),
        ("container.cpu.time", "s", "sum", "rate"),
        ("container_memory_working_set_bytes", "", "gauge", ""),
        ("jvm.memory.used", "By", "sum", ""),
        ("jvm.gc.duration", "s", "histogram", "p95"),
        ("jvm.thread.count", "{thread}", "sum", ""),
        ("db.client.connection.pending_requests", "{request}", "sum", ""),
        ("db.client.connection.wait_time", "s", "histogram", "p95"),
        ("kafka.consumer_group.lag", "1", "gauge", ""),
        ("system.filesystem.utilization", "1", "gauge", ""),
        ("nodejs.eventloop.utilization", "1", "gauge", ""),
        ("process.open_file_descriptor.count", "", "sum", ""),
        ("cpu_percent", "", "gauge", ""),
    ],
)
def test_what_is_limited_and_in_use_is_a_resource(name: str, unit: str, kind: str, stat: str) -> None:
    assert role(name, unit, kind, stat) is Role.RESOURCE


@pytest.mark.parametrize(
    ("name", "unit", "kind", "stat"),
    [
        ("k8s.pod.memory.available", "By", "gauge", ""),
        ("node_filesystem_avail_bytes", "", "gauge", ""),
        ("jvm.memory.limit", "By", "sum", ""),
        ("db.client.connection.max", "", "sum", ""),
        ("otelcol_exporter_queue_capacity", "", "gauge", ""),
        ("container.memory.page_faults", "", "sum", "rate"),
        ("system.network.io", "By", "sum", "rate"),
        ("process.uptime", "s", "gauge", ""),
        ("cache.hit.ratio", "1", "gauge", ""),
        ("http.server.request.body.size", "By", "histogram", "mean"),
        ("weather.temperature", "Cel", "gauge", ""),
        ("...", "", "gauge", ""),
    ],
)
def test_limits_what_is_free_and_everything_else_have_no_role(name: str, unit: str, kind: str, stat: str) -> None:
    assert role(name, unit, kind, stat) is None


def test_time_that_is_idle_or_memory_that_is_only_cached_is_not_in_use() -> None:
    assert role("system.cpu.utilization", "1", cpu__mode="idle") is None
    assert role("system.cpu.utilization", "1", cpu__mode="user") is Role.RESOURCE
    assert role("system.memory.usage", "By", "sum", state="cached") is None
    assert role("db.client.connection.count", "", "sum", state="idle") is None


def test_a_histogram_of_durations_is_latency_and_traffic_and_its_failed_part_errors() -> None:
    name = "http.server.request.duration"
    assert role(name, "s", "histogram", "p95") is Role.LATENCY
    assert role(name, "s", "histogram", "rate") is Role.THROUGHPUT
    assert role(name, "s", "histogram", "rate", error__type="500") is Role.ERRORS
    assert role(name, "s", "histogram", "rate", http__response__status_code="503") is Role.ERRORS
    assert role(name, "s", "histogram", "p95", error__type="500") not in (Role.LATENCY, Role.ERRORS)
    assert role("requests_duration_sum", "s", "sum", "rate") is not Role.LATENCY


def test_units_come_from_the_unit_or_the_name() -> None:
    for name, unit, floor in (
        ("latency", "s", 0.001),
        ("latency", "", 0.001),
        ("latency", "ms", 1.0),
        ("latency_ms", "", 1.0),
        ("latency", "us", 1000.0),
    ):
        found = of(name, unit)
        assert found is not None and found.role is Role.LATENCY
        assert found.floor == pytest.approx(floor), (name, unit)
        assert (found.relative, found.up) == (0.1, True)


def test_shares_have_floors_in_points() -> None:
    for name, unit, floor, share in (
        ("process.cpu.utilization", "1", 0.02, True),
        ("process.cpu.utilization", "%", 2.0, False),
        ("process.cpu.utilization", "", 0.02, True),
        ("process.memory.utilization", "1", 0.01, True),
    ):
        found = of(name, unit)
        assert found is not None and found.share == share
        assert found.floor == pytest.approx(floor)


def test_availability_is_bad_when_low() -> None:
    found = of("availability", "%")
    assert found is not None and found.role is Role.AVAILABILITY and not found.up and found.floor == 1.0
    assert role("app.success.rate", "1") is Role.AVAILABILITY
    assert role("success.count", "", "sum", "rate") is not Role.AVAILABILITY


def test_errors_counted_or_as_a_share() -> None:
    assert role("errors") is Role.ERRORS
    counted, share = of("http.failures", "", "sum", "rate"), of("error_rate", "1")
    assert counted is not None and counted.floor == 0.1
    assert share is not None and share.floor == 0.01
    assert role("errors", "", "histogram", "p95") is not Role.ERRORS


def test_calls_of_the_service_graph_have_two_sides_with_one_name() -> None:
    sides = [
        meaning(Labels(f"traces_service_graph_request_{side}{suffix}", unit, kind, stat, attributes=ends))
        for ends in [(("client", "shop"), ("server", "cart"))]
        for suffix, unit, kind, stat in (("_seconds.p50", "", "gauge", ""), ("", "s", "histogram", "p95"))
        for side in ("client", "server")
    ]
    roles = [side.role if side else None for side in sides]
    assert roles == [Role.CLIENT, Role.SERVER, Role.CLIENT, Role.SERVER]
    names = [side.what for side in sides if side]
    assert names[0] == names[1] != names[2] == names[3]
    assert all(side and (side.caller, side.callee, side.service) == ("shop", "cart", "cart") for side in sides)


def test_counts_of_calls_are_traffic_or_errors_and_say_who_is_outside() -> None:
    ends: Attributes = (("client", "shop"), ("connection_type", "virtual_node"), ("server", "bank"))
    total = meaning(Labels("traces_service_graph_request_total", kind="sum", stat="rate", attributes=ends))
    failed = meaning(Labels("traces_service_graph_request_failed_total", kind="sum", stat="rate", attributes=ends))
    assert total is not None and total.role is Role.THROUGHPUT and total.outside
    assert failed is not None and failed.role is Role.ERRORS and failed.service == "bank"
    rate = Labels("traces_service_graph_request_client", "s", "histogram", "rate", attributes=ends)
    assert meaning(rate) is None


def test_what_others_may_be_the_reason_for_weighs_less() -> None:
    calling = of("http.client.request.duration", "s", "histogram", "p95", server__address="bank")
    assert calling is not None and (calling.weight, calling.callee) == (CALLING_WEIGHT, "bank")
    host = of("k8s.node.cpu.utilization", "1")
    assert host is not None and host.weight == HOST_WEIGHT


def test_a_series_of_nobody_has_no_role() -> None:
    assert meaning(Labels("process.cpu.utilization", "1")) is None


def test_the_service_may_be_named_by_the_point_and_the_instance_by_the_resource() -> None:
    spans = meaning(Labels("latency", "s", attributes=(("service.name", "pay"), ("span.name", "charge"))))
    assert spans is not None and spans.service == "pay" and "charge" in spans.what
    pod = of("latency", "s")
    assert pod is not None and pod.resource == "cart-1"
