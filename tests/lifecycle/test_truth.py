"""Labels and exclusions: from files, the journal, Alertmanager, Prometheus and marked load tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otel_aiops.detect.lessons import Verdict
from otel_aiops.errors import BadInput
from otel_aiops.incidents.incident import Incident, Severity, State
from otel_aiops.incidents.journal import Journal, JournalConfig
from otel_aiops.incidents.suppress import Action, Decision, Maintenance, Silence
from otel_aiops.labels import Labels
from otel_aiops.lifecycle import sources
from otel_aiops.lifecycle.truth import (
    ANOMALY,
    NORMAL,
    Exclusion,
    Label,
    clipped,
    of_services,
    read_exclusions,
    read_labels,
    selector,
    within,
)
from otel_aiops.series.segments import HOUR_NS
from tests.lifecycle.recording import MINUTE_NS, SERIES, START_NS, columns, record, regular

S = 1_000_000_000
T0 = 1_700_000_000


# --- files -----------------------------------------------------------------------------------------------------------


def test_labels_of_json_lines_and_csv_are_the_same(tmp_path: Path) -> None:
    lines = tmp_path / "labels.jsonl"
    lines.write_text(
        '{"start": "2026-05-03T14:00:00Z", "end": 1777817400, "service": "cart", "note": "disk"}\n\n'
        '{"start": "2026-05-03T14:00:00", "end": "1777817400.5", "series": "load", "kind": "normal",'
        ' "confidence": 0.5}\n'
    )
    table = tmp_path / "labels.csv"
    table.write_text(
        "start,end,series,service,kind,confidence,source,note\n"
        "2026-05-03T14:00:00Z,1777817400,,cart,,,,disk\n"
        "2026-05-03T14:00:00,1777817400.5,load,,normal,0.5,,\n"
    )
    assert read_labels(lines) == read_labels(table)
    first, second = read_labels(lines)
    assert first == Label(start_ns=START_NS, end_ns=START_NS + 600 * S, service="cart", note="disk")
    assert (second.kind, second.confidence, second.source) == (NORMAL, 0.5, "file")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: expected JSON"),
        ("[]", "expected an object"),
        ('{"begin": 1}', "begin: is not a known key"),
        ('{"start": "soon", "end": 5}', "start: expected ISO 8601"),
        ('{"start": 5, "end": 5}', "end: expected one after the start"),
        (
            '{"start": 5, "end": 6, "kind": "odd"}',
            "kind: expected one of anomaly, normal, expected, duplicate, got 'odd'",
        ),
        ('{"start": 5, "end": 6, "confidence": 2}', "confidence: expected a number in"),
        ('{"start": 5, "end": 6, "confidence": "x"}', "confidence: expected a number, got 'x'"),
        (json.dumps({"start": 5, "end": 6, "note": "x" * 3_000}), "at most 2000 characters"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(BadInput, match=r"labels\.jsonl, line 1") as raised:
        read_labels(path)
    assert message in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.jsonl: expected a file of JSON lines or CSV"):
        read_labels(tmp_path / "nowhere.jsonl")


def test_exclusions_of_files(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text('start,end,match,reason,source\n5,6,"{""service"": ""cart""}",k6,load test\n7,8,,,\n')
    assert read_exclusions(path) == [
        Exclusion(start_ns=5 * S, end_ns=6 * S, match=(("service", "cart"),), reason="k6", source="load test"),
        Exclusion(start_ns=7 * S, end_ns=8 * S),
    ]
    for match, message in (
        ("{", "expected a JSON object"),
        ("[]", "expected an object of keys"),
        ('{"a": "~("}', "regular"),
    ):
        line = tmp_path / "bad.jsonl"
        line.write_text(json.dumps({"start": 5, "end": 6, "match": match if match != "[]" else [1]}))
        with pytest.raises(BadInput, match=message):
            read_exclusions(line)


def test_what_reaches_into_a_window() -> None:
    out = [Exclusion(start_ns=a, end_ns=b) for a, b in ((0, 5), (5, 12), (5, 12), (18, 30), (20, 25))]
    assert [(one.start_ns, one.end_ns) for one in clipped(out, 10, 20)] == [(10, 12), (18, 20)]
    labels = [Label(start_ns=a, end_ns=b) for a, b in ((0, 10), (9, 11), (9, 11), (20, 21))]
    assert [(one.start_ns, one.end_ns) for one in within(labels, 10, 20)] == [(9, 11)]


@pytest.mark.parametrize(
    ("pattern", "service", "hit"), [("pay-*", "pay-eu", True), ("pay-*", "pay", False), ("~x", "~x", True)]
)
def test_names_of_services_may_have_stars(pattern: str, service: str, hit: bool) -> None:
    ((match,),) = of_services([pattern])
    labels = Labels("load", resource=(("service.name", service),))
    assert selector(dict([match])).matches(labels) is hit


# --- the journal -----------------------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    found = Journal(JournalConfig(), tmp_path)
    found.open()
    yield found
    found.close()


def incident(name: str, start_s: int, end_s: int = 0, *services: str, state: State = State.RESOLVED) -> Incident:
    return Incident(
        id=name,
        revision=1,
        state=state,
        severity=Severity.WARNING,
        start_ns=start_s * S,
        detected_ns=start_s * S,
        end_ns=end_s * S,
        services=services,
    )


def decision(action: Action, at_s: int, **more: Any) -> Decision:
    return Decision(action=action, who="ann", time_ns=at_s * S, **more)


def test_verdicts_become_labels_once(journal: Journal) -> None:
    real = Verdict(series=7, time_ns=T0 * S, kind="true_alert", ratio=1.5, by="ann", note="disk")
    for _ in range(2):
        journal.judged(real, SERIES[0])
        journal.judged(Verdict(series=255, time_ns=(T0 + 60) * S, kind="false_alert", ratio=1.0), "")
    journal.judged(Verdict(series=7, time_ns=(T0 + 99_999) * S, kind="missed", ratio=0.5), SERIES[0])
    found = sources.of_journal(journal, T0 * S, (T0 + 600) * S)
    assert [(one.series, one.kind, one.note) for one in found.labels] == [
        (SERIES[0], ANOMALY, "true_alert by ann: disk"),
        ("00000000000000ff", NORMAL, "false_alert"),
    ]
    assert found.labels[0].end_ns - found.labels[0].start_ns == 600 * S and not found.exclusions
    assert journal.verdicts(until_ns=T0 * S) == ()


def test_old_verdicts_are_forgotten_and_older_journals_learn_to_keep_them(tmp_path: Path) -> None:
    import sqlite3

    config = JournalConfig(retention=100.0)
    first = Journal(config, tmp_path)
    first.open()
    first.judged(Verdict(series=7, time_ns=T0 * S, kind="missed", ratio=0.5), "")
    first.forget((T0 + 50) * S)
    assert len(first.verdicts()) == 1
    first.forget((T0 + 200) * S)
    assert first.verdicts() == ()
    first.close()
    with sqlite3.connect(tmp_path / "incidents.db") as connection:
        connection.execute("DROP TABLE verdicts")
    again = Journal(config, tmp_path)
    again.open()
    assert again.verdicts() == ()
    again.close()


def test_confirmed_incidents_are_excluded_and_all_are_labels(journal: Journal) -> None:
    journal.append(
        [
            incident("a", T0, T0 + 60, "cart", "pay"),
            incident("b", T0 + 100, T0 + 160, "cart"),
            incident("open", T0 + 200, 0, "web", state=State.OPEN),
            incident("before", T0 - 900, T0 - 800, "cart"),
            incident("after", T0 + 9_000, T0 + 9_100, "cart"),
        ],
        T0 * S,
    )
    journal.decided(decision(Action.ACKNOWLEDGE, T0 + 5, incident="a"))
    journal.decided(decision(Action.REOPEN, T0 + 5, incident="b"))
    found = sources.of_journal(journal, T0 * S, (T0 + 600) * S)
    assert [(one.service, one.confidence, one.note) for one in found.labels] == [
        ("cart", 1.0, "a"),
        ("pay", 1.0, "a"),
        ("cart", 0.6, "b"),
        ("web", 0.6, "open"),
    ]
    assert found.labels[-1].end_ns == (T0 + 600) * S
    assert [(one.match, one.reason, one.source) for one in found.exclusions] == [
        ((("service", "cart"),), "a", "incident"),
        ((("service", "pay"),), "a", "incident"),
    ]


def test_an_incident_of_a_single_moment_happened_all_the_same(journal: Journal) -> None:
    journal.append([incident("a", T0, T0, "cart"), incident("before", T0 - 60, T0 - 60, "cart")], T0 * S)
    journal.decided(decision(Action.ACKNOWLEDGE, T0 + 5, incident="a"))
    found = sources.of_journal(journal, T0 * S, (T0 + 600) * S)
    (label,), (exclusion,) = found.labels, found.exclusions
    assert (label.note, label.start_ns, label.end_ns) == ("a", T0 * S, (T0 + 60) * S)
    assert (exclusion.start_ns, exclusion.end_ns) == (label.start_ns, label.end_ns)


def test_maintenance_and_silences_that_people_declared() -> None:
    weekly = Maintenance(name="patch", start_ns=T0 * S, end_ns=(T0 + 60) * S, every_s=600.0, services=("db-*",))
    quiet = Silence(name="quiet", until_ns=(T0 + 500) * S, services=("cart", "pay"))
    found = sources.of_decisions(
        [
            decision(Action.UNSILENCE, T0 + 300, name="quiet"),
            decision(Action.SILENCE, T0 + 100, silence=quiet, why="deploy"),
            decision(Action.MAINTENANCE, T0, maintenance=weekly),
            decision(Action.UNSILENCE, T0 + 1_230, name="patch"),
            decision(Action.SILENCE, T0 + 600, silence=quiet),  # over before it began
            decision(Action.RESOLVE, T0, incident="a"),
        ]
    )
    patches = [one for one in found if one.source == "maintenance"]
    assert [(one.start_ns // S - T0, one.end_ns // S - T0) for one in patches] == [(0, 60), (600, 660), (1200, 1230)]
    quiets = [one for one in found if one.source == "silence"]
    assert [(one.start_ns // S - T0, one.end_ns // S - T0, one.reason) for one in quiets] == [
        (100, 300, "quiet: deploy")
    ] * 2


def test_maintenance_of_the_configuration_comes_again() -> None:
    daily = Maintenance(name="backup", start_ns=0, end_ns=60 * S, every_s=3_600.0)
    once = Maintenance(name="move", start_ns=5 * S, end_ns=6 * S)
    found = sources.of_maintenance([daily, once], 7_230 * S, 14_400 * S)
    assert [(one.start_ns // S, one.end_ns // S) for one in found] == [(7_200, 7_260), (10_800, 10_860)]
    assert found[0].match == () and found[0].reason == "backup"


# --- other servers ---------------------------------------------------------------------------------------------------


def test_alertmanager_gives_weak_labels_and_its_silences() -> None:
    alert = {"labels": {"alertname": "Slow", "service": "cart"}, "startsAt": "2026-05-03T14:00:00Z"}
    matcher = {"name": "service_name", "value": "pay-.*", "isRegex": True, "isEqual": True}
    times = {"startsAt": "2026-05-03T14:00:00.5Z", "endsAt": "2026-05-03T15:00:00Z"}
    answers = {
        "/api/v2/alerts": [
            alert | {"endsAt": "2026-05-04T14:00:00Z"},
            alert | {"endsAt": "2026-05-03T14:00:00Z"},
        ],
        "/api/v2/silences": [
            {"id": "1", "matchers": [matcher], "comment": "move", "createdBy": "ann", **times},
            {"id": "2", "matchers": [{"name": "alertname", "value": "Slow"}], **times},
            {"id": "3", "matchers": [{"name": "severity", "value": "low"}], **times},
            {"id": "4", "matchers": [{"name": "pod", "value": "a.b", "isEqual": False}], **times},
            {"id": "5", "matchers": [matcher], **times, "endsAt": "2026-05-03T14:00:00Z"},
            {"id": "6", "matchers": [{"name": "job", "value": "cart"}, {"name": "severity", "value": "low"}], **times},
        ],
    }
    found = sources.of_alertmanager(lambda path, asked: answers[path], START_NS, START_NS + HOUR_NS)
    assert found.labels == (
        Label(
            start_ns=START_NS,
            end_ns=START_NS + HOUR_NS,
            service="cart",
            confidence=sources.FIRING,
            source="alertmanager",
            note="Slow",
        ),
    )
    assert [(dict(one.match), one.reason) for one in found.exclusions] == [
        ({"service": "~pay-.*"}, "move by ann"),
        ({"k8s.pod.name": "~(?!(?:a\\.b)$).*"}, "4"),
        ({"service": "cart"}, "6"),
    ]
    assert len(found.notes) == 2 and "silence 2" in found.notes[0]
    with pytest.raises(BadInput, match="expected a list of alerts"):
        sources.of_alertmanager(lambda path, asked: {"error": 1}, 0, 1)


def test_what_fired_in_prometheus_becomes_labels() -> None:
    metric = {"__name__": "ALERTS", "alertname": "Down", "job": "web"}
    values = [[T0 + k * 60, "1"] for k in (0, 1, 2, 10, 11)]
    asked: list[dict[str, str]] = []

    def get(path: str, parameters: dict[str, str]) -> Any:
        asked.append(parameters)
        first, last = float(parameters["start"]), float(parameters["end"])
        mine = [one for one in values if first <= one[0] <= last]
        return {"status": "success", "data": {"result": [{"metric": metric, "values": mine}] if mine else []}}

    found = sources.of_prometheus(get, T0 * S, (T0 + 10 * 86_400) * S)
    assert [(one.start_ns // S - T0, one.end_ns // S - T0, one.service, one.note) for one in found.labels] == [
        (0, 180, "web", "Down"),
        (600, 720, "web", "Down"),
    ]
    assert len(asked) == 2 and all((float(one["end"]) - float(one["start"])) / 60 < 11_000 for one in asked)
    with pytest.raises(BadInput, match="status success"):
        sources.of_prometheus(lambda path, parameters: {"status": "error"}, 0, S)


def test_alerts_that_name_no_service_and_our_own_are_no_labels() -> None:
    shared = {"startsAt": "2026-05-03T14:00:00Z", "endsAt": "2026-05-03T15:00:00Z"}
    others = [
        {"alertname": "Watchdog", "severity": "none"},
        {"alertname": "NodeDown", "instance": "n1:9100"},
        {"alertname": "SeriesUnusual", "service_name": "cart", "anomaly_metric_name": "load"},
        {"alertname": "Incident", "service": "cart", "incident_id": "7"},
        {"alertname": "OtelAiopsInputDrift", "service_name": "cart"},
        {"alertname": "DetectionIsBroken", "job": "otel-aiops"},
    ]
    told = [
        "alerts of {} that name no service (as service_name, service, app, job) are no labels: NodeDown, Watchdog",
        "alerts of {} that are rules over metrics of otel-aiops are no labels: DetectionIsBroken, Incident,"
        " OtelAiopsInputDrift, SeriesUnusual",
    ]
    answers = {"/api/v2/alerts": [{"labels": one, **shared} for one in others], "/api/v2/silences": []}
    found = sources.of_alertmanager(lambda path, asked: answers[path], START_NS, START_NS + HOUR_NS)
    assert found.labels == () and list(found.notes) == [one.format("Alertmanager") for one in told]
    result = [{"metric": one, "values": [[START_NS / S, "1"]]} for one in others]
    answer = {"status": "success", "data": {"result": result}}
    found = sources.of_prometheus(lambda path, asked: answer, START_NS, START_NS + HOUR_NS)
    assert found.labels == () and list(found.notes) == [one.format("Prometheus") for one in told]


def test_a_load_test_is_known_by_its_own_series(tmp_path: Path) -> None:
    k6 = Labels("k6.requests", resource=(("service.name", "k6"),), attributes=(("test.id", "t1"),)).to_json()
    at = START_NS + np.array([30, 31, 32, 90, 91], np.int64) * MINUTE_NS
    segments = record(tmp_path, regular(hours=3), columns([k6], np.zeros(5, np.int64), at, np.ones(5)))
    found = sources.of_load_tests(
        segments, [({"test.id": "~.+"}, ("cart",)), ({"test.id": "t2"}, ())], START_NS, START_NS + 3 * HOUR_NS
    )
    assert [((one.start_ns - START_NS) // MINUTE_NS, (one.end_ns - START_NS) // MINUTE_NS) for one in found] == [
        (29, 33),
        (89, 92),
    ]
    assert found[0].match == (("service", "cart"),) and found[0].source == "load test"
    assert sources.of_load_tests(segments, [], 0, 1) == []
