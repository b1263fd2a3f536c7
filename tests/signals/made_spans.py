"""Spans and log events for tests, one at a time, and the slow, obvious way to put traces together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from otel_aiops.otlp.spans import PeerKind, SpanKind, Spans
from otel_aiops.signals.events import LogEvents
from otel_aiops.signals.traces import Traces
from otel_aiops.signals.trees import CHILD, EVENT, LOG, Trees, event_parts

S = 1_000_000_000
HIGH = 0xABC


@dataclass(frozen=True)
class Sent:
    """One span; times in ns, ids are small numbers."""

    trace: int
    span: int
    parent: int = 0
    service: str = "a"
    name: str = "op"
    start_ns: int = 0
    end_ns: int = 10
    kind: SpanKind = SpanKind.INTERNAL
    peer: str = ""
    peer_kind: PeerKind = PeerKind.NONE
    error: bool = False
    exception: str = ""
    weight: float = 1.0
    events: tuple[tuple[int, str], ...] = field(default=())


def raw_resource(**attributes: str) -> bytes:
    """A raw Resource message; _ in names stands for the dot."""
    pairs = [KeyValue(key=k.replace("_", "."), value=AnyValue(string_value=v)) for k, v in attributes.items()]
    return Resource(attributes=pairs).SerializeToString()


def spans_of(sent: Sequence[Sent]) -> Spans:
    """As one request."""
    words: dict[str, int] = {}
    resources: dict[str, int] = {}

    def word(text: str) -> int:
        return words.setdefault(text, len(words)) if text else -1

    def column(name: str, dtype: Any) -> Any:
        return np.array([getattr(one, name) for one in sent], dtype)

    names = np.array([words.setdefault(one.name, len(words)) for one in sent], np.int32)
    peer = np.array([word(one.peer) for one in sent], np.int32)
    exception = np.array([word(one.exception) for one in sent], np.int32)
    events = [(k, ns, word(text)) for k, one in enumerate(sent) for ns, text in one.events]
    of = np.array([resources.setdefault(one.service, len(resources)) for one in sent], np.int32)
    return Spans(
        words=tuple(words),
        resources=tuple(raw_resource(service_name=service) for service in resources),
        resource=of,
        trace_high=np.full(len(sent), HIGH, np.uint64),
        trace_low=column("trace", np.uint64),
        span=column("span", np.uint64),
        parent=column("parent", np.uint64),
        name=names,
        kind=column("kind", np.uint8),
        start_ns=column("start_ns", np.int64),
        end_ns=column("end_ns", np.int64),
        error=column("error", bool),
        exception=exception,
        peer=peer,
        peer_kind=column("peer_kind", np.uint8),
        weight=column("weight", np.float64),
        event_span=np.array([k for k, _, _ in events], np.int64),
        event_ns=np.array([ns for _, ns, _ in events], np.int64),
        event_name=np.array([name for _, _, name in events], np.int32),
    )


def log_events(records: Sequence[tuple[int, int, int, int]], *, service: int = 1, severity: int = 9) -> LogEvents:
    """Log records of (trace, span, time in ns, template)."""
    columns = np.array(records, np.int64).reshape(-1, 4)
    n = len(columns)
    return LogEvents(
        service=np.full(n, service, np.int32),
        resource=np.zeros(n, np.int32),
        template=columns[:, 3].astype(np.int32),
        severity=np.full(n, severity, np.uint8),
        new=np.zeros(n, bool),
        time_ns=columns[:, 2],
        trace_high=np.full(n, HIGH, np.uint64),
        trace_low=columns[:, 0].astype(np.uint64),
        span=columns[:, 1].astype(np.uint64),
    )


def give(traces: Traces, sent: Sequence[Sent], event_ns: int) -> None:
    """Give spans to traces; resources have the numbers of services."""
    services = traces.services.numbers(one.service for one in sent)
    traces.add(spans_of(sent), services, services, event_ns)


Told = dict[str, Any]


def naive_trees(
    sent: Iterable[Sent], logs: Iterable[tuple[int, int, int, int]], traces: Traces
) -> dict[int, list[Told]]:
    """What is known of each span of complete traces, by trace, in order of start and id; by looking at every pair.

    Times must be small: it counts ticks. Of `traces` only the numbers of names are used, to order equal times.
    """
    events: dict[tuple[int, int], list[tuple[int, int, int, str]]] = {}
    by_trace: dict[int, dict[int, Sent]] = {}
    for one in sent:
        spans = by_trace.setdefault(one.trace, {})
        if one.span not in spans or one.start_ns < spans[one.span].start_ns:
            spans[one.span] = one
        happened = events.setdefault((one.trace, one.span), [])
        happened += [(ns, EVENT, traces.words.number(name), name) for ns, name in one.events]
    for trace, span, ns, template in logs:
        events.setdefault((trace, span), []).append((ns, LOG, template, str(template)))
    found: dict[int, list[Told]] = {}
    for trace, spans in by_trace.items():
        ordered = sorted(spans.values(), key=lambda one: (one.start_ns, one.span))
        found[trace] = [_told(one, ordered, events.get((trace, one.span), []), traces) for one in ordered]
    return found


def _children(span: int, ordered: list[Sent]) -> list[Sent]:
    return [other for other in ordered if other.parent == span != other.span]  # its own parent is none


def _told(one: Sent, ordered: list[Sent], happened: list[tuple[int, int, int, str]], traces: Traces) -> Told:
    wanted = 0 if one.parent == one.span else one.parent
    place = next((k for k, other in enumerate(ordered) if other.span == wanted), -1)
    children = _children(one.span, ordered)
    ticks = range(one.start_ns, one.end_ns)
    own = sum(not any(child.start_ns <= t < child.end_ns for child in children) for t in ticks)
    siblings = _children(wanted, ordered) if place >= 0 else [one]
    later = siblings[siblings.index(one) + 1 :][:1]
    shared = sum(sibling.start_ns <= t < sibling.end_ns for sibling in later for t in ticks)
    callee, kind, gap = one.peer, one.peer_kind, np.nan
    for child in children:
        if child.service != one.service:
            callee, kind = child.service, PeerKind.SERVICE
            gap = max(len(ticks) - (child.end_ns - child.start_ns), 0)
    if callee == one.service:
        callee, kind = "", PeerKind.NONE
    entered = place >= 0 and ordered[place].service != one.service
    entry = entered or one.kind in (SpanKind.SERVER, SpanKind.CONSUMER) or wanted == 0
    code = traces.services.number, traces.operations.number
    called = [
        (c.start_ns, CHILD, code[0](c.service) << 28 | code[1](c.name), f"{c.service}/{c.name}")
        for c in children
        if c.kind != SpanKind.CONSUMER  # it works off a message, which is no step of the sender
    ]
    return {
        "parent": place,
        "orphan": place < 0 and wanted != 0,
        "service": one.service,
        "operation": one.name,
        "callee": callee,
        "callee_kind": int(kind),
        "entry": entry,
        "user": entry and wanted == 0,
        "start_ns": one.start_ns,
        "end_ns": one.end_ns,
        "exclusive_ns": float(max(own - shared, 0)),
        "gap_ns": float(gap),
        "error": one.error,
        "exception": one.exception,
        "weight": one.weight,
        "events": [(kind, text) for _, kind, _, text in sorted([*happened, *called])],
    }


def read_trees(trees: Trees, traces: Traces) -> dict[int, list[Told]]:
    """The same of columns."""
    services, operations, words = traces.services.all(), traces.operations.all(), traces.words.all()
    events: list[list[tuple[int, str]]] = [[] for _ in range(len(trees))]
    for of, code in zip(trees.event_span.tolist(), trees.event.tolist(), strict=True):
        kind, service, what = event_parts(code)
        text = f"{services[service]}/{operations[what]}" if kind == CHILD else words[what] if kind == EVENT else what
        events[of].append((kind, str(text)))
    found: dict[int, list[Told]] = {}
    for k in range(len(trees)):
        callee, exception, parent = int(trees.callee[k]), int(trees.exception[k]), int(trees.parent[k])
        first = int(np.flatnonzero(trees.trace == trees.trace[k])[0])
        told = {
            "parent": parent - first if parent >= 0 else -1,
            "service": services[trees.service[k]],
            "operation": operations[trees.operation[k]],
            "callee": services[callee] if callee else "",
            "exception": words[exception] if exception else "",
            "events": events[k],
        }
        for name in ("orphan", "callee_kind", "entry", "user", "start_ns", "end_ns", "exclusive_ns", "gap_ns"):
            told[name] = getattr(trees, name)[k].item()
        for name in ("error", "weight"):
            told[name] = getattr(trees, name)[k].item()
        found.setdefault(int(trees.trace_low[k]), []).append(told)
    return found
