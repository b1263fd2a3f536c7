"""OTLP/JSON to OTLP/protobuf, by the rules in which OTLP's JSON differs from that of protobuf."""

from __future__ import annotations

import base64
import binascii
import json
import re
from functools import lru_cache
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_aiops.errors import BadInput

REQUESTS: Final[dict[str, Any]] = {
    "metrics": ExportMetricsServiceRequest,
    "traces": ExportTraceServiceRequest,
    "logs": ExportLogsServiceRequest,
}
HEX_FIELDS: Final = frozenset({"trace_id", "span_id", "parent_span_id"})
URL_SAFE: Final = {ord("-"): "+", ord("_"): "/"}  # protobuf's JSON has either alphabet, padded or not
INTEGER: Final = re.compile(r"-?[0-9]{1,20}")
NUMBER: Final = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,9})?")
SPECIAL: Final = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
DEEPEST: Final = 100  # messages inside messages, as protobuf's own limit

_Field = FieldDescriptor
_FLOATS: Final = frozenset({_Field.CPPTYPE_DOUBLE, _Field.CPPTYPE_FLOAT})
_RANGES: Final = {
    _Field.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    _Field.CPPTYPE_UINT32: (0, 2**32 - 1),
    _Field.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    _Field.CPPTYPE_UINT64: (0, 2**64 - 1),
    _Field.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}


def json_to_protobuf(signal: str, data: bytes) -> bytes:
    """The same request in protobuf. `signal` is metrics, traces or logs.

    Ids are hex, enums are numbers, 64-bit integers come as text or numbers, and what is not known is passed over.
    Raises: BadInput that names the path, what was expected and what came.
    Source: OpenTelemetry Protocol Specification, "JSON Protobuf Encoding".
    """
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"expected JSON, got {error}") from error
    message = REQUESTS[signal]()
    _fill(message, tree, "", 0)
    encoded: bytes = message.SerializeToString()
    return encoded


def _fill(message: Message, tree: Any, path: str, depth: int) -> None:
    """Take over what is known of a JSON object."""
    if not isinstance(tree, dict):
        raise BadInput(f"{path or 'body'}: expected an object, got {_shown(tree)}")
    if depth > DEEPEST:
        raise BadInput(f"{path}: expected at most {DEEPEST} objects inside each other")
    fields = _fields(message.DESCRIPTOR)
    for key, value in tree.items():
        field = fields.get(key)
        if field is None or value is None:
            continue
        where = f"{path}.{key}" if path else key
        if _repeated(field):
            if not isinstance(value, list):
                raise BadInput(f"{where}: expected an array, got {_shown(value)}")
            target = getattr(message, field.name)
            for index, item in enumerate(value):
                if field.message_type is not None:
                    _fill(target.add(), item, f"{where}[{index}]", depth + 1)
                else:
                    target.append(_scalar(field, item, f"{where}[{index}]"))
        elif field.message_type is not None:
            inner = getattr(message, field.name)
            inner.SetInParent()
            _fill(inner, value, where, depth + 1)
        else:
            setattr(message, field.name, _scalar(field, value, where))


@lru_cache(maxsize=256)
def _fields(descriptor: Any) -> dict[str, FieldDescriptor]:
    """Fields by their lowerCamelCase names; OTLP does not take any other."""
    return {field.json_name: field for field in descriptor.fields}


def _repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def _scalar(field: FieldDescriptor, value: Any, path: str) -> Any:
    if field.cpp_type == _Field.CPPTYPE_STRING:
        return _bytes(field, value, path) if field.type == _Field.TYPE_BYTES else _text(value, path)
    if field.cpp_type == _Field.CPPTYPE_BOOL:
        if not isinstance(value, bool):
            raise BadInput(f"{path}: expected true or false, got {_shown(value)}")
        return value
    if field.cpp_type in _FLOATS:
        return _float(value, path)
    return _integer(value, path, enum=field.cpp_type == _Field.CPPTYPE_ENUM, bounds=_RANGES[field.cpp_type])


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise BadInput(f"{path}: expected text, got {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadInput(f"{path}: expected text in Unicode, got half a character") from None
    return value


def _bytes(field: FieldDescriptor, value: Any, path: str) -> bytes:
    wanted = "hex digits" if field.name in HEX_FIELDS else "base64"
    if isinstance(value, str):
        try:
            if field.name in HEX_FIELDS:
                return binascii.unhexlify(value)
            padded = value.translate(URL_SAFE) + "=" * (-len(value) % 4)
            return base64.b64decode(padded, validate=True)
        except ValueError:
            pass
    raise BadInput(f"{path}: expected {wanted}, got {_shown(value)}")


def _float(value: Any, path: str) -> float:
    if isinstance(value, str):
        if value in SPECIAL:
            return SPECIAL[value]
        if NUMBER.fullmatch(value):
            return float(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    raise BadInput(f"{path}: expected a number, got {_shown(value)}")


def _integer(value: Any, path: str, *, enum: bool, bounds: tuple[int, int]) -> int:
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str):
        number = int(value) if INTEGER.fullmatch(value) and not enum else None
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    if number is None or not bounds[0] <= number <= bounds[1]:
        what = "the number of an enum" if enum else f"an integer in {bounds[0]} .. {bounds[1]}"
        raise BadInput(f"{path}: expected {what}, got {_shown(value)}")
    return number


def _shown(value: Any) -> str:
    """A value, short enough for a message."""
    try:
        text = json.dumps(value, default=str)
    except RecursionError:
        text = f"a deep {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
