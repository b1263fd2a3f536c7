"""Verdicts: each kind as label, exclusion and case, and what all of them change, measured on what came later."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from otel_aiops.detect.engine import EngineConfig
from otel_aiops.detect.lessons import Lesson, Verdict
from otel_aiops.errors import BadInput
from otel_aiops.incidents.incident import Incident, Severity, State
from otel_aiops.incidents.journal import Journal, JournalConfig
from otel_aiops.incidents.suppress import Action, Decision
from otel_aiops.labels import Labels
from otel_aiops.lifecycle import sources
from otel_aiops.lifecycle.cases import Cases, look
from otel_aiops.lifecycle.evaluate import Candidate, HeldOut, early_lessons, evaluate, recording_of
from otel_aiops.lifecycle.events import Opened, alerts_of, precision
from otel_aiops.lifecycle.page import page
from otel_aiops.lifecycle.play import Beginning
from otel_aiops.lifecycle.report import Report
from otel_aiops.lifecycle.truth import ANOMALY, DUPLICATE, EXPECTED, NORMAL, Label, selector
from otel_aiops.lifecycle.version import Settings
from otel_aiops.pipeline import PipelineConfig
from tests.lifecycle import held
from tests.lifecycle.recording import SERIES

S = 1_000_000_000
T0 = 1_700_000_000
PLAIN = EngineConfig(novelty_memory=0, seasons="week")
CONFIG = PipelineConfig(budget="4/day", detection=PLAIN)


def verdict(kind: str, at_s: float = T0, **more: object) -> Verdict:
    return Verdict(series=7, time_ns=round(at_s * S), kind=kind, ratio=1.5, **more)  # type: ignore[arg-type]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    found = Journal(JournalConfig(), tmp_path)
    found.open()
    return found


def incident(name: str, at_s: float, service: str = "cart") -> Incident:
    return Incident(
        id=name,
        revision=1,
        state=State.RESOLVED,
        severity=Severity.WARNING,
        start_ns=round(at_s * S),
        detected_ns=round(at_s * S),
        end_ns=round((at_s + 600) * S),
        services=(service,),
    )


# --- what each kind means --------------------------------------------------------------------------------------------


def test_verdicts_are_written_as_before_unless_they_say_more() -> None:
    plain, more = verdict("false_alert"), verdict("duplicate", incident="INC-2", of="INC-1")
    assert "of" not in plain.to_json() and "incident" not in plain.to_json()
    assert Lesson.from_bytes(Lesson((plain, more)).to_bytes()).verdicts == (plain, more)
    with pytest.raises(BadInput, match="expected one of true_alert"):
        Verdict.from_json({**plain.to_json(), "verdict": "odd"})


def test_a_verdict_on_a_series_becomes_a_label_of_its_kind(journal: Journal) -> None:
    for k, kind in enumerate(("true_alert", "false_alert", "duplicate", "expected")):
        journal.judged(verdict(kind, T0 + 5_000 * k), SERIES[0])
    found = sources.of_journal(journal, T0 * S - S, (T0 + 90_000) * S)
    assert [one.kind for one in sorted(found.labels)] == [ANOMALY, NORMAL, DUPLICATE, EXPECTED]
    (left_out,) = found.exclusions  # only what was expected
    assert left_out.source == "expected" and left_out.start_ns < (T0 + 15_000) * S < left_out.end_ns
    chosen = selector(dict(left_out.match))
    assert [chosen.matches(Labels.from_json(one)) for one in SERIES] == [True] + [False] * (len(SERIES) - 1)


def test_a_verdict_on_an_incident_decides_what_its_label_is(journal: Journal) -> None:
    names = [f"INC-{k}" for k in range(5)]
    journal.append([incident(name, T0 + 5_000 * k) for k, name in enumerate(names)], T0 * S)
    for name, kind in zip(names, ("true_alert", "false_alert", "duplicate", "expected"), strict=False):
        journal.judged(replace(verdict(kind), series=0, incident=name, of="INC-0" if kind == "duplicate" else ""), "")
    for name in names:
        about = {"who": "ann", "why": "", "time_ns": T0 * S}
        journal.decided(Decision(action=Action.ACKNOWLEDGE, incident=name, **about))  # type: ignore[arg-type]
    found = sources.of_journal(journal, T0 * S - S, (T0 + 90_000) * S)
    kinds = {one.note: (one.kind, one.confidence) for one in found.labels}
    assert [kinds[name] for name in names] == [
        *((ANOMALY, 1.0), (NORMAL, 1.0), (DUPLICATE, 1.0), (EXPECTED, 1.0), (ANOMALY, 1.0))
    ]
    assert {one.reason: one.source for one in found.exclusions} == {
        **dict.fromkeys(("INC-0", "INC-2", "INC-4"), "incident"),
        "INC-3": "expected",  # and INC-1, acknowledged but false, stays in
    }
    assert len(found.labels) == len(names)


def test_a_duplicate_is_neither_true_nor_false() -> None:
    def opened(at_s: float) -> Opened:
        return Opened("a", "cart", round(at_s * S), round((at_s + 60) * S), 2.0, "level", True)

    def label(at_s: float, kind: str) -> Label:
        return Label(start_ns=round((at_s - 10) * S), end_ns=round((at_s + 600) * S), series="a", kind=kind)

    labels = [label(T0, DUPLICATE), label(T0 + 5_000, EXPECTED), label(T0 + 9_000, NORMAL)]
    found = alerts_of([opened(T0 + k) for k in (0, 5_000, 9_000, 20_000)], [], labels, 0)
    assert [(one.duplicate, one.called_false) for one in found] == [
        *((True, False), (False, True), (False, True), (False, False))
    ]
    assert precision(found[:1]) != precision(found[:1]) and precision(found) == 0


def test_a_case_of_something_expected_wants_no_alert_and_a_duplicate_is_always_right(tmp_path: Path) -> None:
    time_ns = (T0 + 60 * np.arange(400)) * S
    value = np.random.default_rng(0).normal(100, 2, 400)
    value[300:310] += 500
    cases = Cases(tmp_path)
    at_s = T0 + 300 * 60
    for kind in ("true_alert", "expected", "duplicate"):
        assert cases.freeze(SERIES[0], verdict(kind, at_s), time_ns, value)
    found = look(cases, Beginning(PLAIN), PipelineConfig(detection=PLAIN), 1.0, 2**62)
    assert {one.kind: one.right for one in found} == {"true_alert": True, "expected": False, "duplicate": True}
    found = look(cases, Beginning(PLAIN), PipelineConfig(detection=PLAIN), 1e9, 2**62)
    assert {one.kind: one.right for one in found} == {"true_alert": False, "expected": True, "duplicate": True}


# --- what they change ------------------------------------------------------------------------------------------------

MANY = 10  # series; each but the first two jumps once before the hold-out and once in it, and nobody needs to know
DRAW = np.random.default_rng(1)
BEFORE = tuple(zip(DRAW.uniform(2.2, 3.1, MANY).tolist(), range(2, MANY), strict=False))
AFTER = tuple(zip(DRAW.uniform(3.3, 4.9, MANY).tolist(), range(2, MANY), strict=False))


@pytest.fixture(scope="module")
def jumping() -> HeldOut:
    real = ((3.9, 0), (4.4, 1))
    points = held.points(5.0, MANY, real)
    values = points.value.reshape(-1, MANY)
    for day, k in BEFORE + AFTER:
        first = round(day * 86_400 / held.STEP_S)
        values[first : first + held.LASTS, k] += 25
    points = replace(points, value=values.ravel())
    texts = [held.labels_of(k).to_json() for k in range(MANY)]
    start_ns, end_ns = held.START_NS + round(3.2 * held.DAY_NS), held.START_NS + 5 * held.DAY_NS
    return HeldOut(recording=recording_of(points, texts, start_ns, end_ns), truth=held.truth(real))


def lessons(data: HeldOut, *, given_ns: int = 0) -> list[tuple[str, Verdict]]:
    """What people said of the jumps before the hold-out, and of two in it."""
    return [
        (
            data.recording.texts[k],
            Verdict(
                series=k,
                time_ns=held.START_NS + round(day * held.DAY_NS),
                kind="false_alert",
                ratio=1.5,
                given_ns=given_ns,
            ),
        )
        for day, k in BEFORE + AFTER[:2]
    ]


@pytest.fixture(scope="module")
def report(jumping: HeldOut) -> Report:
    return evaluate(Candidate("c", Settings(PLAIN)), jumping, CONFIG, lessons=lessons(jumping), kinds=())


def test_the_report_states_what_verdicts_changed(jumping: HeldOut, report: Report) -> None:
    feedback = report.feedback
    assert feedback is not None and feedback.kinds == {"false_alert": 8} and feedback.late == 2
    assert feedback.taught["false_a_week"] < feedback.without["false_a_week"]
    assert feedback.taught["recall"] == feedback.without["recall"] == 1
    assert feedback.sentence().startswith("8 verdicts: false alerts ") and "→" in feedback.sentence()
    assert "2 came too late to be measured" in feedback.sentence()
    assert feedback.sentence() in page(report)
    assert report.candidate.figures()["false_a_week"] == feedback.taught["false_a_week"]  # as it would be served
    assert str(Report.from_json(report.to_json()).feedback) == str(feedback)  # of which NaN is a part


def test_without_verdicts_nothing_is_said_and_reports_of_before_are_read(jumping: HeldOut, report: Report) -> None:
    tree = report.to_json()
    del tree["feedback"]
    assert Report.from_json(tree).feedback is None
    plain = evaluate(Candidate("c", Settings(PLAIN)), jumping, CONFIG, kinds=())
    assert plain.feedback is None
    assert report.feedback is not None
    assert plain.candidate.figures()["false_a_week"] == report.feedback.without["false_a_week"]


def test_what_was_said_after_the_hold_out_began_teaches_nothing(jumping: HeldOut) -> None:
    since_ns = jumping.recording.since_ns
    late = lessons(jumping, given_ns=since_ns)
    assert early_lessons(late, since_ns) == () and len(early_lessons(lessons(jumping), since_ns)) == 8
    found = evaluate(Candidate("c", Settings(PLAIN)), jumping, CONFIG, lessons=late, kinds=()).feedback
    assert found is not None and found.verdicts == 0 and str(found.without) == str(found.taught)
    assert found.sentence() == "no verdict is from before the hold-out; 10 came too late to be measured"
