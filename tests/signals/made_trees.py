"""Trees for tests, a span at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from otel_aiops.otlp.spans import PeerKind
from otel_aiops.signals.names import Names
from otel_aiops.signals.trees import Trees

S = 1_000_000_000


@dataclass
class Span:
    """One span; times in seconds, `parent` is the index of an earlier or later span of the same batch."""

    service: str
    operation: str = "op"
    end_s: float = 0.0
    duration_s: float = 0.01
    parent: int = -1
    callee: str = ""
    callee_kind: PeerKind = PeerKind.NONE
    entry: bool = False
    error: bool = False
    weight: float = 1.0
    exclusive_s: float | None = None
    gap_s: float = np.nan


@dataclass
class Words:
    """The names that trees refer to."""

    services: Names = field(default_factory=lambda: Names(10_000))
    operations: Names = field(default_factory=lambda: Names(100_000))


def trees(spans: list[Span], words: Words) -> Trees:
    """Spans as columns; each is a trace of its own as far as ids go."""
    n = len(spans)
    end = np.array([round(one.end_s * S) for one in spans], np.int64)
    start = end - np.array([round(one.duration_s * S) for one in spans], np.int64)
    callee = [words.services.number(one.callee) if one.callee else 0 for one in spans]
    exclusive = [one.duration_s if one.exclusive_s is None else one.exclusive_s for one in spans]
    return Trees(
        trace=np.arange(n, dtype=np.int32),
        trace_high=np.zeros(n, np.uint64),
        trace_low=np.arange(n, dtype=np.uint64),
        parent=np.array([one.parent for one in spans], np.int64),
        orphan=np.zeros(n, bool),
        service=words.services.numbers(one.service for one in spans),
        operation=words.operations.numbers(one.operation for one in spans),
        callee=np.array(callee, np.int32),
        callee_kind=np.array([one.callee_kind for one in spans], np.uint8),
        resource=np.zeros(n, np.int32),
        entry=np.array([one.entry for one in spans], bool),
        user=np.zeros(n, bool),
        start_ns=start,
        end_ns=end,
        exclusive_ns=np.array(exclusive) * S,
        gap_ns=np.array([one.gap_s for one in spans]) * S,
        error=np.array([one.error for one in spans], bool),
        exception=np.zeros(n, np.int32),
        weight=np.array([one.weight for one in spans], float),
        event_span=np.zeros(0, np.int64),
        event=np.zeros(0, np.int64),
    )


def call(caller: str, callee: str, at_s: float, **more: object) -> list[Span]:
    """A client span and the server span that it calls, for a batch of their own."""
    kind = PeerKind.SERVICE
    client = Span(caller, f"call {callee}", at_s, 0.020, -1, callee, kind, **more)  # type: ignore[arg-type]
    server = Span(callee, "serve", at_s, 0.015, 0, entry=True, **more)  # type: ignore[arg-type]
    client.gap_s = 0.005
    return [client, server]
