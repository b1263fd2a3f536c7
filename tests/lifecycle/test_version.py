"""A model version is whole and as it was written, or refused with what is wrong."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from otel_aiops.detect.engine import EngineConfig
from otel_aiops.errors import BadInput, StateError, StorageError
from otel_aiops.lifecycle.version import BUNDLE, MODEL, Bundle, Lineage, Models, ModelVersion, Settings, _id
from tests.test_serving import PLAIN, Line

SETTINGS = Settings(PLAIN)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    line = Line().run(30)
    trained = line.trained()
    return Bundle(trained.labels, trained.engine, line.pipeline.alerting.budget.learned())


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path / "models")


def test_what_is_written_is_read_back(models: Models, bundle: Bundle) -> None:
    lineage = Lineage(dataset="d", objective="o", code="0.1", seed=3, until_ns=7, who="ana", why="first")
    written = models.write(SETTINGS, bundle, lineage)
    version, found = models.load(written.id)
    assert version == written and version.lineage == lineage and version.settings == SETTINGS
    assert models.list() == [written.id]
    assert found.labels == bundle.labels
    a, b = found.arrays(), bundle.arrays()
    assert set(a) == set(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_the_same_content_is_the_same_version(models: Models, bundle: Bundle, tmp_path: Path) -> None:
    first = models.write(SETTINGS, bundle, Lineage(dataset="d", who="ana"))
    again = models.write(SETTINGS, bundle, Lineage(dataset="d", who="bo", why="again"))
    assert again == first and models.version(first.id).lineage.who == "ana", "what is registered never changes"
    assert Models(tmp_path / "elsewhere").write(SETTINGS, bundle, Lineage(dataset="d")).id == first.id
    others = {
        models.write(SETTINGS, bundle, Lineage(dataset="e")).id,
        models.write(Settings(replace(PLAIN, threshold=4.0)), bundle, Lineage(dataset="d")).id,
        models.write(SETTINGS, Bundle(bundle.labels, bundle.engine), Lineage(dataset="d")).id,
    }
    assert len(others | {first.id}) == 4 and len(models.list()) == 4


def test_a_changed_byte_is_found(models: Models, bundle: Bundle) -> None:
    version = models.write(SETTINGS, bundle, Lineage())
    path = models.folder(version.id) / BUNDLE
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StateError, match=r"expected SHA-256 .* it was changed"):
        models.load(version.id)
    path.unlink()
    with pytest.raises(StorageError, match="No such file"):
        models.load(version.id)
    models.write(SETTINGS, bundle, Lineage())
    assert models.load(version.id), "what was lost can be written again"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"detection": {"threshold": 1.0}}}, "it was changed"),
        ({"lineage": {"dataset": "other"}}, "it was changed"),
        ({"digest": "0" * 64}, "it was changed"),
        ({"id": "0" * 16}, "expected the id"),
        ({"format": 2}, "expected format 1, got 2"),
        ({"settings": {"detection": {"threshold": -1.0}}}, "settings: expected those of this version"),
        ({"settings": {"detection": {"colour": 1}}}, "settings: expected those of this version"),
        ({"signature": {"series": 3}}, "expected a version as JSON"),
    ],
)
def test_a_changed_description_is_found(
    models: Models, bundle: Bundle, change: dict[str, object], message: str
) -> None:
    version = models.write(SETTINGS, bundle, Lineage())
    path = models.folder(version.id) / MODEL
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(StateError, match=message):
        models.load(version.id)


def test_what_somebody_else_made_is_refused_and_never_unpickled(models: Models, bundle: Bundle, tmp_path: Path) -> None:
    version = models.write(SETTINGS, bundle, Lineage())
    path = models.folder(version.id) / BUNDLE
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return (open, (str(ran), "w"))

    def with_digest(of: ModelVersion) -> ModelVersion:
        return replace(of, digest=hashlib.sha256(path.read_bytes()).hexdigest())

    np.savez(path, allow_pickle=True, **{"engine/x": np.array([Evil()], object)})
    forged = with_digest(version)
    tree = forged.to_json()
    tree["id"] = _id(forged.settings, forged.lineage, forged.signature, forged.digest)
    folder = models.folder(str(tree["id"]))
    path.parent.rename(folder)
    (folder / MODEL).write_text(json.dumps(tree))
    with pytest.raises(StateError, match="expected arrays of numbers"):
        models.load(str(tree["id"]))
    assert not ran.exists()


def test_a_bundle_that_no_engine_can_take_is_not_written(models: Models, bundle: Bundle) -> None:
    short = {**bundle.engine, "alerts/peak": bundle.engine["alerts/peak"][:-1]}
    for wrong in (
        Bundle(bundle.labels, short),
        Bundle(bundle.labels[:-1], bundle.engine),
        Bundle(bundle.labels, {**bundle.engine, "other/x": np.zeros(3)}),
    ):
        with pytest.raises(StateError, match="expected"):
            models.write(SETTINGS, wrong, Lineage())
    with pytest.raises(StateError):
        models.write(Settings(EngineConfig()), Bundle(bundle.labels, {}), Lineage())
    assert models.list() == []


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "expected labels/bytes, labels/ends"),
        ({"labels/bytes": np.frombuffer(b"\xff\xff", np.uint8), "labels/ends": np.array([2])}, "labels as text"),
        ({"labels/bytes": np.zeros(0, np.uint8), "labels/ends": np.zeros(0, np.int64), "x/y": np.zeros(1)}, "got x/y"),
    ],
)
def test_arrays_that_are_no_bundle_are_refused(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(StateError, match=message):
        Bundle.of(arrays)


def test_a_half_written_version_is_not_there(models: Models, bundle: Bundle) -> None:
    version = models.write(SETTINGS, bundle, Lineage())
    (models.folder(version.id) / MODEL).unlink()
    assert models.list() == []
    with pytest.raises(BadInput, match="expected one of none, got"):
        models.load(version.id)
    assert models.write(SETTINGS, bundle, Lineage()).id == version.id and models.load(version.id)


def test_names_are_no_paths(models: Models, bundle: Bundle) -> None:
    models.write(SETTINGS, bundle, Lineage())
    for name in ("..", "../../etc/passwd", "", "A" * 16, "0" * 15):
        with pytest.raises(BadInput, match="expected 16 hexadecimal digits"):
            models.version(name)


def test_a_torn_archive_is_refused(models: Models, bundle: Bundle) -> None:
    version = models.write(SETTINGS, bundle, Lineage())
    path = models.folder(version.id) / BUNDLE
    assert zipfile.is_zipfile(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(StateError):
        models.load(version.id)
    (models.folder(version.id) / MODEL).write_text("{")
    with pytest.raises(StateError, match="expected JSON"):
        models.version(version.id)
