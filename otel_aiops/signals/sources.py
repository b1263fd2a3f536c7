"""Sources: who sends a span, a record or a point, read once from each distinct Resource."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from otel_aiops.errors import BadInput
from otel_aiops.labels import Attributes, text
from otel_aiops.otlp.attributes import resource
from otel_aiops.otlp.points import I32
from otel_aiops.series.columns import Arrays
from otel_aiops.signals.names import Names

UNKNOWN_SERVICE = "unknown_service"
RESOURCE_KEYS = ("k8s.pod.name", "service.instance.id", "container.name", "container.id", "host.name")
KEPT = 8_192  # distinct resources whose reading is remembered


@dataclass(frozen=True, slots=True)
class Source:
    """What a Resource says: the service, its most telling instance ("" when it names none), all attributes."""

    service: str
    instance: str
    attributes: Attributes


class Sources:
    """Numbers of services and instances; what was read of a resource is remembered, which changes nothing but time."""

    def __init__(self, *, most_services: int = 2_000, most_instances: int = 20_000) -> None:
        self.services = Names(most_services)
        self.instances = Names(most_instances)
        self._read: dict[bytes, Source] = {}

    def read(self, raw: bytes) -> Source:
        """What a raw Resource message says; an unreadable one is of the unknown service."""
        found = self._read.get(raw)
        if found is None:
            if len(self._read) >= KEPT:
                self._read.clear()
            found = self._read[raw] = source_of(raw)
        return found

    def numbers(self, resources: Sequence[bytes]) -> tuple[I32, I32]:
        """(services, instances) of R raw resources, (R,) each."""
        found = [self.read(raw) for raw in resources]
        services = self.services.numbers(one.service for one in found)
        instances = self.instances.numbers(one.instance or one.service for one in found)
        return services, instances

    def state(self) -> Arrays:
        """The names, as arrays."""
        parts = {"services": self.services, "instances": self.instances}
        return {f"{part}/{key}": array for part, names in parts.items() for key, array in names.state().items()}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        for part, names in (("services/", self.services), ("instances/", self.instances)):
            names.restore({key.removeprefix(part): array for key, array in arrays.items() if key.startswith(part)})


def source_of(raw: bytes) -> Source:
    """Read a Resource message."""
    try:
        attributes = resource(raw)
    except BadInput:
        return Source(UNKNOWN_SERVICE, "", ())
    has = dict(attributes)
    instance = next((text(has[key]) for key in RESOURCE_KEYS if has.get(key)), "")
    return Source(text(has.get("service.name")) or UNKNOWN_SERVICE, instance, attributes)


def of_items(numbers: I32, which: I32) -> I32:
    """The numbers of N items, each of which has one of R resources."""
    return numbers[which] if len(numbers) else np.zeros(len(which), np.int32)
