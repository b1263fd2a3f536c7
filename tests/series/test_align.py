"""Alignment against its slow twin, and the rules of the data model one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.series.align import Align, AlignConfig, Aligned
from otel_aiops.series.buckets import percentiles
from otel_aiops.series.table import SeriesTable, TableConfig
from tests import naive
from tests.feed import DELTA, STALE, Feed, ns

NOW_S = 2_000_000_000.0


class Road:
    """A table and an alignment, as the pipeline has them."""

    def __init__(self, config: AlignConfig | None = None, *, max_series: int = 1000) -> None:
        self.table = SeriesTable(TableConfig(max_series=max_series))
        self.align = Align(config or AlignConfig())

    def step(self, feed: Feed, now_s: float = NOW_S) -> Aligned:
        points = decode_metrics(feed.body()).points
        rows = self.table.rows(points, event_now_ns=ns(now_s))
        return self.align.step(points, rows, now_ns=ns(now_s))

    def values(self, feed: Feed, now_s: float = NOW_S) -> dict[str, list[float]]:
        """The values of one request by "name:stat"."""
        found: dict[str, list[float]] = {}
        for batch in self.step(feed, now_s).batches:
            for row, value in zip(batch.rows.tolist(), batch.value.tolist(), strict=True):
                labels = self.table.labels(row)
                found.setdefault(f"{labels.name}:{labels.stat}".rstrip(":"), []).append(value)
        return found

    def counts(self, feed: Feed, now_s: float = NOW_S) -> dict[str, int]:
        return dict(self.step(feed, now_s).counts)


class TestGauges:
    def test_stay_as_they_are(self) -> None:
        assert Road().values(Feed().gauge("cpu", 10, 0.5)) == {"cpu": [0.5]}

    def test_of_one_request_are_taken_in_the_order_of_their_times(self) -> None:
        feed = Feed().gauge("cpu", 30, 3).gauge("cpu", 10, 1).gauge("cpu", 20, 2).gauge("other", 15, 9)
        assert Road().values(feed) == {"cpu": [1, 2, 3], "other": [9]}

    def test_late_and_duplicate_points_are_counted_and_not_scored(self) -> None:
        road = Road()
        road.step(Feed().gauge("cpu", 20, 1))
        late = Feed().gauge("cpu", 10, 1).gauge("cpu", 20, 1)
        assert road.values(late) == {}
        assert road.counts(late) == {"duplicate": 1, "late": 1}

    def test_points_from_the_future_cannot_block_those_of_now(self) -> None:
        road = Road(AlignConfig(max_ahead=60))
        assert road.counts(Feed().gauge("cpu", NOW_S + 61, 1)) == {"future": 1}
        assert road.values(Feed().gauge("cpu", NOW_S, 1)) == {"cpu": [1]}

    def test_points_without_time_or_number_are_absent(self) -> None:
        road = Road()
        feed = Feed().gauge("b", 10, float("nan")).gauge("c", 10, float("inf"))
        assert road.counts(feed) == {"absent": 2}
        assert road.values(feed) == {}
        assert decode_metrics(Feed().gauge("a", 0, 1).body()).rejected  # a time that is not set does not come so far

    def test_gaps_are_counted(self) -> None:
        road = Road()
        for at in (10, 20, 30, 40):
            assert road.counts(Feed().gauge("cpu", at, 1)) == {}
        assert road.counts(Feed().gauge("cpu", 80, 1)) == {"gap": 1}


class TestCounters:
    def test_become_rates(self) -> None:
        road = Road()
        assert road.values(Feed().counter("requests", 10, 100, start_s=5)) == {}
        assert road.values(Feed().counter("requests", 20, 150, start_s=5)) == {"requests:rate": [5.0]}

    def test_start_anew_at_a_later_start_time_even_when_they_are_higher(self) -> None:
        road = Road()
        road.step(Feed().counter("requests", 10, 100, start_s=5))
        step = Feed().counter("requests", 20, 160, start_s=12)
        assert road.values(step) == {"requests:rate": [160 / 8]}

    def test_start_anew_when_they_fall(self) -> None:
        road = Road()
        road.step(Feed().counter("requests", 10, 100))
        aligned = road.step(Feed().counter("requests", 20, 30))
        assert aligned.batches[0].value.tolist() == [3.0]
        assert aligned.counts == {"reset": 1}

    def test_a_start_that_is_corrected_is_no_reset(self) -> None:
        road = Road()
        road.step(Feed().counter("requests", 10, 100, start_s=1))
        assert road.values(Feed().counter("requests", 20, 150, start_s=2)) == {"requests:rate": [5.0]}

    def test_delta_is_divided_by_its_own_length(self) -> None:
        road = Road()
        feed = Feed().counter("requests", 20, 40, start_s=10, temporality=DELTA)
        assert road.values(feed) == {"requests:rate": [4.0]}

    def test_delta_without_a_start_is_divided_by_the_time_since_the_last(self) -> None:
        road = Road()
        assert road.values(Feed().counter("requests", 20, 40, temporality=DELTA)) == {}
        assert road.values(Feed().counter("requests", 30, 40, temporality=DELTA)) == {"requests:rate": [4.0]}

    def test_that_go_up_and_down_are_values(self) -> None:
        assert Road().values(Feed().counter("connections", 10, 7, monotonic=False)) == {"connections": [7.0]}

    def test_after_the_end_there_is_no_base(self) -> None:
        road = Road()
        road.step(Feed().counter("requests", 10, 100))
        ended = road.step(Feed().counter("requests", 20, 0, flags=STALE))
        assert ended.ended.tolist() == [0] and ended.counts == {"stale": 1} and not ended.batches
        assert road.values(Feed().counter("requests", 30, 200)) == {}
        assert road.values(Feed().counter("requests", 40, 210)) == {"requests:rate": [1.0]}


class TestDistributions:
    def test_histograms_become_rate_mean_and_percentile(self) -> None:
        road = Road()
        road.step(Feed().histogram("latency", 10, [10, 10, 0], [0.1, 1.0], 5.0))
        found = road.values(Feed().histogram("latency", 20, [20, 20, 0], [0.1, 1.0], 8.0))
        assert found["latency:rate"] == [2.0]
        assert found["latency:mean"] == pytest.approx([0.15])
        assert found["latency:p95"] == pytest.approx([0.1 + 0.9 * 0.9])

    def test_without_new_observations_only_the_rate_is_there(self) -> None:
        road = Road()
        road.step(Feed().histogram("latency", 10, [10, 10, 0], [0.1, 1.0], 5.0))
        assert road.values(Feed().histogram("latency", 20, [10, 10, 0], [0.1, 1.0], 5.0)) == {"latency:rate": [0.0]}

    def test_new_bounds_cost_one_percentile(self) -> None:
        road = Road()
        road.step(Feed().histogram("latency", 10, [1, 1], [1.0], 1.0))
        assert "latency:p95" not in road.values(Feed().histogram("latency", 20, [2, 2, 0], [1.0, 2.0], 2.0))
        assert "latency:p95" in road.values(Feed().histogram("latency", 30, [3, 3, 0], [1.0, 2.0], 3.0))

    def test_of_delta_need_no_base(self) -> None:
        feed = Feed().histogram("latency", 20, [0, 4], [1.0], 12.0, start_s=10, temporality=DELTA)
        assert Road().values(feed) == {"latency:rate": [0.4], "latency:mean": [3.0], "latency:p95": [1.0]}

    def test_summaries_keep_their_quantiles(self) -> None:
        road = Road()
        road.step(Feed().summary("gc", 10, 5, 1.0, {0.5: 0.1, 0.99: 0.4}))
        found = road.values(Feed().summary("gc", 20, 10, 2.0, {0.99: 0.5, 0.5: 0.2}))
        assert found == {"gc:rate": [0.5], "gc:mean": [0.2], "gc:p50": [0.2], "gc:p99": [0.5]}

    @given(
        st.lists(st.integers(0, 50), min_size=2, max_size=8),
        st.floats(0.01, 0.99),
        st.floats(-5, 5),
    )
    def test_percentiles_are_those_of_the_slow_twin(self, counts: list[int], share: float, first: float) -> None:
        bounds = [first + k for k in range(len(counts) - 1)]
        (found,) = percentiles(np.array([counts], float), np.array(bounds), (share,))[0].tolist()
        expected = naive.percentile([float(count) for count in counts], bounds, share)
        assert np.isnan(found) if expected is None else found == pytest.approx(expected)


class TestSilence:
    def road(self, **config: float) -> Road:
        road = Road(AlignConfig(**config))  # type: ignore[arg-type]
        for at in range(10, 70, 10):
            road.step(Feed().gauge("cpu", at, 1).counter("requests", at, at), now_s=at)
        return road

    def test_is_noticed_after_some_intervals(self) -> None:
        road = self.road(stopped_min=0, stopped_intervals=5)
        assert not len(road.align.silence(ns(110)).rows)
        found = road.align.silence(ns(111))
        assert found.rows.tolist() == [0, 1]
        assert found.silence_s.tolist() == [51, 51] and found.limit_s == pytest.approx([50, 50])

    def test_is_not_noticed_when_the_sender_said_so(self) -> None:
        road = self.road(stopped_min=0)
        road.step(Feed().gauge("cpu", 70, 0, flags=STALE), now_s=70)
        assert road.align.silence(ns(200)).rows.tolist() == [1]

    def test_ends_when_the_series_comes_back(self) -> None:
        road = self.road(stopped_min=0)
        assert len(road.align.silence(ns(200)).rows) == 2
        road.step(Feed().gauge("cpu", 200, 1).counter("requests", 200, 200), now_s=200)
        assert not len(road.align.silence(ns(210)).rows)

    def test_that_lasts_is_told_once_and_then_normal(self) -> None:
        road = self.road(stopped_min=0, stopped_max=300)
        assert road.align.silence(ns(361)).gone.tolist() == [0, 1]
        after = road.align.silence(ns(362))
        assert not len(after.gone) and not len(after.rows)

    def test_of_what_was_hardly_there_is_nothing(self) -> None:
        road = Road(AlignConfig(stopped_min=0))
        road.step(Feed().gauge("cpu", 10, 1), now_s=10)
        assert not len(road.align.silence(ns(1000)).rows)


class TestState:
    def test_goes_on_bit_for_bit(self) -> None:
        def feed(at: int) -> Feed:
            one = Feed().gauge("cpu", at, at).counter("requests", at, at * 7)
            return one.histogram("latency", at, [at, at // 2, 3], [0.1, 1.0], at * 0.3)

        whole, first = Road(), Road()
        for at in range(10, 100, 10):
            whole.step(feed(at))
            if at < 50:
                first.step(feed(at))
        second = Road()
        second.table.restore(first.table.state())
        second.align.restore(first.align.state())
        for at in range(50, 100, 10):
            second.step(feed(at))
        mine, other = second.align.state(), whole.align.state()
        assert mine.keys() == other.keys()
        assert all(mine[name].tobytes() == other[name].tobytes() for name in mine)

    def test_that_does_not_fit_is_refused(self) -> None:
        state = Road().align.state()
        with pytest.raises(StateError, match="expected arrays"):
            Align(AlignConfig()).restore({**state, "more": np.zeros(1)})
        road = Road()
        road.step(Feed().histogram("latency", 10, [1, 2, 3], [0.1, 1.0], 1.0))
        state = road.align.state()
        with pytest.raises(StateError, match="cells"):
            Align(AlignConfig()).restore({**state, "bucket_counts": np.zeros(1)})

    def test_forgotten_rows_give_their_buckets_back(self) -> None:
        road = Road()
        road.step(Feed().histogram("latency", 10, [1, 2, 3], [0.1, 1.0], 1.0))
        road.align.forget(np.array([0, 1, 2], np.int32))
        assert road.align.state()["bucket_free"].tolist() == [[0, 0]]
        road.step(Feed().histogram("latency", 20, [1, 2, 3], [0.1, 1.0], 1.0))
        assert road.align.state()["bucket_free"].tolist() == []


kinds = st.sampled_from(["gauge", "counter", "delta", "updown", "histogram", "delta histogram", "summary"])


@st.composite
def requests(draw: st.DrawFn) -> list[Feed]:
    """Some requests whose points come in any order, again and again, with resets and ends."""
    feeds = []
    for _ in range(draw(st.integers(1, 4))):
        feed = Feed()
        for _ in range(draw(st.integers(1, 12))):
            _add(feed, draw(kinds), draw(st.integers(1, 30)), draw)
        feeds.append(feed)
    return feeds


def _add(feed: Feed, kind: str, at: int, draw: st.DrawFn) -> None:
    number = draw(st.integers(0, 20))
    start = draw(st.sampled_from([0, 1, max(0, at - 3), at]))
    pod = draw(st.sampled_from(["a", "b"]))
    if kind == "gauge":
        feed.gauge("gauge", at, number, flags=draw(st.sampled_from([0, 0, 0, STALE])), pod=pod)
    elif kind in ("counter", "delta", "updown"):
        temporality, flags = (DELTA if kind == "delta" else 2), draw(st.sampled_from([0, 0, 0, STALE]))
        feed.counter(
            kind, at, number, start_s=start, temporality=temporality, monotonic=kind != "updown", flags=flags, pod=pod
        )
    elif kind == "summary":
        feed.summary("summary", at, number, number * 1.5, {0.5: number, 0.99: number + 1.0}, pod=pod)
    else:
        cells = [number, draw(st.integers(0, 9)), draw(st.integers(0, 9))]
        temporality = DELTA if kind == "delta histogram" else 2
        feed.histogram(kind, at, cells, [0.5, 2.0], number * 0.7, start_s=start, temporality=temporality, pod=pod)


@settings(max_examples=150, deadline=None)
@given(requests())
def test_alignment_equals_its_slow_twin(feeds: list[Feed]) -> None:
    road, seen = Road(), {}
    for feed in feeds:
        points = decode_metrics(feed.body()).points
        names = [points.streams[stream].name for stream in points.stream.tolist()]
        rows = road.table.rows(points, event_now_ns=ns(NOW_S))
        aligned = road.align.step(points, rows, now_ns=ns(NOW_S))
        order = list(zip(names, points.attributes, strict=True))
        expected, counts = naive.align(points, order, (rows.first >= 0).tolist(), seen)
        assert _by_series(road, aligned) == expected
        assert {k: v for k, v in aligned.counts.items() if k != "gap"} == {k: v for k, v in counts.items() if v}


def _by_series(road: Road, aligned: Aligned) -> dict[Any, list[tuple[int, float]]]:
    found: dict[Any, list[tuple[int, float]]] = {}
    for batch in aligned.batches:
        for row, at, value in zip(batch.rows.tolist(), batch.time_ns.tolist(), batch.value.tolist(), strict=True):
            source = road.table.source(row)
            found.setdefault(((source.stream.name, source.attributes), source.stat), []).append((at, value))
    return found


@pytest.mark.parametrize(
    "wrong", [{"max_ahead": -1}, {"gap_intervals": 1}, {"stopped_intervals": 0}, {"stopped_max": 1, "stopped_min": 2}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AlignConfig(**wrong)  # type: ignore[arg-type]
