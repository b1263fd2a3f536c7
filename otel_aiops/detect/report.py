"""The report of a self-test: what was found, what was false, and in plain words what is wrong with a detector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.faults import FAULTS, Copies, Injected
from otel_aiops.errors import ConfigError
from otel_aiops.otlp.points import F64, Bool

F32 = NDArray[np.float32]

HELD = "shift_up"  # the fault whose points must stay over the threshold
REFIRE_S = 3600.0  # a false alarm that lasts is another one every hour
ALWAYS = 0.5  # share of clean points over the threshold that is called always
LEAST_PLAIN = 3  # series with a plain fault, or the verdict says nothing of it
ABOVE_CHANCE = 0.2  # least share of the series in which a fault is found and its clean copy is silent
UNUSUAL = 0.99  # probability above which one clean point of a hundred should be
UNUSUAL_FACTOR = 5.0  # so many times more or fewer of them are called wrong
UNUSUAL_LEAST = 20_000  # clean points before too few are called wrong: neighbours say much the same


@dataclass(frozen=True, slots=True)
class Limits:
    """What a detector must do."""

    required: tuple[str, ...] = ("spike", "dip", "shift_up", "shift_down", "missing")  # faults that must be found
    found_share: float = 0.5  # of a fault's points over the threshold, from which on it counts as found
    least_recall: float = 0.5  # share of the series in which each of the required faults is found
    least_held: float = 0.8  # of a lasting shift of 5 spreads must stay over the threshold
    most_false_alarms: float = 3.0  # a series-day, on clean copies

    def __post_init__(self) -> None:
        for name in ("found_share", "least_recall", "least_held"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(name, f"must be in (0, 1], got {getattr(self, name)}")
        if not self.most_false_alarms > 0:
            raise ConfigError("most_false_alarms", f"must be > 0, got {self.most_false_alarms}")
        unknown = [name for name in self.required if name not in FAULTS]
        if unknown:
            raise ConfigError("required", f"expected some of {', '.join(FAULTS)}, got {', '.join(unknown)}")


@dataclass(frozen=True, slots=True)
class Found:
    """How one fault was found, over the series in which it shows.

    `recall` is the share of series in which enough of its points scored 1 or more: of a fault of one point it or the
    next, of a missing series any. `chance` is the same at the same places of the clean copies, `covered` the mean share
    of faulty points over the threshold, `delay` the median number of faulty points before the first of these, NaN where
    none is.
    """

    series: int
    recall: float
    chance: float
    covered: float
    delay: float


@dataclass(frozen=True, slots=True)
class Played:
    """Scores and probabilities of R rows at T steps, (R, T); NaN where there is none."""

    score: F32
    probability: F32

    @property
    def over(self) -> Bool:
        """Where the score is at or above the threshold."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.score >= 1)


@dataclass(frozen=True, slots=True)
class Report:
    """What the self-test measured. A ratio is NaN where there was nothing to measure.

    `held` is the mean share of a lasting shift up of 5 spreads over the threshold in its half hour; `false_alarms` are
    those a series-day on clean copies, `false_share` the share of their points over the threshold, `unscored` the share
    of their points without a score; `unusual` is the share with a probability above 0.99, 0.01 if it is calibrated.
    `plain` are the faults again over only those series in which they are plain, see `Injected`: the verdict asks for no
    more, as other faults may be what a series often does. `problems` are complaints that are no figure.
    """

    limits: Limits
    series: int
    clean_points: int
    faults: Mapping[str, Found] = field(default_factory=dict)
    plain: Mapping[str, Found] = field(default_factory=dict)
    held: float = np.nan
    false_alarms: float = np.nan
    false_share: float = np.nan
    unscored: float = np.nan
    unusual: float = np.nan
    problems: tuple[str, ...] = ()

    def verdict(self) -> tuple[str, ...]:
        """What is wrong, in plain words; empty when nothing is."""
        return (*self.problems, *self._recall(), *self._alarms(), *self._probabilities())

    def metrics(self) -> tuple[tuple[str, Mapping[str, str], float], ...]:
        """What was measured, as (name, attributes, value)."""
        named = [
            *(("recall", {"fault": name}, found.recall) for name, found in self.faults.items()),
            *(("plain_recall", {"fault": name}, found.recall) for name, found in self.plain.items()),
            *(("covered", {"fault": name}, found.covered) for name, found in self.faults.items()),
            *(("delay", {"fault": name}, found.delay) for name, found in self.faults.items()),
            ("held", {}, self.held),
            ("false_alarms", {}, self.false_alarms),
            ("unusual", {}, self.unusual),
            ("series", {}, float(self.series)),
            ("problems", {}, float(len(self.verdict()))),
        ]
        return tuple((f"otel_aiops.selftest.{name}", labels, value) for name, labels, value in named if value == value)

    def plain_values(self) -> dict[str, Any]:
        """Everything that JSON can say of it: None for a ratio of nothing, and `problems` is the verdict."""

        def found(faults: Mapping[str, Found]) -> dict[str, dict[str, float | None]]:
            return {name: {key: _number(getattr(one, key)) for key in Found.__slots__} for name, one in faults.items()}

        ratios = ("held", "false_alarms", "false_share", "unscored", "unusual")
        return {
            "series": self.series,
            "clean_points": self.clean_points,
            "faults": found(self.faults),
            "plain": found(self.plain),
            **{name: _number(getattr(self, name)) for name in ratios},
            "problems": list(self.verdict()),
            "metrics": [[name, dict(labels), value] for name, labels, value in self.metrics()],
        }

    def _recall(self) -> Iterator[str]:
        for name, found in self.plain.items():
            if name not in self.limits.required or found.series < LEAST_PLAIN:
                continue
            if found.recall < self.limits.least_recall:
                yield (
                    f"{name}: found in {found.recall:.0%} of the {found.series} series in which it is plain, "
                    f"expected at least {self.limits.least_recall:.0%}"
                )
            elif found.recall - found.chance < ABOVE_CHANCE:
                yield (
                    f"{name}: found in {found.recall:.0%} of the series, but in {found.chance:.0%} there is an alarm "
                    "at that place without the fault too"
                )
        held = self.plain.get(HELD)
        if held is not None and held.series >= LEAST_PLAIN and held.covered < self.limits.least_held:
            yield (
                f"a lasting shift of 5 spreads stays over the threshold for {held.covered:.0%} of its half hour, "
                f"expected at least {self.limits.least_held:.0%}"
            )

    def _alarms(self) -> Iterator[str]:
        if self.false_share > ALWAYS:
            yield f"it always fires: {self.false_share:.0%} of the points without a fault are over the threshold"
        elif self.false_alarms > self.limits.most_false_alarms:
            yield (
                f"{self.false_alarms:.2g} false alarms a series-day, expected at most "
                f"{self.limits.most_false_alarms:.2g}"
            )
        if self.unscored > ALWAYS:
            yield f"{self.unscored:.0%} of the points have no score, although their series have had time to warm up"

    def _probabilities(self) -> Iterator[str]:
        usual = 1 - UNUSUAL
        if self.clean_points and np.isnan(self.unusual):
            yield "no point has a probability"
        elif self.unusual > usual * UNUSUAL_FACTOR:
            yield (
                f"probabilities are too high: {self.unusual:.1%} of the points without a fault are above {UNUSUAL}, "
                f"expected {usual:.0%}"
            )
        elif self.clean_points >= UNUSUAL_LEAST and self.unusual < usual / UNUSUAL_FACTOR:
            yield (
                f"probabilities are too low: {self.unusual:.2%} of the points without a fault are above {UNUSUAL}, "
                f"expected {usual:.0%}"
            )


def judge(
    played: Played,
    copies: Copies,
    begin: int,
    *,
    interval_s: float,
    limits: Limits,
    problems: tuple[str, ...] = (),
) -> Report:
    """The report on what was played of `copies.rows()`; clean points count from step `begin` on."""
    shape = (len(copies.faulty) + 1, *copies.clean.shape)
    score, over = played.score.reshape(shape), played.over.reshape(shape)
    scored, clean = np.isfinite(score[0][:, begin:]), over[0][:, begin:]
    present = np.isfinite(copies.clean[:, begin:])
    likely = played.probability[: len(clean), begin:]
    known = np.isfinite(likely)
    faults: dict[str, Found] = {}
    plain: dict[str, Found] = {}
    for number, (name, injected) in enumerate(copies.faulty.items(), start=1):
        shows = np.asarray(injected.truth.any(axis=1))
        faults[name] = _found(over[number], over[0], injected, shows, limits.found_share)
        if injected.plain.any():
            plain[name] = _found(over[number], over[0], injected, injected.plain, limits.found_share)
    return Report(
        limits=limits,
        series=len(clean),
        clean_points=int(present.sum()),
        faults=faults,
        plain=plain,
        held=faults[HELD].covered if HELD in faults else np.nan,
        false_alarms=_ratio(alarms(clean, scored, interval_s), clean.size * interval_s / 86_400),
        false_share=_ratio(clean & present, present.sum()),
        unscored=_ratio(present & ~scored, present.sum()),
        unusual=_ratio(likely[known] > UNUSUAL, known.sum()),
        problems=problems,
    )


def alarms(over: Bool, scored: Bool, interval_s: float) -> NDArray[np.int64]:
    """How many alarms each row has, (S,): one when points go over the threshold, and another every hour that they stay.

    Steps without a score say nothing: what was before goes on.
    """
    steps = np.arange(over.shape[1])
    last = np.maximum.accumulate(np.where(scored, steps, -1), axis=1)
    held = (last >= 0) & np.take_along_axis(over, np.maximum(last, 0), axis=1)
    since = steps - np.maximum.accumulate(np.where(held, -1, steps), axis=1) - 1  # steps since it went over
    again = max(round(REFIRE_S / interval_s), 1)
    return np.asarray((held & (since % again == 0)).sum(axis=1), np.int64)


def _found(over: Bool, clean: Bool, injected: Injected, rows: Bool, found_share: float) -> Found:
    over, clean, truth, values = over[rows], clean[rows], injected.truth[rows], injected.values[rows]
    count = truth.sum(axis=1)
    counted, least = truth, found_share * count
    if count.max() == 1:
        counted, least = truth | _next(values, truth), np.ones(len(over))
    elif np.isnan(values[truth]).all():
        least = np.ones(len(over))  # when silence becomes an anomaly and when normal is a matter of settings
    hits, chances = ((flags & counted).sum(axis=1) >= least for flags in (over, clean))
    flagged = over & truth
    number = np.take_along_axis(np.cumsum(truth, axis=1), flagged.argmax(axis=1)[:, None], axis=1)[:, 0]
    delays = number[flagged.any(axis=1)] - 1
    return Found(
        series=len(over),
        recall=float(hits.mean()),
        chance=float(chances.mean()),
        covered=float((flagged.sum(axis=1) / count).mean()),
        delay=float(np.median(delays)) if len(delays) else np.nan,
    )


def _next(values: F64, truth: Bool) -> Bool:
    """The first point after the only faulty one of each row, (S, T)."""
    later = np.isfinite(values) & (np.cumsum(truth, axis=1) > 0) & ~truth
    return np.asarray(later & (np.cumsum(later, axis=1) == 1))


def _ratio(part: NDArray[np.generic], whole: float) -> float:
    """The sum of some numbers as a share; NaN of nothing."""
    return float(np.sum(part, dtype=np.float64) / whole) if whole else np.nan


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if value == value else None
