"""Every guard lets through what it should, refuses what it must, and says why."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aiops.errors import ConfigError
from otel_aiops.responses.guard import ACTS, TELLS, Facts, GuardConfig, Verdict, rule

S = 1_000_000_000
NOW = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()) * S  # a Monday, noon


def ruled(guard: dict[str, Any] | None = None, now_ns: int = NOW, **facts: Any) -> tuple[Verdict, str]:
    found = rule(GuardConfig(**(guard or {})), ACTS, Facts(target="cart", **facts), now_ns)
    return found.verdict, found.reason


def ago(seconds: float) -> int:
    return NOW - round(seconds * S)


def test_nothing_in_the_way_is_allowed() -> None:
    assert ruled() == (Verdict.ALLOWED, "")


def test_dry_run_unless_both_switches_are_on() -> None:
    assert ruled(enabled=False) == (Verdict.DRY_RUN, "responses are not enabled: nothing is done")
    assert ruled(dry_run=True) == (Verdict.DRY_RUN, "the playbook is a dry run: nothing is done")
    assert ruled({"approvals": 1}, dry_run=True)[0] is Verdict.DRY_RUN, "nobody is asked for nothing"


def test_a_stop_goes_before_everything() -> None:
    verdict, why = ruled(stopped="ann: it loops", enabled=False)
    assert verdict is Verdict.REFUSED and why.startswith("all responses are stopped: ann: it loops")


@pytest.mark.parametrize(("seconds", "verdict"), [(599, Verdict.REFUSED), (600, Verdict.ALLOWED)])
def test_cooldown(seconds: float, verdict: Verdict) -> None:
    assert ruled(last_ns=ago(seconds))[0] is verdict
    assert ruled({"cooldown": 60.0}, last_ns=ago(seconds))[0] is Verdict.ALLOWED


def test_cooldown_says_how_long() -> None:
    assert ruled(last_ns=ago(90))[1] == "it was last done to cart 90 s ago, the cooldown is 10 min"


def test_rate() -> None:
    often = {"done_ns": tuple(ago(3_000 - k) for k in range(6)), "targets": ("cart",) * 6}
    assert ruled(**often) == (Verdict.REFUSED, "it was done 6 times in the last 60 min, at most 6 are wanted")
    assert ruled({"most": 7}, **often)[0] is Verdict.ALLOWED
    assert ruled({"per": 60.0}, **often)[0] is Verdict.ALLOWED, "long ago does not count"


def test_blast_radius_in_services() -> None:
    others = {"done_ns": (ago(700),) * 3, "targets": ("pay", "bank", "web")}
    assert ruled(**others)[1] == "with cart it reaches 4 services, at most 3 are wanted"
    assert ruled({"targets": 4}, **others)[0] is Verdict.ALLOWED
    assert ruled(done_ns=(ago(700),) * 3, targets=("cart",) * 3)[0] is Verdict.ALLOWED, "the same one again"


@pytest.mark.parametrize(
    ("replicas", "share", "allowed"), [((4, 6), 0.5, True), ((4, 7), 0.5, False), ((4, 0), 1, True)]
)
def test_blast_radius_in_replicas(replicas: tuple[int, int], share: float, allowed: bool) -> None:
    verdict, why = ruled({"share": share}, replicas=replicas)
    assert (verdict is Verdict.ALLOWED) is allowed
    assert allowed or why == "4 to 7 replicas are 75% of them, at most 50% are wanted"


def test_windows() -> None:
    work = {"windows": ({"days": ("mon",), "from": "09:00", "to": "17:00"},)}
    assert ruled(work)[0] is Verdict.ALLOWED
    assert ruled(work, now_ns=NOW + 6 * 3600 * S) == (Verdict.REFUSED, "it is not a time at which this is done")
    assert ruled({"windows": ({"from": "20:00", "to": "21:00", "tz": "Asia/Tokyo"},)})[0] is Verdict.REFUSED
    assert ruled({"windows": ({"from": "21:00", "to": "22:00", "tz": "Asia/Tokyo"},)})[0] is Verdict.ALLOWED


def test_a_model_that_is_not_healthy() -> None:
    assert ruled(model="a canary serves") == (Verdict.REFUSED, "the model is not to be trusted: a canary serves")
    assert ruled({"healthy": False}, model="a canary serves")[0] is Verdict.ALLOWED


def test_what_is_over_needs_nothing_but_may_be_told() -> None:
    assert ruled(over="the incident is resolved") == (Verdict.REFUSED, "the incident is resolved")
    assert (
        rule(GuardConfig(), TELLS, Facts(over="the incident is resolved", model="it drifts"), NOW).verdict
        is Verdict.ALLOWED
    )


def test_approvals_are_of_different_people() -> None:
    two = {"approvals": 2}
    assert ruled(two) == (Verdict.WAITS, "2 of 2 approvals are missing")
    assert ruled(two, approved=("ann",))[1] == "1 of 2 approvals is missing"
    assert ruled(two, approved=("ann", " Ann "))[0] is Verdict.WAITS
    assert ruled(two, approved=("ann", "bob"))[0] is Verdict.ALLOWED


def test_approvals_expire_and_can_be_refused() -> None:
    one = {"approvals": 1, "expiry": 60.0}
    assert ruled(one, asked_ns=ago(60))[0] is Verdict.WAITS
    assert ruled(one, asked_ns=ago(61)) == (Verdict.REFUSED, "it was not approved and done within 60 s")
    assert ruled(one, asked_ns=ago(61), approved=("ann",))[0] is Verdict.REFUSED, "too late is too late"
    assert ruled(one, asked_ns=ago(5), refused="bob: not now", approved=("ann",)) == (
        Verdict.REFUSED,
        "refused by bob: not now",
    )


def test_every_reason_is_said() -> None:
    why = ruled(last_ns=ago(1), model="it drifts")[1]
    assert "cooldown" in why and "it drifts" in why


@given(st.integers(0, 2), st.lists(st.sampled_from(["ann", "bob", "eve"]), max_size=4), st.booleans(), st.booleans())
def test_nothing_is_done_without_switches_and_people(needed: int, who: list[str], enabled: bool, dry: bool) -> None:
    verdict, _ = ruled({"approvals": needed}, approved=tuple(who), enabled=enabled, dry_run=dry)
    assert (verdict is Verdict.ALLOWED) == (enabled and not dry and len(set(who)) >= needed)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"approvals": 3}, "approvals: must be 0, 1 or 2, got 3"),
        ({"share": 0}, "share: must be in (0, 1], got 0"),
        ({"cooldown": -1.0}, "cooldown: must be >= 0, got -1.0"),
        (
            {"windows": ({"days": ("moonday",)},)},
            "windows.0.days: expected mon, tue, wed, thu, fri, sat, sun, got 'moonday'",
        ),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        GuardConfig(**wrong)
    assert str(error.value) == said
