"""Real servers for tests: on loopback, on free ports, with their logs, gone when the test is."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.tools import prometheus as debian
from tests.tools.collector import Unavailable, collector

PR_SET_PDEATHSIG = 1
START_S = 120.0


def require(get: Callable[[], Path]) -> Path:
    """A server's program; skips the test with the reason, or fails it when servers are required."""
    try:
        return get()
    except Unavailable as why:
        if os.environ.get("OTEL_AIOPS_REQUIRE_SERVERS") == "1":
            raise
        pytest.skip(str(why))


def _ports() -> Iterator[int]:
    """Ports in a random order, each of which no other worker of the tests is given, nor this one again and again."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = list(range(10_000 + own, 32_000, workers))
    while True:
        random.SystemRandom().shuffle(ports)
        yield from ports


_GIVEN = _ports()


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now, and that no connection is given as its own.

    Those that the kernel gives to connections are above 32767: who tries to connect to one of these again and again,
    before its server is up, may be given that very port, and is connected with itself.
    """
    while True:
        port = next(_GIVEN)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def wait_for(check: Callable[[], Any], what: str, *, timeout_s: float = START_S, every_s: float = 0.1) -> Any:
    """Ask until the answer is true; the answer."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            answer = check()
            if answer:
                return answer
        except (requests.RequestException, OSError, KeyError, IndexError) as error:
            last = error
        time.sleep(every_s)
    raise AssertionError(f"{what}: not within {timeout_s:.0f} s{f' (last: {last})' if last else ''}")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """A child process with a log file; stopped by its process id."""

    def __init__(
        self, command: list[str], log: Path, *, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.command = command
        self.log = log
        self._cwd = cwd
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, ready: Callable[[], Any]) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._env,
                cwd=self._cwd,
                preexec_fn=_die_with_parent,
            )

        def up() -> Any:
            assert self._process is not None
            if self._process.poll() is not None:
                raise AssertionError(f"{self.command[0]} ended with {self._process.returncode}:\n{self.tail()}")
            return ready()

        try:
            wait_for(up, f"{Path(self.command[0]).name} to be ready")
        except AssertionError as error:
            self.kill()
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """Ask it to end, kill it when it does not; its exit code."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.returncode

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def tail(self, lines: int = 40) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def answers(url: str) -> Callable[[], bool]:
    return lambda: requests.get(url, timeout=2).status_code == 200


@contextlib.contextmanager
def running_collector(config: Path, folder: Path, ports: dict[str, str], *, health: int) -> Iterator[Server]:
    """The Collector with a configuration file and values for its ${env:…}."""
    binary = require(collector)
    server = Server([str(binary), "--config", str(config)], folder / f"collector-{config.stem}.log", env=ports)
    server.start(answers(f"http://127.0.0.1:{health}/"))
    try:
        yield server
    finally:
        server.stop()


class Prometheus:
    """Prometheus with remote write on; scrapes what it is told to, every second or as often as it is told."""

    def __init__(
        self,
        folder: Path,
        scrape: dict[str, int] | None = None,
        *,
        rules: Path | None = None,
        alertmanager: int | None = None,
        every_s: int = 1,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        binary = require(debian.prometheus)
        jobs = "".join(
            f"  - job_name: {job}\n    honor_labels: true\n    static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n"
            for job, port in (scrape or {}).items()
        )
        config = folder / "prometheus.yml"
        loaded = f"rule_files: ['{rules}']\n" if rules else ""
        if alertmanager is not None:
            target = f"static_configs: [{{targets: ['127.0.0.1:{alertmanager}']}}]"
            loaded += f"alerting: {{alertmanagers: [{{{target}}}]}}\n"
        text = f"global: {{scrape_interval: {every_s}s, evaluation_interval: 1s}}\n{loaded}scrape_configs:\n{jobs}"
        config.write_text(text if jobs else "{}\n")
        self.server = Server(
            [
                str(binary),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--web.enable-remote-write-receiver",
            ],
            folder / "prometheus.log",
        )

    def __enter__(self) -> Prometheus:
        self.server.start(answers(f"{self.url}/-/ready"))
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.stop()

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = requests.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def names(self) -> set[str]:
        return set(requests.get(f"{self.url}/api/v1/label/__name__/values", timeout=10).json()["data"])


class Alertmanager:
    """Alertmanager with a receiver that goes nowhere, or to a webhook that is told `most` alerts of a group, or all."""

    def __init__(self, folder: Path, webhook: str = "", *, most: int = 0) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        binary = require(debian.alertmanager)
        config = folder / "alertmanager.yml"
        hooks = f"webhook_configs: [{{url: '{webhook}', send_resolved: true, max_alerts: {most}}}]" if webhook else ""
        config.write_text(
            "route: {receiver: all, group_wait: 0s, group_interval: 1s, repeat_interval: 1h}\n"
            f"receivers: [{{name: all{', ' + hooks if hooks else ''}}}]\n"
        )
        self.server = Server(
            [
                str(binary),
                f"--config.file={config}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--cluster.listen-address=",
            ],
            folder / "alertmanager.log",
            cwd=binary.parent,
        )

    def __enter__(self) -> Alertmanager:
        self.server.start(answers(f"{self.url}/-/ready"))
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.stop()


class Aiops:
    """`otel-aiops serve` as an operator runs it."""

    def __init__(self, folder: Path, config: str = "", *, scores_to: int | None = None) -> None:
        self.grpc, self.http, self.api = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.api}"
        self.data = folder / "data"
        self.config = folder / "otel-aiops.yaml"
        exporters = f"exporters: {{otlp: {{endpoint: '127.0.0.1:{scores_to}', tls: {{insecure: true}}}}}}\n"
        self.config.write_text(
            f"receivers:\n  otlp:\n    protocols:\n      grpc: {{endpoint: '127.0.0.1:{self.grpc}'}}\n"
            f"      http: {{endpoint: '127.0.0.1:{self.http}'}}\n"
            f"api: {{endpoint: '127.0.0.1:{self.api}'}}\n{exporters if scores_to else ''}{config}"
        )
        paths = ["--config", str(self.config), "--data-dir", str(self.data)]
        command = [sys.executable, "-m", "otel_aiops", "serve", *paths]
        self.server = Server(command, folder / "otel-aiops.log")

    def start(self) -> Aiops:
        self.server.start(answers(f"{self.url}/-/ready"))
        return self

    def stop(self) -> int:
        return self.server.stop()

    def __enter__(self) -> Aiops:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.server.stop()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = requests.get(f"{self.url}/api/v1/status", timeout=30).json()
        return found

    def series(self) -> list[dict[str, Any]]:
        page = requests.get(f"{self.url}/api/v1/series", params={"limit": 10000}, timeout=30).json()
        found: list[dict[str, Any]] = page["series"]
        return found

    def metric(self, name: str) -> float:
        """The sum of one of our own metrics over its labels."""
        text = requests.get(f"{self.url}/metrics", timeout=30).text
        lines = (line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
