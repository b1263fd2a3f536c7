"""Health of what serves: all that monitoring knows at one time, and in plain words what is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from otel_aiops.detect.budget import BudgetReport
from otel_aiops.errors import ConfigError
from otel_aiops.lifecycle.behaviour import Promise, Rate
from otel_aiops.lifecycle.drift import Drift, DriftLimits
from otel_aiops.lifecycle.performance import Estimated, Judged

HOUR_S, DAY_S = 3_600.0, 86_400.0
OVERSPENT = 1.5  # times the budget
OVER_DEVIATIONS = 2.0  # and as much more as so many deviations of a Poisson count
WORST_PRECISION = 0.5  # that verdicts are sure of to be less


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoringConfig:
    """How the model that serves is watched."""

    enabled: bool = True  # look by itself
    interval: float = HOUR_S  # s between two looks
    window: float = 6 * HOUR_S  # s of live data that are compared at once, with the same times of day or week
    looks: int = 24  # such windows in a row, an hour apart, that must differ before it is persistent
    reference: float = 14 * DAY_S  # s of data to compare with; two weeks know the days of the week
    gap: float = 7 * DAY_S  # s before now at which the reference ends where no version was trained on a dataset
    effect: float = 0.5  # spreads by which values must differ, beyond what days differ from each other by themselves
    share: float = 0.3  # of the series of a metric of a service that must differ
    series: int = 10  # of a metric of a service that are compared, always the same ones
    groups: int = 200  # metrics of services that are compared, those with most series
    calibration: float = 3.0  # times as often as promised, or as seldom, that a probability may be reached
    verdicts: float = 28 * DAY_S  # s of verdicts that count, and as much before to compare with

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        for name, least in (("interval", 0.0), ("gap", -1.0), ("effect", 0.0), ("verdicts", 0.0)):
            if not getattr(self, name) > least:
                raise ConfigError(name, f"must be > {max(least, 0):g}, got {getattr(self, name)}")
        for name, low, high in (("window", HOUR_S, 7 * DAY_S), ("reference", 2 * DAY_S, 90 * DAY_S)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(name, f"must be in {low:g} .. {high:g} s, got {getattr(self, name)}")
        for name in ("looks", "series", "groups"):
            if not 1 <= getattr(self, name) <= 10_000:
                raise ConfigError(name, f"must be in 1 .. 10000, got {getattr(self, name)}")
        if not 0 < self.share <= 1:
            raise ConfigError("share", f"must be in (0, 1], got {self.share}")
        if not self.calibration > 1:
            raise ConfigError("calibration", f"must be > 1, got {self.calibration}")

    @property
    def window_hours(self) -> int:
        """Hours that are compared at once."""
        return round(self.window / HOUR_S)

    @property
    def limits(self) -> DriftLimits:
        """What counts as drift."""
        return DriftLimits(effect=self.effect, share=self.share, window=self.window_hours, looks=self.looks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgeted:
    """An objective's alerts a week: promised, and in the last week."""

    name: str
    promised: float
    used: int
    projected: float

    @property
    def overspent(self) -> bool:
        """Whether it is plainly more than was promised."""
        least = self.promised + OVER_DEVIATIONS * math.sqrt(self.promised)
        return self.used > max(OVERSPENT * self.promised, least)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """What the newest self-test found: recall by kind of fault, and its complaints."""

    recall: Mapping[str, float]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What serves, and how it does; `time_ns` is the event time of the look, 0 before the first.

    `drifts` are those of now, also such as are not persistent yet; `groups` all metrics of services that were compared,
    those that drifted most first. `notes` say what is not known, and why.
    """

    time_ns: int = 0
    version: str = ""
    reference: str = ""
    drifts: tuple[Drift, ...] = ()
    groups: tuple[Drift, ...] = ()
    unmatched: int = 0
    rates: tuple[Rate, ...] = ()
    promises: tuple[Promise, ...] = ()
    calibration_error: float = math.nan
    budgets: tuple[Budgeted, ...] = ()
    selftest: SelfTest | None = None
    judged: Judged | None = None
    judged_before: Judged | None = None
    estimated: Estimated | None = None
    config: MonitoringConfig = field(default_factory=MonitoringConfig)
    notes: tuple[str, ...] = ("nothing was looked at yet",)

    @property
    def persistent(self) -> tuple[Drift, ...]:
        """Drifts that have lasted."""
        return tuple(one for one in self.drifts if one.persistent)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, in plain words; nothing when all is well."""
        return tuple(self._problems())

    def _problems(self) -> Iterator[str]:
        yield from (one.text for one in self.persistent)
        yield from (one.text for one in self.rates if one.unusual)
        said = {one.what for one in self.persistent}
        for one in self.promises if "probabilities" not in said else ():
            if one.times >= self.config.calibration:
                yield f"probabilities of {one.level:g} or more come {one.times:.2g} times as often as they promise"
        for budget in self.budgets:
            if budget.overspent:
                yield f"{budget.used} alerts of {budget.name} in the last week, promised were {budget.promised:.3g}"
        if self.selftest is not None:
            yield from (f"self-test: {one}" for one in self.selftest.problems)
        if self.judged is not None and self.judged.high < WORST_PRECISION:
            of = self.judged
            yield f"only {of.true} of {of.true + of.false} alerts with a verdict were true, {of.high:.0%} at best"

    def to_json(self) -> dict[str, Any]:
        """As plain values; what is not known is None."""
        return {
            "time": self.time_ns / 1e9 or None,
            "version": self.version or None,
            "reference": self.reference or None,
            "problems": list(self.problems),
            "drifts": [_plain(one) for one in self.drifts],
            "groups": [_plain(one) for one in self.groups],
            "unmatched": self.unmatched,
            "rates": [_plain(one) for one in self.rates],
            "promises": [_plain(one) for one in self.promises],
            "calibration_error": _known(self.calibration_error),
            "budgets": [_plain(one) | {"overspent": one.overspent} for one in self.budgets],
            "selftest": _plain(self.selftest),
            "verdicts": _plain(self.judged),
            "verdicts_before": _plain(self.judged_before),
            "estimated": _plain(self.estimated),
            "notes": list(self.notes),
        }


def budgeted(reports: list[BudgetReport]) -> tuple[Budgeted, ...]:
    """Budgets that have series."""
    return tuple(
        Budgeted(name=one.name, promised=one.budget, used=one.actual, projected=one.projected)
        for one in reports
        if one.series
    )


def self_test(report: Mapping[str, Any] | None) -> SelfTest | None:
    """What a report of the self-test says; None for none."""
    if report is None:
        return None
    recall = {name: found["recall"] for name, found in report["faults"].items() if found["recall"] is not None}
    return SelfTest(recall=recall, problems=tuple(report["problems"]))


def _plain(one: Any) -> Any:
    return None if one is None else {key: _known(value) for key, value in asdict(one).items()}


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
