"""Emission: which scores leave, as OTLP requests and on /metrics, within a bound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from otel_aiops.detect.detector import CHANNELS
from otel_aiops.detect.scorer import Scored
from otel_aiops.errors import ConfigError
from otel_aiops.labels import Labels, text
from otel_aiops.otlp.attributes import resource
from otel_aiops.otlp.encode import (
    Request,
    encode_attributes,
    encode_gauges,
    encode_resource,
    encode_scope,
    extend_attributes,
    point_template,
)
from otel_aiops.otlp.points import F64, I32, I64, Bool
from otel_aiops.otlp.prometheus import label_name, scraped_labels
from otel_aiops.otlp.semconv import (
    CHANNEL,
    CHANNEL_METRIC,
    COMPAT_LABEL,
    MODEL,
    SERVICE,
    SERVICE_METRICS,
    SERVICE_NAMESPACE,
    SOURCE_METRIC,
    STAT,
    Compat,
    Field,
    Metric,
    series_metrics,
)
from otel_aiops.pipeline import Step
from otel_aiops.series.table import SeriesTable
from otel_aiops.watch import Watch

MODEL_NAME = "default"
QUIET = -1  # no channel
LIVE_NS = 3_600_000_000_000  # a series whose last point is older does not count in what is told of its service


@dataclass(frozen=True, slots=True)
class EmitConfig:
    """Which scores are sent to the exporters and shown on /metrics."""

    # whose scores are emitted, besides those of services; anomalous are also those with an alert
    series: Literal["anomalous", "all", "none"] = "anomalous"
    hold: float = 300.0  # a series that is not anomalous any more is emitted for so long, then ended
    expected: bool = False  # also the value that was scored, what was expected and the band
    compat: Compat = "none"  # use the metric names of vmanomaly or promql_anomaly where they have one
    max_series: int = 10_000  # series emitted at most; the strangest come first, the others are counted
    services: bool = True  # also one score and counts for each service
    interval: float = 15.0  # how often those of services are sent
    incidents: bool = True  # also changes of incidents, as log records to exporters.otlp

    def __post_init__(self) -> None:
        if not self.hold >= 0:
            raise ConfigError("hold", f"must be >= 0 s, got {self.hold}")
        if not self.interval > 0:
            raise ConfigError("interval", f"must be > 0 s, got {self.interval}")
        if self.max_series < 0:
            raise ConfigError("max_series", f"must be >= 0, got {self.max_series}")


@dataclass(frozen=True, slots=True)
class _Target:
    """What every score of a series carries, encoded once."""

    resource: bytes
    template: bytes
    labels: Labels


@dataclass(frozen=True, slots=True)
class Services:
    """Numbers of G services, (G,) each; `warming` by reason."""

    resources: tuple[bytes, ...]
    names: tuple[dict[str, str], ...]  # attributes
    score: F64
    joint: F64
    anomalous: F64
    scored: F64
    warming: dict[str, F64]
    eta_s: F64


class Emitter:
    """Chooses and encodes; one thread. What it holds is bounded by `max_series` and the number of resources."""

    def __init__(self, config: EmitConfig, table: SeriesTable, watch: Watch) -> None:
        self.config = config
        self.overflow = 0  # series that should have been emitted but were over the limit, counted each time
        self._table = table
        self._watch = watch
        self._metrics = series_metrics(compat=config.compat, expected=config.expected)
        self._scope = encode_scope()
        self._targets: dict[int, _Target] = {}  # by row: those that are emitted now
        self._emitted = np.zeros(0, bool)
        self._channel = np.zeros(0, np.int16)  # what was told of a row as the cause of its score; QUIET is nothing
        self._told: dict[int, _Target] = {}  # by row: what carried that
        self._over_ns = np.zeros(0, np.int64)  # when a row was last over its threshold
        self._service = np.zeros(0, np.int32)  # number of the service of a row, from 1 on; 0 is not known yet
        self._numbers: dict[bytes, int] = {}  # resource as received → number of its service
        self._services: dict[tuple[str, str], int] = {}

    def step(self, step: Step) -> Iterator[Request]:
        """Requests with the scores that a step gave, and the ends of series that are not emitted any more."""
        yield from self._end(step.reclaimed, step.event_ns)
        if self.config.series != "none":
            for scored in step.batches():
                if len(scored.batch.rows):
                    yield from self._scores(scored)
        yield from self._end(step.ended, step.event_ns)
        if len(step.reclaimed):
            self._service[step.reclaimed[step.reclaimed < len(self._service)]] = 0

    def expire(self, event_ns: int) -> Iterator[Request]:
        """Ends of series that have not been over their threshold for `hold`."""
        if self.config.series == "anomalous" and self._targets:
            rows = np.fromiter(self._targets, np.int32, len(self._targets))
            yield from self._end(rows[self._over_ns[rows] < event_ns - int(self.config.hold * 1e9)], event_ns)

    def services(self, event_ns: int) -> Services:
        """What is told of each service now."""
        rows = self._table.live()
        latest = self._watch.columns
        rows = rows[rows < len(latest)]
        latest = latest[rows]
        live = (latest["time_ns"] > 0) & (latest["time_ns"] >= event_ns - LIVE_NS)
        rows, latest = rows[live], latest[live]
        group = self._service_of(rows) - 1
        joint = self._joint(event_ns)
        count = len(self._services)
        warm = ~np.isnan(latest["score"])
        score = np.full(count, np.nan)
        np.fmax.at(score, group[warm], latest["score"][warm].astype(np.float64))
        learning = ~warm & ~np.isnan(latest["warmup_s"])
        eta_s = np.zeros(count)
        for number in np.unique(group[learning]).tolist():
            eta_s[number] = np.median(latest["warmup_s"][learning & (group == number)])
        seen = np.flatnonzero(np.bincount(group, minlength=count))
        names = [key for key, _ in sorted(self._services.items(), key=lambda item: item[1])]
        attributes = [_service_attributes(*names[number]) for number in seen.tolist()]

        def total(which: Bool) -> F64:
            return np.bincount(group[which], minlength=count)[seen].astype(np.float64)

        return Services(
            resources=tuple(encode_resource(tuple(sorted(one.items()))) for one in attributes),
            names=tuple(attributes),
            score=score[seen],
            joint=joint[seen],
            anomalous=total(warm & (latest["score"] >= 1)),
            scored=total(warm),
            warming={"learning": total(learning), "sparse": total(~warm & ~learning)},
            eta_s=eta_s[seen],
        )

    def _joint(self, event_ns: int) -> F64:
        """The highest joint score of each service, NaN for those that have none, in the order of their numbers."""
        groups = [one for one in self._watch.together(event_ns - LIVE_NS) if self._table.is_live(one.rows[0])]
        services = self._service_of(np.array([one.rows[0] for one in groups], np.int32)) - 1
        joint = np.full(len(self._services), np.nan)
        np.fmax.at(joint, services, np.array([one.score for one in groups], np.float64))
        return joint

    def service_requests(self, event_ns: int) -> Iterator[Request]:
        """Requests with the numbers of all services."""
        if not self.config.services:
            return
        services = self.services(event_ns)
        count = len(services.resources)
        times = np.full(count, event_ns, np.int64)
        plain = [point_template(b"")] * count
        columns = [(metric, values) for metric, values, reason in _service_columns(services) if reason is None]
        yield from encode_gauges(services.resources, plain, times, columns, scope=self._scope)
        for metric, values, reason in _service_columns(services):
            if reason is not None:
                own = [point_template(encode_attributes((("reason", reason),)))] * count
                yield from encode_gauges(services.resources, own, times, [(metric, values)], scope=self._scope)

    def render(self, event_ns: int, more: Sequence[GaugeMetricFamily] = ()) -> bytes:
        """Everything that is emitted now, and `more`, in Prometheus text format 0.0.4."""
        services = self._service_families(event_ns) if self.config.services else ()
        families = [*self._series_families(), *services, *more]
        return generate_latest(_Families([family for family in families if family.samples]))

    # -- series -----------------------------------------------------------------------------------------------------

    def _scores(self, scored: Scored) -> Iterator[Request]:
        rows, score = scored.batch.rows, scored.scores.score
        self._grow(int(rows.max()) + 1)
        with np.errstate(invalid="ignore"):
            over = score >= 1
        if scored.alerted is not None:
            over |= scored.alerted.active
        self._over_ns[rows[over]] = scored.batch.time_ns[over]
        wanted = ~np.isnan(score)
        if self.config.series == "anomalous":
            wanted &= over | self._emitted[rows]
        chosen = self._within_limit(rows, score, np.flatnonzero(wanted))
        if len(chosen):
            times = scored.batch.time_ns[chosen]
            yield from self._encode(rows[chosen], times, self._columns(scored, chosen))
            channel = np.where(over[chosen], scored.scores.channel[chosen].astype(np.int16), np.int16(QUIET))
            yield from self._tell_channels(rows[chosen], channel, times)

    def _within_limit(self, rows: I32, score: F64, wanted: NDArray[np.intp]) -> NDArray[np.intp]:
        """Of the wanted ones those that are emitted already, and new ones, the strangest first, up to the limit."""
        known = self._emitted[rows[wanted]]
        free = self.config.max_series - len(self._targets)
        fresh = wanted[~known]
        if len(fresh) > free:
            self.overflow += len(fresh) - max(free, 0)
            fresh = fresh[np.argsort(-score[fresh], kind="stable")][: max(free, 0)]
            wanted = np.sort(np.concatenate([wanted[known], fresh]))
        for row in rows[fresh].tolist():
            self._targets[row] = self._target(row)
        self._emitted[rows[fresh]] = True
        return wanted

    def _target(self, row: int, more: Mapping[str, str] = MappingProxyType({})) -> _Target:
        labels, source = self._table.labels(row), self._table.source(row)
        added = {SOURCE_METRIC: labels.name, MODEL: MODEL_NAME, **more}
        if labels.stat:
            added[STAT] = labels.stat
        if self.config.compat != "none":
            added[COMPAT_LABEL[self.config.compat]] = labels.name
        raw = extend_attributes(source.attributes, labels.attributes, added)
        attributes = tuple(sorted({**dict(labels.attributes), **added}.items()))
        shown = Labels(labels.name, resource=labels.resource, attributes=attributes)
        return _Target(source.stream.resource, point_template(raw), shown)

    def _columns(self, scored: Scored, chosen: NDArray[np.intp]) -> list[tuple[Metric, F64]]:
        scores, alerted = scored.scores, scored.alerted
        nothing = np.zeros(len(scores.score))
        values: dict[Field, F64] = {
            "score": scores.score,
            "active": np.where(scores.score >= 1, 1.0, 0.0),
            "ratio": nothing if alerted is None else alerted.ratio,
            "alert": nothing if alerted is None else alerted.active.astype(np.float64),
            "probability": scores.probability,
            "expected": scores.expected,
            "lower": scores.lower,
            "upper": scores.upper,
            "value": scored.batch.value,
        }
        return [(metric, values[field][chosen]) for field, metric in self._metrics.items()]

    def _encode(
        self, rows: I32, time_ns: I64, columns: list[tuple[Metric, F64]], *, ends: bool = False
    ) -> Iterator[Request]:
        targets = [self._targets[row] for row in rows.tolist()]
        resources, templates = [t.resource for t in targets], [t.template for t in targets]
        yield from encode_gauges(resources, templates, time_ns, columns, scope=self._scope, ends=ends)

    def _tell_channels(self, rows: I32, channel: NDArray[np.int16], time_ns: I64) -> Iterator[Request]:
        """Say of K rows what makes their scores, QUIET for nothing, and end what was said before where it changed."""
        changed = self._channel[rows] != channel
        over = changed & (self._channel[rows] != QUIET)
        yield from self._encode_channels([self._told.pop(row) for row in rows[over].tolist()], time_ns[over], ends=True)
        for row, number in zip(rows[changed].tolist(), channel[changed].tolist(), strict=True):
            if number != QUIET:
                self._told[row] = self._target(row, {CHANNEL: CHANNELS[number]})
        self._channel[rows] = channel
        told = channel != QUIET
        yield from self._encode_channels([self._told[row] for row in rows[told].tolist()], time_ns[told])

    def _encode_channels(self, targets: list[_Target], time_ns: I64, *, ends: bool = False) -> Iterator[Request]:
        if targets:
            resources, templates = [t.resource for t in targets], [t.template for t in targets]
            column = [(CHANNEL_METRIC, np.ones(len(targets)))]
            yield from encode_gauges(resources, templates, time_ns, column, scope=self._scope, ends=ends)

    def _end(self, rows: I32, event_ns: int) -> Iterator[Request]:
        """End what is emitted of rows; one body may say several times that a series ends."""
        rows = np.array([row for row in dict.fromkeys(rows.tolist()) if row in self._targets], np.int32)
        if not len(rows):
            return
        ones, times = np.ones(len(rows)), np.full(len(rows), event_ns, np.int64)
        yield from self._encode(rows, times, [(metric, ones) for metric in self._metrics.values()], ends=True)
        yield from self._tell_channels(rows, np.full(len(rows), QUIET, np.int16), times)
        for row in rows.tolist():
            del self._targets[row]
        self._emitted[rows] = False

    def _grow(self, rows: int) -> None:
        have = len(self._emitted)
        if rows > have:
            more = max(rows, 2 * have, 1024) - have
            self._emitted = np.append(self._emitted, np.zeros(more, bool))
            self._channel = np.append(self._channel, np.full(more, QUIET, np.int16))
            self._over_ns = np.append(self._over_ns, np.zeros(more, np.int64))
            self._service = np.append(self._service, np.zeros(more, np.int32))

    # -- services -----------------------------------------------------------------------------------------------------

    def _service_of(self, rows: I32) -> I32:
        """Numbers of the services of rows, from 1 on."""
        if len(rows):
            self._grow(int(rows.max()) + 1)
        for row in rows[self._service[rows] == 0].tolist():
            raw = self._table.source(row).stream.resource
            if raw not in self._numbers:
                found = dict(resource(raw))
                key = text(found.get(SERVICE)) or "unknown_service", text(found.get(SERVICE_NAMESPACE))
                self._numbers[raw] = self._services.setdefault(key, len(self._services) + 1)
            self._service[row] = self._numbers[raw]
        found_numbers: I32 = self._service[rows]
        return found_numbers

    # -- /metrics -----------------------------------------------------------------------------------------------------

    def _series_families(self) -> list[GaugeMetricFamily]:
        keys = sorted({name for target in self._targets.values() for name in scraped_labels(target.labels)})
        families = {f: GaugeMetricFamily(m.prometheus, m.description, labels=keys) for f, m in self._metrics.items()}
        for row, target in self._targets.items():
            latest: Any = self._watch.columns[row]
            shown = scraped_labels(target.labels)
            values = [shown.get(key, "") for key in keys]
            for field, family in families.items():
                value = float(latest["score"] >= 1) if field == "active" else float(latest[field])
                if value == value:
                    family.add_metric(values, value)
        keys.append(label_name(CHANNEL))
        info = GaugeMetricFamily(CHANNEL_METRIC.prometheus, CHANNEL_METRIC.description, labels=keys)
        for target in self._told.values():
            shown = scraped_labels(target.labels)
            info.add_metric([shown.get(key, "") for key in keys], 1.0)
        return [*families.values(), info]

    def _service_families(self, event_ns: int) -> list[GaugeMetricFamily]:
        services = self.services(event_ns)
        families: dict[str, GaugeMetricFamily] = {}
        for metric, values, reason in _service_columns(services):
            keys = ["job", *map(label_name, metric.attributes)]
            family = families.setdefault(
                metric.name, GaugeMetricFamily(metric.prometheus, metric.description, labels=keys)
            )
            for names, value in zip(services.names, values.tolist(), strict=True):
                if value == value:
                    job = "/".join(filter(None, (names.get(SERVICE_NAMESPACE), names[SERVICE])))
                    family.add_metric([job] if reason is None else [job, reason], value)
        return list(families.values())


class _Families(Collector):
    """What prometheus_client renders."""

    def __init__(self, families: list[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> list[GaugeMetricFamily]:
        return self._families


def _service_columns(services: Services) -> list[tuple[Metric, F64, str | None]]:
    """(metric, value for each service, reason), in the order of `SERVICE_METRICS`."""
    score, joint, anomalous, scored, warming, eta = SERVICE_METRICS
    return [
        (score, services.score, None),
        (joint, services.joint, None),
        (anomalous, services.anomalous, None),
        (scored, services.scored, None),
        *((warming, values, reason) for reason, values in services.warming.items()),
        (eta, services.eta_s, None),
    ]


def _service_attributes(name: str, namespace: str) -> dict[str, str]:
    return {SERVICE: name, SERVICE_NAMESPACE: namespace} if namespace else {SERVICE: name}
