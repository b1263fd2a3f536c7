"""Feedback as the API takes and shows it: verdicts on incidents, the alerts worth asking about, and the audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_aiops.desk import asked as get
from otel_aiops.desk.live import Live
from otel_aiops.detect.lessons import Lesson, Verdict
from otel_aiops.detect.raised import Raised
from otel_aiops.detect.verdicts import DUPLICATE, KINDS, MISSED, SHORT
from otel_aiops.errors import BadInput
from otel_aiops.incidents.incident import Incident
from otel_aiops.lifecycle.comparison import compare
from otel_aiops.lifecycle.queue import Open, Proposal, propose

if TYPE_CHECKING:
    from otel_aiops.app import Service

KEYS = ("verdict", "of", "who", "why")
SAYABLE = tuple(kind for kind in (*SHORT, *KINDS) if kind != KINDS[MISSED])  # what was missed made no incident
LOOK_BACK_NS = 30 * 86_400_000_000_000


class Feedback:
    """Every method may be called from any thread."""

    def __init__(self, service: Service, live: Live) -> None:
        self._service = service
        self._live = live

    def judge(self, name: str, asked: Any) -> dict[str, Any] | None:
        """Say what an incident was; None where there is none. Raises: BadInput."""
        asked = get.known_keys(asked, KEYS)
        who, why = get.text(asked, "who", needed=True), get.text(asked, "why")
        said = get.text(asked, "verdict", needed=True)
        if said not in SAYABLE:
            raise BadInput(f"verdict: expected one of {', '.join(SAYABLE)}, got {said[:100]!r}")
        kind, of = SHORT.get(said, said), get.text(asked, "of")
        incident = self._find(name)
        if incident is None:
            return None
        check_of(kind, of, name, known=lambda other: self._find(other) is not None)
        shared = {"kind": kind, "by": who, "note": why, "incident": incident.id, "of": of}
        verdicts = self._verdicts(incident, {**shared, "given_ns": self._service.clock_ns()})
        self._live.give_time(self._service.ingest.learn(Lesson(tuple(verdicts))))
        return {"incident": incident.id, "verdict": kind, "series": sum(one.series > 0 for one in verdicts)}

    def queue(self, *, limit: int) -> dict[str, Any]:
        """The alerts of which a verdict would teach most."""

        def answer() -> tuple[list[Open], list[Verdict], int]:
            serving, event_ns = self._service.pipeline.serving, self._service.pipeline.event_ns
            found = compare(serving, event_ns)
            only = {_key(one): "champion" for one in found.only_champion} if found else {}
            others = found.only_other if found else ()
            alerts = [(one, only.get(_key(one), "")) for one in serving.champion.alerting.ledger.since(0)]
            alerts += [(one, "other") for one in others]
            shown = [self._open(one, side) for one, side in alerts if one.time_ns >= event_ns - LOOK_BACK_NS]
            return [one for one in shown if one is not None], serving.champion.alerting.told(), event_ns

        alerts, told, event_ns = self._service.ask(answer)
        proposals = propose(alerts, told, event_ns, most=limit)
        return {"alerts": len(alerts), "queue": [_shown(one) for one in proposals]}

    def audit(self, asked: Mapping[str, str], *, limit: int, offset: int = 0) -> dict[str, Any]:
        """Who changed what. Raises: BadInput."""
        from otel_aiops.audit.entries import since_of, trail

        found = trail(
            self._service.directory,
            self._service.chronicle.journal,
            since_ns=since_of(get.text(asked, "since"), self._service.clock_ns()),
            kinds=get.texts(asked, "kind"),
            who=get.text(asked, "who"),
            limit=limit + offset,
            registrations=self._registered,
            ledger=self._service.responder.ledger,
        ).to_json()
        return {**found, "entries": found["entries"][offset:], "problems": list(found["problems"])}

    def _registered(self) -> list[dict[str, str]]:
        """What the service knows of the registry, without waiting for it."""
        return [
            {**one.tags, "id": one.id, "number": one.number, "time_ns": str(one.made_ns)}
            for one in self._service.registrar.known().values()
        ]

    def _find(self, name: str) -> Incident | None:
        live = self._live.find(name)
        found = live if live is not None else self._service.chronicle.journal.get(name)
        return None if found is None or found.prediction is not None else found

    def _verdicts(self, incident: Incident, shared: Mapping[str, Any]) -> list[Verdict]:
        """One for each series whose alert is known; of an incident that no series shows, one of itself."""
        at = {finding.evidence.series: finding.start_ns for finding in reversed(incident.findings)}

        def answer() -> list[Verdict]:
            ledger = self._service.pipeline.alerting.ledger
            alerts = {int(series, 16): ledger.find(int(series, 16), at_ns) for series, at_ns in at.items() if series}
            return [
                Verdict(series=series, time_ns=one.since_ns, ratio=one.peak, source="alert", **shared)
                for series, one in sorted(alerts.items())
                if one is not None
            ]

        return self._service.ask(answer) or [
            Verdict(series=0, time_ns=incident.start_ns, ratio=0.0, source="incident", **shared)
        ]

    def _open(self, one: Raised, only: str) -> Open | None:
        table = self._service.pipeline.table
        row = one.row if one.row >= 0 else table.find(one.fingerprint)
        if row is None or not table.is_live(row):
            return None
        labels = table.labels(row)
        return Open(
            series=str(labels),
            fingerprint=one.fingerprint,
            service=labels.service,
            name=labels.name,
            since_ns=one.since_ns,
            until_ns=one.time_ns,
            peak=float(one.peak * np.exp(-one.shift)),
            only=only,
        )


def check_of(kind: str, of: str, itself: str, known: Any) -> None:
    """See that a duplicate, and nothing else, names the incident that it is a part of. Raises: BadInput."""
    if bool(of) != (kind == KINDS[DUPLICATE]):
        raise BadInput("of: expected the id of the other incident with the verdict duplicate, and only then")
    if of and (of == itself or not known(of)):
        raise BadInput(f"of: expected the id of another incident, got {of[:100]!r}")


def _key(one: Raised) -> tuple[int, int]:
    return one.fingerprint, one.since_ns


def _shown(one: Proposal) -> dict[str, Any]:
    of = one.alert
    return {
        "series": of.series,
        "fingerprint": f"{of.fingerprint:016x}",
        "service": of.service,
        "since": of.since_ns / 1e9,
        "until": of.until_ns / 1e9,
        "peak": of.peak,
        "only": of.only or None,
        "worth": one.worth,
        "reasons": list(one.reasons),
    }
