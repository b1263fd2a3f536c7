"""Builds the OpenTelemetry Collector of the tests with ocb, once; `python -m tests.tools.collector` prints its path."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

MANIFEST = Path(__file__).with_name("builder.yaml")
CACHE = Path(__file__).parents[2] / ".cache"
BUILDER = "go.opentelemetry.io/collector/cmd/builder@v0.159.0"


class Unavailable(Exception):
    """A server cannot be had on this machine; the message says why."""


def collector() -> Path:
    """The path of the Collector, built if it is not there yet (five to ten minutes on two cores)."""
    digest = hashlib.sha256(MANIFEST.read_bytes()).hexdigest()[:12]
    home = CACHE / f"otelcol-{digest}"
    binary = home / "otelcol-aiops"
    if binary.exists():
        return binary
    if not shutil.which("go"):
        raise Unavailable("building the Collector needs Go, and `go` is not on the PATH")
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            _build(home, binary)
    return binary


def _build(home: Path, binary: Path) -> None:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(home), "GOFLAGS": "-trimpath -buildvcs=false"}
    print(f"building the Collector into {home}; this takes some minutes once", file=sys.stderr, flush=True)
    _run(["go", "install", BUILDER], home, environment)
    (home / "builder.yaml").write_bytes(MANIFEST.read_bytes())
    _run([str(home / "builder"), "--config", "builder.yaml", "--ldflags=-s -w"], home, environment)
    (home / "_build" / "otelcol-aiops").rename(binary)
    shutil.rmtree(home / "_build")


def _run(command: list[str], directory: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")


if __name__ == "__main__":
    print(collector())
