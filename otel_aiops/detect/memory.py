"""Memory: what detectors remember of each series, as packed columns that are read and written for many rows at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, get_type_hints

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import F64, I32
from otel_aiops.series.columns import Columns, checked

Wide = Annotated[NDArray[Any], np.float64]  # where the last digits matter
Narrow = Annotated[NDArray[Any], np.float32]
Seconds = Annotated[NDArray[Any], np.uint32]  # whole ones since the epoch
Count = Annotated[NDArray[Any], np.uint16]  # up to MOST_COUNTED
FewCount = Annotated[NDArray[Any], np.uint8]  # up to MOST_FEW

HOURS = 168  # of a week


class Known(NamedTuple):
    """The columns, all (S,); values are in the series' unit."""

    level: Wide  # usual value
    last: Wide  # newest value
    over_since_s: Seconds  # when the current anomaly began
    accepted_s: Seconds  # when a new normal was accepted
    points: Narrow  # learned from, up to MOST_POINTS
    interval_s: Narrow  # typical time between points
    near: Narrow  # quick level, of the newest points
    near_trend: Narrow  # what it moves by from point to point
    near_error: Narrow  # mean absolute error of it
    level_error: Narrow  # mean absolute error of the level
    hour_mean: Narrow  # of the current hour so far
    centre: Narrow  # zero of the seasonal profile
    season_error: Narrow  # the same of the seasonal profile
    season_points: Narrow  # of which it is the mean
    offset: Narrow  # what the profile is off by at present
    former: Narrow  # and was before a new normal was accepted; 0 is unknown
    unit: Narrow  # one step of the profile, in the series' unit
    between: Narrow  # hour since the epoch in whose middle the current stretch of the profile begins
    early: Narrow  # profile where it begins, in units
    late: Narrow  # and where it ends
    hour: Narrow  # current hour since the epoch
    drift: Narrow  # short mean of the residual
    drift_error: Narrow  # mean absolute drift
    power: Narrow  # short mean of the squared residual
    usual_power: Narrow  # long mean of it
    power_error: Narrow  # mean absolute logarithm of their ratio
    longest_run: Narrow
    same: Narrow  # share of points equal to the one before
    apart: Narrow  # mean distance of the points of the current anomaly from the level
    apart_error: Narrow  # and the mean absolute deviation from that
    before: Narrow  # how far the newest value was from the level before the current anomaly came at once; 0 for none
    median: Narrow  # logarithms of quantiles of the score of normal points
    high: Narrow
    higher: Narrow
    highest: Narrow
    extreme: Narrow  # of how far they deviate one by one
    lasting: Narrow  # and of the short means
    run: Count  # equal values in a row
    settled: Count  # points since what is expected comes from where it does
    hour_points: Count  # in the current hour
    over: Count  # points in a row over the threshold
    guide: FewCount  # where what is expected comes from
    burst: FewCount  # points in a row above the extreme quantile
    long_burst: FewCount  # and above that of the short means
    calm: FewCount  # points in a row near the expected value


MOST_COUNTED, MOST_FEW, LATEST_S = 65_535, 255, 4_294_967_295
WORTH_A_SLICE = 64  # rows; for fewer the look costs more than it saves
State = dict[str, F64]


class Memory:
    """Columns by row: `known` is all of them, `read` and `write` move K rows at once, as float64 arrays by name."""

    def __init__(self) -> None:
        kinds = {name: hint.__metadata__[0] for name, hint in get_type_hints(Known, include_extras=True).items()}
        # Hours of the week in units from the centre. Zero is "not seen": what is not used costs no memory.
        spec = {name: (kind, (), 0) for name, kind in kinds.items()} | {"profile": (np.float16, (HOURS,), 0)}
        self._columns = Columns(spec)
        self._size = 0
        self._known: Known | None = None

    @property
    def known(self) -> Known:
        """What is remembered of all series, to change in place; until more are reserved."""
        of = self._columns.of
        if self._known is None or self._known.level is not of["level"]:
            self._known = Known(*[of[name] for name in Known._fields])
        return self._known

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
        return {name: of[name][place].astype(np.float64) for name in Known._fields}

    def write(self, rows: I32, state: Mapping[str, F64]) -> None:
        """The opposite of `read`."""
        place = place_of(rows)
        for name in Known._fields:
            column = self._columns.of[name]
            whole = column.dtype.kind == "u"
            column[place] = np.clip(state[name], 0, np.iinfo(column.dtype).max) if whole else state[name]

    def copy(self, rows: I32, sources: I32, donor: Memory | None = None) -> None:
        """Give K rows what K others have, the profile too; others of a donor where there is one."""
        self.reserve(rows)
        (donor or self).reserve(sources)
        self._columns.copy(rows, sources, (donor or self)._columns)

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
