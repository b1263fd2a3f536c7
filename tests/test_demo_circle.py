"""The second part of the demo: the life of a model is told as it happened, and what goes otherwise ends it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from rich.console import Console

from otel_aiops.demo import operator as module
from otel_aiops.demo.operator import Operator
from otel_aiops.demo.service import running
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.shop.queues import QUEUES, STEP_S, Queues

START_S = 1_759_968_000
VERSION = r"[0-9a-f]{16}"


def depths(queues: Queues, steps: int, **odd: float) -> list[list[float]]:
    """Depths by step."""
    points = decode_metrics(queues.request(steps, **odd)).points
    assert points.time_ns.tolist()[:: len(QUEUES)] == [
        (queues.now_s - (steps - k) * STEP_S) * 10**9 for k in range(steps)
    ]
    values: list[list[float]] = points.value.reshape(steps, len(QUEUES)).tolist()
    return values


def test_queues_are_alike_whatever_their_requests() -> None:
    one, other = Queues(START_S), Queues(START_S)
    whole = depths(one, 30)
    parts = [*depths(other, 10), *depths(other, 20)]
    assert whole == parts and one.now_s == START_S + 30 * STEP_S
    assert Queues(START_S, seed=4).request(1) != Queues(START_S).request(1)
    odd = depths(one, 2, parcels=420.0)
    assert [row[QUEUES.index("parcels")] for row in odd] == [420.0, 420.0]
    one.moved = True
    assert min(map(min, depths(one, 288))) > 200 > max(map(max, whole))


class Service:
    """Files and an address, and nobody there."""

    def __init__(self, folder: Path) -> None:
        self.config, self.data = folder / "c.yaml", folder / "data"
        self.config.write_text("objectives: [{name: orders, match: {service: orders}, budget: 2/day}]\n")
        self.url, self.http = "http://127.0.0.1:9", 9


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    console = Console(file=io.StringIO(), width=100, highlight=False)
    return Operator(console, Service(tmp_path), Queues(START_S))  # type: ignore[arg-type]


def shown(operator: Operator) -> str:
    file: Any = operator.console.file
    return str(file.getvalue())


def test_a_command_is_shown_as_typed_and_runs_where_the_files_are(operator: Operator) -> None:
    operator.show(operator.type("dataset", "list", files=True))
    lines = shown(operator).splitlines()
    assert lines[0] == "  $ otel-aiops dataset list" and lines[1].split()[:2] == ["id", "from"]
    assert all(line.strip() for line in lines)


def test_a_command_that_ends_otherwise_ends_the_demo_with_its_words(operator: Operator) -> None:
    with pytest.raises(RuntimeError, match=r"lifecycle show x: expected exit code 0, got 3\n.*expected 16 hexa"):
        operator.type("lifecycle", "show", "x", files=True)


def test_waiting_says_where_it_stands_and_has_an_end(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STILL_S", 0.0)
    monkeypatch.setattr(module, "PAUSE_S", 0.001)
    answers = iter([0, 0, 7])
    assert operator.wait(lambda: next(answers), "seven", still=lambda: "step two goes on") == 7
    assert shown(operator).count("… step two goes on (0 s)") == 2
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    with pytest.raises(RuntimeError, match="expected the moon within 0 s, it did not come"):
        operator.wait(lambda: False, "the moon")


def test_what_is_said_is_no_markup_and_is_broken_below_itself(operator: Operator) -> None:
    operator.say("a [bold]word[/] " + "x" * 60 + " " + "y" * 60)
    operator.table(("", "now\nv1"), [("alerts", "3")])
    first, second, *table = shown(operator).splitlines()
    assert first == "    a [bold]word[/] " + "x" * 60 and second == "      " + "y" * 60
    assert [line.split() for line in (table[0], table[1], table[-1])] == [["now"], ["v1"], ["alerts", "3"]]


def test_a_running_service_has_what_is_added_to_its_configuration() -> None:
    with running("objectives: [{name: orders, match: {service: orders}, budget: 2/day}]\n") as service:
        service.wait()
        found = requests.get(f"{service.url}/api/v1/objectives", timeout=30).json()["objectives"]
        assert [one["name"] for one in found] == ["orders"] and service.config.exists() and service.data.exists()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_whole_circle_is_told() -> None:
    """Each figure is the product's own: here is what must be the same in all that is said of one thing."""
    done = subprocess.run(
        [sys.executable, "-m", "otel_aiops.demo", "circle"],
        env={**os.environ, "COLUMNS": "300", "USER": "ana"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1400,
    )
    text = done.stdout
    assert done.returncode == 0, text + done.stderr
    assert "\x1b" not in text and re.findall(r"(?m)^(\d)  \S", text) == list("12345678")
    chapters = re.split(r"(?m)^\d  ", text)
    assert "take an hour of telemetry each" in chapters[0] and "2/day" in chapters[1]
    said = re.search(rf"version ({VERSION}) knows 6 series", chapters[2])
    assert said, chapters[2]
    first = said[1]
    assert "injected faults found" in chapters[2] and "NO " not in chapters[2] and f"{first} runs as shadow" in text
    orders = re.findall(r"(?m)^ +(shadow|canary|promote) +by (\S+):", chapters[3])
    assert orders == [("shadow", "ana"), ("canary", "otel-aiops"), ("promote", "otel-aiops")]
    assert f"champion {first} alone" in chapters[3]

    assert 'queue.depth{service.name="orders", queue="parcels"}: 420 is far above' in chapters[4]
    assert "learned: true_alert at " in chapters[4]
    assert "the gate says no" in chapters[5] and f"{first} is champion as before" in chapters[5]
    for rule in ("finds faults", "no regression on frozen cases"):
        assert f"NO  {rule}: " in chapters[5]
    assert "6 series, 1 label (" in chapters[5] and "parcels were late" in chapters[5]
    assert "this version is WRONG there" in chapters[5] and "the champion is right there" in chapters[5]

    assert "problem: queue.depth of orders: values are " in chapters[6]
    said = re.search(rf"champion ({VERSION}) alone", chapters[6])
    assert said and said[1] != first, chapters[6]
    assert re.search(rf"{said[1]} +{first} +seasonal-naive", chapters[6]), "before and after are figures side by side"
    assert f"champion: {first}\n" in chapters[7] and f"champion: {said[1]}\n" in chapters[7]
    assert re.search(r"back in \d+\.\d s with the start", chapters[7])
    over_api = re.search(r"back in (\d+\.\d\d) s over the API", chapters[7])
    assert over_api and float(over_api[1]) < 5, "what is promised of a rollback"
    assert "equal in every bit" in chapters[8] and f"served by    champion {first}" in chapters[8]
