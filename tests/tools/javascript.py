"""Installs the JavaScript SDK of the tests with npm, once; `python -m tests.tools.javascript` prints its folder."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

from tests.tools.collector import CACHE, Unavailable

SOURCES = Path(__file__).parents[1] / "js"
PACKAGES = ("package.json", "package-lock.json", ".npmrc")
INSTALL = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
INSTALL_S = 300


def javascript() -> Path:
    """The folder from which `node send.mjs` runs, filled if it is not there yet."""
    if not (shutil.which("npm") and shutil.which("node")):
        raise Unavailable("sending with JavaScript needs Node.js, and `npm` or `node` is not on the PATH")
    digest = hashlib.sha256(b"".join((SOURCES / name).read_bytes() for name in PACKAGES)).hexdigest()[:12]
    home = CACHE / "js" / digest
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "installed").exists():
            _install(home)
        shutil.copy(SOURCES / "send.mjs", home)
    return home


def _install(home: Path) -> None:
    for name in PACKAGES:
        shutil.copy(SOURCES / name, home)
    try:
        done = subprocess.run(INSTALL, cwd=home, capture_output=True, text=True, check=False, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{' '.join(INSTALL)} took more than {INSTALL_S} s") from None
    if done.returncode:
        raise Unavailable(f"{' '.join(INSTALL)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    (home / "installed").touch()


if __name__ == "__main__":
    print(javascript())
