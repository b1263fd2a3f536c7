"""What surrounds incidents: who calls whom, what was deployed, and where there is too little or too much room."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_aiops.desk import asked as get
from otel_aiops.desk.live import Live
from otel_aiops.incidents.advice import AdviceConfig, Use, advise, foreseen, is_concerned
from otel_aiops.labels import Labels

if TYPE_CHECKING:
    from otel_aiops.app import Service

ROWS_A_LOOK = 2_000  # series that are looked at between two steps
MOST_USES = 1_000  # series that are read for one answer
USES_A_READ = 100  # of them at a time: each has half a million points in eight days at a point a second
LOOK_BACK_S = 86_400.0  # more than the history that is needed


class Surroundings:
    """Reads only; any thread. `alone` lets one long answer at a time be made."""

    def __init__(self, service: Service, live: Live, alone: Callable[[], AbstractContextManager[None]]) -> None:
        self._service = service
        self._live = live
        self._alone = alone

    def graph(self) -> dict[str, Any]:
        """Services, databases and destinations of messages, and the calls between them."""

        def answer() -> tuple[Any, ...]:
            topology = self._service.pipeline.analysis.topology
            return [(name, topology.kind(name)) for name in topology.nodes()], topology.edges()

        nodes, edges = self._service.ask(answer)
        return {
            "nodes": [{"name": name, "kind": kind.name.lower()} for name, kind in nodes],
            "edges": [
                {
                    "caller": edge.caller,
                    "callee": edge.callee,
                    "kind": edge.kind.name.lower(),
                    "calls_s": _number(edge.calls_s),
                    "error_ratio": _number(edge.error_ratio),
                    "last": edge.last_ns / 1e9,
                }
                for edge in edges
            ],
        }

    def deployments(self, asked: Mapping[str, str], *, limit: int, offset: int = 0) -> dict[str, Any]:
        """Changes of what runs, the latest first. Raises: BadInput."""
        from_ns = get.time_ns(asked, "from", self._live.now_ns())
        service = get.text(asked, "service")
        found = self._service.ask(lambda: self._service.pipeline.analysis.deployments.all_since(from_ns))
        wanted = [one for one in reversed(found) if not service or one.service == service]
        return {
            "total": len(wanted),
            "deployments": [
                {
                    "service": one.service,
                    "what": one.what,
                    "before": one.before,
                    "after": one.after,
                    "time": one.time_ns / 1e9,
                    "resource": one.resource,
                }
                for one in wanted[offset : offset + limit]
            ],
        }

    def advice(self, *, limit: int, offset: int = 0) -> dict[str, Any]:
        """Requests and limits of containers that do not fit what was used, and shortages that are predicted."""
        config = AdviceConfig()
        with self._alone():
            labels = self._concerned()
            found = advise(self._uses(labels[:MOST_USES], config.history + LOOK_BACK_S), config)
        soon = foreseen([one for one in self._live.standing() if one.prediction is not None])
        return {
            "total": len(found),
            "advice": [
                {key: _number(value) for key, value in asdict(one).items()} for one in found[offset : offset + limit]
            ],
            "foreseen": list(soon[:limit]),
            "series": min(len(labels), MOST_USES),
            "left_out": max(0, len(labels) - MOST_USES),
            "history_needed_s": config.history,
        }

    def _concerned(self) -> list[Labels]:
        """The live series that tell of use, request or limit; a few are looked at between two steps."""
        table, found = self._service.pipeline.table, []
        for start in range(0, table.size, ROWS_A_LOOK):

            def look(start: int = start) -> list[Labels]:
                rows = range(start, min(start + ROWS_A_LOOK, table.size))
                live = [row for row in rows if table.is_live(row)]
                return [one for one in table.labels_of(np.array(live, np.int32)) if is_concerned(one)]

            found += self._service.ask(look)
        return found

    def _uses(self, labels: list[Labels], span_s: float) -> list[Use]:
        """What is recorded of series, some at a time."""
        end_ns = self._live.now_ns() + 1
        known = {one.to_json(): one for one in labels}
        names, found = list(known), []
        for k in range(0, len(names), USES_A_READ):
            read = self._service.history.many(names[k : k + USES_A_READ], end_ns - int(span_s * 1e9), end_ns)
            found += [Use(known[name], *points) for name, points in read.items()]
        return found


def _number(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
