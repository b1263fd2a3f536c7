"""Signs: which anomalies and states of which services were seen when, kept for long, and counted before any time."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from otel_aiops.detect.explain import duration
from otel_aiops.errors import BadInput, StateError
from otel_aiops.incidents.incident import Channel, Finding
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.series.columns import Arrays, checked, json_array, json_tree
from otel_aiops.signals.deployments import Deployment

S = 1_000_000_000
BACK_S = (300, 900, 3_600)  # spans of the past that signs are counted over
AGAIN_NS = 900 * S  # what lasts is a sign again after so long, so that lasting states count more
MOST_NAMES = 1_000  # kinds of signs: a service and what it shows
MOST_SIGNS = 100_000  # that are kept, 20 bytes each
MOST_REMEMBERED = 10_000  # keys of findings
NO_TELEMETRY_NS = 31_536_000 * S  # an event clock in 1970 has seen none
EXHAUSTION = "exhaustion"  # what is shown by a service of which something is predicted to run out
NOUNS = {str(Channel.DEPLOYMENT): "deployments of", EXHAUSTION: "shortages foreseen in"}


@dataclass(frozen=True, slots=True)
class Seen:
    """N signs in the order of their times: the number of its name each, its score; complete since `since_ns`."""

    names: tuple[str, ...]  # such as "payment|resource"
    time_ns: I64
    name: I32
    score: F64
    since_ns: int

    def most_frequent(self, most: int) -> list[str]:
        """Names of so many signs, those that were seen most often first."""
        count = np.bincount(self.name, minlength=len(self.names))
        return [self.names[k] for k in np.argsort(-count, kind="stable")[:most].tolist() if count[k]]


@dataclass(frozen=True, slots=True)
class FeatureWindows:
    """What was known at M times, in order: `value` (M, F) of the named features; NaN counts as nothing seen."""

    names: tuple[str, ...]
    time_ns: I64
    value: F64

    def __post_init__(self) -> None:
        if self.value.shape != (len(self.time_ns), len(self.names)):
            raise BadInput(f"expected ({len(self.time_ns)}, {len(self.names)}) values, got {self.value.shape}")
        if (np.diff(self.time_ns) <= 0).any():
            raise BadInput("expected windows in the order of their times")


class Signs:
    """What was seen, with one writer. The oldest go first; names over the limit are counted in `refused`."""

    def __init__(self, history_s: float) -> None:
        self._history_ns = round(history_s * S)
        self._numbers: dict[str, int] = {}
        self._time_ns, self._name, self._score = array("q"), array("i"), array("d")
        self._last_ns: dict[str, int] = {}  # when a key counted last, the earliest first
        self._since_ns = 0
        self.refused = 0

    def __len__(self) -> int:
        return len(self._time_ns)

    def take(self, findings: Iterable[Finding], event_ns: int) -> None:
        """Take the findings of a step. Each counts when it is first seen, with its score then, and again while it is
        seen to last.
        """
        for one in findings:
            if not one.end_ns or event_ns - one.start_ns < AGAIN_NS:  # what is short is told when it is over
                self._add(f"{one.service}|{one.channel}", one.key, one.score, event_ns)
        self._forget(event_ns)

    def changed(self, deployments: Iterable[Deployment], event_ns: int) -> None:
        """Take what was deployed; more or fewer instances of the same are no sign."""
        for one in deployments:
            if not one.weak:
                self._add(f"{one.service}|{Channel.DEPLOYMENT}", "", 1.0, event_ns)

    def foreseen(self, service: str, probability: float, event_ns: int) -> None:
        """Take a new prediction that something of a service runs out."""
        self._add(f"{service}|{EXHAUSTION}", "", probability, event_ns)

    def seen(self, since_ns: int = 0) -> Seen:
        """All that is kept since a time, as copies."""
        time_ns = np.array(self._time_ns, np.int64)
        k = int(np.searchsorted(time_ns, since_ns, side="left"))
        name, score = np.array(self._name, np.int32)[k:], np.array(self._score, np.float64)[k:]
        return Seen(tuple(self._numbers), time_ns[k:], name, score, max(self._since_ns, since_ns))

    def _add(self, name: str, key: str, score: float, event_ns: int) -> None:
        if key:
            if event_ns - self._last_ns.get(key, -AGAIN_NS) < AGAIN_NS:
                return
            self._last_ns.pop(key, None)
            self._last_ns[key] = event_ns
        if name not in self._numbers and len(self._numbers) >= MOST_NAMES:
            self.refused += 1
            return
        self._time_ns.append(event_ns)
        self._name.append(self._numbers.setdefault(name, len(self._numbers)))
        self._score.append(score)

    def _forget(self, event_ns: int) -> None:
        """Forget keys that may count again, and the oldest signs."""
        if event_ns > NO_TELEMETRY_NS:
            self._since_ns = max(self._since_ns or event_ns, event_ns - self._history_ns)
        while self._last_ns:
            key, last_ns = next(iter(self._last_ns.items()))
            if event_ns - last_ns < AGAIN_NS and len(self._last_ns) <= MOST_REMEMBERED:
                break
            del self._last_ns[key]
        old = len(self) > MOST_SIGNS or (len(self) > 0 and self._time_ns[0] < self._since_ns - self._history_ns // 10)
        if old:  # a tenth more than needed, so that it is not done in every step
            time_ns = np.array(self._time_ns, np.int64)
            k = max(int(np.searchsorted(time_ns, self._since_ns)), len(self) - MOST_SIGNS * 9 // 10)
            self._since_ns = max(self._since_ns, int(time_ns[k - 1]) + 1)
            for column in (self._time_ns, self._name, self._score):
                del column[:k]

    def state(self) -> Arrays:
        """Everything, as arrays that nobody changes later."""
        tree = {
            "names": list(self._numbers),
            "last": list(self._last_ns.items()),
            "since": self._since_ns,
            "refused": self.refused,
        }
        time_ns, name = np.array(self._time_ns, np.int64), np.array(self._name, np.int32)
        return {"time_ns": time_ns, "name": name, "score": np.array(self._score, np.float64), "rest": json_array(tree)}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        tree = json_tree(arrays, "rest")
        kinds = {"time_ns": np.int64, "name": np.int32, "score": np.float64}
        checked(arrays, {"rest": (np.uint8, ("B",)), **{name: (kind, ("N",)) for name, kind in kinds.items()}})
        try:
            self._numbers = {str(name): k for k, name in enumerate(tree["names"])}
            self._last_ns = {str(key): int(last_ns) for key, last_ns in tree["last"]}
            self._since_ns, self.refused = int(tree["since"]), int(tree["refused"])
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"expected names and times of signs, got {error!r}") from error
        name = arrays["name"]
        if len(name) and not 0 <= name.min() <= name.max() < len(self._numbers):
            raise StateError(f"expected signs of {len(self._numbers)} names, got numbers up to {name.max()}")
        self._time_ns, self._name = array("q", arrays["time_ns"].tobytes()), array("i", name.tobytes())
        self._score = array("d", arrays["score"].tobytes())


def features(seen: Seen, names: Sequence[str], time_ns: I64) -> FeatureWindows:
    """How many signs of K names there were in the last 5, 15 and 60 minutes, and their highest scores, at M times.

    A sign counts from the time at which it was seen: nothing is known before. A name that is not there was never seen.
    """
    number_of = {name: k for k, name in enumerate(seen.names)}
    columns, told = list[F64](), list[str]()
    for name in names:
        own = seen.name == number_of.get(name, -1)
        for back_s in BACK_S:
            columns += _counted(seen.time_ns[own], seen.score[own], time_ns, back_s)
            told += [f"{name}|count|{back_s}", f"{name}|score|{back_s}"]
    value = np.stack(columns, axis=1) if columns else np.empty((len(time_ns), 0))
    return FeatureWindows(tuple(told), time_ns, value)


def sign_of(feature: str) -> str:
    """The name of the sign in the name of a feature: "payment|resource"."""
    return feature.rsplit("|", 2)[0]


def in_words(feature: str) -> str:
    """The name of a feature as a person says it."""
    service, what, measure, back_s = feature.rsplit("|", 3)
    noun = NOUNS.get(what, f"findings of {what} in")
    kind = "highest score of " if measure == "score" else ""
    return f"{kind}{noun} {service or 'unknown services'} in the last {duration(float(back_s))}"


def _counted(seen_ns: I64, score: F64, time_ns: I64, back_s: int) -> tuple[F64, F64]:
    """(how many of the times, in order, the highest of their scores) in the span before each time (M,)."""
    first = np.searchsorted(seen_ns, time_ns - back_s * S, side="right")
    end = np.searchsorted(seen_ns, time_ns, side="right")
    highest = np.zeros(len(time_ns))
    some = end > first
    if some.any():
        both = np.stack((first[some], end[some]), axis=1).ravel()
        highest[some] = np.maximum.reduceat(np.append(score, 0.0), both)[::2]
    return (end - first).astype(np.float64), np.maximum(highest, 0.0)
