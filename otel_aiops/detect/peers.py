"""Peers: members of one group, as the pods of a deployment, compared with each other at the same time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.joint import Arrays, Closed, Ticks
from otel_aiops.errors import ConfigError
from otel_aiops.labels import Attributes, Labels
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.series.batch import Batch

_KUBERNETES = ("pod.name", "pod.uid", "pod.ip", "pod.hostname", "pod.start_time", "node.name", "node.uid", "job.name")
_MORE_KUBERNETES = ("job.uid", "replicaset.name", "replicaset.uid", "container.restart_count")
_CONTAINER = ("id", "name", "image.id", "image.tag", "image.tags", "image.repo_digests", "runtime.version")
_HOST = ("id", "name", "ip", "mac", "image.id", "image.version")
_PROCESS = ("pid", "parent_pid", "creation.time")
_OTHER = ("service.instance.id", "service.version", "faas.instance", "cloud.availability_zone", "cloud.resource_id")
_TASK = ("aws.ecs.task.arn", "aws.ecs.task.id", "aws.ecs.container.arn", "telemetry.sdk.version")
_PROMETHEUS = ("instance", "pod", "pod_name", "pod_ip", "pod_uid", "container_id", "replicaset", "node", "hostname")

# What tells one instance from another, or changes when an instance is replaced.
INSTANCE_ATTRIBUTES = frozenset(
    (
        *(f"k8s.{name}" for name in (*_KUBERNETES, *_MORE_KUBERNETES)),
        *(f"container.{name}" for name in _CONTAINER),
        *(f"host.{name}" for name in _HOST),
        *(f"process.{name}" for name in _PROCESS),
        *(*_OTHER, *_TASK, *_PROMETHEUS),
    )
)
# Of a resource this is the target that was scraped; of a point, whom a request went to.
RESOURCE_INSTANCE_ATTRIBUTES = INSTANCE_ATTRIBUTES | {"server.address", "server.port", "net.host.name", "net.host.port"}

LEAST_PEERS = 4  # members of a group that are compared, the one in question among them
RELATIVE_LEAST = 0.05  # of the median: no smaller spread of the peers is believed
NEW_MORE = 2.0  # times as much more for a new member: what it differs from equal peers by is not known yet
IDLE = 0.1  # of the usual size of the group: a smaller median is no measure for ratios
SIGMA_MAD, SIGMA_MEAN = 1.4826, 1.2533  # standard deviation in median and mean absolute deviations
WARM = 20  # comparisons before the offset of a member is known
WARM_POINTS = 20.0  # points before others may begin with what a row has learned
MEMORY = 300  # comparisons that offset and spread of a member remember
HELD = 0.5  # of a score, from which a comparison is not learned: or a slow departure would widen what is usual
MOST = 100.0  # of a score
BUSY = 10.0  # times the usual size of what is not zero, where the median mostly is: one error is no anomaly there
HUGE = 1e100  # nothing that is measured is larger
LEARNED = 1e6  # medians; no larger offset is learned


def peer_key(labels: Labels) -> Labels:
    """Labels without what belongs to one instance: equal for the same series of all peers."""
    return dataclasses.replace(
        labels,
        resource=_shared(labels.resource, RESOURCE_INSTANCE_ATTRIBUTES),
        scope_version="",
        scope_attributes=_shared(labels.scope_attributes),
        attributes=_shared(labels.attributes),
    )


def _shared(attributes: Attributes, without: frozenset[str] = INSTANCE_ATTRIBUTES) -> Attributes:
    return tuple(pair for pair in attributes if pair[0] not in without)


@dataclass(frozen=True, slots=True)
class PeersConfig:
    """How far from its peers a member must be, how often they are compared, and when a difference is normal."""

    enabled: bool = True  # compare the instances of a service with each other; a new one begins with what a peer knows
    threshold: float = 6.0  # spreads of the peers that make a score of 1
    interval: float = 60.0  # how often peers are compared, in event time
    adapt_after: float = 7200.0  # a difference from the peers that lasts longer is normal

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise ConfigError("threshold", f"must be > 0, got {self.threshold}")
        if not self.interval >= 1:
            raise ConfigError("interval", f"must be >= 1 s, got {self.interval}")
        if not self.adapt_after > 0:
            raise ConfigError("adapt_after", f"must be > 0 s, got {self.adapt_after}")


@dataclass(frozen=True, slots=True)
class PeerScores:
    """Scores of K members at one time; all (K,).

    `score` >= 0, 1 is the threshold; NaN while fewer than three of the others are known, or where values are too large
    to be compared. `probability` that a normal comparison scores less; NaN before 20 of them.
    `value` is the member's, `median` that of its `peers` others, `expected` the median and what the member usually
    differs from it, `band` how far it may be from that.
    """

    time_ns: int
    rows: I32
    group: I32
    score: F64
    probability: F64
    value: F64
    median: F64
    expected: F64
    band: F64
    peers: I64


class Peers:
    """One score for each member of a group: how far it is from the others, given how far it usually is.

    Differences are measured in medians of the others, so that a member which always does twice the work is expected
    to do so at night too. The unit of a score is the largest of the spread of the others at this time (median absolute
    deviation), of the member's own usual deviation, and of a twentieth of the median; for a new member also the spread
    of the others before their offsets. Where the median is mostly zero, a member is measured by the usual size of what
    is not zero, and where all have always been zero it is not compared. 52 bytes a row and 21 a group.
    """

    def __init__(self, config: PeersConfig) -> None:
        self.config = config
        self._ticks = Ticks(
            config.interval,
            {
                "points": (np.float32, (), 0),  # values seen
                "compared": (np.float32, (), 0),  # comparisons learned from
                "offset": (np.float32, (), 0),  # from the median of the others, in medians
                "error": (np.float32, (), 0),  # mean absolute deviation from median and offset
                "over_since_s": (np.float64, (), np.nan),
                "own": (np.float32, (), np.nan),  # score of the newest value by its own past
            },
            {"size": (np.float64, (), 0), "busy": (np.float64, (), 0)},  # usual median, and that of what is not zero
        )

    def assign(self, rows: I32, groups: I32) -> None:
        """Put rows (unique) into groups, (K,): one group for each `peer_key`, as a small number."""
        self._ticks.assign(rows, groups)

    def forget(self, rows: I32) -> I32:
        """Rows that are given to other series; the groups that lost their last row, which start anew."""
        return self._ticks.forget(rows)

    def due(self, event_ns: int) -> bool:
        """Whether `step` has something to do at this time."""
        return self._ticks.due(event_ns)

    def update(self, batch: Batch, own: F64 | None = None) -> None:
        """Take the newest values of K rows, and the scores (K,) that they have by their own past; those without a group
        are passed over.
        """
        rows, known = self._ticks.update(batch, np.where(np.abs(batch.value) < HUGE, batch.value, np.nan))
        self._ticks.row["points"][rows] = np.minimum(self._ticks.row["points"][rows] + 1, 1e6)
        if own is not None:
            self._ticks.row["own"][rows] = own[known]

    def own(self, rows: I32) -> F64:
        """The newest scores of K known rows by their own past, NaN where there is none."""
        return self._ticks.row["own"][rows].astype(np.float64)

    def step(self, event_ns: int) -> PeerScores | None:
        """Scores of the members of groups that got values, once an interval of event time; None for nothing to say."""
        closed = self._ticks.close(event_ns, LEAST_PEERS)
        if closed is None:
            return None
        row = self._ticks.row
        with np.errstate(all="ignore"):  # differences of huge values; what overflows is not scored
            median = _median_of_others(closed, closed.value)
            size = self._size(closed, median)
            off = np.where(size > 0, (closed.value - median) / size, np.nan)
            offset = row["offset"][closed.rows].astype(np.float64)
            compared = row["compared"][closed.rows].astype(np.float64)
            residual = off - offset
            scale = self._scale(closed, off, residual, compared)
            deviation = np.abs(residual) / scale
            expected = median + offset * size
        usable = np.isfinite(deviation) & np.isfinite(expected)
        warm = np.bincount(closed.of, weights=compared >= WARM, minlength=len(closed.groups))[closed.of]
        judged = usable & (warm - (compared >= WARM) >= LEAST_PEERS - 1)
        score = np.where(judged, np.minimum(deviation / self.config.threshold, MOST), np.nan)
        with np.errstate(invalid="ignore"):
            self._learn(closed, usable, off, score >= HELD)
            # a Laplace distribution whose mean absolute deviation is the unit of the score
            probability = np.where(compared >= WARM, 1 - np.exp(-deviation * SIGMA_MEAN), np.nan)
        return PeerScores(
            time_ns=closed.time_ns,
            rows=closed.rows,
            group=closed.groups[closed.of],
            score=score,
            probability=np.where(judged, probability, np.nan),
            value=closed.value,
            median=median,
            expected=expected,
            band=self.config.threshold * scale * size,
            peers=closed.sizes[closed.of] - 1,
        )

    def reason(self, scores: PeerScores, k: int, unit: str = "") -> str:
        """Why member k has its score, in one plain sentence."""
        value, median, expected = float(scores.value[k]), float(scores.median[k]), float(scores.expected[k])
        of = f"the median of its {scores.peers[k]} peers"
        said = f"{_number(value, unit)}, {_compared(value, median)} {of} ({_number(median, unit)})"
        if abs(expected - median) > RELATIVE_LEAST * abs(median):
            said = f"{said}; it usually is {_compared(expected, median)} it"
        return f"{said}; {scores.score[k]:.1f} times the threshold"

    def inherit(self, rows: I32) -> I32:
        """For each of K rows the row of its group to begin from, -1 for none, (K,).

        That is the warm one which is not flagged now and differs least from the others; with equal ones that of most
        points, then the lowest. A row never begins from itself.
        """
        row = self._ticks.row
        known = len(row["group"])
        safe = np.where(rows < known, rows, 0) if known else np.zeros(0, np.int32)
        if not len(safe):
            return np.full(len(rows), -1, np.int32)
        wanted = np.where(rows < known, row["group"][safe], -1)
        warm = (row["points"] >= WARM_POINTS) & np.isnan(row["over_since_s"]) & np.isin(row["group"], wanted)
        warm[row["group"] < 0] = False
        models = np.flatnonzero(warm).astype(np.int32)
        odd = np.abs(row["offset"][models]) + row["error"][models]
        odd = np.where(row["compared"][models] > 0, odd, np.inf)
        models = models[np.lexsort((models, -row["points"][models], odd, row["group"][models]))]
        return _first_other(row["group"][models], models, wanted, rows)

    def state(self) -> Arrays:
        """Everything learned."""
        return self._ticks.state()

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        self._ticks.restore(arrays)

    def _size(self, closed: Closed, median: F64) -> F64:
        """What differences are measured in, (R,): the absolute median, or a part of the usual one when that is more."""
        group = self._ticks.group
        usual, busy = group["size"][closed.groups], group["busy"][closed.groups]
        least = np.where(usual <= IDLE * busy, BUSY * busy, IDLE * usual)
        return np.maximum(np.abs(median), least[closed.of])

    def _scale(self, closed: Closed, off: F64, residual: F64, compared: F64) -> F64:
        error = self._ticks.row["error"][closed.rows].astype(np.float64)
        now = SIGMA_MAD * _median_of_others(closed, np.abs(residual))
        raw = SIGMA_MAD * _median_of_others(closed, np.abs(off)) * np.maximum(1 - compared / WARM, 0.0)
        least = RELATIVE_LEAST * (1 + NEW_MORE * np.maximum(1 - compared / WARM, 0.0))
        return np.maximum(np.maximum(now, SIGMA_MEAN * error), np.maximum(raw, least))

    def _learn(self, closed: Closed, usable: NDArray[np.bool_], off: F64, held: NDArray[np.bool_]) -> None:
        """Offsets and spreads of members that are not suspect, or for so long that it is normal."""
        row, rows, now_s = self._ticks.row, closed.rows, closed.time_ns / 1e9
        since = np.where(held, np.fmin(row["over_since_s"][rows], now_s), np.nan)
        accepted = held & (now_s - np.nan_to_num(since, nan=now_s) >= self.config.adapt_after)
        row["over_since_s"][rows] = np.where(accepted, np.nan, since)
        quiet = usable & (~held | accepted)
        rows, off, accepted = rows[quiet], np.clip(off[quiet], -LEARNED, LEARNED), accepted[quiet]
        compared = row["compared"][rows].astype(np.float64)
        weight = 1 / np.minimum(compared + 1, MEMORY)
        moved = off - row["offset"][rows]
        row["offset"][rows] += np.where(accepted, 1.0, weight) * moved
        error = row["error"][rows]
        row["error"][rows] = np.where((compared == 0) | accepted, error, error + weight * (np.abs(moved) - error))
        row["compared"][rows] = np.minimum(compared + 1, 1e6)
        self._learn_size(closed)

    def _learn_size(self, closed: Closed) -> None:
        group, size = self._ticks.group, np.abs(closed.value)
        zeros = np.bincount(closed.of[size == 0], minlength=len(closed.groups))
        ordered = size[np.lexsort((size, closed.of))]
        for name, now in (("size", _middle(closed, ordered)), ("busy", _middle(closed, ordered, zeros))):
            before = group[name][closed.groups]
            # without zeros there is nothing to learn of what is not zero
            learned = before + (np.minimum(now, 3 * before) - before) / MEMORY
            group[name][closed.groups] = np.where(
                before > 0, np.where((name == "size") | (now > 0), learned, before), now
            )


def _median_of_others(closed: Closed, values: F64) -> F64:
    """For each current row the median of the values of the other rows of its group, (R,)."""
    order = np.lexsort((values, closed.of))
    ordered = values[order]
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))  # rows are ordered by group, so places of a group are where its rows are
    start = closed.starts[closed.of]
    others = closed.sizes[closed.of] - 1
    low, high = start + (others - 1) // 2, start + others // 2
    low, high = low + (low >= place), high + (high >= place)
    return np.asarray(0.5 * ordered[low] + 0.5 * ordered[high])


def _middle(closed: Closed, ordered: F64, without: I64 | int = 0) -> F64:
    """The lower median of the values of each group but the `without` smallest, (K,); 0 when none is left.

    `ordered` (R,) are the values by group, ascending in each.
    """
    left = closed.sizes - without
    return np.where(left > 0, ordered[closed.starts + np.minimum(without + (left - 1) // 2, closed.sizes - 1)], 0.0)


def _first_other(of: I32, models: I32, groups: I32, rows: I32) -> I32:
    """The first model of each group that is not the row itself, -1 for none; models are ordered by group `of`."""
    found = np.full(len(rows), -1, np.int32)
    begin, end = np.searchsorted(of, groups, "left"), np.searchsorted(of, groups, "right")
    for step in (1, 0):  # the second one only where the first is the row itself
        there = begin + step < end
        candidate = models[begin[there] + step]
        found[there] = np.where(candidate != rows[there], candidate, found[there])
    return found


def _compared(value: float, median: float) -> str:
    if median > 0 and value >= 0:
        ratio = value / median
        return f"{ratio:.1f} times" if ratio >= 0.1 else f"{ratio:.2g} times"
    return "above" if value > median else "below" if value < median else "at"


def _number(value: float, unit: str) -> str:
    return f"{value:.4g} {unit}".rstrip() if unit != "1" else f"{value:.4g}"
