"""Slow, obvious twins of the fast kernels: what the fast ones are tested against."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import zstandard
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_aiops.errors import BadInput, TooLarge
from otel_aiops.otlp.points import Kind, Points, Temporality

Aligned = tuple[dict[tuple[Any, ...], list[tuple[int, float]]], Counter[str]]


def inflate(payload: bytes, compression: str, limit: int) -> bytes:
    """All of it through the standard library, whatever its size, and only then a look at the size."""
    try:
        if compression == "gzip":
            plain = _members(payload, lambda: zlib.decompressobj(wbits=31))
        elif compression == "zstd":
            plain = _members(payload, lambda: zstandard.ZstdDecompressor().decompressobj())
        else:
            decoder = zlib.decompressobj()
            plain = decoder.decompress(payload)
            if not decoder.eof or decoder.unused_data:
                raise BadInput("not one zlib stream")
    except (zlib.error, zstandard.ZstdError) as error:
        raise BadInput(str(error)) from error
    if max(len(plain), len(payload)) > limit:
        raise TooLarge(f"more than {limit} bytes")
    return plain


def _members(payload: bytes, new_decoder: Callable[[], Any]) -> bytes:
    plain = b""
    while True:
        decoder = new_decoder()
        plain += decoder.decompress(payload)
        if not decoder.eof:
            raise BadInput("cut short")
        payload = decoder.unused_data
        if not payload:
            return plain


def levels(
    values: list[float], *, memory: int, threshold: float, flagged: list[bool], factors: list[float]
) -> tuple[float, float]:
    """(level, mean absolute error) of one series after all values; flagged ones are not learned.

    `factors` are the thresholds that are usual for the series at each value.
    """
    level, error, points = values[0], 0.0, 0
    for value, skip, factor in zip(values, flagged, factors, strict=True):
        scale = max(1.2533 * error, 1e-3 / threshold * abs(level))
        if skip:
            continue
        points += 1
        weight = max(1 / points, 1 / memory)
        limit = float("inf") if points <= 10 else 3 * max(1.2533 * error, 0.1 * scale)
        off = value - level
        level += weight * max(-limit, min(limit, off))
        error += weight * (min(abs(off), factor * limit) - error)
    return level, error


@dataclass
class Stream:
    """What `align` remembers of one stream."""

    last_ns: int = 0
    start_ns: int = 0
    total: float | None = None
    sum: float | None = None
    cells: tuple[bytes, list[float]] | None = None


def align(
    points: Points, order: list[tuple[Any, ...]], known: list[bool], seen: dict[tuple[Any, ...], Stream]
) -> Aligned:
    """Values of series, one point after the other: {(stream, stat): [(time_ns, value)]}.

    `order` names the stream of each point, `known` says whether the table gave it a row.
    """
    values: dict[tuple[Any, ...], list[tuple[int, float]]] = {}
    counts: Counter[str] = Counter()
    for i in sorted(range(len(points)), key=lambda i: int(points.time_ns[i])):
        key, time_ns = order[i], int(points.time_ns[i])
        if not known[i]:
            continue
        stream = seen.setdefault(key, Stream())
        if time_ns <= stream.last_ns:
            counts["duplicate" if time_ns == stream.last_ns else "late"] += 1
            continue
        before_ns, stream.last_ns = stream.last_ns, time_ns
        if points.stale[i]:
            stream.total = None
            counts["stale"] += 1
            continue
        for stat, value in _values(points, i, stream, before_ns, counts).items():
            if value is not None and math.isfinite(value):
                values.setdefault((key, stat), []).append((time_ns, value))
    return values, counts


def _values(points: Points, i: int, stream: Stream, before_ns: int, counts: Counter[str]) -> dict[str, float | None]:
    about = points.streams[points.stream[i]]
    delta = about.temporality == Temporality.DELTA
    if about.kind == Kind.GAUGE or (about.kind == Kind.SUM and not about.monotonic and not delta):
        return {"": float(points.value[i])}
    number = float(points.value[i] if about.kind == Kind.SUM else points.count[i])
    start_ns, time_ns = int(points.start_ns[i]), int(points.time_ns[i])
    restarted = start_ns > stream.start_ns > 0 and start_ns >= before_ns
    reset = not delta and before_ns > 0 and (restarted or (stream.total is not None and number < stream.total))
    counts["reset"] += reset
    base = 0.0 if delta or reset else stream.total
    since_ns = start_ns if (delta and start_ns) or (reset and restarted) else before_ns
    increase = None if base is None else number - base
    length_s = (time_ns - since_ns) / 1e9 if since_ns else None
    stream.total, stream.start_ns = number, start_ns
    rate = increase / length_s if increase is not None and length_s is not None and length_s > 0 else None
    if about.kind == Kind.SUM:
        return {"rate": rate}
    total = float(points.value[i])
    before = 0.0 if delta or reset else stream.sum
    stream.sum = total
    mean = (total - before) / increase if before is not None and increase is not None and increase > 0 else None
    return {"rate": rate, "mean": mean, **_percentile(points, i, stream, reset=reset, delta=delta)}


def _percentile(points: Points, i: int, stream: Stream, *, reset: bool, delta: bool) -> dict[str, float | None]:
    if points.layout[i] < 0:
        return {}
    layout = points.layouts[points.layout[i]]
    cells = points.cells[points.cell_offset[i] : points.cell_offset[i + 1]].tolist()
    if points.streams[points.stream[i]].kind == Kind.SUMMARY:
        quantiles = np.frombuffer(layout, "<f8").tolist()
        return {f"p{100 * q:.6g}": value for q, value in zip(quantiles, cells, strict=True)}
    known = stream.cells
    if not delta:
        stream.cells = (layout, cells)
        if known is None or known[0] != layout:
            return {}
        base = [0.0] * len(cells) if reset else known[1]
        cells = [now - then for now, then in zip(cells, base, strict=True)]
        if min(cells) < 0:
            return {}
    return {"p95": percentile(cells, np.frombuffer(layout, "<f8").tolist(), 0.95)}


def percentile(cells: list[float], bounds: list[float], share: float) -> float | None:
    """histogram_quantile over the counts of one histogram."""
    total = sum(cells)
    if not bounds or not total > 0:
        return None
    target, below = share * total, 0.0
    for number, count in enumerate(cells):
        if below + count >= target or number == len(cells) - 1:
            if number == len(bounds):
                return bounds[-1]
            low = bounds[number - 1] if number else min(0.0, bounds[0])
            return low + (bounds[number] - low) * ((target - below) / count if count else 0.0)
        below += count
    return None


Point = tuple[Any, ...]


def decode_metrics(body: bytes) -> tuple[list[Point], Counter[str]]:
    """Every usable point of a request by the ordinary protobuf classes, grouped by kind, and why others are not usable.

    A point is (resource, scope, name, unit, kind, temporality, monotonic, attributes, start_ns, time_ns, value, count,
    stale, layout, cells), where resource, scope and attributes are the messages' own.
    """
    groups: dict[int, list[Point]] = {0: [], 2: [], 3: [], 4: []}
    rejected: Counter[str] = Counter()
    for of_resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                which = metric.WhichOneof("data")
                if which is None:
                    continue
                kind = ["gauge", "sum", "histogram", "exponential_histogram", "summary"].index(which)
                data = getattr(metric, which)
                if not data.data_points:
                    continue
                if not metric.name:
                    rejected["metric has no name"] += len(data.data_points)
                    continue
                temporality = getattr(data, "aggregation_temporality", 0)
                monotonic = kind == 1 and data.is_monotonic
                about = (metric.name, metric.unit, kind, temporality if temporality in (1, 2) else 0, monotonic)
                for point in data.data_points:
                    reason, numbers = _numbers(point, kind)
                    if reason:
                        rejected[reason] += 1
                        continue
                    where = (of_resource.resource.attributes, of_scope.scope)
                    groups[0 if kind == 1 else kind].append((*where, *about, point.attributes, *numbers))
    return [point for group in groups.values() for point in group], rejected


def _numbers(point: Any, kind: int) -> tuple[str, tuple[Any, ...]]:
    """(why the point is not usable or "", its numbers)."""
    for time_ns in (point.start_time_unix_nano, point.time_unix_nano):
        if time_ns > 2**63 - 1:
            return "a time is beyond the year 2262", ()
    if not point.time_unix_nano:
        return "time_unix_nano is not set", ()
    stale = bool(point.flags & 1)
    nan = float("nan")
    times = (point.start_time_unix_nano, point.time_unix_nano)
    if kind <= 1:
        which = point.WhichOneof("value")
        if which is None and not stale:
            return "number data point has no value", ()
        value = nan if stale else float(getattr(point, which))
        return "", (*times, value, nan, stale, b"", [])
    if kind == 4:
        layout = np.array([one.quantile for one in point.quantile_values], "<f8").tobytes()
        cells = [one.value for one in point.quantile_values]
        return "", (*times, point.sum, float(point.count), stale, layout, cells)
    total = point.sum if point.HasField("sum") else nan
    if kind == 2:
        reason, layout, cells = _explicit(point)
    else:
        reason, layout, cells = _exponential(point)
    return reason, (*times, total, float(point.count), stale, layout, cells)


def _explicit(point: Any) -> tuple[str, bytes, list[float]]:
    bounds, counts = list(point.explicit_bounds), [float(count) for count in point.bucket_counts]
    if (bounds or counts) and len(counts) != len(bounds) + 1:
        return "histogram has not one bucket more than bounds", b"", []
    if not all(a < b for a, b in pairwise(bounds)) or any(math.isnan(bound) for bound in bounds):
        return "histogram bounds do not increase", b"", []
    return "", np.array(bounds, "<f8").tobytes() if counts else b"", counts


def _exponential(point: Any) -> tuple[str, bytes, list[float]]:
    """Buckets on the grid of four cells an octave from 2^-32 to 2^32, one share at a time."""
    if not -10 <= point.scale <= 20:
        return "exponential histogram scale is not in -10..20", b"", []
    side = 256
    edges = [2 ** ((k - side // 2) / 4) for k in range(side)]
    signed = any(point.negative.bucket_counts)
    cells = [0.0] * (2 * side + 1 if signed else side + 1)
    zero = side if signed else 0
    cells[zero] = float(point.zero_count)
    for buckets, direction in ((point.positive, 1), (point.negative, -1)):
        for number, count in enumerate(buckets.bucket_counts):
            index = buckets.offset + number
            finer = 2 ** (2 - point.scale) if point.scale < 2 else 1
            parts = range(index * finer, index * finer + finer) if point.scale < 2 else [index >> (point.scale - 2)]
            for part in parts:
                cell = min(max(part + side // 2, 0), side - 1)
                cells[zero + direction * (cell + 1)] += count / finer
    bounds = [-edge for edge in reversed(edges)] + edges if signed else edges
    return "", np.array(bounds, "<f8").tobytes(), cells
