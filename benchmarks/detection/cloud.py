"""Cloud-monitoring series: their labelled events, and how many of them a detector finds for how many false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.detection.series import DAY_S, Scores, Series, nanoseconds, ranked, rows
from otel_aiops.errors import BadInput
from otel_aiops.otlp.points import F64, I64, Bool

PROBATION_RATIO = 0.10  # of a series, whose scores do not count
PROBATION_MOST = 1500  # rows
EARLY, LATE = 1, 2  # rows before and after an event in which an alert still finds it
QUIET_LEAST = 6  # rows; or an hour, if that is more, after which a score that stays high is a new alarm
QUIET_S = 3600.0
THRESHOLDS = 70  # quantiles of all scores, from this share of rows above to that
SHARE_MOST, SHARE_LEAST = 0.15, 2e-5
SEEDS = 5  # random halvings of the series
ALARMS_A_DAY = 1 / 7  # one false alarm for each series and week
SHIFTS = np.linspace(-1.2, 1.2, 13)  # logarithms of the factors that verdicts may move a threshold by
TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Labelled:
    """A series with its E events that count, as `first` and `last` row of each.

    Shape: `anomalous` (in an event), `counts` (scored at all) and `near` (no false alarm is possible) are (N,).
    """

    series: Series
    first: I64
    last: I64
    anomalous: Bool
    counts: Bool
    near: Bool
    quiet: int  # rows
    days: float


@dataclass(frozen=True, slots=True)
class Counts:
    """Found events and false alarms of S series at T thresholds, (S, T) each, and the events of each series, (S,)."""

    found: F64
    false: F64
    events: F64

    def f1(self, which: I64 | slice = slice(None)) -> F64:
        """Event F1 of some series together, (T,)."""
        return f1(self.found[which].sum(0), self.false[which].sum(0), float(self.events[which].sum()))


@dataclass(frozen=True, slots=True)
class Feedback:
    """Event F1 on the second halves: with one threshold of the first halves, and moved by their verdicts."""

    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What the table shows."""

    f1_best: float  # one threshold for all series, chosen in-sample
    threshold: float  # that one
    precision: float  # there
    recall: float
    f1_cross: float  # threshold from the other half of the series
    recall_week: float  # at one false alarm for each series and week
    auc_pr: float  # mean over series that have events
    feedback: Feedback


def load(root: Path) -> list[Labelled]:
    """All series by name of folder and file. Raises: BadInput."""
    paths = sorted(root.glob("*/*.csv"), key=str)
    if not paths:
        raise BadInput(f"{root}: expected folders with CSV files, there are none")
    found = []
    for path in paths:
        lines = list(rows(path, 3))
        times = np.array([nanoseconds(line[0]) for line in lines], np.int64)
        value = np.array([float(line[1] or "nan") for line in lines])
        name = f"{path.parent.name}/{path.stem}"
        found.append(labelled(Series(name, times, value), np.array([int(line[2]) for line in lines]) > 0))
    return found


def labelled(series: Series, label: Bool) -> Labelled:
    """Events are runs of labelled rows; one that runs on at the end of the probation does not count, nor do its rows.

    Shape: label (N,).
    """
    size = len(label)
    probation = int(min(PROBATION_RATIO * size, PROBATION_MOST))
    begins = probation
    if probation and label[probation - 1]:
        normal = np.flatnonzero(~label[probation:])
        begins = probation + (int(normal[0]) if len(normal) else size - probation)
    counts = np.arange(size) >= begins
    anomalous = label & counts
    edges = np.diff(np.concatenate([[0], anomalous.astype(np.int8), [0]]))
    first, last = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    near = np.zeros(size, bool)
    for a, b in zip(first.tolist(), last.tolist(), strict=True):
        near[max(0, a - EARLY) : b + LATE + 1] = True
    quiet = max(QUIET_LEAST, int(QUIET_S / series.step_s))
    return Labelled(series, first, last, anomalous, counts, near, quiet, (size - probation) * series.step_s / DAY_S)


def report(corpus: Sequence[Labelled], scores: Scores) -> Figures:
    """All figures of one detector."""
    ladder = thresholds(corpus, scores)
    table = counts(corpus, scores, np.broadcast_to(ladder, (len(corpus), len(ladder))))
    found, false, events = table.found.sum(0), table.false.sum(0), float(table.events.sum())
    at_best = int(table.f1().argmax())
    within = false / sum(one.days for one in corpus) <= ALARMS_A_DAY
    return Figures(
        f1_best=float(table.f1()[at_best]),
        threshold=float(ladder[at_best]),
        precision=float(found[at_best] / max(1.0, found[at_best] + false[at_best])),
        recall=float(found[at_best] / max(1.0, events)),
        f1_cross=_crossed(table),
        recall_week=float(found[within].max(initial=0.0) / max(1.0, events)),
        auc_pr=_auc_pr(corpus, scores),
        feedback=feedback(corpus, scores),
    )


def thresholds(corpus: Sequence[Labelled], scores: Scores) -> F64:
    """Quantiles of all scores that count, rising, (T,); equal ones once. Raises: BadInput when no row counts."""
    pooled = np.concatenate([ranked(scores[one.series.name])[one.counts] for one in corpus])
    if not len(pooled):
        raise BadInput("expected series with rows that count, got none")
    shares = np.logspace(np.log10(SHARE_MOST), np.log10(SHARE_LEAST), THRESHOLDS)
    return np.unique(np.quantile(pooled, 1 - shares))


def counts(corpus: Sequence[Labelled], scores: Scores, ladders: F64) -> Counts:
    """What is found and what is false at thresholds of each series, (S, T)."""
    found, false = np.zeros(ladders.shape), np.zeros(ladders.shape)
    for k, one in enumerate(corpus):
        score = scores[one.series.name]
        if len(score) != len(one.counts):
            raise BadInput(f"{one.series.name}: expected {len(one.counts)} scores, got {len(score)}")
        found[k], false[k] = _count(one, ranked(score), ladders[k])
    return Counts(found, false, np.array([float(len(one.first)) for one in corpus]))


def f1(found: F64, false: F64, events: float) -> F64:
    """Harmonic mean of precision and recall of events."""
    precision, recall = found / np.maximum(found + false, TINY), found / max(events, TINY)
    return np.asarray(2 * precision * recall / np.maximum(precision + recall, TINY))


def feedback(corpus: Sequence[Labelled], scores: Scores, shrinkage: float = 0.0) -> Feedback:
    """Move the threshold of each series by the verdicts on its first half of the rows that count; score the second.

    One threshold for all series comes from the first halves. Then every series takes the factor that serves the F1 of
    all first halves together best. `shrinkage` is what a factor of e must gain, in found events, to be taken.
    """
    first = [_part(one, 0, _middle(one)) for one in corpus]
    second = [_part(one, _middle(one), len(one.counts)) for one in corpus]
    ladder = thresholds(first, scores)
    known = counts(first, scores, np.broadcast_to(ladder, (len(corpus), len(ladder))))
    moved = np.broadcast_to(ladder[int(known.f1().argmax())] * np.exp(SHIFTS), (len(corpus), len(SHIFTS)))
    chosen = shifts(counts(first, scores, moved), shrinkage)
    later = counts(second, scores, moved)
    return Feedback(float(later.f1()[len(SHIFTS) // 2]), _f1_of(later, chosen))


def shifts(known: Counts, shrinkage: float = 0.0) -> I64:
    """Which of the SHIFTS each series takes, (S,): those that maximise the F1 of all together.

    Among equals the smallest move counts, and of two such ones the one to the higher threshold.
    Source: Dinkelbach, On Nonlinear Fractional Programming, 1967: F1 is a ratio of sums over series, so for a ratio
    that is given the choices of the series are independent, and the ratio rises until it stays.
    """
    nearest = np.lexsort((-SHIFTS, np.abs(SHIFTS)))
    following = np.full(len(known.events), nearest[0])
    chosen, ratio, higher = following, -1.0, _f1_of(known, following)
    while higher > ratio:
        chosen, ratio = following, higher
        worth = known.found - ratio / 2 * (known.found + known.false) - shrinkage * np.abs(SHIFTS)
        # Sums with the ratio in them differ in their last digits where they are equal.
        following = nearest[np.argmax(np.round(worth[:, nearest], 9), axis=1)]
        higher = _f1_of(known, following)
    return chosen


def _f1_of(table: Counts, chosen: I64) -> float:
    """F1 of all series together when each has its own column, chosen (S,)."""
    each = np.arange(len(chosen))
    return float(f1(table.found[each, chosen].sum(), table.false[each, chosen].sum(), float(table.events.sum())))


def _count(one: Labelled, score: F64, ladder: F64) -> tuple[F64, F64]:
    """(found events, false alarms) at each threshold."""
    peaks = np.full(len(one.first), -np.inf)
    for k, (a, b) in enumerate(zip(one.first.tolist(), one.last.tolist(), strict=True)):
        window = slice(max(0, a - EARLY), b + LATE + 1)
        peaks[k] = score[window].max(initial=-np.inf, where=one.counts[window])
    far = np.flatnonzero(one.counts & ~one.near)
    false = [_alarms(far[score[far] >= threshold], one.quiet) for threshold in ladder]
    return (peaks[:, None] >= ladder).sum(0).astype(float), np.array(false, float)


def _alarms(at: I64, quiet: int) -> int:
    """Alarms of rising rows: each one is followed by quiet, then a score that is still high is the next one.

    So what alarms always pays for all the time; joining rows without a limit would reward it.
    """
    alarms, k = 0, 0
    while k < len(at):
        alarms += 1
        k = int(np.searchsorted(at, at[k] + quiet))
    return alarms


def _crossed(table: Counts) -> float:
    """Mean F1 over random halvings, each half of the series at the best threshold of the other."""
    total, size = 0.0, len(table.events)
    for seed in range(SEEDS):
        order = np.random.default_rng(seed).permutation(size)
        one, other = order[: size // 2], order[size // 2 :]
        found = false = 0.0
        for chosen_on, applied_to in ((one, other), (other, one)):
            k = int(table.f1(chosen_on).argmax())
            found += table.found[applied_to, k].sum()
            false += table.false[applied_to, k].sum()
        total += float(f1(np.asarray(found), np.asarray(false), float(table.events.sum())))
    return total / SEEDS


def _auc_pr(corpus: Sequence[Labelled], scores: Scores) -> float:
    """Mean average precision of rows over the series that have anomalous ones; NaN when none has."""
    from sklearn.metrics import average_precision_score

    each = [
        average_precision_score(one.anomalous[one.counts], ranked(scores[one.series.name])[one.counts])
        for one in corpus
        if one.anomalous.any()
    ]
    return float(np.mean(each)) if each else float("nan")


def _middle(one: Labelled) -> int:
    """The row that halves those that count."""
    rows = np.flatnonzero(one.counts)
    return int(rows[len(rows) // 2]) if len(rows) else len(one.counts)


def _part(one: Labelled, begin: int, end: int) -> Labelled:
    """Only rows from `begin` to before `end` count, and the events that start there."""
    place = np.arange(len(one.counts))
    inside = (one.first >= begin) & (one.first < end)
    counts = one.counts & (place >= begin) & (place < end)
    return replace(one, first=one.first[inside], last=one.last[inside], counts=counts)
