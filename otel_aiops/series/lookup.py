"""The lookup: raw bytes of streams and attributes, in every way that they are written, to rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise, repeat

import numpy as np

from otel_aiops.errors import BadInput
from otel_aiops.otlp.points import I32, Points, Stream
from otel_aiops.series.identity import Identifier, OwnSeries, series_digest

CACHE_BYTES = 64 << 20  # other ways to write known series, and what has no row, are remembered up to here
CACHE_ENTRY_BYTES = 200  # what an entry costs beside its bytes

# What is found instead of a row. MISS is for the table to resolve, the others are counted under their names.
MISS, REFUSED, BAD, OWN, IGNORED, OVERSIZED, ENDED = -1, -2, -3, -4, -5, -6, -7
VERDICTS = {
    REFUSED: "refused",  # the table is full
    BAD: "bad_attributes",  # attributes, resource or scope are not valid OTLP
    OWN: "own",  # our own output that came back
    IGNORED: "ignored",  # by name, as configured
    OVERSIZED: "oversized",  # labels are over the limit
    ENDED: "unknown_end",  # a series that was never seen says that it ends
}


@dataclass(slots=True, eq=False)
class Entry:
    """A stream: how its raw attributes find their row. `default` is what all others find.

    `id` is its number while it has series, else -1; `stream` is then as the first of them was written.
    """

    stream: Stream
    digest: bytes = b""
    rows: dict[bytes, int] = field(default_factory=dict)
    default: int = MISS
    id: int = -1
    series: int = 0


class Lookup:
    """Raw bytes that were seen before find their row with one dict lookup, others by a digest of what they mean.

    What is kept beyond one entry a series is bounded, can be dropped at any time, and never changes a result.
    """

    def __init__(self, ignore_names: frozenset[str], max_label_bytes: int) -> None:
        self._ignore_names = ignore_names
        self._max_label_bytes = max_label_bytes
        self._identifier = Identifier()
        self._streams: dict[Stream, Entry] = {}
        self._by_digest: dict[bytes, Entry] = {}
        self._index: dict[bytes, int] = {}  # digest of a series → its row
        self._spare_keys: list[tuple[Entry, bytes]] = []
        self._spare_streams: list[Stream] = []
        self._spare_bytes = 0

    def entries(self, streams: Sequence[Stream]) -> list[Entry]:
        """The entry of each stream, made where there is none."""
        if self._spare_bytes > CACHE_BYTES:
            self.drop_spare()
        get = self._streams.get
        return [get(stream) or self._meet(stream) for stream in streams]

    def rows(self, points: Points, entries: list[Entry]) -> I32:
        """What the raw attributes of N points find, (N,).

        Points of a stream stand side by side in what senders write, so this is one map for each run of them.
        """
        stream, keys = points.stream, points.attributes
        cuts = [0, *(np.flatnonzero(stream[1:] != stream[:-1]) + 1).tolist(), len(stream)]
        owners = stream[cuts[:-1]].tolist() if len(stream) else []
        found = (
            map(entries[s].rows.get, keys[a:b], repeat(entries[s].default))
            for s, (a, b) in zip(owners, pairwise(cuts), strict=False)
        )
        return np.fromiter(chain.from_iterable(found), np.int32, len(stream))

    def find(self, entry: Entry, raw: bytes) -> tuple[int, bytes]:
        """(row or verdict, digest) of attributes that have not been seen; MISS when the series does not exist."""
        if len(raw) > self._max_label_bytes:
            return OVERSIZED, b""
        try:
            digest = series_digest(entry.digest, raw)
        except BadInput:
            return self.remember(entry, raw, BAD), b""
        row = self._index.get(digest)
        return (MISS if row is None else self.remember(entry, raw, row)), digest

    def remember(self, entry: Entry, raw: bytes, found: int) -> int:
        """Keep what these attributes find, as long as there is space; returns it."""
        if raw not in entry.rows:
            self._spare_keys.append((entry, raw))
            self._spare_bytes += len(raw) + CACHE_ENTRY_BYTES
        entry.rows[raw] = found
        return found

    def row(self, digest: bytes) -> int | None:
        """The row of a series by what it is."""
        return self._index.get(digest)

    def add(self, entry: Entry, raw: bytes, digest: bytes, row: int) -> None:
        """A series has got a row."""
        self._index[digest] = entry.rows[raw] = row
        entry.series += 1

    def enlist(self, entry: Entry, stream: Stream, number: int) -> None:
        """A stream has got its first series, written like this."""
        entry.stream, _ = self._identifier.stream(stream)
        entry.id = number
        self._streams[entry.stream] = self._by_digest[entry.digest] = entry

    def remove(self, entry: Entry, raw: bytes, digest: bytes) -> None:
        """A series has lost its row; nothing spare may be left. The entry has no id any more if it was the last."""
        entry.rows.pop(raw, None)
        del self._index[digest]
        entry.series -= 1
        if not entry.series:
            del self._streams[entry.stream], self._by_digest[entry.digest]
            entry.id = -1

    def drop_spare(self) -> None:
        """Forget all but the way in which each series that has a row was first written."""
        for entry, raw in self._spare_keys:
            del entry.rows[raw]
        for stream in self._spare_streams:
            entry = self._streams[stream]
            if entry.id < 0 or entry.stream != stream:
                del self._streams[stream]
                if entry.id < 0:
                    self._by_digest.pop(entry.digest, None)
        self._spare_keys, self._spare_streams, self._spare_bytes = [], [], 0

    def fill(self, entry: Entry, raws: list[bytes], digests: list[bytes], rows: list[int]) -> None:
        """All series of a stream at once."""
        self._streams[entry.stream] = self._by_digest[entry.digest] = entry
        self._index.update(zip(digests, rows, strict=True))
        entry.rows = dict(zip(raws, rows, strict=True))
        entry.series = len(rows)

    def _meet(self, stream: Stream) -> Entry:
        size = len(stream.resource) + len(stream.scope) + len(stream.name) + len(stream.unit)
        if size > self._max_label_bytes:
            return Entry(stream, default=OVERSIZED)
        entry = self._identify(stream)
        self._streams[stream] = entry
        self._spare_streams.append(stream)
        self._spare_bytes += size + CACHE_ENTRY_BYTES
        return entry

    def _identify(self, stream: Stream) -> Entry:
        if stream.name in self._ignore_names:
            return Entry(stream, default=IGNORED)
        try:
            shared, digest = self._identifier.stream(stream)
        except OwnSeries:
            return Entry(stream, default=OWN)
        except BadInput:
            return Entry(stream, default=BAD)
        return self._by_digest.setdefault(digest, Entry(shared, digest))
