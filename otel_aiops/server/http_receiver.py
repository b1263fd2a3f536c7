"""The OTLP receiver's HTTP side: protobuf and JSON, every compression of the Collector that we know, exact statuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response

from otel_aiops.errors import AiopsError, BadInput, ConfigError, Overloaded, TooLarge, Unauthorized
from otel_aiops.otlp.signal import Signal
from otel_aiops.server import answers, endpoint
from otel_aiops.server.auth import AuthConfig, Authenticator
from otel_aiops.server.compression import ENCODINGS
from otel_aiops.server.http_server import HttpServer
from otel_aiops.server.intake import Intake, Place, Received
from otel_aiops.server.tls import TlsConfig

PATH: Final = "receivers.otlp.protocols.http"
PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class CorsConfig:
    """Which web pages may send from browsers."""

    allowed_origins: tuple[str, ...] = ()  # such as https://shop.example; none means that no page may
    allowed_headers: tuple[str, ...] = ()  # besides those that are always allowed
    max_age: int = 600  # seconds for which browsers may remember the answer


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """OTLP over HTTP, in the Collector's words where it has them."""

    endpoint: str = "localhost:4318"  # host:port to listen on; :4318 is every address of the machine
    tls: TlsConfig | None = None
    auth: AuthConfig | None = None
    cors: CorsConfig = field(default_factory=CorsConfig)
    max_request_body_size: int = 64 << 20  # bytes of the largest body, before and after decompression
    traces_url_path: str = "/v1/traces"  # where traces are taken
    metrics_url_path: str = "/v1/metrics"  # where metrics are taken
    logs_url_path: str = "/v1/logs"  # where logs are taken
    read_timeout: float = 30.0  # a body must arrive within this time after its headers; 0 is no limit
    idle_timeout: float = 75.0  # close a connection without requests after this time
    max_concurrent_requests: int = 64  # of all connections together; over it senders are told to retry
    max_in_flight_mib: int = 256  # bodies in progress together, as received; over it senders are told to retry

    def __post_init__(self) -> None:
        endpoint.check(self.endpoint)
        if not 1 <= self.max_request_body_size <= 2047 << 20:
            raise ConfigError("max_request_body_size", f"must be 1 B to 2047 MiB, got {self.max_request_body_size}")
        for name in ("traces_url_path", "metrics_url_path", "logs_url_path"):
            if not getattr(self, name).startswith("/"):
                raise ConfigError(name, f"must start with /, got {getattr(self, name)!r}")
        if len({self.traces_url_path, self.metrics_url_path, self.logs_url_path}) < len(Signal):
            raise ConfigError("metrics_url_path", "must differ from traces_url_path and logs_url_path")
        for name in ("read_timeout", "idle_timeout"):
            if not getattr(self, name) >= 0:
                raise ConfigError(name, f"must be >= 0 s, got {getattr(self, name)}")
        if not 1 <= self.max_concurrent_requests <= 1 << 20:
            raise ConfigError("max_concurrent_requests", f"must be 1 to {1 << 20}, got {self.max_concurrent_requests}")
        if self.max_in_flight_mib << 20 < self.max_request_body_size:
            message = (
                f"must be at least max_request_body_size {self.max_request_body_size}, got {self.max_in_flight_mib}"
            )
            raise ConfigError("max_in_flight_mib", message)


class HttpReceiver:
    """An ASGI application over an intake, and its server."""

    def __init__(self, config: HttpConfig, intake: Intake, authenticator: Authenticator | None) -> None:
        self._config = config
        self._intake = intake
        self._authenticator = authenticator
        self._paths = {
            config.metrics_url_path: Signal.METRICS,
            config.traces_url_path: Signal.TRACES,
            config.logs_url_path: Signal.LOGS,
        }
        self._pool = ThreadPoolExecutor(config.max_concurrent_requests, "otlp-http")
        self._server = HttpServer(self._app(), config.endpoint, config.tls, path=PATH, keep_alive_s=config.idle_timeout)

    @property
    def port(self) -> int:
        """The port that was taken."""
        return self._server.port

    def bind(self) -> None:
        """Take the port. Raises ConfigError."""
        self._server.bind()

    def start(self) -> None:
        """Serve."""
        self._server.start()

    def stop(self, grace_s: float) -> Callable[[], None]:
        """Take nothing new and let requests in progress end; the result waits for that."""

        self._server.retire(grace_s)

        def wait() -> None:
            self._server.stop(grace_s)
            self._pool.shutdown(wait=False, cancel_futures=True)

        return wait

    def _app(self) -> Any:
        cors = self._config.cors
        if not cors.allowed_origins:
            return self
        return CORSMiddleware(
            self,
            allow_origins=cors.allowed_origins,
            allow_headers=(*cors.allowed_headers, "Content-Type", "Content-Encoding", "Authorization"),
            allow_methods=("POST",),
            allow_credentials="*" not in cors.allowed_origins,
            max_age=cors.max_age,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        response = await self._answer(scope, receive)
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        headers = Headers(scope=scope)
        signal = self._paths.get(scope["path"])
        if signal is None:
            known = ", ".join(sorted(self._paths))
            return PlainTextResponse(f"expected one of {known}, got {scope['path']}\n", 404)
        if scope["method"] != "POST":
            return PlainTextResponse(f"expected POST, got {scope['method']}\n", 405, {"Allow": "POST"})
        media_type = headers.get("content-type", "").split(";")[0].strip().lower()
        if media_type not in (PROTOBUF, JSON):
            return PlainTextResponse(f"expected {PROTOBUF} or {JSON}, got {media_type or 'no content type'}\n", 415)
        as_json = media_type == JSON
        with self._intake.place() as place:
            try:
                body = await self._receive(signal, place, headers, receive, as_json=as_json)
                loop = asyncio.get_running_loop()
                accepted = await loop.run_in_executor(self._pool, self._intake.take, signal, body)
            except AiopsError as error:
                return self._refusal(error, as_json=as_json)
        return Response(answers.success(signal, accepted, as_json=as_json), 200, media_type=media_type)

    async def _receive(
        self, signal: Signal, place: Place, headers: Headers, receive: Receive, *, as_json: bool
    ) -> Received:
        """The body as it came. Raises what refuses it, after counting it."""
        try:
            place.work()
            await self._authenticate(headers.get("authorization"))
            compression = _compression(headers.get("content-encoding", ""))
            payload = await self._read(place, headers, receive)
        except AiopsError as error:
            self._intake.refuse(signal, error)
            raise
        return Received(payload, compression, as_json, "http")

    async def _authenticate(self, authorization: str | None) -> None:
        if self._authenticator is None:
            return
        if self._authenticator.slow:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._pool, self._authenticator.check, authorization)
        else:
            self._authenticator.check(authorization)

    async def _read(self, place: Place, headers: Headers, receive: Receive) -> bytes:
        limit = self._config.max_request_body_size
        announced = headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit:
            raise TooLarge(f"expected a body of at most {limit} bytes, got one of {announced}")
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._config.read_timeout or None):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise BadInput(f"the sender went away after {size} bytes")
                    part = message.get("body", b"")
                    size += len(part)
                    if size > limit:
                        raise TooLarge(f"expected a body of at most {limit} bytes, got more")
                    place.hold(len(part))
                    parts.append(part)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise Overloaded(f"the body did not arrive within {self._config.read_timeout:g} s") from None

    def _refusal(self, error: AiopsError, *, as_json: bool) -> Response:
        headers = {}
        if isinstance(error, Overloaded):
            headers["Retry-After"] = answers.retry_after(error)
        if isinstance(error, Unauthorized) and self._authenticator:
            headers["WWW-Authenticate"] = self._authenticator.challenge
        body = answers.failure(error, as_json=as_json)
        return Response(body, answers.http_status(error), headers, media_type=JSON if as_json else PROTOBUF)


def _compression(encoding: str) -> str:
    """The compression by its name in Content-Encoding. Raises: BadInput."""
    found = ENCODINGS.get(encoding.strip().lower())
    if found is None:
        raise BadInput(f"expected Content-Encoding gzip, deflate, zstd or identity, got {encoding!r}")
    return found
