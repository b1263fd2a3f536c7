"""The journal writes once, finds again, and is whole after anything that stops it."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from otel_aiops.errors import ConfigError, Overloaded, StateError, StorageError
from otel_aiops.incidents.cut import Cut, cut_of
from otel_aiops.incidents.incident import Channel, Entry, Incident, Severity, State, Suspect
from otel_aiops.incidents.journal import FILE, Filter, Journal, JournalConfig
from otel_aiops.incidents.known import KnownAlert, Status, Told
from otel_aiops.incidents.suppress import Action, Decision, Silence
from tests.incidents.makers import at, finding
from tests.incidents.test_incidents import prediction
from tests.postgres import Postgres


def incident(
    name: str = "a", revision: int = 1, *, start_s: float = 0, service: str = "pay", **more: object
) -> Incident:
    return Incident(
        id=name,
        revision=revision,
        start_ns=at(start_s),
        detected_ns=at(start_s + 20),
        services=(service,),
        findings=(finding(service, start_s),),
        **{"state": State.OPEN, "severity": Severity.WARNING, **more},  # type: ignore[arg-type]
    )


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Journal]:
    one = Journal(JournalConfig(wait=0.1), tmp_path)
    one.open()
    yield one
    one.close()
    one.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres"), "journal") as running:
        yield running


@pytest.fixture
def great(server: Postgres, tmp_path: Path) -> Iterator[Journal]:
    one = Journal(JournalConfig(url=server.uri), tmp_path)
    one.open()
    yield one
    one.close()
    server.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")


@pytest.fixture(params=["lite", pytest.param("great", marks=pytest.mark.servers)])
def journal(request: pytest.FixtureRequest) -> Journal:
    """The same on SQLite and on PostgreSQL."""
    one: Journal = request.getfixturevalue(request.param)
    return one


def test_the_same_revision_again_is_passed_over(journal: Journal) -> None:
    first, second = incident(), incident(revision=2, state=State.RESOLVED, end_ns=at(99))
    assert journal.append([first, second], at(10)) == 2
    assert journal.append([first, second], at(500)) == 0
    assert journal.get("a") == second
    assert journal.history("a") == ((at(10), first), (at(10), second))
    assert journal.append([replace(first, revision=3)], at(11)) == 1
    assert journal.append([], at(11)) == 0


def test_an_older_revision_that_comes_later_is_history_only(journal: Journal) -> None:
    journal.append([incident(revision=2, service="web")], at(10))
    journal.append([incident(revision=1)], at(11))
    assert journal.get("a") == incident(revision=2, service="web")
    assert [one.revision for _, one in journal.history("a")] == [1, 2]
    assert journal.page(Filter(service="pay")).total == 0


def test_history_has_the_strongest_findings_and_the_last_revision_all(journal: Journal) -> None:
    many = tuple(finding("pay", 0, what=f"op{n}") for n in range(50))
    lines = tuple(Entry(time_ns=at(n), kind="joined", text=str(n)) for n in range(30))
    whole = replace(incident(), findings=many, timeline=lines)
    journal.append([whole], at(10))
    assert journal.get("a") == whole
    ((_, brief),) = journal.history("a")
    assert len(brief.findings) == 20 and brief.more_findings == 30 and len(brief.timeline) == 10


def test_incidents_are_found_by_what_they_are(journal: Journal) -> None:
    suspect = Suspect(service="redis", score=1.0, confidence=0.5, reason="r")
    journal.append(
        [
            incident("a", start_s=0, suspects=(suspect,)),
            incident("b", start_s=10, service="web", state=State.RESOLVED),
            incident("c", start_s=20, severity=Severity.CRITICAL),
        ],
        at(30),
    )
    journal.append([replace(prediction(), revision=1)], at(30))

    def names(**wanted: object) -> list[str]:
        return [one.id for one in journal.page(Filter(**wanted)).incidents]  # type: ignore[arg-type]

    assert names() == ["c", "b", "a", "p1"]
    assert names(service="web") == ["b"]
    assert names(channel="latency") == ["c", "b", "a"]
    assert names(states=(State.RESOLVED, State.PREDICTED)) == ["b", "p1"]
    assert names(severities=(Severity.CRITICAL,)) == ["c"]
    assert names(suspect="redis") == ["a"]
    assert names(from_ns=at(10), until_ns=at(20)) == ["b"]
    page = journal.page(limit=1, offset=1)
    assert page.total == 4 and [one.id for one in page.incidents] == ["b"]
    assert [one.id for one in journal.past()] == ["a", "b", "c"]
    assert [one.id for one in journal.past(service="pay", channel="latency", from_ns=at(5))] == ["c"]
    assert journal.get("nobody") is None and journal.history("nobody") == ()


def test_decisions_are_kept_once(journal: Journal) -> None:
    silence = Silence(name="s", until_ns=at(9), channels=(Channel.LOGS,), severities=(Severity.INFO,))
    one = Decision(action=Action.SILENCE, who="ana", why="deploy", time_ns=at(1), silence=silence)
    two = Decision(action=Action.ACKNOWLEDGE, who="bo", time_ns=at(2), incident="a")
    for decision in (one, two, one):
        journal.decided(decision)
    assert journal.decisions() == (two, one)
    assert journal.decisions(incident="a") == (two,)
    assert journal.decisions(from_ns=at(2)) == (two,)


def test_names_may_have_any_letters(journal: Journal) -> None:
    odd = incident(service="p\0ay\ud800 '\"; drop table incidents")
    assert journal.append([odd], at(0)) == 1
    assert journal.get("a") == odd
    assert journal.page(Filter(service=odd.services[0])).total == 1


@pytest.mark.servers
def test_a_server_that_was_away_is_found_again(great: Journal, server: Postgres) -> None:
    great.append([incident()], at(0))
    server.server.stop(signal.SIGINT)
    with pytest.raises(StorageError, match="journal of incidents: OperationalError"):
        great.append([incident(revision=2)], at(1))
    server.start()
    assert great.append([incident(revision=2)], at(1)) == 1
    assert [one.revision for _, one in great.history("a")] == [1, 2]


def test_what_is_too_old_is_deleted(tmp_path: Path) -> None:
    journal = Journal(JournalConfig(retention=100), tmp_path)
    journal.open()
    journal.append([incident("old")], at(0))
    journal.append([incident("new")], at(90))
    journal.decided(Decision(action=Action.ACKNOWLEDGE, who="ana", time_ns=at(0), incident="old"))
    assert journal.forget(at(150)) == 1
    assert journal.get("old") is None and journal.history("old") == () and journal.decisions() == ()
    assert journal.page().total == 1 and journal.page(Filter(service="pay")).total == 1
    journal.close()


def test_it_is_there_after_opening_again(tmp_path: Path) -> None:
    for revision in (1, 2):
        journal = Journal(JournalConfig(), tmp_path)
        journal.open()
        journal.append([incident(revision=revision)], at(revision))
        journal.close()
    with sqlite3.connect(tmp_path / FILE) as plain:
        assert plain.execute("pragma journal_mode").fetchone() == ("wal",)
        assert plain.execute("select count(*) from changes").fetchone() == (2,)


def test_another_version_is_refused(tmp_path: Path) -> None:
    journal = Journal(JournalConfig(), tmp_path)
    journal.open()
    journal.close()
    with sqlite3.connect(tmp_path / FILE) as plain:
        plain.execute("update about set value = '99'")
    with pytest.raises(StateError, match="expected schema version 1, got 99"):
        journal.open()


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"this is not a database" * 100)
    with pytest.raises(StorageError, match="not a database"):
        Journal(JournalConfig(), tmp_path).open()


def test_a_locked_database_is_told_and_recovers(lite: Journal, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(StorageError, match="locked"):
        lite.append([incident()], at(0))
    assert lite.page().total == 0  # readers do not wait
    other.execute("rollback")
    other.close()
    assert lite.append([incident()], at(0)) == 1


def test_a_full_disk_writes_all_or_nothing(lite: Journal, tmp_path: Path) -> None:
    lite.append([incident()], at(0))
    big = [incident(f"n{n}", title="x" * 5_000) for n in range(100)]
    engine = lite._database._engine
    assert engine is not None
    with engine.connect() as connection:  # the pool gives this connection again
        pages = connection.exec_driver_sql("pragma page_count").scalar() or 0
        connection.exec_driver_sql(f"pragma max_page_count = {pages + 20}")
    with pytest.raises(StorageError, match="full"):
        lite.append(big, at(1))
    assert lite.page().total == 1
    with engine.connect() as connection:
        connection.exec_driver_sql("pragma max_page_count = 1000000")
        assert connection.exec_driver_sql("pragma integrity_check").scalar() == "ok"
    assert lite.append(big, at(1)) == 100


def test_a_closed_one_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="closed"):
        Journal(JournalConfig(), tmp_path).page()


WRITER = """
import sys
from pathlib import Path
from otel_aiops.incidents.journal import Journal, JournalConfig
from tests.incidents.test_journal import incident
journal = Journal(JournalConfig(), Path(sys.argv[1]))
journal.open()
print("open", flush=True)
for n in range(1, 100_000):
    journal.append([incident("a", n, title="x" * 3000), incident("b", n, title="y" * 3000)], n)
    print(n, flush=True)
"""


def test_killed_while_it_writes_it_is_whole(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        while int(writer.stdout.readline()) < 5:
            time.sleep(0.001)
        writer.send_signal(signal.SIGKILL)
        said = 5 + sum(1 for line in writer.stdout if line.endswith("\n"))
    journal = Journal(JournalConfig(), tmp_path)
    journal.open()
    a, b = journal.history("a"), journal.history("b")
    assert [one.revision for _, one in a] == list(range(1, len(a) + 1)) == [one.revision for _, one in b]
    assert len(a) >= said  # what was told to be written is there
    repeated = [
        incident(name, n, title=mark * 3000) for n in range(1, len(a) + 2) for name, mark in (("a", "x"), ("b", "y"))
    ]
    assert journal.append(repeated, 0) == 2
    journal.close()


@pytest.mark.parametrize("knobs", [{"url": "mysql://u:secret@h/d"}, {"retention": 0}, {"wait": -1}])
def test_wrong_settings_are_named(knobs: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(knobs))) as caught:
        JournalConfig(**knobs)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def known(name: str, group: str = "g", status: Status = "firing") -> KnownAlert:
    return KnownAlert(
        sender="alertmanager",
        group=group,
        fingerprint=name,
        status=status,
        starts_ns=at(1),
        labels=(("alertname", "A"),),
    )


def cut(group: str = "g", told_ns: int = at(10)) -> Cut:
    return cut_of(
        Told(sender="alertmanager", group=group, receiver="r", group_labels=(), truncated=2, alerts=()), told_ns
    )


def test_what_fires_in_a_group_and_was_told_before_a_time(journal: Journal) -> None:
    journal.others.know([known("a"), known("b"), known("c", "\0other")], at(10), most=99)
    journal.others.know([known("b", status="resolved"), known("d")], at(11), most=99)
    assert [one.fingerprint for one in journal.others.firing("g", before_ns=at(11))] == ["a"]
    assert {one.fingerprint for one in journal.others.firing("g", before_ns=at(12))} == {"a", "d"}
    assert [one.fingerprint for one in journal.others.firing("\0other", before_ns=at(12))] == ["c"]


def test_what_is_left_out_waits_until_it_is_complete(journal: Journal) -> None:
    journal.others.know([], at(10), most=99, cut=cut())
    journal.others.know([known("a")], at(10), most=99, cut=cut("h"))
    first, other = journal.others.cuts.due(at(10))
    assert {first.group, other.group} == {"g", "h"} and journal.others.cuts.due(at(9)) == ()
    first = first if first.group == "g" else other
    journal.others.cuts.later(replace(first, asked=3, found=1), at(40))
    assert len(journal.others.cuts.due(at(39))) == 1
    (asked,) = [one for one in journal.others.cuts.due(at(40)) if one.group == "g"]
    assert (asked.asked, asked.found) == (3, 1)

    journal.others.know([], at(50), most=99, cut=cut(told_ns=at(50)))
    journal.others.cuts.over(asked)
    journal.others.cuts.later(asked, at(9_999))
    (newer,) = [one for one in journal.others.cuts.due(at(50)) if one.group == "g"]
    assert (newer.told_ns, newer.since_ns, newer.asked) == (at(50), at(10), 0), "a later one has taken its place"
    journal.others.cuts.over(newer)
    assert journal.others.cuts.count() == 1


def test_what_is_refused_leaves_nothing(lite: Journal) -> None:
    lite.others.know([known("a")], at(10), most=1)
    with pytest.raises(Overloaded):
        lite.others.know([known("b")], at(11), most=1, cut=cut())
    assert lite.others.cuts.count() == 0 and len(lite.others.told()) == 1


def test_known_alerts_of_an_earlier_release_have_no_group(lite: Journal, tmp_path: Path) -> None:
    lite.others.know([known("a")], at(10), most=99)
    lite.close()
    with sqlite3.connect(tmp_path / FILE) as file:
        file.execute("DROP TABLE cut_notifications")
        file.execute("DROP INDEX ix_known_alerts_group_key")
        file.execute("ALTER TABLE known_alerts DROP COLUMN group_key")
    file.close()
    for _ in range(2):
        lite.open()
        assert len(lite.others.told()) == 1 and lite.others.firing("g", before_ns=at(99)) == ()
        lite.close()
    lite.open()
    lite.others.know([known("b")], at(10), most=99, cut=cut())
    assert len(lite.others.firing("g", before_ns=at(99))) == 1 == lite.others.cuts.count()
