"""Policies: each rule against a slow twin, key by key over several policies, and that none cost next to nothing."""

from __future__ import annotations

import dataclasses
import math
import time
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect import rules
from otel_aiops.detect.detector import Scores
from otel_aiops.detect.policy import Applied, Policies, PolicyConfig, sides
from otel_aiops.errors import ConfigError
from otel_aiops.labels import Labels, Selector
from otel_aiops.series.batch import Batch

NAN, INF = math.nan, math.inf
NOON_NS = int(datetime.fromisoformat("2026-11-21T12:00:00+00:00").timestamp()) * 1_000_000_000  # a Saturday
CPU = Labels(
    "system.cpu.utilization",
    unit="1",
    resource=(("host.name", "web-1"), ("service.name", "checkout")),
    attributes=(("cpu.mode", "user"), ("http.response.status_code", 500)),
)


def batch(*values: float, time_ns: int = NOON_NS) -> Batch:
    count = len(values)
    times = np.full(count, time_ns, np.int64)
    return Batch(np.arange(count, dtype=np.int32), times, np.array(values, float), np.full(count, 60.0))


def scores(expected: float, *score: float, half: float = 3.0) -> Scores:
    middle = np.full(len(score), expected)
    return Scores(
        score=np.array(score, float),
        probability=np.full(len(score), 0.9),
        expected=middle,
        lower=middle - half,
        upper=middle + half,
        channel=np.ones(len(score), np.uint8),
        warmup_s=np.zeros(len(score)),
        alert=np.nan_to_num(np.array(score, float)),
    )


def policies(*configs: PolicyConfig, rows: int = 16, labels: Labels = CPU, threshold: float = 6.0) -> Policies:
    found = Policies(configs, threshold=threshold)
    for row in range(rows):
        found.assign(row, labels)
    return found


def codes(applied: Applied) -> list[str]:
    return [rules.CODES[code] for code in applied.reason_code.tolist()]


def same(a: Scores, b: Scores) -> bool:
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(_columns(a), _columns(b), strict=True))


def _columns(some: Scores) -> list[Any]:
    return [getattr(some, f.name) for f in dataclasses.fields(some)]


# -- which series -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "found"),
    [
        ({}, True),
        ({"name": "system.cpu.utilization", "service": "checkout"}, True),
        ({"name": "~system[.]cpu[.].*"}, True),
        ({"name": "~system"}, False),  # the whole value
        ({"name": "system"}, False),
        ({"service": "~check.*|pay.*", "host.name": "web-1"}, True),
        ({"service": "cart"}, False),
        ({"cpu.mode": "user", "host.name": "~db-.*"}, False),
        ({"http.response.status_code": 500}, True),
        ({"http.response.status_code": "~5.."}, True),
        ({"k8s.pod.name": ""}, True),  # what is absent is ""
        ({"k8s.pod.name": "~.+"}, False),
        ({"stat": ""}, True),
        ({"stat": "p95"}, False),
    ],
)
def test_a_selector_finds_its_series(match: dict[str, str | int], found: bool) -> None:
    assert Selector(match).matches(CPU) is found
    applied = policies(PolicyConfig(match=match, data_range=(0, 1))).apply(batch(5.0), scores(0.5, 0.2))
    assert codes(applied) == (["data_range"] if found else [""])


def test_attributes_of_the_point_come_before_those_of_the_resource_and_the_scope() -> None:
    labels = Labels("x", resource=(("zone", "r"),), scope_attributes=(("zone", "s"), ("team", "s")))
    assert Selector({"zone": "r", "team": "s"}).matches(labels)
    assert Selector({"zone": "p"}).matches(dataclasses.replace(labels, attributes=(("zone", "p"),)))
    assert Selector({"service": "unknown_service"}).matches(labels)


# -- each rule --------------------------------------------------------------------------------------------------------


def test_a_value_outside_data_range_is_anomalous_at_once_and_never_learned() -> None:
    given_scores = scores(50.0, NAN, 0.0, 3.0, 0.4, 0.4)
    applied = policies(PolicyConfig(data_range=(0, 100))).apply(batch(101.0, -1.0, 400.0, 100.0, NAN), given_scores)
    np.testing.assert_array_equal(applied.scores.score, [1.01, 1.01, 3.0, 0.4, 0.4])
    assert codes(applied) == ["data_range"] * 3 + ["", ""]
    assert applied.learnable.tolist() == [False, False, False, True, True]
    louder = PolicyConfig(data_range=(-INF, 100), anomaly_score_outside_data_range=5.0)
    applied = policies(louder).apply(batch(101.0, -1e300), scores(50.0, 0.0, 0.0))
    assert applied.scores.score.tolist() == [5.0, 0.0]


def test_data_range_wins_over_every_rule_by_which_it_is_no_anomaly() -> None:
    quiet = PolicyConfig(
        data_range=(10, 100), detection_direction="above_expected", min_dev_from_expected=1e6, min_volume=1e6
    )
    assert codes(policies(quiet).apply(batch(5.0, 50.0), scores(11.0, 2.0, 2.0))) == [
        "data_range",
        "min_dev_from_expected",
    ]


def test_an_expected_value_outside_data_range_says_nothing() -> None:
    applied = policies(PolicyConfig(data_range=(0, 100))).apply(batch(99.0, 20.0), scores(120.0, 2.0, NAN))
    np.testing.assert_array_equal(applied.scores.score, [0.0, NAN])
    assert codes(applied) == ["uncertain", ""]


def test_clipped_predictions_stay_within_data_range() -> None:
    clip = PolicyConfig(data_range=(0, 100), clip_predictions=True)
    after = policies(clip).apply(batch(99.0), scores(101.0, 2.0, half=200.0)).scores
    assert (after.score[0], after.expected[0], after.lower[0], after.upper[0]) == (2.0, 100.0, 0.0, 100.0)
    alone = policies(PolicyConfig(clip_predictions=True)).apply(batch(99.0), scores(101.0, 2.0))
    assert same(alone.scores, alone.untouched)


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("both", [2.0, 2.0, 2.0, 2.0]),
        ("above_expected", [0.0, 0.0, 2.0, 2.0]),
        ("below_expected", [2.0, 0.0, 0.0, 2.0]),
    ],
)
def test_only_the_wanted_direction_counts(direction: Any, expected: list[float]) -> None:
    given_batch, given_scores = batch(1.0, 5.0, 9.0, NAN), scores(5.0, 2.0, 2.0, 2.0, 2.0)
    applied = policies(PolicyConfig(detection_direction=direction)).apply(given_batch, given_scores)
    assert applied.scores.score.tolist() == expected  # a series that stopped has no value and no side
    assert [bool(code) for code in applied.reason_code] == [score == 0 for score in expected]


def test_small_deviations_do_not_count() -> None:
    given_batch, given_scores = batch(7.0, 8.0, 10.0, 14.0, 15.0), scores(10.0, *[2.0] * 5)
    for config, kept in (
        (PolicyConfig(min_dev_from_expected=2.0), [1, 0, 0, 1, 1]),
        (PolicyConfig(min_dev_from_expected=(2.0, 4.0)), [1, 0, 0, 0, 1]),
        (PolicyConfig(min_rel_dev_from_expected=(0.0, 0.4)), [1, 1, 0, 0, 1]),
        (PolicyConfig(min_rel_dev_from_expected=0.3), [0, 0, 0, 1, 1]),
        (PolicyConfig(min_dev_from_expected=2.0, min_rel_dev_from_expected=(0.3, 0.0)), [0, 0, 0, 1, 1]),
        (PolicyConfig(min_dev_from_expected=0.0, min_rel_dev_from_expected=0.0), [1, 1, 1, 1, 1]),
    ):
        applied = policies(config).apply(given_batch, given_scores)
        assert (applied.scores.score > 0).astype(int).tolist() == kept, config


def test_low_volume_counts_in_neither_direction() -> None:
    low = policies(PolicyConfig(min_volume=10.0))
    assert low.apply(batch(0.0, 9.9, 10.0, NAN), scores(3.0, *[5.0] * 4)).scores.score.tolist() == [0, 0, 5, 5]
    assert low.apply(batch(0.0, 9.9, -20.0), scores(30.0, *[5.0] * 3)).scores.score.tolist() == [5, 5, 5]


def test_scale_and_threshold_widen_the_band_and_lower_the_score() -> None:
    config = PolicyConfig(scale=(1.2, 0.75), threshold=12.0)  # twice as many spreads as the scores were made with
    after = policies(config).apply(batch(4.0, 16.0, NAN), scores(10.0, 3.6, 3.6, 3.6)).scores
    np.testing.assert_allclose(after.score, [1.5, 2.4, 3.6])  # silence is not measured in spreads
    np.testing.assert_allclose(after.lower, 10 - 3 * 2.4)
    np.testing.assert_allclose(after.upper, 10 + 3 * 1.5)
    loud = policies(PolicyConfig(threshold=0.06)).apply(batch(16.0), scores(10.0, 50.0)).scores
    assert loud.score.tolist() == [100.0]


def test_a_skipped_result_is_absent_and_a_skipped_time_teaches_nothing() -> None:
    saturdays = ({"days": ("sat",), "from": "13:00", "to": "15:00", "tz": "Europe/Berlin"},)
    applied = policies(PolicyConfig(skip_result=saturdays, data_range=(0, 1))).apply(batch(5.0), scores(0.5, 9.0))
    assert codes(applied) == ["skip_result"]
    assert math.isnan(applied.scores.score[0]) and math.isnan(applied.scores.probability[0])
    assert applied.scores.expected[0] == 0.5
    learning = policies(PolicyConfig(skip_learning=saturdays))
    applied = learning.apply(batch(5.0), scores(0.5, 9.0))
    assert (applied.scores.score[0], applied.learnable[0], codes(applied)) == (9.0, False, [""])
    later = learning.apply(batch(5.0, time_ns=NOON_NS + 2 * 3600 * 10**9), scores(0.5, 9.0))
    assert later.learnable.tolist() == [True]


def test_no_score_stays_no_score() -> None:
    quiet = PolicyConfig(detection_direction="above_expected", min_dev_from_expected=9.0, min_volume=9.0)
    applied = policies(quiet).apply(batch(1.0), scores(5.0, NAN))
    assert math.isnan(applied.scores.score[0]) and codes(applied) == [""]


# -- several policies and rows ----------------------------------------------------------------------------------------


def test_later_policies_override_earlier_ones_key_by_key() -> None:
    found = policies(
        PolicyConfig(name="all", data_range=(0, 1), min_dev_from_expected=0.5, tz="Europe/Berlin"),
        PolicyConfig(name="other", match={"service": "cart"}, data_range=(0, 100)),
        PolicyConfig(name="checkout", match={"service": "checkout"}, min_dev_from_expected=0.0, tz="Asia/Tokyo"),
    )
    applied = found.apply(batch(0.6, 2.0), scores(0.5, 3.0, 3.0))
    assert applied.scores.score.tolist() == [3.0, 3.0]
    assert codes(applied) == ["", "data_range"]
    assert (
        found.words(batch(0.6, 2.0), applied, 1)
        == "2 is outside 0 to 1, where values must be (data_range of policy all)."
    )


def test_windows_mean_the_time_zone_of_their_policy_and_can_be_taken_back() -> None:
    at_one = ({"from": "13:00", "to": "14:00"},)
    first = PolicyConfig(skip_result=at_one, skip_learning=at_one, tz="Europe/Berlin")
    then = PolicyConfig(tz="Asia/Tokyo", skip_learning=())
    applied = policies(first, then).apply(batch(1.0), scores(1.0, 1.0))
    assert (codes(applied), applied.learnable.tolist()) == (["skip_result"], [True])


def test_rows_without_a_policy_are_left_alone_and_forgotten_rows_too() -> None:
    found = policies(PolicyConfig(match={"service": "checkout"}, min_volume=10.0), rows=0)
    for row, service in enumerate(("checkout", "cart", "checkout")):
        found.assign(row, Labels("x", resource=(("service.name", service),)))
    values, given_scores = batch(1.0, 1.0, 1.0, 1.0), scores(3.0, *[2.0] * 4)
    before = dataclasses.replace(given_scores, score=given_scores.score.copy())
    assert found.apply(values, given_scores).scores.score.tolist() == [0, 2, 0, 2]  # row 3 has no labels yet
    found.forget(np.array([2, 70_000], np.int32))
    applied = found.apply(values, given_scores)
    assert applied.scores.score.tolist() == [0, 2, 2, 2]
    assert applied.untouched is given_scores and same(given_scores, before)
    found.forget(np.array([0], np.int32))
    assert found.apply(values, given_scores).scores is given_scores


def test_many_combinations_keep_their_own_rules() -> None:
    found = Policies(
        [PolicyConfig(match={"a": f"~.*{i}.*"}, min_dev_from_expected=float(i + 1)) for i in range(8)], threshold=6.0
    )
    names = [f"{i:03o}" for i in range(512)]
    for row, name in enumerate(names):
        found.assign(row, Labels("x", attributes=(("a", name),)))
    values = batch(*[0.0] * 512)
    for deviation in range(1, 9):
        score = found.apply(values, scores(float(deviation), *[2.0] * 512)).scores.score
        assert score.tolist() == [0.0 if deviation <= int(max(name)) + 1 else 2.0 for name in names]


# -- the slow twin ----------------------------------------------------------------------------------------------------


def naive(c: PolicyConfig, value: float, expected: float, score: float) -> tuple[float, str]:
    """One point, rule by rule, in plain words of the keys."""
    low, high = c.data_range or (-INF, INF)
    side = 0 if value < expected else 1
    if not math.isnan(value - expected):
        score = min(score / sides(c.scale or 1.0)[side], 100.0)
    if c.clip_predictions and c.data_range and not math.isnan(expected):
        expected = min(max(expected, low), high)
        side = 0 if value < expected else 1
    if value < low or value > high:
        return max(score if score == score else 0.0, c.anomaly_score_outside_data_range or 1.01), "data_range"
    if math.isnan(score) or math.isnan(expected):
        return score, ""
    away = abs(value - expected)
    least, share = sides(c.min_dev_from_expected or 0.0)[side], sides(c.min_rel_dev_from_expected or 0.0)[side]
    for name, holds in (
        ("uncertain", expected < low or expected > high),
        ("detection_direction", c.detection_direction == "above_expected" and value <= expected),
        ("detection_direction", c.detection_direction == "below_expected" and value >= expected),
        ("min_dev_from_expected", least > 0 and away <= least),
        ("min_rel_dev_from_expected", share > 0 and away <= share * abs(expected)),
        ("min_volume", abs(value) < (c.min_volume or 0) and abs(expected) < (c.min_volume or 0)),
    ):
        if holds:
            return 0.0, name
    return score, ""


NUMBERS = st.sampled_from([NAN, -INF, INF, 1e308, -1e308, 5e-324, 0.0, -1.0, 1.0, 2.0, 3.0, 7.5, 10.0, 100.0])
SMALL = st.sampled_from([0.0, 0.5, 1.0, 5.0])
TWO = st.one_of(st.none(), SMALL, st.tuples(SMALL, SMALL))
CONFIGS = st.builds(
    PolicyConfig,
    data_range=st.sampled_from([None, (0.0, 10.0), (-INF, 5.0), (2.0, INF), (-INF, INF)]),
    anomaly_score_outside_data_range=st.sampled_from([None, 1.0, 5.0]),
    clip_predictions=st.sampled_from([None, False, True]),
    detection_direction=st.sampled_from([None, "both", "above_expected", "below_expected"]),
    min_dev_from_expected=TWO,
    min_rel_dev_from_expected=TWO,
    min_volume=st.sampled_from([None, 0.0, 2.5]),
    scale=st.sampled_from([None, 2.0, (0.5, 4.0)]),
)
POINTS = st.lists(st.tuples(NUMBERS, NUMBERS, st.sampled_from([NAN, 0.0, 0.5, 1.0, 40.0])), min_size=1, max_size=9)


@settings(max_examples=150, deadline=None)
@given(configs=st.lists(CONFIGS, min_size=1, max_size=3), points=POINTS)
def test_all_rules_together_are_what_the_slow_twin_says(
    configs: list[PolicyConfig], points: list[tuple[float, float, float]]
) -> None:
    found = Policies(
        [dataclasses.replace(config, match={"a": f"v{i}"}) for i, config in enumerate(configs)], threshold=6.0
    )
    for row in range(len(points)):
        found.assign(row, Labels("x", attributes=(("a", f"v{row % (len(configs) + 1)}"),)))
    values, expected, score = (np.array(column) for column in zip(*points, strict=True))
    of = dataclasses.replace(scores(0.0, *score.tolist()), expected=expected, lower=expected, upper=expected)
    applied = found.apply(batch(*values.tolist()), of)
    for k, (value, middle, raw) in enumerate(points):
        chosen = k % (len(configs) + 1)
        config = configs[chosen] if chosen < len(configs) else PolicyConfig()
        after, why = naive(config, value, middle, raw)
        assert rules.CODES[applied.reason_code[k]] == why
        np.testing.assert_equal(applied.scores.score[k], after)
        assert bool(found.words(batch(*values.tolist()), applied, k)) == bool(why)


# -- words, cost, configuration ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "value", "expected", "words"),
    [
        (PolicyConfig(), 8.0, 5.0, ""),
        (
            PolicyConfig(name="slo", data_range=(0, 5)),
            8.0,
            4.0,
            "8 ms is outside 0 to 5, where values must be (data_range of policy slo).",
        ),
        (
            PolicyConfig(data_range=(0, 5)),
            4.0,
            8.0,
            "The expected 8 ms is outside 0 to 5, so deviations from it do not count (data_range).",
        ),
        (
            PolicyConfig(skip_result=({"days": "sat"},)),
            4.0,
            8.0,
            "There is no result at this time (skip_result).",
        ),
        (
            PolicyConfig(detection_direction="above_expected"),
            4.0,
            8.0,
            "4 ms is not above the expected 8 ms; nothing else counts (detection_direction).",
        ),
        (
            PolicyConfig(detection_direction="below_expected"),
            8.0,
            4.0,
            "8 ms is not below the expected 4 ms; nothing else counts (detection_direction).",
        ),
        (
            PolicyConfig(min_dev_from_expected=(5.0, 1.0)),
            4.0,
            8.0,
            "4 ms is no more than 5 ms from the expected 8 ms, which does not count (min_dev_from_expected).",
        ),
        (
            PolicyConfig(min_rel_dev_from_expected=(0.6, 0.0)),
            4.0,
            8.0,
            "4 ms is 50 % from the expected 8 ms; up to 60 % does not count (min_rel_dev_from_expected).",
        ),
        (
            PolicyConfig(min_volume=10.0),
            4.0,
            8.0,
            "4 ms and the expected 8 ms are both below 10 ms (min_volume).",
        ),
    ],
)
def test_the_rule_that_held_is_said(config: PolicyConfig, value: float, expected: float, words: str) -> None:
    found, values = policies(config), batch(value)
    assert found.words(values, found.apply(values, scores(expected, 2.0)), 0, "ms") == words


def test_without_policies_nothing_is_touched_and_it_costs_next_to_nothing() -> None:
    none, count = Policies((), threshold=6.0), 20_000
    none.assign(5, CPU)
    values, given_scores = batch(*[1.0] * count), scores(1.0, *[2.0] * count)
    best = INF
    for _ in range(20):
        start = time.perf_counter()
        applied = none.apply(values, given_scores)
        best = min(best, time.perf_counter() - start)
    assert best / count < 20e-9
    assert applied.scores is applied.untouched is given_scores
    assert applied.learnable.all() and not applied.reason_code.any()
    assert none.apply(batch(), scores(1.0)).scores.score.shape == (0,)


@pytest.mark.parametrize(
    ("keys", "path", "message"),
    [
        ({"match": {"name": "~["}}, "match.name", "is not a regular expression: unterminated character set"),
        ({"data_range": (5, 1)}, "data_range", "expected [low, high], got [5, 1]"),
        ({"data_range": (NAN, 1)}, "data_range", "expected [low, high], got [nan, 1]"),
        ({"data_range": (1,)}, "data_range", "expected [low, high], got [1]"),
        ({"anomaly_score_outside_data_range": 0.5}, "anomaly_score_outside_data_range", "must be in 1 .. 100, got 0.5"),
        ({"detection_direction": "up"}, "detection_direction", "expected both, above_expected or below_expected"),
        ({"min_dev_from_expected": -1.0}, "min_dev_from_expected", "must be >= 0, got -1.0"),
        ({"min_dev_from_expected": (1.0, INF)}, "min_dev_from_expected", "must be >= 0, got inf"),
        ({"min_dev_from_expected": (1.0, 2.0, 3.0)}, "min_dev_from_expected", "expected one number or [below, above]"),
        ({"min_rel_dev_from_expected": 20.0}, "min_rel_dev_from_expected", "<= 10, where 0.2 is 20 %, got 20.0"),
        ({"min_volume": NAN}, "min_volume", "must be >= 0, got nan"),
        ({"scale": (1.0, 0.0)}, "scale", "must be > 0, got (1.0, 0.0)"),
        ({"threshold": -3.0}, "threshold", "must be > 0, got -3.0"),
        ({"skip_result": ({"days": "sat"}, {"from": "x"})}, "skip_result.1.from", "expected a time of day"),
        ({"skip_learning": ({},)}, "skip_learning.0", "expected start, end, days, from or to"),
        ({"tz": "Mars/Olympus"}, "tz", "expected a time zone such as Europe/Berlin"),
    ],
)
def test_what_is_wrong_is_named(keys: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PolicyConfig(**keys)
    assert caught.value.path == path
    assert message in caught.value.message
