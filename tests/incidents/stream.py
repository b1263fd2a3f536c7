"""The telemetry of the small town as bodies, step by step, for everything between decoding and incidents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from otel_aiops.incidents.alarm import AlarmConfig
from otel_aiops.incidents.analysis import Analysis, AnalysisConfig, Outcome
from otel_aiops.incidents.group import GroupConfig
from otel_aiops.incidents.incident import Incident
from otel_aiops.incidents.incidents import IncidentsConfig
from otel_aiops.incidents.severity import SloConfig
from otel_aiops.otlp.log_records import LogRecords
from otel_aiops.otlp.spans import Spans
from tests.incidents.town import BROKEN, FINE, FIRST, SLOT_NS, STARTED, WARNED, Requests, Wrong
from tests.signals.made_spans import HIGH, raw_resource, spans_of

TEXTS = {
    STARTED: "request number {k} has begun",
    WARNED: "cache is nearly full",
    BROKEN: "cannot write to disk {k}",
}
CONFIG = AnalysisConfig(
    alarm=AlarmConfig(warmup=100),
    incidents=IncidentsConfig(group=GroupConfig(calm_s=30), slo=(SloConfig(service="bank", objective=0.99),)),
)
CALM = 26  # steps before anything is wrong
FIRST_NS = FIRST * SLOT_NS


@dataclass(frozen=True)
class Body:
    """What comes in a slot."""

    spans: Spans
    logs: LogRecords
    event_ns: int


def bodies(
    wrong: Mapping[int, Wrong], steps: int, *, rate: int = 5, versions: Mapping[int, str] | None = None
) -> list[Body]:
    """Steps of requests; `wrong` is what is wrong in which of them, `versions` those of pay since which step."""
    made, trace, version = [], 0, "1.0"
    for step in range(steps):
        version = (versions or {}).get(step, version)
        requests = Requests(step)
        begin_ns = FIRST_NS + step * SLOT_NS
        for k in range(2 * rate):
            trace += 1
            start_ns = begin_ns + k * SLOT_NS // (2 * rate + 9)
            requests.request(trace, ("web", "admin")[k % 2], start_ns, wrong.get(step, FINE))
        spans = spans_of(requests.sent)
        order = {service: k for k, service in enumerate(dict.fromkeys(one.service for one in requests.sent))}
        versions_of = dict.fromkeys(order, "7") | {"pay": version}
        resources = tuple(
            raw_resource(
                service_name=name,
                service_namespace="shop",
                k8s_pod_name=f"{name}-1",
                service_version=versions_of[name],
            )
            for name in order
        )
        spans = replace(spans, resources=resources)
        made.append(Body(spans, _records(requests, order, resources), begin_ns + SLOT_NS - 1))
    return made


def _records(requests: Requests, order: Mapping[str, int], resources: tuple[bytes, ...]) -> LogRecords:
    logs = requests.logs
    columns = np.array([one[1:] for one in logs], np.int64)
    return LogRecords(
        resources=resources,
        resource=np.array([order[one[0]] for one in logs], np.int32),
        time_ns=columns[:, 2],
        severity=columns[:, 4].astype(np.uint8),
        bodies=[TEXTS[one[4]].format(k=k) for k, one in enumerate(logs)],
        event_name=[""] * len(logs),
        trace_high=np.full(len(logs), HIGH, np.uint64),
        trace_low=columns[:, 0].astype(np.uint64),
        span=columns[:, 1].astype(np.uint64),
    )


def follow(analysis: Analysis, came: list[Body]) -> list[Outcome]:
    """Take bodies one after the other."""
    outcomes = []
    for body in came:
        analysis.take_logs(body.logs, body.event_ns)
        analysis.take_spans(body.spans, body.event_ns)
        outcomes.append(analysis.step(body.event_ns))
    return outcomes


def incidents(outcomes: Iterable[Outcome]) -> list[Incident]:
    """All revisions."""
    return [incident for outcome in outcomes for incident in outcome.incidents]


def digest(wrong: Wrong, steps: int) -> str:
    """Of the state and of all incidents after steps at the end of which something is wrong."""
    analysis = Analysis(CONFIG)
    outcomes = follow(analysis, bodies(dict.fromkeys(range(CALM, steps), wrong), steps))
    told = hashlib.sha256(repr([one.incidents for one in outcomes]).encode())
    for name, array in sorted(analysis.state().items()):
        told.update(name.encode() + array.tobytes())
    return told.hexdigest()
