"""The Batch: aligned points of series, which is what detectors score."""

from __future__ import annotations

from dataclasses import dataclass

from otel_aiops.otlp.points import F64, I32, I64


@dataclass(frozen=True, slots=True)
class Batch:
    """K aligned points, at most one per row (so a vectorised update is exact).

    Shape: all (K,). `rows` are unique and non-negative; `interval_s` is the time since the row's previous
    point (NaN for the first).
    """

    rows: I32
    time_ns: I64
    value: F64
    interval_s: F64
