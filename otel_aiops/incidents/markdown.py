"""An incident as a Markdown post-mortem: what is known is filled in, what people must add is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from otel_aiops.incidents.incident import Evidence, Incident, Suspect
from otel_aiops.incidents.words import NO_CANDIDATE, quantity, told

S = 1_000_000_000
TRACES = 3  # example traces that are listed with a line of evidence
FOLLOW_UPS = (
    "What was the root cause, and how do we know?",
    "What made it worse, or kept it from being seen?",
    "What went well?",
    "What will be changed, by whom, until when?",
)


def post_mortem(incident: Incident) -> str:
    """The whole document; text of findings cannot break its tables."""
    parts = [
        [f"# Post-mortem: {_text(incident.title or incident.id)}", ""],
        [_text(incident.summary), ""],
        _impact(incident),
        _timeline(incident),
        _suspects(incident.suspects),
        _findings(incident),
        ["## Follow-ups", "", *(f"- [ ] {line}" for line in FOLLOW_UPS), ""],
    ]
    return "\n".join(line for part in parts for line in part)


def _impact(incident: Incident) -> list[str]:
    end_ns = incident.end_ns
    rows = [
        ("Incident", f"`{incident.id}`, revision {incident.revision}"),
        ("State", _state(incident)),
        ("Severity", str(incident.severity)),
        ("Start", _time(incident.start_ns)),
        (
            "Detected",
            f"{_time(incident.detected_ns)} ({_span(incident.detected_ns - incident.start_ns)} after the start)",
        ),
        ("End", f"{_time(end_ns)} ({_span(end_ns - incident.start_ns)} in all)" if end_ns else "not over"),
        ("Requests of users hit", f"{incident.users:,.0f}"),
        ("Services", ", ".join(incident.services) or "unknown"),
        ("Blast radius", ", ".join(incident.blast_radius) or "unknown"),
    ]
    if incident.slo_burn:
        rows.append(("Burn rate of the error budget", f"{incident.slo_burn:.3g}"))
    if incident.suppressed_by:
        rows.append(("Suppressed by", incident.suppressed_by))
    if incident.similar:
        rows.append(("Similar incidents", ", ".join(f"`{name}`" for name in incident.similar)))
    return ["## Impact", "", *_table(("", ""), rows), ""]


def _state(incident: Incident) -> str:
    into = f" into `{incident.merged_into}`" if incident.merged_into else ""
    flaps = f", came back {incident.flaps} times" if incident.flaps else ""
    return f"{incident.state}{into}{flaps}"


def _timeline(incident: Incident) -> list[str]:
    rows = [(_time(line.time_ns), line.kind, line.text) for line in incident.timeline]
    return ["## Timeline", "", *_table(("Time", "What", "Details"), rows), ""]


def _suspects(suspects: Sequence[Suspect]) -> list[str]:
    lines = ["## Suspects", ""]
    if not suspects:
        return [*lines, f"{NO_CANDIDATE}: no service has evidence enough.", ""]
    for number, suspect in enumerate(suspects, 1):
        where = [suspect.resource, suspect.operation, suspect.edge, suspect.deployment]
        place = "".join(f", {one}" for one in where if one)
        lines += [f"### {number}. {_text(suspect.service + place)}", ""]
        lines += [f"{_text(suspect.reason)} (score {suspect.score:.3g}, probability {suspect.confidence:.0%})", ""]
        if suspect.evidence:
            lines += [*_evidence(suspect.evidence), ""]
    return lines


def _findings(incident: Incident) -> list[str]:
    lines = ["## Findings", "", *_evidence(finding.evidence for finding in incident.findings)]
    if incident.more_findings:
        lines += ["", f"And {incident.more_findings:,} weaker ones."]
    return [*lines, ""]


def _evidence(seen: Iterable[Evidence]) -> list[str]:
    rows = [
        (
            one.service or one.resource,
            str(one.channel),
            one.text or told(one),
            quantity(one.before, one.unit),
            quantity(one.after, one.unit),
            f"{one.count:,}",
            " ".join(f"`{trace}`" for trace in one.traces[:TRACES]),
        )
        for one in seen
    ]
    return _table(("Service", "Channel", "What", "Before", "After", "Count", "Example traces"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [_row(heads), _row(["---"] * len(heads))]
    return [*lines, *(_row([_text(cell) for cell in row]) for row in rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    """One line that is text: no table cells, tags or links of its own."""
    line = " ".join(text.split())
    for mark in "\\|<>[]":
        line = line.replace(mark, f"\\{mark}")
    return line


def _time(time_ns: int) -> str:
    return f"{datetime.fromtimestamp(time_ns // S, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _span(span_ns: int) -> str:
    return quantity(max(span_ns, 0) / S, "s")
