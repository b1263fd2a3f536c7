"""Pooled models: series that are alike are found, and for each deployment and service the most typical of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.prototypes import keys_of
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64, I64
from otel_aiops.series.columns import Arrays

ALIKE = 12  # series of a metric that make up a cluster, about
MOST_CLUSTERS = 8  # of a metric
LEAST_ALIKE, APART = 3, 4.0  # series of a metric of a service, and how many of their errors their levels may differ by
DIGITS = 6  # of features: the last ones may differ between machines
TINY, FAR = 1e-12, 30.0
_USED = ("level", "level_error", "drift_error", "near_error", "unit", "median", "high", "same", "interval_s")


def prototypes(
    names: Sequence[str], engine: Mapping[str, NDArray[Any]], warmup_points: int, *, seed: int = 0
) -> Arrays:
    """For each deployment, and for each metric of a service, the row of the series that new ones begin with.

    Series of a metric are clustered by what was learned of them (k-means). A key gets the member of the cluster of
    most of its series that is nearest to the middle of that cluster. Series that are not warm count for nothing.
    A metric of a service has one only where its series are about as high as each other: else the level of one says
    nothing of another, as with routes of an API.
    """
    labels = [Labels.from_json(name) for name in names]
    warm = np.flatnonzero(engine["deviation/points"] >= warmup_points)
    of_metric: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row in warm.tolist():
        one = labels[row]
        of_metric[one.name, one.unit, one.kind, one.stat].append(row)
    cluster, apart = np.full(len(names), -1, np.int64), np.zeros(len(names))
    begun = 0
    for metric in sorted(of_metric):
        rows = np.array(of_metric[metric])
        found, distance = clusters(features(engine, rows), seed)
        cluster[rows], apart[rows] = begun + found, distance
        begun += int(found.max()) + 1
    by_key: dict[int, list[int]] = defaultdict(list)
    of_services: dict[int, list[int]] = defaultdict(list)
    for row, (kin, own) in zip(warm.tolist(), keys_of([labels[row] for row in warm.tolist()]).tolist(), strict=True):
        of_services[own].append(row)
        if kin:
            by_key[kin].append(row)
    by_key |= {key: rows for key, rows in of_services.items() if _alike(engine, np.array(rows))}
    order = sorted(by_key)
    typical = [_typical(np.array(by_key[key]), cluster, apart) for key in order]
    return {"key": np.array(order, np.uint64), "row": np.array(typical, np.int32)}


def features(engine: Mapping[str, NDArray[Any]], rows: I64) -> F64:
    """What M series are like, (M, 8): level, noise, drift, season, tails, flatness, and distance of points in time."""
    of = {name: engine[f"deviation/{name}"][rows].astype(np.float64) for name in _USED}
    size = np.abs(of["level"]) + TINY
    noise = of["level_error"] + TINY
    profile = engine["deviation/profile"][rows].astype(np.float64) * of["unit"][:, None]
    columns = [
        np.log10(size),
        np.log10(noise / size + TINY),
        np.log10((of["drift_error"] + TINY) / noise),  # errors that last: autocorrelation
        np.log10((of["near_error"] + TINY) / noise),
        np.log10((profile.std(axis=1) + TINY) / noise),
        of["high"] - of["median"],
        of["same"],
        np.log10(of["interval_s"] + TINY),
    ]
    x: F64 = np.nan_to_num(np.clip(np.stack(columns, axis=1), -FAR, FAR)).round(DIGITS)
    return x


def clusters(x: F64, seed: int) -> tuple[I64, F64]:
    """(cluster, distance from its middle) of M series with features (M, F), each feature by its own spread."""
    spread = x.std(axis=0)
    z = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    count = min(MOST_CLUSTERS, len(x) // ALIKE, len(np.unique(z, axis=0)))
    if count < 2:
        return np.zeros(len(x), np.int64), np.sqrt((z * z).sum(axis=1)).round(DIGITS)
    from sklearn.cluster import KMeans

    model = KMeans(count, n_init=3, random_state=seed).fit(z)
    found = model.labels_.astype(np.int64)
    _, numbers = np.unique(found, return_inverse=True)
    distance = np.sqrt(((z - model.cluster_centers_[found]) ** 2).sum(axis=1))
    return numbers.astype(np.int64), distance.round(DIGITS)


def _alike(engine: Mapping[str, NDArray[Any]], rows: I64) -> bool:
    """Whether the levels of series differ by little more than each of them varies."""
    if len(rows) < LEAST_ALIKE:
        return False
    level, error = engine["deviation/level"][rows], engine["deviation/level_error"][rows]
    low, high = np.quantile(level, (0.1, 0.9))
    return bool(high - low <= APART * np.median(error))


def _typical(rows: I64, cluster: I64, apart: F64) -> int:
    """The row of the most frequent cluster (of equal ones the first) that is nearest to its middle."""
    usual = np.bincount(cluster[rows]).argmax()
    mine = rows[cluster[rows] == usual]
    return int(mine[apart[mine].argmin()])
