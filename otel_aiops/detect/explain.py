"""Explanations: why a point has its score, in plain words with the numbers that made it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime

from otel_aiops.detect.detector import Scores
from otel_aiops.series.batch import Batch

DAYS = ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays")


def reason(channel: str, batch: Batch, scores: Scores, k: int, state: Mapping[str, float], unit: str) -> str:
    """One sentence; `state` is what is remembered of the series after the point was learned."""
    value, expected = float(batch.value[k]), float(scores.expected[k])
    if channel == "stopped":
        usual = f"; it used to come every {duration(state['interval_s'])}" if state["interval_s"] > 0 else ""
        return f"No point for {duration(float(batch.interval_s[k]))}{usual}."
    if channel == "none":
        return "Still learning what is normal."
    now, usual = quantity(value, unit), quantity(expected, unit)
    band = f"{number(float(scores.lower[k]))} to {number(float(scores.upper[k]))}"
    side = "above" if value > expected else "below"
    sentence = {
        "level": f"{now} is far {side} the usual {usual} (band {band})",
        "season": f"{now} is far {side} the {usual} that is usual {_when(int(batch.time_ns[k]))} (band {band})",
        "shift": (
            f"The mean of the last points is {number(abs(state['drift']))} "
            f"{'above' if state['drift'] > 0 else 'below'} the usual {usual}"
        ),
        "variance": _variance(state, now),
        "flat": (
            f"Exactly {now} for {state['run'] + 1:.0f} points in a row; it used to change within "
            f"{state['longest_run'] + 1:.0f}"
        ),
        "constant": f"{now} after it had always been {usual}",
    }[channel]
    accepted = state["accepted_s"] > 0 and abs(state["accepted_s"] - float(batch.time_ns[k]) / 1e9) < 1e-3
    return sentence + ("; this has lasted so long that it is the new normal from now on." if accepted else ".")


def note(state: Mapping[str, float], warmup_points: int, warmup_s: float) -> str:
    """What there is to say about a series that is not anomalous."""
    left = warmup_points - state["points"]
    if left > 0:
        when = "cannot be told" if math.isnan(warmup_s) else f"about {duration(warmup_s)}"
        return f"Still learning what is normal: {left:.0f} more points are needed, time left {when}."
    if state["accepted_s"] > 0:
        when = datetime.fromtimestamp(state["accepted_s"], UTC).isoformat(timespec="seconds")
        return f"Within its band. At {when} it had been different for so long that this became its normal."
    return "Within its band."


def quantity(value: float, unit: str) -> str:
    """A number with its unit, where the unit says something.

    >>> quantity(0.25, "s"), quantity(3, "{request}"), quantity(2, "1")
    ('0.25 s', '3', '2')
    """
    return f"{number(value)} {unit}" if unit and unit != "1" and not unit.startswith("{") else number(value)


def number(value: float) -> str:
    """A number with four digits.

    >>> number(1234567.0), number(0.000123456), number(12.0)
    ('1.235e+06', '0.0001235', '12')
    """
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """A time span for people.

    >>> duration(12), duration(95), duration(7300), duration(200_000), duration(float("nan"))
    ('12 s', '95 s', '2.0 h', '2.3 d', 'an unknown time')
    """
    if math.isnan(seconds):
        return "an unknown time"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


def _when(time_ns: int) -> str:
    at = datetime.fromtimestamp(time_ns / 1e9, UTC)
    return f"on {DAYS[at.weekday()]} around {at:%H:%M} UTC"


def _variance(state: Mapping[str, float], now: str) -> str:
    ratio = math.sqrt(state["power"] / state["usual_power"]) if state["usual_power"] > 0 else math.inf
    if ratio >= 1:
        return f"It varies {number(ratio)} times as much as usual, now {now}"
    return f"It varies only {number(ratio)} times as much as usual, now {now}"
