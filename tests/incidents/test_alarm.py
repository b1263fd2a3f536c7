"""When strangeness becomes a finding, and when it ends."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.incidents.alarm import Alarm, AlarmConfig
from otel_aiops.incidents.behaviour import SLOT_S
from otel_aiops.incidents.incident import Channel, Evidence, Finding
from otel_aiops.incidents.look import SCALE, Look
from otel_aiops.series.columns import json_array
from tests.incidents.makers import T0, S

STEP_NS = int(SLOT_S * S)
THRESHOLD = 6.0


def seen(totals: Mapping[str, float], channel: Channel = Channel.ERRORS, after: float = 0.5) -> Look:
    """A look in which services have these totals, in one channel."""
    strengths = {name: {channel: SCALE * float(np.expm1(value / SCALE))} for name, value in totals.items()}
    evidence = {
        name: [Evidence(channel=channel, service=name, what="op", before=0.0, after=after, strength=by[channel])]
        for name, by in strengths.items()
    }
    return Look(strengths, evidence)


class Clock:
    """An alarm and the time."""

    def __init__(self, **config: float) -> None:
        self.alarm = Alarm(AlarmConfig(threshold=THRESHOLD, calm=20, **config))  # type: ignore[arg-type]
        self.now_ns = T0

    def step(self, *, users: float = 0.0, wide: float = 1.0, **totals: float) -> list[Finding]:
        self.now_ns += STEP_NS
        both = seen(totals), seen(dict.fromkeys(totals, 0.5))
        return self.alarm.step(both, dict.fromkeys(totals, users), self.now_ns, lambda service: wide)


class TestOpening:
    def test_two_of_three_steps_over_the_threshold(self) -> None:
        clock = Clock()
        assert clock.step(pay=8) == [] and clock.step(pay=1) == []
        (found,) = clock.step(pay=8)
        assert (found.service, found.channel, found.key) == ("pay", Channel.ERRORS, "errors|pay")
        assert found.score == pytest.approx(8 / THRESHOLD, rel=1e-3) and found.end_ns == 0
        assert found.start_ns == clock.now_ns - 15 * S and found.last_ns == clock.now_ns

    def test_one_step_of_four_is_chance(self) -> None:
        clock = Clock()
        for _ in range(5):
            assert clock.step(pay=8) == []
            assert not any(clock.step(pay=1) for _ in range(3))
        assert clock.alarm.open == {}

    def test_what_is_far_over_it_is_sure_at_once(self) -> None:
        assert len(Clock().step(pay=THRESHOLD * 1.5)) == 1
        assert len(Clock().step(pay=THRESHOLD * 1.49)) == 0

    def test_the_window_that_shows_more_counts(self) -> None:
        alarm = Alarm(AlarmConfig())
        (found,) = alarm.step((seen({"pay": 1}), seen({"pay": 12})), {}, T0)
        assert found.score == pytest.approx(2)

    def test_channels_that_are_weak_beside_the_strongest_are_no_findings(self) -> None:
        strengths = {Channel.ERRORS: 30.0, Channel.LATENCY: 15.0, Channel.LOGS: 11.0}
        alarm = Alarm(AlarmConfig())
        found = alarm.step((Look({"pay": strengths}), Look()), {}, T0)
        assert [one.channel for one in found] == [Channel.ERRORS, Channel.LATENCY]
        assert all(one.evidence.what == "" and one.evidence.strength > 0 for one in found), "there was no evidence"

    def test_a_service_whose_version_is_new_needs_more(self) -> None:
        clock = Clock()
        assert clock.step(pay=10, wide=2) == clock.step(pay=15, wide=2) == []
        assert len(clock.step(pay=24, wide=2)) == 1


class TestNoise:
    def test_a_noisy_service_raises_its_own_threshold(self) -> None:
        clock = Clock()
        for k in range(40):  # some of which is longer ago than a fault may grow
            assert clock.step(pay=5.5 if k % 2 else 0.1) == []
        assert not any(clock.step(pay=7, cart=total) for total in (0, 0, 0, 0))
        assert [one.service for one in clock.step(pay=9.1, cart=9.1)] == ["cart"]

    def test_and_noise_is_forgotten(self) -> None:
        clock = Clock()
        clock.step(pay=5.9)
        for _ in range(20):
            clock.step()
        assert clock.step(pay=11) == [] and Clock().step(pay=11)
        for _ in range(1440):  # two hours, after which it is a quarter
            clock.step()
        assert len(clock.step(pay=9.1)) == 1

    def test_noise_is_at_most_the_threshold(self) -> None:
        clock = Clock()
        for _ in range(20):
            for total in (8.9, 0, 0, 0):
                clock.step(pay=total)
        assert len(clock.step(pay=THRESHOLD * 1.3 * 1.5 + 0.1)) == 1

    def test_what_is_quiet_is_not_remembered(self) -> None:
        clock = Clock()
        clock.alarm.step((seen({"pay": 0.0}), Look()), {"pay": 3.0}, T0)
        assert b"pay" not in clock.alarm.state()["alarm"].tobytes()


class TestLasting:
    def test_it_ends_after_calm_when_it_was_last_seen(self) -> None:
        clock = Clock()
        clock.step(pay=12)
        last_ns = clock.now_ns
        for _ in range(4):
            assert clock.step(pay=1) == []
        (ended,) = clock.step()
        assert ended.end_ns == ended.last_ns == last_ns and clock.alarm.open == {}
        assert clock.step(pay=12)[0].start_ns > last_ns, "a new one, with a new start"

    def test_half_the_threshold_keeps_it_alive(self) -> None:
        clock = Clock()
        start_ns = clock.step(pay=12)[0].start_ns
        for _ in range(12):
            (found,) = clock.step(pay=3.1)
            assert found.start_ns == start_ns and found.score == pytest.approx(2), "the highest so far"
            assert clock.step(pay=1) == []

    def test_the_strongest_evidence_is_kept(self) -> None:
        clock = Clock()
        (first,) = clock.step(pay=12)
        (second,) = clock.step(pay=8)
        (third,) = clock.step(pay=14)
        assert second.evidence == first.evidence and third.evidence.strength > first.evidence.strength

    def test_users_add_up_as_far_as_they_are_hit(self) -> None:
        clock = Clock()
        assert clock.step(pay=12, users=100)[0].users == pytest.approx(50), "half of the requests fail"
        assert clock.step(pay=12, users=40)[0].users == pytest.approx(70)
        alarm = Alarm(AlarmConfig())
        slow = seen({"pay": 12}, Channel.LATENCY, after=0.2)
        assert alarm.step((slow, Look()), {"pay": 10}, T0)[0].users == 10, "all who come are slowed"
        assert alarm.strange() == {"pay"}


class TestWeak:
    def test_it_joins_what_is_strange_elsewhere_and_opens_nothing(self) -> None:
        clock = Clock()
        assert clock.step(pay=12, cart=3.5)[0].service == "pay"
        (weak, strong) = clock.step(pay=12, cart=3.5)
        assert (weak.service, strong.service) == ("cart", "pay") and weak.score == pytest.approx(3.5 / 6)
        assert clock.alarm.strange() == {"pay"}

    def test_alone_it_is_nothing(self) -> None:
        clock = Clock()
        assert not any(clock.step(cart=3.5) for _ in range(9))

    def test_one_step_over_the_threshold_joins_below_one(self) -> None:
        clock = Clock()
        clock.step(pay=12)
        (found, _) = clock.step(pay=12, cart=7)
        assert found.service == "cart" and found.score == 0.99
        (found, _) = clock.step(pay=12, cart=8)
        assert found.score > 1 and clock.alarm.strange() == {"pay", "cart"}


class TestState:
    def test_restored_at_any_step_it_goes_on_bit_for_bit(self) -> None:
        random = np.random.default_rng(3)
        whole = Clock()
        for _ in range(150):
            strange = random.random(3) < 0.2
            totals = dict(zip(("a", "b", "c"), np.where(strange, 12, 6.5) * random.random(3), strict=True))
            second = Clock()
            second.alarm.restore(whole.alarm.state())
            second.now_ns = whole.now_ns
            assert second.step(**totals, users=3) == whole.step(**totals, users=3)
            assert second.alarm.state()["alarm"].tobytes() == whole.alarm.state()["alarm"].tobytes()

    @pytest.mark.parametrize(
        "bad", [{}, {"services": {"a": [1]}, "open": [{}]}, {"services": [], "open": []}, {"services": {"a": 1}}, 5]
    )
    def test_a_state_that_does_not_fit(self, bad: object) -> None:
        with pytest.raises(StateError):
            Alarm(AlarmConfig()).restore({"alarm": json_array(bad)})

    @pytest.mark.parametrize(
        "bad", [{"threshold": 0}, {"calm": -1}, {"windows": (30, 15)}, {"windows": (1, 15)}, {"series": 0}]
    )
    def test_bad_settings(self, bad: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match=next(iter(bad))):
            AlarmConfig(**bad)  # type: ignore[arg-type]
