"""Builds Go programs that check what is deployed (Helm, a validator of manifests, one of Compose files), each once."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.tools.collector import CACHE, Unavailable

HELM = "helm.sh/helm/v3/cmd/helm@v3.22.0"
KUBECTL_VALIDATE = "sigs.k8s.io/kubectl-validate@v0.0.4"  # the schemas of Kubernetes are in it
OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
SERVICE_MONITOR = "monitoring.coreos.com_servicemonitors.yaml"
COMPOSE = "github.com/compose-spec/compose-go/v2/cmd@v2.16.2"  # how `docker compose` reads its files


def built(package: str) -> Path:
    """The path of a program, built by `go install` with exactly the modules that its own sums name (some minutes)."""
    path, version = package.split("@")
    home = CACHE / f"go-{path.replace('/', '-')}-{version}"
    binary = home / path.split("/")[-1]
    if binary.exists():
        return binary
    if not shutil.which("go"):
        raise Unavailable(f"building {path} needs Go, and `go` is not on the PATH")
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            _build(package, home)
    return binary


def _build(package: str, home: Path) -> None:
    print(f"building {package} into {home}; this takes some minutes once", file=sys.stderr, flush=True)
    new = home / "new"
    environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(new), "GOFLAGS": "-trimpath -buildvcs=false"}
    command = ["go", "install", "-ldflags=-s -w", package]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    for binary in new.iterdir():  # whole or not at all: the build may be killed
        binary.rename(home / binary.name)
    new.rmdir()


def helm() -> Path:
    """The path of Helm."""
    return built(HELM)


def kubectl_validate() -> Path:
    """The path of the validator of manifests."""
    return built(KUBECTL_VALIDATE)


def compose() -> Path:
    """The path of the reader of Compose files."""
    return built(COMPOSE)


def service_monitor() -> Path:
    """The path of a folder with the schema of ServiceMonitor, as its operator has it."""
    home = CACHE / f"go-{OPERATOR.split('/')[-1].replace('@', '-')}"
    schema = home / SERVICE_MONITOR
    if schema.exists():
        return home
    if not shutil.which("go"):
        raise Unavailable("fetching the schema of ServiceMonitor needs Go, and `go` is not on the PATH")
    home.mkdir(parents=True, exist_ok=True)
    command = ["go", "mod", "download", "-json", OPERATOR]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    found = Path(json.loads(done.stdout)["Dir"]) / "example" / "prometheus-operator-crd" / SERVICE_MONITOR
    new = home / f"{SERVICE_MONITOR}.{os.getpid()}"
    new.write_bytes(found.read_bytes())
    new.rename(schema)
    return home


if __name__ == "__main__":
    for get in (compose, kubectl_validate, service_monitor, helm):
        print(get(), flush=True)
