"""The rules of a rollout: what goes on, what is promoted, and what goes back at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from otel_aiops.detect.serving import Action
from otel_aiops.errors import ConfigError
from otel_aiops.lifecycle.comparison import Comparison, Side
from otel_aiops.lifecycle.judge import RolloutConfig, judge

DAY_NS = 86_400_000_000_000
CONFIG = RolloutConfig()


def side(version: str, **more: object) -> Side:
    known = Side(version, 50_000, 0.01, 2, 14.0, 0.03, 0, 0)
    return replace(known, **more)  # type: ignore[arg-type]


def compared(days: float = 1.1, *, champion: dict[str, object] | None = None, **other: object) -> Comparison:
    until_ns = 10 * DAY_NS + round(days * DAY_NS)
    return Comparison(10 * DAY_NS, until_ns, side("a", **(champion or {})), side("b", **other), 2, (), ())


@pytest.mark.parametrize(
    ("role", "days", "wanted"),
    [
        ("shadow", 0.5, None),
        ("shadow", 1.1, Action.CANARY),
        ("canary", 0.5, None),
        ("canary", 1.1, Action.PROMOTE),
        ("former", 0.5, None),
        ("former", 1.1, Action.STOP),
    ],
)
def test_a_good_one_goes_on_by_time(role: str, days: float, wanted: Action | None) -> None:
    assert judge(compared(days), role, 7.0, CONFIG).action == wanted


@pytest.mark.parametrize(
    ("role", "hours", "words"),
    [
        ("shadow", 25, "nothing was worse than the champion's in 25.0 h: 2 alerts"),
        ("canary", 12, "canary for 12.0 h of 24.0 h, nothing is worse so far"),
        ("former", 1, "the new champion is on probation, 60 min so far"),
        ("former", 72, "the new champion has held for 3.0 d"),
    ],
)
def test_how_long_it_ran_is_said(role: str, hours: int, words: str) -> None:
    assert words in judge(compared(hours / 24), role, 7.0, CONFIG).reasons[0]


@pytest.mark.parametrize(
    ("worse", "words"),
    [
        ({"alerts": 12}, "12 alerts where at most 2.5 are allowed"),
        ({"missed": 1}, "it missed 1 that people said were true, the other version 0"),
        ({"calibration_error": 0.2}, "its probabilities are off by 0.200, those of the other version by 0.030"),
    ],
)
@pytest.mark.parametrize("role", ["shadow", "canary"])
def test_a_bad_one_goes_back_at_once(worse: dict[str, object], words: str, role: str) -> None:
    found = judge(compared(0.1, **worse), role, 0.0, CONFIG)
    assert found.action == Action.ROLLBACK and words in found.reasons[0]


def test_a_new_champion_that_is_worse_goes_back_too() -> None:
    assert judge(compared(0.1, champion={"alerts": 12}), "former", 0.0, CONFIG).action == Action.ROLLBACK
    assert judge(compared(0.1, alerts=12), "former", 0.0, CONFIG).action is None, "it is the former one that alerts"


def test_a_few_alerts_more_may_be_chance_or_within_the_budget() -> None:
    assert judge(compared(0.1, alerts=4), "shadow", 0.0, CONFIG).action is None
    assert judge(compared(0.1, alerts=12), "shadow", 700.0, CONFIG).action is None
    assert judge(compared(1.1, alerts=12), "shadow", 70.0, CONFIG).action == Action.CANARY


def test_probabilities_of_few_points_are_off_by_chance() -> None:
    config = RolloutConfig(least_points=50)
    few = {"champion": {"points": 70, "calibration_error": 0.18}, "points": 70}
    assert judge(compared(1.1, calibration_error=0.25, **few), "canary", 70.0, config).action == Action.PROMOTE
    assert judge(compared(1.1, calibration_error=0.6, **few), "canary", 70.0, config).action == Action.ROLLBACK


def test_nothing_is_concluded_from_little() -> None:
    found = judge(compared(3.0, points=100, calibration_error=0.4), "shadow", 7.0, CONFIG)
    assert found.action is None and found.reasons == ("expected 10000 points before a judgement, got 100",)
    unknown = compared(3.0, calibration_error=float("nan"))
    assert judge(unknown, "shadow", 7.0, CONFIG).action == Action.CANARY


@pytest.mark.parametrize(
    ("knobs", "path"),
    [
        ({"shadow": 0}, "shadow"),
        ({"share": 1.0}, "share"),
        ({"least_points": 0}, "least_points"),
        ({"missed": -1}, "missed"),
        ({"more_alerts": 0.9}, "more_alerts"),
        ({"calibration": 0.0}, "calibration"),
    ],
)
def test_wrong_rules_are_named(knobs: dict[str, float], path: str) -> None:
    with pytest.raises(ConfigError) as found:
        RolloutConfig(**knobs)  # type: ignore[arg-type]
    assert found.value.path == path
