"""Columns of numbers to OTLP metrics requests: points are cut from one numpy buffer and joined with raw attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from otel_aiops import __version__
from otel_aiops.labels import Attributes, AttributeValue, Labels
from otel_aiops.otlp.points import F64, I64, Kind, Stream, Temporality
from otel_aiops.otlp.semconv import SCOPE_NAME, Metric
from otel_aiops.otlp.signal import Signal
from otel_aiops.otlp.wire import field_bytes, varint_bytes

MAX_POINTS = 8192  # points of one request
MAX_BYTES = 3 << 20  # of one request, about; a gRPC receiver takes 4 MiB at most unless it is told otherwise

_LARGEST = (129, 16386, 2097155, 268435460)  # whole size of a point whose length takes 1, 2, 3, 4 bytes
_ZEROS = bytes(8)
_NO_RECORDED_VALUE = b"\x40\x01"  # NumberDataPoint.flags = DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK


@dataclass(frozen=True, slots=True)
class Request:
    """The body of one export request, and how many points or log records it has."""

    body: bytes
    points: int
    signal: Signal = Signal.METRICS


def encode_attributes(attributes: Attributes) -> bytes:
    """Attributes as the fields of a NumberDataPoint."""
    return NumberDataPoint(attributes=key_values(attributes)).SerializeToString()


def encode_resource(attributes: Attributes) -> bytes:
    """A Resource message."""
    return Resource(attributes=key_values(attributes)).SerializeToString()


def encode_scope(name: str = SCOPE_NAME, version: str = __version__, attributes: Attributes = ()) -> bytes:
    """An InstrumentationScope message; ours unless told otherwise."""
    return InstrumentationScope(name=name, version=version, attributes=key_values(attributes)).SerializeToString()


def extend_attributes(raw: bytes, attributes: Attributes, added: Mapping[str, str]) -> bytes:
    """The attribute fields of a point as received, with more behind them.

    `raw` and `attributes` are the same thing twice. The raw bytes are passed on as they are unless they are not valid
    or have a key of `added`, which then wins.
    """
    own = tuple(sorted(added.items()))
    if any(key in added for key, _ in attributes) or not _valid(raw):
        return encode_attributes(tuple((k, v) for k, v in attributes if k not in added) + own)
    return raw + encode_attributes(own)


def series_of(
    labels: Labels, *, temporality: Temporality = Temporality.CUMULATIVE, monotonic: bool = True
) -> tuple[Stream, bytes]:
    """The stream and the attribute fields that a point of a gauge or sum needs; ValueError for other kinds."""
    if labels.kind not in ("gauge", "sum"):
        raise ValueError(f"expected labels of a gauge or sum, got {labels.kind!r} of {labels.name}")
    is_sum = labels.kind == "sum"
    stream = Stream(
        resource=encode_resource(labels.resource),
        scope=encode_scope(labels.scope_name, labels.scope_version, labels.scope_attributes),
        name=labels.name,
        unit=labels.unit,
        kind=Kind.SUM if is_sum else Kind.GAUGE,
        temporality=temporality if is_sum else Temporality.UNSPECIFIED,
        monotonic=monotonic and is_sum,
    )
    return stream, encode_attributes(labels.attributes)


def point_template(attributes: bytes, *, started: bool = False, stale: bool = False) -> bytes:
    """A point as a field of Gauge or Sum, with zeros where its times and value go.

    Fields come in the order of their numbers, as every protobuf library writes them.
    """
    fixed = bytes((0x11, *_ZEROS)) * started + bytes((0x19, *_ZEROS)) + bytes((0x21, *_ZEROS)) * (not stale)
    return field_bytes(1, fixed + attributes + _NO_RECORDED_VALUE * stale)


def encode_series(
    series: Sequence[tuple[Stream, bytes]],
    index: NDArray[np.integer],
    time_ns: I64,
    value: F64,
    *,
    start_ns: I64 | None = None,
    max_points: int = MAX_POINTS,
) -> Iterator[Request]:
    """Requests with the points of many gauges and sums, in the given order, `max_points` at a time.

    Shape:  index, time_ns, value, start_ns (N,); `index` says to which of the S `series` a point belongs.
    Unit:   a NaN value becomes a point with NO_RECORDED_VALUE; a start of 0 is "not set" and stays so.
    Sorting by time gives what a live sender would send, sorting by series gives the whole past of one after the other.
    Raises ValueError when a stream is neither gauge nor sum.
    """
    ranks, streams = _ranked([stream for stream, _ in series])
    starts = np.zeros(len(index), np.int64) if start_ns is None else start_ns
    templates = _Templates([attributes for _, attributes in series])
    for first in range(0, len(index), max_points):
        codes = ranks[index[first : first + max_points]]
        order = first + np.argsort(codes, kind="stable")
        codes = ranks[index[order]]
        shape = 2 * (starts[order] != 0) + np.isnan(value[order])
        points = templates.pick(index[order].astype(np.int64), shape)
        data, offsets = _fill(points, time_ns[order], value[order], starts[order])
        metrics = [(streams[int(codes[a])], bytes(data[offsets[a] : offsets[b]])) for a, b in pairwise(_bounds(codes))]
        yield Request(_request(metrics), len(order))


def encode_gauges(
    resources: Sequence[bytes],
    templates: Sequence[bytes],
    time_ns: I64,
    columns: Sequence[tuple[Metric, F64]],
    *,
    scope: bytes,
    ends: bool = False,
    max_points: int = MAX_POINTS,
) -> Iterator[Request]:
    """Requests with one point a column for each of K series: gauges of one scope under each series' resource.

    Shape: resources, templates (plain `point_template`s), time_ns and every column (K,). A NaN in a column is no point.
    With `ends`, the numbers only say by not being NaN that a series ends: its points have NO_RECORDED_VALUE.
    A request has at most `max_points`, and no more than about MAX_BYTES unless one series alone has.
    """
    ids: dict[bytes, int] = {}
    codes = np.fromiter((ids.setdefault(resource, len(ids)) for resource in resources), np.int64, len(resources))
    order = np.argsort(codes, kind="stable")
    names = list(ids)
    around = len(scope) + sum(len(m.name) + len(m.description) + len(m.unit) + 32 for m, _ in columns)
    sizes = len(columns) * np.fromiter(map(len, templates), np.int64, len(templates))[order]
    fresh = np.flatnonzero(np.diff(codes[order], prepend=-1))  # the first row of each resource
    sizes[fresh] += around + np.fromiter(map(len, names), np.int64, len(names))
    for first, last in _cuts(sizes, max(1, max_points // max(1, len(columns)))):
        rows = order[first:last]
        bounds = _bounds(codes[rows])
        groups: list[list[bytes]] = [[] for _ in bounds[1:]]
        count = 0
        for metric, column in columns:
            kept = np.flatnonzero(~np.isnan(column[rows]))
            own = [templates[k] for k in rows[kept].tolist()]
            _append(groups, np.searchsorted(kept, bounds), metric, own, time_ns[rows[kept]], column[rows[kept]], ends)
            count += len(kept)
        body = b"".join(
            of_resource(names[int(codes[rows[a]])], scope, b"".join(group))
            for a, group in zip(bounds, groups, strict=False)
            if group
        )
        if count:
            yield Request(body, count)


def of_resource(resource: bytes, scope: bytes, metrics: bytes) -> bytes:
    """The field of a request with all metrics, as encoded fields, of one resource and scope."""
    return field_bytes(1, field_bytes(1, resource) + field_bytes(2, field_bytes(1, scope) + metrics))


def _cuts(sizes: I64, most: int) -> Iterator[tuple[int, int]]:
    """Where requests begin and end: at most `most` rows and MAX_BYTES each, and at least one row."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(ends):
        fit = int(np.searchsorted(ends, ends[first] - sizes[first] + MAX_BYTES, "right"))
        last = max(first + 1, min(first + most, fit))
        yield first, last
        first = last


def _append(
    groups: list[list[bytes]],
    bounds: NDArray[np.intp],
    metric: Metric,
    templates: list[bytes],
    time_ns: I64,
    value: F64,
    ends: bool,
) -> None:
    """Add one metric's points to the group of each resource, in place."""
    if ends:
        templates = [point_template(_attributes(template), stale=True) for template in templates]
        value = np.full(len(templates), np.nan)
    data, offsets = _fill(templates, time_ns, value, np.zeros(len(templates), np.int64))
    for group, (a, b) in zip(groups, pairwise(bounds.tolist()), strict=True):
        if a < b:
            gauge = field_bytes(5, bytes(data[offsets[a] : offsets[b]]))
            group.append(field_bytes(2, _named(metric.name, metric.description, metric.unit) + gauge))


def _fill(templates: list[bytes], time_ns: I64, value: F64, start_ns: I64) -> tuple[bytearray, list[int]]:
    """All points one behind the other with their numbers written in, and where each begins, and the end.

    A point whose start is 0 has no room for one; one whose value is NaN has none for a value.
    """
    sizes = np.fromiter(map(len, templates), np.int64, len(templates))
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    data = bytearray().join(templates)
    if not templates:
        return data, [0]
    words = np.ndarray((len(data) - 7,), "<i8", data, 0, (1,))  # an unaligned 64-bit view at every byte
    at = offsets[:-1] + 3 + np.searchsorted(_LARGEST, sizes)  # behind tag and length of the point, and the first tag
    started = np.flatnonzero(start_ns)
    words[at[started]] = start_ns[started]
    at[started] += 9
    words[at] = time_ns
    recorded = np.flatnonzero(~np.isnan(value))
    words[at[recorded] + 9] = value[recorded].view(np.int64)
    return data, offsets.tolist()


class _Templates:
    """The four shapes of a series' points, made when they are first needed."""

    def __init__(self, attributes: Sequence[bytes]) -> None:
        self._attributes = attributes
        self._made: dict[int, bytes] = {}

    def pick(self, index: I64, shape: I64) -> list[bytes]:
        """The template for each of N points; a shape is 2 * started + stale."""
        made = self._made
        keys = (4 * index + shape).tolist()
        for key in set(keys).difference(made):
            made[key] = point_template(self._attributes[key // 4], started=key % 4 > 1, stale=key % 2 == 1)
        return [made[key] for key in keys]


def _attributes(template: bytes) -> bytes:
    """The attribute fields of a plain template."""
    return template[20 + int(np.searchsorted(_LARGEST, len(template))) :]


def _ranked(streams: Sequence[Stream]) -> tuple[I64, list[Stream]]:
    """A rank for each series, so that sorting by it brings equal resources, scopes and metrics together."""
    ids: dict[Stream, int] = {}
    codes = np.fromiter((ids.setdefault(stream, len(ids)) for stream in streams), np.int64, len(streams))
    first: dict[bytes, int] = {}
    keys = []
    for number, stream in enumerate(ids):
        if stream.kind not in (Kind.GAUGE, Kind.SUM):
            raise ValueError(f"expected gauges and sums, got {stream.kind.name} of {stream.name}")
        resource = first.setdefault(b"r" + stream.resource, number)
        keys.append((resource, first.setdefault(b"s%d " % resource + stream.scope, number), number))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    unique = list(ids)
    return rank[codes], [unique[k] for k in order]


def _bounds(codes: I64) -> list[int]:
    """Where runs of equal codes begin, and the end."""
    return [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)] if len(codes) else [0]


def _request(metrics: list[tuple[Stream, bytes]]) -> bytes:
    """ResourceMetrics and ScopeMetrics around metrics that are sorted by resource and scope."""
    body: list[bytes] = []
    scopes: list[bytes] = []
    inside: list[bytes] = []
    for k, (stream, points) in enumerate(metrics):
        inside.append(field_bytes(2, _metric(stream, points)))
        following = metrics[k + 1][0] if k + 1 < len(metrics) else None
        same_resource = following is not None and following.resource == stream.resource
        if not (same_resource and following is not None and following.scope == stream.scope):
            scopes.append(field_bytes(2, field_bytes(1, stream.scope) + b"".join(inside)))
            inside = []
        if not same_resource:
            body.append(field_bytes(1, field_bytes(1, stream.resource) + b"".join(scopes)))
            scopes = []
    return b"".join(body)


def _metric(stream: Stream, points: bytes) -> bytes:
    if stream.kind == Kind.GAUGE:
        return _named(stream.name, "", stream.unit) + field_bytes(5, points)
    temporality = b"\x10" + varint_bytes(stream.temporality) if stream.temporality else b""
    return _named(stream.name, "", stream.unit) + field_bytes(7, points + temporality + b"\x18\x01" * stream.monotonic)


def _named(name: str, description: str, unit: str) -> bytes:
    texts = ((1, name), (2, description), (3, unit))
    return b"".join(field_bytes(number, text.encode()) for number, text in texts if text)


def _valid(raw: bytes) -> bool:
    try:
        NumberDataPoint.FromString(raw)
    except DecodeError:
        return False
    return True


def key_values(attributes: Attributes) -> list[KeyValue]:
    """Attributes as OTLP has them."""
    return [KeyValue(key=key, value=_any(value)) for key, value in attributes]


def _any(value: AttributeValue) -> AnyValue:
    if value is None:
        return AnyValue()
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, bytes):
        return AnyValue(bytes_value=value)
    pairs = [(v[0], v[1]) for v in value if isinstance(v, tuple) and len(v) == 2 and isinstance(v[0], str)]
    if value and len(pairs) == len(value):
        return AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key=k, value=_any(v)) for k, v in pairs]))
    return AnyValue(array_value=ArrayValue(values=[_any(v) for v in value]))
