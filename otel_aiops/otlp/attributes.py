"""Attribute bytes to canonical values: what is done once, when a series is first seen."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from otel_aiops.errors import BadInput
from otel_aiops.labels import Attributes, AttributeValue

OWN_SCOPE = "otel_aiops"
OWN_SERVICE = "otel-aiops"
DEEPEST = 16  # nesting of arrays and maps inside one attribute value; protobuf itself stops at 100


def attributes(fields: bytes) -> Attributes:
    """Point attributes (`Points.attributes[i]`) sorted by key; the last of two equal keys counts.

    Raises: BadInput when the bytes are not attributes, or hold text that is not UTF-8.
    """
    try:
        return _sorted(NumberDataPoint.FromString(fields).attributes)
    except (DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"expected attributes in protobuf, got {len(fields)} bytes that are not") from error


def resource(raw: bytes) -> Attributes:
    """Attributes of a Resource message, sorted by key. Raises: BadInput."""
    try:
        return _sorted(Resource.FromString(raw).attributes)
    except (DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"expected a Resource in protobuf, got {len(raw)} bytes that are not") from error


def scope(raw: bytes) -> tuple[str, str, Attributes]:
    """(name, version, attributes) of an InstrumentationScope message. Raises: BadInput."""
    try:
        message = InstrumentationScope.FromString(raw)
        return message.name, message.version, _sorted(message.attributes)
    except (DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"expected an InstrumentationScope in protobuf, got {len(raw)} bytes that are not") from error


def _sorted(pairs: Iterable[KeyValue], depth: int = 0) -> Attributes:
    return tuple(sorted({pair.key: value(pair.value, depth) for pair in pairs}.items()))


def value(one: AnyValue, depth: int = 0) -> AttributeValue:
    """What an AnyValue holds. Raises: BadInput when it is nested too deep."""
    if depth > DEEPEST:
        raise BadInput(f"an attribute value is nested more than {DEEPEST} levels deep")
    which = one.WhichOneof("value")
    if which is None:
        return None
    if which == "array_value":
        return tuple(value(inner, depth + 1) for inner in one.array_value.values)
    if which == "kvlist_value":
        return _sorted(one.kvlist_value.values, depth + 1)
    found: AttributeValue = getattr(one, which)
    return found
