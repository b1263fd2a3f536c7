"""Alignment: raw points of streams to values of series that can be compared, and the notice that a stream is silent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from otel_aiops.errors import ConfigError
from otel_aiops.otlp.points import F64, I32, I64, Bool, Kind, Points, Temporality
from otel_aiops.series.batch import Batch
from otel_aiops.series.buckets import Buckets, gather, percentiles
from otel_aiops.series.columns import Arrays, Columns, checked, joined
from otel_aiops.series.forms import Form
from otel_aiops.series.quality import Quality
from otel_aiops.series.table import Rows

SEEN_BEFORE_SILENCE = 5  # points after which a stream has shown how often it reports
INTERVAL_WEIGHT = 0.125  # of the newest interval in the typical one
MOST_SEEN = 255

# By first row of a series: dtype, shape, empty.
COLUMNS: dict[str, tuple[Any, tuple[int, ...], Any]] = {
    "last_ns": (np.int64, (), 0),  # time of the newest point, 0 before the first
    "start_ns": (np.int64, (), 0),  # start time of the newest point
    "total": (np.float64, (), np.nan),  # newest cumulative number or count; NaN when the next one has no base
    "sum": (np.float64, (), np.nan),  # newest cumulative sum of a distribution
    "interval_s": (np.float32, (), 0),  # typical time between points
    "seen": (np.uint8, (), 0),  # points, up to 255
    "quiet": (np.bool_, (), False),  # silence is expected: the sender said so, or it lasted too long to be news
}


@dataclass(frozen=True, slots=True)
class AlignConfig:
    """Time: what is too far ahead, what is a gap, and when a series counts as stopped."""

    max_ahead: float = 600.0  # points later than the receiver's clock by more are counted and not scored
    gap_intervals: float = 3.0  # more than so many typical intervals between two points are counted as a gap
    stopped_intervals: float = 5.0  # a series without points for so many typical intervals has stopped
    stopped_min: float = 30.0  # and not before this time
    stopped_max: float = 3600.0  # after this time silence is the new normal, and no anomaly any more

    def __post_init__(self) -> None:
        for name in ("max_ahead", "stopped_min"):
            if not getattr(self, name) >= 0:
                raise ConfigError(name, f"must be >= 0 s, got {getattr(self, name)}")
        for name in ("gap_intervals", "stopped_intervals"):
            if not getattr(self, name) > 1:
                raise ConfigError(name, f"must be > 1, got {getattr(self, name)}")
        if not self.stopped_max > self.stopped_min:
            raise ConfigError("stopped_max", f"must be > stopped_min {self.stopped_min}, got {self.stopped_max}")


@dataclass(frozen=True, slots=True)
class Aligned:
    """What points became. The points of a row stand in the batches in the order of their times.

    `ended` are rows whose sender said that they end. `counts`: late, duplicate, future, absent, reset, gap, stale.
    """

    batches: tuple[Batch, ...]
    ended: I32
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Silence:
    """Streams that have stopped, by first row, (K,) each; `gone` rows have been silent for so long that it is normal.

    `silence_s` is the time since the last point, `limit_s` the one from which on the stream counts as stopped.
    """

    rows: I32
    silence_s: F64
    limit_s: F64
    gone: I32


@dataclass(slots=True)
class _Values:
    """Values of series so far: parts of equal length."""

    rows: list[I32] = field(default_factory=list)
    time_ns: list[I64] = field(default_factory=list)
    value: list[F64] = field(default_factory=list)
    interval_s: list[F64] = field(default_factory=list)

    def add(self, rows: I32, point: _Fresh, value: F64) -> None:
        self.rows.append(rows)
        self.time_ns.append(point.time_ns)
        self.value.append(value)
        self.interval_s.append(point.interval_s)

    def batch(self) -> Batch | None:
        value = joined(self.value, np.float64)
        usable = np.isfinite(value)
        if not usable.any():
            return None
        columns = (joined(self.rows, np.int32), joined(self.time_ns, np.int64), joined(self.interval_s, np.float64))
        rows, time_ns, interval_s = (column if usable.all() else column[usable] for column in columns)
        return Batch(rows, time_ns, value if usable.all() else value[usable], interval_s)


@dataclass(frozen=True, slots=True)
class _Fresh:
    """K points that are newer than all before of their series; `index` into the points of the request."""

    index: I64
    head: I32
    time_ns: I64
    before_ns: I64
    interval_s: F64

    def __getitem__(self, some: Bool) -> _Fresh:
        return _Fresh(
            self.index[some], self.head[some], self.time_ns[some], self.before_ns[some], self.interval_s[some]
        )


class Align:
    """What must be remembered of each stream to make comparable values of its points. One writer.

    Cumulative and delta sums become rates a second, histograms a rate, a mean and percentiles, summaries a rate, a mean
    and their quantiles; gauges stay as they are. A point is taken when it is newer than all before of its series.
    Source: OpenTelemetry metrics data model, "Resets and Gaps", "Cumulative streams: handling unknown start time".
    """

    def __init__(self, config: AlignConfig) -> None:
        self._config = config
        self._columns = Columns(COLUMNS)
        self._buckets = Buckets()
        self._rows = 0
        self._quality: Quality | None = None  # of the points that are being read

    def step(self, points: Points, rows: Rows, *, now_ns: int, quality: Quality | None = None) -> Aligned:
        """The values of N points whose rows were found; `now_ns` is when they were received.

        `quality` is told what of it is bad, by service.
        """
        self._quality = quality
        counts: Counter[str] = Counter()
        batches, ended = [], [np.empty(0, np.int32)]
        self._reserve(rows)
        for index in _rounds(rows.first, points.time_ns, self._in_time(points, rows.first, now_ns, counts)):
            fresh = self._newer(points, rows.first, index, counts)
            stale = points.stale[fresh.index]
            if stale.any():
                ended.append(self._end(fresh[stale], rows))
                counts["stale"] += int(stale.sum())
                fresh = fresh[~stale]
            batch = self._values(points, rows, fresh, counts)
            if batch is not None:
                batches.append(batch)
        if quality is not None:
            quality.received(now_ns)
        return Aligned(tuple(batches), joined(ended, np.int32), {k: v for k, v in sorted(counts.items()) if v})

    def silence(self, event_ns: int) -> Silence:
        """The streams that have stopped; those that have just become `gone` are told once."""
        last_ns, interval_s = self._column("last_ns"), self._column("interval_s")
        limit_s = np.maximum(self._config.stopped_intervals * interval_s, self._config.stopped_min)
        silence_s = (event_ns - last_ns) / 1e9
        stopped = (silence_s > limit_s) & (self._column("seen") >= SEEN_BEFORE_SILENCE) & ~self._column("quiet")
        rows = np.flatnonzero(stopped).astype(np.int32)
        over = silence_s[rows] > np.maximum(self._config.stopped_max, 2 * limit_s[rows])
        gone, rows = rows[over], rows[~over]
        self._columns.of["quiet"][gone] = True
        return Silence(rows, silence_s[rows], limit_s[rows].astype(np.float64), gone)

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series start anew."""
        rows = rows[rows < self._columns.rows]
        self._columns.clear(rows)
        self._buckets.forget(rows)

    def state(self) -> Arrays:
        """All that is remembered."""
        buckets = {f"bucket_{name}": array for name, array in self._buckets.state(self._rows).items()}
        return {**self._columns.state(self._rows), **buckets}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError, and then this must not be used."""
        buckets = {f"bucket_{name}": shape for name, shape in self._buckets.saved().items()}
        checked(arrays, {**self._columns.saved(), **buckets})
        self._rows = len(arrays["last_ns"])
        self._columns.restore(arrays, self._rows)
        prefix = "bucket_"
        saved = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        self._buckets.restore(saved, self._rows)

    # -- which points count -----------------------------------------------------------------------------------------

    def _column(self, name: str) -> Any:
        return self._columns.of[name][: self._rows]

    def _reserve(self, rows: Rows) -> None:
        if len(rows.first):
            self._rows = max(self._rows, int(rows.first.max()) + max(len(form.stats) for form in rows.forms))
            self._columns.reserve(self._rows)

    def _in_time(self, points: Points, first: I32, now_ns: int, counts: Counter[str]) -> I64:
        """Points that have a row and a time that can be."""
        future = points.time_ns > now_ns + int(self._config.max_ahead * 1e9)
        unset = points.time_ns <= 0
        known = first >= 0
        if future.any() or unset.any():
            counts["future"] += int((future & known).sum())
            counts["absent"] += int((unset & known).sum())
            if self._quality is not None:
                self._quality.problem("future", first[future & known])
                self._quality.problem("absent", first[unset & known])
            known = known & ~future & ~unset
        return np.flatnonzero(known)

    def _newer(self, points: Points, first: I32, index: I64, counts: Counter[str]) -> _Fresh:
        """The points that are newer than their series, whose times are noted."""
        head, time_ns = first[index], points.time_ns[index]
        column = self._columns.of
        before_ns = column["last_ns"][head]
        newer = time_ns > before_ns
        if not newer.all():
            counts["duplicate"] += int((time_ns == before_ns).sum())
            counts["late"] += int((time_ns < before_ns).sum())
            if self._quality is not None:
                same = time_ns == before_ns
                self._quality.same_time(head[same], points.value[index[same]])
                self._quality.problem("late", head[time_ns < before_ns])
            index, head, time_ns, before_ns = index[newer], head[newer], time_ns[newer], before_ns[newer]
        interval_s = np.where(before_ns > 0, (time_ns - before_ns) / 1e9, np.nan)
        usual_s = column["interval_s"][head]
        with np.errstate(invalid="ignore"):
            gap = (interval_s > self._config.gap_intervals * usual_s) & (usual_s > 0)
        counts["gap"] += int(gap.sum())
        if self._quality is not None:
            self._quality.points(head, time_ns, points.value[index])
            self._quality.problem("gap", head[gap])
        # A gap says little of how often a stream reports; without the bound one long one would hide the next silence.
        change = np.minimum(interval_s, 2 * usual_s) - usual_s
        usual_s = np.where(usual_s > 0, usual_s + INTERVAL_WEIGHT * change, np.fmax(interval_s, 0.0))
        column["interval_s"][head] = usual_s
        column["last_ns"][head] = time_ns
        column["seen"][head] = np.minimum(column["seen"][head], MOST_SEEN - 1) + 1
        column["quiet"][head] = False
        return _Fresh(index, head, time_ns, before_ns, interval_s)

    def _end(self, fresh: _Fresh, rows: Rows) -> I32:
        """Note that senders said that series end; all their rows."""
        self._columns.of["quiet"][fresh.head] = True
        self._columns.of["total"][fresh.head] = np.nan
        widths = np.array([len(form.stats) for form in rows.forms])[rows.form[fresh.index]]
        starts = np.cumsum(widths) - widths
        return (np.repeat(fresh.head - starts, widths) + np.arange(widths.sum())).astype(np.int32)

    # -- points to values -------------------------------------------------------------------------------------------

    def _values(self, points: Points, rows: Rows, fresh: _Fresh, counts: Counter[str]) -> Batch | None:
        kind, delta, rate = _kinds(points)
        of = points.stream[fresh.index]
        values = _Values()
        number = kind[of] <= Kind.SUM
        if number.any():
            some = fresh if number.all() else fresh[number]
            values.add(some.head, some, self._numbers(points, some, rate, delta, counts))
        if not number.all():
            some = fresh[~number]
            self._distributions(points, rows, some, delta[points.stream[some.index]], values, counts)
        return values.batch()

    def _numbers(self, points: Points, fresh: _Fresh, rate: Any, delta: Any, counts: Counter[str]) -> F64:
        """Values of gauges and rates of sums, (K,), in the order in which they came."""
        of = points.stream[fresh.index]
        value = points.value[fresh.index]
        counters = rate[of]
        missing = ~np.isfinite(value) & ~counters
        counts["absent"] += int(missing.sum())
        if self._quality is not None:
            self._quality.problem("absent", fresh.head[missing])
        if counters.any():
            some = fresh if counters.all() else fresh[counters]
            increase, length_s, _ = self._increase(points, points.value, some, delta[of[counters]], counts)
            value[counters] = _divided(increase, length_s)
        return value

    def _increase(
        self, points: Points, numbers: F64, fresh: _Fresh, delta: Bool, counts: Counter[str]
    ) -> tuple[F64, F64, Bool]:
        """(increase since the last point, seconds that it took, whether the stream began anew), (K,) each."""
        now, start_ns = numbers[fresh.index], points.start_ns[fresh.index]
        column = self._columns.of
        before, start_before = column["total"][fresh.head], column["start_ns"][fresh.head]
        absent = ~np.isfinite(now)
        counts["absent"] += int(absent.sum())
        # A later start that lies behind the last point is a true reset. One before it is a sender that corrects itself
        # or two senders of one series: then only a smaller number says that counting began anew.
        restarted = (start_ns > start_before) & (start_ns >= fresh.before_ns) & (start_before > 0)
        with np.errstate(invalid="ignore"):
            reset = ~delta & (restarted | (now < before)) & (fresh.before_ns > 0)
        counts["reset"] += int(reset.sum())
        if self._quality is not None:
            self._quality.problem("reset", fresh.head[reset])
            self._quality.starts(fresh.head, start_ns, start_before, fresh.before_ns, delta)
            self._quality.problem("absent", fresh.head[absent])
        base = np.where(delta | reset, 0.0, before)
        since_ns = np.where(delta & (start_ns > 0) | restarted & reset, start_ns, fresh.before_ns)
        length_s = np.where(since_ns > 0, (fresh.time_ns - since_ns) / 1e9, np.nan)
        kept = ~absent
        column["total"][fresh.head[kept]] = now[kept]
        column["start_ns"][fresh.head] = start_ns
        return now - base, length_s, reset

    def _distributions(
        self, points: Points, rows: Rows, fresh: _Fresh, delta: Bool, values: _Values, counts: Counter[str]
    ) -> None:
        """Rate, mean and percentiles or quantiles of histograms and summaries."""
        column = self._columns.of
        increase, length_s, reset = self._increase(points, points.count, fresh, delta, counts)
        values.add(fresh.head, fresh, _divided(increase, length_s))
        total = points.value[fresh.index]
        base = np.where(delta | reset, 0.0, column["sum"][fresh.head])
        column["sum"][fresh.head] = total
        values.add(fresh.head + np.int32(1), fresh, _divided(total - base, increase))
        for layout, form, some in _groups(points.layout[fresh.index], rows.form[fresh.index]):
            shape = rows.forms[form]
            if layout < 0 or not shape.quantiles:
                continue
            found = self._quantiles(points, points.layouts[layout], shape, fresh[some], delta[some], reset[some])
            for q in range(found.shape[1]):
                offset = np.int32(len(shape.stats) - len(shape.quantiles) + q)
                values.add(fresh.head[some] + offset, fresh[some], found[:, q])

    def _quantiles(self, points: Points, layout: bytes, form: Form, fresh: _Fresh, delta: Bool, reset: Bool) -> F64:
        """Values at the form's quantiles, (K, Q)."""
        summary = points.streams[points.stream[fresh.index[0]]].kind == Kind.SUMMARY
        edges = np.frombuffer(layout, "<f8")
        cells = gather(points.cells, points.cell_offset, fresh.index, len(edges) + (not summary))
        if summary:
            return np.column_stack([_at(cells, edges, q) for q in form.quantiles])
        if not delta.all():
            cells[~delta] = self._buckets.increase(layout, fresh.head[~delta], cells[~delta], reset[~delta])
        return percentiles(cells, edges, form.quantiles)


def _kinds(points: Points) -> tuple[Any, Any, Any]:
    """(kind, whether temporality is delta, whether a number becomes a rate) of each stream."""
    kind = np.array([stream.kind for stream in points.streams], np.int8)
    delta = np.array([stream.temporality == Temporality.DELTA for stream in points.streams], bool)
    monotonic = np.array([stream.monotonic for stream in points.streams], bool)
    return kind, delta, (kind == Kind.SUM) & (monotonic | delta)


def _rounds(first: I32, time_ns: I64, index: I64) -> Iterator[I64]:
    """Points in rounds with at most one for each row, each row's points in the order of their times."""
    if not len(index):
        return
    head = first[index]
    place = np.empty(int(head.max()) + 1, np.int64)
    place[head] = np.arange(len(head))
    if (place[head] == np.arange(len(head))).all():
        yield index
        return
    order = np.lexsort((index, time_ns[index], head))
    index, head = index[order], head[order]
    begins = np.flatnonzero(np.diff(head, prepend=-1))
    rank = np.arange(len(head)) - np.repeat(begins, np.diff(np.append(begins, len(head))))
    by_rank = np.argsort(rank, kind="stable")
    yield from np.split(index[by_rank], np.cumsum(np.bincount(rank))[:-1])


def _groups(layout: I32, form: I32) -> Iterator[tuple[int, int, Bool]]:
    """Points with the same layout and form; the layout is -1 for those without."""
    for key in np.unique(layout.astype(np.int64) << 32 | form).tolist():
        yield key >> 32, key & 0xFFFFFFFF, (layout == key >> 32) & (form == key & 0xFFFFFFFF)


def _at(cells: F64, quantiles: F64, wanted: float) -> F64:
    """The values of a summary at one quantile, NaN when it has none there."""
    found = np.flatnonzero(quantiles == wanted)
    return cells[:, found[-1]] if len(found) else np.full(len(cells), np.nan)


def _divided(number: F64, by: F64) -> F64:
    """The quotient, NaN where the divisor is not positive."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(by > 0, number / by, np.nan)
