"""Objectives: what a team wants of the detection, as YAML that is checked and known by the hash of its content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from otel_aiops.detect.budget import BudgetConfig, per_week
from otel_aiops.errors import ConfigError
from otel_aiops.incidents.incident import Channel
from otel_aiops.labels import Labels, Selector, text
from otel_aiops.settings import ConfigErrors, Schema, load_named

LabelSource = Literal["verdict", "incident", "file", "alertmanager", "prometheus"]
ExclusionSource = Literal["incident", "maintenance", "silence", "load_test"]
Response = Literal[
    "notify", "webhook", "command", "scale", "silence", "annotation", "issue", "workflow"
]  # kinds of steps

HASH_DIGITS = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # it stands in addresses, labels and names of files


@dataclass(frozen=True, slots=True)
class CostConfig:
    """What mistakes cost, in any unit that is the same for both."""

    miss: float = 10.0  # of an incident that nobody was told of
    false_alert: float = 1.0  # of an alert that was none

    def __post_init__(self) -> None:
        _raise(
            ConfigError(name, f"must be > 0, got {getattr(self, name)}")
            for name in ("miss", "false_alert")
            if not 0 < getattr(self, name) < float("inf")
        )

    @property
    def least_precision(self) -> float:
        """The share of alerts that must be real for alerts to be worth their cost.

        >>> CostConfig(miss=9, false_alert=1).least_precision
        0.1
        """
        return self.false_alert / (self.false_alert + self.miss)


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """What is to be reached within the budget."""

    recall: float = 0.8  # share of the incidents of these types that have an alert
    lead_time: float = 0.0  # a fault that grows has its alert so long before it has its full size; 0 is any time

    def __post_init__(self) -> None:
        if not 0 < self.recall <= 1:
            raise ConfigError("recall", f"must be in (0, 1], got {self.recall}")
        if not 0 <= self.lead_time <= 86_400:
            raise ConfigError("lead_time", f"must be in 0 .. 86400 s, got {self.lead_time}")


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What the history must have before anything is said of what can be reached."""

    least_history: float = 7 * 86_400.0  # from the first to the newest point in scope
    least_series: int = 1  # in scope, that have enough points and come often enough
    most_gaps: float = 0.2  # share of the time of the series in scope that may be without points
    labels: tuple[LabelSource, ...] = ()  # whose labels a dataset takes: verdict, incident, file, ...; none is all
    leave_out: tuple[ExclusionSource, ...] = ()  # what it leaves out: incident, maintenance, ...; none is all

    def __post_init__(self) -> None:
        if not 0 < self.least_history < float("inf"):
            raise ConfigError("least_history", f"must be > 0 s, got {self.least_history}")
        if not self.least_series >= 1:
            raise ConfigError("least_series", f"must be >= 1, got {self.least_series}")
        if not 0 <= self.most_gaps <= 1:
            raise ConfigError("most_gaps", f"must be in [0, 1], got {self.most_gaps}")

    def content(self) -> dict[str, Any]:
        """What counts of it; sources only where they are named."""
        sources = {"labels": sorted(set(self.labels)), "leave_out": sorted(set(self.leave_out))}
        numbers = _floats({"least_history": self.least_history, "most_gaps": self.most_gaps})
        return {**numbers, "least_series": self.least_series, **{key: some for key, some in sources.items() if some}}


@dataclass(frozen=True, slots=True)
class Objective:
    """What a team wants: of which incidents of which series to hear, what mistakes cost, how many alerts it bears."""

    name: str = ""  # as budgets, metrics and alerts say it; letters, digits and . _ -; each has its own
    description: str = ""  # for people; no part of the hash
    team: str = ""  # who gets the alerts
    match: Mapping[str, str | bool | int | float] = field(default_factory=dict)  # label and value, or ~regex; {} is all
    incidents: tuple[Channel, ...] = ()  # types of incidents, as latency, errors, resource, silence; none is all
    cost: CostConfig = field(default_factory=CostConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    budget: str | float = "1/week"  # alerts of all its series: 2/week, 1/day, or a number a week
    responses: tuple[Response, ...] = ("notify",)  # what playbooks may do: notify, issue, webhook, command, scale, ...
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        _raise(self._errors())

    @property
    def id(self) -> str:
        """16 hexadecimal digits of the content: equal for objectives that want the same, however they are written."""
        content = json.dumps(self._content(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:HASH_DIGITS]

    @property
    def alerts_a_week(self) -> float:
        """The budget as a number a week."""
        return per_week(self.budget)

    def matches(self, labels: Labels) -> bool:
        """Whether a series is in scope."""
        return Selector(self.match).matches(labels)

    def asks_for(self, channels: Collection[Channel]) -> bool:
        """Whether incidents that show in these channels are among those that it wants to hear of."""
        return not self.incidents or not set(self.incidents).isdisjoint(channels)

    def alert_budget(self) -> BudgetConfig:
        """Its share of the alert budget."""
        return BudgetConfig(name=self.name, match=self.match, budget=self.budget)

    def plain_values(self) -> dict[str, Any]:
        """For machines: all keys, the id, and the budget as a number a week."""
        described = {"name": self.name, "id": self.id, "description": self.description}
        return described | self._content() | {"budget": self.budget, "budget_per_week": self.alerts_a_week}

    def _content(self) -> dict[str, Any]:
        """What counts, in one form; times in seconds, the budget in alerts a week."""
        return {
            "name": self.name,
            "team": self.team,
            "match": {key: text(value) for key, value in sorted(self.match.items())},
            "incidents": sorted(set(map(str, self.incidents))),
            "cost": _floats(asdict(self.cost)),
            "target": _floats(asdict(self.target)),
            "budget": self.alerts_a_week,
            "responses": sorted(set(self.responses)),
            "data": self.data.content(),
        }

    def _errors(self) -> Iterator[ConfigError]:
        others = BudgetConfig().name
        if not _NAME.fullmatch(self.name):
            expected = "expected 1 to 100 letters, digits, dots, hyphens and underscores, the first a letter or digit"
            yield ConfigError("name", f"{expected}, got {self.name!r}")
        elif self.name == others:
            yield ConfigError("name", f"expected another name, got {others!r}, which is that of all other series")
        for key, value in self.match.items():
            try:
                Selector({key: value})
            except re.error as error:
                yield ConfigError(f"match.{key}", f"is not a regular expression: {error}, got {value!r}")
        try:
            per_week(self.budget)
        except ConfigError as error:
            yield error


def load_objectives(path: Path) -> tuple[Objective, ...]:
    """The objectives of a file, or of the YAML files in a folder in the order of their names.

    A series that several match belongs to the first of them. Raises: ConfigErrors with everything that is wrong, each
    with its file, its key path, what was expected and what came.
    """
    return load_named(path, _SCHEMA)


def check_names(objectives: tuple[Objective, ...], budgets: tuple[BudgetConfig, ...]) -> None:
    """See that every objective can be told from the others and from budgets. Raises: ConfigErrors."""
    names = {one.name: "a budget" for one in budgets}
    errors = []
    for one in objectives:
        if one.name in names:
            message = f"expected a name of its own, got {one.name!r}, which {names[one.name]} has"
            errors.append(ConfigError("objectives", message))
        names[one.name] = "another objective"
    _raise(errors)


def _raise(errors: Iterable[ConfigError]) -> None:
    """Raise all errors as one, if there are any."""
    found = list(errors)
    if found:
        raise ConfigErrors(found)


def _floats(values: Mapping[str, float]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items()}


_SCHEMA = Schema(Objective)
