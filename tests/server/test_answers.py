"""What is said to senders, read back with the ordinary protobuf classes."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from google.protobuf import json_format
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_aiops.errors import (
    AiopsError,
    BadInput,
    ConfigError,
    Overloaded,
    StateError,
    StorageError,
    TooLarge,
    Unauthorized,
)
from otel_aiops.otlp.signal import Signal
from otel_aiops.server import answers
from otel_aiops.server.intake import Accepted

RESPONSES = {
    Signal.METRICS: (ExportMetricsServiceResponse, "rejected_data_points"),
    Signal.TRACES: (ExportTraceServiceResponse, "rejected_spans"),
    Signal.LOGS: (ExportLogsServiceResponse, "rejected_log_records"),
}


def read(kind: Any, encoded: bytes, *, as_json: bool) -> Any:
    return json_format.Parse(encoded, kind()) if as_json else kind.FromString(encoded)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("signal", Signal)
def test_success(signal: Signal, as_json: bool) -> None:
    kind, rejected = RESPONSES[signal]
    full = read(kind, answers.success(signal, Accepted(5), as_json=as_json), as_json=as_json)
    assert not full.HasField("partial_success")
    partial = read(kind, answers.success(signal, Accepted(5, 2**40, "no “name”"), as_json=as_json), as_json=as_json)
    assert getattr(partial.partial_success, rejected) == 2**40
    assert partial.partial_success.error_message == "no “name”"
    warned = read(kind, answers.success(signal, Accepted(5, 0, "old"), as_json=as_json), as_json=as_json)
    assert getattr(warned.partial_success, rejected) == 0
    assert warned.partial_success.error_message == "old"


def test_json_numbers_of_64_bits_are_text() -> None:
    encoded = answers.success(Signal.TRACES, Accepted(0, 3, "x"), as_json=True)
    assert json.loads(encoded) == {"partialSuccess": {"rejectedSpans": "3", "errorMessage": "x"}}
    assert answers.success(Signal.TRACES, Accepted(3), as_json=True) == b"{}"
    assert answers.success(Signal.TRACES, Accepted(3), as_json=False) == b""


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (BadInput("x"), 3, 400),
        (TooLarge("x"), 8, 413),
        (Unauthorized("x"), 16, 401),
        (Overloaded("x"), 14, 503),
        (StorageError("x"), 14, 503),
        (StateError("x"), 14, 503),
        (ConfigError("p", "x"), 14, 503),
        (AiopsError("x"), 14, 503),
    ],
)
def test_every_error_has_its_codes(error: AiopsError, code: int, status: int) -> None:
    assert (answers.rpc_code(error), answers.http_status(error)) == (code, status)
    for as_json in (False, True):
        told = read(Status, answers.failure(error, as_json=as_json), as_json=as_json)
        assert (told.code, told.message) == (code, str(error))


@pytest.mark.parametrize(("asked_s", "told_s", "header"), [(0.0, 1.0, "1"), (2.25, 2.25, "3"), (300.0, 300.0, "300")])
def test_when_to_come_again(asked_s: float, told_s: float, header: str) -> None:
    error = Overloaded("full", retry_after_s=asked_s)
    status = Status.FromString(answers.failure(error, as_json=False))
    info = RetryInfo()
    assert status.details[0].Unpack(info)
    assert info.retry_delay.seconds + info.retry_delay.nanos / 1e9 == told_s
    assert answers.retry_after(error) == header


def test_only_those_who_should_come_again_are_told_when() -> None:
    for error in (BadInput("x"), TooLarge("x"), Unauthorized("x"), StateError("x")):
        assert not Status.FromString(answers.failure(error, as_json=False)).details


@given(st.text(st.characters(), max_size=3000))
def test_messages_fit_into_trailers(message: str) -> None:
    told = answers.shortened(message)
    encoded = told.encode()  # no half characters
    assert len(encoded) <= answers.MESSAGE_BYTES
    assert len(quote(encoded)) + len(encoded) * 4 / 3 < 8192 - 1024
    if len(message.encode("utf-8", "replace")) <= answers.MESSAGE_BYTES:
        assert told == message.encode("utf-8", "replace").decode()
    else:
        assert told.endswith("…")
        assert message.encode("utf-8", "replace").decode().startswith(told[:-1])
