"""Rates: how many alerts there would be at each of many thresholds, which is what a budget is spent on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import F64, I32, I64, Bool
from otel_aiops.series.columns import Arrays, Columns, checked

LEAST_LEVEL = 0.25
CELLS_TO_CLOSE = 3  # thresholds in a factor of 0.8
LEVELS = LEAST_LEVEL * 1.25 ** (np.arange(84) / CELLS_TO_CLOSE)  # up to 120
CLOSES_BELOW = 0.8  # of the threshold an alert ends, when it stays there
GROUPS = 4_096  # services that are told apart; two with the same place count as one
LONG_AGO = -(1 << 62)
MEMORY_S = 28 * 86_400.0  # in which what was counted falls to a third
PRIOR_S, PRIOR_SERIES = 86_400.0, 10  # counting that the prior is worth: so long, of so many series at most
WEEK_S = 7 * 86_400.0
PRIOR_RATE, PRIOR_SLOPE = 1.0, 0.7  # alerts of a series in a week at a threshold of 1, and how they fall with it


class Rates:
    """Counts alerts at every threshold at once, without any of them being raised.

    Of a series only the highest score of the running episode is kept: a point raises an alert at all thresholds between
    that and its own score. The episode ends at a threshold when the series stays below 0.8 of it for the hold of the
    objective. Alerts of one group (a service) within a few minutes of the first are one. Counts fade over four weeks
    and are kept for each second of each series, so that a fleet that doubles doubles its rate at once.
    """

    def __init__(self, hold_s: F64, group_s: F64) -> None:
        self._hold_ns, self._group_ns = (hold_s * 1e9).astype(np.int64), (group_s * 1e9).astype(np.int64)
        self._rows = Columns({"high": (np.float32, (), 0), "high_ns": (np.int64, (), 0)})
        self._groups = np.full((GROUPS, len(LEVELS)), LONG_AGO, np.int64)  # when the first alert of a group was
        self._counts = np.zeros((len(hold_s), len(LEVELS)))
        self._series_s = np.zeros(len(hold_s))  # seconds of series in which they were counted

    def reserve(self, rows: int) -> None:
        """See that there are at least so many rows."""
        self._rows.reserve(rows)

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series start anew."""
        self._rows.clear(rows)

    def busy(self, rows: I32) -> Bool:
        """Which rows have an episode that runs."""
        return np.asarray(self._rows.of["high"][rows] > 0)

    def count(self, rows: I32, owner: I64, group: I64, time_ns: I64, alert: F64, still: Bool) -> None:
        """Take in K points; `still` are those that go on being strange, though hold may have set their alert to 0."""
        of = self._rows.of
        before, since_ns = of["high"][rows].astype(np.float64), of["high_ns"][rows]
        held = (before > 0) & (still | (alert >= CLOSES_BELOW * before))
        ended = ~held & (time_ns - since_ns > self._hold_ns[owner])
        before = np.where(ended, np.minimum(before, alert), before)  # thresholds that it is still above stay raised
        raised = (alert > before) & (alert >= LEAST_LEVEL)
        of["high"][rows] = np.where(raised, alert, before)
        of["high_ns"][rows] = np.where(raised | held | ended, time_ns, since_ns)
        which = np.flatnonzero(raised)
        if len(which):
            self._raise(owner[which], group[which], time_ns[which], before[which], alert[which])

    def _raise(self, owner: I64, group: I64, time_ns: I64, before: F64, alert: F64) -> None:
        """Count alerts at the thresholds above `before` and up to `alert`, once for each group."""
        order = np.argsort(group, kind="stable")
        begins = np.flatnonzero(np.diff(group[order], prepend=-1))
        crossed = (before[order, None] < LEVELS) & (alert[order, None] >= LEVELS)
        any_crossed = np.logical_or.reduceat(crossed, begins, axis=0)
        groups, owners = group[order][begins], owner[order][begins]
        now_ns = np.maximum.reduceat(time_ns[order], begins)
        first_ns = self._groups[groups]
        new = any_crossed & (now_ns[:, None] - self._group_ns[owners][:, None] > first_ns)
        self._groups[groups] = np.where(new, now_ns[:, None], first_ns)
        np.add.at(self._counts, owners, new)

    def advance(self, elapsed_s: float, series: I64) -> None:
        """Let time pass in which so many series of each objective reported, (O,)."""
        fade = np.exp(-elapsed_s / MEMORY_S)
        self._counts *= fade
        self._series_s = self._series_s * fade + series * elapsed_s

    def a_week(self, series: I64) -> F64:
        """Alerts a week at each threshold with so many series of each objective, (O, levels), falling."""
        prior = PRIOR_RATE / WEEK_S * LEVELS**-PRIOR_SLOPE
        weight = PRIOR_S * np.clip(series, 1, PRIOR_SERIES)[:, None]
        each = (self._counts + prior * weight) / (self._series_s[:, None] + weight)
        return np.maximum.accumulate((each * np.maximum(series, 1)[:, None] * WEEK_S)[:, ::-1], axis=1)[:, ::-1]

    def threshold(self, series: I64, allowed: F64) -> F64:
        """The threshold that gives so many alerts a week, (O,): between two levels the logarithms are linear."""
        rates = np.log(self.a_week(series))
        levels = np.log(LEVELS)
        found = [np.interp(-np.log(a), -rate, levels) for a, rate in zip(allowed, rates, strict=True)]
        return np.exp(np.array(found, np.float64))

    def learned(self) -> tuple[F64, F64]:
        """(alerts at each threshold, seconds of series in which they were counted) of each objective."""
        return self._counts.copy(), self._series_s.copy()

    def adopt(self, objective: int, counts: F64, series_s: float) -> None:
        """Take over what was counted elsewhere for an objective."""
        self._counts[objective], self._series_s[objective] = counts, series_s

    def state(self, rows: int) -> Arrays:
        """Everything counted."""
        return {
            **self._rows.state(rows),
            "groups": self._groups.copy(),
            "counts": self._counts.copy(),
            "series_s": self._series_s.copy(),
        }

    def check(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Raises: StateError when a state does not fit."""
        expected: dict[str, tuple[Any, tuple[int | str, ...]]] = {
            "groups": (np.int64, (GROUPS, len(LEVELS))),
            "counts": (np.float64, ("objectives", len(LEVELS))),
            "series_s": (np.float64, ("objectives",)),
        }
        checked(arrays, {**self._rows.saved(), **expected})

    def restore(self, arrays: Mapping[str, NDArray[Any]], place: NDArray[np.intp], taken: NDArray[np.intp]) -> None:
        """Take over a checked state; its objectives `taken` are ours at `place`, others begin anew."""
        rows = len(arrays["high"])
        self._rows.clear(np.arange(self._rows.rows))
        self._rows.restore({name: arrays[name] for name in self._rows.of}, rows)
        self._groups = arrays["groups"].copy()
        self._counts[:], self._series_s[:] = 0.0, 0.0
        self._counts[place], self._series_s[place] = arrays["counts"][taken], arrays["series_s"][taken]
