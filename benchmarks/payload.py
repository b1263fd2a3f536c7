"""Requests like those of real services: ten resource attributes, six to eight on a point, many metrics, many pods."""

from __future__ import annotations

import numpy as np
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

START_NS = 1_760_000_000_000_000_000
PODS = 40  # that each metric has a point of
BOUNDS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
RESOURCE = {
    "service.name": "checkout",
    "service.namespace": "shop",
    "service.version": "2.14.3",
    "service.instance.id": "627cc493-f310-47de-96bd-71410b7dec09",
    "deployment.environment.name": "production",
    "host.name": "ip-10-1-22-133.eu-west-1.compute.internal",
    "k8s.cluster.name": "prod-eu-1",
    "k8s.namespace.name": "shop",
    "telemetry.sdk.language": "go",
    "telemetry.sdk.version": "1.38.0",
}


def numbers(count: int, step: int) -> bytes:
    """A request with `count` points, half of them cumulative counters; `step` moves time and values on."""
    random = np.random.default_rng(step)
    request, scope = _envelope()
    values = random.normal(100, 5, count)
    for first in range(0, count, PODS):
        metric = scope.metrics.add(name=f"app.{first // PODS}.load", unit="1")
        counter = first // PODS % 2
        if counter:
            metric.sum.is_monotonic, metric.sum.aggregation_temporality = True, 2  # type: ignore[assignment]
        points = metric.sum.data_points if counter else metric.gauge.data_points
        for pod in range(min(PODS, count - first)):
            value = 1000.0 * step + float(values[first + pod]) if counter else float(values[first + pod])
            points.add(
                time_unix_nano=START_NS + step * 15_000_000_000,
                start_time_unix_nano=START_NS - 10**9,
                as_double=value,
                attributes=_attributes(first // PODS, pod),
            )
    encoded: bytes = request.SerializeToString()
    return encoded


def histograms(count: int, step: int) -> bytes:
    """A request with `count` cumulative histograms of fifteen buckets."""
    random = np.random.default_rng(step)
    request, scope = _envelope()
    for first in range(0, count, PODS):
        metric = scope.metrics.add(name=f"app.{first // PODS}.duration", unit="s")
        metric.histogram.aggregation_temporality = 2  # type: ignore[assignment]
        for pod in range(min(PODS, count - first)):
            cells = ((step + 1) * random.integers(50, 60, len(BOUNDS) + 1)).tolist()
            metric.histogram.data_points.add(
                time_unix_nano=START_NS + step * 15_000_000_000,
                start_time_unix_nano=START_NS - 10**9,
                count=sum(cells),
                sum=sum(cells) * 0.2,
                bucket_counts=cells,
                explicit_bounds=BOUNDS,
                attributes=_attributes(first // PODS, pod),
            )
    encoded: bytes = request.SerializeToString()
    return encoded


def _envelope():  # type: ignore[no-untyped-def]  # protobuf's own types
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    group.resource.attributes.extend(_pairs(RESOURCE))
    scope = group.scope_metrics.add()
    scope.scope.name, scope.scope.version = "go.opentelemetry.io/contrib/instrumentation", "0.60.0"
    return request, scope


def _attributes(metric: int, pod: int) -> list[KeyValue]:
    texts = {
        "http.request.method": ("GET", "POST", "PUT", "DELETE")[metric % 4],
        "http.route": f"/api/v1/resource{metric}/{{id}}",
        "http.response.status_code": str(200 + metric % 3),
        "k8s.pod.name": f"checkout-7d9f8c6b5-{pod:05d}",
        "server.address": f"backend-{metric % 7}.svc.cluster.local",
        "network.protocol.version": "1.1",
    }
    return _pairs(texts)


def _pairs(texts: dict[str, str]) -> list[KeyValue]:
    pairs = []
    for key, value in texts.items():
        pair = KeyValue(key=key)
        pair.value.string_value = value
        pairs.append(pair)
    return pairs
