"""How many requests of users pass through services, and how many fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from otel_aiops.errors import StateError
from otel_aiops.incidents.foresee import Foresight, ForesightConfig
from otel_aiops.incidents.incident import Incident, State
from otel_aiops.incidents.requests import BUCKET_NS, HOUR_NS, KEPT, Requests
from otel_aiops.incidents.severity import SloConfig
from otel_aiops.incidents.slo_points import BUDGET, MINUTE_NS, SLO_SCOPE, SloPoints
from otel_aiops.labels import Labels
from otel_aiops.otlp.spans import SpanKind
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import json_array
from otel_aiops.signals.names import Names
from otel_aiops.signals.traces import Traces, TracesConfig
from tests.signals.made_spans import S, Sent, give

NOW = 10_000 * BUCKET_NS


def counted(requests: Requests, sent: Sequence[Sent], now_ns: int = NOW) -> Requests:
    traces = Traces(TracesConfig(), Names(100))
    give(traces, sent, S)
    trees = traces.close(1000 * S)
    assert trees is not None
    requests.add(trees, traces.services.__getitem__, now_ns)
    return requests


def served(service: str, *, good: int = 0, bad: int = 0, at_ns: int = NOW, weight: float = 1.0) -> list[Sent]:
    one = Sent(1, 1, service=service, start_ns=at_ns - 10, end_ns=at_ns, kind=SpanKind.SERVER, weight=weight)
    return [replace(one, trace=k + 1, error=k < bad) for k in range(good + bad)]


class TestUsers:
    def test_each_request_counts_once_in_every_service_on_its_way(self) -> None:
        sent = [
            Sent(1, 1, service="web"),
            Sent(1, 2, 1, service="pay", start_ns=1),
            Sent(1, 3, 1, service="pay", start_ns=2),
            Sent(2, 1, service="web", weight=10),
            Sent(3, 1, 99, service="pay"),  # of a request that is not known
        ]
        requests = counted(Requests(), sent)
        assert requests.take_users() == {"web": 11.0, "pay": 1.0}
        assert requests.take_users() == {}

    def test_traces_add_up_until_they_are_taken(self) -> None:
        requests = counted(counted(Requests(), served("web", good=3)), served("web", good=2))
        assert requests.take_users() == {"web": 5.0}


class TestFailing:
    def test_the_share_of_what_a_service_answered(self) -> None:
        requests = counted(Requests(["pay"]), [*served("pay", good=3, bad=1)])
        assert requests.failing("pay", 3600, NOW) == 0.25
        assert math.isnan(requests.failing("web", 3600, NOW))

    def test_weights_count(self) -> None:
        requests = counted(Requests(["pay"]), served("pay", good=1))
        counted(requests, served("pay", bad=1, weight=3))
        assert requests.failing("pay", 3600, NOW) == 0.75

    def test_only_services_with_an_objective_and_only_entries(self) -> None:
        inner = Sent(1, 2, 1, service="pay", error=True, start_ns=NOW - 5, end_ns=NOW)
        requests = counted(Requests(["pay"]), [*served("pay", good=1), inner, *served("web", bad=1)[:0]])
        assert requests.failing("pay", 3600, NOW) == 0
        assert math.isnan(counted(Requests(["pay"]), served("web", bad=4)).failing("web", 3600, NOW))

    def test_each_window_has_its_own_share(self) -> None:
        requests = Requests(["pay"])
        for k in range(24):
            counted(requests, served("pay", good=9, bad=int(k >= 20), at_ns=NOW + k * BUCKET_NS), NOW + k * BUCKET_NS)
        end_ns = NOW + 24 * BUCKET_NS - 1
        assert requests.failing("pay", 300, end_ns) == pytest.approx(0.1)
        assert requests.failing("pay", 3600, end_ns) == pytest.approx(4 / (12 * 9 + 13), rel=0.1)
        assert requests.failing("pay", 24 * 300, end_ns) < 0.03

    def test_three_days_are_kept(self) -> None:
        requests = Requests(["pay"])
        for bucket in (0, 1, KEPT, KEPT + 1):
            counted(requests, served("pay", bad=1, at_ns=NOW + bucket * BUCKET_NS), NOW + bucket * BUCKET_NS)
        state = bytes(requests.state()["requests"]).decode()
        assert state.count("[1.0,1.0]") == 2, "the two before that are gone"

    def test_a_clock_that_is_ahead_deletes_nothing(self) -> None:
        requests = counted(Requests(["pay"]), served("pay", good=3))
        counted(requests, served("pay", bad=1, at_ns=NOW + 2 * KEPT * BUCKET_NS))
        counted(requests, served("pay", good=1, at_ns=10))
        assert requests.failing("pay", 3600, NOW) == 0.25

    def test_the_order_in_which_spans_come_does_not_change_the_sum(self) -> None:
        weights = np.random.default_rng(0).random(20) * 1e3
        shares = []
        for order in (range(20), range(19, -1, -1)):
            requests = Requests(["pay"])
            for k in order:
                sent = served("pay", good=1 - k % 2, bad=k % 2, at_ns=NOW + k * BUCKET_NS, weight=float(weights[k]))
                counted(requests, sent, NOW + 20 * BUCKET_NS)
            shares.append(requests.failing("pay", 1e5, NOW + 20 * BUCKET_NS))
            again = Requests(["pay"])
            again.restore(requests.state())
            shares.append(again.failing("pay", 1e5, NOW + 20 * BUCKET_NS))
        assert len(set(shares)) == 1


class TestErrorBudget:
    SLO = SloConfig(service="pay", objective=0.99, window=30 * 86_400.0)

    def spent(self, hours: int, share: float) -> tuple[Requests, int]:
        requests, steps = Requests(["pay"]), hours * 12
        for step in range(steps):
            bad = round(share * 20)
            sent = served("pay", good=20 - bad, bad=bad, at_ns=NOW + step * BUCKET_NS)
            counted(requests, sent, NOW + step * BUCKET_NS)
        return requests, NOW + steps * BUCKET_NS

    @pytest.mark.parametrize(("hours", "share"), [(1, 0.0), (2, 0.25), (12, 1.0)])
    def test_what_is_left_is_what_a_window_allows_less_what_failed(self, hours: int, share: float) -> None:
        requests, now_ns = self.spent(hours, share)
        begun_ns = NOW // HOUR_NS * HOUR_NS
        allowed = 0.01 * 20 * 12 * hours * (720 * HOUR_NS / (now_ns - begun_ns))
        left = requests.budget_left(self.SLO, now_ns)
        assert left == pytest.approx(1 - share * 20 * 12 * hours / allowed) and left <= 1
        assert math.isnan(requests.budget_left(SloConfig(service="web"), now_ns))
        assert math.isnan(requests.budget_left(self.SLO, now_ns + 31 * 24 * HOUR_NS)), "of another window"

    def test_a_budget_that_runs_out_is_foreseen(self) -> None:
        requests, now_ns = self.spent(4, 0.0)
        slo = replace(self.SLO, window=10 * 86_400.0)  # gone after 2.4 hours in which everything fails
        points, foresight = SloPoints([slo], requests), Foresight(ForesightConfig())
        labels = Labels(BUDGET, unit="1", scope_name=SLO_SCOPE, resource=(("service.name", "pay"),))
        foresight.assign(0, labels, "0" * 16)
        told, values = list[Incident](), []
        for minute in range(180):
            time_ns = now_ns + minute * MINUTE_NS
            counted(
                requests,
                served("pay", good=0 if minute > 60 else 4, bad=4 if minute > 60 else 0, at_ns=time_ns),
                time_ns,
            )
            made = points.close(time_ns)
            assert made is not None and points.close(time_ns) is None, "once a minute"
            assert made.streams[0].name == BUDGET and made.time_ns.tolist() == [time_ns]
            values += made.value.tolist()
            foresight.update(Batch(np.zeros(1, np.int32), made.time_ns, made.value, np.array([60.0])))
            told += foresight.due(time_ns)
        assert values[60] == 1.0 > values[-1] > 0
        assert told[0].state is State.PREDICTED and told[0].services == ("pay",)
        assert told[0].title == "Error budget of pay runs out"


class TestState:
    def test_restored_it_goes_on(self) -> None:
        one = counted(Requests(["pay"]), served("pay", good=3, bad=2))
        two = Requests(["pay"])
        two.restore(one.state())
        for requests in (one, two):
            counted(requests, served("pay", bad=2, at_ns=NOW + BUCKET_NS), NOW + BUCKET_NS)
        assert two.state()["requests"].tobytes() == one.state()["requests"].tobytes()
        assert two.take_users() == one.take_users() == {"pay": 7.0}

    @pytest.mark.parametrize("bad", [{}, {"users": 5, "buckets": {}}, {"users": {}, "buckets": {"a": [[1]]}}, []])
    def test_a_state_that_does_not_fit(self, bad: object) -> None:
        with pytest.raises(StateError):
            Requests().restore({"requests": json_array(bad)})
