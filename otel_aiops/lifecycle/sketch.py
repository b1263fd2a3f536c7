"""Sketches: the values of a series in an hour as a few quantiles, so that weeks of many series can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import F64, I64
from otel_aiops.series.segments import HOUR_NS

F32 = NDArray[np.float32]

QUANTILES = (np.arange(10) + 0.5) / 10  # each stands for a tenth of the points


@dataclass(frozen=True, slots=True)
class Sketches:
    """What S series were like in each of H hours.

    Shape: `hours` (H,), hours since 1970 in order; `values` (S, H, Q), the quantiles of the points of an hour, NaN
    without points. `names` are canonical texts, each once.
    """

    names: tuple[str, ...]
    hours: I64
    values: F32


def sketched(names: Sequence[str], hours: I64, code: I64, time_ns: I64, value: F64) -> Sketches:
    """N points as sketches; `code` numbers their series, and those below 0 or outside of `hours` are left out.

    Shape: `code`, `time_ns` and `value` (N,), in any order; `hours` (H,) in order.
    """
    found = np.full((len(names) * len(hours), len(QUANTILES)), np.nan, np.float32)
    hour = time_ns // HOUR_NS
    at = np.minimum(np.searchsorted(hours, hour), max(len(hours) - 1, 0))
    kept = np.isfinite(value) & (code >= 0) & (hours[at] == hour) if len(hours) else np.zeros(len(code), bool)
    cell, value = (code[kept] * len(hours) + at[kept]).astype(np.int64), value[kept]
    order = np.lexsort((value, cell))
    cells, first, count = np.unique(cell[order], return_index=True, return_counts=True)
    if len(cells):
        place = QUANTILES * (count[:, None] - 1)
        low = place.astype(np.int64)
        below = value[order][first[:, None] + low]
        above = value[order][first[:, None] + np.minimum(low + 1, count[:, None] - 1)]
        with np.errstate(over="ignore"):
            found[cells] = below + (place - low) * (above - below)
    return Sketches(tuple(names), hours, found.reshape(len(names), len(hours), len(QUANTILES)))


def joined(parts: Mapping[int, Sketches]) -> Sketches:
    """Sketches of one hour each, which may be of different series, as one; hours between them have no points."""
    hours = np.arange(min(parts), max(parts) + 1, dtype=np.int64) if parts else np.empty(0, np.int64)
    names = tuple(sorted({name for one in parts.values() for name in one.names}))
    place = {name: k for k, name in enumerate(names)}
    values = np.full((len(names), len(hours), len(QUANTILES)), np.nan, np.float32)
    for hour, one in parts.items():
        values[[place[name] for name in one.names], hour - hours[0]] = one.values[:, 0]
    return Sketches(names, hours, values)
