"""Notifications of Alertmanager and Grafana: read whatever else stands in them, and told apart from our own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aiops.errors import BadInput
from otel_aiops.incidents.incident import Severity, State
from otel_aiops.incidents.known import alert_of, ours, read

ALERT = {
    "status": "firing",
    "labels": {"alertname": "SlowCheckout", "service": "cart", "severity": "page"},
    "annotations": {"summary": "checkout is slow", "description": "p99 is 4 s"},
    "startsAt": "2026-05-03T14:00:00.123456789Z",
    "endsAt": "0001-01-01T00:00:00Z",
    "generatorURL": "http://prometheus:9090/graph?g0.expr=rate%28errors%5B5m%5D%29",
    "fingerprint": "c0ffee",
}
GRAFANA = {"version": "1", "orgId": 1, "state": "alerting", "title": "x", "message": "y"}


def notified(*alerts: Any, **more: Any) -> dict[str, Any]:
    return {"version": "4", "groupKey": "{}:{}", "status": "firing", "receiver": "r", "alerts": list(alerts), **more}


def test_an_alert_of_alertmanager() -> None:
    tree = notified(
        ALERT, truncatedAlerts=3, groupLabels={"service": "cart"}, notification_reason="new", routeLabels={}
    )
    told = read(tree)
    (one,) = told.alerts
    assert (told.sender, told.truncated, told.group_labels) == ("alertmanager", 3, (("service", "cart"),))
    assert (one.service, one.name, one.ends_ns, one.ours) == ("cart", "SlowCheckout", 0, False)
    assert one.starts_ns == 1_777_816_800_123_000_000
    incident = one.as_incident()
    assert (incident.severity, incident.state, incident.services) == (Severity.CRITICAL, State.OPEN, ("cart",))
    assert incident.title == "checkout is slow" and incident.summary == "p99 is 4 s"
    assert "SlowCheckout of alertmanager fires: checkout is slow" in one.finding(one.starts_ns).evidence.text


def test_one_of_grafana() -> None:
    one = ALERT | {"values": {"B": 4}, "silenceURL": "http://g/silence", "dashboardURL": "", "imageURL": None}
    told = read(notified(one) | GRAFANA)
    assert told.sender == "grafana" and told.alerts[0].fingerprint == "c0ffee"


def test_the_same_told_again_is_known_by_its_id_and_an_end_is_another() -> None:
    end = ALERT | {"status": "resolved", "endsAt": "2026-05-03T15:00:00Z"}
    first, again, ended = (read(notified(one)).alerts[0] for one in (ALERT, ALERT | {"annotations": {}}, end))
    assert first.id == again.id != ended.id
    assert first.incident == ended.incident and ended.as_incident().state is State.RESOLVED
    assert first.finding(first.starts_ns).key == ended.finding(0).key and ended.finding(0).end_ns == ended.ends_ns


@pytest.mark.parametrize("bad", [7, {}, {"labels": {}}, ALERT | {"startsAt": "soon"}, ALERT | {"status": "odd"}])
def test_what_cannot_be_read_keeps_no_other_back(bad: Any) -> None:
    told = read(notified(bad, ALERT))
    assert len(told.alerts) == 1 and told.unreadable == 1


@pytest.mark.parametrize("bad", [None, [], {}, {"alerts": "x"}, notified(*[ALERT] * 10_001)])
def test_what_is_no_notification_is_refused(bad: Any) -> None:
    with pytest.raises(BadInput, match=r"^alerts: expected "):
        read(bad)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_no_alert_breaks_it(tree: Any) -> None:
    for one in (tree, ALERT | {"labels": tree}, ALERT | {"annotations": tree, "startsAt": tree, "fingerprint": tree}):
        told = read(notified(one))
        assert len(told.alerts) + told.unreadable == 1
        for alert in told.alerts:
            alert.as_incident().title.encode()


@pytest.mark.parametrize(
    ("labels", "source", "is_ours"),
    [
        ({"alertname": "OtelAiopsIncident", "service_name": "cart"}, "", True),
        ({"alertname": "X", "job": "otel-aiops"}, "", True),
        (
            {"alertname": "HostCpuUnusual", "host_name": "a"},
            "http://p/graph?g0.expr=otel_aiops_alert_active+%3D%3D+1",
            True,
        ),
        ({"alertname": "X", "service": "cart"}, "http://p/graph?g0.expr=up+%3D%3D+0", False),
    ],
)
def test_our_own_come_back(labels: dict[str, str], source: str, is_ours: bool) -> None:
    assert ours(labels, source) is is_ours


def test_the_same_alert_told_by_webhook_and_listed_by_the_api_is_the_same() -> None:
    (said,) = read(notified(ALERT)).alerts
    listed = ALERT | {"startsAt": "2026-05-03T14:00:00.123Z", "endsAt": "2026-05-03T14:05:00.000Z"}
    api = alert_of(listed | {"status": {"state": "active"}}, said.sender, said.group)
    assert api is not None and (api.id, api.incident) == (said.id, said.incident) and not api.ends_ns
