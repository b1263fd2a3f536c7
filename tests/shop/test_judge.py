"""The labelled set of the shop: recorded by seed, read again, and what the judge says of incidents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.shop import Day, Judgement, day, feed, judge, judged, record, recorded, table
from otel_aiops.shop import Kind

T = 1_000_000.0


def fault(start: float, **more: Any) -> dict[str, Any]:
    """A label as it stands in labels.json."""
    usual = {"kind": "cpu", "service": "cart", "start": start, "end": start + 300, "limit": None}
    return {**usual, "accept": ["cart"], "accept_edges": [], **more}


def line(at: float, *suspects: str, **more: Any) -> dict[str, Any]:
    """A line of --incidents-out."""
    named = [{"service": name, "score": 1.0} for name in suspects]
    return {"id": str(at), "state": "open", "detected_at": at, "suspects": named, **more}


def found(faults: list[dict[str, Any]], *lines: dict[str, Any]) -> Judgement:
    return judge(lines, {"warm_until": T, "end": T + 36_000, "faults": faults})


def test_a_fault_is_found_by_the_first_incident_after_its_start() -> None:
    made = found([fault(T + 100)], line(T + 90, "cart"), line(T + 130, "web", "cart"), line(T + 200, "cart"))
    tally = made.kinds["cpu"]
    assert (tally.faults, tally.delays_s, tally.top1, tally.top3, tally.extra) == (1, [30.0], 0, 1, 1)
    assert [one["at"] for one in made.false] == [T + 90]


def test_the_ranking_of_the_first_minute_counts() -> None:
    lines = [
        line(T + 110, "web"),
        {**line(T + 110, "cart"), "updated_at": T + 165},
        {**line(T + 110, "web"), "updated_at": T + 175},
    ]
    assert found([fault(T + 100)], *lines).kinds["cpu"].top1 == 1
    assert found([fault(T + 100)], *lines[:1]).kinds["cpu"].top1 == 0


def test_other_right_answers() -> None:
    edge = {"service": "catalog", "edge": "catalog -> postgresql"}
    slow = fault(T + 100, service="postgresql", accept=["postgresql"], accept_edges=["catalog -> postgresql"])
    assert found([slow], line(T + 110, suspects=[edge])).kinds["cpu"].top1 == 1
    assert found([slow], line(T + 110, suspects=[{"service": "catalog"}])).kinds["cpu"].top1 == 0
    surge = fault(T + 100, service="", accept=["", "web"])
    assert found([surge], line(T + 110)).kinds["cpu"].top1 == 1
    assert found([surge], line(T + 110, "web")).kinds["cpu"].top1 == 1
    assert found([surge], line(T + 110, "search")).kinds["cpu"].top1 == 0


def test_incidents_in_the_quiet_are_false_but_not_soon_after_a_fault_or_while_it_warms_up() -> None:
    made = found([fault(T + 1000)], line(T - 5, "cart"), line(T + 1590, "cart"), line(T + 1601, "cart"))
    assert [one["at"] for one in made.false] == [T + 1601]
    assert made.quiet_h == pytest.approx(10 - 600 / 3600)
    assert made.kinds["cpu"].delays_s == []


def test_predictions_are_right_before_the_limit() -> None:
    leak = fault(T + 1000, kind="memory leak", end=T + 2800, limit=T + 2440)
    early, late, other = (
        line(T + at, name, state="predicted") for at, name in ((1240, "cart"), (2500, "cart"), (1300, "web"))
    )
    made = found([leak], early, late, other)
    assert made.kinds["memory leak"].leads_s == [1200.0]
    assert [one["at"] for one in made.false_predictions] == [T + 2500, T + 1300]
    assert not made.false and not made.kinds["memory leak"].delays_s
    opened = found([leak], early, {**early, "state": "open", "detected_at": T + 2460})
    assert opened.kinds["memory leak"].delays_s == [1460.0]


@pytest.fixture(scope="module")
def short() -> Day:
    made = day(1, rate=3, kinds=[Kind.CPU, Kind.GOOD_DEPLOY])
    return Day(made.shop, 4, made.labels)


def test_a_day_is_recorded_and_read_again(tmp_path: Path, short: Day) -> None:
    said = list(day(1, rate=3, kinds=[Kind.CPU, Kind.GOOD_DEPLOY]).bodies().__next__() for _ in range(2))
    assert said[0] == said[1]
    assert record(short, tmp_path) > 1000
    bodies = list(recorded(tmp_path))
    assert bodies[0] == said[0]
    assert [signal for signal, *_ in bodies] == [
        "metrics",
        "traces",
        "logs",
        *["traces", "logs"] * 2,
        "metrics",
        "traces",
        "logs",
    ]
    assert len({received_ns for _, _, received_ns in bodies}) == 4
    taken: list[tuple[str, bytes, int]] = []
    assert feed(lambda *body: taken.append(body), recorded(tmp_path)) == 10  # type: ignore[arg-type]
    assert taken == bodies


def test_labels_say_what_went_wrong_and_what_only_changed(tmp_path: Path, short: Day) -> None:
    record(short, tmp_path)
    labels = json.loads((tmp_path / "labels.json").read_text())
    assert [fault["kind"] for fault in labels["faults"]] == ["cpu"]
    assert [fault["kind"] for fault in labels["deployments"]] == ["good deploy"] * 2
    assert labels["start"] < labels["warm_until"] <= min(fault["start"] for fault in labels["faults"])
    (bad,) = labels["faults"]
    (tmp_path / "incidents.jsonl").write_text(json.dumps(line(bad["start"] + 20, bad["service"])) + "\n\n")
    made = judged([tmp_path, tmp_path])
    assert (made.total.faults, made.total.top1, made.total.delays_s) == (2, 2, [20.0, 20.0])
    assert "cpu" in table(made) and "false incidents: 0" in table(made)


def test_every_kind_happens_on_a_day() -> None:
    labels = day(2).labels
    assert sorted(fault["kind"] for fault in labels["faults"]) == sorted(set(Kind) - {Kind.GOOD_DEPLOY})
    assert len(labels["deployments"]) == 2
