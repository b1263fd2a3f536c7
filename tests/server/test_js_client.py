"""The JavaScript SDK of OpenTelemetry as a sender, over gRPC, HTTP with JSON and HTTP with protobuf."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from otel_aiops.errors import BadInput, Overloaded
from otel_aiops.otlp.signal import Signal
from otel_aiops.server.auth import AuthConfig, BearerConfig
from otel_aiops.server.grpc_receiver import GrpcConfig
from otel_aiops.server.http_receiver import HttpConfig
from otel_aiops.server.receiver import Receiver
from tests.server.sending import Sink, receiving
from tests.servers import require
from tests.tools.javascript import javascript

pytestmark = pytest.mark.servers

TRANSPORTS = ["grpc", "json", "proto"]
SENT_S = 60


@pytest.fixture(scope="module")
def folder() -> Path:
    return require(javascript)


def both(**settings: Any) -> dict[str, Any]:
    return {
        "grpc": GrpcConfig(endpoint="localhost:0", **settings),
        "http": HttpConfig(endpoint="localhost:0", **settings),
    }


def send(folder: Path, receiver: Receiver, transport: str, *, compression: str = "none", token: str = "") -> Any:
    """How the exports of each signal ended."""
    port = receiver.ports["grpc" if transport == "grpc" else "http"]
    command = ["node", "send.mjs", transport, f"http://localhost:{port}", compression]
    if token:
        command.append(f"Bearer {token}")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=SENT_S)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_metrics(request: Any) -> None:
    (group,) = request.resource_metrics
    assert {pair.key: pair.value.string_value for pair in group.resource.attributes}["service.name"] == "shop"
    (scope,) = group.scope_metrics
    assert (scope.scope.name, scope.scope.version) == ("app", "1.2")
    counter, gauge, histogram = scope.metrics
    (point,) = counter.sum.data_points
    assert (counter.name, counter.unit, point.as_double, counter.sum.is_monotonic) == ("orders", "1", 3, True)
    assert counter.sum.aggregation_temporality == 2
    assert point.time_unix_nano >= point.start_time_unix_nano > 1.7e18  # its clock has milliseconds
    assert [(pair.key, pair.value.string_value) for pair in point.attributes] == [("kind", "new")]
    assert (gauge.name, gauge.gauge.data_points[0].as_double) == ("load", 0.25)
    (point,) = histogram.histogram.data_points
    assert (point.count, point.sum, sum(point.bucket_counts)) == (1, 0.5, 1)


def check_traces(request: Any) -> None:
    (span,) = request.resource_spans[0].scope_spans[0].spans
    assert (span.name, span.kind, span.events[0].name) == ("checkout", 1, "paid")
    assert (len(span.trace_id), len(span.span_id)) == (16, 8), "hex ids were read as hex"
    assert any(span.trace_id) and span.end_time_unix_nano >= span.start_time_unix_nano > 1.7e18
    attributes = {pair.key: pair.value for pair in span.attributes}
    assert attributes["total"].double_value == 12.5
    assert attributes["items"].int_value == 2**40


def check_logs(request: Any) -> None:
    (record,) = request.resource_logs[0].scope_logs[0].log_records
    assert record.severity_number == 13
    body = {pair.key: pair.value for pair in record.body.kvlist_value.values}
    assert body["text"].string_value == "order é placed"
    assert body["bytes"].bytes_value == b"\x00\xfe\xff"


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_signal(folder: Path, transport: str, compression: str) -> None:
    sink = Sink()
    with receiving(sink, **both()) as receiver:
        results = send(folder, receiver, transport, compression=compression)
    assert {signal: set(ended) for signal, ended in results.items()} == {signal: {"success"} for signal in Signal}
    check_metrics(sink.requests(Signal.METRICS)[0])
    check_traces(sink.requests(Signal.TRACES)[0])
    check_logs(sink.requests(Signal.LOGS)[0])
    assert {(body.transport, body.json) for _, body in sink.bodies} == {
        ("grpc" if transport == "grpc" else "http", transport == "json")
    }
    if compression == "gzip":
        assert "gzip" in {body.compression for _, body in sink.bodies}
    else:
        assert {body.compression for _, body in sink.bodies} == {"identity"}


@pytest.mark.parametrize("transport", ["json", "proto"])
def test_it_comes_again_when_told_to(folder: Path, transport: str) -> None:
    sink = Sink(Overloaded("full"))
    with receiving(sink, **both()) as receiver:
        results = send(folder, receiver, transport)
    assert {ended for each in results.values() for ended in each} == {"success"}
    (_, first), (_, second) = sink.bodies[:2]
    assert first == second


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_it_hears_what_is_wrong(folder: Path, transport: str) -> None:
    sink = Sink(BadInput("no good"))
    auth = AuthConfig(bearertokenauth=BearerConfig(token="s3cret"))
    with receiving(sink, **both(auth=auth)) as receiver:
        results = send(folder, receiver, transport, token="s3cret")
        assert ("no good" if transport == "grpc" else "Bad Request") in results["metrics"][0]
        assert (results["traces"], results["logs"]) == (["success"], ["success"])
        results = send(folder, receiver, transport, token="wrong")
    told = "UNAUTHENTICATED" if transport == "grpc" else "Unauthorized"
    assert all(told in ended for each in results.values() for ended in each), results
