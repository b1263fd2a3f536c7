"""Alike: what the times of calls of one slot, and of the next, have in common, which makes many calls weigh as few."""

from __future__ import annotations

import numpy as np

from otel_aiops.otlp.points import F64, I64, Bool
from otel_aiops.series.columns import Arrays, checked
from otel_aiops.signals.tally import Keys, Slot, Tally

MOST_SHARED = 0.5  # of the variance of a call: a slot that is further off adds no more, as what was wrong in it does
CHANCE = 9.0  # but so much comes by chance
LEAST_CALLS = 20.0  # usual ones, below which nobody knows what is usual
LEAST_VARIANCE = 1e-3  # of a rank: nearly all calls take equally long
MOST_PHI = 0.95  # or nothing would ever be a change
SUMS = (
    "excess",  # of n rho
    "calls",  # of n
    "product",  # of what neighbouring slots share
    "pairs",  # of the calls behind it
    "slot",  # the newest
    "off",  # how far its mean rank was off
    "newest",  # calls in it
)
ROOM = 1000  # contexts that may be remembered beyond those that are counted


class Alike:
    """The correlation of ranks within slots and between a slot and the next, by context; it forgets as the counts do.

    A busy processor or a full queue makes all calls of some seconds slow together, and of the next seconds too. A test
    that takes calls for independent then takes a busy minute for a change.

    Source: design effects are those of Kish (1965), Survey Sampling, 5.4; of rank tests those of Rosner and Grove
    (1999), Statistics in Medicine 18, 1387-1400. The correlation is the estimate by moments: with n calls in a slot,
    n times the squared distance of their mean rank from the middle, in variances of one rank, is 1 + n rho; the product
    of the distances of two slots that follow each other is phi rho. What slots further apart share falls by phi a slot,
    as in an autoregressive process of the first order.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._contexts = Keys()
        self._sums = {name: np.empty(0) for name in SUMS}

    def learn(self, tally: Tally, last: int, blocked: Bool | None = None) -> None:
        """Learn from the slots that `tally.learn` with the same arguments is about to learn."""
        usual: F64 | None = None
        for slot in tally.unlearned(last):
            if usual is None:
                usual = tally.per_context(tally.usual)
                ranks, variance = mean_ranks(tally)
            mean, calls = self._means(tally, slot, ranks)
            seen = (calls > 0) & (usual >= LEAST_CALLS)
            if blocked is not None and len(blocked):
                seen &= ~blocked
            rows = np.flatnonzero(seen)
            off = (mean[rows] - 0.5) / np.sqrt(np.maximum(variance[rows], LEAST_VARIANCE))
            self._take(slot.number, tally.contexts[rows], off, calls[rows])
        if len(self._contexts) > len(tally.contexts) + ROOM:
            self._forget(tally.contexts)

    def effect(self, tally: Tally, first: int, last: int) -> F64:
        """By how much the variance of a mean rank in the slots `first` .. `last` is larger than it would be by chance.

        By the number of the context, at least 1.
        """
        rho, phi = self.correlations(tally.contexts)
        calls, together, carried = np.zeros((3, len(rho)))
        before = first
        for slot in tally.slots(first, last):
            carried *= phi ** (slot.number - before)
            came = np.bincount(tally.context_number[slot.cells], slot.counts, len(rho))
            together += came * (came + 2 * carried)
            calls, carried, before = calls + came, carried + came, slot.number
        return 1 + rho * together / np.maximum(calls, 1.0)

    def correlations(self, contexts: I64) -> tuple[F64, F64]:
        """(rho, phi) of K contexts by their keys, 0 where they are not known, (K,) each."""
        at = self._contexts.find(contexts)
        if not len(self._contexts):
            return np.zeros(len(contexts)), np.zeros(len(contexts))
        of = {name: np.where(at >= 0, one[at], 0.0) for name, one in self._sums.items()}
        rho = np.maximum(of["excess"], 0.0) / np.maximum(of["calls"], 1.0)
        next_rho = np.maximum(of["product"], 0.0) / np.maximum(of["pairs"], 1.0)
        phi: F64 = np.minimum(next_rho / np.maximum(rho, 1e-9), MOST_PHI)
        return rho, phi

    @staticmethod
    def _means(tally: Tally, slot: Slot, ranks: F64) -> tuple[F64, F64]:
        of, size = tally.context_number[slot.cells], len(tally.contexts)
        calls = np.bincount(of, slot.counts, size).astype(np.float64)
        return np.bincount(of, slot.counts * ranks[slot.cells], size) / np.maximum(calls, 1.0), calls

    def _take(self, slot: int, keys: I64, off: F64, n: F64) -> None:
        """Take in how far the mean rank of K contexts is off in a slot, in deviations of one rank, of n calls each."""
        self._contexts.add(keys)
        of, more = self._sums, len(self._contexts) - len(self._sums["calls"])
        for name in SUMS if more else ():
            of[name] = np.append(of[name], np.zeros(more))
        most = np.sqrt(CHANCE / n + MOST_SHARED)
        at, off = self._contexts.find(keys), np.clip(off, -most, most)
        of["excess"][at] = of["excess"][at] * self._decay + n * off**2 - 1
        of["calls"][at] = of["calls"][at] * self._decay + n
        both = np.where(of["slot"][at] == slot - 1, np.minimum(n, of["newest"][at]), 0.0)
        of["product"][at] = of["product"][at] * self._decay + both * off * of["off"][at]
        of["pairs"][at] = of["pairs"][at] * self._decay + both
        of["slot"][at], of["off"][at], of["newest"][at] = slot, off, n

    def _forget(self, contexts: I64) -> None:
        keep = np.isin(self._contexts.by_number, contexts)
        self._contexts = Keys(self._contexts.by_number[keep])
        self._sums = {name: one[keep] for name, one in self._sums.items()}

    # -- state --------------------------------------------------------------------------------------------------------

    def state(self) -> Arrays:
        """Everything learned, as arrays."""
        return {"contexts": self._contexts.by_number.copy(), **{name: one.copy() for name, one in self._sums.items()}}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state; one from before there was any knows nothing. Raises: StateError."""
        if not arrays:
            arrays = Alike(self._decay).state()
        checked(arrays, {"contexts": (np.int64, ("K",)), **{name: (np.float64, ("K",)) for name in SUMS}})
        self._contexts = Keys(arrays["contexts"])
        self._sums = {name: arrays[name].copy() for name in SUMS}


def mean_ranks(tally: Tally) -> tuple[F64, F64]:
    """Where each outcome is among the usual ones of its context, as a share of them, (C,); its variance by context.

    Outcomes are in order of their size, ties are in the middle, and the mean of usual ones is a half.
    """
    of, size = tally.context_number, len(tally.contexts)
    order = np.lexsort((tally.outcome, of))
    usual, owner = tally.usual[order], of[order]
    total = np.maximum(np.bincount(owner, usual, size), 1e-9)
    begin = np.bincount(owner, usual, size).cumsum() - np.bincount(owner, usual, size)
    ranks = np.empty(len(of))
    ranks[order] = (np.cumsum(usual) - usual / 2 - begin[owner]) / total[owner]
    variance = np.bincount(of, tally.usual * (ranks - 0.5) ** 2, size) / total
    return ranks, variance
