"""An engine with a real journal, real receivers and a clock that is set by hand."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from otel_aiops.incidents.incident import Incident
from otel_aiops.incidents.journal import Journal, JournalConfig
from otel_aiops.labels import Labels
from otel_aiops.responses.audit import Deed
from otel_aiops.responses.command import CommandConfig
from otel_aiops.responses.config import ResponsesConfig
from otel_aiops.responses.engine import Engine, Settings
from otel_aiops.responses.guard import people
from otel_aiops.responses.http import HttpConfig
from otel_aiops.responses.kinds import responders
from otel_aiops.responses.ledger import Ledger
from otel_aiops.responses.notify import NotifyConfig
from otel_aiops.responses.playbook import Playbook
from otel_aiops.responses.runs import Execution, Run, Vote
from otel_aiops.responses.verify import does_not_hold
from otel_aiops.responses.webhook import WebhookConfig
from tests.incidents.makers import T0, S
from tests.responses.receiver import Receiver
from tests.servers import wait_for

APPEND = "import sys; open(sys.argv[1], 'a').write(sys.argv[2] + '\\n'); print('did', sys.argv[2])"
HTTP: dict[str, Any] = {"timeout": 60.0, "attempts": 3}  # a busy machine is no fault


def appending(file: Path, name: str = "restart", **more: Any) -> CommandConfig:
    """A command that appends the service to a file."""
    return CommandConfig(name=name, argv=(sys.executable, "-c", APPEND, str(file), "{service}"), **more)


@dataclass
class Stage:
    """`tick` until nothing changes with `settle`."""

    folder: Path
    receiver: Receiver | None = None
    playbooks: tuple[Playbook, ...] = ()
    commands: tuple[CommandConfig, ...] = ()
    tell: str = ""
    enabled: bool = True
    now: float = 0.0  # s after T0, of the machine and of telemetry
    problem: str = ""
    against: dict[str, str] = field(default_factory=dict)  # why an objective is, by kind
    series: list[Labels] = field(default_factory=list)
    strange: dict[str, float] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    foreign: list[Incident] = field(default_factory=list)  # alerts of others that playbooks have not seen
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.file = self.folder / "done"
        self.journal = Journal(JournalConfig(), self.folder)
        self.journal.open()
        self.ledger = Ledger(JournalConfig(), self.folder)
        self.ledger.open()
        self.engine = Engine(self.ledger, self, self.settings(), told=self._tell)

    def settings(self) -> Settings:
        config = ResponsesConfig(
            enabled=self.enabled,
            tell=self.tell,
            commands=self.commands or (appending(self.file),),
            **self._where(),
            **self.more,
        )
        asked = {"holds": partial(does_not_hold, config.prometheus)} if config.prometheus else {}
        return Settings(
            playbooks=self.playbooks,
            responders=responders(config, self.folder / "responses"),
            enabled=self.enabled,
            tell=self.tell,
            stop_file=self.folder / "stop",
            **asked,
        )

    def _where(self) -> dict[str, Any]:
        if self.receiver is None:
            return {}
        url = self.receiver.url
        hook = WebhookConfig(name="hook", to=HttpConfig(url=f"{url}/hook", **HTTP), secret="a secret of tests")
        return {
            "notify": (NotifyConfig(name="ops", urls=(f"{url.replace('http', 'json')}/told",)),),
            "webhooks": (hook,),
        }

    def _tell(self, run: Run, one: Execution, what: str) -> None:
        self.told.append(f"{run.playbook.name} {one.role} {what}")

    # -- the world ------------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        return T0 + round(self.now * S)

    def event_ns(self) -> int:
        return self.now_ns()

    def incident(self, name: str) -> Incident | None:
        return self.journal.get(name)

    def alerts(self) -> Sequence[Incident]:
        return self.foreign[:1]

    def seen(self, alerts: Sequence[Incident]) -> None:
        del self.foreign[: len(alerts)]

    def labels(self, incident: Incident) -> Sequence[Labels]:
        return self.series

    def scores(self, incident: Incident) -> Mapping[str, float]:
        return self.strange

    def unwanted(self, incident: Incident, kind: str) -> str:
        return self.against.get(kind, "")

    def model_problem(self) -> str:
        return self.problem

    # -- what happens ---------------------------------------------------------------------------------------------

    def happens(self, *incidents: Incident) -> None:
        """Journal revisions, and respond as far as that goes."""
        self.journal.append(incidents, self.now_ns())
        self.settle()

    def notice(self, *incidents: str) -> None:
        """Alertmanager lets people know of these."""
        self.ledger.notice(incidents, self.now_ns())
        self.settle()

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.settle()

    def settle(self) -> None:
        def quiet() -> bool:
            self.engine.poke()
            self.engine.tick()
            return not self.engine.busy

        wait_for(quiet, "responses to end", timeout_s=60, every_s=0.01)
        self.engine.tick()

    def again(self) -> None:
        """A new process with the same data."""
        self.engine.close()
        self.ledger.close()
        self.ledger = Ledger(JournalConfig(), self.folder)
        self.ledger.open()
        self.engine = Engine(self.ledger, self, self.settings(), told=self._tell)

    def close(self) -> None:
        with suppress(Exception):
            self.engine.close()
        self.ledger.close()
        self.journal.close()

    def votes(self, who: str, *, agrees: bool = True, why: str = "") -> bool:
        one = next(one for one in self.executions() if one.standing == "waiting")
        vote = Vote(who=who, agrees=agrees, why=why, time_ns=self.now_ns())
        (name,) = people((who,))
        deed = Deed(time_ns=self.now_ns(), what="approved", who=who, run=one.run, execution=one.id)
        return self.ledger.vote(one.id, name, vote, deed)

    def runs(self) -> list[Run]:
        return self.ledger.runs(limit=1_000)[1][::-1]

    def executions(self) -> list[Execution]:
        return [one for run in self.runs() for one in self.ledger.executions(run.id).values()]

    def standings(self) -> list[str]:
        return [f"{one.role} {one.standing}" for one in self.executions()]

    def states(self) -> list[str]:
        return [str(run.state) for run in self.runs()]

    def lines(self) -> list[str]:
        return self.file.read_text().splitlines() if self.file.exists() else []

    def with_playbooks(self, *playbooks: Playbook) -> None:
        self.playbooks = playbooks
        self.engine.renew(self.settings())

    def change(self, **more: Any) -> None:
        for name, value in more.items():
            setattr(self, name, value)
        self.engine.renew(self.settings())


def revised(incident: Incident, **more: Any) -> Incident:
    """The next revision."""
    return replace(incident, revision=incident.revision + 1, **more)
