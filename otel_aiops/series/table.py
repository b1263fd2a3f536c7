"""The series table: which row a point belongs to, whatever way its sender writes the labels, within a fixed limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.labels import Labels
from otel_aiops.otlp.attributes import attributes, resource, scope
from otel_aiops.otlp.points import I32, I64, Bool, Kind, Points, Stream, Temporality
from otel_aiops.series.cardinality import SAMPLE, Cardinality, Refusals, busiest, worst_metric
from otel_aiops.series.columns import Arrays, Columns, Expected, checked, joined, pack, unpack
from otel_aiops.series.forms import Form, Forms
from otel_aiops.series.identity import DIGEST_BYTES, fingerprint
from otel_aiops.series.lookup import ENDED, MISS, REFUSED, VERDICTS, Entry, Lookup
from otel_aiops.series.streams import STREAMS, pack_streams, unpack_streams

U64 = NDArray[np.uint64]

SCAN_INTERVAL_NS = 60_000_000_000  # a full table looks for idle series at most this often
SCAN_BLOCKS = 16_384  # and takes at most so many at once, so that no step stands still for long

# Columns by row: dtype, shape of one row, and what a row without a series holds.
COLUMNS: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "head": (np.int32, (), -1),  # the first row of the block
    "form": (np.int16, (), 0),
    "fingerprint": (np.uint64, (), 0),
    # The others count at the first row of a block only.
    "stream": (np.int32, (), 0),
    "seen_ns": (np.int64, (), 0),  # event clock of the last point
    "ended": (np.bool_, (), 0),  # and whether it said that the series ends
    "digest": (np.uint64, (2,), 0),
}
SAVED: Expected = {
    **STREAMS,
    "form_quantiles": (np.float64, ("quantiles",)),
    "form_ends": (np.int64, ("forms",)),
    "attribute_bytes": (np.uint8, ("attribute bytes",)),
    "attribute_ends": (np.int64, ("rows",)),
    "free_ids": (np.int32, ("free streams",)),
    "free_blocks": (np.int32, ("free blocks", 2)),
    "next_scan_ns": (np.int64, (1,)),
}


@dataclass(frozen=True, slots=True)
class TableConfig:
    """Which series are kept, and how many."""

    max_series: int = 1_000_000  # scored series at most; a histogram counts as two and one for each percentile
    percentiles: tuple[float, ...] = (95.0,)  # series made of each histogram, besides its rate and mean
    reclaim_after: float = 86_400.0  # when full, a series without points for so long gives its place to a new one
    reclaim_ended_after: float = 3_600.0  # the same for a series whose sender said that it ends
    max_label_bytes: int = 16_384  # of the attributes of a point, and of resource, scope and name together
    ignore_names: tuple[str, ...] = ()  # metrics that are never scored

    def __post_init__(self) -> None:
        if not 1 <= self.max_series <= 2**31 - 1:
            raise ConfigError("max_series", f"must be in 1 .. 2147483647, got {self.max_series}")
        if not all(0 < p < 100 for p in self.percentiles) or len(set(self.percentiles)) != len(self.percentiles):
            raise ConfigError("percentiles", f"must be different numbers in (0, 100), got {list(self.percentiles)}")
        for name in ("reclaim_after", "reclaim_ended_after", "max_label_bytes"):
            if getattr(self, name) <= 0:
                raise ConfigError(name, f"must be > 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of N points.

    `first` (N,) is the first row of the point's series, -1 when it has none; `form` (N,) indexes `forms`, which
    says what the rows of a series are: a histogram has several, side by side. `new` rows were made for these points,
    `reclaimed` rows have lost their series (and may be among the new ones). `counts` says why points have no row,
    and how many rows were created and reclaimed.
    """

    first: I32
    form: I32
    forms: tuple[Form, ...]
    new: I32
    reclaimed: I32
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a row comes from, in bytes as first received; see Points for `attributes`."""

    stream: Stream
    attributes: bytes
    stat: str


@dataclass(slots=True)
class _Fresh:
    """What one call of `rows` changed."""

    new: list[I32] = field(default_factory=list)
    reclaimed: list[I32] = field(default_factory=list)


class SeriesTable:
    """Identity of series → row. One writer; the same points in the same order give the same rows.

    A row is one scored series. Rows of one stream and attributes are side by side: a block, named by its first row.
    Raw bytes that were seen before find their row with one dict lookup. Others are read and looked up by a digest
    of what they mean. What is remembered beyond one entry a series is bounded and never changes a result.
    """

    def __init__(self, config: TableConfig) -> None:
        self.config = config
        self._forms = Forms(config.percentiles)
        self._lookup = Lookup(frozenset(config.ignore_names), config.max_label_bytes)
        self._columns = Columns(COLUMNS, config.max_series)
        self._entries: list[Entry | None] = []  # streams with series, by id
        self._free_ids: list[int] = []
        self._raw: list[bytes] = []  # attributes by first row, b"" for the other rows
        self._free: dict[int, list[int]] = {}  # width → first rows of free blocks
        self._size = 0
        self._live = 0
        self._next_scan_ns = 0
        self._refusals = Refusals()

    def __len__(self) -> int:
        """Scored series that are known now."""
        return self._live

    @property
    def size(self) -> int:
        """One more than the highest row that was ever used."""
        return self._size

    # -- points to rows -------------------------------------------------------------------------------------------

    def rows(self, points: Points, *, event_now_ns: int) -> Rows:
        """Find or make the rows of N points; `event_now_ns` is the event clock, by which series become idle."""
        entries = self._lookup.entries(points.streams)
        first = self._lookup.rows(points, entries)
        fresh = _Fresh()
        if len(first) and first.min() < 0:
            self._touch(first, points.stale, event_now_ns)
            unknown = (first == MISS) | ((first == REFUSED) & (event_now_ns >= self._next_scan_ns))
            self._resolve(np.flatnonzero(unknown), first, points, entries, event_now_ns, fresh)
        self._touch(first, points.stale, event_now_ns)
        new, reclaimed = joined(fresh.new, np.int32), joined(fresh.reclaimed, np.int32)
        counts = {"created": len(new), "reclaimed": len(reclaimed), **_verdicts(first)}
        np.maximum(first, -1, out=first)
        return Rows(first, self._form_of(first, points), self._forms.all, new, reclaimed, counts)

    def _form_of(self, first: I32, points: Points) -> I32:
        if all(stream.kind <= Kind.SUM for stream in points.streams):
            return np.zeros(len(first), np.int32)  # nobody asks for the form of a number
        return np.where(first >= 0, self._column("form")[first], np.int16(0)).astype(np.int32)

    def _touch(self, first: I32, stale: Bool, now_ns: int) -> None:
        if len(first) and first.min() < 0:
            found = first >= 0
            first, stale = first[found], stale[found]
        self._column("seen_ns")[first] = now_ns
        self._column("ended")[first] = stale

    def _resolve(
        self, unknown: I64, first: I32, points: Points, entries: list[Entry], now_ns: int, fresh: _Fresh
    ) -> None:
        """Fill in `first` where raw bytes were not enough.

        All that exists is found, and so is not idle, before anything is made: what the cache remembers must not
        decide which idle series go.
        """
        missing: list[tuple[int, bytes]] = []
        same: dict[tuple[int, bytes, bool], list[int]] = {}
        at = zip(unknown.tolist(), points.stream[unknown].tolist(), points.stale[unknown].tolist(), strict=True)
        for i, s, stale in at:
            same.setdefault((s, points.attributes[i], stale), []).append(i)
        for (s, raw, _), places in same.items():
            row, digest = self._lookup.find(entries[s], raw)
            if row >= 0:
                self._column("seen_ns")[row] = now_ns
            first[places] = row
            if row == MISS:
                missing.append((places[0], digest))
        for i, digest in missing:
            s, raw, stale = int(points.stream[i]), points.attributes[i], bool(points.stale[i])
            first[same[s, raw, stale]] = self._make(i, entries[s], digest, points, now_ns, fresh)

    # -- making and reclaiming ------------------------------------------------------------------------------------

    def _make(self, i: int, entry: Entry, digest: bytes, points: Points, now_ns: int, fresh: _Fresh) -> int:
        """The row of point i, whose series did not exist when this body came."""
        raw = points.attributes[i]
        row = self._lookup.row(digest)
        if row is not None:  # an earlier point of this body made it
            return self._lookup.remember(entry, raw, row)
        if points.stale[i]:
            return ENDED
        stream = points.streams[points.stream[i]]
        form = self._forms.of(stream, points, i)
        row = self._take(self._forms.width(form), now_ns, fresh)
        if row is None:
            self._refusals.add(stream, raw)
            return self._lookup.remember(entry, raw, REFUSED)
        self._enlist(entry, stream)
        self._write(row, entry, raw, digest, form, now_ns)
        fresh.new.append(np.arange(row, row + self._forms.width(form), dtype=np.int32))
        return row

    def _enlist(self, entry: Entry, stream: Stream) -> None:
        """Give a stream that gets its first series a place among those that have some."""
        if entry.id >= 0:
            return
        number = self._free_ids.pop() if self._free_ids else len(self._entries)
        if number == len(self._entries):
            self._entries.append(entry)
        self._entries[number] = entry
        self._lookup.enlist(entry, stream, number)

    def _write(self, row: int, entry: Entry, raw: bytes, digest: bytes, form: int, now_ns: int) -> None:
        stats = self._forms.all[form].stats
        for offset, stat in enumerate(stats):
            self._column("head")[row + offset] = row
            self._column("form")[row + offset] = form
            self._column("fingerprint")[row + offset] = fingerprint(digest, stat)
        self._column("stream")[row] = entry.id
        self._column("seen_ns")[row] = now_ns
        self._column("digest")[row] = np.frombuffer(digest, np.uint64)
        self._raw[row] = raw
        self._lookup.add(entry, raw, digest, row)
        self._live += len(stats)

    def _take(self, width: int, now_ns: int, fresh: _Fresh) -> int | None:
        """A free block, if need be one whose series is idle; None when the table is full."""
        while True:
            if self._free.get(width):
                return self._free[width].pop()
            if self._size + width <= self.config.max_series:
                return self._extend(width)
            if now_ns < self._next_scan_ns:
                return None
            fresh.reclaimed.append(self._reclaim(now_ns))

    def _extend(self, width: int) -> int:
        row = self._size
        self._size += width
        self._columns.reserve(self._size)
        self._raw.extend(repeat(b"", width))
        return row

    def _reclaim(self, now_ns: int) -> I32:
        """Free the blocks that have been idle for longest; the rows that lost their series."""
        heads = self._heads()
        seen = self._column("seen_ns")[heads]
        idle = seen < now_ns - int(self.config.reclaim_after * 1e9)
        idle |= self._column("ended")[heads] & (seen < now_ns - int(self.config.reclaim_ended_after * 1e9))
        heads, seen = heads[idle], seen[idle]
        more = len(heads) > SCAN_BLOCKS
        if more:
            heads = np.sort(heads[np.argsort(seen, kind="stable")[:SCAN_BLOCKS]])
        self._next_scan_ns = now_ns if more else now_ns + SCAN_INTERVAL_NS
        if not len(heads):
            return heads
        self._lookup.drop_spare()  # no other way to write a series may outlive it
        widths = self._forms.widths[self._column("form")[heads]]
        for row, width in zip(heads.tolist(), widths.tolist(), strict=True):
            self._release(row)
            self._free.setdefault(width, []).append(row)
        starts = np.cumsum(widths) - widths
        rows = (np.repeat(heads - starts, widths) + np.arange(widths.sum())).astype(np.int32)
        self._columns.clear(rows)
        self._live -= len(rows)
        return rows

    def _release(self, row: int) -> None:
        """Take a series out of all lookups."""
        number = int(self._column("stream")[row])
        entry = self._entry(row)
        self._lookup.remove(entry, self._raw[row], self._column("digest")[row].tobytes())
        self._raw[row] = b""
        if not entry.series:
            self._entries[number] = None
            self._free_ids.append(number)

    def _entry(self, row: int) -> Entry:
        """The stream of a block."""
        entry = self._entries[int(self._column("stream")[row])]
        assert entry is not None, f"row {row} has a series but no stream"
        return entry

    def _column(self, name: str) -> NDArray[Any]:
        return self._columns.of[name]

    def _heads(self) -> I32:
        """The first rows of all blocks, in order."""
        at = np.arange(self._size, dtype=np.int32)
        head: I32 = self._column("head")[: self._size]
        heads: I32 = at[head == at]
        return heads

    # -- rows to labels -------------------------------------------------------------------------------------------

    def live(self) -> I32:
        """All rows that have a series, in order."""
        return np.flatnonzero(self._column("head")[: self._size] >= 0).astype(np.int32)

    def labels(self, row: int) -> Labels:
        """The identity of a scored series. Raises: KeyError if the row has none."""
        return self.labels_of(np.array([row], np.int32))[0]

    def labels_of(self, rows: I32, *, whole: bool = True) -> list[Labels]:
        """The identities of K rows that have series; what they share is read once.

        Unless `whole` they are without scope and attributes of the point, which take longest to read.
        """
        of_resource, of_scope = cache(resource), cache(scope)
        heads: dict[int, Labels] = {}
        found = []
        for row in rows.tolist():
            head = self.stream_row(row)
            if head not in heads:
                stream = self._entry(head).stream
                shared = (stream.name, stream.unit, stream.kind.name.lower(), "", of_resource(stream.resource))
                rest = (*of_scope(stream.scope), attributes(self._raw[head])) if whole else ()
                heads[head] = Labels(*shared, *rest)
            stat = self.stats(row)[row - head]
            found.append(replace(heads[head], stat=stat) if stat else heads[head])
        return found

    def source(self, row: int) -> Source:
        """The stream and attributes of a row as first received. Raises: KeyError if the row has no series."""
        head = self.stream_row(row)
        return Source(*self.sent(head), self.stats(head)[row - head])

    def sent(self, row: int) -> tuple[Stream, bytes]:
        """The stream and attributes of a row alone: fast, for who looks at many."""
        head = self.stream_row(row)
        return self._entry(head).stream, self._raw[head]

    def temporality(self, rows: I32) -> list[Temporality]:
        """How the streams of K rows that have series add up."""
        heads = self._column("head")[rows]
        return [self._entry(row).stream.temporality for row in heads.tolist()]

    def stream_row(self, row: int) -> int:
        """The first of the rows that the same stream and attributes have. Raises: KeyError if the row has no series."""
        head = int(self._column("head")[row]) if 0 <= row < self._size else -1
        if head < 0:
            raise KeyError(f"row {row} has no series")
        return head

    def is_live(self, row: int) -> bool:
        """Whether a row belongs to a series now."""
        return 0 <= row < self._size and bool(self._column("head")[row] >= 0)

    def is_head(self, row: int) -> bool:
        """Whether a row is the first of its stream and attributes."""
        return 0 <= row < self._size and bool(self._column("head")[row] == row)

    def stats(self, row: int) -> tuple[str, ...]:
        """What the rows of the same stream and attributes are, in order. Raises: KeyError if the row has no series."""
        return self._forms.all[int(self._column("form")[self.stream_row(row)])].stats

    def fingerprint(self, rows: I32) -> U64:
        """Names of series that outlive their rows, (K,); 0 for a row without a series."""
        found: U64 = self._column("fingerprint")[rows]
        return found

    def find(self, fingerprint: int) -> int | None:
        """The row of a series by its fingerprint. Looks at all rows: a millisecond a million."""
        found = np.flatnonzero(self._column("fingerprint")[: self._size] == np.uint64(fingerprint)).tolist()
        return found[0] if fingerprint and found else None

    def cardinality(self) -> Cardinality:
        """Who fills the table. Looks at all streams and a sample of series: for a report, not for every step."""
        heads = self._heads()
        streams = self._column("stream")[heads]
        sizes = (
            np.bincount(streams, self._forms.widths[self._column("form")[heads]], len(self._entries))
            .astype(int)
            .tolist()
        )
        held: Counter[str] = Counter()
        for entry, size in zip(self._entries, sizes, strict=True):
            if entry is not None:
                held[entry.stream.name] += size
        refused = self._refusals
        metric = worst_metric(held, refused.names)
        ids = [entry.id for entry in self._entries if entry is not None and entry.stream.name == metric]
        of_metric = heads[np.isin(streams, ids)]
        step = max(1, -(-len(of_metric) // SAMPLE))
        sample = [self.source(row) for row in of_metric[::step].tolist()]
        pairs = [(one.stream, one.attributes) for one in sample]
        pairs += [(stream, raw) for stream, raw in refused.newest if stream.name == metric]
        key, values = busiest((*resource(stream.resource), *attributes(raw)) for stream, raw in pairs)
        return Cardinality(
            series=self._live,
            limit=self.config.max_series,
            refused=refused.total,
            metric=metric,
            metric_series=held[metric],
            metric_refused=refused.names[metric],
            attribute=key,
            values=values,
            sampled=len(pairs),
        )

    # -- state ----------------------------------------------------------------------------------------------------

    def state(self) -> Arrays:
        """All identities, and which rows they have."""
        free = [(width, row) for width, rows in sorted(self._free.items()) for row in rows]
        attribute_bytes, attribute_ends = pack(self._raw)
        return {
            **self._columns.state(self._size),
            **self._forms.state(),
            **pack_streams(self._entries),
            "attribute_bytes": attribute_bytes,
            "attribute_ends": attribute_ends,
            "free_ids": np.array(self._free_ids, np.int32),
            "free_blocks": np.array(free, np.int32).reshape(-1, 2),
            "next_scan_ns": np.array([self._next_scan_ns], np.int64),
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over saved identities. Raises: StateError, and then this table must not be used."""
        checked(arrays, {**self._columns.saved(), **SAVED})
        try:
            self._restore(arrays)
        except (IndexError, KeyError, ValueError) as error:
            raise StateError(f"the series table does not hold together: {error!r}") from error

    def _restore(self, arrays: Arrays) -> None:
        self.__init__(self.config)  # type: ignore[misc]
        self._forms.restore(arrays)
        self._size = len(arrays["head"])
        self._columns.restore(arrays, self._size)
        self._live = int((arrays["head"] >= 0).sum())
        self._raw = unpack(arrays["attribute_bytes"], arrays["attribute_ends"])
        self._next_scan_ns = int(arrays["next_scan_ns"][0])
        self._free_ids = arrays["free_ids"].tolist()
        for width, row in arrays["free_blocks"].tolist():
            self._free.setdefault(width, []).append(row)
        self._entries = unpack_streams(arrays, set(self._free_ids))
        self._restore_index()

    def _restore_index(self) -> None:
        """Make the lookups anew, a stream at a time."""
        heads = self._heads()
        of_row = self._column("stream")[heads]
        order = np.argsort(of_row, kind="stable")
        heads, of_row = heads[order], of_row[order]
        digests = self._column("digest")[heads].view(f"V{DIGEST_BYTES}").ravel().tolist()
        rows = heads.tolist()
        raws = list(map(self._raw.__getitem__, rows))
        cuts = [0, *(np.flatnonzero(np.diff(of_row)) + 1).tolist(), len(rows)]
        for a, b in pairwise(cuts if rows else []):
            entry = self._entries[of_row[a]]
            if entry is None:
                raise ValueError(f"row {rows[a]} belongs to a stream that is free")
            self._lookup.fill(entry, raws[a:b], digests[a:b], rows[a:b])


def _verdicts(first: I32) -> dict[str, int]:
    """How many points have no row, by reason."""
    times = np.bincount(-first[first < 0], minlength=1 - min(VERDICTS)).tolist()
    return {name: times[-verdict] for verdict, name in VERDICTS.items() if times[-verdict]}
