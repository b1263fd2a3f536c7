"""Plots: a series with its band and its score as SVG, in colours that the style sheet gives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard

from markupsafe import Markup, escape

from otel_aiops.labels import visible
from otel_aiops.lifecycle.charts import STEPS_S, number, ticks
from otel_aiops.server.web.render import unit as shown_unit

LEFT, RIGHT, TOP = 62, 14, 10
VALUE, SCORE, BETWEEN, AXIS = 190, 70, 22, 24  # heights
MOST_SCORE = 8.0  # higher scores are drawn at this height, or the threshold could not be seen
LETTER = 70  # places of a label of the time axis
FEW = 80  # points that are drawn as dots too
STEPS: Final = (1, 5, 15, 30, *STEPS_S)

Numbers = Sequence[float | None]


def plot(told: Mapping[str, Any], *, width: int) -> Markup:
    """Of what the API says of a moment of a series: the value with its band, and the score with its threshold below."""
    points, at = told["points"], _Scale(told["points"]["time"], LEFT, width - RIGHT)
    height = TOP + VALUE + BETWEEN + SCORE + AXIS
    parts = [
        *_value(points, at, width, told["unit"]),
        *_score(points, at, width),
        *_times(at, TOP + VALUE + BETWEEN + SCORE, width),
        _moment(at(told["time"])),
    ]
    title = f"{told['name']}: value, expected band and score"
    return _svg(width, height, parts, title)


def outlook(told: Mapping[str, Any], *, width: int) -> Markup:
    """Of a forecast: what came, and what is expected with its interval."""
    at = _Scale([*told["past_time"][:1], *told["time"][-1:]], LEFT, width - RIGHT)
    height = TOP + VALUE + AXIS
    limit = told["limit"]
    up = _Up([*told["past"], *told["expected"], limit], [(told["lower"], told["upper"])], TOP, TOP + VALUE)
    parts = [
        *_grid(up, width),
        _area(at, up, told["time"], told["lower"], told["upper"], "ahead"),
        *_lines(at, up, told["past_time"], told["past"], "value"),
        *_lines(at, up, told["time"], told["expected"], "expected"),
        *([_level(up(limit), width, "limit")] if _known(limit) else []),
        *_times(at, TOP + VALUE, width),
    ]
    return _svg(width, height, parts, f"{told['name']}: what came and what is expected")


def _value(points: Mapping[str, Numbers], at: _Scale, width: int, unit: str) -> Iterator[str]:
    time, value = points["time"], points["value"]
    up = _Up(value, [(points["lower"], points["upper"])], TOP, TOP + VALUE)
    yield from _grid(up, width)
    yield _area(at, up, time, points["lower"], points["upper"], "band")
    yield from _lines(at, up, time, points["expected"], "expected")
    yield from _lines(at, up, time, value, "value")
    for t, v, score in zip(time, value, points["score"], strict=True):
        over = _known(score) and score >= 1
        if _known(v) and (over or len(time) <= FEW):
            kind = "over" if over else "dot"
            yield f'<circle cx="{at(t):.1f}" cy="{up(v):.1f}" r="{2.6 if over else 1.6}" class="{kind}"/>'
    if unit:
        yield f'<text x="{LEFT + 4}" y="{TOP + 12}" class="unit">{escape(visible(shown_unit(unit)))}</text>'


def _score(points: Mapping[str, Numbers], at: _Scale, width: int) -> Iterator[str]:
    top, bottom = TOP + VALUE + BETWEEN, TOP + VALUE + BETWEEN + SCORE
    score = [min(one, MOST_SCORE) if _known(one) else None for one in points["score"]]
    highest = max([1.5, *(1.1 * one for one in score if one is not None)])
    up = _Up([0.0, highest], [], top, bottom, pad=0.0)
    zero = [0.0 if one is not None else None for one in score]
    yield _area(at, up, points["time"], zero, score, "score")
    yield from _lines(at, up, points["time"], score, "score")
    yield _level(up(1.0), width, "threshold")
    yield f'<text x="{LEFT - 6}" y="{up(1.0) + 4:.1f}" text-anchor="end">1</text>'
    cut = f" (cut at {MOST_SCORE:g})" if any(_known(one) and one > MOST_SCORE for one in points["score"]) else ""
    yield f'<text x="{LEFT + 4}" y="{top - 5}" class="unit">score; 1 is the threshold{cut}</text>'


class _Scale:
    """Times to places."""

    def __init__(self, times: Numbers, left: float, right: float) -> None:
        known = [one for one in times if _known(one)] or [0.0, 1.0]
        self.first, self.last = min(known), max(known)
        self.left, self.right = left, right

    def __call__(self, time: Any) -> float:
        share = (time - self.first) / ((self.last - self.first) or 1.0)
        return float(self.left + min(max(share, 0.0), 1.0) * (self.right - self.left))


class _Up:
    """Values to heights: all values, and of a band what does not make the values small."""

    def __init__(
        self, values: Numbers, bands: Sequence[tuple[Numbers, Numbers]], top: float, bottom: float, pad: float = 0.08
    ) -> None:
        known = [one for one in values if _known(one)] or [0.0, 1.0]
        low, high = min(known), max(known)
        span = max(high - low, abs(high) * 0.02, 1e-12)
        for lower, upper in bands:
            lows, highs = ([one for one in some if _known(one)] for some in (lower, upper))
            low = min([low, *(max(one, low - span) for one in lows)])
            high = max([high, *(min(one, high + span) for one in highs)])
        room = pad * max(high - low, span)
        self.low, self.high, self.top, self.bottom = low - room, high + room, top, bottom

    def __call__(self, value: Any) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return float(self.bottom - min(max(share, 0.0), 1.0) * (self.bottom - self.top))


def _grid(up: _Up, width: int) -> Iterator[str]:
    for tick in ticks(up.low, up.high, 5):
        y = up(tick)
        yield f'<line x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(number(tick))}</text>'


def _times(at: _Scale, y: float, width: int) -> Iterator[str]:
    most = max(2, (width - LEFT - RIGHT) // LETTER)
    step = next((one for one in STEPS if (at.last - at.first) / one <= most), STEPS[-1])
    first = math.ceil(at.first / step) * step
    yield f'<text x="4" y="{y + 15}">UTC</text>'
    for time in range(first, int(at.last) + 1, step):
        moment, x = datetime.fromtimestamp(time, UTC), at(time)
        clock = f"{moment:%H:%M:%S}" if step < 60 else f"{moment:%H:%M}"
        text = f"{moment:%b} {moment.day}" if step >= 86_400 else clock
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{y}" class="grid"/>'
        if LEFT <= x <= width - 20:
            yield f'<text x="{x:.1f}" y="{y + 15}" text-anchor="middle">{text}</text>'


def _lines(at: _Scale, up: _Up, time: Numbers, values: Numbers, kind: str) -> Iterator[str]:
    for run in _runs(values):
        shown = " ".join(f"{at(time[k]):.1f},{up(values[k]):.1f}" for k in run)
        yield f'<polyline points="{shown}" class="line {kind}"/>'


def _area(at: _Scale, up: _Up, time: Numbers, lower: Numbers, upper: Numbers, kind: str) -> str:
    found = []
    for run in _runs([low if _known(high) else None for low, high in zip(lower, upper, strict=True)]):
        there = [f"{at(time[k]):.1f},{up(upper[k]):.1f}" for k in run]
        back = [f"{at(time[k]):.1f},{up(lower[k]):.1f}" for k in reversed(run)]
        found.append(f'<polygon points="{" ".join(there + back)}" class="area {kind}"/>')
    return "".join(found)


def _level(y: float, width: int, kind: str) -> str:
    return f'<line x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="level {kind}"/>'


def _moment(x: float) -> str:
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + VALUE + BETWEEN + SCORE}" class="moment"/>'


def _runs(values: Numbers) -> list[list[int]]:
    """Places of values that follow each other."""
    runs: list[list[int]] = []
    for k, value in enumerate(values):
        if _known(value):
            if runs and runs[-1][-1] == k - 1:
                runs[-1].append(k)
            else:
                runs.append([k])
    return runs


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _svg(width: int, height: float, parts: Sequence[str], title: str) -> Markup:
    """Only what was escaped, or made of numbers here, stands in the parts."""
    return Markup('<svg viewBox="0 0 {} {}" width="{}" class="plot" role="img" aria-label="{}">{}</svg>').format(
        width, f"{height:.0f}", width, visible(title), Markup("".join(parts))
    )
