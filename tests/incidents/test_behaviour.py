"""What is counted of spans and records: bins of time, outcomes, steps inside spans, in contexts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.incidents.behaviour import (
    BINS,
    FINE,
    GROWTH,
    OWN,
    PASSED_ON,
    SEVERE,
    SLOT_S,
    UNREACHED,
    Behaviour,
    BehaviourConfig,
    bins_of,
    context_of,
    context_parts,
    outcomes_of,
    steps_of,
)
from otel_aiops.signals.names import Names
from otel_aiops.signals.traces import Traces, TracesConfig
from otel_aiops.signals.trees import CHILD, END, START, Trees, event_parts
from tests.incidents.town import FIRST, SLOT_NS, Town, Wrong
from tests.signals.made_spans import S, Sent, give, log_events

NOW = FIRST * SLOT_NS + S


def tree(*sent: Sent) -> Trees:
    traces = Traces(TracesConfig(), Names(100))
    give(traces, sent, S)
    trees = traces.close(1000 * S)
    assert trees is not None
    return trees


def ended(end_ns: int, trace: int = 1) -> Sent:
    return Sent(trace, 1, start_ns=end_ns - 10, end_ns=end_ns)


def slots(behaviour: Behaviour) -> dict[str, list[int]]:
    return {name: tally.state()["slot_number"].tolist() for name, tally in behaviour.tallies.items()}


@given(st.lists(st.floats(0, 1e15), min_size=1))
def test_a_bin_is_a_tenth_longer_than_the_one_before(times: list[float]) -> None:
    for ns, k in zip(times, bins_of(np.array(times)).tolist(), strict=True):
        low, high = 1_000 * np.exp(k * GROWTH), 1_000 * np.exp((k + 1) * GROWTH)
        assert (low <= ns * (1 + 1e-9) or k == 0) and (ns * (1 - 1e-9) <= high or k == BINS - 1)


@given(st.integers(0, 30_000), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1))
def test_contexts_come_apart_again(service: int, operation: int, what: int) -> None:
    context = context_of(*(np.array([one], np.int64) for one in (service, operation, what)))
    assert [int(part[0]) for part in context_parts(context)] == [service, operation, what]


def test_an_error_belongs_to_the_deepest_span_that_has_it() -> None:
    trees = tree(
        Sent(1, 1, service="a", error=True),
        Sent(1, 2, 1, service="a", peer="b", error=True, start_ns=1),
        Sent(1, 3, 2, service="b", error=True, start_ns=2),
        Sent(1, 4, 1, service="a", peer="redis", error=True, start_ns=3),
        Sent(1, 5, 1, service="a", peer="redis", start_ns=4),
    )
    assert outcomes_of(trees).tolist() == [PASSED_ON, PASSED_ON, OWN, UNREACHED, FINE]


def test_an_error_of_an_orphan_is_its_own() -> None:
    assert outcomes_of(tree(Sent(1, 1), Sent(1, 2, 9, error=True, start_ns=1))).tolist() == [FINE, OWN]


def test_steps_go_from_the_start_through_all_events_to_the_end() -> None:
    trees = tree(
        Sent(1, 1, end_ns=90, events=((30, "retry"),)),
        Sent(1, 2, 1, name="one", start_ns=10, end_ns=20),
        Sent(1, 3, 1, name="two", start_ns=40, end_ns=50),
    )
    owner, before, after = steps_of(trees)
    kinds = [(int(k), event_parts(a)[0], event_parts(b)[0]) for k, a, b in zip(owner, before, after, strict=True)]
    assert [kind[0] for kind in kinds] == [0, 0, 0, 0, 1, 2]
    first = before[:4].tolist(), after[:4].tolist()
    assert first[0][0] == START and first[1][-1] == END and first[0][1:] == first[1][:-1]
    assert event_parts(first[0][1])[0] == event_parts(first[0][3])[0] == CHILD
    assert (before[4:].tolist(), after[4:].tolist()) == ([START] * 2, [END] * 2)


class TestCounting:
    def test_every_span_is_counted_once_in_each_kind(self) -> None:
        behaviour = Behaviour(BehaviourConfig())
        trees = tree(ended(NOW), Sent(1, 2, 1, start_ns=NOW - 5, end_ns=NOW, error=True))
        behaviour.add(trees, NOW)
        counted = {name: tally.window(0, 2**60).sum() for name, tally in behaviour.tallies.items()}
        assert counted == {"latency": 2, "failures": 2, "paths": 3, "logs": 0}

    def test_records_are_by_service_and_by_how_severe_they_are(self) -> None:
        behaviour = Behaviour(BehaviourConfig())
        for severity in (0, SEVERE - 1, SEVERE, 24):
            behaviour.add_logs(log_events([(1, 1, NOW, 7)], service=3, severity=severity), NOW)
        assert sorted(zip(*(part.tolist() for part in context_parts(behaviour.logs.contexts)), strict=True)) == [
            (3, 0, 0),
            (3, 0, 1),
        ]
        assert behaviour.logs.per_context(behaviour.logs.window(0, 2**60)).tolist() == [2, 2]

    def test_a_clock_that_is_ahead_does_not_hide_the_others(self) -> None:
        behaviour = Behaviour(BehaviourConfig())
        behaviour.add(tree(ended(NOW)), NOW)
        behaviour.add(tree(ended(2**62)), NOW)
        behaviour.add_logs(log_events([(1, 1, 2**62, 7)]), NOW)
        behaviour.add(tree(ended(NOW + S)), NOW + S)
        assert slots(behaviour) == {name: [FIRST] for name in behaviour.tallies}
        assert behaviour.failures.window(FIRST, FIRST).sum() == 3 and behaviour.late == 0

    def test_what_is_of_long_ago_is_left_out_and_counted(self) -> None:
        behaviour = Behaviour(BehaviourConfig())
        behaviour.add(tree(ended(NOW)), NOW)
        behaviour.learn(NOW + 300 * S, None)
        behaviour.add(tree(ended(10)), NOW + 300 * S)
        behaviour.add(tree(ended(NOW)), NOW + 300 * S)
        behaviour.add_logs(log_events([(1, 1, 5, 7)]), NOW + 300 * S)
        assert behaviour.late == 3 and behaviour.failures.window(0, 2**60).sum() == 1

    def test_what_is_complete_only_now_is_news_of_now(self) -> None:
        behaviour = Behaviour(BehaviourConfig())
        behaviour.add(tree(ended(NOW)), NOW + 60 * S)
        assert behaviour.failures.window(FIRST + 11, FIRST + 11).sum() == 1 and behaviour.late == 0

    def test_more_names_than_there_is_room_for(self) -> None:
        behaviour = Behaviour(BehaviourConfig(max_cells=1000))
        traces = Traces(TracesConfig(max_operations_per_service=50_000, max_operations=100_000), Names(10))
        for k in range(0, 50_000, 10_000):
            now = NOW + k // 10_000 * SLOT_NS
            give(traces, [Sent(j + 1, 1, name=f"op-{j}", end_ns=now) for j in range(k, k + 10_000)], now)
            trees = traces.close(now + 100 * S)
            assert trees is not None
            behaviour.add(trees, now)
            behaviour.learn(now, None)
        assert all(len(tally) <= 1000 for tally in behaviour.tallies.values()) and behaviour.refused > 100_000

    def test_blocked_services_teach_nothing(self) -> None:
        behaviour = Behaviour(BehaviourConfig())
        behaviour.add(tree(Sent(1, 1, end_ns=NOW), Sent(2, 1, service="b", end_ns=NOW)), NOW)
        behaviour.learn(NOW + 120 * S, lambda services: services == 1)
        who = context_parts(behaviour.latency.contexts)[0].tolist()
        assert dict(zip(who, behaviour.latency.per_context(behaviour.latency.usual).tolist(), strict=True)) == {
            1: 0.0,
            2: 1.0,
        }

    def test_nothing_is_learned_before_it_has_settled(self) -> None:
        behaviour = Behaviour(BehaviourConfig(settle=40))
        behaviour.add(tree(ended(NOW)), NOW)
        behaviour.learn(NOW + 39 * S - int(SLOT_S * S), None)
        assert not behaviour.latency.usual.any()
        behaviour.learn(NOW + 40 * S, None)
        assert behaviour.latency.usual.sum() == 1


class TestState:
    def test_restored_midway_it_goes_on_bit_for_bit(self) -> None:
        whole, second = Town(), Town()
        whole.step()
        second.behaviour.restore(whole.behaviour.state())
        second.slot, second.trace = whole.slot, whole.trace
        for town in (whole, second):
            town.step(Wrong(slow={"cart": 3}))
        a, b = whole.behaviour.state(), second.behaviour.state()
        assert {name: array.tobytes() for name, array in a.items()} == {name: b[name].tobytes() for name in b}

    def test_a_state_that_does_not_fit(self) -> None:
        good = Town().behaviour.state()
        for name in ("events", "paths/usual", "logs/clock"):
            with pytest.raises(StateError):
                Behaviour(BehaviourConfig()).restore({key: good[key] for key in good if key != name})

    @pytest.mark.parametrize("bad", [{"half_life": 1}, {"settle": 0}, {"window": 4}, {"max_cells": 999}])
    def test_bad_settings(self, bad: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match=next(iter(bad))):
            BehaviourConfig(**bad)  # type: ignore[arg-type]
