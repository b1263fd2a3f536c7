"""Forecasts on their way out: which series are forecast, and what is sent and shown of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from prometheus_client.core import GaugeMetricFamily

from otel_aiops.detect.exhaustion import Exhaustions
from otel_aiops.detect.forecast import Forecasts
from otel_aiops.errors import ConfigError
from otel_aiops.labels import Labels, Selector
from otel_aiops.otlp.encode import Request, encode_gauges, encode_scope, extend_attributes, point_template
from otel_aiops.otlp.points import F64
from otel_aiops.otlp.prometheus import scraped_labels
from otel_aiops.otlp.semconv import DIRECTION, FORECAST_METRICS, HORIZON, LIMIT, MODEL, SOURCE_METRIC, STAT
from otel_aiops.series.table import Source


@dataclass(frozen=True, slots=True)
class ForecastRule:
    """Which series are forecast, how, and up to which limit."""

    match: Mapping[str, str | bool | int | float] = field(default_factory=dict)  # labels; ~ begins an expression
    horizon: float = 86_400.0  # how far ahead
    step: float = 300.0  # the mean of so long is one value
    interval: float = 900.0  # how often it is made anew
    limit: float | None = None  # say when this value is reached
    direction: Literal["above", "below"] = "above"  # the limit is reached from below (above) or from above (below)
    bounds: tuple[float, float] | None = None  # what the series cannot leave, as [0, 1] for a ratio
    history: float = 1_209_600.0  # how much of the past is read
    max_series: int = 1_000  # series that are forecast at most

    def __post_init__(self) -> None:
        for name in ("horizon", "step", "interval", "history"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(name, f"must be > 0 s, got {getattr(self, name)}")
        if self.horizon < self.step or self.horizon > 10_000 * self.step:
            raise ConfigError("horizon", f"must be 1 to 10000 steps of {self.step:g} s, got {self.horizon:g} s")
        if self.history < 2 * self.step:
            raise ConfigError("history", f"must be at least two steps of {self.step:g} s, got {self.history:g} s")
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ConfigError("bounds", f"expected [low, high] with low < high, got {list(self.bounds)}")
        if self.max_series < 1:
            raise ConfigError("max_series", f"must be >= 1, got {self.max_series}")
        try:
            Selector(self.match)
        except re.error as error:
            raise ConfigError("match", f"is not a regular expression: {error}") from error


@dataclass(frozen=True, slots=True)
class Told:
    """What is sent of S series under one rule; columns (S,) in the order of FORECAST_METRICS, NaN is no point."""

    resources: tuple[bytes, ...]
    templates: tuple[bytes, ...]
    labels: tuple[Labels, ...]
    columns: tuple[F64, ...]


def told(
    rule: ForecastRule,
    series: Sequence[tuple[Labels, Source]],
    forecasts: Forecasts,
    reached: Exhaustions | None,
) -> Told:
    """The end of the horizon of each forecast, and when each reaches its limit."""
    absent = np.full(len(series), np.nan)
    resources, templates, shown = [], [], []
    for labels, source in series:
        added = {SOURCE_METRIC: labels.name, MODEL: "default", HORIZON: duration_text(rule.horizon)}
        if labels.stat:
            added[STAT] = labels.stat
        if rule.limit is not None:
            added |= {LIMIT: f"{rule.limit:g}", DIRECTION: rule.direction}
        raw = extend_attributes(source.attributes, labels.attributes, added)
        resources.append(source.stream.resource)
        templates.append(point_template(raw))
        merged = tuple(sorted({**dict(labels.attributes), **added}.items()))
        shown.append(Labels(labels.name, resource=labels.resource, attributes=merged))
    columns = (
        forecasts.expected[:, -1],
        forecasts.lower[:, -1],
        forecasts.upper[:, -1],
        absent if reached is None else reached.time_s,
        absent if reached is None else reached.probability,
    )
    return Told(tuple(resources), tuple(templates), tuple(shown), columns)


def duration_text(seconds: float) -> str:
    """A span as in the configuration.

    >>> duration_text(86400.0), duration_text(5400.0), duration_text(0.5)
    ('1d', '90m', '0.5s')
    """
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def requests_of(found: Told, time_ns: int) -> Iterator[Request]:
    """OTLP requests with what is told, at one time."""
    times = np.full(len(found.resources), time_ns, np.int64)
    columns = list(zip(FORECAST_METRICS, found.columns, strict=True))
    yield from encode_gauges(found.resources, found.templates, times, columns, scope=encode_scope())


def families_of(all_told: Sequence[Told]) -> list[GaugeMetricFamily]:
    """What is told on /metrics."""
    shown = [[scraped_labels(labels) for labels in found.labels] for found in all_told]
    keys = sorted({key for some in shown for labels in some for key in labels})
    families = []
    for k, metric in enumerate(FORECAST_METRICS):
        family = GaugeMetricFamily(metric.prometheus, metric.description, labels=keys)
        for found, names in zip(all_told, shown, strict=True):
            for labels, value in zip(names, found.columns[k].tolist(), strict=True):
                if value == value:
                    family.add_metric([labels.get(key, "") for key in keys], value)
        if family.samples:
            families.append(family)
    return families
