"""Calibration: how rare a strangeness is among the normal points of its own series."""

from __future__ import annotations

import numpy as np

from otel_aiops.detect.memory import State
from otel_aiops.otlp.points import F64, Bool

SHARES = {"median": 0.5, "high": 0.9, "higher": 0.97, "extreme": 0.995}  # of normal points below
START_AT = {"median": 0.67, "high": 1.64, "higher": 2.17, "extreme": 2.81}  # spreads: those of a normal distribution
STEPS = {"median": 0.03, "high": 0.03, "higher": 0.05, "extreme": 0.1}  # of their logarithms, once much is known
SPIKE_STEP = 0.4  # of the extreme quantile, at a point over the threshold
UNSURE_POINTS = 50.0  # known points that halve the extra steps of the beginning
LEAST = 1e-3


def begin(state: State, new: Bool, threshold: float) -> None:
    """Quantiles of series that begin; strangeness is in thresholds of so many spreads."""
    if new.any():
        for name, spreads in START_AT.items():
            state[name][new] = np.log(spreads / threshold)


def probability(state: State, strangeness: F64) -> F64:
    """One minus the share of normal points that are at least as strange, (K,) in [0, 1].

    The logarithm of the share is linear between the tracked quantiles, and goes on like that beyond the last one: an
    exponential tail, which claims less than a normal distribution would.
    """
    at, share = np.zeros(len(strangeness)), 0.0
    result = np.zeros(len(strangeness))
    for name, below in SHARES.items():
        following, next_share = np.exp(state[name]), np.log1p(-below)
        slope = (next_share - share) / np.maximum(following - at, LEAST)
        result = np.where(strangeness >= at, share + slope * (strangeness - at), result)
        at, share = following, next_share
    return np.asarray(-np.expm1(np.minimum(result, 0.0)))


def learn(state: State, strangeness: F64, *, normal: Bool, isolated: Bool) -> None:
    """Move the quantiles towards K points, in place.

    `isolated` points are over the threshold but stand alone: they count for the extreme quantile, so that a series
    which always had its spikes is not called strange for them. Of points in a row above the extreme quantile only the
    first one counts: a lasting change must not make itself usual while it goes on.
    Source: Robbins and Monro, A Stochastic Approximation Method, 1951: a quantile rises by its share when a point is
    above it and falls by the rest when one is below.
    """
    logarithm = np.log(np.maximum(strangeness, LEAST))
    fresh = 1.0 + UNSURE_POINTS / (1.0 + state["points"])
    burst = np.where(logarithm > state["extreme"], state["burst"] + 1, 0.0)
    for name, share in SHARES.items():
        before = state[name]
        step = np.where(isolated, SPIKE_STEP, STEPS[name]) if name == "extreme" else STEPS[name]
        moved = before + step * fresh * ((logarithm > before) + (share - 1.0))
        moved = np.minimum(moved, np.maximum(logarithm, before))  # up to the point and no further
        used = (normal | isolated) & (burst <= 1) if name == "extreme" else normal
        state[name] = np.where(used, np.maximum(moved, np.log(LEAST)), state[name])
    state["burst"] = burst
