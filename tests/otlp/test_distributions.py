"""Histograms and summaries as columns: what is encoded is what protobuf and our decoder read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_aiops.labels import Labels
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.distributions import encode_distribution
from otel_aiops.otlp.encode import encode_attributes, encode_resource, encode_scope, series_of
from otel_aiops.otlp.points import Kind, Stream, Temporality


def stream(kind: Kind, unit: str = "s") -> Stream:
    resource = encode_resource((("service.name", "cart"),))
    return Stream(resource, encode_scope("shop", "1"), "latency", unit, kind, Temporality.CUMULATIVE, False)


LONG = (("http.route", "/pay" * 60), ("z", "é"))


@given(
    kind=st.sampled_from([Kind.HISTOGRAM, Kind.SUMMARY]),
    n=st.integers(1, 30),
    width=st.integers(0, 20),
    attributes=st.sampled_from([(), (("a", "b"),), LONG]),
    unit=st.sampled_from(["", "ms"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_points_come_back(kind: Kind, n: int, width: int, attributes: tuple, unit: str, seed: int) -> None:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    time_ns, start_ns = rng.integers(1, 2**62, n), rng.integers(0, 2**62, n)
    count, total = rng.integers(0, 2**50, n).astype(float), rng.normal(size=n)
    cells = rng.integers(0, 2**40, (n, width)).astype(float)
    size = max(0, width - 1) if kind == Kind.HISTOGRAM else width
    edges = np.sort(rng.random(size))
    raw = encode_attributes(attributes)
    given_stream = stream(kind, unit)
    body = encode_distribution(
        given_stream, raw, time_ns=time_ns, start_ns=start_ns, count=count, total=total, cells=cells, edges=edges
    )
    ExportMetricsServiceRequest.FromString(body)
    decoded = decode_metrics(body)
    points = decoded.points
    assert not decoded.rejected and points.attributes == [raw] * n
    expected = given_stream if kind == Kind.HISTOGRAM else given_stream._replace(temporality=Temporality.UNSPECIFIED)
    assert points.streams == (expected,)
    for got, sent in (
        (points.time_ns, time_ns),
        (points.start_ns, start_ns),
        (points.count, count),
        (points.value, total),
    ):
        np.testing.assert_array_equal(got, sent)
    np.testing.assert_array_equal(points.cells.reshape(n, width), cells)
    if width:
        np.testing.assert_array_equal(np.frombuffer(points.layouts[points.layout[0]]), edges)


def test_requests_may_be_joined() -> None:
    one = np.ones(1)
    time_ns = np.ones(1, np.int64)
    bodies = [
        encode_distribution(
            stream(kind),
            b"",
            time_ns=time_ns,
            start_ns=time_ns,
            count=one,
            total=one,
            cells=one[:, None],
            edges=one[:k],
        )
        for k, kind in ((0, Kind.HISTOGRAM), (1, Kind.SUMMARY))
    ]
    assert len(decode_metrics(b"".join(bodies)).points) == 2


@pytest.mark.parametrize(("kind", "edges"), [(Kind.HISTOGRAM, 2), (Kind.SUMMARY, 1), (Kind.EXPONENTIAL_HISTOGRAM, 1)])
def test_what_does_not_fit_is_refused(kind: Kind, edges: int) -> None:
    one = np.ones(1)
    time_ns = np.ones(1, np.int64)
    with pytest.raises(ValueError, match="expected"):
        encode_distribution(
            stream(kind),
            b"",
            time_ns=time_ns,
            start_ns=time_ns,
            count=one,
            total=one,
            cells=np.ones((1, 2)),
            edges=np.ones(edges),
        )


def test_attributes_must_be_those_of_a_number_point() -> None:
    other, _ = series_of(Labels("x"))
    assert other.kind == Kind.GAUGE
    one = np.ones(1)
    time_ns = np.ones(1, np.int64)
    with pytest.raises(ValueError, match="field 7"):
        encode_distribution(
            stream(Kind.HISTOGRAM),
            b"\x4a\x00",
            time_ns=time_ns,
            start_ns=time_ns,
            count=one,
            total=one,
            cells=np.empty((1, 0)),
            edges=np.empty(0),
        )
