"""Deeds: how steps of responses, what playbooks match and what guards ask for are written in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from otel_aiops.server.web.render import count, percent, span

LONGEST: Final = 8_000  # characters of an output; its end says most
SHOWN_STEPS: Final = 6  # of a run in a list
ROLES: Final = {"do": "", "undo": "undo by ", "ask": "ask people by ", "escalate": "escalate by "}


def deed(step: Mapping[str, Any]) -> str:
    """A step by its number, role and action.

    >>> deed({"step": 2, "role": "escalate.0", "action": "notify ops"}), deed({"step": 1, "role": "do", "action": "x"})
    ('2. escalate by notify ops', '1. x')
    """
    return f"{step['step']}. {ROLES.get(step['role'].split('.')[0], '')}{step['action']}"


def matching(match: Mapping[str, Any]) -> list[str]:
    """What an incident must have, without what every incident has.

    >>> matching({"severity": "info", "probability": 0.0, "suspects": ["cart"], "labels": {"env": "prod"}})
    ['suspects cart', 'labels env=prod']
    """
    found = []
    for name, value in match.items():
        if not value or (name, value) == ("severity", "info"):
            continue
        if isinstance(value, Mapping):
            value = ", ".join(f"{key}={one}" for key, one in value.items())
        found.append(f"{name} {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return found


def guarded(guards: Mapping[str, Any]) -> list[str]:
    """What must hold for a step, the hardest to meet first."""
    return list(_guards(guards))


def _guards(of: Mapping[str, Any]) -> Iterator[str]:
    if of["approvals"]:
        people = "one person" if of["approvals"] == 1 else f"{of['approvals']} people"
        yield f"approved by {people} within {span(of['expiry'])}"
    if of["healthy"]:
        yield "only with a healthy model"
    if of["windows"]:
        yield f"only in {count(of['windows'], 'time window')}"
    if of["cooldown"]:
        yield f"not again within {span(of['cooldown'])}"
    yield f"at most {count(of['most'], 'time')} in {span(of['per'])}"
    if of["targets"]:
        yield f"to at most {count(of['targets'], 'service')}"
    if of["share"]:
        yield f"at most {percent(of['share'])} of the replicas"


def bounded(text: str) -> dict[str, Any]:
    """The end of a long text, and how many characters before it are left out."""
    return {"text": text[-LONGEST:], "left_out": max(0, len(text) - LONGEST)}
