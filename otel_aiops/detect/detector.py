"""Words of detection: the Batch that is scored, the Scores that come out, and what a Detector is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Batch:
    """K aligned points, at most one per row (so a vectorised update is exact).

    Shape: all (K,). `rows` are unique and non-negative; `interval_s` is the time since the row's previous
    point (NaN for the first).
    """

    rows: I32
    time_ns: I64
    value: F64
    interval_s: F64


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a Batch, all (K,).

    `score` >= 0, 1 is the threshold, NaN is "cannot say yet". `probability` is in [0, 1]: one minus the
    calibrated share of this series' normal points that score at least as high; NaN when unknown.
    `expected`, `lower` and `upper` are the band in the series' unit, NaN when unknown. `channel` indexes
    the detector's `channels` (what made the score). `warmup_s` is the estimated time until the row is warm:
    0 when warm, NaN when it cannot be told (too sparse).
    """

    score: F64
    probability: F64
    expected: F64
    lower: F64
    upper: F64
    channel: U8
    warmup_s: F64


class Detector(Protocol):
    """Scores on arrival, for all rows at once. `score` reads, `learn` writes; same input, same bits."""

    channels: tuple[str, ...]

    def score(self, batch: Batch) -> Scores: ...

    def learn(self, batch: Batch, scores: Scores) -> None: ...

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series start anew."""

    def reason(self, batch: Batch, scores: Scores, k: int) -> str:
        """Why point k has its score, in one plain sentence with numbers and units of the series."""

    def state(self) -> dict[str, NDArray[np.generic]]: ...

    def restore(self, arrays: dict[str, NDArray[np.generic]]) -> None: ...
