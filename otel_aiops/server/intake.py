"""Intake: what both transports do with a body once they have it: keep within bounds, hand it over, count."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import structlog

from otel_aiops.errors import AiopsError, Overloaded, StorageError
from otel_aiops.otlp.signal import Signal

Transport = Literal["grpc", "http"]
Outcome = Literal["success", "refused", "failure"]

FAULT_RETRY_S = 5.0  # after a fault of ours; the Collector starts there, too

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Received:
    """A body as it came. `compression` is identity, gzip, deflate or zstd; `json` is under the compression."""

    payload: bytes
    compression: str
    json: bool
    transport: Transport


@dataclass(frozen=True, slots=True)
class Accepted:
    """The sink's answer: items taken and items refused for good, with the reason. The body is durable."""

    accepted: int
    rejected: int = 0
    message: str = ""


Accept = Callable[[Signal, Received], Accepted]


@dataclass(frozen=True, slots=True)
class ReceiverStats:
    """Counts since the start, and what is in hand now.

    Items are keyed by signal and transport: `accepted`; `refused` (bad, or too much at the time); `failed` (a fault of
    ours). A body that was refused unread has no known number of items and is in `requests` only, which is keyed
    by signal, transport and outcome: success, refused, failure.
    """

    accepted: Mapping[tuple[Signal, Transport], int]
    refused: Mapping[tuple[Signal, Transport], int]
    failed: Mapping[tuple[Signal, Transport], int]
    requests: Mapping[tuple[Signal, Transport, Outcome], int]
    in_flight_requests: Mapping[Transport, int]
    in_flight_bytes: Mapping[Transport, int]


class Intake:
    """The way of one transport's bodies to the sink; any thread may use it."""

    def __init__(self, accept: Accept, transport: Transport, *, max_requests: int, max_bytes: int) -> None:
        self.transport: Transport = transport
        self._accept = accept
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._requests = 0
        self._bytes = 0
        self._items: dict[Outcome, Counter[tuple[Signal, Transport]]] = {
            "success": Counter(),
            "refused": Counter(),
            "failure": Counter(),
        }
        self._outcomes: Counter[tuple[Signal, Transport, Outcome]] = Counter()

    def place(self) -> Place:
        """Room for one request; leave it with `with`."""
        return Place(self)

    def take(self, signal: Signal, body: Received) -> Accepted:
        """Hand a body to the sink and count what becomes of it.

        Raises: what the sink raises; Overloaded for what it never meant to raise, because no sender may drop data
        for a fault of ours.
        """
        try:
            answer = self._accept(signal, body)
        except AiopsError as error:
            self.refuse(signal, error)
            raise
        except Exception as error:
            _log.exception("a body was not accepted because of a fault", signal=signal.value, transport=self.transport)
            self._count(signal, "failure", 0)
            raise Overloaded("a fault inside otel-aiops; see its log", retry_after_s=FAULT_RETRY_S) from error
        self._count(signal, "success", answer.accepted)
        with self._lock:
            self._items["refused"][signal, self.transport] += answer.rejected
        return answer

    def refuse(self, signal: Signal, error: AiopsError) -> None:
        """Count a request that was turned away."""
        self._count(signal, "failure" if isinstance(error, StorageError) else "refused", error.items)

    def stats(self) -> ReceiverStats:
        """The counts of this transport."""
        with self._lock:
            return ReceiverStats(
                accepted=dict(self._items["success"]),
                refused=dict(self._items["refused"]),
                failed=dict(self._items["failure"]),
                requests=dict(self._outcomes),
                in_flight_requests={self.transport: self._requests},
                in_flight_bytes={self.transport: self._bytes},
            )

    def _count(self, signal: Signal, outcome: Outcome, items: int) -> None:
        with self._lock:
            self._outcomes[signal, self.transport, outcome] += 1
            self._items[outcome][signal, self.transport] += items

    def _claim(self, requests: int, size_bytes: int) -> None:
        with self._lock:
            if requests and self._requests >= self._max_requests:
                raise Overloaded(f"{self._requests} requests are in progress, the most that are allowed")
            if size_bytes and self._bytes + size_bytes > self._max_bytes:
                raise Overloaded(f"requests of {self._bytes} bytes are in progress, at most {self._max_bytes} may be")
            self._requests += requests
            self._bytes += size_bytes

    def _give_back(self, requests: int, size_bytes: int) -> None:
        with self._lock:
            self._requests -= requests
            self._bytes -= size_bytes


class Place:
    """One request's share of the bounds, given back at the end of `with`."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._requests = 0
        self._bytes = 0

    def work(self) -> None:
        """Claim one of the requests that may be worked on at once. Raises Overloaded."""
        self._intake._claim(1, 0)
        self._requests += 1

    def hold(self, size_bytes: int) -> None:
        """Claim memory for so many bytes more. Raises Overloaded."""
        self._intake._claim(0, size_bytes)
        self._bytes += size_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._intake._give_back(self._requests, self._bytes)
