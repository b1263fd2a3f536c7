"""What operators decide, and why an incident does not page: a silence, a maintenance window, or a dependency."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from fnmatch import fnmatchcase

from otel_aiops.errors import BadInput, ConfigError
from otel_aiops.incidents.incident import Channel, Incident, Severity, State

LIVE = (State.OPEN, State.ACKNOWLEDGED)
# What a service shows when what it calls is broken; anything else it has of its own.
SYMPTOMS = frozenset({Channel.ERRORS, Channel.LATENCY, Channel.NETWORK, Channel.RATE, Channel.SERIES})
DEPENDENCY_HOPS = 4
INCIDENT_ALERT, PREDICTED_ALERT = "OtelAiopsIncident", "OtelAiopsPredictedIncident"
SERVICE_LABELS = ("service_name", "service", "app", "job")  # of alerts; the first one is that of ours
S = 1_000_000_000


class Action(StrEnum):
    """What operators can do."""

    ACKNOWLEDGE = "acknowledge"
    RESOLVE = "resolve"
    REOPEN = "reopen"
    SILENCE = "silence"
    UNSILENCE = "unsilence"  # end a silence or a maintenance window by name
    MAINTENANCE = "maintenance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matcher:
    """A condition on a label of an alert, as Alertmanager has them; a label that is not there is empty."""

    name: str
    value: str
    regex: bool = False  # of the whole value
    equal: bool = True

    def takes(self, labels: Mapping[str, str]) -> bool:
        """Whether it holds for an alert."""
        has = labels.get(self.name, "")
        return (bool(re.fullmatch(self.value, has)) if self.regex else has == self.value) == self.equal


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Incidents that do not page until a time. An empty selector takes all; names of services may have * and ?.

    `matchers` are those of a silence of Alertmanager: they must all hold for the alert that the incident is there,
    whichever of its services that names.
    """

    name: str
    until_ns: int
    from_ns: int = 0
    services: tuple[str, ...] = ()
    channels: tuple[Channel, ...] = ()
    severities: tuple[Severity, ...] = ()
    matchers: tuple[Matcher, ...] = ()
    who: str = ""
    why: str = ""

    def holds(self, incident: Incident, event_ns: int) -> bool:
        """Whether all of the incident is silenced: one that also hits others pages."""
        return (
            self.from_ns <= event_ns < self.until_ns
            and all(_named(service, self.services) for service in incident.services)
            and (not self.channels or all(finding.channel in self.channels for finding in incident.findings))
            and (not self.severities or incident.severity in self.severities)
            and (not self.matchers or all(self._matches(labels) for labels in alert_labels(incident)))
        )

    def _matches(self, labels: Mapping[str, str]) -> bool:
        return all(one.takes(labels) for one in self.matchers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """Work on services from start to end, again every `every_s` seconds where that is not 0."""

    name: str
    start_ns: int
    end_ns: int
    services: tuple[str, ...] = ()
    every_s: float = 0.0
    who: str = ""
    why: str = ""

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        if self.end_ns <= self.start_ns:
            raise ConfigError("end", f"expected an end after the start, got {self.start_ns} to {self.end_ns} ns")
        if self.every_s and not self.every_s * S >= self.end_ns - self.start_ns:
            raise ConfigError("every_s", f"expected at least the length of the window, got {self.every_s} s")

    def now(self, event_ns: int) -> bool:
        """Whether there is work at a time."""
        since_ns = event_ns - self.start_ns
        if since_ns >= 0 and self.every_s:
            since_ns %= round(self.every_s * S)
        return 0 <= since_ns < self.end_ns - self.start_ns

    def holds(self, incident: Incident, event_ns: int) -> bool:
        """Whether all services of the incident are being worked on."""
        return self.now(event_ns) and all(_named(service, self.services) for service in incident.services)

    def over(self, event_ns: int) -> bool:
        """Whether it will not come again."""
        return not self.every_s and event_ns >= self.end_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceConfig:
    """A maintenance window in the words of the configuration."""

    name: str  # by which people know it
    start: datetime | float | str  # ISO 8601, in UTC without a zone, or unix seconds
    end: datetime | float | str  # the same
    every: float = 0.0  # again after so long; 0 is once
    services: tuple[str, ...] = ()  # names of services that are worked on, which may have * and ?; none is all
    why: str = ""  # what is done

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        if not self.name:
            raise ConfigError("name", "expected a name, got nothing")
        self.window()

    def window(self) -> Maintenance:
        """The same in event time. Raises: ConfigError."""
        try:
            return Maintenance(
                name=self.name,
                start_ns=_config_ns("start", self.start),
                end_ns=_config_ns("end", self.end),
                every_s=self.every,
                services=self.services,
                why=self.why,
            )
        except ConfigError as error:
            raise ConfigError(error.path.removesuffix("_s"), error.message) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What an operator wants, with name and reason; `time_ns` is the event time at which it holds."""

    action: Action
    who: str
    time_ns: int
    why: str = ""
    incident: str = ""  # id, of those that are about one
    silence: Silence | None = None
    maintenance: Maintenance | None = None
    name: str = ""  # of the silence or maintenance window to end

    def check(self) -> None:
        """Raises: BadInput that says what is missing."""
        if not self.who:
            raise BadInput("who: expected the name of who decides, got nothing")
        needs = {
            Action.SILENCE: ("silence", self.silence),
            Action.MAINTENANCE: ("maintenance", self.maintenance),
            Action.UNSILENCE: ("name", self.name),
        }
        what, value = needs.get(self.action, ("incident", self.incident))
        if not value:
            raise BadInput(f"{what}: expected with the action {self.action}, got nothing")


def _config_ns(key: str, time: datetime | float | str) -> int:
    """A time of the configuration in ns. Raises: ConfigError."""
    try:
        if isinstance(time, int | float):
            return round(time * S)
        at = datetime.fromisoformat(time) if isinstance(time, str) else time
        return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000_000) * 1_000
    except (ValueError, OverflowError):
        raise ConfigError(key, f"expected ISO 8601 as 2026-05-03T14:00:00Z, or unix seconds, got {time!r}") from None


def alert_labels(incident: Incident) -> list[dict[str, str]]:
    """The labels of the alert that an incident is in Alertmanager, for each of its services."""
    predicted = incident.prediction is not None
    shared = {
        "alertname": PREDICTED_ALERT if predicted else INCIDENT_ALERT,
        "incident_id": incident.id,
        "severity": str(incident.severity),
        "predicted": "true" if predicted else "",
    }
    return [shared | dict.fromkeys(SERVICE_LABELS, service) for service in incident.services or ("",)]


def _named(service: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(service, pattern) for pattern in patterns)


def _signed(kind: str, rule: Silence | Maintenance) -> str:
    who = f" by {rule.who}" if rule.who else ""
    why = f": {rule.why}" if rule.why else ""
    return f"{kind} {rule.name}{who}{why}"


def ruled(incident: Incident, silences: Iterable[Silence], windows: Iterable[Maintenance], event_ns: int) -> str:
    """The silence or maintenance window that holds for an incident, with who and why; "" when none does."""
    for window in windows:
        if window.holds(incident, event_ns):
            return _signed("maintenance", window)
    for silence in silences:
        if silence.holds(incident, event_ns):
            return _signed("silence", silence)
    return ""


def explaining(live: Iterable[Incident]) -> dict[str, list[Incident]]:
    """Of each service, its live incidents that may explain others, in the order in which they come."""
    found: dict[str, list[Incident]] = {}
    for incident in live:
        if not incident.suppressed_by.startswith("dependency"):
            for service in incident.services:
                found.setdefault(service, []).append(incident)
    return found


def explained(
    incident: Incident, depends_on: Callable[[str], Mapping[str, int]], live: Mapping[str, Sequence[Incident]]
) -> str:
    """The dependency that explains an incident: "" when none does.

    That is an earlier live incident of something that every one of its services depends on, where it shows nothing but
    symptoms itself. `depends_on` gives the services that one depends on, and through how many calls; `live` comes from
    `explaining`.
    """
    if not incident.services or any(finding.channel not in SYMPTOMS for finding in incident.findings):
        return ""
    first, *others = (depends_on(service) for service in incident.services)
    found = [
        (other.start_ns, other.id, service)
        for service, hops in first.items()
        if hops and service in live and all(reach.get(service) for reach in others)
        for other in live[service]
        if other.id != incident.id and other.start_ns <= incident.start_ns
    ]
    if not found:
        return ""
    _, name, service = min(found)
    return f"dependency {service}: incident {name}"
