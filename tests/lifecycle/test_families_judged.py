"""A version is judged with the families that it would serve with: what only they see is in its report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from otel_aiops.detect.detector import FORECAST, FOREST
from otel_aiops.detect.engine import EngineConfig
from otel_aiops.detect.forest import Forests, series_key
from otel_aiops.detect.groups import Groups
from otel_aiops.detect.serving import Action, Present, Rollout, Serving
from otel_aiops.detect.smoothing import SLOTS, Smoothing
from otel_aiops.lifecycle.backtest import Setup, _outcome
from otel_aiops.lifecycle.evaluate import Candidate, HeldOut, evaluate
from otel_aiops.lifecycle.events import events_of
from otel_aiops.lifecycle.play import Beginning, _Detector, watch
from otel_aiops.lifecycle.rehearse import moments
from otel_aiops.lifecycle.scoring import rules_of
from otel_aiops.lifecycle.version import Bundle, ForecastConfig, ForestConfig, Settings
from otel_aiops.pipeline import PipelineConfig
from tests.lifecycle import held
from tests.lifecycle import test_evaluate as evaluation
from tests.lifecycle.test_saved import level, tree

BLIND = EngineConfig(novelty_memory=0, seasons="off", threshold=1e4)  # an engine that finds nothing by itself
CONFIG = PipelineConfig(budget="2/day", detection=BLIND)
SETTINGS = Settings(BLIND, (ForecastConfig(), ForestConfig()))


@pytest.fixture(scope="module")
def data() -> HeldOut:
    return held.data()


@pytest.fixture(scope="module")
def plain(data: HeldOut) -> Candidate:
    return evaluation.learned(data, data.recording.since_ns, BLIND)


@pytest.fixture(scope="module")
def candidate(data: HeldOut, plain: Candidate) -> Candidate:
    """One whose forest looks at the first series, and whose forecast is of the second."""
    of, width_ns = data.recording, held.STEP_S * held.S
    keys = np.array([series_key(one) for one in of.labels], np.uint64)
    forest = tree(1, len(keys)) | {"key": keys, "scale": np.full(len(keys), 3.0)}
    forest["interval_s"] = np.array([float(held.STEP_S)])
    forecast = level(int(keys[1]), 100.0, 30.0, of.since_ns // width_ns - 1)
    day = (np.arange(SLOTS) - held.START_NS // width_ns) % SLOTS
    forecast["season"] = 10 * np.sin(2 * np.pi * day / SLOTS)[None]
    assert plain.bundle is not None
    return replace(plain, settings=SETTINGS, bundle=replace(plain.bundle, forest=forest, forecast=forecast))


def test_events_that_only_families_see_are_in_the_report(data: HeldOut, plain: Candidate, candidate: Candidate) -> None:
    kinds = ("spike", "shift_up")
    without = evaluate(plain, data, CONFIG, kinds=kinds).candidate
    told = evaluate(candidate, data, CONFIG, champion=replace(plain, name="champion"), kinds=kinds)
    found = told.candidate
    assert [one.caught for one in without.events] == [False, False] and not without.alerts
    assert [one.caught for one in told.sides[1].events] == [False, False], "the champion has none"
    assert [one.caught for one in found.events] == [True, True]
    assert {(one.series, one.channel) for one in found.alerts if one.true} == {
        (data.recording.texts[0], "forest"),
        (data.recording.texts[1], "forecast"),
    }
    assert found.cost.bytes_per_series > without.cost.bytes_per_series
    by_series = {one.series for one in found.trials if one.found}
    assert not any(one.found for one in without.trials)
    assert by_series == set(data.recording.texts[:2]), "faults in copies are seen by copies of the families"


@pytest.mark.parametrize("family", ["forest", "forecast"])
def test_scores_are_those_of_serving(data: HeldOut, candidate: Candidate, family: str) -> None:
    of, bundle = data.recording, candidate.bundle
    assert bundle is not None
    bundle = replace(bundle, forecast={}) if family == "forest" else replace(bundle, forest={})
    detector = _Detector(of, Beginning(BLIND, bundle), CONFIG)
    serving = Serving(BLIND, rules_of(CONFIG), lambda rows: rows.astype(np.uint64))
    rows = np.arange(len(of.texts), dtype=np.int32)
    serving.assign(rows, of.labels)
    for action in (Action.SHADOW, Action.PROMOTE):
        order = Rollout(action=action, version="v", time_ns=1)
        serving.roll(order, lambda _: bundle.trained(BLIND), Present(rows, of.labels, len(rows)))
    config = PipelineConfig()
    groups = Groups(replace(config.joint, enabled=False), replace(config.peers, enabled=False))
    channels, late = set(), of.after(of.since_ns)
    for begin, end in moments(late.time_ns, of.interval_s):
        some = late.code[begin:end], late.time_ns[begin:end], late.value[begin:end]
        for scored in detector.detection.step(*some, now_ns=int(late.time_ns[end - 1])):
            if np.isfinite(scored.batch.value).all():
                served = serving.score(scored.batch, groups, event_ns=int(late.time_ns[end - 1]))
                assert served.scores.score.tobytes() == scored.scores.score.tobytes()
                assert served.scores.alert.tobytes() == scored.scores.alert.tobytes()
                channels |= set(scored.scores.channel.tolist())
    assert {FOREST, FORECAST} & channels == {FOREST if family == "forest" else FORECAST}


def test_a_case_is_looked_at_with_its_forecast(data: HeldOut, candidate: Candidate) -> None:
    of = data.recording
    late = of.after(of.since_ns)
    mine = late.code == 1
    some = late.value[mine], late.time_ns[mine], of.labels[1]
    times, worth = watch(*some, Beginning(BLIND, candidate.bundle), CONFIG, of.texts[1])
    blind = watch(*some, Beginning(BLIND), CONFIG, of.texts[1])[1]
    near = (times >= data.truth[1].start_ns) & (times <= data.truth[1].end_ns + held.STEP_S * held.S)
    assert worth[near].max() >= 1 > blind.max() and worth[~near].max() < 1


def test_settings_without_a_version_have_families_of_the_points_before() -> None:
    data = held.data(series=18, incidents=(*((3.6, 3 * k) for k in range(6)), (4.4, 1)))
    of = data.recording.points
    of.value[(of.code % 2 == 1) & (of.code > 1) & (of.value > 140)] -= 120  # half of a service is high, half is low
    found = {}
    for name, families in (("none", ()), ("forecast", (ForecastConfig(),)), ("forest", (ForestConfig(),))):
        report = evaluate(Candidate(name, Settings(BLIND, families)), data, CONFIG, kinds=("spike",))
        found[name] = report
    blind = found["none"].candidate
    assert not blind.alerts and not blind.fault_recall and found["none"].notes == ()
    for name in ("forecast", "forest"):
        side = found[name].candidate
        assert side.alerts and {one.channel for one in side.alerts} == {name} and side.begun == "history"
        assert all(one.start_ns >= data.recording.since_ns for one in side.alerts)
        assert found[name].notes == (f"{name} is judged with its {name} trained on the points before the hold-out",)
        assert side.cost.bytes_per_series > blind.cost.bytes_per_series
    assert [one.caught for one in found["forecast"].candidate.events] == [True] * 7
    assert found["forecast"].candidate.fault_recall > 0.5, "copies have their forecasts too"


def test_a_version_that_has_learned_from_the_hold_out_trains_its_families_anew(
    data: HeldOut, candidate: Candidate
) -> None:
    later = replace(candidate, lineage=replace(candidate.lineage, until_ns=data.recording.since_ns + 1))
    told = evaluate(later, data, CONFIG, kinds=())
    assert told.notes[0].endswith(
        "with the points before, with its forecast trained on the points before the hold-out, "
        "without its forest, for which these are too few or say nothing"
    ), "no service has three series"
    assert {one.channel for one in told.candidate.alerts} == {"forecast"}, "not that of the version"
    assert told.candidate.begun == "history"


def test_a_backtest_runs_them_too(data: HeldOut, plain: Candidate, candidate: Candidate) -> None:
    of = data.recording
    events = events_of(data.truth, of.since_ns, of.until_ns)
    for version, missed in ((plain, 2), (candidate, 0)):
        setup = Setup(version.name, CONFIG, version)
        found = _outcome(setup, of, events, data.truth, 600 * held.S, lambda share: None)
        assert found.begun == "bundle" and len(found.missed) == missed


def test_copies_of_nothing_are_nothing(candidate: Candidate) -> None:
    bundle, rows = candidate.bundle, np.array([3], np.int32)
    assert isinstance(bundle, Bundle)
    assert Forests.copied({}, rows, 2) == Smoothing.copied({}, rows, 2) == {}
    assert Forests.copied(Forests(bundle.forest).state(), rows, 2) == {}, "no row has a series of it"
    assert len(Smoothing.copied(Smoothing(bundle.forecast).state(), rows, 2)["row"]) == 0
