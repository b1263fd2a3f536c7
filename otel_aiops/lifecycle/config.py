"""What the configuration says of the lifecycle."""

from __future__ import annotations

from dataclasses import dataclass, field

from otel_aiops.lifecycle.evaluate import EvaluationConfig
from otel_aiops.lifecycle.gate import GateConfig
from otel_aiops.lifecycle.health import MonitoringConfig
from otel_aiops.lifecycle.judge import RolloutConfig
from otel_aiops.lifecycle.needs import RetrainConfig
from otel_aiops.lifecycle.registry import RegistryConfig
from otel_aiops.lifecycle.version import FamilyName


@dataclass(frozen=True, slots=True)
class LifecycleConfig:
    """Where the lifecycle finds what people want of it."""

    families: tuple[FamilyName, ...] = ()  # beside the engine in new versions: forest, forecast
    objectives: str = ""  # a file, or a folder of *.yaml, with one objective each; every one has its alert budget
    rollout: RolloutConfig = field(default_factory=RolloutConfig)  # how a challenger becomes the champion
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    retrain: RetrainConfig = field(default_factory=RetrainConfig)
    monitoring: MonitoringConfig = field(default_factory=MonitoringConfig)
