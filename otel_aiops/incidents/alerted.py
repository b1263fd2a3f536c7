"""Alerted: what alerts of single series are for incidents: a few of them together make one, a single one joins one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import replace

from otel_aiops.incidents.incident import Channel, Evidence, Finding
from otel_aiops.labels import Labels, text
from otel_aiops.signals.sources import RESOURCE_KEYS

ALONE = 0.6  # score of an alert of which too few come together


def finding_of(
    labels: Labels, fingerprint: str, *, time_ns: int, before: float, after: float, silent: bool, why: str
) -> Finding:
    """The alert of one series as a finding."""
    channel = Channel.SILENCE if silent else Channel.SERIES
    has = dict(labels.resource)
    evidence = Evidence(
        channel=channel,
        service=labels.service,
        what=labels.name + (f":{labels.stat}" if labels.stat else ""),
        before=before,
        after=after,
        unit=labels.unit,
        count=1,
        resource=next((text(has[key]) for key in RESOURCE_KEYS if has.get(key)), ""),
        series=fingerprint,
        text=why,
    )
    return Finding(
        key=f"{channel}|{fingerprint}",
        service=labels.service,
        channel=channel,
        start_ns=time_ns,
        last_ns=time_ns,
        score=ALONE,
        evidence=evidence,
    )


def together(told: Iterable[Finding], lasting: Collection[Finding], enough: int) -> list[Finding]:
    """The alerts that are told of, those of services with `enough` different ones strong enough to open an incident."""
    of = Counter(finding.service for finding in lasting)
    return [replace(one, score=1.0) if of[one.service] >= enough else one for one in told]
