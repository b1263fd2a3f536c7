"""Columns of a histogram or summary to an OTLP request: its points are one block of bytes with numbers written in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.encode import of_resource
from otel_aiops.otlp.points import F64, I64, Kind, Stream
from otel_aiops.otlp.wire import field_bytes, varint_bytes

_ATTRIBUTES_TAG = 0x3A  # field 7, as everywhere in Points
_HISTOGRAM_ATTRIBUTES_TAG = 0x4A  # field 9
_ZEROS = bytes(8)


def encode_distribution(
    stream: Stream, attributes: bytes, *, time_ns: I64, start_ns: I64, count: F64, total: F64, cells: F64, edges: F64
) -> bytes:
    """A metrics request with all points of one series; requests may be joined to one.

    Shape: time_ns, start_ns, count, total (N,). A histogram has `edges` (B - 1,) as bounds and `cells` (N, B) as counts
    of its buckets, or neither; a summary has `edges` (Q,) as quantiles and `cells` (N, Q) as values there.
    Raises ValueError for other kinds, or when edges and cells do not fit.
    """
    if stream.kind == Kind.HISTOGRAM:
        if cells.shape[1] != (len(edges) + 1 if cells.shape[1] else 0):
            raise ValueError(f"expected one bucket more than {len(edges)} bounds, got {cells.shape[1]}")
        points = _histogram(attributes, time_ns, start_ns, count, total, cells, edges)
        data = field_bytes(9, points + b"\x10" + varint_bytes(stream.temporality))
    elif stream.kind == Kind.SUMMARY:
        if cells.shape[1] != len(edges):
            raise ValueError(f"expected a value for each of {len(edges)} quantiles, got {cells.shape[1]}")
        data = field_bytes(11, _summary(attributes, time_ns, start_ns, count, total, cells, edges))
    else:
        raise ValueError(f"expected a histogram or summary, got {stream.kind.name} of {stream.name}")
    unit = field_bytes(3, stream.unit.encode()) if stream.unit else b""
    metric = field_bytes(1, stream.name.encode()) + unit + data
    return of_resource(stream.resource, stream.scope, field_bytes(2, metric))


def _histogram(attributes: bytes, time_ns: I64, start_ns: I64, count: F64, total: F64, cells: F64, edges: F64) -> bytes:
    """Points of a Histogram (opentelemetry-proto, HistogramDataPoint)."""
    block = _Block(time_ns, start_ns, count, total)
    if cells.shape[1]:
        block.fixed(b"\x32" + varint_bytes(8 * cells.shape[1]))
        for b in range(cells.shape[1]):
            block.number(b"", cells[:, b].astype("<u8"))
        block.fixed(field_bytes(7, edges.astype("<f8").tobytes()) if len(edges) else b"")
    block.fixed(_retagged(attributes))
    return block.points()


def _summary(attributes: bytes, time_ns: I64, start_ns: I64, count: F64, total: F64, cells: F64, edges: F64) -> bytes:
    """Points of a Summary (opentelemetry-proto, SummaryDataPoint)."""
    block = _Block(time_ns, start_ns, count, total)
    for q, quantile in enumerate(edges):
        block.fixed(b"\x32\x12\x09" + np.float64(quantile).astype("<f8").tobytes())
        block.number(b"\x11", cells[:, q].astype("<f8"))
    block.fixed(attributes)
    return block.points()


class _Block:
    """N messages of equal layout, put together part by part."""

    def __init__(self, time_ns: I64, start_ns: I64, count: F64, total: F64) -> None:
        self._n = len(time_ns)
        self._template = bytearray()
        self._numbers: list[tuple[int, NDArray[np.uint8]]] = []
        self.number(b"\x11", start_ns.astype("<i8"))
        self.number(b"\x19", time_ns.astype("<i8"))
        self.number(b"\x21", count.astype("<u8"))
        self.number(b"\x29", total.astype("<f8"))

    def fixed(self, part: bytes) -> None:
        """The same bytes in every message."""
        self._template += part

    def number(self, tag: bytes, column: NDArray[np.generic]) -> None:
        """Eight bytes of each message."""
        self._template += tag
        self._numbers.append((len(self._template), np.ascontiguousarray(column).view(np.uint8).reshape(self._n, 8)))
        self._template += _ZEROS

    def points(self) -> bytes:
        """All messages, as field 1 of what holds them."""
        header = b"\x0a" + varint_bytes(len(self._template))
        rows = np.tile(np.frombuffer(header + bytes(self._template), np.uint8), (self._n, 1))
        for at, column in self._numbers:
            rows[:, len(header) + at : len(header) + at + 8] = column
        return rows.tobytes()


def _retagged(attributes: bytes) -> bytes:
    """Attribute fields of a point as those of a HistogramDataPoint."""
    data = bytearray(attributes)
    at = 0
    while at < len(data):
        if data[at] != _ATTRIBUTES_TAG:
            raise ValueError(f"expected attributes as field 7 at byte {at}, got {data[at]:#x}")
        data[at] = _HISTOGRAM_ATTRIBUTES_TAG
        at, size, shift = at + 1, 0, 0
        while data[at] & 0x80:
            size |= (data[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
        size |= data[at] << shift
        at += 1 + size
    return bytes(data)
