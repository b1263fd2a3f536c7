"""Scored points on the disk: Parquet files by hour of event time, each naming the log sequences it covers."""

from __future__ import annotations

import os
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from otel_aiops.errors import StateError, StorageError
from otel_aiops.series.disk import make_directory, remove_temporary, storage_errors, sync_directory, whole_file
from otel_aiops.series.rows import Columns

if TYPE_CHECKING:
    import pyarrow as pa

HOUR_NS = 3_600_000_000_000
EPOCH_DAY = date(1970, 1, 1).toordinal()
DIRECTORY = re.compile(r"(date|hour)=(\d{4}-\d\d-\d\d|\d\d)")
DAMAGED = ".damaged"
FILE = re.compile(r"(\d{20})-(\d{20})(\.sorted)?\.parquet")
ROW_GROUP = 131_072  # rows; small enough that reading one series skips most of a sorted file
MERGE_ROWS = 4_000_000  # rows in memory while an hour is merged, about 200 MB
SEAL = b"AIOP"  # and a checksum of the footer stand before it, where readers of Parquet look at nothing
SEAL_BYTES = len(SEAL) + 4
TAIL_BYTES = 8  # of a Parquet file: length of the footer, magic
ATTEMPTS = 5  # to read an hour that is merged or deleted meanwhile


class DamagedFile(StateError):
    """A file is not what was written; `path` says which."""

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(f"{path} cannot be read: {reason}")
        self.path = path


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """A file with the points of one hour that the sequences first..last of the log brought."""

    hour: int  # since the epoch
    first: int
    last: int
    sorted: bool
    path: Path
    bytes: int

    def covers(self, other: Part) -> bool:
        """Whether everything in `other` is in this file too."""
        if self.hour != other.hour or self.path == other.path:
            return False
        wider = self.first <= other.first and other.last <= self.last
        same = (self.first, self.last) == (other.first, other.last)
        return wider and (self.sorted or not same)


class Segments:
    """Reads and writes the files below a directory; one process writes, any number reads.

    ``date=2026-05-03/hour=14/<first>-<last>.parquet`` holds what a snapshot put down; when the hour is past, its
    files are merged into one ``.sorted.parquet`` whose range covers theirs. A file whose range another covers
    does not count, so a crash between writing and deleting doubles nothing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.damages: list[str] = []  # why files were set aside

    def open(self, through: int) -> int:
        """Delete what no snapshot covers; returns the sequence up to which all points are on the disk.

        `through` is the newest sequence that ever had a snapshot. What came after it will come again from the
        log. A merged file may reach further than a snapshot that is left; then all of its range counts.
        """
        with storage_errors(f"opening the segments in {self._directory}"):
            make_directory(self._directory)
            remove_temporary(self._directory)
            parts = self.parts()
            while reach := max((p.last for p in parts if p.first <= through < p.last), default=0):
                through = reach
            kept = visible(p for p in parts if p.last <= through)
            self._delete(set(parts) - set(kept))
        return through

    def last(self) -> int:
        """The newest sequence that any file reaches; 0 when there is none."""
        return max((part.last for part in self.parts()), default=0)

    def parts(self, start_hour: int | None = None, end_hour: int | None = None) -> list[Part]:
        """The files of hours in [start, end), those that do not count included, by hour and range."""
        found: list[Part] = []
        for hour, directory in self._hours():
            if (start_hour is None or hour >= start_hour) and (end_hour is None or hour < end_hour):
                found += _parts_in(hour, directory)
        return sorted(found)

    def write(self, first: int, last: int, columns: Columns) -> int:
        """Put down the points of the sequences first..last, durable; returns bytes. Raises StorageError.

        When it fails, nothing of it stays.
        """
        hours = columns.time_ns // HOUR_NS
        order = np.argsort(hours, kind="stable")
        bounds = [0, *(np.flatnonzero(np.diff(hours[order])) + 1), len(order)] if len(order) else []
        written: list[Path] = []
        try:
            with storage_errors(f"writing segments to {self._directory}"):
                for start, end in pairwise(bounds):
                    directory = self._hour_directory(int(hours[order[start]]))
                    make_directory(directory)
                    written.append(directory / f"{first:020d}-{last:020d}.parquet")
                    _write_file(written[-1], [_table(columns.take(order[start:end]))])
                return sum(path.stat().st_size for path in written)
        except BaseException:
            for path in written:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            raise

    def compact(self, watermark_ns: int, *, through: int, rows: int = MERGE_ROWS) -> int:
        """Merge the files of every hour that ended by the watermark; returns how many hours. Raises StorageError.

        Only files up to the sequence `through` are touched. A damaged one is set aside as `.damaged`, the reason
        in `damages`; what is left of its hour is merged the next time.
        """
        hours: dict[int, list[Part]] = defaultdict(list)
        for part in visible(self.parts(end_hour=watermark_ns // HOUR_NS)):
            if part.last <= through:
                hours[part.hour].append(part)
        merged = 0
        for hour, parts in hours.items():
            if len(parts) == 1 and parts[0].sorted:
                continue
            with storage_errors(f"merging segments in {self._hour_directory(hour)}"):
                try:
                    self._merge(hour, parts, rows)
                    merged += 1
                except DamagedFile as error:
                    error.path.replace(error.path.with_name(error.path.name + DAMAGED))
                    self.damages.append(str(error))
        return merged

    def enforce(self, now_ns: int, *, keep_s: float, keep_bytes: int) -> tuple[int, int]:
        """Delete the oldest hours, by age and by total size; returns files and bytes. Raises StorageError."""
        with storage_errors(f"deleting segments in {self._directory}"):
            hours: dict[int, list[Part]] = defaultdict(list)
            for part in self.parts():
                hours[part.hour].append(part)
            total = sum(part.bytes for parts in hours.values() for part in parts)
            oldest_ns = now_ns - int(keep_s * 1e9)
            for hour, directory in self._hours():
                if (hour + 1) * HOUR_NS <= oldest_ns:
                    self._delete_set_aside(directory)
            doomed: list[Part] = []
            for hour, parts in sorted(hours.items()):
                if (hour + 1) * HOUR_NS > oldest_ns and total <= keep_bytes:
                    break
                doomed += parts
                total -= sum(part.bytes for part in parts)
            self._delete(doomed)
        return len(doomed), sum(part.bytes for part in doomed)

    def read(self, start_ns: int, end_ns: int, series: str | Sequence[str] | None = None) -> pa.Table:
        """Points with start <= timestamp < end, of some series or all; ordered by hour, in no order within it.

        Columns: series (dictionary of string), fingerprint (uint64), timestamp (ns, UTC), value (float64) and
        score (float32). Files may be merged or deleted meanwhile. Raises StateError naming a damaged file, and
        StorageError when files vanish again and again.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        moments = [pa.scalar(ns, pa.timestamp("ns", "UTC")) for ns in (start_ns, end_ns)]
        wanted = (pc.field("timestamp") >= moments[0]) & (pc.field("timestamp") < moments[1])
        if series is not None:
            names = [series] if isinstance(series, str) else list(series)
            wanted &= pc.field("series").isin(pa.array(names, pa.string()))
        tables = [_schema().empty_table()]
        hours = {p.hour for p in self.parts(start_ns // HOUR_NS, -(-end_ns // HOUR_NS))}
        for hour in sorted(hours):
            tables += self._read_hour(hour, wanted)
        return pa.concat_tables(tables).unify_dictionaries()

    def hour(self, hour: int) -> list[Part]:
        """The files of an hour that count; one that is sorted when the hour has been merged."""
        return visible(self.parts(hour, hour + 1))

    def merge_into(self, parts: Sequence[Part], target: Path, *, rows: int = MERGE_ROWS) -> None:
        """Write the rows of some files of an hour to a file elsewhere, as a merge of the hour would write them.

        Raises DamagedFile, FileNotFoundError when a file is gone, and OSError when the target cannot be written.
        """
        _write_file(target, _merged([part.path for part in parts], rows))

    def names(self, hour: int) -> list[str]:
        """The series that have points in an hour, in order. Raises StateError and StorageError as `read` does."""
        for _ in range(ATTEMPTS):
            with suppress(FileNotFoundError):
                return sorted(set().union(*(_names(part.path) for part in visible(self._parts_of(hour)))))
        raise StorageError(f"files of {self._hour_directory(hour)} vanish while they are read")

    def series(self, start_ns: int, end_ns: int, *, without_damaged: bool = False) -> list[str]:
        """The canonical texts of all series that have points in some hours, sorted. Raises as `read`, and does not
        look into damaged files where told so.
        """
        passed: tuple[type[BaseException], ...] = (DamagedFile,) if without_damaged else ()
        import pyarrow.compute as pc

        found: set[str] = set()
        for hour in {p.hour for p in self.parts(start_ns // HOUR_NS, -(-end_ns // HOUR_NS))}:
            for _ in range(ATTEMPTS):
                with suppress(FileNotFoundError):
                    for part in visible(self._parts_of(hour)):
                        with suppress(*passed):
                            for batch in batches(part.path, ["series"]):
                                codes = pc.unique(batch["series"].indices)
                                found.update(pc.take(batch["series"].dictionary, codes).to_pylist())
                    break
            else:
                raise StorageError(f"files of {self._hour_directory(hour)} vanish while they are read")
        return sorted(found)

    def _read_hour(self, hour: int, wanted: Any) -> list[pa.Table]:
        for _ in range(ATTEMPTS):
            with suppress(FileNotFoundError):
                return [_read_file(part.path, wanted) for part in visible(self._parts_of(hour))]
        raise StorageError(f"files of {self._hour_directory(hour)} vanish while they are read")

    def _parts_of(self, hour: int) -> list[Part]:
        """The files of one hour; the directories of others are not looked at, of which there may be thousands."""
        return sorted(_parts_in(hour, self._hour_directory(hour)))

    def _hours(self) -> Iterator[tuple[int, Path]]:
        for day_directory, day in _named_directories(self._directory, "date"):
            with suppress(ValueError):
                days = date.fromisoformat(day).toordinal() - EPOCH_DAY
                for directory, hour in _named_directories(day_directory, "hour"):
                    yield days * 24 + int(hour), directory

    def _hour_directory(self, hour: int) -> Path:
        day = date.fromordinal(hour // 24 + EPOCH_DAY).isoformat()
        return self._directory / f"date={day}" / f"hour={hour % 24:02d}"

    def _merge(self, hour: int, parts: list[Part], rows: int) -> None:
        first, last = min(p.first for p in parts), max(p.last for p in parts)
        target = self._hour_directory(hour) / f"{first:020d}-{last:020d}.sorted.parquet"
        _write_file(target, _merged([p.path for p in parts], rows))
        self._delete(p for p in parts if p.path != target)

    def _delete_set_aside(self, directory: Path) -> None:
        for path in directory.glob("*" + DAMAGED):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            directory.rmdir()
            directory.parent.rmdir()

    def _delete(self, parts: Iterable[Part]) -> None:
        directories = set()
        for part in parts:
            part.path.unlink(missing_ok=True)
            directories.add(part.path.parent)
        for directory in directories:
            sync_directory(directory)
            with suppress(OSError):  # not empty
                directory.rmdir()
                directory.parent.rmdir()


def visible(parts: Iterable[Part]) -> list[Part]:
    """The files that count: those that no other covers."""
    hours: dict[int, list[Part]] = defaultdict(list)
    for part in parts:
        hours[part.hour].append(part)
    return [p for some in hours.values() for p in some if not any(other.covers(p) for other in some)]


def _parts_in(hour: int, directory: Path) -> Iterator[Part]:
    with suppress(FileNotFoundError):
        for entry in os.scandir(directory):
            if match := FILE.fullmatch(entry.name):
                with suppress(FileNotFoundError):  # retention was quicker
                    size = entry.stat().st_size
                    first, last = int(match[1]), int(match[2])
                    yield Part(hour, first, last, bool(match[3]), Path(entry.path), size)


def _named_directories(directory: Path, key: str) -> list[tuple[Path, str]]:
    """Sub-directories called key=value, with the value."""
    found = []
    with suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(directory):
            match = DIRECTORY.fullmatch(entry.name)
            if match and match[1] == key:
                found.append((Path(entry.path), match[2]))
    return found


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        {
            "series": pa.dictionary(pa.int32(), pa.string()),
            "fingerprint": pa.uint64(),
            "timestamp": pa.timestamp("ns", "UTC"),
            "value": pa.float64(),
            "score": pa.float32(),
        }
    )


def _table(columns: Columns) -> pa.Table:
    import pyarrow as pa

    series = pa.DictionaryArray.from_arrays(pa.array(columns.code), pa.array(columns.texts, pa.string()))
    fingerprint = columns.fingerprints[columns.code]
    arrays = [series, fingerprint, columns.time_ns, columns.value, columns.score]
    fields = zip(arrays, _schema().types, strict=True)
    return pa.Table.from_arrays([pa.array(a, t) for a, t in fields], schema=_schema())


def _write_file(path: Path, tables: Iterable[pa.Table]) -> None:
    import pyarrow.parquet as pq

    options = {
        "compression": "zstd",
        "use_dictionary": ["series", "fingerprint"],
        "write_page_checksum": True,
        "column_encoding": {
            "timestamp": "DELTA_BINARY_PACKED",
            "value": "BYTE_STREAM_SPLIT",
            "score": "BYTE_STREAM_SPLIT",
        },
    }
    with whole_file(path) as file:
        with pq.ParquetWriter(file, _schema(), **options) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=ROW_GROUP)
        _seal(file)


def _seal(file: BinaryIO) -> None:
    """Put a checksum of the footer before it, in place; pages have their own already."""
    file.seek(-TAIL_BYTES, os.SEEK_END)
    start = file.seek(-TAIL_BYTES - int.from_bytes(file.read(4), "little"), os.SEEK_END)
    footer = file.read()
    file.seek(start)
    file.write(SEAL + zlib.crc32(footer).to_bytes(4, "little") + footer)


def check_seal(path: Path) -> None:
    """DamagedFile when the footer is not what was written: Arrow may hang or abort over such a footer."""
    found = footer = b""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size > TAIL_BYTES:
            file.seek(-TAIL_BYTES, os.SEEK_END)
            length = TAIL_BYTES + int.from_bytes(file.read(4), "little")
            if size >= SEAL_BYTES + length:
                file.seek(-SEAL_BYTES - length, os.SEEK_END)
                found, footer = file.read(SEAL_BYTES), file.read()
    if found != SEAL + zlib.crc32(footer).to_bytes(4, "little"):
        raise DamagedFile(path, "the checksum of its footer does not fit")


def _read_file(path: Path, wanted: Any) -> pa.Table:
    import pyarrow.parquet as pq

    with reading(path):
        check_seal(path)
        return pq.read_table(path, schema=_schema(), partitioning=None, filters=wanted, page_checksum_verification=True)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what Arrow says about a file that it cannot read into a DamagedFile."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DamagedFile(path, error) from error


def batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """A file piece by piece, checked."""
    import pyarrow.parquet as pq

    with reading(path):
        check_seal(path)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            rows = 0
            for batch in file.iter_batches(MERGE_ROWS, columns=columns):
                batch.validate(full=True)
                rows += len(batch)
                yield batch
            if rows != file.metadata.num_rows:
                raise DamagedFile(path, f"expected {file.metadata.num_rows} rows, got {rows}")


def _merged(paths: list[Path], limit: int) -> Iterator[pa.Table]:
    """The rows of some files by series and time; in runs of about `limit` rows, whole series each."""
    import pyarrow as pa

    names, counts = _names_and_counts(paths)
    ends = np.cumsum(counts)
    low = 0
    while low < len(names):
        high = max(low + 1, int(np.searchsorted(ends, (ends[low - 1] if low else 0) + limit, side="right")))
        pieces = [piece for path in paths for piece in _pieces(path, names, low, high)]
        table = pa.Table.from_batches(pieces)
        rank, time_ns = table["rank"].to_numpy(), table["timestamp"].cast(pa.int64()).to_numpy()
        table = table.take(pa.array(np.lexsort((time_ns, rank))))
        series = pa.DictionaryArray.from_arrays(table["rank"].combine_chunks(), pa.array(names[low:high], pa.string()))
        yield pa.Table.from_arrays([series, *table.drop_columns("rank").columns], schema=_schema())
        low = high


def _names(path: Path) -> set[str]:
    """The series of a file."""
    return set().union(*(batch["series"].dictionary.to_pylist() for batch in batches(path, ["series"])))


def _names_and_counts(paths: list[Path]) -> tuple[list[str], Any]:
    """All series of some files in order, and how many rows each has."""
    totals: dict[str, int] = defaultdict(int)
    for path in paths:
        for batch in batches(path, ["series"]):
            codes = np.bincount(batch["series"].indices.to_numpy(), minlength=len(batch["series"].dictionary))
            for name, count in zip(batch["series"].dictionary.to_pylist(), codes.tolist(), strict=True):
                totals[name] += count
    names = sorted(name for name, count in totals.items() if count)
    return names, np.array([totals[name] for name in names], np.int64)


def _pieces(path: Path, names: list[str], low: int, high: int) -> Iterator[pa.RecordBatch]:
    """The rows of a file whose series is one of names[low:high], with its place among them as `rank`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array(names[low:high], pa.string())
    for batch in batches(path):
        ranks = pc.index_in(batch["series"].dictionary, wanted)
        rank = pc.take(ranks, batch["series"].indices)
        arrays = [rank, *(batch[name] for name in _schema().names[1:])]
        yield pa.RecordBatch.from_arrays(arrays, ["rank", *_schema().names[1:]]).filter(pc.is_valid(rank))
