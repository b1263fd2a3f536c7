"""Finds PostgreSQL, or unpacks Debian's beside the project; nothing is installed or started."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.tools import debian
from tests.tools.collector import CACHE, Unavailable

PACKAGE = "postgresql"  # the version that Debian's release has
DEBIAN = "usr/lib/postgresql"


def postgres() -> Path:
    """The folder with `initdb` and `postgres`, downloaded if it is neither on this machine nor unpacked yet."""
    found = _programs(Path("/"))
    if found:
        return found
    initdb = shutil.which("initdb")
    if initdb:
        return Path(initdb).resolve().parent
    found = _programs(debian.unpacked(PACKAGE))
    if not found:
        raise Unavailable(f"Debian's package {PACKAGE} has no initdb")
    return found


def libraries(programs: Path) -> str:
    """LD_LIBRARY_PATH for programs that were unpacked: the libraries that came with them. Empty for others."""
    home = CACHE / f"debian-{PACKAGE}"
    return debian.libraries(home) if programs.is_relative_to(home) else ""


def _programs(root: Path) -> Path | None:
    """The newest version's."""
    found = [path.parent for path in (root / DEBIAN).glob("*/bin/initdb") if (path.parent / "postgres").exists()]
    return max(found, key=lambda path: int(path.parent.name), default=None)


if __name__ == "__main__":
    print(postgres())
