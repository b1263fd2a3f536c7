"""Words of incidents: what was found, who is suspected and why, and the incident that they make."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Channel(StrEnum):
    """What kind of strangeness a finding is; the order is the order of blame where evidence is equal."""

    DEPLOYMENT = "deployment"  # a version, pod or flag that has just changed
    RESOURCE = "resource"  # processor, memory, disk, connections of the service itself
    ERRORS = "errors"  # failing spans or calls
    LATENCY = "latency"  # time spent in an operation itself, without what it calls
    NETWORK = "network"  # time between a caller and its callee
    SEQUENCE = "sequence"  # the order of calls and log events inside an operation
    LOGS = "logs"  # templates that are new, gone, or in another mix
    RATE = "rate"  # requests that stay away or come in excess
    SERIES = "series"  # an alert of any other series
    SILENCE = "silence"  # telemetry that has stopped


class State(StrEnum):
    """Where an incident stands."""

    PREDICTED = "predicted"
    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"
    MERGED = "merged"  # into an earlier one, which `merged_into` names
    EXPIRED = "expired"  # a prediction that did not come true in its time


class Severity(StrEnum):
    """How bad it is for users."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One thing a person can check: what was measured, before and after.

    `what` is the operation, call, metric, template or version. `series` is the fingerprint of a series that shows it
    as 16 hexadecimal digits, "" where there is none. `traces` are ids of example traces, 32 hexadecimal digits.
    """

    channel: Channel
    service: str
    what: str
    before: float
    after: float
    unit: str = ""
    count: int = 0  # observations after
    strength: float = 0.0  # >= 0, comparable between channels
    caller: str = ""  # of a call
    callee: str = ""
    resource: str = ""  # the pod, instance or host, where it is only one
    series: str = ""
    traces: tuple[str, ...] = ()
    text: str = ""  # the same in one plain sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something strange that lasts, of one service; later findings with the same key and start replace earlier ones.

    `key` says what is strange, the same every time it is: channel, service and what. `score` is in thresholds: at 1
    it would open an incident by itself; below, it only joins one. `end_ns` is 0 while it lasts.
    """

    key: str
    service: str
    channel: Channel
    start_ns: int
    last_ns: int  # when it was last seen
    end_ns: int = 0
    score: float = 1.0
    users: float = 0.0  # requests of users it has hit so far
    evidence: Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """Who may have caused an incident. `score` ranks; `confidence` is the calibrated probability that it is the cause.

    `resource`, `operation`, `edge` ("caller -> callee") and `deployment` are "" where the evidence does not point to
    one.
    """

    service: str
    score: float
    confidence: float
    reason: str
    resource: str = ""
    operation: str = ""
    edge: str = ""
    deployment: str = ""
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a timeline."""

    time_ns: int
    kind: str  # opened, joined, ended, ranked, severity, merged, split, suppressed, deployment, resolved, reopened …
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a predicted incident says of the future, and what became of it.

    `probability` is that it happens within `horizon_s`; `lead_s` is the expected time until then, `earliest_s` and
    `latest_s` hold the middle of its distribution. `outcome` is "", hit or miss.
    """

    what: str  # exhaustion or precursor
    probability: float
    horizon_s: float
    lead_s: float
    earliest_s: float
    latest_s: float
    expires_ns: int
    outcome: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """What an operator needs: one thing that is wrong, since when, how bad, where, and why.

    `revision` grows with every change. `detected_ns` is the event time at which it was opened. `suspects` are ranked,
    the first is the likeliest; none means that there is no candidate.
    """

    id: str
    revision: int
    state: State
    severity: Severity
    start_ns: int
    detected_ns: int
    end_ns: int = 0
    title: str = ""
    summary: str = ""
    services: tuple[str, ...] = ()  # that show something themselves
    blast_radius: tuple[str, ...] = ()  # those and who depends on them
    suspects: tuple[Suspect, ...] = ()
    findings: tuple[Finding, ...] = ()
    timeline: tuple[Entry, ...] = ()
    users: float = 0.0
    slo_burn: float = 0.0  # the highest burn rate of the objectives that it hits; 0 where none is known
    suppressed_by: str = ""  # "" when it is not: the name of the silence, maintenance window or dependency
    merged_into: str = ""
    similar: tuple[str, ...] = ()  # ids of past incidents, the most similar first
    prediction: Prediction | None = None
    flaps: int = 0  # how often something in it came back
    more_findings: int = 0  # how many it has besides those in `findings`, which are the strongest
