"""Alerts of single series: one joins an incident, a few together make one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from otel_aiops.detect.budget import Alerted as Judged
from otel_aiops.detect.detector import Scores
from otel_aiops.detect.scorer import Scored
from otel_aiops.errors import StateError
from otel_aiops.incidents.alerted import ALONE, Alerted, finding_of
from otel_aiops.incidents.incident import Channel, Finding
from otel_aiops.labels import Labels
from otel_aiops.series.batch import Batch

S = 1_000_000_000


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


def given(alerted: Alerted, active: dict[int, bool], time_s: int) -> list[Finding]:
    """One point of each row at a time, with or without an alert; what the step after it tells."""
    rows, count = np.array(list(active), np.int32), len(active)
    batch = Batch(rows, np.full(count, (1_000 + time_s) * S), np.zeros(count), np.full(count, 10.0))
    none = np.zeros(count)
    scores = Scores(none, none, none, none, none, np.zeros(count, np.uint8), none, none)
    now = np.array(list(active.values()))
    judged = Judged(ratio=none, active=now, opened=now, counted=now, threshold=none)
    services = {row: "web" if row >= 10 else "pay" for row in active}

    def finding(scored: Scored, k: int) -> Finding | None:
        row = int(scored.batch.rows[k])
        found = alert(services[row], row)
        return None if row == 99 else replace(found, start_ns=(1_000 + time_s) * S, last_ns=(1_000 + time_s) * S)

    alerted.take(Scored(batch, scores, alerted=judged), finding)
    return alerted.step((1_000 + time_s) * S)


def test_enough_of_one_service_that_begin_together_open_an_incident() -> None:
    alerted = Alerted(3)
    assert [one.score for one in given(alerted, {1: True, 2: True, 10: True, 11: True, 99: True}, 0)] == [ALONE] * 4
    *single, crowd = given(alerted, {3: True}, 60)
    assert [one.score for one in single] == [ALONE]
    assert (crowd.key, crowd.service, crowd.score, crowd.start_ns) == ("series|pay", "pay", 1.0, 1_000 * S)
    assert crowd.evidence.count == 3 and crowd.evidence.text.startswith("3 series have alerts at once: cpu.")
    assert not given(alerted, {3: True}, 70), "what only lasts is told again later"
    told = {one.key: one for one in given(alerted, {1: False, 3: True}, 100)}
    assert told[f"series|{1:016x}"].end_ns and told["series|pay"].end_ns == 1_060 * S


def test_alerts_that_began_long_after_each_other_are_no_crowd() -> None:
    alerted = Alerted(3)
    given(alerted, {1: True, 2: True}, 0)
    assert all(one.score == ALONE for one in given(alerted, {3: True}, 301))


def test_a_restart_goes_on_the_same() -> None:
    one, other = Alerted(3), Alerted(3)
    given(one, {1: True, 2: True, 3: True}, 0)
    other.restore(one.state())
    for later in ({1: True}, {2: False}, {4: True}):
        assert repr(given(one, later, 40)) == repr(given(other, later, 40))  # a NaN equals none
    assert one.state()["alerted"].tobytes() == other.state()["alerted"].tobytes()
    with pytest.raises(StateError):
        other.restore({"alerted": np.frombuffer(b"[1]", np.uint8)})
