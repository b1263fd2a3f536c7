"""Peers that are libraries: river, scikit-learn, PyOD and statsmodels, each fed in the order of time."""

from __future__ import annotations

import gc
import importlib
import sys
import warnings
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.imitations import LEAST_SCALE, lagged
from benchmarks.detection.series import Series, filled
from otel_aiops.otlp.points import F64

FOREST_LAGS, FOREST_FIRST, FOREST_GROWTH, FOREST_ROWS = 2, 100, 1.5, 5000
KNN_LAGS, KNN_ROWS, KNN_EVERY = 5, 1000, 250
WINTERS_FIRST, WINTERS_CYCLES, WINTERS_LEAST = 50, 4, 500
WINTERS_WEIGHT = 0.007  # of a new error in the usual one: a half-life of 100 rows


def half_space_trees(series: Series) -> tuple[F64, int]:
    """river's HalfSpaceTrees at its defaults, over a value and the one before, scaled to the range seen so far."""
    trees = importlib.import_module("river.anomaly").HalfSpaceTrees(seed=42)
    scaler = importlib.import_module("river.preprocessing").MinMaxScaler()
    value = filled(series.value).tolist()
    score, before = np.zeros(len(value)), value[0]
    for k, now in enumerate(value):
        point = {"now": now, "before": before}
        scaler.learn_one(point)
        scaled = scaler.transform_one(point)
        score[k] = trees.score_one(scaled)
        trees.learn_one(scaled)
        before = now
    return score, deep_bytes([trees, scaler])


def isolation_forest(series: Series) -> tuple[F64, int]:
    """scikit-learn's IsolationForest at its defaults, over a value and the one before.

    It is fitted again on the past whenever that has grown by half. More lags hide a spike: few splits meet its column.
    """
    from sklearn.ensemble import IsolationForest

    features = lagged(filled(series.value), FOREST_LAGS)
    score, begin, size = np.zeros(len(features)), FOREST_FIRST, 0
    while begin < len(features):
        end = int(begin * FOREST_GROWTH)
        forest = IsolationForest(random_state=0).fit(features[max(0, begin - FOREST_ROWS) : begin])
        score[begin:end] = -forest.score_samples(features[begin:end])
        arrays = [tree.tree_.__getstate__() for tree in forest.estimators_]
        size = sum(array["nodes"].nbytes + array["values"].nbytes for array in arrays)
        begin = end
    return score, size + min(len(features), FOREST_ROWS) * 8


def nearest_neighbours(series: Series) -> tuple[F64, int]:
    """PyOD's KNN over five lags of the last 1000 rows, fitted again every 250.

    Its ECOD is left out: its decision function ranks the asked rows among each other, so a row would see later ones.
    """
    knn = importlib.import_module("pyod.models.knn").KNN
    features = lagged(filled(series.value), KNN_LAGS)
    score, size = np.zeros(len(features)), 0
    for begin in range(KNN_EVERY, len(features), KNN_EVERY):
        past = features[max(0, begin - KNN_ROWS) : begin]
        scale = past.std() + LEAST_SCALE * (1.0 + np.abs(past).max())
        model = knn().fit(past / scale)
        block = features[begin : begin + KNN_EVERY]
        score[begin : begin + len(block)] = model.decision_function(block / scale)
        size = past.nbytes * 2  # the tree keeps its own copy
    return score, size


def holt_winters(series: Series) -> tuple[F64, int]:
    """statsmodels' Holt-Winters with a damped trend and the season of a day, fitted whenever the past has doubled.

    Between fits its recursion goes on with the fitted weights. The score is the error of the forecast of one step, in
    usual errors.
    """
    value = filled(series.value)
    forecast, begin, day = np.full(len(value), np.nan), WINTERS_FIRST, series.day
    state = np.empty(0)
    while begin < len(value):
        end = min(2 * begin, 2 * day) if begin < 2 * day < 2 * begin else 2 * begin
        past = value[max(0, begin - max(WINTERS_CYCLES * day, WINTERS_LEAST)) : begin]
        forecast[begin:end], state = _winters(past, value[begin:end], day if len(past) >= 2 * day else 0)
        begin = end
    return _usual(np.abs(value - forecast)), (len(state) + 8) * 8


def deep_bytes(root: object) -> int:
    """Bytes of everything that objects hold, arrays with their data; classes, modules and functions are not counted."""
    seen, waiting, size = set(), [root], 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType):
            continue
        seen.add(id(one))
        size += one.nbytes if isinstance(one, np.ndarray) else sys.getsizeof(one)
        waiting.extend(gc.get_referents(one))
    return size


def _winters(past: F64, following: F64, season: int) -> tuple[F64, F64]:
    """(forecast of one step for each of the following rows, state at the end)."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant stretches and searches that stop early; the weights still serve
        model = ExponentialSmoothing(
            past, trend="add", damped_trend=True, seasonal="add" if season else None, seasonal_periods=season or None,
            initialization_method="heuristic" if len(past) >= 10 else "simple",
        )  # fmt: skip
        fit = model.fit(optimized=True, use_brute=False)
    weights = {name: float(np.nan_to_num(fit.params.get(name, 0.0))) for name in _WEIGHTS}
    level, trend = float(fit.level[-1]), float(fit.trend[-1])
    seasons: list[float] = list(fit.season[-season:]) if season else [0.0]
    return _recursion(following, weights, level, trend, seasons)


_WEIGHTS = ("smoothing_level", "smoothing_trend", "smoothing_seasonal", "damping_trend")


def _recursion(
    following: F64, weights: dict[str, Any], level: float, trend: float, seasons: list[float]
) -> tuple[F64, F64]:
    """Holt-Winters with additive season; Hyndman and Athanasopoulos, Forecasting, 3rd edition, section 8.3."""
    alpha, beta, gamma, phi = (weights[name] for name in _WEIGHTS)
    forecast: NDArray[np.float64] = np.empty(len(following))
    for k, value in enumerate(following.tolist()):
        season, carried = seasons[k % len(seasons)], phi * trend
        forecast[k] = level + carried + season
        risen = alpha * (value - season) + (1 - alpha) * (level + carried)
        seasons[k % len(seasons)] = gamma * (value - level - carried) + (1 - gamma) * season
        trend = beta * (risen - level) + (1 - beta) * carried
        level = risen
    return forecast, np.array([level, trend, *seasons])


def _usual(error: F64) -> F64:
    """Errors in a running mean of those before; 0 before the first forecast."""
    score, usual, known = np.zeros(len(error)), 0.0, 0
    for k, one in enumerate(error.tolist()):
        if one != one:
            continue
        if known >= 20:
            score[k] = one / max(usual, 1e-12)
        known += 1
        usual += max(WINTERS_WEIGHT, 1 / known) * (one - usual)
    return score
