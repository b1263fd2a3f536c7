"""Points: the columns that a request of OTLP metrics decodes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]


class Kind(IntEnum):
    """The OTLP types of a metric; part of a stream's identity."""

    GAUGE = 0
    SUM = 1
    HISTOGRAM = 2
    EXPONENTIAL_HISTOGRAM = 3
    SUMMARY = 4


class Temporality(IntEnum):
    """OTLP AggregationTemporality."""

    UNSPECIFIED = 0
    DELTA = 1
    CUMULATIVE = 2


class Stream(NamedTuple):
    """Everything but the point attributes that identifies a series, as it came on the wire.

    `resource` and `scope` are the raw bytes of the Resource and InstrumentationScope messages: equal bytes
    mean equal identity, different bytes need a canonical look (attribute order does not matter), which the
    series table does once.
    """

    resource: bytes
    scope: bytes
    name: str
    unit: str
    kind: Kind
    temporality: Temporality
    monotonic: bool


@dataclass(frozen=True, slots=True)
class Points:
    """N data points of one request, in the order of the request.

    Shape: every array is (N,), `streams` is (M,), `attributes` has N entries.
    Unit:  times in ns since the epoch (0 = not set); values in the stream's unit.

    `attributes[i]` is the concatenation of the point's KeyValue fields as received, each still with its tag
    and length, re-tagged with the number of NumberDataPoint.attributes (7) whatever the kind of the point
    was. `value` is the number of a gauge or sum; the sum of a histogram or summary (NaN when absent).
    `count` is the count of a histogram or summary, NaN for numbers. `stale[i]` is the NO_RECORDED_VALUE
    flag: nothing but attributes and times counts then. `layout[i]` indexes `layouts`, -1 when the point has
    no buckets or quantiles. A layout is the raw little-endian float64 bytes of the explicit bounds (B-1 of
    them for B buckets) or, for a summary, of the quantiles. Exponential histograms arrive laid out on one
    fixed logarithmic grid, so that they have bounds like any other.
    `cells[cell_offset[i]:cell_offset[i+1]]` are the bucket counts, or the values at the quantiles.
    """

    streams: tuple[Stream, ...]
    stream: I32
    attributes: list[bytes]
    start_ns: I64
    time_ns: I64
    value: F64
    count: F64
    stale: Bool
    layouts: tuple[bytes, ...]
    layout: I32
    cells: F64
    cell_offset: I64  # (N + 1,)

    def __len__(self) -> int:
        return len(self.time_ns)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a body of metrics held: the points, and how many were refused for which reason."""

    points: Points
    rejected: Mapping[str, int] = field(default_factory=dict)  # reason in plain words → data points
