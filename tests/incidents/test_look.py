"""Who is blamed for what: in a small town where one thing at a time is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from otel_aiops.incidents.behaviour import Behaviour, BehaviourConfig
from otel_aiops.incidents.incident import Channel
from otel_aiops.incidents.look import CERTAIN_Z, EXPLAINED, MOST_EVIDENCE, SCALE, Look, look, total
from tests.incidents.town import FINE, FIRST, WARM, Town, Wrong


def seen(wrong: Wrong, slots: int = 3) -> Look:
    return Town().look(wrong, slots)


def first(found: Look) -> str:
    return next(iter(found.totals()))


class TestNothing:
    def test_a_normal_window_shows_next_to_nothing(self) -> None:
        for _ in range(3):
            assert all(value < 3 for value in seen(FINE).totals().values())

    def test_nothing_known_means_nothing_strange(self) -> None:
        town = Town(warm=False)
        assert town.look(Wrong(slow={"cart": 9}), least_usual=0).strengths == {}
        empty = look(Behaviour(BehaviourConfig()), town.wording, 0, 5)
        assert empty.strengths == {} and empty.calls == {} and empty.totals() == {} and empty.total("x") == 0

    def test_contexts_that_came_too_seldom_do_not_count(self) -> None:
        town = Town()
        assert town.look(Wrong(slow={"cart": 4}), least_usual=1e6).strengths == {}

    def test_what_is_over_is_not_seen(self) -> None:
        town = Town()
        town.step(Wrong(fails={"pay": 0.5}))
        assert "pay" not in town.look(FINE).totals()

    def test_a_service_that_nobody_asks_for_is_not_strange(self) -> None:
        town = Town()
        for _ in range(3):
            town.step(learn=False, entries=("web",))
        found = look(town.behaviour, town.wording, town.slot - 3, town.slot - 1, least_usual=30)
        assert found.total("admin") == 0


class TestSlow:
    @pytest.mark.parametrize("service", ["cart", "bank", "pay", "web"])
    def test_a_slow_operation_is_blamed_on_itself_and_not_on_its_callers(self, service: str) -> None:
        found = seen(Wrong(slow={service: 4}))
        assert first(found) == service and set(found.strengths[service]) == {Channel.LATENCY}
        assert all(found.total(other) < 0.3 * found.total(service) for other in found.strengths if other != service)
        (evidence,) = [one for one in found.evidence[service] if one.channel == Channel.LATENCY]
        assert evidence.what == f"{service} op" and evidence.unit == "s" and evidence.callee == ""
        assert 0.008 < evidence.before < 0.012 and 0.03 < evidence.after < 0.05
        assert evidence.strength <= CERTAIN_Z * np.log1p(100)
        assert evidence.text.startswith(f"`{service} op` of {service} takes ") and "instead of" in evidence.text

    def test_a_slow_network_between_two_is_on_that_call(self) -> None:
        found = seen(Wrong(network={("web", "pay"): 30}))
        assert set(found.totals()) == {"web", "pay"}
        assert all(set(by) == {Channel.NETWORK} for by in found.strengths.values())
        for service in ("web", "pay"):
            (evidence,) = found.evidence[service]
            assert (evidence.caller, evidence.callee, evidence.what) == ("web", "pay", "call pay")
            assert "waits for pay" in evidence.text

    def test_one_slow_end_of_many_calls_is_that_end(self) -> None:
        network = {("web", "pay"): 30.0, ("admin", "pay"): 30.0, ("pay", "bank"): 30.0}
        assert first(seen(Wrong(network=network))) == "pay"
        network = {("web", "cart"): 30.0, ("web", "pay"): 30.0}
        assert first(seen(Wrong(network=network))) == "web"

    def test_a_database_that_sends_nothing_is_blamed_itself(self) -> None:
        found = seen(Wrong(slow={"redis": 10}))
        assert first(found) == "redis" and found.total("cart") < 0.3 * found.total("redis")
        assert "redis" not in found.senders and {"web", "cart", "pay", "bank", "admin"} == found.senders

    def test_quicker_is_not_strange(self) -> None:
        assert "cart" not in seen(Wrong(slow={"cart": 0.2})).totals()

    def test_the_example_is_a_trace_of_the_window(self) -> None:
        town = Town()
        before = town.trace
        evidence = town.look(Wrong(slow={"cart": 4})).evidence["cart"][0]
        (trace,) = evidence.traces
        assert len(trace) == 32 and before < int(trace[16:], 16) <= town.trace


class TestFailing:
    @pytest.mark.parametrize("service", ["bank", "cart"])
    def test_an_error_that_is_passed_on_is_not_blamed_on_the_callers(self, service: str) -> None:
        found = seen(Wrong(fails={service: 0.4}))
        assert set(found.totals()) == {service} and set(found.strengths[service]) == {Channel.ERRORS}
        evidence = found.evidence[service][0]
        assert evidence.before == 0 and evidence.after == pytest.approx(0.4, abs=0.15)
        assert f"`{service} op` of {service} fails in " in evidence.text

    def test_a_database_that_is_not_reached_is_blamed_and_not_its_caller(self) -> None:
        found = seen(Wrong(unreached={("cart", "redis"): 0.4}))
        assert first(found) == "redis" and found.total("cart") < 0.3 * found.total("redis")
        evidence = found.evidence["redis"][0]
        assert (evidence.caller, evidence.callee) == ("cart", "redis") and "fails to reach redis" in evidence.text

    def test_a_service_that_is_not_reached_is_blamed_at_least_as_its_caller(self) -> None:
        found = seen(Wrong(unreached={("pay", "bank"): 0.4}))
        assert first(found) == "bank" and Channel.ERRORS in found.strengths["bank"]
        assert Channel.ERRORS not in found.strengths.get("pay", {})

    def test_a_service_that_always_fails_a_little_is_not_strange_for_that(self) -> None:
        town = Town()
        for _ in range(20):
            town.step(Wrong(fails={"bank": 0.2}))
        assert town.look(Wrong(fails={"bank": 0.2})).total("bank") < 3
        assert town.look(Wrong(fails={"bank": 0.8})).total("bank") > 6


class TestPaths:
    def test_a_call_that_ends_everything_is_of_the_caller(self) -> None:
        found = seen(Wrong(cut={("web", "cart"): 0.5}))
        assert first(found) == "web" and found.total("cart") == 0
        assert found.evidence["cart"], "the callee is told of it, though it is not blamed"

    def test_and_of_the_callee_if_two_callers_end_after_it(self) -> None:
        found = seen(Wrong(cut={("web", "cart"): 0.5, ("admin", "cart"): 0.5}))
        assert first(found) == "cart"
        assert max(found.total("web"), found.total("admin")) < 0.6 * found.total("cart")

    def test_a_call_that_is_left_out_is_of_who_leaves_it_out(self) -> None:
        found = seen(Wrong(skips={("pay", "bank"): 0.5}))
        assert first(found) == "pay" and found.total("bank") == 0
        evidence = next(one for one in found.evidence["pay"] if one.channel == Channel.SEQUENCE)
        assert "`pay op` of pay ends after" in evidence.text and evidence.what == "pay op"

    def test_what_a_callee_newly_does_explains_its_caller(self) -> None:
        town = Town()
        alone = town.look(Wrong(skips={("web", "cart"): 0.5})).strengths["web"][Channel.SEQUENCE]
        both = Wrong(skips={("web", "cart"): 0.5, ("pay", "bank"): 0.9})
        found = Town().look(both).strengths
        assert found["web"][Channel.SEQUENCE] < 2 * (1 - EXPLAINED) * alone < found["pay"][Channel.SEQUENCE]

    def test_another_mix_of_known_paths_is_explained_by_the_caller(self) -> None:
        town = Town()
        some = {("pay", "bank"): 0.2, ("web", "pay"): 0.2}
        for _ in range(30):
            town.step(Wrong(skips=some))  # so none of it is new
        more = {("pay", "bank"): 0.7, ("web", "pay"): 0.9}
        found = town.look(Wrong(skips=more)).strengths
        alone = dict(found["pay"])[Channel.SEQUENCE] if "pay" in found else 0.0
        assert found["web"][Channel.SEQUENCE] > 2 * alone


class TestLogs:
    def test_a_warning_that_is_new_is_told_with_its_template(self) -> None:
        found = seen(Wrong(logs={"pay": 0.4}))
        assert first(found) == "pay" and Channel.LOGS in found.strengths["pay"]
        evidence = next(one for one in found.evidence["pay"] if one.channel == Channel.LOGS)
        assert evidence.text.startswith('"template 9" is logged in ') and evidence.what == "template 9"
        assert len(evidence.traces) == 1

    def test_a_log_inside_a_span_is_a_step_of_it(self) -> None:
        texts = [one.text for one in seen(Wrong(logs={"pay": 0.9})).evidence["pay"]]
        assert any('goes on with the log "template 9"' in text for text in texts)


class TestWhole:
    def test_strengths_are_above_zero_and_evidence_is_in_order_and_bounded(self) -> None:
        wrong = Wrong(slow={"cart": 5}, fails={"bank": 0.5}, logs={"pay": 0.5}, cut={("web", "cart"): 0.3})
        found = seen(wrong)
        assert all(value > 0 for by in found.strengths.values() for value in by.values())
        for told in found.evidence.values():
            strengths = [one.strength for one in told]
            assert strengths == sorted(strengths, reverse=True) and len(told) <= MOST_EVIDENCE
        assert list(found.totals().values()) == sorted(found.totals().values(), reverse=True)
        assert found.calls["pay"] == {"bank"} and found.calls["cart"] == {"redis"}

    def test_slowness_counts_once_and_everything_else_is_added(self) -> None:
        both = total({Channel.LATENCY: 5, Channel.NETWORK: 9})
        assert both == total({Channel.NETWORK: 9}) == pytest.approx(SCALE * np.log1p(0.9))
        assert total({Channel.LATENCY: 5, Channel.ERRORS: 7}) == pytest.approx(
            total({Channel.LATENCY: 5}) + total({Channel.ERRORS: 7})
        )
        assert total({}) == total({Channel.ERRORS: -3.0}) == 0

    def test_equal_behaviour_looks_equal(self) -> None:
        wrong = Wrong(slow={"cart": 5}, fails={"bank": 0.5})
        assert seen(wrong) == seen(wrong)

    def test_ever_new_operations_say_nothing(self) -> None:
        town = Town()
        town.traces.operations.number("x")
        found = look(town.behaviour, town.wording, FIRST + WARM, FIRST + WARM + 3)
        assert found.strengths == {} and found.calls["web"] == {"cart", "pay"}
