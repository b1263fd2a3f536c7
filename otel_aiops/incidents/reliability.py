"""Reliability: how often predictions came true, by the probability they were made with, and how early they were."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from otel_aiops.otlp.points import F64, I64
from otel_aiops.series.columns import Arrays, checked

BINS = 10  # of probability
NEWEST = 512  # lead times that are kept
PRIOR = 10.0  # outcomes that a stated probability counts as, against what happened


@dataclass(frozen=True, slots=True)
class Diagram:
    """The reliability diagram, (10,) each: bins of probability from `low`, the mean that was predicted, how many, and
    the share that came true (NaN where there was none).
    """

    low: F64
    predicted: F64
    count: I64
    happened: F64


class Reliability:
    """Outcomes of predictions, counted; lead times of the newest hits, in seconds."""

    def __init__(self) -> None:
        self._sum = np.zeros(BINS)
        self._count = np.zeros(BINS, np.int64)
        self._hits = np.zeros(BINS, np.int64)
        self._lead_s = np.empty(0)

    @classmethod
    def together(cls, parts: Iterable[Reliability]) -> Reliability:
        """What several have counted, as one; lead times in the order of the parts."""
        found = cls()
        for one in parts:
            found._sum += one._sum
            found._count += one._count
            found._hits += one._hits
            found._lead_s = np.concatenate((found._lead_s, one._lead_s))
        return found

    @property
    def hits(self) -> int:
        """Predictions that came true."""
        return int(self._hits.sum())

    @property
    def misses(self) -> int:
        """Predictions that did not."""
        return int((self._count - self._hits).sum())

    @property
    def lead_s(self) -> F64:
        """How long before, of the newest hits (H,), the newest last."""
        return self._lead_s.copy()

    @property
    def brier(self) -> float:
        """Mean squared error of the bins' mean probabilities, NaN without outcomes; 0.25 is a coin."""
        total = int(self._count.sum())
        if not total:
            return float("nan")
        mean = self._sum / np.maximum(self._count, 1)
        missed = self._count - self._hits
        return float((self._hits * (1 - mean) ** 2 + missed * mean**2).sum() / total)

    def add(self, probability: float, *, lead_s: float | None) -> None:
        """Count one outcome: a hit so long after it was predicted, or a miss (None)."""
        k = _bin(probability)
        self._sum[k] += probability
        self._count[k] += 1
        if lead_s is not None:
            self._hits[k] += 1
            self._lead_s = np.append(self._lead_s, lead_s)[-NEWEST:]

    def calibrated(self, probability: float) -> float:
        """A probability, moved towards what became of those like it; itself while there are no outcomes."""
        k = _bin(probability)
        return float((PRIOR * probability + self._hits[k]) / (PRIOR + self._count[k]))

    def diagram(self) -> Diagram:
        """What to plot, and to export."""
        with np.errstate(invalid="ignore"):
            mean, share = self._sum / self._count, self._hits / self._count
        return Diagram(np.arange(BINS) / BINS, mean, self._count.copy(), share)

    def state(self) -> Arrays:
        """Copies of everything."""
        counts = {"sum": self._sum, "count": self._count, "hits": self._hits, "lead_s": self._lead_s}
        return {name: array.copy() for name, array in counts.items()}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        shapes: dict[str, tuple[Any, tuple[int | str, ...]]] = {
            "sum": (np.float64, (BINS,)),
            "count": (np.int64, (BINS,)),
            "hits": (np.int64, (BINS,)),
            "lead_s": (np.float64, ("H",)),
        }
        checked(arrays, shapes)
        self._sum, self._count, self._hits, self._lead_s = (arrays[name].copy() for name in shapes)


def _bin(probability: float) -> int:
    return min(max(int(probability * BINS), 0), BINS - 1)
