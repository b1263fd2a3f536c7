"""Labelled series split in time, for what is learned on their first part; as a data directory too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection import cloud, nab
from benchmarks.detection.series import DAY_S, Series
from otel_aiops.detect.alerting import Alerting
from otel_aiops.detect.budget import BudgetConfig
from otel_aiops.detect.engine import EngineConfig
from otel_aiops.detect.lessons import Verdict
from otel_aiops.detect.rates import WEEK_S
from otel_aiops.detect.smoothing import Smoothing
from otel_aiops.errors import BadInput
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.objective import CostConfig
from otel_aiops.lifecycle.rehearse import Detection, Forecasting, moments
from otel_aiops.lifecycle.truth import Label
from otel_aiops.otlp.points import F64, I64
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.archive import Points
from otel_aiops.series.rows import Columns
from otel_aiops.series.segments import HOUR_NS, Segments

FIRST_PART = 0.6  # of the rows of a file
SHORT_S = 20 * DAY_S  # longer files are a group of their own
MOST_HISTORY_NS = 48 * 24 * HOUR_NS  # before the split; of longer files the newest part of that
SPLIT_NS = 1_777_816_800_000_000_000  # where the split of every file is put
EARLY_NS = 300_000_000_000  # an alert so soon before an event is about it
MISS = CostConfig().miss / CostConfig().false_alert  # what an event without an alert costs, in budgets of false alerts
LATE_ROWS = 2  # and one so many rows behind it
ANSWERED_NS = HOUR_NS  # after an alert an operator says what it was


@dataclass(frozen=True, slots=True)
class File:
    """N rows of a file, moved in time so that its split is at SPLIT_NS, and its events as (start_ns, end_ns)."""

    name: str
    labels: Labels
    time_ns: NDArray[np.int64]
    value: F64
    events: tuple[tuple[int, int], ...]
    step_s: float

    @property
    def weeks(self) -> float:
        """Of the part behind the split."""
        return float(self.time_ns[-1] - SPLIT_NS) / 1e9 / WEEK_S


@dataclass(frozen=True, slots=True)
class Group:
    """Files of one corpus and of about one length."""

    name: str
    files: tuple[File, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The labels of the files."""
        return tuple(one.labels.to_json() for one in self.files)

    def points(self) -> Points:
        """All of them."""
        code = np.repeat(np.arange(len(self.files), dtype=np.int32), [len(one.value) for one in self.files])
        time_ns = np.concatenate([one.time_ns for one in self.files])
        order = np.lexsort((code, time_ns))
        value = np.concatenate([one.value for one in self.files])
        return Points(code[order], time_ns[order], value[order], len(self.files))

    def truth(self) -> list[Label]:
        """Their events as labels."""
        return [
            Label(start_ns=start, end_ns=end, series=one.labels.to_json())
            for one in self.files
            for start, end in one.events
        ]

    def record(self, directory: Path) -> Segments:
        """A data directory with them."""
        points, texts = self.points(), list(self.texts)
        prints = np.arange(1, len(texts) + 1, dtype=np.uint64)
        segments = Segments(directory / "segments")
        segments.open(0)
        score = np.full(len(points), 0.5, np.float32)
        segments.write(1, 1, Columns(points.code, points.time_ns, points.value, score, texts, prints))
        segments.compact(int(points.time_ns[-1]) + 2 * HOUR_NS, through=1)
        return segments


def groups(root: Path) -> list[Group]:
    """Both corpora in groups. Raises: BadInput where there is none of them."""
    found = []
    if (root / "nab").is_dir():
        files = [_file(one.series, [(a, b) for a, b in one.windows], late=0) for one in nab.load(root / "nab")]
        found += _by_length("nab", files)
    if (root / "cloud_monitoring").is_dir():
        corpus = cloud.load(root / "cloud_monitoring")
        pairs = [list(zip(one.first.tolist(), one.last.tolist(), strict=True)) for one in corpus]
        files = [_file(one.series, events, late=LATE_ROWS) for one, events in zip(corpus, pairs, strict=True)]
        found += _by_length("cloud", files)
    if not found:
        raise BadInput(f"{root}: expected the folders nab or cloud_monitoring, there is none")
    return found


def _by_length(corpus: str, files: Sequence[File]) -> list[Group]:
    length_s = [float(one.time_ns[-1] - one.time_ns[0]) / 1e9 for one in files]
    short = tuple(one for one, span_s in zip(files, length_s, strict=True) if span_s <= SHORT_S)
    long = tuple(_newest(one) for one, span_s in zip(files, length_s, strict=True) if span_s > SHORT_S)
    named = ((f"{corpus}, up to 20 days", short), (f"{corpus}, longer", long))
    return [Group(name, some) for name, some in named if some]


def _file(series: Series, events: Sequence[tuple[int, int]], late: int) -> File:
    step_ns = round(series.step_s * 1e9)
    moved_ns = SPLIT_NS - int(series.time_ns[int(FIRST_PART * len(series.value))]) // HOUR_NS * HOUR_NS
    spans = [(int(series.time_ns[a]), int(series.time_ns[b]) + late * step_ns + 1) for a, b in events]
    fresh = np.append(True, series.time_ns[1:] > np.maximum.accumulate(series.time_ns)[:-1]) & np.isfinite(series.value)
    labels = Labels(_metric(series.name), resource=(("service.name", series.name),))
    moved = tuple((start + moved_ns, end + moved_ns) for start, end in spans)
    return File(series.name, labels, series.time_ns[fresh] + moved_ns, series.value[fresh], moved, series.step_s)


def _metric(name: str) -> str:
    """What files measure, from their names without what tells them apart; verdicts teach those of one metric."""
    return re.split(r"[_-][^_-]*$", Path(name).stem)[0] if "_" in name else Path(name).parent.name


def _newest(file: File) -> File:
    since_ns = SPLIT_NS - MOST_HISTORY_NS
    kept = file.time_ns >= since_ns
    events = tuple(one for one in file.events if one[0] >= since_ns)
    return File(file.name, file.labels, file.time_ns[kept], file.value[kept], events, file.step_s)


# -- the service in small ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    """An alert of the file of a number; `ratio` in thresholds that no verdict has moved."""

    file: int
    time_ns: int
    ratio: float


@dataclass(frozen=True, slots=True)
class Marks:
    """What became of the events and alerts behind the split, by file, all (F,); `delays_s` of those that were found."""

    events: F64
    found: F64
    alerts: F64
    true: F64
    weeks: F64
    delays_s: tuple[float, ...]
    budget: float  # alerts of a file and week

    def of(self, picked: NDArray[np.intp]) -> dict[str, float]:
        """Figures of some files, which may stand there more than once."""
        events, found, alerts, true, weeks = (
            float(getattr(self, name)[picked].sum()) for name in ("events", "found", "alerts", "true", "weeks")
        )
        precision, recall = true / max(alerts, 1.0), found / max(events, 1.0)
        return {
            "cost": MISS * (1 - recall) + (alerts - true) / max(weeks, 1e-9) / self.budget,
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / max(precision + recall, 1e-9),
            "false a week": (alerts - true) / max(weeks, 1e-9),
        }

    @property
    def figures(self) -> dict[str, float]:
        """Of all files."""
        told = self.of(np.arange(len(self.events)))
        return told | {"delay s": float(np.median(self.delays_s)) if self.delays_s else float("nan")}


def run(
    group: Group,
    detection: EngineConfig,
    budget: BudgetConfig,
    *,
    answers: bool = False,
    smoothing: Smoothing | None = None,
) -> list[Opened]:
    """The alerts of a group as the service gives them, score first and learn after, from the first point on.

    `smoothing` are forecasts that were fitted before the split and begin there.
    A file that ends is no outage: the silence behind its last row, while others go on, is left out.
    With `answers` somebody says of every alert before the split, an hour after it came, whether it was about an event.
    """
    points, labels = group.points(), [one.labels for one in group.files]
    config = PipelineConfig(detection=detection)
    scorer = Detection(config, labels, Forecasting(config, smoothing) if smoothing else None)
    alerting = Alerting((budget,), budget.budget, lambda rows: rows.astype(np.uint64) + np.uint64(1))
    alerting.assign(np.arange(len(labels), dtype=np.int32), labels)
    found: list[Opened] = []
    waiting: list[Opened] = []
    usual_s = min(one.step_s for one in group.files)
    ends_ns = np.array([one.time_ns[-1] + round(one.step_s * 1e9) for one in group.files])
    for begin, end in moments(points.time_ns, usual_s):
        now_ns = int(points.time_ns[end - 1])
        while waiting and waiting[0].time_ns + ANSWERED_NS <= now_ns:
            _answer(group, waiting.pop(0), alerting)
        some = points.code[begin:end], points.time_ns[begin:end], points.value[begin:end]
        for scored in scorer.step(*some, now_ns=now_ns):
            goes_on = np.flatnonzero(scored.batch.time_ns <= ends_ns[scored.batch.rows])
            batch = scored.batch.at(goes_on)
            alerted = alerting.judge(batch, scored.scores.at(goes_on), event_ns=now_ns)
            for k in np.flatnonzero(alerted.opened).tolist():
                moved = 0.0 if alerted.shift is None else float(alerted.shift[k])
                ratio = float(alerted.ratio[k] * np.exp(moved))
                found.append(Opened(int(batch.rows[k]), int(batch.time_ns[k]), ratio))
                if answers and found[-1].time_ns < SPLIT_NS:
                    waiting.append(found[-1])
        alerting.end(scorer.gone)
    return found


def _answer(group: Group, alert: Opened, alerting: Alerting) -> None:
    real = any(start - EARLY_NS <= alert.time_ns <= end for start, end in group.files[alert.file].events)
    kind = "true_alert" if real else "false_alert"
    verdict = Verdict(series=alert.file + 1, time_ns=alert.time_ns, kind=kind, ratio=alert.ratio, source="alert")
    alerting.learn([verdict], [alert.file])


def marks(group: Group, opened: Sequence[Opened], budget: float) -> Marks:
    """Events that begin behind the split and have an alert in their time, and alerts behind it that have an event."""
    size = len(group.files)
    events, found, alerts, true = (np.zeros(size) for _ in range(4))
    delays: list[float] = []
    for k, file in enumerate(group.files):
        mine = np.array([one.time_ns for one in opened if one.file == k and one.time_ns >= SPLIT_NS], np.int64)
        about = np.zeros(len(mine), bool)
        for start, end in file.events:
            inside = (mine >= start - EARLY_NS) & (mine <= end)
            about |= inside
            if start >= SPLIT_NS:
                events[k] += 1
                if inside.any():
                    found[k] += 1
                    delays.append(float(mine[inside].min() - start) / 1e9)
        alerts[k], true[k] = len(mine), about.sum()
    return Marks(events, found, alerts, true, np.array([one.weeks for one in group.files]), tuple(delays), budget)


def joined(parts: Sequence[Marks]) -> Marks:
    """Those of several groups."""
    names = ("events", "found", "alerts", "true", "weeks")
    each = [np.concatenate([getattr(one, name) for one in parts]) for name in names]
    return Marks(*each, tuple(delay for one in parts for delay in one.delays_s), parts[0].budget)


def gained(
    before: Marks, after: Marks, clusters: I64, figure: str, *, draws: int = 2_000
) -> tuple[float, float, float]:
    """(what a figure gained, the ends of the 90 % interval of that): files drawn again by clusters, in pairs.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    members = [np.flatnonzero(clusters == number) for number in np.unique(clusters)]
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(draws):
        picked = np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
        gains.append(after.of(picked)[figure] - before.of(picked)[figure])
    every = np.arange(len(before.events))
    low, high = np.quantile(gains, (0.05, 0.95))
    return after.of(every)[figure] - before.of(every)[figure], float(low), float(high)
