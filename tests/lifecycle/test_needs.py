"""When a retraining is due."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_aiops.errors import ConfigError
from otel_aiops.lifecycle.needs import KINDS, RetrainConfig, Seen, needs

S = 1_000_000_000
NOW_NS = 1_777_816_800 * S
DAY_S = 86_400.0
CONFIG = RetrainConfig()


def kinds(config: RetrainConfig = CONFIG, **seen: Any) -> list[str]:
    return [one.kind for one in needs(config, Seen(**{"now_ns": NOW_NS, **seen}))]


def ago(days: float) -> int:
    return NOW_NS - round(days * DAY_S) * S


def test_a_service_that_has_made_no_version_waits_one_interval() -> None:
    assert kinds(waited_s=6 * DAY_S) == []
    (need,) = needs(CONFIG, Seen(now_ns=NOW_NS, waited_s=7 * DAY_S))
    assert need.kind == "schedule" and need.text == "168 h of data, and no version was made yet"


def test_a_service_that_is_restarted_every_day_has_its_first_version_too() -> None:
    assert kinds(since_ns=ago(6)) == [] and kinds(since_ns=ago(8), waited_s=60.0) == ["schedule"]
    assert kinds(since_ns=ago(8), waited_s=60.0, ran_here=True) == [], "not again and again where it fails at once"


def test_reasons_and_their_words() -> None:
    assert kinds(last_ns=ago(2)) == []
    assert kinds(last_ns=ago(7)) == ["schedule"]
    drifts = ("a moved", "b moved", "c moved", "d moved")
    seen = Seen(now_ns=NOW_NS, last_ns=ago(8), verdicts=10, changed=("detection",), drifts=drifts)
    found = needs(CONFIG, seen)
    assert [one.kind for one in found] == list(KINDS)
    assert [one.text for one in found] == [
        "192 h since the last run",
        "drift that persists: a moved; b moved; c moved, and 1 more",
        "10 new verdicts",
        "the configuration changed since the last run: detection",
    ]
    assert kinds(last_ns=ago(2), verdicts=9) == []
    only = RetrainConfig(reasons=("drift",))
    assert kinds(only, last_ns=ago(30), verdicts=99, changed=("x",)) == []
    assert kinds(only, last_ns=ago(30), drifts=("x",)) == ["drift"]


def test_not_before_the_least_interval() -> None:
    every: dict[str, Any] = {"verdicts": 99, "changed": ("x",), "drifts": ("y",)}
    assert kinds(last_ns=ago(0.9), **every) == []
    assert kinds(last_ns=ago(1.1), **every) == ["drift", "verdicts", "config"]
    assert kinds(last_ns=ago(300), ran_here=True, waited_s=60.0, **every) == [], "the clock was set forward"


def test_a_clock_that_was_set_back_makes_neither_no_run_nor_many() -> None:
    ahead_ns = NOW_NS + 1_000 * round(DAY_S) * S
    assert kinds(last_ns=ahead_ns, waited_s=0.0) == []
    assert kinds(last_ns=ahead_ns, waited_s=7 * DAY_S) == ["schedule"]
    assert kinds(last_ns=ahead_ns, ran_here=True, waited_s=10.0) == []


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**62), st.integers(0, 2**62), st.floats(0, 1e9), st.booleans())
def test_whatever_the_clock_says_runs_of_one_process_keep_their_distance(
    now_ns: int, last_ns: int, waited_s: float, ran_here: bool
) -> None:
    seen = Seen(now_ns=now_ns, last_ns=last_ns, waited_s=waited_s, ran_here=ran_here, drifts=("x",))
    found = needs(CONFIG, seen)
    if ran_here:
        assert bool(found) == (waited_s >= CONFIG.min_interval)
    if waited_s >= CONFIG.schedule:
        assert found, "never is not possible either"


WRONG: list[dict[str, Any]] = [
    *({name: 0.0} for name in ("schedule", "min_interval", "window", "timeout")),
    *({name: 0} for name in ("verdicts", "processes")),
]


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        RetrainConfig(**wrong)
