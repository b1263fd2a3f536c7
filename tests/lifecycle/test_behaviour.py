"""The behaviour of a model: its own rates, its promises, and its performance with and without labels."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from otel_aiops.detect.budget import Alerted
from otel_aiops.detect.detector import Scores
from otel_aiops.detect.lessons import Verdict
from otel_aiops.detect.scorer import Scored
from otel_aiops.errors import ConfigError, StateError
from otel_aiops.lifecycle.behaviour import (
    COLUMNS,
    DECADES,
    KEPT_HOURS,
    LEVELS,
    Counts,
    Tally,
    broken_promise,
    promises,
    rates,
)
from otel_aiops.lifecycle.health import Budgeted, Health, MonitoringConfig, SelfTest, self_test
from otel_aiops.lifecycle.performance import Judged, estimated, judged, worse
from otel_aiops.series.batch import Batch
from otel_aiops.series.segments import HOUR_NS

NOW = 500_000  # an hour


def counts(hours: int, **columns: Any) -> Counts:
    """The same in each of some hours, or as a column says."""
    rows = np.zeros((hours, len(COLUMNS)), np.int64)
    usual = {"points": 6_000, "over": 30, "normal": 6_000, "known": 6_000}
    usual |= {"normal_0.9": 600, "normal_0.99": 60, "normal_0.999": 6}
    for name, value in (usual | columns).items():
        rows[:, COLUMNS.index(name)] = value
    return Counts(np.arange(NOW - hours, NOW), rows)


def changed(base: Counts, last: int, **columns: float) -> Counts:
    """With other counts in the newest hours."""
    rows = base.rows.copy()
    for name, value in columns.items():
        rows[-last:, COLUMNS.index(name)] = value
    return Counts(base.hours, rows)


def scored(probability: list[float], *, opened: int = 0, active: int = 0) -> Scored:
    n = len(probability)
    some = np.arange(n)
    blank = np.zeros(n)
    known = {"score": np.where(some < opened, 2.0, 0.5), "probability": np.array(probability)}
    scores = Scores(**{key: known.get(key, blank) for key in Scores.__slots__})
    alerted = Alerted(blank, some < active, some < opened, some < min(opened, 1), blank)
    rows = np.arange(n, dtype=np.int32)
    return Scored(Batch(rows, np.zeros(n, np.int64), blank, blank), scores, alerted=alerted)


def test_what_is_served_is_counted_once_by_hour_of_event_time() -> None:
    tally = Tally()
    tally.take(5, [scored([0.9999995, math.nan, 0.95, 0.2], opened=2, active=2)], NOW * HOUR_NS + 7)
    tally.take(5, [scored([0.5])], NOW * HOUR_NS)  # the same again, after a crash
    tally.take(6, [scored([0.5]), scored([0.9991])], (NOW + 1) * HOUR_NS)
    found = tally.counts()
    assert found.hours.tolist() == [NOW, NOW + 1]
    first = {name: int(found.of(name)[0]) for name in COLUMNS}
    assert (first["points"], first["over"], first["opened"], first["paid"]) == (4, 2, 2, 1)
    assert (first["normal"], first["known"], first["normal_0.9"], first["normal_0.99"]) == (2, 3, 1, 0)
    assert (first["reached_2"], first["reached_6"], first["alerts_6"], first["alerts_unknown"]) == (1, 1, 1, 1)
    assert found.of("normal_0.999").tolist() == [0, 1] and found.of("alerts_0").sum() == 0
    again = Tally()
    again.restore(json.loads(json.dumps(tally.to_json())))
    assert again.counts().rows.tolist() == found.rows.tolist() and again.sequence == 6
    tally.take(7, [scored([0.5])], (NOW + KEPT_HOURS) * HOUR_NS)
    assert tally.counts().hours.tolist() == [NOW + 1, NOW + KEPT_HOURS]


def test_counts_are_those_of_the_slow_way() -> None:
    rng = np.random.default_rng(1)
    for n in (1, 5, 300):
        probability = 1 - 10 ** -rng.uniform(0, 8, n)
        probability[rng.random(n) < 0.1] = np.nan
        opened, active = n // 4, n // 3
        one = scored(probability.tolist(), opened=opened, active=active)
        tally = Tally()
        tally.take(1, [one], NOW * HOUR_NS)
        expected = {"points": n, "over": opened, "opened": opened, "paid": min(opened, 1)}
        normal, known = probability[active:], probability[~np.isnan(probability)]
        expected |= {"normal": int((~np.isnan(normal)).sum()), "known": len(known)}
        expected |= {f"normal_{level}": int((normal >= level).sum()) for level in LEVELS}
        bounds = [1 - 10.0**-decade for decade in DECADES]
        expected |= {f"reached_{d}": int((known >= bound).sum()) for d, bound in zip(DECADES, bounds, strict=True)}
        alerts = probability[:opened]
        expected |= {"alerts_unknown": int(np.isnan(alerts).sum()), "alerts_0": int((alerts < bounds[0]).sum())}
        ends = [*bounds[1:], 2.0]
        for d, low, high in zip(DECADES, bounds, ends, strict=True):
            expected[f"alerts_{d}"] = int(((alerts >= low) & (alerts < high)).sum())
        assert dict(zip(COLUMNS, tally.counts().rows[0].tolist(), strict=True)) == expected


@pytest.mark.parametrize(
    "tree",
    [
        {},
        [],
        {"columns": ["points"], "sequence": 1, "hours": {}},
        {"columns": list(COLUMNS), "sequence": 1, "hours": {"5": [1]}},
        {"columns": list(COLUMNS), "sequence": 1, "hours": {"x": [0] * len(COLUMNS)}},
    ],
)
def test_counts_of_something_else_are_refused(tree: Any) -> None:
    with pytest.raises(StateError, match="counts of scores"):
        Tally().restore(tree)


def noisy(hours: int) -> Counts:
    rng = np.random.default_rng(3)
    return counts(hours, over=rng.poisson(30, hours), opened=rng.poisson(0.2, hours))


def test_rates_of_ordinary_weeks_are_not_unusual() -> None:
    found = rates(noisy(400), NOW, window=6)
    assert [one.name for one in found] == ["scores", "alerts"]
    assert not any(one.unusual or one.text for one in found)
    assert found[0].usual == pytest.approx(0.005, rel=0.1)


@pytest.mark.parametrize(("over", "sign"), [(400, 1), (0, -1)])
def test_an_unusual_rate_of_scores_is_told(over: int, sign: int) -> None:
    (one, _) = rates(changed(noisy(400), 6, over=over), NOW, window=6)
    assert one.unusual and one.deviation * sign > 4 and "scored over the threshold" in one.text


def test_an_unusual_rate_of_alerts_is_told() -> None:
    many = rates(changed(noisy(400), 24, opened=2), NOW, window=6)[1]
    assert many.unusual and many.now == 48 and "48 alerts of series in the last day" in many.text
    none = rates(changed(counts(400, opened=1), 24, opened=0), NOW, window=6)[1]
    assert none.unusual and none.usual == 24
    assert not rates(changed(counts(400), 24, opened=0), NOW, window=6)[1].unusual


def test_a_short_past_says_nothing_of_rates() -> None:
    assert rates(noisy(30), NOW, window=6) == () and rates(counts(0), NOW, window=6) == ()
    silent = rates(noisy(400), NOW + 30, window=6)  # nothing came for a day
    assert silent == ()


def test_promises_that_are_kept() -> None:
    found = promises(counts(200), NOW)
    assert [one.level for one in found] == [0.9, 0.99, 0.999]
    assert [one.times for one in found] == pytest.approx([1, 1, 1])
    assert broken_promise(counts(200), NOW, times=3, looks=24) is None
    incident = changed(counts(200), 5, **{"normal_0.99": 2_000, "normal_0.999": 1_500})  # of some hours
    assert promises(incident, NOW)[1].times == pytest.approx(1)


def test_a_promise_that_is_broken_is_concept_drift_and_lasts_by_looks() -> None:
    more = {"normal_0.9": 900, "normal_0.99": 400, "normal_0.999": 60}
    found = broken_promise(changed(counts(400), 60, **more), NOW, times=3, looks=24)
    assert found and found.kind == "concept" and found.persistent and found.looks == 24
    assert found.effect == pytest.approx(math.log(10)) and "10 times as often as promised" in found.text
    found = broken_promise(changed(counts(400), 15, **more), NOW, times=3, looks=24)
    assert found and not found.persistent and 1 <= found.looks < 24
    fewer = {"normal_0.9": 100, "normal_0.99": 5, "normal_0.999": 0}
    assert broken_promise(changed(counts(400), 60, **fewer), NOW, times=3, looks=24)
    always = broken_promise(counts(400, **more), NOW, times=3, looks=24)
    assert always is None  # it was never better: wrong, and told as a problem, but no drift
    assert Health(promises=promises(counts(400, **more), NOW)).problems


def test_too_few_points_promise_nothing() -> None:
    few = counts(24, points=10, normal=10, **{"normal_0.9": 9, "normal_0.99": 9, "normal_0.999": 9})
    found = promises(few, NOW)  # 240 points: a tenth of them can be judged
    assert [one.level for one in found] == [0.9] and found[0].times == pytest.approx(9)
    assert math.isnan(found[0].before)
    assert promises(counts(0), NOW) == () and promises(counts(23), NOW) == ()  # it has just begun


def verdict(kind: str, k: int, time_h: int = NOW, given: int = 1) -> Verdict:
    return Verdict(series=k, time_ns=time_h * HOUR_NS, kind=kind, ratio=1.0, given_ns=given)


def said(true: int, false: int, time_h: int = NOW) -> list[Verdict]:
    kinds = ["true_alert"] * true + ["false_alert"] * false
    return [verdict(kind, k, time_h) for k, kind in enumerate(kinds)]


def test_precision_comes_from_the_newest_verdicts_with_its_interval() -> None:
    given = [*said(12, 4), verdict("missed", 99), verdict("false_alert", 0, given=2)]  # one thought again
    given.append(verdict("false_alert", 0, NOW - 1_000))  # too old
    found = judged(given, (NOW - 10) * HOUR_NS, (NOW + 1) * HOUR_NS)
    assert (found.true, found.false, found.missed) == (11, 5, 1)
    assert found.precision == 11 / 16 and found.low < 11 / 16 < found.high
    none = judged([], 0, NOW)
    assert math.isnan(none.precision) and math.isnan(none.low)


def of(true: int, false: int) -> Judged:
    return judged(said(true, false), 0, 1 << 62)


def test_a_loss_of_precision_is_drift_when_verdicts_are_sure() -> None:
    found = worse(of(10, 20), of(28, 2))
    assert found and found.persistent and found.effect == pytest.approx(28 / 30 - 1 / 3)
    assert "10 of 30 alerts" in found.text and "before 28 of 30" in found.text
    assert worse(of(28, 2), of(10, 20)) is None and worse(of(1, 3), of(28, 2)) is None
    assert worse(of(26, 4), of(28, 2)) is None and worse(of(0, 0), of(0, 0)) is None


def test_performance_is_estimated_without_labels() -> None:
    alone = {"reached_2": 61, "reached_3": 7, "reached_4": 2, "reached_5": 1, "reached_6": 1}
    sure = counts(168, opened=1, paid=1, alerts_6=1, **alone)
    found = estimated(sure, NOW, promises(sure, NOW), {"spike": 0.9, "dip": 0.7})
    assert found and found.alerts == 168 and found.precision == pytest.approx(0.994, abs=1e-3)
    assert found.recall == pytest.approx(0.8) and found.missed == pytest.approx(167 * 0.25, rel=0.01)
    chance = counts(168, opened=1, paid=1, alerts_2=1, **alone)
    found = estimated(chance, NOW, promises(chance, NOW), {})
    assert found and found.precision < 0.05 and found.false_alerts > 160 and math.isnan(found.recall)
    unsure = counts(168, opened=1, paid=1, alerts_unknown=1, **alone)
    found = estimated(unsure, NOW, promises(unsure, NOW), {})
    assert found and math.isnan(found.precision) and found.false_alerts == 0
    assert estimated(counts(20), NOW, (), {}) is None


def test_worse_calibration_lowers_what_is_expected() -> None:
    more = {"normal_0.9": 700, "normal_0.99": 120, "normal_0.999": 40}
    base = {"opened": 1, "paid": 1, "alerts_5": 1, "reached_5": 1}
    good = estimated(counts(168, **base), NOW, promises(counts(168, **base), NOW), {})
    bad = estimated(counts(168, **base, **more), NOW, promises(counts(168, **base, **more), NOW), {})
    assert good and bad and bad.precision < good.precision


def test_problems_are_said_in_plain_words() -> None:
    assert Health().problems == () and Health().to_json()["time"] is None
    over = Budgeted(name="shop", promised=2.0, used=12, projected=2.0)
    report = {"faults": {"spike": {"recall": 0.9}, "dip": {"recall": None}}, "problems": ["it never fires"]}
    tested = self_test(report)
    assert tested == SelfTest(recall={"spike": 0.9}, problems=("it never fires",)) and self_test(None) is None
    found = Health(budgets=(over,), selftest=tested, judged=of(2, 30)).problems
    assert [text.split()[0] for text in found] == ["12", "self-test:", "only"]
    assert not Budgeted(name="shop", promised=2.0, used=4, projected=2.0).overspent
    json.dumps(Health(budgets=(over,), judged=of(0, 0)).to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [("interval", 0), ("gap", -1), ("window", 60), ("looks", 0), ("share", 0), ("calibration", 1), ("reference", 1)],
)
def test_wrong_settings_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        MonitoringConfig(**{key: value})
