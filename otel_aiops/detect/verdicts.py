"""Verdicts: what operators said of alerts moves the threshold of a series, and a little those of its group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.series.columns import Arrays, Columns, checked

KINDS = ("true_alert", "false_alert", "missed", "duplicate", "expected")
TRUE_ALERT, FALSE_ALERT, MISSED, DUPLICATE, EXPECTED = range(len(KINDS))
SHORT = {"real": KINDS[TRUE_ALERT], "false": KINDS[FALSE_ALERT]}  # what people may say too
TEACHING = KINDS[:3]  # a duplicate says nothing of the threshold, nor does what is strange and wanted
MOST_SHIFT = 1.2  # of the logarithm of a threshold
SHIFTS = np.linspace(-MOST_SHIFT, MOST_SHIFT, 25)
FALSE_COST = 0.4  # of a false alert, in missed ones: what the F1 measure charges at an F1 of 0.6
WIDTH = 0.1  # of the logarithm of a score: how nearly a verdict holds for scores beside it
SPREAD = 0.6  # of the shifts of series around that of their group, and of groups around the objective's threshold
FARTHEST = 1.5  # logarithm of score to threshold; what is farther off cannot be reached by any shift


class Verdicts:
    """Shifts of the logarithms of thresholds, by row, from verdicts.

    For each of 25 shifts stands what the verdicts on a series would have cost under it: a true alert or a missed
    anomaly costs 1 where the threshold is above its score, a false alert 0.4 where it is below, with a soft edge. The
    shift is the posterior mean with exp(-cost) as likelihood; the prior is normal around the mean of the other series
    of the group (same metric name), and that one around 0, the threshold of the objective. So one verdict moves a
    threshold a little, and verdicts of other series less. 4 bytes a row besides 108 for one with verdicts.
    Source: Zhang, From epsilon-entropy to KL-entropy, 2006 (Gibbs posterior: a loss in place of a likelihood).
    """

    def __init__(self) -> None:
        self._rows = Columns({"slot": (np.int32, (), -1), "group": (np.int32, (), -1)})
        self._slots = Columns(
            {
                "row": (np.int32, (), -1),
                "verdicts": (np.int32, (), 0),
                "cost": (np.float64, (len(SHIFTS),), 0),
                "shift": (np.float64, (), 0),
            }
        )
        self._groups = Columns({"shift": (np.float64, (), 0)})
        self._size = self._used = self._most_group = 0
        self._free: list[int] = []

    def __len__(self) -> int:
        """How many series have verdicts."""
        return self._used - len(self._free)

    def assign(self, rows: I32, groups: I32) -> None:
        """Rows belong to groups, by number. After a restore every row is assigned again, in its old group."""
        self._reserve(rows)
        self._rows.of["group"][rows] = groups
        self._most_group = max(self._most_group, int(groups.max(initial=-1)) + 1)
        self._groups.reserve(self._most_group)

    def learn(self, rows: I32, ratio: F64, kind: I64) -> None:
        """Take in J verdicts of a KIND each; `ratio` is the alert score in unmoved thresholds of the objective.

        The order of verdicts does not matter but in last digits.
        """
        if not len(rows):
            return
        self._reserve(rows)
        slots = self._slots_of(rows)
        far = np.clip(np.log(np.maximum(np.nan_to_num(ratio, nan=0.0), 1e-9)), -FARTHEST, FARTHEST)
        above = 1 / (1 + np.exp((far[:, None] - SHIFTS) / WIDTH))  # how surely the threshold is above the score
        cost = np.where((kind == FALSE_ALERT)[:, None], FALSE_COST * (1 - above), above)
        np.add.at(self._slots.of["cost"], slots, cost)
        np.add.at(self._slots.of["verdicts"], slots, 1)
        self._settle(np.unique(self._rows.of["group"][rows]))

    def shift(self, rows: I32) -> F64:
        """What to add to the logarithm of the threshold of K rows, in -1.2 .. 1.2; 0 where nothing is known."""
        shift = np.zeros(len(rows))
        known = np.flatnonzero(rows < self._size)
        slot, group = self._rows.of["slot"][rows[known]], self._rows.of["group"][rows[known]]
        if self._most_group:
            shift[known] = np.where(group >= 0, self._groups.of["shift"][group], 0.0)
        own = slot >= 0
        shift[known[own]] = self._slots.of["shift"][slot[own]]
        return shift

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series start anew; what they taught their group goes with them."""
        rows = rows[rows < self._size]
        slots, groups = self._rows.of["slot"][rows], self._rows.of["group"][rows]
        held = slots[slots >= 0]
        self._slots.clear(held)
        self._free += sorted(held.tolist(), reverse=True)
        self._rows.clear(rows)
        self._settle(np.unique(groups[slots >= 0]))

    def _settle(self, groups: I32) -> None:
        """The shifts of some groups and of their series that have verdicts, anew from their costs."""
        of = self._slots.of
        rows = of["row"][: self._used]
        group = np.where(rows >= 0, self._rows.of["group"][rows], -2)
        for number in groups.tolist():  # of the verdicts that came, and those are few
            slots = np.flatnonzero(group == number)
            cost = of["cost"][slots]
            prior = np.zeros(len(slots))
            if number >= 0:
                total = cost.sum(axis=0)
                self._groups.of["shift"][number] = _of_others(total[None], len(slots))[0]
                prior = _of_others(total - cost, len(slots) - 1)
            of["shift"][slots] = _mean(cost, prior)

    def _slots_of(self, rows: I32) -> I64:
        """The slots of J rows, new ones for those that have none."""
        for row in np.unique(rows[self._rows.of["slot"][rows] < 0]).tolist():
            slot = self._free.pop() if self._free else self._used
            self._used = max(self._used, slot + 1)
            self._slots.reserve(self._used)
            self._rows.of["slot"][row], self._slots.of["row"][slot] = slot, row
        return self._rows.of["slot"][rows].astype(np.int64)

    def _reserve(self, rows: I32) -> None:
        self._size = max(self._size, int(rows.max(initial=-1)) + 1)
        self._rows.reserve(self._size)

    def state(self) -> Arrays:
        """Everything learned."""
        rows = {f"rows/{name}": array for name, array in self._rows.state(self._size).items()}
        slots = {f"slots/{name}": array for name, array in self._slots.state(self._used).items()}
        free = np.array(self._free, np.int32)
        return {**rows, **slots, "groups": self._groups.of["shift"][: self._most_group].copy(), "free": free}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over a state. Raises: StateError."""
        expected: dict[str, Any] = {"groups": (np.float64, ("groups",)), "free": (np.int32, ("free",))}
        expected |= {f"rows/{name}": wanted for name, wanted in self._rows.saved().items()}
        expected |= {f"slots/{name}": (kind, ("slots", *of[1:])) for name, (kind, of) in self._slots.saved().items()}
        checked(arrays, expected)
        self._rows.clear(np.arange(self._rows.rows))
        self._size, self._used = len(arrays["rows/slot"]), len(arrays["slots/row"])
        self._most_group = len(arrays["groups"])
        self._slots.clear(np.arange(self._slots.rows))
        self._rows.restore({name: arrays[f"rows/{name}"] for name in self._rows.of}, self._size)
        self._slots.restore({name: arrays[f"slots/{name}"] for name in self._slots.of}, self._used)
        self._groups.clear(np.arange(self._groups.rows))
        self._groups.restore({"shift": arrays["groups"]}, self._most_group)
        self._free = arrays["free"].tolist()


def _of_others(total: F64, series: int) -> F64:
    """Means of a group, (J,), from the summed costs of so many of its series, (J, shifts).

    Series differ as much within a group as groups do, so the mean of n of them says n / (n + 1) of the group's: what
    one series is told moves the others half as far.
    """
    n = max(0, series)
    return _mean(total / max(1, n), np.zeros(len(total))) * (n / (n + 1))


def _mean(cost: F64, prior: F64) -> F64:
    """Posterior means of shifts, (J,), from their costs, (J, shifts), and the means of their priors, (J,)."""
    energy = cost + 0.5 * ((SHIFTS - prior[:, None]) / SPREAD) ** 2
    weight = np.exp(energy.min(axis=1, keepdims=True) - energy)
    mean: F64 = (weight * SHIFTS).sum(axis=1) / weight.sum(axis=1)
    return mean
