"""Edges: which end of slow calls is slow, from how much longer the calls between services take than they did."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CERTAIN = 8.0  # a significance above says no more
MOST_COUNT = 200  # observations above weigh no more
MUTE = 0.8  # of the price of a node that sends nothing itself
SPARSITY = 0.3  # of the typical weight of an edge: prefers few slow nodes to many


@dataclass(frozen=True, slots=True)
class Edge:
    """A call from one service to another, and how its network time has changed.

    `shift` is the growth in milliseconds, 0 where it is not significant; `count` the observations behind it, `effect`
    the growth in usual spreads, `z` its significance.
    """

    caller: str
    callee: str
    shift: float
    count: float
    effect: float
    z: float


def solve(edges: Sequence[Edge], mute: Collection[str] = ()) -> dict[str, float]:
    """How strongly each service is suspected of slowing the calls that it makes and receives; those above 0 only.

    The shift of a call is what its two ends add to it, y(a, b) = x_a + x_b with x >= 0, solved by non-negative least
    squares with a preference for few slow ends: one delayed end explains all its calls in both directions. A strength
    is min(z, 8) x log(1 + effect), with the part of the effect that the end explains, of its most shifted calls. Edges
    with equal ends count as one, their mean weighted by count. An edge that did not shift speaks for both its ends, so
    give them all. NaN counts as no shift. Of two ends that explain a shift equally well, one that is `mute`, sending
    nothing itself, is preferred: the time of its calls is its own work and not only the way to it.
    """
    merged = _merged(edges)
    if not any(edge.shift > 0 for edge in merged):
        return {}
    slow = _delays(merged, mute)
    certain: dict[str, float] = {}
    large: dict[str, float] = {}
    for edge in merged:
        for end in (edge.caller, edge.callee):
            if edge.shift > 0 and slow[end] > 0:
                share = min(slow[end] / edge.shift, 1.0)
                certain[end] = max(certain.get(end, 0.0), min(edge.z, CERTAIN))
                large[end] = max(large.get(end, 0.0), share * max(edge.effect, 0.0))
    strengths = {end: certain[end] * float(np.log1p(large[end])) for end in sorted(certain)}
    return {end: strength for end, strength in strengths.items() if strength > 0}


def _delays(edges: Sequence[Edge], mute: Collection[str]) -> dict[str, float]:
    """x of every end, in milliseconds."""
    from scipy.optimize import nnls

    names = sorted({end for edge in edges for end in (edge.caller, edge.callee)})
    column = {name: k for k, name in enumerate(names)}
    ends: NDArray[np.float64] = np.zeros((len(edges), len(names)))
    for row, edge in enumerate(edges):
        ends[row, column[edge.caller]] += 1
        ends[row, column[edge.callee]] += 1
    weight = np.sqrt([min(edge.count, MOST_COUNT) for edge in edges])
    shift = np.array([edge.shift for edge in edges])
    few = np.array([[MUTE if name in mute else 1.0 for name in names]]) * SPARSITY * float(np.median(weight))
    delays, _ = nnls(np.vstack([ends * weight[:, None], few]), np.append(shift * weight, 0.0))
    return dict(zip(names, delays.tolist(), strict=True))


def _merged(edges: Sequence[Edge]) -> list[Edge]:
    """One edge for each pair of ends, in order of their names."""
    groups: dict[tuple[str, str], list[Edge]] = {}
    for edge in edges:
        if edge.caller != edge.callee and edge.count > 0:
            groups.setdefault((edge.caller, edge.callee), []).append(edge)
    merged = []
    for (caller, callee), group in sorted(groups.items()):  # few and small: numpy would take ten times as long
        count = sum(edge.count for edge in group)
        shift = sum(_number(edge.shift) * edge.count for edge in group) / count
        effect = sum(_number(edge.effect) * edge.count for edge in group) / count
        z = max(_number(edge.z) for edge in group)
        merged.append(Edge(caller, callee, max(shift, 0.0), count, effect, z))
    return merged


def _number(value: float) -> float:
    return 0.0 if math.isnan(value) else value
