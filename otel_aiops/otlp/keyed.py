"""Attributes of many messages at once: wanted keys are found by their bytes, only their values are looked at."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import F64, I64, Bool
from otel_aiops.otlp.reader import last_region
from otel_aiops.otlp.wire import (
    BYTES,
    FIXED64,
    NO_FIELD,
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
_KEY_TAG, _VALUE_TAG = 1 << 3 | BYTES, 2 << 3 | BYTES
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
        self._prints, self._order = prints[order], order
        self._windows = [_windows(one) for one in raw]
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
        code = self._order[place[same]]
        out[maybe[same]] = np.where(self._equal(buffer, code, where[same], length[same]), code, -1)
        return out

    def _equal(self, buffer: Buffer, code: I64, at: I64, size: I64) -> Bool:
        """Whether keys with the same fingerprint are the same in all their bytes."""
        out = np.zeros(len(code), bool)
        for number in np.flatnonzero(np.bincount(code, minlength=len(self._windows))).tolist():
            length, windows = self._windows[number]
            pick = np.flatnonzero((code == number) & (size == length))
            where, same = at[pick], np.ones(len(pick), bool)
            for offset, mask, expected in windows:
                same &= (buffer.u64(where + offset) & mask) == expected
            out[pick] = same
        return out


def _windows(raw: bytes) -> tuple[int, list[tuple[int, np.uint64, np.uint64]]]:
    """The length of a key, and (offset, mask, number) of the eight bytes that must stand in some of its places."""
    offsets = sorted({*range(0, len(raw) - 7, 8), max(len(raw) - 8, 0)})
    return len(raw), [
        (at, _MASKS[min(len(raw), 8)], np.uint64(int.from_bytes(raw[at : at + 8], "little"))) for at in offsets
    ]


def _fingerprints(buffer: Buffer, at: I64, size: I64) -> U64:
    """First and last eight bytes and the length of R keys, mixed."""
    mask = _MASKS[np.minimum(size, 8)]
    mixed: U64 = (buffer.u64(at) & mask) * _MIX
    mixed ^= buffer.u64(at + np.maximum(size - 8, 0)) & mask
    mixed ^= size.astype(np.uint64)
    return mixed


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
    key: NDArray[np.int8]
    kind: I64
    at: I64
    size: I64

    def of(self, name: str) -> I64:
        """Which values have a key."""
        return np.flatnonzero(self.key == self.keys.number[name])

    def texts(self, regions: Regions, *names: str, of: Bool | None = None) -> I64:
        """The text that each owner has under the first of the keys that has one, as a number of `regions`; -1 for none.

        An empty text is none. Texts are cut at LONGEST_TEXT bytes. Only owners that are in `of`, (N,), are asked.
        """
        out = np.full(self.n, -1, np.int64)
        for name in reversed(names):
            pick = self.of(name)
            pick = pick[(self.kind[pick] == TEXT) & (self.size[pick] > 0)]
            if of is not None:
                pick = pick[of[self.owner[pick]]]
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
    key, at, size, usual = _usual_pairs(buffer, pairs, keys)
    wanted = np.flatnonzero(key >= 0)
    kind, at, size, plain = _usual_values(buffer, at[wanted], size[wanted])
    odd = wanted[~plain]
    found = pairs.message[wanted], key[wanted], kind, at, size
    if not usual.all() or len(odd):
        usual[odd] = False
        rare = np.flatnonzero(~usual)
        more, bad = _walk_pairs(buffer, chosen(pairs, rare), keys)
        broken[pairs.message[rare[bad]]] = True
        found = _in_place(found, wanted[plain], plain, (pairs.message[rare], *more), rare)
    owner, key, kind, at, size = found
    own = _last(owner * len(keys.number) + key, n * len(keys.number)) & (kind > 0)
    return Values(buffer, keys, n, owner[own], key[own].astype(np.int8), kind[own], at[own], size[own]), broken


def _usual_pairs(buffer: Buffer, pairs: Field, keys: Keys) -> tuple[I64, I64, I64, Bool]:
    """(number of the key or -1, where its value begins, bytes of it, whether that is sure) of R KeyValues.

    Sure are those that are written as all known senders write them: the key, then the value, nothing else.
    """
    end = pairs.at + pairs.size
    edge = len(buffer.u8) - 4
    key_size = buffer.u8[pairs.at + 1].astype(np.int64)
    value = np.minimum(pairs.at + 2 + key_size, edge)
    at, size = _sized(buffer, value + 1)
    usual = (buffer.u8[pairs.at] == _KEY_TAG) & (key_size < 0x80) & (buffer.u8[value] == _VALUE_TAG)
    usual &= at + size == end
    return keys.find(buffer, pairs.at + 2, np.where(usual, key_size, 0)), at, size, usual


def _usual_values(buffer: Buffer, at: I64, size: I64) -> tuple[I64, I64, I64, Bool]:
    """(member, where its payload begins, bytes of it, whether that is sure) of R AnyValues with one field each."""
    tag = buffer.u8[at]
    kind = (tag >> 3).astype(np.int64)
    text_at, text_size = _sized(buffer, at + 1)
    sure = (tag == TEXT << 3 | BYTES) & (text_at + text_size == at + size)
    whole = np.flatnonzero((tag == INT << 3 | VARINT) | (tag == BOOL << 3 | VARINT))
    sure[whole] = buffer.varint(at[whole] + 1)[1] == size[whole] - 1
    sure |= (tag == DOUBLE << 3 | FIXED64) & (size == 9)
    sure &= size > 0
    is_text = kind == TEXT
    return kind, np.where(is_text, text_at, at + 1), np.where(is_text, text_size, size - 1), sure


def _sized(buffer: Buffer, at: I64) -> tuple[I64, I64]:
    """(where a payload begins, bytes of it) by the length that stands at R places, if that has one or two bytes."""
    size = buffer.u8[at].astype(np.int64)
    long = np.flatnonzero(size >= 0x80)
    at = at + 1
    if len(long):
        size[long] += (buffer.u8[at[long]].astype(np.int64) << 7) - 0x80
        size[long[buffer.u8[at[long]] >= 0x80]] = -1  # longer ones are no usual ones
        at[long] += 1
    return at, size


_Found = tuple[I64, I64, I64, I64, I64]  # owner, key, kind, at, size


def _in_place(usual: _Found, usual_at: I64, plain: Bool, rare: _Found, rare_at: I64) -> _Found:
    """Usual and rare pairs together, in the order in which they stood."""
    order = np.argsort(np.concatenate([usual_at, rare_at]), kind="stable")
    owner, key, kind, at, size = (np.concatenate([a[plain], b])[order] for a, b in zip(usual, rare, strict=True))
    wanted = key >= 0
    return owner[wanted], key[wanted], kind[wanted], at[wanted], size[wanted]


def _walk_pairs(buffer: Buffer, pairs: Field, keys: Keys) -> tuple[tuple[I64, I64, I64, I64], Bool]:
    """((key, kind, at, size), which are not valid protobuf) of R KeyValues however they are written, (R,) each."""
    inner, bad = walk(buffer, pairs.at, pairs.at + pairs.size)
    key = keys.find(buffer, *last_region(inner.get((1, BYTES), NO_FIELD), len(pairs)))
    pieces = inner.get((2, BYTES), NO_FIELD)
    pieces = chosen(pieces, key[pieces.message] >= 0)
    kind, at, size, _, broken = read_any(buffer, pieces, len(pairs))
    bad[pieces.message[broken]] = True
    return (key, kind, at, size), bad


def read_any(buffer: Buffer, pieces: Field, n: int) -> tuple[I64, I64, I64, I64, Bool]:
    """The members of N AnyValues that may each come in pieces: (kind, at, size) of the last, 0 for none, (N,) each.

    Also says how many members each has, (N,), and which of the pieces are not valid protobuf, (R,).
    """
    inner, bad = walk(buffer, pieces.at, pieces.at + pieces.size)
    kind, at, size = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    every = merged(*(_tagged(inner[tag], tag[0]) for tag in _MEMBERS if tag in inner))
    if len(every):
        every = chosen(every, np.lexsort((every.step, every.message)))
    owner = pieces.message[every.message]
    kind[owner], at[owner], size[owner] = every.tag, every.at, every.size
    return kind, at, size, np.bincount(owner, minlength=n), bad


def _last(code: I64, most: int) -> Bool:
    """Which of R codes below `most` do not come again: the last of two equal keys counts."""
    place = np.empty(most, np.int64)
    index = np.arange(len(code))
    place[code] = index
    found: Bool = place[code] == index
    return found


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
