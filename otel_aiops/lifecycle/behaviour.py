"""Behaviour: how often a model scores high and alerts, and how unusual its points are, against its past and promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.scorer import Scored
from otel_aiops.errors import StateError
from otel_aiops.lifecycle.drift import Drift
from otel_aiops.otlp.points import F64, I64
from otel_aiops.series.segments import HOUR_NS

LEVELS = (0.9, 0.99, 0.999)  # probabilities, beyond which a tenth, a hundredth and a thousandth of points should be
DECADES = (2, 3, 4, 5, 6)  # 0.99 to 0.999999: how sure an alert can be
COLUMNS = (
    *("points", "over", "opened", "paid", "normal", "known"),
    *(f"normal_{level}" for level in LEVELS),
    *(f"reached_{decade}" for decade in DECADES),
    *("alerts_unknown", "alerts_0", *(f"alerts_{decade}" for decade in DECADES)),
)
KEPT_HOURS = 28 * 24
DAY = 24
LEAST_EXPECTED = 5.0  # points beyond a level in an hour, before the hour says something; in a day four times as many
LEAST_BLOCKS = 8  # windows of the past, before it says what is usual
UNUSUAL = 4.0  # deviations
TIMES = 2.0  # and so many times as often as usual
LEAST_DEVIATION = 0.2  # of the logarithm of a rate
ALERT_TIMES = 3.0
MANY_ALERTS = 5.0  # a day, or none of them says nothing

Row = NDArray[np.int64]


class Tally:
    """Counts of what was served, by hour of event time, for four weeks. Belongs to the step loop.

    `known` points have a probability, and `reached_4` of them one of at least 1 - 1e-4; `normal` are those whose series
    has no alert, and `normal_*` how many of these are beyond a level. `opened` are alerts of series, `paid` those that
    cost budget, and `alerts_*` the opened ones by the highest of these that the first point reached.
    """

    def __init__(self) -> None:
        self.sequence = 0  # the newest step that is in it
        self._hours: dict[int, Row] = {}

    def take(self, sequence: int, batches: Sequence[Scored], event_ns: int) -> None:
        """Count a step, unless it is in already."""
        if sequence <= self.sequence or not batches:
            return
        self.sequence = sequence
        row = self._row(event_ns // HOUR_NS)
        for scored in batches:
            row += _counted(scored)

    def counts(self) -> Counts:
        """What was counted, by hour."""
        hours = sorted(self._hours)
        rows = [self._hours[hour] for hour in hours]
        return Counts(np.array(hours, np.int64), np.array(rows, np.int64).reshape(len(hours), len(COLUMNS)))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        rows = {str(hour): row.tolist() for hour, row in self._hours.items()}
        return {"columns": list(COLUMNS), "sequence": self.sequence, "hours": rows}

    def restore(self, tree: Any) -> None:
        """Take over what `to_json` gave. Raises: StateError."""
        try:
            if tuple(tree["columns"]) != COLUMNS:
                raise ValueError(f"expected {', '.join(COLUMNS)}, got {tree['columns']}")
            hours = {int(hour): np.array(row, np.int64) for hour, row in tree["hours"].items()}
            if any(row.shape != (len(COLUMNS),) for row in hours.values()):
                raise ValueError(f"expected {len(COLUMNS)} counts for each hour")
            self._hours, self.sequence = hours, int(tree["sequence"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError(f"counts of scores: {error!r}") from error

    def _row(self, hour: int) -> Row:
        if hour not in self._hours:
            self._hours[hour] = np.zeros(len(COLUMNS), np.int64)
            for old in [one for one in self._hours if one <= hour - KEPT_HOURS]:
                del self._hours[old]
        return self._hours[hour]


def _counted(scored: Scored) -> Row:
    """COLUMNS of some points; in few passes, because every step pays for it."""
    scores, alerted = scored.scores, scored.alerted
    place = np.searchsorted(_EDGES, scores.probability, side="right")  # edges that are reached; NaN all of them
    place[np.isnan(scores.probability)] = len(_EDGES) + 1
    reached = _at_least(place)
    normal, opened, paid = reached, place[:0], 0
    if alerted is not None:
        if alerted.active.any():
            normal = _at_least(place[~alerted.active])
            opened = place[alerted.opened]
        paid = int(np.count_nonzero(alerted.counted))
    with np.errstate(invalid="ignore"):
        over = int(np.count_nonzero(scores.score >= 1))
    found = np.zeros(len(COLUMNS), np.int64)
    levels, decades = len(LEVELS), len(DECADES)
    found[:6] = len(place), over, len(opened), paid, normal[0], reached[0]
    found[6 : 6 + levels] = normal[1 : levels + 1]
    found[6 + levels : 6 + levels + decades] = reached[2:]
    if len(opened):
        counts = np.bincount(opened, minlength=len(_EDGES) + 2)
        found[6 + levels + decades :] = counts[-1], counts[0] + counts[1], *counts[2:-1]
    return found


_EDGES = np.array([LEVELS[0], *(1 - 10.0**-decade for decade in DECADES)])  # LEVELS, and on to the last decade


def _at_least(place: NDArray[np.intp]) -> Row:
    """(points with a probability, those that reach each edge) from how many edges each reaches."""
    found: Row = np.bincount(place, minlength=len(_EDGES) + 2)[-2::-1].cumsum()[::-1]
    return found


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of H hours, in order: `hours` (H,), `rows` (H, COLUMNS). An hour in which nothing came is not there."""

    hours: I64
    rows: NDArray[np.int64]

    def of(self, name: str) -> I64:
        """A column, (H,)."""
        found: I64 = self.rows[:, COLUMNS.index(name)]
        return found

    def since(self, hour: int, until: int | None = None) -> Counts:
        """Those of some hours."""
        kept = (self.hours >= hour) & (self.hours < (until if until is not None else 1 << 62))
        return Counts(self.hours[kept], self.rows[kept])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A rate of the model itself against its own past: `now`, what is `usual`, and by how many deviations it is off."""

    name: str  # scores or alerts
    now: float
    usual: float
    deviation: float
    unusual: bool
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """How often the probability of a normal point is beyond a level. `times` is observed by promised, `before` that
    of the past, NaN where too little is known.
    """

    level: float
    promised: float
    observed: float
    times: float
    before: float
    points: int


def rates(counts: Counts, now_hour: int, *, window: int) -> tuple[Rate, ...]:
    """The rates of the model in the newest hours, those before `now_hour`, where its past says what is usual.

    High scores: the share of the points in the last `window` hours against such windows before, by the logarithm, in
    robust deviations. Alerts: those of the last day against the days before, which are as Poisson counts at least as
    spread as their mean. Both must also be plainly more or less than usual, so that much data makes nothing unusual.
    """
    found = [_scores(counts, now_hour, window), _alerts(counts, now_hour)]
    return tuple(one for one in found if one is not None)


def _scores(counts: Counts, now_hour: int, window: int) -> Rate | None:
    blocks = []
    for start in range(now_hour - window, int(counts.hours[0]) - 1 if len(counts.hours) else now_hour, -window):
        part = counts.since(start, start + window)
        points = int(part.of("points").sum())
        blocks.append((int(part.of("over").sum()) + 0.5) / (points + 1) if points else math.nan)
    if len(blocks) <= LEAST_BLOCKS or not math.isfinite(blocks[0]):
        return None
    past = np.log([one for one in blocks[1:] if math.isfinite(one)])
    if len(past) < LEAST_BLOCKS:
        return None
    middle = float(np.median(past))
    wide = max(1.4826 * float(np.median(np.abs(past - middle))), LEAST_DEVIATION)
    now, usual = blocks[0], math.exp(middle)
    deviation = (math.log(now) - middle) / wide
    unusual = abs(deviation) >= UNUSUAL and max(now / usual, usual / now) >= TIMES
    text = f"{now:.3%} of the points scored over the threshold in the last {window} h, usual are {usual:.3%}"
    return Rate(name="scores", now=now, usual=usual, deviation=deviation, unusual=unusual, text=text if unusual else "")


def _alerts(counts: Counts, now_hour: int) -> Rate | None:
    if not len(counts.hours):
        return None
    starts = range(now_hour - DAY, int(counts.hours[0]) - 1, -DAY)
    days = [counts.since(start, start + DAY) for start in starts]
    known = [int(one.of("opened").sum()) for one in days if len(one.hours)]
    if len(known) <= LEAST_BLOCKS or not len(days[0].hours):
        return None
    past = np.array(known[1:], np.float64)
    now, usual = known[0], float(np.mean(np.minimum(past, np.median(past) * ALERT_TIMES + 1)))
    deviation = (now - usual) / max(float(np.std(past)), math.sqrt(usual), 1.0)
    many = deviation >= UNUSUAL and now >= ALERT_TIMES * usual
    none = not now and usual >= MANY_ALERTS and float(past.min()) > 0
    text = f"{now} alerts of series in the last day, usual are {usual:.1f}"
    return Rate(
        name="alerts",
        now=now,
        usual=usual,
        deviation=deviation,
        unusual=many or none,
        text=text if many or none else "",
    )


# -- what probabilities promise ---------------------------------------------------------------------------------------


def promises(counts: Counts, now_hour: int) -> tuple[Promise, ...]:
    """What was observed of each level in the last day, where enough points say it.

    The median over hours in which at least five points beyond the level are promised, else all hours together: an hour
    with an incident must not count for what is normal. Points are not independent, so sizes are told and no p-value.
    Nothing is said of the first day, in which probabilities are still learned.
    """
    found: list[Promise] = []
    if not len(counts.hours) or counts.hours[0] > now_hour - DAY:
        return ()
    for k, level in enumerate(LEVELS):
        now = _observed(counts.since(now_hour - DAY, now_hour), k)
        if now is None:
            continue
        before = _observed(counts.since(0, now_hour - DAY), k)
        promised = 1 - level
        past = before[0] / promised if before else math.nan
        found.append(
            Promise(
                level=level,
                promised=promised,
                observed=now[0],
                times=now[0] / promised,
                before=past,
                points=now[1],
            )
        )
    return tuple(found)


def _observed(counts: Counts, k: int) -> tuple[float, int] | None:
    """(share of the normal points beyond a level, points); None where they are too few to say it."""
    normal, beyond = counts.of("normal"), counts.of(f"normal_{LEVELS[k]}")
    total, promised = int(normal.sum()), 1 - LEVELS[k]
    enough = normal * promised >= LEAST_EXPECTED
    if enough.sum() >= DAY // 4:
        share: F64 = beyond[enough] / normal[enough]
        return float(np.median(share)), total
    if total * promised >= 4 * LEAST_EXPECTED:
        return int(beyond.sum()) / total, total
    return None


def broken_promise(counts: Counts, now_hour: int, *, times: float, looks: int) -> Drift | None:
    """The level that is kept worst, if it is `times` off now and was not so before; persistent after `looks` hours.

    Too few unusual points count only where the past says that they came: what has learned little promises little.
    """
    off = {one.level: one for one in promises(counts, now_hour) if _off(one, times)}
    if not off:
        return None
    worst = max(off.values(), key=lambda one: abs(_log(one.times)))
    row = 1
    while row < looks and any(
        one.level == worst.level and _off(one, times) for one in promises(counts, now_hour - row)
    ):
        row += 1
    more = f"{worst.times:.2g} times as often as promised"
    past = f", before {worst.before:.2g} times" if math.isfinite(worst.before) else ""
    text = f"normal points have a probability of {worst.level:g} or more {more}{past}, in {row} looks in a row"
    return Drift(
        kind="concept",
        what="probabilities",
        effect=abs(_log(worst.times)),
        looks=row,
        persistent=row >= looks,
        since_ns=(now_hour - row + 1 - DAY) * HOUR_NS,
        text=text,
    )


def _off(one: Promise, times: float) -> bool:
    changed = math.isnan(one.before) or abs(_log(one.times) - _log(one.before)) >= math.log(TIMES)
    too_many = one.times >= times and changed
    too_few = one.times <= 1 / times and math.isfinite(one.before) and changed and one.before > one.times
    return too_many or too_few


def _log(value: float) -> float:
    return math.log(max(value, 1e-3))
