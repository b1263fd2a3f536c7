"""Who caused a symptom."""

from __future__ import annotations

import pytest

from otel_aiops.errors import ConfigError
from otel_aiops.incidents.blame import BlameConfig, blame, reach
from otel_aiops.incidents.incident import Channel, Evidence

CALLS = {"shop": ["cart", "pay"], "cart": ["store"], "pay": ["bank"], "store": [], "loop": ["loop"]}


def seen(service: str, strength: float, channel: Channel = Channel.LATENCY) -> Evidence:
    return Evidence(channel=channel, service=service, what="x", before=0, after=1, strength=strength)


def names(ranked: list[tuple[str, float]]) -> list[str]:
    return [name for name, _ in ranked]


def test_a_callee_explains_its_caller() -> None:
    found = blame([seen("cart", 9), seen("store", 8)], CALLS, config=BlameConfig(leaf=1, unsure_leaf=1))
    assert names(found) == ["store", "cart"]


def test_a_caller_that_is_much_stranger_than_its_callees_is_not_explained() -> None:
    assert names(blame([seen("cart", 9), seen("store", 1)], CALLS))[0] == "cart"


def test_only_what_the_symptom_reaches_can_be_its_cause() -> None:
    assert names(blame([seen("cart", 2), seen("other", 50)], CALLS, symptom="shop")) == ["cart"]
    assert names(blame([seen("cart", 2), seen("other", 50)], CALLS)) == ["other", "cart"]


def test_the_symptom_itself_is_the_cause_only_where_nothing_explains_it() -> None:
    assert names(blame([seen("shop", 20), seen("store", 15)], CALLS, symptom="shop"))[0] == "store"
    assert names(blame([seen("shop", 20)], CALLS, symptom="shop")) == ["shop"]


def test_a_node_without_telemetry_of_its_own_weighs_less() -> None:
    evidence = [seen("cart", 5), seen("bank", 9)]
    assert names(blame(evidence, CALLS, outside=("bank",)))[0] == "cart"
    assert names(blame([seen("store", 5), seen("bank", 7)], CALLS, outside=("bank",)))[0] == "store"


def test_latency_and_errors_are_one_thing_and_resources_another() -> None:
    both = blame([seen("a", 5), seen("a", 4, Channel.ERRORS)], {})
    one = blame([seen("a", 5)], {})
    more = blame([seen("a", 5), seen("a", 4, Channel.RESOURCE)], {})
    assert both == one
    assert more[0][1] > one[0][1]


def test_no_evidence_no_candidate_and_equal_ones_by_name() -> None:
    assert blame([], CALLS) == []
    assert blame([seen("a", 0)], CALLS) == []
    assert names(blame([seen("b", 3), seen("a", 3)], {})) == ["a", "b"]


def test_reach_ends_in_a_cycle() -> None:
    assert reach({"a": ["b"], "b": ["a"]}, "a") == {"a", "b"}
    assert reach(CALLS, "loop") == {"loop"}
    assert blame([seen("loop", 3)], CALLS) != []


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match="leaf"):
        BlameConfig(leaf=2)
