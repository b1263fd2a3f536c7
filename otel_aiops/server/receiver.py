"""The OTLP receiver: one intake a transport, bound before anything is served, stopped without losing a request."""

from __future__ import annotations

from collections.abc import Callable

from otel_aiops.otlp.signal import Signal
from otel_aiops.server.auth import AuthConfig, Authenticator
from otel_aiops.server.grpc_receiver import MIB, GrpcConfig, GrpcReceiver
from otel_aiops.server.grpc_receiver import PATH as GRPC_PATH
from otel_aiops.server.http_receiver import PATH as HTTP_PATH
from otel_aiops.server.http_receiver import HttpConfig, HttpReceiver
from otel_aiops.server.intake import Accept, Accepted, Intake, Received, ReceiverStats

__all__ = ["Accepted", "GrpcConfig", "HttpConfig", "Received", "Receiver", "ReceiverStats", "Signal"]


class Receiver:
    """Both transports; a transport whose configuration is None is off."""

    def __init__(self, grpc: GrpcConfig | None, http: HttpConfig | None, accept: Accept) -> None:
        self._transports: dict[str, GrpcReceiver | HttpReceiver] = {}
        self._intakes: list[Intake] = []
        if grpc:
            intake = self._intake(accept, "grpc", grpc.max_concurrent_requests, grpc.max_in_flight_mib)
            self._transports["grpc"] = GrpcReceiver(grpc, intake, _authenticator(grpc.auth, GRPC_PATH))
        if http:
            intake = self._intake(accept, "http", http.max_concurrent_requests, http.max_in_flight_mib)
            self._transports["http"] = HttpReceiver(http, intake, _authenticator(http.auth, HTTP_PATH))

    @property
    def ports(self) -> dict[str, int]:
        """The ports that were taken, by transport."""
        return {name: transport.port for name, transport in self._transports.items()}

    def bind(self) -> None:
        """Take the ports. Raises ConfigError, and then holds none."""
        try:
            for transport in self._transports.values():
                transport.bind()
        except BaseException:
            self.stop(0.0)
            raise

    def start(self) -> None:
        """Serve."""
        for transport in self._transports.values():
            transport.start()

    def stop(self, grace_s: float) -> None:
        """Take nothing new, and wait until requests in progress have ended."""
        waits: list[Callable[[], None]] = [transport.stop(grace_s) for transport in self._transports.values()]
        for wait in waits:
            wait()

    def stats(self) -> list[ReceiverStats]:
        """The counts of each transport."""
        return [intake.stats() for intake in self._intakes]

    def _intake(self, accept: Accept, transport: str, max_requests: int, max_mib: int) -> Intake:
        name = "grpc" if transport == "grpc" else "http"
        intake = Intake(accept, name, max_requests=max_requests, max_bytes=max_mib * MIB)  # type: ignore[arg-type]
        self._intakes.append(intake)
        return intake


def _authenticator(config: AuthConfig | None, path: str) -> Authenticator | None:
    return Authenticator(config, path=f"{path}.auth") if config else None
