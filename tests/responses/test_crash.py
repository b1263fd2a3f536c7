"""kill -9 at any moment: no step is done twice, none is lost, and what cannot be known is said to be unknown."""

from __future__ import annotations

import multiprocessing
import os
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from otel_aiops.responses import child
from otel_aiops.responses.audit import verify
from otel_aiops.responses.order import Lost, Order, Outcome
from otel_aiops.responses.runs import Standing
from tests.incidents.makers import T0
from tests.responses import crasher
from tests.responses.crasher import COMMANDS, PEOPLE, PLAYBOOKS
from tests.responses.makers import COMMAND, NOTIFY, incident, playbook
from tests.responses.receiver import Asked, Receiver
from tests.responses.stage import Stage
from tests.servers import Alertmanager, wait_for
from tests.tools.collector import Unavailable
from tests.tools.prometheus import alertmanager

KILLS = 50


class Killed(Exception):
    """The process ends here."""


def intended(stage: Stage) -> None:
    """A run whose first step is intended, by a process that was killed before it could begin it."""

    def killed(order: Order) -> None:
        raise Killed

    stage.engine._fly = killed  # type: ignore[method-assign]
    stage.journal.append([incident()], stage.now_ns())
    with pytest.raises(Killed):
        stage.engine.tick()
    assert stage.executions()[0].standing is Standing.INTENDED
    stage.again()


class TestAfterACrash:
    def test_a_command_that_was_not_begun_is_run(self, stage: Stage) -> None:
        intended(stage)
        stage.settle()
        assert stage.lines() == ["cart"] and stage.states() == ["done"] and stage.executions()[0].attempt == 2

    def test_its_late_child_finds_it_claimed(self, stage: Stage) -> None:
        intended(stage)
        order = stage.engine._order(stage.runs()[0], stage.executions()[0])
        command: Any = stage.engine._responder("command")
        assert command.lost(order) is Lost.NEVER
        assert command.lost(order) is Lost.NEVER, "however often it is asked"
        found = command.run(order)
        assert stage.lines() == [] and found.ended == "unknown"

    def test_a_command_that_has_ended_meanwhile_is_not_run_again(self, stage: Stage) -> None:
        intended(stage)
        order = stage.engine._order(stage.runs()[0], stage.executions()[0])
        assert isinstance(stage.engine._responder("command").run(order), Outcome)
        stage.settle()
        assert stage.lines() == ["cart"] and stage.states() == ["done"] and stage.executions()[0].output == "did cart\n"

    def test_one_that_still_runs_is_waited_for(self, stage: Stage) -> None:
        intended(stage)
        one = stage.executions()[0]
        folder = stage.folder / "responses" / "commands"
        folder.mkdir(parents=True)
        held = child.claim(folder / f"{one.id}.1.claim")
        stage.settle()
        assert stage.standings() == ["do intended"]
        child.write(folder / f"{one.id}.1.result", {"code": 0, "output": "", "late": False, "error": ""})
        os.close(held)
        stage.settle()
        assert stage.standings() == ["do done"] and stage.lines() == []

    @pytest.mark.parametrize("idempotent", [True, False])
    def test_one_whose_child_was_killed_too_is_unknown(
        self, stage: Stage, receiver: Receiver, idempotent: bool
    ) -> None:
        stage.change(tell="ops")
        stage.with_playbooks(playbook(steps=[{"do": {**COMMAND, "idempotent": idempotent}}]))
        intended(stage)
        folder = stage.folder / "responses" / "commands"
        folder.mkdir(parents=True)
        os.close(child.claim(folder / f"{stage.executions()[0].id}.1.claim"))
        stage.settle()
        if idempotent:
            assert stage.lines() == ["cart"] and stage.states() == ["done"]
        else:
            assert stage.lines() == [] and stage.states() == ["unknown"]
            assert "it is not known whether it was" in receiver.asked[0].json()["message"]

    @pytest.mark.parametrize("kind", ["webhook", "notify"])
    def test_hooks_and_notices_are_sent_again(self, stage: Stage, receiver: Receiver, kind: str) -> None:
        stage.with_playbooks(
            playbook(steps=[{"do": {"kind": "webhook", "use": "hook"} if kind == "webhook" else NOTIFY}])
        )
        intended(stage)
        stage.settle()
        assert len(receiver.asked) == 1 and stage.states() == ["done"]
        assert [line.deed().what for line in stage.ledger.lines()][1:3] == ["intended", "intended again"]

    def test_a_stopped_service_does_nothing_again(self, stage: Stage) -> None:
        stage.with_playbooks(playbook(steps=[{"do": {"kind": "webhook", "use": "hook"}}]))
        intended(stage)
        (stage.folder / "stop").touch()
        stage.settle()
        assert stage.states() == ["unknown"]


class World:
    """What processes that are killed reach: GitHub, Grafana and Prometheus by their API, and Alertmanager."""

    def __init__(self, folder: Path, receiver: Receiver, alertmanager: str) -> None:
        self.folder, self.receiver, self.alertmanager = folder, receiver, alertmanager
        self.began_ns = time.time_ns()
        self.made: dict[str, list[Any]] = {"issues": [], "annotations": [], "runs": [], "silences": []}
        receiver.delay_s = 0.02  # for kills to fall into
        github = "/repos/team/shop"
        self._serves(f"{github}/issues", "issues")
        self._serves("/api/annotations", "annotations")
        receiver.routes["POST", f"{github}/actions/workflows/w.yml/dispatches"] = self._started
        runs = self.made["runs"]
        receiver.routes["GET", f"{github}/actions/workflows/w.yml/runs"] = lambda _: {"workflow_runs": list(runs)}
        receiver.routes["GET", "/api/v1/query"] = _sample
        if alertmanager == receiver.url:
            self._serves("/api/v2/silences", "silences")

    def process(self) -> BaseProcess:
        """One that responds; its modules are loaded already."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.responses.crasher"])
        given = (str(self.folder), self.receiver.url, self.alertmanager, self.began_ns)
        process = context.Process(target=crasher.main, args=given, daemon=True)
        process.start()
        return process

    def silences(self) -> list[str]:
        found = requests.get(f"{self.alertmanager}/api/v2/silences", timeout=30).json()
        return [str(one["comment"]).rsplit("[", 1)[1].rstrip("]") for one in found]

    def _serves(self, path: str, name: str) -> None:
        made = self.made[name]

        def take(asked: Asked) -> Any:
            made.append(asked.json())
            return {"id": len(made), "silenceID": str(len(made)), "html_url": f"{self.receiver.url}/{len(made)}"}

        def tell(asked: Asked) -> Any:
            tag = parse_qs(urlsplit(asked.path).query).get("tags", [""])[0]
            return [one for one in made if tag in one.get("tags", [""])] if tag else list(made)

        self.receiver.routes["POST", path], self.receiver.routes["GET", path] = take, tell

    def _started(self, asked: Asked) -> Any:
        self.made["runs"].append({"display_title": f"heal {asked.json()['inputs']['o']}"})
        return None


def _sample(asked: Asked) -> Any:
    """That of `always` holds."""
    result = [{"value": [0, "1"]}] if "always" in asked.path else []
    return {"data": {"resultType": "vector", "result": result}}


@pytest.fixture
def world(tmp_path: Path, receiver: Receiver) -> Iterator[World]:
    """With a real Alertmanager where there is one."""
    try:
        alertmanager()
    except Unavailable:
        if os.environ.get("OTEL_AIOPS_REQUIRE_SERVERS") == "1":
            raise
        yield World(tmp_path, receiver, receiver.url)
        return
    with Alertmanager(tmp_path) as server:
        yield World(tmp_path, receiver, server.url)


INTENDED = "SELECT 1 FROM response_executions WHERE standing = 'intended' AND"
MOMENTS = {  # at which a process is killed, as the journal shows them
    "a command runs": f"{INTENDED} action LIKE 'command %' AND id LIKE '%.do'",
    "it is undone": f"{INTENDED} id LIKE '%.undo'",
    "it is escalated": f"{INTENDED} id LIKE '%.escalate.%'",
    "an issue is opened": f"{INTENDED} action LIKE 'issue %'",
    "alerts are silenced": f"{INTENDED} action LIKE 'silence %'",
    "a workflow is started": f"{INTENDED} action LIKE 'workflow %'",
    "people are asked": "SELECT 1 FROM response_executions WHERE standing = 'waiting'",
    "one has approved": (
        "SELECT 1 FROM response_votes JOIN response_executions ON id = execution WHERE standing = 'waiting'"
    ),
    "it is verified": 'SELECT 1 FROM response_executions WHERE body LIKE \'%"seen":"pending"%\'',
    "any": "SELECT 1",
}
AIMED_S = 3.0  # that a moment is waited for


def aimed(database: sqlite3.Connection, moment: str, chance: random.Random) -> bool:
    """Wait until a moment has come, and a little longer; whether it has."""
    until_s = time.monotonic() + AIMED_S
    while database.execute(f"{MOMENTS[moment]} LIMIT 1").fetchone() is None:
        if time.monotonic() > until_s:
            return False
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.5 if moment == "any" else 0.03))
    return True


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.timeout(900)
def test_fifty_kills_do_nothing_twice_and_lose_nothing(tmp_path: Path, world: World) -> None:
    chance = random.Random(11)
    stage = Stage(tmp_path)
    database = sqlite3.connect(tmp_path / "incidents.db", isolation_level=None)
    names: list[str] = []
    hit: Counter[str] = Counter()
    for kill in range(KILLS):
        names.append(f"i{kill}")
        stage.journal.append([incident(names[-1])], T0)
        process = world.process()
        moment = list(MOMENTS)[kill % len(MOMENTS)]
        hit[moment] += aimed(database, moment, chance)
        process.kill()
        process.join(10)
    process = world.process()
    try:
        wait_for(
            lambda: (
                stage.ledger.runs(states=["active", "waiting"])[0] == 0
                and stage.ledger.runs()[0] == len(names) * len(PLAYBOOKS)
            ),
            "all runs to end",
        )
    finally:
        process.kill()
        process.join(10)
    try:
        assert set(hit) == set(MOMENTS) and min(hit.values()) >= 1, "kills have hit every moment"
        check(stage, world, names)
    finally:
        database.close()
        stage.close()


def check(stage: Stage, world: World, names: list[str]) -> None:
    """That everything was done once, and is known; of workflows that those that are not known are said to be so."""
    runs = stage.runs()
    done = {one.id: one for one in stage.executions()}
    of = {playbook.name: [run.id for run in runs if run.playbook.name == playbook.name] for playbook in PLAYBOOKS}
    assert all(len(found) == len(names) for found in of.values())
    for name in COMMANDS:
        assert Counter((stage.folder / name).read_text().split()) == Counter(names), f"{name}: each exactly once"
    hooks = {one.headers["Idempotency-Key"] for one in world.receiver.asked if one.path == "/hook"}
    assert hooks == {f"{run}.2.do" for run in of["plain"]} | {f"{run}.1.escalate.1" for run in of["helpless"]}
    opened = [str(one["body"]).rsplit("otel-aiops ", 1)[1].split()[0] for one in world.made["issues"]]
    assert sorted(opened) == sorted(f"{run}.1.escalate.0" for run in of["helpless"])
    assert sorted(world.silences()) == sorted(f"{run}.1.do" for run in of["quiet"])
    drawn = [one["tags"][1] for one in world.made["annotations"]]
    assert sorted(drawn) == sorted(f"{run}.2.do" for run in of["quiet"])
    started = Counter(str(one["display_title"]).split()[1] for one in world.made["runs"])
    assert not started or max(started.values()) == 1
    for run in of["quiet"]:
        one = done[f"{run}.3.do"]
        assert one.standing is (Standing.DONE if started[one.id] else Standing.UNKNOWN), one
    unknown = {one.id for one in done.values() if one.standing is not Standing.DONE}
    assert unknown == {f"{run}.3.do" for run in of["quiet"]} - set(started)
    seen = {one.id: str(one.seen) for one in done.values() if one.looked_until_ns}
    expected = {"helpless": "not_recovered", "careful": "recovered"}
    assert seen == {f"{run}.1.do": said for name, said in expected.items() for run in of[name]}
    states = {name: {str(run.state) for run in runs if run.playbook.name == name} for name in of}
    assert states.items() >= {"plain": {"done"}, "helpless": {"undone"}, "careful": {"done"}}.items()
    lines = list(stage.ledger.lines())
    told = [line.deed() for line in lines]
    deeds = Counter((one.execution or one.run, one.what, one.who) for one in told)
    for run in of["careful"]:
        assert [deeds[f"{run}.1.do", "approved", who] for who in PEOPLE] == [1, 1]
    assert max(Counter((stage.folder / "voted").read_text().splitlines()).values()) == 1, "no approval was lost"
    assert max(number for (_, what, _), number in deeds.items() if what != "intended again") == 1
    assert any(what == "intended again" for _, what, _ in deeds), "some kills hit a step"
    assert not verify(lines).broken
