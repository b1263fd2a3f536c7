"""What is known of every series now: its last point and score, and which are anomalous or have an alert, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from otel_aiops.detect.discovery import Crowd
from otel_aiops.detect.joint import GroupScores
from otel_aiops.detect.scorer import Scored
from otel_aiops.otlp.points import I32
from otel_aiops.pipeline import Step

REASONS_A_STEP = 200  # sentences are made for people; in a storm the first ones are enough until the next step
REASON_AGE_NS = 30_000_000_000  # a reason is made anew at most this often while a series stays anomalous
CLOSES_BELOW = 0.8  # an anomaly ends below this score, or after two points in a row below 1

LATEST = np.dtype(
    [
        ("time_ns", "i8"),
        ("value", "f8"),
        ("expected", "f8"),
        ("lower", "f8"),
        ("upper", "f8"),
        ("score", "f4"),
        ("probability", "f4"),
        ("warmup_s", "f4"),
        ("channel", "u1"),
        ("ratio", "f4"),  # of the alert score to the threshold of the series under its budget
        ("alert", "?"),
    ]
)


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A series that is over its threshold. `score` is the newest, `peak` the highest since `since_ns`."""

    row: int
    since_ns: int
    time_ns: int
    value: float
    score: float
    peak: float
    probability: float
    channel: str
    reason: str
    reason_ns: int
    below: int = 0  # points in a row below the threshold


@dataclass(frozen=True, slots=True)
class AlertNote:
    """What made a series have an alert: its strangest point of late, and why that is strange."""

    value: float
    score: float
    channel: str
    reason: str
    reason_ns: int


@dataclass(frozen=True, slots=True)
class Together:
    """The joint score of one group: the k-th of `scores`."""

    scores: GroupScores
    k: int

    @property
    def time_ns(self) -> int:
        """When the group was looked at."""
        return self.scores.time_ns

    @property
    def score(self) -> float:
        """1 is the threshold."""
        return float(self.scores.score[self.k])

    @property
    def rows(self) -> list[int]:
        """The series that contributed most, at least one."""
        return [row for row in self.scores.rows[self.k].tolist() if row >= 0]


class Watch:
    """Follows the steps of the pipeline; holds nothing that recovery needs."""

    def __init__(self, channels: tuple[str, ...], reason: Callable[[Scored, int], str]) -> None:
        self._channels = channels
        self._reason = reason
        self._latest = np.zeros(0, LATEST)
        self._active: dict[int, Anomaly] = {}
        self._is_active = np.zeros(0, bool)
        self._alerts: dict[int, AlertNote] = {}  # of those that have an alert
        self._crowds: dict[int, Crowd] = {}  # the newest, by objective
        self._together: dict[int, Together] = {}  # by group
        self.opened = 0  # anomalies so far

    def follow(self, step: Step) -> None:
        """Take in one step."""
        self._drop(step.reclaimed)
        self._drop_alerts(step.reclaimed)
        self._latest[step.reclaimed[step.reclaimed < len(self._latest)]] = np.zeros((), LATEST)
        budget = REASONS_A_STEP
        for scored in step.batches():
            if len(scored.batch.rows):
                self._grow(int(scored.batch.rows.max()) + 1)
                self._keep(scored)
                budget = self._follow_alerts(scored, self._judge(scored, budget))
        self._follow_groups(step)
        self._drop(step.ended)
        self._drop_alerts(step.ended)
        ended = step.ended[step.ended < len(self._latest)]
        self._latest["score"][ended] = np.nan  # what has ended has no score now
        self._latest["ratio"][ended], self._latest["alert"][ended] = 0, False

    @property
    def columns(self) -> np.ndarray[Any, np.dtype[np.void]]:
        """The latest point of every row, in the fields of `LATEST`; time 0 where there is none. Not for changing."""
        return self._latest

    def anomalies(self) -> list[Anomaly]:
        """The anomalous series, the strangest first."""
        return sorted(self._active.values(), key=lambda anomaly: -anomaly.score)

    def anomaly(self, row: int) -> Anomaly | None:
        """The anomaly of a row, if it has one now."""
        return self._active.get(row)

    def alert(self, row: int) -> AlertNote | None:
        """What made the alert of a row, if it has one now and had a point since the start."""
        return self._alerts.get(row)

    def crowd(self, objective: int) -> Crowd | None:
        """The newest minute in which many series of an objective were a little strange."""
        return self._crowds.get(objective)

    def together(self, since_ns: int) -> list[Together]:
        """The newest joint scores of groups that have one since then, the highest first."""
        return sorted((one for one in self._together.values() if one.time_ns >= since_ns), key=lambda one: -one.score)

    def latest(self, row: int) -> dict[str, Any] | None:
        """The last point of a row and its scores; None where nothing came yet. NaN becomes None."""
        if row >= len(self._latest) or not self._latest["time_ns"][row]:
            return None
        record = self._latest[row]
        values = {name: record[name].item() for name in LATEST.names or ()}
        found: dict[str, Any] = {key: None if value != value else value for key, value in values.items()}
        found["channel"] = self._channels[found["channel"]] if found["score"] is not None else None
        return found

    def warm_share(self) -> float:
        """Share of the seen series that have a score, 0 when there are none."""
        seen = self._latest["time_ns"] > 0
        return float((~np.isnan(self._latest["score"][seen])).mean()) if seen.any() else 0.0

    def _follow_groups(self, step: Step) -> None:
        if len(step.reclaimed):  # what names a group may belong to another one now
            gone = set(step.reclaimed.tolist())
            self._together = {key: one for key, one in self._together.items() if gone.isdisjoint(one.rows)}
        if step.groups is not None:
            self._together |= {number: Together(step.groups, k) for k, number in enumerate(step.groups.group.tolist())}

    def _grow(self, rows: int) -> None:
        have = len(self._latest)
        if rows > have:
            size = max(rows, 2 * have, 1024)
            latest = np.zeros(size, LATEST)
            latest[:have] = self._latest
            active = np.zeros(size, bool)
            active[:have] = self._is_active
            self._latest, self._is_active = latest, active

    def _keep(self, scored: Scored) -> None:
        batch, scores, rows = scored.batch, scored.scores, scored.batch.rows
        self._latest["time_ns"][rows] = batch.time_ns
        self._latest["value"][rows] = batch.value
        for name in ("expected", "lower", "upper", "score", "probability", "warmup_s", "channel"):
            self._latest[name][rows] = getattr(scores, name)
        if scored.alerted is not None:
            self._latest["ratio"][rows], self._latest["alert"][rows] = scored.alerted.ratio, scored.alerted.active

    def _judge(self, scored: Scored, budget: int) -> int:
        score = scored.scores.score
        with np.errstate(invalid="ignore"):
            matters = np.flatnonzero((score >= 1) | self._is_active[scored.batch.rows])
        for k in matters.tolist():
            if score[k] >= 1:
                budget -= self._over(scored, k, reasons_left=budget)
            else:
                self._under(scored, k)
        return budget

    def _over(self, scored: Scored, k: int, *, reasons_left: int) -> int:
        """Open or carry on an anomaly; returns how many sentences were made (0 or 1)."""
        batch, scores = scored.batch, scored.scores
        row, time_ns, score = int(batch.rows[k]), int(batch.time_ns[k]), float(scores.score[k])
        old = self._active.get(row)
        # The way back from a peak is a smaller anomaly, and no better reason.
        renewed = old is not None and time_ns - old.reason_ns >= REASON_AGE_NS and score >= old.peak / 2
        wanted = old is None or not old.reason or renewed
        made = wanted and reasons_left > 0
        self._active[row] = Anomaly(
            row=row,
            since_ns=old.since_ns if old else time_ns,
            time_ns=time_ns,
            value=float(batch.value[k]),
            score=score,
            peak=max(score, old.peak) if old else score,
            probability=float(scores.probability[k]),
            channel=self._channels[int(scores.channel[k])],
            reason=self._reason(scored, k) if made else (old.reason if old else ""),
            reason_ns=time_ns if made else (old.reason_ns if old else 0),
        )
        self._is_active[row] = True
        self.opened += old is None
        return int(made)

    def _follow_alerts(self, scored: Scored, budget: int) -> int:
        """Keep what made alerts; returns how many sentences may still be made."""
        if scored.alerted is None:
            return budget
        self._crowds |= {crowd.objective: crowd for crowd in scored.alerted.crowds}
        for row in [row for row in self._alerts if not self._latest["alert"][row]]:
            del self._alerts[row]
        for k in np.flatnonzero(scored.alerted.active).tolist():
            budget -= self._alert_on(scored, k, reasons_left=budget)
        return budget

    def _alert_on(self, scored: Scored, k: int, *, reasons_left: int) -> int:
        """Open or carry on an alert; returns how many sentences were made (0 or 1)."""
        row, time_ns, score = int(scored.batch.rows[k]), int(scored.batch.time_ns[k]), float(scored.scores.score[k])
        old, anomaly = self._alerts.get(row), self._active.get(row)
        # The way back, and what hold keeps back, is no better reason.
        if old is not None and old.reason and not (score > old.score and time_ns - old.reason_ns >= REASON_AGE_NS):
            return 0
        known = anomaly.reason if anomaly is not None and anomaly.reason_ns == time_ns else ""
        made = not known and reasons_left > 0
        self._alerts[row] = AlertNote(
            value=float(scored.batch.value[k]),
            score=score,
            channel=self._channels[int(scored.scores.channel[k])],
            reason=self._reason(scored, k) if made else known,
            reason_ns=time_ns,
        )
        return int(made)

    def _under(self, scored: Scored, k: int) -> None:
        row, score = int(scored.batch.rows[k]), float(scored.scores.score[k])
        old = self._active[row]
        if not score >= CLOSES_BELOW or old.below:
            self._drop(scored.batch.rows[k : k + 1])
        else:
            self._active[row] = replace(old, score=score, below=1, time_ns=int(scored.batch.time_ns[k]))

    def _drop_alerts(self, rows: I32) -> None:
        for row in rows.tolist() if self._alerts else ():
            self._alerts.pop(row, None)

    def _drop(self, rows: I32 | Iterable[int]) -> None:
        for row in np.asarray(rows).tolist():
            if self._active.pop(row, None):
                self._is_active[row] = False
