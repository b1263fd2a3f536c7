"""Decoding of spans and log records: us each from bytes to columns, against the ordinary walk over the messages."""

from __future__ import annotations

import json
import random
from functools import partial
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from benchmarks.payload import RESOURCE, START_NS
from benchmarks.table import Row, best_s, show
from otel_aiops.allocator import keep_memory
from otel_aiops.otlp.decode_logs import decode_logs
from otel_aiops.otlp.decode_spans import decode_traces
from otel_aiops.otlp.json_body import json_to_protobuf

BATCH, SDK_BATCH = 8_192, 512  # what the Collector's batch processor and an SDK's exporter send
SERVICES = ("checkout", "cart", "payment", "inventory", "shipping", "frontend")
METHODS = ("GET", "POST", "PUT", "DELETE")


def traces(count: int) -> bytes:
    """Spans of traces of eight: HTTP server and client, gRPC, database and messaging, as SDKs write them."""
    encoded: bytes = _traces(count, _attributes).SerializeToString()
    return encoded


def plain_traces(count: int) -> bytes:
    """Spans without attributes, in JSON with ids in hex."""
    tree = json_format.MessageToDict(_traces(count, lambda i, chance: {}), use_integers_for_enums=True)
    for group in tree["resourceSpans"]:
        for span in group["scopeSpans"][0]["spans"]:
            span["traceId"], span["spanId"] = f"{hash_of(span['traceId']):032x}", f"{hash_of(span['spanId']):016x}"
            if "parentSpanId" in span:
                span["parentSpanId"] = f"{hash_of(span['parentSpanId']):016x}"
    return json.dumps(tree).encode()


def hash_of(text: str) -> int:
    """A number that is the same in each run."""
    return random.Random(text).getrandbits(63) + 1


def _traces(count: int, attributes: Any) -> Any:
    chance = random.Random(1)
    request = ExportTraceServiceRequest()
    scopes = []
    for service in SERVICES:
        group = request.resource_spans.add(schema_url="https://opentelemetry.io/schemas/1.37.0")
        group.resource.attributes.extend(_pairs({**RESOURCE, "service.name": service}))
        scope = group.scope_spans.add()
        scope.scope.name, scope.scope.version = "opentelemetry.instrumentation.requests", "0.58b0"
        scopes.append(scope)
    for i in range(count):
        if i % 8 == 0:
            trace, parent = chance.randbytes(16), b""
        span = scopes[i % len(scopes)].spans.add(trace_id=trace, span_id=chance.randbytes(8), parent_span_id=parent)
        parent = span.span_id
        span.name, span.kind, span.flags = f"GET /api/v1/resource{i % 40}/{{id}}", 1 + i % 5, 0x101
        span.start_time_unix_nano = START_NS + i * 1_000_000
        span.end_time_unix_nano = span.start_time_unix_nano + chance.randrange(10**8)
        span.attributes.extend(_pairs(attributes(i, chance)))
        if i % 20 == 0:
            span.status.code = 2
            event = span.events.add(name="exception", time_unix_nano=span.end_time_unix_nano)
            event.attributes.extend(_pairs({"exception.type": "TimeoutError", "exception.stacktrace": "at x\n" * 40}))
    return request


def _attributes(i: int, chance: random.Random) -> dict[str, str | int]:
    if i % 5 == 2:
        return {
            "db.system.name": "postgresql",
            "db.namespace": "orders",
            "db.operation.name": "SELECT",
            "db.query.text": "SELECT id, total, state FROM orders WHERE customer = $1 AND state = $2",
            "server.address": "orders-db.shop.svc.cluster.local",
            "server.port": 5432,
        }
    if i % 5 == 3:
        return {
            "messaging.system": "kafka",
            "messaging.destination.name": "payments",
            "messaging.operation.type": "publish",
            "messaging.kafka.message.offset": chance.randrange(10**6),
        }
    return {
        "http.request.method": METHODS[i % 4],
        "url.full": f"http://inventory.shop.svc:8080/api/v1/resource{i % 40}/{chance.getrandbits(32)}",
        "url.scheme": "http",
        "http.route": f"/api/v1/resource{i % 40}/{{id}}",
        "http.response.status_code": (200, 200, 200, 404, 500)[chance.randrange(5)],
        "server.address": "inventory.shop.svc",
        "server.port": 8080,
        "network.protocol.version": "1.1",
        "user_agent.original": "python-requests/2.32.3",
    }


def logs(count: int, *, as_json: bool = False) -> bytes:
    """Log records as an SDK's appender writes them, or with bodies in JSON as files of containers have them."""
    chance = random.Random(1)
    request = ExportLogsServiceRequest()
    for service in SERVICES:
        group = request.resource_logs.add()
        group.resource.attributes.extend(_pairs({**RESOURCE, "service.name": service}))
        scope = group.scope_logs.add()
        scope.scope.name = "com.shop.orders.OrderService"
        for i in range(count // len(SERVICES)):
            record = scope.log_records.add(time_unix_nano=START_NS + i * 1_000_000, severity_number=9)
            record.observed_time_unix_nano, record.severity_text = START_NS + i * 1_000_000, "INFO"
            record.trace_id, record.span_id, record.flags = chance.randbytes(16), chance.randbytes(8), 1
            text = f"Order {chance.getrandbits(40)} of customer {chance.getrandbits(24)} placed in {i % 90} ms"
            body = {"ts": i / 1e3, "level": "info", "logger": "orders", "message": text, "thread": "http-7"}
            record.body.string_value = json.dumps(body) if as_json else text
            record.attributes.extend(_pairs({"thread.name": "http-nio-8080-exec-7", "code.lineno": 117}))
    encoded: bytes = request.SerializeToString()
    return encoded


def walk_traces(body: bytes) -> int:
    """The ordinary way: every span and attribute in Python."""
    rows = []
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _read(group.resource.attributes).get("service.name")
        for scope in group.scope_spans:
            for span in scope.spans:
                about = _read(span.attributes)
                times = span.start_time_unix_nano, span.end_time_unix_nano
                ids = span.trace_id, span.span_id, span.parent_span_id
                events = [(event.name, event.time_unix_nano, _read(event.attributes)) for event in span.events]
                status = span.status.code, about.get("http.response.status_code"), about.get("error.type")
                rows.append((service, ids, times, span.name, span.kind, status, about.get("server.address"), events))
    return len(rows)


def walk_logs(body: bytes) -> int:
    """The ordinary way: every record in Python."""
    rows = []
    for group in ExportLogsServiceRequest.FromString(body).resource_logs:
        service = _read(group.resource.attributes).get("service.name")
        for scope in group.scope_logs:
            for record in scope.log_records:
                ids = record.trace_id, record.span_id
                about = record.severity_number, record.severity_text, record.body.string_value, record.event_name
                rows.append((service, record.time_unix_nano, ids, about))
    return len(rows)


def _read(attributes: Any) -> dict[str, object]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


def _pairs(values: dict[str, str | int]) -> list[KeyValue]:
    pairs = []
    for key, value in values.items():
        pair = KeyValue(key=key)
        if isinstance(value, int):
            pair.value.int_value = value
        else:
            pair.value.string_value = value
        pairs.append(pair)
    return pairs


def _row(title: str, count: int, ours: Any, peer: Any, name: str) -> Row:
    return Row(title, best_s(ours) / count * 1e6, best_s(peer, 3) / count * 1e6, "us", name, better="less")


def run() -> list[Row]:
    """Batches of the Collector and of SDKs, and JSON."""
    rows = []
    for count in (SDK_BATCH, BATCH):
        body = traces(count)
        title = f"decode a span, {count} a batch"
        rows.append(_row(title, count, partial(decode_traces, body), partial(walk_traces, body), "protobuf walk"))
    for title, body in (("texts", logs(BATCH)), ("JSON bodies", logs(BATCH, as_json=True))):
        count = BATCH // len(SERVICES) * len(SERVICES)
        title = f"decode a log record, {title}, {count} a batch"
        rows.append(_row(title, count, partial(decode_logs, body), partial(walk_logs, body), "protobuf walk"))
    text = plain_traces(10_000)
    convert = partial(json_to_protobuf, "traces", text)
    rows.append(
        _row("JSON to protobuf, a span, 10000 a batch", 10_000, convert, partial(json.loads, text), "json.loads")
    )
    return rows


def main() -> None:
    """Print the table."""
    keep_memory()  # as the service does
    show(run())


if __name__ == "__main__":
    main()
