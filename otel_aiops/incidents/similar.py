"""Past incidents that look like this one: by what they share of services, channels, keys and suspects."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from otel_aiops.incidents.incident import Incident

KEYS = 50  # of an incident that are compared
WEIGHTS = {"service": 1.0, "channel": 0.5, "key": 2.0, "suspect": 2.0}
SHOWN = 3
LEAST = 0.3  # what is less alike is not shown

Fingerprint = Mapping[str, float]


def fingerprint(incident: Incident) -> dict[str, float]:
    """What an incident is compared by, and how much each counts; the first suspect counts in full, the next less."""
    found: dict[str, float] = {f"service|{service}": WEIGHTS["service"] for service in incident.services[:KEYS]}
    for finding in incident.findings[:KEYS]:
        found[f"channel|{finding.channel}"] = WEIGHTS["channel"]
        found[f"key|{finding.key}"] = WEIGHTS["key"]
    for rank, suspect in enumerate(incident.suspects[:3], 1):
        name = f"suspect|{suspect.service}"
        found[name] = max(found.get(name, 0.0), WEIGHTS["suspect"] / rank)
    return found


def likeness(one: Fingerprint, other: Fingerprint) -> float:
    """Weighted Jaccard index, 0 to 1. Source: Ioffe (2010), Improved Consistent Sampling, section 2."""
    names = {**one, **other}
    least = sum(min(one.get(name, 0.0), other.get(name, 0.0)) for name in names)
    most = sum(max(one.get(name, 0.0), other.get(name, 0.0)) for name in names)
    return least / most if most else 0.0


class Past:
    """Fingerprints of the last incidents that were resolved."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[str, dict[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, incident: Incident) -> None:
        """Remember an incident; one that is known already is the newest again."""
        self._known.pop(incident.id, None)
        self._known[incident.id] = fingerprint(incident)
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    def like(self, incident: Incident) -> tuple[str, ...]:
        """Ids of the most similar, the most similar first, newer before older."""
        mine = fingerprint(incident)
        alike = [
            (-likeness(mine, other), -age, name)
            for age, (name, other) in enumerate(self._known.items())
            if name != incident.id
        ]
        return tuple(name for score, _, name in sorted(alike)[:SHOWN] if -score >= LEAST)

    def state(self) -> list[Any]:
        """What is known, as plain values."""
        return [[name, list(found.items())] for name, found in self._known.items()]

    def restore(self, known: list[Any]) -> None:
        """Take over what `state` gave."""
        self._known = OrderedDict((name, {key: weight for key, weight in found}) for name, found in known)
