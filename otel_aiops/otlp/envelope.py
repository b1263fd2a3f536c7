"""Envelopes of OTLP requests: protobuf itself reads everything above the data points and leaves those as bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from otel_aiops.errors import BadInput
from otel_aiops.otlp.attributes import OWN_SCOPE, OWN_SERVICE, resource, scope
from otel_aiops.otlp.points import I32, Kind, Stream, Temporality

NO_NAME = "metric has no name"
BAD_NAME = "metric name or unit is not UTF-8"
MOST_ORIGINS = 1 << 16  # pairs of resource and scope in one request of traces or logs; each is read by itself
BAD_ORIGIN = "resource or scope is not valid protobuf"
MANY_ORIGINS = f"more than {MOST_ORIGINS} resources and scopes in one request"
OWN = "our own output that came back"

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


@dataclass(slots=True)
class Items:
    """The raw spans or log records of a request, and which of its distinct resources each has."""

    resources: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # of the resource of each scope
    sizes: list[int] = field(default_factory=list)  # items of each scope
    raws: list[bytes] = field(default_factory=list)
    unreadable: int = 0  # items of a resource or scope that is not valid protobuf
    crowded: int = 0  # items of resources and scopes over the limit of one request
    own: int = 0  # items that are our own output that came back

    @property
    def resource(self) -> I32:
        """Which of the resources each item has."""
        return np.repeat(np.array(self.numbers, np.int32), self.sizes)


def items(body: bytes, signal: str) -> Items:
    """The spans or log records of a request that others have sent. `signal` is traces or logs. Raises: BadInput."""
    found = Items()
    known: dict[bytes, int] = {}
    about: dict[tuple[bytes, bytes], bool | None] = {}
    for group in parse(body, "Items", signal).resources:
        raw = b"".join(group.resource)
        for inner in group.scopes:
            raws = inner.items
            key = raw, b"".join(inner.scope)
            if key not in about:
                if len(about) >= MOST_ORIGINS:
                    found.crowded += len(raws)
                    continue
                about[key] = _own(*key)
            if about[key] is None:
                found.unreadable += len(raws)
            elif about[key]:
                found.own += len(raws)
            elif raws:
                found.numbers.append(known.setdefault(raw, len(known)))
                found.sizes.append(len(raws))
                found.raws += raws
    found.resources = list(known)
    return found


def count_lost(found: Items, rejected: Counter[str], mended: Counter[str]) -> None:
    """Add what was left out of a request. Our own output is no fault of the sender, so it is not refused."""
    for counts, reason, times in (
        (rejected, BAD_ORIGIN, found.unreadable),
        (rejected, MANY_ORIGINS, found.crowded),
        (mended, OWN, found.own),
    ):
        if times:
            counts[reason] += times


def _own(raw_resource: bytes, raw_scope: bytes) -> bool | None:
    """Whether a resource or scope is ours; None if they cannot be read."""
    try:
        service = dict(resource(raw_resource)).get("service.name")
        return service == OWN_SERVICE or scope(raw_scope)[0] == OWN_SCOPE
    except BadInput:
        return None
