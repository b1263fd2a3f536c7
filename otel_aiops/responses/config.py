"""What the configuration says of responses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from otel_aiops.errors import ConfigError
from otel_aiops.responses.annotation import GrafanaConfig
from otel_aiops.responses.command import CommandConfig
from otel_aiops.responses.http import HttpConfig
from otel_aiops.responses.issue import TrackerConfig
from otel_aiops.responses.notify import NotifyConfig
from otel_aiops.responses.playbook import Kind
from otel_aiops.responses.scale import ScalerConfig
from otel_aiops.responses.silence import AlertmanagerConfig
from otel_aiops.responses.webhook import WebhookConfig
from otel_aiops.responses.workflow import WorkflowConfig


@dataclass(frozen=True, slots=True)
class ResponsesConfig:
    """Whether something is done about incidents, by which playbooks, and to where."""

    enabled: bool = False  # do what playbooks say that are no dry run; otherwise everything is a dry run
    playbooks: str = ""  # a file, or a folder of *.yaml, with one playbook each
    interval: float = 0.5  # s between two looks at what is new
    late: float = 900.0  # s after a change of an incident that nothing is begun about it any more, as after an outage
    workers: int = 4  # steps that are done at the same time, and as many that tell people
    stop_file: str = ""  # while there is such a file nothing is done; without it, responses/stop in the data directory
    approvers: tuple[str, ...] = ()  # who may approve and refuse; none is everybody
    tell: str = ""  # name in `notify`: told of what waits for approval, and of steps that nobody else is told of
    prometheus: HttpConfig | None = None  # where queries of `verify` are asked
    notify: tuple[NotifyConfig, ...] = ()  # people and how they are told
    webhooks: tuple[WebhookConfig, ...] = ()  # addresses that are posted to
    commands: tuple[CommandConfig, ...] = ()  # the only commands that may be run

    scalers: tuple[ScalerConfig, ...] = ()  # what may be scaled
    alertmanagers: tuple[AlertmanagerConfig, ...] = ()  # where alerts may be silenced
    grafanas: tuple[GrafanaConfig, ...] = ()  # where incidents are drawn
    trackers: tuple[TrackerConfig, ...] = ()  # where issues are opened
    workflows: tuple[WorkflowConfig, ...] = ()  # the only workflows that may be started

    def __post_init__(self) -> None:
        if not 0 < self.interval <= 60:
            raise ConfigError("interval", f"must be in (0, 60] s, got {self.interval}")
        if not self.late > 0:
            raise ConfigError("late", f"must be > 0 s, got {self.late}")
        if not 1 <= self.workers <= 64:
            raise ConfigError("workers", f"must be 1 to 64, got {self.workers}")
        for key in KEYS.values():
            names = [one.name for one in getattr(self, key)]
            for name in names:
                if not name or names.count(name) > 1:
                    raise ConfigError(key, f"expected a name of its own for each, got {name!r}")
        if self.tell and self.tell not in [one.name for one in self.notify]:
            raise ConfigError("tell", f"expected a name of `notify`, got {self.tell!r}")

    def known(self) -> Mapping[Kind, Iterable[str]]:
        """The names that steps may use, by kind."""
        return {kind: [one.name for one in getattr(self, key)] for kind, key in KEYS.items()}


KEYS: Mapping[Kind, str] = {
    "notify": "notify",
    "webhook": "webhooks",
    "command": "commands",
    "scale": "scalers",
    "silence": "alertmanagers",
    "annotation": "grafanas",
    "issue": "trackers",
    "workflow": "workflows",
}
