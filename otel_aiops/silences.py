"""Silences of Alertmanager: read now and then and told to the step loop as decisions; made and ended for people."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import structlog

from otel_aiops.desk.live import Live
from otel_aiops.errand import Errand
from otel_aiops.errors import BadInput, Overloaded
from otel_aiops.incidents.suppress import Action, Decision, Matcher, Silence
from otel_aiops.responses.alertmanager import ALIKE, DIRECT, MADE_HERE, silences_of
from otel_aiops.responses.http import HttpConfig, Unreachable, joined, send
from otel_aiops.responses.silence import matcher, post, silence

if TYPE_CHECKING:
    from otel_aiops.app import Service

log = structlog.get_logger("otel_aiops")

T = TypeVar("T")

PATH, ENDING = "api/v2/silences", "api/v2/silence/"
ANSWER_BYTES = 16 << 20
IDLE_S = 10.0  # between two looks whether there is an Alertmanager to ask
ITSELF = "otel-aiops"
WRONG = frozenset({400, 404, 422})  # answers that say that the silence is at fault


class Silences:
    """What a silence covers follows from its matchers in the step loop, so no incident opens before it is covered.

    While no Alertmanager answers, silences hold until they end.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._live = service, Live(service)
        self._lock = threading.Lock()  # one look at a time
        failure = "silences of Alertmanager could not be taken over; it is tried again"
        self.errand = Errand("silences", self.look, every_s=self._every_s, failure=failure, first_s=0.5)

    def look(self) -> None:
        """Take over what has changed. Any thread. Raises: Overloaded, StorageError."""
        with self._lock:
            self._look()

    def make(self, matchers: Sequence[Matcher], *, lasts_s: float, who: str, why: str, incident: str) -> str:
        """Have Alertmanager keep a silence from now on, and take it over; its id there. Any thread.

        Raises: BadInput where it is refused, Overloaded where no Alertmanager answers.
        """
        from_s = self._service.clock_ns() / 1e9
        wanted = [matcher(one.name, one.value, regex=one.regex) for one in matchers]
        tree = silence(wanted, from_s, from_s + lasts_s, who=who, why=f"{why} {MADE_HERE}{incident}]".strip())
        name = self._first(lambda to: post(to, tree))
        self._look_now()
        return name

    def end(self, name: str) -> None:
        """End a silence of Alertmanager by its id there. Any thread. Raises: BadInput, Overloaded."""
        path = f"{ENDING}{quote(name, safe='')}"
        self._first(lambda to: send("DELETE", to, joined(to.url, path)))
        self._look_now()

    def _look_now(self) -> None:
        """What was done is done; where it cannot be taken over now, the errand does that."""
        with suppress(Overloaded):
            self.look()

    def _first(self, ask: Callable[[HttpConfig], T]) -> T:
        """What the first Alertmanager says that can be reached: all of a cluster have the same silences."""
        problem = "there is no Alertmanager in the configuration"
        for server in self._service.config.alertmanager.to:
            try:
                return ask(replace(server, attempts=1))  # somebody waits for it
            except Unreachable as error:
                problem = str(error)
                if error.status in WRONG:
                    raise BadInput(problem) from error
                if error.perhaps:
                    break  # it may be done already, and is not to be done twice
        raise Overloaded(problem)

    def _look(self) -> None:
        config = self._service.config.alertmanager
        wanted = self._read() if config.to and config.silences else {}
        if wanted is None:
            return
        had = {
            rule.name: rule
            for rule in self._live.rules()
            if isinstance(rule, Silence) and rule.name.startswith((DIRECT, ALIKE))
        }
        for name in had.keys() - wanted.keys():
            self._decide(Decision(action=Action.UNSILENCE, who=ITSELF, time_ns=self._now_ns, name=name))
        now_ns = self._live.now_ns()
        for name, one in wanted.items():
            if had.get(name) != one and one.until_ns > now_ns:
                at_ns = self._now_ns
                self._decide(Decision(action=Action.SILENCE, silence=one, who=one.who, why=one.why, time_ns=at_ns))
        self._service.telemetry.set("otel_aiops.alertmanager.silences", len(wanted))

    @property
    def _now_ns(self) -> int:
        return self._service.pipeline.event_ns

    def _every_s(self) -> float:
        return self._service.config.alertmanager.silences or IDLE_S

    def _read(self) -> dict[str, Silence] | None:
        """The silences of the first Alertmanager that answers: all of a cluster have the same. None where none does."""
        config = self._service.config.alertmanager
        for server in config.to:
            try:
                url = joined(server.url, PATH)
                tree = send("GET", server, url, most_bytes=ANSWER_BYTES, stopping=lambda: self.errand.stopping).tree()
            except Unreachable as error:
                log.debug("Alertmanager was not asked for its silences", error=str(error))
                continue
            if isinstance(tree, list):
                return {one.name: one for one in silences_of(config, tree)}
        return None

    def _decide(self, decision: Decision) -> None:
        self._live.decide(decision)
        what = decision.silence.name if decision.silence else decision.name
        log.info("silence of Alertmanager", action=str(decision.action), name=what, who=decision.who, why=decision.why)
