"""Findings to groups, each of which is one incident: a function of the set of findings and the service graph.

Two findings that could open an incident are linked when they are near in time and in place: of one service, of services
within two calls of each other, of one resource, or one thing that came back. Groups are the connected components.

Work is by place, not by pair. A place (a service with those that call it and that it calls, a resource, a key) holds
runs: stretches of time without a gap longer than what links. All findings of a run are of one group, and two services
are within two calls of each other exactly if some service has both around it, so a new finding looks up a few runs
instead of all other findings. Every update of a finding is folded in with maximum and minimum only, which is why order
and repetition do not matter.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from otel_aiops.errors import ConfigError
from otel_aiops.incidents.graph import ServiceGraph, around, placed
from otel_aiops.incidents.incident import Finding

OPENS = 1.0  # the score at which a finding opens an incident by itself
DETAILED = 200  # the strongest findings of a group that are kept at hand
S = 1_000_000_000
NEVER = 1 << 62

Name = tuple[str, int]  # key and start: what a finding is
Place = tuple[str, str]  # kind and name


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfig:
    """When findings are one incident, and when it is over. Times are event time."""

    join: float = 180.0  # findings that far apart are still one incident, where they are near in place
    reach: float = 60.0  # of a finding that lasts only so much draws others: what comes much later is another thing
    among: float = 30.0  # but others of the same service or resource as long as it lasts, and so long after
    hops: int = 1  # calls between services that are near, 0 to 2
    calm: float = 120.0  # an incident is over when nothing has been strange for so long
    reopen: float = 180.0  # what comes back within this opens the same incident again
    lapse: float = 3600.0  # a finding that nobody has renewed or ended for so long has ended
    late: float = 900.0  # how much later findings may come than what they tell of
    max_findings: int = 200_000  # that are known at most
    max_weak: int = 5_000  # findings that cannot open an incident; the weakest over it are dropped

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        for name in ("join", "reach", "among", "calm", "reopen", "lapse", "late"):
            if not getattr(self, name) >= 0:
                raise ConfigError(name, f"expected at least 0 s, got {getattr(self, name)}")
        if self.hops not in (0, 1, 2):
            raise ConfigError("hops", f"expected 0, 1 or 2, got {self.hops}")
        for name in ("max_findings", "max_weak"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"expected at least 1, got {getattr(self, name)}")


def version_of(finding: Finding) -> tuple[Any, ...]:
    """Orders the versions of a finding: the last is what holds."""
    return (finding.last_ns, finding.end_ns, finding.score, finding.users, finding.service, repr(finding.evidence))


class Item:
    """A finding with what all its versions say together."""

    __slots__ = ("finding", "first_ns", "fresh", "group", "head", "home", "id", "name", "peak", "spot", "users")

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        self.name: Name = (finding.key, finding.start_ns)  # what it is
        self.peak = finding.score  # the highest score of all versions
        self.users = finding.users  # the most of all versions
        self.first_ns = finding.last_ns if finding.score >= OPENS else NEVER  # when first seen strong
        self.group: Group | None = None
        self.spot: tuple[str, str, int] | None = None  # service, resource and end by which it was placed
        self.fresh = True  # nobody was told of it
        self.head = False  # an incident is or was named after it
        self.home = ""  # the incident that it was first told of
        self.id = ""

    @property
    def until_ns(self) -> int:
        """When it ended, or was last seen; never before its start."""
        return max(self.finding.end_ns or self.finding.last_ns, self.finding.start_ns)

    @property
    def order(self) -> tuple[int, int, str]:
        """The first of a group gives it its name: first seen strong, then first begun."""
        return self.first_ns, self.finding.start_ns, self.finding.key

    @property
    def rank(self) -> tuple[float, int, str]:
        """The strongest first."""
        return -self.peak, self.finding.start_ns, self.finding.key

    def take(self, other: Finding) -> bool:
        """Fold another version in; whether anything is new."""
        before = self.finding, self.peak, self.first_ns, self.users
        if other != self.finding and version_of(other) > version_of(self.finding):
            self.finding = other
        self.peak = max(self.peak, other.score)
        self.users = max(self.users, other.users)
        if other.score >= OPENS:
            self.first_ns = min(self.first_ns, other.last_ns)
        return (self.finding, self.peak, self.first_ns, self.users) != before

    def name_id(self) -> str:
        """The id of an incident that is named after this finding: 16 hexadecimal digits of its key and start."""
        if not self.id:
            text = f"{self.finding.start_ns}|{self.finding.key}".encode("utf-8", "surrogatepass")
            self.id = hashlib.blake2b(text, digest_size=8).hexdigest()
        return self.id


class Group:
    """Findings that are one incident. Numbers are kept as members come, so that a storm costs nothing per reading."""

    __slots__ = (
        "_strong",
        "first",
        "heads",
        "keys",
        "last_ns",
        "members",
        "news",
        "opens",
        "places",
        "services",
        "start_ns",
        "torn",
        "users",
        "weak",
    )

    def __init__(self, first: Item) -> None:
        self.first = first
        self.members: dict[Name, Item] = {}
        self.weak: dict[Name, Item] = {}
        self.heads: list[Item] = []  # after which incidents are named or were named
        self.news: list[Item] = []  # of whom nobody was told
        self.keys: set[str] = set()
        self.services: set[str] = set()
        self.places: set[Place] = set()  # in which it has runs
        self.opens = 0  # members that last
        self.start_ns = first.finding.start_ns
        self.last_ns = 0
        self.users = 0.0
        self.torn = False  # it may come apart
        self._strong: dict[Name, Item] = {}

    @property
    def id(self) -> str:
        """The id of the incident."""
        return self.first.name_id()

    @property
    def flaps(self) -> int:
        """How often something in it came back."""
        return len(self.members) - len(self.keys)

    def add(self, item: Item) -> None:
        """A new member."""
        self.members[item.name] = item
        self.opens += not item.finding.end_ns
        item.group = self
        if item.head:
            self.heads.append(item)
        if item.fresh:
            self.news.append(item)
        self.note(item)

    def shelter(self, item: Item) -> None:
        """A weak finding joins."""
        self.weak[item.name] = item
        item.group = self
        if item.fresh:
            self.news.append(item)

    def lose(self, item: Item) -> None:
        """A weak finding goes elsewhere."""
        self.weak.pop(item.name, None)
        item.group = None

    def note(self, item: Item) -> None:
        """See what a member says now."""
        if item.order < self.first.order:
            self.first = item
        self.keys.add(item.finding.key)
        self.services.add(item.finding.service)
        self.start_ns = min(self.start_ns, item.finding.start_ns)
        self.last_ns = max(self.last_ns, item.until_ns)
        self.users = max(self.users, item.users)
        self._strong[item.name] = item
        if len(self._strong) > 4 * DETAILED:
            self._strong = {one.name: one for one in self.strongest()}

    def strongest(self) -> list[Item]:
        """The strongest members, at most `DETAILED`, strongest first."""
        return sorted(self._strong.values(), key=lambda item: item.rank)[:DETAILED]

    def take(self, other: Group) -> None:
        """Take all members of another group, which is no more after that."""
        for item in other.members.values():
            item.group = self
        for item in other.weak.values():
            item.group = self
        self.members.update(other.members)
        self.weak.update(other.weak)
        self.heads += other.heads
        self.news += other.news
        self.keys |= other.keys
        self.services |= other.services
        self.places |= other.places
        self.opens += other.opens
        self.start_ns = min(self.start_ns, other.start_ns)
        self.last_ns = max(self.last_ns, other.last_ns)
        self.users = max(self.users, other.users)
        self.torn |= other.torn
        if other.first.order < self.first.order:
            self.first = other.first
        self._strong.update(other._strong)
        if len(self._strong) > 4 * DETAILED:
            self._strong = {one.name: one for one in self.strongest()}

    def active(self, event_ns: int, config: GroupConfig) -> bool:
        """Whether something in it lasts, or has ended less than `calm` ago."""
        quiet_ns = event_ns - self.last_ns
        return quiet_ns < config.calm * S or (self.opens > 0 and quiet_ns < config.lapse * S)


class Runs:
    """One place: stretches of time with no gap over `gap_ns`, in order, and a finding of each."""

    __slots__ = ("_gap_ns", "_hi", "_item", "_lo")

    def __init__(self, gap_ns: int) -> None:
        self._gap_ns = gap_ns
        self._lo: list[int] = []
        self._hi: list[int] = []
        self._item: list[Item] = []

    def near(self, lo_ns: int, hi_ns: int) -> list[Item]:
        """A finding of each run that is near a stretch of time."""
        first = bisect_left(self._hi, lo_ns - self._gap_ns)
        return self._item[first : bisect_right(self._lo, hi_ns + self._gap_ns, first)]

    def put(self, lo_ns: int, hi_ns: int, item: Item) -> tuple[list[Item], int, int, bool]:
        """Add a stretch: (a finding of each run that it joins, the run that there is now, whether that is new)."""
        first = bisect_left(self._hi, lo_ns - self._gap_ns)
        last = bisect_right(self._lo, hi_ns + self._gap_ns, first)
        joined = self._item[first:last]
        if joined:
            lo_ns, hi_ns = min(lo_ns, self._lo[first]), max(hi_ns, self._hi[last - 1])
            if len(joined) == 1 and lo_ns == self._lo[first] and hi_ns == self._hi[first]:
                return joined, lo_ns, hi_ns, False
        self._lo[first:last], self._hi[first:last], self._item[first:last] = [lo_ns], [hi_ns], [item]
        return joined, lo_ns, hi_ns, True

    def drop(self, group: Group) -> bool:
        """Take out the runs of a group; whether any are left."""
        left = [n for n, item in enumerate(self._item) if item.group is not group]
        if len(left) < len(self._item):
            self._lo = [self._lo[n] for n in left]
            self._hi = [self._hi[n] for n in left]
            self._item = [self._item[n] for n in left]
        return bool(left)


class Groups:
    """The groups of all findings that are not long over. `counts` says what was not taken, and why."""

    def __init__(self, config: GroupConfig, graph: ServiceGraph) -> None:
        self._config = config
        self._graph = graph
        self._join_ns = round(config.join * S)
        self._reach_ns = round(config.reach * S)
        self._gap_ns = {"key": round(config.reopen * S), "while": round(config.among * S)}
        self._horizon_ns = round((max(config.reopen, config.join, config.calm) + config.late) * S)
        self._lapse_ns = max(self._horizon_ns, round(config.lapse * S))
        self._items: dict[Name, Item] = {}
        self._weak: dict[Name, Item] = {}
        self._loose: dict[Name, Item] = {}  # weak ones that look for a group
        self._groups: dict[Group, None] = {}
        self._places: dict[Place, Runs] = {}
        self._around: dict[str, tuple[str, ...]] = {}
        self._changed: dict[Name, Item] = {}  # members by which changed groups are found
        self._moved = False  # runs have changed: weak findings may belong elsewhere
        self._torn = False  # some group may come apart
        self.counts: Counter[str] = Counter()
        self.lookups = 0  # runs looked up, which is what grouping costs

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups)

    def items(self) -> Mapping[Name, Item]:
        """All findings. Not for changing."""
        return self._items

    def add(self, findings: Iterable[Finding], event_ns: int) -> None:
        """Take findings, new or renewed, in any order."""
        for finding in findings:
            name = finding.key, finding.start_ns
            item = self._items.get(name)
            if item is None:
                refused = self._refuses(finding, event_ns)
                if refused:
                    self.counts[refused] += 1
                    continue
                item = self._items[name] = Item(finding)
                self._enter(item)
                continue
            lasted = not item.finding.end_ns
            if item.take(finding):
                if item.group is not None and name in item.group.members:
                    item.group.opens += (not item.finding.end_ns) - lasted
                self._enter(item)

    def settle(self) -> list[Group]:
        """The groups that have changed since the last call, those of the earliest findings first."""
        if self._torn:
            self._torn = False
            self._tear([group for group in self._groups if group.torn])
        self._settle_weak()
        found = dict.fromkeys(item.group for item in self._changed.values() if item.group is not None)
        self._changed = {}
        return sorted(found, key=lambda group: group.first.order)

    def learn_graph(self) -> None:
        """Ask the service graph again; `settle` regroups what it has changed."""
        moved = set()
        for service in list(self._around):
            now = around(self._graph, service)
            if now != self._around[service]:
                self._around[service] = now
                moved.add(service)
        for group in self._groups:
            if not moved.isdisjoint(group.services):
                group.torn = self._torn = True
        self._moved |= bool(moved)

    def forget(self, event_ns: int) -> list[Group]:
        """Drop what is over for so long that nothing may join it any more; the groups that were dropped."""
        gone = [g for g in self._groups if event_ns - g.last_ns > (self._lapse_ns if g.opens else self._horizon_ns)]
        for group in gone:
            self._lift(group)
            for name in (*group.members, *group.weak):
                self._drop(self._items[name])
        for item in [item for item in self._weak.values() if item.group is None]:
            if event_ns - item.until_ns > (self._horizon_ns if item.finding.end_ns else self._lapse_ns):
                self._drop(item)
        return gone

    def surroundings(self) -> Mapping[str, tuple[str, ...]]:
        """What was last known of the service graph, for saving. Not for changing."""
        return self._around

    def resume(self, items: Iterable[Item], surroundings: Mapping[str, tuple[str, ...]]) -> None:
        """Group saved items anew, into an empty object: the groups as they were when they had settled."""
        self._around.update(surroundings)
        for item in items:
            self._items[item.name] = item
            self._enter(item)
        self.settle()

    def _refuses(self, finding: Finding, event_ns: int) -> str:
        """Why a new finding is not taken; "" when it is."""
        until_ns = max(finding.end_ns or finding.last_ns, finding.start_ns)
        if event_ns - until_ns > (self._horizon_ns if finding.end_ns else self._lapse_ns):
            return "finding that came too late"
        if len(self._items) >= self._config.max_findings:
            return "finding over the limit of findings"
        return ""

    def _enter(self, item: Item) -> None:
        """Put a new or changed finding where it belongs."""
        self._changed[item.name] = item
        if item.peak < OPENS:
            self._weak[item.name] = self._loose[item.name] = item
            return
        if self._weak.pop(item.name, None) is not None:  # it has become strong
            self._loose.pop(item.name, None)
            if item.group is not None:
                self._changed[item.group.first.name] = item.group.first
                item.group.lose(item)
        if item.group is None:
            group = self._meets(item)
            if group is None:
                group = Group(item)
                self._groups[group] = None
            group.add(item)
        else:
            item.group.note(item)
        finding = item.finding
        spot = finding.service, finding.evidence.resource, item.until_ns
        if item.spot is None or (spot[:2] == item.spot[:2] and spot[2] >= item.spot[2]):
            item.spot = spot
            self._place(item)
        elif item.group is not None:
            item.group.torn = self._torn = True

    def _meets(self, item: Item) -> Group | None:
        """A group that has findings of the same service at the time: most need no group of their own first."""
        runs = self._places.get(("while", "service " + item.finding.service))
        met = runs.near(item.finding.start_ns, item.until_ns) if runs is not None else ()
        return met[0].group if met else None

    def _place(self, item: Item) -> None:
        """Put a strong finding into its places, and merge the groups that meet there."""
        finding = item.finding
        lo_ns, hi_ns = finding.start_ns, item.until_ns
        self._put(("key", finding.key), lo_ns, hi_ns, item)
        reach_ns = min(hi_ns, lo_ns + self._reach_ns)
        if finding.evidence.resource:
            self._put(("while", "resource " + finding.evidence.resource), lo_ns, hi_ns, item)
            self._put(("resource", finding.evidence.resource), lo_ns, reach_ns, item)
        if not placed(finding.service):
            return
        self._put(("while", "service " + finding.service), lo_ns, hi_ns, item)
        self._put(("service", finding.service), lo_ns, reach_ns, item)
        if self._config.hops:
            lo_ns, hi_ns, new = self._put(("near", finding.service), lo_ns, reach_ns, item)
            if new:  # its surroundings know the rest of the run already
                for place in self._near(finding.service):
                    self._put(place, lo_ns, hi_ns, item)

    def _near(self, service: str) -> list[Place]:
        """The places that a service shares with all that are within `hops` calls, and with no others."""
        if not self._config.hops:
            return []
        if service not in self._around:
            self._around[service] = around(self._graph, service)
        others = self._around[service]
        if self._config.hops == 1:
            return [("call", "\0".join(sorted((service, other)))) for other in others]
        return [("around", other) for other in (service, *others)]

    def _put(self, place: Place, lo_ns: int, hi_ns: int, item: Item) -> tuple[int, int, bool]:
        """Put a stretch of time into a place: (the run it is in now, whether that is new)."""
        self.lookups += 1
        runs = self._places.get(place)
        if runs is None:
            runs = self._places[place] = Runs(self._gap_ns.get(place[0], self._join_ns))
        joined, lo_ns, hi_ns, new = runs.put(lo_ns, hi_ns, item)
        if new:
            self._moved = True
            if item.group is not None:
                item.group.places.add(place)
        for other in joined:
            if other.group is not item.group and item.group is not None and other.group is not None:
                self._merge(item.group, other.group)
        return lo_ns, hi_ns, new

    def _merge(self, one: Group, other: Group) -> None:
        """Make two groups one; the smaller moves."""
        if len(one.members) < len(other.members):
            one, other = other, one
        one.take(other)
        del self._groups[other]

    def _lift(self, group: Group) -> None:
        """Take a group out of all places."""
        for place in group.places:
            if not self._places[place].drop(group):
                del self._places[place]
        del self._groups[group]
        self._moved = True

    def _tear(self, groups: list[Group]) -> None:
        """Group the findings of some groups anew."""
        for group in groups:
            self._lift(group)
            for item in list(group.weak.values()):
                group.lose(item)
        members = [item for group in groups for item in group.members.values()]
        for item in members:
            item.group = item.spot = None
        for item in sorted(members, key=lambda item: item.order):
            self._enter(item)

    def _drop(self, item: Item) -> None:
        """Forget a finding."""
        del self._items[item.name]
        for table in (self._weak, self._loose, self._changed):
            table.pop(item.name, None)

    def _settle_weak(self) -> None:
        """Give each weak finding to the earliest of the groups near it; it links none of them."""
        over = len(self._weak) - self._config.max_weak
        if over > 0:
            for item in sorted(self._weak.values(), key=lambda item: item.rank)[-over:]:
                if item.group is not None:
                    self._changed[item.group.first.name] = item.group.first
                    item.group.lose(item)
                self._drop(item)
            self.counts["weak finding over the limit"] += over
        loose = self._weak if self._moved else self._loose
        for name, item in loose.items():
            home = self._home(item)
            if home is not item.group:
                if item.group is not None:
                    self._changed[item.group.first.name] = item.group.first
                    item.group.lose(item)
                if home is not None:
                    home.shelter(item)
                self._changed[name] = item
        self._loose = {}
        self._moved = False

    def _home(self, item: Item) -> Group | None:
        """The earliest group near a weak finding."""
        finding = item.finding
        lo_ns, hi_ns = finding.start_ns, item.until_ns
        resource, service = finding.evidence.resource, finding.service
        whole: list[Place] = [("key", finding.key), ("while", "resource " + resource), ("while", "service " + service)]
        near: list[Place] = [("resource", resource)]
        if placed(service):
            near += [("service", service), *self._near(service)]
        met = [other for place in whole if place in self._places for other in self._places[place].near(lo_ns, hi_ns)]
        hi_ns = min(hi_ns, lo_ns + self._reach_ns)
        met += [other for place in near if place in self._places for other in self._places[place].near(lo_ns, hi_ns)]
        homes = {other.group for other in met if other.group is not None}
        return min(homes, key=lambda group: group.first.order, default=None)
