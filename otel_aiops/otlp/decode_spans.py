"""OTLP traces to columns: protobuf slices a request into spans, numpy reads all of them at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields

import numpy as np

from otel_aiops.otlp import flags
from otel_aiops.otlp.columns import concatenated
from otel_aiops.otlp.conventions import ERROR_TYPE, SPAN_KEYS, failed, peers
from otel_aiops.otlp.envelope import count_lost, items
from otel_aiops.otlp.keyed import Keys, Regions, read_values
from otel_aiops.otlp.points import F64, I32, I64, Bool
from otel_aiops.otlp.reader import LARGEST_TIME, Reader, last_region
from otel_aiops.otlp.sampling import weights
from otel_aiops.otlp.spans import U8, U64, DecodedSpans, SpanKind, Spans
from otel_aiops.otlp.wire import BYTES, FIXED64, MOST_FIELDS, NO_FIELD, VARINT, by_message, chosen, walk
from otel_aiops.otlp.words import Words

CHUNK = 16_384  # spans that are read at once: what that takes stays small, and near the processor
LONGEST_S = 30 * 86_400.0  # of a span; who sends a longer one has lost its start

INVALID = f"span is not valid protobuf or has more than {MOST_FIELDS} fields"
BAD_TRACE = "trace id is not 16 bytes, or is zero"
BAD_SPAN = "span id is not 8 bytes, or is zero"
NO_TIME = "neither start nor end of the span is set"
FAR_TIME = "a time is beyond the year 2262"
LONG_SPAN = "span is longer than 30 days"
BAD_PARENT = "parent span id is not 8 bytes: taken as a span without parent"
ONE_TIME = "start or end of the span is not set: taken as a span without duration"
BACKWARDS = "span ends before it starts: taken as a span without duration"
NO_NAME = "span has no name"
BAD_KIND = "span kind is not known: taken as unspecified"
BAD_EVENT = "time of a span event is not set or beyond the year 2262: taken as the start of the span"
ABSURD_WEIGHT = "sampling probability is not in 0.000001 .. 1: the span counts once"

_KEYS = Keys(*SPAN_KEYS)
_EVENT_KEYS = Keys("exception.type")
_EVENT_NAMES = Keys("exception")
_FLAG_NAMES = Keys(*(name.decode() for name in flags.NAMES))


def decode_traces(body: bytes) -> DecodedSpans:
    """Read an ExportTraceServiceRequest without touching its spans one by one.

    Spans are in request order, their events in wire order. A span that cannot be used is left out and counted under
    its reason; what can be mended is, and is counted too.

    Raises: BadInput if the body is not a traces request.
    """
    rejected: Counter[str] = Counter()
    mended: Counter[str] = Counter()
    found = items(body, "traces")
    count_lost(found, rejected, mended)
    words = Words(mended)
    resource = found.resource
    columns = [
        _read(found.raws[at : at + CHUNK], resource[at : at + CHUNK], words, rejected, mended)
        for at in range(0, max(len(found.raws), 1), CHUNK)
    ]
    return DecodedSpans(_joined(columns, words.all(), tuple(found.resources)), dict(rejected), dict(mended))


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns of Spans, of some of its spans; `event_span` counts from the first of them."""

    resource: I32
    trace_high: U64
    trace_low: U64
    span: U64
    parent: U64
    name: I32
    kind: U8
    start_ns: I64
    end_ns: I64
    error: Bool
    exception: I32
    peer: I32
    peer_kind: U8
    weight: F64
    event_span: I64
    event_ns: I64
    event_name: I32


_EVENTS = ("event_span", "event_ns", "event_name")
_NAMES = tuple(one.name for one in fields(_Columns))


def _joined(parts: list[_Columns], words: tuple[str, ...], resources: tuple[bytes, ...]) -> Spans:
    offset = np.cumsum([0, *(len(part.span) for part in parts)])
    columns = {
        name: concatenated([getattr(part, name) for part in parts], np.int64) for name in _NAMES if name != "event_span"
    }
    owner = concatenated([part.event_span + at for part, at in zip(parts, offset.tolist(), strict=False)], np.int64)
    return Spans(words=words, resources=resources, event_span=owner, **columns)


def _read(raws: list[bytes], resource: I32, words: Words, rejected: Counter[str], mended: Counter[str]) -> _Columns:
    """The columns of some spans; those that are refused are left out."""
    reader = Reader(raws, INVALID, FAR_TIME)
    notes = _Notes(mended)
    trace_high, trace_low, span, parent = _ids(reader, notes)
    start_ns, end_ns = _times(reader, notes)
    kind = _kind(reader, notes)
    values, broken = read_values(reader.buffer, reader.field(9, BYTES), _KEYS, reader.n)
    reader.reject(broken, INVALID)
    code = _status(reader)
    events = _Events(reader, start_ns, notes)
    weight, absurd = weights(reader, values)
    notes.add(absurd, ABSURD_WEIGHT)
    good = reader.reason == 0
    # What is in words is final, so refused spans must not put anything there.
    at, size = reader.region(5)
    notes.add(size == 0, NO_NAME)
    names = Regions(reader.data)
    name = words.regions(reader.buffer, names, at, np.where(good, size, 0))
    texts = Regions(reader.data)
    error = failed(values, texts, kind, code)
    exception = words.raws(texts, np.where(good, values.texts(texts, *ERROR_TYPE), -1))
    exception = np.where(exception < 0, events.exceptions(words, good), exception)
    peer, peer_kind = peers(values, texts, words, kind, good)
    columns = _Columns(
        resource=resource,
        trace_high=trace_high,
        trace_low=trace_low,
        span=span,
        parent=parent,
        name=name,
        kind=kind,
        start_ns=start_ns,
        end_ns=end_ns,
        error=error,
        exception=exception,
        peer=peer,
        peer_kind=peer_kind,
        weight=weight,
        event_span=events.owner,
        event_ns=events.time_ns,
        event_name=events.names(words, good),
    )
    notes.count(good)
    if good.all():
        return columns
    reader.count_reasons(rejected)
    return _keep(columns, good)


def _keep(columns: _Columns, good: Bool) -> _Columns:
    """Some of the spans, and their events."""
    mine = good[columns.event_span]
    number = np.cumsum(good) - 1
    kept = {name: getattr(columns, name)[mine if name in _EVENTS else good] for name in _NAMES}
    kept["event_span"] = number[kept["event_span"]]
    return _Columns(**kept)


class _Notes:
    """What was mended in which spans; only spans that are kept are counted."""

    def __init__(self, mended: Counter[str]) -> None:
        self._mended = mended
        self._found: list[tuple[str, Bool]] = []

    def add(self, which: Bool, reason: str) -> None:
        if which.any():
            self._found.append((reason, which))

    def count(self, good: Bool) -> None:
        for reason, which in self._found:
            times = int((which & good).sum())
            if times:
                self._mended[reason] += times


def _ids(reader: Reader, notes: _Notes) -> tuple[U64, U64, U64, U64]:
    high, low, _ = reader.identity(1, 16)
    reader.reject((high == 0) & (low == 0), BAD_TRACE)
    _, span, _ = reader.identity(2, 8)
    reader.reject(span == 0, BAD_SPAN)
    _, parent, odd = reader.identity(4, 8)
    notes.add(odd, BAD_PARENT)
    return high, low, span, parent


def _times(reader: Reader, notes: _Notes) -> tuple[I64, I64]:
    start, end = reader.time(7), reader.time(8)
    reader.reject((start == 0) & (end == 0), NO_TIME)
    notes.add((start == 0) != (end == 0), ONE_TIME)
    start = np.where(start == 0, end, start)
    end = np.where(end == 0, start, end)
    reader.reject(end - start > LONGEST_S * 1e9, LONG_SPAN)
    notes.add(end < start, BACKWARDS)
    return start, np.maximum(start, end)


def _kind(reader: Reader, notes: _Notes) -> U8:
    kind = reader.varint(6)
    unknown = kind > max(SpanKind)
    notes.add(unknown, BAD_KIND)
    return np.where(unknown, SpanKind.UNSPECIFIED, kind).astype(np.uint8)


def _status(reader: Reader) -> I64:
    """The code of the status of each span, 0 where it is unset."""
    found = reader.field(15, BYTES)
    out = np.zeros(reader.n, np.int64)
    inner, bad = walk(reader.buffer, found.at, found.at + found.size)
    _reject_owners(reader, found.message[bad])
    code = inner.get((3, VARINT), NO_FIELD)
    order = np.lexsort((code.step, code.message))  # a status may come in pieces
    out[found.message[code.message[order]]] = reader.buffer.varint(code.at[order])[0].astype(np.int64)
    return out


def _reject_owners(reader: Reader, owners: I64) -> None:
    if len(owners):
        broken = np.zeros(reader.n, bool)
        broken[owners] = True
        reader.reject(broken, INVALID)


class _Events:
    """The events of spans: side by side for each span, in wire order."""

    def __init__(self, reader: Reader, start_ns: I64, notes: _Notes) -> None:
        self._reader = reader
        found = by_message(reader.field(11, BYTES))
        self.owner, self._at, self._size = found.message, found.at, found.size
        self._fields, bad = walk(reader.buffer, found.at, found.at + found.size)
        _reject_owners(reader, found.message[bad])
        self._name_at, self._name_size = last_region(self._fields.get((2, BYTES), NO_FIELD), len(found))
        self.time_ns = self._times(start_ns, notes)
        self._type_at, self._type_size = self._types()

    def names(self, words: Words, good: Bool) -> I32:
        """The words that name the events, (E,); -1 for those of spans that are not good."""
        size = np.where(good[self.owner], self._name_size, 0)
        found = words.regions(self._reader.buffer, Regions(self._reader.data), self._name_at, size)
        evaluated = np.flatnonzero(_FLAG_NAMES.find(self._reader.buffer, self._name_at, size) >= 0)
        for k in evaluated[: flags.MOST].tolist():
            at = int(self._at[k])
            name = flags.of_event(bytes(self._reader.data[at : at + int(self._size[k])]))
            found[k] = words.number(name, 1) if name else found[k]
        return found

    def exceptions(self, words: Words, good: Bool) -> I32:
        """The type of the last exception event of each span, (N,), -1 where there is none or the span is not good."""
        at, size = np.zeros(self._reader.n, np.int64), np.zeros(self._reader.n, np.int64)
        some = np.flatnonzero(self._type_size > 0)
        at[self.owner[some]], size[self.owner[some]] = self._type_at[some], self._type_size[some]
        return words.regions(self._reader.buffer, Regions(self._reader.data), at, np.where(good, size, 0))

    def _times(self, start_ns: I64, notes: _Notes) -> I64:
        found = self._fields.get((1, FIXED64), NO_FIELD)
        raw = np.zeros(len(self.owner), np.uint64)
        raw[found.message] = self._reader.buffer.u64(found.at)
        bad = (raw == 0) | (raw > LARGEST_TIME)
        spans = np.zeros(self._reader.n, bool)
        spans[self.owner[bad]] = True
        notes.add(spans, BAD_EVENT)
        return np.where(bad, start_ns[self.owner], raw.astype(np.int64))

    def _types(self) -> tuple[I64, I64]:
        """(where it begins, bytes) of exception.type of the events that are exceptions, (E,)."""
        n = len(self.owner)
        exception = _EVENT_NAMES.find(self._reader.buffer, self._name_at, self._name_size) >= 0
        pairs = self._fields.get((3, BYTES), NO_FIELD)
        pairs = chosen(pairs, exception[pairs.message])
        values, broken = read_values(self._reader.buffer, pairs, _EVENT_KEYS, n)
        _reject_owners(self._reader, self.owner[broken])
        return values.places("exception.type")
