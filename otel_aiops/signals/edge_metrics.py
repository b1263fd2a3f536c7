"""Edge metrics: what the labels of a series say of a call, in the words of the Collector's connectors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from otel_aiops.labels import Labels, text
from otel_aiops.otlp.conventions import ADDRESS, DATABASE, DESTINATION, MESSAGING, NAMESPACE, SERVICE
from otel_aiops.otlp.spans import PeerKind
from otel_aiops.signals.calls import TRACES_SCOPE

_GRAPH = re.compile(r"traces_service_?graph_request_(.+)")
_SPAN = re.compile(r"(?:traces_)?span_?metrics_(calls|duration|latency).*|calls_total")
_USER = "user"  # what the service_graph connector calls the caller of a root span: not a service


class Role(IntEnum):
    """What the values of a series say of its edge."""

    SIGN = 0  # only that it is there
    CALLS = 1  # calls a second
    ERRORS = 2  # failed calls a second


@dataclass(frozen=True, slots=True)
class EdgeLabels:
    """One call as labels tell it. The kinds are of the nodes: a consumer is called by a destination."""

    caller: str
    caller_kind: PeerKind
    callee: str
    callee_kind: PeerKind
    role: Role


def may_be_edge(name: str) -> bool:
    """Whether a metric of this name may tell of calls; cheap enough to ask for every new series.

    >>> may_be_edge("traces.service.graph.request.total"), may_be_edge("system.cpu.time")
    (True, False)
    """
    plain = name.replace(".", "_")
    return _GRAPH.fullmatch(plain) is not None or _SPAN.fullmatch(plain) is not None


def edge_of(labels: Labels) -> EdgeLabels | None:
    """The call that a series tells of, None when it tells of none, or was made of spans here.

    Source: README of the connectors service_graph (client, server, connection_type) and span_metrics (span.kind and
    peer attributes), opentelemetry-collector-contrib.
    """
    plain = labels.name.replace(".", "_")
    graph, spans = _GRAPH.fullmatch(plain), _SPAN.fullmatch(plain)
    if not (graph or spans) or labels.scope_name == TRACES_SCOPE:
        return None  # most series; attributes are looked at for the others only
    has = {key.replace("_", "."): text(value) for key, value in (*labels.resource, *labels.attributes)}
    return _of_graph(graph[1], has, labels) if graph else _of_spans(has, labels)


def _of_graph(what: str, has: dict[str, str], labels: Labels) -> EdgeLabels | None:
    client, server = has.get("client", ""), has.get("server", "")
    if not client or not server or client == _USER:
        return None
    kind = PeerKind.DATABASE if has.get("connection.type") == "database" else PeerKind.SERVICE
    role = Role.ERRORS if what.startswith("failed") else Role.CALLS if what.startswith("total") else Role.SIGN
    return EdgeLabels(client, PeerKind.SERVICE, server, kind, role if _is_rate(labels) else Role.SIGN)


def _of_spans(has: dict[str, str], labels: Labels) -> EdgeLabels | None:
    service, kind = has.get("service.name", ""), has.get("span.kind", "").removeprefix("SPAN_KIND_")
    if not service or kind not in ("CLIENT", "PRODUCER", "CONSUMER"):
        return None
    peer, peer_kind = _peer(has)
    if not peer:
        return None
    failed = has.get("status.code", "").endswith("ERROR")
    role = Role.SIGN if not _is_rate(labels) else Role.ERRORS if failed else Role.CALLS
    if kind == "CONSUMER":
        return (
            EdgeLabels(peer, PeerKind.MESSAGING, service, PeerKind.SERVICE, role)
            if peer_kind == PeerKind.MESSAGING
            else None
        )
    return EdgeLabels(service, PeerKind.SERVICE, peer, peer_kind, role)


def _peer(has: dict[str, str]) -> tuple[str, PeerKind]:
    """What a span of these attributes talks to, named as the decoder of spans names it."""

    def first(keys: tuple[str, ...]) -> str:
        return next((has[key] for key in keys if has.get(key)), "")

    host = first(ADDRESS)
    database, namespace, messaging, destination = (
        first(keys) for keys in (DATABASE, NAMESPACE, MESSAGING, DESTINATION)
    )
    if database or namespace:
        place = host if host and (not namespace or namespace.isdigit()) else namespace
        return ":".join(part for part in (database, place) if part), PeerKind.DATABASE
    if messaging or destination:
        return ":".join(part for part in (messaging, destination) if part), PeerKind.MESSAGING
    service = first(SERVICE) or host
    return service, PeerKind.SERVICE if service else PeerKind.NONE


def _is_rate(labels: Labels) -> bool:
    """Whether values are so many a second: rates of counters, and gauges that say so."""
    return labels.stat == "rate" or (not labels.stat and labels.unit.endswith("/s"))
