"""The gate: whether a report is good enough for its version to serve, by rules that anybody can read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from otel_aiops.errors import ConfigError
from otel_aiops.lifecycle.objective import CostConfig
from otel_aiops.lifecycle.report import BASELINE, CHAMPION, FaultTrial, Report, Side
from otel_aiops.otlp.points import F64

BLOCKS = 14  # at least, in which a hold-out is cut
DAY_NS = 86_400_000_000_000
SEED = 7
RESAMPLES = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """What a version must be like to serve."""

    margin: float = 0.1  # that mistakes may cost more, of those of the champion or of the budget, whichever is more
    recall_margin: float = 0.05  # by which the share of injected faults that are found may be lower
    confidence: float = 0.95  # with which a version is not worse than the champion
    least_fault_recall: float = 0.3  # of injected faults that must have an alert
    most_us_per_point: float = 2_000.0  # CPU time in millionths of a second
    most_bytes_per_series: int = 16_384  # that are remembered
    calibration: float = 0.05  # that its probabilities may be farther off than the champion's

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        for name in ("margin", "recall_margin", "calibration"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(name, f"must be in [0, 1], got {getattr(self, name)}")
        if not 0.5 < self.confidence < 1:
            raise ConfigError("confidence", f"must be in (0.5, 1), got {self.confidence}")
        if not 0 <= self.least_fault_recall <= 1:
            raise ConfigError("least_fault_recall", f"must be in [0, 1], got {self.least_fault_recall}")
        for name in ("most_us_per_point", "most_bytes_per_series"):
            if not getattr(self, name) > 0:
                raise ConfigError(name, f"must be > 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One rule, and what came of it."""

    name: str
    passed: bool
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the gate says of a version; `reasons` are those of a no, `figures` what the rules looked at."""

    version: str
    passed: bool
    checks: tuple[Check, ...]
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why not; nothing where it passed."""
        return tuple(f"{one.name}: {one.words}" for one in self.checks if not one.passed)

    def to_json(self) -> dict[str, Any]:
        """As plain values, NaN as None."""
        figures = {name: value if math.isfinite(value) else None for name, value in self.figures.items()}
        return {**asdict(self), "figures": figures, "reasons": list(self.reasons)}

    def markdown(self) -> str:
        """For a pull request."""
        head = f"### Version `{self.version}`: {'passed' if self.passed else 'not good enough'}"
        rows = [f"| {'✅' if one.passed else '❌'} | {one.name} | {one.words} |" for one in self.checks]
        return "\n".join([head, "", "| | rule | what was found |", "|---|---|---|", *rows, ""])


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference between two sides with its interval; NaN where nothing can be compared."""

    mean: float
    low: float
    high: float


NOTHING = Difference(float("nan"), float("nan"), float("nan"))


def gate(report: Report, config: GateConfig | None = None, cost: CostConfig | None = None) -> Verdict:
    """Say whether a version may serve; equal reports give equal verdicts.

    Mistakes cost what the objective says: a missed event by its confidence, and a false alert. Where nothing is
    labelled, only what somebody called false counts. Two sides are compared on the same blocks of time, and on the same
    injected faults by series, by a paired bootstrap with a fixed seed. Not worse means: with the stated confidence the
    difference is within the margin. Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    config, cost = config or GateConfig(), cost or CostConfig()
    figures: dict[str, float] = {}
    checks = list(_checks(report, config, cost, figures))
    mine = {f"candidate.{name}": float(value) for name, value in report.candidate.figures().items()}
    passed = all(one.passed for one in checks)
    return Verdict(version=report.version, passed=passed, checks=tuple(checks), figures={**mine, **figures})


def _checks(report: Report, config: GateConfig, cost: CostConfig, figures: dict[str, float]) -> Iterator[Check]:
    mine, champion, baseline = report.candidate, report.side(CHAMPION), report.side(BASELINE)
    if baseline is not None:
        yield _better(report, mine, baseline, config, cost, figures)
    if champion is not None:
        yield from _not_worse(report, mine, champion, config, cost, figures)
        yield _calibrated(mine, champion, config)
    else:
        yield Check(name="not worse than the champion", passed=True, words="there is no champion yet")
    yield _no_regression(mine, champion)
    recall = mine.fault_recall
    yield Check(
        name="finds faults",
        passed=recall >= config.least_fault_recall,
        words=f"{_share(recall)} of {len(mine.trials)} injected faults; at least {config.least_fault_recall:.0%}",
    )
    us, size = mine.cost.us_per_point, mine.cost.bytes_per_series
    within = not us > config.most_us_per_point and size <= config.most_bytes_per_series
    limits = f"at most {config.most_us_per_point:g} µs and {config.most_bytes_per_series} B"
    yield Check(name="within its cost", passed=within, words=f"{us:.0f} µs a point, {size} B a series; {limits}")


def _better(
    report: Report, mine: Side, other: Side, config: GateConfig, cost: CostConfig, figures: dict[str, float]
) -> Check:
    """Better in one thing for sure, and worse in none."""
    losses, recalls = _losses(report, mine, other, config, cost), _recalls(mine, other, config)
    margin = _margin(report, other, config, cost)
    figures |= {"baseline.cost": losses.mean, "baseline.cost_high": losses.high}
    figures |= {"baseline.recall": recalls.mean, "baseline.recall_low": recalls.low}
    better = losses.high < 0 or recalls.low > 0
    worse = losses.low > margin or recalls.high < -config.recall_margin
    words = f"mistakes cost {_interval(losses)} a week, faults found {_points(recalls)}"
    return Check(name="better than seasonal-naive", passed=better and not worse, words=words)


def _not_worse(
    report: Report, mine: Side, other: Side, config: GateConfig, cost: CostConfig, figures: dict[str, float]
) -> Iterator[Check]:
    losses, recalls = _losses(report, mine, other, config, cost), _recalls(mine, other, config)
    margin = _margin(report, other, config, cost)
    figures |= {"champion.cost": losses.mean, "champion.cost_high": losses.high, "champion.margin": margin}
    figures |= {"champion.recall": recalls.mean, "champion.recall_low": recalls.low}
    yield Check(
        name="mistakes cost no more than the champion's",
        passed=not losses.high > margin,
        words=f"{_interval(losses)} a week; at most {margin:+.2f} with {config.confidence:.0%} confidence",
    )
    yield Check(
        name="finds as many faults as the champion",
        passed=not recalls.low < -config.recall_margin,
        words=f"{_points(recalls)}; at least {-100 * config.recall_margin:+.0f} points",
    )


def _calibrated(mine: Side, champion: Side, config: GateConfig) -> Check:
    error, before = mine.calibration_error, champion.calibration_error
    return Check(
        name="probabilities as true as the champion's",
        passed=not error > before + config.calibration,
        words=f"off by {error:.3f}, those of the champion by {before:.3f}",
    )


def _no_regression(mine: Side, champion: Side | None) -> Check:
    """No case at which the champion does right and this version wrong."""
    before = {one.id: one.right for one in champion.cases} if champion else {}
    lost = [one for one in mine.cases if not one.right and before.get(one.id, False)]
    wrong = sum(not one.right for one in mine.cases)
    words = f"{len(mine.cases)} cases, {wrong} wrong, of these {len(lost)} right before"
    if lost:
        words += ": " + ", ".join(f"{one.kind} {one.id}" for one in lost[:5])
    return Check(name="no regression on frozen cases", passed=not lost, words=words)


# -- comparing --------------------------------------------------------------------------------------------------------


def _losses(report: Report, mine: Side, other: Side, config: GateConfig, cost: CostConfig) -> Difference:
    """What mistakes cost more than the other's, a week."""
    a, b = (losses(report, side, cost) for side in (mine, other))
    each_week = len(a) / report.weeks
    return bootstrap(each_week * (a - b), config.confidence)


def losses(report: Report, side: Side, cost: CostConfig) -> F64:
    """What the mistakes of a side cost in each block of time, (B,): days, or shorter ones for a short hold-out."""
    start, end = report.window
    count = max(BLOCKS, round((end - start) / DAY_NS))
    found = np.zeros(count)
    for one in side.alerts:
        if not one.true and not one.duplicate and (one.called_false or side.events):
            found[_block(one.start_ns, start, end, count)] += cost.false_alert
    for event in side.events:
        if not event.caught:
            found[_block(event.event.start_ns, start, end, count)] += cost.miss * event.event.confidence
    return found


def _block(time_ns: int, start: int, end: int, count: int) -> int:
    return min(max((time_ns - start) * count // max(end - start, 1), 0), count - 1)


def _margin(report: Report, other: Side, config: GateConfig, cost: CostConfig) -> float:
    """What mistakes may cost more a week."""
    usual = float(losses(report, other, cost).sum()) / report.weeks
    budget = cost.false_alert * report.budget if math.isfinite(report.budget) else 0.0
    return config.margin * max(usual, budget)


def _recalls(mine: Side, other: Side, config: GateConfig) -> Difference:
    """By how much the share of faults found is higher, on those that both were tried with; drawn by series."""
    before = {(one.kind, one.series): one.found for one in other.trials}
    pairs = [(one.series, int(one.found) - int(before[key])) for one in mine.trials if (key := _key(one)) in before]
    names = sorted({name for name, _ in pairs})
    sums = np.array([sum(value for of, value in pairs if of == name) for name in names], np.float64)
    sizes = np.array([sum(of == name for of, _ in pairs) for name in names], np.float64)
    return bootstrap(sums, config.confidence, sizes)


def _key(one: FaultTrial) -> tuple[str, str]:
    return one.kind, one.series


def bootstrap(values: F64, confidence: float, sizes: F64 | None = None) -> Difference:
    """The mean of paired differences (N,) with the bounds that it is beyond with this confidence, one side each.

    With `sizes` values are sums over so many pairs that are drawn together.
    """
    if not len(values):
        return NOTHING
    weight = np.ones(len(values)) if sizes is None else sizes
    drawn = np.random.default_rng(SEED).integers(0, len(values), (RESAMPLES, len(values)))
    means = values[drawn].sum(axis=1) / weight[drawn].sum(axis=1)
    low, high = np.quantile(means, [1 - confidence, confidence])
    return Difference(float(values.sum() / weight.sum()), float(low), float(high))


def _interval(found: Difference) -> str:
    if math.isnan(found.mean):
        return "nothing to compare"
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def _points(found: Difference) -> str:
    if math.isnan(found.mean):
        return "nothing to compare"
    return f"{100 * found.mean:+.0f} points ({100 * found.low:+.0f} to {100 * found.high:+.0f})"


def _share(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.0%}"
