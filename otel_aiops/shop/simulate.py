"""Requests of the live shop as they run through its services: spans and log records as columns, a stage at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import F64, I32, I64, Bool
from otel_aiops.shop.faults import COUNT, FIRST, OWNER, TABLES, Effects
from otel_aiops.shop.flows import CONSUMER, ERROR, OPERATIONS, WARN, Call, How, Line, Operation

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

SPREAD, PEER_SPREAD = 0.3, 0.4  # of the logarithm of own times and of times of peers
NETWORK_S = 0.0004  # one way, median
REFUSED_S, HANDSHAKE_S = 0.001, 0.006
BACKOFF_S = 0.02  # before a call is made again
NEVER = 99
BUSIEST = 0.86
USERS = 90_000


class Outcome(IntEnum):
    """How a span ends."""

    OK = 0
    FAILED = 1  # something that it called has failed
    RAISED = 2  # it has failed itself, with an exception
    REFUSED = 3  # nobody answered
    EXPIRED = 4  # the certificate of the callee was not good any more


class Role(IntEnum):
    """Which side of a call a span is of."""

    SERVES = 0
    CALLS = 1


@dataclass(frozen=True, slots=True)
class Batch:
    """N calls of one operation: trace ids (N, 2), starts in s, parents and pods (N,)."""

    trace: U64
    start_s: F64
    parent: U64
    pod: I32

    def __len__(self) -> int:
        return len(self.start_s)

    def take(self, rows: I64 | Bool) -> Batch:
        return Batch(self.trace[rows], self.start_s[rows], self.parent[rows], self.pod[rows])


@dataclass(frozen=True, slots=True)
class SpanBlock:
    """N spans of one shape: the service that they belong to, the operation or call, and from which side.

    `text` is what was raised. `outcome` is (N,) Outcome; `batch.start_s` and `end_s` are s since the start of the shop.
    """

    service: str
    shape: Operation | Call
    role: Role
    batch: Batch
    span: U64
    end_s: F64
    outcome: U8
    text: str = ""


@dataclass(frozen=True, slots=True)
class LogBlock:
    """N log records of one line. `numbers` (N, 4) fill the text."""

    line: Line
    trace: U64
    span: U64
    pod: I32
    time_s: F64
    numbers: U32


@dataclass(frozen=True, slots=True)
class Sent:
    """N messages that were put into the queue: by which span of which trace, when."""

    trace: U64
    parent: U64
    time_s: F64


class Run:
    """Requests that run at about the same time, under the same effects.

    `slower` (pods,) is how many times as slow each pod is because it is busy. `busy_s` (pods,) gathers how long the
    pods have worked.
    """

    def __init__(self, random: np.random.Generator, now: Effects, slower: F64) -> None:
        self._random = random
        self._now = now
        self._factor = now.own * slower
        self.busy_s = np.zeros(len(OWNER))
        self.spans: list[SpanBlock] = []
        self.logs: list[LogBlock] = []
        self.sent: list[Sent] = []

    def users(self, entry: Operation, start_s: F64) -> None:
        """Requests of users, which begin traces."""
        count = len(start_s)
        trace = self._random.integers(1, 2**64 - 1, (count, 2), np.uint64)
        self.serve(entry, Batch(trace, start_s, np.zeros(count, np.uint64), self._route(entry.service, count)))

    def consume(self, sent: Sent, start_s: F64, pod: I32) -> F64:
        """Messages that are worked off from `start_s` on; when they are done."""
        return self.serve(OPERATIONS[CONSUMER], Batch(sent.trace, start_s, sent.parent, pod))[0]

    def serve(self, operation: Operation, batch: Batch) -> tuple[F64, Bool]:
        """Let an operation answer; (when it has, whether it failed), both (N,)."""
        count, stages = len(batch), operation.stages
        span = self._ids(count)
        own = self._own(operation.own_s, batch.pod) / (len(stages) + 1)
        end = batch.start_s + own
        outcome, alive = np.zeros(count, np.uint8), np.ones(count, bool)
        often, exception = self._now.raises.get(
            operation.key, (operation.fails, "TimeoutError: partner did not answer")
        )
        raised = self._when(often, count, len(stages) // 2)
        returned = self._when(self._now.returns.get(operation.key, 0.0), count, len(stages) // 2)
        for stage in range(len(stages) + 1):
            outcome[alive & (raised == stage)] = Outcome.RAISED
            alive &= (raised > stage) & (returned > stage)
            rows = np.flatnonzero(alive)
            if not len(rows):
                break
            last = stage == len(stages)
            here = replace(batch.take(rows), start_s=end[rows], parent=span[rows])
            self._write(operation, -1 if last else stage, here)
            if not last:
                ends, failed = self._stage(operation, stages[stage], here)
                end[rows] = ends + own[rows]
                outcome[rows[failed]] = Outcome.FAILED
                alive[rows[failed]] = False
        self._complain(exception, batch, span, end, outcome)
        self.spans.append(SpanBlock(operation.service, operation, Role.SERVES, batch, span, end, outcome, exception))
        return end, outcome != Outcome.OK

    def _stage(self, operation: Operation, group: tuple[Call, ...], batch: Batch) -> tuple[F64, Bool]:
        """Calls that are made at the same time; (when the last is back, whether a required one failed)."""
        ends, broken = batch.start_s, np.zeros(len(batch), bool)
        for call in group:
            end, failed = self._call(operation.service, call, batch)
            ends = np.maximum(ends, end)
            broken |= failed & call.required
        return ends, broken

    def _call(self, service: str, call: Call, batch: Batch) -> tuple[F64, Bool]:
        if call.how in {How.GRPC, How.HTTP}:
            return self._remote(service, call, batch)
        if call.how is How.INTERNAL:
            took = self._own(call.took_s, batch.pod)
        else:
            slow = self._now.slow.get((call.how, TABLES), 1.0) * self._now.slow.get((call.how, call.target), 1.0)
            if call.how is How.DATABASE:  # a connection must be free
                batch = replace(batch, start_s=batch.start_s + self._now.wait_s[batch.pod])
            took = call.took_s * slow * self._spread(PEER_SPREAD, len(batch)) + self._wire(batch.pod) * 2
        end, span = batch.start_s + took, self._ids(len(batch))
        ok = np.zeros(len(batch), np.uint8)
        self.spans.append(SpanBlock(service, call, Role.CALLS, batch, span, end, ok))
        if call.how is How.SEND:
            self.sent.append(Sent(batch.trace, span, end))
        missed = self._random.random(len(batch)) >= call.hit * self._now.hits.get(service, 1.0) if call.miss else ok > 0
        rows = np.flatnonzero(missed)
        if len(rows):
            later = replace(batch.take(rows), start_s=end[rows])
            for then in call.miss:
                later = replace(later, start_s=self._call(service, then, later)[0])
            end = end.copy()
            end[rows] = later.start_s
        return end, ok > 0

    def _remote(self, service: str, call: Call, batch: Batch) -> tuple[F64, Bool]:
        """A call of another service, made again where it fails and there are attempts left."""
        ends, failed = batch.start_s.copy(), np.ones(len(batch), bool)
        rows = np.arange(len(batch))
        for attempt in range(call.attempts):
            here = batch.take(rows)
            if attempt:
                here = replace(here, start_s=ends[rows] + BACKOFF_S * attempt * self._spread(SPREAD, len(rows)))
                self._log(Line(0, WARN, f"calling {call.target.split()[0]} again after {{2}} ms"), here.parent, here)
            ends[rows], failed[rows] = self._attempt(service, call, here)
            rows = rows[failed[rows]]
            if not len(rows):
                break
        return ends, failed

    def _attempt(self, service: str, call: Call, batch: Batch) -> tuple[F64, Bool]:
        count, callee = len(batch), OPERATIONS[call.target]
        pod, span = self._route(callee.service, count), self._ids(count)
        outcome = np.where(self._now.refuses[pod], Outcome.REFUSED, Outcome.OK).astype(np.uint8)
        if callee.service in self._now.expired:
            outcome[:] = Outcome.EXPIRED
        out, back = (self._wire(batch.pod) + self._now.delay_s[pod] for _ in range(2))
        end = batch.start_s + out + np.where(outcome == Outcome.EXPIRED, HANDSHAKE_S, REFUSED_S)
        rows = np.flatnonzero(outcome == Outcome.OK)
        if len(rows):
            there = Batch(batch.trace[rows], batch.start_s[rows] + out[rows], span[rows], pod[rows])
            answered, failed = self.serve(callee, there)
            end[rows] = answered + back[rows]
            outcome[rows[failed]] = Outcome.FAILED
        self.spans.append(SpanBlock(service, call, Role.CALLS, batch, span, end, outcome))
        return end, outcome != Outcome.OK

    def _route(self, service: str, count: int) -> I32:
        """A pod for each call, among those that are not gone. Those that refuse are called: nobody knows yet."""
        pods = np.arange(FIRST[service], FIRST[service] + COUNT[service], dtype=np.int32)
        there = pods[~self._now.away[pods] | self._now.refuses[pods]]
        return self._random.choice(there if len(there) else pods, count)

    def _when(self, often: float, count: int, stage: int) -> I64:
        """The stage before which something happens, NEVER where it does not. (N,)."""
        if often <= 0:
            return np.full(count, NEVER)
        return np.where(self._random.random(count) < often, stage, NEVER)

    def _own(self, median_s: float, pod: I32) -> F64:
        """How long pods work themselves, which keeps them busy. (N,)."""
        took = median_s * self._spread(SPREAD, len(pod))
        self.busy_s += np.bincount(pod, took, len(OWNER))
        return took * self._factor[pod]

    def _wire(self, pod: I32) -> F64:
        return NETWORK_S * self._spread(SPREAD, len(pod)) + self._now.delay_s[pod]

    def _spread(self, sigma: float, count: int) -> F64:
        return self._random.lognormal(0.0, sigma, count)

    def _ids(self, count: int) -> U64:
        return self._random.integers(1, 2**64 - 1, count, np.uint64)

    def _write(self, operation: Operation, stage: int, batch: Batch) -> None:
        """The lines that an operation logs before a stage, in the span that `batch.parent` names."""
        for line in operation.lines:
            if line.stage == stage:
                self._log(line, batch.parent, batch)

    def _complain(self, exception: str, batch: Batch, span: U64, end_s: F64, outcome: U8) -> None:
        """What is logged where an operation fails."""
        for why, text in (
            (Outcome.RAISED, f"unhandled {exception} (request {{0:08x}})"),
            (Outcome.FAILED, "request {0:08x} of user {1} failed because a call did"),
        ):
            rows = np.flatnonzero(outcome == why)
            if len(rows):
                here = replace(batch.take(rows), start_s=end_s[rows])
                self._log(Line(-1, ERROR, text), span[rows], here)

    def _log(self, line: Line, span: U64, batch: Batch) -> None:
        numbers = self.numbers(self._random, len(batch))
        numbers[:, 0] = batch.trace[:, 1]  # a request has one id and one user
        numbers[:, 1] = 1000 + batch.trace[:, 0] % USERS
        self.logs.append(LogBlock(line, batch.trace, span, batch.pod, batch.start_s, numbers))

    @staticmethod
    def numbers(random: np.random.Generator, count: int) -> U32:
        """What fills the texts of log records: an id, a user, a quantity and a small one. (N, 4)."""
        return (random.random((count, 4)) * (2.0**32, 99_000, 500, 99) + (0, 1000, 1, 1)).astype(np.uint32)


def slower(busy_ratio: F64) -> F64:
    """How many times as slow pods are that are busy for this part of their time. (pods,).

    Grows as the time in a queue of one server does, up to seven times.
    """
    return 1 / (1 - np.clip(busy_ratio, 0.0, BUSIEST))
