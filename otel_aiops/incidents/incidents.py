"""Incidents as they open, grow, merge, split and end: findings and decisions in, revisions of incidents out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from otel_aiops.errors import BadInput, ConfigError, StateError
from otel_aiops.incidents.codec import decode, encode
from otel_aiops.incidents.graph import ServiceGraph, reached
from otel_aiops.incidents.group import Group, GroupConfig, Groups, Item, Name
from otel_aiops.incidents.incident import Entry, Finding, Incident, Severity, State, Suspect
from otel_aiops.incidents.predictions import Predictions
from otel_aiops.incidents.record import (
    Record,
    columns_of,
    ending,
    item_of,
    joining,
    news,
    picture,
    record_of,
    rows_of,
    standing,
    strong,
)
from otel_aiops.incidents.severity import Failing, SeverityConfig, SloConfig, burning, failing_of, impact, worse
from otel_aiops.incidents.similar import Past
from otel_aiops.incidents.suppress import (
    DEPENDENCY_HOPS,
    LIVE,
    Action,
    Decision,
    Maintenance,
    MaintenanceConfig,
    Silence,
    explained,
    explaining,
    ruled,
)
from otel_aiops.incidents.words import NO_CANDIDATE, summary, title
from otel_aiops.series.columns import Arrays, checked

S = 1_000_000_000
VERSION = 2
BEFORE = 1  # the version that has rows, and no callers of findings
EXPLAINING = 200  # the earliest live incidents that may explain others
EXPLAINED = 1_000  # incidents that are looked at again when those change

Rank = Callable[[Incident, int], tuple[Suspect, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentsConfig:
    """Knobs of incidents. Times are event time."""

    group: GroupConfig = field(default_factory=GroupConfig)
    severity: SeverityConfig = field(default_factory=SeverityConfig)
    slo: tuple[SloConfig, ...] = ()
    maintenance: tuple[MaintenanceConfig, ...] = ()
    rank_at: tuple[float, ...] = (0.0, 30.0, 60.0, 120.0)  # after detection
    revise: float = 5.0  # at most so often for findings that join, and for ranking them
    renew: float = 30.0  # at most so often for findings that only go on
    graph_interval: float = 60.0  # how often the service graph is asked again
    max_incidents: int = 10_000  # that are not long over
    max_timeline: int = 200  # lines of one
    max_predictions: int = 1_000  # that stand or were decided of late
    max_past: int = 500  # with which new ones are compared
    max_revised: int = 500  # in one step; the others come in the next
    max_ranked: int = 50  # in one step
    max_rules: int = 1_000  # silences and maintenance windows

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        for name in ("revise", "renew", "graph_interval"):
            if not getattr(self, name) >= 0:
                raise ConfigError(name, f"expected at least 0 s, got {getattr(self, name)}")
        if list(self.rank_at) != sorted(self.rank_at) or not self.rank_at:
            raise ConfigError("rank_at", f"expected rising times, got {list(self.rank_at)}")
        for name in ("incidents", "timeline", "predictions", "past", "revised", "ranked", "rules"):
            if getattr(self, f"max_{name}") < 1:
                raise ConfigError(f"max_{name}", f"expected at least 1, got {getattr(self, f'max_{name}')}")


class Incidents:
    """All incidents that are not long over. Equal calls give equal bits.

    `rank` names the suspects of an incident at an event time. `failing` says what share of a service's requests failed,
    for burn rates; without it, findings of errors say so. `counts` says what went over a limit, by reason.
    """

    def __init__(
        self, config: IncidentsConfig, *, graph: ServiceGraph, rank: Rank, failing: Failing | None = None
    ) -> None:
        self._config = config
        self._graph = graph
        self._rank = rank
        self._failing = failing
        self._groups = Groups(config.group, graph)
        self._records: dict[str, Record] = {}
        self._pending: dict[Name, None] = {}  # findings whose groups may have something new
        self._predictions = Predictions(config.max_predictions)
        self._past = Past(config.max_past)
        self._silences: dict[str, Silence] = {}
        self._windows: dict[str, Maintenance] = {one.name: one.window() for one in config.maintenance}
        self._spent: dict[str, int] = {}  # the last revisions of incidents that are gone, should they come back
        self._now_ns = 0
        self._graph_due_ns = 0
        self._ranks_left = 0
        self._live: list[str] = []  # the earliest, which may explain others
        self._explain = False  # those have changed in the last step
        self._explaining: dict[str, list[Incident]] = {}
        self._below: dict[str, dict[str, int]] = {}  # what services depend on
        self.counts: Counter[str] = Counter()

    def update(self, findings: Sequence[Finding], event_ns: int) -> tuple[Incident, ...]:
        """Take findings, new or renewed, in any order: a new revision of every incident that they change."""
        self._groups.add(findings, event_ns)
        return self.step(event_ns)

    def step(self, event_ns: int) -> tuple[Incident, ...]:
        """What is due by time: incidents that end, rankings, silences that run out."""
        self._now_ns = event_ns = max(event_ns, self._now_ns)
        self._ranks_left = self._config.max_ranked
        if event_ns >= self._graph_due_ns:
            self._graph_due_ns = event_ns + round(self._config.graph_interval * S)
            self._groups.learn_graph()
            self._below = {}
        told = self._forget(event_ns)
        self._pending.update(dict.fromkeys(group.first.name for group in self._groups.settle()))
        urgent = self._due(event_ns, explain=self._explain)
        self._pending.update(dict.fromkeys(urgent))
        told += self._revise_pending(urgent, event_ns)
        self._explain = self._look()
        return tuple(told)

    def decide(self, decision: Decision) -> tuple[Incident, ...]:
        """Do what an operator wants: new revisions of what it changes. Raises: BadInput."""
        decision.check()
        event_ns = max(decision.time_ns, self._now_ns)
        if decision.silence is not None and decision.action is Action.SILENCE:
            silence = decision.silence
            self._room()
            self._silences[silence.name] = replace(silence, who=decision.who, why=decision.why or silence.why)
        elif decision.maintenance is not None and decision.action is Action.MAINTENANCE:
            window = decision.maintenance
            self._room()
            self._windows[window.name] = replace(window, who=decision.who, why=decision.why or window.why)
        elif decision.action is Action.UNSILENCE:
            if self._silences.pop(decision.name, None) is None and self._windows.pop(decision.name, None) is None:
                raise BadInput(f"name: expected a silence or maintenance window, got {decision.name!r}")
        else:
            return self._mark(decision, event_ns)
        return self.step(event_ns)

    def foresee(self, predictions: Sequence[Incident], event_ns: int) -> tuple[Incident, ...]:
        """Take predictions, and what became of them, from whoever makes them: those that are new or have changed."""
        return tuple(self._predictions.take(predictions, event_ns))

    def open(self) -> tuple[Incident, ...]:
        """The incidents that are open or acknowledged, the earliest first."""
        live = [record.incident for record in self._records.values() if record.incident.state in LIVE]
        return tuple(sorted(live, key=lambda incident: (incident.start_ns, incident.id)))

    def predicted(self) -> tuple[Incident, ...]:
        """The predictions that stand."""
        return self._predictions.standing()

    def rules(self) -> tuple[Silence | Maintenance, ...]:
        """The silences and maintenance windows that hold or will."""
        return (*self._windows.values(), *self._silences.values())

    def find(self, name: str) -> Incident | None:
        """An incident or prediction by id, None when it is not there any more."""
        record = self._records.get(name)
        return record.incident if record is not None else self._predictions.find(name)

    def refused(self) -> Counter[str]:
        """What went over a limit or came too late, by reason."""
        return self.counts + self._groups.counts + self._predictions.counts

    def state(self) -> Arrays:
        """Everything, as JSON bytes."""
        items = self._groups.items()
        numbers = dict(zip(items, range(len(items)), strict=True))

        def number(one: Finding) -> int | None:
            item = items.get((one.key, one.start_ns))
            return numbers[item.name] if item is not None and (item.finding is one or item.finding == one) else None

        saved = {
            "version": VERSION,
            "now": self._now_ns,
            "graph_due": self._graph_due_ns,
            "around": list(self._groups.surroundings().items()),
            "items": columns_of(list(items.values())),
            "pending": [list(name) for name in self._pending],
            "records": [record.state(number) for record in self._records.values()],
            "predictions": self._predictions.state(),
            "past": self._past.state(),
            "explain": self._explain,
            "spent": list(self._spent.items()),
            "below": list(self._below.items()),
            "silences": encode(list(self._silences.values())),
            "windows": encode(list(self._windows.values())),
            "counts": [dict(self.counts), dict(self._groups.counts)],
        }
        return {"incidents": np.frombuffer(json.dumps(saved).encode(), np.uint8).copy()}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        checked(arrays, {"incidents": (np.uint8, ("B",))})
        try:
            saved = json.loads(arrays["incidents"].tobytes())
            rows: Iterable[Sequence[Sequence[Any]]]
            if saved["version"] == BEFORE:
                rows = [(finding, [*evidence, ""], rest) for finding, evidence, rest in saved["items"]]
            elif saved["version"] == VERSION:
                rows = rows_of(saved["items"])
            else:
                raise StateError(f"incidents: expected version {VERSION}, got {saved['version']}")
            self._take(saved, [item_of(row) for row in rows])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise StateError(f"incidents: expected a saved state, got one that does not fit: {error!r}") from error

    def _take(self, saved: dict[str, Any], items: list[Item]) -> None:
        groups = Groups(self._config.group, self._graph)
        known = [item.finding for item in items]
        groups.resume(items, {service: tuple(others) for service, others in saved["around"]})
        mine, theirs = saved["counts"]
        groups.counts = Counter(theirs)
        records = [record_of(one, known) for one in saved["records"]]
        self._predictions.restore(saved["predictions"])
        self._past.restore(saved["past"])
        self._silences = {one.name: one for one in (decode(Silence, value) for value in saved["silences"])}
        self._windows = {one.name: one for one in (decode(Maintenance, value) for value in saved["windows"])}
        self._windows.update({one.name: one.window() for one in self._config.maintenance})
        self._pending = {(key, start_ns): None for key, start_ns in saved["pending"]}
        self._now_ns, self._graph_due_ns = saved["now"], saved["graph_due"]
        self._explain = bool(saved["explain"])
        self._spent = dict(saved["spent"])
        self._below = dict(saved["below"])
        self._groups = groups
        self._records = {record.incident.id: record for record in records}
        self.counts = Counter(mine)
        self._look()

    def _look(self) -> bool:
        """See which incidents may explain others; whether they are other ones than before."""
        live = self.open()[:EXPLAINING]
        self._explaining = explaining(live)
        was, self._live = self._live, [incident.id for incident in live]
        return was != self._live

    def _group(self, record: Record) -> Group | None:
        item = self._groups.items().get(record.name)
        return item.group if item is not None else None

    def _due(self, event_ns: int, *, explain: bool) -> set[Name]:
        """The incidents that must be told of now: their state, suspects or suppression change with time."""
        urgent: set[Name] = set()
        left = EXPLAINED if explain else 0
        ranks = self._config.max_ranked
        for record in self._records.values():
            group = self._group(record)
            incident = record.incident
            if incident.state is State.MERGED or group is None or group.id != incident.id:
                continue
            state = standing(record, group.active(event_ns, self._config.group))
            due = state is not incident.state
            if state in LIVE and not due:
                left -= 1
                due = self._hushed_anew(incident, event_ns, explain=left >= 0)
                if ranks and self._rank_due(record, event_ns):
                    ranks, due = ranks - 1, True
            if due:
                urgent.add(group.first.name)
        for rules in (self._silences, self._windows):
            for name in [name for name, rule in rules.items() if _over(rule, event_ns)]:
                del rules[name]
        return urgent

    def _hushed_anew(self, incident: Incident, event_ns: int, *, explain: bool) -> bool:
        """Whether something else suppresses an incident than before; dependencies are looked at where `explain`."""
        rule = ruled(incident, self._silences.values(), self._windows.values(), event_ns)
        if rule or (incident.suppressed_by and not incident.suppressed_by.startswith("dependency")):
            return rule != incident.suppressed_by
        return explain and self._suppressor(incident, event_ns) != incident.suppressed_by

    def _rank_due(self, record: Record, event_ns: int) -> bool:
        since_ns = event_ns - record.incident.detected_ns
        times = self._config.rank_at
        if record.ranks < len(times) and since_ns >= times[record.ranks] * S:
            return True
        return record.stirred and event_ns - record.ranked_ns >= self._config.revise * S

    def _suppressor(self, incident: Incident, event_ns: int) -> str:
        """Who or what suppresses an incident."""
        rule = ruled(incident, self._silences.values(), self._windows.values(), event_ns)
        return rule or explained(incident, self._depends_on, self._explaining)

    def _depends_on(self, service: str) -> dict[str, int]:
        """What a service depends on, through how many calls."""
        found = self._below.get(service)
        if found is None:
            found = self._below[service] = reached([service], self._graph.callees, hops=DEPENDENCY_HOPS)
        return found

    def _revise_pending(self, urgent: set[Name], event_ns: int) -> list[Incident]:
        """New revisions of the groups that have changed, as many as a step may have, the earliest first."""
        items = self._groups.items()
        found = {items[name].group: name for name in self._pending if name in items}
        groups = sorted((group for group in found if group is not None), key=lambda group: group.first.order)
        hurry = {items[name].group for name in urgent if name in items}
        self._pending = {}
        told: list[Incident] = []
        left = self._config.max_revised
        for group in groups:
            if not left or not (group in hurry or self._ripe(group, event_ns)):
                self._pending[group.first.name] = None
                continue
            left -= 1
            told += self._revise(group, event_ns)
        return told

    def _ripe(self, group: Group, event_ns: int) -> bool:
        """Whether it is time to tell of a group that has changed."""
        record = self._records.get(group.id)
        if record is None or record.incident.state is State.MERGED or self._absorbs(group):
            return True
        gap_s = self._config.revise if group.news else self._config.renew
        return event_ns - record.told_ns >= gap_s * S

    def _absorbs(self, group: Group) -> list[Record]:
        """The incidents that have merged into the one of a group and do not know it yet."""
        names = {head.name_id() for head in group.heads} - {group.id}
        records = [self._records[name] for name in sorted(names) if name in self._records]
        return [record for record in records if record.incident.state is not State.MERGED]

    def _revise(self, group: Group, event_ns: int) -> list[Incident]:
        """The new revision of the incident of a group, and of those that have merged into it."""
        absorbed = self._absorbs(group)
        record = self._records.get(group.id)
        if record is None:
            if len(self._records) >= self._config.max_incidents:
                self.counts["incident over the limit"] += 1
                return []
            record = self._open(group, absorbed, event_ns)
        elif record.incident.state is State.MERGED:
            into = record.incident.merged_into
            self._write(record, event_ns, "split", f"Split from incident {into}.")
        merged = [self._merge(record, other, event_ns) for other in absorbed]
        before = record.incident
        now = self._draw(group, record, event_ns)
        new, record.told_ns = not record.told_ns, event_ns
        if not new and replace(now, revision=before.revision) == before:
            return merged
        record.incident = replace(now, revision=before.revision + 1)
        return [record.incident, *merged]

    def _open(self, group: Group, absorbed: Sequence[Record], event_ns: int) -> Record:
        """A record for a new incident, which may be one or part of one that was told of under another name."""
        group.first.head = True
        group.heads.append(group.first)
        parent = self._records.get(group.first.home)
        known = [*absorbed, *([parent] if parent is not None else [])]
        detected_ns = min([event_ns, *(one.incident.detected_ns for one in known)])
        incident = Incident(
            id=group.id,
            revision=self._spent.get(group.id, 0),
            state=State.OPEN,
            severity=Severity.INFO,
            start_ns=group.start_ns,
            detected_ns=detected_ns,
            suspects=known[0].incident.suspects if known else (),
        )
        record = Record(name=group.first.name, incident=incident)
        self._records[group.id] = record
        if parent is not None and parent not in absorbed and parent.incident.state is not State.MERGED:
            self._write(record, event_ns, "split", f"Split from incident {parent.incident.id}.")
            self._write(parent, event_ns, "split", f"Incident {group.id} was split off.")
            self._pending[parent.name] = None
        self._write(record, detected_ns, "opened", f"Opened after {_listed(group.services)}.")
        return record

    def _merge(self, record: Record, other: Record, event_ns: int) -> Incident:
        """One incident ends in another, which takes over what operators decided."""
        survivor = record.incident.id
        record.incident = replace(
            record.incident, detected_ns=min(record.incident.detected_ns, other.incident.detected_ns)
        )
        record.acknowledged |= other.acknowledged
        record.lines = sorted({*record.lines, *other.lines}, key=lambda line: (line.time_ns, line.kind, line.text))
        del record.lines[self._config.max_timeline - 1 :]
        record.stirred = True
        self._write(record, event_ns, "merged", f"Incident {other.incident.id} has merged into this one.")
        self._write(other, event_ns, "merged", f"Merged into incident {survivor}.")
        other.incident = replace(
            other.incident,
            revision=other.incident.revision + 1,
            state=State.MERGED,
            end_ns=event_ns,
            merged_into=survivor,
            timeline=tuple(other.lines),
        )
        return other.incident

    def _draw(self, group: Group, record: Record, event_ns: int) -> Incident:
        """The incident as it is now."""
        before = record.incident
        fresh = news(group)
        for item in fresh:
            item.home = item.home or before.id
        if record.held_ns and any(item.first_ns > record.held_ns for item in strong(fresh)):
            record.held_ns = 0
        record.stirred |= bool(strong(fresh))
        now = picture(group, before)
        for line in (*joining(fresh), *ending(before.findings, now.findings)):
            self._write(record, line.time_ns, line.kind, line.text)
        now = self._turn(group, record, now, event_ns)
        now = self._weigh(group, record, now, event_ns)
        if self._rank_due(record, event_ns) and (now.state in LIVE or not record.told_ns) and self._ranks_left > 0:
            now = self._suspect(record, now, event_ns)
        now = self._hush(record, now, event_ns)
        if now.state is State.RESOLVED and before.state is not State.RESOLVED:
            self._past.add(now)
        now = replace(now, title=title(now), timeline=tuple(sorted(record.lines, key=lambda line: line.time_ns)))
        return replace(now, summary=summary(now))

    def _turn(self, group: Group, record: Record, now: Incident, event_ns: int) -> Incident:
        """Its state, and when it ended."""
        state = standing(record, group.active(event_ns, self._config.group))
        before = record.incident.state
        if state is State.RESOLVED and before in LIVE and not record.held_ns:
            self._write(record, event_ns, "resolved", f"Calm for {self._config.group.calm:g} s.")
        elif state in LIVE and before is State.RESOLVED:
            record.acknowledged = False
            state = State.OPEN
            if not record.forced:
                self._write(record, event_ns, "reopened", f"It came back ({now.flaps} times so far).")
        end_ns = (record.held_ns or group.last_ns) if state is State.RESOLVED else 0
        return replace(now, state=state, end_ns=end_ns)

    def _weigh(self, group: Group, record: Record, now: Incident, event_ns: int) -> Incident:
        """Its severity, burn rate and blast radius."""
        score = group.strongest()[0].peak
        severity = impact(group.users, len(now.services), score, self._config.severity)
        failing = self._failing or failing_of(now.findings)
        burn, by_burn = burning(set(now.services), self._config.slo, failing, event_ns)
        if by_burn is not None:
            severity = worse(severity, by_burn)
        if severity is not record.incident.severity and record.told_ns:
            self._write(record, event_ns, "severity", f"{record.incident.severity} → {severity}.")
        radius = now.blast_radius
        if now.services != record.incident.services or record.stirred:
            radius = tuple(sorted(reached(now.services, self._graph.callers)))
        return replace(now, severity=severity, slo_burn=burn, blast_radius=radius)

    def _suspect(self, record: Record, now: Incident, event_ns: int) -> Incident:
        """Rank its suspects, and look for incidents like it."""
        self._ranks_left -= 1
        since_ns = event_ns - now.detected_ns
        record.ranks = sum(since_ns >= time_s * S for time_s in self._config.rank_at)
        record.ranked_ns, record.stirred = event_ns, False
        suspects = tuple(self._rank(now, event_ns)) or record.incident.suspects  # evidence that has passed still counts
        first, before = (some[0].service if some else "" for some in (suspects, record.incident.suspects))
        if first != before or not record.told_ns:
            text = f"Likeliest cause: {first}." if first else f"{NO_CANDIDATE}."
            self._write(record, event_ns, "ranked", text)
        now = replace(now, suspects=suspects)
        return replace(now, similar=self._past.like(now))

    def _hush(self, record: Record, now: Incident, event_ns: int) -> Incident:
        """Who or what suppresses it; one that is over stays as it was."""
        if now.state not in LIVE:
            return now
        by = self._suppressor(now, event_ns)
        if by != record.incident.suppressed_by:
            self._write(record, event_ns, "suppressed", f"By {by}." if by else "No more.")
        return replace(now, suppressed_by=by)

    def _mark(self, decision: Decision, event_ns: int) -> tuple[Incident, ...]:
        """What an operator says of one incident."""
        record = self._records.get(decision.incident)
        for _ in range(len(self._records)):
            if record is None or record.incident.state is not State.MERGED:
                break
            record = self._records.get(record.incident.merged_into)
        group = self._group(record) if record is not None else None
        if record is None or group is None:
            raise BadInput(f"incident: expected the id of one that is not long over, got {decision.incident!r}")
        if decision.action is Action.ACKNOWLEDGE:
            record.acknowledged = True
        elif decision.action is Action.RESOLVE:
            record.held_ns, record.forced = event_ns, False
        else:
            record.held_ns, record.forced = 0, True
        words = {"acknowledge": "acknowledged", "resolve": "resolved", "reopen": "reopened"}
        why = f": {decision.why}" if decision.why else ""
        self._write(record, event_ns, words[decision.action], f"By {decision.who}{why}.")
        self._now_ns = event_ns
        self._ranks_left = self._config.max_ranked
        told = tuple(self._revise(group, event_ns))
        self._explain |= self._look()
        return told

    def _write(self, record: Record, time_ns: int, kind: str, text: str) -> None:
        over = record.write(Entry(time_ns=time_ns, kind=kind, text=text), self._config.max_timeline)
        if over:
            self.counts["line over the limit of a timeline"] += over

    def _room(self) -> None:
        if len(self._silences) + len(self._windows) >= self._config.max_rules:
            raise BadInput(f"expected at most {self._config.max_rules} silences and maintenance windows")

    def _forget(self, event_ns: int) -> list[Incident]:
        """Drop incidents that are long over; those that an operator held open end."""
        ended = []
        for group in self._groups.forget(event_ns):
            for name in sorted({head.name_id() for head in group.heads}):
                record = self._records.pop(name, None)
                if record is None:
                    continue
                self._spent.pop(name, None)
                self._spent[name] = record.incident.revision + 1
                if record.incident.state in LIVE:
                    self._write(record, event_ns, "resolved", "Nothing has been strange for long.")
                    ended.append(
                        replace(
                            record.incident,
                            revision=record.incident.revision + 1,
                            state=State.RESOLVED,
                            end_ns=group.last_ns,
                            timeline=tuple(record.lines),
                        )
                    )
        while len(self._spent) > self._config.max_incidents:
            del self._spent[next(iter(self._spent))]
        return sorted(ended, key=lambda incident: incident.id)


def _over(rule: Silence | Maintenance, event_ns: int) -> bool:
    return event_ns >= rule.until_ns if isinstance(rule, Silence) else rule.over(event_ns)


def _listed(services: Iterable[str]) -> str:
    names = sorted(service for service in services if service)
    return f"findings of {', '.join(names[:5])}" if names else "findings of unknown services"
