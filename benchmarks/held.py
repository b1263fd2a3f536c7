"""Held: how much of a sustained shift stays over the threshold on each kind of series, ours beside two other ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.faults import INTERVAL_S, START_NS, bands, three_sigma
from benchmarks.table import Row, show
from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.selftest import play
from otel_aiops.detect.specimens import KINDS, clean
from otel_aiops.series.align import AlignConfig

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

SERIES = 16  # of each kind
DAY, WEEK = 1440, 7 * 1440  # steps
CLEAN, STEPS = 4 * WEEK, 4 * WEEK + DAY  # four weeks to learn from, then a day with one shift
HELD = 30  # steps
SPARSE = 110  # for series with a point now and then; after two hours it is the new normal
SIGMAS = 5.0
CELL = 15  # steps: a season is told by the means of quarters of an hour of the week
BARE = 0.1  # of the level: the shift of a constant
SEED = 3
PEERS: Mapping[str, Callable[[F64], F32]] = {"3 sigma, trailing 5 h": three_sigma, "Grafana-like bands": bands}


def shifted(kind: str, direction: int) -> tuple[F64, NDArray[np.bool_]]:
    """(series with a shift of five standard deviations each (S, STEPS), where it is); nowhere if it cannot be.

    The deviation is from the mean of the same quarter of an hour of the week where that explains most of the variance
    (a season), else from the mean of all. What is never negative and what has a limit keep to it.
    """
    values = clean(kind, SERIES, STEPS, seed=SEED, interval_s=INTERVAL_S, start_ns=START_NS)
    learned = values[:, :CLEAN]
    weeks = learned.reshape(SERIES, CLEAN // WEEK, WEEK // CELL, CELL)
    known = np.isfinite(weeks).sum(axis=(1, 3), keepdims=True)
    usual = np.where(known > 0, np.nansum(weeks, axis=(1, 3), keepdims=True) / np.maximum(known, 1), 0.0)
    rest, whole = np.nanstd(weeks - usual, axis=(1, 2, 3)), np.nanstd(learned, axis=1)
    size = np.where(rest < 0.7 * whole, rest, whole)
    size = np.where(size > 0, size, BARE * np.nanmean(learned, axis=1) / SIGMAS)
    onset = np.random.default_rng(SEED).integers(CLEAN + 60, STEPS - SPARSE, SERIES)[:, None]
    step = np.arange(STEPS)
    length = SPARSE if kind == "sparse" else HELD
    there = (step >= onset) & (step < onset + length) & np.isfinite(values)
    planned = values + direction * SIGMAS * size[:, None]
    limit = 100.0 if kind == "saturated" else np.inf
    natural = ~there | ((planned >= 0) & (planned <= limit))
    there &= natural.mean(axis=1, where=there, keepdims=True) > 0.9
    return np.where(there, np.clip(planned, 0.0, limit), values), there


def measure() -> dict[tuple[str, int], dict[str, float]]:
    """The share of the shifted points over the threshold, by kind and direction, then by detector."""
    cases = {(kind, direction): shifted(kind, direction) for kind in KINDS for direction in (1, -1)}
    rows = np.concatenate([values for values, _ in cases.values()])
    played = play(Engine(EngineConfig()), rows, interval_s=INTERVAL_S, start_ns=START_NS, align=AlignConfig())
    scores = {"ours": played.score}
    scores |= {name: peer(rows) for name, peer in PEERS.items()}
    found: dict[tuple[str, int], dict[str, float]] = {}
    for number, (case, (_, there)) in enumerate(cases.items()):
        some = slice(number * SERIES, (number + 1) * SERIES)
        if there.any():
            found[case] = {name: float((score[some][there] >= 1).mean()) for name, score in scores.items()}
    return found


def run() -> Iterator[Row]:
    """For each kind and direction ours beside the better of the others."""
    for (kind, direction), shares in measure().items():
        best = max(PEERS, key=lambda name: shares[name])
        what = f"{kind}, {'up' if direction > 0 else 'down'}"
        yield Row(f"{what}: of a shift of 5 sigma", 100 * shares["ours"], 100 * shares[best], "%", best)


def main() -> None:
    """Print them."""
    show(run())


if __name__ == "__main__":
    main()
