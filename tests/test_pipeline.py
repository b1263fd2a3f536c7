"""The road with many pods: peers beside each other, services as a whole, new pods, and the state of all that."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_aiops.detect.budget import Alerted, BudgetConfig
from otel_aiops.detect.detector import CHANNELS
from otel_aiops.detect.engine import EngineConfig
from otel_aiops.detect.joint import JointConfig
from otel_aiops.detect.lessons import Lesson, Verdict
from otel_aiops.detect.peers import PeersConfig
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.memo import Memo
from otel_aiops.otlp.points import Points
from otel_aiops.pipeline import Pipeline, PipelineConfig, Step
from otel_aiops.series.table import TableConfig
from otel_aiops.watch import Watch
from tests.feed import Feed, ns

START_S, STEP_S = 1_700_000_000, 15
WARM = 40  # steps
PODS = tuple(f"cart-{k}" for k in range(5))


def points(time_s: float, values: Mapping[str, float], service: str = "cart") -> Points:
    """A gauge of each pod."""
    request = Feed(service).request
    del request.resource_metrics[:]
    for pod, value in values.items():
        one = Feed(service, **{"k8s.pod.name": pod}).gauge("cpu", time_s, value, unit="s").request
        request.resource_metrics.extend(one.resource_metrics)
    return decode_metrics(request.SerializeToString(), Memo()).points


class Cluster:
    """A pipeline that is fed by pods with a little noise, which some leave."""

    def __init__(self, config: PipelineConfig | None = None) -> None:
        self.pipeline = Pipeline(config or PipelineConfig(peers=PeersConfig(interval=10)))
        self.watch = Watch(CHANNELS, self.pipeline.reason)
        self.k = 0

    def step(self, pods: tuple[str, ...] = PODS, *, load: float = 1.0, **times: float) -> Step:
        """One point of every pod; `load` is a factor for all, `times` are those by pod, with _ for -."""
        noise = np.random.default_rng(self.k).normal(1, 0.02, len(pods))
        factors = [load * times.get(pod.replace("-", "_"), 1.0) for pod in pods]
        values = dict(zip(pods, (100 * noise * factors).tolist(), strict=True))
        time_s = START_S + self.k * STEP_S
        step = self.pipeline.metrics(points(time_s, values), now_ns=ns(time_s))
        self.watch.follow(step)
        self.k += 1
        return step

    def warm(self, steps: int = WARM) -> Cluster:
        for _ in range(steps):
            self.step()
        return self

    def row(self, pod: str) -> int:
        table = self.pipeline.table
        (row,) = (r for r in table.live().tolist() if dict(table.labels(r).resource)["k8s.pod.name"] == pod)
        return int(row)


def score_of(step: Step, row: int) -> float:
    """Of the point of a row by all that is known."""
    return next(float(s.scores.score[s.batch.rows == row][0]) for s in step.scored if row in s.batch.rows)


class TestPeers:
    def test_a_pod_that_drifts_away_is_flagged_and_the_healthy_ones_are_not(self) -> None:
        cluster, found = Cluster(), []
        load = np.random.default_rng(7).lognormal(0, 0.4, 200).tolist()  # of all pods, so wide that no band shows it
        for k in range(200):
            step = cluster.step(load=load[k], cart_2=1 + 0.01 * max(k - 100, 0))
            found += [one for one in cluster.watch.anomalies() if k >= 100]
        row = cluster.row("cart-2")
        assert {one.row for one in found if one.channel == "peers"} == {row}
        reasons = [one.reason for one in found if one.channel == "peers"]
        assert any("times the median of its 4 peers" in reason for reason in reasons)
        assert score_of(step, row) >= 1
        assert cluster.watch.latest(row) is not None and step.peers is not None

    def test_what_peers_say_holds_until_the_pod_is_back(self) -> None:
        cluster = Cluster().warm()
        row = cluster.row("cart-0")
        departed = [cluster.step(cart_0=4.0).departed for _ in range(8)]
        assert sum(one is not None for one in departed) <= 1, "it departs once, its points say so from then on"
        step = cluster.step(cart_0=4.0)
        assert score_of(step, row) > 1 and (anomaly := cluster.watch.anomaly(row)) is not None
        assert anomaly.since_ns <= ns(START_S + (WARM + 1) * STEP_S)
        for _ in range(12):
            step = cluster.step()
        assert score_of(step, row) < 1 and cluster.watch.anomaly(row) is None

    def test_points_between_two_comparisons_count_as_the_last_one_said(self) -> None:
        cluster = Cluster(PipelineConfig(peers=PeersConfig(interval=120))).warm(130)
        row = cluster.row("cart-1")
        steps = [cluster.step(cart_1=1 + 0.05 * k) for k in range(40)]
        compared = [k for k, step in enumerate(steps) if step.peers is not None]
        assert np.diff(compared).min() >= 7
        (first,) = [k for k, step in enumerate(steps) if step.departed is not None and row in step.departed.batch.rows][
            :1
        ] or [39]
        assert all(score_of(step, row) >= 1 for step in steps[first + 1 :])

    def test_disabled_there_is_nothing(self) -> None:
        config = PipelineConfig(joint=JointConfig(enabled=False), peers=PeersConfig(enabled=False))
        cluster = Cluster(config).warm(30)
        step = cluster.step((*PODS, "cart-new"), cart_0=4.0)
        assert step.groups is None and step.peers is None and step.departed is None
        assert np.isnan(score_of(step, cluster.row("cart-new")))
        assert not [name for name in cluster.pipeline.state() if name.startswith("groups/")]


class TestJoint:
    def test_services_are_scored_and_named(self) -> None:
        cluster = Cluster().warm()
        quiet = cluster.watch.together(0)
        for _ in range(3):
            cluster.step(cart_0=1.3, cart_1=1.3, cart_2=1.3, cart_3=1.3, cart_4=1.3)
        (one,) = cluster.watch.together(0)
        assert len(quiet) == 1 and quiet[0].score < 1 <= one.score
        assert set(one.rows) == {cluster.row(pod) for pod in PODS}
        joint = cluster.pipeline.groups.joint
        assert joint is not None and "5 of 5 series are unusual" in joint.reason(one.scores, one.k, str)

    def test_a_group_whose_series_are_reclaimed_is_forgotten(self) -> None:
        table = TableConfig(max_series=5, reclaim_after=600)
        cluster = Cluster(PipelineConfig(series=table)).warm()
        cluster.k += 1000
        names = tuple(f"{pod}-b" for pod in PODS)
        step = cluster.step(names)
        assert len(step.reclaimed) and not cluster.watch.together(0)
        for _ in range(3):
            cluster.step(names)
        assert len(cluster.pipeline.state()["groups/services"]) == 1


class TestNewPods:
    POD = "cart-new"

    @pytest.mark.parametrize("level", [1.0, 0.7, 1.3])
    def test_are_scored_at_once_and_a_healthy_one_is_not_anomalous(self, level: float) -> None:
        cluster = Cluster().warm()
        scores = []
        for _ in range(40):
            step = cluster.step((*PODS, self.POD), cart_new=level)
            scores.append(score_of(step, cluster.row(self.POD)))
        assert not np.isnan(scores).any()
        assert sum(score >= 1 for score in scores) == 0

    def test_say_from_whom_they_learned_until_they_are_warm(self) -> None:
        cluster = Cluster().warm()
        cluster.step((*PODS, self.POD))
        row = cluster.row(self.POD)
        note = cluster.pipeline.note(row)
        assert note.startswith('Scored by what was learned of cpu{k8s.pod.name="cart-') and "15 more points" in note
        for _ in range(20):
            cluster.step((*PODS, self.POD))
        assert cluster.pipeline.note(row) == "Within its band."

    def test_one_that_is_broken_from_its_start_is_flagged_and_stays_so(self) -> None:
        cluster = Cluster().warm()
        scores = []
        for _ in range(30):
            step = cluster.step((*PODS, self.POD), cart_new=8.0)
            scores.append(score_of(step, cluster.row(self.POD)))
        assert min(scores) >= 1

    def test_the_first_of_its_kind_begins_with_nothing(self) -> None:
        cluster = Cluster().warm()
        time_s = START_S + cluster.k * STEP_S
        step = cluster.pipeline.metrics(points(time_s, {"web-0": 5.0}, "web"), now_ns=ns(time_s))
        assert np.isnan(score_of(step, cluster.row("web-0")))
        assert "Still learning" in cluster.pipeline.note(cluster.row("web-0"))

    def test_one_whose_model_is_gone_says_so(self) -> None:
        cluster = Cluster().warm()
        cluster.step((*PODS, self.POD))
        cluster.pipeline.engine.forget(np.arange(5, dtype=np.int32))
        assert "a peer that is gone" in cluster.pipeline.note(cluster.row(self.POD))


class TestState:
    @pytest.mark.parametrize("cut", [10, WARM + 3])
    def test_restored_midway_everything_goes_on_bit_for_bit(self, cut: int) -> None:
        whole, second = Cluster(), Cluster()

        def act(cluster: Cluster) -> Step:
            late = cluster.k >= WARM
            return cluster.step((*PODS, "cart-new") if late else PODS, cart_1=3.0 if late else 1.0)

        for k in range(WARM + 20):
            expected = act(whole)
            if k == cut:
                second.pipeline.restore(whole.pipeline.state())
                second.k = whole.k
            elif k > cut:
                found = act(second)
                assert [score_of(found, r) for r in range(5)] == [score_of(expected, r) for r in range(5)] or k < 20
                assert (found.departed is None) == (expected.departed is None)
        a, b = whole.pipeline.state(), second.pipeline.state()
        assert set(a) == set(b)
        assert all(a[name].tobytes() == b[name].tobytes() for name in a)

    def test_groups_are_made_anew_for_a_state_without_them(self) -> None:
        off = Cluster(PipelineConfig(joint=JointConfig(enabled=False), peers=PeersConfig(enabled=False))).warm(3)
        on = Cluster()
        on.pipeline.restore(off.pipeline.state())
        fresh = Cluster().warm(3)
        for name in ("groups/kin", "groups/services", "groups/peers/row_group", "groups/joint/row_group"):
            assert on.pipeline.state()[name].tolist() == fresh.pipeline.state()[name].tolist()
        off.pipeline.restore(on.pipeline.state())  # and what is not enabled is left out
        assert not [name for name in off.pipeline.state() if name.startswith("groups/")]


class Lab:
    """A pipeline that is fed points of many series of a service each, without any body in between."""

    def __init__(self, config: PipelineConfig, *, series: int = 8, interval_s: int = 1200) -> None:
        detection = EngineConfig(warmup_points=20)
        quiet = {"joint": JointConfig(enabled=False), "peers": PeersConfig(enabled=False)}
        self.pipeline = Pipeline(replace(config, detection=detection, **quiet))  # type: ignore[arg-type]
        self.series, self.interval_s, self.k = series, interval_s, 0
        self.rng = np.random.default_rng(0)
        feed = ExportMetricsServiceRequest()
        for k in range(series):
            one = Feed(f"s{k}").gauge(f"m{k % 2}", 1.0, 0.0).request
            feed.resource_metrics.extend(one.resource_metrics)
        self.points = decode_metrics(feed.SerializeToString(), Memo()).points

    def step(self, value: np.ndarray) -> Step:
        now_ns = ns(START_S + self.k * self.interval_s)
        points = replace(self.points, time_ns=np.full(self.series, now_ns, np.int64), value=value)
        self.k += 1
        return self.pipeline.metrics(points, now_ns=now_ns)

    def noisy(self, chance: float = 0.02) -> Step:
        """A step of noise, with spikes of all sizes now and then."""
        spikes = np.where(self.rng.random(self.series) < chance, 5 * self.rng.pareto(1.0, self.series), 0.0)
        return self.step(50 + self.rng.normal(0, 1, self.series) + spikes)


def alerted_of(step: Step) -> list[Alerted]:
    return [one.alerted for one in step.batches() if one.alerted is not None]


def verdict(series: int, ratio: float = 1.5) -> Lesson:
    return Lesson((Verdict(series=series, time_ns=0, kind="false_alert", ratio=ratio),))


class TestAlerts:
    def test_the_budget_is_held_where_a_fixed_threshold_gives_many_more(self) -> None:
        def weeks(config: PipelineConfig, count: int) -> np.ndarray:
            lab, counts = Lab(config, interval_s=7200), np.zeros(count)
            for k in range(count * 84):
                counts[k // 84] += sum(one.counted.sum() for one in alerted_of(lab.noisy(0.12)))
            return counts

        fixed = weeks(PipelineConfig(budgets=(BudgetConfig(name="all", floor=1.0, ceiling=1.0),)), 2)
        held = weeks(PipelineConfig(budget=3), 4)
        assert fixed.mean() > 2 * held[1:].mean()
        assert 1 <= held[1:].mean() <= 5 and held.max() <= 8

    def test_the_first_budget_that_matches_owns_a_series(self) -> None:
        team = BudgetConfig(name="team", match={"service": "~s[01]"}, budget="5/week")
        lab = Lab(PipelineConfig(budgets=(team, replace(team, name="late"))))
        lab.noisy()
        budget = lab.pipeline.alerting.budget
        assert [budget.objective(row)[0] for row in range(4)] == ["team", "team", "default", "default"]
        assert [one.series for one in budget.reports()] == [2, 0, 6]

    def test_scores_are_the_same_whatever_the_budget(self) -> None:
        few, many = Lab(PipelineConfig(budget=0.1)), Lab(PipelineConfig(budget=5000))
        opened = [0, 0]
        for _ in range(200):
            a, b = few.noisy(), many.noisy()
            assert a.scored[0].scores.score.tobytes() == b.scored[0].scores.score.tobytes()
            assert a.scored[0].scores.alert.tobytes() == b.scored[0].scores.alert.tobytes()
            for k, step in enumerate((a, b)):
                opened[k] += sum(int(one.opened.sum()) for one in alerted_of(step))
        assert opened[0] < opened[1]

    def test_streams_that_stop_are_alerts_too(self) -> None:
        lab = Lab(PipelineConfig(), interval_s=30)
        for _ in range(40):
            lab.noisy(0)
        last_ns, silent = lab.pipeline.event_ns, []
        for k in range(1, 60):
            step = lab.pipeline.tick(now_ns=last_ns + k * 30 * 10**9)
            silent += [one for one in alerted_of(step) if one.opened.any()]
        assert len(silent) == 1 and silent[0].opened.sum() == 8
        assert len(lab.pipeline.alerting.ledger.active()) == 8

    def test_verdicts_move_the_series_they_are_about_and_others_of_the_metric_less(self) -> None:
        lab = Lab(PipelineConfig())
        lab.noisy()
        series = int(lab.pipeline.table.fingerprint(np.array([0], np.int32))[0])
        step = lab.pipeline.learn(verdict(series))
        assert step.counts == {"verdicts": 1}
        assert lab.pipeline.learn(verdict(12345)).counts == {"verdicts": 0}
        (one,) = alerted_of(lab.noisy())
        assert one.shift is not None and one.shift[0] > one.shift[2] > 0 == one.shift[1]

    @pytest.mark.parametrize("cut", [5, 90])
    def test_restored_midway_alerts_go_on_bit_for_bit(self, cut: int) -> None:
        config = PipelineConfig(budgets=(BudgetConfig(name="some", match={"service": "~s[0-3]"}, budget="1/hour"),))
        whole, second, opened = Lab(config), Lab(config), 0
        for k in range(150):
            lab = [whole] if k <= cut else [whole, second]
            steps = [one.noisy(0.05) for one in lab]
            if k % 20 == 10:
                series = int(whole.pipeline.table.fingerprint(np.array([k % 8], np.int32))[0])
                steps += [one.pipeline.learn(verdict(series)) for one in lab]
            if k == cut:
                second.pipeline.restore(whole.pipeline.state())
                second.k, second.rng = whole.k, deepcopy(whole.rng)
            elif k > cut:
                first, again = alerted_of(steps[0]), alerted_of(steps[1])
                assert [one.ratio.tobytes() for one in first] == [one.ratio.tobytes() for one in again]
            opened += sum(int(one.opened.sum()) for one in alerted_of(steps[0]))
        a, b = whole.pipeline.state(), second.pipeline.state()
        assert set(a) == set(b) and opened > 3
        assert all(a[name].tobytes() == b[name].tobytes() for name in a)

    def test_a_state_without_alerts_begins_them_anew(self) -> None:
        old, new = Lab(PipelineConfig()), Lab(PipelineConfig(budget="2/week"))
        for _ in range(30):
            old.noisy()
        state = {
            name: array
            for name, array in old.pipeline.state().items()
            if not name.startswith("serving/champion/alerting/")
        }
        new.pipeline.restore(state)
        new.k = old.k
        new.noisy()
        (report,) = new.pipeline.alerting.budget.reports()
        assert (report.series, report.budget, report.alerts) == (8, 2.0, 0)

    def test_rows_that_are_given_away_have_no_alert_and_no_verdict(self) -> None:
        table = TableConfig(max_series=5, reclaim_after=600)
        cluster = Cluster(PipelineConfig(series=table)).warm()
        cluster.step(cart_0=9.0)
        row = cluster.row("cart-0")
        series = int(cluster.pipeline.table.fingerprint(np.array([row], np.int32))[0])
        cluster.pipeline.learn(verdict(series))
        assert [one.row for one in cluster.pipeline.alerting.ledger.active()] == [row]
        assert cluster.watch.alert(row) is not None and cluster.pipeline.alerting.shift(row) > 0
        cluster.k += 1000
        step = cluster.step(tuple(f"{pod}-b" for pod in PODS))
        assert row in step.reclaimed and not cluster.pipeline.alerting.ledger.active()
        assert cluster.watch.alert(row) is None
        assert cluster.pipeline.alerting.shift(row) == pytest.approx(0, abs=1e-12)
