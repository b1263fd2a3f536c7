"""What can go wrong in the live shop: kinds of faults, their ground truth, and what they do at a moment."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from otel_aiops.otlp.points import F64, Bool
from otel_aiops.shop.flows import OPERATIONS, SERVICES

FIRST: Mapping[str, int] = {
    s.name: sum(o.pods for o in SERVICES[:k]) for k, s in enumerate(SERVICES)
}  # pod of a service
OWNER = tuple(s.name for s in SERVICES for _ in range(s.pods))  # service of a pod
ORDINAL = tuple(k for s in SERVICES for k in range(s.pods))
COUNT: Mapping[str, int] = {s.name: s.pods for s in SERVICES}

FILLED = 0.8  # part of a fault after which what grows has reached its limit
RESTART_S = 20.0  # how long a pod is away that ran out of memory
CERTIFICATE_S, RENEWED_S = 2400.0, 1200.0  # life of a certificate, and how often there is a new one
DISK, MEMORY, POOL = 0.55, 0.5, 0.3  # what is used of the limit on a normal day
TABLES = "*"


class Kind(StrEnum):
    """Kinds of faults."""

    SLOW_DEPENDENCY = "slow dependency"
    SLOW_QUERY = "slow query"
    EARLY_RETURN = "error without status"
    CPU = "cpu"
    MEMORY_LEAK = "memory leak"
    QUEUE_BACKLOG = "queue backlog"
    BAD_DEPLOY = "bad deploy"
    RETRY_STORM = "retry storm"
    CACHE_LOSS = "cache loss"
    PARTIAL_OUTAGE = "partial outage"
    TRAFFIC_SURGE = "traffic surge"
    NETWORK_DELAY = "network delay"
    DISK_FULL = "disk full"
    CERTIFICATE = "certificate expiry"
    CONNECTION_LEAK = "connection leak"
    GOOD_DEPLOY = "good deploy"  # no fault: a new version that works


GROWING = {Kind.MEMORY_LEAK, Kind.DISK_FULL, Kind.CERTIFICATE, Kind.CONNECTION_LEAK}  # can be predicted


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFault:
    """Ground truth of one fault.

    `service` is at fault; "" where none is. `pod` is the ordinal of its pod, -1 where it is all of them. `operation` is
    the key of an operation; `table` what a slow query reads; `edge` is "caller -> callee". `size` is how bad it is, in
    the unit of the kind. `accept` are other services that are a right answer too, `edges` other right calls.
    """

    kind: Kind
    service: str
    start_s: float
    end_s: float
    size: float
    what: str
    pod: int = -1
    operation: str = ""
    table: str = ""
    edge: str = ""
    accept: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()

    @property
    def limit_s(self) -> float:
        """When it runs out of something; NaN for what does not grow."""
        if self.kind is Kind.CERTIFICATE:
            return self.start_s + CERTIFICATE_S - RENEWED_S
        return self.start_s + FILLED * (self.end_s - self.start_s) if self.kind in GROWING else float("nan")


@dataclass(slots=True)
class Effects:
    """What the faults do at a moment. Arrays are (pods,) over all services; operations go by key."""

    own: F64 = field(default_factory=lambda: np.ones(len(OWNER)))  # times the own time
    cpu: F64 = field(default_factory=lambda: np.zeros(len(OWNER)))  # more use of the processor
    memory: F64 = field(default_factory=lambda: np.full(len(OWNER), MEMORY))
    disk: F64 = field(default_factory=lambda: np.full(len(OWNER), DISK))
    pool: F64 = field(default_factory=lambda: np.full(len(OWNER), POOL))
    wait_s: F64 = field(default_factory=lambda: np.zeros(len(OWNER)))  # for a connection
    delay_s: F64 = field(default_factory=lambda: np.zeros(len(OWNER)))  # of the network, each way
    refuses: Bool = field(default_factory=lambda: np.zeros(len(OWNER), bool))  # is called, does not answer
    away: Bool = field(default_factory=lambda: np.zeros(len(OWNER), bool))  # says nothing
    raises: dict[str, tuple[float, str]] = field(default_factory=dict)  # operation → how often, the exception
    returns: dict[str, float] = field(default_factory=dict)  # operation → how often too early
    slow: dict[tuple[str, str], float] = field(default_factory=dict)  # (peer, table) → times as slow
    hits: dict[str, float] = field(default_factory=dict)  # service → times the hits of its cache
    expired: set[str] = field(default_factory=set)  # services whose certificate is no longer good
    certificate_s: dict[str, float] = field(default_factory=dict)  # service → until it expires
    deploys: dict[str, int] = field(default_factory=dict)  # service → how often its pods were replaced so far
    versions: dict[str, str] = field(default_factory=dict)  # service → the version it runs
    load: float = 1.0


def effects(plan: Iterable[LiveFault], time_s: float) -> Effects:
    """What all faults of a plan do together at a moment."""
    now = Effects()
    plan = tuple(plan)
    for service in COUNT:
        now.certificate_s[service] = CERTIFICATE_S - (time_s + zlib.crc32(service.encode())) % RENEWED_S
        now.deploys[service], now.versions[service] = _deployed(plan, service, time_s)
    for fault in plan:
        if fault.kind is Kind.CERTIFICATE:
            now.certificate_s[fault.service] = CERTIFICATE_S - (time_s - fault.start_s) % RENEWED_S
        if fault.start_s <= time_s < fault.end_s:
            _act(fault, time_s, now)
    return now


def _deployed(plan: tuple[LiveFault, ...], service: str, time_s: float) -> tuple[int, str]:
    """How often the pods of a service were replaced, and its version: a bad one is taken back at its end."""
    begun = [fault for fault in plan if fault.service == service and fault.start_s <= time_s]
    good = sum(fault.kind is Kind.GOOD_DEPLOY for fault in begun)
    bad = [fault for fault in begun if fault.kind is Kind.BAD_DEPLOY]
    over = sum(fault.end_s <= time_s for fault in bad)
    return good + len(bad) + over, f"1.{4 + good}.{len(bad) if over < len(bad) else 0}"


def _act(fault: LiveFault, time_s: float, now: Effects) -> None:
    """Add what one fault does."""
    kind, service = fault.kind, fault.service
    first = FIRST.get(service, 0)
    pods = (
        slice(first, first + COUNT.get(service, 0))
        if fault.pod < 0
        else slice(first + fault.pod, first + fault.pod + 1)
    )
    if kind in GROWING:
        _grow(fault, time_s, now, pods)
    elif kind in {Kind.SLOW_DEPENDENCY, Kind.SLOW_QUERY}:
        now.slow[service, fault.table or TABLES] = fault.size
    elif kind is Kind.EARLY_RETURN:
        now.returns[fault.operation] = fault.size
    elif kind is Kind.CPU:
        now.own[pods] *= fault.size
        now.cpu[pods] += 1.0
    elif kind is Kind.QUEUE_BACKLOG:
        now.own[pods] *= fault.size
    elif kind is Kind.BAD_DEPLOY:
        now.raises[fault.operation] = (fault.size, "NullReferenceError: discount of order is None")
    elif kind is Kind.RETRY_STORM:
        now.raises[fault.operation] = (fault.size, "UpstreamError: backend closed the stream")
    elif kind is Kind.CACHE_LOSS:
        now.hits[service] = 1 - fault.size
    elif kind is Kind.PARTIAL_OUTAGE:
        now.refuses[pods] = now.away[pods] = True
    elif kind is Kind.TRAFFIC_SURGE:
        now.load *= fault.size
    elif kind is Kind.NETWORK_DELAY:
        now.delay_s[pods] += fault.size


def _grow(fault: LiveFault, time_s: float, now: Effects, pods: slice) -> None:
    """What fills up, and what happens when it is full."""
    part = (time_s - fault.start_s) / (fault.limit_s - fault.start_s)
    full = part >= 1
    if fault.kind is Kind.CERTIFICATE:
        now.certificate_s[fault.service] = fault.limit_s - time_s
        now.expired |= {fault.service} if full else set()
    elif fault.kind is Kind.DISK_FULL:
        now.disk[pods] += (1 - DISK) * min(1.0, part)
        if full:
            now.raises[fault.operation] = (fault.size, "OSError: no space left on device")
    elif fault.kind is Kind.CONNECTION_LEAK:
        now.pool[pods] += (1 - POOL) * min(1.0, part)
        now.wait_s[pods] += fault.size * full
    elif not full:
        now.memory[pods] += (1 - MEMORY) * part
        now.own[pods] *= 1 + (fault.size - 1) * np.maximum(0.0, (now.memory[pods] - 0.85) / 0.15)  # collecting garbage
    elif time_s < fault.limit_s + RESTART_S:
        now.away[pods] = True


def pod_name(service: str, ordinal: int, deploys: int) -> str:
    """The name of a pod after some deployments, as Kubernetes makes them."""
    alphabet = "bcdfghjklmnpqrstvwxz2456789"

    def word(text: str, length: int) -> str:
        number = zlib.crc32(text.encode())
        return "".join(alphabet[number // 27**k % 27] for k in range(length))

    return f"{service}-{word(f'{service}/{deploys}', 6)}-{word(f'{service}/{deploys}/{ordinal}', 5)}"


def checked(plan: Iterable[LiveFault]) -> tuple[LiveFault, ...]:
    """A plan whose services, pods and operations exist. Raises: ValueError."""
    plan = tuple(plan)
    for fault in plan:
        if fault.operation and fault.operation not in OPERATIONS:
            raise ValueError(f"expected an operation of the shop, got {fault.operation!r}")
        if fault.pod >= COUNT.get(fault.service, 0):
            raise ValueError(f"expected a pod of {fault.service} below {COUNT.get(fault.service, 0)}, got {fault.pod}")
        if not fault.start_s < fault.end_s:
            raise ValueError(f"expected an end after {fault.start_s}, got {fault.end_s}")
    return plan
