"""The gate says no for one stated reason at a time, and the same report always gets the same answer."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from otel_aiops.errors import ConfigError
from otel_aiops.lifecycle.cases import CaseResult
from otel_aiops.lifecycle.events import Alert, Caught, Event
from otel_aiops.lifecycle.gate import GateConfig, bootstrap, gate, losses
from otel_aiops.lifecycle.objective import CostConfig
from otel_aiops.lifecycle.report import Cost, FaultTrial, Report, Side

DAY_NS = 86_400_000_000_000
DAYS = 28
KINDS = ("spike", "shift_up", "missing")


def alert(day: float, *, true: float = 0.0, called_false: bool = False) -> Alert:
    at = round(day * DAY_NS)
    return Alert(
        start_ns=at,
        end_ns=at + 60,
        series="s",
        service="cart",
        peak=2.0,
        channel="level",
        true=true,
        called_false=called_false,
    )


def event(day: float, *, caught: bool, confidence: float = 1.0) -> Caught:
    at = round(day * DAY_NS)
    of = Event(start_ns=at, end_ns=at + 60, name=f"I{day}", source="incident", confidence=confidence)
    return Caught(event=of, caught=caught, delay_s=0.0 if caught else float("nan"), covered=float(caught))


def side(role: str, name: str, *, missed: int = 0, false: int = 0, found: int = 20, cases: str = "") -> Side:
    """Of 10 events some are missed, of 20 series a fault of each kind is found in some; cases are + or -."""
    return Side(
        role=role,
        name=name,
        begun="bundle",
        weeks=DAYS / 7,
        points=1000,
        over=5,
        threshold=1.0,
        alerts=tuple(alert(k + 0.5) for k in range(false)),
        events=tuple(event(2.5 * k, caught=k >= missed) for k in range(10)),
        trials=tuple(
            FaultTrial(kind=kind, series=f"s{k}", found=k < found, delay_s=float("nan"))
            for kind in KINDS
            for k in range(20)
        ),
        cases=tuple(
            CaseResult(id=f"{k:016x}", series="s", time_ns=k, kind="missed", right=mark == "+", peak=1.0)
            for k, mark in enumerate(cases)
        ),
        probability=(1.0,) * 20,
        cost=Cost(cpu_s=0.1, points=1000, bytes_per_series=500),
    )


def report(mine: Side, champion: Side | None = None, baseline: Side | None = None) -> Report:
    sides = (mine, champion, baseline or side("baseline", "seasonal-naive", missed=8, found=2))
    return Report(
        version="v",
        window=(0, DAYS * DAY_NS),
        series=20,
        drawn_of=20,
        sides=tuple(one for one in sides if one),
        budget=2.0,
    )


GOOD = side("candidate", "v", cases="++")
CHAMPION = side("champion", "c", cases="++")


def test_one_that_is_as_good_as_the_champion_and_better_than_the_baseline_passes() -> None:
    found = gate(report(GOOD, CHAMPION))
    assert found.passed and not found.reasons
    assert "passed" in found.markdown() and found.markdown().count("✅") == len(found.checks) == 7
    assert json.loads(json.dumps(found.to_json()))["passed"] is True
    assert gate(report(GOOD, CHAMPION)).to_json() == found.to_json()


def test_the_first_version_needs_no_champion() -> None:
    found = gate(report(GOOD))
    assert found.passed and any("no champion" in one.words for one in found.checks)


@pytest.mark.parametrize(
    ("mine", "rule"),
    [
        (side("candidate", "v", missed=8, found=2), "better than seasonal-naive"),
        (side("candidate", "v", missed=4), "mistakes cost no more than the champion's"),
        (side("candidate", "v", false=25), "mistakes cost no more than the champion's"),
        (side("candidate", "v", found=15), "finds as many faults as the champion"),
        (replace(GOOD, probability=(0.0,) * 10 + (2.0,) * 10), "probabilities as true as the champion's"),
        (side("candidate", "v", cases="+-"), "no regression on frozen cases"),
        (replace(GOOD, cost=Cost(cpu_s=9.0, points=1000, bytes_per_series=500)), "within its cost"),
        (replace(GOOD, cost=Cost(cpu_s=0.1, points=1000, bytes_per_series=50_000)), "within its cost"),
    ],
)
def test_each_rule_says_no_by_itself(mine: Side, rule: str) -> None:
    found = gate(report(mine, CHAMPION))
    assert not found.passed and rule in [one.name for one in found.checks if not one.passed]
    assert found.reasons[0].startswith(found.checks[[one.passed for one in found.checks].index(False)].name)
    assert "not good enough" in found.markdown()


def test_faults_must_be_found_however_bad_the_champion_is() -> None:
    found = gate(report(side("candidate", "v", found=5), side("champion", "c", found=5)))
    assert [one.name for one in found.checks if not one.passed] == ["finds faults"]
    without = replace(GOOD, trials=())
    assert not gate(report(without)).passed, "what was not tested is not known to be good"


def test_a_case_that_the_champion_does_wrong_too_is_no_regression() -> None:
    assert gate(report(side("candidate", "v", cases="+-"), side("champion", "c", cases="+-"))).passed
    assert gate(report(side("candidate", "v", cases="--"))).passed, "without a champion nothing can be lost"


def test_a_little_more_is_within_the_margin() -> None:
    wide = GateConfig(margin=1.0, recall_margin=0.3)
    mine = side("candidate", "v", false=1, found=18)
    assert not gate(report(mine, CHAMPION)).passed and gate(report(mine, CHAMPION), wide).passed


def test_mistakes_cost_what_the_objective_says() -> None:
    one = report(side("candidate", "v", missed=2, false=3))
    assert losses(one, one.candidate, CostConfig(miss=7, false_alert=2)).sum() == 2 * 7 + 3 * 2
    assert len(losses(one, one.candidate, CostConfig())) == DAYS
    weak = replace(one.candidate, events=(event(1.0, caught=False, confidence=0.5),), alerts=())
    assert losses(one, weak, CostConfig(miss=8)).sum() == 4


def test_where_nothing_is_labelled_only_what_was_called_false_counts() -> None:
    blank = replace(GOOD, events=(), alerts=(alert(1.0), alert(2.0, called_false=True), alert(3.0, true=1.0)))
    assert losses(report(GOOD), blank, CostConfig()).sum() == 1
    short = replace(report(GOOD), window=(0, DAY_NS))
    assert len(losses(short, blank, CostConfig())) == 14


def test_the_bootstrap_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        found = bootstrap(rng.normal(1.0, 2.0, 40), 0.95)
        inside += found.low <= 1.0 <= found.high
    assert 0.84 <= inside / 200 <= 0.96, "both sides of 5 % each"
    assert bootstrap(np.array([2.0, 4.0]), 0.95, np.array([1.0, 3.0])).mean == 1.5
    nothing = bootstrap(np.empty(0), 0.95)
    assert nothing.mean != nothing.mean


@pytest.mark.parametrize(
    "bad",
    [
        {"margin": -0.1},
        {"confidence": 0.5},
        {"least_fault_recall": 2.0},
        {"most_us_per_point": 0.0},
        {"most_bytes_per_series": 0},
    ],
)
def test_limits_that_make_no_sense_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        GateConfig(**bad)  # type: ignore[arg-type]
