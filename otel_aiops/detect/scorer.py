"""The scorer: the engine between the calendar and the policies, so that every road to scores has the same rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from otel_aiops.detect.budget import Alerted
from otel_aiops.detect.calendar import Calendar, CalendarConfig
from otel_aiops.detect.detector import Scores
from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.policy import Applied, Policies, PolicyConfig
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64, I32
from otel_aiops.series.batch import Batch, Wall


@dataclass(frozen=True, slots=True)
class Scored:
    """A batch with its scores, index by index.

    `applied` says what policies changed, None for nothing; `alerted` which points are alerts, None where nobody asked.
    """

    batch: Batch
    scores: Scores
    applied: Applied | None = None
    alerted: Alerted | None = None

    @property
    def untouched(self) -> Scores:
        """The scores before policies."""
        return self.scores if self.applied is None else self.applied.untouched


class Scorer:
    """Scores first, learns after, from what policies let it learn and with the scores before them.

    Learned state is in `engine` alone. What policies and calendar know of a row follows from its labels and the
    configuration: assign every row when it gets its labels, and all of them after a restore.
    """

    def __init__(
        self, config: EngineConfig, policies: Sequence[PolicyConfig] = (), calendar: Sequence[CalendarConfig] = ()
    ) -> None:
        self.engine = Engine(config)
        self.policies = Policies(policies, threshold=config.threshold)
        # Of several policies the last one counts, of several groups of a calendar the first one.
        zones = [CalendarConfig(match=one.match, tz=one.tz) for one in reversed(policies) if one.tz]
        self._calendar = Calendar((*calendar, *zones))

    def assign(self, row: int, labels: Labels) -> None:
        """Find policies and calendar of a row that now has these labels."""
        self.policies.assign(row, labels)
        self._calendar.assign(row, labels)

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series start anew."""
        self.engine.forget(rows)
        self.policies.forget(rows)
        self._calendar.forget(rows)

    def score(self, batch: Batch) -> Scored:
        """Score K points, then learn from them."""
        if self._calendar:
            kind = self._calendar.day_kind(batch.rows, batch.time_ns)
            local_ns = self._calendar.profile_ns(batch.rows, batch.time_ns)
            batch = replace(batch, wall=Wall(local_ns, kind > 0))
        scores = self.engine.score(batch)
        applied = self.policies.apply(batch, scores)
        if applied.scores is scores:
            self.engine.learn(batch, scores)
            return Scored(batch, scores)
        self.engine.learn(batch, scores, learnable=applied.learnable, alert=applied.scores.alert)
        return Scored(batch, applied.scores, applied)

    def silent(self, batch: Batch, limit_s: F64) -> Scored:
        """Score K streams that have stopped; `interval_s` is for how long, `limit_s` for how long it is usual."""
        scores = self.engine.silent_scores(batch.interval_s, limit_s)
        applied = self.policies.apply(batch, scores)
        return Scored(batch, scores) if applied.scores is scores else Scored(batch, applied.scores, applied)

    def reason(self, scored: Scored, k: int, unit: str = "") -> str:
        """Why point k has its score: the rule that decided, or the engine; asked before anything later is learned."""
        rule = "" if scored.applied is None else self.policies.words(scored.batch, scored.applied, k, unit)
        return rule or self.engine.reason(scored.batch, scored.scores, k, unit)
