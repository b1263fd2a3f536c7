"""Cardinality: which metric, and which of its attributes, fill the series table."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from otel_aiops.labels import Attributes, AttributeValue
from otel_aiops.otlp.points import Stream

NAMES_COUNTED = 1_024  # metrics with refused series; later ones are counted in the sum only
REFUSED_KEPT = 512  # newest refused series that are looked at
SAMPLE = 2_048  # series of the worst metric whose attributes are counted


@dataclass(frozen=True, slots=True)
class Cardinality:
    """Who fills the table: the metric with most series, held and refused together, and its busiest attribute.

    `metric` is "" while there are no series, `attribute` is "" when none differs. `values` is how many different
    values the attribute had among `sampled` series of the metric. A refused series that comes back much later is
    counted again.
    """

    series: int
    limit: int
    refused: int
    metric: str = ""
    metric_series: int = 0
    metric_refused: int = 0
    attribute: str = ""
    values: int = 0
    sampled: int = 0


class Refusals:
    """Series that found the table full; bounded, and not part of what is learned."""

    def __init__(self) -> None:
        self.total = 0
        self.names: Counter[str] = Counter()
        self.newest: deque[tuple[Stream, bytes]] = deque(maxlen=REFUSED_KEPT)

    def add(self, stream: Stream, attributes: bytes) -> None:
        """Note one series."""
        self.total += 1
        if stream.name in self.names or len(self.names) < NAMES_COUNTED:
            self.names[stream.name] += 1
        self.newest.append((stream, attributes))


def worst_metric(held: Mapping[str, int], refused: Mapping[str, int]) -> str:
    """The metric with most series, held and refused; the first by name among equals, "" if there are none."""
    names = sorted({*held, *refused})
    return max(names, key=lambda name: held.get(name, 0) + refused.get(name, 0), default="")


def busiest(labels: Iterable[Attributes]) -> tuple[str, int]:
    """(key with most different values, how many) among the labels of series; ("", 0) when no key has two.

    >>> busiest([(("id", 1), ("zone", "a")), (("id", 2), ("zone", "a"))])
    ('id', 2)
    """
    values: dict[str, set[AttributeValue]] = {}
    for attributes in labels:
        for key, value in attributes:
            values.setdefault(key, set()).add(value)
    key = max(sorted(values), key=lambda one: len(values[one]), default="")
    return (key, len(values[key])) if key and len(values[key]) > 1 else ("", 0)
