"""Behaviour: how long services take, whom they call, in what order, and what fails; usually, and of late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otel_aiops.errors import ConfigError
from otel_aiops.incidents.alike import Alike
from otel_aiops.otlp.points import I32, I64, Bool
from otel_aiops.otlp.spans import PeerKind
from otel_aiops.series.columns import Arrays, checked
from otel_aiops.signals.events import LogEvents
from otel_aiops.signals.tally import Keys, Tally
from otel_aiops.signals.trees import END, START, Trees

U64 = NDArray[np.uint64]

SLOT_S = 5.0
LATE_SLOTS = 3  # what came longer ago and is complete only now is news of now
MOST_LATE_SLOTS = 24  # but what is older is of the past
BINS = 200  # of exclusive time, each a tenth longer than the one before
GROWTH = float(np.log(1.1))
SHORTEST_NS = 1_000.0

FINE, OWN, PASSED_ON, UNREACHED = 0, 1, 2, 3  # outcomes of spans: no error, its own, of what it called, nothing there

MOST_NUMBER = 0xFFFF  # of an operation inside a context
SEVERE = 13  # WARN, the least severity of a record that counts in another column than the rest


@dataclass(frozen=True, slots=True)
class BehaviourConfig:
    """How much is remembered of what services do."""

    half_life: float = 1800.0  # s of activity after which what was usual weighs half
    settle: float = 90.0  # s until a slot is learned, if nothing has turned out to be wrong with it
    window: float = 300.0  # s that are kept to rank causes with
    max_cells: int = 300_000  # of each kind of count; a cell is an outcome in a context

    def __post_init__(self) -> None:
        for name in ("half_life", "settle", "window"):
            if getattr(self, name) < SLOT_S:
                raise ConfigError(name, f"must be >= {SLOT_S:g} s, got {getattr(self, name)}")
        if self.max_cells < 1000:
            raise ConfigError("max_cells", f"must be >= 1000, got {self.max_cells}")


def context_of(service: I32 | I64, operation: I32 | I64, what: I32 | I64) -> I64:
    """Contexts of (service, operation, callee or event), (N,)."""
    packed: I64 = service.astype(np.int64) << 48 | operation.astype(np.int64) << 32 | what.astype(np.int64)
    return packed


def context_parts(context: I64) -> tuple[I64, I64, I64]:
    """(service, operation, what) of contexts."""
    return context >> 48, context >> 32 & MOST_NUMBER, context & 0xFFFFFFFF


class Behaviour:
    """Counts of four kinds, each in contexts of one service.

    `latency`: bins of exclusive time by (service, operation, callee). `failures`: FINE, OWN, PASSED_ON or UNREACHED by
    the same. `paths`: what follows what inside a span, by (service, operation, event); events by number in `events`.
    `logs`: templates by (service, 0, 1 for warnings and worse).
    """

    def __init__(self, config: BehaviourConfig) -> None:
        self.config = config
        made = [
            Tally(
                slot_s=SLOT_S,
                kept_slots=int((config.window + config.settle) / SLOT_S) + 2,
                half_life_s=config.half_life,
                most_cells=config.max_cells,
            )
            for _ in range(4)
        ]
        self.latency, self.failures, self.paths, self.logs = made
        self.alike = Alike(self.latency.decay)
        self.events = Keys(np.array([START, END], np.int64))

    @property
    def tallies(self) -> dict[str, Tally]:
        """All kinds by name."""
        return {"latency": self.latency, "failures": self.failures, "paths": self.paths, "logs": self.logs}

    @property
    def refused(self) -> int:
        """Outcomes that were not counted because there was no room for new cells."""
        return sum(tally.refused for tally in self.tallies.values())

    @property
    def late(self) -> int:
        """Spans and records that came after their slot was learned."""
        return self.failures.late + self.logs.late

    # -- counting -----------------------------------------------------------------------------------------------------

    def add(self, trees: Trees, event_ns: int) -> None:
        """Count the spans of complete traces at an event time; those that are late, or ahead, count as of now."""
        slots = self._slots(trees.end_ns, event_ns)
        operation = np.minimum(trees.operation, MOST_NUMBER)
        contexts = context_of(trees.service, operation, waits_for(trees))
        examples = np.stack([trees.trace_high, trees.trace_low], 1)
        self.latency.add(slots, contexts, bins_of(trees.exclusive_ns), examples)
        self.failures.add(slots, contexts, outcomes_of(trees), examples)
        of, before, after = steps_of(trees)
        self.events.add(np.concatenate([before, after]))
        before, after = self.events.find(before), self.events.find(after)
        paths = context_of(trees.service[of], operation[of], before)
        self.paths.add(slots[of], paths, after, examples[of])

    def add_logs(self, events: LogEvents, event_ns: int) -> None:
        """Count log records by template, in the same way."""
        severe = (events.severity >= SEVERE).astype(np.int64)
        contexts = context_of(events.service, np.zeros(len(events), np.int64), severe)
        slots = self._slots(events.time_ns, event_ns)
        examples = np.stack([events.trace_high, events.trace_low], 1)
        self.logs.add(slots, contexts, events.template.astype(np.int64), examples)

    def learn(self, event_ns: int, blocked: Callable[[I64], Bool] | None) -> None:
        """Take what has settled for normal, but that of services that are `blocked` (numbers in, mask out)."""
        last = self.slot(event_ns - int(self.config.settle * 1e9))
        self.alike.learn(self.latency, last, blocked(self.latency.contexts >> 48) if blocked else None)
        for tally in self.tallies.values():
            tally.learn(last, blocked(tally.contexts >> 48) if blocked else None)

    def _slots(self, time_ns: I64, event_ns: int) -> I64:
        now, slots = self.slot(event_ns), time_ns // int(SLOT_S * 1e9)
        late = (slots < now - LATE_SLOTS) & (slots >= now - MOST_LATE_SLOTS)
        found: I64 = np.where(late, now - 1, np.minimum(slots, now))
        return found

    @staticmethod
    def slot(time_ns: int) -> int:
        """The slot of an event time."""
        return time_ns // int(SLOT_S * 1e9)

    # -- state --------------------------------------------------------------------------------------------------------

    def state(self) -> Arrays:
        """Everything counted, as arrays."""
        arrays = {f"{name}/{key}": array for name, one in self.tallies.items() for key, array in one.state().items()}
        arrays |= {f"alike/{key}": array for key, array in self.alike.state().items()}
        return {**arrays, "events": self.events.by_number.copy()}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        rest = dict(arrays)
        events = {"events": rest.pop("events", np.empty(0))}
        checked(events, {"events": (np.int64, ("N",))})
        self.events = Keys(events["events"])
        owners: dict[str, Tally | Alike] = {**self.tallies, "alike": self.alike}
        for name, one in owners.items():
            part = name + "/"
            one.restore({key.removeprefix(part): array for key, array in rest.items() if key.startswith(part)})


def bins_of(exclusive_ns: NDArray[np.float64]) -> I64:
    """Bins of times, (N,)."""
    places = np.log(np.maximum(exclusive_ns, SHORTEST_NS) / SHORTEST_NS) / GROWTH
    return np.clip(places, 0, BINS - 1).astype(np.int64)


def waits_for(trees: Trees) -> I32:
    """The callee whose answer each span waits for, 0 for none, (N,): who works off a message waits for no queue."""
    works_off = trees.entry & ((trees.parent >= 0) | trees.orphan) & (trees.callee_kind == PeerKind.MESSAGING)
    return np.where(works_off, 0, trees.callee).astype(np.int32)


def outcomes_of(trees: Trees) -> I64:
    """What became of each span, (N,): an error that a child has too is passed on, and one of a call whose other side
    sent nothing is of the callee.
    """
    failed = np.zeros(len(trees), bool)
    child = np.flatnonzero(trees.parent >= 0)
    failed[trees.parent[child[trees.error[child]]]] = True
    unreached = (waits_for(trees) > 0) & np.isnan(trees.gap_ns)
    outcome = np.where(failed, PASSED_ON, np.where(unreached, UNREACHED, OWN))
    return np.where(trees.error, outcome, FINE).astype(np.int64)


def steps_of(trees: Trees) -> tuple[I64, I64, I64]:
    """(span, event, next event) of all steps inside spans: START, then its events in order, then END."""
    spans, events = len(trees), len(trees.event)
    every = np.arange(spans)
    owner = np.concatenate([trees.event_span, every, every])
    place = np.concatenate([np.arange(1, events + 1), np.zeros(spans, np.int64), np.full(spans, events + 1)])
    code = np.concatenate([trees.event, np.full(spans, START), np.full(spans, END)])
    order = np.lexsort((place, owner))
    owner, code = owner[order], code[order]
    same = owner[1:] == owner[:-1]
    return owner[:-1][same], code[:-1][same], code[1:][same]
