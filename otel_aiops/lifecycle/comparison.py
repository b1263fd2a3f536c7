"""Two versions on the same live points: which alerts both raised, which only one, and what operators said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.lessons import Verdict
from otel_aiops.detect.raised import NEAR_NS, Raised
from otel_aiops.detect.serving import BINS, Model, Serving
from otel_aiops.detect.verdicts import FALSE_ALERT, KINDS, MISSED, TRUE_ALERT

WEEK_NS = 7 * 86_400_000_000_000
LEAST_POINTS = 1_000  # of which chance alone puts probabilities off by 0.04


@dataclass(frozen=True, slots=True)
class Side:
    """How one version did since the order. Rates are NaN before anything was scored.

    `alerts` are those of single series, `a_week` as many in a week. `calibration_error` is the largest distance between
    the distribution of its probabilities and the uniform one that they should have (Kolmogorov's). `false_alerts` and
    `missed` are counted by verdicts: said to be false and raised; said to be true, or missed, and not raised.
    """

    version: str
    points: int
    over_ratio: float  # of the points
    alerts: int
    a_week: float
    calibration_error: float
    false_alerts: int
    missed: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The champion and the other version since `since_ns`; `only_*` are alerts that the other side did not raise."""

    since_ns: int
    until_ns: int
    champion: Side
    other: Side
    both: int
    only_champion: tuple[Raised, ...]
    only_other: tuple[Raised, ...]

    @property
    def days(self) -> float:
        """How long they ran beside each other."""
        return (self.until_ns - self.since_ns) / 86_400e9


def compare(serving: Serving, event_ns: int) -> Comparison | None:
    """What is known since the last order was carried out; None while there is one version only."""
    if serving.other is None:
        return None
    mine, others = (model.alerting.ledger.since(serving.since_ns) for model in serving.models)
    champion, other = sides(serving, event_ns).values()
    return Comparison(
        since_ns=serving.since_ns,
        until_ns=event_ns,
        champion=champion,
        other=other,
        both=sum(_raised(others, one.fingerprint, one.since_ns, one.time_ns) for one in mine),
        only_champion=_only(mine, others),
        only_other=_only(others, mine),
    )


def sides(serving: Serving, event_ns: int) -> dict[str, Side]:
    """How each version that runs did since the last order, by its role."""
    elapsed_ns = max(event_ns - serving.since_ns, 1)
    told = [one for one in serving.champion.alerting.told() if one.time_ns >= serving.since_ns]
    return {
        role: _side(model, model.alerting.ledger.since(serving.since_ns), told, elapsed_ns)
        for role, model in zip(("champion", serving.role), serving.models, strict=False)
    }


def _side(model: Model, alerts: Sequence[Raised], told: Sequence[Verdict], elapsed_ns: int) -> Side:
    false, missed = 0, 0
    for one in told:
        raised = _raised(alerts, one.series, one.time_ns, one.time_ns)
        false += raised and one.kind == KINDS[FALSE_ALERT]
        missed += not raised and one.kind in (KINDS[TRUE_ALERT], KINDS[MISSED])
    points = int(model.seen["points"][0])
    return Side(
        version=model.name,
        points=points,
        over_ratio=float(model.seen["over"][0]) / points if points else float("nan"),
        alerts=len(alerts),
        a_week=len(alerts) * WEEK_NS / elapsed_ns,
        calibration_error=calibration_error(model.seen["probability"]),
        false_alerts=false,
        missed=missed,
    )


def calibration_error(counts: NDArray[Any]) -> float:
    """The largest distance of a distribution over equal bins from the uniform one; NaN for nothing counted."""
    total = counts.sum()
    return float(np.abs(counts.cumsum() / total - np.arange(1, BINS + 1) / BINS).max()) if total else float("nan")


def known_calibration_error(model: Model) -> float:
    """The same of a version since the last order; NaN while it has scored so few points that chance decides."""
    enough = model.seen["probability"].sum() >= LEAST_POINTS
    return calibration_error(model.seen["probability"]) if enough else float("nan")


def _raised(alerts: Sequence[Raised], series: int, since_ns: int, until_ns: int) -> bool:
    """Whether a series has an alert near a stretch of time."""
    return any(
        one.fingerprint == series and one.since_ns - NEAR_NS <= until_ns and since_ns <= one.time_ns + NEAR_NS
        for one in alerts
    )


def _only(alerts: Sequence[Raised], others: Sequence[Raised]) -> tuple[Raised, ...]:
    return tuple(one for one in alerts if not _raised(others, one.fingerprint, one.since_ns, one.time_ns))
