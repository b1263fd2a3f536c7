"""Alerting: verdicts move thresholds and what is shown, and come back from the log and from a state as they were."""

from __future__ import annotations

import numpy as np
import pytest

from otel_aiops.detect.alerting import MOST_TOLD, Alerting
from otel_aiops.detect.budget import Alerted, BudgetConfig
from otel_aiops.detect.detector import Scores
from otel_aiops.detect.lessons import Lesson, Verdict
from otel_aiops.errors import BadInput, StateError
from otel_aiops.labels import Labels
from otel_aiops.series.batch import Batch

BEGIN_S = 1_700_000_000
ROWS = np.arange(4, dtype=np.int32)


def made() -> Alerting:
    alerting = Alerting([BudgetConfig(name="fixed", floor=1.0, ceiling=1.0)], "1/day", lambda rows: rows.astype("u8"))
    alerting.assign(ROWS, [Labels("cpu" if k < 3 else "disk") for k in range(4)])
    return alerting


def judge(alerting: Alerting, at_s: int, alert: list[float]) -> Alerted:
    absent = np.full(4, np.nan)
    values = np.array(alert)
    scores = Scores(values, absent, absent, absent, absent, np.zeros(4, np.uint8), np.zeros(4), values)
    now_ns = (BEGIN_S + at_s) * 10**9
    return alerting.judge(Batch(ROWS, np.full(4, now_ns), absent, absent), scores, event_ns=now_ns)


def verdict(series: int = 0, kind: str = "false_alert", ratio: float = 1.3) -> Verdict:
    return Verdict(
        series=series, time_ns=1, kind=kind, ratio=ratio, source="alert", by="ann", note="a test", given_ns=2
    )


def test_without_verdicts_nothing_is_moved() -> None:
    alerted = judge(made(), 0, [1.3, 0, 0, 0])
    assert alerted.shift is None and alerted.opened.tolist() == [True, False, False, False]
    assert alerted.ratio[0] == pytest.approx(1.3)


def test_false_alerts_raise_the_threshold_of_their_series_most_and_not_of_other_metrics() -> None:
    alerting = made()
    assert alerting.learn([verdict() for _ in range(4)], [0] * 4) == 4
    alerted = judge(alerting, 0, [1.3, 1.3, 1.3, 1.3])
    assert alerted.shift is not None
    own, kin, other = alerted.shift[0], alerted.shift[1], alerted.shift[3]
    assert own > kin > other == 0 and alerting.shift(0) == own
    assert alerted.opened.tolist() == [False, True, True, True]
    assert alerted.ratio[0] == pytest.approx(1.3 * np.exp(-own))
    assert judge(alerting, 60, [5.0, 0, 0, 0]).opened[0], "what is much worse is an alert still"


def test_missed_ones_lower_it() -> None:
    alerting = made()
    alerting.learn([verdict(kind="missed", ratio=0.8) for _ in range(4)], [0] * 4)
    assert judge(alerting, 0, [0.8, 0, 0, 0]).opened[0]


def test_verdicts_on_series_that_are_gone_are_shown_and_teach_nothing() -> None:
    alerting = made()
    assert alerting.learn([verdict(series=9)], [None]) == 0
    assert [one.series for one in alerting.told()] == [9] and alerting.shift(0) == 0
    alerting.learn([verdict(series=k) for k in range(MOST_TOLD + 5)], [None] * (MOST_TOLD + 5))
    assert len(alerting.told()) == MOST_TOLD and alerting.told()[0].series == MOST_TOLD + 4


def test_a_row_that_is_given_away_starts_anew() -> None:
    alerting = made()
    alerting.learn([verdict()], [0])
    judge(alerting, 0, [9.0, 0, 0, 0])
    assert len(alerting.ledger.active()) == 1
    alerting.forget(ROWS[:1])
    assert not alerting.ledger.active()
    assert [alerting.shift(0), alerting.shift(1)] == pytest.approx([0, 0], abs=1e-12)


def test_an_alert_of_a_series_that_ended_is_another_one_when_it_is_back() -> None:
    alerting = made()
    assert judge(alerting, 0, [9.0, 0, 0, 0]).opened[0]
    alerting.end(ROWS[:1])
    assert judge(alerting, 60, [9.0, 0, 0, 0]).opened[0]


def test_restored_midway_it_goes_on_bit_for_bit() -> None:
    one, other, rng = made(), made(), np.random.default_rng(0)
    for k in range(80):
        if k % 9 == 0:
            for alerting in (one, other) if k > 40 else (one,):
                alerting.learn([verdict(series=k % 4, ratio=float(1 + k % 3))], [k % 4])
        alert = np.where(rng.random(4) < 0.3, rng.pareto(1.0, 4), 0.0).tolist()
        expected = judge(one, 600 * k, alert)
        if k == 40:
            other.restore(one.state())
            other.assign(ROWS, [Labels("cpu" if k < 3 else "disk") for k in range(4)])
        elif k > 40:
            assert judge(other, 600 * k, alert).ratio.tobytes() == expected.ratio.tobytes()
    a, b = one.state(), other.state()
    assert set(a) == set(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)
    assert one.told() == other.told()


def test_states_that_do_not_fit_are_refused_and_none_is_a_beginning() -> None:
    alerting = made()
    alerting.restore({})
    alerting.learn([verdict()], [0])
    state = alerting.state()
    with pytest.raises(StateError, match="other"):
        made().restore({**state, "other/x": np.zeros(1)})
    with pytest.raises(StateError, match="told"):
        made().restore({**state, "told/bytes": np.full(len(state["told/bytes"]), 65, np.uint8)})


class TestLessons:
    def test_come_back_as_they_went(self) -> None:
        lesson = Lesson((verdict(ratio=0.1 + 0.2), verdict(series=2**64 - 1, kind="missed")))
        assert Lesson.from_bytes(lesson.to_bytes()) == lesson and len(lesson) == 2
        assert Lesson.from_bytes(b'{"of_another_version": [1]}') == Lesson()

    @pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"verdicts": [{}]}', b'{"verdicts": [3]}'])
    def test_that_cannot_be_read_are_bad_input(self, data: bytes) -> None:
        with pytest.raises(BadInput, match="expected"):
            Lesson.from_bytes(data)

    @pytest.mark.parametrize("change", [{"verdict": "maybe"}, {"ratio": -1}, {"ratio": float("inf")}])
    def test_that_make_no_sense_are_bad_input(self, change: dict[str, object]) -> None:
        with pytest.raises(BadInput, match="ratio >= 0"):
            Verdict.from_json({**verdict().to_json(), **change})
