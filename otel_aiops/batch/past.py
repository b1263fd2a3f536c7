"""The past of one stream as OTLP: cumulative samples of Prometheus to points as its sender would have made them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from otel_aiops.batch.prometheus import Samples
from otel_aiops.otlp.distributions import encode_distribution
from otel_aiops.otlp.encode import encode_series
from otel_aiops.otlp.points import F64, I64, Bool, Kind, Stream, Temporality

Encoder = Callable[[Stream, bytes, I64, I64, F64, F64], bytes]

BODY_BYTES = 40 << 20  # of one request; the service takes 64 MiB unless it is told otherwise
MOST_CELLS = 1_000  # buckets of a point that are understood


@dataclass(frozen=True, slots=True)
class Request:
    """All the past of one stream, or its newest points when all of them are too many."""

    body: bytes
    points: int
    cut: bool = False


def encode(
    stream: Stream,
    attributes: bytes,
    main: Samples,
    total: Samples | None = None,
    cells: Mapping[float, Samples] | None = None,
) -> Request:
    """A request with the samples of one stream; without points when there are fewer than two.

    `main` is the number, or the count of a distribution; `total` its sum; `cells` its buckets by upper bound, or its
    quantiles. Samples of a distribution count where all of them have the same time.
    """
    if stream.kind <= Kind.SUM:
        return _cut(stream, attributes, _number, main.time_ns, main.value[:, None], np.empty(0))
    cells = {at: one for at, one in (cells or {}).items() if len(one)}
    if len(cells) > MOST_CELLS:
        cells = {}
    if stream.kind == Kind.HISTOGRAM and cells and not np.isinf(max(cells)):
        cells = {}  # without the last bucket the others cannot be told from it
    columns = [main, *([total] if total is not None else []), *cells.values()]
    time_ns = main.time_ns
    for one in columns[1:]:
        time_ns = time_ns[np.isin(time_ns, one.time_ns)]
    values = np.column_stack([one.value[np.searchsorted(one.time_ns, time_ns)] for one in columns])
    if total is None:
        values = np.insert(values, 1, np.nan, axis=1)
    edges = np.array(list(cells), np.float64)
    if stream.kind == Kind.HISTOGRAM:
        values[:, 2:] = np.maximum(np.diff(values[:, 2:], axis=1, prepend=0.0), 0.0)
        edges = edges[:-1]
    return _cut(stream, attributes, _distribution, time_ns, values, edges)


def _number(stream: Stream, attributes: bytes, time_ns: I64, start_ns: I64, values: F64, edges: F64) -> bytes:
    index = np.zeros(len(time_ns), np.int64)
    series = [(stream, attributes)]
    parts = encode_series(series, index, time_ns, values[:, 0], start_ns=start_ns, max_points=max(1, len(index)))
    return b"".join(part.body for part in parts)


def _distribution(stream: Stream, attributes: bytes, time_ns: I64, start_ns: I64, values: F64, edges: F64) -> bytes:
    return encode_distribution(
        stream,
        attributes,
        time_ns=time_ns,
        start_ns=start_ns,
        count=values[:, 0],
        total=values[:, 1],
        cells=values[:, 2:],
        edges=edges,
    )


def _cut(stream: Stream, attributes: bytes, encoder: Encoder, time_ns: I64, values: F64, edges: F64) -> Request:
    """Encode all points, or the newest ones that fit."""
    start_ns = np.zeros(len(time_ns), np.int64)
    if stream.temporality == Temporality.DELTA:
        time_ns, start_ns, values = _deltas(stream, time_ns, values)
    if len(time_ns) < 2:
        return Request(b"", 0)
    body = encoder(stream, attributes, time_ns, start_ns, values, edges)
    if len(body) <= BODY_BYTES:
        return Request(body, len(time_ns))
    kept = max(2, int(len(time_ns) * BODY_BYTES / len(body) * 0.99))
    body = encoder(stream, attributes, time_ns[-kept:], start_ns[-kept:], values[-kept:], edges)
    return Request(body, kept, cut=True)


def _deltas(stream: Stream, time_ns: I64, values: F64) -> tuple[I64, I64, F64]:
    """What was added since the sample before; Prometheus has the sums of it."""
    change = np.diff(values, axis=0)
    if stream.monotonic or stream.kind > Kind.SUM:
        began_anew: Bool = values[1:, 0] < values[:-1, 0]
        change[began_anew] = values[1:][began_anew]
    return time_ns[1:], time_ns[:-1], change
