"""The road with spans and records: made points are scored, alerts become findings, incidents come out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from otel_aiops.errors import BadInput
from otel_aiops.incidents.incident import Channel, Incident, State
from otel_aiops.incidents.suppress import Action, Decision
from otel_aiops.pipeline import Pipeline, PipelineConfig, Step
from otel_aiops.series.columns import Arrays
from tests.incidents.stream import CALM, CONFIG, Body, bodies
from tests.incidents.town import SLOT_NS, Wrong
from tests.signals.made_spans import S, Sent, spans_of
from tests.test_pipeline import PODS, WARM, Cluster

LASTS = 6
CAME = bodies({CALM + k: Wrong(fails={"bank": 0.6}) for k in range(LASTS)}, CALM + LASTS)


def made() -> Pipeline:
    return Pipeline(PipelineConfig(analysis=CONFIG))


def take(pipeline: Pipeline, body: Body) -> list[Step]:
    """A body of each signal."""
    return [
        pipeline.logs(body.logs, now_ns=body.event_ns),
        pipeline.traces(body.spans, now_ns=body.event_ns),
        pipeline.tick(now_ns=body.event_ns + SLOT_NS // 2),
    ]


def bits(arrays: Arrays) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


class TestSignals:
    def test_an_incident_comes_out_and_points_that_are_made_are_scored(self) -> None:
        pipeline = made()
        steps = [step for body in CAME for step in take(pipeline, body)]
        found = [incident for step in steps for incident in step.incidents]
        assert found[0].state == State.OPEN and found[0].suspects[0].service == "bank"
        scored = {int(row) for step in steps for one in step.scored for row in one.batch.rows}
        labels = [pipeline.table.labels(row) for row in scored]
        assert {one.scope_name for one in labels} >= {"otel_aiops.traces"}
        assert {"web", "pay", "bank"} <= {one.service for one in labels}
        assert sum(step.counts.get("scored", 0) for step in steps) > 100
        drawn = [one for suspect in found[-1].suspects for one in suspect.evidence if one.channel == Channel.ERRORS]
        assert drawn and {one.service for one in drawn} == {"bank"}
        for one in drawn:
            row = pipeline.table.find(int(one.series, 16))
            assert row is not None
            shown = pipeline.table.labels(row)
            assert shown.name == "traces.span.metrics.errors" and shown.service == "bank"
            assert dict(shown.attributes)["span.name"] == one.what and one.after > one.before
            assert one.count > 0 and all(len(trace) == 32 for trace in one.traces) and one.traces
        (told,) = pipeline.decide(
            Decision(action=Action.ACKNOWLEDGE, incident=found[0].id, time_ns=pipeline.event_ns, who="me")
        ).incidents
        assert told.state == State.ACKNOWLEDGED
        with pytest.raises(BadInput):
            pipeline.decide(Decision(action=Action.RESOLVE, incident="x", time_ns=1, who="me"))

    def test_each_body_says_how_much_was_in_it(self) -> None:
        pipeline, body = made(), CAME[0]
        assert pipeline.traces(body.spans, now_ns=body.event_ns).counts["spans"] == len(body.spans)
        assert pipeline.logs(body.logs, now_ns=body.event_ns).counts["records"] == len(body.logs)
        assert pipeline.event_ns == int(body.spans.end_ns.max())

    @pytest.mark.parametrize("cut", [4, CALM + 2])
    def test_restored_midway_everything_goes_on_bit_for_bit(self, cut: int) -> None:
        whole, second = made(), made()
        for body in CAME[:cut]:
            take(whole, body)
        whole.traces(CAME[cut].spans, now_ns=CAME[cut].event_ns)
        second.restore(whole.state())
        for body in CAME[cut + 1 : cut + 5]:
            for one, other in zip(take(whole, body), take(second, body), strict=True):
                assert repr(one.incidents) == repr(other.incidents) and one.counts == other.counts
                for a, b in zip(one.batches(), other.batches(), strict=True):
                    assert a.scores.score.tobytes() == b.scores.score.tobytes()
        assert bits(whole.state()) == bits(second.state())

    def test_a_state_from_before_there_was_an_analysis(self) -> None:
        cluster, fresh = Cluster().warm(3), Cluster()
        old = {name: array for name, array in cluster.pipeline.state().items() if not name.startswith("analysis/")}
        fresh.pipeline.restore(old)
        assert fresh.pipeline.event_ns == cluster.pipeline.event_ns

    def test_bodies_with_nothing_in_them_and_a_clock_that_is_ahead(self) -> None:
        pipeline, body = made(), CAME[0]
        columns = ("resource", "time_ns", "severity", "trace_high", "trace_low", "span")
        empty = {name: getattr(body.logs, name)[:0] for name in columns}
        logs = replace(body.logs, bodies=[], event_name=[], **empty)  # type: ignore[arg-type]
        now = body.event_ns
        assert pipeline.traces(spans_of([]), now_ns=now).counts["spans"] == 0
        assert pipeline.logs(logs, now_ns=now).counts["records"] == 0
        pipeline.traces(spans_of([Sent(1, 1, start_ns=2**62, end_ns=2**62 + 9)]), now_ns=now)
        assert pipeline.event_ns == now, "never ahead of the clock of the receiver"
        for k in range(1, 9):
            pipeline.tick(now_ns=now + k * 5 * S)
        assert len(pipeline.analysis.traces) == 0


def told(steps: list[Step]) -> list[Incident]:
    return [incident for step in steps for incident in step.incidents]


class TestAlerts:
    def test_enough_series_of_a_service_open_an_incident(self) -> None:
        cluster = Cluster().warm(WARM)
        assert not told([cluster.step() for _ in range(4)])
        found = told([cluster.step(load=6.0) for _ in range(4)])
        assert found and found[0].services == ("cart",) and found[0].state == State.OPEN
        finding = next(one for one in found[-1].findings if one.channel == Channel.SERIES)
        row = next(r for r in map(cluster.row, PODS) if f"{_fingerprint(cluster, r):016x}" == finding.evidence.series)
        assert finding.evidence.what == "cpu" and finding.evidence.resource in PODS
        assert finding.evidence.text and cluster.watch.alert(row) is not None

    def test_one_series_alone_does_not(self) -> None:
        cluster = Cluster().warm(WARM)
        steps = [cluster.step(cart_0=6.0) for _ in range(4)]
        assert cluster.pipeline.alerting.ledger.active() and not told(steps)

    def test_what_is_over_is_over_for_the_incident_too(self) -> None:
        cluster = Cluster().warm(WARM)
        opened = told([cluster.step(load=6.0) for _ in range(3)])[0]
        found = told([cluster.step() for _ in range(40)])
        assert found[-1].id == opened.id and found[-1].state == State.RESOLVED

    def test_series_that_stop_together_are_one_incident(self) -> None:
        cluster = Cluster().warm(WARM)
        last_ns = cluster.pipeline.event_ns
        found = told([cluster.pipeline.tick(now_ns=last_ns + k * 15 * S) for k in range(1, 60)])
        assert len({one.id for one in found}) == 1 and found[0].services == ("cart",)
        assert {finding.channel for finding in found[0].findings} == {Channel.SILENCE}

    def test_rows_that_are_given_away_have_no_finding(self) -> None:
        cluster = Cluster().warm(WARM)
        cluster.step(load=6.0)
        analysis = cluster.pipeline.analysis
        before = len(analysis.alerted.lasting())
        rows = np.arange(len(cluster.pipeline.table), dtype=np.int32)
        assert before > 2
        analysis.forget(rows[: len(rows) // 2])
        assert 0 < len(analysis.alerted.lasting()) < before
        analysis.forget(rows)
        assert not analysis.alerted.lasting()


def _fingerprint(cluster: Cluster, row: int) -> int:
    return int(cluster.pipeline.table.fingerprint(np.array([row], np.int32))[0])
