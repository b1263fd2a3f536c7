"""The protobuf wire format, walked for many messages at once with one numpy step per field position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
PADDING = 16  # zero bytes behind the last message, so that reading a varint or a fixed64 never leaves the buffer
LONGEST_VARINT = 10
LARGEST_FIELD = (1 << 29) - 1
LARGEST_KNOWN = 15  # no message that is walked has a larger field number, and so all their tags are one byte
MOST_FIELDS = 4096  # of one message; every step costs the time of a thousand bytes, however few messages take it
FEW = 48  # messages for which a step costs as much as reading the field of each by itself
NONE = np.empty(0, np.int64)
_TAGS = (LARGEST_KNOWN + 1) << 3
_SIZES = {FIXED64: 8, FIXED32: 4}
_COLUMNS = ("message", "tag", "at", "size", "step")


@dataclass(frozen=True, slots=True)
class Field:
    """All occurrences of one field, in wire order for each message.

    Shape: all (R,), one entry an occurrence. `message` says whose it is; `tag` is where its tag begins; the payload is
    `at` .. `at + size` (for a varint: the bytes of the varint). `step` is its position among the fields of its message.
    """

    message: I64
    tag: I64
    at: I64
    size: I64
    step: I64

    def __len__(self) -> int:
        return len(self.message)


NO_FIELD = Field(NONE, NONE, NONE, NONE, NONE)


class Buffer:
    """Bytes with unaligned 64-bit views; holds the padding."""

    def __init__(self, data: bytes | bytearray) -> None:
        """`data` must already end in PADDING zero bytes."""
        self.data = data
        self.u8: U8 = np.frombuffer(data, np.uint8)
        window = len(data) - 7
        self._u64: U64 = np.ndarray((window,), "<u8", data, 0, (1,))
        self._f64: F64 = np.ndarray((window,), "<f8", data, 0, (1,))
        self._i64: I64 = np.ndarray((window,), "<i8", data, 0, (1,))

    def u64(self, at: I64) -> U64:
        """The fixed64 at each position, (R,)."""
        return self._u64[at]

    def i64(self, at: I64) -> I64:
        """The sfixed64 at each position, (R,)."""
        return self._i64[at]

    def f64(self, at: I64) -> F64:
        """The double at each position, (R,)."""
        return self._f64[at]

    def varint(self, at: I64) -> tuple[U64, I64]:
        """(values, lengths) of the varints at each position, (R,); length 0 where one does not end in 10 bytes."""
        first = self.u8[at]
        size = np.ones(len(at), np.int64)
        open_ = (first >= 0x80).nonzero()[0]
        if not len(open_):
            return first.astype(np.uint64), size
        value = (first & 0x7F).astype(np.uint64)
        for position in range(1, LONGEST_VARINT):
            if not len(open_):
                return value, size
            byte = self.u8[np.minimum(at[open_] + position, len(self.u8) - 1)]
            value[open_] |= (byte & 0x7F).astype(np.uint64) << np.uint64(7 * position)
            size[open_] = position + 1
            open_ = open_[byte >= 0x80]
        size[open_] = 0
        return value, size


def walk(buffer: Buffer, start: I64, end: I64) -> tuple[dict[tuple[int, int], Field], Bool]:
    """Find every field of N messages that lie at `start` .. `end` of the buffer.

    Shape:  start, end (N,).
    Returns ({(field number, wire type): Field}, (N,) which messages are not valid protobuf or have more fields than
            MOST_FIELDS). Numbers above LARGEST_KNOWN are skipped. Fields of an invalid message may be among the first,
            up to where it breaks.
    Source: protobuf.dev, Encoding. Groups (wire types 3 and 4) are taken as invalid: OTLP has none.
    """
    bad = np.zeros(len(start), bool)
    found: dict[int, list[Field]] = {}
    who = np.flatnonzero(start < end)
    at = start[who]
    step = 0
    while len(who) > FEW and step < MOST_FIELDS:
        key, payload, broken = _tags(buffer, at)
        begin, size, torn = _extent(buffer, key, payload)
        stop = begin + size
        broken |= torn
        broken |= stop > end[who]
        if broken.any():
            bad[who[broken]] = True
            good = ~broken
            who, at, key, begin, size, stop = who[good], at[good], key[good], begin[good], size[good], stop[good]
            if not len(who):
                break
        _collect(found, key, Field(who, at, begin, size, np.full(len(who), step, np.int64)))
        more = stop < end[who]
        if more.all():
            at = stop
        else:
            who, at = who[more], stop[more]
        step += 1
    rest: dict[int, list[tuple[int, int, int, int, int]]] = {}
    for message, position in zip(who.tolist(), at.tolist(), strict=True):
        bad[message] = not _walk_one(rest, buffer.data, message, position, int(end[message]), step)
    for tag, rows in rest.items():
        found.setdefault(tag, []).append(Field(*np.array(rows, np.int64).T))
    return {(key >> 3, key & 7): _joined(parts) for key, parts in found.items()}, bad


def _walk_one(
    fields: dict[int, list[tuple[int, int, int, int, int]]],
    data: bytes | bytearray,
    message: int,
    at: int,
    end: int,
    step: int,
) -> bool:
    """The rest of one message, field by field: where few messages are left, numpy costs more than it saves."""
    while at < end and step < MOST_FIELDS:
        key, payload = _varint(data, at)
        kind, size = key & 7, 0
        if payload - at > 5 or not 8 <= key <= LARGEST_FIELD << 3 | 7:
            break
        if kind == VARINT:
            size = _varint(data, payload)[1] - payload
        elif kind == BYTES:
            size, payload = _varint(data, payload)
        else:
            size = _SIZES.get(kind, end)
        if payload + size > end or size < 0:
            break
        if key >> 3 <= LARGEST_KNOWN:
            fields.setdefault(key, []).append((message, at, payload, size, step))
        at = payload + size
        step += 1
    return at == end


def _varint(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """(value, where it ends) of one varint; the end is behind all data where it does not end in 10 bytes."""
    value = data[at]
    if value < 0x80:
        return value, at + 1
    value &= 0x7F
    for position in range(1, LONGEST_VARINT):
        byte = data[min(at + position, len(data) - 1)]
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + position + 1
    return 0, len(data) + 1


def _tags(buffer: Buffer, at: I64) -> tuple[U8 | U64, I64, Bool]:
    """(field number << 3 | wire type, where the tag ends, broken) of the fields that begin at R places."""
    tag = buffer.u8[at]
    if tag.max() < 0x80:  # so are all that are known
        return tag, at + 1, tag < 8
    key, size = buffer.varint(at)
    number = key >> np.uint64(3)
    return key, at + size, (size == 0) | (size > 5) | (number == 0) | (number > LARGEST_FIELD)


def _extent(buffer: Buffer, key: U8 | U64, payload: I64) -> tuple[I64, I64, Bool]:
    """(where the payload begins behind its length, bytes of it, broken) of the fields with these tags."""
    kind = (key & 7).astype(np.uint8)
    if (kind == kind[0]).all():
        return _EXTENTS[int(kind[0])](buffer, payload)
    begin, size, broken = payload.copy(), np.zeros(len(key), np.int64), np.zeros(len(key), bool)
    for wire_type in np.flatnonzero(np.bincount(kind)).tolist():
        pick = (kind == wire_type).nonzero()[0]
        begin[pick], size[pick], broken[pick] = _EXTENTS[wire_type](buffer, payload[pick])
    return begin, size, broken


def _varint_extent(buffer: Buffer, payload: I64) -> tuple[I64, I64, Bool]:
    size = buffer.varint(payload)[1]
    return payload, size, size == 0


def _bytes_extent(buffer: Buffer, payload: I64) -> tuple[I64, I64, Bool]:
    value, length = buffer.varint(payload)
    most = np.uint64(len(buffer.u8))
    return payload + length, np.minimum(value, most).astype(np.int64), (length == 0) | (value > most)


def _fixed_extent(size: int) -> Callable[[Buffer, I64], tuple[I64, I64, Bool]]:
    return lambda _, payload: (payload, np.full(len(payload), size, np.int64), np.zeros(len(payload), bool))


def _no_extent(_: Buffer, payload: I64) -> tuple[I64, I64, Bool]:
    return payload, np.zeros(len(payload), np.int64), np.ones(len(payload), bool)


_EXTENTS = {
    VARINT: _varint_extent,
    FIXED64: _fixed_extent(8),
    BYTES: _bytes_extent,
    3: _no_extent,
    4: _no_extent,
    FIXED32: _fixed_extent(4),
    6: _no_extent,
    7: _no_extent,
}


def _collect(found: dict[int, list[Field]], key: U8 | U64, fields: Field) -> None:
    """Put the fields of one step, one a message, to those of their tags."""
    if (key == key[0]).all():
        if key[0] < _TAGS:
            found.setdefault(int(key[0]), []).append(fields)
        return
    tags = key if key.dtype == np.uint8 else np.minimum(key, np.uint64(_TAGS)).astype(np.uint8)
    for one in np.flatnonzero(np.bincount(tags, minlength=_TAGS)[:_TAGS]).tolist():
        pick = (tags == one).nonzero()[0]
        found.setdefault(one, []).append(chosen(fields, pick))


def chosen(field: Field, pick: I64 | Bool) -> Field:
    """Some of the occurrences, by index or by mask."""
    return Field(field.message[pick], field.tag[pick], field.at[pick], field.size[pick], field.step[pick])


def _joined(parts: list[Field]) -> Field:
    if len(parts) == 1:
        return parts[0]
    columns = (np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS)
    return Field(*columns)


def spread(start: I64, count: I64, stride: int) -> I64:
    """Positions `start[i], start[i] + stride, …`, `count[i]` of them for each i, flat in order.

    >>> spread(np.array([10, 100]), np.array([2, 1]), 8).tolist()
    [10, 18, 100]
    """
    ends = np.cumsum(count)
    within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - count, count)
    return np.repeat(start, count) + stride * within


def merged(*fields: Field) -> Field:
    """Occurrences of several fields as one list, in wire order inside each message."""
    present = [field for field in fields if len(field)]
    if len(present) <= 1:
        return present[0] if present else NO_FIELD
    every = _joined(present)
    return chosen(every, np.lexsort((every.step, every.message)))


def by_message(field: Field) -> Field:
    """The same occurrences, those of one message side by side and in wire order."""
    return chosen(field, np.argsort(field.message, kind="stable"))


def zigzag(value: U64) -> I64:
    """sint32 from its varint; only the low 32 bits count, as in every protobuf implementation."""
    low = (value & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return (low >> 1) ^ -(low & 1)


def packed_varints(buffer: Buffer, at: I64, size: I64) -> tuple[U64, I64, Bool]:
    """Values of R packed varint regions: (flat values, how many in each region (R,), broken (R,))."""
    ends = np.cumsum(size)
    positions = spread(at, size, 1)
    byte = buffer.u8[positions]
    finish = np.flatnonzero(byte < 0x80)
    number_of = np.diff(np.searchsorted(finish, ends), prepend=0)
    broken = np.zeros(len(at), bool)
    filled = np.flatnonzero(size > 0)
    broken[filled] = byte[ends[filled] - 1] >= 0x80
    if len(finish) == len(byte):
        return byte.astype(np.uint64), number_of, broken
    if not broken.any():
        value, length = buffer.varint(positions[np.concatenate([[0], finish[:-1] + 1])])
        if length.all():
            return value, number_of, broken
        broken[np.repeat(np.arange(len(at)), number_of)[length == 0]] = True
    good = ~broken
    counts = np.zeros(len(at), np.int64)
    value, counts[good], _ = packed_varints(buffer, at[good], size[good])
    return value, counts, broken


def varint_bytes(value: int) -> bytes:
    """A varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field_bytes(number: int, payload: bytes) -> bytes:
    """A length-delimited field; `number` is at most 15."""
    return b"".join((bytes((number << 3 | BYTES,)), varint_bytes(len(payload)), payload))
