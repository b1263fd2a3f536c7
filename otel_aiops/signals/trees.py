"""Trees: the spans of traces that are complete, put together, as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import F64, I32, I64, Bool

U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]

NO_SPAN = -1


@dataclass(frozen=True, slots=True)
class Trees:
    """N spans of traces that were closed together.

    Shape: all (N,) unless said. Spans of a trace stand side by side.
    Unit:  times in ns since the epoch, spans of time in ns.

    `trace` numbers the traces of this batch from 0. `parent` is the index of the parent, -1 of a root or an orphan
    (`orphan` tells them apart). `service`, `operation`, `callee` and `resource` are numbers of `Names`: an operation is
    the name of a span, which belongs to its service; `callee` is the service, database or destination that a span
    calls, 0 where it calls none. `entry` marks the spans with which a request comes into a service. `exclusive_ns` is
    the time that no child and no later sibling explains. `gap_ns` is the time of a call that the callee's own span does
    not explain, NaN where there is no such span. `weight` is how many spans this one stands for. `user` marks entries
    that nothing instrumented has called: a user's request. `trace_high` and `trace_low` are the trace ids.
    Events inside spans are flat, (E,), in order of time in each span: children that were called and log records;
    `event_span` says whose each is, `event` is a number of the names of events.
    """

    trace: I32
    trace_high: U64
    trace_low: U64
    parent: I64
    orphan: Bool
    service: I32
    operation: I32
    callee: I32
    callee_kind: U8  # PeerKind
    resource: I32
    entry: Bool
    user: Bool
    start_ns: I64
    end_ns: I64
    exclusive_ns: F64
    gap_ns: F64
    error: Bool
    exception: I32
    weight: F64
    event_span: I64
    event: I32

    def __len__(self) -> int:
        return len(self.service)
