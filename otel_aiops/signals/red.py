"""Red: rates, errors and durations of operations and calls, by windows of event time, as points like any other."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.otlp.points import F64, I64, Bool, Points
from otel_aiops.otlp.spans import PeerKind
from otel_aiops.series.columns import Arrays, checked
from otel_aiops.signals.busiest import Folded
from otel_aiops.signals.calls import Calls, exact
from otel_aiops.signals.cells import BUCKETS, Cells, bucket_of, quantiles
from otel_aiops.signals.names import OTHER, Names
from otel_aiops.signals.red_points import (
    CALLS,
    CLIENT,
    CONSUMER,
    ERRORS,
    INSIDE,
    INTERNAL,
    MEDIAN,
    METRICS,
    NODE_BITS,
    NODE_MASK,
    PRODUCER,
    SERVER,
    TAIL,
    RedPoints,
    Values,
    edge_keys,
    operation_keys,
    other_edges,
    other_operations,
    senders,
)
from otel_aiops.signals.sampling import Sampling
from otel_aiops.signals.trees import Trees

# Cells of a slot: its spans, its calls (weighted), its errors (weighted), and from there on two distributions.
SPANS_AT, CALLS_AT, ERRORS_AT, TAKEN_AT, INSIDE_AT = 0, 1, 2, 16, 16 + BUCKETS
STRIDE = 1_024
LEAST_FOR_TAIL = 5  # spans in a window below which its 95th percentile is only its slowest one

LATE = "spans late for their window"
AHEAD = "spans ahead of the clock"
OVER = "spans of operations and calls over the limit"


@dataclass(frozen=True, slots=True)
class RedConfig:
    """Windows of rates, errors and durations, and of how many operations and calls there are some."""

    window: float = 10.0  # seconds
    lateness: float = 10.0  # a window is closed when spans that ended so long after it have come
    patience: float = 60.0  # or when no spans come, so long after its end
    max_operations: int = 2_000  # the busiest; the others of a service are one
    max_edges: int = 2_000  # calls between two services; the others are not measured
    remember: float = 600.0  # seconds in which an operation without calls has a rate of 0, and then none

    def __post_init__(self) -> None:
        for name in ("window", "patience", "remember"):
            if not getattr(self, name) > 0:
                raise ConfigError(name, f"must be > 0 s, got {getattr(self, name)}")
        if not 0 <= self.lateness <= self.patience:
            raise ConfigError("lateness", f"must be in 0 .. patience {self.patience} s, got {self.lateness}")
        least = self.patience + self.lateness + 5 * self.window
        if not self.remember >= least:
            raise ConfigError(
                "remember", f"must be >= patience, lateness and five windows, {least} s, got {self.remember}"
            )
        for name in ("max_operations", "max_edges"):
            if not 1 <= getattr(self, name) <= 1_000_000:
                raise ConfigError(name, f"must be in 1 .. 1000000, got {getattr(self, name)}")


class Red:
    """Sums of spans in open windows, by (service, operation, kind) and by (caller, callee).

    A window is closed by the watermark: the end of the newest span, which a sender's clock cannot push past the event
    clock, less the lateness; without spans, the event clock less the patience. A known operation without calls has a
    rate of 0 and no durations; their series end (a stale point) and begin again with the next call. Where telemetry
    itself is missing there are no points at all, so that silence is noticed as silence. See `Sampling` for the rates
    of sampled spans. `counts` says what was left out and why.
    """

    def __init__(self, config: RedConfig, services: Names, operations: Names) -> None:
        self._window_ns = int(config.window * 1e9)
        self._lateness_ns, self._patience_ns = int(config.lateness * 1e9), int(config.patience * 1e9)
        self._open = (self._patience_ns + self._lateness_ns) // self._window_ns + 3  # windows at most
        self._keep = int(config.remember / config.window)
        self._config = config
        self._services = services
        self._begin()
        self._sampling = Sampling()
        self._points = RedPoints(services, operations, self._operations.size)
        self._newest_ns = 0
        self.counts: Counter[str] = Counter()

    def _begin(self) -> None:
        """Know no operations."""
        self._operations, self._edges = (
            Folded(most, max(64, most // 4), keep=self._keep, rest=self._open)
            for most in (self._config.max_operations, self._config.max_edges)
        )
        self._size = self._operations.size + self._edges.size
        self._cells = Cells()
        self._told = np.zeros((self._size, METRICS), bool)  # what the last window had a point of
        self._next = -1  # the first window that is open

    def __len__(self) -> int:
        """Operations and calls that are told apart now."""
        return int((self._keys() >= 0).sum())

    def name_space(self, service: int, namespace: str) -> None:
        """Say which service.namespace a service has; cheap to say again, and of several the first counts."""
        self._points.name_space(service, namespace)

    # -- counting -----------------------------------------------------------------------------------------------------

    def add(self, trees: Trees, calls: Calls, event_ns: int) -> None:
        """Count N spans, and the calls that `calls_of` found in them."""
        if not len(trees):
            return
        self._newest_ns = max(self._newest_ns, min(int(trees.end_ns.max()), event_ns))
        if event_ns // self._window_ns - self._next >= self._keep and self._next >= 0:
            self._points.forget(np.arange(self._size))
            self._begin()  # nothing came for longer than operations are remembered
        if self._next < 0:
            earliest_ns = min(int(trees.end_ns.min()), event_ns)
            self._next = max(earliest_ns, event_ns - self._patience_ns) // self._window_ns
        in_time = self._in_time(trees.end_ns, event_ns)
        parts = [self._of_operations(trees, in_time), self._of_edges(calls, event_ns)]
        columns = zip(*[column for part in parts for column in part], strict=True)
        window, cell, amount = (np.concatenate(column) for column in columns)
        self._cells.add(window, cell, amount)

    def _in_time(self, end_ns: I64, event_ns: int) -> NDArray[np.intp]:
        """Spans whose window is open."""
        late = end_ns < self._next * self._window_ns
        ahead = end_ns > event_ns + self._window_ns
        self._left_out(LATE, int(late.sum()))
        self._left_out(AHEAD, int(ahead.sum()))
        return np.flatnonzero(~(late | ahead))

    def _left_out(self, reason: str, number: int) -> None:
        if number:
            self.counts[reason] += number

    def _of_operations(self, trees: Trees, some: NDArray[np.intp]) -> list[tuple[Any, Any, Any]]:
        messages = trees.callee_kind == PeerKind.MESSAGING
        out = np.where(trees.callee > 0, np.where(messages, PRODUCER, CLIENT), INTERNAL)
        kind = np.where(trees.entry, np.where(messages, CONSUMER, SERVER), out)
        keys = operation_keys(trees.service.astype(np.int64), trees.operation.astype(np.int64), kind)[some]
        weight = exact(trees.weight[some])
        slot = self._slots(self._operations, keys, other_operations, weight)
        taken = (trees.end_ns[some] - trees.start_ns[some]).astype(np.float64)
        window = trees.end_ns[some] // self._window_ns
        return _amounts(slot, window, weight, trees.error[some], taken, trees.exclusive_ns[some])

    def _of_edges(self, calls: Calls, event_ns: int) -> list[tuple[Any, Any, Any]]:
        window = calls.time_ns // self._window_ns
        in_time = (window >= self._next) & (calls.time_ns <= event_ns + self._window_ns)
        some = np.flatnonzero(in_time & (calls.caller > 0) & (calls.callee > 0))
        ends = (calls.caller, calls.caller_kind, calls.callee, calls.callee_kind)
        keys = edge_keys(*(column[some].astype(np.int64) for column in ends))
        weight = calls.weight[some]
        slot = self._slots(self._edges, keys, other_edges, weight)
        slot = np.where(slot >= 0, slot + self._operations.size, slot)
        taken = np.where(np.isnan(calls.client_ns[some]), calls.server_ns[some], calls.client_ns[some])
        return _amounts(slot, window[some], weight, calls.error[some], taken, calls.server_ns[some])

    def _slots(self, folded: Folded, keys: I64, owner: Any, weight: F64) -> I64:
        distinct, which = np.unique(keys, return_inverse=True)
        traffic = np.bincount(which, weight, len(distinct)).astype(np.float64)
        slot = folded.find(distinct, owner(distinct), traffic)[which]
        self._left_out(OVER, int((slot < 0).sum()))
        return slot

    # -- closing ------------------------------------------------------------------------------------------------------

    def close(self, event_ns: int) -> Points | None:
        """The points of the windows that are over at an event time, in order; None when there are none."""
        watermark_ns = max(min(self._newest_ns, event_ns) - self._lateness_ns, event_ns - self._patience_ns)
        until = watermark_ns // self._window_ns  # the first window that is not over
        found: list[Values] = []
        attributes: list[bytes] = []
        while 0 <= self._next < until:
            held = self._cells.windows()
            if not held and not len(self):
                self._next = until  # nothing is known: after a long pause there is nothing to tell of each window
                break
            for values in self._window(self._next):
                found.append(values)
                attributes += self._points.attributes_of(values, self._keys())
            self._end_window(found, attributes, settled=event_ns // self._window_ns - self._next <= self._open - 2)
            self._next += 1
        return self._points.points(found, attributes) if attributes else None

    def _window(self, number: int) -> list[Values]:
        """The values of a window."""
        cell, amount = self._cells.take(number)
        values, spans = self._summary(cell, amount)
        owner = senders(self._keys(), self._operations.size)
        level, steady, missing = self._sampled(values, spans, owner)
        values[:, : ERRORS + 1][~steady[owner]] = np.nan
        ends = self._told & np.isnan(values)
        told = (np.isfinite(values) | ends) & ~missing[owner][:, None]
        self._told = np.where(missing[owner][:, None], self._told, np.isfinite(values))
        slot, metric = np.nonzero(told)
        time_ns = (number + 1) * self._window_ns
        of = owner[slot]
        return [Values(slot, metric, values[slot, metric], of, level[of], time_ns)] if len(slot) else []

    def _summary(self, cell: I64, amount: F64) -> tuple[F64, F64]:
        """(values (slots, metrics), spans (slots,)) of a window; NaN where there is no value."""
        slot, local = cell // STRIDE, cell % STRIDE
        spans, calls, errors = (
            np.bincount(slot[local == at], amount[local == at], self._size) for at in (SPANS_AT, CALLS_AT, ERRORS_AT)
        )
        values = np.full((self._size, METRICS), np.nan)
        known = self._keys() >= 0
        values[known, CALLS] = calls[known] / (self._window_ns / 1e9)
        values[known, ERRORS] = errors[known] / (self._window_ns / 1e9)
        taken, inside = (local >= TAKEN_AT) & (local < INSIDE_AT), local >= INSIDE_AT
        at = quantiles(slot[taken], local[taken] - TAKEN_AT, amount[taken], self._size, (0.5, 0.95))
        values[:, MEDIAN] = at[:, 0]
        values[:, TAIL] = np.where(spans >= LEAST_FOR_TAIL, at[:, 1], np.nan)
        values[:, INSIDE] = quantiles(slot[inside], local[inside] - INSIDE_AT, amount[inside], self._size, (0.5,))[:, 0]
        return values, spans.astype(np.float64)

    def _sampled(self, values: F64, spans: F64, owner: I64) -> tuple[I64, Bool, Bool]:
        """(level of sampling, whether it is steady, whether telemetry is missing) by service."""
        services, first = len(self._services), self._operations.size
        sent = _sums(owner[:first], spans[:first], services)
        calls = np.nan_to_num(values[:, CALLS]) * (self._window_ns / 1e9)
        weight = _sums(owner[:first], calls[:first], services)
        edges = np.maximum(self._keys()[first:], 0)
        callee, kind = (edges & NODE_MASK) >> 3, edges & 7
        plain = (kind == PeerKind.SERVICE) & (edges >> NODE_BITS & 7 == PeerKind.SERVICE)
        called = _sums(callee[plain], calls[first:][plain], services)
        called[OTHER] = 0.0  # of many services that share a number nobody knows which one was called
        missing = self._sampling.missing(sent, called)
        return *self._sampling.step(sent, weight), missing

    def _end_window(self, found: list[Values], attributes: list[bytes], *, settled: bool) -> None:
        """Let operations go that had no calls for long: their series end. Others move up where time is `settled`."""
        keys = self._keys()
        owner = senders(keys, self._operations.size)
        operations, edges = (slots.roll(promote=settled) for slots in (self._operations, self._edges))
        freed = np.concatenate([operations, edges + self._operations.size])
        if not len(freed):
            return
        place, metric = np.nonzero(self._told[freed])
        slot = freed[place]
        if len(slot):
            time_ns = (self._next + 1) * self._window_ns + 1  # right after the last value
            of = owner[slot]
            level = self._sampling.levels(of)
            ended = Values(slot, metric, np.full(len(slot), np.nan), of, level, time_ns)
            found.append(ended)
            attributes += self._points.attributes_of(ended, keys)
        self._told[freed] = False
        self._points.forget(freed)

    def _keys(self) -> I64:
        return np.concatenate([self._operations.key, self._edges.key])

    # -- state --------------------------------------------------------------------------------------------------------

    def state(self) -> Arrays:
        """Open windows and what is known of operations; the names belong to who gave them."""
        owners: dict[str, Arrays] = {
            "operations": self._operations.state(),
            "edges": self._edges.state(),
            "cells": self._cells.state(),
            "sampling": self._sampling.state(len(self._services)),
        }
        spaces = json.dumps(sorted(self._points.namespaces.items())).encode()
        return {
            **{f"{owner}/{name}": array for owner, arrays in owners.items() for name, array in arrays.items()},
            "told": self._told.copy(),
            "clock": np.array([self._next, self._newest_ns], np.int64),
            "namespaces": np.frombuffer(spaces, np.uint8).copy(),
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over a state of as many slots, after the names. Raises: StateError, and then this must not be used."""
        own = {name: array for name, array in arrays.items() if "/" not in name}
        expected: dict[str, tuple[Any, tuple[int | str, ...]]] = {
            "told": (np.bool_, (self._size, METRICS)),
            "clock": (np.int64, (2,)),
            "namespaces": (np.uint8, ("B",)),
        }
        checked(own, expected)
        for owner, part in (
            ("operations/", self._operations),
            ("edges/", self._edges),
            ("cells/", self._cells),
            ("sampling/", self._sampling),
        ):
            part.restore({name.removeprefix(owner): one for name, one in arrays.items() if name.startswith(owner)})
        self._told = own["told"].copy()
        self._next, self._newest_ns = own["clock"].tolist()
        try:
            self._points.namespaces = {int(k): str(v) for k, v in json.loads(own["namespaces"].tobytes())}
        except (ValueError, TypeError) as error:
            raise StateError(f"expected namespaces of services as JSON, got {own['namespaces'].size} bytes") from error


def _sums(index: I64, amount: F64, length: int) -> F64:
    return np.bincount(index, amount, length).astype(np.float64)


def _amounts(slot: I64, window: I64, weight: F64, error: Bool, taken: F64, inside: F64) -> list[tuple[Any, Any, Any]]:
    """(window, cell, amount) of all that is counted of N spans, by part."""
    if len(slot) and int(slot.min()) < 0:
        some = slot >= 0
        slot, window, weight, error = slot[some], window[some], weight[some], error[some]
        taken, inside = taken[some], inside[some]
    at = slot * STRIDE
    known, has = ~np.isnan(inside), ~np.isnan(taken)
    return [
        (window, at + SPANS_AT, np.ones(len(at))),
        (window, at + CALLS_AT, weight),
        (window[error], at[error] + ERRORS_AT, weight[error]),
        (window[has], at[has] + TAKEN_AT + bucket_of(taken[has]), weight[has]),
        (window[known], at[known] + INSIDE_AT + bucket_of(inside[known]), weight[known]),
    ]
