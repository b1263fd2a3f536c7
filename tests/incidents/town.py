"""A small town of services for tests: requests run through it, and everything that can be wrong is a set of names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from otel_aiops.incidents.behaviour import SLOT_S, Behaviour, BehaviourConfig
from otel_aiops.incidents.look import Look, Wording, look
from otel_aiops.otlp.spans import PeerKind, SpanKind
from otel_aiops.series.columns import Arrays
from otel_aiops.signals.names import Names
from otel_aiops.signals.traces import Traces, TracesConfig
from tests.signals.made_spans import S, Sent, give, log_events

CALLS = {
    "web": ("cart", "pay"),
    "admin": ("cart", "pay"),
    "cart": ("redis",),
    "pay": ("bank",),
    "bank": (),
}
ENTRIES = ("web", "admin")
DATABASES = ("redis",)
MS = S // 1000
SLOT_NS = int(SLOT_S * S)
FIRST = 340_000_000  # slot
WARM = 30  # slots
RATE = 15  # requests a slot of each entry
STARTED, WARNED, BROKEN = 1, 5, 9  # templates
WARNS = 0.05  # share of requests


@dataclass(frozen=True)
class Wrong:
    """What is wrong: services that are slow or fail; calls, (caller, callee), that take long, end it, fail or miss."""

    slow: Mapping[str, float] = field(default_factory=dict)  # times as slow
    network: Mapping[tuple[str, str], float] = field(default_factory=dict)  # ms more
    fails: Mapping[str, float] = field(default_factory=dict)  # share
    cut: Mapping[tuple[str, str], float] = field(default_factory=dict)  # share that ends after it
    unreached: Mapping[tuple[str, str], float] = field(default_factory=dict)  # share
    logs: Mapping[str, float] = field(default_factory=dict)  # share of requests with an error in the log
    skips: Mapping[tuple[str, str], float] = field(default_factory=dict)  # share that goes without the call


FINE = Wrong()


class Requests:
    """Requests of users as spans, all random numbers from one seed."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.sent: list[Sent] = []
        self.logs: list[tuple[str, int, int, int, int, int]] = []  # service, trace, span, ns, template, severity
        self._span = 0

    def request(self, trace: int, entry: str, start_ns: int, wrong: Wrong = FINE) -> None:
        """One request that enters at a service."""
        self._serve(trace, entry, 0, start_ns, wrong)

    def _some(self, share: float) -> bool:
        return bool(share) and self.random.random() < share

    def _ns(self, ms: float) -> int:
        return int(ms * MS * self.random.lognormal(0, 0.2))

    def _id(self) -> int:
        self._span += 1
        return self._span

    def _serve(self, trace: int, service: str, parent: int, start_ns: int, wrong: Wrong) -> tuple[int, bool]:
        """(when it is done, whether it failed)."""
        span, failed = self._id(), self._some(wrong.fails.get(service, 0.0))
        half = self._ns(5 * wrong.slow.get(service, 1.0))
        now = start_ns + half
        self.logs.append((service, trace, span, start_ns + MS // 10, STARTED, 9))
        if self._some(WARNS):
            self.logs.append((service, trace, span, start_ns + MS // 7, WARNED, 13))
        if self._some(wrong.logs.get(service, 0.0)):
            self.logs.append((service, trace, span, start_ns + MS // 5, BROKEN, 17))
        for callee in CALLS[service]:
            if self._some(wrong.skips.get((service, callee), 0.0)):
                continue
            now, broken = self._call(trace, service, callee, span, now, wrong)
            failed |= broken
            if self._some(wrong.cut.get((service, callee), 0.0)):
                half = 0
                break
        now += half
        self.sent.append(
            Sent(trace, span, parent, service, f"{service} op", start_ns, now, SpanKind.SERVER, error=failed)
        )
        return now, failed

    def _call(
        self, trace: int, service: str, callee: str, parent: int, start_ns: int, wrong: Wrong
    ) -> tuple[int, bool]:
        span = self._id()
        net = self._ns(1.0 + wrong.network.get((service, callee), 0.0))
        failed = self._some(wrong.unreached.get((service, callee), 0.0))
        end_ns, kind = start_ns + net, PeerKind.SERVICE
        if callee in DATABASES:
            end_ns, kind = end_ns + self._ns(2 * wrong.slow.get(callee, 1.0)), PeerKind.DATABASE
        elif not failed:
            end_ns, failed = self._serve(trace, callee, span, start_ns + net // 2, wrong)
            end_ns += net // 2
        one = Sent(trace, span, parent, service, f"call {callee}", start_ns, end_ns, SpanKind.CLIENT, callee, kind)
        self.sent.append(replace(one, error=failed))
        return end_ns, failed


class Town:
    """Behaviour that learns from requests, slot by slot."""

    def __init__(self, *, warm: bool = True, config: BehaviourConfig | None = None) -> None:
        self.services = Names(100)
        self.traces = Traces(TracesConfig(wait=0.5), self.services)
        self.behaviour = Behaviour(config or BehaviourConfig())
        self.slot, self.trace = FIRST, 0
        self.wording = Wording(
            service=self.services.__getitem__,
            operation=self.traces.operations.__getitem__,
            template=lambda number: f"template {number}",
            word=self.traces.words.__getitem__,
        )
        if warm:
            arrays = _warm()
            self.services.restore(_part(arrays, "services/"))
            self.traces.restore(_part(arrays, "traces/"))
            self.behaviour.restore(_part(arrays, "behaviour/"))
            self.slot, self.trace = arrays["where"].tolist()

    def step(self, wrong: Wrong = FINE, *, learn: bool = True, entries: tuple[str, ...] = ENTRIES) -> None:
        """One slot of requests."""
        requests = Requests(self.slot)
        start_ns = self.slot * SLOT_NS
        for k, entry in enumerate(entries * RATE):
            self.trace += 1
            requests.request(self.trace, entry, start_ns + k * SLOT_NS // (RATE * len(entries) + 9), wrong)
        self.slot += 1
        now_ns = self.slot * SLOT_NS - 1
        give(self.traces, requests.sent, now_ns)
        for service, *record, severity in requests.logs:
            of = self.services.number(service)
            events = log_events([tuple(record)], service=of, severity=severity)  # type: ignore[list-item]
            self.traces.add_logs(events, now_ns)
            self.behaviour.add_logs(events, now_ns)
        trees = self.traces.close(now_ns + 10 * S)
        assert trees is not None
        self.behaviour.add(trees, now_ns)
        if learn:
            self.behaviour.learn(now_ns + int(self.behaviour.config.settle * S), None)

    def look(self, wrong: Wrong = FINE, slots: int = 3, *, least_usual: float = 30) -> Look:
        """What is otherwise in some slots in which something is wrong, which are not learned."""
        for _ in range(slots):
            self.step(wrong, learn=False)
        return look(self.behaviour, self.wording, self.slot - slots, self.slot - 1, least_usual=least_usual)

    def state(self) -> Arrays:
        owners = {"services": self.services, "traces": self.traces, "behaviour": self.behaviour}
        arrays = {f"{name}/{key}": array for name, one in owners.items() for key, array in one.state().items()}
        return {**arrays, "where": np.array([self.slot, self.trace])}


@cache
def _warm() -> Arrays:
    town = Town(warm=False)
    for _ in range(WARM):
        town.step()
    return town.state()


def _part(arrays: Arrays, name: str) -> Arrays:
    return {key.removeprefix(name): array for key, array in arrays.items() if key.startswith(name)}
