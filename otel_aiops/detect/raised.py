"""Raised alerts: the newest ones, of which series, since when and how high, so that verdicts on them can be judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.budget import Alerted
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import Arrays, Columns, checked

MOST = 4_096  # alerts that are remembered; the oldest give way
NEAR_NS = 600_000_000_000  # people say the time of an alert about as exactly as this


@dataclass(frozen=True, slots=True)
class Raised:
    """An alert. `ratio` is the newest and `peak` the highest, in thresholds that no verdict has moved.

    `threshold` is that one in alert scores, and `shift` by what verdicts have moved its logarithm for this series.
    """

    fingerprint: int
    row: int  # -1 where it has ended
    since_ns: int
    time_ns: int
    ratio: float
    peak: float
    threshold: float
    shift: float


class Ledger:
    """The newest alerts of a pipeline, 60 bytes each, and which of them go on; 4 bytes a row."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._rows = Columns({"slot": (np.int32, (), -1)})  # of the alert that goes on
        self._slots = Columns(
            {
                "fingerprint": (np.uint64, (), 0),
                "row": (np.int32, (), -1),
                "since_ns": (np.int64, (), 0),
                "time_ns": (np.int64, (), 0),
                "ratio": (np.float64, (), 0),
                "peak": (np.float64, (), 0),
                "threshold": (np.float64, (), 0),
                "shift": (np.float64, (), 0),
            }
        )
        self._count = 0  # alerts so far

    def follow(self, batch: Batch, alerted: Alerted, fingerprint: Callable[[I32], NDArray[np.uint64]]) -> None:
        """Take in what K points are; `fingerprint` gives the names of rows."""
        if not len(batch.rows):
            return
        self._rows.reserve(int(batch.rows.max()) + 1)
        slot = self._rows.of["slot"][batch.rows]
        ended = (slot >= 0) & ~alerted.active
        if ended.any():
            self.end(batch.rows[ended])
        if not alerted.active.any():
            return
        new = np.flatnonzero((slot < 0) & alerted.active)[: self._most]
        if len(new):
            self._open(batch.rows[new], batch.time_ns[new], fingerprint(batch.rows[new]))
        going = np.flatnonzero(alerted.active & (self._rows.of["slot"][batch.rows] >= 0))
        if len(going):
            self._go_on(self._rows.of["slot"][batch.rows[going]], batch.time_ns[going], alerted, going)

    def end(self, rows: I32) -> None:
        """Alerts of rows that end: they are remembered."""
        rows = rows[rows < self._rows.rows]
        slot = self._rows.of["slot"][rows]
        self._slots.of["row"][slot[slot >= 0]] = -1
        self._rows.clear(rows)

    def active(self) -> list[Raised]:
        """The alerts that go on, the highest first."""
        used = np.flatnonzero(self._slots.of["row"][: self._used] >= 0)
        return sorted(map(self._of, used.tolist()), key=lambda one: -one.ratio * np.exp(-one.shift))

    def since(self, time_ns: int) -> list[Raised]:
        """The alerts that began at a time or later, as far as they are remembered, the first first."""
        found = np.flatnonzero(self._slots.of["since_ns"][: self._used] >= time_ns)
        return sorted(map(self._of, found.tolist()), key=lambda one: (one.since_ns, one.fingerprint))

    def find(self, fingerprint: int, time_ns: int) -> Raised | None:
        """The alert that a series had nearest to a time, within ten minutes of it; None for none."""
        of, used = self._slots.of, self._used
        since, until = of["since_ns"][:used], of["time_ns"][:used]
        away = np.maximum(np.maximum(since - time_ns, time_ns - until), 0)
        found = np.flatnonzero((of["fingerprint"][:used] == np.uint64(fingerprint)) & (away <= NEAR_NS))
        return self._of(int(found[away[found].argmin()])) if len(found) else None

    @property
    def _used(self) -> int:
        return min(self._count, self._most)

    def _of(self, slot: int) -> Raised:
        return Raised(*(self._slots.of[name][slot].item() for name in Raised.__slots__))

    def _open(self, rows: I32, time_ns: I64, fingerprint: NDArray[np.uint64]) -> None:
        slots = ((self._count + np.arange(len(rows))) % self._most).astype(np.int32)
        self._count += len(rows)
        self._slots.reserve(self._used)
        before = self._slots.of["row"][slots]
        self._rows.clear(before[before >= 0])  # of so many alerts the oldest is forgotten while it goes on
        self._slots.clear(slots)
        self._rows.of["slot"][rows] = slots
        of = self._slots.of
        of["fingerprint"][slots], of["row"][slots], of["since_ns"][slots] = fingerprint, rows, time_ns

    def _go_on(self, slots: I32, time_ns: I64, alerted: Alerted, k: NDArray[np.intp]) -> None:
        of = self._slots.of
        shift: F64 = np.zeros(len(k)) if alerted.shift is None else alerted.shift[k]
        ratio = alerted.ratio[k] * np.exp(shift)
        of["time_ns"][slots], of["ratio"][slots] = time_ns, ratio
        of["peak"][slots] = np.maximum(of["peak"][slots], ratio)
        of["threshold"][slots], of["shift"][slots] = alerted.threshold[k], shift

    def state(self) -> Arrays:
        """Everything remembered."""
        return {**self._slots.state(self._used), "count": np.array([self._count], np.int64)}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over a state. Raises: StateError."""
        checked(arrays, {**self._slots.saved(), "count": (np.int64, (1,))})
        self._count = int(arrays["count"][0])
        self._slots.clear(np.arange(self._slots.rows))
        self._slots.restore(arrays, self._used)
        rows = self._slots.of["row"][: self._used]
        self._rows.clear(np.arange(self._rows.rows))
        self._rows.reserve(int(rows.max(initial=-1)) + 1)
        self._rows.of["slot"][rows[rows >= 0]] = np.flatnonzero(rows >= 0)
