"""Runs of playbooks: what was begun, intended, done and seen, as values, and what is to be done next."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from otel_aiops.incidents.incident import Incident, State
from otel_aiops.responses.guard import Check, GuardConfig
from otel_aiops.responses.order import Ended, Outcome
from otel_aiops.responses.playbook import ActionConfig, Playbook, StepConfig, Trigger

DO, UNDO, ESCALATE, ASK = "do", "undo", "escalate", "ask"
LIVE = (State.OPEN, State.ACKNOWLEDGED)


class Standing(StrEnum):
    """Where an execution stands."""

    WAITING = "waiting"  # for people
    INTENDED = "intended"  # written down; being done, or about to be
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"  # a crash hides whether it was done
    REFUSED = "refused"  # by a guard or a person
    DRY_RUN = "dry_run"  # nothing was done, on purpose


class Seen(StrEnum):
    """Whether a step helped."""

    NOT_LOOKED = ""
    PENDING = "pending"
    RECOVERED = "recovered"
    NOT_RECOVERED = "not_recovered"


class RunState(StrEnum):
    """Where a run stands; all but the first two are ends."""

    ACTIVE = "active"
    WAITING = "waiting"
    DONE = "done"
    DRY_RUN = "dry_run"
    REFUSED = "refused"
    FAILED = "failed"
    UNKNOWN = "unknown"
    NOT_RECOVERED = "not_recovered"
    UNDONE = "undone"


UNFINISHED = (RunState.ACTIVE, RunState.WAITING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A playbook for an incident, as both were when it began."""

    id: str
    playbook: Playbook
    version: str
    trigger: Trigger
    incident: Incident
    made_ns: int
    ended_ns: int = 0
    state: RunState = RunState.ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One action of a run. `role` is do, undo, ask (people for an approval), or escalate.0 and so on."""

    id: str
    run: str
    step: int
    role: str
    action: ActionConfig
    target: str = ""
    standing: Standing
    attempt: int = 1
    plan: str = ""  # what is or would be done, in one sentence
    text: str = ""  # what came of it, or why it was not done
    output: str = ""
    checks: tuple[Check, ...] = ()
    moot: bool = False  # refused, but that is no news
    replicas_now: int = -1  # of what is scaled; -1 of other kinds
    replicas_wanted: int = -1
    made_ns: int = 0
    asked_ns: int = 0
    intended_ns: int = 0
    ended_ns: int = 0
    seen: Seen = Seen.NOT_LOOKED
    seen_text: str = ""
    looked_until_ns: int = 0

    @property
    def replicas(self) -> tuple[int, int] | None:
        """Those of what is scaled."""
        return (self.replicas_now, self.replicas_wanted) if self.replicas_wanted >= 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What a person said to an execution that waits."""

    who: str
    agrees: bool
    why: str = ""
    time_ns: int = 0


@dataclass(frozen=True, slots=True)
class Begin:
    """Have the guards decide about an action that is new, or waits."""

    step: int
    role: str
    action: ActionConfig
    guard: GuardConfig | None  # None: it takes back or tells what was decided before


@dataclass(frozen=True, slots=True)
class Look:
    """Look whether a step helped."""

    step: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be done before what goes on has ended."""


@dataclass(frozen=True, slots=True)
class End:
    """All is done."""

    state: RunState


Move = Begin | Look | Wait | End


def run_id(playbook: str, incident: str, trigger: str, which: int) -> str:
    """The same for the same: `which` is the revision that opened the incident, or of the update."""
    text = "\0".join((playbook, incident, trigger, str(which)))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def execution_id(run: str, step: int, role: str) -> str:
    """The same for the same; it stands in names of files and headers."""
    return f"{run}.{step + 1}.{role}"


def moves(run: Run, done: Mapping[str, Execution], tell: str) -> Move:
    """What is to be done next; `tell` is a target of notify for steps that escalate to nobody."""
    worst = RunState.DONE
    for number, step in enumerate(run.playbook.steps):
        first = done.get(execution_id(run.id, number, DO))
        if first is None or first.standing is Standing.WAITING:
            return _begin(number, DO, step.do, step.guard, first, run, done, tell)
        if first.standing is Standing.INTENDED:
            return Wait()
        if first.standing is Standing.DRY_RUN:
            worst = RunState.DRY_RUN
            continue
        if first.seen is Seen.PENDING:
            return Look(number)
        if first.standing is Standing.DONE and first.seen is not Seen.NOT_RECOVERED:
            continue
        after = _after(run, number, step, first, done, tell)
        if after is not None:
            return after
        state = _state(first, done.get(execution_id(run.id, number, UNDO)))
        if not step.goes_on:
            return End(state)
        worst = state
    return End(worst)


def _begin(
    number: int,
    role: str,
    action: ActionConfig,
    guard: GuardConfig | None,
    waiting: Execution | None,
    run: Run,
    done: Mapping[str, Execution],
    tell: str,
) -> Move:
    """An action; one that waits for people has them told first."""
    if waiting is not None and tell:
        asked = done.get(execution_id(run.id, number, f"{ASK}.{role}"))
        if asked is None:
            return Begin(number, f"{ASK}.{role}", asking(tell, run, waiting), None)
        if asked.standing is Standing.INTENDED:
            return Wait()
    return Begin(number, role, action, guard)


def _after(
    run: Run, number: int, step: StepConfig, first: Execution, done: Mapping[str, Execution], tell: str
) -> Move | None:
    """What follows a step that was not done or did not help: undo, then escalate."""
    if first.seen is Seen.NOT_RECOVERED and step.undo is not None:
        undone = done.get(execution_id(run.id, number, UNDO))
        if undone is None:
            return Begin(number, UNDO, step.undo, None)
        if undone.standing is Standing.INTENDED:
            return Wait()
    if first.moot:
        return None
    escalations: list[tuple[ActionConfig, GuardConfig | None]] = [(one.do, one.guard) for one in step.escalate]
    if not escalations and tell:
        escalations = [(telling(tell, run, first), None)]
    for k, (action, guard) in enumerate(escalations):
        role = f"{ESCALATE}.{k}"
        there = done.get(execution_id(run.id, number, role))
        if there is None or there.standing is Standing.WAITING:
            return _begin(number, role, action, guard, there, run, done, tell)
        if there.standing is Standing.INTENDED:
            return Wait()
    return None


def guard_of(run: Run, one: Execution) -> GuardConfig | None:
    """The guard of an execution; None of what takes back or tells what was decided before."""
    step = run.playbook.steps[one.step]
    if one.role == DO:
        return step.guard
    place = one.role.removeprefix(f"{ESCALATE}.")
    return step.escalate[int(place)].guard if place.isdigit() and int(place) < len(step.escalate) else None


def asking(tell: str, run: Run, waiting: Execution) -> ActionConfig:
    """Tell people that they are asked."""
    plan = waiting.plan.replace("{", "(").replace("}", ")")
    text = f"{run.playbook.name} wants to {plan}.\n{_how(run)}"
    return ActionConfig(kind="notify", use=tell, text=text)


def telling(tell: str, run: Run, first: Execution) -> ActionConfig:
    """Tell people what was not done, or did not help."""
    why = (first.seen_text or first.text).replace("{", "(").replace("}", ")")
    what = "did not help" if first.seen is Seen.NOT_RECOVERED else f"is {first.standing}"
    step = f"step {first.step + 1} of {run.playbook.name} ({first.action.kind} {first.action.use})"
    text = f"{step} {what}: {why}"
    return ActionConfig(kind="notify", use=tell, text=text)


def _how(run: Run) -> str:
    return f"otel-aiops responses approve {run.id}, or refuse {run.id}"


def _state(first: Execution, undone: Execution | None) -> RunState:
    if first.seen is Seen.NOT_RECOVERED:
        helped = undone is not None and undone.standing is Standing.DONE
        return RunState.UNDONE if helped else RunState.NOT_RECOVERED
    return RunState(str(first.standing))


def standing_of(outcome: Outcome) -> Standing:
    """Where an execution stands that has ended so."""
    return {Ended.DONE: Standing.DONE, Ended.FAILED: Standing.FAILED, Ended.UNKNOWN: Standing.UNKNOWN}[outcome.ended]
