"""Charts: small pictures as SVG text for pages that must work without any network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import pairwise

# Okabe and Ito (2008), Color universal design: told apart by all kinds of colour vision.
BLUE, ORANGE, RED, GREY = "#0072B2", "#E69F00", "#D55E00", "#767676"
WIDTH = 900
LEFT, RIGHT = 120, 12  # of a chart with names at the left
TICKS = 6
GAP = 3  # times the usual step, that a line goes over
S = 1_000_000_000
STEPS_S = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400, 2 * 86_400, 7 * 86_400, 14 * 86_400, 28 * 86_400)


def timeline(
    window: tuple[int, int],
    lanes: Sequence[tuple[str, str, Sequence[tuple[int, int, str]]]],
    bands: Sequence[tuple[int, int, str]] = (),
) -> str:
    """Lanes of marks over time: (name, colour, [(start_ns, end_ns, text for the pointer)]); bands lie behind all."""
    height = 26 * len(lanes) + 30
    at = _scale(window, LEFT, WIDTH - RIGHT)
    parts = [_band(at, start, end, text, 6, height - 30) for start, end, text in bands]
    for number, (name, colour, marks) in enumerate(lanes):
        y = 8 + 26 * number
        parts.append(f'<text x="{LEFT - 10}" y="{y + 14}" text-anchor="end">{escape(_short(name, 17))}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y + 10}" y2="{y + 10}" class="rail"/>')
        for start, end, text in marks:
            x, x2 = at(start), at(end)
            parts.append(
                f'<rect x="{x - 1.5:.1f}" y="{y + 2}" width="{max(3.0, x2 - x + 3):.1f}" height="16" rx="1.5"'
                f' fill="{colour}" fill-opacity="0.85"><title>{escape(text)}</title></rect>'
            )
    parts += _time_axis(window, at, height - 18, 6, LEFT)
    return _svg(WIDTH, height, parts, "alerts over time")


def line(
    values: Sequence[float],
    window: tuple[int, int],
    marks: Sequence[tuple[int, int, str]] = (),
    bands: Sequence[tuple[int, int, str]] = (),
) -> str:
    """One series over time, NaN as gaps; alerts are marked below it, bands lie behind."""
    height, left, bottom = 150, 58, 118
    known = [one for one in values if math.isfinite(one)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    pad = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    low, high = low - pad, high + pad
    at = _scale(window, left, WIDTH - RIGHT)
    step = (WIDTH - RIGHT - left) / max(len(values), 1)
    parts = [_band(at, start, end, text, 6, bottom) for start, end, text in bands]
    for tick in ticks(low, high, 4):
        y = bottom - (tick - low) / (high - low) * (bottom - 8)
        parts.append(f'<line x1="{left}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for run in _runs(values):
        shown = [
            f"{left + (k + 0.5) * step:.1f},{bottom - (values[k] - low) / (high - low) * (bottom - 8):.1f}" for k in run
        ]
        shown += shown[: len(shown) == 1]  # one alone is a dot
        parts.append(
            f'<polyline points="{" ".join(shown)}" fill="none" stroke="{BLUE}" stroke-width="1.2"'
            ' stroke-linecap="round"/>'
        )
    for start, end, text in marks:
        x = at(start)
        parts.append(
            f'<rect x="{x - 1.5:.1f}" y="{bottom - 4}" width="{max(3.0, at(end) - x + 3):.1f}" height="8" fill="{RED}">'
            f"<title>{escape(text)}</title></rect>"
        )
    parts += _time_axis(window, at, bottom + 8, 6, left)
    return _svg(WIDTH, height, parts, "values of a series with its alerts")


def bars(groups: Mapping[str, Sequence[tuple[str, str, float, str]]]) -> str:
    """Shares in 0 .. 1 as bars by group: (name, colour, share, text behind the bar); NaN has no bar."""
    rows = sum(len(one) for one in groups.values())
    height = 17 * rows + 12 * len(groups) + 8
    left, width = LEFT, WIDTH - LEFT - 130
    parts, y = [], 6
    for name, many in groups.items():
        middle = y + 17 * len(many) / 2 + 4
        parts.append(f'<text x="{left - 10}" y="{middle:.1f}" text-anchor="end">{escape(name)}</text>')
        for label, colour, share, text in many:
            known = share if math.isfinite(share) else 0.0
            parts.append(f'<rect x="{left}" y="{y}" width="{width}" height="13" class="trough"/>')
            parts.append(
                f'<rect x="{left}" y="{y}" width="{width * known:.1f}" height="13" fill="{colour}">'
                f"<title>{escape(f'{label}: {text}')}</title></rect>"
            )
            parts.append(f'<text x="{left + width + 8}" y="{y + 11}">{escape(text)}</text>')
            y += 17
        y += 12
    return _svg(WIDTH, height, parts, "shares by group")


def reliability(sides: Sequence[tuple[str, str, Sequence[float]]]) -> str:
    """Of points that are said to be this unusual, how many are: (name, colour, counts of probabilities in equal bins).

    On the diagonal is who tells the truth.
    """
    size, left, bottom = 330, 62, 280
    parts = []

    def x(p: float) -> float:
        return left + p * (size - left - 24)

    def y(p: float) -> float:
        return bottom - p * (bottom - 12)

    for p in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line x1="{x(p):.1f}" x2="{x(p):.1f}" y1="12" y2="{bottom}" class="grid"/>')
        parts.append(f'<line x1="{left}" x2="{x(1):.1f}" y1="{y(p):.1f}" y2="{y(p):.1f}" class="grid"/>')
        parts.append(f'<text x="{x(p):.1f}" y="{bottom + 15}" text-anchor="middle">{p:.0%}</text>')
        parts.append(f'<text x="{left - 6}" y="{y(p) + 4:.1f}" text-anchor="end">{p:.0%}</text>')
    parts.append(f'<line x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}" stroke="{GREY}" stroke-dasharray="4 3"/>')
    for name, colour, counts in sides:
        total, above, points = sum(counts), 0.0, [(x(0), y(0))]
        for k, count in enumerate(reversed(counts), 1):
            above += count
            if total:
                points.append((x(k / len(counts)), y(above / total)))
        parts.append(
            f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}" fill="none" stroke="{colour}"'
            f' stroke-width="2"><title>{escape(name)}</title></polyline>'
        )
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.6" fill="{colour}"/>' for a, b in points]
    parts.append(
        f'<text x="{(left + size) / 2:.0f}" y="{bottom + 32}" text-anchor="middle">said to be that unusual</text>'
    )
    middle = bottom / 2
    parts.append(
        f'<text x="14" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 14 {middle:.0f})">share of points'
        "</text>"
    )
    return _svg(size, 320, parts, "reliability of the probabilities")


def _svg(width: int, height: float, parts: Iterable[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" width="{width}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


class _scale:
    """Times to places, kept within the chart."""

    def __init__(self, window: tuple[int, int], left: float, right: float) -> None:
        self._start, self._span = window[0], max(window[1] - window[0], 1)
        self._left, self._right = left, right

    def __call__(self, time_ns: int) -> float:
        share = min(max((time_ns - self._start) / self._span, 0.0), 1.0)
        return self._left + share * (self._right - self._left)


def _band(at: _scale, start: int, end: int, text: str, top: float, bottom: float) -> str:
    x = at(start)
    return (
        f'<rect x="{x:.1f}" y="{top}" width="{max(2.0, at(end) - x):.1f}" height="{bottom - top}" class="event">'
        f"<title>{escape(text)}</title></rect>"
    )


def _time_axis(window: tuple[int, int], at: _scale, y: float, top: float, left: float) -> list[str]:
    span_s = (window[1] - window[0]) / S
    step_s = next((one for one in STEPS_S if span_s / one <= TICKS + 2), STEPS_S[-1])
    first = -(-window[0] // (step_s * S)) * step_s
    parts = []
    for time_s in range(first, window[1] // S + 1, step_s):
        x, moment = at(time_s * S), datetime.fromtimestamp(time_s, UTC)
        text = f"{moment:%b} {moment.day}" + ("" if step_s >= 86_400 else f" {moment:%H:%M}")
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{y}" class="grid"/>')
        if left + 20 <= x <= WIDTH - 40:
            parts.append(f'<text x="{x:.1f}" y="{y + 14}" text-anchor="middle">{text}</text>')
    return parts


def _runs(values: Sequence[float]) -> list[list[int]]:
    """Where values follow each other as they usually do: a gap is several times as long as the steps between them.

    >>> nan = math.nan
    >>> _runs([1, nan, 2, nan, 3, nan, nan, nan, nan, nan, nan, nan, 4])
    [[0, 2, 4], [12]]
    """
    known = [k for k, value in enumerate(values) if math.isfinite(value)]
    steps = sorted(later - k for k, later in pairwise(known))
    usual = steps[len(steps) // 2] if steps else 1
    runs: list[list[int]] = []
    for k in known:
        if runs and k - runs[-1][-1] <= GAP * usual:
            runs[-1].append(k)
        else:
            runs.append([k])
    return runs


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers in a range.

    >>> ticks(0.0, 10.0, 4)
    [0.0, 5.0, 10.0]
    """
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * one for one in (1, 2, 5, 10) if power * one >= raw)
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step) + 1)]


def number(value: float) -> str:
    """A number in few letters.

    >>> number(1_500_000.0), number(0.25), number(20.0)
    ('1.5M', '0.25', '20')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
