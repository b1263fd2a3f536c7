"""Anomalies open, carry on and close; the latest point of every row is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from otel_aiops.detect.budget import Alerted
from otel_aiops.detect.detector import Scores
from otel_aiops.detect.discovery import Crowd
from otel_aiops.detect.scorer import Scored
from otel_aiops.pipeline import Step
from otel_aiops.series.batch import Batch
from otel_aiops.watch import REASONS_A_STEP, Watch

CHANNELS = ("none", "level")


def step(at_s: int, scores: dict[int, float], *, alerts: tuple[int, ...] | None = None, **more: list[int]) -> Step:
    """A step in which some rows have these scores, and `alerts` an alert; None for nobody asked."""
    rows = np.array(list(scores), np.int32)
    count = len(rows)
    ones = np.ones(count)
    batch = Batch(rows, np.full(count, at_s * 10**9, np.int64), ones * 5, ones)
    score = np.array(list(scores.values()), float)
    scored = Scored(batch, Scores(score, ones * 0.9, ones, ones, ones, np.ones(count, np.uint8), ones * 0, score))
    if alerts is not None:
        active = np.isin(rows, alerts)
        crowd = Crowd(0, at_s * 10**9, 10, 9, 0.1, 2.0)
        alerted = Alerted(active * 2.0, active, active, active, ones, (crowd,))
        scored = replace(scored, alerted=alerted)
    lists = {name: np.array(value, np.int32) for name, value in more.items()}
    return Step(event_ns=at_s * 10**9, scored=(scored,) if count else (), **lists)  # type: ignore[arg-type]


def watch() -> tuple[Watch, list[int]]:
    asked: list[int] = []

    def reason(scored: Scored, k: int) -> str:
        asked.append(int(scored.batch.rows[k]))
        return f"reason {len(asked)}"

    return Watch(CHANNELS, reason), asked


def test_opens_at_one_and_remembers_the_peak() -> None:
    found, _ = watch()
    found.follow(step(10, {0: 0.9, 1: 1.0}))
    found.follow(step(20, {1: 3.0}))
    found.follow(step(30, {1: 2.0}))
    (anomaly,) = found.anomalies()
    assert (anomaly.row, anomaly.since_ns, anomaly.score, anomaly.peak) == (1, 10 * 10**9, 2.0, 3.0)
    assert found.opened == 1 and found.anomaly(1) == anomaly and found.anomaly(0) is None


def test_the_strangest_comes_first() -> None:
    found, _ = watch()
    found.follow(step(10, {0: 1.5, 1: 9.0, 2: 4.0}))
    assert [one.row for one in found.anomalies()] == [1, 2, 0]


def test_closes_well_below_at_once_and_just_below_after_two_points() -> None:
    found, _ = watch()
    found.follow(step(10, {0: 2.0, 1: 2.0}))
    found.follow(step(20, {0: 0.5, 1: 0.9}))
    assert [one.row for one in found.anomalies()] == [1]
    found.follow(step(30, {1: 0.9}))
    assert not found.anomalies()


def test_one_dip_does_not_close() -> None:
    found, _ = watch()
    for at, score in ((10, 2.0), (20, 0.9), (30, 2.0), (40, 0.9)):
        found.follow(step(at, {0: score}))
    assert len(found.anomalies()) == 1 and found.opened == 1


def test_closes_when_the_score_is_absent_or_the_row_ends_or_is_given_away() -> None:
    found, _ = watch()
    found.follow(step(10, {0: 2.0, 1: 2.0, 2: 2.0}))
    found.follow(step(20, {0: float("nan")}, ended=[1], reclaimed=[2]))
    assert not found.anomalies()
    latest = found.latest(1)
    assert latest is not None and latest["score"] is None
    assert found.latest(2) is None


def test_sentences_are_made_anew_after_a_while_only() -> None:
    found, asked = watch()
    found.follow(step(10, {0: 2.0}))
    found.follow(step(20, {0: 2.0}))
    assert asked == [0]
    found.follow(step(40, {0: 2.0}))
    assert asked == [0, 0] and found.anomalies()[0].reason == "reason 2"


def test_a_storm_makes_a_bounded_number_of_sentences_a_step() -> None:
    found, asked = watch()
    storm = dict.fromkeys(range(REASONS_A_STEP + 50), 5.0)
    found.follow(step(10, storm))
    assert len(asked) == REASONS_A_STEP
    found.follow(step(20, storm))
    assert len(asked) == REASONS_A_STEP + 50
    assert all(one.reason for one in found.anomalies())


def test_latest_is_the_newest_point() -> None:
    found, _ = watch()
    found.follow(step(10, {3: 0.5}))
    latest = found.latest(3)
    assert latest is not None
    assert (latest["time_ns"], latest["value"], latest["channel"]) == (10 * 10**9, 5.0, "level")
    assert found.latest(0) is None and found.latest(99_999) is None
    assert found.warm_share() == 1.0


def test_alerts_are_followed_beside_anomalies() -> None:
    found, asked = watch()
    found.follow(step(10, {0: 2.0, 1: 0.5}, alerts=(0, 1)))
    assert [one.row for one in found.anomalies()] == [0] and asked == [0, 1]
    first, second = found.alert(0), found.alert(1)
    assert first is not None and first.reason == "reason 1", "one sentence does for both"
    assert second is not None and (second.score, second.reason, second.value) == (0.5, "reason 2", 5.0)
    latest = found.latest(1)
    assert latest is not None and (latest["ratio"], latest["alert"]) == (2.0, True)
    assert found.crowd(0) is not None and found.crowd(1) is None
    found.follow(step(50, {0: 1.5, 1: 0.9}, alerts=(0, 1)))
    worse, calmer = found.alert(1), found.alert(0)
    assert worse is not None and worse.score == 0.9 and calmer is not None and calmer.score == 2.0
    found.follow(step(60, {0: 1.5, 1: 0.9}, alerts=(1,)))
    assert found.alert(0) is None and found.alert(1) is not None
    found.follow(step(70, {2: 0.1}, alerts=(), ended=[1]))
    assert found.alert(1) is None and found.latest(1)["alert"] is False  # type: ignore[index]
