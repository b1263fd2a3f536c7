"""The OTLP receiver's gRPC side: messages as on the wire, exact statuses, bounds on all that a client holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import grpc

from otel_aiops.errors import AiopsError, BadInput, ConfigError, Overloaded
from otel_aiops.otlp.signal import Signal
from otel_aiops.server import answers, endpoint
from otel_aiops.server.auth import AuthConfig, Authenticator
from otel_aiops.server.compression import compression_of
from otel_aiops.server.intake import Intake, Place, Received
from otel_aiops.server.tls import Certificates, TlsConfig, check_for_grpc, grpc_credentials

PATH: Final = "receivers.otlp.protocols.grpc"
MIB: Final = 1 << 20
LARGEST_MESSAGE_MIB: Final = 2047
REFUSERS: Final = 4  # threads beyond those that may work, to say no with
HANDSHAKE_MS: Final = 20_000
STOP_SLACK_S: Final = 5.0  # for cancelled calls to end, after the grace
HEALTH_METHOD: Final = "/grpc.health.v1.Health/Check"
SERVING: Final = b"\x08\x01"  # HealthCheckResponse{status: SERVING}

_STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class ServerParameters:
    """How long connections live. Zero leaves out a limit."""

    max_connection_idle: float = 0.0  # close a connection without requests after this long
    # send clients elsewhere after this long (give or take a tenth), so that balancers can spread them anew
    max_connection_age: float = 0.0
    max_connection_age_grace: float = 0.0  # how long requests in progress may take beyond that
    # ping a silent client after this long; one without requests only under permit_without_stream
    time: float = 7200.0
    timeout: float = 20.0  # and close the connection when it does not answer for this long

    def __post_init__(self) -> None:
        for name in ("max_connection_idle", "max_connection_age", "max_connection_age_grace"):
            if not getattr(self, name) >= 0:
                raise ConfigError(name, f"must be >= 0 s, got {getattr(self, name)}")
        for name in ("time", "timeout"):
            if not getattr(self, name) > 0:
                raise ConfigError(name, f"must be > 0 s, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class EnforcementPolicy:
    """How often clients may ping; the connection of one that does it more often is closed."""

    min_time: float = 300.0  # the shortest time between two pings of a client
    permit_without_stream: bool = False  # allow pings while no request is in progress

    def __post_init__(self) -> None:
        if not self.min_time >= 0:
            raise ConfigError("min_time", f"must be >= 0 s, got {self.min_time}")


@dataclass(frozen=True, slots=True)
class KeepaliveConfig:
    """The life of gRPC connections."""

    server_parameters: ServerParameters = field(default_factory=ServerParameters)
    enforcement_policy: EnforcementPolicy = field(default_factory=EnforcementPolicy)


@dataclass(frozen=True, slots=True)
class GrpcConfig:
    """OTLP over gRPC, in the Collector's words where it has them."""

    endpoint: str = "localhost:4317"  # host:port to listen on; :4317 is every address of the machine
    tls: TlsConfig | None = None
    auth: AuthConfig | None = None
    max_recv_msg_size_mib: int = 64  # the largest message, before and after decompression
    max_concurrent_streams: int = 100  # requests that one connection may have in progress
    keepalive: KeepaliveConfig = field(default_factory=KeepaliveConfig)
    max_concurrent_requests: int = 64  # of all connections together; over it senders are told to retry
    max_in_flight_mib: int = 256  # messages in progress together, as received; over it senders are told to retry
    read_timeout: float = 30.0  # a message must arrive within this time after its headers; 0 is no limit

    def __post_init__(self) -> None:
        endpoint.check(self.endpoint)
        if not 1 <= self.max_recv_msg_size_mib <= LARGEST_MESSAGE_MIB:
            message = f"must be 1 to {LARGEST_MESSAGE_MIB}, got {self.max_recv_msg_size_mib}"
            raise ConfigError("max_recv_msg_size_mib", message)
        for name in ("max_concurrent_streams", "max_concurrent_requests"):
            if not 1 <= getattr(self, name) <= 1 << 20:
                raise ConfigError(name, f"must be 1 to {1 << 20}, got {getattr(self, name)}")
        if self.max_in_flight_mib < self.max_recv_msg_size_mib:
            least = f"max_recv_msg_size_mib {self.max_recv_msg_size_mib}"
            raise ConfigError("max_in_flight_mib", f"must be at least {least}, got {self.max_in_flight_mib}")
        if not self.read_timeout >= 0:
            raise ConfigError("read_timeout", f"must be >= 0 s, got {self.read_timeout}")
        if self.tls:
            try:
                check_for_grpc(self.tls)
            except ConfigError as error:
                raise ConfigError(f"tls.{error.path}", error.message) from None

    @property
    def limit_bytes(self) -> int:
        """What `max_recv_msg_size_mib` is in bytes."""
        return self.max_recv_msg_size_mib * MIB


class GrpcReceiver:
    """A sync gRPC server over an intake.

    Requests are read as streams of one message, which is the same on the wire: so a handler runs before the message is
    there, can refuse without reading it, and can give up on a client that does not send it.
    """

    def __init__(self, config: GrpcConfig, intake: Intake, authenticator: Authenticator | None) -> None:
        self.port = 0
        self._config = config
        self._intake = intake
        self._authenticator = authenticator
        self._deadlines = _Deadlines(config.read_timeout)
        self._running = self._welcome = False
        self._pool = ThreadPoolExecutor(config.max_concurrent_requests + REFUSERS, "otlp-grpc")
        self._server = grpc.server(self._pool, handlers=[_Methods(self._handlers())], options=_options(config))
        self._certificates = Certificates(config.tls, path=f"{PATH}.tls") if config.tls else None

    def bind(self) -> None:
        """Take the port. Raises ConfigError."""
        path = f"{PATH}.endpoint"
        endpoint.check_free(self._config.endpoint, path=path)
        for host, port in _for_grpc(endpoint.addresses(self._config.endpoint, path=path)):
            try:
                self.port = self._add_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
            except RuntimeError as error:
                raise ConfigError(path, f"cannot listen on {self._config.endpoint}: {error}") from error

    def start(self) -> None:
        """Serve."""
        self._deadlines.start()
        self._running = self._welcome = True
        self._server.start()

    def stop(self, grace_s: float) -> Callable[[], None]:
        """Take nothing new and let requests in progress end; the result waits for that, and may be called once."""
        if self.port and not self._running:  # gRPC gives a port back only after it has run
            self._running = True
            self._server.start()
        stopped = self._server.stop(grace_s)

        def wait() -> None:
            stopped.wait(grace_s + STOP_SLACK_S)
            self._deadlines.stop()
            self._pool.shutdown(wait=False, cancel_futures=True)

        return wait

    def _add_port(self, address: str) -> int:
        if self._certificates:
            return int(self._server.add_secure_port(address, grpc_credentials(self._certificates)))
        return int(self._server.add_insecure_port(address))

    def _handlers(self) -> dict[str, Any]:
        handlers = {signal.export_method: self._exporter(signal) for signal in Signal}
        known = {b"", *(_health_request(method.split("/")[1]) for method in handlers)}

        def check(message: bytes, context: Any) -> bytes:
            if message not in known:
                context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
            return SERVING

        health = grpc.unary_unary_rpc_method_handler(check)
        exports = {name: grpc.stream_unary_rpc_method_handler(export) for name, export in handlers.items()}
        return {**exports, HEALTH_METHOD: health}

    def _exporter(self, signal: Signal) -> Callable[[Iterator[bytes], Any], bytes]:
        def export(messages: Iterator[bytes], context: Any) -> bytes:
            with self._intake.place() as place:
                body = self._receive(signal, place, messages, context)
                try:
                    answer = self._intake.take(signal, body)
                except AiopsError as error:
                    _abort(context, error)
            return answers.success(signal, answer, as_json=False)

        return export

    def _receive(self, signal: Signal, place: Place, messages: Iterator[bytes], context: Any) -> Received:
        try:
            if not self._welcome:
                raise Overloaded("not serving yet")
            place.work()
            if self._authenticator:
                self._authenticator.check(_authorization(context))
            with self._deadlines.watch(context):
                message = next(messages, None)
            if message is None:
                raise BadInput("expected one message, got none")
            place.hold(len(message))
        except AiopsError as error:
            self._intake.refuse(signal, error)
            _abort(context, error)
        except grpc.RpcError:  # too large, too slow or gone: the client has its status from gRPC itself
            self._intake.refuse(signal, BadInput("the message was not received"))
            raise
        return Received(message, compression_of(message), False, "grpc")


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc has no types
    def __init__(self, methods: dict[str, Any]) -> None:
        self._methods = methods

    def service(self, details: Any) -> Any:
        return self._methods.get(details.method)


class _Deadlines:
    """Cancels calls whose message does not come in time. CANCELLED is retryable, and no thread waits for ever."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[float, Any]] = {}
        self._ended = threading.Event()

    def start(self) -> None:
        if self._timeout_s:
            threading.Thread(target=self._run, name="otlp-grpc-deadlines", daemon=True).start()

    def stop(self) -> None:
        self._ended.set()

    def watch(self, context: Any) -> _Watched:
        return _Watched(self, context)

    def _run(self) -> None:
        while not self._ended.wait(min(1.0, self._timeout_s / 4)):
            now_s = time.monotonic()
            with self._lock:
                late = [context for deadline_s, context in self._waiting.values() if deadline_s < now_s]
            for context in late:
                context.cancel()


class _Watched:
    def __init__(self, deadlines: _Deadlines, context: Any) -> None:
        self._deadlines = deadlines
        self._context = context

    def __enter__(self) -> None:
        deadlines = self._deadlines
        with deadlines._lock:
            deadlines._waiting[id(self)] = (time.monotonic() + deadlines._timeout_s, self._context)

    def __exit__(self, *exception: object) -> None:
        with self._deadlines._lock:
            del self._deadlines._waiting[id(self)]


def _abort(context: Any, error: AiopsError) -> NoReturn:
    if isinstance(error, Overloaded):
        details = answers.failure(error, as_json=False)
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
    context.abort(_STATUS[answers.rpc_code(error)], answers.shortened(str(error)))
    raise AssertionError("abort returned")


def _authorization(context: Any) -> str | None:
    for key, value in context.invocation_metadata():
        if key == "authorization":
            return str(value)
    return None


def _health_request(service: str) -> bytes:
    """HealthCheckRequest{service}."""
    return b"\x0a" + bytes([len(service)]) + service.encode()


def _for_grpc(found: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """gRPC listens on both families when it is told the wildcard of IPv6, and would be in its own way if told both."""
    return [("::", port) for host, port in found if host == "::"] or found


def _options(config: GrpcConfig) -> list[tuple[str, int]]:
    parameters, policy = config.keepalive.server_parameters, config.keepalive.enforcement_policy
    limits = {
        "grpc.max_connection_idle_ms": parameters.max_connection_idle,
        "grpc.max_connection_age_ms": parameters.max_connection_age,
        "grpc.max_connection_age_grace_ms": parameters.max_connection_age_grace,
        "grpc.keepalive_time_ms": parameters.time,
        "grpc.keepalive_timeout_ms": parameters.timeout,
        "grpc.http2.ping_timeout_ms": parameters.timeout,  # the one that closes; gRPC's own is a minute
    }
    return [
        ("grpc.per_message_decompression", 0),  # the log keeps messages as they came, and libdeflate is faster
        ("grpc.max_receive_message_length", config.limit_bytes),
        ("grpc.max_concurrent_streams", config.max_concurrent_streams),
        ("grpc.so_reuseport", 0),  # two processes on one port would each get a part of the data
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(policy.min_time)),
        ("grpc.keepalive_permit_without_calls", int(policy.permit_without_stream)),
        *((name, _milliseconds(limit_s)) for name, limit_s in limits.items() if limit_s),
    ]


def _milliseconds(seconds: float) -> int:
    return min(2**31 - 1, max(1, round(seconds * 1000)))
