"""The protobuf wire format, walked for many messages at once with one numpy step per field position."""

from __future__ import annotations

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
NONE = np.empty(0, np.int64)


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
        value = (first & 0x7F).astype(np.uint64)
        size = np.ones(len(at), np.int64)
        open_ = np.flatnonzero(first >= 0x80)
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
    Returns ({(field number, wire type): Field}, (N,) which messages are not valid protobuf). Fields of an invalid
            message may be among the first, up to where it breaks.
    Source: protobuf.dev, Encoding. Groups (wire types 3 and 4) are taken as invalid: OTLP has none.
    """
    bad = np.zeros(len(start), bool)
    found: dict[tuple[int, int], list[tuple[I64, I64, I64, I64, int]]] = {}
    who = np.flatnonzero(start < end)
    at = start[who]
    step = 0
    while len(who):
        key, tag_size = buffer.varint(at)
        payload = at + tag_size
        size, skip, broken = _extent(buffer, key, payload)
        stop = payload + skip + size
        number = key >> np.uint64(3)
        broken |= (tag_size == 0) | (tag_size > 5) | (number == 0) | (number > LARGEST_FIELD) | (stop > end[who])
        if broken.any():
            bad[who[broken]] = True
            good = ~broken
            who, at, key, payload = who[good], at[good], key[good], payload[good]
            size, skip, stop = size[good], skip[good], stop[good]
            if not len(who):
                break
        _collect(found, who, at, key, payload + skip, size, step)
        more = stop < end[who]
        if more.all():
            at = stop
        else:
            who, at = who[more], stop[more]
        step += 1
    return {name: _joined(parts) for name, parts in found.items()}, bad


def _extent(buffer: Buffer, key: U64, payload: I64) -> tuple[I64, I64, Bool]:
    """(payload size, bytes of a length prefix before it, broken) of the fields with these tags."""
    kind = (key & np.uint64(7)).astype(np.int64)
    uniform = int(kind[0]) if (kind == kind[0]).all() else -1
    size = np.zeros(len(key), np.int64)
    skip = np.zeros(len(key), np.int64)
    broken = np.zeros(len(key), bool)
    for wire_type in (VARINT, FIXED64, BYTES, FIXED32):
        if uniform not in (-1, wire_type):
            continue
        pick = slice(None) if uniform == wire_type else np.flatnonzero(kind == wire_type)
        if wire_type == FIXED64:
            size[pick] = 8
        elif wire_type == FIXED32:
            size[pick] = 4
        else:
            value, length = buffer.varint(payload[pick])
            broken[pick] = length == 0
            if wire_type == VARINT:
                size[pick] = length
            else:
                broken[pick] |= value > np.uint64(len(buffer.u8))
                size[pick] = np.minimum(value, np.uint64(len(buffer.u8))).astype(np.int64)
                skip[pick] = length
    broken |= (kind == 3) | (kind == 4) | (kind > 5)
    return size, skip, broken


def _collect(
    found: dict[tuple[int, int], list[tuple[I64, I64, I64, I64, int]]],
    who: I64,
    tag: I64,
    key: U64,
    at: I64,
    size: I64,
    step: int,
) -> None:
    if (key == key[0]).all():
        first = int(key[0])
        found.setdefault((first >> 3, first & 7), []).append((who, tag, at, size, step))
        return
    for one in np.unique(key).tolist():
        pick = np.flatnonzero(key == np.uint64(one))
        part = (who[pick], tag[pick], at[pick], size[pick], step)
        found.setdefault((one >> 3, one & 7), []).append(part)


def _joined(parts: list[tuple[I64, I64, I64, I64, int]]) -> Field:
    if len(parts) == 1:
        who, tag, at, size, step = parts[0]
        return Field(who, tag, at, size, np.full(len(who), step, np.int64))
    steps = np.repeat([part[4] for part in parts], [len(part[0]) for part in parts])
    who, tag, at, size = (np.concatenate([part[i] for part in parts]) for i in range(4))
    return Field(who, tag, at, size, steps)


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
    message, tag, at, size, step = (
        np.concatenate([getattr(field, name) for field in present]) for name in ("message", "tag", "at", "size", "step")
    )
    order = np.lexsort((step, message))
    return Field(message[order], tag[order], at[order], size[order], step[order])


def by_message(field: Field) -> Field:
    """The same occurrences, those of one message side by side and in wire order."""
    order = np.argsort(field.message, kind="stable")
    return Field(field.message[order], field.tag[order], field.at[order], field.size[order], field.step[order])


def zigzag(value: U64) -> I64:
    """sint32 from its varint; only the low 32 bits count, as in every protobuf implementation."""
    low = (value & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return (low >> 1) ^ -(low & 1)


def packed_varints(buffer: Buffer, at: I64, size: I64) -> tuple[U64, I64, Bool]:
    """Values of R packed varint regions: (flat values, how many in each region (R,), broken (R,))."""
    positions = spread(at, size, 1)
    byte = buffer.u8[positions]
    region = np.repeat(np.arange(len(at)), size)
    last = byte < 0x80
    ends = np.cumsum(size)
    broken = np.zeros(len(at), bool)
    filled = size > 0
    broken[filled] = ~last[ends[filled] - 1]
    keep = ~broken[region]
    positions, last, region = positions[keep], last[keep], region[keep]
    finish = np.flatnonzero(last)
    begin = np.concatenate([[0], finish[:-1] + 1]).astype(np.int64) if len(finish) else NONE
    value, length = buffer.varint(positions[begin]) if len(begin) else (np.empty(0, np.uint64), NONE)
    owner = region[begin]
    broken[owner[length == 0]] = True
    good = ~broken[owner]
    return value[good], np.bincount(owner[good], minlength=len(at)).astype(np.int64), broken


def varint_bytes(value: int) -> bytes:
    """A varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
