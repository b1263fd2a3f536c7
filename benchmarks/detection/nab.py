"""The Numenta Anomaly Benchmark, version 1.1: its files, its scoring and two-fold estimates of it."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.series import Scores, Series, nanoseconds, ranked, rows
from otel_aiops.errors import BadInput
from otel_aiops.otlp.points import F64, I64

PROBATION_RATIO = 0.15  # of a file, whose scores do not count
PROBATION_MOST = 750  # rows: that ratio of 5000
SPLITS = 8  # random halvings of the files, by seeds 0 to 7
HOLD_RATIO, HOLD_LEAST, HOLD_MOST = 0.06, 30.0, 400.0  # of the history, in rows


@dataclass(frozen=True, slots=True)
class Profile:
    """What a found window earns, and what a missed one and a false alarm cost."""

    found: float
    missed: float
    false: float


PROFILES = {
    "standard": Profile(1.0, 1.0, 0.11),
    "low_fp": Profile(1.0, 1.0, 0.22),
    "low_fn": Profile(1.0, 2.0, 0.11),
}


@dataclass(frozen=True, slots=True)
class File:
    """A series with its labelled windows, as (first, last) row of each, in the order of time."""

    series: Series
    windows: tuple[tuple[int, int], ...]

    @property
    def probation(self) -> int:
        """Rows at the beginning that do not count."""
        return int(min(np.floor(PROBATION_RATIO * len(self.series.value)), PROBATION_MOST))


@dataclass(frozen=True, slots=True)
class Sweep:
    """The M rows of some files that count, by falling score, and how many windows the files have.

    `window` is -1 outside of windows; `reward` is the weight of a detection at the row: in a window 1 at its left end
    and less later, outside -1 to 0, the less the nearer behind a window.
    """

    score: F64
    window: I64
    reward: F64
    windows: int


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best score of a profile and the threshold that gives it: a row counts from this score on."""

    score: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What the table shows, each by profile: the official in-sample score, threshold-only two-fold, and with hold."""

    official: dict[str, float]
    two_fold: dict[str, float]
    held: dict[str, float]


def load(root: Path) -> list[File]:
    """All files that have an entry in the labels, by name. Raises: BadInput."""
    labels = root / "labels" / "combined_windows.json"
    try:
        windows: dict[str, list[list[str]]] = json.loads(labels.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"{labels}: expected the labels of NAB, there is no such file") from error
    return [_file(root, name, windows[name]) for name in sorted(windows)]


def report(files: Sequence[File], scores: Scores) -> Figures:
    """All figures of one detector."""
    holding = {file.series.name: hold(ranked(scores[file.series.name])) for file in files}
    whole, held = sweep(files, scores), sweep(files, holding)
    return Figures(
        official={name: best(whole, profile).score for name, profile in PROFILES.items()},
        two_fold={name: two_fold(files, [scores], profile) for name, profile in PROFILES.items()},
        held={name: best(held, profile).score for name, profile in PROFILES.items()},
    )


def sweep(files: Sequence[File], scores: Scores) -> Sweep:
    """Rows of all files in one order. Raises: BadInput when scores do not fit a file."""
    parts, windows = [], 0
    for file in files:
        score = scores[file.series.name]
        if len(score) != len(file.series.value):
            raise BadInput(f"{file.series.name}: expected {len(file.series.value)} scores, got {len(score)}")
        window, reward = _rewards(file)
        counts = slice(file.probation, None)
        parts.append((ranked(score)[counts], np.where(window < 0, -1, window + windows)[counts], reward[counts]))
        windows += len(file.windows)
    if not windows:
        raise BadInput("expected files with at least one window, got none")
    score, window, reward = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(-score, kind="stable")
    return Sweep(score[order], window[order], reward[order], windows)


def curve(rows: Sweep, profile: Profile) -> tuple[F64, F64]:
    """(thresholds, score at each) for every distinct score from above; the first one is infinite: nothing is found.

    0 is what a detector gets that finds nothing, 100 one that finds every window at its left end without false alarms.
    Source: Lavin and Ahmad, Evaluating Real-time Anomaly Detection Algorithms, 2015, section III, and NAB 1.1.
    """
    gain = np.where(rows.window < 0, rows.reward * profile.false, 0.0)
    inside = np.flatnonzero(rows.window >= 0)
    inside = inside[np.argsort(rows.window[inside], kind="stable")]
    begins = np.flatnonzero(np.diff(rows.window[inside], prepend=-1))
    for one in np.split(inside, begins[1:]) if len(inside) else []:
        # The earliest detection counts: lowering the threshold gains when an earlier row comes in.
        earned = np.maximum.accumulate(rows.reward[one] * profile.found)
        gain[one] = np.diff(earned, prepend=-profile.missed)
    last = np.append(rows.score[1:] != rows.score[:-1], True)
    raw = np.concatenate([[0.0], np.cumsum(gain)[last]])
    # A window inside the probation cannot be found: missing it costs nothing, finding it would still be perfect.
    perfect = profile.found * rows.windows + profile.missed * len(begins)
    return np.concatenate([[np.inf], rows.score[last]]), 100.0 * raw / perfect


def best(rows: Sweep, profile: Profile) -> Optimum:
    """The official figure: the threshold is chosen on the rows that are scored."""
    thresholds, score = curve(rows, profile)
    at_best = int(np.argmax(score))
    return Optimum(float(score[at_best]), float(thresholds[at_best]))


def at(rows: Sweep, threshold: float, profile: Profile) -> float:
    """The score at a threshold that was chosen elsewhere."""
    thresholds, score = curve(rows, profile)
    return float(score[np.flatnonzero(thresholds >= threshold)[-1]])


def halves(count: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(chosen on, applied to) of all splits, both ways round: indices of files."""
    both = []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(count)
        one, other = order[: count // 2], order[count // 2 :]
        both += [(one, other), (other, one)]
    return both


def two_fold(files: Sequence[File], candidates: Sequence[Scores], profile: Profile) -> float:
    """Mean score on held-out halves, with candidate and threshold chosen on the other half of the files.

    With one candidate only the threshold is chosen; with one for each configuration also the parameters are. Among
    equals the first candidate counts.
    """
    total, splits = 0.0, halves(len(files))
    for chosen_on, applied_to in splits:
        known = [files[k] for k in chosen_on]
        optima = [best(sweep(known, scores), profile) for scores in candidates]
        winner = int(np.argmax([optimum.score for optimum in optima]))
        rest = sweep([files[k] for k in applied_to], candidates[winner])
        total += at(rest, optima[winner].threshold, profile)
    return total / len(splits)


def hold(score: F64) -> F64:
    """Scores that are 0 unless they beat all in the last 6 % of the history (30 to 400 rows).

    A rule of alerting that any detector can have; NAB rewards it, so every one is shown with it and without.
    """
    held = np.zeros(len(score))
    rows: list[int] = []  # whose scores fall: each is the highest of all since
    values = score.tolist()
    for k, value in enumerate(values):
        since = bisect_left(rows, k - min(max(HOLD_RATIO * k, HOLD_LEAST), HOLD_MOST))
        if since == len(rows) or value > values[rows[since]]:
            held[k] = value
        while rows and values[rows[-1]] <= value:
            rows.pop()
        rows.append(k)
    return held


def _file(root: Path, name: str, windows: list[list[str]]) -> File:
    lines = list(rows(root / "data" / name, 2))
    times = [nanoseconds(time) for time, _ in lines]
    first: dict[int, int] = {}
    for k, time_ns in enumerate(times):
        first.setdefault(time_ns, k)
    series = Series(name, np.array(times, np.int64), np.array([float(value) for _, value in lines]))
    return File(series, tuple((first[nanoseconds(a)], first[nanoseconds(b)]) for a, b in windows))


def _rewards(file: File) -> tuple[I64, F64]:
    """(window of each row, reward of a detection there), (N,) each."""
    size = len(file.series.value)
    window, reward = np.full(size, -1, np.int64), np.full(size, -1.0)
    for number, (first, last) in enumerate(file.windows):
        length = last - first + 1
        inside = np.arange(first, last + 1)
        window[inside] = number
        reward[inside] = _sigmoid((inside - last - 1) / length) / _sigmoid(np.array([-1.0]))
        end = file.windows[number + 1][0] if number + 1 < len(file.windows) else size
        behind = np.arange(last + 1, end)
        reward[behind] = _sigmoid((behind - last) / max(length - 1, 1))
    return window, reward


def _sigmoid(place: F64) -> F64:
    """From 1 far before the right end of a window over 0 at it to -1 behind; from three lengths on exactly -1."""
    return np.asarray(np.where(place > 3.0, -1.0, 2.0 / (1.0 + np.exp(np.minimum(5.0 * place, 700.0))) - 1.0))
