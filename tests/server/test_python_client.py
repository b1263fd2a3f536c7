"""The Python SDK of OpenTelemetry as a sender, over both transports."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from otel_aiops.errors import BadInput, Overloaded
from otel_aiops.otlp.signal import Signal
from otel_aiops.server.auth import AuthConfig, BearerConfig
from otel_aiops.server.grpc_receiver import GrpcConfig
from otel_aiops.server.http_receiver import HttpConfig
from otel_aiops.server.intake import Accepted
from otel_aiops.server.receiver import Receiver
from otel_aiops.server.tls import TlsConfig
from tests.server.certificates import Authority
from tests.server.sending import Sink, outcomes, receiving

RESOURCE = Resource({"service.name": "cart"})
GRPC = {Signal.METRICS: GrpcMetrics, Signal.TRACES: GrpcSpans, Signal.LOGS: GrpcLogs}
HTTP = {Signal.METRICS: HttpMetrics, Signal.TRACES: HttpSpans, Signal.LOGS: HttpLogs}


def exporter(receiver: Receiver, transport: str, signal: Signal, authority: Path | None = None, **settings: Any) -> Any:
    scheme = "https" if authority else "http"
    if transport == "grpc":
        if authority:
            settings["credentials"] = grpc.ssl_channel_credentials(authority.read_bytes())
        return GRPC[signal](f"{scheme}://localhost:{receiver.ports['grpc']}", timeout=20, **settings)
    if authority:
        settings["certificate_file"] = str(authority)
    return HTTP[signal](f"{scheme}://localhost:{receiver.ports['http']}/v1/{signal}", timeout=20, **settings)


@contextlib.contextmanager
def sending(signal: Signal, exporter: Any) -> Iterator[list[str]]:
    """Send one item of a signal; the list gets the result of each export."""
    results: list[str] = []
    inner = exporter.export

    def export(*given: Any, **named: Any) -> Any:
        result = inner(*given, **named)
        results.append(result.name)
        return result

    exporter.export = export
    provider = {Signal.METRICS: _metric, Signal.TRACES: _span, Signal.LOGS: _log}[signal](exporter)
    try:
        yield results
    finally:
        provider.shutdown()


def _metric(exporter: Any) -> Any:
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
    provider = MeterProvider([reader], RESOURCE)
    meter = provider.get_meter("app", "1.2")
    meter.create_counter("orders", "1").add(3, {"kind": "new", "sizes": [1, 2]})
    meter.create_histogram("latency", "s").record(0.25)
    provider.force_flush()
    return provider


def _span(exporter: Any) -> Any:
    provider = TracerProvider(resource=RESOURCE)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("app").start_as_current_span("checkout") as span:
        span.set_attribute("total", 12.5)
        span.add_event("paid")
    return provider


def _log(exporter: Any) -> Any:
    provider = LoggerProvider(RESOURCE)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    record = LogRecord(body="order é placed", severity_number=SeverityNumber.WARN, timestamp=5)
    provider.get_logger("app").emit(record)
    return provider


def check(signal: Signal, request: Any) -> None:
    """What arrived is what was sent."""
    if signal == Signal.METRICS:
        (group,) = request.resource_metrics
        counter, histogram = group.scope_metrics[0].metrics
        assert (counter.name, counter.sum.data_points[0].as_int) == ("orders", 3)
        assert [pair.key for pair in counter.sum.data_points[0].attributes] == ["kind", "sizes"]
        assert (histogram.name, histogram.histogram.data_points[0].sum) == ("latency", 0.25)
    elif signal == Signal.TRACES:
        (group,) = request.resource_spans
        (span,) = group.scope_spans[0].spans
        assert (span.name, len(span.trace_id), len(span.span_id)) == ("checkout", 16, 8)
        assert span.events[0].name == "paid"
    else:
        (group,) = request.resource_logs
        (record,) = group.scope_logs[0].log_records
        assert (record.body.string_value, record.severity_number, record.time_unix_nano) == ("order é placed", 13, 5)
    attributes = {pair.key: pair.value.string_value for pair in group.resource.attributes}
    assert attributes["service.name"] == "cart"


def both(**settings: Any) -> dict[str, Any]:
    return {
        "grpc": GrpcConfig(endpoint="localhost:0", **settings),
        "http": HttpConfig(endpoint="localhost:0", **settings),
    }


COMPRESSIONS = [
    ("grpc", grpc.Compression.NoCompression, "identity"),
    ("grpc", grpc.Compression.Gzip, "gzip"),
    ("grpc", grpc.Compression.Deflate, "deflate"),
    ("http", Compression.NoCompression, "identity"),
    ("http", Compression.Gzip, "gzip"),
    ("http", Compression.Deflate, "deflate"),
]


@pytest.mark.parametrize(("transport", "compression", "name"), COMPRESSIONS)
def test_every_signal(transport: str, compression: Any, name: str) -> None:
    sink = Sink()
    with receiving(sink, **both()) as receiver:
        for signal in Signal:
            with sending(signal, exporter(receiver, transport, signal, compression=compression)) as results:
                assert results[0] == "SUCCESS"
            check(signal, sink.requests(signal)[0])
    assert {body.transport for _, body in sink.bodies} == {transport}
    used = {body.compression for _, body in sink.bodies}
    assert name in used <= {name, "identity"}, "gRPC leaves small messages as they are"


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_encrypted_and_with_a_token(transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # they win over what a session is told
        monkeypatch.delenv(name, raising=False)
    authority, sink = Authority(), Sink()
    pair = authority.issue()
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(authority.pem)
    tls = TlsConfig(cert_pem=pair.cert.decode(), key_pem=pair.key.decode())
    auth = AuthConfig(bearertokenauth=BearerConfig(token="s3cret"))
    with receiving(sink, **both(tls=tls, auth=auth)) as receiver:
        for token, expected in (("s3cret", "SUCCESS"), ("wrong", "FAILURE")):
            headers = {"authorization": f"Bearer {token}"}
            with sending(
                Signal.LOGS, exporter(receiver, transport, Signal.LOGS, authority=trusted, headers=headers)
            ) as results:
                assert results == [expected]
    assert len(sink.bodies) == 1


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_it_comes_again_when_told_to_and_only_then(transport: str) -> None:
    sink = Sink(Overloaded("full", retry_after_s=0.0), Accepted(1), BadInput("bad"), Accepted(0, 1, "no name"))
    with receiving(sink, **both()) as receiver:
        got = []
        for _ in range(3):
            with sending(Signal.TRACES, exporter(receiver, transport, Signal.TRACES)) as results:
                got += results
        assert got == ["SUCCESS", "FAILURE", "SUCCESS"]
        assert outcomes(receiver, "grpc" if transport == "grpc" else "http") == {"refused": 2, "success": 2}
    first, again, bad, _ = (body.payload for _, body in sink.bodies)
    assert first == again != bad
