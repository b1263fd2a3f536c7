"""Events: what labels say happened, and how the alerts of a detector fit to it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from otel_aiops.lifecycle.truth import ANOMALY, DUPLICATE, EXPECTED, NORMAL, Label

INCIDENT = "incident"  # the source whose labels, one by service, belong together


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Event:
    """Something that should have an alert: a label, or all labels of an incident. Neither series nor service is all."""

    start_ns: int
    end_ns: int
    name: str
    source: str
    confidence: float
    services: tuple[str, ...] = ()
    series: tuple[str, ...] = ()

    def concerns(self, series: str, service: str) -> bool:
        """Whether it is about a series of a service."""
        if not self.services and not self.series:
            return True
        return series in self.series or service in self.services


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Alert:
    """What operators were told: the first alert of a service, with those that came to it within minutes.

    `true` is the confidence of the surest event that it fits to, 0 for none; `called_false` says that a label calls
    this time normal, or expected. A `duplicate` fits to none and is not false either: it is a part of another one.
    """

    start_ns: int
    end_ns: int
    series: str
    service: str
    peak: float  # in thresholds
    channel: str
    members: int = 1
    true: float = 0.0
    called_false: bool = False
    duplicate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Caught:
    """What became of an event: whether it has an alert, after how long, and the share of its time that has one."""

    event: Event
    caught: bool
    delay_s: float  # NaN without an alert; negative when it came before the event
    covered: float


@dataclass(frozen=True, slots=True)
class Opened:
    """An alert of one series; `paid` is the first of its service within minutes."""

    series: str
    service: str
    start_ns: int
    end_ns: int
    peak: float
    channel: str
    paid: bool


def events_of(labels: Iterable[Label], start_ns: int, end_ns: int) -> tuple[Event, ...]:
    """The events that begin in a stretch of time.

    The labels of one incident are one event, and so are those of different sources about one service or series at one
    time: what the journal, a file and Alertmanager tell of is usually the same trouble.
    """
    groups: dict[tuple[str, ...], list[Label]] = {}
    for k, one in enumerate(sorted(labels)):
        if one.kind == ANOMALY and start_ns <= one.start_ns < end_ns:
            key = (INCIDENT, one.note) if one.source == INCIDENT and one.note else (str(k),)
            groups.setdefault(key, []).append(one)
    surest = sorted(groups.values(), key=lambda many: (-max(one.confidence for one in many), many))
    told: list[list[Label]] = []
    for many in surest:
        same = next((others for others in told if _same(many, others)), None)
        if same is None:
            told.append(list(many))
        else:
            same += many
    return tuple(sorted(_event(many, end_ns) for many in told))


def _same(many: Sequence[Label], others: Sequence[Label]) -> bool:
    """Whether two sources tell of the same trouble."""
    if {one.source for one in many} & {one.source for one in others}:
        return False
    about = [{one.series or one.service for one in some} - {""} for some in (many, others)]
    if not about[0] & about[1]:
        return False
    spans = [(min(one.start_ns for one in some), max(one.end_ns for one in some)) for some in (many, others)]
    return spans[0][0] < spans[1][1] and spans[1][0] < spans[0][1]


def _event(many: Sequence[Label], end_ns: int) -> Event:
    """Labels of one event, the surest first."""
    return Event(
        start_ns=min(one.start_ns for one in many),
        end_ns=min(max(one.end_ns for one in many), end_ns),
        name=many[0].note or many[0].series or many[0].service or "all",
        source=many[0].source,
        confidence=max(one.confidence for one in many),
        services=tuple(sorted({one.service for one in many if one.service and not one.series})),
        series=tuple(sorted({one.series for one in many if one.series})),
    )


def matches(events: Sequence[Event], opened: Sequence[Opened], tolerance_ns: int) -> list[list[Opened]]:
    """The alerts that are about each event: those that begin within [start - tolerance, end] on what it is about."""
    ordered = sorted(opened, key=lambda one: one.start_ns)
    starts = [one.start_ns for one in ordered]
    found = []
    for event in events:
        first = bisect_left(starts, event.start_ns - tolerance_ns)
        last = bisect_right(starts, event.end_ns)
        found.append([one for one in ordered[first:last] if event.concerns(one.series, one.service)])
    return found


def caught(events: Sequence[Event], opened: Sequence[Opened], tolerance_ns: int) -> tuple[Caught, ...]:
    """What became of each event."""
    found = []
    for event, mine in zip(events, matches(events, opened, tolerance_ns), strict=True):
        delay_s = min((one.start_ns - event.start_ns) / 1e9 for one in mine) if mine else float("nan")
        length_ns = max(event.end_ns - event.start_ns, 1)
        spans = [(max(one.start_ns, event.start_ns), min(one.end_ns, event.end_ns)) for one in mine]
        covered = min(1.0, _union(spans) / length_ns)
        found.append(Caught(event=event, caught=bool(mine), delay_s=delay_s, covered=covered))
    return tuple(found)


def alerts_of(
    opened: Sequence[Opened], events: Sequence[Event], labels: Iterable[Label], tolerance_ns: int
) -> tuple[Alert, ...]:
    """What operators were told, and how much of it was true."""
    quiet = [one for one in labels if one.kind != ANOMALY]
    true: dict[int, float] = {}  # by the alert that is about an event, the confidence of the surest one
    for event, mine in zip(events, matches(events, opened, tolerance_ns), strict=True):
        for one in mine:
            true[id(one)] = max(true.get(id(one), 0.0), event.confidence)
    groups: list[list[Opened]] = []
    newest: dict[str, list[Opened]] = {}
    for one in sorted(opened, key=lambda alert: (alert.start_ns, not alert.paid, alert.series)):
        if one.paid:
            newest[one.service] = [one]
            groups.append(newest[one.service])
        elif one.service in newest:  # of one that was paid before the time that is looked at nothing is told
            newest[one.service].append(one)
    return tuple(_alert(many, max(true.get(id(one), 0.0) for one in many), quiet) for many in groups)


def _alert(many: Sequence[Opened], true: float, quiet: Sequence[Label]) -> Alert:
    first = many[0]
    about = {label.kind for label in quiet for one in many if _about(label, one)} if not true else set()
    return Alert(
        start_ns=first.start_ns,
        end_ns=max(one.end_ns for one in many),
        series=first.series,
        service=first.service,
        peak=max(one.peak for one in many),
        channel=first.channel,
        members=len(many),
        true=true,
        called_false=bool(about & {NORMAL, EXPECTED}),
        duplicate=about == {DUPLICATE},
    )


def _about(label: Label, one: Opened) -> bool:
    about = (not label.series or label.series == one.series) and (not label.service or label.service == one.service)
    return about and label.start_ns <= one.start_ns <= label.end_ns


def _union(spans: Iterable[tuple[int, int]]) -> int:
    """The length of stretches that may overlap."""
    total, last = 0, -(2**63)
    for start, end in sorted(spans):
        total += max(0, end - max(start, last))
        last = max(last, end)
    return total


def precision(alerts: Sequence[Alert]) -> float:
    """The share of alerts that are true, each by the confidence of what it fits to; NaN without alerts.

    Duplicates do not count.
    """
    true = [one.true for one in alerts if not one.duplicate]
    return float(np.mean(true)) if true else float("nan")


def recall(events: Sequence[Caught]) -> float:
    """The share of events that have an alert, weighted by their confidence; NaN without events."""
    return _weighted(events, {id(one): float(one.caught) for one in events})


def coverage(events: Sequence[Caught]) -> float:
    """The share of the time of events that has an alert, weighted by their confidence; NaN without events."""
    return _weighted(events, {id(one): one.covered for one in events})


def median_delay_s(events: Sequence[Caught]) -> float:
    """From the start of an event to its alert; NaN where no event has one."""
    delays = [one.delay_s for one in events if one.caught]
    return float(np.median(delays)) if delays else float("nan")


def poisson_interval(count: int, weeks: float, level: float = 0.95) -> tuple[float, float]:
    """The interval of a rate a week of which `count` were seen. Source: Garwood, Biometrika 28, 1936.

    >>> [round(x, 2) for x in poisson_interval(4, 2.0)]
    [0.54, 5.12]
    """
    from scipy.special import gammaincinv  # late, because the service pays for it

    if weeks <= 0:
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low = float(gammaincinv(count, tail)) if count else 0.0
    return low / weeks, float(gammaincinv(count + 1, 1 - tail)) / weeks


def _weighted(events: Sequence[Caught], value: Mapping[int, float]) -> float:
    weight = sum(one.event.confidence for one in events)
    return sum(one.event.confidence * value[id(one)] for one in events) / weight if weight else float("nan")
