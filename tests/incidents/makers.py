"""Findings, graphs and groupings that tests of incidents share; the slow, obvious grouping is here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from otel_aiops.incidents.graph import placed
from otel_aiops.incidents.group import GroupConfig, Item
from otel_aiops.incidents.incident import Channel, Evidence, Finding

S = 1_000_000_000
T0 = 1_700_000_000 * S


@dataclass
class Calls:
    """A service graph of (caller, callee) pairs."""

    pairs: Sequence[tuple[str, str]] = field(default_factory=tuple)

    def callers(self, service: str) -> list[str]:
        return sorted({a for a, b in self.pairs if b == service})

    def callees(self, service: str) -> list[str]:
        return sorted({b for a, b in self.pairs if a == service})


CHAIN = Calls([("web", "cart"), ("cart", "redis"), ("web", "pay"), ("pay", "bank"), ("bank", "ledger")])


def finding(
    service: str = "pay",
    start_s: float = 0,
    last_s: float | None = None,
    *,
    end_s: float = 0,
    channel: Channel = Channel.LATENCY,
    what: str = "charge",
    score: float = 1.0,
    users: float = 0.0,
    resource: str = "",
    before: float = 0.08,
    after: float = 1.2,
    unit: str = "s",
    text: str = "",
    callee: str = "",
) -> Finding:
    """A finding; times are seconds after T0."""
    last_s = start_s + 10 if last_s is None else last_s
    evidence = Evidence(
        channel=channel,
        service=service,
        what=what,
        before=before,
        after=after,
        unit=unit,
        count=310,
        strength=score,
        callee=callee,
        resource=resource,
        text=text,
    )
    return Finding(
        key=f"{channel}|{service}|{what}",
        service=service,
        channel=channel,
        start_ns=T0 + round(start_s * S),
        last_ns=T0 + round(last_s * S),
        end_ns=T0 + round(end_s * S) if end_s else 0,
        score=score,
        users=users,
        evidence=evidence,
    )


def at(seconds: float) -> int:
    """Seconds after T0 as time."""
    return T0 + round(seconds * S)


def _apart(calls: Calls, a: str, b: str, hops: int) -> bool:
    """Whether two services are more than so many calls apart."""
    seen = {a}
    for _ in range(hops):
        seen |= {other for one in seen for other in (*calls.callers(one), *calls.callees(one))}
    return b not in seen


def linked(one: Item, other: Item, calls: Calls, config: GroupConfig) -> bool:
    """The definition: near in time and in place."""

    def gap_s(reach_s: float) -> float:
        (a, b), (c, d) = ((i.finding.start_ns, min(i.until_ns, i.finding.start_ns + reach_s * S)) for i in (one, other))
        return (max(a, c) - min(b, d)) / S

    f, g = one.finding, other.finding
    if f.key == g.key and gap_s(1e9) <= config.reopen:
        return True
    close = gap_s(config.reach) <= config.join or gap_s(1e9) <= config.among
    if f.evidence.resource and f.evidence.resource == g.evidence.resource and close:
        return True
    if not placed(f.service) or not placed(g.service):
        return False
    if f.service == g.service and close:
        return True
    return not _apart(calls, f.service, g.service, config.hops) and gap_s(config.reach) <= config.join


def naive_groups(
    findings: Iterable[Finding], calls: Calls, config: GroupConfig
) -> Mapping[str, frozenset[tuple[str, int]]]:
    """Incident id → names of its findings, by looking at all pairs."""
    items: dict[tuple[str, int], Item] = {}
    for one in findings:
        name = one.key, one.start_ns
        if name in items:
            items[name].take(one)
        else:
            items[name] = Item(one)
    strong = [item for item in items.values() if item.peak >= 1]
    groups: list[list[Item]] = []
    for item in strong:
        near = [group for group in groups if any(linked(item, other, calls, config) for other in group)]
        groups = [group for group in groups if group not in near]
        groups.append([item, *(other for group in near for other in group)])
    groups.sort(key=lambda group: min(item.order for item in group))
    found = {min(group, key=lambda item: item.order).name_id(): [item.name for item in group] for group in groups}
    for item in items.values():
        if item.peak < 1:
            for group, names in zip(groups, found.values(), strict=True):
                if any(linked(item, other, calls, config) for other in group):
                    names.append(item.name)
                    break
    return {name: frozenset(names) for name, names in found.items()}
