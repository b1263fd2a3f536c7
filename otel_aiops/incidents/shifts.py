"""Shifts: which operations and calls take longer than usual, by rank test and in spreads of what is usual."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otel_aiops.incidents.behaviour import BINS, GROWTH, SHORTEST_NS
from otel_aiops.otlp.points import F64, I64
from otel_aiops.signals.tally import Tally

LEAST_NOW, LEAST_USUAL = 3, 8  # observations
FLOOR_MS = 0.2  # a spread is at least this, and a tenth of the median
PART = 0.1
NORMAL_IQR = 1.35  # of a normal distribution, in standard deviations
MIDDLE, UPPER = 0.5, 0.8  # what is slow in one of three instances moves only the upper of the two
LEAST_UPPER = 12  # observations for a quantile other than the middle


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

    def __len__(self) -> int:
        return len(self.context)


def shifts(tally: Tally, window: F64, least_usual: float = LEAST_USUAL, quantile: float = MIDDLE) -> Shifts:
    """Compare the counts of a window, (C,), with what is usual, in contexts that came so often in that."""
    of, now, usual = tally.context_number, tally.per_context(window), tally.per_context(tally.usual)
    least_now = LEAST_NOW if quantile == MIDDLE else LEAST_UPPER
    pick = np.flatnonzero((now >= least_now) & (usual >= max(least_usual, LEAST_USUAL)))
    row = np.full(len(now), -1)
    row[pick] = np.arange(len(pick))
    cells = np.flatnonzero(row[of] >= 0)
    at = row[of[cells]], tally.outcome[cells]
    before, after = np.zeros((2, len(pick), BINS))
    before[at], after[at] = tally.usual[cells], window[cells]
    slowest = np.zeros(len(pick), np.int64)
    seen = cells[window[cells] > 0]
    order = np.argsort(tally.outcome[seen], kind="stable")
    slowest[row[of[seen[order]]]] = seen[order]
    was, now_at = _quantile(before, quantile), _quantile(after, quantile)
    spread = (_quantile(before, 0.75) - _quantile(before, 0.25)) / NORMAL_IQR + PART * was + FLOOR_MS
    effect = (now_at - was) / spread
    return Shifts(tally.contexts[pick], _rank_z(before, after), effect, was, now_at, now[pick], slowest)


def _rank_z(before: F64, after: F64) -> F64:
    n0, n1 = before.sum(1), after.sum(1)
    n = n0 + n1
    below = np.cumsum(before, 1) - before / 2
    share = (after * below).sum(1) / np.maximum(n0 * n1, 1e-9)
    ties = 1 - ((before + after) ** 3 - (before + after)).sum(1) / np.maximum(n**3 - n, 1.0)
    z: F64 = (share - 0.5) / np.sqrt((n + 1) / (12 * np.maximum(n0 * n1, 1e-9)) * np.maximum(ties, 1e-3))
    return z


def _quantile(histogram: F64, q: float) -> F64:
    """Milliseconds, interpolated in the logarithm inside a bin."""
    reached = np.cumsum(histogram, 1)
    wanted = q * reached[:, -1]
    at = np.minimum((reached < wanted[:, None]).sum(1), BINS - 1)
    row = np.arange(len(histogram))
    before = reached[row, at] - histogram[row, at]
    share = np.clip((wanted - before) / np.maximum(histogram[row, at], 1e-9), 0, 1)
    found: F64 = SHORTEST_NS / 1e6 * np.exp((at + share) * GROWTH)
    return found
