"""Sampling: how many calls a span of each service stands for, and in which windows its spans say nothing of rates."""

from __future__ import annotations

from typing import Any

import numpy as np

from otel_aiops.otlp.points import F64, I64, Bool
from otel_aiops.series.columns import Arrays, Columns, checked

UNKNOWN = -1
STEADY = 0.75  # powers of four by which the mean weight may differ from its level
CONFIRMED = 3  # windows after which another level is believed
HIGHEST = 10
EXPECTED = 5.0  # spans a window from which on none at all means that they did not come: e^-5 by chance
USUAL_WEIGHT = 0.1  # of the newest window

COLUMNS: dict[str, tuple[Any, tuple[int, ...], Any]] = {
    "level": (np.int8, (), UNKNOWN),
    "candidate": (np.int8, (), UNKNOWN),
    "streak": (np.int8, (), 0),  # windows in which the candidate was seen, one after the other
    "usual": (np.float64, (), 0),  # spans a window
}


class Sampling:
    """What is known of the sampling of each service, by its number.

    Weighted counts of spans are right on average at whatever ratio, but the fewer spans there are the more they jump.
    So rates at another level (a power of four of the mean weight) are other series, which are learned anew, and while
    the level changes there are none. Row 0 stands for all services together.
    """

    def __init__(self) -> None:
        self._columns = Columns(COLUMNS)

    def step(self, spans: F64, weight: F64) -> tuple[I64, Bool]:
        """(level, whether it is steady) of S services that sent so many spans, standing for so many, in a window."""
        self._columns.reserve(len(spans))
        of = {name: array[: len(spans)] for name, array in self._columns.of.items()}
        here = np.flatnonzero(spans > 0)
        power = np.log2(np.maximum(weight[here] / spans[here], 1.0)) / 2
        found = np.minimum(np.rint(power), HIGHEST).astype(np.int8)
        new = of["level"][here] == UNKNOWN
        of["level"][here[new]] = found[new]
        differs = np.abs(np.minimum(power, HIGHEST) - of["level"][here]) > STEADY
        again = found == of["candidate"][here]
        streak = np.where(differs, np.where(again, of["streak"][here], 0) + 1, 0)
        of["candidate"][here] = np.where(differs, found, UNKNOWN)
        sure = streak >= CONFIRMED
        of["level"][here[sure]] = found[sure]
        of["streak"][here] = np.where(sure, 0, streak)
        return np.maximum(of["level"], 0).astype(np.int64), of["streak"] == 0

    def levels(self, services: I64) -> I64:
        """The levels of K services now."""
        found: I64 = np.maximum(self._columns.of["level"][services], 0).astype(np.int64)
        return found

    def missing(self, spans: F64, called: F64) -> Bool:
        """Which of S services have sent nothing though they must have worked: their telemetry is missing, (S,).

        That is all when nobody sent anything, and who sent nothing while others called it so often.
        """
        self._columns.reserve(len(spans))
        usual = self._columns.of["usual"][: len(spans)]
        gone: Bool = (spans == 0) & (usual >= EXPECTED) & (called > 0)
        if not spans.any() and usual[0] >= EXPECTED:
            gone[:] = True
        counted = spans.copy()
        counted[0] = spans.sum()
        kept = ~gone
        usual[kept] += USUAL_WEIGHT * (counted[kept] - usual[kept])
        return gone

    def state(self, services: int) -> Arrays:
        """What is known of the first services."""
        self._columns.reserve(services)
        return self._columns.state(services)

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        checked(arrays, self._columns.saved())
        self._columns = Columns(COLUMNS)
        self._columns.restore(arrays, len(arrays["level"]))
