"""Tuning: which settings find most under the alert budget, searched in folds of time that never see the newest part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from otel_aiops.detect.budget import LEAST_BUDGET, BudgetConfig, per_week
from otel_aiops.errors import BadInput
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.fold import Judged, Study, judge, points_of
from otel_aiops.lifecycle.objective import CostConfig, Objective
from otel_aiops.lifecycle.rehearse import FAULT_SHARE
from otel_aiops.lifecycle.scope import fault_kinds
from otel_aiops.lifecycle.search import LEAST_FOLDS, Drawn, Optuna, Trial, TuneConfig
from otel_aiops.lifecycle.tables import SeriesTable
from otel_aiops.lifecycle.train import ruled
from otel_aiops.lifecycle.tried import Tried
from otel_aiops.lifecycle.truth import ANOMALY, Label
from otel_aiops.lifecycle.version import Settings
from otel_aiops.lifecycle.workers import Told, work
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.archive import Points

SURE = 1.64  # standard errors by which a trial must cost more than the best one to leave the race: 95 % of one side
LIKELY = 1.0  # and less than the first one to be chosen; the gate judges it again on points that no trial has seen

Show = Callable[[float, float, str], None]  # (done, total, text)


class Tracker(Protocol):
    """Where somebody keeps what was tried. Figures that are NaN are not known."""

    def trial(self, one: Trial) -> None:
        """One trial, when it is judged."""

    def done(self, best: Trial) -> None:
        """What was chosen in the end."""


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
    tried: Tried | None = None,
    progress: Show | None = None,
) -> Tuned:
    """Search settings for a dataset, beginning with those that are given; equal calls give equal answers.

    Every fold is learned from its beginning on, each point scored before it is learned, and judged on its newest
    quarter, which begins where the fold before ends: recall of labelled events and of faults put in, at the threshold
    that keeps the objective's budget, over all its folds together. Without labelled events, trials that surely cost
    more than the best one by then do not go on to the next fold (racing; Birattari et al., A Racing Algorithm for
    Configuring Metaheuristics, 2002); with some all do, because a fold with few of them says little of the next. The
    settings that one begins with are judged in all folds, and stay the best unless others cost less by over one
    standard error over all series, and more in less than half of the folds. The newest part of the window is not read.
    With `tried` each judgement is kept there as soon as it is made, and none that is there is made again.
    Raises: BadInput when the gate of the dataset says no, or nothing is in scope, or Optuna is not installed.
    """
    tuning = tuning or TuneConfig()
    study = studied(datasets, name, ruled(config, settings, objective), objective, tuning)
    propose = (Optuna if tuning.search == "optuna" else Drawn)(settings, tuning)
    done: list[Trial] = []
    while group := propose.next(len(done)):
        judged = _raced(study, group, processes, tried, _telling(progress, len(done), len(group), tuning.trials))
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
    tried: Tried | None


def _run(task: _Task, told: Told) -> Judged:
    judged = judge(task.study, task.settings, task.fold, told, task.points)
    if task.tried is not None:
        task.tried.write(_deciding(task.study, task.settings, task.fold), judged)
    return judged


def _deciding(study: Study, settings: Settings, fold: int) -> object:
    """Everything but where the dataset is, whose name is the hash of its content."""
    return replace(study, directory=Path()), settings, fold


def _telling(progress: Show | None, done: int, group: int, trials: int) -> Told:
    """Tells how far all trials are from how far a group of them is."""

    def tell(share: float) -> None:
        if progress:
            progress(done + share * group, trials, f"{done + group} of {trials} trials")

    return tell


def _raced(study: Study, trials: Sequence[Trial], processes: int, tried: Tried | None, tell: Told) -> list[Trial]:
    """All trials, judged in the first fold, those of them in the next one that may still be the best, and so on."""
    known = {one.number: one for one in trials}
    parts: dict[int, list[Judged]] = {number: [] for number in known}
    of, left = (study.cost, study.a_week), list(known)
    labelled = any(label.kind == ANOMALY for label in study.labels)
    for fold in range(len(study.ends_ns)):
        settings = {number: known[number].settings for number in left}
        step = partial(_step, tell, fold, len(study.ends_ns))
        for number, judged in _judged(study, settings, fold, processes, tried, step).items():
            parts[number].append(judged)
            folds, whole = (*known[number].folds, judged.figures(*of)), Judged.together(parts[number])
            losses = tuple(whole.losses(*of).tolist())
            known[number] = replace(known[number], folds=folds, figures=whole.figures(*of), losses=losses)
        best = min((known[number] for number in left), key=lambda one: (one.cost, one.number))
        if not labelled:
            left = [number for number in left if not number or not _less(best, known[number], SURE)]
    return list(known.values())


def _judged(
    study: Study, settings: Mapping[int, Settings], fold: int, processes: int, tried: Tried | None, tell: Told
) -> dict[int, Judged]:
    """How some settings did in a fold; those that are known already as they are."""
    read = tried.read if tried else lambda of: None
    kept = {number: read(_deciding(study, one, fold)) for number, one in settings.items()}
    found = {number: judged for number, judged in kept.items() if judged is not None}
    if missing := [number for number in settings if number not in found]:
        points = points_of(study, study.ends_ns[fold])
        tasks = [_Task(study, settings[number], fold, points, tried) for number in missing]
        found |= dict(zip(missing, work(_run, tasks, count=processes, told=tell), strict=True))
    return found


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The best first, by their cost in all folds; behind the first trial those that are not likely better than it."""
    first = min(trials, key=lambda one: one.number)

    def better(one: Trial) -> bool:
        if one is first or len(one.folds) < len(first.folds):
            return one is first
        worse = sum(mine["cost"] > its["cost"] for mine, its in zip(one.folds, first.folds, strict=True))
        return 2 * worse < len(first.folds) and _less(one, first, LIKELY)

    return sorted(trials, key=lambda one: (-len(one.folds), not better(one), one.cost, one.number))


def _less(one: Trial, other: Trial, errors: float) -> bool:
    """Whether a trial costs less than another by so many standard errors of that over the series.

    The best of many trials is nearly always better by chance; without a rule like this it is chosen all the same.
    Source: Breiman et al., Classification and Regression Trees, 1984, section 3.4.3 (the one-standard-error rule).
    """
    spared = np.subtract(other.losses, one.losses)
    error = math.sqrt(len(spared)) * float(np.std(spared, ddof=1)) if len(spared) > 1 else 0.0
    return float(spared.sum()) > errors * error * (1 + 1e-9)  # a gain in one series alone is one error, and not more


def _step(tell: Told, fold: int, folds: int, share: float) -> None:
    tell((fold + share) / folds)


def _known(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if value != value else value for name, value in figures.items()}
