"""Alerts: which points are worth waking somebody for, beside the score, which they never change."""

from __future__ import annotations

import numpy as np

from otel_aiops.detect.memory import place_of
from otel_aiops.otlp.points import F64, I32
from otel_aiops.series.columns import Columns

STRANGE_SHARE = 0.15  # of what is strange in the mean with what is novel
DEVIATION_WEIGHT = 0.5  # of a score that comes from level, shift, variance, flat line or constant
HOLD_SHARE, SHORTEST_HOLD, LONGEST_HOLD = 0.06, 30.0, 400.0  # of the points so far
FATIGUE = 0.25  # by which one alert raises the bar for the next one
FATIGUE_POINTS = 3_000.0  # in which that falls to a third
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
        of, place = self.of, place_of(rows)
        hold = np.clip(HOLD_SHARE * points, SHORTEST_HOLD, LONGEST_HOLD)
        tired = score / (1 + FATIGUE * self._fatigue(place))
        held = (of["age"][place] <= hold) & (of["peak"][place] > 0)
        return np.where(held & ~(tired > of["peak"][place]), 0.0, tired)

    def learn(self, rows: I32, alert: F64) -> None:
        """Take in what `look` gave for K points."""
        of, place = self.of, place_of(rows)
        raised = alert > 0
        of["fatigue"][place] = self._fatigue(place) + np.where(raised, np.minimum(alert, MOST_TIRING), 0.0)
        of["peak"][place] = np.where(raised, alert, of["peak"][place])
        of["age"][place] = np.where(raised, 1, np.minimum(of["age"][place], OLDEST) + 1)

    def _fatigue(self, place: I32 | slice) -> F64:
        fatigue: F64 = self.of["fatigue"][place] * np.float64(np.exp(-1 / FATIGUE_POINTS))
        return fatigue


def alarming(score: F64, deviation: F64 | None, strange: F64, novel: F64, points: F64) -> F64:
    """How much K points are worth an alert before hold and fatigue, (K,); 1 is the threshold.

    Where values are remembered it takes both, what is strange and what is novel: the score alone finds spikes that come
    again and again, novelty alone finds every first time. Elsewhere, and while few `points` are known, it is a share of
    the score. Without `deviation` it is only these.
    """
    known = ~np.isnan(novel) & (points >= SETTLED)
    both = np.where(known, novel, 0.0) ** (1 - STRANGE_SHARE) * np.where(known, strange, 0.0) ** STRANGE_SHARE
    if deviation is not None:
        both = np.maximum(both, DEVIATION_WEIGHT * deviation)
    return np.where(known, both, DEVIATION_WEIGHT * score)
