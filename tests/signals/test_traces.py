"""Traces: whatever the order in which spans come, trees are what looking at every pair of spans gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.otlp.spans import PeerKind, SpanKind
from otel_aiops.signals.names import OTHER, Names
from otel_aiops.signals.traces import (
    CIRCLE,
    DROPPED,
    DUPLICATE,
    ORPHAN,
    OWN_PARENT,
    PATIENCE_TRACES,
    SKEWED,
    UNMATCHED,
    Traces,
    TracesConfig,
)
from otel_aiops.signals.trees import CHILD, EVENT, LOG, Trees, event_code, event_parts
from tests.signals.made_spans import S, Sent, Told, give, log_events, naive_trees, read_trees, spans_of

LATE = 10_000 * S
IDS = st.integers(1, 6)
SERVICES = st.sampled_from(["a", "b", "c"])


def made(**config: float) -> Traces:
    return Traces(TracesConfig(**config), Names(1000))  # type: ignore[arg-type]


def closed(traces: Traces, event_ns: int = LATE) -> Trees:
    trees = traces.close(event_ns)
    assert trees is not None
    return trees


def assembled(*sent: Sent) -> list[Told]:
    """One trace, put together."""
    traces = made()
    give(traces, sent, S)
    (told,) = read_trees(closed(traces), traces).values()
    return told


@st.composite
def sent_spans(draw: st.DrawFn) -> Sent:
    start = draw(st.integers(0, 30))
    return Sent(
        trace=draw(st.integers(1, 3)),
        span=draw(IDS),
        parent=draw(st.integers(0, 7)),  # 7 never comes; cycles and spans that are their own parents do
        service=draw(SERVICES),
        name=draw(st.sampled_from(["x", "y"])),
        start_ns=start,
        end_ns=start + draw(st.integers(0, 20)),
        kind=draw(st.sampled_from(list(SpanKind))),
        peer=draw(st.sampled_from(["", "a", "db"])),
        peer_kind=PeerKind.DATABASE,
        error=draw(st.booleans()),
        exception=draw(st.sampled_from(["", "Boom"])),
        weight=draw(st.sampled_from([1.0, 4.0])),
        events=tuple(draw(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["retry", "hit"])), max_size=2))),
    )


def distinct(sent: list[Sent]) -> list[Sent]:
    """Each span once."""
    return list({(one.trace, one.span): one for one in sent}.values())


def circling(told: list[Told], k: int) -> bool:
    """Whether one goes up from a span for ever."""
    for _ in range(len(told) + 1):
        k = told[k]["parent"]
        if k < 0:
            return False
    return True


LOGS = st.lists(st.tuples(st.integers(1, 3), IDS, st.integers(0, 30), st.integers(1, 3)), max_size=6)


class TestTwin:
    @settings(max_examples=150, deadline=None)
    @given(st.lists(sent_spans(), min_size=1, max_size=14).map(distinct), LOGS, st.randoms(use_true_random=False))
    def test_random_spans_in_random_order_and_batches(
        self, sent: list[Sent], logs: list[tuple[int, int, int, int]], random: object
    ) -> None:
        again = [one for one in sent if random.random() < 0.2]  # type: ignore[attr-defined]
        again = [replace(one, start_ns=one.start_ns + k % 2, events=()) for k, one in enumerate(again)]
        again = [replace(one, end_ns=max(one.start_ns, one.end_ns)) for one in again]
        arriving = sent + again
        random.shuffle(arriving)  # type: ignore[attr-defined]
        traces = made()
        traces.services.numbers("abc")
        cut = random.randint(0, len(logs))  # type: ignore[attr-defined]
        traces.add_logs(log_events(logs[:cut]), S)
        while arriving:
            size = random.randint(1, 5)  # type: ignore[attr-defined]
            give(traces, arriving[:size], S)
            del arriving[:size]
        traces.add_logs(log_events(logs[cut:]), S)
        trees = closed(traces)
        expected = naive_trees(sent, logs, traces)
        found = read_trees(trees, traces)
        assert found.keys() == expected.keys()
        for trace, told in expected.items():
            for one, other in zip(found[trace], told, strict=True):
                assert np.isnan(one["gap_ns"]) == np.isnan(other["gap_ns"])
                assert {**one, "gap_ns": 0} == {**other, "gap_ns": 0}
                assert np.isnan(one["gap_ns"]) or one["gap_ns"] == other["gap_ns"]
        assert traces.counts[DUPLICATE] == len(again)
        assert traces.counts[ORPHAN] == sum(one["orphan"] for told in expected.values() for one in told)
        assert traces.counts[CIRCLE] == sum(circling(told, k) for told in expected.values() for k in range(len(told)))
        assert traces.counts[OWN_PARENT] == sum(one.parent == one.span for one in sent + again)
        assert (np.diff(trees.trace) >= 0).all() and (np.diff(trees.event_span) >= 0).all() and not len(traces)

    @settings(max_examples=40, deadline=None)
    @given(st.lists(sent_spans(), min_size=1, max_size=14).map(distinct), st.integers(1, 13))
    def test_restored_midway_it_goes_on_bit_for_bit(self, sent: list[Sent], cut: int) -> None:
        whole, second = made(), made()
        logs = log_events([(one.trace, one.span, 5, 2) for one in sent[:3]])
        give(whole, sent[:cut], S)
        whole.add_logs(logs, S)
        second.restore(whole.state())
        second.services.restore(whole.services.state())
        both = []
        for traces in (whole, second):
            give(traces, sent[cut:], 2 * S)
            both.append((traces.close(4 * S), traces.close(LATE), traces.state()))
        (_, trees, state), (_, other, again) = both
        assert trees is not None and other is not None
        for name in Trees.__dataclass_fields__:
            assert getattr(trees, name).tobytes() == getattr(other, name).tobytes(), name
        assert {k: v.tobytes() for k, v in state.items()} == {k: v.tobytes() for k, v in again.items()}


class TestTrees:
    def test_side_by_side_children_count_once_and_gaps_stay_with_the_parent(self) -> None:
        told = assembled(
            Sent(1, 1, end_ns=100),
            Sent(1, 2, 1, start_ns=10, end_ns=50),
            Sent(1, 3, 1, start_ns=20, end_ns=40),
            Sent(1, 4, 1, start_ns=70, end_ns=80),
        )
        assert [one["exclusive_ns"] for one in told] == [50, 20, 20, 10]

    def test_a_call_has_its_callee_and_the_time_that_it_does_not_explain(self) -> None:
        client, server = assembled(
            Sent(1, 1, service="a", kind=SpanKind.CLIENT, peer="b.internal", peer_kind=PeerKind.SERVICE, end_ns=100),
            Sent(1, 2, 1, service="b", kind=SpanKind.SERVER, start_ns=30, end_ns=70),
        )
        assert (client["callee"], client["callee_kind"], client["gap_ns"]) == ("b", PeerKind.SERVICE, 60)
        assert client["user"] and server["entry"] and not server["user"]

    def test_a_peer_that_sends_nothing_is_the_callee_without_a_gap(self) -> None:
        (told,) = assembled(Sent(1, 1, peer="redis", peer_kind=PeerKind.DATABASE))
        assert (told["callee"], told["callee_kind"]) == ("redis", PeerKind.DATABASE)
        assert np.isnan(told["gap_ns"])

    def test_clocks_of_hosts_that_differ_do_not_make_negative_times(self) -> None:
        traces, ms = made(), 1_000_000
        sent = [
            Sent(1, 1, service="a", start_ns=1000 * ms, end_ns=1100 * ms),
            Sent(1, 2, 1, service="b", start_ns=900 * ms, end_ns=960 * ms),  # before its parent began
            Sent(1, 3, 1, service="b", start_ns=1200 * ms, end_ns=1260 * ms),  # after it ended
            Sent(1, 4, 2, service="c", start_ns=1300 * ms, end_ns=1400 * ms),
            Sent(1, 5, 4, service="d", start_ns=1300 * ms - 9, end_ns=1310 * ms),  # clocks are not read so exactly
        ]
        give(traces, sent, S)
        (told,) = read_trees(closed(traces), traces).values()
        assert traces.counts == {SKEWED: 1}
        assert [one["exclusive_ns"] for one in told] == [60 * ms, 100 * ms, 60 * ms, 10 * ms + 9, 90 * ms]
        assert [one["parent"] for one in told] == [1, -1, 1, 4, 0]

    def test_events_are_in_order_of_time_whatever_they_are(self) -> None:
        traces = made()
        give(traces, [Sent(1, 1, end_ns=100, events=((60, "retry"),)), Sent(1, 2, 1, name="q", start_ns=40)], S)
        traces.add_logs(log_events([(1, 1, 20, 7), (1, 0, 1, 9)]), S)  # one without a span is no event of any
        trees = closed(traces)
        assert [event_parts(code)[0] for code in trees.event.tolist()] == [LOG, CHILD, EVENT]
        assert event_parts(int(trees.event[0])) == (LOG, 0, 7)

    def test_codes_of_events_come_apart_again(self) -> None:
        kinds = [(CHILD, 2**20, 2**27), (LOG, 0, 1), (EVENT, 0, 0), (CHILD, 0, 2**28 - 1)]
        for kind, service, what in kinds:
            (code,) = event_code(kind, np.array([service], np.int32), np.array([what], np.int32)).tolist()
            assert event_parts(code) == (kind, service, what)

    def test_equal_span_ids_of_two_traces_are_two_spans(self) -> None:
        traces = made()
        give(traces, [Sent(1, 5), Sent(2, 5), Sent(2, 6, 5)], S)
        found = read_trees(closed(traces), traces)
        assert [len(found[1]), len(found[2])] == [1, 2] and found[2][1]["parent"] == 0
        assert not traces.counts


class TestWaiting:
    def test_a_trace_with_a_root_waits_as_long_as_configured(self) -> None:
        traces = made(wait=4, wait_for_root=9)
        give(traces, [Sent(1, 1)], 10 * S)
        give(traces, [Sent(2, 2, parent=1)], 10 * S)
        assert traces.close(13 * S) is None and len(traces) == 2
        assert set(read_trees(closed(traces, 14 * S), traces)) == {1}
        assert traces.close(18 * S) is None
        assert set(read_trees(closed(traces, 19 * S), traces)) == {2}
        assert traces.close(20 * S) is None and traces.counts == {ORPHAN: 1}

    def test_each_span_that_comes_makes_it_wait_anew_but_not_for_ever(self) -> None:
        traces = made(wait=4, longest=10)
        for k in range(4):
            give(traces, [Sent(1, k + 1, min(k, 1))], (10 + 3 * k) * S)
            assert traces.close((10 + 3 * k) * S) is None
        assert len(closed(traces, 20 * S)) == 4

    def test_over_the_limit_the_oldest_traces_are_taken_as_they_are(self) -> None:
        traces = made(max_spans=5)
        for k in range(1, 5):
            give(traces, [Sent(k, 1), Sent(k, 2, 1)], k * S)
        trees = closed(traces, 4 * S)
        assert set(trees.trace_low.tolist()) == {1, 2} and len(traces) == 4
        assert traces.counts[DROPPED] == 4

    def test_it_waits_less_where_the_rest_has_always_come_soon(self) -> None:
        traces = made(wait=8)
        for k in range(PATIENCE_TRACES + 1):
            give(traces, [Sent(k + 1, 1)], S)
        give(traces, [Sent(k + 1, 2, 1) for k in range(50)], 2 * S)
        assert traces.close(5 * S) is None
        closed(traces, 20 * S)
        give(traces, [Sent(9000, 1)], 30 * S)
        assert traces.close(30 * S + S // 2) is None
        assert len(closed(traces, 31 * S)) == 1, "a second after its root"

    def test_and_waits_long_again_when_traces_lose_their_roots(self) -> None:
        traces = made(wait=8)
        give(traces, [Sent(k + 1, 1) for k in range(PATIENCE_TRACES)], S)
        give(traces, [Sent(5000 + k, 1, 7) for k in range(9)], S)
        closed(traces, 40 * S)
        give(traces, [Sent(9000, 1)], 50 * S)
        assert traces.close(57 * S) is None and traces.close(58 * S) is not None

    def test_what_was_learned_of_waiting_is_forgotten_slowly(self) -> None:
        traces = made(wait=8)
        for k in range(30):
            give(traces, [Sent(k * 1000 + j + 1, 1) for j in range(1000)], (k + 1) * 20 * S)
            closed(traces, (k + 1) * 20 * S + 8 * S)
        lags = traces.state()["patience"][:-1]
        assert 5_000 < lags.sum() < 20_000

    @pytest.mark.parametrize("bad", [{"wait": 0}, {"longest": 4000}, {"max_spans": 0}, {"wait_for_root": np.nan}])
    def test_bad_settings(self, bad: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match=next(iter(bad))):
            TracesConfig(**bad)  # type: ignore[arg-type]


class TestBadInput:
    def test_nothing_is_nothing(self) -> None:
        traces = made()
        traces.add(spans_of([]), np.empty(0, np.int32), np.empty(0, np.int32), S)
        traces.add_logs(log_events([]), S)
        assert traces.close(LATE) is None and len(traces) == 0

    def test_parents_in_a_circle_are_parents_and_nothing_turns_round(self) -> None:
        traces = made()
        circle = [Sent(1, 1, 3, end_ns=30), Sent(1, 2, 1, end_ns=20), Sent(1, 3, 2, end_ns=10)]
        give(traces, [*circle, Sent(2, 1), Sent(2, 2, 1), Sent(2, 3, 2), Sent(2, 4, 9)], S)
        told = read_trees(closed(traces), traces)[1]
        assert traces.counts == {CIRCLE: 3, ORPHAN: 1}
        assert [one["parent"] for one in told] == [2, 0, 1] and not any(one["user"] for one in told)
        assert all(one["exclusive_ns"] >= 0 for one in told)

    def test_a_trace_of_a_hundred_thousand_spans(self) -> None:
        n = 100_000
        spans = spans_of([Sent(1, 1, end_ns=n)])
        start = np.arange(n, dtype=np.int64)
        every = {name: np.repeat(getattr(spans, name), n) for name in ("trace_high", "trace_low", "resource", "name")}
        every |= {name: np.repeat(getattr(spans, name), n) for name in ("kind", "error", "exception", "peer")}
        every |= {name: np.repeat(getattr(spans, name), n) for name in ("peer_kind", "weight")}
        ids = np.arange(1, n + 1, dtype=np.uint64)
        chain = replace(spans, span=ids, parent=ids - 1, start_ns=start, end_ns=start * 0 + n, **every)  # type: ignore[arg-type]
        traces = made()
        one = np.ones(n, np.int32)
        traces.add(chain, one, one, S)
        trees = closed(traces)
        assert trees.parent.tolist() == [-1, *range(n - 1)]
        assert trees.exclusive_ns.tolist() == [1.0] * n and int(trees.user.sum()) == 1

    def test_ever_new_names_share_one_number(self) -> None:
        traces = made(max_operations=50, max_operations_per_service=30)
        give(traces, [Sent(k + 1, 1, name=f"GET /{k}", service="ab"[k % 2]) for k in range(5_000)], S)
        trees = closed(traces)
        assert len(traces.operations) == 51 and traces.operations.refused > 4_900
        numbers = [set(trees.operation[trees.service == k].tolist()) for k in (1, 2)]
        assert [len(found) for found in numbers] == [31, 21] and OTHER in numbers[0] & numbers[1]

    def test_fifty_thousand_names_are_bounded(self) -> None:
        traces = made(max_operations=100)
        for k in range(0, 50_000, 5_000):
            give(traces, [Sent(j + 1, 1, name=f"op-{j}", exception=f"E{j}") for j in range(k, k + 5_000)], S)
        closed(traces)
        assert len(traces.operations) == len(traces.words) == 101
        assert traces.words.refused == traces.operations.refused == 49_900

    def test_a_long_name_is_cut_and_known_again_after_a_restart(self) -> None:
        whole, second = made(max_operations_per_service=3), made(max_operations_per_service=3)
        sent = [Sent(1, k, k - 1, name="x" * 600 + str(k)) for k in (1, 2)]
        give(whole, sent, S)
        second.restore(whole.state())
        for traces in (whole, second):
            traces.services.number("a")
            give(traces, [*sent, Sent(1, 3, 1, name="y"), Sent(1, 4, 1, name="z")], S)
        assert second.operations.all() == whole.operations.all() == ["(other)", "x" * 512, "y", "z"]

    def test_logs_of_spans_that_never_come_are_counted_and_gone(self) -> None:
        traces = made(longest=60)
        traces.add_logs(log_events([(1, k, 5, 1) for k in range(1, 101)]), S)
        assert traces.close(30 * S) is None and not traces.counts
        assert traces.close(61 * S) is None and traces.counts == {UNMATCHED: 100}
        assert not len(traces.state()["events/span"])

    def test_logs_that_wait_are_bounded(self) -> None:
        traces = made(max_spans=50)
        for k in range(10):
            traces.add_logs(log_events([(1, 100 * k + j + 1, 5, 1) for j in range(20)]), S)
            traces.close(S)
        assert traces.counts == {UNMATCHED: 150}
        assert int(traces.state()["events/span"][0]) == 711, "the oldest are let go"

    def test_logs_that_wait_are_bounded_while_spans_wait_too(self) -> None:
        traces = made(max_spans=50)
        give(traces, [Sent(1, 1)], S)
        traces.add_logs(log_events([(9, j + 1, 5, 1) for j in range(200)]), S)
        assert traces.close(S) is None
        assert len(traces.state()["events/span"]) == 50 and traces.counts == {UNMATCHED: 150}

    def test_times_far_away_change_nothing_for_others(self) -> None:
        traces = made()
        far = 2**62
        give(traces, [Sent(1, 1, start_ns=0, end_ns=5), Sent(2, 1, start_ns=far, end_ns=far + 5)], S)
        give(traces, [Sent(3, 1, start_ns=0, end_ns=far), Sent(3, 2, 1, start_ns=far, end_ns=far + 9)], S)
        trees = closed(traces)
        assert len(trees) == 4 and (trees.exclusive_ns >= 0).all() and np.isfinite(trees.exclusive_ns).all()


class TestState:
    def test_a_state_that_does_not_fit(self) -> None:
        traces = made()
        give(traces, [Sent(1, 1, name="x")], S)
        good = traces.state()
        for name in good:
            with pytest.raises(StateError):
                made().restore({key: array for key, array in good.items() if key != name})
        for name, bad in (
            ("pairs", np.array([[1, 99]], np.int32)),
            ("pairs", np.zeros(3, np.int32)),
            ("patience", np.zeros((2, 2))),
            ("spans/span", np.zeros(3)),
            ("operations/names", np.frombuffer(b"\xff" * len(good["operations/names"]), np.uint8)),
        ):
            with pytest.raises(StateError):
                made().restore({**good, name: bad})

    def test_another_wait_begins_to_learn_anew(self) -> None:
        old, new = made(wait=8), made(wait=4)
        give(old, [Sent(1, 1)], S)
        closed(old)
        new.restore(old.state())
        assert new.state()["patience"].sum() == 0
