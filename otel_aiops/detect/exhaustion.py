"""Exhaustion: when a forecast reaches a limit, such as a full disk or a quota."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from otel_aiops.detect.explain import duration
from otel_aiops.detect.forecast import Forecast, Forecasts
from otel_aiops.errors import BadInput, ConfigError
from otel_aiops.otlp.points import F64

Direction = Literal["above", "below"]


@dataclass(frozen=True, slots=True)
class Exhaustion:
    """When the limit is reached for the first time, in seconds after the newest step of the history.

    NaN means not within the horizon: `time_s` is given when at least half of the possible futures reach the limit,
    `earliest_s` and `latest_s` hold the middle share of them. All but `horizon_s` are NaN of a series without values;
    `probability` is NaN where the history is too short to say.
    """

    time_s: float
    probability: float
    earliest_s: float
    latest_s: float
    horizon_s: float

    @property
    def reason(self) -> str:
        """In words: when, how sure, and within what time that is said."""
        known = self.probability >= 0
        sure = f"probability {self.probability:.2f}" if known else "probability unknown"
        if not self.time_s >= 0:
            return f"not within {duration(self.horizon_s)} ({sure})" if known else "too little history to say"
        ends = [duration(end) if end >= 0 else "later" for end in (self.earliest_s, self.latest_s)]
        return f"in about {duration(self.time_s)} ({ends[0]} to {ends[1]}, {sure} within {duration(self.horizon_s)})"


@dataclass(frozen=True, slots=True)
class Exhaustions:
    """`Exhaustion` of S series, all (S,)."""

    time_s: F64
    probability: F64
    earliest_s: F64
    latest_s: F64
    horizon_s: float

    def one(self, row: int) -> Exhaustion:
        """That of one series."""
        return Exhaustion(
            time_s=float(self.time_s[row]),
            probability=float(self.probability[row]),
            earliest_s=float(self.earliest_s[row]),
            latest_s=float(self.latest_s[row]),
            horizon_s=self.horizon_s,
        )


def exhaustion(
    forecast: Forecast, limit: float, direction: Direction = "above", *, coverage: float = 0.9
) -> Exhaustion:
    """When one series reaches a limit: `above` from below, `below` from above; 0 s if it is there already.

    Raises: ConfigError if the direction or the coverage does not exist.
    """
    one = forecast.paths[None], forecast.expected[None], np.array([forecast.last])
    step_s = (forecast.time_ns[0] - forecast.last_ns) / 1e9
    return _exhausted(*one, np.array([limit], np.float64), float(step_s), direction, coverage).one(0)


def exhaustion_many(
    forecasts: Forecasts, limit: F64, direction: Direction = "above", *, coverage: float = 0.9
) -> Exhaustions:
    """When each of S series reaches its limit (S,); NaN in, NaN out.

    Raises: BadInput if there is not one limit for each series; ConfigError as `exhaustion`.
    """
    if limit.shape != forecasts.last.shape:
        raise BadInput(f"expected one limit for each of {len(forecasts.last)} series, got shape {limit.shape}")
    step_s = (forecasts.time_ns[0] - forecasts.last_ns) / 1e9
    many = forecasts.paths, forecasts.expected, forecasts.last
    return _exhausted(*many, limit, float(step_s), direction, coverage)


def _exhausted(
    paths: F64, expected: F64, last: F64, limit: F64, step_s: float, direction: Direction, coverage: float
) -> Exhaustions:
    """The quantiles of the times at which the paths (S, P, H) first reach the limits (S,)."""
    if direction not in ("above", "below"):
        raise ConfigError("direction", f"must be above or below, got {direction}")
    if not 0 < coverage < 1:
        raise ConfigError("coverage", f"must be in (0, 1), got {coverage}")
    measured = paths.shape[1] > 0
    sign = 1.0 if direction == "above" else -1.0
    futures = paths if measured else expected[:, None, :]
    times = np.sort(_first(sign * last, sign * futures, sign * limit), axis=1) * step_s
    probability = np.where(np.isnan(times).any(axis=1) | (not measured), np.nan, np.isfinite(times).mean(axis=1))
    count, tail = times.shape[1], (1 - coverage) / 2
    places = (count + 1) // 2 - 1, int(tail * count), count - 1 - int(tail * count)
    likely, earliest, latest = (np.where(np.isinf(times[:, at]), np.nan, times[:, at]) for at in places)
    if not measured:
        earliest, latest = np.full_like(likely, np.nan), np.full_like(likely, np.nan)
    return Exhaustions(likely, probability, earliest, latest, futures.shape[2] * step_s)


def _first(last: F64, paths: F64, limit: F64) -> F64:
    """Steps (S, P) until each path is first at or above the limit, inf for never; straight between steps."""
    now = np.broadcast_to(last[:, None, None], (*paths.shape[:2], 1))
    walk = np.concatenate((now, paths), axis=2)
    there = walk >= limit[:, None, None]
    at = np.argmax(there, axis=2)
    after = np.take_along_axis(walk, at[:, :, None], axis=2)[:, :, 0]
    before = np.take_along_axis(walk, np.maximum(at - 1, 0)[:, :, None], axis=2)[:, :, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(at > 0, (limit[:, None] - before) / (after - before), 1.0)
    steps = np.where(there.any(axis=2), at - 1 + share, np.inf)
    return np.where(np.isnan(walk).any(axis=2) | np.isnan(limit)[:, None], np.nan, steps)
