"""Days of the shop as metrics alone, a minute a step, with seasons, noise and faults; equal seeds, equal bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, ScopeMetrics

STEP_S = 60
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
PODS = 3
SERVICES = {  # requests a second at noon, typical latency in seconds
    "web": (400.0, 0.08),
    "cart": (120.0, 0.03),
    "search": (200.0, 0.12),
    "payment": (40.0, 0.2),
    "inventory": (90.0, 0.02),
    "shipping": (15.0, 0.4),
}
CUMULATIVE = 2


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong: what, where it must show, and when, in steps of the last day."""

    name: str
    service: str
    metric: str
    start: int
    length: int
    what: str


FAULTS = (
    Fault("slow payments", "payment", "http.server.request.duration", 60, 60, "latency three times as high"),
    Fault("memory leak", "cart", "process.memory.usage", 170, 200, "memory of one pod grows half a percent a minute"),
    Fault("error burst", "search", "http.server.errors", 420, 30, "one request in ten fails"),
    Fault("traffic drop", "web", "http.server.requests", 540, 45, "seven of ten requests stay away"),
    Fault("dead pod", "inventory", "", 680, 60, "one pod stops reporting"),
    Fault("stuck gauge", "shipping", "queue.depth", 840, 90, "the queue depth does not move any more"),
    Fault("restless cpu", "payment", "process.cpu.utilization", 1040, 60, "processor use swings five times as wide"),
)


class Shop:
    """Telemetry of the shop, step by step; steps must be asked for in order, because counters count."""

    def __init__(self, start_s: int, steps: int, *, last_day: int = 1440, seed: int = 7) -> None:
        self.start_s = start_s
        self.steps = steps
        self.live = max(0, steps - last_day)  # the step at which the last day begins
        self._random = np.random.default_rng(seed)
        self._scale = last_day / 1440
        self._requests = dict.fromkeys(SERVICES, 0.0)
        self._errors = dict.fromkeys(SERVICES, 0.0)
        self._buckets = {name: np.zeros(len(BOUNDS) + 1, np.int64) for name in SERVICES}
        self._sums = dict.fromkeys(SERVICES, 0.0)
        self._stuck = 0.0

    def window(self, fault: Fault) -> tuple[int, int]:
        """(first step, step after the last) of a fault."""
        start = self.live + round(fault.start * self._scale)
        return start, start + max(10, round(fault.length * self._scale))

    def active(self, step: int) -> dict[str, float]:
        """The faults that go on at a step, and for how many steps."""
        windows = {fault.name: self.window(fault) for fault in FAULTS}
        return {name: float(step - start) for name, (start, end) in windows.items() if start <= step < end}

    def request(self, step: int) -> bytes:
        """Everything that the shop reports at a step, as one ExportMetricsServiceRequest."""
        request = ExportMetricsServiceRequest()
        faults, season = self.active(step), self._season(step)
        for service in SERVICES:
            self._service(request, service, step, season, faults)
            for pod in range(PODS):
                if not (service == "inventory" and pod == 1 and "dead pod" in faults):
                    self._pod(request, service, pod, step, season, faults)
        encoded: bytes = request.SerializeToString()
        return encoded

    def time_s(self, step: int) -> int:
        """When a step is."""
        return self.start_s + step * STEP_S

    def _season(self, step: int) -> float:
        """How busy the hour is, about 1 at noon and a third at night; less at weekends."""
        seconds = self.time_s(step)
        weekend = (seconds // 86_400 + 3) % 7 >= 5
        day = 0.65 - 0.35 * math.cos(2 * math.pi * (seconds % 86_400) / 86_400)
        return day * (0.7 if weekend else 1.0)

    def _service(
        self, request: ExportMetricsServiceRequest, service: str, step: int, season: float, faults: dict[str, float]
    ) -> None:
        busiest, latency_s = SERVICES[service]
        traffic = busiest * season * (0.3 if service == "web" and "traffic drop" in faults else 1.0)
        count = int(self._random.poisson(traffic * STEP_S))
        failing = 0.1 if service == "search" and "error burst" in faults else 0.002
        self._requests[service] += count
        self._errors[service] += int(self._random.binomial(count, failing))
        slow = 3.0 if service == "payment" and "slow payments" in faults else 1.0
        took = self._random.lognormal(math.log(latency_s * slow), 0.5, min(count, 200))
        weight = count / max(1, len(took))
        cells = np.bincount(np.searchsorted(BOUNDS, took), minlength=len(BOUNDS) + 1)
        self._buckets[service] += np.round(cells * weight).astype(np.int64)
        self._sums[service] += float(took.sum() * weight)
        scope = _resource(request, service, None)
        at = (self.time_s(step) * 10**9, self.start_s * 10**9)
        _counter(scope, "http.server.requests", "{request}", at, self._requests[service])
        _counter(scope, "http.server.errors", "{request}", at, self._errors[service])
        _histogram(scope, "http.server.request.duration", at, self._buckets[service].tolist(), self._sums[service])
        depth = float(self._random.poisson(20 * season + 5))
        if service == "shipping" and "stuck gauge" in faults:
            depth = self._stuck = self._stuck or depth
        elif service == "shipping":
            self._stuck = 0.0
        _gauge(scope, "queue.depth", "{message}", at[0], depth)

    def _pod(
        self,
        request: ExportMetricsServiceRequest,
        service: str,
        pod: int,
        step: int,
        season: float,
        faults: dict[str, float],
    ) -> None:
        scope = _resource(request, service, f"{service}-{pod}")
        time_ns = self.time_s(step) * 10**9
        swing = 5.0 if service == "payment" and pod == 0 and "restless cpu" in faults else 1.0
        cpu = 0.15 + 0.45 * season + swing * float(self._random.normal(0, 0.02))
        leak = 1 + 0.005 * faults.get("memory leak", 0.0) * (service == "cart" and pod == 2)
        memory = 400e6 * leak * (1 + 0.1 * season + float(self._random.normal(0, 0.01)))
        _gauge(scope, "process.cpu.utilization", "1", time_ns, max(0.0, cpu))
        _gauge(scope, "process.memory.usage", "By", time_ns, memory)
        _gauge(scope, "process.open_file_descriptors", "{file}", time_ns, float(self._random.poisson(80)))


def _resource(request: ExportMetricsServiceRequest, service: str, pod: str | None) -> ScopeMetrics:
    group = request.resource_metrics.add()
    attributes = {"service.name": service, "service.namespace": "shop", **({"k8s.pod.name": pod} if pod else {})}
    for key, value in attributes.items():
        pair = KeyValue(key=key)
        pair.value.string_value = value
        group.resource.attributes.append(pair)
    scope = group.scope_metrics.add()
    scope.scope.name = "shop"
    return scope


def _gauge(scope: ScopeMetrics, name: str, unit: str, time_ns: int, value: float) -> None:
    scope.metrics.add(name=name, unit=unit).gauge.data_points.add(time_unix_nano=time_ns, as_double=value)


def _counter(scope: ScopeMetrics, name: str, unit: str, at: tuple[int, int], value: float) -> None:
    metric: Metric = scope.metrics.add(name=name, unit=unit)
    metric.sum.aggregation_temporality, metric.sum.is_monotonic = CUMULATIVE, True  # type: ignore[assignment]
    metric.sum.data_points.add(time_unix_nano=at[0], start_time_unix_nano=at[1], as_double=value)


def _histogram(scope: ScopeMetrics, name: str, at: tuple[int, int], cells: list[int], total: float) -> None:
    metric: Metric = scope.metrics.add(name=name, unit="s")
    metric.histogram.aggregation_temporality = CUMULATIVE  # type: ignore[assignment]
    metric.histogram.data_points.add(
        time_unix_nano=at[0],
        start_time_unix_nano=at[1],
        count=sum(cells),
        sum=total,
        bucket_counts=cells,
        explicit_bounds=BOUNDS,
    )
