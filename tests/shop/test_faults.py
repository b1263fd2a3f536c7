"""Faults of the live shop show where the ground truth says, and only there."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Any

import numpy as np
import pytest

from otel_aiops.shop import LIVE_STEP_S, Kind, LiveFault, LiveShop, draw, draw_plan, label
from otel_aiops.shop.faults import checked, effects
from otel_aiops.shop.flows import SERVICES
from tests.shop.telemetry import Heard, listen

START_S = 1_767_614_400.0
LENGTH_S = 120.0
STEPS = range(2, 10)  # in the middle of the fault
SERVER, CLIENT, CONSUMER = 2, 3, 5
CHARGE = "payment shop.PaymentService/Charge"


def fault(kind: Kind, service: str, size: float = 1.0, **more: Any) -> LiveFault:
    about = {"start_s": START_S, "end_s": START_S + LENGTH_S, "what": "", **more}
    return LiveFault(kind=kind, service=service, size=size, **about)


def heard(*faults: LiveFault, steps: range = STEPS, rate: float = 24) -> Heard:
    shop = LiveShop(START_S, seed=11, rate=rate, plan=faults)
    for step in range(steps.start):
        shop.requests(step)
    return listen(shop, steps)


@pytest.fixture(scope="module")
def quiet() -> Heard:
    return heard()


def own_times(found: Heard) -> dict[str, float]:
    """Median exclusive time of the server spans of each operation that is seen often, in s."""
    times: dict[str, list[float]] = {}
    for one in found.spans:
        if one.kind in (SERVER, CONSUMER):
            times.setdefault(f"{one.service} {one.name}", []).append(one.exclusive_s)
    return {key: median(values) for key, values in times.items() if len(values) > 40}


def risen(found: Heard, quiet: Heard, times: float = 1.5) -> set[str]:
    """Services whose own time in some operation has risen."""
    before, after = own_times(quiet), own_times(found)
    return {key.split()[0] for key in before.keys() & after.keys() if after[key] > times * before[key]}


def took(found: Heard, service: str, name: str) -> float:
    return median((one.end_ns - one.start_ns) / 1e9 for one in found.named(service, name))


def statuses(found: Heard, service: str) -> float:
    """Part of the server spans of a service that fail."""
    spans = [one for one in found.spans if one.service == service and one.kind == SERVER]
    return sum(one.status == 2 for one in spans) / len(spans)


def test_without_faults_nothing_has_risen(quiet: Heard) -> None:
    assert risen(heard(steps=range(12, 20)), quiet) == set()


def test_a_slow_processor_is_slow_itself_and_its_callers_wait(quiet: Heard) -> None:
    found = heard(*(fault(Kind.CPU, "catalog", 6, pod=pod) for pod in range(3)))
    assert risen(found, quiet) == {"catalog"}
    assert took(found, "cart", "shop.CartService/GetCart") > 1.5 * took(quiet, "cart", "shop.CartService/GetCart")
    cpu = [v for (pod, name, _), v in found.points.items() if name.startswith("k8s.pod.cpu") and "catalog-" in pod]
    assert len(cpu) == 3 and min(map(min, cpu)) > 0.9


def test_one_pod_with_a_busy_processor(quiet: Heard) -> None:
    bad = fault(Kind.CPU, "catalog", 6, pod=1)
    found = heard(bad)
    pod = label(bad, [bad])["resource"]
    by_pod: dict[str, list[float]] = {}
    for one in found.named("catalog", "shop.CatalogService/GetPrices", kind=SERVER):
        by_pod.setdefault(str(one.resource["k8s.pod.name"]), []).append(one.exclusive_s)
    others = [median(values) for name, values in by_pod.items() if name != pod]
    assert median(by_pod[pod]) > 4 * max(others)


def test_a_slow_dependency_is_slow_for_all_and_in_nobodys_own_time(quiet: Heard) -> None:
    found = heard(fault(Kind.SLOW_DEPENDENCY, "postgresql", 10))
    assert risen(found, quiet) == set()
    for service, statement in (("catalog", "SELECT prices"), ("payment", "INSERT payments")):
        assert took(found, service, statement) > 5 * took(quiet, service, statement)
    assert took(found, "catalog", "GET") < 1.3 * took(quiet, "catalog", "GET")


def test_a_slow_query_is_slow_alone(quiet: Heard) -> None:
    found = heard(fault(Kind.SLOW_QUERY, "postgresql", 30, table="prices"))
    assert took(found, "catalog", "SELECT prices") > 10 * took(quiet, "catalog", "SELECT prices")
    assert took(found, "payment", "INSERT payments") < 1.5 * took(quiet, "payment", "INSERT payments")


def test_an_early_return_cuts_the_path_and_says_that_all_is_well(quiet: Heard) -> None:
    found = heard(fault(Kind.EARLY_RETURN, "payment", 0.7, operation=CHARGE))
    cut = [one for one in found.named("payment", CHARGE.split()[1], kind=SERVER) if len(one.children) < 3]
    whole = [one for one in quiet.named("payment", CHARGE.split()[1], kind=SERVER) if one.status == 0]
    assert len(cut) > 12 and {one.status for one in cut if "exception" not in one.events} == {0}
    assert {one.about["rpc.grpc.status_code"] for one in cut if one.status == 0} == {0}
    assert all(len(one.children) == 3 for one in whole)
    names = Counter(
        child.name for one in found.named("payment", CHARGE.split()[1], kind=SERVER) for child in one.children
    )
    assert names["INSERT payments"] < 0.5 * names["SELECT accounts"]
    assert statuses(found, "checkout") < 0.05


def test_a_bad_deploy_has_a_new_version_new_pods_errors_and_a_new_template(quiet: Heard) -> None:
    found = heard(fault(Kind.BAD_DEPLOY, "payment", 0.5, operation=CHARGE))
    resources = {
        (one.resource["service.version"], one.resource["k8s.pod.name"])
        for one in found.spans
        if one.service == "payment"
    }
    before = {(one.resource["service.version"], one.resource["k8s.pod.name"]) for one in quiet.spans}
    assert {version for version, _ in resources} == {"1.4.1"} and not resources & before
    raised = [one for one in found.spans if "exception" in one.events and one.service == "payment"]
    assert {one.about["error.type"] for one in raised} == {"NullReferenceError"} and len(raised) > 12
    new = [
        text for resource, text, *_ in found.logs if "NullReference" in text and resource["service.name"] == "payment"
    ]
    assert len(new) == pytest.approx(len(raised), rel=0.1)
    assert not [text for _, text, *_ in quiet.logs if "NullReference" in text]


def test_versions_come_and_go() -> None:
    bad = fault(Kind.BAD_DEPLOY, "payment", 0.5, operation=CHARGE)
    good = fault(Kind.GOOD_DEPLOY, "payment", start_s=START_S + 500, end_s=START_S + 560)
    seen = [effects([bad, good], START_S + at) for at in (-1, 0, 120, 499, 500, 900)]
    assert [now.versions["payment"] for now in seen] == ["1.4.0", "1.4.1", "1.4.0", "1.4.0", "1.5.0", "1.5.0"]
    assert [now.deploys["payment"] for now in seen] == [0, 1, 2, 2, 3, 3]


def test_a_retry_storm_multiplies_calls_and_reaches_the_user(quiet: Heard) -> None:
    found = heard(fault(Kind.RETRY_STORM, "payment", 0.6, operation=CHARGE))

    def calls_an_order(heard: Heard) -> float:
        orders = len(heard.named("checkout", "shop.CheckoutService/PlaceOrder", kind=SERVER))
        return len(heard.named("payment", CHARGE.split()[1], kind=SERVER)) / orders

    assert calls_an_order(quiet) == pytest.approx(1, abs=0.1)
    assert calls_an_order(found) > 1.7
    assert statuses(found, "payment") > 0.4
    assert 0.02 < statuses(found, "checkout") < 0.3
    assert statuses(found, "web") < 0.05


def test_a_lost_cache_sends_every_look_to_the_database(quiet: Heard) -> None:
    found = heard(fault(Kind.CACHE_LOSS, "catalog"))

    def missed(heard: Heard) -> float:
        return len(heard.named("catalog", "SELECT products")) / len(heard.named("catalog", "GET"))

    assert missed(quiet) < 0.2 and missed(found) == pytest.approx(1, abs=0.01)
    assert len(found.named("inventory", "SELECT stock")) < 1.5 * len(quiet.named("inventory", "SELECT stock"))


def test_a_dead_pod_says_nothing_and_calls_of_it_are_refused() -> None:
    bad = fault(Kind.PARTIAL_OUTAGE, "catalog", pod=0)
    found, pod = heard(bad), label(bad, [bad])["resource"]
    assert pod not in {one.resource["k8s.pod.name"] for one in found.spans}
    assert pod not in {key[0] for key in found.points}
    calls = [one for one in found.spans if one.about.get("server.address") == "catalog"]
    refused = [one for one in calls if one.about.get("error.type") == "connection refused"]
    assert len(refused) / len(calls) == pytest.approx(1 / 3, abs=0.06)
    assert not any(one.children for one in refused) and {one.status for one in refused} == {2}
    assert statuses(found, "web") > 0.1


def test_a_surge_brings_users_and_slows_what_is_short_of_processors(quiet: Heard) -> None:
    found = heard(fault(Kind.TRAFFIC_SURGE, "", 2.5))
    assert len(found.spans) > 2 * len(quiet.spans)
    assert risen(found, quiet, 2.0) == {"search", "recommendation"}


def test_delay_of_a_pod_is_in_the_network_only(quiet: Heard) -> None:
    found = heard(*(fault(Kind.NETWORK_DELAY, "catalog", 0.1, pod=pod) for pod in range(3)))
    assert risen(found, quiet) == set()
    calls = [one for one in found.spans if one.kind == CLIENT and one.about.get("server.address") == "catalog"]
    gaps = [(one.end_ns - one.start_ns - c.end_ns + c.start_ns) / 1e9 for one in calls for c in one.children]
    assert min(gaps) > 0.2 and median(gaps) < 0.21
    assert took(found, "catalog", "SELECT prices") > 0.2


def test_a_backlog_grows_and_is_worked_off() -> None:
    slow = fault(Kind.QUEUE_BACKLOG, "worker", 16)
    found = heard(slow, steps=range(0, 48), rate=10)
    depth = found.points["worker", "kafka.consumer_group.lag", "worker,orders"]
    assert depth[0] < 9 and max(depth) > 40 and depth[-1] < 9
    assert np.argmax(depth) in range(7, 10)
    ends = {one.span: one.end_ns for one in found.named("checkout", "send orders")}
    done = found.named("worker", "process orders")
    assert max((one.start_ns - ends[one.parent]) / 1e9 for one in done if one.parent in ends) > 30
    assert len(done) == pytest.approx(len(ends), abs=8)  # nothing is lost


@pytest.mark.parametrize(
    ("kind", "metric", "more"),
    [
        (Kind.MEMORY_LEAK, "k8s.pod.memory.limit_utilization", {"pod": 0}),
        (Kind.DISK_FULL, "system.filesystem.utilization", {"operation": "inventory shop.InventoryService/Reserve"}),
        (Kind.CONNECTION_LEAK, "db.client.connection.count", {"pod": 0}),
    ],
)
def test_what_fills_up_reaches_its_limit_when_it_says(kind: Kind, metric: str, more: dict[str, Any]) -> None:
    bad = fault(kind, "inventory", 1.0, **more)
    found = heard(bad, steps=range(0, 24), rate=2)
    pod = label(bad, [bad])["resource"] or None
    series = [
        values
        for (name, what, about), values in found.points.items()
        if what == metric and name.startswith("inventory") and pod in (None, name) and about != "idle"
    ]
    values = series[0]
    full = int((bad.limit_s - START_S) / LIVE_STEP_S) // 3
    limit = 40 if kind is Kind.CONNECTION_LEAK else 1
    assert values[full // 2] < 0.85 * limit
    assert max(values[full - 1 : full + 2]) > 0.94 * limit


def test_a_leak_slows_then_restarts() -> None:
    bad = fault(Kind.MEMORY_LEAK, "inventory", 5, pod=1, end_s=START_S + 1000)
    first = next(
        k for k, service in enumerate(s for s in SERVICES for _ in range(s.pods)) if service.name == "inventory"
    )
    at = [effects([bad], START_S + part * 800) for part in (0, 0.5, 0.95, 1.0, 1.1)]
    assert [now.own[first + 1] for now in at] == pytest.approx([1, 1, 1 + 4 * 0.125 / 0.15, 1, 1])
    assert [bool(now.away[first + 1]) for now in at] == [False, False, False, True, False]
    short = fault(Kind.MEMORY_LEAK, "inventory", 5, pod=1, end_s=START_S + 60)
    restarts = heard(short, steps=range(0, 16), rate=2).points
    counts = restarts[label(bad, [bad])["resource"], "k8s.container.restarts", ""]
    assert counts[0] == 0 and counts[-1] == 1


def test_an_expired_certificate_ends_all_calls() -> None:
    begun = START_S - 1200.0
    found = heard(fault(Kind.CERTIFICATE, "shipping", start_s=begun, end_s=begun + 1440), steps=range(0, 4))
    left = found.points["shipping", "httpcheck.tls.cert_remaining", ""]
    assert left[0] == -5 or left[0] <= 0
    others = [
        v for (service, name, _), v in found.points.items() if name.startswith("httpcheck") and service != "shipping"
    ]
    assert min(map(min, others)) >= 1200
    calls = [one for one in found.spans if one.about.get("server.address") == "shipping"]
    assert {one.about.get("error.type") for one in calls} == {"certificate has expired"}
    assert not found.named("shipping", "POST /quote")


def test_leaked_connections_are_waited_for(quiet: Heard) -> None:
    bad = [fault(Kind.CONNECTION_LEAK, "catalog", 0.5, pod=pod, end_s=START_S + 60) for pod in range(3)]
    found = heard(*bad, steps=range(10, 12))
    waits = [one.exclusive_s for one in found.named("catalog", "shop.CatalogService/GetPrices", kind=SERVER)]
    assert min(waits) > 0.5
    assert took(found, "catalog", "SELECT prices") < 2 * took(quiet, "catalog", "SELECT prices")


def test_a_disk_that_is_full_fails_what_writes() -> None:
    bad = fault(Kind.DISK_FULL, "inventory", 0.8, operation="inventory shop.InventoryService/Reserve")
    found = heard(bad, steps=range(20, 24))
    spans = found.named("inventory", "shop.InventoryService/Reserve", kind=SERVER)
    failed = [one for one in spans if one.status == 2]
    assert len(failed) > 0.5 * len(spans) and {one.about["error.type"] for one in failed} == {"OSError"}


@pytest.mark.parametrize("kind", list(Kind))
def test_faults_are_drawn_where_they_can_be(kind: Kind) -> None:
    for seed in range(3):
        drawn = draw(kind, START_S, np.random.default_rng(seed))
        assert checked([drawn]) == (drawn,) and drawn.kind is kind and drawn.what
        truth = label(drawn, [drawn])
        assert truth["service"] in truth["accept"]
        assert (truth["limit"] is not None) == (START_S < drawn.limit_s < drawn.end_s)


def test_plans_are_apart_and_the_same_by_seed() -> None:
    plan, end_s = draw_plan(list(Kind) * 2, START_S, seed=1, quiet_s=300)
    assert draw_plan(list(Kind) * 2, START_S, seed=1, quiet_s=300) == (plan, end_s)
    assert Counter(one.kind for one in plan) == dict.fromkeys(Kind, 2)
    ends = [*(one.start_s for one in plan[1:]), end_s]
    assert all(300 <= after - one.end_s <= 605 for one, after in zip(plan, ends, strict=True))
    assert all((one.start_s - START_S) % LIVE_STEP_S == 0 for one in plan)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"operation": "payment Nothing"}, "expected an operation of the shop, got 'payment Nothing'"),
        ({"pod": 2}, "expected a pod of payment below 2, got 2"),
        ({"end_s": START_S}, "expected an end after"),
    ],
)
def test_plans_are_checked(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LiveShop(START_S, plan=[fault(Kind.CPU, "payment", **more)])
