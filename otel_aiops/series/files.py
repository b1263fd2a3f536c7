"""Recorded telemetry in files: OTLP bodies, CSV and Parquet series, as bodies of points in the order of event time."""

from __future__ import annotations

import gzip
import heapq
import io
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import zstandard

from otel_aiops.errors import BadInput, TooLarge
from otel_aiops.labels import Labels
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.encode import series_of
from otel_aiops.otlp.json_body import json_to_protobuf
from otel_aiops.otlp.memo import Memo
from otel_aiops.otlp.points import I32, I64, Points, Stream
from otel_aiops.series.tables import NO_TIME, ROW, Rows, TableFile

TABLES = (".csv", ".parquet", ".pq")
BODIES = (".bin", ".pb", ".otlp")
LINES = (".jsonl", ".json")
PACKED = (".gz", ".zst")
SERVICE = "file"  # service.name of series that come from a table

BODY_BYTES = 256 << 20  # of one request in a file, inflated
SORTED_ROWS = 4_000_000  # of tables that are kept in memory; 20 bytes each
MERGED_ROWS = 65_536  # that are taken from each sorted run at once
AHEAD_NS = 300_000_000_000  # a clock in a request that is farther ahead of the others does not count


@dataclass(frozen=True, slots=True)
class Body:
    """One request, or rows of a table that came together: at most one point of each series.

    `now_ns` is when it would have been received; `done_ratio` is how much of its file has been read.
    """

    points: Points
    rejected: int
    path: Path
    now_ns: int
    done_ratio: float


def find(paths: Iterable[Path]) -> list[Path]:
    """The files to read: those that are named, and in folders, at any depth, those with a known ending.

    Raises: BadInput if something is not there, cannot be read here, or nothing is found.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and _form(p) and not p.name.startswith("."))
            found.update(dict.fromkeys(inside))
        elif not path.exists():
            raise BadInput(f"{path}: expected a file or folder, there is none")
        elif not _form(path):
            raise BadInput(f"{path}: expected a name that ends in {_endings()}, got {path.name!r}")
        else:
            found[path] = None
    if not found:
        raise BadInput(
            f"expected files that end in {_endings()}, got none in {', '.join(map(str, paths)) or 'nothing'}"
        )
    return list(found)


def bodies(paths: Sequence[Path]) -> Iterator[Body]:
    """The points of files, as `find` gives them, in the order of event time.

    A table is sorted by time, with memory that does not grow with it. A file of requests keeps its order, files with
    one request each are ordered by their first times, and all of these are merged by the first time of what comes next.
    Raises: BadInput that names the file, the row or line, what was expected and what came.
    """
    by_form: dict[str, list[Path]] = {"table": [], "body": [], "lines": []}
    for path in paths:
        by_form[_form(path)].append(path)
    memo = Memo()
    with tempfile.TemporaryDirectory(prefix="otel-aiops-") as scratch:
        most_rows = SORTED_ROWS // max(1, len(by_form["table"]))
        sources = [_table(path, most_rows, Path(scratch)) for path in by_form["table"]]
        sources += [_lines(path, memo) for path in by_form["lines"]]
        sources.append(_requests(by_form["body"], memo))
        yield from heapq.merge(*sources, key=_first_ns) if len(sources) > 1 else sources[0]


def is_table(path: Path) -> bool:
    """Whether a file holds series as CSV or Parquet, by its name."""
    return _form(path) == "table"


def table_labels(path: Path, name: str) -> Labels:
    """What a series of a table is called."""
    return Labels(name, resource=(("file.path", str(path)), ("service.name", SERVICE)))


def _form(path: Path) -> str:
    """table, body or lines; empty for what is none of them."""
    name = path.name.lower()
    inner = next((name.removesuffix(end) for end in PACKED if name.endswith(end)), name)
    ending = Path(inner).suffix
    if ending in TABLES:
        return "" if inner != name and ending != ".csv" else "table"
    return "body" if ending in BODIES else "lines" if ending in LINES else ""


def _endings() -> str:
    return f"{', '.join((*TABLES, *BODIES, *LINES))} (also with {' or '.join(PACKED)})"


def _first_ns(body: Body) -> int:
    return int(body.points.time_ns.min()) if len(body.points) else body.now_ns


# -- OTLP requests ------------------------------------------------------------------------------------------------


def _requests(paths: Sequence[Path], memo: Memo) -> Iterator[Body]:
    """Files with one request each, in the order of their first times."""
    if len(paths) > 1:
        firsts = [(_first_ns(_request(path, _inflated(path), memo)), path) for path in paths]
        paths = [path for _, path in sorted(firsts)]
    for path in paths:
        yield _request(path, _inflated(path), memo)


def _request(path: Path, data: bytes, memo: Memo, *, done_ratio: float = 1.0, where: str = "") -> Body:
    try:
        decoded = decode_metrics(data, memo)
    except BadInput as error:
        raise BadInput(f"{path}{where}: {error}") from error
    time_ns = decoded.points.time_ns
    now_ns = min(int(time_ns.max()), int(np.median(time_ns)) + AHEAD_NS) if len(time_ns) else 0
    return Body(decoded.points, sum(decoded.rejected.values()), path, now_ns, done_ratio)


def _lines(path: Path, memo: Memo) -> Iterator[Body]:
    """A file with one OTLP/JSON request a line, as the Collector's file exporter writes it, or with just one."""
    size = max(1, path.stat().st_size)
    with _reading(path), path.open("rb") as raw, _opened(path, raw) as file:
        number = 0
        while line := file.readline(BODY_BYTES + 1):
            number += 1
            _bounded(path, line)
            if not line.strip():
                continue
            try:
                data = json_to_protobuf("metrics", line)
            except BadInput as error:
                if number > 1 or path.name.lower().endswith(".jsonl"):
                    raise BadInput(f"{path}: line {number}: {error}") from error
                data = _indented(path, line, file)
            yield _request(path, data, memo, done_ratio=min(1.0, raw.tell() / size), where=f": line {number}")


def _indented(path: Path, first: bytes, file: IO[bytes]) -> bytes:
    """One request over several lines."""
    text = first + file.read(BODY_BYTES + 1)
    _bounded(path, text)
    try:
        return json_to_protobuf("metrics", text)
    except BadInput as error:
        raise BadInput(f"{path}: expected one OTLP/JSON request a line, or one in all: {error}") from error


def _inflated(path: Path) -> bytes:
    with _reading(path), path.open("rb") as raw, _opened(path, raw) as file:
        data = file.read(BODY_BYTES + 1)
        if not data and raw.tell():
            raise BadInput(f"{path}: expected compressed data, got a file that is cut short")
    _bounded(path, data)
    return data


def _opened(path: Path, raw: IO[bytes]) -> IO[bytes]:
    """The inflated content of a file."""
    name = path.name.lower()
    if name.endswith(".gz"):
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]  # close, read and readline are what is used
    if name.endswith(".zst"):
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
    return raw


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what the disk and the compression say of a file into BadInput that names it."""
    try:
        yield
    except OSError as error:  # a bad gzip header is one too
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error, zstandard.ZstdError) as error:
        raise BadInput(f"{path}: expected compressed data, got: {error}") from error


def _bounded(path: Path, data: bytes) -> None:
    if len(data) > BODY_BYTES:
        raise TooLarge(f"{path}: expected requests of at most {BODY_BYTES} bytes each, got a larger one")


# -- tables -------------------------------------------------------------------------------------------------------


def _table(path: Path, most_rows: int, scratch: Path) -> Iterator[Body]:
    """The rows of a table, sorted by time; rows of equal times stay in their order."""
    table = TableFile(path)
    runs = _runs(table, max(MERGED_ROWS, most_rows), scratch)
    total = max(1, sum(map(len, runs)))
    streams = _Streams(path, table.names)
    done = 0
    for rows in _merged(runs):
        for first, end in _scrapes(rows["code"]):
            done += end - first
            points = streams.points(rows[first:end])
            yield Body(points, 0, path, int(points.time_ns[-1]), done / total)


def _runs(table: TableFile, most_rows: int, scratch: Path) -> list[Rows]:
    """All rows that have a time, in runs that are sorted; only the last one is in memory."""
    runs: list[Rows] = []
    waiting: list[Rows] = []
    for part in table.parts():
        waiting.append(part.rows[part.rows["time_ns"] != NO_TIME])
        if sum(map(len, waiting)) >= most_rows:
            rows = _sorted(waiting)
            run = np.memmap(scratch / str(sum(1 for _ in scratch.iterdir())), ROW, "w+", shape=rows.shape)
            run[:] = rows
            runs.append(run)
            waiting = []
    rest = _sorted(waiting)
    return [*runs, rest] if len(rest) else runs


def _sorted(parts: list[Rows]) -> Rows:
    rows = np.concatenate([np.empty(0, ROW), *parts])
    time_ns = rows["time_ns"]
    return rows if (time_ns[1:] >= time_ns[:-1]).all() else rows[np.argsort(time_ns, kind="stable")]


def _merged(runs: Sequence[Rows]) -> Iterator[Rows]:
    """The rows of sorted runs in one order, a stretch of time after the other."""
    at = [0] * len(runs)
    while live := [k for k, run in enumerate(runs) if at[k] < len(run)]:
        until_ns = min(runs[k]["time_ns"][min(at[k] + MERGED_ROWS, len(runs[k])) - 1] for k in live)
        parts = []
        for k in live:
            end = at[k] + int(np.searchsorted(runs[k]["time_ns"][at[k] :], until_ns, side="right"))
            parts.append(np.array(runs[k][at[k] : end]))
            at[k] = end
        yield _sorted(parts)


def _scrapes(code: I32) -> Iterator[tuple[int, int]]:
    """Where stretches of rows begin and end in which no series stands twice."""
    n = len(code)
    before = np.full(n, -1, np.int64)  # the row before of the same series
    order = np.argsort(code, kind="stable")
    same = np.flatnonzero(np.diff(code[order]) == 0)
    before[order[same + 1]] = order[same]
    newest = np.maximum.accumulate(before) if n else before
    first = 0
    while first < n:
        end = int(np.searchsorted(newest, first))
        yield first, end
        first = end


class _Streams:
    """The series of a table as gauges: one for each name, with the file as its resource."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self._streams: list[Stream] = [series_of(table_labels(path, name))[0] for name in names]

    def points(self, rows: Rows) -> Points:
        """The points of N rows of different series."""
        n = len(rows)
        time_ns: I64 = rows["time_ns"].astype(np.int64)
        return Points(
            streams=tuple([self._streams[code] for code in rows["code"].tolist()]),
            stream=np.arange(n, dtype=np.int32),
            attributes=[b""] * n,
            start_ns=np.zeros(n, np.int64),
            time_ns=time_ns,
            value=rows["value"].astype(np.float64),
            count=np.full(n, np.nan),
            stale=np.zeros(n, bool),
            layouts=(),
            layout=np.full(n, -1, np.int32),
            cells=np.empty(0),
            cell_offset=np.zeros(n + 1, np.int64),
        )
