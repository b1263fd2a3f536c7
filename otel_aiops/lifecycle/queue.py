"""The queue of feedback: the few alerts of which a verdict would teach most."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from otel_aiops.detect.lessons import Verdict
from otel_aiops.detect.raised import NEAR_NS

NEAR = 0.35  # of the logarithm of peak to threshold: farther off, a verdict hardly changes what will be an alert
HALF_LIFE_NS = 14 * 86_400_000_000_000  # people remember less, and series change
DISAGREED = 1.0  # what it is worth that only one of two versions had the alert; being at the threshold is worth 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """An alert that may be asked about. `peak` is the highest alert score in the thresholds that held.

    `only` is champion or other where two versions run and one alone had it, else "".
    """

    series: str  # as people read it
    fingerprint: int
    service: str
    name: str  # of the metric
    since_ns: int
    until_ns: int
    peak: float
    only: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """An alert to ask about, what it is worth, from 0 to 2, and why."""

    alert: Open
    worth: float
    reasons: tuple[str, ...]


def propose(alerts: Sequence[Open], verdicts: Sequence[Verdict], now_ns: int, *, most: int = 5) -> tuple[Proposal, ...]:
    """The alerts of which a verdict would teach most, the best first; equal input gives equal output.

    The worth of one is (u + d) * a / ((1 + v) * (1 + s) * (1 + m)): u = exp(-(ln peak / 0.35)^2 / 2) is how near it is
    to its threshold, d = 1 where champion and challenger disagree, a halves every two weeks, v counts verdicts on its
    series, s and m those alerts already chosen that are of its service and of its metric. Those that have a verdict,
    or lie within ten minutes of one on the same series, are left out. Only alerts are looked at: of what never was one
    nobody can be asked here. Source of the idea: Settles, Active Learning Literature Survey, 2009, sections 3.1, 5.3.
    """
    judged: dict[int, list[int]] = {}
    for verdict in verdicts:
        judged.setdefault(verdict.series, []).append(verdict.time_ns)
    left = [one for one in alerts if not _known(one, judged.get(one.fingerprint, ()))]
    left.sort(key=lambda one: (one.since_ns, one.fingerprint))
    services: Counter[str] = Counter()
    names: Counter[str] = Counter()
    chosen: list[Proposal] = []
    while left and len(chosen) < most:
        worths = []
        for one in left:
            told = len(judged.get(one.fingerprint, ()))
            apart = (1 + told) * (1 + services[one.service]) * (1 + names[one.name])
            worths.append(_alone(one, now_ns) / apart)
        k = max(range(len(left)), key=lambda i: (worths[i], left[i].since_ns, left[i].fingerprint))
        best = left.pop(k)
        chosen.append(Proposal(alert=best, worth=worths[k], reasons=_reasons(best, judged, services)))
        services[best.service] += 1
        names[best.name] += 1
    return tuple(chosen)


def nearness(peak: float) -> float:
    """How near an alert is to its threshold, in 0 .. 1.

    >>> nearness(1.0), round(nearness(2.0), 2), nearness(0.0)
    (1.0, 0.14, 0.0)
    """
    return math.exp(-((math.log(peak) / NEAR) ** 2) / 2) if peak > 0 else 0.0


def _alone(one: Open, now_ns: int) -> float:
    age = max(0, now_ns - one.until_ns) / HALF_LIFE_NS
    return float((nearness(one.peak) + DISAGREED * bool(one.only)) * 0.5**age)


def _known(one: Open, times: Sequence[int]) -> bool:
    return any(one.since_ns - NEAR_NS <= at <= one.until_ns + NEAR_NS for at in times)


def _reasons(one: Open, judged: dict[int, list[int]], services: Counter[str]) -> tuple[str, ...]:
    found = [f"its peak was {one.peak:.2f} thresholds"]
    if one.only:
        found.append(f"only the {'champion' if one.only == 'champion' else 'version beside it'} had an alert")
    if not judged.get(one.fingerprint):
        found.append("nobody has said anything of this series")
    if one.service and not services[one.service]:
        found.append(f"the first of {one.service}")
    return tuple(found)
