"""Departures: outcomes that come more often than usual, by a test of two shares weighted by how new they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otel_aiops.otlp.points import F64, I64
from otel_aiops.signals.tally import Tally

LEAST_USUAL = 5  # times that the context was seen
LEAST_NOW = 2  # times that an outcome came which is new and a good part of all
FEW_SHARE = 0.2
LEAST_KNOWN, KNOWN = 3, 0.5  # and any other: two of what comes now and then come together every few hours
LEAST = 3.0  # of the statistic; less is chance
FULL_SHARE = 0.1  # a share that grows by less counts for less
CHANCE = 2.0  # outcomes that may be missing by chance
NEWEST = 100.0  # times as often is as new as can be


@dataclass(frozen=True, slots=True)
class Departures:
    """Outcomes that come more often, all (K,), the strongest first. `cell` is the cell of the tally."""

    context: I64
    outcome: I64
    strength: F64
    usual: F64  # times that the outcome came in what is usual
    usual_all: F64  # times that the context did
    now: F64
    now_all: F64
    cell: I64

    def __len__(self) -> int:
        return len(self.context)


def departures(tally: Tally, first: int, last: int, least_usual: float = LEAST_USUAL, most: int = 400) -> Departures:
    """Compare the counts of the slots `first` .. `last` with what is usual, in contexts that came so often in that.

    What departs comes more often both of all cases and in the same time: if the second does not hold, others have
    become fewer, as when a sampler begins that keeps what is slow or failed.

    Source: the likelihood ratio (G) test of two binomial shares, Dunning (1993), section 4, and that of a Poisson mean.
    """
    window, of = tally.window(first, last), tally.context_number
    usual_all, now_all = tally.per_context(tally.usual)[of], tally.per_context(window)[of]
    few = (tally.usual < KNOWN) & (window >= FEW_SHARE * now_all)
    least_now = np.where(few, LEAST_NOW, LEAST_KNOWN)
    k = np.flatnonzero((usual_all >= max(least_usual, LEAST_USUAL)) & (window >= least_now))
    c0, c1, n0, n1 = tally.usual[k], window[k], usual_all[k], now_all[k]
    p0, p1, ratio = (c0 + 0.5) / (n0 + 1), c1 / n1, likelihood_ratio(c0, n0, c1, n1)
    ratio = np.minimum(ratio, more_than(tally.expected(first, last)[k], c1))
    strength = np.where(p1 > p0, ratio, 0.0) * np.clip((p1 - p0) / FULL_SHARE, 0, 1)
    gone = (1 - p0) / (1 - p1 + CHANCE / n1)  # how much rarer everything else has become
    new = np.clip(np.log(np.maximum(p1 / p0, gone)) / np.log(NEWEST), 0, 1)
    strength = np.where(strength > LEAST, strength * new, 0.0)
    best = np.argsort(-strength, kind="stable")[:most]
    best = best[strength[best] > LEAST]
    cell = k[best]
    return Departures(
        tally.contexts[of[cell]],
        tally.outcome[cell],
        strength[best],
        c0[best],
        n0[best],
        c1[best],
        n1[best],
        cell,
    )


def likelihood_ratio(c0: F64, n0: F64, c1: F64, n1: F64) -> F64:
    """The logarithm of how much likelier c0 of n0 and c1 of n1 are with a share each than with one for both, (K,)."""
    p = (c0 + c1) / (n0 + n1)
    return _part(c1, n1 * p) + _part(n1 - c1, n1 * (1 - p)) + _part(c0, n0 * p) + _part(n0 - c0, n0 * (1 - p))


def more_than(expected: F64, seen: F64) -> F64:
    """The logarithm of how much likelier counts are with a Poisson mean of their own than with the expected, (K,).

    0 where there are not more than expected.
    """
    return np.where(seen > expected, _part(seen, expected) - (seen - expected), 0.0)


def _part(seen: F64, expected: F64) -> F64:
    some = np.maximum(seen, 1e-300)
    return np.where(seen > 0, seen * np.log(some / np.maximum(expected, 1e-300)), 0.0)
