"""The past by type: ours by likeliest cause, those of others by the labels that they have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from otel_aiops.errors import BadInput
from otel_aiops.incidents import past as module
from otel_aiops.incidents.incident import Channel, Incident, Severity, State, Suspect
from otel_aiops.incidents.past import meets, past_of, read_labels, type_of
from tests.incidents.makers import at, finding

S = 1_000_000_000


def incident(*, start_s: float = 0, suspect: str = "") -> Incident:
    """One of pay and bank, whose strongest finding is of bank."""
    found = (finding("bank", channel=Channel.ERRORS), finding("pay", channel=Channel.LATENCY), finding("pay"))
    suspects = (Suspect(service=suspect, score=1.0, confidence=0.5, reason=""),) if suspect else ()
    return Incident(
        id="i",
        revision=1,
        state=State.OPEN,
        severity=Severity.WARNING,
        start_ns=at(start_s),
        detected_ns=at(start_s),
        services=("bank", "pay"),
        findings=found,
        suspects=suspects,
    )


@pytest.mark.parametrize(
    ("suspect", "kind"), [("", "bank|errors"), ("pay", "pay|latency"), ("ledger", "ledger|errors")]
)
def test_a_type_is_the_likeliest_cause_and_what_it_shows(suspect: str, kind: str) -> None:
    one = incident(suspect=suspect)
    assert type_of(one) == kind and meets(kind, one)
    assert not meets("bank|latency", one) and not meets("search|down", one)
    assert meets("bank|TargetDown", one)  # a type that others name: by its service
    assert meets("ledger|TargetDown", one) is (suspect == "ledger")


def test_nothing_known_is_a_type_too() -> None:
    assert type_of(replace(incident(), findings=())) == "|unknown"


def test_the_past_is_in_order() -> None:
    past = past_of([incident(start_s=50), incident(start_s=10)], [("x|down", at(20), 0)])
    assert past.type == ("bank|errors", "x|down", "bank|errors")
    assert past.start_ns.tolist() == [at(10), at(20), at(50)] and past.end_ns.tolist() == [0, 0, 0]
    assert past_of([]).type == ()
    with pytest.raises(BadInput):
        module.Past(("a",), past.start_ns, past.end_ns)


def test_labels_are_read_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alert = {"labels": {"alertname": "Down", "job": "pay"}, "startsAt": "2026-01-05T03:00:00.123456789Z"}
    lines = [
        json.dumps({"service": "pay", "name": "down", "start": 100, "end": "1970-01-01T00:05:00"}),
        json.dumps(alert | {"endsAt": "0001-01-01T00:00:00Z"}),
        "",
    ]
    file = tmp_path / "labels.jsonl"
    file.write_text("\n".join(lines))
    found, wrong = read_labels(file)
    assert found == [("pay|down", 100 * S, 300 * S), ("pay|Down", found[1][1], 0)] and wrong == ""
    assert found[1][1] // S == 1_767_582_000
    bad = ["{", "[]", "7", '{"service": "a", "start": 1}', '{"service": "a", "name": "b"}', '{"labels": {}}']
    bad += ['{"service": "a", "name": "b", "start": 1e999}', '{"service": "a", "name": "b", "start": "noon"}']
    file.write_text("\n".join([*bad, lines[0]]))
    found, wrong = read_labels(file)
    assert len(found) == 1 and wrong.startswith(f"8 lines of {file} cannot be read, as line 1: ")
    monkeypatch.setattr(module, "MOST_LABELS", 8)
    assert read_labels(file)[0] == []
    assert "cannot be read: No such file" in read_labels(tmp_path / "none")[1]
