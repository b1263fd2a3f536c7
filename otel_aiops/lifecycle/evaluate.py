"""Evaluation: a version, the champion and a seasonal-naive baseline over the same points that none of them has seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from otel_aiops.detect.budget import per_week
from otel_aiops.detect.engine import EngineConfig, prepare
from otel_aiops.detect.lessons import Verdict
from otel_aiops.errors import BadInput, ConfigError
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.cases import Cases, look
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.events import Opened, alerts_of, caught, events_of
from otel_aiops.lifecycle.families import train_families
from otel_aiops.lifecycle.manifest import Manifest
from otel_aiops.lifecycle.objective import Objective
from otel_aiops.lifecycle.play import SIX_KINDS, Beginning, Played, Recording, play
from otel_aiops.lifecycle.report import (
    BASELINE,
    CANDIDATE,
    CHAMPION,
    WEEK_NS,
    Cost,
    Drawn,
    FaultTrial,
    Feedback,
    Report,
    Side,
)
from otel_aiops.lifecycle.stretch import AtHand
from otel_aiops.lifecycle.truth import ANOMALY, Label
from otel_aiops.lifecycle.version import Bundle, Lineage, Models, Settings
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.archive import Points
from otel_aiops.series.columns import Arrays

INCIDENT = "incident"  # exclusions from this source hide what a detector should find: not from who judges it
NAIVE = "seasonal-naive"
FAULT_PART = 0.5  # of the hold-out, the newer one, at most so many steps of it
FAULT_STEPS = 3_000
LEAST_HELD = 0.25  # of the usual hold-out, that must be left by what a version has learned
PICTURES, PICTURE_STEPS = 6, 400
MOST_KEPT = 5_000  # alerts of one side that a report keeps
TOTAL = 100.0
MEASURED = ("false_a_week", "alerts", "called_false", "precision", "recall", "fault_recall")  # of what verdicts change

Show = Callable[[float, float, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """How versions are evaluated."""

    holdout: float = 0.25  # of the window of a dataset, the newest, that is not learned from
    tolerance: float = 300.0  # s before the start of an event from which on an alert is about it
    most_points: int = 20_000_000  # of more, series are drawn
    seed: int = 0  # of the faults that are put in, and of the series that are drawn

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        if not 0 < self.holdout < 1:
            raise ConfigError("holdout", f"must be in (0, 1), got {self.holdout}")
        if not 0 <= self.tolerance <= 86_400:
            raise ConfigError("tolerance", f"must be in 0 .. 86400 s, got {self.tolerance}")
        if self.most_points < 1:
            raise ConfigError("most_points", f"must be >= 1, got {self.most_points}")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version to be judged, or settings that are none yet (then without a bundle)."""

    name: str
    settings: Settings = field(default_factory=Settings)
    bundle: Bundle | None = None
    lineage: Lineage = field(default_factory=Lineage)

    @classmethod
    def of(cls, models: Models, name: str) -> Candidate:
        """A registered version. Raises: BadInput, StateError."""
        version, bundle = models.load(name)
        return cls(name, version.settings, bundle, version.lineage)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Points of series, of which those from `recording.since_ns` on are judged by, and what is known of that time."""

    recording: Recording
    truth: tuple[Label, ...] = ()
    dataset: str = ""
    drawn_of: int = 0
    quality: Mapping[str, Any] = field(default_factory=dict)


def held_out(
    datasets: Datasets,
    name: str,
    *,
    since_ns: int | None = None,
    truth: Sequence[Label] = (),
    match: Objective | None = None,
    config: EvaluationConfig | None = None,
) -> HeldOut:
    """The points of a dataset, those of confirmed incidents too, split in time: the newest share is held out.

    `truth` is added to the labels of the dataset. Raises: BadInput when nothing is in scope or held out, StateError of
    a damaged dataset.
    """
    config = config or EvaluationConfig()
    manifest = datasets.load(name)
    start_ns, end_ns = manifest.window.start_ns, manifest.window.end_ns
    begin_ns = since(manifest, Lineage(), config) if since_ns is None else since_ns
    if not start_ns <= begin_ns < end_ns:
        raise BadInput(f"hold-out: expected its beginning in {start_ns} .. {end_ns} ns, got {begin_ns}")
    table = datasets.series(name)
    inside = [k for k, text in enumerate(table.names) if match is None or match.matches(Labels.from_json(text))]
    if not inside:
        raise BadInput(f"dataset {name}: expected series in scope, got none of {len(table)}")
    texts = _drawn([table.names[k] for k in inside], int(table.rows[inside].sum()), config)
    points = _points(datasets, name, texts)
    recording = recording_of(points, texts, begin_ns, end_ns)
    every = tuple(sorted({*manifest.labels, *table.resolved(truth)}))
    return HeldOut(recording=recording, truth=every, dataset=name, drawn_of=len(inside), quality=_quality(manifest))


def since(manifest: Manifest, lineage: Lineage, config: EvaluationConfig) -> int:
    """Where the hold-out of a dataset begins: with its newest share, or where a version has learned later, after that.

    A version that leaves next to nothing is judged by the usual share, without what it has learned.
    """
    start_ns, end_ns = manifest.window.start_ns, manifest.window.end_ns
    usual_ns = end_ns - round(config.holdout * (end_ns - start_ns))
    last_ns = end_ns - round(LEAST_HELD * config.holdout * (end_ns - start_ns))
    return lineage.until_ns if usual_ns < lineage.until_ns <= last_ns else usual_ns


def recording_of(points: Points, texts: Sequence[str], since_ns: int, until_ns: int) -> Recording:
    """Points of series as a play takes them. Raises: BadInput when nothing lies from `since_ns` on."""
    late = points.time_ns[points.time_ns >= since_ns]
    if not len(late):
        raise BadInput("hold-out: expected points, got none; choose a longer one, or a longer dataset")
    interval_s = _interval_s(points)
    span_ns = until_ns - since_ns
    steps_ns = round(FAULT_STEPS * interval_s * 1e9) if interval_s == interval_s else span_ns
    faults_ns = until_ns - min(round(FAULT_PART * span_ns), steps_ns)
    labels = tuple(map(Labels.from_json, texts))
    return Recording(points, tuple(texts), labels, since_ns, until_ns, interval_s, faults_ns)


def evaluate(
    candidate: Candidate,
    data: HeldOut,
    config: PipelineConfig,
    *,
    champion: Candidate | None = None,
    cases: Cases | None = None,
    objective: Objective | None = None,
    limits: EvaluationConfig | None = None,
    kinds: Sequence[str] = SIX_KINDS,
    lessons: Sequence[tuple[str, Verdict]] = (),
    processes: int = 1,
    progress: Show | None = None,
) -> Report:
    """Judge a version on points that are held out, beside the champion and a seasonal-naive baseline on the same ones.

    Every detector scores a point before it learns from it, and nothing of later points is known to it. A version begins
    with what it has learned when that ends before the hold-out; else, and without a bundle, its settings learn from the
    points before the hold-out, on which its families are trained too, in so many `processes`.
    Alerts are those that the budgets of `config` pay for; with an `objective` its budget is for all series.

    An alert is about an event when it begins within [start - tolerance, end] on a series, or a service, that the event
    is about; no other point of the event counts. An alert is true by the confidence of the surest event that it is
    about, an event weighs as much as its confidence. Beside the labels, faults of six kinds are put in copies of some
    series: the same for all detectors, judged by their threshold in the end.

    Versions begin with what verdicts teach, as they would be served: of `lessons`, (canonical text of the series,
    verdict), those that are from before the hold-out. What they change is measured by the same version without them.
    Raises: StateError.
    """
    limits = limits or EvaluationConfig()
    prepare(lambda text: None)  # what is compiled now would count as cost of the first
    if objective is not None:
        config = replace(config, budgets=(replace(objective.alert_budget(), match={}),))
    entries: list[tuple[str, Candidate | None]] = [(CANDIDATE, candidate)]
    entries += [(CHAMPION, champion)] if champion is not None and champion.name != candidate.name else []
    entries += [(BASELINE, None)]
    data, notes = _judged(data)
    early = early_lessons(lessons, data.recording.since_ns)
    sides, opened = [], {}
    trained = _Trained(data.recording, processes)
    untaught: Side | None = None
    for k, (role, one) in enumerate(entries):
        told = _told(progress, k, len(entries), role)
        taught = early if one is not None else ()
        begins = _beginning(one, data.recording.since_ns, trained)
        run = partial(_run, role, one, begins, data, config, limits, kinds=kinds)
        side, opened[role] = run(cases=cases, lessons=taught, told=told)
        if role == CANDIDATE and taught:
            untaught, _ = run()
        sides.append(side)
        notes += _anew(one, side, begins[0])
    return _report(
        candidate,
        data,
        config,
        limits,
        champion=champion,
        objective=objective.name if objective else "",
        sides=tuple(sides),
        pictures=_pictures(data.recording, opened[CANDIDATE]),
        notes=tuple(notes),
        feedback=_feedback(lessons, early, untaught or sides[0], sides[0]) if lessons else None,
    )


def _run(
    role: str,
    one: Candidate | None,
    begins: tuple[Beginning, str],
    data: HeldOut,
    config: PipelineConfig,
    limits: EvaluationConfig,
    *,
    kinds: Sequence[str],
    cases: Cases | None = None,
    lessons: Sequence[tuple[str, Verdict]] = (),
    told: Callable[[float], None] | None = None,
) -> tuple[Side, Sequence[Opened]]:
    """How one detector does on the points that are held out, and the alerts that it opened."""
    beginning, begun = begins
    played = play(data.recording, beginning, config, kinds=kinds, seed=limits.seed, told=told, lessons=lessons)
    side = _side(role, one, begun, data, played, limits)
    if cases is None:
        return side, played.opened
    looked = look(cases, beginning, config, side.threshold, one.lineage.until_ns if one else 2**62)
    return replace(side, cases=looked), played.opened


def _anew(one: Candidate | None, side: Side, begun: Beginning) -> list[str]:
    """What is to be said of a version, or settings, that had to begin anew."""
    if one is None or side.begun != "history":
        return []
    wanted = sorted(one.settings.to_json().get("families", {}))
    trained = [name for name in wanted if begun.beside.get(name)]
    few = [name for name in wanted if name not in trained]
    beside = [f"with its {' and '.join(trained)} trained on the points before the hold-out"] if trained else []
    beside += [f"without its {' and '.join(few)}, for which these are too few or say nothing"] if few else []
    if one.bundle is not None:
        anew = f"{one.name} has learned from the hold-out, so its settings began anew with the points before"
        return [", ".join((anew, *beside))]
    return [f"{one.name} is judged {', '.join(beside)}"] if beside else []


def _report(
    candidate: Candidate,
    data: HeldOut,
    config: PipelineConfig,
    limits: EvaluationConfig,
    *,
    champion: Candidate | None,
    objective: str,
    sides: tuple[Side, ...],
    pictures: tuple[Drawn, ...],
    notes: tuple[str, ...],
    feedback: Feedback | None,
) -> Report:
    """What is known of the version, with what it was judged by."""
    of = data.recording
    return Report(
        version=candidate.name,
        dataset=data.dataset,
        objective=objective,
        window=(of.since_ns, of.until_ns),
        series=len(of.texts),
        drawn_of=data.drawn_of or len(of.texts),
        sides=sides,
        pictures=pictures,
        settings=candidate.settings.to_json(),
        changed=_changed(champion.settings, candidate.settings) if champion else {},
        lineage=asdict(candidate.lineage),
        quality=data.quality,
        budget=sum(per_week(one.budget) for one in config.budgets) or per_week(config.budget),
        tolerance_s=limits.tolerance,
        seed=limits.seed,
        notes=notes,
        feedback=feedback,
    )


def early_lessons(lessons: Sequence[tuple[str, Verdict]], since_ns: int) -> tuple[tuple[str, Verdict], ...]:
    """Those that are about times before a hold-out, and were given before it too."""
    return tuple(one for one in lessons if one[1].time_ns < since_ns and one[1].given_ns < since_ns)


def _feedback(
    lessons: Sequence[tuple[str, Verdict]], early: Sequence[tuple[str, Verdict]], without: Side, taught: Side
) -> Feedback:
    kinds = Counter(verdict.kind for _, verdict in early)
    figures = ({name: float(one.figures()[name]) for name in MEASURED} for one in (without, taught))
    return Feedback(
        kinds=dict(sorted(kinds.items())), late=len(lessons) - len(early), without=next(figures), taught=next(figures)
    )


def _judged(data: HeldOut) -> tuple[HeldOut, list[str]]:
    """Without labels of what has no points, as of what is excluded by whole hours; and what is to be said of that."""
    of = data.recording
    late = of.after(of.since_ns)
    kept = []
    for label in data.truth:
        first, last = np.searchsorted(late.time_ns, [label.start_ns, label.end_ns])
        codes = np.unique(late.code[first:last]).tolist()
        event = events_of([replace(label, kind=ANOMALY)], label.start_ns, label.end_ns)[0]
        if not of.since_ns <= label.start_ns < of.until_ns or any(
            event.concerns(of.texts[code], of.labels[code].service) for code in codes
        ):
            kept.append(label)
    gone = events_of(set(data.truth) - set(kept), of.since_ns, of.until_ns)
    notes = [f"{len(gone)} labelled events have no points, and are not judged"] if gone else []
    return replace(data, truth=tuple(kept)), notes


def _beginning(one: Candidate | None, since_ns: int, trained: _Trained) -> tuple[Beginning, str]:
    """(with what a detector begins, in one word)."""
    if one is None:
        return Beginning(None), "history"
    detection: EngineConfig = one.settings.detection
    if one.bundle is None or one.lineage.until_ns > since_ns:
        return Beginning(detection, beside=trained.of(one.settings)), "history"
    return Beginning(detection, one.bundle, one.lineage.until_ns), "bundle"


class _Trained:
    """Families of settings, trained on what is before a hold-out; of equal settings once."""

    def __init__(self, recording: Recording, processes: int) -> None:
        self._of, self._processes = recording, processes
        self._known: dict[str, dict[str, Arrays]] = {}

    def of(self, settings: Settings) -> dict[str, Arrays]:
        """By their part of a bundle; nothing where there is nothing to learn from."""
        points, until_ns, key = self._of.points, self._of.since_ns, repr(settings)
        if not settings.families or not len(points) or points.time_ns[0] >= until_ns:
            return {}
        if key not in self._known:
            span: Any = {"start_ns": int(points.time_ns[0]), "end_ns": until_ns, "processes": self._processes}
            self._known[key] = train_families(AtHand(points, self._of.texts), self._of.texts, settings, **span)
        return self._known[key]


def _side(
    role: str, one: Candidate | None, begun: str, data: HeldOut, played: Played, limits: EvaluationConfig
) -> Side:
    of, tolerance_ns = data.recording, round(limits.tolerance * 1e9)
    events = events_of(data.truth, of.since_ns, of.until_ns)
    labels = [label for label in data.truth if label.end_ns > of.since_ns and label.start_ns < of.until_ns]
    trials = tuple(
        FaultTrial(kind=trial.kind, series=played.tried_series[trial.series], found=trial.found, delay_s=trial.delay_s)
        for trial in played.trials
    )
    return Side(
        role=role,
        name=one.name if one else NAIVE,
        begun=begun,
        weeks=(of.until_ns - of.since_ns) / WEEK_NS,
        points=played.points,
        over=played.over,
        threshold=float(np.median(played.thresholds)),
        alerts=alerts_of(played.opened, events, labels, tolerance_ns)[:MOST_KEPT],
        events=caught(events, played.opened, tolerance_ns),
        trials=trials,
        probability=tuple(played.probability.tolist()),
        cost=Cost(cpu_s=played.cpu_s, points=played.played, bytes_per_series=played.bytes_per_series),
    )


def _points(datasets: Datasets, name: str, texts: Sequence[str]) -> Points:
    """The points of some series of a dataset, in the order of time."""
    codes, times, values = [np.empty(0, np.int32)], [np.empty(0, np.int64)], [np.empty(0)]
    code_of = {text: code for code, text in enumerate(texts)}
    for chunk in datasets.read(name, series=set(texts), included=(INCIDENT,)):
        sizes = np.diff(chunk.ends, prepend=0)
        codes.append(np.repeat(np.array([code_of[one] for one in chunk.names], np.int32), sizes))
        times.append(chunk.time_ns)
        values.append(chunk.value)
    code, time_ns, value = np.concatenate(codes), np.concatenate(times), np.concatenate(values)
    order = np.lexsort((code, time_ns))
    return Points(code[order], time_ns[order], value[order], len(texts))


def _drawn(texts: Sequence[str], rows: int, config: EvaluationConfig) -> list[str]:
    """All series, or of too many points those of some, by chance."""
    if rows <= config.most_points:
        return list(texts)
    most = max(1, int(len(texts) * config.most_points / rows))
    chosen = np.random.default_rng(config.seed).choice(len(texts), most, replace=False)
    return [texts[k] for k in sorted(chosen.tolist())]


def _interval_s(points: Points) -> float:
    """The median time between two points of a series; NaN where no series has two."""
    order = np.argsort(points.code, kind="stable")
    gaps, same = np.diff(points.time_ns[order]) / 1e9, np.diff(points.code[order]) == 0
    kept = gaps[same & (gaps > 0)]
    return float(np.median(kept)) if len(kept) else float("nan")


def _pictures(recording: Recording, opened: Sequence[Opened]) -> tuple[Drawn, ...]:
    """The series with most alerts, thinned, so that a page can show them."""
    count: dict[str, int] = {}
    for one in opened:
        count[one.series] = count.get(one.series, 0) + 1
    shown = sorted(count, key=lambda text: (-count[text], text))[:PICTURES]
    late = recording.after(recording.since_ns)
    step_ns = max(1, -(-(recording.until_ns - recording.since_ns) // PICTURE_STEPS))
    return tuple(_picture(recording, late, text, step_ns) for text in shown)


def _picture(recording: Recording, late: Points, text: str, step_ns: int) -> Drawn:
    mine = late.code == recording.texts.index(text)
    value = late.value[mine]
    cell = (late.time_ns[mine] - recording.since_ns) // step_ns
    finite = np.isfinite(value) & (cell < PICTURE_STEPS)
    size = PICTURE_STEPS
    count = np.bincount(cell[finite], minlength=size)
    total = np.bincount(cell[finite], value[finite], minlength=size)
    values = np.full(size, np.nan)
    np.divide(total, count, out=values, where=count > 0)
    return Drawn(series=text, start_ns=recording.since_ns, step_ns=step_ns, values=tuple(values.tolist()))


def _changed(before: Settings, after: Settings) -> dict[str, Any]:
    """Settings that differ: [before, after] by key."""
    a, b = before.to_json(), after.to_json()
    found: dict[str, Any] = {}
    for part in sorted({*a, *b}):
        one, two = a.get(part) or {}, b.get(part) or {}
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            found |= {
                f"{part}.{key}": [one.get(key), two.get(key)] for key in {*one, *two} if one.get(key) != two.get(key)
            }
        elif one != two:
            found[part] = [one, two]
    return dict(sorted(found.items()))


def _quality(manifest: Manifest) -> dict[str, Any]:
    """What the points of a dataset are like."""
    of = manifest.profile
    measured = ("series", "rows", "interval_s", "missing_ratio", "duplicate_ratio")
    return {
        "passed": manifest.gate.passed,
        "reasons": list(manifest.gate.reasons),
        "forced": manifest.forced,
        "hours": of.hours,
        "hours_empty": of.hours_empty,
        "hours_lost": of.hours_lost,
        "labels": of.labels,
        **{name: getattr(of.all, name) for name in measured},
    }


def _told(progress: Show | None, k: int, sides: int, role: str) -> Callable[[float], None] | None:
    if progress is None:
        return None
    return lambda share: progress(TOTAL * (k + share) / sides, TOTAL, role)
