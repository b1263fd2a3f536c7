"""Answers: what an OTLP server says about a request, in protobuf and in JSON."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_aiops.errors import AiopsError, BadInput, Overloaded, TooLarge, Unauthorized
from otel_aiops.otlp.signal import Signal
from otel_aiops.server.intake import Accepted

MESSAGE_BYTES: Final = 1000  # gRPC clients take 8 KiB of trailers, where one byte may need three, and again in details
SHORTEST_WAIT_S: Final = 1.0

_RESPONSES: Final[dict[Signal, Any]] = {
    Signal.METRICS: ExportMetricsServiceResponse,
    Signal.TRACES: ExportTraceServiceResponse,
    Signal.LOGS: ExportLogsServiceResponse,
}

# google.rpc.Code and the status of HTTP, the narrowest error first.
_CODES: Final[tuple[tuple[type[AiopsError], int, int], ...]] = (
    (TooLarge, 8, 413),
    (BadInput, 3, 400),
    (Unauthorized, 16, 401),
    (Overloaded, 14, 503),
    (AiopsError, 14, 503),  # nothing of ours may make a sender drop its data
)


def success(signal: Signal, answer: Accepted, *, as_json: bool) -> bytes:
    """An Export<Signal>ServiceResponse; `partial_success` only where there is something to tell."""
    partial = answer.rejected > 0 or bool(answer.message)
    if as_json:
        if not partial:
            return b"{}"
        field = {"metrics": "rejectedDataPoints", "traces": "rejectedSpans", "logs": "rejectedLogRecords"}[signal]
        told = {field: str(answer.rejected), "errorMessage": shortened(answer.message)}
        return json.dumps({"partialSuccess": told}).encode()
    if not partial:
        return b""
    response = _RESPONSES[signal]()
    setattr(response.partial_success, signal.rejected_field, answer.rejected)
    response.partial_success.error_message = shortened(answer.message)
    encoded: bytes = response.SerializeToString()
    return encoded


def failure(error: AiopsError, *, as_json: bool) -> bytes:
    """A google.rpc.Status, with RetryInfo when the sender should come again."""
    code, message = rpc_code(error), shortened(str(error))
    if as_json:
        return json.dumps({"code": code, "message": message}).encode()
    status = Status(code=code, message=message)
    if isinstance(error, Overloaded):
        detail = AnyMessage()
        detail.Pack(RetryInfo(retry_delay=_duration(wait_s(error))))
        status.details.append(detail)
    encoded: bytes = status.SerializeToString()
    return encoded


def rpc_code(error: AiopsError) -> int:
    """The number of the gRPC status."""
    return next(code for kind, code, _ in _CODES if isinstance(error, kind))


def http_status(error: AiopsError) -> int:
    """The status of HTTP."""
    return next(status for kind, _, status in _CODES if isinstance(error, kind))


def wait_s(error: Overloaded) -> float:
    """How long the sender should wait."""
    return max(SHORTEST_WAIT_S, error.retry_after_s)


def retry_after(error: Overloaded) -> str:
    """The value of Retry-After: whole seconds."""
    return str(math.ceil(wait_s(error)))


def shortened(message: str) -> str:
    """A message that fits into trailers, with what cannot be encoded replaced."""
    encoded = message.encode("utf-8", "replace")
    if len(encoded) <= MESSAGE_BYTES:
        return encoded.decode()
    return encoded[: MESSAGE_BYTES - 3].decode("utf-8", "ignore") + "…"


def _duration(seconds: float) -> Duration:
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))
