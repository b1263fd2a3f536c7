"""The whole circle on real servers: a fault of the shop is found, told, answered, healed, judged and learned from.

The shop's telemetry goes through a real Collector; the incident goes through a real Alertmanager, comes back by its
webhook and begins a playbook, which asks; a person agrees, and its command has the shop take back the bad deployment.
Telemetry has its own time and goes on only when this test lets it: how fast the machine is changes nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from otel_aiops.shop import LIVE_STEP_S, Kind, LiveFault, LiveShop
from otel_aiops.shop.control import Control, command
from tests.servers import Aiops, Alertmanager, free_port, running_collector, wait_for

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(1500)]

COLLECTOR = Path(__file__).parents[2] / "collector-config" / "minimal.yaml"
START_S = 1_767_616_860.0  # a Monday, 12:41 UTC
ENDS_S = START_S + 1_020  # 12:58: the window of the training ends with the hour, and its newest quarter is held out
BREAKS_S = 780.0  # after the start: long enough for cases, which need sixty points before what they are about
DETECTED_S, RESOLVED_S = 90.0, 400.0  # of the shop's time, after the fault began and after it was healed
PATIENCE_S = 600.0  # with a machine that is busy
FAULT = LiveFault(
    kind=Kind.BAD_DEPLOY,
    service="catalog",
    operation="catalog shop.CatalogService/GetProduct",
    start_s=START_S + BREAKS_S,
    end_s=START_S + 86_400,  # until somebody does something
    size=0.8,
    what="a new version of catalog throws",
)
PLAYBOOK = {
    "name": "take-back",
    "on": "notified",
    "dry_run": False,
    "match": {"types": ["errors"], "suspects": ["catalog"]},
    "steps": [
        {
            "do": {"kind": "command", "use": "roll-back"},
            "guard": {"approvals": 1, "expiry": "1h"},
            "verify": {"by": "resolved", "within": "1h"},
        }
    ],
}
CONFIG = """
service: {tick_interval: 1h, snapshot_interval: 15s}
storage: {min_free_bytes: 0, segments_keep: 36500d}
detection: {warmup_points: 30}
selftest: {enabled: false}
datasets: {limits: {min_rows: 100, min_days: 0.001}}
objectives:
- {name: errors, match: {service: catalog, name: traces.span.metrics.errors}, budget: 20/day, responses: [command],
   data: {least_history: 10m, most_gaps: 0.9}}
lifecycle: {monitoring: {enabled: false}, registry: {enabled: false}}
incidents:
  alarm: {warmup: 120s}
  grouping: {group: {join: 60, among: 30, calm: 60, reopen: 30}}
"""
ERRORS = "traces.span.metrics.errors"  # whose series shows the fault best
SERVICES = {"metrics": "metrics.v1.Metrics", "traces": "trace.v1.Trace", "logs": "logs.v1.Logs"}


class World:
    """The shop, what watches it, and the time of both."""

    def __init__(self, folder: Path, aiops: Aiops, alertmanager: Alertmanager, channel: grpc.Channel) -> None:
        self.aiops, self.alertmanager = aiops, alertmanager
        self.shop = LiveShop(START_S, rate=8, plan=[FAULT])
        self.control = Control(folder, self.shop)
        self.step = 0
        self._exports = {
            signal: channel.unary_unary(f"/opentelemetry.proto.collector.{name}Service/Export")
            for signal, name in SERVICES.items()
        }

    @property
    def now_s(self) -> float:
        return self.shop.time_s(self.step)

    def goes_on(self, until_s: float) -> None:
        """Let the shop work until a time of its own; all that it sent has been scored then."""
        while self.now_s < until_s:
            for signal, body in zip(SERVICES, self.shop.requests(self.step), strict=True):
                if body:
                    self._exports[signal](body, timeout=60)
            self.step += 1  # one by one: pipelines of the Collector wait for each other no more than in life
            wait_for(self._scored, "all to come through the Collector and be scored", timeout_s=PATIENCE_S)

    def until(self, check: Callable[[], Any], what: str, within_s: float) -> Any:
        """Let the shop work until something holds, for so much of its time."""
        ends_s = self.now_s + within_s
        while not (found := check()):
            assert self.now_s < ends_s, f"{what}: not within {within_s:.0f} s of the shop's time"
            self.goes_on(self.now_s + 2 * LIVE_STEP_S)
        return found

    def _scored(self) -> bool:
        """A Collector on a busy machine may send something twice."""
        text = requests.get(f"{self.aiops.url}/metrics", timeout=30).text
        spans = total(text, "otel_aiops_receiver_accepted_spans_total") >= self.shop.spans
        logs = total(text, "otel_aiops_receiver_accepted_log_records_total") >= self.shop.logs
        return spans and logs and not self.aiops.status()["log"]["queue_bodies"]

    # -- what people and machines see ---------------------------------------------------------------------------------

    def get(self, path: str, **asked: str) -> Any:
        answer = requests.get(f"{self.aiops.url}/api/v1/{path}", params=asked, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def alerts(self) -> list[dict[str, Any]]:
        """Those that Alertmanager has firing."""
        found: list[dict[str, Any]] = requests.get(f"{self.alertmanager.url}/api/v2/alerts", timeout=10).json()
        return found

    def came_back(self) -> float:
        """Alerts of ours of which Alertmanager's webhook has told."""
        text = requests.get(f"{self.aiops.url}/metrics", timeout=30).text
        return total(text, 'otel_aiops_alertmanager_received_total{outcome="ours"')

    def cli(self, *words: str, files: bool = False, codes: tuple[int, ...] = (0,)) -> str:
        """What a command prints, given as a person gives it."""
        paths = ["--config", str(self.aiops.config), "--data-dir", str(self.aiops.data)]
        where = paths if files else ["--url", self.aiops.url]
        argv = [sys.executable, "-m", "otel_aiops", *words, *where]
        env = {**os.environ, "USER": "ann", "COLUMNS": "200"}
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=600, env=env)
        assert done.returncode in codes, done.stderr + done.stdout
        return done.stdout


def total(text: str, line: str) -> float:
    """The sum of the metrics whose lines begin so."""
    return sum(float(one.rsplit(" ", 1)[1]) for one in text.splitlines() if one.startswith(line))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    aiops = Aiops(tmp_path, CONFIG)
    alertmanager = Alertmanager(tmp_path, f"{aiops.url}/api/v1/webhooks/alertmanager")
    told = {"to": [{"url": alertmanager.url}], "resend": "2s"}
    heal = {"name": "roll-back", "argv": command(tmp_path / "shop"), "timeout": "10m"}
    does = {"enabled": True, "late": "10000d", "approvers": ["ann"], "commands": [heal]}
    more = {"alertmanager": told, "responses": does, "playbooks": [PLAYBOOK]}
    with aiops.config.open("a") as file:
        file.writelines(f"{key}: {json.dumps(value)}\n" for key, value in more.items())
    ports = {name: f"127.0.0.1:{free_port()}" for name in ("OTLP_GRPC", "HEALTH")}
    ports["AIOPS_GRPC"] = f"127.0.0.1:{aiops.grpc}"
    health = int(ports["HEALTH"].rsplit(":", 1)[1])
    with ExitStack() as stack:
        for server in (alertmanager, aiops):
            stack.enter_context(server)
        stack.enter_context(running_collector(COLLECTOR, tmp_path, ports, health=health))
        channel = stack.enter_context(grpc.insecure_channel(ports["OTLP_GRPC"]))
        yield World(tmp_path / "shop", aiops, alertmanager, channel)


def test_a_fault_is_found_told_healed_judged_and_learned_from(world: World) -> None:
    nothing_is_wrong_yet(world)
    incident = the_fault_becomes_an_incident(world)
    alertmanager_tells_of_it(world, incident)
    run = a_playbook_asks(world, incident)
    a_person_agrees_and_the_shop_is_healed(world, run)
    it_is_over_everywhere(world, incident, run)
    the_audit_holds(world, run)
    the_verdict_is_a_case_of_the_next_training(world, incident)


def nothing_is_wrong_yet(world: World) -> None:
    """All three signals have come through the Collector, and nobody is called."""
    world.goes_on(FAULT.start_s)
    status = world.aiops.status()
    assert world.shop.spans > 10_000 and world.shop.logs > 1_000 and status["points_scored"] > 10_000
    assert not world.get("incidents")["incidents"] and not world.alerts()
    assert not world.get("responses")["responses"]


def the_fault_becomes_an_incident(world: World) -> str:
    """Series of the service that is at fault are anomalous, and the incident suspects it first."""

    def opened() -> Any:
        return next(iter(world.get("incidents", state="open")["incidents"]), None)

    world.until(opened, "an incident", DETECTED_S)

    def suspected() -> bool:
        return [one["service"] for one in opened()["suspects"]][:1] == ["catalog"]

    world.until(suspected, "catalog to be suspected first", DETECTED_S)
    incident = opened()
    assert incident["detected_at"] - FAULT.start_s < DETECTED_S and incident["severity"] in ("warning", "critical")
    assert "errors" in {one["channel"] for one in world.get(f"incidents/{incident['id']}")["findings"]}

    def strange() -> bool:
        found = world.get("anomalies", limit="500")["anomalies"]
        return any(one["service"] == "catalog" and ERRORS in one["series"] and one["score"] >= 1 for one in found)

    world.until(strange, "the series of its errors to be anomalous", DETECTED_S)
    return str(incident["id"])


def alertmanager_tells_of_it(world: World, incident: str) -> None:
    alert = wait_for(lambda: next(iter(world.alerts()), None), "Alertmanager to have an alert")
    assert alert["labels"]["incident_id"] == incident and alert["status"]["state"] == "active"
    assert alert["annotations"]["suspects"].startswith("1. catalog (")
    wait_for(world.came_back, "its webhook to tell us of it")


def a_playbook_asks(world: World, incident: str) -> str:
    """Because Alertmanager has let people know, and not before; nothing is done until somebody agrees."""
    (run,) = wait_for(lambda: world.get("responses", state="waiting")["responses"], "the playbook to ask")
    assert (run["playbook"], run["on"], run["incident"]) == ("take-back", "notified", incident)
    (step,) = run["steps"]
    assert '"catalog"' in step["plan"] and step["approvals_needed"] == 1 and step["began"] is None
    asked = {"who": "mallory", "why": "just do it"}
    answer = requests.post(f"{world.aiops.url}/api/v1/responses/{run['id']}/approve", json=asked, timeout=30)
    assert answer.status_code == 400 and world.shop.plan == (FAULT,)
    return str(run["id"])


def a_person_agrees_and_the_shop_is_healed(world: World, run: str) -> None:
    assert "roll-back" in world.cli("responses", "approve", run, "--who", "ann", "--why", "it throws since its release")
    assert wait_for(lambda: world.control.look(world.now_s), "the command to ask the shop") == ["catalog"]

    def ran() -> Any:
        (step,) = world.get(f"responses/{run}")["steps"]
        return step if step["state"] == "done" else None

    step = wait_for(ran, "the command to end")
    assert step["output"] == "catalog runs 1.4.0 again\n" and step["verified"] == "pending"
    assert len(world.alerts()) == 1, "that it is healed must be seen first"


def it_is_over_everywhere(world: World, incident: str, run: str) -> None:
    """Telemetry shows it: the incident is resolved, here and in Alertmanager, and the response knows that it helped."""
    told = world.came_back()
    world.until(lambda: world.get(f"incidents/{incident}")["state"] == "resolved", "its end", RESOLVED_S)
    wait_for(lambda: not world.alerts(), "Alertmanager to have no alert any more")
    wait_for(lambda: world.came_back() > told, "its webhook to tell us of the end")
    done = wait_for(lambda: world.get("responses", state="done")["responses"], "the response to have helped")
    assert [one["id"] for one in done] == [run]
    assert world.get(f"responses/{run}")["steps"][0]["verified"] == "recovered"
    world.goes_on(max(world.now_s + 60, ENDS_S))
    assert not world.get("incidents", state="open,acknowledged")["incidents"], "it does not come back"
    assert len(world.get("responses")["responses"]) == 1, "it is done once"


def the_audit_holds(world: World, run: str) -> None:
    entries = world.get("audit", kind="response")["entries"]
    told = [(one["what"], one["who"]) for one in reversed(entries)]
    wanted = [
        ("begun", "otel-aiops"),
        ("asked command roll-back", "otel-aiops"),
        ("approved", "ann"),
        ("intended command roll-back", "otel-aiops"),
        ("done command roll-back", "otel-aiops"),
        ("recovered command roll-back", "otel-aiops"),
        ("ended: done", "otel-aiops"),
    ]
    rest = iter(told)
    for what, who in wanted:
        assert any(one[0].startswith(what) and one[1] == who for one in rest), (what, told)
    paths = ["--data-dir", str(world.aiops.data)]
    done = subprocess.run(
        [sys.executable, "-m", "otel_aiops", "audit", "verify", *paths],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0 and "lines hold" in done.stdout, done.stderr


def the_verdict_is_a_case_of_the_next_training(world: World, incident: str) -> None:
    """What a person says of the incident is a label of the dataset, and a case that each version is asked."""
    said = world.cli("incidents", "verdict", incident, "real", "--who", "ann", "--why", "a bad release")
    assert f"{incident}: true_alert" in said
    found = world.get("verdicts", limit="1000")["verdicts"]
    assert {(one["incident"], one["verdict"], one["by"]) for one in found} == {(incident, "true_alert", "ann")}
    assert any(ERRORS in one["series"] for one in found)
    wait_for(lambda: not world.aiops.status()["log"]["rows_waiting_bytes"], "all to be on the disk")

    wanted = ["--objective", "errors", "--window", "1h", "--processes", "1", "--url", world.aiops.url]
    told = json.loads(world.cli("lifecycle", "run", *wanted, "--json", files=True, codes=(0, 1)))
    steps = {one["name"]: one for one in told["steps"]}
    assert "gate" in steps, told["summary"]["result"]  # which may say no, of a model that knows a quarter of an hour
    dataset = world.get(f"datasets/{steps['dataset']['outputs']['dataset']}")
    assert incident in {one["note"] for one in dataset["content"]["labels"] if one["kind"] == "anomaly"}
    cases = [json.loads(path.read_text()) for path in (world.aiops.data / "lifecycle" / "cases").glob("*.json")]
    assert {(one["kind"], one["by"]) for one in cases} == {("true_alert", "ann")}
    (errors,) = [one["id"] for one in cases if ERRORS in one["series"]]
    (report,) = (world.aiops.data / "lifecycle").rglob("report.json")
    sides = json.loads(report.read_text())["sides"]
    asked = {one["id"]: one["right"] for one in next(one["cases"] for one in sides if one["role"] == "candidate")}
    assert asked.keys() == {one["id"] for one in cases} and asked[errors], "the next version finds it again"
