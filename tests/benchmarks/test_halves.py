"""Files split in time: what comes behind the split is judged, what comes before it is answered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import halves
from benchmarks.halves import SPLIT_NS, File, Group, Opened
from otel_aiops.detect.budget import BudgetConfig
from otel_aiops.detect.engine import EngineConfig
from otel_aiops.errors import BadInput
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.manifest import Window
from otel_aiops.series.segments import HOUR_NS

MINUTE_NS = 60_000_000_000


def file(name: str, *, spikes: tuple[int, ...] = ()) -> File:
    minutes = np.arange(-600, 400)
    value = np.random.default_rng(len(name)).normal(100, 2, 1000)
    for minute in spikes:
        value[minute + 600] += 200
    events = ((SPLIT_NS + 100 * MINUTE_NS, SPLIT_NS + 110 * MINUTE_NS),)
    labels = Labels("load", resource=(("service.name", name),))
    return File(name, labels, SPLIT_NS + minutes * MINUTE_NS, value, events, 60.0)


GROUP = Group("cloud", (file("folder/a", spikes=(-300, 104, 250)), file("folder/bb")))
BUDGET = BudgetConfig(name="all", budget="1/hour")
PLAIN = EngineConfig(seasons="off", novelty_memory=0)


def test_alerts_behind_the_split_are_told_by_what_they_are_about() -> None:
    opened = halves.run(GROUP, PLAIN, BUDGET)
    minutes = [(one.time_ns - SPLIT_NS) // MINUTE_NS for one in opened if one.file == 0]
    assert [minute for minute in minutes if minute in (-300, 104, 250)] == [-300, 104, 250]
    found = halves.marks(GROUP, [one for one in opened if one.file == 0], 1.0)
    assert found.events.tolist() == [1, 1] and found.found.tolist() == [1, 0] and found.true.tolist() == [1, 0]
    assert found.delays_s == (240.0,) and found.figures["recall"] == 0.5
    assert halves.marks(GROUP, [], 1.0).figures["f1"] == 0


def test_a_false_alert_raises_the_threshold_once_it_is_answered() -> None:
    taught = halves.run(GROUP, PLAIN, BUDGET, answers=True)
    assert {(one.file, one.time_ns) for one in taught} <= {
        (one.file, one.time_ns) for one in halves.run(GROUP, PLAIN, BUDGET)
    }


def test_what_is_gained_comes_with_an_interval() -> None:
    alerts = [Opened(0, SPLIT_NS + 105 * MINUTE_NS, 2.0), Opened(1, SPLIT_NS, 2.0)]
    before, after = halves.marks(GROUP, alerts[1:], 1.0), halves.marks(GROUP, alerts[:1], 1.0)
    gain, low, high = halves.gained(before, after, np.array([0, 1]), "recall", draws=200)
    assert gain == 0.5 and low == 0.0 and high == 1.0
    same = halves.joined([before, before])
    assert len(same.events) == 4 and same.figures == pytest.approx(before.figures, nan_ok=True)


def test_a_group_becomes_a_dataset(tmp_path: Path) -> None:
    GROUP.record(tmp_path)
    window = Window(SPLIT_NS - 10 * HOUR_NS, SPLIT_NS + 6 * HOUR_NS)
    datasets = Datasets.of(tmp_path)
    made = datasets.build(window, labels=GROUP.truth(), now_ns=SPLIT_NS + 20 * HOUR_NS, force="a test")
    assert sorted(datasets.series(made.id).names) == sorted(GROUP.texts) and len(made.labels) == 2


def test_files_are_moved_so_that_their_splits_meet(tmp_path: Path) -> None:
    folder = tmp_path / "cloud_monitoring" / "rps"
    folder.mkdir(parents=True)
    for name, days in (("app-01", 4), ("app-02", 31)):
        lines = [
            f"2026-01-{1 + k // 24:02d}T{k % 24:02d}:00:00Z,{k % 7},{int(k == 80)}" for k in range(24 * min(days, 31))
        ]
        (folder / f"{name}.csv").write_text("TimeStamp,Value,Label\n" + "\n".join(lines) + "\n")
    short, long = halves.groups(tmp_path)
    assert [one.name for one in (*short.files, *long.files)] == ["rps/app-01", "rps/app-02"]
    one = short.files[0]
    assert abs(int(one.time_ns[int(0.6 * len(one.value))]) - SPLIT_NS) < HOUR_NS and one.labels.name == "rps"
    assert one.events[0][1] - one.events[0][0] == 2 * HOUR_NS + 1 and one.weeks > 0
    with pytest.raises(BadInput, match="expected the folders"):
        halves.groups(folder)
