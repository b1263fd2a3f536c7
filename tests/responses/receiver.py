"""A real HTTP server on loopback that keeps what it is sent, and answers as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """`answers` are (status, body) for the next requests, the last of them for all others; 0 hangs up."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answers: list[tuple[int, bytes]] = field(default_factory=lambda: [(200, b"ok")])
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    # (method, path) → body as JSON, or a function of what was asked, which may also give (status, body)
    routes: dict[tuple[str, str], Any] = field(default_factory=dict)


@contextmanager
def receiving() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            one = Asked(self.command, self.path, dict(self.headers), body)
            found.asked.append(one)
            time.sleep(found.delay_s)
            route = found.routes.get((self.command, self.path.split("?")[0]))
            if route is not None:
                tree = route(one) if callable(route) else route
                status, tree = tree if isinstance(tree, tuple) else (200, tree)
                said = json.dumps(tree).encode()
            else:
                status, said = found.answers.pop(0) if len(found.answers) > 1 else found.answers[0]
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # or connections wait seconds on a busy machine

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
