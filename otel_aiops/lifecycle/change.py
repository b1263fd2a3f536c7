"""A change of a configuration, judged on recorded points before it holds: the gate of a pull request."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from otel_aiops.errors import BadInput
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.cases import Cases
from otel_aiops.lifecycle.circle import tree_of
from otel_aiops.lifecycle.evaluate import Candidate, EvaluationConfig, HeldOut, evaluate, recording_of
from otel_aiops.lifecycle.events import Alert, Event
from otel_aiops.lifecycle.gate import GateConfig, Verdict, gate, losses
from otel_aiops.lifecycle.objective import CostConfig, Objective
from otel_aiops.lifecycle.page import series_text
from otel_aiops.lifecycle.report import CHAMPION, Report, Side
from otel_aiops.lifecycle.truth import Label
from otel_aiops.lifecycle.version import Family, Settings
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.archive import Archive, Points
from otel_aiops.series.tables import NO_TIME, TableFile

SHOWN = 10  # alerts of each kind, in words
MOST_KEYS = 40  # that differ, in words
S = 1_000_000_000

Show = Callable[[float, float, str], None]

ROWS: tuple[tuple[str, str, str], ...] = (
    ("alerts", "alerts", "{:.0f}"),
    ("false_a_week", "false alerts a week", "{:.1f}"),
    ("precision", "precision", "{:.0%}"),
    ("missed", "events missed", "{:.0f}"),
    ("recall", "recall of events", "{:.0%}"),
    ("delay_s", "median delay", "{:.0f} s"),
    ("fault_recall", "injected faults found", "{:.0%}"),
    ("cases_wrong", "frozen cases wrong", "{:.0f}"),
    ("calibration_error", "error of the probabilities", "{:.3f}"),
    ("us_per_point", "CPU time a point", "{:.0f} µs"),
    ("bytes_per_series", "memory a series", "{:.0f} B"),
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a configuration says of detection, by which objective it is judged, and what scores beside its engine."""

    pipeline: PipelineConfig
    objective: Objective | None = None
    families: tuple[Family, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a change does. `keys` are the settings that differ: [before, after] by path; `report` and `verdict` are None
    where nothing differs that decides scores or alerts.
    """

    keys: Mapping[str, Any] = field(default_factory=dict)
    report: Report | None = None
    verdict: Verdict | None = None
    cost: CostConfig = field(default_factory=CostConfig)

    @property
    def passed(self) -> bool:
        """Whether it may hold."""
        return self.verdict is None or self.verdict.passed

    def alerts(self) -> tuple[tuple[Alert, ...], tuple[Alert, ...]]:
        """(those that would be new, those that would be gone)."""
        if self.report is None:
            return (), ()
        before, after = _side(self.report, CHAMPION).alerts, self.report.candidate.alerts
        slack_ns = round(self.report.tolerance_s * S)
        return _without(after, before, slack_ns), _without(before, after, slack_ns)

    def newly_missed(self) -> tuple[Event, ...]:
        """Events that have an alert before the change, and not after it."""
        if self.report is None:
            return ()
        before = {one.event for one in _side(self.report, CHAMPION).events if one.caught}
        return tuple(one.event for one in self.report.candidate.events if not one.caught and one.event in before)

    def sentence(self) -> str:
        """The answer in one sentence."""
        if self.report is None or self.verdict is None:
            return "Nothing that decides scores or alerts was changed, so there is nothing to judge."
        mine, base = self.report.candidate, _side(self.report, CHAMPION)
        count, known = len(mine.alerts), len(mine.events)
        missed, lost = sum(not one.caught for one in mine.events), len(self.newly_missed())
        newly = f", {lost} of them found before," if lost else ""
        events = f"missing {missed or 'none'} of {known} known events{newly}" if known else "with no event known"
        says = "the gate says yes" if self.passed else "the gate says **no**"
        days = 7 * self.report.weeks
        return (
            f"With this change there would have been {count} alert{'s' if count != 1 else ''} instead of"
            f" {len(base.alerts)} in {days:.3g} days, {events}: {says}."
        )

    def markdown(self) -> str:
        """For a pull request: one sentence, then figures, rules, alerts that differ and settings that differ."""
        lines = [f"### {'✅' if self.passed else '❌'} Detection of otel-aiops", "", self.sentence(), ""]
        if self.report is not None and self.verdict is not None:
            lines += [*self._figures(self.report), "", *self.verdict.markdown().splitlines()[2:], ""]
            lines += self._differences(self.report)
        lines += self._keys()
        return "\n".join(lines).rstrip() + "\n"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        new, gone = self.alerts()
        return {
            "passed": self.passed,
            "sentence": self.sentence(),
            "keys": dict(self.keys),
            "verdict": self.verdict.to_json() if self.verdict else None,
            "report": self.report.to_json() if self.report else None,
            "new_alerts": [asdict(one) for one in new],
            "gone_alerts": [asdict(one) for one in gone],
            "newly_missed": [asdict(one) for one in self.newly_missed()],
        }

    def _figures(self, report: Report) -> list[str]:
        base, mine = _side(report, CHAMPION), report.candidate
        sides = base.figures(), mine.figures()
        rows = [
            f"| {words} | {_text(form, sides[0][key])} | {_text(form, sides[1][key])} |" for key, words, form in ROWS
        ]
        costs = [losses(report, side, self.cost).sum() / report.weeks for side in (base, mine)]
        rows.append(f"| cost of mistakes a week | {costs[0]:.1f} | {costs[1]:.1f} |")
        return ["| | before | after |", "|---|---:|---:|", *rows]

    def _differences(self, report: Report) -> list[str]:
        new, gone = self.alerts()
        lines = []
        for words, found in (("New alerts", new), ("Alerts that would be gone", gone)):
            if found:
                lines += [f"**{words}: {len(found)}**", "", *map(_alert, found[:SHOWN])]
                lines += [f"- … and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
                lines.append("")
        if lost := self.newly_missed():
            lines += [f"**Events that would be missed: {len(lost)}**", "", *map(_event, lost[:SHOWN]), ""]
        notes = [f"{report.drawn_of} series are recorded, {report.series} were drawn"]
        for note in (*(notes if report.drawn_of > report.series else []), *report.notes):
            lines += [f"_{note}._", ""]
        return lines

    def _keys(self) -> list[str]:
        if not self.keys:
            return []
        rows = [f"| `{key}` | {_cell(a)} | {_cell(b)} |" for key, (a, b) in list(self.keys.items())[:MOST_KEYS]]
        more = [f"| … and {len(self.keys) - MOST_KEYS} more | | |"] if len(self.keys) > MOST_KEYS else []
        head = [f"<details><summary>{len(self.keys)} settings differ</summary>", "", "| setting | before | after |"]
        return [*head, "|---|---|---|", *rows, *more, "", "</details>"]


def judge_change(
    before: Setup,
    after: Setup,
    data: HeldOut,
    *,
    rules: GateConfig | None = None,
    limits: EvaluationConfig | None = None,
    cases: Cases | None = None,
    processes: int = 1,
    progress: Show | None = None,
) -> Change:
    """Run both over the same points, each from nothing, and let the gate say whether the change may hold.

    Their families are trained on what is before the hold-out, in so many `processes`, as those of a run are.

    `rules` and costs are those from before, so that no change makes its own way through. Raises: StateError.
    """
    keys = differing(before, after)
    cost = before.objective.cost if before.objective else CostConfig()
    if not keys:
        return Change(cost=cost)
    shared: dict[str, Any] = {"limits": limits, "cases": cases, "processes": processes, "progress": progress}
    new, old = (
        Candidate("after", Settings(after.pipeline.detection, after.families)),
        Candidate("before", Settings(before.pipeline.detection, before.families)),
    )
    same = replace(before.pipeline, detection=after.pipeline.detection) == after.pipeline
    if same and before.objective == after.objective:  # one way through the data for all
        report = evaluate(new, data, after.pipeline, champion=old, objective=after.objective, **shared)
    else:
        report = evaluate(new, data, after.pipeline, objective=after.objective, **shared)
        base = evaluate(old, data, before.pipeline, objective=before.objective, **shared)
        side = replace(base.candidate, role=CHAMPION)
        notes = (*report.notes, *(one for one in base.notes if one not in report.notes))
        report = replace(report, budget=base.budget, notes=notes, sides=(report.candidate, side, *report.sides[1:]))
    return Change(keys=keys, report=report, verdict=gate(report, rules, cost), cost=cost)


def differing(before: Setup, after: Setup) -> dict[str, list[Any]]:
    """The settings that decide scores, alerts or the judgement, and differ: [before, after] by path."""

    def flat(tree: Any, path: str) -> dict[str, Any]:
        if isinstance(tree, dict) and tree:
            return {
                k: v for key, inner in tree.items() for k, v in flat(inner, f"{path}.{key}" if path else key).items()
            }
        return {path: tree}

    a, b = (flat(tree_of(one), "") for one in (before, after))
    a, b = ({key.removeprefix("pipeline."): value for key, value in one.items()} for one in (a, b))
    return {key: [a.get(key), b.get(key)] for key in sorted({*a, *b}) if a.get(key) != b.get(key)}


def of_file(
    path: Path, truth: Sequence[Label] = (), *, match: Objective | None = None, config: EvaluationConfig | None = None
) -> HeldOut:
    """The points of a CSV or Parquet file, the newest share of which is held out. Raises: BadInput.

    A series whose name is JSON, as in an export, has its labels; else it is a metric of that name.
    """
    table = TableFile(path)
    rows = np.concatenate([part.rows for part in table.parts()])
    rows = rows[rows["time_ns"] != NO_TIME]
    rows = rows[np.lexsort((rows["code"], rows["time_ns"]))]
    points = Points(rows["code"].astype(np.int32), rows["time_ns"].copy(), rows["value"].copy(), len(table.names))
    return _held([_labels(name).to_json() for name in table.names], points, truth, match, config, str(path))


def of_archive(
    directory: Path,
    truth: Sequence[Label] = (),
    *,
    match: Objective | None = None,
    config: EvaluationConfig | None = None,
    days: float = 30.0,
) -> HeldOut:
    """The newest recorded days of a data directory, the newest share of which is held out. Raises: BadInput."""
    archive = Archive(directory)
    texts = archive.series()
    if not texts:
        raise BadInput(f"{directory}: expected recorded points, got none")
    points = archive.points(texts)
    if len(points):
        first = int(np.searchsorted(points.time_ns, points.time_ns[-1] - round(days * 86_400 * S)))
        points = Points(points.code[first:], points.time_ns[first:], points.value[first:], points.series)
    return _held(texts, points, truth, match, config, str(directory))


def _held(
    texts: Sequence[str],
    points: Points,
    truth: Sequence[Label],
    match: Objective | None,
    config: EvaluationConfig | None,
    where: str,
) -> HeldOut:
    config = config or EvaluationConfig()
    inside = [k for k, one in enumerate(texts) if match is None or match.matches(Labels.from_json(one))]
    if not inside or not len(points):
        raise BadInput(f"{where}: expected recorded points{' in scope' if match else ''}, got none")
    drawn = inside
    if len(points) * len(inside) / len(texts) > config.most_points:
        most = max(1, int(len(texts) * config.most_points / len(points)))
        chosen = np.random.default_rng(config.seed).choice(len(inside), min(most, len(inside)), replace=False)
        drawn = [inside[k] for k in sorted(chosen.tolist())]
    kept = points.of(drawn)
    if not len(kept):
        raise BadInput(f"{where}: expected recorded points in scope, got none")
    first_ns, last_ns = int(kept.time_ns[0]), int(kept.time_ns[-1]) + 1
    since_ns = last_ns - round(config.holdout * (last_ns - first_ns))
    recording = recording_of(kept, [texts[k] for k in drawn], since_ns, last_ns)
    return HeldOut(recording=recording, truth=tuple(truth), drawn_of=len(inside))


def _labels(name: str) -> Labels:
    try:
        return Labels.from_json(name)
    except ValueError:
        return Labels(name)


def _side(report: Report, role: str) -> Side:
    found = report.side(role)
    assert found is not None, role
    return found


def _without(alerts: Sequence[Alert], others: Sequence[Alert], slack_ns: int) -> tuple[Alert, ...]:
    """Alerts that none of the others is at the same time of the same series or service."""
    found = []
    for one in alerts:
        near = (
            other.start_ns - slack_ns <= one.end_ns and other.end_ns + slack_ns >= one.start_ns
            for other in others
            if other.series == one.series or (one.service and other.service == one.service)
        )
        if not any(near):
            found.append(one)
    return tuple(found)


def _alert(one: Alert) -> str:
    known = " (a known event)" if one.true else " (called false)" if one.called_false else ""
    return f"- {_moment(one.start_ns)} `{_plain(series_text(one.series))}`, {one.peak:.1f} thresholds{known}"


def _event(one: Event) -> str:
    where = ", ".join((*one.services, *map(series_text, one.series))) or "all"
    return f"- {_moment(one.start_ns)} {_plain(one.name)}, `{_plain(where)}`"


def _moment(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / S, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _plain(text: str) -> str:
    """Names that come with telemetry are no Markdown."""
    return text.replace("`", "'").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")[:200]


def _cell(value: Any) -> str:
    return f"`{_plain(str(value))}`" if value not in (None, "") else ""


def _text(form: str, value: float) -> str:
    return form.format(value) if math.isfinite(value) else "-"
