"""Blame: which service caused a symptom, from evidence of each and the calls between them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from otel_aiops.errors import ConfigError
from otel_aiops.incidents.incident import Channel, Evidence


@dataclass(frozen=True, slots=True)
class BlameConfig:
    """How the calls between services weigh."""

    explained: float = 0.8  # of a service's own score that an equally strange callee takes away
    leaf: float = 0.7  # weight of a service that calls nobody
    unsure_leaf: float = 0.5  # the same while nothing says which callees are outside: it may be one
    symptom: float = 0.5  # weight of what nothing explains of the symptom itself: it is strange by choice
    outside: float = 0.3  # weight of one without telemetry of its own: what its callers see may be what is behind it

    def __post_init__(self) -> None:
        for name in ("explained", "leaf", "unsure_leaf", "symptom", "outside"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(name, f"must be in [0, 1], got {getattr(self, name)}")


DEFAULT = BlameConfig()


def blame(
    evidence: Iterable[Evidence],
    calls: Mapping[str, Collection[str]],
    *,
    symptom: str = "",
    outside: Collection[str] = (),
    config: BlameConfig = DEFAULT,
) -> list[tuple[str, float]]:
    """Services by how strongly they are suspected, those above 0 only, the strongest first and equal ones by name.

    A service has log(1 + s) of the sum s over the channels of the strongest evidence there; errors and latency are two
    views of one thing, of which the stronger counts. The logarithm lets the calls decide between two that are both very
    strange. With a `symptom` only services that it reaches through `calls` (caller →
    callees) can be causes, and it itself only by what none of them explains. `outside` are services without telemetry
    of their own.
    """
    reached = reach(calls, symptom) if symptom else None
    scores = {
        name: score * _weight(name, calls, outside, config)
        for name, score in _scores(evidence).items()
        if reached is None or name in reached
    }
    left = {}
    for name, score in scores.items():
        if name == symptom:
            most = max((other for callee, other in scores.items() if callee != name), default=0.0)
            left[name] = config.symptom * (score - min(score, most))
        else:
            most = max((scores.get(callee, 0.0) for callee in calls.get(name, ()) if callee != name), default=0.0)
            left[name] = score - config.explained * min(score, most)
    return sorted(((name, score) for name, score in left.items() if score > 0), key=lambda one: (-one[1], one[0]))


def reach(calls: Mapping[str, Collection[str]], start: str) -> frozenset[str]:
    """A service and everything that it calls, directly or through others."""
    found, todo = {start}, [start]
    while todo:
        new = [callee for callee in calls.get(todo.pop(), ()) if callee not in found]
        found.update(new)
        todo += new
    return frozenset(found)


def _scores(evidence: Iterable[Evidence]) -> dict[str, float]:
    """Own score of each service, by name."""
    best: dict[tuple[str, str], float] = {}
    for one in evidence:
        view = "symptoms" if one.channel in (Channel.LATENCY, Channel.ERRORS) else str(one.channel)
        key = (one.service, view)
        best[key] = max(best.get(key, 0.0), one.strength)
    scores: dict[str, float] = {}
    for (service, _), strength in sorted(best.items()):
        scores[service] = scores.get(service, 0.0) + strength
    return {service: math.log1p(score) for service, score in scores.items()}


def _weight(name: str, calls: Mapping[str, Collection[str]], outside: Collection[str], config: BlameConfig) -> float:
    if name in outside:
        return config.outside
    if any(callee != name for callee in calls.get(name, ())):
        return 1.0
    return config.leaf if outside else config.unsure_leaf
