"""Versions of a running service: shadow, canary, promotion, the way back, and that a crash repeats every step."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from typer.testing import CliRunner

from otel_aiops.cli import app
from otel_aiops.detect.serving import Action, Rollout
from otel_aiops.lifecycle.report import REPORT, Feedback
from otel_aiops.lifecycle.version import BUNDLE, Lineage, Settings
from tests import test_app
from tests.feed import Feed
from tests.incident_feed import call
from tests.lifecycle.test_gate import GOOD, report
from tests.servers import wait_for
from tests.test_app import Running, running

SERIES, STEP_S = 20, 30.0
TAUGHT = Feedback(
    kinds={"false_alert": 14},
    late=0,
    without={"false_a_week": 31.0, "recall": 0.8, "fault_recall": float("nan")},
    taught={"false_a_week": 9.0, "recall": 0.8, "fault_recall": float("nan")},
)


class Shop:
    """A running service that is fed with queues."""

    def __init__(self, up: Running) -> None:
        self.up = up
        self.now_s = 1_760_000_000.0

    def feed(self, steps: int, **odd: float) -> None:
        for _ in range(steps):
            self.now_s += STEP_S
            noise = np.random.default_rng(round(self.now_s)).normal(100, 3, SERIES)
            one = Feed("queue")
            for n in range(SERIES):
                one.gauge("depth", self.now_s, odd.get(f"q{n}", float(noise[n])), queue=f"q{n}")
            self.up.send(one)
        self.up.settle()

    def roll(self, action: str, **more: Any) -> Any:
        return call(self.up, "POST", "rollout", {"action": action, "who": "ana", **more})

    def challenger(self, threshold: float = 3.0) -> str:
        """What serves now, as a version with another threshold."""
        models = self.up.service.models
        saved = call(self.up, "POST", "models", {"who": "ana", "why": "a test"}).json()["id"]
        version, bundle = models.load(saved)
        changed = Settings(replace(version.settings.detection, threshold=threshold))
        return models.write(changed, bundle, Lineage(parent=saved)).id


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with running(tmp_path) as up:
        found = Shop(up)
        found.feed(40)
        yield found


def test_the_circle_of_a_version(shop: Shop) -> None:
    up = shop.up
    assert up.get("/api/v1/models")["models"] == []
    assert up.get("/api/v1/rollout")["champion"] == ""
    strict = shop.challenger(threshold=2.0)
    found = shop.roll("shadow", version=strict, why="try it").json()
    champion = found["champion"]
    assert (found["other"], found["role"]) == (strict, "shadow")
    version, bundle = up.service.models.load(champion)
    assert len(bundle.labels) == SERIES and version.settings.detection == up.service.config.detection
    shop.feed(5, q3=115.0)
    assert "otel_aiops_model_calibration_error_ratio{" not in text(up), "of so few points it is chance"
    compared = up.get("/api/v1/rollout")["comparison"]
    assert compared["champion"]["points"] == compared["other"]["points"] == 5 * SERIES
    assert compared["other"]["over_ratio"] >= compared["champion"]["over_ratio"]
    assert shop.roll("canary", version=strict, share=0.5).json()["role"] == "canary"
    shop.feed(2)
    assert shop.roll("promote", version=strict).json()["champion"] == strict
    began_s = time.monotonic()
    found = shop.roll("rollback", why="no").json()
    assert (found["champion"], found["other"]) == (champion, None) and time.monotonic() - began_s < 5
    roles = {one["id"]: one["role"] for one in up.get("/api/v1/models")["models"]}
    assert roles[champion] == "champion"
    shop.feed(2)
    assert up.service.telemetry.value("otel_aiops.step.failures") == 0
    done = up.get("/api/v1/rollout/history")["rollouts"]
    assert [one["action"] for one in done] == ["rollback", "promote", "canary", "shadow"]
    assert done[0]["why"] == "no" and done[0]["evidence"]["other"]["version"] == champion
    wait_for(lambda: f'otel_aiops_model_info{{role="champion",version="{champion}"}} 1' in text(up), "the metric")


def text(up: Running) -> str:
    return requests.get(f"http://127.0.0.1:{up.ports['api']}/metrics", timeout=30).text


def test_the_alerts_of_both_are_kept_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = test_app.QUICK.replace("warmup_points: 5", "warmup_points: 5, novelty_memory: 0")
    monkeypatch.setattr(test_app, "QUICK", plain)  # so that a high threshold makes a version deaf
    with running(tmp_path, "budget: 100000/week\n") as up:
        shop = Shop(up)
        shop.feed(40)
        shop.roll("shadow", version=shop.challenger(threshold=600.0))
        shop.feed(3, q3=300.0)
        compared = up.get("/api/v1/rollout")["comparison"]
        assert (compared["champion"]["alerts"], compared["other"]["alerts"], compared["alerts_of_both"]) == (1, 0, 0)
        (alert,) = compared["only_champion"]
        assert 'queue="q3"' in alert["series"] and compared["only_other"] == []
        url = f"http://127.0.0.1:{up.ports['api']}"
        shown = CliRunner().invoke(app, ["rollout", "show", "--url", url], env={"COLUMNS": "160"})
        assert "only the champion" in shown.output and 'queue="q3"' in shown.output, shown.output
        shop.feed(20)
        shop.roll("shadow", version=shop.challenger(threshold=6.5))
        shop.feed(3, q5=300.0)
        compared = up.get("/api/v1/rollout")["comparison"]
        assert compared["alerts_of_both"] == compared["other"]["alerts"] == 1 and not compared["only_champion"]


def test_versions_that_are_swapped_while_points_come_lose_none(shop: Shop) -> None:
    """Each point that was sent is scored once by who serves then, however orders fall between them."""
    telemetry = shop.up.service.telemetry
    before, steps = telemetry.value("otel_aiops.points.scored"), 60
    strict = shop.challenger()
    sending = threading.Thread(target=shop.feed, args=(steps,))
    sending.start()
    orders = 0
    while sending.is_alive() or not orders:
        for action in ("shadow", "promote", "rollback"):
            assert shop.roll(action, version="" if action == "rollback" else strict).status_code == 200
            orders += 1
    sending.join()
    shop.up.settle()
    assert telemetry.value("otel_aiops.points.scored") - before == steps * SERIES and orders >= 3
    assert telemetry.value("otel_aiops.step.failures") == telemetry.total("otel_aiops.rollout.failures") == 0


RULES = (
    "lifecycle: {rollout: {automatic: true, interval: 0.2, shadow: 60, canary: 60, probation: 60, least_points: 1}}\n"
)


def test_the_rules_carry_a_good_one_on(tmp_path: Path) -> None:
    with running(tmp_path, RULES) as up:
        shop = Shop(up)
        shop.feed(40)
        good = shop.challenger(threshold=6.5)
        shop.roll("shadow", version=good)

        def on() -> bool:
            shop.feed(1)
            found = up.get("/api/v1/rollout")
            return found["champion"] == good and found["other"] is None

        wait_for(on, "the challenger to be the champion alone", every_s=0.2)
        done = up.get("/api/v1/rollout/history")["rollouts"]
        assert [one["action"] for one in done] == ["stop", "promote", "canary", "shadow"]
        assert done[1]["who"] == "otel-aiops" and "nothing was worse" in done[1]["why"]


def test_a_bad_one_is_rolled_back_in_canary(tmp_path: Path) -> None:
    with running(tmp_path, RULES.replace("canary: 60", "canary: 86400") + "budget: 100000/week\n") as up:
        shop = Shop(up)
        shop.feed(40)
        bad = shop.challenger(threshold=0.2)
        shop.roll("canary", version=bad, share=0.5)
        champion = up.get("/api/v1/rollout")["champion"]

        def back() -> bool:
            shop.feed(1)
            found = up.get("/api/v1/rollout")
            return (found["champion"], found["other"]) == (champion, None)

        wait_for(back, "the challenger to be gone", every_s=0.2)
        last = up.get("/api/v1/rollout/history")["rollouts"][0]
        assert (last["action"], last["who"]) == ("rollback", "otel-aiops") and last["evidence"]


def test_without_automatic_the_rules_only_advise(tmp_path: Path) -> None:
    with running(tmp_path, RULES.replace("automatic: true", "automatic: false")) as up:
        shop = Shop(up)
        shop.feed(40)
        shop.roll("shadow", version=shop.challenger(threshold=6.5))

        def advised() -> bool:
            shop.feed(1)
            return (up.get("/api/v1/rollout")["advice"] or {}).get("action") == "canary"

        wait_for(advised, "advice to go on", every_s=0.2)
        assert up.get("/api/v1/rollout")["role"] == "shadow"


def test_a_crash_repeats_every_step(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        shop = Shop(up)
        shop.feed(40)
        strict = shop.challenger()
        shop.roll("canary", version=strict, share=0.5)
        shop.feed(3)
        shop.roll("promote", version=strict)
        shop.feed(3)
        before = up.service.ask(up.service.pipeline.state)
        up.service.history.snapshot = lambda *_: ""  # type: ignore[method-assign]  # it is killed before it can
    with running(tmp_path) as again:
        after = again.service.ask(again.service.pipeline.state)
        same = [name for name in before if name.startswith("serving/")]
        assert same and all(before[name].tobytes() == after[name].tobytes() for name in same)
        assert again.get("/api/v1/rollout")["champion"] == strict


def test_a_changed_version_is_refused_and_the_champion_serves_on(shop: Shop) -> None:
    strict = shop.challenger()
    path = shop.up.service.models.folder(strict) / BUNDLE
    path.write_bytes(path.read_bytes()[:-1])
    answer = shop.roll("shadow", version=strict)
    assert answer.status_code == 409 and "it was changed" in answer.json()["error"]
    shop.feed(1)
    assert shop.up.get("/api/v1/rollout")["other"] is None


def test_one_that_is_changed_after_the_order_was_logged_stops_nothing(shop: Shop) -> None:
    strict = shop.challenger()
    path = shop.up.service.models.folder(strict) / BUNDLE
    order = Rollout(action=Action.SHADOW, version=strict, who="ana")
    path.write_bytes(path.read_bytes()[:-1])
    sequence = shop.up.service.ingest.roll(order)
    wait_for(lambda: shop.up.service.sequence >= sequence, "the order to be taken in")
    shop.feed(1)
    assert shop.up.get("/api/v1/rollout")["other"] is None
    assert shop.up.metric("otel_aiops_rollout_failures_total") == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"action": "jump"}, "action: expected one of shadow, canary"),
        ({"action": "shadow"}, "version: expected the one to shadow, got none"),
        ({"action": "shadow", "version": "0" * 16}, "model version: expected one of"),
        ({"action": "shadow", "version": "../x"}, "expected 16 hexadecimal digits"),
        ({"action": "canary", "version": "0" * 16, "share": 2}, "share: expected one in (0, 1]"),
        ({"action": "canary", "version": "0" * 16, "share": "half"}, "share: expected a number"),
        ({"action": "promote", "version": "0" * 16}, "expected the one beside the champion"),
        ({"action": "rollback"}, "expected a version before the champion"),
        ({"action": "stop"}, "expected a version beside the champion"),
        ({"action": "stop", "who": ""}, "who: expected a value"),
        ({"action": "stop", "colour": 1}, "colour: is not a known key"),
    ],
)
def test_what_cannot_be_done_is_said(shop: Shop, asked: dict[str, Any], message: str) -> None:
    answer = call(shop.up, "POST", "rollout", {"who": "ana", **asked})
    assert answer.status_code == 400 and message in answer.json()["error"]


def test_the_commands_show_and_change_what_runs(shop: Shop) -> None:
    url = f"http://127.0.0.1:{shop.up.ports['api']}"

    def said(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--url", url], env={"USER": "ana", "COLUMNS": "160"})
        assert done.exit_code == 0, done.output
        return done.output

    assert "without a version yet" in said("rollout", "show")
    assert "20 series" in said("models", "save", "--why", "before the weekend")
    strict = shop.challenger()
    assert f"beside it: {strict} as shadow" in said("rollout", "shadow", strict)
    champion = shop.up.get("/api/v1/rollout")["champion"]
    shop.feed(2)
    assert "which serves 25.0% of the series" in said("rollout", "canary", strict, "--share", "0.25")
    assert f"champion: {strict}" in said("rollout", "promote", strict)
    assert f"champion: {champion}" in said("rollback", "--why", "no")
    listed = said("models", "list")
    assert champion in listed and "champion" in listed
    shown = said("models", "show", strict)
    assert "settings.threshold         3.0" in shown
    assert f"report                     none yet; otel-aiops evaluate {strict} makes it" in shown
    told = replace(report(GOOD), version=strict, feedback=TAUGHT)
    (shop.up.service.models.folder(strict) / REPORT).write_text(json.dumps(told.to_json()))
    shown = said("models", "show", strict)
    assert "report                     0 alerts in 28 held-out days, missing none of 10 known incidents" in shown
    assert "14 verdicts: false alerts 31 → 9 a week, events with an alert 80% → 80%" in shown
    assert f"/api/v1/models/{strict}/report" in shown
    missing = requests.get(f"{url}/api/v1/models/{'0' * 16}", timeout=10)
    assert missing.status_code == 404
