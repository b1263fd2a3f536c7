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


@dataclass(frozen=True, slots=True)
class _Known:
    """The points of a gauge or sum as they were seen: everything but their numbers.

    `skeleton` is the raw Data message with zeros in place of the numbers. `at` is where each point's time is in it;
    nine bytes behind is the value, an integer or not, and nine before the start where there is one.
    """

    stream: Stream
    skeleton: bytes
    at: I64
    started: Bool
    integer: Bool
    attributes: list[bytes]


_Key = tuple[bytes, bytes, bytes, bytes, Kind, int]  # resource, scope, name, unit, kind, size of the Data message


class Memo:
    """Gauges and sums whose points the walk has found to be times, a value and attributes, and nothing else.

    Senders repeat the attributes of a metric's series in every request: all but the numbers is the same, and need not
    be walked again. It only saves time: what is decoded does not depend on it. Bounded; when it is full it starts anew.
    """

    def __init__(self, limit_bytes: int = 256 << 20) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._known: dict[_Key, _Known] = {}

    def get(self, key: _Key) -> _Known | None:
        """What was seen under a key, if anything was."""
        return self._known.get(key)

    def add(self, key: _Key, known: _Known) -> None:
        """Remember a metric."""
        if self.size_bytes > self.limit_bytes:
            self._known, self.size_bytes = {}, 0
        self._known[key] = known
        self.size_bytes += len(known.skeleton)


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
        for stream, points in _metrics(body, rejected):
            request.add(stream, points, None)
    columns = [
        _read_numbers(group, request.recalled, rejected, memo) if kind == _NUMBERS else _read(kind, group, rejected)
        for kind, group in sorted(request.groups.items())
    ]
    return Decoded(_points(tuple(request.streams), columns), dict(rejected))


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
    kinds = (("gauge", 5), ("sum", 7), ("histogram", 9), ("exponential_histogram", 10), ("summary", 11))
    pieces = ((label, number, raw, True, "") for label, number in kinds)
    message("Pieces", ("name", 1, raw, False, ""), ("unit", 3, raw, False, ""), *pieces)
    for signal, inner in (("Metrics", "Metric"), ("Regular", "Pieces"), ("Items", "")):
        message(f"Scope{signal}", ("scope", 1, raw, True, ""), ("items", 2, sub if inner else raw, True, inner))
        message(f"Resource{signal}", ("resource", 1, raw, True, ""), ("scopes", 2, sub, True, f"Scope{signal}"))
        message(signal, ("resources", 1, sub, True, f"Resource{signal}"))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    names = ("Metrics", "Regular", "Items", "Data")
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"envelope.{name}")) for name in names}  # type: ignore[return-value]


_ENVELOPES: Any = _envelope()


def _parse(body: bytes, envelope: str, signal: str) -> Any:
    try:
        return _ENVELOPES[envelope].FromString(body)
    except DecodeError as error:
        raise BadInput(f"expected an OTLP {signal} request in protobuf, got {len(body)} bytes that are not") from error


def _metrics(body: bytes, rejected: Counter[str]) -> Iterable[tuple[Stream, list[bytes]]]:
    """The metrics of a request however it is written, and their raw points."""
    for resource_metrics in _parse(body, "Metrics", "metrics").resources:
        resource = b"".join(resource_metrics.resource)
        for scope_metrics in resource_metrics.scopes:
            scope = b"".join(scope_metrics.scope)
            for metric in scope_metrics.items:
                which = metric.WhichOneof("data")
                if which is None:
                    continue
                data = getattr(metric, which)
                stream = _stream(resource, scope, metric.name, metric.unit, _KINDS[which], data, rejected)
                if stream is not None:
                    yield stream, data.points


def _stream(
    resource: bytes, scope: bytes, name: bytes, unit: bytes, kind: Kind, data: Any, rejected: Counter[str]
) -> Stream | None:
    """What identifies the series of a metric but their attributes; None, and counted, when nothing can."""
    count = len(data.points)
    if not count:
        return None
    if not name:
        rejected[NO_NAME] += count
        return None
    aggregated = kind not in (Kind.GAUGE, Kind.SUMMARY)
    temporality = _TEMPORALITIES.get(data.temporality if aggregated else 0, Temporality.UNSPECIFIED)
    monotonic = kind == Kind.SUM and data.monotonic
    try:
        return Stream(resource, scope, name.decode(), unit.decode(), kind, temporality, monotonic)
    except UnicodeDecodeError:
        rejected[BAD_NAME] += count
        return None


_TEMPORALITIES = {int(temporality): temporality for temporality in Temporality}


def _count(body: bytes, signal: str) -> int:
    request = _parse(body, "Items", signal)
    return sum(len(scope.items) for resource in request.resources for scope in resource.scopes)


# -- the data points: all of a kind at once -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Lesson:
    """A metric that the memo does not know: its key, stream and raw Data."""

    key: _Key
    stream: Stream
    raw: bytes


@dataclass(slots=True)
class _Group:
    """The raw points of one kind, and which stream how many of them belong to; `lessons` are for the memo."""

    streams: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    points: list[bytes] = field(default_factory=list)
    lessons: list[_Lesson | None] = field(default_factory=list)


@dataclass(slots=True)
class _Recalled:
    """Metrics that look like some in the memo, with their raw Data."""

    streams: list[int] = field(default_factory=list)
    raws: list[bytes] = field(default_factory=list)
    known: list[_Known] = field(default_factory=list)
    keys: list[_Key] = field(default_factory=list)


class _Request:
    """The metrics of a request, on their way to columns."""

    def __init__(self, memo: Memo | None) -> None:
        self.streams: list[Stream] = []
        self.groups: dict[Kind, _Group] = {}
        self.recalled = _Recalled()
        self._memo = memo

    def add(self, stream: Stream, points: list[bytes], lesson: _Lesson | None) -> None:
        """Take the points of one metric."""
        group = self._group(_NUMBERS if stream.kind == Kind.SUM else stream.kind)
        group.streams.append(len(self.streams))
        group.sizes.append(len(points))
        group.points += points
        group.lessons.append(lesson)
        self.streams.append(stream)

    def read_regular(self, body: bytes, rejected: Counter[str]) -> bool:
        """Take all metrics; False when one is written in an unusual way, and then this request must not be used."""
        for resource_metrics in _parse(body, "Regular", "metrics").resources:
            resource = b"".join(resource_metrics.resource)
            for scope_metrics in resource_metrics.scopes:
                scope = b"".join(scope_metrics.scope)
                for metric in scope_metrics.items:
                    if not self._take(resource, scope, metric, rejected):
                        return False
        return True

    def _take(self, resource: bytes, scope: bytes, metric: Any, rejected: Counter[str]) -> bool:
        pieces = [(kind, piece) for kind, name in _PIECES for piece in getattr(metric, name)]
        if len(pieces) != 1:
            return not pieces
        ((kind, raw),) = pieces
        key = None
        if kind <= Kind.SUM and self._memo is not None:
            key = resource, scope, metric.name, metric.unit, kind, len(raw)
            known = self._memo.get(key)
            if known is not None:
                self._recall(key, known, raw)
                return True
        data = _parse(raw, "Data", "metrics")
        stream = _stream(resource, scope, metric.name, metric.unit, kind, data, rejected)
        if stream is not None:
            self.add(stream, data.points, _Lesson(key, stream, raw) if key else None)
        return True

    def _recall(self, key: _Key, known: _Known, raw: bytes) -> None:
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


_PIECES = tuple((kind, name) for name, kind in _KINDS.items())


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


def _read_numbers(group: _Group, recalled: _Recalled, rejected: Counter[str], memo: Memo | None) -> _Columns:
    """Gauges and sums: those that are as the memo knows them at known places, the others by the walk."""
    known, refuted = _read_recalled(recalled)
    for k in refuted:  # the same size by chance, or a time that cannot be
        data = _parse(recalled.raws[k], "Data", "metrics")
        group.streams.append(recalled.streams[k])
        group.sizes.append(len(data.points))
        group.points += data.points
        group.lessons.append(_Lesson(recalled.keys[k], recalled.known[k].stream, recalled.raws[k]))
    if not group.points:
        return known
    stream = np.repeat(np.array(group.streams, np.int32), group.sizes)
    walked, reason = _columns(_NUMBERS, group.points, stream)
    if memo is not None:
        _remember(group, walked, reason, memo)
    if reason.any():
        _count_reasons(reason, rejected)
        walked = _keep(walked, reason == 0)
    return _in_order(known, walked)


def _read_recalled(recalled: _Recalled) -> tuple[_Columns, list[int]]:
    """Columns of metrics whose bytes are those of the memo but for the numbers, and which metrics are not so."""
    counts = np.array([len(one.attributes) for one in recalled.known], np.int64)
    data = bytearray().join([*recalled.raws, bytes(PADDING)])
    ends = np.cumsum([0, *map(len, recalled.raws)])
    offset = np.repeat(ends[:-1], counts)
    at = offset + _concatenated([one.at for one in recalled.known], np.int64)
    started = np.flatnonzero(_concatenated([one.started for one in recalled.known], np.bool_))
    integer = np.flatnonzero(_concatenated([one.integer for one in recalled.known], np.bool_))
    words = np.ndarray((len(data) - 7,), "<i8", data, 0, (1,))
    time_ns, bits = words[at], words[at + 9]
    start_ns = np.zeros(len(at), np.int64)
    start_ns[started] = words[at[started] - 9]
    words[at], words[at + 9], words[at[started] - 9] = 0, 0, 0
    value = bits.view(np.float64).copy()
    value[integer] = bits[integer].astype(np.float64)
    columns = _Columns(
        stream=np.repeat(np.array(recalled.streams, np.int32), counts),
        attributes=list(chain.from_iterable(one.attributes for one in recalled.known)),
        start_ns=start_ns,
        time_ns=time_ns,
        value=value,
        count=np.full(len(at), np.nan),
        stale=np.zeros(len(at), bool),
        bounds=None,
        cells=np.empty(0),
        sizes=np.zeros(len(at), np.int64),
    )
    skeletons = [one.skeleton for one in recalled.known]
    impossible = (time_ns <= 0) | (start_ns < 0)  # unset, or beyond 2262
    if not impossible.any() and data[:-PADDING] == b"".join(skeletons):
        return columns, []
    wrong = {k for k, (a, b) in enumerate(pairwise(ends.tolist())) if data[a:b] != skeletons[k]}
    owner = np.repeat(np.arange(len(counts)), counts)
    wrong.update(owner[impossible].tolist())
    return _keep(columns, ~np.isin(owner, list(wrong))), sorted(wrong)


def _remember(group: _Group, walked: _Columns, reason: Any, memo: Memo) -> None:
    """Put metrics into the memo whose points are in the order in which all known senders write them."""
    ends = np.cumsum([0, *group.sizes]).tolist()
    bad = (reason != 0).tolist()
    for lesson, (a, b) in zip(group.lessons, pairwise(ends), strict=True):
        known = _learn(lesson, group.points[a:b], walked.attributes[a:b]) if lesson and not any(bad[a:b]) else None
        if lesson and known:
            memo.add(lesson.key, known)


def _learn(lesson: _Lesson, points: list[bytes], attributes: list[bytes]) -> _Known | None:
    """What to know of a metric; None when its points are not start (optional), time, value, attributes, one by one."""
    at, begin = [], 0
    for point, own in zip(points, attributes, strict=True):
        head = b"\x0a" + _varint(len(point))
        end = begin + len(head) + len(point)
        time_at = 9 * (point[:1] == b"\x11")
        tags = point[time_at : time_at + 1] + point[time_at + 9 : time_at + 10]
        if tags not in _USUAL or point[time_at + 18 :] != own or lesson.raw[begin:end] != head + point:
            return None
        at.append(begin + len(head) + time_at + 1)
        begin = end
    places = np.array(at, np.int64)
    skeleton = bytearray(lesson.raw)
    started = np.array([point[0] == START_TAG for point in points], bool)
    integer = np.array([lesson.raw[place + 8] == INTEGER_TAG for place in at], bool)
    words = np.ndarray((len(skeleton) - 7,), "<i8", skeleton, 0, (1,))
    words[places], words[places + 9], words[places[started] - 9] = 0, 0, 0
    return _Known(lesson.stream, bytes(skeleton), places, started, integer, attributes)


_USUAL = (bytes((TIME_TAG, DOUBLE_TAG)), bytes((TIME_TAG, INTEGER_TAG)))


def _in_order(known: _Columns, walked: _Columns) -> _Columns:
    """Both, in the order of the request."""
    if not len(known.stream):
        return walked
    stream = np.concatenate([known.stream, walked.stream])
    order = np.argsort(stream, kind="stable")
    attributes = known.attributes + walked.attributes
    pairs = {name: (getattr(known, name), getattr(walked, name)) for name in _PLAIN}
    plain = {name: np.concatenate(pair)[order] for name, pair in pairs.items()}
    chosen = [attributes[i] for i in order.tolist()]
    return _Columns(stream=stream[order], attributes=chosen, bounds=None, cells=np.empty(0), **plain)


_PLAIN = ("start_ns", "time_ns", "value", "count", "stale", "sizes")


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
