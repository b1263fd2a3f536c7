"""Data quality of the live stream, by service: what is missing, doubled, late, begun anew, changed or sent twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64, I32, I64, Bool, Temporality

MOST_SERVICES = 200  # that have a line of their own, the first that come; the others share one
OTHERS = "(others)"
PROBLEMS = (
    "gap",  # more than `align.gap_intervals` typical intervals since the point before
    "reset",  # a counter that began anew
    "duplicate",  # a time that the series had already
    "late",  # older than a point that was taken
    "future",  # too far ahead of the receiver's clock
    "absent",  # without a number or a time
    "two_senders",  # see Quality
    "unit_change",
    "temporality_change",
    "type_change",
)
_ROW = {name: k for k, name in enumerate(PROBLEMS)}
_NONE = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class ServiceQuality:
    """The stream of one service since the start.

    `skew_s` is how far the receiver's clock was ahead of its newest point, the least since the last report: delay of
    the way and difference of clocks. NaN before the first.
    """

    service: str
    series: int
    points: int
    problems: Mapping[str, int]
    late_ratio: float
    skew_s: float


class Quality:
    """Counts by service and says so when asked; forgotten with the process, and no part of what is learned.

    Two senders of one series are seen where a point that is newer than the one before has a start time before that of
    the one before (cumulative) or before its time (delta), or where a point with the same time has another value. Two
    that agree in all of that, or gauges that take turns at different times, look like one sender.
    A unit, temporality or type has changed when a stream begins of a metric that the service had with another one.
    16 bytes a row; a dozen nanoseconds a point.
    """

    def __init__(self) -> None:
        self._names = [OTHERS]
        self._codes: dict[str, int] = {}
        self._service = np.empty(0, np.int32)  # by row, -1 without a series
        self._last = np.empty(0, np.float64)  # by first row of a stream, its newest value
        self._metrics: dict[tuple[str, str], tuple[str, int, str]] = {}  # unit, temporality, type
        self._series = np.zeros(MOST_SERVICES + 1, np.int64)
        self._points = np.zeros(MOST_SERVICES + 1, np.int64)
        self._problems = np.zeros((len(PROBLEMS), MOST_SERVICES + 1), np.int64)
        self._newest_ns = np.zeros(MOST_SERVICES + 1, np.int64)  # of the body that is being read
        self._skew_ns = np.full(MOST_SERVICES + 1, _NONE, np.int64)
        self._skew_s = np.full(MOST_SERVICES + 1, np.nan)

    # -- series -------------------------------------------------------------------------------------------------------

    def welcome(self, rows: I32, labels: Sequence[Labels], temporality: Sequence[Temporality], *, told: bool) -> None:
        """New rows; `told` says that changes count, which they do not while a state is restored."""
        self._reserve(int(rows.max(initial=-1)) + 1)
        codes = []
        for of, kind in zip(labels, temporality, strict=True):
            service = of.service
            code = self._codes.get(service)
            if code is None:
                code = self._name(service)
            codes.append(code)
            now = (of.unit, int(kind), of.kind)
            before = self._metrics.get((service, of.name), now) if code else now
            if before != now and told:
                both = bool(before[1] and now[1])  # gauges have no temporality
                self._problems[_ROW["unit_change"], code] += before[0] != now[0]
                self._problems[_ROW["temporality_change"], code] += both and before[1] != now[1]
                self._problems[_ROW["type_change"], code] += before[2] != now[2]
            if code:
                self._metrics[service, of.name] = now
        self._service[rows] = codes
        np.add.at(self._series, codes, 1)

    def forget(self, rows: I32) -> None:
        """Rows that have lost their series."""
        rows = rows[rows < len(self._service)]
        codes = self._service[rows]
        np.subtract.at(self._series, codes[codes >= 0], 1)
        self._service[rows] = -1
        self._last[rows] = np.nan

    # -- points -------------------------------------------------------------------------------------------------------

    def problem(self, name: str, heads: I32) -> None:
        """Points of some streams, by first row, each once for every time that it has the problem."""
        if len(heads):
            codes = self._service[heads]
            self._problems[_ROW[name]] += np.bincount(codes[codes >= 0], minlength=MOST_SERVICES + 1)

    def same_time(self, heads: I32, value: F64) -> None:
        """Points whose time their stream had already, and their values; of others than were there, two senders."""
        self.problem("duplicate", heads)
        before = self._last[heads]
        self.problem("two_senders", heads[(value != before) & np.isfinite(before) & np.isfinite(value)])

    def starts(self, heads: I32, start_ns: I64, start_before_ns: I64, before_ns: I64, delta: Bool) -> None:
        """Start times of newer points, those of the points before, and the times of these."""
        back = (start_ns > 0) & (before_ns > 0) & (start_ns < np.where(delta, before_ns, start_before_ns))
        if back.any():
            self.problem("two_senders", heads[back])

    def points(self, heads: I32, time_ns: I64, value: F64) -> None:
        """Points that are newer than all before of their streams, one of each."""
        codes = self._service[heads]
        self._points += np.bincount(codes, minlength=MOST_SERVICES + 1)
        np.maximum.at(self._newest_ns, codes, time_ns)
        self._last[heads] = value

    def received(self, now_ns: int) -> None:
        """A body has been read that came at a time."""
        some = self._newest_ns > 0
        np.minimum(self._skew_ns, now_ns - self._newest_ns, out=self._skew_ns, where=some)
        self._newest_ns.fill(0)

    # -- what it says -------------------------------------------------------------------------------------------------

    def report(self, *, renew: bool = True) -> list[ServiceQuality]:
        """Every service that has or had series, by name; the skew is measured anew after it, unless `renew` is not."""
        if renew:
            fresh = self._skew_ns != _NONE
            self._skew_s[fresh] = self._skew_ns[fresh] / 1e9
            self._skew_ns.fill(_NONE)
        found = []
        for code, name in enumerate(self._names):
            problems = {of: int(self._problems[k, code]) for k, of in enumerate(PROBLEMS)}
            points, behind = int(self._points[code]), problems["late"] + problems["duplicate"]
            if code or points or self._series[code]:
                late = problems["late"] / (points + behind) if points + behind else 0.0
                skew_s = float(self._skew_s[code])
                found.append(ServiceQuality(name, int(self._series[code]), points, problems, late, skew_s))
        return sorted(found, key=lambda one: one.service)

    def _name(self, service: str) -> int:
        if len(self._names) > MOST_SERVICES:
            return 0
        self._codes[service] = len(self._names)
        self._names.append(service)
        return self._codes[service]

    def _reserve(self, rows: int) -> None:
        have = len(self._service)
        if rows > have:
            more = max(rows, 2 * have) - have
            self._service = np.concatenate([self._service, np.full(more, -1, np.int32)])
            self._last = np.concatenate([self._last, np.full(more, np.nan)])
