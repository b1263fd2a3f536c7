"""Decoding against the ordinary protobuf classes, on every spelling of a request that hypothesis finds."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from otel_aiops.errors import BadInput
from otel_aiops.otlp.attributes import attributes, resource, scope
from otel_aiops.otlp.decode import INVALID, decode_metrics
from otel_aiops.otlp.memo import Memo
from otel_aiops.otlp.points import Decoded
from tests import naive
from tests.feed import Feed
from tests.otlp.scramble import scrambled, tagged

NOW_NS = 1_760_000_000_000_000_000

texts = st.text(st.characters(codec="utf-8"), max_size=6)
scalars = st.one_of(
    texts.map(lambda text: AnyValue(string_value=text)),
    st.booleans().map(lambda truth: AnyValue(bool_value=truth)),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: AnyValue(int_value=number)),
    st.floats(allow_nan=False).map(lambda number: AnyValue(double_value=number)),
    st.binary(max_size=5).map(lambda raw: AnyValue(bytes_value=raw)),
    st.just(AnyValue()),
)


def _array(values: list[AnyValue]) -> AnyValue:
    found = AnyValue()
    found.array_value.values.extend(values)
    return found


def _map(pairs: list[KeyValue]) -> AnyValue:
    found = AnyValue()
    found.kvlist_value.values.extend(pairs)
    return found


values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(_array),
        st.lists(st.builds(KeyValue, key=texts, value=inner), max_size=2).map(_map),
    ),
    max_leaves=4,
)
pairs = st.lists(st.builds(KeyValue, key=texts, value=values), max_size=4)
times = st.one_of(st.just(0), st.integers(NOW_NS, NOW_NS + 10**12), st.just(2**64 - 1))
flags = st.sampled_from([0, 0, 0, 1, 2, 3])
numbers = st.floats(allow_nan=True, allow_infinity=True)
counts = st.lists(st.integers(0, 2**40), max_size=6)


@st.composite
def requests(draw: st.DrawFn) -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    for _ in range(draw(st.integers(0, 2))):
        group = request.resource_metrics.add()
        group.resource.attributes.extend(draw(pairs))
        for _ in range(draw(st.integers(0, 2))):
            within = group.scope_metrics.add()
            within.scope.name, within.scope.version = draw(texts), draw(texts)
            for _ in range(draw(st.integers(0, 3))):
                _metric(draw, within.metrics.add(name=draw(texts), unit=draw(texts)))
    return request


def _metric(draw: st.DrawFn, metric: Any) -> None:
    kind = draw(st.sampled_from(["gauge", "sum", "histogram", "exponential_histogram", "summary", None]))
    if kind is None:
        return
    data = getattr(metric, kind)
    data.SetInParent()
    if kind not in ("gauge", "summary"):
        data.aggregation_temporality = draw(st.sampled_from([0, 1, 2, 7]))
    if kind == "sum":
        data.is_monotonic = draw(st.booleans())
    for _ in range(draw(st.integers(0, 4))):
        point = data.data_points.add(
            start_time_unix_nano=draw(times), time_unix_nano=draw(times), flags=draw(flags), attributes=draw(pairs)
        )
        _POINTS[kind](draw, point)


def _number(draw: st.DrawFn, point: Any) -> None:
    which = draw(st.sampled_from(["as_double", "as_int", None]))
    if which == "as_double":
        point.as_double = draw(numbers)
    elif which == "as_int":
        point.as_int = draw(st.integers(-(2**63), 2**63 - 1))
    if draw(st.booleans()):
        point.exemplars.add(as_double=1.0, time_unix_nano=5)


def _explicit(draw: st.DrawFn, point: Any) -> None:
    cells = draw(counts)
    point.bucket_counts.extend(cells)
    size = draw(st.sampled_from([max(0, len(cells) - 1), 2]))
    bounds = draw(st.lists(st.floats(-100, 100), min_size=size, max_size=size))
    point.explicit_bounds.extend(sorted(bounds) if draw(st.booleans()) else bounds)
    point.count = sum(cells)
    if draw(st.booleans()):
        point.sum = draw(numbers)


def _exponential(draw: st.DrawFn, point: Any) -> None:
    point.scale = draw(st.integers(-11, 21))
    point.zero_count = draw(st.integers(0, 9))
    point.positive.offset = draw(st.integers(-600, 600))
    point.positive.bucket_counts.extend(draw(counts))
    if draw(st.booleans()):
        point.negative.offset = draw(st.integers(-600, 600))
        point.negative.bucket_counts.extend(draw(counts))
    point.count = draw(st.integers(0, 99))
    point.zero_threshold = draw(st.floats(0, 1))


def _summary(draw: st.DrawFn, point: Any) -> None:
    for quantile in draw(st.lists(st.floats(0, 1), max_size=4)):
        point.quantile_values.add(quantile=quantile, value=draw(numbers))
    point.count, point.sum = draw(st.integers(0, 99)), draw(numbers)


_POINTS = {
    "gauge": _number,
    "sum": _number,
    "histogram": _explicit,
    "exponential_histogram": _exponential,
    "summary": _summary,
}


def check(body: bytes, memo: Memo | None = None) -> None:
    """Decoding equals the walk through protobuf's own classes."""
    expected, rejected = naive.decode_metrics(body)
    decoded = decode_metrics(body, memo)
    assert dict(decoded.rejected) == dict(rejected)
    assert len(decoded.points) == len(expected)
    for ours, twin in zip(flat(decoded), expected, strict=True):
        of_resource, of_scope, *about, own = twin[0], twin[1], *twin[2:7], twin[7]
        assert ours[0] == resource(Resource(attributes=of_resource).SerializeToString())
        assert ours[1] == scope(of_scope.SerializeToString())
        assert list(ours[2:7]) == about
        assert ours[7] == attributes(NumberDataPoint(attributes=own).SerializeToString())
        for mine, other in zip(ours[8:], twin[8:], strict=True):
            assert _same(mine, other), (mine, other)


def flat(decoded: Decoded) -> list[tuple[Any, ...]]:
    """Columns as points, in the shape of the twin's."""
    points = decoded.points
    found = []
    for i in range(len(points)):
        stream = points.streams[points.stream[i]]
        layout = points.layouts[points.layout[i]] if points.layout[i] >= 0 else b""
        cells = points.cells[points.cell_offset[i] : points.cell_offset[i + 1]].tolist()
        about = (stream.name, stream.unit, int(stream.kind), int(stream.temporality), stream.monotonic)
        numbers_ = (int(points.start_ns[i]), int(points.time_ns[i]), float(points.value[i]), float(points.count[i]))
        who = (resource(stream.resource), scope(stream.scope), *about, attributes(points.attributes[i]))
        found.append((*who, *numbers_, bool(points.stale[i]), layout, cells))
    return found


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or a == b or math.isclose(a, b, rel_tol=1e-9)
    return bool(a == b)


@settings(max_examples=200, deadline=None)
@given(requests())
def test_as_libraries_write_it(request: ExportMetricsServiceRequest) -> None:
    body = request.SerializeToString()
    memo = Memo()
    for known in (None, memo, memo):
        check(body, known)


@settings(max_examples=250, deadline=None)
@given(requests(), st.integers(0, 2**32))
def test_in_any_other_spelling(request: ExportMetricsServiceRequest, seed: int) -> None:
    body = scrambled(request, random.Random(seed))
    memo = Memo()
    for known in (None, memo, memo):
        check(body, known)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.booleans()), min_size=1, max_size=6), st.data())
def test_a_memo_of_other_requests_changes_nothing(shapes: list[tuple[int, bool, bool]], data: st.DataObject) -> None:
    """The same series again and again, with other numbers, starts, value types, flags and exemplars between."""
    memo = Memo()
    for count, started, whole in shapes:
        request = ExportMetricsServiceRequest()
        metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="cpu")
        for pod in range(count):
            point = metric.gauge.data_points.add(time_unix_nano=data.draw(st.integers(1, 2**64 - 1)))
            point.start_time_unix_nano = 7 if started else 0
            if whole:
                point.as_int = data.draw(st.integers(-(2**63), 2**63 - 1))
            else:
                point.as_double = data.draw(numbers)
            point.attributes.add(key="pod").value.string_value = f"p{pod}"
            point.flags = data.draw(st.sampled_from([0, 0, 0, 1]))
            if data.draw(st.integers(0, 9)) == 0:
                point.exemplars.add(as_double=1.0)
        check(request.SerializeToString(), memo)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
@example(b"\x0a\x02\x12\x05")
def test_garbage_is_bad_input_and_nothing_else(body: bytes) -> None:
    for known in (None, Memo()):
        try:
            decode_metrics(body, known)
        except BadInput as error:
            assert "expected an OTLP metrics request" in str(error)


@settings(max_examples=200, deadline=None)
@given(requests(), st.integers(0, 2**32))
def test_a_request_that_was_cut_or_damaged(request: ExportMetricsServiceRequest, seed: int) -> None:
    chance = random.Random(seed)
    body = bytearray(scrambled(request, chance))
    if body:
        body = body[: chance.randrange(len(body))] if chance.random() < 0.5 else body
    for _ in range(chance.randint(0, 3)):
        if body:
            body[chance.randrange(len(body))] = chance.randrange(256)
    try:
        decoded = decode_metrics(bytes(body), Memo())
    except BadInput:
        return
    points = decoded.points
    assert len(points.attributes) == len(points.time_ns) == len(points.cell_offset) - 1
    assert points.cell_offset[-1] == len(points.cells) and (np.diff(points.cell_offset) >= 0).all()


def test_a_point_that_is_no_protobuf_does_not_take_the_others_along() -> None:
    good = NumberDataPoint(time_unix_nano=5, as_double=1.5).SerializeToString()
    gauge = tagged(1, 2, good) + tagged(1, 2, b"\x39\x01") + tagged(1, 2, good)
    metric = tagged(1, 2, b"cpu") + tagged(5, 2, gauge)
    body = tagged(1, 2, tagged(2, 2, tagged(2, 2, metric)))
    for memo in (None, Memo()):
        decoded = decode_metrics(body, memo)
        assert decoded.points.value.tolist() == [1.5, 1.5]
        assert decoded.rejected == {INVALID: 1}


def test_names_that_are_no_text_are_rejected() -> None:
    good = tagged(5, 2, tagged(1, 2, NumberDataPoint(time_unix_nano=5, as_double=1.5).SerializeToString()))
    body = tagged(1, 2, tagged(2, 2, tagged(2, 2, tagged(1, 2, b"\xff") + good) + tagged(2, 2, good)))
    assert decode_metrics(body).rejected == {"metric name or unit is not UTF-8": 1, "metric has no name": 1}


def test_too_many_buckets_are_rejected() -> None:
    feed = Feed().histogram("big", 10, [1] * 1001, range(1000), 1.0).histogram("ok", 10, [1, 2], [1.0], 1.0)
    decoded = decode_metrics(feed.body())
    assert decoded.rejected == {"more than 1000 buckets or quantiles": 1} and len(decoded.points) == 1


def test_a_full_memo_starts_anew() -> None:
    memo = Memo(limit_bytes=5000)
    for name in range(50):
        check(Feed().gauge(f"cpu{name}", 10, 1.0, pod="a" * 20).body(), memo)
    assert memo.size_bytes <= memo.limit_bytes


def test_an_attribute_that_is_nested_without_end_is_refused() -> None:
    value = AnyValue(int_value=1)
    for _ in range(20):
        value = _array([value])
    raw = NumberDataPoint(attributes=[KeyValue(key="deep", value=value)]).SerializeToString()
    with pytest.raises(BadInput, match="nested more than 16 levels deep"):
        attributes(raw)


@pytest.mark.parametrize("read", [attributes, resource, scope])
def test_attributes_that_are_no_protobuf_are_refused(read: Any) -> None:
    with pytest.raises(BadInput, match="got 2 bytes that are not"):
        read(b"\x0a\xff")


def test_a_point_of_very_many_fields_is_rejected_and_the_others_stand() -> None:
    """A body of two-byte fields must not cost a step of numpy for each of them."""
    good = NumberDataPoint(time_unix_nano=5, as_double=1.5).SerializeToString()
    gauge = tagged(1, 2, good) + tagged(1, 2, good + b"\x78\x01" * 300_000)
    body = tagged(1, 2, tagged(2, 2, tagged(2, 2, tagged(1, 2, b"cpu") + tagged(5, 2, gauge))))
    for memo in (None, Memo()):
        decoded = decode_metrics(body, memo)
        assert decoded.points.value.tolist() == [1.5]
        assert decoded.rejected == {INVALID: 1}
