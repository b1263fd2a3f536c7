"""The monitor of a running service: what it compares, what it says, and that nothing it lacks stops it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from typer.testing import CliRunner

from otel_aiops.cli import app
from otel_aiops.lifecycle.behaviour import Promise, Rate
from otel_aiops.lifecycle.comparison import LEAST_POINTS
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.drift import Drift
from otel_aiops.lifecycle.health import Budgeted, Health, SelfTest
from otel_aiops.lifecycle.manifest import Window
from otel_aiops.lifecycle.performance import Estimated, Judged
from otel_aiops.lifecycle.version import Lineage
from otel_aiops.monitor import PREFIX, gauges
from otel_aiops.otlp.semconv import METRICS
from otel_aiops.series.rows import Columns
from otel_aiops.series.segments import HOUR_NS, Segments
from tests.feed import Feed
from tests.incident_feed import call
from tests.lifecycle.test_drift import name
from tests.servers import wait_for
from tests.test_app import Running, running

FIRST = 488_880  # an hour; 2025-10-09T00:00:00Z
PODS = 3
QUARTER_NS = HOUR_NS // 4
SHORT = "lifecycle: {monitoring: {reference: 3d, gap: 1d, interval: 3600}}\n"
HOURS = 24 * 5


Record = Callable[..., None]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Fills a data directory, from one that is written once."""
    made: dict[tuple[float, int], Path] = {}

    def fill(folder: Path, *, by: float = 0.0, since: int = HOURS - 30) -> None:
        if (by, since) not in made:
            made[by, since] = tmp_path_factory.mktemp("recorded")
            write(made[by, since], by=by, since=since)
        shutil.copytree(made[by, since], folder, dirs_exist_ok=True)

    return fill


def write(folder: Path, hours: int = HOURS, *, by: float, since: int) -> None:
    """Days of a wave of three pods, which moves at some hour."""
    time_ns = FIRST * HOUR_NS + np.repeat(np.arange(hours * 4), PODS) * QUARTER_NS
    code = np.tile(np.arange(PODS, dtype=np.int32), hours * 4)
    hour = (time_ns // HOUR_NS) - FIRST
    value = 100 + 20 * np.sin(2 * np.pi * time_ns / (24 * HOUR_NS)) + np.random.default_rng(0).normal(0, 3, len(code))
    value = value + by * (hour >= since)
    texts = [name(pod) for pod in range(PODS)]
    prints = np.arange(PODS).astype(np.uint64)
    columns = Columns(code, time_ns, value, np.full(len(code), 0.5, np.float32), texts, prints)
    Segments(folder / "segments").write(1, 1, columns)


@contextmanager
def watched(folder: Path, more: str = SHORT, hours: int = HOURS) -> Iterator[Running]:
    """A service whose event clock stands at the end of what is recorded."""
    with running(folder, more) as up:
        reach_now(up, hours)
        yield up


def reach_now(up: Running, hours: int = HOURS) -> None:
    """Set the event clock to the end of what is recorded."""
    for k in range(20):
        up.send(Feed("pay").gauge("queue", (FIRST + hours) * 3_600 + 1_000 + k, 5.0))
    up.settle()


def test_before_the_first_look_nothing_is_known(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        found = up.get("/api/v1/models/health")
        assert found["time"] is None and found["problems"] == [] and found["notes"] == ["nothing was looked at yet"]
        health = up.service.monitor.look()
        assert not health.drifts and any("expected at least 2 days of the history" in note for note in health.notes)
        assert any("self-test" in note for note in health.notes) and any("no verdicts" in note for note in health.notes)


def test_stable_history_is_no_drift(tmp_path: Path, record: Record) -> None:
    record(tmp_path)
    with watched(tmp_path) as up:
        health = up.service.monitor.look()
        assert health.drifts == () and health.problems == ()
        assert [(one.service, one.metric, one.series) for one in health.groups] == [("cart", "load", PODS)]
        assert health.reference == "the history until 1 days ago"
        assert up.service.monitor.look().groups == health.groups  # from what it remembers


def test_a_persistent_drift_is_seen_everywhere(tmp_path: Path, record: Record) -> None:
    record(tmp_path, by=40.0)
    with watched(tmp_path) as up:
        health = up.service.monitor.look()
        (drift,) = health.drifts
        assert drift.persistent and drift.effect > 1 and health.problems == (drift.text,)
        found = up.get("/api/v1/models/health")
        assert found["drifts"][0]["text"] == drift.text and found["problems"] == [drift.text]
        text = requests.get(f"http://127.0.0.1:{up.ports['api']}/metrics", timeout=30).text
        assert 'otel_aiops_model_drifts_persistent{kind="input"} 1.0' in text
        assert 'otel_aiops_model_drift_share_ratio{metric="load",service_name="cart"} 1.0' in text
        url = ["--url", f"http://127.0.0.1:{up.ports['api']}"]
        told = CliRunner().invoke(app, ["models", "health", *url])
        assert told.exit_code == 1 and "load of cart" in told.output and "spreads" in told.output
        told = CliRunner().invoke(app, ["models", "health", "--json", *url])
        assert told.exit_code == 1 and json.loads(told.output)["drifts"][0]["persistent"]


def test_a_damaged_hour_is_left_out_and_said(tmp_path: Path, record: Record) -> None:
    """Drift is still seen; a file that the disk has spoilt blinds nobody."""
    record(tmp_path, by=40.0)
    segments = sorted((tmp_path / "segments").rglob("*.parquet"))
    segments[-10].write_bytes(segments[-10].read_bytes()[:-20])
    with watched(tmp_path) as up:
        health = up.service.monitor.look()
        assert [one.persistent for one in health.drifts] == [True]
        (note,) = [one for one in health.notes if "left out" in one]
        assert note.startswith("1 recorded hours are left out: ") and segments[-10].name in note


def test_a_champion_is_compared_with_what_it_learned_from(tmp_path: Path, record: Record) -> None:
    record(tmp_path, by=40.0, since=24 * 3)  # the history of a day ago has moved already
    now_ns = (FIRST + HOURS + 2) * HOUR_NS
    learned = Datasets.of(tmp_path).build(Window(FIRST * HOUR_NS, (FIRST + 60) * HOUR_NS), now_ns=now_ns)
    with watched(tmp_path) as up:
        saved = call(up, "POST", "models", {"who": "ana"}).json()["id"]
        version, bundle = up.service.models.load(saved)
        made = up.service.models.write(version.settings, bundle, Lineage(dataset=learned.id)).id
        for action in ("shadow", "promote"):
            call(up, "POST", "rollout", {"action": action, "version": made, "who": "ana"})
        health = up.service.monitor.look()
        assert (health.version, health.reference) == (made, f"the dataset {learned.id}")
        assert [one.persistent for one in health.drifts] == [True]
        assert up.service.monitor.look().drifts == health.drifts
        Datasets.of(tmp_path).delete(learned.id)
        up.service.monitor.__init__(up.service)  # type: ignore[misc]  # as after a start
        health = up.service.monitor.look()
        assert any("cannot be read, so it is compared with the history" in note for note in health.notes)


def test_counts_outlive_a_restart_and_damage(tmp_path: Path) -> None:
    with watched(tmp_path) as up:
        up.service.monitor.look()
        before = saved(tmp_path)
        assert sum(row[0] for row in before["hours"].values()) == 20
    with running(tmp_path) as up:
        up.service.monitor.look()
        assert saved(tmp_path)["hours"] == before["hours"]
    (tmp_path / "lifecycle" / "monitoring.json").write_text("{")
    with running(tmp_path) as up:
        up.service.monitor.look()
        assert saved(tmp_path)["hours"] == {}


def saved(folder: Path) -> Any:
    return json.loads((folder / "lifecycle" / "monitoring.json").read_bytes())


def test_verdicts_and_the_self_test_are_part_of_it(tmp_path: Path, record: Record) -> None:
    record(tmp_path)
    with watched(tmp_path) as up:
        at = (FIRST + HOURS) * 3_600 + 1_010
        given = {"series": "queue", "time": at, "verdict": "false_alert", "ratio": 1.2, "by": "ana"}
        assert call(up, "POST", "verdicts", given).status_code == 200
        up.settle()
        report = {"faults": {"spike": {"recall": 0.75}}, "problems": ["it never fires"]}
        up.service.checkup.latest = report
        health = up.service.monitor.look()
        assert health.judged and (health.judged.true, health.judged.false) == (0, 1)
        assert health.problems == ("self-test: it never fires",)
        value = up.service.telemetry.value
        assert value("otel_aiops.model.fault.recall", fault="spike") == 0.75
        assert value("otel_aiops.model.verdicts", verdict="false") == 1
        assert value("otel_aiops.model.problems") == 1
        up.service.checkup.latest = {"faults": {}, "problems": []}
        up.service.monitor.look()
        assert value("otel_aiops.model.problems") == 0


def test_all_that_is_declared_is_emitted_and_nothing_else() -> None:
    of_versions = {"info", "over.ratio", "alerts", "calibration.error"}  # by the step loop
    declared = {name.removeprefix(PREFIX): len(one.attributes) for name, one in METRICS.items() if PREFIX in name}
    told = gauges(Health())
    assert told.keys() == declared.keys() - of_versions
    drift = Drift(kind="input", what="level", service="cart", metric="load", effect=2.0, looks=3)
    budget = Budgeted(name="shop", promised=2.0, used=1, projected=2.0)
    full = Health(
        time_ns=FIRST * HOUR_NS,
        drifts=(drift,),
        groups=(drift,),
        rates=(Rate(name="scores", now=0.1, usual=0.1, deviation=0.0, unusual=False),),
        promises=(Promise(level=0.99, promised=0.01, observed=0.01, times=1.0, before=1.0, points=10),),
        budgets=(budget,),
        selftest=SelfTest(recall={"spike": 1.0}),
        judged=Judged(true=1, false=1, missed=0, precision=0.5, low=0.1, high=0.9, since_ns=0),
        estimated=Estimated(alerts=1.0, false_alerts=0.1, precision=0.9, recall=0.8, missed=0.2, hours=168),
    )
    for metric, values in gauges(full).items():
        assert values and all(len(key) == declared[metric] for key in values), metric


def test_probabilities_are_judged_from_enough_points(tmp_path: Path) -> None:
    """As a metric, by the monitor and by the command; of few points chance alone puts them far off."""
    with running(tmp_path) as up:
        counts = up.service.pipeline.serving.champion.seen["probability"]
        for points, error in ((LEAST_POINTS - 1, None), (2 * LEAST_POINTS, pytest.approx(0.95))):
            up.service.ask(lambda points=points: counts.__setitem__(0, points))  # type: ignore[misc]
            assert up.service.monitor.look().to_json()["calibration_error"] == error
            name, shown = "otel_aiops_model_calibration_error_ratio", 0.0 if error is None else error
            wait_for(lambda name=name, shown=shown: up.metric(name) == shown, "the metric")  # type: ignore[misc]
            told = CliRunner().invoke(app, ["models", "health", "--url", f"http://127.0.0.1:{up.ports['api']}"])
            assert ("probabilities off by at most" in told.output and "95.0%" in told.output) == (error is not None)


@pytest.mark.parametrize(("enabled", "looks"), [("true", True), ("false", False)])
def test_it_looks_by_itself_unless_it_is_off(tmp_path: Path, enabled: str, looks: bool) -> None:
    with running(tmp_path, f"lifecycle: {{monitoring: {{enabled: {enabled}, interval: 0.05}}}}\n") as up:
        up.send(Feed("pay").gauge("queue", FIRST * 3_600, 5.0))
        up.settle()
        if looks:
            wait_for(lambda: up.service.monitor.health.time_ns, "a look")
        else:
            up.service.monitor.errand.stop()
            assert not up.service.monitor.health.time_ns
