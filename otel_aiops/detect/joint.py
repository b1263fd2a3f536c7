"""The joint detector: many series of one service or resource that are a little unusual at the same time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.detector import Scores
from otel_aiops.errors import ConfigError, StateError
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import Columns, checked

Arrays = dict[str, NDArray[Any]]
Spec = dict[str, tuple[Any, tuple[int, ...], Any]]
Some = NDArray[np.bool_] | slice  # of K points

SERIES = 32  # of a group that count, the strangest ones: or a fault of a few would drown in a large group
CAUSES = 5  # rows that are named
LEAST_SERIES = 3  # fewer have nothing to say together
SATURATED = 2.0  # thresholds; what is farther off counts as this: one series alone is the business of its own score
UNUSUAL = 0.5  # thresholds from which a series is counted as unusual
MEMORY = 300  # steps that level and spread of a group remember
USUAL_WEIGHT = 0.01  # of one step, in what is usual for a row
WARM = 20  # steps before a group's own level counts
SPREAD_LEAST = 0.01
CLIP = 2.5  # spreads; what is farther off moves level and spread no more than this
FAR, NEAR = 6.0, 4.0  # spreads above its level where a group has its own threshold, and below which none may be
PRIOR, PRIOR_FEW, PRIOR_MANY = 0.38, 0.62, 0.1  # threshold of a group that is not known yet, by its number of series
MOST = 100.0  # of a score
UNKNOWN_S = 300.0  # for so long a row's first value counts, whose interval is not known yet
LATE = 3.0  # intervals of a row for which its newest value counts

NO_ROWS = np.empty(0, np.int32)

_ROWS: Spec = {
    "group": (np.int32, (), -1),
    "time_ns": (np.int64, (), 0),  # of the newest value
    "interval_s": (np.float32, (), np.nan),  # before it
    "value": (np.float64, (), np.nan),  # newest one
}
_GROUPS: Spec = {"members": (np.int32, (), 0), "fresh": (np.bool_, (), False)}


@dataclass(frozen=True, slots=True)
class Closed:
    """Groups that got values in an interval that has closed, (K,), and their current rows, (R,), ordered by group.

    `of` (R,) says which of the K groups a row belongs to; of each group, `starts` (K,) is the first row and `sizes`
    (K,) how many there are.
    """

    time_ns: int
    groups: I32
    starts: I64
    sizes: I64
    rows: I32
    of: I64
    value: F64


class Ticks:
    """The newest value of every row by group, seen once an interval of event time.

    `rows` and `groups` hold further columns of whoever owns this; they are forgotten together. 24 bytes a row and 5 a
    group, besides those.
    """

    def __init__(self, interval_s: float, rows: Spec, groups: Spec) -> None:
        self.interval_s = interval_s
        self._rows, self._groups = Columns({**_ROWS, **rows}), Columns({**_GROUPS, **groups})
        self._used = [0, 0]  # rows, groups
        self._interval = 0  # number of the newest one that has closed

    @property
    def row(self) -> Arrays:
        """Columns by row."""
        return self._rows.of

    @property
    def group(self) -> Arrays:
        """Columns by group."""
        return self._groups.of

    def assign(self, rows: I32, groups: I32) -> None:
        """Put rows (unique) into groups, (K,); a row has one group, and starts anew when it changes it."""
        if not len(rows):
            return
        self._reserve(int(rows.max()) + 1, int(groups.max()) + 1)
        moved = self.row["group"][rows] != groups
        self.forget(rows[moved])
        self.row["group"][rows[moved]] = groups[moved]
        np.add.at(self.group["members"], groups[moved], 1)

    def forget(self, rows: I32) -> I32:
        """Take rows (unique) out of their groups; the groups that lost their last row, which start anew."""
        rows = rows[rows < self._used[0]]
        groups = self.row["group"][rows]
        groups = groups[groups >= 0]
        np.subtract.at(self.group["members"], groups, 1)
        self._rows.clear(rows)
        empty = np.unique(groups[self.group["members"][groups] == 0])
        self._groups.clear(empty)
        return empty

    def due(self, event_ns: int) -> bool:
        """Whether an interval closes."""
        return int(event_ns // (self.interval_s * 1e9)) > self._interval

    def update(self, batch: Batch, value: F64) -> tuple[I32, Some]:
        """Take the newest value of K rows; (rows that have a group, which of the K they are). NaN is none."""
        if not len(batch.rows):
            return NO_ROWS, slice(None)
        self._reserve(int(batch.rows.max()) + 1, 0)
        groups = self.row["group"][batch.rows]
        has = groups >= 0
        known: Some = slice(None) if has.all() else has  # the usual case, and a slice copies nothing
        rows = batch.rows[known]
        self.row["time_ns"][rows] = batch.time_ns[known]
        with np.errstate(over="ignore"):
            self.row["interval_s"][rows] = batch.interval_s[known]
        self.row["value"][rows] = value[known]
        self.group["fresh"][groups[known]] = True
        return rows, known

    def close(self, event_ns: int, least: int) -> Closed | None:
        """What came since an interval closed the last time, of groups with at least `least` current rows; None where
        nothing came, or the interval goes on.
        """
        interval = int(event_ns // (self.interval_s * 1e9))
        if interval <= self._interval or not self.group["fresh"].any():
            return None
        self._interval = interval
        of_row, value = self.row["group"][: self._used[0]], self.row["value"][: self._used[0]]
        wanted = self.group["fresh"] & (self.group["members"] >= least)
        rows = np.flatnonzero(np.isfinite(value) & (of_row >= 0) & wanted[of_row]).astype(np.int32)
        rows = rows[self._current(rows, event_ns)]
        self.group["fresh"][:] = False
        counts = np.bincount(of_row[rows], minlength=len(wanted))
        rows = rows[counts[of_row[rows]] >= least]
        if not len(rows):
            return None
        rows = rows[np.argsort(of_row[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(of_row[rows], prepend=np.int32(-1)))
        groups = of_row[rows[starts]]
        sizes = counts[groups]
        return Closed(event_ns, groups, starts, sizes, rows, np.repeat(np.arange(len(groups)), sizes), value[rows])

    def _current(self, rows: I32, event_ns: int) -> NDArray[np.bool_]:
        # in float seconds: times that are nonsense must not overflow
        age_s = np.abs(event_ns / 1e9 - self.row["time_ns"][rows] / 1e9)
        usual_s = LATE * np.maximum(self.row["interval_s"][rows], self.interval_s)
        return np.asarray(age_s <= np.where(np.isnan(usual_s), max(UNKNOWN_S, LATE * self.interval_s), usual_s))

    def _reserve(self, rows: int, groups: int) -> None:
        self._used = [max(self._used[0], rows), max(self._used[1], groups)]
        self._rows.reserve(self._used[0])
        self._groups.reserve(self._used[1])

    def state(self) -> Arrays:
        """Everything that is kept."""
        rows = {f"row_{name}": array for name, array in self._rows.state(self._used[0]).items()}
        groups = {f"group_{name}": array for name, array in self._groups.state(self._used[1]).items()}
        return {**rows, **groups, "interval": np.array([self._interval], np.int64)}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        rows = {f"row_{name}": spec for name, spec in self._rows.saved().items()}
        groups = {f"group_{name}": (dtype, ("groups",)) for name, (dtype, _) in self._groups.saved().items()}
        checked(arrays, {**rows, **groups, "interval": (np.int64, (1,))})
        of, known = arrays["row_group"], len(arrays["group_members"])
        if len(of) and (int(of.min()) < -1 or int(of.max()) >= known):
            raise StateError(f"row_group: expected -1 .. {known - 1}, got {of.min()} .. {of.max()}")
        self._rows.clear(np.arange(self._rows.rows))
        self._groups.clear(np.arange(self._groups.rows))
        self._used = [len(of), known]
        self._reserve(len(of), known)
        self._rows.restore({name: arrays[f"row_{name}"] for name in self.row}, len(of))
        self._groups.restore({name: arrays[f"group_{name}"] for name in self.group}, known)
        self._interval = int(arrays["interval"][0])


def first(closed: Closed, by: F64, most: int) -> I64:
    """Places, (M,), of the `most` rows of each group with the largest `by`, largest first; ties in order of rows."""
    order = np.lexsort((-by, closed.of))
    rank = np.arange(len(order)) - closed.starts[closed.of]
    return np.asarray(order[rank < most])


@dataclass(frozen=True, slots=True)
class JointConfig:
    """How often groups are looked at, and after how long an anomaly of one is its new normal."""

    enabled: bool = True  # one score for all series of a service, or of a resource without service.name
    interval: float = 10.0  # how often the series of a service are looked at together, in event time
    adapt_after: float = 7200.0  # an anomaly of a service that lasts longer is its new normal

    def __post_init__(self) -> None:
        if not self.interval >= 1:
            raise ConfigError("interval", f"must be >= 1 s, got {self.interval}")
        if not self.adapt_after > 0:
            raise ConfigError("adapt_after", f"must be > 0 s, got {self.adapt_after}")


@dataclass(frozen=True, slots=True)
class GroupScores:
    """Scores of K groups at one time; all (K,), or (K, 5) where it says so.

    `score` >= 0, 1 is the threshold. `probability` that a normal step scores less; NaN before 20 steps. `series` took
    part, `unusual` of them are at half of their threshold or more. `rows` (K, 5) contributed most, -1 for none, with
    `share` of the excess over what is usual for them, their own `row_score`, and `above` or below what was expected
    (1, -1; 0 when unknown). `strangeness` is what was compared with `usual` and `threshold`, in 0 .. 1.41.
    """

    time_ns: int
    group: I32
    score: F64
    probability: F64
    series: I64
    unusual: I64
    strangeness: F64
    usual: F64
    threshold: F64
    rows: I32
    share: F64
    row_score: F64
    above: NDArray[np.int8]


class Joint:
    """One score for each group: the mean of √score over its series, each capped, against the group's usual mean.

    A saturated mean of the scores, akin to Fisher's combination of p-values: many small deviations add up, one large
    one does not. On recorded faults of a shop (OnlineBoutique) it ranks faulty minutes better than the largest score
    and than models of correlation (covariance, principal components, isolation forests); on nodes of six series that
    measure nearly the same (PetShop) the largest score and principal components rank better. `benchmarks/joint.py` has
    both.
    29 bytes a row and 25 a group; of a group the 32 strangest rows count.
    """

    def __init__(self, config: JointConfig) -> None:
        self.config = config
        self._ticks = Ticks(
            config.interval,
            {"above": (np.int8, (), 0), "usual": (np.float32, (), np.nan)},
            {
                "steps": (np.float32, (), 0),
                "level": (np.float32, (), 0),
                "spread": (np.float32, (), 0),
                "over_since_s": (np.float64, (), np.nan),
            },
        )

    def assign(self, rows: I32, groups: I32) -> None:
        """Put rows (unique) into groups, (K,); groups are small numbers that the caller gives."""
        self._ticks.assign(rows, groups)

    def forget(self, rows: I32) -> I32:
        """Rows that are given to other series; the groups that lost their last row, which start anew."""
        return self._ticks.forget(rows)

    def due(self, event_ns: int) -> bool:
        """Whether `step` has something to do at this time."""
        return self._ticks.due(event_ns)

    def update(self, batch: Batch, scores: Scores) -> None:
        """Take the newest scores of K rows; those without a group are passed over."""
        rows, known = self._ticks.update(batch, scores.score)
        with np.errstate(invalid="ignore"):
            above = (batch.value > scores.expected).view(np.int8) - (batch.value < scores.expected).view(np.int8)
        self._ticks.row["above"][rows] = above[known]

    def step(self, event_ns: int) -> GroupScores | None:
        """Scores of the groups that got points, once an interval of event time; None for nothing to say."""
        closed = self._ticks.close(event_ns, LEAST_SERIES)
        if closed is None:
            return None
        strange = np.sqrt(np.clip(closed.value, 0.0, SATURATED))
        counted = first(closed, strange, SERIES)
        strangeness = _sum(closed.of[counted], strange[counted], len(closed.groups)) / np.minimum(closed.sizes, SERIES)
        threshold = self._threshold(closed)
        score = np.minimum(strangeness / threshold, MOST)
        probability = self._probability(closed.groups, strangeness)
        usual = self._ticks.group["level"][closed.groups].astype(np.float64)
        usual[self._ticks.group["steps"][closed.groups] == 0] = np.nan
        causes = self._causes(closed, strange)
        self._learn(closed, strange, strangeness, score >= 1)
        return GroupScores(
            time_ns=closed.time_ns,
            group=closed.groups,
            score=score,
            probability=probability,
            series=closed.sizes,
            unusual=np.bincount(closed.of[closed.value >= UNUSUAL], minlength=len(closed.groups)),
            strangeness=strangeness,
            usual=usual,
            threshold=threshold,
            **causes,
        )

    def reason(self, scores: GroupScores, k: int, name: Callable[[int], str]) -> str:
        """Why group k has its score, in plain words; `name` says what a row is called."""
        share, rows = scores.share[k], scores.rows[k]
        parts = [
            f"{name(int(rows[i]))} {_times(float(scores.row_score[k, i]), int(scores.above[k, i]))} ({share[i]:.0%})"
            for i in range(CAUSES)
            if rows[i] >= 0 and share[i] >= 0.005
        ]
        usual = f", usually {scores.usual[k]:.2f}" if np.isfinite(scores.usual[k]) else ""
        text = (
            f"{scores.unusual[k]} of {scores.series[k]} series are unusual at the same time: together "
            f"{scores.strangeness[k]:.2f} (threshold {scores.threshold[k]:.2f}{usual})"
        )
        return f"{text}; mostly {', '.join(parts)}" if parts else text

    def state(self) -> Arrays:
        """Everything learned."""
        return self._ticks.state()

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        self._ticks.restore(arrays)

    def _threshold(self, closed: Closed) -> F64:
        """Of each group: the prior for its size, drawn half the way to where the group has its own."""
        group, sizes = self._ticks.group, closed.sizes
        prior = (
            PRIOR + PRIOR_FEW / np.sqrt(np.minimum(sizes, SERIES)) + PRIOR_MANY * np.log(np.maximum(sizes / SERIES, 1))
        )
        steps, level, spread = (group[name][closed.groups].astype(np.float64) for name in ("steps", "level", "spread"))
        spread = np.maximum(spread, SPREAD_LEAST)
        trust = 0.5 * steps / (steps + WARM)
        blend = prior ** (1 - trust) * np.maximum(level + FAR * spread, prior / 2) ** trust
        return np.where(steps >= WARM, np.maximum(blend, level + NEAR * spread), blend)

    def _probability(self, groups: I32, strangeness: F64) -> F64:
        """Of a Laplace distribution with the level and spread of the group."""
        group = self._ticks.group
        spread = np.maximum(group["spread"][groups].astype(np.float64), SPREAD_LEAST)
        off = (strangeness - group["level"][groups]) / spread
        half = 0.5 * np.exp(-np.abs(off))
        return np.where(group["steps"][groups] >= WARM, np.where(off > 0, 1 - half, half), np.nan)

    def _causes(self, closed: Closed, strange: F64) -> dict[str, Any]:
        usual = np.nan_to_num(self._ticks.row["usual"][closed.rows].astype(np.float64))
        excess = np.maximum(strange - usual, 0.0)
        count = len(closed.groups)
        total = _sum(closed.of, excess, count)
        places = first(closed, excess, CAUSES)
        of = closed.of[places]
        rank = np.arange(len(of)) - np.searchsorted(of, of)
        rows = np.full((count, CAUSES), -1, np.int32)
        share, row_score = np.zeros((count, CAUSES)), np.full((count, CAUSES), np.nan)
        above = np.zeros((count, CAUSES), np.int8)
        rows[of, rank], row_score[of, rank] = closed.rows[places], closed.value[places]
        share[of, rank] = excess[places] / np.where(total > 0, total, 1.0)[of]
        above[of, rank] = self._ticks.row["above"][closed.rows[places]]
        return {"rows": rows, "share": share, "row_score": row_score, "above": above}

    def _learn(self, closed: Closed, strange: F64, strangeness: F64, over: NDArray[np.bool_]) -> None:
        """Level and spread of groups that were not flagged, or for so long that it is their new normal."""
        group, row, groups, now_s = self._ticks.group, self._ticks.row, closed.groups, closed.time_ns / 1e9
        since = np.where(over, np.fmin(group["over_since_s"][groups], now_s), np.nan)
        new_normal = over & (now_s - np.nan_to_num(since, nan=now_s) >= self.config.adapt_after)
        group["over_since_s"][groups] = np.where(new_normal, np.nan, since)
        steps, level, spread = (group[name][groups].astype(np.float64) for name in ("steps", "level", "spread"))
        steps[new_normal], level[new_normal] = WARM, strangeness[new_normal]
        weight = np.where(over & ~new_normal, 0.0, 1 / np.minimum(steps + 1, MEMORY))
        limit = np.where(steps < WARM, np.inf, CLIP * np.maximum(spread, SPREAD_LEAST))
        off = np.clip(strangeness - level, -limit, limit)
        group["level"][groups] = level + weight * off
        group["spread"][groups] = np.where(steps == 0, spread, spread + weight * (np.abs(off) - spread))
        group["steps"][groups] = np.minimum(steps + (weight > 0), 1e6)
        quiet = (weight > 0)[closed.of]
        usual = row["usual"][closed.rows].astype(np.float64)
        learned = usual + USUAL_WEIGHT * (strange - usual)
        row["usual"][closed.rows] = np.where(quiet, np.where(np.isnan(usual), strange, learned), usual)


def _sum(of: I64, values: F64, count: int) -> F64:
    return np.bincount(of, weights=values, minlength=count).astype(np.float64)


def _times(score: float, above: int) -> str:
    side = {1: "above", -1: "below"}.get(above)
    where = f"{side} what was expected, " if side else ""
    return f"{where}{score:.1f} times its threshold"
