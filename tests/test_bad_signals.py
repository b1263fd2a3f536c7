"""Nonsense over OTLP to a running service: counted, bounded, named in its own metrics; nothing stops."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_aiops.otlp import bodies, decode_spans, words
from otel_aiops.signals import logs, traces
from tests.feed import pairs
from tests.incident_feed import START_S, started
from tests.servers import wait_for
from tests.test_app import Running

NS = 10**9
AT_NS = round(START_S * NS)
LARGE = 100_000  # spans of one trace
DISTINCT = 9_000  # names and lines
SMALL = """  traces: {max_operations: 400, max_operations_per_service: 300, max_spans: 60000}
  logs: {rate: 100000, templates: {per_class: 60, total: 100}}
"""
LEFT_OUT, MENDED = "otel_aiops_signals_left_out_total", "otel_aiops_signals_mended_total"
SPANS, RECORDS = "otel_aiops_spans_rejected_total", "otel_aiops_log_records_rejected_total"


def span(trace: int, number: int, parent: int = 0, *, at_s: float = 0.0, **other: Any) -> Span:
    """One of 50 ms; ids are numbers."""
    start_ns = AT_NS + round(at_s * NS)
    ids = {"trace_id": trace.to_bytes(16, "big"), "span_id": number.to_bytes(8, "big")}
    if parent:
        ids["parent_span_id"] = parent.to_bytes(8, "big")
    times = {"start_time_unix_nano": start_ns, "end_time_unix_nano": start_ns + 50_000_000}
    return Span(**{"name": "op", "kind": 2, **ids, **times, **other})


def traces_of(spans: list[Span], service: str = "web") -> bytes:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.extend(pairs({"service.name": service}))
    group.scope_spans.add().spans.extend(spans)
    return request.SerializeToString()


def logs_of(records: list[LogRecord]) -> bytes:
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    group.resource.attributes.extend(pairs({"service.name": "web"}))
    group.scope_logs.add().log_records.extend(records)
    return request.SerializeToString()


def record(text: str = "started", *, at_s: float = 0.0) -> LogRecord:
    found = LogRecord(time_unix_nano=AT_NS + round(at_s * NS), severity_number=9)  # type: ignore[arg-type]
    found.body.string_value = text
    return found


def letters(number: int) -> str:
    """A word of its own for each number, which no template takes for a number."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


def odd_traces() -> list[bytes]:
    """A body of each kind of bad spans."""
    orphans = [span(100 + k, 2, 77) for k in range(10)]
    circle = [span(200, 1, 3), span(200, 2, 1), span(200, 3, 2), span(201, 5, 5)]
    ahead = [span(300, 1, at_s=2), span(301, 1)]  # of a host whose clock is ahead of that of its callee
    no_ids = [span(400, 1, trace_id=b""), span(400, 1, span_id=b""), span(400, 1)]
    large = [span(500, k, k // 2, name=f"op {k % 9}") for k in range(1, LARGE + 1)]
    names = [span(600 + k, 1, name=f"GET /{letters(k)}") for k in range(DISTINCT)]
    skewed = traces_of(ahead) + traces_of([span(300, 2, 1, at_s=0), span(301, 2, 1)], "pay")
    return [traces_of(orphans), traces_of(circle), skewed, traces_of(no_ids), traces_of(large), traces_of(names)]


def odd_logs() -> list[bytes]:
    """A body of each kind of bad log records."""
    binary = record()
    binary.body.bytes_value = b"\x00\xff\xfe\x80" * 5_000
    # Text that is no text on the wire, which no library would make.
    not_text = logs_of([record("abcdefgh")]).replace(b"abcdefgh", b"ab\xff\x00\x80fgh")
    lost = record()
    lost.span_id, lost.trace_id = b"12345678", b"1234567812345678"
    lines = [record(" ".join(letters(k * 7_919 + n) for n in range(1 + k % 9))) for k in range(DISTINCT)]
    return [logs_of([record("x" * 10_000_000)]), logs_of([binary]), not_text, logs_of([lost]), logs_of(lines)]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that was sent all of it, and after that a minute of what is in order."""
    with started(tmp_path_factory.mktemp("state"), SMALL, still=True) as found:
        for body in odd_traces():
            assert found.send(body, "traces").status_code == 200
        for body in odd_logs():
            assert found.send(body, "logs").status_code == 200
        for k in range(30):
            assert found.send(traces_of([span(10**6 + k, 1, at_s=5 * k)]), "traces").status_code == 200
            assert found.send(logs_of([record(at_s=5 * k)]), "logs").status_code == 200
        found.settle()
        wait_for(lambda: found.metric("otel_aiops_spans_read_total") > LARGE, "the counts to be made")
        yield found


def told(up: Running, name: str) -> dict[str, float]:
    """The values of a metric by reason."""
    text = requests.get(f"http://127.0.0.1:{up.ports['api']}/metrics", timeout=30).text
    lines = re.findall(rf'^{name}{{.*?reason="((?:[^"\\]|\\.)*)".*?}} (\S+)$', text, re.M)
    return {reason: float(value) for reason, value in lines}


@pytest.mark.parametrize(
    ("metric", "reason", "least"),
    [
        (LEFT_OUT, traces.ORPHAN, 10),
        (LEFT_OUT, traces.CIRCLE, 3),
        (LEFT_OUT, traces.OWN_PARENT, 1),
        (LEFT_OUT, traces.SKEWED, 1),
        (LEFT_OUT, traces.DROPPED, LARGE - 60_000),
        (LEFT_OUT, traces.UNMATCHED, 1),
        (LEFT_OUT, "span names over the limit", 7_000),
        (LEFT_OUT, logs.OVER_TEMPLATES, 1_000),
        (MENDED, words.MANY_WORDS, 500),
        (MENDED, bodies.CUT, 1),
        (MENDED, bodies.NOT_UTF8, 2),
        (SPANS, decode_spans.BAD_TRACE, 1),
        (SPANS, decode_spans.BAD_SPAN, 1),
    ],
)
def test_it_is_named_and_counted(up: Running, metric: str, reason: str, least: float) -> None:
    wait_for(lambda: told(up, metric).get(reason, 0) >= least, f"{metric} of {reason!r}: {told(up, metric)}")


def test_it_is_bounded(up: Running) -> None:
    assert up.metric("otel_aiops_operations_known") <= 401
    assert up.metric("otel_aiops_templates_known") <= 101
    assert up.metric("otel_aiops_traces_waiting") < 100, "what waited has gone on its way"


def test_nothing_stops(up: Running) -> None:
    assert up.metric("otel_aiops_step_failures_total") == 0
    assert up.metric("otel_aiops_spans_read_total") == 10 + 4 + 4 + 1 + LARGE + DISTINCT + 30
    assert up.metric("otel_aiops_log_records_read_total") == 4 + DISTINCT + 30
    assert requests.get(f"http://127.0.0.1:{up.ports['api']}/-/ready", timeout=30).status_code == 200
    assert up.get("/api/v1/incidents")["total"] == 0, "nonsense is no incident"
