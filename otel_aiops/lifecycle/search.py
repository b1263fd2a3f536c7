"""The search: which settings there are, which of them are tried next, and what came of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from otel_aiops.detect.engine import EngineConfig
from otel_aiops.errors import BadInput
from otel_aiops.lifecycle.version import ForecastConfig, Settings

LEAST_FOLDS = 3
ALONE = 2 / 3  # of the trials move a single setting
USUAL_PLACES = 2  # of the span of a setting that is moved alone
PLACES = {"sensitivity": 4}  # it decides alone how much of the budget is spent, and too much of it undoes the rest
MOST_MOVED = 3  # settings of the others that differ from where they begin
GROUP = 4  # trials that are asked for at once, whatever the number of processes

Search = Literal["racing", "optuna"]


@dataclass(frozen=True, slots=True)
class Span:
    """The values that a setting may have: numbers in [low, high], by their logarithm and rounded, or some words."""

    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    words: tuple[str, ...] = ()

    def draw(self, share: float) -> float | int | str:
        """The value at a share in [0, 1) of the span.

        >>> Span(10, 1000, whole=True).draw(0.5), Span(words=("a", "b")).draw(0.7)
        (100, 'b')
        """
        if self.words:
            return self.words[int(share * len(self.words))]
        value = self.low * (self.high / self.low) ** share
        return round(value) if self.whole else float(f"{value:.3g}")

    def nearest(self, value: Any) -> Any:
        """The value of the span that is nearest to one that may be outside of it."""
        if self.words:
            return value if value in self.words else self.words[0]
        return min(max(value, self.low), self.high)


SPACE: dict[str, Span] = {
    "threshold": Span(3.0, 12.0),
    "warmup_points": Span(10, 120, whole=True),
    "memory_points": Span(60, 3000, whole=True),
    "adapt_after": Span(1800.0, 86_400.0),
    "seasons": Span(words=("auto", "week", "off")),
    "preset": Span(words=("default", "novelty")),
    "sensitivity": Span(0.5, 4.0),
}

FAMILY, NO_FAMILY = "family", "none"
FAMILY_SPAN = Span(words=(NO_FAMILY, "forecast"))  # what scores beside the engine; other families stay as they are
_BESIDE = {FAMILY: FAMILY_SPAN}


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneConfig:
    """How long is searched, and how trials are judged."""

    trials: int = 24  # the first is the settings that one begins with
    folds: int = LEAST_FOLDS  # in time, each judged on its newest quarter
    held_out: float = 0.2  # of the window, its newest part, that nothing here looks at
    max_series: int = 40  # drawn from those in scope, those with labels first
    search: Search = "racing"  # or optuna, which is an extra: pip install otel-aiops[hpo]
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises: BadInput."""
        for name, least in (("trials", 1), ("folds", LEAST_FOLDS), ("max_series", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if not 0.05 <= self.held_out <= 0.5:
            raise BadInput(f"held_out: expected a share in 0.05 .. 0.5, got {self.held_out}")
        if self.search not in ("racing", "optuna"):
            raise BadInput(f"search: expected racing or optuna, got {self.search!r}")


@dataclass(frozen=True, slots=True)
class Trial:
    """Settings that were tried, and how they did: in each fold that they came to, and in all of these together.

    `losses` are what each series adds to the cost.
    """

    number: int
    settings: Settings
    folds: tuple[dict[str, float], ...] = ()
    figures: dict[str, float] = field(default_factory=dict)
    losses: tuple[float, ...] = ()

    @property
    def cost(self) -> float:
        """That of all its folds together."""
        return self.figures.get("cost", math.inf)


@dataclass(slots=True)
class Drawn:
    """Settings near those that one begins with: at first each setting alone is moved, to some places far from each
    other, then one to three of the best that is known by then. Few settings matter for most data (Bergstra and Bengio
    2012, section 2.3), and trials that move all of them at once are nearly always worse.
    """

    first: Settings
    tuning: TuneConfig
    _rng: np.random.Generator = field(init=False)
    _known: list[Trial] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.tuning.seed)

    def next(self, done: int) -> list[Trial]:
        """Those that move one setting, all at once so that they race together; then the others."""
        trials = self.tuning.trials
        if not done:
            alone = self._alone()[: max(0, min(trials - 1, round(ALONE * trials)))]
            return [Trial(number, one) for number, one in enumerate([self.first, *alone])]
        best = min(self._known, key=lambda one: (-len(one.folds), one.cost, one.number))
        return [Trial(number, self._moved(best.settings)) for number in range(done, trials)]

    def told(self, trials: Sequence[Trial]) -> None:
        """What they cost."""
        self._known += trials

    def _alone(self) -> list[Settings]:
        """Each setting at one place of its span, in any order, then at the next one, evenly apart."""
        spans = {name: (SPACE | _BESIDE)[name] for name in self._rng.permutation(sorted(SPACE | _BESIDE)).tolist()}
        began = {name: float(self._rng.random()) for name in spans}
        found = []
        for place in range(max(PLACES.values())):
            for name, span in spans.items():
                places = PLACES.get(name, USUAL_PLACES)
                value = span.draw((began[name] + place / places) % 1)
                if place < places and (one := _with(self.first, {name: value})) != self.first:
                    found.append(one)
        return found

    def _moved(self, settings: Settings) -> Settings:
        spans = SPACE | _BESIDE
        names = self._rng.choice(sorted(spans), 1 + int(self._rng.integers(MOST_MOVED)), replace=False)
        return _with(settings, {name: spans[name].draw(float(self._rng.random())) for name in sorted(names.tolist())})


class Optuna:
    """Settings that Optuna proposes (TPE), some at a time, each group racing by itself.

    Source: Akiba et al., Optuna: A Next-generation Hyperparameter Optimization Framework, 2019.
    """

    def __init__(self, first: Settings, tuning: TuneConfig) -> None:
        try:
            import optuna
        except ImportError as error:
            raise BadInput("search: optuna is not installed; pip install 'otel-aiops[hpo]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._first, self._tuning = first, tuning
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=tuning.seed))
        begun = {name: span.nearest(getattr(first.detection, name)) for name, span in SPACE.items()}
        forecast = any(isinstance(one, ForecastConfig) for one in first.families)
        self._study.enqueue_trial({**begun, FAMILY: FAMILY_SPAN.words[forecast]})
        self._asked: dict[int, Any] = {}

    def next(self, done: int) -> list[Trial]:
        """The next group."""
        found = []
        for number in range(done, min(done + GROUP, self._tuning.trials)):
            self._asked[number] = asked = self._study.ask()
            values = {name: _suggested(asked, name, span) for name, span in (SPACE | _BESIDE).items()}
            found.append(Trial(number, self._first if not number else _with(self._first, values)))
        return found

    def told(self, trials: Sequence[Trial]) -> None:
        """What they cost."""
        for one in trials:
            self._study.tell(self._asked.pop(one.number), one.cost)


def _suggested(asked: Any, name: str, span: Span) -> Any:
    if span.words:
        return asked.suggest_categorical(name, span.words)
    if span.whole:
        return asked.suggest_int(name, int(span.low), int(span.high), log=True)
    return float(f"{asked.suggest_float(name, span.low, span.high, log=True):.3g}")


def _with(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Settings with some values in place of theirs."""
    detection: EngineConfig = replace(settings.detection, **{name: values[name] for name in SPACE if name in values})
    had = {type(one): one for one in settings.families}
    if FAMILY in values:
        forecast = had.pop(ForecastConfig, ForecastConfig())
        wanted = () if values[FAMILY] == NO_FAMILY else (forecast,)
        return replace(settings, detection=detection, families=(*wanted, *had.values()))
    return replace(settings, detection=detection)
