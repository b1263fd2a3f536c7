"""Watch: series of services that leave what they usually show, noticed as their points come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.errors import ConfigError
from otel_aiops.incidents.rings import Rings, usual
from otel_aiops.otlp.points import F64, I32, I64, Bool
from otel_aiops.series.columns import Arrays, Columns, Expected

TRIED_EVERY = 4  # cells between two attempts to measure what is usual for the first time
PHASES = 16
RECENT = 0b111  # the last three cells
TWO_OF_THREE = np.array([False, False, False, True, False, True, True, True])

# By slot: dtype, shape, empty.
COLUMNS: dict[str, tuple[Any, tuple[int, ...], Any]] = {
    "level": (np.float64, (), np.nan),  # usual value, in the bad direction
    "spread": (np.float64, (), np.nan),
    "peak": (np.float64, (), 0.0),  # highest z of calm times, slowly forgotten
    "age": (np.int32, (), 0),  # cells while they were not
    "due_ns": (np.int64, (), 0),  # when they are measured again
    "hits": (np.uint8, (), 0),  # which of the last three cells were over the threshold
    "seen_ns": (np.int64, (), 0),
    "first_ns": (np.int64, (), 0),  # the first of the newest hits
    "first_z": (np.float64, (), 0.0),  # the highest z of hits that did not open anything yet
    "start_ns": (np.int64, (), 0),  # of the run that goes on, 0 while calm
    "last_ns": (np.int64, (), 0),
    "end_ns": (np.int64, (), 0),  # of the run that has just ended
    "calm": (np.int32, (), 0),
    "best_z": (np.float64, (), 0.0),
    "best": (np.float64, (), np.nan),  # the value then
    "before": (np.float64, (), np.nan),  # the level when the run began
    "limit": (np.float64, (), np.nan),  # and the threshold
    "told": (np.bool_, (), True),  # nothing has changed since it was reported
}


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """When a series is strange enough to report it by itself."""

    least_z: float = 8.0  # usual spreads
    over_peak: float = 1.5  # and this times its own highest of calm times
    at_once: float = 4.0  # times the threshold at which one cell is enough; else two of three
    steady_at_once: float = 2.0  # the same for what does not jump by chance, as times of requests do
    stays: float = 0.5  # of the threshold, at which a run still goes on
    calm: int = 3  # cells after which a run has ended
    warm_up: int = 20  # cells before anything is reported
    every: float = 300.0  # between two measurements of what is usual
    half_life: float = 1440.0  # cells after which a peak counts half
    accept_after: float = 7200.0  # a run that lasts longer is the new normal
    stale: float = 900.0  # without points for so long, a run has ended

    def __post_init__(self) -> None:
        positive = ("least_z", "over_peak", "at_once", "steady_at_once", "half_life", "accept_after", "stale", "calm")
        for name in (*positive, "every"):
            if not getattr(self, name) > 0:
                raise ConfigError(name, f"must be > 0, got {getattr(self, name)}")


class Watch:
    """Runs of strange cells of S slots. The caller gives values whose high end is bad."""

    def __init__(self, config: WatchConfig, rings: Rings) -> None:
        self.config = config
        self._rings = rings
        self._columns = Columns(COLUMNS)

    @property
    def of(self) -> Arrays:
        """The columns; not for changing."""
        return self._columns.of

    def reserve(self, slots: int) -> None:
        """See that there are at least so many slots."""
        self._columns.reserve(slots)

    def clear(self, slots: I32) -> None:
        """Make slots empty."""
        self._columns.clear(slots)

    def update(self, slots: I32, fresh: Bool, sign: F64, floor: F64, steady: Bool) -> None:
        """Judge the newest cells of K slots (unique), then learn from those that are calm.

        Shape: (K,) each. `fresh` is True where the cell is new, `sign` is -1 where low is bad, `floor` the least
        spread, `steady` is True of what does not jump by chance.
        """
        of = self._columns.of
        time_ns, raw = self._rings.last(slots)
        value = raw * sign
        self._lapse(slots, time_ns)
        wide = np.maximum(of["spread"][slots], floor)
        z = (value - of["level"][slots]) / np.where(wide > 0, wide, np.nan)
        limit = np.maximum(self.config.least_z, self.config.over_peak * of["peak"][slots])
        active = of["start_ns"][slots] != 0
        limit = np.where(active, of["limit"][slots], limit)
        hit = z > np.where(active, self.config.stays * limit, limit)  # NaN is no hit
        self._single(slots[fresh & ~active])
        self._shift(slots, fresh, hit, time_ns, z)
        at_once = np.where(steady, self.config.steady_at_once, self.config.at_once)
        opens = ~active & hit & (TWO_OF_THREE[of["hits"][slots]] | (z > at_once * limit))
        self._open(slots[opens], limit[opens])
        self._go_on(slots, fresh, hit & (active | opens), time_ns, value, z)
        calm = ~hit & (of["start_ns"][slots] == 0) & np.isfinite(z) & fresh
        decay = 0.5 ** (1 / self.config.half_life)
        of["peak"][slots[calm]] = np.maximum(of["peak"][slots[calm]] * decay, z[calm])
        of["seen_ns"][slots] = time_ns
        self._measure(slots, fresh, time_ns, sign)

    def hit(self, event_ns: int, within_s: float) -> I32:
        """Slots whose newest cell, seen so recently, is over the threshold, and that have no run, in order."""
        of = self._columns.of
        recent = event_ns - of["seen_ns"] <= within_s * 1e9
        return np.flatnonzero(recent & (of["hits"] & 1 == 1) & (of["start_ns"] == 0)).astype(np.int32)

    def open(self, slots: I32, sign: F64) -> None:
        """Begin the runs of slots of which one cell is enough, because others of the same service show the same."""
        of = self._columns.of
        time_ns, value = self._rings.last(slots)
        self._open(slots, np.maximum(self.config.least_z, self.config.over_peak * of["peak"][slots]))
        of["last_ns"][slots], of["calm"][slots], of["told"][slots] = time_ns, 0, False
        of["best_z"][slots], of["best"][slots] = of["first_z"][slots], value * sign
        self._rings.mark(slots, True)

    def changed(self, event_ns: int) -> I32:
        """Slots whose runs began, went on or ended since this was asked last, in order; they are told now."""
        of = self._columns.of
        silent = (of["start_ns"] != 0) & (event_ns - of["seen_ns"] > self.config.stale * 1e9)
        self._end(np.flatnonzero(silent).astype(np.int32))
        slots = np.flatnonzero(~of["told"]).astype(np.int32)
        of["told"][slots] = True
        return slots

    def state(self, slots: int) -> Arrays:
        """Copies of the first slots."""
        return self._columns.state(slots)

    def restore(self, arrays: Mapping[str, NDArray[Any]], slots: int) -> None:
        """Take over what `state` gave."""
        self._columns.restore(arrays, slots)

    def saved(self) -> Expected:
        """What `checked` should expect of the state."""
        return self._columns.saved()

    def _lapse(self, slots: I32, time_ns: I64) -> None:
        """After a long gap nothing before it is recent."""
        of = self._columns.of
        late = slots[(of["seen_ns"][slots] > 0) & (time_ns - of["seen_ns"][slots] > self.config.stale * 1e9)]
        of["hits"][late] = 0
        self._end(late[of["start_ns"][late] != 0])

    def _single(self, slots: I32) -> None:
        """A hit that leaves the last three without a second was normal: it counts in the peak."""
        of = self._columns.of
        alone = slots[of["hits"][slots] == 0b100]
        of["peak"][alone] = np.maximum(of["peak"][alone], of["first_z"][alone])

    def _shift(self, slots: I32, fresh: Bool, hit: Bool, time_ns: I64, z: F64) -> None:
        of = self._columns.of
        before = of["hits"][slots]
        moved = np.where(fresh, before << 1, before & 0b110) & RECENT
        begins = hit & (moved == 0)
        of["first_ns"][slots] = np.where(begins, time_ns, of["first_ns"][slots])
        of["first_z"][slots] = np.where(begins, z, of["first_z"][slots])
        of["hits"][slots] = moved | hit

    def _open(self, slots: I32, limit: F64) -> None:
        of = self._columns.of
        of["start_ns"][slots] = of["first_ns"][slots]
        of["end_ns"][slots] = 0
        of["before"][slots] = of["level"][slots]
        of["limit"][slots] = limit
        of["best_z"][slots] = 0.0

    def _go_on(self, slots: I32, fresh: Bool, on: Bool, time_ns: I64, value: F64, z: F64) -> None:
        """Runs that are seen again; those that were calm for long enough have ended."""
        of = self._columns.of
        strange = slots[on]
        of["last_ns"][strange], of["calm"][strange], of["told"][strange] = time_ns[on], 0, False
        self._rings.mark(strange, True)
        better = z[on] > of["best_z"][strange]
        of["best_z"][strange[better]], of["best"][strange[better]] = z[on][better], value[on][better]
        resting = slots[~on & fresh & (of["start_ns"][slots] != 0)]
        of["calm"][resting] += 1
        self._end(resting[of["calm"][resting] >= self.config.calm])
        long = strange[of["last_ns"][strange] - of["start_ns"][strange] > self.config.accept_after * 1e9]
        self._rings.admit(long, of["start_ns"][long])
        of["due_ns"][long] = 0
        self._end(long)

    def _end(self, slots: I32) -> None:
        of = self._columns.of
        of["end_ns"][slots] = np.maximum(of["last_ns"][slots], 1)
        of["first_ns"][slots] = of["start_ns"][slots]
        of["start_ns"][slots], of["calm"][slots], of["hits"][slots], of["told"][slots] = 0, 0, 0, False

    def _measure(self, slots: I32, fresh: Bool, now_ns: I64, sign: F64) -> None:
        """What is usual, now and then and never inside a run: measuring takes much longer than comparing."""
        of = self._columns.of
        level = of["level"][slots]
        of["age"][slots] += fresh & np.isnan(level)
        due = fresh & (of["hits"][slots] == 0) & (of["start_ns"][slots] == 0)
        due &= np.where(np.isnan(level), of["age"][slots] % TRIED_EVERY == 0, now_ns >= of["due_ns"][slots])
        if not due.any():
            return
        chosen, before = slots[due], level[due]
        time_ns, value, excluded = self._rings.cells(chosen)
        level, spread, count = usual(value * sign[due, None], (time_ns > 0) & ~excluded)
        warm = count >= self.config.warm_up
        known = chosen[warm]
        of["level"][known], of["spread"][known] = level[warm], spread[warm]
        every_ns = round(self.config.every * 1e9)
        spread_out = np.where(np.isnan(before[warm]), 1 + known % PHASES, PHASES).astype(
            np.int64
        )  # so that not all are due at once
        of["due_ns"][known] = now_ns[due][warm] + every_ns // PHASES * spread_out
