"""A receiver with a sink for tests to look into, and clients plain enough to misbehave."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_aiops.otlp.json_body import json_to_protobuf
from otel_aiops.otlp.signal import Signal
from otel_aiops.server.compression import inflate
from otel_aiops.server.grpc_receiver import GrpcConfig
from otel_aiops.server.http_receiver import HttpConfig
from otel_aiops.server.intake import Accepted, Outcome, Received, Transport
from otel_aiops.server.receiver import Receiver

MIB = 1 << 20
DEADLINE_S = 20.0
HEADERS, SETTINGS, PING, GOAWAY = 1, 4, 6, 7  # kinds of frames
END_HEADERS = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
REQUESTS: dict[Signal, Any] = {
    Signal.METRICS: ExportMetricsServiceRequest,
    Signal.TRACES: ExportTraceServiceRequest,
    Signal.LOGS: ExportLogsServiceRequest,
}


class Sink:
    """Takes every body down, and answers or raises as told."""

    def __init__(self, *replies: Accepted | Exception) -> None:
        self.replies = list(replies)  # one a body; when they run out, everything is accepted
        self.bodies: list[tuple[Signal, Received]] = []
        self.open = threading.Event()  # bodies wait for it
        self.open.set()

    def __call__(self, signal: Signal, body: Received) -> Accepted:
        self.bodies.append((signal, body))
        assert self.open.wait(DEADLINE_S), "the test never opened the sink"
        reply = self.replies.pop(0) if self.replies else Accepted(1)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def requests(self, signal: Signal) -> list[Any]:
        """The messages of a signal, read as the service reads them."""
        return [_message(signal, body) for kind, body in self.bodies if kind == signal]


def _message(signal: Signal, body: Received) -> Any:
    plain = inflate(body.payload, body.compression)
    return REQUESTS[signal].FromString(json_to_protobuf(signal.value, plain) if body.json else plain)


@contextlib.contextmanager
def receiving(
    sink: Callable[[Signal, Received], Accepted],
    *,
    grpc: GrpcConfig | None = None,
    http: HttpConfig | None = None,
    grace_s: float = 1.0,
) -> Iterator[Receiver]:
    """A receiver on free ports, gone afterwards."""
    receiver = Receiver(grpc, http, sink)
    receiver.bind()
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop(grace_s)


def until(check: Callable[[], Any], what: str, *, deadline_s: float = DEADLINE_S) -> Any:
    """Ask until the answer is true; the answer."""
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        if answer := check():
            return answer
        time.sleep(0.005)
    raise AssertionError(f"{what}: not within {deadline_s} s")


def outcomes(receiver: Receiver, transport: Transport) -> dict[Outcome, int]:
    """How many requests of a transport, of all signals together, ended how."""
    (stats,) = (stats for stats in receiver.stats() if transport in stats.in_flight_requests)
    found: dict[Outcome, int] = {}
    for (_, _, outcome), number in stats.requests.items():
        found[outcome] = found.get(outcome, 0) + number
    return found


def in_flight(receiver: Receiver) -> tuple[int, int]:
    """Requests and bytes in hand, of all transports."""
    stats = receiver.stats()
    requests = sum(sum(one.in_flight_requests.values()) for one in stats)
    return requests, sum(sum(one.in_flight_bytes.values()) for one in stats)


@contextlib.contextmanager
def channel(port: int, *, credentials: Any = None, options: Any = (), host: str = "127.0.0.1") -> Iterator[Any]:
    """A gRPC channel of its own connection, without a limit of its own on sizes."""
    address = f"{host}:{port}"
    chosen = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1), *options]
    if credentials:
        opened = grpc.secure_channel(address, credentials, chosen)
    else:
        opened = grpc.insecure_channel(address, chosen)
    with opened:
        yield opened


def export(
    opened: Any, message: bytes = b"", signal: Signal = Signal.METRICS, *, token: str = "", compression: Any = None
) -> bytes:
    """Send one message. Raises grpc.RpcError."""
    call = opened.unary_unary(signal.export_method)
    metadata = (("authorization", token),) if token else ()
    answer: bytes = call(message, timeout=DEADLINE_S, metadata=metadata, compression=compression)
    return answer


def retry_s(error: grpc.RpcError) -> float | None:
    """What RetryInfo says in the details of a status, None where there is none."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if details is None:
        return None
    for detail in Status.FromString(details).details:
        info = RetryInfo()
        if detail.Unpack(info):
            return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    return None


class Http2:
    """The least of an HTTP/2 client: a connection that sends the frames it is told to, and answers none."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        self._socket.sendall(PREFACE)
        self.send(SETTINGS, b"")

    def send(self, kind: int, payload: bytes, *, flags: int = 0, stream: int = 0) -> None:
        header = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
        self._socket.sendall(header + payload)

    def begin(self, signal: Signal, *, encoding: bytes = b"identity") -> None:
        """The headers of a call; its message is for the caller to send."""
        headers = {
            b":method": b"POST",
            b":scheme": b"http",
            b":path": signal.export_method.encode(),
            b":authority": b"localhost",
            b"te": b"trailers",
            b"content-type": b"application/grpc",
            b"grpc-encoding": encoding,
        }
        literal = (bytes([0, len(name)]) + name + bytes([len(value)]) + value for name, value in headers.items())
        self.send(HEADERS, b"".join(literal), flags=END_HEADERS, stream=1)

    def frames(self) -> Iterator[tuple[int, int, bytes]]:
        """Kind, flags and payload of each frame, until the server closes the connection."""
        with contextlib.suppress(ConnectionError):
            while header := self._read(9):
                yield header[3], header[4], self._read(int.from_bytes(header[:3], "big"))

    def _read(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            part = self._socket.recv(size - len(found))
            if not part:
                return b""
            found += part
        return found

    def __enter__(self) -> Http2:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()
