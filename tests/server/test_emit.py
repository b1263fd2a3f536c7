"""Which scores leave: selection, bound, ends, services, and the text on /metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from otel_aiops.detect.budget import BudgetConfig
from otel_aiops.detect.engine import EngineConfig
from otel_aiops.errors import ConfigError
from otel_aiops.otlp.attributes import attributes
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.encode import Request
from otel_aiops.pipeline import Pipeline, PipelineConfig, Step
from otel_aiops.series.table import TableConfig
from otel_aiops.server.emit import EmitConfig, Emitter
from otel_aiops.watch import Watch
from tests.feed import STALE, Feed, ns

START_S = 1_760_000_000

Point = tuple[str, dict[str, Any], dict[str, Any], float | None]  # metric, resource, attributes, value (None: it ends)


class Road:
    """A pipeline with an emitter behind it, whose clock is that of the data."""

    def __init__(self, *, max_series: int = 1000, **emit: Any) -> None:
        detection = EngineConfig(warmup_points=5)
        budgets = (BudgetConfig(name="brief", hold=0.0),)  # an alert ends with the first quiet point
        config = PipelineConfig(series=TableConfig(max_series=max_series), detection=detection, budgets=budgets)
        self.pipeline = Pipeline(config)
        engine = self.pipeline.engine
        self.watch = Watch(engine.channels, self.pipeline.reason)
        self.emitter = Emitter(EmitConfig(**emit), self.pipeline.table, self.watch)

    def step(self, feed: Feed, at_s: float) -> list[Point]:
        step: Step = self.pipeline.metrics(decode_metrics(feed.body()).points, now_ns=ns(at_s))
        self.watch.follow(step)
        return points(self.emitter.step(step))

    def warm(self, count: int = 3, *, seconds: int = 40) -> None:
        """Points of quiet series."""
        for k in range(seconds):
            assert not [p for p in self.step(gauges(count, START_S + k), START_S + k) if p[0].endswith("active")]

    def expire(self, at_s: float) -> list[Point]:
        return points(self.emitter.expire(ns(at_s)))


def gauges(count: int, at_s: int, **values: float) -> Feed:
    """Series p0 … of the service cart; `values` are those that differ."""
    feed = Feed("cart", **{"service.namespace": "shop"})
    for k in range(count):
        feed.gauge("cpu", at_s, values.get(f"p{k}", 50 + (at_s + k) % 3), pod=f"p{k}")
    return feed


def points(requests: Iterable[Request]) -> list[Point]:
    """What an OTLP receiver reads."""
    found: list[Point] = []
    for request in requests:
        message = ExportMetricsServiceRequest.FromString(request.body)
        count = 0
        for group in message.resource_metrics:
            resource = {pair.key: pair.value.string_value for pair in group.resource.attributes}
            for scope in group.scope_metrics:
                assert scope.scope.name == "otel_aiops"
                for metric in scope.metrics:
                    for point in metric.gauge.data_points:
                        own = {pair.key: pair.value.string_value for pair in point.attributes}
                        found.append((metric.name, resource, own, None if point.flags & STALE else point.as_double))
                        count += 1
        assert count == request.points
    return found


class TestSeries:
    def test_over_the_threshold_are_emitted_under_their_own_resource(self) -> None:
        road = Road()
        road.warm()
        found = road.step(gauges(3, START_S + 40, p1=500), START_S + 40)
        assert {name for name, *_ in found} == {
            "otel_aiops.anomaly.score",
            "otel_aiops.anomaly.active",
            "otel_aiops.alert.ratio",
            "otel_aiops.alert.active",
            "otel_aiops.anomaly.probability",
            "otel_aiops.anomaly.info",
        }
        name, resource, own, value = found[0]
        assert resource == {"service.name": "cart", "service.namespace": "shop"}
        assert own == {"pod": "p1", "anomaly.metric.name": "cpu", "anomaly.model": "default"}
        assert name == "otel_aiops.anomaly.score" and value is not None and value > 1

    def test_say_what_makes_the_score_and_end_that_when_it_changes(self) -> None:
        road = Road()
        road.warm()

        def told(at_s: int, **values: float) -> list[tuple[str, float | None]]:
            found = road.step(gauges(3, at_s, **values), at_s)
            return [(own["anomaly.channel"], v) for name, _, own, v in found if name == "otel_aiops.anomaly.info"]

        ((first, value),) = told(START_S + 40, p1=500)
        assert value == 1.0
        seen = [one for k in range(41, 60) for one in told(START_S + k)]
        assert seen[-1][1] is None and (first, None) in seen  # each one that was told is ended
        assert "otel_aiops_anomaly_info" not in road.emitter.render(ns(START_S + 60)).decode()

    def test_stay_for_a_while_and_then_end(self) -> None:
        road = Road(hold=5)
        road.warm()
        road.step(gauges(3, START_S + 40, p1=500), START_S + 40)
        after = road.step(gauges(3, START_S + 41), START_S + 41)
        assert {own["pod"] for _, _, own, _ in after} == {"p1"}
        active = [value for name, _, _, value in after if name == "otel_aiops.anomaly.active"]
        assert active == [0.0]
        assert not road.expire(START_S + 45)
        ends = road.expire(START_S + 46)
        assert [value for *_, value in ends] == [None] * 5
        assert not road.step(gauges(3, START_S + 46), START_S + 46)

    def test_all_of_them_when_wanted_with_their_band(self) -> None:
        road = Road(series="all", expected=True)
        for k in range(6):
            found = road.step(gauges(2, START_S + k), START_S + k)
        names = [name for name, *_ in found]
        assert names.count("otel_aiops.expected") == names.count("otel_aiops.expected.upper") == 2
        assert names.count("otel_aiops.anomaly.score") == 2

    def test_none_when_not_wanted(self) -> None:
        road = Road(series="none")
        road.warm()
        assert not road.step(gauges(3, START_S + 40, p1=500), START_S + 40)

    def test_over_the_limit_the_strangest_go_first(self) -> None:
        road = Road(max_series=100, **{})
        road.emitter = Emitter(EmitConfig(max_series=2), road.pipeline.table, road.watch)
        road.warm(5)
        found = road.step(gauges(5, START_S + 40, p0=100, p2=900, p4=500), START_S + 40)
        assert {own["pod"] for _, _, own, _ in found} == {"p2", "p4"}
        assert road.emitter.overflow == 1

    def test_end_when_their_sender_says_so(self) -> None:
        road = Road()
        road.warm()
        road.step(gauges(3, START_S + 40, p1=500), START_S + 40)
        feed = Feed("cart", **{"service.namespace": "shop"}).gauge("cpu", START_S + 41, 0, flags=STALE, pod="p1")
        found = road.step(feed, START_S + 41)
        assert [value for *_, value in found] == [None] * 6
        assert road.watch.anomalies() == []

    def test_end_once_when_a_body_says_so_twice(self) -> None:
        road = Road()
        road.warm()
        road.step(gauges(3, START_S + 40, p1=500), START_S + 40)
        feed = Feed("cart", **{"service.namespace": "shop"})
        for second in (41, 42):
            feed.gauge("cpu", START_S + second, 0, flags=STALE, pod="p1")
        found = road.step(feed, START_S + 42)
        assert [value for *_, value in found] == [None] * 6
        assert not road.expire(START_S + 1_000)

    def test_end_when_their_row_is_given_away(self) -> None:
        road = Road(max_series=3)
        road.pipeline = Pipeline(
            PipelineConfig(series=TableConfig(max_series=3, reclaim_after=30), detection=EngineConfig(warmup_points=5))
        )
        road.watch = Watch(road.pipeline.engine.channels, road.pipeline.reason)
        road.emitter = Emitter(EmitConfig(), road.pipeline.table, road.watch)
        road.warm()
        road.step(gauges(3, START_S + 40, p1=500), START_S + 40)
        road.step(gauges(1, START_S + 80), START_S + 80)
        found = road.step(Feed("web").gauge("new", START_S + 81, 1), START_S + 81)
        assert {own.get("pod") for _, _, own, _ in found} == {"p1", "p2"}  # p2 had stopped, which is an anomaly
        assert {value for *_, value in found} == {None}


class TestNames:
    def test_of_vmanomaly(self) -> None:
        road = Road(series="all", compat="vmanomaly")
        for k in range(7):
            found = road.step(gauges(1, START_S + k), START_S + k)
        by_name = {name: (own, value) for name, _, own, value in found}
        assert {"anomaly_score", "yhat", "yhat_lower", "yhat_upper", "y"} <= set(by_name)
        assert by_name["anomaly_score"][0]["for"] == "cpu"
        assert by_name["y"][1] == 50 + (START_S + 6) % 3

    def test_of_promql_anomaly(self) -> None:
        road = Road(series="all", compat="promql_anomaly")
        for k in range(7):
            found = road.step(gauges(1, START_S + k), START_S + k)
        names = {name for name, *_ in found}
        assert {"anomaly:level", "anomaly:upper_band", "anomaly:lower_band"} <= names

    def test_of_statistics(self) -> None:
        road = Road(series="all")
        for k in range(8):
            feed = Feed().histogram("latency", START_S + k, [k * 10, k * 5], [0.5], k * 3.0)
            found = road.step(feed, START_S + k)
        assert {own["anomaly.stat"] for _, _, own, _ in found} == {"rate", "mean", "p95"}


class TestServices:
    def test_are_summed_up(self) -> None:
        road = Road()
        road.warm()
        road.step(gauges(3, START_S + 40, p1=500, p2=400), START_S + 40)
        road.step(Feed("web").gauge("cpu", START_S + 40, 1), START_S + 40)
        found = {
            (name, resource["service.name"], own.get("reason")): value
            for name, resource, own, value in points(road.emitter.service_requests(ns(START_S + 40)))
        }
        highest = max(row["score"] for row in road.watch.columns[:3])
        assert found["otel_aiops.service.anomaly.score", "cart", None] == pytest.approx(float(highest))
        assert found["otel_aiops.service.series.anomalous", "cart", None] == 2
        assert found["otel_aiops.service.series.scored", "cart", None] == 3
        assert found["otel_aiops.series.warming", "web", "sparse"] == 1  # one point: nobody can tell when
        assert ("otel_aiops.service.anomaly.score", "web", None) not in found

    def test_have_a_score_of_all_their_series_together(self) -> None:
        road = Road()
        road.warm(8)
        road.step(gauges(8, START_S + 50, **{f"p{k}": 53.5 for k in range(8)}), START_S + 50)
        found = {
            (name, resource["service.name"]): value
            for name, resource, _, value in points(road.emitter.service_requests(ns(START_S + 50)))
        }
        (one,) = road.watch.together(0)
        assert found["otel_aiops.service.joint.score", "cart"] == pytest.approx(one.score)
        assert 'otel_aiops_service_joint_score{job="shop/cart"}' in road.emitter.render(ns(START_S + 50)).decode()

    def test_leave_out_what_is_long_gone(self) -> None:
        road = Road()
        road.warm()
        services = road.emitter.services(ns(START_S + 40 + 3700))
        assert not services.resources

    def test_can_be_switched_off(self) -> None:
        road = Road(services=False)
        road.warm()
        assert not list(road.emitter.service_requests(ns(START_S + 40)))
        assert b"service" not in road.emitter.render(ns(START_S + 40))


def test_metrics_page_is_what_was_emitted() -> None:
    road = Road()
    road.warm()
    feed = gauges(3, START_S + 40, p1=500)
    emitted = road.step(feed, START_S + 40)
    text = road.emitter.render(ns(START_S + 40)).decode()
    samples = {
        (sample.name, sample.labels.get("pod")): sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    score = samples["otel_aiops_anomaly_score", "p1"]
    assert score.labels == {
        "job": "shop/cart",
        "pod": "p1",
        "anomaly_metric_name": "cpu",
        "anomaly_model": "default",
    }
    expected = next(value for name, _, _, value in emitted if name == "otel_aiops.anomaly.score")
    assert score.value == pytest.approx(expected)
    assert samples["otel_aiops_service_series_anomalous", None].value == 1
    assert ("otel_aiops_anomaly_score", "p0") not in samples


def test_raw_attributes_are_passed_on_unchanged() -> None:
    road = Road(series="all")
    for k in range(7):
        feed = Feed().gauge("cpu", START_S + k, 1.0 + k % 2, number=3, truth=True, share=0.5)
        step = road.pipeline.metrics(decode_metrics(feed.body()).points, now_ns=ns(START_S + k))
        road.watch.follow(step)
        bodies = [request.body for request in road.emitter.step(step)]
    points_out = decode_metrics(bodies[0]).points
    found = dict(attributes(points_out.attributes[0]))
    assert found["number"] == 3 and found["truth"] is True and found["share"] == 0.5


@pytest.mark.parametrize("wrong", [{"hold": -1}, {"interval": 0}, {"max_series": -1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        EmitConfig(**wrong)


def test_reclaimed_rows_count_for_their_new_service() -> None:
    road = Road()
    road.pipeline = Pipeline(PipelineConfig(series=TableConfig(max_series=1, reclaim_after=1)))
    road.emitter = Emitter(EmitConfig(), road.pipeline.table, road.watch)
    road.step(Feed("one").gauge("cpu", START_S, 1), START_S)
    road.emitter.services(ns(START_S))
    road.step(Feed("two").gauge("cpu", START_S + 100, 1), START_S + 100)
    services = road.emitter.services(ns(START_S + 100))
    assert [names["service.name"] for names in services.names] == ["two"]
    assert np.isnan(services.score).all()
