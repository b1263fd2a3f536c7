"""Who does which kind of things, as a configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from otel_aiops.responses.annotation import Annotator
from otel_aiops.responses.command import Command
from otel_aiops.responses.config import ResponsesConfig
from otel_aiops.responses.issue import Issues
from otel_aiops.responses.notify import Notify
from otel_aiops.responses.order import Responder
from otel_aiops.responses.playbook import Kind
from otel_aiops.responses.scale import Scale
from otel_aiops.responses.silence import Silencer
from otel_aiops.responses.webhook import Webhook
from otel_aiops.responses.workflow import Workflows


def responders(config: ResponsesConfig, folder: Path) -> Mapping[Kind, Responder]:
    """By kind; `folder` is for what must be kept over the end of the service."""
    return {
        "notify": Notify(config.notify),
        "webhook": Webhook(config.webhooks),
        "command": Command(config.commands, folder / "commands"),
        "scale": Scale(config.scalers),
        "silence": Silencer(config.alertmanagers),
        "annotation": Annotator(config.grafanas),
        "issue": Issues(config.trackers),
        "workflow": Workflows(config.workflows),
    }
