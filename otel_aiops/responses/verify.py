"""Whether a step helped: the incident is resolved, its scores are back under the threshold, or a query says so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from urllib.parse import urlencode

from otel_aiops.incidents.incident import Channel, Finding, Incident, State
from otel_aiops.responses.http import HttpConfig, Unreachable, joined, send, shown

OVER = (State.RESOLVED, State.MERGED, State.EXPIRED)


def not_resolved(incident: Incident) -> str:
    """Why it is not over yet; "" where it is."""
    return "" if incident.state in OVER else f"the incident is {incident.state}"


def not_calm(incident: Incident, scores: Mapping[str, float]) -> str:
    """Why what shows an incident is not back to normal; "" where it is."""
    strange = [one for one in incident.findings if _lasts(one, scores.get(one.evidence.series, math.nan))]
    if not strange:
        return ""
    worst = max((scores.get(one.evidence.series, math.nan) for one in strange), default=math.nan)
    number = f", the highest score is {worst:.2f}" if worst == worst else ""
    return f"{len(strange)} of {len(incident.findings)} findings last{number}"


def _lasts(one: Finding, score: float) -> bool:
    """Alerts of series count by the newest score. Other alarms, as those of spans, look at many series over longer
    windows: the score of one that shows them may be low all the while, so they must have ended as well.
    """
    if one.channel is Channel.SERIES and score == score:
        return score >= 1
    return not one.end_ns or score >= 1


def does_not_hold(prometheus: HttpConfig, query: str) -> str:
    """Why a query does not hold; "" where it gives at least one sample, and none that is 0."""
    url = f"{joined(prometheus.url, 'api/v1/query')}?{urlencode({'query': query})}"
    try:
        tree = send("GET", prometheus, url).tree()
    except Unreachable as error:
        return str(error)
    try:
        result = tree["data"]["result"]
        samples = [result] if tree["data"]["resultType"] == "scalar" else [one["value"] for one in result]
        values = [float(sample[1]) for sample in samples]
    except (KeyError, TypeError, IndexError, ValueError):
        return f"{shown(prometheus.url)} answered no samples"
    if not values:
        return "the query gives nothing"
    bad = [value for value in values if value == 0 or value != value]
    return f"the query gives {bad[0]:g}" if bad else ""
