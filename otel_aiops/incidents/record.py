"""What is remembered of an incident besides its group: what was told of it, ranked, decided; and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from otel_aiops.incidents.codec import decode, encode
from otel_aiops.incidents.group import DETAILED, OPENS, Group, Item, Name
from otel_aiops.incidents.incident import Channel, Entry, Evidence, Finding, Incident, State
from otel_aiops.incidents.words import TRAITS, told

FIRST_KEPT = 20  # lines of a timeline that stay when it is over its limit; the rest are the last ones
LISTED = 5  # findings that join together are listed up to so many, then counted


@dataclass(slots=True)
class Record:
    """An incident as it was last told, and what is due."""

    name: Name  # of the finding after which it is named
    incident: Incident
    lines: list[Entry] = field(default_factory=list)
    ranks: int = 0  # how many of the set times have passed
    ranked_ns: int = 0
    told_ns: int = 0
    stirred: bool = True  # a strong finding has joined since it was ranked
    acknowledged: bool = False
    held_ns: int = 0  # an operator has resolved it then, though findings may last
    forced: bool = False  # an operator has opened it again, though findings may be over

    def write(self, entry: Entry, most: int) -> int:
        """Add a line to the timeline; how many went over the limit."""
        self.lines.append(entry)
        if len(self.lines) <= most:
            return 0
        del self.lines[min(FIRST_KEPT, most - 1)]
        return 1

    def state(self, number: Callable[[Finding], int | None]) -> list[Any]:
        """Everything, as plain values. Findings that have a number, which are nearly all, are that."""
        found = [(number(one), one) for one in self.incident.findings]
        findings = [encode(one) if known is None else known for known, one in found]
        return [
            list(self.name),
            {**encode(replace(self.incident, findings=())), "findings": findings},
            encode(self.lines),
            [self.ranks, self.ranked_ns, self.told_ns, self.held_ns],
            [self.stirred, self.acknowledged, self.forced],
        ]


def record_of(saved: Sequence[Any], known: Sequence[Finding]) -> Record:
    """What `Record.state` gave, with the findings that have numbers, in order."""
    (key, start_ns), incident, lines, numbers, flags = saved
    findings = [known[one] if isinstance(one, int) else decode(Finding, one) for one in incident["findings"]]
    ranks, ranked_ns, told_ns, held_ns = numbers
    stirred, acknowledged, forced = flags
    return Record(
        name=(key, start_ns),
        incident=replace(decode(Incident, {**incident, "findings": []}), findings=tuple(findings)),
        lines=[decode(Entry, line) for line in lines],
        ranks=ranks,
        ranked_ns=ranked_ns,
        told_ns=told_ns,
        stirred=stirred,
        acknowledged=acknowledged,
        held_ns=held_ns,
        forced=forced,
    )


def news(group: Group) -> list[Item]:
    """The findings of a group of which nobody was told, in order; they are told now."""
    fresh = {item.name: item for item in group.news if item.fresh and item.group is group}
    group.news = []
    for item in fresh.values():
        item.fresh = False
    return sorted(fresh.values(), key=lambda item: (item.finding.start_ns, item.finding.key))


def joining(items: Sequence[Item]) -> list[Entry]:
    """Lines of the timeline for findings that join."""
    if len(items) <= LISTED:
        return [Entry(time_ns=item.finding.start_ns, kind="joined", text=_line(item.finding)) for item in items]
    counted: dict[tuple[str, Channel], list[Item]] = {}
    for item in items:
        counted.setdefault((item.finding.service, item.finding.channel), []).append(item)
    lines = []
    for (service, channel), some in sorted(counted.items())[: 4 * LISTED]:
        start_ns = min(item.finding.start_ns for item in some)
        text = f"{service or 'unknown service'} {TRAITS[channel]}: {len(some)} findings"
        lines.append(Entry(time_ns=start_ns, kind="joined", text=text))
    return lines


def ending(before: Iterable[Finding], now: Iterable[Finding]) -> list[Entry]:
    """Lines of the timeline for findings that have ended since."""
    lasted = {(finding.key, finding.start_ns) for finding in before if not finding.end_ns}
    ended = [finding for finding in now if finding.end_ns and (finding.key, finding.start_ns) in lasted]
    if len(ended) > LISTED:
        last_ns = max(finding.end_ns for finding in ended)
        return [Entry(time_ns=last_ns, kind="ended", text=f"{len(ended)} findings have ended")]
    return [Entry(time_ns=finding.end_ns, kind="ended", text=_line(finding)) for finding in ended]


def _line(finding: Finding) -> str:
    return f"{finding.service or finding.evidence.resource or 'unknown service'}: {told(finding.evidence)}"


def picture(group: Group, old: Incident) -> Incident:
    """An incident as its findings show it now; what others say of it stays."""
    strongest = group.strongest()
    weak = sorted(group.weak.values(), key=lambda item: item.rank)[: DETAILED - len(strongest)]
    shown = [item.finding for item in (*strongest, *weak)]
    return replace(
        old,
        start_ns=group.start_ns,
        services=tuple(sorted(service for service in group.services if service)),
        findings=tuple(shown),
        users=group.users,
        flaps=group.flaps,
        more_findings=len(group.members) + len(group.weak) - len(shown),
        merged_into="",
    )


FINDING = ("key", "service", "channel", "start_ns", "last_ns", "end_ns", "score", "users")
EVIDENCE = (
    "channel",
    "service",
    "what",
    "before",
    "after",
    "unit",
    "count",
    "strength",
    "callee",
    "resource",
    "series",
    "traces",
    "text",
    "caller",
)
ITEM = ("peak", "users", "first_ns", "fresh", "head", "home")


def columns_of(items: Sequence[Item]) -> list[list[list[Any]]]:
    """Findings as plain values, by field: of a hundred thousand, rows would be half a million objects."""
    findings = [item.finding for item in items]
    evidence = [finding.evidence for finding in findings]
    return [
        [list(map(attrgetter(name), some)) for name in names]
        for names, some in ((FINDING, findings), (EVIDENCE, evidence), (ITEM, items))
    ]


def rows_of(columns: Sequence[Sequence[Sequence[Any]]]) -> Iterator[Sequence[Sequence[Any]]]:
    """The rows, for `item_of`, of what `columns_of` gave."""
    return zip(*(zip(*some, strict=True) for some in columns), strict=True)


def item_of(row: Sequence[Sequence[Any]]) -> Item:
    """A finding of the values of `FINDING`, `EVIDENCE` and `ITEM`."""
    finding, evidence, rest = (
        dict(zip(names, values, strict=True)) for names, values in zip((FINDING, EVIDENCE, ITEM), row, strict=True)
    )
    evidence["channel"] = Channel(evidence["channel"])
    evidence["traces"] = tuple(evidence["traces"])
    finding["channel"] = Channel(finding["channel"])
    item = Item(Finding(**finding, evidence=Evidence(**evidence)))
    for name, value in rest.items():
        setattr(item, name, value)
    return item


def strong(items: Iterable[Item]) -> list[Item]:
    """Those that open incidents."""
    return [item for item in items if item.peak >= OPENS]


def standing(record: Record, active: bool) -> State:
    """The state that findings and operators give."""
    if record.held_ns or not (active or record.forced):
        return State.RESOLVED
    return State.ACKNOWLEDGED if record.acknowledged else State.OPEN
