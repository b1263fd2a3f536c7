"""Incidents and predictions as tests need them."""

from __future__ import annotations

from typing import Any

from otel_aiops.incidents.incident import Incident, Prediction, Severity, State, Suspect

S = 1_000_000_000
T0 = 1_767_614_400 * S


def suspect(service: str = "db", confidence: float = 0.8) -> Suspect:
    return Suspect(service=service, score=9.0, confidence=confidence, reason=f"{service} is slow")


def incident(revision: int = 1, state: State = State.OPEN, **more: Any) -> Incident:
    """One of pay, opened ten seconds after it began."""
    about: dict[str, Any] = {"severity": Severity.WARNING, "suspects": (suspect(),), "services": ("pay",)}
    about |= {"title": "pay is slow", "summary": "pay is slow, because of db.", **more}
    return Incident(id="i1", revision=revision, state=state, start_ns=T0, detected_ns=T0 + 10 * S, **about)


def prediction(outcome: str = "", revision: int = 1, name: str = "p-1") -> Incident:
    """The disk of db will be full."""
    state = {"": State.PREDICTED, "hit": State.RESOLVED, "miss": State.EXPIRED}[outcome]
    said = Prediction(
        what="exhaustion",
        probability=0.8,
        horizon_s=86_400.0,
        lead_s=7_200.0,
        earliest_s=3_600.0,
        latest_s=10_800.0,
        expires_ns=T0 + 20_000 * S,
        outcome=outcome,
    )
    return Incident(
        id=name,
        revision=revision,
        state=state,
        severity=Severity.WARNING,
        start_ns=T0,
        detected_ns=T0,
        end_ns=T0 + 6_000 * S if outcome else 0,
        title="Disk of db runs out",
        summary="The disk of db is full in 2 h.",
        services=("db",),
        prediction=said,
    )
