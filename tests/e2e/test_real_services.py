"""Really instrumented services, a real database, a real Collector: what they send arrives whole, causes are found."""

from __future__ import annotations

import gzip
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_aiops.series.records import Compression, Received, RecordKind, read_log
from tests.e2e.real_shop import NAMES, Shop
from tests.servers import wait_for

pytestmark = [pytest.mark.servers, pytest.mark.slow]

WARM_UP_S = 120.0  # of load before the first fault, of which the first seconds are cold
# Faults come soon after each other here, and are not to be one incident.
CONFIG = """
incidents:
  alarm: {warmup: 60s}
  behaviour: {settle: 30}
  grouping: {group: {join: 5, among: 5, calm: 45, reopen: 5}}
"""
DETECTED_S = 150.0  # after the fault begins, also on a machine that has other work
RANKED_S = 90.0  # after it is detected: suspects are ranked again as evidence grows
RESOLVED_S = 400.0  # after the fault ends
OVER = ("resolved", "merged", "expired", "predicted")
SERVER, CLIENT = 2, 3  # of Span.kind
PLACED = ["orders", "basket", "stock"]  # whom an order goes through, in this order


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with Shop(tmp_path_factory.mktemp("shop"), CONFIG) as found:
        yield found


@dataclass(slots=True)
class Told:
    """What otel-aiops was told, out of its write-ahead log: span id, span, service; service, record; service, names."""

    spans: dict[bytes, tuple[str, Any]] = field(default_factory=dict)
    logs: list[tuple[str, Any]] = field(default_factory=list)
    metrics: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def of(self, service: str, kind: int) -> list[Any]:
        return [span for name, span in self.spans.values() if name == service and span.kind == kind]

    def callers(self, span: Any) -> list[str]:
        """The services from a span up to its root, each once."""
        service, _ = self.spans[span.span_id]
        services = [service]
        while span.parent_span_id in self.spans:
            service, span = self.spans[span.parent_span_id]
            if service != services[-1]:
                services.append(service)
        return services if not span.parent_span_id else []


def told(data: Path) -> Told:
    found = Told()
    group: Any
    for record in read_log(data / "wal", after=0, through=1 << 60):
        body = unpacked(record.received)
        if record.received.kind == RecordKind.TRACES:
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                spans = (span for scope in group.scope_spans for span in scope.spans)
                found.spans.update({span.span_id: (service_name(group), span) for span in spans})
        elif record.received.kind == RecordKind.LOGS:
            for group in ExportLogsServiceRequest.FromString(body).resource_logs:
                found.logs += [(service_name(group), log) for scope in group.scope_logs for log in scope.log_records]
        elif record.received.kind == RecordKind.METRICS:
            for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                names = {metric.name for scope in group.scope_metrics for metric in scope.metrics}
                found.metrics[service_name(group)] |= names
    return found


def unpacked(received: Received) -> bytes:
    return gzip.decompress(received.body) if received.compression == Compression.GZIP else received.body


def attributes(message: Any) -> dict[str, Any]:
    pairs = ((pair.key, pair.value, pair.value.WhichOneof("value")) for pair in message.attributes)
    return {key: getattr(value, kind) if kind else None for key, value, kind in pairs}


def service_name(group: Any) -> str:
    return str(attributes(group.resource).get("service.name", ""))


@pytest.fixture(scope="module")
def first(shop: Shop) -> Told:
    """What had come when every service had sent each signal, and some seconds of load more."""

    def complete() -> Told | None:
        now = told(shop.aiops.data)
        services = {name for name, _ in now.spans.values()}, {name for name, _ in now.logs}, set(now.metrics)
        return now if all(one == set(NAMES) for one in services) and len(now.spans) > 2000 else None

    found: Told = wait_for(complete, "all three signals of all three services", every_s=1.0)
    return found


def test_every_service_says_how_it_is(first: Told) -> None:
    common = {"process.cpu.utilization", "process.memory.usage", "http.server.request.duration"}
    for service in ("orders", "stock"):
        assert common | {"process.thread.count", "db.client.operation.duration"} <= first.metrics[service]
    assert common | {"nodejs.eventloop.utilization"} <= first.metrics["basket"]


def test_traces_go_through_python_node_and_python(first: Told) -> None:
    entered = first.of("stock", SERVER)
    complete = [callers for span in entered if (callers := first.callers(span))]
    assert len(complete) > 0.8 * len(entered) > 50, "the callers of the newest may not have come yet"
    assert {tuple(callers) for callers in complete} == {tuple(reversed(PLACED))}
    for span in entered:
        if span.parent_span_id in first.spans:
            service, parent = first.spans[span.parent_span_id]
            assert (service, parent.kind, parent.trace_id) == ("basket", CLIENT, span.trace_id)
            assert parent.start_time_unix_nano <= span.start_time_unix_nano


@pytest.mark.parametrize(("service", "words"), [("orders", {"INSERT", "SELECT"}), ("stock", {"SELECT"})])
def test_calls_of_the_database_say_that_they_are(first: Told, service: str, words: set[str]) -> None:
    calls = [has for span in first.of(service, CLIENT) if (has := attributes(span)).get("db.system.name")]
    assert {(has["db.system.name"], has["db.namespace"]) for has in calls} == {("postgresql", "shop")}
    assert {has["db.query.text"].split()[0] for has in calls} == words
    assert all("sku-" not in has["db.query.text"] for has in calls), "parameters are not in the text"


def test_logs_say_in_which_span(first: Told) -> None:
    for service in NAMES:
        within = [log for name, log in first.logs if name == service and log.trace_id]
        known = [log for log in within if log.span_id in first.spans]
        assert len(known) > 0.8 * len(within) > 50
        for log in known:
            where, span = first.spans[log.span_id]
            assert (where, span.trace_id) == (service, log.trace_id)
    severities = Counter(log.severity_text.upper() for _, log in first.logs)
    assert severities["INFO"] > 0.9 * len(first.logs)


@pytest.mark.parametrize(
    ("collector", "ours"),
    [
        ("spans", "otel_aiops_receiver_accepted_spans_total"),
        ("metric_points", "otel_aiops_receiver_accepted_metric_points_total"),
        ("log_records", "otel_aiops_receiver_accepted_log_records_total"),
    ],
)
def test_nothing_is_lost_on_the_way(shop: Shop, first: Told, collector: str, ours: str) -> None:
    text = shop.collector_metrics
    received = counted(text, f"otelcol_receiver_accepted_{collector}")
    assert received > 100
    wait_for(lambda: shop.aiops.metric(ours) >= received, f"{received:.0f} {collector} at otel-aiops")
    for fate in ("exporter_send_failed", "exporter_enqueue_failed", "receiver_refused", "receiver_failed"):
        assert counted(text, f"otelcol_{fate}_{collector}") == 0
    assert shop.aiops.metric(ours.replace("accepted", "refused")) == 0


def counted(text: str, name: str) -> float:
    """The sum of a counter of the Collector over its labels."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:_total)?(?:{{.*}})? (\S+)$", text, re.M))


Suspect = dict[str, Any]


def incidents(shop: Shop) -> list[dict[str, Any]]:
    answer = requests.get(f"{shop.aiops.url}/api/v1/incidents", timeout=30)
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()["incidents"]
    return found


def lasting(shop: Shop) -> list[dict[str, Any]]:
    """The incidents that something is wrong in now."""
    return [one for one in incidents(shop) if one["state"] not in OVER]


@pytest.fixture(scope="module")
def learned(shop: Shop, first: Told) -> Shop:
    """The shop when otel-aiops has seen enough of it to know what is usual."""
    began_ns = min(span.start_time_unix_nano for _, span in first.spans.values())
    time.sleep(max(0.0, WARM_UP_S - (time.time_ns() - began_ns) / 1e9))
    return shop


@pytest.mark.timeout(900)
def test_a_healthy_shop_has_no_incident(learned: Shop) -> None:
    assert not lasting(learned)


def calls_database(suspect: Suspect) -> bool:
    """The database itself, or somebody's calls of it."""
    return "postgresql" in f"{suspect['service']} {suspect.get('edge')}"


def is_the_slow_query(suspect: Suspect) -> bool:
    """It is the stock's alone: the calls of the orders are as fast as ever."""
    return calls_database(suspect) and "orders" not in f"{suspect['service']} {suspect.get('edge')}"


def is_the_basket(suspect: Suspect) -> bool:
    return bool(suspect["service"] == "basket")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("fault", "right"),
    [("slow_query", is_the_slow_query), ("crashed_database", calls_database), ("cpu_hog", is_the_basket)],
)
def test_the_first_suspect_is_the_cause(learned: Shop, fault: str, right: Callable[[Suspect], bool]) -> None:
    """One fault after another, each when the incident of the one before is over."""
    wait_for(lambda: not lasting(learned), "the incident before to be resolved", timeout_s=RESOLVED_S, every_s=1.0)
    before = {one["id"] for one in incidents(learned)}
    suspects: list[list[str]] = []  # as they were ranked, one line for each time that this changed

    def new() -> list[dict[str, Any]]:
        return [one for one in lasting(learned) if one["id"] not in before]

    def ranked() -> bool:
        found = [suspect for one in new()[:1] for suspect in one["suspects"]]
        line = [f"{one['service']} {one.get('edge')} {one['reason']}" for one in found]
        if [line] != suspects[-1:]:
            suspects.append(line)
        return bool(found) and right(found[0]) and bool(found[0]["reason"])

    with getattr(learned, fault)():
        wait_for(new, f"an incident of the {fault}", timeout_s=DETECTED_S, every_s=0.5)
        try:
            wait_for(ranked, "the right first suspect", timeout_s=RANKED_S, every_s=0.5)
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *map(str, suspects)])) from None
        assert len(new()) == 1, "one fault is one incident"
