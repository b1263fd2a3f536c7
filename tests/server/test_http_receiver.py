"""OTLP over HTTP with real clients: what arrives, what is answered, and what bounds a client meets."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import zstandard
from google.protobuf import json_format
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from structlog.testing import capture_logs

from otel_aiops.errors import AiopsError, BadInput, ConfigError, Overloaded, StateError, StorageError, TooLarge
from otel_aiops.otlp.signal import Signal
from otel_aiops.server import http_server
from otel_aiops.server.auth import AuthConfig, BasicConfig, BearerConfig
from otel_aiops.server.compression import inflate
from otel_aiops.server.http_receiver import JSON, PROTOBUF, CorsConfig, HttpConfig
from otel_aiops.server.intake import Accepted, Received
from otel_aiops.server.receiver import Receiver
from tests.feed import Feed
from tests.server.sending import DEADLINE_S, MIB, Sink, in_flight, outcomes, receiving, until

BODY = Feed().gauge("memory", 1.0, 5.0).request.SerializeToString() * 50


def config(**settings: Any) -> HttpConfig:
    return HttpConfig(endpoint="127.0.0.1:0", **settings)


def post(
    receiver: Receiver,
    body: Any = BODY,
    *,
    signal: Signal = Signal.METRICS,
    content_type: str = PROTOBUF,
    session: Any = requests,
    **headers: str,
) -> requests.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"http://127.0.0.1:{receiver.ports['http']}/v1/{signal}"
    answer: requests.Response = session.post(
        url, data=body, headers={"Content-Type": content_type, **named}, timeout=DEADLINE_S
    )
    return answer


def status(answer: requests.Response) -> Status:
    if answer.headers["Content-Type"] == JSON:
        return json_format.Parse(answer.content, Status())
    assert answer.headers["Content-Type"] == PROTOBUF
    return Status.FromString(answer.content)


@contextlib.contextmanager
def talking(receiver: Receiver, *lines: str) -> Iterator[socket.socket]:
    """A connection that has begun a request."""
    with socket.create_connection(("127.0.0.1", receiver.ports["http"]), timeout=DEADLINE_S) as sock:
        head = ("POST /v1/metrics HTTP/1.1", "Host: x", f"Content-Type: {PROTOBUF}", *lines, "", "")
        sock.sendall("\r\n".join(head).encode())
        yield sock


def answered(sock: socket.socket) -> http.client.HTTPResponse:
    answer = http.client.HTTPResponse(sock)
    answer.begin()
    answer.read()
    return answer


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Receiver, Sink]]:
    sink = Sink()
    with receiving(sink, http=config()) as receiver:
        yield receiver, sink


@pytest.fixture
def sink(shared: tuple[Receiver, Sink]) -> Sink:
    """The sink of `served`, as new."""
    shared[1].bodies.clear()
    shared[1].replies.clear()
    return shared[1]


@pytest.fixture
def served(shared: tuple[Receiver, Sink], sink: Sink) -> Receiver:
    """A receiver that several tests use one after the other, because uvicorn takes its time to stop."""
    return shared[0]


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
@pytest.mark.parametrize("signal", Signal)
def test_every_signal_arrives_as_it_was_sent(signal: Signal, content_type: str) -> None:
    sink = Sink()
    with receiving(sink, http=config()) as receiver:
        answer = post(receiver, signal=signal, content_type=content_type)
        as_json = content_type == JSON
        assert (answer.status_code, answer.content) == (200, b"{}" if as_json else b"")
        assert answer.headers["Content-Type"] == content_type
        assert "Server" not in answer.headers
        assert sink.bodies == [(signal, Received(BODY, "identity", as_json, "http"))]
        (stats,) = receiver.stats()
        assert stats.accepted == {(signal, "http"): 1}
        assert in_flight(receiver) == (0, 0)


COMPRESS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "GZIP": ("gzip", gzip.compress),
    "x-gzip": ("gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "zlib": ("deflate", zlib.compress),
    "zstd": ("zstd", zstandard.compress),
    "identity": ("identity", bytes),
}


@pytest.mark.parametrize("encoding", COMPRESS)
def test_compressed_bodies_stay_compressed(served: Receiver, sink: Sink, encoding: str) -> None:
    name, compress = COMPRESS[encoding]
    sent = compress(BODY)
    assert post(served, sent, Content_Encoding=encoding).status_code == 200
    ((_, body),) = sink.bodies
    assert (body.payload, body.compression) == (sent, name)
    assert inflate(body.payload, body.compression) == BODY


@pytest.mark.parametrize("encoding", ["br", "snappy", "gzip, gzip", "lz4"])
@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
def test_other_compressions_are_bad(served: Receiver, sink: Sink, encoding: str, content_type: str) -> None:
    before = outcomes(served, "http").get("refused", 0)
    answer = post(served, content_type=content_type, Content_Encoding=encoding)
    assert answer.status_code == 400
    assert status(answer).code == 3
    assert encoding in status(answer).message
    assert outcomes(served, "http")["refused"] == before + 1
    assert not sink.bodies


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json; charset=utf-8", JSON),
        ("Application/X-Protobuf", PROTOBUF),
        ("application/x-protobuf;x=y", PROTOBUF),
    ],
)
def test_content_types_have_parameters_and_no_case(
    served: Receiver, sink: Sink, content_type: str, expected: str
) -> None:
    assert post(served, content_type=content_type).headers["Content-Type"] == expected
    assert sink.bodies[0][1].json == (expected == JSON)


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/grpc", "application/jsonl"])
def test_other_content_types(served: Receiver, sink: Sink, content_type: str) -> None:
    answer = post(served, content_type=content_type)
    assert answer.status_code == 415
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert f"got {content_type or 'no content type'}" in answer.text
    assert not sink.bodies


def test_other_methods_and_paths() -> None:
    with receiving(Sink(), http=config(metrics_url_path="/m")) as receiver:
        base = f"http://127.0.0.1:{receiver.ports['http']}"
        for method in ("GET", "PUT", "DELETE", "HEAD", "OPTIONS"):
            answer = requests.request(method, f"{base}/v1/logs", timeout=DEADLINE_S)
            assert (answer.status_code, answer.headers["Allow"]) == (405, "POST"), method
        for path in ("/", "/v1/metrics", "/v1/logs/", "/V1/logs", "/v1/%2e%2e/logs"):
            answer = requests.post(base + path, headers={"Content-Type": JSON}, timeout=DEADLINE_S)
            assert answer.status_code == 404, path
            assert "/m, /v1/logs, /v1/traces" in answer.text
        for path in ("/m", "/v1/logs?x=y"):
            answer = requests.post(base + path, headers={"Content-Type": JSON}, timeout=DEADLINE_S)
            assert answer.status_code == 200, path


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
def test_partial_success(content_type: str) -> None:
    sink = Sink(Accepted(3, 2, "two spans have no id"), Accepted(5))
    with receiving(sink, http=config()) as receiver:
        answers = [post(receiver, signal=Signal.TRACES, content_type=content_type) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    if content_type == JSON:
        partial, full = (json_format.Parse(answer.content, ExportTraceServiceResponse()) for answer in answers)
    else:
        partial, full = (ExportTraceServiceResponse.FromString(answer.content) for answer in answers)
    assert partial.partial_success.rejected_spans == 2
    assert partial.partial_success.error_message == "two spans have no id"
    assert not full.HasField("partial_success")


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
@pytest.mark.parametrize(
    ("raised", "code", "wait_s"),
    [
        (BadInput("field 3 has wire type 7"), 400, None),
        (TooLarge("body must be at most 5 bytes, got 6"), 413, None),
        (Overloaded("the queue is full", retry_after_s=2.25), 503, "3"),
        (Overloaded("the queue is full", retry_after_s=0.0), 503, "1"),
        (StorageError("no space left", retry_after_s=30), 503, "30"),
        (StateError("the model does not fit"), 503, None),
        (BadInput("😀\ud800" * 3000), 400, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_is_raised_becomes_a_status(
    served: Receiver, sink: Sink, raised: AiopsError, code: int, wait_s: str | None, content_type: str
) -> None:
    sink.replies.append(raised)
    answer = post(served, content_type=content_type)
    assert (answer.status_code, answer.headers.get("Retry-After")) == (code, wait_s)
    told = str(raised).encode("utf-8", "replace").decode()
    assert status(answer).message[:200] == told[:200]
    assert len(sink.bodies) == 1


def test_when_to_come_again_is_in_the_body_too() -> None:
    with receiving(Sink(Overloaded("full", retry_after_s=2.5)), http=config()) as receiver:
        (detail,) = status(post(receiver)).details
    info = RetryInfo()
    assert detail.Unpack(info)
    assert info.retry_delay.seconds + info.retry_delay.nanos / 1e9 == 2.5


def test_a_fault_of_ours_is_retryable_and_logged() -> None:
    with receiving(Sink(ZeroDivisionError("secret")), http=config()) as receiver, capture_logs() as logs:
        answer = post(receiver)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert b"secret" not in answer.content
        assert outcomes(receiver, "http") == {"failure": 1}
    assert [(line["log_level"], line["transport"]) for line in logs] == [("error", "http")]


AUTH = AuthConfig(
    bearertokenauth=BearerConfig(token="s3cret"), basicauth=BasicConfig(username="otel", password="right")
)


@pytest.mark.parametrize("auth", [AUTH, AuthConfig(bearertokenauth=AUTH.bearertokenauth)], ids=["both", "bearer"])
def test_credentials(auth: AuthConfig) -> None:
    sink = Sink()
    with receiving(sink, http=config(auth=auth)) as receiver:
        refused = [post(receiver), post(receiver, Authorization="Bearer s3cre")]
        for answer in refused:
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="otel-aiops"')
            assert status(answer).code == 16
            assert "s3cret" not in status(answer).message
        assert not sink.bodies
        assert post(receiver, Authorization="Bearer s3cret").status_code == 200
        with_password = post(receiver, Authorization="Basic b3RlbDpyaWdodA==")
        assert with_password.status_code == (200 if auth is AUTH else 401)


def test_who_may_not_send_is_not_waited_for() -> None:
    sink = Sink()
    with (
        receiving(sink, http=config(auth=AUTH)) as receiver,
        talking(receiver, "Content-Length: 10", "Expect: 100-continue", "Authorization: Bearer wrong") as sock,
    ):
        assert sock.recv(12) == b"HTTP/1.1 401"


def test_a_refused_sender_hears_why_while_it_still_sends() -> None:
    settings = config(auth=AUTH, max_request_body_size=8 * MIB)
    with receiving(Sink(), http=settings) as receiver, requests.Session() as session:
        assert post(receiver, bytes(8 * MIB), session=session).status_code == 401
        assert post(receiver, session=session, Authorization="Bearer s3cret").status_code == 200


def test_the_largest_body() -> None:
    sink = Sink()
    with receiving(sink, http=config(max_request_body_size=1000)) as receiver:
        assert post(receiver, bytes(1000)).status_code == 200
        answer = post(receiver, bytes(1001))
        assert answer.status_code == 413
        assert "at most 1000 bytes, got one of 1001" in status(answer).message
        assert "Retry-After" not in answer.headers
        with talking(receiver, "Content-Length: 1001") as sock:
            assert answered(sock).status == 413, "before a byte of it has come"
        assert post(receiver, iter([bytes(600), bytes(400)])).status_code == 200
        answer = post(receiver, iter([bytes(600), bytes(401)]))
        assert answer.status_code == 413
        assert [len(body.payload) for _, body in sink.bodies] == [1000, 1000]
        assert in_flight(receiver) == (0, 0)


def test_a_body_in_pieces() -> None:
    sink = Sink()
    with receiving(sink, http=config()) as receiver:
        assert post(receiver, iter([b"ab", b"c" * 200_000, b"de"])).status_code == 200
        with talking(receiver, "Content-Length: 6", "Expect: 100-continue") as sock:
            assert sock.recv(100).startswith(b"HTTP/1.1 100")
            for at in range(6):
                sock.sendall(b"abcdef"[at : at + 1])
            assert answered(sock).status == 200
    assert [body.payload for _, body in sink.bodies] == [b"ab" + b"c" * 200_000 + b"de", b"abcdef"]


def test_an_empty_body() -> None:
    sink = Sink()
    with receiving(sink, http=config()) as receiver:
        assert post(receiver, b"").status_code == 200
    assert sink.bodies[0][1].payload == b""


def test_a_body_that_does_not_come_is_given_up() -> None:
    sink = Sink()
    settings = config(read_timeout=0.2, max_concurrent_requests=1)
    with receiving(sink, http=settings) as receiver, talking(receiver, "Content-Length: 10") as sock:
        sock.sendall(b"abc")
        answer = answered(sock)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        until(lambda: in_flight(receiver) == (0, 0), "the place is free again")
        assert post(receiver).status_code == 200
        assert outcomes(receiver, "http") == {"refused": 1, "success": 1}


def test_no_read_timeout() -> None:
    sink = Sink()
    settings = config(read_timeout=0.0)
    with receiving(sink, http=settings) as receiver, talking(receiver, "Content-Length: 3") as sock:
        until(lambda: in_flight(receiver) == (1, 0), "the request has begun")
        sock.sendall(b"abc")
        assert answered(sock).status == 200


def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    sink = Sink()
    with receiving(sink, http=config()) as receiver:
        with talking(receiver, "Content-Length: 10") as sock:
            sock.sendall(b"abc")
            until(lambda: in_flight(receiver) == (1, 3), "the request has begun")
        until(lambda: in_flight(receiver) == (0, 0), "the request has ended")
        assert outcomes(receiver, "http") == {"refused": 1}
    assert not sink.bodies


def test_no_more_than_so_many_requests_at_once() -> None:
    sink = Sink()
    sink.open.clear()
    with receiving(sink, http=config(max_concurrent_requests=2)) as receiver:
        got: list[int] = []
        threads = [threading.Thread(target=lambda: got.append(post(receiver).status_code)) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: len(sink.bodies) == 2, "all places are taken")
        answer = post(receiver)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        sink.open.set()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert got == [200, 200]
        assert post(receiver).status_code == 200


def test_no_more_than_so_many_bytes_at_once() -> None:
    settings = config(max_request_body_size=MIB, max_in_flight_mib=1)
    with receiving(Sink(), http=settings) as receiver, talking(receiver, f"Content-Length: {MIB}") as sock:
        sock.sendall(bytes(MIB - 1))
        until(lambda: in_flight(receiver) == (1, MIB - 1), "the room is taken")
        assert post(receiver, b"\n\x00").status_code == 503
        sock.sendall(b"\n")
        assert answered(sock).status == 200
        assert post(receiver, b"\n\x00").status_code == 200


def test_one_connection_serves_many_requests_until_it_is_idle() -> None:
    settings = config(idle_timeout=1.0)
    with receiving(Sink(), http=settings) as receiver, talking(receiver, "Content-Length: 0") as sock:
        assert answered(sock).status == 200
        sock.sendall(f"POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\n\r\n".encode())
        assert answered(sock).status == 200
        began_s = time.monotonic()
        assert sock.recv(1) == b""
        assert 0.5 < time.monotonic() - began_s < 5


def closed_after_s(sock: socket.socket, *, trickle: bytes = b"") -> float:
    """How long the other side keeps a connection open that says so little."""
    began_s = time.monotonic()
    sock.settimeout(0.05)
    while time.monotonic() - began_s < DEADLINE_S:
        with contextlib.suppress(TimeoutError):
            if trickle:
                try:
                    sock.sendall(trickle)
                except ConnectionError:
                    break
            try:
                if not sock.recv(4096):
                    break
            except ConnectionError:
                break
    return time.monotonic() - began_s


def test_connections_that_ask_for_nothing_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEADERS_S", 0.3)
    with receiving(Sink(), http=config()) as receiver:
        for begin in (b"", b"POST /v1/metrics HTTP/1.1\r\n"):
            with socket.create_connection(("127.0.0.1", receiver.ports["http"])) as sock:
                sock.sendall(begin)
                assert closed_after_s(sock, trickle=b"a: b\r\n" if begin else b"") < 5
        with talking(receiver, "Content-Length: 0") as sock:
            assert answered(sock).status == 200
            assert closed_after_s(sock, trickle=b"P") < 5, "the second request of a connection"


def test_a_body_that_was_answered_must_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEADERS_S", 0.3)
    settings = config(max_request_body_size=1000)
    with receiving(Sink(), http=settings) as receiver, talking(receiver, "Content-Length: 1000000") as sock:
        assert answered(sock).status == 413
        assert closed_after_s(sock, trickle=b"x") < 5


def test_a_slow_body_that_is_read_is_none_of_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEADERS_S", 0.1)
    with receiving(Sink(), http=config()) as receiver, talking(receiver, "Content-Length: 5") as sock:
        for byte in b"abcd":
            sock.sendall(bytes([byte]))
            time.sleep(0.05)  # slower than headers may be
        sock.sendall(b"e")
        assert answered(sock).status == 200


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: -1"],
        ["Content-Length: 1", "Content-Length: 2"],
        ["Content-Length: ²"],
        ["no colon"],
    ],
    ids=["negative", "two", "superscript", "no colon"],
)
def test_what_is_not_http(lines: list[str]) -> None:
    sink = Sink()
    with receiving(sink, http=config()) as receiver, talking(receiver, *lines) as sock:
        assert answered(sock).status == 400
        assert post(receiver).status_code == 200
    assert len(sink.bodies) == 1


def test_headers_without_end_are_cut_off() -> None:
    sink = Sink()
    with receiving(sink, http=config()) as receiver, talking(receiver) as sock:
        assert answered(sock).status == 200
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"POST /v1/metrics HTTP/1.1\r\n" + b"X: y\r\n" * MIB)
        assert closed_after_s(sock) < 5
    assert len(sink.bodies) == 1


def test_stop_lets_requests_in_progress_end() -> None:
    sink = Sink()
    sink.open.clear()
    receiver = Receiver(None, config(), sink)
    receiver.bind()
    receiver.start()
    got: list[int] = []
    sending = threading.Thread(target=lambda: got.append(post(receiver).status_code))
    sending.start()
    until(lambda: sink.bodies, "a request is in progress")
    stopping = threading.Thread(target=receiver.stop, args=(DEADLINE_S,))
    stopping.start()

    def closed() -> bool:
        try:
            socket.create_connection(("127.0.0.1", receiver.ports["http"]), timeout=1).close()
        except OSError:
            return True
        return False

    until(closed, "new connections are refused")
    assert not got
    sink.open.set()
    sending.join(DEADLINE_S)
    stopping.join(DEADLINE_S)
    assert got == [200]
    receiver.stop(0.0)  # again is no error


def test_stop_does_not_wait_for_ever() -> None:
    sink = Sink()
    sink.open.clear()
    receiver = Receiver(None, config(), sink)
    receiver.bind()
    receiver.start()
    with talking(receiver, "Content-Length: 0"):
        until(lambda: sink.bodies, "a request is in progress")
        began_s = time.monotonic()
        receiver.stop(0.1)
        assert time.monotonic() - began_s < 5
    sink.open.set()


def test_pages_may_send_only_where_allowed() -> None:
    page = "https://shop.example"
    asked = {"Origin": page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    with receiving(Sink(), http=config()) as receiver:
        assert "Access-Control-Allow-Origin" not in post(receiver, Origin=page).headers
    allowed = CorsConfig(allowed_origins=(page,), allowed_headers=("X-Tenant",), max_age=60)
    with receiving(Sink(), http=config(cors=allowed)) as receiver:
        url = f"http://127.0.0.1:{receiver.ports['http']}/v1/traces"
        answer = requests.options(url, headers=asked, timeout=DEADLINE_S)
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == page
        assert answer.headers["Access-Control-Max-Age"] == "60"
        assert "X-Tenant" in answer.headers["Access-Control-Allow-Headers"]
        assert post(receiver, Origin=page).headers["Access-Control-Allow-Origin"] == page
        assert "Access-Control-Allow-Origin" not in post(receiver, Origin="https://evil.example").headers
        answer = requests.options(url, headers={**asked, "Origin": "https://evil.example"}, timeout=DEADLINE_S)
        assert answer.status_code == 400


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"endpoint": "4318"}, "endpoint"),
        ({"max_request_body_size": 0}, "max_request_body_size"),
        ({"max_request_body_size": 2**31}, "max_request_body_size"),
        ({"logs_url_path": "v1/logs"}, "logs_url_path"),
        ({"logs_url_path": "/v1/metrics"}, "metrics_url_path"),
        ({"read_timeout": -1.0}, "read_timeout"),
        ({"idle_timeout": float("nan")}, "idle_timeout"),
        ({"max_concurrent_requests": 0}, "max_concurrent_requests"),
        ({"max_in_flight_mib": 63}, "max_in_flight_mib"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        HttpConfig(**settings)
    assert caught.value.path == path


def test_json_answers_are_json_objects() -> None:
    sink = Sink(BadInput("x"), Overloaded("y"))
    with receiving(sink, http=config()) as receiver:
        bodies = [json.loads(post(receiver, content_type=JSON).content) for _ in range(3)]
    assert bodies == [{"code": 3, "message": "x"}, {"code": 14, "message": "y"}, {}]
