"""Scored points on the disk: buffered, written by hour, merged, read and deleted without doubling or losing any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.errors import StateError, StorageError
from otel_aiops.series import rows, segments
from otel_aiops.series.rows import Buffer, Columns, Recorded
from otel_aiops.series.segments import HOUR_NS, Segments

HOUR_0 = 1_777_816_800_000_000_000  # 2026-05-03T14:00:00Z
DIRECTORY_0 = "date=2026-05-03/hour=14"


def recorded(rows_: list[int], time_ns: Any, value: Any = 1.0, *, fingerprint: list[int] | None = None) -> Recorded:
    count = len(rows_)
    return Recorded(
        rows=np.array(rows_, np.int32),
        fingerprint=np.array(fingerprint or [1000 + r for r in rows_], np.uint64),
        time_ns=np.broadcast_to(np.asarray(time_ns, np.int64), (count,)),
        value=np.broadcast_to(np.asarray(value, np.float64), (count,)),
        score=np.full(count, 0.5),
    )


def describe(some: Any) -> list[str]:
    return [f"up{{row={row}}}" for row in some.tolist()]


def columns(points: list[tuple[str, int, float]]) -> Columns:
    texts = sorted({text for text, _, _ in points})
    code = np.array([texts.index(text) for text, _, _ in points], np.int32)
    return Columns(
        code=code,
        time_ns=np.array([time_ns for _, time_ns, _ in points], np.int64),
        value=np.array([value for _, _, value in points]),
        score=np.zeros(len(points), np.float32),
        texts=texts,
        fingerprints=np.array([hash(text) & 0xFFFF for text in texts], np.uint64),
    )


def points_of(table: pa.Table) -> list[tuple[str, int, float]]:
    times = table["timestamp"].cast(pa.int64()).to_pylist()
    return sorted(zip(table["series"].to_pylist(), times, table["value"].to_pylist(), strict=True))


@pytest.fixture
def store(tmp_path: Path) -> Segments:
    found = Segments(tmp_path / "segments")
    found.open(0)
    return found


def files(tmp_path: Path) -> list[str]:
    root = tmp_path / "segments"
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def name(first: int, last: int, kind: str = "") -> str:
    return f"{first:020d}-{last:020d}{kind}.parquet"


# --- the buffer ----------------------------------------------------------------------------------------------------


def test_the_buffer_gives_back_what_belongs_to_a_snapshot() -> None:
    buffer = Buffer()
    buffer.add(1, recorded([0, 5], HOUR_0, [1.0, 2.0]), describe)
    buffer.add(2, recorded([5], HOUR_0 + 1, 3.0), describe)
    buffer.add(3, recorded([7], HOUR_0 + 2, 4.0), describe)
    assert buffer.bytes == 4 * rows.BYTES_A_ROW
    found = buffer.through(2)
    assert [found.texts[c] for c in found.code] == ["up{row=0}", "up{row=5}", "up{row=5}"]
    assert found.fingerprints[found.code].tolist() == [1000, 1005, 1005]
    assert found.value.tolist() == [1, 2, 3]
    assert found.time_ns.tolist() == [HOUR_0, HOUR_0, HOUR_0 + 1]
    assert found.score.dtype == np.float32
    buffer.drop(2)
    assert buffer.bytes == rows.BYTES_A_ROW
    assert buffer.through(9).value.tolist() == [4]


def test_an_empty_buffer() -> None:
    buffer = Buffer()
    assert len(buffer.through(9)) == 0
    buffer.add(1, recorded([], []), describe)
    buffer.drop(9)
    assert buffer.bytes == 0


def test_a_series_is_described_once_and_again_when_its_row_gets_another() -> None:
    asked: list[list[int]] = []

    def ask(some: Any) -> list[str]:
        asked.append(some.tolist())
        return [f"{len(asked)}:{row}" for row in some]

    buffer = Buffer()
    buffer.add(1, recorded([3, 1], HOUR_0), ask)
    buffer.add(2, recorded([1, 3, 2], HOUR_0), ask)
    buffer.add(3, recorded([3], HOUR_0, fingerprint=[77]), ask)
    assert asked == [[1, 3], [2], [3]]
    found = buffer.through(3)
    assert [found.texts[c] for c in found.code] == ["1:3", "1:1", "1:1", "1:3", "2:2", "3:3"]
    assert found.fingerprints[found.code].tolist() == [1003, 1001, 1001, 1003, 1002, 77]


def test_many_texts_are_forgotten_and_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "NAMES_KEPT", 2)
    buffer = Buffer()
    buffer.add(1, recorded([0, 1, 2], HOUR_0), describe)
    buffer.add(2, recorded([2], HOUR_0), describe)
    buffer.drop(1)
    buffer.add(3, recorded([2, 0], HOUR_0), describe)
    found = buffer.through(3)
    assert [found.texts[c] for c in found.code] == ["up{row=2}", "up{row=2}", "up{row=0}"]
    assert len(buffer._names.texts) == 2


def test_columns_and_texts_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"equally long, got lengths \[1, 2\]"):
        Recorded(*(np.zeros(n) for n in (1, 2, 2, 2, 2)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the texts of 1 series, got 0"):
        Buffer().add(1, recorded([0], HOUR_0), lambda _: [])


def test_the_buffer_keeps_copies() -> None:
    buffer = Buffer()
    value = np.array([1.0])
    buffer.add(1, Recorded(np.array([0], np.int32), np.array([1], np.uint64), np.array([1]), value, value), describe)
    value[0] = 9
    assert buffer.through(1).value.tolist() == [1]


# --- writing and reading -------------------------------------------------------------------------------------------


def test_points_are_written_by_hour_of_event_time(store: Segments, tmp_path: Path) -> None:
    points = [("b", HOUR_0 + HOUR_NS, 2.0), ("a", HOUR_0, 1.0), ("a", HOUR_0 + HOUR_NS - 1, 3.0), ("c", -1, 4.0)]
    size = store.write(1, 9, columns(points))
    expected = [f"date=1969-12-31/hour=23/{name(1, 9)}"]
    expected += [f"{DIRECTORY_0}/{name(1, 9)}", f"date=2026-05-03/hour=15/{name(1, 9)}"]
    assert files(tmp_path) == expected
    paths = [tmp_path / "segments" / path for path in expected]
    assert size == sum(path.stat().st_size for path in paths)
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
    assert paths[0].parent.stat().st_mode & 0o777 == 0o700
    assert points_of(store.read(-HOUR_NS, HOUR_0 + 2 * HOUR_NS)) == sorted(points)


def test_the_columns_are_as_promised_also_for_other_tools(store: Segments, tmp_path: Path) -> None:
    store.write(1, 1, columns([("a", HOUR_0 + 1, 1.5), ("b", HOUR_0 + 2, float("nan"))]))
    path = tmp_path / "segments" / files(tmp_path)[0]
    table = pq.ParquetFile(path).read()
    assert [(f.name, str(f.type)) for f in table.schema] == [
        ("series", "dictionary<values=string, indices=int32, ordered=0>"),
        ("fingerprint", "uint64"),
        ("timestamp", "timestamp[ns, tz=UTC]"),
        ("value", "double"),
        ("score", "float"),
    ]
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    pattern = str(tmp_path / "segments" / "**" / "*.parquet")
    query = f"select series, epoch_ns(timestamp), value, date::varchar, hour from '{pattern}' order by series"
    with duckdb.connect() as database:
        assert database.sql(query).fetchall()[0] == ("a", HOUR_0 + 1, 1.5, "2026-05-03", 14)


def test_reading_takes_a_half_open_time_and_some_series(store: Segments) -> None:
    points = [(s, HOUR_0 + n, float(n)) for n in range(5) for s in ("a", "b", "c")]
    store.write(1, 1, columns(points))
    assert points_of(store.read(HOUR_0 + 1, HOUR_0 + 3)) == sorted(p for p in points if 1 <= p[2] < 3)
    assert points_of(store.read(HOUR_0, HOUR_0 + 9, "b")) == [p for p in points if p[0] == "b"]
    assert len(store.read(HOUR_0, HOUR_0 + 9, ["a", "c", "nobody"])) == 10
    assert len(store.read(HOUR_0, HOUR_0 + 9, [])) == 0
    empty = store.read(0, 1)
    assert empty.num_rows == 0
    assert empty.schema == store.read(HOUR_0, HOUR_0 + 9).schema


def test_reading_before_anything_was_written(tmp_path: Path) -> None:
    assert Segments(tmp_path / "nothing").read(0, HOUR_0).num_rows == 0


def test_files_of_others_are_left_alone(store: Segments, tmp_path: Path) -> None:
    store.write(1, 1, columns([("a", HOUR_0, 1.0)]))
    others = ["date=someday/hour=1/x", "date=2026-13-01/hour=01/x", "hour=03", "date=2026-05-03/date=1/x"]
    for path in (f"{DIRECTORY_0}/notes.txt", *others, *(f"date=2026-05-03/hour={n}-{n}/x" for n in range(24))):
        target = tmp_path / "segments" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    before = files(tmp_path)
    store.open(1)
    assert len(store.read(HOUR_0, HOUR_0 + 1)) == 1
    assert files(tmp_path) == before


def test_nothing_stays_of_a_write_that_fails(store: Segments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = segments._write_file, []

    def second_fails(path: Path, tables: Any) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(path, tables)

    monkeypatch.setattr(segments, "_write_file", second_fails)
    with pytest.raises(StorageError, match="No space left"):
        store.write(1, 1, columns([("a", HOUR_0 + n * HOUR_NS, 1.0) for n in range(3)]))
    assert files(tmp_path) == []


@settings(max_examples=100, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_file_is_named_or_reads_as_before(
    tmp_path_factory: pytest.TempPathFactory, where: float, flip: int, cut: bool
) -> None:
    store = Segments(tmp_path_factory.mktemp("damaged"))
    points = [("abc"[n % 3], HOUR_0 + n, float(n)) for n in range(40)]
    store.write(1, 1, columns(points))
    path = store.parts()[0].path
    data = bytearray(path.read_bytes())
    at = int(where * len(data))
    data[at] ^= flip
    path.write_bytes(data[:at] if cut else data)
    try:
        assert points_of(store.read(HOUR_0, HOUR_0 + HOUR_NS)) == sorted(points)
        assert not cut
    except StateError as error:
        assert str(path) in str(error)
    assert store.compact(HOUR_0 + HOUR_NS, through=1) == 1 - len(store.damages)
    assert points_of(store.read(HOUR_0, HOUR_0 + HOUR_NS)) == ([] if store.damages else sorted(points))


# --- merging -------------------------------------------------------------------------------------------------------


def test_a_past_hour_becomes_one_sorted_file(store: Segments, tmp_path: Path) -> None:
    store.write(1, 3, columns([("b", HOUR_0 + 2, 1.0), ("a", HOUR_0 + 9, 2.0), ("a", HOUR_0 + 1, 3.0)]))
    store.write(4, 6, columns([("c", HOUR_0 + 1, 4.0), ("a", HOUR_0 + 5, 5.0), ("a", HOUR_0 + HOUR_NS, 6.0)]))
    before = points_of(store.read(HOUR_0, HOUR_0 + 2 * HOUR_NS))
    assert store.compact(HOUR_0 + HOUR_NS - 1, through=6) == 0
    assert store.compact(HOUR_0 + HOUR_NS, through=6) == 1
    assert files(tmp_path) == [f"{DIRECTORY_0}/{name(1, 6, '.sorted')}", f"date=2026-05-03/hour=15/{name(4, 6)}"]
    table = pq.ParquetFile(tmp_path / "segments" / files(tmp_path)[0]).read()
    order = list(zip(table["series"].to_pylist(), table["timestamp"].cast(pa.int64()).to_pylist(), strict=True))
    assert order == sorted(order)
    assert points_of(store.read(HOUR_0, HOUR_0 + 2 * HOUR_NS)) == before
    assert store.compact(HOUR_0 + HOUR_NS, through=6) == 0, "once is enough"


def test_late_points_are_merged_in(store: Segments, tmp_path: Path) -> None:
    for sequence in (1, 2, 3):
        store.write(sequence, sequence, columns([("a", HOUR_0 - sequence, float(sequence))]))
        store.compact(HOUR_0, through=sequence)
    assert [path.split("/")[-1] for path in files(tmp_path)] == [name(1, 3, ".sorted")]
    assert store.read(0, HOUR_0)["value"].to_pylist() == [3, 2, 1]


def test_files_after_the_given_sequence_are_not_merged(store: Segments, tmp_path: Path) -> None:
    store.write(1, 1, columns([("a", HOUR_0, 1.0)]))
    store.write(2, 2, columns([("a", HOUR_0, 2.0)]))
    assert store.compact(HOUR_0 + HOUR_NS, through=1) == 1
    assert [path.split("/")[-1] for path in files(tmp_path)] == [name(1, 1, ".sorted"), name(2, 2)]


series_points = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.integers(HOUR_0, HOUR_0 + 50), st.floats(-9, 9)), min_size=1, max_size=30
)


@settings(max_examples=30, deadline=None)
@given(parts=st.lists(series_points, min_size=1, max_size=4), limit=st.integers(1, 40))
def test_merging_in_bounded_memory_gives_the_same_points(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[tuple[str, int, float]]], limit: int
) -> None:
    store = Segments(tmp_path_factory.mktemp("merge"))
    for sequence, points in enumerate(parts, 1):
        store.write(sequence, sequence, columns(points))
    store.compact(HOUR_0 + HOUR_NS, through=9, rows=limit)
    assert len(store.parts()) == 1
    table = store.read(HOUR_0, HOUR_0 + HOUR_NS)
    assert points_of(table) == sorted(p for points in parts for p in points)
    assert table["series"].to_pylist() == sorted(table["series"].to_pylist())
    assert table["fingerprint"].to_pylist() == [hash(s) & 0xFFFF for s in table["series"].to_pylist()]


def test_a_reader_that_is_overtaken_by_a_merge_looks_again(
    store: Segments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sequence in (1, 2):
        store.write(sequence, sequence, columns([("a", HOUR_0 + sequence, float(sequence))]))
    real, calls = segments._read_file, []

    def overtaken(path: Path, wanted: Any) -> pa.Table:
        calls.append(path)
        if len(calls) == 2:
            store.compact(HOUR_0 + HOUR_NS, through=2)
        return real(path, wanted)

    monkeypatch.setattr(segments, "_read_file", overtaken)
    assert store.read(HOUR_0, HOUR_0 + HOUR_NS)["value"].to_pylist() == [1, 2]
    assert len(calls) == 3


def test_a_reader_that_is_overtaken_by_retention_finds_the_hour_empty(
    store: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(1, 1, columns([("a", HOUR_0, 1.0), ("a", HOUR_0 + HOUR_NS, 2.0)]))
    real = segments._read_file

    def overtaken(path: Path, wanted: Any) -> pa.Table:
        store.enforce(HOUR_0 + HOUR_NS + 1, keep_s=0, keep_bytes=1 << 40)
        return real(path, wanted)

    monkeypatch.setattr(segments, "_read_file", overtaken)
    assert store.read(HOUR_0, HOUR_0 + 2 * HOUR_NS)["value"].to_pylist() == [2]


def test_a_reader_gives_up_when_files_vanish_every_time(store: Segments, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(1, 1, columns([("a", HOUR_0, 1.0)]))

    def gone(path: Path, wanted: Any) -> pa.Table:
        raise FileNotFoundError(path)

    monkeypatch.setattr(segments, "_read_file", gone)
    with pytest.raises(StorageError, match="vanish"):
        store.read(HOUR_0, HOUR_0 + 1)


def test_a_damaged_file_is_set_aside_and_the_rest_of_its_hour_is_merged(store: Segments, tmp_path: Path) -> None:
    for sequence in (1, 2, 3):
        points = [("a", HOUR_0 + sequence, float(sequence)), ("a", HOUR_0 + HOUR_NS, float(sequence))]
        store.write(sequence, sequence, columns(points))
    path = store.parts()[1].path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StateError, match=str(path)):
        store.read(HOUR_0, HOUR_0 + HOUR_NS)
    assert store.compact(HOUR_0 + 2 * HOUR_NS, through=3) == 1, "another hour does not wait for it"
    assert store.compact(HOUR_0 + 2 * HOUR_NS, through=3) == 1
    assert [str(path) in note for note in store.damages] == [True]
    aside = f"{DIRECTORY_0}/{name(2, 2)}.damaged"
    expected = [f"{DIRECTORY_0}/{name(1, 3, '.sorted')}", aside, f"date=2026-05-03/hour=15/{name(1, 3, '.sorted')}"]
    assert files(tmp_path) == expected
    assert store.read(HOUR_0, HOUR_0 + HOUR_NS)["value"].to_pylist() == [1, 3]
    store.open(3)
    assert files(tmp_path) == expected, "it stays for a closer look"
    store.enforce(HOUR_0 + 2 * HOUR_NS, keep_s=3600, keep_bytes=1 << 40)
    assert files(tmp_path) == expected[2:], "as long as its hour"


def test_an_hour_of_which_all_is_set_aside_ends_too(store: Segments, tmp_path: Path) -> None:
    store.write(1, 1, columns([("a", HOUR_0, 1.0)]))
    path = store.parts()[0].path
    path.write_bytes(b"PAR1 no more")
    assert store.compact(HOUR_0 + HOUR_NS, through=1) == 0
    assert files(tmp_path) == [f"{DIRECTORY_0}/{name(1, 1)}.damaged"]
    assert store.enforce(HOUR_0 + HOUR_NS, keep_s=1, keep_bytes=1) == (0, 0)
    assert files(tmp_path), "not yet"
    assert store.enforce(HOUR_0 + 2 * HOUR_NS, keep_s=3600, keep_bytes=1) == (0, 0)
    assert list((tmp_path / "segments").iterdir()) == []


def test_a_file_with_fewer_rows_than_its_footer_says_is_damaged(
    store: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(1, 1, columns([("a", HOUR_0, 1.0), ("a", HOUR_0 + 1, 1.0)]))
    real = pq.ParquetFile.iter_batches

    def fewer(*args: Any, **kwargs: Any) -> Any:
        for batch in real(*args, **kwargs):
            yield batch.slice(1)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", fewer)
    assert store.compact(HOUR_0 + HOUR_NS, through=1) == 0
    assert "expected 2 rows, got 1" in store.damages[0]


# --- recovery ------------------------------------------------------------------------------------------------------


def test_files_after_the_snapshot_are_deleted(store: Segments, tmp_path: Path) -> None:
    for first, last in ((1, 4), (5, 8), (9, 9)):
        store.write(first, last, columns([("a", HOUR_0, float(last))]))
    (tmp_path / "segments" / DIRECTORY_0 / "x.parquet.tmp").touch()
    assert store.open(8) == 8
    assert [path.split("/")[-1] for path in files(tmp_path)] == [name(1, 4), name(5, 8)]
    assert store.open(0) == 0
    assert files(tmp_path) == []
    assert list((tmp_path / "segments").iterdir()) == [], "empty directories go too"


def test_a_merged_file_that_reaches_beyond_the_snapshot_counts_as_a_whole(store: Segments, tmp_path: Path) -> None:
    for first, last in ((1, 4), (5, 8), (9, 12)):
        store.write(first, last, columns([("a", HOUR_0, float(last)), ("a", HOUR_0 + HOUR_NS, float(last))]))
        if last == 8:
            store.compact(HOUR_0 + HOUR_NS, through=8)
    assert store.open(4) == 8
    expected = [f"{DIRECTORY_0}/{name(1, 8, '.sorted')}"]
    expected += [f"date=2026-05-03/hour=15/{name(*r)}" for r in ((1, 4), (5, 8))]
    assert files(tmp_path) == expected


def test_a_crash_between_merging_and_deleting_doubles_nothing(store: Segments, tmp_path: Path) -> None:
    for sequence in (1, 2):
        store.write(sequence, sequence, columns([("a", HOUR_0, float(sequence))]))
    kept = {path: (tmp_path / "segments" / path).read_bytes() for path in files(tmp_path)}
    store.compact(HOUR_0 + HOUR_NS, through=2)
    for path, content in kept.items():
        (tmp_path / "segments" / path).write_bytes(content)
    assert store.read(HOUR_0, HOUR_0 + 1)["value"].to_pylist() == [1, 2]
    assert store.compact(HOUR_0 + HOUR_NS, through=2) == 0
    store.open(2)
    assert len(files(tmp_path)) == 1
    assert store.read(HOUR_0, HOUR_0 + 1)["value"].to_pylist() == [1, 2]


# --- retention -----------------------------------------------------------------------------------------------------


def test_retention_by_age_and_size(store: Segments, tmp_path: Path) -> None:
    for hour in range(4):
        store.write(hour, hour, columns([("a", HOUR_0 + hour * HOUR_NS, 1.0)]))
    size = (tmp_path / "segments" / files(tmp_path)[0]).stat().st_size
    now_ns = HOUR_0 + 3 * HOUR_NS
    assert store.enforce(now_ns, keep_s=3 * 3600, keep_bytes=4 * size) == (0, 0)
    assert store.enforce(now_ns, keep_s=2 * 3600, keep_bytes=4 * size) == (1, size)
    assert store.enforce(now_ns, keep_s=9 * 3600, keep_bytes=2 * size) == (1, size)
    assert [part.hour - HOUR_0 // HOUR_NS for part in store.parts()] == [2, 3]
    assert store.enforce(now_ns, keep_s=9 * 3600, keep_bytes=0) == (2, 2 * size)
    assert list((tmp_path / "segments").iterdir()) == []
