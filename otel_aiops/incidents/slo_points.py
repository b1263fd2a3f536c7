"""Points of objectives: what is left of the error budget of each service that has one, once a minute."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from otel_aiops.incidents.requests import Requests
from otel_aiops.incidents.severity import SloConfig
from otel_aiops.otlp.encode import encode_attributes, encode_resource, encode_scope
from otel_aiops.otlp.points import Kind, Points, Stream, Temporality

MINUTE_NS = 60_000_000_000
SLO_SCOPE = "otel_aiops.slo"  # of the metrics that are made of objectives here
BUDGET = "slo.error_budget.remaining"


class SloPoints:
    """Makes the points; `requests` knows what failed."""

    def __init__(self, slos: Sequence[SloConfig], requests: Requests) -> None:
        self._slos, self._requests = slos, requests
        scope = encode_scope(SLO_SCOPE)
        self._streams = tuple(
            Stream(
                encode_resource((("service.name", slo.service),)),
                scope,
                BUDGET,
                "1",
                Kind.GAUGE,
                Temporality.UNSPECIFIED,
                monotonic=False,
            )
            for slo in slos
        )
        self._attributes = [
            encode_attributes((("slo.objective", slo.objective), ("slo.window", slo.window))) for slo in slos
        ]
        self.minute = -1  # of the newest points

    def close(self, event_ns: int) -> Points | None:
        """One point for each objective whose service was heard of, if another minute has begun."""
        minute = event_ns // MINUTE_NS
        if minute <= self.minute:
            return None
        self.minute = minute
        left = [self._requests.budget_left(slo, event_ns) for slo in self._slos]
        known = [k for k, share in enumerate(left) if not math.isnan(share)]
        if not known:
            return None
        count = len(known)
        return Points(
            streams=self._streams,
            stream=np.array(known, np.int32),
            attributes=[self._attributes[k] for k in known],
            start_ns=np.zeros(count, np.int64),
            time_ns=np.full(count, event_ns, np.int64),
            value=np.array([left[k] for k in known]),
            count=np.full(count, np.nan),
            stale=np.zeros(count, bool),
            layouts=(),
            layout=np.full(count, -1, np.int32),
            cells=np.empty(0),
            cell_offset=np.zeros(count + 1, np.int64),
        )
