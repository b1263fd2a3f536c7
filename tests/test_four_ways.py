"""Four ways to be served by a version: streaming, REST, a file, and alone; the same points have the same scores."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import requests
from pyarrow import parquet
from starlette.routing import Route
from typer.testing import CliRunner

from otel_aiops.audit.replay import Past
from otel_aiops.audit.why import why_series
from otel_aiops.cli import app
from otel_aiops.config import Config
from otel_aiops.desk import scoring
from otel_aiops.detect.detector import CHANNELS
from otel_aiops.detect.forest import series_key
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.export import DETECTORS
from otel_aiops.lifecycle.version import ForecastConfig, ForestConfig, Lineage
from otel_aiops.pipeline import Step
from otel_aiops.server import api
from tests.feed import Feed
from tests.incident_feed import call
from tests.lifecycle.test_saved import level, tree
from tests.test_app import QUICK, Running, running

ALONE = "joint: {enabled: false}\npeers: {enabled: false}\n"
STEP_S, LEARNED, SCORED = 30.0, 60, 15
NUMBERS = ("score", "probability", "expected", "lower", "upper", "alert")
ALL = ", ".join(DETECTORS)
QUEUES = tuple(f"q{k}" for k in range(4))
SERIES = tuple(
    Labels("depth", resource=(("service.name", "queue"),), scope_name="app", attributes=(("queue", name),))
    for name in QUEUES
)

Scores = dict[tuple[str, float], tuple[float | None, ...]]  # (series, unix seconds) → NUMBERS


def value(queue: int, step: int) -> float:
    """Noise, a wave, steps, a constant; then two spikes, a shift and a change."""
    noise = float(np.random.default_rng(1_000 * queue + step).normal())
    usual = (100 + 3 * noise, 50 + 20 * math.sin(step / 8) + noise, float(step // 10), 7.0)[queue]
    late = step - LEARNED
    odd = {(0, 3): 60.0, (0, 9): 60.0, (3, 5): 1.0} | {(1, k): 90.0 for k in range(6, SCORED)}
    return usual + odd.get((queue, late), 0.0)


def at_s(step: int) -> float:
    return 1_760_000_000.0 + STEP_S * step


class Queues:
    """A running service that has learned of some queues, and goes on to score more of their points."""

    def __init__(self, up: Running) -> None:
        self.up = up
        self.streamed: Scores = {}
        self.channels: dict[tuple[str, float], str] = {}
        follow = up.service.watch.follow

        def listen(step: Step) -> None:
            for scored in step.scored:
                for k, row in enumerate(scored.batch.rows.tolist()):
                    name = up.service.pipeline.table.labels(row).to_json()
                    numbers = [float(getattr(scored.scores, one)[k]) for one in NUMBERS]
                    at = name, scored.batch.time_ns[k] / 1e9
                    self.streamed[at], self.channels[at] = plain(numbers), CHANNELS[scored.scores.channel[k]]
            follow(step)

        up.service.watch.follow = listen  # type: ignore[method-assign]

    def feed(self, first: int, end: int) -> None:
        for step in range(first, end):
            one = Feed("queue")
            for k, name in enumerate(QUEUES):
                one.gauge("depth", at_s(step), value(k, step), queue=name)
            self.up.send(one)
        self.up.settle()

    def ask(self, model: str | None = None) -> requests.Response:
        return call(self.up, "POST", "score", asked(model))


def plain(numbers: list[float]) -> tuple[float | None, ...]:
    return tuple(one if math.isfinite(one) else None for one in numbers)


def asked(model: str | None = None, steps: range = range(LEARNED, LEARNED + SCORED)) -> dict[str, Any]:
    series = [
        {
            "labels": {key: of for key, of in json.loads(one.to_json()).items() if of},
            "timestamps": [at_s(step) for step in steps],
            "values": [value(k, step) for step in steps],
        }
        for k, one in enumerate(SERIES)
    ]
    return {"series": series} | ({"model": model} if model else {})


def told(answer: requests.Response) -> Scores:
    assert answer.status_code == 200, answer.text
    found: Scores = {}
    for labels, one in zip(SERIES, answer.json()["series"], strict=True):
        assert one["known"] and one["series"] == str(labels)
        columns = [one["alert_score" if name == "alert" else name] for name in NUMBERS]
        for step, numbers in zip(range(LEARNED, LEARNED + SCORED), zip(*columns, strict=True), strict=True):
            found[labels.to_json(), at_s(step)] = numbers
    return found


def state(up: Running) -> dict[str, bytes]:
    """All that is learned; time passes meanwhile."""
    arrays = up.service.ask(lambda: up.service.pipeline.state())
    return {name: array.tobytes() for name, array in arrays.items() if name != "pipeline/clock"}


def table(path: Path, names: list[str]) -> Path:
    """The points as a file, in the order of time."""
    steps = np.repeat(np.arange(LEARNED, LEARNED + SCORED), len(names))
    columns = {
        "timestamp": [at_s(int(step)) for step in steps],
        "series": names * SCORED,
        "value": [value(k % len(names), int(step)) for k, step in enumerate(steps)],
    }
    parquet.write_table(pa.table(columns), path)
    return path


def from_file(path: Path, *options: str) -> Scores:
    """What `score` says of the points."""
    output = path.with_name("scored.parquet")
    done = CliRunner().invoke(app, ["score", str(path), "-o", str(output), *options])
    assert done.exit_code == 0, done.output
    found = parquet.read_table(output).to_pydict()
    known = {str(one): one.to_json() for one in SERIES}
    names = [known.get(name, name) for name in found["series"]]
    columns = [found[{"score": "anomaly_score", "alert": "alert_score"}.get(name, name)] for name in NUMBERS]
    numbers = [plain(list(line)) for line in zip(*columns, strict=True)]
    return dict(zip(zip(names, found["timestamp"], strict=True), numbers, strict=True))


def blocked(folder: Path) -> dict[str, str]:
    """An environment in which nothing but numpy can be imported, of what the service needs."""
    for name in ("numba", "scipy", "sklearn", "pandas", "pyarrow", "otel_aiops"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise ImportError('only numpy here')\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def alone(model: Path, env: dict[str, str], *, first: int, end: int, save: str = "") -> Scores:
    """What the scorer says that stands beside a model."""
    lines = ["timestamp,series,value"]
    for step in range(first, end):
        names = (str(one) if k % 2 else one.to_json() for k, one in enumerate(SERIES))
        cells = ('"' + name.replace('"', '""') + '"' for name in names)
        lines += [f"{at_s(step)!r},{name},{value(k, step)!r}" for k, name in enumerate(cells)]
    command = [sys.executable, "-W", "error", str(model.with_suffix(".py")), str(model)]
    command += ["--save", save] if save else []
    text = "\n".join(lines) + "\n"
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, env=env, timeout=300)
    assert done.returncode == 0 and not done.stderr, done.stderr[-2000:]
    known = {str(one): one.to_json() for one in SERIES}
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    found = {
        (known.get(one["series"], one["series"]), one["timestamp"]): tuple(one[name] for name in NUMBERS)
        for one in answers
    }
    assert all(one["reason"] for one in answers if one["score"] >= 1)
    return found


@pytest.fixture(scope="module")
def queues(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Queues, Path]]:
    folder = tmp_path_factory.mktemp("data")
    with running(folder, ALONE) as up:
        found = Queues(up)
        found.feed(0, LEARNED)
        yield found, folder


def test_four_ways_one_answer(queues: tuple[Queues, Path], tmp_path: Path) -> None:
    live, folder = queues
    version = call(live.up, "POST", "models", {"who": "ana", "why": "a test"}).json()["id"]
    agree(live, folder, version, tmp_path, ALL)


def test_four_ways_with_a_forest_and_a_forecast(tmp_path: Path) -> None:
    """What a version with families knows is saved between two of its intervals: all four go on from there."""
    folder = tmp_path / "data"
    with running(folder, ALONE) as up:
        live = Queues(up)
        live.feed(0, LEARNED - 10)
        roll(up, with_families(up))
        live.feed(LEARNED - 10, LEARNED)
        version = call(up, "POST", "models", {"who": "ana", "why": "a test"}).json()["id"]
        assert up.service.models.version(version).settings.families == (ForecastConfig(), ForestConfig())
        found = agree(live, folder, version, tmp_path, ALL + ", forest, forecast")
    channels = {at: (live.channels[at], score) for at, (score, *_) in found.items()}
    assert channels[SERIES[0].to_json(), at_s(LEARNED + 4)][0] == "forest"
    assert channels[SERIES[1].to_json(), at_s(LEARNED + 14)][0] == "forecast"
    for queue, step in ((0, 4), (1, 14)):  # and so does a replay of the log
        at = SERIES[queue].to_json(), at_s(LEARNED + step)
        with Past.opened(folder, Config().pipeline()) as work:
            why = why_series(folder, None, str(SERIES[queue]), round(at[1] * 1e9), Config(), work)
        (one,) = why.points
        assert one.made is not None and (one.made.channel, one.again) == (live.channels[at], found[at][0])


def with_families(up: Running) -> str:
    """A version of what serves with a forest of the queues, which looks at the first, and a forecast of the second."""
    known = up.service.models.load(call(up, "POST", "models", {"who": "ana", "why": "a test"}).json()["id"])
    keys = np.array([series_key(one) for one in SERIES], np.uint64)
    forest = {**tree(1, len(SERIES)), "key": keys, "interval_s": np.array([STEP_S])}
    slot = int(at_s(0)) // 900 - 1
    bundle = replace(known[1], forest=forest, forecast=level(int(keys[1]), -500.0, 1.0, slot))
    settings = replace(known[0].settings, families=(ForecastConfig(), ForestConfig()))
    return up.service.models.write(settings, bundle, Lineage()).id


def roll(up: Running, version: str) -> None:
    for action in ("shadow", "promote"):
        answer = call(up, "POST", "rollout", {"action": action, "version": version, "who": "ana"})
        assert answer.status_code == 200, answer.text


def agree(live: Queues, folder: Path, version: str, tmp_path: Path, detectors: str) -> Scores:
    """See that all four ways say the same of the points that come next, and what it is."""
    before = state(live.up)
    champion, registered = told(live.ask()), told(live.ask(version))
    assert state(live.up) == before, "to be asked changes nothing"
    live.feed(LEARNED, LEARNED + SCORED)
    streamed = {key: live.streamed[key] for key in registered}
    assert sum((of[0] or 0) >= 1 for of in streamed.values()) > 3, "there is something to find"
    assert registered == champion == streamed

    config = tmp_path / "config.yaml"
    config.write_text(QUICK + ALONE)
    options = ["--model", version, "--data-dir", str(folder), "--config", str(config)]
    assert from_file(table(tmp_path / "in.parquet", [one.to_json() for one in SERIES]), *options) == streamed
    assert from_file(table(tmp_path / "in.parquet", [str(one) for one in SERIES]), *options) == streamed

    model = tmp_path / "edge.npz"
    done = CliRunner().invoke(app, ["export", version, "--out", str(model), "-d", str(folder), "-c", str(config)])
    assert done.exit_code == 0 and f"4 series; {detectors}" in done.output, done.output
    env, middle, end = blocked(tmp_path / "blocked"), LEARNED + 7, LEARNED + SCORED
    kept = str(tmp_path / "later.npz")
    half = alone(model, env, first=LEARNED, end=middle, save=kept)
    Path(kept).with_suffix(".py").write_bytes(model.with_suffix(".py").read_bytes())
    assert half | alone(Path(kept), env, first=middle, end=end) == streamed
    return streamed


def test_the_champion_of_a_directory(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(QUICK + ALONE)
    with running(tmp_path / "data", ALONE) as up:
        live = Queues(up)
        live.feed(0, LEARNED)
        answer = told(live.ask("champion"))
    options = ["--model", "champion", "--data-dir", str(tmp_path / "data"), "--config", str(config)]
    assert from_file(table(tmp_path / "in.parquet", [one.to_json() for one in SERIES]), *options) == answer
    wrong = CliRunner().invoke(app, ["score", str(tmp_path / "in.parquet"), "-o", "x.csv", "--model", "champion"])
    assert wrong.exit_code == 1 and "expected a snapshot of what serves" in str(wrong.exception)


def one(**more: Any) -> dict[str, Any]:
    return {"labels": {"name": "depth"}, "timestamps": [1], "values": [1.0]} | more


REFUSED = [
    ([], 400, "expected an object with model, series"),
    ({"series": []}, 400, "expected a list of at least one"),
    ({"series": [one()], "model": "feedfeedfeedfeed"}, 404, "no model version has the id feedfeedfeedfeed"),
    ({"series": [one()], "model": "../../x"}, 404, "no model version"),
    ({"series": [one()], "model": 3}, 400, "model: expected a text"),
    ({"series": [one(), one()]}, 400, "two with the same labels"),
    ({"series": [one(colour="red")]}, 400, "colour: is not a known key"),
    ({"series": [one(labels={"name": ""})]}, 400, "series[0].labels.name: expected the name of a metric"),
    ({"series": [one(labels={"name": "x", "scope": []})]}, 400, "expected objects as resource, scope"),
    ({"series": [one(values=[1.0, 2.0])]}, 400, "lists of equal length"),
    ({"series": [one(values=["1"])]}, 400, "series[0].values: expected numbers or null, got '1'"),
    ({"series": [one(values=[10**400])]}, 400, "a number that fits 64 bits"),
    ({"series": [one(timestamps=["tomorrow"])]}, 400, "series[0].timestamps: expected ISO 8601"),
    ({"series": [one(timestamps=["1960-01-01"])]}, 400, "times from 1970 on"),
    ({"series": [one(timestamps=[-1])]}, 400, "expected unix seconds or ISO 8601, got '-1'"),
    ({"series": [one()] * 1_001}, 413, "series: expected at most 1000, got 1001"),
    ({"series": [one(timestamps=[0] * 10_001, values=[0] * 10_001)]}, 413, "at most 10000 points"),
]


@pytest.mark.parametrize(("tree", "status", "words"), REFUSED, ids=[words[:30] for _, _, words in REFUSED])
def test_what_is_refused_says_why(queues: tuple[Queues, Path], tree: Any, status: int, words: str) -> None:
    answer = call(queues[0].up, "POST", "score", tree)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


def test_points_that_cannot_be_scored(queues: tuple[Queues, Path]) -> None:
    times = ["2026-05-03T14:00:00Z", 1_777_816_800, 1_777_816_830, 1_777_816_815]
    body = {"series": [one(timestamps=times, values=[1, 2, None, 3.5])]}
    (found,) = call(queues[0].up, "POST", "score", body).json()["series"]
    assert found["known"] is False and found["score"] == [None] * 4
    assert found["skipped"][0] == "The series warms up."
    words = ("warms up", "timestamp of one", "no finite value", "older than one")
    assert all(word in text for word, text in zip(words, found["skipped"], strict=True)), found["skipped"]
    empty = call(queues[0].up, "POST", "score", {"series": [one(timestamps=[], values=[])]}).json()["series"][0]
    assert empty["score"] == [] and empty["skipped"] == []


def test_a_changed_version_does_not_score(queues: tuple[Queues, Path]) -> None:
    up = queues[0].up
    version = call(up, "POST", "models", {"who": "ana", "why": "to be changed"}).json()["id"]
    path = up.service.models.folder(version) / "series.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    answer = call(up, "POST", "score", {"model": version, "series": [one()]})
    assert answer.status_code == 409 and "it was changed" in answer.json()["error"]


def test_only_so_many_at_once(queues: tuple[Queues, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    views = scoring.ScoreViews(queues[0].up.service)
    monkeypatch.setattr(scoring, "PATIENCE_S", 0.05)
    inside, go = threading.Barrier(scoring.AT_ONCE + 1), threading.Event()

    def wait() -> None:
        with views._turns():
            inside.wait(10)
            go.wait(10)

    threads = [threading.Thread(target=wait) for _ in range(scoring.AT_ONCE)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    with pytest.raises(scoring.Overloaded, match="2 requests are being scored"):
        views.score({"series": [one()]})
    go.set()
    for thread in threads:
        thread.join()
    assert views.score({"series": [one()]}) is not None


def test_the_document_of_the_api(queues: tuple[Queues, Path]) -> None:
    """It has every route, and of each operation what OpenAPI 3.1 requires; the example of the score is one."""
    up = queues[0].up
    described = up.get("/api/v1/openapi.json")
    assert described["openapi"] == "3.1.0" and set(described["info"]) >= {"title", "version"}
    nobody: Any = None
    routes = [route for route in api.build(nobody, nobody, None, 1).routes if isinstance(route, Route)]
    assert {route.path for route in routes if route.include_in_schema} == set(described["paths"])
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            assert method in {"get", "post", "put", "delete"} and operation["summary"], path
            assert operation["responses"] and all(len(code) == 3 for code in operation["responses"]), path
            assert all(of["description"] for of in operation["responses"].values()), path
            given = [of for of in operation.get("parameters", ()) if of["in"] == "path"]
            assert {of["name"] for of in given} == set(re.findall(r"{(\w+)}", path)), path
            assert all(of["required"] for of in given), path
            for parameter in operation.get("parameters", ()):
                assert parameter["in"] in {"query", "path", "header"} and parameter["name"] and parameter["schema"]
            for content in operation.get("requestBody", {}).get("content", {}).values():
                assert "schema" in content, path
    score = described["paths"]["/api/v1/score"]["post"]
    content = score["requestBody"]["content"]["application/json"]
    answer = call(up, "POST", "score", content["example"])
    assert answer.status_code == 200, answer.text
    example = score["responses"]["200"]["content"]["application/json"]["example"]
    assert set(answer.json()) == set(example)
    assert set(answer.json()["series"][0]) == set(example["series"][0])
    wanted = score["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["series"]["items"]
    assert set(wanted["properties"]) == set(example["series"][0])
    assert {"400", "404", "413", "503"} <= set(score["responses"])
