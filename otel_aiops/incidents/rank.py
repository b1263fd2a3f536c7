"""Rank: who may have caused an incident, from everything that is otherwise since it began."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from otel_aiops.incidents.incident import Channel, Evidence, Suspect
from otel_aiops.incidents.look import SCALE, Look

MOST_SUSPECTS = 10
LEAST = 3.0  # strangeness below is no candidate
DEPLOYED = 1.3  # how much more a service is suspected that has just been changed
BEST = 5  # evidence that a suspect carries

# Logistic regression of "the suspect is the cause" on the logarithm of its share among all suspects and of its
# strangeness, fitted to the recorded shop; see benchmarks/shop.py.
CONFIDENCE = (0.6, 1.6, 0.5)


@dataclass(frozen=True, slots=True)
class Changed:
    """A deployment that may matter: of whom, what changed, when."""

    service: str
    text: str
    time_ns: int


def rank(
    seen: Look,
    measured: Iterable[Evidence],
    deployed: Sequence[Changed] = (),
    *,
    among: Callable[[str], bool] = lambda service: True,
) -> tuple[Suspect, ...]:
    """The services that are suspected, the likeliest first; none when nothing is strange enough.

    `seen` is what spans and logs show since the incident began, `measured` what series do, `deployed` what was changed
    shortly before. Only services of which `among` is true are candidates. Equal scores are in the order of names.
    """
    resources = _worst(measured)
    scores: dict[str, float] = {}
    for service in sorted({*seen.strengths, *resources}):
        if not among(service):
            continue
        strength = seen.total(service) + _weighed(resources.get(service, {}))
        if any(change.service == service for change in deployed):
            strength *= DEPLOYED
        if strength >= LEAST:
            scores[service] = strength
    best = sorted(scores, key=lambda service: (-scores[service], service))[:MOST_SUSPECTS]
    together = sum(scores.values())
    return tuple(
        _suspect(service, scores[service], together, seen, resources.get(service, {}), deployed) for service in best
    )


def confidence(score: float, together: float) -> float:
    """The probability that the suspect is the cause, from its strangeness and that of all."""
    at_all, of_share, of_score = CONFIDENCE
    share = min(score / together, 0.999) if together > 0 else 0.0
    logit = at_all + of_share * np.log(max(share, 1e-3) / (1 - share)) + of_score * np.log(score / 10)
    return float(1 / (1 + np.exp(-logit)))


def _worst(measured: Iterable[Evidence]) -> dict[str, dict[Channel, Evidence]]:
    """The strongest evidence of each service and channel."""
    found: dict[str, dict[Channel, Evidence]] = {}
    for evidence in measured:
        by = found.setdefault(evidence.service, {})
        if evidence.channel not in by or evidence.strength > by[evidence.channel].strength:
            by[evidence.channel] = evidence
    return found


def _weighed(by: Mapping[Channel, Evidence]) -> float:
    return float(sum(SCALE * np.log1p(max(one.strength, 0.0) / SCALE) for one in by.values()))


def _suspect(
    service: str,
    score: float,
    together: float,
    seen: Look,
    resources: Mapping[Channel, Evidence],
    deployed: Collection[Changed],
) -> Suspect:
    evidence = sorted([*seen.evidence.get(service, ()), *resources.values()], key=lambda one: -one.strength)[:BEST]
    change = next((one for one in deployed if one.service == service), None)
    first = evidence[0] if evidence else None
    reasons = [one.text for one in evidence[:2] if one.text]
    call = next((one for one in evidence if one.callee), None)
    return Suspect(
        service=service,
        score=score,
        confidence=confidence(score, together),
        reason="; ".join([*reasons, *([change.text] if change else [])]),
        resource=next((one.resource for one in evidence if one.resource), ""),
        operation=first.what if first and first.channel != Channel.RESOURCE else "",
        edge=f"{call.caller} -> {call.callee}" if call else "",
        deployment=change.text if change else "",
        evidence=tuple(evidence),
    )
