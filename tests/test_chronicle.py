"""The chronicle: what the journal refuses for a while it gets later, in order; files have a line a change."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from otel_aiops.chronicle import Chronicle, IncidentFiles
from otel_aiops.errors import ConfigError, StorageError
from otel_aiops.incidents.incident import State
from otel_aiops.incidents.journal import JournalConfig
from otel_aiops.incidents.suppress import Action, Decision
from tests.desk.makers import T0, incident, prediction
from tests.incidents.makers import finding

ACK = Decision(action=Action.ACKNOWLEDGE, who="ann", time_ns=T0, incident="i1")


def test_a_journal_that_fails_gets_everything_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Chronicle(JournalConfig(), tmp_path, IncidentFiles())
    one.open()

    def broken(*_: object) -> int:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(one.journal, "append", broken)
        one.write([incident()], T0)
        one.decided(ACK)
        one.write([incident(2, State.ACKNOWLEDGED)], T0 + 1)
        assert one.failed == 2 and one.journal.get("i1") is None and not one.journal.decisions()
    one.write([], T0 + 2)
    assert [each.revision for _, each in one.journal.history("i1")] == [1, 2]
    assert one.journal.decisions() == (ACK,)
    one.close()
    one.close()


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otel_aiops.chronicle.MOST_WAITING", 3)
    one = Chronicle(JournalConfig(), tmp_path, IncidentFiles())  # not open: nothing can be written
    for k in range(5):
        one.write([incident(k + 1)], T0 + k)
        one.decided(ACK)
    one.open()
    one.write([], T0 + 9)
    assert len(one.journal.history("i1")) == 2  # the latest
    one.close()


def test_lines_of_incidents_and_of_predictions_are_apart(tmp_path: Path) -> None:
    files = IncidentFiles(tmp_path / "i.jsonl", tmp_path / "p.jsonl")
    one = Chronicle(JournalConfig(), tmp_path, files)
    one.open()
    one.write([incident(), prediction()], T0)
    one.write([incident(2, State.RESOLVED, end_ns=T0 + 10**9)], T0 + 2 * 10**9)
    one.close()
    assert files.incidents is not None and files.predictions is not None
    lines = [json.loads(line) for line in files.incidents.read_text().splitlines()]
    assert [(line["id"], line["state"], line["end"]) for line in lines] == [
        ("i1", "open", None),
        ("i1", "resolved", T0 / 1e9 + 1),
    ]
    (line,) = [json.loads(line) for line in files.predictions.read_text().splitlines()]
    assert line["state"] == "predicted" and line["prediction"]["lead_s"] == 7_200


def test_a_file_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path) -> None:
    one = Chronicle(JournalConfig(), tmp_path, IncidentFiles(tmp_path / "no" / "such" / "folder.jsonl"))
    with pytest.raises(ConfigError, match="cannot write incidents to"):
        one.open()
    one.close()


def test_many_changes_at_once_have_fewer_findings_and_count_the_others(tmp_path: Path) -> None:
    files = IncidentFiles(tmp_path / "i.jsonl")
    one = Chronicle(JournalConfig(), tmp_path, files)
    one.open()
    found = tuple(finding("pay", n) for n in range(200))
    few = [replace(incident(), id=f"few{n}", findings=found) for n in range(50)]
    many = [replace(incident(), id=f"many{n}", findings=found, more_findings=7) for n in range(200)]
    one.write(few, T0)
    one.write(many, T0 + 1)
    kept = [one.journal.get(each.id) for each in (*few, *many)]
    one.close()
    assert kept[:50] == few
    assert all(each is not None and each.findings == found[:50] and each.more_findings == 157 for each in kept[50:])
    assert files.incidents is not None
    lines = [json.loads(line) for line in files.incidents.read_text().splitlines()]
    assert [len(line["findings"]) for line in lines] == [200] * 50 + [50] * 200
