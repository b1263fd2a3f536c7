"""Replay: recorded telemetry through the pipeline in the order of event time, and what it would have flagged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from otel_aiops.batch.progress import Progress, Show
from otel_aiops.detect.scorer import Scored
from otel_aiops.otlp.points import I32, Bool
from otel_aiops.pipeline import Pipeline, Step
from otel_aiops.series.files import Body, bodies, find
from otel_aiops.watch import Anomaly, Watch

KEPT = 10_000  # anomalous series that are told of, the strongest

NEWS = ("created", "gap", "reclaimed", "reset", "stale")  # counts of a step that say nothing of points left out
WORDS = {
    "absent": "without a finite value or a time",
    "bad_attributes": "with attributes that are not valid",
    "duplicate": "at the same time as one before",
    "future": "too far ahead",
    "ignored": "ignored by name",
    "late": "older than one before",
    "oversized": "with labels over the limit",
    "own": "of otel-aiops itself",
    "refused": "of series over the limit",
    "unknown_end": "that end a series never seen",
}


@dataclass(frozen=True, slots=True)
class Found:
    """The strongest anomaly of a series: from when to when, how strong at its peak, and why then."""

    series: str
    since_ns: int
    until_ns: int
    peak: float
    reason: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What a replay has seen. `found` is one anomaly for each anomalous series, the strongest first."""

    files: int
    bodies: int
    points: int
    scored: int
    series: int
    warm_ratio: float
    first_ns: int
    last_ns: int
    opened: int
    anomalous: int
    found: tuple[Found, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)  # points by why they were not scored

    def text(self, *, top: int = 10) -> str:
        """For people; lists at most `top` series."""
        span = f", {moment(self.first_ns)} to {moment(self.last_ns)}" if self.points else ""
        lines = [
            f"files      {self.files} with {self.bodies} bodies{span}",
            f"points     {self.points}, values scored {self.scored}",
            f"series     {self.series}, warm {100 * self.warm_ratio:.0f} %",
            f"anomalies  {self.opened} in {self.anomalous} series",
        ]
        if self.skipped:
            lines.append("skipped    " + ", ".join(f"{count} {why}" for why, count in self.skipped.items()))
        for one in self.found[:top]:
            lines.append(f"\n{one.peak:7.2f}  {one.series}\n         {moment(one.since_ns)} to {moment(one.until_ns)}")
            if one.reason:
                lines.append(f"         {one.reason}")
        if top and self.anomalous > top:
            lines.append(f"\nand {self.anomalous - min(top, len(self.found))} series more; --top shows more of them")
        return "\n".join(lines)


def replay(paths: Iterable[Path], pipeline: Pipeline, *, progress: Show | None = None) -> Summary:
    """Feed the pipeline what the files hold, each body received when its newest point was made.

    Raises: BadInput that names the file, the row or line, what was expected and what came.
    """
    files = find(paths)
    show, tally = Progress(progress), _Tally(pipeline)
    sizes = {path: max(1, path.stat().st_size) for path in files}
    done, total = 0.0, float(sum(sizes.values()))
    read = dict.fromkeys(files, 0.0)
    now_ns = 0
    for body in bodies(files):
        now_ns = max(now_ns, body.now_ns)
        tally.follow(body, pipeline.metrics(body.points, now_ns=now_ns) if len(body.points) else None)
        done += (body.done_ratio - read[body.path]) * sizes[body.path]
        read[body.path] = body.done_ratio
        show(done, total, tally.text)
    return tally.summary(len(files))


def moment(time_ns: int) -> str:
    """A time for people.

    >>> moment(1_700_000_000_500_000_000)
    '2023-11-14 22:13:20 UTC'
    """
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


class _Tally:
    """Adds up what steps did."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._watch = Watch(pipeline.engine.channels, pipeline.reason)
        self._found: dict[int, Found] = {}  # by fingerprint
        self._weakest = 0.0  # peak of the weakest that is kept, once there are many
        self._anomalous: set[int] = set()
        self._series = _Marks()
        self._warm = _Marks()
        self._counts: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._first_ns = 0

    def follow(self, body: Body, step: Step | None) -> None:
        self._counts["bodies"] += 1
        if body.rejected:
            self._skipped["not valid"] += body.rejected
        if step is None:
            return
        if not self._first_ns:
            self._first_ns = int(body.points.time_ns.min())
        counts = Counter(step.counts)
        self._counts["points"] += len(body.points)
        self._counts["scored"] += counts.pop("scored", 0)
        for name in NEWS:
            counts.pop(name, None)
        self._skipped.update(counts)
        self._watch.follow(step)
        for scored in step.batches():
            self._take(scored)

    def text(self) -> str:
        return f"{self._counts['points']} points, {self._series.count} series, {len(self._anomalous)} anomalous"

    def summary(self, files: int) -> Summary:
        """Everything so far."""
        return Summary(
            files=files,
            bodies=self._counts["bodies"],
            points=self._counts["points"],
            scored=self._counts["scored"],
            series=self._series.count,
            warm_ratio=self._warm.count / max(1, self._series.count),
            first_ns=self._first_ns,
            last_ns=self._pipeline.event_ns,
            opened=self._watch.opened,
            anomalous=len(self._anomalous),
            found=tuple(sorted(self._found.values(), key=lambda one: (-one.peak, one.since_ns, one.series))),
            skipped={WORDS.get(name, name): count for name, count in sorted(self._skipped.items()) if count},
        )

    def _take(self, scored: Scored) -> None:
        score = scored.scores.score
        self._series.mark(scored.batch.rows)
        self._warm.mark(scored.batch.rows[~np.isnan(score)])
        with np.errstate(invalid="ignore"):
            over = scored.batch.rows[score >= 1]
        if not len(over):
            return
        prints = self._pipeline.table.fingerprint(over).tolist()
        for row, fingerprint in zip(over.tolist(), prints, strict=True):
            anomaly = self._watch.anomaly(row)
            if anomaly is not None:
                self._keep(row, fingerprint, anomaly)

    def _keep(self, row: int, fingerprint: int, anomaly: Anomaly) -> None:
        """Remember the strongest anomaly of a series; of its peak also why."""
        self._anomalous.add(fingerprint)
        old = self._found.get(fingerprint)
        if old is not None and old.since_ns == anomaly.since_ns:
            at_peak = anomaly.score >= anomaly.peak and anomaly.reason
            reason = anomaly.reason if at_peak else old.reason
            self._found[fingerprint] = replace(old, until_ns=anomaly.time_ns, peak=anomaly.peak, reason=reason)
        elif anomaly.peak > (old.peak if old else self._weakest):
            name = old.series if old else str(self._pipeline.table.labels(row))
            self._found[fingerprint] = Found(name, anomaly.since_ns, anomaly.time_ns, anomaly.peak, anomaly.reason)
        if len(self._found) >= 2 * KEPT:
            strongest = sorted(self._found.items(), key=lambda item: -item[1].peak)[:KEPT]
            self._found, self._weakest = dict(strongest), strongest[-1][1].peak


class _Marks:
    """Rows that were seen, and how many."""

    def __init__(self) -> None:
        self.count = 0
        self._seen: Bool = np.zeros(0, bool)

    def mark(self, rows: I32) -> None:
        """Rows of one batch: no row stands twice."""
        need = int(rows.max(initial=-1)) + 1
        if need > len(self._seen):
            seen = np.zeros(max(need, 2 * len(self._seen)), bool)
            seen[: len(self._seen)] = self._seen
            self._seen = seen
        self.count += int((~self._seen[rows]).sum())
        self._seen[rows] = True
