"""Explanations: why a point has its score, in plain words with the numbers that made it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from otel_aiops.detect.detector import Scores
from otel_aiops.detect.rhythm import Rhythm
from otel_aiops.series.batch import Batch

DAYS = ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays")


@dataclass(frozen=True, slots=True)
class Story:
    """What made a point new: `kind` of novelty, how far from the nearest value so far in ranges, and which `side` of
    all values it is on (1 highest, -1 lowest, 0 among them). `since_s` is how long ago the memory began.
    """

    kind: str
    nearest: float
    side: int
    since_s: float
    deviation: float  # from the median of the newest values, in robust standard deviations


def reason(
    channel: str,
    batch: Batch,
    scores: Scores,
    k: int,
    state: Mapping[str, float],
    unit: str,
    story: Story | None = None,
    rhythm: Rhythm | None = None,
) -> str:
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
        "season": f"{now} is far {side} the {usual} that is usual {_when(int(batch.time_ns[k]), rhythm)} (band {band})",
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
        "peers": f"{now} is far {side} the {usual} that its peers let expect (band {band})",
        "novelty": _novelty(now, story, int(batch.time_ns[k])) if story else "",
    }[channel]
    accepted = state["accepted_s"] > 0 and int(state["accepted_s"]) == int(batch.time_ns[k]) // 10**9
    return sentence + ("; this has lasted so long that it is the new normal from now on." if accepted else ".")


def _novelty(now: str, story: Story, time_ns: int) -> str:
    age = duration(story.since_s)
    nearest = f"{100 * min(story.nearest, 10.0):.2g} % of its range away"
    if story.kind == "daytime":
        at = datetime.fromtimestamp(time_ns / 1e9, UTC)
        return f"{now} is unlike all values of the last days around {at:%H:%M} UTC; the nearest one is {nearest}"
    if story.kind == "spread":
        return f"{now}, and the newest values vary as they never did in {age}"
    if story.side and story.kind == "value":
        return f"{now} is the {'highest' if story.side > 0 else 'lowest'} in {age}; the nearest value was {nearest}"
    if story.kind == "value":
        return f"{now} has not been seen in {age}: the nearest value is {nearest}"
    if story.kind == "residual":
        return f"{now} is farther from the level of the last points than ever in {age}"
    return (
        f"{now} has hardly ever followed on the value before; it is {number(story.deviation)} robust standard "
        f"deviations from the median of the last points"
    )


def note(
    state: Mapping[str, float],
    warmup_points: int,
    warmup_s: float,
    begun: str | None = None,
    rhythm: Rhythm | None = None,
) -> str:
    """What there is to say about a series that is not anomalous; `begun` is the one whose knowledge it began with."""
    left = warmup_points - state["points"]
    if left > 0:
        when = "cannot be told" if math.isnan(warmup_s) else f"about {duration(warmup_s)}"
        if begun is not None:
            return (
                f"Scored by what was learned of {begun}, and still warming up on its own: "
                f"{left:.0f} more points are needed, time left {when}."
            )
        return f"Still learning what is normal: {left:.0f} more points are needed, time left {when}."
    if state["accepted_s"] > 0:
        when = datetime.fromtimestamp(state["accepted_s"], UTC).isoformat(timespec="seconds")
        return (
            f"Within its band. At {when} it had been different for so long that this became its normal.{_found(rhythm)}"
        )
    return f"Within its band.{_found(rhythm)}"


def _found(rhythm: Rhythm | None) -> str:
    if rhythm is None:
        return ""
    share = f"{100 * rhythm.strength:.0f} % of its variance around the trend"
    return f" It has a cycle of {_cycle(rhythm.period_s, ' ')}, which explains {share}."


def _cycle(period_s: float, between: str) -> str:
    """The length of a cycle, which need not be rounded as a time span is.

    >>> _cycle(5400, "-"), _cycle(21_600, " "), _cycle(864_000, "-")
    ('90-minute', '6 hours', '10-day')
    """
    units = ((86_400, "day"), (3_600, "hour"), (60, "minute"))
    unit_s, name = next(((unit_s, name) for unit_s, name in units if period_s >= 2 * unit_s), (1, "second"))
    length = number(period_s / unit_s)
    return f"{length}{between}{name}" + ("s" if between == " " and length != "1" else "")


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


def _when(time_ns: int, rhythm: Rhythm | None) -> str:
    if rhythm is not None and rhythm.own_clock:
        return f"at this point of its {_cycle(rhythm.period_s, '-')} cycle"
    at = datetime.fromtimestamp(time_ns / 1e9, UTC)
    return f"on {DAYS[at.weekday()]} around {at:%H:%M} UTC"


def _variance(state: Mapping[str, float], now: str) -> str:
    ratio = math.sqrt(state["power"] / state["usual_power"]) if state["usual_power"] > 0 else math.inf
    if ratio >= 1:
        return f"It varies {number(ratio)} times as much as usual, now {now}"
    return f"It varies only {number(ratio)} times as much as usual, now {now}"
