"""Holt-Winters forecasts of the means of short stretches of time, fitted elsewhere and filtered while points come.

The parameters come as plain arrays, see `Smoothing`; only level, trend and season go on here, and no library is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.alerts import DEVIATION_WEIGHT
from otel_aiops.detect.compiled import compiled
from otel_aiops.detect.detector import FORECAST, Scores
from otel_aiops.detect.forest import series_key
from otel_aiops.errors import StateError
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import Arrays, Columns, checked

SLOTS = 96  # of a day, the most
DAY_NS = 86_400_000_000_000
LONGEST_GAP = 2  # days without a point, after which the season is the old one and level and trend begin anew
NOBODY = -1
PARAMETERS = ("alpha", "beta", "gamma", "phi")
TRAINED: dict[str, tuple[Any, tuple[int | str, ...]]] = {
    "key": (np.uint64, ("series",)),  # of the labels of each series
    "slots": (np.int64, ("series",)),  # that its day has
    "limit": (np.float64, ("series",)),  # the error that is the threshold
    **{name: (np.float64, ("series",)) for name in PARAMETERS},
    "level": (np.float64, ("series",)),  # at the end of the training, as trend and season
    "trend": (np.float64, ("series",)),
    "season": (np.float64, ("series", SLOTS)),  # by slot of the day; 0 behind the last one
    "slot": (np.int64, ("series",)),  # the newest that is in them, since the epoch
}
PENDING: dict[str, tuple[Any, tuple[int | str, ...]]] = {  # of one that was saved while it served
    "open": (np.int64, ("series",)),  # the stretch that ran,
    "sum": (np.float64, ("series",)),  # and its points
    "count": (np.int64, ("series",)),
}
_STATE = ("level", "trend", "season", "slot")  # that goes on


@compiled
def smooth(y: F64, season: F64, first: int, start: F64, parameters: F64, most: float, expected: F64, end: F64) -> None:
    """Forecast each of T means one step ahead, then learn it; NaN is a mean that is not there.

    Shape: y, expected (T,); season (slots,), changed in place; start and end (2,), level and trend; parameters (4,),
    alpha, beta, gamma, phi. `first` is the slot of the first mean; an error counts as `most` at most.
    Source: Hyndman and Athanasopoulos, Forecasting: Principles and Practice, 2021, section 8.3, additive and damped;
    Gelper, Fried and Croux, Robust forecasting with exponential and Holt-Winters smoothing, 2010, for `most`.
    """
    level, trend, slots = start[0], start[1], len(season)
    alpha, beta, gamma, phi = parameters[0], parameters[1], parameters[2], parameters[3]
    for t in range(len(y)):
        at = (first + t) % slots
        before, slope = level, phi * trend
        expected[t] = before + slope + season[at]
        level, trend = before + slope, slope
        if not np.isnan(y[t]):
            seen = expected[t] + min(max(y[t] - expected[t], -most), most)
            level = alpha * (seen - season[at]) + (1 - alpha) * (before + slope)
            trend = beta * (level - before) + (1 - beta) * slope
            season[at] = gamma * (seen - before - slope) + (1 - gamma) * season[at]
    end[0], end[1] = level, trend


@compiled
def _close(
    rows: I32, slot: I64, of_slots: I64, limit: F64, level: F64, trend: F64, season: F64, parameters: F64,
    sum_: F64, count: I64, newest: I64, expected: F64, error: F64,
) -> None:  # fmt: skip
    """Forecast and learn the means of rows (K,) whose stretch is over, in place; NaN where there is none to score."""
    for k in range(len(rows)):
        r, n = rows[k], of_slots[rows[k]]
        expected[k], error[k] = np.nan, np.nan
        mean, gap = sum_[r] / count[r], slot[k] - newest[r]
        alpha, beta, gamma, phi = parameters[r, 0], parameters[r, 1], parameters[r, 2], parameters[r, 3]
        if gap < 1:
            continue
        at = slot[k] % n
        if gap > LONGEST_GAP * n:
            level[r], trend[r], newest[r] = mean - season[r, at], 0.0, slot[k]
            continue
        for _ in range(gap - 1):
            trend[r] = phi * trend[r]
            level[r] += trend[r]
        before, slope = level[r], phi * trend[r]
        expected[k] = before + slope + season[r, at]
        error[k] = mean - expected[k]
        seen = expected[k] + min(max(error[k], -limit[r]), limit[r])
        level[r] = alpha * (seen - season[r, at]) + (1 - alpha) * (before + slope)
        trend[r] = beta * (level[r] - before) + (1 - beta) * slope
        season[r, at] = gamma * (seen - before - slope) + (1 - gamma) * season[r, at]
        newest[r] = slot[k]


class Smoothing:
    """Forecasts of series while points come.

    The mean of a series in each stretch of a day (a quarter of an hour, or its interval where that is longer) is
    compared with its forecast when the first point of a later stretch comes, and that point gets the score: the error
    in thresholds. It keeps its own score where that is higher. An error counts as one threshold at most in what is
    learned, so that an anomaly is not normal at once.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """What was trained, and for one that was saved while it served the stretches that ran. Raises: StateError."""
        pending = any(name in arrays for name in PENDING)
        checked(arrays, TRAINED | PENDING if pending else TRAINED)
        finite = all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f")
        slots = arrays["slots"]
        if not finite or not ((slots >= 1) & (slots <= SLOTS)).all() or not (arrays["limit"] > 0).all():
            raise StateError(f"forecast: expected finite numbers, 1 to {SLOTS} slots and limits above 0")
        zeros = {name: np.zeros(len(slots), kind) for name, (kind, _) in PENDING.items()}
        self._of = {**zeros, **arrays}
        self._parameters = np.stack([arrays[name] for name in PARAMETERS], axis=1)
        self._place = {key: k for k, key in enumerate(arrays["key"].tolist())}
        empty: dict[str, tuple[Any, tuple[int, ...], Any]] = {
            "number": (np.int32, (), NOBODY),
            "slots": (np.int64, (), 1),
            "limit": (np.float64, (), 1.0),
            "parameters": (np.float64, (len(PARAMETERS),), 0),
            "level": (np.float64, (), 0),
            "trend": (np.float64, (), 0),
            "season": (np.float64, (SLOTS,), 0),
            "slot": (np.int64, (), 0),
            "open": (np.int64, (), 0),  # the stretch that runs,
            "sum": (np.float64, (), 0),  # and its points
            "count": (np.int64, (), 0),
        }
        self._rows = Columns(empty)
        self._said: dict[int, tuple[float, float, float, float]] = {}  # by row: score, mean, expected, minutes

    def assign(self, rows: I32, labels: Sequence[Labels]) -> None:
        """Rows are given to series with these whole labels."""
        for row, one in zip(rows.tolist(), labels, strict=True):
            number = self._place.get(series_key(one))
            if number is not None:
                self._rows.reserve(row + 1)
                self._begin(row, number)

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series."""
        self._rows.clear(rows[rows < self._rows.rows])
        for row in rows.tolist():
            self._said.pop(row, None)

    def combined(self, batch: Batch, scores: Scores) -> Scores:
        """The scores of K points with those of the stretches that are over."""
        of, k = self._rows.of, np.flatnonzero(batch.rows < self._rows.rows)
        k = k[(of["number"][batch.rows[k]] >= 0) & np.isfinite(batch.value[k])]
        if not len(k):
            return scores
        rows, width_ns = batch.rows[k], DAY_NS // of["slots"][batch.rows[k]]
        slot = batch.time_ns[k] // width_ns
        over = (slot > of["open"][rows]) & (of["count"][rows] > 0)
        found = self._over(batch, scores, k[over]) if over.any() else scores
        new = slot > of["open"][rows]
        of["sum"][rows[new]], of["count"][rows[new]], of["open"][rows[new]] = 0.0, 0, slot[new]
        mine = slot == of["open"][rows]
        of["sum"][rows[mine]] += batch.value[k[mine]]
        of["count"][rows[mine]] += 1
        return found

    def reason(self, row: int, unit: str = "") -> str:
        """Why the newest score of a row is that of its forecast."""
        score, mean, expected, minutes = self._said.get(row, (1.0, np.nan, np.nan, 0.0))
        unit = f" {unit}" if unit else ""
        return (
            f"The mean of the last {minutes:.3g} minutes is {mean:.4g}{unit}, where level, trend and time of day "
            f"forecast {expected:.4g}{unit}: {score:.2g} times the error that is the threshold."
        )

    def state(self) -> Arrays:
        """All of it, also what was trained."""
        rows = np.flatnonzero(self._rows.of["number"] >= 0)
        live = {name: self._rows.of[name][rows] for name in ("number", *_STATE, *PENDING)}
        return {**self._of, "row": rows.astype(np.int32), **{f"live/{name}": array for name, array in live.items()}}

    def learned(self) -> Arrays:
        """What a version keeps of it: all but which rows the series have."""
        rows = np.flatnonzero(self._rows.of["number"] >= 0)
        numbers, found = self._rows.of["number"][rows], dict(self._of)
        for name in (*_STATE, *PENDING):
            found[name] = found[name].copy()
            found[name][numbers] = self._rows.of[name][rows]
        return found

    @classmethod
    def restored(cls, arrays: Mapping[str, NDArray[Any]]) -> Smoothing | None:
        """What `state` gave; None for nothing. Raises: StateError."""
        if not arrays:
            return None
        kinds = {"number": np.int32, "slot": np.int64, "open": np.int64, "count": np.int64}
        live = {
            f"live/{name}": (kinds.get(name, np.float64), ("rows", SLOTS) if name == "season" else ("rows",))
            for name in ("number", *_STATE, *PENDING)
        }
        begun = TRAINED | PENDING if "open" in arrays else TRAINED  # without in a state from before versions kept it
        checked(arrays, begun | live | {"row": (np.int32, ("rows",))})
        found = cls({name: arrays[name] for name in begun})
        rows, numbers = arrays["row"], arrays["live/number"]
        if len(rows):
            if rows.min() < 0 or not 0 <= numbers.min() <= numbers.max() < len(found._of["key"]):
                raise StateError("forecast: expected rows of trained series, got others")
            found._rows.reserve(int(rows.max()) + 1)
            for row, number in zip(rows.tolist(), numbers.tolist(), strict=True):
                found._begin(row, number)
            for name in (*_STATE, *PENDING):
                found._rows.of[name][rows] = arrays[f"live/{name}"]
        return found

    @staticmethod
    def copied(arrays: Arrays, rows: I32, times: int) -> Arrays:
        """A state in which row ``k * len(rows) + i`` is what ``rows[i]`` is in another, for each k below `times`."""
        if not arrays:
            return {}
        place = {row: i for i, row in enumerate(rows.tolist())}
        at = np.array([place.get(row, NOBODY) for row in arrays["row"].tolist()], np.int32)
        mine = at >= 0
        live = {name: np.concatenate([of[mine]] * times) for name, of in arrays.items() if name.startswith("live/")}
        row = np.concatenate([at[mine] + k * len(rows) for k in range(times)]).astype(np.int32)
        return {**arrays, **live, "row": row}

    def _begin(self, row: int, number: int) -> None:
        of, trained = self._rows.of, self._of
        of["number"][row], of["parameters"][row] = number, self._parameters[number]
        for name in ("slots", "limit", *_STATE, *PENDING):
            of[name][row] = trained[name][number]

    def _over(self, batch: Batch, scores: Scores, k: NDArray[np.intp]) -> Scores:
        """Score the stretches of the rows of points k, and say so at these points."""
        of, rows = self._rows.of, batch.rows[k]
        expected, error = np.empty(len(k)), np.empty(len(k))
        mean = of["sum"][rows] / of["count"][rows]
        _close(
            rows, of["open"][rows], of["slots"], of["limit"], of["level"], of["trend"], of["season"], of["parameters"],
            of["sum"], of["count"], of["slot"], expected, error,
        )  # fmt: skip
        worth = np.abs(error) / of["limit"][rows]
        with np.errstate(invalid="ignore"):
            raised = np.flatnonzero((worth >= 1) & ~np.isnan(scores.score[k]) & ~(scores.score[k] >= worth))
        if not len(raised):
            return scores
        for j in raised.tolist():
            row = int(rows[j])
            minutes = DAY_NS / 60e9 / float(of["slots"][row])
            self._said[row] = float(worth[j]), float(mean[j]), float(expected[j]), minutes
        at, worth = k[raised], worth[raised]
        score, alert, channel = scores.score.copy(), scores.alert.copy(), scores.channel.copy()
        score[at], channel[at] = worth, FORECAST
        alert[at] = np.fmax(alert[at], DEVIATION_WEIGHT * worth)
        probability = scores.probability.copy()
        probability[at] = np.nan  # that of single points says nothing of this
        return dataclasses.replace(scores, score=score, alert=alert, channel=channel, probability=probability)
