"""The page of a report: one HTML file without scripts and without the network, for people who have to decide."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from otel_aiops.labels import Labels
from otel_aiops.lifecycle import charts
from otel_aiops.lifecycle.charts import BLUE, GREY, ORANGE
from otel_aiops.lifecycle.report import PAGE, REPORT, Report, Side
from otel_aiops.series.disk import storage_errors, whole_file

COLOURS = {"candidate": BLUE, "champion": ORANGE, "baseline": GREY}
ROLES = {"candidate": "this version", "champion": "champion", "baseline": "baseline"}
BEGUN = {"bundle": "what it had learned", "history": "the points before the hold-out"}
MOST_ROWS = 30
BETTER = {"precision": 1, "recall": 1, "covered": 1, "fault_recall": 1, "false_a_week": -1, "cases_wrong": -1}
STYLE = """
:root { color-scheme: light; } * { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f23; background: #f6f7f8; margin: 0; }
main { max-width: 1000px; margin: 0 auto; padding: 24px 24px 60px; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 17px; margin: 0 0 6px; }
header p, .quiet { color: #57606a; margin: 2px 0; font-size: 13px; }
section { background: #fff; border: 1px solid #d9dee3; border-radius: 8px; padding: 16px 20px; margin-top: 16px; }
.cards { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin-top: 16px; }
.card { background: #fff; border: 1px solid #d9dee3; border-radius: 8px; padding: 12px 16px; }
.card b { display: block; font-size: 26px; line-height: 1.25; } .card span { color: #57606a; font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; color: #57606a; font-weight: 600; }
td, th { padding: 4px 10px 4px 0; vertical-align: top; }
tr + tr td { border-top: 1px solid #eceff1; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.best { font-weight: 700; } code { font-size: 12.5px; overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; display: block; } svg text { font: 11px system-ui, sans-serif; fill: #57606a; }
.grid { stroke: #e4e8eb; } .rail { stroke: #e4e8eb; } .trough { fill: #eef1f3; } .event { fill: #f3d9a8; opacity: .7; }
.key { font-size: 13px; color: #57606a; } .key i { display: inline-block; width: 12px; height: 12px;
margin: 0 5px 0 14px; border-radius: 2px; vertical-align: -1px; } .yes { color: #00664b; } .no { color: #a63d00; }
.two { display: grid; grid-template-columns: 340px 1fr; gap: 24px; align-items: start; }
@media (max-width: 760px) { .cards { grid-template-columns: 1fr 1fr; } .two { grid-template-columns: 1fr; } }
"""


def save(report: Report, folder: Path) -> None:
    """Write a report beside its version, as JSON and as a page. Raises: StorageError."""
    with storage_errors(f"writing a report to {folder}"):
        with whole_file(folder / REPORT) as file:
            file.write(json.dumps(report.to_json(), indent=1, sort_keys=True, allow_nan=False).encode())
        with whole_file(folder / PAGE) as file:
            file.write(page(report).encode("utf-8", "replace"))


def page(report: Report) -> str:
    """The report as one HTML page."""
    parts = [
        _header(report),
        _cards(report),
        _section("Side by side", "All on the same points, none of which had been learned from.", _figures(report)),
        _section("Alerts over time", _timeline_words(report), _key(report.sides), _timeline(report)),
        _events(report),
        _faults(report),
        _calibration(report),
        _noisiest(report),
        _cases(report),
        _origin(report),
    ]
    title = f"otel-aiops: version {escape(report.version)}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _header(report: Report) -> str:
    scope = f"{report.series} series" + (f", drawn of {report.drawn_of}" if report.drawn_of > report.series else "")
    lines = [
        f"Held out: {_time(report.window[0])} to {_time(report.window[1])} UTC ({7 * report.weeks:.1f} days), {scope}.",
        " · ".join(
            text
            for text in (
                f"dataset {report.dataset}" if report.dataset else "",
                f"objective {report.objective}" if report.objective else "",
                f"budget {report.budget:.3g} alerts a week",
            )
            if text
        ),
        *((f"What verdicts changed: {report.feedback.sentence()}.",) if report.feedback else ()),
        *report.notes,
    ]
    shown = "".join(f"<p>{escape(one)}</p>" for one in lines)
    return f"<header><h1>Version <code>{escape(report.version)}</code></h1>{shown}</header>"


def _cards(report: Report) -> str:
    mine = report.candidate
    figures, champion = mine.figures(), report.side("champion")
    before = champion.figures() if champion else None
    known = len(mine.events)
    events = _of_events(figures) if known else "none labelled"
    cards = [
        ("events that had an alert", events, f"champion: {_of_events(before)}" if before and known else ""),
        ("false alerts a week", _fixed(figures["false_a_week"]), _than(before, "false_a_week", _fixed)),
        ("injected faults found", _percent(figures["fault_recall"]), _than(before, "fault_recall", _percent)),
        (
            "frozen cases right",
            f"{len(mine.cases) - int(figures['cases_wrong'])} of {len(mine.cases)}" if mine.cases else "no cases",
            f"champion: {int(before['cases'] - before['cases_wrong'])}" if before and before["cases"] else "",
        ),
    ]
    shown = "".join(
        f'<div class="card"><span>{name}</span><b>{value}</b><span>{than or "&nbsp;"}</span></div>'
        for name, value, than in cards
    )
    return f'<div class="cards">{shown}</div>'


def _of_events(figures: dict[str, float]) -> str:
    return f"{figures['events'] - figures['missed']:.0f} of {figures['events']:.0f}"


def _than(before: dict[str, float] | None, name: str, text: Callable[[float], str]) -> str:
    return f"champion: {text(before[name])}" if before and math.isfinite(before[name]) else ""


def _figures(report: Report) -> str:
    many = [side.figures() for side in report.sides]
    rows: list[tuple[str, str, list[str]]] = [
        ("alerts", "", [f"{one['alerts']:.0f}" for one in many]),
        ("false alerts a week (95 % interval)", "false_a_week", [_rate(one) for one in many]),
        ("of these called false by somebody", "", [f"{one['called_false']:.0f}" for one in many]),
        ("precision", "precision", [_percent(one["precision"]) for one in many]),
        ("recall of labelled events", "recall", [_percent(one["recall"]) for one in many]),
        ("time of events covered", "covered", [_percent(one["covered"]) for one in many]),
        ("median delay", "", [_span(one["delay_s"]) for one in many]),
        ("injected faults found", "fault_recall", [_percent(one["fault_recall"]) for one in many]),
        ("median delay of these", "", [_span(one["fault_delay_s"]) for one in many]),
        ("calibration error", "", [_fixed(one["calibration_error"], 3) for one in many]),
        ("frozen cases wrong", "cases_wrong", [f"{one['cases_wrong']:.0f} of {one['cases']:.0f}" for one in many]),
        ("CPU time a point", "", [f"{_fixed(one['us_per_point'])} µs" for one in many]),
        ("memory a series", "", [f"{one['bytes_per_series']:.0f} B" for one in many]),
    ]
    head = "".join(f'<th class="n">{ROLES[one.role]}<br><code>{escape(one.name)}</code></th>' for one in report.sides)
    body = []
    for name, key, texts in rows:
        best = _best([one[key] for one in many], texts, BETTER[key]) if key else set()
        cells = "".join(
            f'<td class="n{" best" if k in best else ""}">{escape(text)}</td>' for k, text in enumerate(texts)
        )
        body.append(f"<tr><td>{name}</td>{cells}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(body)}</table>"


def _best(values: Sequence[float], texts: Sequence[str], sign: int) -> set[int]:
    """Who is best, as far as can be seen, where not all are equal.

    >>> _best([0.531, 0.534, 0.38], ["53%", "53%", "38%"], 1), _best([0.0, 0.0], ["0", "0"], -1)
    ({0, 1}, set())
    """
    known = [sign * one for one in values if math.isfinite(one)]
    if len(known) < 2:
        return set()
    first = texts[next(k for k, one in enumerate(values) if sign * one == max(known))]
    best = {k for k, text in enumerate(texts) if text == first}
    return best if len(best) < len(known) else set()


def _timeline_words(report: Report) -> str:
    events = len(report.candidate.events)
    said = f"Shaded: the {events} labelled events." if events else "Nothing is labelled in this time."
    return f"{said} An alert is the first of its service; those that came to it within minutes are with it."


def _timeline(report: Report) -> str:
    lanes = [
        (
            ROLES[side.role],
            COLOURS[side.role],
            [(one.start_ns, one.end_ns, f"{_time(one.start_ns)} {series_text(one.series)}") for one in side.alerts],
        )
        for side in report.sides
    ]
    return charts.timeline(report.window, lanes, _bands(report))


def _bands(report: Report) -> list[tuple[int, int, str]]:
    events = (one.event for one in report.candidate.events)
    return [(one.start_ns, one.end_ns, f"{one.name} ({one.source})") for one in events]


def _events(report: Report) -> str:
    mine = report.candidate.events
    if not mine:
        return _section("Events", "Nobody has labelled anything in this time, so only injected faults tell.")
    head = "".join(f"<th>{ROLES[one.role]}</th>" for one in report.sides)
    order = sorted(range(len(mine)), key=lambda k: (mine[k].caught, -mine[k].event.confidence, mine[k].event.start_ns))
    body = []
    for k in order[:MOST_ROWS]:
        event = mine[k].event
        where = ", ".join(event.services) or ", ".join(map(series_text, event.series)) or "all"
        cells = "".join(f"<td>{_caught(side, k)}</td>" for side in report.sides)
        sure = "" if event.confidence == 1 else f" ({event.confidence:.0%} sure)"
        body.append(
            f"<tr><td>{_time(event.start_ns)}</td><td>{escape(_cut(event.name))}<br>"
            f'<span class="quiet">{escape(event.source)}{sure}</span></td><td>{escape(_cut(where))}</td>{cells}</tr>'
        )
    table = f"<table><tr><th>began</th><th>event</th><th>where</th>{head}</tr>{''.join(body)}</table>"
    return _section("Labelled events", "What was missed stands first.", table, _more(len(order) - MOST_ROWS))


def _caught(side: Side, k: int) -> str:
    one = side.events[k]
    if not one.caught:
        return '<span class="no">missed</span>'
    when = f"after {_span(one.delay_s)}" if one.delay_s >= 0 else f"{_span(-one.delay_s)} before"
    return f'<span class="yes">{when}</span>, {one.covered:.0%} of it'


def _faults(report: Report) -> str:
    kinds = list(dict.fromkeys(kind for side in report.sides for kind in side.by_kind()))
    if not kinds:
        return _section("Injected faults", "No series has enough points for a fault to be put in.")
    groups = {}
    for kind in kinds:
        rows = []
        for side in report.sides:
            found, tried = side.by_kind().get(kind, (0, 0))
            share = found / tried if tried else float("nan")
            rows.append((ROLES[side.role], COLOURS[side.role], share, f"{found} of {tried}"))
        groups[kind.replace("_", " ")] = rows
    words = "Each kind was put in copies of the same series at the same times; found is an alert in its time."
    return _section("Injected faults", words, _key(report.sides), charts.bars(groups))


def _calibration(report: Report) -> str:
    sides = [(one.name, COLOURS[one.role], one.probability) for one in report.sides if sum(one.probability)]
    if not sides:
        return ""
    words = (
        "<p>A probability of 99 % says that one point in a hundred is this unusual or more. On the dashed line that is "
        "so. Above it more points are called that unusual than should be, and alerts come too easily; "
        "below it the detector is more careful than it says. Alerts come from the lower left end, where few points "
        "are; a bend further to the right is about points that nobody is told of.</p>"
    )
    return _section(
        "Are its probabilities true?",
        "",
        f'<div class="two">{charts.reliability(sides)}<div>{words}{_key(report.sides)}</div></div>',
    )


def _noisiest(report: Report) -> str:
    if not report.pictures:
        return _section("Series with most alerts", "No series has an alert.")
    count = Counter(one.series for one in report.candidate.alerts)
    shown = []
    for one in report.pictures:
        marks = [
            (alert.start_ns, alert.end_ns, f"{_time(alert.start_ns)} {alert.channel}, peak {alert.peak:.2g}")
            for alert in report.candidate.alerts
            if alert.series == one.series
        ]
        service = Labels.from_json(one.series).service
        bands = [
            (of.event.start_ns, of.event.end_ns, of.event.name)
            for of in report.candidate.events
            if of.event.concerns(one.series, service)
        ]
        told = f"{count[one.series]} alert{'s' * (count[one.series] != 1)} of this version"
        told = told if count[one.series] else "with the alerts of another series of its service"
        shown.append(
            f"<p><code>{escape(series_text(one.series))}</code> <span class='quiet'>{told}</span></p>"
            + charts.line(one.values, report.window, marks, bands)
        )
    return _section("Series with most alerts", "Red: alerts of this version. Shaded: events of its service.", *shown)


def _cases(report: Report) -> str:
    mine = report.candidate.cases
    if not mine:
        return _section("What verdicts changed", "No verdict has become a frozen case yet.")
    champion = report.side("champion")
    before = {one.id: one.right for one in champion.cases} if champion else {}
    order = sorted(mine, key=lambda one: (one.right, before.get(one.id, one.right) == one.right, one.time_ns))
    body = "".join(
        f"<tr><td>{_time(one.time_ns)}</td><td>{escape(one.kind.replace('_', ' '))}</td>"
        f"<td><code>{escape(series_text(one.series))}</code></td><td>{_right(one.right)}</td>"
        f"<td>{_right(before[one.id]) if one.id in before else '-'}</td><td class='n'>{one.peak:.2f}</td></tr>"
        for one in order[:MOST_ROWS]
    )
    names = "".join(f"<th>{one}</th>" for one in ("time", "verdict", "series", "this version", "champion"))
    head = f"<tr>{names}<th class='n'>peak</th></tr>"
    fixed = sum(one.right and not before.get(one.id, True) for one in mine)
    broken = sum(not one.right and before.get(one.id, False) for one in mine)
    words = f"{sum(one.right for one in mine)} of {len(mine)} right; {fixed} put right, {broken} made wrong."
    return _section("What verdicts changed", words, f"<table>{head}{body}</table>", _more(len(mine) - MOST_ROWS))


def _right(right: bool) -> str:
    return '<span class="yes">right</span>' if right else '<span class="no">wrong</span>'


def _origin(report: Report) -> str:
    changed = {name: f"{_setting(one[0])} → {_setting(one[1])}" for name, one in report.changed.items()}
    lineage = {name: value for name, value in report.lineage.items() if value not in ("", 0, None)}
    if "until_ns" in lineage:
        lineage["learned until"] = _time(int(lineage.pop("until_ns")))
    begun = {f"{ROLES[one.role]} began with": BEGUN.get(one.begun, one.begun) for one in report.sides}
    quality = {name.replace("_", " "): _plain(value) for name, value in report.quality.items() if value not in ("", [])}
    tables = [
        _pairs("Settings that differ from the champion's", changed or {"": "none"}),
        _pairs("Where it comes from", {**lineage, **begun, "seed": report.seed}),
        _pairs("Data quality", quality or {"": "not known"}),
    ]
    return _section("Lineage and data", "", *tables)


def _pairs(title: str, values: Mapping[str, object]) -> str:
    rows = "".join(
        f"<tr><td style='width:34%'>{escape(str(name))}</td><td><code>{escape(str(value))}</code></td></tr>"
        for name, value in values.items()
    )
    return f"<p><b>{title}</b></p><table>{rows}</table>"


def _key(sides: Iterable[Side]) -> str:
    shown = "".join(f'<i style="background:{COLOURS[one.role]}"></i>{ROLES[one.role]}' for one in sides)
    return f'<p class="key">{shown}</p>'


def _section(title: str, words: str, *parts: str) -> str:
    told = f'<p class="quiet">{escape(words)}</p>' if words else ""
    return f"<section><h2>{title}</h2>{told}{''.join(parts)}</section>"


def _more(count: int) -> str:
    return f'<p class="quiet">and {count} more</p>' if count > 0 else ""


def series_text(text: str) -> str:
    """A series for people; what is none stays as it is."""
    try:
        return str(Labels.from_json(text))
    except ValueError:
        return text


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _setting(value: object) -> str:
    """A setting for people.

    >>> _setting(None), _setting({"gain": 0.05, "trees": 25}), _setting(True)
    ('none', 'gain 0.05, trees 25', 'True')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_setting(one)}" for name, one in value.items())
    return "none" if value is None else str(value)


def _percent(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "-"


def _fixed(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def _rate(one: dict[str, float]) -> str:
    rate, low, high = (_fixed(one[name]) for name in ("false_a_week", "false_a_week_low", "false_a_week_high"))
    return f"{rate} ({low} to {high})"


def _span(seconds: float) -> str:
    """A time for people.

    >>> _span(90.0), _span(5400.0), _span(float("nan"))
    ('90 s', '1.5 h', '-')
    """
    if not math.isfinite(seconds):
        return "-"
    for size, name in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size or (name != "min" and seconds >= size):
            return f"{seconds / size:.2g} {name}"
    return f"{seconds:.0f} s"


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M")


def _cut(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
