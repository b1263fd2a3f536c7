"""Which alerts are about which events, and what follows from that."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aiops.lifecycle.events import (
    Event,
    Opened,
    alerts_of,
    caught,
    coverage,
    events_of,
    matches,
    median_delay_s,
    poisson_interval,
    precision,
    recall,
)
from otel_aiops.lifecycle.truth import Label

S = 1_000_000_000
TOLERANCE_NS = 300 * S


def opened(start_s: int, end_s: int, service: str = "cart", series: str = "a", *, paid: bool = True) -> Opened:
    return Opened(series, service, start_s * S, end_s * S, 2.0, "level", paid)


def event(start_s: int, end_s: int, confidence: float = 1.0, *services: str) -> Event:
    return Event(
        start_ns=start_s * S, end_ns=end_s * S, name="x", source="file", confidence=confidence, services=services
    )


@pytest.mark.parametrize(("start_s", "fits"), [(699, False), (700, True), (1000, True), (2000, True), (2001, False)])
def test_an_alert_is_about_an_event_when_it_begins_from_the_tolerance_on_until_the_end(
    start_s: int, fits: bool
) -> None:
    (one,) = caught([event(1000, 2000, 1.0, "cart")], [opened(start_s, start_s + 50)], TOLERANCE_NS)
    assert one.caught == fits


def test_an_alert_that_had_begun_long_before_does_not_count_although_it_goes_on() -> None:
    (one,) = caught([event(1000, 2000)], [opened(100, 5000)], TOLERANCE_NS)
    assert not one.caught and math.isnan(one.delay_s) and one.covered == 0


def test_delay_and_time_covered_are_of_all_alerts_that_are_about_it() -> None:
    mine = [opened(1100, 1300), opened(1200, 1500, series="b"), opened(1900, 9000), opened(1000, 2000, "pay", "c")]
    (one,) = caught([event(1000, 2000, 1.0, "cart")], mine, TOLERANCE_NS)
    assert one.delay_s == 100 and one.covered == pytest.approx(0.5)


def test_the_labels_of_an_incident_are_one_event_and_others_each_one() -> None:
    labels = [
        Label(start_ns=10, end_ns=50, service="cart", source="incident", note="I1", confidence=0.6),
        Label(start_ns=20, end_ns=90, service="pay", source="incident", note="I1"),
        Label(start_ns=20, end_ns=30, series="s", source="verdict"),
        Label(start_ns=20, end_ns=30, kind="normal", source="verdict"),
        Label(start_ns=5, end_ns=30, service="cart"),
    ]
    first, second = events_of(labels, 10, 60)
    assert (first.services, first.start_ns, first.end_ns, first.confidence) == (("cart", "pay"), 10, 60, 1.0)
    assert second.series == ("s",) and not second.services
    assert first.concerns("?", "pay") and not first.concerns("?", "ad") and second.concerns("s", "ad")


def test_what_several_sources_tell_of_one_trouble_is_one_event() -> None:
    labels = [
        Label(start_ns=100, end_ns=500, service="cart", source="incident", note="I1"),
        Label(start_ns=120, end_ns=600, service="pay", source="incident", note="I1"),
        Label(start_ns=50, end_ns=450, service="cart", source="alertmanager", confidence=0.5),
        Label(start_ns=300, end_ns=400, service="pay", source="file", note="outage", confidence=0.9),
        Label(start_ns=700, end_ns=800, service="cart", source="file"),  # later
        Label(start_ns=300, end_ns=400, service="db", source="file"),  # another service
        Label(start_ns=410, end_ns=440, service="cart", source="alertmanager", confidence=0.5),  # its second in there
    ]
    found = events_of(labels, 0, 1000)
    assert [(one.start_ns, one.end_ns, one.services, one.source, one.confidence) for one in found] == [
        (50, 600, ("cart", "pay"), "incident", 1.0),
        (300, 400, ("db",), "file", 1.0),
        (410, 440, ("cart",), "alertmanager", 0.5),
        (700, 800, ("cart",), "file", 1.0),
    ]
    assert events_of(reversed(labels), 0, 1000) == found


def test_of_a_service_the_first_alert_is_told_and_true_when_any_of_its_alerts_is() -> None:
    many = [
        opened(1000, 1010),
        opened(1100, 1400, series="b", paid=False),
        opened(9000, 9010),
        opened(500, 600, "pay", "p", paid=False),  # of one that was paid before
    ]
    calm = [Label(start_ns=8900 * S, end_ns=9100 * S, service="cart", kind="expected")]
    series_b = Event(start_ns=1090 * S, end_ns=1200 * S, name="x", source="f", confidence=0.4, series=("b",))
    told = alerts_of(many, [series_b], calm, 0)
    assert [(one.members, one.true, one.called_false) for one in told] == [(2, 0.4, False), (1, 0.0, True)]
    assert told[0].end_ns == 1400 * S and precision(told) == pytest.approx(0.2)


def test_weak_labels_weigh_less() -> None:
    events = [event(1000, 2000, 1.0), event(5000, 6000, 0.25)]
    found = caught(events, [opened(1000, 1500)], TOLERANCE_NS)
    assert recall(found) == pytest.approx(0.8) and coverage(found) == pytest.approx(0.4)
    assert median_delay_s(found) == 0


def test_without_anything_there_is_no_number() -> None:
    assert all(map(math.isnan, (precision([]), recall([]), coverage([]), median_delay_s([]))))
    assert all(map(math.isnan, poisson_interval(3, 0.0)))


SPANS = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 900), st.sampled_from("ab")), max_size=12)


@given(SPANS, SPANS, st.integers(0, 400))
def test_which_alerts_are_about_an_event_is_as_the_rule_says(
    many: list[Any], alerts: list[Any], tolerance_s: int
) -> None:
    """The slow twin: every alert beside every event."""
    events = [event(start, start + lasts + 1, 1.0, service) for start, lasts, service in many]
    some = [opened(start, start + lasts, service) for start, lasts, service in alerts]
    for of, mine in zip(events, matches(events, some, tolerance_s * S), strict=True):
        about = [
            one
            for one in some
            if of.start_ns - tolerance_s * S <= one.start_ns <= of.end_ns and one.service in of.services
        ]
        assert sorted(map(repr, mine)) == sorted(map(repr, about))


@given(st.integers(0, 200), st.floats(0.1, 50))
def test_the_interval_of_a_rate_holds_the_rate(count: int, weeks: float) -> None:
    low, high = poisson_interval(count, weeks)
    assert 0 <= low <= count / weeks < high
    narrow = poisson_interval(count, weeks, 0.5)
    assert low <= narrow[0] and narrow[1] <= high
