"""Tuning: which settings find most under the alert budget, searched in folds of time that never see the newest part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from otel_aiops.detect.budget import LEAST_BUDGET, Alerted, BudgetConfig, per_week
from otel_aiops.detect.rates import WEEK_S
from otel_aiops.detect.smoothing import Smoothing
from otel_aiops.errors import BadInput
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.forecasts import train_forecasts
from otel_aiops.lifecycle.objective import CostConfig, Objective
from otel_aiops.lifecycle.rehearse import FAULT_SHARE, Faults, Forecasting, Scoring, rehearse
from otel_aiops.lifecycle.scope import fault_kinds
from otel_aiops.lifecycle.search import LEAST_FOLDS, Drawn, Optuna, Trial, TuneConfig
from otel_aiops.lifecycle.tables import SeriesTable
from otel_aiops.lifecycle.train import ruled
from otel_aiops.lifecycle.truth import ANOMALY, Label
from otel_aiops.lifecycle.version import ForecastConfig, Settings
from otel_aiops.lifecycle.workers import Told, work
from otel_aiops.otlp.points import F64, I64
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.archive import Points
from otel_aiops.series.batch import Batch

KEPT = 3  # of so many trials one goes on to the next fold, and the settings that one begins with always
AS_FAULTS = 5.0  # labelled events in a fold count as much as all faults that are put in
LATE_NS = 600_000_000_000  # an alert so soon after an event still tells of it

Show = Callable[[float, float, str], None]  # (done, total, text)


class Tracker(Protocol):
    """Where somebody keeps what was tried. Figures that are NaN are not known."""

    def trial(self, one: Trial) -> None:
        """One trial, when it is judged."""

    def done(self, best: Trial) -> None:
        """What was chosen in the end."""


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


@dataclass(frozen=True, slots=True)
class Tuned:
    """All trials, the best first, and the time from which on nothing was looked at."""

    trials: tuple[Trial, ...]
    start_ns: int
    until_ns: int
    series: int
    folds: int = LEAST_FOLDS

    @property
    def best(self) -> Trial:
        """The one with the least cost of those that were judged in all folds."""
        return self.trials[0]

    def plain_values(self) -> dict[str, Any]:
        """For machines."""
        trials = [
            {
                "number": one.number,
                "folds": len(one.folds),
                **_known(one.figures),
                **asdict(one.settings.detection),
                "families": sorted(one.settings.to_json().get("families", {})),
            }
            for one in self.trials
        ]
        told = {"best": self.best.settings.to_json(), "series": self.series}
        return {**told, "from": self.start_ns / 1e9, "until": self.until_ns / 1e9, "trials": trials}


def tune(
    datasets: Datasets,
    name: str,
    settings: Settings,
    config: PipelineConfig,
    *,
    objective: Objective | None = None,
    tuning: TuneConfig | None = None,
    processes: int = 1,
    tracker: Tracker | None = None,
    progress: Show | None = None,
) -> Tuned:
    """Search settings for a dataset, beginning with those that are given; equal calls give equal answers.

    Every fold is learned from its beginning on, each point scored before it is learned, and judged on its newest
    quarter, which begins where the fold before ends: recall of labelled events and of faults put in, at the threshold
    that keeps the objective's budget. The best third of the trials goes on to the next fold (successive halving;
    Jamieson and Talwalkar 2016, algorithm 1). The settings that one begins with are judged in all folds, and stay the
    best unless others cost less in most folds, and over all series by more than a standard error. The newest part of
    the window is not read.
    Raises: BadInput when the gate of the dataset says no, or nothing is in scope, or Optuna is not installed.
    """
    tuning = tuning or TuneConfig()
    study = studied(datasets, name, ruled(config, settings, objective), objective, tuning)
    propose = (Optuna if tuning.search == "optuna" else Drawn)(settings, tuning)
    done: list[Trial] = []
    while group := propose.next(len(done)):
        judged = _halved(study, group, processes, _telling(progress, len(done), len(group), tuning.trials))
        propose.told(judged)
        done += judged
        if tracker:
            for one in judged:
                tracker.trial(one)
    order = ranked(done)
    tuned = Tuned(tuple(order), study.start_ns, study.ends_ns[-1], len(study.series), len(study.ends_ns))
    if tracker:
        tracker.done(tuned.best)
    return tuned


def studied(
    datasets: Datasets, name: str, config: PipelineConfig, objective: Objective | None, tuning: TuneConfig
) -> Study:
    """What trials are judged by: folds that end where the newest quarter of the next one begins. Raises: BadInput."""
    made = datasets.trainable(name)
    table = datasets.series(name)
    inside = [k for k, text in enumerate(table.names) if not objective or objective.matches(Labels.from_json(text))]
    if not inside:
        raise BadInput(f"dataset {name} has no series in the scope of the objective")
    start_ns, end_ns = made.window.start_ns, made.window.end_ns
    seen_ns = round((1 - tuning.held_out) * (end_ns - start_ns))
    shares = [(1 - FAULT_SHARE) ** (tuning.folds - 1 - k) for k in range(tuning.folds)]
    labels = tuple(label for label in made.labels if label.start_ns < start_ns + seen_ns)
    drawn = _drawn(table, inside, labels, tuning)
    budget = objective.alert_budget() if objective else BudgetConfig(name="all", budget=config.budget)
    a_week = max(per_week(budget.budget) * len(drawn) / len(inside), LEAST_BUDGET)
    return Study(
        directory=datasets.directory,
        dataset=name,
        series=tuple(table.names[k] for k in drawn),
        start_ns=start_ns,
        ends_ns=tuple(start_ns + round(seen_ns * share) for share in shares),
        config=replace(config, budgets=()),
        budget=replace(budget, budget=a_week, match={}),
        cost=objective.cost if objective else CostConfig(),
        kinds=fault_kinds(objective or Objective(name="all")),
        labels=labels,
        seed=tuning.seed,
    )


# -- judging ------------------------------------------------------------------------------------------------------


def judge(
    study: Study, settings: Settings, fold: int, told: Told | None = None, points: Points | None = None
) -> Judged:
    """How settings do in a fold, which is learned from its beginning on; `points` are its own, if they are at hand."""
    end_ns = study.ends_ns[fold]
    points = _points(study, end_ns) if points is None else points
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
    datasets = Datasets(study.directory)
    arrays = train_forecasts(datasets, study.dataset, study.series, wanted[0], settings.detection, **spans)
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
        self._since_ns, self._series = since_ns, len(labels)
        self._opened: list[tuple[I64, I64]] = []  # rows, times
        self._paid: list[tuple[I64, I64]] = []
        self.threshold = math.nan
        present = np.bincount(points.code[points.time_ns >= since_ns], minlength=points.series) > 0
        self._events = []  # start, end, rows
        for label in study.labels:
            if label.kind == ANOMALY and since_ns <= label.start_ns < end_ns:
                rows = [k for k, one in enumerate(labels) if present[k] and _means(label, study.series[k], one)]
                if rows:
                    self._events.append((label.start_ns, label.end_ns + LATE_NS, np.array(rows)))

    def __call__(self, batch: Batch, alerted: Alerted) -> None:
        if len(alerted.threshold):
            self.threshold = float(alerted.threshold[0])
        late = batch.time_ns >= self._since_ns
        for flags, kept in ((alerted.opened, self._opened), (alerted.counted, self._paid)):
            k = np.flatnonzero(flags & late)
            if len(k):
                kept.append((batch.rows[k].astype(np.int64), batch.time_ns[k]))

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


def _points(study: Study, end_ns: int) -> Points:
    """The points of the drawn series until the end of a fold."""
    order = {text: k for k, text in enumerate(study.series)}
    code, time_ns, value = [], [], []
    for chunk in Datasets(study.directory).read(study.dataset, series=set(order), end_ns=end_ns):
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


def _drawn(table: SeriesTable, inside: Sequence[int], labels: Sequence[Label], tuning: TuneConfig) -> list[int]:
    """As many series as can be looked at: those with labels first, then by chance."""
    named = {label.series for label in labels if label.kind == ANOMALY}
    order = np.random.default_rng(tuning.seed).permutation(len(inside)).tolist()
    order.sort(key=lambda k: table.names[inside[k]] not in named)
    return sorted(inside[k] for k in order[: tuning.max_series])


# -- searching ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Task:
    study: Study
    settings: Settings
    fold: int
    points: Points  # read once for all trials


def _run(task: _Task, told: Told) -> tuple[dict[str, float], tuple[float, ...]]:
    judged = judge(task.study, task.settings, task.fold, told, task.points)
    of = task.study.cost, task.study.a_week
    return judged.figures(*of), tuple(judged.losses(*of).tolist())


def _telling(progress: Show | None, done: int, group: int, trials: int) -> Told:
    """Tells how far all trials are from how far a group of them is."""

    def tell(share: float) -> None:
        if progress:
            progress(done + share * group, trials, f"{done + group} of {trials} trials")

    return tell


def _halved(study: Study, trials: Sequence[Trial], processes: int, tell: Told) -> list[Trial]:
    """All trials, judged in the first fold, the best third of them in the next one, and so on."""
    known = {one.number: one for one in trials}
    left = list(known)
    for fold in range(len(study.ends_ns)):
        points = _points(study, study.ends_ns[fold])
        tasks = [_Task(study, known[number].settings, fold, points) for number in left]
        found = work(_run, tasks, count=processes, told=partial(_step, tell, fold, len(study.ends_ns)))
        for number, (figures, losses) in zip(left, found, strict=True):
            one = known[number]
            known[number] = replace(one, folds=(*one.folds, figures), losses=(*one.losses, losses))
        left.sort(key=lambda number: (known[number].cost, number))
        kept = left[: max(1, -(-len(left) // KEPT))]
        left = kept + [number for number in left if not number and number not in kept]
    return list(known.values())


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The best first, by their cost in all folds; behind the first trial those that are not surely better than it."""
    first = min(trials, key=lambda one: one.number)

    def better(one: Trial) -> bool:
        pairs = zip(one.folds, first.folds, strict=False)
        mostly = 2 * sum(mine["cost"] < its["cost"] for mine, its in pairs) > len(first.folds)
        return one is first or (mostly and _surely_less(one, first))

    return sorted(trials, key=lambda one: (-len(one.folds), not better(one), one.cost, one.number))


def _surely_less(one: Trial, first: Trial) -> bool:
    """Whether a trial costs less by more than one standard error of that over the series, in the folds that it was in.

    Source: Breiman et al., Classification and Regression Trees, 1984, section 3.4.3 (the one-standard-error rule).
    """
    spared = np.mean([np.subtract(its, mine) for mine, its in zip(one.losses, first.losses, strict=False)], axis=0)
    error = math.sqrt(len(spared)) * float(np.std(spared, ddof=1)) if len(spared) > 1 else 0.0
    return float(spared.sum()) > error


def _step(tell: Told, fold: int, folds: int, share: float) -> None:
    tell((fold + share) / folds)


def _known(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if value != value else value for name, value in figures.items()}
