"""The configuration file: YAML in the Collector's words to checked values, with the key path in every error."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from otel_aiops.detect.budget import BudgetConfig, check_budgets
from otel_aiops.detect.calendar import CalendarConfig
from otel_aiops.detect.engine import EngineConfig
from otel_aiops.detect.jobs import JobsConfig
from otel_aiops.detect.joint import JointConfig
from otel_aiops.detect.peers import PeersConfig
from otel_aiops.detect.policy import PolicyConfig
from otel_aiops.detect.selftest import SelfTestConfig
from otel_aiops.errors import ConfigError
from otel_aiops.incidents.analysis import AnalysisConfig
from otel_aiops.incidents.journal import JournalConfig
from otel_aiops.lifecycle.config import LifecycleConfig
from otel_aiops.lifecycle.dataset import DatasetConfig
from otel_aiops.lifecycle.objective import Objective, check_names, load_objectives
from otel_aiops.otlp.governance import GovernanceConfig
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.responses.alertmanager import AlertmanagersConfig
from otel_aiops.responses.config import ResponsesConfig
from otel_aiops.responses.playbook import Playbook, check_playbooks, load_playbooks
from otel_aiops.series.align import AlignConfig
from otel_aiops.series.disk import AuditConfig, StorageConfig
from otel_aiops.series.table import TableConfig
from otel_aiops.server import endpoint
from otel_aiops.server.access import AccessConfig
from otel_aiops.server.auth import AuthConfig
from otel_aiops.server.emit import EmitConfig
from otel_aiops.server.exporter import ExporterConfig
from otel_aiops.server.forecasts import ForecastRule
from otel_aiops.server.receiver import GrpcConfig, HttpConfig
from otel_aiops.server.telemetry import TelemetryConfig
from otel_aiops.server.tls import TlsConfig
from otel_aiops.server.webhook_api import WebhooksConfig
from otel_aiops.settings import ConfigErrors as ConfigErrors
from otel_aiops.settings import Schema, read_text, read_yaml
from otel_aiops.settings import duration as duration


@dataclass(frozen=True, slots=True)
class Protocols:
    """Which protocols are served; one that is not listed is off, and with none listed both are on."""

    grpc: GrpcConfig | None = None
    http: HttpConfig | None = None


@dataclass(frozen=True, slots=True)
class OtlpReceiver:
    """The OTLP receiver."""

    protocols: Protocols = field(default_factory=lambda: Protocols(GrpcConfig(), HttpConfig()))


@dataclass(frozen=True, slots=True)
class Receivers:
    """Where telemetry comes in."""

    otlp: OtlpReceiver = field(default_factory=OtlpReceiver)


@dataclass(frozen=True, slots=True)
class Exporters:
    """Where scores go; `/metrics` of the API always has them."""

    otlp: ExporterConfig | None = None


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """The API, the health checks and `/metrics`."""

    endpoint: str = "localhost:9464"  # host:port to listen on; :9464 is every address of the machine
    tls: TlsConfig | None = None
    auth: AuthConfig | None = None
    access: AccessConfig | None = None
    hosts: tuple[str, ...] = ()  # names by which it is asked, besides localhost and addresses; others are refused
    webhooks: WebhooksConfig = field(default_factory=WebhooksConfig)
    max_request_body_size: int = 64 << 20  # bytes of the largest body, before and after decompression

    def __post_init__(self) -> None:
        endpoint.check(self.endpoint)
        certified = self.tls is not None and bool(self.tls.client_ca_file)
        if not (self.auth or self.access or certified or endpoint.loopback(self.endpoint)):
            expected = "expected access, auth or tls.client_ca_file beside it, or an address of loopback"
            who = "everybody who reaches it could do everything"
            raise ConfigError("endpoint", f"{expected} such as localhost:9464, got {self.endpoint!r}: {who}")
        if self.access and self.access.certificates and not certified:
            raise ConfigError("access.certificates", "expected tls.client_ca_file, by which they are known")
        if self.access and self.access.users and not (self.auth and self.auth.basicauth):
            raise ConfigError("access.users", "expected auth.basicauth, which knows their passwords")
        if not 1 <= self.max_request_body_size <= 2047 << 20:
            raise ConfigError("max_request_body_size", f"must be 1 B to 2047 MiB, got {self.max_request_body_size}")

    def known_hosts(self) -> tuple[str, ...] | None:
        """All names that it answers to, besides localhost; None is any, where nothing is at stake.

        Beyond loopback a browser shows what somebody signed in with only under the name at which that was.
        """
        host = endpoint.split(self.endpoint)[0].lower()
        if not self.hosts and not endpoint.loopback(self.endpoint):
            return None
        return tuple({one.lower() for one in (*self.hosts, host) if one})


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """How the process itself behaves."""

    snapshot_interval: float = 300.0  # how often what was learned is saved; a restart replays what came after
    tick_interval: float = 5.0  # when no data comes for so long, time passes without it, so that silence is noticed
    shutdown_timeout: float = 30.0  # for requests in progress, and then for what waits to be scored

    def __post_init__(self) -> None:
        for name in ("snapshot_interval", "tick_interval", "shutdown_timeout"):
            if getattr(self, name) <= 0:
                raise ConfigError(name, f"must be > 0 s, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file. Every key has a default: an empty file, or none, is a working configuration."""

    receivers: Receivers = field(default_factory=Receivers)
    exporters: Exporters = field(default_factory=Exporters)
    api: ApiConfig = field(default_factory=ApiConfig)
    series: TableConfig = field(default_factory=TableConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    detection: EngineConfig = field(default_factory=EngineConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    peers: PeersConfig = field(default_factory=PeersConfig)
    jobs: JobsConfig = field(default_factory=JobsConfig)
    incidents: AnalysisConfig = field(default_factory=AnalysisConfig)
    journal: JournalConfig = field(default_factory=JournalConfig)
    policies: tuple[PolicyConfig, ...] = ()  # what counts as an anomaly, by series; a later one wins
    calendar: tuple[CalendarConfig, ...] = ()  # clocks and special days, by series; the first that matches holds
    budget: str | float = "1/day"  # alerts of all series that `budgets` leave: 2/week, 1/day, or a number a week
    budgets: tuple[BudgetConfig, ...] = ()  # how many alerts objectives or teams want; the first that matches holds
    objectives: tuple[Objective, ...] = ()  # what teams want; each has its budget, behind those of `budgets`
    lifecycle: LifecycleConfig = field(default_factory=LifecycleConfig)
    datasets: DatasetConfig = field(default_factory=DatasetConfig)
    responses: ResponsesConfig = field(default_factory=ResponsesConfig)
    alertmanager: AlertmanagersConfig = field(default_factory=AlertmanagersConfig)
    playbooks: tuple[Playbook, ...] = ()  # what is done about incidents, besides those of `responses.playbooks`
    selftest: SelfTestConfig = field(default_factory=SelfTestConfig)
    emit: EmitConfig = field(default_factory=EmitConfig)
    forecast: tuple[ForecastRule, ...] = ()  # which series are forecast, for how long and up to which limit
    governance: GovernanceConfig = field(default_factory=GovernanceConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    service: ServiceConfig = field(default_factory=ServiceConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)

    def __post_init__(self) -> None:
        check_budgets(self.budgets, self.budget)
        check_names(self.objectives, self.budgets)
        check_playbooks(self.playbooks, self.responses.known(), promql=self.responses.prometheus is not None)

    def pipeline(self) -> PipelineConfig:
        """The part that decides scores."""
        return PipelineConfig(
            series=self.series,
            align=self.align,
            detection=self.detection,
            policies=self.policies,
            calendar=self.calendar,
            joint=self.joint,
            peers=self.peers,
            budget=self.budget,
            budgets=(*self.budgets, *(objective.alert_budget() for objective in self.objectives)),
            jobs=self.jobs,
            analysis=self.incidents,
        )

    def body_limit_bytes(self) -> int:
        """The largest body after decompression that any receiver takes."""
        protocols = self.receivers.otlp.protocols
        limits = [self.api.max_request_body_size]
        if protocols.grpc:
            limits.append(protocols.grpc.limit_bytes)
        if protocols.http:
            limits.append(protocols.http.max_request_body_size)
        return max(limits)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checked configuration, and what an operator should know about it although it works."""

    config: Config
    warnings: tuple[str, ...] = ()


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Loaded:
    """Read and check a file; ConfigError names the file, the key path, what was expected and what came."""
    return parse(read_text(path), environment)


def parse(text: str, environment: Mapping[str, str] = os.environ) -> Loaded:
    """Check the text of a file."""
    tree, warnings = read_yaml(text, environment)
    try:
        config = _SCHEMA.read(tree)
    except ConfigErrors as error:  # a variable that is not set is often why
        raise ConfigErrors([*error.errors, *(ConfigError("", one) for one in warnings)]) from error
    _SCHEMA.refuse_secrets(text)
    if config.lifecycle.objectives:
        found = load_objectives(Path(config.lifecycle.objectives))
        config = replace(config, objectives=(*config.objectives, *found))
    if config.responses.playbooks:
        loaded = load_playbooks(Path(config.responses.playbooks))
        config = replace(config, playbooks=(*config.playbooks, *loaded))
    return Loaded(config, warnings)


_SCHEMA = Schema(Config)
