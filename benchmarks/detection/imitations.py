"""Peers that we wrote anew from their documents, and the rows that show what a measure gives for nothing."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from benchmarks.detection.series import Series, filled
from otel_aiops.otlp.points import F64, Bool

HOUR_S = 3600.0
LEAST_SCALE = 1e-9  # of the level; keeps a constant series from dividing by zero

ROBUST_ROWS, ROBUST_WARM = 300, 20

# Netdata: learn.netdata.cloud, ML configuration. Its windows of 6 h are 21,600 points there, and would be six here.
MODELS, LAGS, SMOOTH = 18, 5, 3
TRAIN_S, TRAIN_LEAST = 6 * HOUR_S, 120  # seconds; but so many rows
ITERATIONS = 50

# promql-anomaly-detection, adaptive: the factors of its recording rules.
BAND_SPREADS, MARGIN, VARIABLE = 2.0, 0.5, 0.5
SMOOTH_S, BACK_S = 26 * HOUR_S, (23.5 * HOUR_S, 167.5 * HOUR_S)
HOUR_LEAST = 5  # rows of its windows of an hour, or hourly series would have one


def constant(series: Series) -> tuple[F64, int]:
    """Always equally strange."""
    return np.ones(len(series.value)), 0


def random(series: Series) -> tuple[F64, int]:
    """Strange by chance; the seed is made of the name, so every series has its own."""
    seed = list(series.name.encode())
    return np.random.default_rng(seed).random(len(series.value)), 0


def robust(series: Series) -> tuple[F64, int]:
    """Distance from the median of the last 300 rows, in their median absolute deviations."""
    value = filled(series.value)
    score = np.zeros(len(value))
    for k in range(ROBUST_WARM, min(ROBUST_ROWS, len(value))):
        score[k] = _robust(value[None, :k], value[k : k + 1])[0]
    if len(value) > ROBUST_ROWS:
        windows = sliding_window_view(value[:-1], ROBUST_ROWS)
        for begin in range(0, len(windows), 4096):  # so that the copies stay small
            some = windows[begin : begin + 4096]
            at = slice(begin + ROBUST_ROWS, begin + ROBUST_ROWS + len(some))
            score[at] = _robust(some, value[at])
    return score, ROBUST_ROWS * 8


def netdata(series: Series) -> tuple[F64, int]:
    """Netdata's k-means: 18 models of two centres over six smoothed differences; the one least alarmed counts.

    A model says how far the mean distance to its centres is between the least (0) and the largest (1) it saw in
    training. Netdata calls a point anomalous when all models say 0.99 or more; here that is the score itself.
    """
    features = _netdata_features(filled(series.value))
    rows = max(TRAIN_LEAST, round(TRAIN_S / series.step_s))
    score = np.zeros(len(series.value))
    models: list[tuple[F64, float, float]] = []
    for begin in range(rows, len(features), rows // 2):
        models = [*models[-(MODELS - 1) :], _train(features[begin - rows : begin])]
        block = features[begin : begin + rows // 2]
        says = [(_distance(block, centres) - least) / span for centres, least, span in models]
        score[begin : begin + len(block)] = np.maximum(np.min(says, axis=0), 0.0)
    return score, (len(models) * (2 * (LAGS + 1) + 2) + rows + LAGS + SMOOTH) * 8


def grafana(series: Series) -> tuple[F64, int]:
    """The adaptive bands of promql-anomaly-detection: how far a point is on the way from the middle to the band.

    The band is the widest of 2 spreads of an hour (averaged over 26 hours), half of the level, and 2 spreads around the
    same hour of the day and of the week before. Points at or below zero, which its rules leave out, are kept.
    """
    value, step_s = filled(series.value), series.step_s
    hour = max(HOUR_LEAST, round(HOUR_S / step_s))
    middle, spread = _rolling(value, hour)
    variable = spread > VARIABLE * np.abs(middle)
    variable[:hour] = False  # windows that are not full yet
    smooth = max(hour, round(SMOOTH_S / step_s))
    short = _trailing_sum(np.where(variable, spread, 0.0), smooth) / np.maximum(_trailing_sum(variable, smooth), 1)
    width = np.maximum(BAND_SPREADS * short, MARGIN * np.abs(middle))
    upper, lower = middle + width, middle - width
    for back_s in BACK_S:
        back = round(back_s / step_s)
        if 0 < back < len(value):
            before, around = middle[:-back], BAND_SPREADS * spread[:-back]
            upper[back:] = np.maximum(upper[back:], before + around)
            lower[back:] = np.minimum(lower[back:], before - around)
    least = LEAST_SCALE * (1.0 + np.abs(middle))
    score = np.maximum((value - middle) / np.maximum(upper - middle, least),
                       (middle - value) / np.maximum(middle - lower, least))  # fmt: skip
    score[:hour] = 0.0
    return score, round(BACK_S[-1] / step_s) * 8


def lagged(value: F64, lags: int) -> F64:
    """Rows of a value and those before it, (N, lags); the first ones repeat the first value."""
    return sliding_window_view(np.concatenate([np.full(lags - 1, value[0]), value]), lags)


def _robust(windows: F64, value: F64) -> F64:
    middle = np.median(windows, axis=1)
    deviation = 1.4826 * np.median(np.abs(windows - middle[:, None]), axis=1)
    # A quarter of the standard deviation: more than half of equal values must not make all others strange.
    scale = np.maximum(deviation, 0.25 * windows.std(axis=1)) + LEAST_SCALE * (1e-9 + np.abs(middle))
    return np.asarray(np.abs(value - middle) / scale)


def _netdata_features(value: F64) -> F64:
    change = np.diff(value, prepend=value[:1])
    smooth = lagged(change, SMOOTH).mean(axis=1)
    return lagged(smooth, LAGS + 1)


def _train(features: F64) -> tuple[F64, float, float]:
    """(two centres, least distance, span of distances) of one model."""
    size = np.abs(features).sum(axis=1)
    centres = features[[size.argmin(), size.argmax()]].copy()
    for _ in range(ITERATIONS):
        far = np.linalg.norm(features[:, None] - centres, axis=2)
        nearer = far[:, 1] < far[:, 0]
        if not 0 < nearer.sum() < len(nearer):
            break
        moved = np.array([features[~nearer].mean(axis=0), features[nearer].mean(axis=0)])
        if (moved == centres).all():
            break
        centres = moved
    distance = _distance(features, centres)
    least, most = float(distance.min()), float(distance.max())
    return centres, least, max(most - least, LEAST_SCALE * (1.0 + most))


def _distance(features: F64, centres: F64) -> F64:
    return np.asarray(np.linalg.norm(features[:, None] - centres, axis=2).mean(axis=1))


def _rolling(value: F64, rows: int) -> tuple[F64, F64]:
    """(mean, standard deviation) of the last rows with the present one, (N,) each."""
    windows = lagged(value, rows)
    return windows.mean(axis=1), windows.std(axis=1)


def _trailing_sum(value: F64 | Bool, rows: int) -> F64:
    total = np.cumsum(value, dtype=np.float64)
    total[rows:] = total[rows:] - total[:-rows]
    return total
