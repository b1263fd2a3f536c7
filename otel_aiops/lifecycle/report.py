"""The report of a version: how it, the champion and the seasonal-naive baseline do on the same held-out points."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from otel_aiops.errors import StateError, StorageError
from otel_aiops.lifecycle.cases import CaseResult
from otel_aiops.lifecycle.comparison import calibration_error
from otel_aiops.lifecycle.events import (
    Alert,
    Caught,
    Event,
    coverage,
    median_delay_s,
    poisson_interval,
    precision,
    recall,
)

FORMAT = 1
REPORT, PAGE = "report.json", "report.html"
CANDIDATE, CHAMPION, BASELINE = "candidate", "champion", "baseline"
WEEK_NS = 7 * 86_400_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultTrial:
    """A fault of a kind that was put in a copy of a series: whether it had an alert, and after how long (else NaN)."""

    kind: str
    series: str
    found: bool
    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a detector takes; the times are those of the machine that evaluated it."""

    cpu_s: float
    points: int
    bytes_per_series: int

    @property
    def us_per_point(self) -> float:
        """CPU time of a point; NaN without points."""
        return 1e6 * self.cpu_s / self.points if self.points else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """How one detector did. `begun` says with what: what a version had learned, or the history before.

    `probability` are counts of points by their probability, in equal bins.
    """

    role: str
    name: str
    begun: str
    weeks: float
    points: int
    over: int
    threshold: float  # in alert scores, the median over the series
    alerts: tuple[Alert, ...] = ()
    events: tuple[Caught, ...] = ()
    trials: tuple[FaultTrial, ...] = ()
    cases: tuple[CaseResult, ...] = ()
    probability: tuple[float, ...] = ()
    cost: Cost

    @property
    def false_alerts(self) -> int:
        """Alerts that fit to no event, and are no part of one either."""
        return sum(not one.true and not one.duplicate for one in self.alerts)

    @property
    def called_false(self) -> int:
        """Of these, those in a time that a label calls normal or expected."""
        return sum(one.called_false for one in self.alerts)

    @property
    def false_a_week(self) -> float:
        """False alerts a week; NaN without time."""
        return self.false_alerts / self.weeks if self.weeks > 0 else float("nan")

    @property
    def fault_recall(self) -> float:
        """The share of injected faults with an alert; NaN without any."""
        return float(np.mean([one.found for one in self.trials])) if self.trials else float("nan")

    @property
    def fault_delay_s(self) -> float:
        """The median time from a fault to its alert; NaN without any."""
        delays = [one.delay_s for one in self.trials if one.found]
        return float(np.median(delays)) if delays else float("nan")

    @property
    def calibration_error(self) -> float:
        """The largest distance of the distribution of probabilities from the uniform one; NaN without points."""
        return calibration_error(np.array(self.probability)) if self.probability else float("nan")

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """(found, tried) by kind of fault."""
        found: dict[str, tuple[int, int]] = {}
        for one in self.trials:
            before = found.get(one.kind, (0, 0))
            found[one.kind] = (before[0] + one.found, before[1] + 1)
        return found

    def figures(self) -> dict[str, float]:
        """All numbers that sum it up, NaN where there is none."""
        low, high = poisson_interval(self.false_alerts, self.weeks)
        missed = sum(not one.caught for one in self.events)
        return {
            "alerts": len(self.alerts),
            "precision": precision(self.alerts) if self.events else float("nan"),
            "events": len(self.events),
            "missed": missed,
            "recall": recall(self.events),
            "covered": coverage(self.events),
            "delay_s": median_delay_s(self.events),
            "false_alerts": self.false_alerts,
            "called_false": self.called_false,
            "false_a_week": self.false_a_week,
            "false_a_week_low": low,
            "false_a_week_high": high,
            "fault_recall": self.fault_recall,
            "fault_delay_s": self.fault_delay_s,
            "calibration_error": self.calibration_error,
            "cases": len(self.cases),
            "cases_wrong": sum(not one.right for one in self.cases),
            "threshold": self.threshold,
            "over_ratio": self.over / self.points if self.points else float("nan"),
            "us_per_point": self.cost.us_per_point,
            "bytes_per_series": self.cost.bytes_per_series,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What verdicts changed, measured: the version on the same points without and with what they teach.

    `kinds` counts those that were given, and about times, before the hold-out; `late` ones teach nothing here, or the
    figures would know of what they are measured on.
    """

    kinds: Mapping[str, int]
    late: int
    without: Mapping[str, float]
    taught: Mapping[str, float]

    @property
    def verdicts(self) -> int:
        """How many count."""
        return sum(self.kinds.values())

    def sentence(self) -> str:
        """For people: `14 verdicts: false alerts 31 → 9 a week`."""
        late = f"; {self.late} came too late to be measured" if self.late else ""
        if not self.verdicts:
            return f"no verdict is from before the hold-out{late}"
        found = [f"false alerts {self._both('false_a_week', '{:.3g}')} a week"]
        for name, words in (("recall", "events with an alert"), ("fault_recall", "injected faults found")):
            if math.isfinite(self.without[name]):
                found.append(f"{words} {self._both(name, '{:.0%}')}")
        return f"{self.verdicts} verdict{'s' * (self.verdicts > 1)}: {', '.join(found)}{late}"

    def _both(self, name: str, shown: str) -> str:
        return f"{shown.format(self.without[name])} → {shown.format(self.taught[name])}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The values of a series for a picture: means of equal stretches, (T,), NaN where nothing came."""

    series: str
    start_ns: int
    step_ns: int
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is known of a version. `window` is [start, end) of the points that were held out."""

    version: str
    dataset: str = ""
    objective: str = ""
    window: tuple[int, int]
    series: int
    drawn_of: int  # series of the data; of very many some are drawn
    sides: tuple[Side, ...]
    pictures: tuple[Drawn, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    changed: Mapping[str, Any] = field(default_factory=dict)  # key → [of the champion, of the version]
    lineage: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)
    budget: float = float("nan")  # alerts a week
    tolerance_s: float = 300.0
    seed: int = 0
    notes: tuple[str, ...] = ()
    feedback: Feedback | None = None

    @property
    def weeks(self) -> float:
        """How long the points that were held out last."""
        return (self.window[1] - self.window[0]) / WEEK_NS

    def side(self, role: str) -> Side | None:
        """The detector in a role; None where there was none."""
        return next((one for one in self.sides if one.role == role), None)

    @property
    def candidate(self) -> Side:
        """The version itself."""
        return self.sides[0]

    def to_json(self) -> dict[str, Any]:
        """As plain values, NaN as None; `figures` of each side stand beside what they are made of."""
        tree = asdict(self)
        for side, of in zip(tree["sides"], self.sides, strict=True):
            side["figures"] = of.figures()
        plain: dict[str, Any] = _plain({"format": FORMAT, **tree})
        return plain

    @classmethod
    def from_json(cls, tree: Any) -> Report:
        """What `to_json` gave. Raises: StateError."""
        if not isinstance(tree, Mapping) or tree.get("format") != FORMAT:
            came = tree.get("format") if isinstance(tree, Mapping) else tree
            raise StateError(f"report: expected format {FORMAT}, got {came!r}")
        try:
            values = {name: tree[name] for name in cls.__dataclass_fields__ if name != "feedback"}
            values |= {
                "feedback": _feedback(tree.get("feedback")),  # none in reports of before
                "window": (int(tree["window"][0]), int(tree["window"][1])),
                "sides": tuple(map(_side, tree["sides"])),
                "pictures": tuple(Drawn(**{**one, "values": _floats(one["values"])}) for one in tree["pictures"]),
                "budget": _float(tree["budget"]),
                "notes": tuple(tree["notes"]),
            }
            return cls(**values)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise StateError(f"report: expected a report as JSON, got {error!r}") from error


def saved(folder: Path) -> Report | None:
    """The report of a version; None where there is none. Raises: StateError, StorageError."""
    path = folder / REPORT
    try:
        tree = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: {error}") from error
    except ValueError as error:
        raise StateError(f"{path}: expected JSON, got {error}") from error
    return Report.from_json(tree)


def _side(tree: Mapping[str, Any]) -> Side:
    values = {name: tree[name] for name in Side.__dataclass_fields__}
    values |= {
        "threshold": _float(tree["threshold"]),
        "alerts": tuple(Alert(**one) for one in tree["alerts"]),
        "events": tuple(map(_caught, tree["events"])),
        "trials": tuple(FaultTrial(**{**one, "delay_s": _float(one["delay_s"])}) for one in tree["trials"]),
        "cases": tuple(CaseResult(**one) for one in tree["cases"]),
        "probability": _floats(tree["probability"]),
        "cost": Cost(**tree["cost"]),
    }
    return Side(**values)


def _feedback(tree: Mapping[str, Any] | None) -> Feedback | None:
    if tree is None:
        return None
    figures = {side: {name: _float(value) for name, value in tree[side].items()} for side in ("without", "taught")}
    return Feedback(kinds=tree["kinds"], late=tree["late"], **figures)


def _caught(tree: Mapping[str, Any]) -> Caught:
    of = tree["event"]
    event = Event(**{**of, "services": tuple(of["services"]), "series": tuple(of["series"])})
    return Caught(event=event, caught=tree["caught"], delay_s=_float(tree["delay_s"]), covered=tree["covered"])


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _floats(values: list[float | None]) -> tuple[float, ...]:
    return tuple(map(_float, values))


def _plain(value: Any) -> Any:
    """Without NaN and tuples, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
