"""Feature flags: an evaluation in a span or a log record says which flag and what it was."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_aiops.incidents.analysis import Analysis, AnalysisConfig
from otel_aiops.otlp import flags
from otel_aiops.otlp.decode_logs import decode_logs
from otel_aiops.otlp.decode_spans import decode_traces

S = 1_000_000_000
START_NS = 1_800_000_000 * S


def traces(variant: str, *, name: str = "feature_flag", key: str = "feature_flag.variant", time_s: int = 0) -> bytes:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "cart"
    span = group.scope_spans.add().spans.add(name="GET", trace_id=b"t" * 16, span_id=bytes([1 + time_s % 255] * 8))
    span.start_time_unix_nano, span.end_time_unix_nano = START_NS + time_s * S, START_NS + time_s * S + 1
    span.events.add(name="other", time_unix_nano=START_NS)
    event = span.events.add(name=name, time_unix_nano=START_NS + time_s * S)
    event.attributes.add(key="feature_flag.key").value.string_value = "new-cart"
    event.attributes.add(key=key).value.string_value = variant
    return request.SerializeToString()


@pytest.mark.parametrize(
    ("name", "key"),
    [("feature_flag", "feature_flag.variant"), ("feature_flag.evaluation", "feature_flag.result.variant")],
)
def test_an_event_of_a_span_says_the_flag(name: str, key: str) -> None:
    spans = decode_traces(traces("on", name=name, key=key)).spans
    assert [spans.words[k] for k in spans.event_name.tolist()] == ["other", "feature_flag new-cart=on"]


def test_a_log_record_says_the_flag() -> None:
    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    records.add(time_unix_nano=START_NS, event_name="order.placed")
    record = records.add(time_unix_nano=START_NS, event_name="feature_flag.evaluation")
    record.attributes.add(key="feature_flag.key").value.string_value = "dark=mode"
    record.attributes.add(key="feature_flag.result.variant").value.string_value = "off"
    found = decode_logs(request.SerializeToString()).records
    assert found.event_name == ["order.placed", "feature_flag dark=mode=off"]
    assert flags.parts_of(found.event_name[1]) == ("dark=mode", "off")


def test_what_says_no_flag_stays_as_it_is() -> None:
    assert flags.of_event(b"\xff\xff") == flags.of_event(b"") == flags.name_of({}) == ""
    assert flags.parts_of("feature_flag") is None and flags.name_of({flags.KEY: "k" * 999})[-5:] == "kkkk="


def test_a_flag_that_changes_is_a_deployment() -> None:
    analysis = Analysis(AnalysisConfig())
    told = []
    for time_s, variant in ((0, "off"), (700, "off"), (710, "on")):
        event_ns = START_NS + time_s * S
        analysis.take_spans(decode_traces(traces(variant, time_s=time_s)).spans, event_ns)
        told += [str(one) for one in analysis.step(event_ns).deployments]
    assert told == ["cart: flag new-cart off -> on"]
