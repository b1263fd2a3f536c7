"""The queue asks about what would teach most: near the threshold, where versions disagree, not the same twice."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aiops.detect.lessons import Verdict
from otel_aiops.lifecycle.queue import HALF_LIFE_NS, Open, propose

S = 1_000_000_000
NOW_NS = 1_777_816_800 * S


def alert(number: int, peak: float, **more: Any) -> Open:
    at_ns = NOW_NS - 3_600 * S
    given: dict[str, Any] = {"service": f"s{number}", "name": f"m{number}", "since_ns": at_ns, "until_ns": at_ns}
    return Open(series=f"m{number}", fingerprint=number, peak=peak, **{**given, **more})


def said(series: int, time_ns: int) -> Verdict:
    return Verdict(series=series, time_ns=time_ns, kind="false_alert", ratio=1.0)


def order(*alerts: Open, verdicts: tuple[Verdict, ...] = (), most: int = 5) -> list[int]:
    return [one.alert.fingerprint for one in propose(alerts, verdicts, NOW_NS, most=most)]


def test_what_is_near_the_threshold_comes_first() -> None:
    assert order(alert(1, 3.0), alert(2, 1.05), alert(3, 1.4)) == [2, 3, 1]


def test_what_versions_disagree_about_comes_before() -> None:
    (first, second) = propose([alert(1, 1.3), alert(2, 1.3, only="other", until_ns=NOW_NS)], (), NOW_NS)
    assert first.alert.fingerprint == 2 and first.worth == pytest.approx(second.worth + 1, abs=0.01)
    assert "only the version beside it had an alert" in first.reasons


def test_one_service_is_not_asked_about_twice_in_a_row() -> None:
    same = {"service": "cart", "name": "cpu"}
    assert order(alert(1, 1.0, **same), alert(2, 1.05, **same), alert(3, 1.4)) == [1, 3, 2]


def test_what_has_a_verdict_is_not_asked_about_again() -> None:
    at_ns = alert(1, 1.0).since_ns
    assert order(alert(1, 1.0), alert(2, 1.3), verdicts=(said(1, at_ns + 300 * S),)) == [2]
    other_day = (said(1, at_ns - 86_400 * S), said(1, at_ns - 90_000 * S))
    assert order(alert(1, 1.0), alert(2, 1.3), verdicts=other_day) == [2, 1]


def test_old_ones_fade() -> None:
    old = {"since_ns": NOW_NS - HALF_LIFE_NS, "until_ns": NOW_NS - HALF_LIFE_NS}
    (one,) = propose([alert(1, 1.0, **old)], (), NOW_NS)
    assert one.worth == 0.5


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0.0, 1e9)), max_size=12), st.integers(0, 6), st.randoms())
def test_it_is_bounded_deterministic_and_in_no_need_of_order(
    given_: list[tuple[int, float]], most: int, random: Any
) -> None:
    alerts = [alert(n, peak, since_ns=NOW_NS - k * S, until_ns=NOW_NS) for k, (n, peak) in enumerate(given_)]
    found = propose(alerts, (), NOW_NS, most=most)
    shuffled = random.sample(alerts, len(alerts))
    assert propose(shuffled, (), NOW_NS, most=most) == found
    assert len(found) == min(most, len(alerts)) and all(0 <= one.worth <= 2 for one in found)
    assert len({one.alert.since_ns for one in found}) == len(found)
