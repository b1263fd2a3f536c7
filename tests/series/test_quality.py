"""Data quality by service: every kind of trouble is counted for the service that has it, and for no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from otel_aiops.otlp.points import Kind, Points, Stream, Temporality
from otel_aiops.pipeline import Pipeline, PipelineConfig
from otel_aiops.series.quality import MOST_SERVICES, OTHERS, PROBLEMS, Quality, ServiceQuality
from otel_aiops.series.table import TableConfig
from tests.feed import Feed

S = 1_000_000_000
T0 = 1_777_816_800 * S


def stream(service: str, kind: Kind = Kind.GAUGE, **more: Any) -> Stream:
    given: dict[str, Any] = {
        "resource": Feed(service).request.resource_metrics[0].resource.SerializeToString(),
        "scope": b"",
        "name": "m",
        "unit": "s",
        "kind": kind,
        "temporality": Temporality.CUMULATIVE if kind == Kind.SUM else Temporality.UNSPECIFIED,
        "monotonic": kind == Kind.SUM,
    }
    return Stream(**(given | more))


def body(of: Stream, *points: tuple[float, float] | tuple[float, float, float]) -> Points:
    """Points of one series as (time, value, start), in seconds after T0."""
    count = len(points)
    rows = [(*one, 0.0)[:3] for one in points]
    return Points(
        streams=(of,),
        stream=np.zeros(count, np.int32),
        attributes=[b""] * count,
        start_ns=np.array([T0 + int(start * S) if start else 0 for _, _, start in rows], np.int64),
        time_ns=np.array([T0 + int(at * S) if at else 0 for at, _, _ in rows], np.int64),
        value=np.array([value for _, value, _ in rows], np.float64),
        count=np.full(count, np.nan),
        stale=np.zeros(count, bool),
        layouts=(),
        layout=np.full(count, -1, np.int32),
        cells=np.empty(0),
        cell_offset=np.zeros(count + 1, np.int64),
    )


class Road:
    """A pipeline, fed a body at a time."""

    def __init__(self) -> None:
        self.pipeline = Pipeline(PipelineConfig())
        self.feed(stream("good"), *((at, at % 3) for at in (1, 2, 3)))

    def feed(self, of: Stream, *points: Any, now_s: float | None = None) -> None:
        last = max(one[0] for one in points) if now_s is None else now_s
        self.pipeline.metrics(body(of, *points), now_ns=T0 + int(last * S))

    def found(self, service: str) -> ServiceQuality:
        return {one.service: one for one in self.pipeline.quality.report()}[service]

    def problems(self, service: str) -> dict[str, int]:
        good = self.found("good")
        assert not any(good.problems.values()), "trouble of another service was counted here"
        return {name: count for name, count in self.found(service).problems.items() if count}


@pytest.fixture
def road() -> Road:
    return Road()


def test_a_good_stream_has_no_problems(road: Road) -> None:
    good = road.found("good")
    assert (good.series, good.points, good.late_ratio) == (1, 3, 0)
    assert set(good.problems) == set(PROBLEMS) and not any(good.problems.values())


def test_gaps_late_points_and_what_cannot_be(road: Road) -> None:
    road.feed(stream("a"), *((at, 1.0) for at in (10, 20, 30, 40, 100)))
    assert road.problems("a") == {"gap": 1}
    road.feed(stream("a"), (50, 1.0), (60, 1.0), (0, 1.0), (9_000, 1.0), (110, float("nan")), now_s=120)
    assert road.problems("a") == {"gap": 1, "late": 2, "absent": 2, "future": 1}
    assert road.found("a").late_ratio == pytest.approx(2 / 8)


def test_a_counter_that_begins_anew(road: Road) -> None:
    counter = stream("a", Kind.SUM)
    road.feed(counter, (10, 5.0, 1), (20, 6.0, 1), (30, 7.0, 1), (40, 1.0, 31))
    assert road.problems("a") == {"reset": 1}


def test_two_senders_of_a_counter_take_turns_with_their_start_times(road: Road) -> None:
    counter = stream("a", Kind.SUM)
    road.feed(counter, *((10 + 5 * k, 100.0 + k, 1 + k % 2) for k in range(6)))
    assert road.problems("a")["two_senders"] == 2  # every time that the start goes back


def test_two_senders_of_delta_overlap(road: Road) -> None:
    delta = stream("a", Kind.SUM, temporality=Temporality.DELTA)
    road.feed(delta, (10, 1.0, 1), (20, 1.0, 10), (30, 1.0, 20))
    assert road.problems("a") == {}
    road.feed(delta, (35, 1.0, 25))
    assert road.problems("a") == {"two_senders": 1}


def test_two_senders_of_a_gauge_say_different_things_of_one_time(road: Road) -> None:
    road.feed(stream("a"), (10, 1.0), (20, 2.0))
    road.feed(stream("a"), (20, 2.0))
    assert road.problems("a") == {"duplicate": 1}
    road.feed(stream("a"), (20, 7.0))
    assert road.problems("a") == {"duplicate": 2, "two_senders": 1}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"unit": "ms"}, {"unit_change": 1}),
        ({"temporality": Temporality.DELTA}, {"temporality_change": 1}),
        ({"kind": Kind.GAUGE, "temporality": Temporality.UNSPECIFIED, "monotonic": False}, {"type_change": 1}),
    ],
)
def test_a_metric_that_means_something_else_now(road: Road, change: dict[str, Any], problem: dict[str, int]) -> None:
    before, delta = stream("a", Kind.SUM), "temporality" in change
    road.feed(before, (10, 1.0, 1))
    road.feed(before._replace(name="other", **change), (10, 1.0, 1))
    assert road.problems("a") == {}
    for at in (20, 30):
        road.feed(before._replace(**change), (at, 1.0 * at, at - 10 if delta else 1))
    assert road.problems("a") == problem


def test_the_least_difference_of_clocks_is_told_once_for_each_report(road: Road) -> None:
    road.feed(stream("a"), (10, 1.0), now_s=13)
    road.feed(stream("a"), (15, 1.0), (20, 1.0), now_s=22)
    road.feed(stream("a"), (30, 1.0), now_s=39)
    assert road.found("a").skew_s == 2
    road.feed(stream("a"), (60, 1.0), now_s=55)
    assert road.found("a").skew_s == -5
    assert road.found("a").skew_s == -5  # stays until something comes


def test_series_that_give_their_place_are_not_counted_any_more() -> None:
    pipeline = Pipeline(replace(PipelineConfig(), series=TableConfig(max_series=1, reclaim_after=10.0)))
    pipeline.metrics(body(stream("a"), (10, 1.0)), now_ns=T0 + 10 * S)
    pipeline.metrics(body(stream("b"), (500, 1.0)), now_ns=T0 + 500 * S)
    pipeline.metrics(body(stream("b"), (600, 1.0)), now_ns=T0 + 600 * S)
    found = {one.service: one.series for one in pipeline.quality.report()}
    assert found == {"a": 0, "b": 1}


def test_a_restart_knows_the_series_and_calls_nothing_changed(road: Road) -> None:
    road.feed(stream("a", Kind.SUM), (10, 1.0, 1))
    again = Pipeline(PipelineConfig())
    again.restore(road.pipeline.state())
    assert [(one.service, one.series, one.points) for one in again.quality.report()] == [("a", 1, 0), ("good", 1, 0)]
    again.metrics(body(stream("a", Kind.SUM, unit="ms"), (20, 1.0, 1)), now_ns=T0 + 20 * S)
    assert again.quality.report()[0].problems["unit_change"] == 1


def test_it_is_no_part_of_what_is_learned(road: Road) -> None:
    other = Pipeline(PipelineConfig())
    other.metrics(body(stream("good"), *((at, at % 3) for at in (1, 2, 3))), now_ns=T0 + 3 * S)
    other.quality.report()
    mine, theirs = road.pipeline.state(), other.state()
    assert mine.keys() == theirs.keys()
    for name in mine:
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)


def test_services_beyond_the_bound_share_a_line() -> None:
    from otel_aiops.labels import Labels

    quality = Quality()
    many = MOST_SERVICES + 5
    rows = np.arange(many, dtype=np.int32)
    labels = [Labels("m", resource=(("service.name", f"s{k:04}"),)) for k in range(many)]
    quality.welcome(rows, labels, [Temporality.UNSPECIFIED] * many, told=True)
    quality.points(rows, np.full(many, T0), np.ones(many))
    found = {one.service: one for one in quality.report()}
    assert len(found) == MOST_SERVICES + 1
    assert (found[OTHERS].series, found[OTHERS].points) == (5, 5)
