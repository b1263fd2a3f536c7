"""Alerts: which points are worth waking somebody for, beside the score, which they never change."""

from __future__ import annotations

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

    def look(self, rows: I32, score: F64, points: F64) -> F64:
        """The alert scores of K points, 0 where they are held back; nothing changes. 1 is the threshold.

        `points` (K,) is how many points of each series are known.
        """
        of, alert = self.of, np.empty(len(rows))
        # Kernels know no float16.
        _look(of["age"], of["fatigue"], rows, of["peak"][rows].astype(np.float64), score, points, alert)
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
        tired = score[k] / (1 + FATIGUE * (LEFT * fatigue[rows[k]]))
        held = peak[k] > 0 and age[rows[k]] <= min(max(HOLD_SHARE * points[k], SHORTEST_HOLD), LONGEST_HOLD)
        alert[k] = 0.0 if held and not tired > peak[k] else tired


@compiled
def _learn(age: U16, fatigue: F32, rows: I32, alert: F64) -> None:
    for k in range(len(rows)):
        r = rows[k]
        fatigue[r] = LEFT * fatigue[r] + (min(alert[k], MOST_TIRING) if alert[k] > 0 else 0.0)
        age[r] = 1 if alert[k] > 0 else min(np.int64(age[r]), np.int64(OLDEST)) + 1


def alarming(score: F64, deviation: F64 | None, strange: F64, novel: F64, points: F64) -> F64:
    """How much K points are worth an alert before hold and fatigue, (K,); 1 is the threshold.

    Where values are remembered it takes both, what is strange and what is novel: the score alone finds spikes that come
    again and again, novelty alone finds every first time. Elsewhere, and while few `points` are known, it is a share of
    the score. Without `deviation` it is only these.
    """
    both = novel ** (1 - STRANGE_SHARE) * strange**STRANGE_SHARE  # NaN where values are not remembered
    _alarm(score, np.zeros(len(score)) if deviation is None else deviation, points, both)
    return both


@compiled
def _alarm(score: F64, deviation: F64, points: F64, both: F64) -> None:
    for k in range(len(score)):
        known = points[k] >= SETTLED and not np.isnan(both[k])
        both[k] = max(both[k], DEVIATION_WEIGHT * deviation[k]) if known else DEVIATION_WEIGHT * score[k]
