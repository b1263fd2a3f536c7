"""A real Alertmanager beside the demo's service, where the machine has one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests

NAMES = ("alertmanager", "prometheus-alertmanager")
START_S, STOP_S = 30.0, 10.0


def program() -> Path | None:
    """The one that ALERTMANAGER names, or that is on the PATH; None where there is none."""
    named = [os.environ["ALERTMANAGER"]] if os.environ.get("ALERTMANAGER") else NAMES
    found = next(filter(None, map(shutil.which, named)), None)
    return Path(found) if found else None


class Alertmanager:
    """It tells a webhook of every alert, and of its end."""

    def __init__(self, folder: Path, program: Path, port: int, webhook: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        config = folder / "alertmanager.yml"
        config.write_text(
            "route: {receiver: otel-aiops, group_by: [incident_id], group_wait: 0s, group_interval: 1s}\n"
            f"receivers: [{{name: otel-aiops, webhook_configs: [{{url: '{webhook}', send_resolved: true}}]}}]\n"
        )
        command = [str(program), f"--config.file={config}", f"--storage.path={folder / 'alerts'}"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
        self._log = folder / "alertmanager.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=program.resolve().parent
            )

    def wait(self) -> None:
        """Return when it answers. Raises: RuntimeError with its last words when it does not."""
        ends_s = time.monotonic() + START_S
        while time.monotonic() < ends_s and self._process.poll() is None:
            with suppress(requests.RequestException):
                if requests.get(f"{self.url}/-/ready", timeout=2).status_code == 200:
                    return
            time.sleep(0.1)
        last = "\n".join(self._log.read_text(errors="replace").splitlines()[-5:])
        raise RuntimeError(f"Alertmanager did not start:\n{last}")

    def alert(self, incident: str) -> dict[str, Any] | None:
        """The alert of an incident while it fires."""
        asked = {"filter": f'incident_id="{incident}"'}
        found: list[dict[str, Any]] = requests.get(f"{self.url}/api/v2/alerts", params=asked, timeout=30).json()
        return next(iter(found), None)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def alerting(program: Path, port: int, webhook: str) -> Iterator[Alertmanager]:
    """A running one whose process and files are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="otel-aiops-demo-") as folder:
        found = Alertmanager(Path(folder), program, port, webhook)
        try:
            found.wait()
            yield found
        finally:
            found.stop()
