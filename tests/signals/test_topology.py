"""The service graph: what is called, how often, by whom; what is forgotten; what metrics add to it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.labels import Labels
from otel_aiops.otlp.decode_spans import decode_traces
from otel_aiops.otlp.spans import PeerKind, SpanKind
from otel_aiops.signals.calls import Calls, calls_of
from otel_aiops.signals.edge_metrics import Role, edge_of, may_be_edge
from otel_aiops.signals.graph import Graph
from otel_aiops.signals.names import Names
from otel_aiops.signals.sources import Sources, of_items
from otel_aiops.signals.topology import LONG_AGO, OVER_EDGES, OVER_NAMES, Topology, TopologyConfig
from otel_aiops.signals.traces import Traces, TracesConfig
from otel_aiops.signals.trees import Trees
from tests.feed import pairs
from tests.signals.made_trees import S, Span, Words, call, trees

SERVICE, DATABASE, MESSAGING = PeerKind.SERVICE, PeerKind.DATABASE, PeerKind.MESSAGING
DAY = 86_400


class Story:
    """A topology to which calls and metrics are told by name."""

    def __init__(self, **config: float) -> None:
        self.words = Words()
        self.graph = Topology(TopologyConfig(**config), self.words.services)  # type: ignore[arg-type]

    def spans(self, spans: list[Span], now_s: float | None = None) -> Calls:
        calls = calls_of(trees(spans, self.words))
        self.graph.add(calls, round((max(one.end_s for one in spans) if now_s is None else now_s) * S))
        return calls

    def call(self, caller: str, callee: str, at_s: float, times: int = 1, **more: float) -> None:
        for _ in range(times):
            self.spans(call(caller, callee, at_s, **more))

    def again(self) -> Topology:
        """The same, through a state."""
        other = Topology(self.graph._config, self.words.services)
        other.restore(self.graph.state())
        return other


def told(calls: Calls, names: Names) -> list[tuple[str, str, int, int]]:
    columns = (calls.caller, calls.callee, calls.caller_kind, calls.callee_kind)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return sorted((names[a], names[b], k, m) for a, b, k, m in rows)


# -- calls -------------------------------------------------------------------------------------------------------------


def test_a_call_is_counted_once_with_both_sides() -> None:
    story = Story()
    calls = story.spans(call("web", "cart", 100))
    assert told(calls, story.words.services) == [("web", "cart", SERVICE, SERVICE)]
    assert calls.client_ns.tolist() == [20e6] and calls.server_ns.tolist() == [15e6]


def test_layers_of_one_call_are_one_call() -> None:
    story = Story()
    outer = Span("web", "sdk", 100, 0.03, -1, "cart", SERVICE)
    inner = Span("web", "http", 100, 0.02, 0, "cart", SERVICE)
    assert len(story.spans([outer, inner])) == 1


def test_an_entry_whose_parent_names_no_callee_is_a_call() -> None:
    story = Story()
    calls = story.spans([Span("web", end_s=100, entry=True), Span("cart", end_s=100, parent=0, entry=True)])
    assert told(calls, story.words.services) == [("web", "cart", SERVICE, SERVICE)]
    assert np.isnan(calls.client_ns).all() and calls.server_ns.tolist() == [10e6]


def test_a_message_goes_by_its_destination() -> None:
    story = Story()
    send = Span("web", "send", 100, 0.001, -1, "mailer", SERVICE)  # assembly names the consumer
    receive = Span("mailer", "receive", 101, 0.5, 0, "orders", MESSAGING, entry=True)
    calls = story.spans([send, receive])
    expected = [("orders", "mailer", MESSAGING, SERVICE), ("web", "orders", SERVICE, MESSAGING)]
    assert told(calls, story.words.services) == expected
    assert story.graph.kind("orders") == MESSAGING and story.graph.callees("web") == ("orders",)
    assert story.graph.callers("mailer") == ("orders",) and story.graph.dependents("mailer") == ("orders", "web")
    assert [edge.kind for edge in story.graph.edges()] == [MESSAGING, MESSAGING]


def test_a_consumer_without_a_producer_is_called_by_its_destination() -> None:
    story = Story()
    story.spans([Span("mailer", "receive", 101, 0.5, -1, "orders", MESSAGING, entry=True)])
    story.spans([Span("web", "send", 102, 0.5, -1, "orders", MESSAGING)])
    assert story.graph.callers("mailer") == ("orders",) and story.graph.callers("orders") == ("web",)


def slow_calls(spans: list[Span]) -> list[tuple[str, str, int, int]]:
    """What `calls_of` finds, a span at a time."""
    found = []
    for span in spans:
        parent = spans[span.parent] if span.parent >= 0 else None
        received = span.entry and span.callee and span.callee_kind == MESSAGING
        if received:
            found.append((span.callee, span.service, MESSAGING, SERVICE))
        elif span.callee:
            received_parent = parent and parent.entry and parent.callee_kind == MESSAGING
            layer = parent and parent.service == span.service and parent.callee == span.callee and not received_parent
            if not layer:
                last = [
                    one
                    for one in spans
                    if one.parent >= 0
                    and spans[one.parent] is span
                    and one.entry
                    and one.callee_kind == MESSAGING
                    and one.callee
                    and one.service == span.callee
                    and one.service != span.service
                ]
                to, kind = (last[-1].callee, MESSAGING) if last else (span.callee, max(span.callee_kind, SERVICE))
                found.append((span.service, to, SERVICE, PeerKind(kind)))
        if parent and span.entry and parent.service != span.service and not received and parent.callee != span.service:
            found.append((parent.service, span.service, SERVICE, SERVICE))
    return sorted(found)


@st.composite
def span_lists(draw: st.DrawFn) -> list[Span]:
    n = draw(st.integers(1, 8))
    name = st.sampled_from("abc")
    return [
        Span(
            draw(name),
            parent=draw(st.integers(-1, n - 1)),
            callee=draw(st.sampled_from(["", "a", "b", "d"])),
            callee_kind=draw(st.sampled_from(list(PeerKind)[1:])),
            entry=draw(st.booleans()),
            end_s=100,
        )
        for _ in range(n)
    ]


@given(span_lists())
@settings(max_examples=100, deadline=None)
def test_calls_equal_those_of_the_slow_twin(spans: list[Span]) -> None:
    for one in spans:
        if not one.callee:
            one.callee_kind = PeerKind.NONE
    words = Words()
    assert told(calls_of(trees(spans, words)), words.services) == slow_calls(spans)


def test_no_spans_are_no_calls() -> None:
    story = Story()
    calls = calls_of(trees([], story.words))
    story.graph.add(calls, 100 * S)
    assert len(calls) == 0 and story.graph.edges() == ()


def test_bad_weights_count_as_one() -> None:
    story = Story()
    calls = [story.spans(call("a", "b", 100, weight=w)).weight.tolist() for w in (np.nan, -1.0, np.inf, 1e300, 1 / 3)]
    assert calls == [[1.0], [1.0], [1.0], [2.0**20], [341 / 1024]]


# -- the graph ---------------------------------------------------------------------------------------------------------


def test_neighbours_stand_in_the_order_of_their_calls() -> None:
    story = Story()
    for callee, times in (("x", 1), ("y", 5), ("z", 3), ("w", 3)):
        story.call("web", callee, 100, times)
    story.call("web", "x", 170)  # a minute later the order is made anew
    assert story.graph.callees("web") == ("y", "w", "z", "x")
    assert story.graph.callers("web") == () and story.graph.callees("nobody") == ()
    assert story.graph.kind("web") == SERVICE and story.graph.kind("nobody") == PeerKind.NONE


def test_the_order_does_not_depend_on_when_it_was_asked_for() -> None:
    asked, silent = Story(), Story()
    for k in range(200):
        for story in (asked, silent):
            story.call("web", "abc"[k % 3], 100 + k, 1 + k % 5)
        asked.graph.callees("web")
    assert asked.graph.callees("web") == silent.graph.callees("web") == silent.again().callees("web")


def test_cycles_and_calls_of_oneself_do_no_harm() -> None:
    story = Story()
    for caller, callee in pairwise(["a", "b", "c", "a"]):
        story.call(caller, callee, 100)
    story.spans([Span("a", end_s=100, callee="a", callee_kind=SERVICE)])
    assert story.graph.callers("a") == ("c",) and story.graph.dependents("a") == ("c", "b")
    assert story.graph.distance("a", "c") == 1 and story.graph.distance("a", "a") == 0
    assert ("a", "a") in {(edge.caller, edge.callee) for edge in story.graph.edges()}


def test_a_cycle_of_parents_does_no_harm() -> None:
    story = Story()
    story.spans([Span("a", end_s=1, parent=1, entry=True), Span("b", end_s=1, parent=0, entry=True)])
    assert story.graph.callers("a") == ("b",) and story.graph.callers("b") == ("a",)


def test_distance_goes_both_ways_and_ends() -> None:
    story = Story()
    for caller, callee in pairwise("abcde"):
        story.call(caller, callee, 100)
    graph = story.graph
    assert [graph.distance("a", other) for other in "abcde"] == [0, 1, 2, 3, None]
    assert graph.distance("e", "b") == 3 and graph.distance("a", "e", 4) == 4 and graph.distance("a", "nobody") is None
    story.call("a", "e", 101)
    assert graph.distance("e", "a") == 1


def test_a_database_of_the_same_name_is_another_node() -> None:
    story = Story()
    story.call("web", "orders", 100)
    story.spans([Span("orders", end_s=100, callee="orders", callee_kind=DATABASE)])
    story.spans([Span("orders", end_s=100, callee="redis", callee_kind=DATABASE)])
    graph = story.graph
    assert graph.callees("orders") == ("orders (database)", "redis") and graph.kind("orders (database)") == DATABASE
    assert graph.kind("orders") == SERVICE and graph.kind("redis") == DATABASE
    assert graph.nodes() == ("orders", "orders (database)", "redis", "web")


def test_calls_and_errors_a_second_know_the_sampling() -> None:
    story = Story()
    for k in range(600):
        story.spans(call("web", "cart", 1000 + k, weight=20.0, error=k % 4 == 0))
    (edge,) = story.graph.edges()
    assert edge.calls_s == pytest.approx(20.0, rel=0.05) and edge.error_ratio == pytest.approx(0.25, abs=0.02)
    assert edge.last_ns == 1599 * S
    story.call("other", "node", 1599 + 1500)  # five half-lives later
    edge = next(edge for edge in story.graph.edges() if edge.caller == "web")
    assert edge.calls_s < 1.0


def test_an_edge_disappears_after_a_day() -> None:
    story = Story()
    story.call("a", "b", 100)
    story.call("b", "c", 100 + DAY / 2)
    story.call("b", "c", 100 + DAY + 120)
    assert story.graph.callees("a") == () and story.graph.callees("b") == ("c",)
    assert story.graph.nodes() == ("b", "c") and len(story.graph) == 1
    story.call("a", "b", 100 + DAY + 130)
    assert story.graph.callees("a") == ("b",)


def test_what_is_left_out_is_counted() -> None:
    story = Story(max_edges=2)
    story.call("a", "b", 2 * DAY)
    story.call("a", "c", 2 * DAY)
    story.call("a", "d", 2 * DAY, 3)
    story.spans(call("a", "b", 10), now_s=2 * DAY)
    story.spans([Span("a", end_s=2 * DAY, callee="b", callee_kind=SERVICE), Span("(other)", end_s=2 * DAY, callee="b")])
    assert story.graph.callees("a") == ("b", "c")
    assert story.graph.counts == {OVER_EDGES: 3, LONG_AGO: 1, OVER_NAMES: 1}


def test_many_edges_stay_within_the_limit() -> None:
    story = Story(max_edges=1_000)
    spans = [Span(f"s{k}", end_s=100, callee=f"t{k}", callee_kind=DATABASE) for k in range(4_000)]
    story.spans(spans)
    assert len(story.graph) == 1_000 and story.graph.counts[OVER_EDGES] == 3_000
    assert len(story.graph.edges()) == 1_000


def test_late_calls_count_and_early_ones_do_not_move_time() -> None:
    story = Story()
    story.spans(call("a", "b", 1000), now_s=1000)
    story.spans(call("a", "b", 900), now_s=1000)
    story.spans(call("a", "b", 99_999), now_s=1000)
    (edge,) = story.graph.edges()
    assert edge.last_ns == 1000 * S and edge.calls_s == pytest.approx(0.3, rel=0.05)


# -- metrics -----------------------------------------------------------------------------------------------------------


def graph_labels(name: str, stat: str = "rate", kind: str = "", **more: str) -> Labels:
    pairs = {"client": "web", "server": "cart", "connection_type": kind, **more}
    return Labels(name, stat=stat, kind="sum", attributes=tuple(sorted(pairs.items())))


def span_labels(kind: str, **attributes: str) -> Labels:
    pairs = {"span.kind": f"SPAN_KIND_{kind}", **{key.replace("__", "."): v for key, v in attributes.items()}}
    resource = (("service.name", "web"),)
    return Labels("traces.span.metrics.calls", stat="rate", resource=resource, attributes=tuple(sorted(pairs.items())))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (graph_labels("traces_service_graph_request_total"), ("web", SERVICE, "cart", SERVICE, Role.CALLS)),
        (graph_labels("traces.service.graph.request.failed_total"), ("web", SERVICE, "cart", SERVICE, Role.ERRORS)),
        (
            graph_labels("traces_service_graph_request_client_seconds.p50", "", "database"),
            ("web", SERVICE, "cart", DATABASE, Role.SIGN),
        ),
        (graph_labels("traces_service_graph_request_server", "p95"), ("web", SERVICE, "cart", SERVICE, Role.SIGN)),
        (graph_labels("traces_service_graph_request_total", client="user"), None),
        (graph_labels("traces_service_graph_request_total", server=""), None),
        (span_labels("CLIENT", peer__service="cart"), ("web", SERVICE, "cart", SERVICE, Role.CALLS)),
        (
            span_labels("CLIENT", db__system="redis", server__address="r1"),
            ("web", SERVICE, "redis:r1", DATABASE, Role.CALLS),
        ),
        (
            span_labels("CLIENT", db__namespace="shop", status__code="STATUS_CODE_ERROR"),
            ("web", SERVICE, "shop", DATABASE, Role.ERRORS),
        ),
        (
            span_labels("PRODUCER", messaging__system="kafka", messaging__destination__name="orders"),
            ("web", SERVICE, "kafka:orders", MESSAGING, Role.CALLS),
        ),
        (
            span_labels("CONSUMER", messaging__destination__name="orders"),
            ("orders", MESSAGING, "web", SERVICE, Role.CALLS),
        ),
        (span_labels("CONSUMER", peer__service="cart"), None),
        (span_labels("CLIENT"), None),
        (span_labels("SERVER", peer__service="cart"), None),
        (Labels("system.cpu.time"), None),
        (Labels("traces_service_graph_request_total", scope_name="otel_aiops.traces"), None),
    ],
)
def test_labels_of_metrics_tell_of_calls(labels: Labels, expected: tuple[object, ...] | None) -> None:
    found = edge_of(labels)
    assert expected == (found and (found.caller, found.caller_kind, found.callee, found.callee_kind, found.role))
    assert may_be_edge(labels.name) or expected is None


def rows(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(numbers, np.int32)


def touch(graph: Topology, row: int, value: float, at_s: float) -> None:
    graph.touch(rows(row), np.array([value]), np.array([round(at_s * S)], np.int64))


def test_metrics_make_edges_and_keep_them() -> None:
    story = Story()
    assert story.graph.observe(7, graph_labels("traces_service_graph_request_total"), 100 * S)
    assert story.graph.observe(9, graph_labels("traces_service_graph_request_failed_total"), 100 * S)
    assert not story.graph.observe(8, Labels("cpu"), 100 * S)
    assert story.graph.edges() == ()  # no call yet
    touch(story.graph, 7, 4.0, 100)
    touch(story.graph, 9, 1.0, 100)
    touch(story.graph, 100_000, 1.0, 100)
    (edge,) = story.graph.edges()
    assert (edge.caller, edge.callee, edge.calls_s, edge.error_ratio) == ("web", "cart", 4.0, 0.25)
    touch(story.graph, 7, 0.0, 110)  # a rate of 0 is no call
    assert story.graph.edges()[0].last_ns == 100 * S
    story.graph.forget(rows(7))
    assert np.isnan(story.graph.edges()[0].calls_s)


def test_metrics_do_not_count_what_spans_count() -> None:
    story = Story()
    story.graph.observe(7, graph_labels("traces_service_graph_request_total"), 100 * S)
    for k in range(60):
        touch(story.graph, 7, 40.0, 100 + k)
        story.call("web", "cart", 100 + k)
    assert story.graph.edges()[0].calls_s == pytest.approx(1.0, rel=0.1)
    for k in range(60, 600):  # only the metrics go on
        touch(story.graph, 7, 40.0, 100 + k)
    story.call("a", "b", 700)
    assert story.graph.edges()[1].calls_s == 40.0


def test_series_of_one_edge_add_up() -> None:
    story = Story()
    for row in range(3):
        story.graph.observe(row, graph_labels("traces_service_graph_request_total", pod=str(row)), 100 * S)
    story.graph.touch(rows(0, 1, 2), np.array([1.0, 2.0, 3.0]), np.full(3, 100 * S, np.int64))
    assert [edge.calls_s for edge in story.graph.edges()] == [6.0]


def test_a_span_that_stops_being_told_of_by_metrics_leaves_after_a_day() -> None:
    story = Story()
    story.graph.observe(3, graph_labels("traces_service_graph_request_client_seconds.p50", ""), 100 * S)
    touch(story.graph, 3, 0.1, 100)
    story.call("x", "y", 100 + 2 * DAY)
    assert story.graph.callees("web") == ()
    touch(story.graph, 3, 0.1, 100 + 2 * DAY)
    assert story.graph.callees("web") == ("cart",)


def test_metrics_over_the_limits_are_counted() -> None:
    story = Story(max_edges=1)
    story.graph = Topology(TopologyConfig(max_edges=1), Names(2))
    total = "traces_service_graph_request_total"
    assert story.graph.observe(0, graph_labels(total), S)
    assert story.graph.observe(1, graph_labels(total, client="cart", server="web"), S)
    assert not story.graph.observe(2, graph_labels(total, server="third"), S)
    story.graph.touch(rows(0, 1), np.ones(2), np.full(2, S, np.int64))
    assert story.graph.counts == {OVER_NAMES: 1, OVER_EDGES: 1} and len(story.graph) == 1


# -- state -------------------------------------------------------------------------------------------------------------


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[str, str, float, float]]:
    name = st.sampled_from("abcdef")
    step = st.tuples(name, name, st.floats(0, 4000), st.floats(0.1, 100))
    return draw(st.lists(step, min_size=1, max_size=25))


@given(stories(), st.integers(0, 25))
@settings(max_examples=25, deadline=None)
def test_a_restored_topology_goes_on_bit_for_bit(steps: list[tuple[str, str, float, float]], cut: int) -> None:
    story = Story(keep=3600.0)
    twin = story.graph
    labels = graph_labels("traces_service_graph_request_total")
    for graph in {story.graph, twin}:
        graph.observe(1, labels, S)
    now = 100.0
    for k, (caller, callee, later, weight) in enumerate(steps):
        now += later
        if k == cut:
            twin = story.again()
        calls = calls_of(
            trees([Span(caller, end_s=now, callee=callee, callee_kind=SERVICE, weight=weight)], story.words)
        )
        for graph in {story.graph, twin}:
            graph.add(calls, round(now * S))
            touch(graph, 1, weight, now)
        story.graph.callees(caller)
    assert twin.edges() == story.graph.edges() and twin.nodes() == story.graph.nodes()
    for name in "abcdef":
        assert twin.callers(name) == story.graph.callers(name)
        assert twin.dependents(name) == story.graph.dependents(name)
    ours, theirs = story.graph.state(), twin.state()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_smaller_limit_keeps_the_newest_edges() -> None:
    story = Story()
    for k in range(5):
        story.call("a", f"b{k}", 100 + k)
    small = Topology(TopologyConfig(max_edges=2), story.words.services)
    small.restore(story.graph.state())
    assert sorted(small.callees("a")) == ["b3", "b4"]


def test_bad_states_and_settings_are_refused() -> None:
    story = Story()
    story.call("a", "b", 100)
    state = story.graph.state()
    with pytest.raises(StateError):
        Story().graph.restore({**state, "clock": np.zeros(3, np.int64)})
    with pytest.raises(StateError):
        Topology(TopologyConfig(), Names(10)).restore(state)  # of other names
    for config in ({"max_edges": 0}, {"keep": 0.0}, {"half_life": -1.0}):
        with pytest.raises(ConfigError):
            TopologyConfig(**config)


def test_distances_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otel_aiops.signals.graph.MOST_REMEMBERED", 2)
    graph = Graph({}, list(pairwise("abcdef")), [1.0] * 5)
    assert [graph.distance("a", b, 5) for b in "abcdef"] == [0, 1, 2, 3, 4, 5]
    assert [graph.distance(a, "c", 5) for a in "abcdef"] == [2, 1, 0, 1, 2, 3]


def test_trees_are_not_changed() -> None:
    words = Words()
    spans = [
        Span("web", "send", 100, 0.001, -1, "mailer", SERVICE),
        Span("mailer", "receive", 101, 0.5, 0, "orders", MESSAGING, entry=True),
    ]
    made: Trees = trees(spans, words)
    before = made.callee.copy(), made.callee_kind.copy()
    calls_of(made)
    assert (made.callee == before[0]).all() and (made.callee_kind == before[1]).all()


def test_spans_on_the_wire_become_the_graph() -> None:
    request = ExportTraceServiceRequest()

    def span(service: str, number: int, parent: int, kind: int, **of: str) -> None:
        group = request.resource_spans.add()
        group.resource.attributes.extend(pairs({"service.name": service}))
        begin, end = (100 + number) * S, (200 - number) * S
        group.scope_spans.add().spans.add(
            trace_id=bytes(15) + b"t",
            span_id=bytes(7) + bytes([number]),
            parent_span_id=bytes(7) + bytes([parent]) if parent else b"",
            name=f"span {number}",
            kind=kind,
            start_time_unix_nano=begin,
            end_time_unix_nano=end,
            attributes=pairs({key.replace("__", "."): value for key, value in of.items()}),
        )

    span("web", 1, 0, SpanKind.SERVER)
    span("web", 2, 1, SpanKind.CLIENT, server__address="10.0.0.7")
    span("cart", 3, 2, SpanKind.SERVER)
    span("cart", 4, 3, SpanKind.CLIENT, db__system="redis", server__address="redis-1")
    span("cart", 5, 3, SpanKind.PRODUCER, messaging__system="kafka", messaging__destination__name="orders")
    span("mail", 6, 5, SpanKind.CONSUMER, messaging__system="kafka", messaging__destination__name="orders")
    spans = decode_traces(request.SerializeToString()).spans
    sources = Sources()
    traces = Traces(TracesConfig(), sources.services)
    services, instances = sources.numbers(spans.resources)
    traces.add(spans, of_items(services, spans.resource), of_items(instances, spans.resource), 200 * S)
    made = traces.close(300 * S)
    assert made is not None
    graph = Topology(TopologyConfig(), sources.services)
    graph.add(calls_of(made), 300 * S)
    found = {(edge.caller, edge.callee): edge.kind for edge in graph.edges()}
    assert found == {
        ("web", "cart"): SERVICE,
        ("cart", "redis:redis-1"): DATABASE,
        ("cart", "kafka:orders"): MESSAGING,
        ("kafka:orders", "mail"): MESSAGING,
    }
    assert graph.dependents("mail") == ("kafka:orders", "cart", "web")
