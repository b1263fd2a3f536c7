"""OTLP/JSON: where it differs from protobuf's JSON, what is refused, and that nothing gets lost."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_aiops.errors import BadInput
from otel_aiops.otlp.json_body import REQUESTS, json_to_protobuf

# As in the examples of the specification.
METRICS = {
    "resourceMetrics": [
        {
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "my.service"}}]},
            "scopeMetrics": [
                {
                    "scope": {"name": "my.library", "version": "1.0.0"},
                    "metrics": [
                        {
                            "name": "my.counter",
                            "unit": "1",
                            "description": "I am a Counter",
                            "sum": {
                                "aggregationTemporality": 1,
                                "isMonotonic": True,
                                "dataPoints": [
                                    {
                                        "asDouble": 5,
                                        "startTimeUnixNano": "1544712660300000000",
                                        "timeUnixNano": 1544712660300000001,
                                        "exemplars": [{"traceId": "5B8EFFF798038103D269B633813FC60C", "asInt": -3}],
                                    }
                                ],
                            },
                        },
                        {
                            "name": "my.histogram",
                            "exponentialHistogram": {
                                "aggregationTemporality": 2,
                                "dataPoints": [
                                    {
                                        "count": "3",
                                        "sum": 10.5,
                                        "scale": -2,
                                        "zeroCount": 1,
                                        "positive": {"offset": 1, "bucketCounts": [0, "2"]},
                                        "max": "NaN",
                                    }
                                ],
                            },
                        },
                    ],
                }
            ],
        }
    ]
}


def metrics(tree: Any) -> Any:
    return ExportMetricsServiceRequest.FromString(json_to_protobuf("metrics", json.dumps(tree).encode()))


def span(fields: dict[str, Any]) -> Any:
    tree = {"resourceSpans": [{"scopeSpans": [{"spans": [fields]}]}]}
    encoded = json_to_protobuf("traces", json.dumps(tree).encode())
    return ExportTraceServiceRequest.FromString(encoded).resource_spans[0].scope_spans[0].spans[0]


def value(fields: Any) -> Any:
    """An AnyValue."""
    tree = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": fields}]}]}]}
    encoded = json_to_protobuf("logs", json.dumps(tree).encode())
    return ExportLogsServiceRequest.FromString(encoded).resource_logs[0].scope_logs[0].log_records[0].body


def point(fields: dict[str, Any]) -> Any:
    tree = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "m", "gauge": {"dataPoints": [fields]}}]}]}]}
    return metrics(tree).resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[0]


def refused(call: Any) -> str:
    with pytest.raises(BadInput) as caught:
        call()
    return str(caught.value)


def test_a_whole_request() -> None:
    counter, histogram = metrics(METRICS).resource_metrics[0].scope_metrics[0].metrics
    assert (counter.name, counter.unit, counter.sum.is_monotonic) == ("my.counter", "1", True)
    (one,) = counter.sum.data_points
    assert (one.as_double, one.WhichOneof("value")) == (5.0, "as_double")
    assert (one.start_time_unix_nano, one.time_unix_nano) == (1544712660300000000, 1544712660300000001)
    assert one.exemplars[0].trace_id.hex() == "5b8efff798038103d269b633813fc60c"
    assert one.exemplars[0].as_int == -3
    (other,) = histogram.exponential_histogram.data_points
    assert (other.count, other.scale, list(other.positive.bucket_counts)) == (3, -2, [0, 2])
    assert math.isnan(other.max)
    assert not other.HasField("min")


def test_ids_are_hex_wherever_they_are() -> None:
    trace, one, parent = "5b8efff798038103d269b633813fc60c", "EEE19B7EC3C1B174", "eee19b7ec3c1b173"
    found = span(
        {"traceId": trace, "spanId": one, "parentSpanId": parent, "links": [{"traceId": trace, "spanId": one}]}
    )
    assert (found.trace_id.hex(), found.span_id.hex(), found.parent_span_id.hex()) == (trace, one.lower(), parent)
    assert (found.links[0].trace_id, found.links[0].span_id) == (found.trace_id, found.span_id)
    assert span({"traceId": "", "spanId": ""}).trace_id == b""


@pytest.mark.parametrize("given_id", ["W47/95gDgQPSabYzgT/GDA==", "abc", "5b 8e", "zz", "éé", 5, ["5b"], {}])
def test_what_is_no_id(given_id: Any) -> None:
    message = refused(lambda: span({"traceId": given_id}))
    assert message.startswith("resourceSpans[0].scopeSpans[0].spans[0].traceId: expected hex digits, got ")


def test_other_bytes_are_base64() -> None:
    data = bytes(range(250, 256)) + b">>>???"
    for encoded in (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()):
        assert value({"bytesValue": encoded}).bytes_value == data
    assert value({"bytesValue": "AQ"}).bytes_value == b"\1", "padding may be left out"
    assert value({"bytesValue": ""}).WhichOneof("value") == "bytes_value"
    for wrong in ("A", "A Q", "*", "é", 1):
        assert "expected base64" in refused(lambda wrong=wrong: value({"bytesValue": wrong}))


@pytest.mark.parametrize("number", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_64_bit_integers_are_text_or_numbers(number: int) -> None:
    assert value({"intValue": str(number)}).int_value == number
    assert value({"intValue": number}).int_value == number
    assert value({"intValue": number}).WhichOneof("value") == "int_value", "0 is a value, too"


def test_whole_numbers_may_be_written_as_floats() -> None:
    assert value({"intValue": 3.0}).int_value == 3
    assert point({"timeUnixNano": 1e18}).time_unix_nano == 10**18


@pytest.mark.parametrize(
    "number",
    [
        *(2**63, -(2**63) - 1, 1.5, float("nan"), float("inf"), True, [], {}),
        *("9223372036854775808", "1.5", "", " 1", "1_000", "0x10", "\u0661", "9" * 5000),
    ],
    ids=lambda number: ascii(number)[:20],
)
def test_what_is_no_integer(number: Any) -> None:
    message = refused(lambda: value({"intValue": number}))
    assert "body.intValue: expected an integer in -9223372036854775808 .. 9223372036854775807, got " in message
    assert len(message) < 300


def test_unsigned_integers() -> None:
    assert point({"timeUnixNano": str(2**64 - 1)}).time_unix_nano == 2**64 - 1
    assert "0 .. 18446744073709551615" in refused(lambda: point({"timeUnixNano": -1}))
    assert point({"flags": 1}).flags == 1
    assert "0 .. 4294967295" in refused(lambda: point({"flags": 2**32}))


def test_enums_are_numbers() -> None:
    assert span({"kind": 2}).kind == 2
    assert span({"kind": 77}).kind == 77, "kinds of later versions are kept"
    wrong: Any
    for wrong in ("SPAN_KIND_SERVER", "2", 2**31, []):
        message = refused(lambda wrong=wrong: span({"kind": wrong}))
        assert "spans[0].kind: expected the number of an enum, got" in message


@pytest.mark.parametrize(
    ("given_number", "expected"),
    [(1, 1.0), (1.5, 1.5), ("1.5", 1.5), ("-2e3", -2000.0), ("Infinity", math.inf), ("-Infinity", -math.inf)],
)
def test_doubles(given_number: Any, expected: float) -> None:
    assert point({"asDouble": given_number}).as_double == expected
    assert point({"asDouble": given_number}).WhichOneof("value") == "as_double"


@pytest.mark.parametrize("number", ["", "one", "nan", "inf", "1_0", " 1", "0x1", True, [1], "1" * 1000, 10**400])
def test_what_is_no_double(number: Any) -> None:
    assert ".asDouble: expected a number, got " in refused(lambda: point({"asDouble": number}))


def test_text_and_booleans() -> None:
    assert value({"stringValue": "é\0😀"}).string_value == "é\0😀"
    assert value({"boolValue": False}).WhichOneof("value") == "bool_value"
    assert "expected text, got 5" in refused(lambda: value({"stringValue": 5}))
    assert "expected text in Unicode, got half a character" in refused(lambda: value({"stringValue": "\ud800"}))
    for wrong in (0, "true"):
        assert "expected true or false, got " in refused(lambda wrong=wrong: value({"boolValue": wrong}))


def test_names_are_lower_camel_case_only() -> None:
    assert metrics({"resource_metrics": METRICS["resourceMetrics"]}) == ExportMetricsServiceRequest()
    assert point({"time_unix_nano": "5", "TimeUnixNano": "6"}).time_unix_nano == 0


def test_what_is_unknown_is_passed_over() -> None:
    later = {"resourceMetrics": [], "next": [{"deep": [1, None, {"x": "y"}]}], "": 1, "\ud800": 2}
    assert metrics(later) == ExportMetricsServiceRequest()
    assert span({"name": "a", "later": {"b": 1}}).name == "a"
    assert len(json_to_protobuf("metrics", b'{"x":' + b"[" * 900 + b"]" * 900 + b"}")) == 0


def test_null_is_absent() -> None:
    assert metrics({"resourceMetrics": None}) == ExportMetricsServiceRequest()
    found = span({"name": None, "kind": None, "traceId": None, "status": None})
    assert not found.ListFields()


def test_the_last_of_two_alternatives_counts() -> None:
    assert value({"intValue": 1, "stringValue": "x"}).WhichOneof("value") == "string_value"


def test_empty_messages_are_there() -> None:
    assert value({"kvlistValue": {}}).WhichOneof("value") == "kvlist_value"
    assert value({"arrayValue": {"values": []}}).WhichOneof("value") == "array_value"
    nested = value({"arrayValue": {"values": [{}, {"kvlistValue": {"values": [{"key": "k", "value": {}}]}}]}})
    assert nested.array_value.values[0].WhichOneof("value") is None
    assert nested.array_value.values[1].kvlist_value.values[0].HasField("value")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "expected JSON, got "),
        (b"{", "expected JSON, got "),
        (b"\xff", "expected JSON, got "),
        (b"\n\x04json", "expected JSON, got "),
        (b"[" * 100_000, "expected JSON, got "),
        (b'{"a":' + b"1" * 5000 + b"}", "expected JSON, got "),
        (b"[]", "body: expected an object, got []"),
        (b"null", "body: expected an object, got null"),
        (b'"x"', 'body: expected an object, got "x"'),
        (b'{"resourceMetrics":{}}', "resourceMetrics: expected an array, got {}"),
        (b'{"resourceMetrics":[null]}', "resourceMetrics[0]: expected an object, got null"),
        (b'{"resourceMetrics":[{},5]}', "resourceMetrics[1]: expected an object, got 5"),
        (b'{"resourceMetrics":[{"resource":[]}]}', "resourceMetrics[0].resource: expected an object, got []"),
    ],
    ids=range(13),
)
def test_what_is_no_request(body: bytes, expected: str) -> None:
    assert refused(lambda: json_to_protobuf("metrics", body)).startswith(expected)


def test_no_depth_is_a_fault() -> None:
    for depth in range(700, 1000):  # somewhere in there Python reads it, but could not write it again
        body = b'{"resourceMetrics":[{"schemaUrl":' + b"[" * depth + b"]" * depth + b"}]}"
        assert "expected" in refused(lambda body=body: json_to_protobuf("metrics", body))


def test_attributes_inside_each_other() -> None:
    tree: Any = {"stringValue": "x"}
    for _ in range(40):
        tree = {"arrayValue": {"values": [tree]}}
    found = value(tree)
    for _ in range(40):
        (found,) = found.array_value.values
    assert found.string_value == "x"
    for _ in range(20):
        tree = {"arrayValue": {"values": [tree]}}
    assert "expected at most 100 objects inside each other" in refused(lambda: value(tree))


def test_long_values_are_shortened_in_messages() -> None:
    message = refused(lambda: value({"intValue": "x" * 10_000}))
    assert message.endswith("xxx...")
    assert len(message) < 250


any_values = st.recursive(
    st.one_of(
        st.builds(lambda x: {"stringValue": x}, st.text()),
        st.builds(lambda x: {"boolValue": x}, st.booleans()),
        st.builds(lambda x: {"intValue": str(x)}, st.integers(-(2**63), 2**63 - 1)),
        st.builds(lambda x: {"doubleValue": x}, st.floats(allow_nan=False, allow_infinity=False)),
        st.builds(lambda x: {"bytesValue": base64.b64encode(x).decode()}, st.binary()),
        st.just({}),
    ),
    lambda inner: st.one_of(
        st.builds(lambda xs: {"arrayValue": {"values": xs}}, st.lists(inner, max_size=3)),
        st.builds(
            lambda xs: {"kvlistValue": {"values": [{"key": k, "value": v} for k, v in xs]}},
            st.lists(st.tuples(st.text(), inner), max_size=3),
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=200)
@given(any_values)
def test_where_the_rules_are_the_same_the_result_is(tree: Any) -> None:
    request = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": tree, "timeUnixNano": "5"}]}]}]}
    expected = json_format.ParseDict(request, ExportLogsServiceRequest())
    assert ExportLogsServiceRequest.FromString(json_to_protobuf("logs", json.dumps(request).encode())) == expected


NAMES = (
    *("resourceSpans", "scopeSpans", "spans", "traceId", "attributes", "key", "value", "kind", "status", "events"),
    *("stringValue", "arrayValue", "values", "resourceLogs", "scopeLogs", "logRecords", "body", "timeUnixNano"),
)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=25,
)


@settings(max_examples=300)
@given(trees, st.sampled_from(sorted(REQUESTS)))
def test_whatever_comes_is_read_or_refused(tree: Any, signal: str) -> None:
    try:
        encoded = json_to_protobuf(signal, json.dumps(tree).encode())
    except BadInput:
        return
    REQUESTS[signal].FromString(encoded)


@given(st.binary(max_size=50))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        json_to_protobuf("metrics", data)
    except BadInput:
        return
