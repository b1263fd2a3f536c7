"""Tuning: the same answer to the same question, nothing of the newest part, and what the cost says."""

from __future__ import annotations

import json
import math
import pickle
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otel_aiops.detect.engine import EngineConfig
from otel_aiops.errors import BadInput
from otel_aiops.lifecycle import tune as module
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.fold import Judged, judge
from otel_aiops.lifecycle.manifest import Window
from otel_aiops.lifecycle.objective import CostConfig, Objective
from otel_aiops.lifecycle.search import SPACE, Drawn, Optuna, Span, Trial, TuneConfig
from otel_aiops.lifecycle.tried import Tried
from otel_aiops.lifecycle.truth import Exclusion, Label
from otel_aiops.lifecycle.tune import Tuned, ranked, studied, tune
from otel_aiops.lifecycle.version import Settings
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.segments import HOUR_NS
from tests.lifecycle.recording import MINUTE_NS, NOW_NS, SERIES, START_NS, columns, record

HOURS = 5
STEPS = HOURS * 60
WINDOW = Window(START_NS, START_NS + HOURS * HOUR_NS)
SETTINGS = Settings(EngineConfig(seasons="off", novelty_memory=0))
CONFIG = PipelineConfig()
FEW = TuneConfig(trials=4, max_series=2)
OBJECTIVE = Objective(name="carts", match={"service": "cart"}, budget="1/hour")
SPIKE = int(STEPS * 0.8 * 0.9)  # in the newest quarter of the last fold


def made(
    directory: Path,
    *,
    other_end: bool = False,
    sizes: Sequence[float] = (500.0,),
    force: str = "a test",
    labels: tuple[Label, ...] = (),
    without: tuple[Exclusion, ...] = (),
) -> str:
    """A dataset with a spike of a size in each of the first series; `other_end` changes what is held out."""
    value = np.random.default_rng(5).normal(100, 5, (STEPS, len(SERIES)))
    value[SPIKE, : len(sizes)] += sizes
    if other_end:
        value[int(STEPS * 0.8) :] *= 3
    time_ns = START_NS + np.repeat(np.arange(STEPS), len(SERIES)) * MINUTE_NS
    record(directory, columns(SERIES, np.tile(np.arange(len(SERIES)), STEPS), time_ns, value.ravel()))
    return Datasets.of(directory).build(WINDOW, (), labels, without, now_ns=NOW_NS, force=force).id


def tuned(directory: Path, tuning: TuneConfig = FEW, **more: Any) -> Tuned:
    labels = more.pop("labels", ())
    name = made(directory, other_end=more.pop("other_end", False), labels=labels)
    return tune(Datasets.of(directory), name, SETTINGS, CONFIG, objective=OBJECTIVE, tuning=tuning, **more)


class Kept:
    """A tracker in memory."""

    def __init__(self) -> None:
        self.trials: dict[int, tuple[Settings, dict[str, float]]] = {}
        self.best: Settings | None = None

    def trial(self, one: Trial) -> None:
        self.trials[one.number] = one.settings, dict(one.figures)

    def done(self, best: Trial) -> None:
        self.best = best.settings


def test_trials_are_judged_alike_and_the_newest_part_changes_nothing(tmp_path: Path) -> None:
    kept, told = Kept(), []
    found = tuned(tmp_path / "a", tracker=kept, progress=lambda done, total, _: told.append(done / total))
    again = tuned(tmp_path / "b", other_end=True)
    assert [repr(one) for one in found.trials] == [repr(one) for one in again.trials]
    assert found.until_ns == START_NS + round(0.8 * HOURS * HOUR_NS)
    assert sorted(kept.trials) == [0, 1, 2, 3] and kept.trials[0][0] == SETTINGS
    assert kept.best == found.best.settings and kept.best == kept.trials[found.best.number][0]
    folds = {one.number: len(one.folds) for one in found.trials}
    assert folds[0] == 3 and set(folds.values()) <= {1, 2, 3}
    assert len(found.best.folds) == 3 and 0 <= found.best.figures["recall"] <= 1
    assert told == sorted(told) and told[-1] == pytest.approx(1.0)
    plain = found.plain_values()
    assert plain["best"] == found.best.settings.to_json() and len(plain["trials"]) == 4
    for settings, _ in list(kept.trials.values())[1:]:
        for name in ("threshold", "warmup_points", "memory_points", "adapt_after"):
            assert SPACE[name].low <= getattr(settings.detection, name) <= SPACE[name].high


def test_what_was_judged_is_not_judged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[tuple[float, int]] = []

    def counted(study: Any, settings: Settings, fold: int, *more: Any) -> Judged:
        judged.append((settings.detection.threshold, fold))
        return judge(study, settings, fold, *more)

    monkeypatch.setattr(module, "judge", counted)
    tried, name = Tried(tmp_path / "tried"), made(tmp_path)
    shared: dict[str, Any] = {"tuning": FEW, "tried": tried}
    first = tune(Datasets.of(tmp_path), name, SETTINGS, CONFIG, objective=OBJECTIVE, **shared)
    count = len(judged)
    assert count == sum(len(one.folds) for one in first.trials) == len(list(tried.directory.iterdir()))
    again = tune(Datasets.of(tmp_path), name, SETTINGS, CONFIG, objective=OBJECTIVE, **shared)
    assert repr(again) == repr(first) and len(judged) == count
    for path, text in zip(sorted(tried.directory.iterdir()), ("", "[1]", '[{"cost": "x"}, []]'), strict=False):
        path.write_text(text)
    again = tune(Datasets.of(tmp_path), name, SETTINGS, CONFIG, objective=OBJECTIVE, **shared)
    assert repr(again) == repr(first) and len(judged) == count + 3, "damaged ones are"
    dear = replace(OBJECTIVE, budget="9/day")
    tune(Datasets.of(tmp_path), name, SETTINGS, CONFIG, objective=dear, **shared)
    assert [fold for _, fold in judged[count + 3 :]].count(0) == FEW.trials, "under another budget all are"


def test_labelled_events_count_where_they_are_judged(tmp_path: Path) -> None:
    spike_ns = START_NS + SPIKE * MINUTE_NS
    label = Label(start_ns=spike_ns, end_ns=spike_ns + MINUTE_NS, series=SERIES[0])
    quiet = replace(label, start_ns=spike_ns - 15 * MINUTE_NS, end_ns=spike_ns - 14 * MINUTE_NS, series=SERIES[1])
    other = replace(label, service="pay", series="")  # out of scope
    normal = replace(label, kind="normal")
    name = made(tmp_path, labels=(label, quiet, other, normal))
    study = studied(Datasets.of(tmp_path), name, CONFIG, OBJECTIVE, FEW)
    assert set(study.series) == {SERIES[0], SERIES[1]}, "those with labels come first"
    last = judge(study, SETTINGS, 2)
    spiky, calm = study.series.index(SERIES[0]), study.series.index(SERIES[1])
    assert last.events.tolist() == [1, 1] and (last.told[spiky], last.told[calm]) == (1, 0) and last.faults.sum() > 0
    assert not judge(study, SETTINGS, 0).events.any(), "they are not in what the first fold judges"
    unlabelled = judge(replace(study, labels=()), SETTINGS, 2)
    more = unlabelled.false_alerts - last.false_alerts
    assert more[spiky] == 1 and more[calm] == 0 and not unlabelled.events.any()


def test_confirmed_incidents_are_to_be_found_although_nobody_learns_from_them(tmp_path: Path) -> None:
    spike_ns = START_NS + SPIKE * MINUTE_NS
    about: dict[str, Any] = {"start_ns": spike_ns, "end_ns": spike_ns + MINUTE_NS, "source": "incident"}
    label = Label(**about, service="cart", note="INC-1")
    hole = Exclusion(**about, match=(("service", "cart"),))
    found = []
    for name, source in (("incident", "incident"), ("patch", "maintenance")):
        without = (replace(hole, source=source),)
        dataset = made(tmp_path / name, labels=(label,), without=without)
        study = studied(Datasets.of(tmp_path / name), dataset, CONFIG, OBJECTIVE, replace(FEW, max_series=99))
        last = judge(study, SETTINGS, 2)
        found.append((last.events.sum(), last.told.sum()))
    assert found == [(1, 1), (0, 0)], "of what is left out for another reason nothing is judged"


def test_settings_are_judged_at_the_lowest_threshold_that_keeps_to_the_budget(tmp_path: Path) -> None:
    name = made(tmp_path, sizes=(500.0, 250.0, 125.0, 60.0, 30.0))
    study = studied(Datasets.of(tmp_path), name, CONFIG, None, replace(FEW, max_series=99))
    found = []
    for alerts in (1, 500):
        budget = replace(study.budget, budget=168.0 * alerts, floor=0.25, group=0.0)  # of the hour that is judged
        found.append(judge(replace(study, budget=budget, kinds=()), SETTINGS, 2))
    one, many = found
    assert one.false_alerts.sum() == 1 < many.false_alerts.sum()
    assert one.threshold > many.threshold == 0.25, "with more alerts it is lower, but not below the floor"


def test_the_cost_weighs_misses_and_false_alerts() -> None:
    cost = CostConfig(miss=10, false_alert=1)
    two = [np.array(of) for of in ([1, 1], [0, 1], [2, 2], [2, 2], [3, 0])]
    judged = Judged(*two, weeks=0.5, threshold=2.0)
    assert judged.figures(cost, a_week=6.0) == {
        "cost": pytest.approx(10 * (1 - 6 / 7) + 1 * 1.0),
        "recall": pytest.approx(2 / 7 * 0.5 + 5 / 7),
        "false_alerts_a_week": pytest.approx(6.0),
        "threshold": 2.0,
    }
    assert judged.losses(cost, a_week=6.0) == pytest.approx([10 * (1 - 6 / 7) + 1.0, 0.0]), "the first misses and cries"
    assert Judged.from_json(json.loads(json.dumps(judged.to_json()))).figures(cost, 6.0) == judged.figures(cost, 6.0)
    easy = replace(judged, events=np.array([0, 1]), told=np.array([0, 1]), found=np.array([0, 0]), weeks=1.5)
    whole = Judged.together([judged, easy])
    assert (whole.events.sum(), whole.told.sum(), whole.faults.sum(), whole.found.sum()) == (3, 2, 8, 4)
    assert whole.figures(cost, a_week=6.0)["recall"] == pytest.approx(3 / 8 * 2 / 3 + 5 / 8 * 4 / 8), (
        "not the mean of both"
    )
    none = np.zeros(2, np.int64)
    nothing = replace(judged, events=none, told=none, faults=none, found=none).figures(cost, a_week=6.0)
    only = replace(judged, faults=none, found=none).figures(cost, a_week=6.0)["recall"]
    assert only == 0.5 and replace(judged, events=none, told=none).figures(cost, a_week=6.0)["recall"] == 1.0
    assert math.isnan(nothing["recall"]) and nothing["cost"] == pytest.approx(11.0)


def trial(number: int, *losses: tuple[float, ...]) -> Trial:
    means = tuple(np.mean(losses, axis=0).tolist())
    return Trial(number, SETTINGS, tuple({"cost": sum(one)} for one in losses), {"cost": sum(means)}, means)


def test_settings_that_one_begins_with_stay_where_others_are_worse_in_most_folds() -> None:
    first = trial(0, *[(2.5, 2.5)] * 3)
    lucky, better = trial(1, (2.6, 2.5), (2.6, 2.5), (0.5, 0.5)), trial(2, *[(2.4, 2.4)] * 3)
    thin = trial(4, (2.5, 2.5), (2.5, 2.5), (2.2, 2.2))
    assert [one.number for one in ranked([trial(3, (0.5, 0.5)), lucky, first])] == [0, 1, 3]
    assert [one.number for one in ranked([lucky, better, first])] == [2, 0, 1]
    assert ranked([lucky, thin, first])[0].number == 4, "two folds in which nothing differs say nothing"


def test_only_what_surely_costs_more_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, list[float]] = {0: [], 1: [], 2: []}
    lost = {3.0: (5, 5, 5, 5), 4.0: (4, 4, 4, 4), 6.0: (5, 3, 4, 5), 9.0: (9, 9, 8, 9)}  # faults missed, by threshold

    def judged(study: Any, settings: Settings, fold: int, *_: Any) -> Judged:
        seen[fold].append(settings.detection.threshold)
        none, faults = np.zeros(4, np.int64), np.full(4, 10)
        return Judged(none, none, faults, faults - lost[settings.detection.threshold], none, 1.0, 3.0)

    monkeypatch.setattr(module, "judge", judged)
    monkeypatch.setattr(module, "points_of", lambda *_: None)
    monkeypatch.setattr(module, "work", lambda run, tasks, count, told: [run(one, told) for one in tasks])
    study = studied(Datasets.of(tmp_path), made(tmp_path), CONFIG, OBJECTIVE, FEW)
    engines = [replace(SETTINGS.detection, threshold=threshold) for threshold in lost]
    trials = [Trial(number, replace(SETTINGS, detection=one)) for number, one in enumerate(engines)]
    raced = module._raced(study, trials, 1, None, lambda share: None)
    assert [sorted(some) for some in seen.values()] == [[3.0, 4.0, 6.0, 9.0], [3.0, 4.0, 6.0], [3.0, 4.0, 6.0]]
    assert [len(one.folds) for one in raced] == [3, 3, 3, 1], "the first goes on though it surely costs more"
    event = Label(start_ns=START_NS, end_ns=START_NS + HOUR_NS, series=study.series[0])
    raced = module._raced(replace(study, labels=(event,)), trials, 1, None, lambda share: None)
    assert [len(one.folds) for one in raced] == [3, 3, 3, 3], "faults alone decide in folds without events"


def test_settings_that_one_begins_with_stay_unless_others_are_better_in_more_than_one_series() -> None:
    first = trial(0, *[(1.0, 1.0, 1.0, 1.0)] * 3)
    by_chance = trial(1, *[(0.2, 1.1, 1.1, 1.0)] * 3)  # gains 0.6, give or take 0.87
    one_series = trial(3, *[(1.0, 1.0, 0.3, 1.0)] * 3)  # gains 0.7, give or take 0.7
    better = trial(2, *[(0.9, 0.8, 0.8, 0.9)] * 3)  # gains 0.6, give or take 0.12
    assert [one.number for one in ranked([by_chance, one_series, first])] == [0, 3, 1]
    assert [one.number for one in ranked([by_chance, better, first])] == [2, 0, 1]
    alone = trial(0, *[(1.0,)] * 3), trial(1, *[(0.9,)] * 3)
    assert ranked(alone)[0].number == 1, "of one series nothing is known but the folds"


def test_each_setting_is_moved_alone_then_some_of_the_best() -> None:
    drawn = Drawn(SETTINGS, replace(FEW, trials=40))
    alone = drawn.next(0)
    assert alone[0].settings == SETTINGS and {_differs(one.settings, SETTINGS) for one in alone[1:]} == {1}
    for name in SPACE:
        values = {getattr(one.settings.detection, name) for one in alone} - {getattr(SETTINGS.detection, name)}
        assert values, f"{name} is moved"
    assert any(one.settings.families for one in alone)
    drawn.told([replace(one, folds=({},), figures={"cost": 1.0 - (one.number == 7)}) for one in alone])
    others = drawn.next(len(alone))
    assert [one.number for one in others] == list(range(len(alone), 40)) and len(others) > 10
    assert all(_differs(one.settings, alone[7].settings) <= 3 for one in others)
    few = Drawn(SETTINGS, replace(FEW, trials=6))
    assert len(few.next(0)) == 5, "two thirds of few trials too"
    assert len(Drawn(SETTINGS, replace(FEW, trials=1)).next(0)) == 1


def _differs(one: Settings, other: Settings) -> int:
    """In how many settings two differ; what is drawn may be what was there."""
    names = sum(getattr(one.detection, name) != getattr(other.detection, name) for name in SPACE)
    return names + (one.families != other.families)


def test_folds_are_judged_one_behind_the_other(tmp_path: Path) -> None:
    study = studied(Datasets.of(tmp_path), made(tmp_path), CONFIG, None, replace(FEW, folds=4, max_series=99))
    judged_from = [end - 0.25 * (end - START_NS) for end in study.ends_ns]
    assert judged_from[1:] == pytest.approx(list(study.ends_ns[:-1])) and len(study.ends_ns) == 4
    assert pickle.loads(pickle.dumps(study)) == study, "processes get it"
    assert len(study.series) == len(SERIES) and study.a_week == pytest.approx(7.0)


def test_what_cannot_be_tuned_is_refused(tmp_path: Path) -> None:
    name = made(tmp_path, force="")
    with pytest.raises(BadInput, match="not good enough"):
        tune(Datasets.of(tmp_path), name, SETTINGS, CONFIG, tuning=FEW)
    nobody = Objective(name="nobody", match={"service": "nobody"})
    with pytest.raises(BadInput, match="no series in the scope"):
        studied(Datasets.of(tmp_path / "b"), made(tmp_path / "b"), CONFIG, nobody, FEW)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"trials": 0}, "trials"), ({"folds": 2}, "folds"), ({"held_out": 0.9}, "held_out"), ({"search": "x"}, "search")],
)
def test_settings_of_the_search_are_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=f"^{message}: expected"):
        TuneConfig(**wrong)


def test_spans_keep_to_their_limits() -> None:
    for span in SPACE.values():
        drawn = [span.draw(share) for share in (0.0, 0.3, 0.999999)]
        assert span.words or all(span.low <= float(one) <= span.high for one in drawn)
    assert Span(words=("a", "b", "c")).draw(0.999999) == "c"


def test_optuna_is_only_needed_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(BadInput, match=r"otel-aiops\[hpo\]"):
        tuned(tmp_path, replace(FEW, search="optuna"))


@pytest.mark.filterwarnings("error")
def test_optuna_finds_what_costs_less(tmp_path: Path) -> None:
    outside = Settings(replace(SETTINGS.detection, threshold=50.0, warmup_points=500))
    search = Optuna(outside, TuneConfig(trials=48, seed=1))
    off: list[float] = []
    while group := search.next(len(off)):
        far = [abs(math.log(one.settings.detection.threshold / 5.0)) for one in group]
        off += far
        search.told([replace(one, figures={"cost": cost}) for one, cost in zip(group, far, strict=True)])
        assert off[0] == abs(math.log(10.0)), "the first is where one begins, wherever that is"
    assert len(off) == 48 and np.median(off[-16:]) < 0.5 * np.median(off[1:17]), "it learns from what it is told"


def test_optuna_is_asked_and_told(tmp_path: Path) -> None:
    found, again = (tuned(tmp_path / name, TuneConfig(trials=5, max_series=1, search="optuna")) for name in "ab")
    assert [repr(one) for one in found.trials] == [repr(one) for one in again.trials]
    by_number = {one.number: one.settings for one in found.trials}
    assert by_number[0] == SETTINGS and len(set(map(repr, by_number.values()))) == 5 and len(found.best.folds) == 3
    for settings in list(by_number.values())[1:]:
        for name in ("threshold", "warmup_points", "memory_points", "adapt_after"):
            assert SPACE[name].low <= getattr(settings.detection, name) <= SPACE[name].high
