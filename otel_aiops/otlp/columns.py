"""Columns of points of one kind, while a request is decoded, and how they become Points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from otel_aiops.otlp.points import F64, I32, I64, Bool, Points, Stream
from otel_aiops.otlp.wire import spread


@dataclass(frozen=True, slots=True)
class Columns:
    """Points of one kind as columns; `bounds[i]` is the layout of point i (b"" for none)."""

    stream: I32
    attributes: list[bytes]
    start_ns: I64
    time_ns: I64
    value: F64
    count: F64
    stale: Bool
    bounds: list[bytes] | None
    cells: F64
    sizes: I64  # (N,) cells of each point


def keep(columns: Columns, good: Bool) -> Columns:
    """Some of the points, (N,) bool."""
    index = np.flatnonzero(good)
    chosen = index.tolist()
    start = np.cumsum(columns.sizes) - columns.sizes
    return Columns(
        stream=columns.stream[index],
        attributes=[columns.attributes[i] for i in chosen],
        start_ns=columns.start_ns[index],
        time_ns=columns.time_ns[index],
        value=columns.value[index],
        count=columns.count[index],
        stale=columns.stale[index],
        bounds=None if columns.bounds is None else [columns.bounds[i] for i in chosen],
        cells=columns.cells[spread(start[index], columns.sizes[index], 1)],
        sizes=columns.sizes[index],
    )


def assembled(streams: tuple[Stream, ...], columns: list[Columns]) -> Points:
    """The points of all kinds, one kind after the other."""
    layouts: dict[bytes, int] = {}
    layout = []
    for part in columns:
        if part.bounds is None:
            layout.append(np.full(len(part.stream), -1, np.int32))
            continue
        for bounds in dict.fromkeys(part.bounds):
            layouts.setdefault(bounds, len(layouts))
        numbers = np.fromiter(map(layouts.__getitem__, part.bounds), np.int32, len(part.bounds))
        layout.append(np.where(part.sizes > 0, numbers, np.int32(-1)))
    sizes = concatenated([part.sizes for part in columns], np.int64)
    return Points(
        streams=streams,
        stream=concatenated([part.stream for part in columns], np.int32),
        attributes=columns[0].attributes if len(columns) == 1 else [one for part in columns for one in part.attributes],
        start_ns=concatenated([part.start_ns for part in columns], np.int64),
        time_ns=concatenated([part.time_ns for part in columns], np.int64),
        value=concatenated([part.value for part in columns], np.float64),
        count=concatenated([part.count for part in columns], np.float64),
        stale=concatenated([part.stale for part in columns], np.bool_),
        layouts=tuple(layouts),
        layout=concatenated(layout, np.int32),
        cells=concatenated([part.cells for part in columns], np.float64),
        cell_offset=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
    )


def concatenated(parts: list[Any], dtype: type) -> Any:
    """Arrays one after the other; an empty one of `dtype` when there are none."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def in_order(known: Columns, walked: Columns) -> Columns:
    """Both, in the order of the request."""
    if not len(known.stream) and bool((np.diff(walked.stream) >= 0).all()):
        return walked
    stream = np.concatenate([known.stream, walked.stream])
    order = np.argsort(stream, kind="stable")
    attributes = known.attributes + walked.attributes
    pairs = {name: (getattr(known, name), getattr(walked, name)) for name in _PLAIN}
    plain = {name: np.concatenate(pair)[order] for name, pair in pairs.items()}
    chosen = [attributes[i] for i in order.tolist()]
    return Columns(stream=stream[order], attributes=chosen, bounds=None, cells=np.empty(0), **plain)


_PLAIN = ("start_ns", "time_ns", "value", "count", "stale", "sizes")
