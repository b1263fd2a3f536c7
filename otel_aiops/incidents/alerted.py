"""Alerted: what alerts of single series and news of logs are for incidents: one joins, a few together open one."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from otel_aiops.detect.scorer import Scored
from otel_aiops.errors import StateError
from otel_aiops.incidents.codec import decode, encode
from otel_aiops.incidents.incident import Channel, Evidence, Finding
from otel_aiops.labels import Labels, text
from otel_aiops.otlp.points import I32
from otel_aiops.series.columns import Arrays, json_array, json_tree
from otel_aiops.signals.log_news import LogNews
from otel_aiops.signals.logs import LogWindow
from otel_aiops.signals.sources import RESOURCE_KEYS

ALONE = 0.6  # score of an alert by itself
RENEW_NS = 30_000_000_000  # an alert that lasts is told again so often
TOGETHER_NS = 300_000_000_000  # alerts that began so close to each other count together
LISTED = 3  # series that the text of several alerts names


class Alerted:
    """The alerts of series that last, by row, and the services in which `enough` of them began together."""

    def __init__(self, enough: int) -> None:
        self._enough = enough
        self._series: dict[int, Finding] = {}
        self._together: dict[str, Finding] = {}  # by service
        self._told: list[Finding] = []  # since the last step

    def lasting(self) -> Collection[Finding]:
        """The alerts that last."""
        return self._series.values()

    def take(self, scored: Scored, finding: Callable[[Scored, int], Finding | None]) -> None:
        """Take the alerts of K points of series; `finding` puts one in words, or None if it does not count."""
        if scored.alerted is None:
            return
        rows, active = scored.batch.rows, scored.alerted.active
        if self._series:
            over = np.isin(rows, np.fromiter(self._series, np.int32, len(self._series))) & ~active
            self.ended(rows[over])
        for k in np.flatnonzero(active).tolist():
            row, time_ns = int(rows[k]), int(scored.batch.time_ns[k])
            old = self._series.get(row)
            if old is None:
                new = finding(scored, k)
                if new is None:
                    continue
                self._series[row] = new
            elif time_ns - old.last_ns >= RENEW_NS:
                self._series[row] = replace(old, last_ns=time_ns)
            else:
                continue
            self._told.append(self._series[row])

    def know(self, findings: Collection[Finding]) -> None:
        """Take what others alert about; it is told with the next step."""
        self._told.extend(findings)

    def ended(self, rows: I32) -> None:
        """Rows that have no alert any more."""
        for row in rows.tolist() if self._series else ():
            old = self._series.pop(row, None)
            if old is not None:
                self._told.append(replace(old, end_ns=old.last_ns))

    def step(self, event_ns: int) -> list[Finding]:
        """The alerts that began, went on or ended since the last step, alone and together."""
        told, self._told = self._told, []
        fresh: dict[str, list[Finding]] = {}
        for finding in self._series.values():
            if event_ns - finding.start_ns < TOGETHER_NS:
                fresh.setdefault(finding.service, []).append(finding)
        for service, findings in fresh.items():
            old = self._together.get(service)
            if len(findings) >= self._enough and (old is None or event_ns - old.last_ns >= RENEW_NS):
                self._together[service] = _together(findings, old, event_ns)
                told.append(self._together[service])
        for service in [name for name in self._together if len(fresh.get(name, ())) < self._enough]:
            over = self._together.pop(service)
            told.append(replace(over, end_ns=over.last_ns))
        return told

    def state(self) -> Arrays:
        """Everything, as JSON."""
        tree = {
            "series": [[row, encode(finding)] for row, finding in self._series.items()],
            "together": [encode(finding) for finding in self._together.values()],
            "told": [encode(finding) for finding in self._told],
        }
        return {"alerted": json_array(tree)}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        tree = json_tree(arrays, "alerted")
        try:
            self._series = {int(row): decode(Finding, one) for row, one in tree["series"]}
            together = [decode(Finding, one) for one in tree["together"]]
            self._told = [decode(Finding, one) for one in tree["told"]]
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"expected alerts of series, got {error!r}") from error
        self._together = {finding.service: finding for finding in together}


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


def news_of(news: LogNews, service: str, window: LogWindow) -> Finding:
    """A log template that is new, lost or more frequent; it joins an incident, because most of these are harmless."""
    counts = "" if news.kind == "lost" else f" ({news.count} times, usually {news.usual:.3g})"
    told = {"new": "is logged for the first time", "lost": "is logged no more", "surge": "is logged more often"}
    return Finding(
        key=f"{Channel.LOGS}|{service}|{news.template}",
        service=service,
        channel=Channel.LOGS,
        start_ns=window.start_ns,
        last_ns=window.end_ns,
        end_ns=window.end_ns,
        score=ALONE,
        evidence=Evidence(
            channel=Channel.LOGS,
            service=service,
            what=news.text,
            before=news.usual,
            after=float(news.count),
            count=news.count,
            text=f'"{news.text}" {told[news.kind]}{counts}',
        ),
    )


def _together(findings: list[Finding], old: Finding | None, event_ns: int) -> Finding:
    """Alerts of one service that began together, as one finding."""
    first = min(findings, key=lambda one: (one.start_ns, one.key))
    names = sorted({one.evidence.what for one in findings})
    named = ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
    evidence = replace(
        first.evidence,
        count=len(findings),
        series=first.evidence.series,
        text=f"{len(findings)} series have alerts at once: {named}. {first.evidence.text}",
    )
    return Finding(
        key=f"{first.channel}|{first.service}",
        service=first.service,
        channel=first.channel,
        start_ns=old.start_ns if old else first.start_ns,
        last_ns=event_ns,
        score=1.0,
        evidence=old.evidence if old else evidence,
    )
