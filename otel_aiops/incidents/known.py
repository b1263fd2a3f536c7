"""Known alerts: what Alertmanager or Grafana tell of alerts that are not ours, read tolerantly from their webhooks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import unquote

from otel_aiops.errors import BadInput
from otel_aiops.incidents.alerted import ALONE
from otel_aiops.incidents.incident import Channel, Evidence, Finding, Incident, Severity, State
from otel_aiops.incidents.suppress import SERVICE_LABELS

Status = Literal["firing", "resolved"]
Pairs = tuple[tuple[str, str], ...]

S, MS = 1_000_000_000, 1_000_000
FURTHEST_NS = 9_000_000_000 * S  # the year 2255: later times are none, and no int64
MOST = 10_000  # alerts of one notification
MOST_CUT = 1_000_000  # that it says to have left out
ALERT = "alert-"  # begins the ids of alerts where playbooks know them
LONGEST = 1_000  # characters of a text
# Rules over our own metrics: what was learned of them is what we said before, which is no truth about us.
OUR_LABELS = ("anomaly_metric_name", "incident_id")
OUR_RULES, OUR_JOB, OUR_METRICS = "OtelAiops", "otel-aiops", "otel_aiops_"
SEVERITIES = {
    **dict.fromkeys(("critical", "page", "emergency", "high", "error"), Severity.CRITICAL),
    **dict.fromkeys(("info", "information", "low", "none", "debug"), Severity.INFO),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAlert:
    """One alert as it was told. `group` is the key of its group, `ends_ns` is 0 while it fires."""

    sender: str  # alertmanager or grafana
    group: str
    fingerprint: str
    status: Status
    starts_ns: int
    ends_ns: int = 0
    labels: Pairs = ()
    annotations: Pairs = ()
    source: str = ""  # link to the rule

    @property
    def id(self) -> str:
        """The same for the same thing told again, by whichever of a pair."""
        return _hash("|".join((self.group, self.fingerprint, str(self.starts_ns), self.status)))

    @property
    def name(self) -> str:
        """Of the rule."""
        return dict(self.labels).get("alertname", "")

    @property
    def service(self) -> str:
        """What it is about, "" where its labels do not say so."""
        return service_of(dict(self.labels))

    @property
    def incident(self) -> str:
        """The id under which playbooks know it: the same while it lasts."""
        return f"{ALERT}{_hash(f'{self.fingerprint}|{self.starts_ns}')[:16]}"

    @property
    def ours(self) -> bool:
        """Whether it comes from what we said."""
        return ours(dict(self.labels), self.source)

    @property
    def notice_of(self) -> str:
        """The incident of ours that it lets people know of, "" where it is none of an incident that goes on."""
        return dict(self.labels).get("incident_id", "") if self.status == "firing" else ""

    def text(self) -> str:
        """In one sentence."""
        said = dict(self.annotations)
        more = said.get("summary") or said.get("description") or said.get("message") or ""
        verb = "fires" if self.status == "firing" else "fired"
        return f"The alert {self.name or self.fingerprint} of {self.sender} {verb}{': ' + more if more else ''}"

    def finding(self, event_ns: int) -> Finding:
        """The same as evidence: by itself it opens no incident, it joins one of its service."""
        name = self.name or self.fingerprint
        evidence = Evidence(
            channel=Channel.SERIES,
            service=self.service,
            what=name,
            before=float("nan"),
            after=float("nan"),
            count=1,
            text=self.text(),
        )
        last_ns = max(self.ends_ns or event_ns, self.starts_ns)
        return Finding(
            key=f"alert|{self.service}|{name}|{self.fingerprint}",
            service=self.service,
            channel=Channel.SERIES,
            start_ns=self.starts_ns,
            last_ns=last_ns,
            end_ns=last_ns if self.ends_ns else 0,
            score=ALONE,
            evidence=evidence,
        )

    def as_incident(self) -> Incident:
        """As what playbooks act on."""
        said, labels = dict(self.annotations), dict(self.labels)
        return Incident(
            id=self.incident,
            revision=1 if self.status == "firing" else 2,
            state=State.OPEN if self.status == "firing" else State.RESOLVED,
            severity=SEVERITIES.get(labels.get("severity", "").lower(), Severity.WARNING),
            start_ns=self.starts_ns,
            detected_ns=self.starts_ns,
            end_ns=self.ends_ns,
            title=said.get("summary") or f"{self.name}{' of ' + self.service if self.service else ''}",
            summary=said.get("description") or self.text(),
            services=(self.service,) if self.service else (),
            findings=(self.finding(self.starts_ns),),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One notification: its alerts, how many of the group it leaves out, and how many could not be read.

    `over`: none of the whole group fires any more.
    """

    sender: str
    group: str
    receiver: str
    group_labels: Pairs
    truncated: int
    alerts: tuple[KnownAlert, ...]
    over: bool = False
    unreadable: int = 0


def read(tree: Any) -> Told:
    """A notification of Alertmanager's webhook (version 4) or Grafana's; keys that are not known are passed over.

    Raises: BadInput where there is no list of alerts.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("alerts"), list):
        raise BadInput("alerts: expected a list, as in a notification of Alertmanager or Grafana, got none")
    listed = tree["alerts"]
    if len(listed) > MOST:
        raise BadInput(f"alerts: expected at most {MOST}, got {len(listed)}; set max_alerts of the receiver")
    sender = "grafana" if "orgId" in tree or str(tree.get("version", "")) == "1" else "alertmanager"
    group = str(tree.get("groupKey", ""))[:LONGEST]
    found = [alert for one in listed if (alert := alert_of(one, sender, group, tree.get("status"))) is not None]
    cut = tree.get("truncatedAlerts")
    return Told(
        sender=sender,
        group=group,
        receiver=str(tree.get("receiver", ""))[:LONGEST],
        group_labels=_pairs(tree.get("groupLabels")),
        truncated=min(cut, MOST_CUT) if type(cut) is int and cut > 0 else 0,
        alerts=tuple(found),
        over=tree.get("status") == "resolved",
        unreadable=len(listed) - len(found),
    )


def alert_of(tree: Any, sender: str, group: str, status: Any = None) -> KnownAlert | None:
    """One alert of a notification, or of Alertmanager's API; None where it cannot be read.

    The API cuts times to the millisecond, so a start is cut here: the same alert is the same from both.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("labels"), dict):
        return None
    labels, starts_ns, ends_ns = _pairs(tree["labels"]), time_ns(tree.get("startsAt")), time_ns(tree.get("endsAt"))
    starts_ns -= starts_ns % MS
    said = tree.get("status", status)
    if isinstance(said, dict):  # of the API, which lists what fires
        said = "firing"
    if not labels or not starts_ns or said not in ("firing", "resolved"):
        return None
    return KnownAlert(
        sender=sender,
        group=group,
        fingerprint=str(tree.get("fingerprint") or _hash(json.dumps(labels))[:16])[:LONGEST],
        status="firing" if said == "firing" else "resolved",
        starts_ns=starts_ns,
        ends_ns=max(ends_ns, starts_ns) if said == "resolved" else 0,
        labels=labels,
        annotations=_pairs(tree.get("annotations")),
        source=str(tree.get("generatorURL") or "")[:LONGEST],
    )


def service_of(labels: Mapping[str, str]) -> str:
    """The service that labels of an alert name, "" where they name none."""
    return next((str(labels[key]) for key in SERVICE_LABELS if labels.get(key)), "")


def ours(labels: Mapping[str, str], source: str = "") -> bool:
    """Whether an alert comes from us: one of our incidents, or a rule over our metrics."""
    return (
        str(labels.get("alertname", "")).startswith(OUR_RULES)
        or service_of(labels) == OUR_JOB
        or any(labels.get(key) for key in OUR_LABELS)
        or OUR_METRICS in unquote(source)  # Prometheus links to the expression
    )


def time_ns(said: Any) -> int:
    """A time of RFC 3339 in ns since 1970; 0 for what is none, and for the year 1, which says that there is none yet.

    >>> time_ns("2026-05-03T14:00:00.5+02:00"), time_ns("0001-01-01T00:00:00Z"), time_ns("soon")
    (1777809600500000000, 0, 0)
    """
    try:
        at = datetime.fromisoformat(said)
        found = round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000_000) * 1_000
        return found if 0 < found < FURTHEST_NS else 0
    except (TypeError, ValueError, OverflowError):
        return 0


def _pairs(tree: Any) -> Pairs:
    """Names and values as they can be stored."""
    if not isinstance(tree, dict):
        return ()
    return tuple(sorted((_text(name), _text(value)) for name, value in list(tree.items())[:100]))


def _text(value: Any) -> str:
    return str(value)[:LONGEST].encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
