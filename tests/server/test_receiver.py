"""Both transports together: they start and stop as one."""

from __future__ import annotations

import grpc
import pytest

from otel_aiops.errors import ConfigError
from otel_aiops.otlp.signal import Signal
from otel_aiops.server import endpoint
from otel_aiops.server.auth import AuthConfig, BearerConfig
from otel_aiops.server.grpc_receiver import GrpcConfig
from otel_aiops.server.http_receiver import PROTOBUF, HttpConfig
from otel_aiops.server.receiver import Receiver
from tests.server.sending import DEADLINE_S, Sink, channel, export, receiving
from tests.server.test_http_receiver import post


def test_both_transports_have_their_own_counts() -> None:
    sink = Sink()
    over_grpc, over_http = GrpcConfig(endpoint="127.0.0.1:0"), HttpConfig(endpoint="127.0.0.1:0")
    with receiving(sink, grpc=over_grpc, http=over_http) as receiver:
        assert set(receiver.ports) == {"grpc", "http"}
        with channel(receiver.ports["grpc"]) as opened:
            export(opened, b"\n\x00", Signal.LOGS)
        post(receiver, b"\n\x00", content_type=PROTOBUF)
        counts = [dict(stats.accepted) for stats in receiver.stats()]
    assert counts == [{(Signal.LOGS, "grpc"): 1}, {(Signal.METRICS, "http"): 1}]
    assert [body.transport for _, body in sink.bodies] == ["grpc", "http"]


def test_nothing_is_kept_when_one_port_is_taken() -> None:
    (taken,) = endpoint.bind("127.0.0.1:0", path="x")
    (free,) = endpoint.bind("127.0.0.1:0", path="x")
    over_grpc = GrpcConfig(endpoint=f"127.0.0.1:{free.getsockname()[1]}")
    over_http = HttpConfig(endpoint=f"127.0.0.1:{taken.getsockname()[1]}")
    free.close()
    receiver = Receiver(over_grpc, over_http, Sink())
    with taken, pytest.raises(ConfigError, match=r"receivers.otlp.protocols.http.endpoint: cannot listen on"):
        receiver.bind()
    endpoint.check_free(over_grpc.endpoint, path="x")
    receiver.stop(0.0)


def test_a_port_that_was_bound_but_never_served_is_given_back() -> None:
    sink = Sink()
    receiver = Receiver(GrpcConfig(endpoint="127.0.0.1:0"), HttpConfig(endpoint="127.0.0.1:0"), sink)
    receiver.bind()
    ports = receiver.ports
    with channel(ports["grpc"]) as opened:
        early = opened.unary_unary(Signal.LOGS.export_method).future(b"", timeout=DEADLINE_S, wait_for_ready=False)
        receiver.stop(0.0)
        assert early.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), "which senders retry"
    for port in ports.values():
        endpoint.check_free(f"127.0.0.1:{port}", path="x")
    assert not sink.bodies


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_errors_have_the_path_of_their_transport(transport: str) -> None:
    auth = AuthConfig(bearertokenauth=BearerConfig(filename="/nowhere/tokens"))
    over_grpc = GrpcConfig(auth=auth) if transport == "grpc" else None
    over_http = HttpConfig(auth=auth) if transport == "http" else None
    with pytest.raises(ConfigError) as caught:
        Receiver(over_grpc, over_http, Sink())
    assert caught.value.path == f"receivers.otlp.protocols.{transport}.auth.bearertokenauth.filename"


def test_a_receiver_that_never_ran_may_be_stopped() -> None:
    receiver = Receiver(GrpcConfig(endpoint="127.0.0.1:0"), HttpConfig(endpoint="127.0.0.1:0"), Sink())
    receiver.stop(0.0)
    assert receiver.ports == {"grpc": 0, "http": 0}
