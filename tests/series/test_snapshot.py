"""Snapshots: what is loaded is what was saved, or it is refused with a reason."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from otel_aiops.errors import StateError, StorageError
from otel_aiops.series import snapshot
from otel_aiops.series.snapshot import Snapshots, load, peek, save

ARRAYS: dict[str, Any] = {
    "table/identity": np.arange(10, dtype=np.uint8),
    "engine/mean": np.linspace(0, 1, 7).reshape(7, 1).astype(np.float32),
    "engine/scalar": np.array(3.5),
    "align/none": np.empty((0, 4), np.int64),
    "align/flag": np.array([True, False]),
    "align/strided": np.arange(20)[::2],
    "align/fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "align/big_endian": np.arange(3, dtype=">i4"),
}


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def test_every_shape_and_type_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "x"
    digest = save(path, 7, ARRAYS)
    found = load(path)
    assert (found.sequence, found.digest) == (7, digest)
    assert_equal(found.arrays, ARRAYS)
    assert all(a.flags.writeable and a.flags.owndata for a in found.arrays.values())
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=8),
        npst.arrays(
            st.one_of(npst.floating_dtypes(), npst.integer_dtypes()), npst.array_shapes(min_dims=0, min_side=0)
        ),
        max_size=4,
    )
)
def test_any_arrays_come_back(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("any") / "x"
    save(path, 1, arrays)
    assert_equal(load(path).arrays, arrays)


def test_the_digest_tells_equal_states_whatever_the_sequence_and_order(tmp_path: Path) -> None:
    digest = save(tmp_path / "a", 1, ARRAYS)
    assert save(tmp_path / "b", 2, dict(reversed(ARRAYS.items()))) == digest
    assert save(tmp_path / "c", 1, ARRAYS | {"align/flag": np.array([True, True])}) != digest
    assert save(tmp_path / "d", 1, ARRAYS | {"align/flag": np.array([1, 0], np.uint8)}) != digest


def test_arrays_larger_than_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "CHUNK_BYTES", 100)
    arrays = {"x": np.arange(1001, dtype=np.int16)}
    save(tmp_path / "x", 1, arrays)
    assert_equal(load(tmp_path / "x").arrays, arrays)


@settings(max_examples=150, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_or_shortened_file_is_refused(
    tmp_path_factory: pytest.TempPathFactory, where: float, flip: int, cut: bool
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x"
    arrays = {"a": np.arange(64.0), "b": np.arange(128, dtype=np.uint8)}  # no padding, so every byte counts
    save(path, 1, arrays)
    data = bytearray(path.read_bytes())
    at = int(where * len(data))
    padding = range(8, 64)
    if cut:
        data = data[:at]
    elif at in padding:
        return
    else:
        data[at] ^= flip
    path.write_bytes(data)
    with pytest.raises(StateError, match=str(path)):
        load(path)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in (b"", b"PK\x03\x04 something else entirely, and longer than the tail of a snapshot is" * 2):
        path.write_bytes(content)
        with pytest.raises(StateError, match="not a snapshot of otel-aiops"):
            load(path)


def forged(path: Path, index: object) -> None:
    """A file whose hashes fit, whatever its index says."""
    data = json.dumps(index).encode()
    path.write_bytes(
        snapshot.MAGIC + bytes(56) + data + snapshot._digest(data) + len(data).to_bytes(8, "little") + snapshot.MAGIC
    )


ENTRY = {"name": "x", "dtype": "<f8", "shape": [2], "offset": 8, "chunks": []}


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({"version": 2, "sequence": 1, "arrays": []}, "expected a snapshot of version 1, got version 2"),
        ({"version": 1, "sequence": 1, "arrays": [ENTRY | {"shape": [9]}]}, "does not fit into the file"),
        ({"version": 1, "sequence": 1, "arrays": [ENTRY | {"offset": -8}]}, "does not fit into the file"),
        ({"version": 1, "sequence": 1, "arrays": [ENTRY | {"shape": [-1]}]}, "does not fit into the file"),
        ({"version": 1, "sequence": 1, "arrays": [ENTRY | {"dtype": "O"}]}, "does not fit into the file"),
        ({"version": 1, "sequence": 1, "arrays": [ENTRY | {"dtype": "<f999"}]}, "not a snapshot"),
        ({"version": 1, "sequence": 1, "arrays": [ENTRY]}, "the hash of the array differs"),
        ({"version": 1, "sequence": "1;", "arrays": []}, "not a snapshot"),
        ({"version": 1, "arrays": []}, "sequence"),
        ([], "not a snapshot"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(tmp_path: Path, index: object, reason: str) -> None:
    forged(tmp_path / "x", index)
    with pytest.raises(StateError, match=reason):
        load(tmp_path / "x")


def test_only_plain_numbers_are_saved(tmp_path: Path) -> None:
    for array in (np.array(["text"]), np.array([{}]), np.array([b"raw"])):
        with pytest.raises(StateError, match="bad: expected an array of booleans, integers or floats"):
            save(tmp_path / "x", 1, {"bad": array})
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="quota"):
        save(tmp_path / "x", 1, ARRAYS)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_a_matter_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        load(tmp_path / "x")


def test_a_bad_spot_of_the_disk_is_damage_and_other_troubles_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "x", 1, ARRAYS)
    for code, expected in ((errno.EIO, StateError), (errno.ESTALE, StorageError)):

        def refuse(*_: object, code: int = code) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(snapshot, "_read_into", refuse)
        with pytest.raises(expected, match=os.strerror(code)):
            load(tmp_path / "x")


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "x", 1, {"a": np.arange(1000)})
    real = snapshot._read_index

    def shrinking(file: Any, size: int) -> Any:
        found = real(file, size)
        os.truncate(tmp_path / "x", 500)
        return found

    monkeypatch.setattr(snapshot, "_read_index", shrinking)
    with pytest.raises(StateError, match="cut short"):
        load(tmp_path / "x")


# --- the directory -------------------------------------------------------------------------------------------------


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    found = Snapshots(tmp_path / "snapshots")
    found.open()
    return found


def state(n: int) -> dict[str, Any]:
    return {"x": np.arange(n)}


def test_the_newest_two_are_kept(snapshots: Snapshots) -> None:
    assert snapshots.load_newest() is None
    assert snapshots.newest_ever() == 0
    for n in (3, 20, 100):
        snapshots.save(n, state(n))
    assert snapshots.sequences() == [20, 100]
    sequence, arrays = snapshots.load_newest() or (0, {})
    assert sequence == snapshots.newest_ever() == 100
    assert_equal(arrays, state(100))
    assert snapshots.refused == []


def test_a_damaged_one_is_set_aside_and_the_older_one_is_loaded(snapshots: Snapshots, tmp_path: Path) -> None:
    for n in (3, 20):
        snapshots.save(n, state(n))
    path = tmp_path / "snapshots" / f"{20:020d}.snapshot"
    path.write_bytes(path.read_bytes()[:-1])
    assert (snapshots.load_newest() or (0,))[0] == 3
    assert len(snapshots.refused) == 1
    assert "cut short" in snapshots.refused[0]
    assert snapshots.sequences() == [3]
    assert snapshots.newest_ever() == 20, "what it stood for is remembered"
    for n in (21, 22, 23):
        snapshots.save(n, state(n))
    assert sorted(p.name for p in path.parent.iterdir()) == [f"{n:020d}.snapshot" for n in (22, 23)]


def test_one_under_a_wrong_name_is_not_loaded(snapshots: Snapshots, tmp_path: Path) -> None:
    snapshots.save(3, state(3))
    (tmp_path / "snapshots" / f"{3:020d}.snapshot").rename(tmp_path / "snapshots" / f"{4:020d}.snapshot")
    assert snapshots.load_newest() is None
    assert "its name says 4, its content 3" in snapshots.refused[0]


def test_saving_again_after_the_same_sequence(snapshots: Snapshots) -> None:
    snapshots.save(3, state(3))
    snapshots.save(3, state(4))
    assert_equal((snapshots.load_newest() or (0, {}))[1], state(4))


def test_older_ones_stay_for_audits_one_in_so_long(tmp_path: Path) -> None:
    many = Snapshots(tmp_path / "many", keep_s=3_600, every_s=600)
    many.open()
    now_s = time.time()
    for sequence, age_s in enumerate((7_200, 3_000, 2_900, 2_300, 1_000, 100, 50, 0), 1):
        many.save(sequence, {"a": np.array([sequence])})
        os.utime(many.path(sequence), (now_s - age_s, now_s - age_s))
    many.save(9, {"a": np.array([9])})
    assert many.sequences() == [2, 4, 5, 6, 8, 9]
    assert peek(many.path(4), "a").tolist() == [4]
    with pytest.raises(StateError, match="is not a snapshot"):
        peek(many.path(4), "b")
    many.path(4).write_bytes(b"odd")
    with pytest.raises(StateError, match="not a snapshot"):
        peek(many.path(4), "a")
    many.drop_before(6)
    assert many.sequences() == [6, 8, 9]
    many.drop_before(100)
    assert many.sequences() == [8, 9]
