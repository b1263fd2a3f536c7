"""Discovery: which of many series that look strange in the same minute to believe, and when all are a little so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import F64, I64, Bool
from otel_aiops.series.columns import Arrays, Columns

WINDOW_NS = 60_000_000_000
CELLS_A_DECADE = 4
CELLS = 16 * CELLS_A_DECADE + 1  # down to 1e-16, which is what a probability near 1 can still say
A_LITTLE = 0.05  # p-values up to this count as a little strange
LEAST_POINTS = 8  # of a window that can be a crowd
WARM_WINDOWS = 20
MEMORY = 1_000.0  # windows that the usual share of strange points remembers
THRESHOLD = 6.0  # spreads above the usual share that make a score of 1


@dataclass(frozen=True, slots=True)
class Crowd:
    """Many series of one objective that were a little strange in the same minute; together they are one signal.

    `strange` of `points` points had a p-value of 0.05 or less where `usual` is the share that normally has. `score` 1
    is the threshold.
    """

    objective: int
    time_ns: int
    points: int
    strange: int
    usual: float
    score: float


class Discovery:
    """Benjamini-Hochberg over the points of one objective in the same minute, as they come.

    A p-value is believed when it is at most q R / n: n points came in the minute (or in the one before, if that had
    more), R of them have p-values as small. So one of 100,000 series has to be much stranger than one of ten, and less
    so the more others are strange with it. p-values are rounded up to a quarter of a decade, which only makes the test
    stricter; what comes early in a minute is judged by what is known by then.
    Source: Benjamini and Hochberg, Controlling the False Discovery Rate, 1995, section 3.1.
    """

    def __init__(self, objectives: int) -> None:
        self._columns = Columns(
            {
                "window": (np.int64, (), -1),  # number of the minute
                "points": (np.int64, (), 0),  # of this minute
                "before": (np.int64, (), 0),  # of the last minute that had any
                "cells": (np.int32, (CELLS,), 0),  # points of this minute by p-value
                "usual": (np.float64, (), 0),  # share that is a little strange
                "spread": (np.float64, (), 0),  # variance of that share
                "windows": (np.float64, (), 0),
            }
        )
        self._columns.reserve(objectives)
        self._objectives = objectives

    def add(self, owner: I64, probability: F64, *, event_ns: int) -> tuple[Crowd, ...]:
        """Count K points, owner and probability (K,); returns the crowds of the minute that is over."""
        crowds = self._advance(event_ns)
        tested = ~np.isnan(probability)
        if tested.any():
            owner, size = owner[tested], self._objectives
            cells = np.bincount(owner * CELLS + _cells(probability[tested]), minlength=size * CELLS)
            self._columns.of["cells"][:size] += cells.reshape(size, CELLS).astype(np.int32)
            self._columns.of["points"][:size] += np.bincount(owner, minlength=size)
        return crowds

    def believed(self, owner: I64, probability: F64, q: F64) -> Bool:
        """Which of K points that were counted are believed; q by objective, (O,).

        A point without probability is not tested and always believed; so is every one of an objective with a q of 1.
        """
        cell = _cells(np.nan_to_num(probability, nan=0.0))
        believed: Bool = np.isnan(probability) | (cell >= self._critical(q)[owner]) | (q[owner] >= 1)
        return believed

    def _critical(self, q: F64) -> I64:
        """The cell from which on p-values are believed, by objective; CELLS for none."""
        of, size = self._columns.of, self._objectives
        as_small = np.cumsum(of["cells"][:size, ::-1], axis=1)[:, ::-1]
        tests = np.maximum(np.maximum(of["points"], of["before"])[:size], 1)
        edge = 10.0 ** (-np.arange(CELLS) / CELLS_A_DECADE)
        passes = edge <= q[:, None] * as_small / tests[:, None]
        return np.where(passes.any(axis=1), passes.argmax(axis=1), CELLS)

    def _advance(self, event_ns: int) -> tuple[Crowd, ...]:
        """Close the minutes that are over."""
        of, window = self._columns.of, event_ns // WINDOW_NS
        if (of["window"][: self._objectives] >= window).all():
            return ()
        over = np.flatnonzero((of["window"][: self._objectives] < window) & (of["points"][: self._objectives] > 0))
        crowds = self._crowds(over) if len(over) else ()
        of["before"][over], of["points"][over], of["cells"][over] = of["points"][over], 0, 0
        of["window"][: self._objectives] = np.maximum(of["window"][: self._objectives], window)
        return crowds

    def _crowds(self, over: NDArray[np.intp]) -> tuple[Crowd, ...]:
        """Learn the share of strange points of closed minutes, and say where it was far above the usual."""
        of = self._columns.of
        over = over[of["points"][over] >= LEAST_POINTS]
        points, known = of["points"][over].astype(np.float64), of["windows"][over]
        strange = of["cells"][over][:, _first_cell(A_LITTLE) :].sum(axis=1)
        share, usual = strange / points, of["usual"][over]
        least = np.maximum(usual, A_LITTLE) * (1 - np.minimum(usual, 0.5)) / points
        score = (share - usual) / np.sqrt(np.maximum(of["spread"][over], least)) / THRESHOLD
        score = np.where(known >= WARM_WINDOWS, np.maximum(score, 0.0), 0.0)
        weight = np.maximum(1 / MEMORY, 1 / (known + 1)) / np.maximum(1.0, score) ** 2
        off = share - usual
        of["usual"][over] = usual + weight * off
        of["spread"][over] += weight * ((1 - weight) * off * off - of["spread"][over])
        of["windows"][over] = np.minimum(known + 1, 10 * MEMORY)
        return tuple(
            Crowd(
                objective=int(over[k]),
                time_ns=int(of["window"][over[k]]) * WINDOW_NS,
                points=int(points[k]),
                strange=int(strange[k]),
                usual=float(usual[k]),
                score=float(score[k]),
            )
            for k in np.flatnonzero(score >= 1).tolist()
        )

    def state(self) -> Arrays:
        """Everything learned."""
        return self._columns.state(self._objectives)

    def saved(self) -> Mapping[str, tuple[Any, tuple[int | str, ...]]]:
        """What the state must look like."""
        return self._columns.saved()

    def restore(self, arrays: Mapping[str, NDArray[Any]], place: NDArray[np.intp], taken: NDArray[np.intp]) -> None:
        """Take over the entries `taken` of a checked state as objectives `place`; others are as they were."""
        for name in self._columns.of:
            self._columns.of[name][place] = arrays[name][taken]


def _cells(probability: F64) -> I64:
    """The cell of p = 1 - probability, whose upper edge is at least p."""
    p = np.clip(1 - probability, 1e-16, 1.0)
    return np.clip(np.floor(-CELLS_A_DECADE * np.log10(p) + 1e-9), 0, CELLS - 1).astype(np.int64)


def _first_cell(p: float) -> int:
    """The first cell whose p-values are all at most p."""
    return int(np.ceil(-CELLS_A_DECADE * np.log10(p)))
