"""Decoding alone: points a second from bytes to columns, against the ordinary walk through the protobuf classes."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from benchmarks.payload import BOUNDS, RESOURCE, START_NS
from benchmarks.table import Row, best_s, show
from otel_aiops.allocator import keep_memory
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.memo import Memo

METRICS, SCOPES = 200, 10
BATCH = 8_192
EXPONENTIAL_BUCKETS = 40
METHODS = ("GET", "POST", "PUT", "DELETE")
STATUS = (200, 201, 400, 404, 500)
REPEATS = 9

Fill = Callable[[Any, int, random.Random], Any]  # (metric, its number, values) → the new point


def request(count: int, step: int, fill: Fill, *, shuffled: bool = False) -> bytes:
    """`count` points over 200 metrics of ten scopes; `step` moves times and values on, the series stay.

    The points of a metric are `shuffled` anew in each step where a sender keeps its series in a hash map.
    """
    chance = random.Random(step)
    made = ExportMetricsServiceRequest()
    group = made.resource_metrics.add(schema_url="https://opentelemetry.io/schemas/1.37.0")
    group.resource.attributes.extend(_pair(key, text) for key, text in RESOURCE.items())
    for first in range(0, METRICS, METRICS // SCOPES):
        scope = group.scope_metrics.add()
        scope.scope.name, scope.scope.version = f"go.opentelemetry.io/contrib/instrumentation/{first}", "0.61.0"
        for k in range(first, first + METRICS // SCOPES):
            metric = scope.metrics.add(name=f"http.server.{k}.request", description=f"Requests number {k}.", unit="s")
            series = list(range(k, count, METRICS))
            if shuffled:
                chance.shuffle(series)
            for i in series:
                point = fill(metric, k, chance)
                point.start_time_unix_nano = START_NS - 10**9
                point.time_unix_nano = START_NS + step * 15_000_000_000
                point.attributes.extend(_attributes(i))
    encoded: bytes = made.SerializeToString()
    return encoded


def number(metric: Any, k: int, chance: random.Random) -> Any:
    """A gauge or a counter, one of four with whole numbers."""
    if k % 2:
        metric.sum.is_monotonic, metric.sum.aggregation_temporality = True, 2
    points = metric.sum.data_points if k % 2 else metric.gauge.data_points
    return points.add(as_int=chance.randrange(1 << 30)) if k % 4 == 3 else points.add(as_double=chance.gauss(100, 10))


def histogram(metric: Any, k: int, chance: random.Random) -> Any:
    """A cumulative histogram of fifteen buckets."""
    metric.histogram.aggregation_temporality = 2
    cells = [chance.randrange(1000) for _ in range(len(BOUNDS) + 1)]
    return metric.histogram.data_points.add(
        count=sum(cells), sum=chance.random() * 1e4, bucket_counts=cells, explicit_bounds=BOUNDS, min=0.001, max=9.0
    )


def exponential(metric: Any, k: int, chance: random.Random) -> Any:
    """A cumulative exponential histogram of forty buckets."""
    metric.exponential_histogram.aggregation_temporality = 2
    cells = [chance.randrange(200) for _ in range(EXPONENTIAL_BUCKETS)]
    point = metric.exponential_histogram.data_points.add(count=sum(cells), sum=chance.random() * 1e4, scale=3)
    point.positive.offset = -30 + chance.randrange(4)
    point.positive.bucket_counts.extend(cells)
    return point


def walk(body: bytes) -> int:
    """The ordinary way: parse with the protobuf classes, look at every point and attribute in Python."""
    seen: dict[object, object] = {}
    for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        owner = _key(group.resource.attributes)
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data") or ""
                for point in getattr(metric, kind).data_points:
                    about = (owner, scope.scope.name, metric.name, metric.unit, _key(point.attributes))
                    seen[about] = (point.start_time_unix_nano, point.time_unix_nano, _READ[kind](point))
    return len(seen)


def _read_number(point: Any) -> object:
    return getattr(point, point.WhichOneof("value"))


def _read_histogram(point: Any) -> object:
    return point.count, point.sum, list(point.bucket_counts), list(point.explicit_bounds)


def _read_exponential(point: Any) -> object:
    return point.count, point.sum, point.scale, point.positive.offset, list(point.positive.bucket_counts)


_READ = {
    "gauge": _read_number,
    "sum": _read_number,
    "histogram": _read_histogram,
    "exponential_histogram": _read_exponential,
}


def _key(attributes: Any) -> tuple[tuple[str, object], ...]:
    return tuple(sorted((pair.key, getattr(pair.value, pair.value.WhichOneof("value"))) for pair in attributes))


def _attributes(i: int) -> list[KeyValue]:
    """Three to six attributes of a series."""
    pairs = [
        _pair("http.route", f"/api/v1/resource{i % 50}/{{id}}"),
        _pair("k8s.pod.name", f"checkout-7d9f8c6b5-{i:05x}"),
        _pair("http.response.status_code", STATUS[i // 4 % 5]),
        _pair("http.request.method", METHODS[i % 4]),
        _pair("server.address", f"shop-backend-{i % 7}.svc.cluster.local"),
        _pair("network.protocol.version", "1.1"),
    ]
    return pairs[: 3 + i // METRICS % 4]


def _pair(key: str, value: str | int) -> KeyValue:
    pair = KeyValue(key=key)
    if isinstance(value, int):
        pair.value.int_value = value
    else:
        pair.value.string_value = value
    return pair


def measured(title: str, count: int, fill: Fill, *, remember: bool = True, shuffled: bool = False) -> Row:
    """Points a second of decoding and of the walk, best of several; series known before where there is a memo."""
    body = request(count, 1, fill, shuffled=shuffled)
    memo = Memo() if remember else None
    decode_metrics(request(count, 0, fill, shuffled=shuffled), memo)
    repeats = REPEATS if count <= BATCH else 5
    # A shuffled body would be known at its second sight, so there each repeat has another one.
    bodies = iter([request(count, step, fill, shuffled=True) for step in range(2, 2 + repeats)] if shuffled else [])
    ours = best_s(lambda: decode_metrics(next(bodies, body), memo), repeats)
    peer = best_s(partial(walk, body), 3)
    return Row(title, count / ours, count / peer, "points/s", "protobuf walk")


def run() -> list[Row]:
    """Each kind of point, in batches as the Collector sends them, and what memory of earlier requests brings."""
    return [
        *(measured(f"decode numbers, {count} a batch", count, number) for count in (1_000, BATCH, 65_536)),
        measured(f"decode numbers, {BATCH} a batch, none seen before", BATCH, number, remember=False),
        measured(f"decode numbers, {BATCH} a batch, another order each", BATCH, number, shuffled=True),
        measured(f"decode histograms, {BATCH} a batch", BATCH, histogram),
        measured(f"decode exponential histograms, {BATCH} a batch", BATCH, exponential),
    ]


def main() -> None:
    """Print the table."""
    keep_memory()  # as the service does
    show(run())


if __name__ == "__main__":
    main()
