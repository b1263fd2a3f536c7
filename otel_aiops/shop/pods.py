"""Metrics of the pods of the live shop, as the Collector's receivers report them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, ScopeMetrics

from otel_aiops.otlp.points import F64
from otel_aiops.shop.faults import OWNER, Effects
from otel_aiops.shop.flows import OPERATIONS, SERVICES, How, calls

POD_METRICS_EVERY = 3  # steps
MEMORY_BYTES = 1 << 30  # that a pod may use
CONNECTIONS = 40  # that a pod may hold to the database
VOLUMES = {service.name for service in SERVICES if service.volume}
ASKERS = {o.service for o in OPERATIONS.values() for _, call in calls(o) if call.how is How.DATABASE}
CERTIFIED = {o.service for o in OPERATIONS.values() if o.how in {How.GRPC, How.HTTP}}
CPU_IDLE, CPU_BUSY = 0.08, 0.75  # use of the processor by a pod that does nothing; more of one that is always busy


class PodMetrics:
    """What pods report of themselves, and services of what they depend on."""

    def __init__(self) -> None:
        self._restarts = np.zeros(len(OWNER), np.int64)
        self._away = np.zeros(len(OWNER), bool)

    def watch(self, now: Effects) -> None:
        """Count who is back again; to be called every step."""
        self._restarts += self._away & ~now.away
        self._away = now.away.copy()

    def request(
        self,
        random: np.random.Generator,
        time_s: float,
        now: Effects,
        busy: F64,
        waiting: int,
        attributes: Mapping[int, Mapping[str, str]],
    ) -> bytes:
        """All gauges at a moment. `busy` (pods,) is the part of the time that pods work, `waiting` what is queued.

        `attributes` are those of the resources of pods.
        """
        request, time_ns = ExportMetricsServiceRequest(), round(time_s * 1e9)
        noise = random.normal(0, 1, (len(OWNER), 3))
        for pod in np.flatnonzero(~now.away).tolist():
            scope = _scope(request, attributes[pod])
            self._pod(scope, time_ns, pod, now, float(busy[pod]), noise[pod].tolist())
        for service in sorted(CERTIFIED):
            scope = _scope(request, {"service.name": service, "service.namespace": "shop"})
            _gauge(scope, "httpcheck.tls.cert_remaining", "s", time_ns, round(now.certificate_s[service]))
        scope = _scope(request, {"service.name": "worker", "service.namespace": "shop"})
        _gauge(scope, "kafka.consumer_group.lag", "{message}", time_ns, waiting, group="worker", topic="orders")
        encoded: bytes = request.SerializeToString(deterministic=True)
        return encoded

    def _pod(self, scope: ScopeMetrics, time_ns: int, pod: int, now: Effects, busy: float, noise: list[float]) -> None:
        service = OWNER[pod]
        cpu = CPU_IDLE + CPU_BUSY * min(1.0, busy) + now.cpu[pod] + 0.01 * noise[0]
        memory = float(np.clip(now.memory[pod] + 0.03 * busy + 0.004 * noise[1], 0.0, 0.999))
        _gauge(scope, "k8s.pod.cpu.limit_utilization", "1", time_ns, float(np.clip(cpu, 0.0, 0.98 + 0.005 * noise[0])))
        _gauge(scope, "k8s.pod.memory.usage", "By", time_ns, round(memory * MEMORY_BYTES))
        _gauge(scope, "k8s.pod.memory.limit_utilization", "1", time_ns, memory)
        _gauge(scope, "k8s.container.restarts", "{restart}", time_ns, int(self._restarts[pod]))
        if service in VOLUMES:
            disk = min(1.0, float(now.disk[pod]) + 0.0002 * abs(noise[2]))
            _gauge(scope, "system.filesystem.utilization", "1", time_ns, disk, mountpoint="/data")
        if service in ASKERS:
            wanted = float(now.pool[pod]) + 0.3 * min(1.0, busy) + 0.02 * noise[2]
            used = round(CONNECTIONS * min(1.0, max(0.0, wanted)))
            for state, count in (("used", used), ("idle", CONNECTIONS - used)):
                name = "db.client.connection.count"
                _gauge(scope, name, "{connection}", time_ns, count, **{"db.client.connection.state": state})
            _gauge(scope, "db.client.connection.max", "{connection}", time_ns, CONNECTIONS)


def _scope(request: ExportMetricsServiceRequest, attributes: Mapping[str, str]) -> ScopeMetrics:
    group = request.resource_metrics.add()
    group.resource.attributes.extend(_pair(key, value) for key, value in attributes.items())
    scope = group.scope_metrics.add()
    scope.scope.name = "shop"
    return scope


def _gauge(scope: ScopeMetrics, name: str, unit: str, time_ns: int, value: float, **attributes: str) -> None:
    metric: Metric = scope.metrics.add(name=name, unit=unit)
    point = metric.gauge.data_points.add(time_unix_nano=time_ns)
    if isinstance(value, int):
        point.as_int = value
    else:
        point.as_double = value
    point.attributes.extend(_pair(key, text) for key, text in attributes.items())


def _pair(key: str, text: str) -> KeyValue:
    pair = KeyValue(key=key)
    pair.value.string_value = text
    return pair
