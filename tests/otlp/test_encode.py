"""Encoding against the ordinary protobuf classes, and names and labels against what the Collector makes of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_aiops.labels import AttributeValue, Labels
from otel_aiops.otlp.attributes import attributes, resource, scope
from otel_aiops.otlp.encode import (
    encode_attributes,
    encode_gauges,
    encode_resource,
    encode_scope,
    encode_series,
    extend_attributes,
    point_template,
    series_of,
)
from otel_aiops.otlp.prometheus import label_name, label_value, prometheus_labels, prometheus_name
from otel_aiops.otlp.semconv import Metric

STALE = 1
texts = st.text(st.characters(codec="utf-8"), max_size=40)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), texts, st.binary(max_size=9)
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
attribute_sets = st.dictionaries(texts, values, max_size=4).map(lambda found: tuple(sorted(found.items())))


@settings(max_examples=200, deadline=None)
@given(attribute_sets)
def test_attributes_come_back(found: Any) -> None:
    expected = _normal(found)
    assert attributes(encode_attributes(found)) == expected
    assert resource(encode_resource(found)) == expected
    assert scope(encode_scope("lib", "1", found)) == ("lib", "1", expected)


def _normal(found: Any) -> Any:
    """Arrays of pairs are maps; nothing else changes, and the generator makes none but by chance."""
    return tuple((key, value) for key, value in found)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(texts, st.booleans(), attribute_sets), min_size=1, max_size=4),
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(1, 2**62),
            st.one_of(st.just(math.nan), st.floats(allow_nan=False)),
            st.sampled_from([0, 5]),
        ),
        max_size=30,
    ),
    st.integers(1, 7),
)
def test_series_are_what_the_classes_read(streams: Any, points: Any, most: int) -> None:
    labels = [
        Labels(name, kind="sum" if counts else "gauge", resource=(("service.name", "a"),), attributes=own)
        for name, counts, own in streams
    ]
    series = [series_of(one) for one in labels]
    points = [(index % len(series), *rest) for index, *rest in points]
    columns = list(zip(*points, strict=True)) if points else [(), (), (), ()]
    requests = encode_series(
        series,
        np.array(columns[0], np.int32),
        np.array(columns[1], np.int64),
        np.array(columns[2], np.float64),
        start_ns=np.array(columns[3], np.int64),
        max_points=most,
    )
    found = []
    for request in requests:
        assert request.points <= most
        read = list(_read(request.body))
        assert len(read) == request.points
        found += read
    expected = [
        (labels[i].name, labels[i].kind, labels[i].attributes, at, start, None if math.isnan(value) else value)
        for i, at, value, start in points
    ]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


def _read(body: bytes) -> Any:
    for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for within in group.scope_metrics:
            for metric in within.metrics:
                kind = metric.WhichOneof("data")
                if kind == "sum":
                    assert metric.sum.is_monotonic and metric.sum.aggregation_temporality == 2
                for point in getattr(metric, kind).data_points:
                    raw = type(point)(attributes=point.attributes).SerializeToString()
                    value = None if point.flags & STALE else point.as_double
                    times = point.time_unix_nano, point.start_time_unix_nano
                    yield metric.name, kind, attributes(raw), *times, value


def test_gauges_of_many_resources_and_columns() -> None:
    resources = [encode_resource((("service.name", f"s{k % 3}"),)) for k in range(10)]
    templates = [point_template(encode_attributes((("k", k),))) for k in range(10)]
    one, other = Metric("one", "gauge", "1", "first"), Metric("other", "gauge", "", "second")
    column = np.arange(10.0)
    absent = np.where(column > 6, np.nan, column)
    times = np.arange(1, 11, dtype=np.int64)
    made = encode_gauges(
        resources, templates, times, [(one, column), (other, absent)], scope=encode_scope(), max_points=8
    )
    found: dict[str, dict[int, float]] = {"one": {}, "other": {}}
    for request in made:
        assert request.points <= 8
        for name, _, own, at, _, value in _read(request.body):
            found[name][dict(own)["k"]] = value
            assert at == dict(own)["k"] + 1
    assert found["one"] == {k: float(k) for k in range(10)}
    assert found["other"] == {k: float(k) for k in range(7)}


def test_long_attributes_have_longer_lengths() -> None:
    for size in (1, 100, 120, 16_300, 16_400, 2_100_000):
        raw = encode_attributes((("k", "x" * size),))
        made = encode_gauges(
            [b""], [point_template(raw)], np.array([7], np.int64), [(Metric("m", "gauge", "", ""), np.array([1.5]))],
            scope=b"",
        )  # fmt: skip
        ((_, _, own, at, _, value),) = [point for request in made for point in _read(request.body)]
        assert (len(dict(own)["k"]), at, value) == (size, 7, 1.5)


def test_added_attributes_win() -> None:
    own = (("a", 1), ("b", "x"))
    raw = encode_attributes(own)
    assert attributes(extend_attributes(raw, own, {"c": "new"})) == (("a", 1), ("b", "x"), ("c", "new"))
    assert attributes(extend_attributes(raw, own, {"b": "new"})) == (("a", 1), ("b", "new"))
    assert attributes(extend_attributes(b"\x3a\x05x", own, {"c": "new"}))[0] == ("a", 1)


def test_other_kinds_cannot_be_series() -> None:
    with pytest.raises(ValueError, match="expected labels of a gauge or sum, got 'histogram' of x"):
        series_of(Labels("x", kind="histogram"))


@pytest.mark.parametrize(
    ("name", "unit", "kind", "expected"),
    [
        ("http.server.request.duration", "s", "histogram", "http_server_request_duration_seconds"),
        ("disk.io", "By", "counter", "disk_io_bytes_total"),
        ("cpu.utilization", "1", "gauge", "cpu_utilization_ratio"),
        ("requests.total", "", "counter", "requests_total"),
        ("speed", "m/s", "gauge", "speed_meters_per_second"),
        ("orders", "{order}", "counter", "orders_total"),
        ("9lives", "", "gauge", "_9lives"),
        ("memory.bytes", "By", "gauge", "memory_bytes"),
        ("a..b--c", "", "gauge", "a_b_c"),
        ("rate", "1/s", "gauge", "rate_per_second"),
        ("", "", "gauge", ""),
        ("x", "%", "gauge", "x_percent"),
    ],
)
def test_names_in_prometheus(name: str, unit: str, kind: Any, expected: str) -> None:
    assert prometheus_name(name, unit, kind) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"),
        (True, "true"),
        (3, "3"),
        (1.5, "1.5"),
        (1e-7, "1e-7"),
        (100000.0, "100000"),
        (None, ""),
        (b"ab", "YWI="),
        ((1, "x", b"ab", 2.0), '[1,"x","YWI=",2]'),
        ((("b", 1), ("a", (True, None))), '{"a":[true,null],"b":1}'),
        (("<&>",), '["\\u003c\\u0026\\u003e"]'),
        ((float("inf"),), "[json: unsupported value: +Inf]"),
        ((), "[]"),
    ],
)
def test_label_values(value: AttributeValue, expected: str) -> None:
    assert label_value(value) == expected


def test_labels_in_prometheus() -> None:
    labels = Labels(
        "x",
        resource=(("service.instance.id", "i"), ("service.name", "cart"), ("service.namespace", "shop")),
        attributes=(("__name__", "no"), ("a-b", 1), ("a.b", 2), ("a_b", 1), ("job", "mine"), ("é", 3)),
    )
    assert prometheus_labels(labels) == {"a_b": "1;2;1", "instance": "i", "job": "shop/cart"}
    assert [label_name(key) for key in ("http.route", "1st", "_x", "__reserved__", "é")] == [
        "http_route", "key_1st", "key_x", "__reserved__", "",
    ]  # fmt: skip
