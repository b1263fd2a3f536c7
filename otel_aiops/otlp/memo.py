"""The memo of metrics that come again and again: all but their numbers is known, so the numbers are at known places."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from threading import Lock

import numpy as np

from otel_aiops.otlp.columns import Columns, concatenated, keep
from otel_aiops.otlp.points import I64, Bool, Kind, Stream
from otel_aiops.otlp.wire import PADDING, varint_bytes

START_TAG, TIME_TAG, DOUBLE_TAG, INTEGER_TAG = 0x11, 0x19, 0x21, 0x31  # of NumberDataPoint: fixed64 fields 2, 3, 4, 6
LONGEST_PAUSE = 63  # sights of a metric between two attempts to learn it
_KEY_BYTES = 1000  # of an entry without its points


@dataclass(frozen=True, slots=True)
class Known:
    """The points of a gauge or sum as they were seen: everything but their numbers.

    `skeleton` is the raw Data message with zeros in place of the numbers. `at` is where each point's time is in it;
    nine bytes behind is the value, an integer or not, and nine before the start where there is one.
    """

    stream: Stream
    skeleton: bytes
    at: I64
    started: Bool
    integer: Bool
    attributes: list[bytes]


Key = tuple[bytes, bytes, bytes, bytes, Kind, int]  # resource, scope, name, unit, kind, size of the Data message


class Memo:
    """Gauges and sums whose points the walk has found to be times, a value and attributes, and nothing else.

    Senders repeat the attributes of a metric's series in every request: all but the numbers is the same, and need not
    be walked again. It only saves time: what is decoded does not depend on it. Bounded; when it is full it starts anew.
    For any number of threads.
    """

    def __init__(self, limit_bytes: int = 256 << 20) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._known: dict[Key, Known] = {}
        self._pauses: dict[Key, tuple[int, int]] = {}  # sights until a metric is learned again, and the pause's length
        self._lock = Lock()

    def get(self, key: Key) -> Known | None:
        """What was seen under a key, if anything was."""
        return self._known.get(key)

    def wants(self, key: Key) -> bool:
        """Whether to learn a metric at this sight of it."""
        left, length = self._pauses.get(key, (0, 0))
        if left:
            self._pauses[key] = left - 1, length
        return not left

    def add(self, key: Key, known: Known) -> None:
        """Remember a metric."""
        with self._lock:
            self._drop(key)
            if self.size_bytes + _weight(known) > self.limit_bytes:
                self._known, self._pauses, self.size_bytes = {}, {}, 0
            self._known[key] = known
            self.size_bytes += _weight(known)

    def refute(self, key: Key) -> None:
        """Forget a metric that came otherwise, for longer every time: some senders never keep an order of series."""
        with self._lock:
            self._drop(key)
            if key in self._pauses:
                length = min(2 * self._pauses[key][1] + 1, LONGEST_PAUSE)
                self._pauses[key] = length, length
            else:
                self._pauses[key] = 0, 0
                self.size_bytes += _KEY_BYTES

    def _drop(self, key: Key) -> None:
        before = self._known.pop(key, None)
        if before is not None:
            self.size_bytes -= _weight(before)


def _weight(known: Known) -> int:
    """Bytes that a known metric takes, nearly: its attributes stand in the skeleton and by themselves."""
    return _KEY_BYTES + 2 * len(known.skeleton) + 50 * len(known.attributes)


@dataclass(frozen=True, slots=True)
class Lesson:
    """A metric that the memo does not know: its key, stream and raw Data."""

    key: Key
    stream: Stream
    raw: bytes


@dataclass(slots=True)
class Recalled:
    """Metrics that look like some in the memo, with their raw Data."""

    streams: list[int] = field(default_factory=list)
    raws: list[bytes] = field(default_factory=list)
    known: list[Known] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)


def read_recalled(recalled: Recalled) -> tuple[Columns, list[int]]:
    """Columns of metrics whose bytes are those of the memo but for the numbers, and which metrics are not so."""
    counts = np.array([len(one.attributes) for one in recalled.known], np.int64)
    data = bytearray().join([*recalled.raws, bytes(PADDING)])
    ends = np.cumsum([0, *map(len, recalled.raws)])
    offset = np.repeat(ends[:-1], counts)
    at = offset + concatenated([one.at for one in recalled.known], np.int64)
    started = np.flatnonzero(concatenated([one.started for one in recalled.known], np.bool_))
    integer = np.flatnonzero(concatenated([one.integer for one in recalled.known], np.bool_))
    words = np.ndarray((len(data) - 7,), "<i8", data, 0, (1,))
    value_at, start_at = at + 9, at[started] - 9
    time_ns, bits = words[at], words[value_at]
    start_ns = np.zeros(len(at), np.int64)
    start_ns[started] = words[start_at]
    words[at], words[value_at], words[start_at] = 0, 0, 0
    value = bits.view(np.float64).copy()
    value[integer] = bits[integer].astype(np.float64)
    columns = Columns(
        stream=np.repeat(np.array(recalled.streams, np.int32), counts),
        attributes=list(chain.from_iterable(one.attributes for one in recalled.known)),
        start_ns=start_ns,
        time_ns=time_ns,
        value=value,
        count=np.full(len(at), np.nan),
        stale=np.zeros(len(at), bool),
        bounds=None,
        cells=np.empty(0),
        sizes=np.zeros(len(at), np.int64),
    )
    same = list(map(data.startswith, [one.skeleton for one in recalled.known], ends.tolist()))
    impossible = (time_ns <= 0) | (start_ns < 0)  # unset, or beyond 2262
    if all(same) and not impossible.any():
        return columns, []
    owner = np.repeat(np.arange(len(counts)), counts)
    wrong = np.bincount(owner, impossible, len(same)).astype(bool) | ~np.array(same, bool)
    return keep(columns, ~wrong[owner]), np.flatnonzero(wrong).tolist()


def learn(lesson: Lesson, points: list[bytes], attributes: list[bytes]) -> Known | None:
    """What to know of a metric; None when its points are not start (optional), time, value, attributes, one by one."""
    at, begin = [], 0
    for point, own in zip(points, attributes, strict=True):
        head = b"\x0a" + varint_bytes(len(point))
        end = begin + len(head) + len(point)
        time_at = 9 * (point[:1] == b"\x11")
        tags = point[time_at : time_at + 1] + point[time_at + 9 : time_at + 10]
        if tags not in _USUAL or point[time_at + 18 :] != own or lesson.raw[begin:end] != head + point:
            return None
        at.append(begin + len(head) + time_at + 1)
        begin = end
    places = np.array(at, np.int64)
    skeleton = bytearray(lesson.raw)
    started = np.array([point[0] == START_TAG for point in points], bool)
    integer = np.array([lesson.raw[place + 8] == INTEGER_TAG for place in at], bool)
    words = np.ndarray((len(skeleton) - 7,), "<i8", skeleton, 0, (1,))
    words[places], words[places + 9], words[places[started] - 9] = 0, 0, 0
    return Known(lesson.stream, bytes(skeleton), places, started, integer, attributes)


_USUAL = (bytes((TIME_TAG, DOUBLE_TAG)), bytes((TIME_TAG, INTEGER_TAG)))
