"""Sources: labels and exclusions from verdicts, incidents, decisions, maintenance, Alertmanager and Prometheus."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from otel_aiops.detect.lessons import Verdict
from otel_aiops.errors import BadInput
from otel_aiops.incidents.incident import Channel
from otel_aiops.incidents.journal import Journal
from otel_aiops.incidents.known import KnownAlert, ours, service_of
from otel_aiops.incidents.suppress import SERVICE_LABELS, Action, Decision, Maintenance
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.truth import (
    ANOMALY,
    DUPLICATE,
    EXPECTED,
    NORMAL,
    Exclusion,
    Label,
    of_services,
    selector,
    time_ns,
)
from otel_aiops.series.segments import HOUR_NS, DamagedFile, Segments
from otel_aiops.series.wanted import Wanted

S = 1_000_000_000
VERDICT_AROUND_NS = 300 * S  # a verdict is about its alert, of which only a time is known
SHORTEST_NS = 60 * S  # of an incident: one that was seen at a single moment happened all the same
KIND_OF_VERDICT = {
    "true_alert": ANOMALY,
    "missed": ANOMALY,
    "false_alert": NORMAL,
    "duplicate": DUPLICATE,
    "expected": EXPECTED,
}
CONFIRMED, UNCONFIRMED, FIRING, FIRED = 1.0, 0.6, 0.5, 0.4  # confidence: who says so, and whether anybody agreed
CONFIRMING = (Action.ACKNOWLEDGE, Action.RESOLVE)
MOST_INCIDENTS = 100_000
MOST_WINDOWS = 10_000  # of one maintenance rule
UNENDED_NS = 86_400 * S  # of an alert whose end nobody has told: longer, and the end was missed
STEP_S = 60.0  # at which the history of alerts is read
STEPS = 10_000  # of one question; Prometheus gives 11,000
LOAD_TEST_AROUND_NS = 60 * S  # its effects begin before and end after its own points
LOAD_TEST_GAP_NS = 600 * S
# Labels of alerts that name what series have as an attribute under another name; anything else says nothing of series.
ATTRIBUTES = {
    **dict.fromkeys(("service", "service_name", "job", "app"), "service"),
    **dict.fromkeys(("namespace", "k8s_namespace_name"), "k8s.namespace.name"),
    **dict.fromkeys(("pod", "k8s_pod_name"), "k8s.pod.name"),
    **dict.fromkeys(("cluster", "k8s_cluster_name"), "k8s.cluster.name"),
    **dict.fromkeys(("node", "k8s_node_name"), "k8s.node.name"),
    **dict.fromkeys(("instance", "service_instance_id"), "service.instance.id"),
    **dict.fromkeys(("env", "environment", "deployment_environment"), "deployment.environment.name"),
}

SENDERS = {"alertmanager": "Alertmanager", "grafana": "Grafana"}

Get = Callable[[str, dict[str, str]], Any]


@dataclass(frozen=True, slots=True)
class Truth:
    """What a source knows, and what of it could not be used, in plain words."""

    labels: tuple[Label, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: Truth) -> Truth:
        return Truth(self.labels + other.labels, self.exclusions + other.exclusions, self.notes + other.notes)


def of_journal(journal: Journal, start_ns: int, end_ns: int, channels: Collection[Channel] = ()) -> Truth:
    """Verdicts and incidents as labels; confirmed incidents, maintenance, silences and what was expected as exclusions.

    With channels, only incidents that show one of them are labels. An incident is confirmed when somebody acknowledged
    or resolved it, or called it real. What was called false is labelled and stays in: it is what normal looks like.
    What was expected is left out of training, and of a duplicate neither an event nor a false alert is made.
    Raises: StorageError.
    """
    verdicts = journal.verdicts(until_ns=2**63 - 1)
    labels, exclusions = _of_verdicts(verdicts, start_ns, end_ns)
    decisions = journal.decisions(limit=MOST_INCIDENTS)
    confirmed = {one.incident for one in decisions if one.action in CONFIRMING}
    said = {one.incident: one.kind for _, one in sorted(verdicts, key=lambda of: of[1].given_ns) if one.incident}
    exclusions += of_decisions(decisions)
    for incident in journal.past(most=MOST_INCIDENTS):
        last_ns = max(incident.end_ns or end_ns, incident.start_ns + SHORTEST_NS)
        if incident.start_ns >= end_ns or last_ns <= start_ns:
            continue
        kind = KIND_OF_VERDICT.get(said.get(incident.id, ""), "")
        agreed = bool(kind) or incident.id in confirmed
        confidence = CONFIRMED if agreed else UNCONFIRMED
        meant = not channels or any(finding.channel in channels for finding in incident.findings)
        for service in incident.services or ("",):
            shared: dict[str, Any] = {"start_ns": incident.start_ns, "end_ns": last_ns}
            if meant:
                about: dict[str, Any] = {"service": service, "confidence": confidence, "note": incident.id}
                labels.append(Label(**shared, **about, kind=kind or ANOMALY, source="incident"))
            if agreed and service and kind != NORMAL:
                match = (("service", service),)
                source = EXPECTED if kind == EXPECTED else "incident"
                exclusions.append(Exclusion(**shared, match=match, reason=incident.id, source=source))
    return Truth(tuple(labels), tuple(exclusions))


def _of_verdicts(
    verdicts: Sequence[tuple[str, Verdict]], start_ns: int, end_ns: int
) -> tuple[list[Label], list[Exclusion]]:
    """What was said of series in a stretch of time."""
    labels, exclusions = [], []
    for series, verdict in verdicts:
        if not start_ns <= verdict.time_ns < end_ns or not (series or verdict.series):
            continue
        shared: dict[str, Any] = {
            "start_ns": verdict.time_ns - VERDICT_AROUND_NS,
            "end_ns": verdict.time_ns + VERDICT_AROUND_NS,
        }
        kind, note = KIND_OF_VERDICT[verdict.kind], _said(verdict.kind, verdict.by, verdict.note)
        name = series or f"{verdict.series:016x}"
        labels.append(Label(**shared, series=name, kind=kind, source="verdict", note=note))
        if kind == EXPECTED and series:
            match = tuple(sorted(Wanted(str(Labels.from_json(series))).match.items()))
            exclusions.append(Exclusion(**shared, match=match, reason=note, source=EXPECTED))
    return labels, exclusions


def of_decisions(decisions: Iterable[Decision]) -> list[Exclusion]:
    """Maintenance windows and silences that operators declared; one that was ended early is cut."""
    found = []
    ordered = sorted(decisions, key=lambda one: one.time_ns)
    for k, one in enumerate(ordered):
        window = one.maintenance
        if one.silence is not None and one.silence.matchers:
            continue  # of Alertmanager, which is asked for it
        if one.silence is not None:
            silence = one.silence
            start_ns = max(silence.from_ns, one.time_ns)
            if silence.until_ns > start_ns:
                window = Maintenance(
                    name=silence.name, start_ns=start_ns, end_ns=silence.until_ns, services=silence.services
                )
        if window is None:
            continue
        ends = [
            later.time_ns
            for later in ordered[k + 1 :]
            if later.action == Action.UNSILENCE and later.name == window.name
        ]
        until_ns = min(ends, default=2**62)
        why = f"{window.name}{': ' + one.why if one.why else ''}"
        for start_ns, end_ns in _times(window, window.start_ns, until_ns):
            found += _of(window.services, start_ns, min(end_ns, until_ns), why, str(one.action))
    return found


def of_maintenance(windows: Sequence[Maintenance], start_ns: int, end_ns: int) -> list[Exclusion]:
    """Maintenance windows, every time that they come in a stretch of time."""
    return [
        one
        for window in windows
        for first_ns, last_ns in _times(window, start_ns, end_ns)
        for one in _of(window.services, first_ns, last_ns, window.name, "maintenance")
    ]


def of_alertmanager(get: Get, start_ns: int, end_ns: int) -> Truth:
    """What Alertmanager knows now: its alerts as weak labels, its silences as exclusions. Raises: BadInput, Overloaded.

    Of alerts those are labels that name a service and are no rules over our own metrics. A silence counts when its
    matchers say something of series (service, namespace, pod …); one of a single alert by name does not, since the rest
    of the service is as it always was.
    """
    alerts = _list(get("/api/v2/alerts", {"active": "true", "silenced": "true", "inhibited": "true"}), "alerts")
    fired = _Fired("Alertmanager", FIRING)
    for alert in alerts:
        first_ns, last_ns = time_ns(alert, "startsAt"), min(time_ns(alert, "endsAt"), end_ns)
        if last_ns > first_ns:
            fired.add(alert.get("labels", {}), first_ns, last_ns, str(alert.get("generatorURL") or ""))
    exclusions, notes = [], fired.notes()
    for silence in _list(get("/api/v2/silences", {}), "silences"):
        first_ns, last_ns = time_ns(silence, "startsAt"), time_ns(silence, "endsAt")
        name = str(silence.get("id", ""))
        if last_ns <= first_ns or last_ns <= start_ns or first_ns >= end_ns:
            continue
        match = _matched(silence.get("matchers", []))
        if match is None:
            notes.append(f"silence {name} of Alertmanager says nothing of series and excludes none")
            continue
        reason = _said(str(silence.get("comment") or name), str(silence.get("createdBy") or ""))
        exclusions.append(
            Exclusion(start_ns=first_ns, end_ns=last_ns, match=match, reason=reason, source="alertmanager silence")
        )
    return Truth(tuple(fired.labels), tuple(exclusions), tuple(notes))


def of_webhooks(journal: Journal, start_ns: int, end_ns: int) -> Truth:
    """What Alertmanager and Grafana told by webhook, as weak labels; which of it is as for Alertmanager's API.

    Raises: StorageError.
    """
    fired = {sender: _Fired(name, FIRING) for sender, name in SENDERS.items()}
    ends: dict[str, KnownAlert] = {}  # by what they are the end of, and before it the alert itself
    for one in journal.others.told(until_ns=end_ns):
        before = ends.get(one.incident)
        if before is None or one.status == "resolved":
            ends[one.incident] = one
    for one in ends.values():
        last_ns = min(one.ends_ns or one.starts_ns + UNENDED_NS, end_ns)
        if last_ns > max(one.starts_ns, start_ns):
            fired[one.sender].add(dict(one.labels), one.starts_ns, last_ns, one.source)
    labels = tuple(label for of in fired.values() for label in of.labels)
    return Truth(labels, notes=tuple(note for of in fired.values() for note in of.notes()))


def of_prometheus(get: Get, start_ns: int, end_ns: int, step_s: float = STEP_S) -> Truth:
    """The alerts that fired, as Prometheus has recorded them, as weak labels; which of them is as for Alertmanager.

    Raises: BadInput, Overloaded.
    """
    times: dict[tuple[tuple[str, str], ...], list[float]] = {}
    start_s, end_s = start_ns / S, end_ns / S
    for first_s in np.arange(start_s, end_s, STEPS * step_s).tolist():
        last_s = min(end_s, first_s + (STEPS - 1) * step_s)
        asked = {"query": 'ALERTS{alertstate="firing"}', "start": f"{first_s:.3f}", "end": f"{last_s:.3f}"}
        answer = get("/api/v1/query_range", {**asked, "step": f"{step_s:.3f}"})
        if not isinstance(answer, dict) or answer.get("status") != "success":
            raise BadInput(f"Prometheus: expected an answer with status success, got {answer!r:.200}")
        for one in answer["data"]["result"]:
            key = tuple(sorted((str(name), str(value)) for name, value in one["metric"].items()))
            times.setdefault(key, []).extend(float(value[0]) for value in one["values"])
    fired = _Fired("Prometheus", FIRED)
    for key, found in sorted(times.items()):
        at_s = np.unique(np.array(found))
        for part in np.split(at_s, np.flatnonzero(np.diff(at_s) > 2 * step_s) + 1):
            first_ns, last_ns = round(part[0] * S), round((part[-1] + step_s) * S)
            fired.add(dict(key), first_ns, last_ns)
    return Truth(tuple(fired.labels), notes=tuple(fired.notes()))


def of_load_tests(
    segments: Segments, rules: Sequence[tuple[Mapping[str, str], Sequence[str]]], start_ns: int, end_ns: int
) -> list[Exclusion]:
    """While series that match a rule had points, its services are left out. Raises: StateError, StorageError.

    Rules are (labels of the series that a load test brings, names of services that it hits).
    """
    import pyarrow as pa

    if not rules:
        return []
    found: list[Exclusion] = []
    names = segments.series(start_ns, end_ns, without_damaged=True)
    known = [(name, Labels.from_json(name)) for name in names]
    for match, services in rules:
        wanted = selector(match)
        mine = [name for name, labels in known if wanted.matches(labels)]
        times = [np.empty(0, np.int64)]
        for hour_ns in range(start_ns // HOUR_NS * HOUR_NS, end_ns, HOUR_NS) if mine else ():
            with suppress(DamagedFile):  # no dataset has its points either
                table = segments.read(max(hour_ns, start_ns), min(hour_ns + HOUR_NS, end_ns), mine)
                times.append(np.unique(table["timestamp"].cast(pa.int64()).to_numpy()))
        at = np.unique(np.concatenate(times))
        for part in np.split(at, np.flatnonzero(np.diff(at) > LOAD_TEST_GAP_NS) + 1) if len(at) else ():
            first_ns, last_ns = int(part[0]) - LOAD_TEST_AROUND_NS, int(part[-1]) + LOAD_TEST_AROUND_NS
            said = ", ".join(f"{key}={value}" for key, value in sorted(match.items()))
            found += _of(services, first_ns, last_ns, said, "load test")
    return found


def _said(what: str, by: str, why: str = "") -> str:
    return f"{what}{' by ' + by if by else ''}{': ' + why if why else ''}"


def _of(services: Sequence[str], start_ns: int, end_ns: int, reason: str, source: str) -> list[Exclusion]:
    if end_ns <= start_ns:
        return []
    return [
        Exclusion(start_ns=start_ns, end_ns=end_ns, match=match, reason=reason, source=source)
        for match in of_services(services)
    ]


def _times(window: Maintenance, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
    """When a maintenance window holds in a stretch of time."""
    length_ns, every_ns = window.end_ns - window.start_ns, round(window.every_s * S)
    if not every_ns:
        return [(window.start_ns, window.end_ns)] if window.end_ns > start_ns and window.start_ns < end_ns else []
    first = max(0, (start_ns - window.end_ns) // every_ns)
    starts = range(window.start_ns + first * every_ns, end_ns, every_ns)[:MOST_WINDOWS]
    return [(at, at + length_ns) for at in starts if at + length_ns > start_ns]


class _Fired:
    """Alerts of others as labels, and what could not be used."""

    def __init__(self, server: str, confidence: float) -> None:
        self._server, self._confidence = server, confidence
        self.labels: list[Label] = []
        self._nameless: set[str] = set()
        self._ours: set[str] = set()

    def add(self, labels: Mapping[str, str], start_ns: int, end_ns: int, source: str = "") -> None:
        """An alert that fired. One that names no service would be about all of them, as a watchdog is."""
        name = str(labels.get("alertname", ""))[:200]
        service = service_of(labels)
        if ours(labels, source):
            self._ours.add(name)
        elif not service:
            self._nameless.add(name)
        else:
            about: dict[str, Any] = {"confidence": self._confidence, "source": self._server.lower(), "note": name}
            self.labels.append(Label(start_ns=start_ns, end_ns=end_ns, service=service, **about))

    def notes(self) -> list[str]:
        """What there is to say of those that are no labels."""
        left_out = (
            (self._nameless, f"name no service (as {', '.join(SERVICE_LABELS)})"),
            (self._ours, "are rules over metrics of otel-aiops"),
        )
        return [
            f"alerts of {self._server} that {why} are no labels: {', '.join(sorted(names))}"
            for names, why in left_out
            if names
        ]


def _matched(matchers: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...] | None:
    """The matchers of a silence as a selector of series; None when they say nothing of series, or only of an alert."""
    found: dict[str, str] = {}
    for matcher in matchers:
        name, value = str(matcher.get("name", "")), str(matcher.get("value", ""))
        if name == "alertname":
            return None
        key = ATTRIBUTES.get(name)
        if key is None:
            continue
        inner = value if matcher.get("isRegex") else re.escape(value)
        if matcher.get("isEqual", True):
            found[key] = f"~{value}" if matcher.get("isRegex") or value.startswith("~") else value
        else:
            found[key] = f"~(?!(?:{inner})$).*"
    return tuple(sorted(found.items())) or None


def _list(answer: Any, what: str) -> list[Mapping[str, Any]]:
    if not isinstance(answer, list) or not all(isinstance(one, dict) for one in answer):
        raise BadInput(f"Alertmanager: expected a list of {what}, got {answer!r:.200}")
    return answer
