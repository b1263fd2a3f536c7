"""Pictures for people, as PNG: an explanation with its band, score and similar moments, and a forecast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_aiops.batch.recordings import moment
from otel_aiops.errors import BadInput
from otel_aiops.otlp.points import F64

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from otel_aiops.batch.explain import Alike, Explanation
    from otel_aiops.batch.outlook import Outlook

SIZE_IN, DPI = (12.0, 8.0), 100  # 1200 x 800
# Okabe and Ito (2008), Color universal design: told apart by all kinds of colour vision.
BLUE, SKY, ORANGE, RED, GREY = "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#666666"
TITLE = 150  # characters
MOST_SCORE = 8.0  # higher scores are drawn at this height, or the threshold could not be seen
NAMES = {"s": "seconds", "By": "bytes", "1": "", "ms": "milliseconds"}


def plot_explanation(found: Explanation, path: Path) -> None:
    """The value with its band, the score below with its threshold, similar moments as small panels.

    Raises: BadInput when the file cannot be written, or matplotlib is not installed.
    """
    rows = [5.0, 2.2, 2.4] if found.alike else [5.0, 2.2]
    figure = _figure()
    outer = figure.add_gridspec(len(rows), 1, height_ratios=rows)
    value = figure.add_subplot(outer[0])
    score = figure.add_subplot(outer[1], sharex=value)
    _draw_value(value, found)
    _draw_score(score, found)
    _utc(score)
    value.tick_params(labelbottom=False)
    figure.suptitle(f"{_cut(found.series)}\n{_cut(f'{moment(round(found.time * 1e9))}: {found.reason}')}", fontsize=10)
    if found.alike:
        inner = outer[2].subgridspec(1, max(3, len(found.alike)))
        for k, one in enumerate(found.alike):
            _draw_alike(figure.add_subplot(inner[k]), one, found, first=k == 0)
    _save(figure, path)


def plot_forecast(found: Outlook, path: Path) -> None:
    """What came, what is expected with its interval, the limit and when it is reached. Raises as `plot_explanation`."""
    figure = _figure()
    axes = figure.add_subplot()
    axes.plot(_dates(found.past_time), found.past, color=BLUE, linewidth=1.1, label="value")
    ahead = _dates(found.time)
    share = f"{found.coverage:.0%} of futures"
    axes.fill_between(ahead, found.lower, found.upper, color=ORANGE, alpha=0.3, linewidth=0, label=share)
    axes.plot(ahead, found.expected, color=ORANGE, linewidth=1.8, label=f"forecast ({found.method})")
    axes.axvline(_dates(np.array([found.last_time]))[0], color=GREY, linewidth=1, linestyle=":", label="now")
    drawn = [found.limit] if np.isfinite(found.limit) else []
    if drawn:
        axes.axhline(found.limit, color=RED, linewidth=1.4, linestyle="--", label=f"limit {found.limit:.4g}")
        _draw_reached(axes, found)
    axes.set_ylim(*_limits(np.concatenate([found.past, found.expected, drawn]), found.lower, found.upper))
    axes.set_ylabel(f"{_cut(found.name, 60)}{_unit(found.unit)}")
    _utc(axes)
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", fontsize=9, framealpha=0.8, ncols=5)
    reached = f"\nlimit: {found.exhaustion.reason}" if found.exhaustion else ""
    figure.suptitle(f"{_cut(found.series)}{_cut(reached)}", fontsize=10)
    _save(figure, path)


def _draw_reached(axes: Axes, found: Outlook) -> None:
    """When the limit is likely reached, with the earliest and latest time."""
    reached = found.exhaustion
    if reached is None or not reached.time_s >= 0:
        return
    ends = [reached.earliest_s, reached.latest_s if reached.latest_s >= 0 else found.horizon_s]
    span = _dates(found.last_time + np.array(ends))
    axes.plot(span, [found.limit, found.limit], color=RED, linewidth=5, alpha=0.4, label="earliest to latest")
    at = _dates(np.array([found.last_time + reached.time_s]))
    axes.plot(at, [found.limit], "D", color=RED, markersize=8, label="likely reached")


def _draw_value(axes: Axes, found: Explanation) -> None:
    points = found.points
    time = _dates(points.time)
    if np.isfinite(points.lower).any():
        axes.fill_between(time, points.lower, points.upper, color=SKY, alpha=0.3, linewidth=0, label="expected band")
        axes.plot(time, points.expected, color=SKY, linewidth=1, linestyle="--", label="expected")
    axes.plot(time, points.value, color=BLUE, linewidth=1.2, marker="." if len(time) < 60 else "", label="value")
    over = points.score >= 1
    axes.plot(time[over], points.value[over], ".", color=RED, markersize=5, label="over the threshold")
    at = _dates(np.array([found.time]))
    axes.axvline(at[0], color=GREY, linewidth=1, linestyle=":")
    axes.plot(at, [found.value], "o", markersize=9, markerfacecolor="none", markeredgecolor="black", label="the moment")
    axes.set_ylabel(f"{_cut(found.name, 40)}{_unit(found.unit)}")
    axes.set_ylim(*_limits(points.value, points.lower, points.upper))
    axes.legend(loc="upper left", fontsize=8, framealpha=0.8, ncols=5)
    axes.grid(alpha=0.25)


def _draw_score(axes: Axes, found: Explanation) -> None:
    points = found.points
    time, score = _dates(points.time), np.minimum(points.score, MOST_SCORE)
    axes.fill_between(time, 0, score, color=ORANGE, alpha=0.35, linewidth=0)
    axes.plot(time, score, color=ORANGE, linewidth=1.2)
    axes.axhline(1.0, color=RED, linewidth=1.2, linestyle="--")
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right"}
    axes.annotate("threshold", (1.0, 1.0), (-4, 3), color=RED, fontsize=8, **place)
    axes.axvline(_dates(np.array([found.time]))[0], color=GREY, linewidth=1, linestyle=":")
    highest = float(np.nanmax(score, initial=0.0))
    axes.set_ylim(0, max(1.6, 1.1 * highest))
    axes.set_ylabel(f"score{f' (cut at {MOST_SCORE:.0f})' if (points.score > MOST_SCORE).any() else ''}")
    axes.grid(alpha=0.25)


def _draw_alike(axes: Axes, one: Alike, found: Explanation, *, first: bool) -> None:
    """The window before the similar moment, and how it went on."""
    minutes = (np.arange(len(one.shape) + len(one.after)) + 1 - len(one.shape)) * one.step_s / 60
    values = np.concatenate([one.shape, one.after])
    n = len(one.shape)
    axes.plot(minutes[:n], values[:n], color=BLUE, linewidth=1.2)
    axes.plot(minutes[n - 1 :], values[n - 1 :], color=BLUE, linewidth=1.2, linestyle=":")
    axes.axvline(0, color=GREY, linewidth=1, linestyle=":")
    axes.set_title(f"{moment(round(one.time * 1e9))[:-7]} UTC\ndistance {one.distance:.2f}", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_xlabel("minutes from then", fontsize=8)
    if first:
        axes.set_ylabel(f"looked alike\n(dotted: after){_unit(found.unit)}", fontsize=8)
    axes.grid(alpha=0.25)


# -- what all pictures share --------------------------------------------------------------------------------------


def _figure() -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BadInput(f"a plot needs matplotlib, which cannot be imported: {error}") from error
    figure = Figure(figsize=SIZE_IN, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        figure.savefig(temporary, format="png")
        temporary.replace(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _dates(time_s: F64) -> Any:
    """Unix seconds as what matplotlib takes for times of UTC."""
    return np.round(time_s * 1e3).astype("datetime64[ms]")


def _utc(axes: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=5, maxticks=12)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_xlabel("time (UTC)")


def _limits(value: F64, lower: F64, upper: F64) -> tuple[float, float]:
    """What is shown: all values, and of the band what does not make the values small."""
    good = value[np.isfinite(value)]
    low, high = float(good.min()), float(good.max())
    span = max(high - low, abs(high) * 0.02, 1e-12)
    ends = [np.nanquantile(end, q) for end, q in ((lower, 0.05), (upper, 0.95)) if np.isfinite(end).any()]
    if ends:
        low, high = min(low, max(ends[0], low - span)), max(high, min(ends[1], high + span))
    pad = 0.08 * max(high - low, span)
    return low - pad, high + 2.5 * pad  # room for the legend


def _unit(unit: str) -> str:
    shown = NAMES.get(unit, unit.strip("{}"))
    return f" ({shown})" if shown else ""


def _cut(text: str, most: int = TITLE) -> str:
    text = text.replace("$", r"\$")  # or it would be read as mathematics
    return text if len(text) <= most else f"{text[: most - 1]}…"
