"""Titles and summaries of incidents in plain words, made from what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from otel_aiops.incidents.incident import Channel, Evidence, Finding, Incident, State, Suspect

NO_CANDIDATE = "No candidate for the cause"
SYMPTOM_FIRST = (Channel.ERRORS, Channel.LATENCY, Channel.RATE, Channel.SILENCE)
TIMES = (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
SIZES = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
IN_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3_600.0}
TRAITS = {
    Channel.DEPLOYMENT: "has changed",
    Channel.RESOURCE: "is short of resources",
    Channel.ERRORS: "fails",
    Channel.LATENCY: "is slow",
    Channel.NETWORK: "waits for the network",
    Channel.SEQUENCE: "takes another path",
    Channel.LOGS: "logs something new",
    Channel.RATE: "has another load",
    Channel.SERIES: "is unusual",
    Channel.SILENCE: "is silent",
}


def quantity(value: float, unit: str) -> str:
    """A value with its unit, in three digits: 1.2 s, 80 ms, 12 %, 3.4 GB.

    >>> quantity(0.0804, "s"), quantity(0.25, "1"), quantity(1.5e9, "By"), quantity(12, "{requests}")
    ('80.4 ms', '25 %', '1.5 GB', '12 requests')
    """
    if not math.isfinite(value):
        return "nothing" if math.isnan(value) else str(value)
    if unit in IN_SECONDS:
        return _scaled(value * IN_SECONDS[unit], TIMES, "s")
    if unit == "By":
        return _scaled(value, SIZES, "B")
    if unit in ("1", "ratio"):
        return f"{_digits(100 * value)} %"
    unit = unit.strip("{}")
    return f"{_digits(value)} {unit}" if unit else _digits(value)


def _scaled(value: float, scale: Sequence[tuple[str, float]], base: str) -> str:
    for name, size in scale:
        if abs(value) >= size:
            return f"{_digits(value / size)} {name}"
    return f"{_digits(value)} {base}"


def _digits(value: float) -> str:
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def clock(time_ns: int) -> str:
    """A time of day in UTC: 14:03 UTC."""
    return f"{datetime.fromtimestamp(time_ns // 1_000_000_000, UTC):%H:%M} UTC"


def told(evidence: Evidence) -> str:
    """What was measured, in a clause that begins with what it is about."""
    seen = evidence
    after, before = quantity(seen.after, seen.unit), quantity(seen.before, seen.unit)
    if math.isnan(seen.after) or (math.isnan(seen.before) and seen.text):
        return seen.text.rstrip(".") or f"`{seen.what}` {TRAITS[seen.channel]}"
    instead = "" if math.isnan(seen.before) else f" instead of {before}"
    count = f" ({seen.count:,} requests)" if seen.count else ""
    if seen.channel is Channel.LATENCY:
        return f"`{seen.what}` takes {after}{instead}{count}"
    if seen.channel is Channel.ERRORS:
        share = f"in {after} of cases" if seen.unit in ("1", "ratio") else f"{after} times"
        return f"`{seen.what}` fails {share}{instead}{count}"
    if seen.channel is Channel.NETWORK:
        return f"the way to {seen.callee or seen.what} takes {after}{instead}{count}"
    if seen.channel in (Channel.RESOURCE, Channel.RATE, Channel.SERIES):
        where = f" on {seen.resource}" if seen.resource else ""
        return f"`{seen.what}`{where} is {after}{instead}"
    return seen.text.rstrip(".") or f"`{seen.what}` {TRAITS[seen.channel]}"


def leading(findings: Sequence[Finding]) -> Finding:
    """The finding that says best what is wrong: what users feel first, then the strongest."""
    return min(
        findings,
        key=lambda one: (
            one.score < 1,
            one.channel not in SYMPTOM_FIRST,
            -one.users,
            -one.score,
            one.start_ns,
            one.key,
        ),
    )


def title(incident: Incident) -> str:
    """One line: who does what."""
    if not incident.findings:
        return ", ".join(incident.services[:3])
    first = leading(incident.findings)
    others = len(set(incident.services) - {first.service})
    more = f" and {others} more service{'s' * (others > 1)}" if others else ""
    return f"{first.service or first.evidence.resource or 'unknown service'} {TRAITS[first.channel]}{more}"


def cause(suspects: Sequence[Suspect]) -> str:
    """Who is suspected and why, in one sentence."""
    if not suspects:
        return f"{NO_CANDIDATE}."
    first = suspects[0]
    where = [first.resource, f"`{first.operation}`" if first.operation else "", first.edge, first.deployment]
    place = next((f" ({one})" for one in where if one), "")
    reason = f": {first.reason.rstrip('.')}" if first.reason else ""
    return f"Likeliest cause: {first.service}{place}{reason}."


def summary(incident: Incident) -> str:
    """Since when, what, why, who else, in a few sentences."""
    if not incident.findings:
        return incident.summary
    first = leading(incident.findings)
    who = first.service or first.evidence.resource or "an unknown service"
    until = f" until {clock(incident.end_ns)}" if incident.state is State.RESOLVED and incident.end_ns else ""
    since = f"From {clock(incident.start_ns)}{until}" if until else f"Since {clock(incident.start_ns)}"
    verb = TRAITS[first.channel]
    parts = [f"{since} {who} {verb}: {told(first.evidence)}.", cause(incident.suspects)]
    named = {who, *(suspect.service for suspect in incident.suspects[:1])}
    others = [service for service in incident.services if service and service not in named]
    if others:
        rest = f" and {len(others) - 5} more" if len(others) > 5 else ""
        parts.append(f"Also affected: {', '.join(others[:5])}{rest}.")
    if incident.suppressed_by:
        parts.append(f"Suppressed by {incident.suppressed_by}.")
    return " ".join(parts)
