"""Verdicts on incidents of a running service, and the queue of alerts that it would like to be told of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from otel_aiops.cli import app
from tests.incident_feed import call
from tests.test_app import Running, running
from tests.test_rollout import Shop


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory: Path = tmp_path_factory.mktemp("data")
    with running(directory) as found:
        shop = Shop(found)
        shop.feed(40)
        shop.feed(3, q1=400.0, q2=420.0)
        shop.feed(30)
        shop.feed(6, **{f"q{n}": 900.0 for n in range(5, 12)})
        yield found


def verdict(up: Running, name: str, **asked: str) -> tuple[int, dict[str, object]]:
    answer = call(up, "POST", f"incidents/{name}/verdict", asked)
    return answer.status_code, answer.json()


def test_a_verdict_on_an_incident_teaches_its_series(up: Running) -> None:
    (name,) = [one["id"] for one in up.get("/api/v1/incidents")["incidents"]][:1]
    code, found = verdict(up, name, verdict="expected", who="ann", why="load test")
    assert code == 200 and found["verdict"] == "expected" and int(str(found["series"])) >= 1
    up.settle()
    told = up.get("/api/v1/verdicts")["verdicts"]
    assert {(one["verdict"], one["incident"], one["shift"]) for one in told} == {("expected", name, 0.0)}
    code, found = verdict(up, name, verdict="real", who="ann")
    up.settle()
    newest = up.get("/api/v1/verdicts")["verdicts"][0]
    assert code == 200 and newest["verdict"] == "true_alert" and newest["shift"] != 0
    kept = {one.incident for _, one in up.service.chronicle.journal.verdicts()}
    assert kept == {name}


def test_what_is_wrong_with_a_verdict_is_said(up: Running) -> None:
    (name,) = [one["id"] for one in up.get("/api/v1/incidents")["incidents"]][:1]
    for asked, message in (
        ({"verdict": "odd", "who": "a"}, "verdict: expected one of real, false, true_alert, false_alert, duplicate"),
        ({"verdict": "missed", "who": "a"}, "verdict: expected one of"),
        ({"verdict": "real"}, "who: expected a value"),
        ({"verdict": "duplicate", "who": "a"}, "of: expected the id of the other incident"),
        ({"verdict": "duplicate", "who": "a", "of": name}, "of: expected the id of another incident"),
        ({"verdict": "duplicate", "who": "a", "of": "INC-0"}, "of: expected the id of another incident"),
        ({"verdict": "real", "who": "a", "odd": "1"}, "odd: is not a known key"),
    ):
        code, found = verdict(up, name, **asked)
        assert code == 400 and message in str(found["error"]), found
    assert verdict(up, "INC-0", verdict="real", who="a")[0] == 404


def test_the_queue_proposes_alerts_without_a_verdict(up: Running) -> None:
    found = up.get("/api/v1/feedback/queue", limit=3)
    assert 1 <= len(found["queue"]) <= 3 and found["alerts"] >= len(found["queue"])
    worths = [one["worth"] for one in found["queue"]]
    assert worths == sorted(worths, reverse=True) and found["queue"][0]["reasons"]
    first = found["queue"][0]
    asked = {"series": first["fingerprint"], "time": first["since"], "verdict": "false", "by": "ann"}
    assert call(up, "POST", "verdicts", asked).status_code == 200
    up.settle()
    left = up.get("/api/v1/feedback/queue", limit=100)["queue"]
    assert (first["fingerprint"], first["since"]) not in {(one["fingerprint"], one["since"]) for one in left}


def test_the_commands(up: Running) -> None:
    url = f"http://127.0.0.1:{up.ports['api']}"
    done = CliRunner().invoke(app, ["feedback", "queue", "--url", url])
    assert done.exit_code == 0 and "otel-aiops verdict " in done.output, done.output
    assert "VERDICT: real, false, expected, or duplicate with --of" in done.output
    wrong = CliRunner().invoke(app, ["incidents", "verdict", "INC-0", "duplicate", "--who", "ann", "--url", url])
    assert str(wrong.exception).startswith("the service: http://"), wrong.exception
    (name,) = [one["id"] for one in up.get("/api/v1/incidents")["incidents"]][:1]
    done = CliRunner().invoke(app, ["incidents", "verdict", name, "false", "--who", "ann", "--url", url])
    assert done.exit_code == 0 and f"{name}: false_alert, said of" in done.output, done.output
    done = CliRunner().invoke(app, ["audit", "--url", url, "--kind", "verdict", "--json"])
    assert done.exit_code == 0 and '"who": "ann"' in done.output
