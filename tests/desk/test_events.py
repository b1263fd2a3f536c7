"""Which changes of incidents become events, and what their OTLP says; our own receiver leaves them out."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otel_aiops.desk.events import IncidentEvents
from otel_aiops.incidents.incident import Incident, Severity, State
from otel_aiops.otlp.decode_logs import decode_logs
from otel_aiops.otlp.encode_events import encode_events
from otel_aiops.otlp.semconv import INCIDENT_EVENTS
from otel_aiops.otlp.signal import Signal
from tests.desk.makers import T0, incident, prediction, suspect


def kinds(events: IncidentEvents, *incidents: Incident) -> list[str]:
    return [event.name.removeprefix("otel_aiops.incident.") for event in events.of(incidents, T0)]


OPEN = incident()
CHANGES = [
    (incident(2), []),
    (incident(2, users=500.0), []),
    (incident(2, severity=Severity.CRITICAL), ["severity"]),
    (incident(2, suspects=(suspect("cache"), suspect())), ["suspect"]),
    (incident(2, suspects=()), ["suspect"]),
    (incident(2, suspects=(suspect("db", 0.1),)), []),
    (incident(2, State.ACKNOWLEDGED), ["acknowledged"]),
    (incident(2, State.RESOLVED), ["resolved"]),
    (incident(2, State.MERGED, merged_into="i0"), ["merged"]),
    (incident(2, suppressed_by="silence x"), ["suppressed"]),
    (incident(2, State.ACKNOWLEDGED, severity=Severity.INFO), ["acknowledged", "severity"]),
]


@pytest.mark.parametrize(("after", "told"), CHANGES)
def test_only_what_matters_is_told(after: Incident, told: list[str]) -> None:
    events = IncidentEvents([])
    assert kinds(events, OPEN) == ["opened"]
    assert kinds(events, after) == told


def test_the_life_of_one() -> None:
    events = IncidentEvents([])
    states = [State.OPEN, State.RESOLVED, State.OPEN, State.ACKNOWLEDGED, State.OPEN]
    found = [kinds(events, incident(revision, state)) for revision, state in enumerate(states, 1)]
    assert found == [["opened"], ["resolved"], ["reopened"], ["acknowledged"], []]
    assert kinds(events, incident(6, suppressed_by="x"), incident(7)) == ["suppressed", "unsuppressed"]


def test_what_was_known_before_a_restart_is_not_told_again() -> None:
    assert kinds(IncidentEvents([OPEN]), incident(2)) == []
    assert kinds(IncidentEvents([OPEN]), incident(2, State.RESOLVED)) == ["resolved"]
    assert kinds(IncidentEvents([]), incident(7)) == []


def test_predictions() -> None:
    events = IncidentEvents([])
    assert kinds(events, prediction(), prediction(revision=2), prediction("hit", 3)) == ["predicted", "hit"]
    assert kinds(events, prediction("miss", 2, "p-2")) == ["missed"]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otel_aiops.desk.events.MOST_REMEMBERED", 2)
    events = IncidentEvents([])
    kinds(events, *(prediction(name=f"p-{k}") for k in range(3)))
    assert kinds(events, prediction(revision=2, name="p-0")) == ["predicted"]  # forgotten
    assert kinds(events, prediction(revision=2, name="p-2")) == []


def test_every_kind_is_declared() -> None:
    assert {name for _, told in CHANGES for name in told} <= INCIDENT_EVENTS.keys()
    assert all(name == f"otel_aiops.incident.{kind}" for kind, (name, _) in INCIDENT_EVENTS.items())


def test_the_otlp_of_one() -> None:
    hushed = incident(2, suppressed_by="silence x", summary="a \ud800 b")
    events = IncidentEvents([OPEN]).of([hushed, prediction()], T0 + 5)
    request = encode_events(events, observed_ns=T0 + 7)
    assert (request.points, request.signal) == (2, Signal.LOGS)
    (group,) = ExportLogsServiceRequest.FromString(request.body).resource_logs
    assert group.resource.attributes[0].value.string_value == "otel-aiops"
    first, second = group.scope_logs[0].log_records
    assert (first.event_name, first.body.string_value) == ("otel_aiops.incident.suppressed", "a ? b")
    assert (first.time_unix_nano, first.observed_time_unix_nano) == (T0 + 5, T0 + 7)
    assert (first.severity_number, first.severity_text) == (13, "WARN")
    told = {pair.key: pair.value for pair in first.attributes}
    assert told["incident.id"].string_value == "i1" and told["incident.confidence"].double_value == 0.8
    assert told["incident.suspect"].string_value == "db" and told["incident.suppressed_by"].string_value == "silence x"
    assert {pair.key for pair in second.attributes} >= {"incident.probability"} - {"incident.suspect"}


def test_what_comes_back_to_us_is_left_out() -> None:
    found = decode_logs(encode_events(IncidentEvents([]).of([OPEN], T0), observed_ns=T0).body)
    assert len(found.records) == 0
