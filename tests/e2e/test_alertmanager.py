"""Incidents as alerts of a real Alertmanager: they fire, change, outlive its restart and ours, and end, once each."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from structlog.testing import capture_logs

from otel_aiops.shop import LiveShop
from tests.feed import Feed
from tests.incident_feed import BREAKS_S, OUTAGE, SHORT, START_S, broken, call, feed, started, steps
from tests.responses.receiver import Receiver, receiving
from tests.servers import Aiops, Alertmanager, Prometheus, answers, wait_for
from tests.test_app import Running

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]
RESEND_S = 2  # where alerts must be posted again
LONG_S = 60  # where they must not end by themselves, however busy the machine is


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def alertmanager(tmp_path: Path, hook: Receiver) -> Iterator[Alertmanager]:
    with Alertmanager(tmp_path, f"{hook.url}/hook") as found:
        yield found


def configured(*urls: str, resend: int = RESEND_S) -> str:
    to = [{"url": url, "timeout": 2} for url in urls]
    tree = {"to": to, "resend": resend, "page": "http://aiops.example.com"}
    return f"alertmanager: {json.dumps(tree)}\n"


def known(server: Alertmanager) -> dict[str, dict[str, Any]]:
    """The alerts that it has, by name and severity."""
    found = requests.get(f"{server.url}/api/v2/alerts", timeout=5).json()
    return {f"{one['labels']['alertname']} {one['labels']['severity']}": one for one in found}


def told(hook: Receiver, status: str) -> list[dict[str, Any]]:
    """The alerts that the webhook was told of."""
    asked = [one.json() for one in hook.asked if one.path == "/hook"]
    return [one for tree in asked for one in tree["alerts"] if one["status"] == status]


def sent(up: Running) -> float:
    return up.metric("otel_aiops_alertmanager_sent_total")


def open_incident(up: Running) -> dict[str, Any]:
    (found,) = up.get("/api/v1/incidents", state="open,acknowledged")["incidents"]
    return dict(found)


@pytest.mark.timeout(180)
def test_an_incident_fires_changes_and_ends(tmp_path: Path, alertmanager: Alertmanager, hook: Receiver) -> None:
    with broken(tmp_path / "state", configured(alertmanager.url), still=True) as up:
        incident = open_incident(up)
        wait_for(lambda: told(hook, "firing"), "the webhook to be told")
        (one,) = known(alertmanager).values()
        assert one["labels"]["incident_id"] == incident["id"]
        assert one["labels"]["service_name"] in incident["services"]
        assert one["annotations"]["summary"] == incident["title"]
        assert one["annotations"]["suspects"].startswith("1. catalog (")
        assert one["generatorURL"] == f"http://aiops.example.com/incidents/{incident['id']}"

        before = sent(up)
        wait_for(lambda: sent(up) >= before + 6, "it to be posted again and again")  # longer than it lives without
        (again,) = known(alertmanager).values()
        assert again["fingerprint"] == one["fingerprint"] and again["endsAt"] > one["endsAt"]
        assert len(told(hook, "firing")) == 1 and not told(hook, "resolved")

        assert call(up, "POST", f"incidents/{incident['id']}", {"action": "acknowledge", "who": "ann"}).ok
        wait_for(
            lambda: next(iter(known(alertmanager).values()))["annotations"]["state"] == "acknowledged", "the change"
        )
        assert call(up, "POST", f"incidents/{incident['id']}", {"action": "resolve", "who": "ann"}).ok
        wait_for(lambda: told(hook, "resolved"), "its end")
        before = sent(up)
        wait_for(lambda: sent(up) > before, "the end to be told again")
        assert len(told(hook, "firing")) == 1 == len(told(hook, "resolved"))


@pytest.mark.timeout(240)
def test_nothing_is_lost_or_doubled_while_alertmanager_or_we_are_away(
    tmp_path: Path, alertmanager: Alertmanager, hook: Receiver
) -> None:
    folder, more = tmp_path / "state", configured(alertmanager.url, resend=5)
    alertmanager.server.stop()
    with broken(folder, more, still=True) as up:
        name = open_incident(up)["id"]
        wait_for(lambda: up.metric("otel_aiops_alertmanager_failures_total") >= 2, "it to be tried again")
        alertmanager.server.start(answers(f"{alertmanager.url}/-/ready"))
        wait_for(lambda: told(hook, "firing"), "what waited to arrive")
        alertmanager.server.stop()  # it keeps what it said, but no alerts
        alertmanager.server.start(answers(f"{alertmanager.url}/-/ready"))
        wait_for(lambda: known(alertmanager), "it to know the alert again")
        assert up.metric("otel_aiops_alertmanager_missed_total") == 0
    with started(folder, more, still=True) as up:
        wait_for(lambda: sent(up) >= 2, "the restarted service to post it")
        assert call(up, "POST", f"incidents/{name}", {"action": "resolve", "who": "ann"}).ok
        wait_for(lambda: told(hook, "resolved"), "its end")
    with started(folder, more, still=True) as up:
        wait_for(lambda: sent(up) >= 2, "the end to be told again")
        assert not known(alertmanager), "what is resolved does not fire again"
    assert len(told(hook, "firing")) == 1 == len(told(hook, "resolved"))


@pytest.mark.timeout(240)
def test_each_of_two_is_told_all_whichever_is_away(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    with receiving() as hook, receiving() as second, contextlib.ExitStack() as stack:
        hooks = (hook, second)
        one, other = (
            stack.enter_context(Alertmanager(folder, f"{to.url}/hook"))
            for folder, to in zip(folders, hooks, strict=True)
        )
        other.server.stop()
        with broken(tmp_path / "state", configured(one.url, other.url, resend=LONG_S), still=True) as up:
            wait_for(lambda: told(hook, "firing"), "the one that is there to be told")
            wait_for(lambda: up.metric("otel_aiops_alertmanager_failures_total") >= 2, "the other to be tried again")
            other.server.start(answers(f"{other.url}/-/ready"))
            wait_for(lambda: told(second, "firing"), "the other to be told")
            assert {found["fingerprint"] for found in told(hook, "firing")} == {
                told(second, "firing")[0]["fingerprint"]
            }

            one.server.stop()
            assert call(up, "POST", f"incidents/{open_incident(up)['id']}", {"action": "resolve", "who": "ann"}).ok
            wait_for(lambda: told(second, "resolved"), "the one that is there to be told of the end")
            one.server.start(answers(f"{one.url}/-/ready"))
            wait_for(lambda: told(hook, "resolved"), "the one that was away to be told of the end")
            assert up.metric("otel_aiops_alertmanager_missed_total") == 0
        for each in hooks:
            assert len(told(each, "firing")) == 1 == len(told(each, "resolved"))


@pytest.mark.timeout(180)
def test_what_begins_and_ends_while_alertmanager_is_away_is_counted(
    tmp_path: Path, alertmanager: Alertmanager, hook: Receiver
) -> None:
    alertmanager.server.stop()
    with capture_logs() as logs, broken(tmp_path / "state", configured(alertmanager.url), still=True) as up:
        name = open_incident(up)["id"]
        wait_for(lambda: up.metric("otel_aiops_alertmanager_failures_total") >= 1, "it to be tried")
        assert call(up, "POST", f"incidents/{name}", {"action": "resolve", "who": "ann"}).ok
        wait_for(lambda: up.metric("otel_aiops_alertmanager_missed_total") == 1, "it to be counted")
        alertmanager.server.start(answers(f"{alertmanager.url}/-/ready"))
        other = {"labels": {"alertname": "Other"}}
        assert requests.post(f"{alertmanager.url}/api/v2/alerts", json=[other], timeout=5).ok
        wait_for(lambda: told(hook, "firing"), "another one to be told")
        assert up.metric("otel_aiops_alertmanager_missed_total") == 1
    assert {one["labels"]["alertname"] for one in told(hook, "firing")} == {"Other"} and not told(hook, "resolved")
    (said,) = [line for line in logs if "began and ended" in line["event"]]
    assert said["incidents"] == [name]


@pytest.mark.timeout(180)
def test_a_predicted_incident_is_told_with_its_lead_time_and_ends(
    tmp_path: Path, alertmanager: Alertmanager, hook: Receiver
) -> None:
    """Memory leaks until it is foreseen to run out; then it does."""
    random = np.random.default_rng(3)
    values = 0.4 + np.maximum(0, np.arange(230) - 60) * 0.004 + random.normal(0, 0.005, 230)
    with started(tmp_path / "state", configured(alertmanager.url, resend=LONG_S), still=True) as up:

        def leak(first: int, last: int) -> None:
            for k in range(first, last):
                at_s = START_S + 60 * k
                told = Feed("cart").gauge("k8s.pod.memory_limit_utilization", at_s, float(values[k]), unit="1")
                assert up.send(told).status_code == 200
            up.settle()

        leak(0, 140)
        (said,) = up.get("/api/v1/predictions")["standing"]
        wait_for(lambda: told(hook, "firing"), "the webhook to be told")
        (one,) = known(alertmanager).values()
        labels, notes = one["labels"], one["annotations"]
        assert (labels["alertname"], labels["predicted"]) == ("OtelAiopsPredictedIncident", "true")
        assert (labels["incident_id"], labels["service_name"]) == (said["id"], "cart")
        assert notes["state"] == "predicted" and notes["summary"] == said["title"]
        assert re.fullmatch(r"[\d.]+ (min|h) \([\d.]+ (s|min|h) to [\d.]+ (min|h)\)", notes["lead_time"])
        assert float(notes["probability"]) == pytest.approx(said["prediction"]["probability"], abs=0.005)
        assert one["generatorURL"].endswith(f"/incidents/{said['id']}")

        leak(140, 230)
        (hit,) = up.get("/api/v1/predictions")["decided"]
        assert (hit["id"], hit["prediction"]["outcome"]) == (said["id"], "hit")
        wait_for(lambda: told(hook, "resolved"), "its end")
    firing, ended = (
        {each["fingerprint"] for each in told(hook, status) if each["labels"]["incident_id"] == said["id"]}
        for status in ("firing", "resolved")
    )
    assert firing == ended == {one["fingerprint"]}, "however its lead time changed it was one alert"


@pytest.mark.timeout(120)
def test_answers_that_are_no_good(tmp_path: Path) -> None:
    with receiving() as server:
        server.routes["GET", "/api/v2/silences"] = []
        server.answers = [(503, b""), (429, b""), (500, b""), (401, b""), (0, b""), (400, b"bad"), (200, b"")]
        with broken(tmp_path, configured(server.url), still=True) as up:
            wait_for(lambda: sent(up) >= 2, "it to be taken in the end")
            assert up.metric("otel_aiops_alertmanager_failures_total") == 5
            assert up.metric("otel_aiops_alertmanager_refused_total") == 1
        bodies = [asked.json() for asked in server.asked if asked.method == "POST"]
        assert len({json.dumps(one["labels"]) for body in bodies for one in body}) == 1


@pytest.mark.timeout(180)
def test_a_silence_covers_an_incident_and_begins_nothing(
    tmp_path: Path, alertmanager: Alertmanager, hook: Receiver
) -> None:
    silence = {
        "matchers": [{"name": "alertname", "value": "OtelAiops.*", "isRegex": True, "isEqual": True}],
        "startsAt": "2026-01-01T00:00:00Z",
        "endsAt": "2099-01-01T00:00:00Z",
        "createdBy": "ann",
        "comment": "night work",
    }
    name = requests.post(f"{alertmanager.url}/api/v2/silences", json=silence, timeout=5).json()["silenceID"]
    step = {"do": {"kind": "webhook", "use": "hook"}, "guard": {"cooldown": 0}}
    playbook = [{"name": "tell", "dry_run": False, "steps": [step]}]
    hooks = [{"name": "hook", "to": {"url": f"{hook.url}/responses"}}]
    more = f"responses: {json.dumps({'enabled': True, 'late': '10000d', 'webhooks': hooks})}\n"
    more += f"playbooks: {json.dumps(playbook)}\n"
    to = {"to": [{"url": alertmanager.url}], "resend": RESEND_S, "silences": 1}
    with started(tmp_path / "state", f"{more}alertmanager: {json.dumps(to)}\n", still=True) as up:
        (rule,) = wait_for(lambda: up.get("/api/v1/silences")["silences"], "the silence to be taken over")
        assert rule["matchers"] == ['alertname=~"OtelAiops.*"'] and rule["who"] == "ann"
        refused = call(up, "DELETE", f"silences/{rule['name']}", who="bob")
        assert refused.status_code == 400 and "is a silence of Alertmanager; end it there" in refused.text
        feed(up, 0, steps(BREAKS_S + 60))
        assert open_incident(up)["suppressed_by"] == f"silence alertmanager:{name} by ann: night work"
        (one,) = wait_for(lambda: known(alertmanager), "the alert").values()
        assert one["status"]["silencedBy"] == [name]
        before = sent(up)
        wait_for(lambda: sent(up) > before, "it to be posted again")
        assert not hook.asked and not up.get("/api/v1/responses")["responses"]

        assert requests.delete(f"{alertmanager.url}/api/v2/silence/{name}", timeout=5).ok
        wait_for(lambda: told(hook, "firing"), "the alert to page")
        wait_for(lambda: not open_incident(up)["suppressed_by"], "the incident to be suppressed no more")
        wait_for(lambda: up.get("/api/v1/responses", state="done")["responses"], "the playbook to begin")


@pytest.mark.timeout(240)
def test_scores_reach_alertmanager_by_rules_and_come_back_as_ours(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.mkdir()
    shutil.copy(ROOT / "grafana" / "alerts" / "service.rules.yaml", rules / "shipped.yaml")
    other = {"alert": "CatalogUp", "expr": "up == 1", "labels": {"service": "catalog"}}
    (rules / "other.yaml").write_text(json.dumps({"groups": [{"name": "other", "rules": [other]}]}))
    with started(tmp_path / "state", still=True) as up:
        api = up.ports["api"]
        hook = f"http://127.0.0.1:{api}/api/v1/webhooks/alertmanager"
        with (
            Alertmanager(tmp_path, hook) as alertmanager,
            Prometheus(
                tmp_path, {"otel-aiops": api}, rules=rules / "*.yaml", alertmanager=alertmanager.port
            ) as prometheus,
        ):
            there = f"{prometheus.url}/api/v1/alertmanagers"
            active = wait_for(
                lambda: requests.get(there, timeout=5).json()["data"]["activeAlertmanagers"], "Alertmanager to be known"
            )
            assert len(active) == 1
            feed(up, 0, steps(BREAKS_S + 60))
            name = open_incident(up)["id"]
            found = wait_for(lambda: fired(alertmanager).get(name), name)
            assert found["labels"]["alertname"] == "Incident" and "catalog" in found["annotations"]["summary"]
            wait_for(lambda: received(up, "ours"), "our webhook to know it as ours")
            wait_for(lambda: received(up, "taken"), "our webhook to be told of the other one")
        assert {one.name for one in up.service.chronicle.journal.others.told()} == {"CatalogUp"}


def fired(server: Alertmanager) -> dict[str, dict[str, Any]]:
    """The alerts that it has of incidents, by id."""
    found = requests.get(f"{server.url}/api/v2/alerts", timeout=5).json()
    return {one["labels"].get("incident_id", ""): one for one in found}


def received(up: Running, outcome: str) -> bool:
    text = requests.get(f"http://127.0.0.1:{up.ports['api']}/metrics", timeout=30).text
    return any(f'outcome="{outcome}"' in line for line in text.splitlines() if "alertmanager_received" in line)


@pytest.mark.timeout(240)
def test_a_killed_service_goes_on_with_the_same_alerts(
    tmp_path: Path, alertmanager: Alertmanager, hook: Receiver
) -> None:
    more = configured(alertmanager.url, resend=LONG_S)
    up = Aiops(tmp_path, f"{SHORT}{more}service: {{tick_interval: 1h}}\n")
    shop = LiveShop(START_S, rate=12, plan=[OUTAGE])

    def firing() -> list[dict[str, Any]]:
        return [one for one in fired(alertmanager).values() if one["status"]["state"] == "active"]

    def sent() -> float:
        return up.metric("otel_aiops_alertmanager_sent_total")

    with up:
        for step in range(steps(BREAKS_S + 60)):
            for signal, body in zip(("metrics", "traces", "logs"), shop.requests(step), strict=True):
                if body:
                    headers = {"Content-Type": "application/x-protobuf"}
                    url = f"http://127.0.0.1:{up.http}/v1/{signal}"
                    assert requests.post(url, data=body, headers=headers, timeout=30).ok
        (before,) = wait_for(firing, "the alert")
        wait_for(lambda: told(hook, "firing"), "the webhook to be told")
        up.server.kill()
        up.start()
        wait_for(lambda: sent() >= 1, "the alert to be posted again")
        (after,) = firing()
        assert after["fingerprint"] == before["fingerprint"] and after["startsAt"] == before["startsAt"]

        asked = {"action": "resolve", "who": "ann"}
        name = after["labels"]["incident_id"]
        assert requests.post(f"{up.url}/api/v1/incidents/{name}", json=asked, timeout=30).ok
        up.server.kill()
        up.start()
        wait_for(lambda: sent() >= 1, "the end to be told, whether or not it was")
        wait_for(lambda: told(hook, "resolved"), "the webhook to be told")
        assert not firing()
    assert len(told(hook, "firing")) == 1 == len(told(hook, "resolved"))


@pytest.mark.timeout(120)
def test_a_slow_one_is_asked_again(tmp_path: Path) -> None:
    with receiving() as server:
        server.delay_s = 4.0  # longer than its timeout
        with broken(tmp_path, configured(server.url), still=True) as up:
            wait_for(lambda: up.metric("otel_aiops_alertmanager_failures_total") >= 1, "it to be too slow")
            server.delay_s = 0.0
            wait_for(lambda: sent(up) >= 1, "it to be taken")
