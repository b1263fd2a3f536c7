"""Groups: which series belong to one service and which are peers, and what comparing them says of each."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.detector import PEERS, Scores
from otel_aiops.detect.joint import LATE, UNKNOWN_S, GroupScores, Joint, JointConfig
from otel_aiops.detect.peers import Peers, PeersConfig, PeerScores, peer_key
from otel_aiops.errors import StateError
from otel_aiops.labels import Attributes, Labels, text
from otel_aiops.otlp.points import I32, I64, Bool
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import checked

Arrays = dict[str, NDArray[Any]]

LONGEST_HELD_S = 86_400.0  # a comparison that is older says nothing
BY_MEMBER = tuple(field.name for field in dataclasses.fields(PeerScores) if field.name != "time_ns")
_NO_ROWS, _NO_NUMBERS = np.empty(0, np.int32), np.empty(0)
NOBODY = PeerScores(
    time_ns=0,
    rows=_NO_ROWS,
    group=_NO_ROWS,
    score=_NO_NUMBERS,
    probability=_NO_NUMBERS,
    value=_NO_NUMBERS,
    median=_NO_NUMBERS,
    expected=_NO_NUMBERS,
    band=_NO_NUMBERS,
    peers=np.empty(0, np.int64),
)


class Numbers:
    """Names of groups, as 64 bits, to small numbers; a number that is free again is given to the next new name.

    Which number a name gets depends on those in use and on nothing else, so that a restored one goes on equally.
    """

    def __init__(self) -> None:
        self._of: dict[int, int] = {}
        self._names: list[int] = []  # 0 where a number is free
        self._free: list[int] = []  # a heap

    def of(self, name: int) -> int:
        """The number of a name (not 0)."""
        number = self._of.get(name)
        if number is None:
            number = heapq.heappop(self._free) if self._free else len(self._names)
            if number == len(self._names):
                self._names.append(name)
            self._names[number] = name
            self._of[name] = number
        return number

    def release(self, numbers: I32) -> None:
        """Numbers that nobody has any more."""
        for number in numbers.tolist():
            del self._of[self._names[number]]
            self._names[number] = 0
            heapq.heappush(self._free, number)

    def state(self) -> NDArray[np.uint64]:
        """The names by number."""
        return np.array(self._names, np.uint64)

    def restore(self, names: NDArray[np.uint64]) -> None:
        """Take over a state."""
        self._names = names.tolist()
        self._of = {name: number for number, name in enumerate(self._names) if name}
        self._free = np.flatnonzero(names == 0).tolist()  # in order, which is a heap


@dataclass(frozen=True, slots=True)
class Compared:
    """What an interval gave: scores of groups, of peers, and of those of them who are over the threshold since now."""

    groups: GroupScores | None = None
    peers: PeerScores | None = None
    departed: tuple[Batch, Scores] | None = None


class Groups:
    """The joint detector and the comparison of peers, each if it is enabled, and who belongs to which group.

    What the newest comparison said of a member holds until the next one: points that are still outside of its band get
    that score when it is over the threshold and higher than their own. Equal calls give equal bits.
    """

    def __init__(self, joint: JointConfig, peers: PeersConfig) -> None:
        self.joint = Joint(joint) if joint.enabled else None
        self.peers = Peers(peers) if peers.enabled else None
        self._services, self._kin = Numbers(), Numbers()
        self._held, self._held_ns = NOBODY, np.empty(0, np.int64)  # members over the threshold, in order of rows

    @property
    def enabled(self) -> bool:
        """Whether there is anything to do."""
        return self.joint is not None or self.peers is not None

    def enlist(self, rows: I32, labels: Sequence[Labels]) -> I32:
        """Put K rows without groups into theirs; for each the row whose state it may begin with, -1 for none, (K,)."""
        if self.joint:
            self.joint.assign(rows, _numbered(self._services, map(service_name, labels)))
        if not self.peers:
            return np.full(len(rows), -1, np.int32)
        names = kin_names(labels)
        has = np.array([name != 0 for name in names], bool)
        members = rows[has]
        self.peers.assign(members, _numbered(self._kin, filter(None, names)))
        models = np.full(len(rows), -1, np.int32)
        models[has] = self.peers.inherit(members)
        return models

    def forget(self, rows: I32) -> None:
        """Rows (unique) that are given to other series."""
        if self.joint:
            self._services.release(self.joint.forget(rows))
        if self.peers:
            self._kin.release(self.peers.forget(rows))
            self._keep(~np.isin(self._held.rows, rows))

    def update(self, batch: Batch, scores: Scores) -> None:
        """Take the newest values of K rows and the scores that they have of their own."""
        if self.joint:
            self.joint.update(batch, scores)
        if self.peers:
            self.peers.update(batch, scores.score)

    def step(self, event_ns: int) -> Compared:
        """What there is to say once an interval closes, nothing before and of groups without new points."""
        together = self.joint.step(event_ns) if self.joint and self.joint.due(event_ns) else None
        apart = self.peers.step(event_ns) if self.peers and self.peers.due(event_ns) else None
        return Compared(together, apart, self._hold(apart) if apart is not None else None)

    def combined(self, batch: Batch, scores: Scores) -> Scores:
        """The scores of K points with what the newest comparison said of their rows, where that is more."""
        held = self._held
        if not len(held.rows):
            return scores
        at = np.minimum(np.searchsorted(held.rows, batch.rows), len(held.rows) - 1)
        usual_s = np.where(np.isnan(batch.interval_s), UNKNOWN_S, LATE * batch.interval_s)
        current = batch.time_ns / 1e9 - self._held_ns[at] / 1e9 <= np.maximum(usual_s, UNKNOWN_S)
        with np.errstate(invalid="ignore"):
            more = (held.rows[at] == batch.rows) & current & ~(scores.score >= held.score[at])
            more &= np.abs(batch.value - held.expected[at]) > held.band[at]
        if not more.any():
            return scores
        at = at[more]
        found = {name: getattr(scores, name).copy() for name in ("score", "probability", "expected", "lower", "upper")}
        for name in ("score", "probability", "expected"):
            found[name][more] = getattr(held, name)[at]
        found["lower"][more] = held.expected[at] - held.band[at]
        found["upper"][more] = held.expected[at] + held.band[at]
        return dataclasses.replace(scores, **found, channel=np.where(more, np.uint8(PEERS), scores.channel))

    def reason(self, row: int, unit: str) -> str | None:
        """Why a row differs from its peers, in one sentence; None when the newest comparison does not say so."""
        at = np.flatnonzero(self._held.rows == row).tolist()
        return self.peers.reason(self._held, at[0], unit) if self.peers and at else None

    def _hold(self, found: PeerScores) -> tuple[Batch, Scores] | None:
        """Keep who is over the threshold, and those who were and were not compared again; the scores of those who are
        over it now, were not before, and are not stranger by themselves.
        """
        assert self.peers is not None
        with np.errstate(invalid="ignore"):
            new = (found.score >= 1) & ~(self.peers.own(found.rows) >= found.score)
        new &= ~np.isin(found.rows, self._held.rows)
        young = (found.time_ns - self._held_ns) / 1e9 <= LONGEST_HELD_S
        self._keep(young & ~np.isin(self._held.rows, found.rows))
        with np.errstate(invalid="ignore"):
            over = found.score >= 1
        rows = np.concatenate([self._held.rows, found.rows[over]])
        order = np.argsort(rows, kind="stable")
        both = {
            name: np.concatenate([getattr(self._held, name), getattr(found, name)[over]])[order] for name in BY_MEMBER
        }
        self._held = PeerScores(time_ns=found.time_ns, **both)
        times: I64 = np.concatenate([self._held_ns, np.full(int(over.sum()), found.time_ns, np.int64)])
        self._held_ns = times[order]
        return _as_scored(found, np.flatnonzero(new)) if new.any() else None

    def _keep(self, which: Bool) -> None:
        if not which.all():
            left = {name: getattr(self._held, name)[which] for name in BY_MEMBER}
            self._held, self._held_ns = PeerScores(time_ns=self._held.time_ns, **left), self._held_ns[which]

    def state(self) -> Arrays:
        """Everything learned by what is enabled."""
        arrays: Arrays = {}
        if self.joint:
            arrays |= {f"joint/{name}": array for name, array in self.joint.state().items()}
            arrays["services"] = self._services.state()
        if self.peers:
            arrays |= {f"peers/{name}": array for name, array in self.peers.state().items()}
            arrays |= {f"held/{name}": getattr(self._held, name).copy() for name in BY_MEMBER}
            arrays["kin"], arrays["held/time_ns"] = self._kin.state(), self._held_ns.copy()
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> bool:
        """Take over a state, or of it what is enabled; False when something enabled is not in it and all rows have to
        be put into groups again. Raises: StateError.
        """
        if self.joint and "services" in arrays:
            self.joint.restore(_part(arrays, "joint"))
            self._services.restore(_names(arrays, "services", "joint/group_members"))
        if self.peers and "kin" in arrays:
            self.peers.restore(_part(arrays, "peers"))
            self._kin.restore(_names(arrays, "kin", "peers/group_members"))
            held = _part(arrays, "held")
            expected = {name: (getattr(NOBODY, name).dtype, ("held",)) for name in BY_MEMBER}
            checked(held, {**expected, "time_ns": (np.int64, ("held",))})
            self._held_ns = held.pop("time_ns").copy()
            self._held = PeerScores(time_ns=0, **{name: array.copy() for name, array in held.items()})
        return not (self.joint and "services" not in arrays) and not (self.peers and "kin" not in arrays)


def _as_scored(found: PeerScores, which: NDArray[np.intp]) -> tuple[Batch, Scores]:
    score, expected, band = found.score[which], found.expected[which], found.band[which]
    times, unknown = np.full(len(which), found.time_ns, np.int64), np.full(len(which), np.nan)
    batch = Batch(rows=found.rows[which], time_ns=times, value=found.value[which], interval_s=unknown)
    return batch, Scores(
        score=score,
        probability=found.probability[which],
        expected=expected,
        lower=expected - band,
        upper=expected + band,
        channel=np.full(len(which), PEERS, np.uint8),
        warmup_s=np.zeros(len(which)),
        alert=score,
    )


def service_name(labels: Labels) -> int:
    """64 bits for `service.name` and `service.namespace`, or for the whole resource where the service is unknown."""
    resource = dict(labels.resource)
    service, namespace = text(resource.get("service.name")), text(resource.get("service.namespace"))
    return bits((service, namespace) if service else labels.resource)


def kin_names(labels: Sequence[Labels]) -> list[int]:
    """64 bits for each series, equal for peers; 0 for one that has nothing by which its instance is told."""
    return [0 if _lonely(one, kin := peer_key(one)) else bits(_identity(kin)) for one in labels]


def _lonely(labels: Labels, kin: Labels) -> bool:
    return (labels.resource, labels.attributes, labels.scope_attributes) == (
        kin.resource,
        kin.attributes,
        kin.scope_attributes,
    )


def _identity(kin: Labels) -> tuple[Any, ...]:
    return kin.name, kin.unit, kin.kind, kin.stat, kin.resource, kin.scope_name, kin.scope_attributes, kin.attributes


def bits(value: tuple[Any, ...] | Attributes) -> int:
    """64 bits that are equal for equal values, and never 0."""
    # not hash(): it differs between processes
    return int.from_bytes(blake2b(repr(value).encode("utf-8", "replace"), digest_size=8).digest(), "little") or 1


def _numbered(numbers: Numbers, names: Iterable[int]) -> I32:
    return np.fromiter(map(numbers.of, names), np.int32)


def _part(arrays: Mapping[str, NDArray[Any]], name: str) -> Arrays:
    prefix = f"{name}/"
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def _names(arrays: Mapping[str, NDArray[Any]], name: str, members: str) -> NDArray[np.uint64]:
    checked(
        {name: arrays[name], members: arrays[members]}, {name: (np.uint64, ("groups",)), members: (np.int32, ("any",))}
    )
    used = np.flatnonzero(arrays[members])
    if len(used) and (int(used[-1]) >= len(arrays[name]) or (arrays[name][used] == 0).any()):
        raise StateError(f"{name}: expected a name for each of {len(used)} groups with rows")
    return arrays[name]
