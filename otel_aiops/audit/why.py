"""Why was I paged then: the score of a past point, or an incident, made again and compared bit for bit."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_aiops import __version__
from otel_aiops.audit.configurations import Configured
from otel_aiops.audit.notes import note_of, readable
from otel_aiops.audit.replay import END, Missing, Moment, Past
from otel_aiops.detect.detector import CHANNELS
from otel_aiops.errors import BadInput, StateError
from otel_aiops.incidents.alert_note import AlertNote
from otel_aiops.incidents.codec import encode
from otel_aiops.incidents.incident import Channel, Incident
from otel_aiops.incidents.journal import Journal, brief
from otel_aiops.labels import Labels
from otel_aiops.series.wanted import Wanted

if TYPE_CHECKING:
    from otel_aiops.batch.tracks import Track
    from otel_aiops.config import Config
    from otel_aiops.detect.scorer import Scored
    from otel_aiops.pipeline import Pipeline

NOTED, RECORDED = "journal of alerts, 64 bits", "recorded points, 32 bits"
LATE_NS = 3_600_000_000_000  # the event clock is so much past a time: nothing of then comes any more
MOST_SERIES = 20  # of an incident
COMPARED = (
    *("value", "score", "alert", "probability", "expected", "lower", "upper", "ratio", "threshold", "shift", "budget"),
    *("channel", "objective", "counted", "version", "role"),
)
SERIES_CHANNELS = (Channel.SERIES, Channel.SILENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One point of one series. `then` is the score that was written down then, `again` the one that was made again.

    `equal` says whether all their bits are; None where one of both is missing. `differs` names other values that were
    written down and came out otherwise. `source` says where `then` was written down, and with how many bits. `made` is
    the whole point as it was made again; without the log it comes from the recorded points, and is not bit for bit.
    """

    series: str
    time_ns: int
    then: float
    again: float
    equal: bool | None
    source: str = ""
    differs: tuple[str, ...] = ()
    made: AlertNote | None = None
    reason: str = ""
    alerting: bool = False  # whether the series had an alert at the point
    code: str = ""  # that scored it then
    missing: str = ""  # what would be needed to make it again bit for bit
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """The answer for a series, or for an incident: then `opened` says whether it came again as it is journalled."""

    points: tuple[Answer, ...]
    incident: str = ""
    title: str = ""
    raised_by: tuple[str, ...] = ()
    opened: bool | None = None
    missing: str = ""
    begun: int = 0  # the record after which the replay began
    replayed: int = 0  # records
    notes: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether all of it came again, bit for bit."""
        said = [one.equal for one in self.points] + ([self.opened] if self.incident else [])
        return bool(said) and all(one is True for one in said)

    def to_json(self) -> dict[str, Any]:
        """As plain values, NaN as None; scores also as the hexadecimal digits of their bits."""
        points = [
            asdict(one) | {"then_bits": bits(one.then), "again_bits": bits(one.again), "score_equal": one.equal}
            for one in self.points
        ]
        plain: dict[str, Any] = _plain({**asdict(self), "points": points, "equal": self.equal})
        return plain


@dataclass(slots=True)
class _Target:
    """A point that is looked for; `wanted` where only a name is known."""

    time_ns: int
    fingerprint: int = 0
    series: str = ""
    note: AlertNote | None = None
    track: Track | None = None
    wanted: Wanted | None = None
    exact: bool = False  # there is a point at just this time
    found: tuple[AlertNote, str, bool, Configured] | None = None
    over: bool = False

    @property
    def done(self) -> bool:
        return self.over or (self.exact and self.found is not None)


@dataclass(slots=True)
class _Opening:
    """An incident that is looked for."""

    first: Incident
    again: Incident | None = None
    targets: list[_Target] = field(default_factory=list)


def why_series(directory: Path, journal: Journal | None, series: str, at_ns: int, config: Config, work: Past) -> Why:
    """The newest point of a series at or before a time. Raises: BadInput when not exactly one series is meant."""
    target = _target(directory, journal, series, at_ns)
    missing = _made_again(work, [target], None)
    return _why(work, [target], config, missing)


def why_incident(directory: Path, journal: Journal, name: str, config: Config, work: Past) -> Why:
    """The series that opened an incident, and its opening. Raises: BadInput where there is no such incident."""
    history = journal.history(name, most=1_000_000)
    if not history:
        raise BadInput(f"incident: expected the id of one that is journalled, got {name[:100]!r}")
    first = history[0][1]
    opening = _Opening(first)
    findings = [one for one in first.findings if one.evidence.series and one.channel in SERIES_CHANNELS]
    known: set[tuple[str, int]] = set()
    for finding in findings:
        key = finding.evidence.series, finding.start_ns
        if key not in known and len(known) < MOST_SERIES:
            known.add(key)
            opening.targets.append(_target(directory, journal, *key))
    missing = _made_again(work, opening.targets, opening)
    why = _why(work, opening.targets, config, missing)
    same = None if opening.again is None else encode(brief(opening.again)) == encode(first)
    raised = [finding.evidence.text or finding.key for finding in first.findings]
    return Why(
        points=why.points,
        incident=name,
        title=first.title,
        raised_by=tuple(raised),
        opened=same,
        missing=missing,
        begun=why.begun,
        replayed=why.replayed,
        notes=why.notes,
    )


# -- making it again ------------------------------------------------------------------------------------------------


def _made_again(work: Past, targets: Sequence[_Target], opening: _Opening | None) -> str:
    """Replay until all is found; returns what is missing, "" for nothing."""
    notes = [one.note for one in targets if one.note is not None]
    before_ns = min([one.time_ns for one in targets] + ([opening.first.detected_ns] if opening else []))
    sequence = min((one.sequence for one in notes), default=END)
    alone = notes and len(notes) == len(targets) and opening is None
    try:
        begin = work.beginning(sequence=sequence, before_ns=2**63 - 1 if alone else before_ns)
        last = max((one.sequence for one in notes), default=END) if alone else END
        line = max((one.line for one in notes), default=0)
        until_ns = max([before_ns, *(one.time_ns for one in targets)]) + LATE_NS
        for moment in work.moments(begin, through=last, line=line):
            _look(moment, targets, opening)
            found = opening is None or opening.again is not None
            if (found and all(one.done for one in targets)) or moment.pipeline.event_ns > until_ns:
                break
    except Missing as error:
        return str(error)
    return ""


def _look(moment: Moment, targets: Sequence[_Target], opening: _Opening | None) -> None:
    """See what a step has of what is looked for."""
    if opening is not None:
        for incident in moment.step.incidents:
            if incident.id == opening.first.id and incident.revision == opening.first.revision:
                opening.again = incident
    for target in targets:
        if not target.done:
            _match(moment, target)


def _match(moment: Moment, target: _Target) -> None:
    pipeline = moment.pipeline
    if not target.fingerprint and target.wanted is not None:
        _resolve(pipeline, target)
    row = pipeline.table.find(target.fingerprint)
    if row is None:
        return
    for scored in moment.step.batches():
        for k in np.flatnonzero(scored.batch.rows == row).tolist():
            time_ns = int(scored.batch.time_ns[k])
            if time_ns > target.time_ns:
                target.over = True
            elif not target.exact or time_ns == target.time_ns:
                target.found = _found(pipeline, scored, k, moment)


def _found(pipeline: Pipeline, scored: Scored, k: int, moment: Moment) -> tuple[AlertNote, str, bool, Configured]:
    made = note_of(pipeline, scored, k, moment.record.sequence, moment.held)
    reason = pipeline.reason(scored, k) if made.score >= 1 or made.ratio >= 1 else ""
    return made, reason, scored.alerted is not None and bool(scored.alerted.active[k]), moment.held


def _resolve(pipeline: Pipeline, target: _Target) -> None:
    """A series that is not on the disk yet, by its name."""
    assert target.wanted is not None
    rows = pipeline.table.live()
    found = [k for k, one in enumerate(pipeline.table.labels_of(rows)) if target.wanted.matches(one)]
    if found:
        k = found[target.wanted.choose([pipeline.table.labels(int(rows[k])) for k in found])]
        target.fingerprint = int(pipeline.table.fingerprint(rows[k : k + 1])[0])


# -- what was written down then ---------------------------------------------------------------------------------------


def _target(directory: Path, journal: Journal | None, series: str, at_ns: int) -> _Target:
    """What is known of a point: from the journal of alerts, and from the recorded points."""
    target = _Target(at_ns)
    if len(series) == 16 and set(series) <= set("0123456789abcdef"):
        target.fingerprint = int(series, 16)
    else:
        target.wanted = Wanted(series)
    _recorded(directory, target)
    if journal is not None and target.wanted is not None and not target.fingerprint:
        _alerted(journal, target)
    if journal is not None and target.fingerprint:
        known = journal.alerts(series=f"{target.fingerprint:016x}", from_ns=target.time_ns, until_ns=at_ns + 1, limit=1)
        if known:
            target.note, target.time_ns, target.series = known[0], known[0].time_ns, known[0].series
            target.exact = True
    return target


def _alerted(journal: Journal, target: _Target) -> None:
    """Look a series up among those that had alerts, where its points are not on the disk (any more)."""
    assert target.wanted is not None
    of = {one.fingerprint: one.series for one in journal.alerts(until_ns=target.time_ns + 1)}
    found = {name: Labels.from_json(text) for name, text in of.items()}
    matching = [name for name, labels in found.items() if target.wanted.matches(labels)]
    if matching:
        target.fingerprint = int(matching[target.wanted.choose([found[name] for name in matching])], 16)


def _recorded(directory: Path, target: _Target) -> None:
    """Look a point up among those on the disk; a service keeps its newest minutes in memory."""
    from otel_aiops.batch.tracks import from_directory, track
    from otel_aiops.series.segments import Segments

    segments = Segments(directory / "segments")
    hour_ns = 3_600_000_000_000
    if target.wanted is None:
        table = segments.read(target.time_ns - 24 * hour_ns, target.time_ns + 1)
        mine = np.flatnonzero(table["fingerprint"].to_numpy() == np.uint64(target.fingerprint))
        if len(mine):
            target.series = str(table["series"][int(mine[0])].as_py())
            some = table.take(mine)
            numbers = (some[name].to_numpy() for name in ("value", "score"))
            target.track = track(Labels.from_json(target.series), some["timestamp"].cast("int64").to_numpy(), *numbers)
    else:
        try:
            target.track = from_directory(directory, target.wanted)
        except BadInput as error:
            if "say which one" in str(error):
                raise
            return  # not on the disk yet, or never: the log will tell
        target.series = target.track.labels.to_json()
    past = target.track.until(target.time_ns) if target.track is not None else None
    if past is None or not len(past.time_ns):
        return
    at = int(past.time_ns[-1])
    assert target.track is not None
    if not target.fingerprint:
        table = segments.read(at, at + 1, target.series)
        target.fingerprint = int(table["fingerprint"][0].as_py())
    # The newest point that is on the disk is the one that is meant only if a later one is there too.
    target.exact = at == target.time_ns or bool((target.track.time_ns > target.time_ns).any())
    if target.exact:
        target.time_ns = at


# -- the answer -------------------------------------------------------------------------------------------------------


def _why(work: Past, targets: Sequence[_Target], config: Config, missing: str) -> Why:
    points = tuple(_answer(one, config, missing) for one in targets)
    return Why(points=points, missing=missing, begun=work.begun, replayed=work.replayed, notes=work.notes)


def _answer(target: _Target, config: Config, missing: str) -> Answer:
    then, source = _then(target)
    if target.found is None:
        return _without_log(target, config, then, source, missing)
    made, reason, alerting, held = target.found
    then, source = _then(target, made.time_ns)
    differs: list[str] = []
    equal: bool | None = None
    if target.note is not None:
        differs = [name for name in COMPARED if not _same(getattr(target.note, name), getattr(made, name))]
        equal = "score" not in differs
    elif source:
        equal = _same(then, float(np.float32(made.score)))
    code = target.note.code if target.note is not None else held.code
    notes = []
    if code and code != __version__:
        notes.append(f"it was scored by otel-aiops {code}, and made again by {__version__}")
    if not held.id:
        notes.append("no configuration of that time is journalled; the one that was given was used")
    if not source:
        notes.append("the score of then is not on the disk yet: the service writes it down with its next snapshot")
    return Answer(
        series=made.series,
        time_ns=made.time_ns,
        then=then,
        again=made.score,
        equal=equal,
        source=source,
        differs=tuple(differs),
        made=made,
        reason=reason,
        alerting=alerting,
        code=code,
        notes=tuple(notes),
    )


def _then(target: _Target, time_ns: int | None = None) -> tuple[float, str]:
    """(the score that was written down, where); NaN and "" for none."""
    if target.note is not None:
        return target.note.score, NOTED
    if target.track is not None:
        at = np.flatnonzero(target.track.time_ns == (target.time_ns if time_ns is None else time_ns))
        if len(at):
            return float(target.track.score[at[-1]]), RECORDED
    return math.nan, ""


def _without_log(target: _Target, config: Config, then: float, source: str, missing: str) -> Answer:
    """What can be said without the log: scored anew from the recorded points, by a detector that knows only those."""
    from otel_aiops.batch.explain import explain

    missing = missing or "the log has no such point of the series"
    shared: dict[str, Any] = {"then": then, "source": source, "equal": None, "missing": missing}
    note = target.note
    if target.track is None or not len(target.track.until(target.time_ns).time_ns):
        notes = ("no point of the series is recorded up to then, so nothing can be made again",)
        return Answer(series=target.series, time_ns=target.time_ns, again=math.nan, made=note, notes=notes, **shared)
    past = target.track.until(target.time_ns)
    bare = type(past)(past.labels, past.time_ns, past.value, np.full(len(past.time_ns), np.nan))
    told = explain(bare, target.time_ns, config.detection, jobs=config.jobs)
    notes = (
        "made again from the recorded points only, by a detector that has learned nothing but those: not bit for bit",
    )
    return Answer(
        series=past.labels.to_json(),
        time_ns=round(told.time * 1e9),
        again=told.score,
        made=note,
        reason=told.reason,
        code=note.code if note else "",
        notes=notes,
        **shared,
    )


def bits(value: float) -> str:
    """The bits of a number as hexadecimal digits.

    >>> bits(1.0), bits(float("nan"))
    ('3ff0000000000000', '7ff8000000000000')
    """
    return struct.pack(">d", math.nan if math.isnan(value) else value).hex()


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same, numbers in all their bits."""
    if isinstance(one, float) and isinstance(other, float):
        return bits(one) == bits(other)
    return bool(one == other)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def lines(why: Why) -> Iterator[str]:
    """For people."""
    from otel_aiops.batch.recordings import moment

    if why.incident:
        yield f"incident {why.incident}: {why.title}"
        said = {
            True: "opened again, equal in all it says",
            False: "opened again, but not equal",
            None: "not made again",
        }
        yield f"  {said[why.opened]}"
        for text in why.raised_by:
            yield f"  raised by: {text}"
    for one in why.points:
        yield readable(one.series)
        yield f"  {moment(one.time_ns)}"
        yield from (f"  {name:<12} {text}" for name, text in _rows(one) if text)
    if why.missing:
        yield f"not bit for bit: {why.missing}"
    elif why.replayed:
        yield f"replayed {why.replayed} records of the log after record {why.begun}"
    yield from why.notes


def _rows(one: Answer) -> Iterator[tuple[str, str]]:
    said = {True: "equal in every bit", False: "NOT equal", None: "not compared"}[one.equal]
    yield "score then", f"{one.then!r} ({one.source})" if one.source else "not written down yet"
    yield "made again", f"{one.again!r} [{bits(one.again)}]: {said}"
    yield "differs", ", ".join(one.differs)
    made = one.made
    if made is not None:
        yield "value", f"{made.value!r}, expected {made.expected:.6g} (band {made.lower:.6g} to {made.upper:.6g})"
        alert = "an alert" if one.alerting else "no alert"
        moved = f", moved by verdicts by {made.shift:+.3f} (log)" if made.shift else ""
        yield "alert score", f"{made.alert:.6g}, {made.ratio:.4g} thresholds of {made.threshold:.6g}{moved}: {alert}"
        yield "budget", f"{made.objective}, {made.budget:g} alerts a week"
        yield "channel", made.channel if made.channel in CHANNELS else ""
        yield "served by", f"{made.role} {made.version or '(before there were versions)'}"
        yield "config", made.config or "not journalled"
        yield "record", str(made.sequence)
    yield "code", one.code
    yield "because", one.reason
    yield from (("note", note) for note in one.notes)


def journal_of(config: Config, directory: Path) -> Journal | None:
    """The journal of a data directory; None where there is none. Raises: StateError when it cannot be read."""
    from otel_aiops.incidents.journal import FILE

    if not config.journal.url and not (directory / FILE).exists():
        return None
    journal = Journal(config.journal, directory)
    try:
        journal.open()
    except StateError:
        journal.close()
        raise
    return journal
