"""A recorded history in miniature, for the tests of what is learned from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64, I64
from otel_aiops.series.rows import Columns
from otel_aiops.series.segments import HOUR_NS, Segments

START_NS = 1_777_816_800_000_000_000  # 2026-05-03T14:00:00Z
MINUTE_NS = 60_000_000_000
HOURS = 30
NOW_NS = START_NS + (HOURS + 2) * HOUR_NS


def labels_of(service: str, pod: int) -> Labels:
    return Labels("load", resource=(("service.name", service),), attributes=(("pod", f"p{pod}"),))


SERIES = [labels_of(service, pod).to_json() for service in ("cart", "pay") for pod in range(3)]


def fingerprint(text: str) -> int:
    return int.from_bytes(text.encode()[-24:-16], "big") ^ len(text) ^ sum(text.encode())


def columns(texts: list[str], code: I64, time_ns: I64, value: F64) -> Columns:
    prints = np.array([fingerprint(text) for text in texts], np.uint64)
    return Columns(code.astype(np.int32), time_ns, value, np.full(len(code), 0.5, np.float32), texts, prints)


def regular(texts: list[str] = SERIES, *, hours: int = HOURS, first: int = 0, step_ns: int = MINUTE_NS) -> Columns:
    """Every series each minute, with noise."""
    steps = hours * HOUR_NS // step_ns
    rng = np.random.default_rng(first)
    time_ns = START_NS + first * HOUR_NS + np.repeat(np.arange(steps), len(texts)) * step_ns
    return columns(texts, np.tile(np.arange(len(texts)), steps), time_ns, rng.normal(size=steps * len(texts)))


def record(directory: Path, *many: Columns, merge: bool = True) -> Segments:
    """A data directory with these points; `merge` as the service does when hours are past."""
    segments = Segments(directory / "segments")
    segments.open(0)
    for k, one in enumerate(many, 1):
        segments.write(k, k, one)
    if merge:
        segments.compact(NOW_NS, through=len(many))
    return segments
