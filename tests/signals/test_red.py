"""Rates, errors and durations from spans: against a slow twin, over limits, late, sampled, missing, restored."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.otlp.attributes import attributes, resource, scope
from otel_aiops.otlp.points import Points
from otel_aiops.otlp.spans import PeerKind
from otel_aiops.series.align import Align, AlignConfig
from otel_aiops.series.table import SeriesTable, TableConfig
from otel_aiops.signals.calls import calls_of
from otel_aiops.signals.cells import Cells, bucket_of, quantiles
from otel_aiops.signals.red import AHEAD, LATE, OVER, Red, RedConfig
from otel_aiops.signals.sampling import Sampling
from tests.signals.made_trees import S, Span, Words, call, trees

SERVICE, DATABASE, MESSAGING = PeerKind.SERVICE, PeerKind.DATABASE, PeerKind.MESSAGING
CALLS, ERRORS = "traces.span.metrics.calls", "traces.span.metrics.errors"
P50, P95 = "traces.span.metrics.duration.p50", "traces.span.metrics.duration.p95"
EXCLUSIVE = "traces.span.metrics.exclusive.p50"
EDGE_CALLS = "traces_service_graph_request_total"
BUCKET = 2 ** (1 / 16)

Series = tuple[str, str, str, str]  # service, metric, operation or callee, kind or caller


def series_of(points: Points) -> dict[Series, dict[float, float]]:
    """Values by series and time; NaN where the series ends."""
    found: dict[Series, dict[float, float]] = defaultdict(dict)
    for i in range(len(points)):
        stream = points.streams[points.stream[i]]
        has = dict(attributes(points.attributes[i]))
        of = dict(resource(stream.resource))
        names = (has["span.name"], has["span.kind"]) if "span.name" in has else (has["server"], has["client"])
        suffix = f" sampled {has['sampling.calls_per_span']!s}" if "sampling.calls_per_span" in has else ""
        key = (str(of["service.name"]), stream.name + suffix, str(names[0]), str(names[1]).removeprefix("SPAN_KIND_"))
        at_s = float(points.time_ns[i] // S) + float(points.time_ns[i] % S > 0) / 8  # the end comes right behind
        assert at_s not in found[key] and bool(points.stale[i]) == np.isnan(points.value[i])
        found[key][at_s] = float(points.value[i])
    return dict(found)


@dataclass
class Story:
    """A Red to which spans are told; all that came out of it by series."""

    red: Red
    words: Words
    out: dict[Series, dict[float, float]] = field(default_factory=lambda: defaultdict(dict))

    def spans(self, spans: list[Span], now_s: float) -> None:
        made = trees(spans, self.words)
        self.red.add(made, calls_of(made), round(now_s * S))
        self.close(now_s)

    def close(self, now_s: float) -> Points | None:
        points = self.red.close(round(now_s * S))
        for key, values in (series_of(points) if points is not None else {}).items():
            assert not set(values) & set(self.out[key])
            self.out[key].update(values)
        return points


def story(**config: float) -> Story:
    words = Words()
    config = {"max_operations": 100, "max_edges": 100, **config}
    return Story(Red(RedConfig(**config), words.services, words.operations), words)  # type: ignore[arg-type]


# -- the slow twin -----------------------------------------------------------------------------------------------------


def quantile(pairs: list[tuple[float, float]], q: float) -> float:
    """The first value at which so much of the weight is reached."""
    pairs = sorted(pairs)
    target, reached = q * sum(w for _, w in pairs), 0.0
    for value, weight in pairs:
        reached += weight
        if reached >= target:
            return value
    return pairs[-1][0]


def slow(batches: list[tuple[float, list[Span]]]) -> dict[tuple[str, str], dict[float, list[Span]]]:
    """Spans by (service, operation) and window end, as far as their windows were open when they came."""
    found: dict[tuple[str, str], dict[float, list[Span]]] = defaultdict(lambda: defaultdict(list))
    newest = -np.inf
    opened = -1.0
    for now, spans in batches:
        newest = max(newest, min(max(s.end_s for s in spans), now))
        if opened < 0:
            opened = max(min(min(s.end_s for s in spans), now), now - 60) // 10
        for span in spans:
            if span.end_s // 10 >= opened and span.end_s <= now + 10:
                found[span.service, span.operation][(span.end_s // 10 + 1) * 10].append(span)
        opened = max(opened, max(min(newest, now) - 10, now - 60) // 10)
    return {key: {t: s for t, s in windows.items() if t // 10 <= opened} for key, windows in found.items()}


@st.composite
def span_batches(draw: st.DrawFn) -> list[tuple[float, list[Span]]]:
    now, batches = 1000.0, []
    for _ in range(draw(st.integers(1, 8))):
        now += draw(st.integers(0, 25))
        spans = [
            Span(
                draw(st.sampled_from("ab")),
                draw(st.sampled_from("xyz")),
                now - draw(st.integers(-15, 90)) + 0.5,
                draw(st.sampled_from([0.0, 1e-7, 0.001, 0.013, 0.5, 7.0])),
                error=draw(st.booleans()),
                weight=draw(st.sampled_from([1.0, 1.0, 2.0, 1 / 3])),
            )
            for _ in range(draw(st.integers(1, 8)))
        ]
        batches.append((now, spans))
    return batches


@given(span_batches())
@settings(max_examples=25, deadline=None)
def test_windows_equal_those_of_the_slow_twin(batches: list[tuple[float, list[Span]]]) -> None:
    told = story()
    for now, spans in batches:
        told.spans(spans, now)
    expected = slow(batches)
    for (service, operation), windows in expected.items():
        calls = told.out.get((service, CALLS, operation, "INTERNAL"), {})
        assert {t for t, n in calls.items() if n > 0} == set(windows)
        for at, spans in windows.items():
            weight = [round(s.weight * 1024) / 1024 for s in spans]
            key = (operation, "INTERNAL")
            assert calls[at] == sum(weight) / 10
            errors = sum(w for w, s in zip(weight, spans, strict=True) if s.error) / 10
            assert told.out[service, ERRORS, *key][at] == errors
            pairs = [(max(s.duration_s, 1e-6), w) for s, w in zip(spans, weight, strict=True)]
            for name, q in ((P50, 0.5), (P95, 0.95), (EXCLUSIVE, 0.5)):
                if name == P95 and len(spans) < 5:
                    assert np.isnan(told.out.get((service, P95, *key), {}).get(at, np.nan))
                    continue
                value = told.out[service, name, *key][at]
                exact = quantile(pairs, q)
                assert exact / BUCKET * (1 - 1e-9) <= value <= exact * BUCKET * (1 + 1e-9)


@given(span_batches())
@settings(max_examples=25, deadline=None)
def test_the_order_of_spans_does_not_matter(batches: list[tuple[float, list[Span]]]) -> None:
    one, two = story(), story()
    for now, spans in batches:
        one.spans(spans, now)
        two.words.services.number("b"), two.words.operations.number("z")
        two.spans(spans[::-1], now)
    assert repr(sorted(one.out.items())) == repr(sorted(two.out.items()))


@given(span_batches(), st.integers(0, 8))
@settings(max_examples=25, deadline=None)
def test_a_restored_red_goes_on_bit_for_bit(batches: list[tuple[float, list[Span]]], cut: int) -> None:
    told, twin = story(max_operations=2), story(max_operations=2)
    for k, (now, spans) in enumerate(batches):
        if k == cut:
            state = twin.red.state()
            twin.red = Red(twin.red._config, twin.words.services, twin.words.operations)
            twin.red.restore(state)
        told.spans(spans, now)
        twin.spans(spans, now)
    assert repr(told.out) == repr(twin.out)
    ours, theirs = told.red.state(), twin.red.state()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


# -- what the points are -----------------------------------------------------------------------------------------------


def test_points_of_a_call() -> None:
    told = story()
    for namespace in ("", "shop", "another"):
        told.red.name_space(told.words.services.number("web"), namespace)
    told.spans([span for k in range(100) for span in call("web", "cart", 1001 + k * 0.05, error=k < 20)][:2], 1002)
    told.spans(call("web", "cart", 1003, error=True), 1003)
    points = told.close(1090)
    assert points is not None
    assert {scope(stream.scope)[0] for stream in points.streams} == {"otel_aiops.traces"}
    assert resource(points.streams[0].resource) == (("service.name", "web"), ("service.namespace", "shop"))
    edge = ("cart", "web")
    assert told.out["web", EDGE_CALLS, *edge] == {1010.0: 0.2, 1020.0: 0.0, 1030.0: 0.0}
    assert told.out["web", "traces_service_graph_request_failed_total", *edge][1010] == 0.2
    client = told.out["web", "traces_service_graph_request_client_seconds.p50", *edge]
    assert client[1010] == pytest.approx(0.020, rel=0.05) and np.isnan(client[1020]) and 1030 not in client
    server = told.out["web", "traces_service_graph_request_server_seconds.p50", *edge]
    assert server[1010] == pytest.approx(0.015, rel=0.05)
    assert told.out["web", CALLS, "call cart", "CLIENT"][1010] == 0.2
    assert told.out["cart", CALLS, "serve", "SERVER"][1010] == 0.2


def test_kinds_of_operations_and_connections() -> None:
    told = story()
    send = Span("web", "send", 1001, callee="orders", callee_kind=MESSAGING)
    receive = Span("mailer", "get", 1001, callee="orders", callee_kind=MESSAGING, entry=True)
    query = Span("web", "query", 1001, callee="db", callee_kind=DATABASE)
    told.spans([send, receive, query], 1001)
    points = told.close(1080)
    assert points is not None
    kinds = {key[2]: key[3] for key in told.out if key[1] == CALLS}
    assert kinds == {"send": "PRODUCER", "get": "CONSUMER", "query": "CLIENT"}
    senders = {key[2:]: key[0] for key in told.out if key[1] == EDGE_CALLS}
    assert senders == {("orders", "web"): "web", ("mailer", "orders"): "mailer", ("db", "web"): "web"}
    found = {dict(attributes(raw)).get("connection_type") for raw in points.attributes}
    assert found == {None, "database", "messaging_system"}


def test_points_go_the_way_of_all_metrics() -> None:
    told = story()
    table, align = SeriesTable(TableConfig()), Align(AlignConfig())
    seen: list[float] = []
    for k in range(60):
        now = 1000 + k * 5
        made = trees([Span("a", "op", now, 0.1)] * (3 if k < 40 else 0) + [Span("b", "op", now)] * 9, told.words)
        told.red.add(made, calls_of(made), now * S)
        points = told.red.close(now * S)
        if points is None:
            continue
        found = align.step(points, table.rows(points, event_now_ns=now * S), now_ns=now * S)
        assert not {"late", "duplicate", "future"} & set(found.counts)
        seen += [value for batch in found.batches for value in batch.value.tolist()]
    assert len(table) == 10 and 0.0 in seen and 0.6 in seen
    assert align.silence(1300 * S).rows.tolist() == []  # durations that ended are no silence


def test_an_operation_without_calls_is_0_for_a_time_and_then_ends() -> None:
    told = story()
    told.spans([Span("a", "x", 1001)], 1001)
    for now in range(1010, 2000, 10):
        told.spans([Span("b", "y", now)], now)
    calls = told.out["a", CALLS, "x", "INTERNAL"]
    assert [calls[t] for t in (1010.0, 1020.0, 1300.0)] == [0.1, 0.0, 0.0]
    *values, last = calls.values()
    assert np.isnan(last) and 0.0 in values and 1590 <= max(calls) <= 1640
    assert len(told.red) == 1


def test_a_slow_system_of_few_spans_has_rates_of_0_between_them() -> None:
    told = story()
    for now in range(1000, 1600, 100):
        told.spans([Span("a", "x", now)], now)
    assert 0.0 in told.out["a", CALLS, "x", "INTERNAL"].values()


# -- time --------------------------------------------------------------------------------------------------------------


def test_late_and_early_spans_are_counted_and_left_out() -> None:
    told = story()
    told.spans([Span("a", "x", 1000)], 1000)
    told.spans([Span("a", "x", 1040)], 1040)
    told.spans([Span("a", "x", 1001), Span("a", "x", 1500)], 1041)
    told.close(1200)
    assert told.red.counts == {LATE: 1, AHEAD: 1}
    assert sum(told.out["a", CALLS, "x", "INTERNAL"].values()) == pytest.approx(0.2)


def test_a_clock_that_is_ahead_closes_nothing() -> None:
    told = story()
    told.spans([Span("a", "x", 1005), Span("skewed", "x", 9_999)], 1006)
    assert told.out == {}
    told.spans([Span("a", "x", 1007)], 1007)
    told.close(1100)
    assert told.out["a", CALLS, "x", "INTERNAL"][1010] == 0.2


def test_spans_that_come_a_minute_behind_the_metrics_are_not_late() -> None:
    told = story()
    for now in range(1005, 1300, 5):
        told.spans([Span("a", "x", now - 45)] * 5, now)
    assert told.red.counts == {}
    assert set(told.out["a", CALLS, "x", "INTERNAL"].values()) == {1.0}


def test_a_long_pause_forgets_without_a_window_for_every_moment_of_it() -> None:
    told = story()
    told.spans([Span("a", "x", 1000)], 1000)
    told.spans([Span("a", "x", 10_000_000)], 10_000_000)
    told.spans([Span("a", "x", 10_000_030)], 10_000_030)
    assert told.out["a", CALLS, "x", "INTERNAL"] == {10_000_010.0: 0.1, 10_000_020.0: 0.0}
    told.close(20_000_000)
    assert len(told.red) == 0
    assert told.close(30_000_000) is None


def test_a_short_pause_tells_of_each_window() -> None:
    told = story()
    told.spans([Span("a", "x", 1000)], 1000)
    told.spans([Span("a", "x", 1500)], 1500)
    told.close(1600)
    assert list(told.out["a", CALLS, "x", "INTERNAL"]) == [float(t) for t in range(1010, 1550, 10)]


# -- missing telemetry and sampling ------------------------------------------------------------------------------------


def test_missing_spans_of_all_are_no_rate_of_0() -> None:
    told = story()
    for now in range(1000, 1300, 5):
        told.spans([Span("a", "x", now)] * 10, now)
    told.close(1500)
    assert 0.0 not in told.out["a", CALLS, "x", "INTERNAL"].values()
    assert max(told.out["a", CALLS, "x", "INTERNAL"]) == 1300.0


def test_missing_spans_of_a_service_that_is_called_are_no_rate_of_0() -> None:
    told = story()
    for now in range(1000, 1600, 5):
        for _ in range(5):
            spans = call("web", "cart", now)
            told.spans(spans if now < 1300 else [spans[0]], now)
    assert max(told.out["cart", CALLS, "serve", "SERVER"]) == 1300.0
    assert max(told.out["web", CALLS, "call cart", "CLIENT"]) > 1500.0


def test_rates_know_the_sampling() -> None:
    told = story()
    for now in range(1000, 1200, 5):
        told.spans([Span("a", "x", now, weight=16.0), Span("b", "y", now, weight=1.0)], now)
    assert set(told.out["a", f"{CALLS} sampled 16", "x", "INTERNAL"].values()) == {3.2}
    assert set(told.out["b", CALLS, "y", "INTERNAL"].values()) == {0.2}
    assert ("a", P50, "x", "INTERNAL") in told.out


def test_another_sampling_is_another_series_and_none_while_it_changes() -> None:
    told = story()
    for now in range(1000, 1400, 5):
        told.spans([Span("a", "x", now, weight=1.0 if now < 1200 else 64.0)] * 64, now)
    before, after = (told.out["a", name, "x", "INTERNAL"] for name in (CALLS, f"{CALLS} sampled 64"))
    assert before[1200.0] == 12.8 and np.isnan(before[1210.0]) and max(before) == 1210.0
    assert min(after) == 1230.0 and set(after.values()) == {819.2}
    assert len(told.out["a", P50, "x", "INTERNAL"]) > 35  # durations go on


def test_mixed_weights_are_steady() -> None:
    told = story()
    rng = np.random.default_rng(1)
    for now in range(1000, 2000, 5):
        weights = np.where(rng.random(40) < 0.1, 1.0, 20.0).tolist()
        told.spans([Span("a", "x", now, weight=w) for w in weights], now)
    assert len(told.out["a", f"{CALLS} sampled 16", "x", "INTERNAL"]) > 90


def test_sampling_that_goes_to_and_fro_has_no_rates() -> None:
    sampling = Sampling()
    levels = [sampling.step(np.array([0.0, 10.0]), np.array([0.0, 10.0 * w])) for w in (1, 64, 1, 1024, 64, 1)]
    assert [bool(steady[1]) for _, steady in levels] == [True, False, True, False, False, True]
    assert [int(level[1]) for level, _ in levels] == [0] * 6


# -- limits ------------------------------------------------------------------------------------------------------------


def test_20_000_operations_stay_within_the_limit_and_none_is_lost() -> None:
    told = story(max_operations=500)
    rng = np.random.default_rng(2)
    for now in range(1000, 1100, 5):
        busy = [Span("a", f"busy{k % 50}", now) for k in range(200)]
        rare = [Span("a", f"rare{k}", now) for k in rng.integers(0, 20_000, 1_000).tolist()]
        told.spans(rare + busy, now)
    assert len(told.red) <= 500 + 1
    calls = {key[2:]: values for key, values in told.out.items() if key[1] == CALLS}
    total = sum(value for values in calls.values() for value in values.values() if not np.isnan(value))
    windows = len({at for values in calls.values() for at, value in values.items() if not np.isnan(value)})
    assert total == pytest.approx(windows * 240.0)
    assert calls["(other)", "UNSPECIFIED"] and told.red.counts == {}


def test_the_busiest_operations_take_over() -> None:
    told = story(max_operations=4)
    for now in range(1000, 2000, 5):
        told.spans([Span("a", f"first{k}", now) for k in range(4)] + [Span("a", "busy", now)] * 20, now)
    calls = told.out["a", CALLS, "busy", "INTERNAL"]
    assert min(calls) < 1200 and calls[1900.0] == 4.0
    gone = [k for k in range(4) if np.isnan(list(told.out["a", CALLS, f"first{k}", "INTERNAL"].values())[-1])]
    assert len(gone) == 1
    other = told.out["a", CALLS, "(other)", "UNSPECIFIED"]
    assert other[1020.0] == 4.0 and other[1900.0] == pytest.approx(0.2)


def test_what_does_not_even_fit_in_others_is_counted() -> None:
    told = story(max_operations=1, max_edges=1)
    told.spans([Span(f"s{k}", "op", 1000, callee="x", callee_kind=SERVICE) for k in range(100)], 1000)
    assert told.red.counts == {OVER: 2 * (100 - 1 - 64)}


def test_edges_of_unknown_names_are_left_out() -> None:
    told = story()
    told.spans([Span("(other)", "op", 1000, callee="x", callee_kind=SERVICE)], 1000)
    told.close(1100)
    assert {key[1] for key in told.out} >= {CALLS} and EDGE_CALLS not in {key[1] for key in told.out}


# -- parts -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(1, 4096)), max_size=60))
@settings(max_examples=50, deadline=None)
def test_cells_are_sums(items: list[tuple[int, int, int]]) -> None:
    cells = Cells()
    expected: dict[tuple[int, int], float] = defaultdict(float)
    for part in (items[::2], items[1::2]):
        window, cell, amount = (np.array([item[k] for item in part], np.int64) for k in range(3))
        cells.add(window, cell, amount / 1024)
    for w, c, a in items:
        expected[w, c] += a / 1024
    other = Cells()
    other.restore(cells.state())
    for some in (cells, other):
        found = {(w, c): a for w in some.windows() for c, a in zip(*(x.tolist() for x in some.take(w)), strict=True)}
        assert found == expected


def test_cells_are_merged_now_and_then() -> None:
    cells = Cells()
    for _ in range(50):
        cells.add(np.zeros(500, np.int64), np.arange(500), np.ones(500))
    assert len(cells._open[0]) < 12
    assert cells.take(0)[1].tolist() == [50.0] * 500


def test_quantiles_of_huge_and_tiny_durations_stay_in_range() -> None:
    bucket = bucket_of(np.array([0.0, -5.0, 1e3, 1e30, 1.1e3]))
    assert bucket.tolist() == [0, 0, 0, 496, 3]
    found = quantiles(np.array([0, 2]), np.array([0, 496]), np.ones(2), 3, (0.5,))
    assert found[0, 0] < 1e-6 and np.isnan(found[1, 0]) and 1000 < found[2, 0] < 3000


def test_bad_states_and_settings_are_refused() -> None:
    told = story()
    told.spans([Span("a", "x", 1000)], 1000)
    told.red.name_space(1, "shop")
    state = told.red.state()
    bad = {"told": np.zeros((1, 5), bool), "namespaces": np.zeros(3, np.uint8), "clock": np.zeros(1, np.int64)}
    bad["cells/ends"] = state["cells/ends"] + 1
    bad["operations/own_key"] = np.full_like(state["operations/own_key"], 5)
    for name, array in bad.items():
        with pytest.raises(StateError):
            story().red.restore({**state, name: array})
    for config in (
        {"window": 0.0},
        {"lateness": 61.0},
        {"remember": 60.0},
        {"max_operations": 0},
        {"max_edges": 2_000_000},
        {"patience": -1.0},
    ):
        with pytest.raises(ConfigError):
            RedConfig(**config)


def test_no_spans_are_nothing() -> None:
    told = story()
    told.spans([], 1000)
    assert told.close(2000) is None and len(told.red) == 0
