"""Attributes of many messages at once: wanted keys are found by their bytes, only their values are looked at."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from otel_aiops.otlp.points import F64, I64, Bool
from otel_aiops.otlp.reader import last_region
from otel_aiops.otlp.wire import (
    BYTES,
    FIXED64,
    NO_FIELD,
    NONE,
    U64,
    VARINT,
    Buffer,
    Field,
    chosen,
    merged,
    walk,
)

TEXT, BOOL, INT, DOUBLE, ARRAY, KVLIST, RAW = 1, 2, 3, 4, 5, 6, 7  # fields of AnyValue
LONGEST_TEXT = 256  # bytes of an attribute's text that are read
_MEMBERS = (
    (TEXT, BYTES),
    (BOOL, VARINT),
    (INT, VARINT),
    (DOUBLE, FIXED64),
    (ARRAY, BYTES),
    (KVLIST, BYTES),
    (RAW, BYTES),
)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)  # of the bytes of a short key
_WHOLE = re.compile(rb"[0-9]{1,15}")


class Keys:
    """Wanted keys; a key's number is its place."""

    def __init__(self, *names: str) -> None:
        self.number = {name: number for number, name in enumerate(names)}
        raw = [name.encode() for name in names]
        data = b"".join(raw) + bytes(16)
        sizes = np.array([len(one) for one in raw], np.int64)
        prints = _fingerprints(Buffer(data), np.cumsum(sizes) - sizes, sizes)
        order = np.argsort(prints)
        self._prints, self._order, self._raw = prints[order], order.astype(np.int16), raw
        self._sizes = np.zeros(int(sizes.max()) + 2, bool)
        self._sizes[sizes] = True

    def find(self, buffer: Buffer, at: I64, size: I64) -> I64:
        """The numbers of R keys, -1 for those that are not wanted."""
        out = np.full(len(at), -1, np.int64)
        maybe = np.flatnonzero(self._sizes[np.minimum(size, len(self._sizes) - 1)])
        where, length = at[maybe], size[maybe]
        prints = _fingerprints(buffer, where, length)
        place = np.minimum(np.searchsorted(self._prints, prints), len(self._prints) - 1)
        same = np.flatnonzero(self._prints[place] == prints)
        code = self._order[place[same]].astype(np.int64)
        out[maybe[same]] = np.where(self._equal(buffer, code, where[same], length[same]), code, -1)
        return out

    def _equal(self, buffer: Buffer, code: I64, at: I64, size: I64) -> Bool:
        """Whether keys with the same fingerprint are the same in all their bytes."""
        out = np.zeros(len(code), bool)
        for number in np.flatnonzero(np.bincount(code, minlength=len(self._raw))).tolist():
            raw = self._raw[number]
            pick = np.flatnonzero((code == number) & (size == len(raw)))
            cells = buffer.u8[at[pick][:, None] + np.arange(len(raw))]
            out[pick] = (cells == np.frombuffer(raw, np.uint8)).all(axis=1)
        return out


def _fingerprints(buffer: Buffer, at: I64, size: I64) -> U64:
    """First and last eight bytes and the length of R keys, mixed."""
    mask = _MASKS[np.minimum(size, 8)]
    first = buffer.u64(at) & mask
    last = buffer.u64(at + np.maximum(size - 8, 0)) & mask
    return first * _MIX ^ last ^ size.astype(np.uint64)


class Regions:
    """Distinct byte strings of some places of a buffer, numbered in the order in which they came."""

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = data if isinstance(data, bytes) else bytes(data)
        self._number: dict[bytes, int] = {}

    def numbers(self, at: I64, size: I64) -> I64:
        """The numbers of R regions."""
        slices = list(map(self._data.__getitem__, map(slice, at.tolist(), (at + size).tolist())))
        for one in dict.fromkeys(slices):
            self._number.setdefault(one, len(self._number))
        return np.fromiter(map(self._number.__getitem__, slices), np.int64, len(slices))

    def __len__(self) -> int:
        return len(self._number)

    def all(self) -> list[bytes]:
        """The distinct byte strings by number."""
        return list(self._number)


@dataclass(frozen=True, slots=True)
class Values:
    """Values of wanted keys, in wire order for each owner.

    Shape: all (M,). `owner` says whose a value is, `key` which of the keys it has, `kind` which member of AnyValue it
    is, 0 for none; the payload is `at` .. `at + size`.
    """

    buffer: Buffer
    keys: Keys
    n: int  # owners
    owner: I64
    key: I64
    kind: I64
    at: I64
    size: I64

    def of(self, name: str) -> I64:
        """Which values have a key."""
        return np.flatnonzero(self.key == self.keys.number[name])

    def texts(self, regions: Regions, *names: str) -> I64:
        """The text that each owner has under the first of the keys that has one, as a number of `regions`; -1 for none.

        An empty text is none. Texts are cut at LONGEST_TEXT bytes.
        """
        out = np.full(self.n, -1, np.int64)
        for name in reversed(names):
            pick = self.of(name)
            pick = pick[(self.kind[pick] == TEXT) & (self.size[pick] > 0)]
            if len(pick):
                size = cut(self.buffer, self.at[pick], self.size[pick], LONGEST_TEXT)
                out[self.owner[pick]] = regions.numbers(self.at[pick], size)
        return out

    def places(self, *names: str) -> tuple[I64, I64]:
        """(where it begins, bytes) of the text that each owner has under the first of the keys that has one, (N,)."""
        at, size = np.zeros(self.n, np.int64), np.zeros(self.n, np.int64)
        for name in reversed(names):
            pick = self.of(name)
            pick = pick[(self.kind[pick] == TEXT) & (self.size[pick] > 0)]
            at[self.owner[pick]], size[self.owner[pick]] = self.at[pick], self.size[pick]
        return at, size

    def numbers(self, *names: str) -> F64:
        """The number that each owner has under the first of the keys that has one, whole numbers as text included."""
        out = np.full(self.n, np.nan)
        for name in reversed(names):
            pick = self.of(name)
            for kind, read in ((INT, self._ints), (BOOL, self._ints), (DOUBLE, self._doubles), (TEXT, self._wholes)):
                some = pick[self.kind[pick] == kind]
                if len(some):
                    found = read(some)
                    known = ~np.isnan(found)
                    out[self.owner[some[known]]] = found[known]
        return out

    def _ints(self, pick: I64) -> F64:
        value = self.buffer.varint(self.at[pick])[0]
        return value.astype(np.int64).astype(np.float64)

    def _doubles(self, pick: I64) -> F64:
        return self.buffer.f64(self.at[pick])

    def _wholes(self, pick: I64) -> F64:
        regions = Regions(self.buffer.data)
        number = regions.numbers(self.at[pick], np.minimum(self.size[pick], 16))
        found = [float(raw) if _WHOLE.fullmatch(raw) else np.nan for raw in regions.all()]
        return np.array(found, np.float64)[number]


def read_values(buffer: Buffer, pairs: Field, keys: Keys, n: int) -> tuple[Values, Bool]:
    """The values of wanted keys among KeyValue messages, of N owners.

    Shape:   `pairs` are the KeyValues; `pairs.message` are their owners, 0 .. n - 1, in wire order for each.
    Returns (values, (N,) which owners have a pair that is not valid protobuf). Values of other keys are not looked at.
    """
    broken = np.zeros(n, bool)
    inner, bad = walk(buffer, pairs.at, pairs.at + pairs.size)
    broken[pairs.message[bad]] = True
    key = keys.find(buffer, *last_region(inner.get((1, BYTES), NO_FIELD), len(pairs)))
    pieces = inner.get((2, BYTES), NO_FIELD)
    pieces = chosen(pieces, key[pieces.message] >= 0)
    if not len(pieces):
        return Values(buffer, keys, n, NONE, NONE, NONE, NONE, NONE), broken
    kind, at, size, bad = read_any(buffer, pieces, len(pairs))
    broken[pairs.message[pieces.message[bad]]] = True
    wanted = np.flatnonzero(key >= 0)
    own = wanted[_last(pairs.message[wanted] * len(keys.number) + key[wanted], n * len(keys.number))]
    own = own[kind[own] > 0]
    return Values(buffer, keys, n, pairs.message[own], key[own], kind[own], at[own], size[own]), broken


def read_any(buffer: Buffer, pieces: Field, n: int) -> tuple[I64, I64, I64, Bool]:
    """The members of N AnyValues that may each come in pieces: (kind, at, size) of the last, 0 for none.

    Also says which of the pieces are not valid protobuf, (R,).
    """
    inner, bad = walk(buffer, pieces.at, pieces.at + pieces.size)
    kind, at, size = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    found = [(tag, inner[tag]) for tag in _MEMBERS if tag in inner]
    owners = [pieces.message[one.message] for _, one in found]
    if (len(found) == 1 and (found[0][1].step == 0).all()) or not _twice(owners, n):
        for (tag, one), owner in zip(found, owners, strict=True):
            kind[owner], at[owner], size[owner] = tag[0], one.at, one.size
        return kind, at, size, bad
    every = merged(*(_tagged(one, tag[0]) for tag, one in found))
    owner = pieces.message[every.message]
    kind[owner], at[owner], size[owner] = every.tag, every.at, every.size
    return kind, at, size, bad


def _last(code: I64, most: int) -> Bool:
    """Which of R codes below `most` do not come again: the last of two equal keys counts."""
    place = np.empty(most, np.int64)
    index = np.arange(len(code))
    place[code] = index
    found: Bool = place[code] == index
    return found


def _twice(owners: list[I64], n: int) -> bool:
    return bool(owners) and bool((np.bincount(np.concatenate(owners), minlength=n) > 1).any())


def _tagged(found: Field, member: int) -> Field:
    """The same occurrences; `tag` says which member they are."""
    return Field(found.message, np.full(len(found), member, np.int64), found.at, found.size, found.step)


def cut(buffer: Buffer, at: I64, size: I64, most: int) -> I64:
    """Sizes of R texts, at most `most` bytes and not in the middle of a UTF-8 character, (R,)."""
    long = np.flatnonzero(size > most)
    if not len(long):
        return size
    size = size.copy()
    size[long] = most
    for _ in range(3):
        inside = (buffer.u8[at[long] + size[long]] & 0xC0) == 0x80
        long = long[inside]
        size[long] -= 1
    return size
