"""Spans: the columns that a request of OTLP traces decodes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import F64, I32, I64, Bool

U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]

SPAN_BYTES = 200  # of a decoded span; what a queue of them may weigh


class SpanKind(IntEnum):
    """OTLP Span.SpanKind."""

    UNSPECIFIED = 0
    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


class PeerKind(IntEnum):
    """What a span talks to that sends no spans of its own, as far as its attributes tell."""

    NONE = 0
    SERVICE = 1
    DATABASE = 2
    MESSAGING = 3


@dataclass(frozen=True, slots=True)
class Spans:
    """N spans of one request, in the order of the request.

    Shape: all (N,) unless said. `words` are distinct texts; `name`, `peer` and `exception` index them, -1 for none.
    Unit:  times in ns since the epoch.

    `resources` are raw Resource messages, `resource` says which one a span has. `trace_high` and `trace_low` are the
    two halves of the trace id, big-endian; `parent` is 0 where a span has none. `error` is the status of the span, or
    where that is unset what the semantic conventions say of its HTTP or RPC code. `exception` is error.type, or the
    exception.type of its last exception event. `weight` is how many spans this one stands for by what is known of
    sampling, 1 where nothing is. Events of spans are flat, (E,): `event_span` says whose each is, `event_name` indexes
    `words`.
    """

    words: tuple[str, ...]
    resources: tuple[bytes, ...]
    resource: I32
    trace_high: U64
    trace_low: U64
    span: U64
    parent: U64
    name: I32
    kind: U8
    start_ns: I64
    end_ns: I64
    error: Bool
    exception: I32
    peer: I32
    peer_kind: U8
    weight: F64
    event_span: I64
    event_ns: I64
    event_name: I32

    def __len__(self) -> int:
        return len(self.span)


@dataclass(frozen=True, slots=True)
class DecodedSpans:
    """What a body of traces held: the spans, and how many were refused, and how many mended, for which reason."""

    spans: Spans
    rejected: Mapping[str, int] = field(default_factory=dict)  # reason in plain words → spans
    mended: Mapping[str, int] = field(default_factory=dict)  # what was cut, replaced or ours → how often
