"""Precursors of a running service: learned from its own history, told by API and command, right or wrong, kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from otel_aiops.cli import app
from otel_aiops.config import ServiceConfig
from otel_aiops.errors import StorageError
from otel_aiops.incidents.incident import Channel, Evidence, Finding, Incident, Severity, State
from otel_aiops.incidents.signs import Seen
from otel_aiops.trainer import MOST_WINDOWS, windows
from tests.feed import Feed
from tests.servers import wait_for
from tests.test_app import Running

S = 1_000_000_000
DAY_S = 86_400
NOW_S = 1_767_614_400.0  # a Monday, noon UTC, at which the clock of the service stands still
STEP_S = 10
WARM_S = 300  # of quiet before anything happens
SOON = "incidents: {precursors: {interval: 1s, horizon: 30m}}\n"


@contextmanager
def started(folder: Path, more: str = SOON) -> Iterator[Running]:
    """A service in which no time passes by itself."""
    found = Running(folder, more, clock_ns=lambda: round((NOW_S + 1) * S))
    found.service.config = replace(found.service.config, service=ServiceConfig(tick_interval=3600))
    found.service.start()
    try:
        yield found
    finally:
        found.service.stop()


def finding(service: str, at_s: float) -> Finding:
    evidence = Evidence(channel=Channel.SERIES, service=service, what="cpu", before=1.0, after=2.0)
    return Finding(
        key=f"{service}-{at_s}",
        service=service,
        channel=Channel.SERIES,
        start_ns=round(at_s * S),
        last_ns=round(at_s * S),
        evidence=evidence,
    )


def remember(up: Running, incidents: int) -> None:
    """Give a service a past: an anomaly of db, and 10 to 25 minutes later an incident of cart, every 7 to 9 hours."""
    random = np.random.default_rng(2)
    sign_s = NOW_S - DAY_S / 4 - np.cumsum(random.integers(7 * 3_600, 9 * 3_600, incidents))[::-1]
    start_s = sign_s + random.integers(600, 1_500, incidents)

    def fill() -> None:
        signs = up.service.pipeline.analysis.forewarning.signs
        signs.take([], round((sign_s[0] - 3_600) * S))
        for at_s in sign_s.tolist():
            signs.take([finding("db", at_s)], round(at_s * S))
        for k, at_s in enumerate(start_s.tolist()):
            up.service.chronicle.journal.append([incident(k, at_s)], round(at_s * S))

    up.service.ask(fill)


def incident(k: int, at_s: float) -> Incident:
    return Incident(
        id=f"old{k}",
        revision=1,
        state=State.RESOLVED,
        severity=Severity.WARNING,
        start_ns=round(at_s * S),
        detected_ns=round((at_s + 20) * S),
        end_ns=round((at_s + 300) * S),
        services=("cart",),
        findings=(finding("cart", at_s),),
    )


def feed(up: Running, start_s: float, end_s: float, **loud: float) -> None:
    """Points of five series of cart and one of db; the services that are named are loud from a time on."""
    for at_s in np.arange(start_s, end_s, STEP_S).tolist():
        for service, names in (("db", ["cpu"]), ("cart", ["orders", "baskets", "visits", "views", "offers"])):
            told = Feed(service)
            for k, name in enumerate(names):
                quiet = 50 + (at_s // STEP_S + k) % 3
                told.gauge(name, at_s, 500 if at_s >= loud.get(service, np.inf) else quiet, pod="a")
            assert up.send(told).status_code == 200
    up.settle()


def models(up: Running) -> float:
    return float(len(up.service.ask(lambda: up.service.pipeline.analysis.forewarning.models)))


def predictions(up: Running) -> dict[str, Any]:
    found: dict[str, Any] = up.get("/api/v1/predictions")
    return found


@pytest.fixture
def learned(tmp_path: Path) -> Path:
    """The folder of a service that has a past, was stopped, and has learned from it since."""
    with started(tmp_path, "") as up:
        remember(up, 40)
    return tmp_path


def command(up: Running, *words: str) -> str:
    url = f"http://127.0.0.1:{up.ports['api']}"
    done = CliRunner().invoke(app, [*words, "--url", url], env={"COLUMNS": "250"})
    assert done.exit_code == 0, done.output
    return done.output


def test_too_few_incidents_are_said_to_be_too_few(tmp_path: Path) -> None:
    with started(tmp_path) as up:
        assert "nothing was learned yet" in command(up, "incidents", "precursors")
        remember(up, 5)
        feed(up, NOW_S - 100, NOW_S)
        up.service.trainer.train()
        (row,) = up.get("/api/v1/precursors")["types"]
        assert row["reason"] == "not enough incidents yet: 5 of 12" and not row["model"] and row["before"] == []
        assert (row["type"], row["incidents"], row["needed"]) == ("cart|series", 5, 12)
        assert "not enough incidents yet: 5 of 12" in command(up, "incidents", "precursors")
        assert models(up) == 0 and "records" in predictions(up)


def test_what_came_before_is_learned_told_and_comes_true(learned: Path) -> None:
    start_s = NOW_S - 1_200
    with started(learned) as up:
        feed(up, start_s, start_s + WARM_S)
        wait_for(lambda: models(up) == 1, "a model")
        (row,) = up.get("/api/v1/precursors")["types"]
        assert row["model"] and row["incidents"] == 40 and row["brier"] < 0.8 * row["base_brier"]
        assert row["before"][0]["sign"].endswith("findings of series in db in the last 15 min")
        listed = command(up, "incidents", "precursors")
        assert "cart|series" in listed and "findings of series in db" in listed
        assert not predictions(up)["standing"]
        feed(up, start_s + WARM_S, start_s + WARM_S + 120, db=start_s + WARM_S)
        (said,) = predictions(up)["standing"]
        about = said["prediction"]
        assert about["what"] == "precursor" and about["probability"] >= 0.5 and about["horizon_s"] == 1_800
        assert 0 < about["earliest_s"] <= about["lead_s"] <= about["latest_s"] <= 1_800
        assert about["expires"] == pytest.approx(said["detected_at"] + 1_800) and said["services"] == ["cart"]
        whole = up.get(f"/api/v1/incidents/{said['id']}")
        assert whole["state"] == "predicted" and "series in db" in whole["findings"][0]["evidence"]["text"]
        assert "An incident is likely soon: series of cart" in command(up, "predictions")
        incident_s = start_s + WARM_S + 400
        feed(up, start_s + WARM_S + 120, incident_s + 120, cart=incident_s)
        (opened,) = up.get("/api/v1/incidents", service="cart", state="open")["incidents"]
        found = predictions(up)
        (hit,) = found["decided"]
        assert hit["id"] == said["id"] and hit["prediction"]["outcome"] == "hit" and not found["standing"]
        into = up.get(f"/api/v1/incidents/{hit['merged_into']}")  # which may itself have merged since
        assert opened["id"] in (into["id"], into["merged_into"])
        lead_s = opened["detected_at"] - said["detected_at"]
        assert found["records"]["precursor"]["lead_s"]["p50"] == pytest.approx(lead_s) and 200 < lead_s < 450
        assert found["records"]["precursor"]["hits"] == 1 and found["records"]["exhaustion"]["hits"] == 0
        wait_for(lambda: up.metric("otel_aiops_predictions_reliability_decided") == 1, "the counts to be made")
        assert up.metric("otel_aiops_prediction_lead_time_seconds_sum") == pytest.approx(lead_s)
        assert up.metric("otel_aiops_predictions_hit_total") == 1 == up.metric("otel_aiops_precursors_models")
        assert json.loads(command(up, "incidents", "precursors", "--json"))["total"] == 1


def test_what_does_not_come_is_a_miss_and_a_kill_changes_nothing(learned: Path) -> None:
    start_s = NOW_S - 3_600
    with started(learned) as up:
        feed(up, start_s, start_s + WARM_S)
        wait_for(lambda: models(up) == 1, "a model")
        up.service._snapshot = lambda *_: None  # type: ignore[method-assign]  # as if it were killed
        feed(up, start_s + WARM_S, start_s + WARM_S + 120, db=start_s + WARM_S)
        (said,) = predictions(up)["standing"]
        up.service.trainer.errand.stop()
        up.settle()
        state, history = up.service.ask(up.service.pipeline.state), revisions(up, said["id"])
    with started(learned, "") as up:
        again = up.service.ask(up.service.pipeline.state)
        assert all(state[key].tobytes() == again[key].tobytes() for key in state if key.startswith("analysis/"))
        assert any(key.startswith("analysis/forewarning") for key in state) and models(up) == 1
        assert predictions(up)["standing"] == [said] and revisions(up, said["id"]) == history
        feed(up, start_s + WARM_S + 120, start_s + WARM_S + 2_100)
        found = predictions(up)
        (miss,) = found["decided"]
        assert miss["id"] == said["id"] and miss["prediction"]["outcome"] == "miss" and miss["state"] == "expired"
        assert found["records"]["precursor"]["misses"] == 1
        up.service.reload(up.config("incidents: {precursors: {enabled: false}}\n"))
        assert models(up) == 1 and not up.get("/api/v1/precursors")["enabled"]


def revisions(up: Running, name: str) -> list[int]:
    return [one.revision for _, one in up.service.chronicle.journal.history(name)]


def test_labels_of_others_are_learned_from_and_what_is_wrong_with_them_is_told(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    starts = [NOW_S - 5 * 3_600, NOW_S - 3_600]
    lines = [json.dumps({"service": "shop", "name": "down", "start": at_s, "end": at_s + 60}) for at_s in starts]
    file.write_text("\n".join([*lines, "{}"]))
    with started(tmp_path, f"incidents: {{precursors: {{labels: '{file}'}}}}\n") as up:
        remember(up, 3)
        feed(up, NOW_S - 20, NOW_S)
        report = up.service.trainer.train()
        assert {one.type: one.incidents for one in report.trainings} == {"cart|series": 3, "shop|down": 2}
        assert report.problem == f"1 lines of {file} cannot be read, as line 3: expected a service and a name"
        assert report.problem in command(up, "incidents", "precursors").replace("\n", "")


def test_a_training_that_fails_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = list[Exception]()

    def broken(*_: Any) -> Any:
        failed.append(StorageError("the disk is full") if not failed else ValueError("a fault"))
        raise failed[-1]

    monkeypatch.setattr("otel_aiops.trainer.train", broken)
    with started(tmp_path) as up:
        wait_for(lambda: len(failed) > 2, "it to try again")
        assert up.get("/api/v1/precursors")["types"] == [] and models(up) == 0


def test_windows_are_at_equal_distances_and_not_too_many() -> None:
    seen = Seen(("a",), np.array([100 * S]), np.zeros(1, np.int32), np.ones(1), 100 * S)
    few = windows(seen, 1_300 * S)
    assert few.time_ns.tolist() == [300 * S, 600 * S, 900 * S, 1_200 * S] and few.value[0, 0] == 1
    many = windows(seen, MOST_WINDOWS * 450 * S)
    assert set(np.diff(many.time_ns).tolist()) == {600 * S} and len(many.time_ns) <= MOST_WINDOWS
