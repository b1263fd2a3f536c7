"""OTLP bodies to columns: protobuf slices a request into data points, numpy reads all of them at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from otel_aiops.otlp import grid
from otel_aiops.otlp.columns import Columns, assembled, in_order, keep
from otel_aiops.otlp.envelope import KIND_OF_FIELD, metrics, parse, stream_of
from otel_aiops.otlp.memo import Key, Known, Lesson, Memo, Recalled, learn, read_recalled
from otel_aiops.otlp.points import F64, I32, I64, Bool, Decoded, Kind, Stream
from otel_aiops.otlp.reader import Reader
from otel_aiops.otlp.wire import (
    BYTES,
    FIXED64,
    MOST_FIELDS,
    NO_FIELD,
    NONE,
    VARINT,
    Field,
    by_message,
    chosen,
    merged,
    packed_varints,
    spread,
    varint_bytes,
    walk,
    zigzag,
)

MOST_CELLS = 1_000  # buckets or quantiles of one point; SDKs make 160 at most
MOST_GRIDS = 1 << 16  # exponential histograms of one request: twenty bytes of one become up to 4 KiB of cells
ATTRIBUTE_TAG = 0x3A  # field 7, length-delimited: NumberDataPoint.attributes

INVALID = f"data point is not valid protobuf or has more than {MOST_FIELDS} fields"
NO_TIME = "time_unix_nano is not set"
FAR_TIME = "a time is beyond the year 2262"
NO_VALUE = "number data point has no value"
BAD_BUCKETS = "histogram has not one bucket more than bounds"
BAD_BOUNDS = "histogram bounds do not increase"
MANY_CELLS = f"more than {MOST_CELLS} buckets or quantiles"
MANY_GRIDS = f"more than {MOST_GRIDS} exponential histograms in one request"
BAD_SCALE = f"exponential histogram scale is not in {grid.COARSEST}..{grid.FINEST}"


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the fields of a kind of data point are (opentelemetry-proto, metrics/v1)."""

    attributes: int
    flags: int
    count: int = 0
    total: int = 0


_LAYOUTS = {
    Kind.GAUGE: _Layout(attributes=7, flags=8),
    Kind.HISTOGRAM: _Layout(attributes=9, flags=10, count=4, total=5),
    Kind.EXPONENTIAL_HISTOGRAM: _Layout(attributes=1, flags=10, count=4, total=5),
    Kind.SUMMARY: _Layout(attributes=7, flags=8, count=4, total=5),
}
_NUMBERS = Kind.GAUGE  # gauges and sums have the same points, so they are read together


def decode_metrics(body: bytes, memo: Memo | None = None) -> Decoded:
    """Read an ExportMetricsServiceRequest without touching its points one by one.

    Points are grouped by kind (numbers, histograms, exponential histograms, summaries), in request order inside each.
    A data point that cannot be used is left out and counted under its reason; the others stand.

    Raises: BadInput if the body is not a metrics request.
    """
    rejected: Counter[str] = Counter()
    request = _Request(memo)
    if not request.read_regular(body, rejected):
        rejected.clear()
        request = _Request(None)
        for stream, points in metrics(body, rejected):
            request.add(stream, points, None)
    columns = [
        _read_numbers(request, rejected, memo) if kind == _NUMBERS else _read(kind, group, rejected)
        for kind, group in sorted(request.groups.items())
    ]
    return Decoded(assembled(tuple(request.streams), columns), dict(rejected))


# -- the data points: all of a kind at once -----------------------------------------------------------------------


@dataclass(slots=True)
class _Group:
    """The raw points of one kind, and which stream how many of them belong to; `lessons` are for the memo."""

    streams: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    points: list[bytes] = field(default_factory=list)
    lessons: list[Lesson | None] = field(default_factory=list)

    def take(self, stream: int, points: list[bytes], lesson: Lesson | None) -> None:
        """Append the points of one metric."""
        self.streams.append(stream)
        self.sizes.append(len(points))
        self.points += points
        self.lessons.append(lesson)


class _Request:
    """The metrics of a request, on their way to columns."""

    def __init__(self, memo: Memo | None) -> None:
        self.streams: list[Stream] = []
        self.groups: dict[Kind, _Group] = {}
        self.recalled = Recalled()
        self._memo = memo

    def add(self, stream: Stream, points: list[bytes], lesson: Lesson | None) -> None:
        """Take the points of one metric."""
        group = self._group(_NUMBERS if stream.kind == Kind.SUM else stream.kind)
        group.take(len(self.streams), points, lesson)
        self.streams.append(stream)

    def lesson(self, key: Key, stream: Stream, raw: bytes, *, refuted: bool = False) -> Lesson | None:
        """What to learn from a metric that the memo does not know or knows otherwise; None when that would not pay."""
        if self._memo is None:
            return None
        if refuted:
            self._memo.refute(key)
        return Lesson(key, stream, raw) if self._memo.wants(key) else None

    def read_regular(self, body: bytes, rejected: Counter[str]) -> bool:
        """Take all metrics; False when one is written in an unusual way, and then this request must not be used."""
        for resource_metrics in parse(body, "Regular", "metrics").resources:
            resource = b"".join(resource_metrics.resource)
            for scope_metrics in resource_metrics.scopes:
                scope = b"".join(scope_metrics.scope)
                for metric in scope_metrics.items:
                    if not self._take(resource, scope, metric, rejected):
                        return False
        return True

    def _take(self, resource: bytes, scope: bytes, metric: Any, rejected: Counter[str]) -> bool:
        pieces = [(field.number, piece) for field, piece in metric.ListFields() if field.number in KIND_OF_FIELD]
        if not pieces:
            return True
        number, raws = pieces[0]
        if len(pieces) > 1 or len(raws) > 1:
            return False
        kind, raw = KIND_OF_FIELD[number], raws[0]
        key = None
        if kind <= Kind.SUM and self._memo is not None:
            key = resource, scope, metric.name, metric.unit, kind, len(raw)
            known = self._memo.get(key)
            if known is not None:
                self._recall(key, known, raw)
                return True
        data = parse(raw, "Data", "metrics")
        stream = stream_of(resource, scope, metric.name, metric.unit, kind, data, rejected)
        if stream is not None:
            self.add(stream, data.points, self.lesson(key, stream, raw) if key else None)
        return True

    def _recall(self, key: Key, known: Known, raw: bytes) -> None:
        self._group(_NUMBERS)
        self.recalled.streams.append(len(self.streams))
        self.recalled.raws.append(raw)
        self.recalled.known.append(known)
        self.recalled.keys.append(key)
        self.streams.append(known.stream)

    def _group(self, kind: Kind) -> _Group:
        if kind not in self.groups:
            self.groups[kind] = _Group()
        return self.groups[kind]


def _attributes(reader: Reader, number: int) -> list[bytes]:
    """The attribute fields of each point, as fields with number 7.

    They stand side by side in what every known sender writes, so that a point's attributes are one slice. Where
    they do not, or where a tag is written longer than it must be, the point is put together by itself.
    """
    found = reader.field(number, BYTES)
    first = np.zeros(reader.n, np.int64)
    last = np.zeros(reader.n, np.int64)
    ends = found.at + found.size
    first[found.message[::-1]] = found.tag[::-1]
    last[found.message] = ends
    tag = number << 3 | BYTES
    odd = np.bincount(found.message, ends - found.tag, reader.n) != last - first
    odd[found.message[reader.buffer.u8[found.tag] != tag]] = True
    reader.buffer.u8[found.tag] = ATTRIBUTE_TAG  # in place: nothing reads the tags any more
    data = bytes(reader.data)
    slices = list(map(data.__getitem__, map(slice, first.tolist(), last.tolist())))
    if odd.any():
        _put_together(reader.data, slices, chosen(found, odd[found.message]))
    return slices


def _put_together(data: bytes | bytearray, slices: list[bytes], found: Field) -> None:
    """Write the attributes of some points anew, in place."""
    parts: dict[int, list[bytes]] = {}
    own = by_message(found)
    for message, at, size in zip(own.message.tolist(), own.at.tolist(), own.size.tolist(), strict=True):
        parts.setdefault(message, []).append(b"\x3a" + varint_bytes(size) + data[at : at + size])
    for message, fields in parts.items():
        slices[message] = b"".join(fields)


def _read(kind: Kind, group: _Group, rejected: Counter[str]) -> Columns:
    stream = np.repeat(np.array(group.streams, np.int32), group.sizes)
    points = group.points
    if kind == Kind.EXPONENTIAL_HISTOGRAM and len(points) > MOST_GRIDS:
        rejected[MANY_GRIDS] += len(points) - MOST_GRIDS
        stream, points = stream[:MOST_GRIDS], points[:MOST_GRIDS]
    columns, reader = _columns(kind, points, stream)
    return _good(columns, reader, rejected)


def _columns(kind: Kind, points: list[bytes], stream: I32) -> tuple[Columns, Reader]:
    """Walk the points of one kind: (columns, the reader that knows why some are refused)."""
    layout = _LAYOUTS[kind]
    reader = Reader(points, INVALID, FAR_TIME, bytearray)
    start_ns, time_ns = reader.time(2), reader.time(3)
    reader.reject(time_ns == 0, NO_TIME)
    stale = (reader.varint(layout.flags) & np.uint64(1)).astype(bool)
    bounds: list[bytes] | None = None
    cells, sizes = np.empty(0), np.zeros(reader.n, np.int64)
    if kind == _NUMBERS:
        value, count = _number(reader, stale), np.full(reader.n, np.nan)
    else:
        value, count = reader.fixed(layout.total), reader.whole(layout.count).astype(np.float64)
        if kind == Kind.SUMMARY:
            value[np.isnan(value) & ~_present(reader, layout.total)] = 0.0  # not optional in a summary
        bounds, cells, sizes = _CELLS[kind](reader)
    attributes = _attributes(reader, layout.attributes)
    columns = Columns(stream, attributes, start_ns, time_ns, value, count, stale, bounds, cells, sizes)
    return columns, reader


def _read_numbers(request: _Request, rejected: Counter[str], memo: Memo | None) -> Columns:
    """Gauges and sums: those that are as the memo knows them at known places, the others by the walk."""
    group, recalled = request.groups[_NUMBERS], request.recalled
    known, refuted = read_recalled(recalled)
    for k in refuted:  # the same size by chance, or a time that cannot be
        data = parse(recalled.raws[k], "Data", "metrics")
        key, number = recalled.keys[k], recalled.streams[k]
        stream = stream_of(*key[:5], data, rejected)
        if stream is None:
            continue
        request.streams[number] = stream  # its temporality may be another
        group.take(number, data.points, request.lesson(key, stream, recalled.raws[k], refuted=True))
    if not group.points:
        return known
    owner = np.repeat(np.array(group.streams, np.int32), group.sizes)
    walked, reader = _columns(_NUMBERS, group.points, owner)
    if memo is not None:
        _remember(group, walked, reader.reason, memo)
    return in_order(known, _good(walked, reader, rejected))


def _remember(group: _Group, walked: Columns, reason: Any, memo: Memo) -> None:
    """Put metrics into the memo whose points are in the order in which all known senders write them."""
    ends = np.cumsum([0, *group.sizes]).tolist()
    bad = (reason != 0).tolist()
    for lesson, (a, b) in zip(group.lessons, pairwise(ends), strict=True):
        known = learn(lesson, group.points[a:b], walked.attributes[a:b]) if lesson and not any(bad[a:b]) else None
        if lesson and known:
            memo.add(lesson.key, known)


def _good(columns: Columns, reader: Reader, rejected: Counter[str]) -> Columns:
    """The points that stand; the others are counted."""
    if not reader.reason.any():
        return columns
    reader.count_reasons(rejected)
    return keep(columns, reader.reason == 0)


def _present(reader: Reader, number: int) -> Bool:
    present = np.zeros(reader.n, bool)
    present[reader.field(number, FIXED64).message] = True
    return present


def _number(reader: Reader, stale: Bool) -> F64:
    """as_double (4) or as_int (6): the one that comes last, as in any oneof."""
    double, integer = reader.field(4, FIXED64), reader.field(6, FIXED64)
    value = np.full(reader.n, np.nan)
    step = np.full(reader.n, -1, np.int64)
    value[double.message] = reader.buffer.f64(double.at)
    step[double.message] = double.step
    # Occurrences are in wire order, so for each point the last one decides.
    at = np.full(reader.n, -1, np.int64)
    later = np.full(reader.n, -1, np.int64)
    at[integer.message] = integer.at
    later[integer.message] = integer.step
    wins = np.flatnonzero(later > step)
    value[wins] = reader.buffer.i64(at[wins]).astype(np.float64)
    reader.reject((np.maximum(step, later) < 0) & ~stale, NO_VALUE)
    value[stale] = np.nan
    return value


def _histogram(reader: Reader) -> tuple[list[bytes], F64, I64]:
    counts, sizes = _doubles(reader, 6)
    bounds, lengths = _doubles(reader, 7)
    reader.reject((sizes != lengths + 1) & ((sizes > 0) | (lengths > 0)), BAD_BUCKETS)
    reader.reject(sizes > MOST_CELLS, MANY_CELLS)
    layouts = _shares(reader.buffer.f64(bounds), lengths)
    wrong = {one for one in set(layouts) if not _increasing(np.frombuffer(one, "<f8"))}
    if wrong:
        reader.reject(np.fromiter(map(wrong.__contains__, layouts), bool, reader.n), BAD_BOUNDS)
    return layouts, reader.buffer.u64(counts).astype(np.float64), sizes


def _doubles(reader: Reader, number: int) -> tuple[I64, I64]:
    """Positions of the elements of a repeated 64-bit field, packed or not, and how many each point has."""
    found = merged(reader.field(number, BYTES), reader.field(number, FIXED64))
    if len(found) and not (np.diff(found.message) >= 0).all():
        found = by_message(found)
    partial = np.zeros(reader.n, bool)
    partial[found.message[found.size % 8 != 0]] = True
    reader.reject(partial, INVALID)
    number_of = found.size // 8
    sizes = np.zeros(reader.n, np.int64)
    np.add.at(sizes, found.message, number_of)
    return spread(found.at, number_of, 8), sizes


def _increasing(bounds: F64) -> bool:
    return not np.isnan(bounds).any() and bool((bounds[1:] > bounds[:-1]).all())


def _shares(values: F64, sizes: I64) -> list[bytes]:
    """The raw bytes of each point's share of a flat array."""
    data = values.astype("<f8", copy=False).tobytes()
    ends = np.cumsum(sizes) * 8
    return list(map(data.__getitem__, map(slice, (ends - sizes * 8).tolist(), ends.tolist())))


def _exponential(reader: Reader) -> tuple[list[bytes], F64, I64]:
    scale = zigzag(reader.varint(6))
    reader.reject((scale < grid.COARSEST) | (scale > grid.FINEST), BAD_SCALE)
    scale = np.clip(scale, grid.COARSEST, grid.FINEST)
    zero = reader.whole(7).astype(np.float64)
    positive, negative = _side(reader, 8, scale), _side(reader, 9, scale)
    signed = np.zeros(reader.n, bool)
    signed[negative[0]] = True
    sizes = np.where(signed, grid.SIGNED_CELLS, grid.POSITIVE_CELLS)
    zero_at = np.cumsum(sizes) - sizes + np.where(signed, grid.SIDE, 0)
    cells = np.zeros(int(sizes.sum()))
    cells[zero_at] = zero
    np.add.at(cells, zero_at[positive[0]] + 1 + positive[1], positive[2])
    np.add.at(cells, zero_at[negative[0]] - 1 - negative[1], negative[2])
    layouts = [grid.SIGNED_BOUNDS if one else grid.POSITIVE_BOUNDS for one in signed.tolist()]
    return layouts, cells, sizes


def _side(reader: Reader, number: int, scale: I64) -> tuple[I64, I64, F64]:
    """One side's buckets on the grid: (point, cell, count), non-empty ones only."""
    found = by_message(reader.field(number, BYTES))
    if not len(found):
        return NONE, NONE, np.empty(0)
    inner, broken = walk(reader.buffer, found.at, found.at + found.size)
    offset = np.zeros(reader.n, np.int64)
    offsets = inner.get((1, VARINT), NO_FIELD)
    order = np.lexsort((offsets.step, offsets.message))
    offset[found.message[offsets.message[order]]] = zigzag(reader.buffer.varint(offsets.at[order])[0])
    counts = merged(inner.get((2, BYTES), NO_FIELD), inner.get((2, VARINT), NO_FIELD))
    if len(counts):
        counts = by_message(counts)
    values, number_of, torn = packed_varints(reader.buffer, counts.at, counts.size)
    invalid = np.zeros(reader.n, bool)
    invalid[found.message[broken]] = True
    invalid[found.message[counts.message[torn]]] = True
    reader.reject(invalid, INVALID)
    owner = found.message[counts.message]
    sizes = np.bincount(owner, number_of, reader.n).astype(np.int64)
    reader.reject(sizes > MOST_CELLS, MANY_CELLS)
    # The points are in order, so an element's index is its place behind the first of its point.
    index, point = spread(offset, sizes, 1), np.repeat(np.arange(reader.n), sizes)
    filled = np.flatnonzero((values > 0) & (reader.reason == 0)[point])
    point = point[filled]
    cell, share, source = grid.lay(index[filled], values[filled].astype(np.float64), scale[point])
    return point[source], cell, share


def _summary(reader: Reader) -> tuple[list[bytes], F64, I64]:
    found = by_message(reader.field(6, BYTES))
    inner, broken = walk(reader.buffer, found.at, found.at + found.size)
    invalid = np.zeros(reader.n, bool)
    invalid[found.message[broken]] = True
    reader.reject(invalid, INVALID)
    pair = np.zeros((2, len(found)))
    for row in (0, 1):
        item = inner.get((row + 1, FIXED64), NO_FIELD)
        pair[row, item.message] = reader.buffer.f64(item.at)
    sizes = np.bincount(found.message, minlength=reader.n).astype(np.int64)
    reader.reject(sizes > MOST_CELLS, MANY_CELLS)
    return _shares(pair[0], sizes), pair[1], sizes


_CELLS = {
    Kind.HISTOGRAM: _histogram,
    Kind.EXPONENTIAL_HISTOGRAM: _exponential,
    Kind.SUMMARY: _summary,
}
