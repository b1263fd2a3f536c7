"""Throttle: how many wrong guesses an address has, so that passwords cannot be tried one after the other."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from otel_aiops.errors import Overloaded

AT_ONCE: Final = 10.0  # wrong guesses of an address before it must wait
A_SECOND: Final = 0.2  # that it has again
MOST: Final = 10_000  # addresses that are remembered


class Slower(Overloaded):
    """An address has guessed wrong too often."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("too many wrong guesses from this address; wait", retry_after_s=wait_s)


class Throttle:
    """Counts wrong guesses by address; any thread may ask. `clock` is monotonic seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[float, float]] = OrderedDict()  # (guesses that are left, as of)

    def wait_s(self, address: str) -> float:
        """How long an address must wait before its next guess; 0 is not."""
        with self._lock:
            left = self._left(address)
        return 0.0 if left >= 1 else (1 - left) / A_SECOND

    def wrong(self, address: str) -> None:
        """It has guessed wrong."""
        with self._lock:
            self._known[address] = (max(0.0, self._left(address) - 1), self._clock())
            self._known.move_to_end(address)
            if len(self._known) > MOST:
                self._known.popitem(last=False)

    def _left(self, address: str) -> float:
        left, then_s = self._known.get(address, (AT_ONCE, 0.0))
        return min(AT_ONCE, left + (self._clock() - then_s) * A_SECOND)
