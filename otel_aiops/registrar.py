"""The registrar: tells the registry which versions serve, beside the step loop, and knows what is registered."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from otel_aiops.errors import AiopsError
from otel_aiops.lifecycle.registry import Job, Registered, Registry, tell, verify
from otel_aiops.lifecycle.version import ModelVersion

if TYPE_CHECKING:
    from otel_aiops.app import Service

log = structlog.get_logger("otel_aiops")

SETTLE_S = 2.0  # orders that follow each other are told once
STOP_S = 2.0
FAILURES = "otel_aiops.registry.failures"


class Registrar:
    """One thread. A registry that is down, hangs or is locked is told later; nothing that serves ever waits for it.

    What it has is known from the last time that it answered: a version that it has with another digest is refused, one
    that it does not have is not, since it may have been out of reach when that was saved.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stopping, self._changed = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._roles: dict[str, str] = {}
        self._known: dict[str, Registered] = {}
        self._thread = threading.Thread(target=self._run, name="registry", daemon=True)

    def start(self) -> None:
        """Begin; what changed while nobody ran is told too."""
        config = self._service.config.lifecycle.registry
        if config.enabled and (self._roles or Registry(self._service.directory, config).exists):
            self._changed.set()
        self._thread.start()

    def stop(self) -> None:
        """End; what is being told is given up, and told after the next start."""
        self._stopping.set()
        self._changed.set()
        if self._thread.ident:
            self._thread.join(STOP_S)

    def roles(self) -> None:
        """Take over who serves now; called in the step loop, after an order and after a recovery."""
        serving = self._service.pipeline.serving
        found = {"champion": serving.champion.name, "previous": serving.previous}
        if serving.other is not None:
            beside = {"shadow": ("shadow", "challenger"), "canary": ("challenger",), "former": ("previous",)}
            found |= dict.fromkeys(beside[serving.role], serving.other.name)
        with self._lock:
            self._roles = {alias: name for alias, name in found.items() if name}
        self._changed.set()

    def known(self) -> Mapping[str, Registered]:
        """What was registered when the registry last answered, by id."""
        with self._lock:
            return dict(self._known)

    def check(self, version: ModelVersion) -> None:
        """See that a version is what was registered under its id. Raises: StateError."""
        if (found := self.known().get(version.id)) is not None:
            verify(found, version)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._changed.wait()
            if self._stopping.wait(SETTLE_S):
                return
            self._changed.clear()
            config = self._service.config.lifecycle.registry
            if not config.enabled:
                continue
            with self._lock:
                job = Job(str(self._service.directory), config, dict(self._roles))
            try:
                found = tell(job, self._stopping.is_set)
            except AiopsError as error:
                self._failed(str(error), config.retry)
            except Exception as error:  # it is tried again, whatever it was
                self._failed(repr(error), config.retry)
            else:
                with self._lock:
                    self._known = {one.id: one for one in found}

    def _failed(self, why: str, retry_s: float) -> None:
        if self._stopping.is_set():
            return
        self._service.telemetry.add(FAILURES)
        log.warning("the registry could not be told who serves; it is tried again", why=why, after_s=retry_s)
        self._stopping.wait(retry_s)
        self._changed.set()
