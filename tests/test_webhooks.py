"""A running service that is told of alerts of others: written down, known again, evidence, labels, playbooks."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from structlog.testing import capture_logs

from otel_aiops.config import Config, parse
from otel_aiops.lifecycle import sources
from otel_aiops.server import asking
from tests.hostile import HOSTILE
from tests.incident_feed import BREAKS_S, START_S, broken, call, feed, steps
from tests.responses.receiver import Receiver, receiving
from tests.responses.stage import APPEND
from tests.servers import free_port, wait_for
from tests.test_app import Running, running

SECRET = "a planted secret"
S = 1_000_000_000


def alert(start_s: float, service: str = "catalog", **more: Any) -> dict[str, Any]:
    return {
        "status": "firing",
        "labels": {"alertname": "Errors", "service": service, "severity": "critical"},
        "annotations": {"summary": "many errors"},
        "startsAt": datetime.fromtimestamp(start_s, UTC).isoformat(),
        "fingerprint": "c0ffee",
        **more,
    }


def notified(*alerts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": "4", "groupKey": "g", "status": "firing", "receiver": "aiops", "alerts": alerts, **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def up(folder: Path) -> Iterator[Running]:
    step = {"do": {"kind": "command", "use": "note"}, "guard": {"cooldown": 0}}
    playbook = {"name": "told", "on": "alert", "dry_run": False, "match": {"severity": "critical"}, "steps": [step]}
    labelled = playbook | {"name": "other", "match": {"labels": {"alertname": "Other"}}}
    command = {"name": "note", "argv": [sys.executable, "-c", APPEND, str(folder / "noted"), "{service}"]}
    more = f"responses: {json.dumps({'enabled': True, 'late': '10000d', 'commands': [command]})}\n"
    own = playbook | {"name": "own", "on": "notified", "match": {"suspects": ["catalog"]}}
    with broken(folder, f"{more}playbooks: {json.dumps([playbook, labelled, own])}\n", still=True) as found:
        yield found


def told(up: Running, tree: Any, where: str = "alertmanager") -> dict[str, Any]:
    answer = call(up, "POST", f"webhooks/{where}", tree)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def test_an_alert_is_evidence_a_label_and_begins_a_playbook_once(up: Running, folder: Path) -> None:
    tree = notified(alert(START_S + BREAKS_S + 30))
    assert told(up, tree) == {"taken": 1, "repeated": 0, "ours": 0, "unreadable": 0, "truncated": 0}
    assert told(up, tree)["repeated"] == 1, "the other of a pair, or repeat_interval"
    wait_for(lambda: not up.service.chronicle.journal.others.waiting(1), "it to be looked at")
    feed(up, steps(BREAKS_S + 60), steps(BREAKS_S + 85))
    (one,) = up.get("/api/v1/incidents", state="open")["incidents"]
    texts = [finding["evidence"]["text"] for finding in up.get(f"/api/v1/incidents/{one['id']}")["findings"]]
    assert "The alert Errors of alertmanager fires: many errors" in texts

    (listed,) = up.get("/api/v1/known-alerts")["alerts"]
    shown = up.get(f"/api/v1/incidents/{listed['id']}")
    assert [other["id"] for other in shown["evidence_of"]] == [one["id"]] and shown["state"] == "open"
    assert shown["alert"]["labels"]["alertname"] == listed["name"] == "Errors" and listed["status"] == "firing"

    (run,) = wait_for(lambda: up.get("/api/v1/responses", state="done")["responses"], "the playbook")
    assert run["playbook"] == "told" and run["incident"].startswith("alert-")
    assert (folder / "noted").read_text().split() == ["catalog"]

    end = alert(START_S + BREAKS_S + 30, status="resolved", endsAt="2026-01-05T12:05:00Z")
    assert told(up, notified(end))["taken"] == 1
    assert [said["status"] for said in up.get(f"/api/v1/incidents/{listed['id']}")["told"]] == ["firing", "resolved"]
    assert up.get("/api/v1/known-alerts")["alerts"][0]["status"] == "resolved"
    assert up.get("/api/v1/known-alerts", offset=1) == {"total": 1, "alerts": [], "next": None}
    (label,) = sources.of_webhooks(up.service.chronicle.journal, 0, 2**62).labels
    assert (label.service, label.confidence, label.source) == ("catalog", sources.FIRING, "alertmanager")
    assert label.end_ns == datetime(2026, 1, 5, 12, 5, tzinfo=UTC).timestamp() * S


def test_our_own_alerts_are_no_evidence_about_us(up: Running) -> None:
    labels = {"alertname": "OtelAiopsIncident", "service_name": "catalog", "incident_id": "x"}
    assert told(up, notified(alert(START_S, labels=labels)), "grafana")["ours"] == 1
    assert up.metric("otel_aiops_alertmanager_received_total") >= 1
    assert not up.service.chronicle.journal.others.told(from_ns=round(START_S * S), until_ns=round(START_S * S) + 1)


def test_our_own_alert_that_comes_back_begins_playbooks_about_its_incident_once(up: Running, folder: Path) -> None:
    (one,) = up.get("/api/v1/incidents", state="open")["incidents"]
    labels = {"alertname": "OtelAiopsIncident", "service_name": "catalog", "incident_id": one["id"]}
    assert told(up, notified(alert(START_S, labels=labels, status="resolved")))["ours"] == 1, "no news"
    assert not up.get("/api/v1/responses", playbook="own")["responses"]
    for _ in range(2):
        told(up, notified(alert(START_S, labels=labels)))
    (run,) = wait_for(lambda: up.get("/api/v1/responses", playbook="own", state="done")["responses"], "the playbook")
    assert (run["on"], run["incident"]) == ("notified", one["id"])
    assert (folder / "noted").read_text().split()[-1] == "catalog"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"alerts": 1}'])
def test_what_is_no_notification(up: Running, body: bytes) -> None:
    url = f"http://127.0.0.1:{up.ports['api']}/api/v1/webhooks/grafana"
    answer = requests.post(url, data=body, timeout=30)
    assert answer.status_code == 400 and "expected" in answer.json()["error"]


NOW = "2026-01-05T12:00:00Z"
DEEP = json.loads("[" * 900 + "]" * 900)
ODD: dict[str, tuple[Any, int, int]] = {  # body, status, how many of its alerts could not be read
    "deep labels": (notified({"labels": {"a": DEEP}, "startsAt": NOW}), 400, 0),
    "deep": (notified(alert(START_S), more=DEEP), 400, 0),
    "many": (notified(*[{}] * 10_001), 400, 0),
    "many that are none": (notified(*[{}] * 10_000), 202, 10_000),
    "many labels": (notified(alert(START_S, labels={f"l{k}": "v" for k in range(5_000)})), 202, 0),
    "long": (notified(alert(START_S, labels={"a" * 100_000: "b" * 100_000}), groupKey="g" * 100_000), 202, 0),
    "types": (notified(1, None, [], "x", {"labels": []}, {"labels": {"a": 1}, "startsAt": 5}), 202, 6),
    "status": (notified({**alert(START_S), "status": ["firing"]}, status={"a": 1}), 202, 1),
    "late": (notified(alert(START_S, startsAt="9999-12-31T23:59:59Z")), 202, 1),
    "early": (notified(alert(START_S, startsAt="0001-01-01T00:00:00+14:00")), 202, 1),
    "ends late": (notified(alert(START_S, status="resolved", endsAt="9999-12-31T23:59:59Z", fingerprint="e")), 202, 0),
    "truncated": (notified(alert(START_S), truncatedAlerts=10**300), 202, 0),
    "truncated otherwise": (notified(alert(START_S), truncatedAlerts=True, groupLabels=[1]), 202, 0),
    "numbers": (notified(alert(START_S, labels={"a": 10**4000, "b": 1e308, "c": None, "d": [1]})), 202, 0),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_notifications(up: Running, name: str) -> None:
    tree, status, unreadable = ODD[name]
    answer = call(up, "POST", "webhooks/alertmanager", tree)
    assert answer.status_code == status, answer.text
    assert status != 202 or answer.json()["unreadable"] == unreadable
    up.get("/api/v1/status")


@pytest.mark.parametrize("name", ["tag", "ansi", "newline", "promql", "long", "unicode", "up"])
def test_labels_that_do_harm_are_text(up: Running, name: str) -> None:
    value = HOSTILE[name]
    labels = {"alertname": value, "service": value, "severity": "warning", value: value}
    found = alert(START_S, labels=labels, fingerprint=name, annotations={"summary": value}, generatorURL=value)
    assert told(up, notified(found, groupKey=value, receiver=value, externalURL=value))["taken"] == 1
    (known,) = [one for one in up.service.chronicle.journal.others.told(limit=1_000) if one.fingerprint == name]
    assert known.service == value[:1_000] and known.name == value[:1_000]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"alerts": [], "alerts": [], "version": "4", "version": "1"}', {}, 202),
        (b'{"alerts": [{"labels": {"a": "\xff"}}]}', {}, 400),
        (b'{"alerts": [], "x": "\\ud800"}', {}, 400),
        (b'{"alerts": [NaN]}', {}, 400),
        (gzip.compress(b'{"alerts": []}' + b" " * 50_000_000), {"Content-Encoding": "gzip"}, 415),
        (b'{"alerts": []}', {"Content-Type": "text/html"}, 415),
        (b" " * ((16 << 20) + 1), {}, 413),
    ],
    ids=["twice", "no UTF-8", "half a character", "no number", "bomb", "type", "large"],
)
def test_bodies_that_do_harm(up: Running, body: bytes, headers: dict[str, str], status: int) -> None:
    url = f"http://127.0.0.1:{up.ports['api']}/api/v1/webhooks/alertmanager"
    kind = {"Content-Type": "application/json"}
    assert requests.post(url, data=body, headers=kind | headers, timeout=60).status_code == status


def test_a_notification_that_does_not_come(up: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "BODY_S", 0.2)
    with socket.create_connection(("127.0.0.1", up.ports["api"]), timeout=60) as sock:
        sock.sendall(b"POST /api/v1/webhooks/grafana HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
        assert sock.recv(1_000).startswith(b"HTTP/1.1 408 ")


def test_who_may_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SECRET", SECRET), ("TOKEN", "right"), ("PASSWORD", "pw")):
        monkeypatch.setenv(f"TELLS_{name}", value)
    hooks = {"secret": "${env:TELLS_SECRET}", "timestamp_header": "X-Sent"}
    basic = {"username": "am", "password": "${env:TELLS_PASSWORD}"}
    auth = {"bearertokenauth": {"token": "${env:TELLS_TOKEN}"}, "basicauth": basic}
    port = free_port()
    body, now = json.dumps(notified(alert(time.time()))).encode(), str(int(time.time()))

    def signed(at: str, what: bytes = body, secret: str = SECRET) -> dict[str, str]:
        digest = hmac.new(secret.encode(), at.encode() + b":" + what, hashlib.sha256).hexdigest()
        return {"X-Sent": at, "X-Grafana-Alerting-Signature": digest}

    api = {"endpoint": f"127.0.0.1:{port}", "auth": auth, "webhooks": hooks}
    with Guarded(tmp_path, api):

        def status(**how: Any) -> int:
            url = f"http://127.0.0.1:{port}/api/v1/webhooks/grafana"
            return requests.post(url, data=body, timeout=30, **how).status_code

        assert status(headers=signed(now)) == 202
        assert status(headers={"Authorization": "Bearer right"}) == 202
        assert status(auth=("am", "pw")) == 202
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            signed(now, b"another body"),
            signed(now, secret="another secret"),
            signed(str(int(now) - 3600)),
            signed(now) | {"X-Sent": str(int(now) - 1)},
            {"X-Grafana-Alerting-Signature": "ü"},
        ):
            assert status(headers={key: value.encode() for key, value in headers.items()}) == 401, headers


class Guarded(Running):
    """A service with another `api` section."""

    def __init__(self, folder: Path, api: dict[str, Any]) -> None:
        self._api = api
        super().__init__(folder)

    def config(self, more: str = "") -> Config:
        return replace(super().config(more), api=parse(json.dumps({"api": self._api})).config.api)

    def __enter__(self) -> Guarded:
        self.service.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.service.stop()


def active(start_s: float, fingerprint: str, state: str = "active") -> dict[str, Any]:
    """An alert as Alertmanager's API lists it: with times that are cut to the millisecond."""
    cut = datetime.fromtimestamp(start_s, UTC).isoformat(timespec="milliseconds")
    ends = "2099-01-01T00:00:00Z"
    return alert(start_s, fingerprint=fingerprint, status={"state": state}, startsAt=cut, endsAt=ends)


def asks(*servers: Receiver) -> str:
    return f"alertmanager: {json.dumps({'to': [{'url': one.url} for one in servers], 'silences': 0})}\n"


def knows(up: Running) -> dict[str, str]:
    """What is known of alerts by their fingerprint: firing or, if its end was told, resolved."""
    return {one.fingerprint: one.status for one in up.service.chronicle.journal.others.told()}


def outcome(up: Running, name: str) -> float:
    text = requests.get(f"http://127.0.0.1:{up.ports['api']}/metrics", timeout=30).text
    lines = [line for line in text.splitlines() if f'outcome="{name}"' in line and "manager_received_total" in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def incomplete(up: Running) -> int:
    return up.service.chronicle.journal.others.cuts.count()


class TestWhatANotificationLeavesOut:
    def test_is_asked_for(self, tmp_path: Path) -> None:
        now_s = time.time() // 1 + 0.123456
        with receiving() as server:
            server.routes["GET", "/api/v2/alerts"] = [
                active(now_s, "c0ffee"),
                active(now_s, "cut"),
                active(now_s, "silent", "suppressed"),
                {"labels": "odd"},
            ]
            with running(tmp_path, asks(server)) as up:
                more = {"groupLabels": {"service": 'a"b', "k8s pod": "x"}, "externalURL": "http://evil"}
                assert told(up, notified(alert(now_s), truncatedAlerts=1, **more))["truncated"] == 1
                wait_for(lambda: not incomplete(up), "the other")
                assert knows(up) == {"c0ffee": "firing", "cut": "firing"}, "what is silenced is not told"
                assert len(up.service.chronicle.journal.others.told()) == 2, "one that both tell is one"
                assert (outcome(up, "taken"), outcome(up, "ended"), outcome(up, "lost")) == (2, 0, 0)
        (asked,) = [one for one in server.asked if one.path.startswith("/api/v2/alerts?")]
        assert "receiver=aiops" in asked.path and "filter=service%3D%22a%5C%22b%22" in asked.path
        assert "filter=%22k8s+pod%22%3D%22x%22" in asked.path

    def test_is_asked_for_after_a_crash_too(self, tmp_path: Path) -> None:
        now_s = time.time()
        with receiving() as server:
            server.answers = [(503, b"")]
            with running(tmp_path, asks(server)) as up:
                told(up, notified(alert(now_s), truncatedAlerts=1))
                wait_for(lambda: server.asked, "it to be asked for")
                assert up.service.chronicle.journal.others.cuts.count() == 1, (
                    "what a crash leaves is what is written down"
                )
            server.routes["GET", "/api/v2/alerts"] = [active(now_s, "c0ffee"), active(now_s, "cut")]
            server.answers = [(200, b"{}")]
            with running(tmp_path, asks(server)) as up:
                wait_for(lambda: not incomplete(up), "the other")
                assert knows(up) == {"c0ffee": "firing", "cut": "firing"}

    def test_is_asked_of_every_server(self, tmp_path: Path) -> None:
        now_s = time.time()
        with receiving() as one, receiving() as other:
            one.routes["GET", "/api/v2/alerts"] = [active(now_s, "c0ffee"), active(now_s, "one"), active(now_s, "both")]
            other.answers = [(500, b"")]
            with running(tmp_path, asks(one, other)) as up:
                told(up, notified(alert(now_s), truncatedAlerts=3))
                wait_for(lambda: len(knows(up)) == 3, "what the first one has")
                assert incomplete(up) == 1, "the other may know more"
                other.routes["GET", "/api/v2/alerts"] = [active(now_s, "both"), active(now_s, "other")]
                other.answers = [(200, b"ok")]
                wait_for(lambda: not incomplete(up), "what the second one has")
                assert set(knows(up)) == {"c0ffee", "one", "both", "other"}
                assert outcome(up, "taken") == 4 and not outcome(up, "repeated")

    def test_has_ended_where_no_server_lists_it(self, tmp_path: Path) -> None:
        now_s = time.time()
        names = ["c0ffee", "gone", "silent", "stays"]
        with receiving() as server:
            listed = server.routes["GET", "/api/v2/alerts"] = [active(now_s, "c0ffee"), active(now_s, "stays")]
            listed.append(active(now_s, "silent", "suppressed"))
            with running(tmp_path, asks(server)) as up:
                told(up, notified(*(alert(now_s, fingerprint=name) for name in names)))
                told(up, notified(alert(now_s, fingerprint="elsewhere"), groupKey="other"))
                told(up, notified(alert(now_s), truncatedAlerts=2))
                wait_for(lambda: not incomplete(up), "it to be asked for")
                still = {**dict.fromkeys(names, "firing"), "elsewhere": "firing"}
                assert knows(up) == still | {"gone": "resolved"} and outcome(up, "ended") == 1
                del listed[:2]
                end = alert(now_s, status="resolved", endsAt=datetime.fromtimestamp(now_s + 1, UTC).isoformat())
                told(up, notified(end, status="resolved", truncatedAlerts=1))
                wait_for(lambda: not incomplete(up), "it to be asked for again")
                assert knows(up) == still | dict.fromkeys(["c0ffee", "gone", "stays"], "resolved")
                assert outcome(up, "ended") == 2

    @pytest.mark.parametrize("why", ["another cluster", "it has just begun"])
    def test_has_not_ended_where_a_server_cannot_know(self, tmp_path: Path, why: str) -> None:
        now_s = time.time()
        with receiving() as server:
            began_s = now_s + 60 if why == "it has just begun" else now_s - 3_600
            server.routes["GET", "/api/v2/status"] = {"uptime": datetime.fromtimestamp(began_s, UTC).isoformat()}
            listed = server.routes["GET", "/api/v2/alerts"] = [active(now_s, "another")]
            with running(tmp_path, asks(server)) as up:
                told(up, notified(alert(now_s), alert(now_s, fingerprint="stays")))
                told(up, notified(alert(now_s), truncatedAlerts=1))
                wait_for(lambda: len(server.asked) >= 4, "it to be asked for twice")
                assert incomplete(up) == 1 and set(knows(up).values()) == {"firing"}
                listed += [active(now_s, "c0ffee"), active(now_s, "stays")]
                del server.routes["GET", "/api/v2/status"]
                wait_for(lambda: not incomplete(up), "it to be complete")
                assert set(knows(up).values()) == {"firing"}

    @pytest.mark.parametrize(("left_out", "lost"), [(5, 4), (1, 0)])
    def test_is_lost_after_an_hour_and_counted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_out: int, lost: int
    ) -> None:
        now_s = time.time()
        with receiving() as one, receiving() as away:
            one.routes["GET", "/api/v2/alerts"] = [active(now_s, "c0ffee"), active(now_s, "found")]
            away.answers = [(502, b"")]
            with capture_logs() as logs, running(tmp_path, asks(one, away)) as up:
                told(up, notified(alert(now_s), truncatedAlerts=left_out))
                wait_for(lambda: len(knows(up)) == 2, "what one has")
                clock = up.service.clock_ns
                monkeypatch.setattr(up.service, "clock_ns", lambda: clock() + 3_700 * S)
                wait_for(lambda: not incomplete(up), "it to be given up")
                assert outcome(up, "lost") == lost
                told(up, notified(alert(now_s), truncatedAlerts=5))
                assert incomplete(up) == 1, "a later notification is asked for anew"
        said = [line for line in logs if "are lost" in line["event"]]
        assert [(one["group"], one["alerts"], one["answered"]) for one in said] == [("g", lost, "1 of 2")] * bool(lost)

    def test_is_lost_at_once_where_nobody_can_be_asked(self, tmp_path: Path) -> None:
        with running(tmp_path) as up:
            told(up, notified(alert(time.time()), truncatedAlerts=7))
            assert outcome(up, "lost") == 7 and not incomplete(up)

    def test_is_asked_for_once_a_group_and_refused_where_too_many_wait(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("otel_aiops.incidents.cut.MOST", 2)
        with receiving() as server:
            server.answers = [(503, b"")]
            with running(tmp_path, asks(server)) as up:
                for name in ("a", "b", "a", "b"):
                    told(up, notified(alert(time.time()), truncatedAlerts=1, groupKey=name))
                assert incomplete(up) == 2
                tree = notified(alert(time.time(), fingerprint="c"), truncatedAlerts=1, groupKey="c")
                answer = call(up, "POST", "webhooks/alertmanager", tree)
                assert answer.status_code == 503 and answer.headers["Retry-After"]
                assert incomplete(up) == 2 and "c" not in knows(up), "it is told again as a whole"
