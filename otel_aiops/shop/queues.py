"""Queues of the shop: a handful of depths every five minutes, whose level and shape can change for good."""

from __future__ import annotations

import math

import numpy as np
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

SERVICE, METRIC = "orders", "queue.depth"
QUEUES = ("emails", "exports", "invoices", "parcels", "refunds", "returns")
STEP_S = 300
STEPS_A_DAY = 86_400 // STEP_S
STEPS_AN_HOUR = 3600 // STEP_S


class Queues:
    """Equal seeds give equal depths, whatever the requests that they come in. `moved` is the other level and shape."""

    def __init__(self, start_s: int, *, seed: int = 3) -> None:
        self.start_s, self.step, self.moved = start_s, 0, False
        self._random = np.random.default_rng(seed)
        self._slow = np.zeros(len(QUEUES))  # what a queue has of its depth before, beside its day

    @property
    def now_s(self) -> int:
        """When the next step is."""
        return self.start_s + self.step * STEP_S

    def request(self, steps: int, **odd: float) -> bytes:
        """The next steps as one ExportMetricsServiceRequest; `odd` are depths that are not as they should be."""
        request = ExportMetricsServiceRequest()
        group = request.resource_metrics.add()
        group.resource.attributes.append(_pair("service.name", SERVICE))
        scope = group.scope_metrics.add()
        scope.scope.name = "shop"
        points = scope.metrics.add(name=METRIC, unit="{message}").gauge.data_points
        for _ in range(steps):
            time_ns = self.now_s * 10**9
            for queue, depth in zip(QUEUES, self._depths(), strict=True):
                value = odd.get(queue, depth)
                points.add(time_unix_nano=time_ns, as_double=value, attributes=[_pair("queue", queue)])
            self.step += 1
        encoded: bytes = request.SerializeToString()
        return encoded

    def _depths(self) -> list[float]:
        wave = math.sin(2 * math.pi * self.step / STEPS_A_DAY)
        self._slow = 0.9 * self._slow + self._random.normal(0, 3, len(QUEUES))
        noise = self._slow + self._random.normal(0, 2, len(QUEUES))
        depths: list[float] = (260 + 1.5 * noise if self.moved else 100 + 5 * wave + noise).tolist()
        return depths


def _pair(key: str, value: str) -> KeyValue:
    pair = KeyValue(key=key)
    pair.value.string_value = value
    return pair
