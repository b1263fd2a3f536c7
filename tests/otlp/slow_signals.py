"""Spans and log records read one by one from the protobuf messages: the slow twins of the decoders."""

from __future__ import annotations

import json
import re
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_aiops.labels import text as as_text
from otel_aiops.otlp.attributes import value as read_value

GRPC_SERVER_FAULTS = {2, 4, 12, 13, 14, 15}
GRPC = {"OK": 0, "CANCELLED": 1, "UNKNOWN": 2, "NOT_FOUND": 5, "UNAVAILABLE": 14}
SERVER, CLIENT, CONSUMER = 2, 3, 5
FAR = 2**63 - 1
MONTH_NS = 30 * 86_400 * 10**9


def spans(body: bytes) -> list[dict[str, Any]]:
    """All spans that can be used, as plain values."""
    out = []
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = dict(pairs(group.resource.attributes)).get("service.name")
        for scope in group.scope_spans:
            if service != "otel-aiops" and scope.scope.name != "otel_aiops":
                out += [one for span in scope.spans if (one := _span(span, service))]
    return out


def _span(span: Any, service: object) -> dict[str, Any] | None:
    start, end = span.start_time_unix_nano, span.end_time_unix_nano
    if len(span.trace_id) != 16 or not any(span.trace_id) or len(span.span_id) != 8 or not any(span.span_id):
        return None
    if max(start, end) > FAR or not (start or end):
        return None
    start, end = start or end, end or start
    if end - start > MONTH_NS:
        return None
    about = dict(pairs(span.attributes))
    events = [(one.name or None, one.time_unix_nano) for one in span.events]
    types = [text(dict(pairs(one.attributes)), "exception.type") for one in span.events if one.name == "exception"]
    kind = span.kind if 0 <= span.kind <= 5 else 0
    return {
        "service": service,
        "trace": span.trace_id,
        "span": span.span_id,
        "parent": int.from_bytes(span.parent_span_id, "big") if len(span.parent_span_id) == 8 else 0,
        "name": span.name or None,
        "kind": kind,
        "start": start,
        "end": max(start, end),
        "error": span.status.code == 2 or (span.status.code != 1 and _failed(about, kind)),
        "exception": text(about, "error.type") or next((one for one in reversed(types) if one), None),
        "peer": _peer(about, kind),
        "weight": _weight(about, span.trace_state),
        "events": [(name, time if 0 < time <= FAR else start) for name, time in events],
    }


def pairs(attributes: Any) -> list[tuple[str, Any]]:
    """Keys and values; dict() of them keeps the last of equal keys."""
    return [(one.key, read_value(one.value)) for one in attributes]


def text(about: dict[str, Any], *keys: str) -> str | None:
    """The first text."""
    return next((about[key] for key in keys if isinstance(about.get(key), str) and about[key]), None)


def number(about: dict[str, Any], *keys: str) -> float | None:
    """The first number, or whole number in text."""
    for key in keys:
        found = about.get(key)
        if isinstance(found, int | float) and found == found:
            return float(found)
        if isinstance(found, str) and re.fullmatch("[0-9]{1,15}", found, re.ASCII):
            return float(found)
    return None


def _failed(about: dict[str, Any], kind: int) -> bool:
    http = number(about, "http.response.status_code", "http.status_code")
    rpc = number(about, "rpc.response.status_code", "rpc.grpc.status_code")
    if rpc is None:
        rpc = GRPC.get((text(about, "rpc.response.status_code", "rpc.grpc.status_code") or "").upper())
    by_http = http is not None and http >= (400 if kind == CLIENT else 500)
    by_rpc = rpc is not None and (rpc > 0 if kind == CLIENT else rpc in GRPC_SERVER_FAULTS)
    return by_http or by_rpc or text(about, "error.type") is not None


def _peer(about: dict[str, Any], kind: int) -> tuple[int, str | None]:
    inbound = kind in (SERVER, CONSUMER)
    database, messaging = text(about, "db.system.name", "db.system"), text(about, "messaging.system")
    address, port = text(about, "server.address", "net.peer.name"), number(about, "server.port", "net.peer.port")
    host = address or ""
    if address and port and re.fullmatch(r"localhost|[0-9.]+", address):
        host = f"{address}:{int(port)}"
    if database and not inbound:
        namespace = text(about, "db.namespace", "db.name") or ""
        if host and (not namespace or namespace.isdigit()):
            namespace = host
        return 2, f"{database}:{namespace}" if namespace else database
    if messaging:
        keys = ("messaging.destination.template", "messaging.destination.name", "messaging.destination")
        passing = number(about, "messaging.destination.temporary", "messaging.destination.anonymous")
        where = None if passing else text(about, *keys)
        return 3, f"{messaging}:{where}" if where else messaging
    service = None if inbound else text(about, "peer.service", "service.peer.name")
    if service:
        return 1, service
    url = re.match(r"\w*://(?:[^/@]*@)?([\w.-]+)", text(about, "url.full", "http.url") or "")
    if kind == CLIENT and (host or url):
        return 1, host or url[1]  # type: ignore[index]
    return 0, None


def _weight(about: dict[str, Any], state: str) -> float:
    ours = re.search(r"(?:^|,)\s*ot=([^,]+)", state)
    parts = dict(one.split(":", 1) for one in ours[1].split(";") if ":" in one) if ours else {}
    rate, chance = number(about, "SampleRate"), number(about, "sampling.probability")
    if "th" in parts:
        found = 2**56 / (2**56 - int(parts["th"].ljust(14, "0"), 16))
    elif "p" in parts and int(parts["p"]) < 63:
        found = 2.0 ** int(parts["p"])
    elif rate is not None:
        found = rate
    elif chance:
        found = 1 / chance
    else:
        return 1.0
    return found if 1 <= found <= 1e6 else 1.0


MESSAGES = ("message", "msg", "log", "event", "MESSAGE")
LEVELS = {"trace": 1, "debug": 5, "info": 9, "info2": 10, "warn": 13, "warning": 13, "error": 17, "critical": 21}


def records(body: bytes, most_bytes: int) -> list[dict[str, Any]]:
    """All log records that can be used, as plain values."""
    out = []
    for group in ExportLogsServiceRequest.FromString(body).resource_logs:
        service = dict(pairs(group.resource.attributes)).get("service.name")
        for scope in group.scope_logs:
            if service != "otel-aiops" and scope.scope.name != "otel_aiops":
                out += [one for record in scope.log_records if (one := _record(record, service, most_bytes))]
    return out


def _record(record: Any, service: object, most_bytes: int) -> dict[str, Any] | None:
    times = record.time_unix_nano, record.observed_time_unix_nano
    if max(times) > FAR or not any(times):
        return None
    severity = record.severity_number if 0 < record.severity_number <= 24 else 0
    return {
        "service": service,
        "time": times[0] or times[1],
        "severity": severity or LEVELS.get(record.severity_text.strip().lower(), 0),
        "body": _body(record.body, most_bytes),
        "event": record.event_name or text(dict(pairs(record.attributes)), "event.name") or "",
        "trace": record.trace_id if len(record.trace_id) == 16 else bytes(16),
        "span": record.span_id if len(record.span_id) == 8 else bytes(8),
    }


def _body(body: Any, most_bytes: int) -> str:
    found = read_value(body)
    if isinstance(found, bytes):
        found = found.decode()
    if body.WhichOneof("value") == "kvlist_value":
        message = text(dict(found), *MESSAGES)
        if message is None:
            return _cut(as_text(found), most_bytes)
        found = message
    if isinstance(found, str) and found.startswith("{"):
        try:
            tree = json.loads(found)
        except ValueError:
            tree = {}
        found = text(tree, *MESSAGES) or found
    return _cut(as_text(found), most_bytes)


def _cut(body: str, most_bytes: int) -> str:
    return body.encode()[:most_bytes].decode(errors="ignore")
