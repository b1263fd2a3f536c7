"""Points of operations and calls: values of windows under the names of the Collector's connectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otel_aiops.otlp.encode import encode_attributes, encode_resource, encode_scope
from otel_aiops.otlp.points import F64, I64, Bool, Kind, Points, Stream, Temporality
from otel_aiops.otlp.spans import PeerKind
from otel_aiops.signals.calls import TRACES_SCOPE
from otel_aiops.signals.names import Names

# Of operations and of edges the same five numbers: calls and failed calls a second, two quantiles of the time that
# they took, the median of the time of the operation itself or of the callee.
OPERATION_METRICS = (
    ("traces.span.metrics.calls", "{call}/s"),
    ("traces.span.metrics.errors", "{call}/s"),
    ("traces.span.metrics.duration.p50", "s"),
    ("traces.span.metrics.duration.p95", "s"),
    ("traces.span.metrics.exclusive.p50", "s"),
)
EDGE_METRICS = (
    ("traces_service_graph_request_total", "{call}/s"),
    ("traces_service_graph_request_failed_total", "{call}/s"),
    ("traces_service_graph_request_client_seconds.p50", "s"),
    ("traces_service_graph_request_client_seconds.p95", "s"),
    ("traces_service_graph_request_server_seconds.p50", "s"),
)
CALLS, ERRORS, MEDIAN, TAIL, INSIDE = range(5)  # columns of values
METRICS = 5
RATES = (CALLS, ERRORS)

NUMBER_BITS, KIND_BITS = 28, 3
NUMBER_MASK = (1 << NUMBER_BITS) - 1
NODE_BITS = NUMBER_BITS + KIND_BITS
NODE_MASK = (1 << NODE_BITS) - 1
KINDS = ("INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER", "UNSPECIFIED")
INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER, UNSPECIFIED = range(6)
CONNECTIONS = {PeerKind.DATABASE: "database", PeerKind.MESSAGING: "messaging_system"}
SAMPLED = "sampling.calls_per_span"  # of rates only: about how many calls a span stands for, where it is more than one


@dataclass(frozen=True, slots=True)
class Values:
    """Values of one window, (P,) each: which slot, which metric, the number (NaN where it ends), of which service.

    `level` is how strongly the service is sampled, in powers of four.
    """

    slot: I64
    metric: I64
    value: F64
    service: I64
    level: I64
    time_ns: int


class RedPoints:
    """Makes points of values; what identifies a series is encoded once."""

    def __init__(self, services: Names, operations: Names, first_edge: int) -> None:
        self._services = services
        self._operations = operations
        self._first_edge = first_edge  # slots from here on are edges
        self._scope = encode_scope(TRACES_SCOPE)
        self._attributes: dict[int, bytes] = {}  # by slot
        self._streams: dict[int, tuple[Stream, ...]] = {}  # by service
        self._levels: dict[int, bytes] = {0: b""}
        self.namespaces: dict[int, str] = {}

    def name_space(self, service: int, namespace: str) -> None:
        """Say which service.namespace a service has; of several the first counts, so that series stay what they are."""
        if namespace and service not in self.namespaces:
            self.namespaces[service] = namespace
            self._streams.pop(service, None)

    def forget(self, slots: I64) -> None:
        """Slots that get other keys."""
        for slot in slots.tolist():
            self._attributes.pop(slot, None)

    def points(self, windows: list[Values], attributes: list[bytes]) -> Points:
        """One point for each value; `attributes` are those that `attributes_of` gave, of all windows in order."""
        service = np.concatenate([one.service for one in windows])
        slot, metric = (np.concatenate([getattr(one, name) for one in windows]) for name in ("slot", "metric"))
        value = np.concatenate([one.value for one in windows])
        distinct, which = np.unique(service, return_inverse=True)
        streams = tuple(stream for number in distinct.tolist() for stream in self._streams_of(number))
        number = which * 2 * METRICS + (slot >= self._first_edge) * METRICS + metric
        time_ns = np.repeat([one.time_ns for one in windows], [len(one.slot) for one in windows]).astype(np.int64)
        stale: Bool = np.isnan(value)
        return Points(
            streams=streams,
            stream=number.astype(np.int32),
            attributes=attributes,
            start_ns=np.zeros(len(value), np.int64),
            time_ns=time_ns,
            value=value,
            count=np.full(len(value), np.nan),
            stale=stale,
            layouts=(),
            layout=np.full(len(value), -1, np.int32),
            cells=np.empty(0),
            cell_offset=np.zeros(len(value) + 1, np.int64),
        )

    def attributes_of(self, values: Values, keys: I64) -> list[bytes]:
        """The attributes of each value, by the keys that the slots have now."""
        sampled = np.where(values.metric <= ERRORS, values.level, 0)
        found = []
        for slot, level in zip(values.slot.tolist(), sampled.tolist(), strict=True):
            raw = self._attributes.get(slot)
            if raw is None:
                raw = self._attributes[slot] = self._encoded(slot, int(keys[slot]))
            found.append(raw + self._level(level) if level else raw)
        return found

    def _level(self, level: int) -> bytes:
        if level not in self._levels:
            self._levels[level] = encode_attributes(((SAMPLED, str(4**level)),))
        return self._levels[level]

    def _encoded(self, slot: int, key: int) -> bytes:
        if slot < self._first_edge:
            kind = f"SPAN_KIND_{KINDS[key & 7]}"
            return encode_attributes((("span.kind", kind), ("span.name", self._operations[key >> 3 & NUMBER_MASK])))
        caller, callee = key >> NODE_BITS, key & NODE_MASK
        connection = CONNECTIONS.get(PeerKind(max(caller & 7, callee & 7)))
        ends = (("client", self._services[caller >> 3]), ("server", self._services[callee >> 3]))
        return encode_attributes((*ends, ("connection_type", connection)) if connection else ends)

    def _streams_of(self, service: int) -> tuple[Stream, ...]:
        found = self._streams.get(service)
        if found is None:
            namespace = self.namespaces.get(service)
            name = ("service.name", self._services[service])
            resource = encode_resource((name, ("service.namespace", namespace)) if namespace else (name,))
            found = self._streams[service] = tuple(
                Stream(resource, self._scope, metric, unit, Kind.GAUGE, Temporality.UNSPECIFIED, monotonic=False)
                for metric, unit in (*OPERATION_METRICS, *EDGE_METRICS)
            )
        return found


def operation_keys(service: I64, operation: I64, kind: I64) -> I64:
    """Keys of N operations."""
    found: I64 = (service << NUMBER_BITS | operation) << KIND_BITS | kind
    return found


def other_operations(keys: I64) -> I64:
    """The keys under which operations are folded: those of their service."""
    found: I64 = keys >> NODE_BITS << NODE_BITS | UNSPECIFIED
    return found


def edge_keys(caller: I64, caller_kind: I64, callee: I64, callee_kind: I64) -> I64:
    """Keys of N edges."""
    found: I64 = (caller << KIND_BITS | caller_kind) << NODE_BITS | callee << KIND_BITS | callee_kind
    return found


def other_edges(keys: I64) -> I64:
    """The keys under which edges are folded: those of their caller."""
    found: I64 = keys >> NODE_BITS << NODE_BITS | PeerKind.SERVICE
    return found


def senders(keys: I64, first_edge: int) -> I64:
    """Which service tells of each slot: of an edge the caller, behind a destination the consumer; 0 of a free one."""
    service = keys >> NODE_BITS
    of_edge = np.where(service & 7 == PeerKind.MESSAGING, (keys & NODE_MASK) >> KIND_BITS, service >> KIND_BITS)
    found = np.where(np.arange(len(keys)) >= first_edge, of_edge, service)
    return np.where(keys >= 0, found, 0).astype(np.int64)
