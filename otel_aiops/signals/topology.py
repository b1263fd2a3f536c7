"""Topology: the service graph, learned from calls in traces, or from the Collector's metrics when only those come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.otlp.spans import PeerKind
from otel_aiops.series.columns import Arrays, Columns, checked
from otel_aiops.signals.calls import Calls
from otel_aiops.signals.edge_metrics import Role, edge_of
from otel_aiops.signals.graph import Graph
from otel_aiops.signals.links import FRESH_NS, Links
from otel_aiops.signals.names import OTHER, Names

WINDOW_NS = 10_000_000_000  # of event time, in which calls are counted
EXPIRE_WINDOWS = 6  # edges that are too old are looked for once in so many

KIND_BITS, NODE_BITS = 2, 31  # a node is the number of a name and its kind; an edge is two nodes
KIND_MASK, NODE_MASK = (1 << KIND_BITS) - 1, (1 << NODE_BITS) - 1
OVER_EDGES = "calls of edges over the limit"
OVER_NAMES = "calls of services over the limit of names"
LONG_AGO = "calls of long ago"

EDGE_COLUMNS: dict[str, tuple[Any, tuple[int, ...], Any]] = {
    "key": (np.int64, (), 0),
    "calls": (np.float64, (), 0),  # seen in spans, fading
    "errors": (np.float64, (), 0),
    "first_ns": (np.int64, (), 0),
    "last_ns": (np.int64, (), 0),
    "traced_ns": (np.int64, (), 0),  # the last call that was seen in spans
    "shown": (np.float64, (), 0),  # calls a second when the order of the busiest was made
}


@dataclass(frozen=True, slots=True)
class TopologyConfig:
    """How much of the service graph is kept, and for how long."""

    max_edges: int = 20_000  # calls between two services at most; others are counted
    keep: float = 86_400.0  # seconds without a call after which an edge is gone
    half_life: float = 300.0  # seconds in which the memory of calls a second fades to a half

    def __post_init__(self) -> None:
        if not 1 <= self.max_edges <= 1_000_000:
            raise ConfigError("max_edges", f"must be in 1 .. 1000000, got {self.max_edges}")
        for name in ("keep", "half_life"):
            if not getattr(self, name) > 0:
                raise ConfigError(name, f"must be > 0 s, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Edge:
    """Who calls whom. `kind` is how: a database, a message (either end is a destination), or a plain call.

    `calls_s` are calls a second of late, `error_ratio` the share of them that failed; NaN where nothing is known.
    """

    caller: str
    callee: str
    kind: PeerKind
    calls_s: float
    error_ratio: float
    last_ns: int


class Topology:
    """Nodes are services, databases and destinations of messages, by name; edges are calls between them.

    A database or destination that has the name of a service is another node: "orders (database)". An edge is counted
    from spans, and from metrics only while no spans show it. `counts` says what was left out and why.
    """

    def __init__(self, config: TopologyConfig, names: Names) -> None:
        self._config = config
        self._names = names
        self._edges = Columns(EDGE_COLUMNS, config.max_edges)
        self._slot: dict[int, int] = {}  # of an edge by its key
        self._services: dict[int, int] = {}  # number → when it was last seen
        self._links = Links()
        self._window = 0
        self._event_ns = 0
        self._graph: Graph | None = None
        self.counts: Counter[str] = Counter()

    def __len__(self) -> int:
        """Edges that are known now."""
        return len(self._slot)

    # -- learning -----------------------------------------------------------------------------------------------------

    def add(self, calls: Calls, event_ns: int) -> None:
        """Count N calls, see `calls_of`."""
        self._advance(event_ns)
        self._meet(calls.services.tolist())
        known = (calls.caller != OTHER) & (calls.callee != OTHER)
        recent = calls.time_ns >= self._event_ns - self._keep_ns
        self._left_out(OVER_NAMES, int((~known).sum()))
        self._left_out(LONG_AGO, int((known & ~recent).sum()))
        good = np.flatnonzero(known & recent)
        if not len(good):
            return
        key = _edges(calls.caller[good], calls.caller_kind[good], calls.callee[good], calls.callee_kind[good])
        keys, which = np.unique(key, return_inverse=True)
        weight, number = calls.weight[good], len(keys)
        last_ns = np.zeros(number, np.int64)
        np.maximum.at(last_ns, which, np.minimum(calls.time_ns[good], self._event_ns))
        count = np.bincount(which, weight, number)
        errors = np.bincount(which, weight * calls.error[good], number)
        slots = np.array([self._slot_of(one) for one in keys.tolist()], np.int64)
        room = slots >= 0
        self._left_out(OVER_EDGES, int((~room)[which].sum()))
        slots, of = slots[room], self._edges.of
        of["calls"][slots] += count[room]
        of["errors"][slots] += errors[room]
        for name in ("last_ns", "traced_ns"):
            of[name][slots] = np.maximum(of[name][slots], last_ns[room])

    def observe(self, row: int, labels: Labels, event_ns: int) -> bool:
        """See a new series; whether it tells of an edge, so that its values should be touched.

        `labels` must be whole. Ask `edge_metrics.may_be_edge` of its name first, which is cheap.
        """
        edge = edge_of(labels)
        if edge is None:
            return False
        self._advance(event_ns)
        ends = self._names.numbers((edge.caller, edge.callee))
        if OTHER in ends.tolist():
            self._left_out(OVER_NAMES, 1)
            return False
        kinds = np.array([edge.caller_kind, edge.callee_kind], np.uint8)
        self._meet(ends[kinds == PeerKind.SERVICE].tolist())
        key = _edges(ends[:1], kinds[:1], ends[1:], kinds[1:])
        self._links.add(row, int(key[0]), edge.role)
        return True

    def touch(self, rows: I32, value: F64, time_ns: I64) -> None:
        """Take in K values of series; those that tell of no edge cost one look-up all together."""
        called, called_ns = self._links.take(rows, value, time_ns)
        recent = called_ns >= self._event_ns - self._keep_ns
        if not recent.any():
            return
        keys, which = np.unique(called[recent], return_inverse=True)
        last_ns = np.zeros(len(keys), np.int64)
        np.maximum.at(last_ns, which, called_ns[recent])
        slots = np.array([self._slot_of(key) for key in keys.tolist()], np.int64)
        self._left_out(OVER_EDGES, int((slots < 0).sum()))
        found = slots >= 0
        seen = self._edges.of["last_ns"]
        seen[slots[found]] = np.maximum(seen[slots[found]], last_ns[found])

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series tell of no edge any more."""
        self._links.forget(rows)

    @property
    def _keep_ns(self) -> int:
        return int(self._config.keep * 1e9)

    def _left_out(self, reason: str, number: int) -> None:
        if number:
            self.counts[reason] += number

    def _meet(self, services: Iterable[int]) -> None:
        for number in services:
            if number != OTHER:
                if number not in self._services:
                    self._graph = None
                self._services[number] = self._event_ns

    def _slot_of(self, key: int) -> int:
        """Where an edge stands, made if need be; -1 when there is no room."""
        slot = self._slot.get(key)
        if slot is None:
            slot = len(self._slot)
            if slot >= self._config.max_edges:
                return -1
            self._edges.reserve(slot + 1)
            self._edges.clear(np.array([slot]))
            self._edges.of["key"][slot], self._edges.of["first_ns"][slot] = key, self._event_ns
            self._slot[key] = slot
            self._graph = None
        return slot

    def _advance(self, event_ns: int) -> None:
        """Let counts fade with event time, and forget what is long gone."""
        self._event_ns = max(self._event_ns, event_ns)
        window = self._event_ns // WINDOW_NS
        if window == self._window:
            return
        passed, before = window - self._window, self._window
        self._window = window
        fade = 0.5 ** (passed * WINDOW_NS / 1e9 / self._config.half_life)
        edges = len(self._slot)
        self._edges.of["calls"][:edges] *= fade
        self._edges.of["errors"][:edges] *= fade
        if window // EXPIRE_WINDOWS != before // EXPIRE_WINDOWS:
            self._expire()

    def _expire(self) -> None:
        """Once a minute: forget what is too old, and see anew which edges are the busiest.

        In between the order stands still: what is asked, and when, must not decide what is answered later.
        """
        oldest_ns = self._event_ns - self._keep_ns
        self._services = {number: seen_ns for number, seen_ns in self._services.items() if seen_ns >= oldest_ns}
        edges = len(self._slot)
        kept = np.flatnonzero(self._edges.of["last_ns"][:edges] >= oldest_ns)
        self._graph = None
        self._edges.of["shown"][:edges] = np.nan_to_num(self._rates()[0])
        if len(kept) < edges:
            for array in self._edges.of.values():
                array[: len(kept)] = array[kept]
            keys = self._edges.of["key"][: len(kept)].tolist()
            self._slot = {key: slot for slot, key in enumerate(keys)}

    # -- asking -------------------------------------------------------------------------------------------------------

    def callers(self, name: str) -> tuple[str, ...]:
        """Who calls a node, the busiest first; not itself."""
        return self._view().callers(name)

    def callees(self, name: str) -> tuple[str, ...]:
        """Whom a node calls, the busiest first; not itself."""
        return self._view().callees(name)

    def kind(self, name: str) -> PeerKind:
        """What a node is; NONE when it is not known."""
        return self._view().kinds.get(name, PeerKind.NONE)

    def nodes(self) -> tuple[str, ...]:
        """All nodes, sorted by name."""
        return tuple(sorted(self._view().kinds))

    def distance(self, a: str, b: str, most: int = 3) -> int | None:
        """How many calls, in whichever direction, lie between two nodes; None when more than `most`."""
        return self._view().distance(a, b, most)

    def dependents(self, name: str) -> tuple[str, ...]:
        """Who calls a node, and who calls those, and so on: the nearest first, then the busiest; not itself."""
        return self._view().dependents(name)

    def edges(self) -> tuple[Edge, ...]:
        """All edges, sorted by caller and callee."""
        count = len(self._slot)
        calls, errors = self._rates()
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(calls > 0, np.minimum(errors / calls, 1.0), np.nan)
        keys = self._edges.of["key"][:count].tolist()
        last_ns = self._edges.of["last_ns"][:count].tolist()
        found = [
            Edge(self._title(key >> NODE_BITS), self._title(key & NODE_MASK), _kind(key), *rest)
            for key, *rest in zip(keys, calls.tolist(), ratio.tolist(), last_ns, strict=True)
        ]
        return tuple(sorted(found, key=lambda edge: (edge.caller, edge.callee)))

    def _view(self) -> Graph:
        """The graph in words; made anew when an edge is new or gone, and once a minute."""
        if self._graph is None:
            shown = self._edges.of["shown"][: len(self._slot)].tolist()
            keys = self._edges.of["key"][: len(self._slot)].tolist()
            kinds = {self._title(number << KIND_BITS | 1): PeerKind.SERVICE for number in self._services}
            ends = [(self._title(key >> NODE_BITS), self._title(key & NODE_MASK)) for key in keys]
            for key, (caller, callee) in zip(keys, ends, strict=True):
                kinds[caller] = PeerKind(key >> NODE_BITS & KIND_MASK)
                kinds[callee] = PeerKind(key & KIND_MASK)
            self._graph = Graph(kinds, ends, shown)
        return self._graph

    def _title(self, node: int) -> str:
        number, kind = node >> KIND_BITS, PeerKind(node & KIND_MASK)
        name = self._names[number]
        return f"{name} ({kind.name.lower()})" if kind > PeerKind.SERVICE and number in self._services else name

    def _rates(self) -> tuple[F64, F64]:
        """(calls, errors) a second of each edge; NaN where only its existence is known."""
        count = len(self._slot)
        of = {name: array[:count] for name, array in self._edges.of.items()}
        half_life = self._config.half_life
        age_s = np.maximum((self._event_ns - of["first_ns"]) / 1e9, WINDOW_NS / 1e9)
        span_s = half_life / np.log(2) * (1 - 0.5 ** (age_s / half_life))
        traced = of["traced_ns"] > 0
        traced &= of["traced_ns"] >= of["last_ns"] - FRESH_NS
        calls, errors = (self._links.told(role, self._slot, self._event_ns) for role in (Role.CALLS, Role.ERRORS))
        errors = np.where(np.isnan(errors), 0.0, errors)
        return np.where(traced, of["calls"] / span_s, calls), np.where(traced, of["errors"] / span_s, errors)

    # -- state --------------------------------------------------------------------------------------------------------

    def state(self) -> Arrays:
        """Edges, services and links; the names belong to who gave them."""
        return {
            **self._edges.state(len(self._slot)),
            **{f"link_{name}": array for name, array in self._links.state().items()},
            "service": np.array(list(self._services.items()), np.int64).reshape(-1, 2),
            "clock": np.array([self._event_ns, self._window], np.int64),
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over a state, after the names were restored. Raises: StateError, and then this must not be used."""
        links = {name.removeprefix("link_"): one for name, one in arrays.items() if name.startswith("link_")}
        arrays = {name: one for name, one in arrays.items() if not name.startswith("link_")}
        rest: dict[str, Any] = {"service": (np.int64, ("services", 2)), "clock": (np.int64, (2,))}
        checked(arrays, {**self._edges.saved(), **rest})
        self._links.restore(links)
        edges = len(arrays["key"])
        if edges > self._config.max_edges:
            arrays = {**arrays, **_newest(arrays, self._config.max_edges)}
            edges = self._config.max_edges
        self._edges = Columns(EDGE_COLUMNS, self._config.max_edges)
        self._edges.restore(arrays, edges)
        self._slot = {key: slot for slot, key in enumerate(arrays["key"].tolist())}
        self._services = dict(arrays["service"].tolist())
        self._event_ns, self._window = arrays["clock"].tolist()
        self._graph = None
        self._check()

    def _check(self) -> None:
        numbers = [
            number for key in self._slot for number in (key >> NODE_BITS + KIND_BITS, (key & NODE_MASK) >> KIND_BITS)
        ]
        highest = max([*numbers, *self._services], default=0)
        if highest >= len(self._names):
            raise StateError(f"expected numbers of {len(self._names)} names, got {highest}")


def _edges(caller: I32, caller_kind: NDArray[Any], callee: I32, callee_kind: NDArray[Any]) -> I64:
    """Keys of N edges."""
    start = caller.astype(np.int64) << KIND_BITS | caller_kind
    found: I64 = start << NODE_BITS | callee.astype(np.int64) << KIND_BITS | callee_kind
    return found


def _kind(key: int) -> PeerKind:
    """How a caller calls: a message whichever end is a destination."""
    return PeerKind(max(key >> NODE_BITS & KIND_MASK, key & KIND_MASK))


def _newest(arrays: Arrays, most: int) -> Arrays:
    """The edges that were seen last, when a state has more than there is room for."""
    kept = np.sort(np.argsort(-arrays["last_ns"], kind="stable")[:most])
    return {name: arrays[name][kept] for name in EDGE_COLUMNS}
