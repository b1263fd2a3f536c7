"""The seasonal-naive baseline: what came a day ago is expected; whoever is no better than that need not be served."""

from __future__ import annotations

import math

import numpy as np

from otel_aiops.detect.detector import LEVEL, STOPPED, Scores
from otel_aiops.detect.deviation import MOST
from otel_aiops.detect.scorer import Scored
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64, I32
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import Arrays, Columns

DAY_NS = 86_400_000_000_000
SLOTS = 288  # of a day, five minutes each
SPREADS = 6.0  # that make a score of 1, as in the engine
MEMORY = 300  # points that the spread remembers
WARMUP = 20  # points before the first score
SIGMA = math.sqrt(math.pi / 2)  # a normal distribution's deviation, in mean absolute ones


class SeasonalNaive:
    """Expects the value of the same five minutes of the day before, or the newest one while there was no such day.

    The score is the distance in mean absolute errors of the series, 6 standard deviations being 1; silence is scored as
    the engine does. Source: Hyndman and Athanasopoulos, Forecasting: Principles and Practice, section 5.2.
    """

    def __init__(self) -> None:
        self._rows = Columns(
            {
                "slots": (np.float32, (SLOTS,), np.nan),
                "last": (np.float64, (), np.nan),
                "error": (np.float64, (), 0),  # mean absolute error
                "points": (np.int64, (), 0),
            }
        )
        self._size = 0

    @property
    def bytes_per_series(self) -> int:
        """What is remembered of every series."""
        return 4 * SLOTS + 24

    def assign(self, row: int, labels: Labels) -> None:
        """Labels say nothing here, but that there is such a row."""
        self._size = max(self._size, row + 1)
        self._rows.reserve(self._size)

    def score(self, batch: Batch) -> Scored:
        """Score K points, then learn from them."""
        of, rows = self._rows.of, batch.rows
        slot = batch.time_ns % DAY_NS * SLOTS // DAY_NS
        before = of["slots"][rows, slot].astype(np.float64)
        expected = np.where(np.isnan(before), of["last"][rows], before)
        error, points = of["error"][rows], of["points"][rows]
        off = np.abs(batch.value - expected)
        spread = np.maximum(SIGMA * error, 1e-9 * np.abs(expected) + 1e-12)
        cold = (points < WARMUP) | np.isnan(expected)
        away = np.where(cold, np.nan, np.minimum(off / spread, MOST * SPREADS))
        scores = _scores(away / SPREADS, _probability(away), expected, SPREADS * spread)
        self._learn(rows, slot, batch.value, np.where(np.isnan(off), 0.0, np.minimum(off, _limit(error, points))))
        return Scored(batch, scores)

    def silent(self, batch: Batch, limit_s: F64) -> Scored:
        """Score K streams that have stopped."""
        absent = np.full(len(limit_s), np.nan)
        score = np.minimum(batch.interval_s / limit_s, MOST)
        scores = _scores(score, absent, absent, absent)
        scores.channel[:] = STOPPED
        return Scored(batch, scores)

    def state(self) -> Arrays:
        """Everything learned, one row a series."""
        return self._rows.state(self._size)

    def restore(self, arrays: Arrays) -> None:
        """Take over a state."""
        self._size = len(arrays["points"])
        self._rows.reserve(self._size)
        self._rows.restore(arrays, self._size)

    def _learn(self, rows: I32, slot: np.ndarray[tuple[int], np.dtype[np.int64]], value: F64, off: F64) -> None:
        of = self._rows.of
        points = of["points"][rows] + 1
        of["error"][rows] += (off - of["error"][rows]) / np.minimum(points, MEMORY)
        of["slots"][rows, slot] = np.clip(value, -3e38, 3e38)
        of["last"][rows], of["points"][rows] = value, points


def _limit(error: F64, points: np.ndarray[tuple[int], np.dtype[np.int64]]) -> F64:
    """The most that one error counts: else one fault would hide the next."""
    return np.where((points > WARMUP) & (error > 0), 10 * error, np.inf)


def _probability(away: F64) -> F64:
    """That a normal distribution has less, from distances in standard deviations."""
    from scipy.special import erf  # late, because the service pays for it

    found: F64 = erf(away / math.sqrt(2))
    return found


def _scores(score: F64, probability: F64, expected: F64, width: F64) -> Scores:
    count = len(score)
    return Scores(
        score=score,
        probability=probability,
        expected=expected,
        lower=expected - width,
        upper=expected + width,
        channel=np.full(count, LEVEL, np.uint8),
        warmup_s=np.zeros(count),
        alert=np.nan_to_num(score),
    )
