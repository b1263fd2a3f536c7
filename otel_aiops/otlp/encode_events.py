"""Events to an OTLP logs request: log records with an event name, under our own resource and scope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from otel_aiops import __version__
from otel_aiops.labels import Attributes
from otel_aiops.otlp.encode import Request, key_values
from otel_aiops.otlp.semconv import SCOPE_NAME, SERVICE, SERVICE_NAME
from otel_aiops.otlp.signal import Signal

SEVERITY_TEXT = {9: "INFO", 13: "WARN", 17: "ERROR"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened. `severity` is a SeverityNumber of OTLP: 9 info, 13 warn, 17 error."""

    name: str
    time_ns: int
    severity: int
    body: str
    attributes: Attributes


def encode_events(events: Sequence[Event], *, observed_ns: int) -> Request:
    """One request with all of them."""
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    group.resource.attributes.extend(key_values(((SERVICE, SERVICE_NAME), ("service.version", __version__))))
    scope = group.scope_logs.add()
    scope.scope.name, scope.scope.version = SCOPE_NAME, __version__
    for event in events:
        scope.log_records.add(
            event_name=event.name,
            time_unix_nano=event.time_ns,
            observed_time_unix_nano=observed_ns,
            severity_number=event.severity,
            severity_text=SEVERITY_TEXT[event.severity],
            body=AnyValue(string_value=event.body.encode("utf-8", "replace").decode()),
            attributes=key_values(event.attributes),
        )
    return Request(request.SerializeToString(), len(events), Signal.LOGS)
