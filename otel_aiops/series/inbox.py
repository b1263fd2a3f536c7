"""The bounded queue between the log and the step loop: room is reserved before a body is written."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from otel_aiops.errors import Overloaded
from otel_aiops.series.records import RecordKind


@dataclass(frozen=True, slots=True)
class Entry:
    """A durable record on its way to the step loop, with whatever the appender gave along."""

    sequence: int
    received_ns: int
    kind: RecordKind
    item: object


class Inbox:
    """Hands entries over in the order they are put; full means that reserving raises Overloaded.

    Every `reserve` is followed by one `put` or one `release` of the same weight, so that what is durable
    always finds its room and the log never waits for the step loop.
    """

    def __init__(self, *, bodies: int, weight: int) -> None:
        self._limit = bodies, weight
        self._reserved = [0, 0]
        self._entries: deque[tuple[Entry, int]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._woken = False

    @property
    def bodies(self) -> int:
        """Entries that can be taken."""
        return len(self._entries)

    @property
    def weight(self) -> int:
        """Weight of all that is reserved or queued."""
        return self._reserved[1]

    def reserve(self, weight: int) -> None:
        """Keep room for one entry; an empty queue takes an entry of any weight."""
        with self._changed:
            bodies, total = self._reserved
            if bodies and (bodies >= self._limit[0] or total + weight > self._limit[1]):
                raise Overloaded(f"{bodies} bodies of {total} bytes wait to be scored; retry later")
            self._reserved = [bodies + 1, total + weight]

    def release(self, weight: int) -> None:
        """Give back room that is not used after all."""
        with self._changed:
            self._reserved = [self._reserved[0] - 1, self._reserved[1] - weight]

    def put(self, entries: Iterable[tuple[Entry, int]]) -> None:
        """Queue entries, each with the weight that was reserved for it."""
        with self._changed:
            self._entries.extend(entries)
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Entry | None:
        """The next entry; None when none comes in time or before `wake`, or ever again after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._closed or self._woken, timeout_s)
            self._woken = False
            if not self._entries:
                return None
            entry, weight = self._entries.popleft()
            self._reserved = [self._reserved[0] - 1, self._reserved[1] - weight]
            return entry

    def wake(self) -> None:
        """Let `take` return at once, now or the next time."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more will be put; what is queued can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
