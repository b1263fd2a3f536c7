"""Clean series of every kind, made from a seed: what faults are put in where there are no real series."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from otel_aiops.errors import ConfigError
from otel_aiops.otlp.points import F64

HOUR_S, DAY_S = 3600.0, 86_400.0


@dataclass(frozen=True, slots=True)
class _Draw:
    """What clean series are made from. Shape: `level` and `noise` (S, 1), `time_s` (T,), `shape` is (S, T)."""

    random: np.random.Generator
    time_s: F64  # unix time
    interval_s: float
    level: F64
    noise: F64  # standard deviation of the noise
    shape: tuple[int, int]

    def normal(self) -> F64:
        return self.random.standard_normal(self.shape)

    def each(self, low: float, high: float) -> F64:
        """One number for each series, (S, 1)."""
        return self.random.uniform(low, high, (self.shape[0], 1))


def clean(kind: str, series: int, points: int, *, seed: int, interval_s: float = 60.0, start_ns: int = 0) -> F64:
    """Clean series of one kind, (S, T), NaN is absent. Raises: ConfigError for an unknown kind."""
    if kind not in KINDS:
        raise ConfigError("kind", f"expected one of {', '.join(KINDS)}, got {kind!r}")
    random = np.random.default_rng([seed, list(KINDS).index(kind)])
    level = np.exp(random.uniform(np.log(10.0), np.log(1000.0), (series, 1)))
    noise = level * random.uniform(0.01, 0.05, (series, 1))
    time_s = start_ns / 1e9 + interval_s * np.arange(points, dtype=np.float64)
    return KINDS[kind](_Draw(random, time_s, interval_s, level, noise, (series, points)))


def _days(draw: _Draw) -> F64:
    """A daily profile about 1, (S, T): a wave and half of one with twice its frequency."""
    turns = draw.time_s / DAY_S + draw.each(0, 1)
    second = 0.15 * np.sin(4 * np.pi * turns + 6.28 * draw.each(0, 1))
    return 1 + 0.4 * np.sin(2 * np.pi * turns) + second


def _daily(draw: _Draw) -> F64:
    return draw.level * _days(draw) + draw.noise * draw.normal()


def _weekly(draw: _Draw) -> F64:
    weekend = (np.floor(draw.time_s / DAY_S) + 3) % 7 >= 5  # 1970-01-01 was a Thursday; weeks begin on Monday
    return draw.level * _days(draw) * np.where(weekend, draw.each(0.4, 0.8), 1.0) + draw.noise * draw.normal()


def _trend(draw: _Draw) -> F64:
    days = (draw.time_s - draw.time_s[:1]) / DAY_S
    slope = draw.each(0.05, 0.3) * np.where(draw.each(0, 1) < 0.5, -1, 1)
    return draw.level * (1 + 0.5 * slope * days) + draw.noise * draw.normal()


def _around_level(draw: _Draw) -> F64:
    return draw.level + draw.noise * draw.normal()


def _counts(draw: _Draw) -> F64:
    mean = np.geomspace(0.5, 5.0, draw.shape[0])[:, None]
    return draw.random.poisson(mean, draw.shape).astype(np.float64)


def _bimodal(draw: _Draw) -> F64:
    """Two levels, changed between every ten minutes on average."""
    changes = draw.random.random(draw.shape) < min(draw.interval_s / 600, 0.5)
    upper = np.cumsum(changes, axis=1) % 2 == 1
    return draw.level * np.where(upper, draw.each(1.5, 3.0), 1.0) + draw.noise * draw.normal()


def _saturated(draw: _Draw) -> F64:
    """At 100 % three quarters of the time."""
    return np.minimum(102.0 + 3.0 * draw.normal(), 100.0)


def _constant(draw: _Draw) -> F64:
    return np.broadcast_to(np.round(draw.level), draw.shape).copy()


def _sparse(draw: _Draw) -> F64:
    """A point now and then: one step of fifteen has one."""
    there = draw.random.random(draw.shape) < 1 / 15
    return np.where(there, draw.level + draw.noise * draw.normal(), np.nan)


def _counter_rate(draw: _Draw) -> F64:
    """Rates of a monotone counter whose process restarts about every twelve hours.

    Counting begins anew within the step; what came before in it is lost, and the rate is over the rest.
    """
    restarted = draw.random.random(draw.shape) < draw.interval_s / (12 * HOUR_S)
    length_s = draw.interval_s * np.where(restarted, draw.random.uniform(0.1, 1.0, draw.shape), 1.0)
    return draw.random.poisson(draw.level / 10 * length_s) / length_s


def _autoregressive(draw: _Draw) -> F64:
    from scipy.signal import lfilter

    kept = 0.9
    start = draw.random.standard_normal((draw.shape[0], 1))
    pushed = np.sqrt(1 - kept**2) * draw.normal()
    followed, _ = lfilter([1.0], [1.0, -kept], pushed, axis=1, zi=kept * start)
    return np.asarray(draw.level + draw.noise * followed)


def _heavy(draw: _Draw) -> F64:
    """Latencies: lognormal noise, one point of a hundred more than twice the median."""
    return draw.level * np.exp(draw.each(0.2, 0.4) * draw.normal())


KINDS: Mapping[str, Callable[[_Draw], F64]] = MappingProxyType(
    {
        "daily": _daily,
        "weekly": _weekly,
        "trend": _trend,
        "noise": _around_level,
        "counts": _counts,
        "bimodal": _bimodal,
        "saturated": _saturated,
        "constant": _constant,
        "sparse": _sparse,
        "counter": _counter_rate,
        "autoregressive": _autoregressive,
        "heavy": _heavy,
    }
)
