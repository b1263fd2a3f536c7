"""Words of detection: the Scores of a batch, and what a Detector is."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import F64, I32
from otel_aiops.series.batch import Batch

U8 = NDArray[np.uint8]

CHANNELS = (
    "none",
    "level",
    "season",
    "shift",
    "variance",
    "flat",
    "constant",
    "stopped",
    "novelty",
    "peers",
    "job",  # a known job explains it, so it is no anomaly
    "missed job",
    "forest",  # the values of its service together, in a version that was trained with this family
    "forecast",  # its mean against a Holt-Winters forecast, in a version that was trained with this family
)
NONE, LEVEL, SEASON, SHIFT, VARIANCE, FLAT, CONSTANT, STOPPED, NOVELTY, PEERS, JOB, MISSED, FOREST, FORECAST = range(
    len(CHANNELS)
)


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a Batch, all (K,).

    `score` >= 0, 1 is the threshold, NaN is "cannot say yet". `probability` is in [0, 1]: one minus the
    calibrated share of this series' normal points that score at least as high; NaN when unknown.
    `expected`, `lower` and `upper` are the band in the series' unit, NaN when unknown. `channel` indexes
    the detector's `channels` (what made the score). `warmup_s` is the estimated time until the row is warm:
    0 when warm, NaN when it cannot be told (too sparse). `alert` >= 0 says how much a point is worth an
    alert, 1 is the threshold and 0 is "no" or "held back"; hold and fatigue show in it and never in the score.
    """

    score: F64
    probability: F64
    expected: F64
    lower: F64
    upper: F64
    channel: U8
    warmup_s: F64
    alert: F64

    def at(self, k: NDArray[np.intp]) -> Scores:
        """Some of the points."""
        return Scores(*(getattr(self, field.name)[k] for field in fields(self)))


class Detector(Protocol):
    """Scores on arrival, for all rows at once. `score` reads, `learn` writes; same input, same bits."""

    @property
    def channels(self) -> tuple[str, ...]: ...

    def score(self, batch: Batch) -> Scores: ...

    def learn(self, batch: Batch, scores: Scores) -> None: ...

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series start anew."""

    def reason(self, batch: Batch, scores: Scores, k: int) -> str:
        """Why point k has its score, in one plain sentence with numbers and units of the series."""

    def state(self) -> dict[str, NDArray[np.generic]]: ...

    def restore(self, arrays: dict[str, NDArray[np.generic]]) -> None: ...
