"""kill -9 at any moment: no step is done twice, none is lost, and what cannot be known is said to be unknown."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from otel_aiops.incidents.journal import Journal, JournalConfig
from otel_aiops.responses import child
from otel_aiops.responses.audit import verify
from otel_aiops.responses.order import Lost, Order, Outcome
from otel_aiops.responses.runs import Standing
from tests.incidents.makers import T0
from tests.responses.crasher import STEPS
from tests.responses.makers import COMMAND, NOTIFY, incident, playbook
from tests.responses.receiver import Receiver
from tests.responses.stage import Stage
from tests.servers import wait_for

KILLS = 50
ROOT = Path(__file__).parent.parent.parent


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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_kills_do_nothing_twice_and_lose_nothing(tmp_path: Path, receiver: Receiver) -> None:
    chance = random.Random(11)
    journal = Journal(JournalConfig(), tmp_path)
    journal.open()
    command = [sys.executable, "-m", "tests.responses.crasher", str(tmp_path), receiver.url]
    names: list[str] = []
    killed = 0
    while killed < KILLS:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        for _ in range(3):
            names.append(f"i{len(names)}")
            journal.append([incident(names[-1])], T0)
            time.sleep(chance.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        process.stdout.close()
        killed += 1
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        stage = Stage(tmp_path)
        wait_for(
            lambda: stage.ledger.runs(states=["active"])[0] == 0 and len(stage.runs()) == len(names), "all runs to end"
        )
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
    try:
        runs = {run.incident.id: run for run in stage.runs()}
        assert set(runs) == set(names)
        assert [
            (one.id, one.standing, one.text) for one in stage.executions() if one.standing is not Standing.DONE
        ] == []
        for name in ("first", "second"):
            assert Counter((tmp_path / name).read_text().split()) == Counter(names), "each exactly once"
        hooks = Counter(one.headers["Idempotency-Key"] for one in receiver.asked)
        assert len(hooks) == len(names), "hooks may come again, with the key that tells so"
        attempts = [one.attempt for run in runs.values() for one in stage.ledger.executions(run.id).values()]
        assert len(attempts) == len(STEPS) * len(names) and max(attempts) > 1, "some kills hit a step"
        found = verify(stage.ledger.lines())
        assert not found.broken and found.lines > 8 * len(names) - 1
    finally:
        stage.close()
        journal.close()
