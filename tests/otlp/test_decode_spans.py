"""Decoding spans against a slow twin that walks the messages, in all spellings; what is refused and what is mended."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_aiops.errors import BadInput
from otel_aiops.otlp import decode_spans as module
from otel_aiops.otlp.decode_spans import decode_traces
from otel_aiops.otlp.spans import DecodedSpans, PeerKind, Spans
from otel_aiops.otlp.wire import MOST_FIELDS
from tests.otlp import slow_signals
from tests.otlp.scramble import scrambled, tagged

S = 10**9
START = 1_760_000_000 * S
TRACE, SPAN = bytes(range(16)), bytes(range(1, 9))

TEXTS = st.sampled_from(
    ["", "a", "orders", "redis", "10.0.0.7", "localhost", "Zähler", "GET /x", "kafka", "0", "x" * 90]
)
KEYS = st.sampled_from([*module.SPAN_KEYS, "a", "http.route", "db.system.namX", "server.addres", "net.peer.namf"])
VALUES = (
    TEXTS | st.integers(-5, 600) | st.floats(0, 1, width=32) | st.booleans() | st.sampled_from(["503", "NOT_FOUND"])
)
ATTRIBUTES = st.lists(st.tuples(KEYS, VALUES), max_size=6)
IDS = st.sampled_from([b"", bytes(8), SPAN, b"12345678", b"1234567", TRACE])
TIMES = st.sampled_from([0, START, START + 1, START + 90 * S, START - S, 2**63, START + 40 * 86_400 * S])
STATES = st.sampled_from(
    ["", "a=b", "ot=th:c", "a=1,ot=rv:123456;th:fd70a4", "ot=p:3", "ot=p:63;r:5", "ot=th:ffffffffffffff"]
)


def put(attributes: Any, values: Any) -> None:
    for key, value in values:
        pair = attributes.add(key=key)
        if isinstance(value, bool):
            pair.value.bool_value = value
        elif isinstance(value, int):
            pair.value.int_value = value
        elif isinstance(value, float):
            pair.value.double_value = value
        else:
            pair.value.string_value = value


@st.composite
def one_span(draw: Any) -> Span:
    span = Span(
        trace_id=draw(st.sampled_from([TRACE, TRACE[::-1], TRACE, b"", bytes(16), b"x"])),
        span_id=draw(IDS | st.binary(min_size=8, max_size=8)),
        parent_span_id=draw(IDS),
        trace_state=draw(STATES),
        name=draw(TEXTS),
        kind=draw(st.integers(0, 7)),  # type: ignore[arg-type]
        start_time_unix_nano=draw(TIMES),
        end_time_unix_nano=draw(TIMES),
        flags=draw(st.sampled_from([0, 257])),
    )
    put(span.attributes, draw(ATTRIBUTES))
    if draw(st.booleans()):
        span.status.code = draw(st.integers(0, 3))  # type: ignore[assignment]
        span.status.message = draw(TEXTS)
    for _ in range(draw(st.integers(0, 2))):
        event = span.events.add(name=draw(st.sampled_from(["exception", "retry", ""])), time_unix_nano=draw(TIMES))
        put(event.attributes, draw(st.lists(st.tuples(st.sampled_from(["exception.type", "x"]), TEXTS), max_size=2)))
    if draw(st.booleans()):
        span.links.add(trace_id=TRACE)
    return span


@st.composite
def requests(draw: Any) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    for _ in range(draw(st.integers(0, 2))):
        group = request.resource_spans.add()
        put(group.resource.attributes, [("service.name", draw(st.sampled_from(["cart", "pay", "otel-aiops", 5])))])
        for _ in range(draw(st.integers(0, 2))):
            scope = group.scope_spans.add()
            scope.scope.name = draw(st.sampled_from(["", "lib", "otel_aiops"]))
            scope.spans.extend(draw(st.lists(one_span(), max_size=5)))
    return request


def plain(spans: Spans) -> list[dict[str, Any]]:
    """The columns, in the words of the slow twin."""
    services = [dict(slow_signals.pairs(_resource(raw).attributes)).get("service.name") for raw in spans.resources]
    words = [*spans.words, None]
    events: list[list[Any]] = [[] for _ in range(len(spans))]
    for owner, name, time in zip(spans.event_span, spans.event_name, spans.event_ns, strict=True):
        events[owner].append((words[name], int(time)))
    return [
        {
            "service": services[spans.resource[i]],
            "trace": int(spans.trace_high[i]).to_bytes(8, "big") + int(spans.trace_low[i]).to_bytes(8, "big"),
            "span": int(spans.span[i]).to_bytes(8, "big"),
            "parent": int(spans.parent[i]),
            "name": words[spans.name[i]],
            "kind": int(spans.kind[i]),
            "start": int(spans.start_ns[i]),
            "end": int(spans.end_ns[i]),
            "error": bool(spans.error[i]),
            "exception": words[spans.exception[i]],
            "peer": (int(spans.peer_kind[i]), words[spans.peer[i]]),
            "weight": pytest.approx(float(spans.weight[i])),
            "events": events[i],
        }
        for i in range(len(spans))
    ]


def _resource(raw: bytes) -> Any:
    return Resource.FromString(raw)


@settings(max_examples=60, deadline=None)
@given(requests(), st.integers(0, 2**32))
def test_spans_are_as_the_slow_twin_reads_them(request: Any, seed: int) -> None:
    for body in (request.SerializeToString(), scrambled(request, random.Random(seed))):
        decoded = decode_traces(body)
        twin = slow_signals.spans(body)
        assert plain(decoded.spans) == twin
        sent = sum(len(scope.spans) for group in request.resource_spans for scope in group.scope_spans)
        own = decoded.mended.get("our own output that came back", 0)
        assert len(twin) + sum(decoded.rejected.values()) + own == sent


@settings(max_examples=4, deadline=None)
@given(st.lists(one_span(), min_size=60, max_size=90), st.integers(0, 2**32), st.integers(20, 80))
def test_many_spans_in_several_chunks_are_the_same(spans: Any, seed: int, chunk: int) -> None:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.extend(spans)
    body = scrambled(request, random.Random(seed))
    whole = decode_traces(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        parts = decode_traces(body)
    assert plain(whole.spans) == plain(parts.spans) == slow_signals.spans(body)
    assert whole.rejected == parts.rejected and whole.mended == parts.mended


def span(**fields: Any) -> Span:
    """A span that can be used, but for what is said."""
    attributes = fields.pop("attributes", {})
    good = {"trace_id": TRACE, "span_id": SPAN, "name": "GET", "start_time_unix_nano": START}
    one = Span(**{**good, "end_time_unix_nano": START + S, **fields})
    put(one.attributes, attributes.items())
    return one


def body_of(*spans: Span, service: str = "cart", scope: str = "lib") -> bytes:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    put(group.resource.attributes, [("service.name", service)])
    inner = group.scope_spans.add()
    inner.scope.name = scope
    inner.spans.extend(spans)
    encoded: bytes = request.SerializeToString()
    return encoded


def decoded(*spans: Span) -> DecodedSpans:
    return decode_traces(body_of(*spans))


def peer(kind: int = 3, **attributes: Any) -> str:
    spans = decoded(span(kind=kind, attributes={k.replace("__", "."): v for k, v in attributes.items()})).spans
    return spans.words[spans.peer[0]] if spans.peer[0] >= 0 else ""


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"trace_id": b""}, module.BAD_TRACE),
        ({"trace_id": TRACE[:8]}, module.BAD_TRACE),
        ({"trace_id": bytes(16)}, module.BAD_TRACE),
        ({"span_id": b""}, module.BAD_SPAN),
        ({"span_id": bytes(8)}, module.BAD_SPAN),
        ({"start_time_unix_nano": 0, "end_time_unix_nano": 0}, module.NO_TIME),
        ({"end_time_unix_nano": 2**64 - 1}, module.FAR_TIME),
        ({"start_time_unix_nano": 5}, module.LONG_SPAN),
    ],
)
def test_a_span_that_cannot_be_used_is_refused(fields: dict[str, Any], reason: str) -> None:
    bad = span(name="never seen", attributes={"error.type": "unseen", "db.system": "unseen"}, **{"kind": 3, **fields})
    bad.events.add(name="unseen", time_unix_nano=START)
    found = decoded(span(), bad, span(name="POST"))
    assert found.rejected == {reason: 1} and len(found.spans) == 2
    assert found.spans.words == ("GET", "POST") and not len(found.spans.event_span)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"end_time_unix_nano": START - 1}, module.BACKWARDS),
        ({"end_time_unix_nano": 0}, module.ONE_TIME),
        ({"start_time_unix_nano": 0, "end_time_unix_nano": START}, module.ONE_TIME),
        ({"parent_span_id": b"abc"}, module.BAD_PARENT),
        ({"name": ""}, module.NO_NAME),
        ({"kind": 9}, module.BAD_KIND),
        ({"attributes": {"SampleRate": -4}}, module.ABSURD_WEIGHT),
        ({"attributes": {"sampling.probability": 0.0}}, module.ABSURD_WEIGHT),
        ({"trace_state": "ot=th:ffffffffffffff"}, module.ABSURD_WEIGHT),
        ({"events": [Span.Event(name="x")]}, module.BAD_EVENT),
        ({"name": "x" * 600}, "a name is longer than 512 bytes: it was cut"),
    ],
)
def test_what_can_be_mended_is_and_is_counted(fields: dict[str, Any], reason: str) -> None:
    found = decoded(span(), span(**fields), span(trace_id=b"", **fields) if "trace_id" not in fields else span())
    assert found.mended == {reason: 1} and len(found.spans) == 2
    second = found.spans
    assert second.start_ns[1] == START and second.end_ns[1] in (START, START + S)
    assert second.parent[1] == 0 and second.weight[1] == 1 and (second.event_ns == START).all()


def test_errors_follow_the_conventions_where_no_status_is_set() -> None:
    cases = [
        (2, {"http.response.status_code": 500}, True),
        (2, {"http.response.status_code": 404}, False),
        (3, {"http.response.status_code": 404}, True),
        (3, {"http.status_code": "404"}, True),
        (1, {"http.status_code": 404}, False),
        (2, {"rpc.grpc.status_code": 5}, False),
        (2, {"rpc.grpc.status_code": 13}, True),
        (3, {"rpc.grpc.status_code": 5}, True),
        (3, {"rpc.response.status_code": "OK"}, False),
        (2, {"rpc.response.status_code": "UNAVAILABLE"}, True),
        (2, {"rpc.response.status_code": "NOT_FOUND"}, False),
        (3, {"rpc.response.status_code": "a word of its own"}, False),
        (1, {"error.type": "Boom"}, True),
        (1, {}, False),
    ]
    found = decoded(*(span(kind=kind, attributes=about) for kind, about, _ in cases)).spans
    assert found.error.tolist() == [wrong for _, _, wrong in cases]
    fine, broken = span(kind=2, attributes={"error.type": "Boom"}), span(kind=2)
    fine.status.code, broken.status.code = 1, 2  # type: ignore[assignment]
    assert decoded(fine, broken).spans.error.tolist() == [False, True]


def test_the_last_exception_event_names_the_exception() -> None:
    one = span()
    for name, kind in (("exception", "First"), ("exception", "Last"), ("retry", "Not"), ("exception", "")):
        put(one.events.add(name=name, time_unix_nano=START + 5).attributes, [("exception.type", kind)])
    both = span(attributes={"error.type": "Said"})
    both.events.extend(one.events)
    found = decoded(one, both).spans
    assert [found.words[k] for k in found.exception] == ["Last", "Said"]
    assert found.event_span.tolist() == [0] * 4 + [1] * 4
    assert [found.words[k] for k in found.event_name[:4]] == ["exception", "exception", "retry", "exception"]


def test_peers() -> None:
    assert peer(db__system="postgresql", db__name="orders", server__address="db-1") == "postgresql:orders"
    assert peer(db__system__name="redis", db__namespace="0", server__address="cart-cache") == "redis:cart-cache"
    assert peer(db__system="redis", server__address="127.0.0.1", server__port=6379) == "redis:127.0.0.1:6379"
    assert peer(db__system="h2") == "h2" and peer(2, db__system="h2") == ""
    assert peer(4, messaging__system="kafka", messaging__destination__name="payments") == "kafka:payments"
    assert peer(5, messaging__system="kafka", messaging__destination__name="payments") == "kafka:payments"
    assert peer(4, messaging__system="rabbitmq", messaging__destination__name="amq.gen-Xa42") == "rabbitmq:amq.gen-*"
    passing = {"messaging.destination.temporary": True}
    assert peer(4, messaging__system="nats", messaging__destination__name="a", **passing) == "nats"
    assert peer(peer__service="inventory", server__address="x") == "inventory" and peer(2, peer__service="cart") == ""
    assert peer(server__address="inventory", server__port=8080) == "inventory"
    assert peer(net__peer__name="localhost", net__peer__port=8080) == "localhost:8080"
    assert peer(1, server__address="inventory") == "" and peer(2, server__address="me") == ""
    assert peer(http__url="https://user:secret@pay.example.com:8443/a/b?token=x") == "pay.example.com"
    assert peer(http__url="http://127.0.0.1:3001/stock/17") == "127.0.0.1:3001" and peer(http__url="/relative") == ""
    assert peer(http__url="http://[::1]:3001?x") == "[::1]:3001" and peer(url__full="http://a") == "a"
    assert peer(http__url="http://" + "h" * 500) == "h" * 121
    assert peer(peer__service="p" * 500) == "p" * 200
    assert peer(peer__service="queue-3f2a9c1e-0d7b-4c33-9f2e-1a2b3c4d5e6f") == "queue-*"
    assert (
        peer(peer__service="account-123456789012/jobs") == "account-*/jobs" and peer(peer__service="facade") == "facade"
    )
    kinds = decoded(span(kind=3, attributes={"db.system": "x"}), span(kind=1)).spans.peer_kind.tolist()
    assert kinds == [PeerKind.DATABASE, PeerKind.NONE]


def test_weights() -> None:
    states = ["ot=th:c", "ot=th:0", "x=y, ot=rv:00aa;th:8", "ot=p:4;r:60", "other=th:c", "ot=p:63", "ot=th:zz", ""]
    found = decoded(*(span(trace_state=state) for state in states)).spans
    assert found.weight.tolist() == [4, 1, 2, 16, 1, 1, 1, 1]
    rates = decoded(
        span(attributes={"SampleRate": 20}),
        span(attributes={"SampleRate": "5"}),
        span(attributes={"sampling.probability": 0.25}),
        span(attributes={"sampling.probability": 0.25, "SampleRate": 8}),
        span(attributes={"sampling.probability": 0.25}, trace_state="ot=th:8"),
    ).spans
    assert rates.weight.tolist() == [20, 5, 4, 8, 2]


def test_our_own_spans_are_left_out_and_counted() -> None:
    for body in (body_of(span(), service="otel-aiops"), body_of(span(), scope="otel_aiops")):
        found = decode_traces(body + body_of(span()))
        assert len(found.spans) == 1 and not found.rejected
        assert found.mended == {"our own output that came back": 1}


def test_equal_resources_are_one() -> None:
    found = decode_traces(body_of(span()) + body_of(span(), service="pay") + body_of(span()))
    assert found.spans.resource.tolist() == [0, 1, 0] and len(found.spans.resources) == 2


def test_a_resource_that_cannot_be_read_refuses_its_spans() -> None:
    group = tagged(1, 2, b"\x0a\x05ab") + tagged(2, 2, tagged(2, 2, span().SerializeToString()))
    found = decode_traces(tagged(1, 2, group) + body_of(span()))
    assert found.rejected == {"resource or scope is not valid protobuf": 1} and len(found.spans) == 1


def raw_request(*raws: bytes) -> bytes:
    return tagged(1, 2, tagged(2, 2, b"".join(tagged(2, 2, raw) for raw in raws)))


def test_broken_spans_do_not_harm_the_others() -> None:
    good = span(attributes={"db.system": "mysql"}).SerializeToString()
    broken = [
        good[:-1],
        good + b"\x0b",  # a group
        good + b"\x4a\x7f",  # attributes that go beyond the span
        good + tagged(9, 2, b"\x0a\x09abc"),  # a key that goes beyond its pair
        good + tagged(9, 2, tagged(1, 2, b"db.system") + tagged(2, 2, b"\x0a\x09x")),  # such a value
        good + tagged(9, 2, tagged(1, 2, b"db.system") + tagged(2, 2, b"\x18\x80")),  # an integer without end
        good + tagged(15, 2, b"\x18"),
        good + tagged(11, 2, b"\x12\x05a"),
        good + tagged(11, 2, tagged(2, 2, b"exception") + tagged(3, 2, b"\x0a\x09a")),
        good + tagged(9, 2, b"") * MOST_FIELDS,
        b"\xff" * 12,
    ]
    found = decode_traces(raw_request(good, *broken, good))
    assert len(found.spans) == 2 and found.rejected == {module.INVALID: len(broken)}
    found = decode_traces(raw_request(good, b"", good + tagged(9, 2, b"")))
    assert len(found.spans) == 2 and found.rejected == {module.BAD_TRACE: 1}


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 500), st.integers(0, 255))
def test_nothing_that_comes_breaks_it(noise: bytes, at: int, byte: int) -> None:
    good = bytearray(body_of(span(attributes={"http.url": "http://a/b"}), span(kind=3, attributes={"db.system": "x"})))
    good[at % len(good)] = byte
    for body in (noise, bytes(good), bytes(good[: at % len(good)]), raw_request(noise, noise)):
        try:
            found = decode_traces(body)
        except BadInput:
            continue
        assert len({len(getattr(found.spans, name)) for name in ("span", "name", "peer", "weight", "error")}) == 1


def test_a_body_that_is_no_request() -> None:
    with pytest.raises(BadInput, match="expected an OTLP traces request in protobuf, got 2 bytes that are not"):
        decode_traces(b"\x0a\xff")
    empty = decode_traces(b"")
    assert not len(empty.spans) and not empty.rejected and not empty.mended


def test_names_that_are_not_utf8_and_names_without_end() -> None:
    one = span(name="abc").SerializeToString().replace(b"abc", b"a\xffc")
    found = decode_traces(raw_request(one, span(name="é" * 400).SerializeToString()))
    assert found.spans.words[:2] == ("a\ufffdc", "é" * 256)
    assert sorted(found.mended.values()) == [1, 1]


def test_a_million_names_become_one() -> None:
    found = decoded(*(span(name=f"GET /{i}", span_id=(i + 1).to_bytes(8, "big")) for i in range(8_500)))
    assert len(found.spans) == 8_500 and len(found.spans.words) == 8_193
    names = [found.spans.words[k] for k in found.spans.name[[0, 8_191, 8_192, -1]]]
    assert names == ["GET /0", "GET /8191", "(other)", "(other)"]
    assert list(found.mended.values()) == [8_500 - 8_192]


def test_a_trace_of_100_000_spans() -> None:
    raw = span(attributes={"server.address": "a"}, kind=3).SerializeToString()
    found = decode_traces(raw_request(*[raw] * 100_000)).spans
    assert len(found) == 100_000 and found.words == ("GET", "a") and not np.diff(found.start_ns).any()


def test_no_python_runs_for_each_span() -> None:
    raw = span(attributes={"server.address": "a", "http.response.status_code": 500}, kind=3).SerializeToString()

    def calls(count: int) -> int:
        """How many functions are called for so many spans."""
        body, called = raw_request(*[raw] * count), [0]

        def note(frame: object, event: str, argument: object) -> None:
            called[0] += event in ("call", "c_call")

        sys.setprofile(note)
        try:
            decode_traces(body)
        finally:
            sys.setprofile(None)
        return called[0]

    calls(10)
    assert calls(4_000) < 1.05 * calls(1_000), "the same whatever comes"
