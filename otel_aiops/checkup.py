"""The service tests its own detection from time to time, in a child process, and says what came out."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from otel_aiops.config import Config
from otel_aiops.detect.selftest import SelfTestConfig
from otel_aiops.server.telemetry import Telemetry

log = structlog.get_logger("otel_aiops.selftest")

FIRST_AFTER_S = 180.0  # a start has other work, and a first snapshot puts the history down
NICE = 15  # how far the child steps back behind everything else on the machine
ENDED = (0, 1)  # exit codes of a test that ended: without problems, with problems
PREFIX = "otel_aiops.selftest."
SECTIONS = ("series", "align", "detection", "selftest")  # of the configuration, that the child needs
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


class Checkup:
    """Runs `otel-aiops selftest` with the live configuration every interval; any thread may ask for the newest report.

    The child has a low priority, one thread, a limit of memory (Linux) and of time. What it finds becomes metrics, and
    a line of the log when it finds problems. A test that fails is counted and logged; the report before it stays.
    `command` is how the child is started.
    """

    def __init__(
        self,
        directory: Path,
        telemetry: Telemetry,
        config: Config,
        *,
        first_after_s: float = FIRST_AFTER_S,
        command: Sequence[str] = (sys.executable, "-m", "otel_aiops", "selftest"),
    ) -> None:
        self.latest: dict[str, Any] | None = None  # replaced as a whole
        self._directory = directory
        self._telemetry = telemetry
        self._config = config
        self._first_after_s = first_after_s
        self._command = tuple(command)
        self._tests = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread = threading.Thread(target=self._loop, name="selftest", daemon=True)
        self._thread.start()

    def reload(self, config: Config) -> None:
        """The next test is of this configuration. Time counts on as before."""
        with self._changed:
            self._config = config
            self._changed.notify_all()

    def stop(self) -> None:
        """End a test that runs, and start no more; safe to call twice."""
        with self._changed:
            self._stopping = True
            if self._child is not None:
                self._child.kill()
            self._changed.notify_all()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()

    def run(self) -> None:
        """One test, here and now; returns when it has ended. Called by one thread at a time."""
        self._tests += 1
        with self._changed:
            config = self._config
        start_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="otel-aiops-") as folder:
            settings = Path(folder) / "selftest.yaml"  # JSON, which is YAML
            settings.write_text(json.dumps({name: asdict(getattr(config, name)) for name in SECTIONS}, default=list))
            answer, failure = self._ask(settings, config.selftest, Path(folder))
        if failure and not self._stopping:
            self._telemetry.add(PREFIX + "failures")
            log.error("the self-test failed", why=failure, seconds=round(time.monotonic() - start_s, 1))
        elif answer is not None:
            self._tell(answer)

    # -- the child --------------------------------------------------------------------------------------------------

    def _ask(self, settings: Path, limits: SelfTestConfig, folder: Path) -> tuple[dict[str, Any] | None, str]:
        """(what the child reports, why it does not)."""
        arguments = ["--json", "--config", settings, "--data-dir", self._directory, "--seed", str(self._tests)]
        said, complaint = folder / "said", folder / "complaint"  # files, so that a full pipe never holds it up
        with said.open("wb") as out, complaint.open("wb") as err:
            child = self._begin([*self._command, *map(str, arguments)], out, err)
            if child is None:
                return None, ""
            try:
                _hold_back(child, limits.max_memory)
                code = child.wait(limits.timeout)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                return None, f"it took longer than {limits.timeout:g} s"
            finally:
                with self._changed:
                    self._child = None
        if code not in ENDED:
            last = complaint.read_text(errors="replace").strip().rsplit("\n", 1)[-1]
            return None, f"exit code {code}: {last[:500]}" if last else f"exit code {code}"
        try:
            return dict(json.loads(said.read_bytes())), ""
        except ValueError as error:
            return None, f"expected a JSON object, got something else: {error}"

    def _begin(self, command: list[str], out: Any, err: Any) -> subprocess.Popen[bytes] | None:
        """The child, unless the service stops."""
        with self._changed:
            if self._stopping:
                return None
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env={**os.environ, **ONE_THREAD}
            )
            return self._child

    # -- what came out ----------------------------------------------------------------------------------------------

    def _tell(self, report: dict[str, Any]) -> None:
        """Metrics, the report for the API, and the log when something is wrong."""
        ended_s = time.monotonic()
        for name in {name for name, _, _ in report["metrics"]} | {PREFIX + "recall", PREFIX + "plain_recall"}:
            self._telemetry.clear(name)  # a fault that shows nowhere this time has no figure
        for name, attributes, value in report.pop("metrics"):
            self._telemetry.set(name, value, **attributes)
        self._telemetry.set(PREFIX + "duration", report["duration_s"])
        self._telemetry.watch(PREFIX + "age", lambda: time.monotonic() - ended_s)
        self.latest = report
        if report["problems"]:
            log.warning("the self-test found problems", source=report["source"], problems="; ".join(report["problems"]))
        else:
            log.info("the self-test found no problems", source=report["source"], series=report["series"])

    # -- when -------------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        begun_s = time.monotonic()
        last_s: float | None = None  # when the newest test began
        while True:
            with self._changed:
                if self._stopping:
                    return
                settings = self._config.selftest
                if last_s is not None:
                    due_s = last_s + settings.interval
                else:
                    due_s = begun_s + (self._first_after_s if settings.at_start else settings.interval)
                wait_s = due_s - time.monotonic()
                if not settings.enabled or wait_s > 0:
                    self._changed.wait(min(wait_s, threading.TIMEOUT_MAX) if settings.enabled else None)
                    continue
            last_s = time.monotonic()
            try:
                self.run()
            except Exception:  # a test that cannot even begin must not end the tests
                self._telemetry.add(PREFIX + "failures")
                log.exception("the self-test failed")


def _hold_back(child: subprocess.Popen[bytes], most_bytes: int) -> None:
    """Give everything else the way; a child that has ended already needs none."""
    try:
        os.setpriority(os.PRIO_PROCESS, child.pid, max(NICE, os.nice(0)))
        if sys.platform == "linux":
            resource.prlimit(child.pid, resource.RLIMIT_DATA, (most_bytes, most_bytes))
    except (ProcessLookupError, PermissionError):
        pass
