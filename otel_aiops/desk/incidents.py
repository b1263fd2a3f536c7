"""Incidents as the API shows them: what is live from the step loop, what is past from the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_aiops.desk import asked as get
from otel_aiops.desk.live import Live
from otel_aiops.desk.shown import alike, brief, decided, judged, revision
from otel_aiops.errors import BadInput, StorageError
from otel_aiops.incidents.codec import to_line
from otel_aiops.incidents.incident import Channel, Incident, Severity, State
from otel_aiops.incidents.journal import Filter, Journal
from otel_aiops.incidents.known import ALERT, KnownAlert
from otel_aiops.incidents.markdown import post_mortem
from otel_aiops.incidents.reliability import Reliability

if TYPE_CHECKING:
    from otel_aiops.app import Service

STANDING = frozenset({State.OPEN, State.ACKNOWLEDGED, State.PREDICTED})  # what the pipeline has all of
NEAR_NS = 86_400_000_000_000  # an alert began so long before its incident at most
MOST_LOOKED_AT = 50  # incidents near an alert
DECIDED = (State.RESOLVED, State.MERGED, State.EXPIRED)  # of predictions


class IncidentViews:
    """Reads only; any thread."""

    def __init__(self, service: Service, live: Live) -> None:
        self._service = service
        self._live = live

    @property
    def _journal(self) -> Journal:
        return self._service.chronicle.journal

    def incidents(self, asked: Mapping[str, str], *, limit: int, offset: int) -> dict[str, Any]:
        """A page of those that are wanted, the latest first. Raises: BadInput."""
        wanted = self._filter(asked)
        if wanted.states and STANDING.issuperset(wanted.states):  # also while the journal cannot be read
            found = [one for one in self._live.standing() if wanted.takes(one)]
            found.sort(key=lambda one: (-one.start_ns, one.id))
            return {"total": len(found), "incidents": [brief(one) for one in found[offset : offset + limit]]}
        page = self._journal.page(wanted, limit=limit, offset=offset)
        return {"total": page.total, "incidents": [brief(one) for one in page.incidents]}

    def _filter(self, asked: Mapping[str, str]) -> Filter:
        now_ns = self._live.now_ns()
        states = get.words(asked, "state", State)
        from_ns, until_ns = (get.time_ns(asked, key, now_ns) for key in ("from", "until"))
        if from_ns and until_ns and until_ns <= from_ns:
            raise BadInput(f"until: expected a time after `from`, got {asked['until']!r}")
        predicted = get.yes(asked, "predicted") or State.PREDICTED in states
        return Filter(
            states=states,
            severities=get.words(asked, "severity", Severity),
            service=get.text(asked, "service"),
            channel="".join(get.words(asked, "channel", Channel)[:1]),
            suspect=get.text(asked, "suspect"),
            from_ns=from_ns,
            until_ns=until_ns,
            predicted=None if predicted else False,
        )

    def incident(self, name: str) -> dict[str, Any] | None:
        """All of one, with what is known of similar ones; of an alert of others, with it. None where there is none."""
        if name.startswith(ALERT):
            return self._alert(name)
        incident = self._find(name)
        if incident is None:
            return None
        return {**to_line(incident), **self._beside(incident)}

    def known_alerts(self, *, limit: int, offset: int) -> dict[str, Any]:
        """Alerts that others told of, those that began last first, each as it was told last."""
        total, found = self._journal.others.page(limit=limit, offset=offset)
        return {"total": total, "alerts": [{"id": one.incident, **_told_by(one)} for one in found]}

    def _alert(self, name: str) -> dict[str, Any] | None:
        """An alert of others as what playbooks act on, what was told of it, and incidents that it is evidence of."""
        told, incident = self._journal.others.told(incident=name), self._service.responder.incident(name)
        if not told or incident is None:
            return None
        last = told[-1]
        return {
            **to_line(incident),
            **self._beside(incident),
            "alert": {**_told_by(last), "group": last.group, "source": last.source or None},
            "told": [{"status": one.status, "group": one.group, **_times(one)} for one in told],
            "evidence_of": [brief(one) for one in self._with_evidence(last)],
        }

    def _with_evidence(self, alert: KnownAlert) -> list[Incident]:
        if not alert.service:
            return []
        key, until_ns = alert.finding(alert.starts_ns).key, (alert.ends_ns or self._live.now_ns()) + NEAR_NS
        wanted = Filter(service=alert.service, from_ns=max(alert.starts_ns - NEAR_NS, 1), until_ns=until_ns)
        found = self._journal.page(wanted, limit=MOST_LOOKED_AT).incidents
        return [one for one in found if any(finding.key == key for finding in one.findings)]

    def _beside(self, incident: Incident) -> dict[str, Any]:
        """Similar incidents, and what operators decided and said of this one; empty while no journal can be read."""
        try:
            similar = [found for name in incident.similar if (found := self._journal.get(name)) is not None]
            decisions = self._journal.decisions(incident=incident.id)
            verdicts = self._journal.verdicts(from_ns=incident.start_ns - NEAR_NS)
        except StorageError:
            return {"similar_incidents": [], "decisions": [], "verdicts": []}
        said = {judged(one) for _, one in verdicts if one.incident == incident.id}
        return {
            "similar_incidents": [alike(one) for one in similar],
            "decisions": [decided(one) for one in decisions],
            "verdicts": [asdict(one) for one in sorted(said, key=lambda one: -one.given)],
        }

    def timeline(self, name: str, *, limit: int) -> dict[str, Any] | None:
        """How one became what it is: its last revisions, the first of them first, and all lines of its timeline."""
        incident = self._find(name)
        if incident is None:
            return None
        revisions = self._journal.history(name, most=limit)
        return {
            "id": incident.id,
            "revision": incident.revision,
            "timeline": to_line(incident)["timeline"],
            "revisions": [revision(event_ns, one) for event_ns, one in revisions],
        }

    def report(self, name: str) -> str | None:
        """One as a Markdown post-mortem."""
        incident = self._find(name)
        return None if incident is None else post_mortem(incident)

    def _find(self, name: str) -> Incident | None:
        """The last revision, from where it is newer."""
        live = self._live.find(name)
        return live if live is not None else self._journal.get(name)

    # -- predictions --------------------------------------------------------------------------------------------------

    def predictions(self, *, limit: int, offset: int = 0) -> dict[str, Any]:
        """Those that stand and those that are decided, and how good they have been."""
        standing = [one for one in self._live.standing() if one.prediction is not None]
        standing.sort(key=lambda one: (one.prediction.lead_s if one.prediction else 0.0, one.id))
        past = self._journal.page(Filter(states=DECIDED, predicted=True), limit=limit, offset=offset)
        analysis = self._service.pipeline.analysis

        def records() -> dict[str, Any]:
            parts = analysis.reliability
            by_kind = {what: _record(one) for what, one in parts.items()}
            return {**_record(Reliability.together(parts.values())), "records": by_kind}

        return {
            "standing": [brief(one) for one in standing[:limit]],
            "decided": [brief(one) for one in past.incidents],
            "total": past.total,
            "total_standing": len(standing),
            **self._service.ask(records),
        }


def _record(reliability: Reliability) -> dict[str, Any]:
    """Outcomes by what was predicted, and how early hits were."""
    shown, lead_s = reliability.diagram(), reliability.lead_s
    bins = [
        {"from": low, "predicted": _number(predicted), "count": count, "happened": _number(happened)}
        for low, predicted, count, happened in zip(
            shown.low.tolist(), shown.predicted.tolist(), shown.count.tolist(), shown.happened.tolist(), strict=True
        )
    ]
    quantiles = np.quantile(lead_s, (0.1, 0.5, 0.9)).tolist() if len(lead_s) else [None] * 3
    return {
        "hits": reliability.hits,
        "misses": reliability.misses,
        "brier": _number(reliability.brier),
        "reliability": bins,
        "lead_s": {"count": len(lead_s), **dict(zip(("p10", "p50", "p90"), quantiles, strict=True))},
    }


def _told_by(one: KnownAlert) -> dict[str, Any]:
    """An alert in the words of who told of it."""
    named = {"name": one.name, "service": one.service, "sender": one.sender, "status": one.status}
    return {**named, **_times(one), "labels": dict(one.labels), "annotations": dict(one.annotations)}


def _times(one: KnownAlert) -> dict[str, Any]:
    return {"start": one.starts_ns / 1e9, "end": one.ends_ns / 1e9 or None}


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if value == value else None
