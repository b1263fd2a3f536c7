"""Bodies of log records as texts: of a string what it says, of a structure its message, bounded in size and work."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import numpy as np
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from otel_aiops.errors import BadInput
from otel_aiops.labels import text as as_text
from otel_aiops.otlp.attributes import value
from otel_aiops.otlp.keyed import KVLIST, RAW, TEXT, Keys, cut, read_any, read_values
from otel_aiops.otlp.points import I64, Bool
from otel_aiops.otlp.reader import Reader
from otel_aiops.otlp.wire import BYTES, NO_FIELD, by_message, walk
from otel_aiops.otlp.words import note

MESSAGES = ("message", "msg", "log", "event", "MESSAGE")  # the first of these keys that has a text is the message
DEEPEST = 16  # structures inside each other that are read
LARGEST_STRUCTURE = 4  # times the limit of bodies; what is larger is not read for its message

CUT = "a body is longer than the limit: it was cut"
NOT_UTF8 = "a body is not UTF-8: its bytes were replaced"
UNREADABLE = f"a structured body is nested more than {DEEPEST} levels deep or is not UTF-8: taken as empty"
LARGE = "a structured body is much larger than the limit: taken as empty"

_BODY = 5  # field of LogRecord
_KEYS = Keys(*MESSAGES)
_OPENS = ord("{")


class Bodies:
    """The bodies of the N records of a reader; those with a broken one are refused."""

    def __init__(self, reader: Reader, invalid: str, most_bytes: int) -> None:
        self._reader = reader
        self._most_bytes = most_bytes
        self._pieces = by_message(reader.field(_BODY, BYTES))
        self._kind, self._at, self._size, times, bad = read_any(reader.buffer, self._pieces, reader.n)
        broken = np.zeros(reader.n, bool)
        broken[self._pieces.message[bad]] = True
        self._take_messages(np.flatnonzero((self._kind == KVLIST) & (times == 1)), broken)
        reader.reject(broken, invalid)

    def texts(self, keep: I64, mended: Counter[str]) -> list[str]:
        """The texts of some records, (K,); "" for those without a body."""
        reader = self._reader
        kind, at, size = self._kind[keep], self._at[keep], self._size[keep]
        plain = (kind == TEXT) | (kind == RAW)  # bytes are read as text: some senders do not say which they mean
        opens = plain & (size > 1) & (size <= LARGEST_STRUCTURE * self._most_bytes) & (reader.buffer.u8[at] == _OPENS)
        short = cut(reader.buffer, at, np.where(plain, size, 0), self._most_bytes)
        note(mended, CUT, int(((short < size) & plain & ~opens).sum()))
        data = bytes(reader.data)
        slices = list(map(data.__getitem__, map(slice, at.tolist(), (at + short).tolist())))
        out = _decoded(slices, mended)
        for k in np.flatnonzero(opens).tolist():
            message = _message(out[k] if short[k] == size[k] else data[at[k] : at[k] + size[k]])
            if message is not None:
                out[k] = self._cut_text(message, mended)
            elif short[k] < size[k]:
                mended[CUT] += 1
        rest = np.flatnonzero(~plain & (kind > 0))
        for k, raw in zip(rest.tolist(), self._raws(keep[rest]), strict=True):
            out[k] = self._cut_text(self._structure(raw, mended), mended)
        return out

    def _take_messages(self, lists: I64, broken: Bool) -> None:
        """Where a structure has a message, make that the body, in place."""
        if not len(lists):
            return
        buffer = self._reader.buffer
        inner, bad = walk(buffer, self._at[lists], self._at[lists] + self._size[lists])
        broken[lists[bad]] = True
        pairs = by_message(inner.get((1, BYTES), NO_FIELD))
        values, bad = read_values(buffer, pairs, _KEYS, len(lists))
        broken[lists[bad]] = True
        at, size = values.places(*MESSAGES)
        found = size > 0
        own = lists[found]
        self._kind[own], self._at[own], self._size[own] = TEXT, at[found], size[found]

    def _raws(self, records: I64) -> list[bytes]:
        """The AnyValues of some records, their pieces joined."""
        pieces, data = self._pieces, self._reader.data
        places = list(zip(pieces.at.tolist(), (pieces.at + pieces.size).tolist(), strict=True))
        ends = np.searchsorted(pieces.message, [records, records + 1]).T.tolist()
        return [b"".join(data[at:end] for at, end in places[first:last]) for first, last in ends]

    def _structure(self, raw: bytes, mended: Counter[str]) -> str:
        """A body that is neither text nor has a message, as `labels.text` has it."""
        if len(raw) > LARGEST_STRUCTURE * self._most_bytes:
            mended[LARGE] += 1
            return ""
        try:
            found = value(AnyValue.FromString(raw))
        except (DecodeError, UnicodeDecodeError, BadInput):
            mended[UNREADABLE] += 1
            return ""
        if isinstance(found, tuple):
            pairs = {one[0]: one[1] for one in found if isinstance(one, tuple) and len(one) == 2}
            message = _first_text(pairs.get)  # of a map that came in pieces
            return _message(message) or message or as_text(found)
        return as_text(found)

    def _cut_text(self, text: str, mended: Counter[str]) -> str:
        if 4 * len(text) <= self._most_bytes:
            return text
        raw = text.encode(errors="replace")
        if len(raw) <= self._most_bytes:
            return text
        mended[CUT] += 1
        return raw[: self._most_bytes].decode(errors="ignore")


def _decoded(raws: list[bytes], mended: Counter[str]) -> list[str]:
    try:
        return [raw.decode() for raw in raws]
    except UnicodeDecodeError:
        pass
    out = []
    for raw in raws:
        try:
            out.append(raw.decode())
        except UnicodeDecodeError:
            mended[NOT_UTF8] += 1
            out.append(raw.decode(errors="replace"))
    return out


def _message(raw: str | bytes) -> str | None:
    """The message of a body that is a JSON object; None when it is no such object or has none."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    text = _first_text(found.get) if isinstance(found, dict) else ""
    if text and not text.isascii():
        text = text.encode(errors="replace").decode()  # JSON can escape half a character
    return text or None


def _first_text(get: Callable[[str], object]) -> str:
    found = (get(key) for key in MESSAGES)
    return next((one for one in found if isinstance(one, str) and one), "")
