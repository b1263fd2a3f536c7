"""The Batch: aligned points of series, which is what detectors score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import F64, I32, I64, Bool


@dataclass(frozen=True, slots=True)
class Wall:
    """What clocks and calendars show where K points come from, (K,) each.

    `time_ns` is local time, moved on special days to the weekday that they are like; `special` is True on these days,
    which follow a profile of the week but do not form it.
    """

    time_ns: I64
    special: Bool


@dataclass(frozen=True, slots=True)
class Batch:
    """K aligned points, at most one per row (so a vectorised update is exact).

    Shape: all (K,). `rows` are unique and non-negative; `interval_s` is the time since the row's previous
    point (NaN for the first). `wall` is None where every clock shows UTC and no day is special.
    """

    rows: I32
    time_ns: I64
    value: F64
    interval_s: F64
    wall: Wall | None = None

    @property
    def wall_ns(self) -> I64:
        """The times by which profiles of day and week go."""
        return self.time_ns if self.wall is None else self.wall.time_ns

    def at(self, k: NDArray[np.intp]) -> Batch:
        """Some of the points."""
        wall = None if self.wall is None else Wall(self.wall.time_ns[k], self.wall.special[k])
        return Batch(self.rows[k], self.time_ns[k], self.value[k], self.interval_s[k], wall)
