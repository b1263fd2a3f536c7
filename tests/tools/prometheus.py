"""Fetches Prometheus and amtool from Debian's packages and unpacks them beside the project; nothing is started."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

from tests.tools.collector import CACHE, Unavailable


def unpacked(package: str, program: str) -> Path:
    """The path of a program of a Debian package, downloaded if it is neither on the PATH nor unpacked yet."""
    found = shutil.which(program)
    if found:
        return Path(found)
    home = CACHE / f"debian-{package}"
    binary = home / "usr" / "bin" / program
    if binary.exists():
        return binary
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise Unavailable(f"`{program}` is not on the PATH, and without apt-get it cannot be fetched")
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            _fetch(package, home)
    if not binary.exists():
        raise Unavailable(f"Debian's package {package} has no {program}")
    return binary


def _fetch(package: str, home: Path) -> None:
    print(f"fetching {package} from Debian into {home}", file=sys.stderr, flush=True)
    if _run(["apt-get", "download", package], home):
        _run(["apt-get", "update"], home)  # a fresh machine has no package lists
        failed = _run(["apt-get", "download", package], home)
        if failed:
            raise Unavailable(f"apt-get download {package} failed: {failed[-500:]}")
    (archive,) = home.glob("*.deb")
    failed = _run(["dpkg", "-x", archive.name, "."], home)
    if failed:
        raise Unavailable(f"dpkg -x {archive.name} failed: {failed[-500:]}")
    archive.unlink()


def _run(command: list[str], directory: Path) -> str:
    """What went wrong, empty when nothing did."""
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr or "failed") if done.returncode else ""


def prometheus() -> Path:
    """The path of Prometheus."""
    return unpacked("prometheus", "prometheus")


def promtool() -> Path:
    """The path of promtool."""
    return unpacked("prometheus", "promtool")


def amtool() -> Path:
    """The path of amtool, which checks configurations of Alertmanager."""
    return unpacked("prometheus-alertmanager", "amtool")


def alertmanager() -> Path:
    """The path of Alertmanager, which finds Debian's templates in its own folder when that is where it runs."""
    found = shutil.which("alertmanager")
    if found:
        return Path(found)
    installed = unpacked("prometheus-alertmanager", "prometheus-alertmanager")
    home = CACHE / "debian-prometheus-alertmanager"
    if home not in installed.parents:
        return installed
    templates = home / "usr" / "share" / "prometheus" / "alertmanager"
    program = templates / "alertmanager"
    if not program.exists():
        fixed = f"/{templates.relative_to(home)}".encode()  # where Debian's build looks, installed or not
        here = b"." + b"/" * (len(fixed) - 1)
        part = program.with_suffix(".part")
        part.write_bytes(installed.read_bytes().replace(fixed, here))
        part.chmod(0o755)
        part.replace(program)
    return program


if __name__ == "__main__":
    print(prometheus())
