"""Sampling that begins in a healthy shop opens no incident, and a fault after that is found with its cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span

from otel_aiops.shop import LIVE_STEP_S, LiveShop
from otel_aiops.shop.faults import Kind, LiveFault
from tests.shop.listener import incidents_of

START_S = 1_767_614_400.0  # a Monday, noon UTC
SAMPLED, FAULTY, STEPS = 140, 168, 180  # steps at which sampling and the fault begin, and how many there are
RATE = 15.0
SLOW_NS = 300_000_000
RANDOM = 2.0**56  # the last seven bytes of a trace id are random (W3C Trace Context, level 2)

SLOW = LiveFault(
    kind=Kind.SLOW_DEPENDENCY,
    service="postgresql",
    start_s=START_S + FAULTY * LIVE_STEP_S,
    end_s=START_S + STEPS * LIVE_STEP_S,
    size=11.0,
    what="postgresql answers everybody 11 times as slowly",
)

Traces = ExportTraceServiceRequest
Keep = Callable[[Span], bool]


def shop() -> LiveShop:
    return LiveShop(START_S, seed=5, rate=RATE, plan=[SLOW])


def scopes(request: Traces) -> Iterator[ScopeSpans]:
    return (scope for resource in request.resource_spans for scope in resource.scope_spans)


def lucky(span: Span, share: float) -> bool:
    return int.from_bytes(span.trace_id[-7:]) / RANDOM >= 1 - share


def head() -> Keep:
    """A quarter of the traces, and nobody is told."""
    return lambda span: lucky(span, 0.25)


def told_head() -> Keep:
    """A quarter of the traces, and each span says so (OpenTelemetry, TraceState: Probability Sampling)."""

    def keep(span: Span) -> bool:
        span.trace_state = "ot=th:c"
        return lucky(span, 0.25)

    return keep


def tail() -> Keep:
    """Whole traces that failed or in which anything was slow, and a tenth of the others."""
    one = shop()
    kept: set[bytes] = set()
    for step in range(STEPS):
        for scope in scopes(Traces.FromString(one.requests(step)[1])):
            slow = (
                s for s in scope.spans if s.status.code == 2 or s.end_time_unix_nano - s.start_time_unix_nano > SLOW_NS
            )
            kept.update(span.trace_id for span in slow)
    return lambda span: span.trace_id in kept or lucky(span, 0.1)


def sampled(body: bytes, keep: Keep) -> bytes:
    request = Traces.FromString(body)
    for scope in scopes(request):
        kept = [span for span in scope.spans if keep(span)]
        del scope.spans[:]
        scope.spans.extend(kept)
    return request.SerializeToString()


@pytest.mark.parametrize("sampler", [head, told_head, tail])
def test_sampling_begins(sampler: Callable[[], Keep]) -> None:
    keep = sampler()
    found = incidents_of(shop(), STEPS, lambda step, traces: sampled(traces, keep) if step >= SAMPLED else traces)
    before = [(step, incident.title) for step, incident in found if step < FAULTY]
    assert not before, "nothing but the sampling changed"
    assert [incident.suspects[0].service for _, incident in found] == ["postgresql:shop"]
