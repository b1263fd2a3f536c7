"""Metric evidence: what the metric series of services say about an incident, and what they notice by themselves."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.incidents.change import Change, ChangeConfig, changes, correlation
from otel_aiops.incidents.edges import Edge, solve
from otel_aiops.incidents.incident import Channel, Evidence, Finding
from otel_aiops.incidents.rings import Rings
from otel_aiops.incidents.roles import GAP_FLOOR_S, LATENCY_RELATIVE, Meaning, Role, meaning
from otel_aiops.incidents.watch import Watch, WatchConfig
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import Arrays, checked

CHANNELS = {
    Role.RESOURCE: Channel.RESOURCE,
    Role.LATENCY: Channel.LATENCY,
    Role.SERVER: Channel.LATENCY,
    Role.AVAILABILITY: Channel.ERRORS,
    Role.ERRORS: Channel.ERRORS,
    Role.GAP: Channel.NETWORK,
}
SYMPTOMS = (Role.LATENCY, Role.AVAILABILITY, Role.ERRORS)
COMPRESSED = 10.0  # a strength is 10 log(1 + z / 10): linear for small z, and large ones count less and less
TOGETHER_S = 60.0  # series of several roles that are strange within this need no second value
EDGE_Z = 4.0  # usual spreads from which on a call has become slower
GAP_COUNT = 50.0  # observations that a change of a metric counts for
UNKNOWN = "series without a role"
FULL = "series over the limit of metric evidence"


@dataclass(frozen=True, slots=True)
class Symptom:
    """The series that an incident began with: of a service, of one kind; None is whichever changed most."""

    service: str
    role: Role | None = None


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """What is kept of metric series with a role, and how strange they must be."""

    max_series: int = 10_000  # series with a role that are kept
    length: int = 240  # cells of a series
    spacing: float = 10.0  # values closer together share a cell
    least_z: float = 1.0  # usual spreads; less is no evidence
    other_kind: float = 0.5  # weight of evidence of another kind than the symptom
    unrelated: float = 0.3  # weight of evidence that does not move with the symptom
    watch_floor: float = 4.0  # times the floor of latencies and errors, below which none is reported by itself
    change: ChangeConfig = field(default_factory=ChangeConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)

    def __post_init__(self) -> None:
        if self.max_series < 1 or self.length < 16:
            raise ConfigError("length", f"expected >= 16 cells and >= 1 series, got {self.length}, {self.max_series}")
        if not self.spacing > 0:
            raise ConfigError("spacing", f"must be > 0 s, got {self.spacing}")


class MetricEvidence:
    """The newest values of the series that mean something, by slot; one writer, equal calls give equal results.

    Where both sides of a call are known, the time between them is a series of its own. `counts` says what had no room.
    """

    def __init__(self, config: MetricsConfig | None = None) -> None:
        self.config = config or MetricsConfig()
        self.rings = Rings(self.config.length, self.config.spacing)
        self.watch = Watch(self.config.watch, self.rings)
        self.counts: dict[str, int] = {UNKNOWN: 0, FULL: 0}
        self._reset()

    def __len__(self) -> int:
        return len(self._meaning)

    def assign(self, row: int, labels: Labels, series: str = "") -> None:
        """Say what series a row is; `series` is its fingerprint for evidence."""
        found = meaning(labels)
        if found is None:
            self.counts[UNKNOWN] += 1
            return
        slot = self._take(found, row, series)
        if slot < 0:
            self.counts[FULL] += 1
            return
        if found.role in (Role.CLIENT, Role.SERVER):
            self._pair(slot, found)

    def forget(self, rows: NDArray[np.integer[Any]]) -> None:
        """Rows (unique) that are given to other series."""
        known = rows[rows < len(self._slot_of)]
        for slot in self._slot_of[known].tolist():
            if slot >= 0:
                self._release(slot)

    def update(self, batch: Batch) -> None:
        """Take one value for each of K rows; those without a role pass by."""
        rows = np.minimum(batch.rows, len(self._slot_of) - 1)
        slots = self._slot_of[rows]
        wanted = (slots >= 0) & (rows == batch.rows) & np.isfinite(batch.value)
        if not wanted.any():
            return
        chosen, time_ns = slots[wanted], batch.time_ns[wanted]
        self._push(chosen, time_ns, batch.value[wanted])
        gaps = np.unique(self._gap_of[chosen])
        self._push_gaps(gaps[gaps >= 0].astype(np.int32))

    def exclude(self, start_ns: int, end_ns: int) -> None:
        """What came in this time belongs to an incident and is not part of what is usual."""
        self.rings.exclude(start_ns, end_ns)

    def evidence(
        self,
        start_ns: int,
        end_ns: int,
        widen: Callable[[str], float] | None = None,
        *,
        symptom: Symptom | None = None,
        services: Collection[str] | None = None,
    ) -> tuple[Evidence, ...]:
        """The strongest evidence of each service, resource and channel from `start_ns` to `end_ns`, strongest first.

        `widen` gives by how much the usual spread of a service counts more. With a symptom, what does not move with it
        weighs less. Only `services` are judged where they are given. Learns nothing.
        """
        slots = self._of_roles(tuple(CHANNELS.keys() - {Role.GAP, Role.SERVER}), services)
        change = self._changes(slots, start_ns, end_ns, widen)
        strength = COMPRESSED * np.log1p(np.maximum(np.nan_to_num(change.z), 0.0) / COMPRESSED)
        strength *= np.array([self._meaning[slot].weight for slot in slots.tolist()])
        strong = np.flatnonzero(change.z >= self.config.least_z)
        if symptom is not None:
            strength[strong] *= self._impact(slots[strong], symptom, start_ns, end_ns)
        best: dict[tuple[str, str, Channel], tuple[float, int]] = {}
        for k in strong.tolist():
            of = self._meaning[int(slots[k])]
            key = (of.service, of.resource, CHANNELS[of.role])
            if strength[k] > best.get(key, (0.0, 0))[0]:
                best[key] = (float(strength[k]), k)
        found = [self._evidence(int(slots[k]), change, k, of_k) for of_k, k in best.values()]
        return tuple(sorted(found, key=lambda e: (-e.strength, e.service, e.what, e.resource)))

    def network(self, start_ns: int, end_ns: int, widen: Callable[[str], float] | None = None) -> tuple[Evidence, ...]:
        """Which ends of calls are slow, from the time between the two sides of each call, strongest first."""
        slots = self._of_roles((Role.GAP,), None)
        change = self._changes(slots, start_ns, end_ns, widen)
        edges, at = self._edges(slots, change)
        found = []
        for name, strength in solve(edges).items():
            mine = [(edges[i].effect, -i) for i in range(len(edges)) if name in (edges[i].caller, edges[i].callee)]
            k = at[-max(mine)[1]]
            packed = COMPRESSED * float(np.log1p(strength / COMPRESSED))
            found.append(self._evidence(int(slots[k]), change, k, packed, service=name))
        return tuple(sorted(found, key=lambda e: (-e.strength, e.service)))

    def findings(self, event_ns: int) -> tuple[Finding, ...]:
        """What series notice by themselves: begun, gone on or ended since this was asked last."""
        alike = self._alike(self.watch.hit(event_ns, TOGETHER_S))
        self.watch.open(alike, self._sign[alike])
        slots = self.watch.changed(event_ns)
        blamed = self._blamed_ends() if len(slots) else {}
        return tuple(self._finding(slot, blamed) for slot in slots.tolist() if slot in self._meaning)

    def _alike(self, slots: I32) -> I32:
        """Of slots that are strange for the first time, those of services of which series of several roles are."""
        roles: dict[str, set[Role]] = {}
        for slot in slots.tolist():
            of = self._meaning[slot]
            roles.setdefault(of.service, set()).add(of.role)
        return np.array([slot for slot in slots.tolist() if len(roles[self._meaning[slot].service]) > 1], np.int32)

    def calls(self) -> dict[str, frozenset[str]]:
        """Who calls whom, as far as series of calls say so."""
        found: dict[str, set[str]] = {}
        for of in self._meaning.values():
            if of.caller:
                found.setdefault(of.caller, set()).add(of.callee)
        return {name: frozenset(found[name]) for name in sorted(found)}

    def outside(self) -> frozenset[str]:
        """Services that are only seen as callees which send no telemetry of their own."""
        calls = [of for of in self._meaning.values() if of.caller]
        known = {of.caller for of in calls} | {of.callee for of in calls if not of.outside}
        return frozenset(of.callee for of in calls) - known

    def state(self) -> Arrays:
        """Everything kept, as copies."""
        known = [
            {"slot": slot, "row": self._row[slot], "series": self._series[slot], **asdict(of)}
            for slot, of in sorted(self._meaning.items())
        ]
        text = json.dumps({"slots": known, "counts": self.counts}, sort_keys=True).encode()
        rings = {f"ring_{name}": array for name, array in self.rings.state(self._size).items()}
        watch = {f"watch_{name}": array for name, array in self.watch.state(self._size).items()}
        return {"known": np.frombuffer(text, np.uint8).copy(), **rings, **watch}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over a state. Raises: StateError when it does not fit."""
        expected: dict[str, Any] = {"known": (np.uint8, ("bytes",))}
        expected |= {f"ring_{name}": of for name, of in self.rings.saved().items()}
        expected |= {f"watch_{name}": of for name, of in self.watch.saved().items()}
        checked(arrays, expected)
        size = len(arrays["watch_level"])
        try:
            tree = json.loads(arrays["known"].tobytes())
            known = [(one.pop("slot"), one.pop("row"), one.pop("series"), _meaning_of(one)) for one in tree["slots"]]
            self.counts = {str(reason): int(count) for reason, count in tree["counts"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(f"expected the slots of metric evidence as JSON, got {error}") from error
        if any(not 0 <= slot < size for slot, *_ in known) or size > self.config.max_series:
            raise StateError(f"expected slots below {self.config.max_series}, got {size} with other numbers")
        self._reset()
        for prefix, owner in (("ring_", self.rings), ("watch_", self.watch)):
            owned = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
            owner.restore(owned, size)
        self._restore_slots(known, size)

    # -- slots -------------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._size = 0  # slots that were ever in use
        self._free: list[int] = []  # a heap
        self._meaning: dict[int, Meaning] = {}
        self._row: dict[int, int] = {}  # -1 for the time between two sides of a call
        self._series: dict[int, str] = {}
        self._slot_of: I32 = np.full(1, -1, np.int32)  # by row
        self._gap_of: I32 = np.full(1, -1, np.int32)  # by slot: the slot of the time between the sides
        self._sides: dict[int, list[int]] = {}  # by slot of a gap: the slots of client and server, -1 where unknown
        self._gap_named: dict[tuple[str, str, str], int] = {}
        self._floor: F64 = np.zeros(1)
        self._relative: F64 = np.zeros(1)
        self._share = np.zeros(1, np.bool_)
        self._sign: F64 = np.ones(1)
        self._watched = np.zeros(1, np.bool_)
        self._steady = np.zeros(1, np.bool_)

    def _take(self, of: Meaning, row: int, series: str) -> int:
        """A slot for a series, -1 when all are in use."""
        if not self._free and self._size >= self.config.max_series:
            return -1
        slot = heapq.heappop(self._free) if self._free else self._size
        self._size = max(self._size, slot + 1)
        self._place(slot, of, row, series)
        return slot

    def _place(self, slot: int, of: Meaning, row: int, series: str) -> None:
        self.rings.reserve(slot + 1)
        self.watch.reserve(slot + 1)
        for name, empty in (("_gap_of", -1), ("_floor", 0), ("_relative", 0), ("_share", 0), ("_sign", 1)):
            setattr(self, name, _grown(getattr(self, name), slot + 1, empty))
        self._watched = _grown(self._watched, slot + 1, 0)
        self._steady = _grown(self._steady, slot + 1, 0)
        self._meaning[slot], self._row[slot], self._series[slot] = of, row, series
        self._gap_of[slot] = -1
        self._floor[slot], self._relative[slot], self._share[slot] = of.floor, of.relative, of.share
        self._sign[slot] = 1.0 if of.up else -1.0
        self._watched[slot] = of.role in CHANNELS and of.role is not Role.SERVER
        self._steady[slot] = of.role in (Role.RESOURCE, Role.GAP)
        if row >= 0:
            self._slot_of = _grown(self._slot_of, row + 1, -1)
            self._slot_of[row] = slot

    def _release(self, slot: int) -> None:
        of, row, gap = self._meaning.pop(slot), self._row.pop(slot), int(self._gap_of[slot])
        self._series.pop(slot)
        if row >= 0:
            self._slot_of[row] = -1
        self._gap_of[slot] = -1
        for owner in (self.rings, self.watch):
            owner.clear(np.array([slot], np.int32))
        heapq.heappush(self._free, slot)
        if of.role is Role.GAP:
            del self._gap_named[_gap_name(of)], self._sides[slot]
        elif gap >= 0:
            sides = [side if side != slot else -1 for side in self._sides[gap]]
            self._sides[gap] = sides
            if sides == [-1, -1]:
                self._release(gap)

    def _pair(self, slot: int, of: Meaning) -> None:
        """Join the two sides of a call."""
        name = _gap_name(of)
        gap = self._gap_named.get(name, -1)
        if gap < 0:
            scale = of.floor / 0.001  # how many of its unit are a second
            between = Meaning(
                Role.GAP, of.callee, of.what, "", of.unit, True, GAP_FLOOR_S * scale, LATENCY_RELATIVE,
                caller=of.caller, callee=of.callee,
            )  # fmt: skip
            gap = self._take(between, -1, "")
            if gap < 0:
                self.counts[FULL] += 1
                return
            self._gap_named[name], self._sides[gap] = gap, [-1, -1]
        self._sides[gap][0 if of.role is Role.CLIENT else 1] = slot
        self._gap_of[slot] = gap

    def _restore_slots(self, known: list[tuple[int, int, str, Meaning]], size: int) -> None:
        self._size = size
        for slot, row, series, of in known:
            self._place(slot, of, row, series)
            if of.role is Role.GAP:
                self._gap_named[_gap_name(of)], self._sides[slot] = slot, [-1, -1]
        for slot, _, _, of in known:
            gap = self._gap_named.get(_gap_name(of), -1)
            if of.role in (Role.CLIENT, Role.SERVER) and gap >= 0:
                self._sides[gap][0 if of.role is Role.CLIENT else 1] = slot
                self._gap_of[slot] = gap
        self._free = [slot for slot in range(size) if slot not in self._meaning]  # in order, which is a heap

    # -- values ------------------------------------------------------------------------------------------------------

    def _push(self, slots: I32, time_ns: I64, value: F64) -> None:
        fresh = self.rings.push(slots, time_ns, value)
        seen = self._watched[slots]
        some = slots[seen]
        strict = np.where(self._relative[some] > 0, self.config.watch_floor, 1.0)
        floor = self._floors(some, self.watch.of["level"][some], self.rings.last(some)[1]) * strict
        self.watch.update(some, fresh[seen], self._sign[some], floor, self._steady[some])

    def _push_gaps(self, gaps: I32) -> None:
        """The time between both sides of calls, where both have just been seen."""
        both = [(gap, *self._sides[gap]) for gap in gaps.tolist() if -1 not in self._sides[gap]]
        if not both:
            return
        gap, client, server = np.array(both, np.int32).T
        (time_ns, there), (other_ns, here) = self.rings.last(client), self.rings.last(server)
        at_once = np.abs(time_ns - other_ns) < self.config.spacing * 5e8
        newer = np.maximum(time_ns, other_ns) > self.rings.last(gap)[0]
        now = at_once & newer & (time_ns > 0) & (other_ns > 0)
        if now.any():
            self._push(gap[now], np.maximum(time_ns, other_ns)[now], (there - here)[now])

    def _floors(self, slots: I32, level: F64, seen: F64) -> F64:
        """The least spreads of K slots at these levels, (K,); `seen` are values that they have had."""
        size = np.abs(np.nan_to_num(level))
        percent = np.maximum(size, np.abs(np.nan_to_num(seen))) > 2.0  # no share of a whole is so large
        points = np.where(self._share[slots] & percent, 100.0, 1.0)
        floor: F64 = self._floor[slots] * points + self._relative[slots] * size
        return floor

    # -- evidence ----------------------------------------------------------------------------------------------------

    def _of_roles(self, roles: Collection[Role], services: Collection[str] | None) -> I32:
        found = [
            slot
            for slot, of in sorted(self._meaning.items())
            if of.role in roles and (services is None or of.service in services)
        ]
        return np.array(found, np.int32)

    def _changes(self, slots: I32, start_ns: int, end_ns: int, widen: Callable[[str], float] | None) -> Change:
        wider = np.array([widen(self._meaning[slot].service) if widen else 1.0 for slot in slots.tolist()])
        cells = self.rings.cells(slots)
        largest = np.abs(np.nan_to_num(cells[1])).max(axis=1, initial=0.0).astype(np.float64)
        return changes(
            cells,
            (start_ns, end_ns),
            sign=self._sign[slots],
            floor=lambda level: self._floors(slots, level, largest) * wider,
            config=self.config.change,
        )

    def _impact(self, slots: I32, symptom: Symptom, start_ns: int, end_ns: int) -> F64:
        """How much evidence of K slots has to do with the symptom, in (0, 1], (K,)."""
        of_symptom = self._symptom(symptom, start_ns, end_ns)
        if of_symptom < 0:
            return np.ones(len(slots))
        weight = np.ones(len(slots))
        role = self._meaning[of_symptom].role
        one = np.array([of_symptom], np.int32)
        since_ns = start_ns - round(self.config.change.before * 1e9)
        shown = [cells[0] for cells in self.rings.cells(one)[:2]]
        for k, slot in enumerate(slots.tolist()):
            mine = self._meaning[slot].role
            if mine in SYMPTOMS and mine is not role:
                weight[k] = self.config.other_kind
            cells = [cells[0] for cells in self.rings.cells(slots[k : k + 1])[:2]]
            moved = correlation((cells[0], cells[1]), (shown[0], shown[1]), (since_ns, end_ns))
            moved *= self._sign[slot] * self._sign[of_symptom]
            weight[k] *= self.config.unrelated + (1 - self.config.unrelated) * max(moved, 0.0)
        return weight

    def _symptom(self, symptom: Symptom, start_ns: int, end_ns: int) -> int:
        """The slot of the symptom, -1 when there is none."""
        slots = self._of_roles(SYMPTOMS if symptom.role is None else (symptom.role,), (symptom.service,))
        if not len(slots):
            return -1
        z = self._changes(slots, start_ns, end_ns, None).z
        return -1 if np.isnan(z).all() else int(slots[int(np.nanargmax(z))])

    def _edges(self, slots: I32, change: Change) -> tuple[list[Edge], list[int]]:
        """(calls as edges, which of the slots each is)."""
        edges, at = [], []
        for k in np.flatnonzero(np.isfinite(change.z)).tolist():
            of, effect = self._meaning[int(slots[k])], float(change.z[k])
            in_ms = 1000.0 if of.unit == "s" else 1.0
            shift = max(float(change.after[k] - change.before[k]), 0.0) * in_ms if effect > EDGE_Z else 0.0
            edges.append(Edge(of.caller, of.callee, shift, GAP_COUNT, effect, max(effect, 0.0)))
            at.append(k)
        return edges, at

    def _evidence(self, slot: int, change: Change, k: int, strength: float, service: str = "") -> Evidence:
        of = self._meaning[slot]
        before, after = float(change.before[k]), float(change.after[k])
        return Evidence(
            channel=CHANNELS[of.role],
            service=service or of.service,
            what=_named(of),
            before=before,
            after=after,
            unit=of.unit,
            count=int(change.count[k]),
            strength=strength,
            callee=of.callee,
            resource=of.resource,
            series=self._series[slot],
            text=_sentence(of, before, after, float(change.z[k])),
        )

    # -- findings ----------------------------------------------------------------------------------------------------

    def _blamed_ends(self) -> dict[int, str]:
        """Of calls that are slow now: which end it is, by slot of the gap."""
        slots = self._of_roles((Role.GAP,), None)
        of = self.watch.of
        edges = []
        for slot in slots.tolist():
            call, z = self._meaning[slot], float(of["best_z"][slot]) if of["start_ns"][slot] else 0.0
            if not np.isnan(of["level"][slot]):
                shift = float(of["best"][slot] - of["before"][slot]) if z else 0.0
                edges.append(Edge(call.caller, call.callee, max(shift, 0.0) * 1000, GAP_COUNT, z, z))
        strength = solve(edges)
        blamed = {}
        for slot in slots.tolist():
            call = self._meaning[slot]
            worse = strength.get(call.caller, 0.0) > strength.get(call.callee, 0.0)
            blamed[slot] = call.caller if worse else call.callee
        return blamed

    def _finding(self, slot: int, blamed: Mapping[int, str]) -> Finding:
        of, run = self._meaning[slot], {name: array[slot] for name, array in self.watch.of.items()}
        service, channel = blamed.get(slot, of.service), CHANNELS[of.role]
        lasts = bool(run["start_ns"])
        before, after = float(run["before"] * self._sign[slot]), float(run["best"] * self._sign[slot])
        z = float(run["best_z"])
        evidence = Evidence(
            channel=channel,
            service=service,
            what=_named(of),
            before=before,
            after=after,
            unit=of.unit,
            strength=of.weight * COMPRESSED * float(np.log1p(z / COMPRESSED)),
            callee=of.callee,
            resource=of.resource,
            series=self._series[slot],
            text=_sentence(of, before, after, z),
        )
        return Finding(
            key="|".join((channel, of.service, of.resource, _named(of))),
            service=service,
            channel=channel,
            start_ns=int(run["start_ns"] if lasts else run["first_ns"]),
            last_ns=int(run["last_ns"]),
            end_ns=0 if lasts else int(run["end_ns"]),
            score=z / float(run["limit"]),
            evidence=evidence,
        )


def _grown(array: NDArray[Any], size: int, empty: float) -> NDArray[Any]:
    """At least so long, by doubling."""
    if size <= len(array):
        return array
    new = np.full(max(size, 2 * len(array)), empty, array.dtype)
    new[: len(array)] = array
    return new


def _gap_name(of: Meaning) -> tuple[str, str, str]:
    return of.caller, of.callee, of.what


def _meaning_of(tree: dict[str, Any]) -> Meaning:
    return Meaning(**{**tree, "role": Role(tree["role"])})


def _named(of: Meaning) -> str:
    return f"{of.caller} -> {of.callee}" if of.role is Role.GAP else of.what


def _sentence(of: Meaning, before: float, after: float, z: float) -> str:
    unit = f" {of.unit}" if of.unit and of.unit != "1" else ""
    what = f"The time on the network from {of.caller} to {of.callee}" if of.role is Role.GAP else _named(of)
    went = "rose" if after >= before else "fell"
    return f"{what} {went} from {before:.4g}{unit} to {after:.4g}{unit}, by {z:.1f} of its usual spreads."
