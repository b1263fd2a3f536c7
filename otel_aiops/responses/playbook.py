"""Playbooks: what to do about which incidents, as YAML that is checked and known by the hash of its content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from otel_aiops.errors import ConfigError
from otel_aiops.incidents.incident import Channel, Incident, Severity
from otel_aiops.labels import Labels, Selector
from otel_aiops.responses.guard import ACTS, TELLS, Defaults, GuardConfig
from otel_aiops.responses.values import NAMES, places, probability_of
from otel_aiops.settings import ConfigErrors, Schema, load_named

Kind = Literal["notify", "webhook", "command", "scale", "silence", "annotation", "issue", "workflow"]
Trigger = Literal["opened", "notified", "updated", "resolved", "predicted", "alert"]

KINDS: tuple[Kind, ...] = get_args(Kind)
TELLING = frozenset({"notify", "annotation", "issue"})  # tell people; the others change something
REPEATABLE = frozenset({"notify", "webhook"})  # may be done again where a crash hides whether they were
HASH_DIGITS = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SEVERITIES = tuple(Severity)


@dataclass(frozen=True, slots=True)
class MatchConfig:
    """Which incidents; what is not set takes all, what is set must all hold."""

    types: tuple[Channel, ...] = ()  # of a finding: latency, errors, resource, silence …; one of them
    severity: Severity = Severity.INFO  # at least
    services: tuple[str, ...] = ()  # one of them shows something: a name, or ~regex
    probability: float = 0.0  # at least: of a prediction that it happens, else that the first suspect is the cause
    suspects: tuple[str, ...] = ()  # the first suspect is one of them: a name, or ~regex
    labels: Mapping[str, str | bool | int | float] = field(default_factory=dict)  # of a series in it; value or ~regex

    def __post_init__(self) -> None:
        errors = list(self._errors())
        if errors:
            raise ConfigErrors(errors)

    def takes(self, incident: Incident, labels: Sequence[Labels] = ()) -> bool:
        """Whether an incident is one of them; `labels` are those of the series that show it."""
        return not any(self.misses(incident, labels))

    def misses(self, incident: Incident, labels: Sequence[Labels] = ()) -> Iterator[str]:
        """What keeps an incident from being one of them, in plain words."""
        types = {one.channel for one in incident.findings}
        if self.types and not types & set(self.types):
            yield f"types: expected one of {_listed(self.types)}, got {_listed(sorted(types))}"
        if _SEVERITIES.index(incident.severity) < _SEVERITIES.index(self.severity):
            yield f"severity: expected at least {self.severity}, got {incident.severity}"
        if self.services and not any(_named(one, self.services) for one in incident.services):
            yield f"services: expected one of {_listed(self.services)}, got {_listed(incident.services)}"
        first = incident.suspects[0].service if incident.suspects else ""
        if self.suspects and not _named(first, self.suspects):
            yield f"suspects: expected one of {_listed(self.suspects)}, got {first or 'none'}"
        if probability_of(incident) < self.probability:
            yield f"probability: expected at least {self.probability:g}, got {probability_of(incident):.2f}"
        if self.labels and not any(Selector(self.labels).matches(one) for one in labels):
            yield f"labels: expected a series with {dict(self.labels)}, got none among {len(labels)}"

    def _errors(self) -> Iterator[ConfigError]:
        if not 0 <= self.probability <= 1:
            yield ConfigError("probability", f"must be in [0, 1], got {self.probability}")
        patterns = [(key, one) for key in ("services", "suspects") for one in getattr(self, key)]
        patterns += [(f"labels.{key}", str(one)) for key, one in self.labels.items()]
        for key, one in patterns:
            try:
                re.compile(one.removeprefix("~") if one.startswith("~") else "")
            except re.error as error:
                yield ConfigError(key, f"is not a regular expression: {error}, got {one!r}")


@dataclass(frozen=True, slots=True)
class ActionConfig:
    """One thing to do. Where it goes stands in the configuration of the service, under the name in `use`."""

    kind: Kind  # notify, webhook, command, scale, silence, annotation, issue or workflow
    use: str  # name of an entry of responses.notify, .webhooks, .commands, .scalers and so on
    text: str = ""  # what is said, with {title}, {summary}, {service} and so on; without it, title and summary
    replicas: int | None = None  # of `scale`: how many there shall be
    add: int = 0  # of `scale`, instead of `replicas`: how many more, or with a minus less
    duration: float = 3_600.0  # s, of `silence`
    idempotent: bool | None = None  # may be done again where a crash hides whether it was; true of notify, webhook

    def __post_init__(self) -> None:
        unknown = sorted(set(places(self.text)) - set(NAMES))
        if unknown:
            raise ConfigError("text", f"{{{unknown[0]}}} is not a known value; known here: {', '.join(NAMES)}")
        wanted = (self.replicas is not None) + bool(self.add)
        if wanted != (self.kind == "scale"):
            message = "expected replicas or add with kind scale, and only there"
            raise ConfigError("replicas", f"{message}, got {self.replicas} and {self.add}")
        if self.replicas is not None and self.replicas < 0:
            raise ConfigError("replicas", f"must be >= 0, got {self.replicas}")
        if not 60 <= self.duration <= 7 * 86_400:
            raise ConfigError("duration", f"must be 1 min to 7 d, got {self.duration} s")

    @property
    def repeatable(self) -> bool:
        """Whether it may be done again when a crash hides whether it was done."""
        return self.kind in REPEATABLE if self.idempotent is None else self.idempotent

    @property
    def defaults(self) -> Defaults:
        """What its guards say where nothing else is said."""
        return TELLS if self.kind in TELLING else ACTS


@dataclass(frozen=True, slots=True)
class VerifyConfig:
    """How it is seen that a step helped."""

    by: Literal["resolved", "score", "promql"] = "resolved"  # incident resolved, scores under 1, or a query that holds
    within: float = 300.0  # s after the step
    query: str = ""  # of `promql`: holds when it gives at least one sample, and none that is 0

    def __post_init__(self) -> None:
        if not 1 <= self.within <= 86_400:
            raise ConfigError("within", f"must be 1 s to 1 d, got {self.within} s")
        if (self.by == "promql") != bool(self.query.strip()):
            raise ConfigError("query", f"expected a query with `by: promql`, and only there, got {self.query!r}")


@dataclass(frozen=True, slots=True)
class EscalationConfig:
    """What is done when a step was refused, failed or did not help."""

    do: ActionConfig  # as of a step
    guard: GuardConfig = field(default_factory=GuardConfig)  # as of a step


@dataclass(frozen=True, slots=True)
class StepConfig:
    """One step: what is done under which guards, how it is seen that it helped, and what if it did not."""

    do: ActionConfig  # what is done
    guard: GuardConfig = field(default_factory=GuardConfig)  # what must hold for it
    verify: VerifyConfig | None = None  # how it is seen that it helped; without it, that is not looked at
    undo: ActionConfig | None = None  # done when it did not help
    escalate: tuple[EscalationConfig, ...] = ()  # then done; without any, responses.tell is told
    go_on: bool | None = None  # with the next step, although this one was refused or failed; true of steps that tell

    def __post_init__(self) -> None:
        if self.undo is not None and self.verify is None:
            raise ConfigError("undo", "expected `verify` beside it, because it is done when the step did not help")

    @property
    def goes_on(self) -> bool:
        """Whether the next step is done although this one was not."""
        return self.do.kind in TELLING if self.go_on is None else self.go_on


@dataclass(frozen=True, slots=True)
class Playbook:
    """What to do, step by step, about the incidents that match; once for each of them."""

    name: str = ""  # letters, digits and . _ -; each has its own
    description: str = ""  # for people; no part of the hash
    on: Trigger = "opened"  # matches while open; or notified by Alertmanager, updated, resolved, predicted, alert
    dry_run: bool = True  # only say what would be done
    match: MatchConfig = field(default_factory=MatchConfig)  # which incidents
    steps: tuple[StepConfig, ...] = ()  # in their order

    def __post_init__(self) -> None:
        errors = []
        if not _NAME.fullmatch(self.name):
            expected = "expected 1 to 100 letters, digits, dots, hyphens and underscores, the first a letter or digit"
            errors.append(ConfigError("name", f"{expected}, got {self.name!r}"))
        if not self.steps:
            errors.append(ConfigError("steps", "expected at least one step, got none"))
        if errors:
            raise ConfigErrors(errors)

    @property
    def version(self) -> str:
        """16 hexadecimal digits of the content: equal for playbooks that do the same, however they are written."""
        content = {key: value for key, value in self.plain_values().items() if key not in ("description", "version")}
        data = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
        return hashlib.sha256(data.encode("utf-8", "replace")).hexdigest()[:HASH_DIGITS]

    def actions(self) -> Iterator[tuple[str, ActionConfig]]:
        """(key path, what is done) of everything that it may do."""
        for number, step in enumerate(self.steps):
            yield f"steps.{number}.do", step.do
            if step.undo is not None:
                yield f"steps.{number}.undo", step.undo
            for k, one in enumerate(step.escalate):
                yield f"steps.{number}.escalate.{k}.do", one.do

    def plain_values(self) -> dict[str, Any]:
        """For machines: all keys that are set, as YAML would have them."""
        tree: dict[str, Any] = _without_none(json.loads(json.dumps(asdict(self), default=str)))
        return tree


def read_playbook(tree: Any) -> Playbook:
    """The playbook of plain values. Raises: ConfigErrors."""
    return _SCHEMA.read(tree)


def load_playbooks(path: Path) -> tuple[Playbook, ...]:
    """The playbooks of a file, or of the YAML files in a folder in the order of their names.

    Raises: ConfigErrors with everything that is wrong, each with its file, its key path, what was expected and what
    came.
    """
    return load_named(path, _SCHEMA, least=0)


def check_playbooks(playbooks: Iterable[Playbook], known: Mapping[Kind, Iterable[str]], *, promql: bool) -> None:
    """See that names are used once, and that what steps use is configured. Raises: ConfigErrors."""
    errors: list[ConfigError] = []
    names: set[str] = set()
    for one in playbooks:
        if one.name in names:
            errors.append(ConfigError("playbooks", f"expected a name of its own, got {one.name!r} twice"))
        names.add(one.name)
        for path, action in one.actions():
            there = sorted(known.get(action.kind, ()))
            if action.use not in there:
                message = f"expected one of {', '.join(there) or 'none that is configured'}, got {action.use!r}"
                errors.append(ConfigError(f"playbooks.{one.name}.{path}.use", message))
        for number, step in enumerate(one.steps):
            if step.verify is not None and step.verify.by == "promql" and not promql:
                message = "expected responses.prometheus to be configured, it is not"
                errors.append(ConfigError(f"playbooks.{one.name}.steps.{number}.verify.by", message))
    if errors:
        raise ConfigErrors(errors)


def _without_none(tree: Any) -> Any:
    """A key with nothing behind it would be read as one with its defaults."""
    if isinstance(tree, dict):
        return {key: _without_none(value) for key, value in tree.items() if value is not None}
    return [_without_none(one) for one in tree] if isinstance(tree, list) else tree


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _named(name: str, wanted: Sequence[str]) -> bool:
    return any(re.fullmatch(one[1:], name) if one.startswith("~") else one == name for one in wanted)


_SCHEMA = Schema(Playbook)
