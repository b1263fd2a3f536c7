"""What is said of incidents to Alertmanager, and when it is said again."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from otel_aiops.errors import ConfigError
from otel_aiops.incidents.incident import Incident, Severity, State
from otel_aiops.responses.alertmanager import (
    RESOLVED_S,
    Alert,
    AlertmanagersConfig,
    Story,
    Told,
    alerts_of,
    body_of,
    silences_of,
)
from otel_aiops.responses.http import HttpConfig
from tests.incidents.makers import T0, S
from tests.responses.makers import incident, prediction

CONFIG = AlertmanagersConfig(
    to=(HttpConfig(url="http://localhost:9093"),),
    labels={"cluster": "eu"},
    page="https://aiops.example.com/",
    runbook="https://wiki.example.com/{service}?severity={severity}",
)


def alerts(one: Incident, *before: Incident, config: AlertmanagersConfig = CONFIG, at_s: float = 60) -> list[Alert]:
    revisions = [(T0 + (k + 1) * S, past) for k, past in enumerate((*before, one))]
    return alerts_of(config, one, Story().after(revisions), T0 + round(at_s * S))


def alert(name: str = "i1", **more: Any) -> Alert:
    (found,) = alerts(incident(name, **more))
    return found


class TestAlerts:
    def test_of_an_incident(self) -> None:
        (one,) = alerts(incident())
        assert dict(one.labels) == {
            "alertname": "OtelAiopsIncident",
            "incident_id": "i1",
            "service_name": "cart",
            "severity": "warning",
            "cluster": "eu",
        }
        said = dict(one.annotations)
        assert said["summary"] == "cart fails" and said["reason"] == "most errors"
        assert said["suspects"] == "1. cart (80%): most errors"
        assert said["dashboard_url"] == one.link == "https://aiops.example.com/incidents/i1"
        assert said["runbook_url"] == "https://wiki.example.com/cart?severity=warning"
        assert one.starts_ns == T0 and not one.ends_ns

    def test_of_a_prediction(self) -> None:
        (one,) = alerts(prediction())
        labels, said = dict(one.labels), dict(one.annotations)
        assert labels["alertname"] == "OtelAiopsPredictedIncident" and labels["predicted"] == "true"
        assert said["probability"] == "0.90" and said["lead_time"] == "30 min (15 min to 45 min)"
        (ended,) = alerts(prediction(), config=replace(CONFIG, predicted=False))
        assert ended.ends_ns, "one that fired under another configuration ends"

    def test_labels_stay_while_services_and_suspects_change(self) -> None:
        first = incident()
        joined = replace(incident(service="bank", revision=2), findings=(), services=("bank", "cart"))
        assert alerts(joined, first)[0].labels == alerts(first)[0].labels

    def test_what_gets_worse_is_another_alert_and_what_gets_better_is_not(self) -> None:
        mild, bad = incident(), incident(revision=2, severity=Severity.CRITICAL)
        ended, firing = alerts(bad, mild)
        assert ended.ends_ns == T0 + 2 * S and dict(ended.labels)["severity"] == "warning"
        assert not firing.ends_ns and dict(firing.labels)["severity"] == "critical"
        calmer = incident(revision=3, severity=Severity.INFO)
        *_, still = alerts(calmer, mild, bad)
        assert still.labels == firing.labels and dict(still.annotations)["severity"] == "info"
        assert len(alerts(bad, mild, at_s=RESOLVED_S + 10)) == 1

    def test_only_from_a_severity_on(self) -> None:
        config = replace(CONFIG, severity=Severity.CRITICAL)
        assert alerts(incident(), config=config) == []
        (one,) = alerts(incident(revision=2, severity=Severity.CRITICAL), incident(), config=config)
        assert dict(one.labels)["severity"] == "critical"

    @pytest.mark.parametrize("more", [{"state": State.RESOLVED, "end_ns": T0 + 9 * S}, {"suppressed_by": "silence s"}])
    def test_what_is_over_or_suppressed_ends(self, more: dict[str, Any]) -> None:
        assert alert(**more).ends_ns

    def test_hostile_texts_are_legal(self) -> None:
        evil = 'x"} {{ define "y" }}\ud800\n' + "é" * 5_000
        one = alert(service=evil, title=evil, summary=evil)
        (tree,) = json.loads(body_of([one], T0 + 60 * S, 60))
        for name, value in (tree["labels"] | tree["annotations"]).items():
            assert re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name) and 0 < len(value) <= 2_000
            value.encode()
        assert "{{" not in tree["annotations"]["runbook_url"]

    def test_times(self) -> None:
        def times(one: Alert) -> tuple[str, str]:
            (tree,) = json.loads(body_of([one], T0 + 60 * S, 30))
            return tree["startsAt"], tree["endsAt"]

        assert times(alert()) == ("2023-11-14T22:13:20.000000Z", "2023-11-14T22:16:20.000000Z"), "4 resends from now"
        assert times(replace(alert(), ends_ns=T0 + 9 * S))[1] == "2023-11-14T22:13:29.000000Z"
        assert times(replace(alert(), ends_ns=T0 - 9 * S))[1] == times(alert())[0], "never before its start"
        assert times(replace(alert(), ends_ns=T0 + 900 * S))[1] == "2023-11-14T22:14:20.000000Z", "never in the future"


class TestTold:
    def told(self, *wanted: Alert) -> Told:
        found = Told(60)
        found.took(found.due(wanted, 0, T0), 0)
        return found

    def test_what_is_new_or_has_changed_or_is_old_is_due(self) -> None:
        one = alert()
        found = self.told(one)
        assert found.due([one], 59, T0) == []
        changed = alert(title="cart burns")
        assert found.due([changed], 59, T0) == [changed]
        assert found.due([one], 60, T0) == [one]
        assert found.firing() == 1

    def test_an_end_is_told_for_five_minutes_and_does_not_move(self) -> None:
        one = alert()
        found = self.told(one)
        for now_s in range(60, 60 + round(RESOLVED_S) + 1, 60):
            ended = replace(one, ends_ns=T0 + now_s * S)
            (said,) = found.due([ended], now_s, T0)
            assert said.ends_ns == T0 + 60 * S
            found.took([said], now_s)
        assert found.due([ended], 1_000, T0) == [] == found.due([], 2_000, T0)
        assert not found.missed

    def test_it_fires_again(self) -> None:
        one = alert()
        found = self.told(one)
        found.took(found.due([replace(one, ends_ns=T0 + S)], 60, T0), 60)
        assert found.due([one], 61, T0) == [one]

    def test_what_is_wanted_no_more_ends(self) -> None:
        found = self.told(alert())
        (said,) = found.due([], 1, T0 + 7 * S)
        assert said.ends_ns == T0 + 7 * S

    def test_ends_from_before_the_start_are_told_and_those_of_an_outage_counted(self) -> None:
        ended = replace(alert(), ends_ns=T0 + S)
        found = Told(60)
        assert found.due([ended], 0, T0) == [ended], "it may have been told before the process ended"
        found.forgot()
        assert found.due([ended], 1, T0) == [ended], "Alertmanager has not answered yet"
        other = replace(alert("i2"), ends_ns=T0 + S)
        assert found.due([ended, other], 2, T0) == [ended] and found.missed == [other]
        assert found.due([ended, other], 3, T0) == [ended] and not found.missed, "it is counted once"

    def test_who_was_away_is_told_all(self) -> None:
        one = alert()
        found = self.told(one)
        found.forgot()
        assert found.due([one], 1, T0) == [one]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("resend", 0, "resend: must be 1 s to 1 h, got 0"),
        ("labels", {"k8s.cluster": "x"}, "labels.k8s.cluster: expected letters, digits and _"),
        ("labels", {"severity": "x"}, "labels.severity: expected letters"),
        ("runbook", "https://x/{nothing}", "runbook: {nothing} is not a known value"),
        ("page", "aiops", "url: expected http://"),
        ("to", (HttpConfig(url="http://a"), HttpConfig(url="http://a")), "to: expected each address once"),
    ],
)
def test_a_wrong_configuration_is_named(key: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        AlertmanagersConfig(**{key: value})


def silence(*matchers: dict[str, Any], **more: Any) -> dict[str, Any]:
    state = {"status": {"state": "active"}, "endsAt": "2099-01-01T00:00:00Z", "comment": "work", "createdBy": "ann"}
    return {"id": "s1", "matchers": list(matchers), **state, **more}


def on(name: str, value: str, **more: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "isRegex": False, "isEqual": True, **more}


class TestSilences:
    @pytest.mark.parametrize(
        ("matchers", "covers"),
        [
            ([on("service_name", "cart")], True),
            ([on("service", "cart")], True),
            ([on("service_name", "ca", isRegex=True)], False),
            ([on("service_name", "ca.*|pay", isRegex=True)], True),
            ([on("service_name", "cart", isEqual=False)], False),
            ([on("alertname", "OtelAiopsIncident"), on("severity", "warning")], True),
            ([on("alertname", "SlowCheckout"), on("service", "cart")], False),
            ([on("cluster", "eu")], True),
            ([on("cluster", "us"), on("service_name", "cart")], False),
            ([on("namespace", "shop"), on("service_name", "cart")], False),
            ([on("namespace", "test", isEqual=False), on("service_name", "cart")], True),
            ([on("predicted", "true")], False),
            ([on("service_name", "(a+)+", isRegex=True)], False),
            ([on("service_name", "(", isRegex=True)], False),
        ],
    )
    def test_what_they_cover(self, matchers: list[dict[str, Any]], covers: bool) -> None:
        found = silences_of(CONFIG, [silence(*matchers)])
        assert any(one.holds(incident(), T0) for one in found) is covers

    def test_one_of_a_service_does_not_cover_what_hits_others_too(self) -> None:
        (one,) = silences_of(CONFIG, [silence(on("service_name", "cart"))])
        assert one.holds(incident(), T0) and not one.holds(incident(services=("cart", "pay")), T0)

    def test_what_covers_our_alert_stays_an_alert_and_what_means_the_service_does_not(self) -> None:
        for label, fires in (("service_name", True), ("job", False)):
            (one,) = silences_of(CONFIG, [silence(on(label, "cart"))])
            suppressed = alert(suppressed_by=f"silence {one.name} by {one.who}: {one.why}")
            assert bool(suppressed.ends_ns) is not fires

    @pytest.mark.parametrize(
        "bad",
        [
            silence(on("service_name", "cart"), status={"state": "expired"}),
            silence(on("service_name", "cart"), createdBy="otel-aiops, playbook heal"),
            silence(),
            {"id": "x"},
            7,
        ],
    )
    def test_what_covers_nothing(self, bad: Any) -> None:
        assert silences_of(CONFIG, [bad]) == []
