"""The scope of an objective: its series, their data, the alerts to expect, and whether it is feasible, from history."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np

from otel_aiops.detect.budget import LEAST_BUDGET
from otel_aiops.detect.faults import FAULTS, RAMP_S
from otel_aiops.incidents.incident import Channel
from otel_aiops.labels import Labels, Selector, text
from otel_aiops.lifecycle.objective import Objective
from otel_aiops.lifecycle.rehearse import Alerts, Faults, rehearse
from otel_aiops.lifecycle.survey import Survey, survey
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.archive import Archive

Feasible = Literal["yes", "no", "not known"]
Told = Callable[[float, float, str], None]  # done, total, what

MOST_POINTS = 3_000_000  # that are scored for one objective; of more, series are drawn
LEAST_DRAWN = 20  # series, however many points each has
LEVEL = 0.9  # of the intervals
NEAR = 3  # values that are offered where none matches
NEAR_RATIO = 0.4
LEAST_TRIED = 10  # faults, or nothing is said of recall
DAY_S = 86_400.0

LASTING = ("shift_up", "ramp", "variance_up")
EITHER = ("shift_up", "shift_down", "ramp")
USUAL = ("spike", "dip", "shift_up", "shift_down", "ramp", "variance_up", "missing")
FAULTS_OF: Mapping[Channel, tuple[str, ...]] = {  # what a type of incident does to series
    Channel.DEPLOYMENT: (*EITHER, "variance_up"),
    Channel.RESOURCE: LASTING,
    Channel.ERRORS: LASTING,
    Channel.LATENCY: LASTING,
    Channel.NETWORK: LASTING,
    Channel.SEQUENCE: EITHER,
    Channel.LOGS: EITHER,
    Channel.RATE: EITHER,
    Channel.SERIES: USUAL,
    Channel.SILENCE: ("missing",),
}


@dataclass(frozen=True, slots=True)
class Scope:
    """What the history says of an objective.

    `series` are in scope, of which `drawn` were looked at. `alerts_low` and `alerts_high` are the 90 % interval of the
    alerts a week, `recall_low` and `recall_high` that of the recall; a number is NaN where there is none. `near` says
    of an empty scope what the selector misses.
    """

    objective: str
    id: str
    feasible: Feasible
    reasons: tuple[str, ...]
    series: int
    drawn: int
    data: Survey | None
    budget: float  # alerts a week
    alerts: Alerts | None = None
    alerts_low: float = float("nan")
    alerts_high: float = float("nan")
    faults: Faults | None = None
    recall: float = float("nan")
    recall_low: float = float("nan")
    recall_high: float = float("nan")
    least_precision: float = float("nan")  # share of alerts that must be real to be worth their cost
    near: tuple[str, ...] = ()

    @property
    def points_per_s(self) -> float:
        """Points of all series in scope, if all came at once."""
        data = self.data
        return self.series / data.interval_s if data is not None and data.interval_s > 0 else 0.0

    def plain_values(self) -> dict[str, Any]:
        """For machines: None where there is no number."""
        week = {"alerts_a_week": self.alerts.a_week if self.alerts else None, "points_per_s": self.points_per_s}
        values: dict[str, Any] = _plain(dataclasses.asdict(self) | week)
        return values

    def text(self) -> str:
        """For people."""
        return "\n".join(f"{name:<12}{line}" for name, line in self._lines())

    def _lines(self) -> Iterator[tuple[str, str]]:
        drawn = f", of which {self.drawn} were looked at" if self.drawn < self.series else ""
        yield "objective", f"{self.objective} ({self.id})"
        yield "series", f"{self.series} in scope{drawn}"
        for line in self.near:
            yield "", line
        if self.data is not None:
            yield from _data_lines(self.data)
        if self.alerts is not None and self.alerts.counted_s > 0:
            found = f"{self.alerts.count} in {span(self.alerts.counted_s)}: {self.alerts.a_week:.1f} a week"
            interval = f"{LEVEL:.0%} interval {self.alerts_low:.1f} to {self.alerts_high:.1f}"
            yield "alerts", f"{found} ({interval}), the budget is {self.budget:g}"
            yield "", f"worth their cost when {self.least_precision:.0%} of them are real"
        if self.faults is not None and self.faults.tried:
            yield from self._fault_lines(self.faults)
        yield "feasible", self.feasible
        for reason in self.reasons:
            yield "", reason

    def _fault_lines(self, faults: Faults) -> Iterator[tuple[str, str]]:
        interval = f"{LEVEL:.0%} interval {self.recall_low:.0%} to {self.recall_high:.0%}"
        told = f"{self.recall:.0%} of {faults.tried} faults put in {faults.series} series are alerts ({interval})"
        delay = f", after {span(faults.delay_s)} in the median" if faults.delay_s == faults.delay_s else ""
        yield "recall", told + delay
        yield "", ", ".join(f"{kind} {found} of {tried}" for kind, tried, found in faults.by_kind)
        if faults.lead_s == faults.lead_s:
            yield "lead time", f"{span(faults.lead_s)} before a ramp of {span(RAMP_S)} has its full size"


def scope(
    objective: Objective, archive: Archive, config: PipelineConfig, *, seed: int = 0, progress: Told | None = None
) -> Scope:
    """Say from what a service has recorded whether an objective can be had; equal histories give equal answers.

    `config` is the detection that would run; the objective has its budget for itself. Reads the whole history of the
    series that it looks at. Raises: StateError and StorageError of a history that cannot be read.
    """
    known = archive.labels()
    texts, every = list(known), list(known.values())
    selector = Selector(objective.match)
    inside = [k for k, labels in enumerate(every) if selector.matches(labels)]
    if not inside:
        reason = f"no series of {len(every)} that are recorded is in scope"
        near = tuple(_near(objective.match, every))
        return _scope(objective, series=0, drawn=0, data=None, feasible="no", reasons=(reason,), near=near)
    drawn = _drawn(inside, archive.points_of_a_series(), seed)
    labels = [every[k] for k in drawn]
    points = archive.points([texts[k] for k in drawn])
    data, _ = survey(points, least_history_s=objective.data.least_history)
    share = len(drawn) / len(inside)
    a_week = max(objective.alerts_a_week * share, LEAST_BUDGET)
    budget = dataclasses.replace(objective.alert_budget(), budget=a_week)
    alerts, faults = rehearse(
        points,
        labels,
        config,
        budget,
        interval_s=data.interval_s,
        kinds=fault_kinds(objective),
        seed=seed,
        told=None if progress is None else lambda share: progress(share, 1.0, objective.name),
    )
    return _judged(objective, len(inside), share, data, alerts, faults, drawn=len(drawn))


def fault_kinds(objective: Objective) -> tuple[str, ...]:
    """The faults that are like the incidents of an objective, in the order of the self-test."""
    wanted = {kind for channel in objective.incidents or (Channel.SERIES,) for kind in FAULTS_OF[Channel(channel)]}
    return tuple(kind for kind in FAULTS if kind in wanted)


def poisson_interval(count: int) -> tuple[float, float]:
    """The 90 % interval of a Poisson mean of which `count` events were seen. Source: Garwood (1936).

    >>> [round(limit, 2) for limit in poisson_interval(3)]
    [0.82, 7.75]
    """
    from scipy.special import gammaincinv

    tail = (1 - LEVEL) / 2
    low = float(gammaincinv(count, tail)) if count else 0.0
    return low, float(gammaincinv(count + 1, 1 - tail))


def share_interval(found: int, tried: int) -> tuple[float, float]:
    """The 90 % interval of a share of which `found` of `tried` were seen. Source: Clopper and Pearson (1934).

    >>> [round(limit, 2) for limit in share_interval(5, 10)]
    [0.22, 0.78]
    """
    from scipy.special import betaincinv

    tail = (1 - LEVEL) / 2
    low = float(betaincinv(found, tried - found + 1, tail)) if found else 0.0
    return low, float(betaincinv(found + 1, tried - found, 1 - tail)) if found < tried else 1.0


def span(seconds: float) -> str:
    """A time for people.

    >>> span(276_480), span(300), span(45), span(1_209_600)
    ('3.2 d', '5 min', '45 s', '14 d')
    """
    for unit, size in (("d", DAY_S), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{round(seconds / size, 1):g} {unit}"
    return f"{round(seconds, 1):g} s"


# -- the verdict --------------------------------------------------------------------------------------------------


def _judged(
    objective: Objective, series: int, share: float, data: Survey, alerts: Alerts, faults: Faults, *, drawn: int
) -> Scope:
    """Everything put together, and whether it is feasible."""
    whole = dataclasses.replace(alerts, count=round(alerts.count / share))
    weeks = max(alerts.counted_s / (7 * DAY_S), 1e-9)
    low, high = (limit / share / weeks for limit in poisson_interval(alerts.count))
    recall = faults.found / faults.tried if faults.tried else float("nan")
    recall_low, recall_high = share_interval(faults.found, faults.tried) if faults.tried else (float("nan"),) * 2
    found = _scope(
        objective,
        series=series,
        drawn=drawn,
        data=data,
        alerts=whole,
        alerts_low=low,
        alerts_high=high,
        faults=faults,
        recall=recall,
        recall_low=recall_low,
        recall_high=recall_high,
    )
    lacks = list(_lacks(objective, data))
    unknown = [*lacks, *_too_few(objective, found)]
    missed = [] if lacks else list(_missed(objective, found))
    feasible: Feasible = "no" if missed else "not known" if unknown else "yes"
    return dataclasses.replace(found, feasible=feasible, reasons=tuple(missed + unknown) or (_reached(found),))


def _lacks(objective: Objective, data: Survey) -> Iterator[str]:
    """What the history must have, and has not: then its numbers prove nothing."""
    needs = objective.data
    if data.span_s < needs.least_history:
        yield f"needs {span(needs.least_history)} of history, has {span(data.span_s)}"
    if data.usable < needs.least_series:
        yield f"needs {needs.least_series} series with enough points, has {data.usable} of {data.series}"
    if data.gaps > needs.most_gaps:
        yield f"needs gaps in at most {needs.most_gaps:.0%} of the time, has {data.gaps:.0%}"


def _missed(objective: Objective, found: Scope) -> Iterator[str]:
    """What is wanted and not reached, as far as that is certain."""
    target, faults = objective.target, found.faults
    if found.alerts and found.alerts_low > found.budget:
        yield f"the budget is {found.budget:g} alerts a week, the history would have had {found.alerts.a_week:.1f}"
    if faults and faults.tried >= LEAST_TRIED and found.recall_high < target.recall:
        yield (
            f"at {found.budget:g} alerts a week {found.recall:.0%} of injected faults are found, "
            f"the target is {target.recall:.0%}"
        )
    if faults and target.lead_time and faults.lead_s < target.lead_time:
        yield f"the lead time is {span(max(faults.lead_s, 0))}, the target is {span(target.lead_time)}"


def _too_few(objective: Objective, found: Scope) -> Iterator[str]:
    """What cannot be told from this history."""
    target, faults = objective.target, found.faults
    assert faults is not None
    if faults.tried < LEAST_TRIED:
        yield f"{faults.tried} faults could be put in, {LEAST_TRIED} are needed to say how many are found"
    elif found.recall < target.recall <= found.recall_high:
        yield (
            f"{found.recall:.0%} of injected faults are found, {found.recall_low:.0%} to {found.recall_high:.0%} by "
            f"chance: too near the target of {target.recall:.0%} to say"
        )
    if target.lead_time and faults.lead_s != faults.lead_s:
        yield f"no ramp was found that would show the lead time, the target is {span(target.lead_time)}"


def _reached(found: Scope) -> str:
    assert found.alerts is not None
    return (
        f"{found.recall:.0%} of injected faults are found with {found.alerts.a_week:.1f} alerts a week "
        f"of a budget of {found.budget:g}"
    )


def _scope(
    objective: Objective, *, feasible: Feasible = "not known", reasons: tuple[str, ...] = (), **known: Any
) -> Scope:
    return Scope(
        objective=objective.name,
        id=objective.id,
        feasible=feasible,
        reasons=reasons,
        budget=objective.alerts_a_week,
        least_precision=objective.cost.least_precision,
        **known,
    )


# -- series in scope ----------------------------------------------------------------------------------------------


def _drawn(inside: Sequence[int], points: float, seed: int) -> list[int]:
    """As many of the series in scope as can be looked at, by chance."""
    most = max(LEAST_DRAWN, int(MOST_POINTS / max(points, 1.0)))
    if len(inside) <= most:
        return list(inside)
    chosen = np.random.default_rng(seed).choice(len(inside), most, replace=False)
    return [inside[k] for k in sorted(chosen.tolist())]


def _near(match: Mapping[str, str | bool | int | float], every: Sequence[Labels]) -> Iterator[str]:
    """Of every key of a selector that matches nothing: what it matches alone, or which values are near."""
    for key, value in match.items():
        wanted = text(value)
        matching = sum(Selector({key: value}).matches(labels) for labels in every)
        if matching:
            yield f"{key}: {wanted} alone matches {matching} series"
            continue
        values = Counter(_value(labels, key) for labels in every)
        values.pop("", None)
        near = get_close_matches(wanted.lstrip("~"), list(values), NEAR, NEAR_RATIO)
        offered = near or [one for one, _ in sorted(values.items(), key=lambda item: (-item[1], item[0]))[:NEAR]]
        listed = ", ".join(f"{one} ({values[one]} series)" for one in offered)
        begin = "near are" if near else "there are"
        yield f"{key}: {wanted} matches none; {begin} {listed or 'no series with this key'}"


def _value(labels: Labels, key: str) -> str:
    """What a key of a selector means for a series, as `Selector` looks it up."""
    own = {"name": labels.name, "service": labels.service, "stat": labels.stat}
    has = dict((*labels.scope_attributes, *labels.resource, *labels.attributes))
    return own[key] if key in own else text(has.get(key))


def _data_lines(data: Survey) -> Iterator[tuple[str, str]]:
    interval = f"a point every {span(data.interval_s)}" if data.interval_s == data.interval_s else "single points"
    yield "history", f"{span(data.span_s)}, {data.points} points, {interval}"
    shares = (("gaps", data.gaps), ("duplicates", data.duplicates), ("no number", data.absent))
    counts = (("too young", data.young), ("too sparse", data.sparse), ("constant", data.constant))
    told = [f"{name} {share:.1%}" for name, share in shares]
    told += [f"{count} {name}" for name, count in (*counts, ("stopped", data.stopped)) if count]
    yield "data", ", ".join(told) + "; resets and late points are counted where they arrive"
    seasons = ", ".join(f"{span(one.period_s)} in {one.share:.0%}" for one in data.seasons)
    yield "seasons", f"{seasons or 'none'} of {data.searched} series" if data.searched else "no series to search"


def _plain(tree: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_plain(value) for value in tree]
    return None if isinstance(tree, float) and tree != tree else tree
