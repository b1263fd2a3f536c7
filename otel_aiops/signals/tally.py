"""Tally: how often which outcome came in which context, usually and of late; the memory of traces, calls and logs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.errors import StateError
from otel_aiops.otlp.points import F64, I64, Bool
from otel_aiops.series.columns import Arrays, checked

U64 = NDArray[np.uint64]

LEAST = 0.05  # a cell that is expected less often may be forgotten when room is needed
ROOM = 0.9  # share of the cells that may stay then
PAIR_BITS = 32  # a cell is the number of its context and that of its outcome in one int64
PAIR_MASK = (1 << PAIR_BITS) - 1


@dataclass(frozen=True, slots=True)
class Slot:
    """What came in one slot of event time: cells and counts, (C,) each; each cell once."""

    number: int
    cells: I64
    counts: F64


class Keys:
    """Numbers of int64 keys, in the order in which they came, found all at once."""

    def __init__(self, keys: I64 | None = None) -> None:
        self._take(np.empty(0, np.int64) if keys is None else keys.copy())

    def __len__(self) -> int:
        return len(self.by_number)

    def find(self, keys: I64) -> I64:
        """The numbers of N keys, -1 for those that have none, (N,)."""
        if not len(self.by_number):
            return np.full(len(keys), -1, np.int64)
        at = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        return np.where(self._sorted[at] == keys, self._order[at], -1).astype(np.int64)

    def add(self, keys: I64) -> None:
        """Give numbers to the keys that have none."""
        new = np.setdiff1d(keys, self.by_number)
        if len(new):
            self._take(np.concatenate([self.by_number, new]))

    def _take(self, keys: I64) -> None:
        self.by_number = keys
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]


class Tally:
    """Counts in cells of (context, outcome), by slots of event time.

    Contexts and outcomes are any int64: the caller packs into them what they stand for. `usual` is a decayed count: it
    forgets with the time in which its context was active, so that a night without requests forgets nothing. Slots are
    learned when the caller says that they were normal, and never before. The last example of each cell is kept: the two
    halves of a trace id, 0 where there is none.

    Shape: `context_number`, `outcome`, `usual` are (C,) by cell; what is over `most_cells` only counts in `refused`,
    what comes too late in `late`.
    """

    def __init__(self, *, slot_s: float, kept_slots: int, half_life_s: float, most_cells: int) -> None:
        self.slot_s = slot_s
        self.refused = 0
        self.late = 0
        self._kept = kept_slots
        self.decay = 0.5 ** (slot_s / half_life_s)  # of what is usual, for each slot in which its context is active
        self._most = most_cells
        self._contexts, self._outcomes, self._pairs = Keys(), Keys(), Keys()
        self._learned_slots = np.empty(0, np.float64)  # of each context by number
        self._usual = np.empty(0, np.float64)
        self._example = np.empty((0, 2), np.uint64)
        self._slots: deque[Slot] = deque()
        self._learned = -1  # newest slot that was learned or passed over

    def __len__(self) -> int:
        return len(self._usual)

    @property
    def contexts(self) -> I64:
        """The key of each context, by number. Not for changing."""
        return self._contexts.by_number

    @property
    def context_number(self) -> I64:
        """The number of each cell's context, (C,)."""
        number: I64 = self._pairs.by_number >> PAIR_BITS
        return number

    @property
    def outcome(self) -> I64:
        """The outcome of each cell, (C,)."""
        found: I64 = self._outcomes.by_number[self._pairs.by_number & PAIR_MASK]
        return found

    @property
    def usual(self) -> F64:
        """How often each cell came in what was learned, (C,), decayed."""
        return self._usual

    @property
    def example(self) -> U64:
        """The last trace id of each cell, (C, 2)."""
        return self._example

    @property
    def experience_s(self) -> F64:
        """Seconds of activity that were learned of each context, by number."""
        return self._learned_slots * self.slot_s

    def usual_rate(self) -> F64:
        """How often each context usually comes in a slot in which it comes at all, by number."""
        rate: F64 = self.per_context(self._usual) / self._weight()
        return rate

    def expected(self, first: int, last: int) -> F64:
        """How often each cell usually comes in so many slots as its context came in from `first` to `last`, (C,)."""
        active = np.zeros(len(self.contexts))
        for slot in self.slots(first, last):
            active[np.unique(self.context_number[slot.cells])] += 1
        counts: F64 = self._usual * (active / self._weight())[self.context_number]
        return counts

    def _weight(self) -> F64:
        """Of the slots that were learned of each context, the oldest decayed most; at least 1."""
        weight: F64 = np.maximum((1 - self.decay**self._learned_slots) / (1 - self.decay), 1.0)
        return weight

    def slot_of(self, time_ns: int) -> int:
        """The slot of an event time."""
        return int(time_ns // int(self.slot_s * 1e9))

    # -- counting -----------------------------------------------------------------------------------------------------

    def add(self, slots: I64, contexts: I64, outcomes: I64, examples: U64) -> None:
        """Count N outcomes, (N,) each; `examples` is (N, 2).

        Those of slots that are learned already, or kept no more, are left out. No slot may be ahead of the time that
        it is, or all that come after it would be late.
        """
        fresh = slots > max(self._learned, self.newest - self._kept)
        if not fresh.all():
            self.late += int((~fresh).sum())
            slots, contexts, outcomes, examples = slots[fresh], contexts[fresh], outcomes[fresh], examples[fresh]
        if not len(slots):
            return
        cells = self._cells(contexts, outcomes)
        known = cells >= 0
        if not known.all():
            self.refused += int((~known).sum())
            slots, cells, examples = slots[known], cells[known], examples[known]
        self._example[cells] = examples
        for number in np.unique(slots).tolist():
            self._put(number, cells[slots == number])
        while self._slots and self._slots[0].number <= self.newest - self._kept:
            self._slots.popleft()

    @property
    def newest(self) -> int:
        """The newest slot in which anything came; -1 before."""
        return self._slots[-1].number if self._slots else -1

    def _put(self, number: int, cells: I64) -> None:
        counts: F64 = np.bincount(cells, minlength=len(self._usual)).astype(np.float64)
        for k in range(len(self._slots) - 1, -1, -1):
            slot = self._slots[k]
            if slot.number == number:
                counts[slot.cells] += slot.counts
                self._slots[k] = _slot(number, counts)
                return
            if slot.number < number:
                self._slots.insert(k + 1, _slot(number, counts))
                return
        self._slots.appendleft(_slot(number, counts))

    def per_context(self, counts: F64) -> F64:
        """Sums of (C,) counts by context, in order of their numbers."""
        return np.bincount(self.context_number, counts, len(self._contexts)).astype(np.float64)

    def window(self, first: int, last: int) -> F64:
        """Counts of each cell in the slots `first` .. `last`, both included, (C,)."""
        counts = np.zeros(len(self._usual))
        for slot in self.slots(first, last):
            counts[slot.cells] += slot.counts
        return counts

    def slots(self, first: int, last: int) -> Iterator[Slot]:
        """Those of the slots `first` .. `last` in which anything came, in order."""
        return (slot for slot in self._slots if first <= slot.number <= last)

    def unlearned(self, last: int) -> Iterator[Slot]:
        """The slots up to `last` that are not learned yet, in order."""
        return self.slots(self._learned + 1, last)

    # -- learning -----------------------------------------------------------------------------------------------------

    def learn(self, last: int, blocked: Bool | None = None) -> None:
        """Take the slots up to `last` for normal, but those of contexts that are `blocked` (by number)."""
        for slot in self.unlearned(last):
            self._learn(slot, blocked)
        self._learned = max(self._learned, last)

    def _learn(self, slot: Slot, blocked: Bool | None) -> None:
        context = self.context_number[slot.cells]
        cells, counts = slot.cells, slot.counts
        if blocked is not None:
            free = ~blocked[context] if len(blocked) else np.ones(len(context), bool)
            cells, counts, context = cells[free], counts[free], context[free]
        active = np.zeros(len(self._learned_slots), bool)
        active[context] = True
        self._usual[active[self.context_number]] *= self.decay
        self._usual[cells] += counts
        self._learned_slots[active] += 1

    # -- cells --------------------------------------------------------------------------------------------------------

    def _cells(self, contexts: I64, outcomes: I64) -> I64:
        """The cells of N pairs, -1 where there is no room for a new one."""
        cells = self._find(contexts, outcomes)
        missing = np.flatnonzero(cells < 0)
        if len(missing):
            self._make(contexts[missing], outcomes[missing])
            cells = self._find(contexts, outcomes)
        return cells

    def _find(self, contexts: I64, outcomes: I64) -> I64:
        context, outcome = self._contexts.find(contexts), self._outcomes.find(outcomes)
        known = (context >= 0) & (outcome >= 0)
        return np.where(known, self._pairs.find(context << PAIR_BITS | outcome & PAIR_MASK), -1)

    def _make(self, contexts: I64, outcomes: I64) -> None:
        """Cells for pairs that have none, as far as there is room."""
        distinct = np.unique(np.stack([contexts, outcomes], 1), axis=0)
        if len(distinct) > self._most - len(self._usual):
            self._forget()
            distinct = distinct[: self._most - len(self._usual)]
        if not len(distinct):
            return
        self._contexts.add(distinct[:, 0])
        self._outcomes.add(distinct[:, 1])
        self._pairs.add(self._contexts.find(distinct[:, 0]) << PAIR_BITS | self._outcomes.find(distinct[:, 1]))
        self._learned_slots = _longer(self._learned_slots, len(self._contexts))
        self._usual = _longer(self._usual, len(self._pairs))
        self._example = _longer(self._example, len(self._pairs))

    def _forget(self) -> None:
        """Forget the cells that are expected least, and contexts without any."""
        used = np.zeros(len(self._usual), bool)
        for slot in self._slots:
            used[slot.cells] = True
        rare = np.flatnonzero(~used)
        rare = rare[np.argsort(self._usual[rare], kind="stable")]
        least = int((self._usual[rare] < LEAST).sum())
        keep = np.ones(len(self._usual), bool)
        keep[rare[: max(least, len(self._usual) - int(self._most * ROOM))]] = False
        number = np.cumsum(keep) - 1
        self._slots = deque(Slot(slot.number, number[slot.cells], slot.counts) for slot in self._slots)
        self._usual, self._example = self._usual[keep], self._example[keep]
        alive, context = np.unique(self.context_number[keep], return_inverse=True)
        seen, outcome = np.unique(self._pairs.by_number[keep] & PAIR_MASK, return_inverse=True)
        self._contexts, self._outcomes = Keys(self.contexts[alive]), Keys(self._outcomes.by_number[seen])
        self._pairs = Keys(context.astype(np.int64) << PAIR_BITS | outcome)
        self._learned_slots = self._learned_slots[alive]

    # -- state --------------------------------------------------------------------------------------------------------

    def state(self) -> Arrays:
        """Everything counted, as arrays."""
        return {
            "clock": np.array([self._learned, self.refused, self.late], np.int64),
            "contexts": self._contexts.by_number.copy(),
            "outcomes": self._outcomes.by_number.copy(),
            "pairs": self._pairs.by_number.copy(),
            "learned_slots": self._learned_slots.copy(),
            "usual": self._usual.copy(),
            "example": self._example.copy(),
            "slot_number": np.array([slot.number for slot in self._slots], np.int64),
            "slot_size": np.array([len(slot.cells) for slot in self._slots], np.int64),
            "slot_cells": np.concatenate([np.empty(0, np.int64), *(slot.cells for slot in self._slots)]),
            "slot_counts": np.concatenate([np.empty(0), *(slot.counts for slot in self._slots)]),
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        checked(arrays, _SAVED)
        pairs, cells, sizes = arrays["pairs"], arrays["slot_cells"], arrays["slot_size"]
        for name, found, most in (
            ("contexts of pairs", pairs >> PAIR_BITS, len(arrays["contexts"])),
            ("outcomes of pairs", pairs & PAIR_MASK, len(arrays["outcomes"])),
            ("slot_cells", cells, len(pairs)),
        ):
            if len(found) and not 0 <= int(found.min()) <= int(found.max()) < most:
                raise StateError(f"{name}: expected numbers in [0, {most}), got {found.min()} to {found.max()}")
        if int(sizes.sum()) != len(cells) or (len(sizes) and sizes.min() < 0):
            raise StateError(f"slot_size: expected a sum of {len(cells)}, got {int(sizes.sum())}")
        self._learned, self.refused, self.late = map(int, arrays["clock"])
        self._contexts, self._outcomes, self._pairs = (Keys(arrays[name]) for name in ("contexts", "outcomes", "pairs"))
        self._learned_slots, self._usual = arrays["learned_slots"].copy(), arrays["usual"].copy()
        self._example = arrays["example"].copy()
        ends = np.cumsum(sizes)
        self._slots = deque(
            Slot(number, cells[a:b].copy(), arrays["slot_counts"][a:b].copy())
            for number, a, b in zip(arrays["slot_number"].tolist(), (ends - sizes).tolist(), ends.tolist(), strict=True)
        )


_SAVED: dict[str, tuple[Any, tuple[int | str, ...]]] = {
    "clock": (np.int64, (3,)),
    "contexts": (np.int64, ("K",)),
    "outcomes": (np.int64, ("O",)),
    "pairs": (np.int64, ("C",)),
    "learned_slots": (np.float64, ("K",)),
    "usual": (np.float64, ("C",)),
    "example": (np.uint64, ("C", 2)),
    "slot_number": (np.int64, ("S",)),
    "slot_size": (np.int64, ("S",)),
    "slot_cells": (np.int64, ("E",)),
    "slot_counts": (np.float64, ("E",)),
}


def _slot(number: int, counts: F64) -> Slot:
    cells = np.flatnonzero(counts).astype(np.int64)
    return Slot(number, cells, counts[cells])


def _longer(array: NDArray[Any], size: int) -> NDArray[Any]:
    return np.concatenate([array, np.zeros((size - len(array), *array.shape[1:]), array.dtype)])
