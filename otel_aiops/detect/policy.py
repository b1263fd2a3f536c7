"""Policies: what operators know better than any detector about which deviations count, in the words they know."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect import rules
from otel_aiops.detect.detector import U8, Scores
from otel_aiops.detect.windows import Window, WindowConfig, covers, window
from otel_aiops.detect.zones import check_zone
from otel_aiops.errors import ConfigError
from otel_aiops.labels import Labels, Selector
from otel_aiops.otlp.points import I32, I64, Bool
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import Columns

Direction = Literal["both", "above_expected", "below_expected"]
Sides = float | tuple[float, float]  # below and above what is expected, or one number for both
_Skip = Literal["skip_result", "skip_learning"]
_Kind = Literal["", "rate", "events"]
_SKIPS: tuple[_Skip, ...] = ("skip_result", "skip_learning")

OUTSIDE_SCORE = 1.01  # of a value outside data_range, as in vmanomaly
MOST_RATIO = 10.0  # of min_rel_dev_from_expected; a larger one was meant as per cent
# For rates of events without a policy. Found on Poisson counts of mean 0.05 to 20: 4 to 30 anomalies a week of a series
# become at most 0.3, and each jump from 5 or fewer to 30 is still found with its first point.
COUNT_SPREADS = 4.0
NO_EVENTS = re.compile("seconds|bytes|joules")  # units in the names of Prometheus


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """What holds for the series that match. Of several policies that match, the last one that sets a key decides it.

    Source: vmanomaly 1.30, "Common args" of models and "Per-query parameters" of the reader; OpenSearch anomaly
    detection 3.6, suppression rules; Elastic anomaly detection, custom rules (skip_result, skip_model_update).
    """

    name: str = ""  # what reasons call this policy
    match: Mapping[str, str | bool | int | float] = field(default_factory=dict)  # label and value, or ~regex; {} is all
    data_range: tuple[float, float] | None = None  # [low, high]; a value outside is anomalous at once
    anomaly_score_outside_data_range: float | None = None  # score of such a value; 1.01
    clip_predictions: bool | None = None  # keep the expected value and its band within data_range
    detection_direction: Direction | None = None  # both, above_expected or below_expected: which side counts
    min_dev_from_expected: Sides | None = None  # smaller deviations never count; one number or [below, above]
    min_rel_dev_from_expected: Sides | None = None  # the same as ratio of what is expected; 0.2 is 20 %
    min_volume: float | None = None  # nothing counts while value and expected value are both below this
    min_count_dev: float | None = None  # counts within so many spreads of chance never count; 4 for rates of events
    scale: Sides | None = None  # multiplies the width of the band; one number or [below, above]
    threshold: float | None = None  # spreads that make a score of 1, instead of detection.threshold
    skip_result: tuple[WindowConfig, ...] | None = None  # no scores in these windows: start, end, days, from, to, tz
    skip_learning: tuple[WindowConfig, ...] | None = None  # nothing is learned in these windows
    tz: str | None = None  # time zone of these series, and of windows that name none; UTC

    def __post_init__(self) -> None:
        check_match(self.match)
        self._check_range()
        for key, most in (("min_dev_from_expected", math.inf), ("min_rel_dev_from_expected", MOST_RATIO)):
            self._check_sides(key, most)
        if self.detection_direction not in (None, "both", "above_expected", "below_expected"):
            message = f"expected both, above_expected or below_expected, got {self.detection_direction!r}"
            raise ConfigError("detection_direction", message)
        if self.min_volume is not None and not 0 <= self.min_volume < math.inf:
            raise ConfigError("min_volume", f"must be >= 0, got {self.min_volume}")
        if self.min_count_dev is not None and not 0 <= self.min_count_dev < math.inf:
            raise ConfigError("min_count_dev", f"must be >= 0, got {self.min_count_dev}")
        for key in ("scale", "threshold"):
            value = getattr(self, key)
            if value is not None and not all(0 < side < math.inf for side in sides(value)):
                raise ConfigError(key, f"must be > 0, got {value}")
        self.windows("skip_result")
        self.windows("skip_learning")
        if self.tz is not None:
            check_zone(self.tz)

    def windows(self, key: _Skip) -> tuple[Window, ...]:
        """The windows of a key. Raises: ConfigError that names the window."""
        found = []
        for i, config in enumerate(getattr(self, key) or ()):
            try:
                found.append(window(config, tz=self.tz or "UTC"))
            except ConfigError as error:
                raise ConfigError(f"{key}.{i}.{error.path}".rstrip("."), error.message) from error
        return tuple(found)

    def _check_range(self) -> None:
        limits = self.data_range
        if limits is not None and (len(limits) != 2 or not limits[0] <= limits[1]):
            raise ConfigError("data_range", f"expected [low, high], got {list(limits)}")
        score = self.anomaly_score_outside_data_range
        if score is not None and not 1 <= score <= rules.MOST_SCORE:
            raise ConfigError("anomaly_score_outside_data_range", f"must be in 1 .. {rules.MOST_SCORE:g}, got {score}")

    def _check_sides(self, key: str, most: float) -> None:
        value = getattr(self, key)
        if value is None:
            return
        if isinstance(value, tuple | list) and len(value) != 2:
            raise ConfigError(key, f"expected one number or [below, above], got {list(value)}")
        for side in sides(value):
            if not 0 <= side <= most or math.isinf(side):
                ratio = f" and <= {most:g}, where 0.2 is 20 %" if math.isfinite(most) else ""
                raise ConfigError(key, f"must be >= 0{ratio}, got {side}")


@dataclass(frozen=True, slots=True)
class Applied:
    """What policies made of the scores of K points, all (K,).

    `scores` has a score of 0 where a rule says that it is no anomaly, at least 1 outside data_range, and NaN where the
    result is skipped; its band is the one that the rules leave. `untouched` is what the detector gave. `learnable` is
    False where nothing may be learned: in skip_learning windows, and from values outside data_range. `reason_code`
    indexes CODES: the rule that decided, 0 for none.
    """

    scores: Scores
    untouched: Scores
    learnable: Bool
    reason_code: U8


@dataclass(frozen=True, slots=True)
class _Merged:
    """The keys that hold together for some series, and the policies that set them."""

    keys: PolicyConfig
    set_by: Mapping[str, str]


class Policies:
    """The policies of every row. They are found when a row gets its labels; a point then costs a few array reads.

    What is kept of a row is the number of its combination of policies. It follows from labels and configuration
    alone, so there is no state to save: assign every row again after a restore. `threshold` is that of the scores
    that will come, in spreads.
    """

    def __init__(self, configs: Sequence[PolicyConfig], *, threshold: float) -> None:
        self._configs = tuple(configs)
        self._selectors = [Selector(config.match) for config in configs]
        self._threshold = threshold
        self._windows: list[tuple[Window, ...]] = [()]
        self._groups: dict[tuple[int, _Skip], int] = {}
        for i, config in enumerate(configs):
            for key in _SKIPS:
                self._groups[i, key] = len(self._windows)
                self._windows.append(config.windows(key))
        self._combinations: dict[tuple[str, tuple[int, ...]], int] = {("", ()): 0}
        self._always: Bool = np.zeros(1, np.bool_)  # by combination: looks at all points, not only at strong ones
        self._merged = [_Merged(PolicyConfig(), {})]
        self._table = rules.Table()
        self._columns = Columns({"combination": (np.int32, (), 0)})

    def assign(self, row: int, labels: Labels) -> None:
        """Find the policies of a row that now has these labels."""
        found = tuple(i for i, selector in enumerate(self._selectors) if selector.matches(labels))
        self._columns.reserve(row + 1)
        self._columns.of["combination"][row] = self._combination(_kind_of(labels), found)

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series have no policies until they are assigned anew."""
        self._columns.clear(rows[rows < self._columns.rows])

    def apply(self, batch: Batch, scores: Scores) -> Applied:
        """What the policies make of K scores; neither argument is changed."""
        count = len(batch.rows)
        learnable, code = np.ones(count, np.bool_), np.zeros(count, np.uint8)
        if len(self._merged) == 1 or not count:
            return Applied(scores, scores, learnable, code)
        self._columns.reserve(int(batch.rows.max()) + 1)
        combination = self._columns.of["combination"][batch.rows]
        k = np.flatnonzero((combination > 0) & (self._always[combination] | rules.strong(scores)))
        if not len(k):
            return Applied(scores, scores, learnable, code)
        if len(k) == count:
            return self._applied(combination, batch, scores)
        part = self._applied(combination[k], batch.at(k), scores.at(k))
        if part.learnable.all() and not part.reason_code.any() and not self._always[combination[k]].any():
            return Applied(scores, scores, learnable, code)
        learnable[k], code[k] = part.learnable, part.reason_code
        return Applied(_joined(scores, part.scores, k), scores, learnable, code)

    def words(self, batch: Batch, applied: Applied, k: int, unit: str = "") -> str:
        """Which rule decided about point k, in one plain sentence; "" for none."""
        code, combination = int(applied.reason_code[k]), self._combination_of(int(batch.rows[k]))
        key = "data_range" if code == rules.UNCERTAIN else rules.CODES[code]
        name = self._merged[combination].set_by.get(key)
        by = f"({key} of policy {name})" if name else f"({key})"
        value, expected = float(batch.value[k]), float(applied.scores.expected[k])
        return rules.sentence(code, self._table.rule(combination), value, expected, unit, by)

    def names(self, row: int) -> tuple[str, ...]:
        """The policies of a row, by name or else by their place in the list."""
        found = next(of for (_, of), number in self._combinations.items() if number == self._combination_of(row))
        return tuple(self._configs[i].name or f"policies.{i}" for i in found)

    def _applied(self, combination: I32, batch: Batch, scores: Scores) -> Applied:
        """What `apply` gives, for points that all have policies."""
        of = self._table.at(combination)
        skipped = self._within(of, "skip_result", batch.time_ns)
        after, code, outside = rules.applied(of, batch.value, batch.interval_s, scores, skipped)
        learnable = ~(outside | self._within(of, "skip_learning", batch.time_ns))
        return Applied(after, scores, learnable, code)

    def _combination_of(self, row: int) -> int:
        return int(self._columns.of["combination"][row]) if row < self._columns.rows else 0

    def _combination(self, kind: _Kind, found: tuple[int, ...]) -> int:
        """The number of a combination of policies for a kind of series, a new one if it has not been seen."""
        if (kind, found) not in self._combinations:
            keys: dict[str, Any] = {"min_count_dev": COUNT_SPREADS} if kind == "events" else {}
            set_by: dict[str, str] = {}
            groups: dict[str, Any] = {}
            for i in found:
                given = _given(self._configs[i])
                keys |= given
                set_by |= dict.fromkeys(given, self._configs[i].name)
                groups |= {key: self._groups[i, key] for key in _SKIPS if key in given}
            merged = _Merged(PolicyConfig(**keys), set_by)
            settings = _settings(merged.keys, self._threshold) | groups
            if "spreads" in settings:
                settings["is_rate"] = kind != ""
            self._table.append(settings)
            self._always = np.append(self._always, not settings.keys() <= {"spreads", "is_rate"})
            self._merged.append(merged)
            self._combinations[kind, found] = len(self._merged) - 1
        return self._combinations[kind, found]

    def _within(self, of: rules.Rules, key: _Skip, time_ns: I64) -> Bool:
        """Which of K times are in the windows that their rules have."""
        inside = np.zeros(len(time_ns), np.bool_)
        if not of.use(key):
            return inside
        group = of[key]
        for one in np.flatnonzero(np.bincount(group)).tolist():  # groups are as many as the configuration has
            k = np.flatnonzero(group == one)
            inside[k] = covers(self._windows[one], time_ns[k])
        return inside


def check_match(match: Mapping[str, str | bool | int | float]) -> None:
    """See that a Selector can be made. Raises: ConfigError that names the key."""
    for key, value in match.items():
        try:
            Selector({key: value})
        except re.error as error:
            raise ConfigError(f"match.{key}", f"is not a regular expression: {error}, got {value!r}") from error


def sides(value: Sides) -> tuple[float, float]:
    """(below, above) of a number for both or one for each."""
    return (value[0], value[1]) if isinstance(value, tuple | list) else (value, value)


def _given(config: PolicyConfig) -> dict[str, Any]:
    """The keys that a policy sets."""
    skipped = ("name", "match")
    values = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in skipped}
    return {key: value for key, value in values.items() if value is not None}


def _settings(keys: PolicyConfig, threshold: float) -> dict[str, Any]:
    """The settings of the rule that a policy means, without its windows; a key that changes nothing has none."""
    found: dict[str, Any] = {}
    if keys.data_range is not None:
        found |= {"low": keys.data_range[0], "high": keys.data_range[1], "clip": bool(keys.clip_predictions)}
        found["outside"] = keys.anomaly_score_outside_data_range or OUTSIDE_SCORE
    if keys.detection_direction in ("above_expected", "below_expected"):
        found["only_" + keys.detection_direction.removesuffix("_expected")] = True
    for name, value in (("dev", keys.min_dev_from_expected), ("ratio", keys.min_rel_dev_from_expected)):
        found |= {f"{name}_{side}": least for side, least in _by_side(value or 0.0) if least > 0}
    if keys.min_count_dev:
        found["spreads"] = keys.min_count_dev
    if keys.min_volume:
        found["volume"] = keys.min_volume
    factor = keys.threshold / threshold if keys.threshold else 1.0
    found |= {f"factor_{side}": factor * scale for side, scale in _by_side(keys.scale or 1.0) if factor * scale != 1}
    return found


def _by_side(value: Sides) -> tuple[tuple[str, float], tuple[str, float]]:
    below, above = sides(value)
    return ("below", below), ("above", above)


def _kind_of(labels: Labels) -> _Kind:
    """What a value of a series is: a rate of events, another rate, or "" for itself."""
    if labels.stat != "rate":
        return ""
    counted = labels.unit in ("", "1") or labels.unit.startswith("{")
    return "events" if labels.kind != "sum" or (counted and not NO_EVENTS.search(labels.name)) else "rate"


def _joined(scores: Scores, part: Scores, k: NDArray[np.intp]) -> Scores:
    """The scores with those of the points k replaced."""
    joined = {}
    for name in ("score", "probability", "expected", "lower", "upper", "alert"):
        joined[name] = getattr(scores, name).copy()
        joined[name][k] = getattr(part, name)
    return replace(scores, **joined)
