"""An errand: what a thread beside the step loop does now and then, until the service stops."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from otel_aiops.errors import AiopsError

log = structlog.get_logger("otel_aiops")

STOP_S = 2.0


class Errand:
    """Calls `work` again and again, in one thread. What goes wrong is logged as `failure`, and tried the next time.

    `every_s` is asked before each wait, so that another configuration holds at once; `first_s` is the most that the
    first wait takes.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], object],
        *,
        every_s: Callable[[], float],
        failure: str,
        first_s: float = float("inf"),
    ) -> None:
        self._work, self._every_s, self._first_s, self._failure = work, every_s, first_s, failure
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def stopping(self) -> bool:
        """Whether what is being done is not wanted any more."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Begin to wait for the first time."""
        self._thread.start()

    def stop(self) -> None:
        """End; work that goes on is not waited for long. Safe to call twice, and before the start."""
        self._stopping.set()
        if self._thread.ident:
            self._thread.join(STOP_S)

    def _run(self) -> None:
        wait_s = min(self._first_s, self._every_s())
        while not self._stopping.wait(wait_s):
            try:
                self._work()
            except AiopsError as error:
                self._tell(log.warning, error=str(error))
            except Exception:  # the service goes on with what it has
                self._tell(log.exception)
            wait_s = self._every_s()

    def _tell(self, tell: Callable[..., object], **more: str) -> None:
        """Of work that the end of the service cut off nobody needs to know."""
        if not self.stopping:
            tell(self._failure, **more)
