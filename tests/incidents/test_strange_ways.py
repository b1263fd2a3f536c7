"""What shows a fault in an unusual way: a part of the cases, calls that vanish, more users, one slow step at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from otel_aiops.incidents.alarm import Alarm, AlarmConfig
from otel_aiops.incidents.behaviour import SLOT_S, Behaviour, BehaviourConfig, waits_for
from otel_aiops.incidents.departures import departures
from otel_aiops.incidents.incident import Channel, Evidence
from otel_aiops.incidents.look import EXPLAINED, Look, Wording, look
from otel_aiops.incidents.rank import Measured, rank
from otel_aiops.incidents.shifts import MIDDLE, UPPER, Times
from otel_aiops.otlp.spans import PeerKind
from otel_aiops.signals.tally import Tally
from otel_aiops.signals.trees import CHILD, event_code
from tests.signals.made_trees import Span, Words, trees

SLOT = int(SLOT_S)
CALLERS = ("cart", "search")


class Road:
    """`web` is asked by users; `cart` and `search` each ask `redis`, and then `shop`."""

    def __init__(self) -> None:
        self.words, self.slot = Words(), 0
        self.behaviour = Behaviour(BehaviourConfig())
        name = self.words.operations.__getitem__
        self.wording = Wording(self.words.services.__getitem__, name, lambda _: "log", lambda _: "event")

    def step(
        self, *, users: int = 30, alive: bool = True, learn: bool = True, took_s: float = 0.01, asked: int = 10
    ) -> None:
        end_s = self.slot * SLOT + 1.0
        spans, events = [], []
        for _ in range(users):
            spans.append(Span("web", end_s=end_s, entry=True))
        for caller in CALLERS:
            spans.append(Span("web", f"ask {caller}", end_s, parent=0, callee=caller, gap_s=0.0))
            for _ in range(10):
                at = len(spans)
                spans.append(Span(caller, end_s=end_s, entry=True, error=not alive, exclusive_s=took_s))
                for callee in ("redis", "shop") if alive else ():
                    events.append((at, self.words.services.number(caller), self.words.operations.number(callee)))
                    spans.append(Span(caller, callee, end_s, parent=at, callee=callee, gap_s=0.0))
        made = trees(spans, self.words)
        of, service, what = np.array(events, np.int64).reshape(-1, 3).T
        self.behaviour.add(replace(made, event_span=of, event=event_code(CHILD, service, what)), round(end_s * 1e9))
        if learn:
            self.behaviour.learn(int((self.slot * SLOT + self.behaviour.config.settle) * 1e9), None)
        self.slot += 1

    def look(self, slots: int = 3) -> Look:
        return look(self.behaviour, self.wording, self.slot - slots, self.slot - 1)


def warm() -> Road:
    road = Road()
    for _ in range(40):
        road.step()
    return road


def test_who_is_not_called_any_more_by_several_that_fail_is_blamed() -> None:
    road = warm()
    for _ in range(3):
        road.step(alive=False, learn=False)
    found = road.look()
    assert next(iter(found.totals())) == "redis"
    assert all(found.total(caller) < found.total("redis") for caller in CALLERS) and not found.total("shop")
    assert "does not call redis any more and fails" in found.evidence["redis"][0].text


def test_many_more_users_alone_are_not_strange() -> None:
    road = warm()
    for _ in range(3):
        road.step(users=90, learn=False)
    found = road.look()
    assert set(found.surges) == {"web"} and not found.strengths
    surge = found.surges["web"]
    assert surge.channel == Channel.RATE and surge.after == pytest.approx(18) and surge.before == pytest.approx(6)
    failing = replace(found, strengths={"cart": {Channel.ERRORS: 40.0}})
    assert rank(failing, Measured())[0].service == "cart"


def test_many_more_users_are_as_strange_as_what_they_make_slow() -> None:
    road = warm()
    for _ in range(3):
        road.step(users=90, learn=False, took_s=0.05)
    found, usual = road.look(), warm()
    for _ in range(3):
        usual.step(learn=False, took_s=0.05)
    slow = usual.look().strengths["cart"][Channel.LATENCY]
    assert set(found.strengths["web"]) == {Channel.RATE} and found.strengths["web"][Channel.RATE] == pytest.approx(slow)
    assert found.strengths["cart"][Channel.LATENCY] == pytest.approx((1 - EXPLAINED) * slow)
    assert "times as many requests come to web" in found.evidence["web"][0].text
    assert [one.service for one in rank(found, Measured())][:1] == ["web"]


def test_a_surge_is_seen_in_any_window_while_the_newest_traces_are_not_complete() -> None:
    road = warm()
    for users in (90, 90, 5, 0):
        road.step(users=users, learn=False, took_s=0.05)
    for slots in (2, 12):
        found = road.look(slots)
        assert found.surges["web"].after == pytest.approx(18) and Channel.RATE in found.strengths["web"]


def test_a_surge_explains_busy_resources() -> None:
    busy = Evidence(channel=Channel.RESOURCE, service="cart", what="cpu", before=0.2, after=0.6, strength=12.0)
    one = Look(
        surges={
            "web": Evidence(channel=Channel.RATE, service="web", what="requests", before=6.0, after=18.0, strength=9.0)
        }
    )
    assert rank(Look(), Measured([busy]))[0].score > 2 * rank(one, Measured([busy]))[-1].score
    assert [suspect.service for suspect in rank(one, Measured([busy]))] == ["web", "cart"]


def test_usual_users_are_no_surge() -> None:
    road = warm()
    for _ in range(3):
        road.step(users=40, learn=False)
    assert not road.look().surges


def test_few_users_are_more_by_chance() -> None:
    road = Road()
    for _ in range(40):
        road.step(users=11)
    for _ in range(3):
        road.step(users=19, learn=False)
    assert not road.look().surges


def tally(usual: dict[int, int], now: dict[int, int]) -> Tally:
    made = Tally(slot_s=SLOT_S, kept_slots=40, half_life_s=1800.0, most_cells=1000)
    for slot, counts in ((0, usual), (1, now)):
        outcomes = np.repeat([*counts], [*counts.values()]).astype(np.int64)
        ones = np.ones(len(outcomes), np.int64)
        made.add(slot * ones, ones, outcomes, np.zeros((len(ones), 2), np.uint64))
    made.learn(0)
    return made


def test_a_part_that_is_slow_moves_the_upper_quantile_only() -> None:
    made = tally({96: 500, 97: 500}, {96: 20, 97: 20, 120: 20})
    middle, upper = (Times(made, 1, 1).shifts(quantile) for quantile in (MIDDLE, UPPER))
    assert middle.effect[0] < 0.5 < 5 < upper.effect[0]
    assert upper.after[0] > 5 * upper.before[0] and upper.z[0] == middle.z[0] > 3
    few = Times(tally({96: 500, 97: 500}, {96: 3, 97: 3, 120: 3}), 1, 1)
    assert len(few.shifts()) == 1 and not len(few.shifts(UPPER))


def test_a_choice_that_nobody_makes_any_more_is_as_new_as_one_that_appears() -> None:
    gone = departures(tally({1: 40, 2: 60}, {1: 100}), 1, 1)
    fewer = departures(tally({1: 40, 2: 60}, {1: 70, 2: 30}), 1, 1)
    assert gone.strength[0] > 20 > 4 * (fewer.strength[0] if len(fewer) else 0)


def test_the_usual_rate_is_that_of_slots_in_which_anything_came() -> None:
    made = tally({1: 7}, {1: 9})
    assert made.usual_rate().tolist() == [7.0]
    made.learn(5)
    assert made.usual_rate()[0] == pytest.approx(8, abs=0.02)


def test_who_works_off_messages_waits_for_no_queue() -> None:
    spans = [
        Span("shop", "send", callee="orders", callee_kind=PeerKind.MESSAGING),
        Span("worker", "process", parent=0, callee="orders", callee_kind=PeerKind.MESSAGING, entry=True),
        Span("worker", "call", parent=1, callee="shop", callee_kind=PeerKind.SERVICE),
    ]
    assert (waits_for(trees(spans, Words())) > 0).tolist() == [True, False, True]


def shown(value: float) -> Look:
    return Look({"pay": {Channel.LATENCY: float(10 * np.expm1(value / 10))}})


def test_what_grows_does_not_raise_the_threshold_against_itself() -> None:
    alarm, found = Alarm(AlarmConfig()), []
    for k in range(8):
        found += alarm.step([shown(5 + 0.3 * k)] * 3, {}, k * SLOT * 10**9)
    assert found and found[0].service == "pay"


def test_a_long_window_opens_only_what_lasts() -> None:
    for short, opens in ((2.0, True), (0.0, False)):
        alarm, found = Alarm(AlarmConfig()), []
        for k in range(6):
            found += alarm.step([shown(short), shown(short), shown(12)], {}, k * SLOT * 10**9)
        assert bool(found) == opens
