"""Decisions of operators: incidents acknowledged, resolved or reopened, silences, and maintenance windows."""

from __future__ import annotations

import glob
import re
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from otel_aiops.desk import asked as get
from otel_aiops.desk.live import Live
from otel_aiops.errors import BadInput, ConfigError
from otel_aiops.incidents.incident import Channel, Incident, Severity
from otel_aiops.incidents.suppress import SERVICE_LABELS, Action, Decision, Maintenance, Matcher, Silence
from otel_aiops.responses.alertmanager import ALIKE, DIRECT, LONGEST_REGEX, MADE_HERE

if TYPE_CHECKING:
    from otel_aiops.app import Service

Kind = Literal["silences", "maintenance"]
MARKS = (Action.ACKNOWLEDGE, Action.RESOLVE, Action.REOPEN)
SCOPES = INCIDENT, SERVICES = "incident", "services"
NAME = re.compile(r"[\w.:-]{1,100}")
KEYS: Mapping[Kind, tuple[str, ...]] = {
    "silences": ("name", "until", "for", "from", "services", "channels", "severities", "who", "why"),
    "maintenance": ("name", "start", "end", "for", "every", "services", "who", "why"),
}


class Decisions:
    """Every method may be called from any thread, and returns when the step loop has done it."""

    def __init__(self, service: Service, live: Live) -> None:
        self._service = service
        self._live = live

    def mark(self, name: str, asked: Any) -> bool:
        """Do what is wanted with an incident; False where there is none. Raises: BadInput."""
        asked = get.known_keys(asked, ("action", "who", "why"))
        who, why = get.text(asked, "who", needed=True), get.text(asked, "why")
        wanted = get.text(asked, "action", needed=True)
        if wanted not in MARKS:
            raise BadInput(f"action: expected one of {', '.join(MARKS)}, got {wanted[:100]!r}")
        incident = self._live.find(name)
        if incident is None:
            if self._service.chronicle.journal.get(name) is None:
                return False
            raise BadInput(f"id: expected an incident that is not long over, got {name!r}")
        if incident.prediction is not None:
            raise BadInput(f"id: expected an incident, got the prediction {name!r}")
        self._decide(Decision(action=Action(wanted), who=who, why=why, time_ns=self._event_ns, incident=name))
        return True

    def rules(self, kind: Kind) -> dict[str, Any]:
        """All that hold or will, by name."""
        found = sorted(
            (rule for rule in self._live.rules() if isinstance(rule, _TYPES[kind])), key=lambda one: one.name
        )
        return {"total": len(found), kind: [self._shown(one) for one in found]}

    def set(self, kind: Kind, asked: Any) -> dict[str, Any]:
        """Begin a silence or a maintenance window, or replace the one of that name. Raises: BadInput."""
        asked = get.known_keys(asked, KEYS[kind])
        who = get.text(asked, "who", needed=True)
        name = get.text(asked, "name") or f"{kind[0]}-{secrets.token_hex(4)}"
        if not NAME.fullmatch(name):
            raise BadInput(f"name: expected 1 to 100 letters, digits and . : _ -, got {name[:200]!r}")
        for rule in self._live.rules():
            if rule.name == name and not isinstance(rule, _TYPES[kind]):
                raise BadInput(f"name: expected another, because a {_WORDS[type(rule)]} has the name {name!r}")
        rule = self._silence(name, asked, who) if kind == "silences" else self._window(name, asked, who)
        return self._begun(rule)

    def silence_incident(self, name: str, asked: Any) -> dict[str, Any] | None:
        """Silence an incident or its services for a time: in Alertmanager where there is one, else here.

        None where there is no such incident. Raises: BadInput, Overloaded where Alertmanager does not answer.
        """
        asked = get.known_keys(asked, ("scope", "for", "who", "why"))
        who, why, lasts_s = get.text(asked, "who", needed=True), get.text(asked, "why"), get.seconds(asked, "for")
        scope = get.text(asked, "scope") or SCOPES[0]
        if scope not in SCOPES:
            raise BadInput(f"scope: expected one of {', '.join(SCOPES)}, got {scope[:100]!r}")
        if not lasts_s:
            raise BadInput("for: expected how long it lasts, such as 2h, got nothing")
        incident = self._live.find(name) or self._service.chronicle.journal.get(name)
        if incident is None:
            return None
        matchers = _matchers(incident, scope)
        if self._service.config.alertmanager.to:
            made = self._service.silences.make(matchers, lasts_s=lasts_s, who=who, why=why, incident=incident.id)
            rules = {rule.name: rule for rule in self._live.rules()}
            taken = rules.get(DIRECT + made)
            later = {"name": DIRECT + made, "until": self._service.clock_ns() / 1e9 + lasts_s}  # not taken over yet
            return {**(self._shown(taken) if taken else later), "where": "Alertmanager"}
        until_ns = self._live.now_ns() + round(lasts_s * 1e9)
        rule = Silence(name=f"s-{secrets.token_hex(4)}", until_ns=until_ns, matchers=matchers, who=who, why=why)
        if scope == SERVICES:  # of alerts of others too
            services = tuple(glob.escape(service) for service in incident.services)
            rule = replace(rule, matchers=(), services=services)
        return {**self._begun(rule), "where": "otel-aiops"}

    def end(self, kind: Kind, name: str, asked: Mapping[str, str]) -> bool:
        """End a silence or a maintenance window; False where there is none. Raises: BadInput."""
        asked = get.known_keys(dict(asked), ("who", "why"))
        who, why = get.text(asked, "who", needed=True), get.text(asked, "why")
        if not any(rule.name == name and isinstance(rule, _TYPES[kind]) for rule in self._live.rules()):
            return False
        if name.startswith((DIRECT, ALIKE)):
            return self._end_there(name)
        if kind == "maintenance" and self._configured(name):
            raise BadInput(f"name: {name!r} is in the configuration; take it out of incidents.grouping.maintenance")
        self._decide(Decision(action=Action.UNSILENCE, who=who, why=why, time_ns=self._event_ns, name=name))
        return True

    def _begun(self, rule: Silence | Maintenance) -> dict[str, Any]:
        """Have a rule hold from now on; the rule as it is then. Raises: BadInput."""
        silence, window = (rule, None) if isinstance(rule, Silence) else (None, rule)
        action = Action.SILENCE if silence else Action.MAINTENANCE
        at_ns, who, why = self._event_ns, rule.who, rule.why
        self._decide(Decision(action=action, who=who, why=why, time_ns=at_ns, silence=silence, maintenance=window))
        made = next((one for one in self._live.rules() if one.name == rule.name), None)
        if made is None:
            raise BadInput("expected fewer silences and maintenance windows; their limit is reached")
        return self._shown(made)

    def _end_there(self, name: str) -> bool:
        """End a silence in Alertmanager that was made here. Raises: BadInput for another's, Overloaded."""
        rule = next((one for one in self._live.rules() if one.name == name), None)
        if rule is None or MADE_HERE not in rule.why:
            raise BadInput(f"name: {name!r} is a silence of Alertmanager; end it there")
        self._service.silences.end(name.removeprefix(DIRECT))
        return True

    # -- one decision -------------------------------------------------------------------------------------------------

    @property
    def _event_ns(self) -> int:
        return self._service.pipeline.event_ns

    def _decide(self, decision: Decision) -> None:
        decision.check()
        self._live.decide(decision)

    def _silence(self, name: str, asked: Mapping[str, Any], who: str) -> Silence:
        now_ns = self._live.now_ns()
        from_ns = get.time_ns(asked, "from", now_ns)
        until_ns = _end_ns(asked, "until", now_ns, max(from_ns, now_ns))
        if until_ns <= max(from_ns, now_ns):
            raise BadInput(f"until: expected a time that is still to come, got {asked.get('until')!r}")
        return Silence(
            name=name,
            until_ns=until_ns,
            from_ns=from_ns,
            services=get.texts(asked, "services"),
            channels=get.words(asked, "channels", Channel),
            severities=get.words(asked, "severities", Severity),
            who=who,
            why=get.text(asked, "why"),
        )

    def _window(self, name: str, asked: Mapping[str, Any], who: str) -> Maintenance:
        now_ns = self._live.now_ns()
        start_ns = get.time_ns(asked, "start", now_ns) or now_ns
        try:
            window = Maintenance(
                name=name,
                start_ns=start_ns,
                end_ns=_end_ns(asked, "end", now_ns, start_ns),
                every_s=get.seconds(asked, "every"),
                services=get.texts(asked, "services"),
                who=who,
                why=get.text(asked, "why"),
            )
        except ConfigError as error:
            raise BadInput(f"{error.path.removesuffix('_s')}: {error.message}") from error
        if window.over(now_ns):
            raise BadInput(f"end: expected a time that is still to come, got {asked.get('end')!r}")
        return window

    def _configured(self, name: str) -> bool:
        return any(window.name == name for window in self._service.config.incidents.grouping.maintenance)

    def _ends_here(self, rule: Silence | Maintenance) -> bool:
        if isinstance(rule, Maintenance):
            return not self._configured(rule.name)
        return not rule.name.startswith((DIRECT, ALIKE)) or MADE_HERE in rule.why

    def _shown(self, rule: Silence | Maintenance) -> dict[str, Any]:
        """A rule in the words that it was asked for with."""
        now_ns, ends_here = self._live.now_ns(), self._ends_here(rule)
        told = {"services": list(rule.services), "who": rule.who, "why": rule.why, "ends_here": ends_here}
        if isinstance(rule, Maintenance):
            times: dict[str, Any] = {
                "start": rule.start_ns / 1e9,
                "end": rule.end_ns / 1e9,
                "every": rule.every_s or None,
            }
            return {"name": rule.name, **times, "active": rule.now(now_ns), **told}
        only = {"channels": list(map(str, rule.channels)), "severities": list(map(str, rule.severities))}
        if rule.matchers:
            only["matchers"] = [_matcher(one) for one in rule.matchers]
        times = {"from": rule.from_ns / 1e9 or None, "until": rule.until_ns / 1e9}
        return {"name": rule.name, **times, "active": rule.from_ns <= now_ns < rule.until_ns, **only, **told}


def _matchers(incident: Incident, scope: str) -> tuple[Matcher, ...]:
    """What the alert of an incident is known by, or every alert of its services. Raises: BadInput."""
    if scope == INCIDENT:
        return (Matcher(name="incident_id", value=incident.id),)
    services = incident.services
    if not services:
        raise BadInput("scope: expected incident, because this one names no service, got services")
    if len(services) == 1:
        return (Matcher(name=SERVICE_LABELS[0], value=services[0]),)
    value = "|".join(map(re.escape, services))
    if len(value) > LONGEST_REGEX:
        raise BadInput("scope: expected incident, because the names of its services are too long, got services")
    return (Matcher(name=SERVICE_LABELS[0], value=value, regex=True),)


_TYPES: Mapping[Kind, type[Silence] | type[Maintenance]] = {"silences": Silence, "maintenance": Maintenance}
_WORDS = {Silence: "silence", Maintenance: "maintenance window"}


def _matcher(one: Matcher) -> str:
    """As Alertmanager writes it."""
    operator = {(True, False): "=", (False, False): "!=", (True, True): "=~", (False, True): "!~"}
    return f'{one.name}{operator[one.equal, one.regex]}"{one.value}"'


def _end_ns(asked: Mapping[str, Any], key: str, now_ns: int, start_ns: int) -> int:
    """When something ends: by time, or by how long it lasts. Raises: BadInput."""
    end_ns, lasts_s = get.time_ns(asked, key, now_ns), get.seconds(asked, "for")
    if bool(end_ns) == bool(lasts_s):
        raise BadInput(
            f"{key}: expected a time, or `for` with how long it lasts; got {'both' if end_ns else 'neither'}"
        )
    return end_ns or start_ns + round(lasts_s * 1e9)
