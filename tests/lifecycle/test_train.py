"""Training: the same version whatever the machine does, and no version at all where something is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.serving import Action, Rollout, Trained
from otel_aiops.errors import BadInput, Overloaded, StateError, StorageError
from otel_aiops.lifecycle import train as module
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.manifest import Manifest, Window
from otel_aiops.lifecycle.objective import Objective
from otel_aiops.lifecycle.train import STAGED, Wanted, batches, train
from otel_aiops.lifecycle.version import Lineage, Models, ModelVersion, Settings
from otel_aiops.pipeline import Pipeline, PipelineConfig
from otel_aiops.series.batch import Batch
from otel_aiops.series.segments import HOUR_NS
from tests.lifecycle.recording import MINUTE_NS, NOW_NS, SERIES, START_NS, columns, labels_of, record, regular
from tests.series.conftest import tiny_disk  # noqa: F401  a fixture

HOURS = 1
WINDOW = Window(START_NS, START_NS + HOURS * HOUR_NS)
SETTINGS = Settings(EngineConfig(seasons="week"))
CONFIG = PipelineConfig()


def uneven(seed: int = 1) -> tuple[object, ...]:
    """Six series: one each 30 s, one each 5 min with gaps, the others each minute."""
    rng = np.random.default_rng(seed)
    parts = []
    for code, step_s in enumerate((30, 300, 60, 60, 60, 60)):
        time_ns = START_NS + np.arange(0, HOURS * 3600, step_s) * 1_000_000_000 + code
        kept = rng.random(len(time_ns)) < (0.7 if code == 1 else 1.0)
        parts.append((np.full(int(kept.sum()), code), time_ns[kept], rng.normal(100, 5, int(kept.sum()))))
    code, time_ns, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(time_ns, kind="stable")
    return code[order], time_ns[order], value[order]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    record(tmp_path, columns(SERIES, *uneven()))  # type: ignore[arg-type]
    return tmp_path


def made(data: Path, **more: object) -> Manifest:
    return Datasets.of(data).build(WINDOW, now_ns=NOW_NS, **{"force": "a test", **more})  # type: ignore[arg-type]


def trained(
    data: Path, where: str = "models", settings: Settings = SETTINGS, parts: int = 6, **more: object
) -> ModelVersion:
    wanted = Wanted(dataset=made(data).id, part_series=parts)
    return train(Datasets.of(data), Models(data / where), wanted, settings, CONFIG, **more)  # type: ignore[arg-type]


def test_a_version_does_not_depend_on_the_number_of_processes(data: Path) -> None:
    told: list[float] = []
    one = trained(data, "one", parts=2, progress=lambda done, total, text: told.append(done / total))
    two = trained(data, "two", parts=2, processes=2)
    assert one == two
    assert Models(data / "one").folder(one.id).joinpath("series.npz").read_bytes() == (
        Models(data / "two").folder(two.id).joinpath("series.npz").read_bytes()
    )
    assert told == sorted(told) and told[-1] == pytest.approx(1.0, abs=0.01)
    assert one.lineage.dataset == made(data).id and one.lineage.until_ns < WINDOW.end_ns
    assert not list((data / "one").glob(f"{STAGED}*")), "what it was made of is gone"


def test_each_series_is_learned_as_if_it_came_alone(data: Path) -> None:
    version, bundle = Models(data / "models").load(trained(data).id)
    code, time_ns, value = uneven()
    whole = Engine(version.settings.detection)
    whole.restore(bundle.engine)
    rows = np.arange(len(SERIES), dtype=np.int32)
    after = NOW_NS + np.zeros(len(SERIES), np.int64)
    found = whole.score(Batch(rows, after, np.full(len(rows), 130.0), np.full(len(rows), 60.0)))
    for place, text in enumerate(bundle.labels):
        mine = np.flatnonzero(code == SERIES.index(text))
        alone = Engine(version.settings.detection)
        before = np.nan
        for k in mine.tolist():
            batch = Batch(np.zeros(1, np.int32), time_ns[[k]], value[[k]], np.array([(time_ns[k] - before) / 1e9]))
            alone.learn(batch, alone.score(batch))
            before = float(time_ns[k])
        wanted = alone.score(Batch(rows[:1], after[:1], np.full(1, 130.0), np.full(1, 60.0)))
        assert found.score[place] == pytest.approx(wanted.score[0], rel=1e-6, nan_ok=True)
        assert found.expected[place] == pytest.approx(wanted.expected[0], rel=1e-6, nan_ok=True)


@given(st.lists(st.lists(st.integers(0, 400), max_size=30, unique=True), min_size=1, max_size=6))
def test_batches_have_every_point_once_and_each_series_in_its_order(times_s: list[list[int]]) -> None:
    rows = np.concatenate([np.full(len(one), k, np.int32) for k, one in enumerate(times_s)])
    time_ns = np.concatenate([np.sort(np.array(one, np.int64)) for one in times_s]) * 1_000_000_000
    found = list(batches(rows, time_ns))
    every = np.concatenate([np.empty(0, np.intp), *found])
    assert sorted(every.tolist()) == list(range(len(rows)))
    assert all(len(np.unique(rows[k])) == len(k) for k in found)
    minutes = [set((time_ns[k] // MINUTE_NS).tolist()) for k in found]
    assert all(len(one) == 1 for one in minutes) and [min(one) for one in minutes] == sorted(
        min(one) for one in minutes
    )
    for row in range(len(times_s)):
        own = time_ns[every[rows[every] == row]]
        assert (np.diff(own) > 0).all()


def test_what_it_learned_serves(data: Path) -> None:
    models = Models(data / "models")
    objective = Objective(name="carts", match={"service": "cart"}, budget="2/day")
    version, bundle = models.load(trained(data, objective=objective).id)
    assert version.lineage.objective == objective.id
    pipeline = Pipeline(replace(CONFIG, budgets=(objective.alert_budget(),)))

    def load(name: str) -> Trained:
        return Trained(version.settings.detection, bundle.labels, bundle.engine, bundle.budget)

    pipeline.roll(Rollout(action=Action.SHADOW, version=version.id, time_ns=NOW_NS), load)
    other = pipeline.serving.other
    assert other is not None and [one.name for one in other.alerting.budget.reports()] == ["carts", "default"]
    assert all(one.threshold > 0 for one in other.alerting.budget.reports())


def test_a_dataset_that_is_not_good_enough_is_refused(data: Path) -> None:
    name = made(data, force="").id
    with pytest.raises(BadInput, match="not good enough to learn from"):
        train(Datasets.of(data), Models(data / "models"), Wanted(dataset=name), SETTINGS, CONFIG)
    assert not (data / "models").exists()


def test_nothing_to_learn_is_refused(data: Path) -> None:
    name, models = made(data).id, Models(data / "models")
    with pytest.raises(BadInput, match="expected series"):
        train(Datasets.of(data), models, Wanted(dataset=name, series=()), SETTINGS, CONFIG)
    with pytest.raises(BadInput, match="has no series"):
        train(Datasets.of(data), models, Wanted(dataset=name, series=("{}",)), SETTINGS, CONFIG)
    early = Wanted(dataset=name, start_ns=START_NS, end_ns=START_NS + 1)
    assert train(Datasets.of(data), models, replace(early, end_ns=START_NS + 4), SETTINGS, CONFIG)
    with pytest.raises(BadInput, match="expected points"):
        late = Wanted(dataset=name, start_ns=WINDOW.end_ns - 1)
        train(Datasets.of(data), models, late, SETTINGS, CONFIG)


def test_a_damaged_segment_is_named(data: Path) -> None:
    wanted = Wanted(dataset=made(data).id)
    path = sorted((data / "lifecycle/datasets/segments").glob("*.parquet"))[0]
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 3] ^= 0xFF
    path.unlink()
    path.write_bytes(blob)
    for count in (1, 2):  # here, and in another process
        with pytest.raises(StateError, match=path.name):
            train(
                *(Datasets.of(data), Models(data / "models"), replace(wanted, part_series=2), SETTINGS, CONFIG),
                processes=count,
            )
    path.unlink()
    with pytest.raises(StateError, match="is missing"):
        train(Datasets.of(data), Models(data / "models"), wanted, SETTINGS, CONFIG)
    assert Models(data / "models").list() == []


def test_a_full_disk_leaves_no_version(data: Path, tiny_disk: Path) -> None:  # noqa: F811
    wanted, models = Wanted(dataset=made(data).id), Models(tiny_disk / "models")
    blob, disk = tiny_disk / "full", os.statvfs(tiny_disk)
    blob.write_bytes(b"0" * (disk.f_bavail * disk.f_frsize - 32 * 1024))
    with pytest.raises(StorageError):
        train(Datasets.of(data), models, wanted, SETTINGS, CONFIG)
    assert models.list() == []
    blob.unlink()


def test_one_trains_the_same_at_a_time(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner: list[BaseException] = []

    def again(*_: object, **__: object) -> object:
        with pytest.raises(Overloaded, match="is being trained now") as found:
            trained(data)
        inner.append(found.value)
        raise StateError("stop")

    monkeypatch.setattr(module, "learn", again)
    with pytest.raises(StateError, match="stop"):
        trained(data)
    assert len(inner) == 1


def test_a_part_that_was_finished_is_not_learned_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, begun = trained(data, "elsewhere", parts=2), 0
    take = module.Learner.take

    def dies(self: module.Learner, chunk: object) -> object:
        nonlocal begun
        begun += 1
        if begun == 3:
            raise KeyboardInterrupt
        return take(self, chunk)  # type: ignore[arg-type]

    monkeypatch.setattr(module.Learner, "take", dies)
    with pytest.raises(KeyboardInterrupt):
        trained(data, parts=2)
    parts = sorted((data / "models").glob(f"{STAGED}*/part-*.npz"))
    assert [part.name for part in parts] == ["part-0.npz", "part-1.npz"]
    parts[1].write_bytes(parts[1].read_bytes()[:100])  # it is damaged, so it is learned again
    assert trained(data, parts=2) == wanted and begun == 5


def test_a_killed_trainer_leaves_no_version(data: Path) -> None:
    name = made(data).id
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.lifecycle import test_train as t\n"
        "t.module.Models.write = lambda *_: (Path(sys.argv[1], 'there').touch(), time.sleep(60))\n"
        "t.trained(Path(sys.argv[1]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(data)])
    deadline = time.monotonic() + 60
    while not (data / "there").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    models = Models(data / "models")
    assert models.list() == [] and len(list((data / "models").glob(f"{STAGED}*/part-*.npz"))) == 1
    assert models.load(trained(data).id)[0].lineage.dataset == name, "the next one takes over"


def test_what_nobody_went_on_with_is_deleted(data: Path) -> None:
    old, new, busy = (data / "models" / f"{STAGED}{name}" for name in ("old", "new", "busy"))
    for one in (old, new, busy):
        one.mkdir(parents=True)
    lock = module.DirectoryLock(busy)
    lock.acquire()
    for one in (old, busy):
        os.utime(one, (1.0, 1.0))
    assert trained(data)
    lock.release()
    assert not old.exists() and new.exists() and busy.exists()


@pytest.mark.parametrize(("series", "most", "sizes"), [(3, 10, [3]), (1001, 5000, [500, 501]), (7, 3, [2, 2, 3])])
def test_parts_are_a_matter_of_the_series_alone(series: int, most: int, sizes: list[int]) -> None:
    names = sorted(labels_of(f"s{k % 3}", k).to_json() for k in range(series))
    parts = module._parts(names, most)
    assert [len(part) for part in parts] == sizes and sorted(row for part in parts for row in part) == list(
        range(series)
    )
    assert all(part == sorted(part) for part in parts)


def test_lineage_is_kept_and_who_is_no_part_of_it(data: Path) -> None:
    ana, bo = (trained(data, who, lineage=Lineage(parent="p", who=who)) for who in ("ana", "bo"))
    assert ana.id == bo.id and ana.lineage.who == "ana" and ana.lineage.parent == "p"
    other = trained(data, "ana", settings=Settings(EngineConfig(seasons="week", threshold=4.0)))
    assert other.id != ana.id


def test_auto_seasons_and_many_hours_train_too(tmp_path: Path) -> None:
    record(tmp_path, regular(hours=HOURS))
    assert trained(tmp_path, settings=Settings()).signature.series == len(SERIES)
