"""`otel-aiops serve` in a process of its own, for demos and benchmarks."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

START_TIMEOUT_S = 60.0


class Service:
    """`otel-aiops serve` in a process of its own, on free ports of loopback; `more` is added to its configuration."""

    def __init__(self, folder: Path, *options: str, more: str = "") -> None:
        self.grpc, self.http, self.api = (free_port() for _ in range(3))
        self.url = f"http://127.0.0.1:{self.api}"
        self._log = folder / "otel-aiops.log"
        self.config, self.data = folder / "otel-aiops.yaml", folder / "data"
        self.config.write_text(
            f"receivers:\n  otlp:\n    protocols:\n      grpc: {{endpoint: '127.0.0.1:{self.grpc}'}}\n"
            f"      http: {{endpoint: '127.0.0.1:{self.http}'}}\napi: {{endpoint: '127.0.0.1:{self.api}'}}\n{more}"
        )
        files = ["-c", str(self.config), "-d", str(self.data)]
        command = [sys.executable, "-m", "otel_aiops", "serve", *files, *options]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def wait(self) -> None:
        """Return when it takes telemetry. Raises: RuntimeError with its last words when it does not."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if requests.get(f"{self.url}/-/ready", timeout=2).status_code == 200:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.1)
        last = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"the service did not start:\n{last}")

    def get(self, path: str) -> Any:
        return requests.get(f"{self.url}{path}", timeout=60).json()

    def incidents(self) -> list[dict[str, Any]]:
        """The incidents that it knows; none where it does not know the word."""
        answer = requests.get(f"{self.url}/api/v1/incidents", timeout=60)
        found: list[dict[str, Any]] = [] if answer.status_code == 404 else answer.json()["incidents"]
        return found

    def settle(self) -> None:
        """Wait until what was sent is scored."""
        while self.get("/api/v1/status")["log"]["queue_bodies"]:
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def running(more: str = "") -> Iterator[Service]:
    """A running service whose process and files are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="otel-aiops-demo-") as folder:
        service = Service(Path(folder), more=more)
        try:
            yield service
        finally:
            service.stop()


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
