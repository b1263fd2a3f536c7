"""Decoding log records against a slow twin that walks the messages; bodies of all kinds, cut and mended."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from otel_aiops.errors import BadInput
from otel_aiops.otlp import bodies
from otel_aiops.otlp import decode_logs as module
from otel_aiops.otlp.decode_logs import decode_logs
from otel_aiops.otlp.log_records import LogRecords
from tests.otlp import slow_signals
from tests.otlp.scramble import scrambled, tagged

S = 10**9
START = 1_760_000_000 * S
TRACE, SPAN = bytes(range(1, 17)), bytes(range(1, 9))
MOST = 64

TEXTS = st.sampled_from(
    [
        "",
        "started",
        "Zähler " * 20,
        "{",
        '{"message": "paid", "a": {"msg": "no"}}',
        '{"msg": 5, "log": "lög"}',
        "{}",
        "[]",
    ]
)
KEYS = st.sampled_from(["message", "msg", "log", "event", "MESSAGE", "level", "messag"])
SCALARS = TEXTS | st.integers(-5, 5) | st.booleans() | st.floats(-1, 1) | st.just(b"raw bytes") | st.none()


def any_value(value: Any) -> AnyValue:
    out = AnyValue()
    if isinstance(value, bool):
        out.bool_value = value
    elif isinstance(value, int):
        out.int_value = value
    elif isinstance(value, float):
        out.double_value = value
    elif isinstance(value, str):
        out.string_value = value
    elif isinstance(value, bytes):
        out.bytes_value = value
    elif isinstance(value, list):
        out.array_value.values.extend(any_value(one) for one in value)
    elif isinstance(value, dict):
        out.kvlist_value.SetInParent()
        for key, inner in value.items():
            out.kvlist_value.values.add(key=key).value.CopyFrom(any_value(inner))
    return out


BODIES = (
    SCALARS | st.dictionaries(KEYS, SCALARS | st.just({"a": 1}), max_size=3) | st.lists(st.integers(0, 9), max_size=3)
)


@st.composite
def one_record(draw: Any) -> LogRecord:
    times = st.sampled_from([0, START, START + S, 2**63])
    record = LogRecord(
        time_unix_nano=draw(times),
        observed_time_unix_nano=draw(times),
        severity_number=draw(st.integers(0, 26)),  # type: ignore[arg-type]
        severity_text=draw(st.sampled_from(["", "INFO", "warning", "Info2", "CRITICAL", "gibberish"])),
        trace_id=draw(st.sampled_from([b"", TRACE, b"x", bytes(16)])),
        span_id=draw(st.sampled_from([b"", SPAN, b"x"])),
        event_name=draw(st.sampled_from(["", "", "deployed"])),
        flags=draw(st.sampled_from([0, 1])),
    )
    if draw(st.booleans()):
        record.body.CopyFrom(any_value(draw(BODIES)))
    for key in draw(st.lists(st.sampled_from(["event.name", "thread"]), max_size=2)):
        record.attributes.add(key=key).value.string_value = draw(st.sampled_from(["", "click"]))
    return record


@st.composite
def requests(draw: Any) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    for _ in range(draw(st.integers(0, 2))):
        group = request.resource_logs.add()
        group.resource.attributes.add(key="service.name").value.string_value = draw(
            st.sampled_from(["a", "otel-aiops"])
        )
        scope = group.scope_logs.add()
        scope.scope.name = draw(st.sampled_from(["", "otel_aiops"]))
        scope.log_records.extend(draw(st.lists(one_record(), max_size=6)))
    return request


def plain(records: LogRecords) -> list[dict[str, Any]]:
    """The columns, in the words of the slow twin."""
    resources = [dict(slow_signals.pairs(Resource.FromString(raw).attributes)) for raw in records.resources]
    return [
        {
            "service": resources[records.resource[i]].get("service.name"),
            "time": int(records.time_ns[i]),
            "severity": int(records.severity[i]),
            "body": records.bodies[i],
            "event": records.event_name[i],
            "trace": int(records.trace_high[i]).to_bytes(8, "big") + int(records.trace_low[i]).to_bytes(8, "big"),
            "span": int(records.span[i]).to_bytes(8, "big"),
        }
        for i in range(len(records))
    ]


@settings(max_examples=80, deadline=None)
@given(requests(), st.integers(0, 2**32))
def test_records_are_as_the_slow_twin_reads_them(request: Any, seed: int) -> None:
    for body in (request.SerializeToString(), scrambled(request, random.Random(seed))):
        found = decode_logs(body, MOST)
        twin = slow_signals.records(body, MOST)
        assert plain(found.records) == twin
        sent = sum(len(scope.log_records) for group in request.resource_logs for scope in group.scope_logs)
        assert len(twin) + sum(found.rejected.values()) + found.mended.get("our own output that came back", 0) == sent


@settings(max_examples=4, deadline=None)
@given(st.lists(one_record(), min_size=60, max_size=80), st.integers(0, 2**32), st.integers(20, 60))
def test_many_records_in_several_chunks_are_the_same(records: Any, seed: int, chunk: int) -> None:
    request = ExportLogsServiceRequest()
    request.resource_logs.add().scope_logs.add().log_records.extend(records)
    body = scrambled(request, random.Random(seed))
    whole = decode_logs(body, MOST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        parts = decode_logs(body, MOST)
    assert plain(whole.records) == plain(parts.records) == slow_signals.records(body, MOST)
    assert whole.rejected == parts.rejected and whole.mended == parts.mended


def raw_request(*raws: bytes) -> bytes:
    return tagged(1, 2, tagged(2, 2, b"".join(tagged(2, 2, raw) for raw in raws)))


def record(body: Any = "text", **fields: Any) -> bytes:
    one = LogRecord(**{"time_unix_nano": START, "severity_number": 9, **fields})
    one.body.CopyFrom(any_value(body))
    encoded: bytes = one.SerializeToString()
    return encoded


def text_of(body: Any, most_bytes: int = MOST) -> tuple[str, dict[str, int]]:
    found = decode_logs(raw_request(record(body)), most_bytes)
    assert len(found.records) == 1 and not found.rejected
    return found.records.bodies[0], dict(found.mended)


def test_bodies() -> None:
    assert text_of("started in 5 ms") == ("started in 5 ms", {})
    assert text_of(5) == ("5", {}) and text_of(True) == ("true", {}) and text_of(None) == ("", {})
    assert text_of([1, "b"]) == ('[1,"b"]', {}) and text_of({"a": 1}) == ('{"a":1}', {})
    assert text_of(b"bytes") == ("bytes", {})
    assert text_of({"level": "info", "msg": "paid", "event": "e"}) == ("paid", {})
    assert text_of({"message": {"deep": 1}, "log": "x"}) == ("x", {})
    assert text_of('{"level": "info", "message": "paid"}') == ("paid", {})
    assert text_of('{"event": "half \\ud800"}') == ("half ?", {})
    assert text_of('{"message": 5}') == ('{"message": 5}', {})
    assert text_of('{"message": "broken') == ('{"message": "broken', {})
    assert text_of("{" * 60) == ("{" * 60, {}) and text_of('{"a":' * 50_000, 10**6)[0] == '{"a":' * 50_000


def test_long_bodies_are_cut_between_characters_and_counted() -> None:
    assert text_of("x" * 64) == ("x" * 64, {}) and text_of("x" * 65) == ("x" * 64, {bodies.CUT: 1})
    assert text_of("a" + "é" * 40) == ("a" + "é" * 31, {bodies.CUT: 1})
    assert text_of("ab" + "€" * 40, 63) == ("ab" + "€" * 20, {bodies.CUT: 1})
    long = json.dumps({"a": "b" * 60, "message": "the text"})
    assert text_of(long) == ("the text", {})
    assert text_of(json.dumps({"message": "y" * 100})) == ("y" * 64, {bodies.CUT: 1})
    assert text_of({"message": "y" * 100}) == ("y" * 64, {bodies.CUT: 1})
    assert text_of('{"a": "' + "b" * 100 + '"}')[1] == {bodies.CUT: 1}
    assert text_of(["z" * 100]) == ('["' + "z" * 62, {bodies.CUT: 1})
    assert text_of(["z" * 1000]) == ("", {bodies.LARGE: 1})


def test_a_body_of_10_mb_and_a_binary_one() -> None:
    huge, binary = record("x" * 10_000_000), record(b"\x00\xff\xfe\x80" * 100)
    not_utf8 = record("abc").replace(b"abc", b"a\xffc")
    found = decode_logs(raw_request(record(), huge, binary, not_utf8))
    assert [len(body) for body in found.records.bodies] == [4, 16_384, 400, 3]
    assert found.records.bodies[3] == "a\ufffdc" and not found.rejected
    assert found.mended == {bodies.CUT: 1, bodies.NOT_UTF8: 2}


def test_structures_that_cannot_be_read() -> None:
    deep: Any = 1
    for _ in range(30):
        deep = [deep]
    assert text_of(deep, 10_000) == ("", {bodies.UNREADABLE: 1})
    pair = tagged(1, 2, b"key") + tagged(2, 2, tagged(1, 2, b"\xff"))
    body = tagged(5, 2, tagged(6, 2, tagged(1, 2, pair)))
    found = decode_logs(raw_request(record() + body))
    assert found.records.bodies == [""] and found.mended == {bodies.UNREADABLE: 1}


def test_severity_by_number_or_known_word() -> None:
    words = ["INFO", " Warning", "ERROR", "Fatal", "debug2", "TRACE", "crit", "notice", "odd", "", "E" * 100]
    found = decode_logs(raw_request(*(record(severity_number=0, severity_text=word) for word in words))).records
    assert found.severity.tolist() == [9, 13, 17, 21, 6, 1, 21, 10, 0, 0, 0]
    found = decode_logs(raw_request(record(severity_number=17, severity_text="INFO"))).records
    assert found.severity.tolist() == [17]
    absurd = decode_logs(raw_request(record(severity_number=0, severity_text="INFO") + b"\x10\x63"))
    assert absurd.records.severity.tolist() == [9] and absurd.mended == {module.BAD_SEVERITY: 1}


def test_ids_and_names() -> None:
    event = LogRecord(time_unix_nano=START)
    event.attributes.add(key="event.name").value.string_value = "device.app.lifecycle"
    found = decode_logs(
        raw_request(
            record(trace_id=TRACE, span_id=SPAN, event_name="deployed"),
            record(trace_id=b"short", span_id=b"short"),
            event.SerializeToString(),
        )
    )
    assert found.records.trace_high.tolist() == [0x0102030405060708, 0, 0]
    assert found.records.trace_low.tolist() == [0x090A0B0C0D0E0F10, 0, 0]
    assert found.records.span.tolist() == [0x0102030405060708, 0, 0]
    assert found.records.event_name == ["deployed", "", "device.app.lifecycle"]
    assert found.mended == {module.BAD_TRACE: 1, module.BAD_SPAN: 1}


def test_records_that_cannot_be_used_are_refused() -> None:
    good = record()
    broken = [good[:-1], good + b"\x0b", good + b"\x2a\x7f", good + tagged(5, 2, b"\x0a\x09x"), b"\xff" * 12]
    bare: bytes = LogRecord(time_unix_nano=START).SerializeToString()
    broken += [bare + tagged(5, 2, tagged(6, 2, inner)) for inner in (b"\x0a\x09", tagged(1, 2, b"\x0a\x09"))]
    found = decode_logs(raw_request(good, *broken, good, record(time_unix_nano=0), record(time_unix_nano=2**63)))
    assert found.records.bodies == ["text", "text"]
    assert found.rejected == {module.INVALID: len(broken), module.NO_TIME: 1, module.FAR_TIME: 1}
    event = good + tagged(6, 2, tagged(1, 2, b"event.name") + tagged(2, 2, b"\x0a\x09x"))
    assert decode_logs(raw_request(event)).rejected == {module.INVALID: 1}
    assert decode_logs(raw_request(record(observed_time_unix_nano=5, time_unix_nano=0))).records.time_ns.tolist() == [5]


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 500), st.integers(0, 255))
def test_nothing_that_comes_breaks_it(noise: bytes, at: int, byte: int) -> None:
    good = bytearray(raw_request(record({"a": 1}), record("text", trace_id=TRACE), record('{"msg": "x"}')))
    good[at % len(good)] = byte
    for body in (noise, bytes(good), bytes(good[: at % len(good)]), raw_request(noise, noise)):
        try:
            found = decode_logs(body)
        except BadInput:
            continue
        assert len(found.records.bodies) == len(found.records.event_name) == len(found.records.time_ns)


def test_a_body_that_is_no_request() -> None:
    with pytest.raises(BadInput, match="expected an OTLP logs request in protobuf, got 2 bytes that are not"):
        decode_logs(b"\x0a\xff")
    assert not len(decode_logs(b"").records)
