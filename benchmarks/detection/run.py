"""One row of the table for each detector: its scores on all series, judged by the frozen protocol."""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.detection import cloud, nab, ours
from benchmarks.detection.ours import Scored
from benchmarks.detection.peers import PEERS
from benchmarks.detection.series import Series
from otel_aiops.errors import BadInput
from otel_aiops.pipeline import PipelineConfig

OURS = "otel-aiops"
DETECTORS = (OURS, *PEERS)
TRIED = Path(__file__).parent / "TRIED.md"
NAB_FOLDER, CLOUD_FOLDER = "nab", "cloud_monitoring"
COLUMNS = (
    *("NAB std", "low FP", "low FN", "2-fold", "held"),
    *("F1*", "F1cv", "R@wk", "AUC-PR", "feedback", "from", "µs/point", "B/series"),
)


@dataclass(frozen=True, slots=True)
class Corpora:
    """The labelled series; a corpus that is not there is empty."""

    nab: Sequence[nab.File]
    cloud: Sequence[cloud.Labelled]

    @property
    def series(self) -> list[Series]:
        """All of them."""
        return [file.series for file in self.nab] + [one.series for one in self.cloud]

    @property
    def rows(self) -> int:
        """Rows of all of them."""
        return sum(len(one.value) for one in self.series)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time of a point and bytes that are held for a series."""

    us_per_point: float
    bytes_per_series: float


@dataclass(frozen=True, slots=True)
class Result:
    """A line of the table; figures of a corpus that is not there are None."""

    title: str
    kind: str
    nab: nab.Figures | None
    cloud: cloud.Figures | None
    cost: Cost

    def cells(self) -> list[str]:
        """The figures in the order of COLUMNS."""
        judged, found = self.nab, self.cloud
        left = [""] * 5 if judged is None else [
            *(f"{score:.1f}" for score in judged.official.values()),
            f"{judged.two_fold['standard']:.1f}",
            f"{judged.held['standard']:.1f}",
        ]  # fmt: skip
        middle = [""] * 6 if found is None else [
            f"{figure:.3f}"
            for figure in (
                found.f1_best, found.f1_cross, found.recall_week, found.auc_pr,
                found.feedback.after, found.feedback.before,
            )
        ]  # fmt: skip
        return [*left, *middle, f"{self.cost.us_per_point:.2f}", f"{self.cost.bytes_per_series:,.0f}"]


def load(data: Path) -> Corpora:
    """The corpora that lie under a folder. Raises: BadInput when there is none."""
    nab_root, cloud_root = data / NAB_FOLDER, data / CLOUD_FOLDER
    if not nab_root.is_dir() and not cloud_root.is_dir():
        raise BadInput(f"{data}: expected a folder {NAB_FOLDER} or {CLOUD_FOLDER} in it, there is neither")
    return Corpora(
        nab.load(nab_root) if nab_root.is_dir() else [],
        cloud.load(cloud_root) if cloud_root.is_dir() else [],
    )


def score_corpus(detector: str, corpus: Sequence[Series], config: PipelineConfig) -> tuple[Scored, Cost]:
    """Scores of a detector by name on all series, and what they cost; `config` is for ours only."""
    if detector == OURS:
        return ours.score_corpus(corpus, config), Cost(*ours.cost(corpus, config))
    began, scores, held = time.process_time(), {}, 0
    for one in corpus:
        scores[one.name], size = PEERS[detector].score(one)
        held += size
    took = time.process_time() - began
    rows = sum(len(one.value) for one in corpus)
    return Scored(scores, scores), Cost(took / rows * 1e6, held / len(corpus))


def results(detector: str, corpora: Corpora, config: PipelineConfig) -> Iterator[Result]:
    """The lines of a detector: two of ours, because on NAB the alert logic may count and is not what peers have."""
    scored, cost = score_corpus(detector, corpora.series, config)
    if detector == OURS:
        yield judge(corpora, scored, cost, OURS, "NAB by alert_score")
        yield judge(corpora, Scored(scored.score, scored.score), cost, OURS, "NAB by anomaly_score")
    else:
        yield judge(corpora, scored, cost, PEERS[detector].title, PEERS[detector].kind)


def judge(corpora: Corpora, scored: Scored, cost: Cost, title: str, kind: str) -> Result:
    """All figures: NAB judges alerts, the cloud-monitoring series are judged by the untouched score."""
    return Result(
        title,
        kind,
        nab.report(corpora.nab, scored.alert) if corpora.nab else None,
        cloud.report(corpora.cloud, scored.score) if corpora.cloud else None,
        cost,
    )


def compare(corpora: Corpora, configs: Sequence[PipelineConfig]) -> Iterator[str]:
    """Sentences about configurations of ours: each alone, and NAB with parameters and threshold from the other half."""
    candidates = []
    for number, config in enumerate(configs, 1):
        scored = ours.score_corpus(corpora.series, config)
        result = judge(corpora, scored, Cost(0.0, 0.0), OURS, "")
        candidates.append(scored.alert)
        yield f"configuration {number}: {named(result)}"
    if corpora.nab:
        for name, profile in nab.PROFILES.items():
            score = nab.two_fold(corpora.nab, candidates, profile)
            yield f"NAB {name}, parameters (of {len(configs)}) and threshold from the other half: {score:.2f}"


def named(result: Result) -> str:
    """The figures of a line with their names, without the costs."""
    pairs = zip(COLUMNS[:-2], result.cells()[:-2], strict=True)
    return ", ".join(f"{name} {cell}" for name, cell in pairs if cell)


def missing(detector: str) -> str | None:
    """The package that a detector needs and that is not installed."""
    package = PEERS[detector].package if detector in PEERS else "numpy"
    return None if importlib.util.find_spec(package) else package


def table(lines: Iterable[Result]) -> Iterator[str]:
    """The table in Markdown, line by line as they come."""
    yield f"| {'detector':28} | {'what':20} | " + " | ".join(f"{name:>8}" for name in COLUMNS) + " |"
    yield "|---|---|" + "--:|" * len(COLUMNS)
    for line in lines:
        yield f"| {line.title:28} | {line.kind:20} | " + " | ".join(f"{cell:>8}" for cell in line.cells()) + " |"


def tried(text: str) -> int:
    """How many configurations were tried: the sum of the numbers in the last column of a Markdown table."""
    return sum(int(number.replace(",", "")) for number in re.findall(r"\|\s*([\d,]+)\s*\|\s*$", text, re.MULTILINE))
