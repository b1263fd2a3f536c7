"""The data path as one value-to-value road: points in, scores out, with no socket, disk or clock in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.alerting import Alerting
from otel_aiops.detect.budget import BudgetConfig
from otel_aiops.detect.calendar import CalendarConfig
from otel_aiops.detect.detector import PEERS, STOPPED
from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.groups import Groups
from otel_aiops.detect.jobs import JobsConfig
from otel_aiops.detect.joint import GroupScores, JointConfig
from otel_aiops.detect.lessons import Lesson
from otel_aiops.detect.peers import PeersConfig, PeerScores
from otel_aiops.detect.policy import PolicyConfig
from otel_aiops.detect.scorer import Scored, Scorer
from otel_aiops.detect.serving import Load, Present, Rollout, Rules, Serving, owned
from otel_aiops.errors import StateError
from otel_aiops.incidents.alerted import finding_of
from otel_aiops.incidents.analysis import OWN_SCOPES, Analysis, AnalysisConfig
from otel_aiops.incidents.incident import Finding, Incident
from otel_aiops.incidents.precursors import Precursor
from otel_aiops.incidents.suppress import Decision
from otel_aiops.labels import Labels
from otel_aiops.otlp.log_records import LogRecords
from otel_aiops.otlp.points import I32, Points
from otel_aiops.otlp.spans import Spans
from otel_aiops.series.align import Align, AlignConfig
from otel_aiops.series.batch import Batch
from otel_aiops.series.quality import Quality
from otel_aiops.series.table import Rows, SeriesTable, TableConfig
from otel_aiops.signals.deployments import Deployment

Arrays = dict[str, NDArray[Any]]

SILENCE_CHECK_NS = 1_000_000_000  # silence is looked for at most once a second of event time
NO_ROWS = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """What decides the result of the data path; nothing else does."""

    series: TableConfig = field(default_factory=TableConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    detection: EngineConfig = field(default_factory=EngineConfig)
    policies: tuple[PolicyConfig, ...] = ()
    calendar: tuple[CalendarConfig, ...] = ()
    joint: JointConfig = field(default_factory=JointConfig)
    peers: PeersConfig = field(default_factory=PeersConfig)
    jobs: JobsConfig = field(default_factory=JobsConfig)
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    budget: str | float = "1/day"
    budgets: tuple[BudgetConfig, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """What one body did. Readers keep it as long as they like: nothing in it changes later.

    The points of a row stand in `scored` in the order of their times; `silent` are streams that stopped reporting, by
    first row (their value is NaN, their interval the silence); `ended` are rows whose sender said that they end, or
    that have been silent for very long; `reclaimed` rows now belong to other series. `event_ns` is the event clock.
    Once an interval of event time there are `groups`, the scores of services, and `peers`, those of instances beside
    each other; `departed` are the series that differ too much from their peers since now. While they do, their points
    in `scored` have that score where it is higher than their own. `incidents` are new revisions, `deployments` what was
    seen to have changed.
    """

    event_ns: int
    scored: tuple[Scored, ...] = ()
    silent: Scored | None = None
    departed: Scored | None = None
    ended: I32 = field(default_factory=lambda: NO_ROWS)
    reclaimed: I32 = field(default_factory=lambda: NO_ROWS)
    counts: Mapping[str, int] = field(default_factory=dict)
    groups: GroupScores | None = None
    peers: PeerScores | None = None
    incidents: tuple[Incident, ...] = ()
    deployments: tuple[Deployment, ...] = ()

    def batches(self) -> Iterator[Scored]:
        """Everything that has a score, the silent series last."""
        yield from self.scored
        if self.departed is not None:
            yield self.departed
        if self.silent is not None:
            yield self.silent


class Pipeline:
    """Owner of the learned state, with one writer: equal calls in equal order give equal bits.

    Score first, learn after: a point never influences its own score.
    """

    def __init__(self, config: PipelineConfig) -> None:
        self.config = config
        self.table = SeriesTable(config.series)
        self.align = Align(config.align)
        self.quality = Quality()  # counts since the start, no part of the state
        rules = Rules(config.policies, config.calendar, config.jobs, config.budgets, config.budget)
        self.serving = Serving(config.detection, rules, self.table.fingerprint)
        self.groups = Groups(config.joint, config.peers)
        self.analysis = Analysis(config.analysis)
        self._event_ns = 0  # never ahead of the clock of the receiver, never behind what was seen
        self._now_ns = 0
        self._silence_checked_ns = 0

    @property
    def scorer(self) -> Scorer:
        """That of the champion."""
        return self.serving.champion.scorer

    @property
    def engine(self) -> Engine:
        """That of the champion."""
        return self.scorer.engine

    @property
    def alerting(self) -> Alerting:
        """That of the champion."""
        return self.serving.champion.alerting

    @property
    def event_ns(self) -> int:
        """The event clock: the newest time seen, never ahead of the receiver's clock."""
        return self._event_ns

    def metrics(self, points: Points, *, now_ns: int) -> Step:
        """Score the points of one body, then learn from them; `now_ns` is when the body was received."""
        self._advance(now_ns, int(points.time_ns.max()) if len(points) else 0)
        self.analysis.see((stream.resource for stream in points.streams), self._event_ns)
        step = self._take(points, now_ns, self.quality)
        compared = self.groups.step(self._event_ns)
        silent, gone = self._silent()
        departed = self._alerted(Scored(*compared.departed)) if compared.departed else None
        self._end(gone)
        step = replace(step, silent=silent, departed=departed, groups=compared.groups, peers=compared.peers)
        return self._analysed(replace(step, ended=np.concatenate([step.ended, gone])), now_ns)

    def traces(self, spans: Spans, *, now_ns: int) -> Step:
        """Take the spans of one body; what comes of them is scored when their traces are complete."""
        self._advance(now_ns, int(spans.end_ns.max()) if len(spans) else 0)
        self.analysis.take_spans(spans, self._event_ns)
        return self._analysed(Step(event_ns=self._event_ns, counts={"spans": len(spans)}), now_ns)

    def logs(self, records: LogRecords, *, now_ns: int) -> Step:
        """Take the log records of one body."""
        self._advance(now_ns, int(records.time_ns.max()) if len(records) else 0)
        self.analysis.take_logs(records, self._event_ns)
        return self._analysed(Step(event_ns=self._event_ns, counts={"records": len(records)}), now_ns)

    def tick(self, *, now_ns: int) -> Step:
        """Let time pass without data, so that series which stopped are noticed."""
        self._advance(now_ns, 0)
        silent, gone = self._silent()
        self._end(gone)
        return self._analysed(Step(event_ns=self._event_ns, silent=silent, ended=gone), now_ns)

    def decide(self, decision: Decision) -> Step:
        """Do what an operator wants with incidents. Raises: BadInput."""
        return Step(event_ns=self._event_ns, incidents=self.analysis.decide(decision))

    def know(self, findings: Sequence[Finding]) -> Step:
        """Take what others alert about, as evidence for incidents of the same services."""
        self.analysis.alerted.know(findings)
        return Step(event_ns=self._event_ns)

    def foretell(self, models: Sequence[Precursor]) -> Step:
        """Predict incidents by these models of precursors from now on."""
        self.analysis.forewarning.teach(models)
        return Step(event_ns=self._event_ns)

    def learn(self, lesson: Lesson) -> Step:
        """Learn what operators teach; the alerts of later points show it."""
        known = self.serving.learn(lesson.verdicts, [self.table.find(one.series) for one in lesson.verdicts])
        return Step(event_ns=self._event_ns, counts={"verdicts": known})

    def roll(self, order: Rollout, load: Load) -> Step:
        """Change which versions run, between two batches; `load` gives what a version has learned, by id.

        Raises: BadInput, or what `load` raises, and then all is as it was.
        """
        live = self.table.live()
        present = Present(live, self.table.labels_of(live), int(live.max(initial=-1)) + 1)
        self.serving.roll(order, load, present)
        return Step(event_ns=self._event_ns)

    def backfill(self, points: Points, *, now_ns: int) -> Step:
        """Learn the series of these points anew from their past; what the body holds is all that they remember.

        The live alignment stays as it is, so the next live point continues where the last one stopped.
        """
        rows = self.table.rows(points, event_now_ns=self._event_ns)
        self._welcome(rows, inherit=False)
        aligned = Align(self.config.align).step(points, rows, now_ns=now_ns)
        learned = 0
        for model in self.serving.models:
            if aligned.batches:
                model.scorer.unlearn(np.unique(np.concatenate([batch.rows for batch in aligned.batches])))
            learned = sum(len(model.scorer.score(batch).batch.rows) for batch in aligned.batches)
        return Step(event_ns=self._event_ns, reclaimed=rows.reclaimed, counts={"backfilled": learned})

    def state(self) -> Arrays:
        """Everything learned, as arrays that nobody changes later."""
        clock = np.array([self._event_ns, self._now_ns, self._silence_checked_ns], np.int64)
        owners: dict[str, SeriesTable | Align | Groups | Serving | Analysis] = {
            "table": self.table,
            "align": self.align,
            "groups": self.groups,
            "serving": self.serving,
            "analysis": self.analysis,
        }
        arrays = {f"{name}/{key}": value for name, owner in owners.items() for key, value in owner.state().items()}
        return {"pipeline/clock": clock, **arrays}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state; StateError when it does not fit, and then this pipeline must not be used."""
        try:
            self._event_ns, self._now_ns, self._silence_checked_ns = map(int, arrays["pipeline/clock"])
        except (KeyError, ValueError) as error:
            raise StateError(f"expected pipeline/clock with 3 numbers, got {sorted(arrays)[:5]}") from error
        self.table.restore(owned(arrays, "table"))
        self.align.restore(owned(arrays, "align"))
        before = {name: of for name, of in arrays.items() if name.startswith(("engine/", "alerting/", "jobs/"))}
        self.serving.restore(owned(arrays, "serving") or before)
        self.analysis.restore(owned(arrays, "analysis"))
        live = self.table.live()
        labels = self._labels_of(live)
        self._assign(live, labels)
        self.quality.welcome(live, labels, self.table.temporality(live), told=False)
        if not self.groups.restore(owned(arrays, "groups")):
            self._enlist(live, self.table.labels_of(live), inherit=False)

    def reason(self, scored: Scored, k: int) -> str:
        """Why point k has its score, in one plain sentence; asked before anything later is learned."""
        row = int(scored.batch.rows[k])
        unit = self.table.labels(row).unit
        said = self.groups.reason(row, unit) if scored.scores.channel[k] == PEERS else None
        model = self.serving.of(row)
        own = scored if model is self.serving.champion or scored.other is None else scored.other
        return said or model.reason(own, k, unit)

    def note(self, row: int) -> str:
        """What there is to say about a series that is not anomalous."""
        jobs = self.scorer.jobs.note(row)
        note = self.engine.note(row, lambda source: str(self.table.labels(source)))
        return f"{note} Known jobs: {jobs}." if jobs else note

    def _take(self, points: Points, now_ns: int, quality: Quality | None = None) -> Step:
        """Score the points of one body, or those that were made of spans and records."""
        rows = self.table.rows(points, event_now_ns=self._event_ns)
        self._welcome(rows)
        aligned = self.align.step(points, rows, now_ns=now_ns, quality=quality)
        scored = tuple(self._score(batch) for batch in aligned.batches)
        self._end(aligned.ended)
        counts = {**aligned.counts, **rows.counts, "scored": sum(len(s.batch.rows) for s in scored)}
        reclaimed = rows.reclaimed
        return Step(event_ns=self._event_ns, scored=scored, ended=aligned.ended, reclaimed=reclaimed, counts=counts)

    def _analysed(self, step: Step, now_ns: int) -> Step:
        """With what the analysis makes of everything so far: more points, which are scored too, and incidents."""
        outcome = self.analysis.step(self._event_ns)
        for points in outcome.points:
            step = _with(step, self._take(points, now_ns))
        return replace(step, incidents=outcome.incidents, deployments=outcome.deployments)

    def _end(self, rows: I32) -> None:
        """Rows whose series are over have no alert any more."""
        self.serving.end(rows)
        self.analysis.alerted.ended(rows)

    def _score(self, batch: Batch) -> Scored:
        scored = self.serving.score(batch, self.groups, event_ns=self._event_ns)
        self.analysis.measure(scored.batch)
        self.analysis.alerted.take(scored, self._finding)
        return scored

    def _alerted(self, scored: Scored) -> Scored:
        """With what the points are to operators; the scores stay as they are."""
        scored = self.serving.judged(scored, event_ns=self._event_ns)
        self.analysis.alerted.take(scored, self._finding)
        return scored

    def _finding(self, scored: Scored, k: int) -> Finding | None:
        """The alert of point k, in the words of incidents; None for what is made of spans and records, which are
        looked at themselves.
        """
        labels = self.table.labels(int(scored.batch.rows[k]))
        if labels.scope_name.startswith(OWN_SCOPES):
            return None
        return finding_of(
            labels,
            f"{int(self.table.fingerprint(scored.batch.rows[k : k + 1])[0]):016x}",
            time_ns=int(scored.batch.time_ns[k]),
            before=float(scored.scores.expected[k]),
            after=float(scored.batch.value[k]),
            silent=scored.scores.channel[k] == STOPPED,
            why=self.reason(scored, k),
        )

    def _welcome(self, rows: Rows, *, inherit: bool = True) -> None:
        """Forget the rows that lost their series, then see what is known of the new ones."""
        if len(rows.reclaimed):
            self.align.forget(rows.reclaimed)
            self.serving.forget(rows.reclaimed)
            self.groups.forget(rows.reclaimed)
            self.analysis.forget(rows.reclaimed)
            self.quality.forget(rows.reclaimed)
        if len(rows.new):
            labels = self.table.labels_of(rows.new)
            self.analysis.welcome(rows.new, labels, self.table.fingerprint(rows.new), self._event_ns)
            self.quality.welcome(rows.new, labels, self.table.temporality(rows.new), told=True)
            self._assign(rows.new, labels)
            self.serving.welcome(rows.new, labels)
            self._enlist(rows.new, labels, inherit=inherit)

    def _enlist(self, rows: I32, labels: Sequence[Labels], *, inherit: bool) -> None:
        """Put new series into their groups, and let them begin with what the most typical peer has learned.

        Those without peers begin with what versions were trained to expect of such series.
        """
        if not len(rows):
            return
        sources = self.groups.enlist(rows, labels) if self.groups.enabled else np.full(len(rows), -1, np.int32)
        found = sources >= 0
        if inherit and found.any():
            self.serving.inherit(rows[found], sources[found])
        if inherit and not found.all():
            self.serving.begin(rows[~found], [labels[k] for k in np.flatnonzero(~found).tolist()])

    def _assign(self, rows: I32, labels: Sequence[Labels]) -> None:
        """Find the rules and budgets of rows: once in the life of a series, not on the way of its points."""
        self.serving.assign(rows, labels)

    def _labels_of(self, rows: I32) -> list[Labels]:
        """Labels as far as rules look at them: attributes take long to read, and decide nothing by default."""
        config = self.config
        return self.table.labels_of(rows, whole=bool(config.policies or config.calendar or config.budgets))

    def _advance(self, now_ns: int, seen_ns: int) -> None:
        """Move the event clock: with the data when it comes, with the receiver's clock when none does.

        A sender whose clock is ahead cannot push it past `now_ns`, or all others would look silent.
        """
        passed = max(0, now_ns - self._now_ns) if self._now_ns and not seen_ns else 0
        self._event_ns = max(self._event_ns, min(seen_ns, now_ns), min(self._event_ns + passed, now_ns))
        self._now_ns = now_ns

    def _silent(self) -> tuple[Scored | None, I32]:
        """(streams that have stopped, rows that have been silent for so long that it is normal)."""
        if self._event_ns - self._silence_checked_ns < SILENCE_CHECK_NS:
            return None, NO_ROWS
        self._silence_checked_ns = self._event_ns
        silence = self.align.silence(self._event_ns)
        if not len(silence.rows):
            return None, silence.gone
        absent = np.full(len(silence.rows), np.nan)
        times = np.full(len(silence.rows), self._event_ns, np.int64)
        batch = Batch(rows=silence.rows, time_ns=times, value=absent, interval_s=silence.silence_s)
        return self._alerted(self.scorer.silent(batch, silence.limit_s)), silence.gone


def _with(step: Step, more: Step) -> Step:
    """A step with the points of another one behind its own."""
    return replace(
        step,
        scored=step.scored + more.scored,
        ended=np.concatenate([step.ended, more.ended]),
        reclaimed=np.concatenate([step.reclaimed, more.reclaimed]),
        counts=dict(Counter(step.counts) + Counter(more.counts)),
    )
