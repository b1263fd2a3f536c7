"""Alerts: which points are worth waking somebody for, beside the score, which they never change."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.compiled import compiled
from otel_aiops.detect.memory import indices
from otel_aiops.otlp.points import F64, I32
from otel_aiops.series.columns import Columns

F32 = NDArray[np.float32]
U16 = NDArray[np.uint16]

STRANGE_SHARE = 0.15  # of what is strange in the mean with what is novel
DEVIATION_WEIGHT = 0.5  # of a score that comes from level, shift, variance, flat line or constant
HOLD_SHARE, SHORTEST_HOLD, LONGEST_HOLD = 0.06, 30.0, 400.0  # of the points so far
FATIGUE = 0.25  # by which one alert raises the bar for the next one
FATIGUE_POINTS = 3_000.0  # in which that falls to a third
LEFT = float(np.exp(-1 / FATIGUE_POINTS))  # of it after one point
SETTLED = 100.0  # points from which on a first time says something
MOST_TIRING = 2.0  # what one alert adds at most
OLDEST = 10_000  # points


class Alerts(Columns):
    """Hold and fatigue: after an alert only what is worse is one, for a time that grows with what is known of the
    series; and each alert raises the bar for the following ones for a while.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "peak": (np.float16, (), 0),  # of the newest alert
                "age": (np.uint16, (), 0),  # points since then
                "fatigue": (np.float32, (), 0),
            }
        )

    def peaks(self, rows: I32) -> F64:
        """The newest alerts of K rows; kernels know no float16."""
        return self.of["peak"][rows].astype(np.float64)

    def look(self, rows: I32, score: F64, points: F64) -> F64:
        """The alert scores of K points, 0 where they are held back; nothing changes. 1 is the threshold.

        `points` (K,) is how many points of each series are known.
        """
        alert = np.empty(len(rows))
        _look(self.of["age"], self.of["fatigue"], rows, self.peaks(rows), score, points, alert)
        return alert

    def learn(self, rows: I32, alert: F64) -> None:
        """Take in what `look` gave for K points."""
        raised = indices(alert > 0)
        if len(raised):
            self.of["peak"][rows[raised]] = alert[raised]
        _learn(self.of["age"], self.of["fatigue"], rows, alert)


@compiled
def _look(age: U16, fatigue: F32, rows: I32, peak: F64, score: F64, points: F64, alert: F64) -> None:
    for k in range(len(rows)):
        alert[k] = not_held(age, fatigue, rows[k], peak[k], score[k], points[k])


@compiled
def not_held(age: U16, fatigue: F32, r: int, peak: float, score: float, points: float) -> Any:
    """The alert score of one point, 0 where it is held back."""
    tired = score / (1 + FATIGUE * (LEFT * fatigue[r]))
    held = peak > 0 and age[r] <= min(max(HOLD_SHARE * points, SHORTEST_HOLD), LONGEST_HOLD)
    return 0.0 if held and not tired > peak else tired


@compiled
def _learn(age: U16, fatigue: F32, rows: I32, alert: F64) -> None:
    for k in range(len(rows)):
        r = rows[k]
        fatigue[r] = LEFT * fatigue[r] + (min(alert[k], MOST_TIRING) if alert[k] > 0 else 0.0)
        age[r] = 1 if alert[k] > 0 else min(np.int64(age[r]), np.int64(OLDEST)) + 1


@compiled
def alarming(score: float, deviation: float, strange: float, novel: float, points: float) -> Any:
    """How much a point is worth an alert before hold and fatigue; 1 is the threshold.

    Where values are remembered it takes both, what is strange and what is novel: the score alone finds spikes that come
    again and again, novelty alone finds every first time. Elsewhere, and while few `points` are known, it is a share of
    the score. `deviation` is 0 where level, season and the like do not count.
    """
    if points < SETTLED or np.isnan(novel) or np.isnan(strange):
        return DEVIATION_WEIGHT * score
    return max(novel ** (1 - STRANGE_SHARE) * strange**STRANGE_SHARE, DEVIATION_WEIGHT * deviation)
