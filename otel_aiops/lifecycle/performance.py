"""Performance of what serves: from verdicts with intervals, and without labels from probabilities and the self-test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from otel_aiops.detect.lessons import Verdict
from otel_aiops.detect.verdicts import FALSE_ALERT, KINDS, MISSED
from otel_aiops.lifecycle.behaviour import DECADES, LEVELS, Counts, Promise
from otel_aiops.lifecycle.drift import Drift
from otel_aiops.lifecycle.scope import share_interval

WEEK = 168  # hours
LEAST_HOURS = 24  # that were counted, before a week is estimated
LEAST_VERDICTS = 10  # on alerts, of each of two times that are compared
LOSS = 0.15  # of precision that is worth saying
MOST_GROWTH = 5.0  # of how often a probability is exceeded, by a decade
CAVEATS = (
    "probabilities above 0.999 are extrapolated: their promise is continued as it is kept at 0.99 and 0.999",
    "series that fail together are counted one by one, so that one large incident weighs as many alerts",
    "real faults may be others than those of the self-test, which scores points and does not raise alerts",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What people said of the alerts of a stretch of time. `precision` is the share of true ones, with its 90 %
    interval; NaN without verdicts.
    """

    true: int
    false: int
    missed: int
    precision: float
    low: float
    high: float
    since_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated:
    """What performance is to be expected, without a label. Alerts are those of a week that cost budget."""

    alerts: float
    false_alerts: float
    precision: float  # NaN without alerts
    recall: float  # mean of the self-test over kinds of faults, NaN without one
    missed: float  # true ones a week that raise no alert
    hours: int  # that were counted
    caveats: tuple[str, ...] = CAVEATS


def judged(verdicts: Iterable[Verdict], since_ns: int, until_ns: int) -> Judged:
    """Verdicts on a stretch of time; the newest on each series and time counts."""
    newest: dict[tuple[int, int], Verdict] = {}
    for one in sorted(verdicts, key=lambda one: one.given_ns):
        if since_ns <= one.time_ns < until_ns:
            newest[one.series, one.time_ns] = one
    kinds = [KINDS.index(one.kind) for one in newest.values()]
    false, missed = kinds.count(FALSE_ALERT), kinds.count(MISSED)
    true = len(kinds) - false - missed
    said = true + false
    low, high = share_interval(true, said) if said else (math.nan, math.nan)
    precision = true / said if said else math.nan
    return Judged(true=true, false=false, missed=missed, precision=precision, low=low, high=high, since_ns=since_ns)


def worse(now: Judged, before: Judged) -> Drift | None:
    """A loss of precision that verdicts are sure of: it is outside of the interval, and large."""
    enough = min(now.true + now.false, before.true + before.false) >= LEAST_VERDICTS
    if not enough or now.high >= before.precision or before.precision - now.precision < LOSS:
        return None
    said = f"{now.true} of {now.true + now.false} alerts with a verdict were true ({now.low:.0%} to {now.high:.0%})"
    return Drift(
        kind="concept",
        what="precision",
        effect=before.precision - now.precision,
        looks=1,
        persistent=True,  # verdicts are given over weeks
        since_ns=now.since_ns,
        text=f"{said}, before {before.true} of {before.true + before.false}",
    )


def estimated(counts: Counts, now_hour: int, kept: Iterable[Promise], recall: Mapping[str, float]) -> Estimated | None:
    """What to expect of the last week's alerts; None while less than a day was counted.

    Each alert is false with the tail-area false discovery rate of its first point: how many points would reach its
    probability by chance, by how many did. The chance is what the probability promises, times how often that is
    exceeded in the median hour. The mean over the alerts is the expected share of false ones, as in confidence-based
    estimation; what the self-test misses is taken for what is missed. Where it can be wrong: `CAVEATS`.
    Source: Efron, Size, power and false discovery rates, 2007 (tail-area Fdr, with a null share of 1);
    NannyML's confidence-based performance estimation (the mean of calibrated confidences in place of labels).
    """
    week = counts.since(now_hour - WEEK, now_hour)
    hours = len(week.hours)
    if hours < LEAST_HOURS:
        return None
    exceeded = _exceeded(kept)
    known = int(week.of("known").sum())
    sums = {name: int(week.of(name).sum()) for name in ("paid", "opened", "alerts_0", "alerts_unknown")}
    false = float(sums["alerts_0"])
    for decade in DECADES:
        alerts, reached = int(week.of(f"alerts_{decade}").sum()), int(week.of(f"reached_{decade}").sum())
        chance = known * 10.0**-decade * exceeded(decade)
        false += alerts * min(1.0, chance / max(reached, 1))
    sure = sums["opened"] - sums["alerts_unknown"]
    precision = 1 - false / sure if sure else math.nan
    found = [one for one in recall.values() if math.isfinite(one)]
    mean = sum(found) / len(found) if found else math.nan
    alerts_a_week = sums["paid"] * WEEK / hours
    true = 0.0 if math.isnan(precision) else alerts_a_week * precision
    return Estimated(
        alerts=alerts_a_week,
        false_alerts=alerts_a_week - true if sure else 0.0,
        precision=precision,
        recall=mean,
        missed=true * (1 - mean) / mean if mean > 0 else math.nan,
        hours=hours,
    )


def _exceeded(kept: Iterable[Promise]) -> Callable[[int], float]:
    """How many times as often as promised a probability of 1 - 10^-decade is reached by chance; at least once."""
    times = {one.level: one.times for one in kept}
    higher, highest = LEVELS[-2:]
    last = max(times.get(highest, times.get(higher, 1.0)), 1.0)
    growth = times[highest] / max(times[higher], 1e-9) if {higher, highest} <= times.keys() else 1.0
    growth = min(max(growth, 1.0), MOST_GROWTH)
    return lambda decade: last * growth ** max(0, decade - 3)
