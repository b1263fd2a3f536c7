"""Graph: neighbours, distances and dependents in a service graph that does not change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from otel_aiops.otlp.spans import PeerKind

MOST_REMEMBERED = 2_000_000  # distances


class Graph:
    """Nodes by name and the calls between them; who is busier stands first everywhere, then the name decides.

    Calls of a node to itself are left out. Cycles do no harm.
    """

    def __init__(
        self, kinds: Mapping[str, PeerKind], edges: Sequence[tuple[str, str]], calls_s: Sequence[float]
    ) -> None:
        self.kinds = kinds
        self._callers: dict[str, tuple[str, ...]] = {}
        self._callees: dict[str, tuple[str, ...]] = {}
        into: dict[str, list[tuple[float, str]]] = {}
        out_of: dict[str, list[tuple[float, str]]] = {}
        for (caller, callee), calls in zip(edges, calls_s, strict=True):
            if caller != callee:
                into.setdefault(callee, []).append((-calls, caller))
                out_of.setdefault(caller, []).append((-calls, callee))
        self._callers = {name: _names(found) for name, found in into.items()}
        self._callees = {name: _names(found) for name, found in out_of.items()}
        self._near: dict[tuple[str, int], dict[str, int]] = {}
        self._remembered = 0

    def callers(self, name: str) -> tuple[str, ...]:
        """Who calls a node."""
        return self._callers.get(name, ())

    def callees(self, name: str) -> tuple[str, ...]:
        """Whom a node calls."""
        return self._callees.get(name, ())

    def distance(self, a: str, b: str, most: int) -> int | None:
        """How many calls, in whichever direction, lie between two nodes; None when more than `most`."""
        if a == b:
            return 0
        return self._around(a, most).get(b)

    def dependents(self, name: str) -> tuple[str, ...]:
        """All who call a node, by however many others, the nearest first."""
        found: dict[str, None] = {name: None}
        reached = [name]
        while reached:
            reached = [caller for one in reached for caller in self.callers(one)]
            reached = [one for one in dict.fromkeys(reached) if one not in found]
            found.update(dict.fromkeys(reached))
        return tuple(found)[1:]

    def _around(self, name: str, most: int) -> Mapping[str, int]:
        """Distances of all nodes that are near one; remembered, because groups ask again and again."""
        near = self._near.get((name, most))
        if near is None:
            near = {name: 0}
            reached = [name]
            for step in range(1, most + 1):
                beside = (other for one in reached for other in (*self.callers(one), *self.callees(one)))
                reached = [one for one in dict.fromkeys(beside) if one not in near]
                near.update(dict.fromkeys(reached, step))
            if self._remembered > MOST_REMEMBERED:
                self._near, self._remembered = {}, 0
            self._near[name, most] = near
            self._remembered += len(near)
        return near


def _names(found: Iterable[tuple[float, str]]) -> tuple[str, ...]:
    return tuple(name for _, name in sorted(found))
