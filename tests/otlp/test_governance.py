"""Governance: what is to be dropped or hashed is gone from every place of a request, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList

from otel_aiops.errors import BadInput, ConfigError
from otel_aiops.otlp.governance import Governance, GovernanceConfig
from tests.feed import Feed, pairs

SECRET = b"mallory"
SALT = "pepper-and-salt"


def governance(*drop: str, hashed: tuple[str, ...] = ()) -> Governance:
    return Governance(GovernanceConfig(drop=drop, hash=hashed, salt=SALT if hashed else ""))


def filled(of: Any, **more: Any) -> None:
    of.extend(pairs({"user.id": SECRET.decode(), "kept": "yes", **more}))


def traces() -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    filled(group.resource.attributes)
    scope = group.scope_spans.add()
    filled(scope.scope.attributes)
    span = scope.spans.add(name="a", trace_id=b"1" * 16, span_id=b"2" * 8)
    filled(span.attributes, n=3)
    filled(span.events.add(name="e").attributes)
    filled(span.links.add().attributes)
    return request


def logs() -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=1)
    filled(record.attributes)
    inner = [KeyValue(key="id", value=AnyValue(string_value=SECRET.decode())), *pairs({"kept": 1})]
    user = KeyValue(key="user", value=AnyValue(kvlist_value=KeyValueList(values=inner)))
    nested = AnyValue(kvlist_value=KeyValueList(values=[user]))
    record.body.array_value.CopyFrom(ArrayValue(values=[nested, AnyValue(string_value="text")]))
    return request


def metrics() -> ExportMetricsServiceRequest:
    feed = Feed("cart", **{"user.id": SECRET.decode()})
    feed.gauge("g", 5.0, 1.0, **{"user.id": SECRET.decode(), "kept": "yes"})
    metric = feed.metric("h", "histogram", "s")
    point = metric.histogram.data_points.add(time_unix_nano=5, count=1)
    filled(point.attributes)
    filled(point.exemplars.add().filtered_attributes)
    return feed.request


REQUESTS = {"metrics": metrics, "traces": traces, "logs": logs}
PLACES = {"metrics": 4, "traces": 5, "logs": 2}


@pytest.mark.parametrize("signal", REQUESTS)
@pytest.mark.parametrize("pattern", ["user.id", "us*.id", "*.id", "us?r.id", "[u]ser.id"])
def test_dropped_attributes_are_nowhere(signal: str, pattern: str) -> None:
    request = REQUESTS[signal]()
    rules = governance(pattern)
    data = rules.rewrite(signal, request.SerializeToString())
    assert SECRET not in data and b"kept" in data
    assert rules.counts == {"dropped": PLACES[signal]}
    assert type(request).FromString(data) != request and rules.rewrite(signal, data) is data


@pytest.mark.parametrize("signal", REQUESTS)
def test_hashed_attributes_stay_equal_where_they_were(signal: str) -> None:
    data = REQUESTS[signal]().SerializeToString()
    rules = governance(hashed=("user.id",))
    found = rules.rewrite(signal, data)
    assert SECRET not in found and rules.counts == {"hashed": PLACES[signal]}
    assert governance(hashed=("us*.id",)).rewrite(signal, data) == found
    other = Governance(GovernanceConfig(hash=("user.id",), salt="another-salt"))
    assert other.rewrite(signal, data) != found


def test_a_hash_is_that_of_the_value() -> None:
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    span.attributes.extend(pairs({"a": "x", "b": "x", "c": "y", "d": 1, "e": "1"}))
    data = governance(hashed=("?",)).rewrite("traces", request.SerializeToString())
    (found,) = ExportTraceServiceRequest.FromString(data).resource_spans[0].scope_spans[0].spans
    a, b, c, d, e = (one.value.string_value for one in found.attributes)
    assert a == b and len({a, c, d, e}) == 4 and len(a) == 16


def test_a_structured_value_may_go_as_a_whole() -> None:
    data = governance("user", "user.id").rewrite("logs", logs().SerializeToString())
    record = ExportLogsServiceRequest.FromString(data).resource_logs[0].scope_logs[0].log_records[0]
    assert SECRET not in data and not record.body.array_value.values[0].kvlist_value.values


def test_what_no_rule_names_is_not_even_read() -> None:
    assert governance("nobody").rewrite("metrics", b"\xff not protobuf") == b"\xff not protobuf"
    assert governance().rewrite("metrics", b"\xff") == b"\xff"
    with pytest.raises(BadInput, match="expected an export request of metrics in protobuf"):
        governance("a*").rewrite("metrics", b"\xff a")


@given(
    st.lists(st.sampled_from(["a", "ab", "a.b", "b.a", "c", "a.b.c"]), max_size=8),
    st.sampled_from(["a", "a.*", "*b", "?", "a.b"]),
)
def test_only_what_matches_goes(keys: list[str], pattern: str) -> None:
    from fnmatch import fnmatchcase

    request = ExportTraceServiceRequest()
    request.resource_spans.add().resource.attributes.extend(pairs({key: 1 for key in keys}))
    data = governance(pattern).rewrite("traces", request.SerializeToString())
    left = [one.key for one in ExportTraceServiceRequest.FromString(data).resource_spans[0].resource.attributes]
    assert left == [key for key in dict.fromkeys(keys) if not fnmatchcase(key, pattern)]


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"drop": ("service.*",)}, "drop"),
        ({"hash": ("*",), "salt": SALT}, "hash"),
        ({"drop": ("",)}, "drop"),
        ({"hash": ("user.id",)}, "salt"),
        ({"hash": ("user.id",), "salt": "short"}, "salt"),
    ],
)
def test_settings_are_checked(config: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as raised:
        GovernanceConfig(**config)
    assert raised.value.path == path


def test_the_secret_is_not_told() -> None:
    config = GovernanceConfig(drop=("b", "a"), hash=("user.id",), salt=SALT)
    assert SALT not in repr(config) and SALT not in str(config.rules())
    assert config.rules()["drop"] == ["a", "b"] and len(config.rules()["salt"]) == 8
    assert GovernanceConfig().rules() == {"drop": [], "hash": [], "salt": ""} and not GovernanceConfig()
