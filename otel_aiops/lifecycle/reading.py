"""Reading: the points of a dataset's segments by whole series, in pieces that fit into memory, exclusions applied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_aiops.labels import Labels
from otel_aiops.lifecycle.truth import Exclusion, selector
from otel_aiops.otlp.points import F64, I64, Bool
from otel_aiops.series.rows import F32
from otel_aiops.series.segments import check_seal, reading

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK_ROWS = 16_000_000  # in memory at once: 1.1 GB while they are put in order, 0.3 GB then


@dataclass(frozen=True, slots=True)
class Chunk:
    """All points of M series, those of a series together and in the order of time, each time once.

    Shape: `ends` (M,), so that series k has the points ends[k-1]:ends[k]; `time_ns`, `value` and `score` (N,). `score`
    is what the service gave the point on arrival; None where it was not asked for. `names` are canonical texts.
    """

    names: tuple[str, ...]
    ends: I64
    time_ns: I64
    value: F64
    score: F32 | None = None

    def series(self) -> Iterator[tuple[str, I64, F64]]:
        """(name, time_ns, value) of each series."""
        start = 0
        for name, end in zip(self.names, self.ends.tolist(), strict=True):
            yield name, self.time_ns[start:end], self.value[start:end]
            start = end


class Cuts:
    """Which points exclusions take away. Series are told once, by `add`, and have their number from then on."""

    def __init__(self, exclusions: Sequence[Exclusion]) -> None:
        self._exclusions = [(one, selector(dict(one.match))) for one in exclusions]
        self._group: list[int] = []
        self._groups: dict[tuple[int, ...], int] = {}
        self._spans: list[tuple[I64, I64]] = []  # starts and ends by group, in order, none touching another

    def add(self, labels: Labels) -> None:
        """The next series."""
        mine = tuple(k for k, (_, wanted) in enumerate(self._exclusions) if wanted.matches(labels))
        if mine not in self._groups:
            self._groups[mine] = len(self._spans)
            spans = [(self._exclusions[k][0].start_ns, self._exclusions[k][0].end_ns) for k in mine]
            self._spans.append(_joined(spans))
        self._group.append(self._groups[mine])

    def kept(self, code: I64, time_ns: I64) -> Bool | None:
        """Which of N points stay; None when all do."""
        if not self._exclusions or not len(code):
            return None
        low, high = int(time_ns.min()), int(time_ns.max())
        kept: Bool | None = None
        group = np.array(self._group, np.int32)[code]
        for number, (starts, ends) in enumerate(self._spans):
            if not ((starts <= high) & (ends > low)).any():
                continue
            mine = np.flatnonzero(group == number)
            at = np.searchsorted(starts, time_ns[mine], side="right") - 1
            inside = (at >= 0) & (time_ns[mine] < ends[np.maximum(at, 0)])
            kept = np.ones(len(code), bool) if kept is None else kept
            kept[mine[inside]] = False
        return kept

    def seconds(self, code: I64, first_ns: I64, last_ns: I64) -> F64:
        """How much of a stretch of each of K series is excluded."""
        total = np.zeros(len(code))
        group = np.array(self._group, np.int32)[code]
        for number, (starts, ends) in enumerate(self._spans):
            mine = group == number
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
                overlap = np.minimum(last_ns[mine], end) - np.maximum(first_ns[mine], start)
                total[mine] += np.maximum(overlap, 0) / 1e9
        return total


def _joined(spans: list[tuple[int, int]]) -> tuple[I64, I64]:
    """Stretches as starts and ends, those that touch as one."""
    found: list[list[int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1][1] = max(found[-1][1], end)
        else:
            found.append([start, end])
    return np.array([one[0] for one in found], np.int64), np.array([one[1] for one in found], np.int64)


class Files:
    """The segments of a dataset, by hour, and how to read some series of all of them."""

    def __init__(self, paths: Sequence[Path], start_ns: int, end_ns: int) -> None:
        self._paths = paths
        self._start_ns, self._end_ns = start_ns, end_ns
        self._checked: set[Path] = set()

    def chunk(self, names: Sequence[str], cuts: Cuts, first: int, *, score: bool) -> Chunk:
        """All points of some series in order, whose numbers in `cuts` begin with `first`. Raises: DamagedFile."""
        import pyarrow as pa

        wanted = pa.array(names, pa.string())
        pieces = [self._piece(path, wanted, cuts, first, score) for path in self._paths]
        return _in_order(names, [list(column) for column in zip(*(pieces or [_none(score)]), strict=True)])

    def _piece(self, path: Path, wanted: pa.Array, cuts: Cuts, first: int, score: bool) -> list[Any]:
        """(number among the wanted, time_ns, value, score) of a file."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        if path not in self._checked:
            check_seal(path)
            self._checked.add(path)
        columns = ["series", "timestamp", "value", *(["score"] if score else [])]
        with reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            groups = _groups(file.metadata, wanted[0].as_py(), wanted[-1].as_py())
            table = file.read_row_groups(groups, columns=columns).unify_dictionaries().combine_chunks()
            if not len(table):
                return _none(score)
            names = table["series"].chunk(0)
            number = pc.index_in(names.dictionary, wanted).fill_null(-1).to_numpy(zero_copy_only=False)
            code = number[names.indices.to_numpy()]
            time_ns = table["timestamp"].cast(pa.int64()).to_numpy()
        kept = (code >= 0) & (time_ns >= self._start_ns) & (time_ns < self._end_ns)
        found = [code[kept], time_ns[kept], *(table[name].to_numpy()[kept] for name in columns[2:])]
        left = cuts.kept(found[0].astype(np.int64) + first, found[1])
        return found if left is None else [column[left] for column in found]


def _none(score: bool) -> list[Any]:
    kinds = (np.int32, np.int64, np.float64, np.float32)
    return [np.empty(0, kind) for kind in kinds[: 3 + score]]


def _groups(metadata: Any, low: str, high: str) -> list[int]:
    """The row groups of a sorted file that may have series from low to high."""
    found = []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(0).statistics
        outside = False
        with suppress(AttributeError, TypeError):  # without statistics anything may be in it
            outside = statistics.has_min_max and (statistics.max < low or statistics.min > high)
        if not outside:
            found.append(group)
    return found


def _in_order(names: Sequence[str], columns: list[list[Any]]) -> Chunk:
    """Points that are in the order of time by file, by series; a time that stands twice counts once.

    Takes the parts of each column, and lets them go as soon as they are joined. A stable sort by series keeps the order
    of time, because the files come hour by hour.
    """
    code = _taken(columns[0])
    small = code.astype(np.uint16) if len(names) <= 1 << 16 else code  # numpy counts these instead of comparing
    order = np.argsort(small, kind="stable")
    time_ns = _taken(columns[1])
    forward = _forward(code[order], time_ns[order])
    if not forward.all():
        order = np.lexsort((time_ns, code))
        order = order[np.append(True, _forward(code[order], time_ns[order]))]
    ends = np.cumsum(np.bincount(code[order], minlength=len(names))).astype(np.int64)
    rest = [_taken(parts)[order] for parts in columns[2:]]
    return Chunk(tuple(names), ends, time_ns[order], rest[0], rest[1] if len(rest) > 1 else None)


def _forward(code: Any, time_ns: I64) -> Bool:
    """Which points, from the second, are later than the one before or of another series."""
    found: Bool = (time_ns[1:] > time_ns[:-1]) | (code[1:] != code[:-1])
    return found


def _taken(parts: list[Any]) -> Any:
    """The parts of a column as one, and no part any more."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole


def runs(rows: I64, limit: int) -> Iterator[tuple[int, int]]:
    """Stretches of series that have about `limit` rows together, at least one series each.

    >>> list(runs(np.array([5, 5, 5, 20, 1]), 10))
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    ends, low = np.cumsum(rows), 0
    while low < len(rows):
        before = int(ends[low - 1]) if low else 0
        high = max(low + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield low, high
        low = high
