"""OTLP bodies to columns: protobuf slices a request into data points, numpy reads all of them at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from otel_aiops.errors import BadInput
from otel_aiops.otlp import grid
from otel_aiops.otlp.attributes import attributes as attributes
from otel_aiops.otlp.attributes import resource as resource
from otel_aiops.otlp.attributes import scope as scope
from otel_aiops.otlp.points import F64, I32, I64, Bool, Decoded, Kind, Points, Stream, Temporality
from otel_aiops.otlp.wire import (
    BYTES,
    FIXED64,
    NO_FIELD,
    PADDING,
    VARINT,
    Buffer,
    Field,
    by_message,
    merged,
    packed_varints,
    spread,
    walk,
    zigzag,
)

MOST_CELLS = 1_000  # buckets or quantiles of one point; SDKs make 160 at most
LARGEST_TIME = np.uint64(2**63 - 1)
START_TAG, TIME_TAG, DOUBLE_TAG, INTEGER_TAG = 0x11, 0x19, 0x21, 0x31  # of NumberDataPoint: fixed64 fields 2, 3, 4, 6
ATTRIBUTE_TAG = 0x3A  # field 7, length-delimited: NumberDataPoint.attributes

INVALID = "data point is not valid protobuf"
NO_TIME = "time_unix_nano is not set"
FAR_TIME = "a time is beyond the year 2262"
NO_VALUE = "number data point has no value"
BAD_BUCKETS = "histogram has not one bucket more than bounds"
BAD_BOUNDS = "histogram bounds do not increase"
MANY_CELLS = f"more than {MOST_CELLS} buckets or quantiles"
BAD_SCALE = f"exponential histogram scale is not in {grid.COARSEST}..{grid.FINEST}"
NO_NAME = "metric has no name"
BAD_NAME = "metric name or unit is not UTF-8"


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
ATTRIBUTES_OF_NUMBERS = 7
_NUMBERS = Kind.GAUGE  # gauges and sums have the same points, so they are read together
_KINDS = {
    "gauge": Kind.GAUGE,
    "sum": Kind.SUM,
    "histogram": Kind.HISTOGRAM,
    "exponential_histogram": Kind.EXPONENTIAL_HISTOGRAM,
    "summary": Kind.SUMMARY,
}


class Memo:
    """Number points of whole metrics that the walk has found to be times, a value and attributes, and nothing else.

    Senders repeat the attributes of a metric's series in every request: all but the numbers is the same, and need not
    be walked again. It only saves time: what is decoded does not depend on it. Bounded; when it is full it starts anew.
    """

    def __init__(self, limit_bytes: int = 256 << 20) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._known: dict[tuple[bytes, bytes], list[bytes]] = {}

    def get(self, skeleton: tuple[bytes, bytes]) -> list[bytes] | None:
        """The attributes of the points of a metric, by its bytes without numbers and the sizes of its points."""
        return self._known.get(skeleton)

    def add(self, skeleton: tuple[bytes, bytes], attributes: list[bytes]) -> None:
        """Remember the points of a metric."""
        if self.size_bytes > self.limit_bytes:
            self._known, self.size_bytes = {}, 0
        self._known[skeleton] = attributes
        self.size_bytes += len(skeleton[0]) + len(skeleton[1])


def decode_metrics(body: bytes, memo: Memo | None = None) -> Decoded:
    """Read an ExportMetricsServiceRequest without touching its points one by one.

    Points are grouped by kind (numbers, histograms, exponential histograms, summaries), in request order inside each.
    A data point that cannot be used is left out and counted under its reason; the others stand.

    Raises: BadInput if the body is not a metrics request.
    """
    rejected: Counter[str] = Counter()
    streams: list[Stream] = []
    groups: dict[Kind, _Group] = {}
    for stream, points in _metrics(body, rejected):
        kind = _NUMBERS if stream.kind == Kind.SUM else stream.kind
        group = groups.get(kind)
        if group is None:
            group = groups[kind] = _Group()
        group.streams.append(len(streams))
        group.sizes.append(len(points))
        group.points += points
        streams.append(stream)
    columns = [
        _read_numbers(group, rejected, memo) if kind == _NUMBERS and memo is not None else _read(kind, group, rejected)
        for kind, group in sorted(groups.items())
    ]
    return Decoded(_points(tuple(streams), columns), dict(rejected))


def count_spans(body: bytes) -> int:
    """How many spans an ExportTraceServiceRequest holds; BadInput if it is not one."""
    return _count(body, "traces")


def count_logs(body: bytes) -> int:
    """How many log records an ExportLogsServiceRequest holds; BadInput if it is not one."""
    return _count(body, "logs")


# -- the envelope: everything above the data points, parsed by protobuf itself ------------------------------------


def _envelope() -> type[Any]:
    """A message class that reads the OTLP envelopes and leaves everything below as bytes.

    It has the field numbers of opentelemetry-proto's requests, so it is compatible on the wire. Resources and scopes
    are repeated bytes: a message that stands twice is merged by joining its bytes, as protobuf defines it.
    """
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="envelope.proto", package="envelope", syntax="proto2")

    def message(name: str, *fields: tuple[str, int, int, bool, str], oneof: str = "") -> None:
        entry = file.message_type.add(name=name)
        if oneof:
            entry.oneof_decl.add(name=oneof)
        for label, number, type_, repeated, inner in fields:
            item = entry.field.add(name=label, number=number, type=type_)
            item.label = kind.LABEL_REPEATED if repeated else kind.LABEL_OPTIONAL
            if inner:
                item.type_name = f".envelope.{inner}"
            if oneof and inner:
                item.oneof_index = 0

    raw, sub, i32, flag = kind.TYPE_BYTES, kind.TYPE_MESSAGE, kind.TYPE_INT32, kind.TYPE_BOOL
    message(
        "Data",
        ("points", 1, raw, True, ""),
        ("temporality", 2, i32, False, ""),
        ("monotonic", 3, flag, False, ""),
    )
    message(
        "Metric",
        ("name", 1, raw, False, ""),
        ("unit", 3, raw, False, ""),
        ("gauge", 5, sub, False, "Data"),
        ("sum", 7, sub, False, "Data"),
        ("histogram", 9, sub, False, "Data"),
        ("exponential_histogram", 10, sub, False, "Data"),
        ("summary", 11, sub, False, "Data"),
        oneof="data",
    )
    for signal, inner in (("Metrics", "Metric"), ("Items", "")):
        message(f"Scope{signal}", ("scope", 1, raw, True, ""), ("items", 2, sub if inner else raw, True, inner))
        message(f"Resource{signal}", ("resource", 1, raw, True, ""), ("scopes", 2, sub, True, f"Scope{signal}"))
        message(signal, ("resources", 1, sub, True, f"Resource{signal}"))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    names = ("Metrics", "Items")
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"envelope.{name}")) for name in names}  # type: ignore[return-value]


_ENVELOPES: Any = _envelope()


def _parse(body: bytes, envelope: str, signal: str) -> Any:
    try:
        return _ENVELOPES[envelope].FromString(body)
    except DecodeError as error:
        raise BadInput(f"expected an OTLP {signal} request in protobuf, got {len(body)} bytes that are not") from error


def _metrics(body: bytes, rejected: Counter[str]) -> Iterable[tuple[Stream, list[bytes]]]:
    for resource_metrics in _parse(body, "Metrics", "metrics").resources:
        resource = b"".join(resource_metrics.resource)
        for scope_metrics in resource_metrics.scopes:
            scope = b"".join(scope_metrics.scope)
            for metric in scope_metrics.items:
                which = metric.WhichOneof("data")
                if which is None:
                    continue
                data = getattr(metric, which)
                points = data.points
                try:
                    name, unit = metric.name.decode(), metric.unit.decode()
                except UnicodeDecodeError:
                    rejected[BAD_NAME] += len(points)
                    continue
                if not points:
                    continue
                if not name:
                    rejected[NO_NAME] += len(points)
                    continue
                kind = _KINDS[which]
                aggregated = kind not in (Kind.GAUGE, Kind.SUMMARY)
                temporality = _TEMPORALITIES.get(data.temporality if aggregated else 0, Temporality.UNSPECIFIED)
                monotonic = kind == Kind.SUM and data.monotonic
                yield Stream(resource, scope, name, unit, kind, temporality, monotonic), points


_TEMPORALITIES = {int(temporality): temporality for temporality in Temporality}


def _count(body: bytes, signal: str) -> int:
    request = _parse(body, "Items", signal)
    return sum(len(scope.items) for resource in request.resources for scope in resource.scopes)


# -- the data points: all of a kind at once -----------------------------------------------------------------------


@dataclass(slots=True)
class _Group:
    """The raw points of one kind, and which stream how many of them belong to."""

    streams: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    points: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Points of one kind as columns; `bounds[i]` is the layout of point i (b"" for none)."""

    stream: I32
    attributes: list[bytes]
    start_ns: I64
    time_ns: I64
    value: F64
    count: F64
    stale: Bool
    bounds: list[bytes] | None
    cells: F64
    sizes: I64  # (N,) cells of each point


class _Reader:
    """The points of one kind under the walk, and the verdicts on them."""

    def __init__(self, points: list[bytes]) -> None:
        self.data = b"".join([*points, bytes(PADDING)])
        self.buffer = Buffer(self.data)
        self.end = np.cumsum(np.fromiter(map(len, points), np.int64, len(points)))
        self.start = np.concatenate([[0], self.end[:-1]]).astype(np.int64)
        self.n = len(points)
        self.reason = np.zeros(self.n, np.int8)  # index into _REASONS of the first thing wrong, 0 for none
        self.fields, invalid = walk(self.buffer, self.start, self.end)
        self.reject(invalid, INVALID)

    def reject(self, which: Bool, reason: str) -> None:
        self.reason[which & (self.reason == 0)] = _REASONS.index(reason)

    def field(self, number: int, wire_type: int) -> Field:
        return self.fields.get((number, wire_type), NO_FIELD)

    def fixed(self, number: int) -> F64:
        """A double field, NaN where it is absent; the last occurrence wins."""
        found = self.field(number, FIXED64)
        out = np.full(self.n, np.nan)
        out[found.message] = self.buffer.f64(found.at)
        return out

    def whole(self, number: int) -> Any:
        """A fixed64 field, 0 where it is absent."""
        found = self.field(number, FIXED64)
        out = np.zeros(self.n, np.uint64)
        out[found.message] = self.buffer.u64(found.at)
        return out

    def varint(self, number: int) -> Any:
        """A varint field, 0 where it is absent."""
        found = self.field(number, VARINT)
        out = np.zeros(self.n, np.uint64)
        out[found.message] = self.buffer.varint(found.at)[0]
        return out

    def time(self, number: int) -> I64:
        raw = self.whole(number)
        self.reject(raw > LARGEST_TIME, FAR_TIME)
        found: I64 = np.minimum(raw, LARGEST_TIME).astype(np.int64)
        return found

    def attributes(self, number: int) -> list[bytes]:
        """The attribute fields of each point, as fields with number 7.

        They stand side by side in what every known sender writes, so that a point's attributes are one slice. Where
        they do not, or where a tag is written longer than it must be, the point is put together by itself.
        """
        found = self.field(number, BYTES)
        first = np.zeros(self.n, np.int64)
        last = np.zeros(self.n, np.int64)
        ends = found.at + found.size
        first[found.message[::-1]] = found.tag[::-1]
        last[found.message] = ends
        taken = np.zeros(self.n, np.int64)
        np.add.at(taken, found.message, ends - found.tag)
        tag = number << 3 | BYTES
        odd = taken != last - first
        odd[found.message[self.buffer.u8[found.tag] != tag]] = True
        data = self.data
        if tag != ATTRIBUTE_TAG:
            bytes_ = self.buffer.u8.copy()
            bytes_[found.tag] = ATTRIBUTE_TAG
            data = bytes_.tobytes()
        slices = list(map(data.__getitem__, map(slice, first.tolist(), last.tolist())))
        for point in np.flatnonzero(odd).tolist():
            mine = found.message == point
            slices[point] = b"".join(
                b"\x3a" + _varint(size) + self.data[at : at + size]
                for at, size in zip(found.at[mine].tolist(), found.size[mine].tolist(), strict=True)
            )
        return slices


_REASONS = [
    "",
    INVALID,
    NO_TIME,
    FAR_TIME,
    NO_VALUE,
    BAD_BUCKETS,
    BAD_BOUNDS,
    MANY_CELLS,
    BAD_SCALE,
]


def _read(kind: Kind, group: _Group, rejected: Counter[str]) -> _Columns:
    stream = np.repeat(np.array(group.streams, np.int32), group.sizes)
    columns, reason = _columns(kind, group.points, stream)
    if not reason.any():
        return columns
    _count_reasons(reason, rejected)
    return _keep(columns, reason == 0)


def _columns(kind: Kind, points: list[bytes], stream: I32) -> tuple[_Columns, Any]:
    """Walk the points of one kind: (columns, why each is rejected as an index into _REASONS)."""
    layout = _LAYOUTS[kind]
    reader = _Reader(points)
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
    attributes = reader.attributes(layout.attributes)
    columns = _Columns(stream, attributes, start_ns, time_ns, value, count, stale, bounds, cells, sizes)
    return columns, reader.reason


def _read_numbers(group: _Group, rejected: Counter[str], memo: Memo) -> _Columns:
    """Numbers in the order in which all known senders write them are read at fixed offsets, the others are walked.

    That order is start (optional), time, value, attributes. Behind the value may also come exemplars and flags, so what
    is there counts as attributes only when the memo knows it.
    """
    n = len(group.points)
    data = bytearray().join([*group.points, bytes(2 * PADDING)])
    buffer = Buffer(data)
    lengths = np.fromiter(map(len, group.points), np.int64, n)
    end = np.cumsum(lengths)
    start = end - lengths
    has_start = buffer.u8[start] == START_TAG
    time_at = start + 9 * has_start
    tag = buffer.u8[time_at + 9]
    fixed = (buffer.u8[time_at] == TIME_TAG) & ((tag == DOUBLE_TAG) | (tag == INTEGER_TAG)) & (time_at + 18 <= end)
    start_ns = np.where(has_start, buffer.u64(start + 1), np.uint64(0))
    time_ns = buffer.u64(time_at + 1)
    fixed &= (start_ns <= LARGEST_TIME) & (time_ns <= LARGEST_TIME) & (time_ns > 0)
    value = buffer.f64(time_at + 10)
    integer = np.flatnonzero(tag == INTEGER_TAG)
    value[integer] = buffer.i64(time_at[integer] + 10)
    # The tags stay, the numbers go: what is left is the same in every request of a sender.
    words = np.ndarray((len(data) - 7,), "<i8", data, 0, (1,))
    for at in (start[fixed & has_start] + 1, time_at[fixed] + 1, time_at[fixed] + 10):
        words[at] = 0
    attributes = _recall(group, memo, data, lengths, start, fixed)
    columns = _Columns(
        stream=np.repeat(np.array(group.streams, np.int32), group.sizes),
        attributes=attributes,
        start_ns=start_ns.astype(np.int64),
        time_ns=time_ns.astype(np.int64),
        value=value,
        count=np.full(n, np.nan),
        stale=np.zeros(n, bool),
        bounds=None,
        cells=np.empty(0),
        sizes=np.zeros(n, np.int64),
    )
    return columns if fixed.all() else _walk_rest(columns, fixed, group, rejected)


def _recall(group: _Group, memo: Memo, data: bytearray, lengths: I64, start: I64, fixed: Bool) -> list[bytes]:
    """The attributes of all points; `fixed` becomes False, in place, for those that must be walked."""
    plain, sizes = bytes(data), lengths.astype(np.int32).tobytes()
    last = np.cumsum(group.sizes)
    spans = list(pairwise([0, *last.tolist()]))
    cuts = np.append(start, len(plain) - 2 * PADDING)[[0, *last]].tolist()
    regular = np.ones(len(spans), bool)
    regular[np.searchsorted(last, np.flatnonzero(~fixed), side="right")] = False
    skeletons = [(plain[i:j], sizes[4 * a : 4 * b]) for (a, b), (i, j) in zip(spans, pairwise(cuts), strict=True)]
    known = [memo.get(skeleton) if usual else None for skeleton, usual in zip(skeletons, regular.tolist(), strict=True)]
    unknown = [k for k in np.flatnonzero(regular).tolist() if known[k] is None]
    for k, found in zip(unknown, _meet([group.points[slice(*spans[k])] for k in unknown]), strict=True):
        known[k] = found
        if found is not None:
            memo.add(skeletons[k], found)
    attributes: list[bytes] = []
    for (a, b), found in zip(spans, known, strict=True):
        if found is None:
            fixed[a:b] = False
        attributes += found or [b""] * (b - a)
    return attributes


def _meet(metrics: list[list[bytes]]) -> list[list[bytes] | None]:
    """The attributes of the points of each metric; None when one has anything else behind its value."""
    points = list(chain.from_iterable(metrics))
    if not points:
        return []
    reader = _Reader(points)
    walked = reader.attributes(ATTRIBUTES_OF_NUMBERS)
    tails = [point[18 + 9 * (point[0] == START_TAG) :] for point in points]
    reasons = reader.reason.tolist()
    clean = [one == tail and not why for one, tail, why in zip(walked, tails, reasons, strict=True)]
    ends = np.cumsum([0, *map(len, metrics)]).tolist()
    return [walked[a:b] if all(clean[a:b]) else None for a, b in pairwise(ends)]


def _walk_rest(columns: _Columns, fixed: Bool, group: _Group, rejected: Counter[str]) -> _Columns:
    """Replace the points that are not at fixed offsets by what the walk says."""
    slow = np.flatnonzero(~fixed)
    points = [group.points[i] for i in slow.tolist()]
    walked, reason = _columns(_NUMBERS, points, columns.stream[slow])
    for name in ("start_ns", "time_ns", "value", "stale"):
        getattr(columns, name)[slow] = getattr(walked, name)
    for i, own in zip(slow.tolist(), walked.attributes, strict=True):
        columns.attributes[i] = own
    if not reason.any():
        return columns
    _count_reasons(reason, rejected)
    keep = np.ones(len(fixed), bool)
    keep[slow] = reason == 0
    return _keep(columns, keep)


def _count_reasons(reason: Any, rejected: Counter[str]) -> None:
    for code, times in enumerate(np.bincount(reason).tolist()):
        if code and times:
            rejected[_REASONS[code]] += times


def _present(reader: _Reader, number: int) -> Bool:
    present = np.zeros(reader.n, bool)
    present[reader.field(number, FIXED64).message] = True
    return present


def _number(reader: _Reader, stale: Bool) -> F64:
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


def _histogram(reader: _Reader) -> tuple[list[bytes], F64, I64]:
    counts, sizes = _doubles(reader, 6)
    bounds, lengths = _doubles(reader, 7)
    reader.reject((sizes != lengths + 1) & ((sizes > 0) | (lengths > 0)), BAD_BUCKETS)
    reader.reject(sizes > MOST_CELLS, MANY_CELLS)
    layouts = _slices(reader.buffer.f64(bounds), lengths)
    wrong = {one for one in set(layouts) if not _increasing(np.frombuffer(one, "<f8"))}
    if wrong:
        reader.reject(np.fromiter(map(wrong.__contains__, layouts), bool, reader.n), BAD_BOUNDS)
    return layouts, reader.buffer.u64(counts).astype(np.float64), sizes


def _doubles(reader: _Reader, number: int) -> tuple[I64, I64]:
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


def _slices(values: F64, sizes: I64) -> list[bytes]:
    """The raw bytes of each point's share of a flat array."""
    data = values.astype("<f8", copy=False).tobytes()
    ends = np.cumsum(sizes) * 8
    return list(map(data.__getitem__, map(slice, (ends - sizes * 8).tolist(), ends.tolist())))


def _exponential(reader: _Reader) -> tuple[list[bytes], F64, I64]:
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


def _side(reader: _Reader, number: int, scale: I64) -> tuple[I64, I64, F64]:
    """One side's buckets on the grid: (point, cell, count), non-empty ones only."""
    found = by_message(reader.field(number, BYTES))
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
    point = np.repeat(found.message[counts.message], number_of)
    sizes = np.bincount(point, minlength=reader.n).astype(np.int64)
    reader.reject(sizes > MOST_CELLS, MANY_CELLS)
    # The points are in order, so an element's index is its place behind the first of its point.
    index = np.arange(len(point)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + offset[point]
    keep = (values > 0) & (reader.reason[point] == 0)
    cell, share, source = grid.lay(index[keep], values[keep].astype(np.float64), scale[point[keep]])
    return point[keep][source], cell, share


def _summary(reader: _Reader) -> tuple[list[bytes], F64, I64]:
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
    return _slices(pair[0], sizes), pair[1], sizes


_CELLS = {
    Kind.HISTOGRAM: _histogram,
    Kind.EXPONENTIAL_HISTOGRAM: _exponential,
    Kind.SUMMARY: _summary,
}


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# -- putting the kinds together -----------------------------------------------------------------------------------


def _keep(columns: _Columns, good: Bool) -> _Columns:
    index = np.flatnonzero(good)
    chosen = index.tolist()
    start = np.cumsum(columns.sizes) - columns.sizes
    return _Columns(
        stream=columns.stream[index],
        attributes=[columns.attributes[i] for i in chosen],
        start_ns=columns.start_ns[index],
        time_ns=columns.time_ns[index],
        value=columns.value[index],
        count=columns.count[index],
        stale=columns.stale[index],
        bounds=None if columns.bounds is None else [columns.bounds[i] for i in chosen],
        cells=columns.cells[spread(start[index], columns.sizes[index], 1)],
        sizes=columns.sizes[index],
    )


def _points(streams: tuple[Stream, ...], columns: list[_Columns]) -> Points:
    layouts: dict[bytes, int] = {}
    layout = []
    for part in columns:
        if part.bounds is None:
            layout.append(np.full(len(part.stream), -1, np.int32))
            continue
        for bounds in dict.fromkeys(part.bounds):
            layouts.setdefault(bounds, len(layouts))
        numbers = np.fromiter(map(layouts.__getitem__, part.bounds), np.int32, len(part.bounds))
        layout.append(np.where(part.sizes > 0, numbers, np.int32(-1)))
    sizes = _concatenated([part.sizes for part in columns], np.int64)
    return Points(
        streams=streams,
        stream=_concatenated([part.stream for part in columns], np.int32),
        attributes=columns[0].attributes if len(columns) == 1 else [one for part in columns for one in part.attributes],
        start_ns=_concatenated([part.start_ns for part in columns], np.int64),
        time_ns=_concatenated([part.time_ns for part in columns], np.int64),
        value=_concatenated([part.value for part in columns], np.float64),
        count=_concatenated([part.count for part in columns], np.float64),
        stale=_concatenated([part.stale for part in columns], np.bool_),
        layouts=tuple(layouts),
        layout=_concatenated(layout, np.int32),
        cells=_concatenated([part.cells for part in columns], np.float64),
        cell_offset=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
    )


def _concatenated(parts: list[Any], dtype: type) -> Any:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, dtype)
