"""An HTTP server in a thread of its own: uvicorn on sockets that were bound before, with our certificates."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from otel_aiops.server import endpoint
from otel_aiops.server.tls import Certificates, TlsConfig, asyncio_context, names_of

START_TIMEOUT_S: Final = 20.0
STOP_SLACK_S: Final = 5.0
LARGEST_HEADERS_BYTES: Final = 64 << 10
HEADERS_S: Final = 20.0  # for the headers of a request to come, as long as gRPC's handshake may take


class HttpServer:
    """Serves one ASGI application; `bind` takes the port, so that errors come before anything runs."""

    def __init__(
        self,
        app: Any,
        address: str,
        tls: TlsConfig | None,
        *,
        path: str,
        keep_alive_s: float = 75.0,
        closing: threading.Event | None = None,
    ) -> None:
        """`closing` is set when the server takes nothing new, so that answers without end can end."""
        self.port = 0
        self._closing = closing or threading.Event()
        self._address = address
        self._path = path
        self._config = uvicorn.Config(
            app,
            http=_Hurried,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            h11_max_incomplete_event_size=LARGEST_HEADERS_BYTES,
            timeout_keep_alive=max(1, round(keep_alive_s)),
        )
        self._config.load()
        if tls:
            self._config.ssl = asyncio_context(Certificates(tls, path=f"{path}.tls"))
        self._sockets: list[Any] = []
        self._server = _Server(self._config)
        self._thread: threading.Thread | None = None

    def bind(self) -> None:
        """Take the port. Raises ConfigError."""
        self._sockets = endpoint.bind(self._address, path=f"{self._path}.endpoint")
        self.port = self._sockets[0].getsockname()[1]

    def start(self) -> None:
        """Serve; returns when connections are taken."""
        run = {"sockets": self._sockets}
        self._thread = threading.Thread(target=self._server.run, kwargs=run, name=self._path, daemon=True)
        self._thread.start()
        waited = threading.Event()
        for _ in range(int(START_TIMEOUT_S / 0.01)):
            if self._server.started or not self._thread.is_alive():
                break
            waited.wait(0.01)

    def retire(self, grace_s: float) -> None:
        """Take nothing new from now on; `stop` waits for what is in progress."""
        self._closing.set()
        self._config.timeout_graceful_shutdown = max(1, round(grace_s))
        self._server.should_exit = True

    def stop(self, grace_s: float) -> None:
        """Take nothing new, let requests in progress end, and close."""
        self.retire(grace_s)
        if self._thread:
            self._thread.join(grace_s + STOP_SLACK_S)
        for sock in self._sockets:
            sock.close()


class _Server(uvicorn.Server):
    """Cuts connections that did not end in time, which uvicorn leaves open, and lets them go of their sockets."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for one in list(self.server_state.connections):
            one.transport.abort()
        await asyncio.sleep(0)


class _Hurried(H11Protocol):
    """Tells applications the names in a client certificate, and closes connections that are slow to say what they want,
    or to end a body that was answered already.

    uvicorn waits for both without end. Bodies that are being read are up to the application.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        if (encrypted := transport.get_extra_info("ssl_object")) is not None:
            self.app_state = {**self.app_state, "peer": names_of(encrypted.getpeercert())}
        self._hurry()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._hurry()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._relax()

    def _hurry(self) -> None:
        ours, theirs = self.conn.our_state, self.conn.their_state
        if theirs is not h11.IDLE and not (ours is h11.DONE and theirs is h11.SEND_BODY):
            self._relax()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEADERS_S, self.transport.close)

    def _relax(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
