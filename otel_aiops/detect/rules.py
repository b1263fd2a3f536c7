"""Rules: what policies do to scores, as arithmetic over many points, each with the numbers of its own rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.detector import CONSTANT, LEVEL, NOVELTY, SEASON, U8, Scores
from otel_aiops.detect.explain import number, quantity
from otel_aiops.otlp.points import F64, I32, Bool

MOST_SCORE = 100.0

CODES = (
    "",
    "data_range",
    "skip_result",
    "uncertain",
    "detection_direction",
    "min_dev_from_expected",
    "min_rel_dev_from_expected",
    "min_volume",
    "min_count_dev",
)
NONE, OUTSIDE, SKIPPED, UNCERTAIN, DIRECTION, MIN_DEV, MIN_REL_DEV, LOW_VOLUME, CHANCE = range(len(CODES))

OF_ONE_VALUE = (LEVEL, SEASON, CONSTANT, NOVELTY)  # channels that the newest value alone decides

SETTINGS: Mapping[str, tuple[Any, Any]] = {  # name → dtype, the value that changes nothing
    "low": (np.float64, -np.inf),
    "high": (np.float64, np.inf),
    "outside": (np.float64, np.nan),  # score of a value outside low to high
    "clip": (np.bool_, False),
    "only_above": (np.bool_, False),
    "only_below": (np.bool_, False),
    "dev_below": (np.float64, np.nan),  # absent, so that not even 0 from 0 is near
    "dev_above": (np.float64, np.nan),
    "ratio_below": (np.float64, np.nan),
    "ratio_above": (np.float64, np.nan),
    "volume": (np.float64, 0.0),
    "spreads": (np.float64, np.nan),  # of a Poisson count, which chance explains
    "is_rate": (np.bool_, False),  # the value is a rate per second, not itself a count
    "factor_below": (np.float64, 1.0),  # of the width of the band
    "factor_above": (np.float64, 1.0),
    "skip_result": (np.int32, 0),  # number of a group of windows, 0 for none
    "skip_learning": (np.int32, 0),
}
ZEROING = ("low", "high", "only_above", "only_below", "dev_below", "dev_above", "ratio_below", "ratio_above", "volume")


class Table:
    """The settings of C rules, a column each; rule 0 changes nothing."""

    def __init__(self) -> None:
        self._columns = {name: np.array([neutral], dtype) for name, (dtype, neutral) in SETTINGS.items()}
        self._used: set[str] = set()

    def append(self, settings: Mapping[str, Any]) -> None:
        """Add a rule that differs from rule 0 in these settings."""
        for name, (dtype, neutral) in SETTINGS.items():
            value = np.array([settings.get(name, neutral)], dtype)
            self._columns[name] = np.concatenate([self._columns[name], value])
        self._used |= set(settings)

    def rule(self, index: int) -> Mapping[str, Any]:
        """The settings of one rule."""
        return {name: column[index].item() for name, column in self._columns.items()}

    def at(self, index: I32) -> Rules:
        """The rules of K points, by index."""
        return Rules(self._columns, self._used, index)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rule of each of K points. What no rule uses need not be looked at."""

    _columns: Mapping[str, NDArray[Any]]
    _used: set[str]
    _index: I32

    def __getitem__(self, name: str) -> NDArray[Any]:
        """One setting of all points, (K,)."""
        return self._columns[name][self._index]

    def use(self, *names: str) -> bool:
        """Whether any rule has any of these settings."""
        return not self._used.isdisjoint(names)


def applied(rules: Rules, value: F64, interval_s: F64, scores: Scores, skipped: Bool) -> tuple[Scores, U8, Bool]:
    """(scores after the rules, which rule decided as index into CODES, which values are outside their range).

    Shape: all (K,). The arrays of `scores` are not changed. A result that is skipped has no score; else a value
    outside the range has at least the score of its rule; else the first rule by which it is no anomaly makes it 0.
    Alerts follow: none where there is no anomaly or no result.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        scores = _clipped(rules, _rescaled(rules, value, scores))
        code = _verdicts(rules, value, interval_s, scores)
        outside = _leaves_range(rules, value)
    score, probability = np.where(code != NONE, 0.0, scores.score), scores.probability
    alert = np.where((code != NONE) | skipped, 0.0, scores.alert)
    if outside.any():
        code[outside] = OUTSIDE
        score[outside] = np.fmax(scores.score[outside], rules["outside"][outside])
        alert[outside] = np.fmax(scores.alert[outside], np.where(skipped, 0.0, rules["outside"])[outside])
    if skipped.any():
        code[skipped], score[skipped] = SKIPPED, np.nan
        probability, alert = np.where(skipped, np.nan, probability), np.where(skipped, 0.0, alert)
    return replace(scores, score=score, probability=probability, alert=alert), code, outside


def _leaves_range(rules: Rules, value: F64) -> Bool:
    """Which values are outside their range; one that is absent is not."""
    if not rules.use("low", "high"):
        return np.zeros(len(value), np.bool_)
    outside: Bool = (value < rules["low"]) | (value > rules["high"])
    return outside


def _rescaled(rules: Rules, value: F64, scores: Scores) -> Scores:
    """After `scale` and `threshold`; a score that has no side, as of silence, stays as it is."""
    if not rules.use("factor_below", "factor_above"):
        return scores
    below, above = rules["factor_below"], rules["factor_above"]
    expected, lower, upper = scores.expected, scores.lower, scores.upper
    known = ~np.isnan(value - expected)
    factor = np.where(known, np.where(value >= expected, above, below), 1.0)
    lower = np.where(below == 1, lower, expected - (expected - lower) * below)
    upper = np.where(above == 1, upper, expected + (upper - expected) * above)
    score, alert = (np.minimum(x / factor, MOST_SCORE) for x in (scores.score, scores.alert))
    return replace(scores, score=score, alert=alert, lower=lower, upper=upper)


def _clipped(rules: Rules, scores: Scores) -> Scores:
    """After `clip_predictions`."""
    if not rules.use("clip"):
        return scores
    clip = rules["clip"]
    low, high = np.where(clip, rules["low"], -np.inf), np.where(clip, rules["high"], np.inf)
    expected, lower, upper = (np.clip(x, low, high) for x in (scores.expected, scores.lower, scores.upper))
    return replace(scores, expected=expected, lower=lower, upper=upper)


def _verdicts(rules: Rules, value: F64, interval_s: F64, scores: Scores) -> U8:
    """The first rule by which a point is no anomaly; NONE where there is no such rule, or no score."""
    code, expected = np.zeros(len(value), np.uint8), scores.expected
    if rules.use("spreads"):
        code[strong(scores) & _by_chance(rules, value, interval_s, scores)] = CHANCE
    if rules.use("volume"):
        volume = rules["volume"]
        code[(np.abs(value) < volume) & (np.abs(expected) < volume)] = LOW_VOLUME
    if rules.use("ratio_below", "ratio_above"):
        code[_near(rules, "ratio", value, expected, np.abs(expected))] = MIN_REL_DEV
    if rules.use("dev_below", "dev_above"):
        code[_near(rules, "dev", value, expected, 1.0)] = MIN_DEV
    if rules.use("only_above", "only_below"):
        code[(rules["only_above"] & (value <= expected)) | (rules["only_below"] & (value >= expected))] = DIRECTION
    if rules.use("low", "high"):
        code[_leaves_range(rules, expected)] = UNCERTAIN
    if rules.use(*ZEROING, "spreads"):
        code[np.isnan(scores.score)] = NONE
    return code


def strong(scores: Scores) -> Bool:
    """Which points are anomalies or worth an alert."""
    with np.errstate(invalid="ignore"):
        found: Bool = (scores.score >= 1) | (scores.alert >= 1)
    return found


def _by_chance(rules: Rules, value: F64, interval_s: F64, scores: Scores) -> Bool:
    """Which counts chance alone explains: events that come at the expected rate, but not evenly.

    The root of a Poisson count, and of 3/8 more, has a spread of a half whatever its mean is (Anscombe 1948, The
    transformation of Poisson, binomial and negative-binomial data, section 2). A shift or a change of variance is
    made of many values, so that one of them says nothing against it.
    """
    period_s = np.where(rules["is_rate"], interval_s, 1.0)
    now, usual = (np.sqrt(np.maximum(x * period_s, 0.0) + 0.375) for x in (value, scores.expected))
    explained: Bool = (2 * np.abs(now - usual) <= rules["spreads"]) & np.isin(scores.channel, OF_ONE_VALUE)
    return explained


def _near(rules: Rules, key: str, value: F64, expected: F64, unit: F64 | float) -> Bool:
    """Which values are no farther from what is expected than their side allows, in units."""
    least = np.where(value < expected, rules[f"{key}_below"], rules[f"{key}_above"])
    near: Bool = np.abs(value - expected) <= least * unit
    return near


def sentence(code: int, rule: Mapping[str, Any], value: float, expected: float, unit: str, key: str) -> str:
    """Why a rule decided as it did, "" for none; `key` names it in brackets."""
    now, usual = quantity(value, unit), quantity(expected, unit)
    low, high = number(rule["low"]), number(rule["high"])
    share = number(100 * abs(value / expected - 1)) if expected else "0"
    side = "below" if value < expected else "above"
    least, least_share = quantity(rule[f"dev_{side}"], unit), number(100 * rule[f"ratio_{side}"])
    counts = "above" if rule["only_above"] else "below"
    return {
        NONE: "",
        OUTSIDE: f"{now} is outside {low} to {high}, where values must be {key}.",
        SKIPPED: f"There is no result at this time {key}.",
        UNCERTAIN: f"The expected {usual} is outside {low} to {high}, so deviations from it do not count {key}.",
        DIRECTION: f"{now} is not {counts} the expected {usual}; nothing else counts {key}.",
        MIN_DEV: f"{now} is no more than {least} from the expected {usual}, which does not count {key}.",
        MIN_REL_DEV: f"{now} is {share} % from the expected {usual}; up to {least_share} % does not count {key}.",
        LOW_VOLUME: f"{now} and the expected {usual} are both below {quantity(rule['volume'], unit)} {key}.",
        CHANCE: f"So few events are no farther from the expected {usual} than chance takes them {key}.",
    }[code]
