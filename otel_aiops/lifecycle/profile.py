"""Profile: what the points of a dataset are like, by service, and the gate that refuses to train on bad ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from otel_aiops.errors import ConfigError
from otel_aiops.otlp.points import F64, I64

HOUR_S = 3_600
HOURS_MEASURED = 48  # of a window, evenly spaced, in which the intervals of series are measured
SERVICES_SHOWN = 200  # those with most series; the others are one line
OTHERS = "(others)"
MOSTLY_RISING = 0.02  # of the changes of a series; with fewer falls it is a counter, and each fall a reset
RISES_OF_COUNTER = 20
DIGITS = 6
NAMED = 3  # services that a reason names


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What some series are like. Ratios are of rows, but `constant_ratio` and `counter_ratio` of series.

    `missing_ratio` is the share of points that should have come between the first and last point of each series, by its
    own interval, and did not; excluded stretches do not count. Resets are falls of series that otherwise only rise:
    counters that were sent as gauges (`counter_ratio`), because those of sums are taken out on arrival.
    `out_of_order_ratio` is 0 in what the service has recorded, which takes points in the order of time. Times are those
    of the oldest point, of the newest point, and of the first point of the youngest series; 0 without points.
    """

    rows: int = 0
    series: int = 0
    interval_s: float = 0.0  # median of series
    missing_ratio: float = 0.0
    duplicate_ratio: float = 0.0
    out_of_order_ratio: float = 0.0
    non_finite_ratio: float = 0.0
    constant_ratio: float = 0.0
    counter_ratio: float = 0.0
    resets: int = 0
    oldest_ns: int = 0
    newest_ns: int = 0
    youngest_ns: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a dataset is like as a whole and by service. `hours` of its window have `hours_empty` without any segment
    and `hours_lost` whose segment is damaged; `rows_excluded` were selected and left out.
    """

    all: Measures = field(default_factory=Measures)
    services: tuple[tuple[str, Measures], ...] = ()
    hours: int = 0
    hours_empty: int = 0
    hours_lost: int = 0
    rows_excluded: int = 0
    labels: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        counts = {name: getattr(self, name) for name in self.__slots__ if name not in ("all", "services")}
        return {**counts, "all": self.all.to_json(), "services": {name: of.to_json() for name, of in self.services}}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Profile:
        """What `to_json` gave. Raises: TypeError, KeyError."""
        counts = {name: value for name, value in tree.items() if name not in ("all", "services")}
        services = tuple((name, Measures(**of)) for name, of in tree["services"].items())
        return cls(all=Measures(**tree["all"]), services=services, **counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityLimits:
    """What data must be like before a model may learn from it."""

    min_rows: int = 1_000  # points
    min_days: float = 1.0  # between the oldest and the newest point
    max_missing: float = 0.2  # share of the points that series should have had by their own intervals
    max_duplicate: float = 0.01  # share of points with a time that their series had already
    max_out_of_order: float = 0.01  # share of points that are older than the one before
    max_non_finite: float = 0.01  # share of points that are no number
    max_constant: float = 0.9  # share of series that never change
    max_counters: float = 0.1  # share of series that are counters sent as gauges, which have resets
    max_hours_empty: float = 0.2  # share of the hours of the window of which nothing was recorded
    max_hours_lost: float = 0.02  # share of the hours whose segment is damaged
    max_excluded: float = 0.5  # share of the selected points that exclusions take away

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not value >= 0:
                raise ConfigError(name, f"must be >= 0, got {value}")
            if name.startswith("max_") and value > 1:
                raise ConfigError(name, f"must be a share of at most 1, got {value}")


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """Whether models may learn from a dataset, why not in plain words, and the limits that were asked for."""

    passed: bool
    reasons: tuple[str, ...] = ()
    limits: tuple[tuple[str, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"passed": self.passed, "reasons": list(self.reasons), "limits": dict(self.limits)}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> GateVerdict:
        """What `to_json` gave. Raises: KeyError, TypeError."""
        return cls(bool(tree["passed"]), tuple(tree["reasons"]), tuple(sorted(tree["limits"].items())))


def quality_gate(profile: Profile, limits: QualityLimits) -> GateVerdict:
    """Say whether data is good enough to learn from, and all reasons against it."""
    of, hours = profile.all, max(1, profile.hours)
    days = (of.newest_ns - of.oldest_ns) / 86_400e9
    selected = max(1, of.rows + profile.rows_excluded)
    reasons = []
    if of.rows < limits.min_rows:
        reasons.append(f"expected at least {limits.min_rows} points, got {of.rows}")
    if days < limits.min_days:
        reasons.append(f"expected points of at least {limits.min_days:g} days, got {days:.2f}")
    for name, limit, what in (
        ("missing_ratio", limits.max_missing, "of the points that should have come are missing"),
        ("duplicate_ratio", limits.max_duplicate, "of the points are duplicates"),
        ("out_of_order_ratio", limits.max_out_of_order, "of the points are out of order"),
        ("non_finite_ratio", limits.max_non_finite, "of the points are no numbers"),
        ("constant_ratio", limits.max_constant, "of the series never change"),
        ("counter_ratio", limits.max_counters, "of the series are counters sent as gauges"),
    ):
        if getattr(of, name) > limit:
            reasons.append(_share(getattr(of, name), limit, what) + _worst(profile, name))
    for share, limit, what in (
        (profile.hours_empty / hours, limits.max_hours_empty, "of the hours have no data"),
        (profile.hours_lost / hours, limits.max_hours_lost, "of the hours have a damaged segment"),
        (profile.rows_excluded / selected, limits.max_excluded, "of the selected points are excluded"),
    ):
        if share > limit:
            reasons.append(_share(share, limit, what))
    asked = tuple((name, float(getattr(limits, name))) for name in sorted(limits.__slots__))
    return GateVerdict(not reasons, tuple(reasons), asked)


def _share(share: float, limit: float, what: str) -> str:
    return f"{share:.1%} {what}, expected at most {limit:.1%}"


def _worst(profile: Profile, name: str) -> str:
    """The services where a share is highest."""
    ranked = sorted(profile.services, key=lambda one: (-getattr(one[1], name), one[0]))[:NAMED]
    named = [f"{service} {getattr(of, name):.1%}" for service, of in ranked if getattr(of, name)]
    return f" (most: {', '.join(named)})" if named else ""


# -- measuring --------------------------------------------------------------------------------------------------------

_COLUMNS: dict[str, tuple[type, Any]] = {
    "rows": (np.int64, 0),
    "first_ns": (np.int64, np.iinfo(np.int64).max),
    "last_ns": (np.int64, 0),
    "last": (np.float64, np.nan),
    "least": (np.float64, np.nan),
    "most": (np.float64, np.nan),
    "duplicates": (np.int64, 0),
    "backward": (np.int64, 0),
    "non_finite": (np.int64, 0),
    "rises": (np.int64, 0),
    "falls": (np.int64, 0),
}


class Profiler:
    """Measures points as they are read, hour by hour; memory is about 100 bytes a series and 200 for its intervals."""

    def __init__(self) -> None:
        self.of: dict[str, Any] = {name: np.empty(0, kind) for name, (kind, _) in _COLUMNS.items()}
        self._intervals: list[tuple[I64, F64]] = []

    def take(self, code: I64, time_ns: I64, value: F64, *, intervals: bool) -> None:
        """N points, those of a series together and in the order of time; `intervals` says to measure these too.

        Shape: all (N,). `code` numbers series from 0.
        """
        if not len(code):
            return
        self._reserve(int(code.max()) + 1)
        starts = np.flatnonzero(np.concatenate([[True], code[1:] != code[:-1]]))
        series, of = code[starts], self.of
        before_ns, before = (
            _shifted(time_ns, starts, of["last_ns"][series]),
            _shifted(value, starts, of["last"][series]),
        )
        step_ns = np.where(before_ns > 0, time_ns - before_ns, 1)
        with np.errstate(invalid="ignore"):
            counts = {
                "duplicates": step_ns == 0,
                "backward": step_ns < 0,
                "non_finite": ~np.isfinite(value),
                "rises": value > before,
                "falls": value < before,
            }
        for name, flags in counts.items():
            np.add.at(of[name], series, np.add.reduceat(flags, starts, dtype=np.int64))
        ends = np.append(starts[1:], len(code))
        np.add.at(of["rows"], series, ends - starts)
        np.minimum.at(of["first_ns"], series, np.minimum.reduceat(time_ns, starts))
        np.maximum.at(of["last_ns"], series, np.maximum.reduceat(time_ns, starts))
        of["last"][series] = value[ends - 1]
        np.fmin.at(of["least"], series, np.fmin.reduceat(value, starts))
        np.fmax.at(of["most"], series, np.fmax.reduceat(value, starts))
        if intervals:
            self._measure(series, starts, ends, time_ns)

    def done(
        self, services: Sequence[str], excluded: Callable[[I64, I64, I64], F64]
    ) -> tuple[Measures, tuple[tuple[str, Measures], ...], dict[str, Any]]:
        """All, by service, and by series: rows, first_ns, last_ns, interval_s and missing_ratio, (S,) each.

        `services` has the service of each series. `excluded(codes, first_ns, last_ns)` gives the seconds of these
        stretches that exclusions take away.
        """
        self._reserve(len(services))
        some = np.flatnonzero(self.of["rows"])
        kept = {name: column[some] for name, column in self.of.items()}
        kept["interval_s"] = interval_s = self._interval_s()[some]
        span_s = (kept["last_ns"] - kept["first_ns"]) / 1e9
        span_s = np.maximum(0.0, span_s - excluded(some, kept["first_ns"], kept["last_ns"]))
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = np.where(interval_s > 0, np.floor(span_s / interval_s + 0.5) + 1, kept["rows"])
        kept["expected"] = np.maximum(expected, 1)
        kept["missing"] = np.maximum(0, expected - (kept["rows"] - kept["duplicates"]))
        names = [services[k] for k in some.tolist()]
        every = {
            "code": some,
            "rows": kept["rows"],
            "first_ns": kept["first_ns"],
            "last_ns": kept["last_ns"],
            "interval_s": np.round(interval_s, DIGITS),
            "missing_ratio": np.round(kept["missing"] / kept["expected"], DIGITS),
        }
        return _measures(kept, np.ones(len(some), bool)), _by_service(kept, names), every

    def _measure(self, series: I64, starts: I64, ends: I64, time_ns: I64) -> None:
        """Note the median step of every series that has at least two in these points."""
        enough = ends - starts >= 3
        series, starts, ends = series[enough], starts[enough], ends[enough]
        if not len(series):
            return
        many = ends - starts - 1
        first = np.cumsum(many) - many
        run = np.repeat(np.arange(len(starts)), many)
        at = np.arange(len(run)) + np.repeat(starts + 1 - first, many)
        steps = time_ns[at] - time_ns[at - 1]
        order = np.lexsort((steps, run))
        middle = steps[order[first + many // 2]]
        self._intervals.append((series, middle / 1e9))

    def _interval_s(self) -> F64:
        """The typical interval of every series, the median of those measured, else its mean one."""
        size = len(self.of["rows"])
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (self.of["last_ns"] - self.of["first_ns"]) / 1e9 / (self.of["rows"] - 1)
        found = np.where(self.of["rows"] > 1, mean, np.nan)
        if self._intervals:
            series = np.concatenate([one for one, _ in self._intervals])
            interval = np.concatenate([one for _, one in self._intervals])
            order = np.lexsort((interval, series))
            count = np.bincount(series, minlength=size)
            first = np.cumsum(count) - count
            has = count > 0
            found[has] = interval[order[(first + count // 2)[has]]]
        return np.where(np.isfinite(found) & (found > 0), found, np.nan)

    def _reserve(self, size: int) -> None:
        have = len(self.of["rows"])
        if size > have:
            for name, (kind, empty) in _COLUMNS.items():
                self.of[name] = np.concatenate([self.of[name], np.full(max(size, 2 * have) - have, empty, kind)])


def _shifted(column: Any, starts: I64, first: Any) -> Any:
    """What came before each point of its series."""
    before = np.empty_like(column)
    before[1:] = column[:-1]
    before[starts] = first
    return before


def _by_service(kept: Mapping[str, Any], services: Sequence[str]) -> tuple[tuple[str, Measures], ...]:
    """Measures by service, by name; beyond SERVICES_SHOWN with most series, the others together."""
    names, code, counts = np.unique(np.array(services, object).astype(str), return_inverse=True, return_counts=True)
    shown = np.zeros(len(names), bool)
    shown[np.argsort(-counts, kind="stable")[:SERVICES_SHOWN]] = True
    found = [(str(names[k]), _measures(kept, code == k)) for k in np.flatnonzero(shown).tolist()]
    rest = ~shown[code] if len(names) else np.zeros(0, bool)
    return (*found, (OTHERS, _measures(kept, rest))) if rest.any() else tuple(found)


def _measures(kept: Mapping[str, Any], mine: Any) -> Measures:
    """What some of the series are like."""
    of = {name: column[mine] for name, column in kept.items()}
    rows, series = int(of["rows"].sum()), int(mine.sum())
    if not series:
        return Measures()
    changes = of["rises"] + of["falls"]
    counter = (of["rises"] >= RISES_OF_COUNTER) & (of["falls"] > 0) & (of["falls"] <= MOSTLY_RISING * changes)
    interval_s = float(np.nanmedian(of["interval_s"])) if np.isfinite(of["interval_s"]).any() else 0.0
    constant = (of["least"] == of["most"]) & (of["rows"] > 1)
    return Measures(
        rows=rows,
        series=series,
        interval_s=round(interval_s, DIGITS),
        missing_ratio=_ratio(of["missing"].sum(), of["expected"].sum()),
        duplicate_ratio=_ratio(of["duplicates"].sum(), rows),
        out_of_order_ratio=_ratio(of["backward"].sum(), rows),
        non_finite_ratio=_ratio(of["non_finite"].sum(), rows),
        constant_ratio=_ratio(constant.sum(), series),
        counter_ratio=_ratio(counter.sum(), series),
        resets=int(of["falls"][counter].sum()),
        oldest_ns=int(of["first_ns"].min()),
        newest_ns=int(of["last_ns"].max()),
        youngest_ns=int(of["first_ns"].max()),
    )


def _ratio(part: Any, whole: Any) -> float:
    return round(float(part) / float(whole), DIGITS) if whole and math.isfinite(whole) else 0.0
