"""Chain: whether the audit of responses holds, looked at as a whole now and then, and what was written last."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from otel_aiops.responses.audit import Line, Verified, verify

if TYPE_CHECKING:
    from otel_aiops.app import Service

EVERY_S = 30.0  # between two looks at all lines, however often somebody asks


class Chain:
    """Any thread may ask; one looks, and the others have what was seen last."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._seen: tuple[Verified, int] | None = None  # and when, in ns
        self._due_s = 0.0

    def told(self, *, limit: int) -> dict[str, Any]:
        """Whether every line follows from the one before, as of `checked`; the newest lines. Raises: StorageError."""
        found, checked_ns = self._looked()
        newest = self._service.responder.ledger.deeds(limit=limit)
        return {
            "holds": not found.broken,
            "lines": found.lines,
            "head": found.head,
            "broken": found.broken or None,
            "why": found.why or None,
            "checked": checked_ns / 1e9,
            "newest": [told_of(one) for one in newest],
        }

    def _looked(self) -> tuple[Verified, int]:
        with self._lock:
            now_s = time.monotonic()
            if self._seen is None or now_s >= self._due_s:
                self._seen = verify(self._service.responder.ledger.lines()), self._service.clock_ns()
                self._due_s = now_s + EVERY_S
            return self._seen


def told_of(line: Line) -> dict[str, Any]:
    """A line of the audit as plain values, also one that somebody has changed into something else."""
    try:
        one = line.deed()
    except (ValueError, TypeError):
        return {"number": line.number, "time": None, "what": "cannot be read", "who": "", "why": "", "response": None}
    told = {"number": line.number, "time": one.time_ns / 1e9, "what": one.what, "who": one.who, "why": one.why}
    return {**told, "response": one.run or None}
