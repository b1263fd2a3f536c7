"""Identity of series, the bound on their number, and what becomes of those that are over it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.series import lookup
from otel_aiops.series.table import Rows, SeriesTable, TableConfig
from tests.feed import STALE, Feed, ns, pairs

HOUR_S = 3600


def add(table: SeriesTable, body: bytes | Feed, now_s: float = 1000) -> Rows:
    payload = body if isinstance(body, bytes) else body.body()
    return table.rows(decode_metrics(payload).points, event_now_ns=ns(now_s))


def gauges(names: range, at_s: float = 1000, **attributes: Any) -> Feed:
    feed = Feed()
    for number in names:
        feed.gauge("cpu", at_s, 1.0, pod=f"p{number}", **attributes)
    return feed


class TestIdentity:
    def test_order_of_attributes_does_not_matter(self) -> None:
        table = SeriesTable(TableConfig())
        attributes = {"a": 1, "b": "x", "c": True, "d": 2.5}
        first = add(table, _request(attributes, attributes)).first[0]
        for seed in range(10):
            shuffled = list(attributes.items())
            random.Random(seed).shuffle(shuffled)
            assert add(table, _request(dict(shuffled), dict(shuffled[::-1]))).first[0] == first
        assert len(table) == 1

    @pytest.mark.parametrize(
        "change",
        [
            {"name": "other"},
            {"unit": "By"},
            {"scope": "lib2"},
            {"version": "2"},
            {"resource": {"service.name": "cart", "pod": "2"}},
            {"attributes": {"a": "1"}},
            {"attributes": {"a": 1.0}},
            {"attributes": {"a": True}},
            {"attributes": {"a": 1, "b": ""}},
            {"attributes": {}},
        ],
    )
    def test_everything_else_does(self, change: dict[str, Any]) -> None:
        table = SeriesTable(TableConfig())
        add(table, _named())
        rows = add(table, _named(**change))
        assert rows.counts["created"] == 1 and len(table) == 2

    def test_int_and_double_values_are_one_series(self) -> None:
        table = SeriesTable(TableConfig())
        request = ExportMetricsServiceRequest.FromString(_named())
        add(table, request.SerializeToString())
        request.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[0].as_int = 5
        request.resource_metrics[0].scope_metrics[0].metrics[0].description = "words"
        assert add(table, request.SerializeToString()).counts["created"] == 0

    def test_labels_are_those_that_were_sent(self) -> None:
        table = SeriesTable(TableConfig())
        rows = add(table, Feed("cart", pod="p1").histogram("latency", 10, [1, 2], [0.5], 3.0, route="/pay"))
        labels = [table.labels(row) for row in range(int(rows.first[0]), int(rows.first[0]) + 3)]
        assert [one.stat for one in labels] == ["rate", "mean", "p95"]
        assert labels[0].name == "latency" and labels[0].unit == "s" and labels[0].kind == "histogram"
        assert labels[0].resource == (("pod", "p1"), ("service.name", "cart"))
        assert labels[0].attributes == (("route", "/pay"),) and labels[0].scope_name == "app"
        assert labels[0].service == "cart"

    def test_labels_without_what_takes_long_to_read_are_the_same_in_the_rest(self) -> None:
        table = SeriesTable(TableConfig())
        add(table, Feed("cart").histogram("latency", 10, [1, 2], [0.5], 3.0, route="/pay").gauge("cpu", 10, 1, cpu="0"))
        short, whole = table.labels_of(table.live(), whole=False), table.labels_of(table.live())
        bare = {"scope_name": "", "scope_version": "", "scope_attributes": (), "attributes": ()}
        assert short == [replace(one, **bare) for one in whole] != whole

    def test_fingerprints_are_the_same_on_every_machine(self) -> None:
        one, other = SeriesTable(TableConfig()), SeriesTable(TableConfig())
        add(other, gauges(range(5)))
        add(other, _named())
        add(one, _named())
        name = int(one.fingerprint(np.array([0], np.int32))[0])
        row = other.find(name)
        assert row == 5 and other.labels(row) == one.labels(0)
        assert other.find(12345) is None
        assert f"{name:016x}" == "848767a68ad8ef13"  # it is in files and URLs: a change breaks them

    def test_own_output_has_no_row(self) -> None:
        table = SeriesTable(TableConfig())
        feeds = [
            Feed().gauge("otel_aiops.anomaly.score", 10, 1),
            Feed().gauge("otel_aiops_anomaly_score", 10, 1),
            Feed("otel-aiops").gauge("cpu", 10, 1),
        ]
        assert [dict(add(table, feed).counts)["own"] for feed in feeds] == [1, 1, 1]
        assert len(table) == 0

    def test_ignored_names_have_none_either(self) -> None:
        table = SeriesTable(TableConfig(ignore_names=("cpu",)))
        assert add(table, gauges(range(3))).counts["ignored"] == 3

    def test_labels_over_the_limit_have_none(self) -> None:
        table = SeriesTable(TableConfig(max_label_bytes=200))
        rows = add(table, Feed().gauge("a", 10, 1, text="x" * 300).gauge("b", 10, 1, text="x" * 50))
        assert rows.first.tolist() == [-1, 0] and rows.counts["oversized"] == 1
        assert add(table, Feed("x" * 300).gauge("a", 10, 1)).counts["oversized"] == 1

    def test_a_series_that_was_never_seen_cannot_end(self) -> None:
        table = SeriesTable(TableConfig())
        assert add(table, Feed().gauge("a", 10, 0, flags=STALE)).counts["unknown_end"] == 1
        assert len(table) == 0


class TestBound:
    def test_newcomers_are_refused_counted_and_named(self) -> None:
        table = SeriesTable(TableConfig(max_series=10))
        add(table, Feed().gauge("quiet", 10, 1))
        rows = add(table, gauges(range(30), session="s"))
        assert len(table) == 10 and rows.counts["refused"] == 21
        assert (rows.first == -1).sum() == 21
        found = table.cardinality()
        assert (found.metric, found.attribute) == ("cpu", "pod")
        assert found.refused == 21 and found.series == found.limit == 10
        assert found.metric_series == 9 and found.metric_refused == 21

    def test_a_block_that_does_not_fit_is_refused_whole(self) -> None:
        table = SeriesTable(TableConfig(max_series=4))
        add(table, gauges(range(2)))
        rows = add(table, Feed().histogram("latency", 10, [1, 2], [0.5], 3.0))
        assert rows.counts["refused"] == 1 and len(table) == 2

    def test_idle_series_make_room(self) -> None:
        table = SeriesTable(TableConfig(max_series=10, reclaim_after=HOUR_S))
        add(table, gauges(range(10)), now_s=1000)
        add(table, gauges(range(5)), now_s=1000 + HOUR_S)
        assert add(table, gauges(range(10, 12)), now_s=1100).counts["refused"] == 2  # none is idle yet
        rows = add(table, gauges(range(10, 13)), now_s=1001 + HOUR_S)
        assert sorted(rows.reclaimed.tolist()) == [5, 6, 7, 8, 9]
        assert len(table) == 8 and set(rows.first.tolist()) <= {5, 6, 7, 8, 9}
        again = add(table, gauges(range(5, 10)), now_s=1002 + HOUR_S)
        assert again.counts["refused"] == 3 and again.counts["created"] == 2

    def test_ended_series_make_room_sooner(self) -> None:
        table = SeriesTable(TableConfig(max_series=2, reclaim_after=10 * HOUR_S, reclaim_ended_after=60))
        add(table, gauges(range(2)), now_s=1000)
        add(table, Feed().gauge("cpu", 1001, 0, pod="p1", flags=STALE), now_s=1001)
        rows = add(table, gauges(range(2, 3)), now_s=1062)
        assert rows.reclaimed.tolist() == [1] and rows.first.tolist() == [1]

    def test_a_series_that_reports_is_never_reclaimed(self) -> None:
        table = SeriesTable(TableConfig(max_series=2, reclaim_after=60))
        add(table, gauges(range(2)), now_s=1000)
        add(table, gauges(range(2)), now_s=1090)
        rows = add(table, gauges(range(4)), now_s=1100)
        assert rows.counts["refused"] == 2 and not len(rows.reclaimed)

    def test_ever_new_ways_to_write_known_series_are_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lookup, "CACHE_BYTES", 2000)
        table = SeriesTable(TableConfig())
        attributes = [(f"k{k}", k) for k in range(6)]
        first = add(table, _request({}, dict(attributes))).first[0]
        for seed in range(200):
            random.Random(seed).shuffle(attributes)
            assert add(table, _request({}, dict(attributes))).first[0] == first
        assert table._lookup._spare_bytes <= 2 * 2000
        assert len(table) == 1


class TestState:
    def table(self) -> SeriesTable:
        table = SeriesTable(TableConfig(max_series=40, reclaim_after=60))
        add(table, gauges(range(20)), now_s=1000)
        add(table, Feed().histogram("latency", 10, [1, 2], [0.5], 3.0), now_s=1000)
        add(table, Feed().summary("gc", 10, 5, 1.0, {0.5: 0.1, 0.9: 0.2}), now_s=1000)
        add(table, gauges(range(10)), now_s=1100)
        add(table, gauges(range(20, 50)), now_s=1101)  # over the limit: idle ones go
        return table

    def test_restored_table_goes_on_with_the_same_rows(self) -> None:
        table = self.table()
        other = SeriesTable(table.config)
        other.restore(table.state())
        for feed in (gauges(range(60)), Feed().histogram("latency", 10, [1, 2], [0.5], 3.0)):
            mine, theirs = add(table, feed, 1200), add(other, feed, 1200)
            assert mine.first.tolist() == theirs.first.tolist()
            assert mine.reclaimed.tolist() == theirs.reclaimed.tolist()
        a, b = table.state(), other.state()
        assert a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)
        assert [str(table.labels(row)) for row in table.live()] == [str(other.labels(row)) for row in other.live()]

    @pytest.mark.parametrize("damage", ["missing", "dtype", "ends", "stream"])
    def test_that_does_not_hold_together_is_refused(self, damage: str) -> None:
        state = self.table().state()
        if damage == "missing":
            del state["head"]
        elif damage == "dtype":
            state["head"] = state["head"].astype(np.int64)
        elif damage == "ends":
            state["attribute_ends"] = state["attribute_ends"][::-1].copy()
        else:
            state["stream"] = state["stream"] + 1000
        with pytest.raises(StateError):
            SeriesTable(TableConfig()).restore(state)

    def test_rows_without_a_series_have_no_labels(self) -> None:
        table = SeriesTable(TableConfig())
        with pytest.raises(KeyError, match="row 3 has no series"):
            table.labels(3)
        assert not table.is_live(3) and not table.is_head(-1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 25), min_size=1, max_size=20), min_size=1, max_size=8), st.integers(3, 30))
def test_rows_are_those_of_a_plain_dictionary(bodies: list[list[int]], limit: int) -> None:
    """Without idle series, a row is the number of the series in the order of first sight, up to the limit."""
    table, expected = SeriesTable(TableConfig(max_series=limit)), {}
    for names in bodies:
        feed = Feed()
        for name in names:
            feed.gauge("cpu", 1000, 1.0, pod=name)
            if name not in expected and len(expected) < limit:
                expected[name] = len(expected)
        assert add(table, feed).first.tolist() == [expected.get(name, -1) for name in names]


@pytest.mark.parametrize(
    "wrong",
    [{"max_series": 0}, {"percentiles": (0.0,)}, {"percentiles": (95.0, 95.0)}, {"reclaim_after": 0}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TableConfig(**wrong)


def _request(resource: dict[str, Any], attributes: dict[str, Any]) -> bytes:
    """One gauge whose attributes stand on the wire in this order."""
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    group.resource.attributes.extend(pairs(resource))
    point = group.scope_metrics.add().metrics.add(name="cpu").gauge.data_points.add(time_unix_nano=10, as_double=1)
    point.attributes.extend(pairs(attributes))
    return request.SerializeToString()


def _named(
    name: str = "cpu",
    unit: str = "1",
    scope: str = "lib",
    version: str = "1",
    resource: dict[str, Any] | None = None,
    attributes: dict[str, Any] | None = None,
) -> bytes:
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    group.resource.attributes.extend(pairs(resource or {"service.name": "cart"}))
    within = group.scope_metrics.add()
    within.scope.name, within.scope.version = scope, version
    point = within.metrics.add(name=name, unit=unit).gauge.data_points.add(time_unix_nano=10, as_double=1)
    own: list[KeyValue] = pairs({"a": 1} if attributes is None else attributes)
    point.attributes.extend(own)
    return request.SerializeToString()
