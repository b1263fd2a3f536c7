"""Responses as the API shows them, and what people say to them: approve, refuse, stop, resume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from otel_aiops.desk import asked as get
from otel_aiops.desk.chain import Chain, told_of
from otel_aiops.desk.live import Live
from otel_aiops.errors import BadInput
from otel_aiops.incidents.incident import Incident
from otel_aiops.incidents.known import ALERT
from otel_aiops.responses.audit import Deed
from otel_aiops.responses.guard import Check, people
from otel_aiops.responses.ledger import Tally
from otel_aiops.responses.playbook import Playbook, StepConfig
from otel_aiops.responses.runs import Execution, Run, RunState, Seen, Standing, Vote, guard_of

if TYPE_CHECKING:
    from otel_aiops.app import Service

KEYS = ("who", "why")
TEST_KEYS = ("incident", "playbook")


class Responses:
    """Every method may be called from any thread."""

    def __init__(self, service: Service, live: Live) -> None:
        self._service = service
        self._live = live
        self._chain = Chain(service)

    def playbooks(self) -> dict[str, Any]:
        """What is done about which incidents, whether it is done at all, and how it went so far."""
        config, responder = self._service.config, self._service.responder
        tallies = responder.ledger.tallies()
        return {
            "enabled": config.responses.enabled,
            "stopped": responder.engine.stopped() or None,
            "model_problem": responder.model_problem() or None,
            "waiting": responder.ledger.waiting(),
            "total": len(config.playbooks),
            "playbooks": [_playbook(one, tallies.get(one.name)) for one in config.playbooks],
        }

    def chain(self, *, limit: int) -> dict[str, Any]:
        """Whether the audit of responses holds, and its newest lines."""
        return self._chain.told(limit=limit)

    def test(self, asked: Any) -> dict[str, Any] | None:
        """What would be done about an incident now; None where there is none. Raises: BadInput."""
        asked = get.known_keys(asked, TEST_KEYS)
        name, wanted = get.text(asked, "incident", needed=True), get.text(asked, "playbook")
        playbooks = self._service.config.playbooks
        known = [one.name for one in playbooks]
        if wanted and wanted not in known:
            raise BadInput(f"playbook: expected one of {', '.join(known) or 'none'}, got {wanted[:100]!r}")
        incident = self._live.find(name) or self._service.responder.incident(name)
        if incident is None:
            return None
        tested = [self._tested(one, incident) for one in playbooks if wanted in ("", one.name)]
        return {"incident": incident.id, "title": incident.title, "playbooks": tested}

    def responses(self, asked: Mapping[str, str], *, limit: int, offset: int = 0) -> dict[str, Any]:
        """Runs, the newest first, without what their steps said. Raises: BadInput."""
        states = get.words(asked, "state", RunState)
        total, runs = self._service.responder.ledger.runs(
            incident=get.text(asked, "incident"),
            playbook=get.text(asked, "playbook"),
            states=[str(one) for one in states],
            limit=limit,
            offset=offset,
        )
        return {"total": total, "responses": [self._run(one) for one in runs]}

    def response(self, name: str) -> dict[str, Any] | None:
        """A run with its steps, checks, approvals and everything that was done."""
        ledger = self._service.responder.ledger
        run = ledger.run(name)
        if run is None:
            return None
        timeline = [told_of(one) for one in ledger.lines(run=run.id)]
        return {**self._run(run), "playbook_content": run.playbook.plain_values(), "timeline": timeline}

    def vote(self, name: str, asked: Any, *, agrees: bool) -> dict[str, Any] | None:
        """Approve or refuse what a run waits with; the run as it is then. Raises: BadInput."""
        asked = get.known_keys(asked, KEYS)
        who, why = self._person(asked), get.text(asked, "why")
        responder = self._service.responder
        run = responder.ledger.run(name)
        if run is None:
            return None
        waiting = [one for one in responder.ledger.executions(run.id).values() if one.standing is Standing.WAITING]
        if not waiting:
            raise BadInput(f"id: expected a response that waits for approval, got {name}, which is {run.state}")
        one, now_ns = waiting[0], self._service.clock_ns()
        vote = Vote(who=who, agrees=agrees, why=why, time_ns=now_ns)
        what = "approved" if agrees else "refused by a person"
        deed = Deed(time_ns=now_ns, what=what, who=who, why=why, run=run.id, execution=one.id)
        (key,) = people((who,))
        if not responder.ledger.vote(one.id, key, vote, deed):
            raise BadInput(f"who: expected somebody who has not said anything to it, got {who[:100]!r}")
        responder.engine.poke()
        return self._run(run)

    def stop(self, asked: Any, *, stops: bool) -> dict[str, Any]:
        """Have nothing done any more, or let it go on. Raises: BadInput."""
        asked = get.known_keys(asked, KEYS)
        who, why = self._person(asked), get.text(asked, "why")
        responder = self._service.responder
        what = "stopped" if stops else "resumed"
        said = f"{who}: {why}" if why else who
        responder.ledger.stop(
            said if stops else "", Deed(time_ns=self._service.clock_ns(), what=what, who=who, why=why)
        )
        responder.engine.poke()
        return {"stopped": responder.engine.stopped() or None}

    def _person(self, asked: Mapping[str, Any]) -> str:
        who = " ".join(get.text(asked, "who", needed=True).split())
        known = self._service.config.responses.approvers
        if known and not people((who,)) <= people(known):
            raise BadInput(f"who: expected one of responses.approvers, got {who[:100]!r}")
        return who

    def _tested(self, playbook: Playbook, incident: Incident) -> dict[str, Any]:
        responder = self._service.responder
        labels = responder.labels(incident) if playbook.match.labels else ()
        why_not = list(playbook.match.misses(incident, labels))
        predicted = incident.prediction is not None
        if predicted != (playbook.on == "predicted"):
            kind = "a prediction" if predicted else "no prediction"
            why_not.insert(0, f"on: expected {playbook.on}, the incident is {kind}")
        if (playbook.on == "alert") != incident.id.startswith(ALERT):
            why_not.insert(0, f"on: expected {playbook.on}, got {incident.id}")
        if playbook.on == "notified" and not responder.ledger.noticed(incident.id):
            why_not.insert(0, "on: expected notified, Alertmanager has told nobody of it here")
        if incident.suppressed_by:
            why_not.insert(0, f"the incident is suppressed by {incident.suppressed_by}")
        steps = [
            {
                "step": one.step + 1,
                "action": f"{one.action.kind} {one.action.use}",
                "plan": one.plan or None,
                "verdict": str(ruling.verdict),
                "checks": [_check(check) for check in ruling.checks],
            }
            for one, ruling in responder.engine.preview(playbook, incident)
        ]
        told = {"name": playbook.name, "version": playbook.version, "on": playbook.on, "dry_run": playbook.dry_run}
        return {**told, "matches": not why_not, "why_not": why_not, "steps": steps}

    def _run(self, run: Run) -> dict[str, Any]:
        ledger = self._service.responder.ledger
        executions = ledger.executions(run.id).values()
        return {
            "id": run.id,
            "playbook": run.playbook.name,
            "version": run.version,
            "on": run.trigger,
            "incident": run.incident.id,
            "title": run.incident.title,
            "severity": str(run.incident.severity),
            "state": str(run.state),
            "began": run.made_ns / 1e9,
            "ended": run.ended_ns / 1e9 if run.ended_ns else None,
            "steps": [self._execution(run, one) for one in executions],
        }

    def _execution(self, run: Run, one: Execution) -> dict[str, Any]:
        votes = self._service.responder.ledger.votes(one.id) if one.asked_ns else []
        guard = guard_of(run, one)
        waits = guard is not None and one.standing is Standing.WAITING
        return {
            "id": one.id,
            "step": one.step + 1,
            "role": one.role,
            "action": f"{one.action.kind} {one.action.use}",
            "target": one.target,
            "state": str(one.standing),
            "plan": one.plan,
            "result": one.text,
            "output": one.output,
            "attempts": one.attempt,
            "began": one.intended_ns / 1e9 if one.intended_ns else None,
            "ended": one.ended_ns / 1e9 if one.ended_ns else None,
            "verified": str(one.seen) or None,
            "verified_why": one.seen_text or None,
            "verified_until": one.looked_until_ns / 1e9 if one.seen is Seen.PENDING else None,
            "checks": [_check(check) for check in one.checks],
            "approvals_needed": guard.approvals if guard is not None else 0,
            "approvals": [_vote(vote) for vote in votes],
            "expires": one.asked_ns / 1e9 + guard.expiry if guard is not None and waits else None,
        }


def _playbook(one: Playbook, tally: Tally | None) -> dict[str, Any]:
    """What it says, what its guards come to where they say nothing, and how its runs ended."""
    return {
        **one.plain_values(),
        "version": one.version,
        "guards": [_guards(step) for step in one.steps],
        "runs": dict(tally.by_state) if tally else {},
        "last_run": tally.newest_ns / 1e9 if tally else None,
    }


def _guards(step: StepConfig) -> dict[str, Any]:
    """The guards of a step as they hold, defaults of its kind put in."""
    guard, defaults = step.guard, step.do.defaults
    return {
        "cooldown": defaults.cooldown if guard.cooldown is None else guard.cooldown,
        "most": defaults.most if guard.most is None else guard.most,
        "per": guard.per,
        "targets": defaults.targets if guard.targets is None else guard.targets,
        "share": guard.share if step.do.kind == "scale" else None,
        "windows": len(guard.windows),
        "approvals": guard.approvals,
        "expiry": guard.expiry if guard.approvals else None,
        "healthy": defaults.healthy if guard.healthy is None else guard.healthy,
    }


def _vote(vote: Vote) -> dict[str, Any]:
    return {"time": vote.time_ns / 1e9, "who": vote.who, "agrees": vote.agrees, "why": vote.why}


def _check(check: Check) -> dict[str, Any]:
    return {"name": check.name, "holds": check.holds, "text": check.text}
