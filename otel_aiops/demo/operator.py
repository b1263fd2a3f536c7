"""An operator: types commands of the product, asks its API, and waits while telemetry goes on; all of it is shown."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import requests
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from otel_aiops.demo.service import Service
from otel_aiops.shop.queues import STEP_S, STEPS_A_DAY, STEPS_AN_HOUR, Queues

PATIENCE_S = 900.0  # a retraining has the lowest priority: on a busy machine it waits for everybody
STILL_S = 5.0  # of waiting, after which it is said that it goes on
PAUSE_S = 0.05  # between two steps of telemetry while something is waited for
MOST_STEPS = 6 * STEPS_AN_HOUR  # of a request
MARGIN = "    "
WRAPPED: Any = {"subsequent_indent": "  ", "replace_whitespace": False, "break_long_words": False}


class Operator:
    """Somebody at a terminal beside a service, and the queues that report to it."""

    def __init__(self, console: Console, service: Service, queues: Queues) -> None:
        self.console, self.service, self.queues = console, service, queues
        self._session = requests.Session()
        self._width = max(80, console.width) - len(MARGIN)

    # -- telemetry ----------------------------------------------------------------------------------------------------

    def send(self, steps: int, **odd: float) -> None:
        """The next steps of the queues, over OTLP."""
        headers = {"Content-Type": "application/x-protobuf"}
        url = f"http://127.0.0.1:{self.service.http}/v1/metrics"
        self._session.post(url, self.queues.request(steps, **odd), headers=headers, timeout=60).raise_for_status()

    def days(self, count: float) -> None:
        """So many days until the end of an hour; all of it is on the disk afterwards."""
        steps = round(count * STEPS_A_DAY)
        left = steps + (-self.queues.step - steps) % STEPS_AN_HOUR
        while left:
            now = min(left, MOST_STEPS)
            self.send(now)
            left -= now
        self.wait(self._on_disk, "all to be scored and on the disk")

    def _on_disk(self) -> bool:
        status = self.get("status")
        scored = status["event_time_unix_s"] >= self.queues.now_s - STEP_S  # what is taken from the queue is not yet
        return scored and not status["log"]["queue_bodies"] and not status["log"]["rows_waiting_bytes"]

    # -- waiting ------------------------------------------------------------------------------------------------------

    def wait(self, check: Callable[[], Any], what: str, *, still: Callable[[], str] = lambda: "") -> Any:
        """Ask until the answer is true, and say now and then where it stands. Raises: RuntimeError."""
        began_s = said_s = time.monotonic()
        while not (found := check()):
            now_s = time.monotonic()
            if now_s - began_s > PATIENCE_S:
                raise RuntimeError(f"expected {what} within {PATIENCE_S:g} s, it did not come")
            if now_s - said_s > STILL_S:
                said_s = now_s
                self.say(f"… {still() or f'waiting for {what}'} ({now_s - began_s:.0f} s)")
            time.sleep(PAUSE_S)
        return found

    def until(self, check: Callable[[], Any], what: str, *, odd: Mapping[str, float] | None = None) -> Any:
        """The same while time goes on for the queues."""

        def on() -> Any:
            self.send(1, **(odd or {}))
            return check()

        return self.wait(on, what)

    # -- asking and telling -------------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """What the API answers. Raises: RequestException."""
        answer = self._session.get(f"{self.service.url}/api/v1/{path}", timeout=60)
        answer.raise_for_status()
        return answer.json()

    def order(self, **asked: str) -> None:
        """Order something of the rollout over the API. Raises: RequestException."""
        body = {"who": os.environ.get("USER", "you"), **asked}
        self._session.post(f"{self.service.url}/api/v1/rollout", json=body, timeout=60).raise_for_status()

    def type(self, *words: str, files: bool = False, code: int = 0, config: str = "") -> str:
        """Type a command, shown without the options that say where files and service are; what it prints.

        Raises: RuntimeError with its words when it ends with another exit code.
        """
        self.show_typed(*words)
        return self.run(*words, files=files, code=code, config=config)

    def run(
        self,
        *words: str,
        files: bool = False,
        code: int = 0,
        config: str = "",
        meanwhile: Callable[[], None] | None = None,
    ) -> str:
        """What a command prints; `meanwhile` is called while it runs. Raises: RuntimeError."""
        env = {"USER": "you", **os.environ, "COLUMNS": str(self._width)}
        command = [sys.executable, "-m", "otel_aiops", *words, *self.options(words, files=files, config=config)]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as complaints:
            child = subprocess.Popen(command, stdout=out, stderr=complaints, stdin=subprocess.DEVNULL, env=env)
            try:
                while True:
                    if meanwhile is not None:
                        meanwhile()
                    try:
                        child.wait(10 * PAUSE_S)
                        break
                    except subprocess.TimeoutExpired:
                        continue
            finally:
                child.kill()
                child.wait()
            told, wrong = (_text(file) for file in (out, complaints))
        if child.returncode != code:
            raise RuntimeError(f"{shlex.join(words)}: expected exit code {code}, got {child.returncode}\n{wrong}{told}")
        return told

    def options(self, words: Sequence[str], *, files: bool, config: str = "") -> list[str]:
        """Where a command finds what it is about."""
        paths = ["--config", config or str(self.service.config), "--data-dir", str(self.service.data)]
        asks = ["--url", self.service.url] if not files or words[:2] == ("lifecycle", "run") else []
        return [*(paths if files else []), *asks]

    def show_typed(self, *words: str) -> None:
        """Show a command as one would type it."""
        self.console.print(f"  [bold]$ otel-aiops {escape(shlex.join(words))}[/]", soft_wrap=True)

    def say(self, *lines: str) -> None:
        """Print lines below a command, broken where they are too long."""
        for line in lines:
            for part in textwrap.wrap(line.rstrip(), self._width, **WRAPPED) or [""]:
                self.console.print(f"{MARGIN}{part}", soft_wrap=True, markup=False)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table."""
        table = Table(*columns, box=SIMPLE_HEAD)
        for row in rows:
            table.add_row(*row)
        plain = Console(width=self._width, color_system=None, file=io.StringIO())
        with plain.capture() as shown:
            plain.print(table)
        self.show(shown.get())

    def show(self, text: str, *, most: int = 40) -> None:
        """Print what a command said, without empty lines."""
        self.say(*[line for line in text.splitlines() if line.strip()][:most])

    def head(self, text: str) -> None:
        """Begin a chapter."""
        self.console.print(f"\n[bold cyan]{escape(text)}[/]", soft_wrap=True)


def _text(file: Any) -> str:
    file.seek(0)
    text: str = file.read().decode("utf-8", "replace")
    return text
