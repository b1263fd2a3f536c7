"""A fold: how settings do in the newest quarter of a stretch of time that is learned from its beginning on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from otel_aiops.detect.alerting import Alerting
from otel_aiops.detect.budget import MOST_BUDGET, BudgetConfig, per_week
from otel_aiops.detect.detector import Scores
from otel_aiops.detect.rates import LEVELS, WEEK_S
from otel_aiops.detect.smoothing import Smoothing
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.events import INCIDENT
from otel_aiops.lifecycle.forecasts import train_forecasts
from otel_aiops.lifecycle.objective import CostConfig
from otel_aiops.lifecycle.rehearse import FAULT_SHARE, Faults, Forecasting, Scoring, rehearse
from otel_aiops.lifecycle.stretch import Stored
from otel_aiops.lifecycle.truth import ANOMALY, Label
from otel_aiops.lifecycle.version import ForecastConfig, Settings
from otel_aiops.lifecycle.workers import Told
from otel_aiops.otlp.points import F64, I64
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.archive import Points
from otel_aiops.series.batch import Batch

AS_FAULTS = 5.0  # labelled events in a fold count as much as all faults that are put in
LATE_NS = 600_000_000_000  # an alert so soon after an event still tells of it

COUNTS = ("events", "told", "faults", "found", "false_alerts")
_Rows = tuple[I64, I64]  # rows, times


@dataclass(frozen=True, slots=True)
class Judged:
    """How settings did in the newest quarter of a fold, at the threshold that its budget led to; counts are (S,).

    `events` are labelled ones, `told` those with an alert; `faults` were put in, `found` have one. `false_alerts` were
    paid for and are not near an event.
    """

    events: I64
    told: I64
    faults: I64
    found: I64
    false_alerts: I64
    weeks: float
    threshold: float

    @classmethod
    def together(cls, parts: Sequence[Judged]) -> Judged:
        """Several folds as one: a fold with few events says little, and counts as little."""
        counts: dict[str, Any] = {name: sum(getattr(one, name) for one in parts) for name in COUNTS}
        threshold = float(np.mean([one.threshold for one in parts]))
        return cls(**counts, weeks=sum(one.weeks for one in parts), threshold=threshold)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        counts = {name: getattr(self, name).tolist() for name in COUNTS}
        return {**counts, "weeks": self.weeks, "threshold": self.threshold}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Judged:
        """What `to_json` gave. Raises: KeyError, TypeError, ValueError."""
        counts: dict[str, Any] = {name: np.array(tree[name], np.int64) for name in COUNTS}
        return cls(**counts, weeks=float(tree["weeks"]), threshold=float(tree["threshold"]))

    def figures(self, cost: CostConfig, a_week: float) -> dict[str, float]:
        """Recall, false alerts a week, and the cost: of a miss times the share that is missed, and of a false alert
        times the false alerts as a share of the budget. The more labelled events there are, the less faults count that
        were put in: they are easy to have, and only like the real ones.
        """
        known = self.events.sum() + self.faults.sum() > 0
        recall = 1.0 - float(self._missed().sum()) if known else math.nan
        paid = {"cost": float(self.losses(cost, a_week).sum()), "recall": recall}
        false = float(self.false_alerts.sum()) / self.weeks if self.weeks > 0 else 0.0
        return {**paid, "false_alerts_a_week": false, "threshold": self.threshold}

    def losses(self, cost: CostConfig, a_week: float) -> F64:
        """What each series adds to the cost, (S,)."""
        false = self.false_alerts / self.weeks if self.weeks > 0 else np.zeros(len(self.false_alerts))
        losses: F64 = cost.miss * self._missed() + cost.false_alert * false / a_week
        return losses

    def _missed(self) -> F64:
        """The share of events and faults that is missed, by the series that misses it; even where there are none."""
        events, faults = int(self.events.sum()), int(self.faults.sum())
        if not events + faults:
            return np.full(len(self.events), 1.0 / max(1, len(self.events)))
        weight = events / (events + AS_FAULTS) if events and faults else float(events > 0)
        of_events = weight * (self.events - self.told) / max(1, events)
        missed: F64 = of_events + (1 - weight) * (self.faults - self.found) / max(1, faults)
        return missed


@dataclass(frozen=True, slots=True)
class Study:
    """Everything that decides how settings are judged."""

    directory: Path  # of the datasets
    dataset: str
    series: tuple[str, ...]
    start_ns: int
    ends_ns: tuple[int, ...]  # of the folds
    config: PipelineConfig
    budget: BudgetConfig
    cost: CostConfig
    kinds: tuple[str, ...]
    labels: tuple[Label, ...]
    seed: int

    @property
    def a_week(self) -> float:
        """Alerts a week that these series may have."""
        return per_week(self.budget.budget)


def judge(
    study: Study, settings: Settings, fold: int, told: Told | None = None, points: Points | None = None
) -> Judged:
    """How settings do in a fold, which is learned from its beginning on; `points` are its own, if they are at hand."""
    end_ns = study.ends_ns[fold]
    points = points_of(study, end_ns) if points is None else points
    since_ns = end_ns - round(FAULT_SHARE * (end_ns - study.start_ns))
    labels = [Labels.from_json(text) for text in study.series]
    heard = _Heard(study, labels, since_ns, end_ns, points)
    config = replace(study.config, detection=settings.detection)
    _, faults = rehearse(
        points,
        labels,
        config,
        study.budget,
        interval_s=_interval_s(points),
        kinds=study.kinds,
        seed=study.seed,
        told=told,
        heard=heard,
        threshold=heard.settle,
        scorer=_with_forecasts(study, settings, config, since_ns),
    )
    weeks = (end_ns - since_ns) / 1e9 / WEEK_S
    return Judged(*heard.events(), *_by_series(faults, len(labels)), heard.false_alerts(), weeks, heard.threshold)


def _with_forecasts(study: Study, settings: Settings, config: PipelineConfig, until_ns: int) -> Scoring | None:
    """The engine with forecasts fitted on what is before the judged quarter; None where they are not wanted."""
    wanted = [one for one in settings.families if isinstance(one, ForecastConfig)]
    if not wanted:
        return None
    spans: Any = {"start_ns": study.start_ns, "end_ns": until_ns, "processes": 1}
    stretch = Stored(study.directory, study.dataset)
    arrays = train_forecasts(stretch, study.series, wanted[0], settings.detection, **spans)
    return Forecasting(config, Smoothing(arrays)) if arrays else None


def _by_series(faults: Faults, series: int) -> tuple[I64, I64]:
    """(faults that were put in, those that were found), (S,)."""
    of, tried, found = np.array(faults.by_series, np.int64).reshape(-1, 3).T
    counted = np.zeros((2, series), np.int64)
    np.add.at(counted[0], of, tried)
    np.add.at(counted[1], of, found)
    return counted[0], counted[1]


class _Heard:
    """Notes the alerts of the judged part of a fold, and tells which labelled events have one."""

    def __init__(self, study: Study, labels: Sequence[Labels], since_ns: int, end_ns: int, points: Points) -> None:
        self._since_ns, self._end_ns = since_ns, end_ns
        self._budget, self._labels, self._series = study.budget, labels, len(labels)
        self._scored: list[tuple[Batch, Scores]] = []
        self._opened: list[_Rows] = []
        self._paid: list[_Rows] = []
        self.threshold = math.nan
        self._events = []  # start, end, rows
        for label in study.labels:
            if label.kind == ANOMALY and since_ns <= label.start_ns < end_ns:
                first, last = np.searchsorted(points.time_ns, [label.start_ns, label.end_ns])
                present = np.unique(points.code[first:last]).tolist()  # of what is left out nobody can tell
                rows = [k for k in present if _means(label, study.series[k], labels[k])]
                if rows:
                    self._events.append((label.start_ns, label.end_ns + LATE_NS, np.array(rows)))

    def __call__(self, batch: Batch, scores: Scores) -> None:
        late = np.flatnonzero(batch.time_ns >= self._since_ns)
        if len(late):
            self._scored.append((batch.at(late), scores.at(late)))

    def settle(self) -> float:
        """The lowest threshold that would have kept to the budget in the judged part, at which its alerts are noted.

        The threshold of the service comes there with time; in the first weeks of a history it is still what the first
        days have left, which would say more of these than of the settings.
        """
        weeks = (self._end_ns - self._since_ns) / 1e9 / WEEK_S
        allowed = max(1, round(per_week(self._budget.budget) * weeks))  # with none at all nothing could be found
        levels = LEVELS[(self._budget.floor < LEVELS) & (self._budget.ceiling > LEVELS)]
        levels = np.concatenate([[self._budget.floor], levels, [self._budget.ceiling]])
        low, high = 0, len(levels) - 1
        while low < high:  # alerts that are paid for get fewer with the threshold
            middle = (low + high) // 2
            paid = sum(len(rows) for rows, _ in self._alerts(float(levels[middle]))[1])
            low, high = (low, middle) if paid <= allowed else (middle + 1, high)
        self.threshold = float(levels[low])
        self._opened, self._paid = self._alerts(self.threshold)
        return self.threshold

    def _alerts(self, threshold: float) -> tuple[list[_Rows], list[_Rows]]:
        """The alerts of the judged part at a threshold: those that opened, and those that were paid for."""
        endless = replace(self._budget, budget=MOST_BUDGET, floor=threshold)  # so the threshold stays where it is
        alerting = Alerting((endless,), endless.budget, lambda rows: rows.astype(np.uint64) + np.uint64(1))
        alerting.assign(np.arange(self._series, dtype=np.int32), self._labels)
        found: tuple[list[_Rows], list[_Rows]] = [], []
        for batch, scores in self._scored:
            alerted = alerting.judge(batch, scores, event_ns=int(batch.time_ns.max()))
            for flags, kept in zip((alerted.opened, alerted.counted), found, strict=True):
                k = np.flatnonzero(flags)
                if len(k):
                    kept.append((batch.rows[k].astype(np.int64), batch.time_ns[k]))
        return found

    def events(self) -> tuple[I64, I64]:
        """(labelled events of the judged part, those that have an alert), by the first series that they are of."""
        rows, time_ns = _joined(self._opened)
        first = np.array([one[2][0] for one in self._events], np.int64)
        told = np.array([self._of(one, rows, time_ns).any() for one in self._events], bool)
        return np.bincount(first, minlength=self._series), np.bincount(first[told], minlength=self._series)

    def false_alerts(self) -> I64:
        """Alerts that were paid for and have no event, by series."""
        rows, time_ns = _joined(self._paid)
        real = np.zeros(len(rows), bool)
        for one in self._events:
            real |= self._of(one, rows, time_ns)
        return np.bincount(rows[~real], minlength=self._series)

    @staticmethod
    def _of(event: tuple[int, int, Any], rows: I64, time_ns: I64) -> Any:
        start_ns, end_ns, mine = event
        return (time_ns >= start_ns) & (time_ns < end_ns) & np.isin(rows, mine)


def _joined(parts: Sequence[tuple[I64, I64]]) -> tuple[I64, I64]:
    none = np.empty(0, np.int64)
    return np.concatenate([none, *(rows for rows, _ in parts)]), np.concatenate([none, *(times for _, times in parts)])


def _means(label: Label, text: str, labels: Labels) -> bool:
    """Whether a label is about a series."""
    return label.series == text if label.series else label.service in ("", labels.service)


def points_of(study: Study, end_ns: int) -> Points:
    """The points of the drawn series until the end of a fold, confirmed incidents too: they are to be found."""
    order = {text: k for k, text in enumerate(study.series)}
    code, time_ns, value = [], [], []
    chosen: Any = {"series": set(order), "end_ns": end_ns, "included": (INCIDENT,)}
    for chunk in Datasets(study.directory).read(study.dataset, **chosen):
        numbers = np.array([order[text] for text in chunk.names], np.int32)
        code.append(np.repeat(numbers, np.diff(chunk.ends, prepend=0)))
        time_ns.append(chunk.time_ns)
        value.append(chunk.value)
    codes = np.concatenate([np.empty(0, np.int32), *code])
    times, values = np.concatenate([np.empty(0, np.int64), *time_ns]), np.concatenate([np.empty(0), *value])
    rank = np.lexsort((codes, times))
    return Points(codes[rank], times[rank], values[rank], len(study.series))


def _interval_s(points: Points) -> float:
    """The middle distance of two points of a series."""
    order = np.argsort(points.code, kind="stable")
    step_s: F64 = np.diff(points.time_ns[order]) / 1e9
    same = np.diff(points.code[order]) == 0
    return float(np.median(step_s[same])) if same.any() else math.nan
