"""OTLP requests for tests, made with the ordinary protobuf classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

DELTA, CUMULATIVE = 1, 2
STALE = 1


def pairs(attributes: Mapping[str, Any]) -> list[KeyValue]:
    """Attributes as OTLP has them."""
    return [KeyValue(key=key, value=_any(value)) for key, value in attributes.items()]


def _any(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(string_value=value)


def ns(seconds: float) -> int:
    return round(seconds * 1e9)


class Feed:
    """One request that grows by a call a point; times are in seconds."""

    def __init__(self, service: str = "cart", **resource: str) -> None:
        self.request = ExportMetricsServiceRequest()
        group = self.request.resource_metrics.add()
        group.resource.attributes.extend(pairs({"service.name": service, **resource}))
        self.scope = group.scope_metrics.add()
        self.scope.scope.name = "app"
        self._metrics: dict[tuple[str, str], Metric] = {}

    def metric(self, name: str, kind: str, unit: str) -> Metric:
        key = (name, kind)
        if key not in self._metrics:
            self._metrics[key] = self.scope.metrics.add(name=name, unit=unit)
        return self._metrics[key]

    def gauge(
        self, name: str, time_s: float, value: float, *, unit: str = "", flags: int = 0, **attributes: Any
    ) -> Feed:
        self.metric(name, "gauge", unit).gauge.data_points.add(
            time_unix_nano=ns(time_s), as_double=value, flags=flags, attributes=pairs(attributes)
        )
        return self

    def counter(
        self,
        name: str,
        time_s: float,
        value: float,
        *,
        start_s: float = 0.0,
        temporality: int = CUMULATIVE,
        monotonic: bool = True,
        flags: int = 0,
        **attributes: Any,
    ) -> Feed:
        metric = self.metric(name, "sum", "{request}")
        metric.sum.aggregation_temporality = temporality  # type: ignore[assignment]
        metric.sum.is_monotonic = monotonic
        metric.sum.data_points.add(
            time_unix_nano=ns(time_s),
            start_time_unix_nano=ns(start_s),
            as_double=value,
            flags=flags,
            attributes=pairs(attributes),
        )
        return self

    def histogram(
        self,
        name: str,
        time_s: float,
        counts: Iterable[int],
        bounds: Iterable[float],
        total: float,
        *,
        start_s: float = 0.0,
        temporality: int = CUMULATIVE,
        **attributes: Any,
    ) -> Feed:
        metric = self.metric(name, "histogram", "s")
        metric.histogram.aggregation_temporality = temporality  # type: ignore[assignment]
        counts = list(counts)
        metric.histogram.data_points.add(
            time_unix_nano=ns(time_s),
            start_time_unix_nano=ns(start_s),
            count=sum(counts),
            sum=total,
            bucket_counts=counts,
            explicit_bounds=list(bounds),
            attributes=pairs(attributes),
        )
        return self

    def summary(
        self, name: str, time_s: float, count: int, total: float, quantiles: Mapping[float, float], **attributes: Any
    ) -> Feed:
        point = self.metric(name, "summary", "s").summary.data_points.add(
            time_unix_nano=ns(time_s), count=count, sum=total, attributes=pairs(attributes)
        )
        for quantile, value in quantiles.items():
            point.quantile_values.add(quantile=quantile, value=value)
        return self

    def body(self) -> bytes:
        return self.request.SerializeToString()
