"""Why was I paged then: scores of the past made again bit for bit, whatever the service did since."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from otel_aiops.audit.replay import Past
from otel_aiops.audit.why import NOTED, RECORDED, Why, journal_of, why_incident, why_series
from otel_aiops.cli import app
from otel_aiops.config import Config
from otel_aiops.series.records import FILE_HEADER, RECORD_HEADER, log_files, read_file
from tests.feed import ns
from tests.incident_feed import call
from tests.test_app import Running
from tests.test_rollout import Shop

SLOW = "audit: {every: 1ms}\n"  # every snapshot is kept
NOW_S = 1_760_004_000


@contextmanager
def running(folder: Path, more: str) -> Iterator[Running]:
    found = Running(folder, more, clock_ns=lambda: ns(NOW_S))  # not long after the points, so that they are kept
    found.service.start()
    try:
        yield found
    finally:
        found.service.stop()


def series(directory: Path, name: str, at_s: float) -> Why:
    config = Config()
    with Past.opened(directory, config.pipeline()) as work:
        return why_series(directory, journal_of(config, directory), name, round(at_s * 1e9), config, work)


def incident(directory: Path, name: str) -> Why:
    config, journal = Config(), journal_of(Config(), directory)
    assert journal is not None
    with Past.opened(directory, config.pipeline()) as work:
        return why_incident(directory, journal, name, config, work)


def bits(value: float) -> bytes:
    return struct.pack(">d", value)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A data directory of a service that raised alerts, promoted a version, restarted, and went on."""
    directory = tmp_path_factory.mktemp("data")
    facts: dict[str, Any] = {}
    with running(directory, SLOW) as up:
        shop = Shop(up)
        shop.feed(40)
        shop.feed(2, q3=400.0)
        facts["alert"] = shop.now_s - 30
        facts["score"] = up.service.chronicle.journal.alerts()[-1].score
        (found,) = [one for one in up.get("/api/v1/series")["series"] if 'queue="q3"' in one["series"]]
        facts["print"] = found["fingerprint"]
        asked = {"series": facts["print"], "time": facts["alert"], "verdict": "false", "by": "ann", "note": "a test"}
        assert call(up, "POST", "verdicts", asked).status_code == 200
        shop.feed(10)
        version = shop.challenger(threshold=2.0)
        shop.roll("canary", version=version, share=1.0)
        shop.feed(3)
        shop.feed(1, q5=300.0)
        facts["canary"] = shop.now_s
        facts["version"] = version
        shop.roll("promote", version=version)
        shop.feed(3)
        facts["now"] = shop.now_s
    with running(directory, SLOW + "budget: 3/week\n") as up:
        shop = Shop(up)
        shop.now_s = facts["now"]
        shop.feed(5)
        shop.feed(1, q7=500.0)
        facts["later"] = shop.now_s
        shop.feed(6, **{f"q{n}": 900.0 for n in range(10, 18)})
        shop.feed(20)
        facts["calm"] = shop.now_s
        found = up.get("/api/v1/incidents")["incidents"]
        work = {"name": "disks", "start": NOW_S, "for": "2h", "services": "pay", "who": "bob", "why": "new disks"}
        assert call(up, "POST", "maintenance", work).status_code == 200
        facts["list"] = up.get("/api/v1/audit", limit=500)
        facts["anns"] = up.get("/api/v1/audit", who="ANN", kind="verdict,rollout", since="2025-10-09")
        facts["wrong"] = call(up, "GET", "audit", kind="odd")
        facts["live"] = series(directory, 'depth{queue="q3"}', facts["alert"])
        facts["newest"] = series(directory, 'depth{queue="q9"}', facts["calm"])
        shop.feed(1)
        facts["failures"] = up.service.telemetry.value("otel_aiops.step.failures")
        facts["incidents"] = [one["id"] for one in found]
    yield directory, facts


def test_the_score_of_an_alert_is_made_again(told: tuple[Path, dict[str, Any]]) -> None:
    directory, facts = told
    why = series(directory, 'depth{queue="q3"}', facts["alert"])
    (one,) = why.points
    assert one.source == NOTED and one.alerting and one.made is not None and not why.missing
    assert bits(one.then) == bits(one.again) and one.equal and not one.differs and why.equal
    assert one.then > 1 and one.made.value == 400.0 and one.made.role == "champion" and one.made.version == ""
    assert one.made.objective == "default" and one.made.budget == 7.0
    assert "400" in one.reason
    assert series(directory, facts["print"], facts["alert"]).points[0].again == one.again


def test_the_score_that_a_canary_served_is_made_again(told: tuple[Path, dict[str, Any]]) -> None:
    directory, facts = told
    (one,) = series(directory, 'depth{queue="q5"}', facts["canary"]).points
    assert one.made is not None and (one.made.role, one.made.version) == ("canary", facts["version"])
    assert bits(one.then) == bits(one.again) and one.source == NOTED and not one.differs


def test_a_score_after_a_restart_under_another_configuration(told: tuple[Path, dict[str, Any]]) -> None:
    directory, facts = told
    (one,) = series(directory, 'depth{queue="q7"}', facts["later"]).points
    assert one.made is not None and (one.made.budget, one.made.version) == (3.0, facts["version"])
    assert bits(one.then) == bits(one.again) and not one.differs


def test_a_point_without_an_alert_is_compared_as_it_was_recorded(told: tuple[Path, dict[str, Any]]) -> None:
    directory, facts = told
    (one,) = series(directory, 'depth{queue="q9"}', facts["alert"] + 10).points
    assert one.source == RECORDED and one.equal and not one.alerting and one.time_ns == round(facts["alert"] * 1e9)


def test_an_incident_opens_again(told: tuple[Path, dict[str, Any]]) -> None:
    directory, facts = told
    why = incident(directory, facts["incidents"][0])
    assert why.opened and why.equal and why.points and all(one.source == NOTED for one in why.points)
    assert why.raised_by and why.replayed


def test_it_does_not_disturb_a_service_that_runs(told: tuple[Path, dict[str, Any]]) -> None:
    directory, facts = told
    assert facts["live"].equal and facts["failures"] == 0
    (newest,) = facts["newest"].points  # in no segment yet, so there is nothing to compare it with
    assert newest.made is not None and newest.time_ns == ns(facts["calm"]) and newest.equal is None
    assert "not on the disk yet" in newest.notes[0] and not facts["newest"].equal
    before = sorted((path.relative_to(directory), path.stat().st_size) for path in directory.rglob("*.log"))
    series(directory, 'depth{queue="q3"}', facts["alert"])
    after = sorted((path.relative_to(directory), path.stat().st_size) for path in directory.rglob("*.log"))
    assert before == after and not list((directory / "audit").glob(".why-*"))


def test_a_changed_byte_of_the_log_is_named(told: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    directory, facts = told
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    (known,) = series(copy, 'depth{queue="q3"}', facts["alert"]).points
    assert known.made is not None
    _, path = log_files(copy / "wal")[0]
    at, wanted = FILE_HEADER.size, known.made.sequence
    for record in read_file(path):
        if record.sequence == wanted:
            break
        at += RECORD_HEADER.size + len(record.received.body)  # type: ignore[union-attr]
    data = bytearray(path.read_bytes())
    data[at + RECORD_HEADER.size + 40] ^= 1
    path.write_bytes(data)
    why = series(copy, 'depth{queue="q3"}', facts["alert"])
    assert not why.equal and f"record {wanted} of the log cannot be read" in why.missing
    assert f"{path.name} at byte {at}: the checksum of record {wanted} does not fit its body" in why.missing
    (one,) = why.points
    assert one.equal is None and "not bit for bit" in one.notes[0] and one.then == known.then
    assert one.again > 1  # from the recorded points it still stands out


def test_what_retention_took_is_said(told: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    directory, facts = told
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    for path in [*(copy / "wal").glob("*.log"), *(copy / "snapshots").glob("*.snapshot")]:
        path.unlink()
    why = series(copy, 'depth{queue="q3"}', facts["alert"])
    assert "no snapshot from before then is kept, and the log is gone" in why.missing and "audit.keep" in why.missing
    assert why.points[0].equal is None and not why.equal


@pytest.mark.parametrize("what", ["snapshot", "version", "configuration"])
def test_anything_else_that_was_changed_is_named(told: tuple[Path, dict[str, Any]], tmp_path: Path, what: str) -> None:
    directory, facts = told
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    for path in (copy / "snapshots").glob("*.snapshot"):
        path.unlink() if what != "snapshot" else path.write_bytes(path.read_bytes()[:-9])
    if what == "version":
        shutil.rmtree(copy / "lifecycle" / "models" / facts["version"])
    if what == "configuration":
        for path in (copy / "audit" / "configurations").glob("*.json"):
            path.write_bytes(path.read_bytes() + b" ")
    why = series(copy, 'depth{queue="q7"}', facts["later"])
    if what == "snapshot":  # the log reaches back to its beginning
        assert why.equal and why.begun == 0 and "snapshot" in why.notes[0]
    else:
        assert not why.equal and {"version": facts["version"], "configuration": "was changed"}[what] in why.missing


def test_the_command(told: tuple[Path, dict[str, Any]]) -> None:
    directory, facts = told
    asked = ["audit", "why", "--series", 'depth{queue="q3"}', "--at", str(facts["alert"]), "--data-dir", str(directory)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert (
        done.output.startswith("depth{")
        and "equal in every bit" in done.output
        and "default, 7 alerts a week" in done.output
    )
    done = CliRunner().invoke(app, [*asked, "--json"])
    tree = json.loads(done.output)
    assert tree["equal"] and tree["points"][0]["then_bits"] == tree["points"][0]["again_bits"]
    done = CliRunner().invoke(app, ["audit", "why", "--incident", facts["incidents"][0], "--data-dir", str(directory)])
    assert done.exit_code == 0 and "opened again, equal" in done.output, done.output
    assert CliRunner().invoke(app, ["audit", "why", "--data-dir", str(directory)]).exit_code == 2


def test_who_changed_what_is_one_list(told: tuple[Path, dict[str, Any]]) -> None:
    facts = told[1]
    found = facts["list"]
    assert found["problems"] == [] and found["total"] == len(found["entries"])
    times = [one["time"] for one in found["entries"]]
    assert times == sorted(times, reverse=True)
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for one in found["entries"]:
        by_kind.setdefault(one["kind"], []).append(one)
    newest, first = by_kind["config"]
    assert newest["details"]["changed"]["budget"] == ["1/day", "3/week"] and newest["code"] == first["code"] != ""
    (verdict,) = by_kind["verdict"]
    assert (verdict["who"], verdict["why"]) == ("ann", "a test") and verdict["data"].startswith("depth{")
    assert 'queue="q3"' in verdict["data"] and verdict["what"].startswith("false_alert at 2025-10-09T")
    assert [one["what"].split()[0] for one in by_kind["rollout"]] == ["promote", "canary"]
    assert by_kind["rollout"][0]["details"]["evidence"]["other"]["version"] == facts["version"]
    assert facts["version"] in {one["what"].removeprefix("made ") for one in by_kind["version"]}
    (decision,) = by_kind["decision"]
    assert (decision["what"], decision["who"], decision["data"]) == ("maintenance disks", "bob", "pay")
    assert [one["kind"] for one in facts["anns"]["entries"]] == ["verdict"]
    assert facts["wrong"].status_code == 400 and "kind: expected some of config" in facts["wrong"].json()["error"]


def test_the_list_of_a_data_directory(told: tuple[Path, dict[str, Any]]) -> None:
    directory = told[0]
    done = CliRunner().invoke(app, ["audit", "--data-dir", str(directory), "--kind", "rollout,verdict", "--json"])
    assert done.exit_code == 0, done.output
    assert {one["kind"] for one in json.loads(done.output)["entries"]} == {"rollout", "verdict"}
    done = CliRunner().invoke(app, ["audit", "--data-dir", str(directory), "--who", "bob", "--kind", "decision"])
    assert "bob" in done.output and done.output.rstrip().endswith("1 change")
