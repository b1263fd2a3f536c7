"""The configuration file: YAML in the Collector's words to checked values, with the key path in every error."""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

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
from otel_aiops.lifecycle.dataset import DatasetConfig
from otel_aiops.otlp.governance import GovernanceConfig
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.align import AlignConfig
from otel_aiops.series.disk import StorageConfig
from otel_aiops.series.table import TableConfig
from otel_aiops.server import endpoint
from otel_aiops.server.auth import AuthConfig
from otel_aiops.server.emit import EmitConfig
from otel_aiops.server.exporter import ExporterConfig
from otel_aiops.server.forecasts import ForecastRule
from otel_aiops.server.receiver import GrpcConfig, HttpConfig
from otel_aiops.server.telemetry import TelemetryConfig
from otel_aiops.server.tls import TlsConfig


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
    max_request_body_size: int = 64 << 20  # bytes of the largest body, before and after decompression

    def __post_init__(self) -> None:
        endpoint.check(self.endpoint)
        if not 1 <= self.max_request_body_size <= 2047 << 20:
            raise ConfigError("max_request_body_size", f"must be 1 B to 2047 MiB, got {self.max_request_body_size}")


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
    datasets: DatasetConfig = field(default_factory=DatasetConfig)
    selftest: SelfTestConfig = field(default_factory=SelfTestConfig)
    emit: EmitConfig = field(default_factory=EmitConfig)
    forecast: tuple[ForecastRule, ...] = ()  # which series are forecast, for how long and up to which limit
    governance: GovernanceConfig = field(default_factory=GovernanceConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    service: ServiceConfig = field(default_factory=ServiceConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)

    def __post_init__(self) -> None:
        check_budgets(self.budgets, self.budget)

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
            budgets=self.budgets,
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


class ConfigErrors(ConfigError):
    """All that is wrong with a file, one error a line."""

    def __init__(self, errors: list[ConfigError]) -> None:
        super().__init__("", "\n".join(str(error) for error in errors))
        self.errors = errors


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Loaded:
    """Read and check a file; ConfigError names the file, the key path, what was expected and what came."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("", f"cannot read {path}: {error}") from error
    return parse(text, environment)


def parse(text: str, environment: Mapping[str, str] = os.environ) -> Loaded:
    """Check the text of a file."""
    try:
        tree = yaml.load(text, Loader=UniqueKeys)
    except yaml.YAMLError as error:
        raise ConfigError("", f"not valid YAML: {error}") from error
    warnings: list[str] = []
    tree = _expand(tree, environment, "", warnings)
    if tree is None:
        return Loaded(Config(), tuple(warnings))
    try:
        return Loaded(_SCHEMA.validate_python(_units(tree, Config)), tuple(warnings))
    except ValidationError as error:
        raise ConfigErrors([_explain(detail) for detail in error.errors()]) from error


def duration(text: str) -> float:
    """Seconds in a text such as "1m30s" or "90". Raises: ConfigError."""
    try:
        return float(text)
    except ValueError:
        seconds = _seconds(text)
    if seconds is None:
        raise ConfigError("", f"expected a duration such as 90s, 15m or 14d, got {text!r}")
    return seconds


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, not a silent choice of the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"expected a text key, got {key!r}", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_VARIABLE = re.compile(r"\$\$|\$\{(?:env:)?([^}:]*)(:-([^}]*))?\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _expand(tree: Any, environment: Mapping[str, str], path: str, warnings: list[str]) -> Any:
    """Fill in ``${env:NAME}``, ``${env:NAME:-default}`` and ``$$`` after parsing, as the Collector does.

    A scalar that is one variable takes the YAML type of its text (a port stays a number), and text that comes from
    the environment can never add keys.
    """
    if isinstance(tree, dict):
        return {key: _expand(value, environment, f"{path}.{key}", warnings) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_expand(value, environment, f"{path}.{i}", warnings) for i, value in enumerate(tree)]
    if not isinstance(tree, str) or "$" not in tree:
        return tree

    def value_of(match: re.Match[str]) -> str:
        if match.group() == "$$":
            return "$"
        name, default = match.group(1), match.group(3)
        if not _NAME.fullmatch(name):
            raise ConfigError(path.lstrip("."), f"expected ${{env:NAME}}, got {match.group()!r}")
        if name not in environment and default is None:
            warnings.append(f"{path.lstrip('.')}: environment variable {name} is not set, used as empty")
        return environment.get(name) or default or ""

    filled = _VARIABLE.sub(value_of, tree)
    whole = _VARIABLE.fullmatch(tree)
    if whole and whole.group() != "$$":
        scalar = yaml.safe_load(filled) if filled else None
        return filled if isinstance(scalar, dict | list) else scalar
    return filled


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d|w)")
_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
}
_SIZE = re.compile(r"(\d+)\s*(KiB|MiB|GiB|TiB)")
_BYTES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def _units(tree: Any, schema: Any) -> Any:
    """Turn "1m30s" into 90.0 where a float is expected and "64MiB" into bytes where an int is."""
    inner = _dataclass_in(schema)
    if typing.get_origin(schema) is tuple and inner is not None:  # a list of settings
        return [_units(one, inner) for one in tree] if isinstance(tree, list) else () if tree is None else tree
    if tree is None and inner is not None:
        tree = {}  # a key with nothing behind it is there, with its defaults, as in the Collector
    if isinstance(tree, dict) and inner is not None:
        hints = typing.get_type_hints(inner)
        return {key: _units(value, hints.get(key)) for key, value in tree.items()}
    if not isinstance(tree, str):
        return tree
    accepted = {schema, *typing.get_args(schema)}
    seconds = _seconds(tree) if float in accepted else None
    if seconds is not None:
        return seconds
    size = _SIZE.fullmatch(tree)
    if int in accepted and size:
        return int(size[1]) * _BYTES[size[2]]
    return tree


def _seconds(text: str) -> float | None:
    """The seconds of a Go duration, None when it is none."""
    if not text or _DURATION.sub("", text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass in a type such as `TlsConfig | None`, or None."""
    for candidate in (hint, *typing.get_args(hint)):
        if isinstance(candidate, type) and dataclasses.is_dataclass(candidate):
            return candidate
    return None


_WORDS = {
    "unexpected_keyword_argument": "is not a known key",
    "dataclass_type": "expected a mapping of keys",
    "dataclass_exact_type": "expected a mapping of keys",
}


def _explain(detail: Any) -> ConfigError:
    """One error of the schema in our words: key path, what was expected, what came."""
    path = ".".join(str(part) for part in detail["loc"] if not str(part).startswith("function-"))
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return ConfigError(f"{path}.{cause.path}".strip("."), cause.message)
    if detail["type"] == "unexpected_keyword_argument":
        return ConfigError(path, f"is not a known key{_suggest(detail['loc'])}")
    message = _WORDS.get(detail["type"]) or detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if message == detail["msg"].removeprefix("Input should be "):
        message = f"expected {message}" if detail["msg"].startswith("Input should be ") else message
    return ConfigError(path, f"{message}, got {detail['input']!r}")


def _suggest(location: tuple[Any, ...]) -> str:
    """The keys that are known at this place, for someone who mistyped one."""
    schema: type | None = Config
    for part in location[:-1]:
        if schema is None or part not in (hints := typing.get_type_hints(schema)):
            return ""
        schema = _dataclass_in(hints[part])
    return f"; known here: {', '.join(sorted(f.name for f in dataclasses.fields(schema)))}" if schema else ""


def _strict(schema: type) -> None:
    """Make unknown keys an error in a dataclass of settings and in all inside it."""
    schema.__pydantic_config__ = ConfigDict(extra="forbid", strict=False)  # type: ignore[attr-defined]
    for hint in typing.get_type_hints(schema).values():
        inner = _dataclass_in(hint)
        if inner is not None:
            _strict(inner)


_strict(Config)
_SCHEMA: TypeAdapter[Config] = TypeAdapter(Config)
