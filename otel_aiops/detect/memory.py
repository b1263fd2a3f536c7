"""Memory: what detectors remember of each series, as packed columns that are read and written for many rows at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import F64, I32
from otel_aiops.series.columns import Columns, checked

HOURS = 168  # of a week

# Where the last digits matter: values in the series' unit.
WIDE = (
    "level",  # usual value
    "last",  # newest value
)
SECONDS = (  # whole ones since the epoch
    "over_since_s",  # when the current anomaly began
    "accepted_s",  # when a new normal was accepted
)
NARROW = (
    "points",  # learned from, up to MOST_POINTS
    "interval_s",  # typical time between points
    "near",  # quick level, of the newest points
    "near_trend",  # what it moves by from point to point
    "near_error",  # mean absolute error of it
    "level_error",  # mean absolute error of the level
    "hour_mean",  # of the current hour so far
    "centre",  # zero of the seasonal profile
    "season_error",  # the same of the seasonal profile
    "season_points",  # of which it is the mean
    "offset",  # what the profile is off by at present
    "former",  # and was before a new normal was accepted; 0 is unknown
    "unit",  # one step of the profile, in the series' unit
    "between",  # hour since the epoch in whose middle the current stretch of the profile begins
    "early",  # profile where it begins, in units
    "late",  # and where it ends
    "hour",  # current hour since the epoch
    "drift",  # short mean of the residual
    "drift_error",  # mean absolute drift
    "power",  # short mean of the squared residual
    "usual_power",  # long mean of it
    "power_error",  # mean absolute logarithm of their ratio
    "longest_run",
    "same",  # share of points equal to the one before
    "apart",  # their mean distance from the level
    "apart_error",  # and the mean absolute deviation from that
    "median",  # logarithms of quantiles of the score of normal points
    "high",
    "higher",
    "highest",
    "extreme",  # of how far they deviate one by one
    "lasting",  # and of the short means
)
COUNTS = (  # up to MOST_COUNTED
    "run",  # equal values in a row
    "settled",  # points since what is expected comes from where it does
    "hour_points",  # in the current hour
    "over",  # points in a row over the threshold
)
SMALL_COUNTS = (  # up to MOST_FEW
    "guide",  # where what is expected comes from
    "burst",  # points in a row above the extreme quantile
    "long_burst",  # and above that of the short means
    "calm",  # points in a row near the expected value
)
MOST_COUNTED, MOST_FEW = 65_535, 255
WORTH_A_SLICE = 64  # rows; for fewer the look costs more than it saves
LATEST_S = 4_294_967_295
NAMES = WIDE + SECONDS + NARROW + COUNTS + SMALL_COUNTS
State = dict[str, F64]
Spec = dict[str, tuple[Any, tuple[int, ...], Any]]


class Memory:
    """Columns by row: `read` and `write` move K rows at once, as float64 arrays by name."""

    def __init__(self) -> None:
        wide: Spec = dict.fromkeys(WIDE, (np.float64, (), 0))
        seconds: Spec = dict.fromkeys(SECONDS, (np.uint32, (), 0))
        narrow: Spec = dict.fromkeys(NARROW, (np.float32, (), 0))
        counts: Spec = dict.fromkeys(COUNTS, (np.uint16, (), 0))
        counts |= dict.fromkeys(SMALL_COUNTS, (np.uint8, (), 0))
        # Hours of the week in units from the centre. Zero is "not seen": what is not used costs no memory.
        self._columns = Columns({**wide, **seconds, **narrow, **counts, "profile": (np.float16, (HOURS,), 0)})
        self._size = 0

    @property
    def bytes_per_series(self) -> int:
        """What one row takes."""
        return self._columns.bytes_per_row

    @property
    def profile(self) -> NDArray[np.float16]:
        """Seasonal profiles, (S, 168)."""
        return self._columns.of["profile"]

    def reserve(self, rows: I32) -> None:
        """See that these rows are there."""
        if len(rows):
            self._size = max(self._size, int(rows.max()) + 1)
            self._columns.reserve(self._size)

    def read(self, rows: I32) -> State:
        """All that is remembered of K rows, but the profile: name → (K,), free to change."""
        place, of = place_of(rows), self._columns.of
        return {name: of[name][place].astype(np.float64) for name in NAMES}

    def write(self, rows: I32, state: Mapping[str, F64]) -> None:
        """The opposite of `read`."""
        place, of = place_of(rows), self._columns.of
        for name in WIDE + NARROW:
            of[name][place] = state[name]
        for name in SECONDS:
            of[name][place] = np.clip(state[name], 0, LATEST_S)
        for name in COUNTS:
            of[name][place] = np.minimum(state[name], MOST_COUNTED)
        for name in SMALL_COUNTS:
            of[name][place] = np.minimum(state[name], MOST_FEW)

    def copy(self, rows: I32, sources: I32) -> None:
        """Give K rows what K others have, the profile too."""
        self.reserve(rows)
        self.reserve(sources)
        self._columns.copy(rows, sources)

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series start anew."""
        self._columns.clear(rows[rows < self._size])

    def state(self) -> dict[str, NDArray[Any]]:
        """Copies of everything."""
        return self._columns.state(self._size)

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over a state. Raises: StateError."""
        checked(arrays, self._columns.saved())
        self._size = len(arrays["level"])
        self._columns.restore(arrays, self._size)


def place_of(rows: I32) -> I32 | slice:
    """Rows in a row as a slice, which is much faster; senders keep their order, so it is the usual case."""
    if len(rows) >= WORTH_A_SLICE and int(rows[-1]) - int(rows[0]) == len(rows) - 1 and (rows[1:] > rows[:-1]).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def indices(mask: NDArray[Any]) -> NDArray[np.intp]:
    """Where a mask (K,) is true; the same as `flatnonzero`, whose detours are most of its cost for few rows."""
    return mask.nonzero()[0]
