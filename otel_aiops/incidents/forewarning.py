"""Forewarning: keeps the signs that are seen, and by what was learned of them predicts incidents of known types."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np

from otel_aiops.detect.explain import duration, number
from otel_aiops.errors import StateError
from otel_aiops.incidents.codec import decode, encode
from otel_aiops.incidents.incident import Channel, Entry, Evidence, Finding, Incident, Prediction, Severity, State
from otel_aiops.incidents.past import CHANNELS, meets, type_of
from otel_aiops.incidents.precursors import Precursor, PrecursorsConfig
from otel_aiops.incidents.reliability import Reliability
from otel_aiops.incidents.signs import BACK_S, Seen, Signs, features, in_words, sign_of
from otel_aiops.otlp.points import F64
from otel_aiops.series.columns import Arrays, json_array, json_tree

S = 1_000_000_000
EVERY_NS = 60 * S  # it is looked so often
DRIVERS = 3  # signs that are named as evidence
STAYS = 0.5  # of the probability that a prediction needs: below, the same type may be predicted again
WHAT = "precursor"


class Forewarning:
    """Owner of what precursors predict, with one writer: equal calls in equal order give equal incidents.

    Models come from outside by `teach`, as a record of the log, and are part of the state: a replay uses the same
    models at the same places. A type is predicted when its probability rises over the threshold, not while such an
    incident lasts, and again only after it was well below. Nobody else judges these predictions.
    """

    def __init__(self, config: PrecursorsConfig) -> None:
        self.config = config
        self.signs = Signs(config.history)
        self.reliability = Reliability()
        self._models: tuple[Precursor, ...] = ()
        self._standing: dict[str, Incident] = {}  # by type
        self._risen: dict[str, None] = {}  # types whose probability has not been low again since it was high
        self._due_ns = 0

    @property
    def models(self) -> tuple[Precursor, ...]:
        """What is used now."""
        return self._models

    def teach(self, models: Sequence[Precursor]) -> None:
        """Use these models from now on, and no others."""
        self._models = tuple(models)
        self._risen = {kind: None for kind in self._risen if any(model.type == kind for model in models)}

    def outcome(self, incident: Incident) -> tuple[Incident, ...]:
        """The predictions that an incident has shown to be right: of its type, made before it was detected."""
        if incident.prediction is not None or incident.state is State.MERGED:
            return ()
        return tuple(
            self._end(kind, incident.detected_ns, into=incident.id)
            for kind, one in list(self._standing.items())
            if one.detected_ns < incident.detected_ns <= _expires_ns(one) and meets(kind, incident)
        )

    def due(self, live: Callable[[], Iterable[Incident]], event_ns: int) -> tuple[Incident, ...]:
        """What is predicted, or has not come true, since the last call; `live` tells the incidents that last."""
        late = [kind for kind, one in self._standing.items() if _expires_ns(one) <= event_ns]
        told = [self._end(kind, _expires_ns(self._standing[kind])) for kind in late]
        if self.config.enabled and self._models and event_ns >= self._due_ns:
            self._due_ns = event_ns + EVERY_NS
            told += self._look({type_of(one) for one in live()}, event_ns)
        return tuple(told)

    def _look(self, live: Collection[str], event_ns: int) -> list[Incident]:
        """What all models say now."""
        seen = self.signs.seen(event_ns - BACK_S[-1] * S)
        least, told = self.config.probability, list[Incident]()
        for model in self._models:
            value = values(model, seen, event_ns)
            sure = float(model.probability(value)[0])
            if sure < STAYS * least:
                self._risen.pop(model.type, None)
            if sure < least or model.type in self._risen:
                continue
            self._risen[model.type] = None
            if model.type not in live and model.type not in self._standing:
                self._standing[model.type] = one = _told(model, value, sure, event_ns)
                told.append(one)
        return told

    def _end(self, kind: str, event_ns: int, *, into: str = "") -> Incident:
        """Close a prediction: as a hit by an incident, or as a miss."""
        one = self._standing.pop(kind)
        assert one.prediction is not None
        lead_s = (event_ns - one.detected_ns) / S
        self.reliability.add(one.prediction.probability, lead_s=lead_s if into else None)
        outcome, text = ("hit", f"Came true as incident {into}.") if into else ("miss", "It did not come true in time.")
        return replace(
            one,
            revision=one.revision + 1,
            state=State.MERGED if into else State.EXPIRED,
            severity=Severity.INFO,
            end_ns=event_ns,
            merged_into=into,
            summary=f"{one.summary} {text}",
            timeline=(Entry(time_ns=event_ns, kind=outcome, text=text),),
            prediction=replace(one.prediction, outcome=outcome),
        )

    def state(self) -> Arrays:
        """Everything, as arrays that nobody changes later."""
        tree = {
            "models": [model.to_json() for model in self._models],
            "standing": [[kind, encode(one)] for kind, one in self._standing.items()],
            "risen": list(self._risen),
            "due": self._due_ns,
        }
        parts = {"signs": self.signs.state(), "reliability": self.reliability.state()}
        arrays = {f"{part}/{name}": array for part, of in parts.items() for name, array in of.items()}
        return {**arrays, "rest": json_array(tree)}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state; none (empty) is a state from before there were precursors. Raises: StateError."""
        if not arrays:
            return
        tree = json_tree(arrays, "rest")
        parts: dict[str, Signs | Reliability] = {"signs": self.signs, "reliability": self.reliability}
        for part, owner in parts.items():
            prefix = part + "/"
            owned = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
            owner.restore(owned)
        try:
            self._models = tuple(Precursor.from_json(line) for line in tree["models"])
            self._standing = {str(kind): decode(Incident, one) for kind, one in tree["standing"]}
            self._risen, self._due_ns = dict.fromkeys(tree["risen"]), int(tree["due"])
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"expected models and predictions of precursors, got {error!r}") from error
        if any(one.prediction is None for one in self._standing.values()):
            raise StateError("expected predictions of precursors, got other incidents")


def values(model: Precursor, seen: Seen, event_ns: int) -> F64:
    """The features of a model at a time, (1, F); what was never seen counts nothing."""
    names = list(dict.fromkeys(sign_of(name) for name in model.names))
    now = features(seen, names, np.array([event_ns], np.int64))
    place = {name: k for k, name in enumerate(now.names)}
    row = [float(now.value[0, place[name]]) if name in place else 0.0 for name in model.names]
    return np.array([row])


def _expires_ns(one: Incident) -> int:
    return one.prediction.expires_ns if one.prediction is not None else 0


def _told(model: Precursor, value: F64, sure: float, event_ns: int) -> Incident:
    """The prediction, with the signs that speak most for it."""
    terms = model.terms(value)[0]
    drivers = [k for k in np.argsort(-terms, kind="stable")[:DRIVERS].tolist() if terms[k] > 0 and value[0, k] > 0]
    found = tuple(_driver(model, value, k, float(terms[k]), event_ns) for k in drivers)
    why = f" Because: {'; '.join(one.evidence.text for one in found)}." if found else ""
    service, _, what = model.type.rpartition("|")
    of = f"{what} of {service or 'an unknown service'}"
    said = f"An incident ({of}) is likely within {duration(model.horizon_s)}, probability {sure:.2f}.{why}"
    early_s, lead_s, late_s = model.lead_s
    return Incident(
        id=f"p-{blake2b(model.type.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}-{event_ns // S}",
        revision=1,
        state=State.PREDICTED,
        severity=Severity.WARNING,
        start_ns=event_ns,
        detected_ns=event_ns,
        title=f"An incident is likely soon: {of}",
        summary=said,
        services=(service,) if service else (),
        blast_radius=(service,) if service else (),
        findings=found,
        timeline=(Entry(time_ns=event_ns, kind="predicted", text=said),),
        prediction=Prediction(
            what=WHAT,
            probability=sure,
            horizon_s=model.horizon_s,
            lead_s=lead_s,
            earliest_s=early_s,
            latest_s=late_s,
            expires_ns=event_ns + round(model.horizon_s * S),
        ),
    )


def _driver(model: Precursor, value: F64, k: int, term: float, event_ns: int) -> Finding:
    """A feature that speaks for the prediction, as what a person can check."""
    name, usual, now = model.names[k], float(np.expm1(model.middle[k])), float(value[0, k])
    service, _, what = sign_of(name).rpartition("|")
    channel = Channel(what) if what in CHANNELS else Channel.RESOURCE
    words = in_words(name)
    evidence: dict[str, Any] = {"before": usual, "after": now, "strength": term}
    return Finding(
        key=f"precursor|{name}",
        service=service,
        channel=channel,
        start_ns=event_ns,
        last_ns=event_ns,
        evidence=Evidence(
            channel=channel,
            service=service,
            what=words,
            text=f"{words}: {number(now)}, usually {number(usual)}",
            **evidence,
        ),
    )
