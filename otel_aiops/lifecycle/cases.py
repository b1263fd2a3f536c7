"""Frozen cases: points around what somebody judged, kept for ever, so that no later version goes wrong there again."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otel_aiops.detect.lessons import Verdict
from otel_aiops.detect.verdicts import DUPLICATE, EXPECTED, FALSE_ALERT, KINDS
from otel_aiops.errors import StateError
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.manifest import canonical
from otel_aiops.lifecycle.play import Beginning, watch
from otel_aiops.otlp.points import F64, I64
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.archive import Points
from otel_aiops.series.disk import make_directory, storage_errors, whole_file

FORMAT = 1
ID = re.compile(r"[0-9a-f]{16}")
QUIET = (KINDS[FALSE_ALERT], KINDS[EXPECTED])  # no alert is wanted; of a duplicate any answer is right
BEFORE_NS = 2 * 86_400_000_000_000  # of the points that are kept
AFTER_NS = 3_600_000_000_000
NEAR_NS = 600_000_000_000  # an alert so near to the time is the one that was judged
LEAST_POINTS = 60  # before the time, or nothing could be said
MOST_CASES = 1_000  # that are looked at, the newest


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What somebody said of a series at a time. `id` is the hash of the rest but `by`, `note` and `given_ns`."""

    id: str
    series: str
    time_ns: int
    kind: str  # of KINDS of verdicts
    sha256: str  # of the points
    by: str = ""
    note: str = ""
    given_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """Whether a version does right at a case: an alert where it was true or missed, none where it was false or wanted.

    `peak` is the largest alert score near the time, in thresholds.
    """

    id: str
    series: str
    time_ns: int
    kind: str
    right: bool
    peak: float


class Cases:
    """The cases below a folder, each a description and its points. Written once and never changed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def of(cls, data_directory: Path) -> Cases:
        """Those of the data directory of a service."""
        return cls(data_directory / "lifecycle" / "cases")

    def freeze(self, series: str, verdict: Verdict, time_ns: I64, value: F64) -> Case | None:
        """Keep what somebody judged with the points around it, (N,) each in the order of time.

        None when there are too few points before it. The same again is the same case. Raises: StorageError.
        """
        near = (time_ns >= verdict.time_ns - BEFORE_NS) & (time_ns <= verdict.time_ns + AFTER_NS)
        if not series or (time_ns[near] < verdict.time_ns).sum() < LEAST_POINTS:
            return None
        file = io.BytesIO()
        np.savez(file, time_ns=time_ns[near].astype(np.int64), value=value[near].astype(np.float64))
        data = file.getvalue()
        sha256 = hashlib.sha256(data).hexdigest()
        name = _id(series, verdict.time_ns, verdict.kind, sha256)
        made = Case(
            id=name,
            series=series,
            time_ns=verdict.time_ns,
            kind=verdict.kind,
            sha256=sha256,
            by=verdict.by,
            note=verdict.note,
            given_ns=verdict.given_ns,
        )
        path = self._directory / f"{name}.json"
        with storage_errors(f"writing a case to {self._directory}"):
            make_directory(self._directory)
            if not path.exists():
                with whole_file(self._directory / f"{name}.npz") as out:
                    out.write(data)
                with whole_file(path) as out:  # last: points without a description are no case
                    out.write(json.dumps({"format": FORMAT, **asdict(made)}, indent=1, sort_keys=True).encode())
        return made

    def list(self) -> list[Case]:
        """All cases by time. Raises: StateError when one was changed."""
        paths = [path for path in self._directory.glob("*.json") if ID.fullmatch(path.stem)]
        return sorted(map(_read, paths), key=lambda one: (one.time_ns, one.id))

    def points(self, case: Case) -> tuple[I64, F64]:
        """The points of a case, in the order of time. Raises: StateError when they were changed."""
        path = self._directory / f"{case.id}.npz"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StateError(f"{path} cannot be read: {error}") from error
        if hashlib.sha256(data).hexdigest() != case.sha256:
            raise StateError(f"{path}: expected SHA-256 {case.sha256}: it was changed")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return file["time_ns"], file["value"]


def freeze_verdicts(cases: Cases, verdicts: Sequence[tuple[str, Verdict]], points: Points, texts: Sequence[str]) -> int:
    """Make cases of verdicts on series whose points are given; returns how many are new."""
    code_of = {text: code for code, text in enumerate(texts)}
    known = {(one.series, one.time_ns, one.kind) for one in cases.list()}
    new = 0
    for series, verdict in verdicts:
        if series in code_of and (series, verdict.time_ns, verdict.kind) not in known:
            mine = points.code == code_of[series]
            new += cases.freeze(series, verdict, points.time_ns[mine], points.value[mine]) is not None
    return new


def look(
    cases: Cases, beginning: Beginning, config: PipelineConfig, threshold: float, until_ns: int
) -> tuple[CaseResult, ...]:
    """Whether a detector does right at the newest cases, at a threshold in alert scores.

    What a version learned before the points of a case begin (`until_ns`) it begins with; else it learns from the points
    of the case alone, since it may have learned from the case itself.
    """
    return tuple(_result(cases, one, beginning, config, threshold, until_ns) for one in cases.list()[-MOST_CASES:])


def _result(
    cases: Cases, case: Case, beginning: Beginning, config: PipelineConfig, threshold: float, until_ns: int
) -> CaseResult:
    time_ns, value = cases.points(case)
    knows = beginning.bundle is not None and case.series in beginning.bundle.labels and until_ns <= int(time_ns[0])
    begin = beginning if knows else Beginning(beginning.detection)
    times, worth = watch(value, time_ns, Labels.from_json(case.series), begin, config, case.series)
    peak = float(worth[np.abs(times - case.time_ns) <= NEAR_NS].max(initial=0.0)) / max(threshold, 1e-9)
    return CaseResult(
        id=case.id,
        series=case.series,
        time_ns=case.time_ns,
        kind=case.kind,
        right=case.kind == KINDS[DUPLICATE] or (peak >= 1) != (case.kind in QUIET),
        peak=peak,
    )


def _read(path: Path) -> Case:
    try:
        tree: dict[str, Any] = json.loads(path.read_bytes())
        if (came := tree.pop("format")) != FORMAT:
            raise StateError(f"{path}: expected a case of format {FORMAT}, got {came!r}")
        found = Case(**tree)
        Labels.from_json(found.series)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f"{path}: expected a case as JSON, got {error!r}") from error
    wanted = _id(found.series, found.time_ns, found.kind, found.sha256)
    if found.kind not in KINDS or found.id != path.stem or wanted != found.id:
        raise StateError(f"{path}: its hash does not fit its content: it was changed")
    return found


def _id(series: str, time_ns: int, kind: str, sha256: str) -> str:
    about = {"series": series, "time_ns": time_ns, "kind": kind, "sha256": sha256}
    return hashlib.sha256(canonical(about)).hexdigest()[:16]
