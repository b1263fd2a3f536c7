"""Events of incidents: which new revisions matter to others, in the words of OTLP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from otel_aiops.incidents.incident import Incident, Severity, State
from otel_aiops.otlp.encode_events import Event
from otel_aiops.otlp.semconv import INCIDENT_EVENTS, INCIDENT_ID

MOST_REMEMBERED = 20_000
SEVERITIES = {Severity.INFO: 9, Severity.WARNING: 13, Severity.CRITICAL: 17}
BY_STATE = {
    State.ACKNOWLEDGED: "acknowledged",
    State.RESOLVED: "resolved",
    State.MERGED: "merged",
    State.OPEN: "reopened",
}


class IncidentEvents:
    """Compares each revision with the one before. `known` are the incidents that were told of already."""

    def __init__(self, known: Iterable[Incident]) -> None:
        self._known = {one.id: _seen(one) for one in known}

    def of(self, incidents: Iterable[Incident], event_ns: int) -> list[Event]:
        """What new revisions say that matters."""
        return [_event(kind, one, event_ns) for one in incidents for kind in self._kinds(one)]

    def _kinds(self, one: Incident) -> list[str]:
        before, now = self._known.pop(one.id, None), _seen(one)
        self._known[one.id] = now
        while len(self._known) > MOST_REMEMBERED:
            del self._known[next(iter(self._known))]
        if one.prediction is not None:
            return _of_prediction(one, new=before is None)
        return ["opened"] if before is None and one.revision == 1 else list(_changes(before or now, now, one))


def _seen(one: Incident) -> tuple[State, Severity, str, str]:
    """What is compared."""
    return one.state, one.severity, one.suspects[0].service if one.suspects else "", one.suppressed_by


def _of_prediction(one: Incident, *, new: bool) -> list[str]:
    outcome = one.prediction.outcome if one.prediction else ""
    return [{"hit": "hit", "miss": "missed"}[outcome]] if outcome else ["predicted"] if new else []


def _changes(
    before: tuple[State, Severity, str, str], now: tuple[State, Severity, str, str], one: Incident
) -> Iterator[str]:
    if before[0] is not now[0]:
        reopened = before[0] in (State.RESOLVED, State.MERGED)
        if now[0] is not State.OPEN or reopened:
            yield BY_STATE.get(now[0], "resolved")
    if before[1] is not now[1]:
        yield "severity"
    if before[2] != now[2]:
        yield "suspect"
    if before[3] != now[3]:
        yield "suppressed" if one.suppressed_by else "unsuppressed"


def _event(kind: str, one: Incident, event_ns: int) -> Event:
    cause = one.suspects[0] if one.suspects else None
    attributes: list[tuple[str, str | float]] = [
        (INCIDENT_ID, one.id),
        ("incident.state", str(one.state)),
        ("incident.severity", str(one.severity)),
        ("incident.title", one.title),
        ("incident.revision", one.revision),
    ]
    if cause is not None:
        attributes += [("incident.suspect", cause.service), ("incident.confidence", cause.confidence)]
    if one.suppressed_by:
        attributes.append(("incident.suppressed_by", one.suppressed_by))
    if one.merged_into:
        attributes.append(("incident.merged_into", one.merged_into))
    if one.prediction is not None:
        attributes.append(("incident.probability", one.prediction.probability))
    return Event(
        name=INCIDENT_EVENTS[kind][0],
        time_ns=event_ns,
        severity=SEVERITIES[one.severity],
        body=one.summary or one.title,
        attributes=tuple(attributes),
    )
