"""Forecasts of a day, error and coverage of the interval: `python -m benchmarks.forecast DATA [develop|report]`.

DATA holds the hourly series of Microsoft's cloud-monitoring data set (`cloud_monitoring/*/*.csv`) and the five-minute
ones of NAB (`nab/data/{realAWSCloudwatch,realKnownCause,realTraffic}/*.csv`). Every second series, in the order of the
groups and their names, was for development: ways, constants and defaults were chosen on those, and figures are reported
on the others.

Protocol: four origins from 60 % of a series to a day before its end; a forecast sees what came before its origin; the
season is a day. MASE: the mean absolute error over that of seasonal-naive in the first 60 %. Series of less than five
days, and those that seasonal-naive predicts without error there, are left out. Intervals are to hold 90 %.
"""

from __future__ import annotations

import csv
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.table import Row, show
from otel_aiops.detect.forecast import ForecastConfig, forecast, forecast_many
from otel_aiops.detect.rolling import gridded, history_of
from otel_aiops.otlp.points import F64, I64

DAY_S = 86_400.0
ORIGINS, TRAINED, LEAST_DAYS = 4, 0.6, 5
Z = 1.645  # standard deviations to both sides that hold 90 % of a normal distribution
NAB = tuple(f"nab/data/{name}/*.csv" for name in ("realAWSCloudwatch", "realKnownCause", "realTraffic"))
GROUPS = {"hourly, cloud monitoring": (3600.0, ("cloud_monitoring/*/*.csv",)), "5 min, NAB": (300.0, NAB)}


class Series(NamedTuple):
    """One series of a group: its points, its means of steps, and the steps in a day."""

    group: str
    name: str
    time_ns: I64
    value: F64
    grid: F64
    first_ns: int
    step_s: float
    day: int


Bands = tuple[F64, F64, F64]  # expected, lower, upper
Peer = Callable[[F64, int], Bands]  # history without gaps, steps in a day


def seasonal_naive(past: F64, day: int) -> Bands:
    """The day before; the interval of a normal distribution of its past errors."""
    return _normal(past[-day:], np.std(past[day:] - past[:-day]) * np.ones(day))


def last_value(past: F64, day: int) -> Bands:
    """The newest value; the interval of a random walk."""
    return _normal(np.full(day, past[-1]), np.std(np.diff(past)) * np.sqrt(np.arange(1, day + 1)))


def holt_winters(past: F64, day: int) -> Bands:
    """Additive, damped Holt-Winters of statsmodels; the interval from two hundred simulated futures."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    model = ExponentialSmoothing(
        past, trend="add", damped_trend=True, seasonal="add", seasonal_periods=day, initialization_method="heuristic"
    )
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        fit = model.fit(minimize_kwargs={"options": {"maxiter": 50}})
        futures = np.asarray(fit.simulate(day, repetitions=200, rng=np.random.default_rng(0)))
        expected = np.asarray(fit.forecast(day))
    return expected, *np.quantile(futures.reshape(day, -1), (0.05, 0.95), axis=1)


PEERS: dict[str, Peer] = {
    "seasonal-naive": seasonal_naive,
    "statsmodels Holt-Winters": holt_winters,
    "last value": last_value,
}


def series_of(data: Path) -> Iterator[Series]:
    """All series of the groups that have the group's typical step and are long enough."""
    for group, (step_s, patterns) in GROUPS.items():
        day = round(DAY_S / step_s)
        for path in (path for pattern in patterns for path in sorted(data.glob(pattern))):
            time_ns, value = _read(path)
            grid, first_ns = gridded(value, time_ns, step_s, 100 * len(value))
            if np.median(np.diff(time_ns)) == step_s * 1e9 and len(grid) >= LEAST_DAYS * day:
                yield Series(group, path.stem, time_ns, value, grid, first_ns, step_s, day)


def measured(data: Path, half: str, config: ForecastConfig) -> Iterator[Row]:
    """Error, coverage, interval score and time of each group, ours against each peer."""
    chosen = list(series_of(data))[half == "report" :: 2]
    for group in GROUPS:
        figures = [found for one in chosen if one.group == group and (found := _figures(one, config))]
        ours, title = np.array([found["ours"] for found in figures]), f"{group}, {len(figures)} series"
        for name in PEERS:
            peer = np.array([found[name] for found in figures])
            relative = float(np.exp(np.mean(np.log(np.maximum(ours[:, 0], 1e-3) / np.maximum(peer[:, 0], 1e-3)))))
            yield Row(f"{title}: MASE, mean", ours[:, 0].mean(), peer[:, 0].mean(), "MASE", name, "less")
            yield Row(f"{title}: MASE, median", np.median(ours[:, 0]), np.median(peer[:, 0]), "MASE", name, "less")
            yield Row(f"{title}: error of the peer's", relative, 1.0, "geometric mean", name, "less")
            yield Row(f"{title}: held of 0.90", ours[:, 1].mean(), peer[:, 1].mean(), "share", name)
            width = float(np.median(ours[:, 2])), float(np.median(peer[:, 2]))
            yield Row(f"{title}: interval score, median", *width, "MASE", name, "less")
            yield Row(f"{title}: a forecast", ours[:, 3].mean() * 1e3, peer[:, 3].mean() * 1e3, "ms", name, "less")


def run() -> Iterator[Row]:
    """What needs no data: forecasts of a thousand series at once against Holt-Winters one by one."""
    rng, steps = np.random.default_rng(0), 24 * 14
    value = 10 + np.sin(np.arange(steps) / 24 * 2 * np.pi) + rng.normal(0, 0.3, (1000, steps))
    time_ns = np.arange(steps) * 3_600_000_000_000
    start = time.perf_counter()
    forecast_many(value, time_ns, horizon_s=DAY_S, period_s=DAY_S)
    ours_ms = time.perf_counter() - start  # of a thousand series, so in ms of one
    holt_winters(value[0], 24)  # imports
    start = time.perf_counter()
    for past in value[:10]:
        holt_winters(past, 24)
    peer_ms = (time.perf_counter() - start) * 100
    yield Row("forecast of a day from two weeks of hours, many at once", ours_ms, peer_ms, "ms", "Holt-Winters", "less")


def _figures(one: Series, config: ForecastConfig) -> dict[str, F64]:
    """(MASE, share held, interval score, seconds) of each method on one series."""
    first = max(int(TRAINED * len(one.grid)), 3 * one.day)
    scale = _mean_abs(one.grid[one.day : first] - one.grid[: first - one.day])
    found: dict[str, list[F64]] = {name: [] for name in ("ours", *PEERS)}
    for origin in np.linspace(first, len(one.grid) - one.day, ORIGINS).astype(int):
        truth = one.grid[origin : origin + one.day]
        if not scale > 0 or not np.isfinite(truth).any():
            continue
        past = history_of(one.grid[None, :origin], one.day, one.day).past[0]
        for name in found:
            start = time.perf_counter()
            bands = _ours(one, origin, config) if name == "ours" else PEERS[name](past, one.day)
            seconds = time.perf_counter() - start
            found[name].append(np.array([*_judged(truth, bands, scale), seconds]))
    return {name: np.mean(figures, axis=0) for name, figures in found.items() if figures}


def _ours(one: Series, origin: int, config: ForecastConfig) -> Bands:
    """Our forecast, from the points before the origin, as they came."""
    seen = one.time_ns < one.first_ns + origin * round(one.step_s * 1e9)
    found = forecast(
        one.value[seen],
        one.time_ns[seen],
        horizon_s=2 * DAY_S if np.isnan(one.grid[origin - 1]) else DAY_S,
        step_s=one.step_s,
        period_s=DAY_S,
        config=config,
    )
    # where the newest steps are missing, a forecast begins before the origin
    late = origin - round((found.time_ns[0] - one.first_ns) / (one.step_s * 1e9))
    kept = slice(late, late + one.day)
    return found.expected[kept], found.lower[kept], found.upper[kept]


def _judged(truth: F64, bands: Bands, scale: float) -> tuple[float, float, float]:
    """(MASE, share held, interval score over the scale: Gneiting and Raftery 2007, section 6.2)."""
    known = np.isfinite(truth)
    came, expected, lower, upper = (part[known] for part in (truth, *bands))
    held = (came >= lower) & (came <= upper)
    missed = np.maximum(lower - came, 0) + np.maximum(came - upper, 0)
    return _mean_abs(came - expected) / scale, held.mean(), (upper - lower + 20 * missed).mean() / scale


def _normal(expected: F64, deviation: F64) -> Bands:
    return expected, expected - Z * deviation, expected + Z * deviation


def _mean_abs(error: F64) -> float:
    return float(np.nanmean(np.abs(error)))


def _read(path: Path) -> tuple[I64, F64]:
    """(time_ns, value) of a file of NAB or of the cloud-monitoring data set."""
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) > 1][1:]
    times = [datetime.fromisoformat(row[0].replace("Z", "")).replace(tzinfo=UTC).timestamp() for row in rows]
    return np.array(times, np.int64) * 1_000_000_000, np.array([float(row[1] or "nan") for row in rows])


if __name__ == "__main__":
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("expected the folder that holds cloud_monitoring/ and nab/")
    show(measured(Path(sys.argv[1]), (*sys.argv[2:], "report")[0], ForecastConfig()))
