"""A dataset with all that is around it: other servers, and old datasets that go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from otel_aiops.lifecycle.assemble import Around, Wanted, assemble
from otel_aiops.lifecycle.dataset import DatasetConfig, Datasets
from otel_aiops.series.segments import HOUR_NS
from tests.lifecycle.recording import NOW_NS, START_NS, record, regular


def test_old_datasets_go_unless_somebody_needs_them(tmp_path: Path) -> None:
    record(tmp_path, regular())
    made, notes = [], ()
    config = DatasetConfig(keep=1)
    for hours in (25, 26, 27):
        wanted = Wanted(start_ns=START_NS, end_ns=START_NS + hours * HOUR_NS)
        one, notes = assemble(tmp_path, wanted, config=config, around=Around(), now_ns=NOW_NS + hours)
        made.append(one.id)
        if hours == 25:
            model = tmp_path / "lifecycle/models/m/model.json"
            model.parent.mkdir(parents=True)
            model.write_text(json.dumps({"dataset": one.id}))
    assert notes == (f"deleted, because only 1 are kept that no model cites: {made[1]}",)
    assert sorted(one.id for one in Datasets.of(tmp_path).list()) == sorted([made[0], made[2]])
    again = Wanted(start_ns=START_NS, end_ns=START_NS + 25 * HOUR_NS)
    assemble(tmp_path, again, config=config, around=Around(), now_ns=NOW_NS)
    model.write_text("{")
    _, notes = assemble(tmp_path, again, config=config, around=Around(), now_ns=NOW_NS)
    assert "no old dataset is deleted" in notes[0] and len(Datasets.of(tmp_path).list()) == 2


def test_alertmanager_and_prometheus_are_asked(tmp_path: Path) -> None:
    record(tmp_path, regular())
    answers: dict[str, Any] = {
        "/api/v2/alerts": [],
        "/api/v2/silences": [],
        "/api/v1/query_range": {"status": "success", "data": {"result": []}},
    }
    asked: list[str] = []

    def get(path: str, parameters: dict[str, str]) -> Any:
        asked.append(path)
        return answers[path]

    around = Around(alertmanager=get, prometheus=get)
    wanted = Wanted(start_ns=START_NS, with_incidents=True)
    made, _ = assemble(tmp_path, wanted, config=DatasetConfig(), around=around, now_ns=NOW_NS)
    assert made.gate.passed and sorted(asked) == sorted(answers)
