"""Tables of series: rows of CSV and Parquet files with their times, values and names, read in bounded batches."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv, parquet

from otel_aiops.errors import BadInput
from otel_aiops.otlp.points import F64, I64

TIME, VALUE, SERIES = "timestamp", "value", "series"
BATCH_ROWS = 65_536
BLOCK_BYTES = 1 << 20  # of CSV text that is read at once
ABSENT_WORDS = ("", "nan", "null", "none", "na", "n/a", "nil", "-")
NO_TIME = np.iinfo(np.int64).min  # as in numpy, where it is NaT

# A row of a table: `code` indexes the names of the series.
ROW = np.dtype([("time_ns", "i8"), ("value", "f8"), ("code", "i4")])
Rows = np.ndarray[Any, np.dtype[np.void]]

# A number of seconds since the epoch is below 1e11 until the year 5138, one of milliseconds is above it since 1973.
_UNITS = ((1e11, 1_000_000_000), (1e14, 1_000_000), (1e17, 1_000), (math.inf, 1))
_ZONE = r"([Zz]|[+-]\d\d(:?\d\d)?)$"
_FORMS = "a time in ISO 8601 or a number of seconds since 1970"
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Part:
    """N rows of a file: as they stand there (the columns that were asked for), and as numbers (N,) of dtype ROW."""

    columns: pa.Table
    rows: Rows


@dataclass(slots=True)
class _Place:
    """Where in a file the reading is, for messages."""

    path: Path
    row: int = 0  # rows before this batch
    unit_ns: int = 0  # of numbers in the column of times, 0 before the first one

    def bad(self, k: int, column: str, expected: str, came: object) -> BadInput:
        shown = repr(came)
        shown = shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."
        return BadInput(f"{self.path}: row {self.row + k + 1}, column {column}: expected {expected}, got {shown}")


@dataclass(slots=True)
class TableFile:
    """A CSV or Parquet file with columns `timestamp`, `value` and, if it holds several series, `series`.

    `names` are the series in the order of their first rows; without a name a series is called like the file.
    `total` is the number of rows where the file says it (Parquet), else 0.
    """

    path: Path
    names: list[str] = field(default_factory=list)
    total: int = 0
    _codes: dict[str, int] = field(default_factory=dict)

    def parts(self, *, everything: bool = False) -> Iterator[Part]:
        """All rows in the order of the file; with `everything` also the columns that are not needed.

        Raises: BadInput that names file, row, what was expected and what came.
        """
        place = _Place(self.path)
        with reading(self.path, _what(self.path)):
            for columns in self._batches(everything):
                yield Part(columns, self._rows(columns, place))
                place.row += columns.num_rows

    @property
    def stem(self) -> str:
        """What a series without a name is called."""
        return self.path.name.split(".")[0] or self.path.name

    def _batches(self, everything: bool) -> Iterator[pa.Table]:
        if is_parquet(self.path):
            with parquet.ParquetFile(self.path) as file:
                wanted = _wanted(self.path, file.schema_arrow.names, everything)
                self.total = file.metadata.num_rows
                if not self.total:
                    yield file.schema_arrow.empty_table().select(wanted)
                for batch in file.iter_batches(BATCH_ROWS, columns=wanted):
                    yield pa.Table.from_batches([batch])
            return
        reading = csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False)
        parsing = csv.ParseOptions(newlines_in_values=True)
        with csv.open_csv(self.path, read_options=reading, parse_options=parsing) as probe:
            names = probe.schema.names
        wanted = _wanted(self.path, names, everything)
        texts = csv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted)
        with csv.open_csv(self.path, read_options=reading, parse_options=parsing, convert_options=texts) as reader:
            if first := next(iter(reader), None):
                yield pa.Table.from_batches([first])
            else:
                yield reader.schema.empty_table()
            for batch in reader:
                yield pa.Table.from_batches([batch])

    def _rows(self, columns: pa.Table, place: _Place) -> Rows:
        rows = np.empty(columns.num_rows, ROW)
        rows["time_ns"] = _times(_whole(columns[TIME]), place)
        rows["value"] = _values(_whole(columns[VALUE]), place)
        rows["code"] = self._series(columns)
        return rows

    def _series(self, columns: pa.Table) -> NDArray[np.int32]:
        if SERIES not in columns.column_names:
            return np.full(columns.num_rows, self._code(self.stem), np.int32)
        encoded = _whole(pc.cast(columns[SERIES], pa.string()).fill_null("")).dictionary_encode()
        codes = np.array([self._code(name or self.stem) for name in encoded.dictionary.to_pylist()], np.int32)
        return codes[encoded.indices.to_numpy(zero_copy_only=False)] if len(codes) else np.empty(0, np.int32)

    def _code(self, name: str) -> int:
        code = self._codes.setdefault(name, len(self.names))
        if code == len(self.names):
            self.names.append(name)
        return code


def is_parquet(path: Path) -> bool:
    """Whether a name says Parquet."""
    return path.suffix.lower() in (".parquet", ".pq")


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn what libraries and the disk say of a file into BadInput that names the file and what it should be."""
    try:
        yield
    except pa.ArrowException as error:
        raise BadInput(f"{path}: expected {what}, got: {error}") from error
    except FileNotFoundError as error:
        raise BadInput(f"{path}: expected {what}, there is no such file") from error
    except OSError as error:  # Arrow raises plain ones too
        raise BadInput(f"{path}: expected {what}, got: {error.strerror or error}") from error


def _what(path: Path) -> str:
    return "Parquet" if is_parquet(path) else "CSV with a header"


def _wanted(path: Path, names: list[str], everything: bool) -> list[str]:
    """The columns to read."""
    missing = [name for name in (TIME, VALUE) if name not in names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if missing or twice:
        got = f"{', '.join(twice)} twice" if twice else ", ".join(map(repr, names[:20])) or "none"
        raise BadInput(f"{path}: expected the columns {TIME}, {VALUE} and, for several series, {SERIES}, got {got}")
    return names if everything else [name for name in (TIME, VALUE, SERIES) if name in names]


def _whole(column: Any) -> Any:
    """One array instead of chunks."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


# -- times --------------------------------------------------------------------------------------------------------


def _times(column: Any, place: _Place) -> I64:
    """Times in ns since the epoch, NO_TIME where there is none."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        zone = kind.tz if pa.types.is_timestamp(kind) else None
        column = pc.cast(column, pa.timestamp("ns", zone)).cast(pa.int64())
        found: I64 = column.fill_null(NO_TIME).to_numpy(zero_copy_only=False)
        return found
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _numbers(column, column, place)
    if pa.types.is_dictionary(kind):
        return _times(column.dictionary_decode(), place)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise place.bad(0, TIME, _FORMS, str(kind))
    text = pc.utf8_trim_whitespace(pc.cast(column, pa.string()).fill_null(""))
    text = pc.if_else(pc.is_in(pc.utf8_lower(text), pa.array(ABSENT_WORDS)), pa.scalar(None, pa.string()), text)
    first = next((one for one in text.to_pylist() if one is not None), None) if not place.unit_ns else ""
    if first is None:
        return np.full(len(text), NO_TIME, np.int64)
    if place.unit_ns > 0 or (not place.unit_ns and _number(first) is not None):
        try:
            return _numbers(_parsed(text), text, place)
        except pa.ArrowInvalid:
            k, came = next((k, v) for k, v in enumerate(text.to_pylist()) if v is not None and _number(v) is None)
            raise place.bad(k, TIME, "a number, as in the rows before", came) from None
    place.unit_ns = -1  # texts from now on
    return _texts(text, place)


def _parsed(text: Any) -> Any:
    """Texts as whole numbers, or as numbers with a fraction. Raises: ArrowInvalid."""
    try:
        return pc.cast(text, pa.int64())
    except pa.ArrowInvalid:
        return pc.cast(text, pa.float64())


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _numbers(column: Any, came: Any, place: _Place) -> I64:
    """Numbers since the epoch; the size of the first one tells the unit."""
    absent = column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    floating = pa.types.is_floating(column.type)
    numbers = column.fill_null(0).to_numpy(zero_copy_only=False)
    numbers = np.where(absent, 0, numbers).astype(np.float64 if floating else np.int64)
    if absent.all():
        return np.full(len(numbers), NO_TIME, np.int64)
    if not place.unit_ns:
        size = abs(float(numbers[~absent][0]))
        place.unit_ns = next(unit for limit, unit in _UNITS if size < limit or limit == math.inf)
    far = ~(np.abs(numbers) < 2.0**63 / place.unit_ns)
    if far.any():
        k = int(np.flatnonzero(far)[0])
        raise place.bad(k, TIME, "a time between the years 1678 and 2262", came[k].as_py())
    if floating:
        whole = np.floor(numbers)
        # A double of today's seconds is good to a quarter of a microsecond; more digits would be invented.
        steps = max(1, place.unit_ns // 1_000)
        part = np.round((numbers - whole) * steps).astype(np.int64) * (place.unit_ns // steps)
        time_ns = whole.astype(np.int64) * place.unit_ns + part
    else:
        time_ns = numbers * place.unit_ns
    return np.where(absent, NO_TIME, time_ns)


def _texts(text: Any, place: _Place) -> I64:
    """Times in ISO 8601; without a zone they are UTC."""
    zoned = pc.match_substring_regex(text, f"[T ].*{_ZONE}").fill_null(False)
    try:
        plain = pc.cast(pc.if_else(zoned, pa.scalar(None, pa.string()), text), pa.timestamp("ns"))
        aware = pc.cast(pc.if_else(zoned, text, pa.scalar(None, pa.string())), pa.timestamp("ns", "UTC"))
    except pa.ArrowInvalid:
        return _one_by_one(text, place)
    found: I64 = (
        pc.coalesce(plain.cast(pa.int64()), aware.cast(pa.int64())).fill_null(NO_TIME).to_numpy(zero_copy_only=False)
    )
    return found


def _one_by_one(text: Any, place: _Place) -> I64:
    """The forms that Arrow does not know, and the row of what nobody knows."""
    found = np.full(len(text), NO_TIME, np.int64)
    for k, one in enumerate(text.to_pylist()):
        if one is None:
            continue
        try:
            at = datetime.fromisoformat(one)
        except ValueError:
            raise place.bad(k, TIME, "a time in ISO 8601, as 2026-05-03T14:00:00Z", one) from None
        since = (at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
        time_ns = ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000
        if not abs(time_ns) < 2**63:
            raise place.bad(k, TIME, "a time between the years 1678 and 2262", one)
        digits = re.search(r"[.,]\d{6}(\d{1,3})", one)  # fromisoformat cuts what is below a microsecond
        found[k] = time_ns + (int(digits[1].ljust(3, "0")) if digits else 0)
    return found


# -- values -------------------------------------------------------------------------------------------------------


def _values(column: Any, place: _Place) -> F64:
    """Values, NaN where there is none."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _values(column.dictionary_decode(), place)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = pc.utf8_trim_whitespace(column)
        absent = pc.is_in(pc.utf8_lower(text), pa.array(ABSENT_WORDS, kind))
        try:
            column = pc.cast(pc.if_else(absent, pa.scalar(None, kind), text), pa.float64())
        except pa.ArrowInvalid:
            known = zip(text.to_pylist(), absent.to_pylist(), strict=True)
            bad = [k for k, (one, gone) in enumerate(known) if one and not gone and _number(one) is None]
            if not bad:  # a form of number that only Python knows
                column = pa.array([_number(one) if one else None for one in text.to_pylist()], pa.float64())
            else:
                raise place.bad(bad[0], VALUE, "a number", text[bad[0]].as_py()) from None
    elif not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    ):
        raise place.bad(0, VALUE, "a number", str(kind))
    if pa.types.is_boolean(kind):
        column = pc.cast(column, pa.int8())
    found: F64 = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return found
