"""The exporter with two signals: each goes where it belongs, and one that is not taken does not hold up the other."""

from __future__ import annotations

import pytest

from otel_aiops.otlp.encode_events import Event, encode_events
from otel_aiops.otlp.signal import Signal
from otel_aiops.server.grpc_receiver import GrpcConfig
from otel_aiops.server.http_receiver import HttpConfig
from otel_aiops.server.telemetry import Telemetry
from tests.server.destinations import Destination, over_grpc, over_http
from tests.server.sending import Sink, receiving, until
from tests.server.test_exporter import exporter, numbered


def event(number: int) -> Event:
    return Event(name="x", time_ns=number, severity=9, body=f"event {number}", attributes=(("n", number),))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_each_signal_goes_to_its_own_method_in_order(protocol: str) -> None:
    sink, telemetry = Sink(), Telemetry()
    with receiving(sink, grpc=GrpcConfig(endpoint="127.0.0.1:0"), http=HttpConfig(endpoint="127.0.0.1:0")) as receiver:
        port = receiver.ports[protocol]
        endpoint = f"http://127.0.0.1:{port}" if protocol == "http" else f"127.0.0.1:{port}"
        with exporter(endpoint, telemetry=telemetry) as (sender, count):
            sink.open.clear()
            events = [encode_events([event(k)], observed_ns=9) for k in range(3)]
            sender.send([numbered(0), *events, numbered(1)])
            sink.open.set()
            until(lambda: count("sent") == 2, "everything to be sent")
    records = [
        record.body.string_value
        for request in sink.requests(Signal.LOGS)
        for group in request.resource_logs
        for scope in group.scope_logs
        for record in scope.log_records
    ]
    assert records == ["event 0", "event 1", "event 2"]
    assert [signal for signal, _ in sink.bodies] == [Signal.METRICS, Signal.LOGS, Signal.METRICS]
    assert telemetry.value("otel_aiops_exporter_sent_log_records", exporter="otlp") == 3


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_destination_of_metrics_only_drops_events_at_once(protocol: str) -> None:
    with over_grpc() if protocol == "grpc" else over_http() as destination:
        assert isinstance(destination, Destination)
        telemetry = Telemetry()
        with exporter(destination.endpoint, telemetry=telemetry) as (sender, count):
            sender.send([encode_events([event(0), event(1)], observed_ns=9), numbered(1)])
            until(lambda: count("sent") == 1, "the metrics to be sent")
        assert telemetry.value("otel_aiops_exporter_send_failed_log_records", exporter="otlp") == 2
        assert count("send_failed") == 0
