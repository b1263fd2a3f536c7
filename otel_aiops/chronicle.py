"""The chronicle: every change of an incident goes into the journal, and as a line into files that others read."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

import structlog

from otel_aiops.detect.lessons import Verdict
from otel_aiops.detect.serving import Rollout
from otel_aiops.errors import ConfigError, StorageError
from otel_aiops.incidents.alert_note import AlertNote
from otel_aiops.incidents.codec import to_line
from otel_aiops.incidents.incident import Incident
from otel_aiops.incidents.journal import Journal, JournalConfig, together
from otel_aiops.incidents.suppress import Decision

log = structlog.get_logger("otel_aiops")

MOST_WAITING = 100_000  # revisions that wait for a journal that cannot be written
FORGET_EVERY_NS = 86_400_000_000_000


Write = Callable[[Journal], object]


@dataclass(frozen=True, slots=True)
class IncidentFiles:
    """Where lines of JSON go; None for nowhere."""

    incidents: Path | None = None
    predictions: Path | None = None


class Chronicle:
    """Owner of the journal and of the files. A journal that fails for a while gets everything later."""

    def __init__(self, config: JournalConfig, directory: Path, files: IncidentFiles) -> None:
        self.journal = Journal(config, directory)
        self.failed = 0  # writes that the journal refused
        self.changes: Counter[str] = Counter()  # since the start, by what changed: incidents, alerts, verdicts, models
        self._files = files
        self._open: dict[Path, TextIO] = {}
        self._waiting: deque[tuple[int, Write]] = deque()  # how many things a write writes, and the write
        self._forget_due_ns = 0

    def open(self) -> None:
        """Open the journal and the files. Raises: ConfigError, StorageError, StateError."""
        self.journal.open()
        for path in (self._files.incidents, self._files.predictions):
            if path is not None:
                try:
                    self._open[path] = path.open("a", encoding="utf-8")
                except OSError as error:
                    raise ConfigError("", f"cannot write incidents to {path}: {error}") from error

    def close(self) -> None:
        """Write what waits, if that can be done, and close. May be called twice."""
        self._flush()
        self.journal.close()
        for file in self._open.values():
            file.close()
        self._open = {}

    def write(self, incidents: Sequence[Incident], event_ns: int) -> None:
        """Take the new revisions of a step; of many at once, with fewer findings (see `together`).

        After a crash they may come again, which changes nothing.
        """
        if not incidents and not self._waiting:
            return
        incidents = together(incidents)
        self.changes["incidents"] += len(incidents)
        for incident in incidents:
            self._line(incident, event_ns)
        if incidents:
            self._wait(len(incidents), lambda journal: journal.append(incidents, event_ns))
        self._flush()
        if event_ns >= self._forget_due_ns and not self._waiting:
            self._forget_due_ns = event_ns + FORGET_EVERY_NS
            self._forget(event_ns)

    def decided(self, decision: Decision) -> None:
        """Take what an operator decided; it is written with the next step."""
        self.changes["incidents"] += 1
        self._wait(1, lambda journal: journal.decided(decision))

    def judged(self, verdicts: Sequence[tuple[str, Verdict]]) -> None:
        """Take what people said of series, by canonical text; it is written with the next step."""
        self.changes["verdicts"] += len(verdicts)
        for series, verdict in verdicts:
            self._wait(1, partial(_judged, verdict=verdict, series=series))

    def rolled(self, order: Rollout) -> None:
        """Take what was done with model versions; it is written with the next step."""
        self.changes["models"] += 1
        self._wait(1, lambda journal: journal.rolled(order))

    def raised(self, notes: Sequence[AlertNote]) -> None:
        """Take with what alerts began; it is written with this step."""
        if notes:
            self._wait(len(notes), lambda journal: journal.raised(notes))

    def _wait(self, weight: int, write: Write) -> None:
        self._waiting.append((weight, write))

    def _line(self, incident: Incident, event_ns: int) -> None:
        path = self._files.incidents if incident.prediction is None else self._files.predictions
        file = self._open.get(path) if path is not None else None
        if file is None:
            return
        try:
            file.write(json.dumps({**to_line(incident), "updated_at": event_ns / 1e9}, ensure_ascii=False) + "\n")
            file.flush()
        except OSError as error:
            log.error("a change of an incident could not be written", path=str(path), error=str(error))

    def _flush(self) -> None:
        """Hand what waits to the journal, in order, as far as it takes it."""
        while self._waiting:
            try:
                self._waiting[0][1](self.journal)
            except StorageError as error:
                self.failed += 1
                if self.failed == 1 or not self.failed % 1000:
                    log.error("the journal of incidents cannot be written; it gets all later", error=str(error))
                while sum(weight for weight, _ in self._waiting) > MOST_WAITING:
                    self._waiting.popleft()
                return
            self._waiting.popleft()

    def _forget(self, event_ns: int) -> None:
        try:
            self.journal.forget(event_ns)
        except StorageError as error:
            log.warning("old incidents could not be deleted from the journal", error=str(error))


def _judged(journal: Journal, *, verdict: Verdict, series: str) -> None:
    journal.judged(verdict, series)
