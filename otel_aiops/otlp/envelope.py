"""Envelopes of OTLP requests: protobuf itself reads everything above the data points and leaves those as bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from otel_aiops.errors import BadInput
from otel_aiops.otlp.points import Kind, Stream, Temporality

NO_NAME = "metric has no name"
BAD_NAME = "metric name or unit is not UTF-8"

KINDS = {
    "gauge": Kind.GAUGE,
    "sum": Kind.SUM,
    "histogram": Kind.HISTOGRAM,
    "exponential_histogram": Kind.EXPONENTIAL_HISTOGRAM,
    "summary": Kind.SUMMARY,
}
_NUMBERS = {"gauge": 5, "sum": 7, "histogram": 9, "exponential_histogram": 10, "summary": 11}  # fields of Metric
KIND_OF_FIELD = {number: KINDS[name] for name, number in _NUMBERS.items()}


def _envelope() -> type[Any]:
    """A message class that reads the OTLP envelopes and leaves everything below as bytes.

    It has the field numbers of opentelemetry-proto's requests, so it is compatible on the wire. Resources and scopes
    are repeated bytes: a message that stands twice is merged by joining its bytes, as protobuf defines it.
    """
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="envelope.proto", package="envelope", syntax="proto2")

    def message(name: str, *fields: tuple[str, int, int, bool, str], oneof: str = "") -> None:
        entry = file.message_type.add(name=name)
        if oneof:
            entry.oneof_decl.add(name=oneof)
        for label, number, type_, repeated, inner in fields:
            item = entry.field.add(name=label, number=number, type=type_)
            item.label = kind.LABEL_REPEATED if repeated else kind.LABEL_OPTIONAL
            if inner:
                item.type_name = f".envelope.{inner}"
            if oneof and inner:
                item.oneof_index = 0

    raw, sub, i32, flag = kind.TYPE_BYTES, kind.TYPE_MESSAGE, kind.TYPE_INT32, kind.TYPE_BOOL
    message(
        "Data",
        ("points", 1, raw, True, ""),
        ("temporality", 2, i32, False, ""),
        ("monotonic", 3, flag, False, ""),
    )
    message(
        "Metric",
        ("name", 1, raw, False, ""),
        ("unit", 3, raw, False, ""),
        *((label, number, sub, False, "Data") for label, number in _NUMBERS.items()),
        oneof="data",
    )
    pieces = ((label, number, raw, True, "") for label, number in _NUMBERS.items())
    message("Pieces", ("name", 1, raw, False, ""), ("unit", 3, raw, False, ""), *pieces)
    for signal, inner in (("Metrics", "Metric"), ("Regular", "Pieces"), ("Items", "")):
        message(f"Scope{signal}", ("scope", 1, raw, True, ""), ("items", 2, sub if inner else raw, True, inner))
        message(f"Resource{signal}", ("resource", 1, raw, True, ""), ("scopes", 2, sub, True, f"Scope{signal}"))
        message(signal, ("resources", 1, sub, True, f"Resource{signal}"))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    names = ("Metrics", "Regular", "Items", "Data")
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"envelope.{name}")) for name in names}  # type: ignore[return-value]


_ENVELOPES: Any = _envelope()


def parse(body: bytes, envelope: str, signal: str) -> Any:
    """A request read with one of the envelopes: Metrics, Regular, Items or Data. Raises: BadInput."""
    try:
        return _ENVELOPES[envelope].FromString(body)
    except DecodeError as error:
        raise BadInput(f"expected an OTLP {signal} request in protobuf, got {len(body)} bytes that are not") from error


def metrics(body: bytes, rejected: Counter[str]) -> Iterable[tuple[Stream, list[bytes]]]:
    """The metrics of a request however it is written, and their raw points."""
    for resource_metrics in parse(body, "Metrics", "metrics").resources:
        resource = b"".join(resource_metrics.resource)
        for scope_metrics in resource_metrics.scopes:
            scope = b"".join(scope_metrics.scope)
            for metric in scope_metrics.items:
                which = metric.WhichOneof("data")
                if which is None:
                    continue
                data = getattr(metric, which)
                stream = stream_of(resource, scope, metric.name, metric.unit, KINDS[which], data, rejected)
                if stream is not None:
                    yield stream, data.points


def stream_of(
    resource: bytes, scope: bytes, name: bytes, unit: bytes, kind: Kind, data: Any, rejected: Counter[str]
) -> Stream | None:
    """What identifies the series of a metric but their attributes; None, and counted, when nothing can."""
    count = len(data.points)
    if not count:
        return None
    if not name:
        rejected[NO_NAME] += count
        return None
    aggregated = kind not in (Kind.GAUGE, Kind.SUMMARY)
    temporality = _TEMPORALITIES.get(data.temporality if aggregated else 0, Temporality.UNSPECIFIED)
    monotonic = kind == Kind.SUM and data.monotonic
    try:
        return Stream(resource, scope, name.decode(), unit.decode(), kind, temporality, monotonic)
    except UnicodeDecodeError:
        rejected[BAD_NAME] += count
        return None


_TEMPORALITIES = {int(temporality): temporality for temporality in Temporality}


def count_items(body: bytes, signal: str) -> int:
    """How many spans or log records a request holds. Raises: BadInput."""
    request = parse(body, "Items", signal)
    return sum(len(scope.items) for resource in request.resources for scope in resource.scopes)
