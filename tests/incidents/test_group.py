"""Grouping equals the slow, obvious one in any order, with repetition and late data, and costs little."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.errors import ConfigError
from otel_aiops.incidents.group import GroupConfig, Groups, Item
from otel_aiops.incidents.incident import Channel, Finding
from tests.incidents.makers import CHAIN, Calls, at, finding, naive_groups

STORM = 100_000
SERVICES = ("web", "cart", "redis", "pay", "bank", "ledger", "alone", "", "(other)")


def told(groups: Groups) -> Mapping[str, frozenset[tuple[str, int]]]:
    return {group.id: frozenset((*group.members, *group.weak)) for group in groups}


def grouped(findings: Sequence[Finding], calls: Calls = CHAIN, **knobs: float) -> Groups:
    groups = Groups(GroupConfig(**knobs), calls)  # type: ignore[arg-type]
    groups.add(findings, at(0))
    groups.settle()
    return groups


@st.composite
def stories(draw: st.DrawFn) -> list[Finding]:
    """Findings of some services within half an hour, each in some versions."""
    found = []
    for _ in range(draw(st.integers(1, 14))):
        start = draw(st.integers(0, 90)) * 20
        one = finding(
            draw(st.sampled_from(SERVICES)),
            start,
            start + draw(st.integers(0, 70)) * 20,
            channel=draw(st.sampled_from([Channel.LATENCY, Channel.ERRORS])),
            score=draw(st.sampled_from([0.5, 1.0, 3.0])),
            resource=draw(st.sampled_from(["", "", "node-1"])),
        )
        found.append(one)
        for _ in range(draw(st.integers(0, 2))):
            last_ns = one.last_ns + draw(st.integers(0, 20)) * 20 * 10**9
            end_ns = draw(st.sampled_from([0, last_ns, one.last_ns, one.start_ns]))
            found.append(replace(one, last_ns=last_ns, end_ns=end_ns, score=draw(st.sampled_from([0.4, 2.0]))))
    return found


@settings(max_examples=120, deadline=None)
@given(stories(), st.randoms(use_true_random=False), st.sampled_from([0, 1, 2]))
def test_any_order_with_repetition_gives_the_groups_of_the_slow_way(found: list[Finding], rng, hops: int) -> None:
    config = GroupConfig(hops=hops)
    expected = naive_groups(found, CHAIN, config)
    mixed = [*found, *rng.choices(found, k=len(found) // 2)]
    rng.shuffle(mixed)
    groups = Groups(config, CHAIN)
    while mixed:
        count = rng.randint(1, 5)
        groups.add(mixed[:count], at(0))
        mixed = mixed[count:]
        if rng.random() < 0.5:
            groups.settle()
    groups.settle()
    assert told(groups) == expected
    for group in groups:
        assert group.opens == sum(not item.finding.end_ns for item in group.members.values())
        assert group.last_ns == max(item.until_ns for item in group.members.values())
        assert group.first is min(group.members.values(), key=lambda item: item.order)
        assert group.services == {item.finding.service for item in group.members.values()}


@settings(max_examples=40, deadline=None)
@given(stories(), st.lists(st.tuples(st.sampled_from(SERVICES[:7]), st.sampled_from(SERVICES[:7])), max_size=6))
def test_a_changed_graph_regroups_as_if_it_had_always_been_so(found: list[Finding], pairs) -> None:
    calls = Calls(CHAIN.pairs)
    groups = grouped(found, calls)
    calls.pairs = pairs
    groups.learn_graph()
    groups.settle()
    assert told(groups) == naive_groups(found, calls, GroupConfig())


def test_services_two_calls_apart_are_one_incident_three_are_not() -> None:
    near = grouped([finding("web", 0), finding("redis", 60)], hops=2)
    assert [group.services for group in near] == [{"web", "redis"}]
    assert len(list(grouped([finding("web", 0), finding("redis", 60)], hops=1))) == 2
    far = grouped([finding("redis", 0), finding("pay", 60)], hops=2)
    assert len(list(far)) == 2


def test_a_resource_joins_what_the_graph_does_not_know() -> None:
    assert len(list(grouped([finding("", 0, resource="node-1"), finding("alone", 60, resource="node-1")]))) == 1
    assert len(list(grouped([finding("", 0, what="a"), finding("", 0, what="b")]))) == 2


def test_a_weak_finding_joins_the_earliest_incident_and_links_none() -> None:
    weak = finding("pay", 150, 300, what="refund", score=0.5)
    groups = grouped([finding("pay", 400, what="later"), finding("pay", 0), weak])
    first, second = sorted(groups, key=lambda group: group.first.order)
    assert weak.key in {name[0] for name in first.weak} and not second.weak
    assert not list(grouped([weak]))


def test_a_weak_finding_that_grows_strong_links() -> None:
    weak = finding("pay", 150, 300, what="refund", score=0.5)
    groups = grouped([finding("pay", 350, what="later"), finding("pay", 0), weak, replace(weak, score=2.0)])
    assert len(list(groups)) == 1


def test_an_end_that_comes_earlier_splits() -> None:
    bridge = finding("pay", 0, 480, what="bridge")
    groups = grouped([bridge, finding("pay", 500, what="later")])
    assert len(list(groups)) == 1
    groups.add([replace(bridge, last_ns=at(490), end_ns=at(100))], at(0))
    assert len(groups.settle()) == 2
    assert len(list(groups)) == 2


def test_a_lasting_finding_draws_those_of_others_at_first_and_of_its_service_while_it_lasts() -> None:
    lasting = finding("pay", 0, 3600)
    assert len(list(grouped([lasting, finding("bank", 230)]))) == 1
    assert len(list(grouped([lasting, finding("bank", 250)]))) == 2
    assert len(list(grouped([lasting, finding("pay", 3620, what="refund")]))) == 1
    assert len(list(grouped([lasting, finding("pay", 3640, what="refund")]))) == 2


def test_what_comes_back_is_a_flap() -> None:
    (group,) = grouped([finding("pay", start, start + 10, end_s=start + 10) for start in (0, 180, 360)], join=0)
    assert group.flaps == 2
    assert len(list(grouped([finding("pay", 0, end_s=10), finding("pay", 200, end_s=210)], join=0))) == 2


def test_late_data_joins_what_it_links() -> None:
    groups = grouped([finding("pay", 0), finding("pay", 350, what="later")])
    assert len(list(groups)) == 2
    groups.add([finding("web", 180)], at(400))
    (group,) = groups.settle()
    assert group.services == {"pay", "web"}


def test_old_groups_are_forgotten_and_what_is_too_late_is_counted() -> None:
    groups = grouped([finding("pay", 0, end_s=10), finding("pay", 0, what="weak", score=0.1, end_s=10)])
    groups.add([finding("alone", 0, what="weak", score=0.1, end_s=10)], at(0))
    groups.settle()
    assert not groups.forget(at(1060))
    assert len(groups.forget(at(1100))) == 1
    assert not len(groups) and not list(groups) and not groups._places
    groups.add([finding("pay", 0, end_s=10)], at(1100))
    assert groups.counts["finding that came too late"] == 1


def test_limits_drop_the_weakest_and_count() -> None:
    groups = grouped([finding("pay", 0, what=f"op{n}", score=0.1 + n / 100) for n in range(12)], max_weak=10)
    assert len(groups) == 10 and groups.counts["weak finding over the limit"] == 2
    assert min(item.peak for item in groups.items().values()) > 0.115
    groups = grouped([finding("pay", 0, what=f"op{n}") for n in range(12)], max_findings=10)
    assert len(groups) == 10 and groups.counts["finding over the limit of findings"] == 2


def test_a_storm_of_a_hundred_thousand_is_bounded_and_loses_none() -> None:
    calls = Calls([(f"s{n // 3}", f"s{n}") for n in range(1, 200)])
    storm = [finding(f"s{n % 200}", (n * 7919) % 60, 60, what=f"op{n}") for n in range(STORM)]
    groups = Groups(GroupConfig(), calls)
    start = time.process_time()
    for step in range(12):
        groups.add(storm[step::12], at(60))
        groups.settle()
    assert time.process_time() - start < 60  # the minute in which they come, also where coverage is measured
    assert sum(len(group.members) for group in groups) == STORM
    assert groups.lookups < 5 * STORM  # two runs a finding and few to merge, where pairs would be 5e9
    strongest = next(iter(groups)).strongest()
    assert len(strongest) == 200


def test_ten_thousand_open_findings_cost_a_few_lookups_each() -> None:
    calls = Calls([(f"s{n // 3}", f"s{n}") for n in range(1, 300)])
    found = [finding(f"s{n % 300}", (n * 7919) % 86_400, what=f"op{n}", resource=f"r{n % 900}") for n in range(10_000)]
    start = time.process_time()
    groups = grouped(found, calls)
    took_s = time.process_time() - start
    assert took_s < (5.0 if sys.gettrace() else 1.0)  # coverage slows it down
    assert sum(len(group.members) for group in groups) == 10_000
    assert groups.lookups < 12 * 10_000


def test_only_strong_versions_say_when_it_was_first_seen() -> None:
    item = Item(finding("pay", 0, 10, score=0.5))
    item.take(finding("pay", 0, 40, score=2))
    item.take(finding("pay", 0, 30, score=1.5))
    item.take(finding("pay", 0, 60, score=0.2))
    assert item.first_ns == at(30) and item.peak == 2 and item.finding.last_ns == at(60)


@pytest.mark.parametrize("knobs", [{"join": -1}, {"hops": 3}, {"max_weak": 0}, {"calm": float("nan")}])
def test_wrong_settings_are_named(knobs: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(knobs))):
        GroupConfig(**knobs)  # type: ignore[arg-type]
