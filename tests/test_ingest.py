"""What a body weighs while it waits, and that a body read back from the log is the same."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_aiops.ingest import Body, Ingest
from otel_aiops.otlp.governance import Governance, GovernanceConfig
from otel_aiops.series.disk import StorageConfig
from otel_aiops.series.history import History
from otel_aiops.series.records import Format, Received, RecordKind
from otel_aiops.server import intake, receiver
from tests.feed import Feed


def ingest() -> Ingest:
    return Ingest(None, limit_bytes=10**6, clock_ns=lambda: 0)  # type: ignore[arg-type]  # decoding needs no history


def test_spans_and_records_are_carried_with_their_weight() -> None:
    traces, logs = ExportTraceServiceRequest(), ExportLogsServiceRequest()
    spans = traces.resource_spans.add().scope_spans.add().spans
    records = logs.resource_logs.add().scope_logs.add().log_records
    for k in range(1, 101):
        spans.add(name="pay", trace_id=b"t" * 16, span_id=bytes([k] * 8), start_time_unix_nano=5, end_time_unix_nano=6)
        records.add(time_unix_nano=5).body.string_value = "x" * 50
    spans.add(name="lost")
    one = ingest().decode(Received(RecordKind.TRACES, 0, traces.SerializeToString()))
    assert one.spans is not None and len(one.spans) == one.items == 100 and sum(one.rejected.values()) == 1
    assert 20_000 <= one.weight <= 25_000
    two = ingest().decode(Received(RecordKind.LOGS, 0, logs.SerializeToString()))
    assert two.logs is not None and two.items == 100 and two.weight == 100 * 150
    assert ingest().decode(Received(RecordKind.TICK, 0)).weight == 0


def test_json_and_protobuf_carry_the_same_spans() -> None:
    span = {
        "traceId": "5b8efff798038103d269b633813fc60c",
        "spanId": "eee19b7ec3c1b174",
        "parentSpanId": "EEE19B7EC3C1B173",
        "name": "GET /",
        "kind": 3,
        "startTimeUnixNano": "1544712660000000000",
        "endTimeUnixNano": 1544712661000000000,
        "attributes": [{"key": "peer.service", "value": {"stringValue": "cart"}}],
        "status": {"code": 2},
    }
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()
    found = ingest().decode(Received(RecordKind.TRACES, 0, body, format=Format.JSON)).spans
    assert found is not None and found.words == ("GET /", "cart") and found.error.all()
    assert found.trace_high.tolist() == [0x5B8EFFF798038103] and found.trace_low.tolist() == [0xD269B633813FC60C]
    assert found.span.tolist() == [0xEEE19B7EC3C1B174] and found.parent.tolist() == [0xEEE19B7EC3C1B173]
    assert np.array_equal(found.end_ns - found.start_ns, [10**9])


def test_json_logs() -> None:
    record = {
        "timeUnixNano": "5",
        "severityText": "error",
        "body": {"stringValue": "boom"},
        "traceId": "",
        "spanId": "",
    }
    body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}).encode()
    found = ingest().decode(Received(RecordKind.LOGS, 0, body, format=Format.JSON)).logs
    assert found is not None and found.bodies == ["boom"] and found.severity.tolist() == [17]


def test_what_is_governed_never_reaches_the_disk_as_it_came(tmp_path: Path) -> None:
    feed = Feed("cart").gauge("g", 5.0, 1.0, **{"user.id": "mallory", "card": "4111", "kept": "yes"})
    raw = feed.request.SerializeToString()
    attributes = [{"key": k, "value": {"stringValue": v}} for k, v in (("user.id", "mallory"), ("card", "4111"))]
    point = {"timeUnixNano": "5000000000", "asDouble": 1.0, "attributes": attributes}
    scope = {"metrics": [{"name": "g", "gauge": {"dataPoints": [point]}}]}
    plain = json.dumps({"resourceMetrics": [{"scopeMetrics": [scope]}]}).encode()
    history = History(StorageConfig(min_free_bytes=0), tmp_path)
    history.open()
    door = Ingest(history, limit_bytes=10**6, clock_ns=lambda: 6 * 10**9)
    door.governance = Governance(GovernanceConfig(drop=("user.*",), hash=("card",), salt="pepper-and-salt"))
    bodies = [
        intake.Received(raw, "identity", False, "http"),
        intake.Received(gzip.compress(raw), "gzip", False, "http"),
        intake.Received(plain, "identity", True, "http"),
    ]
    for body in bodies:
        assert door.accept(receiver.Signal.METRICS, body).accepted == 1
    assert door.backfill(raw, "") == 1
    entries = [history.take(1.0) for _ in range(4)]
    history.close()
    assert door.governance.counts == {"dropped": 4, "hashed": 4}
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"mallory" not in stored and b"4111" not in stored and b"card" in stored
    again = History(StorageConfig(min_free_bytes=0), tmp_path)
    again.open()
    replayed = [ingest().decode(record.received) for record in again.replay(0)]
    again.close()
    written = {body.points.attributes[0] for body in replayed if body.points is not None}
    assert len(replayed) == 4 and len(written) == 2  # two ways of writing, the same before and after a restart
    for entry, body in zip(entries, replayed, strict=True):
        assert entry is not None and isinstance(entry.item, Body) and entry.item.points is not None
        assert body.points is not None and entry.item.points.attributes == body.points.attributes


def test_without_rules_a_body_is_kept_as_it_came(tmp_path: Path) -> None:
    raw = gzip.compress(Feed("cart").gauge("g", 5.0, 1.0, a="b").request.SerializeToString())
    history = History(StorageConfig(min_free_bytes=0), tmp_path)
    history.open()
    door = Ingest(history, limit_bytes=10**6, clock_ns=lambda: 6 * 10**9)
    door.accept(receiver.Signal.METRICS, intake.Received(raw, "gzip", False, "http"))
    door.governance = Governance(GovernanceConfig(drop=("nothing",)))
    door.accept(receiver.Signal.METRICS, intake.Received(raw, "gzip", False, "http"))
    history.close()
    again = History(StorageConfig(min_free_bytes=0), tmp_path)
    again.open()
    assert [record.received.body for record in again.replay(0)] == [raw, raw]
    again.close()
