"""The exporter of scores and events: a bounded queue in front of an OTLP destination, with retries that end."""

from __future__ import annotations

import random
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from threading import TIMEOUT_MAX, Condition, Event, Thread
from typing import Literal

import structlog
import tenacity

from otel_aiops.errors import AiopsError, ConfigError, Overloaded
from otel_aiops.otlp.encode import MAX_BYTES, MAX_POINTS, Request
from otel_aiops.otlp.signal import Signal
from otel_aiops.server.client import Client, ClientTlsConfig, Compression, GrpcClient, HttpClient
from otel_aiops.server.telemetry import Telemetry

HURRIED_S = 0.25  # between two attempts while stopping
_HEADER_NAME = re.compile(r"[A-Za-z0-9_.-]+")  # what gRPC takes; HTTP takes more, which nobody uses
_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?|")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryConfig:
    """When a request that may succeed later is tried again; the wait that a destination asks for counts at least."""

    enabled: bool = True  # otherwise a request that fails once is dropped
    initial_interval: float = 1.0  # wait before the second attempt
    randomization_factor: float = 0.5  # a wait is up to this share longer or shorter
    multiplier: float = 1.5  # each wait is longer than the one before
    max_interval: float = 30.0  # and never longer than this
    max_elapsed_time: float = 300.0  # after so long a request is dropped; 0 is never

    def __post_init__(self) -> None:
        for name in ("initial_interval", "max_interval"):
            if getattr(self, name) <= 0:
                raise ConfigError(name, f"must be > 0 s, got {getattr(self, name)}")
        if not 0 <= self.randomization_factor < 1:
            raise ConfigError("randomization_factor", f"must be in [0, 1), got {self.randomization_factor}")
        if self.multiplier < 1:
            raise ConfigError("multiplier", f"must be >= 1, got {self.multiplier}")
        if self.max_elapsed_time < 0:
            raise ConfigError("max_elapsed_time", f"must be >= 0 s, got {self.max_elapsed_time}")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """What waits in memory while the destination is slow or away. A full queue drops its oldest: now counts most."""

    enabled: bool = True  # otherwise scoring waits for every request
    num_consumers: int = 1  # requests on the way at a time; more than one may deliver out of order
    queue_size: int = 1000  # requests that wait at most
    queue_bytes: int = 64 << 20  # their size at most

    def __post_init__(self) -> None:
        for name in ("num_consumers", "queue_size", "queue_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be >= 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterConfig:
    """The OTLP exporter of scores and of changes of incidents, in the Collector's keys."""

    endpoint: str  # host:port for gRPC, a URL without /v1/metrics for HTTP
    protocol: Literal["grpc", "http"] = "grpc"  # OTLP over gRPC, or over HTTP with protobuf
    tls: ClientTlsConfig = field(default_factory=ClientTlsConfig)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # sent with every request
    compression: Compression = "gzip"  # of requests
    timeout: float = 5.0  # of one attempt
    retry_on_failure: RetryConfig = field(default_factory=RetryConfig)
    sending_queue: QueueConfig = field(default_factory=QueueConfig)

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise ConfigError("timeout", f"must be > 0 s, got {self.timeout}")
        if self.protocol == "http" and not self.endpoint.startswith(("http://", "https://")):
            raise ConfigError("endpoint", f"expected a URL with http:// or https://, got {self.endpoint!r}")
        if not self.endpoint.split("://")[-1].strip("/"):
            raise ConfigError("endpoint", f"expected host:port, got {self.endpoint!r}")
        if "@" in self.endpoint.split("://")[-1].split("/")[0]:  # endpoints are logged; the message must not show it
            raise ConfigError("endpoint", "expected no user and password, which belong in `headers`")
        for name, value in self.headers.items():
            self._check_header(name, value)

    def _check_header(self, name: str, value: str) -> None:
        """Found now and not in the middle of the night. No message shows a value."""
        if not _HEADER_NAME.fullmatch(name):
            raise ConfigError("headers", f"expected a name of letters, digits, -, _ and ., got {name!r}")
        if self.protocol == "grpc" and name.lower().endswith("-bin"):
            raise ConfigError("headers", f"expected text, but gRPC sends {name} in binary")
        if not _HEADER_VALUE.fullmatch(value):
            raise ConfigError("headers", f"expected printable ASCII without a space or line break around it in {name}")


class Exporter:
    """Sends requests in the order in which they were given (with one consumer), each once or more.

    `send` never waits for the destination unless the queue is switched off. Waiting requests that fit into one are
    sent as one. What is dropped is counted and logged, never raised.
    """

    def __init__(
        self,
        config: ExporterConfig,
        telemetry: Telemetry,
        *,
        name: str = "otlp",
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._telemetry = telemetry
        self._name = name
        self._rng = rng or random.Random()
        self._clock = clock
        self._log = structlog.get_logger("otel_aiops.exporter").bind(exporter=name, endpoint=config.endpoint)
        self._client = _connect(config)
        self._waiting: deque[Request] = deque()
        self._bytes = 0
        self._changed = Condition()
        self._threads: list[Thread] = []
        self._hurry = Event()  # stopping: no long waits
        self._abort = Event()  # stopped: no more attempts
        for outcome in ("sent", "send_failed", "enqueue_failed"):
            for signal in (Signal.METRICS, Signal.LOGS):
                self._count(outcome, signal, 0)

    def start(self) -> None:
        """Begin to send; again is nothing."""
        if self._threads or self._hurry.is_set():
            return
        queue = self._config.sending_queue
        self._telemetry.watch("otel_aiops_exporter_queue_size", lambda: len(self._waiting), exporter=self._name)
        self._telemetry.set("otel_aiops_exporter_queue_capacity", queue.queue_size, exporter=self._name)
        if not queue.enabled:
            return
        count = self._config.sending_queue.num_consumers
        self._threads = [
            Thread(target=self._consume, name=f"exporter-{self._name}-{k}", daemon=True) for k in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, requests: Iterable[Request]) -> None:
        """Queue requests; a stopped exporter drops them."""
        if not self._config.sending_queue.enabled:
            for request in requests:
                self._deliver(request)
            return
        with self._changed:
            for request in requests:
                self._enqueue(request)
            self._changed.notify_all()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Send what waits, for at most `timeout_s`, then drop the rest; again is nothing."""
        if self._abort.is_set():
            return
        with self._changed:
            self._hurry.set()
            self._changed.notify_all()
        self._join(timeout_s)
        self._abort.set()
        self._client.close()
        self._join(HURRIED_S)  # what was on its way fails now, and is counted
        with self._changed:
            left, self._bytes = list(self._waiting), 0
            self._waiting.clear()
        for signal, items in _items(left):
            self._count("send_failed", signal, items)
            self._log.warning("what waited was not sent before the end", items=items, signal=str(signal))

    def _join(self, timeout_s: float) -> None:
        deadline = self._clock() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._clock()))

    def _enqueue(self, request: Request) -> None:
        """Put a request behind the others, over the oldest of them if need be. The caller holds the lock."""
        queue = self._config.sending_queue
        if self._hurry.is_set():
            self._count("enqueue_failed", request.signal, request.points)
            return
        self._waiting.append(request)
        self._bytes += len(request.body)
        dropped = []
        while len(self._waiting) > queue.queue_size or (self._bytes > queue.queue_bytes and len(self._waiting) > 1):
            dropped.append(self._waiting.popleft())
            self._bytes -= len(dropped[-1].body)
        for signal, items in _items(dropped):
            self._count("enqueue_failed", signal, items)
            self._log.warning("the sending queue is full, its oldest are dropped", items=items, signal=str(signal))

    def _consume(self) -> None:
        while (request := self._next()) is not None:
            self._deliver(request)

    def _next(self) -> Request | None:
        """The next request, with as many of the following as fit; None when there will be none."""
        with self._changed:
            while not self._waiting:
                if self._hurry.is_set():
                    return None
                self._changed.wait()
            if self._abort.is_set():
                return None
            taken = [self._waiting.popleft()]
            points, size = taken[0].points, len(taken[0].body)
            while self._waiting and self._fits(taken[0], points, size, self._waiting[0]):
                taken.append(self._waiting.popleft())
                points += taken[-1].points
                size += len(taken[-1].body)
            self._bytes -= size
        # A request is a repeated field: bodies one behind the other are one body.
        if len(taken) == 1:
            return taken[0]
        return Request(b"".join(request.body for request in taken), points, taken[0].signal)

    @staticmethod
    def _fits(first: Request, points: int, size: int, following: Request) -> bool:
        small = points + following.points <= MAX_POINTS and size + len(following.body) <= MAX_BYTES
        return small and following.signal is first.signal

    def _deliver(self, request: Request) -> None:
        try:
            answer = self._retrying()(self._client.export, request.body, request.signal)
        except AiopsError as error:
            self._count("send_failed", request.signal, request.points)
            about = {"items": request.points, "signal": str(request.signal)}
            self._log.error("what the destination did not take was dropped", **about, error=str(error))
            return
        rejected = min(answer.rejected, request.points)  # a destination may count otherwise than we do
        self._count("sent", request.signal, request.points - rejected)
        if rejected or answer.message:
            self._count("send_failed", request.signal, rejected)
            about = {"items": rejected, "signal": str(request.signal)}
            self._log.warning("the destination rejected a part", **about, error=answer.message)

    def _retrying(self) -> tenacity.Retrying:
        retry = self._config.retry_on_failure
        stop: list[tenacity.stop.stop_base] = [tenacity.stop_when_event_set(self._abort)]
        if not retry.enabled:
            stop.append(tenacity.stop_after_attempt(1))
        if retry.max_elapsed_time:  # also when only the wait would end too late: nobody waits in vain
            stop.append(tenacity.stop_before_delay(retry.max_elapsed_time))
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Overloaded),
            stop=tenacity.stop_any(*stop),
            wait=self._wait_s,
            sleep=self._sleep,
            before_sleep=self._before_sleep,
            reraise=True,
        )

    def _wait_s(self, state: tenacity.RetryCallState) -> float:
        retry = self._config.retry_on_failure
        try:
            grown_s = retry.initial_interval * retry.multiplier ** (state.attempt_number - 1)
        except OverflowError:  # after days of attempts
            grown_s = retry.max_interval
        wait_s = min(retry.max_interval, grown_s)
        wait_s *= self._rng.uniform(1 - retry.randomization_factor, 1 + retry.randomization_factor)
        error = state.outcome.exception() if state.outcome else None
        return max(wait_s, error.retry_after_s) if isinstance(error, Overloaded) else wait_s

    def _sleep(self, seconds: float) -> None:
        if self._hurry.wait(min(seconds, TIMEOUT_MAX)):
            self._abort.wait(min(seconds, HURRIED_S))

    def _before_sleep(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._log.warning("sending failed, trying again", error=str(error), wait_s=round(state.upcoming_sleep, 3))

    def _count(self, outcome: str, signal: Signal, items: int) -> None:
        self._telemetry.add(f"otel_aiops_exporter_{outcome}_{signal.items}", items, exporter=self._name)


def _items(requests: Iterable[Request]) -> list[tuple[Signal, int]]:
    """How many items of each signal requests have."""
    found: Counter[Signal] = Counter()
    for request in requests:
        found[request.signal] += request.points
    return sorted(found.items())


def _connect(config: ExporterConfig) -> Client:
    """A client that has not connected yet; ConfigError when a certificate file cannot be read."""
    kind = GrpcClient if config.protocol == "grpc" else HttpClient
    return kind(
        config.endpoint,
        tls=config.tls,
        headers=config.headers,
        compression=config.compression,
        timeout_s=config.timeout,
    )
