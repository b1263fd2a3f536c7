"""Faults: what is found of every kind of fault on every kind of series, ours beside three ways of others."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from benchmarks.table import Row, show
from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.faults import FAULTS, Copies
from otel_aiops.detect.report import Limits, Played, Report, judge
from otel_aiops.detect.selftest import play
from otel_aiops.detect.specimens import KINDS, clean
from otel_aiops.series.align import AlignConfig

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

SERIES = 8  # of each kind
INTERVAL_S = 60.0
DAY, HOUR = 1440, 60  # steps
CLEAN, STEPS = 3 * DAY, 4 * DAY  # three days to learn from, then one with a fault
START_NS = int(datetime.datetime(2025, 10, 11, tzinfo=datetime.UTC).timestamp() * 1e9)  # a Saturday
SEED = 1
OURS = "ours"

Reports = Mapping[str, Report]  # by kind of series


# -- what others do, in a few lines of our own; none of it is their code ----------------------------------------------


def three_sigma(values: F64) -> F32:
    """The rule of thumb: farther than three standard deviations from the mean of the five hours before."""
    mean, deviation = _trailing(values, 300, offset=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.abs(values - mean) > 3 * deviation).astype(np.float32) + _nothing(values)


def bands(values: F64) -> F32:
    """Grafana-like: the adaptive bands of its recording rules for Prometheus, with their defaults.

    About the mean of the last hour: two smoothed standard deviations (26 h, only hours that vary by more than half of
    the mean), half of the mean, or the band of the same hour a day ago, whichever is widest. Zeros are left out.
    """
    level = np.where(values > 0, values, np.nan)
    mean, deviation = _trailing(level, HOUR)
    with np.errstate(invalid="ignore"):
        wide, _ = _trailing(np.where(deviation > 0.5 * mean, deviation, np.nan), 26 * HOUR)
    reach = np.fmax(2 * wide, 0.5 * mean)
    upper, lower = mean + reach, mean - reach
    before, before_deviation = _trailing(level, HOUR, offset=DAY - HOUR // 2)
    upper = np.fmax(upper, before + 2 * before_deviation)
    lower = np.maximum(np.fmin(lower, before - 2 * before_deviation), 0.0)
    with np.errstate(invalid="ignore"):
        return ((level > upper) | (level < lower)).astype(np.float32) + _nothing(values)


def consensus(values: F64) -> F32:
    """Netdata-like: k-means of six lags of the smoothed difference; 18 models, three hours apart, must all agree.

    A model is learned from six hours. A vector is strange to it when its mean distance to both centres is above 99 % of
    the range of those it has learned from. Here with a point a minute, and absent points as the one before.
    """
    vectors = _lags(values)
    last = np.maximum.accumulate(np.where(np.isfinite(values), np.arange(STEPS), -1), axis=1) >= 0
    found = np.zeros(values.shape, np.float32)
    models: list[tuple[F32, F32, F32]] = []
    for step in range(6 * HOUR, STEPS, 3 * HOUR):
        models = [*models[-17:], _learned(vectors[:, step - 6 * HOUR : step])]
        if step >= CLEAN:
            block = slice(step, min(step + 3 * HOUR, STEPS))
            found[:, block] = _all_agree(vectors[:, block], models) & last[:, block]
    return found + _nothing(values)


def _trailing(values: F64, steps: int, *, offset: int = 0) -> tuple[F64, F64]:
    """Mean and standard deviation of the present points of a window that ends `offset` steps ago, (R, T) each."""
    present = np.isfinite(values)
    count = np.maximum(present.sum(axis=1, keepdims=True), 1)
    middle = np.where(present, values, 0.0).sum(axis=1, keepdims=True) / count
    filled = np.where(present, values - middle, 0.0)
    sums = [np.cumsum(np.pad(part, ((0, 0), (1, 0))), axis=1) for part in (filled, filled**2, present.astype(float))]
    high = np.maximum(np.arange(values.shape[1]) + 1 - offset, 0)
    low = np.maximum(high - steps, 0)
    total, square, number = (part[:, high] - part[:, low] for part in sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / number
        deviation = np.sqrt(np.maximum(square / number - mean**2, 0.0))
    return mean + middle, np.where(deviation > 1e-7 * np.abs(middle), deviation, 0.0)


def _nothing(values: F64) -> F32:
    """NaN where a series has no point, else 0: none of the three says anything of what is missing."""
    return np.where(np.isfinite(values), 0.0, np.nan).astype(np.float32)


def _lags(values: F64) -> F32:
    """Six lags of the difference, which is smoothed over three points, (R, T, 6)."""
    index = np.maximum.accumulate(np.where(np.isfinite(values), np.arange(values.shape[1]), 0), axis=1)
    filled = np.nan_to_num(np.take_along_axis(values, index, axis=1))
    change = np.diff(filled, axis=1, prepend=filled[:, :1])
    smooth = sliding_window_view(np.pad(change, ((0, 0), (2, 0))), 3, axis=1).mean(axis=2)
    scale = np.maximum(np.abs(smooth[:, :CLEAN]).max(axis=1, keepdims=True), 1e-9)  # only so that float32 is enough
    return sliding_window_view(np.pad((smooth / scale).astype(np.float32), ((0, 0), (5, 0))), 6, axis=1)


def _learned(vectors: F32) -> tuple[F32, F32, F32]:
    """(two centres (R, 6, 2), smallest and largest mean distance to them (R, 1)) of vectors (R, N, 6)."""
    order = np.argsort(vectors.sum(axis=2), axis=1)
    ends = np.take_along_axis(vectors, order[:, [order.shape[1] // 10, order.shape[1] * 9 // 10], None], axis=1)
    centres = np.swapaxes(ends, 1, 2)
    for _ in range(8):
        near = np.argmin(_squares(vectors, centres), axis=2)[:, :, None] == np.arange(2)
        weight = near.astype(np.float32)
        count = weight.sum(axis=1)[:, None, :]
        centres = np.where(count > 0, np.swapaxes(vectors, 1, 2) @ weight / np.maximum(count, 1), centres)
    distance = np.sqrt(_squares(vectors, centres)).mean(axis=2)
    return centres, distance.min(axis=1, keepdims=True), distance.max(axis=1, keepdims=True)


def _all_agree(vectors: F32, models: list[tuple[F32, F32, F32]]) -> NDArray[np.bool_]:
    strange = np.ones(vectors.shape[:2], np.bool_)
    for centres, least, most in models:
        distance = np.sqrt(_squares(vectors, centres)).mean(axis=2)
        strange &= (distance - least >= 0.99 * (most - least)) & (most > least)
    return strange


def _squares(vectors: F32, centres: F32) -> F32:
    """Squared distances of (R, N, 6) to (R, 6, 2), (R, N, 2)."""
    own = np.einsum("rnf,rnf->rn", vectors, vectors)[:, :, None]
    return np.maximum(own - 2 * vectors @ centres + (centres**2).sum(axis=1)[:, None, :], 0)


PEERS: Mapping[str, Callable[[F64], F32]] = {
    "3 sigma, trailing 5 h": three_sigma,
    "Grafana-like bands": bands,
    "Netdata-like k-means": consensus,
}


# -- the table --------------------------------------------------------------------------------------------------------


def measure() -> dict[str, Reports]:
    """By detector and kind of series; all series of all kinds with all faults are scored at once."""
    copies = {
        kind: Copies.of(
            clean(kind, SERIES, STEPS, seed=SEED, interval_s=INTERVAL_S, start_ns=START_NS),
            CLEAN,
            interval_s=INTERVAL_S,
            seed=SEED,
        )
        for kind in KINDS
    }
    rows = np.concatenate([copy.rows() for copy in copies.values()])
    engine = Engine(EngineConfig())
    played = {OURS: play(engine, rows, interval_s=INTERVAL_S, start_ns=START_NS, align=AlignConfig())}
    for name, peer in PEERS.items():
        played[name] = Played(peer(rows), np.full(rows.shape, np.nan, np.float32))
    ends = np.cumsum([len(copy.rows()) for copy in copies.values()])[:-1]
    reports: dict[str, Reports] = {}
    for name, whole in played.items():
        parts = zip(copies.items(), np.split(whole.score, ends), np.split(whole.probability, ends), strict=True)
        reports[name] = {
            kind: judge(Played(score, likely), copy, CLEAN, interval_s=INTERVAL_S, limits=Limits())
            for (kind, copy), score, likely in parts
        }
    return reports


def tell(title: str, reports: Reports) -> None:
    """Print fault by kind of series: per cent of the faulty points over the threshold (spike, dip: of the faults)."""
    print(f"\n{title}\n{'':14}" + "".join(f"{kind[:8]:>9}" for kind in reports))
    for fault in FAULTS:
        print(f"{fault:14}" + "".join(f"{_cell(report, fault):>9}" for report in reports.values()))
    print(f"{'alarms/day':14}" + "".join(f"{report.false_alarms:9.2g}" for report in reports.values()))
    if all(report.unusual == report.unusual for report in reports.values()):
        print(f"{'p > 0.99, %':14}" + "".join(f"{100 * report.unusual:9.2g}" for report in reports.values()))


def _cell(report: Report, fault: str) -> str:
    return f"{100 * _found(report, fault):.0f}" if fault in report.faults else "-"


def _found(report: Report, fault: str) -> float:
    found = report.faults[fault]
    return found.covered if FAULTS[fault].duration_s else found.recall


def _mean(reports: Reports, fault: str) -> float:
    return float(np.mean([_found(report, fault) for report in reports.values() if fault in report.faults]))


def run() -> Iterator[Row]:
    """For each fault the mean over the kinds of series beside the best of the others; then prints the tables."""
    reports = measure()
    for fault in FAULTS:
        best = max(PEERS, key=lambda name: _mean(reports[name], fault))
        ours, peer = (100 * _mean(reports[name], fault) for name in (OURS, best))
        yield Row(f"{fault}, mean over the kinds of series", ours, peer, "%", best)
    alarms = {name: float(np.mean([report.false_alarms for report in of.values()])) for name, of in reports.items()}
    least = min(PEERS, key=lambda name: alarms[name])
    yield Row("false alarms", alarms[OURS], alarms[least], "a series-day", least, better="less")
    print(
        f"\n% of the faulty points over the threshold (spike, dip: % found); {SERIES} series of each kind, seed {SEED}"
    )
    for name, of in reports.items():
        tell(name if name == OURS else f"{name} (a re-implementation)", of)


def main() -> None:
    """Print them."""
    show(run())


if __name__ == "__main__":
    main()
