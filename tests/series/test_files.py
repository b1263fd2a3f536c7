"""Files of series: what is read of CSV, Parquet and OTLP bodies, in which order, and what errors say."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_aiops.errors import BadInput, TooLarge
from otel_aiops.labels import Labels
from otel_aiops.otlp.encode import encode_series, series_of
from otel_aiops.series import files
from otel_aiops.series.files import Body, bodies, find
from otel_aiops.series.tables import NO_TIME, TableFile

S = 1_000_000_000
T0 = 1_700_000_000


def read(path: Path) -> list[tuple[str, int, float]]:
    """Every row of a table: series, time, value."""
    table = TableFile(path)
    rows = [row for part in table.parts() for row in part.rows.tolist()]
    return [(table.names[code], time_ns, value) for time_ns, value, code in rows]


def points(paths: Sequence[Path]) -> list[tuple[str, int, float]]:
    """Every point in the order in which it comes."""
    found = []
    for body in bodies(find(paths)):
        p = body.points
        for k in range(len(p)):
            found.append((p.streams[p.stream[k]].name, int(p.time_ns[k]), float(p.value[k])))
    return found


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def request(name: str, times_s: Sequence[float], value: float = 1.0) -> bytes:
    series = [series_of(Labels(name, resource=(("service.name", "shop"),)))]
    time_ns = np.array([int(t * S) for t in times_s], np.int64)
    (one,) = encode_series(series, np.zeros(len(time_ns), np.int64), time_ns, np.full(len(time_ns), value))
    return one.body


def json_line(name: str, time_s: int) -> str:
    point = {"timeUnixNano": str(time_s * S), "asDouble": 2.5}
    metric = {"name": name, "gauge": {"dataPoints": [point]}}
    return json.dumps({"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]})


# -- times and values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected_ns"),
    [
        ("1700000000", T0 * S),
        ("1700000000.25", T0 * S + S // 4),
        ("1700000000250", T0 * S + S // 4),
        ("1700000000250.5", T0 * S + S // 4 + 500_000),
        ("1700000000250000", T0 * S + S // 4),
        ("1700000000250000001", T0 * S + S // 4 + 1),
        ("0", 0),
        ("-5", -5 * S),
        ("2023-11-14T22:13:20Z", T0 * S),
        ("2023-11-14 22:13:20", T0 * S),
        ("2023-11-14T22:13:20", T0 * S),
        ("2023-11-14T23:13:20.5+01:00", T0 * S + S // 2),
        ("2023-11-14T21:13:20.123456789-0100", T0 * S + 123_456_789),
        ("20231114T221320Z", T0 * S),
        ("20231114T221320.123456789", T0 * S + 123_456_789),
        (" 2023-11-14T22:13:20Z ", T0 * S),
        ("2023-11-14", T0 * S - 80_000 * S),
    ],
)
def test_a_time_is_read_in_every_form(tmp_path: Path, written: str, expected_ns: int) -> None:
    path = write(tmp_path / "cpu.csv", f"timestamp,value\n{written},1.5\n")
    assert read(path) == [("cpu", expected_ns, 1.5)]


def test_zones_may_differ_from_row_to_row(tmp_path: Path) -> None:
    text = "timestamp,value\n2023-11-14T22:13:20Z,1\n2023-11-14T22:13:21,2\n2023-11-14T23:13:22+01:00,3\n"
    assert [t for _, t, _ in read(write(tmp_path / "a.csv", text))] == [T0 * S, (T0 + 1) * S, (T0 + 2) * S]


def test_the_first_number_tells_the_unit_of_all(tmp_path: Path) -> None:
    rows = "".join(f"{1_700_000_000_000 + k},{k}\n" for k in range(40_000))
    found = read(write(tmp_path / "a.csv", f"timestamp,value\n,0\n{rows}"))
    assert found[0][1] == NO_TIME
    assert [t for _, t, _ in found[1:]] == [T0 * S + k * 1_000_000 for k in range(40_000)]


@pytest.mark.parametrize("word", ["", "NaN", "null", "None", "N/A", " "])
def test_absent_values_and_times_are_absent_not_zero(tmp_path: Path, word: str) -> None:
    (first, second) = read(write(tmp_path / "a.csv", f"timestamp,value\n{word},1\n1700000000,{word}\n"))
    assert first[1] == NO_TIME and first[2] == 1
    assert second[1] == T0 * S and np.isnan(second[2])


def test_columns_may_stand_in_any_order_between_others(tmp_path: Path) -> None:
    text = 'host,value,"series",note,timestamp\nx,1,cpu,"a\nb, c",1700000000\ny,2,mem,,1700000001\nz,3,,,1700000002\n'
    expected = [("cpu", T0 * S, 1.0), ("mem", (T0 + 1) * S, 2.0), ("a", (T0 + 2) * S, 3.0)]
    assert read(write(tmp_path / "a.csv", text)) == expected


def test_a_packed_csv_is_read(tmp_path: Path) -> None:
    (tmp_path / "cpu.csv.gz").write_bytes(gzip.compress(b"timestamp,value\n1700000000,1\n"))
    assert read(tmp_path / "cpu.csv.gz") == [("cpu", T0 * S, 1.0)]


@pytest.mark.parametrize(
    ("column", "expected_ns"),
    [
        (pa.array([T0, None]), [T0 * S, NO_TIME]),
        (pa.array([T0 + 0.5, float("nan")]), [T0 * S + S // 2, NO_TIME]),
        (pa.array([T0 * 1000, T0 * 1000 + 1], pa.timestamp("ms", "Europe/Berlin")), [T0 * S, T0 * S + 1_000_000]),
        (pa.array([T0, None], pa.timestamp("s")), [T0 * S, NO_TIME]),
        (pa.array([19675, 19676], pa.date32()), [19675 * 86_400 * S, 19676 * 86_400 * S]),
        (pa.array(["2023-11-14T22:13:20Z", ""]), [T0 * S, NO_TIME]),
        (pa.array(["1700000000", None]).dictionary_encode(), [T0 * S, NO_TIME]),
        (pa.array([None, None], pa.null()), [NO_TIME, NO_TIME]),
    ],
)
def test_parquet_times_of_every_type(tmp_path: Path, column: pa.Array, expected_ns: list[int]) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"timestamp": column, "value": [1.0, 2.0]}), path)
    assert [t for _, t, _ in read(path)] == expected_ns


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, 2**60], pa.int64()), [1.0, float(2**60)]),
        (pa.array([True, False]), [1.0, 0.0]),
        (pa.array([1.5, 2.5], pa.float32()), [1.5, 2.5]),
        (pa.array(["1e3", " 2 "]), [1000.0, 2.0]),
        (pa.array(["1", "2"]).dictionary_encode(), [1.0, 2.0]),
        (pa.array(["1_0", "2"]), [10.0, 2.0]),
        (pa.array([1, 2]).cast(pa.decimal128(21, 2)), [1.0, 2.0]),
    ],
)
def test_parquet_values_of_every_type(tmp_path: Path, column: pa.Array, expected: list[float]) -> None:
    path = tmp_path / "a.pq"
    pq.write_table(pa.table({"timestamp": [T0, T0 + 1], "value": column, "series": ["x", None]}), path)
    assert [(name, value) for name, _, value in read(path)] == list(zip(["x", "a"], expected, strict=True))


@given(st.lists(st.tuples(st.integers(1, 4 * 10**18), st.floats(allow_nan=False)), min_size=1, max_size=50))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_as_iso_is_read_back(tmp_path: Path, rows: list[tuple[int, float]]) -> None:
    rows = [(t // 1000 * 1000, v) for t, v in rows]
    zero = datetime(1970, 1, 1, tzinfo=UTC)
    text = "".join(f"{(zero + timedelta(microseconds=t // 1000)).isoformat()},{v!r}\n" for t, v in rows)
    assert [row[1:] for row in read(write(tmp_path / "a.csv", "timestamp,value\n" + text))] == rows


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timestamp,value\n1700000000,1\n1700000001,fast\n", "row 2, column value: expected a number, got 'fast'"),
        ("timestamp,value\n1700000000,1\nnoon,1\n", "row 2, column timestamp: expected a number, as in.*got 'noon'"),
        ("timestamp,value\nnoon,1\n", "row 1, column timestamp: expected a time in ISO 8601.*got 'noon'"),
        ("timestamp,value\n2023-11-14,1\n2023-13-14,1\n", "row 2, column timestamp: expected a time in ISO 8601"),
        ("timestamp,value\n5000-01-01T00:00:00.5x,1\n", "row 1"),
        ("timestamp,value\n5000-01-01,1\n", "row 1, .*between the years 1678 and 2262"),
        ("timestamp,value\n99999999999,1\n", "row 1, .*between the years 1678 and 2262, got '99999999999'"),
        ("timestamp,value\ninf,1\n", "row 1, .*between the years 1678 and 2262"),
        ("time,value\n1,1\n", "expected the columns timestamp, value and.*got 'time', 'value'"),
        ("timestamp,value,value\n1,1,1\n", "got value twice"),
        ("timestamp,value\n1,1,1\n", "a.csv: expected CSV with a header, got: .*Expected 2 columns, got 3"),
        ("", "a.csv: expected CSV with a header"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_row(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(BadInput, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_rows_are_counted_over_all_blocks(tmp_path: Path) -> None:
    rows = "".join(f"{T0 + k},{k}.0\n" for k in range(150_000))
    with pytest.raises(BadInput, match="row 150001, column value: expected a number, got 'oops'"):
        read(write(tmp_path / "a.csv", f"timestamp,value\n{rows}1800000000,oops\n"))


@pytest.mark.parametrize("column", ["timestamp", "value"])
def test_parquet_columns_of_a_wrong_type(tmp_path: Path, column: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"timestamp": [T0], "value": [1.0], column: [[1, 2]]}), path)
    with pytest.raises(BadInput, match=f"column {column}: expected a .*got 'list"):
        read(path)


def test_files_that_are_not_what_their_names_say(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no")
    (tmp_path / "b.bin.gz").write_bytes(b"no")
    (tmp_path / "c.bin.zst").write_bytes(b"no, not at all")
    (tmp_path / "d.bin").write_bytes(b"\xff\xff\xff")
    (tmp_path / "e.pb.gz").write_bytes(gzip.compress(b"x" * 1000)[:-12])
    (tmp_path / "f.pb.zst").write_bytes(zstandard.ZstdCompressor().compress(bytes(range(256)) * 9)[:-30])
    (tmp_path / "g.jsonl").write_text(json_line("a", 1) + "\n{\n")
    (tmp_path / "h.json").write_text("{\n1")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(BadInput, match=str(path)):
            list(bodies([path]))


def test_a_table_that_is_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.csv: expected CSV with a header, there is no such file"):
        read(tmp_path / "none.csv")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(BadInput, match=r"folder\.parquet: expected Parquet, got"):
        read(tmp_path / "folder.parquet")


def test_a_line_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json_line("a", 1) + "\n\n[]\n")
    with pytest.raises(BadInput, match=r"a\.jsonl: line 3: body: expected an object"):
        list(bodies([path]))


def test_a_request_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BODY_BYTES", 20)
    (tmp_path / "a.bin").write_bytes(request("a", [1, 2, 3]))
    write(tmp_path / "b.jsonl", json_line("a", 1))
    for path in (tmp_path / "a.bin", tmp_path / "b.jsonl"):
        with pytest.raises(TooLarge, match=f"{path.name}: expected requests of at most 20 bytes"):
            list(bodies([path]))


def test_find_says_what_is_missing(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", "")
    with pytest.raises(BadInput, match="there is none"):
        find([tmp_path / "nothing.csv"])
    with pytest.raises(BadInput, match=r"ends in \.csv, .*got 'notes.txt'"):
        find([tmp_path / "notes.txt"])
    with pytest.raises(BadInput, match="got none in"):
        find([tmp_path])


def test_find_looks_into_folders_once(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.csv", "a.csv.gz", "deep/c.parquet", "d.parquet.gz", ".hidden.csv", "e.otlp.zst", "f.JSON", "g.md"):
        write(tmp_path / name, "")
    names = [str(path.relative_to(tmp_path)) for path in find([tmp_path, tmp_path / "b.csv"])]
    assert names == ["a.csv.gz", "b.csv", "deep/c.parquet", "e.otlp.zst", "f.JSON"]


# -- order --------------------------------------------------------------------------------------------------------


def test_a_table_comes_in_the_order_of_time(tmp_path: Path) -> None:
    text = "timestamp,value,series\n12,1,b\n10,2,b\n11,3,a\n10,4,a\n,5,a\n"
    found = points([write(tmp_path / "x.csv", text)])
    assert found == [("b", 10 * S, 2.0), ("a", 10 * S, 4.0), ("a", 11 * S, 3.0), ("b", 12 * S, 1.0)]


def test_a_body_of_a_table_has_each_series_once(tmp_path: Path) -> None:
    text = "timestamp,value,series\n" + "".join(f"{10 + k // 3},1,{'abc'[k % 3]}\n" for k in range(30))
    found = list(bodies([write(tmp_path / "x.csv", text)]))
    assert [len(body.points) for body in found] == [3] * 10
    assert [body.now_ns for body in found] == [(10 + k) * S for k in range(10)]
    assert found[-1].done_ratio == 1.0 and found[0].done_ratio == pytest.approx(0.1)


def test_a_table_larger_than_memory_is_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    rows = 140_000
    table = {
        "timestamp": rng.integers(T0, T0 + 50_000, rows),
        "value": rng.normal(size=rows),
        "series": rng.choice(["a", "b", "c"], rows),
    }
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    at_once = points([tmp_path / "x.parquet"])
    monkeypatch.setattr(files, "SORTED_ROWS", 1)
    monkeypatch.setattr(files, "MERGED_ROWS", 5_000)
    assert points([tmp_path / "x.parquet"]) == at_once
    order = np.argsort(table["timestamp"], kind="stable")
    assert [v for _, _, v in at_once] == table["value"][order].tolist()


@given(st.lists(st.integers(0, 5), max_size=40))
@settings(max_examples=60, deadline=None)
def test_scrapes_are_as_long_as_they_can_be(codes: list[int]) -> None:
    slow: list[tuple[int, int]] = []
    first, seen = 0, set[int]()
    for k, code in enumerate(codes):
        if code in seen:
            slow.append((first, k))
            first, seen = k, set()
        seen.add(code)
    if codes:
        slow.append((first, len(codes)))
    assert list(files._scrapes(np.array(codes, np.int32))) == slow


def test_files_of_all_forms_are_merged_by_time(tmp_path: Path) -> None:
    (tmp_path / "z.bin").write_bytes(request("pb", [1]))
    (tmp_path / "a.pb.gz").write_bytes(gzip.compress(request("pb", [5])))
    (tmp_path / "m.otlp.zst").write_bytes(zstandard.ZstdCompressor().compress(request("pb", [3])))
    write(tmp_path / "l.jsonl", f"{json_line('js', 2)}\n\n{json_line('js', 6)}\n")
    write(tmp_path / "c.csv", "timestamp,value\n7,1\n4,1\n")
    found = points([tmp_path])
    assert [t // S for _, t, _ in found] == [1, 2, 3, 4, 5, 6, 7]
    assert [name for name, _, _ in found] == ["pb", "js", "pb", "c", "pb", "js", "c"]


def test_lines_of_other_signals_hold_no_points(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '{"resourceLogs": []}\n' + json_line("a", 1) + "\n")
    assert [len(body.points) for body in bodies([path])] == [0, 1]


def test_one_request_over_many_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps(json.loads(json_line("a", 9)), indent=2))
    assert points([path]) == [("a", 9 * S, 2.5)]


def test_a_folder_without_rows_gives_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "timestamp,value\n")
    write(tmp_path / "b.jsonl", "")
    assert list(bodies(find([tmp_path]))) == []


def test_one_clock_that_is_ahead_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(request("a", [T0, T0 + 1, T0 + 2, T0 + 10**7]))
    (body,) = bodies([tmp_path / "a.bin"])
    assert body.now_ns == int((T0 + 1.5) * S) + files.AHEAD_NS


def test_series_of_equal_names_in_two_files_differ(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    paths = [
        write(tmp_path / "cpu.csv", "timestamp,value\n1,1\n"),
        write(tmp_path / "x/cpu.csv", "timestamp,value\n1,1\n"),
    ]
    streams = {body.points.streams[0] for body in bodies(paths)}
    assert len(streams) == 2 and {stream.name for stream in streams} == {"cpu"}


def test_counts_of_points_that_cannot_be_used(tmp_path: Path) -> None:
    line: dict[str, Any] = json.loads(json_line("a", 1))
    line["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["gauge"]["dataPoints"].append({"asDouble": 1})
    (body,) = bodies([write(tmp_path / "a.jsonl", json.dumps(line))])
    assert isinstance(body, Body) and (len(body.points), body.rejected) == (1, 1)
