"""Evidence and findings from the metric series of services."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.incidents.incident import Channel
from otel_aiops.incidents.metrics import FULL, UNKNOWN, MetricEvidence, MetricsConfig, Symptom
from otel_aiops.incidents.roles import Role
from otel_aiops.labels import Attributes, Labels
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.pipeline import Pipeline, PipelineConfig
from otel_aiops.series.batch import Batch
from tests.feed import Feed

S = 10**9
CPU, LATENCY = "process.cpu.utilization", "latency"


def labels(name: str, service: str, unit: str = "1", **attributes: str) -> Labels:
    resource: Attributes = (("service.instance.id", f"{service}-1"), ("service.name", service))
    return Labels(name, unit, resource=resource, attributes=tuple(sorted(attributes.items())))


def side(which: str, caller: str, callee: str) -> Labels:
    name = f"traces_service_graph_request_{which}_seconds.p50"
    return Labels(name, attributes=(("client", caller), ("server", callee)))


class Shop:
    """Series by name, a value of each a minute."""

    def __init__(self, series: Mapping[str, Labels], config: MetricsConfig | None = None) -> None:
        self.evidence = MetricEvidence(config)
        self.names = list(series)
        for row, of in enumerate(series.values()):
            self.evidence.assign(row, of, f"{row:016x}")
        self.time_ns, self.rng = 1000 * 60 * S, np.random.default_rng(1)

    def send(self, minutes: int = 1, **values: float) -> Shop:
        """Values, 0.2 for what is not named, with a little noise."""
        for _ in range(minutes):
            self.time_ns += 60 * S
            value = np.array([values.get(name, 0.2) for name in self.names])
            value = value * (1 + 0.01 * self.rng.normal(size=len(value)))
            rows = np.arange(len(value), dtype=np.int32)
            self.evidence.update(Batch(rows, np.full(len(value), self.time_ns), value, np.full(len(value), 60.0)))
        return self

    def window(self, minutes: int) -> tuple[int, int]:
        return self.time_ns - minutes * 60 * S + 1, self.time_ns


def cpus(*services: str) -> dict[str, Labels]:
    return {name: labels(CPU, name) for name in services}


def test_the_busy_service_is_first_and_its_evidence_can_be_checked() -> None:
    shop = Shop(cpus("cart", "pay", "bank")).send(60).send(3, pay=0.9)
    first, *rest = shop.evidence.evidence(*shop.window(3))
    assert (first.service, first.channel, first.resource) == ("pay", Channel.RESOURCE, "pay-1")
    assert first.before == pytest.approx(0.2, abs=0.01) and first.after == pytest.approx(0.9, abs=0.05)
    assert first.count == 3 and first.series == f"{1:016x}" and "rose from 0.2" in first.text
    assert all(one.strength < first.strength / 3 for one in rest)


def test_two_points_of_idle_processors_are_nothing() -> None:
    shop = Shop(cpus("cart")).send(60, cart=0.001).send(3, cart=0.015)
    assert shop.evidence.evidence(*shop.window(3)) == ()
    assert shop.send(20, cart=0.015).evidence.findings(shop.time_ns) == ()


def test_percent_where_the_unit_does_not_say() -> None:
    unknown = {"cart": labels(CPU, "cart", unit="")}
    assert Shop(unknown).send(60, cart=50.0).send(3, cart=55.0).evidence.counts == {UNKNOWN: 0, FULL: 0}
    percent = Shop(unknown).send(60, cart=50.0).send(3, cart=51.5)
    assert percent.evidence.evidence(*percent.window(3), widen=lambda _: 1.0) == ()


def test_wider_baselines_after_a_deployment_and_only_the_services_asked_for() -> None:
    shop = Shop(cpus("cart", "pay")).send(60).send(3, pay=0.5, cart=0.5)
    plain = {one.service: one.strength for one in shop.evidence.evidence(*shop.window(3))}
    wide = shop.evidence.evidence(*shop.window(3), widen=lambda service: 3.0 if service == "pay" else 1.0)
    strengths = {one.service: one.strength for one in wide}
    assert strengths["pay"] < plain["pay"] / 1.5 and strengths["cart"] == plain["cart"]
    assert {one.service for one in shop.evidence.evidence(*shop.window(3), services=("pay",))} == {"pay"}


def test_earlier_incidents_are_not_what_is_usual() -> None:
    shop = Shop(cpus("cart"), MetricsConfig(length=64)).send(30)
    began = shop.time_ns
    shop.send(29, cart=0.6)
    ended = shop.time_ns
    shop.send(20).send(3, cart=0.6)
    with_it = shop.evidence.evidence(*shop.window(3))
    shop.evidence.exclude(began, ended)
    without = shop.evidence.evidence(*shop.window(3))
    assert without[0].strength > 5
    assert not with_it or without[0].strength >= with_it[0].strength


def test_evidence_moves_with_the_symptom() -> None:
    series = {
        "front": labels(LATENCY, "shop", "s"),
        "cause": labels(LATENCY, "pay", "s"),
        "other": labels(LATENCY, "ads", "s"),
    }
    shop = Shop(series).send(60)
    for k in range(8):
        high = k % 2 == 0
        shop.send(1, front=0.5 if high else 0.3, cause=0.5 if high else 0.3, other=0.3 if high else 0.5)
    window = shop.window(8)
    plain = {one.service: one.strength for one in shop.evidence.evidence(*window)}
    judged = {one.service: one.strength for one in shop.evidence.evidence(*window, symptom=Symptom("shop"))}
    assert plain["ads"] == pytest.approx(plain["pay"], rel=0.1)
    assert judged["ads"] < 0.9 * judged["pay"]
    assert shop.evidence.evidence(*window, symptom=Symptom("nobody")) == shop.evidence.evidence(*window)


def test_another_kind_than_the_symptom_weighs_half() -> None:
    series = {"front": labels(LATENCY, "shop", "s"), "pay": labels("availability", "pay", "1")}
    shop = Shop(series).send(60, pay=1.0).send(2, pay=0.3, front=0.9)
    as_errors, as_latency = (
        shop.evidence.evidence(*shop.window(2), symptom=Symptom("shop", role), services=("pay",))[0].strength
        for role in (Role.ERRORS, Role.LATENCY)
    )
    assert as_errors > as_latency


def edge_series() -> dict[str, Labels]:
    calls = [("shop", "cart"), ("shop", "pay"), ("pay", "bank")]
    return {f"{which}_{b}": side(which, a, b) for a, b in calls for which in ("client", "server")}


def test_the_time_between_both_sides_of_calls_finds_the_slow_end() -> None:
    shop = Shop(edge_series()).send(60, client_cart=0.21, client_pay=0.21, client_bank=0.21)
    shop.send(3, client_cart=0.21, client_pay=0.41, client_bank=0.41)
    found = shop.evidence.network(*shop.window(3))
    assert found[0].service == "pay" and found[0].channel is Channel.NETWORK
    assert "->" in found[0].what and found[0].after > found[0].before
    assert [one.channel for one in shop.evidence.evidence(*shop.window(3))] == []
    findings = shop.evidence.findings(shop.time_ns)
    assert {one.service for one in findings} == {"pay"} and {one.channel for one in findings} == {Channel.NETWORK}
    assert shop.evidence.calls() == {"pay": frozenset({"bank"}), "shop": frozenset({"cart", "pay"})}


def test_a_slow_callee_is_no_slow_network() -> None:
    shop = Shop(edge_series()).send(60).send(3, client_bank=0.9, server_bank=0.9)
    assert "bank" not in {one.service for one in shop.evidence.network(*shop.window(3)) if one.strength > 10}


def test_who_is_outside() -> None:
    ends = (("client", "shop"), ("connection_type", "virtual_node"), ("server", "bank"))
    evidence = MetricEvidence()
    evidence.assign(0, Labels("traces_service_graph_request_total", kind="sum", stat="rate", attributes=ends))
    assert evidence.outside() == {"bank"}
    evidence.assign(1, Labels("traces_service_graph_request_total", kind="sum", stat="rate",
                              attributes=(("client", "bank"), ("server", "store"))))  # fmt: skip
    assert evidence.outside() == frozenset()


def test_findings_begin_go_on_and_end() -> None:
    shop = Shop(cpus("cart", "pay")).send(60)
    assert shop.evidence.findings(shop.time_ns) == ()
    (begun,) = shop.send(2, pay=0.9).evidence.findings(shop.time_ns)
    assert (begun.service, begun.channel, begun.end_ns) == ("pay", Channel.RESOURCE, 0)
    assert begun.start_ns == shop.time_ns - 60 * S and begun.last_ns == shop.time_ns and begun.score >= 1
    assert begun.evidence.before == pytest.approx(0.2, abs=0.01)
    (on,) = shop.send(1, pay=0.95).evidence.findings(shop.time_ns)
    last = shop.time_ns
    (ended,) = shop.send(3).evidence.findings(shop.time_ns)
    assert begun.key == on.key == ended.key and begun.start_ns == on.start_ns == ended.start_ns
    assert ended.end_ns == last
    assert shop.send(5).evidence.findings(shop.time_ns) == ()


def test_low_availability_is_reported_as_it_was_sent() -> None:
    shop = Shop({"pay": labels("availability", "pay", "%")}).send(60, pay=99.0)
    (found,) = shop.send(3, pay=30.0).evidence.findings(shop.time_ns)
    assert found.channel is Channel.ERRORS
    assert found.evidence.before == pytest.approx(99, abs=1) and found.evidence.after == pytest.approx(30, abs=2)
    assert "fell" in found.evidence.text


def test_series_over_the_limit_are_counted() -> None:
    shop = Shop(cpus("a", "b", "c"), MetricsConfig(max_series=2))
    shop.evidence.assign(7, labels("weather", "a"))
    assert shop.evidence.counts == {UNKNOWN: 1, FULL: 1}
    assert len(shop.evidence) == 2
    shop.send(30).send(2, c=0.9)
    assert shop.evidence.findings(shop.time_ns) == ()


def test_forgotten_rows_leave_nothing_behind() -> None:
    shop = Shop({**cpus("cart"), **edge_series()}).send(60)
    shop.evidence.forget(np.arange(100, dtype=np.int32))
    assert len(shop.evidence) == 0 and shop.evidence.calls() == {}
    for row, of in enumerate(cpus("pay", "bank").values()):
        shop.evidence.assign(row, of)
    shop.names = ["pay", "bank"]
    shop.send(30).send(2, bank=0.9)
    assert [one.service for one in shop.evidence.evidence(*shop.window(2)) if one.strength > 5] == ["bank"]


def test_values_that_are_absent_or_of_unknown_rows_pass_by() -> None:
    evidence = MetricEvidence()
    batch = Batch(np.array([0, 9], np.int32), np.full(2, S), np.array([np.nan, 1.0]), np.full(2, 1.0))
    evidence.update(batch)
    evidence.assign(0, labels(CPU, "cart"))
    evidence.update(batch)
    assert evidence.evidence(0, 10 * S) == () and evidence.network(0, 10 * S) == () and evidence.findings(S) == ()


def test_a_restored_one_goes_on_equally() -> None:
    series = {**cpus("cart", "pay"), **edge_series()}
    whole, half = Shop(series), Shop(series)
    for shop in (whole, half):
        shop.send(60).send(1, pay=0.9, client_bank=0.9)
        shop.evidence.forget(np.array([0], np.int32))
    other = MetricEvidence()
    other.restore(half.evidence.state())
    half.evidence = other
    told = []
    for shop in (whole, half):
        shop.send(3, pay=0.9, client_bank=0.9)
        shop.evidence.assign(0, labels(CPU, "new"))
        shop.send(20, pay=0.9)
        told.append((
            shop.evidence.findings(shop.time_ns),
            shop.evidence.evidence(*shop.window(20)),
            shop.evidence.network(*shop.window(24)),
        ))  # fmt: skip
    assert told[0] == told[1] and told[0][0]
    states = [shop.evidence.state() for shop in (whole, half)]
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name])


def test_a_state_that_does_not_fit_is_refused() -> None:
    state = Shop(cpus("cart")).send(3).evidence.state()
    with pytest.raises(StateError):
        MetricEvidence().restore({})
    with pytest.raises(StateError, match="JSON"):
        MetricEvidence().restore({**state, "known": np.frombuffer(b"[", np.uint8)})
    with pytest.raises(StateError, match="slots"):
        broken = state["known"].tobytes().replace(b'"slot": 0', b'"slot": 5')
        MetricEvidence().restore({**state, "known": np.frombuffer(broken, np.uint8)})
    with pytest.raises(StateError):
        MetricEvidence(MetricsConfig(length=32)).restore(state)


def test_bad_settings() -> None:
    with pytest.raises(ConfigError):
        MetricsConfig(length=3)
    with pytest.raises(ConfigError):
        MetricsConfig(spacing=0)


def test_counters_that_start_anew_are_no_finding() -> None:
    pipeline, evidence, known = Pipeline(PipelineConfig()), MetricEvidence(), set[int]()
    total = 0.0
    for k in range(1, 81):
        total = 0.5 * 60 if k == 60 else total + 0.5 * 60
        start = 1000.0 if k < 60 else 1000.0 + 59 * 60
        feed = Feed("cart")
        feed.counter("process.cpu.time", 1000.0 + k * 60, total, start_s=start)
        step = pipeline.metrics(decode_metrics(feed.body()).points, now_ns=round((1000 + k * 60) * 1e9))
        for scored in step.scored:
            for row in set(scored.batch.rows.tolist()) - known:
                known.add(row)
                evidence.assign(row, pipeline.table.labels(row))
            evidence.update(scored.batch)
        assert evidence.findings(step.event_ns) == ()
    assert len(evidence) == 1
