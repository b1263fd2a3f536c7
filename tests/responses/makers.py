"""Incidents and playbooks that tests of responses share."""

from __future__ import annotations

from typing import Any

from otel_aiops.incidents.incident import Channel, Incident, Prediction, Severity, State, Suspect
from otel_aiops.responses.playbook import Playbook, read_playbook
from tests.incidents.makers import T0, S, finding

NOTIFY = {"kind": "notify", "use": "ops"}
COMMAND = {"kind": "command", "use": "restart"}


def incident(name: str = "i1", *, revision: int = 1, service: str = "cart", **more: Any) -> Incident:
    """An open incident of one service, which is its suspect."""
    suspect = Suspect(service=service, score=3.0, confidence=0.8, reason="most errors")
    known: dict[str, Any] = {
        "state": State.OPEN,
        "severity": Severity.WARNING,
        "title": f"{service} fails",
        "summary": f"{service} answers one request in three with an error",
        "services": (service,),
        "suspects": (suspect,),
        "findings": (finding(service, channel=Channel.ERRORS),),
    }
    return Incident(id=name, revision=revision, start_ns=T0, detected_ns=T0 + S, **{**known, **more})


def prediction(name: str = "p1", probability: float = 0.9, **more: Any) -> Incident:
    """A prediction that stands."""
    said = Prediction(
        what="exhaustion",
        probability=probability,
        horizon_s=3600,
        lead_s=1800,
        earliest_s=900,
        latest_s=2700,
        expires_ns=T0 + 3600 * S,
    )
    return incident(name, state=State.PREDICTED, prediction=said, **more)


def playbook(name: str = "heal", steps: list[dict[str, Any]] | None = None, **more: Any) -> Playbook:
    """One that runs a command, for real."""
    return read_playbook({"name": name, "dry_run": False, "steps": steps or [{"do": COMMAND}], **more})
