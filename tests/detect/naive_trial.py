"""The trial of a period as array operations: what the compiled one is compared with."""

from __future__ import annotations

import numpy as np

from otel_aiops.detect.trends import TREND_SHARE
from otel_aiops.detect.trials import (
    CYCLE_WEIGHT,
    CYCLES,
    FEW_PARTS,
    HORIZON,
    LEARNED,
    LEVEL_WEIGHTS,
    PARTS,
    SLOTS,
)
from otel_aiops.otlp.points import F64, I64


def naive_trial(x: F64, lag: float) -> tuple[float, float, float, F64]:
    """(gain, significance, strength, season (T,)) of a period of one series (T,)."""
    slots = min(SLOTS, int(lag))
    first = max(0, len(x) - int(CYCLES * lag))
    slot = np.floor((np.arange(len(x)) - first) * (slots / lag) + 1e-9).astype(np.int64)
    binned = _binned(x[first:], slot[first:], slots)
    seasons, profile = _seasons(binned)
    plain, seasonal = _errors(binned), _errors(binned - seasons)
    season = np.where(slot >= slots, seasons.reshape(-1)[np.maximum(slot, 0)], profile[slot % slots])
    judged = slice(int(np.searchsorted(slot, LEARNED * slots)), None)
    whole = x[judged] - naive_trend(x[judged])
    left = whole - (season[judged] - naive_trend(season[judged]))
    strength = float(np.clip(1 - np.nansum(left**2) / np.nansum(whole**2), 0, 1))
    return (1 - float(np.nansum(seasonal) / np.nansum(plain)), _significance(plain - seasonal), strength, season)


def naive_trend(x: F64) -> F64:
    """The mean over a quarter of the history around each value, 0 where nothing is known."""
    half = max(1, len(x) // TREND_SHARE // 2)
    around = [x[max(i - half, 0) : i + half + 1] for i in range(len(x))]
    return np.array([np.nanmean(part) if np.isfinite(part).any() else 0.0 for part in around])


def _binned(x: F64, slot: I64, slots: int) -> F64:
    binned = np.full((int(slot[-1]) // slots + 1) * slots, np.nan)
    for one in np.unique(slot[np.isfinite(x)]):
        binned[one] = np.nanmean(x[slot == one])
    return binned.reshape(-1, slots)


def _seasons(binned: F64) -> tuple[F64, F64]:
    """(the profile before each cycle (C, slots), the last one (slots,))."""
    slots = binned.shape[1]
    count = np.isfinite(binned).sum(axis=1)
    mean = np.where(2 * count >= slots, np.nansum(binned, axis=1) / np.maximum(count, 1), np.nan)
    slope = np.diff(mean, prepend=np.nan)
    slope[0] = slope[1]
    shape = binned - mean[:, None] - np.nan_to_num(slope)[:, None] * ((np.arange(slots) + 0.5) / slots - 0.5)
    profile, seen, seasons = np.zeros(slots), np.zeros(slots), np.zeros_like(binned)
    for cycle, one in enumerate(shape):
        seasons[cycle] = profile
        known = np.isfinite(one)
        seen += known
        weight = np.maximum(1 / np.maximum(seen, 1), CYCLE_WEIGHT)
        profile = profile + np.where(known, weight * (one - profile), 0.0)
    return seasons, profile


def _errors(binned: F64) -> F64:
    """(C, slots) of the cycles that are judged."""
    slots, flat = binned.shape[1], binned.reshape(-1)
    ahead, known = max(1, slots // HORIZON), flat[np.isfinite(flat)]
    tried = []
    for weight in LEVEL_WEIGHTS:
        level = np.empty_like(flat)
        now = last = known[0] if len(known) else 0.0
        for j, value in enumerate(flat):
            last = value if np.isfinite(value) else last
            level[j] = now = weight * last + (1 - weight) * now
        tried.append(np.abs(flat[LEARNED * slots :] - level[LEARNED * slots - ahead : -ahead]))
    return min(tried, key=np.nansum).reshape(-1, slots)


def _significance(less: F64) -> float:
    part = less.shape[1] // PARTS
    parts = less[:, : part * PARTS].reshape(-1, part)
    parts = parts[2 * np.isfinite(parts).sum(axis=1) >= part]
    if len(parts) <= 2:
        return 0.0
    mean = np.nanmean(parts, axis=1)
    error = np.std(mean, ddof=1) / np.sqrt(len(mean)) * (1 + FEW_PARTS / len(mean))
    return float(mean.mean() / max(error, 1e-12))
