"""Incidents as alerts of a real Alertmanager: they fire, change, outlive its restart and ours, and end, once each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.incident_feed import broken, call, started
from tests.responses.receiver import Receiver, receiving
from tests.servers import Alertmanager, answers, wait_for
from tests.test_app import Running

RESEND_S = 2


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def alertmanager(tmp_path: Path, hook: Receiver) -> Iterator[Alertmanager]:
    with Alertmanager(tmp_path, f"{hook.url}/hook") as found:
        yield found


def configured(url: str) -> str:
    tree = {"to": [{"url": url, "timeout": 2}], "resend": RESEND_S, "page": "http://aiops.example.com"}
    return f"alertmanager: {json.dumps(tree)}\n"


def known(server: Alertmanager) -> dict[str, dict[str, Any]]:
    """The alerts that it has, by name and severity."""
    found = requests.get(f"{server.url}/api/v2/alerts", timeout=5).json()
    return {f"{one['labels']['alertname']} {one['labels']['severity']}": one for one in found}


def told(hook: Receiver, status: str) -> list[dict[str, Any]]:
    """The alerts that the webhook was told of."""
    return [one for asked in hook.asked for one in asked.json()["alerts"] if one["status"] == status]


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
    folder, more = tmp_path / "state", configured(alertmanager.url)
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


@pytest.mark.timeout(120)
def test_answers_that_are_no_good(tmp_path: Path) -> None:
    with receiving() as server:
        server.answers = [(503, b""), (429, b""), (500, b""), (401, b""), (0, b""), (400, b"bad"), (200, b"")]
        with broken(tmp_path, configured(server.url), still=True) as up:
            wait_for(lambda: sent(up) >= 2, "it to be taken in the end")
            assert up.metric("otel_aiops_alertmanager_failures_total") == 5
            assert up.metric("otel_aiops_alertmanager_refused_total") == 1
        bodies = [asked.json() for asked in server.asked]
        assert len({json.dumps(one["labels"]) for body in bodies for one in body}) == 1
