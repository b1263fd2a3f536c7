"""Own telemetry: the counters, gauges and histograms that semconv declares, on /metrics and through the SDK."""

from __future__ import annotations

import os
import platform
import socket
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from otel_aiops import __version__
from otel_aiops.errors import ConfigError
from otel_aiops.otlp.prometheus import MetricKind, label_name
from otel_aiops.otlp.semconv import OWN_METRICS, SCOPE_NAME, SERVICE_NAME, Metric

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter

Protocol = Literal["grpc", "http/protobuf"]
Values = tuple[str, ...]  # of a metric's attributes, in the order of their declaration


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsConfig:
    """How our own log lines are written."""

    level: Literal["debug", "info", "warn", "error"] | None = None  # least severe that is written; OTEL_LOG_LEVEL, info
    encoding: Literal["logfmt", "json"] = "logfmt"  # form of a line
    repeat_interval: float = 60.0  # an equal message is written at most once in this time

    def __post_init__(self) -> None:
        if self.repeat_interval < 0:
            raise ConfigError("repeat_interval", f"must be >= 0 s, got {self.repeat_interval}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnMetricsConfig:
    """Where our own metrics go besides /metrics; what is not set here comes from the OTEL_* variables."""

    endpoint: str | None = None  # URL of an OTLP receiver, http:// or https://; OTEL_EXPORTER_OTLP_ENDPOINT, else off
    protocol: Protocol | None = None  # OTEL_EXPORTER_OTLP_PROTOCOL, http/protobuf
    interval: float | None = None  # seconds between two exports; OTEL_METRIC_EXPORT_INTERVAL, 60

    def __post_init__(self) -> None:
        if self.endpoint is not None and not self.endpoint.startswith(("http://", "https://")):
            raise ConfigError("endpoint", f"must start with http:// or https://, got {self.endpoint!r}")
        if self.interval is not None and self.interval <= 0:
            raise ConfigError("interval", f"must be > 0 s, got {self.interval}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryConfig:
    """Our own telemetry."""

    logs: LogsConfig = field(default_factory=LogsConfig)
    metrics: OwnMetricsConfig = field(default_factory=OwnMetricsConfig)


@dataclass(slots=True)
class _Histogram:
    counts: list[int]
    total: float = 0.0

    @classmethod
    def of(cls, metric: Metric) -> _Histogram:
        """With nothing in it."""
        return cls([0] * (len(metric.buckets) + 1))


class Telemetry:
    """The numbers of this process. Every method may be called from any thread; names are semconv's or a ValueError."""

    def __init__(self) -> None:
        self._declared = {metric.name: metric for metric in OWN_METRICS}
        self._lock = Lock()
        self._numbers: dict[str, dict[Values, float]] = {m.name: {} for m in OWN_METRICS if m.kind != "histogram"}
        self._histograms: dict[str, dict[Values, _Histogram]] = {m.name: {} for m in OWN_METRICS if m.buckets}
        self._watched: dict[str, dict[Values, Callable[[], float]]] = {}
        self._instruments: dict[str, Any] = {}
        for metric in OWN_METRICS:
            begins = metric.begins if metric.attributes else ((),)
            if metric.kind == "counter":
                self._numbers[metric.name] = dict.fromkeys(begins, 0.0)
            elif metric.kind == "histogram":
                self._histograms[metric.name] = {values: _Histogram.of(metric) for values in begins}
        self.set("otel_aiops.build.info", 1, version=__version__, python=platform.python_version())

    def add(self, name: str, value: float = 1.0, /, **attributes: str) -> None:
        """Count up; a counter never falls."""
        values = self._values(name, "counter", attributes)
        if value < 0:
            raise ValueError(f"{name}: expected a count >= 0, got {value}")
        with self._lock:
            numbers = self._numbers[name]
            numbers[values] = numbers.get(values, 0.0) + value

    def set(self, name: str, value: float, /, **attributes: str) -> None:
        """What a gauge is now."""
        values = self._values(name, "gauge", attributes)
        with self._lock:
            self._numbers[name][values] = float(value)

    def replace(self, name: str, value: float, /, **attributes: str) -> None:
        """What a gauge is now, and nothing else of that name."""
        values = self._values(name, "gauge", attributes)
        with self._lock:
            self._numbers[name] = {values: float(value)}

    def replace_all(self, name: str, values: Mapping[Values, float], /) -> None:
        """What a gauge is now for the values of its attributes, and nothing else of that name."""
        metric = self._metric(name)
        if metric.kind != "gauge" or any(len(key) != len(metric.attributes) for key in values):
            raise ValueError(f"{name}: expected a gauge with these attributes, got a {metric.kind} {metric.attributes}")
        with self._lock:
            self._numbers[name] = {key: float(value) for key, value in values.items()}

    def clear(self, name: str, /) -> None:
        """A gauge has no value any more, with whatever attributes."""
        if self._metric(name).kind != "gauge":
            raise ValueError(f"{name}: expected a gauge, got a {self._metric(name).kind}")
        with self._lock:
            self._numbers[name] = {}

    def watch(self, name: str, read: Callable[[], float], /, **attributes: str) -> None:
        """A gauge that is read whenever it is shown."""
        values = self._values(name, "gauge", attributes)
        with self._lock:
            self._watched.setdefault(name, {})[values] = read

    def record(self, name: str, value: float, /, **attributes: str) -> None:
        """One measurement of a histogram."""
        values = self._values(name, "histogram", attributes)
        bounds = self._declared[name].buckets
        with self._lock:
            histogram = self._histograms[name].setdefault(values, _Histogram.of(self._declared[name]))
            histogram.counts[bisect_left(bounds, value)] += 1
            histogram.total += value
            instrument = self._instruments.get(name)
        if instrument is not None:
            instrument.record(value, attributes)

    def value(self, name: str, /, **attributes: str) -> float:
        """What a counter or gauge is now, 0 when it was never touched."""
        values = self._values(name, self._metric(name).kind, attributes)
        return self._read(name).get(values, 0.0)

    def total(self, name: str, /) -> float:
        """The sum of a counter or gauge over all its attributes."""
        self._metric(name)
        return sum(self._read(name).values())

    def render(self) -> bytes:
        """Everything in Prometheus text format 0.0.4."""
        return generate_latest(_Families(self._families))

    def bind(self, instruments: Mapping[str, Any]) -> None:
        """Give every further measurement of a histogram to an SDK instrument too."""
        with self._lock:
            self._instruments = dict(instruments)

    def observations(self, name: str) -> list[tuple[float, dict[str, str]]]:
        """What a counter or gauge is now, for each of its attributes."""
        keys = self._metric(name).attributes
        return [(number, dict(zip(keys, values, strict=True))) for values, number in self._read(name).items()]

    def _metric(self, name: str) -> Metric:
        if name not in self._declared:
            raise ValueError(f"expected a metric that semconv declares as our own, got {name!r}")
        return self._declared[name]

    def _values(self, name: str, kind: MetricKind, attributes: Mapping[str, str]) -> Values:
        metric = self._metric(name)
        if metric.kind != kind:
            raise ValueError(f"{name}: expected a {kind}, got a {metric.kind}")
        if attributes.keys() != set(metric.attributes):
            raise ValueError(f"{name}: expected attributes {sorted(metric.attributes)}, got {sorted(attributes)}")
        return tuple(str(attributes[key]) for key in metric.attributes)

    def _read(self, name: str) -> dict[Values, float]:
        with self._lock:
            numbers = dict(self._numbers.get(name, {}))
            watched = dict(self._watched.get(name, {}))
        for values, read in watched.items():  # outside the lock: what is read may count something itself
            numbers[values] = float(read())
        return numbers

    def _families(self) -> Iterator[Family]:
        for metric in self._declared.values():
            labels = [label_name(key) for key in metric.attributes]
            family = self._histogram(metric, labels) if metric.kind == "histogram" else self._plain(metric, labels)
            if family.samples:
                yield family

    def _plain(self, metric: Metric, labels: list[str]) -> Family:
        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = kind(metric.prometheus.removesuffix("_total"), metric.description, labels=labels)
        for values, number in sorted(self._read(metric.name).items()):
            family.add_metric(values, number)
        return family

    def _histogram(self, metric: Metric, labels: list[str]) -> Family:
        family = HistogramMetricFamily(metric.prometheus, metric.description, labels=labels)
        with self._lock:
            copies = {v: (list(h.counts), h.total) for v, h in sorted(self._histograms[metric.name].items())}
        for values, (counts, total) in copies.items():
            running, buckets = 0, []
            for bound, count in zip([*(str(b) for b in metric.buckets), "+Inf"], counts, strict=True):
                running += count
                buckets.append((bound, running))
            family.add_metric(values, buckets, total)
        return family


class _Families(Collector):
    """What prometheus_client renders."""

    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families()


class OwnExport:
    """Sends our own metrics by the OpenTelemetry SDK, under service.name "otel-aiops" and scope `otel_aiops`.

    By these two, and by the names, the receiver knows our own telemetry when it comes back and ignores it.
    """

    def __init__(self, telemetry: Telemetry, provider: MeterProvider) -> None:
        self._provider: MeterProvider | None = provider
        self._telemetry = telemetry
        meter = provider.get_meter(SCOPE_NAME, __version__)
        histograms = {}
        for metric in OWN_METRICS:
            about = {"unit": metric.unit, "description": metric.description}
            if metric.kind == "histogram":
                histograms[metric.name] = meter.create_histogram(
                    metric.name, explicit_bucket_boundaries_advisory=list(metric.buckets), **about
                )
            elif metric.kind == "counter":
                meter.create_observable_counter(metric.name, [self._observer(metric.name)], **about)
            else:
                meter.create_observable_gauge(metric.name, [self._observer(metric.name)], **about)
        telemetry.bind(histograms)

    def _observer(self, name: str) -> Callable[[Any], list[Any]]:
        from opentelemetry.metrics import Observation

        def observe(options: Any) -> list[Any]:
            return [Observation(number, attributes) for number, attributes in self._telemetry.observations(name)]

        return observe

    def stop(self, timeout_s: float = 5.0) -> None:
        """Export once more and end; again is nothing."""
        provider, self._provider = self._provider, None
        if provider is not None:
            self._telemetry.bind({})
            provider.shutdown(timeout_millis=timeout_s * 1000)


def start_export(
    telemetry: Telemetry, config: OwnMetricsConfig, environ: Mapping[str, str] = os.environ
) -> OwnExport | None:
    """Start to export when an endpoint is set, by the config or by an OTEL_* variable, and nothing forbids it.

    `environ` decides whether and how; the SDK reads what else it needs from the environment of the process.
    """
    protocol = export_protocol(config, environ)
    if protocol is None:
        return None
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    interval_ms = config.interval * 1000 if config.interval else None
    reader = PeriodicExportingMetricReader(_exporter(config, protocol), export_interval_millis=interval_ms)
    return OwnExport(telemetry, MeterProvider([reader], resource=_resource(), shutdown_on_exit=False))


def export_protocol(config: OwnMetricsConfig, environ: Mapping[str, str]) -> Protocol | None:
    """How to export, None for not at all: without an endpoint, or switched off by a variable.

    The specification's default endpoint is not used: it is the address of our own receiver.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if config.endpoint is None:
        chosen = [name.strip() for name in (environ.get("OTEL_METRICS_EXPORTER") or "otlp").split(",")]
        endpoint = environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        if "otlp" not in chosen or not endpoint:
            return None
    if config.protocol is not None:
        return config.protocol
    variable = next((v for v in _PROTOCOL_VARIABLES if environ.get(v)), None)
    chosen_protocol = environ[variable] if variable else "http/protobuf"
    if chosen_protocol not in _PROTOCOLS:
        raise ConfigError(str(variable), f"expected grpc or http/protobuf, got {chosen_protocol!r}")
    return _PROTOCOLS[chosen_protocol]


_PROTOCOLS: Mapping[str, Protocol] = {"grpc": "grpc", "http/protobuf": "http/protobuf"}
_PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def _exporter(config: OwnMetricsConfig, protocol: Protocol) -> MetricExporter:
    """The SDK's exporter; headers, compression, timeout and certificates come from the OTEL_* variables."""
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        insecure = config.endpoint.startswith("http://") if config.endpoint else None
        return GrpcExporter(endpoint=config.endpoint, insecure=insecure)
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

    return HttpExporter(endpoint=f"{config.endpoint.rstrip('/')}/v1/metrics" if config.endpoint else None)


def _resource() -> Any:
    """Our resource; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    ours = {
        "service.name": SERVICE_NAME,
        "service.version": __version__,
        "service.instance.id": socket.gethostname(),
    }
    return Resource.create({**ours, **OTELResourceDetector().detect().attributes})
