"""Installs what the Python services of the tests run on, once; `python -m tests.tools.python` prints where."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

from tests.tools.collector import CACHE, Unavailable

REQUIREMENTS = Path(__file__).parents[1] / "e2e" / "shop_services" / "requirements.txt"
INSTALL_S = 300


def shop_python() -> Path:
    """The `bin` of an environment of its own with the services' packages, filled if it is not there yet."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + version.encode()).hexdigest()[:12]
    home = CACHE / "shop-python" / digest
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "installed").exists():
            _run([sys.executable, "-m", "venv", str(home / "env")])
            pip = [str(home / "env" / "bin" / "pip"), "--disable-pip-version-check", "install", "--quiet"]
            _run([*pip, "--only-binary=:all:", "--require-hashes", "-r", str(REQUIREMENTS)])
            (home / "installed").touch()
    return home / "env" / "bin"


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{' '.join(command)} took more than {INSTALL_S} s") from None
    if done.returncode:
        raise Unavailable(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")


if __name__ == "__main__":
    print(shop_python())
