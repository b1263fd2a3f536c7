"""The trainer: learns beside the step loop what comes before incidents, and hands the models over through the log."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import structlog

from otel_aiops.errand import Errand
from otel_aiops.incidents.past import past_of, read_labels
from otel_aiops.incidents.precursors import Precursor, PrecursorsConfig, Training, train
from otel_aiops.incidents.signs import FeatureWindows, Seen, features

if TYPE_CHECKING:
    from otel_aiops.app import Service

log = structlog.get_logger("otel_aiops")

S = 1_000_000_000
FIRST_S = 60.0  # after the start
WINDOW_NS = 300 * S  # between the times that models learn from, or a multiple of it
MOST_WINDOWS = 6_000
MOST_SIGNS = 48  # kinds of signs that models look at, those that are seen most often
MOST_PAST = 2_000  # incidents of the journal


@dataclass(frozen=True, slots=True)
class Report:
    """What the newest training found; `time_ns` is the event time, 0 before the first."""

    trainings: tuple[Training, ...] = ()
    time_ns: int = 0
    since_ns: int = 0  # of the oldest sign
    signs: int = 0
    problem: str = ""  # with the file of labels


class Trainer:
    """Models reach the step loop as records of the log, so that a replay uses the same at the same place;
    the log and the snapshots are also where they are kept.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._report = Report()
        failure = "what comes before incidents could not be learned"
        self.errand = Errand(
            "precursors", self._due, every_s=lambda: self._config.interval, first_s=FIRST_S, failure=failure
        )

    @property
    def report(self) -> Report:
        """Of the newest training."""
        with self._lock:
            return self._report

    def train(self) -> Report:
        """Learn from all that is known now. Raises: Overloaded, StorageError, StateError."""
        config = self._config
        seen, known, event_ns = self._service.ask(self._look)
        incidents = self._service.chronicle.journal.past(from_ns=seen.since_ns, most=MOST_PAST)
        labels, problem = read_labels(Path(config.labels)) if config.labels else ([], "")
        if problem:
            log.warning("not all labels of incidents can be learned from", problem=problem)
        past = past_of(incidents, [one for one in labels if one[1] >= seen.since_ns])
        trainings = train(past, windows(seen, event_ns), config)
        models = tuple(one.model for one in trainings if one.model is not None)
        if models != known and not self.errand.stopping:
            self._service.ingest.foretell(models)
        report = Report(trainings, event_ns, seen.since_ns, len(seen.time_ns), problem)
        with self._lock:
            self._report = report
        return report

    @property
    def _config(self) -> PrecursorsConfig:
        return self._service.config.incidents.precursors

    def _due(self) -> None:
        if self._config.enabled:
            self.train()

    def _look(self) -> tuple[Seen, tuple[Precursor, ...], int]:
        """(all signs, the models in use, the event clock); in the step loop."""
        pipeline = self._service.pipeline
        forewarning = pipeline.analysis.forewarning
        return forewarning.signs.seen(), forewarning.models, pipeline.event_ns


def windows(seen: Seen, event_ns: int) -> FeatureWindows:
    """What was known at most MOST_WINDOWS times between the first sign and now, at equal distances."""
    span_ns = max(event_ns - seen.since_ns, 0)
    step_ns = WINDOW_NS * max(1, -(-span_ns // (WINDOW_NS * MOST_WINDOWS)))
    first_ns = -(-seen.since_ns // step_ns) * step_ns
    return features(seen, seen.most_frequent(MOST_SIGNS), np.arange(first_ns, event_ns + 1, step_ns, dtype=np.int64))
