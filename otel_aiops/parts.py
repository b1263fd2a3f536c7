"""The parts of a running service that face the world: receiver, API, exporter, emitter, own telemetry."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from otel_aiops.config import Config
from otel_aiops.desk import Desk
from otel_aiops.desk.events import IncidentEvents
from otel_aiops.desk.metrics import IncidentMetrics
from otel_aiops.errors import AiopsError, ConfigError
from otel_aiops.forecaster import Forecaster
from otel_aiops.otlp.encode_events import encode_events
from otel_aiops.otlp.semconv import SERVICE
from otel_aiops.pipeline import Step
from otel_aiops.server import api
from otel_aiops.server.access import Access
from otel_aiops.server.emit import EmitConfig, Emitter
from otel_aiops.server.exporter import Exporter, ExporterConfig
from otel_aiops.server.forecasts import families_of, requests_of
from otel_aiops.server.http_server import HttpServer
from otel_aiops.server.intake import ReceiverStats
from otel_aiops.server.logs import configure_logging
from otel_aiops.server.receiver import Receiver
from otel_aiops.server.telemetry import OwnExport, start_export
from otel_aiops.views import Views

if TYPE_CHECKING:
    from otel_aiops.app import Service

COUNT_INTERVAL_S = 1.0  # how often the counts of other parts become metrics
QUALITY_INTERVAL_S = 10.0  # how often the quality of data is told
WORST_INTERVAL_S = 60.0  # how often the metric with most series is looked for while the table is full
EXPORT_STOP_S = 5.0

LOG_COUNTS = {
    "appended": "otel_aiops.log.appended",
    "appended_bytes": "otel_aiops.log.bytes",
    "syncs": "otel_aiops.log.syncs",
    "refused_disk": "otel_aiops.log.refused",
    "torn": "otel_aiops.log.torn",
    "corrupt": "otel_aiops.log.corrupt",
    "rows": "otel_aiops.segment.rows",
}

BUDGET_GAUGES = (
    "budget.wanted",
    "budget.actual",
    "budget.projected",
    "budget.threshold",
    "budget.series",
    "alerts.active",
)
QUALITY_GAUGES = ("otel_aiops.quality.series", "otel_aiops.quality.late", "otel_aiops.quality.clock_skew")


class Parts:
    """Built whole or not at all. `emit` and `look_after` belong to the step loop, the rest to the main thread."""

    def __init__(self, service: Service, config: Config) -> None:
        self._service = service
        self._config = config
        self._receiver = _receiver(service, config)
        self._access = _access(service, config)
        self._api = _api(service, config, self._access)
        self._exporter = _exporter(service, config.exporters.otlp)
        self._own: OwnExport | None = start_export(service.telemetry, config.telemetry.metrics)
        self._emitter = self._new_emitter(config.emit)
        self._forecaster = Forecaster(service, config.forecast)
        self._counted: Counter[tuple[str, ...]] = Counter()
        self._counts_due_s = 0.0
        self._worst_due_s = 0.0
        self._quality_due_s = 0.0
        self._services_due_ns = 0
        self._incidents = IncidentMetrics(service)
        known = service.pipeline.analysis.incidents
        self._events = IncidentEvents((*known.open(), *known.predicted()))
        self._watch_gauges()

    # -- life -----------------------------------------------------------------------------------------------------

    def bind(self) -> None:
        """Take all ports. Raises ConfigError."""
        self._api.bind()
        self._receiver.bind()

    def start(self) -> None:
        """Open the doors."""
        if self._exporter:
            self._exporter.start()
        self._api.start()
        self._receiver.start()
        self._forecaster.start()

    def stop_receiving(self, grace_s: float) -> None:
        """Take no more telemetry; requests in progress end first."""
        self._receiver.stop(grace_s)

    def stop(self) -> None:
        """Send what waits, and close."""
        self._forecaster.stop()
        if self._exporter:
            self._exporter.stop(EXPORT_STOP_S)
        if self._own:
            self._own.stop(EXPORT_STOP_S)
        self._api.stop(1.0)
        self._access.tokens.flush()

    def endpoints(self) -> dict[str, str]:
        """Where everything listens, for a log line."""
        ports = {f"otlp_{name}": f"localhost:{port}" for name, port in self._receiver.ports.items()}
        scheme = "https" if self._config.api.tls else "http"
        address = f"{scheme}://localhost:{self._api.port}"
        return {**ports, "api": address, "page": f"{address}/"}

    def reload(self, config: Config) -> None:
        """Build what changed anew, then swap. Raises ConfigError, and then everything is as it was."""
        old = self._config
        exporter, own = self._exporter, self._own
        if config.exporters != old.exporters:
            exporter = _exporter(self._service, config.exporters.otlp)
        self._swap_servers(old, config)
        if config.telemetry != old.telemetry:
            configure_logging(config.telemetry.logs)
            if own:
                own.stop(EXPORT_STOP_S)
            self._own = start_export(self._service.telemetry, config.telemetry.metrics)
        if exporter is not self._exporter:
            before, self._exporter = self._exporter, exporter
            if exporter:
                exporter.start()
            if before:
                before.stop(EXPORT_STOP_S)
        if config.forecast != old.forecast:
            self._forecaster.stop()
            self._forecaster = Forecaster(self._service, config.forecast)
            self._forecaster.start()
        if config.emit != old.emit:
            self._service.ask(lambda: self.renew_emitter(config.emit))
        self._config = config

    def _swap_servers(self, old: Config, config: Config) -> None:
        """New receiver and API where they changed. The old ones give up their ports first; senders try again."""
        receiver = _receiver(self._service, config) if config.receivers != old.receivers else None
        access = _access(self._service, config) if config.api != old.api else None
        api_server = _api(self._service, config, access) if access else None
        grace_s = config.service.shutdown_timeout
        try:
            if receiver:
                self._receiver.stop(grace_s)
                receiver.bind()
                receiver.start()
                self._receiver = receiver
            if api_server and access:
                self._api.stop(1.0)
                api_server.bind()
                api_server.start()
                self._api, self._access = api_server, access
        except AiopsError:
            self._restore_servers(old, receiver=receiver is not None, api_server=api_server is not None)
            raise

    def _restore_servers(self, old: Config, *, receiver: bool, api_server: bool) -> None:
        """Serve again as before a failed reload."""
        if receiver:
            self._receiver.stop(0.0)
            self._receiver = _receiver(self._service, old)
            self._receiver.bind()
            self._receiver.start()
        if api_server:
            self._api.stop(0.0)
            self._api = _api(self._service, old, self._access)
            self._api.bind()
            self._api.start()

    # -- in the step loop -------------------------------------------------------------------------------------------

    def emit(self, step: Step) -> None:
        """Send the scores of a step, and count its incidents."""
        self._incidents.tell(step.incidents)
        events = self._events.of(step.incidents, step.event_ns)
        if self._exporter:
            self._exporter.send(self._emitter.step(step))
            if events and self._emitter.config.incidents:
                self._exporter.send([encode_events(events, observed_ns=self._service.clock_ns())])
        else:
            for _ in self._emitter.step(step):  # chooses what /metrics shows
                pass

    def look_after(self, event_ns: int) -> None:
        """What is due by time: scores of services, ends, counts."""
        now_s = time.monotonic()
        if now_s < self._counts_due_s:
            return
        self._counts_due_s = now_s + COUNT_INTERVAL_S
        self._count()
        requests = list(self._emitter.expire(event_ns))
        if event_ns >= self._services_due_ns:
            self._services_due_ns = event_ns + int(self._config.emit.interval * 1e9)
            if self._exporter:
                requests += self._emitter.service_requests(event_ns)
        for found in self._forecaster.take():
            if self._exporter:
                requests += requests_of(found, event_ns)
        if self._exporter and requests:
            self._exporter.send(requests)

    def renew_emitter(self, config: EmitConfig | None = None) -> None:
        """Choose and encode anew, after the pipeline or the configuration changed."""
        self._emitter = self._new_emitter(config or self._config.emit)

    def exposition(self, event_ns: int) -> bytes:
        """The scores on /metrics."""
        return self._emitter.render(event_ns, families_of(self._forecaster.shown))

    def _new_emitter(self, config: EmitConfig) -> Emitter:
        return Emitter(config, self._service.pipeline.table, self._service.watch)

    # -- counts -----------------------------------------------------------------------------------------------------

    def _watch_gauges(self) -> None:
        service, telemetry = self._service, self._service.telemetry
        telemetry.watch("otel_aiops.series.active", lambda: len(service.pipeline.table))
        telemetry.watch("otel_aiops.series.limit", lambda: service.config.series.max_series)
        telemetry.watch("otel_aiops.step.queue.size", lambda: service.history.stats()["queue_bodies"])
        telemetry.watch("otel_aiops.step.queue.bytes", lambda: service.history.stats()["queue_bytes"])
        telemetry.watch("otel_aiops.step.queue.capacity", lambda: service.config.storage.queue_bodies)

    def _count(self) -> None:
        """Turn the counts of receiver, log and emitter into metrics."""
        for stats in self._receiver.stats():
            self._count_receiver(stats)
        for name, number in self._service.history.stats().items():
            if name in LOG_COUNTS:
                self._advance(LOG_COUNTS[name], number)
        self._advance("otel_aiops.emit.overflow", self._emitter.overflow)
        for action, number in self._service.ingest.governance.counts.items():
            self._advance("otel_aiops.governance.attributes", number, action=action)
        self._count_budgets()
        self._count_quality()
        self._incidents.count(self._advance)
        self._name_worst()

    def _count_budgets(self) -> None:
        """Budget against actual of every objective; one that the configuration has no more is not shown."""
        alerting, telemetry = self._service.pipeline.alerting, self._service.telemetry
        of_rows = Counter(alerting.budget.objective(one.row)[0] for one in alerting.ledger.active())
        gauges: dict[str, dict[tuple[str, ...], float]] = {f"otel_aiops.{name}": {} for name in BUDGET_GAUGES}
        for report in alerting.budget.reports():
            numbers = (report.budget, report.actual, report.projected, report.threshold, report.series)
            for name, number in zip(gauges, (*numbers, of_rows[report.name]), strict=True):
                gauges[name][report.name,] = number
            self._advance("otel_aiops.alerts.opened", report.alerts, objective=report.name)
        for name, by_objective in gauges.items():
            telemetry.replace_all(name, by_objective)

    def _count_quality(self) -> None:
        """What the stream of every service is like."""
        now_s = time.monotonic()
        if now_s < self._quality_due_s:
            return
        self._quality_due_s = now_s + QUALITY_INTERVAL_S
        gauges: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in QUALITY_GAUGES}
        for one in self._service.pipeline.quality.report():
            for name, number in zip(gauges, (one.series, one.late_ratio, one.skew_s), strict=True):
                if number == number:
                    gauges[name][one.service,] = number
            self._advance("otel_aiops.quality.points", one.points, **{SERVICE: one.service})
            for problem, number in one.problems.items():
                self._advance("otel_aiops.quality.problems", number, **{SERVICE: one.service, "problem": problem})
        for name, by_service in gauges.items():
            self._service.telemetry.replace_all(name, by_service)

    def _count_receiver(self, stats: ReceiverStats) -> None:
        outcomes = {"accepted": stats.accepted, "refused": stats.refused, "failed": stats.failed}
        for outcome, counts in outcomes.items():
            for (signal, transport), number in counts.items():
                name = f"otel_aiops_receiver_{outcome}_{signal.items}"
                self._advance(name, number, receiver="otlp", transport=transport)
        for (_, transport, outcome), number in stats.requests.items():
            attributes = {"receiver": "otlp", "transport": transport, "outcome": outcome}
            self._advance("otel_aiops_receiver_requests", number, **attributes)

    def _advance(self, name: str, number: float, **attributes: str) -> None:
        """Add what has come since the last time; a part that was built anew counts from zero again."""
        key = (name, *attributes.values())
        before = self._counted[key]
        self._counted[key] = int(number)
        more = number - before if number >= before else number
        if more > 0:
            self._service.telemetry.add(name, more, **attributes)

    def _name_worst(self) -> None:
        """While the table is full, say which metric and attribute fill it."""
        now_s, table = time.monotonic(), self._service.pipeline.table
        full = self._service.telemetry.value("otel_aiops.series.refused") > 0
        if not full or now_s < self._worst_due_s:
            return
        self._worst_due_s = now_s + WORST_INTERVAL_S
        found = table.cardinality()
        if found.refused:
            self._service.telemetry.replace(
                "otel_aiops.series.worst", found.metric_series, metric=found.metric, attribute=found.attribute
            )
            self._service.warn_of(found)


def _receiver(service: Service, config: Config) -> Receiver:
    protocols = config.receivers.otlp.protocols
    return Receiver(protocols.grpc, protocols.http, service.ingest.accept)


def _access(service: Service, config: Config) -> Access:
    return Access(
        config.api.access,
        config.api.auth,
        service.directory,
        certificates=config.api.tls is not None and bool(config.api.tls.client_ca_file),
        refused=lambda reason: service.telemetry.add("otel_aiops.access.refused", reason=reason),
    )


def _api(service: Service, config: Config, access: Access) -> HttpServer:
    views, closing = Views(service), threading.Event()
    desk, most, hooks = Desk(service, views.alone), config.api.max_request_body_size, config.api.webhooks
    hosts = config.api.known_hosts()
    application: Any = api.build(views, desk, access, most, closing=closing, webhooks=hooks, hosts=hosts)
    return HttpServer(application, config.api.endpoint, config.api.tls, path="api", closing=closing)


def _exporter(service: Service, config: ExporterConfig | None) -> Exporter | None:
    try:
        return Exporter(config, service.telemetry) if config else None
    except ConfigError as error:
        raise ConfigError(f"exporters.otlp.{error.path}".rstrip("."), error.message) from error
