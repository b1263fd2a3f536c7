"""Calibration: how rare a strangeness is among the normal points of its own series."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from otel_aiops.detect.memory import State
from otel_aiops.otlp.points import F64, Bool

SHARES = {"median": 0.5, "high": 0.9, "higher": 0.97, "highest": 0.995}  # of normal points with a lower score
EXTREME = 0.995  # of normal points that deviate less
START_AT = {
    "median": 0.67,
    "high": 1.64,
    "higher": 2.17,
    "highest": 2.81,
    "extreme": 2.81,
    "lasting": 2.81,
}  # spreads of a normal one
STEPS = {"median": 0.03, "high": 0.03, "higher": 0.05, "highest": 0.1}  # of their logarithms, once much is known
EXTREME_STEP = 0.1
BURSTS = ("burst", "long_burst")  # of the two extreme quantiles
SPIKE_STEP = 0.4  # of the extreme quantile, at a point over the threshold
UNSURE_POINTS = 50.0  # known points that halve the extra steps of the beginning
LEAST = 1e-3


def begin(state: State, new: Bool, threshold: float) -> None:
    """Quantiles of series that begin; strangeness is in thresholds of so many spreads."""
    if new.any():
        for name, spreads in START_AT.items():
            state[name][new] = np.log(spreads / threshold)


def probability(state: State, score: F64) -> F64:
    """One minus the share of normal points that score at least as high, (K,) in [0, 1].

    The logarithm of the share is linear between the tracked quantiles, and goes on like that beyond the last one: an
    exponential tail, which claims less than a normal distribution would.
    """
    at, share = np.zeros(len(score)), 0.0
    result = np.zeros(len(score))
    for name, below in SHARES.items():
        following, next_share = np.exp(state[name]), np.log1p(-below)
        slope = (next_share - share) / np.maximum(following - at, LEAST)
        result = np.where(score >= at, share + slope * (score - at), result)
        at, share = following, next_share
    return np.asarray(-np.expm1(np.minimum(result, 0.0)))


def learn(state: State, score: F64, extremes: Mapping[str, F64], *, normal: Bool, isolated: Bool) -> None:
    """Move the quantiles towards K points, in place; `extremes` are the deviations by the name of their quantile.

    `isolated` points are over the threshold but stand alone: they count for the highest quantiles, so that a series
    which always had its spikes is not called strange for them. Of points in a row above an extreme quantile only the
    first one counts: a lasting change must not make itself usual while it goes on.
    Source: Robbins and Monro, A Stochastic Approximation Method, 1951: a quantile rises by its share when a point is
    above it and falls by the rest when one is below.
    """
    fresh = 1.0 + UNSURE_POINTS / (1.0 + state["points"])
    counted = normal | isolated
    spike = np.where(isolated, SPIKE_STEP, EXTREME_STEP)
    for (name, deviation), burst in zip(extremes.items(), BURSTS, strict=True):
        size = np.log(np.maximum(deviation, LEAST))
        state[burst] = np.where(size > state[name], state[burst] + 1, 0.0)
        first = counted & (state[burst] <= 1)
        step = spike if name == "extreme" else EXTREME_STEP  # what lasts is no spike
        state[name] = np.where(first, _moved(state[name], size, EXTREME, step * fresh), state[name])
    logarithm = np.log(np.maximum(score, LEAST))
    scored = ~np.isnan(score)  # a series that warms up has no score yet
    for name, share in SHARES.items():
        used = scored & (counted & (state["burst"] <= 1) if name == "highest" else normal)
        state[name] = np.where(used, _moved(state[name], logarithm, share, STEPS[name] * fresh), state[name])


def _moved(before: F64, point: F64, share: float, step: F64) -> F64:
    """A quantile after a step towards a point, and no further than up to it."""
    moved = before + step * ((point > before) + (share - 1.0))
    return np.maximum(np.minimum(moved, np.maximum(point, before)), np.log(LEAST))
