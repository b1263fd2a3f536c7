"""Incidents as alerts of Alertmanager: which labels and annotations, and what is to be posted again when.

An alert is known by its labels, so posting one again never makes two. What must be said follows from the journal alone:
after a crash the same alerts come of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from otel_aiops.errors import ConfigError
from otel_aiops.incidents.incident import Incident, Severity, State
from otel_aiops.incidents.known import time_ns
from otel_aiops.incidents.suppress import INCIDENT_ALERT, PREDICTED_ALERT, SERVICE_LABELS, Matcher, Silence
from otel_aiops.responses.http import HttpConfig, check_url
from otel_aiops.responses.values import NAMES, filled, places, values_of

S = 1_000_000_000
DIRECT, ALIKE = "alertmanager:", "alertmanager-service:"  # begin the names of silences by what they cover, see below
MADE_HERE = "[otel-aiops "  # in the comment of silences that people made here
MOST_SILENCES = 100  # each is compared with every incident
LONGEST_REGEX = 500
REPEATED_GROUP = re.compile(r"\)[*+?{]")  # what may take for ever
PATH = "api/v2/alerts"
VALID = 4  # resends that an alert outlives, as Prometheus has it
RESOLVED_S = 300.0  # that an end is told again and again
LONGEST_LABEL, LONGEST_TEXT = 200, 2_000
LONGEST_PART = 100  # characters of a value in a link
SUSPECTS = 3
STANDING = frozenset({State.OPEN, State.ACKNOWLEDGED, State.PREDICTED})
OURS = frozenset({"alertname", "incident_id", "service_name", "severity", "predicted"})
KNOWN = OURS | set(SERVICE_LABELS)
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")  # of every release; dots are taken since 0.27
_RANK = {one: rank for rank, one in enumerate(Severity)}

Key = tuple[tuple[str, str], ...]  # labels in their order


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertmanagersConfig:
    """Which Alertmanagers incidents are posted to, and as what."""

    to: tuple[HttpConfig, ...] = ()  # all of a cluster; addresses without /api/v2
    resend: float = 60.0  # s between two posts of the same; an alert ends four times that after the last one
    severity: Severity = Severity.INFO  # at least
    predicted: bool = True  # predicted incidents too, which have the label predicted="true"
    labels: Mapping[str, str] = field(default_factory=dict)  # of all alerts besides their own, as cluster: eu
    page: str = ""  # address at which people reach our page, as https://aiops.example.com; for links
    runbook: str = ""  # link to what to do, with {service}, {severity}, {types} and so on
    silences: float = 10.0  # s between two looks at the silences of Alertmanager; 0 is never
    max_alerts: int = 1_000  # at a time: the worst first, of equal ones the latest

    def __post_init__(self) -> None:
        if not 1 <= self.resend <= 3_600:
            raise ConfigError("resend", f"must be 1 s to 1 h, got {self.resend}")
        if not (self.silences == 0 or 1 <= self.silences <= 3_600):
            raise ConfigError("silences", f"must be 0, or 1 s to 1 h, got {self.silences}")
        if not 1 <= self.max_alerts <= 100_000:
            raise ConfigError("max_alerts", f"must be 1 to 100000, got {self.max_alerts}")
        for name in self.labels:
            if not _LABEL.fullmatch(name) or name in OURS:
                expected = f"expected letters, digits and _, and none of {', '.join(sorted(OURS))}"
                raise ConfigError(f"labels.{name}", f"{expected}, got {name!r}")
        if self.page:
            check_url(self.page)
        for name in places(self.runbook):
            if name not in NAMES:
                raise ConfigError("runbook", f"{{{name}}} is not a known value; known here: {', '.join(NAMES)}")
        if places(self.runbook):
            check_link(self.runbook)
        urls = [one.url for one in self.to]
        if len(set(urls)) != len(urls):
            raise ConfigError("to", "expected each address once")


@dataclass(frozen=True, slots=True)
class Alert:
    """What is said of an incident. `ends_ns` is 0 while it fires."""

    labels: Key
    annotations: Key
    starts_ns: int
    ends_ns: int = 0
    link: str = ""

    def body(self, now_ns: int, resend_s: float) -> dict[str, Any]:
        """As it is posted at a time."""
        ends_ns = self.ends_ns or now_ns + round(VALID * resend_s * S)
        if self.ends_ns:  # neither before its start nor in the future
            ends_ns = max(min(ends_ns, now_ns), self.starts_ns)
        found: dict[str, Any] = {
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
            "startsAt": _time(self.starts_ns),
            "endsAt": _time(ends_ns),
        }
        return {**found, "generatorURL": self.link} if self.link else found


@dataclass(frozen=True, slots=True)
class Story:
    """What the labels of an incident follow from: all its revisions, not only the last one.

    An alert whose severity changed would be another alert. So the label is the worst severity that there was so far:
    an incident that gets worse reaches who wants the worse ones, under new labels, and the alert under the old ones
    ends; one that calms down stays where it is, and the annotation says how bad it is now. `rungs` are the severities
    with the event time at which they came, `service` is the one that was hit first.
    """

    revision: int = -1
    service: str = ""
    rungs: tuple[tuple[Severity, int], ...] = ()

    def after(self, revisions: Iterable[tuple[int, Incident]]) -> Story:
        """The story with later revisions, each with its event time."""
        revision, service, rungs = self.revision, self.service, self.rungs
        for event_ns, one in revisions:
            revision, service = one.revision, service or _first_hit(one)
            if not rungs or _RANK[one.severity] > _RANK[rungs[-1][0]]:
                rungs = (*rungs, (one.severity, event_ns))
        return Story(revision, service, rungs)


def alerts_of(config: AlertmanagersConfig, incident: Incident, story: Story, event_ns: int) -> list[Alert]:
    """The alerts of an incident at an event time: the one that fires, and those that ended not long ago.

    What operators have silenced here, what is maintained and what a dependency explains does not fire. What a silence
    of Alertmanager covers there stays an alert there, which it shows as silenced.
    """
    over = not _fires(config, incident)
    annotations, link = annotations_of(config, incident), link_of(config, incident)
    found = []
    wanted = [rung for rung in story.rungs if _RANK[rung[0]] >= _RANK[config.severity]]
    for number, (severity, _) in enumerate(wanted):
        last = number == len(wanted) - 1
        if last:
            ends_ns = (incident.end_ns or event_ns) if over else 0
        else:
            ends_ns = wanted[number + 1][1]
            if event_ns - ends_ns > RESOLVED_S * S:
                continue
        labels = labels_of(config, incident, story.service, severity)
        found.append(Alert(labels, annotations, incident.start_ns, ends_ns, link))
    return found


def labels_of(config: AlertmanagersConfig, incident: Incident, service: str, severity: Severity) -> Key:
    """What an alert is known by."""
    predicted = incident.prediction is not None
    own = {
        "alertname": PREDICTED_ALERT if predicted else INCIDENT_ALERT,
        "incident_id": incident.id,
        "service_name": service,
        "severity": str(severity),
        "predicted": "true" if predicted else "",
    }
    return _key({**config.labels, **own}, LONGEST_LABEL)


def annotations_of(config: AlertmanagersConfig, incident: Incident) -> Key:
    """What people read; it may change while the alert stays the same one."""
    suspects = [
        f"{rank}. {one.service} ({one.confidence:.0%}): {one.reason or 'no reason'}"
        for rank, one in enumerate(incident.suspects[:SUSPECTS], 1)
    ]
    said = {
        "summary": incident.title or incident.id,
        "description": incident.summary,
        "reason": incident.suspects[0].reason if incident.suspects else "",
        "suspects": "\n".join(suspects),
        "services": ", ".join(incident.services),
        "severity": str(incident.severity),
        "state": str(incident.state),
        "dashboard_url": link_of(config, incident),
        "runbook_url": _runbook(config.runbook, incident),
        "suppressed_by": incident.suppressed_by,
    }
    if incident.prediction is not None:
        future = incident.prediction
        said["probability"] = f"{future.probability:.2f}"
        said["lead_time"] = f"{_span(future.lead_s)} ({_span(future.earliest_s)} to {_span(future.latest_s)})"
    return _key(said, LONGEST_TEXT)


def link_of(config: AlertmanagersConfig, incident: Incident) -> str:
    """Where our page shows it; "" where nobody said where that is."""
    return f"{config.page.rstrip('/')}/incidents/{quote(incident.id, safe='')}" if config.page else ""


@dataclass(slots=True)
class _Known:
    """What an Alertmanager was told of an alert; `at_s` is -inf where it must be told anew."""

    alert: Alert
    at_s: float


class Told:
    """What one Alertmanager was told, and what of it is due; times by a clock in s that never goes back.

    An end is only told of what it was told before, or may have been before this process began. What began and ended
    while it was away is not told: of an alert that has ended before it is posted Alertmanager tells nobody, or only the
    end, where others of its group fire. `missed` are those that the last `due` found.
    """

    def __init__(self, resend_s: float) -> None:
        self._resend_s = resend_s
        self._known: dict[Key, _Known] = {}
        self._ended: dict[Key, float] = {}  # since when ends are told
        self._first = True
        self._over: set[Key] = set()  # of those that are wanted: ended, and nothing is to be said of it any more
        self.missed: list[Alert] = []

    def firing(self) -> int:
        """How many alerts it has that fire."""
        return sum(not one.alert.ends_ns for one in self._known.values())

    def due(self, wanted: Sequence[Alert], now_s: float, now_ns: int) -> list[Alert]:
        """What must be posted now: what is new, has changed, or was posted too long ago; ends for a while."""
        by_key = {one.labels: one for one in wanted}
        self.missed = []
        for key, known in self._known.items():
            if key not in by_key:  # what is wanted no more ends
                by_key[key] = known.alert if known.alert.ends_ns else replace(known.alert, ends_ns=now_ns)
        self._over &= by_key.keys()
        found = [one for key, wants in by_key.items() if (one := self._said(key, wants, now_s)) is not None]
        self._ended = {key: at_s for key, at_s in self._ended.items() if key in self._known}
        self._first = False
        return found

    def took(self, alerts: Iterable[Alert], now_s: float) -> None:
        """It has taken these, or refused them for good."""
        for one in alerts:
            self._known[one.labels] = _Known(one, now_s)

    def forgot(self) -> None:
        """It was away, and may have lost everything: all is due again."""
        for known in self._known.values():
            known.at_s = float("-inf")

    def _said(self, key: Key, one: Alert, now_s: float) -> Alert | None:
        """What is to be said of one alert now, if anything."""
        known = self._known.get(key)
        if not one.ends_ns:
            self._ended.pop(key, None)
            self._over.discard(key)
        elif known is None and not self._first:
            if key not in self._over:
                self.missed.append(one)
                self._over.add(key)
            return None
        else:
            known = known or self._known.setdefault(key, _Known(one, float("-inf")))
            if now_s - self._ended.setdefault(key, now_s) > RESOLVED_S:
                del self._known[key]
                self._over.add(key)
                return None
            if known.alert.ends_ns:
                one = known.alert  # an end is not moved
        due = known is None or known.alert != one or now_s - known.at_s >= self._resend_s
        return one if due else None


def silences_of(config: AlertmanagersConfig, tree: Any) -> list[Silence]:
    """The active silences of Alertmanager that may cover incidents, those that end last first; not those of playbooks.

    Such a one names labels that our alerts have, which is DIRECT, or names a service under another label, which is
    ALIKE: that does not hold for our alerts there, though people mean the service.
    """
    found = [silence for one in tree if (silence := _silence(config, one)) is not None]
    return sorted(found, key=lambda one: (-one.until_ns, one.name))[:MOST_SILENCES]


def _silence(config: AlertmanagersConfig, tree: Any) -> Silence | None:
    """One silence; None where it covers no incident, or cannot be read."""
    try:
        who, matchers = str(tree["createdBy"]), [_matcher(one) for one in tree["matchers"]]
        until_ns, active = time_ns(tree["endsAt"]), tree["status"]["state"] == "active"
        name, why = str(tree["id"])[:100], str(tree.get("comment", ""))
    except (KeyError, TypeError, ValueError, re.error):
        return None
    if not active or who.startswith("otel-aiops") or not matchers:
        return None
    if not all(one.takes(config.labels) for one in matchers if one.name in config.labels):
        return None
    rest = tuple(one for one in matchers if one.name in KNOWN)
    if not all(one.takes({}) for one in matchers if one.name not in KNOWN | config.labels.keys()):
        return None  # on a label that our alerts have not
    alike = any(one.name not in OURS for one in rest)
    prefix = ALIKE if alike else DIRECT
    # A silence of all that our own labels select has no matcher left: it covers every incident.
    rest = rest or (Matcher(name="alertname", value=".*", regex=True),)
    return Silence(name=prefix + name, until_ns=until_ns, matchers=rest, who=who[:200] or "somebody", why=why[:500])


def _matcher(tree: Any) -> Matcher:
    """Raises: KeyError, TypeError, ValueError, re.error."""
    one = Matcher(
        name=str(tree["name"]),
        value=str(tree["value"]),
        regex=bool(tree.get("isRegex")),
        equal=bool(tree.get("isEqual", True)),
    )
    if one.regex:
        if len(one.value) > LONGEST_REGEX or REPEATED_GROUP.search(one.value):
            raise ValueError("a regular expression that may take for ever")
        re.compile(one.value)
    return one


def body_of(alerts: Iterable[Alert], now_ns: int, resend_s: float) -> bytes:
    """What is posted."""
    return json.dumps([one.body(now_ns, resend_s) for one in alerts], separators=(",", ":")).encode()


def _fires(config: AlertmanagersConfig, incident: Incident) -> bool:
    if incident.state not in STANDING or (incident.prediction is not None and not config.predicted):
        return False
    return not incident.suppressed_by or incident.suppressed_by.startswith(f"silence {DIRECT}")


def _first_hit(incident: Incident) -> str:
    """The service that showed something first."""
    first = min(incident.findings, key=lambda one: (one.start_ns, one.key), default=None)
    return (first.service if first is not None else "") or next(iter(incident.services), "")


def _key(said: Mapping[str, str], longest: int) -> Key:
    """Those that are not empty, in the order of their names, as every release takes them."""
    clean = {name: value.encode("utf-8", "replace").decode()[:longest] for name, value in said.items()}
    return tuple(sorted((name, value) for name, value in clean.items() if value.strip()))


def check_link(template: str) -> None:
    """See that values can only stand in the path, query or fragment of a link. Raises: ConfigError."""
    scheme, _, rest = template.partition("://")
    host, _, _ = rest.replace("?", "/").replace("#", "/").partition("/")
    if scheme not in ("http", "https") or not host or places(scheme + host):
        expected = "expected http:// or https://, a host without values, and values only behind it"
        raise ConfigError("runbook", f"{expected}, got {template[:200]!r}")


def _runbook(template: str, incident: Incident) -> str:
    """A link with values in it, each inside its part of the path: "." and ".." would lead out of it."""
    values = {
        name: quote(value[:LONGEST_PART], safe="", errors="replace") if value.strip(".") else "_" * len(value)
        for name, value in values_of(incident).items()
    }
    link = filled(template, values)
    return link if len(link) <= LONGEST_TEXT else ""  # a part of a link leads elsewhere


def _span(seconds: float) -> str:
    """A stretch of time as people say it.

    >>> _span(5400), _span(90), _span(30)
    ('1.5 h', '1.5 min', '30 s')
    """
    for name, size in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} s"


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / S, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
