"""Preview: how many alerts recorded telemetry would have had, and how many anomalies with and without policies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from otel_aiops.batch.progress import Progress, Show
from otel_aiops.detect.scorer import Scored
from otel_aiops.labels import Labels
from otel_aiops.pipeline import Pipeline, PipelineConfig, Step
from otel_aiops.series.files import bodies, find
from otel_aiops.watch import Watch

DAY_NS = 86_400_000_000_000

Group = tuple[str, tuple[str, ...]]  # metric, and the policies that its series have


@dataclass(frozen=True, slots=True)
class Line:
    """What became of the series of a metric that have the same policies.

    Anomalies are times that a series went over its threshold. Alerts are what the budget would have paid for: the first
    of a service within minutes.
    """

    metric: str
    policies: tuple[str, ...]
    series: int
    anomalies_without_policies: int
    anomalies: int
    alerts: int


@dataclass(frozen=True, slots=True)
class Preview:
    """Anomalies and alerts of the last `days` of a recording, by metric and policies, those with most of them first."""

    days: float
    series: int
    anomalies_without_policies: int
    anomalies: int
    alerts: int
    lines: tuple[Line, ...]

    def json(self) -> str:
        """For machines."""
        return json.dumps(asdict(self), indent=2)


def preview(
    paths: Iterable[Path], config: PipelineConfig, *, days: float | None = None, progress: Show | None = None
) -> Preview:
    """Run files through two pipelines, one without policies, and count the alerts of the last days, or of all.

    What comes before these days is learned from. The rule for rates of few events holds in both pipelines, as it
    does by default. Raises: BadInput that names the file, the row or line, what was expected and what came.
    """
    files = find(paths)
    ruled, plain = _Count(config), _Count(replace(config, policies=()))
    counts = (ruled, plain) if config.policies else (ruled,)
    show, now_ns, done = Progress(progress), 0, dict.fromkeys(files, 0.0)
    for body in bodies(files):
        now_ns, done[body.path] = max(now_ns, body.now_ns), body.done_ratio
        if not len(body.points):
            continue
        for count in counts:
            count.follow(count.pipeline.metrics(body.points, now_ns=now_ns))
        show(sum(done.values()), float(len(files)), lambda: f"{len(ruled.alerts)} alerts")
    last_ns = ruled.pipeline.event_ns
    since_ns = last_ns - round(days * DAY_NS) if days is not None else 0
    covered = (last_ns - max(since_ns, ruled.first_ns)) / DAY_NS
    return _lines(ruled, plain if config.policies else ruled, since_ns, covered)


def _lines(ruled: _Count, plain: _Count, since_ns: int, days: float) -> Preview:
    """Both counts side by side."""
    before, after, alerts = (
        Counter(ruled.groups[series] for series, at_ns in found if at_ns >= since_ns and series in ruled.groups)
        for found in (plain.anomalies, ruled.anomalies, ruled.alerts)
    )
    lines = [
        Line(*group, series, before[group], after[group], alerts[group])
        for group, series in Counter(ruled.groups.values()).items()
    ]
    lines.sort(key=lambda one: (-one.alerts, -one.anomalies_without_policies, -one.anomalies, one.metric, one.policies))
    return Preview(days, len(ruled.groups), before.total(), after.total(), alerts.total(), tuple(lines))


class _Count:
    """A pipeline, its series, and when anomalies and alerts opened."""

    def __init__(self, config: PipelineConfig) -> None:
        self.pipeline = Pipeline(config)
        self.anomalies: set[tuple[int, int]] = set()  # fingerprint, time
        self.alerts: set[tuple[int, int]] = set()
        self.groups: dict[int, Group] = {}  # by fingerprint
        self.first_ns = 0
        self._watch = Watch(self.pipeline.engine.channels, lambda scored, k: "")
        self._known = np.zeros(0, np.uint64)  # fingerprint by row, of those that have a group

    def follow(self, step: Step) -> None:
        self.first_ns = self.first_ns or step.event_ns
        self._watch.follow(step)
        for scored in step.batches():
            self._take(scored)

    def _take(self, scored: Scored) -> None:
        rows = scored.batch.rows
        prints = self.pipeline.table.fingerprint(rows)
        need = int(rows.max(initial=-1)) + 1
        if need > len(self._known):
            self._known = np.append(self._known, np.zeros(max(need, 1024), np.uint64))
        for k in np.flatnonzero((self._known[rows] != prints) & (prints != 0)).tolist():
            self.groups[int(prints[k])] = self._group_of(int(rows[k]))
        self._known[rows] = prints
        with np.errstate(invalid="ignore"):
            over = np.flatnonzero(scored.scores.score >= 1)
        for k in over.tolist():
            anomaly = self._watch.anomaly(int(rows[k]))
            if anomaly is not None:
                self.anomalies.add((int(prints[k]), anomaly.since_ns))
        if scored.alerted is not None:
            for k in np.flatnonzero(scored.alerted.counted).tolist():
                self.alerts.add((int(prints[k]), int(scored.batch.time_ns[k])))

    def _group_of(self, row: int) -> Group:
        labels: Labels = self.pipeline.table.labels(row)
        name = f"{labels.name}:{labels.stat}" if labels.stat else labels.name
        return name, self.pipeline.scorer.policies.names(row)
