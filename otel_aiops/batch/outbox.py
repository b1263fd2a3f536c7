"""The outbox of a backfill: the pasts of many streams in one request, because the service learns them side by side."""

from __future__ import annotations

import gzip
from collections.abc import Sequence

from otel_aiops.batch.client import Api
from otel_aiops.batch.past import BODY_BYTES, Request
from otel_aiops.errors import BadInput, TooLarge

HEADERS = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}


class Outbox:
    """Collects requests and sends them when they fill a body; what was taken is counted."""

    def __init__(self, server: Api, *, body_bytes: int = BODY_BYTES) -> None:
        self._server = server
        self._body_bytes = body_bytes
        self._waiting: list[tuple[str, Request]] = []
        self._bytes = 0
        self.learned = 0
        self.points = 0
        self.cut = 0
        self.errors: list[str] = []

    @property
    def touched(self) -> bool:
        """Whether anything was sent or waits to be."""
        return bool(self.learned or self._waiting)

    def add(self, name: str, request: Request) -> None:
        """Take the past of a stream of a metric. Raises: Overloaded, Unauthorized when it must be sent and cannot."""
        if self._waiting and self._bytes + len(request.body) > self._body_bytes:
            self.flush()
        self._waiting.append((name, request))
        self._bytes += len(request.body)

    def flush(self) -> None:
        """Send what waits; what the service refuses is an error that names the metrics. Raises as `add`."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        if waiting:
            self._send(waiting)

    def _send(self, requests: Sequence[tuple[str, Request]]) -> None:
        """Teach the service; where it takes no body so large, two of half the size."""
        body = b"".join(request.body for _, request in requests)
        try:
            answer = self._server.post("/api/v1/backfill", gzip.compress(body, 1), HEADERS)
            points = int(answer["points"])
        except TooLarge as error:
            if len(requests) == 1:
                self._refused(requests, error)
                return
            half = len(requests) // 2
            self._send(requests[:half])
            self._send(requests[half:])
            return
        except (BadInput, KeyError, TypeError, ValueError) as error:
            self._refused(requests, error)
            return
        self.points += points
        self.learned += len(requests)
        self.cut += sum(request.cut for _, request in requests)

    def _refused(self, requests: Sequence[tuple[str, Request]], error: Exception) -> None:
        names = sorted({name for name, _ in requests})
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        what = str(error) if isinstance(error, BadInput) else f"expected a number of points, got {error!r}"
        self.errors.append(f"{', '.join(names[:3])}{more}: {what}")
