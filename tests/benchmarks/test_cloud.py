"""Event measures of cloud-monitoring series against figures worked out by hand and slow twins."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.detection import cloud
from benchmarks.detection.cloud import Counts, Labelled
from benchmarks.detection.series import Series
from otel_aiops.errors import BadInput

HOUR_NS, MINUTE_NS = 3_600_000_000_000, 60_000_000_000


def series(rows: int, *events: tuple[int, int], name: str = "a", step_ns: int = HOUR_NS) -> Labelled:
    label = np.zeros(rows, bool)
    for first, last in events:
        label[first : last + 1] = True
    return cloud.labelled(Series(name, np.arange(rows, dtype=np.int64) * step_ns, np.zeros(rows)), label)


def spikes(rows: int, *at: int) -> np.ndarray:
    score = np.zeros(rows)
    score[list(at)] = 1.0
    return score


def count(one: Labelled, score: np.ndarray, threshold: float = 1.0) -> tuple[float, float]:
    table = cloud.counts([one], {one.series.name: score}, np.array([[threshold]]))
    return table.found[0, 0], table.false[0, 0]


def slow_count(label: np.ndarray, score: np.ndarray, threshold: float, quiet: int) -> tuple[int, int]:
    """Row by row, from the labels."""
    rows = len(label)
    begin = int(min(0.1 * rows, 1500))
    if begin and label[begin - 1]:
        while begin < rows and label[begin]:
            begin += 1
    events = []
    for k in range(begin, rows):
        if label[k] and (k == begin or not label[k - 1]):
            events.append([k, k])
        elif label[k]:
            events[-1][1] = k
    found = sum(
        any(begin <= k < rows and score[k] >= threshold for k in range(first - 1, last + 3)) for first, last in events
    )
    false, ready = 0, 0
    for k in range(begin, rows):
        if score[k] < threshold or any(first - 1 <= k <= last + 2 for first, last in events):
            continue
        if k >= ready:
            false, ready = false + 1, k + quiet
    return found, false


def test_by_hand_found_missed_and_false() -> None:
    one = series(100, (30, 32), (60, 60), (80, 81))
    # 29 is one row early, 83 two rows late; 27 and 84 are outside; 60 is missed.
    assert count(one, spikes(100, 29, 83)) == (2, 0)
    assert count(one, spikes(100, 28, 84)) == (0, 2)
    assert count(one, spikes(100, 60)) == (1, 0)
    assert one.days == 90 / 24


def test_what_alarms_always_pays_always() -> None:
    one = series(106, (50, 59))
    # 10 rows are probation, 49 to 61 are near the event; 39 and 44 rows alarm every six hours.
    assert count(one, np.ones(106)) == (1, 7 + 8)
    minutes = series(1000, step_ns=MINUTE_NS)
    assert count(minutes, np.ones(1000)) == (0, 15)


def test_probation_and_an_event_that_runs_on_do_not_count() -> None:
    one = series(100, (5, 14), (50, 50))
    assert one.first.tolist() == [50]
    assert count(one, spikes(100, 3, 9, 12, 14)) == (0, 0)
    assert count(one, spikes(100, 15)) == (0, 1)
    begins = series(100, (10, 12))
    assert begins.first.tolist() == [10]
    assert count(begins, spikes(100, 9)) == (0, 0)
    assert not series(100, (5, 99)).counts.any()


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6))
def test_counts_equal_the_slow_ones(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = int(random.integers(20, 150))
    label = np.repeat(random.random(rows) < 0.1, random.integers(1, 5, rows))[:rows]
    score = random.integers(0, 4, rows).astype(float)
    one = cloud.labelled(Series("a", np.arange(rows, dtype=np.int64) * HOUR_NS, score), label)
    for threshold in (1.0, 2.0, 3.0):
        assert count(one, score, threshold) == slow_count(label, score, threshold, 6)


def test_f1() -> None:
    # 3 of 4 events, 2 false alarms: precision 3/5, recall 3/4.
    assert cloud.f1(np.array(3.0), np.array(2.0), 4.0) == pytest.approx(2 * 0.6 * 0.75 / 1.35)
    assert cloud.f1(np.array(0.0), np.array(0.0), 4.0) == 0.0
    assert cloud.f1(np.array(0.0), np.array(0.0), 0.0) == 0.0


def test_report_of_a_perfect_detector_and_of_one_that_knows_nothing() -> None:
    corpus = [series(200, (60, 62), (150, 151), name=str(k)) for k in range(4)]
    perfect = cloud.report(corpus, {str(k): corpus[k].anomalous + 0.01 * np.arange(200) / 200 for k in range(4)})
    assert (perfect.f1_best, perfect.f1_cross, perfect.recall_week, perfect.auc_pr) == (1.0, 1.0, 1.0, 1.0)
    assert (perfect.precision, perfect.recall) == (1.0, 1.0)
    assert perfect.feedback == cloud.Feedback(1.0, 1.0)
    constant = cloud.report(corpus, {str(k): np.ones(200) for k in range(4)})
    assert constant.recall == 1.0 and constant.precision < 0.2 and constant.recall_week == 0.0
    assert constant.auc_pr == pytest.approx(5 / 180)


def test_recall_at_one_false_alarm_a_week() -> None:
    # Four weeks of hours that count; four false alarms are allowed.
    rows = int(28 * 24 / 0.9) + 1
    one = series(rows, (300, 300), (400, 400), (500, 500))
    score = np.arange(rows) * 1e-6
    score[[300, 400, 500]] = [9.0, 7.0, 3.0]
    score[[100, 150, 200]] = 8.0
    score[[600, 610, 620, 630]] = 5.0
    assert cloud.report([one], {"a": score}).recall_week == pytest.approx(2 / 3)


def test_the_threshold_from_the_other_half_costs_where_series_differ() -> None:
    corpus, scores = [], {}
    for k in range(8):
        one = series(300, (100, 101), (200, 201), name=str(k))
        corpus.append(one)
        scores[str(k)] = (one.anomalous + 0.7 * spikes(300, 50, 130, 170, 250)) * 1.4 ** (k % 5)
    figures = cloud.report(corpus, scores)
    assert figures.f1_cross < figures.f1_best < figures.feedback.after


def naive_shifts(known: Counts) -> float:
    """The best F1 of all choices, by trying them."""
    best = 0.0
    for chosen in itertools.product(range(known.found.shape[1]), repeat=len(known.events)):
        found = sum(known.found[k, c] for k, c in enumerate(chosen))
        false = sum(known.false[k, c] for k, c in enumerate(chosen))
        best = max(best, float(cloud.f1(np.array(found), np.array(false), float(known.events.sum()))))
    return best


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_shifts_are_the_best_of_all_choices(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = len(cloud.SHIFTS)
    found = -np.sort(-random.integers(0, 4, (3, size)), axis=1).astype(float)
    known = Counts(found, -np.sort(-random.integers(0, 9, (3, size)), axis=1).astype(float), found.max(axis=1) + 1)
    chosen = cloud.shifts(known)
    each = np.arange(3)
    score = cloud.f1(known.found[each, chosen].sum(), known.false[each, chosen].sum(), float(known.events.sum()))
    assert float(score) == pytest.approx(naive_shifts(known), abs=1e-9)


def test_shifts_stay_when_nothing_is_gained_and_shrink() -> None:
    size = len(cloud.SHIFTS)
    neutral = size // 2
    nothing = Counts(np.ones((2, size)), np.zeros((2, size)), np.ones(2))
    assert cloud.shifts(nothing).tolist() == [neutral, neutral]
    # One false alarm goes at the next factor, and two events are found at the lowest threshold only.
    false, found = np.ones((2, size)), np.ones((2, size))
    false[0, neutral + 1 :] = 0
    found[1, 0] = 3
    known = Counts(found, false, np.array([1.0, 3.0]))
    assert cloud.shifts(known).tolist() == [neutral + 1, 0]
    assert cloud.shifts(known, shrinkage=1.2).tolist() == [neutral + 1, 0]
    assert cloud.shifts(known, shrinkage=50.0).tolist() == [neutral, neutral]


def test_feedback_learns_from_the_first_half_only() -> None:
    def scored(late_noise: float) -> tuple[Sequence[Labelled], dict[str, np.ndarray]]:
        corpus = [series(400, (100, 101), (330, 331), name=str(k)) for k in range(4)]
        scores = {str(k): one.anomalous * 1.0 for k, one in enumerate(corpus)}
        for k in ("2", "3"):  # noisy at a level that their events exceed
            scores[k] = scores[k] * 2 + 1.2 * spikes(400, 50, 60, 70, 80, 130, 150, 170, 190)
            scores[k] += late_noise * spikes(400, 250, 260, 270, 280, 290)
        return corpus, scores

    quiet, usual = cloud.feedback(*scored(0.0)), cloud.feedback(*scored(1.2))
    assert quiet.after == 1.0 and usual.after == 1.0
    assert usual.before < usual.after
    # What is new in the second half cannot have been learned.
    assert cloud.feedback(*scored(5.0)).after < 0.7


def test_scores_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadInput, match="a: expected 100 scores, got 99"):
        count(series(100, (50, 50)), np.zeros(99))


def test_loads_what_the_corpus_holds(tmp_path: Path) -> None:
    (tmp_path / "rates").mkdir()
    lines = ['"2018-06-13T00:00:00Z","1.5","0"', '"2018-06-13T01:00:00Z",,0', "2018-06-13 02:00:00,2,1"]
    (tmp_path / "rates" / "x-01.csv").write_text("TimeStamp,Value,Label\n" + "\n".join(lines) + "\n")
    (one,) = cloud.load(tmp_path)
    assert one.series.name == "rates/x-01"
    np.testing.assert_array_equal(one.series.value, [1.5, np.nan, 2.0])
    assert one.series.step_s == 3600 and one.first.tolist() == [2]
    (tmp_path / "rates" / "x-01.csv").write_text("TimeStamp,Value,Label\n2018-06-13 02:00:00,2\n")
    with pytest.raises(BadInput, match="line 2: expected 3 columns, got 2"):
        cloud.load(tmp_path)
    with pytest.raises(BadInput, match="there are none"):
        cloud.load(tmp_path / "rates")


def test_a_corpus_in_which_nothing_counts_is_refused() -> None:
    with pytest.raises(BadInput, match="rows that count"):
        cloud.report([series(100, (5, 99))], {"a": np.ones(100)})


def test_without_events_the_area_is_not_known() -> None:
    assert np.isnan(cloud.report([series(100)], {"a": np.arange(100.0)}).auc_pr)


def test_the_protocol_is_frozen() -> None:
    assert (cloud.PROBATION_RATIO, cloud.PROBATION_MOST, cloud.EARLY, cloud.LATE) == (0.1, 1500, 1, 2)
    assert (cloud.QUIET_LEAST, cloud.QUIET_S, cloud.THRESHOLDS, cloud.SEEDS) == (6, 3600, 70, 5)
    assert (cloud.SHARE_MOST, cloud.SHARE_LEAST, cloud.ALARMS_A_DAY) == (0.15, 2e-5, 1 / 7)
    np.testing.assert_allclose(cloud.SHIFTS, np.arange(-6, 7) / 5)
