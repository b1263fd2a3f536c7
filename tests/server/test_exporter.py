"""The exporter against real destinations that answer, refuse, hang and go away."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from otel_aiops.errors import BadInput, ConfigError, Overloaded, Unauthorized
from otel_aiops.otlp.encode import Request
from otel_aiops.otlp.signal import Signal
from otel_aiops.server.client import ClientTlsConfig, GrpcClient, HttpClient, retry_after_s
from otel_aiops.server.exporter import Exporter, ExporterConfig, QueueConfig, RetryConfig
from otel_aiops.server.telemetry import Telemetry
from tests.servers import wait_for

QUICK = RetryConfig(initial_interval=0.01, max_interval=0.05)
INSECURE = ClientTlsConfig(insecure=True)
Reply = Any  # bytes of a response, a grpc.StatusCode, (code, retry seconds), or a number of HTTP with headers


class Destination:
    """What came, and what to answer; when the replies run out, success."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.replies: list[Reply] = []
        self.times: list[float] = []
        self.gate = threading.Event()
        self.gate.set()
        self.endpoint = ""

    def next(self, body: bytes, headers: dict[str, str]) -> Reply:
        self.gate.wait(20)
        self.bodies.append(body)
        self.headers.append(headers)
        self.times.append(time.monotonic())
        return self.replies.pop(0) if self.replies else b""


@contextmanager
def over_grpc() -> Iterator[Destination]:
    found = Destination()

    def export(body: bytes, context: Any) -> bytes:
        reply = found.next(body, dict(context.invocation_metadata()))
        if isinstance(reply, bytes):
            return reply
        code, delay_s = reply if isinstance(reply, tuple) else (reply, None)
        if delay_s is not None:
            detail = AnyMessage()
            detail.Pack(RetryInfo(retry_delay=Duration(nanos=int(delay_s * 1e9))))
            status = Status(code=code.value[0], details=[detail])
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(code, "as told")
        raise AssertionError

    server = grpc.server(ThreadPoolExecutor(4))
    service, method = Signal.METRICS.export_method.strip("/").split("/")
    handler = grpc.unary_unary_rpc_method_handler(export)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    found.endpoint = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield found
    finally:
        found.gate.set()
        server.stop(0).wait()


@contextmanager
def over_http() -> Iterator[Destination]:
    found = Destination()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/metrics"
            reply = found.next(body, {key.lower(): value for key, value in self.headers.items()})
            status, headers, content = (200, {}, reply) if isinstance(reply, bytes) else (*reply, b"")
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        found.gate.set()
        server.shutdown()
        server.server_close()


@contextmanager
def exporter(endpoint: str, **settings: Any) -> Iterator[tuple[Exporter, Callable[[str], float]]]:
    """A started exporter, and a function that tells its counts."""
    telemetry = Telemetry()
    protocol = "http" if endpoint.startswith("http") else "grpc"
    defaults: dict[str, Any] = {"tls": INSECURE, "retry_on_failure": QUICK, "protocol": protocol, "timeout": 2.0}
    found = Exporter(ExporterConfig(endpoint=endpoint, **{**defaults, **settings}), telemetry)
    found.start()

    def count(outcome: str) -> float:
        return telemetry.value(f"otel_aiops_exporter_{outcome}_metric_points", exporter="otlp")

    try:
        yield found, count
    finally:
        found.stop(1.0)


@pytest.fixture(params=[over_grpc, over_http], ids=["grpc", "http"])
def destination(request: pytest.FixtureRequest) -> Iterator[Destination]:
    with request.param() as found:
        yield found


RETRY_LATER = {"grpc": grpc.StatusCode.UNAVAILABLE, "http": (503, {})}
NEVER = {"grpc": grpc.StatusCode.INVALID_ARGUMENT, "http": (400, {})}


def protocol(destination: Destination) -> str:
    return "http" if destination.endpoint.startswith("http") else "grpc"


def test_requests_arrive_in_order(destination: Destination) -> None:
    with exporter(destination.endpoint, headers={"X-Tenant": "a"}) as (sender, count):
        for number in range(5):
            sender.send([Request(b"\x0a\x02\x12%c" % number, 10)])
        wait_for(lambda: count("sent") == 50, "all to be sent")
    assert b"".join(destination.bodies) == b"".join(b"\x0a\x02\x12%c" % number for number in range(5))
    assert destination.headers[0]["x-tenant"] == "a"


def test_what_fails_for_now_is_tried_again(destination: Destination) -> None:
    destination.replies = [RETRY_LATER[protocol(destination)]] * 3
    with exporter(destination.endpoint) as (sender, count):
        sender.send([Request(b"\x0a\x00", 7)])
        wait_for(lambda: count("sent") == 7, "the request to be sent")
    assert len(destination.bodies) == 4 and count("send_failed") == 0


def test_what_fails_for_good_is_dropped_and_counted(destination: Destination) -> None:
    destination.replies = [NEVER[protocol(destination)]]
    with exporter(destination.endpoint) as (sender, count):
        sender.send([Request(b"\x0a\x00", 7)])
        wait_for(lambda: count("send_failed") == 7, "the request to be dropped")
        sender.send([Request(b"\x0a\x00", 3)])
        wait_for(lambda: count("sent") == 3, "the next one to be sent")
    assert len(destination.bodies) == 2


def test_the_wait_that_is_asked_for_is_kept(destination: Destination) -> None:
    slow = (grpc.StatusCode.RESOURCE_EXHAUSTED, 0.4)
    destination.replies = [slow if protocol(destination) == "grpc" else (429, {"Retry-After": "1"})]
    with exporter(destination.endpoint) as (sender, count):
        sender.send([Request(b"\x0a\x00", 1)])
        wait_for(lambda: count("sent") == 1, "the request to be sent")
    assert destination.times[1] - destination.times[0] >= 0.4


def test_partial_success_is_counted(destination: Destination) -> None:
    answer = ExportMetricsServiceResponse()
    answer.partial_success.rejected_data_points, answer.partial_success.error_message = 3, "too old"
    destination.replies = [answer.SerializeToString()]
    with exporter(destination.endpoint) as (sender, count):
        sender.send([Request(b"\x0a\x00", 10)])
        wait_for(lambda: count("sent") == 7, "the accepted points to be counted")
    assert count("send_failed") == 3 and len(destination.bodies) == 1


def test_an_answer_that_cannot_be_read_is_a_success(destination: Destination) -> None:
    destination.replies = [b"\x0a\xff"]
    with exporter(destination.endpoint) as (sender, count):
        sender.send([Request(b"\x0a\x00", 10)])
        wait_for(lambda: count("sent") == 10, "the points to be counted")


def test_retries_end(destination: Destination) -> None:
    destination.replies = [RETRY_LATER[protocol(destination)]] * 100
    retry = RetryConfig(initial_interval=0.05, max_interval=0.05, max_elapsed_time=0.3)
    with exporter(destination.endpoint, retry_on_failure=retry) as (sender, count):
        sender.send([Request(b"\x0a\x00", 7)])
        wait_for(lambda: count("send_failed") == 7, "the exporter to give up")
    assert 2 < len(destination.bodies) < 20


def test_retries_can_be_switched_off(destination: Destination) -> None:
    destination.replies = [RETRY_LATER[protocol(destination)]]
    with exporter(destination.endpoint, retry_on_failure=RetryConfig(enabled=False)) as (sender, count):
        sender.send([Request(b"\x0a\x00", 7)])
        wait_for(lambda: count("send_failed") == 7, "the request to be dropped")


def test_a_full_queue_drops_its_oldest(destination: Destination) -> None:
    destination.gate.clear()
    with exporter(destination.endpoint, sending_queue=QueueConfig(queue_size=3), timeout=10.0) as (sender, count):
        sender.send([Request(b"\x0a\x01a", 8000)])
        time.sleep(0.3)  # it is on its way; the others wait
        for letter in b"bcdef":
            sender.send([Request(b"\x0a\x01%c" % letter, 8000)])
        assert count("enqueue_failed") == 16_000
        destination.gate.set()
        wait_for(lambda: count("sent") == 4 * 8000, "the others to be sent")
    assert b"".join(body[-1:] for body in destination.bodies) == b"adef"


def test_without_a_queue_sending_waits(destination: Destination) -> None:
    with exporter(destination.endpoint, sending_queue=QueueConfig(enabled=False)) as (sender, count):
        sender.send([Request(b"\x0a\x00", 2)])
        assert count("sent") == 2


def test_stopping_sends_what_waits_and_counts_the_rest() -> None:
    with over_grpc() as destination:
        with exporter(destination.endpoint) as (sender, count):
            sender.send([Request(b"\x0a\x00", 5)])
            sender.stop(5.0)
            assert count("sent") == 5
            sender.send([Request(b"\x0a\x00", 5)])
            assert count("enqueue_failed") == 5
        destination.gate.clear()
        with exporter(destination.endpoint) as (sender, count):
            for _ in range(3):
                sender.send([Request(b"\x0a\x00", 8000)])
            time.sleep(0.2)
            began = time.monotonic()
            sender.stop(0.3)
            assert time.monotonic() - began < 3
            assert count("send_failed") >= 16_000


def test_a_destination_that_is_away_is_waited_for() -> None:
    from tests.servers import free_port

    endpoint = f"127.0.0.1:{free_port()}"
    with exporter(endpoint, retry_on_failure=QUICK, timeout=0.5) as (sender, count):
        sender.send([Request(b"\x0a\x00", 5)])
        time.sleep(0.5)
        assert count("sent") == count("send_failed") == 0
        sender.stop(0.2)
        wait_for(lambda: count("send_failed") == 5, "the points to be given up")


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, BadInput), (401, Unauthorized), (403, Unauthorized), (404, BadInput), (429, Overloaded), (503, Overloaded)],
)
def test_statuses_of_http(status: int, error: type[Exception]) -> None:
    with over_http() as destination:
        destination.replies = [(status, {})]
        client = HttpClient(destination.endpoint, tls=INSECURE, headers={}, compression="none", timeout_s=2)
        with pytest.raises(error, match=f"HTTP {status}"):
            client.export(b"")
        client.close()
        with pytest.raises(Overloaded, match="closed"):
            client.export(b"")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, BadInput),
        (grpc.StatusCode.UNAUTHENTICATED, Unauthorized),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, BadInput),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Overloaded),
        (grpc.StatusCode.INTERNAL, BadInput),
    ],
)
def test_statuses_of_grpc(code: grpc.StatusCode, error: type[Exception]) -> None:
    with over_grpc() as destination:
        destination.replies = [code]
        client = GrpcClient(destination.endpoint, tls=INSECURE, headers={}, compression="gzip", timeout_s=2)
        with pytest.raises(error, match=code.name):
            client.export(b"")
        client.close()
        with pytest.raises(Overloaded):
            client.export(b"")


def test_a_destination_that_hangs_is_given_up(destination: Destination) -> None:
    destination.gate.clear()
    kind = HttpClient if protocol(destination) == "http" else GrpcClient
    client = kind(destination.endpoint, tls=INSECURE, headers={}, compression="none", timeout_s=0.3)
    began = time.monotonic()
    with pytest.raises(Overloaded):
        client.export(b"")
    assert time.monotonic() - began < 5
    client.close()


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after_s(format_datetime(now + timedelta(seconds=30), usegmt=True), now=now) == 30
    assert retry_after_s(format_datetime(now - timedelta(seconds=30), usegmt=True), now=now) == 0
    assert retry_after_s(None, now=now) == 0


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"endpoint": "localhost:1", "timeout": 0}, "timeout"),
        ({"endpoint": "localhost:1", "protocol": "http"}, "endpoint"),
        ({"endpoint": ""}, "endpoint"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ExporterConfig(**settings)
    assert caught.value.path == path


@pytest.mark.parametrize(
    "wrong",
    [{"initial_interval": 0}, {"randomization_factor": 1}, {"multiplier": 0.5}, {"max_elapsed_time": -1}],
)
def test_retries_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RetryConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="queue_size"):
        QueueConfig(queue_size=0)


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    tls = ClientTlsConfig(ca_file=str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match=r"tls\.ca_file: cannot read"):
        Exporter(ExporterConfig(endpoint="localhost:1", tls=tls), Telemetry())
    with pytest.raises(ConfigError, match="cert_file and key_file together"):
        ClientTlsConfig(cert_file="x")
