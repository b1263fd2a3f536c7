"""Incidents as plain values for lists and histories: their lines without what only one of them needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from otel_aiops.detect.lessons import Verdict
from otel_aiops.incidents.codec import to_line
from otel_aiops.incidents.incident import Incident
from otel_aiops.incidents.suppress import Decision

_LONG = ("findings", "more_findings", "timeline")
_OF_REVISION = ("revision", "state", "severity", "services", "suspects", "users", "slo_burn", "suppressed_by")
_ALIKE = ("id", "title", "start", "end", "severity", "state", "services")


def brief(incident: Incident) -> dict[str, Any]:
    """The line of an incident in a list: without findings, timeline and evidence."""
    suspects = tuple(replace(suspect, evidence=()) for suspect in incident.suspects)
    line = to_line(replace(incident, findings=(), timeline=(), suspects=suspects))
    for suspect in line["suspects"]:
        del suspect["evidence"]
    return {key: value for key, value in line.items() if key not in _LONG}


def revision(event_ns: int, incident: Incident) -> dict[str, Any]:
    """What an incident was at an event time."""
    line = brief(incident)
    return {"time": event_ns / 1e9, **{key: line[key] for key in _OF_REVISION}}


def alike(incident: Incident) -> dict[str, Any]:
    """What to know of a similar incident before one looks at it."""
    line = brief(incident)
    cause = incident.suspects[0] if incident.suspects else None
    told = {"suspect": cause.service, "reason": cause.reason} if cause else {"suspect": None, "reason": None}
    return {key: line[key] for key in _ALIKE} | told


def decided(decision: Decision) -> dict[str, Any]:
    """Who decided what of an incident, and why."""
    told = {"action": str(decision.action), "who": decision.who, "why": decision.why}
    return {"time": decision.time_ns / 1e9, **told}


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody said of an incident: one verdict, however many series it is about."""

    verdict: str
    who: str
    why: str
    of: str
    given: float


def judged(verdict: Verdict) -> Said:
    """A verdict of one series as one of the incident that it was said of."""
    return Said(verdict.kind, verdict.by, verdict.note, verdict.of, verdict.given_ns / 1e9)
