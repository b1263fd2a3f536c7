"""Outlooks: the forecast of one series in words and JSON, and when it reaches a limit."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from otel_aiops.batch.explain import json_arrays, json_plain
from otel_aiops.batch.recordings import moment
from otel_aiops.batch.tracks import Track
from otel_aiops.detect.exhaustion import Direction, Exhaustion, exhaustion
from otel_aiops.detect.explain import duration, quantity
from otel_aiops.detect.forecast import ForecastConfig, forecast
from otel_aiops.detect.moments import DAY_S, interval_s
from otel_aiops.errors import BadInput
from otel_aiops.otlp.points import F64

STEPS = 288  # ahead, where no step is asked for
NICE_S = (1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400)
SHOWN_HORIZONS = 3.0  # how much of the past is shown
MOST_SHOWN = 5_000  # points of it
TOLD = 4  # times ahead that are told in words


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is to come of one series; times in unix seconds, (H,) and (T,) for what came before; NaN where not known."""

    series: str
    name: str
    unit: str
    method: str
    skill: float
    coverage: float
    step_s: float
    horizon_s: float
    last: float
    last_time: float
    time: F64
    expected: F64
    lower: F64
    upper: F64
    past_time: F64
    past: F64
    limit: float = float("nan")
    direction: str = "above"
    exhaustion: Exhaustion | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For machines: null where something is not known."""
        return {**json_plain(asdict(self)), "text": self.text()}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Self:
        """What `to_json` gave. Raises: BadInput."""
        try:
            plain = {key: value for key, value in tree.items() if key not in ("text", "notes", "exhaustion")}
            reached = tree["exhaustion"]
            exhausted = json_arrays(Exhaustion, reached) if reached else None
            found: Self = json_arrays(cls, plain, notes=tuple(tree["notes"]), exhaustion=exhausted)
            return found
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"expected a forecast as JSON, got {str(tree)[:200]!r}") from error

    def text(self) -> str:
        """For people."""
        skill = "its error could not be measured: too little history"
        if not math.isnan(self.skill):
            skill = f"{abs(self.skill):.0%} {'less' if self.skill >= 0 else 'more'} error than seasonal-naive"
        now = f"{quantity(self.last, self.unit)} at {_when(self.last_time)}"
        rows = [("now", now), ("method", f"{self.method}; {skill}")]
        rows += [(f"in {duration(self.time[k] - self.last_time)}", self._ahead(k)) for k in self._told()]
        if self.exhaustion:
            rows.append(("limit", f"{self.direction} {quantity(self.limit, self.unit)}: {self._reached()}"))
        rows += [("note", note) for note in self.notes]
        return "\n".join([self.series, "", *(f"{name:<10} {said}" for name, said in rows)])

    def _told(self) -> list[int]:
        ends = np.linspace(0, len(self.time), min(TOLD, len(self.time)) + 1)[1:]
        return [int(end) - 1 for end in ends]

    def _ahead(self, k: int) -> str:
        ends = f"{self.lower[k]:.4g} to {quantity(self.upper[k], self.unit)}"
        return f"{quantity(self.expected[k], self.unit)} ({self.coverage:.0%} of futures: {ends})"

    def _reached(self) -> str:
        found = self.exhaustion
        assert found is not None
        when = f"; likely {_when(self.last_time + found.time_s)}" if found.time_s >= 0 else ""
        return found.reason + when


def outlook(
    track: Track,
    *,
    horizon_s: float = DAY_S,
    step_s: float | None = None,
    limit: float | None = None,
    direction: Direction = "above",
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Outlook:
    """Forecast a track from its newest point on.

    Raises: BadInput without two points; ConfigError if a span is not positive or the bounds are empty.
    """
    usual_s = interval_s(track.time_ns)
    if not usual_s > 0:
        raise BadInput(f"{track.labels} has {len(track.time_ns)} points; a forecast needs two and better some days")
    step_s = step_s or nice_step(max(usual_s, horizon_s / STEPS))
    config = ForecastConfig(bounds=bounds)
    season = DAY_S if step_s < DAY_S else None
    found = forecast(track.value, track.time_ns, horizon_s=horizon_s, step_s=step_s, period_s=season, config=config)
    reached = None if limit is None else exhaustion(found, limit, direction, coverage=config.coverage)
    past_time, past = _past(track, horizon_s)
    return Outlook(
        series=str(track.labels),
        name=track.labels.name,
        unit=track.labels.unit,
        method=found.method,
        skill=found.skill,
        coverage=config.coverage,
        step_s=step_s,
        horizon_s=horizon_s,
        last=found.last,
        last_time=found.last_ns / 1e9,
        time=found.time_ns / 1e9,
        expected=found.expected,
        lower=found.lower,
        upper=found.upper,
        past_time=past_time,
        past=past,
        limit=float("nan") if limit is None else limit,
        direction=direction,
        exhaustion=reached,
        notes=found.notes,
    )


def nice_step(least_s: float) -> float:
    """The shortest span that people count in and that is not below.

    >>> nice_step(61.0), nice_step(300.0), nice_step(1e6)
    (120.0, 300.0, 1000000.0)
    """
    return float(next((span for span in NICE_S if span >= least_s), least_s))


def _past(track: Track, horizon_s: float) -> tuple[F64, F64]:
    first_ns = int(track.time_ns[-1]) - round(SHOWN_HORIZONS * horizon_s * 1e9)
    shown = slice(int(np.searchsorted(track.time_ns, first_ns)), None)
    time, value = track.time_ns[shown] / 1e9, track.value[shown]
    every = -(-len(time) // MOST_SHOWN)
    return time[::-1][::every][::-1], value[::-1][::every][::-1]


def _when(time_s: float) -> str:
    return moment(round(time_s * 1e9))
