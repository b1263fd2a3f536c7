"""The engine: begins runs for incidents that playbooks match, and carries them on, each step written down before.

It has one thread that decides and writes, and workers that only do. A step that was intended when the process ended is
asked for where it can tell (`Responder.lost`), done again where that is known to do no harm, and else unknown, of which
people are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from otel_aiops.errors import AiopsError
from otel_aiops.incidents.incident import Incident, State
from otel_aiops.incidents.journal import brief
from otel_aiops.labels import Labels
from otel_aiops.responses.audit import Deed
from otel_aiops.responses.guard import TELLS, Check, Facts, GuardConfig, Ruling, Verdict, rule
from otel_aiops.responses.ledger import Known, Ledger, known_of
from otel_aiops.responses.order import Ended, Lost, Order, Outcome, Refused, Responder
from otel_aiops.responses.playbook import TELLING, ActionConfig, Kind, Playbook, Trigger, VerifyConfig
from otel_aiops.responses.runs import (
    DO,
    LIVE,
    UNFINISHED,
    Begin,
    End,
    Execution,
    Look,
    Run,
    RunState,
    Seen,
    Standing,
    execution_id,
    moves,
    run_id,
    standing_of,
)
from otel_aiops.responses.values import values_of
from otel_aiops.responses.verify import not_calm, not_resolved

S = 1_000_000_000
ITSELF = "otel-aiops"
OVER = {
    State.RESOLVED: "the incident is resolved",
    State.MERGED: "the incident is part of another one",
    State.EXPIRED: "the prediction is over",
}
AGAIN_NS = S  # between two looks at what waits for people, or at whether it helped
ROUNDS = 50  # of deciding and doing, in one tick
PAUSE_S = 0.05  # that a round waits for what is being done
MOST_ATTEMPTS = 20  # of an order that ends with the service every time


class World(Protocol):
    """What the engine knows of the service around it; any thread may ask."""

    def now_ns(self) -> int:
        """The time of the machine."""

    def event_ns(self) -> int:
        """How far telemetry is."""

    def incident(self, name: str) -> Incident | None:
        """As it is now."""

    def alerts(self) -> Sequence[Incident]:
        """What others alert about and playbooks have not seen, as incidents; some of them."""

    def seen(self, alerts: Sequence[Incident]) -> None:
        """Playbooks have seen these."""

    def labels(self, incident: Incident) -> Sequence[Labels]:
        """Of the series that show an incident, or of an alert."""

    def scores(self, incident: Incident) -> Mapping[str, float]:
        """The newest score of each series that shows it, by fingerprint; 1 is the threshold."""

    def unwanted(self, incident: Incident, kind: Kind) -> str:
        """Why the team whose incident it is does not want such a step, "" where it does or has not said."""

    def model_problem(self) -> str:
        """Why the model is not to be trusted now, "" where it is."""


@dataclass(slots=True)
class _Open:
    """A run that goes on, as the ledger has it: only the engine writes."""

    run: Run
    done: dict[str, Execution]
    due_ns: int = 0  # when it is to be looked at again


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds now; replaced as a whole when the configuration is reloaded."""

    playbooks: tuple[Playbook, ...] = ()
    responders: Mapping[Kind, Responder] = field(default_factory=dict)
    enabled: bool = False
    late_s: float = 900.0
    tell: str = ""
    stop_file: Path | None = None
    holds: Callable[[str], str] = lambda query: "there is no Prometheus"  # why a query does not hold, "" where it does


class Engine:
    """`tick` belongs to one thread. `told` is called with every change of an execution that is news, and its name."""

    def __init__(
        self,
        ledger: Ledger,
        world: World,
        settings: Settings,
        *,
        workers: int = 4,
        told: Callable[[Run, Execution, str], None] = lambda run, one, what: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._ledger, self._world, self._told, self._stopping = ledger, world, told, stopping
        self._workers = workers
        self._pool = ThreadPoolExecutor(2 * workers, thread_name_prefix="response")
        self._lookers = ThreadPoolExecutor(workers, thread_name_prefix="verify")  # who is slow to tell holds up no step
        self._flying: dict[str, Future[Outcome | None]] = {}  # by execution
        self._lanes: dict[str, bool] = {}  # by execution: whether it tells; a slow command holds up no notice
        self._looking: dict[str, Future[str]] = {}  # by execution: why its query does not hold
        self._open: dict[str, _Open] | None = None
        self._began_ns = 0  # when it first looked
        self._poked = False

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._lookers.shutdown(wait=False, cancel_futures=True)

    def renew(self, settings: Settings) -> None:
        """Go on with other settings."""
        self._settings = settings
        self.poke()

    def poke(self) -> None:
        """Look at all that waits with the next tick: something has changed. From any thread."""
        self._poked = True

    @property
    def busy(self) -> bool:
        """Whether something is being done or asked."""
        return bool(self._flying or self._looking)

    @property
    def running(self) -> int:
        """How many runs go on."""
        return len(self._open or ())

    def tick(self) -> None:
        """Begin what is new, and carry on what is begun as far as it goes now. Raises: StorageError."""
        if self._open is None:
            self._began_ns = self._world.now_ns()
            self._open = {run.id: _Open(run, self._ledger.executions(run.id)) for run in self._ledger.unfinished()}
        for _ in range(ROUNDS):
            changed = self._take(self._open) | self._take_notices(self._open) | self._take_alerts(self._open)
            poked, self._poked = self._poked, False
            now_ns = self._world.now_ns()
            for one in list(self._open.values()):
                if self._stopping():
                    return
                if poked or now_ns >= one.due_ns:
                    changed |= self._advance(one)
                    if one.run.state not in UNFINISHED:
                        del self._open[one.run.id]
            if not changed and not self._wait():
                return

    def preview(self, playbook: Playbook, incident: Incident) -> list[tuple[Execution, Ruling]]:
        """What the steps of a playbook would do about an incident now; nothing is done or written. From any thread.

        Each as if those before it had not been done. A step that cannot be planned says why in its `text`.
        """
        now_ns = self._world.now_ns()
        run = begun(run_id(playbook.name, incident.id, "preview", 0), playbook, playbook.on, brief(incident), now_ns)
        return [
            self._previewed(run, Begin(number, DO, step.do, step.guard), now_ns)
            for number, step in enumerate(playbook.steps)
        ]

    def _previewed(self, run: Run, move: Begin, now_ns: int) -> tuple[Execution, Ruling]:
        one = self._made(run, move, now_ns)
        try:
            one = self._planned(run, one)
        except Refused as why:
            check = Check(name="plan", holds=False, text=str(why))
            return replace(one, text=str(why)), Ruling(verdict=Verdict.REFUSED, checks=(check,))
        return one, self._ruled(run, one, move.guard, now_ns)

    def _wait(self) -> bool:
        """Wait a moment for what is being done; whether anything has ended."""
        if not self._flying:
            return False
        wait(self._flying.values(), PAUSE_S, return_when=FIRST_COMPLETED)
        return any(one.done() for one in self._flying.values())

    # -- what begins ----------------------------------------------------------------------------------------------

    def _take(self, opened: dict[str, _Open]) -> bool:
        """Look at new revisions of incidents; whether there were any."""
        fresh = self._ledger.fresh()
        if not fresh:
            return False
        now_ns, event_ns = self._world.now_ns(), self._world.event_ns()
        runs: list[Run] = []
        deeds: list[Deed] = []
        known: list[Known] = []
        for at_ns, one, before in fresh:
            known.append(known_of(one, at_ns, before))
            late = event_ns - at_ns > self._settings.late_s * S
            for playbook, trigger, which in self._begun(one, before, known[-1]):
                name = run_id(playbook.name, one.id, trigger, which)
                said = {"playbook": playbook.name, "version": playbook.version, "incident": one.id, "trigger": trigger}
                if late:
                    why = f"the change of the incident is {(event_ns - at_ns) / S:.0f} s old"
                    deeds.append(Deed(time_ns=now_ns, what="passed over", who=ITSELF, why=why, details=said))
                    continue
                runs.append(begun(name, playbook, trigger, brief(one), now_ns))
                deeds.append(Deed(time_ns=now_ns, what="begun", who=ITSELF, why=one.title, run=name, details=said))
        opened.update({run.id: _Open(run, {}) for run in self._ledger.take(known, runs, deeds)})
        return True

    def _take_notices(self, opened: dict[str, _Open]) -> bool:
        """Look at incidents of which Alertmanager lets people know since then; whether there were any."""
        names = self._ledger.notices()
        now_ns = self._world.now_ns()
        runs: list[Run] = []
        deeds: list[Deed] = []
        for incident in names:
            one, known = self._world.incident(incident), self._ledger.known(incident)
            if one is None or known is None:  # an alert of somebody else's incident
                continue
            for playbook, trigger, which in self._begun(one, known, known):
                if trigger != "notified":
                    continue
                name = run_id(playbook.name, one.id, trigger, which)
                said = {"playbook": playbook.name, "version": playbook.version, "incident": one.id, "trigger": trigger}
                runs.append(begun(name, playbook, trigger, brief(one), now_ns))
                deeds.append(Deed(time_ns=now_ns, what="begun", who=ITSELF, why=one.title, run=name, details=said))
        if names:
            opened.update({run.id: _Open(run, {}) for run in self._ledger.take([], runs, deeds, notices=names)})
        return bool(names)

    def _take_alerts(self, opened: dict[str, _Open]) -> bool:
        """Look at new alerts of others; whether there were any. The same alert begins a playbook once."""
        alerts = self._world.alerts()
        now_ns = self._world.now_ns()
        runs: list[Run] = []
        deeds: list[Deed] = []
        for one in alerts:
            wanted = [of for of in self._settings.playbooks if of.on == "alert" and one.state in LIVE]
            for playbook in wanted if not one.suppressed_by else ():
                if not playbook.match.takes(one, self._world.labels(one)):
                    continue
                name = run_id(playbook.name, one.id, "alert", 1)
                said = {"playbook": playbook.name, "version": playbook.version, "alert": one.id, "trigger": "alert"}
                runs.append(begun(name, playbook, "alert", one, now_ns))
                deeds.append(Deed(time_ns=now_ns, what="begun", who=ITSELF, why=one.title, run=name, details=said))
        opened.update({run.id: _Open(run, {}) for run in self._ledger.take([], runs, deeds)} if runs else {})
        if alerts:
            self._world.seen(alerts)
        return bool(alerts)

    def _begun(self, one: Incident, before: Known | None, now: Known) -> Iterable[tuple[Playbook, Trigger, int]]:
        """(playbook, why, which time) that a revision begins."""
        if one.suppressed_by:
            return
        labels: Sequence[Labels] | None = None
        for playbook in self._settings.playbooks:
            which = triggered(playbook.on, one, before, now)
            if which is None or (playbook.on == "notified" and not self._ledger.noticed(one.id)):
                continue
            if playbook.match.labels and labels is None:
                labels = self._world.labels(one)
            if playbook.match.takes(one, labels or ()):
                yield playbook, playbook.on, which

    # -- what goes on ---------------------------------------------------------------------------------------------

    def _advance(self, of: _Open) -> bool:
        """One move of a run; whether anything changed."""
        for one in of.done.values():
            if one.standing is Standing.INTENDED and self._collect(of, one):
                return True
        move = moves(of.run, of.done, self._settings.tell)
        if isinstance(move, Begin):
            changed = self._begin(of, move)
        elif isinstance(move, Look):
            changed = self._look(of, move.step)
        elif isinstance(move, End):
            return self._end(of, move.state)
        else:
            return False
        if isinstance(move, Begin):
            held_up = self._full(move.action)
        else:
            held_up = execution_id(of.run.id, move.step, DO) in self._looking
        of.due_ns = 0 if changed or held_up else self._world.now_ns() + AGAIN_NS
        return changed

    def _begin(self, of: _Open, move: Begin) -> bool:
        """Have the guards decide about an action; what they allow is written down, then done."""
        if self._full(move.action):
            return False
        run, now_ns = of.run, self._world.now_ns()
        before = of.done.get(execution_id(run.id, move.step, move.role))
        one = before or self._made(run, move, now_ns)
        try:
            one = one if before else self._planned(run, one)
            ruling = self._ruled(run, one, move.guard, now_ns)
            if before and ruling.verdict is Verdict.ALLOWED:  # much may have changed while it waited
                one = self._planned(run, one)
                ruling = self._ruled(run, one, move.guard, now_ns)
        except Refused as why:
            return self._stand(of, replace(one, standing=Standing.REFUSED, text=str(why)))
        one = replace(one, checks=ruling.checks)
        if ruling.verdict is Verdict.REFUSED:
            one = replace(one, standing=Standing.REFUSED, text=ruling.reason, moot=ruling.moot)
            return self._stand(of, one)
        if ruling.verdict is Verdict.DRY_RUN:
            return self._stand(of, replace(one, standing=Standing.DRY_RUN, text=ruling.reason))
        if ruling.verdict is Verdict.WAITS:
            return before is None and self._stand(of, replace(one, text=ruling.reason), what="asked")
        one = replace(one, standing=Standing.INTENDED, text="", intended_ns=now_ns)
        self._write(of, one, "intended", one.plan)
        self._fly(self._order(run, one))
        return True

    def _made(self, run: Run, move: Begin, now_ns: int) -> Execution:
        return Execution(
            id=execution_id(run.id, move.step, move.role),
            run=run.id,
            step=move.step,
            role=move.role,
            action=move.action,
            target=values_of(run.incident)["service"],
            standing=Standing.WAITING,
            made_ns=now_ns,
            asked_ns=now_ns,
        )

    def _planned(self, run: Run, one: Execution) -> Execution:
        """What would be done now. Raises: Refused."""
        responder = self._responder(one.action.kind)
        replicas = responder.replicas(replace(self._order(run, one), replicas=None))
        if replicas is not None:
            one = replace(one, replicas_now=replicas[0], replicas_wanted=replicas[1])
        return replace(one, plan=responder.plan(self._order(run, one)))

    def _ruled(self, run: Run, one: Execution, guard: GuardConfig | None, now_ns: int) -> Ruling:
        settings = self._settings
        always = Facts(enabled=settings.enabled, dry_run=run.playbook.dry_run, stopped=self.stopped())
        if guard is None:
            return rule(GuardConfig(), TELLS, always, now_ns)
        action = f"{one.action.kind} {one.action.use}"
        defaults = one.action.defaults
        cooldown_s = defaults.cooldown if guard.cooldown is None else guard.cooldown
        lately = self._ledger.lately(action, now_ns - round(max(guard.per, cooldown_s) * S) - S)
        votes = self._ledger.votes(one.id)
        against = [f"{vote.who}: {vote.why}".rstrip(": ") for vote in votes if not vote.agrees]
        facts = replace(
            always,
            over=self._over(run),
            unwanted=self._world.unwanted(run.incident, one.action.kind),
            target=one.target,
            last_ns=max((at for at, target in lately if target == one.target), default=0),
            done_ns=tuple(at for at, _ in lately),
            targets=tuple(target for _, target in lately),
            replicas=one.replicas,
            model=self._world.model_problem(),
            asked_ns=one.asked_ns,
            approved=tuple(vote.who for vote in votes if vote.agrees),
            refused=against[0] if against else "",
        )
        return rule(guard, defaults, facts, now_ns)

    def _look(self, of: _Open, step: int) -> bool:
        """Look whether a step helped; whether that is known now."""
        one, verify = of.done[execution_id(of.run.id, step, DO)], of.run.playbook.steps[step].verify
        assert verify is not None
        why_not = self._why_not(of.run, one, verify)
        if why_not is None or (why_not and self._world.now_ns() < one.looked_until_ns):
            return False
        seen = Seen.NOT_RECOVERED if why_not else Seen.RECOVERED
        text = f"not recovered within {verify.within:.0f} s: {why_not}" if why_not else "recovered"
        one = replace(one, seen=seen, seen_text=text)
        self._write(of, one, str(seen), text)
        self._told(of.run, one, str(seen))
        return True

    def _why_not(self, run: Run, one: Execution, verify: VerifyConfig) -> str | None:
        """Why it is not over; "" where it is, None where that is being asked."""
        asked = self._looking.get(one.id)
        if asked is None:
            self._looking[one.id] = self._lookers.submit(self._asked, run, verify)
            return None
        if not asked.done():
            return None
        del self._looking[one.id]
        return asked.result()

    def _asked(self, run: Run, verify: VerifyConfig) -> str:
        """The same, of whoever knows; in a thread of its own, because that may take its time."""
        try:
            if verify.by == "promql":
                return self._settings.holds(verify.query)
            incident = self._world.incident(run.incident.id)
            if incident is None:
                return "the incident is not known any more"
            if verify.by == "resolved":
                return not_resolved(incident)
            return not_calm(incident, self._world.scores(incident))
        except AiopsError as error:  # it is asked again until the time is over
            return str(error)

    def stopped(self) -> str:
        """Why nothing is done now, "" where something is."""
        file = self._settings.stop_file
        if file is not None and file.exists():
            return f"there is the file {file}"
        return self._ledger.stopped()

    def _over(self, run: Run) -> str:
        now = self._world.incident(run.incident.id)
        if now is None:
            return ""
        if now.suppressed_by:
            return f"the incident is suppressed by {now.suppressed_by}"
        if run.trigger == "resolved":
            return "the incident is open again" if now.state in LIVE else ""
        if run.trigger == "predicted" and now.state is not State.PREDICTED:
            return OVER[State.EXPIRED]
        return OVER.get(now.state, "")

    # -- doing ----------------------------------------------------------------------------------------------------

    def _full(self, action: ActionConfig) -> bool:
        """Whether it would have to wait for a worker: nothing is intended that cannot begin at once."""
        telling = action.kind in TELLING
        return sum(lane is telling for lane in self._lanes.values()) >= self._workers

    def _fly(self, order: Order) -> None:
        self._lanes[order.id] = order.action.kind in TELLING
        self._flying[order.id] = self._pool.submit(self._responder(order.action.kind).run, order)

    def _collect(self, of: _Open, one: Execution) -> bool:
        """Take in what came of an execution; whether it has ended."""
        future = self._flying.get(one.id)
        if future is None:
            return self._lost(of, one)
        if not future.done():
            return False
        del self._flying[one.id], self._lanes[one.id]
        try:
            outcome = future.result()
        except Refused as why:
            outcome = Outcome(ended=Ended.FAILED, text=str(why))
        except Exception as error:  # what breaks here must not break the others
            text = f"what does it has broken: {type(error).__name__}: {error}"
            outcome = Outcome(ended=Ended.UNKNOWN, text=text[:500])
        return outcome is not None and self._ended(of, one, outcome)

    def _lost(self, of: _Open, one: Execution) -> bool:
        """What was intended before a crash: find out, do again, or say that it is not known."""
        try:
            found = self._responder(one.action.kind).lost(self._order(of.run, one))
        except Refused as refused:
            found = Outcome(ended=Ended.UNKNOWN, text=str(refused))
        if found is Lost.RUNNING:
            of.due_ns = self._world.now_ns() + AGAIN_NS
            return False
        if isinstance(found, Outcome):
            return self._ended(of, one, found)
        never = found is Lost.NEVER
        if self._full(one.action):
            return False
        if (never or one.action.repeatable) and one.attempt < MOST_ATTEMPTS and not self.stopped():
            why = "it was not begun before the service ended" if never else "it does no harm twice"
            again = replace(one, attempt=one.attempt + 1)
            self._write(of, again, "intended again", why)
            self._fly(self._order(of.run, again))
            return True
        if never:
            return self._ended(of, one, Outcome(ended=Ended.FAILED, text="the service ended before it was begun"))
        text = "the service ended while it was being done; it is not known whether it was"
        return self._ended(of, one, Outcome(ended=Ended.UNKNOWN, text=text))

    def _ended(self, of: _Open, one: Execution, outcome: Outcome) -> bool:
        one = replace(one, standing=standing_of(outcome), text=outcome.text, output=outcome.output)
        verify = of.run.playbook.steps[one.step].verify
        if one.role == DO and one.standing is Standing.DONE and verify is not None:
            until_ns = self._world.now_ns() + round(verify.within * S)
            one = replace(one, seen=Seen.PENDING, looked_until_ns=until_ns)
        return self._stand(of, one)

    # -- writing --------------------------------------------------------------------------------------------------

    def _stand(self, of: _Open, one: Execution, what: str = "") -> bool:
        """Write how an execution stands, and tell."""
        if one.standing is not Standing.WAITING:
            one = replace(one, ended_ns=self._world.now_ns())
        self._write(of, one, what or str(one.standing), one.text)
        self._told(of.run, one, what or str(one.standing))
        return True

    def _write(self, of: _Open, one: Execution, what: str, why: str) -> None:
        done = {**of.done, one.id: one}
        waits = any(other.standing is Standing.WAITING for other in done.values())
        run = replace(of.run, state=RunState.WAITING if waits else RunState.ACTIVE)
        now_ns = self._world.now_ns()
        details = {"action": f"{one.action.kind} {one.action.use}", "target": one.target, "attempt": one.attempt}
        deed = Deed(time_ns=now_ns, what=what, who=ITSELF, why=why, run=run.id, execution=one.id, details=details)
        self._ledger.write(executions=[one], run=run if run != of.run else None, deeds=[deed])
        of.run, of.done = run, done

    def _end(self, of: _Open, state: RunState) -> bool:
        now_ns = self._world.now_ns()
        run = replace(of.run, state=state, ended_ns=now_ns)
        said = {"playbook": run.playbook.name, "incident": run.incident.id}
        deed = Deed(time_ns=now_ns, what=f"ended: {state}", who=ITSELF, run=run.id, details=said)
        self._ledger.write(run=run, deeds=[deed])
        of.run = run
        return True

    def _order(self, run: Run, one: Execution) -> Order:
        return Order(
            id=one.id,
            attempt=one.attempt,
            run=run.id,
            playbook=run.playbook.name,
            trigger=run.trigger,
            action=one.action,
            incident=run.incident,
            values=values_of(run.incident, run.playbook.name),
            replicas=one.replicas,
            stopping=self._stopping,
            began_s=(self._world.now_ns() - self._began_ns) / S,
        )

    def _responder(self, kind: Kind) -> Responder:
        return self._settings.responders[kind]


def begun(name: str, playbook: Playbook, trigger: Trigger, incident: Incident, now_ns: int) -> Run:
    """A run that begins now."""
    return Run(id=name, playbook=playbook, version=playbook.version, trigger=trigger, incident=incident, made_ns=now_ns)


def triggered(on: Trigger, one: Incident, before: Known | None, now: Known) -> int | None:
    """Which time a revision begins playbooks of this kind: the same number is the same time; None where it does not.

    `opened` and `notified` hold for every revision while the incident is open: a playbook may begin to match later.
    """
    if one.prediction is not None:
        stands = on == "predicted" and one.state is State.PREDICTED
        return 1 if stands else None
    was_live = before is not None and before.state in LIVE
    if on in ("opened", "notified"):
        return now.since if one.state is State.OPEN else None
    if on == "updated":
        changed = before is not None and (before.severity, before.suspect) != (now.severity, now.suspect)
        return one.revision if was_live and one.state in LIVE and changed else None
    if on == "resolved":
        return one.revision if was_live and one.state is State.RESOLVED else None
    return None
