"""Spans and log records of the live shop as OTLP, put together column by column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.shop.flows import PEERS, Call, How, Operation
from otel_aiops.shop.simulate import LogBlock, Outcome, Role, SpanBlock

U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]
Value = str | int
Record = tuple[int, int, bytes]  # (when it is sent in ns, pod, the message with its tag)

SCOPE = b"\x0a\x06\x0a\x04shop"  # scope_spans.scope or scope_logs.scope, name "shop"
SEVERITIES = {5: b"DEBUG", 9: b"INFO", 13: b"WARN", 17: b"ERROR"}
STATUS_ERROR, UNAVAILABLE, INTERNAL_ERROR = 2, 14, 13
KINDS = {
    How.INTERNAL: Span.SPAN_KIND_INTERNAL,
    How.SEND: Span.SPAN_KIND_PRODUCER,
    How.RECEIVE: Span.SPAN_KIND_CONSUMER,
}
PORTS = {How.DATABASE: 5432, How.CACHE: 6379, How.SEND: 9092}


def resource(attributes: dict[str, str]) -> bytes:
    """A Resource message with string attributes."""
    encoded: bytes = Resource(attributes=_pairs(attributes)).SerializeToString()
    return encoded


def span_records(block: SpanBlock, start_ns: int) -> Iterable[Record]:
    """The spans of a block, each as `ScopeSpans.spans` with its tag."""
    begin, end = to_ns(block.batch.start_s, start_ns), to_ns(block.end_s, start_ns)
    for outcome in np.unique(block.outcome).tolist():
        rows = np.flatnonzero(block.outcome == outcome)
        head, tail, exception = _constant(block.shape, block.role, Outcome(outcome), block.text)
        with_parent = block.batch.parent[rows] != 0
        for chosen, parent in ((rows[with_parent], True), (rows[~with_parent], False)):
            if len(chosen) == 0:
                continue
            parts: list[bytes | U8] = [
                b"\x0a\x10",
                _big(block.batch.trace[chosen]),
                b"\x12\x08",
                _big(block.span[chosen]),
            ]
            parts += [b"\x22\x08", _big(block.batch.parent[chosen])] if parent else []
            parts += [head, b"\x39", _little(begin[chosen]), b"\x41", _little(end[chosen])]
            if exception:
                parts += [b"\x5a" + varint(9 + len(exception)) + b"\x09", _little(end[chosen]), exception]
            yield from _rows([*parts, tail], end[chosen], block.batch.pod[chosen])


def log_records(block: LogBlock, start_ns: int) -> Iterable[Record]:
    """The log records of a block, each as `ScopeLogs.log_records` with its tag."""
    level = block.line.severity
    after = b"\x10" + varint(level) + field(3, SEVERITIES[level])
    times = to_ns(block.time_s, start_ns)
    ids = _joined([b"\x4a\x10", _big(block.trace), b"\x52\x08", _big(block.span)]) if len(block.trace) else None
    stamps, text = _little(times), block.line.text
    for k, numbers in enumerate(block.numbers.tolist()):
        body = field(5, field(1, text.format(*numbers).encode()))
        traced = ids[k].tobytes() if ids is not None else b""
        stamp = stamps[k].tobytes()
        yield int(times[k]), int(block.pod[k]), field(2, b"\x09" + stamp + after + body + traced + b"\x59" + stamp)


def body(records: Sequence[Record], resource_of: Callable[[int], bytes]) -> bytes:
    """A request of traces or of logs: resource by resource, the records of each in order of time."""
    found: dict[int, list[bytes]] = {}
    for _, pod, encoded in sorted(records, key=lambda record: record[:2]):
        found.setdefault(pod, []).append(encoded)
    groups = ((pod, SCOPE + b"".join(found[pod])) for pod in sorted(found))
    return b"".join(field(1, field(1, resource_of(pod)) + field(2, scope)) for pod, scope in groups)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number: int) -> bytes:
    """A whole number >= 0 as protobuf has it."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def to_ns(time_s: F64, start_ns: int) -> I64:
    """Times of the shop as times since the epoch."""
    return start_ns + np.round(time_s * 1e9).astype(np.int64)


@lru_cache(maxsize=4096)
def _constant(shape: Operation | Call, role: Role, outcome: Outcome, text: str) -> tuple[bytes, bytes, bytes]:
    """What all spans of a shape share: before the times, after them, and the exception event less its time."""
    kind = KINDS.get(shape.how, Span.SPAN_KIND_SERVER if role is Role.SERVES else Span.SPAN_KIND_CLIENT)
    head = field(5, shape.name.encode()) + b"\x30" + varint(int(kind))
    attributes = _attributes(shape, role, outcome, text)
    tail = b"".join(field(9, pair.SerializeToString()) for pair in _pairs(attributes))
    if outcome is not Outcome.OK:
        tail += field(15, b"\x18" + varint(STATUS_ERROR))
    exception = b""
    if outcome is Outcome.RAISED:
        name, _, message = text.partition(": ")
        about = _pairs({"exception.type": name, "exception.message": message})
        exception = field(2, b"exception") + b"".join(field(3, pair.SerializeToString()) for pair in about)
    return head, tail, exception


def _attributes(shape: Operation | Call, role: Role, outcome: Outcome, text: str) -> dict[str, Value]:
    found: dict[str, Value] = {}
    if isinstance(shape, Call) and shape.how in PEERS:
        found |= {"server.address": str(shape.how), "server.port": PORTS[shape.how]}
    elif isinstance(shape, Call) and shape.how is not How.INTERNAL:
        found |= {"server.address": shape.target.split()[0], "server.port": 8080}
    name = shape.target.partition(" ")[2] if isinstance(shape, Call) and shape.how is How.HTTP else shape.name
    found |= _semantics(shape.how, name, role, outcome, shape.target if isinstance(shape, Call) else "")
    if outcome is Outcome.RAISED:
        found["error.type"] = text.partition(": ")[0]
    elif outcome in {Outcome.REFUSED, Outcome.EXPIRED}:
        found["error.type"] = "connection refused" if outcome is Outcome.REFUSED else "certificate has expired"
    return found


def _semantics(how: How, name: str, role: Role, outcome: Outcome, target: str) -> dict[str, Value]:
    """Attributes by the semantic conventions."""
    first, _, second = name.partition(" ")
    if how is How.GRPC:
        service, _, method = name.partition("/")
        code = {Outcome.OK: 0, Outcome.REFUSED: UNAVAILABLE, Outcome.EXPIRED: UNAVAILABLE}.get(outcome, INTERNAL_ERROR)
        return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method, "rpc.grpc.status_code": code}
    if how is How.HTTP:
        found: dict[str, Value] = {"http.request.method": first}
        if role is Role.SERVES:
            found["http.route"] = second
        if outcome not in {Outcome.REFUSED, Outcome.EXPIRED}:
            found["http.response.status_code"] = 200 if outcome is Outcome.OK else 500
        return found
    if how is How.DATABASE:
        return {
            "db.system.name": "postgresql",
            "db.namespace": "shop",
            "db.operation.name": first,
            "db.collection.name": target,
        }
    if how is How.CACHE:
        return {"db.system.name": "redis", "db.operation.name": name}
    if how in {How.SEND, How.RECEIVE}:
        doing = "send" if how is How.SEND else "process"
        return {"messaging.system": "kafka", "messaging.destination.name": second, "messaging.operation.type": doing}
    return {}


def _pairs(attributes: dict[str, str] | dict[str, Value]) -> list[KeyValue]:
    pairs = []
    for key, value in attributes.items():
        pair = KeyValue(key=key)
        if isinstance(value, int):
            pair.value.int_value = value
        else:
            pair.value.string_value = value
        pairs.append(pair)
    return pairs


def _rows(parts: list[bytes | U8], when_ns: I64, pod: I32) -> Iterable[Record]:
    """N messages of the same length, as `ScopeSpans.spans`."""
    rows = _joined(parts)
    prefix, flat, length = b"\x12" + varint(rows.shape[1]), rows.tobytes(), rows.shape[1]
    messages = [prefix + flat[at : at + length] for at in range(0, len(flat), length)]
    return zip(when_ns.tolist(), pod.tolist(), messages, strict=True)


def _joined(parts: list[bytes | U8]) -> U8:
    """Constant bytes and columns of bytes beside each other. (N, bytes)."""
    count = next(len(part) for part in parts if not isinstance(part, bytes))
    columns = [np.frombuffer(part, np.uint8) if isinstance(part, bytes) else part for part in parts]
    joined = np.empty((count, sum(column.shape[-1] for column in columns)), np.uint8)
    at = 0
    for column in columns:
        joined[:, at : at + column.shape[-1]] = column
        at += column.shape[-1]
    return joined


def _big(ids: U64) -> U8:
    """Ids as bytes in big-endian order. (N, 8 or 16)."""
    return np.ascontiguousarray(ids.astype(">u8")).view(np.uint8).reshape(len(ids), -1)


def _little(times: I64) -> U8:
    """Times as fixed64. (N, 8)."""
    return np.ascontiguousarray(times.astype("<i8")).view(np.uint8).reshape(len(times), 8)
