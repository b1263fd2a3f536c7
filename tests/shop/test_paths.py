"""A path that is cut, in spans without any error, opens an incident that says so and blames who cut it."""

from __future__ import annotations

from otel_aiops.incidents.incident import Channel
from otel_aiops.shop import LIVE_STEP_S, LiveShop
from otel_aiops.shop.faults import Kind, LiveFault
from tests.shop.listener import incidents_of

START_S = 1_767_614_400.0  # a Monday, noon UTC
FAULTY, STEPS = 140, 152

CUT = LiveFault(
    kind=Kind.EARLY_RETURN,
    service="payment",
    operation="payment shop.PaymentService/Charge",
    start_s=START_S + FAULTY * LIVE_STEP_S,
    end_s=START_S + STEPS * LIVE_STEP_S,
    size=0.7,
    what="payment answers before it has charged, and says that all is well",
)


def test_a_path_that_is_cut_is_an_incident_without_any_error() -> None:
    ((opened, found),) = incidents_of(LiveShop(START_S, seed=5, rate=15, plan=[CUT]), STEPS)
    assert opened >= FAULTY and found.suspects[0].service == "payment"
    assert {finding.channel for finding in found.findings if finding.service == "payment"} == {Channel.SEQUENCE}
