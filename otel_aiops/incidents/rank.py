"""Rank: who may have caused an incident, from everything that is otherwise since it began."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from otel_aiops.incidents.blame import blame
from otel_aiops.incidents.incident import Channel, Evidence, Suspect
from otel_aiops.incidents.look import EXPLAINED, SCALE, Look, total

MOST_SUSPECTS = 10
LEAST = 3.0  # strangeness below is no candidate
BLAMED = 5.0  # scores of `blame` on the scale of strangeness
DEPLOYED = 1.3  # how much more a service is suspected that has just been changed
OF_LOAD = (Channel.LATENCY, Channel.NETWORK, Channel.RESOURCE)  # what a surge of requests explains
MOST_MEASURED = 60.0  # strength of what a series shows; spreads that are too small give far more
HARMLESS = 0.5  # of what spans show anywhere, that series count at most of a service whose own spans show nothing
BEST = 5  # evidence that a suspect carries

# The log-odds that a suspect is the cause: a constant, and weights of the log-odds of its share among all suspects and
# of the logarithm of its strangeness. The same for all data: a fit to one recorded application was measured to be worse
# on the other one than this.
CONFIDENCE = (0.6, 1.6, 0.5)
SUREST = 0.96  # of those who were said to be it for sure, so many were


@dataclass(frozen=True, slots=True)
class Measured:
    """What series say of the time of an incident: by service, and by ends of calls; whom the calls connect."""

    evidence: Sequence[Evidence] = ()
    network: Sequence[Evidence] = ()
    calls: Mapping[str, Collection[str]] = field(default_factory=dict)
    outside: Collection[str] = ()  # services without telemetry of their own


@dataclass(frozen=True, slots=True)
class Changed:
    """A deployment that may matter: of whom, what changed, when."""

    service: str
    text: str
    time_ns: int


def rank(
    seen: Look,
    measured: Measured,
    deployed: Sequence[Changed] = (),
    *,
    symptom: str = "",
    among: Callable[[str], bool] = lambda service: True,
) -> tuple[Suspect, ...]:
    """The services that are suspected, the likeliest first; none when nothing is strange enough.

    `seen` is what spans and logs show since the incident began, `measured` what series do, `deployed` what was changed
    shortly before. Where no spans tell whose time is whose, the calls between services and the `symptom` decide; see
    `blame`. Only services of which `among` is true are candidates. Equal scores are in the order of names.
    """
    told = _worst((*measured.evidence, *measured.network))
    if seen.calls or not measured.calls:
        scores = {service: _strangeness(seen, service, told) for service in {*seen.strengths, *told, *seen.surges}}
    else:
        found = blame(measured.evidence, measured.calls, symptom=symptom, outside=measured.outside)
        scores = {service: BLAMED * score for service, score in found}
    for change in deployed:
        if change.service in scores:
            scores[change.service] *= DEPLOYED
    scores = {service: score for service, score in scores.items() if score >= LEAST and among(service)}
    best = sorted(scores, key=lambda service: (-scores[service], service))[:MOST_SUSPECTS]
    together = sum(sorted(scores.values()))
    return tuple(_suspect(one, scores[one], together, seen, told.get(one, {}), deployed) for one in best)


def _strangeness(seen: Look, service: str, told: Mapping[str, Mapping[Channel, Evidence]]) -> float:
    """What spans, logs and series show of a service together. Latencies and errors that are measured from outside
    contain those of callees; where its spans are seen, only these count. A surge of requests explains what series
    show of load, too.
    """
    strengths = dict(seen.strengths.get(service, {}))
    most = MOST_MEASURED
    if service in seen.senders and not strengths and seen.strengths:  # it is strange, and hurts nobody
        strongest = max(seen.total(one) for one in seen.strengths)
        most = min(most, SCALE * float(np.expm1(HARMLESS * strongest / SCALE)))
    for channel, evidence in told.get(service, {}).items():
        if _counts(evidence, seen):
            raw = min(SCALE * float(np.expm1(evidence.strength / SCALE)), most)
            if seen.surges and channel in OF_LOAD:
                raw *= 1 - EXPLAINED
            strengths[channel] = max(strengths.get(channel, 0.0), raw)
    if service in seen.surges:
        strengths[Channel.RATE] = seen.surges[service].strength
    return total(strengths)


def _counts(evidence: Evidence, seen: Look) -> bool:
    """Whether what a series shows counts beside the spans of its service."""
    return evidence.channel not in (Channel.LATENCY, Channel.ERRORS) or evidence.service not in seen.senders


def confidence(score: float, together: float) -> float:
    """The probability that the suspect is the cause, from its strangeness and that of all."""
    at_all, of_share, of_score = CONFIDENCE
    share = min(score / together, 0.999) if together > 0 else 0.0
    logit = at_all + of_share * np.log(max(share, 1e-3) / (1 - share)) + of_score * np.log(score / 10)
    return float(SUREST / (1 + np.exp(-logit)))


def _worst(measured: Iterable[Evidence]) -> dict[str, dict[Channel, Evidence]]:
    """The strongest evidence of each service and channel."""
    found: dict[str, dict[Channel, Evidence]] = {}
    for evidence in measured:
        by = found.setdefault(evidence.service, {})
        if evidence.channel not in by or evidence.strength > by[evidence.channel].strength:
            by[evidence.channel] = evidence
    return found


def _suspect(
    service: str,
    score: float,
    together: float,
    seen: Look,
    resources: Mapping[Channel, Evidence],
    deployed: Collection[Changed],
) -> Suspect:
    counted = [one for one in resources.values() if _counts(one, seen)]
    evidence = sorted([*seen.evidence.get(service, ()), *counted], key=lambda one: -one.strength)[:BEST]
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
