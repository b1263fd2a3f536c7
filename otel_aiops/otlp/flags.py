"""Feature flags: evaluations in events of spans and in log records, as names that say the flag and what it was."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_aiops.errors import BadInput
from otel_aiops.labels import text
from otel_aiops.otlp.attributes import value

NAMES = (b"feature_flag", b"feature_flag.evaluation")  # before and since semantic conventions 1.34
PREFIX = "feature_flag "
KEY = "feature_flag.key"
VARIANTS = ("feature_flag.result.variant", "feature_flag.variant", "feature_flag.result.value")
MOST = 1_000  # evaluations of one request that are read
LONGEST = 100  # characters of a key or variant


def of_event(raw: bytes) -> str:
    """The name of a Span.Event message that is an evaluation, such as ``feature_flag new-cart=on``; "" if it says none.

    >>> name_of({"feature_flag.key": "new-cart", "feature_flag.variant": "on"})
    'feature_flag new-cart=on'
    """
    return _read(Span.Event, raw)


def of_record(raw: bytes) -> str:
    """The same of a LogRecord message."""
    return _read(LogRecord, raw)


def name_of(has: dict[str, str]) -> str:
    """The name that says the flag and its variant; "" without a flag."""
    if not has.get(KEY):
        return ""
    variant = next((has[one] for one in VARIANTS if has.get(one)), "")
    return f"{PREFIX}{has[KEY][:LONGEST]}={variant[:LONGEST]}"


def parts_of(name: str) -> tuple[str, str] | None:
    """(flag, variant) of such a name, None of any other."""
    if not name.startswith(PREFIX):
        return None
    key, _, variant = name.removeprefix(PREFIX).rpartition("=")
    return key, variant


def _read(kind: type[Span.Event] | type[LogRecord], raw: bytes) -> str:
    try:
        pairs = kind.FromString(raw).attributes
        return name_of({one.key: text(value(one.value, 0)) for one in pairs if one.key in (KEY, *VARIANTS)})
    except (DecodeError, UnicodeDecodeError, BadInput):
        return ""
