"""Datasets: the same content has the same id, what changes is noticed, and nothing half-made is ever listed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aiops.errors import BadInput, ConfigError, StateError, StorageError
from otel_aiops.labels import Labels
from otel_aiops.lifecycle import shelf as module
from otel_aiops.lifecycle.dataset import DatasetConfig, Datasets, LoadTestRule, cited
from otel_aiops.lifecycle.manifest import Manifest, Window
from otel_aiops.lifecycle.profile import QualityLimits
from otel_aiops.lifecycle.reading import Cuts
from otel_aiops.lifecycle.truth import Exclusion, Label
from otel_aiops.series.disk import StorageConfig
from otel_aiops.series.history import History
from otel_aiops.series.segments import HOUR_NS, Part, Segments
from tests.lifecycle.recording import (
    HOURS,
    MINUTE_NS,
    NOW_NS,
    SERIES,
    START_NS,
    columns,
    fingerprint,
    labels_of,
    record,
    regular,
)
from tests.series.conftest import tiny_disk  # noqa: F401  a fixture

WHOLE = Window(START_NS, START_NS + HOURS * HOUR_NS)
DAY = Window(START_NS, START_NS + 24 * HOUR_NS)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    record(tmp_path, regular())
    return tmp_path


def build(data: Path, window: Window = WHOLE, *given: Any, **more: Any) -> Manifest:
    return Datasets.of(data).build(window, *given, **{"now_ns": NOW_NS, **more})


def segment_files(data: Path) -> list[Path]:
    return sorted((data / "lifecycle/datasets/segments").iterdir())


def points(data: Path, name: str, **more: Any) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for chunk in Datasets.of(data).read(name, **more):
        for series, time_ns, value in chunk.series():
            found[series] = list(zip(time_ns.tolist(), value.tolist(), strict=True))
    return found


# --- content ---------------------------------------------------------------------------------------------------------


def test_a_dataset_has_what_was_recorded(data: Path) -> None:
    made = build(data, who="ann", why="first")
    assert (made.rows, made.series, len(made.pieces)) == (HOURS * 60 * 6, 6, HOURS)
    assert made.gate.passed and made.trainable and made.profile.all.interval_s == 60
    assert dict(made.profile.services)["cart"].rows == HOURS * 60 * 3
    assert made.schema[0] == ("series", "dictionary<values=string, indices=int32, ordered=0>")
    assert (made.who, made.why, made.made_ns) == ("ann", "first", NOW_NS)
    recorded = regular()
    found = points(data, made.id)
    assert list(found) == sorted(SERIES)
    for k, name in enumerate(SERIES):
        mine = recorded.code == k
        assert found[name] == list(zip(recorded.time_ns[mine].tolist(), recorded.value[mine].tolist(), strict=True))


def test_a_second_build_has_the_same_id_whoever_makes_it(data: Path) -> None:
    first = build(data, who="ann")
    again = build(data, who="bob", why="again", now_ns=NOW_NS + 5)
    assert (first.id, again.who) == (again.id, "ann")
    assert [one.id for one in Datasets.of(data).list()] == [first.id]
    assert build(data, DAY).id != first.id


def test_nothing_stands_twice_on_the_disk(data: Path) -> None:
    build(data)
    inodes = {part.path.stat().st_ino for part in Segments(data / "segments").parts()}
    assert {path.stat().st_ino for path in segment_files(data)} == inodes


def test_a_dataset_outlives_the_retention_of_the_history(data: Path) -> None:
    made = build(data)
    Segments(data / "segments").enforce(NOW_NS + 90 * 24 * HOUR_NS, keep_s=1.0, keep_bytes=1)
    assert not Segments(data / "segments").parts()
    assert Datasets.of(data).verify(made.id) == []
    assert sum(map(len, points(data, made.id).values())) == made.rows


def test_hours_that_are_not_merged_yet_give_the_same_id_as_those_that_are(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    pieces = [regular(hours=2, first=h) for h in range(0, HOURS, 2)]
    late = regular(SERIES[:1], hours=1, first=3, step_ns=MINUTE_NS // 2)
    late = late.take(np.flatnonzero(late.time_ns % MINUTE_NS != 0))
    record(first, *pieces, late, merge=False)
    record(second, *pieces, late)
    made = [build(one) for one in (first, second)]
    assert made[0].id == made[1].id
    Segments(first / "segments").compact(NOW_NS, through=100)
    assert build(first).id == made[0].id


def test_selectors_choose_series_and_hours_without_them_are_not_held(tmp_path: Path) -> None:
    record(tmp_path, regular(SERIES[:3], hours=3), regular(SERIES[3:], hours=HOURS, first=0))
    made = build(tmp_path, WHOLE, [{"service": "cart"}])
    assert (made.series, len(made.pieces), made.profile.hours_empty) == (3, 3, HOURS - 3)
    both = build(tmp_path, WHOLE, [{"service": "pay", "pod": "p1"}, {"service": "cart", "pod": "~p[01]"}])
    assert both.series == 3
    swapped = build(tmp_path, WHOLE, [{"pod": "~p[01]", "service": "cart"}, {"pod": "p1", "service": "pay"}])
    assert swapped.id == both.id


def test_a_window_may_begin_and_end_within_an_hour(data: Path) -> None:
    window = Window(START_NS + 90 * MINUTE_NS, START_NS + 26 * HOUR_NS + 30 * MINUTE_NS)
    made = build(data, window)
    times = [at for one in points(data, made.id).values() for at, _ in one]
    assert (min(times), max(times)) == (window.start_ns, window.end_ns - MINUTE_NS)
    assert made.rows == len(times)


def test_an_hour_that_may_still_grow_is_not_taken(data: Path) -> None:
    in_last_hour = START_NS + HOURS * HOUR_NS + 600_000_000_000
    made = build(data, Window(START_NS, 2**62), now_ns=in_last_hour)
    assert made.window.end_ns == START_NS + (HOURS - 1) * HOUR_NS
    assert build(data, Window(START_NS, 2**62), now_ns=in_last_hour + 300_000_000_000).rows > made.rows


def test_a_clock_that_went_back_is_told(data: Path) -> None:
    with pytest.raises(BadInput, match="the clock says 2026-05-03T13:00:00"):
        build(data, now_ns=START_NS - HOUR_NS)
    with pytest.raises(BadInput, match="end after the start"):
        build(data, Window(5, 5))
    with pytest.raises(BadInput, match="got none"):
        build(data, WHOLE, [{"service": "nobody"}])


def test_labels_are_resolved_by_fingerprint_and_by_text(data: Path) -> None:
    shared: dict[str, Any] = {"start_ns": START_NS, "end_ns": START_NS + MINUTE_NS}
    labels = [
        Label(series=f"{fingerprint(SERIES[0]):016x}", **shared),
        Label(series=str(labels_of("pay", 1)), **shared),
        Label(series="who?", **shared),
        Label(start_ns=0, end_ns=5),
    ]
    made = build(data, WHOLE, (), labels)
    assert {one.series for one in made.labels} == {SERIES[0], SERIES[4], "who?"}
    assert made.profile.labels == 3
    assert build(data).id != made.id
    with pytest.raises(BadInput, match="at most 100000 labels"):
        build(data, WHOLE, (), labels[:1] * 100_001)


def test_parents_are_named_and_must_exist(data: Path) -> None:
    parent = build(data, DAY)
    made = build(data, parents=[parent.id])
    assert made.parents == (parent.id,) and made.id != build(data).id
    with pytest.raises(BadInput, match="no dataset has the id"):
        build(data, parents=["0" * 16])


# --- exclusions and reading ------------------------------------------------------------------------------------------


def cut(first: int, last: int, **match: str) -> Exclusion:
    return Exclusion(
        start_ns=START_NS + first * MINUTE_NS, end_ns=START_NS + last * MINUTE_NS, match=tuple(match.items())
    )


def test_excluded_points_are_neither_counted_nor_read(data: Path) -> None:
    made = build(data, WHOLE, (), (), [cut(60, 120, service="cart"), cut(100, 130, service="~c.*"), cut(0, 10)])
    assert made.profile.rows_excluded == 3 * 70 + 6 * 10
    assert made.rows == HOURS * 60 * 6 - 270 and made.profile.all.missing_ratio == 0
    found = points(data, made.id)
    assert sum(map(len, found.values())) == made.rows
    cart = [(at - START_NS) // MINUTE_NS for at, _ in found[SERIES[0]]]
    assert not set(cart) & ({*range(60, 130)} | {*range(10)}) and {59, 130} <= set(cart)


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(1, 20), st.sampled_from(["cart", "pay", "~.*", "x"])), max_size=6
    ),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 80)), min_size=1, max_size=40),
)
def test_cuts_equal_the_slow_way(spans: list[tuple[int, int, str]], some: list[tuple[int, int]]) -> None:
    exclusions = [Exclusion(start_ns=a + 1, end_ns=a + n + 1, match=(("service", who),)) for a, n, who in spans]
    cuts = Cuts(exclusions)
    series = [Labels.from_json(text) for text in SERIES]
    for one in series:
        cuts.add(one)
    code, time_ns = np.array([k for k, _ in some]), np.array([t for _, t in some])
    wanted = [
        not any(e.start_ns <= t < e.end_ns and (e.match[0][1] in ("~.*", series[k].service)) for e in exclusions)
        for k, t in some
    ]
    kept = cuts.kept(code, time_ns)
    assert (np.ones(len(some), bool) if kept is None else kept).tolist() == wanted
    for k in range(6):
        inside = cuts.kept(np.full(80, k), np.arange(80))
        lost = 0 if inside is None else int((~inside).sum())
        assert round(cuts.seconds(np.array([k]), np.array([0]), np.array([80]))[0] * 1e9) == lost


@pytest.mark.parametrize("rows", [1, 2_000, 3_700, 10**9])
def test_pieces_of_any_size_have_the_same_points(data: Path, rows: int) -> None:
    made = build(data)
    chunks = list(Datasets.of(data).read(made.id, rows=rows, score=True))
    assert [name for one in chunks for name in one.names] == sorted(SERIES)
    assert sum(len(one.value) for one in chunks) == made.rows
    assert all(one.score is not None and set(one.score.tolist()) == {0.5} for one in chunks)
    if rows > 1_800:
        assert max(len(one.value) for one in chunks) <= rows


def test_some_series_and_a_part_of_the_window_can_be_read(data: Path) -> None:
    made = build(data)
    found = points(
        data, made.id, series={SERIES[2], "unknown"}, start_ns=START_NS + HOUR_NS, end_ns=START_NS + 2 * HOUR_NS
    )
    assert {name: len(one) for name, one in found.items()} == {SERIES[2]: 60}
    assert list(Datasets.of(data).read(made.id, series=[])) == []


def test_a_time_that_stands_twice_is_read_once(tmp_path: Path) -> None:
    twice = columns(SERIES[:1], np.zeros(2, np.int64), np.array([START_NS, START_NS]), np.array([1.0, 2.0]))
    record(tmp_path, regular(SERIES[:2]), twice)
    made = build(tmp_path)
    assert made.profile.all.duplicate_ratio > 0
    found = points(tmp_path, made.id)[SERIES[0]]
    assert len(found) == HOURS * 60 and len({at for at, _ in found}) == len(found)


# --- the gate --------------------------------------------------------------------------------------------------------


def test_bad_data_is_refused_unless_somebody_says_why(tmp_path: Path) -> None:
    record(tmp_path, regular(hours=3))
    made = build(tmp_path)
    assert not made.gate.passed and "at least 1 days" in made.gate.reasons[0]
    datasets = Datasets.of(tmp_path)
    with pytest.raises(BadInput, match="not good enough to learn from: expected points of at least 1 days"):
        datasets.trainable(made.id)
    forced = build(tmp_path, force="a test bench", who="ann")
    assert forced.id == made.id and forced.forced == "ann: a test bench"
    assert datasets.trainable(made.id).forced == "ann: a test bench"
    assert build(tmp_path).forced and datasets.verify(made.id) == []
    assert build(tmp_path, limits=QualityLimits(min_days=0.1, max_hours_empty=1)).gate.passed


def test_a_good_dataset_needs_no_force(data: Path) -> None:
    assert build(data, force="why not").forced == ""


# --- damage ----------------------------------------------------------------------------------------------------------


def flip(path: Path, at: int) -> None:
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(bytes(data))


def test_changed_and_missing_segments_are_named(data: Path) -> None:
    made = build(data)
    files = segment_files(data)
    flip(files[0], 200)
    files[1].unlink()
    problems = Datasets.of(data).verify(made.id)
    assert len(problems) == 2
    assert sum("was changed" in one and files[0].name in one for one in problems) == 1
    assert sum("is missing" in one and files[1].name in one for one in problems) == 1
    with pytest.raises(StateError, match=r"cannot be read|is missing"):
        points(data, made.id)


def test_a_damaged_segment_of_the_history_is_left_out_and_told(data: Path) -> None:
    good = build(data)
    parts = Segments(data / "segments").parts()
    flip(parts[4].path, parts[4].bytes // 2)
    made = build(data)
    assert made.id != good.id and [hour for hour, _ in made.lost] == [parts[4].hour]
    assert made.rows == good.rows - 360 and not made.gate.passed
    assert "3.3% of the hours have a damaged segment" in made.gate.reasons[0]
    assert build(data).id == made.id


def test_when_all_is_damaged_nothing_is_made(tmp_path: Path) -> None:
    for part in record(tmp_path, regular(hours=2)).parts():
        flip(part.path, part.bytes - 20)
    with pytest.raises(BadInput, match="2 of 30 hours have a damaged segment"):
        build(tmp_path)
    assert Datasets.of(tmp_path).list() == []


def test_a_good_segment_takes_the_place_of_a_damaged_copy(data: Path) -> None:
    made = build(data)
    path = segment_files(data)[0]
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:-1])
    build(data)
    assert Datasets.of(data).verify(made.id) == []


def test_a_manifest_that_was_changed_is_refused(data: Path) -> None:
    made = build(data)
    path = data / f"lifecycle/datasets/{made.id}.json"
    tree = json.loads(path.read_text())
    for change in ({"about": tree["about"] | {"why": "other"}}, {"content": tree["content"] | {"rows": 1}}):
        path.write_text(json.dumps(tree | change))
        with pytest.raises(StateError, match="was changed"):
            Datasets.of(data).load(made.id)
    assert "was changed" in Datasets.of(data).verify(made.id)[0]
    assert list(Datasets.of(data).damaged()) == [made.id] and Datasets.of(data).list() == []
    for bad in ("{", "[]", json.dumps({"id": 1}), json.dumps(tree | {"content": {"format": 99}})):
        path.write_text(bad)
        with pytest.raises(StateError):
            Datasets.of(data).load(made.id)
    assert build(data).id == made.id and Datasets.of(data).verify(made.id) == []  # a new build mends it
    other = path.with_name("0123456789abcdef.json")
    path.rename(other)
    with pytest.raises(StateError, match=f"is the manifest of dataset {made.id}"):
        Datasets.of(data).load(other.stem)
    with pytest.raises(BadInput, match="expected an id"):
        Datasets.of(data).load("../x")


def test_the_table_of_series_is_checked(data: Path) -> None:
    made = build(data)
    datasets = Datasets.of(data)
    assert datasets.series(made.id).names == tuple(sorted(SERIES))
    (path,) = (data / "lifecycle/datasets/series").iterdir()
    other = build(data, DAY)
    (second,) = (one for one in path.parent.iterdir() if one != path)
    path.write_bytes(second.read_bytes())
    assert "table of series was changed" in datasets.verify(made.id)[0]
    path.write_bytes(b"nothing")
    assert "missing or damaged" in datasets.verify(made.id)[0]
    assert datasets.verify(other.id) == []


def test_a_manifest_survives_json(data: Path) -> None:
    label = Label(start_ns=START_NS, end_ns=START_NS + 1, note="é")
    made = build(data, WHOLE, [{"name": "load"}], [label], [cut(0, 5)], governance=[{"drop": ["a"]}])
    again = Manifest.from_json(json.loads(json.dumps(made.to_json())))
    assert again == made and again.id == made.id
    assert made.summary()["labels"] == 1


# --- two at once, and killed ones ------------------------------------------------------------------------------------


def test_two_builds_at_once_make_one_dataset(data: Path) -> None:
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(build(data).id)) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(made) == 4 and len(set(made)) == 1
    assert Datasets.of(data).verify(made[0]) == []
    assert not list((data / "lifecycle/datasets").rglob("*.tmp"))


def test_a_segment_that_is_merged_while_it_is_taken_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = record(tmp_path, regular(), regular(SERIES[:1], hours=1, step_ns=7 * MINUTE_NS), merge=False)
    real, calls = Segments.hour, []

    def racing(self: Segments, hour: int) -> list[Part]:
        found = real(self, hour)
        if not calls:
            calls.append(hour)
            segments.compact(NOW_NS, through=2)
        return found

    monkeypatch.setattr(Segments, "hour", racing)
    made = build(tmp_path)
    assert calls and len(made.pieces) == HOURS and made.rows > HOURS * 360

    monkeypatch.setattr(Segments, "hour", lambda self, hour: [Part(hour, 1, 1, True, tmp_path / "gone", 1)])
    with pytest.raises(StorageError, match="vanish"):
        build(tmp_path)


def test_a_build_that_is_killed_leaves_nothing_that_is_listed(data: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.manifest import Window
from tests.lifecycle.recording import NOW_NS, START_NS
def progress(done, total, text):
    if done >= 5:
        os.kill(os.getpid(), signal.SIGKILL)
Datasets.of(Path(sys.argv[1])).build(Window(START_NS, NOW_NS), now_ns=NOW_NS, progress=progress)
"""
    killed = subprocess.run([sys.executable, "-c", code, str(data)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert Datasets.of(data).list() == [] and len(segment_files(data)) == 5
    (data / "lifecycle/datasets/segments/left.tmp").write_bytes(b"x")
    made = build(data, DAY)
    assert len(segment_files(data)) == len(made.pieces)  # what the killed one left is gone, or is used
    assert [one.id for one in Datasets.of(data).list()] == [made.id]


def test_a_dataset_is_made_while_a_service_holds_the_directory(tmp_path: Path) -> None:
    record(tmp_path, regular())
    history = History(StorageConfig(min_free_bytes=0), tmp_path)
    history.open()
    try:
        made = build(tmp_path)
        history.enforce(NOW_NS + 400 * 24 * HOUR_NS)
        assert Datasets.of(tmp_path).verify(made.id) == []
    finally:
        history.close()


# --- the disk --------------------------------------------------------------------------------------------------------


def test_another_file_system_gets_a_copy(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Any, target: Any, **_: Any) -> None:
        if str(source).endswith(".parquet"):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        real(source, target)

    real = os.link
    monkeypatch.setattr(module.os, "link", refuse)
    made = build(data)
    assert Datasets.of(data).verify(made.id) == []
    assert all(path.stat().st_nlink == 1 for path in segment_files(data))


@pytest.mark.parametrize("call", ["link", "fsync"])
def test_a_disk_that_refuses_leaves_nothing_in_the_list(data: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(module.os, call, refuse)
        full.setattr(module.shutil, "copyfileobj", refuse)
        with pytest.raises(StorageError, match="No space left"):
            build(data)
    assert Datasets.of(data).list() == []
    assert not list((data / "lifecycle/datasets").rglob("*.tmp"))
    assert Datasets.of(data).verify(build(data).id) == []


def test_a_full_disk_refuses_a_copy_whole(data: Path, tiny_disk: Path) -> None:  # noqa: F811
    datasets = Datasets(tiny_disk / "datasets", Segments(data / "segments"))
    (tiny_disk / "fill").write_bytes(b"x" * 900_000)
    with pytest.raises(StorageError, match="No space left"):
        datasets.build(WHOLE, now_ns=NOW_NS)
    assert datasets.list() == []
    (tiny_disk / "fill").unlink()
    assert datasets.verify(datasets.build(DAY, now_ns=NOW_NS).id) == []


# --- keeping ---------------------------------------------------------------------------------------------------------


def test_a_dataset_that_a_model_cites_stays(data: Path) -> None:
    first, second = build(data, DAY), build(data)
    models = data / "lifecycle/models/m1"
    models.mkdir(parents=True)
    (models / "model.json").write_text(json.dumps({"lineage": {"datasets": [first.id]}, "n": 3}))
    assert cited(data) == {first.id: ["m1"]}
    datasets = Datasets.of(data)
    with pytest.raises(BadInput, match=r"live model version cites it \(m1\)"):
        datasets.delete(first.id, cited=cited(data))
    assert datasets.prune(0, cited=cited(data)) == [second.id]
    assert datasets.verify(first.id) == [] and len(segment_files(data)) == 24
    datasets.delete(first.id)
    assert segment_files(data) == [] and datasets.list() == []
    with pytest.raises(BadInput, match="no dataset has the id"):
        datasets.delete(first.id)
    (models / "model.json").write_text("{")
    with pytest.raises(StateError, match="nobody knows which datasets"):
        cited(data)


def test_segments_of_others_stay_when_one_is_deleted(data: Path) -> None:
    first, second = build(data, DAY), build(data)
    datasets = Datasets.of(data)
    datasets.delete(second.id)
    assert datasets.verify(first.id) == [] and len(segment_files(data)) == 24


def test_nothing_is_swept_while_somebody_builds_or_a_manifest_is_damaged(data: Path) -> None:
    made = build(data)
    path = data / f"lifecycle/datasets/{made.id}.json"
    content = path.read_text()
    path.write_text("{")
    other = build(data, DAY)
    Datasets.of(data).delete(other.id)
    assert len(segment_files(data)) == HOURS
    path.write_text(content)
    started, stop = threading.Event(), threading.Event()

    def slowly(done: float, total: float, text: str) -> None:
        started.set()
        stop.wait(5)

    thread = threading.Thread(target=lambda: build(data, DAY, progress=slowly))
    thread.start()
    started.wait(5)
    Datasets.of(data).delete(made.id)
    assert len(segment_files(data)) == HOURS
    stop.set()
    thread.join()
    time.sleep(0)
    (last,) = Datasets.of(data).list()
    assert Datasets.of(data).verify(last.id) == []


def test_prune_keeps_the_newest(data: Path) -> None:
    made = [build(data, Window(START_NS, START_NS + h * HOUR_NS), now_ns=NOW_NS + h).id for h in (24, 25, 26)]
    assert sorted(Datasets.of(data).prune(1)) == sorted(made[:2])
    assert [one.id for one in Datasets.of(data).list()] == made[2:]


def test_settings_are_checked() -> None:
    for make, path in (
        (lambda: DatasetConfig(keep=0), "keep"),
        (lambda: LoadTestRule(match={}), "match"),
        (lambda: LoadTestRule(match={"a": "~("}), "match"),
        (lambda: QualityLimits(min_days=-1), "min_days"),
        (lambda: QualityLimits(max_missing=1.5), "max_missing"),
    ):
        with pytest.raises(ConfigError) as raised:
            make()
        assert raised.value.path == path


def test_without_a_history_nothing_is_built(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="history"):
        Datasets(tmp_path).build(WHOLE, now_ns=NOW_NS)
    assert Datasets(tmp_path / "none").list() == [] and Datasets(tmp_path / "none").prune(1) == []
