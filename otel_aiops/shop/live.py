"""The live shop: its telemetry of all three signals, step by step of five seconds, with the faults of a plan."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from otel_aiops.otlp.points import F64, I32
from otel_aiops.shop.faults import COUNT, FIRST, ORDINAL, OWNER, Effects, Kind, LiveFault, checked, effects, pod_name
from otel_aiops.shop.flows import ENTRIES, IDLE, SERVICES, demand_s
from otel_aiops.shop.pods import POD_METRICS_EVERY, PodMetrics
from otel_aiops.shop.simulate import LogBlock, Run, Sent, slower
from otel_aiops.shop.telemetry import Record, body, log_records, resource, span_records

LIVE_STEP_S = 5.0
IDLE_EVERY_S = 60.0  # between two lines of a pod outside of requests
SMOOTHING = 0.3  # weight of a step in how busy pods are
LANGUAGE = {service.name: service.language for service in SERVICES}
THREADS_PER_RATE = 0.05  # threads of each pod of the worker for a request of users a second


class LiveShop:
    """Telemetry of the shop, five seconds a step; steps must be asked for in order, because queues fill.

    `start_s` is when step 0 begins, in s since the epoch; `rate` is requests of users a second at noon. Times of the
    plan are s since the epoch. The same arguments give the same bytes.
    """

    def __init__(self, start_s: float, *, seed: int = 7, rate: float = 40.0, plan: Iterable[LiveFault] = ()) -> None:
        self.start_s = start_s
        self.plan = checked(plan)
        self._rate = rate
        self._seed = seed
        demand = demand_s()
        seconds = {s.name: rate * demand[s.name] * LIVE_STEP_S / s.pods / s.busy for s in SERVICES}
        self._capacity_s = np.array([seconds[name] for name in OWNER])  # of work that a pod can do in a step
        self._busy = np.array([s.busy for s in SERVICES for _ in range(s.pods)]) * self.season(start_s)
        self._threads = np.full((COUNT["worker"], max(1, round(rate * THREADS_PER_RATE))), -math.inf)
        self._waiting: list[Sent] = []
        self._pending: tuple[list[Record], list[Record]] = ([], [])
        self._metrics = PodMetrics()
        self.spans = 0  # sent so far
        self.logs = 0

    def time_s(self, step: int) -> float:
        """When a step begins."""
        return self.start_s + step * LIVE_STEP_S

    def roll_back(self, service: str, time_s: float) -> str:
        """Take back the bad deployment that a service has at a time; the version that it runs then, "" without one."""
        bad = [one for one in self.plan if one.service == service and one.kind is Kind.BAD_DEPLOY]
        now = [one for one in bad if one.start_s < time_s < one.end_s]
        if not now:
            return ""
        self.plan = tuple(replace(one, end_s=time_s) if one in now else one for one in self.plan)
        return effects(self.plan, time_s).versions[service]

    def requests(self, step: int) -> tuple[bytes, bytes, bytes]:
        """(metrics, traces, logs) that the shop sends at the end of a step, as OTLP; b"" where there is nothing."""
        begin_s, random = self.time_s(step), np.random.default_rng((self._seed, step))
        now = effects(self.plan, begin_s)
        run = Run(random, now, slower(self._busy))
        self._users(run, random, begin_s - self.start_s, now)
        self._worker(run, random, begin_s - self.start_s, now)
        self._idle(run, random, begin_s - self.start_s, now)
        self._busy += SMOOTHING * (run.busy_s / self._capacity_s - self._busy)
        attributes = {pod: pod_attributes(pod, now) for pod in range(len(OWNER))}
        self._metrics.watch(now)
        metrics = b""
        if step % POD_METRICS_EVERY == 0:
            waiting = sum(len(sent.time_s) for sent in self._waiting)
            metrics = self._metrics.request(random, self.time_s(step + 1), now, self._busy, waiting, attributes)
        return metrics, *self._sent(run, self.time_s(step + 1), attributes)

    @staticmethod
    def season(time_s: float) -> float:
        """How busy the hour is: 1 at noon, a third at night."""
        return 0.667 - 0.333 * math.cos(2 * math.pi * (time_s % 86_400) / 86_400)

    def _users(self, run: Run, random: np.random.Generator, begin_s: float, now: Effects) -> None:
        rate = self._rate * self.season(self.start_s + begin_s) * now.load
        for share, entry in ENTRIES:
            count = int(random.poisson(rate * share * LIVE_STEP_S))
            if count:
                run.users(entry, begin_s + np.sort(random.random(count)) * LIVE_STEP_S)

    def _worker(self, run: Run, random: np.random.Generator, begin_s: float, now: Effects) -> None:
        """Let the threads of the worker take messages, as many as they begin in this step."""
        waiting = _joined([*self._waiting, *run.sent])
        order = np.argsort(waiting.time_s, kind="stable")
        first = FIRST["worker"]
        there = np.flatnonzero(~now.away[first : first + COUNT["worker"]])
        done = 0
        while done < len(order) and len(there):
            free = self._threads[there].ravel()
            soonest = np.argsort(free, kind="stable")[: len(order) - done]
            rows = order[done : done + len(soonest)]
            start_s = np.maximum(np.maximum(free[soonest], waiting.time_s[rows] + 0.005), begin_s)
            begun = start_s < begin_s + LIVE_STEP_S
            count = len(begun) if begun.all() else int(np.argmin(begun))
            if not count:
                break
            pod = there[soonest[:count] // self._threads.shape[1]]
            thread = soonest[:count] % self._threads.shape[1]
            message = Sent(waiting.trace[rows[:count]], waiting.parent[rows[:count]], waiting.time_s[rows[:count]])
            self._threads[pod, thread] = run.consume(message, start_s[:count], (first + pod).astype(np.int32))
            done += count
        left = np.sort(order[done:])
        self._waiting = [Sent(waiting.trace[left], waiting.parent[left], waiting.time_s[left])]

    @staticmethod
    def _idle(run: Run, random: np.random.Generator, begin_s: float, now: Effects) -> None:
        """What pods log outside of requests."""
        none = np.empty(0, np.uint64)
        for line in IDLE:
            says = (random.random(len(OWNER)) < LIVE_STEP_S / IDLE_EVERY_S / len(IDLE)) & ~now.away
            pod: I32 = np.flatnonzero(says).astype(np.int32)
            times: F64 = begin_s + random.random(len(pod)) * LIVE_STEP_S
            run.logs.append(LogBlock(line, none, none, pod, times, Run.numbers(random, len(pod))))

    def _sent(self, run: Run, end_s: float, attributes: dict[int, dict[str, str]]) -> tuple[bytes, bytes]:
        """Traces and logs that are over at the end of the step; the others wait."""
        start_ns, until_ns = round(self.start_s * 1e9), round(end_s * 1e9)
        resources = {pod: resource(about) for pod, about in attributes.items()}
        spans = [record for block in run.spans for record in span_records(block, start_ns)]
        logs = [record for block in run.logs for record in log_records(block, start_ns)]
        bodies = []
        for pending, new in zip(self._pending, (spans, logs), strict=True):
            due = [record for record in (*pending, *new) if record[0] <= until_ns]
            pending[:] = [record for record in (*pending, *new) if record[0] > until_ns]
            bodies.append((len(due), body(due, resources.__getitem__)))
        self.spans, self.logs = self.spans + bodies[0][0], self.logs + bodies[1][0]
        return bodies[0][1], bodies[1][1]


def pod_attributes(pod: int, now: Effects) -> dict[str, str]:
    """The attributes of the resource of a pod."""
    service = OWNER[pod]
    name = pod_name(service, ORDINAL[pod], now.deploys[service])
    return {
        "service.name": service,
        "service.namespace": "shop",
        "service.version": now.versions[service],
        "service.instance.id": name,
        "k8s.namespace.name": "shop",
        "k8s.deployment.name": service,
        "k8s.pod.name": name,
        "k8s.node.name": f"node-{pod % 3}",
        "telemetry.sdk.language": LANGUAGE[service],
    }


def _joined(sent: list[Sent]) -> Sent:
    """Messages one after the other."""
    if not sent:
        return Sent(np.empty((0, 2), np.uint64), np.empty(0, np.uint64), np.empty(0))
    return Sent(*(np.concatenate([getattr(one, name) for one in sent]) for name in ("trace", "parent", "time_s")))
