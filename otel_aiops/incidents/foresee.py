"""Foresight: predicts which series will reach their limits, as incidents that are renewed, withdrawn, hit or missed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.explain import duration, quantity
from otel_aiops.errors import ConfigError
from otel_aiops.incidents.companions import Companions, Watched
from otel_aiops.incidents.incident import Channel, Entry, Evidence, Finding, Incident, Prediction, Severity, State
from otel_aiops.incidents.reach import SOON_S, THERE, Goal, Reached, reached
from otel_aiops.incidents.reliability import Reliability
from otel_aiops.incidents.resolutions import Resolutions
from otel_aiops.incidents.targets import AHEAD, FAR, PredictRule, Target
from otel_aiops.labels import Labels, Selector
from otel_aiops.otlp.points import F64, I64, Bool
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import Arrays, Columns, checked

HUGE = 1e30  # nothing that is measured is larger
EVERY_NS = 60_000_000_000  # a series is looked at so often
PARTS = 4  # of that time, over which the series are spread: one call for many costs less than many calls
AGAIN = 2  # looks in a row that must say it
GONE = 5  # looks in a row that must not say it any more, and
GONE_SHARE = 0.5  # of the time that it was said to take must pass so
STAYS = 0.5  # of the probability that a prediction needs to begin, it needs to stay
LATE = 1.5  # times its latest time, a prediction waits
MOST_LATE = 2.0  # times the first latest time: no renewal moves its end further
PAUSE_NS = (1_800_000_000_000, 86_400_000_000_000)  # least and most, after an outcome
FORGIVEN_NS = 172_800_000_000_000  # so long until a miss counts half
RENEW = 0.25  # change of the time that is left by which a prediction is told again
DATES = 1e9  # what a certificate says beyond this is a time since 1970, not what is left
CERTAIN = 0.9  # of a certificate that has not been renewed as early as before
RENEWED = 1.2  # times what was left, and more: a certificate was renewed
EARLY = 0.9  # of the time left at which a certificate used to be renewed
UNKNOWN_S = 259_200.0  # left of a certificate that has never been seen to be renewed
SHORT = 0.25  # of what was left when it was first seen, of one that had less from the beginning
MATCHING = (Channel.RESOURCE, Channel.SERIES, Channel.SILENCE)  # of an incident that a prediction may have meant

_SPEC: Mapping[str, tuple[Any, tuple[int, ...], Any]] = {
    "sign": (np.float64, (), 1.0),
    "limit": (np.float64, (), np.nan),
    "horizon_s": (np.float64, (), np.nan),
    "ahead": (np.float64, (), 0.0),
    "clock_s": (np.float64, (), 0.0),
    "next_ns": (np.int64, (), 0),
    "seen_ns": (np.int64, (), 0),
    "value": (np.float64, (), np.nan),  # the newest, in the direction of the limit
    "most_s": (np.float64, (), 0.0),  # most time that was left of a certificate
    "renewed_s": (np.float64, (), np.inf),  # least time that was left of a certificate when it was renewed
    "said": (np.int32, (), 0),  # looks in a row
    "unsaid": (np.int32, (), 0),
    "revision": (np.int32, (), 0),  # 0: nothing is predicted
    "detected_ns": (np.int64, (), 0),
    "expires_ns": (np.int64, (), 0),
    "last_ns": (np.int64, (), 0),  # the end is never later
    "pause_ns": (np.int64, (), 0),
    "probability": (np.float64, (), np.nan),  # when it was first predicted
    "lead_s": (np.float64, (), np.nan),
    "earliest_s": (np.float64, (), np.nan),
    "latest_s": (np.float64, (), np.nan),
    "told_ns": (np.int64, (), 0),  # when the newest revision was told
    "begun": (np.float64, (), np.nan),  # the value when it was predicted
    "slope": (np.float64, (), np.nan),
    "missed": (np.float64, (), 0.0),  # predictions that did not come true, as of
    "missed_ns": (np.int64, (), 0),
}


@dataclass(frozen=True, slots=True)
class ForesightConfig:
    """Which series are watched on their way to a limit, and how sure a prediction must be."""

    enabled: bool = True  # predict exhaustion
    probability: float = 0.7  # that the limit is reached within the horizon, from which it is said
    max_series: int = 2_000  # series that are watched; each takes about 10 KB
    rules: tuple[PredictRule, ...] = ()  # limits that cannot be found in the data, other horizons, exceptions

    def __post_init__(self) -> None:
        if not 0 < self.probability < 1:
            raise ConfigError("probability", f"must be in (0, 1), got {self.probability}")
        if not 0 <= self.max_series <= 1_000_000:
            raise ConfigError("max_series", f"must be 0 to 1000000, got {self.max_series}")
        for k, rule in enumerate(self.rules):
            try:
                Selector(rule.match)
            except re.error as error:  # pragma: no cover - a rule has checked itself
                raise ConfigError(f"rules[{k}].match", str(error)) from error


class Foresight:
    """Owner of what is predicted, with one writer: equal calls in equal order give equal incidents.

    A row is watched once its limit is known. Each watched series is looked at once a minute of event time, all that are
    due in one go. A prediction keeps its id until it is hit, withdrawn or expired; the latter two are misses.
    `refused` counts series that were worth watching but over the limit.
    """

    def __init__(self, config: ForesightConfig) -> None:
        self.config = config
        rules = [(Selector(rule.match), rule) for rule in config.rules]
        self._companions = Companions(config.max_series, rules)
        self._columns = Columns(_SPEC, max(config.max_series, 1))
        self._rings = Resolutions(max(config.max_series, 1))
        self._done: list[Incident] = []  # outcomes that came between two looks
        self.reliability = Reliability()

    @property
    def refused(self) -> int:
        """How often a series was not watched because too many are."""
        return self._companions.refused

    @property
    def watched(self) -> int:
        """Series that are watched."""
        return self._companions.watched

    def assign(self, row: int, labels: Labels, series: str) -> None:
        """See whether a new series is worth watching, or is the limit of others; `series` is its fingerprint in hex."""
        if self.config.enabled:
            self._begin(self._companions.assign(row, labels, series))

    def forget(self, rows: NDArray[Any]) -> None:
        """Forget rows whose series are gone; what was predicted of them is told as missed."""
        slots = self._companions.forget(np.asarray(rows).tolist())
        of = self._columns.of
        for slot, watched in slots:
            if of["revision"][slot]:
                self._done.append(self._ended(slot, watched, int(of["seen_ns"][slot]), hit=False))
        gone = np.array([slot for slot, _ in slots], np.intp)
        self._columns.clear(gone)
        self._rings.clear(gone)

    def update(self, batch: Batch) -> None:
        """Remember the newest values of watched series and of their limits; all others cost one lookup."""
        slots, limits = self._companions.slots(batch.rows), self._companions.are_limits(batch.rows)
        good = np.abs(batch.value) < HUGE
        if limits.any():
            at = np.flatnonzero(limits & good)
            self._limited(self._companions.learn(batch.rows[at], batch.value[at]))
        k = np.flatnonzero((slots >= 0) & good)
        if len(k):
            self._watch(slots[k].astype(np.intp), batch.time_ns[k], batch.value[k])

    def due(self, event_ns: int) -> tuple[Incident, ...]:
        """What is predicted anew, renewed, withdrawn, or has been hit or missed since the last call."""
        done, self._done = self._done, []
        of, size = self._columns.of, self._companions.size
        late = (of["revision"][:size] > 0) & (of["expires_ns"][:size] <= event_ns)
        for slot in np.flatnonzero(late).tolist():
            done.append(self._end(slot, event_ns, hit=False))
        waiting = (of["seen_ns"][:size] > 0) & (of["next_ns"][:size] <= event_ns)
        slots = np.flatnonzero(waiting)
        if len(slots):
            done.extend(self._look(slots, event_ns))
        return tuple(done)

    def outcome(self, incident: Incident) -> tuple[Incident, ...]:
        """The predictions that an incident has shown to be right: it is of the same service, and of its resources.

        It must have been detected after them, and not be a prediction itself. Nobody else judges them.
        """
        if incident.state is State.PREDICTED or incident.prediction is not None:
            return ()
        series = {finding.evidence.series for finding in incident.findings} - {""}
        concerned = {one.service for one in incident.findings if one.channel in MATCHING}
        found = []
        for slot in np.flatnonzero(self._columns.of["revision"][: self._companions.size] > 0).tolist():
            watched = self._companions.at(slot)
            after = incident.detected_ns > self._columns.of["detected_ns"][slot]
            if after and (watched.labels.service in concerned or watched.series in series):
                found.append(self._end(slot, incident.detected_ns, hit=True, into=incident.id))
        return tuple(found)

    def state(self) -> Arrays:
        """Everything that is remembered, as arrays that nobody changes later."""
        size = self._companions.size
        parts = {
            "companions": self._companions.state(),
            "slots": self._columns.state(size),
            "rings": self._rings.state(size),
            "reliability": self.reliability.state(),
        }
        return {f"{part}/{name}": array for part, arrays in parts.items() for name, array in arrays.items()}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state; none (empty) is a state from before there were predictions. Raises: StateError."""
        if not arrays:
            return
        self._companions.restore(_owned(arrays, "companions"))
        size = self._companions.size
        slots = _owned(arrays, "slots")
        checked(slots, {name: (dtype, (size, *shape)) for name, (dtype, shape, _) in _SPEC.items()})
        self._columns.restore(slots, size)
        self._rings.restore(_owned(arrays, "rings"), size)
        self.reliability.restore(_owned(arrays, "reliability"))

    def _begin(self, begun: Sequence[tuple[int, Target]]) -> None:
        """Watch series whose limit is known since now."""
        for slot, target in begun:
            self._columns.reserve(slot + 1)
            self._rings.reserve(slot + 1)
            of, sign = self._columns.of, 1.0 if target.direction == "above" else -1.0
            of["sign"][slot], of["horizon_s"][slot], of["clock_s"][slot] = sign, target.horizon_s, target.clock_s
            of["limit"][slot], of["ahead"][slot] = sign * target.limit, AHEAD.get(target.what, FAR)
            self._limited([(slot, self._companions.limit(slot))] if np.isnan(target.limit) else [])

    def _limited(self, changed: Sequence[tuple[int, float]]) -> None:
        """Give series the limits that their companions have now; a limit that is not above 0 is none."""
        for slot, value in changed:
            self._columns.of["limit"][slot] = self._columns.of["sign"][slot] * value if value > 0 else np.nan

    def _watch(self, slots: NDArray[np.intp], time_ns: I64, value: F64) -> None:
        """Remember K values, turned so that all run upwards."""
        of = self._columns.of
        clock = of["clock_s"][slots] > 0
        if clock.any():
            value = np.where(clock, _left_s(value, time_ns, of["clock_s"][slots]), value)
            renewed = clock & (value > RENEWED * -of["value"][slots] + 60) & (of["value"][slots] < 0)
            at = slots[renewed]
            of["renewed_s"][at] = np.fmin(of["renewed_s"][at], -of["value"][at])
            of["most_s"][slots] = np.where(clock, np.maximum(of["most_s"][slots], value), 0.0)
        value = of["sign"][slots] * value
        self._rings.add(slots, time_ns, value)
        new = of["seen_ns"][slots] == 0
        spread_ns = (slots % PARTS) * (EVERY_NS // PARTS)
        of["next_ns"][slots] = np.where(new, time_ns + spread_ns, of["next_ns"][slots])
        of["seen_ns"][slots], of["value"][slots] = np.maximum(of["seen_ns"][slots], time_ns), value
        self._reach(slots)

    def _reach(self, slots: NDArray[np.intp]) -> None:
        """Mark predictions whose limit has just been reached."""
        of = self._columns.of
        there = (of["revision"][slots] > 0) & (of["value"][slots] >= of["limit"][slots] - self._margin(slots))
        for slot in slots[there].tolist():
            self._done.append(self._end(slot, int(of["seen_ns"][slot]), hit=True))

    def _margin(self, slots: NDArray[np.intp]) -> F64:
        """How near to the limit (R,) is there: a share of the limit, or of what was left where the limit is 0."""
        of = self._columns.of
        left = np.nan_to_num(of["limit"][slots] - of["begun"][slots])
        size = np.where(of["limit"][slots] != 0, np.abs(of["limit"][slots]), left)
        return THERE * np.where(of["clock_s"][slots] > 0, 0.0, np.nan_to_num(size))

    def _look(self, slots: NDArray[np.intp], event_ns: int) -> list[Incident]:
        """Predict R series anew."""
        of = self._columns.of
        of["next_ns"][slots] = event_ns + EVERY_NS
        clock = of["clock_s"][slots] > 0
        with np.errstate(invalid="ignore"):
            limit = np.where(clock, np.nan, of["limit"][slots])
        goal = Goal(limit, self._margin(slots), of["horizon_s"][slots], of["ahead"][slots], of["value"][slots])
        found = reached(self._rings.windows(slots, event_ns), goal)
        self._count_down(found, slots, clock, event_ns)
        sure = found.probability / (1 + self._missed(slots, event_ns))
        least = self.config.probability
        there = of["value"][slots] >= of["limit"][slots] - self._margin(slots)
        says = (sure >= least) & (of["pause_ns"][slots] <= event_ns) & ~there & (found.lead_s >= SOON_S)
        says |= (sure >= STAYS * least) & (of["revision"][slots] > 0)
        # a series that has stopped says nothing new
        fresh = event_ns - of["seen_ns"][slots] <= 2 * EVERY_NS
        of["said"][slots] = np.where(says, of["said"][slots] + fresh, 0)
        of["unsaid"][slots] = np.where(says, 0, of["unsaid"][slots] + fresh)
        told: list[Incident] = []
        for k in np.flatnonzero((of["revision"][slots] > 0) | (says & fresh & (of["said"][slots] >= AGAIN))).tolist():
            told += self._tell(int(slots[k]), found, k, float(sure[k]), event_ns, says=bool(says[k]))
        return told

    def _missed(self, slots: NDArray[np.intp], event_ns: int) -> F64:
        """Predictions (R,) of each series that did not come true; each counts half after two days, and so on."""
        of = self._columns.of
        ago = np.maximum(event_ns - of["missed_ns"][slots], 0) / FORGIVEN_NS
        missed: F64 = of["missed"][slots] * 0.5**ago
        return missed

    def _count_down(self, found: Reached, slots: NDArray[np.intp], clock: Bool, event_ns: int) -> None:
        """Predict what ends by the clock, in place: no line is needed, but whether it used to be renewed earlier.

        Where that is not known, three days are told; a quarter of what was left where it had less when it was new here.
        """
        if not clock.any():
            return
        of = self._columns.of
        left_s = -of["value"][slots] - (event_ns - of["seen_ns"][slots]) / 1e9
        first_s = of["most_s"][slots]
        unknown_s = np.where(first_s > UNKNOWN_S, UNKNOWN_S, SHORT * first_s)
        renewed_s = of["renewed_s"][slots]
        least_s = np.where(np.isfinite(renewed_s), EARLY * renewed_s, unknown_s)
        near = clock & (left_s > 0) & (left_s <= np.minimum(of["horizon_s"][slots], least_s))
        found.probability[near] = CERTAIN
        for name in ("lead_s", "earliest_s", "latest_s"):
            getattr(found, name)[near] = left_s[near]
        found.slope[near], found.skill[near], found.now[near] = 1.0, 1.0, -left_s[near]

    def _tell(self, slot: int, found: Reached, k: int, sure: float, event_ns: int, *, says: bool) -> list[Incident]:
        """Begin, renew or withdraw one prediction; what has hardly changed is not told again."""
        of = self._columns.of
        if not says:
            gone = of["unsaid"][slot] >= max(GONE, GONE_SHARE * of["lead_s"][slot] * 1e9 / EVERY_NS)
            return [self._end(slot, event_ns, hit=False)] if gone else []
        new = of["revision"][slot] == 0
        latest_ns = int(1e9 * min(float(found.latest_s[k]), 1e9))
        expected_s = of["lead_s"][slot] - (event_ns - of["told_ns"][slot]) / 1e9
        lead_s = float(found.lead_s[k])
        if new:
            of["detected_ns"][slot], of["probability"][slot] = event_ns, sure
            of["last_ns"][slot] = event_ns + int(MOST_LATE * latest_ns) + EVERY_NS
            of["begun"][slot] = of["value"][slot]
        elif abs(lead_s - expected_s) <= RENEW * max(abs(expected_s), 60.0):
            return []
        of["expires_ns"][slot] = min(event_ns + int(LATE * latest_ns) + EVERY_NS, int(of["last_ns"][slot]))
        of["revision"][slot] += 1
        of["told_ns"][slot] = event_ns
        of["slope"][slot] = of["sign"][slot] * found.slope[k]
        for name in ("lead_s", "earliest_s", "latest_s"):
            of[name][slot] = getattr(found, name)[k]
        return [self._incident(slot, event_ns, State.PREDICTED, sure, text=_record(found, k))]

    def _end(self, slot: int, event_ns: int, *, hit: bool, into: str = "") -> Incident:
        """Close one prediction; `into` is the incident that it foretold."""
        return self._ended(slot, self._companions.at(slot), event_ns, hit=hit, into=into)

    def _ended(self, slot: int, watched: Watched, event_ns: int, *, hit: bool, into: str = "") -> Incident:
        of = self._columns.of
        waited_ns = event_ns - int(of["detected_ns"][slot])
        self.reliability.add(float(of["probability"][slot]), lead_s=waited_ns / 1e9 if hit else None)
        at = np.array([slot])
        of["missed"][slot] = 0.0 if hit else self._missed(at, event_ns)[0] + 1
        of["missed_ns"][slot] = event_ns
        wait_ns = PAUSE_NS[0] if hit else max(int(1e9 * of["latest_s"][slot]), PAUSE_NS[0])
        of["pause_ns"][slot] = event_ns + min(wait_ns, PAUSE_NS[1])
        of["revision"][slot] += 1
        state = State.MERGED if into else State.RESOLVED if hit else State.EXPIRED
        sure = float(of["probability"][slot])
        told = self._incident(slot, event_ns, state, sure, outcome="hit" if hit else "miss", into=into, of=watched)
        of["revision"][slot] = of["said"][slot] = of["unsaid"][slot] = 0
        of["begun"][slot] = np.nan
        return told

    def _incident(
        self,
        slot: int,
        event_ns: int,
        state: State,
        sure: float,
        *,
        outcome: str = "",
        into: str = "",
        text: str = "",
        of: Watched | None = None,
    ) -> Incident:
        """The incident that one prediction is now."""
        watched = of or self._companions.at(slot)
        labels, target = watched.labels, watched.target
        has = {name: array[slot].item() for name, array in self._columns.of.items()}
        prediction = Prediction(
            what="exhaustion",
            probability=sure,
            horizon_s=has["horizon_s"],
            lead_s=has["lead_s"],
            earliest_s=has["earliest_s"],
            latest_s=has["latest_s"],
            expires_ns=has["expires_ns"],
            outcome=outcome,
        )
        said = said_of(labels, target, has, sure) + text
        came = f"It came true as incident {into}." if into else "It came true."
        ends = {"": "", "hit": came, "miss": "It did not come true."}[outcome]
        finding = _finding(watched, has, event_ns, said)
        return Incident(
            id=f"p-{_hash(labels)}-{has['detected_ns'] // 1_000_000_000}",
            revision=has["revision"],
            state=state,
            severity=Severity.INFO if outcome else Severity.WARNING,
            start_ns=has["detected_ns"],
            detected_ns=has["detected_ns"],
            end_ns=event_ns if outcome else 0,
            title=f"{target.what[:1].upper()}{target.what[1:]} of {labels.service} runs out",
            summary=f"{said} {ends}".strip(),
            services=(labels.service,),
            blast_radius=(labels.service,),
            findings=(finding,),
            timeline=(Entry(time_ns=event_ns, kind=outcome or "predicted", text=f"{said} {ends}".strip()),),
            merged_into=into,
            prediction=prediction,
        )


def _hash(labels: Labels) -> str:
    """The identity of a series in the id of a prediction, as 16 hexadecimal digits."""
    return blake2b(labels.to_json().encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def said_of(labels: Labels, target: Target, has: Mapping[str, float], sure: float) -> str:
    """The prediction in one plain sentence, by the numbers of its slot."""
    when = f"in about {duration(has['lead_s'])} ({duration(has['earliest_s'])} to {duration(has['latest_s'])})"
    if target.clock_s:
        return f"{labels.name} of {labels.service} ends in {duration(has['lead_s'])} and has not been renewed."
    now, limit = (quantity(has["sign"] * has[name], labels.unit) for name in ("value", "limit"))
    change = quantity(abs(has["slope"]) * 3600, labels.unit)
    moves = "grows" if has["slope"] > 0 else "falls"
    where = f"{labels.name} of {labels.service}"
    return f"{where} is at {now}, {moves} by {change} an hour and reaches {limit} {when}, probability {sure:.2f}."


def _record(found: Reached, k: int) -> str:
    """How well the line has done."""
    if not found.span_s[k] > 0:
        return ""
    span, saved = duration(float(found.span_s[k])), f"{found.skill[k]:.0%}"
    return f" Over {span} a line has saved {saved} of the error of the last value."


def _finding(watched: Watched, has: Mapping[str, Any], event_ns: int, said: str) -> Finding:
    """What a person can check: where the series is, and where it goes."""
    labels = watched.labels
    evidence = Evidence(
        channel=Channel.RESOURCE,
        service=labels.service,
        what=str(labels),
        before=has["sign"] * has["value"],
        after=has["sign"] * has["limit"],
        unit=labels.unit,
        strength=1.0,
        series=watched.series,
        text=said,
    )
    return Finding(
        key=f"prediction|{labels.service}|{_hash(labels)}",
        service=labels.service,
        channel=Channel.RESOURCE,
        start_ns=has["detected_ns"],
        last_ns=event_ns,
        evidence=evidence,
    )


def _left_s(value: F64, time_ns: I64, clock_s: F64) -> F64:
    """Seconds (K,) until what ends by the clock does, from a time since 1970 or from what is left."""
    at_s = value * clock_s
    return np.where(at_s > DATES, at_s - time_ns / 1e9, at_s)


def _owned(arrays: Arrays, owner: str) -> Arrays:
    prefix = owner + "/"
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
