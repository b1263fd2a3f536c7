"""Shifts: which operations and calls take longer than usual, by rank test and in spreads of what is usual."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from otel_aiops.incidents.alike import Alike
from otel_aiops.incidents.behaviour import BINS, GROWTH, SHORTEST_NS
from otel_aiops.incidents.departures import likelihood_ratio, more_than
from otel_aiops.otlp.points import F64, I64, Bool
from otel_aiops.signals.tally import Tally

LEAST_NOW, LEAST_USUAL = 3, 8  # observations
FLOOR_MS = 0.2  # a spread is at least this, and a tenth of the median
PART = 0.1
NORMAL_IQR = 1.35  # of a normal distribution, in standard deviations
MIDDLE, UPPER = 0.5, 0.8  # what is slow in one of three instances moves only the upper of the two
LEAST_UPPER = 12  # observations for a quantile other than the middle
TAIL = 0.98  # of what is usual; what is slow in one of ten calls moves neither of the two
FEWER = 0.7  # of the calls that are expected; with so few, those that are slow are counted by the time
FAR = 10.0  # times that: what waits for something that ran out takes so much longer, and hardly any call usually does
LEAST_BEYOND, LEAST_SPELLS = 3, 2  # calls beyond it, and slots with any: one hitch is not a change
EDGES_MS = SHORTEST_NS / 1e6 * np.exp(np.arange(BINS) * GROWTH)  # where bins begin


@dataclass(frozen=True, slots=True)
class Shifts:
    """Contexts that came often enough, all (K,). Times in milliseconds.

    `cell` is the slowest cell of the context in the window, for an example. `z` is that of the rank test (Mann and
    Whitney, 1947) with ties; `effect` the move of the quantile in spreads, `before` and `after` where it was and is.
    """

    context: I64
    z: F64
    effect: F64
    before: F64
    after: F64
    count: F64
    cell: I64
    share: F64  # of the calls that it is about

    def __len__(self) -> int:
        return len(self.context)

    def take(self, rows: I64 | Bool) -> Shifts:
        """Some of them."""
        return Shifts(*(getattr(self, one.name)[rows] for one in fields(self)))


class Times:
    """How long things take in the slots `first` .. `last` and usually, in contexts that came often enough in both.

    With `alike`, what the calls of a slot have in common makes everything less significant. Where fewer calls come,
    they are slower only if more of them are slow in the same time: else what is quick has become rarer, as when a
    sampler begins that keeps what is slow.
    """

    def __init__(
        self, tally: Tally, first: int, last: int, least_usual: float = LEAST_USUAL, alike: Alike | None = None
    ) -> None:
        self._tally, self._slots = tally, (first, last)
        window = tally.window(first, last)
        of, now, usual = tally.context_number, tally.per_context(window), tally.per_context(tally.usual)
        self._pick = np.flatnonzero((now >= LEAST_NOW) & (usual >= max(least_usual, LEAST_USUAL)))
        row = np.full(len(now), -1)
        row[self._pick] = np.arange(len(self._pick))
        cells = np.flatnonzero(row[of] >= 0)
        at = row[of[cells]], tally.outcome[cells]
        self._before, self._after, self._expected = np.zeros((3, len(self._pick), BINS))
        self._before[at], self._after[at] = tally.usual[cells], window[cells]
        self._expected[at] = tally.expected(first, last)[cells]
        self._slowest = np.zeros(len(self._pick), np.int64)
        seen = cells[window[cells] > 0]
        order = np.argsort(tally.outcome[seen], kind="stable")
        self._slowest[row[of[seen[order]]]] = seen[order]
        self._count = now[self._pick]
        self._chance = np.sqrt(alike.effect(tally, first, last)[self._pick]) if alike else np.ones(len(self._pick))
        self._z = _rank_z(self._before, self._after) / self._chance
        fewer = self._count < FEWER * self._expected.sum(1)
        self._z = np.where(fewer, np.minimum(self._z, self._more_in_time()), self._z)
        self._usually = np.cumsum(self._before, 1)
        self._spread = (self._quantile_before(0.75) - self._quantile_before(0.25)) / NORMAL_IQR
        self._spread += PART * self._quantile_before(MIDDLE) + FLOOR_MS

    def shifts(self, quantile: float = MIDDLE) -> Shifts:
        """How a quantile has moved; one other than the middle takes more observations."""
        found = self._shifts(self._z, self._quantile_before(quantile), _quantile(self._after, quantile))
        return found if quantile == MIDDLE else found.take(self._count >= LEAST_UPPER)

    def tails(self, times: float = 1.0) -> Shifts:
        """Where more than usual is far beyond what nearly all usually take: `share` of the calls, in several slots.

        With `times` only what takes so many times as long counts; few calls are enough then, where none did before.

        All contexts are there, those in which it is not with a `z` of 0.

        `z` is the signed root of twice the likelihood ratio (G) of the two shares that are beyond (Dunning, 1993,
        section 4). `before` is the quantile nearly all are under, `after` the median of what is beyond, and `effect`
        by how much that raises the mean, in spreads.
        """
        most, of_all = self._quantile_before(TAIL), self._usually[:, -1]
        beyond = EDGES_MS[None, :] >= (times * most + self._spread)[:, None]
        now, usually = (self._after * beyond).sum(1), (self._before * beyond).sum(1)
        share, grown = now / self._count, now / self._count - (usually + 0.5) / (of_all + 1)
        few = np.flatnonzero((now >= LEAST_BEYOND) & (grown > 0))
        few = few[self._spells(beyond, few) >= LEAST_SPELLS]
        z, after = np.zeros(len(most)), most.copy()
        ratio = likelihood_ratio(usually[few], of_all[few], now[few], self._count[few])
        ratio = np.minimum(ratio, more_than((self._expected * beyond).sum(1)[few], now[few]))
        z[few] = np.sqrt(2 * np.maximum(ratio, 0.0))
        if times == 1.0:  # what calls of the same seconds have in common makes none of them so slow
            z /= self._chance
        after[few] = _quantile(self._after[few] * beyond[few], MIDDLE)
        found = self._shifts(z, most, after, share)
        return replace(found, effect=found.effect * np.maximum(grown, 0.0))

    def _more_in_time(self) -> F64:
        """The signed root of twice the likelihood ratio of more calls beyond a time than usual, where it is highest."""
        beyond, expected = (np.cumsum(counts[:, ::-1], 1) for counts in (self._after, self._expected))
        z: F64 = np.sqrt(2 * more_than(expected, beyond).max(1, initial=0.0))
        return z

    def _quantile_before(self, q: float) -> F64:
        return _quantile(self._before, q, self._usually)

    def _spells(self, beyond: Bool, rows: I64) -> I64:
        """In how many slots of the window anything of some rows is beyond."""
        tally = self._tally
        row = np.full(len(tally.contexts), -1)
        row[self._pick[rows]] = rows
        of, outcome = tally.context_number, tally.outcome
        spells = np.zeros(len(self._pick), np.int64)
        for slot in tally.slots(*self._slots) if len(rows) else ():
            mine = slot.cells[row[of[slot.cells]] >= 0]
            at = row[of[mine]]
            spells[np.unique(at[beyond[at, outcome[mine]]])] += 1
        return spells[rows]

    def _shifts(self, z: F64, before: F64, after: F64, share: F64 | None = None) -> Shifts:
        effect, contexts = (after - before) / self._spread, self._tally.contexts[self._pick]
        share = np.ones(len(z)) if share is None else share
        return Shifts(contexts, z, effect, before, after, self._count, self._slowest, share)


def _rank_z(before: F64, after: F64) -> F64:
    n0, n1 = before.sum(1), after.sum(1)
    n = n0 + n1
    below = np.cumsum(before, 1) - before / 2
    share = (after * below).sum(1) / np.maximum(n0 * n1, 1e-9)
    ties = 1 - ((before + after) ** 3 - (before + after)).sum(1) / np.maximum(n**3 - n, 1.0)
    z: F64 = (share - 0.5) / np.sqrt((n + 1) / (12 * np.maximum(n0 * n1, 1e-9)) * np.maximum(ties, 1e-3))
    return z


def _quantile(histogram: F64, q: float, reached: F64 | None = None) -> F64:
    """Milliseconds, interpolated in the logarithm inside a bin; `reached` are the sums up to each bin, if known."""
    if reached is None:
        reached = np.cumsum(histogram, 1)
    wanted = q * reached[:, -1]
    at = np.minimum((reached < wanted[:, None]).sum(1), BINS - 1)
    row = np.arange(len(histogram))
    before = reached[row, at] - histogram[row, at]
    share = np.clip((wanted - before) / np.maximum(histogram[row, at], 1e-9), 0, 1)
    found: F64 = SHORTEST_NS / 1e6 * np.exp((at + share) * GROWTH)
    return found
