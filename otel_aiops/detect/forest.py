"""The isolation forest: how easily the values that a service has at one time are told apart from all that were trained.

It is trained elsewhere and comes as plain arrays, see `Forests`; nothing here learns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.alerts import DEVIATION_WEIGHT
from otel_aiops.detect.detector import FOREST, Scores
from otel_aiops.detect.groups import bits
from otel_aiops.errors import StateError
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import Arrays, Columns, checked

F32 = NDArray[np.float32]
I16 = NDArray[np.int16]

MOST_SPREADS = 20.0  # values that are further from the centre count as so far
LEAST_PRESENT = 0.5  # of its series must have come, or a service is not looked at
NOBODY = -1
EULER = 0.5772156649015329
TRAINED: dict[str, tuple[Any, tuple[int | str, ...]]] = {
    "key": (np.uint64, ("series",)),  # of the labels of each series
    "service": (np.int32, ("series",)),  # number of its service, in order
    "centre": (np.float64, ("series",)),
    "scale": (np.float64, ("series",)),
    "usual": (np.float64, ("services",)),  # the anomaly of a usual moment, 0 to 1,
    "limit": (np.float64, ("services",)),  # and the one that is the threshold
    "interval_s": (np.float64, ("services",)),
    "samples": (np.int32, ("services",)),  # that each tree was made of
    "left": (np.int16, ("services", "trees", "nodes")),  # a node; -1 in a leaf
    "right": (np.int16, ("services", "trees", "nodes")),
    "feature": (np.int16, ("services", "trees", "nodes")),  # number of the series in its service
    "threshold": (np.float64, ("services", "trees", "nodes")),
    "count": (np.int16, ("services", "trees", "nodes")),  # samples that came to a node
}
PENDING = {"value": (np.float64, ("series",)), "slot": (np.int64, ("services",))}  # of the interval that runs
LIVE = {"row": (np.int32, ("series",)), **PENDING}


def series_key(labels: Labels) -> int:
    """64 bits of a series, equal in every process."""
    return bits((labels.to_json(),))


def path_length(samples: NDArray[Any]) -> F64:
    """Mean depth of a search that fails in a tree of so many samples.

    Source: Liu, Ting and Zhou, Isolation Forest, 2008, equation 1.
    """
    n = np.maximum(samples.astype(np.float64), 1.0)
    many = 2.0 * (np.log(np.maximum(n - 1.0, 1.0)) + EULER) - 2.0 * (n - 1.0) / n
    found: F64 = np.where(n > 2, many, np.where(n == 2, 1.0, 0.0))
    return found


def anomaly(arrays: Mapping[str, NDArray[Any]], services: NDArray[np.intp], x: F32) -> F64:
    """How easily J vectors (J, F) of J services are isolated, in (0, 1). Source: the same, equation 2."""
    left, right, feature = (arrays[name][services] for name in ("left", "right", "feature"))
    threshold, count = arrays["threshold"][services], arrays["count"][services]
    j, t = np.ogrid[: left.shape[0], : left.shape[1]]
    node, depth = np.zeros(left.shape[:2], np.int64), np.zeros(left.shape[:2])
    while True:
        below = left[j, t, node]
        inside = below >= 0
        if not inside.any():
            break
        goes_left = x[j, np.maximum(feature[j, t, node], 0)] <= threshold[j, t, node]
        node = np.where(inside, np.where(goes_left, below, right[j, t, node]), node)
        depth += inside
    depth += path_length(count[j, t, node])
    usual = path_length(arrays["samples"][services])
    found: F64 = 2.0 ** (-depth.mean(axis=1) / np.maximum(usual, 1e-9))
    return found


class Forests:
    """The forests of services while points come.

    The values of an interval are one vector of a service. It is scored when the first point of a later interval comes,
    if half of its series are in it, and the score goes to the point of that batch whose series was furthest from its
    centre. A point keeps its own score where that is higher.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """What was trained, and for one that was saved while it served the interval that ran. Raises: StateError."""
        pending = any(name in arrays for name in PENDING)
        checked(arrays, TRAINED | PENDING if pending else TRAINED)
        self._of = {name: arrays[name] for name in TRAINED}
        services = len(arrays["usual"])
        service = arrays["service"]
        if len(service) and (service.min() < 0 or service.max() >= services or (np.diff(service) < 0).any()):
            raise StateError("forest: expected the series by service")
        self._first = np.searchsorted(service, np.arange(services))
        self._end = np.searchsorted(service, np.arange(services), side="right")
        self._check_trees()
        self._place = {key: k for k, key in enumerate(arrays["key"].tolist())}
        self._row = np.full(len(service), NOBODY, np.int32)  # that has each of the series
        self._value = arrays["value"].copy() if pending else np.full(len(service), np.nan)  # of the interval that runs
        self._slot = arrays["slot"].copy() if pending else np.zeros(services, np.int64)  # number of that interval
        self._series = Columns({"number": (np.int32, (), NOBODY)})  # by row
        self._said: dict[int, tuple[float, float, float, int]] = {}  # by row: score, value, centre, series

    def assign(self, rows: I32, labels: Sequence[Labels]) -> None:
        """Rows are given to series with these whole labels."""
        for row, one in zip(rows.tolist(), labels, strict=True):
            number = self._place.get(series_key(one))
            if number is not None:
                self._series.reserve(row + 1)
                self._series.of["number"][row], self._row[number] = number, row

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series."""
        rows = rows[rows < self._series.rows]
        numbers = self._series.of["number"][rows]
        mine = numbers[numbers >= 0]
        self._row[mine], self._value[mine] = NOBODY, np.nan
        self._series.clear(rows)
        for row in rows.tolist():
            self._said.pop(row, None)

    def combined(self, batch: Batch, scores: Scores) -> Scores:
        """The scores of K points with those of the services whose interval is over."""
        inside = batch.rows < self._series.rows
        number = (
            np.where(inside, self._series.of["number"][np.where(inside, batch.rows, 0)], NOBODY)
            if len(self._row) and self._series.rows
            else np.full(len(batch.rows), NOBODY)
        )
        k = np.flatnonzero((number >= 0) & ~np.isnan(scores.score))
        if not len(k):
            return scores
        mine = number[k]
        service = self._of["service"][mine].astype(np.int64)
        slot = batch.time_ns[k] // np.maximum((self._of["interval_s"][service] * 1e9).astype(np.int64), 1)
        over = np.unique(service[slot > self._slot[service]])
        found = self._close(over, scores, k, mine, service) if len(over) else scores
        for s in over.tolist():
            self._value[self._first[s] : self._end[s]] = np.nan
        np.maximum.at(self._slot, service, slot)
        self._value[mine] = batch.value[k]
        return found

    def reason(self, row: int, unit: str = "") -> str:
        """Why the newest score of a row is that of its service's forest."""
        score, value, centre, series = self._said.get(row, (1.0, np.nan, np.nan, 0))
        unit = f" {unit}" if unit else ""
        return (
            f"The {series} trained series of its service have values together that are easily told from all that were "
            f"trained ({score:.2g} times the threshold); this one is furthest from its usual: {value:.4g}{unit}, "
            f"usually {centre:.4g}{unit}."
        )

    def state(self) -> Arrays:
        """All of it, also what was trained."""
        return {**self._of, "row": self._row.copy(), "value": self._value.copy(), "slot": self._slot.copy()}

    def learned(self) -> Arrays:
        """What a version keeps of it: all but which rows the series have."""
        return {**self._of, "value": self._value.copy(), "slot": self._slot.copy()}

    @classmethod
    def restored(cls, arrays: Mapping[str, NDArray[Any]]) -> Forests | None:
        """What `state` gave; None for nothing. Raises: StateError."""
        if not arrays:
            return None
        checked(arrays, TRAINED | LIVE)
        found = cls({name: arrays[name] for name in TRAINED})
        found._row, found._value, found._slot = (arrays[name].copy() for name in LIVE)
        has = np.flatnonzero(found._row >= 0)
        if len(has):
            found._series.reserve(int(found._row.max()) + 1)
            found._series.of["number"][found._row[has]] = has
        return found

    @staticmethod
    def copied(arrays: Arrays, rows: I32, times: int) -> Arrays:
        """A state in which row ``k * len(rows) + i`` is what ``rows[i]`` is in another one, for each k below `times`.

        Each copy has its own services, which are those of the rows.
        """
        mine = np.isin(arrays["row"], rows) if arrays else np.zeros(0, bool)
        if not mine.any():
            return {}
        services = np.unique(arrays["service"][mine])
        kept = {"series": np.isin(arrays["service"], services), "services": services}
        some = {name: arrays[name][kept[str(shape[0])]] for name, (_, shape) in (TRAINED | LIVE).items()}
        place = {row: i for i, row in enumerate(rows.tolist())}
        row = np.array([place.get(one, NOBODY) for one in some["row"].tolist()], np.int32)
        number = np.searchsorted(services, some["service"])
        found = {name: np.concatenate([array] * times) for name, array in some.items()}
        many = [np.where(row >= 0, row + k * len(rows), NOBODY) for k in range(times)]
        found["row"] = np.concatenate(many).astype(np.int32)
        found["service"] = np.concatenate([number + k * len(services) for k in range(times)]).astype(np.int32)
        return found

    # -- one interval -------------------------------------------------------------------------------------------------

    def _close(self, over: NDArray[np.intp], scores: Scores, k: NDArray[np.intp], mine: I32, service: I64) -> Scores:
        """Score the vectors of the services `over`, and say so at one point of each."""
        z = np.nan_to_num(self._spreads()).astype(np.float32)
        width = int((self._end - self._first).max())
        x = np.zeros((len(over), width), np.float32)
        ready = np.zeros(len(over), bool)
        for i, s in enumerate(over.tolist()):
            at = slice(self._first[s], self._end[s])
            x[i, : self._end[s] - self._first[s]] = z[at]
            ready[i] = np.isfinite(self._value[at]).mean() >= LEAST_PRESENT
        if not ready.any():
            return scores
        over, x = over[ready], x[ready]
        usual, limit = self._of["usual"][over], self._of["limit"][over]
        score = np.maximum(anomaly(self._of, over, x) - usual, 0.0) / (limit - usual)
        points, worth = [], []
        for i in np.flatnonzero(score >= 1).tolist():
            here = np.flatnonzero(service == over[i])
            best = here[np.abs(z[mine[here]]).argmax()]
            points.append(int(k[best]))
            worth.append(float(score[i]))
            number = int(mine[best])
            size = int(self._end[over[i]] - self._first[over[i]])
            told = worth[-1], float(self._value[number]), float(self._of["centre"][number]), size
            self._said[int(self._row[number])] = told
        return self._raised(scores, np.array(points, np.intp), np.array(worth))

    def _raised(self, scores: Scores, k: NDArray[np.intp], worth: F64) -> Scores:
        higher = ~(scores.score[k] >= worth)
        k, worth = k[higher], worth[higher]
        if not len(k):
            return scores
        score, alert, channel = scores.score.copy(), scores.alert.copy(), scores.channel.copy()
        score[k], channel[k] = worth, FOREST
        alert[k] = np.fmax(alert[k], DEVIATION_WEIGHT * worth)
        probability = scores.probability.copy()
        probability[k] = np.nan  # that of the series alone says nothing of this
        return dataclasses.replace(scores, score=score, alert=alert, channel=channel, probability=probability)

    def _spreads(self) -> F64:
        found: F64 = np.clip((self._value - self._of["centre"]) / self._of["scale"], -MOST_SPREADS, MOST_SPREADS)
        return found

    def _check_trees(self) -> None:
        """See that every walk ends. Raises: StateError."""
        of = self._of
        nodes = np.arange(of["left"].shape[2])
        inner = of["left"] >= 0
        width = (self._end - self._first)[:, None, None]
        fits = (of["left"] > nodes) & (of["right"] > nodes) & (of["right"] < len(nodes)) & (of["left"] < len(nodes))
        fits &= (of["feature"] >= 0) & (of["feature"] < width)
        if (inner & ~fits).any():
            raise StateError("forest: expected trees whose nodes come after those above them")
        if not (np.isfinite(of["limit"]).all() and (of["limit"] > of["usual"]).all() and (of["scale"] > 0).all()):
            raise StateError("forest: expected limits above what is usual, and scales > 0")
