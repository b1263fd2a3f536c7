"""Alerts of single series: one joins an incident, a few together make one."""

from __future__ import annotations

import numpy as np

from otel_aiops.incidents.alerted import ALONE, finding_of, together
from otel_aiops.incidents.incident import Channel, Finding
from otel_aiops.labels import Labels


def alert(service: str = "pay", number: int = 1, *, silent: bool = False, **labels: str) -> Finding:
    resource = tuple(sorted({"service.name": service, "k8s.pod.name": f"{service}-1"}.items()))
    of = Labels(name="cpu", unit="s", resource=resource, **labels)  # type: ignore[arg-type]
    why = f"cpu of {service}"
    return finding_of(of, f"{number:016x}", time_ns=7, before=1.0, after=np.nan, silent=silent, why=why)


def test_an_alert_says_which_series_it_is_of() -> None:
    found = alert(stat="p95")
    assert (found.service, found.channel, found.score, found.end_ns) == ("pay", Channel.SERIES, ALONE, 0)
    assert found.start_ns == found.last_ns == 7 and found.key == f"series|{1:016x}"
    evidence = found.evidence
    assert (evidence.what, evidence.unit, evidence.resource, evidence.series) == ("cpu:p95", "s", "pay-1", f"{1:016x}")
    assert evidence.text == "cpu of pay" and evidence.before == 1 and np.isnan(evidence.after)


def test_one_that_has_stopped_is_of_another_channel() -> None:
    found = alert(silent=True)
    assert found.channel == Channel.SILENCE and found.key.startswith("silence|") and found.evidence.what == "cpu"


def test_one_without_a_pod_names_no_resource() -> None:
    found = finding_of(Labels(name="up"), "0", time_ns=1, before=0, after=0, silent=False, why="")
    assert found.service == "unknown_service" and found.evidence.resource == ""


def test_enough_of_one_service_at_once_open_an_incident() -> None:
    lasting = [alert("pay", k) for k in range(3)] + [alert("web", k) for k in range(2)]
    told = [alert("pay", 1), alert("web", 1)]
    assert [one.score for one in together(told, lasting, 3)] == [1.0, ALONE]
    assert [one.score for one in together(told, lasting[1:], 3)] == [ALONE, ALONE]
    assert together([], lasting, 3) == []
    assert [one.score for one in together([alert("cart")], [], 3)] == [ALONE]
