"""From spans, records and series to incidents, in a small town where one thing goes wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from otel_aiops.errors import BadInput, StateError
from otel_aiops.incidents.alarm import AlarmConfig
from otel_aiops.incidents.analysis import OWN_SCOPES, Analysis, AnalysisConfig, Outcome
from otel_aiops.incidents.behaviour import SLOT_S
from otel_aiops.incidents.incident import Channel, Evidence, Incident, State
from otel_aiops.incidents.suppress import Action, Decision
from otel_aiops.labels import Labels
from otel_aiops.series.columns import Arrays, json_array
from tests.incidents.makers import at, finding
from tests.incidents.stream import CALM, CONFIG, FIRST_NS, Body, bodies, follow, incidents
from tests.incidents.town import SLOT_NS, Wrong
from tests.signals.made_spans import S

LASTS = 8  # steps
STEPS = CALM + LASTS + 20
SLOW_CART = Wrong(slow={"cart": 5})


@cache
def stream(wrong: str) -> list[Body]:
    """Good steps, some in which something is wrong, and good ones again."""
    kinds = {
        "nothing": Wrong(),
        "cart is slow": SLOW_CART,
        "bank fails": Wrong(fails={"bank": 0.6}),
        "pay is slow to reach": Wrong(network={("web", "pay"): 40, ("admin", "pay"): 40, ("pay", "bank"): 40}),
    }
    return bodies(dict.fromkeys(range(CALM, CALM + LASTS), kinds[wrong]), STEPS)


@cache
def whole(wrong: str) -> tuple[Analysis, list[Incident]]:
    """All of a stream, not for changing."""
    analysis = Analysis(CONFIG)
    return analysis, incidents(follow(analysis, stream(wrong)))


def bits(arrays: Arrays) -> dict[str, tuple[bytes, str]]:
    return {name: (array.tobytes(), str(array.dtype)) for name, array in arrays.items()}


class TestIncidents:
    @pytest.mark.parametrize(
        "wrong, at, channel",
        [
            ("cart is slow", "cart", Channel.LATENCY),
            ("bank fails", "bank", Channel.ERRORS),
            ("pay is slow to reach", "pay", Channel.NETWORK),
        ],
    )
    def test_one_opens_soon_at_the_service_at_fault_and_ends(self, wrong: str, at: str, channel: Channel) -> None:
        _, found = whole(wrong)
        first, last = found[0], found[-1]
        assert {one.id for one in found} == {first.id} and first.state == State.OPEN
        begins_ns = FIRST_NS + CALM * SLOT_NS
        assert begins_ns < first.detected_ns <= begins_ns + 30 * S
        assert last.suspects[0].service == at and at in last.services  # the first ranking has but few requests
        assert any(finding.channel == channel and finding.service == at for finding in last.findings)
        assert found[-1].users > 0 and first.suspects[0].evidence
        assert last.state == State.RESOLVED and last.end_ns > first.start_ns

    def test_nothing_wrong_no_incident(self) -> None:
        assert incidents(follow(Analysis(CONFIG), stream("nothing"))) == []

    def test_during_warm_up_there_is_none(self) -> None:
        config = replace(CONFIG, alarm=AlarmConfig(warmup=STEPS * SLOT_S))
        assert incidents(follow(Analysis(config), stream("cart is slow")[: CALM + LASTS])) == []

    def test_nothing_is_learned_of_what_is_wrong_or_of_its_neighbours(self) -> None:
        good, bad = Analysis(CONFIG), Analysis(CONFIG)
        follow(good, stream("nothing")[: CALM + LASTS + 4])
        follow(bad, stream("cart is slow")[: CALM + LASTS + 4])

        def usual(analysis: Analysis, service: str) -> float:
            tally, number = analysis.behaviour.latency, analysis.sources.services.find(service)
            return float(tally.usual[(tally.contexts >> 48)[tally.context_number] == number].sum())

        for service in ("cart", "web", "admin"):
            assert usual(bad, service) < 0.95 * usual(good, service)
        assert usual(bad, "bank") == pytest.approx(usual(good, "bank"), rel=0.02)

    def test_an_objective_that_is_missed_burns(self) -> None:
        assert all(one.slo_burn == 0 for one in whole("cart is slow")[1])
        _, found = whole("bank fails")
        assert found[-1].slo_burn > 5

    def test_operators_decide(self) -> None:
        analysis = Analysis(CONFIG)
        (first, *_) = incidents(follow(analysis, stream("bank fails")[: CALM + 5]))
        told = Decision(action=Action.ACKNOWLEDGE, incident=first.id, time_ns=first.detected_ns + S, who="me")
        (changed,) = analysis.decide(told)
        assert changed.state == State.ACKNOWLEDGED
        with pytest.raises(BadInput):
            analysis.decide(replace(told, incident="nobody"))

    def test_a_version_that_is_new_is_told_and_suspected(self) -> None:
        wrong = dict.fromkeys(range(CALM + 1, CALM + LASTS), Wrong(fails={"pay": 0.8}))
        outcomes = follow(Analysis(CONFIG), bodies(wrong, CALM + LASTS, versions={CALM: "1.1"}))
        (deployed,) = [one for outcome in outcomes for one in outcome.deployments]
        assert deployed.service == "pay"
        suspect = incidents(outcomes)[-1].suspects[0]
        assert suspect.service == "pay" and "1.1" in suspect.deployment

    def test_what_is_far_away_is_not_suspected(self) -> None:
        analysis, found = whole("bank fails")
        near = replace(found[0], services=("cart",))
        assert analysis._near(near, "redis") and analysis._near(near, "unknown")
        assert analysis._symptom(replace(found[0], services=("pay", "bank"))) == "pay"
        assert analysis._symptom(replace(found[0], services=("web", "admin"))) == ""


class TestSteps:
    def test_everything_is_looked_at_once_a_slot(self) -> None:
        analysis = Analysis(CONFIG)
        follow(analysis, stream("nothing")[:3])
        before = bits(analysis.state())
        assert analysis.step(FIRST_NS + 3 * SLOT_NS - 1) == Outcome()
        assert analysis.step(0) == Outcome() and bits(analysis.state()) == before

    def test_points_of_requests_and_records_come_of_it(self) -> None:
        outcomes = follow(Analysis(CONFIG), stream("nothing")[:20])
        names = {one for outcome in outcomes for points in outcome.points for one in _names(points)}
        assert any("duration" in name for name in names) and any("log" in name for name in names)

    def test_series_that_are_made_here_are_not_looked_at_again(self) -> None:
        analysis = Analysis(CONFIG)
        own = Labels(name="up", scope_name=OWN_SCOPES + "x", resource=(("service.name", "pay"),))
        other = replace(own, scope_name="app", name="k8s.pod.cpu.limit_utilization")
        rows = np.arange(2, dtype=np.int32)
        met: list[int] = []
        analysis.metrics.assign = lambda row, *_: met.append(row)  # type: ignore[method-assign, assignment]
        analysis.welcome(rows, [own, other], np.array([1, 2], np.uint64), FIRST_NS)
        assert met == [1]
        analysis.forget(rows)


def _names(points: object) -> Iterable[str]:
    from otel_aiops.series.table import SeriesTable, TableConfig

    table = SeriesTable(TableConfig())
    rows = table.rows(points, event_now_ns=FIRST_NS)  # type: ignore[arg-type]
    return [labels.name for labels in table.labels_of(rows.new)]


class TestState:
    @pytest.mark.parametrize("cut", [5, CALM + 3, CALM + LASTS + 3])
    def test_restored_midway_everything_goes_on_bit_for_bit(self, cut: int) -> None:
        came = stream("cart is slow")
        first, second = Analysis(CONFIG), Analysis(CONFIG)
        follow(first, came[:cut])
        state = first.state()
        kept = bits(state)
        second.restore(state)
        assert bits(second.state()) == kept
        for body in came[cut : cut + 12]:
            (one,), (two,) = follow(first, [body]), follow(second, [body])
            assert repr(one.incidents) == repr(two.incidents) and one.deployments == two.deployments
            assert [points.value.tobytes() for points in one.points] == [p.value.tobytes() for p in two.points]
        assert bits(first.state()) == bits(second.state())
        assert bits(state) == kept, "a state is not changed by what comes later"

    def test_a_state_without_an_analysis_holds_nothing(self) -> None:
        analysis, fresh = Analysis(CONFIG), Analysis(CONFIG)
        analysis.restore({})
        assert bits(analysis.state()) == bits(fresh.state())

    @pytest.mark.parametrize("clock", [{}, {"slot": "x", "first_ns": 0}, [], None, {"slot": 1, "first_ns": 2}])
    def test_a_clock_that_does_not_fit(self, clock: object) -> None:
        good = Analysis(CONFIG).state()
        with pytest.raises(StateError):
            Analysis(CONFIG).restore({**good, "clock": json_array(clock)})

    def test_parts_that_are_missing(self) -> None:
        good = Analysis(CONFIG).state()
        for part in ("sources", "traces", "behaviour", "alarm", "requests", "clock"):
            left = {name: array for name, array in good.items() if not name.startswith(part)}
            with pytest.raises(StateError):
                Analysis(CONFIG).restore(left)


def test_what_began_together_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty incidents of one step are ranked with one look and one measurement; later ones are made anew."""
    one = Analysis(AnalysisConfig())
    measured: list[int] = []
    evidence = one.metrics.evidence

    def counted(start_ns: int, end_ns: int, *rest: Any) -> tuple[Evidence, ...]:
        measured.append(end_ns)
        return evidence(start_ns, end_ns, *rest)

    monkeypatch.setattr(one.metrics, "evidence", counted)
    monkeypatch.setattr(one, "_strange", lambda event_ns: [finding(f"s{n}", 0, 100) for n in range(50)])
    for second in (10, 50):
        assert len(one.step(at(second)).incidents) == (50 if second == 10 else 0)
    assert measured == [at(10), at(50)], "once at the start, once after thirty seconds"
    one.causes(at(0), at(50))
    assert measured == [at(10), at(50), at(50)]
