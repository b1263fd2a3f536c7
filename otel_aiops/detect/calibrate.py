"""Calibration: how rare a strangeness is among the normal points of its own series."""

from __future__ import annotations

from typing import Any

import numpy as np

from otel_aiops.detect.compiled import compiled
from otel_aiops.detect.memory import MOST_FEW, Known

MEDIAN, HIGH, HIGHER, HIGHEST = 0.5, 0.9, 0.97, 0.995  # shares of normal points with a lower score
EXTREME = 0.995  # of normal points that deviate less
# Spreads of a normal distribution that these quantiles begin at, and steps of their logarithms once much is known.
MEDIAN_AT, HIGH_AT, HIGHER_AT, HIGHEST_AT, EXTREME_AT = 0.67, 1.64, 2.17, 2.81, 2.81
MEDIAN_STEP, HIGH_STEP, HIGHER_STEP, HIGHEST_STEP = 0.03, 0.03, 0.05, 0.1
EXTREME_STEP = 0.1
SPIKE_STEP = 0.4  # of the extreme quantile, at a point over the threshold
UNSURE_POINTS = 50.0  # known points that halve the extra steps of the beginning
LEAST = 1e-3


@compiled
def begin(known: Known, r: int, threshold: float) -> None:
    """Quantiles of a series that begins; strangeness is in thresholds of so many spreads."""
    known.median[r], known.high[r] = np.log(MEDIAN_AT / threshold), np.log(HIGH_AT / threshold)
    known.higher[r], known.highest[r] = np.log(HIGHER_AT / threshold), np.log(HIGHEST_AT / threshold)
    known.extreme[r] = known.lasting[r] = np.log(EXTREME_AT / threshold)


@compiled
def probability(known: Known, r: int, score: float) -> Any:
    """One minus the share of normal points that score at least as high, in [0, 1].

    The logarithm of the share is linear between the tracked quantiles, and goes on like that beyond the last one: an
    exponential tail, which claims less than a normal distribution would.
    """
    at, share, result = 0.0, 0.0, 0.0
    for name in range(4):
        if not score >= at:
            break
        if name == 0:
            quantile, below = known.median[r], MEDIAN
        elif name == 1:
            quantile, below = known.high[r], HIGH
        elif name == 2:
            quantile, below = known.higher[r], HIGHER
        else:
            quantile, below = known.highest[r], HIGHEST
        following, next_share = np.exp(np.float64(quantile)), np.log1p(-below)
        result = share + (next_share - share) / max(following - at, LEAST) * (score - at)
        at, share = following, next_share
    return -np.expm1(min(result, 0.0))


@compiled
def learn(known: Known, r: int, score: float, far: float, lasting: float, normal: bool, isolated: bool) -> None:
    """Move the quantiles towards a point; `far` and `lasting` are how far it and the short means deviate.

    `isolated` points are over the threshold but stand alone: they count for the highest quantiles, so that a series
    which always had its spikes is not called strange for them. Of points in a row above an extreme quantile only the
    first one counts: a lasting change must not make itself usual while it goes on.
    Source: Robbins and Monro, A Stochastic Approximation Method, 1951: a quantile rises by its share when a point is
    above it and falls by the rest when one is below.
    """
    fresh = 1.0 + UNSURE_POINTS / (1.0 + known.points[r])
    counted = normal or isolated
    size = np.log(max(far, LEAST))
    known.burst[r] = min(np.int64(known.burst[r]) + 1, MOST_FEW) if size > known.extreme[r] else 0
    if counted and known.burst[r] <= 1:
        step = SPIKE_STEP if isolated else EXTREME_STEP
        known.extreme[r] = _moved(known.extreme[r], size, EXTREME, step * fresh)
    size = np.log(max(lasting, LEAST))
    known.long_burst[r] = min(np.int64(known.long_burst[r]) + 1, MOST_FEW) if size > known.lasting[r] else 0
    if counted and known.long_burst[r] <= 1:  # what lasts is no spike
        known.lasting[r] = _moved(known.lasting[r], size, EXTREME, EXTREME_STEP * fresh)
    if np.isnan(score):  # a series that warms up has no score yet
        return
    size = np.log(max(score, LEAST))
    if counted and known.burst[r] <= 1:
        known.highest[r] = _moved(known.highest[r], size, HIGHEST, HIGHEST_STEP * fresh)
    if normal:
        known.median[r] = _moved(known.median[r], size, MEDIAN, MEDIAN_STEP * fresh)
        known.high[r] = _moved(known.high[r], size, HIGH, HIGH_STEP * fresh)
        known.higher[r] = _moved(known.higher[r], size, HIGHER, HIGHER_STEP * fresh)


@compiled
def _moved(before: Any, point: float, share: float, step: float) -> Any:
    """A quantile after a step towards a point, and no further than up to it."""
    was = np.float64(before)
    moved = was + step * (share if point > was else share - 1.0)
    return max(min(moved, max(point, was)), np.log(LEAST))
