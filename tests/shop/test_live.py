"""The live shop: equal seeds give equal bytes, it is valid OTLP, and spans, logs and metrics belong together."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.shop import LIVE_STEP_S, Kind, LiveShop, draw_plan
from otel_aiops.shop.flows import ENTRIES, OPERATIONS, SERVICES, demand_s
from tests.shop.telemetry import Heard, listen

START_S = 1_767_614_400.0  # a Monday, noon UTC
STEPS = 12
SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5


@pytest.fixture(scope="module")
def quiet() -> Heard:
    return listen(LiveShop(START_S, rate=25), range(STEPS))


def test_equal_seeds_give_equal_bytes() -> None:
    plan, _ = draw_plan(list(Kind), START_S, seed=5, quiet_s=0)
    one, other = (LiveShop(START_S, seed=3, plan=plan) for _ in range(2))
    said = [one.requests(step) for step in range(4)]
    assert said == [other.requests(step) for step in range(4)]
    assert LiveShop(START_S, seed=4, plan=plan).requests(0) != said[0]


def test_the_decoder_of_metrics_takes_all_of_it() -> None:
    decoded = decode_metrics(LiveShop(START_S).requests(0)[0])
    assert not decoded.rejected and len(decoded.points) > 150
    assert set(decoded.points.time_ns.tolist()) == {round((START_S + LIVE_STEP_S) * 1e9)}


def test_traces_are_trees_of_a_user_each(quiet: Heard) -> None:
    assert len({(one.trace, one.span) for one in quiet.spans}) == len(quiet.spans)
    assert all(len(one.trace) == 16 and len(one.span) == 8 and len(one.parent) in (0, 8) for one in quiet.spans)
    roots = [one for one in quiet.spans if not one.parent]
    assert {one.name for one in roots} == {entry.name for _, entry in ENTRIES}
    assert {one.service for one in roots} == {"web"}
    children = sum(len(one.children) for one in quiet.spans)
    late = len(quiet.spans) - len(roots) - children  # whose parents end after the last step
    assert 0 <= late < 0.02 * len(quiet.spans)


def test_every_service_and_operation_is_seen(quiet: Heard) -> None:
    assert {one.service for one in quiet.spans} == {service.name for service in SERVICES}
    served = {f"{one.service} {one.name}" for one in quiet.spans if one.kind in (SERVER, CONSUMER)}
    assert served == set(OPERATIONS)
    pods = {one.resource["k8s.pod.name"] for one in quiet.spans}
    assert len(pods) == sum(service.pods for service in SERVICES)


def test_callees_lie_inside_calls_with_network_between(quiet: Heard) -> None:
    gaps = []
    for one in quiet.spans:
        for child in one.children:
            if one.kind == PRODUCER:
                assert child.kind == CONSUMER and child.start_ns > one.end_ns
                continue
            assert one.start_ns <= child.start_ns <= child.end_ns <= one.end_ns
            if one.kind == CLIENT:
                assert child.kind == SERVER and child.service == one.about["server.address"]
                gaps.append(child.start_ns - one.start_ns + one.end_ns - child.end_ns)
    assert 0.0005 < np.median(gaps) / 1e9 < 0.0015


def test_calls_are_made_at_the_same_time_and_one_after_the_other(quiet: Heard) -> None:
    orders = [one for one in quiet.named("checkout", "shop.CheckoutService/PlaceOrder") if len(one.children) >= 7]
    assert len(orders) > 20
    for order in orders:
        called = sorted(order.children, key=lambda child: child.start_ns)
        cart, first, second = called[:3]
        assert first.start_ns > cart.end_ns
        assert first.start_ns == second.start_ns


def test_databases_caches_and_queues_are_seen_by_their_callers_alone(quiet: Heard) -> None:
    peers = [one for one in quiet.spans if one.about.get("server.address") in {"redis", "postgresql", "kafka"}]
    assert {one.about.get("db.system.name", one.about.get("messaging.system")) for one in peers} == {
        "redis",
        "postgresql",
        "kafka",
    }
    assert all(one.kind == (PRODUCER if one.about["server.address"] == "kafka" else CLIENT) for one in peers)
    assert not [child for one in peers for child in one.children if child.kind != CONSUMER]


def test_log_records_belong_to_spans(quiet: Heard) -> None:
    spans = {(one.trace, one.span): one for one in quiet.spans}
    traced = [line for line in quiet.logs if line[3]]
    known = 0
    for resource, _, _, trace, span, time_ns in traced:
        if (one := spans.get((trace, span))) is not None:
            known += 1
            assert one.resource == resource
            assert one.start_ns <= time_ns <= one.end_ns
    assert known > 0.97 * len(traced)
    assert 0 < len(quiet.logs) - len(traced) < 0.05 * len(traced)


def test_there_are_many_templates_with_ids_and_numbers(quiet: Heard) -> None:
    templates = Counter(re.sub(r"[0-9a-f]{8}|\d+", "*", text) for _, text, *_ in quiet.logs)
    assert len(templates) >= 40
    assert sum("*" in text for text in templates) >= 35
    assert len({text for _, text, *_ in quiet.logs}) > 0.5 * len(quiet.logs)


def test_pods_report_every_fifteen_seconds(quiet: Heard) -> None:
    cpu = {key: values for key, values in quiet.points.items() if key[1] == "k8s.pod.cpu.limit_utilization"}
    assert len(cpu) == sum(service.pods for service in SERVICES)
    assert all(len(values) == STEPS / 3 and 0 < min(values) < max(values) < 0.7 for values in cpu.values())
    assert {key[1] for key in quiet.points} >= {
        "k8s.pod.memory.usage",
        "k8s.pod.memory.limit_utilization",
        "system.filesystem.utilization",
        "db.client.connection.count",
        "db.client.connection.max",
        "httpcheck.tls.cert_remaining",
        "kafka.consumer_group.lag",
    }


def test_noon_is_busier_than_night() -> None:
    noon, night = (LiveShop(START_S + hours * 3600, rate=15) for hours in (0, 12))
    for step in range(6):
        noon.requests(step)
        night.requests(step)
    assert 2 < noon.spans / night.spans < 4


def test_few_requests_fail_on_a_normal_day(quiet: Heard) -> None:
    failed = [one for one in quiet.spans if one.status == 2]
    assert len(failed) < 0.005 * len(quiet.spans)
    assert {one.status for one in quiet.spans} <= {0, 2}


def test_work_is_counted_through_the_queue() -> None:
    demand = demand_s()
    assert demand["worker"] == pytest.approx(0.08 * 0.4)
    assert all(seconds > 0 for seconds in demand.values())
