"""Unpacks Debian's packages, with what of their dependencies this machine lacks, beside the project; starts nothing."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.tools.collector import CACHE, Unavailable


def unpacked(*packages: str) -> Path:
    """The folder that is the root of what was unpacked, downloaded if it is not there yet. Raises: Unavailable."""
    home = CACHE / f"debian-{packages[0]}"
    done = home / "unpacked"
    if done.exists():
        return home
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise Unavailable(f"without apt-get {packages[0]} cannot be fetched")
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _fetch(packages, home)
            done.touch()
    return home


def libraries(home: Path) -> str:
    """LD_LIBRARY_PATH for programs that were unpacked there: the libraries that came with them."""
    roots = sorted((home / "usr" / "lib").glob("*-linux-*"))
    below = sorted(
        {path.parent for root in roots for path in root.glob("*/lib*.so*")}
    )  # some have a folder of their own
    return ":".join(map(str, (*roots, *below)))


def _fetch(packages: tuple[str, ...], home: Path) -> None:
    print(f"fetching {packages[0]} from Debian into {home}", file=sys.stderr, flush=True)
    wanted = _wanted(packages)
    archives = home / "archives"
    archives.mkdir(exist_ok=True)
    _run(["apt-get", "download", *wanted], archives)
    for archive in sorted(archives.glob("*.deb")):
        _run(["dpkg", "-x", str(archive), str(home)], home)
    shutil.rmtree(archives)


def _wanted(packages: tuple[str, ...]) -> list[str]:
    """Names and versions of the packages that `apt-get install` would take, without installing them."""
    simulated = ["apt-get", "--simulate", "--no-install-recommends", "install", *packages]
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
        raise Unavailable(f"{' '.join(command)[:500]} failed:\n{(done.stdout + done.stderr)[-1000:]}")
    return done.stdout
