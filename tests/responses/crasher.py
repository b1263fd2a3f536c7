"""A process that responds, with people who approve, until it is killed."""

from __future__ import annotations

import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

from otel_aiops.responses.annotation import GrafanaConfig
from otel_aiops.responses.audit import Deed
from otel_aiops.responses.command import CommandConfig
from otel_aiops.responses.http import HttpConfig
from otel_aiops.responses.issue import TrackerConfig
from otel_aiops.responses.playbook import Playbook
from otel_aiops.responses.runs import Vote
from otel_aiops.responses.silence import AlertmanagerConfig
from otel_aiops.responses.workflow import WorkflowConfig
from tests.incidents.makers import T0
from tests.responses.makers import playbook
from tests.responses.receiver import Receiver
from tests.responses.stage import APPEND, Stage

COMMANDS = ("first", "second", "tried", "undone", "asked")
PEOPLE = ("ann", "bob")
PAUSE_S = 0.01
APPROVED_S = 0.1  # that people take, at most
WITHIN_S = 1.0  # that a step has to help
TIMEOUT_S = 5.0  # of requests


def _step(kind: str, use: str, **more: Any) -> dict[str, Any]:
    free = {"cooldown": 0, "most": 1_000_000, "targets": 1_000_000}
    return {"do": {"kind": kind, "use": use}, "guard": free | more.pop("guard", {}), **more}


def _playbooks() -> tuple[Playbook, ...]:
    fails = {"by": "promql", "query": "never", "within": WITHIN_S}
    helps = {"by": "promql", "query": "always", "within": WITHIN_S}
    after = {"undo": _step("command", "undone")["do"], "escalate": [_step("issue", "it"), _step("webhook", "hook")]}
    return (
        playbook("plain", [_step("command", "first"), _step("webhook", "hook"), _step("command", "second")]),
        playbook("helpless", [_step("command", "tried", verify=fails, **after)]),
        playbook("careful", [_step("command", "asked", guard={"approvals": len(PEOPLE)}, verify=helps)]),
        playbook("quiet", [_step("silence", "it"), _step("annotation", "it"), _step("workflow", "it", go_on=True)]),
    )


PLAYBOOKS = _playbooks()


class Crasher(Stage):
    """In real time since a first process began."""

    began_ns = 0

    def now_ns(self) -> int:
        return T0 + time.time_ns() - self.began_ns


def main(folder: str, url: str, alertmanager: str, began_ns: int) -> None:
    """Commands append the incident to files, and take a moment."""
    code = f"import time; time.sleep(0.02); {APPEND}"
    commands = tuple(
        CommandConfig(name=name, argv=(sys.executable, "-S", "-c", code, f"{folder}/{name}", "{id}"))
        for name in COMMANDS
    )
    to = HttpConfig(url=url, timeout=TIMEOUT_S)
    started = WorkflowConfig(name="it", to=to, project="team/shop", workflow="w.yml", inputs={"o": "{order}"})
    more = {
        "prometheus": to,
        "alertmanagers": (AlertmanagerConfig(name="it", to=HttpConfig(url=alertmanager, timeout=TIMEOUT_S)),),
        "grafanas": (GrafanaConfig(name="it", to=to),),
        "trackers": (TrackerConfig(name="it", to=to, project="team/shop"),),
        "workflows": (started,),
    }
    Crasher.began_ns = began_ns
    stage = Crasher(Path(folder), Receiver(url=url), PLAYBOOKS, commands, tell="ops", more=more)
    threading.Thread(target=approve, args=(stage,), daemon=True).start()
    while True:
        stage.engine.tick()
        time.sleep(PAUSE_S)


def approve(stage: Stage) -> None:
    """Two people take their time, and note what was taken down."""
    while True:
        for one in stage.ledger.asked():
            for who in PEOPLE:
                time.sleep(random.uniform(0, APPROVED_S))
                vote = Vote(who=who, agrees=True, time_ns=stage.now_ns())
                deed = Deed(time_ns=stage.now_ns(), what="approved", who=who, run=one.run, execution=one.id)
                if stage.ledger.vote(one.id, who, vote, deed):
                    with (stage.folder / "voted").open("a") as file:
                        file.write(f"{one.id} {who}\n")
        time.sleep(PAUSE_S)
