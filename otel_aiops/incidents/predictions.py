"""Predicted incidents with their revisions; whoever made one says when it has come true, or has not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from otel_aiops.incidents.codec import decode, encode
from otel_aiops.incidents.incident import Incident, State


class Predictions:
    """Predictions by id, at most so many; the ones that are decided go first when there is no room."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[str, Incident] = {}
        self.counts: Counter[str] = Counter()

    def take(self, predictions: Sequence[Incident], event_ns: int) -> list[Incident]:
        """New and changed predictions, with their revisions."""
        told = []
        for one in predictions:
            known = self._known.get(one.id)
            if known is not None and one.prediction is not None and one.prediction.outcome:
                told += self._outcome(known, one)
            elif one.prediction is None or one.state is not State.PREDICTED or one.prediction.expires_ns <= event_ns:
                self.counts["prediction that says nothing of the future"] += 1
            elif known is None:
                if not self._room():
                    self.counts["prediction over the limit"] += 1
                    continue
                told.append(self._tell(replace(one, revision=1)))
            elif known.state is State.PREDICTED:
                same = replace(one, revision=known.revision, detected_ns=known.detected_ns, timeline=known.timeline)
                if same != known:
                    told.append(self._tell(replace(same, revision=known.revision + 1)))
        return told

    def _outcome(self, known: Incident, one: Incident) -> list[Incident]:
        """What became of a prediction, by whoever made it; nothing where that is known already."""
        if known.state is not State.PREDICTED:
            return []
        lines = (*known.timeline, *one.timeline)
        revised = replace(one, revision=known.revision + 1, detected_ns=known.detected_ns, timeline=lines)
        return [self._tell(revised)]

    def standing(self) -> tuple[Incident, ...]:
        """The predictions that are not decided."""
        return tuple(one for one in self._known.values() if one.state is State.PREDICTED)

    def find(self, name: str) -> Incident | None:
        """A prediction by id."""
        return self._known.get(name)

    def state(self) -> list[Any]:
        """Everything, as plain values."""
        return [encode(list(self._known.values())), dict(self.counts)]

    def restore(self, saved: list[Any]) -> None:
        """Take over what `state` gave."""
        known, counts = saved
        self._known = {one.id: one for one in (decode(Incident, value) for value in known)}
        self.counts = Counter(counts)

    def _tell(self, one: Incident) -> Incident:
        self._known[one.id] = one
        return one

    def _room(self) -> bool:
        if len(self._known) < self._most:
            return True
        decided = next((name for name, one in self._known.items() if one.state is not State.PREDICTED), None)
        if decided is not None:
            del self._known[decided]
        return decided is not None
