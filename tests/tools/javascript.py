"""Installs the JavaScript packages of the tests with npm, once; `python -m tests.tools.javascript` prints where."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

from tests.tools.collector import CACHE, Unavailable

TESTS = Path(__file__).parents[1]
PACKAGES = ("package.json", "package-lock.json", ".npmrc")
INSTALL = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
INSTALL_S = 300


def javascript() -> Path:
    """The folder from which `node send.mjs` runs, filled if it is not there yet."""
    return _installed(TESTS / "js", "send.mjs")


def shop_javascript() -> Path:
    """The folder from which `node basket.js` of the real shop runs, filled if it is not there yet."""
    return _installed(TESTS / "e2e" / "shop_services", "basket.js")


def grafana_schema() -> Path:
    """The folder with Grafana's types of dashboards and the TypeScript compiler, filled if it is not there yet."""
    return _installed(TESTS / "grafana_schema", "plain.d.ts")


def _installed(sources: Path, program: str) -> Path:
    if not (shutil.which("npm") and shutil.which("node")):
        raise Unavailable("the JavaScript of the tests needs Node.js, and `npm` or `node` is not on the PATH")
    digest = hashlib.sha256(b"".join((sources / name).read_bytes() for name in PACKAGES)).hexdigest()[:12]
    home = CACHE / "js" / digest
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "installed").exists():
            _install(sources, home)
        shutil.copy(sources / program, home)
    return home


def _install(sources: Path, home: Path) -> None:
    for name in PACKAGES:
        shutil.copy(sources / name, home)
    try:
        done = subprocess.run(INSTALL, cwd=home, capture_output=True, text=True, check=False, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{' '.join(INSTALL)} took more than {INSTALL_S} s") from None
    if done.returncode:
        raise Unavailable(f"{' '.join(INSTALL)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    (home / "installed").touch()


if __name__ == "__main__":
    print(javascript(), shop_javascript(), sep="\n")
