"""Apart: a copy of what a version knows of some series scores points of them, and nothing else changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.forest import Forests
from otel_aiops.detect.prototypes import Prototypes
from otel_aiops.detect.scorer import Scored
from otel_aiops.detect.serving import Model, Rules, Trained
from otel_aiops.detect.smoothing import Smoothing
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import I32, I64
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import Arrays


@dataclass(frozen=True, slots=True)
class Known:
    """What a version knows of K series, the first rows of `engine`, and of series that it has never seen.

    Whoever makes it hands it over: nobody else may use `engine` afterwards.
    """

    detection: EngineConfig
    engine: Engine
    budget: Arrays
    prototypes: Prototypes | None = None
    forest: Arrays | None = None
    forecast: Arrays | None = None


class Loaded:
    """A version that was registered, to be looked at often: which series it knows, and copies of what it knows."""

    def __init__(self, trained: Trained) -> None:
        """Raises: StateError when it does not fit its settings."""
        self._of = trained
        self._engine = Engine(trained.detection)
        self._engine.restore(trained.engine)
        self._prototypes = Prototypes.among(trained.detection, trained.prototypes, trained.engine)
        self.rows: Mapping[str, int] = {text: row for row, text in enumerate(trained.labels)}

    def copy(self, rows: I32) -> Known:
        """What it knows of these rows."""
        of = self._of
        engine = self._engine.excerpt(rows)
        return Known(of.detection, engine, of.budget, self._prototypes, of.forest or None, of.forecast or None)


def champion(model: Model, rows: I32) -> Known:
    """What a version that serves knows of these rows now; to be called where nothing changes it meanwhile."""
    return Known(
        model.detection,
        model.scorer.engine.excerpt(rows),
        model.alerting.budget.learned(),
        model.prototypes,
        model.forests.learned() if model.forests else None,
        model.smoothing.learned() if model.smoothing else None,
    )


class Apart:
    """Scores points of S series, score first and learn after, with a copy of what a version knows.

    The rules of the configuration hold as where a version serves. What its jobs, and the peers of a series, say there
    is no part of a version and is left out here.
    """

    def __init__(self, known: Known, places: Sequence[int], labels: Sequence[Labels], rules: Rules) -> None:
        """`places` (S,) says which row of `known` each series is, -1 for one that it has never seen."""
        self.labels, self.places = labels, places
        self.model = Model("", known.detection, rules, _fingerprint)
        every = np.arange(len(labels), dtype=np.int32)
        seen = np.array(places, np.int32).reshape(-1)
        self.model.scorer.engine = _arranged(known.engine, seen)
        self.model.prototypes = known.prototypes
        self.model.forests = Forests(known.forest) if known.forest else None
        self.model.smoothing = Smoothing(known.forecast) if known.forecast else None
        self.model.assign(every, labels)
        self.model.welcome(every, labels)
        new = np.flatnonzero(seen < 0)
        self.model.begin(every[new], [labels[k] for k in new.tolist()])
        if known.budget:
            self.model.alerting.budget.adopt(known.budget)

    @property
    def together(self) -> bool:
        """Whether a score may depend on what other series are at the same time."""
        return self.model.forests is not None

    def newest_ns(self) -> I64:
        """When the newest point of each series was that the version has learned from, 0 where it cannot be told."""
        return self.model.scorer.engine.newest_ns(np.arange(len(self.labels), dtype=np.int32))

    def score(self, batch: Batch) -> Scored:
        """Score K points, then learn from them."""
        return self.model.score(batch)

    def reason(self, scored: Scored, k: int, unit: str = "") -> str:
        """Why point k has its score; asked before anything later is learned."""
        return self.model.reason(scored, k, unit or self.labels[int(scored.batch.rows[k])].unit)


def _arranged(engine: Engine, places: I32) -> Engine:
    """The rows of an engine in the order of `places`, where -1 is one that is new."""
    if (places == np.arange(len(places))).all():
        return engine
    fresh = int(places.max(initial=-1)) + 1
    rows = np.where(places >= 0, places, fresh + np.cumsum(places < 0) - 1).astype(np.int32)
    return engine.excerpt(rows)


def _fingerprint(rows: I32) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return rows.astype(np.uint64) + np.uint64(1)
