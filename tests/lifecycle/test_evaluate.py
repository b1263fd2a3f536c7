"""A version is judged on points that it has not seen, in the same way as the champion and the baseline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from otel_aiops.detect.engine import Engine, EngineConfig, copied
from otel_aiops.detect.lessons import Verdict
from otel_aiops.detect.serving import owned
from otel_aiops.errors import BadInput, ConfigError, StateError
from otel_aiops.lifecycle.cases import Cases, freeze_verdicts
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.evaluate import (
    Candidate,
    EvaluationConfig,
    HeldOut,
    evaluate,
    held_out,
    recording_of,
    since,
)
from otel_aiops.lifecycle.manifest import Window
from otel_aiops.lifecycle.naive import SeasonalNaive
from otel_aiops.lifecycle.objective import Objective
from otel_aiops.lifecycle.page import page, save
from otel_aiops.lifecycle.play import Beginning, play
from otel_aiops.lifecycle.report import PAGE, REPORT, Report, saved
from otel_aiops.lifecycle.truth import Exclusion, Label
from otel_aiops.lifecycle.version import Bundle, Lineage, Models, Settings
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.archive import Points
from otel_aiops.series.batch import Batch
from tests.lifecycle import held
from tests.lifecycle.recording import HOURS, NOW_NS, SERIES, START_NS, record, regular

PLAIN = EngineConfig(novelty_memory=0, seasons="week")
CONFIG = PipelineConfig(budget="2/day", detection=PLAIN)
FEW = EvaluationConfig(seed=1)


@pytest.fixture(scope="module")
def data() -> HeldOut:
    return held.data()


@pytest.fixture(scope="module")
def report(data: HeldOut) -> Report:
    champion = Candidate("champion", Settings(replace(PLAIN, threshold=9.0)))
    return evaluate(Candidate("candidate", Settings(PLAIN)), data, CONFIG, champion=champion)


def learned(data: HeldOut, until_ns: int, detection: EngineConfig = PLAIN) -> Candidate:
    """A version that has learned from the points before a time, with its rows in another order."""
    from otel_aiops.lifecycle.play import _Detector
    from otel_aiops.lifecycle.rehearse import moments

    of = data.recording
    kept = of.points.time_ns < until_ns
    order = np.arange(len(of.texts))[::-1]
    texts = tuple(of.texts[k] for k in order)
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    past = Points(place[of.points.code[kept]], of.points.time_ns[kept], of.points.value[kept], len(texts))
    recording = replace(of, points=past, texts=texts, labels=tuple(of.labels[k] for k in order))
    detector = _Detector(recording, Beginning(detection), CONFIG)
    for begin, end in moments(past.time_ns, of.interval_s):
        some = past.code[begin:end], past.time_ns[begin:end], past.value[begin:end]
        list(detector.detection.step(*some, now_ns=int(past.time_ns[end - 1])))
    bundle = Bundle(texts, owned(detector.state(), "engine"))
    return Candidate("learned", Settings(detection), bundle, Lineage(until_ns=until_ns))


def test_all_are_judged_on_the_same_points_and_known_incidents_are_found(report: Report) -> None:
    mine, champion, baseline = report.sides
    assert (mine.role, champion.role, baseline.role) == ("candidate", "champion", "baseline")
    assert mine.points == champion.points == baseline.points > 0
    assert [one.event.name for one in mine.events] == ["INC-1", "INC-2"] and all(one.caught for one in mine.events)
    assert [one.event for one in baseline.events] == [one.event for one in mine.events]
    assert mine.figures()["recall"] == 1.0 and 0 < mine.figures()["precision"] <= 1
    assert report.changed == {"detection.threshold": [9.0, 6.0]}
    assert mine.cost.bytes_per_series > 0 and mine.cost.us_per_point > 0


def test_the_faults_are_the_same_for_all_and_of_six_kinds(report: Report) -> None:
    kinds = [set(side.by_kind()) for side in report.sides]
    assert kinds[0] == {"spike", "shift_up", "ramp", "variance_up", "flat", "missing"} == kinds[1]
    assert {one.series for one in report.candidate.trials} <= set(held.data().recording.texts)
    found, tried = report.candidate.by_kind()["missing"]
    assert found == tried > 0, "silence is a rule that all have"
    assert 0 < report.candidate.fault_recall < 1 and report.candidate.fault_delay_s >= 0


def test_equal_input_gives_equal_reports(report: Report, data: HeldOut) -> None:
    again = evaluate(Candidate("candidate", Settings(PLAIN)), data, CONFIG)
    one, two = report.sides[0], again.sides[0]
    assert (one.alerts, one.events, one.probability) == (two.alerts, two.events, two.probability)
    assert str(one.trials) == str(two.trials)


def test_nothing_of_the_future_is_known(data: HeldOut) -> None:
    """What comes later changes no alert before it."""
    of = data.recording
    cut_ns = of.since_ns + held.DAY_NS
    kept = of.points.time_ns < cut_ns
    short = replace(of, points=Points(of.points.code[kept], of.points.time_ns[kept], of.points.value[kept], 4))
    whole = play(of, Beginning(PLAIN), CONFIG, kinds=())
    part = play(short, Beginning(PLAIN), CONFIG, kinds=())
    before = [one.start_ns for one in whole.opened if one.start_ns < cut_ns]
    assert before and before == [one.start_ns for one in part.opened]


def test_a_version_begins_with_what_it_has_learned(data: HeldOut) -> None:
    candidate = learned(data, data.recording.since_ns)
    told = evaluate(candidate, data, CONFIG, kinds=("spike",))
    assert told.candidate.begun == "bundle" and not told.notes
    late = replace(data.recording, points=data.recording.after(data.recording.since_ns))
    assert candidate.bundle is not None
    warm = play(late, Beginning(PLAIN, candidate.bundle), CONFIG, kinds=())
    cold = play(late, Beginning(PLAIN), CONFIG, kinds=())
    assert warm.probability.sum() > cold.probability.sum(), "it need not warm up again"


def test_it_learns_from_what_came_between_too(data: HeldOut) -> None:
    early = learned(data, data.recording.since_ns - held.DAY_NS)
    late = learned(data, data.recording.since_ns)
    told = [evaluate(one, data, CONFIG, kinds=()).candidate for one in (early, late)]
    assert told[0].points == told[1].points and told[0].begun == "bundle"
    assert told[0].probability == pytest.approx(told[1].probability, abs=40), "as if it had gone on all the time"


def test_one_that_has_seen_the_hold_out_begins_anew_and_the_report_says_so(data: HeldOut) -> None:
    candidate = learned(data, data.recording.since_ns + 1)
    told = evaluate(candidate, data, CONFIG, kinds=())
    assert told.candidate.begun == "history" and "has learned from the hold-out" in told.notes[0]


def test_series_of_a_version_that_are_gone_do_no_harm(data: HeldOut) -> None:
    candidate = learned(data, data.recording.since_ns)
    assert candidate.bundle is not None
    of = data.recording
    two = replace(
        of, points=of.points.of([2, 0]), texts=(of.texts[2], of.texts[0]), labels=(of.labels[2], of.labels[0])
    )
    played = play(two, Beginning(PLAIN, candidate.bundle), CONFIG, kinds=())
    assert played.points == two.after(two.since_ns).time_ns.size


def test_an_event_of_which_nothing_is_recorded_is_not_judged(data: HeldOut) -> None:
    of = data.recording
    other = Label(start_ns=of.since_ns + 10, end_ns=of.since_ns + held.DAY_NS, service="elsewhere", source="file")
    told = evaluate(Candidate("c", Settings(PLAIN)), replace(data, truth=(*data.truth, other)), CONFIG, kinds=())
    assert len(told.candidate.events) == 2 and told.notes == ("1 labelled events have no points, and are not judged",)


def test_an_objective_has_its_budget_for_itself(data: HeldOut) -> None:
    told = evaluate(Candidate("c", Settings(PLAIN)), data, CONFIG, objective=Objective(name="o", budget=3), kinds=())
    assert told.objective == "o" and told.budget == 3


def test_a_report_is_read_back_as_it_was(report: Report, tmp_path: Path) -> None:
    save(report, tmp_path)
    again = saved(tmp_path)
    assert again is not None and again.to_json() == report.to_json()
    assert saved(tmp_path / "none") is None
    text = (tmp_path / PAGE).read_text()
    assert "http" not in text.replace("http-equiv", "") and "<script" not in text, "nothing from the network"
    assert "INC-1" in text and "seasonal-naive" in text and text.count("<svg") >= 3
    (tmp_path / REPORT).write_text("{")
    with pytest.raises(StateError, match="expected JSON"):
        saved(tmp_path)
    (tmp_path / REPORT).write_text(json.dumps({**report.to_json(), "format": 9}))
    with pytest.raises(StateError, match="expected format 1, got 9"):
        saved(tmp_path)
    (tmp_path / REPORT).write_text(json.dumps({"format": 1}))
    with pytest.raises(StateError, match="expected a report"):
        saved(tmp_path)


def test_a_page_shows_hostile_names_as_text(report: Report) -> None:
    side = report.candidate
    event = replace(side.events[0].event, name="<script>alert(1)</script>")
    bad = replace(side, name="<b>", events=(replace(side.events[0], event=event, caught=False),))
    text = page(replace(report, sides=(bad,), version="<i>", notes=("<u>",), pictures=()))
    assert "<script>" not in text and "&lt;script&gt;" in text and "<u>" not in text


def test_a_page_calls_no_series_one_with_alerts_that_only_joined_others(report: Report) -> None:
    first = report.pictures[0]
    text = page(report)
    assert "alerts of this version" in text and "of another series" not in text
    joined = page(replace(report, pictures=(replace(first, series=held.labels_of(3).to_json()),)))
    assert "with the alerts of another series of its service" in joined and "0 alerts of this" not in joined


def test_a_page_of_nearly_nothing(report: Report) -> None:
    side = replace(report.candidate, alerts=(), events=(), trials=(), probability=(0.0,) * 20, points=0)
    text = page(replace(report, sides=(side,), pictures=(), quality={}, changed={}))
    assert "Nobody has labelled anything" in text and "No series has an alert" in text


# -- frozen cases -----------------------------------------------------------------------------------------------------


def test_verdicts_become_cases_and_are_judged(data: HeldOut, tmp_path: Path) -> None:
    of, cases = data.recording, Cases(tmp_path / "cases")
    when = data.truth[0].start_ns
    verdicts = [
        (of.texts[0], Verdict(series=1, time_ns=when, kind="true_alert", ratio=2.0, by="ana")),
        (of.texts[2], Verdict(series=2, time_ns=when, kind="false_alert", ratio=1.0)),
        (of.texts[3], Verdict(series=3, time_ns=when, kind="missed", ratio=0.5)),
        (of.texts[3], Verdict(series=3, time_ns=held.START_NS + 60, kind="missed", ratio=0.5)),  # nothing before it
        ("", Verdict(series=9, time_ns=when, kind="missed", ratio=0.5)),
    ]
    assert freeze_verdicts(cases, verdicts, of.points, of.texts) == 3
    assert freeze_verdicts(cases, verdicts, of.points, of.texts) == 0, "each once"
    told = evaluate(Candidate("c", Settings(PLAIN)), data, CONFIG, cases=cases, kinds=())
    assert {one.kind: one.right for one in told.candidate.cases} == {
        "true_alert": True,
        "false_alert": True,
        "missed": False,
    }
    assert told.candidate.figures()["cases_wrong"] == 1
    with_bundle = evaluate(learned(data, held.START_NS + held.DAY_NS), data, CONFIG, cases=cases, kinds=())
    assert with_bundle.candidate.cases[0].id == told.candidate.cases[0].id
    assert "made wrong" in page(told)


def test_a_changed_case_is_found(data: HeldOut, tmp_path: Path) -> None:
    of, cases = data.recording, Cases(tmp_path)
    verdict = Verdict(series=1, time_ns=data.truth[0].start_ns, kind="true_alert", ratio=2.0)
    mine = of.points.code == 0
    made = cases.freeze(of.texts[0], verdict, of.points.time_ns[mine], of.points.value[mine])
    assert made is not None and cases.list() == [made]
    path = tmp_path / f"{made.id}.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StateError, match="it was changed"):
        cases.points(made)
    path.unlink()
    with pytest.raises(StateError, match="cannot be read"):
        cases.points(made)
    about = tmp_path / f"{made.id}.json"
    whole = about.read_text()
    for text in (whole.replace("true_alert", "missed"), whole.replace('"format": 1', '"format": 2'), "{}", "["):
        about.write_text(text)
        with pytest.raises(StateError, match=r"expected a case|it was changed"):
            cases.list()


# -- datasets ---------------------------------------------------------------------------------------------------------


def test_the_newest_part_of_a_dataset_is_held_out(tmp_path: Path) -> None:
    segments = record(tmp_path, regular())
    datasets = Datasets(tmp_path / "lifecycle" / "datasets", segments)
    window = Window(START_NS, START_NS + HOURS * 3600 * held.S)
    hole = Exclusion(
        start_ns=window.end_ns - 7200 * held.S, end_ns=window.end_ns, match=(("service", "cart"),), source="incident"
    )
    label = Label(start_ns=hole.start_ns, end_ns=hole.end_ns, service="cart", source="incident", note="I")
    made = datasets.build(window, (), (label,), (hole,), now_ns=NOW_NS)
    found = held_out(datasets, made.id, config=EvaluationConfig(holdout=0.2))
    of = found.recording
    assert of.since_ns == window.end_ns - 6 * 3600 * held.S and of.texts == tuple(sorted(SERIES))
    cart = np.flatnonzero([one.service == "cart" for one in of.labels])
    assert of.points.time_ns[np.isin(of.points.code, cart)].max() > hole.start_ns, (
        "who is judged by an incident must see its points"
    )
    assert (np.diff(of.points.time_ns) >= 0).all() and found.truth == (label,) and found.quality["series"] == 6
    some = held_out(datasets, made.id, match=Objective(name="o", match={"service": "pay"}))
    assert len(some.recording.texts) == 3
    drawn = held_out(datasets, made.id, config=EvaluationConfig(most_points=4000))
    assert (len(drawn.recording.texts), drawn.drawn_of) == (2, 6)
    usual_ns, hour_ns = window.end_ns - 7.5 * 3600 * held.S, 3600 * held.S
    for until_ns, since_ns in ((0, usual_ns), (window.end_ns - 5 * hour_ns,) * 2, (window.end_ns - hour_ns, usual_ns)):
        assert since(made, Lineage(until_ns=until_ns), EvaluationConfig()) == since_ns
    with pytest.raises(BadInput, match="expected series in scope"):
        held_out(datasets, made.id, match=Objective(name="o", match={"service": "ad"}))
    with pytest.raises(BadInput, match="expected its beginning"):
        held_out(datasets, made.id, since_ns=window.end_ns)


def test_a_hold_out_without_points_is_refused() -> None:
    of = held.data().recording
    with pytest.raises(BadInput, match="hold-out: expected points"):
        recording_of(of.points, of.texts, of.until_ns + 1, of.until_ns + 2)
    for bad in ({"holdout": 1.0}, {"tolerance": -1.0}, {"most_points": 0}):
        with pytest.raises(ConfigError):
            EvaluationConfig(**bad)  # type: ignore[arg-type]


def test_a_registered_version_is_a_candidate(data: HeldOut, tmp_path: Path) -> None:
    models = Models(tmp_path)
    one = learned(data, data.recording.since_ns)
    assert one.bundle is not None
    version = models.write(one.settings, one.bundle, one.lineage)
    assert Candidate.of(models, version.id).lineage == one.lineage


# -- parts ------------------------------------------------------------------------------------------------------------


def test_a_copied_engine_goes_on_as_the_original_does() -> None:
    rng = np.random.default_rng(0)
    config = EngineConfig()
    engine = Engine(config)

    def batch(k: int, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Batch:
        rows = np.arange(len(values), dtype=np.int32)
        return Batch(rows, np.full(len(rows), k * 60 * held.S), values, np.full(len(rows), 60.0))

    for k in range(80):
        one = batch(k, rng.normal(size=5))
        engine.learn(one, engine.score(one))
    rows = np.array([3, 1], np.int32)
    other = Engine(config)
    other.restore(copied(engine.state(), rows, 3))
    values = rng.normal(size=5) + 4
    want = engine.score(batch(80, values)).score
    got = other.score(batch(80, np.tile(values[rows], 3))).score
    assert got.tolist() == np.tile(want[rows], 3).tolist()


def test_the_baseline_expects_what_came_a_day_ago() -> None:
    naive, rng = SeasonalNaive(), np.random.default_rng(0)
    naive.assign(0, held.labels_of(0))
    rows = np.zeros(1, np.int32)
    for k in range(3 * 288):
        value = np.array([100 * (k % 288 > 144) + rng.normal()])
        scored = naive.score(Batch(rows, np.array([k * 300 * held.S]), value, np.array([300.0])))
    assert scored.scores.score[0] < 1 and abs(scored.scores.expected[0] - 100) < 5
    odd = naive.score(Batch(rows, np.array([3 * 288 * 300 * held.S]), np.array([100.0]), np.array([300.0])))
    assert odd.scores.score[0] > 5 and odd.scores.probability[0] == pytest.approx(1.0)
    silent = naive.silent(Batch(rows, np.array([1]), np.array([np.nan]), np.array([600.0])), np.array([300.0]))
    assert silent.scores.score[0] == 2
