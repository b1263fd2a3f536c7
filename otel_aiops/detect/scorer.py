"""The scorer: the engine between the calendar and the policies, so that every road to scores has the same rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.alerts import DEVIATION_WEIGHT
from otel_aiops.detect.budget import Alerted
from otel_aiops.detect.calendar import Calendar, CalendarConfig
from otel_aiops.detect.detector import JOB, MISSED, Scores
from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.jobs import Jobs, JobsConfig
from otel_aiops.detect.jobtable import Seen
from otel_aiops.detect.jobtimes import Told
from otel_aiops.detect.memory import indices
from otel_aiops.detect.policy import Applied, Policies, PolicyConfig
from otel_aiops.detect.rules import OUTSIDE
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64, I32, Bool
from otel_aiops.series.batch import Batch, Wall

MISSING = 1.01  # the score of the point at which a job has not come


@dataclass(frozen=True, slots=True)
class Scored:
    """A batch with its scores, index by index.

    `applied` says what policies and jobs changed, None for nothing; `told` are the jobs of the points of the channels
    "job" and "missed job"; `alerted` says which points are alerts, None where nobody asked. Where another version than
    the champion serves some of the points, `other` is what it says of all.
    """

    batch: Batch
    scores: Scores
    applied: Applied | None = None
    told: Told | None = None
    alerted: Alerted | None = None
    other: Scored | None = None

    @property
    def untouched(self) -> Scores:
        """The scores before policies and jobs."""
        return self.scores if self.applied is None else self.applied.untouched


class Scorer:
    """Scores first, learns after, from what policies let it learn and with the scores before them.

    Learned state is in `engine` and `jobs` alone. What policies and calendar know of a row follows from its labels and
    the configuration: assign every row when it gets its labels, and all of them after a restore.

    Policies decide which points are over the threshold, then jobs explain some of these. Such a point keeps its score,
    has the channel "job" and is no alert; the engine learns it as the anomaly that it is. A job that does not come
    gives the first point after its time a score of 1.01, in the channel "missed job".
    No job explains a value outside the range that a policy names.
    """

    def __init__(
        self,
        config: EngineConfig,
        policies: Sequence[PolicyConfig] = (),
        calendar: Sequence[CalendarConfig] = (),
        jobs: JobsConfig | None = None,
    ) -> None:
        self.engine = Engine(config)
        self.policies = Policies(policies, threshold=config.threshold)
        # Of several policies the last one counts, of several groups of a calendar the first one.
        zones = [CalendarConfig(match=one.match, tz=one.tz) for one in reversed(policies) if one.tz]
        self._calendar = Calendar((*calendar, *zones))
        self.jobs = Jobs(jobs or JobsConfig(), self._calendar)

    def assign(self, row: int, labels: Labels) -> None:
        """Find policies and calendar of a row that now has these labels."""
        self.policies.assign(row, labels)
        self._calendar.assign(row, labels)

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series start anew."""
        self.unlearn(rows)
        self.policies.forget(rows)
        self._calendar.forget(rows)

    def unlearn(self, rows: I32) -> None:
        """Series that are learned anew; their rules stay."""
        self.engine.forget(rows)
        self.jobs.forget(rows)

    def score(self, batch: Batch) -> Scored:
        """Score K points, then learn from them."""
        if self._calendar:
            kind = self._calendar.day_kind(batch.rows, batch.time_ns)
            local_ns = self._calendar.profile_ns(batch.rows, batch.time_ns)
            batch = replace(batch, wall=Wall(local_ns, kind > 0))
        scores = self.engine.score(batch)
        applied, told = self._explained(batch, self.policies.apply(batch, scores))
        if applied.scores is scores:
            self.engine.learn(batch, scores)
            return Scored(batch, scores)
        self.engine.learn(batch, scores, learnable=applied.learnable, alert=applied.scores.alert)
        return Scored(batch, applied.scores, applied, told)

    def silent(self, batch: Batch, limit_s: F64) -> Scored:
        """Score K streams that have stopped; `interval_s` is for how long, `limit_s` for how long it is usual."""
        scores = self.engine.silent_scores(batch.interval_s, limit_s)
        applied = self.policies.apply(batch, scores)
        return Scored(batch, scores) if applied.scores is scores else Scored(batch, applied.scores, applied)

    def reason(self, scored: Scored, k: int, unit: str = "") -> str:
        """Why point k has its score: the rule that decided, or the engine; asked before anything later is learned."""
        if scored.told is not None and scored.told.some[k]:
            return _words(scored, scored.told, k)
        rule = "" if scored.applied is None else self.policies.words(scored.batch, scored.applied, k, unit)
        return rule or self.engine.reason(scored.batch, scored.scores, k, unit)

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def _explained(self, batch: Batch, applied: Applied) -> tuple[Applied, Told | None]:
        """(what jobs leave of the scores of K points, which jobs that were); then jobs learn from these points."""
        if not self.jobs.config.enabled:
            return applied, None
        scores = applied.scores
        with np.errstate(invalid="ignore"):
            over = (scores.score >= 1) | (scores.alert >= 1)
        awake = self.jobs.awake(batch.rows, batch.time_ns)
        k = indices(over)
        if len(awake):
            k = np.union1d(k, awake)
        if not len(k):
            return applied, None
        part, said = batch.at(k), scores.at(k)
        told = self._told(part, said, applied.learnable[k], applied.reason_code[k] == OUTSIDE)
        if not told.some.any():
            return applied, None
        where, told = k[told.some], told.spread(k, len(batch.rows))
        return replace(applied, scores=_marked(scores, over, where)), told

    def _told(self, batch: Batch, scores: Scores, learnable: Bool, outside: Bool) -> Told:
        """The jobs that explain points that are over the threshold, and those that did not come with the others."""
        jobs, rows, time_ns = self.jobs, batch.rows, batch.time_ns
        with np.errstate(invalid="ignore"):
            over = (scores.score >= 1) | (scores.alert >= 1)
            up = batch.value > scores.expected
        size = np.fmax(scores.score, scores.alert)
        known = jobs.expected(rows, time_ns, up=up, size=size)
        arrived = jobs.arrived(rows, time_ns, batch.value)
        seen = Seen(rows, time_ns, batch.interval_s, up, size, batch.value, scores.expected, ~over)
        # Where nothing may be learned, nobody can know either whether a job came.
        told = jobs.missed(rows, time_ns, np.where(learnable, batch.interval_s, np.inf))
        jobs.observe(seen.at(indices(learnable & (over | arrived.some))))
        told.job[over | np.isnan(scores.score)] = -1
        return told.updated(indices(over & ~outside & known.some), known)


def _marked(scores: Scores, over: Bool, k: NDArray[np.intp]) -> Scores:
    """The scores with those of the points k as jobs leave them: of such over the threshold, and of such where none is.

    What a job explains keeps its score, which says how strange the point is, and is no alert. The arrays of the
    argument are not changed.
    """
    score, alert, channel = scores.score.copy(), scores.alert.copy(), scores.channel.copy()
    score[k] = np.where(over[k], score[k], MISSING)
    alert[k] = np.where(over[k], 0.0, DEVIATION_WEIGHT * MISSING)
    channel[k] = np.where(over[k], np.uint8(JOB), np.uint8(MISSED))
    return replace(scores, score=score, alert=alert, channel=channel)


def _words(scored: Scored, told: Told, k: int) -> str:
    """Why a point has the score that a job gives it."""
    if scored.scores.channel[k] == MISSED:
        return f"Missed: {told.words(k)} did not come."
    return f"Expected, so no alert: {told.words(k)}."
