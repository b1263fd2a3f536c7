"""The alert budget: one threshold for all series of an objective, so that so many alerts come in a week."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.detector import Scores
from otel_aiops.detect.discovery import Crowd, Discovery
from otel_aiops.detect.rates import CLOSES_BELOW, GROUPS, LEVELS, LONG_AGO, WEEK_S, Rates
from otel_aiops.errors import ConfigError, StateError
from otel_aiops.labels import Labels, Selector
from otel_aiops.otlp.points import F64, I32, I64, Bool
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import Arrays, Columns, checked, pack, unpack

PERIODS_S = {"hour": 3600.0, "day": 86_400.0, "week": WEEK_S, "month": 30 * 86_400.0}
LEAST_BUDGET, MOST_BUDGET = 0.01, 100_000.0  # alerts a week
HOUR_NS = 3_600_000_000_000
HOURS = 168  # of a week
LEAST, MOST = 0.2, 1e6  # alert scores; lower ones are nothing, higher ones count as that
ACTIVE_NS = 24 * HOUR_NS  # a series that was seen within this counts for the rate
GROWN = 1.1  # times the series of before: the threshold does not wait for the hour
FALL_AN_HOUR = 0.02  # of the logarithm of the threshold, once it is some days old; it rises at once
PAY_BACK = 0.5  # of what was overspent in the last week, of the rate of the next one
LEAST_ALLOWED, MOST_ALLOWED = 0.3, 1.5  # times the budget, however much was over- or underspent


def per_week(budget: str | float) -> float:
    """Alerts a week of a budget like "2/week", "1/day" or a number a week.

    >>> per_week("2/week"), per_week("1/day"), per_week(3)
    (2.0, 7.0, 3.0)

    Raises: ConfigError.
    """
    expected = f"expected a number a week or one like 2/week, of {', '.join(PERIODS_S)}, got {budget!r}"
    if isinstance(budget, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*/\s*(\w+)\s*", budget)
        if found is None or found[2] not in PERIODS_S:
            raise ConfigError("budget", expected)
        number = float(found[1]) * WEEK_S / PERIODS_S[found[2]]
    else:
        number = float(budget)
    if not LEAST_BUDGET <= number <= MOST_BUDGET:
        raise ConfigError("budget", f"must be in {LEAST_BUDGET:g} .. {MOST_BUDGET:g} alerts a week, got {number:g}")
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetConfig:
    """How many alerts an objective or team wants, and for which series. The first that matches owns a series."""

    name: str = "default"  # of the objective or team, as metrics and alerts say it; each has its own
    match: Mapping[str, str | bool | int | float] = field(default_factory=dict)  # label and value, or ~regex; {} is all
    budget: str | float = "1/day"  # alerts: 2/week, 1/day, or a number a week
    hold: float = 300.0  # an alert ends after so long below 0.8 of the threshold
    group: float = 600.0  # alerts of one service within so long of the first are one alert
    floor: float = 0.5  # the threshold is never lower: what is not even strange is no alert
    ceiling: float = 50.0  # nor higher: a catastrophe is always one
    false_discoveries: float = 0.2  # share of the series believed in one minute that may be strange by chance; 1 is off

    def __post_init__(self) -> None:
        per_week(self.budget)
        if not self.name:
            raise ConfigError("name", "expected a name, got none")
        for key, value in self.match.items():
            try:
                Selector({key: value})
            except re.error as error:
                raise ConfigError(f"match.{key}", f"is not a regular expression: {error}, got {value!r}") from error
        for key in ("hold", "group"):
            if not 0 <= getattr(self, key) <= 86_400:
                raise ConfigError(key, f"must be in 0 .. 86400 s, got {getattr(self, key)}")
        if not LEVELS[0] <= self.floor <= self.ceiling <= LEVELS[-1]:
            limits = f"{LEVELS[0]:g} <= floor <= ceiling <= {LEVELS[-1]:.3g}"
            raise ConfigError("floor", f"must be {limits}, got {self.floor} and {self.ceiling}")
        if not 0 < self.false_discoveries <= 1:
            raise ConfigError("false_discoveries", f"must be in (0, 1], got {self.false_discoveries}")


def check_budgets(configs: Sequence[BudgetConfig], default: str | float) -> None:
    """See that objectives can be told apart, and that the budget of all others is one. Raises: ConfigError."""
    names = [BudgetConfig(budget=default).name]
    for i, config in enumerate(configs):
        if config.name in names:
            used = "is that of all other series" if config.name == names[0] else "stands twice"
            raise ConfigError(f"budgets.{i}.name", f"expected a name of its own, got {config.name!r}, which {used}")
        names.append(config.name)


@dataclass(frozen=True, slots=True)
class Alerted:
    """What K points are to operators, all (K,); `crowds` are minutes in which many series were a little strange.

    `ratio` is the alert score in thresholds, 0 where it is held back or not believed: 1 is an alert. `active` says
    that the series has an alert now, `opened` that it begins here, `counted` that it is also the first of its service
    within minutes and was paid from the budget. `threshold` is that of the objective, in alert scores; `shift` is what
    was added to its logarithm, None for nothing.
    """

    ratio: F64
    active: Bool
    opened: Bool
    counted: Bool
    threshold: F64
    crowds: tuple[Crowd, ...] = ()
    shift: F64 | None = None


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """An objective in numbers: alerts a week that are wanted, that were in the last week, and that are projected."""

    name: str
    budget: float
    actual: int
    projected: float
    threshold: float
    series: int
    alerts: int  # since the beginning


@dataclass(frozen=True, slots=True)
class _Strange:
    """J of the K points that are strange or were so before; all (J,)."""

    rows: I32
    owner: I64
    group: I64
    time_ns: I64
    alert: F64
    unmoved: F64  # before verdicts raised its threshold: what it would be if nobody had said anything
    still: Bool  # the score says that it goes on, though the alert may be held back


class Budget:
    """Decides which points are alerts, from the stream of alert scores alone: without labels, in one pass.

    Every hour of event time the threshold of an objective goes to where its alerts would have kept to the budget in
    the last weeks, a little higher after a week with too many of them and lower after one with too few. It rises at
    once and falls by 2 % an hour at most, but faster while little is known; a series that is above a falling threshold
    already does not alert by that.
    In the beginning a prior says how many alerts a series has. What verdicts spare is spent on no other alert: it
    counts for the threshold as if it had come. 54 bytes a row, and 3 MB.
    """

    def __init__(self, configs: Sequence[BudgetConfig] = (), *, default: BudgetConfig | None = None) -> None:
        """Raises: ConfigError when two have the same name."""
        self.configs = (*configs, default or BudgetConfig())
        names = [config.name for config in self.configs]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise ConfigError(f"{i}.name", f"expected different names, got {name!r} twice")
        self._selectors = [Selector(config.match) for config in configs]
        self._per_week = np.array([per_week(config.budget) for config in self.configs])
        self._hold_ns = self._of_configs("hold", 1e9).astype(np.int64)
        self._group_ns = self._of_configs("group", 1e9).astype(np.int64)
        self._floor, self._ceiling = self._of_configs("floor"), self._of_configs("ceiling")
        self._q = self._of_configs("false_discoveries")
        self._rates = Rates(self._of_configs("hold"), self._of_configs("group"))
        self._discovery = Discovery(len(names))
        self._owned = Columns({"owner": (np.int32, (), len(configs)), "group": (np.int32, (), 0)})
        self._rows = Columns(
            {
                "seen_ns": (np.int64, (), 0),
                "held_ns": (np.int64, (), 0),  # when the open alert was last above 0.8 of the threshold
                "open": (np.bool_, (), 0),
                "busy": (np.bool_, (), 0),  # open, or strange a moment ago
                "spared_ns": (np.int64, (), LONG_AGO),  # when it last was above the threshold, but not its own one
                "last": (np.float32, (), 0),  # alert score of the newest point
                "bar": (np.float32, (), 0),  # the threshold that it did not reach
            }
        )
        self._groups_ns = np.full(GROUPS, LONG_AGO, np.int64)  # when the first alert of a group was
        self._spared_ns = np.full(GROUPS, LONG_AGO, np.int64)  # or of those that verdicts spare
        self._objectives: Arrays = {
            "threshold": np.zeros(len(names)),
            "series": np.zeros(len(names), np.int64),
            "hours": np.zeros((len(names), HOURS), np.int32),  # alerts by hour of the last week
            "spared": np.zeros((len(names), HOURS), np.int32),  # those that would have come without verdicts
            "alerts": np.zeros(len(names), np.int64),
            "since_ns": np.zeros(len(names), np.int64),
        }
        self._size = 0
        self._adjusted_ns = 0

    def assign(self, rows: I32, labels: Sequence[Labels]) -> None:
        """Rows are given to series with these labels. After a restore every row is assigned again."""
        if not len(rows):
            return
        self._reserve(int(rows.max()) + 1)
        owner = [self._owner(one) for one in labels]
        places = [zlib.crc32(f"{o} {one.service}".encode()) % GROUPS for o, one in zip(owner, labels, strict=True)]
        self._owned.of["owner"][rows], self._owned.of["group"][rows] = owner, places

    def update(self, batch: Batch, scores: Scores, *, event_ns: int, shift: F64 | None = None) -> Alerted:
        """Take in K points, and say which are alerts. `shift` (K,) moves the logarithm of their thresholds."""
        rows = batch.rows
        self._reserve(int(rows.max()) + 1 if len(rows) else 0)
        of, owner = self._rows.of, self._owned.of["owner"][rows].astype(np.int64)
        of["seen_ns"][rows] = batch.time_ns
        self._adjust(owner, event_ns)
        crowds = self._discovery.add(owner, scores.probability, event_ns=event_ns)
        threshold = self._objectives["threshold"][owner]
        alert = scores.alert if shift is None else scores.alert * np.exp(-shift)
        no = np.zeros((3, len(rows)), bool)
        result = Alerted(np.zeros(len(rows)), no[0], no[1], no[2], threshold, crowds, shift)
        unmoved = alert if shift is None else np.fmax(alert, scores.alert)
        which = np.flatnonzero((unmoved >= LEAST) | of["busy"][rows])
        if len(which):
            strange = _Strange(
                rows[which],
                owner[which],
                self._owned.of["group"][rows[which]].astype(np.int64),
                batch.time_ns[which],
                np.fmin(np.fmax(alert[which], 0.0), MOST),
                np.fmin(np.fmax(unmoved[which], 0.0), MOST),
                scores.score[which] >= CLOSES_BELOW,
            )
            self._judge(result, which, strange, scores.probability[which], event_ns)
        return result

    def reports(self) -> list[BudgetReport]:
        """Budget against actual, of every objective; the last one is the default."""
        of = self._objectives
        rates = self._rates.a_week(of["series"])
        with np.errstate(divide="ignore"):
            at = [float(np.interp(np.log(t), np.log(LEVELS), r)) for t, r in zip(of["threshold"], rates, strict=True)]
        return [
            BudgetReport(
                name=config.name,
                budget=float(self._per_week[k]),
                actual=int(of["hours"][k].sum()),
                projected=at[k],
                threshold=float(of["threshold"][k]),
                series=int(of["series"][k]),
                alerts=int(of["alerts"][k]),
            )
            for k, config in enumerate(self.configs)
        ]

    def objective(self, row: int) -> tuple[str, float]:
        """The objective that owns a row, by name, and its threshold before any verdict, in alert scores."""
        owner = int(self._owned.of["owner"][row]) if row < self._size else len(self.configs) - 1
        return self.configs[owner].name, float(self._objectives["threshold"][owner])

    def end(self, rows: I32) -> None:
        """Series that end have no alert any more."""
        self._rows.of["open"][rows[rows < self._size]] = False

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series start anew."""
        rows = rows[rows < self._size]
        self._rows.clear(rows)
        self._owned.clear(rows)
        self._rates.forget(rows)

    # -- one step ------------------------------------------------------------------------------------------------------

    def _judge(
        self, result: Alerted, which: NDArray[np.intp], points: _Strange, probability: F64, event_ns: int
    ) -> None:
        """Fill in what the J points are that are strange or were so before; the others are nothing."""
        believed = self._discovery.believed(points.owner, probability, self._q)
        ceiling = self._ceiling[points.owner]
        alert, unmoved = (np.where(believed | (of >= ceiling), of, 0.0) for of in (points.alert, points.unmoved))
        points = replace(points, alert=alert, unmoved=unmoved)
        self._rates.count(points.rows, points.owner, points.group, points.time_ns, unmoved, points.still)
        threshold, of = result.threshold[which], self._rows.of
        opened = self._open(points, threshold)
        result.ratio[which] = alert / threshold
        result.active[which], result.opened[which] = of["open"][points.rows], opened
        of["busy"][points.rows] = of["open"][points.rows] | (unmoved > 0) | self._rates.busy(points.rows)
        self._spare(np.flatnonzero((unmoved >= threshold) & (alert < threshold)), points, event_ns)
        result.counted[which[self._pay(np.flatnonzero(opened), points, event_ns)]] = True

    def _open(self, points: _Strange, threshold: F64) -> Bool:
        """Open and close alerts; returns which opened.

        A series that was above the threshold of now already, and below the one of then, needs that one: else a falling
        threshold would open many alerts at once for what has been so for long.
        """
        of, rows, alert = self._rows.of, points.rows, points.alert
        was_open, last, bar = of["open"][rows], of["last"][rows], of["bar"][rows].astype(np.float64)
        needed = np.where(~was_open & (last >= threshold), np.maximum(bar, threshold), threshold)
        held = (alert >= CLOSES_BELOW * threshold) | (was_open & points.still)
        held_ns = np.where(held, points.time_ns, of["held_ns"][rows])
        opened: Bool = ~was_open & (alert >= needed)
        of["open"][rows] = opened | (was_open & (points.time_ns - held_ns <= self._hold_ns[points.owner]))
        of["held_ns"][rows], of["last"][rows], of["bar"][rows] = held_ns, alert, needed
        return opened

    def _pay(self, opened: NDArray[np.intp], points: _Strange, event_ns: int) -> NDArray[np.intp]:
        """Which of the alerts that opened are the first of their group, and are paid for."""
        if not len(opened):
            return opened
        first = opened[np.unique(points.group[opened], return_index=True)[1]]
        owner, group, time_ns = points.owner[first], points.group[first], points.time_ns[first]
        new = time_ns - self._group_ns[owner] > self._groups_ns[group]
        self._groups_ns[group[new]] = time_ns[new]
        paid = np.bincount(owner[new], minlength=len(self.configs))
        self._objectives["hours"][:, event_ns // HOUR_NS % HOURS] += paid.astype(np.int32)
        self._objectives["alerts"] += paid
        return first[new]

    def _spare(self, which: NDArray[np.intp], points: _Strange, event_ns: int) -> None:
        """Count alerts that verdicts spare, as they would have been paid: that money goes to no other alert."""
        of, rows, owner = self._rows.of, points.rows[which], points.owner[which]
        time_ns = points.time_ns[which]
        begins = ~of["open"][rows] & (time_ns - of["spared_ns"][rows] > self._hold_ns[owner])
        of["spared_ns"][rows] = time_ns
        first = which[begins][np.unique(points.group[which[begins]], return_index=True)[1]]
        owner, group, time_ns = points.owner[first], points.group[first], points.time_ns[first]
        new = time_ns - self._group_ns[owner] > np.maximum(self._groups_ns[group], self._spared_ns[group])
        self._spared_ns[group[new]] = time_ns[new]
        spared = np.bincount(owner[new], minlength=len(self.configs))
        self._objectives["spared"][:, event_ns // HOUR_NS % HOURS] += spared.astype(np.int32)

    def _adjust(self, owner: I64, event_ns: int) -> None:
        """Move the thresholds: every hour, and at once where there are many more series."""
        of = self._objectives
        begun = self._adjusted_ns > 0
        hours = event_ns // HOUR_NS - self._adjusted_ns // HOUR_NS if begun else 0
        present = np.bincount(owner, minlength=len(self.configs))
        if begun and hours <= 0 and not (present > GROWN * of["series"]).any():
            return
        series = np.maximum(self._active(event_ns), 0)
        elapsed_s = max(0, event_ns - self._adjusted_ns) / 1e9 if begun else 0.0
        self._rates.advance(elapsed_s, of["series"])
        for hour in range(max(1, hours - HOURS + 1), hours + 1):
            for name in ("hours", "spared"):
                of[name][:, (self._adjusted_ns // HOUR_NS + hour) % HOURS] = 0
        of["series"][:] = series
        of["since_ns"][(of["since_ns"] == 0) & (series > 0)] = event_ns
        wanted = np.clip(self._rates.threshold(series, self._allowed(event_ns)), self._floor, self._ceiling)
        falls = self._falls(event_ns, elapsed_s)
        of["threshold"][:] = np.maximum(wanted, of["threshold"] * falls)
        self._adjusted_ns = max(event_ns, self._adjusted_ns)

    def _falls(self, event_ns: int, elapsed_s: float) -> F64:
        """What is left of each threshold at least, (O,): in the first days it falls as fast as more becomes known."""
        now_s = (event_ns - self._objectives["since_ns"]) / 1e9
        known = np.maximum(now_s - elapsed_s, 3600.0) / np.maximum(now_s, 3600.0)
        falls: F64 = np.minimum(np.exp(-FALL_AN_HOUR * elapsed_s / 3600.0), known)
        return falls if elapsed_s < WEEK_S else np.zeros(len(falls))

    def _allowed(self, event_ns: int) -> F64:
        """Alerts a week from now on: the budget, less what the last week overspent, or more what it left."""
        of = self._objectives
        lasted_s = np.where(of["since_ns"] > 0, (event_ns - of["since_ns"]) / 1e9, 0.0)
        due = self._per_week * np.clip(lasted_s / WEEK_S, 0.0, 1.0)
        over = ((of["hours"] + of["spared"]).sum(axis=1) - due) / np.maximum(self._per_week, 1.0)
        allowed: F64 = self._per_week * np.clip(1 - PAY_BACK * over, LEAST_ALLOWED, MOST_ALLOWED)
        return allowed

    def _active(self, event_ns: int) -> I64:
        """Series of each objective that were seen in the last day, (O,)."""
        seen = self._rows.of["seen_ns"][: self._size]
        owner = self._owned.of["owner"][: self._size][(seen > event_ns - ACTIVE_NS) & (seen > 0)]
        return np.bincount(owner, minlength=len(self.configs)).astype(np.int64)

    def _owner(self, labels: Labels) -> int:
        return next((i for i, one in enumerate(self._selectors) if one.matches(labels)), len(self._selectors))

    def _of_configs(self, key: str, factor: float = 1.0) -> F64:
        return np.array([getattr(config, key) * factor for config in self.configs], np.float64)

    def _reserve(self, size: int) -> None:
        if size > self._size:
            self._size = size
            for part in (self._rows, self._owned, self._rates):
                part.reserve(size)

    def learned(self) -> Arrays:
        """What is known of each objective's alert scores, whoever's they are: to begin elsewhere where this stands."""
        names, ends = pack([config.name.encode() for config in self.configs])
        counts, series_s = self._rates.learned()
        known = {"threshold": self._objectives["threshold"].copy(), "counts": counts, "series_s": series_s}
        return {**known, "names": names, "ends": ends}

    def adopt(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `learned` gave, of objectives that are known here by name. Raises: StateError."""
        levels = {"threshold": (np.float64, ("n",)), "counts": (np.float64, ("n", len(LEVELS)))}
        packed = {"names": (np.uint8, ("bytes",)), "ends": (np.int64, ("n",))}
        checked(arrays, {**levels, "series_s": (np.float64, ("n",)), **packed})
        before = [name.decode() for name in unpack(arrays["names"], arrays["ends"])]
        for k, config in enumerate(self.configs):
            if config.name in before:
                taken = before.index(config.name)
                self._objectives["threshold"][k] = arrays["threshold"][taken]
                self._rates.adopt(k, arrays["counts"][taken], float(arrays["series_s"][taken]))

    def pool(self, parts: Sequence[Mapping[str, NDArray[Any]]], series: I64) -> None:
        """Take over what several have `learned` of different series, under these same objectives, as if one had.

        `series` of each objective, (O,), come at a time: the thresholds are those that keep its budget with them.
        Raises: StateError.
        """
        expected = [config.name for config in self.configs]
        for part in parts:
            if (names := [name.decode() for name in unpack(part["names"], part["ends"])]) != expected:
                raise StateError(f"expected what is known of {', '.join(expected)}, got {', '.join(names)}")
        for k in range(len(self.configs)):
            counts = np.sum([part["counts"][k] for part in parts], axis=0)
            self._rates.adopt(k, counts, float(np.sum([part["series_s"][k] for part in parts])))
        wanted = self._rates.threshold(series, self._per_week)
        self._objectives["threshold"][:] = np.clip(wanted, self._floor, self._ceiling)

    # -- state ---------------------------------------------------------------------------------------------------------

    def state(self) -> Arrays:
        """Everything learned; which objective owns a row follows from its labels and is not in it."""
        names, ends = pack([config.name.encode() for config in self.configs])
        parts = {"rows": self._rows.state(self._size), "rates": self._rates.state(self._size)}
        parts |= {"discovery": self._discovery.state(), "objectives": self._objectives}
        arrays = {f"{part}/{name}": array.copy() for part, of in parts.items() for name, array in of.items()}
        clock = np.array([self._adjusted_ns], np.int64)
        since = {"groups_ns": self._groups_ns.copy(), "spared_ns": self._spared_ns.copy()}
        return {**arrays, **since, "clock": clock, "names": names, "ends": ends}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over a state; objectives, by name, that are not in it begin anew. Raises: StateError."""
        own: dict[str, dict[str, NDArray[Any]]] = {"rows": {}, "rates": {}, "discovery": {}, "objectives": {}, "": {}}
        for path, array in arrays.items():
            part, _, name = path.rpartition("/")
            own.get(part, own[""])[name] = array
        if "spared_ns" not in own[""] and "open" in own["rows"] and "hours" in own["objectives"]:  # an older state
            own[""]["spared_ns"] = np.full(GROUPS, LONG_AGO, np.int64)
            own["rows"]["spared_ns"] = np.full(len(own["rows"]["open"]), LONG_AGO, np.int64)
            own["objectives"]["spared"] = np.zeros_like(own["objectives"]["hours"])
        self._check(own)
        before = [name.decode() for name in unpack(own[""]["names"], own[""]["ends"])]
        pairs = [(k, before.index(one.name)) for k, one in enumerate(self.configs) if one.name in before]
        place, taken = np.array(pairs, np.intp).reshape(-1, 2).T
        self._size = 0
        self._reserve(len(own["rows"]["open"]))
        self._rows.restore(own["rows"], self._size)
        self._rates.restore(own["rates"], place, taken)
        self._discovery.restore(own["discovery"], place, taken)
        for name, array in self._objectives.items():
            array[:] = 0
            array[place] = own["objectives"][name][taken]
        self._groups_ns, self._spared_ns = own[""]["groups_ns"].copy(), own[""]["spared_ns"].copy()
        self._adjusted_ns = int(own[""]["clock"][0])

    def _check(self, own: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Raises: StateError when a state does not fit."""
        objectives = {name: (array.dtype, ("n", *array.shape[1:])) for name, array in self._objectives.items()}
        since = (np.int64, (GROUPS,))
        alone = {"clock": (np.int64, (1,)), "groups_ns": since, "spared_ns": since}
        checked(own[""], {**alone, "names": (np.uint8, ("bytes",)), "ends": (np.int64, ("n",))})
        checked(own["rows"], self._rows.saved())
        checked(own["discovery"], self._discovery.saved())
        checked(own["objectives"], objectives)
        self._rates.check(own["rates"])
