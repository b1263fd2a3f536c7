"""Busiest: slots for the keys with most traffic, a fixed number of them; the others share slots of their owners."""

from __future__ import annotations

import numpy as np

from otel_aiops.errors import StateError
from otel_aiops.otlp.points import F64, I64, Bool
from otel_aiops.series.columns import Arrays, checked

FREE = -1  # of a slot that no key has
FADE = 0.9  # of traffic, from window to window: half of it is gone after seven
BUSIER = 2.0  # so much more traffic must a waiting key have than the one whose slot it takes
SWAPPED = 0.01  # of all slots may begin to be given away at the end of a window


class Busiest:
    """Which of at most `most` slots a key has. Keys are int64 >= 0.

    While there is room every key gets a slot. When there is none, keys wait (as many as there are slots), and one that
    has twice the traffic of the weakest holder takes its slot: that holder leaves at once, and the slot is free when
    `rest` windows have ended, in which what was counted in it is still told. A key without traffic for `keep` windows
    loses its slot as well. `keep` is larger than `rest`.
    """

    def __init__(self, most: int, *, keep: int, rest: int) -> None:
        self._keep, self._rest = keep, rest
        self.key: I64 = np.full(most, FREE, np.int64)
        self._traffic: F64 = np.zeros(most)
        self._idle: I64 = np.zeros(most, np.int64)
        self._leaving: I64 = np.zeros(most, np.int64)  # windows until the slot is free, 0 when it is not leaving
        self._slot: dict[int, int] = {}
        self._waiting: dict[int, float] = {}

    def __len__(self) -> int:
        """Keys that have a slot and are not leaving."""
        return len(self._slot)

    def find(self, keys: I64, traffic: F64) -> I64:
        """The slots of K distinct keys that had so much traffic, (K,); -1 where there is no room."""
        slots = np.array([self._find(key) for key in keys.tolist()], np.int64)
        found = slots >= 0
        some = slots if found.all() else slots[found]
        self._traffic[some] += traffic if found.all() else traffic[found]
        self._idle[some] = 0
        if not found.all():
            self._wait(keys[~found], traffic[~found])
        return slots

    def alive(self) -> Bool:
        """Which slots have a key that is not leaving."""
        found: Bool = (self.key != FREE) & (self._leaving == 0)
        return found

    def roll(self, *, promote: bool = True) -> I64:
        """End a window; the slots that lose their key with it, of which nothing will be told any more.

        Without `promote` nobody is made to leave: for when more than `rest` windows are behind.
        """
        alive = self.alive()
        self._idle[alive] += 1
        self._traffic *= FADE
        ended = self._leaving == 1
        self._leaving[self._leaving > 0] -= 1
        idle = np.flatnonzero(alive & (self._idle > self._keep))
        for slot in idle.tolist():
            del self._slot[int(self.key[slot])]
        freed = np.concatenate([np.flatnonzero(ended), idle])
        self.key[freed] = FREE
        self._traffic[freed] = 0.0
        if promote:
            self._promote()
        return freed

    def _find(self, key: int) -> int:
        slot = self._slot.get(key, FREE)
        if slot == FREE and len(self._slot) < len(self.key):
            free = np.flatnonzero((self.key == FREE) | (self.key == key))
            # A key that is leaving has a slot still, and gets no other beside it.
            return self._take(key, int(free[0])) if len(free) and not (self.key[free] == key).any() else FREE
        return slot

    def _take(self, key: int, slot: int) -> int:
        self.key[slot], self._slot[key] = key, slot
        self._traffic[slot], self._idle[slot] = 0.0, 0
        self._waiting.pop(key, None)
        return slot

    def _wait(self, keys: I64, traffic: F64) -> None:
        for key, amount in zip(keys.tolist(), traffic.tolist(), strict=True):
            if key in self._waiting or len(self._waiting) < len(self.key):
                self._waiting[key] = self._waiting.get(key, 0.0) + amount

    def _promote(self) -> None:
        """Give free slots to the busiest keys that wait, and let the weakest holders leave for the next ones."""
        if not self._waiting:
            return
        best = sorted(self._waiting.items(), key=lambda item: (-item[1], item[0]))
        free = np.flatnonzero(self.key == FREE).tolist()
        held = set(self.key.tolist())
        for (key, traffic), slot in zip([one for one in best if one[0] not in held], free, strict=False):
            self._traffic[self._take(key, slot)] = traffic
        rivals = [one for one in best if one[0] in self._waiting][int((self._leaving > 0).sum()) :]
        rivals = rivals[: max(1, int(SWAPPED * len(self.key)))]
        holders = np.flatnonzero(self.alive())
        weakest = holders[np.lexsort((self.key[holders], self._traffic[holders]))[: len(rivals)]]
        for (_, traffic), slot in zip(rivals, weakest.tolist(), strict=False):
            if traffic * FADE > BUSIER * self._traffic[slot]:
                del self._slot[int(self.key[slot])]
                self._leaving[slot] = self._rest
        self._waiting = {key: traffic * FADE for key, traffic in self._waiting.items() if traffic > BUSIER}

    def state(self) -> Arrays:
        """Who has which slot, and who waits."""
        return {
            "key": self.key.copy(),
            "traffic": self._traffic.copy(),
            "idle": self._idle.copy(),
            "leaving": self._leaving.copy(),
            "waiting_key": np.array(list(self._waiting), np.int64),
            "waiting_traffic": np.array(list(self._waiting.values()), np.float64),
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over a state of as many slots. Raises: StateError."""
        slots = len(self.key)
        checked(
            arrays,
            {
                "key": (np.int64, (slots,)),
                "traffic": (np.float64, (slots,)),
                "idle": (np.int64, (slots,)),
                "leaving": (np.int64, (slots,)),
                "waiting_key": (np.int64, ("W",)),
                "waiting_traffic": (np.float64, ("W",)),
            },
        )
        self.key, self._traffic = arrays["key"].copy(), arrays["traffic"].copy()
        self._idle, self._leaving = arrays["idle"].copy(), arrays["leaving"].copy()
        alive = np.flatnonzero(self.alive())
        self._slot = dict(zip(self.key[alive].tolist(), alive.tolist(), strict=True))
        if len(self._slot) != len(alive):
            raise StateError(f"expected {len(alive)} different keys, got {len(self._slot)}")
        waiting = zip(arrays["waiting_key"].tolist(), arrays["waiting_traffic"].tolist(), strict=True)
        self._waiting = dict(waiting)


class Folded:
    """Slots of the busiest keys, and behind them slots that all other keys of one owner share.

    What finds no room there either is counted by the caller: its slot is -1.
    """

    def __init__(self, most: int, shared: int, *, keep: int, rest: int) -> None:
        self._most = most
        self._own = Busiest(most, keep=keep, rest=rest)
        self._shared = Busiest(shared, keep=keep, rest=rest)
        self.size = most + shared

    def find(self, keys: I64, owners: I64, traffic: F64) -> I64:
        """The slots of K distinct keys, (K,); `owners` are the keys under which they are folded."""
        slots = self._own.find(keys, traffic)
        over = np.flatnonzero(slots < 0)
        if len(over):
            folded, which = np.unique(owners[over], return_inverse=True)
            found = self._shared.find(folded, np.bincount(which, traffic[over], len(folded)).astype(np.float64))
            slots[over] = np.where(found >= 0, found + self._most, FREE)[which]
        return slots

    @property
    def key(self) -> I64:
        """The key of each slot, -1 of those that are free."""
        return np.concatenate([self._own.key, self._shared.key])

    def roll(self, *, promote: bool) -> I64:
        """End a window; the slots that lose their key with it. See `Busiest.roll`."""
        own = self._own.roll(promote=promote)
        return np.concatenate([own, self._shared.roll(promote=promote) + self._most])

    def state(self) -> Arrays:
        """Both kinds of slots."""
        parts = {"own": self._own, "shared": self._shared}
        return {f"{part}_{name}": array for part, slots in parts.items() for name, array in slots.state().items()}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        for prefix, slots in (("own_", self._own), ("shared_", self._shared)):
            found = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            slots.restore(found)
