"""The NAB scorer against figures worked out by hand and a slow scorer that counts window by window."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.detection import nab
from benchmarks.detection.nab import PROFILES, File, Profile
from benchmarks.detection.series import Scores, Series
from otel_aiops.errors import BadInput

STANDARD = PROFILES["standard"]
HOUR_NS = 3_600_000_000_000


def file(name: str, rows: int, *windows: tuple[int, int]) -> File:
    times = np.arange(rows, dtype=np.int64) * HOUR_NS
    return File(Series(name, times, np.zeros(rows)), windows)


def spikes(rows: int, *at: int) -> np.ndarray:
    score = np.zeros(rows)
    score[list(at)] = 1.0
    return score


def sigmoid(place: float) -> float:
    return 2 / (1 + math.exp(5 * place)) - 1


def slow(files: list[File], scores: Scores, threshold: float, profile: Profile) -> float:
    """Row by row, as the rules say."""
    total = perfect = nothing = 0.0
    for one in files:
        score, rows = scores[one.series.name], len(one.series.value)
        alerts = [k for k in range(rows) if k >= one.probation and score[k] >= threshold]
        for first, last in one.windows:
            hits = [k for k in alerts if first <= k <= last]
            perfect += profile.found
            if last >= one.probation:
                nothing -= profile.missed
                place = -(last - hits[0] + 1) / (last - first + 1) if hits else 0.0
                total += profile.found * sigmoid(place) / sigmoid(-1) if hits else -profile.missed
        for k in alerts:
            if any(first <= k <= last for first, last in one.windows):
                continue
            before = [(first, last) for first, last in one.windows if last < k]
            weight = -1.0
            if before:
                first, last = before[-1]
                place = (k - last) / max(last - first, 1)
                weight = sigmoid(place) if place <= 3 else -1.0
            total += profile.false * weight
    return 100 * (total - nothing) / (perfect - nothing)


def test_a_detection_at_the_left_end_is_perfect_and_none_is_zero() -> None:
    files = [file("a", 100, (50, 59))]
    rows = nab.sweep(files, {"a": spikes(100, 50)})
    assert nab.best(rows, STANDARD) == nab.Optimum(pytest.approx(100.0), 1.0)
    assert nab.at(rows, 2.0, STANDARD) == 0.0


def test_by_hand_a_late_detection_and_false_alarms() -> None:
    # 100 rows, of which 15 are probation; window of 10 rows. Found at its middle row 55: place -5/10.
    # False: row 20, before any window, costs 0.11; row 62, 3 rows behind the window of 9 steps, costs less.
    files = [file("a", 100, (50, 59))]
    rows = nab.sweep(files, {"a": spikes(100, 5, 20, 55, 57, 62)})
    earned = sigmoid(-0.5) / sigmoid(-1) - 0.11 + 0.11 * sigmoid(3 / 9)
    assert nab.at(rows, 1.0, STANDARD) == pytest.approx(100 * (earned + 1) / 2)
    assert nab.at(rows, 1.0, PROFILES["low_fn"]) == pytest.approx(100 * (earned + 2) / 3)
    earned_low_fp = sigmoid(-0.5) / sigmoid(-1) - 0.22 + 0.22 * sigmoid(3 / 9)
    assert nab.at(rows, 1.0, PROFILES["low_fp"]) == pytest.approx(100 * (earned_low_fp + 1) / 2)


def test_far_behind_a_window_a_false_alarm_costs_all() -> None:
    files = [file("a", 200, (50, 59))]
    near = nab.at(nab.sweep(files, {"a": spikes(200, 50, 60 + 26)}), 1.0, STANDARD)
    far = nab.at(nab.sweep(files, {"a": spikes(200, 50, 60 + 90)}), 1.0, STANDARD)
    assert near > far == pytest.approx(100 * (1 - 0.11 + 1) / 2, abs=1e-12)


def test_the_threshold_is_one_for_all_files() -> None:
    # In "b" the found window scores lower than the false alarms of "a": taking it in costs three of them.
    files = [file("a", 100, (50, 59)), file("b", 100, (50, 59))]
    scores = {"a": spikes(100, 50) * 3 + spikes(100, 20, 25, 30) * 2, "b": spikes(100, 50)}
    rows = nab.sweep(files, scores)
    assert nab.best(rows, STANDARD) == nab.Optimum(pytest.approx(100 * (2 - 0.33 + 2) / 4), 1.0)
    assert nab.best(rows, Profile(1.0, 1.0, 1.0)) == nab.Optimum(pytest.approx(50.0), 3.0)


def test_probation_does_not_count_and_its_window_cannot_be_found() -> None:
    files = [file("a", 100, (3, 9), (50, 59))]
    rows = nab.sweep(files, {"a": spikes(100, 1, 3, 50)})
    # Two windows could be perfect, one can be found, one is missed by finding nothing: (1 + 1) / (2 + 1).
    assert nab.best(rows, STANDARD).score == pytest.approx(200 / 3)
    assert file("long", 22_000).probation == 750


def test_rows_without_a_score_are_the_least_strange() -> None:
    files = [file("a", 100, (50, 59))]
    score = spikes(100, 50)
    score[20:30] = np.nan
    score[50] = np.inf
    assert nab.best(nab.sweep(files, {"a": score}), STANDARD).score == pytest.approx(100.0)


def test_wrong_scores_are_refused() -> None:
    with pytest.raises(BadInput, match="a: expected 100 scores, got 99"):
        nab.sweep([file("a", 100, (50, 59))], {"a": np.zeros(99)})
    with pytest.raises(BadInput, match="at least one window"):
        nab.sweep([file("a", 100)], {"a": np.zeros(100)})


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(PROFILES)))
def test_equals_the_slow_scorer_at_every_threshold(seed: int, name: str) -> None:
    random = np.random.default_rng(seed)
    files, scores = [], {}
    for k in range(int(random.integers(1, 4))):
        rows = int(random.integers(30, 120))
        edges = np.sort(random.choice(rows, size=4, replace=False)).tolist()
        files.append(file(str(k), rows, (edges[0], edges[1]), (edges[2], edges[3])))
        scores[str(k)] = random.integers(0, 6, rows) / 5 * (random.random(rows) < 0.3)
    rows_, profile = nab.sweep(files, scores), PROFILES[name]
    thresholds, curve = nab.curve(rows_, profile)
    expected = [slow(files, scores, threshold, profile) for threshold in thresholds]
    np.testing.assert_allclose(curve, expected, atol=1e-9)
    assert nab.best(rows_, profile).score == pytest.approx(max(expected))


def test_halves_are_fixed_and_cover_all_files() -> None:
    splits = nab.halves(7)
    assert len(splits) == 16
    for one, other in splits:
        assert sorted([*one, *other]) == list(range(7))
    assert [a.tolist() for a, _ in nab.halves(7)] == [a.tolist() for a, _ in splits]
    assert splits[0][0].tolist() == np.random.default_rng(0).permutation(7)[:3].tolist()


def test_two_fold_applies_what_it_chose_elsewhere() -> None:
    files = [file(str(k), 100, (50, 59)) for k in range(6)]
    same = {str(k): spikes(100, 50) for k in range(6)}
    # The scale differs by file, so a threshold of one half misses files of the other, or lets their noise in.
    scaled = {str(k): spikes(100, 50) * 10.0**k + 0.1 * 10.0**k for k in range(6)}
    assert nab.two_fold(files, [same], STANDARD) == pytest.approx(100.0)
    assert nab.best(nab.sweep(files, scaled), STANDARD).score > nab.two_fold(files, [scaled], STANDARD)


def test_two_fold_chooses_the_configuration_too() -> None:
    files = [file(str(k), 100, (50, 59)) for k in range(6)]
    bad = {str(k): np.zeros(100) for k in range(6)}
    good = {str(k): spikes(100, 50) for k in range(6)}
    assert nab.two_fold(files, [bad, good], STANDARD) == pytest.approx(100.0)
    assert nab.two_fold(files, [bad], STANDARD) == 0.0


def test_hold_keeps_what_beats_the_last_rows() -> None:
    score = np.zeros(100)
    score[[0, 10, 20, 45, 70, 71]] = [1.0, 2.0, 1.5, 1.0, 1.2, 3.0]
    # 30 rows of memory: 20 is below 10; 45 is within 30 of 20; by 70 all of these but 45 are forgotten.
    assert np.flatnonzero(nab.hold(score)).tolist() == [0, 10, 70, 71]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=900))
def test_hold_equals_a_slow_one(values: list[int]) -> None:
    score = np.array(values, float)
    slow_ = np.zeros(len(score))
    for k, value in enumerate(score):
        back = min(max(0.06 * k, 30), 400)
        before = score[math.ceil(max(0, k - back)) : k]
        slow_[k] = value if not len(before) or value > before.max() else 0.0
    assert nab.hold(score).tolist() == slow_.tolist()


def test_loads_files_as_the_corpus_has_them(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "data" / "real").mkdir(parents=True)
    windows = {"real/x.csv": [["2015-01-01 02:00:00.000000", "2015-01-01 03:00:00.000000"]], "real/a.csv": []}
    (tmp_path / "labels" / "combined_windows.json").write_text(json.dumps(windows))
    # The clock goes back at 02:00: the first of two equal times is the one that a label means.
    lines = [f"2015-01-01 0{hour}:00:00,{hour}" for hour in (0, 1, 2, 2, 3, 4)]
    for name in ("x", "a"):
        (tmp_path / "data" / "real" / f"{name}.csv").write_text("timestamp,value\n" + "\n".join(lines) + "\n")
    found = nab.load(tmp_path)
    assert [one.series.name for one in found] == ["real/a.csv", "real/x.csv"]
    assert found[1].windows == ((2, 4),)
    assert found[1].series.value.tolist() == [0, 1, 2, 2, 3, 4]
    assert found[1].series.time_ns[0] == 1_420_070_400_000_000_000


def test_a_corpus_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"combined_windows\.json"):
        nab.load(tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "combined_windows.json").write_text('{"real/x.csv": []}')
    with pytest.raises(BadInput, match=r"x\.csv"):
        nab.load(tmp_path)


def test_report_has_all_profiles() -> None:
    files = [file(str(k), 100, (50, 59)) for k in range(4)]
    figures = nab.report(files, {str(k): spikes(100, 50, 52) for k in range(4)})
    assert list(figures.official) == list(figures.two_fold) == list(figures.held) == list(PROFILES)
    assert figures.official["standard"] == pytest.approx(100.0)


def test_the_protocol_is_frozen() -> None:
    assert {name: (p.found, p.missed, p.false) for name, p in PROFILES.items()} == {
        "standard": (1.0, 1.0, 0.11),
        "low_fp": (1.0, 1.0, 0.22),
        "low_fn": (1.0, 2.0, 0.11),
    }
    assert (nab.PROBATION_RATIO, nab.PROBATION_MOST, nab.SPLITS) == (0.15, 750, 8)
    assert (nab.HOLD_RATIO, nab.HOLD_LEAST, nab.HOLD_MOST) == (0.06, 30, 400)
