"""Progress of a long run, told at most some times a second."""

from __future__ import annotations

import time
from collections.abc import Callable

Show = Callable[[float, float, str], None]  # (done, total, text)

INTERVAL_S = 0.2


class Progress:
    """Passes on what is told, but not more often than someone can read; tells nobody when there is no `show`."""

    def __init__(self, show: Show | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._show = show
        self._clock = clock
        self._due_s = 0.0

    def __call__(self, done: float, total: float, text: Callable[[], str]) -> None:
        """`text` is only made when it is shown."""
        if self._show is None:
            return
        now_s = self._clock()
        if now_s >= self._due_s:
            self._due_s = now_s + INTERVAL_S
            self._show(done, total, text())
