"""Trends: series without trend and outliers, as compiled loops; NaN is where there is no value."""

from __future__ import annotations

from typing import Any

import numpy as np

from otel_aiops.detect.compiled import compiled
from otel_aiops.otlp.points import F64, Bool

TREND_SHARE = 4  # the trend is a mean over this part of the history
CLIP = 6.0  # scales from the trend; what is farther off counts as this


@compiled
def trend_of(x: F64, trend: F64, sums: F64) -> None:
    """Put in `trend` the mean over a quarter of the history around each value; `sums` is room (2, T + 1 or more)."""
    points = len(x)
    half, total, counts = max(1, points // TREND_SHARE // 2), sums[0], sums[1]
    total[0] = counts[0] = 0.0
    for i in range(points):
        known = not np.isnan(x[i])
        total[i + 1] = total[i] + (x[i] if known else 0.0)
        counts[i + 1] = counts[i] + (1.0 if known else 0.0)
    for i in range(points):
        start, end = max(i - half, 0), min(i + half + 1, points)
        trend[i] = (total[end] - total[start]) / max(counts[end] - counts[start], 1.0)


@compiled
def detrend(x: F64, rest: F64, trend: F64, sums: F64) -> None:
    """Put K series (K, T) without their trend in `rest`, 0 where nothing is known."""
    for k in range(len(x)):
        trend_of(x[k], trend, sums)
        for i in range(x.shape[1]):
            rest[k, i] = 0.0 if np.isnan(x[k, i]) else x[k, i] - trend[i]


@compiled
def clean(x: F64, varies: Bool, room: F64, sums: F64) -> None:
    """Bring K series (K, T) into their own scale without outliers, in place; which of them vary at all."""
    order, trend = room[0], room[1]
    for k in range(len(x)):
        one = x[k]
        middle = quantile(order[: _known(one, 0.0, order)], 0.5)
        for i in range(len(one)):
            one[i] -= middle
        if scale_of(one) > 0:
            _clip(one, order)
            trend_of(one, trend, sums)
            take_away(one, trend)
            _clip(one, order)
            spread, count = 0.0, 0
            for i in range(len(one)):
                if not np.isnan(one[i]):
                    spread += abs(one[i])
                    count += 1
            spread /= count
            varies[k] = spread > 1e-12
            for i in range(len(one)):
                one[i] = (one[i] + trend[i]) / spread


@compiled
def scale_of(x: F64) -> Any:
    """Divide a series by its largest value; returns that."""
    size = 0.0
    for i in range(len(x)):
        size = max(size, abs(x[i])) if not np.isnan(x[i]) else size
    if size > 0:
        for i in range(len(x)):
            x[i] /= size
    return size


@compiled
def take_away(x: F64, other: F64) -> None:
    for i in range(len(x)):
        x[i] -= other[i]


@compiled
def _clip(x: F64, order: F64) -> None:
    """Clip outliers: many scales from the median, by the larger one of two quantiles, else by the mean."""
    centre = quantile(order[: _known(x, 0.0, order)], 0.5)
    off = order[: _known(x, centre, order)]
    mean = 0.0
    for i in range(len(off)):
        off[i] = abs(off[i])
        mean += off[i]
    mean /= len(off)
    scale = max(quantile(off, 0.5) * 1.4826, quantile(off, 0.9) / 1.645)
    far = CLIP * (scale if scale > 0 else 1.25 * CLIP * mean)
    for i in range(len(x)):
        x[i] = min(max(x[i], centre - far), centre + far) if not np.isnan(x[i]) else np.nan


@compiled
def _known(x: F64, centre: float, known: F64) -> int:
    """Put the values that there are, from a centre, in `known`; returns how many."""
    count = 0
    for i in range(len(x)):
        if not np.isnan(x[i]):
            known[count] = x[i] - centre
            count += 1
    return count


@compiled
def quantile(values: F64, share: float) -> Any:
    """A quantile between two values by their distance; they are reordered.

    Source: Hoare, Algorithm 65: Find, 1961.
    """
    place = share * (len(values) - 1)
    at, low, high = np.int64(place), 0, len(values) - 1
    while low < high:
        pivot, i, j = values[(low + high) // 2], low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        high = j if at <= j else high
        low = i if at >= i else low
        if j < at < i:
            break
    below, above = values[at], np.inf
    if place == at:
        return below
    for i in range(at + 1, len(values)):
        above = min(above, values[i])
    return below + (above - below) * (place - at)
