"""Drift: how often recorded series drift by themselves, and how often a change that is made in them is found."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from otel_aiops.labels import Labels
from otel_aiops.lifecycle.drift import DriftLimits, compare, reference_of
from otel_aiops.lifecycle.sketch import Sketches, sketched
from otel_aiops.otlp.points import F64, I64
from otel_aiops.series.segments import HOUR_NS

LEAST_DAYS = 10
LIVE = 29  # hours of a look: 24 windows of 6
STEP = 36  # hours between two looks
LIMITS = DriftLimits()
NAMES = [Labels("value").to_json()]

CHANGES: dict[str, Callable[[F64, float], F64]] = {
    "none": lambda value, spread: value,
    "up by one spread": lambda value, spread: value + spread,
    "up by two spreads": lambda value, spread: value + 2 * spread,
    "up by four spreads": lambda value, spread: value + 4 * spread,
    "down by two spreads": lambda value, spread: value - 2 * spread,
    "four times as far from the median": lambda value, spread: np.median(value) + 4 * (value - np.median(value)),
}


def recorded(folders: Sequence[Path]) -> Iterator[tuple[I64, F64]]:
    """(hours ns, values) of the CSV files below some folders that are long enough."""
    for path in sorted(one for folder in folders for one in folder.rglob("*.csv")):
        table = pd.read_csv(path)
        named = {name.lower(): name for name in table.columns}
        if not {"timestamp", "value"} <= named.keys():
            continue
        time = pd.to_datetime(table[named["timestamp"]], utc=True, format="mixed")
        time_ns = time.to_numpy("datetime64[ns]").astype(np.int64)
        if time_ns[-1] - time_ns[0] >= LEAST_DAYS * 24 * HOUR_NS:
            yield time_ns, table[named["value"]].to_numpy(float)


def sketch(time_ns: I64, value: F64, first: int, last: int) -> Sketches:
    """The hours of a series from first to last, last not included."""
    hours = np.arange(first, last, dtype=np.int64)
    return sketched(NAMES, hours, np.zeros(len(value), np.int64), time_ns, value)


def looks(time_ns: I64, value: F64, change: Callable[[F64, float], F64]) -> Iterator[tuple[bool, bool]]:
    """(drifted, persistently) at each look at a series: the week before the last is the reference."""
    begin, end = int(time_ns[0] // HOUR_NS), int(time_ns[-1] // HOUR_NS)
    days = 14 if end - begin >= 24 * 22 else 7
    for now in range(begin + 24 * days + LIVE, end, STEP):
        since = now - LIVE - 24 * days
        reference = reference_of(sketch(time_ns, value, since, now - LIVE), "", window=LIMITS.window)
        if not len(reference.spread):
            continue
        live = (time_ns >= (now - LIVE) * HOUR_NS) & (time_ns < now * HOUR_NS)
        if not live.any():
            continue
        changed = change(value[live], float(reference.spread[0]))
        found = compare(reference, sketch(time_ns[live], changed, now - LIVE, now), LIMITS).drifts
        yield bool(found), bool(found and found[0].persistent)


def main(arguments: Sequence[str]) -> int:
    """Measure all changes on all series."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks drift", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="with CSV files that have timestamp and value")
    series = list(recorded(parser.parse_args(arguments).folders))
    print(f"{len(series)} series {'':24} {'drift':>10} {'lasting':>10}")
    for name, change in CHANGES.items():
        seen = [np.array([*looks(*one, change)], np.float64).reshape(-1, 2) for one in series]
        found = [one.mean(axis=0) for one in seen if len(one)]
        drifted, lasting = np.mean(found, axis=0)
        print(f"{name:36} {drifted:10.1%} {lasting:10.1%}", flush=True)
    return 0
