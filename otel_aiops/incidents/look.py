"""Look: what each service does otherwise in a window of time, with the evidence; who is to blame for what it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from otel_aiops.incidents.behaviour import OWN, PASSED_ON, SLOT_S, UNREACHED, Behaviour, context_parts
from otel_aiops.incidents.departures import Departures, departures
from otel_aiops.incidents.edges import Edge, solve
from otel_aiops.incidents.graph import reached
from otel_aiops.incidents.incident import Channel, Evidence
from otel_aiops.incidents.shifts import FAR, MIDDLE, UPPER, Shifts, Times
from otel_aiops.otlp.points import I64
from otel_aiops.signals.tally import Tally
from otel_aiops.signals.trees import CHILD, END, LOG, START, event_parts

CERTAIN_Z = 8.0  # a significance above says no more
OWN_Z, OWN_EFFECT = 4.0, 0.5  # from which an operation itself is slower
CALL_Z = 3.0  # from which a call is
EXPLAINED = 0.8  # share of what a service shows that a callee or caller which shows the same takes away
MOSTLY = 0.5  # of the cases in which a step is followed by the same call, that call is expected
NEW_SHARE = 0.02  # an outcome that was rarer than this is new
BEST = 3  # departures of a service that count
MOST_EVIDENCE = 6  # of one service
SURGE = 1.6  # times as many requests as usual are a reason for being slow
LEAST_EXPECTED, CHANCE_Z = 20.0, 4.0  # requests, and deviations of a count, below which a surge may be chance
REACH = 18  # slots: the newest have not come yet, and what has piled up takes its time
LOG_WEIGHT = 0.5  # of templates beside what spans show
SCALE = 10.0  # strengths grow like their logarithm above this


@dataclass(frozen=True, slots=True)
class Wording:
    """The names behind the numbers."""

    service: Callable[[int], str]
    operation: Callable[[int], str]
    template: Callable[[int], str]
    word: Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Look:
    """Strengths by service and channel, each at least 0, and the evidence for them, the strongest first."""

    strengths: Mapping[str, Mapping[Channel, float]] = field(default_factory=dict)
    evidence: Mapping[str, Sequence[Evidence]] = field(default_factory=dict)
    calls: Mapping[str, frozenset[str]] = field(default_factory=dict)
    senders: frozenset[str] = frozenset()  # services that sent spans in the window
    surges: Mapping[str, Evidence] = field(default_factory=dict)  # where more requests of users come in than usual

    def total(self, service: str) -> float:
        """How strange a service is, all channels together."""
        return total(self.strengths.get(service, {}))

    def totals(self) -> dict[str, float]:
        """All services that are strange at all, the strangest first."""
        found = {service: self.total(service) for service in self.strengths}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def total(strengths: Mapping[Channel, float]) -> float:
    """Channels of one service together: slowness by its strongest, all others added."""
    slow = max(strengths.get(Channel.LATENCY, 0.0), strengths.get(Channel.NETWORK, 0.0))
    rest = [value for channel, value in strengths.items() if channel not in (Channel.LATENCY, Channel.NETWORK)]
    return float(sum(SCALE * np.log1p(max(value, 0.0) / SCALE) for value in (slow, *rest)))


def look(behaviour: Behaviour, wording: Wording, first: int, last: int, *, least_usual: float = 0.0) -> Look:
    """What is otherwise in the slots `first` .. `last` than usual.

    Contexts that were seen less than `least_usual` times in what is usual do not count.
    """
    gathered = _Gathered(behaviour, wording, first, last, least_usual)
    gathered.slowness()
    gathered.failures()
    gathered.paths()
    gathered.logs()
    gathered.consequences()
    gathered.surges()
    return gathered.look()


class _Gathered:
    """Strengths and evidence on their way to a Look."""

    def __init__(self, behaviour: Behaviour, wording: Wording, first: int, last: int, least_usual: float) -> None:
        self.behaviour, self.wording, self.least_usual = behaviour, wording, least_usual
        self.first, self.last = first, last
        self.window = {name: tally.window(first, last) for name, tally in behaviour.tallies.items()}
        self.strengths: dict[str, dict[Channel, float]] = {}
        self.evidence: dict[str, list[Evidence]] = {}
        self.surging: dict[str, Evidence] = {}
        self.passed_on: dict[str, float] = {}  # strengths of errors that services pass on
        self.calls, self.callee_of, self.senders = self._graph()

    def _graph(self) -> tuple[dict[str, set[str]], dict[tuple[int, int], int], set[str]]:
        """(whom each service calls, the callee that each operation calls most, who sends spans)."""
        tally, service = self.behaviour.latency, self.wording.service
        counts = tally.per_context(tally.usual + self.window["latency"])
        who, operation, callee = context_parts(tally.contexts)
        calls: dict[str, set[str]] = {}
        most: dict[tuple[int, int], tuple[float, int]] = {}
        seen = np.flatnonzero(counts > 0)
        rows = zip(
            who[seen].tolist(), operation[seen].tolist(), callee[seen].tolist(), counts[seen].tolist(), strict=True
        )
        for caller, name, called, count in rows:
            if called:
                calls.setdefault(service(caller), set()).add(service(called))
            most[caller, name] = max(most.get((caller, name), (0.0, 0)), (count, called))
        now = np.flatnonzero(tally.per_context(self.window["latency"]) > 0)
        senders = {service(number) for number in np.unique(who[now]).tolist()}
        return calls, {key: called for key, (_, called) in most.items()}, senders

    def look(self) -> Look:
        strengths = {s: {c: v for c, v in by.items() if v > 0} for s, by in sorted(self.strengths.items())}
        evidence = {s: _strongest(found)[:MOST_EVIDENCE] for s, found in self.evidence.items()}
        calls = {caller: frozenset(callees) for caller, callees in self.calls.items()}
        strengths = {s: by for s, by in strengths.items() if by}
        return Look(strengths, evidence, calls, frozenset(self.senders), self.surging)

    def _raise(self, service: str, channel: Channel, strength: float) -> None:
        by = self.strengths.setdefault(service, {})
        by[channel] = max(by.get(channel, 0.0), strength)

    def _tell(self, evidence: Evidence) -> None:
        self.evidence.setdefault(evidence.service, []).append(evidence)

    # -- slower -------------------------------------------------------------------------------------------------------

    def slowness(self) -> None:
        """Operations that take longer themselves, and the ends of calls that do: usually, or in a part of the cases."""
        behaviour = self.behaviour
        times = Times(behaviour.latency, self.first, self.last, self.least_usual, behaviour.alike)
        for found in (times.shifts(MIDDLE), times.shifts(UPPER), times.tails(), times.tails(FAR)):
            if (found.z > CALL_Z).any():
                self._slower(found)

    def _slower(self, found: Shifts) -> None:
        tally = self.behaviour.latency
        who, operation, callee = context_parts(found.context)
        edges: list[Edge] = []
        longer: list[tuple[int, Edge]] = []
        for k in range(len(found)):
            z, effect = float(found.z[k]), float(found.effect[k])
            service = self.wording.service(int(who[k]))
            if callee[k]:
                shift = max(0.0, float(found.after[k] - found.before[k])) if z > CALL_Z else 0.0
                edge = Edge(service, self.wording.service(int(callee[k])), shift, float(found.count[k]), effect, z)
                edges.append(edge)
                longer += [(k, edge)] * (shift > 0 and effect > 0)
            elif z > OWN_Z and effect > OWN_EFFECT:
                strength = min(z, CERTAIN_Z) * float(np.log1p(effect))
                self._raise(service, Channel.LATENCY, strength)
                name = self.wording.operation(int(operation[k]))
                self._tell(_slower(found, k, service, name, "", strength, tally))
        ends = solve(edges, mute={edge.callee for edge in edges} - self.senders)
        for service, strength in ends.items():
            self._raise(service, Channel.NETWORK, strength)
        for k, edge in longer:
            name = self.wording.operation(int(operation[k]))
            for end in {edge.caller, edge.callee} & ends.keys():
                strength = min(ends[end], min(edge.z, CERTAIN_Z) * float(np.log1p(edge.effect)))
                self._tell(_slower(found, k, end, name, edge.callee, strength, tally, caller=edge.caller))

    # -- failing ------------------------------------------------------------------------------------------------------

    def failures(self) -> None:
        """Errors, put down to the service that made them, or to the callee that was not reached."""
        found = departures(self.behaviour.failures, self.first, self.last, self.least_usual)
        who, operation, callee = context_parts(found.context)
        for k in range(len(found)):
            outcome = int(found.outcome[k])
            caller, called = self.wording.service(int(who[k])), self.wording.service(int(callee[k]))
            if outcome == PASSED_ON:
                self.passed_on[caller] = max(self.passed_on.get(caller, 0.0), float(found.strength[k]))
            if outcome not in (OWN, UNREACHED):
                continue
            blamed = called if outcome == UNREACHED else caller
            strength = float(found.strength[k])
            self._raise(blamed, Channel.ERRORS, strength)
            name = self.wording.operation(int(operation[k]))
            what = f"`{name}` of {caller} fails" + (f" to reach {called}" if outcome == UNREACHED else "")
            self._tell(
                _more_often(
                    found,
                    k,
                    blamed,
                    Channel.ERRORS,
                    name,
                    what,
                    caller=caller,
                    callee=called if callee[k] else "",
                    traces=_traces(self.behaviour.failures, int(found.cell[k])),
                )
            )

    def consequences(self) -> None:
        """Take from services what the errors of their callees explain: that they try again, wait, log and give up."""
        failing = dict(self.passed_on)
        for service, strengths in self.strengths.items():
            failing[service] = max(failing.get(service, 0.0), strengths.get(Channel.ERRORS, 0.0))
        for service, strengths in self.strengths.items():
            for channel in (Channel.SEQUENCE, Channel.LOGS, Channel.LATENCY):
                if strengths.get(channel, 0.0) > 0:
                    most = strengths[channel]
                    strengths[channel] -= EXPLAINED * _highest(failing, self.calls.get(service, ()), service, most)

    # -- more requests ------------------------------------------------------------------------------------------------

    def surges(self) -> None:
        """Services that nobody calls and that get many more requests than usual, which explain what is slow behind."""
        who, _, callee = context_parts(self.behaviour.latency.contexts)
        numbers = np.unique(who[callee == 0]).tolist()
        called = set().union(*self.calls.values()) if self.calls else set()
        for number in numbers:
            service = self.wording.service(number)
            if service not in called and service in self.senders:
                surge = self._surge(number)
                if surge is not None:
                    self.surging[service] = surge
                    self._load(service, surge)

    def _surge(self, number: int) -> Evidence | None:
        """More requests than usual of one service, in the two slots that have most.

        Traces are complete some slots late, and a surge that has just begun is in few slots.
        """
        tally, service = self.behaviour.latency, self.wording.service(number)
        who, _, callee = context_parts(tally.contexts)
        mine = (callee == 0) & (who == number)
        first = min(self.first, self.last - REACH)
        by_slot = np.zeros(self.last - first + 2)
        for slot in tally.slots(first, self.last):
            by_slot[slot.number - first] = slot.counts[mine[tally.context_number[slot.cells]]].sum()
        came, expected = float((by_slot[1:] + by_slot[:-1]).max()), 2 * float(tally.usual_rate()[mine].sum())
        by_chance = expected + CHANCE_Z * np.sqrt(expected)
        if expected < LEAST_EXPECTED or came < max(SURGE * expected, by_chance):
            return None
        return Evidence(
            channel=Channel.RATE,
            service=service,
            what="requests",
            before=expected / 2 / SLOT_S,
            after=came / 2 / SLOT_S,
            unit="1/s",
            count=int(came),
            strength=float(CERTAIN_Z * np.log1p(came / expected)),
            text=f"{came / expected:.2g} times as many requests come to {service} as usual ({came:.0f} times)",
        )

    def _load(self, entry: str, surge: Evidence) -> None:
        """Put down to a surge that what it reaches is slow: it is as strange as the slowest of that."""
        slow = (Channel.LATENCY, Channel.NETWORK)
        slowest = 0.0
        for service in sorted(reached([entry], lambda one: sorted(self.calls.get(one, ())))):
            strengths = self.strengths.get(service, {})
            for channel in slow:
                slowest = max(slowest, strengths.get(channel, 0.0))
                strengths[channel] = strengths.get(channel, 0.0) * (1 - EXPLAINED)
        if slowest > 0:
            self._raise(entry, Channel.RATE, slowest)
        self._tell(replace(surge, strength=max(surge.strength, slowest)))

    # -- another path -------------------------------------------------------------------------------------------------

    def paths(self) -> None:
        """What follows what inside operations, and is new or more frequent than usual.

        An operation that ends right after a call is evidence on the call: against the callee if several callers do
        so, else against the caller. A service is discounted by what a callee newly does, and another mix of known
        paths by what its callers do.
        """
        found = departures(self.behaviour.paths, self.first, self.last, self.least_usual)
        who, operation, event = context_parts(found.context)
        codes = self.behaviour.events.by_number
        new: dict[str, list[float]] = {}
        mixed: dict[str, list[float]] = {}
        cut: dict[tuple[str, str], float] = {}
        missed: dict[tuple[str, str], float] = {}
        next_call = self._next_calls(np.unique(found.context))
        for k in range(len(found)):
            service, strength = self.wording.service(int(who[k])), float(found.strength[k])
            before, after = int(codes[event[k]]), int(codes[found.outcome[k]])
            called = self._called(int(who[k]), before)
            told = [service]
            expected = next_call.get(int(found.context[k]), "")
            if expected and self._called(int(who[k]), after) != expected:
                missed[service, expected] = max(missed.get((service, expected), 0.0), strength)
            if called and called != service and after == END:
                cut[service, called] = max(cut.get((service, called), 0.0), strength)
                told.append(called)
            else:
                kind = new if found.usual[k] < NEW_SHARE * found.usual_all[k] else mixed
                kind.setdefault(service, []).append(strength)
            name = self.wording.operation(int(operation[k]))
            what = f"`{name}` of {service} {self._event(after, after_a=before)}"
            traces = _traces(self.behaviour.paths, int(found.cell[k]))
            for one in told:
                self._tell(
                    _more_often(
                        found, k, one, Channel.SEQUENCE, name, what, caller=service, callee=called, traces=traces
                    )
                )
        for service, strength in self._blamed(_best(new), _best(mixed), cut).items():
            self._raise(service, Channel.SEQUENCE, strength)
        self._unreached(missed)

    def _next_calls(self, contexts: I64) -> dict[int, str]:
        """Whom an operation usually calls next, by context, where it nearly always calls the same."""
        tally, codes = self.behaviour.paths, self.behaviour.events.by_number
        at = np.flatnonzero(np.isin(tally.contexts[tally.context_number], contexts) & (tally.usual > 0))
        usual, of = tally.usual[at], tally.context_number[at]
        often = usual > MOSTLY * tally.per_context(tally.usual)[of]
        found = {}
        for context, event in zip(tally.contexts[of[often]].tolist(), tally.outcome[at[often]].tolist(), strict=True):
            service = context >> 48
            called = self._called(service, int(codes[event]))
            if called and called != self.wording.service(service):
                found[context] = called
        return found

    def _unreached(self, missed: Mapping[tuple[str, str], float]) -> None:
        """Blame those whom several services do not call any more where they usually do, while these fail themselves.

        A library that makes a span only once it is connected shows a dead dependency in no other way.
        """
        failing: dict[str, list[tuple[float, str]]] = {}
        for (caller, called), strength in missed.items():
            if self.strengths.get(caller, {}).get(Channel.ERRORS, 0.0) > 0:
                failing.setdefault(called, []).append((strength, caller))
        for called, by in sorted(failing.items()):
            if len(by) < 2:
                continue
            errors = [self.strengths[caller][Channel.ERRORS] for _, caller in by]
            self._raise(called, Channel.ERRORS, max(errors))
            self._raise(called, Channel.SEQUENCE, sum(sorted((strength for strength, _ in by), reverse=True)[:2]))
            for _, caller in by:
                self._pass_on(caller, called)

    def _pass_on(self, caller: str, called: str) -> None:
        """Put what a caller shows down to whom it does not reach."""
        channels, strengths = (Channel.ERRORS, Channel.SEQUENCE), self.strengths[caller]
        for channel in channels:
            strengths[channel] = strengths.get(channel, 0.0) * (1 - EXPLAINED)
        shown = [one for one in self.evidence.get(caller, ()) if one.channel in channels]
        for one in _strongest(shown)[:1]:
            text = f"{caller} does not call {called} any more and fails: {one.text}"
            self._tell(replace(one, service=called, caller=caller, callee=called, text=text))

    def _blamed(
        self, new: dict[str, float], mixed: dict[str, float], cut: Mapping[tuple[str, str], float]
    ) -> dict[str, float]:
        callers: dict[str, list[tuple[float, str]]] = {}
        for (caller, called), strength in cut.items():
            callers.setdefault(called, []).append((strength, caller))
        for called, by in callers.items():
            strongest = sorted((strength for strength, _ in by), reverse=True)
            if len(by) >= 2 and new.get(called, 0.0) < strongest[0]:
                new[called] = new.get(called, 0.0) + sum(strongest[:2])
            for strength, caller in by:
                new[caller] = max(new.get(caller, 0.0), strength)
        raw = {service: max(new.get(service, 0.0), mixed.get(service, 0.0)) for service in {*new, *mixed}}
        called_by: dict[str, set[str]] = {}
        for caller, callees in self.calls.items():
            for callee in callees:
                called_by.setdefault(callee, set()).add(caller)
        blamed = {}
        for service, strength in raw.items():
            left = strength - EXPLAINED * _highest(new, self.calls.get(service, ()), service, strength)
            if mixed.get(service, 0.0) > new.get(service, 0.0):
                left -= EXPLAINED * _highest(raw, called_by.get(service, ()), service, mixed[service])
            blamed[service] = left
        return blamed

    def _called(self, service: int, code: int) -> str:
        """Whom an event calls, "" if it calls nobody."""
        kind, of, name = event_parts(code)
        if kind != CHILD:
            return ""
        called = of if of != service else self.callee_of.get((of, name), 0)
        return self.wording.service(called) if called else ""

    def _event(self, code: int, after_a: int) -> str:
        """A step inside an operation, in words."""
        before = "at once" if after_a == START else f"after {self._named(after_a)}"
        return f"ends {before}" if code == END else f"goes on with {self._named(code)} {before}"

    def _named(self, code: int) -> str:
        kind, of, what = event_parts(code)
        if kind == CHILD:
            return f"`{self.wording.operation(what)}` ({self.wording.service(of)})"
        return f'the log "{self.wording.template(what)}"' if kind == LOG else f"the event {self.wording.word(what)}"

    # -- logs ---------------------------------------------------------------------------------------------------------

    def logs(self) -> None:
        """Warnings and errors that are new or come more often."""
        found = departures(self.behaviour.logs, self.first, self.last, self.least_usual)
        who, _, severe = context_parts(found.context)
        for k in np.flatnonzero(severe == 1).tolist():
            service, text = self.wording.service(int(who[k])), self.wording.template(int(found.outcome[k]))
            self._raise(service, Channel.LOGS, LOG_WEIGHT * float(found.strength[k]))
            traces = _traces(self.behaviour.logs, int(found.cell[k]))
            self._tell(_more_often(found, k, service, Channel.LOGS, text, f'"{text}" is logged', traces=traces))


def _slower(
    found: Shifts, k: int, service: str, name: str, callee: str, strength: float, tally: Tally, caller: str = ""
) -> Evidence:
    before, after, count = float(found.before[k]), float(found.after[k]), int(found.count[k])
    what = f"`{name}` of {caller or service}"
    what += f" waits for {callee}" if callee else " takes"
    share = float(found.share[k])
    usual, part = ("at most ", f" in {_percent(share)} of cases") if share < 1 else ("", "")
    return Evidence(
        channel=Channel.NETWORK if callee else Channel.LATENCY,
        service=service,
        what=name,
        before=before / 1e3,
        after=after / 1e3,
        unit="s",
        count=count,
        strength=strength,
        caller=caller,
        callee=callee,
        traces=_traces(tally, int(found.cell[k])),
        text=f"{what} {_ms(after)} instead of {usual}{_ms(before)}{part}, without what others explain ({count} times)",
    )


def _more_often(
    found: Departures,
    k: int,
    service: str,
    channel: Channel,
    name: str,
    what: str,
    *,
    caller: str = "",
    callee: str = "",
    traces: tuple[str, ...] = (),
) -> Evidence:
    before, after = float(found.usual[k] / found.usual_all[k]), float(found.now[k] / found.now_all[k])
    count = int(found.now[k])
    return Evidence(
        channel=channel,
        service=service,
        what=name,
        before=before,
        after=after,
        unit="1",
        count=count,
        strength=float(found.strength[k]),
        caller=caller if callee else "",
        callee=callee,
        traces=traces,
        text=f"{what} in {_percent(after)} of cases instead of {_percent(before)} ({count} times)",
    )


def _traces(tally: Tally, cell: int) -> tuple[str, ...]:
    high, low = tally.example[cell].tolist()
    return (f"{high:016x}{low:016x}",) if high or low else ()


def _strongest(found: Iterable[Evidence]) -> list[Evidence]:
    """The strongest first, each thing once."""
    best: dict[tuple[str, ...], Evidence] = {}
    for one in sorted(found, key=lambda one: -one.strength):
        slow = one.channel in (Channel.LATENCY, Channel.NETWORK)  # these are looked at in two ways
        best.setdefault((one.channel, one.what, one.caller, one.callee, "" if slow else one.text), one)
    return list(best.values())


def _best(strengths: Mapping[str, list[float]]) -> dict[str, float]:
    return {service: float(np.mean(found[:BEST])) for service, found in strengths.items()}


def _highest(of: Mapping[str, float], services: Iterable[str], but: str, most: float) -> float:
    return max([min(of.get(service, 0.0), most) for service in services if service != but], default=0.0)


def _ms(value: float) -> str:
    return f"{value:.3g} ms" if value < 1e3 else f"{value / 1e3:.3g} s"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"
