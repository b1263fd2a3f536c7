"""Serving: the champion, which everybody sees, and at most one other version beside it that scores the same points."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.alerting import Alerting
from otel_aiops.detect.budget import Alerted, BudgetConfig
from otel_aiops.detect.calendar import CalendarConfig
from otel_aiops.detect.detector import FORECAST, FOREST, Scores
from otel_aiops.detect.engine import EngineConfig, gathered, placed
from otel_aiops.detect.forest import Forests
from otel_aiops.detect.groups import Groups
from otel_aiops.detect.jobs import JobsConfig
from otel_aiops.detect.lessons import Verdict
from otel_aiops.detect.policy import PolicyConfig
from otel_aiops.detect.prototypes import Prototypes
from otel_aiops.detect.scorer import Scored, Scorer
from otel_aiops.detect.smoothing import Smoothing
from otel_aiops.errors import BadInput, ConfigError, StateError
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import I32, Bool
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import Arrays, checked, json_array, json_tree

BINS = 20  # of probabilities, in which calibration is counted
SHARES = 10_000  # canary shares are told apart to a hundredth of a percent

Fingerprint = Callable[[I32], NDArray[np.uint64]]


class Action(StrEnum):
    """What can be done with versions that run."""

    SHADOW = "shadow"  # a challenger scores beside the champion, and nobody sees it
    CANARY = "canary"  # it serves a share of the series
    PROMOTE = "promote"  # it becomes the champion; the former one goes on beside it
    ROLLBACK = "rollback"  # the former champion is the champion again
    STOP = "stop"  # the other version ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """An order as it stands in the log, so that a replay does the same again at the same point.

    `champion` gives a name to what serves without one: what the service has learned before there were versions.
    `time_ns` is the event time at which it was given, `given_ns` that of the machine, 0 where it is not known.
    """

    action: Action
    version: str = ""
    share: float = 0.0  # of the series, for a canary
    champion: str = ""
    time_ns: int = 0
    given_ns: int = 0
    who: str = ""
    why: str = ""
    evidence: str = ""  # JSON: how both versions did, for those who ask later

    def __post_init__(self) -> None:
        """Raises: BadInput."""
        if self.action in (Action.SHADOW, Action.CANARY, Action.PROMOTE) and not self.version:
            raise BadInput(f"version: expected the one to {self.action}, got none")
        if self.action == Action.CANARY and not 0 < self.share <= 1:
            raise BadInput(f"share: expected one in (0, 1], got {self.share}")

    def to_bytes(self) -> bytes:
        """The body of its record in the log."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Rollout:
        """What `to_bytes` wrote. Raises: BadInput."""
        try:
            tree = json.loads(data)
            return cls(**{**tree, "action": Action(tree["action"])})
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"expected a rollout as JSON, got {data[:200]!r}") from error


@dataclass(frozen=True, slots=True)
class Trained:
    """What a version has learned before it serves: row i of `engine` is the series with labels[i] as JSON."""

    detection: EngineConfig
    labels: tuple[str, ...]
    engine: Arrays
    budget: Arrays = field(default_factory=dict)
    prototypes: Arrays = field(default_factory=dict)  # which rows series begin with that it has never seen
    forest: Arrays = field(default_factory=dict)  # see `Forests`
    forecast: Arrays = field(default_factory=dict)  # see `Smoothing`


Load = Callable[[str], Trained]  # by id; raises BadInput or StateError


@dataclass(frozen=True, slots=True)
class Rules:
    """What versions share: it comes from the configuration and is not learned."""

    policies: Sequence[PolicyConfig] = ()
    calendar: Sequence[CalendarConfig] = ()
    jobs: JobsConfig | None = None
    budgets: Sequence[BudgetConfig] = ()
    budget: str | float = "1/day"


@dataclass(frozen=True, slots=True)
class Present:
    """The series of the table: what a version that begins must know of them."""

    rows: I32
    labels: Sequence[Labels]  # whole
    size: int  # rows of the table


class Model:
    """One version while it runs: its scores and its alerts. `name` is the id of the version, "" before there is one."""

    def __init__(self, name: str, detection: EngineConfig, rules: Rules, fingerprint: Fingerprint) -> None:
        self.name, self.detection = name, detection
        self.scorer = Scorer(detection, rules.policies, rules.calendar, rules.jobs)
        self.alerting = Alerting(rules.budgets, rules.budget, fingerprint)
        self.prototypes: Prototypes | None = None
        self.forests: Forests | None = None
        self.smoothing: Smoothing | None = None
        self.seen = {"points": np.zeros(1, np.int64), "over": np.zeros(1, np.int64), "probability": np.zeros(BINS)}

    @property
    def families(self) -> tuple[Forests | Smoothing, ...]:
        """Those that score beside the engine."""
        return tuple(one for one in (self.forests, self.smoothing) if one is not None)

    def assign(self, rows: I32, labels: Sequence[Labels]) -> None:
        """Rows are given to series with these labels."""
        for row, of in zip(rows.tolist(), labels, strict=True):
            self.scorer.assign(row, of)
        self.alerting.assign(rows, labels)

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series start anew."""
        self.scorer.forget(rows)
        self.alerting.forget(rows)
        for family in self.families:
            family.forget(rows)

    def inherit(self, rows: I32, sources: I32) -> None:
        """Let rows begin with what others have learned."""
        self.scorer.engine.inherit(rows, sources)

    def begin(self, rows: I32, labels: Sequence[Labels]) -> None:
        """Let new rows begin with what was trained for series like them, where there is something."""
        if self.prototypes is not None and len(rows):
            sources = self.prototypes.find(labels)
            if (found := sources >= 0).any():
                self.scorer.engine.inherit(rows[found], sources[found], self.prototypes.engine)

    def welcome(self, rows: I32, labels: Sequence[Labels]) -> None:
        """Rows are new, with these whole labels."""
        for family in self.families:
            family.assign(rows, labels)

    def reason(self, scored: Scored, k: int, unit: str) -> str:
        """Why point k has its score."""
        if self.forests and scored.scores.channel[k] == FOREST:
            return self.forests.reason(int(scored.batch.rows[k]), unit)
        if self.smoothing and scored.scores.channel[k] == FORECAST:
            return self.smoothing.reason(int(scored.batch.rows[k]), unit)
        return self.scorer.reason(scored, k, unit)

    def score(self, batch: Batch) -> Scored:
        """Score K points as where nothing is known of their peers, then learn from them."""
        return self.beside(self.scorer.score(batch))

    def beside(self, scored: Scored) -> Scored:
        """With what the families say of points that the engine has scored."""
        for family in self.families:
            scored = replace(scored, scores=family.combined(scored.batch, scored.scores))
        return scored

    def judged(self, scored: Scored, *, event_ns: int) -> Scored:
        """With what the points are to operators, and counted for how the version does."""
        alerted = self.alerting.judge(scored.batch, scored.scores, event_ns=event_ns)
        with np.errstate(invalid="ignore"):
            self.seen["over"] += int((scored.scores.score >= 1).sum())
        known = scored.scores.probability[~np.isnan(scored.scores.probability)]
        self.seen["points"] += len(scored.batch.rows)
        self.seen["probability"] += np.bincount(np.minimum((known * BINS).astype(np.int64), BINS - 1), minlength=BINS)
        return replace(scored, alerted=alerted)

    def take(self, trained: Trained, present: Present) -> None:
        """Begin with what was trained; series that it does not know begin with what is typical of them.

        Raises: StateError when it does not fit the settings.
        """
        place = {of.to_json(): row for row, of in zip(present.rows.tolist(), present.labels, strict=True)}
        gone = (present.size + k for k in range(len(trained.labels)))
        rows = np.array([place.get(one, next(gone)) for one in trained.labels], np.int32)
        size = max(present.size, int(rows.max(initial=-1)) + 1)
        self.scorer.engine.restore(placed(trained.engine, rows, size))
        self.scorer.engine.forget(np.unique(rows[rows >= present.size]))
        self.assign(present.rows, present.labels)
        self.prototypes = Prototypes.among(trained.detection, trained.prototypes, trained.engine)
        self.forests = Forests(trained.forest) if trained.forest else None
        self.smoothing = Smoothing(trained.forecast) if trained.forecast else None
        self.welcome(present.rows, present.labels)
        known = set(trained.labels)
        new = [k for k, of in enumerate(present.labels) if of.to_json() not in known] if trained.prototypes else []
        self.begin(present.rows[new], [present.labels[k] for k in new])
        if trained.budget:
            self.alerting.budget.adopt(trained.budget)

    def trained(self, rows: I32, labels: Sequence[str]) -> Trained:
        """What it knows now of these rows, whose labels these are as JSON, and of series that are to come."""
        return Trained(
            self.detection,
            tuple(labels),
            gathered(self.scorer.engine.state(), rows),
            self.alerting.budget.learned(),
            self.prototypes.state() if self.prototypes else {},
            self.forests.learned() if self.forests else {},
            self.smoothing.learned() if self.smoothing else {},
        )

    def begin_to_count(self) -> None:
        """Count from now on."""
        for array in self.seen.values():
            array[:] = 0

    def state(self) -> Arrays:
        """Everything learned."""
        parts = {
            "engine": self.scorer.engine.state(),
            "jobs": self.scorer.jobs.state(),
            "alerting": self.alerting.state(),
            "seen": {name: array.copy() for name, array in self.seen.items()},
            "prototypes": self.prototypes.state() if self.prototypes else {},
            "forest": self.forests.state() if self.forests else {},
            "forecast": self.smoothing.state() if self.smoothing else {},
        }
        return {f"{part}/{name}": array for part, of in parts.items() for name, array in of.items()}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over a state; rows are to be assigned again. Raises: StateError."""
        self.scorer.engine.restore(owned(arrays, "engine"))
        self.alerting.restore(owned(arrays, "alerting"))
        self.scorer.jobs.restore(owned(arrays, "jobs"))  # none in a state from before there were jobs
        self.prototypes = Prototypes.restored(self.detection, owned(arrays, "prototypes"))
        self.forests = Forests.restored(owned(arrays, "forest"))
        self.smoothing = Smoothing.restored(owned(arrays, "forecast"))
        if seen := owned(arrays, "seen"):
            one = (np.int64, (1,))
            checked(seen, {"points": one, "over": one, "probability": (np.float64, (BINS,))})
            self.seen = {name: array.copy() for name, array in seen.items()}


class Serving:
    """The versions that run. Everything that is told to the champion is told to the other one too.

    A point is scored by both; what is served is the champion's but for the rows of a canary. Which rows those are
    follows from the fingerprints of their series, so that a restart, or another share, keeps them.
    """

    def __init__(self, detection: EngineConfig, rules: Rules, fingerprint: Fingerprint) -> None:
        self._default, self._rules, self._fingerprint = detection, rules, fingerprint
        self.champion = Model("", detection, rules, fingerprint)
        self.other: Model | None = None
        self.share = 0.0  # of the series that the other one serves
        self.previous = ""  # the champion before this one
        self.former = False  # whether the other one was the champion before this one
        self.since_ns = 0  # of the newest order that was carried out

    @property
    def models(self) -> tuple[Model, ...]:
        """All that run."""
        return (self.champion,) if self.other is None else (self.champion, self.other)

    @property
    def role(self) -> str:
        """What the other one is: shadow, canary, former, or nothing."""
        if self.other is None:
            return ""
        return "former" if self.former else "canary" if self.share else "shadow"

    def of(self, row: int) -> Model:
        """Who serves a row."""
        if self.other is None or not self.share:
            return self.champion
        return self.other if self._canary(np.array([row], np.int32))[0] else self.champion

    def assign(self, rows: I32, labels: Sequence[Labels]) -> None:
        """Rows are given to series with these labels."""
        for model in self.models:
            model.assign(rows, labels)

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series start anew."""
        for model in self.models:
            model.forget(rows)

    def inherit(self, rows: I32, sources: I32) -> None:
        """Let rows begin with what others have learned."""
        for model in self.models:
            model.inherit(rows, sources)

    def begin(self, rows: I32, labels: Sequence[Labels]) -> None:
        """Let new rows, which have nobody to inherit from, begin with what versions were trained to expect of them."""
        for model in self.models:
            model.begin(rows, labels)

    def welcome(self, rows: I32, labels: Sequence[Labels]) -> None:
        """Rows are new, with these whole labels."""
        for model in self.models:
            model.welcome(rows, labels)

    def end(self, rows: I32) -> None:
        """Series that end have no alert any more."""
        for model in self.models:
            model.alerting.end(rows)

    def learn(self, verdicts: Sequence[Verdict], rows: Sequence[int | None]) -> int:
        """Take in verdicts; returns how many are of known series."""
        return max(model.alerting.learn(verdicts, rows) for model in self.models)

    def score(self, batch: Batch, groups: Groups, *, event_ns: int) -> Scored:
        """Score K points, then learn from them; with what `groups` know of their peers, which learn too."""
        found = []
        for model in self.models:
            scored = model.scorer.score(batch)
            combined = groups.combined(batch, scored.scores)
            if model is self.champion:
                groups.update(scored.batch, scored.untouched)
            found.append(model.judged(model.beside(replace(scored, scores=combined)), event_ns=event_ns))
        return self._served(found)

    def judged(self, scored: Scored, *, event_ns: int) -> Scored:
        """With what points are to operators that are scored by nobody's memory: silence, and peers."""
        return self._served([model.judged(scored, event_ns=event_ns) for model in self.models])

    def _served(self, found: Sequence[Scored]) -> Scored:
        if len(found) == 1 or not self.share:
            return found[0]
        return _mixed(found[0], found[1], self._canary(found[0].batch.rows))

    # -- rollouts -----------------------------------------------------------------------------------------------------

    def roll(self, order: Rollout, load: Load, present: Present) -> None:
        """Carry out an order; `load` gives what a version has learned that does not run yet. Raises: BadInput."""
        if order.champion and not self.champion.name:
            self.champion.name = order.champion
        if order.action in (Action.SHADOW, Action.CANARY):
            self._begin(order, load, present)
        elif order.action == Action.PROMOTE:
            self._promote(order)
        elif order.action == Action.ROLLBACK:
            self._rollback(load, present)
        elif self.other is None:
            raise BadInput("expected a version beside the champion, there is none")
        else:
            self.other, self.share, self.former = None, 0.0, False
        self.since_ns = order.time_ns
        for model in self.models:
            model.begin_to_count()

    def _begin(self, order: Rollout, load: Load, present: Present) -> None:
        if order.version == self.champion.name:
            raise BadInput(f"version: expected another than the champion, got {order.version}")
        if self.other is None or self.other.name != order.version:
            self.other = self._model(order.version, load(order.version), present)
        self.share = order.share if order.action == Action.CANARY else 0.0
        self.former = False

    def _promote(self, order: Rollout) -> None:
        if self.other is None or self.other.name != order.version:
            running = self.other.name if self.other else "none"
            raise BadInput(f"version: expected the one beside the champion, which is {running}, got {order.version}")
        self.champion, self.other = self.other, self.champion
        self.share, self.former, self.previous = 0.0, True, self.other.name

    def _rollback(self, load: Load, present: Present) -> None:
        """A challenger ends; else the former champion takes over again: as it runs, or as it was registered."""
        if self.other is not None and not self.former:
            self.other, self.share = None, 0.0
            return
        if self.other is None:
            if not self.previous:
                raise BadInput("expected a version before the champion, there was none")
            self.other = self._model(self.previous, load(self.previous), present)
        self.champion, self.other = self.other, None
        self.former, self.previous = False, ""

    def _model(self, name: str, trained: Trained, present: Present) -> Model:
        """A version that begins with what it was trained with, and with the verdicts and jobs of the champion."""
        model = Model(name, trained.detection, self._rules, self._fingerprint)
        model.scorer.jobs.restore(self.champion.scorer.jobs.state())
        model.alerting.restore(self.champion.alerting.state())
        model.take(trained, present)
        return model

    def _canary(self, rows: I32) -> Bool:
        """Which of K rows the other one serves."""
        mixed = self._fingerprint(rows) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)
        mask: Bool = mixed % np.uint64(SHARES) < np.uint64(round(self.share * SHARES))
        return mask

    # -- state --------------------------------------------------------------------------------------------------------

    def state(self) -> Arrays:
        """Everything learned by all that run."""
        told = {
            "champion": [self.champion.name, dataclasses.asdict(self.champion.detection)],
            "other": [self.other.name, dataclasses.asdict(self.other.detection)] if self.other else None,
            "share": self.share,
            "former": self.former,
            "previous": self.previous,
            "since_ns": self.since_ns,
        }
        arrays = {"rollout": json_array(told)}
        for role, model in zip(("champion", "other"), self.models, strict=False):
            arrays |= {f"{role}/{name}": array for name, array in model.state().items()}
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over a state; rows are to be assigned again. Raises: StateError."""
        if "rollout" not in arrays:  # a state from before there were versions
            self.champion.restore(arrays)
            return
        told = json_tree(arrays, "rollout")
        try:
            name, detection = told["champion"]
            # What serves without a version has the settings of the configuration, which may have changed.
            own = EngineConfig(**detection) if name else self._default
            self.champion = Model(name, own, self._rules, self._fingerprint)
            self.other = None
            if told["other"] is not None:
                other, settings = told["other"]
                self.other = Model(other, EngineConfig(**settings), self._rules, self._fingerprint)
            self.share, self.former = float(told["share"]), bool(told["former"])
            self.previous, self.since_ns = str(told["previous"]), int(told["since_ns"])
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise StateError(f"rollout: expected the versions that run, got {error!r}") from error
        for role, model in zip(("champion", "other"), self.models, strict=False):
            model.restore(owned(arrays, role))


def owned(arrays: Mapping[str, NDArray[Any]], owner: str) -> Arrays:
    """The arrays of an owner, without its name."""
    prefix = owner + "/"
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def _mixed(champion: Scored, other: Scored, canary: Bool) -> Scored:
    """What is served of K points: the other's where it is the canary."""
    if not canary.any() or champion.alerted is None or other.alerted is None:
        return champion
    scores = Scores(**_picked(champion.scores, other.scores, canary, [one.name for one in dataclasses.fields(Scores)]))
    names = ["ratio", "active", "opened", "counted", "threshold"]
    own, others = champion.alerted, other.alerted
    none = np.zeros(len(canary))
    shift = np.where(canary, none if others.shift is None else others.shift, none if own.shift is None else own.shift)
    alerted = Alerted(**_picked(own, others, canary, names), crowds=own.crowds, shift=shift)
    return replace(champion, scores=scores, alerted=alerted, other=other)


def _picked(champion: object, other: object, canary: Bool, names: Sequence[str]) -> dict[str, Any]:
    return {name: np.where(canary, getattr(other, name), getattr(champion, name)) for name in names}
