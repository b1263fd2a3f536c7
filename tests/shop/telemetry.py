"""Telemetry of the live shop, parsed with the protobuf classes into plain columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from otel_aiops.shop import LiveShop

Value = str | int


@dataclass(slots=True)
class One:
    """A span."""

    resource: dict[str, Value]
    trace: bytes
    span: bytes
    parent: bytes
    name: str
    kind: int
    start_ns: int
    end_ns: int
    about: dict[str, Value]
    status: int
    events: list[str]
    children: list[One] = field(default_factory=list)

    @property
    def service(self) -> str:
        return str(self.resource["service.name"])

    @property
    def exclusive_s(self) -> float:
        """Time that no child covers."""
        covered, until = 0, self.start_ns
        for child in sorted(self.children, key=lambda child: child.start_ns):
            begin, end = max(child.start_ns, until), min(child.end_ns, self.end_ns)
            covered += max(0, end - begin)
            until = max(until, end)
        return (self.end_ns - self.start_ns - covered) / 1e9


@dataclass(slots=True)
class Heard:
    """Everything that a shop said in some steps."""

    spans: list[One] = field(default_factory=list)
    logs: list[tuple[dict[str, Value], str, int, bytes, bytes, int]] = field(default_factory=list)
    points: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def named(self, service: str, name: str, *, kind: int | None = None) -> list[One]:
        return [s for s in self.spans if s.service == service and s.name == name and kind in (None, s.kind)]


def listen(shop: LiveShop, steps: Iterable[int]) -> Heard:
    """What the shop says, with the spans put together to trees."""
    heard = Heard()
    for step in steps:
        metrics, traces, logs = shop.requests(step)
        _traces(ExportTraceServiceRequest.FromString(traces), heard)
        _logs(ExportLogsServiceRequest.FromString(logs), heard)
        _metrics(ExportMetricsServiceRequest.FromString(metrics), heard)
    spans = {(one.trace, one.span): one for one in heard.spans}
    for one in heard.spans:
        if (parent := spans.get((one.trace, one.parent))) is not None:
            parent.children.append(one)
    return heard


def _traces(request: ExportTraceServiceRequest, heard: Heard) -> None:
    for group in request.resource_spans:
        resource = _about(group.resource.attributes)
        for scope in group.scope_spans:
            for s in scope.spans:
                ids = (s.trace_id, s.span_id, s.parent_span_id)
                times = (s.start_time_unix_nano, s.end_time_unix_nano)
                events = [event.name for event in s.events]
                one = One(resource, *ids, s.name, s.kind, *times, _about(s.attributes), s.status.code, events)
                heard.spans.append(one)


def _logs(request: ExportLogsServiceRequest, heard: Heard) -> None:
    for group in request.resource_logs:
        resource = _about(group.resource.attributes)
        for scope in group.scope_logs:
            for r in scope.log_records:
                line = (r.body.string_value, r.severity_number, r.trace_id, r.span_id, r.time_unix_nano)
                heard.logs.append((resource, *line))


def _metrics(request: ExportMetricsServiceRequest, heard: Heard) -> None:
    for group in request.resource_metrics:
        resource = _about(group.resource.attributes)
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                for point in metric.gauge.data_points:
                    about = ",".join(str(value) for value in _about(point.attributes).values())
                    key = (str(resource.get("k8s.pod.name", resource["service.name"])), metric.name, about)
                    heard.points[key].append(getattr(point, point.WhichOneof("value")))


def _about(attributes: Iterable[KeyValue]) -> dict[str, Value]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}
