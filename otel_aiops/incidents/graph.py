"""What incidents ask of the service graph: who is around a service, who depends on it, what it depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from otel_aiops.signals.names import OTHER_NAME


class ServiceGraph(Protocol):
    """Who calls whom, by name, in a fixed order."""

    def callers(self, service: str) -> Sequence[str]:
        """The services that call this one."""
        ...

    def callees(self, service: str) -> Sequence[str]:
        """The services that this one calls."""
        ...


def placed(service: str) -> bool:
    """Whether it is known which service it is: not where the name is missing or over the limit of names."""
    return bool(service) and service != OTHER_NAME


def around(graph: ServiceGraph, service: str) -> tuple[str, ...]:
    """The services one call away, in order of name, without itself."""
    return tuple(sorted({*graph.callers(service), *graph.callees(service)} - {service}))


def reached(
    services: Iterable[str], onward: Callable[[str], Sequence[str]], *, hops: int = 1 << 30, most: int = 1_000
) -> dict[str, int]:
    """Services and how many steps of `onward` lead to them, at most so many, nearest first, in order of name."""
    found = {service: 0 for service in sorted(services)}
    edge = list(found)
    for hop in range(1, hops + 1):
        edge = sorted({other for service in edge for other in onward(service) if other not in found})
        if not edge:
            break
        found.update((service, hop) for service in edge[: max(0, most - len(found))])
        if len(found) >= most:
            break
    return found
