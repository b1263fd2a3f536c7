"""OTLP destinations on loopback that answer as they are told, over gRPC and over HTTP, with and without TLS."""

from __future__ import annotations

import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import DebugInfo, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from otel_aiops.otlp.signal import Signal
from tests.server.certificates import Pair

LONGEST_S = 20.0  # that a request hangs, should a test forget to open the gate


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: by its gRPC code or HTTP status, with the wait that is asked for, and whatever else it holds."""

    code: Any = None  # of gRPC; None is success
    status: int = 200  # of HTTP
    wait_s: float | None = None  # RetryInfo
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/x-protobuf"),)
    content: bytes = b""


OK = Reply()
LATER = Reply(grpc.StatusCode.UNAVAILABLE, 503)
NEVER = Reply(grpc.StatusCode.INVALID_ARGUMENT, 400)


def wait(seconds: int) -> Reply:
    """Come back after so many seconds, in the words of either protocol."""
    return Reply(grpc.StatusCode.UNAVAILABLE, 429, float(seconds), (("Retry-After", str(seconds)),))


def rejected(points: int, why: str) -> Reply:
    """A partial success."""
    answer = ExportMetricsServiceResponse()
    answer.partial_success.rejected_data_points, answer.partial_success.error_message = points, why
    return Reply(content=answer.SerializeToString())


@dataclass(slots=True)
class Destination:
    """What came, and what is to be answered; success when the replies run out."""

    endpoint: str = ""
    replies: list[Reply] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # of the bodies as they came, over HTTP
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)  # requests wait for it before they are answered
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, body: bytes, headers: dict[str, str], size: int = 0) -> Reply:
        with self.lock:
            self.bodies.append(body)
            self.sizes.append(size)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            reply = self.replies.pop(0) if self.replies else OK
        self.gate.wait(LONGEST_S)
        return reply

    def resources(self) -> list[int]:
        """The number that each resource holds, in the order of arrival."""
        found = []
        for body in self.bodies:
            for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                found += [pair.value.int_value for pair in group.resource.attributes]
        return found

    @property
    def protocol(self) -> Any:
        return "http" if self.endpoint.startswith("http") else "grpc"


@contextmanager
def over_grpc(*, options: Any = (), credentials: Any = None) -> Iterator[Destination]:
    """A grpc.server with its default limits."""
    found = Destination()
    found.gate.set()

    def export(body: bytes, context: Any) -> bytes:
        reply = found.take(body, {**dict(context.invocation_metadata()), "peer": context.peer()})
        if reply.code is None:
            return reply.content
        if reply.wait_s is not None:
            context.set_trailing_metadata(_details(reply.code, reply.wait_s))
        elif reply.content:
            context.set_trailing_metadata((("x", "y"), ("grpc-status-details-bin", reply.content)))
        context.abort(reply.code, "as told")
        raise AssertionError

    server = grpc.server(ThreadPoolExecutor(4), options=options)
    service, method = Signal.METRICS.export_method.strip("/").split("/")
    handler = grpc.unary_unary_rpc_method_handler(export)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    found.endpoint = f"127.0.0.1:{port}"
    server.start()
    try:
        yield found
    finally:
        found.gate.set()
        server.stop(0).wait()


def _details(code: Any, wait_s: float) -> Any:
    details = [AnyMessage(), AnyMessage()]
    details[0].Pack(DebugInfo(detail="something else"))
    seconds = int(wait_s)
    details[1].Pack(RetryInfo(retry_delay=Duration(seconds=seconds, nanos=round((wait_s - seconds) * 1e9))))
    status = Status(code=code.value[0], details=details)
    return (("grpc-status-details-bin", status.SerializeToString()),)


@contextmanager
def over_http(*, tls: ssl.SSLContext | None = None, path: str = "/v1/metrics") -> Iterator[Destination]:
    """An HTTP/1.1 server."""
    found = Destination()
    found.gate.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = LONGEST_S

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {key.lower(): value for key, value in self.headers.items()}
            body = zlib.decompress(raw, 31) if headers.get("content-encoding") == "gzip" else raw
            reply = found.take(body, {**headers, "path": self.path}, len(raw))
            self.send_response(reply.status if self.path == path else 404)
            for key, value in {"Content-Length": str(len(reply.content)), **dict(reply.headers)}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(reply.content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that went away is no news."""

        def get_request(self) -> Any:
            raw, address = super().get_request()
            return (tls.wrap_socket(raw, server_side=True, do_handshake_on_connect=False) if tls else raw), address

    server = Server(("127.0.0.1", 0), Handler)
    found.endpoint = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()


def tls_context(pair: Pair, folder: Path, *, client_ca: bytes | None = None) -> ssl.SSLContext:
    """Of a server; with `client_ca` clients must show a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair.write(folder))
    if client_ca:
        context.load_verify_locations(cadata=client_ca.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    return context
