"""OTLP over gRPC with real clients: what arrives, what is answered, and what bounds a client meets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from structlog.testing import capture_logs

from otel_aiops.errors import AiopsError, BadInput, ConfigError, Overloaded, StateError, StorageError, TooLarge
from otel_aiops.otlp.signal import Signal
from otel_aiops.server import endpoint, grpc_receiver
from otel_aiops.server.auth import AuthConfig, BasicConfig, BearerConfig
from otel_aiops.server.compression import inflate
from otel_aiops.server.grpc_receiver import EnforcementPolicy, GrpcConfig, KeepaliveConfig, ServerParameters
from otel_aiops.server.intake import Accepted, Received
from otel_aiops.server.receiver import Receiver
from tests.feed import Feed
from tests.server.sending import (
    DEADLINE_S,
    GOAWAY,
    MIB,
    PING,
    Http2,
    Sink,
    channel,
    export,
    in_flight,
    outcomes,
    receiving,
    retry_s,
    until,
)

BODY = Feed().gauge("memory", 1.0, 5.0).request.SerializeToString() * 50
HEALTH = "/grpc.health.v1.Health/Check"
ACK = 1
ENHANCE_YOUR_CALM = 11


def config(**settings: Any) -> GrpcConfig:
    return GrpcConfig(endpoint="127.0.0.1:0", **settings)


def refused(call: Callable[[], object]) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


class Held:
    """A message that is not sent before it is let go."""

    def __init__(self, message: bytes = BODY) -> None:
        self.message = message
        self.let_go = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        if self.let_go.wait(DEADLINE_S):
            yield self.message


@pytest.mark.parametrize("signal", Signal)
def test_every_signal_arrives_as_it_was_sent(signal: Signal) -> None:
    sink = Sink()
    with receiving(sink, grpc=config()) as receiver, channel(receiver.ports["grpc"]) as opened:
        assert export(opened, BODY, signal) == b"", "partial_success must be unset"
        assert sink.bodies == [(signal, Received(BODY, "identity", False, "grpc"))]
        (stats,) = receiver.stats()
        assert stats.accepted == {(signal, "grpc"): 1}
        assert stats.requests == {(signal, "grpc", "success"): 1}
        assert in_flight(receiver) == (0, 0)


@pytest.mark.parametrize(
    ("algorithm", "name"), [(grpc.Compression.Gzip, "gzip"), (grpc.Compression.Deflate, "deflate")]
)
def test_compressed_messages_stay_compressed(algorithm: Any, name: str) -> None:
    sink = Sink()
    with receiving(sink, grpc=config()) as receiver, channel(receiver.ports["grpc"]) as opened:
        export(opened, BODY, compression=algorithm)
    ((_, body),) = sink.bodies
    assert body.compression == name
    assert len(body.payload) < len(BODY) / 5
    assert inflate(body.payload, name) == BODY


def test_an_empty_request_is_a_request() -> None:
    sink = Sink()
    with receiving(sink, grpc=config()) as receiver, channel(receiver.ports["grpc"]) as opened:
        assert export(opened, b"") == b""
    assert [body.payload for _, body in sink.bodies] == [b""]


def test_a_call_without_a_message_is_refused() -> None:
    sink = Sink()
    with receiving(sink, grpc=config()) as receiver, channel(receiver.ports["grpc"]) as opened:
        call = opened.stream_unary(Signal.METRICS.export_method)
        error = refused(lambda: call(iter([]), timeout=DEADLINE_S))
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "expected one message, got none")
    assert not sink.bodies


def test_the_largest_message() -> None:
    sink = Sink()
    with receiving(sink, grpc=config(max_recv_msg_size_mib=1)) as receiver, channel(receiver.ports["grpc"]) as opened:
        export(opened, b"\n" * MIB)
        error = refused(lambda: export(opened, b"\n" * (MIB + 1)))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "1048577 vs. 1048576" in error.details()
        assert retry_s(error) is None, "the same message would be too large again"
        export(opened, b"")  # the connection goes on
        assert len(sink.bodies) == 2
        assert outcomes(receiver, "grpc") == {"success": 2, "refused": 1}
        assert in_flight(receiver) == (0, 0)


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_message_that_is_too_large_when_decompressed(algorithm: Any) -> None:
    def accept(signal: Signal, body: Received) -> Accepted:
        return Accepted(len(inflate(body.payload, body.compression, MIB)))

    with (
        receiving(accept, grpc=config(max_recv_msg_size_mib=1)) as receiver,
        channel(receiver.ports["grpc"]) as opened,
    ):
        export(opened, bytes(MIB), compression=algorithm)
        error = refused(lambda: export(opened, bytes(MIB + 1), compression=algorithm))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_s(error) is None


def test_partial_success() -> None:
    sink = Sink(Accepted(3, 2, "two points have no name"), Accepted(5, 0, "a warning"))
    with receiving(sink, grpc=config()) as receiver, channel(receiver.ports["grpc"]) as opened:
        answers = [grpc_answer(export(opened, BODY)) for _ in range(3)]
        (stats,) = receiver.stats()
    assert answers == [(2, "two points have no name"), (0, "a warning"), None]
    assert stats.accepted == {(Signal.METRICS, "grpc"): 9}
    assert stats.refused == {(Signal.METRICS, "grpc"): 2}


def grpc_answer(encoded: bytes) -> tuple[int, str] | None:
    response = ExportMetricsServiceResponse.FromString(encoded)
    told = response.partial_success
    return (told.rejected_data_points, told.error_message) if response.HasField("partial_success") else None


@pytest.mark.parametrize(
    ("raised", "code", "wait_s"),
    [
        (BadInput("field 3 has wire type 7"), grpc.StatusCode.INVALID_ARGUMENT, None),
        (TooLarge("body must be at most 5 bytes, got 6"), grpc.StatusCode.RESOURCE_EXHAUSTED, None),
        (Overloaded("the queue is full", retry_after_s=2.5), grpc.StatusCode.UNAVAILABLE, 2.5),
        (Overloaded("the queue is full", retry_after_s=0.1), grpc.StatusCode.UNAVAILABLE, 1.0),
        (StorageError("no space left", retry_after_s=30), grpc.StatusCode.UNAVAILABLE, 30.0),
        (StateError("the model does not fit"), grpc.StatusCode.UNAVAILABLE, None),
        (Overloaded("€" * 3000), grpc.StatusCode.UNAVAILABLE, 1.0),
        (BadInput("😀" * 3000), grpc.StatusCode.INVALID_ARGUMENT, None),
        (BadInput("a\nb\0%25\ud800"), grpc.StatusCode.INVALID_ARGUMENT, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_is_raised_becomes_a_status(raised: AiopsError, code: grpc.StatusCode, wait_s: float | None) -> None:
    raised.items = 7
    with receiving(Sink(raised), grpc=config()) as receiver, channel(receiver.ports["grpc"]) as opened:
        error = refused(lambda: export(opened, BODY))
        (stats,) = receiver.stats()
    told = str(raised).encode("utf-8", "replace").decode()
    assert (error.code(), error.details()[:200], retry_s(error)) == (code, told[:200], wait_s)
    failed = isinstance(raised, StorageError)
    assert sum(stats.failed.values()) == (7 if failed else 0)
    assert sum(stats.refused.values()) == (0 if failed else 7)


def test_a_fault_of_ours_is_retryable_and_logged() -> None:
    sink = Sink(ZeroDivisionError("secret"))
    with receiving(sink, grpc=config()) as receiver, channel(receiver.ports["grpc"]) as opened:
        with capture_logs() as logs:
            error = refused(lambda: export(opened, BODY))
        assert (error.code(), retry_s(error)) == (grpc.StatusCode.UNAVAILABLE, 5.0)
        assert "secret" not in error.details()
        assert outcomes(receiver, "grpc") == {"failure": 1}
    assert [(line["log_level"], line["transport"]) for line in logs] == [("error", "grpc")]


def test_credentials() -> None:
    auth = AuthConfig(bearertokenauth=BearerConfig(token="s3cret"))
    sink = Sink()
    with receiving(sink, grpc=config(auth=auth)) as receiver, channel(receiver.ports["grpc"]) as opened:
        for token in ("", "Bearer s3cre", "Basic czNjcmV0"):
            error = refused(partial(export, opened, BODY, token=token))
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED
            assert "s3cret" not in error.details()
        assert not sink.bodies
        export(opened, BODY, token="Bearer s3cret")
        assert opened.unary_unary(HEALTH)(b"") == b"\x08\x01", "probes have no credentials"
        assert outcomes(receiver, "grpc") == {"refused": 3, "success": 1}


def test_who_may_not_send_is_not_waited_for() -> None:
    auth = AuthConfig(basicauth=BasicConfig(username="otel", password="right"))
    held = Held()
    with receiving(Sink(), grpc=config(auth=auth)) as receiver, channel(receiver.ports["grpc"]) as opened:
        call = opened.stream_unary(Signal.LOGS.export_method)
        wrong = (("authorization", "Basic b3RlbDp3cm9uZw=="),)
        error = refused(lambda: call(iter(held), timeout=DEADLINE_S, metadata=wrong))
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        held.let_go.set()


def test_health() -> None:
    with receiving(Sink(), grpc=config()) as receiver, channel(receiver.ports["grpc"]) as opened:
        check = opened.unary_unary(HEALTH)
        for service in ("", *(signal.export_method.split("/")[1] for signal in Signal)):
            request = bytes([10, len(service)]) + service.encode() if service else b""
            assert check(request) == b"\x08\x01", service
        assert refused(lambda: check(b"\n\x01x")).code() == grpc.StatusCode.NOT_FOUND


def test_other_methods_are_unimplemented() -> None:
    with receiving(Sink(), grpc=config()) as receiver, channel(receiver.ports["grpc"]) as opened:
        call = opened.unary_unary("/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export")
        assert refused(lambda: call(b"")).code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_message_that_does_not_come_is_given_up() -> None:
    held = Held()
    sink = Sink()
    settings = config(read_timeout=0.2, max_concurrent_requests=1)
    with receiving(sink, grpc=settings) as receiver, channel(receiver.ports["grpc"]) as opened:
        call = opened.stream_unary(Signal.METRICS.export_method)
        error = refused(lambda: call(iter(held), timeout=DEADLINE_S))
        assert error.code() == grpc.StatusCode.CANCELLED, "which senders retry"
        until(lambda: in_flight(receiver) == (0, 0), "the place is free again")
        export(opened, BODY)
        held.let_go.set()
        assert outcomes(receiver, "grpc") == {"refused": 1, "success": 1}


def test_a_message_that_comes_late_is_taken_and_work_has_no_deadline() -> None:
    held = Held()
    sink = Sink()
    settings = config(read_timeout=2.0, max_concurrent_requests=1)
    with receiving(sink, grpc=settings) as receiver, channel(receiver.ports["grpc"]) as opened:
        call = opened.stream_unary(Signal.METRICS.export_method).future(iter(held), timeout=DEADLINE_S)
        until(lambda: in_flight(receiver) == (1, 0), "the call has begun")
        sink.open.clear()
        held.let_go.set()
        until(lambda: sink.bodies, "the message has come")
        assert in_flight(receiver) == (1, len(BODY))
        sink.open.set()
        assert call.result() == b""


def test_no_read_timeout() -> None:
    held = Held()
    with receiving(Sink(), grpc=config(read_timeout=0.0)) as receiver, channel(receiver.ports["grpc"]) as opened:
        names = {thread.name for thread in threading.enumerate()}
        call = opened.stream_unary(Signal.METRICS.export_method).future(iter(held), timeout=DEADLINE_S)
        until(lambda: in_flight(receiver) == (1, 0), "the call has begun")
        held.let_go.set()
        assert call.result() == b""
    assert "otlp-grpc-deadlines" not in names


def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    held = Held()
    with receiving(Sink(), grpc=config()) as receiver:
        with channel(receiver.ports["grpc"]) as opened:
            call = opened.stream_unary(Signal.METRICS.export_method).future(iter(held))
            until(lambda: in_flight(receiver) == (1, 0), "the call has begun")
        assert call.code() == grpc.StatusCode.CANCELLED
        until(lambda: in_flight(receiver) == (0, 0), "the call has ended")
        held.let_go.set()
        assert outcomes(receiver, "grpc") == {"refused": 1}


def test_no_more_than_so_many_requests_at_once() -> None:
    sink = Sink()
    sink.open.clear()
    settings = config(max_concurrent_requests=3)
    with receiving(sink, grpc=settings) as receiver, channel(receiver.ports["grpc"]) as opened:
        call = opened.unary_unary(Signal.METRICS.export_method)
        working = [call.future(BODY, timeout=DEADLINE_S) for _ in range(3)]
        until(lambda: len(sink.bodies) == 3, "all places are taken")
        for _ in range(3 * grpc_receiver.REFUSERS):
            error = refused(lambda: export(opened, BODY))
            assert (error.code(), retry_s(error)) == (grpc.StatusCode.UNAVAILABLE, 1.0)
        assert opened.unary_unary(HEALTH)(b"", timeout=DEADLINE_S) == b"\x08\x01"
        sink.open.set()
        assert [future.result() for future in working] == [b""] * 3
        export(opened, BODY)
        assert outcomes(receiver, "grpc") == {"success": 4, "refused": 12}


def test_no_more_than_so_many_bytes_at_once() -> None:
    sink = Sink()
    sink.open.clear()
    settings = config(max_recv_msg_size_mib=1, max_in_flight_mib=1)
    with receiving(sink, grpc=settings) as receiver, channel(receiver.ports["grpc"]) as opened:
        call = opened.unary_unary(Signal.METRICS.export_method)
        working = call.future(bytes(MIB), timeout=DEADLINE_S)
        until(lambda: sink.bodies, "the room is taken")
        error = refused(lambda: export(opened, b"\n"))
        assert (error.code(), retry_s(error)) == (grpc.StatusCode.UNAVAILABLE, 1.0)
        assert in_flight(receiver) == (1, MIB)
        sink.open.set()
        assert working.result() == b""
        export(opened, b"\n")


def test_one_connection_has_so_many_streams() -> None:
    sink = Sink()
    settings = config(max_concurrent_streams=2)
    with receiving(sink, grpc=settings) as receiver, channel(receiver.ports["grpc"]) as opened:
        export(opened, BODY)  # so that the client knows
        sink.bodies.clear()
        sink.open.clear()
        call = opened.unary_unary(Signal.METRICS.export_method)
        waiting = [call.future(BODY, timeout=DEADLINE_S) for _ in range(4)]
        until(lambda: len(sink.bodies) == 2, "two are in progress")
        assert in_flight(receiver)[0] == 2, "the client keeps the others back"
        with channel(receiver.ports["grpc"]) as other:
            fifth = other.unary_unary(Signal.METRICS.export_method).future(BODY, timeout=DEADLINE_S)
            until(lambda: len(sink.bodies) == 3, "another connection has its own")
            sink.open.set()
            assert fifth.result() == b""
            # gRPC may turn away a stream that comes at the end of another; senders retry that.
            assert {future.code() for future in waiting} <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}


def life(*, policy: EnforcementPolicy | None = None, read_timeout: float = 30.0, **settings: float) -> GrpcConfig:
    keepalive = KeepaliveConfig(ServerParameters(**settings), policy or EnforcementPolicy())
    return config(keepalive=keepalive, read_timeout=read_timeout)


def test_old_connections_are_sent_elsewhere() -> None:
    settings = life(max_connection_age=0.3, max_connection_age_grace=0.1)
    with receiving(Sink(), grpc=settings) as receiver, Http2(receiver.ports["grpc"]) as client:
        began_s = time.monotonic()
        assert GOAWAY in [kind for kind, _, _ in client.frames()]
        assert time.monotonic() - began_s < 5


def test_a_client_of_an_old_connection_goes_on_with_another() -> None:
    sink = Sink()
    settings = life(max_connection_age=0.1, max_connection_age_grace=5.0)
    with receiving(sink, grpc=settings) as receiver, channel(receiver.ports["grpc"]) as opened:
        states: list[Any] = []
        opened.subscribe(states.append)
        until(lambda: export(opened, BODY) == b"" and states.count(grpc.ChannelConnectivity.IDLE) > 1, "a GOAWAY")
        export(opened, BODY)
        assert outcomes(receiver, "grpc") == {"success": len(sink.bodies)}


def test_idle_connections_are_closed() -> None:
    with receiving(Sink(), grpc=life(max_connection_idle=0.2)) as receiver, Http2(receiver.ports["grpc"]) as client:
        assert GOAWAY in [kind for kind, _, _ in client.frames()]


def test_silent_clients_are_pinged_and_dropped() -> None:
    settings = life(time=0.2, timeout=0.2, policy=EnforcementPolicy(permit_without_stream=True))
    with receiving(Sink(), grpc=settings) as receiver, Http2(receiver.ports["grpc"]) as client:
        began_s = time.monotonic()
        kinds = [kind for kind, _, _ in client.frames()]  # which ends only when the server closes
        assert kinds.index(PING) < kinds.index(GOAWAY)
        assert time.monotonic() - began_s < 5


def test_a_request_ends_with_its_silent_client() -> None:
    settings = life(time=0.2, timeout=0.2, read_timeout=0.0)
    with receiving(Sink(), grpc=settings) as receiver, Http2(receiver.ports["grpc"]) as client:
        client.begin(Signal.METRICS)
        until(lambda: in_flight(receiver) == (1, 0), "the call has begun")
        until(lambda: in_flight(receiver) == (0, 0), "the call has ended", deadline_s=5)
        assert outcomes(receiver, "grpc") == {"refused": 1}


def ping_until_closed(client: Http2, *, pings: int) -> list[bytes]:
    """What GOAWAYs say to so many pings; no ping is sent before the one before it is answered."""
    told, left = [], pings
    client.send(PING, b"12345678")
    for kind, flags, payload in client.frames():
        if kind == GOAWAY:
            told.append(payload)
        elif kind == PING and flags == ACK:
            left -= 1
            if not left:
                break
            client.send(PING, b"12345678")
    return told


def test_clients_that_ping_too_often_are_dropped() -> None:
    with receiving(Sink(), grpc=config()) as receiver, Http2(receiver.ports["grpc"]) as client:
        (told,) = ping_until_closed(client, pings=1000)
    assert int.from_bytes(told[4:8], "big") == ENHANCE_YOUR_CALM
    assert told.endswith(b"too_many_pings")


def test_clients_may_be_allowed_to_ping_often() -> None:
    policy = EnforcementPolicy(min_time=0.0, permit_without_stream=True)
    settings = config(keepalive=KeepaliveConfig(enforcement_policy=policy))
    with receiving(Sink(), grpc=settings) as receiver, Http2(receiver.ports["grpc"]) as client:
        assert ping_until_closed(client, pings=3) == []


def test_stop_lets_requests_in_progress_end() -> None:
    sink = Sink()
    sink.open.clear()
    receiver = Receiver(config(), None, sink)
    receiver.bind()
    receiver.start()
    with channel(receiver.ports["grpc"]) as opened:
        working = opened.unary_unary(Signal.METRICS.export_method).future(BODY, timeout=DEADLINE_S)
        until(lambda: sink.bodies, "a request is in progress")
        stopping = threading.Thread(target=receiver.stop, args=(DEADLINE_S,))
        stopping.start()
        with channel(receiver.ports["grpc"]) as late:
            until(lambda: refused_late(late), "new connections are refused")
        sink.open.set()
        assert working.result() == b""
        stopping.join(DEADLINE_S)
        assert not stopping.is_alive()
    receiver.stop(0.0)  # again is no error


def refused_late(opened: Any) -> bool:
    try:
        opened.unary_unary(HEALTH)(b"", timeout=DEADLINE_S)
    except grpc.RpcError as error:
        return bool(error.code() == grpc.StatusCode.UNAVAILABLE)
    return False


def test_stop_cancels_what_does_not_end() -> None:
    sink = Sink()
    sink.open.clear()
    with receiving(sink, grpc=config(), grace_s=0.1) as receiver, channel(receiver.ports["grpc"]) as opened:
        working = opened.unary_unary(Signal.METRICS.export_method).future(BODY, timeout=DEADLINE_S)
        until(lambda: sink.bodies, "a request is in progress")
        receiver.stop(0.1)
        assert working.exception(DEADLINE_S).code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        sink.open.set()


def test_a_taken_port_is_refused() -> None:
    (sock,) = endpoint.bind("127.0.0.1:0", path="x")
    with sock:
        taken = f"127.0.0.1:{sock.getsockname()[1]}"
        receiver = Receiver(GrpcConfig(endpoint=taken), None, Sink())
        with pytest.raises(ConfigError, match=r"grpc.endpoint: cannot listen on .*: Address already in use"):
            receiver.bind()


def test_a_port_that_grpc_cannot_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "check_free", lambda *_, **__: None)  # taken a moment later
    (sock,) = endpoint.bind("127.0.0.1:0", path="x")
    with sock:
        receiver = Receiver(GrpcConfig(endpoint=f"127.0.0.1:{sock.getsockname()[1]}"), None, Sink())
        with pytest.raises(ConfigError, match=r"grpc.endpoint: cannot listen on 127"):
            receiver.bind()


@pytest.mark.parametrize("host", ["localhost", "[::1]", ""])
def test_other_addresses(host: str) -> None:
    try:
        endpoint.bind(f"{host}:0", path="x")[0].close()
    except ConfigError as error:
        pytest.skip(str(error))
    sink = Sink()
    with receiving(sink, grpc=GrpcConfig(endpoint=f"{host}:0")) as receiver:
        target = "127.0.0.1" if host == "" else host
        with channel(receiver.ports["grpc"], host=target) as opened:
            export(opened, BODY)
    assert len(sink.bodies) == 1


def test_every_family_of_every_address() -> None:
    found = [("0.0.0.0", 4317), ("::", 4317)]
    assert grpc_receiver._for_grpc(found) == [("::", 4317)], "which is both for gRPC"
    assert grpc_receiver._for_grpc([("127.0.0.1", 4317), ("::1", 4317)]) == [("127.0.0.1", 4317), ("::1", 4317)]


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"endpoint": "4317"}, "endpoint"),
        ({"max_recv_msg_size_mib": 0}, "max_recv_msg_size_mib"),
        ({"max_recv_msg_size_mib": 2048}, "max_recv_msg_size_mib"),
        ({"max_concurrent_streams": 0}, "max_concurrent_streams"),
        ({"max_concurrent_requests": 2**20 + 1}, "max_concurrent_requests"),
        ({"max_in_flight_mib": 63}, "max_in_flight_mib"),
        ({"read_timeout": float("nan")}, "read_timeout"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        GrpcConfig(**settings)
    assert caught.value.path == path


@pytest.mark.parametrize("name", ["max_connection_idle", "max_connection_age", "max_connection_age_grace"])
def test_lives_are_not_negative(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: must be >= 0 s, got -1"):
        ServerParameters(**{name: -1})


@pytest.mark.parametrize("name", ["time", "timeout"])
def test_keepalive_is_never_off(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: must be > 0 s, got 0"):
        ServerParameters(**{name: 0})


def test_pings_are_not_negative() -> None:
    with pytest.raises(ConfigError, match="min_time"):
        EnforcementPolicy(min_time=-1)
    assert grpc_receiver._milliseconds(1e9) == 2**31 - 1
    assert grpc_receiver._milliseconds(1e-9) == 1, "0 would be no limit"
