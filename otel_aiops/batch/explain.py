"""Explanations of one moment of a series: value, score, band, how unusual it is, and when it looked alike."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from otel_aiops.batch.progress import Progress, Show
from otel_aiops.batch.recordings import moment
from otel_aiops.batch.tracks import Track
from otel_aiops.detect.engine import EngineConfig
from otel_aiops.detect.explain import duration, quantity
from otel_aiops.detect.jobs import JobsConfig
from otel_aiops.detect.moments import (
    DAY_S,
    WINDOW_S,
    Comparison,
    Similar,
    Unusual,
    interval_s,
    same_time,
    similar,
    unusual,
)
from otel_aiops.detect.scorer import Scorer
from otel_aiops.errors import BadInput
from otel_aiops.otlp.points import F64, I64
from otel_aiops.series.batch import Batch

WARM_POINTS = 2_000  # scored anew before the moment, to tell the band that held then
SHOWN_POINTS = 300  # before the moment; a sixth of that after it
LEAST_SHOWN_S, MOST_SHOWN_S = 3600.0, 2 * DAY_S
LATE_INTERVALS = 3.0  # the moment is so many intervals after the newest point: say so
CLOSE = 0.5  # distance below which two shapes are much alike
JOBS_NOTE = "recurring jobs: "
FLOOR = 1e-300  # of a spread
STEADY = 0.5  # spreads of the window that a mean may move and still be "about the same"


@dataclass(frozen=True, slots=True)
class Points:
    """T points as they are shown: unix seconds, values in the unit of the series, score with 1 the threshold; (T,)."""

    time: F64
    value: F64
    expected: F64
    lower: F64
    upper: F64
    score: F64


@dataclass(frozen=True, slots=True)
class Alike:
    """A moment that looked alike, in unix seconds, and how it went on; NaN stands where nothing is known."""

    time: float
    distance: float
    step_s: float
    shape: F64
    after: F64
    highest_score: float
    then: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that is told of one moment; plain values, NaN where something is not known."""

    series: str
    name: str
    unit: str
    time: float
    value: float
    score: float
    channel: str
    expected: float
    lower: float
    upper: float
    probability: float
    reason: str
    over_since: float  # unix seconds, NaN when the score is below its threshold
    unusual: Unusual | None
    comparisons: tuple[Comparison, ...]
    alike: tuple[Alike, ...]
    points: Points
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For machines: null where something is not known."""
        tree: dict[str, Any] = json_plain(asdict(self))
        return {**tree, "text": self.text()}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Self:
        """What `to_json` gave. Raises: BadInput."""
        try:
            fields = {key: json_number(value) for key, value in tree.items() if key != "text"}
            fields["points"] = json_arrays(Points, tree["points"])
            fields["alike"] = tuple(json_arrays(Alike, one) for one in tree["alike"])
            fields["comparisons"] = tuple(json_arrays(Comparison, one) for one in tree["comparisons"])
            fields["unusual"] = json_arrays(Unusual, tree["unusual"]) if tree["unusual"] else None
            fields["notes"] = tuple(tree["notes"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"expected an explanation as JSON, got {str(tree)[:200]!r}") from error

    def text(self) -> str:
        """For people."""
        rows = [
            ("score", self._score()),
            ("expected", self._band()),
            ("unusual", self._unusual()),
            *((_days(one.days), self._compared(one)) for one in self.comparisons),
            *(("alike" if k == 0 else "", _told(one)) for k, one in enumerate(self.alike)),
            *(("note", note) for note in self.notes),
        ]
        head = [self.series, f"{_when(self.time)}: {quantity(self.value, self.unit)}. {self.reason}".rstrip(), ""]
        return "\n".join([*head, *(f"{name:<10} {said}" for name, said in rows if said)])

    def _score(self) -> str:
        if math.isnan(self.score):
            return "none yet; the series was still being learned"
        over = f", over it since {_when(self.over_since)}" if self.over_since >= 0 else ""
        channel = f", by {self.channel}" if self.score >= 1 else ""
        sure = ""
        if self.probability >= 0:
            sure = f"; {100 * (1 - self.probability):.3g} % of its normal points score as high"
        return f"{self.score:.3g} (1 is the threshold{over}){channel}{sure}"

    def _band(self) -> str:
        if math.isnan(self.expected):
            return ""
        return f"{quantity(self.expected, self.unit)}, band {self.lower:.4g} to {quantity(self.upper, self.unit)}"

    def _unusual(self) -> str:
        found = self.unusual
        if found is None:
            return ""
        past = duration(found.since_s)
        near = (
            "" if math.isnan(found.nearest) else f"; nearest value seen {100 * found.nearest:.2g} % of its range away"
        )
        if found.side:
            whole = "" if found.last_ns else ", all that is recorded"
            return f"{'highest' if found.side > 0 else 'lowest'} in {past}{whole}{near}"
        return f"no: {100 * found.share:.2g} % of the values so far are as far out, the last one {past} before"

    def _compared(self, one: Comparison) -> str:
        change = "" if math.isnan(one.change) else f"; now {abs(one.change):.1%} {'more' if one.change > 0 else 'less'}"
        return f"{quantity(one.value, self.unit)} at {moment(one.time_ns)}{change}"


def explain(
    track: Track,
    time_ns: int,
    config: EngineConfig,
    *,
    jobs: JobsConfig | None = None,
    warm_points: int = WARM_POINTS,
    progress: Show | None = None,
) -> Explanation:
    """Explain the newest point at or before a time.

    Band, channel, probability and reason are of a fresh engine that learns up to `warm_points` points before the ones
    that are shown, and so are the recurring jobs that are named; the score is the recorded one where there is one.
    Raises: BadInput when nothing came up to then.
    """
    past = track.until(time_ns)
    at = len(past.time_ns) - 1
    if at < 0:
        raise BadInput(f"{track.labels} has no point at or before {moment(time_ns)}{_span(track)}")
    first, end = _shown(track.time_ns, at)
    start = max(0, first - warm_points)
    scorer = Scorer(config, jobs=jobs)
    points, said, known = _rescored(track, (start, first, end), at, scorer, Progress(progress))
    now_ns, value = int(track.time_ns[at]), float(track.value[at])
    begin = _began(points, at - first)
    calm = _calm(past, now_ns if begin is None else int(points.time[begin] * 1e9))
    compared = (same_time(past.value, past.time_ns, value, now_ns, days=days) for days in (1, 7))
    k = at - first
    return Explanation(
        series=str(track.labels),
        name=track.labels.name,
        unit=track.labels.unit,
        time=now_ns / 1e9,
        value=value,
        score=float(points.score[k]),
        expected=float(points.expected[k]),
        lower=float(points.lower[k]),
        upper=float(points.upper[k]),
        **said,
        over_since=float("nan") if begin is None else float(points.time[begin]),
        unusual=unusual(calm.value, calm.time_ns, value, now_ns),
        comparisons=tuple(one for one in compared if one),
        alike=tuple(_alike(one, track) for one in similar(past.value, past.time_ns, now_ns)),
        points=points,
        notes=(*_notes(past, time_ns, first - start, start), *([JOBS_NOTE + known] if known else ())),
    )


def with_live(found: Explanation, latest: dict[str, Any] | None, reason: str, jobs: str = "") -> Explanation:
    """The same with the jobs that the running service knows, and what it knows of its newest point when that is the
    moment explained.
    """
    if jobs:
        notes = [note for note in found.notes if not note.startswith(JOBS_NOTE)]
        found = replace(found, notes=(*notes, JOBS_NOTE + jobs))
    if latest is None or abs(latest["time_ns"] / 1e9 - found.time) > 1e-6:
        return found
    live = {name: json_number(latest[name]) for name in ("score", "expected", "lower", "upper", "probability")}
    return replace(found, **live, channel=latest["channel"] or "none", reason=reason)


# -- scoring anew -------------------------------------------------------------------------------------------------


def _shown(time_ns: I64, at: int) -> tuple[int, int]:
    """(first, end) of the points that are shown around one."""
    usual_s = interval_s(time_ns[: at + 1])
    before_s = min(max(SHOWN_POINTS * usual_s, LEAST_SHOWN_S), MOST_SHOWN_S) if usual_s > 0 else MOST_SHOWN_S
    now_ns = int(time_ns[at])
    bounds = [now_ns - round(before_s * 1e9), now_ns + round(before_s / 6 * 1e9)]
    first, end = np.searchsorted(time_ns, bounds).tolist()
    return max(int(first), at - 10 * SHOWN_POINTS), min(max(int(end), at + 1), at + 10 * SHOWN_POINTS)


def _rescored(
    track: Track, span: tuple[int, int, int], at: int, scorer: Scorer, progress: Progress
) -> tuple[Points, dict[str, Any], str]:
    """(what is shown, what is said of the point `at`, the jobs known then), after a scorer learned from `start` on."""
    start, first, end = span
    row, jobs = np.zeros(1, np.int32), ""
    gap_s = np.diff(track.time_ns, prepend=track.time_ns[0]) / 1e9
    gap_s[0] = np.nan
    shown = Points(
        track.time_ns[first:end] / 1e9, track.value[first:end], *(np.full(end - first, np.nan) for _ in "1234")
    )
    said: dict[str, Any] = {}
    for k in range(start, end):
        batch = Batch(row, track.time_ns[k : k + 1], track.value[k : k + 1], gap_s[k : k + 1])
        scored = scorer.score(batch)
        scores = scored.scores
        if k >= first:
            for name in ("expected", "lower", "upper", "score"):
                getattr(shown, name)[k - first] = getattr(scores, name)[0]
        if k == at:
            said = {
                "channel": scorer.engine.channels[int(scores.channel[0])],
                "probability": float(scores.probability[0]),
                "reason": scorer.reason(scored, 0, track.labels.unit)
                if scores.score[0] >= 1 or scored.told is not None
                else scorer.engine.note(0),
            }
            jobs = scorer.jobs.note(0)
        progress(k - start, end - start, lambda k=k: f"{k - start} points")  # type: ignore[misc]  # bound now
    recorded = track.score[first:end]
    shown.score[:] = np.where(np.isnan(recorded), shown.score, recorded)
    return shown, said, jobs


def _calm(past: Track, began_ns: int) -> Track:
    """What a value is compared with: all before the last hour and before the anomaly that it is in."""
    now_ns = int(past.time_ns[-1])
    calm = past.until(min(began_ns, now_ns - round(WINDOW_S * 1e9)) - 1)
    return calm if len(calm.time_ns) else past.until(min(began_ns, now_ns) - 1)


def _began(points: Points, k: int) -> int | None:
    """Where the run of points over their threshold that holds point k began; None when it is below."""
    if not points.score[k] >= 1:
        return None
    below = np.flatnonzero(~(points.score[: k + 1] >= 1))
    return int(below[-1]) + 1 if len(below) else 0


# -- words --------------------------------------------------------------------------------------------------------


def _alike(one: Similar, track: Track) -> Alike:
    after_ns = one.time_ns + round(len(one.after) * one.step_s * 1e9)
    near = (track.time_ns > one.time_ns) & (track.time_ns <= after_ns) & ~np.isnan(track.score)
    highest = float(track.score[near].max()) if near.any() else float("nan")
    return Alike(
        time=one.time_ns / 1e9,
        distance=one.distance,
        step_s=one.step_s,
        shape=one.shape,
        after=one.after,
        highest_score=highest,
        then=_went_on(one),
    )


def _went_on(one: Similar) -> str:
    """How the time after a window compares with its last tenth."""
    span = duration(len(one.after) * one.step_s)
    shape, after = one.shape[np.isfinite(one.shape)], one.after[np.isfinite(one.after)]
    if not len(after):
        return f"nothing was recorded in the {span} after"
    end, then = float(shape[-max(1, len(shape) // 10) :].mean()), float(after.mean())
    low, high = float(after.min()), float(after.max())
    if abs(then - end) <= STEADY * max(float(shape.std()), FLOOR):
        return f"stayed about {end:.4g} in the {span} after ({low:.4g} to {high:.4g})"
    return (
        f"{'rose' if then > end else 'fell'} from {end:.4g} to {then:.4g} in the {span} after ({low:.4g} to {high:.4g})"
    )


def _told(one: Alike) -> str:
    close = "much alike" if one.distance < CLOSE else "somewhat alike"
    score = "" if math.isnan(one.highest_score) else f", highest score {one.highest_score:.2g}"
    return f"{_when(one.time)}, {close} (distance {one.distance:.2f}): {one.then}{score}"


def _notes(past: Track, time_ns: int, warm: int, start: int) -> tuple[str, ...]:
    notes = []
    late_s = (time_ns - int(past.time_ns[-1])) / 1e9
    if late_s > LATE_INTERVALS * interval_s(past.time_ns):
        notes.append(
            f"no point came in the {duration(late_s)} before {moment(time_ns)}; this is the last one before it"
        )
    if start:
        notes.append(f"band and reason are computed anew from the {warm} points before those shown, not from all")
    return tuple(notes)


def _span(track: Track) -> str:
    if not len(track.time_ns):
        return "; nothing of it is recorded"
    return f"; it is recorded from {moment(int(track.time_ns[0]))} to {moment(int(track.time_ns[-1]))}"


def _when(time_s: float) -> str:
    return moment(round(time_s * 1e9))


def _days(days: int) -> str:
    return {1: "yesterday", 7: "last week"}.get(days, f"{days} d ago")


# -- JSON ---------------------------------------------------------------------------------------------------------


def json_plain(value: Any) -> Any:
    """Arrays as lists, NaN as null."""
    if isinstance(value, dict):
        return {key: json_plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return [one if math.isfinite(one) else None for one in value.tolist()]
    if isinstance(value, list | tuple):
        return [json_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_number(value: Any) -> Any:
    """Null as NaN."""
    return float("nan") if value is None else value


def json_arrays(kind: Any, tree: dict[str, Any], **ready: Any) -> Any:
    """A value of a kind with lists as arrays and null as NaN; what is `ready` stands as it is."""
    fields = {
        key: np.array([json_number(one) for one in value], np.float64)
        if isinstance(value, list)
        else json_number(value)
        for key, value in tree.items()
    }
    return kind(**fields, **ready)
