"""Calls: who called whom, how long it took and how it ended, read from trees of spans; each call once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import F64, I32, I64, Bool
from otel_aiops.otlp.spans import PeerKind
from otel_aiops.signals.trees import Trees

U8 = NDArray[np.uint8]

TRACES_SCOPE = "otel_aiops.traces"  # of the metrics that are made of spans here
WEIGHT_PARTS = 1_024  # weights are rounded to so many parts of one call: their sums are exact, in whatever order
MOST_WEIGHT = 2.0**20


@dataclass(frozen=True, slots=True)
class Calls:
    """N calls, all (N,) but `services`, the distinct numbers of the services that sent spans, ascending.

    `caller` and `callee` are numbers of `Names`, their kinds are of PeerKind and never NONE. A message makes two calls:
    of the producer to its destination, of the destination to the consumer. `client_ns` is how long the caller waited,
    `server_ns` how long the callee took; NaN where no span says it. `time_ns` is when the call ended.
    """

    caller: I32
    caller_kind: U8
    callee: I32
    callee_kind: U8
    time_ns: I64
    client_ns: F64
    server_ns: F64
    error: Bool
    weight: F64
    services: I32

    def __len__(self) -> int:
        return len(self.caller)


def calls_of(trees: Trees) -> Calls:
    """The calls in N spans.

    A span that calls what its parent already calls from the same service is a layer of the same call and not counted.
    An entry whose parent is of another service that names no such callee is a call as well. An entry that names a
    destination has received from it.
    """
    service, callee, parent = trees.service, trees.callee, trees.parent
    has = parent >= 0
    up = np.where(has, parent, 0)
    received = trees.entry & (callee > 0) & (trees.callee_kind == PeerKind.MESSAGING)
    calling = (callee > 0) & ~received
    same = has & (service == service[up])
    layer = same & calling & calling[up] & (callee == callee[up])
    entered = has & trees.entry & ~same
    sent = np.flatnonzero(calling & ~layer)
    got = np.flatnonzero(received)
    arrived = np.flatnonzero(entered & ~received & (callee[up] != service))
    to, to_kind = _destinations(trees, np.flatnonzero(entered & received))
    length = (trees.end_ns - trees.start_ns).astype(np.float64)
    index = np.concatenate([sent, got, arrived])
    absent = np.full(len(index) - len(sent), np.nan)
    return Calls(
        caller=np.concatenate([service[sent], callee[got], service[up[arrived]]]),
        caller_kind=_kinds(sent, got, arrived, PeerKind.MESSAGING),
        callee=np.concatenate([to[sent], service[got], service[arrived]]),
        callee_kind=np.concatenate([to_kind[sent], np.full(len(got) + len(arrived), PeerKind.SERVICE, np.uint8)]),
        time_ns=trees.end_ns[index],
        client_ns=np.concatenate([length[sent], absent]),
        server_ns=np.concatenate([length[sent] - trees.gap_ns[sent], length[got], length[arrived]]),
        error=trees.error[index],
        weight=exact(trees.weight[index]),
        services=np.unique(service),
    )


def exact(weight: F64) -> F64:
    """Weights whose sums do not depend on their order: rounded, within bounds, 1 where there is none."""
    known = np.where(np.isfinite(weight) & (weight > 0), weight, 1.0)
    rounded: F64 = np.rint(np.clip(known, 1 / WEIGHT_PARTS, MOST_WEIGHT) * WEIGHT_PARTS) / WEIGHT_PARTS
    return rounded


def _destinations(trees: Trees, consumers: NDArray[Any]) -> tuple[I32, U8]:
    """(callee, kind) of each span; of one whose message was received it is the destination, not the consumer."""
    kind = np.maximum(trees.callee_kind, PeerKind.SERVICE).astype(np.uint8)
    if not len(consumers):
        return trees.callee, kind
    callee = trees.callee.copy()
    parent = trees.parent[consumers]
    direct = callee[parent] == trees.service[consumers]
    callee[parent[direct]] = trees.callee[consumers[direct]]
    kind[parent[direct]] = PeerKind.MESSAGING
    return callee, kind


def _kinds(sent: NDArray[Any], got: NDArray[Any], arrived: NDArray[Any], kind: PeerKind) -> U8:
    kinds = np.full(len(sent) + len(got) + len(arrived), PeerKind.SERVICE, np.uint8)
    kinds[len(sent) : len(sent) + len(got)] = kind
    return kinds
