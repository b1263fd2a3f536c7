"""Recent series on a grid: recorded points to aligned copies of some series, with bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.series.segments import HOUR_NS, Segments

if TYPE_CHECKING:
    import pyarrow as pa

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MOST_HOURS = 24 * 14  # that are looked through
LEAST_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Recent:
    """The newest values of S series at T steps that are `interval_s` apart; (S, T), NaN is absent."""

    values: F64
    interval_s: float
    start_ns: int


def on_grid(code: I64, time_ns: I64, value: F64, *, points: int) -> Recent | None:
    """N points of series that `code` numbers, on one grid: the newest `points` steps; None when there is no interval.

    Shape: all (N,), in any order. The grid has the interval that is usual for the series, and the phase of each series
    of its own, so that none falls between two steps because of it. Of points in one step the newest counts; a series
    that reports more seldom has steps without a point.
    """
    order = np.lexsort((time_ns, code))
    code, time_ns, value = code[order], time_ns[order], value[order]
    first = np.flatnonzero(np.diff(code, prepend=-1))  # of each series
    number = np.cumsum(np.diff(code, prepend=-1) != 0) - 1
    interval_s = _interval_s(number, time_ns)
    if interval_s is None:
        return None
    step_ns = round(interval_s * 1e9)
    begin_ns = int(time_ns.min())
    phase = (time_ns[first] - begin_ns + step_ns // 2) // step_ns
    step = phase[number] + (time_ns - time_ns[first][number] + step_ns // 2) // step_ns
    skipped = max(int(step.max()) + 1 - points, 0)
    kept = step >= skipped
    values = np.full((len(first), int(step.max()) + 1 - skipped), np.nan)
    values[number[kept], step[kept] - skipped] = value[kept]
    return Recent(values, interval_s, begin_ns + skipped * step_ns)


def recorded(directory: Path, *, series: int, points: int, seed: int) -> Recent | None:
    """The newest points of some series that the segments below `directory` hold; None when there are none.

    The series are drawn from those of the newest hour. Reads an hour at a time, and of it only these series. Another
    process may write, merge and delete meanwhile. Raises: StateError for a damaged file, StorageError.
    """
    segments = Segments(directory)
    hours = sorted({part.hour for part in segments.parts()}, reverse=True)
    if not hours:
        return None
    names = segments.names(hours[0])
    random = np.random.default_rng(seed)
    chosen = [names[k] for k in sorted(random.permutation(len(names))[:series].tolist())]
    code_of = {name: k for k, name in enumerate(chosen)}
    parts: list[tuple[I64, I64, F64]] = []
    for hour in hours[:MOST_HOURS]:
        parts.append(columns(segments.read(hour * HOUR_NS, (hour + 1) * HOUR_NS, chosen), code_of))
        if sum(len(part[0]) for part in parts) >= points * len(chosen):
            break
    code, time_ns, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    return on_grid(code, time_ns, value, points=points) if len(code) else None


def columns(table: pa.Table, code_of: dict[str, int]) -> tuple[I64, I64, F64]:
    """(code, time, value) of the rows of a segment, in its order; -1 is the code of a series without one."""
    import pyarrow as pa

    if not len(table):
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    series: Any = table["series"].combine_chunks()
    code = np.array([code_of.get(name, -1) for name in series.dictionary.to_pylist()], np.int64)
    index = series.indices.to_numpy()
    return code[index], table["timestamp"].cast(pa.int64()).to_numpy(), table["value"].to_numpy()


def _interval_s(number: I64, time_ns: I64) -> float | None:
    """The median over the series of the median time between their points; whole seconds where it is nearly that."""
    gaps = np.diff(time_ns) / 1e9
    inside = (np.diff(number) == 0) & (gaps > 0)
    if not inside.any():
        return None
    of, gaps = number[:-1][inside], gaps[inside]
    order = np.lexsort((gaps, of))
    _, begin, count = np.unique(of, return_index=True, return_counts=True)
    interval_s = float(np.median(gaps[order][begin + count // 2]))
    whole = round(interval_s)
    return max(float(whole) if abs(interval_s - whole) < 0.02 * interval_s else interval_s, LEAST_INTERVAL_S)
