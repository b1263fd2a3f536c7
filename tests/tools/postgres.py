"""Finds PostgreSQL, or unpacks Debian's beside the project; nothing is installed or started."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.tools.collector import CACHE, Unavailable

PACKAGE = "postgresql"  # the version that Debian's release has
DEBIAN = "usr/lib/postgresql"


def postgres() -> Path:
    """The folder with `initdb` and `postgres`, downloaded if it is neither on this machine nor unpacked yet."""
    home = CACHE / "debian-postgresql"
    unpacked = home / "unpacked"
    found = _programs(Path("/")) or (_programs(home) if unpacked.exists() else None)
    if found:
        return found
    initdb = shutil.which("initdb")
    if initdb:
        return Path(initdb).resolve().parent
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise Unavailable("`initdb` is not on the PATH, and without apt-get PostgreSQL cannot be fetched")
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not unpacked.exists():
            _fetch(home)
            unpacked.touch()
    found = _programs(home)
    if not found:
        raise Unavailable(f"Debian's package {PACKAGE} has no initdb")
    return found


def libraries(programs: Path) -> str:
    """LD_LIBRARY_PATH for programs that were unpacked: the libraries that came with them. Empty for others."""
    home = CACHE / "debian-postgresql"
    if not programs.is_relative_to(home):
        return ""
    return ":".join(str(path) for path in sorted((home / "usr" / "lib").glob("*-linux-*")))


def _programs(root: Path) -> Path | None:
    """The newest version's."""
    found = [path.parent for path in (root / DEBIAN).glob("*/bin/initdb") if (path.parent / "postgres").exists()]
    return max(found, key=lambda path: int(path.parent.name), default=None)


def _fetch(home: Path) -> None:
    """Download the server and what of its dependencies this machine lacks, and unpack all of it."""
    print(f"fetching {PACKAGE} from Debian into {home}", file=sys.stderr, flush=True)
    packages = _wanted()
    archives = home / "archives"
    archives.mkdir(exist_ok=True)
    _run(["apt-get", "download", *packages], archives)
    for archive in sorted(archives.glob("*.deb")):
        _run(["dpkg", "-x", str(archive), str(home)], home)
    shutil.rmtree(archives)


def _wanted() -> list[str]:
    """Names and versions of the packages that `apt-get install` would take, without installing them."""
    simulated = ["apt-get", "--simulate", "--no-install-recommends", "install", PACKAGE]
    try:
        plan = _run(simulated, CACHE)
    except Unavailable:
        _run(["apt-get", "update"], CACHE)  # a fresh machine has no package lists
        plan = _run(simulated, CACHE)
    found = re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", plan, re.M)
    return [f"{name}={version}" for name, version in found]


def _run(command: list[str], directory: Path) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-1000:]}")
    return done.stdout


if __name__ == "__main__":
    print(postgres())
