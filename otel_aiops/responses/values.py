"""What playbooks may say of an incident: named values, filled into texts, or whole into arguments of commands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from otel_aiops.incidents.incident import Incident

S = 1_000_000_000
LONGEST = 2_000  # characters of a value in a text
NAMES = (
    *("id", "title", "summary", "severity", "state", "types", "service", "services", "suspect", "resource"),
    *("operation", "deployment", "reason", "probability", "start", "playbook"),
)
_PLACE = re.compile(r"\{(\w+)\}")
_ARGUMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@=+-]{0,252}")


def values_of(incident: Incident, playbook: str = "") -> dict[str, str]:
    """Every value by name; "" for what is not known. They come from telemetry: nothing is safe to run or to open.

    `service` is what is acted on: the first suspect, or without one the first service that shows something itself.
    """
    first = incident.suspects[0] if incident.suspects else None
    suspect = first.service if first else ""
    named = {
        "id": incident.id,
        "title": incident.title or incident.id,
        "summary": incident.summary,
        "severity": str(incident.severity),
        "state": str(incident.state),
        "types": ", ".join(sorted({str(one.channel) for one in incident.findings})),
        "service": suspect or next(iter(incident.services), ""),
        "services": ", ".join(incident.services),
        "suspect": suspect,
        "resource": first.resource if first else "",
        "operation": first.operation if first else "",
        "deployment": first.deployment if first else "",
        "reason": first.reason if first else "",
        "probability": f"{probability_of(incident):.2f}",
        "start": f"{datetime.fromtimestamp(incident.start_ns // S, UTC):%Y-%m-%dT%H:%M:%SZ}",
        "playbook": playbook,
    }
    return {name: value[:LONGEST] for name, value in named.items()}


def probability_of(incident: Incident) -> float:
    """Of a prediction, that it happens; of an incident, that the first suspect is its cause."""
    if incident.prediction is not None:
        return incident.prediction.probability
    return incident.suspects[0].confidence if incident.suspects else 0.0


def places(text: str) -> list[str]:
    """The names in braces.

    >>> places("{service} is {state}")
    ['service', 'state']
    """
    return _PLACE.findall(text)


def filled(text: str, values: Mapping[str, str]) -> str:
    """A text with its places filled; what stands in a value is not looked at again.

    >>> filled("{title} {", {"title": "{id}", "id": "7"})
    '{id} {'
    """
    return _PLACE.sub(lambda match: values.get(match[1], match[0]), text)


def is_whole(text: str) -> bool:
    """Whether a text is one value and nothing else."""
    return bool(_PLACE.fullmatch(text))


def wrong_places(text: str, known: Sequence[str] = NAMES) -> Iterator[str]:
    """What is wrong with a text that shall be fixed, or one value and nothing else."""
    names = places(text)
    if names and not is_whole(text):
        yield f"expected a value as a whole argument, got {{{names[0]}}} inside other text"
    for name in sorted(set(names) - set(known)):
        yield f"{{{name}}} is not a known value; known here: {', '.join(known)}"


def whole(text: str, values: Mapping[str, str]) -> str:
    """A fixed text, or the value that it is. Raises: ValueError, see `argument`."""
    match = _PLACE.fullmatch(text)
    return argument(match[1], values) if match else text


def argument(name: str, values: Mapping[str, str]) -> str:
    """A value that may be one argument of a command: no option, no path, nothing that a shell would look at.

    Raises: ValueError with what was expected and what came.
    """
    value = values.get(name, "")
    if not _ARGUMENT.fullmatch(value) or ".." in value:
        expected = "expected 1 to 253 letters, digits and . _ : @ = + -, the first a letter or digit, and no .."
        raise ValueError(f"{{{name}}}: {expected}, got {value[:100]!r}")
    return value
