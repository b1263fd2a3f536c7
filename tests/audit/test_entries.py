"""The audit's list: every journal where it is, what cannot be read is told, and secrets are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from otel_aiops.audit.configurations import HIDDEN, Configurations, Configured
from otel_aiops.audit.entries import KINDS, since_of, trail
from otel_aiops.audit.replay import active
from otel_aiops.config import Config, parse
from otel_aiops.detect.serving import Action, Rollout
from otel_aiops.errors import BadInput, StateError
from otel_aiops.incidents.journal import Journal, JournalConfig
from otel_aiops.lifecycle import governed
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.manifest import Window
from otel_aiops.otlp.governance import GovernanceConfig
from tests.lifecycle.recording import HOURS, NOW_NS, START_NS, record, regular
from tests.lifecycle.test_dataset import HOUR_NS

S = 1_000_000_000


def note(directory: Path, text: str, at_s: int, sequence: int = 0) -> str:
    found = Configurations(directory).note(
        parse(text).config, how="start", sequence=sequence, swapped=True, time_ns=at_s * S
    )
    return found.id


def test_an_empty_directory_has_no_history(tmp_path: Path) -> None:
    found = trail(tmp_path, None)
    assert (found.total, found.entries, found.problems) == (0, (), ())


def test_datasets_governance_registrations_and_runs_are_listed(tmp_path: Path) -> None:
    record(tmp_path, regular())
    window = Window(START_NS, START_NS + HOURS * HOUR_NS)
    made = Datasets.of(tmp_path).build(window, now_ns=NOW_NS, who="ann", why="a quarter")
    governed.note(tmp_path, GovernanceConfig(drop=("user.id",)), 5 * S)
    runs = tmp_path / "lifecycle" / "runs"
    runs.mkdir()
    (runs / "r1.json").write_text(json.dumps({"who": "bob", "why": "drift", "started_ns": 7 * S, "state": "done"}))
    (runs / "r2.json").write_text("[]")
    known = [{"id": "abc", "number": "3", "time_ns": str(9 * S), "who": "eve"}]
    found = trail(tmp_path, None, registrations=lambda: known)
    assert [one.kind for one in found.entries] == ["dataset", "registration", "run", "governance"]
    dataset, registered, run, rules = found.entries
    assert (dataset.who, dataset.why, dataset.data) == ("ann", "a quarter", made.id)
    assert (registered.what, registered.who) == ("registered abc as 3", "eve")
    assert (run.who, run.time_ns, run.what) == ("bob", 7 * S, "run r1 done") and rules.time_ns == 5 * S
    assert len(found.problems) == 1 and "r2.json: expected a run as JSON" in found.problems[0]
    assert trail(tmp_path, None, since_ns=6 * S, kinds=("run", "governance")).total == 1
    assert trail(tmp_path, None, who="NN").entries == (dataset,)
    assert trail(tmp_path, None, limit=1, registrations=lambda: known).total == 4


def test_rollouts_stand_where_they_were_given(tmp_path: Path) -> None:
    """However fast the telemetry goes, and also if the same is ordered twice while none comes."""
    journal = Journal(JournalConfig(), tmp_path)
    journal.open()
    for action, given_s in ((Action.STOP, 0), (Action.SHADOW, 20), (Action.SHADOW, 30), (Action.SHADOW, 30)):
        journal.rolled(Rollout(action=action, version="v", time_ns=9 * S, given_ns=given_s * S, who="ana"))
    found = trail(tmp_path, journal, kinds=("rollout",)).entries
    assert [(one.what, one.time_ns) for one in found] == [("shadow v", 30 * S), ("shadow v", 20 * S), ("stop v", 9 * S)]
    journal.close()


def test_a_kind_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"expected some of {', '.join(KINDS)}, got 'odd'"):
        trail(tmp_path, None, kinds=("odd",))


def test_since(tmp_path: Path) -> None:
    assert since_of("", 5) == 0 and since_of("1d", 86_400 * S) == since_of("-1d", 86_400 * S) == 0
    assert since_of("60", 0) == 60 * S
    with pytest.raises(BadInput, match="since: expected ISO 8601"):
        since_of("yesterday", 0)


def test_a_configuration_is_kept_once_and_read_back_as_it_was(tmp_path: Path) -> None:
    text = (
        "incidents: {grouping: {maintenance: [{name: m, start: 2026-01-01T00:00:00Z, end: 2026-01-01T02:00:00Z}]}}\n"
        "budgets: [{name: x, match: {service: a}, budget: 2/week}]\npolicies: [{match: {name: a}, tz: Europe/Berlin}]\n"
    )
    first = note(tmp_path, text, 1)
    assert note(tmp_path, text, 2, sequence=50) == first
    lines = Configurations(tmp_path).list()
    assert [(one.line, one.sequence, one.changed) for one in lines] == [(1, 0, {}), (2, 50, {})]
    again = Configurations(tmp_path).pipeline(first)
    assert again.budgets == parse(text).config.pipeline().budgets
    assert again.analysis.grouping.maintenance[0].window() == (
        parse(text).config.pipeline().analysis.grouping.maintenance[0].window()
    )
    assert len(list((tmp_path / "audit" / "configurations").iterdir())) == 1


def test_secrets_are_not_written_down(tmp_path: Path) -> None:
    note(tmp_path, "journal: {url: 'postgresql://u:${env:NONE:-hunter2}@db/x'}\n", 1)
    note(tmp_path, "budget: 3/week\n", 2)
    for path in (tmp_path / "audit").rglob("*.json*"):
        assert "hunter2" not in path.read_text()
    (newest, _) = trail(tmp_path, None, kinds=("config",)).entries
    assert newest.details["changed"] == {"budget": ["1/day", "3/week"], "journal.url": [HIDDEN, ""]}
    assert newest.what == "start: 2 keys: budget, journal.url"


def test_a_changed_journal_is_told(tmp_path: Path) -> None:
    name = note(tmp_path, "", 1)
    path = tmp_path / "audit" / "configurations" / f"{name}.json"
    path.write_bytes(path.read_bytes().replace(b"1/day", b"9/day"))
    with pytest.raises(StateError, match="it was changed"):
        Configurations(tmp_path).pipeline(name)
    path.unlink()
    with pytest.raises(StateError, match="cannot be read"):
        Configurations(tmp_path).pipeline(name)
    (tmp_path / "audit" / "configurations.jsonl").write_text("no\n")
    found = trail(tmp_path, None)
    assert found.total == 0 and "line 1: expected a configuration" in found.problems[0]


def test_a_configuration_of_another_code_is_not_taken_for_its_own(tmp_path: Path) -> None:
    import hashlib

    from otel_aiops.audit.configurations import canonical

    note(tmp_path, "", 1)
    folder = tmp_path / "audit" / "configurations"
    (path,) = folder.iterdir()
    tree = json.loads(path.read_bytes())
    for change, message in (({"odd": 1}, "cannot read it"), ({"budget": 2.5}, "")):
        data = canonical({**tree, "pipeline": {**tree["pipeline"], **change}})
        name = hashlib.sha256(data).hexdigest()[:16]
        (folder / f"{name}.json").write_bytes(data)
        if message:
            with pytest.raises(StateError, match=message):
                Configurations(tmp_path).pipeline(name)
        else:
            assert Configurations(tmp_path).pipeline(name).budget == 2.5
    assert Config().pipeline().budget == "1/day"


def test_after_a_crash_what_was_repeated_counts() -> None:
    lines = [Configured(line=1, sequence=0), Configured(line=2, sequence=95), Configured(line=3, sequence=90)]
    assert [active(lines, k).line for k in (0, 89, 90, 97)] == [1, 1, 3, 3]
    assert [active(lines[:2], k).line for k in (94, 95)] == [1, 2]  # as it was before the crash
    assert active((), 5).line == 0
