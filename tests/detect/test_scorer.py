"""Policies and calendar on the way of the points: OTLP bodies in, scores, alerts and reasons out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from otel_aiops.config import parse
from otel_aiops.detect.detector import Scores
from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.scorer import Scored, Scorer
from otel_aiops.labels import Labels
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.pipeline import Pipeline, PipelineConfig, Step
from otel_aiops.series.batch import Batch
from tests.feed import DELTA, Feed, ns

T0 = 1_760_000_040.0  # a full minute
BERLIN = ZoneInfo("Europe/Berlin")


def config(text: str = "", **more: object) -> PipelineConfig:
    return parse(text + "\nseries: " + str(dict(more) or "{}")).config.pipeline()


def gauges(pipeline: Pipeline, at_s: float, values: Mapping[str, float]) -> Step:
    """One body with a gauge of each name, from its own service."""
    feed = Feed()
    for name, value in values.items():
        feed.gauge(name, at_s, value, unit="ms", team=name)
    return pipeline.metrics(decode_metrics(feed.body()).points, now_ns=ns(at_s))


def taught(text: str, *names: str, points: int = 80) -> Pipeline:
    """A pipeline whose series have been about 50 every minute."""
    pipeline, rng = Pipeline(config(text)), np.random.default_rng(3)
    for k in range(points):
        gauges(pipeline, T0 + 60 * k, {name: 50 + rng.normal() for name in names or ("x",)})
    return pipeline


def only(step: Step) -> Scored:
    (scored,) = step.scored
    return scored


def after(pipeline: Pipeline, value: float, minute: int = 80) -> tuple[Scored, str]:
    scored = only(gauges(pipeline, T0 + 60 * minute, {"x": value}))
    return scored, pipeline.reason(scored, 0)


def test_without_policies_the_scores_are_those_of_the_engine() -> None:
    scored, reason = after(taught(""), 90.0)
    assert scored.applied is None and scored.untouched is scored.scores
    assert scored.scores.score[0] > 1 and "far above" in reason


@pytest.mark.parametrize(
    ("rule", "value", "expected", "said"),
    [
        ("detection_direction: above_expected", 10.0, 0.0, "is not above the expected"),
        ("detection_direction: above_expected", 90.0, math.inf, "far above"),
        ("min_dev_from_expected: [0, 60]", 90.0, 0.0, "which does not count (min_dev_from_expected of policy p)."),
        ("min_rel_dev_from_expected: 2", 90.0, 0.0, "% does not count (min_rel_dev_from_expected of policy p)."),
        ("min_volume: 200", 90.0, 0.0, "are both below 200 ms (min_volume of policy p)."),
        ("scale: 1000", 90.0, 0.5, ""),
        ("data_range: [0, 50.001e3]", 50.5, 0.5, ""),
        ("skip_result: [{from: '00:00', to: '24:00'}]", 90.0, math.nan, "There is no result at this time"),
    ],
)
def test_each_rule_decides(rule: str, value: float, expected: float, said: str) -> None:
    scored, reason = after(taught(f"policies: [{{name: p, match: {{team: x}}, {rule}}}]"), value)
    score, alert = scored.scores.score[0], scored.scores.alert[0]
    if math.isnan(expected):
        assert math.isnan(score) and alert == 0 and scored.untouched.score[0] > 1
    elif expected == 0:
        assert score == 0 and alert == 0 and scored.untouched.score[0] > 1
    else:
        assert (score < 1) if expected < 1 else (score > 1)
    assert said in reason


def test_a_value_outside_its_range_is_an_anomaly_with_its_own_reason_and_teaches_nothing() -> None:
    pipeline = taught("policies: [{data_range: [0, 50.5], anomaly_score_outside_data_range: 2}]", points=20)
    before = pipeline.state()
    scored, reason = after(pipeline, 51.0, minute=20)
    assert scored.scores.score[0] == 2 and scored.scores.alert[0] == 2
    assert reason.startswith("51 ms is outside 0 to 50.5")
    learned = {name: value for name, value in pipeline.state().items() if name.startswith("engine/")}
    assert all(value.tobytes() == before[name].tobytes() for name, value in learned.items())


def test_what_is_not_learned_leaves_no_trace_beside_what_is() -> None:
    window = "skip_learning: [{start: 2025-10-09T09:14:00Z, end: 2025-10-09T09:20:00Z}]"
    skips = taught(f"policies: [{{match: {{team: x}}, {window}}}]", "x", "y")
    plain = taught("", "x", "y")
    own, other = (p.engine.state()["deviation/points"] for p in (skips, plain))
    assert other[0] - own[0] == 6 and other[1] == own[1]
    same = [n for n, v in skips.engine.state().items() if v.ndim and len(v) == 2]
    assert same and all(skips.engine.state()[n][1].tobytes() == plain.engine.state()[n][1].tobytes() for n in same)


def test_only_alerts_that_are_raised_hold_back_others() -> None:
    down_is_fine = "policies: [{detection_direction: above_expected}]"
    ruled, plain = taught(down_is_fine), taught("")
    scored = [only(gauges(p, T0 + 60 * 80, {"x": 1.0})) for p in (ruled, plain)]
    assert scored[0].scores.alert[0] == 0 and scored[1].scores.alert[0] >= 1
    ages = [p.engine.state()["alerts/peak"][0] for p in (ruled, plain)]
    assert ages[0] < ages[1]


def test_silent_series_follow_policies_too() -> None:
    pipeline = taught(
        "policies: [{match: {team: x}, skip_result: [{days: [mon, tue, wed, thu, fri, sat, sun]}]}]", "x", "y"
    )
    silent = pipeline.tick(now_ns=ns(T0 + 60 * 79 + 1))
    for k in range(1, 200):
        silent = pipeline.tick(now_ns=ns(T0 + 60 * (79 + k)))
        if silent.silent is not None:
            break
    assert silent.silent is not None
    assert np.isnan(silent.silent.scores.score[0]) and silent.silent.scores.score[1] >= 1
    assert "no result" in pipeline.reason(silent.silent, 0)


def test_a_row_that_gets_another_series_gets_its_policies() -> None:
    text = "policies: [{match: {team: x}, min_volume: 1e9}]"
    pipeline = Pipeline(config(text, max_series=1, reclaim_after=60.0))
    gauges(pipeline, T0, {"x": 1.0})
    assert pipeline.scorer.policies.names(0) == ("policies.0",)
    gauges(pipeline, T0 + 3600, {"y": 1.0})
    assert pipeline.table.labels(0).name == "y" and pipeline.scorer.policies.names(0) == ()


def test_a_restored_pipeline_gives_the_same_bits() -> None:
    text = """
policies: [{name: up, match: {team: x}, detection_direction: above_expected, data_range: [0, 80], tz: Asia/Tokyo}]
calendar: [{match: {team: y}, tz: Europe/Berlin, holidays: [10-09]}]
"""
    first, second = taught(text, "x", "y"), Pipeline(config(text))
    second.restore(first.state())
    for k, x in enumerate((50.0, 1.0, 90.0, 50.5, 49.5)):
        steps = [gauges(p, T0 + 60 * (80 + k), {"x": x, "y": x}) for p in (first, second)]
        a, b = (only(step) for step in steps)
        for f in fields(Scores):
            assert getattr(a.scores, f.name).tobytes() == getattr(b.scores, f.name).tobytes()
        assert a.applied is not None and b.applied is not None
        assert a.applied.reason_code.tolist() == b.applied.reason_code.tolist()
    states = first.state(), second.state()
    assert all(states[0][name].tobytes() == states[1][name].tobytes() for name in states[0])


# -- rates of few events ----------------------------------------------------------------------------------------------


def counts(mean: float, *, minutes: int, jump: int, policy: str = "") -> tuple[int, list[float], str]:
    """(false alarms of 8 counters, scores of their first minute with a jump, its reason if a rule decided it)."""
    pipeline, rng, false = Pipeline(config(policy)), np.random.default_rng(7), 0
    last: Scored | None = None
    for k in range(minutes + 1):
        feed = Feed()
        for n in range(8):
            events = jump if k == minutes else float(rng.poisson(mean))
            at_s = T0 + 60 * k
            feed.counter("errors", at_s, events, start_s=at_s - 60, temporality=DELTA, shard=str(n))
        step = pipeline.metrics(decode_metrics(feed.body()).points, now_ns=ns(T0 + 60 * k))
        if k < minutes and step.scored:
            false += int((np.concatenate([s.scores.score for s in step.scored]) >= 1).sum())
        last = step.scored[-1] if step.scored else None
    assert last is not None
    return false, last.scores.score.tolist(), pipeline.reason(last, 0)


@pytest.mark.parametrize("mean", [0.05, 1.0])
def test_few_events_are_quiet_by_default_and_a_jump_is_found(mean: float) -> None:
    false, jumped, _ = counts(mean, minutes=300, jump=30)
    loud, _, _ = counts(mean, minutes=300, jump=30, policy="policies: [{min_count_dev: 0}]")
    assert false == 0 and loud > 0
    assert all(score >= 1 for score in jumped)


def test_a_count_that_chance_explains_says_so() -> None:
    _, scores, reason = counts(0.05, minutes=150, jump=3)
    assert scores == [0.0] * 8
    assert "than chance takes them (min_count_dev)" in reason


@pytest.mark.parametrize(
    ("labels", "quiet"),
    [
        (Labels("errors", kind="sum", stat="rate"), True),
        (Labels("errors", kind="sum", stat="rate", unit="{error}"), True),
        (Labels("http.duration", kind="histogram", stat="rate", unit="s"), True),
        (Labels("cpu.time", kind="sum", stat="rate", unit="s"), False),
        (Labels("process_cpu_seconds_total", kind="sum", stat="rate"), False),
        (Labels("queue.length", unit="{item}"), False),
    ],
)
def test_the_rule_of_few_events_is_for_rates_of_events(labels: Labels, quiet: bool) -> None:
    scorer = Scorer(EngineConfig())
    scorer.assign(0, labels)
    batch = Batch(np.zeros(1, np.int32), np.array([ns(T0)]), np.array([3 / 60]), np.array([60.0]))
    ones = np.ones(1)
    scores = Scores(ones * 2, ones, ones * 0, ones * 0, ones * 0, np.ones(1, np.uint8), ones * 0, ones * 2)
    applied = scorer.policies.apply(batch, scores)
    assert (applied.scores.score[0] == 0) == quiet


# -- the calendar -----------------------------------------------------------------------------------------------------


def week(pipeline: Pipeline, start: str, days: float, closed: tuple[str, ...] = ()) -> dict[str, float]:
    """Two gauges, high from 9 to 17 by the clock in Berlin, low on closed days; what is expected of them by time."""
    rng, expected = np.random.default_rng(5), {}
    begin_s = datetime.fromisoformat(start).replace(tzinfo=BERLIN).timestamp()
    for k in range(int(days * 48)):
        at_s = begin_s + 1800 * k
        local = datetime.fromtimestamp(at_s, BERLIN)
        shut = f"{local:%Y-%m-%d}" in closed or local.weekday() == 6
        value = (100.0 if 9 <= local.hour < 17 and not shut else 10.0) + rng.normal()
        for scored in gauges(pipeline, at_s, {"berlin": value, "utc": value}).scored:
            for row, usual in zip(scored.batch.rows.tolist(), scored.scores.expected.tolist(), strict=True):
                expected[f"{pipeline.table.labels(row).name} {local:%m-%d %H:%M}"] = usual
    return expected


@pytest.mark.parametrize(("start", "monday"), [("2026-03-18", "03-30"), ("2026-10-14", "10-26")])
def test_both_clock_changes_are_no_news_to_a_series_with_a_calendar(start: str, monday: str) -> None:
    pipeline = Pipeline(config("calendar: [{match: {team: berlin}, tz: Europe/Berlin}]"))
    expected = week(pipeline, start, 12.8)
    edges = [f"{monday} 09:30", f"{monday} 16:30"]
    assert all(expected[f"berlin {edge}"] > 80 for edge in edges)
    assert min(expected[f"utc {edge}"] for edge in edges) < 50


def test_the_time_zone_of_a_policy_is_one_too() -> None:
    pipeline = Pipeline(config("policies: [{match: {team: berlin}, tz: Europe/Berlin}]"))
    expected = week(pipeline, "2026-03-18", 12.5)
    assert expected["berlin 03-30 09:30"] > 80 > expected["utc 03-30 09:30"]


def test_a_holiday_is_like_sunday_and_teaches_its_weekday_nothing() -> None:
    pipeline = Pipeline(config("calendar: [{match: {team: berlin}, tz: Europe/Berlin, holidays: [2026-07-23]}]"))
    expected = week(pipeline, "2026-07-13", 17.6, closed=("2026-07-23",))  # a Thursday
    assert expected["berlin 07-23 09:30"] < 30 < 80 < expected["utc 07-23 09:30"]
    assert expected["berlin 07-30 12:30"] > 90 > expected["utc 07-30 12:30"]


def test_points_that_are_not_learned_change_nothing_in_the_engine() -> None:
    rng = np.random.default_rng(1)
    whole, part = Engine(EngineConfig()), Engine(EngineConfig())
    rows = np.arange(3, dtype=np.int32)
    for k in range(60):
        batch = Batch(rows, np.full(3, ns(T0 + 60 * k)), rng.normal(5, 1, 3), np.full(3, 60.0))
        whole.learn(batch, whole.score(batch), learnable=np.array([True, k % 7 != 3, False]))
        for i, learned in enumerate((True, k % 7 != 3, False)):
            one = batch.at(np.array([i]))
            scores = part.score(one)
            if learned:
                part.learn(one, scores)
    states = whole.state(), part.state()
    assert all(np.allclose(states[0][n], states[1][n], equal_nan=True) for n in states[0])
    assert states[0]["deviation/points"].tolist()[2] == 0
