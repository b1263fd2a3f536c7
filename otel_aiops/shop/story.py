"""Plans of faults for the live shop: which, where, when and how bad, drawn by seed, with quiet between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from otel_aiops.shop.faults import COUNT, GROWING, Kind, LiveFault, effects, pod_name
from otel_aiops.shop.flows import CONSUMER, OPERATIONS, How, calls
from otel_aiops.shop.live import LIVE_STEP_S

LENGTH_S = {  # other kinds last five minutes
    Kind.MEMORY_LEAK: 1800.0,
    Kind.DISK_FULL: 1800.0,
    Kind.CONNECTION_LEAK: 1800.0,
    Kind.CERTIFICATE: 1440.0,
    Kind.GOOD_DEPLOY: 60.0,
}
USUAL_S = 300.0
QUIET_S = 600.0  # after each fault, and a random part of as much again
DEPENDENTS = ("auth", "catalog", "cart", "search", "recommendation", "checkout", "payment", "inventory", "shipping")
CACHING = ("auth", "catalog", "search", "recommendation", "inventory")
WRITERS = (  # operations that need room on the disk
    "search GET /search",
    "inventory shop.InventoryService/Reserve",
    CONSUMER,
)
RARE = {"sessions"}  # tables that are read too seldom to be missed
STATEMENTS = tuple(
    sorted(
        {
            (o.service, call.target)
            for o in OPERATIONS.values()
            for _, call in calls(o)
            if call.how is How.DATABASE and call.target not in RARE
        }
    )
)
RETRIED = tuple(
    sorted(
        {
            (o.service, call.target)
            for o in OPERATIONS.values()
            for _, call in calls(o)
            if call.attempts > 1 and call.target.split()[0] != "auth"
        }
    )
)
ASKERS = tuple(sorted({service for service, _ in STATEMENTS} - {"worker"}))
INNER_KEYS = tuple(sorted(o.key for o in OPERATIONS.values() if o.service in DEPENDENTS))
CUTTABLE = tuple(
    sorted(o.key for o in OPERATIONS.values() if len(o.stages) >= 2 and o.service not in {"web", "worker"})
)


Fields = dict[str, Any]


class _Dice:
    """What is drawn for a fault."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random

    def pick(self, among: Sequence[str]) -> str:
        return among[int(self._random.integers(len(among)))]

    def size(self, low: float, high: float) -> float:
        return round(float(self._random.uniform(low, high)), 3)

    def pair(self, among: Sequence[tuple[str, str]]) -> tuple[str, str]:
        return among[int(self._random.integers(len(among)))]

    def pod(self, among: Sequence[str], what: str, size: float = 1.0) -> Fields:
        """One pod of one of some services."""
        service = self.pick(among)
        pod = int(self._random.integers(COUNT[service]))
        return {"service": service, "pod": pod, "size": size, "what": what.format(service)}

    def operation(self, among: Sequence[str], size: float, what: str) -> Fields:
        key = self.pick(among)
        service, _, name = key.partition(" ")
        return {"service": service, "operation": key, "size": size, "what": what.format(service=service, name=name)}


def _slow_dependency(dice: _Dice) -> Fields:
    peer = dice.pick((How.DATABASE.value, How.CACHE.value))
    callers = sorted({o.service for o in OPERATIONS.values() for _, call in calls(o) if call.how == peer})
    size = dice.size(8, 14) if peer == How.DATABASE else dice.size(20, 40)
    what = f"{peer} answers everybody {size:.0f} times as slowly"
    return {"service": peer, "size": size, "what": what, "edges": tuple(f"{one} -> {peer}" for one in callers)}


def _slow_query(dice: _Dice) -> Fields:
    _, table = dice.pair(STATEMENTS)
    users = tuple(sorted({service for service, asked in STATEMENTS if asked == table}))
    edges = tuple(f"{one} -> postgresql" for one in users)
    what = f"statements on {table} have lost their index: {' and '.join(users)} must wait"
    fields: Fields = {"service": "postgresql", "size": dice.size(20, 40), "what": what, "table": table}
    return {**fields, "edge": edges[0], "accept": users, "edges": edges}


def _retry_storm(dice: _Dice) -> Fields:
    _, key = dice.pair(RETRIED)
    service, _, name = key.partition(" ")
    callers = sorted({caller for caller, target in RETRIED if target == key})
    edges = tuple(f"{one} -> {service}" for one in callers)
    what = f"{service} fails in {name} and is asked again and again by {' and '.join(callers)}"
    fields: Fields = {"service": service, "size": dice.size(0.5, 0.7), "what": what, "operation": key}
    return {**fields, "edge": edges[0], "edges": edges}


def _cache_loss(dice: _Dice) -> Fields:
    service = dice.pick(CACHING)
    edge = f"{service} -> redis"
    what = f"{service} finds nothing in its cache and asks the database"
    return {"service": service, "size": 1.0, "what": what, "edge": edge, "edges": (edge,), "accept": ("redis",)}


def _surge(dice: _Dice) -> Fields:
    what = "many more users than usual; search and recommendation are short of processors"
    return {"service": "", "size": dice.size(2.2, 2.8), "what": what, "accept": ("web",)}


def _certificate(dice: _Dice) -> Fields:
    service = dice.pick(DEPENDENTS)
    return {"service": service, "size": 1.0, "what": f"the certificate of {service} is not renewed and expires"}


DRAWN: Mapping[Kind, Callable[[_Dice], Fields]] = {
    Kind.SLOW_DEPENDENCY: _slow_dependency,
    Kind.SLOW_QUERY: _slow_query,
    Kind.EARLY_RETURN: lambda dice: dice.operation(
        CUTTABLE, dice.size(0.4, 0.8), "{service} leaves {name} half way and says that all is well"
    ),
    Kind.CPU: lambda dice: dice.pod(
        (*DEPENDENTS, "worker"), "something eats the processor of one pod of {}", dice.size(4, 7)
    ),
    Kind.MEMORY_LEAK: lambda dice: dice.pod(
        DEPENDENTS, "one pod of {} leaks memory, collects garbage more and more, is restarted", dice.size(3, 5)
    ),
    Kind.QUEUE_BACKLOG: lambda dice: {
        "service": "worker",
        "size": dice.size(12, 16),
        "what": "the worker is too slow for what comes in, orders pile up",
    },
    Kind.BAD_DEPLOY: lambda dice: dice.operation(
        INNER_KEYS, dice.size(0.25, 0.6), "the new version of {service} throws in {name}; it is taken back"
    ),
    Kind.RETRY_STORM: _retry_storm,
    Kind.CACHE_LOSS: _cache_loss,
    Kind.PARTIAL_OUTAGE: lambda dice: dice.pod(DEPENDENTS, "one pod of {} is dead, and is still called"),
    Kind.TRAFFIC_SURGE: _surge,
    Kind.NETWORK_DELAY: lambda dice: dice.pod(
        DEPENDENTS, "packets from and to one pod of {} are late", dice.size(0.06, 0.15)
    ),
    Kind.DISK_FULL: lambda dice: dice.operation(
        WRITERS, dice.size(0.6, 0.9), "the disk of {service} fills up; then {name} cannot write"
    ),
    Kind.CERTIFICATE: _certificate,
    Kind.CONNECTION_LEAK: lambda dice: dice.pod(
        ASKERS, "one pod of {} does not give connections back, until none is left", dice.size(0.5, 1.5)
    ),
    Kind.GOOD_DEPLOY: lambda dice: {
        "service": dice.pick(DEPENDENTS),
        "size": 0.0,
        "what": "a new version that works",
    },
}


def draw(kind: Kind, start_s: float, random: np.random.Generator) -> LiveFault:
    """A fault of a kind that begins at `start_s`, at a random place of the right sort."""
    fields = DRAWN[kind](_Dice(random))
    return LiveFault(kind=kind, start_s=start_s, end_s=start_s + LENGTH_S.get(kind, USUAL_S), **fields)


def draw_plan(
    kinds: Iterable[Kind], start_s: float, *, seed: int, quiet_s: float = QUIET_S
) -> tuple[tuple[LiveFault, ...], float]:
    """Faults of these kinds in random order from `start_s` on, and when the quiet after the last one is over.

    After each there is quiet of `quiet_s` to twice of it. Faults begin at the start of a step.
    """
    random = np.random.default_rng(seed)
    order, plan, at_s = list(kinds), [], start_s
    for k in random.permutation(len(order)).tolist():
        plan.append(draw(order[k], at_s, random))
        quiet = quiet_s * (1 + float(random.random()))
        at_s += math.ceil((plan[-1].end_s - at_s + quiet) / LIVE_STEP_S) * LIVE_STEP_S
    return tuple(plan), at_s


def label(fault: LiveFault, plan: Sequence[LiveFault]) -> Fields:
    """The ground truth of a fault as JSON has it; times in s since the epoch, null where there is no limit."""
    deploys = effects(plan, fault.start_s).deploys
    return {
        "kind": str(fault.kind),
        "service": fault.service,
        "resource": pod_name(fault.service, fault.pod, deploys[fault.service]) if fault.pod >= 0 else "",
        "operation": fault.operation.partition(" ")[2],
        "edge": fault.edge,
        "start": fault.start_s,
        "end": fault.end_s,
        "limit": fault.limit_s if fault.kind in GROWING else None,
        "size": fault.size,
        "what": fault.what,
        "accept": [fault.service, *fault.accept],
        "accept_edges": list(fault.edges),
    }
