"""One OTLP export over gRPC or HTTP: bytes out, how many points were rejected back, or why it failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import deflate
import grpc
import requests
import urllib3
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from otel_aiops import __version__
from otel_aiops.errors import AiopsError, BadInput, ConfigError, Overloaded, Unauthorized
from otel_aiops.otlp.signal import Signal

MAX_RESPONSE_BYTES = 4 << 20  # the OTLP specification's limit for responses
GZIP_LEVEL = 6
Compression = Literal["gzip", "none"]
USER_AGENT = f"otel-aiops/{__version__}"

_CHANNEL_OPTIONS = (
    ("grpc.primary_user_agent", USER_AGENT),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5000),  # our retries decide when to try again; the default is two minutes
)

# Source: OTLP specification, "Failures" (gRPC) and "Retryable Response Codes" (HTTP).
_RETRYABLE_GRPC = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_RETRYABLE_HTTP = frozenset({429, 502, 503, 504})
_DETAILS = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTlsConfig:
    """TLS towards the destination."""

    insecure: bool = False  # gRPC without TLS; over HTTP the scheme of the endpoint decides
    ca_file: str | None = None  # certificates that are trusted instead of the system's
    cert_file: str | None = None  # our certificate, when the destination asks for one
    key_file: str | None = None  # its key

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ConfigError("cert_file", "expected cert_file and key_file together, got one of them")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the destination made of a request: `rejected` points, and its message."""

    rejected: int = 0
    message: str = ""


class Client(Protocol):
    """Sends one request. Raises Overloaded for what a later attempt may mend, BadInput or Unauthorized for the rest."""

    def export(self, body: bytes, signal: Signal = Signal.METRICS) -> Answer: ...

    def close(self) -> None:
        """Give up what is on the way; nothing may be exported afterwards."""


class GrpcClient:
    """OTLP/gRPC with bodies as bytes, on one channel; http:// or https:// before a target decide about TLS."""

    def __init__(
        self,
        endpoint: str,
        *,
        tls: ClientTlsConfig,
        headers: Mapping[str, str],
        compression: Compression,
        timeout_s: float,
    ) -> None:
        how = grpc.Compression.Gzip if compression == "gzip" else grpc.Compression.NoCompression
        scheme, _, rest = endpoint.rpartition("://")
        target = rest.rstrip("/") if scheme in ("http", "https") else endpoint
        if scheme == "http" or (tls.insecure and scheme != "https"):
            self._channel = grpc.insecure_channel(target, _CHANNEL_OPTIONS, how)
        else:
            self._channel = grpc.secure_channel(target, _credentials(tls), _CHANNEL_OPTIONS, how)
        self._calls = {signal: self._channel.unary_unary(signal.export_method) for signal in Signal}
        self._metadata = [(key.lower(), value) for key, value in headers.items()]
        self._timeout_s = timeout_s

    def export(self, body: bytes, signal: Signal = Signal.METRICS) -> Answer:
        try:
            return _answer(self._calls[signal](body, timeout=self._timeout_s, metadata=self._metadata))
        except grpc.RpcError as error:
            raise _grpc_failure(error) from error
        except ValueError as error:  # how grpcio says that the channel was closed
            raise Overloaded(str(error), retry_after_s=0.0) from error

    def close(self) -> None:
        self._channel.close()


class HttpClient:
    """OTLP/HTTP with protobuf."""

    def __init__(
        self,
        endpoint: str,
        *,
        tls: ClientTlsConfig,
        headers: Mapping[str, str],
        compression: Compression,
        timeout_s: float,
    ) -> None:
        self._url = f"{endpoint.rstrip('/')}/v1/"
        self._timeout_s = timeout_s
        self._gzip = compression == "gzip"
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": USER_AGENT, "Content-Type": "application/x-protobuf"})
        if self._gzip:
            self._session.headers["Content-Encoding"] = "gzip"
        self._session.headers.update(headers)
        self._session.auth = _as_it_is
        _credentials(tls)  # files that cannot be read are found now
        self._verify: str | bool = tls.ca_file or True
        self._session.cert = (tls.cert_file, tls.key_file) if tls.cert_file and tls.key_file else None
        self._closed = False

    def export(self, body: bytes, signal: Signal = Signal.METRICS) -> Answer:
        if self._closed:
            raise Overloaded("the client is closed", retry_after_s=0.0)
        data = deflate.gzip_compress(body, GZIP_LEVEL) if self._gzip else body
        try:
            with self._session.post(
                self._url + signal,
                data=bytes(data),
                timeout=self._timeout_s,
                allow_redirects=False,
                stream=True,
                verify=self._verify,
            ) as response:
                content = _content(response)
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
            raise Overloaded(f"{type(error).__name__}: {error}", retry_after_s=0.0) from error
        except requests.RequestException as error:
            raise BadInput(f"{type(error).__name__}: {error}") from error
        except OSError as error:  # a certificate file is gone, as while it is being replaced
            raise Overloaded(str(error), retry_after_s=0.0) from error
        if 200 <= response.status_code < 300:  # the specification says 200; some answer 202 or 204
            return _answer(content)
        raise _http_failure(response, content)

    def close(self) -> None:
        self._closed = True
        self._session.close()


def retry_after_s(value: str | None, *, now: datetime) -> float:
    """Seconds of a Retry-After header, which holds seconds or a date; 0 when it says nothing.

    >>> retry_after_s("7", now=datetime.now(UTC)), retry_after_s("soon", now=datetime.now(UTC))
    (7.0, 0.0)
    """
    if not value:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds())


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Authorization comes from the configured headers, never from a .netrc file, which requests would prefer."""
    return request


def _content(response: requests.Response) -> bytes:
    """The body; nothing when it is not compressed as it says: what became of the request is said by the status."""
    try:
        content: bytes = response.raw.read(MAX_RESPONSE_BYTES, decode_content=True)
    except urllib3.exceptions.DecodeError:
        return b""
    return content


def _answer(content: bytes) -> Answer:
    """A partial success, which all signals write alike; an answer that cannot be read counts as success."""
    try:
        partial = ExportMetricsServiceResponse.FromString(content).partial_success
    except DecodeError:
        return Answer()
    return Answer(max(0, partial.rejected_data_points), partial.error_message)


def _grpc_failure(error: Any) -> AiopsError:
    code = error.code()
    message = f"{code.name}: {error.details()}"
    delay_s = _retry_info(error.trailing_metadata() or ())
    if code in _RETRYABLE_GRPC or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and delay_s is not None):
        return Overloaded(message, retry_after_s=delay_s or 0.0)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return Unauthorized(message)
    return BadInput(message)


def _retry_info(metadata: Any) -> float | None:
    """The delay that the destination asks for, in seconds."""
    for key, value in metadata:
        if key != _DETAILS:
            continue
        try:
            for detail in Status.FromString(value).details:
                info = RetryInfo()
                if detail.Unpack(info):
                    delay_s: float = info.retry_delay.seconds + info.retry_delay.nanos / 1e9
                    return max(0.0, delay_s)
        except DecodeError:
            return None
    return None


def _http_failure(response: requests.Response, content: bytes) -> AiopsError:
    status = response.status_code
    try:
        said = Status.FromString(content).message
    except DecodeError:
        said = ""
    message = f"HTTP {status} {response.reason}" + (f": {said}" if said else "")
    if status in _RETRYABLE_HTTP:
        wait_s = retry_after_s(response.headers.get("Retry-After"), now=datetime.now(UTC))
        return Overloaded(message, retry_after_s=wait_s)
    return Unauthorized(message) if status in (401, 403) else BadInput(message)


def _credentials(tls: ClientTlsConfig) -> Any:
    return grpc.ssl_channel_credentials(
        _read("tls.ca_file", tls.ca_file), _read("tls.key_file", tls.key_file), _read("tls.cert_file", tls.cert_file)
    )


def _read(key: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(key, f"cannot read {path}: {error.strerror}") from error
