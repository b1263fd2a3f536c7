"""Traces: spans wait until the trace they belong to is complete, and are then put together, all at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.otlp.points import F64, I32, I64, Bool
from otel_aiops.otlp.spans import PeerKind, SpanKind, Spans
from otel_aiops.series.columns import Arrays, checked
from otel_aiops.signals.events import LogEvents
from otel_aiops.signals.names import LONGEST, OTHER, Names
from otel_aiops.signals.trees import CHILD, EVENT, LOG, NO_SPAN, Trees, event_code

U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]

LONGEST_NS = 1 << 41  # of a child that counts for what its parent did, about 37 minutes
MOST_GROUPS = 1 << 21
NO_LATER = np.int64(2**62)
PATIENCE_STEP_S = 0.5
PATIENCE_TRACES, PATIENCE_MEMORY = 300, 20_000  # traces until a shorter wait is believed, and that are remembered
PATIENCE_SHARE, MOST_ROOTLESS = 0.999, 0.01

DUPLICATE = "the span has come before"
DROPPED = "too many spans wait for their traces"
ORPHAN = "the parent of the span did not come"
OWN_PARENT = "the span is its own parent"
CIRCLE = "the parents of the span go round in a circle"
SKEWED = "the span began before its parent: the clocks of their hosts differ"
UNMATCHED = "log record of a span that did not come in time"

LEAST_SKEW_NS = 1_000_000  # less is how exactly clocks are read: some SDKs round to ms


@dataclass(frozen=True, slots=True)
class TracesConfig:
    """How long and how many spans wait for the rest of their trace."""

    wait: float = 8.0  # s of event time after the last span of a trace that has its root, at most: less is learned
    wait_for_root: float = 15.0  # s of event time after the last span of a trace whose root has not come
    longest: float = 120.0  # s of event time after the first span of a trace; then it is taken as it is
    max_spans: int = 500_000  # that wait; over it the traces that wait longest are taken as they are
    max_operations: int = 10_000  # distinct span names; over it they share one name
    max_operations_per_service: int = 1_000  # of them; over it those of a service share one name

    def __post_init__(self) -> None:
        for name in ("wait", "wait_for_root", "longest"):
            if not 0 < getattr(self, name) <= 3600:
                raise ConfigError(name, f"must be in (0, 3600] s, got {getattr(self, name)}")
        for name in ("max_spans", "max_operations", "max_operations_per_service"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Spans that wait, all (N,); `seen_ns` is the event time at which a span came. Events are apart: they are few."""

    trace_high: U64
    trace_low: U64
    span: U64
    parent: U64
    service: I32
    resource: I32
    operation: I32
    peer: I32
    peer_kind: U8
    kind: U8
    exception: I32
    error: Bool
    weight: F64
    start_ns: I64
    end_ns: I64
    seen_ns: I64

    def __len__(self) -> int:
        return len(self.span)

    def at(self, k: NDArray[Any]) -> _Waiting:
        return _Waiting(*(getattr(self, field.name)[k] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class _Happened:
    """Log records and span events that wait for their spans, all (E,)."""

    trace_high: U64
    trace_low: U64
    span: U64
    time_ns: I64
    code: I64
    seen_ns: I64

    def __len__(self) -> int:
        return len(self.span)

    def at(self, k: NDArray[Any]) -> _Happened:
        return _Happened(*(getattr(self, field.name)[k] for field in fields(self)))


class _Patience:
    """How long to wait for the rest of a trace after its root: as late as the rest has come of late.

    `lags` counts by half seconds how long after the root the last span of a trace came; `rootless` counts traces
    without a root, which are what comes of waiting too short. More than a few of these, and the wait is the longest.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest = max(1, int(np.ceil(longest_s / PATIENCE_STEP_S)))
        self.lags = np.zeros(self._longest + 1)
        self.rootless = 0.0

    @property
    def wait_ns(self) -> int:
        """What to wait now."""
        total = self.lags.sum()
        steps = self._longest
        if total >= PATIENCE_TRACES and self.rootless <= MOST_ROOTLESS * total:
            steps = min(steps, int(np.searchsorted(np.cumsum(self.lags), PATIENCE_SHARE * total)))
        return int(steps * PATIENCE_STEP_S * 1e9)

    def learn(self, lag_ns: I64, rootless: int) -> None:
        """Take in the lags of traces that were closed, (T,), and how many had no root."""
        steps = np.clip(np.ceil(lag_ns / (PATIENCE_STEP_S * 1e9)), 0, self._longest).astype(np.int64)
        self.lags += np.bincount(steps, minlength=self._longest + 1)
        self.rootless += rootless
        if self.lags.sum() > PATIENCE_MEMORY:
            self.lags /= 2
            self.rootless /= 2


_SPAN_TYPES: Mapping[str, Any] = {
    "trace_high": np.uint64,
    "trace_low": np.uint64,
    "span": np.uint64,
    "parent": np.uint64,
    "service": np.int32,
    "resource": np.int32,
    "operation": np.int32,
    "peer": np.int32,
    "peer_kind": np.uint8,
    "kind": np.uint8,
    "exception": np.int32,
    "error": np.bool_,
    "weight": np.float64,
    "start_ns": np.int64,
    "end_ns": np.int64,
    "seen_ns": np.int64,
}
_EVENT_TYPES: Mapping[str, Any] = {
    "trace_high": np.uint64,
    "trace_low": np.uint64,
    "span": np.uint64,
    "time_ns": np.int64,
    "code": np.int64,
    "seen_ns": np.int64,
}
_LEARNED_TYPES: Mapping[str, Any] = {"patience": (np.float64, ("P",)), "pairs": (np.int32, ("K", 2))}


class Traces:
    """Owner of the spans that wait. `operations` and `words` (peers, exceptions, event names) have their numbers here.

    `services` are the names of services, to which peers that send nothing themselves are added.
    """

    def __init__(self, config: TracesConfig, services: Names) -> None:
        self.config = config
        self.services = services
        self.operations = Names(config.max_operations)
        self.words = Names(config.max_operations)
        self.counts: Counter[str] = Counter()
        self._patience = _Patience(config.wait)
        self._of_service: dict[tuple[int, str], int] = {}
        self._number_of: Counter[int] = Counter()  # operations of a service
        self._spans: list[_Waiting] = []
        self._events: list[_Happened] = []

    def __len__(self) -> int:
        return sum(map(len, self._spans))

    # -- what comes -------------------------------------------------------------------------------------------------

    def add(self, spans: Spans, services: I32, resources: I32, event_ns: int) -> None:
        """Take N spans; `services` and `resources` (N,) are the numbers of who sent them."""
        if not len(spans):
            return
        seen = np.full(len(spans), event_ns, np.int64)
        used = np.unique(spans.peer[spans.peer >= 0])
        peers = np.zeros(len(spans.words) + 1, np.int32)
        peers[used] = self.services.numbers(spans.words[k] for k in used.tolist())
        own_parent = (spans.parent == spans.span) & (spans.parent != 0)
        self._count(OWN_PARENT, int(own_parent.sum()))
        waiting = _Waiting(
            trace_high=spans.trace_high,
            trace_low=spans.trace_low,
            span=spans.span,
            parent=np.where(own_parent, np.uint64(0), spans.parent),
            service=services,
            resource=resources,
            operation=self._operations(spans, services),
            peer=peers[spans.peer],
            peer_kind=spans.peer_kind,
            kind=spans.kind,
            exception=self._words(spans, spans.exception),
            error=spans.error,
            weight=spans.weight,
            start_ns=spans.start_ns,
            end_ns=spans.end_ns,
            seen_ns=seen,
        )
        self._spans.append(waiting)
        if len(spans.event_span):
            of = spans.event_span
            names = self._words(spans, spans.event_name)
            self._events.append(
                _Happened(
                    spans.trace_high[of],
                    spans.trace_low[of],
                    spans.span[of],
                    spans.event_ns,
                    event_code(EVENT, np.zeros(len(of), np.int64), names),
                    seen[of],
                )
            )

    def add_logs(self, events: LogEvents, event_ns: int) -> None:
        """Take log records; those with a span become events inside it."""
        k = np.flatnonzero(events.span != 0)
        if len(k):
            codes = event_code(LOG, np.zeros(len(k), np.int64), events.template[k])
            seen = np.full(len(k), event_ns, np.int64)
            ids = events.trace_high[k], events.trace_low[k], events.span[k]
            self._events.append(_Happened(*ids, events.time_ns[k], codes, seen))

    def _operations(self, spans: Spans, services: I32) -> I32:
        """Numbers of the names of spans; a service that makes ever new ones has one name for the rest."""
        pairs = services.astype(np.int64) << 32 | spans.name.astype(np.int64)
        distinct, which = np.unique(pairs, return_inverse=True)
        numbers = [self._operation(pair >> 32, spans.words[pair & 0xFFFFFFFF]) for pair in distinct.tolist()]
        return np.array(numbers, np.int32)[which]

    def _operation(self, service: int, name: str) -> int:
        name = name[:LONGEST]  # as it is known again from a state
        found = self._of_service.get((service, name))
        if found is not None:
            return found
        if self._number_of[service] >= self.config.max_operations_per_service:
            self.operations.refused += 1
            return OTHER
        number = self.operations.number(name)
        if number != OTHER:
            self._of_service[service, name] = number
            self._number_of[service] += 1
        return number

    def _words(self, spans: Spans, index: I32) -> I32:
        """Numbers of other words of spans, 0 for none."""
        used = np.unique(index[index >= 0])
        numbers = np.zeros(len(spans.words) + 1, np.int32)
        numbers[used] = self.words.numbers(spans.words[k] for k in used.tolist())
        return numbers[index]

    def _count(self, reason: str, number: int) -> None:
        if number:
            self.counts[reason] += number

    # -- what is complete -------------------------------------------------------------------------------------------

    def close(self, event_ns: int) -> Trees | None:
        """The traces that are complete at an event time, put together; None when there are none."""
        trees = self._complete(event_ns) if self._spans else None
        self._forget_events(event_ns)
        return trees

    def _complete(self, event_ns: int) -> Trees | None:
        spans = _joined(_Waiting, self._spans)
        trace, number = _numbered(spans.trace_high, spans.trace_low)
        done = self._done(spans, trace, number, event_ns)[trace]
        if not done.any():
            self._spans = [spans]
            return None
        self._spans = [spans.at(np.flatnonzero(~done))] if not done.all() else []
        return self._assembled(spans.at(np.flatnonzero(done)))

    def _done(self, spans: _Waiting, trace: I32, number: int, event_ns: int) -> Bool:
        """Which of the traces wait no more, (traces,)."""
        config = self.config
        first, last = np.full(number, NO_LATER), np.zeros(number, np.int64)
        np.minimum.at(first, trace, spans.seen_ns)
        np.maximum.at(last, trace, spans.seen_ns)
        root_ns = np.full(number, NO_LATER)
        root = np.flatnonzero(spans.parent == 0)
        np.minimum.at(root_ns, trace[root], spans.seen_ns[root])
        rooted = root_ns < NO_LATER
        wait_ns = np.where(rooted, self._patience.wait_ns, int(config.wait_for_root * 1e9))
        done: Bool = (last + wait_ns <= event_ns) | (first + int(config.longest * 1e9) <= event_ns)
        self._patience.learn((last - root_ns)[done & rooted], int((done & ~rooted).sum()))
        over = len(spans) - config.max_spans
        if over > 0:
            size = np.bincount(trace, minlength=number)
            oldest = np.argsort(first, kind="stable")
            taken = np.cumsum(size[oldest]) - size[oldest] < over
            self._count(DROPPED, int(size[oldest[taken]][~done[oldest[taken]]].sum()))
            done[oldest[taken]] = True
        return done

    def _assembled(self, spans: _Waiting) -> Trees:
        """Spans of complete traces as trees."""
        trace, _ = _numbered(spans.trace_high, spans.trace_low)
        order = np.lexsort((spans.start_ns, spans.span, trace))
        spans, trace = spans.at(order), trace[order]
        again = np.zeros(len(spans), bool)
        again[1:] = (trace[1:] == trace[:-1]) & (spans.span[1:] == spans.span[:-1])
        if again.any():
            self._count(DUPLICATE, int(again.sum()))
            spans, trace = spans.at(~again), trace[~again]
        # Side by side by trace, in the order in which they began.
        order = np.lexsort((spans.start_ns, trace))
        spans, trace = spans.at(order), trace[order]
        parent = _parents(spans, trace)
        has = parent >= 0
        orphan = ~has & (spans.parent != 0)
        self._count(ORPHAN, int(orphan.sum()))
        self._count(CIRCLE, _circling(parent))
        self._count(SKEWED, int((has & (spans.start_ns[parent] - spans.start_ns >= LEAST_SKEW_NS)).sum()))
        entered = has & (spans.service != spans.service[parent])
        serves = (spans.kind == SpanKind.SERVER) | (spans.kind == SpanKind.CONSUMER)
        entry = entered | serves | (~has & ~orphan)
        covered, lap = _covered(spans, parent)
        length = (spans.end_ns - spans.start_ns).astype(np.float64)
        callee, callee_kind, gap = _callees(spans, parent, entered, length)
        owner, codes = self._events_of(spans, trace, parent)
        return Trees(
            trace=trace.astype(np.int32),
            trace_high=spans.trace_high,
            trace_low=spans.trace_low,
            parent=parent,
            orphan=orphan,
            service=spans.service,
            operation=spans.operation,
            callee=callee,
            callee_kind=callee_kind,
            resource=spans.resource,
            entry=entry,
            user=entry & ~has & ~orphan,
            start_ns=spans.start_ns,
            end_ns=spans.end_ns,
            exclusive_ns=np.maximum(length - covered - lap, 0.0),
            gap_ns=gap,
            error=spans.error,
            exception=spans.exception,
            weight=spans.weight,
            event_span=owner,
            event=codes,
        )

    def _events_of(self, spans: _Waiting, trace: I32, parent: I64) -> tuple[I64, I64]:
        """(whose, codes) of all events inside these spans, in order.

        Who works off a message does so after it was sent, maybe in another trace by then: it is no step of the sender.
        """
        child = np.flatnonzero((parent >= 0) & (spans.kind != SpanKind.CONSUMER))
        owner, time_ns = parent[child], spans.start_ns[child]
        codes = event_code(CHILD, spans.service[child], spans.operation[child])
        if self._events:
            happened = _joined(_Happened, self._events)
            at = _find(spans, happened)
            found = at >= 0
            self._events = [happened.at(np.flatnonzero(~found))]
            owner = np.concatenate([owner, at[found]])
            time_ns = np.concatenate([time_ns, happened.time_ns[found]])
            codes = np.concatenate([codes, happened.code[found]])
        order = np.lexsort((codes, time_ns, owner))
        return owner[order], codes[order]

    def _forget_events(self, event_ns: int) -> None:
        """Events whose span did not come in the time that a trace may take."""
        if not self._events:
            return
        happened = _joined(_Happened, self._events)
        late = happened.seen_ns + int(self.config.longest * 1e9) <= event_ns
        late[: max(0, len(happened) - self.config.max_spans)] = True
        self._count(UNMATCHED, int(late.sum()))
        self._events = [happened.at(np.flatnonzero(~late))] if not late.all() else []

    # -- state --------------------------------------------------------------------------------------------------------

    def state(self) -> Arrays:
        """The spans and events that wait, and the names, as arrays."""
        arrays: Arrays = {}
        for part, names in (("operations", self.operations), ("words", self.words)):
            arrays |= {f"{part}/{key}": array for key, array in names.state().items()}
        spans, events = _joined(_Waiting, self._spans), _joined(_Happened, self._events)
        arrays |= {f"spans/{name}": getattr(spans, name).copy() for name in _SPAN_TYPES}
        arrays |= {f"events/{name}": getattr(events, name).copy() for name in _EVENT_TYPES}
        pairs = [(service, number) for (service, _), number in self._of_service.items()]
        arrays["patience"] = np.append(self._patience.lags, self._patience.rootless)
        arrays["pairs"] = np.array(pairs, np.int32).reshape(-1, 2)
        return arrays

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""

        def part(name: str) -> Arrays:
            return {key.removeprefix(name): array for key, array in arrays.items() if key.startswith(name)}

        self.operations.restore(part("operations/"))
        self.words.restore(part("words/"))
        spans, events = part("spans/"), part("events/")
        checked(spans, {name: (dtype, ("N",)) for name, dtype in _SPAN_TYPES.items()})
        checked(events, {name: (dtype, ("N",)) for name, dtype in _EVENT_TYPES.items()})
        learned = {name: arrays[name] for name in _LEARNED_TYPES if name in arrays}
        checked(learned, _LEARNED_TYPES)
        patience, pairs = learned["patience"], learned["pairs"]
        if len(patience) == len(self._patience.lags) + 1:  # else the configuration has another wait now
            self._patience.lags, self._patience.rootless = patience[:-1].copy(), float(patience[-1])
        if len(pairs) and not 0 <= int(pairs[:, 1].min()) <= int(pairs[:, 1].max()) < len(self.operations):
            raise StateError(f"pairs: expected operations below {len(self.operations)}, got {int(pairs[:, 1].max())}")
        pairs = pairs.tolist()
        self._of_service = {(service, self.operations[number]): number for service, number in pairs}
        self._number_of = Counter(service for service, _ in pairs)
        self._spans = [_Waiting(**spans)] if len(spans["span"]) else []
        self._events = [_Happened(**events)] if len(events["span"]) else []


def _joined(kind: Callable[..., Any], parts: list[Any]) -> Any:
    types = _SPAN_TYPES if kind is _Waiting else _EVENT_TYPES
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return kind(**{name: np.empty(0, dtype) for name, dtype in types.items()})
    return kind(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in types})


def _numbered(high: U64, low: U64) -> tuple[I32, int]:
    """(number of each span's trace, how many traces); two traces in 10^13 may share one, which does no harm."""
    distinct, which = np.unique(_mixed(high, low), return_inverse=True)
    return which.astype(np.int32), len(distinct)


def _mixed(high: U64, low: U64) -> U64:
    """One 64-bit key of two numbers. Source: the finalizer of MurmurHash3."""
    key = low ^ (high * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x7F4A7C15))
    key = (key ^ (key >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    mixed: U64 = key ^ (key >> np.uint64(33))
    return mixed


def _parents(spans: _Waiting, trace: I32) -> I64:
    """Index of each span's parent, -1 where it has none or it did not come."""
    keys = _mixed(trace.astype(np.uint64), spans.span)
    order = np.argsort(keys, kind="stable")
    wanted = _mixed(trace.astype(np.uint64), spans.parent)
    at = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    index = order[at]
    right = (keys[index] == wanted) & (spans.parent != 0)
    return np.where(right, index, NO_SPAN).astype(np.int64)


def _circling(parent: I64) -> int:
    """How many spans have no root above them: they, or who is above them, are in a circle of parents.

    Each round doubles the distance that is gone up at once, so that it ends after log2 of the deepest trace.
    """
    up, on = parent.copy(), np.flatnonzero(parent >= 0)
    for _ in range(len(parent).bit_length()):
        up[on] = up[up[on]]
        on = on[up[on] >= 0]
        if not len(on):
            break
    return len(on)


def _find(spans: _Waiting, happened: _Happened) -> I64:
    """Index of the span of each event, -1 where it is not among these."""
    keys = _mixed(_mixed(spans.trace_high, spans.trace_low), spans.span)
    order = np.argsort(keys, kind="stable")
    wanted = _mixed(_mixed(happened.trace_high, happened.trace_low), happened.span)
    at = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    index = order[at]
    return np.where(keys[index] == wanted, index, NO_SPAN).astype(np.int64)


def _covered(spans: _Waiting, parent: I64) -> tuple[F64, F64]:
    """(ns of each span that its children cover, ns that it shares with the sibling that began next), (N,) each.

    Children that run side by side count once. A sibling that began later inside a span that is not its parent did part
    of the work of that span without being its child.
    """
    n = len(spans)
    child = np.flatnonzero(parent >= 0)
    if not len(child):
        return np.zeros(n), np.zeros(n)
    child = child[np.lexsort((spans.start_ns[child], parent[child]))]
    of = parent[child]
    begin = np.clip(spans.start_ns[child] - spans.start_ns[of], 0, LONGEST_NS)
    end = np.clip(np.minimum(spans.end_ns[child], spans.end_ns[of]) - spans.start_ns[of], begin, LONGEST_NS)
    first = np.ones(len(child), bool)
    first[1:] = of[1:] != of[:-1]
    group = np.minimum(np.cumsum(first) - 1, MOST_GROUPS - 1)
    reached = np.maximum.accumulate(end + group * np.int64(LONGEST_NS)) - group * np.int64(LONGEST_NS)
    before = np.concatenate([[0], reached[:-1]])
    before[first] = 0
    covered: F64 = np.bincount(of, np.maximum(end - np.maximum(begin, before), 0), n).astype(np.float64)
    lap = np.zeros(n)
    a, b = child[:-1][~first[1:]], child[1:][~first[1:]]
    shared = np.minimum(spans.end_ns[a], spans.end_ns[b]) - np.maximum(spans.start_ns[a], spans.start_ns[b])
    lap[a] = np.maximum(shared, 0)
    return covered, lap


def _callees(spans: _Waiting, parent: I64, entered: Bool, length: F64) -> tuple[I32, U8, F64]:
    """(callee, its kind, time of the call that the callee's span does not explain) of each span, (N,)."""
    callee, kind = spans.peer.copy(), spans.peer_kind.copy()
    gap = np.full(len(spans), np.nan)
    into = np.flatnonzero(entered)
    callee[parent[into]], kind[parent[into]] = spans.service[into], PeerKind.SERVICE
    gap[parent[into]] = np.maximum(length[parent[into]] - length[into], 0.0)
    itself = callee == spans.service
    callee[itself], kind[itself] = 0, PeerKind.NONE
    return callee, kind, gap
