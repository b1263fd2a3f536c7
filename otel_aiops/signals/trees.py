"""Trees: the spans of traces that are complete, put together, as columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import F64, I32, I64, Bool

U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]

NO_SPAN = -1

START, END = 0, 1  # events that every span has
CHILD, LOG, EVENT = 1, 2, 3  # kinds of the others: a child by (service, operation), a template, a name


def event_code(kind: int, service: NDArray[Any], what: NDArray[Any]) -> I64:
    """Codes of events inside spans, (E,): the kind, the service (0 except of a child) and the number of what it is.

    >>> code = event_code(CHILD, np.array([3]), np.array([7]))
    >>> event_parts(int(code[0]))
    (1, 3, 7)
    """
    found: I64 = (kind << 56) | (service.astype(np.int64) << 28) | what.astype(np.int64)
    return found


def event_parts(code: int) -> tuple[int, int, int]:
    """(kind, service, what) of a code."""
    return code >> 56, code >> 28 & 0xFFFFFFF, code & 0xFFFFFFF


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
    Events inside spans are flat, (E,), in order of time in each span: children that began, log records, events of the
    span itself; `event_span` says whose each is, and `event` is a code of `event_code`.
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
    event: I64

    def __len__(self) -> int:
        return len(self.service)
