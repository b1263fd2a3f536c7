"""Families beside the engine: each learns from the points of a group of series, and becomes plain arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from otel_aiops.detect.forest import MOST_SPREADS, TRAINED, series_key
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.forecasts import train_forecasts
from otel_aiops.lifecycle.stretch import Stretch
from otel_aiops.lifecycle.version import ForecastConfig, ForestConfig, Settings
from otel_aiops.lifecycle.workers import Told, work
from otel_aiops.otlp.points import F64, I64
from otel_aiops.series.columns import Arrays

LEAST_MOMENTS = 200  # of a service, or it gets no forest
MARGIN = 1.2  # times the distance of a rare moment from a usual one is the threshold
RARE = 0.999


@dataclass(frozen=True, slots=True)
class Service:
    """What a forest is trained on: the series of a service, sorted."""

    stretch: Stretch
    names: tuple[str, ...]
    interval_s: float
    start_ns: int
    end_ns: int
    config: ForestConfig


def train_families(stretch: Stretch, names: Sequence[str], settings: Settings, **span: Any) -> dict[str, Arrays]:
    """What the families of settings have learned, by the part of the bundle that it becomes."""
    found: dict[str, Arrays] = {}
    for family in settings.families:
        if isinstance(family, ForecastConfig):
            found["forecast"] = train_forecasts(stretch, names, family, settings.detection, **span)
        else:
            found["forest"] = train_forests(stretch, names, family, **span)
    return found


def train_forests(
    stretch: Stretch,
    names: Sequence[str],
    config: ForestConfig,
    *,
    start_ns: int,
    end_ns: int,
    processes: int,
    told: Told | None = None,
) -> Arrays:
    """Forests of all services that have enough series and points, as `Forests` takes them; nothing where none has."""
    interval_s = stretch.intervals()
    services: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        if interval_s[name] > 0:
            services[Labels.from_json(name).service].append(name)
    tasks = []
    for _, mine in sorted(services.items()):
        usual_s = float(np.median([interval_s[name] for name in mine]))
        mine = [name for name in mine if interval_s[name] <= 1.5 * usual_s][: config.most_series]
        if len(mine) >= config.least_series:
            tasks.append(Service(stretch.only(mine), tuple(mine), usual_s, start_ns, end_ns, config))
    found = work(train_forest, tasks, count=processes, told=told)
    return _joined([(task, arrays) for task, arrays in zip(tasks, found, strict=True) if arrays])


def train_forest(service: Service, told: Told) -> Arrays:
    """The forest of a service; nothing where it has too few points."""
    values, place = _moments(service)
    told(0.3)
    values = values[np.isfinite(values).any(axis=1)]
    if not len(values):
        return {}
    present = np.isfinite(values).mean(axis=0) >= 0.5
    moments = np.isfinite(values).mean(axis=1) >= 0.5
    if present.sum() < service.config.least_series or moments.sum() < LEAST_MOMENTS:
        return {}
    values = values[moments][:, present]
    centre = np.nanmedian(values, axis=0)
    spread = np.nanquantile(values, 0.9, axis=0) - np.nanquantile(values, 0.1, axis=0)
    scale = np.where(spread > 0, spread / 2.56, np.maximum(np.abs(centre), 1.0))  # of a normal one, its deviation
    z = np.nan_to_num(np.clip((values - centre) / scale, -MOST_SPREADS, MOST_SPREADS)).astype(np.float32)
    trees = _trees(z, service.config)
    return {
        "key": np.array([series_key(Labels.from_json(service.names[k])) for k in place[present].tolist()], np.uint64),
        "centre": centre,
        "scale": scale,
        **trees,
    }


def _trees(z: np.ndarray[tuple[int, int], np.dtype[np.float32]], config: ForestConfig) -> Arrays:
    """The arrays of scikit-learn's trees, and the anomalies of the moments that they were trained on."""
    from sklearn.ensemble import IsolationForest

    samples = min(config.samples, len(z))
    forest = IsolationForest(n_estimators=config.trees, max_samples=samples, random_state=config.seed).fit(z)
    trees = [one.tree_ for one in forest.estimators_]
    nodes = 2 * config.samples - 1
    left, right, feature, count = (np.full((config.trees, nodes), -1, np.int16) for _ in range(4))
    threshold = np.zeros((config.trees, nodes))
    for k, tree in enumerate(trees):
        size = tree.node_count
        left[k, :size], right[k, :size] = tree.children_left, tree.children_right
        inner = tree.children_left >= 0
        feature[k, :size] = np.where(inner, tree.feature, 0)
        threshold[k, :size], count[k, :size] = np.where(inner, tree.threshold, 0.0), tree.n_node_samples
    odd = -forest.score_samples(z)
    usual, rare = np.quantile(odd, (0.5, RARE))
    limit = usual + MARGIN * max(float(rare - usual), 0.02)
    told = {"usual": np.array([usual]), "limit": np.array([limit]), "samples": np.array([samples], np.int32)}
    return {**told, "left": left, "right": right, "feature": feature, "count": count, "threshold": threshold}


def _moments(service: Service) -> tuple[F64, I64]:
    """Values by moment and series (T, F), NaN where there are none, and which of the names each series is."""
    step_ns = max(1, round(service.interval_s * 1e9))
    first = service.start_ns // step_ns
    most = service.config.most_moments
    slots = (service.end_ns - 1) // step_ns - first + 1
    every = -(-slots // most)  # of more moments, each so manyth
    values = np.full((-(-slots // every), len(service.names)), np.nan)
    for chunk in service.stretch.chunks(service.names, service.start_ns, service.end_ns):
        column = np.repeat(np.arange(len(service.names)), np.diff(chunk.ends, prepend=0))
        slot = chunk.time_ns // step_ns - first
        kept = slot % every == 0
        values[slot[kept] // every, column[kept]] = chunk.value[kept]
    return values, np.arange(len(service.names))


def _joined(found: Sequence[tuple[Service, Arrays]]) -> Arrays:
    """The arrays of all services as one set."""
    if not found:
        return {}
    sizes = [len(arrays["key"]) for _, arrays in found]
    by_series = {name: np.concatenate([of[name] for _, of in found]) for name in ("key", "centre", "scale")}
    by_service = {name: np.concatenate([of[name] for _, of in found]) for name in ("usual", "limit", "samples")}
    trees = ("left", "right", "feature", "count", "threshold")
    whole: Arrays = {
        **by_series,
        **by_service,
        "service": np.repeat(np.arange(len(found), dtype=np.int32), sizes),
        "interval_s": np.array([task.interval_s for task, _ in found]),
        **{name: np.stack([of[name] for _, of in found]) for name in trees},
    }
    return {name: whole[name] for name in TRAINED}
